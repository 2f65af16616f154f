//! renew: the life that it was issued with, again, up to the end of its lifetime.

use super::{Refusal, ended};
use crate::protocol::message::State;
use crate::store::record::TokenRecord;
use crate::time::UnixTime;
use crate::token::Kind;

/// The record with its new expiry; `None` when it has that already.
///
/// # Errors
/// [`Refusal::State`] when it has ended, is suspended or is a canary; [`Refusal::Ceiling`] when nothing is left to give:
/// then who wants it longer has to be authorised again.
pub fn renew(record: &TokenRecord, now: UnixTime) -> Result<Option<TokenRecord>, Refusal> {
    let unfit = |state| Err(Refusal::State { verb: "renewed", state });
    if let Some(state) = ended(record, now) {
        return unfit(state);
    }
    if record.suspended.is_some() {
        return unfit(State::Suspended);
    }
    let (Some(ttl), Some(expires_at), false) = (record.ttl, record.expires_at, record.kind == Kind::Canary) else {
        return unfit(State::Canary);
    };
    let ceiling = record.max_expires_at.unwrap_or(expires_at);
    if expires_at >= ceiling {
        return Err(Refusal::Ceiling(ceiling));
    }
    let renewed = now.saturating_add(ttl).min(ceiling);
    // A clock that was put right can lie before the issue: no renewal shortens a life.
    if renewed <= expires_at {
        return Ok(None);
    }
    let mut record = record.clone();
    record.version += 1;
    record.expires_at = Some(renewed);
    record.warned = None;
    record.expiry_told = false;
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::Issue;
    use crate::registry::fixtures::{DAY, NOW, named, record};
    use crate::store::record::Ending;

    #[test]
    fn it_gives_the_tokens_own_ttl_again_and_forgets_warnings() {
        let mut it = record(&Issue { ttl: Some(10 * DAY), ..named() });
        (it.warned, it.expiry_told) = (Some(DAY), true);
        let at = NOW.saturating_add(4 * DAY);
        let renewed = renew(&it, at).unwrap().expect("four days more");
        assert_eq!(renewed.expires_at, Some(at.saturating_add(10 * DAY)));
        assert_eq!((renewed.warned, renewed.expiry_told, renewed.version), (None, false, it.version + 1));
        assert_eq!((renewed.max_expires_at, renewed.ttl), (it.max_expires_at, it.ttl));
    }

    #[test]
    fn it_never_passes_the_end_of_the_lifetime_and_says_so() {
        let mut it = record(&Issue { ttl: Some(300 * DAY), ..named() });
        let ceiling = it.max_expires_at.unwrap();
        let at = NOW.saturating_add(200 * DAY);
        it = renew(&it, at).unwrap().expect("66 days more");
        assert_eq!(it.expires_at, Some(ceiling));
        assert_eq!(renew(&it, at.saturating_add(DAY)).err(), Some(Refusal::Ceiling(ceiling)));
        assert!(Refusal::Ceiling(ceiling).to_string().contains("rotate it"));
    }

    #[test]
    fn it_never_shortens() {
        let it = record(&Issue { ttl: Some(10 * DAY), ..named() });
        assert!(renew(&it, NOW.saturating_sub(DAY)) == Ok(None));
        assert!(renew(&it, NOW) == Ok(None));
    }

    #[test]
    fn what_has_ended_is_suspended_or_is_bait_is_not_renewed() {
        let it = record(&named());
        let ending = Some(Ending { at: NOW, reason: None, by_uid: 0 });
        let canary = record(&Issue { kind: Some(Kind::Canary), ..named() });
        for (unfit, state) in [
            (TokenRecord { revoked: ending.clone(), ..it.clone() }, State::Revoked),
            (TokenRecord { suspended: ending.clone(), ..it.clone() }, State::Suspended),
            // Held and over: over.
            (TokenRecord { suspended: ending, expires_at: Some(NOW), ..it.clone() }, State::Expired),
            (TokenRecord { replaced: true, ..it.clone() }, State::Rotated),
            (TokenRecord { max_uses: Some(2), uses: 2, ..it }, State::Exhausted),
            (canary, State::Canary),
        ] {
            let refusal = renew(&unfit, NOW).err().unwrap();
            assert_eq!(refusal, Refusal::State { verb: "renewed", state });
            assert!(refusal.to_string().contains(state.name()), "{refusal}");
        }
    }
}
