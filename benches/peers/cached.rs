//! A client's own cache: what a check in it takes, and how soon after a revocation it refuses in another process.
//!
//! A check is timed with 15 others: a look at the clock takes as long as some of it. Before each sixteen the tokens are
//! written to memory anew, as if they had just been read from a connection, and the questions put together; that, and
//! what else a service does, is not timed. Percentiles are of sixteenths.
//!
//! Another process holds the epoch page and a cache, and looks at both in turn. The moment of the bump can't be seen from
//! outside: it is after the observer's clock was read for the last time before it saw the old value in the page. From that
//! clock to the first refusal out of the cache is therefore *more* than what it took from the bump, also when the observer
//! did not run for a while.

use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Lines, StdinLock, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use bearerd::client::blocking::{CachedClient, Client};
use bearerd::client::{CacheOptions, Options};
use bearerd::page;
use bearerd::protocol::frame;
use bearerd::protocol::message::{ClientHello, Handle, Revoke, Validate, Which};
use bearerd::protocol::{FLAG_PAGE, MAGIC, VERSION};
use bearerd::sys::{pass, shared::Words};
use bearerd::token;
use nix::time::{ClockId, clock_gettime};

use crate::common::histogram::Histogram;
use crate::common::random::Random;
use crate::common::server::{self, Server, Sink};
use crate::common::tokens::{self, Known};
use crate::common::wire::Target;
use crate::plan::Plan;
use crate::report::{Cached, CachedChecks, Latency, Refusals, median};
use crate::stage;

pub const LOAD: &str = "cached";
/// The argument by which this program runs itself as the one who observes.
pub const OBSERVER: &str = "--observe-revocations";

const THREADS: [usize; 3] = [1, 2, 4];
/// Questions about each token: one or two of its scopes, beginning at each of four.
const QUESTIONS: usize = 8;
/// Tokens that are warm.
const WARM: usize = 100;
/// Checks that are timed together.
const TOGETHER: usize = 16;
/// Threads that ask everything once.
const FILLERS: usize = 8;
/// Longest wait for a verdict to be kept, and for a refusal.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measures both.
///
/// # Errors
/// When the daemon, the observer or a check fails; an *active* after a reply is one.
pub fn measure(plan: &Plan) -> io::Result<Cached> {
    let (files, sockets) = stage::places()?;
    let log = sockets.path().join("log");
    let _sink = Sink::open(&log)?;
    let socket = sockets.path().join("bearerd.sock");
    let config = server::configure(files.path(), &socket, Some(&log))?;
    let command = server::bearerd(&plan.program, &config);
    let bearerd = Server::start(command, socket, &files.path().join("bearerd.stderr"))?;
    let known = tokens::make(&Target::Bearerd(bearerd.socket.clone()), plan.tokens)?;
    let mut checks = Vec::new();
    for (load, tokens, questions) in [("hot", 1, 1), ("warm", WARM, 1), ("full", known.len(), QUESTIONS)] {
        for threads in THREADS {
            let row = check(plan, &bearerd.socket, load, &known[..tokens], questions, threads)?;
            println!("cached {load}, {threads} threads: p50 {:.0} ns, {:.0}/s", row.p50_ns, row.per_second);
            checks.push(row);
        }
    }
    let refusals = refusals(&bearerd.socket, &known[..plan.revocations.min(known.len())])?;
    println!("cached: refused {:.2} µs after the bump (p99)", refusals.after_bump.p99);
    Ok(Cached { clock_ns: clock_ns(), checks, refusals })
}

/// What reading the clock takes alone, which every check does.
fn clock_ns() -> f64 {
    const READS: u32 = 1000;
    let read = || {
        let begun = Instant::now();
        for _ in 0..READS {
            let _ = black_box(clock_gettime(ClockId::CLOCK_BOOTTIME));
        }
        begun.elapsed().as_nanos() as f64 / f64::from(READS)
    };
    median((0..101).map(|_| read()).collect())
}

/// What one thread came to in a round.
#[derive(Default)]
struct Done {
    sixteenths: Histogram,
    checks: u64,
    misses: u64,
    timed: Duration,
}

fn check(
    plan: &Plan,
    socket: &Path,
    load: &str,
    known: &[Known],
    questions: usize,
    threads: usize,
) -> io::Result<CachedChecks> {
    // Places for four times as many: in hardly any set do more meet than there is room for.
    let options = CacheOptions { entries: 4 * known.len() * questions, ..CacheOptions::default() };
    let client = CachedClient::connect(socket, Options::default(), options).map_err(io::Error::other)?;
    fill(&client, known, questions)?;
    let (mut all, mut rates) = (Done::default(), Vec::new());
    for round in 0..plan.rounds {
        let start = Barrier::new(threads);
        let done: Vec<Done> = thread::scope(|scope| {
            let run = |number: usize| {
                let (client, start) = (&client, &start);
                scope.spawn(move || {
                    let random = Random::new((round * THREADS[2] + number + 1) as u64);
                    start.wait();
                    run(client, known, questions, random, plan.time)
                })
            };
            let threads: Vec<_> = (0..threads).map(run).collect();
            threads.into_iter().map(|it| it.join().expect("a check does not panic")).collect()
        });
        rates.push(done.iter().map(|it| it.checks as f64 / it.timed.as_secs_f64()).sum());
        for it in done {
            all.sixteenths.add(&it.sixteenths);
            all.checks += it.checks;
            all.misses += it.misses;
        }
    }
    let nanos = |share: f64| all.sixteenths.micros_at(share) * 1000.0;
    Ok(CachedChecks {
        load: load.to_owned(),
        questions: known.len() * questions,
        threads,
        p50_ns: nanos(0.5),
        p99_ns: nanos(0.99),
        p999_ns: nanos(0.999),
        per_second: median(rates),
        misses: all.misses as f64 / all.checks as f64,
    })
}

/// Asks everything once, and what is not kept then once more: a greeting that was answered late lets nothing be kept.
fn fill(client: &CachedClient, known: &[Known], questions: usize) -> io::Result<()> {
    let ask_all = |first: usize| {
        for known in known.iter().skip(first).step_by(FILLERS) {
            for question in 0..questions {
                let ask = question_of(known, question);
                if client.kept(&ask).is_none() && !client.validate(&ask).map_err(io::Error::other)?.active {
                    return Err(io::Error::other("a verdict is not active"));
                }
            }
        }
        Ok(())
    };
    for _ in 0..2 {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..FILLERS).map(|first| scope.spawn(move || ask_all(first))).collect();
            threads.into_iter().try_for_each(|it| it.join().expect("asking does not panic"))
        })?;
    }
    Ok(())
}

fn question_of(known: &Known, question: usize) -> Validate<'_> {
    known.asks(1 + question / 4, question % 4)
}

fn run(client: &CachedClient, known: &[Known], questions: usize, mut random: Random, time: Duration) -> Done {
    let mut done = Done::default();
    let mut presented: [String; TOGETHER] = Default::default();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let asks: Vec<Validate<'_>> = presented
            .iter_mut()
            .map(|presented| {
                let ask = question_of(&known[random.below(known.len())], random.below(questions));
                presented.clear();
                presented.push_str(ask.token);
                Validate { token: presented, ..ask }
            })
            .collect();
        let timer = Instant::now();
        for ask in &asks {
            match client.kept(black_box(ask)) {
                Some(verdict) => assert!(verdict.active),
                None => done.misses += 1,
            }
        }
        let took = timer.elapsed();
        done.sixteenths.note(took / TOGETHER as u32);
        done.timed += took;
        done.checks += TOGETHER as u64;
    }
    done
}

/// The other process, and the one here that revokes.
fn refusals(socket: &Path, known: &[Known]) -> io::Result<Refusals> {
    let mut observer = Observer::start(socket)?;
    let mut admin = Client::connect(socket, Options::default()).map_err(io::Error::other)?;
    let [mut after_bump, mut after_request, mut before_reply] = [(); 3].map(|()| Histogram::default());
    let (mut stale, mut late) = (0, 0);
    for known in known {
        observer.watch(known.token())?;
        let which = Which::Handles(vec![Handle(id_of(known.token())?)]);
        let asked = monotonic();
        admin.revoke(&Revoke { which, reason: None, dry_run: false }).map_err(io::Error::other)?;
        let replied = monotonic();
        let saw = observer.saw()?;
        stale += u64::from(saw.granted > replied);
        late += u64::from(saw.refused > replied);
        after_bump.note(saw.refused - saw.unchanged);
        after_request.note(saw.refused.saturating_sub(asked));
        before_reply.note(replied.saturating_sub(saw.refused));
    }
    if stale > 0 {
        return Err(io::Error::other(format!("{stale} checks that began after the reply were granted")));
    }
    Ok(Refusals {
        revocations: known.len(),
        after_bump: Latency::from(&after_bump),
        after_request: Latency::from(&after_request),
        before_reply: Latency::from(&before_reply),
        late,
    })
}

/// CLOCK_MONOTONIC: one clock for all processes.
fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

fn id_of(token: &str) -> io::Result<String> {
    token.split('_').nth(1).map(str::to_owned).ok_or_else(|| io::Error::other("a token has an id"))
}

/// What the observer saw of one revocation, by CLOCK_MONOTONIC.
struct Saw {
    /// Before the last look at the page that found the old value.
    unchanged: Duration,
    /// Before the last check that was granted.
    granted: Duration,
    /// After the first one that was not.
    refused: Duration,
}

/// A process of its own, killed when dropped.
struct Observer {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Observer {
    fn start(socket: &Path) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.arg(OBSERVER).arg(socket).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let ends = child.stdin.take().zip(child.stdout.take());
        let (input, output) = ends.expect("both are pipes");
        Ok(Self { child, input, output: BufReader::new(output).lines() })
    }

    /// Has it keep a verdict on this token, and look.
    fn watch(&mut self, token: &str) -> io::Result<()> {
        writeln!(self.input, "{token}")?;
        match self.line()?.as_str() {
            "looking" => Ok(()),
            other => Err(io::Error::other(format!("the observer says {other:?}"))),
        }
    }

    fn saw(&mut self) -> io::Result<Saw> {
        let line = self.line()?;
        let mut nanos = line.split(' ').map_while(|word| word.parse().ok()).map(Duration::from_nanos);
        let mut next = || nanos.next().ok_or_else(|| io::Error::other(format!("the observer says {line:?}")));
        Ok(Saw { unchanged: next()?, granted: next()?, refused: next()? })
    }

    fn line(&mut self) -> io::Result<String> {
        self.output.next().unwrap_or_else(|| Err(io::Error::other("the observer has ended")))
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The observer's side: a token on a line, again and again.
///
/// # Errors
/// When nothing is kept, or nothing is refused in time.
pub fn observe(socket: &Path) -> io::Result<()> {
    let client =
        CachedClient::connect(socket, Options::default(), CacheOptions::default()).map_err(io::Error::other)?;
    let page = own_page(socket)?;
    let lines: Lines<StdinLock<'_>> = io::stdin().lines();
    for token in lines {
        let token = token?;
        let id = token::id_of_handle(&id_of(&token)?).map_err(io::Error::other)?;
        let word = page::WORDS - page::SLOTS + page::slot_of(id);
        let ask = Validate { token: &token, scopes: Vec::new(), audience: None, from: None, note: None, peek: false };
        let patience = Instant::now() + PATIENCE;
        while client.kept(&ask).is_none() {
            client.validate(&ask).map_err(io::Error::other)?;
            if Instant::now() > patience {
                return Err(io::Error::other("nothing is kept"));
            }
        }
        let begun = monotonic();
        let value = page.load(word);
        println!("looking");
        let (mut unchanged, mut granted) = (begun, begun);
        let refused = loop {
            let now = monotonic();
            if page.load(word) == value {
                unchanged = now;
            }
            if client.kept(&ask).is_some() {
                granted = now;
            } else if page.load(word) != value {
                break monotonic();
            }
            // Else the daemon was not heard of for a while, which is no refusal of this token.
            if now > begun + PATIENCE {
                return Err(io::Error::other("it is granted for ever"));
            }
        };
        println!("{} {} {}", unchanged.as_nanos(), granted.as_nanos(), refused.as_nanos());
    }
    Ok(())
}

/// The epoch page, over a connection of its own.
fn own_page(socket: &Path) -> io::Result<Words> {
    let mut stream = UnixStream::connect(socket)?;
    let mut hello = Vec::new();
    let wanted = ClientHello { magic: MAGIC, version_min: VERSION, version_max: VERSION, flags: FLAG_PAGE };
    frame::append(&wanted, &mut hello);
    stream.write_all(&hello)?;
    // It does not wait; the answer is there as soon as a byte can be looked at.
    nix::poll::poll(
        &mut [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&stream), nix::poll::PollFlags::POLLIN)],
        nix::poll::PollTimeout::NONE,
    )?;
    let (_, file) = pass::receive_with_file(&stream, &mut [0; 256])?;
    let file = file.ok_or_else(|| io::Error::other("the epoch page did not come"))?;
    Words::open(&file, page::WORDS)
}
