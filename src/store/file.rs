//! A store file before its key is known: locked, its format checked, its header readable.
//!
//! Invariant: nothing is written to a file with a store in it before [`super::Store::open`] has accepted it. A file that
//! is refused is as it was, byte for byte.

use std::fs::File;
use std::sync::Arc;

use redb::{Database, ReadTransaction, ReadableDatabase, TableError};

use super::disk::{Disk, FileDisk, Medium};
use super::engine::{self, Engine, guarded, io_error};
use super::error::{StoreError, cause, read_error};
use super::journal;
use super::order::Order;
use super::orders;
use super::schema::{self, FORMAT, META, META_FORMAT, META_HEADER, META_SEAL, META_STANDING, Standing, Tables};
use super::{Boot, Sealer};
use crate::time::Mark;

/// How the file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// What the engine may keep of the file in memory, in bytes.
    pub cache_bytes: usize,
    /// Verify every page first: slow (the file is read whole), and the only way to find all damage.
    pub check: bool,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, check: false }
    }
}

/// A locked store file, with a store in it or new.
#[derive(Debug)]
pub struct StoreFile {
    medium: Medium,
    options: FileOptions,
    /// The open engine and the header; `None` when there is nothing in the file yet.
    open: Option<(Database, Clear)>,
}

impl StoreFile {
    /// Locks and opens a file whose path, owner and mode the caller has checked.
    ///
    /// # Errors
    /// As [`Self::on`].
    pub fn from_file(file: File, options: FileOptions) -> Result<Self, StoreError> {
        Self::on(Arc::new(FileDisk::new(file)), options)
    }

    /// Locks and opens what lies on `disk`. Nothing at all on it is new; anything else must be a whole store.
    ///
    /// # Errors
    /// [`StoreError::AlreadyOpen`], [`StoreError::NotAStore`], [`StoreError::Unfinished`], [`StoreError::NewerFormat`],
    /// [`StoreError::Damaged`], [`StoreError::Io`]: the file is as it was.
    pub fn on(disk: Arc<dyn Disk>, options: FileOptions) -> Result<Self, StoreError> {
        if !disk.try_lock().map_err(|error| io_error("locked", error))? {
            return Err(StoreError::AlreadyOpen);
        }
        let len = disk.len().map_err(|error| io_error("read", error))?;
        if len == 0 {
            return Ok(Self { medium: Medium::new(disk), options, open: None });
        }
        // Opening the engine writes, and so does closing it: not before the store is accepted.
        let medium = Medium::staged(disk);
        let db = engine::open(&medium, options.cache_bytes, options.check)?;
        let clear = guarded(|| read_clear(&db))?;
        Ok(Self { medium, options, open: Some((db, clear)) })
    }

    /// Whether there is nothing in the file yet.
    pub fn is_new(&self) -> bool {
        self.open.is_none()
    }

    /// What [`super::Store::create`] was given to keep in clear.
    pub fn header(&self) -> Option<&[u8]> {
        self.open.as_ref().map(|(_, clear)| clear.header.as_slice())
    }

    /// What the last run left behind; reads only. For what must be known before the store begins to write: the clock's
    /// mark, and whether the store is older than the audit log.
    ///
    /// # Errors
    /// [`StoreError::Empty`] for a new file; [`StoreError::Broken`] with the wrong key; as reading.
    pub fn boot(&self, sealer: &dyn Sealer) -> Result<Boot, StoreError> {
        let (db, _) = self.open.as_ref().ok_or(StoreError::Empty)?;
        guarded(|| Self::read_boot(db, sealer))
    }

    /// The open engine.
    pub(super) fn database(&self) -> Result<&Database, StoreError> {
        self.open.as_ref().map(|(db, _)| db).ok_or(StoreError::Empty)
    }

    /// What a new file lies on.
    pub(super) fn into_medium(self) -> (Medium, usize) {
        (self.medium, self.options.cache_bytes)
    }

    fn read_boot(db: &Database, sealer: &dyn Sealer) -> Result<Boot, StoreError> {
        let txn = db.begin_read().map_err(read_error)?;
        let standing = read_standing(&txn, sealer)?;
        let meta = txn.open_table(META).map_err(read_error)?;
        let seal = schema::open_meta(&meta, sealer, META_SEAL)?;
        let outbox = journal::untold(&txn, sealer)?;
        let Standing { generation, mark, clean_stop, .. } = standing;
        Ok(Boot { generation, mark, seal, outbox, clean_stop })
    }

    /// Makes the tables in a new file, with the first commit.
    pub(super) fn create(self, header: &[u8], sealer: &dyn Sealer, mark: Mark) -> Result<(Engine, Found), StoreError> {
        if self.open.is_some() {
            return Err(StoreError::NotEmpty);
        }
        let db = engine::open(&self.medium, self.options.cache_bytes, false)?;
        let standing = Standing {
            commit: 1,
            generation: 0,
            mark: Some(mark),
            clean_stop: false,
            header: Some(schema::digest(header)),
        };
        let written = (|| {
            let mut txn = db.begin_write()?;
            txn.set_quick_repair(true);
            let mut tables = Tables::open(&txn)?;
            tables.meta.insert(META_FORMAT, &schema::format_bytes(FORMAT)[..])?;
            tables.meta.insert(META_HEADER, header)?;
            tables.meta.insert(META_STANDING, &*standing.seal(sealer))?;
            drop(tables);
            txn.commit()?;
            Ok(())
        })();
        written.map_err(|error: redb::Error| StoreError::NotWritten(Arc::new(error)))?;
        let found = Found { format: FORMAT, standing, orders: Vec::new() };
        Ok((Engine::new(self.medium, self.options.cache_bytes, db), found))
    }

    /// The engine of a file that has a store.
    pub(super) fn into_engine(self, sealer: &dyn Sealer) -> Result<(Engine, Found), StoreError> {
        let (db, clear) = self.open.ok_or(StoreError::Empty)?;
        let found = guarded(|| {
            let txn = db.begin_read().map_err(read_error)?;
            let (standing, orders) = (read_standing(&txn, sealer)?, orders::stored(&txn, sealer)?);
            Ok(Found { format: clear.format, standing, orders })
        })?;
        self.medium.release().map_err(|error| io_error("written", error))?;
        Ok((Engine::new(self.medium, self.options.cache_bytes, db), found))
    }
}

/// What is readable without the key.
#[derive(Debug)]
struct Clear {
    format: u16,
    header: Vec<u8>,
}

/// What a store begins with.
pub(super) struct Found {
    /// The format that all of it has.
    pub(super) format: u16,
    pub(super) standing: Standing,
    /// Those that not all records bear.
    pub(super) orders: Vec<Order>,
}

/// What the last commit left; the header is the one that it left too.
pub(super) fn read_standing(txn: &ReadTransaction, sealer: &dyn Sealer) -> Result<Standing, StoreError> {
    let meta = txn.open_table(META).map_err(read_error)?;
    let missing = |what: &str| StoreError::Damaged { what: format!("its {what} is missing").into() };
    let header = meta.get(META_HEADER).map_err(read_error)?.ok_or_else(|| missing("header"))?;
    let standing = meta.get(META_STANDING).map_err(read_error)?.ok_or_else(|| missing("generation"))?;
    Standing::open(sealer, standing.value(), header.value())
}

/// Checks the format and reads the header.
fn read_clear(db: &Database) -> Result<Clear, StoreError> {
    let txn = db.begin_read().map_err(read_error)?;
    let meta = match txn.open_table(META) {
        Ok(meta) => meta,
        // All tables are made by the first commit: without them there never was one.
        Err(TableError::TableDoesNotExist(_)) if txn.list_tables().map_err(read_error)?.next().is_none() => {
            return Err(StoreError::Unfinished);
        }
        Err(TableError::Storage(error)) => return Err(read_error(error)),
        // A database of something else's.
        Err(error) => return Err(StoreError::NotAStore(cause(error))),
    };
    let value = |name| meta.get(name).map_err(read_error).map(|value| value.map(|value| value.value().to_vec()));
    let missing = |what: &str| StoreError::Damaged { what: format!("its {what} is missing").into() };
    let format = schema::check_format(&value(META_FORMAT)?.ok_or_else(|| missing("format version"))?)?;
    Ok(Clear { format, header: value(META_HEADER)?.ok_or_else(|| missing("header"))? })
}
