//! revoke: a token ends for good, whatever its state was.

use crate::store::record::{Ending, TokenRecord};
use crate::time::UnixTime;
use crate::token::TokenId;

/// What revoking comes to.
#[derive(Clone, PartialEq, Eq)]
#[must_use]
pub enum Revocation {
    /// It is revoked already: nothing to do, nothing counted.
    Already,
    /// The record as it is to be stored.
    Revoke(Box<TokenRecord>),
}

/// Revokes a record.
pub fn revoke(record: &TokenRecord, reason: Option<&str>, by_uid: u32, now: UnixTime) -> Revocation {
    if record.revoked.is_some() {
        return Revocation::Already;
    }
    let mut record = record.clone();
    record.version += 1;
    record.revoked = Some(Ending { at: now, reason: reason.map(str::to_owned), by_uid });
    Revocation::Revoke(Box::new(record))
}

/// The other members of its family that may still be good after `record` is revoked: neighbours in the rotation.
pub fn relatives(record: &TokenRecord) -> impl Iterator<Item = TokenId> {
    [record.predecessor, record.successor].into_iter().flatten()
}
