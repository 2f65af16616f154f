//! The key header and the sealing of every value anew under another record key, while everything else goes on.
//!
//! Invariants: each row is rewritten whole, in a transaction that others ride in too, so that a crash leaves rows under
//! either key and none under neither; the walk holds nothing back and needs no note of how far it got: a row that is
//! sealed under the key in force is passed over. Every table is either walked or has nothing that is sealed: a table that
//! is in neither list fails the test below.

use redb::{Key, ReadTransaction, ReadableTable, ReadableTableMetadata, Table};

use super::error::{StoreError, read_error};
use super::schema::{IMPORTS, META, META_FORMAT, META_HEADER, ORDERS, OUTBOX, TOKENS, Tables, USAGE};
use super::txn::Txn;
use super::{Sealer, Store};

/// Rows looked at in one transaction. Looking is cheap: a number is compared.
const LOOK_MAX: u64 = 4096;
/// Bytes of rows sealed anew in one transaction, whatever their number.
const BYTES_MAX: usize = 256 << 10;

/// How far a walk has got.
#[derive(Clone, Debug, Default)]
pub struct ResealCursor {
    /// In [`SEALED`].
    table: usize,
    /// The last row looked at, as the engine writes its key.
    after: Option<Vec<u8>>,
    /// Rows looked at in all.
    done: u64,
}

impl ResealCursor {
    /// Rows that were looked at.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Every row was.
    pub fn is_finished(&self) -> bool {
        self.table == SEALED.len()
    }
}

impl Store {
    /// What is kept in clear: the key header.
    ///
    /// # Errors
    /// As [`Store::lookup`].
    pub fn header(&self) -> Result<Vec<u8>, StoreError> {
        self.read(|txn, _| {
            let meta = txn.open_table(META).map_err(read_error)?;
            let header = meta.get(META_HEADER).map_err(read_error)?;
            header.map(|bytes| bytes.value().to_vec()).ok_or_else(header_missing)
        })
    }

    /// How many rows a walk looks at.
    ///
    /// # Errors
    /// As [`Store::lookup`].
    pub fn sealed_rows(&self) -> Result<u64, StoreError> {
        self.read(|txn, _| {
            let counts = SEALED.iter().map(|table| (table.count)(txn));
            counts.sum::<Result<u64, redb::Error>>().map_err(read_error)
        })
    }

    /// A table with a value that is not sealed under the key in force, if there is one. Reads the whole file: for a thread
    /// that may block.
    ///
    /// # Errors
    /// As [`Store::lookup`].
    pub fn not_resealed(&self) -> Result<Option<&'static str>, StoreError> {
        self.read(|txn, sealer| {
            for table in &SEALED {
                let all = Look { table, sealer, after: None, rows: 1, bytes: usize::MAX, most: u64::MAX };
                if !(table.read)(txn, &all).map_err(read_error)?.stale.is_empty() {
                    return Ok(Some(table.name));
                }
            }
            Ok(None)
        })
    }
}

impl Txn<'_> {
    /// The key header, as this job and those before it have left it.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn header(&mut self) -> Result<Vec<u8>, StoreError> {
        if let Some(header) = &self.job.header {
            return Ok(header.clone());
        }
        let error = match self.tables.meta.get(META_HEADER) {
            Ok(header) => return header.map(|bytes| bytes.value().to_vec()).ok_or_else(header_missing),
            Err(error) => error,
        };
        Err(self.fail(error))
    }

    /// Puts another key header.
    pub fn put_header(&mut self, header: Vec<u8>) {
        self.job.header = Some(header);
    }

    /// Seals the next rows anew, at most so many.
    ///
    /// # Errors
    /// [`StoreError::Broken`] for a value that does not open: it stays, and so must its key. [`StoreError::NoRoom`] while
    /// room on the disk is kept for what restricts.
    pub fn reseal(&mut self, cursor: &ResealCursor, rows: usize) -> Result<ResealCursor, StoreError> {
        let Some(table) = SEALED.get(cursor.table) else { return Ok(cursor.clone()) };
        if !self.issue_ok {
            return Err(StoreError::NoRoom);
        }
        let after = cursor.after.as_deref();
        let look = Look { table, sealer: self.sealer, after, rows, bytes: BYTES_MAX, most: LOOK_MAX };
        let found = match (table.find)(&self.tables, &look) {
            Ok(found) => found,
            Err(error) => return Err(self.fail(error)),
        };
        let mut anew = Vec::with_capacity(found.stale.len());
        for (key, place, sealed) in found.stale {
            let plain = self.sealer.open(table.name, &place, &sealed);
            let plain = plain.map_err(|_| StoreError::Broken { table: table.name })?;
            anew.push((key, self.sealer.seal(table.name, &place, &plain)));
        }
        for (key, sealed) in anew {
            (table.put)(&mut self.tables, &key, &sealed).map_err(|error| self.fail(error))?;
            self.wrote = true;
        }
        let done = cursor.done + found.looked;
        Ok(match found.last {
            Some(last) => ResealCursor { table: cursor.table, after: Some(last), done },
            None => ResealCursor { table: cursor.table + 1, after: None, done },
        })
    }
}

/// A table whose values are sealed; the generic parts are written out by [`sealed`].
struct SealedTable {
    name: &'static str,
    /// The place of a value, from its key as the engine writes it; `None` when it lies in clear.
    place: fn(&[u8]) -> Option<Vec<u8>>,
    count: fn(&ReadTransaction) -> Result<u64, redb::Error>,
    read: fn(&ReadTransaction, &Look<'_>) -> Result<Found, redb::Error>,
    find: fn(&Tables<'_>, &Look<'_>) -> Result<Found, redb::StorageError>,
    put: Put,
}

/// Puts a value under a key as the engine writes it.
type Put = fn(&mut Tables<'_>, &[u8], &[u8]) -> Result<(), redb::StorageError>;

macro_rules! sealed {
    ($field:ident, $definition:ident, $place:expr) => {
        SealedTable {
            name: stringify!($field),
            place: $place,
            count: |txn| Ok(txn.open_table($definition)?.len()?),
            read: |txn, look| Ok(look.at(&txn.open_table($definition)?)?),
            find: |tables, look| look.at(&tables.$field),
            put: |tables, key, sealed| put(&mut tables.$field, key, sealed),
        }
    };
}

/// Every table with sealed values. A new one is added here.
const SEALED: [SealedTable; 6] = [
    sealed!(meta, META, |name| {
        let clear = [META_FORMAT, META_HEADER].iter().any(|clear| clear.as_bytes() == name);
        (!clear).then(|| name.to_vec())
    }),
    sealed!(tokens, TOKENS, as_it_is),
    sealed!(outbox, OUTBOX, big_endian),
    sealed!(usage, USAGE, as_it_is),
    sealed!(imports, IMPORTS, as_it_is),
    sealed!(orders, ORDERS, big_endian),
];

/// Bytes are sealed to as they are.
fn as_it_is(key: &[u8]) -> Option<Vec<u8>> {
    Some(key.to_vec())
}

/// A number is sealed to in big-endian; the engine writes it in little-endian.
fn big_endian(key: &[u8]) -> Option<Vec<u8>> {
    Some(key.iter().rev().copied().collect())
}

/// What to look for in one table.
struct Look<'a> {
    table: &'a SealedTable,
    sealer: &'a dyn Sealer,
    /// Begin after this key.
    after: Option<&'a [u8]>,
    /// Stop after so many rows that are not current, or so many bytes of them, or so many rows at all.
    rows: usize,
    bytes: usize,
    most: u64,
}

#[derive(Default)]
struct Found {
    /// Key, place and value of rows that are not current.
    stale: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>,
    looked: u64,
    /// Where to go on; `None` at the end of the table.
    last: Option<Vec<u8>>,
}

impl Look<'_> {
    fn at<K: Key + 'static>(&self, table: &impl ReadableTable<K, &'static [u8]>) -> Result<Found, redb::StorageError> {
        let mut found = Found::default();
        let mut bytes = 0;
        let rows = match self.after {
            Some(after) => table.range::<K::SelfType<'_>>((
                std::ops::Bound::Excluded(K::from_bytes(after)),
                std::ops::Bound::Unbounded,
            ))?,
            None => table.iter()?,
        };
        for row in rows {
            let (key, sealed) = row?;
            let (key, sealed) = (K::as_bytes(&key.value()).as_ref().to_vec(), sealed.value());
            found.looked += 1;
            if !self.sealer.is_current(sealed)
                && let Some(place) = (self.table.place)(&key)
            {
                bytes += sealed.len();
                found.stale.push((key.clone(), place, sealed.to_vec()));
            }
            if found.stale.len() >= self.rows || bytes >= self.bytes || found.looked >= self.most {
                found.last = Some(key);
                break;
            }
        }
        Ok(found)
    }
}

fn put<K: Key + 'static>(
    table: &mut Table<'_, K, &'static [u8]>,
    key: &[u8],
    sealed: &[u8],
) -> Result<(), redb::StorageError> {
    table.insert(K::from_bytes(key), sealed).map(drop)
}

fn header_missing() -> StoreError {
    StoreError::Damaged { what: "its header is missing".into() }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;
    use redb::{Database, TableHandle, Value};

    use super::*;

    /// Whoever adds a table says here, or in [`SEALED`], whether its values are sealed: one that is forgotten would be lost
    /// with the old record key.
    const KEYS_ONLY: [&str; 4] = ["by_expiry", "counts", "index", "live"];

    #[test]
    fn every_table_is_walked_or_has_nothing_sealed() {
        let db = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let txn = db.begin_write().unwrap();
        drop(Tables::open(&txn).unwrap());
        let mut there: Vec<String> = txn.list_tables().unwrap().map(|table| table.name().to_owned()).collect();
        let mut known: Vec<&str> = SEALED.iter().map(|table| table.name).chain(KEYS_ONLY).collect();
        there.sort();
        known.sort();
        assert_eq!(there, known);
    }

    #[test]
    fn places_are_those_that_values_are_sealed_to() {
        let place = |name: &str, key: &[u8]| (SEALED.iter().find(|it| it.name == name).unwrap().place)(key);
        assert_eq!(place("meta", b"standing").as_deref(), Some(&b"standing"[..]));
        assert_eq!((place("meta", b"header"), place("meta", b"format")), (None, None));
        let generation = 0x0102_u64;
        assert_eq!(place("outbox", u64::as_bytes(&generation).as_ref()), Some(generation.to_be_bytes().to_vec()));
        assert_eq!(place("tokens", &[7; 16]), Some(vec![7; 16]));
    }
}
