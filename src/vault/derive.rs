//! Every derived key, with the one label that it is derived by: `BLAKE3 derive_key(label, 32 bytes)`, 32 bytes.
//!
//! Invariant: one key, one purpose, one label. A label is never changed and never used again: it is part of the format
//! of every store. What is derived by two labels is unrelated, and does not lead back to what it was derived from.

use std::io;

use zeroize::Zeroize;

use crate::sys::memory::LockedKey;

/// A purpose, and with it a derivation label.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Debug))]
pub(super) struct Label(&'static str);

/// From a source's key: its public id, the first 8 bytes.
pub(super) const KEY_ID: Label = Label("bearerd 2026-11-23 id of a source key");
/// From a source's key: the key that wraps the root key in that source's slot.
pub(super) const SLOT_KEY: Label = Label("bearerd 2026-11-23 key slot: wraps the root key");
/// From the root key: keys the digests of tokens' secrets.
pub(super) const DIGEST_KEY: Label = Label("bearerd 2026-11-23 digests of token secrets");
/// From the root key: keys the chain of the audit log.
pub(super) const AUDIT_KEY: Label = Label("bearerd 2026-11-23 audit chain");
/// From the root key: blinds the keys of the store's indexes.
pub(super) const INDEX_KEY: Label = Label("bearerd 2026-11-23 blinded index keys");
/// From the root key: wraps the record keys.
pub(super) const WRAPPING_KEY: Label = Label("bearerd 2026-11-23 wraps record keys");
/// From the root key: keys the MAC over a whole backup.
pub(super) const BACKUP_KEY: Label = Label("bearerd 2026-11-23 backups as a whole");
/// From the root key: keys the tickets that come with verdicts which may be kept.
pub(super) const TICKET_KEY: Label = Label("bearerd 2026-11-24 tickets of cached uses");

/// Derives the key of a purpose, straight into locked memory.
pub(super) fn derive(label: Label, from: &LockedKey) -> io::Result<LockedKey> {
    LockedKey::new(|key| derive_onto(label, from.expose(), key))
}

/// Fills `output` with what `label` derives from `from`.
pub(super) fn derive_onto(label: Label, from: &[u8; 32], output: &mut [u8]) {
    let mut hasher = blake3::Hasher::new_derive_key(label.0);
    hasher.update(from);
    let mut reader = hasher.finalize_xof();
    reader.fill(output);
    reader.zeroize();
    hasher.zeroize();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ALL: [Label; 8] = [KEY_ID, SLOT_KEY, DIGEST_KEY, AUDIT_KEY, INDEX_KEY, WRAPPING_KEY, BACKUP_KEY, TICKET_KEY];

    #[test]
    fn every_label_of_this_file_is_listed_and_used_once() {
        let written = include_str!("derive.rs").lines().filter(|line| line.starts_with("pub(super) const ")).count();
        assert_eq!(written, ALL.len());
        assert_eq!(ALL.iter().map(|label| label.0).collect::<BTreeSet<_>>().len(), ALL.len());
    }

    #[test]
    fn what_is_derived_is_pinned() {
        let from = LockedKey::new(|key| *key = std::array::from_fn(|i| i as u8)).unwrap();
        let derived: Vec<String> = ALL
            .iter()
            .map(|&label| blake3::Hash::from_bytes(*derive(label, &from).unwrap().expose()).to_string())
            .collect();
        assert_eq!(derived, PINNED);
        for (label, derived) in ALL.iter().zip(PINNED) {
            let whole = blake3::derive_key(label.0, from.expose());
            assert_eq!(blake3::Hash::from_bytes(whole).to_string(), derived, "not BLAKE3's derive_key: {label:?}");
        }
    }

    const PINNED: [&str; 8] = [
        "eed7d9290ee65dc3eaf67e17c19f013b19fc30c76e2aca3e480a1da4087fb302",
        "302660a08cbe2e9e7ec0936b138c3fd123c6a05c5c663284d311ca0d38a8a0b5",
        "07ce67ba99b8d0e16ddcd1b835cd5acd612f8ff3088d504b68b77818c000bdab",
        "6d49ed3e86e2154c83bad9828813a03eea19cf3dcd309bd8a18f2b676334d6bd",
        "4225416e2e6c71c41c84b181b68a3f5ffd3880afaeafe47e744b3d626f3c0fa7",
        "8dbf5c3aa4f504e455e47b51e982b6e928953e4d945646adf802d5642de1697f",
        "045ecba14a322e2f917cefbc69884ab80b485bf1027b3e8b7504002f622fa63f",
        "e70fb6be7395456f93c83e7b06e804f875c0255b3570d5680231481a55af2430",
    ];
}
