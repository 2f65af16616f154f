//! What a job may do inside the writer's transaction: read records, put them whole, announce.
//!
//! Invariant: a job writes all or nothing. What it puts and announces is held back until it has returned `Ok`; a job that
//! returns an error, or panics, leaves no trace in the batch that it shares with others.

use std::collections::BTreeMap;
use std::sync::Arc;

use redb::ReadableTable;

use super::error::{StoreError, read_error};
use super::orders::{self, Batch, Given, Placing};
use super::record::{LastUse, TokenRecord};
use super::schema::{self, Rows, Tables};
use super::{Sealer, hot::Hot};
use crate::time::UnixTime;
use crate::token::TokenId;

/// What a put does to what a token may do; it decides when lookups see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Less than before (revoke, suspend, narrow, count a use): lookups see it at once, before it is durable.
    Restricts,
    /// More than before, or the same (resume, renew, rename): lookups see it once it is durable.
    Extends,
    /// A token that did not exist: refused when the disk is full; seen once it is durable.
    New,
}

/// The transaction as a job sees it, with what earlier jobs of the same batch have changed.
pub struct Txn<'t> {
    pub(super) tables: Tables<'t>,
    pub(super) sealer: &'t dyn Sealer,
    hot: &'t Hot,
    pub(super) orders: Given<'t>,
    now: UnixTime,
    issue_ok: bool,
    /// The newest generation, with those of accepted jobs.
    generation: u64,
    pub(super) job: Held,
    changed: Vec<TokenId>,
    wrote: bool,
    /// The engine failed: its handle is of no more use, whatever the job makes of it.
    failed: Option<StoreError>,
}

/// What the current job has done so far.
#[derive(Default)]
pub(super) struct Held {
    pub(super) orders: Placing,
    tokens: BTreeMap<TokenId, Change>,
    outbox: Vec<(u64, Vec<u8>)>,
}

struct Change {
    /// As the tables have it.
    old: Option<TokenRecord>,
    /// As the job wants it; `None` = removed.
    new: Option<TokenRecord>,
    restricts: bool,
}

impl Txn<'_> {
    /// The record of a token, as orders, this job and those before it have left it.
    ///
    /// # Errors
    /// [`StoreError::Read`] when the disk can't be read; [`StoreError::Broken`] and [`StoreError::Damaged`] for this record.
    pub fn record(&mut self, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        match self.job.tokens.get(&id) {
            Some(change) => Ok(change.new.clone()),
            None => {
                let mut record = self.stored(id)?;
                if let Some(record) = &mut record {
                    self.orders.bring_up(&self.job.orders, record);
                }
                Ok(record)
            }
        }
    }

    /// Puts a whole record.
    ///
    /// # Errors
    /// [`StoreError::NoRoom`] and [`StoreError::Exists`] for [`Effect::New`]; as [`Self::record`].
    pub fn put(&mut self, record: TokenRecord, effect: Effect) -> Result<(), StoreError> {
        if effect == Effect::New {
            if !self.issue_ok {
                return Err(StoreError::NoRoom);
            }
            if self.record(record.id)?.is_some() {
                return Err(StoreError::Exists);
            }
        }
        self.change(record.id, Some(record), effect == Effect::Restricts)
    }

    /// Removes a token for good, with its last use: the sweeper's, once it has been ended for long enough.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn remove(&mut self, id: TokenId) -> Result<(), StoreError> {
        self.change(id, None, true)
    }

    /// How many live tokens this uid has issued, counted up to `limit`. Live = not revoked, rotated out, exhausted or
    /// expired; suspended ones count.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn live_count(&mut self, uid: u32, limit: usize) -> Result<usize, StoreError> {
        let (first, last) = schema::live_range(&schema::live_prefix(self.sealer, uid), self.now);
        // What the job holds back may take away as many as it has.
        let bound = limit.saturating_add(self.job.tokens.len());
        // What an order has ended counts no more, written down or not.
        let ended = self.orders.revoke(&self.job.orders);
        let counted = (|| {
            let mut count = 0;
            for row in self.tables.live.range::<&[u8; 40]>(&first..=&last)? {
                let (key, _) = row?;
                if count == bound {
                    break;
                }
                count += usize::from(!ended || !self.ended_by_order(schema::live_id(key.value()))?);
            }
            Ok(count)
        })();
        let mut count: usize = counted.map_err(|error: redb::StorageError| self.fail(error))?;
        let live = |record: &Option<TokenRecord>| {
            record.as_ref().is_some_and(|record| {
                record.issuer_uid == uid && schema::live_until(record).is_some_and(|until| until > self.now)
            })
        };
        for change in self.job.tokens.values() {
            let mut old = change.old.clone();
            if let Some(old) = &mut old {
                self.orders.bring_up(&self.job.orders, old);
            }
            count = count + usize::from(live(&change.new)) - usize::from(live(&old)).min(count);
        }
        Ok(count.min(limit))
    }

    /// Stores an audit record under the next generation, in this same transaction; it stays in the outbox until
    /// [`super::Store::seal_stored`] says that audit.log has it. The order of generations is the order of commits.
    ///
    /// # Errors
    /// None today; a job passes them on.
    pub fn announce(&mut self, make: impl FnOnce(u64) -> Vec<u8>) -> Result<u64, StoreError> {
        let generation = self.newest_generation() + 1;
        self.job.outbox.push((generation, make(generation)));
        Ok(generation)
    }

    /// The time that lives are measured by, the same for the whole batch.
    pub fn now(&self) -> UnixTime {
        self.now
    }

    /// Whether an order has revoked a token that is stored as unrevoked.
    fn ended_by_order(&self, id: TokenId) -> Result<bool, redb::StorageError> {
        let Some(sealed) = self.tables.tokens.get(id.as_bytes())? else { return Ok(false) };
        // What does not open counts as live: that is for whoever reads it.
        let record = schema::open_record(self.sealer, id, sealed.value());
        Ok(record.is_ok_and(|mut record| {
            self.orders.bring_up(&self.job.orders, &mut record);
            record.revoked.is_some()
        }))
    }

    /// The newest generation, with those that the job has announced.
    pub(super) fn newest_generation(&self) -> u64 {
        self.generation + self.job.outbox.len() as u64
    }

    fn change(&mut self, id: TokenId, new: Option<TokenRecord>, restricts: bool) -> Result<(), StoreError> {
        if let Some(change) = self.job.tokens.get_mut(&id) {
            change.new = new;
            change.restricts |= restricts;
            return Ok(());
        }
        let old = self.stored(id)?;
        self.job.tokens.insert(id, Change { old, new, restricts });
        Ok(())
    }

    pub(super) fn stored(&mut self, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        let error = match self.tables.tokens.get(id.as_bytes()) {
            Ok(None) => return Ok(None),
            Ok(Some(sealed)) => return schema::open_record(self.sealer, id, sealed.value()).map(Some),
            Err(error) => error,
        };
        Err(self.fail(error))
    }

    pub(super) fn fail(&mut self, error: redb::StorageError) -> StoreError {
        let error = read_error(error);
        self.failed = Some(error.clone());
        error
    }
}

/// The writer's side.
impl<'t> Txn<'t> {
    pub(super) fn new(
        tables: Tables<'t>,
        sealer: &'t dyn Sealer,
        hot: &'t Hot,
        orders: Given<'t>,
        now: UnixTime,
        issue_ok: bool,
        generation: u64,
    ) -> Self {
        let (job, changed) = (Held::default(), Vec::new());
        Self { tables, sealer, hot, orders, now, issue_ok, generation, job, changed, wrote: false, failed: None }
    }

    /// Writes what the job has held back; from here on its restrictions are seen by lookups.
    pub(super) fn accept(&mut self) -> Result<(), StoreError> {
        let job = std::mem::take(&mut self.job);
        self.wrote |= !(job.tokens.is_empty() && job.outbox.is_empty() && job.orders.is_empty());
        // In force in memory first.
        self.orders.accept(&job.orders);
        orders::store(&mut self.tables, self.sealer, &job.orders).map_err(|error| self.fail(error))?;
        let newest = self.orders.newest(&job.orders);
        for (id, mut change) in job.tokens {
            if let Some(old) = &change.old {
                self.orders.writing(old);
            }
            if let Some(new) = &mut change.new {
                new.order = new.order.max(newest);
            }
            // First of all: if what follows fails, the writer takes it back with the rest of the batch.
            self.changed.push(id);
            if change.restricts {
                self.hot.restrict(id, change.new.clone().map(Arc::new));
            }
            self.apply(id, change).map_err(|error| self.fail(error))?;
        }
        for (generation, record) in job.outbox {
            let sealed = self.sealer.seal("outbox", &generation.to_be_bytes(), &record);
            self.tables.outbox.insert(generation, &*sealed).map(drop).map_err(|error| self.fail(error))?;
            self.generation = generation;
        }
        Ok(())
    }

    /// What accepted jobs have done to orders.
    pub(super) fn take_orders(&mut self) -> Batch {
        self.orders.take_batch()
    }

    /// Forgets what the job has held back.
    pub(super) fn reject(&mut self) {
        self.job = Held::default();
    }

    /// The engine's failure, if there was one.
    pub(super) fn failure(&self) -> Result<(), StoreError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether any accepted job wrote something.
    pub(super) fn wrote(&self) -> bool {
        self.wrote
    }

    /// The tokens that accepted jobs have changed.
    pub(super) fn take_changed(&mut self) -> Vec<TokenId> {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn put_meta(&mut self, name: &'static str, value: &[u8]) -> Result<(), StoreError> {
        self.tables.meta.insert(name, value).map(drop).map_err(|error| self.fail(error))
    }

    /// Drops what audit.log has.
    pub(super) fn drop_outbox(&mut self, through: u64) -> Result<(), StoreError> {
        let dropped = (|| {
            loop {
                match self.tables.outbox.first()? {
                    Some((generation, _)) if generation.value() <= through => {}
                    _ => return Ok(()),
                }
                self.tables.outbox.pop_first()?;
            }
        })();
        dropped.map_err(|error: redb::StorageError| self.fail(error))
    }

    /// The stored last use; one that does not open is taken as none: it is not worth stopping for.
    pub(super) fn last_use(&mut self, id: TokenId) -> Result<Option<LastUse>, StoreError> {
        let error = match self.tables.usage.get(id.as_bytes()) {
            Ok(None) => return Ok(None),
            Ok(Some(sealed)) => return Ok(schema::open(self.sealer, "usage", id.as_bytes(), sealed.value()).ok()),
            Err(error) => error,
        };
        Err(self.fail(error))
    }

    /// Stores a last use, unless the token is gone.
    pub(super) fn put_last_use(&mut self, id: TokenId, last: &LastUse) -> Result<(), StoreError> {
        let stored = (|| {
            if self.tables.tokens.get(id.as_bytes())?.is_some() {
                let sealed = schema::seal(self.sealer, "usage", id.as_bytes(), last);
                self.tables.usage.insert(id.as_bytes(), &*sealed)?;
            }
            Ok(())
        })();
        stored.map_err(|error: redb::StorageError| self.fail(error))
    }

    /// Writes one record and moves its keys in the other tables.
    fn apply(&mut self, id: TokenId, change: Change) -> Result<(), redb::StorageError> {
        let tables = &mut self.tables;
        let old = change.old.map(|record| Rows::of(self.sealer, &record)).unwrap_or_default();
        let new = match &change.new {
            Some(record) => {
                tables.tokens.insert(id.as_bytes(), &*schema::seal_record(self.sealer, record))?;
                Rows::of(self.sealer, record)
            }
            None => {
                tables.tokens.remove(id.as_bytes())?;
                tables.usage.remove(id.as_bytes())?;
                Rows::default()
            }
        };
        if old.expiry != new.expiry {
            if let Some(key) = &old.expiry {
                tables.by_expiry.remove(key)?;
            }
            if let Some(key) = &new.expiry {
                tables.by_expiry.insert(key, ())?;
            }
        }
        if old.live != new.live {
            if let Some(key) = &old.live {
                tables.live.remove(key)?;
            }
            if let Some(key) = &new.live {
                tables.live.insert(key, ())?;
            }
        }
        for key in old.index.iter().filter(|key| new.index.binary_search(key).is_err()) {
            tables.unindex(key)?;
        }
        for key in new.index.iter().filter(|key| old.index.binary_search(key).is_err()) {
            tables.index(key)?;
        }
        Ok(())
    }
}
