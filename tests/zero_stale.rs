//! I2 across processes: 64 caching clients, one that takes rights away, and a daemon that is killed, stopped, restarted
//! and reloaded at random. No client is told *active* by a check that began after the reply.
//!
//! How that is seen: the one who takes rights away makes a word in shared memory odd as soon as it has the reply. A client
//! reads the word, then checks. An odd word and *active* is a failure, whatever else happens.
//!
//! Runs until each client has made its checks; `BEARERD_ZERO_STALE=N` makes it N times as many.

mod daemon;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bearerd::client::blocking::{CachedClient, Client};
use bearerd::client::{CacheOptions, Options};
use bearerd::protocol::message::{
    Chosen, Condition, Edit, Filter, Handle, Hold, Issue, Revoke, Rotate, Validate, Which,
};
use bearerd::sys::shared::{OwnWords, Words};
use daemon::{Daemon, id_of};
use nix::sys::signal::Signal;

const CLIENTS: usize = 64;
/// Of each client, and of all 1,024,000.
const CHECKS: u64 = 16_000;
/// Tokens that are made beforehand; each dies at most once.
const TOKENS: usize = 3000;
/// Tokens that clients ask about at a time.
const WINDOW: usize = 24;
/// Tokens of one subject: an order by subject takes so many at once.
const OF_SUBJECT: usize = 4;

const STOP: usize = 0;
const BEGIN: usize = 1;
const FIRST: usize = 8;
const WORDS: usize = FIRST + TOKENS;

const DIR: &str = "BEARERD_ZERO_STALE_DIR";
const SHARED: &str = "BEARERD_ZERO_STALE_WORDS";
const SEED: &str = "BEARERD_ZERO_STALE_SEED";

/// Numbers that a seed gives again (xorshift64).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn times() -> u64 {
    std::env::var("BEARERD_ZERO_STALE").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

fn patient() -> Options {
    let long = Duration::from_secs(30);
    Options { timeout: long, long_timeout: long, connect_retry: long, ..Options::default() }
}

fn ask(token: &str) -> Validate<'_> {
    Validate { token, scopes: vec!["a"], audience: None, from: None, note: None, peek: false }
}

/// One of the clients, in a process of its own; does nothing in a run of the tests.
#[test]
fn a_client() {
    let (Ok(dir), Ok(shared), Ok(seed)) = (std::env::var(DIR), std::env::var(SHARED), std::env::var(SEED)) else {
        return;
    };
    let dir = PathBuf::from(dir);
    let words = Words::open(&OwnedFd::from(File::open(shared).unwrap()), WORDS).unwrap();
    let tokens = std::fs::read_to_string(dir.join("tokens")).unwrap();
    let tokens: Vec<&str> = tokens.lines().collect();
    let mut dice = Dice::new(seed.parse().unwrap());
    let client = CachedClient::connect(dir.join("run/bearerd.sock"), patient(), CacheOptions::default()).unwrap();
    let (mut checks, mut hits, mut dead, mut errors) = (0_u64, 0_u64, 0_u64, 0_u64);
    let quota = CHECKS * times();
    while words.load(STOP) == 0 {
        for _ in 0..64 {
            let place = words.load(BEGIN) as usize + dice.roll(WINDOW as u64) as usize;
            let token = tokens[place % TOKENS];
            let before = words.load(FIRST + place % TOKENS);
            let asked = ask(token);
            let kept = client.kept(&asked);
            hits += u64::from(kept.is_some());
            let verdict = match kept.map_or_else(|| client.validate(&asked), Ok) {
                Ok(verdict) => verdict,
                // The daemon is killed all the time; that is no verdict.
                Err(_) => {
                    errors += 1;
                    continue;
                }
            };
            // Odd: it was taken away. What was held may have been let go while the check went on; then the word has changed.
            let gone = before % 2 == 1 && before == words.load(FIRST + place % TOKENS);
            assert!(!(gone && verdict.active), "STALE: token {place} was active after the reply that took it away");
            checks += 1;
            dead += u64::from(gone);
            if checks == quota {
                println!("quota");
            }
        }
        // 64 clients on a few processors: the daemon and the one who revokes need some of them too.
        thread::sleep(Duration::from_millis(15));
    }
    println!("counts {checks} {hits} {dead} {errors}");
}

/// Whatever happens, everybody is told to end.
struct AtTheEnd<'a>(&'a AtomicBool, &'a OwnWords);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        self.1.words()[STOP].store(1, Ordering::SeqCst);
    }
}

struct Clients(Vec<Child>);

impl Drop for Clients {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Takes rights away, one after the other, and says so in the words.
fn take_away(daemon_socket: PathBuf, words: &OwnWords, tokens: &[String], stop: &AtomicBool) -> [u64; 5] {
    let mut client = Client::connect(daemon_socket, patient()).unwrap();
    let mut dice = Dice::new(0x5eed);
    let mut done = [0; 5];
    let mut next = 0;
    // Odd while the token is taken away.
    let turn = |place: usize| {
        words.words()[FIRST + place].fetch_add(1, Ordering::SeqCst);
    };
    while !stop.load(Ordering::SeqCst) && next + WINDOW + OF_SUBJECT < TOKENS {
        let handle = || Handle(id_of(&tokens[next]));
        let revoke = |client: &mut Client, which: Which<'_>| {
            // Repeating it does no harm, and only a reply counts.
            while client.revoke(&Revoke { which: copy(&which), reason: None, dry_run: false }).is_err() {}
        };
        let kind = match dice.roll(40) {
            0..24 => {
                revoke(&mut client, Which::Handles(vec![handle()]));
                turn(next);
                next += 1;
                0
            }
            24 => {
                // It voids what every client has kept, of any token: so it is rare. All of the subject's that are left, in one order.
                let subject = next / OF_SUBJECT;
                revoke(&mut client, Which::Filter(Filter(vec![Condition::Subject(format!("s{subject}"))])));
                while next / OF_SUBJECT == subject {
                    turn(next);
                    next += 1;
                }
                1
            }
            25..29 => {
                let rotated = client.rotate(&Rotate { token: handle(), now: true, grace: None });
                if rotated.is_err() {
                    revoke(&mut client, Which::Handles(vec![handle()]));
                }
                turn(next);
                next += 1;
                2
            }
            29..33 => {
                // What was lost may have been done, and then there is nothing left to take away.
                if client.edit(&Edit { drop_scopes: vec!["a".into()], ..Edit::of(handle()) }).is_err() {
                    revoke(&mut client, Which::Handles(vec![handle()]));
                }
                turn(next);
                next += 1;
                3
            }
            _ => {
                let hold = || Hold { which: Chosen::Handles(vec![handle()]), reason: None, dry_run: false };
                while client.suspend(&hold()).is_err() {}
                turn(next);
                thread::sleep(Duration::from_millis(dice.roll(30)));
                // Before it is asked for: it may be good again from then on.
                turn(next);
                while client.resume(&hold()).is_err() {}
                4
            }
        };
        done[kind] += 1;
        words.words()[BEGIN].store(next.saturating_sub(WINDOW / 4) as u64, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(10 + dice.roll(40)));
    }
    done
}

fn copy<'a>(which: &Which<'a>) -> Which<'a> {
    match which {
        Which::Handles(handles) => Which::Handles(handles.clone()),
        Which::Token(token) => Which::Token(token),
        Which::Filter(filter) => Which::Filter(filter.clone()),
    }
}

fn issue_all(daemon: &Daemon) -> Vec<String> {
    let mut tokens = vec![String::new(); TOKENS];
    thread::scope(|scope| {
        for (part, tokens) in tokens.chunks_mut(TOKENS.div_ceil(16)).enumerate() {
            let socket = daemon.socket();
            scope.spawn(move || {
                let mut client = Client::connect(socket, patient()).unwrap();
                for (n, token) in tokens.iter_mut().enumerate() {
                    let number = part * TOKENS.div_ceil(16) + n;
                    let issue = Issue {
                        name: format!("t{number}"),
                        subject: Some(format!("s{}", number / OF_SUBJECT)),
                        scopes: vec!["a".into(), "b".into()],
                        ..Issue::default()
                    };
                    *token = client.issue(&issue).unwrap().token.expose().to_owned();
                }
            });
        }
    });
    tokens
}

#[test]
fn no_client_is_told_active_after_the_reply() {
    let mut daemon = Daemon::start();
    let tokens = issue_all(&daemon);
    std::fs::write(daemon.path("tokens"), tokens.join("\n")).unwrap();
    let words = OwnWords::new("zero-stale", WORDS).unwrap();
    let shared = format!("/proc/{}/fd/{}", std::process::id(), words.file().as_raw_fd());
    let mut clients = Clients(Vec::new());
    let (say, heard) = std::sync::mpsc::channel::<String>();
    for seed in 1..=CLIENTS {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "a_client", "--nocapture"]).env(DIR, daemon.path(".")).env(SHARED, &shared);
        command.env(SEED, seed.to_string()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (lines, say) = (BufReader::new(child.stdout.take().unwrap()).lines(), say.clone());
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(say.send(line))));
        clients.0.push(child);
    }
    drop(say);
    let stop = AtomicBool::new(false);
    let mut dice = Dice::new(0xdae);
    let [mut kills, mut stops, mut restarts, mut reloads] = [0_u64; 4];
    let done = thread::scope(|scope| {
        let (socket, words, tokens, stop) = (daemon.socket(), &words, &tokens, &stop);
        let taking = scope.spawn(move || take_away(socket, words, tokens, stop));
        let _end = AtTheEnd(stop, words);
        let mut counts = [0_u64; 4];
        let (mut met, mut ended) = (0, 0);
        let begun = Instant::now();
        while ended < CLIENTS {
            let patience = Duration::from_millis(500 + dice.roll(2500));
            let until = Instant::now() + patience;
            while let Ok(line) = heard.recv_timeout(until.saturating_duration_since(Instant::now())) {
                met += u64::from(line == "quota");
                assert!(!line.contains("STALE"), "{line}");
                if let Some(told) = line.strip_prefix("counts ") {
                    ended += 1;
                    for (sum, count) in counts.iter_mut().zip(told.split(' ')) {
                        *sum += count.parse::<u64>().unwrap();
                    }
                }
            }
            for child in &mut clients.0 {
                let status = child.try_wait().unwrap();
                assert!(
                    status.is_none_or(|status| status.success()),
                    "a client ended with {status:?}: see what it printed"
                );
            }
            assert!(
                begun.elapsed() < Duration::from_secs(600) * times() as u32,
                "{met} of {CLIENTS} have made their checks"
            );
            if met == CLIENTS as u64 && kills >= 8 && stops >= 3 && restarts + reloads >= 5 {
                stop.store(true, Ordering::SeqCst);
                words.words()[STOP].store(1, Ordering::SeqCst);
                continue;
            }
            match dice.roll(10) {
                0..4 => {
                    daemon.kill();
                    daemon.run();
                    kills += 1;
                }
                4..6 => {
                    daemon.signal(Signal::SIGSTOP);
                    thread::sleep(Duration::from_millis(50 + dice.roll(1500)));
                    daemon.signal(Signal::SIGCONT);
                    stops += 1;
                }
                6 => {
                    // Killed while it is stopped: it never learns of what it had allowed.
                    daemon.signal(Signal::SIGSTOP);
                    daemon.kill();
                    daemon.run();
                    kills += 1;
                }
                7 => {
                    daemon.stop();
                    daemon.run();
                    restarts += 1;
                }
                _ => {
                    daemon.signal(Signal::SIGHUP);
                    reloads += 1;
                }
            }
        }
        let [checks, hits, dead, errors] = counts;
        println!(
            "{checks} checks, {hits} out of the cache, {dead} of tokens taken away, {errors} without an answer; \
             {kills} kills, {stops} stops, {restarts} restarts, {reloads} reloads"
        );
        assert!(checks >= CLIENTS as u64 * CHECKS * times());
        assert!(hits >= checks / 4, "only {hits} of {checks} came out of a cache");
        assert!(dead >= checks / 100, "only {dead} of {checks} were of tokens that were taken away");
        taking.join().unwrap()
    });
    println!("revoked {}, by order {}, rotated {}, narrowed {}, held {}", done[0], done[1], done[2], done[3], done[4]);
    assert!(done.iter().filter(|&&times| times > 0).count() >= 4 && done.iter().sum::<u64>() >= 50, "{done:?}");
}
