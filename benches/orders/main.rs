//! The revocation of 100,000 tokens of one subject, as one order, while others validate: `cargo bench --bench orders`
//! (`docs/performance.md`).
//!
//! 16 connections ask about tokens of that subject and about others, one request in flight on each, all the time. Every
//! answer is held against the moment of the revocation's reply: one that is *active* for a request begun after it fails
//! the run.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bearerd::client::Options;
use bearerd::client::asynchronous::Client as Asynchronous;
use bearerd::client::blocking::Client;
use bearerd::protocol::filter::{Condition, Filter};
use bearerd::protocol::message::{Handle, Issue, Revoke, Validate, Which};

/// Connections that validate.
const CONNECTIONS: usize = 16;
/// Tokens of other subjects, which stay good.
const OTHERS: usize = 10_000;
/// Issues in flight while the tokens are made.
const ISSUES: usize = 256;
/// How long is validated before each revocation.
const BEFORE: Duration = Duration::from_secs(3);
/// Revocations of one token, for comparison.
const SINGLY: usize = 21;
/// What it should reach.
const REACH: Duration = Duration::from_millis(50);

const USAGE: &str = "cargo bench --bench orders -- [--rounds N] [--tokens N] [--by CONDITION]
  --rounds  revocations, each of another subject (3)
  --tokens  of each subject (100000)
  --by      what they are named by: subject (counted by an index), or label (counted by reading them) (subject)";

struct Plan {
    rounds: usize,
    tokens: usize,
    by_label: bool,
}

/// The daemon; killed when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One validation.
struct Asked {
    begun: Instant,
    took: Duration,
    active: bool,
    /// Of the subject that is revoked.
    meant: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` runs benchmarks too, without saying so as `cargo bench` does: they are no tests.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("nothing measured: run it as `cargo bench --bench orders`");
        return ExitCode::SUCCESS;
    }
    let Some(plan) = plan(arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    match measure(&plan) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("orders: {error}");
            ExitCode::FAILURE
        }
    }
}

fn plan(arguments: Vec<String>) -> Option<Plan> {
    let mut plan = Plan { rounds: 3, tokens: 100_000, by_label: false };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {}
            "--rounds" => plan.rounds = arguments.next()?.parse().ok()?,
            "--tokens" => plan.tokens = arguments.next()?.parse().ok()?,
            "--by" => plan.by_label = arguments.next()? == "label",
            _ => return None,
        }
    }
    Some(plan)
}

/// Whether no answer was stale.
fn measure(plan: &Plan) -> io::Result<bool> {
    let files = tempfile::Builder::new().prefix("orders-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let sockets = tempfile::Builder::new().prefix("bearerd-orders-").tempdir()?;
    let syslog = UnixDatagram::bind(sockets.path().join("log"))?;
    thread::spawn(move || {
        let mut datagram = [0; 8192];
        while syslog.recv(&mut datagram).is_ok() {}
    });
    let (_daemon, socket) = start(files.path(), sockets.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let others = Arc::new(runtime.block_on(make(&socket, "others", OTHERS))?);
    println!(
        "round  revoked  request to reply  of one token by id, median / longest of 21  p50 / p99 / p99.9 of validate, us: before | until the reply | while records are written (for)  active after the reply"
    );
    let mut sound = true;
    for round in 0..plan.rounds {
        let subject = format!("subject-{round}");
        let meant = Arc::new(runtime.block_on(make(&socket, &subject, plan.tokens))?);
        sound &= revoke(plan, &socket, round, &subject, &meant, &others)?;
    }
    Ok(sound)
}

fn revoke(
    plan: &Plan,
    socket: &Path,
    round: usize,
    subject: &str,
    meant: &Arc<Vec<String>>,
    others: &Arc<Vec<String>>,
) -> io::Result<bool> {
    let over = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let (meant, others, over) = (Arc::clone(meant), Arc::clone(others), Arc::clone(&over));
            let client = connect(socket)?;
            Ok(thread::spawn(move || validate(client, number as u64 + 1, &meant, &others, &over)))
        })
        .collect::<io::Result<_>>()?;
    let mut client = connect(socket)?;
    thread::sleep(BEFORE);
    let condition = match plan.by_label {
        true => Condition::Label(format!("who={subject}")),
        false => Condition::Subject(subject.to_owned()),
    };
    // Of one token, under the same load and on the same disk: what a revocation takes here and now.
    let mut singly = Vec::new();
    for id in spare(&mut client)? {
        let request = Revoke { which: Which::Handles(vec![Handle(id)]), reason: None, dry_run: false };
        let asked = Instant::now();
        client.revoke(&request).map_err(io::Error::other)?;
        singly.push(asked.elapsed());
    }
    singly.sort_unstable();
    let request = Revoke { which: Which::Filter(Filter::from(condition)), reason: None, dry_run: false };
    let asked = Instant::now();
    let changed = client.revoke(&request).map_err(io::Error::other)?;
    let replied = Instant::now();
    while unfinished(&mut client)? > 0 {
        thread::sleep(Duration::from_millis(50));
    }
    let written = Instant::now();
    over.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for thread in load {
        all.extend(thread.join().expect("it does not panic")?);
    }
    let stale = all.iter().filter(|it| it.meant && it.active && it.begun >= replied).count();
    let wrong = all.iter().filter(|it| !it.meant && !it.active).count();
    let before = percentiles(all.iter().filter(|it| it.begun + it.took < asked));
    let during = percentiles(all.iter().filter(|it| it.begun < replied && it.begun + it.took >= asked));
    let after = percentiles(all.iter().filter(|it| it.begun >= replied && it.begun < written));
    println!(
        "{round:>5}  {:>7}  {:>13.1} ms  {:.1} / {:.1} ms  {before} | {during} | {after} ({:.1} s)  {stale}",
        changed.count,
        (replied - asked).as_secs_f64() * 1e3,
        singly[singly.len() / 2].as_secs_f64() * 1e3,
        singly[singly.len() - 1].as_secs_f64() * 1e3,
        (written - replied).as_secs_f64(),
    );
    if wrong > 0 {
        println!("{wrong} tokens of others were refused");
    }
    if replied - asked > REACH {
        println!("       over {} ms", REACH.as_millis());
    }
    Ok(stale == 0 && wrong == 0 && changed.count == plan.tokens as u64)
}

/// Makes tokens that nobody asks about, to be revoked one by one.
fn spare(client: &mut Client) -> io::Result<Vec<String>> {
    let issue = Issue { name: "spare".to_owned(), subject: Some("nobody".to_owned()), ..Issue::default() };
    (0..SINGLY).map(|_| Ok(client.issue(&issue).map_err(io::Error::other)?.info.facts.id.to_string())).collect()
}

/// Asks until it is over: every other time about one of those that will be revoked.
fn validate(
    mut client: Client,
    seed: u64,
    meant: &[String],
    others: &[String],
    over: &AtomicBool,
) -> io::Result<Vec<Asked>> {
    let mut random = seed;
    let mut all = Vec::with_capacity(1 << 18);
    while !over.load(Ordering::Relaxed) {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pick = (random >> 33) as usize;
        let of = if pick.is_multiple_of(2) { meant } else { others };
        let token = of[(pick >> 1) % of.len()].as_str();
        let ask = Validate { token, scopes: Vec::new(), audience: None, from: None, note: None, peek: false };
        let begun = Instant::now();
        let verdict = client.validate(&ask).map_err(io::Error::other)?;
        let (took, active) = (begun.elapsed(), verdict.active);
        all.push(Asked { begun, took, active, meant: pick.is_multiple_of(2) });
    }
    Ok(all)
}

fn percentiles<'a>(of: impl Iterator<Item = &'a Asked>) -> String {
    let mut took: Vec<Duration> = of.map(|asked| asked.took).collect();
    if took.is_empty() {
        return "none".to_owned();
    }
    took.sort_unstable();
    let at = |share: f64| took[((took.len() as f64 * share) as usize).min(took.len() - 1)].as_micros();
    format!("{} / {} / {} of {}", at(0.5), at(0.99), at(0.999), took.len())
}

fn unfinished(client: &mut Client) -> io::Result<u64> {
    let status = client.status().map_err(io::Error::other)?;
    let status: serde_json::Value = serde_json::from_str(&status).map_err(io::Error::other)?;
    status["store"]["unfinished_orders"].as_u64().ok_or_else(|| io::Error::other("no unfinished_orders in the status"))
}

/// Issues tokens, many at a time.
async fn make(socket: &Path, subject: &str, count: usize) -> io::Result<Vec<String>> {
    let client = Arc::new(Asynchronous::connect(socket, Options::default()).await.map_err(io::Error::other)?);
    let mut made = Vec::with_capacity(count);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..count {
        if tasks.len() == ISSUES / 2 {
            made.push(tasks.join_next().await.expect("there are some")??);
        }
        let (client, subject) = (Arc::clone(&client), subject.to_owned());
        tasks.spawn(async move {
            let issue = Issue {
                name: format!("integration-{number:06}"),
                labels: [("who".to_owned(), subject.clone())].into(),
                subject: Some(subject),
                scopes: vec!["repo:read".to_owned(), "logs:read".to_owned()],
                ..Issue::default()
            };
            let issued = client.issue(&issue).await.map_err(io::Error::other)?;
            Ok::<String, io::Error>(issued.token.expose().to_owned())
        });
    }
    while let Some(token) = tasks.join_next().await {
        made.push(token??);
    }
    Ok(made)
}

fn start(files: &Path, sockets: &Path) -> io::Result<(Daemon, PathBuf)> {
    let socket = sockets.join("run/bearerd.sock");
    let place = |name: &str| files.join(name).display().to_string();
    let config = files.join("bearerd.toml");
    fs::write(
        &config,
        format!(
            "[store]\npath = {:?}\n[keys]\nfile = {:?}\n[socket]\npath = {:?}\n\
             [audit]\nfile = {:?}\nrequired = true\nsyslog = {:?}\n",
            place("state/tokens.redb"),
            place("key/master.key"),
            socket.display().to_string(),
            place("log/audit.log"),
            sockets.join("log").display().to_string(),
        ),
    )?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_bearerd"));
    command.arg("--config").arg(&config).stdin(Stdio::null()).stderr(fs::File::create(files.join("stderr"))?);
    command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS").env_remove("CREDENTIALS_DIRECTORY");
    let daemon = Daemon(command.spawn()?);
    // Connecting waits for the socket.
    let options = Options { connect_retry: Duration::from_secs(20), ..Options::default() };
    Client::connect(&socket, options).map_err(io::Error::other)?;
    Ok((daemon, socket))
}

fn connect(socket: &Path) -> io::Result<Client> {
    Client::connect(socket, Options::default()).map_err(io::Error::other)
}
