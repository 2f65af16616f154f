//! I1 while keys change: `rekey` and `rekey --data` are killed at random moments, with others issuing and validating
//! beside. The daemon opens by itself, what was acknowledged is there, and the change ends. 100 rounds.

mod daemon;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use bearerd::client::Options;
use bearerd::client::blocking::Client;
use bearerd::protocol::message::{Issue, Validate};
use daemon::{Daemon, PATIENCE};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};

const ROUNDS: usize = 100;
const CLIENTS: usize = 3;
/// Tokens at the begin: so many that sealing them anew takes several transactions.
const TOKENS: usize = 1200;

fn ask(token: &str) -> Validate<'_> {
    Validate { token, scopes: Vec::new(), audience: None, from: None, note: None, peek: false }
}

fn issue(client: &mut Client, name: String) -> Option<String> {
    client.issue(&Issue { name, ..Issue::default() }).ok().map(|issued| issued.token.expose().to_owned())
}

/// Not tried again: what the kill cuts off stays cut off.
fn connect(daemon: &Daemon) -> Option<Client> {
    Client::connect(daemon.socket(), Options { connect_retry: Duration::ZERO, ..Options::default() }).ok()
}

/// Issues and validates until the daemon is gone.
fn work(daemon: &Daemon, known: &Mutex<Vec<String>>, done: &AtomicUsize, over: &AtomicBool, waiter: &Thread) {
    let Some(mut client) = connect(daemon) else { return };
    let mut last: Option<String> = None;
    while !over.load(Ordering::Acquire) {
        match last.take() {
            Some(token) => {
                let Ok(verdict) = client.validate(&ask(&token)) else { return };
                assert!(verdict.active, "{:?}", verdict.reason);
            }
            None => {
                let Some(token) = issue(&mut client, "load".to_owned()) else { return };
                known.lock().unwrap().push(token.clone());
                last = Some(token);
            }
        }
        done.fetch_add(1, Ordering::AcqRel);
        waiter.unpark();
    }
}

/// The numbers of the record keys that the values of the file are sealed under.
fn epochs(daemon: &Daemon) -> BTreeSet<u32> {
    let copy = tempfile::NamedTempFile::new().unwrap();
    fs::copy(daemon.path("state/tokens.redb"), copy.path()).unwrap();
    let db = redb::Database::open(copy.path()).unwrap();
    let txn = db.begin_read().unwrap();
    let epoch = |sealed: &[u8]| u32::from_le_bytes(sealed[1..5].try_into().unwrap());
    let mut found = BTreeSet::new();
    let meta = txn.open_table(TableDefinition::<&str, &[u8]>::new("meta")).unwrap();
    for row in meta.iter().unwrap().map(Result::unwrap) {
        if !["format", "header"].contains(&row.0.value()) {
            found.insert(epoch(row.1.value()));
        }
    }
    for name in ["tokens", "usage"] {
        let table = txn.open_table(TableDefinition::<&[u8; 16], &[u8]>::new(name)).unwrap();
        found.extend(table.iter().unwrap().map(|row| epoch(row.unwrap().1.value())));
    }
    let outbox = txn.open_table(TableDefinition::<u64, &[u8]>::new("outbox")).unwrap();
    found.extend(outbox.iter().unwrap().map(|row| epoch(row.unwrap().1.value())));
    found
}

#[test]
fn a_hundred_kills_of_rekey_lose_nothing() {
    let mut daemon = Daemon::start();
    let known = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = connect(&daemon).unwrap();
                let tokens: Vec<String> =
                    (0..TOKENS / 8).map(|_| issue(&mut client, "first".into()).unwrap()).collect();
                known.lock().unwrap().extend(tokens);
            });
        }
    });
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut keys_done, mut keys_cut) = (0, 0);
    for round in 0..ROUNDS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let data = round % 2 == 0;
        // Counted in what the daemon does for others meanwhile, so that it is work that is cut, not time. A change of the key
        // has four transactions, sealing anew some more.
        let moment = (random >> 33) as usize % if data { 40 } else { 16 };
        // Some are let come to their end, and killed there.
        let whole = round % 10 == 1;
        let (done, over, begun) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicBool::new(false));
        let ended = AtomicBool::new(false);
        let waiter = std::thread::current();
        let pid = nix::unistd::Pid::from_raw(daemon.pid().cast_signed());
        let wait = |enough: &dyn Fn() -> bool| {
            let since = Instant::now();
            while !enough() {
                assert!(since.elapsed() < PATIENCE, "nothing goes on: {}", daemon.said());
                std::thread::park_timeout(PATIENCE);
            }
        };
        let changed = std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| work(&daemon, &known, &done, &over, &waiter));
            }
            let changer = scope.spawn(|| {
                let mut client = connect(&daemon).unwrap();
                begun.store(true, Ordering::Release);
                waiter.unpark();
                let changed = if data { client.rekey_data().is_ok() } else { client.rekey().is_ok() };
                ended.store(true, Ordering::Release);
                waiter.unpark();
                changed
            });
            wait(&|| begun.load(Ordering::Acquire));
            let from = done.load(Ordering::Acquire);
            wait(&|| if whole { ended.load(Ordering::Acquire) } else { done.load(Ordering::Acquire) >= from + moment });
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
            over.store(true, Ordering::Release);
            changer.join().unwrap()
        });
        if !data {
            *if changed { &mut keys_done } else { &mut keys_cut } += 1;
        }
        daemon.kill();
        daemon.run();
        let mut client = daemon.client();
        let known = known.lock().unwrap();
        // The newest, and a part of all that there ever was; all of it at the end.
        let part = known.iter().rev().enumerate().filter(|(at, _)| *at < 60 || at % 20 == round % 20);
        let part: Vec<&String> = part.map(|(_, token)| token).collect();
        for batch in part.chunks(256) {
            let asks: Vec<Validate<'_>> = batch.iter().map(|token| ask(token)).collect();
            let lost = client.validate_batch(&asks).unwrap().iter().filter(|verdict| !verdict.active).count();
            assert_eq!(lost, 0, "round {round}: lost: {}", daemon.said());
        }
        // Killed again before it has ended, now and then.
        if round % 5 != 4 {
            continue;
        }
        let since = Instant::now();
        while client.rekey_progress().unwrap().running {
            assert!(since.elapsed() < PATIENCE, "sealing anew does not end: {}", daemon.said());
        }
        let status: serde_json::Value = serde_json::from_str(&client.status().unwrap()).unwrap();
        let key = &status["key"];
        assert!(key["reseal"].is_null() && key["slots"].as_array().unwrap().len() == 1, "round {round}: {key}");
        assert_eq!(fs::read_dir(daemon.path("key")).unwrap().count(), 1, "round {round}");
    }
    let mut client = daemon.client();
    let known = known.into_inner().unwrap();
    for batch in known.chunks(256) {
        let asks: Vec<Validate<'_>> = batch.iter().map(|token| ask(token)).collect();
        assert!(client.validate_batch(&asks).unwrap().iter().all(|verdict| verdict.active), "lost at the end");
    }
    let last = client.rekey_progress().unwrap();
    assert!(last.finished, "{last:?}");
    drop(client);
    daemon.ctl(&["audit", "verify"]).exits(0);
    daemon.stop();
    assert_eq!(epochs(&daemon), [last.epoch].into(), "something is sealed under an old key");
    // The rounds did what they are for: changes were cut off at their middle, and gone on with.
    let said = daemon.said();
    let times = |words: &str| said.matches(words).count();
    let resumed = times("not all sealed under record key");
    let finished = times("is in force; the one before it") + times("which was cut off, is finished");
    let taken_back = times("is taken back");
    println!(
        "{keys_done} changes of the key done, {keys_cut} cut; {finished} finished, {taken_back} taken back by a start; sealing gone on with {resumed} times; record key {}",
        last.epoch
    );
    assert!(resumed >= 10, "sealing anew was gone on with {resumed} times only");
    assert!(keys_done >= 5 && finished + taken_back >= 3, "{keys_done} {finished} {taken_back}");
}
