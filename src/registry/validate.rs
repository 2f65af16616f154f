//! validate: is this token good for this?
//!
//! The order of checks is fixed: form and check characters, lookup, digest, state, time, peer binding, network, audience,
//! scopes, rate, uses. The first that fails is the reason. What stands before the digest is all that somebody without
//! the right secret can learn, and unknown id, wrong secret and wrong kind letter are one reason with the same cost:
//! one lookup, one digest.

use std::net::IpAddr;

use crate::protocol::code::Reason;
use crate::store::record::TokenRecord;
use crate::time::UnixTime;
use crate::token::{self, Kind, Token};

/// What a validation is about, besides the token.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// When.
    pub now: UnixTime,
    /// What is needed, all of it.
    pub scopes: &'a [&'a str],
    /// The service that asks.
    pub audience: Option<&'a str>,
    /// The client's address, if the peer's word for it counts.
    pub from: Option<IpAddr>,
    /// The peer's attested unit.
    pub unit: Option<&'a str>,
    /// The peer's uid, if it has one here.
    pub uid: Option<u32>,
}

/// What the record says of it; rate and uses come after.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Judgement {
    /// Good, as far as the record goes.
    Good,
    /// Not good.
    Bad(Reason),
    /// It may not do all that is asked: these are missing.
    Lacks(Vec<String>),
}

/// Whether `presented` is the token of `record`: right secret, right letter. One digest, whatever comes of it.
pub fn is_genuine(digest_key: &[u8; 32], presented: &Token, record: Option<&TokenRecord>) -> bool {
    let digest = token::digest(digest_key, presented.id, &presented.secret);
    match record {
        Some(record) => digest == record.digest && presented.kind == record.kind && record.prefix.is_some(),
        None => false,
    }
}

/// State, time, peer binding, network, audience and scopes, in that order.
pub fn judge(record: &TokenRecord, asked: &Circumstances<'_>) -> Judgement {
    if let Some(reason) = state(record, asked.now) {
        return Judgement::Bad(reason);
    }
    if !peer_fits(record, asked) {
        return Judgement::Bad(Reason::WrongPeer);
    }
    if !network_fits(record, asked.from) {
        return Judgement::Bad(Reason::WrongNetwork);
    }
    if !audience_fits(record, asked.audience) {
        return Judgement::Bad(Reason::WrongAudience);
    }
    let missing = record.scopes.missing(asked.scopes);
    if !missing.is_empty() {
        return Judgement::Lacks(missing.into_iter().map(str::to_owned).collect());
    }
    Judgement::Good
}

/// Whether all uses are spent: the last check, after the rate.
pub fn is_exhausted(record: &TokenRecord) -> bool {
    record.max_uses.is_some_and(|max| record.uses >= max)
}

/// When time alone ends a token that is good now. What else may end it is written to its record.
pub fn good_until(record: &TokenRecord) -> Option<UnixTime> {
    let rotated = record.rotation.as_ref().map(|rotation| rotation.ends_at);
    [record.expires_at, rotated].into_iter().flatten().min()
}

fn state(record: &TokenRecord, now: UnixTime) -> Option<Reason> {
    if record.revoked.is_some() {
        Some(Reason::Revoked)
    } else if record.suspended.is_some() {
        Some(Reason::Suspended)
    } else if record.is_rotated_out(now) {
        Some(Reason::Rotated)
    } else if record.expires_at.is_some_and(|at| now >= at) {
        Some(Reason::Expired)
    } else if now < record.begins_at() {
        Some(Reason::NotYetValid)
    } else if record.kind == Kind::Canary {
        Some(Reason::Canary)
    } else {
        None
    }
}

fn peer_fits(record: &TokenRecord, asked: &Circumstances<'_>) -> bool {
    let unit =
        record.allow_units.is_empty() || asked.unit.is_some_and(|unit| record.allow_units.iter().any(|u| u == unit));
    let uid = record.allow_uids.is_empty() || asked.uid.is_some_and(|uid| record.allow_uids.contains(&uid));
    unit && uid
}

/// A token that is bound to networks is not good from an address that nobody vouches for.
fn network_fits(record: &TokenRecord, from: Option<IpAddr>) -> bool {
    record.allow_from.is_empty()
        || from.map(super::canonical).is_some_and(|from| record.allow_from.iter().any(|net| net.contains(&from)))
}

/// A token that is for certain services is not good for one that does not say which it is.
fn audience_fits(record: &TokenRecord, audience: Option<&str>) -> bool {
    record.audiences.is_empty() || audience.is_some_and(|audience| record.audiences.iter().any(|a| a == audience))
}
