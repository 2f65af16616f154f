//! The figures: a table for people, ratios first, and JSON for programs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::histogram::Histogram;

/// Everything of one run.
#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    pub plan: Told,
    pub rows: Vec<Row>,
    pub durable: Option<Durable>,
    pub memory: Vec<Memory>,
    pub audit: Audit,
}

/// Where it ran.
#[derive(Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub kernel: String,
    pub profile: String,
    /// One-minute load averages when it began and ended: others at work make figures worse, and ratios less sure.
    pub load_average: (f64, f64),
}

/// How it ran.
#[derive(Serialize)]
pub struct Told {
    pub rounds: usize,
    pub seconds: f64,
    pub tokens: usize,
    pub quick: bool,
}

/// One load, on both.
#[derive(Serialize)]
pub struct Row {
    pub load: &'static str,
    pub connections: usize,
    pub window: usize,
    pub tokens_per_request: usize,
    /// bearerd's throughput over the echo's: the median of the rounds.
    pub ratio: f64,
    pub ratio_lowest: f64,
    pub ratio_highest: f64,
    /// What the ratio should be.
    pub reach: Option<f64>,
    pub request_bytes: usize,
    pub reply_bytes: usize,
    pub bearerd: Side,
    pub echo: Side,
}

/// One of the two.
#[derive(Serialize)]
pub struct Side {
    /// The median of the rounds.
    pub tokens_per_second: f64,
    /// Of whole requests, over all rounds.
    pub latency: Latency,
    /// The process's own processor time, for each token.
    pub cpu_micros: f64,
    /// Answers that were not what they should be.
    pub bad: u64,
}

/// In microseconds.
#[derive(Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

/// Durable issue.
#[derive(Serialize)]
pub struct Durable {
    pub connections: usize,
    pub issues_per_second: f64,
    /// Appends of 4 KiB with fdatasync, in the store's directory.
    pub syncs_per_second: f64,
    pub issues_per_sync: f64,
    pub cpu_micros: f64,
    pub bad: u64,
    pub latency: Latency,
}

/// bearerd's resident memory at a moment.
#[derive(Serialize)]
pub struct Memory {
    pub when: &'static str,
    pub kib: u64,
}

/// What the run left in the trail.
#[derive(Serialize)]
pub struct Audit {
    pub lines: u64,
    pub syslog_received: u64,
    pub syslog_dropped: u64,
    pub gaps: u64,
}

impl From<&Histogram> for Latency {
    fn from(histogram: &Histogram) -> Self {
        Self { p50: histogram.micros_at(0.5), p99: histogram.micros_at(0.99), p999: histogram.micros_at(0.999) }
    }
}

/// The middle one, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

/// The first of the load averages.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

impl Machine {
    /// This one.
    pub fn here(profile: String) -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            processor: model.map_or("unknown", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            profile,
            load_average: (load_average(), 0.0),
        }
    }
}

/// The head of the table that [`row`] fills.
pub fn head(machine: &Machine) {
    println!(
        "{} x {}, Linux {}, bearerd: {}, load average {:.2}",
        machine.cores, machine.processor, machine.kernel, machine.profile, machine.load_average.0
    );
    println!();
    println!(
        "{:<16} {:>5} {:>6} {:>6}  {:>13} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "load",
        "conns",
        "ratio",
        "reach",
        "lowest..high",
        "bearerd/s",
        "echo/s",
        "p50 us",
        "p99",
        "p99.9",
        "echo p50",
        "CPU us",
        "echo"
    );
}

/// One line of it.
pub fn row(row: &Row) {
    let reach = row.reach.map_or("-".to_owned(), |reach| format!("{reach:.2}"));
    let connections =
        if row.window > 1 { format!("{}x{}", row.connections, row.window) } else { row.connections.to_string() };
    println!(
        "{:<16} {:>5} {:>6.2} {:>6}  {:>13} {:>9.0} {:>9.0} {:>8.0} {:>8.0} {:>8.0} {:>8.0} {:>8.2} {:>8.2}",
        row.load,
        connections,
        row.ratio,
        reach,
        format!("{:.2}..{:.2}", row.ratio_lowest, row.ratio_highest),
        row.bearerd.tokens_per_second,
        row.echo.tokens_per_second,
        row.bearerd.latency.p50,
        row.bearerd.latency.p99,
        row.bearerd.latency.p999,
        row.echo.latency.p50,
        row.bearerd.cpu_micros,
        row.echo.cpu_micros,
    );
    if row.bearerd.bad + row.echo.bad > 0 {
        println!(
            "    {} answers of bearerd and {} of the echo were not as they should be",
            row.bearerd.bad, row.echo.bad
        );
    }
}

impl Report {
    /// What is not in the table.
    pub fn print_rest(&self) {
        println!();
        if let Some(durable) = &self.durable {
            println!(
                "durable issue, {} connections: {:.0}/s, {:.1} for each fdatasync of this disk ({:.0}/s); \
                 p50 {:.0} us, p99 {:.0}, p99.9 {:.0}; CPU {:.1} us",
                durable.connections,
                durable.issues_per_second,
                durable.issues_per_sync,
                durable.syncs_per_second,
                durable.latency.p50,
                durable.latency.p99,
                durable.latency.p999,
                durable.cpu_micros,
            );
            if durable.bad > 0 {
                println!("    {} issues failed", durable.bad);
            }
        }
        for memory in &self.memory {
            println!("resident memory of bearerd {}: {:.1} MiB", memory.when, memory.kib as f64 / 1024.0);
        }
        println!(
            "audit: {} lines, {} gaps; syslog: {} datagrams received, {} dropped",
            self.audit.lines, self.audit.gaps, self.audit.syslog_received, self.audit.syslog_dropped
        );
        let (before, after) = self.machine.load_average;
        println!("load average {before:.2} before, {after:.2} after (this run itself counts for 2 to 4)");
    }

    /// Writes the JSON beside what cargo built; says where.
    pub fn write(&self) -> io::Result<PathBuf> {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf);
        let path = target.join("bench/peers.json");
        fs::create_dir_all(target.join("bench"))?;
        let mut text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        text.push('\n');
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Whether every answer was what it should be.
    pub fn sound(&self) -> bool {
        self.rows.iter().all(|row| row.bearerd.bad + row.echo.bad == 0)
            && self.durable.as_ref().is_none_or(|durable| durable.bad == 0)
    }
}
