//! Backup and restore, as an administrator has them: a real daemon, its files, both command lines.

mod daemon;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bearerd::client::ClientError;
use bearerd::protocol::code::ErrorCode;
use bearerd::protocol::message::BackupAsk;
use daemon::{Daemon, Ran, id_of};
use serde_json::Value;

/// Runs `bearerd restore`.
fn restore(daemon: &Daemon, arguments: &[&str]) -> Ran {
    let mut command = daemon.command();
    let output = command.arg("restore").args(arguments).stdin(Stdio::null()).output().unwrap();
    Ran {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn back_up(daemon: &Daemon, name: &str) -> PathBuf {
    let file = daemon.path(name);
    daemon.ctl(&["backup", "--force", text(&file)]).exits(0);
    file
}

fn verdict(daemon: &Daemon, token: &str) -> (bool, Option<String>) {
    let answer = daemon.ctl_with(&format!("{token}\n"), &["validate", "--json", "--peek"]).json();
    (answer["active"].as_bool().unwrap(), answer["reason"].as_str().map(str::to_owned))
}

fn is_good(daemon: &Daemon, token: &str) -> bool {
    verdict(daemon, token).0
}

/// What lies in the directory of the store.
fn lying(daemon: &Daemon) -> Vec<String> {
    let names = fs::read_dir(daemon.path("state")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_backup_brings_everything_back_on_a_machine_that_has_only_the_key() {
    let mut daemon = Daemon::start();
    let labelled = daemon.issue(&["web", "--subject", "alice", "--label", "team=web", "--scope", "repo:*"]);
    let counted = daemon.issue(&["five", "--max-uses", "5"]);
    let canary = daemon.issue(&["bait", "--kind", "canary"]);
    let ended = daemon.issue(&["ended"]);
    daemon.ctl_with(&format!("{counted}\n"), &["validate"]).exits(0);
    daemon.ctl(&["revoke", &id_of(&ended), "--reason", "laptop lost"]).exits(0);
    let shown = |daemon: &Daemon, token: &str| daemon.ctl(&["show", "--json", &id_of(token)]).exits(0).json();
    let all = [&labelled, &counted, &canary, &ended];
    // Last uses are written back within seconds; a clean stop is one of those moments.
    daemon.restart();
    let before: Vec<Value> = all.iter().map(|token| shown(&daemon, token)).collect();

    let done = daemon.ctl(&["backup", "--json", text(&daemon.path("b"))]).exits(0).json();
    let file = daemon.path("b");
    assert_eq!(done["bytes"], fs::metadata(&file).unwrap().len());
    assert_eq!((done["generation"].as_u64(), fs::metadata(&file).unwrap().mode() & 0o7777), (Some(6), 0o600));
    let lines: Vec<Value> = daemon.trail().into_iter().filter(|line| line["reason"] == "backup").collect();
    assert_eq!(lines.len(), 2, "begun and done");
    assert!(lines.iter().all(|line| line["event"] == "reload" && line["peer"]["uid"].is_number()));
    let bytes = fs::read(&file).unwrap();
    for name in ["alice", "team", "five", "repo", "laptop"] {
        assert!(!bytes.windows(name.len()).any(|window| window == name.as_bytes()), "{name} can be read in it");
    }

    daemon.stop();
    fs::remove_dir_all(daemon.path("state")).unwrap();
    fs::remove_dir_all(daemon.path("log")).unwrap();
    let ran = restore(&daemon, &[text(&file)]).exits(0);
    assert!(ran.stdout.contains("4 tokens, changes up to 6"), "{}", ran.stdout);
    assert!(ran.stdout.contains("there is no audit log"), "{}", ran.stdout);
    assert_eq!(lying(&daemon), ["tokens.redb"]);
    daemon.run();
    for (token, before) in all.iter().zip(before) {
        assert_eq!(shown(&daemon, token), before);
    }
    assert!(is_good(&daemon, &labelled) && is_good(&daemon, &counted));
    assert_eq!(verdict(&daemon, &ended).1.as_deref(), Some("revoked"));
    let listed = |filter: &[&str]| {
        let listed = daemon.ctl(&[&["list", "--json"], filter].concat()).exits(0).json();
        listed["tokens"].as_array().unwrap().len()
    };
    assert_eq!((listed(&["--subject", "alice"]), listed(&["--label", "team=web"]), listed(&[])), (1, 1, 4));
    let trail = daemon.trail();
    let line = trail.iter().find(|line| line["outcome"] == "restored").expect("it is in the trail");
    assert_eq!((line["event"].as_str(), line["generation"].as_u64()), (Some("recovered"), Some(7)));
    daemon.ctl(&["audit", "verify"]).exits(0);
    daemon.issue(&["after"]);
    daemon.restart();
    daemon.ctl(&["audit", "verify"]).exits(0);
}

#[test]
fn a_file_is_whole_or_as_it_was() {
    let daemon = Daemon::start();
    daemon.issue(&["one"]);
    let file = daemon.path("b");
    fs::write(&file, "yesterday's").unwrap();
    let refused = daemon.ctl(&["backup", text(&file)]).exits(64);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(&file).unwrap(), "yesterday's");
    daemon.ctl(&["backup", text(&daemon.path("none/b"))]).exits(74);
    daemon.ctl(&["backup", "--force", text(&daemon.path("state"))]).exits(64);
    let link = daemon.path("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    daemon.ctl(&["backup", "--force", text(&link)]).exits(64);
    assert_eq!(fs::read_to_string(&file).unwrap(), "yesterday's");

    back_up(&daemon, "b");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    let parts = fs::read_dir(daemon.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let parts: Vec<_> = parts.filter(|name| name.to_str().unwrap().contains("part")).collect();
    assert!(parts.is_empty(), "{parts:?}");
    // Piped on, it is the same but for the time.
    let piped = daemon.ctl_command(&["backup", "-"]).output().unwrap();
    assert!(piped.status.success());
    assert_eq!(piped.stdout.len() as u64, fs::metadata(&file).unwrap().len());
    assert!(piped.stdout.starts_with(b"bearerd-backup-1\n"));
}

/// All of one moment, while tokens come and go; and one at a time.
#[test]
fn work_goes_on_while_a_backup_is_made() {
    let mut daemon = Daemon::start();
    // Far more than one piece: labels make records of some kilobytes.
    let labels: Vec<String> = (0..30).map(|n| format!("--label=k{n}={}", "x".repeat(250))).collect();
    let arguments: Vec<&str> = ["big"].into_iter().chain(labels.iter().map(String::as_str)).collect();
    for _ in 0..180 {
        daemon.issue(&arguments);
    }
    let (kept, ended) = (daemon.issue(&["kept"]), daemon.issue(&["ended"]));
    let mut client = daemon.client();
    let first = client.backup(BackupAsk::default()).unwrap();
    assert!(first.next.is_some() && first.rows < first.rows_total);

    let other = daemon.ctl(&["backup", text(&daemon.path("other"))]).exits(75);
    assert!(other.stderr.contains("one at a time"), "{}", other.stderr);
    assert!(!daemon.path("other").exists());
    let new = daemon.issue(&["new"]);
    daemon.ctl(&["revoke", &id_of(&ended)]).exits(0);
    assert!(is_good(&daemon, &kept) && is_good(&daemon, &new) && !is_good(&daemon, &ended));

    let (mut bytes, mut next) = (first.bytes, first.next);
    while next.is_some() {
        let piece = client.backup(BackupAsk { after: next }).unwrap();
        bytes.extend(piece.bytes);
        next = piece.next;
    }
    assert!(bytes.len() > 1 << 20, "{} bytes are too few for this test", bytes.len());
    // From the wrong place, or behind the end: none.
    let refused = client.backup(BackupAsk { after: Some(7) });
    assert!(matches!(&refused, Err(ClientError::Failure(failure)) if failure.code == ErrorCode::Unavailable));
    // One that was left with its connection is in nobody's way.
    client.backup(BackupAsk::default()).unwrap();
    drop(client);
    let begun = std::time::Instant::now();
    while daemon.ctl(&["backup", text(&daemon.path("next"))]).status != 0 {
        assert!(begun.elapsed() < daemon::PATIENCE);
    }
    fs::write(daemon.path("b"), bytes).unwrap();

    daemon.stop();
    restore(&daemon, &[text(&daemon.path("b"))]).exits(77);
    restore(&daemon, &["--accept-rollback", text(&daemon.path("b"))]).exits(0);
    daemon.run();
    assert!(is_good(&daemon, &kept));
    assert_eq!(verdict(&daemon, &new).1.as_deref(), Some("unknown"), "it came after that moment");
    assert_eq!(verdict(&daemon, &ended).1.as_deref(), Some("revoked"), "and so did this, which the log knows");
}

#[test]
fn revoked_tokens_do_not_come_back() {
    let mut daemon = Daemon::start();
    let (kept, ended, held) = (daemon.issue(&["kept"]), daemon.issue(&["ended"]), daemon.issue(&["held"]));
    let counted = daemon.issue(&["counted", "--max-uses", "5"]);
    let file = back_up(&daemon, "b");
    daemon.ctl(&["revoke", &id_of(&ended), "--reason", "laptop lost"]).exits(0);
    // Its holder ended it.
    daemon.ctl_with(&format!("{held}\n"), &["revoke", "--token-file", "-"]).exits(0);
    for _ in 0..3 {
        daemon.ctl_with(&format!("{counted}\n"), &["validate"]).exits(0);
    }
    let new = daemon.issue(&["new"]);
    daemon.stop();
    let store = fs::read(daemon.path("state/tokens.redb")).unwrap();
    let log = fs::read(daemon.audit_log()).unwrap();

    let refused = restore(&daemon, &[text(&file)]).exits(77);
    assert!(refused.stderr.contains("--accept-rollback") && refused.stderr.contains("(2 known)"), "{}", refused.stderr);
    assert_eq!(fs::read(daemon.path("state/tokens.redb")).unwrap(), store);
    assert_eq!(lying(&daemon), ["tokens.redb"]);

    let done = restore(&daemon, &["--accept-rollback", text(&file)]).exits(0);
    assert!(done.stdout.contains("done again 2 revocations, 0 suspensions, 1 other"), "{}", done.stdout);
    assert!(!done.stdout.contains("no line in the log"), "{}", done.stdout);
    assert!(done.stdout.contains(&format!("lost new tokens: 1 ({})", id_of(&new))), "{}", done.stdout);
    assert_eq!(fs::read(daemon.audit_log()).unwrap(), log, "the log is the daemon's to write");
    let kept_aside: Vec<_> = lying(&daemon).into_iter().filter(|name| name.contains(".before-restore-")).collect();
    assert_eq!(kept_aside.len(), 1);
    assert_eq!(fs::read(daemon.path("state").join(&kept_aside[0])).unwrap(), store);
    daemon.run();
    assert!(is_good(&daemon, &kept));
    for token in [&ended, &held] {
        assert_eq!(verdict(&daemon, token).1.as_deref(), Some("revoked"));
    }
    let shown = daemon.ctl(&["show", "--json", &id_of(&ended)]).exits(0).json();
    assert_eq!(shown["revoked_reason"], "laptop lost");
    let shown = daemon.ctl(&["show", "--json", &id_of(&counted)]).exits(0).json();
    assert_eq!(shown["uses_left"], 2, "what was spent stays spent");
    assert_eq!(verdict(&daemon, &new).1.as_deref(), Some("unknown"));
    let trail = daemon.trail();
    let again = trail.iter().filter(|line| line["note"].as_str().is_some_and(|note| note.contains("done again: the")));
    assert_eq!(again.count(), 3, "each is in the trail");
    daemon.ctl(&["audit", "verify"]).exits(0);
    // And it holds over the next start, which finds log and store in agreement.
    daemon.restart();
    daemon.ctl(&["audit", "verify"]).exits(0);
    assert!(!is_good(&daemon, &ended));
}

#[test]
fn what_was_held_or_rotated_after_the_backup_stays_so() {
    let mut daemon = Daemon::start();
    let [held, resumed, at_once, overlapping, used] =
        ["held", "resumed", "at-once", "overlapping", "used"].map(|name| daemon.issue(&[name]));
    let bobs = [1, 2, 3].map(|n| daemon.issue(&[&format!("bob-{n}"), "--subject", "bob"]));
    let carols = [1, 2, 3].map(|n| daemon.issue(&[&format!("carol-{n}"), "--subject", "carol"]));
    // In force before the backup, whether or not it stands in each record by then.
    daemon.ctl(&["revoke", "--subject", "carol", "--yes"]).exits(0);
    let file = back_up(&daemon, "b");
    daemon.ctl(&["revoke", "--subject", "bob", "--yes", "--reason", "left"]).exits(0);
    daemon.ctl(&["suspend", &id_of(&held), "--reason", "odd"]).exits(0);
    daemon.ctl(&["suspend", &id_of(&resumed)]).exits(0);
    daemon.ctl(&["resume", &id_of(&resumed)]).exits(0);
    let rotate = |token: &str, more: &[&str]| daemon.ctl(&[&["rotate", &id_of(token)], more].concat()).exits(0).line();
    rotate(&at_once, &["--now"]);
    rotate(&overlapping, &[]);
    let successor = rotate(&used, &["--grace", "0s"]);
    daemon.ctl_with(&format!("{successor}\n"), &["validate"]).exits(0);
    daemon.stop();
    restore(&daemon, &[text(&file)]).exits(77);
    let done = restore(&daemon, &["--accept-rollback", text(&file)]).exits(0);
    assert!(done.stdout.contains("lost rotations: 3"), "{}", done.stdout);
    assert!(!done.stdout.contains("no line in the log"), "{}", done.stdout);
    daemon.run();
    assert_eq!(verdict(&daemon, &held).1.as_deref(), Some("suspended"));
    assert!(is_good(&daemon, &resumed));
    assert!(!is_good(&daemon, &at_once) && !is_good(&daemon, &used), "a predecessor lives again");
    for token in bobs.iter().chain(&carols) {
        assert_eq!(verdict(&daemon, token).1.as_deref(), Some("revoked"));
    }
    // What counts the unrevoked of a subject was made again with the indexes.
    let none = daemon.ctl(&["revoke", "--subject", "bob", "--dry-run", "--json"]).json();
    assert_eq!(none["count"], 0, "{none}");
    // Its successor is lost; it goes on for as long as it would have, and no longer.
    assert!(is_good(&daemon, &overlapping));
    let shown = |token: &str| daemon.ctl(&["show", "--json", &id_of(token)]).exits(0).json();
    assert!(shown(&overlapping)["expires_at"].as_str() < shown(&resumed)["expires_at"].as_str());
    daemon.ctl(&["audit", "verify"]).exits(0);
}

/// Somebody put an old copy of the store back by hand.
#[test]
fn a_store_that_was_put_back_by_hand_is_taken_by_word() {
    let mut daemon = Daemon::start();
    let (kept, ended) = (daemon.issue(&["kept"]), daemon.issue(&["ended"]));
    daemon.stop();
    let (store, old) = (daemon.path("state/tokens.redb"), daemon.path("old.redb"));
    fs::copy(&store, &old).unwrap();
    let unchanged = restore(&daemon, &["--accept-rollback"]).exits(0);
    assert!(unchanged.stdout.contains("nothing to do"), "{}", unchanged.stdout);
    daemon.run();
    daemon.ctl(&["revoke", &id_of(&ended)]).exits(0);
    daemon.stop();

    // As a file of its own.
    let newer = fs::read(&store).unwrap();
    restore(&daemon, &[text(&old)]).exits(77);
    assert_eq!(fs::read(&store).unwrap(), newer);
    // In its place.
    fs::copy(&old, &store).unwrap();
    let (status, said) = daemon.refuses();
    assert_eq!(status, 77);
    assert!(said.contains("bearerd restore --accept-rollback"), "{said}");
    restore(&daemon, &[]).exits(64);
    let done = restore(&daemon, &["--accept-rollback"]).exits(0);
    assert!(done.stdout.contains("done again 1 revocations"), "{}", done.stdout);
    daemon.run();
    assert!(is_good(&daemon, &kept) && !is_good(&daemon, &ended));
    daemon.stop();

    // Named, beside the newer one.
    fs::write(&store, newer).unwrap();
    restore(&daemon, &["--accept-rollback", text(&old)]).exits(0);
    daemon.run();
    assert!(is_good(&daemon, &kept) && !is_good(&daemon, &ended));
    daemon.ctl(&["audit", "verify"]).exits(0);
}

/// The log was rotated away and packed; but the newer store is there, and knows.
#[test]
fn what_the_newer_store_knows_as_ended_stays_ended_without_a_log() {
    let mut daemon = Daemon::start();
    let (kept, ended) = (daemon.issue(&["kept"]), daemon.issue(&["ended"]));
    let file = back_up(&daemon, "b");
    daemon.ctl(&["revoke", &id_of(&ended)]).exits(0);
    daemon.stop();
    fs::remove_file(daemon.audit_log()).unwrap();
    restore(&daemon, &[text(&file)]).exits(77);
    let done = restore(&daemon, &["--accept-rollback", text(&file)]).exits(0);
    assert!(done.stdout.contains("1 changes have no line in the log"), "{}", done.stdout);
    daemon.run();
    assert!(is_good(&daemon, &kept) && !is_good(&daemon, &ended));
}

#[test]
fn what_is_bad_is_refused_and_nothing_is_touched() {
    let mut daemon = Daemon::start();
    for n in 0..20 {
        daemon.issue(&[&format!("t{n}")]);
    }
    let file = back_up(&daemon, "b");
    // While it runs: another has the store.
    let running = restore(&daemon, &[text(&file)]).exits(77);
    assert!(running.stderr.contains("in use"), "{}", running.stderr);
    daemon.stop();
    let store = fs::read(daemon.path("state/tokens.redb")).unwrap();
    let whole = fs::read(&file).unwrap();
    let bad = daemon.path("bad");
    let refused = |bytes: &[u8]| {
        fs::write(&bad, bytes).unwrap();
        let ran = restore(&daemon, &[text(&bad)]).exits(65);
        assert!(ran.stderr.contains(text(&bad)), "{}", ran.stderr);
        assert_eq!(fs::read(daemon.path("state/tokens.redb")).unwrap(), store);
        assert_eq!(lying(&daemon), ["tokens.redb"]);
    };
    // Every cut and every byte is tried where no program has to be started for it: `tests/backup_file.rs`.
    for cut in [0, 1, 16, 17, 20, 200, whole.len() / 2, whole.len() - 33, whole.len() - 1] {
        refused(&whole[..cut]);
    }
    for at in [0, 18, 30, whole.len() / 3, whole.len() / 2, whole.len() - 40, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        refused(&changed);
    }
    refused(&[&whole[..], b"x"].concat());
    refused(b"not a backup at all, but long enough to be one");
    let mut torn = store.clone();
    torn[8192..60_000].fill(7);
    refused(&torn);
    restore(&daemon, &[text(&daemon.path("missing"))]).exits(74);
    restore(&daemon, &[text(&daemon.path("state"))]).exits(74);

    // Another key.
    let key = daemon.path("key/master.key");
    let aside = daemon.path("master.key");
    fs::rename(&key, &aside).unwrap();
    restore(&daemon, &[text(&file)]).exits(78);
    let other = Daemon::start();
    fs::copy(other.path("key/master.key"), &key).unwrap();
    let foreign = restore(&daemon, &[text(&file)]).exits(78);
    assert!(foreign.stderr.contains("opens no slot"), "{}", foreign.stderr);
    fs::rename(&aside, &key).unwrap();
    assert_eq!(fs::read(daemon.path("state/tokens.redb")).unwrap(), store);
    restore(&daemon, &[text(&file)]).exits(0);
}

#[test]
fn another_store_needs_a_word() {
    let mut one = Daemon::start();
    let token = one.issue(&["one"]);
    let file = back_up(&one, "b");
    let mut other = Daemon::start();
    other.issue(&["other"]);
    other.stop();
    // With the key of the first.
    fs::copy(one.path("key/master.key"), other.path("key/master.key")).unwrap();
    let store = fs::read(other.path("state/tokens.redb")).unwrap();
    let refused = restore(&other, &[text(&file)]).exits(77);
    assert!(refused.stderr.contains("--replace-other"), "{}", refused.stderr);
    assert_eq!(fs::read(other.path("state/tokens.redb")).unwrap(), store);
    // Without a store, but with the other's log, too.
    let aside = other.path("aside");
    fs::rename(other.path("state/tokens.redb"), &aside).unwrap();
    restore(&other, &[text(&file)]).exits(77);
    fs::rename(&aside, other.path("state/tokens.redb")).unwrap();
    restore(&other, &["--replace-other", text(&file)]).exits(0);
    other.run();
    assert!(is_good(&other, &token));
    one.stop();
}

/// The machine is gone, and the key with it; there is a backup and the recovery key.
#[test]
fn the_recovery_key_opens_a_backup_where_all_else_is_lost() {
    let mut daemon = Daemon::start();
    let token = daemon.issue(&["one"]);
    let recovery = daemon.ctl(&["recovery-key"]).exits(0).line();
    let file = back_up(&daemon, "b");
    daemon.stop();
    for dir in ["state", "log", "key"] {
        fs::remove_dir_all(daemon.path(dir)).unwrap();
    }
    let typed = |words: &[&str], typed: &str| {
        let mut command = daemon.command();
        let pipes = command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), format!("{typed}\n").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    restore(&daemon, &[text(&file)]).exits(78);
    assert_eq!(typed(&["restore", "--recovery-key", text(&file)], "").0, 64);
    let (status, said) = typed(&["restore", "--recovery-key", text(&file)], &recovery);
    assert_eq!(status, 0, "{said}");
    let (status, said) = typed(&["recover"], &recovery);
    assert_eq!(status, 0, "{said}");
    daemon.run();
    assert!(is_good(&daemon, &token));
    daemon.ctl(&["audit", "verify"]).exits(0);
}

/// The disk died: what is there is not a store any more.
#[test]
fn a_damaged_store_is_replaced_and_kept() {
    let mut daemon = Daemon::start();
    let token = daemon.issue(&["one"]);
    let file = back_up(&daemon, "b");
    daemon.stop();
    for damage in [&b""[..], b"garbage", &[0; 100_000]] {
        fs::write(daemon.path("state/tokens.redb"), damage).unwrap();
        let (status, _) = daemon.refuses();
        assert_eq!(status, 77);
        let done = restore(&daemon, &[text(&file)]).exits(0);
        assert!(done.stdout.contains("can't be read"), "{}", done.stdout);
        daemon.run();
        assert!(is_good(&daemon, &token));
        daemon.stop();
        // The log knows of that restore now.
        let word = restore(&daemon, &[text(&file)]).exits(77);
        assert!(word.stderr.contains("--accept-rollback"), "{}", word.stderr);
        fs::rename(daemon.audit_log(), daemon.path("log/put-aside")).unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn root_a_backup_needs_admin() {
    let daemon = Daemon::start_with(
        "[[policy]]\nname = \"all but admin\"\npeer = { user = \"nobody\" }\nallow = [\"status\", \"list\", \"show\", \"audit\"]\nsubjects = [\"*\"]\n",
    );
    daemon.ctl_as(12_345, "", &["backup", "/tmp/none/b"]).exits(74);
    let ran = daemon.ctl_as(12_345, "", &["backup", "-"]).exits(77);
    assert!(ran.stdout.is_empty());
    assert!(daemon.trail().iter().any(|line| line["event"] == "deny" && line["peer"]["uid"] == 12_345));
}

/// Root restores for the daemon's user: what it makes is that user's.
#[test]
#[ignore = "needs root"]
fn root_what_root_restores_is_the_daemon_users() {
    let mut daemon = Daemon::start();
    let token = daemon.issue(&["one"]);
    let file = back_up(&daemon, "b");
    daemon.stop();
    let owner = 23_456;
    for dir in ["state", "key", "log"] {
        std::os::unix::fs::chown(daemon.path(dir), Some(owner), Some(owner)).unwrap();
        for entry in fs::read_dir(daemon.path(dir)).unwrap() {
            std::os::unix::fs::chown(entry.unwrap().path(), Some(owner), Some(owner)).unwrap();
        }
    }
    // A new machine: only the key is there.
    fs::remove_dir_all(daemon.path("state")).unwrap();
    fs::remove_dir_all(daemon.path("log")).unwrap();
    restore(&daemon, &[text(&file)]).exits(0);
    for (dir, mode) in [("state", 0o700), ("log", 0o750)] {
        let made = fs::metadata(daemon.path(dir)).unwrap();
        assert_eq!((made.uid(), made.mode() & 0o7777), (owner, mode));
    }
    let made = fs::metadata(daemon.path("state/tokens.redb")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (owner, owner, 0o600));
    fs::remove_dir_all(daemon.path("run")).unwrap();
    fs::create_dir(daemon.path("run")).unwrap();
    std::os::unix::fs::chown(daemon.path("run"), Some(owner), Some(owner)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &owner.to_string(), "--regid", &owner.to_string(), "--clear-groups"]);
    command.arg(daemon::reachable(env!("CARGO_BIN_EXE_bearerd"))).arg("--config").arg(daemon.path("bearerd.toml"));
    daemon.run_as(command);
    assert!(is_good(&daemon, &token));
}
