//! I7: one uid can't starve another, nor the audit, nor the disk. Needs root, to be several users.

mod daemon;

use std::io::Read;
use std::process::{Command, Stdio};

use daemon::{Daemon, PATIENCE, reachable};

const POLICY: &str = r#"
[[policy]]
name = "checkers"
peer = { user = 33 }
allow = ["validate"]

[[policy]]
name = "people"
peer = { user = 34 }
allow = ["issue", "show:own", "list:own", "revoke:own"]
scopes = ["repo:*"]
max_ttl = "1h"

[limits]
tokens_per_uid = 5
issue_per_uid = "8/1h"
"#;

/// Opens connections as another user and holds them until it is dropped.
struct Holder(std::process::Child);

impl Holder {
    fn new(daemon: &Daemon, uid: u32, connections: usize) -> Self {
        // Perl is on every Debian, and readable by everyone.
        const SCRIPT: &str = r#"
            my ($path, $count) = @ARGV;
            my @held;
            $SIG{PIPE} = 'IGNORE';
            for (1 .. $count) {
                socket(my $socket, PF_UNIX, SOCK_STREAM, 0) or die;
                connect($socket, sockaddr_un($path)) or next;
                syswrite($socket, pack('C4', 11, 0, 0, 0) . "bearerd\0" . pack('C3', 1, 1, 0));
                sysread($socket, my $answer, 64);
                push @held, $socket;
            }
            $| = 1;
            print "held\n";
            <STDIN>;
        "#;
        let id = uid.to_string();
        let mut child = Command::new("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--clear-groups", "perl", "-MSocket", "-e", SCRIPT])
            .arg(daemon.socket())
            .arg(connections.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut said).expect("the holder holds");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root"]
fn root_policy_and_limits_hold_for_each_user() {
    let daemon = Daemon::start_with(POLICY);
    let token = daemon.issue(&["t", "--scope", "repo:read"]);
    daemon.ctl_as(33, &token, &["validate"]).exits(0);
    // Default deny: another user may do nothing, and is told nothing.
    for arguments in [&["validate"][..], &["issue", "x"], &["list"], &["status"], &["audit"], &["clock", "reset"]] {
        let ran = daemon.ctl_as(35, &token, arguments).exits(77);
        assert!(ran.stderr.contains("not permitted") && !ran.stderr.contains("checkers"), "{}", ran.stderr);
    }
    daemon.ctl_as(33, "", &["issue", "x"]).exits(77);
    // Who names no kind gets the one that policy allows, and what was tried before that is nobody's denial.
    let by_default = daemon.ctl_as(34, "", &["--json", "issue", "laptop", "--scope", "repo:read"]).exits(0).json();
    assert_eq!((&by_default["kind"], &by_default["ttl"]), (&"session".into(), &"15m".into()), "{by_default}");
    daemon.ctl_as(34, "", &["revoke", by_default["id"].as_str().unwrap()]).exits(0);
    assert_eq!(daemon.ctl(&["--json", "audit", "--uid", "34", "--event", "deny"]).exits(0).stdout, "");
    daemon.ctl_as(34, "", &["issue", "laptop", "--kind", "machine", "--scope", "repo:read"]).exits(77);
    daemon.ctl_as(34, "", &["issue", "laptop", "--scope", "repo:read", "--ttl", "30d"]).exits(77);
    assert_eq!(daemon.ctl(&["--json", "issue", "full"]).exits(0).json()["kind"], "machine");
    // Only within the rule: subject, kind, scope and ttl.
    let own = daemon
        .ctl_as(34, "", &["issue", "mine", "--kind", "session", "--scope", "repo:write", "--ttl", "1h"])
        .exits(0)
        .line();
    for refused in [
        &["issue", "x", "--kind", "machine", "--ttl", "1h"][..],
        &["issue", "x", "--kind", "session", "--ttl", "2h"],
        &["issue", "x", "--kind", "session", "--scope", "admin"],
        &["issue", "x", "--kind", "session", "--subject", "root"],
    ] {
        daemon.ctl_as(34, "", refused).exits(77);
    }
    // :own is one's own and nobody else's.
    let id = daemon::id_of(&token);
    let own_id = daemon::id_of(&own);
    daemon.ctl_as(34, "", &["show", &own_id]).exits(0);
    daemon.ctl_as(34, "", &["show", &id]).exits(77);
    daemon.ctl_as(34, "", &["revoke", &id]).exits(77);
    let listed = daemon.ctl_as(34, "", &["--json", "list", "--state", "active"]).exits(0).json();
    assert_eq!(listed["tokens"].as_array().unwrap().len(), 1);
    // All or nothing: one that is not its own spoils the whole request.
    daemon.ctl_as(34, "", &["revoke", &own_id, &id]).exits(77);
    daemon.ctl_with(&own, &["validate"]).exits(0);
    // Quotas, named in the refusal.
    for i in 0..4 {
        daemon.ctl_as(34, "", &["issue", &format!("n{i}"), "--kind", "session", "--ttl", "1h"]).exits(0);
    }
    let over = daemon.ctl_as(34, "", &["issue", "over", "--kind", "session", "--ttl", "1h"]).exits(77);
    assert!(over.stderr.contains("tokens_per_uid"), "{}", over.stderr);
    daemon.ctl_as(34, "", &["revoke", &own_id]).exits(0);
    daemon.ctl_as(34, "", &["issue", "room", "--kind", "session", "--ttl", "1h"]).exits(0);
    let mut last = daemon.ctl_as(34, "", &["issue", "again", "--kind", "session", "--ttl", "1h"]);
    for _ in 0..8 {
        last = daemon.ctl_as(34, "", &["issue", "again", "--kind", "session", "--ttl", "1h"]);
    }
    assert!(last.stderr.contains("issue_per_uid"), "{}", last.stderr);
    // What would have been needed is the administrator's to see.
    let trail = daemon.ctl(&["--json", "audit", "--uid", "34", "--event", "deny"]).exits(0).stdout;
    assert!(trail.contains("not_permitted") && trail.contains("people"), "{trail}");
    // Whoever holds a token may end it, without any rule.
    daemon.ctl_as(35, &token, &["revoke", "--token-file", "-"]).exits(0);
    daemon.ctl_with(&token, &["validate"]).exits(1);
}

#[test]
#[ignore = "needs root"]
fn root_one_user_at_its_limits_does_not_keep_others_out() {
    let daemon = Daemon::start_with(&format!("{POLICY}\n"));
    let token = daemon.issue(&["t"]);
    // A user without a rule takes all that it can; so does one with a rule.
    let _ruleless = Holder::new(&daemon, 40, 200);
    let _ruled = Holder::new(&daemon, 34, 600);
    daemon.ctl_as(33, &token, &["validate"]).exits(0);
    daemon.ctl_as(41, &token, &["validate"]).exits(77);
    let status = daemon.ctl(&["--json", "status"]).exits(0).json();
    let now = status["connections"]["now"].as_u64().unwrap();
    assert!((520..=530).contains(&now), "{now} connections: 512 and 8 were to be held");

    // It floods refusals: the log stays bounded, and others' lines get through.
    let script = reachable(env!("CARGO_BIN_EXE_bearerctl"));
    let id = "41";
    let flood = format!(
        "for i in $(seq 300); do echo rubbish$i | {} --socket {} validate --scope s$i >/dev/null 2>&1; done; true",
        script.display(),
        daemon.socket().display()
    );
    let status =
        Command::new("setpriv").args(["--reuid", id, "--regid", id, "--clear-groups", "sh", "-c", &flood]).status();
    assert!(status.unwrap().success());
    daemon.ctl_as(33, &token, &["validate"]).exits(0);
    let lines = daemon.trail().into_iter().filter(|line| line["peer"]["uid"] == 41).count();
    assert!(lines < 100, "{lines} lines of a flood");
    let begun = std::time::Instant::now();
    while !daemon.trail().iter().any(|line| line["event"] == "use" && line["peer"]["uid"] == 33) {
        assert!(begun.elapsed() < PATIENCE);
    }
}
