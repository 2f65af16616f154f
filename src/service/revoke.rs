//! revoke: ends tokens, by their ids or by holding one. It always goes through, and is in force when it is answered.

use std::sync::Arc;

use super::changes::{GivenUp, announce, checked_reason, event_about, nothing};
use super::orders::What;
use super::presented::Presented;
use super::right::Right;
use super::{Caller, Later, Now, Service, invalid, later, store_failure};
use crate::audit::{AuditEvent, EventKind};
use crate::config::Operation;
use crate::peer::PeerLabel;
use crate::protocol::message::{Answer, Changed, Failure, Revoke, Which};
use crate::registry::revoke::{Revocation, reinstated, relatives, revoke};
use crate::registry::{Invalid, ended};
use crate::store::record::{Rate, TokenRecord};
use crate::store::{Effect, StoreError, Txn};
use crate::token::{TEXT_MAX, Token, TokenId};

/// Revocations that a holder without a rule may make: one a second.
const FINDER_RATE: Rate = Rate { count: 1, per: std::time::Duration::from_secs(1) };

impl Service {
    pub(super) fn revoke(self: &Arc<Self>, caller: &Arc<Caller>, request: &Revoke<'_>) -> Now {
        let reason = match checked_reason(request.reason.as_ref()) {
            Ok(reason) => reason,
            Err(failure) => return Now::failure(failure),
        };
        let (service, caller, dry_run) = (Arc::clone(self), Arc::clone(caller), request.dry_run);
        match &request.which {
            Which::Handles(handles) => {
                let handles = handles.clone();
                later(async move {
                    let (right, ids) = service.right(&caller, Operation::Revoke, &handles).await?;
                    service.commit_revocation(right, ids, reason, dry_run).await.map(Answer::Changed)
                })
            }
            Which::Filter(filter) => service.order(&caller, What::Revoke, filter.clone(), reason, dry_run),
            Which::Token(text) if text.len() > TEXT_MAX => {
                Now::failure(invalid(Invalid::Text { field: "token", max: TEXT_MAX }))
            }
            Which::Token(text) => service.revoke_held(&caller, text, reason, dry_run),
        }
    }

    /// Whoever holds a token may end it. That it was unknown is not said in another way than that it was ended before.
    fn revoke_held(self: Arc<Self>, caller: &Arc<Caller>, text: &str, reason: Option<String>, dry_run: bool) -> Now {
        if Token::parse(text).is_err() && !self.store.has_imports() {
            return Now::Ready(Answer::Changed(nothing(dry_run)));
        }
        let ruleless = caller.standing(&self.settings()).ruleless();
        if ruleless && !self.finders.allow(caller.peer.uid, FINDER_RATE, self.clock.boottime(), true) {
            return Now::failure(self.over_limit(caller, "one revocation a second for who has no rule", 1));
        }
        let id = match self.presented(text) {
            Ok(Presented::Known(record, _)) => record.id,
            Ok(Presented::Stranger(..)) => return Now::Ready(Answer::Changed(nothing(dry_run))),
            Err(error) => return Now::failure(store_failure(&error)),
        };
        let caller = Arc::clone(caller);
        let answer: Later = Box::pin(async move {
            let right = Right::of_holder(&caller, self.settings());
            let done = self.commit_revocation(right, vec![id], reason, dry_run).await;
            done.map_or_else(Answer::Error, Answer::Changed)
        });
        Now::Later(answer)
    }

    /// Decides and commits in one transaction: all of the ids or, when one may not be revoked, none.
    async fn commit_revocation(
        &self,
        right: Right,
        ids: Vec<TokenId>,
        reason: Option<String>,
        dry_run: bool,
    ) -> Result<Changed, Failure> {
        let (caller, operation, weight) = (Arc::clone(&right.caller), right.operation(), ids.len());
        let job = || {
            let (right, ids, reason) = (right.clone(), ids.clone(), reason.clone());
            move |txn: &mut Txn<'_>| -> Result<(Changed, Vec<AuditEvent>), GivenUp> {
                let now = txn.now();
                let mut revoked: Vec<TokenRecord> = Vec::new();
                for id in ids {
                    let record = right.record(txn, id)?;
                    let by_uid = right.caller.peer.uid;
                    if let Revocation::Revoke(record) = revoke(&record, reason.as_deref(), by_uid, now) {
                        revoked.push(*record);
                    }
                }
                let good_again = good_again(txn, &revoked)?;
                let mut changed = nothing(dry_run);
                for record in &revoked {
                    for id in relatives(record).filter(|id| revoked.iter().all(|other| other.id != *id)) {
                        let relative = match good_again.iter().find(|record| record.id == id) {
                            Some(record) => Some(record.clone()),
                            None => txn.record(id)?,
                        };
                        let still = relative.is_some_and(|relative| ended(&relative, now).is_none());
                        if still && !changed.still_good.contains(&id) {
                            changed.still_good.push(id);
                        }
                    }
                }
                changed.count = revoked.len() as u64;
                changed.ids = revoked.iter().map(|record| record.id).collect();
                let mut events = Vec::new();
                if dry_run {
                    return Ok((changed, events));
                }
                for record in revoked {
                    let mut event = event_about(EventKind::Revoke, &record, now);
                    event.reason = reason.clone().map(Into::into);
                    event.peer = Some(right.caller.peer.label());
                    event.note = right.is_holders().then(|| "by who held it".to_owned());
                    txn.put(record, Effect::Restricts)?;
                    events.push(announce(txn, event)?);
                }
                for record in good_again {
                    events.push(undo_rotation(txn, record, Some(right.caller.peer.label()))?);
                }
                Ok((changed, events))
            }
        };
        let written = match self.commit(&caller, weight, job()).await {
            // Somebody else took the disk's room at that very moment. The store has opened itself again, with the room that
            // it keeps for this: a revocation is not refused for that.
            Err(StoreError::NotWritten(_)) => self.commit(&caller, weight, job()).await,
            written => written,
        };
        match written.map_err(|error| store_failure(&error))? {
            Ok((changed, lines)) => {
                self.recorded(lines).await;
                Ok(changed)
            }
            Err(given_up) => Err(self.given_up(&caller, operation, given_up)),
        }
    }
}

/// Puts a predecessor that is good again, with its line.
pub(super) fn undo_rotation(
    txn: &mut Txn<'_>,
    record: TokenRecord,
    peer: Option<PeerLabel>,
) -> Result<AuditEvent, StoreError> {
    let mut event = event_about(EventKind::Rotate, &record, txn.now());
    event.reason = Some("undone".into());
    event.peer = peer;
    event.note = Some("its successor was revoked before it was used".to_owned());
    txn.put(record, Effect::Extends)?;
    announce(txn, event)
}

/// The predecessors of unused successors among `revoked`, as they are without those.
pub(super) fn good_again(txn: &mut Txn<'_>, revoked: &[TokenRecord]) -> Result<Vec<TokenRecord>, StoreError> {
    let mut records = Vec::new();
    for successor in revoked.iter().filter(|record| record.revoked.is_some()) {
        let Some(id) = successor.predecessor.filter(|id| revoked.iter().all(|other| other.id != *id)) else { continue };
        let predecessor = txn.record(id)?;
        records.extend(predecessor.and_then(|predecessor| reinstated(&predecessor, successor)));
    }
    Ok(records)
}
