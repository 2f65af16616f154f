//! The figures, as they are kept in JSON: written by a run, read again to draw from.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::common::histogram::Histogram;

/// Everything of one run.
#[derive(Serialize, Deserialize)]
pub struct Report {
    pub machine: Machine,
    pub plan: Told,
    pub peers: Vec<Peer>,
    pub rows: Vec<Row>,
    /// By the number of tokens, the smallest first.
    pub scale: Vec<Scaled>,
    /// Validation out of a client's own cache.
    pub cached: Option<Cached>,
    pub memory: Vec<Memory>,
    pub audit: Audit,
}

/// Where it ran.
#[derive(Serialize, Deserialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub kernel: String,
    pub profile: String,
    /// One-minute load averages when it began and ended: others at work make figures worse, and ratios less sure.
    pub load_average: (f64, f64),
}

/// How it ran.
#[derive(Serialize, Deserialize)]
pub struct Told {
    pub rounds: usize,
    pub seconds: f64,
    pub tokens: usize,
    pub quick: bool,
}

/// A peer, and why it was skipped if it was.
#[derive(Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    pub version: String,
    pub skipped: Option<String>,
}

/// One load on some sides.
#[derive(Serialize, Deserialize)]
pub struct Row {
    pub load: String,
    pub connections: usize,
    pub window: usize,
    pub request_bytes: usize,
    pub reply_bytes: usize,
    pub ratios: Vec<Ratio>,
    pub sides: Vec<Side>,
}

/// One side's throughput over another's: the median of the rounds.
#[derive(Serialize, Deserialize)]
pub struct Ratio {
    pub of: String,
    pub to: String,
    pub ratio: f64,
    pub lowest: f64,
    pub highest: f64,
    /// What it should be.
    pub reach: Option<f64>,
}

/// One of the sides.
#[derive(Serialize, Deserialize)]
pub struct Side {
    pub name: String,
    /// The median of the rounds; of a batch, each token counts.
    pub per_second: f64,
    /// Of whole requests, over all rounds; what another's program measures has none.
    pub latency: Option<Latency>,
    /// The process's own processor time, for each request or token.
    pub cpu_micros: Option<f64>,
    /// Answers that were not what they should be.
    pub bad: u64,
}

/// In microseconds.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
}

/// bearerd with so many tokens.
#[derive(Serialize, Deserialize)]
pub struct Scaled {
    pub tokens: usize,
    pub fill_secs: f64,
    /// As `du` counts it, and as long as the file says that it is.
    pub store_bytes: u64,
    pub store_length: u64,
    /// Medians of some starts.
    pub ready_clean_ms: f64,
    pub ready_killed_ms: f64,
    pub idle_kib: u64,
    /// After `used` different tokens were validated.
    pub used: usize,
    pub used_kib: u64,
    /// At tokens drawn at random, on one connection and on 16.
    pub alone: Latency,
    pub many: Latency,
    /// Median of the rounds of p50 and p99 on one connection, over those of the smallest store in the same round.
    pub p50_ratio: f64,
    pub p99_ratio: f64,
    pub bad: u64,
}

/// A client's cache.
#[derive(Serialize, Deserialize)]
pub struct Cached {
    /// What reading CLOCK_BOOTTIME takes, which each check does.
    pub clock_ns: f64,
    pub checks: Vec<CachedChecks>,
    pub refusals: Refusals,
}

/// Checks on so many threads; each hashes the presented token and counts its use.
#[derive(Serialize, Deserialize)]
pub struct CachedChecks {
    pub load: String,
    /// Different ones.
    pub questions: usize,
    pub threads: usize,
    /// Of a sixteenth of sixteen checks.
    pub p50_ns: f64,
    pub p99_ns: f64,
    pub p999_ns: f64,
    pub per_second: f64,
    /// What share was not kept.
    pub misses: f64,
}

/// What another process's cache did at revocations.
#[derive(Serialize, Deserialize)]
pub struct Refusals {
    pub revocations: usize,
    /// At most this long after the bump of the page it refused.
    pub after_bump: Latency,
    /// So long after the request to revoke.
    pub after_request: Latency,
    /// So long before the reply to it.
    pub before_reply: Latency,
    /// First looks after the reply: the process did not run meanwhile.
    pub late: u64,
}

/// bearerd's resident memory at a moment.
#[derive(Serialize, Deserialize)]
pub struct Memory {
    pub when: String,
    pub kib: u64,
}

/// What the run left in the trail.
#[derive(Default, Serialize, Deserialize)]
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

impl Row {
    pub fn side(&self, name: &str) -> Option<&Side> {
        self.sides.iter().find(|side| side.name == name)
    }

    /// `64`, or `8 x 16` where more than one request is in flight.
    pub fn connections_shown(&self) -> String {
        match self.window {
            1 => self.connections.to_string(),
            window => format!("{} x {window}", self.connections),
        }
    }

    /// For whoever waits: what came out.
    pub fn line(&self) -> String {
        let ratios: Vec<String> = self.ratios.iter().map(|it| format!("{:.2} of {}", it.ratio, it.to)).collect();
        let ours = self.sides.first().map_or(0.0, |side| side.per_second);
        format!("{} {}: {ours:.0}/s; {}", self.load, self.connections_shown(), ratios.join(", "))
    }
}

impl Report {
    /// What an earlier run wrote.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = fs::read(path).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        serde_json::from_slice(&text).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
    }

    /// Writes it.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        text.push('\n');
        fs::write(path, text)
    }

    /// Whether every answer was what it should be.
    pub fn sound(&self) -> bool {
        let rows = self.rows.iter().flat_map(|row| &row.sides).map(|side| side.bad);
        rows.chain(self.scale.iter().map(|scaled| scaled.bad)).sum::<u64>() == 0
    }
}
