//! rotate: a token's successor, and what becomes of the token.
//!
//! Invariant: a family has at most one good predecessor and one successor, and no retry locks anyone out: as long as the
//! successor was never used, to rotate again, by whichever id of the family, puts another in its place.
//!
//! | named | comes to |
//! | --- | --- |
//! | a good token without successor | a successor; if its own predecessor is still good, that one ends at once |
//! | a token whose successor was never used, that successor, or one that was replaced before | another successor in the place of the unused one |
//! | a token whose successor was used | refused: the successor is to be rotated |

use std::time::Duration;

use super::{Invalid, Refusal, ended};
use crate::protocol::message::{self, State};
use crate::store::record::{Rotation, TokenRecord};
use crate::time::UnixTime;
use crate::token::{Digest, Prefix, TokenId};

/// What a token that is to be rotated has of family.
#[derive(Clone, PartialEq, Eq)]
pub enum Kin {
    /// Neither successor nor a claim to be one that was not used.
    Alone {
        /// The token named.
        record: Box<TokenRecord>,
        /// The one that it took over from, if that one is still there.
        before: Option<Box<TokenRecord>>,
    },
    /// A predecessor, and its successor, which was never used.
    Pair {
        /// The one that is to be taken over from.
        predecessor: Box<TokenRecord>,
        /// The one to be replaced.
        successor: Box<TokenRecord>,
        /// It was the successor that was named, or one that it took the place of.
        by_successor: bool,
    },
    /// Its successor was used.
    Used(TokenId),
}

impl Kin {
    /// The family of `named`, as far as it counts here; `look` finds records.
    ///
    /// # Errors
    /// Those of `look`.
    pub fn of<E>(
        named: TokenRecord,
        mut look: impl FnMut(TokenId) -> Result<Option<TokenRecord>, E>,
    ) -> Result<Self, E> {
        let (mut named, mut by_successor) = (named, false);
        let before = match named.predecessor {
            Some(id) => look(id)?,
            None => None,
        };
        let before = match before {
            // Whoever retries knows only the id of a successor that was replaced since: it stands for its predecessor.
            Some(before) if named.replaced && before.successor.is_some() => {
                (named, by_successor) = (before, true);
                None
            }
            Some(before) if before.successor == Some(named.id) => {
                if !is_used(&before, &named) {
                    let (predecessor, successor) = (Box::new(before), Box::new(named));
                    return Ok(Self::Pair { predecessor, successor, by_successor: true });
                }
                Some(Box::new(before))
            }
            _ => None,
        };
        let successor = match named.successor {
            Some(id) => look(id)?,
            None => None,
        };
        Ok(match successor {
            Some(successor) if is_used(&named, &successor) => Self::Used(successor.id),
            Some(successor) => {
                Self::Pair { predecessor: Box::new(named), successor: Box::new(successor), by_successor }
            }
            None => Self::Alone { record: Box::new(named), before },
        })
    }

    /// The one that the successor is made like: what was edited since stays so.
    pub fn model(&self) -> Option<&TokenRecord> {
        match self {
            Self::Alone { record, .. } => Some(record),
            Self::Pair { successor, .. } => Some(successor),
            Self::Used(_) => None,
        }
    }
}

/// Whether a successor was ever used.
fn is_used(predecessor: &TokenRecord, successor: &TokenRecord) -> bool {
    let told = predecessor.rotation.as_ref().is_some_and(|rotation| rotation.successor_used_at.is_some());
    successor.first_used_at.is_some() || (told && predecessor.successor == Some(successor.id))
}

/// The request that would make the like of `record` anew: whether the peer might issue that decides about its lifetime.
pub fn like(record: &TokenRecord) -> message::Issue {
    message::Issue {
        name: record.name.clone(),
        kind: Some(record.kind),
        subject: Some(record.subject.clone()),
        scopes: record.scopes.to_strings(),
        audiences: record.audiences.clone(),
        ttl: record.ttl,
        not_before: record.not_before,
        max_uses: record.max_uses,
        rate: record.rate.map(|rate| message::Rate { count: rate.count, per: rate.per }),
        allow_from: record.allow_from.iter().map(ToString::to_string).collect(),
        allow_units: record.allow_units.clone(),
        allow_uids: record.allow_uids.clone(),
        labels: record.labels.clone(),
        profile: record.profile.clone(),
    }
}

/// How it is to be done.
#[derive(Clone, Copy)]
pub struct How {
    /// The successor's id.
    pub id: TokenId,
    /// Digest of that and the successor's secret.
    pub digest: Digest,
    /// Prefix of new tokens.
    pub prefix: Prefix,
    /// The successor's lifetime from now on; `None` = the end that its predecessor's lifetime has.
    pub lifetime: Option<Duration>,
    /// The predecessor ends at once.
    pub at_once: bool,
    /// How long the predecessor stays good after the successor's first use.
    pub grace: Duration,
    /// How long it stays good at most.
    pub overlap: Duration,
}

/// A rotation, as it is to be stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The new token.
    pub successor: TokenRecord,
    /// The one that it takes over from.
    pub predecessor: TokenRecord,
    /// The unused successor that it takes the place of.
    pub replaced: Option<TokenRecord>,
    /// The predecessor's own predecessor, which ends now.
    pub ended: Option<TokenRecord>,
}

/// How long a predecessor stays good after its successor's first use, of what was asked for and what is configured.
///
/// # Errors
/// [`Invalid::Grace`] for more than the overlap.
pub fn grace(asked: Option<Duration>, configured: Duration, overlap: Duration) -> Result<Duration, Invalid> {
    match asked {
        Some(asked) if asked > overlap => Err(Invalid::Grace(overlap)),
        Some(asked) => Ok(asked),
        None => Ok(configured.min(overlap)),
    }
}

/// Rotates.
///
/// # Errors
/// [`Refusal`]: the state of the token or of its family does not allow it.
pub fn rotate(kin: Kin, how: &How, now: UnixTime) -> Result<Rotated, Refusal> {
    match kin {
        Kin::Used(successor) => Err(Refusal::AlreadyRotated(successor)),
        Kin::Alone { record, before } => {
            let state = record.state(now);
            if !matches!(state, State::Active | State::Rotating) {
                return Err(Refusal::State { verb: "rotated", state: ended(&record, now).unwrap_or(state) });
            }
            let successor = heir(&record, record.id, how, now)?;
            let mut predecessor = *record;
            overlap(&mut predecessor, how, now);
            hand_over(&mut predecessor, how.id);
            let ended = before.and_then(|before| cut(*before, now));
            Ok(Rotated { successor, predecessor, replaced: None, ended })
        }
        Kin::Pair { predecessor, successor, by_successor } => {
            let (mut predecessor, successor) = (*predecessor, *successor);
            fit(&predecessor, &successor, by_successor, now)?;
            let mut heir = heir(&successor, predecessor.id, how, now)?;
            // Uses are the family's.
            heir.uses = heir.uses.max(predecessor.uses);
            if ended(&predecessor, now).is_none() {
                overlap(&mut predecessor, how, now);
            } else if how.at_once {
                stays_ended(&mut predecessor, now);
            }
            hand_over(&mut predecessor, how.id);
            let mut replaced = successor;
            replaced.version += 1;
            replaced.replaced = true;
            Ok(Rotated { successor: heir, predecessor, replaced: Some(replaced), ended: None })
        }
    }
}

/// Whether an unused successor may be replaced: one of the two must be good, and neither may be held back by decision.
fn fit(predecessor: &TokenRecord, successor: &TokenRecord, by_successor: bool, now: UnixTime) -> Result<(), Refusal> {
    let named = if by_successor { successor } else { predecessor };
    let unfit = |state| Err(Refusal::State { verb: "rotated", state });
    if named.revoked.is_some() {
        return unfit(State::Revoked);
    }
    if named.suspended.is_some() {
        return unfit(ended(named, now).unwrap_or(State::Suspended));
    }
    if successor.suspended.is_some() {
        return Err(Refusal::SuccessorHeld(successor.id));
    }
    let predecessor_is_good = predecessor.suspended.is_none() && ended(predecessor, now).is_none();
    // Uses are the family's: another successor would have none left.
    if successor.max_uses.is_some_and(|max| successor.uses.max(predecessor.uses) >= max) {
        return unfit(State::Exhausted);
    }
    match ended(successor, now) {
        Some(state) if !predecessor_is_good => unfit(ended(named, now).unwrap_or(state)),
        _ => Ok(()),
    }
}

/// A token like `model`, new and unused.
fn heir(model: &TokenRecord, predecessor: TokenId, how: &How, now: UnixTime) -> Result<TokenRecord, Refusal> {
    let mut heir = model.clone();
    if let Some(lifetime) = how.lifetime {
        heir.max_expires_at = Some(now.saturating_add(lifetime));
    }
    let Some(ttl) = heir.ttl else { return Err(Refusal::State { verb: "rotated", state: State::Canary }) };
    let expires_at = now.saturating_add(ttl);
    let expires_at = heir.max_expires_at.map_or(expires_at, |ceiling| expires_at.min(ceiling));
    if expires_at <= now {
        return Err(Refusal::LifeOver(expires_at));
    }
    heir.version = 1;
    heir.order = 0;
    heir.id = how.id;
    heir.prefix = Some(how.prefix.as_str().to_owned());
    heir.digest = how.digest;
    heir.issued_at = now;
    heir.expires_at = Some(expires_at);
    heir.predecessor = Some(predecessor);
    heir.successor = None;
    heir.rotation = None;
    heir.first_used_at = None;
    heir.replaced = false;
    heir.revoked = None;
    heir.suspended = None;
    heir.warned = None;
    heir.expiry_told = false;
    Ok(heir)
}

/// Sets when a predecessor ends, counted from now.
fn overlap(predecessor: &mut TokenRecord, how: &How, now: UnixTime) {
    let ends_at = if how.at_once { now } else { now.saturating_add(how.overlap) };
    let ends_at = predecessor.expires_at.map_or(ends_at, |expires_at| ends_at.min(expires_at));
    predecessor.rotation = Some(Rotation { at: now, grace: how.grace, ends_at, successor_used_at: None });
}

/// Its overlap has run out, and now it is ended on purpose: revoking the successor must not make it good again.
fn stays_ended(predecessor: &mut TokenRecord, now: UnixTime) {
    if let Some(rotation) = &mut predecessor.rotation {
        rotation.at = now;
        rotation.ends_at = rotation.ends_at.min(now);
    }
}

fn hand_over(predecessor: &mut TokenRecord, successor: TokenId) {
    predecessor.version += 1;
    predecessor.successor = Some(successor);
}

/// Ends a predecessor whose time is not over yet. Also one that is suspended: to resume it must not make a third good one.
fn cut(mut before: TokenRecord, now: UnixTime) -> Option<TokenRecord> {
    if ended(&before, now).is_some() {
        return None;
    }
    before.rotation.as_mut()?.ends_at = now;
    before.version += 1;
    Some(before)
}

#[cfg(test)]
mod tests;
