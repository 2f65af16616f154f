//! What a million tokens that expire in the same second do to those who validate meanwhile:
//! `cargo bench --bench sweep` (`docs/performance.md`).
//!
//! A store is filled in this process, with tokens that all end at one moment; then a real bearerd serves it, and
//! connections validate other tokens before that moment, while the sweeper tells of the expiries, and after. Latencies of
//! before and during are of one run, one after the other.

#![forbid(unsafe_code)]

#[path = "../common/mod.rs"]
mod common;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bearerd::client::Options;
use bearerd::client::blocking::Client;
use bearerd::time::{UnixTime, wall_now};

use common::fill::{self, Forge};
use common::histogram::Histogram;
use common::load::Load;
use common::server::{self, Server};
use common::tokens::{self, Requests};
use common::wire::Target;

const CONNECTIONS: usize = 16;
/// Tokens that are validated, and of them those of the warm load.
const LIVE: usize = 10_000;
const WARM: usize = 100;
const QUESTIONS: usize = 65_536;
/// From the end of filling to the moment: the start, the live tokens, and what is measured before.
const AHEAD: Duration = Duration::from_secs(60);
const ROUND: Duration = Duration::from_secs(1);
/// Rounds of each load before and after.
const ROUNDS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(20);

const USAGE: &str = "cargo bench --bench sweep -- [--tokens N] [--bearerd PROGRAM]
  --tokens   that expire in the same second (1000000)
  --bearerd  another build of the daemon than the one that cargo just made";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut count, mut program, mut asked) = (1_000_000, PathBuf::from(env!("CARGO_BIN_EXE_bearerd")), false);
    while let Some(argument) = arguments.next() {
        asked = true;
        let known = match argument.as_str() {
            "--bench" => Some(()),
            "--tokens" => arguments.next().and_then(|value| value.parse().ok()).map(|value| count = value),
            "--bearerd" => arguments.next().map(|value| program = value.into()),
            _ => None,
        };
        if known.is_none() || count == 0 {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    }
    if !asked {
        println!("nothing measured: run it as `cargo bench --bench sweep`");
        return ExitCode::SUCCESS;
    }
    match measure(&program, count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sweep: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(program: &Path, count: usize) -> io::Result<()> {
    let files = tempfile::Builder::new().prefix("sweep-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let sockets = tempfile::Builder::new().prefix("bearerd-sweep-").tempdir()?;
    let socket = sockets.path().join("bearerd.sock");
    let file = server::configure(files.path(), &socket, None)?;
    let begun = Instant::now();
    let moment = fill(&file, count)?;
    println!("{count} tokens that end at {moment}; made in {:.0} s", begun.elapsed().as_secs_f64());

    let server = Server::start(server::bearerd(program, &file), socket.clone(), &files.path().join("bearerd.stderr"))?;
    let target = Target::Bearerd(socket.clone());
    let known = tokens::make(&target, LIVE)?;
    let (warm, full) = (tokens::warm(&target, &known[..WARM])?, tokens::full(&target, &known, QUESTIONS)?);
    let mut loads = Loads { warm: Side::open(&target, &warm)?, full: Side::open(&target, &full)? };

    println!(
        "\n| | full p50 / p99 / p99.9, µs | full, worst second's p99 | warm p50 / p99 / p99.9, µs | warm, worst second's p99 | validations/s | resident, MiB |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    loads.round()?;
    loads.forget();
    for _ in 0..ROUNDS {
        loads.round()?;
    }
    loads.row("before", resident_mib(&server)?);
    let before = generation(&socket)?;
    if wall_now() > moment {
        return Err(io::Error::other("the moment came before this was ready: the machine is too slow for it"));
    }
    std::thread::sleep(moment.since(wall_now()));
    let begun = Instant::now();
    let mut highest = 0.0_f64;
    let mut told = 0;
    while told < count as u64 {
        loads.round()?;
        highest = highest.max(resident_mib(&server)?);
        let now = generation(&socket)?.saturating_sub(before);
        if now == told && begun.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("the sweeper has stopped at {told} of {count}")));
        }
        told = now;
    }
    let took = begun.elapsed();
    loads.row("while expiries are told", highest);
    for _ in 0..ROUNDS {
        loads.round()?;
    }
    loads.row("after", resident_mib(&server)?);
    let lines = fs::read_to_string(files.path().join("log/audit.log"))?;
    let lines = lines.lines().filter(|line| line.contains("\"event\":\"expire\"")).count();
    println!(
        "\n{count} expiries told in {:.1} s, {:.0}/s; {lines} lines",
        took.as_secs_f64(),
        count as f64 / took.as_secs_f64()
    );
    if lines == count { Ok(()) } else { Err(io::Error::other("not each expiry has one line")) }
}

/// Fills the store; gives the moment at which all of it ends.
fn fill(config: &Path, count: usize) -> io::Result<UnixTime> {
    let forge = Forge::new(count, 9);
    // Far more than filling takes for each token, and then what has to be done before.
    let moment = wall_now().saturating_add(AHEAD + Duration::from_micros(150) * count as u32);
    let took = fill::fill(config, count, |ground, number| {
        let mut record = forge.record(ground, number)?;
        record.expires_at = Some(moment);
        // No warning ahead is due for so short a life: only the expiry is told.
        record.ttl = Some(Duration::from_secs(900));
        Ok(record)
    })?;
    eprintln!("filled in {:.0} s; {:.0} s are left", took.as_secs_f64(), moment.since(wall_now()).as_secs_f64());
    Ok(moment)
}

/// Resident memory, in MiB.
fn resident_mib(server: &Server) -> io::Result<f64> {
    Ok(server.resident_kib()? as f64 / 1024.0)
}

/// The newest generation: each line of a change has one of its own.
fn generation(socket: &Path) -> io::Result<u64> {
    let mut client = Client::connect(socket, Options::default()).map_err(io::Error::other)?;
    let status = client.status().map_err(io::Error::other)?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    Ok(status["store"]["generation"].as_u64().unwrap_or_default())
}

/// Both loads, in turns.
struct Loads<'a> {
    warm: Side<'a>,
    full: Side<'a>,
}

struct Side<'a> {
    load: Load<'a>,
    latency: Histogram,
    worst: f64,
    answers: u64,
    secs: f64,
}

impl<'a> Side<'a> {
    fn open(target: &Target, requests: &'a Requests) -> io::Result<Self> {
        let load = Load::open(target, &requests.frames, requests.check.clone(), CONNECTIONS, 1)?;
        Ok(Self { load, latency: Histogram::default(), worst: 0.0, answers: 0, secs: 0.0 })
    }

    fn round(&mut self) -> io::Result<()> {
        let outcome = self.load.run(ROUND)?;
        if outcome.bad > 0 {
            return Err(io::Error::other("an answer was not active"));
        }
        self.latency.add(&outcome.latency);
        self.worst = self.worst.max(outcome.latency.micros_at(0.99));
        self.answers += outcome.answers;
        self.secs += outcome.elapsed.as_secs_f64();
        Ok(())
    }

    fn forget(&mut self) {
        (self.latency, self.worst, self.answers, self.secs) = (Histogram::default(), 0.0, 0, 0.0);
    }

    fn cells(&self) -> String {
        let at = |share| self.latency.micros_at(share);
        format!("{:.0} / {:.0} / {:.0} | {:.0}", at(0.5), at(0.99), at(0.999), self.worst)
    }
}

impl Loads<'_> {
    fn round(&mut self) -> io::Result<()> {
        self.full.round()?;
        self.warm.round()
    }

    fn forget(&mut self) {
        self.full.forget();
        self.warm.forget();
    }

    fn row(&mut self, what: &str, mib: f64) {
        let rate = |side: &Side<'_>| side.answers as f64 / side.secs.max(0.001);
        println!(
            "| {what} | {} | {} | {:.0} full, {:.0} warm | {mib:.0} |",
            self.full.cells(),
            self.warm.cells(),
            rate(&self.full),
            rate(&self.warm)
        );
        self.forget();
    }
}
