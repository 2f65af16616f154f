//! Whose text this is: the one place where a text that somebody shows becomes a token's record.
//!
//! Invariant: who does not show the right secret is told one of two reasons, after the same work whatever is wrong: one
//! lookup and one digest for what has a token's form, and one more of each if tokens were ever imported.

use std::sync::Arc;

use super::Service;
use crate::protocol::code::Reason;
use crate::registry::validate::is_genuine;
use crate::store::{HotRecord, Lookup, StoreError};
use crate::token::{self, Token, TokenId, imported};

/// What a text comes to.
pub(super) enum Presented {
    /// It is this token's, read when its slot of the epoch page had this value.
    Known(Arc<HotRecord>, u64),
    /// It is no token's here. The id is what it claims, and nothing that it proves.
    Stranger(Reason, Option<TokenId>),
}

impl Service {
    pub(super) fn presented(&self, text: &str) -> Result<Presented, StoreError> {
        let stranger = match Token::parse(text) {
            Ok(token) => {
                let Lookup { slot, record: found } = self.store.lookup(token.id)?;
                let genuine = is_genuine(self.keyring.digest_key(), &token, found.as_deref().map(|record| &**record));
                match found {
                    Some(record) if genuine => return Ok(Presented::Known(record, slot)),
                    _ => Presented::Stranger(Reason::Unknown, Some(token.id)),
                }
            }
            Err(_) => Presented::Stranger(Reason::Malformed, None),
        };
        if self.store.has_imports()
            && let Some((record, slot)) = self.imported(text)?
        {
            return Ok(Presented::Known(record, slot));
        }
        Ok(stranger)
    }

    fn imported(&self, text: &str) -> Result<Option<(Arc<HotRecord>, u64)>, StoreError> {
        if !imported::may_be(text) {
            return Ok(None);
        }
        let digest = token::imported_digest(self.keyring.digest_key(), &token::sha256(text));
        let Some(id) = self.store.imported(&digest)? else { return Ok(None) };
        // The record decides, by way of the cache that knows of every restriction; the row only says where it is.
        let Lookup { slot, record: found } = self.store.lookup(id)?;
        let found = found.filter(|record| record.prefix.is_none() && record.digest == digest);
        Ok(found.map(|record| (record, slot)))
    }
}
