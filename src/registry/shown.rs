//! What `show` says of a token beside its facts: through whom it is used, whether the older of a rotation can be cut.

use super::cut::safe_to_cut;
use super::view;
use crate::protocol::message::{Relative, Shown, UsesBy};
use crate::store::record::{LastUse, TokenRecord};
use crate::time::UnixTime;

/// A record and its last use, read together.
pub type Member = (TokenRecord, Option<LastUse>);

/// The whole answer. `relatives`: those of its neighbours in the rotation that the asker may see; `beyond`: the
/// successor of its successor, if it has one, which says whether that one can be cut.
pub fn shown(token: Member, relatives: Vec<Member>, beyond: Option<Member>, now: UnixTime) -> Shown {
    let (record, last) = token;
    let find = |of: &TokenRecord| {
        let id = of.successor?;
        let others = relatives.iter().chain(&beyond).map(|(record, last)| (record, last.as_ref()));
        others.chain([(&record, last.as_ref())]).find(|(other, _)| other.id == id)
    };
    let cut = |of: &TokenRecord, used: Option<&LastUse>| safe_to_cut(of, used, find(of), now);
    let shown: Vec<Relative> = relatives
        .iter()
        .map(|(relative, used)| Relative {
            id: relative.id,
            head: relative.head(),
            state: relative.state(now),
            safe_to_cut: cut(relative, used.as_ref()),
            uses_by: uses_by(used.as_ref()),
        })
        .collect();
    let (safe_to_cut, uses_by) = (cut(&record, last.as_ref()), uses_by(last.as_ref()));
    Shown { info: view::info(&record, last, now), uses_by, safe_to_cut, relatives: shown }
}

fn uses_by(last: Option<&LastUse>) -> Vec<UsesBy> {
    let by = last.map_or(&[][..], |last| &last.by);
    by.iter().map(|by| UsesBy { unit: by.unit.clone(), uid: by.uid, at: by.at, count: by.count }).collect()
}
