//! kill -9 during backup and restore: a backup is whole under its name or not there, the daemon has lost nothing, and a
//! restore leaves the old store or the new one. 100 rounds each.

mod daemon;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use daemon::{Daemon, id_of};

const ROUNDS: u32 = 100;

fn start(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn restore(daemon: &Daemon, file: &Path, accept: bool) -> Command {
    let mut command = daemon.command();
    command.arg("restore").arg(file);
    if accept {
        command.arg("--accept-rollback");
    }
    command
}

/// How long one takes when nobody kills it.
fn measured(command: Command) -> Duration {
    let begun = std::time::Instant::now();
    assert!(start(command).wait().unwrap().success());
    begun.elapsed()
}

/// Spread over the whole time that it takes, and a little beyond.
fn moment(round: u32, whole: Duration) -> Duration {
    whole * 11 / 10 * ((round * 37) % ROUNDS) / ROUNDS
}

fn issue_many(daemon: &Daemon) -> Vec<String> {
    let label = format!("pad={}", "x".repeat(250));
    (0..60).map(|n| daemon.issue(&[&format!("t{n}"), "--label", &label])).collect()
}

fn good(daemon: &Daemon, token: &str) -> bool {
    daemon.ctl_with(&format!("{token}\n"), &["--quiet", "validate", "--peek"]).status == 0
}

#[test]
fn a_backup_that_is_killed_leaves_none_or_a_whole_one() {
    let mut daemon = Daemon::start();
    let tokens = issue_many(&daemon);
    let file = daemon.path("b");
    let backup = |daemon: &Daemon| daemon.ctl_command(&["backup", "--force", file.to_str().unwrap()]);
    let whole = (0..3).map(|_| measured(backup(&daemon))).max().unwrap();
    let (mut made, mut cut) = (0, 0);
    for round in 0..ROUNDS {
        let _ = fs::remove_file(&file);
        let kept = daemon.issue(&["kept"]);
        let mut child = start(backup(&daemon));
        // Not for an event: the moment of the kill is what is tried.
        std::thread::sleep(moment(round, whole));
        let daemons_turn = round % 4 == 3;
        if daemons_turn {
            daemon.kill();
        } else {
            let _ = child.kill();
        }
        let _ = child.wait();
        if daemons_turn {
            daemon.run();
        }
        assert!(good(&daemon, &kept), "{round}: lost");
        if !file.exists() {
            cut += 1;
            continue;
        }
        made += 1;
        // Whole: another daemon takes it and has everything.
        let mut other = Daemon::place("");
        fs::create_dir(other.path("key")).unwrap();
        fs::set_permissions(other.path("key"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        fs::copy(daemon.path("key/master.key"), other.path("key/master.key")).unwrap();
        assert!(start(restore(&other, &file, false)).wait().unwrap().success(), "{round}: half a backup");
        if round % 10 == 0 {
            other.run();
            assert!(good(&other, &kept) && good(&other, &tokens[0]), "{round}");
        }
    }
    assert!(made > 5 && cut > 5, "{made} were made and {cut} cut off: the moments are not spread");
    for token in &tokens {
        assert!(good(&daemon, token));
    }
    daemon.ctl(&["audit", "verify"]).exits(0);
    // What was cut off holds nobody up.
    let begun = std::time::Instant::now();
    while daemon.ctl(&["backup", "--force", file.to_str().unwrap()]).status != 0 {
        assert!(begun.elapsed() < daemon::PATIENCE);
    }
}

#[test]
fn a_restore_that_is_killed_leaves_the_old_store_or_the_new_one() {
    let mut daemon = Daemon::start();
    let tokens = issue_many(&daemon);
    let file = daemon.path("b");
    daemon.ctl(&["backup", file.to_str().unwrap()]).exits(0);
    let ended = &tokens[0];
    daemon.ctl(&["revoke", &id_of(ended)]).exits(0);
    let new = daemon.issue(&["new"]);
    daemon.stop();
    // Each round begins with the same files.
    let store = fs::read(daemon.path("state/tokens.redb")).unwrap();
    let log = fs::read(daemon.audit_log()).unwrap();
    let reset = |daemon: &Daemon| {
        for entry in fs::read_dir(daemon.path("state")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let path = daemon.path("state/tokens.redb");
        fs::write(&path, &store).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(daemon.audit_log(), &log).unwrap();
    };
    let whole = (0..3)
        .map(|_| {
            reset(&daemon);
            measured(restore(&daemon, &file, true))
        })
        .max()
        .unwrap();
    let (mut old, mut restored) = (0, 0);
    for round in 0..ROUNDS {
        reset(&daemon);
        let mut child = start(restore(&daemon, &file, true));
        std::thread::sleep(moment(round, whole));
        let _ = child.kill();
        let _ = child.wait();
        daemon.run();
        // The new token is only in the old store; whichever it is, what was revoked is not good.
        if good(&daemon, &new) {
            old += 1;
            assert_eq!(fs::metadata(daemon.path("state/tokens.redb")).unwrap().len(), store.len() as u64);
        } else {
            restored += 1;
            let trail = daemon.trail();
            assert!(trail.iter().any(|line| line["outcome"] == "restored"), "{round}");
        }
        assert!(!good(&daemon, ended), "{round}: it lives again");
        assert!(tokens[1..].iter().step_by(17).all(|token| good(&daemon, token)), "{round}: lost");
        daemon.ctl(&["audit", "verify"]).exits(0);
        // And the way is free for another.
        daemon.stop();
        assert!(start(restore(&daemon, &file, true)).wait().unwrap().success(), "{round}");
    }
    assert!(old > 5 && restored > 5, "{old} old and {restored} new: the moments are not spread");
}
