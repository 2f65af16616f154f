//! What more tokens cost: bearerd with stores of several sizes, filled through the library. Stores and daemons stay until
//! all were measured, since latencies are of rounds in which each has its turn.
//!
//! A question is about a token that is drawn from all, comes from an address of its own, and is asked once: with a small
//! store, too, each opens an audit window, so that what differs is what the store costs. The daemon's cache of records
//! helps as much as it would in life, and no more.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bearerd::client::Options;
use bearerd::client::blocking::Client;
use bearerd::protocol::message::{Ask, Request};
use nix::sys::statvfs::statvfs;

use crate::common::fill::{self, Forge};
use crate::common::histogram::Histogram;
use crate::common::load::{Check, Frames, Load, Outcome};
use crate::common::random::Random;
use crate::common::server::{self, Server, Sink};
use crate::common::tokens;
use crate::common::wire::Target;
use crate::plan::Plan;
use crate::report::{Scaled, median};
use crate::stage;

/// Tokens that are used before memory is looked at, at most.
const USED_MAX: usize = 1_000_000;
/// Questions that are prepared at a time.
const CHUNK: usize = 100_000;
/// Connections, and requests in flight on each, while they are used.
const USE_BY: (usize, usize) = (16, 8);
/// Longest time for one chunk.
const USE_TIME: Duration = Duration::from_secs(300);
/// Connections of the two measurements, and how many questions are prepared for each second of a round.
const ALONE: (usize, f64) = (1, 60_000.0);
const MANY: (usize, f64) = (16, 150_000.0);
/// Issued before each kill: something was written.
const ISSUES: usize = 20;
/// `Answer::Verdict`, and that it is active, as they follow the request's number.
const ACTIVE: [u8; 2] = [1, 1];
/// What a token may take on the disk while the store is filled; where there is less room, that scale is skipped.
const ROOM_PER_TOKEN: u64 = 3 << 10;

/// A store of one size, and the daemon that serves it.
struct Stand {
    forge: Forge,
    count: usize,
    server: Server,
    figures: Scaled,
    alone: Vec<Histogram>,
    many: Histogram,
    random: Random,
    _files: tempfile::TempDir,
}

/// Where a store's daemon starts.
struct Start<'a> {
    plan: &'a Plan,
    files: &'a Path,
    config: PathBuf,
    socket: PathBuf,
    notify: PathBuf,
}

/// Measures all sizes that the plan names and that the disk has room for.
pub fn measure(plan: &Plan) -> io::Result<Vec<Scaled>> {
    let (_files, sockets) = stage::places()?;
    let log = sockets.path().join("log");
    let _sink = Sink::open(&log)?;
    let mut stands = Vec::new();
    for &count in &plan.scale {
        let free = statvfs(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
        let (free, wanted) = (free.blocks_available() * free.fragment_size(), count as u64 * ROOM_PER_TOKEN);
        if free < wanted {
            println!("skipped: scale {count} ({} GB are free below target/, {} wanted)", free >> 30, wanted >> 30);
            continue;
        }
        stands.push(Stand::set(plan, count, sockets.path(), &log)?);
    }
    for round in 0..plan.rounds {
        for turn in 0..stands.len() {
            let at = (round + turn) % stands.len();
            stands[at].round(plan)?;
        }
    }
    let Some(first) = stands.first() else { return Ok(Vec::new()) };
    let base: Vec<(f64, f64)> = first.alone.iter().map(|all| (all.micros_at(0.5), all.micros_at(0.99))).collect();
    Ok(stands.into_iter().map(|stand| stand.figures(&base)).collect())
}

impl Stand {
    fn set(plan: &Plan, count: usize, sockets: &Path, log: &Path) -> io::Result<Self> {
        let (files, _) = stage::places()?;
        let socket = sockets.join(format!("{count}.sock"));
        let config = server::configure(files.path(), &socket, Some(log))?;
        let forge = Forge::new(count, 6);
        let took = fill::fill(&config, count, |ground, number| forge.record(ground, number))?;
        let store = fs::metadata(files.path().join("state/tokens.redb"))?;
        eprintln!(
            "scale {count}: filled in {:.1} s, {:.0} bytes a token",
            took.as_secs_f64(),
            (store.blocks() * 512) as f64 / count as f64
        );
        let start =
            Start { plan, files: files.path(), config, socket, notify: sockets.join(format!("{count}.notify")) };
        let ready_clean_ms = start.clean()?;
        let (server, ready_killed_ms) = start.killed()?;
        let idle_kib = server.resident_kib()?;
        let mut stand = Self {
            figures: Scaled {
                tokens: count,
                fill_secs: took.as_secs_f64(),
                store_bytes: store.blocks() * 512,
                store_length: store.len(),
                ready_clean_ms,
                ready_killed_ms,
                idle_kib,
                used: count.min(USED_MAX),
                used_kib: 0,
                alone: (&Histogram::default()).into(),
                many: (&Histogram::default()).into(),
                p50_ratio: 0.0,
                p99_ratio: 0.0,
                bad: 0,
            },
            forge,
            count,
            server,
            alone: Vec::new(),
            many: Histogram::default(),
            random: Random::new(7),
            _files: files,
        };
        stand.use_them()?;
        stand.figures.used_kib = stand.server.resident_kib()?;
        let figures = &stand.figures;
        eprintln!(
            "scale {count}: ready in {:.0} ms clean, {:.0} ms after a kill; {:.0} MiB idle, {:.0} MiB with {} in use",
            figures.ready_clean_ms,
            figures.ready_killed_ms,
            figures.idle_kib as f64 / 1024.0,
            figures.used_kib as f64 / 1024.0,
            figures.used,
        );
        Ok(stand)
    }

    /// Validates different tokens, spread over all.
    fn use_them(&mut self) -> io::Result<()> {
        let step = stride(self.count);
        let mut number = 0;
        for from in (0..self.figures.used).step_by(CHUNK) {
            let chunk = CHUNK.min(self.figures.used - from);
            let numbers: Vec<usize> = (0..chunk)
                .map(|_| {
                    number = (number + step) % self.count;
                    number
                })
                .collect();
            let outcome = self.ask(&numbers, USE_BY, USE_TIME)?;
            if outcome.answers != chunk as u64 {
                return Err(io::Error::other("not all tokens were validated in time"));
            }
        }
        Ok(())
    }

    /// Asks about these tokens, about each once, until all are answered or the time is over.
    fn ask(&mut self, numbers: &[usize], by: (usize, usize), time: Duration) -> io::Result<Outcome> {
        let mut frames = Frames::once();
        for &number in numbers {
            let text = self.forge.text(number);
            let question = self.forge.ask(number, &text, &mut self.random);
            frames.push(&Request { id: 1, body: Ask::Validate(question) });
        }
        let target = Target::Bearerd(self.server.socket.clone());
        let mut load = Load::open(&target, &frames, Check::Begins(ACTIVE.to_vec()), by.0, by.1)?;
        let outcome = load.run(time)?;
        self.figures.bad += outcome.bad;
        Ok(outcome)
    }

    fn round(&mut self, plan: &Plan) -> io::Result<()> {
        let alone = self.measured(ALONE, plan)?;
        let many = self.measured(MANY, plan)?;
        self.alone.push(alone);
        self.many.add(&many);
        Ok(())
    }

    fn measured(&mut self, (connections, per_second): (usize, f64), plan: &Plan) -> io::Result<Histogram> {
        let wanted = (per_second * plan.time.as_secs_f64()) as usize;
        let numbers: Vec<usize> = (0..wanted).map(|_| self.random.below(self.count)).collect();
        let outcome = self.ask(&numbers, (connections, 1), plan.time)?;
        if outcome.answers == 0 {
            return Err(io::Error::other("bearerd answered nothing in a round"));
        }
        Ok(outcome.latency)
    }

    fn figures(mut self, base: &[(f64, f64)]) -> Scaled {
        let over = |share: f64, base: Vec<f64>| {
            median(self.alone.iter().zip(base).map(|(all, base)| all.micros_at(share) / base).collect())
        };
        self.figures.p50_ratio = over(0.5, base.iter().map(|base| base.0).collect());
        self.figures.p99_ratio = over(0.99, base.iter().map(|base| base.1).collect());
        let mut alone = Histogram::default();
        self.alone.iter().for_each(|round| alone.add(round));
        self.figures.alone = (&alone).into();
        self.figures.many = (&self.many).into();
        self.figures
    }
}

impl Start<'_> {
    fn start(&self) -> io::Result<(Server, Duration)> {
        let command = server::bearerd(&self.plan.program, &self.config);
        Server::start_notified(command, self.socket.clone(), &self.notify, &self.files.join("stderr"))
    }

    /// To READY after a stop in good order.
    fn clean(&self) -> io::Result<f64> {
        let mut all = Vec::new();
        for _ in 0..self.plan.starts {
            let (server, took) = self.start()?;
            server.stop()?;
            all.push(took.as_secs_f64() * 1e3);
        }
        Ok(median(all))
    }

    /// To READY after kill -9; the last one goes on.
    fn killed(&self) -> io::Result<(Server, f64)> {
        let (mut server, _) = self.start()?;
        let mut all = Vec::new();
        for _ in 0..self.plan.starts {
            let mut client = Client::connect(&self.socket, Options::default()).map_err(io::Error::other)?;
            let mut random = Random::new(8);
            for number in 0..ISSUES {
                client.issue(&tokens::issue(number, &mut random).0).map_err(io::Error::other)?;
            }
            drop(server);
            let (next, took) = self.start()?;
            all.push(took.as_secs_f64() * 1e3);
            server = next;
        }
        Ok((server, median(all)))
    }
}

/// A step with no divisor in common with `count`, some 0.6 of it: walking by it meets all once, far apart.
fn stride(count: usize) -> usize {
    fn common(a: usize, b: usize) -> usize {
        if b == 0 { a } else { common(b, a % b) }
    }
    let begin = (count as f64 * 0.618) as usize;
    (begin.max(1)..).find(|&step| common(step, count) == 1).unwrap_or(1)
}
