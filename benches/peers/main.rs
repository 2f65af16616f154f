//! bearerd beside a bare echo of the same bytes, Redis, memcached and MUNGE, in one run: `cargo bench --bench peers`
//! (`docs/performance.md`).
//!
//! Absolute figures are of one machine and one hour. What lasts is the ratio: all sides get their requests from the same
//! load, answer with as many bytes, run on the same cores, and take turns round by round. `--quick` takes some seconds
//! and shows that it works; its figures mean nothing.

#![forbid(unsafe_code)]

mod cached;
mod charts;
#[path = "../common/mod.rs"]
mod common;
mod contest;
mod durable;
mod echo;
mod loads;
mod plan;
mod report;
mod rivals;
mod scale;
mod stage;
mod svg;
mod tables;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use plan::{Plan, USAGE};
use report::{Audit, Machine, Memory, Report, Told};
use stage::Stage;

/// The arguments by which this program runs itself as one of the echoes.
pub const ECHO: &str = "--serve-echo";
pub const BLOCKING_ECHO: &str = "--serve-blocking-echo";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [serve, socket] = arguments.as_slice() {
        match serve.as_str() {
            cached::OBSERVER => return ended(cached::observe(Path::new(socket))),
            ECHO => return ended(echo::serve(Path::new(socket))),
            BLOCKING_ECHO => return ended(echo::serve_blocking(Path::new(socket))),
            _ => {}
        }
    }
    // `cargo test --all-targets` runs benchmarks too, without saying so as `cargo bench` does: they are no tests.
    let asked =
        ["--bench", "--quick", "--draw", "--help"].iter().any(|word| arguments.iter().any(|given| given == word));
    if !asked {
        println!("nothing measured: run it as `cargo bench --bench peers`");
        return ExitCode::SUCCESS;
    }
    match Plan::from(&arguments) {
        Ok(plan) => ended(run(&plan)),
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

fn run(plan: &Plan) -> io::Result<()> {
    let report = match &plan.draw {
        Some(file) => Report::read(file)?,
        None => {
            let report = measure(plan)?;
            report.write(&plan.json)?;
            report
        }
    };
    tables::print(&report);
    let drawn = charts::draw(&report, &plan.charts)?;
    if plan.draw.is_none() {
        println!("\nfigures: {}", plan.json.display());
    }
    drawn.iter().for_each(|path| println!("chart: {}", path.display()));
    if report.sound() { Ok(()) } else { Err(io::Error::other("some answers were not what they should be")) }
}

fn measure(plan: &Plan) -> io::Result<Report> {
    let own = plan.program == Path::new(env!("CARGO_BIN_EXE_bearerd"));
    let profile = match (own, cfg!(debug_assertions)) {
        (true, false) => "profile bench".to_owned(),
        (true, true) => "not optimised: the figures mean nothing".to_owned(),
        (false, _) => plan.program.display().to_string(),
    };
    let mut report = Report {
        machine: Machine::here(profile),
        plan: Told { rounds: plan.rounds, seconds: plan.time.as_secs_f64(), tokens: plan.tokens, quick: plan.quick },
        peers: Vec::new(),
        rows: Vec::new(),
        scale: Vec::new(),
        cached: None,
        memory: Vec::new(),
        audit: Audit::default(),
    };
    if loads::ALL.iter().any(|load| plan.wants(load)) || plan.wants(durable::LOAD) {
        let mut stage = Stage::set(&plan.program)?;
        report.peers = std::mem::take(&mut stage.rivals.peers);
        report.remember(&stage, "idle, before anything was asked")?;
        loads::measure(&stage, plan, &mut report)?;
        report.remember(&stage, "after all validations")?;
        report.look_at_trail(&stage)?;
        if plan.wants(durable::LOAD) {
            report.rows.push(durable::measure(&stage, plan)?);
        }
    }
    if plan.wants("scale") {
        report.scale = scale::measure(plan)?;
    }
    if plan.wants(cached::LOAD) {
        report.cached = Some(cached::measure(plan)?);
    }
    report.machine.load_average.1 = report::load_average();
    Ok(report)
}

impl Report {
    fn remember(&mut self, stage: &Stage, when: &str) -> io::Result<()> {
        self.memory.push(Memory { when: when.to_owned(), kib: stage.bearerd.resident_kib()? });
        Ok(())
    }

    fn look_at_trail(&mut self, stage: &Stage) -> io::Result<()> {
        let status = stage::status(&stage.bearerd)?;
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
