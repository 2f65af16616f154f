//! Of two states of a token, one that is good for no more than either: what lookups may see while the change from one
//! to the other is not durable yet.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::store::record::{Ending, TokenRecord};
use crate::time::UnixTime;

/// `new`, bounded by `old` in all that an edit can change. Where nothing is left of networks, units or uids it is
/// suspended: an empty list would mean any.
pub fn narrower(old: &TokenRecord, new: &TokenRecord, now: UnixTime) -> TokenRecord {
    let mut both = new.clone();
    let networks = common(&old.allow_from, &new.allow_from, networks_in_both);
    let units = common(&old.allow_units, &new.allow_units, in_both);
    let uids = common(&old.allow_uids, &new.allow_uids, in_both);
    if let Some(at) = old.expires_at {
        both.expires_at = Some(new.expires_at.map_or(at, |other| other.min(at)));
    }
    match (networks, units, uids) {
        (Some(networks), Some(units), Some(uids)) => {
            (both.allow_from, both.allow_units, both.allow_uids) = (networks, units, uids);
        }
        _ => both.suspended = Some(Ending { at: now, reason: None, by_uid: new.issuer_uid }),
    }
    both
}

/// Whether all that `new` is good for, `old` is good for too, as far as networks, units and uids go.
pub fn is_within(new: &TokenRecord, old: &TokenRecord) -> bool {
    fn all<T>(new: &[T], old: &[T], inside: impl Fn(&T) -> bool) -> bool {
        old.is_empty() || (!new.is_empty() && new.iter().all(inside))
    }
    all(&new.allow_from, &old.allow_from, |net| old.allow_from.iter().any(|outer| outer.contains(net)))
        && all(&new.allow_units, &old.allow_units, |unit| old.allow_units.contains(unit))
        && all(&new.allow_uids, &old.allow_uids, |uid| old.allow_uids.contains(uid))
}

/// What both lists allow, where an empty one allows all; `None` = nothing.
fn common<T: Clone>(old: &[T], new: &[T], both: impl Fn(&[T], &[T]) -> Vec<T>) -> Option<Vec<T>> {
    match (old, new) {
        ([], only) | (only, []) => Some(only.to_vec()),
        (old, new) => Some(both(old, new)).filter(|both| !both.is_empty()),
    }
}

fn in_both<T: Clone + PartialEq>(old: &[T], new: &[T]) -> Vec<T> {
    new.iter().filter(|value| old.contains(value)).cloned().collect()
}

/// Two networks have nothing in common, or one is within the other.
fn networks_in_both(old: &[IpNet], new: &[IpNet]) -> Vec<IpNet> {
    let within = |inner: &IpNet, outer: &[IpNet]| outer.iter().any(|net| net.contains(inner));
    let kept = new.iter().filter(|net| within(net, old)).chain(old.iter().filter(|net| within(net, new)));
    kept.copied().collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::message::State;
    use crate::registry::fixtures::{DAY, NOW, named, record};

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_between_is_good_for_no_more_than_either() {
        let old = TokenRecord { allow_from: nets(&["10.0.0.0/8", "192.0.2.0/24"]), ..record(&named()) };
        let new = TokenRecord {
            allow_from: nets(&["10.1.0.0/16", "198.51.100.0/24"]),
            allow_uids: vec![7],
            expires_at: Some(NOW.saturating_add(DAY)),
            ..old.clone()
        };
        let both = narrower(&old, &new, NOW);
        assert_eq!((both.allow_from, both.allow_uids), (nets(&["10.1.0.0/16"]), vec![7]));
        assert_eq!((both.expires_at, both.suspended), (new.expires_at, None));
        // From any to some, and from some to any.
        let any = TokenRecord { allow_from: Vec::new(), ..old.clone() };
        assert_eq!(narrower(&any, &old, NOW).allow_from, old.allow_from);
        assert_eq!(narrower(&old, &any, NOW).allow_from, old.allow_from);
    }

    #[test]
    fn where_nothing_is_common_it_is_good_for_nothing() {
        let with = |units: &[&str]| TokenRecord {
            allow_units: units.iter().map(|&unit| unit.to_owned()).collect(),
            ..record(&named())
        };
        let both = narrower(&with(&["a.service"]), &with(&["b.service"]), NOW);
        assert_eq!(both.state(NOW), State::Suspended);
    }

    #[test]
    fn within_is_by_network_unit_and_uid() {
        let any = record(&named());
        let lan = TokenRecord { allow_from: nets(&["10.0.0.0/8"]), ..any.clone() };
        let part = TokenRecord { allow_from: nets(&["10.1.0.0/16", "10.2.3.4/32"]), ..any.clone() };
        let more = TokenRecord { allow_from: nets(&["10.1.0.0/16", "::1/128"]), ..any.clone() };
        assert!(is_within(&lan, &any) && is_within(&part, &lan) && is_within(&lan, &lan));
        assert!(!is_within(&any, &lan) && !is_within(&lan, &part) && !is_within(&more, &lan));
        let uid = |uids: &[u32]| TokenRecord { allow_uids: uids.to_vec(), ..any.clone() };
        assert!(is_within(&uid(&[1]), &uid(&[1, 2])) && !is_within(&uid(&[1, 3]), &uid(&[1, 2])));
        assert!(!is_within(&uid(&[]), &uid(&[1])));
    }

    proptest! {
        /// Address by address, over a space small enough to be tried whole.
        #[test]
        fn an_address_is_in_what_is_between_if_it_is_in_both(
            old in prop::collection::vec((0u8..16, 28u8..=32), 0..4),
            new in prop::collection::vec((0u8..16, 28u8..=32), 0..4),
        ) {
            let lists = [&old, &new].map(|list| list.iter().map(|(host, bits)| {
                IpNet::new([192, 0, 2, *host].into(), *bits).unwrap().trunc()
            }).collect::<Vec<_>>());
            let with = |list: &Vec<IpNet>| TokenRecord { allow_from: list.clone(), ..record(&named()) };
            let good = |record: &TokenRecord, address: std::net::IpAddr| {
                record.suspended.is_none()
                    && (record.allow_from.is_empty() || record.allow_from.iter().any(|net| net.contains(&address)))
            };
            let (old, new) = (with(&lists[0]), with(&lists[1]));
            let both = narrower(&old, &new, NOW);
            for host in 0..32u8 {
                let address = [192, 0, 2, host].into();
                prop_assert_eq!(good(&both, address), good(&old, address) && good(&new, address));
            }
        }
    }
}
