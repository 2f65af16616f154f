//! bearerd against a bare echo of the same bytes, in one run: `cargo bench --bench peers` (`docs/performance.md`).
//!
//! Absolute figures are of one machine and one hour. What lasts is the ratio: both sides get the same requests from the
//! same load, answer with as many bytes, run on the same cores, and take turns round by round. `--quick` takes a few
//! seconds and shows that it works; its figures mean nothing.

#![forbid(unsafe_code)]

mod durable;
mod echo;
mod histogram;
mod load;
mod report;
mod stage;
mod tokens;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use load::{Load, Outcome, Target};
use report::{Audit, Machine, Memory, Report, Row, Side, Told, median};
use stage::{Server, Stage};
use tokens::Requests;

/// The argument by which this program runs itself as the echo.
const ECHO: &str = "--serve-echo";
/// Tokens that are warm: in the cache, and in the audit's open windows.
const WARM: usize = 100;
/// Connections of the widest load.
const CONNECTIONS_MANY: usize = 64;
/// What the ratio should be for warm tokens, and for the full load.
const REACH_WARM: f64 = 0.85;
const REACH_FULL: f64 = 0.6;

const USAGE: &str =
    "cargo bench --bench peers -- [--quick] [--rounds N] [--seconds S] [--only LOAD] [--bearerd PROGRAM]
  --quick    a few seconds, to see that it works
  --rounds   of each load on each side (5)
  --seconds  of each round (1)
  --only     loads whose name begins so: hot, warm, full, pipelined, batch, issue
  --bearerd  another build of the daemon than the one that cargo just made";

/// How much is done.
struct Plan {
    rounds: usize,
    time: Duration,
    warm_up: Duration,
    tokens: usize,
    /// Different requests of the full load.
    questions: usize,
    batches: usize,
    quick: bool,
    only: Option<String>,
    program: PathBuf,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            rounds: 5,
            time: Duration::from_secs(1),
            warm_up: Duration::from_millis(300),
            tokens: 10_000,
            questions: 65_536,
            batches: 512,
            quick: false,
            only: None,
            program: PathBuf::from(env!("CARGO_BIN_EXE_bearerd")),
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [serve, socket] = arguments.as_slice()
        && serve == ECHO
    {
        return ended(echo::serve(Path::new(socket)));
    }
    // `cargo test --all-targets` runs benchmarks too, without saying so as `cargo bench` does: they are no tests.
    let asked = ["--bench", "--quick", "--help"].iter().any(|word| arguments.iter().any(|given| given == word));
    if !asked {
        println!("nothing measured: run it as `cargo bench --bench peers`");
        return ExitCode::SUCCESS;
    }
    match Plan::from(arguments) {
        Ok(plan) => ended(measure(&plan)),
        Err(problem) => {
            eprintln!("{problem}{}{USAGE}", if problem.is_empty() { "" } else { "\n" });
            ExitCode::from(if problem.is_empty() { 0 } else { 64 })
        }
    }
}

fn ended(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Plan {
    /// The problem is empty when only help was asked for.
    fn from(arguments: Vec<String>) -> Result<Self, String> {
        let mut plan = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--bench" => {}
                "--quick" => {
                    let (time, warm_up) = (Duration::from_millis(150), Duration::from_millis(50));
                    plan = Self {
                        rounds: 1,
                        time,
                        warm_up,
                        tokens: 500,
                        questions: 2048,
                        batches: 16,
                        quick: true,
                        ..plan
                    };
                }
                "--rounds" => plan.rounds = number(&value()?)?,
                "--seconds" => {
                    plan.time = Duration::try_from_secs_f64(number(&value()?)?).map_err(|it| it.to_string())?
                }
                "--only" => plan.only = Some(value()?),
                "--bearerd" => plan.program = PathBuf::from(value()?),
                "--help" => return Err(String::new()),
                _ => return Err(format!("{argument:?} is not an argument of this program")),
            }
        }
        if plan.rounds == 0 || plan.time.is_zero() {
            return Err("nothing can be measured in no time".to_owned());
        }
        Ok(plan)
    }

    fn wants(&self, load: &str) -> bool {
        self.only.as_ref().is_none_or(|only| load.starts_with(only.as_str()))
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

fn measure(plan: &Plan) -> io::Result<()> {
    let own = plan.program == Path::new(env!("CARGO_BIN_EXE_bearerd"));
    let profile = match (own, cfg!(debug_assertions)) {
        (true, false) => "profile bench".to_owned(),
        (true, true) => "not optimised: the figures mean nothing".to_owned(),
        (false, _) => plan.program.display().to_string(),
    };
    let mut report = Report {
        machine: Machine::here(profile),
        plan: Told { rounds: plan.rounds, seconds: plan.time.as_secs_f64(), tokens: plan.tokens, quick: plan.quick },
        rows: Vec::new(),
        durable: None,
        memory: Vec::new(),
        audit: Audit { lines: 0, syslog_received: 0, syslog_dropped: 0, gaps: 0 },
    };
    let stage = Stage::set(&plan.program)?;
    report.remember(&stage, "idle, before anything was asked")?;
    eprintln!("bearerd is process {}, the echo {}", stage.bearerd.pid(), stage.echo.pid());
    let target = Target::Bearerd(&stage.bearerd.socket);
    let known = tokens::make(&target, plan.tokens)?;
    report::head(&report.machine);

    let hot = tokens::hot(&target, &known)?;
    let warm = tokens::warm(&target, &known[..WARM])?;
    let full = tokens::full(&target, &known, plan.questions)?;
    for connections in [1, 16, CONNECTIONS_MANY] {
        report.compare(&stage, plan, "warm", connections, 1, &warm, Some(REACH_WARM))?;
    }
    for connections in [1, 16, CONNECTIONS_MANY] {
        report.compare(&stage, plan, "full", connections, 1, &full, Some(REACH_FULL))?;
    }
    for connections in [1, 16, CONNECTIONS_MANY] {
        report.compare(&stage, plan, "hot", connections, 1, &hot, None)?;
    }
    report.compare(&stage, plan, "pipelined warm", 8, 16, &warm, None)?;
    report.compare(&stage, plan, "pipelined full", 8, 16, &full, None)?;
    if plan.wants("batch warm") {
        let batches = tokens::batches(&target, &known[..WARM], plan.batches, false)?;
        report.compare(&stage, plan, "batch warm", 8, 1, &batches, None)?;
    }
    if plan.wants("batch full") {
        let batches = tokens::batches(&target, &known, plan.batches, true)?;
        report.compare(&stage, plan, "batch full", 8, 1, &batches, None)?;
    }
    report.remember(&stage, "after all validations")?;
    if plan.wants("issue") {
        report.durable = Some(durable::measure(&stage, plan)?);
        report.remember(&stage, "after issuing")?;
    }
    report.look_at_trail(&stage)?;
    report.machine.load_average.1 = report::load_average();
    report.print_rest();
    println!("written to {}", report.write()?.display());
    if report.sound() { Ok(()) } else { Err(io::Error::other("some answers were not what they should be")) }
}

impl Report {
    /// One load on both, in turns.
    #[allow(clippy::too_many_arguments, reason = "each is one word of what the table's line says")]
    fn compare(
        &mut self,
        stage: &Stage,
        plan: &Plan,
        load: &'static str,
        connections: usize,
        window: usize,
        requests: &Requests,
        reach: Option<f64>,
    ) -> io::Result<()> {
        if !plan.wants(load) {
            return Ok(());
        }
        let frames = &requests.frames;
        let bearerd = Target::Bearerd(&stage.bearerd.socket);
        let echo = Target::Echo(&stage.echo.socket, &requests.sample);
        let mut sides = [
            Measured::new(Load::open(&bearerd, frames, requests.check.clone(), connections, window)?, &stage.bearerd),
            Measured::new(Load::open(&echo, frames, requests.echo_check(), connections, window)?, &stage.echo),
        ];
        for round in 0..plan.rounds {
            // Who goes first changes too.
            for turn in [round % 2, (round + 1) % 2] {
                sides[turn].run(plan)?;
            }
        }
        let [bearerd, echo] = sides;
        let ratios: Vec<f64> = bearerd.rates.iter().zip(&echo.rates).map(|(ours, theirs)| ours / theirs).collect();
        let row = Row {
            load,
            connections,
            window,
            tokens_per_request: requests.tokens,
            ratio_lowest: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratio_highest: ratios.iter().copied().fold(0.0, f64::max),
            ratio: median(ratios),
            reach,
            request_bytes: frames.frame(frames.len() / 2).len(),
            reply_bytes: requests.sample.len() + 4,
            bearerd: bearerd.side(requests.tokens),
            echo: echo.side(requests.tokens),
        };
        report::row(&row);
        self.rows.push(row);
        Ok(())
    }

    fn remember(&mut self, stage: &Stage, when: &'static str) -> io::Result<()> {
        self.memory.push(Memory { when, kib: stage.bearerd.resident_kib()? });
        Ok(())
    }

    fn look_at_trail(&mut self, stage: &Stage) -> io::Result<()> {
        let status = stage.status()?;
        let number = |key: &str| status["audit"][key].as_u64().unwrap_or_default();
        self.audit = Audit {
            lines: number("lines"),
            gaps: number("gaps"),
            syslog_dropped: number("syslog_dropped"),
            syslog_received: stage.sink.received(),
        };
        Ok(())
    }
}

/// One side of a comparison, while it runs.
struct Measured<'a> {
    load: Load<'a>,
    server: &'a Server,
    rates: Vec<f64>,
    cpu_secs: f64,
    all: Outcome,
}

impl<'a> Measured<'a> {
    fn new(load: Load<'a>, server: &'a Server) -> Self {
        Self { load, server, rates: Vec::new(), cpu_secs: 0.0, all: Outcome::default() }
    }

    fn run(&mut self, plan: &Plan) -> io::Result<()> {
        let warmed_up = self.load.run(plan.warm_up)?;
        let before = self.server.cpu_secs()?;
        let outcome = self.load.run(plan.time)?;
        self.cpu_secs += self.server.cpu_secs()? - before;
        self.rates.push(outcome.per_second());
        self.all.answers += outcome.answers;
        self.all.bad += outcome.bad + warmed_up.bad;
        self.all.latency.add(&outcome.latency);
        Ok(())
    }

    fn side(self, tokens: usize) -> Side {
        Side {
            tokens_per_second: median(self.rates) * tokens as f64,
            latency: (&self.all.latency).into(),
            cpu_micros: self.cpu_secs * 1e6 / (self.all.answers.max(1) * tokens as u64) as f64,
            bad: self.all.bad,
        }
    }
}
