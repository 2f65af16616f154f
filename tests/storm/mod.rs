//! 64 caching clients, revokers, and a daemon that is killed, stopped, restarted and reloaded all the while. Whatever is
//! answered *active* in a check that began after the reply to the revocation is a violation.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod board;
pub mod client;
mod revoker;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use self::board::{Board, Counts, PLACES};
use crate::daemon::{Daemon, PATIENCE};

/// What tokens are issued with and asked for.
pub const SCOPES: [&str; 2] = ["a", "b"];
/// Revokers of single tokens; one more gives orders.
const REVOKERS: usize = 3;
/// Places that each of them tends.
const TENDED: usize = PLACES / (REVOKERS + 1);

/// How long a run goes on.
#[derive(Clone, Debug)]
pub struct Plan {
    pub clients: usize,
    pub seed: u64,
    /// All of these are wanted.
    pub checks: u64,
    pub revocations: u64,
    pub kills: u64,
    pub stops: u64,
    pub restarts: u64,
    pub reloads: u64,
    /// And no longer than this.
    pub at_most: Duration,
    /// A violation ends it.
    pub until_stale: bool,
}

impl Plan {
    /// With so many checks, and disturbances in proportion.
    pub fn of_checks(checks: u64, seed: u64) -> Self {
        let each = |checks_each: u64| (checks / checks_each).max(1);
        Self {
            clients: 64,
            seed,
            checks,
            revocations: each(1000),
            kills: each(50_000),
            stops: each(125_000),
            restarts: each(250_000),
            reloads: each(125_000),
            at_most: Duration::from_secs(240).max(Duration::from_millis(checks / 4)),
            until_stale: false,
        }
    }

    /// For a run in which something stale is expected.
    pub fn until_something_is_stale(at_most: Duration) -> Self {
        Self { at_most, until_stale: true, ..Self::of_checks(u64::MAX, 1) }
    }
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Report {
    pub counts: Counts,
    pub made: [(&'static str, u64); 8],
    pub revocations: u64,
    /// Changes whose reply a kill or a stop took: made or not, and asked for again.
    pub cut_off: u64,
    pub kills: u64,
    pub stops: u64,
    pub restarts: u64,
    pub reloads: u64,
    pub violations: Vec<String>,
    pub took: Duration,
}

/// Numbers that are the same for the same seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.next() % (to - from))
    }
}

/// The clients' processes, killed when this is dropped.
struct Clients(Vec<Child>);

impl Drop for Clients {
    fn drop(&mut self) {
        for client in &mut self.0 {
            let _ = client.kill();
            let _ = client.wait();
        }
    }
}

/// What the threads of a run have in common.
struct Common {
    board: Board,
    over: AtomicBool,
    made: revoker::Made,
    cut_off: AtomicU64,
    violations: Mutex<Vec<String>>,
}

/// Lets it blow. The test's program must have a test `storm_client` that calls [`client::run`].
pub fn run(plan: &Plan) -> Report {
    let begun = Instant::now();
    let mut daemon = Daemon::start();
    let (texts, counted) = (daemon.path("texts"), daemon.path("counts"));
    let common = Arc::new(Common {
        board: Board::new(&texts),
        over: AtomicBool::new(false),
        made: revoker::Made::default(),
        cut_off: AtomicU64::new(0),
        violations: Mutex::default(),
    });
    let counts = OpenOptions::new().create_new(true).read(true).write(true).open(&counted).unwrap();
    let mut clients = Clients(Vec::new());
    for number in 0..plan.clients {
        let said = [
            number.to_string(),
            plan.seed.to_string(),
            common.board.path(),
            texts.display().to_string(),
            counted.display().to_string(),
            daemon.socket().display().to_string(),
        ];
        clients.0.push(start(client::command("storm_client", &said.join(" ")), &common));
    }
    let mut report = Report::default();
    thread::scope(|scope| {
        for number in 0..=REVOKERS {
            let dice = Dice(plan.seed.wrapping_mul(31) + number as u64);
            let places = number * TENDED..(number + 1) * TENDED;
            let (common, socket) = (&common, daemon.socket());
            scope.spawn(move || match number {
                REVOKERS => revoker::Revoker::new(common, socket, dice, places).give_orders(),
                _ => revoker::Revoker::new(common, socket, dice, places).revoke(),
            });
        }
        // Revokers end also when what is asserted here fails.
        let _over = Over(&common.over);
        disturb(&mut daemon, plan, &common, &counts, &mut report, begun);
    });
    if !plan.until_stale {
        calm(&mut daemon, plan, &common, &counts);
        // They look once more, and end.
        for client in &mut clients.0 {
            let status = client.wait().unwrap();
            assert!(status.success(), "a client died: {status}");
        }
    }
    drop(clients);
    report.counts = Counts::read(&counts, plan.clients);
    report.made = common.made.all();
    report.revocations = common.made.sum();
    report.cut_off = common.cut_off.load(Ordering::Relaxed);
    report.violations = std::mem::take(&mut common.violations.lock().unwrap());
    report.took = begun.elapsed();
    report
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Starts a client, and takes down what it says.
fn start(mut command: Command, common: &Arc<Common>) -> Child {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    let common = Arc::clone(common);
    thread::spawn(move || {
        for line in said.lines().map_while(Result::ok) {
            if let Some((_, what)) = line.split_once(client::STALE) {
                common.violations.lock().unwrap().push(what.to_owned());
            }
        }
    });
    child
}

/// What happens to the daemon, until there has been enough of all.
fn disturb(daemon: &mut Daemon, plan: &Plan, common: &Common, counts: &File, report: &mut Report, begun: Instant) {
    let mut dice = Dice(plan.seed);
    loop {
        let (done, counted) = (common.made.sum(), Counts::read(counts, plan.clients));
        let enough = counted.checks >= plan.checks
            && done >= plan.revocations
            && report.kills >= plan.kills
            && report.stops >= plan.stops
            && report.restarts >= plan.restarts
            && report.reloads >= plan.reloads;
        let stale = plan.until_stale && !common.violations.lock().unwrap().is_empty();
        if enough || stale || begun.elapsed() > plan.at_most {
            return;
        }
        // Mostly long enough for caches to be filled and revocations to be answered; at times amid the takeover.
        let quiet = if dice.below(4) == 0 { dice.millis(20, 400) } else { dice.millis(700, 2200) };
        thread::sleep(quiet);
        match dice.below(20) {
            0..=8 => {
                daemon.kill();
                report.kills += 1;
                if dice.below(4) == 0 {
                    // One that does not get far.
                    let mut short = daemon.command().stderr(Stdio::null()).spawn().unwrap();
                    thread::sleep(dice.millis(1, 200));
                    let _ = short.kill();
                    short.wait().unwrap();
                    report.kills += 1;
                }
                daemon.run();
            }
            9..=12 => {
                daemon.signal(Signal::SIGSTOP);
                thread::sleep(dice.millis(50, 1600));
                report.stops += 1;
                if dice.below(3) == 0 {
                    daemon.kill();
                    daemon.run();
                    report.kills += 1;
                } else {
                    daemon.signal(Signal::SIGCONT);
                }
            }
            13..=15 => {
                daemon.restart();
                report.restarts += 1;
            }
            _ => {
                daemon.signal(Signal::SIGHUP);
                report.reloads += 1;
            }
        }
    }
}

/// Each client has lived through it, and still hears of a revocation.
fn calm(daemon: &mut Daemon, plan: &Plan, common: &Common, counts: &File) {
    daemon.kill();
    daemon.run();
    let (token, text) = revoker::last(common, daemon.socket());
    common.board.show_last(token);
    let begun = Instant::now();
    while Counts::read(counts, plan.clients).calm < plan.clients as u64 {
        assert!(
            begun.elapsed() < 2 * PATIENCE,
            "only {} of {} clients live",
            Counts::read(counts, plan.clients).calm,
            plan.clients
        );
        thread::sleep(Duration::from_millis(20));
    }
    revoker::revoke_last(common, daemon.socket(), token, &text);
    common.board.end();
}
