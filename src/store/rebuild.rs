//! A new store out of a backup: the sealed values as they are, the indexes made again from the records.
//!
//! Invariant: it is written to a new file alone. Whether that takes the place of another is decided by whoever calls,
//! once this has returned and all of it is synced.

use redb::Database;

use super::Sealer;
use super::backup::{Backup, Input, Shown};
use super::engine::{self, guarded, io_error};
use super::error::{StoreError, cause};
use super::file::StoreFile;
use super::kept::{Kept, RawRow};
use super::record::TokenRecord;
use super::schema::{self, META_FORMAT, META_HEADER, META_STANDING, Rows, Standing, Tables};
use crate::time::Mark;
use crate::vault::BackupMac;

/// Rows that are held for one transaction.
const BATCH_ROWS: usize = 10_000;
/// Bytes of them.
const BATCH_BYTES: usize = 32 << 20;

/// Says what is to be otherwise than in the backup.
pub trait Renew {
    /// The record of a token as it is to be, if that is not as it is.
    fn change(&mut self, record: &TokenRecord) -> Option<TokenRecord>;
    /// Whether the audit record of this generation is left out.
    fn forgets(&self, generation: u64) -> bool;
    /// What the new store has that the backup has not; asked for last.
    fn finish(&mut self) -> Renewed;
}

/// What the new store has that the backup has not.
pub struct Renewed {
    /// The newest generation.
    pub generation: u64,
    /// The clock's high-water mark.
    pub mark: Option<Mark>,
    /// Audit records of what was done to make it, by generation.
    pub outbox: Vec<(u64, Vec<u8>)>,
}

/// The rows of a batch.
#[derive(Default)]
struct Batch {
    tokens: Vec<(TokenRecord, Vec<u8>)>,
    others: Vec<(&'static dyn Kept, Vec<RawRow>)>,
    rows: usize,
    bytes: usize,
}

impl StoreFile {
    /// Makes a store in a new file from a backup that [`Backup::check`] has found good, and closes it.
    ///
    /// # Errors
    /// [`StoreError::NotEmpty`] when the file is not new; [`StoreError::BadBackup`] when the backup is another one by
    /// now; those of the disk. The file is of no use then.
    pub fn rebuild(
        self,
        backup: &Backup,
        input: &mut Input,
        sealer: &dyn Sealer,
        mac: BackupMac,
        renew: &mut dyn Renew,
    ) -> Result<(), StoreError> {
        if !self.is_new() {
            return Err(StoreError::NotEmpty);
        }
        let (medium, cache_bytes) = self.into_medium();
        guarded(|| {
            let db = engine::open(&medium, cache_bytes, false)?;
            let mut batch = Batch::default();
            backup.replay(input, sealer, mac, &mut |row| {
                match row {
                    Shown::Token(record, sealed) => match renew.change(&record) {
                        Some(changed) => batch.put_token(schema::seal_record(sealer, &changed), changed),
                        None => batch.put_token(sealed.to_vec(), *record),
                    },
                    Shown::Other(row) if row.table.name() == "outbox" && forgotten(renew, row.key) => {}
                    Shown::Other(row) => batch.put(row.table, (row.key.to_vec(), row.sealed.to_vec())),
                }
                if batch.is_full() { write(&db, sealer, std::mem::take(&mut batch)) } else { Ok(()) }
            })?;
            write(&db, sealer, batch)?;
            let renewed = renew.finish();
            finish(&db, sealer, backup, &renewed)?;
            db.close().map_err(|error| StoreError::NotWritten(cause(error)))
        })?;
        // Its length and all of it, before it can get a name.
        medium.disk.sync().map_err(|error| io_error("synced", error))?;
        medium.disk.unlock().map_err(|error| io_error("unlocked", error))
    }
}

impl Batch {
    fn put_token(&mut self, sealed: Vec<u8>, record: TokenRecord) {
        self.count(sealed.len());
        self.tokens.push((record, sealed));
    }

    fn put(&mut self, table: &'static dyn Kept, row: RawRow) {
        self.count(row.0.len() + row.1.len());
        match self.others.last_mut() {
            Some((last, rows)) if last.name() == table.name() => rows.push(row),
            _ => self.others.push((table, vec![row])),
        }
    }

    fn count(&mut self, bytes: usize) {
        self.rows += 1;
        self.bytes += bytes;
    }

    fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }
}

fn forgotten(renew: &dyn Renew, key: &[u8]) -> bool {
    key.try_into().is_ok_and(|key| renew.forgets(u64::from_be_bytes(key)))
}

fn write(db: &Database, sealer: &dyn Sealer, batch: Batch) -> Result<(), StoreError> {
    let failed = |error: redb::Error| StoreError::NotWritten(cause(error));
    let mut txn = db.begin_write().map_err(|error| failed(error.into()))?;
    txn.set_quick_repair(true);
    for (table, rows) in &batch.others {
        table.put(&txn, rows)?;
    }
    let written = (|| {
        let mut tables = Tables::open(&txn)?;
        for (record, sealed) in &batch.tokens {
            tables.tokens.insert(record.id.as_bytes(), &**sealed)?;
            let rows = Rows::of(sealer, record);
            if let Some(key) = &rows.expiry {
                tables.by_expiry.insert(key, ())?;
            }
            if let Some(key) = &rows.live {
                tables.live.insert(key, ())?;
            }
            for key in &rows.index {
                tables.index(key)?;
            }
        }
        drop(tables);
        Ok(txn.commit()?)
    })();
    written.map_err(failed)
}

/// What makes it a store, last: without it the file is refused.
fn finish(db: &Database, sealer: &dyn Sealer, backup: &Backup, renewed: &Renewed) -> Result<(), StoreError> {
    let Renewed { generation, mark, .. } = *renewed;
    let header = Some(schema::digest(&backup.head().header));
    let standing = Standing { commit: 1, generation, mark, clean_stop: false, header }.seal(sealer);
    let written = (|| {
        let mut txn = db.begin_write()?;
        txn.set_quick_repair(true);
        let mut tables = Tables::open(&txn)?;
        for (generation, record) in &renewed.outbox {
            let sealed = sealer.seal("outbox", &generation.to_be_bytes(), record);
            tables.outbox.insert(*generation, &*sealed)?;
        }
        tables.meta.insert(META_FORMAT, &schema::format_bytes(schema::FORMAT)[..])?;
        tables.meta.insert(META_HEADER, &*backup.head().header)?;
        tables.meta.insert(META_STANDING, &*standing)?;
        drop(tables);
        Ok(txn.commit()?)
    })();
    written.map_err(|error: redb::Error| StoreError::NotWritten(cause(error)))
}
