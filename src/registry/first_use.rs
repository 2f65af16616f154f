//! What a use changes: the uses that a family has in common, and the first use of a successor.
//!
//! Invariants: the living members of a family always agree on how often they were used, so that rotation gives no uses
//! away and takes none; the first use of a successor moves its predecessor's end forward, never back, and happens once.

use crate::store::record::TokenRecord;
use crate::time::UnixTime;
use crate::token::TokenId;

/// Whether the next use of this token is the first of a successor. One look at the record: every validation asks.
pub fn is_due(record: &TokenRecord) -> bool {
    record.first_used_at.is_none() && record.predecessor.is_some() && !record.replaced
}

/// Whether a use of this token has something to commit before it is answered.
pub fn is_counted(record: &TokenRecord) -> bool {
    record.max_uses.is_some() || is_due(record)
}

/// How often the family was used: what its living members say, the most of it.
pub fn uses(record: &TokenRecord, relatives: &[TokenRecord], now: UnixTime) -> u64 {
    let living = relatives.iter().filter(|relative| !relative.state(now).ended());
    living.map(|relative| relative.uses).fold(record.uses, u64::max)
}

/// What one use of a token writes.
pub struct Spent {
    /// The token that was used.
    pub used: TokenRecord,
    /// Its relatives, as far as they change.
    pub relatives: Vec<TokenRecord>,
    /// It was the first use of a successor.
    pub first: bool,
    /// Which predecessor ends by it, and when.
    pub ends: Option<(TokenId, UnixTime)>,
}

/// One use of `record`, which is good and has a use left; `None` when there is nothing to write.
///
/// `relatives` are the members of its family next to it, living or not.
pub fn spend(record: &TokenRecord, relatives: Vec<TokenRecord>, now: UnixTime) -> Option<Spent> {
    let first = is_due(record);
    if record.max_uses.is_none() && !first {
        return None;
    }
    let mut used = record.clone();
    let counted = record.max_uses.map(|_| uses(record, &relatives, now) + 1);
    used.uses = counted.unwrap_or(used.uses);
    used.version += 1;
    if first {
        used.first_used_at = Some(now);
    }
    let mut ends = None;
    let mut changed = Vec::new();
    for mut relative in relatives {
        let before = (relative.uses, relative.rotation.clone());
        if let Some(uses) = counted
            && relative.max_uses.is_some()
            && !relative.state(now).ended()
        {
            relative.uses = uses;
        }
        if first && record.predecessor == Some(relative.id) && relative.successor == Some(record.id) {
            ends = end(&mut relative, now).map(|at| (relative.id, at));
        }
        if before != (relative.uses, relative.rotation.clone()) {
            relative.version += 1;
            changed.push(relative);
        }
    }
    Some(Spent { used, relatives: changed, first, ends })
}

/// Ends a predecessor, its grace from now on; not one that was ended for good before.
fn end(predecessor: &mut TokenRecord, now: UnixTime) -> Option<UnixTime> {
    if predecessor.revoked.is_some() {
        return None;
    }
    let rotation = predecessor.rotation.as_mut()?;
    rotation.successor_used_at.get_or_insert(now);
    rotation.ends_at = rotation.ends_at.min(now.saturating_add(rotation.grace));
    Some(rotation.ends_at)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::registry::fixtures::{DAY, NOW, named, record};
    use crate::store::record::{Ending, Rotation};

    const GRACE: Duration = Duration::from_secs(300);

    /// A predecessor and its unused successor.
    fn pair(max_uses: Option<u64>) -> (TokenRecord, TokenRecord) {
        let mut old = record(&crate::protocol::message::Issue { max_uses, ..named() });
        let mut new = old.clone();
        new.id = TokenId::from_bytes([8; 16]);
        new.predecessor = Some(old.id);
        old.successor = Some(new.id);
        let ends_at = NOW.saturating_add(7 * DAY);
        old.rotation = Some(Rotation { at: NOW, grace: GRACE, ends_at, successor_used_at: None });
        (old, new)
    }

    #[test]
    fn the_first_use_of_a_successor_ends_its_predecessor_by_the_grace() {
        let (old, new) = pair(None);
        let spent = spend(&new, vec![old.clone()], NOW).expect("it is to be written");
        let ends_at = NOW.saturating_add(GRACE);
        assert!(spent.first);
        assert_eq!(spent.ends, Some((old.id, ends_at)));
        assert_eq!(spent.used.first_used_at, Some(NOW));
        assert_eq!((spent.used.version, spent.used.uses), (new.version + 1, 0));
        let rotation = spent.relatives[0].rotation.clone().expect("still rotated");
        assert_eq!((rotation.ends_at, rotation.successor_used_at), (ends_at, Some(NOW)));
        assert!(!spent.relatives[0].is_rotated_out(ends_at.saturating_sub(Duration::from_micros(1))));
        assert!(spent.relatives[0].is_rotated_out(ends_at));
    }

    #[test]
    fn the_second_use_changes_nothing() {
        let (old, new) = pair(None);
        let first = spend(&new, vec![old], NOW).expect("it is to be written");
        assert!(!is_counted(&first.used));
        assert!(spend(&first.used, first.relatives, NOW.saturating_add(DAY)).is_none());
    }

    #[test]
    fn an_end_is_never_put_off() {
        let (mut old, new) = pair(None);
        let soon = NOW.saturating_add(GRACE / 2);
        old.rotation.as_mut().unwrap().ends_at = soon;
        let spent = spend(&new, vec![old], NOW).unwrap();
        assert_eq!(spent.ends.map(|(_, at)| at), Some(soon));
        assert_eq!(spent.relatives[0].rotation.as_ref().unwrap().successor_used_at, Some(NOW));
    }

    #[test]
    fn a_predecessor_that_is_gone_or_revoked_is_left_alone() {
        let (mut old, new) = pair(None);
        let alone = spend(&new, Vec::new(), NOW).unwrap();
        assert_eq!((alone.first, alone.ends, alone.relatives.len()), (true, None, 0));
        old.revoked = Some(Ending { at: NOW, reason: None, by_uid: 0 });
        let spent = spend(&new, vec![old], NOW).unwrap();
        assert_eq!((spent.ends, spent.relatives.len()), (None, 0));
        assert_eq!(spent.used.first_used_at, Some(NOW));
    }

    #[test]
    fn who_is_no_unused_successor_has_no_first_use() {
        let (old, mut new) = pair(None);
        assert!(!is_due(&old) && is_due(&new));
        new.replaced = true;
        assert!(!is_due(&new));
        assert!(spend(&old, vec![new], NOW).is_none(), "an ordinary use writes nothing");
    }

    #[test]
    fn a_family_counts_together() {
        let (old, new) = pair(Some(5));
        let spent = spend(&old, vec![new.clone()], NOW).unwrap();
        assert!(!spent.first);
        assert_eq!((spent.used.uses, spent.relatives[0].uses), (1, 1));
        let (old, new) = (spent.used, spent.relatives[0].clone());
        let spent = spend(&new, vec![old], NOW).unwrap();
        assert!(spent.first, "both at once");
        assert_eq!((spent.used.uses, spent.relatives[0].uses), (2, 2));
        assert!(spent.relatives[0].rotation.as_ref().unwrap().successor_used_at.is_some());
    }

    #[test]
    fn who_has_ended_need_not_agree() {
        let (mut old, mut new) = pair(Some(5));
        (old.uses, new.uses) = (4, 2);
        assert_eq!(uses(&new, &[old.clone()], NOW), 4, "if ever they do not agree, the most counts");
        old.replaced = true;
        assert_eq!(uses(&new, &[old.clone()], NOW), 2);
        new.first_used_at = Some(NOW);
        let spent = spend(&new, vec![old], NOW).unwrap();
        assert_eq!((spent.used.uses, spent.relatives.len()), (3, 0));
    }
}
