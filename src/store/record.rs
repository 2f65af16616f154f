//! What the store keeps of a token. A disk record: never sent to a peer as it is (that is `protocol::message::TokenInfo`).
//!
//! Every restriction that a token can carry is a field here from the first version of the format, and an unknown
//! version does not decode, so that older code never drops a newer restriction. Layout: `docs/file-format.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::protocol::message::State;
use crate::scope::ScopeSet;
use crate::time::UnixTime;
use crate::token::{Digest, Kind, TokenId};

/// At most `count` validations in each `per`, over the whole family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Validations, at least 1.
    pub count: u32,
    /// The period, longer than zero.
    pub per: Duration,
}

/// Who ended or suspended a token, when and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// When it was decided.
    pub at: UnixTime,
    /// What the one who did it gave as a reason.
    pub reason: Option<String>,
    /// The uid that did it.
    pub by_uid: u32,
}

/// A token that has been rotated: its successor exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// When the successor was issued.
    pub at: UnixTime,
    /// How long this token stays good after the successor's first use.
    pub grace: Duration,
    /// When this token ends at the latest; moved forward at the successor's first use.
    pub ends_at: UnixTime,
    /// When the successor was first used.
    pub successor_used_at: Option<UnixTime>,
}

/// A token as it is stored; all of it is sealed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Grows with each write of this record.
    pub version: u64,
    /// The newest order over many tokens that this record was held against; later ones are still to be.
    pub order: u64,
    /// The public handle.
    pub id: TokenId,
    /// Must equal the letter of the token's text.
    pub kind: Kind,
    /// The prefix that it was issued with, for its head; `None` for an imported token, which has no head.
    pub prefix: Option<String>,
    /// Keyed digest of id and secret.
    pub digest: Digest,
    /// What people call it.
    pub name: String,
    /// Whom it stands for.
    pub subject: String,
    /// uid of the user whom `subject` named when it was issued, if it named one: a later user of the same name is
    /// somebody else.
    pub subject_uid: Option<u32>,
    /// User name of who issued it, or `uid:1000` when it had none.
    pub issuer: String,
    /// uid of who issued it.
    pub issuer_uid: u32,
    /// What it may do.
    pub scopes: ScopeSet,
    /// Which services it is for; empty = any.
    pub audiences: Vec<String>,
    /// When it was issued.
    pub issued_at: UnixTime,
    /// Not good before this.
    pub not_before: Option<UnixTime>,
    /// Good while now is before this; `None` only for a canary.
    pub expires_at: Option<UnixTime>,
    /// Renewal never passes this; `None` only for a canary.
    pub max_expires_at: Option<UnixTime>,
    /// The life it was issued with, which a renewal gives again.
    pub ttl: Option<Duration>,
    /// Key and value of people's own.
    pub labels: BTreeMap<String, String>,
    /// The profile it was issued by.
    pub profile: Option<String>,
    /// Good for so many validations.
    pub max_uses: Option<u64>,
    /// Validations counted against `max_uses`.
    pub uses: u64,
    /// Validations per time.
    pub rate: Option<Rate>,
    /// Client networks it is good from; empty = any.
    pub allow_from: Vec<IpNet>,
    /// Units it is good through; empty = any.
    pub allow_units: Vec<String>,
    /// uids it is good through; empty = any.
    pub allow_uids: Vec<u32>,
    /// The id of the first of its family.
    pub family: TokenId,
    /// The token it was made from by rotation.
    pub predecessor: Option<TokenId>,
    /// The token made from it by rotation.
    pub successor: Option<TokenId>,
    /// Set once it has been rotated.
    pub rotation: Option<Rotation>,
    /// Of a successor: when it was first used. Durable before that use is answered, for it ends its predecessor.
    pub first_used_at: Option<UnixTime>,
    /// It was a successor that another took the place of before it was ever used.
    pub replaced: bool,
    /// Revoked, for good.
    pub revoked: Option<Ending>,
    /// Suspended, until resumed.
    pub suspended: Option<Ending>,
    /// The shortest time before its expiry at which it was warned of; a renewal clears it.
    pub warned: Option<Duration>,
    /// Its expiry has been told in the audit and to watchers.
    pub expiry_told: bool,
}

impl TokenRecord {
    /// The state at `now`; expiry is computed, never stored.
    pub fn state(&self, now: UnixTime) -> State {
        if self.revoked.is_some() {
            State::Revoked
        } else if self.suspended.is_some() {
            State::Suspended
        } else if self.is_rotated_out(now) {
            State::Rotated
        } else if self.expires_at.is_some_and(|at| now >= at) {
            State::Expired
        } else if now < self.begins_at() {
            State::NotYetValid
        } else if self.max_uses.is_some_and(|max| self.uses >= max) {
            State::Exhausted
        } else if self.kind == Kind::Canary {
            State::Canary
        } else if self.successor.is_some() {
            State::Rotating
        } else {
            State::Active
        }
    }

    /// When it begins to be good: never before it was issued. A token issued while the clock stood years ahead must not
    /// be good for those years once the clock is right again.
    pub fn begins_at(&self) -> UnixTime {
        self.not_before.map_or(self.issued_at, |at| at.max(self.issued_at))
    }

    /// Whether its successor has taken over, or another took the place of this one before it was used.
    pub fn is_rotated_out(&self, now: UnixTime) -> bool {
        self.replaced || self.rotation.as_ref().is_some_and(|rotation| now >= rotation.ends_at)
    }

    /// `<prefix><k>_<id>`, or `None` for an imported token.
    pub fn head(&self) -> Option<String> {
        let prefix = self.prefix.as_deref()?.parse().ok()?;
        Some(crate::token::head(prefix, self.kind, self.id))
    }
}

/// When, by whom and how often a token was last used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUse {
    /// When.
    pub at: UnixTime,
    /// Through which unit.
    pub unit: Option<String>,
    /// Through which uid.
    pub uid: u32,
    /// From which client address, as the peer gave it.
    pub from: Option<std::net::IpAddr>,
    /// How often in all.
    pub count: u64,
    /// Through whom, the latest first; at most [`USERS_MAX`].
    pub by: Vec<UsedBy>,
}

/// The units and uids that are remembered of one token.
pub const USERS_MAX: usize = 8;

/// The last use of a token through one unit and uid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedBy {
    /// Through which unit.
    pub unit: Option<String>,
    /// Through which uid.
    pub uid: u32,
    /// When, the last time.
    pub at: UnixTime,
    /// How often.
    pub count: u64,
}
