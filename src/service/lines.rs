//! The lines of validations: what stands in the trail of each, and which share one.
//!
//! Invariants: uses share a line only if all that was asked is the same, and by whom (I4). Refusals are within the uid's
//! budget of lines (I7). Nothing of a line is made before it is known that one is needed.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::validate::Asked;
use super::{Caller, Service};
use crate::audit::{AuditEvent, EventKind, KeyHasher, Recording, Refusal, UseKey};
use crate::peer::{Peer, PeerLabel};
use crate::protocol::code::Reason;
use crate::store::UseNote;
use crate::store::record::TokenRecord;
use crate::time::UnixTime;
use crate::token::TokenId;

impl Service {
    /// A use that is good, if it can be recorded.
    pub(super) fn record_use(
        &self,
        caller: &Caller,
        record: &TokenRecord,
        asked: Asked<'_>,
        now: UnixTime,
    ) -> Recording {
        let key = use_key(&caller.peer, asked, record.id);
        self.audit.used(key, now, || event_of_use(record, asked, caller.peer.label(), None, now))
    }

    /// A refusal to who did not show the right secret. `id` is what the text claims.
    pub(super) fn refuse_stranger(
        &self,
        caller: &Caller,
        asked: Asked<'_>,
        reason: Reason,
        id: Option<TokenId>,
        now: UnixTime,
    ) {
        let key = refusal_key(&caller.peer, None, reason.name());
        self.audit.refused(key, self.refusal(caller), false, now, || {
            let Asked { ask, from, from_asserted } = asked;
            let mut event = AuditEvent::new(EventKind::Deny, now);
            event.outcome = Some("inactive".into());
            event.reason = Some(reason.name().into());
            event.id = id;
            event.peer = Some(caller.peer.label());
            event.scopes = Some(ask.scopes.iter().map(|&scope| scope.to_owned()).collect());
            event.audience = ask.audience.map(str::to_owned);
            event.from = from;
            event.from_asserted = from.map(|_| from_asserted);
            event.note = ask.note.map(str::to_owned);
            event
        });
    }

    /// A refusal to who showed the right secret. A canary and a rotated-out token are alerts, which may be something to
    /// wait for.
    pub(super) fn refuse_known(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        record: &TokenRecord,
        asked: Asked<'_>,
        reason: Reason,
        now: UnixTime,
    ) -> Option<oneshot::Receiver<()>> {
        if matches!(reason, Reason::Canary | Reason::Rotated) {
            return self.alert(caller, record, &asked.owned(), reason, now);
        }
        self.refuse_shared(caller, record, asked, reason, now);
        None
    }

    /// The line of a refusal, coalesced by token and reason, within the uid's budget of lines.
    pub(super) fn refuse_shared(
        &self,
        caller: &Caller,
        record: &TokenRecord,
        asked: Asked<'_>,
        reason: Reason,
        now: UnixTime,
    ) {
        let key = refusal_key(&caller.peer, Some(record.id), reason.name());
        let event = || event_of_use(record, asked, caller.peer.label(), Some(reason), now);
        self.audit.refused(key, self.refusal(caller), false, now, event);
    }

    pub(super) fn refuse_plain(&self, peer: &Peer, reason: &'static str, event: AuditEvent) {
        let refusal = Refusal { uid: peer.uid, exempt: self.settings().policy.standing(peer).full };
        self.audit.refused(refusal_key(peer, None, reason), refusal, false, event.time, || event);
    }

    /// Whose budget of lines a refusal is charged to; peers with full rights have none.
    pub(super) fn refusal(&self, caller: &Caller) -> Refusal {
        Refusal { uid: caller.peer.uid, exempt: caller.known(self).standing.full }
    }

    pub(super) fn note_use(&self, caller: &Caller, id: TokenId, from: Option<IpAddr>, peek: bool, now: UnixTime) {
        if !peek {
            let unit = caller.peer.unit.as_deref();
            self.store.note_use(id, UseNote { at: now, unit, uid: caller.peer.uid, from, count: 1 });
        }
    }
}

/// Uses are alike when token, process, address and all that was asked are the same.
fn use_key(peer: &Peer, asked: Asked<'_>, id: TokenId) -> UseKey {
    let Asked { ask, from, .. } = asked;
    UseKey::of(|hasher| {
        hasher.write(id.as_bytes());
        hasher.write_i32(peer.pid);
        hasher.write_u32(peer.uid);
        hasher.write(&[u8::from(ask.peek), ask.scopes.len() as u8]);
        text(peer.unit.as_deref(), hasher);
        for &scope in &ask.scopes {
            text(Some(scope), hasher);
        }
        text(ask.audience, hasher);
        text(ask.note, hasher);
        match from {
            None => hasher.write_u8(0),
            Some(IpAddr::V4(from)) => hasher.write(&from.octets()),
            Some(IpAddr::V6(from)) => hasher.write(&from.octets()),
        }
    })
}

/// A text with what tells where it ends: none of them has the byte 0xFF, which no UTF-8 has.
fn text(text: Option<&str>, hasher: &mut KeyHasher) {
    match text {
        Some(text) => {
            hasher.write(text.as_bytes());
            hasher.write_u8(0xFF);
        }
        None => hasher.write_u8(0xFE),
    }
}

/// Refusals are alike by uid, unit and reason; those of a token that was really shown, by token too.
fn refusal_key(peer: &Peer, id: Option<TokenId>, reason: &'static str) -> UseKey {
    UseKey::of(|hasher| (id, peer.uid, peer.unit.as_deref(), reason).hash(hasher))
}

pub(super) fn event_of_use(
    record: &TokenRecord,
    asked: Asked<'_>,
    peer: PeerLabel,
    reason: Option<Reason>,
    now: UnixTime,
) -> AuditEvent {
    let kind = match reason {
        None => EventKind::Use,
        Some(Reason::Canary) => EventKind::Canary,
        Some(Reason::Rotated) => EventKind::Reuse,
        Some(_) => EventKind::Deny,
    };
    let Asked { ask, from, from_asserted } = asked;
    let mut event = AuditEvent::new(kind, now);
    event.outcome = Some(if reason.is_none() { "active".into() } else { "inactive".into() });
    event.reason = reason.map(|reason| reason.name().into());
    event.id = Some(record.id);
    event.name = Some(record.name.clone());
    event.subject = Some(record.subject.clone());
    event.kind = Some(record.kind);
    event.scopes = Some(ask.scopes.iter().map(|&scope| scope.to_owned()).collect());
    event.audience = ask.audience.map(str::to_owned);
    event.peer = Some(peer);
    event.from = from;
    event.from_asserted = from.map(|_| from_asserted);
    event.note = match (ask.note, ask.peek) {
        // By its note a use must not pass for a look: neither in the trail, nor in a restore, which counts uses again.
        (Some(note), false) if note.starts_with("peek") => Some(format!("note: {note}")),
        (note, false) => note.map(str::to_owned),
        (None, true) => Some("peek".to_owned()),
        (Some(note), true) => Some(format!("peek: {note}")),
    };
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::Validate;

    /// I4: what differs in anything has a line of its own.
    #[test]
    fn a_use_shares_a_line_only_with_its_like() {
        let peer = |pid, unit: Option<&str>| Peer {
            pid,
            uid: 7,
            gid: 7,
            groups: Box::default(),
            unit: unit.map(Into::into),
            container: None,
            tcp: false,
        };
        let ask = |scopes: &[&'static str], audience, note, peek| Validate {
            token: "",
            scopes: scopes.to_vec(),
            audience,
            from: None,
            note,
            peek,
        };
        let id = TokenId::from_bytes([1; 16]);
        let here: IpAddr = "192.0.2.1".parse().expect("an address");
        let one = peer(1, Some("a.service"));
        let plain = ask(&["a", "b"], None, None, false);
        let key =
            |peer: &Peer, ask: &Validate<'_>, from, id| use_key(peer, Asked { ask, from, from_asserted: false }, id);
        let mut keys = vec![
            key(&one, &plain, None, id),
            key(&one, &plain, None, TokenId::MIN),
            key(&one, &plain, Some(here), id),
            key(&one, &plain, Some("::ffff:192.0.2.1".parse().expect("an address")), id),
            key(&peer(2, Some("a.service")), &plain, None, id),
            key(&peer(1, Some("b.service")), &plain, None, id),
            key(&peer(1, Some("")), &plain, None, id),
            key(&peer(1, None), &plain, None, id),
        ];
        let asks = [
            ask(&["ab"], None, None, false),
            ask(&["a"], Some("b"), None, false),
            ask(&["a"], None, Some("b"), false),
            ask(&["a", "b"], Some(""), None, false),
            ask(&["a", "b"], None, Some(""), false),
            ask(&["a", "b"], None, None, true),
            ask(&["b", "a"], None, None, false),
            ask(&[], Some("a"), Some("b"), false),
            ask(&[], None, None, false),
        ];
        keys.extend(asks.iter().map(|ask| key(&one, ask, None, id)));
        assert_eq!(keys[0], key(&one, &plain, None, id));
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(key), "{at}");
        }
    }
}
