//! The keys of an open store.
//!
//! Invariant: every key in here is in locked memory; the root key is not kept: what changes slots reads its source again.
//! A record key is put in force only once the header that has it is durable: what is sealed always opens at the next start.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use zeroize::{Zeroize, Zeroizing};

use super::VaultError;
use super::aead::{self, Place};
use super::backup::BackupMac;
use super::derive::{AUDIT_KEY, BACKUP_KEY, DIGEST_KEY, INDEX_KEY, SLOT_KEY, TICKET_KEY, WRAPPING_KEY, derive};
use super::header::{KeyHeader, KeyId, KeySlot, SlotKind, WrappedRecordKey, record_key_data, slot_data};
use super::master::KeySource;
use super::slots::NewRecordKey;
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

impl SlotInfo {
    fn of(source: &KeySource) -> Self {
        Self { id: source.id(), kind: source.kind(), origin: source.origin().to_owned() }
    }
}

/// Every key of an open store. Shared between threads; no `Debug`.
pub struct Keyring {
    store_id: [u8; 16],
    slot: RwLock<SlotInfo>,
    digest_key: LockedKey,
    audit_key: Arc<LockedKey>,
    index_key: LockedKey,
    backup_key: LockedKey,
    ticket_key: LockedKey,
    /// Read for each value that is sealed or opened, written when a record key is put in force: years apart.
    records: RwLock<RecordKeys>,
}

struct RecordKeys {
    /// By growing epoch.
    keys: Vec<(u32, LockedKey)>,
    /// Where in `keys` the key in force is.
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

        let slot = wrap_root(&store_id, &root, source, now)?;
        let wrapping_key = derive(WRAPPING_KEY, &root)?;
        let wrapped = aead::wrap(&wrapping_key, &record_key_data(&store_id, FIRST_EPOCH), &record_key);
        let header = KeyHeader {
            store_id,
            slots: vec![slot],
            record_keys: vec![WrappedRecordKey { epoch: FIRST_EPOCH, key: wrapped }],
            record_epoch: FIRST_EPOCH,
            installing: None,
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

    /// Over what a verdict granted, and to which uid: only this daemon can make it. Compared in constant time.
    ///
    /// `BLAKE3 keyed_hash(ticket key, uid u32 LE || grant)`.
    pub fn ticket_mac(&self, uid: u32, grant: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(self.ticket_key.expose());
        hasher.update(&uid.to_le_bytes());
        hasher.update(grant);
        let mac = hasher.finalize();
        hasher.zeroize();
        mac
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
        let records = self.records();
        let (epoch, record_key) = &records.keys[records.in_force];
        aead::seal(record_key, *epoch, self.place(table, key), plain)
    }

    /// Opens a value that was sealed for this place in this store.
    ///
    /// # Errors
    /// [`VaultError::DoesNotOpen`], [`VaultError::UnknownVersion`], [`VaultError::UnknownEpoch`].
    pub fn open(&self, table: &str, key: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let place = self.place(table, key);
        let wanted = aead::epoch_of(place, sealed)?;
        match self.records().keys.iter().rev().find(|(epoch, _)| *epoch == wanted) {
            Some((epoch, record_key)) => aead::open(record_key, *epoch, place, sealed),
            None => Err(VaultError::UnknownEpoch { table: table.to_owned(), epoch: wanted }),
        }
    }

    /// The slot in force.
    pub fn slot(&self) -> SlotInfo {
        self.slot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that this source's slot is the one in force now.
    pub fn installed(&self, source: &KeySource) {
        *self.slot.write().unwrap_or_else(PoisonError::into_inner) = SlotInfo::of(source);
    }

    /// The number of the record key that values are sealed under.
    pub fn epoch(&self) -> u32 {
        let records = self.records();
        records.keys[records.in_force].0
    }

    /// Whether a value is sealed under the record key in force; looks at its number only.
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        aead::stated_epoch(sealed) == Some(self.epoch())
    }

    /// Seals under a new record key from now on. The header that has it must be durable: else what is sealed from here on
    /// would be lost with this process.
    ///
    /// The key that was in force until now stays for what is sealed under it, and in memory beyond that, for readers of an
    /// older state; the ones before it go.
    pub fn put_in_force(&self, new: NewRecordKey) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        let last = records.keys[records.in_force].0;
        records.keys.retain(|(epoch, _)| *epoch >= last);
        records.keys.push((new.epoch, new.key));
        records.in_force = records.keys.len() - 1;
    }

    fn records(&self) -> RwLockReadGuard<'_, RecordKeys> {
        self.records.read().unwrap_or_else(PoisonError::into_inner)
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
        let in_force = in_force.ok_or(VaultError::HeaderMalformed { problem: "the record key in force is missing" })?;
        Ok(Self {
            store_id: header.store_id,
            slot: RwLock::new(SlotInfo::of(source)),
            digest_key: derive(DIGEST_KEY, root)?,
            audit_key: Arc::new(derive(AUDIT_KEY, root)?),
            index_key: derive(INDEX_KEY, root)?,
            records: RwLock::new(RecordKeys { keys: record_keys, in_force }),
            backup_key: derive(BACKUP_KEY, root)?,
            ticket_key: derive(TICKET_KEY, root)?,
        })
    }
}

/// A slot with the root key for `source`.
pub(super) fn wrap_root(
    store_id: &[u8; 16],
    root: &LockedKey,
    source: &KeySource,
    now: UnixTime,
) -> Result<KeySlot, VaultError> {
    let slot_key = derive(SLOT_KEY, source.key())?;
    let (id, kind) = (source.id(), source.kind());
    let root = aead::wrap(&slot_key, &slot_data(store_id, id, kind), root);
    Ok(KeySlot { id, kind, created_at: now, root })
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
