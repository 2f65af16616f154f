//! The key header: the key slots and the wrapped record keys, kept in clear in the store.
//!
//! It holds nothing that opens anything without a source's key, and it is decoded strictly: an unknown version is
//! refused, and so is a header that contradicts itself. It is [`crate::codec`]'s encoding of an enum with one variant a
//! format version: `V1`, and `V2` while a key is being installed. What it holds in clear is authenticated where it lies:
//! the store seals its digest with every commit.
//!
//! Associated data of the wrapped keys, which binds each to its place:
//!
//! ```text
//! root key in a slot: "slot"       | store id 16 | slot id 8 | kind u8 | version u8 = 1     under the slot key
//! record key:         "record-key" | store id 16 | epoch u32 LE | version u8 = 1           under the wrapping key
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

use super::VaultError;
use super::aead::{NONCE_BYTES, TAG_BYTES, VERSION};
use crate::codec;
use crate::time::UnixTime;

/// Most slots of a store: one in force, one being installed, the recovery key, and then some.
const SLOTS_MAX: usize = 16;
/// Most record keys of a store: each re-sealing adds one and drops the last when it is done.
const RECORD_KEYS_MAX: usize = 64;

/// Names a source's key: 8 bytes derived from it, shown as 16 hex digits. Public; it does not lead back to the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(pub(super) [u8; 8]);

impl KeyId {
    /// The 8 bytes.
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What kind of source a slot is for. Append-only: the numbers are in the file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum SlotKind {
    /// A key file: a copy of the disk that it is on opens the store.
    File = 0,
    /// A systemd credential.
    Credential = 1,
    /// A recovery key, kept by a person.
    Recovery = 2,
}

impl SlotKind {
    /// The name in `status` and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Credential => "credential",
            Self::Recovery => "recovery",
        }
    }
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A key under another key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    pub(super) nonce: [u8; NONCE_BYTES],
    pub(super) key: [u8; 32],
    pub(super) tag: [u8; TAG_BYTES],
}

/// A slot: the root key under the key of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySlot {
    /// Which source key opens it.
    pub id: KeyId,
    /// What kind of source it was made for.
    pub kind: SlotKind,
    /// When it was made; informative.
    pub created_at: UnixTime,
    /// The root key.
    pub root: WrappedKey,
}

/// A record key under the wrapping key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedRecordKey {
    /// Its number, in every value that is sealed under it.
    pub epoch: u32,
    /// The key.
    pub key: WrappedKey,
}

/// The key slots and record keys of one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyHeader {
    /// Names the store; random. What is sealed for one store does not open in another.
    pub store_id: [u8; 16],
    /// At least one; each opens the same root key.
    pub slots: Vec<KeySlot>,
    /// At least one, by growing epoch. More than one: values are being sealed anew under the last.
    pub record_keys: Vec<WrappedRecordKey>,
    /// The record key that new values are sealed under; one of `record_keys`.
    pub record_epoch: u32,
    /// The slot of a key that is being installed: once a start has opened the store with it, the slot that it replaces
    /// is dropped.
    pub installing: Option<KeyId>,
}

/// What every format has.
#[derive(Serialize, Deserialize)]
struct Body {
    store_id: [u8; 16],
    slots: Vec<KeySlot>,
    record_keys: Vec<WrappedRecordKey>,
    record_epoch: u32,
}

/// The formats of the header. One that is not here is refused.
#[derive(Serialize, Deserialize)]
enum Versioned {
    /// All keys are installed.
    V1(Body),
    /// And the slot that is being installed. An older version, which would not finish that, refuses it.
    V2(Body, KeyId),
}

impl KeyHeader {
    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        let body = Body {
            store_id: self.store_id,
            slots: self.slots.clone(),
            record_keys: self.record_keys.clone(),
            record_epoch: self.record_epoch,
        };
        codec::encode(&match self.installing {
            None => Versioned::V1(body),
            Some(id) => Versioned::V2(body, id),
        })
    }

    /// The header in stored bytes.
    ///
    /// # Errors
    /// [`VaultError::UnknownHeaderVersion`] for what a newer version wrote, [`VaultError::HeaderMalformed`] for what
    /// none did.
    pub fn decode(bytes: &[u8]) -> Result<Self, VaultError> {
        // postcard numbers variants from 0, in one byte for as long as there are less than 128.
        if let Some(&variant @ 2..128) = bytes.first() {
            return Err(VaultError::UnknownHeaderVersion { format: u32::from(variant) + 1 });
        }
        let malformed = |_| VaultError::HeaderMalformed { problem: "it does not decode" };
        let (body, installing) = match codec::decode::<Versioned>(bytes).map_err(malformed)? {
            Versioned::V1(body) => (body, None),
            Versioned::V2(body, id) => (body, Some(id)),
        };
        let Body { store_id, slots, record_keys, record_epoch } = body;
        let header = Self { store_id, slots, record_keys, record_epoch, installing };
        header.check()?;
        Ok(header)
    }

    /// The slot of this key.
    pub fn slot(&self, id: KeyId) -> Option<&KeySlot> {
        self.slots.iter().find(|slot| slot.id == id)
    }

    /// Refuses a header that contradicts itself.
    pub(super) fn check(&self) -> Result<(), VaultError> {
        let problem = if self.slots.is_empty() || self.slots.len() > SLOTS_MAX {
            "it has no key slot, or too many"
        } else if self.record_keys.is_empty() || self.record_keys.len() > RECORD_KEYS_MAX {
            "it has no record key, or too many"
        } else if !self.record_keys.is_sorted_by(|one, next| one.epoch < next.epoch) {
            "its record keys are out of order"
        } else if !self.record_keys.iter().any(|key| key.epoch == self.record_epoch) {
            "the record key in force is missing"
        } else if (1..self.slots.len()).any(|at| self.slots[..at].iter().any(|slot| slot.id == self.slots[at].id)) {
            "two slots are for one key"
        } else if self
            .installing
            .is_some_and(|id| self.slots.len() < 2 || self.slot(id).is_none_or(|slot| slot.kind == SlotKind::Recovery))
        {
            "the slot that is being installed is missing"
        } else {
            return Ok(());
        };
        Err(VaultError::HeaderMalformed { problem })
    }
}

/// What the root key is bound to in a slot.
pub(super) fn slot_data(store_id: &[u8; 16], id: KeyId, kind: SlotKind) -> [u8; 30] {
    let mut data = [0; 30];
    data[..4].copy_from_slice(b"slot");
    data[4..20].copy_from_slice(store_id);
    data[20..28].copy_from_slice(&id.0);
    data[28] = kind as u8;
    data[29] = VERSION;
    data
}

/// What a record key is bound to.
pub(super) fn record_key_data(store_id: &[u8; 16], epoch: u32) -> [u8; 31] {
    let mut data = [0; 31];
    data[..10].copy_from_slice(b"record-key");
    data[10..26].copy_from_slice(store_id);
    data[26..30].copy_from_slice(&epoch.to_le_bytes());
    data[30] = VERSION;
    data
}
