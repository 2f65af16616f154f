//! suspend and resume: tokens are held until they are let go again. As with revoke, what is held is refused when it is
//! answered; to hold always goes through, to let go needs a working audit log.

use std::sync::Arc;

use super::changes::{GivenUp, announce, checked_reason, event_about, nothing};
use super::orders::What;
use super::{Caller, Now, Service, audit_unavailable, later, store_failure};
use crate::audit::{AuditEvent, EventKind};
use crate::config::Operation;
use crate::protocol::message::{Answer, Changed, Chosen, Failure, Handle, Hold, State};
use crate::registry::hold::{resume, suspend, take_over};
use crate::registry::revoke::relatives;
use crate::store::record::TokenRecord;
use crate::store::{Effect, StoreError, Txn};

/// Which of both.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Suspend,
    Resume,
}

impl Service {
    pub(super) fn suspend(self: &Arc<Self>, caller: &Arc<Caller>, request: &Hold) -> Now {
        self.hold(caller, request, Verb::Suspend)
    }

    pub(super) fn resume(self: &Arc<Self>, caller: &Arc<Caller>, request: &Hold) -> Now {
        self.hold(caller, request, Verb::Resume)
    }

    fn hold(self: &Arc<Self>, caller: &Arc<Caller>, request: &Hold, verb: Verb) -> Now {
        let reason = match checked_reason(request.reason.as_ref()) {
            Ok(reason) => reason,
            Err(failure) => return Now::failure(failure),
        };
        let dry_run = request.dry_run;
        match &request.which {
            Chosen::Filter(filter) => {
                let what = if verb == Verb::Suspend { What::Suspend } else { What::Resume };
                self.order(caller, what, filter.clone(), reason, dry_run)
            }
            Chosen::Handles(handles) => {
                let (service, caller, handles) = (Arc::clone(self), Arc::clone(caller), handles.clone());
                later(async move {
                    service.hold_handles(&caller, &handles, verb, reason, dry_run).await.map(Answer::Changed)
                })
            }
        }
    }

    /// All of them or, when one may not be held, none.
    async fn hold_handles(
        &self,
        caller: &Arc<Caller>,
        handles: &[Handle],
        verb: Verb,
        reason: Option<String>,
        dry_run: bool,
    ) -> Result<Changed, Failure> {
        // To resume goes with the right to suspend.
        let (right, ids) = self.right(caller, Operation::Suspend, handles).await?;
        if verb == Verb::Resume && !dry_run && !self.audit.ready() {
            return Err(audit_unavailable());
        }
        if verb == Verb::Resume && !dry_run {
            self.may_change_again(&right, ids.len())?;
        }
        let weight = ids.len();
        let job = || {
            let (right, ids, reason) = (right.clone(), ids.clone(), reason.clone());
            move |txn: &mut Txn<'_>| -> Result<(Changed, Vec<AuditEvent>), GivenUp> {
                let (by_uid, now) = (right.caller.peer.uid, txn.now());
                let mut records: Vec<TokenRecord> = Vec::new();
                for id in ids {
                    let record = right.record(txn, id)?;
                    records.extend(match verb {
                        // What its owner holds, its owner can let go: a hold of the administrator's goes before that.
                        Verb::Suspend if right.outranks(&record) => take_over(&record, reason.as_deref(), by_uid, now),
                        Verb::Suspend => suspend(&record, reason.as_deref(), by_uid, now),
                        Verb::Resume => {
                            right.lets_go(&record)?;
                            resume(&record)
                        }
                    });
                }
                let mut changed = nothing(dry_run);
                changed.count = records.len() as u64;
                changed.ids = records.iter().map(|record| record.id).collect();
                if verb == Verb::Suspend {
                    for id in records.iter().flat_map(relatives).filter(|id| !changed.ids.contains(id)) {
                        let good = |relative: TokenRecord| {
                            let state = relative.state(now);
                            !state.ended() && state != State::Suspended
                        };
                        if !changed.still_good.contains(&id) && txn.record(id)?.is_some_and(good) {
                            changed.still_good.push(id);
                        }
                    }
                }
                let mut events = Vec::new();
                if dry_run {
                    return Ok((changed, events));
                }
                let (kind, effect) = match verb {
                    Verb::Suspend => (EventKind::Suspend, Effect::Restricts),
                    Verb::Resume => (EventKind::Resume, Effect::Extends),
                };
                for record in records {
                    let mut event = event_about(kind, &record, now);
                    event.reason = reason.clone().map(Into::into);
                    event.peer = Some(right.caller.peer.label());
                    txn.put(record, effect)?;
                    events.push(announce(txn, event)?);
                }
                Ok((changed, events))
            }
        };
        let written = match self.commit(caller, weight, job()).await {
            // As with a revocation: what restricts is tried once more in the room that is kept for it.
            Err(StoreError::NotWritten(_)) if verb == Verb::Suspend => self.commit(caller, weight, job()).await,
            written => written,
        };
        match written.map_err(|error| store_failure(&error))? {
            Ok((changed, lines)) => {
                self.recorded(lines).await;
                Ok(changed)
            }
            Err(given_up) => Err(self.given_up(caller, Operation::Suspend, given_up)),
        }
    }
}
