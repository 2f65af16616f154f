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

/// A token whose successor is revoked without ever having been used is good again, as it was before it was rotated: its
/// rotation is forgotten, also when its overlap has run out meanwhile. Not when it was ended at once on purpose; and what
/// else ends or holds it does so still. `None` = it stays as it is.
pub fn reinstated(predecessor: &TokenRecord, successor: &TokenRecord) -> Option<TokenRecord> {
    let rotation = predecessor.rotation.as_ref()?;
    let was_cut = rotation.ends_at <= rotation.at;
    let was_used = successor.first_used_at.is_some() || rotation.successor_used_at.is_some();
    if predecessor.successor != Some(successor.id) || was_cut || was_used || predecessor.revoked.is_some() {
        return None;
    }
    let mut record = predecessor.clone();
    record.version += 1;
    record.successor = None;
    record.rotation = None;
    Some(record)
}
