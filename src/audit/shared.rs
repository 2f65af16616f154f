//! What the daemon's tasks and the writer's thread share: the queue between them, the open windows, how things stand.
//!
//! Invariant: nothing here waits for a disk. The queue is bounded by the weight of what can be dropped; the changes,
//! which can't, are few, and refused at their source while the log fails.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::budget::Budget;
use super::coalesce::Coalescer;
use super::event::AuditEvent;
use super::receipt::Pending;
use crate::time::Clock;

/// Bytes of droppable events that wait for the writer, at most.
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Room in the file below which a change is refused before its commit: the longest line.
pub(super) const ROOM_NEEDED_BYTES: u64 = super::event::LINE_MAX as u64;

/// What happens to an event that can't be written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A change, durable in the outbox: kept until it is written.
    Change,
    /// Start, stop and the like: kept, some.
    Kept,
    /// Uses (their askers are told) and refusals: counted.
    Droppable,
}

/// A line to be.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) event: Arc<AuditEvent>,
    pub(super) class: Class,
    pub(super) pending: Option<Arc<Pending>>,
    /// It is only true if that one was written.
    pub(super) after: Option<Arc<Pending>>,
}

impl Job {
    pub(super) fn new(event: AuditEvent, class: Class) -> Self {
        Self { event: Arc::new(event), class, pending: None, after: None }
    }
}

/// What the writer is told to do; the answer comes when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// What it does by itself every quarter of a second.
    Tick,
    /// Everything queued before is written, or counted as lost.
    Barrier,
    /// The file was renamed: go on in a new one.
    Reopen,
    /// End all windows, sync, seal, end.
    Stop,
}

/// How a command ended: with words for a person when it failed.
pub(super) type Answer = oneshot::Sender<Result<(), String>>;

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    weight: usize,
    commands: Vec<(Command, Answer)>,
    closed: bool,
    /// The writer sleeps and must be woken.
    idle: bool,
}

/// What the writer takes from the queue at once.
pub(super) struct Taken {
    pub(super) jobs: Vec<Job>,
    pub(super) commands: Vec<(Command, Answer)>,
    pub(super) closed: bool,
}

/// Numbers for status and metrics.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Lines written.
    pub(super) lines: AtomicU64,
    /// `gap` lines written.
    pub(super) gaps: AtomicU64,
    /// Events whose line could not be written, ever.
    pub(super) lost: AtomicU64,
    /// Validations told unavailable, ever.
    pub(super) refused: AtomicU64,
    pub(super) syslog_dropped: AtomicU64,
    pub(super) flooded: AtomicU64,
    pub(super) kept: AtomicU64,
    pub(super) seq: AtomicU64,
    pub(super) sealed_seq: AtomicU64,
    pub(super) room_bytes: AtomicU64,
    pub(super) free_bytes: AtomicU64,
    pub(super) low_space: AtomicBool,
}

/// Both sides' state.
pub(super) struct Shared {
    pub(super) clock: Arc<Clock>,
    pub(super) uses: Coalescer,
    pub(super) refusals: Coalescer,
    pub(super) budget: Mutex<Budget>,
    pub(super) counters: Counters,
    pub(super) appended: watch::Sender<u64>,
    /// The file that is written (its inode), and where its last whole batch ends.
    pub(super) end: Mutex<(u64, u64)>,
    max_wait: Duration,
    began: Instant,
    /// Microseconds after `began`, plus one, at which the writer went into a system call that may hang; 0 when in none.
    busy_since: AtomicU64,
    failing: AtomicBool,
    fault: Mutex<Option<String>>,
    queue: Mutex<Queue>,
    wake: Condvar,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        clock: Arc<Clock>,
        max_wait: Duration,
        uses: Coalescer,
        refusals: Coalescer,
        budget: Budget,
    ) -> Self {
        Self {
            clock,
            uses,
            refusals,
            budget: Mutex::new(budget),
            counters: Counters::default(),
            appended: watch::Sender::new(0),
            end: Mutex::default(),
            max_wait,
            began: Instant::now(),
            busy_since: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            fault: Mutex::new(None),
            queue: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    /// Queues a line; false when there is no room for it.
    pub(super) fn push(&self, job: Job) -> bool {
        let weight = job.event.weight();
        let mut queue = lock(&self.queue);
        if queue.closed || (job.class != Class::Change && queue.weight + weight > QUEUE_BYTES_MAX) {
            return false;
        }
        queue.weight += weight;
        queue.jobs.push(job);
        self.wake(queue);
        true
    }

    /// Queues a line that nobody waits for; what finds no room is counted.
    pub(super) fn push_or_count(&self, job: Job) {
        let count = job.event.count.unwrap_or(1);
        if !self.push(job) {
            self.counters.lost.fetch_add(count, Relaxed);
        }
    }

    /// Tells the writer to do something.
    pub(super) fn command(&self, command: Command) -> oneshot::Receiver<Result<(), String>> {
        let (answer, answered) = oneshot::channel();
        let mut queue = lock(&self.queue);
        if !queue.closed {
            queue.commands.push((command, answer));
            self.wake(queue);
        }
        answered
    }

    /// No more lines: the writer writes what is queued, and ends.
    pub(super) fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        self.wake(queue);
    }

    fn wake(&self, mut queue: MutexGuard<'_, Queue>) {
        if std::mem::take(&mut queue.idle) {
            drop(queue);
            self.wake.notify_one();
        }
    }

    /// The writer's side: everything queued, or nothing once `until` has come.
    pub(super) fn take(&self, until: Instant) -> Taken {
        let mut queue = lock(&self.queue);
        while queue.jobs.is_empty() && queue.commands.is_empty() && !queue.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            queue.idle = true;
            queue = self.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.idle = false;
        queue.weight = 0;
        Taken {
            jobs: std::mem::take(&mut queue.jobs),
            commands: std::mem::take(&mut queue.commands),
            closed: queue.closed,
        }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The writer goes into a system call that may hang.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.busy_since.store(self.micros() + 1, Relaxed);
        Busy(self)
    }

    /// Whether the writer hangs in a system call.
    pub(super) fn stuck(&self) -> bool {
        let since = self.busy_since.load(Relaxed);
        since != 0 && Duration::from_micros((self.micros() + 1).saturating_sub(since)) > self.max_wait
    }

    /// Whether a line that is given now will probably be written in time.
    pub(super) fn available(&self) -> bool {
        !self.failing.load(Relaxed) && !self.stuck()
    }

    /// Whether there is room for a line whatever else takes space.
    pub(super) fn has_room(&self) -> bool {
        self.counters.room_bytes.load(Relaxed) >= ROOM_NEEDED_BYTES
    }

    pub(super) fn set_fault(&self, fault: Option<String>) {
        self.failing.store(fault.is_some(), Relaxed);
        *lock(&self.fault) = fault;
    }

    pub(super) fn fault(&self) -> Option<String> {
        let fault = lock(&self.fault).clone();
        fault.or_else(|| self.stuck().then(|| "a write to audit.log hangs".to_owned()))
    }
}

/// Ends with the system call.
pub(super) struct Busy<'a>(&'a Shared);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy_since.store(0, Relaxed);
    }
}
