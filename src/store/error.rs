//! What can go wrong in the store, and what each one means for the state on disk.
//!
//! Invariant: every error says whether a change may have been written. [`StoreError::NotWritten`] is only given when it
//! certainly was not; after [`StoreError::SyncFailed`] nobody knows before the next start has read the disk.

use std::io;
use std::sync::Arc;

/// The engine's own error, shared by all the jobs of one batch.
pub type Cause = Arc<redb::Error>;

/// Why the store refuses or fails. Cheap to clone: one failure answers a whole batch.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process holds the lock. Stop it, or use its socket.
    #[error("the store is in use by another bearerd: stop that one first, or talk to its socket")]
    AlreadyOpen,
    /// The file has no bytes but a store was expected. Never made into a new one on its own.
    #[error(
        "the store is an empty file: restore it from a backup; or, to begin anew with no tokens, move it and its audit log away"
    )]
    Empty,
    /// Asked to create a store in a file that holds something.
    #[error("there is a store already: it is never overwritten; move it away to begin with a new one")]
    NotEmpty,
    /// Its creation was cut off before the first commit: it never held a token.
    #[error(
        "the store was never finished: its creation was cut off and it holds nothing; move it away, and its audit log if there is one"
    )]
    Unfinished,
    /// The file is no store at all.
    #[error("the store is not a bearerd store: restore the right file from a backup; it was not changed")]
    NotAStore(#[source] Cause),
    /// Written by a later version with something that this one can't honour.
    #[error(
        "the store has format {found}, which needs bearerd with format {needed} or later; this one reads up to {known}: install the newer version"
    )]
    NewerFormat {
        /// The format of the file.
        found: u16,
        /// The oldest format that a reader of it must know.
        needed: u16,
        /// The newest format that this version knows.
        known: u16,
    },
    /// The file is damaged, or what is in it contradicts itself. It is left as it is.
    #[error("the store is damaged ({what}): restore it from a backup; it was not changed")]
    Damaged {
        /// What was found, and where.
        what: Arc<str>,
    },
    /// A value does not open with this key: moved, changed, or sealed under another key.
    #[error(
        "a value in table {table:?} of the store does not open with this key: it was changed or moved, or belongs to another key; restore the store from a backup"
    )]
    Broken {
        /// The table of the value.
        table: &'static str,
    },
    /// The key header, which lies in clear, is not the one of the last commit: it was changed, or is an older one.
    #[error(
        "the key header of the store is not the one of its last commit: somebody changed it, or put an older one back; restore the store from a backup"
    )]
    HeaderChanged,
    /// A backup that is not whole, not ours, or not as it was made. Nothing was changed; take another one.
    #[error("the backup {what}; nothing was changed")]
    BadBackup {
        /// What is wrong, as the end of a sentence.
        what: Arc<str>,
    },
    /// The file of a backup can't be read.
    #[error("the backup can't be read")]
    BackupUnread(#[source] Arc<io::Error>),
    /// The file can't be read or prepared, for a reason of the operating system's.
    #[error("the store can't be {doing}")]
    Io {
        /// What was tried: "locked", "read" and so on.
        doing: &'static str,
        /// What the operating system said.
        #[source]
        cause: Arc<io::Error>,
    },
    /// A read failed. The store is opened again by itself; ask again.
    #[error("the store can't be read")]
    Read(#[source] Cause),
    /// The commit is known not to have been written (no space, an I/O error before the sync). Nothing changed; ask again.
    #[error("the change was not written to the store, and nothing changed")]
    NotWritten(#[source] Cause),
    /// New tokens are refused because the disk is full: the room that is left is kept for revocations.
    #[error("the disk of the store is full: no new tokens until there is room; revocations still go through")]
    NoRoom,
    /// So many orders over many tokens are being written into the records that no more is taken. Nothing changed; ask again.
    #[error(
        "too many orders over many tokens are still being written into the tokens' records, and nothing changed: try again in a moment"
    )]
    TooManyOrders,
    /// A token with this id exists; an id is never given twice.
    #[error("a token with this id exists")]
    Exists,
    /// The sync of this change failed: whether it is on disk is known at the next start. The daemon exits.
    #[error(
        "the disk failed to confirm the change: the state is what the disk holds, and is read again at the next start"
    )]
    SyncFailed,
    /// The job panicked. It wrote nothing, and the rest of its batch was not touched.
    #[error("an internal error: the change was abandoned, and nothing changed")]
    JobPanicked,
    /// The store has stopped for good after a fault.
    #[error("the store has stopped: {0}")]
    Fatal(Fault),
    /// The store was stopped in good order.
    #[error("the store is closed")]
    Stopped,
}

/// Why the store has stopped for good. The daemon exits (74) and the next start recovers from what the disk holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A sync failed. It is never tried again: the kernel may have dropped the pages and marked them clean.
    #[error("the disk failed to confirm a write")]
    SyncFailed,
    /// After a failed commit the file could not be opened again.
    #[error("the store could not be opened again after a failed write: {0}")]
    Reopen(Arc<str>),
    /// The engine or the writer panicked, as it does over damaged pages.
    #[error("the store's writer failed: {0}")]
    Writer(Arc<str>),
}

/// Wraps any of the engine's errors.
pub(super) fn cause(error: impl Into<redb::Error>) -> Cause {
    Arc::new(error.into())
}

/// A failed read in a table or transaction.
pub(super) fn read_error(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(what) => StoreError::Damaged { what: what.into() },
        error => StoreError::Read(Arc::new(error)),
    }
}
