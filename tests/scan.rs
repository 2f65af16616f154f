//! `bearerctl scan` against a real daemon: what is found, whether it is live and whose, and its end (docs/json.md, "scan").

mod daemon;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bearerd::token::{IdSource, Kind, Token, new_secret};
use daemon::{Daemon, Ran, id_of};
use serde_json::{Value, json};

/// A token that no daemon made.
fn foreign() -> String {
    let id = IdSource::default().next(bearerd::time::wall_now());
    let token = Token { prefix: "brd".parse().unwrap(), kind: Kind::Machine, id, secret: new_secret() };
    token.reveal().to_string()
}

/// A tree of files beside the daemon's own.
struct Tree(PathBuf);

impl Tree {
    fn new(daemon: &Daemon) -> Self {
        let path = daemon.path("tree");
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

fn row<'a>(report: &'a Value, path: &str) -> &'a Value {
    let rows = report["found"].as_array().unwrap();
    rows.iter().find(|row| row["path"] == path).unwrap_or_else(|| panic!("{path} is not in {report}"))
}

/// I3: nothing of a secret is said.
#[track_caller]
fn keeps(ran: &Ran, tokens: &[&str]) {
    for token in tokens {
        let secret = token.rsplit('_').next().unwrap();
        for part in [&secret[..16], &secret[16..32], &secret[33..]] {
            assert!(!ran.stdout.contains(part) && !ran.stderr.contains(part), "{}{}", ran.stdout, ran.stderr);
        }
    }
}

#[test]
fn what_is_found_is_told_by_state_and_owner_and_ended() {
    let daemon = Daemon::start();
    let tree = Tree::new(&daemon);
    let deploy = daemon.issue(&["deploy", "--subject", "ci", "--scope", "deploy", "--max-uses", "1"]);
    let old = daemon.issue(&["old", "--subject", "alice"]);
    daemon.ctl(&["revoke", &id_of(&old)]).exits(0);
    let bait = daemon.issue(&["bait", "--kind", "canary"]);
    let stranger = foreign();
    let env = tree.write("app/.env", format!("# x\nexport TOKEN='{deploy}'\nOTHER={deploy}\n"));
    let log = tree.write("app/log/today", format!("GET /?token={old}&x\n"));
    let wiki = tree.write("wiki.md", format!("{bait}\n"));
    let binary = tree.write("core", [&[0u8; 3000][..], stranger.as_bytes(), &[0xFF; 10]].concat());
    tree.write("plain", "brdm_01M844DZG0FAY828T5CY4TQKFF\n");
    let all = [deploy.as_str(), &old, &bait, &stranger];

    let ran = daemon.ctl(&["scan", tree.name(), "--json"]).exits(1);
    keeps(&ran, &all);
    let report = ran.json();
    let head = |token: &str| token.rsplit_once('_').unwrap().0.to_owned();
    let expected = json!({
        "head": head(&deploy), "id": id_of(&deploy), "kind": "machine", "source": "file", "path": env, "line": 2,
        "offset": 18, "at": null, "count": 2, "state": "active", "live": true, "subject": "ci", "name": "deploy",
        "revoked": null,
    });
    assert_eq!(*row(&report, &env), expected);
    assert_eq!(row(&report, &log)["state"], "revoked");
    assert_eq!(row(&report, &log)["live"], false);
    assert_eq!(row(&report, &wiki)["state"], "canary");
    assert_eq!(
        (&row(&report, &binary)["state"], &row(&report, &binary)["line"], &row(&report, &binary)["offset"]),
        (&json!("unknown"), &Value::Null, &json!(3000))
    );
    assert_eq!((&report["found"].as_array().unwrap().len(), &report["files"]), (&4, &json!(5)));
    assert_eq!((&report["daemon"], &report["unreadable_count"]), (&json!("answered"), &json!(0)));

    // What people see says the same, and where.
    let ran = daemon.ctl(&["scan", tree.name()]).exits(1);
    keeps(&ran, &all);
    assert!(
        ran.stdout.contains(&format!("{env}:2: {} active, deploy of ci, 2 times\n", head(&deploy))),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains(&format!("{binary} (byte 3000): {} unknown\n", head(&stranger))), "{}", ran.stdout);
    assert!(ran.stderr.contains("4 tokens, 1 live, in 4 places of 5 files"), "{}", ran.stderr);
    let live = daemon.ctl(&["scan", tree.name(), "--live"]).exits(1);
    assert_eq!(live.stdout.lines().count(), 1, "{}", live.stdout);

    // Nobody can be asked here, and nothing was ended for that.
    let ran = daemon.ctl(&["scan", tree.name(), "--revoke"]).exits(64);
    assert!(ran.stderr.contains("--yes") && ran.stdout.is_empty(), "{}", ran.stderr);
    daemon.ctl_with(&deploy, &["validate", "--peek"]).exits(0);

    let ran = daemon.ctl(&["scan", tree.name(), "--revoke", "--yes", "--reason", "in the tree", "--json"]).exits(1);
    keeps(&ran, &all);
    let report = ran.json();
    for (path, revoked) in [(&env, true), (&log, false), (&wiki, false), (&binary, false)] {
        assert_eq!(row(&report, path)["revoked"], revoked, "{path}");
    }
    let verdict = daemon.ctl_with(&deploy, &["validate", "--json"]).exits(1).json();
    assert_eq!((&verdict["reason"], &verdict["revoked_reason"]), (&json!("revoked"), &json!("in the tree")));
    let bait_now = daemon.ctl(&["show", &id_of(&bait), "--json"]).exits(0).json();
    assert_eq!(bait_now["state"], "canary");

    // Found all the same, and nothing left to do.
    let ran = daemon.ctl(&["scan", tree.name(), "--revoke", "--yes"]).exits(1);
    assert!(ran.stderr.contains("nothing to revoke"), "{}", ran.stderr);
    let ran = daemon.ctl(&["scan", tree.name(), "--live"]).exits(0);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("No live tokens in 5 files"), "{}", ran.stderr);

    // Asking spent none of its one use (it was still active), is in the log with its note, and raised no alert.
    let trail = daemon.trail();
    assert!(trail.iter().any(|line| line["event"] == "use" && line["note"] == "peek: found by bearerctl scan"));
    assert!(!trail.iter().any(|line| line["event"] == "canary"), "bait was shown to the daemon");
}

#[test]
fn without_a_daemon_finds_are_finds() {
    let daemon = Daemon::place("");
    let tree = Tree::new(&daemon);
    let token = foreign();
    tree.write("a", &token);
    let ran = daemon.ctl(&["scan", tree.name(), "--json"]).exits(1);
    keeps(&ran, &[&token]);
    let report = ran.json();
    assert_eq!((&report["daemon"], &report["found"][0]["state"]), (&json!("unreachable"), &Value::Null));
    let ran = daemon.ctl(&["scan", tree.name()]).exits(1);
    assert!(ran.stderr.contains("Whether they are live is not known"), "{}", ran.stderr);
    // What needs the daemon says so before anything is read.
    for needs in [&["--live"][..], &["--revoke", "--yes"]] {
        let ran = daemon.ctl(&[&["scan", tree.name()], needs].concat()).exits(69);
        assert!(ran.stdout.is_empty(), "{}", ran.stdout);
    }
    // Where nothing is found nobody is asked.
    tree.write("a", "nothing");
    let ran = daemon.ctl(&["scan", tree.name()]).exits(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", "No tokens in 1 file, 7 B.\n"));
    assert_eq!(daemon.ctl(&["scan", tree.name(), "--json"]).exits(0).json()["daemon"], "not_asked");
}

#[test]
fn standard_input_is_read_as_a_stream() {
    let daemon = Daemon::place("");
    let token = foreign();
    let mut text = "filler of a long stream\n".repeat(40_000);
    text.push_str(&format!("+key = \"{token}\"\n-key = \"{token}\"\n"));
    text.push_str(&"more\n".repeat(100_000));
    let ran = daemon.ctl_with(&text, &["scan", "-", "--json"]).exits(1);
    keeps(&ran, &[&token]);
    let report = ran.json();
    let row = &report["found"][0];
    assert_eq!((&row["source"], &row["path"], &row["line"]), (&json!("stdin"), &Value::Null, &json!(40_001)));
    assert_eq!((&row["count"], &report["bytes"]), (&json!(2), &json!(text.len())));
    let ran = daemon.ctl_with(&text, &["scan", "-"]).exits(1);
    assert!(ran.stdout.starts_with("(standard input):40001: "), "{}", ran.stdout);
    daemon.ctl_with("", &["scan", "-"]).exits(0);
    daemon.ctl(&["scan"]).exits(64);
    daemon.ctl(&["scan", "x", "--reason", "y"]).exits(64);
    daemon.ctl(&["scan", &token]).exits(64);
}

#[test]
fn what_cant_be_read_is_named_and_counted() {
    let daemon = Daemon::place("");
    let tree = Tree::new(&daemon);
    let token = foreign();
    let clean = tree.write("clean", "x");
    let fifo = tree.0.join("fifo").display().to_string();
    nix::unistd::mkfifo(Path::new(&fifo), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let absent = tree.0.join("absent").display().to_string();
    let ran = daemon.ctl(&["scan", &clean, &fifo, &absent]).exits(74);
    assert_eq!(ran.stderr.matches("can't read").count(), 2, "{}", ran.stderr);
    assert!(ran.stderr.contains(&fifo) && ran.stderr.contains("scan - < FILE") && ran.stderr.contains(&absent));
    // A find goes before that.
    let dirty = tree.write("dirty", &token);
    let ran = daemon.ctl(&["scan", &dirty, &absent, "--json"]).exits(1);
    assert_eq!(ran.json()["unreadable"], json!([{"path": absent, "reason": "No such file or directory (os error 2)"}]));
    // However many there are, few lines are said of them.
    let missing: Vec<String> = (0..100).map(|n| format!("{absent}{n}")).collect();
    let words: Vec<&str> = std::iter::once("scan").chain(missing.iter().map(String::as_str)).collect();
    let ran = daemon.ctl(&words).exits(74);
    assert!(ran.stderr.contains("can't read 80 more") && ran.stderr.lines().count() < 25, "{}", ran.stderr);
    assert_eq!(daemon.ctl(&[&words[..], &["--json"]].concat()).exits(74).json()["unreadable_count"], 100);
}

#[test]
fn links_lead_out_only_from_the_command_line() {
    let daemon = Daemon::place("");
    let tree = Tree::new(&daemon);
    let token = foreign();
    let outside = daemon.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), &token).unwrap();
    symlink(&outside, tree.0.join("link")).unwrap();
    symlink(outside.join("secret"), tree.0.join("file")).unwrap();
    let ran = daemon.ctl(&["scan", tree.name(), "--json"]).exits(0);
    assert_eq!((&ran.json()["skipped"], &ran.json()["files"]), (&json!(2), &json!(0)));
    for named in ["link", "file", "link/"] {
        daemon.ctl(&["scan", tree.0.join(named).to_str().unwrap()]).exits(1);
    }
}

/// The boundaries of buffers, UTF-16, files that are mostly holes, and names.
#[test]
fn forms_and_lengths_make_no_difference() {
    let daemon = Daemon::place("");
    let tree = Tree::new(&daemon);
    let token = foreign();
    let mut bytes = vec![b'.'; 3 * 1024 * 1024];
    let mut count = 0;
    for at in (256 * 1024 - 200..bytes.len() - 200).step_by(65_536 + 7) {
        bytes[at..at + token.len()].copy_from_slice(token.as_bytes());
        count += 1;
    }
    let large = tree.write("large", &bytes);
    let wide: Vec<u8> = format!("\u{FEFF}Token: {token}\r\n").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let wide = tree.write("wide.txt", &wide);
    let sparse = tree.write("sparse", "");
    let file = fs::File::options().write(true).open(&sparse).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, token.as_bytes(), 4 * 1024 * 1024).unwrap();
    let named = foreign();
    tree.write(&format!("{named}.bak"), "x");
    let ran = daemon.ctl(&["scan", tree.name(), "--json"]).exits(1);
    keeps(&ran, &[&token, &named]);
    let report = ran.json();
    assert_eq!(row(&report, &large)["count"], count);
    assert_eq!((&row(&report, &wide)["offset"], &row(&report, &wide)["line"]), (&json!(16), &Value::Null));
    assert_eq!(row(&report, &sparse)["offset"], 4 * 1024 * 1024);
    let head = named.rsplit_once('_').unwrap().0;
    let shown = tree.0.join(format!("{head}_….bak")).display().to_string();
    assert_eq!((&row(&report, &shown)["source"], &row(&report, &shown)["head"]), (&json!("name"), &json!(head)));
}

/// A journalctl that prints this and ends so, first in PATH.
fn with_journalctl(daemon: &Daemon, script: &str, arguments: &[&str]) -> Ran {
    let bin = daemon.path("bin");
    let _ = fs::remove_dir_all(&bin);
    fs::create_dir(&bin).unwrap();
    if !script.is_empty() {
        fs::write(bin.join("journalctl"), format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(bin.join("journalctl"), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = daemon.ctl_command(arguments);
    let path = if script.is_empty() { bin.display().to_string() } else { format!("{}:/usr/bin:/bin", bin.display()) };
    let output = command.env("PATH", path).stdin(Stdio::null()).output().unwrap();
    Ran {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn the_journal_is_read_through_journalctl() {
    let daemon = Daemon::place("");
    let token = foreign();
    let export = daemon.path("export");
    let noise = "MESSAGE=nothing here\n_PID=1\n".repeat(20_000);
    let text = format!(
        "__CURSOR=a\n__REALTIME_TIMESTAMP=1700000000000000\n{noise}\n\
         __CURSOR=b\n__REALTIME_TIMESTAMP=1700000001000000\n_CMDLINE=curl -H Bearer:{token}\n\n"
    );
    fs::write(&export, text).unwrap();
    let script = format!("echo \"$@\" > {}; cat {}", daemon.path("asked").display(), export.display());
    let ran = with_journalctl(&daemon, &script, &["scan", "--journal", "--since", "2026-11-01T00:00:00Z", "--json"]);
    let ran = ran.exits(1);
    keeps(&ran, &[&token]);
    let row = &ran.json()["found"][0];
    assert_eq!((&row["source"], &row["at"]), (&json!("journal"), &json!("2023-11-14T22:13:21.000000Z")));
    let asked = fs::read_to_string(daemon.path("asked")).unwrap();
    assert_eq!(asked.trim(), "--no-pager --all --output=export --since=@1793491200");

    // A journal that is not there, may not be read, or breaks off is not one without tokens.
    for (script, why) in [
        ("", "there is no journalctl"),
        ("echo 'Failed to open files: no' >&2; exit 1", "Failed to open files: no"),
        ("echo 'No journal files were found.' >&2", "No journal files were found."),
        ("seq 100000 >&2; exit 3", "exit status: 3"),
    ] {
        let ran = with_journalctl(&daemon, script, &["scan", "--journal"]).exits(74);
        assert!(ran.stderr.contains("can't read (journal)") && ran.stderr.contains(why), "{}", ran.stderr);
        assert!(ran.stderr.len() < 6000, "{}", ran.stderr.len());
    }
    with_journalctl(&daemon, "true", &["scan", "--journal"]).exits(0);
}

/// A question on a terminal: what is typed decides.
#[test]
fn a_person_is_asked_before_anything_is_ended() {
    let daemon = Daemon::start();
    let tree = Tree::new(&daemon);
    let token = daemon.issue(&["deploy"]);
    tree.write("a", &token);
    let answer = |typed: &[u8]| {
        let pty = nix::pty::openpty(None, None).unwrap();
        let mut user = fs::File::from(pty.master);
        let mut command: Command = daemon.ctl_command(&["scan", tree.name(), "--revoke"]);
        let terminal = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut child = command.stdin(terminal()).stderr(terminal()).stdout(Stdio::piped()).spawn().unwrap();
        drop((command, pty.slave));
        let mut screen = Vec::new();
        let mut piece = [0; 4096];
        while !String::from_utf8_lossy(&screen).contains("[y/N] ") {
            let read = user.read(&mut piece).unwrap();
            screen.extend_from_slice(&piece[..read]);
        }
        user.write_all(typed).unwrap();
        let mut out = String::new();
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        // Until it is closed on the other side, which is an error on a terminal.
        while let Ok(read @ 1..) = user.read(&mut piece) {
            screen.extend_from_slice(&piece[..read]);
        }
        let stderr = String::from_utf8_lossy(&screen).into_owned();
        let ran = Ran { status: child.wait().unwrap().code().unwrap(), stdout: out, stderr };
        keeps(&ran, &[&token]);
        ran
    };
    let no = answer(b"\n").exits(1);
    assert!(no.stderr.contains("Revoke 1 token?") && no.stderr.contains("Nothing was revoked"), "{}", no.stderr);
    daemon.ctl_with(&token, &["validate", "--peek"]).exits(0);
    let yes = answer(b"y\n").exits(1);
    assert!(yes.stderr.contains("Revoked 1 token."), "{}", yes.stderr);
    assert!(yes.stdout.contains(" active, deploy of "), "{}", yes.stdout);
    daemon.ctl_with(&token, &["validate", "--peek"]).exits(1);
}

/// Whoever finds tokens may end them, one a second; how they stand is not told to who has no right to validate. Run as root.
#[test]
#[ignore = "needs root"]
fn root_a_finder_without_a_rule_ends_what_was_found() {
    let daemon = Daemon::start();
    let tree = Tree::new(&daemon);
    let tokens: Vec<String> = (0..3).map(|n| daemon.issue(&[&format!("t{n}")])).collect();
    let file = tree.write("all", tokens.join("\n"));
    let begun = std::time::Instant::now();
    let ran = daemon.ctl_as(65_533, "", &["scan", &file, "--revoke", "--yes"]).exits(1);
    assert_eq!(ran.stderr.matches("right to validate").count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("Revoked 3 tokens."), "{}", ran.stderr);
    assert!(begun.elapsed().as_secs_f64() > 1.5, "the limit of one a second was not met");
    for token in &tokens {
        daemon.ctl_with(token, &["validate", "--peek"]).exits(1);
    }
}

/// What its mode keeps from being read is named, and the rest is read. Run as root, as another user.
#[test]
#[ignore = "needs root"]
fn root_what_modes_forbid_is_named() {
    let daemon = Daemon::place("");
    let tree = Tree::new(&daemon);
    let token = foreign();
    let closed = tree.write("closed", &token);
    tree.write("dir/inside", &token);
    let open = tree.write("open", "x");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(tree.0.join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
    let ran = daemon.ctl_as(65_533, "", &["scan", tree.name(), "--json"]).exits(74);
    let report = ran.json();
    let names: Vec<&str> =
        report["unreadable"].as_array().unwrap().iter().map(|it| it["path"].as_str().unwrap()).collect();
    assert_eq!(names, [closed.as_str(), tree.0.join("dir").to_str().unwrap()]);
    assert_eq!(report["files"], 1);
    tree.write("open", &token);
    daemon.ctl_as(65_533, "", &["scan", tree.name()]).exits(1);
    daemon.ctl_as(65_533, "", &["scan", &open]).exits(1);
}

/// What the kernel makes up while it is read, without an end, is not entered on the way. Run as root.
#[test]
#[ignore = "needs root"]
fn root_file_systems_of_the_kernel_are_passed_by() {
    let daemon = Daemon::place("");
    let tree = Tree::new(&daemon);
    tree.write("file", "x");
    fs::create_dir(tree.0.join("proc")).unwrap();
    let script = format!(
        "mount -t proc proc {0}/proc && exec timeout 20 {1} --json scan {0}",
        tree.name(),
        env!("CARGO_BIN_EXE_bearerctl")
    );
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!((&report["files"], &report["skipped"]), (&json!(1), &json!(1)), "{report}");
}
