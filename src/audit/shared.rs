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
use super::spin::Spin;
use super::teller::Told;
use super::writer::{Ended, Writer};
use crate::time::Clock;

/// Bytes of droppable events that wait for the writer, at most.
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long lines are gathered for syslog.
const TELL_AFTER: Duration = Duration::from_millis(1);
/// How soon a syslog whose queue was full is tried again.
const TELL_AGAIN: Duration = Duration::from_micros(200);
/// The keeper's longest sleep while it waits for one of the others, who wakes it.
const NAP: Duration = Duration::from_secs(1);
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
    /// Where the writer is while nobody writes.
    writer: Option<Box<Writer>>,
    /// The keeper waits for it, or is asked to take it: the flusher leaves it alone.
    wanted: bool,
    /// There is a flusher.
    flusher: bool,
    /// It sleeps until it is woken.
    flusher_idle: bool,
    /// Lines that syslog has not been told of.
    told: Vec<Told>,
    /// What has been done on the disk meanwhile.
    ended: Vec<Ended>,
    /// The keeper sleeps until it is woken.
    idle: bool,
}

/// What the keeper has to do.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) told: Vec<Told>,
    pub(super) commands: Vec<(Command, Answer)>,
    pub(super) ended: Vec<Ended>,
    pub(super) closed: bool,
    /// Something that needs the writer.
    pub(super) work: bool,
}

/// What there is for the flusher.
pub(super) enum Lent {
    /// Lines to be written.
    Writer(Box<Writer>, Vec<Job>),
    /// Nothing, ever again.
    Over,
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
    /// The same of what is done to the file beside it.
    disk_busy_since: AtomicU64,
    /// The same at which the oldest of the queue came; 0 when it is empty. Nobody takes it when a thread is dead or stopped.
    waiting_since: AtomicU64,
    /// There may be something for the flusher: what it looks at before it sleeps.
    queued: AtomicBool,
    failing: AtomicBool,
    fault: Mutex<Option<String>>,
    queue: Mutex<Queue>,
    wake: Condvar,
    wake_flusher: Condvar,
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
            disk_busy_since: AtomicU64::new(0),
            waiting_since: AtomicU64::new(0),
            queued: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            fault: Mutex::new(None),
            queue: Mutex::default(),
            wake: Condvar::new(),
            wake_flusher: Condvar::new(),
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
        if queue.jobs.is_empty() {
            self.waiting_since.store(self.micros() + 1, Relaxed);
        }
        queue.jobs.push(job);
        if queue.flusher && !queue.wanted {
            self.rouse(queue);
        } else {
            self.wake(queue);
        }
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
        self.wake_flusher.notify_one();
        self.wake(queue);
    }

    fn wake(&self, mut queue: MutexGuard<'_, Queue>) {
        if std::mem::take(&mut queue.idle) {
            drop(queue);
            self.wake.notify_one();
        }
    }

    fn rouse(&self, mut queue: MutexGuard<'_, Queue>) {
        self.queued.store(true, Relaxed);
        if std::mem::take(&mut queue.flusher_idle) {
            drop(queue);
            self.wake_flusher.notify_one();
        }
    }

    /// The keeper sleeps, at most so long.
    fn doze<'a>(&self, mut queue: MutexGuard<'a, Queue>, nap: Duration) -> MutexGuard<'a, Queue> {
        queue.idle = true;
        let mut queue = self.wake.wait_timeout(queue, nap).unwrap_or_else(PoisonError::into_inner).0;
        queue.idle = false;
        queue
    }

    /// The keeper's side: what there is to do, or nothing once `until` has come. `backlog`: syslog is to be tried again.
    pub(super) fn turn(&self, until: Instant, backlog: bool) -> Turn {
        let mut queue = lock(&self.queue);
        let mut tell_at = backlog.then(|| Instant::now() + TELL_AGAIN);
        loop {
            let work = queue.wanted
                || queue.closed
                || !queue.commands.is_empty()
                || !queue.ended.is_empty()
                || (!queue.flusher && !queue.jobs.is_empty());
            let now = Instant::now();
            if tell_at.is_none() && !queue.told.is_empty() {
                tell_at = Some(now + TELL_AFTER);
            }
            let at = tell_at.map_or(until, |at| at.min(until));
            if work || now >= at {
                let queue = &mut *queue;
                return Turn {
                    told: std::mem::take(&mut queue.told),
                    commands: std::mem::take(&mut queue.commands),
                    ended: std::mem::take(&mut queue.ended),
                    closed: queue.closed,
                    work,
                };
            }
            queue = self.doze(queue, at - now);
        }
    }

    /// The keeper takes the writer, and what is queued for it.
    pub(super) fn hold(&self) -> (Box<Writer>, Vec<Job>) {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(writer) = queue.writer.take() {
                queue.wanted = false;
                return (writer, self.take_all(&mut queue));
            }
            queue.wanted = true;
            queue = self.doze(queue, NAP);
        }
    }

    /// The keeper is done with it.
    pub(super) fn put_back(&self, mut writer: Box<Writer>) {
        let mut queue = lock(&self.queue);
        self.add_told(&mut queue, &mut writer);
        queue.writer = Some(writer);
        // What came meanwhile; without a flusher the keeper looks by itself.
        if queue.flusher && !queue.wanted && !queue.jobs.is_empty() {
            self.rouse(queue);
        }
    }

    /// More lines for it, for the keeper that has the writer.
    pub(super) fn take_jobs(&self) -> Vec<Job> {
        self.take_all(&mut lock(&self.queue))
    }

    fn take_all(&self, queue: &mut Queue) -> Vec<Job> {
        queue.weight = 0;
        self.waiting_since.store(0, Relaxed);
        std::mem::take(&mut queue.jobs)
    }

    /// The lines that syslog has not been told of, those that `writer` has just written among them.
    pub(super) fn take_told(&self, writer: &mut Writer) -> Vec<Told> {
        let mut queue = lock(&self.queue);
        self.add_told(&mut queue, writer);
        std::mem::take(&mut queue.told)
    }

    fn add_told(&self, queue: &mut Queue, writer: &mut Writer) {
        let mut told = writer.take_told();
        if queue.told.is_empty() {
            queue.told = told;
        } else {
            queue.told.append(&mut told);
        }
    }

    /// Something that was done on the disk has ended.
    pub(super) fn ended(&self, ended: Ended) {
        let mut queue = lock(&self.queue);
        queue.ended.push(ended);
        self.wake(queue);
    }

    /// The keeper, with the writer in hand, waits for that.
    pub(super) fn await_ended(&self) -> Vec<Ended> {
        let mut queue = lock(&self.queue);
        while queue.ended.is_empty() {
            queue = self.doze(queue, NAP);
        }
        std::mem::take(&mut queue.ended)
    }

    /// From now on there is a flusher.
    pub(super) fn flusher_comes(&self) {
        lock(&self.queue).flusher = true;
    }

    /// The flusher's side: the writer, once there is something to write and the keeper has no need of it.
    pub(super) fn lend(&self, spin: &mut Spin) -> Lent {
        let mut queue = lock(&self.queue);
        loop {
            if queue.closed {
                return Lent::Over;
            }
            if !queue.wanted
                && !queue.jobs.is_empty()
                && let Some(writer) = queue.writer.take()
            {
                return Lent::Writer(writer, self.take_all(&mut queue));
            }
            self.queued.store(false, Relaxed);
            drop(queue);
            let found = spin.until(|| self.queued.load(Relaxed));
            queue = lock(&self.queue);
            if !found && !self.queued.load(Relaxed) && !queue.closed {
                let asleep = Instant::now();
                queue.flusher_idle = true;
                queue = self.wake_flusher.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.flusher_idle = false;
                spin.slept(asleep.elapsed());
            }
        }
    }

    /// It is done; `left` is what only the keeper may write.
    pub(super) fn give_back(&self, mut writer: Box<Writer>, left: Option<Vec<Job>>) {
        let mut queue = lock(&self.queue);
        let first = queue.told.is_empty();
        self.add_told(&mut queue, &mut writer);
        queue.wanted |= left.is_some() || writer.reserve_due();
        if let Some(mut left) = left {
            queue.weight += left.iter().map(|job| job.event.weight()).sum::<usize>();
            left.append(&mut queue.jobs);
            queue.jobs = left;
            self.waiting_since.store(self.micros() + 1, Relaxed);
        }
        queue.writer = Some(writer);
        // Once for many: after the first it knows that there is something to tell.
        if queue.wanted || (first && !queue.told.is_empty()) {
            self.wake(queue);
        }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// The writer goes into a system call that may hang.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.enter(&self.busy_since)
    }

    /// What is done beside it does.
    pub(super) fn disk_busy(&self) -> Busy<'_> {
        self.enter(&self.disk_busy_since)
    }

    fn enter<'a>(&self, since: &'a AtomicU64) -> Busy<'a> {
        since.store(self.micros() + 1, Relaxed);
        Busy(since)
    }

    /// For how long somebody has been in a system call.
    fn lasts(&self, since: &AtomicU64) -> Duration {
        match since.load(Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_micros((self.micros() + 1).saturating_sub(since)),
        }
    }

    /// Whether the disk hangs in a system call.
    fn hangs(&self) -> bool {
        [&self.busy_since, &self.disk_busy_since].into_iter().any(|since| self.lasts(since) > self.max_wait)
    }

    /// Whether it does, or nobody takes what is queued.
    pub(super) fn stuck(&self) -> bool {
        self.hangs() || self.lasts(&self.waiting_since) > self.max_wait
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
        fault.or_else(|| {
            self.stuck().then(|| match self.hangs() {
                true => "a write to audit.log hangs".to_owned(),
                false => "nobody takes the lines for audit.log: restart bearerd".to_owned(),
            })
        })
    }
}

/// Ends with the system call.
pub(super) struct Busy<'a>(&'a AtomicU64);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.store(0, Relaxed);
    }
}
