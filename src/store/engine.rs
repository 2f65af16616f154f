//! The engine's handle: opening, closing and opening again, and what its errors mean.
//!
//! Invariant: whatever is wrong with the file, it is refused and left as it is, never made anew.

use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, StorageError};
use tracing::warn;

use super::disk::Medium;
use super::error::{StoreError, cause, read_error};
use crate::sys::panics;

/// The open database, which the writer may close and open again under readers.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) medium: Medium,
    cache_bytes: usize,
    /// `None` while it is closed: for good, or for the moment that opening it again takes.
    db: RwLock<Option<Database>>,
}

impl Engine {
    pub(super) fn new(medium: Medium, cache_bytes: usize, db: Database) -> Self {
        Self { medium, cache_bytes, db: RwLock::new(Some(db)) }
    }

    /// The database, held open until the guard is dropped.
    pub(super) fn hold(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.db.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads in one transaction, which ends with the call: a transaction kept open pins every page freed meanwhile.
    ///
    /// The handle is not held while `read` runs, so that `read` may come back here for another. If it is closed
    /// meanwhile, to be opened again, `read` gets an error that [`was_closed`] knows.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        guarded(|| {
            let db = self.hold();
            let txn = db.as_ref().ok_or(StoreError::Stopped)?.begin_read().map_err(read_error)?;
            drop(db);
            read(&txn)
        })
    }

    /// A read transaction for who must see one moment for longer than a call.
    pub(super) fn begin(&self) -> Result<ReadTransaction, StoreError> {
        self.hold().as_ref().ok_or(StoreError::Stopped)?.begin_read().map_err(read_error)
    }

    /// Closes the database in good order, and gives the lock back.
    pub(super) fn close(&self) -> Result<(), StoreError> {
        let closed = match self.take() {
            Some(db) => db.close().map_err(|error| StoreError::NotWritten(cause(error))),
            None => Ok(()),
        };
        closed.and(self.medium.disk.unlock().map_err(|error| io_error("unlocked", error)))
    }

    /// Drops the database, as it is.
    pub(super) fn discard(&self) {
        drop(self.take());
    }

    /// Opens the database again after [`Self::discard`], the file longer or not by then.
    pub(super) fn reopen(&self) -> Result<(), StoreError> {
        let mut slot = self.db.write().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(open(&self.medium, self.cache_bytes, false)?);
        Ok(())
    }

    /// Closes and opens again with the file made longer in between: readers wait meanwhile.
    pub(super) fn extend(&self, bytes: u64) -> Result<(), StoreError> {
        let mut slot = self.db.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(error)) = slot.take().map(Database::close) {
            // What is committed is durable already; a failed sync is found by whoever asks the gauge.
            warn!("the store was not closed in good order: {error}");
        }
        // Allocated already, so this does not fail for want of space; if it fails, the file is as it was.
        if let Err(error) = self.medium.extend(bytes) {
            warn!("the store's reserve could not be used: {error}");
        }
        *slot = Some(open(&self.medium, self.cache_bytes, false)?);
        Ok(())
    }

    fn take(&self) -> Option<Database> {
        self.db.write().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Opens the database on a medium that is not empty, or makes one on a medium that is.
pub(super) fn open(medium: &Medium, cache_bytes: usize, check: bool) -> Result<Database, StoreError> {
    let backend = medium.backend().map_err(|error| io_error("opened", error))?;
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes).set_check_integrity_on_open(check).set_repair_callback(move |session| {
        if !check {
            let percent = (session.progress() * 100.0) as u32;
            warn!("the store was not closed in good order and is being walked whole: {percent} %");
        }
    });
    guarded(|| builder.create_with_backend(backend).map_err(open_error))
}

/// Damaged pages make the engine panic where it trusts them: here that is an error.
pub(super) fn guarded<T>(read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    panics::caught(read)
        .unwrap_or_else(|| Err(StoreError::Damaged { what: "the engine can't make sense of its pages".into() }))
}

/// An error of the operating system's.
pub(super) fn io_error(doing: &'static str, error: io::Error) -> StoreError {
    StoreError::Io { doing, cause: Arc::new(error) }
}

/// Whether a read came to nothing only because the engine was closed under it.
pub(super) fn was_closed(error: &StoreError) -> bool {
    matches!(error, StoreError::Read(cause) if matches!(**cause, redb::Error::DatabaseClosed))
}

/// Whether the cause is that the file system has no room for this file.
pub(super) fn is_full(error: &StoreError) -> bool {
    let (StoreError::NotWritten(cause) | StoreError::Read(cause)) = error else { return false };
    let redb::Error::Io(error) = &**cause else { return false };
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

fn open_error(error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => StoreError::AlreadyOpen,
        DatabaseError::Storage(StorageError::Corrupted(what)) => StoreError::Damaged { what: what.into() },
        DatabaseError::Storage(StorageError::Io(error)) => match error.kind() {
            io::ErrorKind::InvalidData => StoreError::NotAStore(Arc::new(redb::Error::Io(error))),
            io::ErrorKind::UnexpectedEof => StoreError::Damaged { what: "it is cut short".into() },
            _ => io_error("opened", error),
        },
        error @ DatabaseError::UpgradeRequired(_) => StoreError::NotAStore(cause(error)),
        error => StoreError::Damaged { what: error.to_string().into() },
    }
}
