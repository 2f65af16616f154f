//! Each wrong owner, mode or kind of file of store, key and directories is a refusal to start that says what to do.

mod daemon;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use daemon::{Daemon, id_of};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A daemon that has run once and stopped in good order.
fn stopped() -> Daemon {
    let mut daemon = Daemon::start();
    daemon.issue(&["kept"]);
    daemon.stop();
    daemon
}

#[track_caller]
fn refused(daemon: &Daemon, says: &str) {
    let (status, stderr) = daemon.refuses();
    assert_eq!(status, 77, "{stderr}");
    assert!(stderr.contains(says), "{says:?} is not in: {stderr}");
}

#[test]
fn modes_are_what_they_must_be() {
    let daemon = stopped();
    for (name, mode) in [
        ("state", 0o700),
        ("key", 0o700),
        ("state/tokens.redb", 0o600),
        ("key/master.key", 0o600),
        ("log/audit.log", 0o640),
    ] {
        let found = fs::metadata(daemon.path(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(found, mode, "{name} has {found:o}");
    }
    let mut daemon = daemon;
    daemon.run();
    let socket = fs::metadata(daemon.socket()).unwrap().permissions().mode() & 0o7777;
    assert_eq!(socket, 0o666);
}

#[test]
fn loose_modes_are_refused() {
    let daemon = stopped();
    for (name, right) in [("state", 0o700), ("key", 0o700), ("state/tokens.redb", 0o600), ("key/master.key", 0o600)] {
        for loose in [0o004, 0o040, 0o020, 0o002] {
            chmod(&daemon.path(name), right | loose);
            refused(&daemon, "chmod");
        }
        chmod(&daemon.path(name), right);
    }
    let mut daemon = daemon;
    daemon.run();
}

#[test]
fn links_are_not_followed() {
    let mut daemon = stopped();
    for name in ["state/tokens.redb", "key/master.key"] {
        let moved = daemon.path("moved");
        fs::rename(daemon.path(name), &moved).unwrap();
        symlink(&moved, daemon.path(name)).unwrap();
        refused(&daemon, "link");
        fs::remove_file(daemon.path(name)).unwrap();
        fs::rename(&moved, daemon.path(name)).unwrap();
        let hard = daemon.path("hard");
        fs::hard_link(daemon.path(name), &hard).unwrap();
        refused(&daemon, "link");
        fs::remove_file(&hard).unwrap();
    }
    daemon.run();
}

#[test]
fn a_second_daemon_is_refused() {
    let daemon = Daemon::start();
    let token = daemon.issue(&["kept"]);
    let (status, stderr) = daemon.refuses();
    assert!(status == 77 || status == 74, "{status}: {stderr}");
    assert!(stderr.contains("another bearerd"), "{stderr}");
    daemon.ctl_with(&token, &["validate"]).exits(0);
}

/// A key is made only when there is no store; a store is never begun anew by itself.
#[test]
fn a_lost_key_or_store_is_a_refusal() {
    let mut daemon = stopped();
    let key = fs::read(daemon.path("key/master.key")).unwrap();
    fs::remove_file(daemon.path("key/master.key")).unwrap();
    let (status, stderr) = daemon.refuses();
    assert_eq!(status, 78, "{stderr}");
    assert!(!daemon.path("key/master.key").exists());

    // Another key, whole and well: the refusal names both ids.
    let other = stopped();
    fs::copy(other.path("key/master.key"), daemon.path("key/master.key")).unwrap();
    chmod(&daemon.path("key/master.key"), 0o600);
    let (status, stderr) = daemon.refuses();
    assert_eq!(status, 78, "{stderr}");
    for key in [&key, &fs::read(other.path("key/master.key")).unwrap()] {
        let id = String::from_utf8(key.clone()).unwrap().split(' ').nth(1).unwrap().to_owned();
        assert!(stderr.contains(&id), "{id} is not named: {stderr}");
    }

    fs::write(daemon.path("key/master.key"), "rubbish\n").unwrap();
    assert_eq!(daemon.refuses().0, 78);
    fs::write(daemon.path("key/master.key"), &key).unwrap();

    let store = daemon.path("state/tokens.redb");
    let kept = daemon.path("kept.redb");
    fs::rename(&store, &kept).unwrap();
    refused(&daemon, "audit.log");
    assert!(!store.exists());
    // Nor beside one that has been rotated away.
    fs::rename(daemon.audit_log(), daemon.path("log/audit.log.1")).unwrap();
    refused(&daemon, "audit.log.1");
    assert!(!store.exists());
    fs::rename(daemon.path("log/audit.log.1"), daemon.audit_log()).unwrap();
    fs::write(&store, "").unwrap();
    chmod(&store, 0o600);
    refused(&daemon, "move it and its audit log away");
    fs::write(&store, vec![7; 8192]).unwrap();
    refused(&daemon, "not a bearerd store");
    fs::rename(&kept, &store).unwrap();
    daemon.run();
}

/// The engine panics over some damage: that is the store's refusal, and not a fault of the daemon to be reported.
#[test]
fn a_damaged_store_is_refused_without_a_false_alarm() {
    const PAGE: usize = 4096;
    let daemon = stopped();
    let store = daemon.path("state/tokens.redb");
    let mut bytes = fs::read(&store).unwrap();
    bytes[PAGE..].fill(0xFF);
    fs::write(&store, &bytes).unwrap();
    refused(&daemon, "the store is damaged");
    let (_, said) = daemon.refuses();
    assert_eq!(said.lines().count(), 1, "{said}");
    // It was one of those: otherwise this says nothing.
    let output = daemon.command().args(["--log-level", "debug"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("damaged data was met at"), "{said}");
    assert_eq!(fs::read(&store).unwrap(), bytes);
}

/// A store that is older than its log would make revoked tokens good again.
#[test]
fn an_old_store_beside_a_newer_log_is_refused() {
    let mut daemon = Daemon::start();
    let token = daemon.issue(&["rolled-back"]);
    daemon.stop();
    let store = daemon.path("state/tokens.redb");
    let old = daemon.path("old.redb");
    fs::copy(&store, &old).unwrap();
    daemon.run();
    daemon.ctl(&["revoke", &id_of(&token)]).exits(0);
    daemon.stop();
    let new = daemon.path("new.redb");
    fs::rename(&store, &new).unwrap();
    fs::copy(&old, &store).unwrap();
    chmod(&store, 0o600);
    refused(&daemon, "older than the audit log");
    // Over kill -9 too, where the log was not sealed at a stop.
    fs::copy(&new, &store).unwrap();
    chmod(&store, 0o600);
    daemon.run();
    daemon.kill();
    daemon.run();
    let verdict = daemon.ctl_with(&token, &["--json", "validate"]).exits(1).json();
    assert_eq!(verdict["reason"], "revoked");
}

#[test]
#[ignore = "needs root"]
fn root_wrong_owners_are_refused() {
    let daemon = stopped();
    for name in ["state", "key", "state/tokens.redb", "key/master.key"] {
        chown(daemon.path(name), Some(12_345), Some(12_345)).unwrap();
        refused(&daemon, "chown");
        chown(daemon.path(name), Some(0), Some(0)).unwrap();
    }
    let mut daemon = daemon;
    daemon.run();
}
