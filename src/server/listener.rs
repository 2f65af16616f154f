//! Accepting connections, also when descriptors run out.
//!
//! Invariant I6: a shortage neither ends the loop nor makes it spin, and it ends by itself. When `accept` fails for want
//! of descriptors, spare ones are given up for one connection: root is served with them, anyone else is told why not.
//! Then the listener pauses, longer each time; who waits in its backlog is served when there is room again.

use std::fs::File;
use std::io;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{self, Instant};
use tracing::{info, warn};

use super::limits::{Counters, ServerLimits};

/// Descriptors kept aside: the connection itself, its peer's pidfd, and what is opened to read the peer's cgroup.
const SPARE: usize = 4;

/// A connection, and whether it was taken with the spare descriptors.
pub(super) struct Accepted {
    pub(super) stream: UnixStream,
    pub(super) with_spare: bool,
}

/// The listening socket with what keeps it going.
pub(super) struct Door {
    listener: UnixListener,
    spare: Vec<File>,
    first_pause: Duration,
    longest_pause: Duration,
    pause: Duration,
    /// Not armed again before this.
    paused_until: Option<Instant>,
    short: bool,
}

impl Door {
    pub(super) fn new(listener: UnixListener, limits: &ServerLimits) -> Self {
        let (first_pause, longest_pause) = limits.accept_pause;
        let mut door = Self {
            listener,
            spare: Vec::with_capacity(SPARE),
            first_pause,
            longest_pause,
            pause: first_pause,
            paused_until: None,
            short: false,
        };
        door.refill();
        door
    }

    /// The next connection. May be dropped while it waits: nothing is lost.
    pub(super) async fn accept(&mut self, counters: &Counters) -> Accepted {
        loop {
            if let Some(until) = self.paused_until {
                time::sleep_until(until).await;
                self.paused_until = None;
            }
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if self.short && self.refill() {
                        self.short = false;
                        self.pause = self.first_pause;
                        info!("descriptors are free again: accepting connections");
                    }
                    return Accepted { stream, with_spare: false };
                }
                Err(error) => {
                    if let Some(stream) = self.failed(&error, counters) {
                        return Accepted { stream, with_spare: true };
                    }
                }
            }
        }
    }

    /// Gives the spare descriptors up and pauses: to be called when something else than `accept` ran out of them.
    pub(super) fn give_up_spare(&mut self, error: &io::Error, counters: &Counters) {
        self.pause(error, counters);
        self.spare.clear();
    }

    /// Takes spare descriptors back, as far as there are any.
    pub(super) fn keep_spare(&mut self) {
        self.refill();
    }

    fn failed(&mut self, error: &io::Error, counters: &Counters) -> Option<UnixStream> {
        if matches!(errno(error), Some(Errno::ECONNABORTED | Errno::EINTR)) {
            return None;
        }
        if !is_shortage(error) {
            self.pause(error, counters);
            return None;
        }
        self.give_up_spare(error, counters);
        let mut context = Context::from_waker(Waker::noop());
        match self.listener.poll_accept(&mut context) {
            Poll::Ready(Ok((stream, _))) => Some(stream),
            _ => {
                self.refill();
                None
            }
        }
    }

    fn pause(&mut self, error: &io::Error, counters: &Counters) {
        if !self.short {
            self.short = true;
            warn!("cannot accept connections: {error}; trying again, at least every {:?}", self.longest_pause);
        }
        Counters::add(&counters.accept_pauses);
        self.paused_until = Some(Instant::now() + self.pause);
        self.pause = (2 * self.pause).min(self.longest_pause);
    }

    /// Opens spare descriptors; false while some are missing.
    fn refill(&mut self) -> bool {
        while self.spare.len() < SPARE {
            match File::open("/dev/null") {
                Ok(file) => self.spare.push(file),
                Err(_) => return false,
            }
        }
        true
    }
}

/// Whether no descriptor was free, for this process or in the whole system.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    matches!(errno(error), Some(Errno::EMFILE | Errno::ENFILE))
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}
