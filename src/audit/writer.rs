//! The one thread that writes audit.log: it gives lines their number and MAC, takes everything queued as one write, and
//! answers only then.
//!
//! Invariants: a batch is in the file whole or not at all (after an error the file is cut back, number and MAC with it);
//! a change is never dropped; what else can't be written is counted, and told in a `gap` line once writing works again;
//! nothing is sealed that was not fsynced, and a failed fsync is never taken for a later success.

mod heal;
mod room;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::chain::{AuditMac, Mac, Seal, finish_line};
use super::coalesce::Closing;
use super::drops::Drops;
use super::event::{AuditEvent, EventKind};
use super::file::{DiskLog, LogFile, RESERVE_AHEAD};
use super::generations::Generations;
use super::receipt::Standing;
use super::recover::{Say, Survey, adopt};
use super::shared::{Class, Command, Job, Shared, lock};
use super::syslog::Syslog;
use super::{AuditError, AuditOptions};
use crate::peer::PeerLabel;
use crate::time::UnixTime;

/// How often windows are ended and a failing file is tried again.
const TICK: Duration = Duration::from_millis(250);
/// How often what is new is fsynced and sealed, by the daemon's clock.
const SEAL_EVERY: Duration = Duration::from_secs(1);
/// One write, at most about this many bytes.
const BATCH_BYTES: usize = 1024 * 1024;

/// Puts something in the place of the real file: tests, a failing disk.
pub(super) type Wrap = Box<dyn Fn(DiskLog) -> Box<dyn LogFile> + Send>;
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

/// The thread's state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    options: AuditOptions,
    key: Arc<dyn AuditMac>,
    on_seal: OnSeal,
    wrap: Wrap,
    log: Box<dyn LogFile>,
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
    syslog: Option<Syslog>,
    drops: Drops,
    sealed_at: Duration,
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
    pub(super) fn open(
        setup: Setup,
        survey: Survey,
        generations: Generations,
        owed: Vec<AuditEvent>,
    ) -> Result<Self, AuditError> {
        let Setup { shared, options, key, on_seal, wrap } = setup;
        let adopted = adopt(&options.file, options.mode, options.group, survey)?;
        let place = Place { seq: adopted.seq, mac: adopted.mac, offset: adopted.offset };
        let syslog = options.syslog.clone().map(Syslog::new);
        let now = shared.clock.boottime();
        let mut writer = Self {
            log: wrap(adopted.log),
            shared,
            options,
            key,
            on_seal,
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
            syslog,
            drops: Drops::default(),
            sealed_at: now.saturating_sub(SEAL_EVERY),
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

    /// Until it is told to stop, or nobody is left to tell it anything.
    pub(super) fn run(mut self) {
        let mut next_tick = Instant::now() + TICK;
        loop {
            let taken = self.shared.take(next_tick);
            self.write(taken.jobs);
            if Instant::now() >= next_tick {
                self.tick();
                next_tick = Instant::now() + TICK;
            }
            for (command, answer) in taken.commands {
                let done = match command {
                    Command::Tick => {
                        self.tick();
                        Ok(())
                    }
                    Command::Barrier => self.standing(),
                    Command::Reopen => self.reopen(),
                    Command::Stop => self.stop(),
                };
                // Who asked may have gone.
                let _ = answer.send(done);
            }
            if taken.closed {
                return;
            }
        }
    }

    fn standing(&self) -> Result<(), String> {
        match self.fault {
            None => Ok(()),
            Some(_) => Err(self.untold.why.clone()),
        }
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
        while self.fault.is_none() && (!queue.is_empty() || !self.say.is_empty() || self.gap_due()) {
            self.write_batch(&mut queue);
        }
        queue.into_iter().for_each(|job| self.dispose(job));
        self.shared.counters.kept.store(self.kept.len() as u64, Relaxed);
        self.keep_room();
    }

    /// One write of as much of the queue as fits in a batch.
    fn write_batch(&mut self, queue: &mut VecDeque<Job>) {
        if let Err(error) = self.settle() {
            return self.fail(Fault::Write, &error);
        }
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
        let Some(syslog) = &mut self.syslog else { return };
        let boottime = self.shared.clock.boottime();
        for Built { job, seq } in &built {
            let sent = syslog.event(&job.event, *seq, self.generations.newest());
            // A gap line that tells of drops must not call for another one.
            let counts = !matches!(job.event.event, EventKind::Gap | EventKind::Seal);
            self.drops.look(sent, counts, boottime);
        }
        counters.syslog_dropped.store(syslog.dropped(), Relaxed);
    }

    /// Ends windows, tries a failing file again, tells what was lost, seals.
    fn tick(&mut self) {
        self.room_step = RESERVE_AHEAD;
        if self.fault.is_some() {
            self.try_again();
        }
        self.untold.due = true;
        let jobs = self.due(false);
        self.write(jobs);
        let now = self.shared.clock.boottime();
        if now.saturating_sub(self.sealed_at) >= SEAL_EVERY {
            self.look_at_space();
            self.sync_and_seal();
            self.sealed_at = now;
        }
    }

    /// Lines whose time has come.
    fn due(&mut self, all: bool) -> Vec<Job> {
        let shared = Arc::clone(&self.shared);
        let (now, boottime) = (shared.clock.now(), shared.clock.boottime());
        let mut jobs = Vec::new();
        let closing = |Closing { event, after, .. }| Job { after, ..Job::new(event, Class::Droppable) };
        shared.uses.sweep(now, all, |ended| jobs.push(closing(ended)));
        shared.refusals.sweep(now, all, |ended| {
            if let Some(uid) = ended.uid {
                lock(&shared.budget).charge(uid, boottime);
            }
            jobs.push(closing(ended));
        });
        // While the file fails they go on being counted where they are.
        if self.fault.is_none() && (all || boottime.saturating_sub(self.sealed_at) >= SEAL_EVERY) {
            let mut budget = lock(&shared.budget);
            for flood in budget.floods(boottime) {
                let mut event = AuditEvent::new(EventKind::Flood, flood.last);
                event.outcome = Some("dropped".into());
                event.peer = flood.uid.map(|uid| PeerLabel { pid: 0, uid, gid: u32::MAX, unit: None, container: None });
                event.note = flood.uid.is_none().then(|| "of several users".to_owned());
                (event.count, event.first, event.last) = (Some(flood.count), Some(flood.first), Some(flood.last));
                jobs.push(Job::new(event, Class::Kept));
            }
            shared.counters.flooded.store(budget.flooded(), Relaxed);
        }
        if let Some(count) = self.drops.due(all, boottime) {
            let mut event = AuditEvent::new(EventKind::Gap, now);
            event.outcome = Some("dropped".into());
            event.note = Some(format!("syslog dropped {count}"));
            event.count = Some(count);
            jobs.push(Job::new(event, Class::Kept));
        }
        jobs
    }

    fn sync(&mut self) -> bool {
        let result = {
            let _busy = self.shared.busy();
            self.log.sync()
        };
        match result {
            Ok(()) => {
                self.synced = self.end;
                self.generations.synced();
                self.unsynced.clear();
                true
            }
            Err(error) => {
                self.fail(Fault::Sync, &error);
                false
            }
        }
    }

    /// Makes durable what is new, and says so to the store and to syslog.
    fn sync_and_seal(&mut self) {
        if self.fault.is_some() || self.end == self.sealed || self.end.seq == 0 {
            return;
        }
        if (self.synced != self.end || !self.unsynced.is_empty()) && !self.sync() {
            return;
        }
        let seal = Seal {
            seq: self.end.seq,
            mac: self.end.mac,
            offset: self.end.offset,
            inode: self.inode,
            generation: self.generations.newest(),
            at: self.shared.clock.now(),
            beyond: self.generations.beyond(),
        };
        self.sealed = self.end;
        self.shared.counters.sealed_seq.store(seal.seq, Relaxed);
        if let Some(syslog) = &mut self.syslog {
            syslog.seal(&seal);
            self.shared.counters.syslog_dropped.store(syslog.dropped(), Relaxed);
        }
        (self.on_seal)(seal, self.generations.through());
    }

    fn stop(&mut self) -> Result<(), String> {
        // Nothing may come after the last seal.
        self.shared.close();
        let rest = self.shared.take(Instant::now());
        self.write(rest.jobs);
        if self.fault.is_some() {
            self.try_again();
        }
        self.untold.due = true;
        let jobs = self.due(true);
        self.write(jobs);
        self.sync_and_seal();
        self.release_room();
        self.standing()
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
