//! The tables whose values are sealed: what a backup carries, each row with the key that its value is sealed to.
//!
//! Invariant: whoever adds a table with sealed values adds its line to [`KEPT`], or a restored store is without it. What
//! is not here (the indexes) is made again from the records.

use std::ops::Bound;

use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTableMetadata, TableDefinition, TableError, TableHandle, WriteTransaction,
};

use super::error::{StoreError, cause, read_error};
use super::order::Order;
use super::record::{LastUse, TokenRecord};
use super::schema::{
    IMPORTS, META, META_FORMAT, META_HEADER, META_SEAL, META_STANDING, ORDERS, OUTBOX, Standing, TOKENS, USAGE,
};
use super::versions::Stored;

/// A row as it is shown: the key's bytes and the sealed value.
pub(super) type See<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<bool, StoreError>;

/// A key's bytes and the sealed value.
pub(super) type RawRow = (Vec<u8>, Vec<u8>);

/// A table with sealed values, whatever its keys are.
pub(super) trait Kept: Sync {
    /// Its name, which its values are sealed to.
    fn name(&self) -> &str;
    /// How many rows a backup has of it.
    fn count(&self, txn: &ReadTransaction) -> Result<u64, StoreError>;
    /// Shows the rows behind `after`, by key, until `see` has enough.
    fn walk(&self, txn: &ReadTransaction, after: Option<&[u8]>, see: See<'_>) -> Result<(), StoreError>;
    /// Puts rows as they are.
    fn put(&self, txn: &WriteTransaction, rows: &[RawRow]) -> Result<(), StoreError>;
    /// Whether that is a key of this table, and what was opened from its place one of its values.
    fn sound(&self, key: &[u8], plain: &[u8]) -> bool;
}

/// All of them; a number in a backup is a place in the list that the backup itself has.
pub(super) const KEPT: &[&dyn Kept] = &[
    &Sealed { table: META, clear: &[META_FORMAT, META_HEADER], sound: sound_meta },
    &Sealed { table: TOKENS, clear: &[], sound: |_, plain| TokenRecord::decode(plain).is_ok() },
    &Sealed { table: USAGE, clear: &[], sound: |_, plain| LastUse::decode(plain).is_ok() },
    &Sealed { table: OUTBOX, clear: &[], sound: |_, _| true },
    &Sealed { table: ORDERS, clear: &[], sound: |_, plain| Order::decode(plain).is_ok() },
    &Sealed { table: IMPORTS, clear: &[], sound: |_, plain| plain.len() == 16 },
];

/// The table of that name.
pub(super) fn named(name: &str) -> Option<&'static dyn Kept> {
    KEPT.iter().copied().find(|kept| kept.name() == name)
}

struct Sealed<K: redb::Key + 'static> {
    table: TableDefinition<'static, K, &'static [u8]>,
    /// Rows in clear, which a backup has elsewhere.
    clear: &'static [&'static str],
    /// The values that the store itself reads must decode; what it only keeps for others is theirs to judge.
    sound: fn(&[u8], &[u8]) -> bool,
}

/// A key as the bytes that values are sealed to, and back.
trait Bytes: redb::Key + Sync + 'static {
    fn bytes(key: &Self::SelfType<'_>) -> Vec<u8>;
    fn parse(bytes: &[u8]) -> Option<Self::SelfType<'_>>;
}

impl Bytes for &'static str {
    fn bytes(key: &&str) -> Vec<u8> {
        key.as_bytes().to_vec()
    }

    fn parse(bytes: &[u8]) -> Option<&str> {
        std::str::from_utf8(bytes).ok()
    }
}

impl<const N: usize> Bytes for &'static [u8; N] {
    fn bytes(key: &&[u8; N]) -> Vec<u8> {
        key.to_vec()
    }

    fn parse(bytes: &[u8]) -> Option<&[u8; N]> {
        bytes.try_into().ok()
    }
}

impl Bytes for u64 {
    fn bytes(key: &u64) -> Vec<u8> {
        key.to_be_bytes().to_vec()
    }

    fn parse(bytes: &[u8]) -> Option<u64> {
        bytes.try_into().ok().map(u64::from_be_bytes)
    }
}

impl<K: Bytes> Sealed<K> {
    /// `None` in a store of a version that did not have it yet.
    fn open(&self, txn: &ReadTransaction) -> Result<Option<ReadOnlyTable<K, &'static [u8]>>, StoreError> {
        match txn.open_table(self.table) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(read_error(error)),
        }
    }

    fn is_clear(&self, key: &[u8]) -> bool {
        self.clear.iter().any(|name| name.as_bytes() == key)
    }
}

impl<K: Bytes> Kept for Sealed<K> {
    fn name(&self) -> &str {
        self.table.name()
    }

    fn count(&self, txn: &ReadTransaction) -> Result<u64, StoreError> {
        let Some(table) = self.open(txn)? else { return Ok(0) };
        let mut count = table.len().map_err(read_error)?;
        for name in self.clear {
            let key = K::parse(name.as_bytes()).expect("only names are in clear");
            count -= u64::from(table.get(key).map_err(read_error)?.is_some());
        }
        Ok(count)
    }

    fn walk(&self, txn: &ReadTransaction, after: Option<&[u8]>, see: See<'_>) -> Result<(), StoreError> {
        let Some(table) = self.open(txn)? else { return Ok(()) };
        let first = match after.map(K::parse) {
            None => Bound::Unbounded,
            Some(Some(key)) => Bound::Excluded(key),
            Some(None) => return Ok(()),
        };
        for row in table.range((first, Bound::Unbounded)).map_err(read_error)? {
            let (key, value) = row.map_err(read_error)?;
            let key = K::bytes(&key.value());
            if !self.is_clear(&key) && !see(&key, value.value())? {
                break;
            }
        }
        Ok(())
    }

    fn put(&self, txn: &WriteTransaction, rows: &[RawRow]) -> Result<(), StoreError> {
        let written = (|| {
            let mut table = txn.open_table(self.table)?;
            for (key, value) in rows {
                if let Some(key) = K::parse(key) {
                    table.insert(key, &**value)?;
                }
            }
            Ok(())
        })();
        written.map_err(|error: redb::Error| StoreError::NotWritten(cause(error)))
    }

    fn sound(&self, key: &[u8], plain: &[u8]) -> bool {
        K::parse(key).is_some() && !self.is_clear(key) && (self.sound)(key, plain)
    }
}

fn sound_meta(name: &[u8], plain: &[u8]) -> bool {
    match std::str::from_utf8(name) {
        Ok(META_STANDING) => Standing::decode(plain).is_ok(),
        Ok(META_SEAL) => <Vec<u8>>::decode(plain).is_ok(),
        other => other.is_ok(),
    }
}
