//! An import that is cut off by kill -9: every token that was reported is good, none is half there, and running it again
//! completes it and doubles nothing. 100 rounds.

mod daemon;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bearerd::client::Options;
use bearerd::client::blocking::Client;
use bearerd::protocol::message::{Foreign, ImportEntry, ImportOutcome, Issue, List, Validate};
use bearerd::token::TokenId;
use daemon::{Daemon, PATIENCE};

const ROUNDS: usize = 100;
const TOKENS: usize = 320;
const BATCH: usize = 32;
const IMPORTERS: usize = 2;

fn text(round: usize, number: usize) -> String {
    format!("glpat-Zx8qT3vKr9mLw2Yb7NcD-{round}-{number}")
}

/// Imports a part of the round's tokens, in batches, until it is done or the daemon is gone.
fn import(client: &mut Client, texts: &[String], told: impl Fn(&str, TokenId)) {
    for batch in texts.chunks(BATCH) {
        let entry = |text| ImportEntry {
            token: Foreign::Text(text),
            facts: Issue { name: "old".into(), ..Issue::default() },
            expires_at: None,
        };
        let entries: Vec<ImportEntry<'_>> = batch.iter().map(|text| entry(text)).collect();
        let Ok(outcomes) = client.import(&entries) else { return };
        for (text, outcome) in batch.iter().zip(outcomes) {
            match outcome {
                ImportOutcome::Taken(id) | ImportOutcome::Already(id) => told(text, id),
                ImportOutcome::Refused(why) => panic!("{why}"),
            }
        }
    }
}

fn good(client: &mut Client, texts: &[&String]) -> Vec<bool> {
    let ask = |token| Validate { token, scopes: Vec::new(), audience: None, from: None, note: None, peek: true };
    let mut found = Vec::new();
    for batch in texts.chunks(256) {
        let asks: Vec<Validate<'_>> = batch.iter().map(|text| ask(text.as_str())).collect();
        found.extend(client.validate_batch(&asks).unwrap().into_iter().map(|verdict| verdict.active));
    }
    found
}

fn count(client: &mut Client) -> usize {
    let (mut count, mut after) = (0, None);
    loop {
        let page = client.list(&List { limit: 1000, after, ..List::default() }).unwrap();
        count += page.tokens.len();
        match page.next {
            Some(next) => after = Some(next),
            None => return count,
        }
    }
}

#[test]
fn a_hundred_kills_leave_no_import_half_done() {
    let mut daemon = Daemon::start();
    let mut cut_off = 0;
    for round in 0..ROUNDS {
        let texts: Vec<String> = (0..TOKENS).map(|number| text(round, number)).collect();
        let told: Mutex<HashMap<String, TokenId>> = Mutex::default();
        let batches = AtomicUsize::new(0);
        let pid = nix::unistd::Pid::from_raw(daemon.pid().cast_signed());
        // Counted in batches that were answered, and then in turns of this thread: between them, and inside of one.
        let (moment, turns) = ((round * 7) % 10, (round * 7919) % 400);
        let waiter = std::thread::current();
        std::thread::scope(|scope| {
            for part in texts.chunks(TOKENS / IMPORTERS) {
                let (socket, told, batches, waiter) = (daemon.socket(), &told, &batches, &waiter);
                scope.spawn(move || {
                    let options = Options { connect_retry: std::time::Duration::ZERO, ..Options::default() };
                    let Ok(mut client) = Client::connect(socket, options) else { return };
                    import(&mut client, part, |text, id| {
                        if told.lock().unwrap().insert(text.to_owned(), id).is_none() {
                            batches.fetch_add(1, Ordering::AcqRel);
                            waiter.unpark();
                        }
                    });
                });
            }
            let begun = Instant::now();
            while batches.load(Ordering::Acquire) < moment * BATCH {
                assert!(begun.elapsed() < PATIENCE, "nothing is imported: {}", daemon.said());
                std::thread::park_timeout(PATIENCE);
            }
            for _ in 0..turns {
                std::thread::yield_now();
            }
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        });
        daemon.kill();
        daemon.run();
        let mut client = daemon.client();
        let told = told.into_inner().unwrap();
        cut_off += usize::from(told.len() < TOKENS);
        // What came of the batches whose answer was lost: each whole or not at all.
        let all: Vec<&String> = texts.iter().collect();
        let there = good(&mut client, &all);
        for (text, good) in texts.iter().zip(&there) {
            assert!(*good || !told.contains_key(text), "{round}: reported, and lost");
        }
        for batch in there.chunks(BATCH) {
            assert!(batch.iter().all(|good| *good == batch[0]), "{round}: a batch is half there");
        }

        let again: Mutex<HashMap<String, TokenId>> = Mutex::default();
        import(&mut client, &texts, |text, id| {
            again.lock().unwrap().insert(text.to_owned(), id);
        });
        let again = again.into_inner().unwrap();
        assert_eq!(again.len(), TOKENS);
        assert!(told.iter().all(|(text, id)| again[text] == *id), "{round}: another id for the same token");
        if round % 20 == ROUNDS % 20 {
            assert!(good(&mut client, &all).into_iter().all(|good| good));
        }
    }
    let mut client = daemon.client();
    assert_eq!(count(&mut client), ROUNDS * TOKENS, "some are there twice, or not");
    assert!(cut_off > ROUNDS / 2, "only {cut_off} imports were cut off");
    daemon.ctl(&["audit", "verify"]).exits(0);
    let imported = daemon.trail().iter().filter(|line| line["event"] == "import").count();
    assert_eq!(imported, ROUNDS * TOKENS, "each has its one line");
}
