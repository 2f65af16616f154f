//! The MAC over a whole backup: `BLAKE3 keyed_hash(backup key, all bytes before it)`.
//!
//! Each value of a backup is sealed already; this is what finds rows that are missing, added, or of another backup.

use zeroize::Zeroize;

use crate::sys::memory::LockedKey;

/// A MAC in the making; the key's copy in it is wiped when it is dropped. No `Debug`.
pub struct BackupMac(blake3::Hasher);

impl BackupMac {
    pub(super) fn new(key: &LockedKey) -> Self {
        Self(blake3::Hasher::new_keyed(key.expose()))
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The MAC of all bytes so far. Compare with `==`: that takes the same time whatever differs.
    pub fn finish(&self) -> blake3::Hash {
        self.0.finalize()
    }
}

impl Drop for BackupMac {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
