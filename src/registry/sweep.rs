//! What the sweeper does to one token: tell that it has expired, warn that it will, forget it.
//!
//! Invariant: each is told once. What has been told stands in the record, and is taken back only when the clock has gone
//! back behind it: then it was not true.

use std::time::Duration;

use crate::store::record::TokenRecord;
use crate::time::UnixTime;
use crate::token::Kind;

/// Whether its expiry is to be told now: it has come, and found the token alive. One that ended before, by revocation or
/// because its successor took over, had its end told then. A predecessor whose time ran out while its successor waited
/// is told of: somebody has not put the new one in place.
pub fn expires(record: &TokenRecord, now: UnixTime) -> bool {
    let Some(at) = record.expires_at else { return false };
    let rotated_before = record.replaced || record.rotation.as_ref().is_some_and(|rotation| rotation.ends_at < at);
    now >= at && !record.expiry_told && record.revoked.is_none() && !rotated_before
}

/// The record once that has been told.
#[must_use]
pub fn expiry_told(mut record: TokenRecord) -> TokenRecord {
    record.version += 1;
    record.expiry_told = true;
    record
}

/// The time ahead of its expiry that is to be told of now, of `leads`: the shortest that has been reached, if none as
/// short was told before. So after a time in which nobody looked only the nearest is told.
///
/// Only machine tokens that are in use: not what has ended, is spent or held, or has a successor that took over. A lead
/// that is not shorter than the token's life is none of its: it would be told at once.
pub fn warns(record: &TokenRecord, leads: &[Duration], now: UnixTime) -> Option<Duration> {
    let at = record.expires_at?;
    let spent = record.max_uses.is_some_and(|max| record.uses >= max);
    let over = record.revoked.is_some() || record.suspended.is_some() || spent || record.is_rotated_out(now);
    let taken_over = record.rotation.as_ref().is_some_and(|rotation| rotation.successor_used_at.is_some());
    if record.kind != Kind::Machine || now >= at || over || taken_over {
        return None;
    }
    let life = record.ttl.unwrap_or_else(|| at.since(record.issued_at));
    let left = at.since(now);
    let nearest = leads.iter().copied().filter(|lead| *lead < life && left <= *lead).min()?;
    record.warned.is_none_or(|warned| nearest < warned).then_some(nearest)
}

/// The record once that has been told.
#[must_use]
pub fn warned(mut record: TokenRecord, lead: Duration) -> TokenRecord {
    record.version += 1;
    record.warned = Some(lead);
    record
}

/// The record without what was told too early, by a clock that has gone back since; `None` when there is nothing.
pub fn untold(record: &TokenRecord, now: UnixTime) -> Option<TokenRecord> {
    let at = record.expires_at?;
    let expiry = record.expiry_told && now < at;
    let warning = record.warned.is_some_and(|lead| now < at.saturating_sub(lead));
    (expiry || warning).then(|| {
        let mut record = record.clone();
        record.version += 1;
        record.expiry_told &= !expiry;
        record.warned = record.warned.filter(|_| !warning);
        record
    })
}

/// When it ended for good, at the earliest; `None` while it has not. What is spent counts from its expiry, and so does
/// what another took the place of: neither moment was written down. A canary ends only by revocation.
pub fn ended_at(record: &TokenRecord, now: UnixTime) -> Option<UnixTime> {
    let revoked = record.revoked.as_ref().map(|ending| ending.at);
    let rotated = record.rotation.as_ref().map(|rotation| rotation.ends_at);
    [revoked, rotated, record.expires_at].into_iter().flatten().filter(|at| *at <= now).min()
}

/// Whether it is to be forgotten: ended for longer than `retention`, and nothing left to tell of it.
pub fn forgets(record: &TokenRecord, retention: Duration, now: UnixTime) -> bool {
    ended_at(record, now).is_some_and(|at| at.saturating_add(retention) <= now) && !expires(record, now)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{DAY, NOW, named, record};
    use super::*;
    use crate::store::record::{Ending, Rotation};

    const LEADS: [Duration; 3] = [Duration::from_secs(14 * 86_400), Duration::from_secs(7 * 86_400), DAY];

    fn lives(days: u32) -> TokenRecord {
        record(&crate::protocol::message::Issue { ttl: Some(days * DAY), ..named() })
    }

    fn at(days: f64) -> UnixTime {
        NOW.saturating_add(DAY.mul_f64(days))
    }

    fn ending() -> Option<Ending> {
        Some(Ending { at: NOW, reason: None, by_uid: 0 })
    }

    fn rotation(ends_at: UnixTime, used: bool) -> Option<Rotation> {
        Some(Rotation { at: NOW, grace: DAY, ends_at, successor_used_at: used.then_some(NOW) })
    }

    #[test]
    fn an_expiry_is_told_once_and_of_what_lived_until_then() {
        let token = lives(30);
        assert!(!expires(&token, at(29.99)));
        assert!(expires(&token, at(30.0)));
        assert!(!expires(&expiry_told(token.clone()), at(31.0)));
        let held = TokenRecord { suspended: ending(), ..token.clone() };
        assert!(expires(&held, at(30.0)), "it can't be resumed any more");
        for over in [
            TokenRecord { revoked: ending(), ..token.clone() },
            TokenRecord { replaced: true, ..token.clone() },
            TokenRecord { rotation: rotation(at(29.0), true), ..token.clone() },
            TokenRecord { expires_at: None, kind: Kind::Canary, ..token.clone() },
        ] {
            assert!(!expires(&over, at(40.0)));
        }
        let waited = TokenRecord { rotation: rotation(at(30.0), false), ..token };
        assert!(expires(&waited, at(30.0)), "its successor was never used");
    }

    #[test]
    fn each_lead_is_told_once_and_of_missed_ones_only_the_nearest() {
        let token = lives(30);
        assert_eq!(warns(&token, &LEADS, at(15.9)), None);
        assert_eq!(warns(&token, &LEADS, at(16.0)), Some(14 * DAY));
        let once = warned(token.clone(), 14 * DAY);
        assert_eq!(warns(&once, &LEADS, at(22.9)), None);
        assert_eq!(warns(&once, &LEADS, at(23.0)), Some(7 * DAY));
        assert_eq!(warns(&token, &LEADS, at(29.5)), Some(DAY), "two were missed");
        assert_eq!(warns(&warned(token.clone(), DAY), &LEADS, at(29.9)), None);
        assert_eq!(
            warns(&warned(token.clone(), DAY), &[10 * DAY, 2 * DAY], at(29.9)),
            None,
            "other leads, told already"
        );
        assert_eq!(warns(&token, &LEADS, at(30.0)), None, "it is over");
        assert_eq!(warns(&token, &[], at(29.0)), None);
    }

    #[test]
    fn a_life_that_is_shorter_than_the_lead_is_not_warned_of_it() {
        assert_eq!(warns(&lives(5), &LEADS, at(0.0)), None);
        assert_eq!(warns(&lives(5), &LEADS, at(4.0)), Some(DAY));
        assert_eq!(warns(&lives(7), &LEADS, at(0.0)), None);
        assert_eq!(warns(&lives(1), &LEADS, at(0.5)), None);
    }

    #[test]
    fn who_has_no_use_for_a_warning_gets_none() {
        let token = lives(30);
        assert!(
            warns(&TokenRecord { rotation: rotation(at(30.0), false), ..token.clone() }, &LEADS, at(29.5)).is_some()
        );
        for quiet in [
            TokenRecord { kind: Kind::Session, ..token.clone() },
            TokenRecord { revoked: ending(), ..token.clone() },
            TokenRecord { suspended: ending(), ..token.clone() },
            TokenRecord { max_uses: Some(3), uses: 3, ..token.clone() },
            TokenRecord { rotation: rotation(at(29.9), true), ..token.clone() },
            TokenRecord { rotation: rotation(at(29.0), false), ..token.clone() },
            TokenRecord { replaced: true, ..token },
        ] {
            assert_eq!(warns(&quiet, &LEADS, at(29.5)), None);
        }
    }

    #[test]
    fn what_a_wrong_clock_has_told_is_taken_back_with_it() {
        let told = expiry_told(warned(lives(30), DAY));
        assert_eq!(untold(&told, at(30.0)).map(drop), None);
        let back = untold(&told, at(29.5)).unwrap();
        assert_eq!((back.expiry_told, back.warned), (false, Some(DAY)));
        let back = untold(&told, at(3.0)).unwrap();
        assert_eq!((back.expiry_told, back.warned), (false, None));
        assert!(untold(&lives(30), at(3.0)).is_none());
    }

    #[test]
    fn a_token_is_forgotten_a_while_after_its_earliest_end() {
        let token = lives(30);
        let told = expiry_told(token.clone());
        assert!(!forgets(&told, 90 * DAY, at(119.9)) && forgets(&told, 90 * DAY, at(120.0)));
        assert!(!forgets(&token, 90 * DAY, at(500.0)), "its expiry is still to be told");
        assert!(forgets(&TokenRecord { revoked: ending(), ..token.clone() }, 20 * DAY, at(20.0)));
        let over = TokenRecord { rotation: rotation(at(5.0), true), ..token.clone() };
        assert!(!forgets(&over, DAY, at(5.9)) && forgets(&over, DAY, at(6.0)));
        assert!(!forgets(&TokenRecord { suspended: ending(), ..told.clone() }, 90 * DAY, at(100.0)));
        let bait = TokenRecord { expires_at: None, kind: Kind::Canary, ..token };
        assert!(!forgets(&bait, Duration::ZERO, UnixTime::MAX));
        assert!(forgets(&TokenRecord { revoked: ending(), ..bait }, DAY, at(1.0)));
    }
}
