//! Verdicts that clients keep: who may, under which conditions, and the uses that they tell of afterwards.
//!
//! Invariants: I2 (what a kept verdict rests on was read after the epochs that it names: generation, then slot, then policy
//! and state), I4 (a kept verdict's uses are recorded under the line of the verdict itself; they spend nothing, for what
//! has a number of uses or a rate is never kept).

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;

use super::lines::event_of_use;
use super::tickets::Granted;
use super::validate::Asked;
use super::{Caller, Later, Now, Service, audit_unavailable, later, store_failure};
use crate::audit::{AuditEvent, EventKind, Recording};
use crate::config::Operation;
use crate::page;
use crate::protocol::REPORTS_MAX;
use crate::protocol::code::ErrorCode;
use crate::protocol::message::{Answer, Ask, Cacheable, Failure, UseReport};
use crate::registry::validate::good_until;
use crate::store::UseNote;
use crate::store::record::TokenRecord;
use crate::time::UnixTime;
use crate::token::TokenId;

/// What of the epoch page was read before a token was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch {
    /// Of all tokens: read before policy was asked.
    pub(super) generation: u64,
    /// Of the token: read before its state.
    pub(super) slot: u64,
}

/// A report whose ticket is ours.
struct Claim {
    id: TokenId,
    event: AuditEvent,
    from: Option<IpAddr>,
    count: u64,
    last: UnixTime,
}

impl Service {
    /// The file of the epoch page.
    pub fn epoch_page(&self) -> Option<BorrowedFd<'_>> {
        self.page.as_ref().map(|page| page.file())
    }

    /// Gives a peer the epoch page, if it may validate at all. Its verdicts say from then on how they may be kept.
    pub fn grant_page(&self, caller: &Caller) -> bool {
        let granted = self.page.is_some() && {
            let known = caller.known(self);
            known.settings.policy.may(&known.standing, Operation::Validate)
        };
        if granted {
            caller.may_keep();
        }
        granted
    }

    /// How this *active* may be kept by the peer of this uid; `None` = it may not.
    pub(super) fn cacheable(
        &self,
        record: &TokenRecord,
        asked: Asked<'_>,
        epoch: Epoch,
        uid: u32,
        now: UnixTime,
    ) -> Option<Box<Cacheable>> {
        let Asked { ask, from, from_asserted } = asked;
        // What is counted must be asked for each time, and what is remarked on is remarked on once.
        if record.max_uses.is_some() || record.rate.is_some() || ask.note.is_some() || ask.peek {
            return None;
        }
        let granted = Granted {
            id: record.id,
            at: now,
            epoch: epoch.generation,
            scopes: ask.scopes.clone(),
            audience: ask.audience,
            from,
            from_asserted,
        };
        Some(Box::new(Cacheable {
            generation: epoch.generation,
            slot: page::slot_of(record.id) as u32,
            value: epoch.slot,
            good_until: good_until(record),
            ticket: granted.ticket(&self.keyring, uid),
        }))
    }

    /// Records uses that a peer has granted out of its cache. All of them, or none.
    pub(super) fn report_uses(self: &Arc<Self>, caller: &Arc<Caller>, reports: &[UseReport<'_>]) -> Now {
        let claims = match self.claims(caller, reports) {
            Ok(claims) => claims,
            Err(failure) => return Now::failure(failure),
        };
        let (service, caller, mut receipts) = (Arc::clone(self), Arc::clone(caller), Vec::new());
        for claim in &claims {
            match self.audit.claimed(claim.event.clone()) {
                Recording::Done => {}
                Recording::Wait(receipt) => receipts.push(receipt),
                // Lines that are on their way may still be written: a count that is told twice is claimed twice.
                Recording::Unavailable => return Now::failure(audit_unavailable()),
            }
        }
        later(async move {
            let written = join_all(receipts.into_iter().map(|receipt| receipt.wait())).await;
            if written.iter().any(Result::is_err) {
                return Err(audit_unavailable());
            }
            for Claim { id, from, count, last, .. } in claims {
                service.reported.fetch_add(count, Ordering::Relaxed);
                let (unit, uid) = (caller.peer.unit.as_deref(), caller.peer.uid);
                service.store.note_use(id, UseNote { at: last, unit, uid, from, count });
            }
            Ok(Answer::Reported)
        })
    }

    fn claims(&self, caller: &Caller, reports: &[UseReport<'_>]) -> Result<Vec<Claim>, Failure> {
        let bad = |message: String| Failure::new(ErrorCode::BadRequest, message);
        if reports.is_empty() || reports.len() > REPORTS_MAX {
            return Err(bad(format!("a report has 1 to {REPORTS_MAX} entries")));
        }
        let now = self.clock.now();
        reports.iter().map(|report| self.claim(caller, report, now)).collect()
    }

    fn claim(&self, caller: &Caller, report: &UseReport<'_>, now: UnixTime) -> Result<Claim, Failure> {
        let bad = |message: &str| Failure::new(ErrorCode::BadRequest, message);
        let Some(granted) = Granted::open(&self.keyring, caller.peer.uid, report.ticket) else {
            return Err(bad(
                "uses are reported with the ticket that came with the verdict, and this is not one of yours",
            ));
        };
        if report.count == 0 || report.first > report.last {
            return Err(bad("a report is of at least one use, and the first is not after the last"));
        }
        let ask = granted.ask();
        let asked = Asked { ask: &ask, from: granted.from, from_asserted: granted.from_asserted };
        let record = self.store.lookup(granted.id).map_err(|error| store_failure(&error))?.record;
        // The client's clock is not quite ours. Nothing is recorded before it was granted, in the future, or after the
        // token's end, whenever it is told: no verdict stands behind that.
        let until = record.as_deref().and_then(|record| ended_at(record)).map_or(now, |end| end.min(now));
        let from = granted.at.min(until);
        let last = report.last.clamp(from, until);
        let first = report.first.clamp(from, last);
        let mut event = match record {
            Some(record) => event_of_use(&record, asked, caller.peer.label(), None, now),
            None => {
                let mut event = AuditEvent::new(EventKind::Use, now);
                event.outcome = Some("active".into());
                event.id = Some(granted.id);
                event.scopes = Some(granted.scopes.iter().map(|&scope| scope.to_owned()).collect());
                event.audience = granted.audience.map(str::to_owned);
                event.peer = Some(caller.peer.label());
                event.from = granted.from;
                event.from_asserted = granted.from.map(|_| granted.from_asserted);
                event
            }
        };
        event.count = Some(report.count.into());
        (event.first, event.last) = (Some(first), Some(last));
        event.cached = Some(true);
        event.claimed_by = Some(match caller.peer.unit.as_deref() {
            Some(unit) => unit.to_owned(),
            None => format!("uid:{}", caller.peer.uid),
        });
        Ok(Claim { id: granted.id, event, from: granted.from, count: report.count.into(), last })
    }

    /// Waits until what has been done by now is in force in every cache of the host.
    pub async fn in_force(&self) {
        self.takeover.over().await;
    }

    /// Holds back the answer to what takes rights away, while the caches of the last daemon may still count.
    pub(super) fn acknowledge(self: &Arc<Self>, ask: &Ask<'_>, answer: Now) -> Now {
        // A clock that is taken back ends what was issued ahead of it.
        let restricts =
            matches!(ask, Ask::Revoke(_) | Ask::Suspend(_) | Ask::Edit(_) | Ask::Rotate(_) | Ask::ClockReset);
        if !restricts || self.takeover.left().is_zero() {
            return answer;
        }
        let service = Arc::clone(self);
        let answer: Later = match answer {
            Now::Ready(answer) => Box::pin(async move { answer }),
            Now::Later(answer) => answer,
            stream @ Now::Stream(_) => return stream,
        };
        Now::Later(Box::pin(async move {
            let answer = answer.await;
            service.in_force().await;
            answer
        }))
    }
}

/// When a token ended, or is to end.
fn ended_at(record: &TokenRecord) -> Option<UnixTime> {
    let decided = [&record.revoked, &record.suspended].into_iter().flatten().map(|ending| ending.at);
    decided.chain(good_until(record)).min()
}
