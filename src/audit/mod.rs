//! The audit trail: who used, made, ended or was refused what, when, from where, through which service.
//!
//! Invariant I4: no change without its record, ever, and no *active* without one that survives kill -9. A change is
//! durable in the store's outbox before it comes here; a use is granted only once its line is written ([`Receipt`]). The
//! log is a keyed chain ([`AuditMac`]), sealed each second to the store and to syslog; every gap in it is said in it.
//! Where the file can't be written, nothing is granted (`required`), nothing waits longer than `max_wait`, and it
//! recovers by itself.
//!
//! | file | what |
//! | --- | --- |
//! | `event` `escape` `text` | what happened; its JSON line, harmless whatever peers wrote |
//! | `chain` `verify` | the keyed chain, seals, and what was done to a log |
//! | `file` `recover` | audit.log on the disk; where the chain goes on after a start or a surprise |
//! | `shared` `writer` `generations` | the queue, the one writer of the file, what the outbox may drop |
//! | `writer/flusher` `writer/keeper` `writer/disk` | who writes: a thread that does nothing else, and one for what takes time; syncs beside both |
//! | `writer/heal` `writer/room` `writer/sync` | what the writer does when the file fails or was meddled with; the room it takes ahead; what is durable and sealed |
//! | `options` `report` | what it is told, what it finds and how it does |
//! | `receipt` `spin` | waiting for a line, at most so long; looking again before sleeping |
//! | `coalesce` `budget` | one line for many; how many lines a uid may cause |
//! | `syslog` `teller` `drops` | each line to /dev/log, never blocking; when what it did not take is told |
//! | `query` `view` | reading it back: filters, pages, summaries |
//! | `since` | what it tells of the time after a backup |
#![forbid(unsafe_code)]

mod budget;
mod chain;
mod coalesce;
mod drops;
mod escape;
mod event;
mod file;
mod generations;
mod options;
mod query;
mod receipt;
mod recover;
mod report;
mod shared;
mod since;
mod spin;
mod syslog;
mod teller;
mod text;
mod verify;
mod view;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use crate::time::{Clock, UnixTime};
use crate::token::TokenId;

pub use budget::LineRate;
pub use chain::{AuditMac, Mac, Seal, keyed_mac};
pub use coalesce::{KeyHasher, UseKey};
pub use event::{AuditEvent, EventKind, UnknownEvent};
pub use options::{AuditBoot, AuditError, AuditOptions};
pub use query::{Filter, PAGE_LINES_MAX, Page, QueryError, Summary, SummaryRow};
pub use receipt::{Receipt, Unavailable, linger};
pub use recover::LogState;
pub use report::{Health, OpenReport};
pub use since::{Line, Since, since};
pub use verify::{BadLine, Damage, Said, VerifyReport, verify};

use budget::Budget;
use coalesce::{Closing, Coalescer, Counted, Opening};
use file::DiskLog;
use generations::Generations;
use receipt::Pending;
use report::look;
use shared::{Class, Command, Job, Shared, lock};
use verify::verify_to;
use writer::{Keeper, OnSeal, Setup, Wrap};

/// Refusals share a line for at least this long, also where every use is to have its own: anyone can cause them.
const REFUSALS_SHARE: Duration = Duration::from_secs(1);
/// How long a command to the writer may take before the caller goes on without it.
const COMMAND_WAIT: Duration = Duration::from_secs(10);

/// How a use is recorded.
#[derive(Debug)]
#[must_use = "active is only for what is recorded"]
pub enum Recording {
    /// It is: answer.
    Done,
    /// It will be: wait for this first.
    Wait(Receipt),
    /// It can't be: nothing may be granted.
    Unavailable,
}

/// Whose refusal it is, and how much room it has.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// Whose budget of lines it is charged to.
    pub uid: u32,
    /// A peer with full rights has no budget.
    pub exempt: bool,
}

/// The audit trail. Cheap to clone; the last clone's end stops the writer (without a seal: [`Audit::stop`] first).
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    options: AuditOptions,
    key: Arc<dyn AuditMac>,
    sealed: Arc<Mutex<Option<Seal>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close();
        // Not joined: a disk that hangs must not hang this too.
    }
}

impl Audit {
    /// Opens the log, finds out where the chain goes on, writes what the outbox owes, starts the writer.
    ///
    /// # Errors
    /// [`AuditError`] as its variants say; above all [`AuditError::RolledBack`], before anything is written.
    pub fn open(
        options: AuditOptions,
        key: Arc<dyn AuditMac>,
        boot: AuditBoot,
        clock: Arc<Clock>,
        on_seal: Box<dyn Fn(Seal, u64) + Send>,
    ) -> Result<(Self, OpenReport), AuditError> {
        Self::open_on(options, key, boot, clock, on_seal, Box::new(|log: DiskLog| Arc::new(log)))
    }

    fn open_on(
        options: AuditOptions,
        key: Arc<dyn AuditMac>,
        boot: AuditBoot,
        clock: Arc<Clock>,
        on_seal: OnSeal,
        wrap: Wrap,
    ) -> Result<(Self, OpenReport), AuditError> {
        let (found, mut known) = look(&options.file, &*key, &boot)?;
        let report = known.report(&found, &boot);
        if report.newest_generation > boot.generation && !boot.accept_rollback {
            return Err(AuditError::RolledBack { store: boot.generation, report: Box::new(report) });
        }
        let told = std::mem::take(&mut known.told);
        let beyond = boot.seal.as_ref().map_or(&[][..], |seal| &seal.beyond);
        let mut outbox = boot.outbox;
        // Told and fsynced before the seal, but after a change that was not: the store could not drop it.
        outbox.retain(|(generation, _)| !beyond.iter().any(|(first, last)| (first..=last).contains(&generation)));
        outbox.sort_by_key(|(generation, _)| *generation);
        let mut generations = Generations::new(boot.generation, outbox.iter().map(|(generation, _)| *generation));
        let mut owed = Vec::new();
        for (generation, event) in outbox {
            if told.contains(&generation) {
                generations.wrote(generation);
            } else {
                owed.push(AuditEvent { generation: Some(generation), ..event });
            }
        }

        let boottime = clock.boottime();
        let shared = Arc::new(Shared::new(
            clock,
            options.max_wait,
            Coalescer::new(options.coalesce, options.max_wait),
            Coalescer::new(options.coalesce.max(REFUSALS_SHARE), options.max_wait),
            Budget::new(options.lines_per_uid, options.lines_in_all, boottime),
        ));
        let sealed = Arc::new(Mutex::new(boot.seal));
        let on_seal = {
            let sealed = Arc::clone(&sealed);
            Box::new(move |seal: Seal, through| {
                *lock(&sealed) = Some(seal.clone());
                on_seal(seal, through);
            })
        };
        let setup =
            Setup { shared: Arc::clone(&shared), options: options.clone(), key: Arc::clone(&key), on_seal, wrap };
        let report = OpenReport { owed: owed.len(), ..report };
        let keeper = Keeper::open(setup, found, generations, owed)?;
        let thread =
            std::thread::Builder::new().name("audit".to_owned()).spawn(|| keeper.run()).map_err(AuditError::Thread)?;
        let inner = Inner { shared, options, key, sealed, thread: Mutex::new(Some(thread)) };
        Ok((Self(Arc::new(inner)), report))
    }

    /// What [`Self::open`] would find, without changing anything: for a restore.
    ///
    /// # Errors
    /// [`AuditError::Open`] when the log can't be read.
    pub fn examine(file: &Path, key: &dyn AuditMac, boot: &AuditBoot) -> Result<OpenReport, AuditError> {
        let (found, known) = look(file, key, boot)?;
        Ok(known.report(&found, boot))
    }

    /// The line of a change. The store has made it durable in its outbox; each generation comes here once, in any order.
    pub fn committed(&self, generation: u64, event: AuditEvent) -> Receipt {
        let pending = Pending::new();
        let receipt = self.receipt(&pending);
        let event = AuditEvent { generation: Some(generation), ..event };
        let job = Job { pending: Some(Arc::clone(&pending)), ..Job::new(event, Class::Change) };
        if !self.0.shared.push(job) {
            pending.finish(false);
        }
        receipt
    }

    /// A use: `make` is called only when it opens a line; it must be quick and not call the audit.
    pub fn used(&self, key: UseKey, time: UnixTime, make: impl FnOnce() -> AuditEvent) -> Recording {
        let shared = &self.0.shared;
        let required = self.0.options.required;
        if required && !shared.available() {
            shared.counters.refused.fetch_add(1, Relaxed);
            return Recording::Unavailable;
        }
        let mut opened = None;
        let counted = shared.uses.count(key, time, || {
            let event = Arc::new(one(make()));
            let pending = required.then(Pending::new);
            let receipt = pending.as_ref().map(|pending| self.receipt(pending));
            opened = Some((Arc::clone(&event), pending.clone(), receipt));
            Some(Opening { event, pending, uid: None })
        });
        let old = match counted {
            Counted::Done => return Recording::Done,
            Counted::Wait(receipt) => return Recording::Wait(receipt),
            Counted::Opened(old) => old,
            Counted::Refused => None,
        };
        self.close_window(old);
        let Some((event, pending, receipt)) = opened else { return Recording::Unavailable };
        self.written(event, pending, receipt)
    }

    /// Uses that a client granted out of its cache, and tells of in one line.
    pub fn claimed(&self, event: AuditEvent) -> Recording {
        let shared = &self.0.shared;
        let required = self.0.options.required;
        if required && !shared.available() {
            shared.counters.refused.fetch_add(1, Relaxed);
            return Recording::Unavailable;
        }
        let pending = required.then(Pending::new);
        let receipt = pending.as_ref().map(|pending| self.receipt(pending));
        self.written(Arc::new(event), pending, receipt)
    }

    /// Gives the writer a line that somebody may wait for.
    fn written(&self, event: Arc<AuditEvent>, pending: Option<Arc<Pending>>, receipt: Option<Receipt>) -> Recording {
        let shared = &self.0.shared;
        let count = event.count.unwrap_or(1);
        let pushed = shared.push(Job { event, class: Class::Droppable, pending: pending.clone(), after: None });
        match (pushed, pending, receipt) {
            (true, _, Some(receipt)) => Recording::Wait(receipt),
            (true, ..) => Recording::Done,
            (false, Some(pending), _) => {
                pending.finish(false);
                shared.counters.refused.fetch_add(1, Relaxed);
                Recording::Unavailable
            }
            (false, ..) => {
                shared.counters.lost.fetch_add(count, Relaxed);
                Recording::Done
            }
        }
    }

    /// A refusal. `make` is called only for the first of a window that the uid's budget has a line for, or that is an
    /// alert (`alert`: a canary, a rotated-out token), whose first line is always written.
    pub fn refused(
        &self,
        key: UseKey,
        refusal: Refusal,
        alert: bool,
        time: UnixTime,
        make: impl FnOnce() -> AuditEvent,
    ) {
        let shared = &self.0.shared;
        let mut opened = None;
        let counted = shared.refusals.count(key, time, || {
            if !refusal.exempt {
                let now = shared.clock.boottime();
                let mut budget = lock(&shared.budget);
                if alert {
                    budget.charge(refusal.uid, now);
                } else if !budget.take(refusal.uid, now, time) {
                    return None;
                }
            }
            let event = Arc::new(one(make()));
            opened = Some(Arc::clone(&event));
            Some(Opening { event, pending: None, uid: (!refusal.exempt).then_some(refusal.uid) })
        });
        if let Counted::Opened(old) = counted {
            self.close_window(old);
        }
        if let Some(event) = opened {
            shared.push_or_count(Job { event, class: Class::Droppable, pending: None, after: None });
        }
    }

    /// Start, stop, reload and the like: nobody waits for it.
    pub fn note(&self, event: AuditEvent) {
        self.0.shared.push_or_count(Job::new(event, Class::Kept));
    }

    /// Whether a change can be recorded now: asked before it is committed. Always, if records are not required.
    pub fn ready(&self) -> bool {
        let shared = &self.0.shared;
        !self.0.options.required || (shared.available() && shared.has_room())
    }

    /// How it does.
    pub fn health(&self) -> Health {
        let shared = &self.0.shared;
        let counters = &shared.counters;
        let issue_ok = self.ready();
        let no_room = || format!("no room for audit records in {}: make some", self.directory().display());
        Health {
            writable: shared.available(),
            issue_ok,
            fault: shared.fault().or_else(|| (!issue_ok).then(no_room)),
            lines: counters.lines.load(Relaxed),
            gaps: counters.gaps.load(Relaxed),
            lost: counters.lost.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            flooded: lock(&shared.budget).flooded(),
            syslog_dropped: counters.syslog_dropped.load(Relaxed),
            kept: counters.kept.load(Relaxed),
            windows: shared.uses.len() + shared.refusals.len(),
            seq: counters.seq.load(Relaxed),
            sealed_seq: counters.sealed_seq.load(Relaxed),
            room_bytes: counters.room_bytes.load(Relaxed),
            free_bytes: counters.free_bytes.load(Relaxed),
            low_space: counters.low_space.load(Relaxed),
        }
    }

    /// The number of the last line, whenever it grows: for whoever follows.
    pub fn appended(&self) -> watch::Receiver<u64> {
        self.0.shared.appended.subscribe()
    }

    /// Waits until everything given before is written.
    ///
    /// # Errors
    /// [`Unavailable`] when it can't be, or not within `max_wait`.
    pub async fn barrier(&self) -> Result<(), Unavailable> {
        self.command(Command::Barrier, self.0.options.max_wait).await.map_err(|_| Unavailable)
    }

    /// Ends the windows that are over, seals if a second has passed: what the writer does by itself every 250 ms.
    ///
    /// # Errors
    /// [`Unavailable`] when the writer hangs.
    pub async fn tick(&self) -> Result<(), Unavailable> {
        self.command(Command::Tick, COMMAND_WAIT).await.map_err(|_| Unavailable)
    }

    /// The file has been renamed (logrotate): seals it and goes on in a new one.
    ///
    /// # Errors
    /// Words for the administrator; the old file still takes lines then.
    pub async fn reopen(&self) -> Result<(), String> {
        self.command(Command::Reopen, COMMAND_WAIT).await
    }

    /// Writes what is counted, fsyncs, seals for the last time, and ends the writer.
    ///
    /// # Errors
    /// Words for the administrator, when the last lines or the seal could not be written.
    pub async fn stop(&self) -> Result<(), String> {
        let stopped = self.command(Command::Stop, COMMAND_WAIT).await;
        if stopped.is_ok()
            && let Some(thread) = lock(&self.0.thread).take()
        {
            // It has answered; nothing that could hang is left.
            let _ = thread.join();
        }
        stopped
    }

    /// One page of the lines that `filter` wants, oldest first. `cursor` is the last page's `next`.
    ///
    /// # Errors
    /// [`QueryError`] when the cursor is none or the log can't be read.
    pub async fn query(&self, filter: Filter, cursor: Option<String>, limit: usize) -> Result<Page, QueryError> {
        let file = self.0.options.file.clone();
        blocking(move || query::page(&file, &filter, cursor.as_deref(), limit)).await
    }

    /// Who used a token, through what, from where, since when.
    ///
    /// # Errors
    /// [`QueryError`] when the log can't be read.
    pub async fn summary(&self, id: TokenId) -> Result<Summary, QueryError> {
        let file = self.0.options.file.clone();
        blocking(move || query::summary(&file, id)).await
    }

    /// Checks the whole log against the last seal: `files`, or the log with its rotated siblings when there are none.
    ///
    /// # Errors
    /// When a file can't be read.
    pub async fn verify(&self, files: Vec<PathBuf>) -> io::Result<VerifyReport> {
        // So that no batch is half in the file; a log that can't be written now can still be read.
        let _ = self.barrier().await;
        let (key, seal) = (Arc::clone(&self.0.key), lock(&self.0.sealed).clone());
        // Batches that come meanwhile are left out: one may be half in the file.
        let end = *lock(&self.0.shared.end);
        let files = if files.is_empty() {
            file::log_files(&self.0.options.file).into_iter().map(|opened| opened.path).collect()
        } else {
            files
        };
        let checked = tokio::task::spawn_blocking(move || verify_to(&files, &*key, seal.as_ref(), Some(end)));
        checked.await.map_err(io::Error::other)?
    }

    fn directory(&self) -> &Path {
        self.0.options.file.parent().unwrap_or(&self.0.options.file)
    }

    fn receipt(&self, pending: &Arc<Pending>) -> Receipt {
        pending.attach(self.0.options.max_wait).expect("nothing has ended it yet")
    }

    fn close_window(&self, old: Option<Box<Closing>>) {
        if let Some(Closing { event, after, uid }) = old.map(|old| *old) {
            if let Some(uid) = uid {
                lock(&self.0.shared.budget).charge(uid, self.0.shared.clock.boottime());
            }
            self.0.shared.push_or_count(Job { after, ..Job::new(event, Class::Droppable) });
        }
    }

    async fn command(&self, command: Command, wait: Duration) -> Result<(), String> {
        let answered = self.0.shared.command(command);
        match tokio::time::timeout(wait, answered).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err("the audit has stopped".to_owned()),
            Err(_) => Err("a write to the audit log hangs".to_owned()),
        }
    }
}

/// A line stands for one event until its window says otherwise.
fn one(mut event: AuditEvent) -> AuditEvent {
    event.count.get_or_insert(1);
    event
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, QueryError> + Send + 'static,
) -> Result<T, QueryError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| QueryError::Read(io::Error::other(error)))?
}

#[cfg(test)]
mod tests;
