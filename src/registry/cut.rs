//! Whether the older of two tokens in a rotation can be cut off without anybody noticing.
//!
//! Invariant: where it is not known, the answer is no. An old token that is kept a while longer harms nobody; one that is
//! cut under a service that still has it does.

use crate::store::record::{LastUse, TokenRecord, UsedBy};
use crate::time::UnixTime;

/// `old` may be cut: its successor is good and in use, and whoever used the old one has used the successor since, or
/// nobody has used the old one since the rotation. `None` when it has no successor.
pub fn safe_to_cut(
    old: &TokenRecord,
    old_use: Option<&LastUse>,
    successor: Option<(&TokenRecord, Option<&LastUse>)>,
    now: UnixTime,
) -> Option<bool> {
    old.successor?;
    let Some((new, Some(new_use))) = successor else { return Some(false) };
    if new.state(now).ended() || new.suspended.is_some() {
        return Some(false);
    }
    let Some(old_use) = old_use else { return Some(true) };
    let unused_since = old.rotation.as_ref().is_some_and(|rotation| old_use.at < rotation.at);
    Some(unused_since || !forgot_some(old_use) && stay_behind(&old_use.by, &new_use.by).next().is_none())
}

/// Those of `old` who have not used the new one after they last used the old one.
fn stay_behind<'a>(old: &'a [UsedBy], new: &'a [UsedBy]) -> impl Iterator<Item = &'a UsedBy> {
    old.iter().filter(|user| {
        let moved = new.iter().any(|by| by.uid == user.uid && by.unit == user.unit && by.at > user.at);
        !moved
    })
}

/// Only so many are remembered: there were others.
fn forgot_some(last: &LastUse) -> bool {
    last.by.iter().map(|by| by.count).sum::<u64>() < last.count
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fixtures::{NOW, named, record};
    use super::*;
    use crate::store::record::{Ending, Rotation};
    use crate::token::TokenId;

    fn at(secs: u64) -> UnixTime {
        NOW.saturating_add(Duration::from_secs(secs))
    }

    /// Rotated 100 s after its issue.
    fn pair() -> (TokenRecord, TokenRecord) {
        let mut new = record(&named());
        new.id = TokenId::from_bytes([8; 16]);
        let mut old = record(&named());
        old.successor = Some(new.id);
        old.rotation =
            Some(Rotation { at: at(100), grace: Duration::ZERO, ends_at: at(9000), successor_used_at: None });
        new.predecessor = Some(old.id);
        (old, new)
    }

    fn used(by: &[(&str, u64)]) -> Option<LastUse> {
        let by: Vec<UsedBy> = by
            .iter()
            .map(|(unit, secs)| UsedBy { unit: Some((*unit).into()), uid: 1, at: at(*secs), count: 2 })
            .collect();
        let last = by.iter().max_by_key(|by| by.at)?;
        Some(LastUse { at: last.at, unit: last.unit.clone(), uid: 1, from: None, count: 2 * by.len() as u64, by })
    }

    #[track_caller]
    fn check(old_by: &[(&str, u64)], new_by: &[(&str, u64)], expected: bool) {
        let (old, new) = pair();
        let (old_use, new_use) = (used(old_by), used(new_by));
        assert_eq!(safe_to_cut(&old, old_use.as_ref(), Some((&new, new_use.as_ref())), at(1000)), Some(expected));
    }

    #[test]
    fn it_is_safe_when_everyone_has_moved() {
        check(&[("a", 50), ("b", 200)], &[("a", 300), ("b", 300)], true);
        check(&[("a", 50), ("b", 200)], &[("b", 300)], false);
        check(&[("a", 400)], &[("a", 300)], false);
        check(&[("a", 300)], &[("a", 300)], false);
        check(&[("a", 200)], &[("b", 300)], false);
    }

    #[test]
    fn what_nobody_used_since_the_rotation_is_safe_once_the_new_one_is_used() {
        check(&[("a", 50)], &[("b", 300)], true);
        check(&[], &[("b", 300)], true);
        check(&[("a", 50)], &[], false);
        check(&[], &[], false);
    }

    #[test]
    fn without_a_successor_there_is_nothing_to_say_and_without_a_good_one_nothing_to_cut() {
        let (old, new) = pair();
        let (old_use, new_use) = (used(&[("a", 200)]), used(&[("a", 300)]));
        assert_eq!(safe_to_cut(&new, new_use.as_ref(), None, at(1000)), None);
        assert_eq!(safe_to_cut(&old, old_use.as_ref(), None, at(1000)), Some(false), "it is gone");
        let ending = Some(Ending { at: NOW, reason: None, by_uid: 0 });
        for new in [TokenRecord { revoked: ending.clone(), ..new.clone() }, TokenRecord { suspended: ending, ..new }] {
            assert_eq!(safe_to_cut(&old, old_use.as_ref(), Some((&new, new_use.as_ref())), at(1000)), Some(false));
        }
    }

    #[test]
    fn users_that_were_forgotten_may_still_be_there() {
        let (old, new) = pair();
        let forgetful = used(&[("a", 200)]).map(|last| LastUse { count: 9, ..last });
        let new_use = used(&[("a", 300)]);
        assert_eq!(safe_to_cut(&old, forgetful.as_ref(), Some((&new, new_use.as_ref())), at(1000)), Some(false));
    }
}
