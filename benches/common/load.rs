//! The load: prebuilt requests over raw sockets, the same code and the same event loop for bearerd, the echoes and every
//! peer, so that what it costs itself falls on all alike.
//!
//! Closed loops: a connection keeps `window` requests in flight and sends the next when an answer has come. Every
//! answer is checked. Requests are drawn at random, never in turn: in turn, none would meet the window that an earlier
//! one like it opened in the audit.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use bearerd::protocol::frame;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::histogram::Histogram;
use super::random::Random;
use super::wire::{NUMBER_AT, PATIENCE, Target, Wire};

/// Threads that drive connections, where there are enough of them.
const THREADS: usize = 2;
const READ_BYTES: usize = 256 * 1024;

/// Requests, ready to be sent.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// How many were sent, where each may be sent once only.
    once: Option<AtomicUsize>,
}

impl Frames {
    /// Each will be sent once, by whichever connection comes next; when none is left the load ends.
    pub fn once() -> Self {
        Self { once: Some(AtomicUsize::new(0)), ..Self::default() }
    }

    /// Appends a request that is bytes already.
    pub fn push_raw(&mut self, request: &[u8]) {
        self.bytes.extend_from_slice(request);
        self.ends.push(self.bytes.len());
    }

    /// Appends a request.
    pub fn push<T: serde::Serialize>(&mut self, request: &T) {
        frame::append(request, &mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// A request with its length field.
    pub fn frame(&self, index: usize) -> &[u8] {
        let from = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[from..self.ends[index]]
    }

    /// How many can still be sent.
    pub fn left(&self) -> usize {
        self.once.as_ref().map_or(usize::MAX, |sent| self.len().saturating_sub(sent.load(Ordering::Relaxed)))
    }

    fn draw(&self, random: &mut Random) -> Option<usize> {
        match &self.once {
            None => Some(random.below(self.len())),
            Some(sent) => Some(sent.fetch_add(1, Ordering::Relaxed)).filter(|&index| index < self.len()),
        }
    }
}

/// When an answer is a good one.
#[derive(Clone)]
pub enum Check {
    /// It begins with these bytes after its number: which answer it is, and that it is active.
    Begins(Vec<u8>),
    /// It is what was recorded for this request (or, of one recorded answer, for all), but for its number. What was
    /// recorded has been decoded and looked at.
    Is(Arc<Vec<Vec<u8>>>),
    /// The same, where answers carry no number: all of it counts.
    Whole(Arc<Vec<Vec<u8>>>),
}

impl Check {
    fn good(&self, request: usize, answer: &[u8]) -> bool {
        match self {
            Self::Begins(begin) => answer[1..].starts_with(begin),
            Self::Is(recorded) => answer[1..] == recorded[request % recorded.len()][1..],
            Self::Whole(expected) => answer == expected[request % expected.len()],
        }
    }
}

/// Connections to one of them, kept over all rounds.
pub struct Load<'a> {
    frames: &'a Frames,
    check: Check,
    threads: Vec<Vec<Connection>>,
}

/// What came of a round.
#[derive(Clone, Default)]
pub struct Outcome {
    pub answers: u64,
    pub bad: u64,
    pub elapsed: Duration,
    pub latency: Histogram,
}

impl Outcome {
    pub fn per_second(&self) -> f64 {
        self.answers as f64 / self.elapsed.as_secs_f64()
    }
}

struct Connection {
    stream: UnixStream,
    wire: Wire,
    window: usize,
    /// Of each request in flight: when it was sent, and which it is. The number, if the wire carries one, is the place
    /// here, plus one.
    sent: Vec<(Instant, usize)>,
    /// The places of those that are written with the next `send`.
    fresh: Vec<usize>,
    /// Whose answer comes next, where answers come in order: places are filled again as they are answered, in a ring.
    oldest: usize,
    in_flight: usize,
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
    random: Random,
}

impl<'a> Load<'a> {
    /// Connects.
    pub fn open(
        target: &Target,
        frames: &'a Frames,
        check: Check,
        connections: usize,
        window: usize,
    ) -> io::Result<Self> {
        let mut threads: Vec<Vec<Connection>> = (0..THREADS.min(connections)).map(|_| Vec::new()).collect();
        for number in 0..connections {
            let stream = target.connect()?;
            let at = number % threads.len();
            threads[at].push(Connection {
                stream,
                wire: target.wire(),
                window,
                sent: vec![(Instant::now(), 0); window],
                fresh: Vec::with_capacity(window),
                oldest: 0,
                in_flight: 0,
                input: vec![0; READ_BYTES],
                filled: 0,
                output: Vec::new(),
                random: Random::new(number as u64 + 1),
            });
        }
        Ok(Self { frames, check, threads })
    }

    /// One round; all that was asked has been answered when it returns.
    pub fn run(&mut self, time: Duration) -> io::Result<Outcome> {
        let (frames, check) = (self.frames, &self.check);
        let start = Barrier::new(self.threads.len());
        let outcomes: Vec<io::Result<Outcome>> = thread::scope(|scope| {
            let start = &start;
            let running: Vec<_> = self
                .threads
                .iter_mut()
                .map(|connections| scope.spawn(move || drive(connections, frames, check, start, time)))
                .collect();
            running.into_iter().map(|thread| thread.join().expect("a load does not panic")).collect()
        });
        let mut all = Outcome::default();
        for outcome in outcomes {
            let outcome = outcome?;
            all.answers += outcome.answers;
            all.bad += outcome.bad;
            all.elapsed = all.elapsed.max(outcome.elapsed);
            all.latency.add(&outcome.latency);
        }
        Ok(all)
    }
}

fn drive(
    connections: &mut [Connection],
    frames: &Frames,
    check: &Check,
    start: &Barrier,
    time: Duration,
) -> io::Result<Outcome> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (number, connection) in connections.iter().enumerate() {
        epoll.add(&connection.stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
    }
    let mut events = [EpollEvent::empty(); 64];
    let mut outcome = Outcome::default();
    start.wait();
    let begun = Instant::now();
    let until = begun + time;
    for connection in connections.iter_mut() {
        connection.oldest = 0;
        for place in 0..connection.window {
            connection.ask(place, frames);
        }
        connection.send()?;
    }
    if let [connection] = connections {
        // One connection alone waits in its read.
        while connection.in_flight > 0 {
            connection.turn(frames, check, until, &mut outcome)?;
        }
    }
    while connections.iter().any(|connection| connection.in_flight > 0) {
        let patience = EpollTimeout::try_from(PATIENCE).expect("ten seconds are a timeout");
        let count = epoll.wait(&mut events, patience)?;
        if count == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        for event in &events[..count] {
            connections[event.data() as usize].turn(frames, check, until, &mut outcome)?;
        }
    }
    outcome.elapsed = time.min(begun.elapsed());
    Ok(outcome)
}

impl Connection {
    fn ask(&mut self, place: usize, frames: &Frames) {
        let Some(request) = frames.draw(&mut self.random) else { return };
        let from = self.output.len();
        self.output.extend_from_slice(frames.frame(request));
        if self.wire == Wire::Frames {
            self.output[from + NUMBER_AT] = u8::try_from(place + 1).expect("a window is small");
        }
        self.sent[place].1 = request;
        self.fresh.push(place);
        self.in_flight += 1;
    }

    fn send(&mut self) -> io::Result<()> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        for place in self.fresh.drain(..) {
            self.sent[place].0 = now;
        }
        // What is in flight fits in the socket many times over: this does not wait.
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    /// One read, and what follows from it.
    fn turn(&mut self, frames: &Frames, check: &Check, until: Instant, outcome: &mut Outcome) -> io::Result<()> {
        let count = self.stream.read(&mut self.input[self.filled..])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.filled += count;
        let now = Instant::now();
        let mut start = 0;
        while let Some((answer, bytes)) = self.wire.first(&self.input[start..self.filled])? {
            start += bytes;
            let place = match self.wire {
                Wire::Frames => usize::from(answer[0]).wrapping_sub(1),
                Wire::Resp | Wire::Memcached => self.oldest,
            };
            let Some(&(sent, request)) = self.sent.get(place).filter(|_| self.in_flight > 0) else {
                return Err(io::Error::other(format!("an answer that was not asked for: {answer:?}")));
            };
            self.oldest = (self.oldest + 1) % self.window;
            if !check.good(request, answer) {
                outcome.bad += 1;
            }
            self.in_flight -= 1;
            if now < until {
                outcome.answers += 1;
                outcome.latency.note(now - sent);
                self.ask(place, frames);
            }
        }
        self.input.copy_within(start..self.filled, 0);
        self.filled -= start;
        self.send()
    }
}
