//! The keys of an open store.
//!
//! Invariant: every key in here is in locked memory; the root key is not kept: what changes slots reads its source again.

use std::sync::Arc;

use zeroize::{Zeroize, Zeroizing};

use super::VaultError;
use super::aead::{self, Place};
use super::backup::BackupMac;
use super::derive::{AUDIT_KEY, BACKUP_KEY, DIGEST_KEY, INDEX_KEY, SLOT_KEY, WRAPPING_KEY, derive};
use super::header::{KeyHeader, KeyId, KeySlot, SlotKind, WrappedRecordKey, record_key_data, slot_data};
use super::master::KeySource;
use crate::sys::memory::LockedKey;
use crate::time::UnixTime;
use crate::token::random;

/// The number of a new store's first record key.
const FIRST_EPOCH: u32 = 1;

/// The slot that the store was opened by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// Its id, which is that of the source's key.
    pub id: KeyId,
    /// Where the key came from now. A slot made for a file may be opened by a credential that carries the same key.
    pub kind: SlotKind,
    /// The same for people: the path, or `credential bearerd.master-key`.
    pub origin: String,
}

/// Every key of an open store. Shared between threads; no `Debug`.
pub struct Keyring {
    store_id: [u8; 16],
    slot: SlotInfo,
    digest_key: LockedKey,
    audit_key: Arc<LockedKey>,
    index_key: LockedKey,
    backup_key: LockedKey,
    /// By growing epoch.
    record_keys: Vec<(u32, LockedKey)>,
    /// Where in `record_keys` the key in force is.
    in_force: usize,
}

impl Keyring {
    /// Makes the keys of a new store, with one slot for `source`.
    ///
    /// # Errors
    /// [`VaultError::Memory`].
    pub fn create(source: &KeySource, now: UnixTime) -> Result<(Self, KeyHeader), VaultError> {
        let mut store_id = [0; 16];
        random(&mut store_id);
        let root = LockedKey::new(|key| random(key))?;
        let record_key = LockedKey::new(|key| random(key))?;

        let slot_key = derive(SLOT_KEY, source.key())?;
        let slot = KeySlot {
            id: source.id(),
            kind: source.kind(),
            created_at: now,
            root: aead::wrap(&slot_key, &slot_data(&store_id, source.id(), source.kind()), &root),
        };
        let wrapping_key = derive(WRAPPING_KEY, &root)?;
        let wrapped = aead::wrap(&wrapping_key, &record_key_data(&store_id, FIRST_EPOCH), &record_key);
        let header = KeyHeader {
            store_id,
            slots: vec![slot],
            record_keys: vec![WrappedRecordKey { epoch: FIRST_EPOCH, key: wrapped }],
            record_epoch: FIRST_EPOCH,
        };
        let keyring = Self::assemble(&header, source, &root, vec![(FIRST_EPOCH, record_key)])?;
        Ok((keyring, header))
    }

    /// Opens the slot of `source` and with it every key.
    ///
    /// # Errors
    /// [`VaultError::NoSlotOpens`] when no slot is for this key, [`VaultError::SlotDamaged`] or
    /// [`VaultError::RecordKeyDamaged`] when something was changed, [`VaultError::HeaderMalformed`],
    /// [`VaultError::Memory`].
    pub fn unlock(header: &KeyHeader, source: &KeySource) -> Result<Self, VaultError> {
        header.check()?;
        let root = open_slot(header, source)?;
        let wrapping_key = derive(WRAPPING_KEY, &root)?;
        let mut record_keys = Vec::with_capacity(header.record_keys.len());
        for WrappedRecordKey { epoch, key } in &header.record_keys {
            let data = record_key_data(&header.store_id, *epoch);
            let key = aead::unwrap(&wrapping_key, &data, key)?;
            record_keys.push((*epoch, key.ok_or(VaultError::RecordKeyDamaged { epoch: *epoch })?));
        }
        Self::assemble(header, source, &root, record_keys)
    }

    /// Keys the digests of tokens' secrets.
    pub fn digest_key(&self) -> &[u8; 32] {
        self.digest_key.expose()
    }

    /// Keys the chain of the audit log.
    pub fn audit_key(&self) -> Arc<LockedKey> {
        Arc::clone(&self.audit_key)
    }

    /// Begins the MAC of a whole backup.
    pub fn backup_mac(&self) -> BackupMac {
        BackupMac::new(&self.backup_key)
    }

    /// The blinded key of `value` in the index `tag`: who reads the file sees which entries share a value, not which.
    ///
    /// `BLAKE3 keyed_hash(index key, tag length u32 LE || tag || value)`, its first 16 bytes.
    pub fn index(&self, tag: &str, value: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(self.index_key.expose());
        hasher.update(&u32::try_from(tag.len()).expect("tags are short names").to_le_bytes());
        hasher.update(tag.as_bytes());
        hasher.update(value);
        let hash = hasher.finalize();
        hasher.zeroize();
        *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
    }

    /// Seals a value for its place in the store, under the record key in force. Twice the same is never the same bytes.
    pub fn seal(&self, table: &str, key: &[u8], plain: &[u8]) -> Vec<u8> {
        let (epoch, record_key) = &self.record_keys[self.in_force];
        aead::seal(record_key, *epoch, self.place(table, key), plain)
    }

    /// Opens a value that was sealed for this place in this store.
    ///
    /// # Errors
    /// [`VaultError::DoesNotOpen`], [`VaultError::UnknownVersion`], [`VaultError::UnknownEpoch`].
    pub fn open(&self, table: &str, key: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let place = self.place(table, key);
        let wanted = aead::epoch_of(place, sealed)?;
        match self.record_keys.iter().rev().find(|(epoch, _)| *epoch == wanted) {
            Some((epoch, record_key)) => aead::open(record_key, *epoch, place, sealed),
            None => Err(VaultError::UnknownEpoch { table: table.to_owned(), epoch: wanted }),
        }
    }

    /// The slot in force.
    pub fn slot(&self) -> &SlotInfo {
        &self.slot
    }

    fn place<'a>(&'a self, table: &'a str, key: &'a [u8]) -> Place<'a> {
        Place { store_id: &self.store_id, table, key }
    }

    fn assemble(
        header: &KeyHeader,
        source: &KeySource,
        root: &LockedKey,
        record_keys: Vec<(u32, LockedKey)>,
    ) -> Result<Self, VaultError> {
        let in_force = record_keys.iter().position(|(epoch, _)| *epoch == header.record_epoch);
        Ok(Self {
            store_id: header.store_id,
            slot: SlotInfo { id: source.id(), kind: source.kind(), origin: source.origin().to_owned() },
            digest_key: derive(DIGEST_KEY, root)?,
            audit_key: Arc::new(derive(AUDIT_KEY, root)?),
            index_key: derive(INDEX_KEY, root)?,
            backup_key: derive(BACKUP_KEY, root)?,
            record_keys,
            in_force: in_force.ok_or(VaultError::HeaderMalformed { problem: "the record key in force is missing" })?,
        })
    }
}

/// The root key, from a slot for `source`. A slot's id is derived from the key that opens it, so that no other needs a
/// try; its kind may differ from the source's.
pub(super) fn open_slot(header: &KeyHeader, source: &KeySource) -> Result<LockedKey, VaultError> {
    let mut damaged = None;
    let slot_key = derive(SLOT_KEY, source.key())?;
    for slot in header.slots.iter().filter(|slot| slot.id == source.id()) {
        match aead::unwrap(&slot_key, &slot_data(&header.store_id, slot.id, slot.kind), &slot.root)? {
            Some(root) => return Ok(root),
            None => damaged = Some(VaultError::SlotDamaged { id: slot.id }),
        }
    }
    Err(damaged.unwrap_or_else(|| VaultError::NoSlotOpens {
        source_id: source.id(),
        origin: source.origin().to_owned(),
        slots: header.slots.iter().map(|slot| slot.id).collect(),
    }))
}
