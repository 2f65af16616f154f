//! Changes of many tokens at once, as one durable order.
//!
//! The ladder is that of a change of one: the order is in force in memory, then durable with its one audit record, then
//! answered; the records follow (`apply`). What it meant is fixed when it is given: conditions on the clock or on uses
//! are answered first, by a listing, and the order is then for those ids.

use std::sync::Arc;

use super::changes::{GivenUp, announce};
use super::{Caller, Now, Service, audit_unavailable, invalid, later, not_permitted, store_failure};
use crate::audit::{AuditEvent, EventKind};
use crate::config::Operation;
use crate::peer::CONTAINER_UNKNOWN;
use crate::policy::{self, Ownership};
use crate::protocol::IDS_MAX;
use crate::protocol::code::ErrorCode;
use crate::protocol::filter::{Condition, FILTER_TEXT_MAX, Filter};
use crate::protocol::message::{Answer, Changed, Failure};
use crate::registry::filter;
use crate::store::order::{Order, Own};
use crate::store::record::{Ending, TokenRecord};
use crate::store::{Counted, Placed, Scan, Store, StoreError, Txn, select};
use crate::time::UnixTime;
use crate::token::TokenId;

pub(super) use crate::store::order::What;

/// Tokens that an order may be for whose filter asks the clock or the uses: their ids are kept with it.
const CHOSEN_MAX: usize = 1_000_000;
/// Records that one read of a choice looks at.
const VISIT_MAX: usize = 20_000;
/// Unfinished orders of one peer that may give them for its own tokens only.
const OWN_ORDERS_EACH: usize = 4;
/// The same of all such peers: the rest is for those who may do it to any token.
const OWN_ORDERS_MAX: usize = 64;

/// An order before it is given.
struct Wanted {
    what: What,
    filter: Filter,
    reason: Option<String>,
    own: Option<Own>,
    at: UnixTime,
    by_uid: u32,
}

impl Service {
    /// `reason` is checked already.
    pub(super) fn order(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        what: What,
        filter: Filter,
        reason: Option<String>,
        dry_run: bool,
    ) -> Now {
        if let Err(failure) = check(&filter) {
            return Now::failure(failure);
        }
        let (service, caller) = (Arc::clone(self), Arc::clone(caller));
        later(async move {
            let own = service.order_scope(&caller, operation(what)).await?;
            if !dry_run {
                // Before the commit: what can't be recorded is not made. To take away goes through all the same.
                if what == What::Resume && !service.audit.ready() {
                    return Err(audit_unavailable());
                }
                service.may_order_again(&caller, what)?;
            }
            let (at, by_uid) = (service.clock.now(), caller.peer.uid);
            let wanted = Wanted { what, filter, reason, own, at, by_uid };
            let Counted { count, ids } = if dry_run {
                service.try_order(&caller, &wanted).await?
            } else {
                service.give_order(&caller, wanted).await?
            };
            Ok(Answer::Changed(Changed { count, ids, dry_run, still_good: Vec::new() }))
        })
    }

    /// Whose tokens the peer may do this to; `None` = anyone's.
    async fn order_scope(&self, caller: &Caller, operation: Operation) -> Result<Option<Own>, Failure> {
        let ask = policy::Ask::to_token(operation, Ownership::Undecided);
        if !self.authorise(caller, &ask, None)?.own_only {
            return Ok(None);
        }
        // As with single tokens: who has no uid on this host has none of its own.
        let contained = caller.peer.container.as_deref() == Some(CONTAINER_UNKNOWN);
        let Some(uid) = caller.uid().filter(|_| !contained) else {
            let ask = policy::Ask::to_token(operation, Ownership::NotOwn);
            return Err(self.authorise(caller, &ask, None).err().unwrap_or_else(not_permitted));
        };
        Ok(Some(Own { uid, name: self.user_name(caller).await }))
    }

    /// Only says what the order would change.
    async fn try_order(&self, caller: &Caller, wanted: &Wanted) -> Result<Counted, Failure> {
        let order = Order { number: u64::MAX, ..self.draft(caller, wanted).await? };
        let store = self.store.clone();
        self.read_in_turn(caller, move || store.count(&order, IDS_MAX)).await
    }

    async fn give_order(&self, caller: &Arc<Caller>, wanted: Wanted) -> Result<Counted, Failure> {
        let draft = self.draft(caller, &wanted).await?;
        let mut event = AuditEvent::new(event_kind(wanted.what), wanted.at);
        event.outcome = Some("done".into());
        event.reason = wanted.reason.clone().map(Into::into);
        event.peer = Some(caller.peer.label());
        event.subject = subject(&wanted.filter).map(str::to_owned);
        event.note = Some(note(&wanted.filter, wanted.own.as_ref()));
        let job = || {
            let (draft, mut event) = (draft.clone(), event.clone());
            move |txn: &mut Txn<'_>| -> Result<(Given, Vec<AuditEvent>), GivenUp> {
                if let Some(own) = &draft.own {
                    leave_room(txn, own)?;
                }
                let known = match only_subject(&draft) {
                    Some(subject) => txn.count_unrevoked(subject, IDS_MAX)?,
                    None => None,
                };
                if known.as_ref().is_some_and(|known| known.count == 0) {
                    return Ok((Given::Counted(Counted::default()), Vec::new()));
                }
                event.count = known.as_ref().map(|known| known.count);
                let event = announce(txn, event)?;
                let placed = txn.order(draft)?;
                let given = known.map_or(Given::Placed(placed), Given::Counted);
                Ok((given, vec![event]))
            }
        };
        let written = match self.commit(caller, 1, job()).await {
            // As with single tokens: the room that is kept for this is there by now.
            Err(StoreError::NotWritten(_)) => self.commit(caller, 1, job()).await,
            written => written,
        };
        let placed = match written.map_err(|error| store_failure(&error))? {
            Ok((given, lines)) => {
                self.recorded(lines).await;
                match given {
                    Given::Counted(counted) => return Ok(counted),
                    Given::Placed(placed) => placed,
                }
            }
            Err(given_up) => return Err(self.given_up(caller, operation(wanted.what), given_up)),
        };
        let store = self.store.clone();
        self.read_in_turn(caller, move || store.count_placed(placed, IDS_MAX)).await.map_err(|failure| {
            let text = format!(
                "the order is in force and durable, but how many tokens it changed could not be counted: {}",
                failure.message
            );
            Failure::new(ErrorCode::Undecided, text)
        })
    }

    /// The order that is wanted: what the clock and the uses must answer is answered now.
    async fn draft(&self, caller: &Caller, wanted: &Wanted) -> Result<Order, Failure> {
        let (decided, asked): (Vec<_>, Vec<_>) = wanted.filter.0.iter().cloned().partition(select::decides_one);
        let among = if asked.is_empty() { None } else { Some(self.chosen(caller, wanted).await?) };
        let ending = Ending { at: wanted.at, reason: wanted.reason.clone(), by_uid: wanted.by_uid };
        Ok(Order { number: 0, what: wanted.what, filter: Filter(decided), among, own: wanted.own.clone(), ending })
    }

    /// The ids of all tokens that meet the filter now.
    async fn chosen(&self, caller: &Caller, wanted: &Wanted) -> Result<Vec<TokenId>, Failure> {
        let (store, filter, own, now) = (self.store.clone(), wanted.filter.clone(), wanted.own.clone(), wanted.at);
        let chosen = self.read_in_turn(caller, move || choose(&store, &filter, own.as_ref(), now)).await?;
        chosen.ok_or_else(|| {
            let text = format!("more than {CHOSEN_MAX} tokens meet this filter now: narrow it, and do it in parts");
            Failure::new(ErrorCode::BadRequest, text)
        })
    }

    /// Reads much, in the peer's turn and where it may block.
    async fn read_in_turn<T: Send + 'static>(
        &self,
        caller: &Caller,
        read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        let turn = self.reader(caller).await?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            read()
        });
        match done.await {
            Ok(done) => done.map_err(|error| store_failure(&error)),
            Err(_) => Err(Failure::new(ErrorCode::Internal, "reading the tokens failed: see the log of bearerd")),
        }
    }
}

/// What came of the job that gives an order.
enum Given {
    /// What it changes was known at once.
    Counted(Counted),
    /// It is to be counted.
    Placed(Placed),
}

/// Refuses what is no order: one for all tokens must say so, and each must be one that its audit line says in full.
fn check(filter: &Filter) -> Result<(), Failure> {
    if filter.is_empty() {
        let text = "no filter is given: say which tokens, or --all for every one of them";
        return Err(Failure::new(ErrorCode::BadRequest, text));
    }
    filter::check(filter).map_err(invalid)?;
    let text = filter.to_string();
    if text.len() > FILTER_TEXT_MAX {
        let text = format!(
            "the filter is longer than {FILTER_TEXT_MAX} bytes when written out: shorten it, or do it in parts"
        );
        return Err(Failure::new(ErrorCode::BadRequest, text));
    }
    if text.parse::<Filter>().as_ref() != Ok(filter) {
        let text = "the filter has a duration that is no whole number of milliseconds, or is over 1,000 years";
        return Err(Failure::new(ErrorCode::BadRequest, text));
    }
    Ok(())
}

/// Who may give orders only for its own tokens must not keep others from giving any.
fn leave_room(txn: &Txn<'_>, own: &Own) -> Result<(), GivenUp> {
    let (mut all, mut theirs) = (0, 0);
    for other in txn.unfinished_orders().filter_map(|order| order.own.as_ref()) {
        all += 1;
        theirs += usize::from(other.uid == own.uid);
    }
    if theirs >= OWN_ORDERS_EACH || all >= OWN_ORDERS_MAX {
        return Err(GivenUp::Store(StoreError::TooManyOrders));
    }
    Ok(())
}

fn choose(
    store: &Store,
    filter: &Filter,
    own: Option<&Own>,
    now: UnixTime,
) -> Result<Option<Vec<TokenId>>, StoreError> {
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let scan = Scan { after, index: select::index(filter), limit: IDS_MAX, visit_max: VISIT_MAX };
        let page = store.scan(scan, |record: &TokenRecord| {
            let mine = own.is_none_or(|own| own.is_of(record));
            Ok(mine && filter::matches(filter, record, now, || store.last_use(record.id))?)
        })?;
        ids.extend(page.records.iter().map(|record| record.id));
        if ids.len() > CHOSEN_MAX {
            return Ok(None);
        }
        match page.next {
            None => return Ok(Some(ids)),
            next => after = next,
        }
    }
}

/// The subject, if the order revokes exactly the tokens of one: the index counts those.
fn only_subject(order: &Order) -> Option<&str> {
    match (&order.filter.0[..], order.what, &order.among, &order.own) {
        ([Condition::Subject(subject)], What::Revoke, None, None) => Some(subject),
        _ => None,
    }
}

fn subject(filter: &Filter) -> Option<&str> {
    filter.0.iter().find_map(|condition| match condition {
        Condition::Subject(subject) => Some(subject.as_str()),
        _ => None,
    })
}

/// The filter in full: whoever has only the audit log can give the order again.
fn note(filter: &Filter, own: Option<&Own>) -> String {
    match own {
        Some(own) => format!("by filter: {filter}; own of {} ({})", own.name, own.uid),
        None => format!("by filter: {filter}"),
    }
}

const fn operation(what: What) -> Operation {
    match what {
        What::Revoke => Operation::Revoke,
        What::Suspend | What::Resume => Operation::Suspend,
    }
}

const fn event_kind(what: What) -> EventKind {
    match what {
        What::Revoke => EventKind::Revoke,
        What::Suspend => EventKind::Suspend,
        What::Resume => EventKind::Resume,
    }
}
