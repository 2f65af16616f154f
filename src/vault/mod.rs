#![forbid(unsafe_code)]
//! Keys: where the daemon's key comes from, what is derived from it, and the sealing of what the store keeps.
//!
//! A random *root key* is wrapped in *key slots*, as in LUKS, so that the source that opens it can change without
//! touching the data ([`KeySource`], [`KeyHeader`]). Digest, audit and index keys are derived from it; *record keys*
//! are random, numbered by an epoch and wrapped by it ([`Keyring`]).
//!
//! ```text
//! source key (credential, key file) ─ slot key ─┐
//!                                    root key ◄─┘ wrapped in a slot
//!                                       ├── digest key      what is stored of a token's secret
//!                                       ├── audit key       the chain of audit.log
//!                                       ├── index key       blinded index keys of the store
//!                                       ├── backup key      the MAC over a whole backup
//!                                       └── wrapping key ─► record keys 1, 2, …   every value of the store
//! ```
//!
//! Invariants: a source that opens no slot is a refusal, never a new key; one key has one purpose (`derive`); no key is
//! outside locked memory but for the time of one computation (I3). Layouts: `docs/file-format.md`.

mod aead;
mod backup;
mod derive;
mod header;
mod keyring;
mod master;
pub mod recovery;
mod slots;

use std::io;
use std::path::PathBuf;

use crate::sys::files::FileError;

pub use backup::BackupMac;
pub use header::{KeyHeader, KeyId, KeySlot, SlotKind, WrappedKey, WrappedRecordKey};
pub use keyring::{Keyring, SlotInfo};
pub use master::{CREDENTIAL, KeySource};
pub use slots::NewRecordKey;

/// Why keys or sealed values can't be used. None of these is repaired: the daemon refuses to start (exit 78), or the
/// value counts as damaged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// There is neither a credential nor a key file, but a store that needs one. Put the key back.
    #[error(
        "there is no key: neither the systemd credential {CREDENTIAL} nor {}; the store opens only with its own key, so put that back from where you keep a copy, or make a new one from the recovery key: bearerd recover",
        .file.display()
    )]
    NoSource {
        /// The configured key file.
        file: PathBuf,
    },
    /// The key is not the one line that it must be. Put the file back from a copy.
    #[error(
        "{origin} is not a key: it must be the one line `bearerd-key-1 <id, 16 hex digits> <key, 64 hex digits>`, in lower case; restore it from a copy"
    )]
    Malformed {
        /// The file or credential.
        origin: String,
    },
    /// The line begins as a key of a version that this program does not know. Use a newer bearerd.
    #[error(
        "{origin} is a key of a version that this bearerd does not know: install the version that wrote it, or a newer one"
    )]
    UnknownKeyVersion {
        /// The file or credential.
        origin: String,
    },
    /// The key does not have the id that stands beside it: mistyped, or cut and pasted from two.
    #[error(
        "{origin} says that it is key {stated}, but its digits are those of key {found}: it was mistyped or mixed up; restore it from a copy"
    )]
    WrongKeyId {
        /// The file or credential.
        origin: String,
        /// The id in the line.
        stated: KeyId,
        /// The id of the key in the line.
        found: KeyId,
    },
    /// A key file or its directory is missing, foreign, or open to others.
    #[error(transparent)]
    File(#[from] FileError),
    /// No memory for a key.
    #[error("no memory for a key: {0}")]
    Memory(#[from] io::Error),
    /// No slot of the store is for this key: it is the key of another store, or its slot was dropped by a rekey.
    #[error(
        "key {source_id} from {origin} opens no slot of this store, whose slots are for {}: install that key, or the store that belongs to this one",
        list(.slots)
    )]
    NoSlotOpens {
        /// The key that was tried.
        source_id: KeyId,
        /// Where it is from.
        origin: String,
        /// The keys that the store has slots for.
        slots: Vec<KeyId>,
    },
    /// The slot is for this very key, but does not open: its bytes were changed.
    #[error(
        "the slot of key {id} does not open with that key: the store's key header is damaged; restore the store from a backup"
    )]
    SlotDamaged {
        /// The slot.
        id: KeyId,
    },
    /// A record key does not open: its bytes were changed.
    #[error("record key {epoch} does not open: the store's key header is damaged; restore the store from a backup")]
    RecordKeyDamaged {
        /// Its number.
        epoch: u32,
    },
    /// The key header does not decode, or contradicts itself.
    #[error("the store's key header is damaged ({problem}): restore the store from a backup")]
    HeaderMalformed {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The key header was written by a newer version.
    #[error(
        "the store's key header has format {format}, this bearerd knows formats 1 and 2: install the version that wrote it, or a newer one"
    )]
    UnknownHeaderVersion {
        /// Its format.
        format: u32,
    },
    /// What was typed has not as many groups as a recovery key.
    #[error(
        "that is no recovery key: it has {found} groups, and a recovery key has {}, each of 6 characters: type all of it",
        recovery::GROUPS
    )]
    RecoveryGroups {
        /// How many there are.
        found: usize,
    },
    /// A group of a recovery key is mistyped.
    #[error("group {group} of the recovery key is mistyped (counted from 1): compare it with what you wrote down")]
    RecoveryGroup {
        /// Which, from 1.
        group: usize,
    },
    /// Each group could be right, all together are not.
    #[error(
        "the recovery key is mistyped, or put together from two: compare each group with what you wrote down; if all are right, a newer version of bearerd printed it"
    )]
    RecoveryCheck,
    /// A sealed value does not open: changed, moved from another place or store, or sealed with another key.
    #[error(
        "the value at {key} in table {table} does not open: it was changed, or moved from another place or store; restore the store from a backup"
    )]
    DoesNotOpen {
        /// The table it was read from.
        table: String,
        /// Its key there, in hex.
        key: String,
    },
    /// A value was sealed by a newer version.
    #[error(
        "a value of table {table} is sealed in format {format}, this bearerd knows format 1: install the version that wrote it, or a newer one"
    )]
    UnknownVersion {
        /// The table it was read from.
        table: String,
        /// Its format.
        format: u8,
    },
    /// A value was sealed under a record key that the header does not have.
    #[error(
        "a value of table {table} is sealed under record key {epoch}, which this store does not have: it was changed, or comes from another store; restore the store from a backup"
    )]
    UnknownEpoch {
        /// The table it was read from.
        table: String,
        /// The number of the record key.
        epoch: u32,
    },
}

fn list(ids: &[KeyId]) -> String {
    ids.iter().map(KeyId::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
