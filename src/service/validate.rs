//! validate: the hot path. No wait, no lock that a slow disk can hold, unless the token's uses are counted or the
//! audit line is the first of its window.

use std::hash::Hash;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::keep::Epoch;
use super::presented::Presented;
use super::{Caller, Now, Service, audit_unavailable, invalid, later, store_failure};
use crate::audit::{AuditEvent, EventKind, Recording, Refusal, UseKey};
use crate::config::AssertAddress;
use crate::peer::Peer;
use crate::policy::{self, Grant};
use crate::protocol::code::{ErrorCode, Reason};
use crate::protocol::message::{Answer, Failure, Stamped, Validate, Verdict};
use crate::protocol::{BATCH_MAX, NAME_MAX, NOTE_MAX, is_clean};
use crate::registry::validate::{Circumstances, Judgement, is_exhausted, judge};
use crate::registry::{Invalid, canonical, first_use, view};
use crate::scope::{self, SCOPES_MAX};
use crate::store::record::{LastUse, TokenRecord};
use crate::time::UnixTime;
use crate::token::{TEXT_MAX, TokenId};

/// A verdict, or the promise of one.
pub(super) enum Judged {
    Ready(Result<Stamped, Failure>),
    Later(std::pin::Pin<Box<dyn Future<Output = Result<Stamped, Failure>> + Send>>),
}

/// What a request says besides the token, checked; owned, because it may outlive the frame.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) scopes: Vec<String>,
    pub(super) audience: Option<String>,
    pub(super) from: Option<std::net::IpAddr>,
    pub(super) from_asserted: bool,
    pub(super) note: Option<String>,
    pub(super) peek: bool,
}

impl Question {
    /// As it was asked, without the token.
    pub(super) fn ask(&self) -> Validate<'_> {
        Validate {
            token: "",
            scopes: self.scopes.iter().map(String::as_str).collect(),
            audience: self.audience.as_deref(),
            from: self.from,
            note: self.note.as_deref(),
            peek: self.peek,
        }
    }
}

/// How a validation ended.
enum Outcome {
    Active,
    Inactive(Reason, Vec<String>),
}

impl Service {
    pub(super) fn validate(self: &Arc<Self>, caller: &Arc<Caller>, ask: &Validate<'_>) -> Now {
        // Before policy and everything else that the verdict rests on.
        let generation = self.store.epoch();
        let grant = match self.permitted(caller, ask) {
            Ok(grant) => grant,
            Err(failure) => return Now::failure(failure),
        };
        let keeps = caller.keeps();
        let answer = move |stamped: Stamped| match keeps {
            true => Answer::Stamped(Box::new(stamped)),
            false => Answer::Verdict(Box::new(stamped.verdict)),
        };
        match self.judged(caller, ask, &grant, keeps.then_some(generation)) {
            Judged::Ready(Ok(stamped)) => Now::Ready(answer(stamped)),
            Judged::Ready(Err(failure)) => Now::failure(failure),
            Judged::Later(stamped) => later(async move { stamped.await.map(answer) }),
        }
    }

    pub(super) fn validate_batch(self: &Arc<Self>, caller: &Arc<Caller>, batch: &[Validate<'_>]) -> Now {
        if batch.is_empty() || batch.len() > BATCH_MAX {
            return Now::failure(Failure::new(ErrorCode::BadRequest, format!("a batch has 1 to {BATCH_MAX} tokens")));
        }
        // Policy and form are decided for all before the first is looked at: a refused batch has spent nothing.
        let grants = match batch.iter().map(|ask| self.permitted(caller, ask)).collect::<Result<Vec<Grant>, Failure>>()
        {
            Ok(grants) => grants,
            Err(failure) => return Now::failure(failure),
        };
        let judged: Vec<Judged> =
            batch.iter().zip(&grants).map(|(ask, grant)| self.judged(caller, ask, grant, None)).collect();
        if judged.iter().all(|it| matches!(it, Judged::Ready(_))) {
            let verdicts = judged.into_iter().map(|it| match it {
                Judged::Ready(stamped) => stamped.map(|it| it.verdict),
                Judged::Later(_) => unreachable!("all were seen to be ready"),
            });
            return match verdicts.collect() {
                Ok(verdicts) => Now::Ready(Answer::Verdicts(verdicts)),
                Err(failure) => Now::failure(failure),
            };
        }
        later(async move {
            // All at once, so that counted uses share a commit.
            let verdicts = join_all(judged.into_iter().map(|it| async move {
                let stamped = match it {
                    Judged::Ready(stamped) => stamped,
                    Judged::Later(stamped) => stamped.await,
                };
                stamped.map(|it| it.verdict)
            }));
            verdicts.await.into_iter().collect::<Result<_, _>>().map(Answer::Verdicts)
        })
    }

    /// Whether it may be asked at all: policy, then form. Nothing of the token is looked at.
    fn permitted(&self, caller: &Caller, ask: &Validate<'_>) -> Result<Grant, Failure> {
        let grant = self.authorise(caller, &policy::Ask::validate(&ask.scopes), None)?;
        check(ask).map(|()| grant)
    }

    /// `generation`: what the epoch page had before policy was asked, if the verdict may be kept.
    fn judged(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        ask: &Validate<'_>,
        grant: &Grant,
        generation: Option<u64>,
    ) -> Judged {
        let now = self.clock.now();
        let from_asserted = grant.assert_address == Some(AssertAddress::Yes);
        let from = ask.from.map(canonical);
        let (record, slot) = match self.presented(ask.token) {
            #[cfg(feature = "mutants")]
            Ok(Presented::Known(record, slot)) if mutant!(SlotAfterState) => {
                let late = self.store.slot_read_late(record.id, slot);
                (record, late)
            }
            Ok(Presented::Known(record, slot)) => (record, slot),
            Ok(Presented::Stranger(reason, id)) => {
                let verdict = self.stranger(caller, ask, from, from_asserted, reason, id, now);
                return Judged::Ready(Ok(not_kept(verdict)));
            }
            Err(error) => return Judged::Ready(Err(store_failure(&error))),
        };
        let circumstances = Circumstances {
            now,
            scopes: &ask.scopes,
            audience: ask.audience,
            from: from.filter(|_| from_asserted),
            unit: caller.peer.unit.as_deref(),
            uid: caller.uid(),
        };
        let outcome = match judge(&record, &circumstances) {
            Judgement::Good => self.spend(&record, ask.peek),
            Judgement::Bad(reason) => Outcome::Inactive(reason, Vec::new()),
            Judgement::Lacks(missing) => Outcome::Inactive(Reason::InsufficientScope, missing),
        };
        let question = || Question {
            scopes: ask.scopes.iter().map(|&scope| scope.to_owned()).collect(),
            audience: ask.audience.map(str::to_owned),
            from,
            from_asserted,
            note: ask.note.map(str::to_owned),
            peek: ask.peek,
        };
        match outcome {
            Outcome::Inactive(reason, missing) => {
                let verdict = not_kept(verdict(&record, Some(reason), missing, now));
                match self.refuse_known(caller, &record, &question(), reason, now) {
                    None => Judged::Ready(Ok(verdict)),
                    Some(told) => Judged::Later(Box::pin(async move {
                        // Told or not, the verdict is what it is.
                        let _ = told.await;
                        Ok(verdict)
                    })),
                }
            }
            Outcome::Active if first_use::is_counted(&record) && !ask.peek => {
                let (service, caller, question) = (Arc::clone(self), Arc::clone(caller), question());
                Judged::Later(Box::pin(async move { service.count_use(caller, record.id, question).await }))
            }
            Outcome::Active => {
                #[cfg(feature = "mutants")]
                let generation = generation.map(|was| match mutant!(GenerationAfterState) {
                    true => {
                        crate::page::mutant::window(|| self.store.epoch() != was);
                        self.store.epoch()
                    }
                    false => was,
                });
                let epoch = generation.map(|generation| Epoch { generation, slot });
                self.active(caller, record, ask, from, now, question, epoch)
            }
        }
    }

    /// Rate, then uses. The rate is spent only when both have room, and the use only when it is committed.
    fn spend(&self, record: &TokenRecord, peek: bool) -> Outcome {
        let boottime = self.clock.boottime();
        let within = |spend| record.rate.is_none_or(|rate| self.rates.allow(record.family, rate, boottime, spend));
        if !within(false) {
            return Outcome::Inactive(Reason::RateLimited, Vec::new());
        }
        if is_exhausted(record) {
            return Outcome::Inactive(Reason::Exhausted, Vec::new());
        }
        if !peek && !within(true) {
            return Outcome::Inactive(Reason::RateLimited, Vec::new());
        }
        Outcome::Active
    }

    /// An *active* whose line is counted with others', or is the first of its window and is waited for.
    #[allow(clippy::too_many_arguments, reason = "the hot path copies nothing that it may not need")]
    pub(super) fn active(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        record: Arc<TokenRecord>,
        ask: &Validate<'_>,
        from: Option<std::net::IpAddr>,
        now: UnixTime,
        question: impl Fn() -> Question,
        epoch: Option<Epoch>,
    ) -> Judged {
        let key = use_key(&caller.peer, ask, record.id, from);
        let recording = self.audit.used(key, now, || self.use_event(caller, &record, &question(), None, now));
        let cache = epoch.and_then(|epoch| self.cacheable(&record, &question(), epoch, caller.peer.uid, now));
        let good = Stamped { verdict: verdict(&record, None, Vec::new(), now), cache };
        match recording {
            Recording::Done => {
                self.note_use(caller, record.id, from, ask.peek, now);
                Judged::Ready(Ok(good))
            }
            Recording::Unavailable => Judged::Ready(Err(audit_unavailable())),
            Recording::Wait(receipt) => {
                let (service, caller, peek) = (Arc::clone(self), Arc::clone(caller), ask.peek);
                Judged::Later(Box::pin(async move {
                    receipt.wait().await.map_err(|_| audit_unavailable())?;
                    service.note_use(&caller, record.id, from, peek, now);
                    Ok(good)
                }))
            }
        }
    }

    /// Somebody who did not show the right secret: told one of two reasons, and nothing else.
    #[allow(clippy::too_many_arguments, reason = "what a line needs, nothing of it made before it is needed")]
    fn stranger(
        &self,
        caller: &Caller,
        ask: &Validate<'_>,
        from: Option<std::net::IpAddr>,
        from_asserted: bool,
        reason: Reason,
        id: Option<TokenId>,
        now: UnixTime,
    ) -> Verdict {
        let key = refusal_key(&caller.peer, None, reason.name());
        self.audit.refused(key, self.refusal(caller), false, now, || {
            let mut event = AuditEvent::new(EventKind::Deny, now);
            event.outcome = Some("inactive".into());
            event.reason = Some(reason.name().into());
            event.id = id;
            event.peer = Some(caller.peer.label());
            event.scopes = Some(ask.scopes.iter().map(|&scope| scope.to_owned()).collect());
            event.audience = ask.audience.map(str::to_owned);
            event.from = from;
            event.from_asserted = from.map(|_| from_asserted);
            event.note = ask.note.map(str::to_owned);
            event
        });
        inactive(reason)
    }

    /// A refusal to who showed the right secret. A canary and a rotated-out token are alerts, which may be something to
    /// wait for.
    pub(super) fn refuse_known(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        record: &TokenRecord,
        question: &Question,
        reason: Reason,
        now: UnixTime,
    ) -> Option<oneshot::Receiver<()>> {
        if matches!(reason, Reason::Canary | Reason::Rotated) {
            return self.alert(caller, record, question, reason, now);
        }
        self.refuse_shared(caller, record, question, reason, now);
        None
    }

    /// The line of a refusal, coalesced by token and reason, within the uid's budget of lines.
    pub(super) fn refuse_shared(
        &self,
        caller: &Caller,
        record: &TokenRecord,
        question: &Question,
        reason: Reason,
        now: UnixTime,
    ) {
        let key = refusal_key(&caller.peer, Some(record.id), reason.name());
        let refusal = self.refusal(caller);
        self.audit.refused(key, refusal, false, now, || self.use_event(caller, record, question, Some(reason), now));
    }

    pub(super) fn refuse_plain(&self, peer: &Peer, reason: &'static str, event: AuditEvent) {
        let refusal = Refusal { uid: peer.uid, exempt: self.settings().policy.standing(peer).full };
        self.audit.refused(refusal_key(peer, None, reason), refusal, false, event.time, || event);
    }

    /// Whose budget of lines a refusal is charged to; peers with full rights have none.
    pub(super) fn refusal(&self, caller: &Caller) -> Refusal {
        Refusal { uid: caller.peer.uid, exempt: caller.known(self).standing.full }
    }

    fn use_event(
        &self,
        caller: &Caller,
        record: &TokenRecord,
        question: &Question,
        reason: Option<Reason>,
        now: UnixTime,
    ) -> AuditEvent {
        event_of_use(record, question, caller.peer.label(), reason, now)
    }

    pub(super) fn note_use(
        &self,
        caller: &Caller,
        id: TokenId,
        from: Option<std::net::IpAddr>,
        peek: bool,
        now: UnixTime,
    ) {
        if !peek {
            let unit = caller.peer.unit.as_deref().map(str::to_owned);
            self.store.note_use(id, LastUse { at: now, unit, uid: caller.peer.uid, from, count: 1, by: Vec::new() });
        }
    }
}

/// Form and sizes of what is asked.
fn check(ask: &Validate<'_>) -> Result<(), Failure> {
    let too_long = |field, max| Err(invalid(Invalid::Text { field, max }));
    if ask.token.len() > TEXT_MAX {
        return too_long("token", TEXT_MAX);
    }
    if ask.scopes.len() > SCOPES_MAX {
        return Err(invalid(Invalid::Scope(scope::ScopeError::TooMany)));
    }
    for scope in &ask.scopes {
        scope::check_required(scope).map_err(|error| invalid(error.into()))?;
    }
    if ask.audience.is_some_and(|audience| audience.is_empty() || !is_clean(audience, NAME_MAX)) {
        return too_long("audience", NAME_MAX);
    }
    if ask.note.is_some_and(|note| !is_clean(note, NOTE_MAX)) {
        return too_long("note", NOTE_MAX);
    }
    if ask.note.is_some_and(crate::token::holds_token) {
        return Err(invalid(Invalid::LooksLikeToken("note")));
    }
    Ok(())
}

/// Uses are alike when token, process, address and all that was asked are the same.
fn use_key(peer: &Peer, ask: &Validate<'_>, id: TokenId, from: Option<std::net::IpAddr>) -> UseKey {
    UseKey::of(|hasher| {
        (id, peer.pid, peer.uid, peer.unit.as_deref(), from).hash(hasher);
        (&ask.scopes, ask.audience, ask.note, ask.peek).hash(hasher);
    })
}

/// Refusals are alike by uid, unit and reason; those of a token that was really shown, by token too.
fn refusal_key(peer: &Peer, id: Option<TokenId>, reason: &'static str) -> UseKey {
    UseKey::of(|hasher| (id, peer.uid, peer.unit.as_deref(), reason).hash(hasher))
}

pub(super) fn event_of_use(
    record: &TokenRecord,
    question: &Question,
    peer: crate::peer::PeerLabel,
    reason: Option<Reason>,
    now: UnixTime,
) -> AuditEvent {
    let kind = match reason {
        None => EventKind::Use,
        Some(Reason::Canary) => EventKind::Canary,
        Some(Reason::Rotated) => EventKind::Reuse,
        Some(_) => EventKind::Deny,
    };
    let mut event = AuditEvent::new(kind, now);
    event.outcome = Some(if reason.is_none() { "active".into() } else { "inactive".into() });
    event.reason = reason.map(|reason| reason.name().into());
    event.id = Some(record.id);
    event.name = Some(record.name.clone());
    event.subject = Some(record.subject.clone());
    event.kind = Some(record.kind);
    event.scopes = Some(question.scopes.clone());
    event.audience.clone_from(&question.audience);
    event.peer = Some(peer);
    event.from = question.from;
    event.from_asserted = question.from.map(|_| question.from_asserted);
    event.note = match (&question.note, question.peek) {
        // By its note a use must not pass for a look: neither in the trail, nor in a restore, which counts uses again.
        (Some(note), false) if note.starts_with("peek") => Some(format!("note: {note}")),
        (note, false) => note.clone(),
        (None, true) => Some("peek".to_owned()),
        (Some(note), true) => Some(format!("peek: {note}")),
    };
    event
}

pub(super) fn verdict(
    record: &TokenRecord,
    reason: Option<Reason>,
    missing_scopes: Vec<String>,
    now: UnixTime,
) -> Verdict {
    Verdict { active: reason.is_none(), reason, missing_scopes, token: Some(Box::new(view::info(record, None, now))) }
}

/// A verdict that says nothing for the next time.
pub(super) fn not_kept(verdict: Verdict) -> Stamped {
    Stamped { verdict, cache: None }
}

pub(super) fn inactive(reason: Reason) -> Verdict {
    Verdict { active: false, reason: Some(reason), missing_scopes: Vec::new(), token: None }
}
