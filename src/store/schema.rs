//! The tables of the store, their keys, and the format version. Layout: `docs/file-format.md`.
//!
//! Invariant: every value is sealed but what is needed before the key is known (format and header), and every key that
//! would say something of its value is a keyed hash. Without the key the file shows how many tokens there are, when
//! they were issued and expire, which share an owner or label, and nothing else.

use redb::{ReadableTable, Table, TableDefinition, TableError, WriteTransaction};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::{StoreError, read_error};
use super::record::TokenRecord;
use super::versions::Stored;
use super::{IndexTag, Sealer, imports};
use crate::time::{Mark, UnixTime};
use crate::token::TokenId;

/// The format that this version writes.
pub const FORMAT: u16 = 2;
/// The oldest format that a reader of what this version writes must know.
pub const MIN_READER: u16 = 2;

/// Name -> value: [`META_FORMAT`] and [`META_HEADER`] in clear, the rest sealed.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Id -> sealed record.
pub(super) const TOKENS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("tokens");
/// Expiry (microseconds, big-endian), id: what the sweeper walks.
pub(super) const BY_EXPIRY: TableDefinition<'_, &[u8; 24], ()> = TableDefinition::new("by_expiry");
/// Tag, keyed hash, id: what listings by subject, issuer and label walk, and what counts the unrevoked of a subject.
pub(super) const INDEX: TableDefinition<'_, &[u8; 33], ()> = TableDefinition::new("index");
/// Tag, keyed hash -> how many rows of [`INDEX`] begin so; kept for the tags that are counted.
pub(super) const COUNTS: TableDefinition<'_, &[u8; 17], u64> = TableDefinition::new("counts");
/// Keyed hash of the issuer's uid, end of life (microseconds, big-endian), id: what quotas count.
pub(super) const LIVE: TableDefinition<'_, &[u8; 40], ()> = TableDefinition::new("live");
/// Generation -> sealed audit record: those that audit.log lacks, and the newest ones besides.
pub(super) const OUTBOX: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("outbox");
/// Number -> sealed order, until all records bear it.
pub(super) const ORDERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("orders");
/// Id -> sealed last use.
pub(super) const USAGE: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("usage");
/// Keyed digest of an imported token -> its sealed id.
pub(super) const IMPORTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("imports");

/// Format and oldest reader, two little-endian `u16`; in clear.
pub(super) const META_FORMAT: &str = "format";
/// What the caller keeps in clear: the key slots.
pub(super) const META_HEADER: &str = "header";
/// [`Standing`], sealed.
pub(super) const META_STANDING: &str = "standing";
/// The audit's newest seal, sealed; opaque here.
pub(super) const META_SEAL: &str = "seal";
/// [`super::journal::Told`], sealed.
pub(super) const META_TOLD: &str = "told";
/// [`super::SweepMarks`], sealed.
pub(super) const META_SWEEP: &str = "sweep";

/// What every commit writes anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    /// Counts commits; tells after an error whether one was written.
    pub(super) commit: u64,
    /// The newest generation.
    pub(super) generation: u64,
    /// The high-water mark of the clock.
    pub(super) mark: Option<Mark>,
    /// Written only by a stop in good order.
    pub(super) clean_stop: bool,
    /// The digest of the header that this commit left: it lies in clear, and is authenticated by this. `None` only where
    /// version 0.1 wrote it.
    pub(super) header: Option<[u8; 32]>,
}

impl Standing {
    /// Seals it to its place.
    pub(super) fn seal(&self, sealer: &dyn Sealer) -> Vec<u8> {
        seal(sealer, "meta", META_STANDING.as_bytes(), self)
    }

    /// Opens it, and holds the header against what it says.
    ///
    /// # Errors
    /// [`StoreError::Broken`], [`StoreError::Damaged`], [`StoreError::HeaderChanged`].
    pub(super) fn open(sealer: &dyn Sealer, sealed: &[u8], header: &[u8]) -> Result<Self, StoreError> {
        let mut standing: Self = open(sealer, "meta", META_STANDING.as_bytes(), sealed)?;
        let digest = digest(header);
        if standing.header.is_some_and(|there| there != digest) {
            return Err(StoreError::HeaderChanged);
        }
        standing.header = Some(digest);
        Ok(standing)
    }
}

/// What [`Standing`] keeps of a header.
pub(super) fn digest(header: &[u8]) -> [u8; 32] {
    *blake3::hash(header).as_bytes()
}

/// All tables of one write transaction.
pub(super) struct Tables<'t> {
    pub(super) meta: Table<'t, &'static str, &'static [u8]>,
    pub(super) tokens: Table<'t, &'static [u8; 16], &'static [u8]>,
    pub(super) by_expiry: Table<'t, &'static [u8; 24], ()>,
    pub(super) index: Table<'t, &'static [u8; 33], ()>,
    pub(super) counts: Table<'t, &'static [u8; 17], u64>,
    pub(super) live: Table<'t, &'static [u8; 40], ()>,
    pub(super) outbox: Table<'t, u64, &'static [u8]>,
    pub(super) orders: Table<'t, u64, &'static [u8]>,
    pub(super) usage: Table<'t, &'static [u8; 16], &'static [u8]>,
    pub(super) imports: Table<'t, &'static [u8; 32], &'static [u8]>,
}

impl<'t> Tables<'t> {
    /// Opens all, which also creates them: reading a table that was never made is an error.
    pub(super) fn open(txn: &'t WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            meta: txn.open_table(META)?,
            tokens: txn.open_table(TOKENS)?,
            by_expiry: txn.open_table(BY_EXPIRY)?,
            index: txn.open_table(INDEX)?,
            counts: txn.open_table(COUNTS)?,
            live: txn.open_table(LIVE)?,
            outbox: txn.open_table(OUTBOX)?,
            orders: txn.open_table(ORDERS)?,
            usage: txn.open_table(USAGE)?,
            imports: txn.open_table(IMPORTS)?,
        })
    }
}

/// Rows of the index. Invariant: a count changes with the row, and only if the row does.
impl Tables<'_> {
    /// Puts a row.
    pub(super) fn index(&mut self, key: &[u8; 33]) -> Result<(), redb::StorageError> {
        let new = self.index.insert(key, ())?.is_none();
        self.recount(key, if new { 1 } else { 0 })
    }

    /// Drops a row.
    pub(super) fn unindex(&mut self, key: &[u8; 33]) -> Result<(), redb::StorageError> {
        let there = self.index.remove(key)?.is_some();
        self.recount(key, if there { -1 } else { 0 })
    }

    fn recount(&mut self, key: &[u8; 33], by: i64) -> Result<(), redb::StorageError> {
        if by == 0 || key[0] != IndexTag::SubjectUnrevoked as u8 {
            return Ok(());
        }
        let prefix = key.first_chunk::<17>().expect("33 bytes have 17");
        let before = self.counts.get(prefix)?.map_or(0, |count| count.value());
        match before.saturating_add_signed(by) {
            0 => self.counts.remove(prefix)?,
            count => self.counts.insert(prefix, count)?,
        };
        Ok(())
    }
}

/// The bytes of [`META_FORMAT`] as this version writes them for a store that has all of this format.
pub(super) fn format_bytes(format: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (format.to_le_bytes(), MIN_READER.to_le_bytes());
    [a, b, c, d]
}

/// The format of a store; refuses one whose oldest reader is newer than this version.
pub(super) fn check_format(bytes: &[u8]) -> Result<u16, StoreError> {
    let Ok([a, b, c, d]) = <[u8; 4]>::try_from(bytes) else {
        return Err(StoreError::Damaged { what: "its format version is unreadable".into() });
    };
    let (found, needed) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    if needed > FORMAT {
        return Err(StoreError::NewerFormat { found, needed, known: FORMAT });
    }
    Ok(found)
}

/// Encodes a value in its newest encoding and seals it to its place.
pub(super) fn seal<T: Stored>(sealer: &dyn Sealer, table: &str, key: &[u8], value: &T) -> Vec<u8> {
    let plain = Zeroizing::new(value.encode());
    sealer.seal(table, key, &plain)
}

/// Opens a value from its place and decodes it.
///
/// # Errors
/// [`StoreError::Broken`] when it does not open; [`StoreError::Damaged`] when what is inside is of no known version.
pub(super) fn open<T: Stored>(
    sealer: &dyn Sealer,
    table: &'static str,
    key: &[u8],
    sealed: &[u8],
) -> Result<T, StoreError> {
    let plain = sealer.open(table, key, sealed).map_err(|_| StoreError::Broken { table })?;
    T::decode(&plain).map_err(|error| StoreError::Damaged {
        what: format!("a value in table {table:?} {error}, or a newer version wrote it").into(),
    })
}

/// Seals a record to its id.
pub(super) fn seal_record(sealer: &dyn Sealer, record: &TokenRecord) -> Vec<u8> {
    seal(sealer, "tokens", record.id.as_bytes(), record)
}

/// Opens the record that is stored under `id`.
pub(super) fn open_record(sealer: &dyn Sealer, id: TokenId, sealed: &[u8]) -> Result<TokenRecord, StoreError> {
    let record: TokenRecord = open(sealer, "tokens", id.as_bytes(), sealed)?;
    if record.id != id {
        return Err(StoreError::Damaged { what: "a record lies under another token's id".into() });
    }
    Ok(record)
}

/// Reads and opens one of the sealed values of [`META`].
pub(super) fn open_meta<T: Stored>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    sealer: &dyn Sealer,
    name: &'static str,
) -> Result<Option<T>, StoreError> {
    let Some(sealed) = meta.get(name).map_err(read_error)? else { return Ok(None) };
    open(sealer, "meta", name.as_bytes(), sealed.value()).map(Some)
}

/// The keys that a record has in the other tables.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) expiry: Option<[u8; 24]>,
    pub(super) live: Option<[u8; 40]>,
    /// Sorted, each once.
    pub(super) index: Vec<[u8; 33]>,
    pub(super) import: Option<[u8; 32]>,
}

impl Rows {
    /// Those of `record`.
    pub(super) fn of(sealer: &dyn Sealer, record: &TokenRecord) -> Self {
        let mut index = vec![
            index_key(&index_prefix(sealer, IndexTag::Subject, &record.subject), record.id),
            index_key(&index_prefix(sealer, IndexTag::Issuer, &record.issuer), record.id),
        ];
        for (key, value) in &record.labels {
            index.push(index_key(&index_prefix(sealer, IndexTag::LabelKey, key), record.id));
            index.push(index_key(&index_prefix(sealer, IndexTag::Label, &format!("{key}={value}")), record.id));
        }
        if record.revoked.is_none() {
            let prefix = index_prefix(sealer, IndexTag::SubjectUnrevoked, &record.subject);
            index.push(index_key(&prefix, record.id));
        }
        index.sort_unstable();
        index.dedup();
        let live = live_until(record).map(|until| live_key(&live_prefix(sealer, record.issuer_uid), until, record.id));
        let expiry = record.expires_at.map(|at| expiry_key(at, record.id));
        Self { expiry, live, index, import: imports::row(record) }
    }
}

/// Whether two states of a token have the same rows, seen without making them.
pub(super) fn same_rows(old: &TokenRecord, new: &TokenRecord) -> bool {
    old.expires_at == new.expires_at
        && live_until(old) == live_until(new)
        && old.issuer_uid == new.issuer_uid
        && old.subject == new.subject
        && old.issuer == new.issuer
        && old.labels == new.labels
}

/// Until when a token counts as its issuer's; `None` once it has ended by decision. No expiry = the end of time.
pub(super) fn live_until(record: &TokenRecord) -> Option<UnixTime> {
    let exhausted = record.max_uses.is_some_and(|max| record.uses >= max);
    if record.revoked.is_some() || record.replaced || exhausted {
        return None;
    }
    let expires = record.expires_at.unwrap_or(UnixTime::MAX);
    Some(record.rotation.as_ref().map_or(expires, |rotation| expires.min(rotation.ends_at)))
}

/// Expiry and id.
pub(super) fn expiry_key(at: UnixTime, id: TokenId) -> [u8; 24] {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&at.as_micros().to_be_bytes());
    key[8..].copy_from_slice(id.as_bytes());
    key
}

/// Takes [`expiry_key`] apart.
pub(super) fn expiry_of(key: &[u8; 24]) -> (UnixTime, TokenId) {
    let (at, id) = key.split_first_chunk::<8>().expect("24 bytes have 8");
    let id = id.try_into().expect("24 - 8 = 16");
    (UnixTime::from_micros(u64::from_be_bytes(*at)), TokenId::from_bytes(id))
}

/// Tag and keyed hash of what is indexed.
pub(super) fn index_prefix(sealer: &dyn Sealer, tag: IndexTag, value: &str) -> [u8; 17] {
    let mut prefix = [tag as u8; 17];
    prefix[1..].copy_from_slice(&sealer.index(tag.name(), value.as_bytes()));
    prefix
}

/// Prefix and id.
pub(super) fn index_key(prefix: &[u8; 17], id: TokenId) -> [u8; 33] {
    let mut key = [0; 33];
    key[..17].copy_from_slice(prefix);
    key[17..].copy_from_slice(id.as_bytes());
    key
}

/// The id in an index key.
pub(super) fn indexed_id(key: &[u8; 33]) -> TokenId {
    TokenId::from_bytes(*key.last_chunk::<16>().expect("33 bytes have 16"))
}

/// Keyed hash of a uid.
pub(super) fn live_prefix(sealer: &dyn Sealer, uid: u32) -> [u8; 16] {
    sealer.index("issuer_uid", &uid.to_le_bytes())
}

/// Prefix, end and id.
pub(super) fn live_key(prefix: &[u8; 16], until: UnixTime, id: TokenId) -> [u8; 40] {
    let mut key = [0; 40];
    key[..16].copy_from_slice(prefix);
    key[16..24].copy_from_slice(&until.as_micros().to_be_bytes());
    key[24..].copy_from_slice(id.as_bytes());
    key
}

/// The id in such a key.
pub(super) fn live_id(key: &[u8; 40]) -> TokenId {
    TokenId::from_bytes(*key.last_chunk::<16>().expect("40 bytes have 16"))
}

/// The keys of all tokens of `prefix` that end later than `now`.
pub(super) fn live_range(prefix: &[u8; 16], now: UnixTime) -> ([u8; 40], [u8; 40]) {
    let mut first = live_key(prefix, UnixTime::EPOCH, TokenId::MIN);
    first[16..24].copy_from_slice(&now.as_micros().saturating_add(1).to_be_bytes());
    let mut last = [0xff; 40];
    last[..16].copy_from_slice(prefix);
    (first, last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::{KeySource, Keyring, SlotKind};

    #[test]
    fn a_format_that_needs_a_newer_reader_is_refused() {
        assert!(check_format(&format_bytes(FORMAT)).is_ok());
        // Of the first version, and newer but readable by this one.
        assert!(check_format(&[1, 0, 1, 0]).is_ok() && check_format(&[9, 0, 2, 0]).is_ok());
        let error = check_format(&[9, 0, 3, 0]).expect_err("its oldest reader is version 3");
        assert!(matches!(error, StoreError::NewerFormat { found: 9, needed: 3, known: FORMAT }), "{error}");
        for unreadable in [&[][..], &[1, 0, 1], &[1, 0, 1, 0, 0]] {
            assert!(matches!(check_format(unreadable), Err(StoreError::Damaged { .. })));
        }
    }

    /// I9: a standing of version 0.1 has no digest, and takes the header as it is; one that has takes no other.
    #[test]
    fn a_standing_of_either_format_opens() {
        let source = KeySource::random(SlotKind::File, "a test").unwrap();
        let sealer: Box<dyn Sealer> = Box::new(Keyring::create(&source, UnixTime::EPOCH).unwrap().0);
        // V1, 5 commits, generation 300, no mark, a clean stop.
        let first = sealer.seal("meta", b"standing", &[0, 5, 0xac, 2, 0, 1]);
        let standing = Standing::open(&*sealer, &first, b"header").unwrap();
        assert_eq!((standing.commit, standing.generation, standing.clean_stop), (5, 300, true));
        let second = standing.seal(&*sealer);
        assert_eq!(Standing::open(&*sealer, &second, b"header").unwrap(), standing);
        assert!(matches!(Standing::open(&*sealer, &second, b"Header"), Err(StoreError::HeaderChanged)));
        let newer = sealer.seal("meta", b"standing", &[2, 5, 0xac, 2, 0, 1]);
        assert!(matches!(Standing::open(&*sealer, &newer, b"header"), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn keys_sort_by_time_and_then_id() {
        let (low, high) = (TokenId::from_bytes([1; 16]), TokenId::from_bytes([2; 16]));
        let at = UnixTime::from_micros;
        assert!(expiry_key(at(255), high) < expiry_key(at(256), low));
        assert!(expiry_key(at(256), low) < expiry_key(at(256), high));
        assert_eq!(expiry_of(&expiry_key(at(77), high)), (at(77), high));
        assert_eq!(indexed_id(&index_key(&[7; 17], high)), high);
    }

    /// Good while now is before the end: what ends at `now` is no longer live.
    #[test]
    fn the_live_range_begins_after_now() {
        let at = UnixTime::from_micros;
        let (first, last) = live_range(&[5; 16], at(1000));
        let inside = |until| (first..=last).contains(&live_key(&[5; 16], until, TokenId::from_bytes([9; 16])));
        assert!(!inside(at(999)) && !inside(at(1000)) && inside(at(1001)) && inside(UnixTime::MAX));
        assert!(!(first..=last).contains(&live_key(&[6; 16], at(1001), TokenId::MIN)));
    }
}
