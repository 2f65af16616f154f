//! Orders in force: kept in a table until every record bears them, and in memory for whoever reads a record.
//!
//! Invariants: I2, I1 and once only. A record is **brought up** wherever it is read: `Store::lookup` and `Store::scan`
//! return it as all unfinished orders leave it, `Txn::record` gives it so to whoever decides about it, and so any write
//! of it writes that down. Nobody else has to know of orders. The steps of one that restricts:
//!
//! 1. it stands in the list in memory, not durable yet, and `newest` has its number (Release): from here on lookups see it;
//! 2. the epoch page's generation is bumped (Release): caches of other processes are void, whatever tokens it is about;
//! 3. order and audit record are committed;
//! 4. it is marked durable; only then is anyone answered.
//!
//! One that lets go (resume) is put into the list at 4, and bumps nothing: no cache keeps a refusal. When a commit is known to have failed, the list is as before:
//! tokens were refused a moment early. After a failed sync it stays: what the disk holds is not known.
//! When all records bear it, its row is removed, and after that commit it leaves the list.
//!
//! **A lookup** loads `newest` before the token's slot, and the slot before the state (`hot` says why that).
//!
//! - `newest` is 0, or the record found is held against orders up to it: nothing that was answered before the lookup
//!   began is missing. For an order that is in force is in `newest`; and one that has left the list had its records
//!   written and their slots bumped before it left, so that the slot, loaded later, has the value of after that, under
//!   which nothing older is cached.
//! - Else the lookup begins again with the list in its hand, loaded before the slot: what has left the list by then is in
//!   the state, what is in it is applied here.
//! - What was brought up is cached again, with the number of the newest order, only if all orders of that list are
//!   durable. So no entry bears an order that was taken back, and none could be mistaken for one of a later order that
//!   was given the same number. A slower reader may put back an entry that bears fewer orders: it says so in its `order`,
//!   and is brought up again.
//! - A record in `pending` is brought up like any other: it may be of a job of the batch before the order's.
//!
//! The writer is the only one that changes the list, and within a batch goes by its own ([`Given`]), where orders of
//! accepted jobs stand before they are durable: what is issued after an order in the same batch is not touched by it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{ReadTransaction, ReadableTable, TableError};
use tokio::sync::watch;

use super::error::{StoreError, read_error};
use super::file::read_standing;
use super::order::{Order, Walk, What, bring_up};
use super::record::TokenRecord;
use super::schema::{self, INDEX, ORDERS, TOKENS, Tables};
use super::tally::Tally;
use super::txn::Txn;
use super::{HotRecord, IndexTag, Lookup, Sealer, Store, scan};
use crate::page::Epochs;
use crate::token::TokenId;

/// Orders that may be unfinished: each costs every read of a record that was not held against it a comparison.
pub const ORDERS_MAX: usize = 256;
/// Ids in the lists of all unfinished orders: 32 MiB.
pub const ORDER_IDS_MAX: usize = 2 * 1024 * 1024;
/// Tokens that a page of an order looks at.
const PAGE: usize = 4096;

/// An unfinished order.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    order: Arc<Order>,
    durable: bool,
    /// While somebody counts what it changes.
    tally: Option<Arc<Tally>>,
}

/// The orders that lookups go by.
pub(super) struct InForce {
    /// The number of the newest in `list`; 0 = none. The hot path reads only this.
    newest: AtomicU64,
    /// By number.
    list: RwLock<Arc<[Entry]>>,
    /// The newest that was ever durable in this run. Only the writer asks.
    highest: AtomicU64,
    /// The oldest durable one: the next to be written down.
    oldest: watch::Sender<Option<Arc<Order>>>,
    /// The index of unrevoked tokens by subject is whole.
    indexed: AtomicBool,
    epochs: Arc<dyn Epochs>,
}

/// The orders as the writer's transaction sees them.
pub(super) struct Given<'t> {
    in_force: &'t InForce,
    /// With those of accepted jobs.
    view: Vec<Entry>,
    /// The number of the commit to be.
    commit: u64,
    batch: Batch,
}

/// What a batch does to the list, once it is durable.
#[derive(Default)]
pub(super) struct Batch {
    placed: Vec<Entry>,
    finished: Vec<u64>,
}

/// What a job does to orders.
#[derive(Default)]
pub(super) struct Placing {
    placed: Vec<Entry>,
    finished: Vec<u64>,
}

/// An order that a job has placed.
#[derive(Debug)]
pub struct Placed {
    /// The order, with its number.
    pub order: Arc<Order>,
    tally: Arc<Tally>,
}

/// A part of the tokens that an order changes.
#[derive(Debug)]
pub struct OrderPage {
    /// By id.
    pub ids: Vec<TokenId>,
    /// Where the next part begins; `None` = there is no more.
    pub next: Option<TokenId>,
    /// The commit whose state was read.
    commit: u64,
}

/// How many tokens an order changes, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How many.
    pub count: u64,
    /// The first, by id.
    pub ids: Vec<TokenId>,
}

impl InForce {
    /// With what a start has found.
    pub(super) fn new(orders: Vec<Order>, epochs: Arc<dyn Epochs>) -> Self {
        let entry = |order| Entry { order: Arc::new(order), durable: true, tally: None };
        let in_force = Self {
            newest: AtomicU64::new(0),
            highest: AtomicU64::new(0),
            list: RwLock::new(Arc::default()),
            oldest: watch::Sender::new(None),
            indexed: AtomicBool::new(false),
            epochs,
        };
        in_force.replace(orders.into_iter().map(entry).collect());
        in_force
    }

    /// The newest order that is in force; 0 = none. To be loaded before a token's slot.
    pub(super) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// What records are to be brought up to. To be taken before they are read.
    pub(super) fn list(&self) -> Arc<[Entry]> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the next transaction begins with.
    pub(super) fn begin(&self, commit: u64) -> Given<'_> {
        Given { in_force: self, view: self.list().to_vec(), commit, batch: Batch::default() }
    }

    /// The batch is durable, and the slots of what it changed are bumped.
    pub(super) fn settle(&self, batch: Batch) {
        if batch.placed.is_empty() && batch.finished.is_empty() {
            return;
        }
        let mut list = self.list().to_vec();
        list.retain(|entry| entry.durable && !batch.finished.contains(&entry.order.number));
        list.extend(batch.placed.into_iter().map(|entry| Entry { durable: true, ..entry }));
        self.replace(list);
    }

    /// The batch, which would have been that commit, was not written.
    pub(super) fn take_back(&self, batch: &Batch, commit: u64) {
        for entry in self.list().iter() {
            if let Some(tally) = &entry.tally {
                tally.not_written(commit);
            }
        }
        if !batch.placed.is_empty() {
            let mut list = self.list().to_vec();
            list.retain(|entry| entry.durable);
            self.replace(list);
        }
    }

    /// What an answer that others may keep was read under: to be loaded before `newest`.
    pub(super) fn epoch(&self) -> u64 {
        self.epochs.generation()
    }

    pub(super) fn bump_epoch(&self) {
        #[cfg(feature = "mutants")]
        if mutant!(BumpAfterReply) {
            let epochs = Arc::clone(&self.epochs);
            return crate::page::mutant::late(move || epochs.bump_all());
        }
        self.epochs.bump_all();
    }

    /// The index of unrevoked tokens by subject is whole from now on.
    pub(super) fn index_is_whole(&self) {
        self.indexed.store(true, Ordering::Release);
    }

    fn enforce(&self, entry: &Entry) {
        let mut list = self.list().to_vec();
        list.push(entry.clone());
        #[cfg(feature = "mutants")]
        if mutant!(GenerationBeforeOrder) {
            self.bump_epoch();
            crate::page::mutant::window(|| false);
            return self.replace(list);
        }
        self.replace(list);
        self.bump_epoch();
    }

    fn replace(&self, list: Vec<Entry>) {
        let newest = list.last().map_or(0, |entry| entry.order.number);
        let durable = list.iter().rfind(|entry| entry.durable).map_or(0, |entry| entry.order.number);
        self.highest.fetch_max(durable, Ordering::Relaxed);
        let oldest = list.iter().find(|entry| entry.durable).map(|entry| Arc::clone(&entry.order));
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = list.into();
        self.newest.store(newest, Ordering::Release);
        self.oldest.send_if_modified(|there| {
            let number = |order: &Option<Arc<Order>>| order.as_ref().map(|order| order.number);
            let other = number(there) != number(&oldest);
            *there = oldest;
            other
        });
    }
}

/// Brings a record up to the orders of a list.
pub(super) fn bring_up_to(list: &[Entry], record: &mut TokenRecord) {
    bring_up(list.iter().map(|entry| &*entry.order), record, |_| {});
}

impl Given<'_> {
    /// Brings a record up to the orders that the transaction knows and to those of the job.
    pub(super) fn bring_up(&self, job: &Placing, record: &mut TokenRecord) {
        let orders = self.view.iter().chain(&job.placed).map(|entry| &*entry.order);
        bring_up(orders, record, |_| {});
    }

    /// The newest order that a record which is written now was held against. Finished ones count: a reader may still
    /// have one in its list, and must not apply it to what was written after it.
    pub(super) fn newest(&self, job: &Placing) -> u64 {
        let placed = job.placed.last().or(self.view.last()).map_or(0, |entry| entry.order.number);
        placed.max(self.in_force.highest.load(Ordering::Relaxed))
    }

    /// Whether any of them revokes.
    pub(super) fn revoke(&self, job: &Placing) -> bool {
        self.view.iter().chain(&job.placed).any(|entry| entry.order.what == What::Revoke)
    }

    /// A record that was stored as `old` is about to be written, or removed: orders that somebody counts hear of it.
    pub(super) fn writing(&self, old: &TokenRecord) {
        let counted = |entry: &Entry| entry.tally.is_some() && entry.order.number > old.order;
        if self.view.iter().any(counted) {
            let mut record = old.clone();
            bring_up(self.view.iter().map(|entry| &*entry.order), &mut record, |order| {
                let entry = self.view.iter().find(|entry| entry.order.number == order.number);
                if let Some(tally) = entry.and_then(|entry| entry.tally.as_ref()) {
                    tally.written(old.id, self.commit);
                }
            });
        }
    }

    /// Takes on what an accepted job did; what restricts is in force from here on.
    pub(super) fn accept(&mut self, job: &Placing) {
        for entry in &job.placed {
            if entry.order.what.restricts() {
                self.in_force.enforce(entry);
            }
            self.view.push(entry.clone());
            self.batch.placed.push(entry.clone());
        }
        self.view.retain(|entry| !job.finished.contains(&entry.order.number));
        self.batch.finished.extend(&job.finished);
    }

    pub(super) fn take_batch(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }

    /// Whether every unrevoked token of this subject is in the index, and no other.
    fn index_says(&self, job: &Placing, subject: &str) -> bool {
        let meets = |entry: &Entry| {
            entry.order.what == What::Revoke && entry.order.subject().is_none_or(|other| other == subject)
        };
        self.in_force.indexed.load(Ordering::Acquire) && !self.view.iter().chain(&job.placed).any(meets)
    }
}

impl Placing {
    pub(super) fn is_empty(&self) -> bool {
        self.placed.is_empty() && self.finished.is_empty()
    }
}

/// Writes what a job did to orders.
pub(super) fn store(tables: &mut Tables<'_>, sealer: &dyn Sealer, job: &Placing) -> Result<(), redb::StorageError> {
    for entry in &job.placed {
        let number = entry.order.number;
        let sealed = schema::seal(sealer, "orders", &number.to_be_bytes(), &*entry.order);
        tables.orders.insert(number, &*sealed)?;
    }
    for number in &job.finished {
        tables.orders.remove(number)?;
    }
    Ok(())
}

/// What a job can do.
impl Txn<'_> {
    /// Places an order under the generation that the job announced last. Records that the job reads from now on are
    /// brought up to it; what it puts is taken as after it.
    ///
    /// # Errors
    /// [`StoreError::TooManyOrders`]: earlier ones are still being written into records.
    pub fn order(&mut self, mut order: Order) -> Result<Placed, StoreError> {
        let unfinished: Vec<&Order> = self.unfinished_orders().collect();
        let ids = |order: &Order| order.among.as_ref().map_or(0, Vec::len);
        let all = unfinished.iter().map(|order| ids(order)).sum::<usize>() + ids(&order);
        if unfinished.len() >= ORDERS_MAX || all > ORDER_IDS_MAX {
            return Err(StoreError::TooManyOrders);
        }
        order.number = self.newest_generation();
        let (order, tally) = (Arc::new(order), Arc::new(Tally::default()));
        let entry = Entry { order: Arc::clone(&order), durable: false, tally: Some(Arc::clone(&tally)) };
        self.job.orders.placed.push(entry);
        Ok(Placed { order, tally })
    }

    /// The orders that not all records bear yet.
    pub fn unfinished_orders(&self) -> impl Iterator<Item = &Order> {
        self.orders.view.iter().chain(&self.job.orders.placed).map(|entry| &*entry.order)
    }

    /// A token's record as orders have changed it, if that is not written down yet: it is to be put.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn overdue(&mut self, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        let Some(stored) = self.stored(id)? else { return Ok(None) };
        let record = self.record(id)?;
        Ok(record.filter(|record| record.version != stored.version))
    }

    /// All records bear this order: it is over.
    pub fn finish_order(&mut self, number: u64) {
        self.job.orders.finished.push(number);
    }

    /// How many tokens of a subject are not revoked, and the first of them: from the index alone. `None` when the index
    /// can't say, for an order is on its way into the records.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn count_unrevoked(&mut self, subject: &str, most_ids: usize) -> Result<Option<Counted>, StoreError> {
        if !self.orders.index_says(&self.job.orders, subject) {
            return Ok(None);
        }
        let prefix = schema::index_prefix(self.sealer, IndexTag::SubjectUnrevoked, subject);
        let first = schema::index_key(&prefix, TokenId::MIN);
        let last = schema::index_key(&prefix, scan::LAST);
        let counted = (|| {
            let count = self.tables.counts.get(&prefix)?.map_or(0, |count| count.value());
            let mut ids = Vec::new();
            for row in self.tables.index.range::<&[u8; 33]>(&first..=&last)?.take(most_ids) {
                ids.push(schema::indexed_id(row?.0.value()));
            }
            Ok(Counted { count, ids })
        })();
        counted.map(Some).map_err(|error: redb::StorageError| self.fail(error))
    }
}

/// For those who read.
impl Store {
    /// A lookup of a record that may have to be brought up.
    pub(super) fn lookup_ordered(&self, id: TokenId) -> Result<Lookup, StoreError> {
        let shared = &self.shared;
        // The list before the slot before the state: the file's head says why.
        let list = shared.orders.list();
        let slot = shared.hot.slot(id);
        let mut lasting = list.iter().all(|entry| entry.durable);
        let found = match shared.hot.pending(id) {
            Some(pending) => {
                lasting = false;
                pending
            }
            None => match shared.hot.cached(id, slot) {
                Some(record) => Some(record),
                None => {
                    let read = self.read(|txn, sealer| scan::record(txn, sealer, id))?;
                    read.map(|record| Arc::new(HotRecord::new(record)))
                }
            },
        };
        let newest = list.last().map_or(0, |entry| entry.order.number);
        let record = found.map(|record| {
            if record.order >= newest {
                return record;
            }
            let mut brought_up = TokenRecord::clone(&record);
            bring_up_to(&list, &mut brought_up);
            Arc::new(HotRecord::new(brought_up))
        });
        if let Some(record) = record.as_ref().filter(|_| lasting) {
            shared.hot.keep(slot, Arc::clone(record));
        }
        Ok(Lookup { slot, record })
    }

    /// How many orders are in force and not yet written into all records.
    pub fn unfinished_orders(&self) -> usize {
        self.shared.orders.list().len()
    }

    /// The oldest order that not all records bear, once there is one.
    pub async fn order_due(&self) -> Arc<Order> {
        let mut oldest = self.shared.orders.oldest.subscribe();
        let found = oldest.wait_for(Option::is_some).await.ok().and_then(|order| order.clone());
        match found {
            Some(order) => order,
            // The sender lives in `self`, so the wait ends only with an order.
            None => std::future::pending().await,
        }
    }

    /// A part of the tokens that an order changes, or would change if it were given now (its number is then
    /// `u64::MAX`), after an id. Reads the disk: for a thread that may block.
    ///
    /// # Errors
    /// As [`Self::lookup`].
    pub fn order_page(&self, order: &Order, after: Option<TokenId>) -> Result<OrderPage, StoreError> {
        let list = self.shared.orders.list();
        let before = || list.iter().map(|entry| &*entry.order).take_while(|other| other.number < order.number);
        self.read(|txn, sealer| {
            let commit = read_standing(txn, sealer)?.commit;
            let mut ids = Vec::new();
            let next = walk(txn, sealer, order, after, |mut record| {
                // One that bears it was changed by it, or not, when it was written.
                if record.order < order.number {
                    bring_up(before(), &mut record, |_| {});
                    if order.changes(&record) {
                        ids.push(record.id);
                    }
                }
            })?;
            Ok(OrderPage { ids, next, commit })
        })
    }

    /// How many tokens an order changes that would be given now, and the first of them.
    ///
    /// # Errors
    /// As [`Self::lookup`].
    pub fn count(&self, order: &Order, most_ids: usize) -> Result<Counted, StoreError> {
        self.count_pages(order, most_ids, |_, ids| ids)
    }

    /// The same of one that is in force, exactly: it was placed when it was placed, whatever was written since.
    ///
    /// # Errors
    /// As [`Self::lookup`].
    pub fn count_placed(&self, placed: Placed, most_ids: usize) -> Result<Counted, StoreError> {
        self.count_pages(&placed.order, most_ids, |page, mut ids| {
            ids.extend(placed.tally.pass(page.next, page.commit));
            ids.sort_unstable();
            ids
        })
    }

    fn count_pages(
        &self,
        order: &Order,
        most_ids: usize,
        all_of: impl Fn(&OrderPage, Vec<TokenId>) -> Vec<TokenId>,
    ) -> Result<Counted, StoreError> {
        let (mut counted, mut after) = (Counted::default(), None);
        loop {
            let mut page = self.order_page(order, after)?;
            let ids = std::mem::take(&mut page.ids);
            let ids = all_of(&page, ids);
            counted.count += ids.len() as u64;
            let room = most_ids - counted.ids.len();
            counted.ids.extend(ids.into_iter().take(room));
            match page.next {
                None => return Ok(counted),
                next => after = next,
            }
        }
    }
}

impl Drop for Placed {
    /// Nobody will count it any more.
    fn drop(&mut self) {
        self.tally.close();
    }
}

/// The orders of a store that is being opened.
pub(super) fn stored(txn: &ReadTransaction, sealer: &dyn Sealer) -> Result<Vec<Order>, StoreError> {
    let table = match txn.open_table(ORDERS) {
        Ok(table) => table,
        // Of a store of the first version.
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(read_error(error)),
    };
    let mut orders = Vec::new();
    for row in table.iter().map_err(read_error)? {
        let (number, sealed) = row.map_err(read_error)?;
        let number = number.value();
        let order: Order = schema::open(sealer, "orders", &number.to_be_bytes(), sealed.value())?;
        if order.number != number {
            return Err(StoreError::Damaged { what: "an order lies under another's number".into() });
        }
        orders.push(order);
    }
    Ok(orders)
}

/// Visits a part of the records that an order may change, as they are stored, by id, after an id. Returns where the next
/// part begins.
fn walk(
    txn: &ReadTransaction,
    sealer: &dyn Sealer,
    order: &Order,
    after: Option<TokenId>,
    mut visit: impl FnMut(TokenRecord),
) -> Result<Option<TokenId>, StoreError> {
    let first = match after.map(scan::successor) {
        None => TokenId::MIN,
        Some(Some(first)) => first,
        Some(None) => return Ok(None),
    };
    let tokens = txn.open_table(TOKENS).map_err(read_error)?;
    let ids: Vec<TokenId> = match order.walk() {
        Walk::All => {
            let mut last = None;
            for (n, row) in tokens.range::<&[u8; 16]>(first.as_bytes()..).map_err(read_error)?.enumerate() {
                if n == PAGE {
                    return Ok(last);
                }
                let (id, sealed) = row.map_err(read_error)?;
                let id = TokenId::from_bytes(*id.value());
                visit(schema::open_record(sealer, id, sealed.value())?);
                last = Some(id);
            }
            return Ok(None);
        }
        Walk::Indexed(indexes) => {
            let index = txn.open_table(INDEX).map_err(read_error)?;
            let mut ids = Vec::new();
            for (tag, value) in indexes {
                let prefix = schema::index_prefix(sealer, tag, &value);
                let (first, last) = (schema::index_key(&prefix, first), schema::index_key(&prefix, scan::LAST));
                // Of each as many as a page and one more: so the first so many of all are among them.
                for row in index.range::<&[u8; 33]>(&first..=&last).map_err(read_error)?.take(PAGE + 1) {
                    ids.push(schema::indexed_id(row.map_err(read_error)?.0.value()));
                }
            }
            ids.sort_unstable();
            ids.dedup();
            ids
        }
        Walk::Among => {
            let ids = order.among.as_deref().unwrap_or_default();
            let begin = ids.partition_point(|id| *id < first);
            ids[begin..].iter().take(PAGE + 1).copied().collect()
        }
    };
    for id in ids.iter().take(PAGE) {
        // One of the order's own ids may have been purged.
        if let Some(sealed) = tokens.get(id.as_bytes()).map_err(read_error)? {
            visit(schema::open_record(sealer, *id, sealed.value())?);
        }
    }
    Ok(if ids.len() > PAGE { Some(ids[PAGE - 1]) } else { None })
}
