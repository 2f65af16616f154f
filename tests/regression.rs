//! What once went wrong, each as the smallest thing that showed it.

mod daemon;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use daemon::{Daemon, id_of, reachable};

/// Anyone may handle tokens of their own; uid 33 may only check.
const SELF_SERVICE: &str = r#"
[[policy]]
name = "self service"
peer = "*"
allow = ["issue", "show:own", "list:own", "revoke:own"]
max_ttl = "1h"
"#;

const CHECKERS: &str = r#"
[[policy]]
name = "checkers"
peer = { user = 33 }
allow = ["validate"]
"#;

/// The first characters of an id, and the same with another last one: those of no token.
fn prefixes(id: &str) -> (String, String) {
    let (start, last) = id[..14].split_at(13);
    (format!("{start}{last}"), format!("{start}{}", if last == "0" { "1" } else { "0" }))
}

/// `revoke` looked prefixes up before it asked policy, and told who may revoke only its own which tokens there are not.
#[test]
#[ignore = "needs root"]
fn root_who_may_not_revoke_a_token_is_not_told_whether_it_exists() {
    let daemon = Daemon::start_with(&format!("{CHECKERS}{SELF_SERVICE}"));
    let id = id_of(&daemon.issue(&["t"]));
    let (there, not_there) = prefixes(&id);
    let no_such_id = format!("{not_there}{}", &id[14..]);
    let own = daemon.ctl_as(34, "", &["issue", "mine", "--kind", "session", "--ttl", "1h"]).exits(0).line();
    for command in ["revoke", "show"] {
        for handle in [&id, &there, &not_there, &no_such_id] {
            let ran = daemon.ctl_as(34, "", &[command, handle]).exits(77);
            assert!(ran.stderr.contains("not permitted"), "{command} {handle}: {}", ran.stderr);
        }
    }
    daemon.ctl_as(34, "", &["revoke", &id_of(&own)]).exits(0);
    let denials = daemon.ctl(&["--json", "audit", "--uid", "34", "--event", "deny"]).exits(0).stdout;
    assert!(denials.contains("revoke"), "{denials}");

    let daemon = Daemon::start_with(CHECKERS);
    let (there, not_there) = prefixes(&id_of(&daemon.issue(&["t"])));
    for uid in [33, 35] {
        for handle in [&there, &not_there] {
            let ran = daemon.ctl_as(uid, "", &["revoke", handle]).exits(77);
            assert!(ran.stderr.contains("not permitted"), "{}", ran.stderr);
        }
    }
}

/// A cgroup in the hierarchy that the daemon reads, removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    /// None where the tests may not make any.
    fn new(name: &str) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let v1 = PathBuf::from("/sys/fs/cgroup/systemd");
        let root = if own.contains("name=systemd:/\n") && v1.is_dir() {
            v1
        } else {
            ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
                .map(PathBuf::from)
                .into_iter()
                .find(|root| root.join("cgroup.procs").exists() && own.contains("0::/\n"))?
        };
        let path = root.join(name);
        fs::create_dir(&path).ok().map(|()| Self(path))
    }

    /// Runs bearerctl in it, as this user.
    fn ctl(&self, daemon: &Daemon, uid: u32, arguments: &str) -> std::process::Output {
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec setpriv --reuid {uid} --regid {uid} --clear-groups {} --socket {} {arguments}",
            self.0.display(),
            reachable(env!("CARGO_BIN_EXE_bearerctl")).display(),
            daemon.socket().display(),
        );
        Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output().unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The root of a container, and whatever uid it took, owned what the host's user of that uid owns.
#[test]
#[ignore = "needs root"]
fn root_in_a_container_a_uid_is_not_the_hosts_user() {
    let Some(container) = Cgroup::new("lxc.payload.regression") else {
        eprintln!("skipped: no cgroup can be made here");
        return;
    };
    let daemon = Daemon::start_with(SELF_SERVICE);
    let id = id_of(&daemon.issue(&["t"]));
    let listed = container.ctl(&daemon, 0, "--json list");
    assert_eq!(String::from_utf8_lossy(&listed.stdout).trim(), r#"{"tokens":[],"next":null}"#);
    assert_eq!(container.ctl(&daemon, 0, &format!("revoke {id}")).status.code(), Some(77));
    assert_eq!(container.ctl(&daemon, 0, "issue x --kind session --ttl 1h --subject root").status.code(), Some(77));
    for uid in [0, 33] {
        let issued = container.ctl(&daemon, uid, "--json issue x --kind session --ttl 1h");
        let issued: serde_json::Value = serde_json::from_slice(&issued.stdout).unwrap();
        assert_eq!(issued["subject"], format!("uid:{uid}@lxc-regression"));
        // Its own is its own, to it alone.
        let id = issued["id"].as_str().unwrap();
        daemon.ctl_as(33, "", &["revoke", id]).exits(77);
        assert_eq!(container.ctl(&daemon, uid, &format!("revoke {id}")).status.code(), Some(0));
    }
}

/// Two daemons that found no store at the same time went on with each other's unfinished file and log.
#[test]
fn one_daemon_starts_at_a_time() {
    let mut daemon = Daemon::place("");
    fs::DirBuilder::new().mode(0o700).create(daemon.path("state")).unwrap();
    let other = fs::File::open(daemon.path("state")).unwrap();
    other.lock().unwrap();
    let (status, stderr) = daemon.refuses();
    assert_eq!(status, 77, "{stderr}");
    assert!(!daemon.path("key/master.key").exists() && !daemon.audit_log().exists());
    drop(other);
    daemon.run();
}

/// Somebody following the audit log held each stop up for the whole of the drain.
#[test]
fn who_follows_does_not_hold_the_stop_up() {
    let mut daemon = Daemon::start();
    let mut follower =
        daemon.ctl_command(&["audit", "--follow"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = follower.stdout.take().unwrap();
    let (told, heard) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut said = [0; 1];
        let _ = told.send(stdout.read_exact(&mut said).is_ok());
        stdout
    });
    // It follows from where the log ends when it begins: once it has printed a line it waits for the next.
    while heard.recv_timeout(Duration::from_millis(200)).is_err() {
        daemon.issue(&["t"]);
    }
    let _stdout = reader.join().unwrap();
    let begun = Instant::now();
    daemon.stop();
    let took = begun.elapsed();
    follower.kill().unwrap();
    follower.wait().unwrap();
    assert!(!daemon.said().contains("cut off"), "{}", daemon.said());
    assert!(took < Duration::from_secs(4), "the stop took {took:?}");
}

/// The directory of the log was taken as it was: anyone could take the trail away.
#[test]
fn a_log_directory_that_anyone_can_write_is_refused() {
    let mut daemon = Daemon::start();
    daemon.stop();
    fs::set_permissions(daemon.path("log"), fs::Permissions::from_mode(0o777)).unwrap();
    let (status, stderr) = daemon.refuses();
    assert!(status == 77 && stderr.contains("chmod"), "{status}: {stderr}");
    fs::set_permissions(daemon.path("log"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::rename(daemon.path("log"), daemon.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", daemon.path("log")).unwrap();
    daemon.run();
}

/// Listings and look-ups were first come, first served over all users: a page of root's took half a minute, and what
/// others issued meanwhile stood for `uid:33`.
#[test]
#[ignore = "needs root"]
fn root_a_queue_of_one_users_requests_is_not_in_anothers_way() {
    // Listings on many connections, as many as may be in flight, read by nobody.
    const FLOOD: &str = r#"
        my ($path, $connections, $each) = @ARGV;
        my @held;
        $SIG{PIPE} = 'IGNORE';
        for (1 .. $connections) {
            socket(my $socket, PF_UNIX, SOCK_STREAM, 0) or die;
            connect($socket, sockaddr_un($path)) or die;
            syswrite($socket, pack('C4', 11, 0, 0, 0) . "bearerd\0" . pack('C3', 1, 1, 0));
            sysread($socket, my $answer, 64);
            $socket->blocking(0);
            syswrite($socket, join '', map { pack('VC*', 14, $_, 5, (0) x 10, 1, 0) } 1 .. $each);
            push @held, $socket;
        }
        $| = 1;
        print "sent\n";
        <STDIN>;
    "#;
    let daemon = Daemon::start_with(SELF_SERVICE);
    for i in 0..20 {
        daemon.issue(&[&format!("t{i}")]);
    }
    let mut flood = Command::new("setpriv")
        .args(["--reuid", "34", "--regid", "34", "--clear-groups", "perl", "-MSocket", "-MIO::Handle", "-e", FLOOD])
        .arg(daemon.socket())
        .args(["400", "120"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 4];
    flood.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    let begun = Instant::now();
    daemon.ctl(&["list", "--limit", "1"]).exits(0);
    let waited = begun.elapsed();
    let issued = daemon.ctl_as(33, "", &["--json", "issue", "x", "--kind", "session", "--ttl", "1h"]).exits(0).json();
    flood.kill().unwrap();
    flood.wait().unwrap();
    assert_eq!(issued["subject"], "www-data");
    assert!(waited < Duration::from_secs(5), "a listing took {waited:?}");
}
