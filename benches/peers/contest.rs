//! Some sides, measured in turns round by round, in one run: what lasts is the ratio within a round.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::common::histogram::Histogram;
use crate::common::load::{Load, Outcome};
use crate::common::server::Server;
use crate::plan::Plan;
use crate::report::{Latency, Ratio, Row, Side, median};
use crate::rivals::Munge;

/// What the names of our own sides begin with: ratios are of these to all others.
pub const OURS: &str = "bearerd";
/// Bytes of one append where the floor of a disk is measured.
const APPEND: usize = 4096;

/// One side, while it runs.
pub struct Entrant<'a> {
    name: &'static str,
    runner: Runner<'a>,
    server: Option<&'a Server>,
    /// How many tokens a request asks about.
    tokens: usize,
    rates: Vec<f64>,
    cpu_secs: f64,
    all: Outcome,
}

enum Runner<'a> {
    Load(Load<'a>),
    /// With so many threads.
    Munge(&'a Munge, usize),
    /// Appends to this file, each followed by fdatasync.
    Syncs(PathBuf),
}

impl<'a> Entrant<'a> {
    /// Our load on a server.
    pub fn load(name: &'static str, server: &'a Server, load: Load<'a>, tokens: usize) -> Self {
        Self::new(name, Runner::Load(load), Some(server), tokens)
    }

    /// MUNGE, asked by its own program.
    pub fn munge(munge: &'a Munge, threads: usize) -> Self {
        Self::new("MUNGE", Runner::Munge(munge, threads), Some(&munge.server), 1)
    }

    /// What the disk can do.
    pub fn syncs(file: PathBuf) -> Self {
        Self::new("fdatasync", Runner::Syncs(file), None, 1)
    }

    fn new(name: &'static str, runner: Runner<'a>, server: Option<&'a Server>, tokens: usize) -> Self {
        Self { name, runner, server, tokens, rates: Vec::new(), cpu_secs: 0.0, all: Outcome::default() }
    }

    fn run(&mut self, plan: &Plan) -> io::Result<()> {
        let mut bad = 0;
        if let Runner::Load(load) = &mut self.runner {
            bad += load.run(plan.warm_up)?.bad;
        }
        let cpu = |server: Option<&Server>| server.map_or(Ok(0.0), Server::cpu_secs);
        let before = cpu(self.server)?;
        let outcome = match &mut self.runner {
            Runner::Load(load) => load.run(plan.time)?,
            Runner::Munge(munge, threads) => {
                let (answers, elapsed) = munge.run(*threads, plan.time)?;
                Outcome { answers, elapsed, ..Outcome::default() }
            }
            Runner::Syncs(file) => syncs(file, plan.time)?,
        };
        if outcome.answers == 0 {
            return Err(io::Error::other(format!("{} answered nothing in a round", self.name)));
        }
        self.cpu_secs += cpu(self.server)? - before;
        self.rates.push(outcome.per_second() * self.tokens as f64);
        self.all.answers += outcome.answers;
        self.all.bad += outcome.bad + bad;
        self.all.latency.add(&outcome.latency);
        Ok(())
    }

    fn side(self) -> Side {
        let measured = !matches!(self.runner, Runner::Munge(..));
        let latency: &Histogram = &self.all.latency;
        Side {
            name: self.name.to_owned(),
            per_second: median(self.rates),
            latency: measured.then(|| Latency::from(latency)),
            cpu_micros: self
                .server
                .map(|_| self.cpu_secs * 1e6 / (self.all.answers.max(1) * self.tokens as u64) as f64),
            bad: self.all.bad,
        }
    }
}

fn syncs(path: &PathBuf, time: Duration) -> io::Result<Outcome> {
    let mut file = File::create(path)?;
    let mut outcome = Outcome::default();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let sent = Instant::now();
        file.write_all(&[0x5a; APPEND])?;
        file.sync_data()?;
        outcome.answers += 1;
        outcome.latency.note(sent.elapsed());
    }
    outcome.elapsed = begun.elapsed();
    std::fs::remove_file(path)?;
    Ok(outcome)
}

/// What a table's line says of a contest.
pub struct Title<'a> {
    pub load: &'a str,
    pub connections: usize,
    pub window: usize,
    pub request_bytes: usize,
    pub reply_bytes: usize,
}

/// Lets all sides run, in turns: A B C, B C A, ...
pub fn hold(
    plan: &Plan,
    title: &Title<'_>,
    mut sides: Vec<Entrant<'_>>,
    reach: impl Fn(&str, &str) -> Option<f64>,
) -> io::Result<Row> {
    let count = sides.len();
    for round in 0..plan.rounds {
        for turn in 0..count {
            sides[(round + turn) % count].run(plan)?;
        }
    }
    let mut ratios = Vec::new();
    for ours in sides.iter().filter(|side| side.name.starts_with(OURS)) {
        for theirs in sides.iter().filter(|side| !side.name.starts_with(OURS)) {
            let each: Vec<f64> = ours.rates.iter().zip(&theirs.rates).map(|(ours, theirs)| ours / theirs).collect();
            ratios.push(Ratio {
                of: ours.name.to_owned(),
                to: theirs.name.to_owned(),
                lowest: each.iter().copied().fold(f64::INFINITY, f64::min),
                highest: each.iter().copied().fold(0.0, f64::max),
                ratio: median(each),
                reach: reach(ours.name, theirs.name),
            });
        }
    }
    let row = Row {
        load: title.load.to_owned(),
        connections: title.connections,
        window: title.window,
        request_bytes: title.request_bytes,
        reply_bytes: title.reply_bytes,
        ratios,
        sides: sides.into_iter().map(Entrant::side).collect(),
    };
    eprintln!("{}", row.line());
    Ok(row)
}
