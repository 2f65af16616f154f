//! I1: an acknowledged change survives kill -9; one that was not acknowledged is absent or whole.
//!
//! Eight clients issue, revoke and validate; the daemon is killed at a random moment, starts again by itself, and what it
//! then says is held against what it had acknowledged. 200 rounds.

mod daemon;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bearerd::client::Options;
use bearerd::client::blocking::Client;
use bearerd::protocol::code::Reason;
use bearerd::protocol::message::{Handle, Issue, Revoke, Validate, Which};
use daemon::{Daemon, PATIENCE};

const ROUNDS: usize = 200;
const CLIENTS: usize = 8;

/// What the clients know for certain of a token, outside the daemon.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Known {
    /// Issued and acknowledged; nobody has tried to revoke it.
    Good,
    /// A revocation was sent and not answered: either is right.
    Either,
    /// Revoked and acknowledged.
    Revoked,
}

fn ask(token: &str) -> Validate<'_> {
    Validate { token, scopes: Vec::new(), audience: None, from: None, note: None, peek: false }
}

/// Works until the daemon is gone.
fn work(daemon: &Daemon, number: usize, oracle: &Mutex<HashMap<String, Known>>, done: &AtomicUsize, over: &AtomicBool) {
    // Not tried again: what the kill cuts off stays cut off.
    let options = Options { connect_retry: std::time::Duration::ZERO, ..Options::default() };
    let Ok(mut client) = Client::connect(daemon.socket(), options) else { return };
    let mut mine: Vec<String> = Vec::new();
    for step in 0.. {
        if over.load(Ordering::Acquire) {
            return;
        }
        match step % 3 {
            1 if mine.len() > 1 => {
                let token = mine.remove(0);
                oracle.lock().unwrap().insert(token.clone(), Known::Either);
                let id = daemon::id_of(&token);
                let request = Revoke { which: Which::Handles(vec![Handle(id)]), reason: None, dry_run: false };
                let Ok(changed) = client.revoke(&request) else { return };
                assert!(changed.count <= 1);
                oracle.lock().unwrap().insert(token, Known::Revoked);
            }
            2 if !mine.is_empty() => {
                let token = mine.last().expect("not empty").clone();
                let Ok(verdict) = client.validate(&ask(&token)) else { return };
                assert!(verdict.active, "{:?}", verdict.reason);
            }
            _ => {
                let request = Issue { name: format!("c{number}-{step}"), ..Issue::default() };
                let Ok(issued) = client.issue(&request) else { return };
                let token = issued.token.expose().to_owned();
                oracle.lock().unwrap().insert(token.clone(), Known::Good);
                mine.push(token);
            }
        }
        done.fetch_add(1, Ordering::AcqRel);
    }
}

#[test]
fn two_hundred_kills_lose_nothing() {
    let mut daemon = Daemon::start();
    let oracle = Mutex::new(HashMap::new());
    let mut operations = 0;
    for round in 0..ROUNDS {
        let done = AtomicUsize::new(0);
        let over = AtomicBool::new(false);
        let pid = nix::unistd::Pid::from_raw(daemon.pid().cast_signed());
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let (daemon, oracle, done, over) = (&daemon, &oracle, &done, &over);
                scope.spawn(move || work(daemon, number, oracle, done, over));
            }
            // The moment is counted in operations, not in time: every round does work, and each another amount of it.
            let moment = 8 + (round * 7) % 61;
            let begun = std::time::Instant::now();
            while done.load(Ordering::Acquire) < moment {
                assert!(begun.elapsed() < PATIENCE, "the clients do nothing: {}", daemon.said());
                std::thread::yield_now();
            }
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
            over.store(true, Ordering::Release);
        });
        operations += done.load(Ordering::Acquire);
        daemon.kill();
        daemon.run();
        // Every tenth round all that was ever acknowledged, else what this round touched last.
        let known: Vec<(String, Known)> =
            oracle.lock().unwrap().iter().map(|(token, known)| (token.clone(), *known)).collect();
        let sample = if round % 10 == 9 { known.len() } else { known.len().min(200) };
        let mut client = daemon.client();
        for batch in known[known.len() - sample..].chunks(256) {
            let asks: Vec<Validate<'_>> = batch.iter().map(|(token, _)| ask(token)).collect();
            let verdicts = client.validate_batch(&asks).unwrap();
            for ((token, known), verdict) in batch.iter().zip(verdicts) {
                match known {
                    Known::Good => assert!(verdict.active, "{round}: lost: {:?}", verdict.reason),
                    Known::Revoked => assert_eq!(verdict.reason, Some(Reason::Revoked), "{round}: lives again"),
                    Known::Either => {
                        assert!(verdict.active || verdict.reason == Some(Reason::Revoked), "{round}: half");
                        // From now on it is what it is.
                        let now = if verdict.active { Known::Good } else { Known::Revoked };
                        oracle.lock().unwrap().insert(token.clone(), now);
                    }
                }
            }
        }
    }
    assert!(operations > ROUNDS * 8, "only {operations} operations were acknowledged");
    daemon.ctl(&["audit", "verify"]).exits(0);

    // I4: each acknowledged change has exactly one line.
    let mut issued: HashMap<String, usize> = HashMap::new();
    let mut revoked: HashMap<String, usize> = HashMap::new();
    for line in daemon.trail() {
        let id = || line["id"].as_str().unwrap().to_owned();
        match line["event"].as_str().unwrap() {
            "issue" => *issued.entry(id()).or_default() += 1,
            "revoke" => *revoked.entry(id()).or_default() += 1,
            _ => {}
        }
    }
    for (token, known) in oracle.lock().unwrap().iter() {
        let id = daemon::id_of(token);
        assert_eq!(issued.get(&id), Some(&1), "issue lines of {id}");
        let expected = if *known == Known::Revoked { Some(&1) } else { None };
        if *known != Known::Either {
            assert_eq!(revoked.get(&id), expected, "revoke lines of {id}");
        }
    }
}
