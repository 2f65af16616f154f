//! The encodings of what the store keeps: an enum with one variant a format, so that an unknown one does not decode.
//!
//! Invariant I9: what an earlier version wrote decodes for ever; only the newest is written. An old encoding lives here as
//! a type of its own, never changed again, that becomes today's.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::SweepMarks;
use super::journal::Told;
use super::order::Order;
use super::record::{Ending, LastUse, Rate, Rotation, TokenRecord, UsedBy};
use super::schema::Standing;
use crate::codec::{self, CodecError};
use crate::scope::ScopeSet;
use crate::time::{Mark, UnixTime};
use crate::token::{Digest, Kind, TokenId};

/// A value with its encodings.
pub(super) trait Stored: Sized {
    /// In the newest encoding.
    fn encode(&self) -> Vec<u8>;
    /// Of any encoding that this version knows.
    fn decode(bytes: &[u8]) -> Result<Self, CodecError>;
}

/// The encodings of what has had only one.
#[derive(Serialize, Deserialize)]
enum First<T> {
    V1(T),
}

/// What has had only one encoding so far.
macro_rules! first {
    ($($kept:ty),+ $(,)?) => { $(
        impl Stored for $kept {
            fn encode(&self) -> Vec<u8> {
                codec::encode(&First::V1(self))
            }

            fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
                let First::V1(value) = codec::decode(bytes)?;
                Ok(value)
            }
        }
    )+ };
}

first!(Vec<u8>, Told, SweepMarks, Order);

/// The encodings of what every commit writes.
#[derive(Serialize, Deserialize)]
enum StoredStanding {
    V1 { commit: u64, generation: u64, mark: Option<Mark>, clean_stop: bool },
    V2(Standing),
}

impl Stored for Standing {
    fn encode(&self) -> Vec<u8> {
        codec::encode(&StoredStanding::V2(self.clone()))
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(match codec::decode(bytes)? {
            StoredStanding::V1 { commit, generation, mark, clean_stop } => {
                Self { commit, generation, mark, clean_stop, header: None }
            }
            StoredStanding::V2(standing) => standing,
        })
    }
}

/// The encodings of a token.
#[allow(clippy::large_enum_variant, reason = "taken apart where it is decoded")]
#[derive(Serialize, Deserialize)]
enum Record<'a> {
    V1(Box<RecordV1>),
    V2(Cow<'a, TokenRecord>),
}

impl Stored for TokenRecord {
    fn encode(&self) -> Vec<u8> {
        codec::encode(&Record::V2(Cow::Borrowed(self)))
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(match codec::decode(bytes)? {
            Record::V1(record) => Self::from(*record),
            Record::V2(record) => record.into_owned(),
        })
    }
}

/// A token as the first version kept it.
#[derive(Serialize, Deserialize)]
struct RecordV1 {
    version: u64,
    id: TokenId,
    kind: Kind,
    prefix: Option<String>,
    digest: Digest,
    name: String,
    subject: String,
    subject_uid: Option<u32>,
    issuer: String,
    issuer_uid: u32,
    scopes: ScopeSet,
    audiences: Vec<String>,
    issued_at: UnixTime,
    not_before: Option<UnixTime>,
    expires_at: Option<UnixTime>,
    max_expires_at: Option<UnixTime>,
    ttl: Option<Duration>,
    labels: BTreeMap<String, String>,
    profile: Option<String>,
    max_uses: Option<u64>,
    uses: u64,
    rate: Option<Rate>,
    allow_from: Vec<IpNet>,
    allow_units: Vec<String>,
    allow_uids: Vec<u32>,
    family: TokenId,
    predecessor: Option<TokenId>,
    successor: Option<TokenId>,
    rotation: Option<Rotation>,
    replaced: bool,
    revoked: Option<Ending>,
    suspended: Option<Ending>,
    /// Bits that were never set.
    warned: u32,
    expiry_told: bool,
}

impl From<RecordV1> for TokenRecord {
    fn from(old: RecordV1) -> Self {
        Self {
            version: old.version,
            order: 0,
            id: old.id,
            kind: old.kind,
            prefix: old.prefix,
            digest: old.digest,
            name: old.name,
            subject: old.subject,
            subject_uid: old.subject_uid,
            issuer: old.issuer,
            issuer_uid: old.issuer_uid,
            scopes: old.scopes,
            audiences: old.audiences,
            issued_at: old.issued_at,
            not_before: old.not_before,
            expires_at: old.expires_at,
            max_expires_at: old.max_expires_at,
            ttl: old.ttl,
            labels: old.labels,
            profile: old.profile,
            max_uses: old.max_uses,
            uses: old.uses,
            rate: old.rate,
            allow_from: old.allow_from,
            allow_units: old.allow_units,
            allow_uids: old.allow_uids,
            family: old.family,
            predecessor: old.predecessor,
            successor: old.successor,
            rotation: old.rotation,
            first_used_at: None,
            replaced: old.replaced,
            revoked: old.revoked,
            suspended: old.suspended,
            warned: None,
            expiry_told: old.expiry_told,
        }
    }
}

/// The encodings of a last use.
#[derive(Serialize, Deserialize)]
enum Use<'a> {
    V1(UseV1),
    V2(Cow<'a, LastUse>),
}

impl Stored for LastUse {
    fn encode(&self) -> Vec<u8> {
        codec::encode(&Use::V2(Cow::Borrowed(self)))
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(match codec::decode(bytes)? {
            Use::V1(old) => Self::from(old),
            Use::V2(last) => last.into_owned(),
        })
    }
}

/// A last use as the first version kept it: of one unit and uid, with the count of all.
#[derive(Serialize, Deserialize)]
struct UseV1 {
    at: UnixTime,
    unit: Option<String>,
    uid: u32,
    from: Option<IpAddr>,
    count: u64,
}

impl From<UseV1> for LastUse {
    fn from(old: UseV1) -> Self {
        Self {
            at: old.at,
            unit: old.unit.clone(),
            uid: old.uid,
            from: old.from,
            count: old.count,
            by: vec![UsedBy { unit: old.unit, uid: old.uid, at: old.at, count: old.count }],
        }
    }
}
