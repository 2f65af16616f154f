//! What a job may do inside the writer's transaction: read records, put them whole, announce.
//!
//! Invariant: a job writes all or nothing. What it puts and announces is held back until it has returned `Ok`; a job that
//! returns an error, or panics, leaves no trace in the batch that it shares with others.

use std::collections::{BTreeMap, BTreeSet};

use redb::ReadableTable;

use super::error::{StoreError, read_error};
use super::journal::{self, KEPT_WHEN_FULL};
use super::marks::{Moves, SweepMarks};
use super::orders::{self, Batch, Given, Placing};
use super::record::{LastUse, TokenRecord};
use super::schema::{self, Rows, Tables};
use super::{Sealer, hot::Hot, imports};
use crate::time::UnixTime;
use crate::token::{Digest, TokenId};

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
    pub(super) issue_ok: bool,
    /// The newest generation, with those of accepted jobs.
    generation: u64,
    /// What becomes of the sweeper's marks.
    pub(super) moves: Moves,
    pub(super) job: Held,
    changed: Vec<TokenId>,
    /// Those whose change lets them do more: nobody sees it before it is durable, whatever later jobs do to them.
    widened: BTreeSet<TokenId>,
    pub(super) wrote: bool,
    /// Of the header that an accepted job has put.
    header_digest: Option<[u8; 32]>,
    /// The engine failed: its handle is of no more use, whatever the job makes of it.
    failed: Option<StoreError>,
}

/// What the current job has done so far.
#[derive(Default)]
pub(super) struct Held {
    pub(super) orders: Placing,
    tokens: BTreeMap<TokenId, Change>,
    outbox: Vec<(u64, Vec<u8>)>,
    pub(super) header: Option<Vec<u8>>,
    pub(super) marks: Option<SweepMarks>,
}

struct Change {
    /// As the tables have it.
    old: Option<TokenRecord>,
    /// As the job wants it; `None` = removed.
    new: Option<TokenRecord>,
    shown: Shown,
}

/// What lookups see of a change until it is durable.
enum Shown {
    /// The state before it.
    Old,
    /// The state after it.
    New,
    /// A state that is good for no more than either of them.
    Between(Box<TokenRecord>),
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
        let shown = if effect == Effect::Restricts { Shown::New } else { Shown::Old };
        self.change(record.id, Some(record), shown)
    }

    /// Puts a whole record that lets the token do less in one way and more in another. Until it is durable, lookups see
    /// `meanwhile`, which must be good for no more than either the record before or this one.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn put_between(&mut self, record: TokenRecord, meanwhile: TokenRecord) -> Result<(), StoreError> {
        debug_assert_eq!(record.id, meanwhile.id);
        self.change(record.id, Some(record), Shown::Between(Box::new(meanwhile)))
    }

    /// Removes a token for good, with its last use: the sweeper's, once it has been ended for long enough.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn remove(&mut self, id: TokenId) -> Result<(), StoreError> {
        self.change(id, None, Shown::New)
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

    /// Stores an audit record under the next generation, in this same transaction; it stays there until
    /// [`super::Store::seal_stored`] says that audit.log has it, and for as long as the journal is. The order of generations is the order of commits.
    ///
    /// # Errors
    /// None today; a job passes them on.
    pub fn announce(&mut self, make: impl FnOnce(u64) -> Vec<u8>) -> Result<u64, StoreError> {
        let generation = self.newest_generation() + 1;
        self.job.outbox.push((generation, make(generation)));
        Ok(generation)
    }

    /// The time that lives are measured by, the same for the whole batch. What is decided in a job is decided by it: by the
    /// time of a request, one that waited would see a token as it was before the change that it waited for.
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

    fn change(&mut self, id: TokenId, new: Option<TokenRecord>, shown: Shown) -> Result<(), StoreError> {
        if let Some(change) = self.job.tokens.get_mut(&id) {
            change.new = new;
            // What is between goes first: what the job does later can be wider than the state before it.
            change.shown = match (std::mem::replace(&mut change.shown, Shown::Old), shown) {
                (Shown::Between(record), _) | (_, Shown::Between(record)) => Shown::Between(record),
                (Shown::New, _) | (_, Shown::New) => Shown::New,
                (Shown::Old, Shown::Old) => Shown::Old,
            };
            return Ok(());
        }
        let old = self.stored(id)?;
        self.job.tokens.insert(id, Change { old, new, shown });
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

    /// The token with this digest that the job has put as imported.
    pub(super) fn held_import(&self, digest: &Digest) -> Option<TokenId> {
        let mut held = self.job.tokens.values().filter_map(|change| change.new.as_ref());
        held.find(|record| record.prefix.is_none() && record.digest == *digest).map(|record| record.id)
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
        let (moves, job, changed, widened) = (Moves::default(), Held::default(), Vec::new(), BTreeSet::new());
        Self {
            tables,
            sealer,
            hot,
            orders,
            now,
            issue_ok,
            generation,
            moves,
            job,
            changed,
            widened,
            wrote: false,
            header_digest: None,
            failed: None,
        }
    }

    /// Writes what the job has held back; from here on its restrictions are seen by lookups.
    pub(super) fn accept(&mut self) -> Result<(), StoreError> {
        let job = std::mem::take(&mut self.job);
        self.wrote |= !(job.tokens.is_empty()
            && job.outbox.is_empty()
            && job.orders.is_empty()
            && job.header.is_none()
            && job.marks.is_none());
        if let Some(marks) = job.marks {
            self.moves.set(marks);
        }
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
            let shown = match &change.shown {
                Shown::Old => None,
                Shown::New => Some(change.new.clone()),
                Shown::Between(record) => Some(Some((**record).clone())),
            };
            // After a widening of the same batch, what this job wants is wider than what is durable: what is seen stays.
            if let Some(shown) = shown.filter(|_| !self.widened.contains(&id)) {
                self.hot.restrict(id, shown);
            }
            if !matches!(change.shown, Shown::New) {
                self.widened.insert(id);
            }
            self.apply(id, change).map_err(|error| self.fail(error))?;
        }
        for (generation, record) in job.outbox {
            let sealed = self.sealer.seal("outbox", &generation.to_be_bytes(), &record);
            self.tables.outbox.insert(generation, &*sealed).map(drop).map_err(|error| self.fail(error))?;
            self.generation = generation;
        }
        if let Some(header) = job.header {
            self.put_meta(schema::META_HEADER, &header)?;
            self.header_digest = Some(schema::digest(&header));
        }
        Ok(())
    }

    /// The digest of the header, if this transaction has changed it.
    pub(super) fn header_digest(&self) -> Option<[u8; 32]> {
        self.header_digest
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

    /// Audit.log has what was announced up to `through`.
    pub(super) fn tell(&mut self, through: u64) -> Result<(), StoreError> {
        journal::tell(&mut self.tables, self.sealer, through)
    }

    /// Drops what is told and older than the newest `kept`; the transaction has brought so many.
    pub(super) fn trim_journal(&mut self, kept: u64, brought: u64) -> Result<(), StoreError> {
        let kept = if self.issue_ok { kept } else { kept.min(KEPT_WHEN_FULL) };
        journal::trim(&mut self.tables, self.sealer, self.generation, kept, brought)
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
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && schema::same_rows(old, new)
        {
            // The common case, of uses that are counted and expiries that are told: no keyed hash is needed.
            return tables.tokens.insert(id.as_bytes(), &*schema::seal_record(self.sealer, new)).map(drop);
        }
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
                self.moves.brings(schema::expiry_of(key));
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
        if old.import != new.import {
            if let Some(digest) = &old.import {
                tables.imports.remove(digest)?;
            }
            if let Some(digest) = &new.import {
                tables.imports.insert(digest, &*imports::seal(self.sealer, digest, id))?;
                self.hot.knows_imports();
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
