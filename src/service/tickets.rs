//! Tickets: what a verdict that may be kept granted, in the daemon's own words, so that the uses a client reports later
//! can be recorded as what they were.
//!
//! Invariant I4: no use is in the audit log that no verdict stands behind. A ticket is the grant, and a MAC over it and the
//! uid that it was granted to, under a key of this store alone: it says nothing that its holder does not know, can't be
//! made or changed by anybody else, and is good over restarts. The client sees bytes.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::protocol::TICKET_MAX;
use crate::protocol::message::Validate;
use crate::time::UnixTime;
use crate::token::TokenId;
use crate::vault::Keyring;

/// Bytes of the MAC, behind the grant.
const MAC_BYTES: usize = 32;

/// What was granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Granted<'a> {
    /// Of which token.
    pub(super) id: TokenId,
    /// When.
    pub(super) at: UnixTime,
    /// Under which generation of the epoch page.
    pub(super) epoch: u64,
    /// For these scopes,
    #[serde(borrow)]
    pub(super) scopes: Vec<&'a str>,
    /// this service,
    pub(super) audience: Option<&'a str>,
    /// and this client.
    pub(super) from: Option<IpAddr>,
    /// Whether the peer's word for the address was relied on.
    pub(super) from_asserted: bool,
}

/// The encodings of a grant. An unknown one is refused.
#[derive(Serialize, Deserialize)]
enum Versioned<T> {
    V1(T),
}

impl<'a> Granted<'a> {
    /// The ticket for the peer of this uid.
    pub(super) fn ticket(&self, keyring: &Keyring, uid: u32) -> Vec<u8> {
        let mut bytes = codec::encode(&Versioned::V1(self));
        let mac = keyring.ticket_mac(uid, &bytes);
        bytes.extend_from_slice(mac.as_bytes());
        bytes
    }

    /// What a ticket of the peer of this uid grants; `None` when it is none.
    pub(super) fn open(keyring: &Keyring, uid: u32, ticket: &'a [u8]) -> Option<Self> {
        if ticket.len() > TICKET_MAX {
            return None;
        }
        let (grant, mac) = ticket.split_last_chunk::<MAC_BYTES>()?;
        // Two hashes of BLAKE3 are compared in constant time.
        if keyring.ticket_mac(uid, grant) != blake3::Hash::from_bytes(*mac) {
            return None;
        }
        let Versioned::V1(granted) = codec::decode::<Versioned<Self>>(grant).ok()?;
        Some(granted)
    }

    /// The question that it answers, without the token.
    pub(super) fn ask(&self) -> Validate<'a> {
        let Self { scopes, audience, from, .. } = self.clone();
        Validate { token: "", scopes, audience, from, note: None, peek: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::KeySource;

    fn keyring() -> Keyring {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("private");
        let source = KeySource::create_file(&dir.path().join("key")).expect("a key");
        Keyring::create(&source, UnixTime::from_secs(1)).expect("a keyring").0
    }

    fn granted() -> Granted<'static> {
        Granted {
            id: TokenId::from_bytes([7; 16]),
            at: UnixTime::from_secs(1_800_000_000),
            epoch: 300,
            scopes: vec!["repo:read", "backup"],
            audience: Some("forge"),
            from: Some(IpAddr::from([192, 0, 2, 1])),
            from_asserted: true,
        }
    }

    #[test]
    fn a_ticket_is_good_for_its_uid_and_store_and_as_it_is() {
        let (ours, others) = (keyring(), keyring());
        let ticket = granted().ticket(&ours, 1000);
        assert_eq!(Granted::open(&ours, 1000, &ticket), Some(granted()));
        assert_eq!(Granted::open(&ours, 1001, &ticket), None);
        assert_eq!(Granted::open(&others, 1000, &ticket), None);
        for place in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[place] ^= 1;
            assert_eq!(Granted::open(&ours, 1000, &changed), None, "byte {place}");
            assert_eq!(Granted::open(&ours, 1000, &ticket[..place]), None, "cut at {place}");
        }
        let mut longer = ticket;
        longer.push(0);
        assert_eq!(Granted::open(&ours, 1000, &longer), None);
        assert_eq!(Granted::open(&ours, 1000, &vec![0; TICKET_MAX + 1]), None);
    }

    #[test]
    fn the_largest_grant_fits_a_ticket() {
        let scope = "s".repeat(128);
        let most = Granted { scopes: vec![&scope; crate::scope::SCOPES_MAX], audience: Some(&scope), ..granted() };
        let keyring = keyring();
        let ticket = most.ticket(&keyring, 0);
        assert!(ticket.len() <= TICKET_MAX, "{}", ticket.len());
        assert_eq!(Granted::open(&keyring, 0, &ticket).expect("it opens").scopes.len(), crate::scope::SCOPES_MAX);
    }
}
