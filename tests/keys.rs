//! Keys change under a running daemon, and are recovered without one: `docs/man/bearerctl.1.md` (`rekey`, `recovery-key`),
//! `docs/man/bearerd.8.md` (`recover`), `docs/file-format.md`.

mod daemon;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bearerd::store::{FileOptions, Sealer, Store, StoreError, StoreFile, StoreOptions, Txn};
use bearerd::time::{Clock, SystemTime, UnixTime};
use bearerd::vault::{KeyHeader, KeySource, Keyring, SlotKind};
use daemon::{Daemon, Ran};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

fn key_file(daemon: &Daemon) -> PathBuf {
    daemon.path("key/master.key")
}

fn me() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn status(daemon: &Daemon) -> Value {
    daemon.ctl(&["status", "--json"]).exits(0).json()
}

/// The slots as (kind, in force, pending).
fn slots(daemon: &Daemon) -> BTreeSet<(String, bool, bool)> {
    let slot = |slot: &Value| {
        assert!(slot["created_at"].as_str().unwrap().parse::<UnixTime>().is_ok(), "{slot}");
        let flag = |key: &str| slot[key].as_bool().unwrap();
        (slot["kind"].as_str().unwrap().to_owned(), flag("in_force"), flag("pending"))
    };
    status(daemon)["key"]["slots"].as_array().unwrap().iter().map(slot).collect()
}

fn one(kind: &str, in_force: bool, pending: bool) -> (String, bool, bool) {
    (kind.to_owned(), in_force, pending)
}

#[track_caller]
fn good(daemon: &Daemon, token: &str) {
    daemon.ctl_with(token, &["validate"]).exits(0);
}

/// The reasons of the trail's lines about keys.
fn told(daemon: &Daemon) -> Vec<String> {
    let lines = daemon.trail();
    let about = lines.iter().filter(|line| line["event"] == "rekey");
    about.map(|line| line["reason"].as_str().unwrap().to_owned()).collect()
}

/// Runs `bearerd recover` with this on standard input.
fn recover(daemon: &Daemon, typed: &str) -> (i32, String) {
    let mut command = daemon.command();
    command.arg("recover").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(typed.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.stdout.is_empty());
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
}

fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// bearerctl(1), `rekey`: the old key opens nothing any more when it returns; tokens stay.
#[test]
fn a_key_file_is_changed_at_once() {
    let mut daemon = Daemon::start();
    let token = daemon.issue(&["a"]);
    let old = fs::read_to_string(key_file(&daemon)).unwrap();
    let before = status(&daemon)["key"]["slot"].as_str().unwrap().to_owned();

    let ran = daemon.ctl(&["rekey", "--json"]).exits(0).json();
    let slot = ran["slot"].as_str().unwrap().to_owned();
    assert_eq!((&ran["installed"], &ran["key"]), (&Value::Bool(true), &Value::Null));
    assert_eq!(ran["dropped"], Value::from(vec![before.clone()]));
    let new = fs::read_to_string(key_file(&daemon)).unwrap();
    assert!(new.starts_with(&format!("bearerd-key-1 {slot} ")) && new != old);
    assert_eq!(fs::metadata(key_file(&daemon)).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_dir(daemon.path("key")).unwrap().count(), 1, "nothing stays beside it");
    assert_eq!(status(&daemon)["key"]["slot"], slot.as_str());
    assert_eq!(slots(&daemon), [one("file", true, false)].into());
    good(&daemon, &token);
    assert_eq!(told(&daemon), ["slot_added", "slot_installed"]);

    // In words, and again.
    let words = daemon.ctl(&["rekey"]).exits(0);
    assert!(words.stdout.starts_with("in force: key ") && words.stdout.contains(&format!("{slot} opens nothing")));
    daemon.restart();
    good(&daemon, &token);
    daemon.stop();
    for earlier in [&old, &new] {
        write_private(&key_file(&daemon), earlier);
        let (status, said) = daemon.refuses();
        assert_eq!(status, 78, "{said}");
        assert!(said.contains("opens no slot of this store"), "{said}");
    }
}

/// A daemon whose key is a credential, in a directory as the service manager makes it.
struct Credential {
    daemon: Daemon,
}

impl Credential {
    fn start() -> Self {
        let place = Self { daemon: Daemon::place("") };
        fs::create_dir(place.daemon.path("credentials")).unwrap();
        place
    }

    fn file(&self) -> PathBuf {
        self.daemon.path("credentials/bearerd.master-key")
    }

    fn command(&self) -> Command {
        let mut command = self.daemon.command();
        command.env("CREDENTIALS_DIRECTORY", self.daemon.path("credentials"));
        command
    }

    fn install(&self, text: &str) {
        write_private(&self.file(), text);
    }

    fn run(&mut self) {
        let command = self.command();
        self.daemon.run_as(command);
    }

    fn refuses(&self) -> (i32, String) {
        let output = self.command().stdin(Stdio::null()).output().unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// bearerctl(1), `rekey`: the new key is printed once and alone; until it is installed both open, then the old one does not.
#[test]
fn a_credential_is_changed_by_the_start_with_the_new_one() {
    let mut place = Credential::start();
    let first = KeySource::random(SlotKind::Credential, "a test").unwrap().line().to_string();
    place.install(&first);
    place.run();
    let token = place.daemon.issue(&["a"]);
    assert!(!key_file(&place.daemon).exists());
    assert_eq!(slots(&place.daemon), [one("credential", true, false)].into());

    let ran = place.daemon.ctl(&["rekey"]).exits(0);
    let given_up = ran.line();
    assert!(given_up.starts_with("bearerd-key-1 ") && given_up.len() == 95);
    assert!(ran.stderr.contains("systemd-creds encrypt --name=bearerd.master-key"), "{}", ran.stderr);
    assert!(!ran.stderr.contains(&given_up[31..]));
    // Again: the one before is of no use then.
    let second = place.daemon.ctl(&["rekey", "--quiet"]).exits(0);
    assert_eq!(second.stderr, "");
    let second = second.line();
    assert_eq!(slots(&place.daemon), [one("credential", true, false), one("credential", false, true)].into());
    let warnings = status(&place.daemon)["warnings"].to_string();
    assert!(warnings.contains("waits to be installed as credential bearerd.master-key"), "{warnings}");
    good(&place.daemon, &token);

    // A restart with the old one changes nothing.
    place.daemon.stop();
    place.run();
    assert_eq!(slots(&place.daemon).len(), 2);
    place.daemon.stop();
    place.install(&given_up);
    assert_eq!(place.refuses().0, 78);
    place.install(&second);
    place.run();
    assert_eq!(slots(&place.daemon), [one("credential", true, false)].into());
    good(&place.daemon, &token);
    assert_eq!(told(&place.daemon), ["slot_added", "slot_added", "slot_installed"]);
    place.daemon.stop();
    place.install(&first);
    assert_eq!(place.refuses().0, 78);
    for line in [&given_up, &second] {
        for file in [place.daemon.audit_log(), place.daemon.path("state/tokens.redb")] {
            let bytes = fs::read(&file).unwrap();
            assert!(!bytes.windows(64).any(|window| window == &line.as_bytes()[31..]), "a key in {}", file.display());
        }
    }
}

/// bearerctl(1), `recovery-key`, and bearerd(8), `recover`.
#[test]
fn a_lost_key_is_recovered() {
    let mut daemon = Daemon::start();
    let token = daemon.issue(&["a"]);
    let replaced = daemon.ctl(&["recovery-key"]).exits(0).line();
    let ran = daemon.ctl(&["recovery-key"]).exits(0);
    let recovery = ran.line();
    assert_eq!(recovery.len(), 76);
    assert!(ran.stderr.contains("write it down") && ran.stderr.contains("opens nothing any more"), "{}", ran.stderr);
    assert_eq!(slots(&daemon), [one("file", true, false), one("recovery", false, false)].into());
    // A change of the key leaves the recovery key alone.
    daemon.ctl(&["rekey"]).exits(0);

    let (status, said) = recover(&daemon, &recovery);
    assert_eq!(status, 77, "there is a key: {said}");
    assert!(said.contains("nothing is to be recovered"), "{said}");
    fs::remove_file(key_file(&daemon)).unwrap();
    let (status, said) = recover(&daemon, &recovery);
    assert_eq!(status, 77, "it runs: {said}");
    assert!(said.contains("in use by another bearerd"), "{said}");
    daemon.stop();
    let (status, said) = daemon.refuses();
    assert!(status == 78 && said.contains("there is no key"), "{status} {said}");

    let store = || fs::read(daemon.path("state/tokens.redb")).unwrap();
    let untouched = store();
    let wrong = |group: usize| {
        let mut groups: Vec<String> = recovery.split('-').map(str::to_owned).collect();
        let first = if groups[group].starts_with('7') { "8" } else { "7" };
        groups[group].replace_range(..1, first);
        groups.join("-")
    };
    for (typed, expected, words) in [
        (String::new(), 64, "no recovery key was given"),
        ("\n".to_owned(), 64, "no recovery key was given"),
        (wrong(0), 78, "group 1 of the recovery key is mistyped"),
        (wrong(10), 78, "group 11 of the recovery key is mistyped"),
        (recovery[..69].to_owned(), 78, "it has 10 groups"),
        (replaced, 78, "opens no slot of this store"),
        ("x".repeat(5000), 78, "mistyped"),
    ] {
        let (status, said) = recover(&daemon, &typed);
        assert!(status == expected && said.contains(words), "{status} {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        assert!(store() == untouched && fs::read_dir(daemon.path("key")).unwrap().count() == 0, "{words}");
    }

    // As somebody types it from paper.
    let typed = recovery.to_lowercase().replace('-', " ").replace('0', "o") + "\n";
    let (status, said) = recover(&daemon, &typed);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("made the key ") && !said.contains(&recovery[..13]), "{said}");
    assert_eq!(fs::metadata(key_file(&daemon)).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_dir(daemon.path("key")).unwrap().count(), 1);
    daemon.run();
    good(&daemon, &token);
    assert_eq!(slots(&daemon), [one("file", true, false), one("recovery", false, false)].into());
    let all = ["recovery_key", "recovery_key", "slot_added", "slot_installed", "recovered", "slot_installed"];
    assert_eq!(told(&daemon), all);
    daemon.ctl(&["audit", "verify"]).exits(0);
    // And once more: it is good until another is made.
    daemon.stop();
    fs::remove_file(key_file(&daemon)).unwrap();
    assert_eq!(recover(&daemon, &recovery).0, 0);
    daemon.run();
    good(&daemon, &token);
}

/// bearerd(8), `recover`: without a store there is nothing to recover, and a store that is older than its log is refused.
#[test]
fn recover_checks_what_a_start_checks() {
    let mut daemon = Daemon::place("");
    let (status, said) = recover(&daemon, "x");
    assert!(status == 77 && said.contains("there is no "), "{status} {said}");
    daemon.run();
    let recovery = daemon.ctl(&["recovery-key"]).exits(0).line();
    daemon.stop();
    let older = fs::read(daemon.path("state/tokens.redb")).unwrap();
    daemon.run();
    daemon.issue(&["a"]);
    daemon.stop();
    fs::remove_file(key_file(&daemon)).unwrap();
    fs::write(daemon.path("state/tokens.redb"), &older).unwrap();
    let (status, said) = recover(&daemon, &recovery);
    assert_eq!(status, 77, "{said}");
    assert!(!key_file(&daemon).exists(), "{said}");
    // As another user's files would be: the mode is judged first thing.
    fs::set_permissions(daemon.path("state"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(recover(&daemon, &recovery).0, 77);
}

/// What each value of the store's file is sealed under; `None` for what lies in clear.
fn epochs(path: &Path) -> BTreeSet<Option<u32>> {
    let copy = tempfile::NamedTempFile::new().unwrap();
    fs::copy(path, copy.path()).unwrap();
    let db = redb::Database::open(copy.path()).unwrap();
    let txn = db.begin_read().unwrap();
    let epoch = |sealed: &[u8]| Some(u32::from_le_bytes(sealed[1..5].try_into().unwrap()));
    let mut found = BTreeSet::new();
    let meta = txn.open_table(TableDefinition::<&str, &[u8]>::new("meta")).unwrap();
    for row in meta.iter().unwrap() {
        let (name, value) = row.unwrap();
        found.insert(if ["format", "header"].contains(&name.value()) { None } else { epoch(value.value()) });
    }
    for name in ["tokens", "usage"] {
        let table = txn.open_table(TableDefinition::<&[u8; 16], &[u8]>::new(name)).unwrap();
        found.extend(table.iter().unwrap().map(|row| epoch(row.unwrap().1.value())));
    }
    let outbox = txn.open_table(TableDefinition::<u64, &[u8]>::new("outbox")).unwrap();
    found.extend(outbox.iter().unwrap().map(|row| epoch(row.unwrap().1.value())));
    found
}

/// bearerctl(1), `rekey --data`: every value is under the new key, and the old one is gone from the header.
#[test]
fn every_value_is_sealed_anew_while_it_serves() {
    let mut daemon = Daemon::start();
    let tokens: Vec<String> = (0..40).map(|n| daemon.issue(&[&format!("t{n}")])).collect();
    let mut client = daemon.client();
    for n in 0..700 {
        let issue = bearerd::protocol::message::Issue { name: format!("c{n}"), ..Default::default() };
        client.issue(&issue).unwrap();
    }
    good(&daemon, &tokens[0]);
    for epoch in [2, 3] {
        let json = daemon.ctl(&["rekey", "--data", "--json"]).exits(0).json();
        assert_eq!(json["epoch"], epoch);
        assert!(json["values"].as_u64().unwrap() >= 740, "{json}");
        let key = &status(&daemon)["key"];
        assert_eq!((&key["record_epoch"], &key["reseal"]), (&Value::from(epoch), &Value::Null));
        for token in &tokens {
            good(&daemon, token);
        }
    }
    let words = daemon.ctl(&["rekey", "--data"]).exits(0);
    assert!(words.stdout.contains("under record key 4; the ones before it are gone"), "{}", words.stdout);
    assert_eq!(told(&daemon), ["reseal_begun", "reseal_done"].repeat(3));
    daemon.stop();
    assert_eq!(epochs(&daemon.path("state/tokens.redb")), [None, Some(4)].into());
    daemon.run();
    for token in &tokens {
        good(&daemon, token);
    }
    daemon.ctl(&["audit", "verify"]).exits(0);
    // Both kinds of change in one store.
    daemon.ctl(&["rekey"]).exits(0);
    daemon.restart();
    good(&daemon, &tokens[0]);
}

/// The stopped daemon's store, opened as a daemon opens it.
fn with_store<T>(daemon: &Daemon, work: impl FnOnce(&Store, &KeySource, KeyHeader) -> T) -> T {
    let source = KeySource::from_file(&key_file(daemon), me()).unwrap().unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(daemon.path("state/tokens.redb")).unwrap();
    let file = StoreFile::from_file(file, FileOptions::default()).unwrap();
    let header = KeyHeader::decode(file.header().unwrap()).unwrap();
    let keyring = Arc::new(Keyring::unlock(&header, &source).unwrap()) as Arc<dyn Sealer>;
    let mark = file.boot(&*keyring).unwrap().mark;
    let clock = Arc::new(Clock::new(Box::new(SystemTime::new()), mark));
    let (store, _) = Store::open(file, keyring, clock, StoreOptions::default()).unwrap();
    let done = work(&store, &source, header);
    block_on(store.stop()).unwrap();
    done
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn put_header(store: &Store, header: &KeyHeader) {
    let bytes = header.encode();
    let job = move |txn: &mut Txn<'_>| -> Result<(), StoreError> {
        txn.put_header(bytes);
        Ok(())
    };
    block_on(store.write(job)).unwrap().unwrap();
}

/// Each state that a crash may leave of a change of the key file: the next start ends it by itself.
#[test]
fn a_change_that_was_cut_off_is_ended_by_the_next_start() {
    let mut daemon = Daemon::start();
    let token = daemon.issue(&["a"]);
    let recovery = daemon.ctl(&["recovery-key"]).exits(0).line();
    let settled: BTreeSet<_> = [one("file", true, false), one("recovery", false, false)].into();
    let path = key_file(&daemon);
    let id = |daemon: &Daemon| status(daemon)["key"]["slot"].as_str().unwrap().to_owned();
    let mut before = id(&daemon);
    // (The new key lies beside it, its slot is there, it has the name), whether the change is then finished.
    for (beside, slot, named, finished) in
        [(true, false, false, false), (true, true, false, true), (false, true, false, false), (true, true, true, true)]
    {
        let what = format!("{beside} {slot} {named}");
        daemon.stop();
        let new = KeySource::random(SlotKind::File, "a test").unwrap();
        with_store(&daemon, |store, source, header| {
            if beside {
                new.write_successor(&path).unwrap();
            }
            if slot {
                put_header(store, &header.install(source, &new, UnixTime::from_secs(1)).unwrap());
            }
        });
        if named {
            KeySource::install_successor(&path).unwrap();
        }
        if !beside {
            // A part of one that came after.
            write_private(&path.with_extension("key.new"), "bearerd-key-1 4db3");
        }
        daemon.run();
        assert_eq!(slots(&daemon), settled, "{what}");
        let now = id(&daemon);
        assert_eq!(now, if finished { new.id().to_string() } else { before.clone() }, "{what}");
        assert_eq!(fs::read_dir(daemon.path("key")).unwrap().count(), 1, "{what}");
        good(&daemon, &token);
        before = now;
        // And it holds.
        daemon.restart();
        assert_eq!((slots(&daemon), id(&daemon)), (settled.clone(), before.clone()), "{what}");
    }
    assert_eq!(told(&daemon), ["recovery_key", "slot_installed", "slot_taken_back", "slot_installed"]);

    // `recover`, cut off before the new key had its name: run again, it goes through.
    daemon.stop();
    with_store(&daemon, |store, source, header| {
        let lost = KeySource::random(SlotKind::File, "a test").unwrap();
        put_header(store, &header.install(source, &lost, UnixTime::from_secs(1)).unwrap());
        lost.write_successor(&path).unwrap();
    });
    fs::remove_file(&path).unwrap();
    assert_eq!(daemon.refuses().0, 78);
    assert_eq!(recover(&daemon, &recovery).0, 0);
    daemon.run();
    good(&daemon, &token);
    assert_eq!(slots(&daemon), settled);
    daemon.ctl(&["audit", "verify"]).exits(0);
}

/// file-format.md, the key header: it lies in clear, and is the one of the last commit or the store is refused.
#[test]
fn a_header_that_was_changed_or_put_back_is_refused() {
    let mut daemon = Daemon::start();
    daemon.issue(&["a"]);
    let store = daemon.path("state/tokens.redb");
    let old_key = fs::read_to_string(key_file(&daemon)).unwrap();
    const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
    let header = || {
        let db = redb::Database::open(&store).unwrap();
        let meta = db.begin_read().unwrap().open_table(META).unwrap();
        meta.get("header").unwrap().unwrap().value().to_vec()
    };
    let put = |header: &[u8]| {
        let db = redb::Database::open(&store).unwrap();
        let txn = db.begin_write().unwrap();
        txn.open_table(META).unwrap().insert("header", header).unwrap();
        txn.commit().unwrap();
    };
    daemon.stop();
    let before = header();
    daemon.run();
    daemon.ctl(&["rekey"]).exits(0);
    daemon.stop();
    let after = header();
    let new_key = fs::read_to_string(key_file(&daemon)).unwrap();
    let mut dated = KeyHeader::decode(&after).unwrap();
    dated.slots[0].created_at = UnixTime::from_secs(1);
    let mut doubled = KeyHeader::decode(&after).unwrap();
    doubled.slots.extend(KeyHeader::decode(&before).unwrap().slots);
    // The old header with the old key, and beside the new one; a date; the dropped slot put back.
    for (key, changed) in [(&old_key, before), (&new_key, dated.encode()), (&new_key, doubled.encode())] {
        write_private(&key_file(&daemon), key);
        put(&changed);
        let (status, said) = daemon.refuses();
        assert!(status == 77 && said.contains("key header of the store is not the one of its last commit"), "{said}");
    }
    put(&after);
    daemon.run();
}

/// Who may not change keys is refused, and leaves no slot.
#[test]
#[ignore = "needs root"]
fn root_only_who_may_admin_changes_keys() {
    let daemon = Daemon::start_with(
        "[[policy]]\nname = \"eyes\"\npeer = { user = \"nobody\" }\nallow = [\"status\", \"audit\", \"validate\"]\n",
    );
    let refused = |ran: Ran| ran.exits(77);
    for words in [&["rekey"][..], &["rekey", "--data"], &["recovery-key"]] {
        let ran = refused(daemon.ctl_as(65_534, "", words));
        assert_eq!(ran.stdout, "");
    }
    assert_eq!(slots(&daemon), [one("file", true, false)].into());
    assert!(told(&daemon).is_empty());
}

/// docs/threat-model.md: a dropped key's slot can't be dug out of free pages of the file, nor can an old record key.
#[test]
fn dropped_keys_leave_nothing_in_the_file() {
    let mut daemon = Daemon::start();
    let issue_some = |daemon: &Daemon| {
        let mut client = daemon.client();
        for n in 0..300 {
            let issue = bearerd::protocol::message::Issue { name: format!("c{n}"), ..Default::default() };
            client.issue(&issue).unwrap();
        }
    };
    issue_some(&daemon);
    daemon.stop();
    let header = with_store(&daemon, |_, _, header| header);
    let store = daemon.path("state/tokens.redb");
    let count = |wrapped: &[u8]| fs::read(&store).unwrap().windows(72).filter(|window| *window == wrapped).count();
    // What would be dropped if all of it were.
    let none = KeyHeader { slots: Vec::new(), record_keys: Vec::new(), ..header.clone() };
    let [slot, record_key] = <[Vec<u8>; 2]>::try_from(header.wrapped_dropped_in(&none)).unwrap();
    assert!(count(&slot) > 0 && count(&record_key) > 0);
    daemon.run();
    daemon.ctl(&["rekey"]).exits(0);
    assert!(count(&slot) == 0 && count(&record_key) > 0);
    issue_some(&daemon);
    daemon.ctl(&["rekey", "--data"]).exits(0);
    issue_some(&daemon);
    daemon.restart();
    daemon.stop();
    assert_eq!((count(&slot), count(&record_key)), (0, 0));
}
