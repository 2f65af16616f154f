//! The members of a family: what hangs together by rotation.
//!
//! Invariant: each member is read once, and no more than [`MEMBERS_MAX`], whatever the links say.

use std::collections::{BTreeSet, VecDeque};

use super::revoke::relatives;
use crate::store::record::TokenRecord;
use crate::time::UnixTime;
use crate::token::TokenId;

/// Members that are looked at: a token that is rotated each quarter of an hour has so many in a hundred days.
pub const MEMBERS_MAX: usize = 10_000;
/// Links that are followed from a member to those that live with it: there are two such at most.
const NEAR_MAX: usize = 8;

/// The members next to `record`: its predecessor in any state, and all that live without an ended one between.
///
/// # Errors
/// Those of `read`.
pub fn near<E>(
    record: &TokenRecord,
    now: UnixTime,
    mut read: impl FnMut(TokenId) -> Result<Option<TokenRecord>, E>,
) -> Result<Vec<TokenRecord>, E> {
    let mut found: Vec<TokenRecord> = Vec::new();
    let mut queue: VecDeque<TokenId> = relatives(record).collect();
    while let Some(id) = queue.pop_front() {
        if id == record.id || found.iter().any(|other| other.id == id) || found.len() >= NEAR_MAX {
            continue;
        }
        let Some(member) = read(id)? else { continue };
        if !member.state(now).ended() {
            queue.extend(relatives(&member));
        }
        found.push(member);
    }
    Ok(found)
}

/// All members that have not ended, however they are linked to the one with this id, and it itself.
///
/// # Errors
/// Those of `read`.
pub fn living<E>(
    id: TokenId,
    now: UnixTime,
    mut read: impl FnMut(TokenId) -> Result<Option<TokenRecord>, E>,
) -> Result<Vec<TokenRecord>, E> {
    let mut seen = BTreeSet::from([id]);
    let mut queue = VecDeque::from([id]);
    let mut found = Vec::new();
    while let Some(id) = queue.pop_front() {
        let Some(member) = read(id)? else { continue };
        for id in relatives(&member) {
            if seen.len() < MEMBERS_MAX && seen.insert(id) {
                queue.push_back(id);
            }
        }
        if !member.state(now).ended() {
            found.push(member);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;
    use crate::registry::fixtures::{NOW, named, record};

    /// A chain of tokens, of which some have been replaced.
    fn chain(replaced: &[bool]) -> BTreeMap<TokenId, TokenRecord> {
        let id = |n: usize| TokenId::from_bytes((n as u128 + 1).to_be_bytes());
        let member = |n: usize| {
            let mut it = record(&named());
            it.id = id(n);
            it.predecessor = n.checked_sub(1).map(id);
            it.successor = (n + 1 < replaced.len()).then(|| id(n + 1));
            it.replaced = replaced[n];
            (it.id, it)
        };
        (0..replaced.len()).map(member).collect()
    }

    fn ids(found: &[TokenRecord]) -> Vec<u128> {
        let mut ids: Vec<u128> = found.iter().map(|it| u128::from_be_bytes(*it.id.as_bytes())).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn all_that_live_are_found_from_anywhere() {
        let family = chain(&[true, false, true, false, false]);
        for id in family.keys() {
            let found = living(*id, NOW, |id| Ok::<_, Infallible>(family.get(&id).cloned())).unwrap();
            assert_eq!(ids(&found), [2, 4, 5]);
        }
    }

    #[test]
    fn near_ends_at_who_has_ended() {
        let family = chain(&[false, true, false, false, true, false]);
        let read = |id| Ok::<_, Infallible>(family.get(&id).cloned());
        let of = |n: u128| near(&family[&TokenId::from_bytes(n.to_be_bytes())], NOW, read).unwrap();
        assert_eq!(ids(&of(3)), [2, 4, 5]);
        assert_eq!(ids(&of(1)), [2]);
    }

    #[test]
    fn a_circle_and_a_chain_without_end_are_bounded() {
        let mut family = chain(&[false; 3]);
        let last = *family.keys().next_back().unwrap();
        let first = *family.keys().next().unwrap();
        family.get_mut(&last).unwrap().successor = Some(first);
        let found = living(first, NOW, |id| Ok::<_, Infallible>(family.get(&id).cloned())).unwrap();
        assert_eq!(ids(&found), [1, 2, 3]);

        let endless = |id: TokenId| {
            let mut it = record(&named());
            it.id = id;
            it.successor = Some(TokenId::from_bytes((u128::from_be_bytes(*id.as_bytes()) + 1).to_be_bytes()));
            Ok::<_, Infallible>(Some(it))
        };
        assert_eq!(living(first, NOW, endless).unwrap().len(), MEMBERS_MAX);
        let start = endless(first).unwrap().unwrap();
        assert_eq!(near(&start, NOW, endless).unwrap().len(), NEAR_MAX);
    }
}
