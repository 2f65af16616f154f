//! The journal: the audit records of the newest changes, kept after audit.log has them, for those who follow.
//!
//! It lies in the table of the outbox, by generation. What audit.log has is known apart from that ([`Told`]), so that a
//! start reads only what audit.log may lack, however much is kept.
//!
//! Invariants: a record goes only once audit.log has it *and* newer ones fill the journal (I4); nothing is shown before it
//! is durable, and then in the order of generations (I1).

use redb::{ReadTransaction, ReadableTable};

use super::error::{StoreError, read_error};
use super::record::TokenRecord;
use super::scan;
use super::schema::{self, META, META_TOLD, OUTBOX, Tables};
use super::{Sealer, Store};
use crate::token::TokenId;

/// What is kept when the disk is so full that no token is issued: room is for what restricts.
pub(super) const KEPT_WHEN_FULL: u64 = 1024;
/// Records that a commit may drop besides: a journal that has become too long (the disk was filled, or the audit log could
/// not be written for a while) goes down in steps.
const DROPPED_AT_ONCE: u64 = 1024;

/// The generation up to which audit.log has all records; sealed in the table `meta`.
pub(super) type Told = u64;

/// A part of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalPage {
    /// Generation and audit record, in order.
    pub records: Vec<(u64, Vec<u8>)>,
    /// The oldest generation that is kept; `None` when none is.
    pub first: Option<u64>,
    /// The newest durable generation when this was read: nothing above it is in `records`.
    pub newest: u64,
    /// There are more behind `records`.
    pub more: bool,
}

impl Store {
    /// The audit records after the generation `after`, at most `limit`. Reads the disk: for a thread that may block.
    ///
    /// # Errors
    /// As [`Store::lookup`].
    pub fn journal(&self, after: u64, limit: usize) -> Result<JournalPage, StoreError> {
        // Before the transaction begins, so that it has all of them; and what it has beyond that may not be synced yet.
        let newest = self.generation();
        self.read(|txn, sealer| page(txn, sealer, after, newest, limit))
    }

    /// The durable record of the token that a journal's record is about. Not by [`Store::lookup`]: whoever reads old news
    /// must not push out of its cache what is in use.
    ///
    /// # Errors
    /// As [`Store::lookup`].
    pub fn told_of(&self, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
        self.read(|txn, sealer| scan::record(txn, sealer, id))
    }

    /// Follows the newest durable generation: who has seen all up to it need not look before it changes.
    pub fn announced(&self) -> tokio::sync::watch::Receiver<u64> {
        self.shared.announced.subscribe()
    }
}

fn page(
    txn: &ReadTransaction,
    sealer: &dyn Sealer,
    after: u64,
    newest: u64,
    limit: usize,
) -> Result<JournalPage, StoreError> {
    let table = txn.open_table(OUTBOX).map_err(read_error)?;
    let first = table.first().map_err(read_error)?.map(|(generation, _)| generation.value());
    let mut page = JournalPage { records: Vec::new(), first, newest, more: false };
    if after >= newest {
        return Ok(page);
    }
    for row in table.range(after + 1..=newest).map_err(read_error)? {
        if page.records.len() == limit {
            page.more = true;
            break;
        }
        let (generation, sealed) = row.map_err(read_error)?;
        page.records.push(open(sealer, generation.value(), sealed.value())?);
    }
    Ok(page)
}

/// What audit.log may lack, oldest first.
pub(super) fn untold(txn: &ReadTransaction, sealer: &dyn Sealer) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
    let meta = txn.open_table(META).map_err(read_error)?;
    // A store of the first format dropped what was told: all that is there is not.
    let told: Told = schema::open_meta(&meta, sealer, META_TOLD)?.unwrap_or(0);
    let table = txn.open_table(OUTBOX).map_err(read_error)?;
    let mut untold = Vec::new();
    for row in table.range(told.saturating_add(1)..).map_err(read_error)? {
        let (generation, sealed) = row.map_err(read_error)?;
        untold.push(open(sealer, generation.value(), sealed.value())?);
    }
    Ok(untold)
}

fn open(sealer: &dyn Sealer, generation: u64, sealed: &[u8]) -> Result<(u64, Vec<u8>), StoreError> {
    let record = sealer.open("outbox", &generation.to_be_bytes(), sealed);
    Ok((generation, record.map_err(|_| StoreError::Broken { table: "outbox" })?.to_vec()))
}

/// Audit.log has all records up to `through`.
pub(super) fn tell(tables: &mut Tables<'_>, sealer: &dyn Sealer, through: u64) -> Result<(), StoreError> {
    let sealed = schema::seal(sealer, "meta", META_TOLD.as_bytes(), &told(tables, sealer)?.max(through));
    tables.meta.insert(META_TOLD, &*sealed).map(drop).map_err(read_error)
}

/// Drops what is told and older than the newest `kept`: about as many as the commit brings (`brought`), or some more.
pub(super) fn trim(
    tables: &mut Tables<'_>,
    sealer: &dyn Sealer,
    newest: u64,
    kept: u64,
    brought: u64,
) -> Result<(), StoreError> {
    let beyond = newest.saturating_sub(kept);
    let first = tables.outbox.first().map_err(read_error)?.map(|(generation, _)| generation.value());
    let Some(first) = first.filter(|first| *first <= beyond) else { return Ok(()) };
    let most = DROPPED_AT_ONCE.max(2 * brought);
    let through = told(tables, sealer)?.min(beyond).min(first.saturating_add(most - 1));
    if first <= through {
        tables.outbox.retain_in(..=through, |_, _| false).map_err(read_error)?;
    }
    Ok(())
}

fn told(tables: &Tables<'_>, sealer: &dyn Sealer) -> Result<Told, StoreError> {
    Ok(schema::open_meta(&tables.meta, sealer, META_TOLD)?.unwrap_or(0))
}
