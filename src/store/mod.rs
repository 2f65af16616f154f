//! The store: the one file with all tokens, the one thread that writes it, and the fast way to read it.
//!
//! Invariants: I1 (what was answered survives kill -9 and power loss; what was not is absent or whole), I2 (no lookup
//! after the reply to a restricting change sees the state before it: `hot` says why), I4 (a change and its audit record
//! are in the same transaction), I6 (a full disk or an I/O error is a clear refusal that ends by itself, or the end of
//! the daemon).
//!
//! | file | what |
//! | --- | --- |
//! | `record` | what is kept of a token |
//! | `disk`, `room`, `engine` | the file under redb, the room in it, the handle |
//! | `schema`, `file` | tables, keys, format; opening a file before its key is known |
//! | `writer`, `queue`, `txn` | the thread, the way to it, what a job may do |
//! | `hot`, `usage`, `scan` | lookups, last uses, listings |
//! | `journal` | the newest changes, for those who follow |
//! | `keys`, `wipe` | the key header, sealing every value anew, and what is left of dropped keys |
//! | `kept`, `backup`, `rebuild` | what a backup carries, its bytes, a store made from it |
//! | `imports` | imported tokens, by their digest |
//! | `marks` | how far the sweeper has come |
//! | `order`, `select` | what is to be done to all tokens that are meant; which are |
//! | `orders`, `tally` | orders in force until all records bear them; counting what they change |
//! | `upgrade` | what a store of an earlier format lacks |
#![forbid(unsafe_code)]

pub mod backup;
mod disk;
mod engine;
mod error;
mod file;
mod hot;
mod hot_record;
mod imports;
mod journal;
mod kept;
mod keys;
mod marks;
pub mod order;
mod orders;
mod queue;
mod rebuild;
pub mod record;
mod room;
mod scan;
mod schema;
pub mod select;
mod tally;
#[cfg(test)]
pub(crate) mod testing;
mod txn;
mod upgrade;
mod usage;
mod versions;
mod wipe;
mod writer;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use zeroize::Zeroizing;

pub use disk::{Disk, FileDisk};
pub use error::{Cause, Fault, StoreError};
pub use file::{FileOptions, StoreFile};
pub use hot_record::HotRecord;
pub use journal::JournalPage;
pub use keys::ResealCursor;
pub use marks::{ExpiryPlace, LeadMark, SweepMarks};
pub use orders::{Counted, ORDER_IDS_MAX, ORDERS_MAX, OrderPage, Placed};
pub use rebuild::{Renew, Renewed};
pub use room::Room;
pub use scan::{IndexTag, Page, Scan};
pub use schema::{FORMAT, MIN_READER};
pub use txn::{Effect, Txn};
pub use usage::UseNote;
pub use wipe::Remnant;

use self::engine::{Engine, io_error};
use self::file::Found;
use self::hot::Hot;
use self::orders::InForce;
use self::queue::{Ending, Queue};
use self::record::{LastUse, TokenRecord};
use self::usage::{Asks, Usage};
use self::writer::Writer;
use crate::page::{self, Epochs};
use crate::time::{Clock, Mark, UnixTime};
use crate::token::TokenId;
use crate::vault::Keyring;

/// Seals what the store keeps to its place in it, and hides what it looks things up by.
pub trait Sealer: Send + Sync + 'static {
    /// Seals `plain` for the key `key` of table `table`.
    fn seal(&self, table: &str, key: &[u8], plain: &[u8]) -> Vec<u8>;
    /// Opens what was sealed for that place.
    ///
    /// # Errors
    /// [`SealBroken`] when it was sealed for another place or under another key, or was changed.
    fn open(&self, table: &str, key: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealBroken>;
    /// A keyed hash of `value`, another one for each `tag`.
    fn index(&self, tag: &str, value: &[u8]) -> [u8; 16];
    /// Whether a value is sealed under the key that [`Self::seal`] takes now; one that is not is to be sealed anew.
    fn is_current(&self, _sealed: &[u8]) -> bool {
        true
    }
}

impl Sealer for Keyring {
    fn seal(&self, table: &str, key: &[u8], plain: &[u8]) -> Vec<u8> {
        Keyring::seal(self, table, key, plain)
    }

    fn open(&self, table: &str, key: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealBroken> {
        Keyring::open(self, table, key, sealed).map_err(|_| SealBroken)
    }

    fn index(&self, tag: &str, value: &[u8]) -> [u8; 16] {
        Keyring::index(self, tag, value)
    }

    fn is_current(&self, sealed: &[u8]) -> bool {
        Keyring::is_current(self, sealed)
    }
}

/// A sealed value that does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sealed value does not open")]
pub struct SealBroken;

/// What can be set; the defaults are the daemon's.
#[derive(Clone)]
pub struct StoreOptions {
    /// Records that are kept decoded for lookups.
    pub hot_records: usize,
    /// How long last uses may wait to be written back.
    pub usage_interval: Duration,
    /// How long a seal may wait for a commit to ride with.
    pub seal_interval: Duration,
    /// How often the clock's mark is stored when nothing else is.
    pub mark_interval: Duration,
    /// Changes that are kept for those who follow ([`Store::journal`]).
    pub journal: u64,
    /// What says to all who keep something of a token that it is stale; a private one if there is none.
    pub epochs: Option<Arc<dyn Epochs>>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            hot_records: 16_384,
            usage_interval: Duration::from_secs(5),
            seal_interval: Duration::from_secs(1),
            mark_interval: Duration::from_secs(60),
            journal: 65_536,
            epochs: None,
        }
    }
}

/// What the last run left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The newest generation.
    pub generation: u64,
    /// The clock's high-water mark.
    pub mark: Option<Mark>,
    /// The audit's newest seal, as it was given to [`Store::seal_stored`].
    pub seal: Option<Vec<u8>>,
    /// Audit records that may not be in audit.log yet, by generation.
    pub outbox: Vec<(u64, Vec<u8>)>,
    /// The last run stopped in good order.
    pub clean_stop: bool,
}

/// What a job returned, durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed<T> {
    /// The job's own.
    pub value: T,
    /// The newest generation as the job left it: its own, if it announced one.
    pub generation: u64,
}

/// What a lookup found.
#[derive(Clone)]
pub struct Lookup {
    /// The token's slot as it was before the record was read: a cache may keep the record while the slot has this
    /// value, and the generation the one that [`Store::epoch`] had before that.
    pub slot: u64,
    /// The record; `None` = no such token.
    pub record: Option<Arc<HotRecord>>,
}

/// The open store; clones are the same one. When the last is dropped without [`Store::stop`] it ends as after a kill:
/// nothing that was answered is lost.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    writer: Arc<WriterThread>,
}

/// The writer's thread, which ends with the last handle.
struct WriterThread {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the audit asked to have stored.
struct SealNote {
    seal: Vec<u8>,
    outbox_through: u64,
}

/// What the writer and everyone else share.
struct Shared {
    engine: Engine,
    sealer: Arc<dyn Sealer>,
    clock: Arc<Clock>,
    options: StoreOptions,
    hot: Hot,
    orders: InForce,
    usage: Usage,
    sweep: marks::Sweep,
    queue: Queue,
    /// The newest durable generation.
    generation: AtomicU64,
    /// The same, for those who wait for the next.
    announced: watch::Sender<u64>,
    shown: room::Shown,
    seal: Mutex<Option<Arc<SealNote>>>,
    /// A read failed: the writer is to open the engine again.
    reopen: AtomicBool,
    /// What `fault` holds, for the hot path.
    fatal: AtomicBool,
    fault: watch::Sender<Option<Fault>>,
}

impl Store {
    /// Makes a store in a new file, with `header` in clear.
    ///
    /// A crash before this returns leaves a file that is refused as unfinished: make it under another name, and give it
    /// its own once this has returned.
    ///
    /// # Errors
    /// [`StoreError::NotEmpty`] when the file is not new; [`StoreError::NotWritten`] and others of the disk.
    pub fn create(
        file: StoreFile,
        header: &[u8],
        sealer: Arc<dyn Sealer>,
        clock: Arc<Clock>,
        options: StoreOptions,
    ) -> Result<Self, StoreError> {
        let (engine, found) = file.create(header, &*sealer, clock.mark())?;
        Self::start(engine, found, sealer, clock, options)
    }

    /// Opens the store of a file, and makes its first commit: from then on the last stop no longer counts as clean.
    ///
    /// # Errors
    /// [`StoreError::Empty`] for a new file; [`StoreError::Broken`] with the wrong key; those of the disk.
    pub fn open(
        file: StoreFile,
        sealer: Arc<dyn Sealer>,
        clock: Arc<Clock>,
        options: StoreOptions,
    ) -> Result<(Self, Boot), StoreError> {
        let boot = file.boot(&*sealer)?;
        let (engine, found) = file.into_engine(&*sealer)?;
        Ok((Self::start(engine, found, sealer, clock, options)?, boot))
    }

    fn start(
        engine: Engine,
        found: Found,
        sealer: Arc<dyn Sealer>,
        clock: Arc<Clock>,
        options: StoreOptions,
    ) -> Result<Self, StoreError> {
        let Found { format, standing, orders } = found;
        let epochs = options.epochs.clone().unwrap_or_else(|| Arc::new(page::Writer::private()));
        let shared = Arc::new(Shared {
            engine,
            sealer,
            clock,
            hot: Hot::new(options.hot_records, Arc::clone(&epochs)),
            orders: InForce::new(orders, epochs),
            options,
            usage: Usage::default(),
            sweep: marks::Sweep::default(),
            queue: Queue::default(),
            generation: AtomicU64::new(standing.generation),
            announced: watch::Sender::new(standing.generation),
            shown: room::Shown::default(),
            seal: Mutex::default(),
            reopen: AtomicBool::new(false),
            fatal: AtomicBool::new(false),
            fault: watch::Sender::new(None),
        });
        shared.sweep.load(&shared.engine, &*shared.sealer)?;
        let commits = Writer::start(Arc::clone(&shared), standing, format)?;
        // After its first commit, which makes the tables that an older version did not have.
        if shared.engine.read(imports::any)? {
            shared.hot.knows_imports();
        }
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || commits.run())
            .map_err(|error| io_error("written by a thread of its own", error))?;
        let writer = Arc::new(WriterThread { shared: Arc::clone(&shared), thread: Mutex::new(Some(thread)) });
        Ok(Self { shared, writer })
    }

    /// Runs a job in the writer's next transaction and returns what it returned, once that is durable. A job that
    /// returns an error has written nothing, whatever it did before. Once it is queued it runs, whether or not the
    /// future is awaited to its end.
    ///
    /// # Errors
    /// [`StoreError::NotWritten`]: nothing changed, ask again. [`StoreError::SyncFailed`]: the daemon must exit.
    /// [`StoreError::JobPanicked`], [`StoreError::Fatal`], [`StoreError::Stopped`].
    pub async fn write<T, E, F>(&self, job: F) -> Result<Result<Committed<T>, E>, StoreError>
    where
        F: FnOnce(&mut Txn<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.shared.queue.ask(job).await
    }

    /// The generation of the epoch page: to be read before anything else that an answer rests on, by whoever lets others
    /// keep it.
    pub fn epoch(&self) -> u64 {
        self.shared.orders.epoch()
    }

    /// What is not the store's has changed for all tokens, and is in force: nothing that was kept before counts.
    pub fn bump_epoch(&self) {
        self.shared.orders.bump_epoch();
    }

    /// The token with this id. The hot path: no system call for what is cached.
    ///
    /// # Errors
    /// [`StoreError::Read`] (the store mends itself), [`StoreError::Broken`], [`StoreError::Fatal`], [`StoreError::Stopped`].
    pub fn lookup(&self, id: TokenId) -> Result<Lookup, StoreError> {
        let hot = &self.shared.hot;
        // Before the slot, and that before the state, always: `orders` and `hot` say why.
        let newest = self.shared.orders.newest();
        let slot = hot.slot(id);
        if self.shared.fatal.load(Ordering::Acquire) {
            return Err(self.shared.stopped());
        }
        match hot.pending(id) {
            Some(record) if newest == 0 => return Ok(Lookup { slot, record }),
            Some(_) => return self.lookup_ordered(id),
            None => {}
        }
        if let Some(record) = hot.cached(id, slot)
            && record.order >= newest
        {
            return Ok(Lookup { slot, record: Some(record) });
        }
        if newest != 0 {
            return self.lookup_ordered(id);
        }
        let record =
            self.read(|txn, sealer| scan::record(txn, sealer, id))?.map(|record| Arc::new(HotRecord::new(record)));
        if let Some(record) = &record {
            hot.keep(slot, Arc::clone(record));
        }
        Ok(Lookup { slot, record })
    }

    /// What the slot counts when a change has gone by: it is bumped when it is refused, and when it is durable.
    #[cfg(feature = "mutants")]
    pub(crate) fn slot_read_late(&self, id: TokenId, was: u64) -> u64 {
        let slot = || self.shared.hot.slot(id);
        crate::page::mutant::window(|| slot() > was + 1);
        slot()
    }

    /// One page of the tokens that `wanted` wants; it may ask the store for more. Reads the disk: for a thread that may
    /// block.
    ///
    /// # Errors
    /// As [`Self::lookup`], and what `wanted` returns.
    pub fn scan(
        &self,
        scan: Scan,
        wanted: impl FnMut(&TokenRecord) -> Result<bool, StoreError>,
    ) -> Result<Page, StoreError> {
        // Before the records: what has left the list since is in them.
        let orders = self.shared.orders.list();
        let bring_up = |record: &mut TokenRecord| orders::bring_up_to(&orders, record);
        self.read_once(|txn, sealer| scan::page(txn, sealer, &scan, bring_up, wanted))
    }

    /// Ids from `first` to `last`, at most `max`: with 2, whether the prefix of an id is unambiguous.
    ///
    /// # Errors
    /// As [`Self::lookup`].
    pub fn find_between(&self, first: TokenId, last: TokenId, max: usize) -> Result<Vec<TokenId>, StoreError> {
        self.read(|txn, _| scan::find_between(txn, first, last, max))
    }

    /// Tokens in the order of their expiry, after `after` and up to `until`, at most `limit`: what the sweeper walks.
    ///
    /// # Errors
    /// As [`Self::lookup`].
    pub fn expiring(
        &self,
        after: Option<(UnixTime, TokenId)>,
        until: UnixTime,
        limit: usize,
    ) -> Result<Vec<(UnixTime, TokenId)>, StoreError> {
        self.read(|txn, _| scan::expiring(txn, after, until, limit))
    }

    /// How many tokens there are, ended ones included.
    ///
    /// # Errors
    /// As [`Self::lookup`].
    pub fn token_count(&self) -> Result<u64, StoreError> {
        self.read(|txn, _| scan::count(txn))
    }

    /// The newest durable generation.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Notes uses of a token: `count` of them, with the circumstances of the last. Written back within seconds, and at
    /// stop.
    pub fn note_use(&self, id: TokenId, noted: UseNote<'_>) {
        if self.shared.usage.note(id, noted) != Asks::Nothing {
            self.shared.queue.nudge();
        }
    }

    /// The last use of a token, with what is not written back yet.
    ///
    /// # Errors
    /// As [`Self::lookup`].
    pub fn last_use(&self, id: TokenId) -> Result<Option<LastUse>, StoreError> {
        self.shared.usage.last(id, || self.read(|txn, sealer| scan::last_use(txn, sealer, id)))
    }

    /// Uses that were not noted because too many tokens were in use at once.
    pub fn uses_lost(&self) -> u64 {
        self.shared.usage.lost()
    }

    /// Stores the audit's seal, and that audit.log has the records up to that generation, with the next commit or soon
    /// after.
    pub fn seal_stored(&self, seal: Vec<u8>, outbox_through: u64) {
        let mut there = self.shared.seal.lock().unwrap_or_else(PoisonError::into_inner);
        // One that waits is superseded; what it knew to be told stays told.
        let outbox_through = there.as_ref().map_or(outbox_through, |note| note.outbox_through.max(outbox_through));
        *there = Some(Arc::new(SealNote { seal, outbox_through }));
        drop(there);
        self.shared.queue.nudge();
    }

    /// Room on the disk, as the writer last found it.
    pub fn room(&self) -> Room {
        self.shared.shown.room()
    }

    /// The clock that the store tells the time by.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.shared.clock
    }

    /// The fault that has stopped the store for good, if one has.
    pub fn fault(&self) -> Option<Fault> {
        self.shared.fault()
    }

    /// Waits for such a fault: the daemon then exits (74).
    pub async fn fatal(&self) -> Fault {
        let mut fault = self.shared.fault.subscribe();
        let found = fault.wait_for(Option::is_some).await.ok().and_then(|fault| fault.clone());
        // The sender lives in `self`, so the wait ends only with a fault.
        found.unwrap_or(Fault::SyncFailed)
    }

    /// Writes everything noted (last uses, seal, mark) now.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.shared.queue.flush().await
    }

    /// Stops in good order: what is queued and noted is written, the flag set, the file closed and its lock given back.
    ///
    /// # Errors
    /// As [`Self::write`]; the store is closed all the same.
    pub async fn stop(&self) -> Result<(), StoreError> {
        let (done, stopped) = oneshot::channel();
        self.shared.queue.end(Ending::Stop(done))?;
        let result = stopped.await.unwrap_or_else(|_| Err(self.shared.stopped()));
        self.writer.join();
        result
    }

    /// Reads the disk; once more, if the engine was closed under it to be opened again.
    fn read<T>(
        &self,
        read: impl Fn(&redb::ReadTransaction, &dyn Sealer) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.read_once(&read) {
            Err(error) if engine::was_closed(&error) => self.read_once(&read),
            result => result,
        }
    }

    fn read_once<T>(
        &self,
        read: impl FnOnce(&redb::ReadTransaction, &dyn Sealer) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let shared = &self.shared;
        let result = shared.engine.read(|txn| read(txn, &*shared.sealer));
        match &result {
            Err(StoreError::Stopped) => return Err(shared.stopped()),
            Err(error @ StoreError::Read(_)) if !engine::was_closed(error) => {
                // The engine's handle is latched by it: the writer opens it again.
                shared.reopen.store(true, Ordering::Release);
                shared.queue.nudge();
            }
            _ => {}
        }
        result
    }
}

impl WriterThread {
    /// Waits for its end, which has been asked for.
    fn join(&self) {
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The writer catches its panics itself.
            let _ = thread.join();
        }
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        // Refused when it has ended already.
        let _ = self.shared.queue.end(Ending::Abandon);
        self.join();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

impl Shared {
    fn fault(&self) -> Option<Fault> {
        self.fault.borrow().clone()
    }

    /// Why nothing is answered any more.
    fn stopped(&self) -> StoreError {
        self.fault().map_or(StoreError::Stopped, StoreError::Fatal)
    }

    /// The seal that waits to be stored.
    fn seal_note(&self) -> Option<Arc<SealNote>> {
        self.seal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// That seal is durable; a newer one waits on.
    fn seal_written(&self, written: &Arc<SealNote>) {
        let mut there = self.seal.lock().unwrap_or_else(PoisonError::into_inner);
        if there.as_ref().is_some_and(|note| Arc::ptr_eq(note, written)) {
            *there = None;
        }
    }
}
