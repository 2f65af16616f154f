//! validate: the hot path. No wait, no lock that a slow disk can hold, unless the token's uses are counted or the
//! audit line is the first of its window. Nothing of the request is copied before it is known that it must outlive it.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::join_all;

use super::body::{Body, Told};
use super::keep::Epoch;
use super::presented::Presented;
use super::{Caller, Now, Service, audit_unavailable, invalid, later, store_failure};
use crate::audit::{Receipt, Recording};
use crate::config::AssertAddress;
use crate::policy::{self, Grant};
use crate::protocol::code::{ErrorCode, Reason};
use crate::protocol::message::{Cacheable, Failure, Validate};
use crate::protocol::{BATCH_MAX, NAME_MAX, NOTE_MAX, is_clean};
use crate::registry::validate::{Circumstances, Judgement, is_exhausted, judge};
use crate::registry::{Invalid, canonical, first_use};
use crate::scope::{self, SCOPES_MAX};
use crate::store::HotRecord;
use crate::store::record::TokenRecord;
use crate::time::UnixTime;
use crate::token::TEXT_MAX;

/// A verdict, or what it waits for.
pub(super) enum Judged {
    Ready(Result<Told, Failure>),
    /// It is good as soon as its line is written.
    Unwritten(Unwritten),
    Later(Pin<Box<dyn Future<Output = Result<Told, Failure>> + Send>>),
}

/// An *active* that waits for its line.
pub(super) struct Unwritten {
    receipt: Receipt,
    record: Arc<HotRecord>,
    from: Option<IpAddr>,
    peek: bool,
    now: UnixTime,
    /// How it may be kept.
    cache: Option<Box<Cacheable>>,
}

/// What a request says besides the token, and what its word for the client's address is worth.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) ask: &'a Validate<'a>,
    pub(super) from: Option<IpAddr>,
    pub(super) from_asserted: bool,
}

/// The same, owned: for what outlives the frame.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) scopes: Vec<String>,
    pub(super) audience: Option<String>,
    pub(super) from: Option<IpAddr>,
    pub(super) from_asserted: bool,
    pub(super) note: Option<String>,
    pub(super) peek: bool,
}

impl Asked<'_> {
    pub(super) fn owned(&self) -> Question {
        Question {
            scopes: self.ask.scopes.iter().map(|&scope| scope.to_owned()).collect(),
            audience: self.ask.audience.map(str::to_owned),
            from: self.from,
            from_asserted: self.from_asserted,
            note: self.ask.note.map(str::to_owned),
            peek: self.ask.peek,
        }
    }
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

    /// As it was asked: `ask` is what [`Self::ask`] gave.
    pub(super) fn asked<'a>(&self, ask: &'a Validate<'a>) -> Asked<'a> {
        Asked { ask, from: self.from, from_asserted: self.from_asserted }
    }
}

/// How a validation ended.
enum Outcome {
    Active,
    Inactive(Reason, Vec<String>),
}

impl Service {
    pub(super) fn validate(self: &Arc<Self>, caller: &Arc<Caller>, ask: &Validate<'_>) -> Now<Body> {
        // Before policy and everything else that the verdict rests on.
        let generation = caller.keeps().then(|| self.store.epoch());
        let grant = match self.permitted(caller, ask) {
            Ok(grant) => grant,
            Err(failure) => return Now::failure(failure),
        };
        let body = if generation.is_some() { Body::Stamped } else { Body::Verdict };
        match self.judged(caller, ask, &grant, self.clock.now(), generation) {
            Judged::Ready(Ok(told)) => Now::Ready(body(told)),
            Judged::Ready(Err(failure)) => Now::failure(failure),
            Judged::Unwritten(line) => {
                let (service, caller) = (Arc::clone(self), Arc::clone(caller));
                later(async move { service.written(&caller, line).await.map(body) })
            }
            Judged::Later(told) => later(async move { told.await.map(body) }),
        }
    }

    pub(super) fn validate_batch(self: &Arc<Self>, caller: &Arc<Caller>, batch: &[Validate<'_>]) -> Now<Body> {
        if batch.is_empty() || batch.len() > BATCH_MAX {
            return Now::failure(Failure::new(ErrorCode::BadRequest, format!("a batch has 1 to {BATCH_MAX} tokens")));
        }
        // Policy and form are decided for all before the first is looked at: a refused batch has spent nothing.
        let grants = match batch.iter().map(|ask| self.permitted(caller, ask)).collect::<Result<Vec<Grant>, Failure>>()
        {
            Ok(grants) => grants,
            Err(failure) => return Now::failure(failure),
        };
        let now = self.clock.now();
        let mut ready = Vec::with_capacity(batch.len());
        let mut waiting = Vec::new();
        for (ask, grant) in batch.iter().zip(&grants) {
            match self.judged(caller, ask, grant, now, None) {
                Judged::Ready(Ok(told)) => ready.push(Some(told)),
                Judged::Ready(Err(failure)) => return Now::failure(failure),
                waits => {
                    waiting.push((ready.len(), waits));
                    ready.push(None);
                }
            }
        }
        let verdicts = |all: Vec<Option<Told>>| Body::Verdicts(all.into_iter().flatten().collect());
        if waiting.is_empty() {
            return Now::Ready(verdicts(ready));
        }
        let (service, caller) = (Arc::clone(self), Arc::clone(caller));
        later(async move {
            service.gather(&caller, waiting, &mut ready).await?;
            Ok(verdicts(ready))
        })
    }

    /// Waits for those of a batch that wait, and puts each in its place.
    async fn gather(
        self: &Arc<Self>,
        caller: &Caller,
        waiting: Vec<(usize, Judged)>,
        told: &mut [Option<Told>],
    ) -> Result<(), Failure> {
        let (mut lines, mut counted) = (Vec::new(), Vec::new());
        for (place, judged) in waiting {
            match judged {
                Judged::Ready(verdict) => told[place] = Some(verdict?),
                Judged::Unwritten(line) => lines.push((place, line)),
                Judged::Later(verdict) => counted.push(async move { (place, verdict.await) }),
            }
        }
        // All at once, so that counted uses share a commit.
        for (place, verdict) in join_all(counted).await {
            told[place] = Some(verdict?);
        }
        // One after the other: they are on their way already, and are mostly written together.
        for (place, line) in lines {
            told[place] = Some(self.written(caller, line).await?);
        }
        Ok(())
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
        now: UnixTime,
        generation: Option<u64>,
    ) -> Judged {
        let from_asserted = grant.assert_address == Some(AssertAddress::Yes);
        let asked = Asked { ask, from: ask.from.map(canonical), from_asserted };
        let (record, slot) = match self.presented(ask.token) {
            #[cfg(feature = "mutants")]
            Ok(Presented::Known(record, slot)) if mutant!(SlotAfterState) => {
                let late = self.store.slot_read_late(record.id, slot);
                (record, late)
            }
            Ok(Presented::Known(record, slot)) => (record, slot),
            Ok(Presented::Stranger(reason, id)) => {
                self.refuse_stranger(caller, asked, reason, id, now);
                return Judged::Ready(Ok(Told::inactive(reason)));
            }
            Err(error) => return Judged::Ready(Err(store_failure(&error))),
        };
        let circumstances = Circumstances {
            now,
            scopes: &ask.scopes,
            audience: ask.audience,
            from: asked.from.filter(|_| from_asserted),
            unit: caller.peer.unit.as_deref(),
            uid: caller.uid(),
        };
        let outcome = match judge(&record, &circumstances) {
            Judgement::Good => self.spend(&record, ask.peek),
            Judgement::Bad(reason) => Outcome::Inactive(reason, Vec::new()),
            Judgement::Lacks(missing) => Outcome::Inactive(Reason::InsufficientScope, missing),
        };
        match outcome {
            Outcome::Inactive(reason, missing) => {
                let waits = self.refuse_known(caller, &record, asked, reason, now);
                let told = Told::not_good(record, reason, missing, now);
                match waits {
                    None => Judged::Ready(Ok(told)),
                    Some(waits) => Judged::Later(Box::pin(async move {
                        // Told or not, the verdict is what it is.
                        let _ = waits.await;
                        Ok(told)
                    })),
                }
            }
            Outcome::Active if first_use::is_counted(&record) && !ask.peek => {
                let (service, caller, question) = (Arc::clone(self), Arc::clone(caller), asked.owned());
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
                self.active(caller, record, asked, now, epoch)
            }
        }
    }

    /// Rate, then uses. The rate is spent only when both have room, and the use only when it is committed.
    fn spend(&self, record: &TokenRecord, peek: bool) -> Outcome {
        let within =
            |spend| record.rate.is_none_or(|rate| self.rates.allow(record.family, rate, self.clock.boottime(), spend));
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
    pub(super) fn active(
        &self,
        caller: &Caller,
        record: Arc<HotRecord>,
        asked: Asked<'_>,
        now: UnixTime,
        epoch: Option<Epoch>,
    ) -> Judged {
        let (from, peek) = (asked.from, asked.ask.peek);
        let cache = epoch.and_then(|epoch| self.cacheable(&record, asked, epoch, caller.peer.uid, now));
        match self.record_use(caller, &record, asked, now) {
            Recording::Done => {
                self.note_use(caller, record.id, from, peek, now);
                Judged::Ready(Ok(Told::active(record, now, cache)))
            }
            Recording::Unavailable => Judged::Ready(Err(audit_unavailable())),
            Recording::Wait(receipt) => Judged::Unwritten(Unwritten { receipt, record, from, peek, now, cache }),
        }
    }

    /// Waits for the line, and says that the token is good.
    pub(super) async fn written(&self, caller: &Caller, line: Unwritten) -> Result<Told, Failure> {
        let Unwritten { receipt, record, from, peek, now, cache } = line;
        receipt.wait().await.map_err(|_| audit_unavailable())?;
        self.note_use(caller, record.id, from, peek, now);
        Ok(Told::active(record, now, cache))
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
