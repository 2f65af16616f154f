//! The load: prebuilt requests over raw sockets, the same code for bearerd and for the echo, so that what it costs
//! itself falls on both alike.
//!
//! Closed loops: a connection keeps `window` requests in flight and sends the next when an answer has come. Every
//! answer is checked. Requests are drawn at random, never in turn: in turn, none would meet the window that an earlier
//! one like it opened in the audit.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use bearerd::codec;
use bearerd::protocol::frame::{self, Direction};
use bearerd::protocol::message::{ClientHello, ServerHello};
use bearerd::protocol::{MAGIC, VERSION};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::histogram::Histogram;

/// Threads that drive connections, where there are enough of them.
const THREADS: usize = 2;
/// Longest wait for an answer; only a broken peer lets it pass.
const PATIENCE: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 256 * 1024;
/// Where a request's number stands in its frame: numbers below 128 take one byte.
const NUMBER_AT: usize = 4;

/// Requests, ready to be sent.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Frames {
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
}

/// When an answer is a good one.
#[derive(Clone)]
pub enum Check {
    /// It begins with these bytes after its number: which answer it is, and that it is active.
    Begins(Vec<u8>),
    /// It is what was recorded for this request (or, of one recorded answer, for all), but for its number. What was
    /// recorded has been decoded and looked at.
    Is(Arc<Vec<Vec<u8>>>),
}

impl Check {
    fn good(&self, request: usize, answer: &[u8]) -> bool {
        match self {
            Self::Begins(begin) => answer[1..].starts_with(begin),
            Self::Is(recorded) => answer[1..] == recorded[request % recorded.len()][1..],
        }
    }
}

/// Whom the load is for.
pub enum Target<'a> {
    Bearerd(&'a Path),
    /// With what it shall answer.
    Echo(&'a Path, &'a [u8]),
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
    window: usize,
    /// Of each request in flight: when it was sent, and which it is. The number is the place here, plus one.
    sent: Vec<(Instant, usize)>,
    in_flight: usize,
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
    random: Random,
}

/// xorshift64*: which request comes next.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((u128::from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)) * limit as u128) >> 64) as usize
    }
}

impl<'a> Load<'a> {
    /// Connects.
    pub fn open(
        target: &Target<'_>,
        frames: &'a Frames,
        check: Check,
        connections: usize,
        window: usize,
    ) -> io::Result<Self> {
        let mut threads: Vec<Vec<Connection>> = (0..THREADS.min(connections)).map(|_| Vec::new()).collect();
        for number in 0..connections {
            let stream = connect(target)?;
            let at = number % threads.len();
            threads[at].push(Connection {
                stream,
                window,
                sent: vec![(Instant::now(), 0); window],
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

/// Connects and says hello.
pub fn connect(target: &Target<'_>) -> io::Result<UnixStream> {
    let path = match target {
        Target::Bearerd(path) | Target::Echo(path, _) => path,
    };
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    match target {
        Target::Bearerd(_) => {
            let mut hello = Vec::new();
            frame::append(
                &ClientHello { magic: MAGIC, version_min: VERSION, version_max: VERSION, flags: 0 },
                &mut hello,
            );
            stream.write_all(&hello)?;
            let reply = read_frame(&mut stream)?;
            let hello: ServerHello = codec::decode(&reply).map_err(io::Error::other)?;
            if hello.version != VERSION {
                return Err(io::Error::other("bearerd does not take the hello"));
            }
        }
        Target::Echo(_, reply) => {
            stream.write_all(&u32::try_from(reply.len()).expect("a frame is short").to_le_bytes())?;
            stream.write_all(reply)?;
            read_frame(&mut stream)?;
        }
    }
    Ok(stream)
}

/// Reads one frame's content, waiting for it.
pub fn read_frame(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = frame::length(&length, Direction::Reply).map_err(io::Error::other)?.expect("four bytes are a length");
    let mut content = vec![0; length];
    stream.read_exact(&mut content)?;
    Ok(content)
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
        let request = self.random.below(frames.len());
        let from = self.output.len();
        self.output.extend_from_slice(frames.frame(request));
        self.output[from + NUMBER_AT] = u8::try_from(place + 1).expect("a window is small");
        self.sent[place].1 = request;
        self.in_flight += 1;
    }

    fn send(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let mut at = 0;
        while at < self.output.len() {
            let length = u32::from_le_bytes(self.output[at..at + 4].try_into().expect("four bytes")) as usize;
            self.sent[usize::from(self.output[at + NUMBER_AT]) - 1].0 = now;
            at += 4 + length;
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
        while let Ok(Some((answer, bytes))) = frame::first(&self.input[start..self.filled], Direction::Reply) {
            start += bytes;
            let place = usize::from(answer[0]).wrapping_sub(1);
            let Some(&(sent, request)) = self.sent.get(place) else {
                return Err(io::Error::other(format!("an answer that was not asked for: {answer:?}")));
            };
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
