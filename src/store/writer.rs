//! The one writer: a thread that commits whatever is queued in one transaction.
//!
//! Invariants: nothing is answered before it is durable (I1); a commit that may or may not have been written is found
//! out by reading the disk, never guessed; after a failed sync nothing is written any more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::{error, warn};

use super::engine::is_full;
use super::error::{Cause, Fault, StoreError, cause};
use super::file::read_standing;
use super::marks::Moves;
use super::orders;
use super::queue::{Ending, Job, Ran};
use super::room::{Keeper, Step, TIGHT_BATCH};
use super::schema::{self, META_FORMAT, META_SEAL, META_STANDING, META_SWEEP, Standing, Tables};
use super::txn::Txn;
use super::{SealNote, Shared};
use crate::time::UnixTime;
use crate::token::TokenId;

/// Jobs in one transaction.
const BATCH_MAX: usize = 512;

/// The writer's own state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    /// The format that all of the file has.
    format: u16,
    keeper: Keeper,
    /// As the disk has it.
    standing: Standing,
    mark_due: Instant,
    seal_due: Option<Instant>,
    usage_due: Option<Instant>,
}

/// What a commit does besides its jobs.
#[derive(Clone, Copy, Default)]
pub(super) struct Also {
    /// Commits even if no job writes.
    pub(super) always: bool,
    /// Writes the format version: from here on the file holds what older versions do not know.
    pub(super) format: bool,
    /// Writes a part of the last uses back.
    pub(super) usage: bool,
    /// Sets the flag of a stop in good order.
    pub(super) stop: bool,
}

/// What the accepted jobs of a batch have changed.
#[derive(Default)]
struct Changed {
    tokens: Vec<TokenId>,
    orders: orders::Batch,
}

/// Why a transaction came to nothing.
enum Failure {
    /// The engine failed: its handle is done for.
    Engine(StoreError),
    /// There is no engine any more.
    Closed,
    /// The engine panicked.
    Panicked,
}

/// A transaction that came to an end.
struct Done {
    /// As the disk has it now; `None` when there was nothing to write.
    standing: Option<Standing>,
    /// The seal that was written.
    seal: Option<Arc<SealNote>>,
    /// What became of the sweeper's marks; `None` when that must be read from the disk.
    moves: Option<Moves>,
}

impl Writer {
    /// A writer that continues from `standing`; makes the first commit, which takes back the flag of a clean stop.
    pub(super) fn start(shared: Arc<Shared>, standing: Standing, format: u16) -> Result<Self, StoreError> {
        let keeper = Keeper::new(shared.engine.medium.clone());
        let mark_due = Instant::now() + shared.options.mark_interval;
        let format = format.min(schema::FORMAT);
        let mut writer = Self { shared, format, keeper, standing, mark_due, seal_due: None, usage_due: None };
        let first = Also { always: true, format: true, ..Also::default() };
        match writer.commit(Vec::new(), first) {
            // The room that was refused is there now.
            Err(StoreError::NotWritten(_)) => writer.commit(Vec::new(), first)?,
            result => result?,
        }
        writer.upgrade()?;
        Ok(writer)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn format(&self) -> u16 {
        self.format
    }

    pub(super) fn has_format(&mut self, format: u16) {
        self.format = format;
    }

    /// Runs until it is told to end, or can't go on.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        match catch_unwind(AssertUnwindSafe(|| self.serve())) {
            Ok(()) => {}
            Err(_) => {
                let fault = Fault::Writer("it panicked".into());
                shared.fail(&fault);
            }
        }
        let reason = shared.fault().map_or(StoreError::Stopped, StoreError::Fatal);
        let left = shared.queue.close(reason.clone());
        shared.engine.discard();
        for job in left.jobs {
            job.reply(Err(reason.clone()));
        }
        for flush in left.flush {
            let _ = flush.send(Err(reason.clone()));
        }
        if let Some(Ending::Stop(done)) = left.ending {
            let _ = done.send(Err(reason));
        }
    }

    fn serve(&mut self) {
        while self.shared.fault().is_none() {
            let most = if self.keeper.tight() { TIGHT_BATCH } else { BATCH_MAX };
            let due = self.next_due();
            let turn = self.shared.queue.next(due, most);
            if matches!(turn.ending, Some(Ending::Abandon)) {
                return;
            }
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.reopen_after_read_error();
            }
            let now = Instant::now();
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            let also = Also {
                always: self.mark_due <= now || due(self.seal_due),
                usage: due(self.usage_due) || self.shared.usage.is_urgent(),
                ..Also::default()
            };
            if !turn.jobs.is_empty() || also.always || also.usage {
                let result = self.commit(turn.jobs, also);
                if let Err(error) = result {
                    warn!("the store could not write: {error}");
                    self.put_off();
                }
            }
            if !turn.flush.is_empty() {
                let result = self.flush();
                for flush in turn.flush {
                    let _ = flush.send(result.clone());
                }
            }
            if let Some(Ending::Stop(done)) = turn.ending {
                let result = self.stop();
                // The lock and the file are free before anyone hears of it.
                self.shared.queue.close(StoreError::Stopped);
                let result = result.and(self.shared.engine.close());
                let _ = done.send(result);
                return;
            }
        }
    }

    /// When something is due, at the latest; notices what was noted since the last look.
    fn next_due(&mut self) -> Instant {
        let now = Instant::now();
        if self.shared.seal_note().is_some() {
            self.seal_due.get_or_insert(now + self.shared.options.seal_interval);
        }
        if self.shared.usage.is_dirty() {
            self.usage_due.get_or_insert(now + self.shared.options.usage_interval);
        }
        [Some(self.mark_due), self.seal_due, self.usage_due].into_iter().flatten().min().unwrap_or(self.mark_due)
    }

    /// After a commit of its own failed: what was due is due again in a while, not at once and for ever.
    fn put_off(&mut self) {
        let later = Instant::now() + Duration::from_secs(1);
        self.mark_due = self.mark_due.max(later);
        self.seal_due = self.seal_due.map(|at| at.max(later));
        self.usage_due = self.usage_due.map(|at| at.max(later));
    }

    /// Writes everything that is noted.
    fn flush(&mut self) -> Result<(), StoreError> {
        loop {
            self.commit(Vec::new(), Also { always: true, usage: true, ..Also::default() })?;
            if !self.shared.usage.is_dirty() {
                return Ok(());
            }
        }
    }

    fn stop(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        self.commit(Vec::new(), Also { always: true, usage: true, stop: true, ..Also::default() })
    }

    /// One transaction: room, jobs, what is due, commit, settle, answer. In this order.
    pub(super) fn commit(&mut self, mut jobs: Vec<Box<dyn Job>>, also: Also) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        let mut changed = Changed::default();
        let commit = self.standing.commit + 1;
        let mut attempt = || -> Result<Done, Failure> {
            self.make_room()?;
            self.transaction(&mut jobs, also, &mut changed)
        };
        // The engine panics where it trusts pages that are damaged.
        let attempted = catch_unwind(AssertUnwindSafe(&mut attempt)).unwrap_or(Err(Failure::Panicked));
        let mut outcome = match attempted {
            Ok(done) => Ok(done),
            Err(Failure::Panicked) => {
                let fault = Fault::Writer("it panicked over the file, which may be damaged".into());
                shared.fail(&fault);
                Err(StoreError::Fatal(fault))
            }
            Err(Failure::Closed) => Err(StoreError::Fatal(shared.fault().unwrap_or(Fault::SyncFailed))),
            Err(Failure::Engine(error)) => self.recover(error),
        };
        match &mut outcome {
            Ok(done) => {
                if let Some(standing) = &done.standing {
                    self.standing = standing.clone();
                    shared.generation.store(standing.generation, Ordering::Release);
                    shared
                        .announced
                        .send_if_modified(|newest| std::mem::replace(newest, standing.generation) != *newest);
                    self.mark_due = Instant::now() + shared.options.mark_interval;
                    shared.usage.written();
                    // Another commit has not written them: whoever changes something each second must not put them off.
                    if also.usage {
                        self.usage_due = None;
                    }
                }
                if let Some(seal) = &done.seal {
                    shared.seal_written(seal);
                    self.seal_due = None;
                }
                shared.hot.settle(changed.tokens);
                // After the slots: what leaves the list is in the state that they now stand for.
                shared.orders.settle(changed.orders);
                match done.moves.take() {
                    Some(moves) => shared.sweep.committed(moves),
                    None => self.reload_marks(),
                }
            }
            // What the disk holds is not known: what was to be refused stays refused.
            Err(StoreError::SyncFailed | StoreError::Fatal(_)) => {}
            Err(_) => {
                shared.usage.not_written();
                shared.hot.settle(changed.tokens);
                shared.orders.take_back(&changed.orders, commit);
            }
        }
        let outcome = outcome.map(drop);
        for job in jobs {
            job.reply(outcome.clone());
        }
        outcome
    }

    /// What may fail for want of space is done before the transaction begins.
    fn make_room(&mut self) -> Result<(), Failure> {
        // Measured and adopted once each, at most.
        for _ in 0..3 {
            match self.keeper.step(&self.shared.shown) {
                Step::Go => return Ok(()),
                Step::Measure => {
                    let begun = Instant::now();
                    let free = self.free_inside()?;
                    self.keeper.measured(free, begun.elapsed());
                }
                Step::Adopt => {
                    let bytes = self.keeper.adoptable();
                    self.shared.engine.extend(bytes).map_err(Failure::Engine)?;
                    self.keeper.adopted(bytes);
                }
            }
        }
        Ok(())
    }

    /// Asks the engine how much is free inside the file; it walks all of it.
    fn free_inside(&self) -> Result<u64, Failure> {
        let db = self.shared.engine.hold();
        let db = db.as_ref().ok_or(Failure::Closed)?;
        let len = self.shared.engine.medium.disk.len().map_err(|error| engine_failed(redb::Error::Io(error)))?;
        let txn = db.begin_write().map_err(engine_failed)?;
        let stats = txn.stats().map_err(engine_failed)?;
        let taken = stats.allocated_pages().saturating_mul(stats.page_size() as u64);
        txn.abort().map_err(engine_failed)?;
        Ok(len.saturating_sub(taken))
    }

    fn transaction(&mut self, jobs: &mut [Box<dyn Job>], also: Also, changed: &mut Changed) -> Result<Done, Failure> {
        let shared = &*self.shared;
        let sealer = &*shared.sealer;
        let db = shared.engine.hold();
        let db = db.as_ref().ok_or(Failure::Closed)?;
        let mut engine_txn = db.begin_write().map_err(engine_failed)?;
        // On every commit, or the next start after a crash walks the whole file.
        engine_txn.set_quick_repair(true);
        let tables = Tables::open(&engine_txn).map_err(engine_failed)?;
        let issue_ok = shared.shown.room().issue_ok;
        let now = shared.clock.now();
        let orders = shared.orders.begin(self.standing.commit + 1);
        let mut txn = Txn::new(tables, sealer, &shared.hot, orders, now, issue_ok, self.standing.generation);
        txn.moves = shared.sweep.begin();
        let ran = (|| {
            for job in jobs {
                match job.run(&mut txn) {
                    Ran::Done => txn.accept()?,
                    Ran::Dropped => txn.reject(),
                }
                txn.failure()?;
                job.accepted(txn.generation());
            }
            let seal = shared.seal_note();
            if !(txn.wrote() || also.always || also.usage) {
                return Ok(None);
            }
            if also.usage {
                for (id, last) in shared.usage.begin(|id| txn.last_use(id))? {
                    txn.put_last_use(id, &last)?;
                }
            }
            if also.format {
                txn.put_meta(META_FORMAT, &schema::format_bytes(self.format))?;
            }
            if let Some(marks) = txn.moves.moved() {
                let sealed = schema::seal(sealer, "meta", META_SWEEP.as_bytes(), marks);
                txn.put_meta(META_SWEEP, &sealed)?;
            }
            if let Some(note) = &seal {
                txn.put_meta(META_SEAL, &schema::seal(sealer, "meta", META_SEAL.as_bytes(), &note.seal))?;
                txn.tell(note.outbox_through)?;
            }
            txn.trim_journal(shared.options.journal, txn.generation() - self.standing.generation)?;
            let standing = Standing {
                commit: self.standing.commit + 1,
                generation: txn.generation(),
                mark: Some(shared.clock.mark()),
                clean_stop: also.stop,
                header: txn.header_digest().or(self.standing.header),
            };
            txn.put_meta(META_STANDING, &standing.seal(sealer))?;
            Ok(Some(Done { standing: Some(standing), seal, moves: Some(std::mem::take(&mut txn.moves)) }))
        })();
        *changed = Changed { tokens: txn.take_changed(), orders: txn.take_orders() };
        drop(txn);
        match ran.map_err(Failure::Engine)? {
            None => {
                engine_txn.abort().map_err(engine_failed)?;
                Ok(Done { standing: None, seal: None, moves: Some(Moves::default()) })
            }
            Some(done) => {
                engine_txn.commit().map_err(engine_failed)?;
                Ok(done)
            }
        }
    }

    /// After the engine failed: opens it again and reads whether the commit was written after all.
    fn recover(&mut self, failed: StoreError) -> Result<Done, StoreError> {
        let shared = Arc::clone(&self.shared);
        let not_written = StoreError::NotWritten(as_cause(&failed));
        warn!("the store's engine failed and is opened again: {}", Chain(&failed));
        let full = is_full(&failed);
        let reopened = (|| {
            if shared.engine.medium.gauge.sync_failed() {
                return Err(Fault::SyncFailed);
            }
            shared.engine.discard();
            if full {
                self.keeper.refused();
                let bytes = self.keeper.adoptable();
                if bytes > 0 && shared.engine.medium.extend(bytes).is_ok() {
                    self.keeper.adopted(bytes);
                }
            }
            let opened =
                shared.engine.reopen().and_then(|()| shared.engine.read(|txn| read_standing(txn, &*shared.sealer)));
            if shared.engine.medium.gauge.sync_failed() {
                return Err(Fault::SyncFailed);
            }
            opened.map_err(|error| Fault::Reopen(Chain(&error).to_string().into()))
        })();
        let standing = match reopened {
            Ok(standing) => standing,
            Err(fault) => {
                shared.fail(&fault);
                return Err(match fault {
                    Fault::SyncFailed => StoreError::SyncFailed,
                    fault => StoreError::Fatal(fault),
                });
            }
        };
        if standing.commit == self.standing.commit {
            return Err(not_written);
        }
        if standing.commit != self.standing.commit + 1 {
            let fault = Fault::Reopen("the disk holds an older state than it had confirmed".into());
            shared.fail(&fault);
            return Err(StoreError::Fatal(fault));
        }
        // The error came after the commit was durable.
        let seal = shared.seal_note().filter(|note| self.seal_is_stored(note));
        Ok(Done { standing: Some(standing), seal, moves: None })
    }

    /// A commit was durable after all: what it did to the marks stands on the disk, and it may have brought any expiry.
    fn reload_marks(&self) {
        let shared = &self.shared;
        if let Err(error) = shared.sweep.load(&shared.engine, &*shared.sealer) {
            warn!("how far the sweeper has come could not be read again: {error}");
        }
        shared.sweep.brought(UnixTime::EPOCH);
    }

    /// A read error latches the engine's handle: everything fails until it is opened again.
    fn reopen_after_read_error(&mut self) {
        let failed = StoreError::Read(cause(redb::StorageError::PreviousIo));
        match self.recover(failed) {
            Err(StoreError::NotWritten(_)) | Ok(_) => {}
            Err(error) => warn!("the store could not be opened again after a read error: {error}"),
        }
    }

    fn seal_is_stored(&self, note: &SealNote) -> bool {
        let shared = &self.shared;
        let stored = shared.engine.read(|txn| {
            let meta = txn.open_table(schema::META).map_err(super::error::read_error)?;
            schema::open_meta::<Vec<u8>>(&meta, &*shared.sealer, META_SEAL)
        });
        matches!(stored, Ok(Some(seal)) if seal == note.seal)
    }
}

fn engine_failed(error: impl Into<redb::Error>) -> Failure {
    Failure::Engine(super::error::read_error(error))
}

/// The engine's error in one of ours.
fn as_cause(error: &StoreError) -> Cause {
    match error {
        StoreError::Read(cause) | StoreError::NotWritten(cause) => Arc::clone(cause),
        error => Arc::new(redb::Error::Corrupted(error.to_string())),
    }
}

/// An error with what caused it, on one line.
struct Chain<'a>(&'a StoreError);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

impl Shared {
    /// Stops everything for good: every later call is refused, and whoever waits for a fault hears of it.
    fn fail(&self, fault: &Fault) {
        error!("{fault}");
        self.fatal.store(true, Ordering::Release);
        self.fault.send_if_modified(|there| {
            let first = there.is_none();
            there.get_or_insert_with(|| fault.clone());
            first
        });
    }
}
