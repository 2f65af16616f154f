//! The sweeper: what happens to tokens because time passes. It tells that they have expired (`expire`), warns before
//! they do (`warn`), and forgets what ended long ago (`purge`).
//!
//! Invariants: what it does stands in the record, in the mark of how far it has come, and in the audit's outbox by one
//! and the same transaction, so that each is told exactly once, also over kill -9. It is in nobody's way: its
//! transactions are small, it waits until the audit has written the lines of one before it begins the next, and rests
//! between them. While the audit can't take lines, or the disk has no room for new tokens, it waits: nothing is lost by
//! that, the index of expiries is still there.
//!
//! *Expired* does not hang on it: that is computed from the clock with each request.

mod expire;
mod purge;
mod warn;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::changes::line_due;
use super::{Service, Settings};
use crate::audit::{AuditEvent, Receipt};
use crate::registry::sweep;
use crate::store::record::TokenRecord;
use crate::store::{Effect, ExpiryPlace, LeadMark, StoreError, SweepMarks, Txn};
use crate::time::UnixTime;
use crate::token::TokenId;

/// How often the clock is looked at when nothing is due: a step of it may make something due.
const LOOK: Duration = Duration::from_secs(1);
/// Changes in one transaction: whoever else needs the writer waits for no more than this.
const BATCH: usize = 128;
/// Lines that the audit's thread is given at once: a validation whose line comes behind them waits for no more.
const LINES: usize = 32;
/// Records that are looked at without a pause.
const LOOKS: usize = 256;
/// After each batch it rests for so many times as long as that took: the rest of the time is the others'.
const REST: u32 = 3;
/// How long it waits when it can't write.
const AGAIN: Duration = Duration::from_secs(5);
/// The last place of a time.
const LAST: TokenId = TokenId::from_bytes([0xff; 16]);

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Something was done or looked at: there may be more.
    More,
    /// Nothing is due.
    Idle,
}

/// The background task.
pub struct Sweeper {
    service: Arc<Service>,
    stopping: watch::Receiver<bool>,
    /// When the next expiry is to be told; `None` = not known.
    expiry_due: Option<UnixTime>,
    /// When the next token is to be warned of; `None` = not known.
    warning_due: Option<UnixTime>,
    /// How far has been looked for warnings: what the store has, or further by what was looked at in vain.
    leads: Vec<LeadMark>,
    /// Those of `leads` that the store has.
    stored_leads: Vec<LeadMark>,
    /// Records looked at since they were stored.
    looked_in_vain: usize,
    purge: purge::Walk,
    reloads: u64,
    /// The time at the last look: if it is later than now, the clock has gone back.
    seen: UnixTime,
}

impl Sweeper {
    /// The sweeper of this service; there is to be one.
    pub fn new(service: Arc<Service>) -> Self {
        let stopping = service.stopping.subscribe();
        let stored_leads = service.store.sweep_marks().leads;
        Self {
            stopping,
            expiry_due: None,
            warning_due: None,
            leads: stored_leads.clone(),
            stored_leads,
            looked_in_vain: 0,
            purge: purge::Walk::new(Instant::now()),
            reloads: service.reloads(),
            seen: UnixTime::EPOCH,
            service,
        }
    }

    /// Sweeps until the service stops or the store has ended.
    pub async fn run(mut self) {
        while !self.stopped() {
            match self.turn().await {
                Ok(()) => self.sleep().await,
                Err(StoreError::Stopped | StoreError::Fatal(_) | StoreError::SyncFailed) => return,
                Err(error) => {
                    tracing::warn!("the sweeper could not go on, and tries again in {} s: {error}", AGAIN.as_secs());
                    self.pause(AGAIN).await;
                }
            }
        }
        // What was looked at in vain need not be looked at again by the next start.
        if self.leads != self.stored_leads
            && let Err(error) = self.store_leads().await
        {
            tracing::warn!("how far the sweeper has come could not be stored: {error}");
        }
    }

    /// Does everything that is due, expiries first.
    ///
    /// # Errors
    /// As the store's; what was not done is due still.
    pub async fn turn(&mut self) -> Result<(), StoreError> {
        self.look_at_the_clock().await?;
        while !self.stopped() {
            if let Some(at) = self.service.store.soonest_expiry() {
                self.expiry_due = self.expiry_due.map(|due| due.min(at));
                // A warning can wait a moment, so that many tokens that are issued are one look at the index.
                let soon = self.service.clock.now().saturating_add(LOOK);
                self.warning_due = self.warning_due.map(|due| due.min(soon));
            }
            if !self.service.audit.ready() {
                return Ok(());
            }
            let begun = Instant::now();
            // What makes room goes on without it.
            let has_room = self.service.store.room().issue_ok;
            let more = has_room && (self.expire().await? == Step::More || self.warn().await? == Step::More)
                || self.purge(false).await? == Step::More;
            if !more {
                return Ok(());
            }
            self.pause(begun.elapsed() * REST).await;
        }
        Ok(())
    }

    /// Forgets what ended long enough ago now, not when its time comes.
    ///
    /// # Errors
    /// As the store's.
    pub async fn purge_now(&mut self) -> Result<(), StoreError> {
        while self.purge(true).await? == Step::More {}
        Ok(())
    }

    /// Until something is due: by the clock, by a commit that brings an earlier expiry, or by a step of the clock, which
    /// is looked for now and then without asking the store.
    async fn sleep(&mut self) {
        if !self.may_write() {
            return self.pause(LOOK).await;
        }
        let mut stopping = self.stopping.clone();
        let due = [self.expiry_due, self.warning_due].into_iter().flatten().min().unwrap_or(UnixTime::MAX);
        // A token is warned of so long ahead of the expiry that a commit brings.
        let longest = self.settings().warn_before.iter().max().copied().unwrap_or_default();
        let brought = self.service.store.expiry_before(due.saturating_add(longest));
        let mut brought = std::pin::pin!(brought);
        loop {
            let now = self.service.clock.now();
            if now >= due || now < self.seen || self.service.reloads() != self.reloads || self.purge.is_due() {
                return;
            }
            self.seen = now;
            let wait = due.since(now).min(LOOK).min(self.purge.wait());
            tokio::select! {
                () = &mut brought => return,
                () = tokio::time::sleep(wait) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        }
    }

    /// Notices a reload, and a clock that has gone back: what was told beyond it is taken back first.
    async fn look_at_the_clock(&mut self) -> Result<(), StoreError> {
        let (now, reloads) = (self.service.clock.now(), self.service.reloads());
        if reloads != self.reloads {
            (self.reloads, self.warning_due) = (reloads, None);
        }
        let told = self.service.store.sweep_marks().told;
        let ahead = |place: ExpiryPlace, by: Duration| place.0 > now.saturating_add(by);
        let beyond = told.is_some_and(|told| ahead(told, Duration::ZERO))
            || self.leads.iter().any(|lead| ahead(lead.looked, lead.before));
        self.seen = now;
        if beyond {
            (self.expiry_due, self.warning_due) = (None, None);
            self.take_back(now).await?;
        }
        Ok(())
    }

    /// Walks what was told of the time between now and the marks, and then moves those back. A crash on the way leaves
    /// the marks where they were: it is done again.
    ///
    /// This is the sweeper's own book-keeping, undone; what took the clock back is in the audit already.
    async fn take_back(&mut self, now: UnixTime) -> Result<(), StoreError> {
        let told = self.service.store.sweep_marks().told;
        let furthest = self.leads.iter().map(|lead| lead.looked).chain(told).max();
        let mut from = (now, LAST);
        while let Some(until) = furthest.filter(|until| *until > from) {
            let early = move |record: &TokenRecord| sweep::untold(record, now).is_some();
            let Some((last, early)) = self.look(from, until.0, early).await? else { break };
            for ids in early.chunks(BATCH) {
                let ids = ids.to_vec();
                let job = move |txn: &mut Txn<'_>| -> Result<Vec<AuditEvent>, StoreError> {
                    for id in ids {
                        let record = txn.record(id)?;
                        if let Some(record) = record.and_then(|it| sweep::untold(&it, now)) {
                            txn.put(record, Effect::Extends)?;
                        }
                    }
                    Ok(Vec::new())
                };
                self.write(job).await?;
            }
            from = last;
        }
        for lead in &mut self.leads {
            lead.looked = lead.looked.min((now.saturating_add(lead.before), TokenId::MIN));
        }
        let leads = self.leads.clone();
        self.write(move |txn| {
            let mut marks = txn.sweep_marks().clone();
            marks.told = marks.told.map(|told| told.min((now, TokenId::MIN)));
            marks.leads = leads;
            txn.set_sweep_marks(marks);
            Ok(Vec::new())
        })
        .await?;
        self.leads_stored();
        tracing::info!("the clock has gone back: what it had told too early is forgotten");
        Ok(())
    }

    /// Looks at some tokens by their expiry: the last of them, and the ids of those that are `wanted`.
    async fn look(
        &self,
        after: ExpiryPlace,
        until: UnixTime,
        wanted: impl Fn(&TokenRecord) -> bool + Send + 'static,
    ) -> Result<Option<(ExpiryPlace, Vec<TokenId>)>, StoreError> {
        let store = self.service.store.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let found = store.expiring_records(Some(after), until, LOOKS)?;
            let last = found.last().map(|(place, _)| *place);
            let wanted = found.into_iter().filter_map(|(_, record)| record).filter(wanted);
            Ok(last.map(|last| (last, wanted.map(|record| record.id).collect())))
        });
        looked.await.unwrap_or(Err(StoreError::JobPanicked))
    }

    async fn store_leads(&mut self) -> Result<(), StoreError> {
        let leads = self.leads.clone();
        self.write(move |txn| {
            let marks = SweepMarks { leads, ..txn.sweep_marks().clone() };
            txn.set_sweep_marks(marks);
            Ok(Vec::new())
        })
        .await?;
        self.leads_stored();
        Ok(())
    }

    fn leads_stored(&mut self) {
        self.stored_leads.clone_from(&self.leads);
        self.looked_in_vain = 0;
    }

    /// Commits, and hands the lines to the audit, some at a time: the next when those are written.
    async fn write(
        &self,
        job: impl FnOnce(&mut Txn<'_>) -> Result<Vec<AuditEvent>, StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let mut events = self.service.store.write(job).await??.value.into_iter();
        let audit = &self.service.audit;
        while events.len() > 0 {
            let lines = events.by_ref().take(LINES).map(|event| line_due(audit, event));
            // What can't be written now waits in the outbox, and in the audit: whether it can is asked before the next
            // transaction.
            let _ = join_all(lines.map(Receipt::wait)).await;
        }
        Ok(())
    }

    /// Whether lines can be written, and records without touching the room that revocations need.
    fn may_write(&self) -> bool {
        self.service.audit.ready() && self.service.store.room().issue_ok
    }

    async fn pause(&self, time: Duration) {
        let mut stopping = self.stopping.clone();
        // Cut short by the stop; either way it is over.
        let _ = timeout(time, stopping.wait_for(|stopping| *stopping)).await;
    }

    fn stopped(&self) -> bool {
        *self.stopping.borrow()
    }

    fn settings(&self) -> Arc<Settings> {
        self.service.settings()
    }
}
