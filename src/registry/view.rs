//! What of a record is shown to peers: all but the digest and what is the store's own business.

use crate::protocol::message::{LastUsed, Rate, TokenFacts, TokenInfo};
use crate::store::record::{LastUse, TokenRecord};
use crate::time::UnixTime;

/// The facts of a token.
pub fn facts(record: &TokenRecord) -> TokenFacts {
    TokenFacts {
        id: record.id,
        head: record.head(),
        kind: record.kind,
        name: record.name.clone(),
        subject: record.subject.clone(),
        issuer: record.issuer.clone(),
        issuer_uid: record.issuer_uid,
        scopes: record.scopes.to_strings(),
        audiences: record.audiences.clone(),
        issued_at: record.issued_at,
        not_before: record.not_before,
        expires_at: record.expires_at,
        max_expires_at: record.max_expires_at,
        ttl: record.ttl,
        labels: record.labels.clone(),
        profile: record.profile.clone(),
        max_uses: record.max_uses,
        uses_left: record.max_uses.map(|max| max.saturating_sub(record.uses)),
        rate: record.rate.map(|rate| Rate { count: rate.count, per: rate.per }),
        allow_from: record.allow_from.iter().map(ToString::to_string).collect(),
        allow_units: record.allow_units.clone(),
        allow_uids: record.allow_uids.clone(),
        family: record.family,
        predecessor: record.predecessor,
        successor: record.successor,
        revoked_at: record.revoked.as_ref().map(|ending| ending.at),
        revoked_reason: record.revoked.as_ref().and_then(|ending| ending.reason.clone()),
    }
}

/// The facts, the state at `now` and the last use.
pub fn info(record: &TokenRecord, last: Option<LastUse>, now: UnixTime) -> TokenInfo {
    let last_used =
        last.map(|last| LastUsed { at: last.at, unit: last.unit, uid: last.uid, from: last.from, count: last.count });
    TokenInfo { facts: facts(record), state: record.state(now), last_used }
}
