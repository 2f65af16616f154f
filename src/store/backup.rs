//! Backups: one moment of the store as a stream of bytes, and that stream read back.
//!
//! ```text
//! "bearerd-backup-1\n" | head length u32 LE | head | rows | ff | rows u64 LE | MAC 32
//! row: table u8 | key length u32 LE | key | value length u32 LE | sealed value
//! MAC: BLAKE3 keyed_hash(backup key, all bytes before it)
//! ```
//!
//! Invariants: values go out sealed, as they are; nothing of what was read is to be relied on before the MAC at the end
//! was right. The stream is of one commit, whatever is written meanwhile. Layout: `docs/file-format.md`.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use redb::{ReadTransaction, ReadableDatabase};
use serde::{Deserialize, Serialize};

use super::engine::guarded;
use super::error::{StoreError, read_error};
use super::file::{StoreFile, read_standing};
use super::kept::{self, KEPT, Kept};
use super::record::TokenRecord;
use super::schema::{self, META, META_HEADER, META_SEAL, META_STANDING, Standing};
use super::versions::Stored;
use super::{Boot, Sealer, Store};
use crate::codec;
use crate::time::UnixTime;
use crate::vault::BackupMac;

/// What a backup begins with; the version is in it.
pub const MAGIC: &[u8; 17] = b"bearerd-backup-1\n";
/// What one of any version begins with.
const MAGIC_ANY: &[u8] = b"bearerd-backup-";
/// Stands where the number of a table would, behind the last row.
const END: u8 = 0xff;
/// In the table `meta`, where audit records are kept longer than audit.log needs: up to which generation it has all.
const META_TOLD: &[u8] = b"told";
/// Bytes of a MAC.
const MAC_BYTES: usize = 32;
/// Longest head: the key header and the names of the tables.
const HEAD_MAX: usize = 1 << 20;
/// Longest key of a row.
const KEY_MAX: usize = 4096;
/// Longest value of a row.
const VALUE_MAX: usize = 16 << 20;

/// What stands before the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The store's format.
    format: u16,
    /// The oldest format that a reader must know.
    min_reader: u16,
    /// When the backup was begun.
    pub made_at: UnixTime,
    /// The newest generation in it.
    pub generation: u64,
    /// What the store keeps in clear: the key slots.
    pub header: Vec<u8>,
    /// Name and number of rows of each table; rows have its place in this list.
    tables: Vec<(String, u64)>,
}

/// The formats of the head. One that is not here is refused.
#[derive(Serialize, Deserialize)]
enum Versioned<T> {
    V1(T),
}

/// One moment of the store on its way out. While it is held, pages that are freed meanwhile stay taken.
pub struct Snapshot {
    txn: ReadTransaction,
    mac: BackupMac,
    /// The table that comes next, and the last key of it that went out.
    at: (usize, Option<Vec<u8>>),
    /// Magic and head, until they have gone out.
    begin: Vec<u8>,
    generation: u64,
    rows: u64,
    total: u64,
    ended: bool,
}

impl Snapshot {
    fn of(txn: ReadTransaction, sealer: &dyn Sealer, mac: BackupMac, made_at: UnixTime) -> Result<Self, StoreError> {
        let Standing { generation, .. } = read_standing(&txn, sealer)?;
        let header = txn.open_table(META).map_err(read_error)?.get(META_HEADER).map_err(read_error)?;
        let header = header.ok_or_else(|| StoreError::Damaged { what: "its header is missing".into() })?;
        let tables = KEPT.iter().map(|kept| Ok((kept.name().to_owned(), kept.count(&txn)?)));
        let tables = tables.collect::<Result<Vec<_>, StoreError>>()?;
        let total = tables.iter().map(|(_, rows)| rows).sum();
        let header = header.value().to_vec();
        let (format, min_reader) = (schema::FORMAT, schema::MIN_READER);
        let head = codec::encode(&Versioned::V1(Head { format, min_reader, made_at, generation, header, tables }));
        let begin = [&MAGIC[..], &length(&head), &head].concat();
        Ok(Self { txn, mac, at: (0, None), begin, generation, rows: 0, total, ended: false })
    }

    /// The next piece, of about so many bytes; `None` behind the last.
    ///
    /// # Errors
    /// [`StoreError::Read`], also when the store was opened again meanwhile: begin anew. [`StoreError::Damaged`].
    pub fn piece(&mut self, bytes: usize) -> Result<Option<Vec<u8>>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        guarded(|| self.read(bytes)).map(Some)
    }

    fn read(&mut self, bytes: usize) -> Result<Vec<u8>, StoreError> {
        let mut out = std::mem::take(&mut self.begin);
        while let Some(kept) = KEPT.get(self.at.0) {
            let (number, mut last, mut rows) = (self.at.0 as u8, self.at.1.take(), self.rows);
            let after = last.clone();
            kept.walk(&self.txn, after.as_deref(), &mut |key, value| {
                out.push(number);
                for part in [key, value] {
                    out.extend_from_slice(&length(part));
                    out.extend_from_slice(part);
                }
                last = Some(key.to_vec());
                rows += 1;
                Ok(out.len() < bytes)
            })?;
            self.rows = rows;
            if out.len() >= bytes {
                self.at.1 = last;
                self.mac.update(&out);
                return Ok(out);
            }
            self.at = (self.at.0 + 1, None);
        }
        out.push(END);
        out.extend_from_slice(&self.rows.to_le_bytes());
        self.mac.update(&out);
        out.extend_from_slice(self.mac.finish().as_bytes());
        self.ended = true;
        Ok(out)
    }

    /// Whether all of it has gone out.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// The newest generation in it.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Rows that have gone out, and rows in all.
    pub fn rows(&self) -> (u64, u64) {
        (self.rows, self.total)
    }
}

impl Store {
    /// This moment, for a backup. Reads the disk: for a thread that may block.
    ///
    /// # Errors
    /// As [`Self::lookup`].
    pub fn snapshot(&self, mac: BackupMac) -> Result<Snapshot, StoreError> {
        let shared = &self.shared;
        let made_at = shared.clock.now();
        guarded(|| Snapshot::of(shared.engine.begin()?, &*shared.sealer, mac, made_at))
    }
}

impl StoreFile {
    /// The moment that lies in the file, which stays as it is.
    ///
    /// # Errors
    /// [`StoreError::Empty`] for a new file; [`StoreError::Broken`] with the wrong key; as reading.
    pub fn snapshot(&self, sealer: &dyn Sealer, mac: BackupMac) -> Result<Snapshot, StoreError> {
        guarded(|| {
            let txn = self.database()?.begin_read().map_err(read_error)?;
            // When it was last written to is what it knows of when it was made.
            let made_at = read_standing(&txn, sealer)?.mark.map_or(UnixTime::EPOCH, |mark| mark.time);
            Snapshot::of(txn, sealer, mac, made_at)
        })
    }
}

/// Where a backup is read from: a file, or a whole store that is taken for one.
pub enum Input {
    /// A backup.
    File(BufReader<File>),
    /// A store.
    Store(Box<Snapshot>, io::Cursor<Vec<u8>>),
}

impl Input {
    /// Reads the backup in `file`.
    pub fn file(file: File) -> Self {
        Self::File(BufReader::with_capacity(1 << 20, file))
    }

    /// Takes a store for one.
    pub fn store(snapshot: Snapshot) -> Self {
        Self::Store(Box::new(snapshot), io::Cursor::default())
    }

    fn some(&mut self, into: &mut [u8]) -> Result<usize, StoreError> {
        loop {
            let read = match self {
                Self::File(file) => file.read(into),
                Self::Store(snapshot, piece) => {
                    while piece.position() >= piece.get_ref().len() as u64
                        && let Some(next) = snapshot.piece(1 << 20)?
                    {
                        *piece = io::Cursor::new(next);
                    }
                    piece.read(into)
                }
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(|error| StoreError::BackupUnread(Arc::new(error))),
            }
        }
    }

    fn exact(&mut self, into: &mut [u8]) -> Result<(), StoreError> {
        let mut at = 0;
        while at < into.len() {
            match self.some(&mut into[at..])? {
                0 => return Err(bad("is cut short")),
                read => at += read,
            }
        }
        Ok(())
    }
}

/// A backup whose head has been read; nothing in it is known to be true yet.
pub struct Backup {
    head: Head,
    tables: Vec<&'static dyn Kept>,
    /// Everything so far, for the MAC.
    begin: Vec<u8>,
}

/// A row, as it lies in the backup.
pub(super) struct Row<'a> {
    pub(super) table: &'static dyn Kept,
    pub(super) key: &'a [u8],
    pub(super) sealed: &'a [u8],
}

/// A row on its way into a new store.
pub(super) enum Shown<'a> {
    /// A token's, with its sealed value.
    Token(Box<TokenRecord>, &'a [u8]),
    /// Another, to be put as it is.
    Other(Row<'a>),
}

impl Backup {
    /// Reads the head.
    ///
    /// # Errors
    /// [`StoreError::BadBackup`], [`StoreError::NewerFormat`], [`StoreError::BackupUnread`].
    pub fn begin(input: &mut Input) -> Result<Self, StoreError> {
        let mut begin = vec![0; MAGIC.len() + 4];
        input.exact(&mut begin).map_err(|error| match error {
            StoreError::BadBackup { .. } => bad("is no backup of bearerd, nor a store"),
            error => error,
        })?;
        let (magic, bytes) = begin.split_at(MAGIC.len());
        if magic != MAGIC {
            let ours = magic.starts_with(MAGIC_ANY);
            return Err(bad(if ours {
                "is of a version that this bearerd does not know: install the version that made it, or a newer one"
            } else {
                "is no backup of bearerd, nor a store"
            }));
        }
        let bytes = parse_length(bytes, HEAD_MAX)?;
        begin.resize(MAGIC.len() + 4 + bytes, 0);
        input.exact(&mut begin[MAGIC.len() + 4..])?;
        let head = codec::decode::<Versioned<Head>>(&begin[MAGIC.len() + 4..]);
        let Versioned::V1(head) = head.map_err(|_| bad("has a head that does not decode"))?;
        let ([a, b], [c, d]) = (head.format.to_le_bytes(), head.min_reader.to_le_bytes());
        schema::check_format(&[a, b, c, d])?;
        let known = |(name, _): &(String, u64)| {
            kept::named(name).ok_or_else(|| {
                bad("has a table that this bearerd does not know: install the version that made it, or a newer one")
            })
        };
        let tables = head.tables.iter().map(known).collect::<Result<Vec<_>, _>>()?;
        let names = head.tables.iter().map(|(name, _)| name);
        if tables.len() >= usize::from(END) || names.collect::<std::collections::BTreeSet<_>>().len() < tables.len() {
            return Err(bad("lists its tables wrongly"));
        }
        Ok(Self { head, tables, begin })
    }

    /// What stands before the rows.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Reads it whole: each value opens in its place and decodes, the rows are all there, nothing follows, and the MAC
    /// is right. `token` sees each record; it is not to be relied on before this has returned.
    ///
    /// # Errors
    /// [`StoreError::BadBackup`] says what is wrong; [`StoreError::BackupUnread`].
    pub fn check(
        &self,
        input: &mut Input,
        sealer: &dyn Sealer,
        mac: BackupMac,
        token: &mut dyn FnMut(TokenRecord),
    ) -> Result<Boot, StoreError> {
        let (mut standing, mut seal, mut told, mut outbox) = (None, None, 0, Vec::new());
        self.rows(input, mac, &mut |row| {
            let plain = open(sealer, &row)?;
            match row.table.name() {
                "tokens" => token(self.record(&row, &plain)?),
                "meta" if row.key == META_STANDING.as_bytes() => standing = Standing::decode(&plain).ok(),
                "meta" if row.key == META_SEAL.as_bytes() => seal = <Vec<u8>>::decode(&plain).ok(),
                "meta" if row.key == META_TOLD => told = told_through(&plain),
                "outbox" => {
                    let generation = row.key.try_into().map_err(|_| bad("has a row with a wrong key"))?;
                    outbox.push((u64::from_be_bytes(generation), plain.to_vec()));
                }
                _ => {}
            }
            Ok(())
        })?;
        let Standing { generation, mark, clean_stop, .. } =
            standing.ok_or_else(|| bad("has no generation among its rows"))?;
        if generation != self.head.generation {
            return Err(bad("says another generation than its rows"));
        }
        outbox.retain(|(generation, _)| *generation > told);
        Ok(Boot { generation, mark, seal, outbox, clean_stop })
    }

    /// Goes through the rows once more.
    pub(super) fn replay(
        &self,
        input: &mut Input,
        sealer: &dyn Sealer,
        mac: BackupMac,
        each: &mut dyn FnMut(Shown<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.rows(input, mac, &mut |row| match row.table.name() {
            "tokens" => {
                let record = self.record(&row, &open(sealer, &row)?)?;
                each(Shown::Token(Box::new(record), row.sealed))
            }
            "meta" if row.key == META_STANDING.as_bytes() => Ok(()),
            _ => each(Shown::Other(row)),
        })
    }

    fn record(&self, row: &Row<'_>, plain: &[u8]) -> Result<TokenRecord, StoreError> {
        let record = TokenRecord::decode(plain).map_err(|_| bad("has a record that does not decode"))?;
        if record.id.as_bytes() != row.key {
            return Err(bad("has a record under another token's id"));
        }
        Ok(record)
    }

    fn rows(
        &self,
        input: &mut Input,
        mut mac: BackupMac,
        each: &mut dyn FnMut(Row<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        mac.update(&self.begin);
        let mut counted = vec![0u64; self.tables.len()];
        let mut last: Option<(u8, Vec<u8>)> = None;
        let (mut key, mut sealed) = (Vec::new(), Vec::new());
        loop {
            let mut number = [0];
            input.exact(&mut number)?;
            mac.update(&number);
            if number == [END] {
                break;
            }
            let table = self.tables.get(usize::from(number[0])).ok_or_else(|| bad("has a row of no table"))?;
            take(input, &mut mac, &mut key, KEY_MAX)?;
            take(input, &mut mac, &mut sealed, VALUE_MAX)?;
            if last.as_ref().is_some_and(|last| (last.0, &last.1) >= (number[0], &key)) {
                return Err(bad("has rows out of order"));
            }
            counted[usize::from(number[0])] += 1;
            each(Row { table: *table, key: &key, sealed: &sealed })?;
            last = Some((number[0], key.clone()));
        }
        let mut count = [0; 8];
        input.exact(&mut count)?;
        mac.update(&count);
        let right = mac.finish();
        let mut stated = [0; MAC_BYTES];
        input.exact(&mut stated)?;
        if right != stated {
            return Err(bad("is not as it was made: its MAC is wrong"));
        }
        let all = counted.iter().sum::<u64>() == u64::from_le_bytes(count);
        if !all || counted.iter().zip(&self.head.tables).any(|(counted, (_, stated))| counted != stated) {
            return Err(bad("has another number of rows than it says"));
        }
        match input.some(&mut [0])? {
            0 => Ok(()),
            _ => Err(bad("has bytes behind its end")),
        }
    }
}

fn open(sealer: &dyn Sealer, row: &Row<'_>) -> Result<zeroize::Zeroizing<Vec<u8>>, StoreError> {
    let name = row.table.name();
    let plain = sealer.open(name, row.key, row.sealed);
    let plain = plain.map_err(|_| bad(&format!("has a value in table {name:?} that does not open with its key")))?;
    if row.table.sound(row.key, &plain) {
        Ok(plain)
    } else {
        Err(bad(&format!("has a value in table {name:?} that does not decode, or a newer version wrote it")))
    }
}

fn told_through(plain: &[u8]) -> u64 {
    codec::decode::<Versioned<u64>>(plain).map_or(0, |Versioned::V1(told)| told)
}

fn take(input: &mut Input, mac: &mut BackupMac, into: &mut Vec<u8>, max: usize) -> Result<(), StoreError> {
    let mut bytes = [0; 4];
    input.exact(&mut bytes)?;
    mac.update(&bytes);
    into.clear();
    into.resize(parse_length(&bytes, max)?, 0);
    input.exact(into)?;
    mac.update(into);
    Ok(())
}

fn parse_length(bytes: &[u8], max: usize) -> Result<usize, StoreError> {
    let length = bytes.try_into().map_or(u32::MAX, u32::from_le_bytes) as usize;
    if length > max { Err(bad("has a length that can't be")) } else { Ok(length) }
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("keys and values are far below 4 GiB").to_le_bytes()
}

fn bad(what: &str) -> StoreError {
    StoreError::BadBackup { what: what.into() }
}
