//! Changes of the key header: slots come and go as in LUKS, record keys by epoch.
//!
//! Each function gives a new header and leaves the old one alone: what is decided here is in force once the store has
//! written it. Invariant: a header always has a slot that opens with a key which is certainly there: a new key's slot is
//! added first, and only once the store was opened by it, or its file is durable in its place, are the others dropped.

use super::VaultError;
use super::aead;
use super::derive::{WRAPPING_KEY, derive};
use super::header::{KeyHeader, KeyId, KeySlot, SlotKind, WrappedKey, WrappedRecordKey, record_key_data};
use super::keyring::{open_slot, wrap_root};
use super::master::KeySource;
use crate::sys::memory::LockedKey;
use crate::time::UnixTime;
use crate::token::random;

/// A record key that is in a header which is not durable yet. No `Debug`.
pub struct NewRecordKey {
    pub(super) epoch: u32,
    pub(super) key: LockedKey,
}

impl NewRecordKey {
    /// Its number.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }
}

impl KeyHeader {
    /// With a slot for `new`, which is being installed; one that was being installed before is given up.
    ///
    /// # Errors
    /// Those of opening the slot of `source`.
    pub fn install(&self, source: &KeySource, new: &KeySource, now: UnixTime) -> Result<Self, VaultError> {
        let root = open_slot(self, source)?;
        let mut header = self.take_back();
        header.slots.push(wrap_root(&self.store_id, &root, new, now)?);
        header.installing = Some(new.id());
        header.check()?;
        Ok(header)
    }

    /// Without the slot that is being installed.
    #[must_use]
    pub fn take_back(&self) -> Self {
        let mut header = self.clone();
        if let Some(id) = header.installing.take() {
            header.slots.retain(|slot| slot.id != id);
        }
        header
    }

    /// With the slot that was being installed in force: besides it only the recovery key's stays.
    #[must_use]
    pub fn settle(&self) -> Self {
        let mut header = self.clone();
        if let Some(id) = header.installing.take() {
            header.slots.retain(|slot| slot.id == id || slot.kind == SlotKind::Recovery);
        }
        header
    }

    /// With a slot for this recovery key, in place of an earlier one.
    ///
    /// # Errors
    /// Those of opening the slot of `source`.
    pub fn with_recovery(&self, source: &KeySource, new: &KeySource, now: UnixTime) -> Result<Self, VaultError> {
        let root = open_slot(self, source)?;
        let mut header = self.clone();
        header.slots.retain(|slot| slot.kind != SlotKind::Recovery);
        header.slots.push(wrap_root(&self.store_id, &root, new, now)?);
        header.check()?;
        Ok(header)
    }

    /// With one more record key, which new values are to be sealed under.
    ///
    /// # Errors
    /// Those of opening the slot of `source`; [`VaultError::HeaderMalformed`] when there is no room for one more.
    pub fn with_new_record_key(&self, source: &KeySource) -> Result<(Self, NewRecordKey), VaultError> {
        let root = open_slot(self, source)?;
        let last = self.record_keys.last().map_or(0, |key| key.epoch);
        let full = VaultError::HeaderMalformed { problem: "there is no number left for a record key" };
        let epoch = last.checked_add(1).ok_or(full)?;
        let key = LockedKey::new(|key| random(key))?;
        let wrapping_key = derive(WRAPPING_KEY, &root)?;
        let wrapped = aead::wrap(&wrapping_key, &record_key_data(&self.store_id, epoch), &key);
        let mut header = self.clone();
        header.record_keys.push(WrappedRecordKey { epoch, key: wrapped });
        header.record_epoch = epoch;
        header.check()?;
        Ok((header, NewRecordKey { epoch, key }))
    }

    /// With the record key in force alone. Nothing may be sealed under another any more.
    #[must_use]
    pub fn with_last_record_key(&self) -> Self {
        let mut header = self.clone();
        header.record_keys.retain(|key| key.epoch == header.record_epoch);
        header
    }

    /// The wrapped keys of this header that `next` does not have any more, as they stand in its bytes.
    pub fn wrapped_dropped_in(&self, next: &Self) -> Vec<Vec<u8>> {
        let slots = self.slots.iter().map(|slot| &slot.root);
        let keys = self.record_keys.iter().map(|key| &key.key);
        let stays = |wrapped: &WrappedKey| {
            next.slots.iter().any(|slot| slot.root == *wrapped)
                || next.record_keys.iter().any(|key| key.key == *wrapped)
        };
        let gone = slots.chain(keys).filter(|wrapped| !stays(wrapped));
        gone.map(|wrapped| [&wrapped.nonce[..], &wrapped.key, &wrapped.tag].concat()).collect()
    }

    /// The slots of this header that `next` does not have any more.
    pub fn dropped_in(&self, next: &Self) -> Vec<KeyId> {
        let gone = |slot: &&KeySlot| next.slot(slot.id).is_none();
        self.slots.iter().filter(gone).map(|slot| slot.id).collect()
    }
}
