//! Records for the unit tests of this room.

use std::collections::BTreeMap;
use std::time::Duration;

use super::record::TokenRecord;
use crate::scope::ScopeSet;
use crate::time::UnixTime;
use crate::token::{Digest, Kind, TokenId};

/// A plain machine token.
pub(crate) fn record(id: TokenId, version: u64) -> TokenRecord {
    let issued_at = UnixTime::from_secs(1_800_000_000);
    let expires_at = Some(issued_at.saturating_add(Duration::from_secs(86_400)));
    TokenRecord {
        version,
        order: 0,
        id,
        kind: Kind::Machine,
        prefix: Some("brd".to_owned()),
        digest: Digest([7; 32]),
        name: "test".to_owned(),
        subject: "alice".to_owned(),
        subject_uid: None,
        issuer: "alice".to_owned(),
        issuer_uid: 1000,
        scopes: ScopeSet::default(),
        audiences: Vec::new(),
        issued_at,
        not_before: None,
        expires_at,
        max_expires_at: expires_at,
        ttl: Some(Duration::from_secs(86_400)),
        labels: BTreeMap::new(),
        profile: None,
        max_uses: None,
        uses: 0,
        rate: None,
        allow_from: Vec::new(),
        allow_units: Vec::new(),
        allow_uids: Vec::new(),
        family: id,
        predecessor: None,
        successor: None,
        rotation: None,
        first_used_at: None,
        replaced: false,
        revoked: None,
        suspended: None,
        warned: None,
        expiry_told: false,
    }
}
