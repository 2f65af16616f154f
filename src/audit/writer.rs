//! The one writer of audit.log: it gives lines their number and MAC, takes everything queued as one write, and answers
//! only then. It is with whoever writes: the [`flusher`] as long as nothing is amiss, the [`Keeper`] for all else.
//!
//! Invariants: a batch is in the file whole or not at all (after an error the file is cut back, number and MAC with it);
//! a change is never dropped; what else can't be written is counted, and told in a `gap` line once writing works again;
//! nothing is sealed that was not fsynced, and a failed fsync is never taken for a later success.

mod disk;
mod flusher;
mod heal;
mod keeper;
mod room;
mod sync;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::chain::{AuditMac, Mac, Seal, finish_line};
use super::event::{AuditEvent, EventKind};
use super::file::{DiskLog, LogFile, RESERVE_AHEAD};
use super::generations::Generations;
use super::receipt::Standing;
use super::recover::{Say, Survey, adopt};
use super::shared::{Class, Job, Shared, lock};
use super::teller::Told;
use super::{AuditError, AuditOptions};
use crate::time::UnixTime;

pub(super) use disk::Ended;
pub(super) use keeper::Keeper;
use sync::Snapshot;

/// How often what is new is fsynced and sealed, by the daemon's clock.
const SEAL_EVERY: Duration = Duration::from_secs(1);
/// One write, at most about this many bytes.
const BATCH_BYTES: usize = 1024 * 1024;

/// Puts something in the place of the real file: tests, a failing disk.
pub(super) type Wrap = Box<dyn Fn(DiskLog) -> Arc<dyn LogFile> + Send>;
/// Takes a seal and the generation up to which the outbox may be emptied.
pub(super) type OnSeal = Box<dyn Fn(Seal, u64) + Send>;

/// Up to where the file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    seq: u64,
    mac: Mac,
    offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// A write failed, and left nothing behind.
    Write,
    /// An fsync failed: the kernel may have forgotten lines that it took.
    Sync,
}

/// What the `gap` lines have not told yet.
#[derive(Default)]
struct Untold {
    /// How many of the counters' lost lines and refused validations have been told.
    told: (u64, u64),
    since: Option<UnixTime>,
    why: String,
    /// It is time to tell: once a tick, so that a flood of losses is not a flood of lines.
    due: bool,
}

/// What a writer needs from the outside.
pub(super) struct Setup {
    pub(super) shared: Arc<Shared>,
    pub(super) options: AuditOptions,
    pub(super) key: Arc<dyn AuditMac>,
    pub(super) on_seal: OnSeal,
    pub(super) wrap: Wrap,
}

struct Built {
    job: Job,
    seq: u64,
}

/// The state of the file and of the chain.
pub(super) struct Writer {
    shared: Arc<Shared>,
    options: AuditOptions,
    key: Arc<dyn AuditMac>,
    wrap: Wrap,
    log: Arc<dyn LogFile>,
    inode: u64,
    end: Place,
    synced: Place,
    sealed: Place,
    /// The file may hold bytes beyond `end` that could not be cut off yet.
    dirty: bool,
    fault: Option<Fault>,
    /// The fault has been logged.
    announced: bool,
    /// Lines that must come first: where the chain goes on.
    say: Vec<Say>,
    kept: VecDeque<Job>,
    kept_notes: usize,
    /// Changes written since the last fsync.
    unsynced: Vec<Arc<AuditEvent>>,
    generations: Generations,
    untold: Untold,
    /// Lines written, for syslog; `None` when it is off.
    told: Option<Vec<Told>>,
    /// The sync that is under way.
    syncing: Option<Snapshot>,
    /// What is being allocated: up to which offset.
    reserving: Option<u64>,
    /// Bytes between the last two seals, and where the file ended at the last.
    pace: u64,
    paced_from: u64,
    /// Up to which offset room is allocated; `None` where the file system can't.
    room_until: Option<u64>,
    /// How much is asked for; less once that much is not to be had, until the next tick.
    room_step: u64,
    /// That there is too little for a change has been logged.
    room_short: bool,
    buffer: Vec<u8>,
}

impl Writer {
    /// Takes the log over as `survey` found it; writes what must be said first and what the outbox still owes.
    fn open(
        shared: Arc<Shared>,
        options: AuditOptions,
        key: Arc<dyn AuditMac>,
        wrap: Wrap,
        survey: Survey,
        generations: Generations,
        owed: Vec<AuditEvent>,
    ) -> Result<Self, AuditError> {
        let adopted = adopt(&options.file, options.mode, options.group, survey)?;
        let place = Place { seq: adopted.seq, mac: adopted.mac, offset: adopted.offset };
        let told = options.syslog.is_some().then(Vec::new);
        let mut writer = Self {
            log: wrap(adopted.log),
            shared,
            options,
            key,
            wrap,
            inode: adopted.inode,
            end: place,
            synced: place,
            sealed: Place { seq: 0, ..place },
            dirty: false,
            fault: None,
            announced: false,
            say: adopted.say,
            kept: owed.into_iter().map(|event| Job::new(event, Class::Change)).collect(),
            kept_notes: 0,
            unsynced: Vec::new(),
            generations,
            untold: Untold::default(),
            told,
            syncing: None,
            reserving: None,
            pace: 0,
            paced_from: place.offset,
            room_until: Some(0),
            room_step: RESERVE_AHEAD,
            room_short: false,
            buffer: Vec::new(),
        };
        *lock(&writer.shared.end) = (writer.inode, writer.end.offset);
        writer.look_at_space();
        // What a killed daemon wrote may be in the page cache alone.
        writer.sync();
        writer.write(Vec::new());
        Ok(writer)
    }

    fn standing(&self) -> Result<(), String> {
        match self.fault {
            None => Ok(()),
            Some(_) => Err(self.untold.why.clone()),
        }
    }

    /// Writes `jobs` while nothing is amiss and no more than that is to be done; else they come back.
    fn write_quick(&mut self, jobs: Vec<Job>) -> Result<(), Vec<Job>> {
        let calm = self.fault.is_none()
            && !self.options.sync
            && !self.dirty
            && self.say.is_empty()
            && self.kept.is_empty()
            && !self.gap_due();
        if !calm {
            return Err(jobs);
        }
        if !jobs.is_empty() {
            if !self.is_as_left() {
                return Err(jobs);
            }
            self.write_all(jobs.into());
            self.count_room();
        }
        Ok(())
    }

    /// Writes `jobs` after what is owed, or disposes of them.
    fn write(&mut self, jobs: Vec<Job>) {
        if self.fault.is_some() {
            jobs.into_iter().for_each(|job| self.dispose(job));
            return;
        }
        let mut queue: VecDeque<Job> = std::mem::take(&mut self.kept);
        self.kept_notes = 0;
        queue.extend(jobs);
        if !queue.is_empty() || !self.say.is_empty() || self.gap_due() {
            match self.settle() {
                Ok(()) => self.write_all(queue),
                Err(error) => {
                    self.fail(Fault::Write, &error);
                    queue.into_iter().for_each(|job| self.dispose(job));
                }
            }
        }
        self.shared.counters.kept.store(self.kept.len() as u64, Relaxed);
        self.keep_room();
    }

    fn write_all(&mut self, mut queue: VecDeque<Job>) {
        while self.fault.is_none() && (!queue.is_empty() || !self.say.is_empty() || self.gap_due()) {
            self.write_batch(&mut queue);
        }
        queue.into_iter().for_each(|job| self.dispose(job));
        self.shared.counters.kept.store(self.kept.len() as u64, Relaxed);
    }

    /// One write of as much of the queue as fits in a batch.
    fn write_batch(&mut self, queue: &mut VecDeque<Job>) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut place = self.end;
        let now = self.shared.clock.now();
        let mut built = Vec::new();
        // These are made anew for each attempt; what they say stays with the writer until a batch is in the file.
        let mut own: VecDeque<Job> = self.say.iter().map(|say| Job::new(say.event_at(now), Class::Droppable)).collect();
        let counters = &self.shared.counters;
        let (lost, refused) = (counters.lost.load(Relaxed), counters.refused.load(Relaxed));
        if self.gap_due() {
            own.push_back(Job::new(self.gap(now, lost, refused), Class::Droppable));
        }
        let own_lines = own.len();
        while buffer.len() < BATCH_BYTES
            && let Some(job) = own.pop_front().or_else(|| queue.pop_front())
        {
            let void = job.after.as_ref().is_some_and(|first| first.standing() == Standing::Void);
            let given_up = job.pending.as_ref().is_some_and(|pending| !pending.take());
            // A change has happened, whoever still waits for its line.
            if void || (given_up && job.class == Class::Droppable) {
                continue;
            }
            if let (Class::Change, Some(generation)) = (job.class, job.event.generation) {
                self.generations.known(generation);
            }
            place.seq += 1;
            let from = buffer.len();
            job.event.write_body(place.seq, self.generations.newest(), &mut buffer);
            place.mac = finish_line(&mut buffer, from, place.mac, &*self.key);
            built.push(Built { job, seq: place.seq });
        }
        place.offset += buffer.len() as u64;
        let appended = if buffer.is_empty() {
            Ok(())
        } else {
            let _busy = self.shared.busy();
            self.log.append(&buffer)
        };
        // One very long batch must not be kept for ever.
        buffer.shrink_to(2 * BATCH_BYTES);
        self.buffer = buffer;
        match appended {
            Ok(()) => {
                if self.untold.due {
                    self.untold = Untold { told: (lost, refused), ..Untold::default() };
                }
                self.written(place, built);
            }
            Err(error) => {
                self.dirty = true;
                if let Err(error) = self.cut_back() {
                    tracing::error!(%error, "a half-written batch of audit.log can't be cut off; it will be tried again");
                }
                self.fail(Fault::Write, &error);
                // In order, before what was not taken yet.
                for built in built.into_iter().skip(own_lines).rev() {
                    queue.push_front(built.job);
                }
            }
        }
    }

    /// The batch is in the file.
    fn written(&mut self, place: Place, built: Vec<Built>) {
        self.end = place;
        *lock(&self.shared.end) = (self.inode, place.offset);
        self.say.clear();
        for Built { job, .. } in &built {
            if let (Class::Change, Some(generation)) = (job.class, job.event.generation) {
                self.generations.wrote(generation);
                self.unsynced.push(Arc::clone(&job.event));
            }
        }
        let durable = !self.options.sync || built.is_empty() || self.sync();
        for pending in built.iter().filter_map(|built| built.job.pending.as_ref()) {
            pending.finish(durable);
        }
        let counters = &self.shared.counters;
        let gaps = built.iter().filter(|built| built.job.event.event == EventKind::Gap).count();
        counters.gaps.fetch_add(gaps as u64, Relaxed);
        counters.lines.fetch_add(built.len() as u64, Relaxed);
        counters.seq.store(place.seq, Relaxed);
        if !built.is_empty() {
            self.shared.appended.send_replace(place.seq);
        }
        if let Some(told) = &mut self.told {
            let generation = self.generations.newest();
            told.extend(built.into_iter().map(|Built { job, seq }| Told { event: job.event, seq, generation }));
        }
    }

    /// What is to be told to syslog.
    pub(super) fn take_told(&mut self) -> Vec<Told> {
        self.told.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl Say {
    fn event_at(&self, now: UnixTime) -> AuditEvent {
        AuditEvent {
            outcome: Some(self.outcome.into()),
            note: Some(self.note.clone()),
            count: self.count,
            ..AuditEvent::new(self.event, now)
        }
    }
}
