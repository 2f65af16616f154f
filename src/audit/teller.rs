//! Tells syslog of what stands in the log, and when it did not take it all, that.
//!
//! Invariant: nothing waits for syslog but what is to be told to it, and that is bounded in number and in time: a queue
//! that is full for a moment is tried again, one that takes nothing for [`PATIENCE`] has everything dropped, and each
//! message is sent, or counted as dropped, once.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::chain::Seal;
use super::drops::Drops;
use super::event::{AuditEvent, EventKind};
use super::shared::Shared;
use super::syslog::{Sent, Syslog};

/// Lines that wait for a syslog whose queue is full, at most.
const BACKLOG_MAX: usize = 4096;
/// For how long it may take nothing.
const PATIENCE: Duration = Duration::from_millis(50);

/// A line that has been written.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) event: Arc<AuditEvent>,
    pub(super) seq: u64,
    pub(super) generation: u64,
}

enum Message {
    Line(Told),
    Seal(Box<Seal>),
}

/// The way to syslog, and what of it is counted.
pub(super) struct Teller {
    shared: Arc<Shared>,
    syslog: Option<Syslog>,
    drops: Drops,
    dropped: u64,
    waiting: VecDeque<Message>,
    /// When it last took something, or had nothing to take.
    taken_at: Instant,
    /// It took nothing for [`PATIENCE`], and nothing since.
    stalled: bool,
}

impl Teller {
    pub(super) fn new(path: Option<PathBuf>, shared: Arc<Shared>) -> Self {
        let syslog = path.map(Syslog::new);
        let (drops, taken_at) = (Drops::default(), Instant::now());
        Self { shared, syslog, drops, dropped: 0, waiting: VecDeque::new(), taken_at, stalled: false }
    }

    /// Whether something waits for room.
    pub(super) fn backlog(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Tells of these lines, and of what still waits.
    pub(super) fn tell(&mut self, lines: Vec<Told>) {
        if self.waiting.is_empty() {
            self.taken_at = Instant::now();
        }
        self.waiting.extend(lines.into_iter().map(Message::Line));
        self.send(false);
    }

    /// Sends what is fsynced to where the thief of this host can't reach it.
    pub(super) fn seal(&mut self, seal: &Seal) {
        self.waiting.push_back(Message::Seal(Box::new(seal.clone())));
        self.send(false);
    }

    /// What is not taken now is dropped.
    pub(super) fn give_up(&mut self) {
        self.send(true);
    }

    /// How many drops a line is due for; `all` when it is the last chance.
    pub(super) fn drops_due(&mut self, all: bool) -> Option<u64> {
        self.drops.due(all, self.shared.clock.boottime())
    }

    fn send(&mut self, last: bool) {
        let Some(syslog) = &mut self.syslog else { return self.waiting.clear() };
        if self.waiting.is_empty() {
            return;
        }
        let (now, boottime) = (Instant::now(), self.shared.clock.boottime());
        while let Some(message) = self.waiting.front() {
            let sent = match message {
                Message::Line(Told { event, seq, generation }) => syslog.event(event, *seq, *generation),
                Message::Seal(seal) => syslog.seal(seal),
            };
            match sent {
                Sent::Taken => (self.taken_at, self.stalled) = (now, false),
                Sent::Full => self.stalled |= now.saturating_duration_since(self.taken_at) >= PATIENCE,
                Sent::Nowhere => {}
            }
            if sent == Sent::Full && !last && !self.stalled && self.waiting.len() <= BACKLOG_MAX {
                break;
            }
            if let Message::Line(Told { event, .. }) = message {
                // A gap line that tells of drops must not call for another one.
                let counts = !matches!(event.event, EventKind::Gap | EventKind::Seal);
                self.drops.look(sent == Sent::Taken, counts, boottime);
            }
            self.dropped += u64::from(sent != Sent::Taken);
            self.waiting.pop_front();
        }
        self.shared.counters.syslog_dropped.store(self.dropped, Relaxed);
    }
}
