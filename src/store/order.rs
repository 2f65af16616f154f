//! An order: what is to be done to all tokens that are meant, decided at one moment, whatever their number.
//!
//! Invariant: what an order does to a record hangs on the order and on that record alone, never on a clock or a use, so
//! that it comes to the same whether it is worked out at the next validation, in a listing or when it is written down,
//! and exactly once: a record says which order it was last held against ([`TokenRecord::order`]), and each write of it
//! brings it up to the newest. A token that is issued after an order has that order's number from the start: the cut is
//! the order of commits, not a time.

use serde::{Deserialize, Serialize};

use super::IndexTag;
use super::record::{Ending, TokenRecord};
use super::select;
use crate::protocol::filter::{Condition, Filter};
use crate::token::TokenId;

/// What an order does to the tokens that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// Ends them.
    Revoke,
    /// Holds those that have not ended.
    Suspend,
    /// Lets go those that are held.
    Resume,
}

impl What {
    /// Whether lookups are to see it before it is durable.
    pub const fn restricts(self) -> bool {
        matches!(self, Self::Revoke | Self::Suspend)
    }
}

/// One order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The generation of its audit record; later ones are greater.
    pub number: u64,
    /// What is done.
    pub what: What,
    /// To tokens that meet all of this: only conditions that [`select::decides`] knows.
    pub filter: Filter,
    /// And that are among these, sorted: how conditions on the clock or on uses were answered when the order was given.
    pub among: Option<Vec<TokenId>>,
    /// And that are this peer's own, if it may do it to no others.
    pub own: Option<Own>,
    /// When, why, by whom.
    pub ending: Ending,
}

/// Whose tokens: who issued them or whom they stand for, by uid and by name as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// uid.
    pub uid: u32,
    /// User name, or `uid:1000`.
    pub name: String,
}

impl Own {
    /// Whether the token is theirs.
    pub fn is_of(&self, record: &TokenRecord) -> bool {
        let issued = record.issuer_uid == self.uid && record.issuer == self.name;
        let stands_for = record.subject_uid == Some(self.uid) && record.subject == self.name;
        issued || stands_for
    }
}

impl Order {
    /// Whether it would change the record, which is as all orders before it have left it.
    pub fn changes(&self, record: &TokenRecord) -> bool {
        let becomes = match self.what {
            What::Revoke => record.revoked.is_none(),
            // At the order's own time: what the clock says when the record is read must not matter.
            What::Suspend => self.holds_anew(record) && !record.state(self.ending.at).ended(),
            What::Resume => record.revoked.is_none() && self.lets_go(record),
        };
        becomes
            && self.among.as_ref().is_none_or(|ids| ids.binary_search(&record.id).is_ok())
            && self.own.as_ref().is_none_or(|own| own.is_of(record))
            && select::meets(&self.filter, record)
    }

    /// Whether nothing holds it yet, or only its owner does, who could let it go.
    fn holds_anew(&self, record: &TokenRecord) -> bool {
        let owners = |uid| uid == record.issuer_uid || Some(uid) == record.subject_uid;
        let outranks = |uid| self.own.is_none() && owners(uid) && uid != self.ending.by_uid;
        record.suspended.as_ref().is_none_or(|held| outranks(held.by_uid))
    }

    /// Whether something holds it that whoever gives the order may let go: as with single tokens, its owner lets go what it
    /// has held itself, and its issuer what its subject has; not what an administrator holds.
    fn lets_go(&self, record: &TokenRecord) -> bool {
        let Some(held) = &record.suspended else { return false };
        self.own.as_ref().is_none_or(|own| {
            let issued = record.issuer_uid == own.uid && record.issuer == own.name;
            let by_subject = issued && record.subject_uid == Some(held.by_uid);
            held.by_uid != 0 && (held.by_uid == own.uid || by_subject)
        })
    }

    /// Brings a record that was held against all orders before this one up to it. Says whether that changed what the
    /// token may do.
    pub fn apply(&self, record: &mut TokenRecord) -> bool {
        let changes = self.changes(record);
        if changes {
            match self.what {
                What::Revoke => record.revoked = Some(self.ending.clone()),
                What::Suspend => record.suspended = Some(self.ending.clone()),
                What::Resume => record.suspended = None,
            }
            record.version += 1;
        }
        record.order = self.number;
        changes
    }

    /// Where the tokens that it may change are found.
    pub(super) fn walk(&self) -> Walk {
        if self.among.is_some() {
            return Walk::Among;
        }
        match (select::index(&self.filter), &self.own) {
            (Some(index), _) => Walk::Indexed(vec![index]),
            (None, Some(own)) => {
                Walk::Indexed(vec![(IndexTag::Issuer, own.name.clone()), (IndexTag::Subject, own.name.clone())])
            }
            (None, None) => Walk::All,
        }
    }

    /// The one subject that it is about, if it is about one: orders for different ones never meet.
    pub(super) fn subject(&self) -> Option<&str> {
        self.filter.0.iter().find_map(|condition| match condition {
            Condition::Subject(subject) => Some(subject.as_str()),
            _ => None,
        })
    }
}

/// Where to look for tokens.
pub(super) enum Walk {
    /// Everywhere.
    All,
    /// Wherever one of these is.
    Indexed(Vec<(IndexTag, String)>),
    /// At the order's own ids.
    Among,
}

/// Holds a record against those of `orders`, sorted by number, that it was not held against before; `changed` hears of
/// each that changed it.
pub(super) fn bring_up<'o>(
    orders: impl IntoIterator<Item = &'o Order>,
    record: &mut TokenRecord,
    mut changed: impl FnMut(&Order),
) {
    for order in orders {
        if order.number > record.order && order.apply(record) {
            changed(order);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::message::State;
    use crate::store::testing::record;
    use crate::time::UnixTime;

    fn id(n: u8) -> TokenId {
        TokenId::from_bytes([n; 16])
    }

    fn order(number: u64, what: What, filter: impl Into<Filter>) -> Order {
        let ending = Ending { at: UnixTime::from_secs(1_800_000_100), reason: Some("leak".into()), by_uid: 0 };
        Order { number, what, filter: filter.into(), among: None, own: None, ending }
    }

    #[test]
    fn a_record_is_held_against_each_order_once_and_in_their_order() {
        let orders = [
            order(3, What::Suspend, Condition::Subject("alice".into())),
            order(5, What::Resume, Condition::All),
            order(7, What::Revoke, Condition::Subject("bob".into())),
            order(9, What::Suspend, Condition::All),
        ];
        let mut alice = record(id(1), 1);
        let mut hit = Vec::new();
        bring_up(&orders, &mut alice, |order| hit.push(order.number));
        assert_eq!((hit, alice.order, alice.version), (vec![3, 5, 9], 9, 4));
        assert!(alice.suspended.is_some() && alice.revoked.is_none());
        // Resumed since: no order that it was held against is done to it again.
        alice.suspended = None;
        bring_up(&orders, &mut alice, |order| panic!("{} again", order.number));
        assert!(alice.suspended.is_none());
        // Issued between the second and the third.
        let mut bob = TokenRecord { order: 5, subject: "bob".into(), ..record(id(2), 1) };
        bring_up(&orders, &mut bob, |_| {});
        assert_eq!((bob.state(UnixTime::from_secs(1_800_000_200)), bob.suspended), (State::Revoked, None));
    }

    #[test]
    fn what_ended_by_the_orders_time_is_not_held_whenever_it_is_looked_at() {
        let suspend = order(3, What::Suspend, Condition::All);
        let expires = |at| TokenRecord { expires_at: Some(at), ..record(id(1), 1) };
        assert!(!suspend.changes(&expires(suspend.ending.at)));
        assert!(suspend.changes(&expires(suspend.ending.at.saturating_add(Duration::from_micros(1)))));
        // Revoking ends what has expired too: a renewal must not bring it back.
        assert!(order(3, What::Revoke, Condition::All).changes(&expires(suspend.ending.at)));
    }

    #[test]
    fn an_order_is_for_its_ids_and_its_givers_own_tokens_only() {
        let own = Some(Own { uid: 1000, name: "alice".into() });
        let mine = Order { own, ..order(3, What::Revoke, Condition::All) };
        assert!(mine.changes(&record(id(1), 1)), "issued");
        let other_uid = TokenRecord { issuer_uid: 1001, ..record(id(1), 1) };
        assert!(!mine.changes(&other_uid), "a later user of that name");
        assert!(!mine.changes(&TokenRecord { issuer: "bob".into(), ..record(id(1), 1) }), "a later name of that uid");
        assert!(mine.changes(&TokenRecord { subject_uid: Some(1000), ..other_uid }), "stands for");

        let some = Order {
            among: Some(vec![id(1), id(3)]),
            ..order(3, What::Revoke, Condition::Kind(crate::token::Kind::Machine))
        };
        assert!(some.changes(&record(id(3), 1)) && !some.changes(&record(id(2), 1)));
        let session = TokenRecord { kind: crate::token::Kind::Session, ..record(id(3), 1) };
        assert!(!some.changes(&session), "both must hold");
    }
}
