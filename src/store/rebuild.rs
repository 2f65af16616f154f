//! A new store out of a backup: the sealed values as they are, the indexes made again from the records.
//!
//! Invariant: it is written to a new file alone. Whether that takes the place of another is decided by whoever calls,
//! once this has returned and all of it is synced.

use std::cell::RefCell;

use redb::Database;

use super::Sealer;
use super::backup::{Backup, Input};
use super::engine::{self, guarded, io_error};
use super::error::{StoreError, cause};
use super::file::StoreFile;
use super::kept::Kept;
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
    others: Vec<(&'static dyn Kept, Vec<(Vec<u8>, Vec<u8>)>)>,
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
            let renew = RefCell::new(renew);
            let batch = RefCell::new(Batch::default());
            let write_when_full = || {
                let mut batch = batch.borrow_mut();
                if batch.rows >= BATCH_ROWS || batch.bytes >= BATCH_BYTES {
                    write(&db, sealer, std::mem::take(&mut *batch))?;
                }
                Ok(())
            };
            let mut token = |record: TokenRecord, sealed: &[u8]| {
                let (record, sealed) = match renew.borrow_mut().change(&record) {
                    Some(changed) => {
                        let sealed = schema::seal_record(sealer, &changed);
                        (changed, sealed)
                    }
                    None => (record, sealed.to_vec()),
                };
                let bytes = sealed.len();
                batch.borrow_mut().tokens.push((record, sealed));
                batch.borrow_mut().count(bytes);
                write_when_full()
            };
            let mut other = |table: &'static dyn Kept, key: &[u8], sealed: &[u8]| {
                let forgotten = |key: [u8; 8]| renew.borrow().forgets(u64::from_be_bytes(key));
                if table.name() != "outbox" || !key.try_into().is_ok_and(forgotten) {
                    batch.borrow_mut().put(table, key.to_vec(), sealed.to_vec());
                }
                write_when_full()
            };
            backup.replay(input, sealer, mac, &mut token, &mut other)?;
            write(&db, sealer, batch.take())?;
            let renewed = renew.borrow_mut().finish();
            finish(&db, sealer, backup, &renewed)?;
            db.close().map_err(|error| StoreError::NotWritten(cause(error)))
        })?;
        // Its length and all of it, before it can get a name.
        medium.disk.sync().map_err(|error| io_error("synced", error))?;
        medium.disk.unlock().map_err(|error| io_error("unlocked", error))
    }
}

impl Batch {
    fn put(&mut self, table: &'static dyn Kept, key: Vec<u8>, sealed: Vec<u8>) {
        self.count(key.len() + sealed.len());
        match self.others.last_mut() {
            Some((last, rows)) if last.name() == table.name() => rows.push((key, sealed)),
            _ => self.others.push((table, vec![(key, sealed)])),
        }
    }

    fn count(&mut self, bytes: usize) {
        self.rows += 1;
        self.bytes += bytes;
    }
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
                tables.index.insert(key, ())?;
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
        tables.meta.insert(META_FORMAT, &schema::format_bytes()[..])?;
        tables.meta.insert(META_HEADER, &*backup.head().header)?;
        tables.meta.insert(META_STANDING, &*standing)?;
        drop(tables);
        Ok(txn.commit()?)
    })();
    written.map_err(|error: redb::Error| StoreError::NotWritten(cause(error)))
}
