//! I1: an acknowledged change survives kill -9; one that was not acknowledged is absent or whole.
//!
//! Eight clients issue, revoke and validate; the daemon is killed at a random moment, starts again by itself, and what it
//! then says is held against what it had acknowledged. 200 rounds.

mod daemon;

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;

use bearerd::client::Options;
use bearerd::client::blocking::Client;
use bearerd::protocol::code::Reason;
use bearerd::protocol::message::{Handle, Issue, Revoke, Validate, Which};
use daemon::{Daemon, PATIENCE};

const ROUNDS: usize = 200;
const CLIENTS: usize = 8;
/// After how many rounds everything is looked at.
const ALL_EVERY: usize = 20;

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

/// All that was acknowledged.
#[derive(Default)]
struct Oracle {
    known: HashMap<String, Known>,
    /// Since the last kill.
    touched: HashSet<String>,
}

impl Oracle {
    fn learn(&mut self, token: &str, known: Known) {
        self.known.insert(token.to_owned(), known);
        self.touched.insert(token.to_owned());
    }
}

fn ask(token: &str) -> Validate<'_> {
    Validate { token, scopes: Vec::new(), audience: None, from: None, note: None, peek: false }
}

/// Works until the daemon is gone.
fn work(
    daemon: &Daemon,
    number: usize,
    oracle: &Mutex<Oracle>,
    done: &AtomicUsize,
    over: &AtomicBool,
    waiter: &Thread,
) {
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
                oracle.lock().unwrap().learn(&token, Known::Either);
                let id = daemon::id_of(&token);
                let request = Revoke { which: Which::Handles(vec![Handle(id)]), reason: None, dry_run: false };
                let Ok(changed) = client.revoke(&request) else { return };
                assert!(changed.count <= 1);
                oracle.lock().unwrap().learn(&token, Known::Revoked);
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
                oracle.lock().unwrap().learn(&token, Known::Good);
                mine.push(token);
            }
        }
        done.fetch_add(1, Ordering::AcqRel);
        waiter.unpark();
    }
}

#[test]
fn two_hundred_kills_lose_nothing() {
    let mut daemon = Daemon::start();
    let oracle = Mutex::new(Oracle::default());
    let mut operations = 0;
    for round in 0..ROUNDS {
        let done = AtomicUsize::new(0);
        let over = AtomicBool::new(false);
        let waiter = std::thread::current();
        let pid = nix::unistd::Pid::from_raw(daemon.pid().cast_signed());
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let (daemon, oracle, done, over) = (&daemon, &oracle, &done, &over);
                let waiter = &waiter;
                scope.spawn(move || work(daemon, number, oracle, done, over, waiter));
            }
            // The moment is counted in operations, not in time: every round does work, and each another amount of it.
            let moment = 8 + (round * 7) % 61;
            let begun = std::time::Instant::now();
            while done.load(Ordering::Acquire) < moment {
                assert!(begun.elapsed() < PATIENCE, "the clients do nothing: {}", daemon.said());
                // Each operation wakes us; whoever spins here takes the core that the daemon needs.
                std::thread::park_timeout(PATIENCE);
            }
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
            over.store(true, Ordering::Release);
        });
        operations += done.load(Ordering::Acquire);
        daemon.kill();
        daemon.run();
        // What this round touched; and every so often, after the last at least, all that was ever acknowledged.
        let touched = std::mem::take(&mut oracle.lock().unwrap().touched);
        let known: Vec<(String, Known)> = {
            let oracle = oracle.lock().unwrap();
            let all = round % ALL_EVERY == ALL_EVERY - 1;
            let asked = oracle.known.iter().filter(|(token, _)| all || touched.contains(*token));
            asked.map(|(token, known)| (token.clone(), *known)).collect()
        };
        let mut client = daemon.client();
        for batch in known.chunks(256) {
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
                        oracle.lock().unwrap().known.insert(token.clone(), now);
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
    for (token, known) in &oracle.lock().unwrap().known {
        let id = daemon::id_of(token);
        assert_eq!(issued.get(&id), Some(&1), "issue lines of {id}");
        let expected = if *known == Known::Revoked { Some(&1) } else { None };
        if *known != Known::Either {
            assert_eq!(revoked.get(&id), expected, "revoke lines of {id}");
        }
    }
}
