//! rotate: makes a token's successor and says, once, what its text is.
//!
//! All that it changes is one transaction: a kill at any point leaves the family as it was or as it was answered, and to
//! ask again puts another successor in the place of one that nobody has.

use std::sync::Arc;

use super::changes::{GivenUp, announce, event_about};
use super::issue::ask_of;
use super::right::Right;
use super::{Caller, Service, audit_unavailable, invalid, store_failure};
use crate::audit::{AuditEvent, EventKind};
use crate::config::Operation;
use crate::policy::{self, Decision};
use crate::protocol::message::{self, Failure, SecretText};
use crate::registry::issue::plan;
use crate::registry::rotate::{How, Kin, Rotated, grace, like, rotate};
use crate::registry::view;
use crate::store::record::TokenRecord;
use crate::store::{Effect, Txn};
use crate::time::UnixTime;
use crate::token::{self, Token};

/// Records that a rotation writes, at most.
const WEIGHT: usize = 3;

impl Service {
    pub(super) async fn rotate(
        &self,
        caller: &Arc<Caller>,
        request: message::Rotate,
    ) -> Result<message::Rotated, Failure> {
        let (right, named) = self.right_to(caller, Operation::Rotate, &request.token).await?;
        let settings = Arc::clone(&right.settings);
        let overlap = settings.rotation.overlap;
        let grace = grace(request.grace, settings.rotation.grace, overlap).map_err(invalid)?;
        // A rotation makes a token. It does not count against `tokens_per_uid`: a full quota must lock nobody out.
        if !right.is_full() && !self.issues.allow(caller.peer.uid, settings.issue_per_uid, self.clock.boottime(), true)
        {
            return Err(self.over_limit(caller, "issue_per_uid", settings.issue_per_uid.count.into()));
        }
        if !self.audit.ready() {
            return Err(audit_unavailable());
        }
        let (id, prefix, secret) = (self.ids.next(self.clock.now()), settings.rules.prefix, token::new_secret());
        let digest = token::digest(self.keyring.digest_key(), id, &secret);
        let how = How { id, digest, prefix, lifetime: None, at_once: request.now, grace, overlap };
        let job = move |txn: &mut Txn<'_>| -> Result<(Rotated, Vec<AuditEvent>), GivenUp> {
            let now = txn.now();
            let record = right.record(txn, named)?;
            let kin = Kin::of(record, |id| txn.record(id))?;
            let lifetime = kin.model().and_then(|model| lifetime_afresh(&right, model));
            let rotated =
                rotate(kin, &How { lifetime, ..how }, now).map_err(|refusal| GivenUp::refused(refusal, named))?;
            let events = put(txn, &right, &rotated, request.now, now)?;
            Ok((rotated, events))
        };
        let rotated = match self.commit(caller, WEIGHT, job).await.map_err(|error| store_failure(&error))? {
            Ok((rotated, lines)) => {
                self.recorded(lines).await;
                rotated
            }
            Err(given_up) => return Err(self.given_up(caller, Operation::Rotate, given_up)),
        };
        let Rotated { successor, predecessor, replaced, ended } = rotated;
        let text = Token { prefix, kind: successor.kind, id, secret }.reveal();
        let ends_at = predecessor.rotation.as_ref().map(|rotation| rotation.ends_at);
        Ok(message::Rotated {
            token: SecretText::new(text.as_str().to_owned()),
            info: view::info(&successor, None, successor.issued_at),
            predecessor_ends_at: ends_at.filter(|_| predecessor.revoked.is_none()),
            grace,
            replaced: replaced.map(|record| record.id),
            ended: ended.map(|record| record.id),
        })
    }
}

/// Puts all of a rotation, each change with its line.
fn put(
    txn: &mut Txn<'_>,
    right: &Right,
    rotated: &Rotated,
    at_once: bool,
    now: UnixTime,
) -> Result<Vec<AuditEvent>, GivenUp> {
    let Rotated { successor, predecessor, replaced, ended } = rotated;
    let mut events = Vec::new();
    let mut change = |record: &TokenRecord, effect, reason: Option<&'static str>, note: String| {
        let mut event = event_about(EventKind::Rotate, record, now);
        event.reason = reason.map(Into::into);
        event.scopes = (effect == Effect::New).then(|| record.scopes.to_strings());
        event.peer = Some(right.caller.peer.label());
        event.note = Some(note);
        txn.put(record.clone(), effect)?;
        events.push(announce(txn, event)?);
        Ok::<(), GivenUp>(())
    };
    let ends =
        predecessor.rotation.as_ref().map_or_else(String::new, |it| format!(", ends at {} at the latest", it.ends_at));
    let effect = if at_once { Effect::Restricts } else { Effect::Extends };
    // Also for a restore: by this word it knows that the predecessor was cut.
    let at = if at_once { ", at once" } else { "" };
    change(predecessor, effect, None, format!("to {}{at}{ends}", successor.id))?;
    if let Some(record) = replaced {
        change(record, Effect::Restricts, Some("replaced"), format!("unused, by {}", successor.id))?;
    }
    if let Some(record) = ended {
        change(record, Effect::Restricts, Some("ended"), format!("its successor {} was rotated", predecessor.id))?;
    }
    change(successor, Effect::New, Some("successor"), format!("of {}", predecessor.id))?;
    Ok(events)
}

/// The lifetime that the successor of `model` may have from now on, if the peer might issue the like; `None`: it inherits
/// what its predecessor has left. What policy denies here is no line in the trail: nobody asked for it.
fn lifetime_afresh(right: &Right, model: &TokenRecord) -> Option<std::time::Duration> {
    let Right { caller, settings, .. } = right;
    let plan = plan(&like(model), &settings.rules).ok()?;
    let ask = policy::Ask::issue(ask_of(&plan, &model.subject, right.own_name()));
    match settings.policy.decide(&caller.peer, &caller.standing(settings), &ask) {
        Decision::Granted(_) => plan.max_lifetime,
        Decision::Denied { .. } => None,
    }
}
