//! Imported tokens: found by their digest, since their text has no id in it.
//!
//! Invariant: a row of the table stands and falls with its record, in the same transaction, and a digest has one id at
//! most. That there are imports at all is known in memory, so that without any nothing is looked up; it is never taken
//! back, which costs a lookup and nothing else.

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};

use super::error::{StoreError, read_error};
use super::schema::IMPORTS;
use super::{Sealer, Store, Txn};
use crate::token::{Digest, TokenId};

impl Store {
    /// Whether a token was ever imported. One load.
    pub fn has_imports(&self) -> bool {
        self.shared.hot.has_imports()
    }

    /// The imported token with this digest. Reads the disk: for whoever has shown what is no good token of ours.
    ///
    /// # Errors
    /// As [`Self::lookup`].
    pub fn imported(&self, digest: &Digest) -> Result<Option<TokenId>, StoreError> {
        if !self.has_imports() {
            return Ok(None);
        }
        self.read(|txn, sealer| found(txn, sealer, digest))
    }
}

impl Txn<'_> {
    /// The imported token with this digest, as this job and those before it have left it.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn imported(&mut self, digest: &Digest) -> Result<Option<TokenId>, StoreError> {
        if let Some(id) = self.held_import(digest) {
            return Ok(Some(id));
        }
        let row = self.tables.imports.get(&digest.0);
        let found = row.map(|row| row.map(|sealed| open(self.sealer, digest, sealed.value())));
        let Some(id) = found.map_err(|error| self.fail(error))?.transpose()? else { return Ok(None) };
        // Removed by this very job.
        Ok(self.record(id)?.map(|_| id))
    }
}

/// Whether there is any.
pub(super) fn any(txn: &ReadTransaction) -> Result<bool, StoreError> {
    let imports = txn.open_table(IMPORTS).map_err(read_error)?;
    Ok(!imports.is_empty().map_err(read_error)?)
}

/// The value of a row.
pub(super) fn seal(sealer: &dyn Sealer, digest: &[u8; 32], id: TokenId) -> Vec<u8> {
    sealer.seal("imports", digest, id.as_bytes())
}

fn found(txn: &ReadTransaction, sealer: &dyn Sealer, digest: &Digest) -> Result<Option<TokenId>, StoreError> {
    let imports = txn.open_table(IMPORTS).map_err(read_error)?;
    let Some(sealed) = imports.get(&digest.0).map_err(read_error)? else { return Ok(None) };
    open(sealer, digest, sealed.value()).map(Some)
}

fn open(sealer: &dyn Sealer, digest: &Digest, sealed: &[u8]) -> Result<TokenId, StoreError> {
    let table = "imports";
    let plain = sealer.open(table, &digest.0, sealed).map_err(|_| StoreError::Broken { table })?;
    let id = <[u8; 16]>::try_from(plain.as_slice());
    id.map(TokenId::from_bytes).map_err(|_| StoreError::Damaged { what: "an imported token's row names no id".into() })
}

/// The row of a record in the table: its digest, if it was imported.
pub(super) fn row(record: &super::record::TokenRecord) -> Option<[u8; 32]> {
    record.prefix.is_none().then_some(record.digest.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;
    use crate::store::testing::record;

    #[test]
    fn only_what_was_imported_has_a_row() {
        let mut token = record(TokenId::from_bytes([3; 16]), 1);
        assert_eq!(row(&token), None);
        token.prefix = None;
        assert_eq!(row(&token), Some([7; 32]));
        assert_eq!(schema::Rows::of(&NoSeal, &token).import, Some([7; 32]));
    }

    struct NoSeal;

    impl Sealer for NoSeal {
        fn seal(&self, _: &str, _: &[u8], plain: &[u8]) -> Vec<u8> {
            plain.to_vec()
        }

        fn open(
            &self,
            _: &str,
            _: &[u8],
            sealed: &[u8],
        ) -> Result<zeroize::Zeroizing<Vec<u8>>, super::super::SealBroken> {
            Ok(zeroize::Zeroizing::new(sealed.to_vec()))
        }

        fn index(&self, _: &str, _: &[u8]) -> [u8; 16] {
            [0; 16]
        }
    }
}
