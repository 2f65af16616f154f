//! Uses that change something: a use that is counted, and the first use of a successor.
//!
//! Invariant: what a use changes is durable before that use is answered *active*, decided again inside the transaction, so
//! that of 64 askers at once five get the five uses that there are. A use whose answer was lost on the way is spent: never
//! more uses than there are, at most one fewer for each question that was cut off.

use std::sync::Arc;

use super::body::Told;
use super::changes::announce;
use super::lines::event_of_use;
use super::validate::{Judged, Question};
use super::{Caller, Service, audit_unavailable, store_failure};
use crate::audit::AuditEvent;
use crate::protocol::code::Reason;
use crate::protocol::message::Failure;
use crate::registry::validate::{Circumstances, Judgement, judge};
use crate::registry::{family, first_use};
use crate::store::record::TokenRecord;
use crate::store::{Effect, HotRecord, StoreError, Txn};
use crate::time::UnixTime;
use crate::token::TokenId;

/// How a use ended inside the transaction.
enum Counted {
    /// It is counted; its line is in the outbox. When it ends the predecessor, if it does.
    Use(Arc<HotRecord>, Option<UnixTime>),
    /// There was nothing to count any more: another's use was the first.
    Plain(Arc<HotRecord>),
    /// It is not good, as it stands now.
    Not(Arc<HotRecord>, Reason, Vec<String>),
    /// It has been removed.
    Gone,
}

impl Service {
    pub(super) async fn count_use(
        self: Arc<Self>,
        caller: Arc<Caller>,
        id: TokenId,
        question: Question,
    ) -> Result<Told, Failure> {
        if !self.audit.ready() {
            return Err(audit_unavailable());
        }
        let now = self.clock.now();
        let job = {
            let (caller, question) = (Arc::clone(&caller), question.clone());
            move |txn: &mut Txn<'_>| count(txn, id, &caller, &question)
        };
        let committed = self.commit(&caller, 1, job).await.and_then(|it| it).map_err(|error| store_failure(&error))?;
        let (counted, lines) = committed;
        match counted {
            Counted::Use(record, ends) => {
                for line in lines {
                    line.wait().await.map_err(|_| audit_unavailable())?;
                }
                // This answer says that the predecessor is over: not while a dead daemon's caches may grant it.
                if ends.is_some_and(|ends| ends.since(now) < self.takeover.left()) {
                    self.in_force().await;
                }
                self.note_use(&caller, id, question.from, false, now);
                Ok(Told::active(record, now, None))
            }
            // The first use is durable: this one is like any other.
            Counted::Plain(record) => {
                let judged = {
                    let ask = question.ask();
                    // The record was not read under its slot: nothing may be kept.
                    self.active(&caller, record, question.asked(&ask), now, None)
                };
                match judged {
                    Judged::Ready(told) => told,
                    Judged::Unwritten(line) => self.written(&caller, line).await,
                    Judged::Later(told) => told.await,
                }
            }
            Counted::Not(record, reason, missing) => {
                let waits = {
                    let ask = question.ask();
                    self.refuse_known(&caller, &record, question.asked(&ask), reason, now)
                };
                if let Some(waits) = waits {
                    let _ = waits.await;
                }
                Ok(Told::not_good(record, reason, missing, now))
            }
            Counted::Gone => Ok(Told::inactive(Reason::Unknown)),
        }
    }
}

/// Decides about a use and writes what it changes, all in the writer's transaction.
fn count(
    txn: &mut Txn<'_>,
    id: TokenId,
    caller: &Caller,
    question: &Question,
) -> Result<(Counted, Vec<AuditEvent>), StoreError> {
    let now = txn.now();
    let none = |counted| Ok((counted, Vec::new()));
    let Some(record) = txn.record(id)? else { return none(Counted::Gone) };
    let scopes: Vec<&str> = question.scopes.iter().map(String::as_str).collect();
    let circumstances = Circumstances {
        now,
        scopes: &scopes,
        audience: question.audience.as_deref(),
        from: question.from.filter(|_| question.from_asserted),
        unit: caller.peer.unit.as_deref(),
        uid: caller.uid(),
    };
    let shared = |record: TokenRecord| Arc::new(HotRecord::new(record));
    match judge(&record, &circumstances) {
        Judgement::Bad(reason) => return none(Counted::Not(shared(record), reason, Vec::new())),
        Judgement::Lacks(missing) => return none(Counted::Not(shared(record), Reason::InsufficientScope, missing)),
        Judgement::Good => {}
    }
    let relatives = family::near(&record, now, |id| txn.record(id))?;
    if record.max_uses.is_some_and(|max| first_use::uses(&record, &relatives, now) >= max) {
        return none(Counted::Not(shared(record), Reason::Exhausted, Vec::new()));
    }
    let Some(spent) = first_use::spend(&record, relatives, now) else {
        return none(Counted::Plain(shared(record)));
    };
    for relative in spent.relatives {
        txn.put(relative, Effect::Restricts)?;
    }
    // That it was used takes nothing from a token without a number of uses. Lookups then see it as used only when that is
    // durable: until then every other asker comes here too, and none is answered before the first.
    let effect = if spent.used.max_uses.is_some() { Effect::Restricts } else { Effect::Extends };
    txn.put(spent.used.clone(), effect)?;
    let mut event = event_of_use(&spent.used, question.asked(&question.ask()), caller.peer.label(), None, now);
    if spent.first {
        let said = match spent.ends {
            Some((id, at)) => format!("first use: its predecessor {id} ends at {at}"),
            None => "first use".to_owned(),
        };
        event.note = Some(event.note.map_or(said.clone(), |note| format!("{said}; {note}")));
    }
    let event = announce(txn, event)?;
    Ok((Counted::Use(shared(spent.used), spent.ends.map(|(_, at)| at)), vec![event]))
}
