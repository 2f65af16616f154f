//! purge: tokens that ended longer ago than `[store] retention` are forgotten, with their last uses.
//!
//! Revoked ones are not found by expiry, so all tokens are walked by id now and then, a few at a time. Ids begin with the
//! time of issue: the walk ends at those that are younger than the retention. Nothing is forgotten while the clock has
//! stepped forward and is not believed yet: what is forgotten can't be taken back.

use std::time::Duration;

use tokio::time::Instant;

use super::{BATCH, LOOKS, Step, Sweeper};
use crate::audit::{AuditEvent, EventKind};
use crate::registry::sweep;
use crate::service::changes::announce;
use crate::store::{Scan, StoreError};
use crate::time::UnixTime;
use crate::token::TokenId;

/// From one walk to the next.
const EVERY: Duration = Duration::from_secs(60 * 60);
/// The first one after a start: what hurries then goes first.
const FIRST: Duration = Duration::from_secs(60);
/// From one page to the next: some 2,500 records a second are looked at.
const PACE: Duration = Duration::from_millis(100);

/// Where the walk over all tokens is.
pub(super) struct Walk {
    next: Instant,
    /// The last id looked at, while a walk is under way.
    after: Option<TokenId>,
}

impl Walk {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now + FIRST, after: None }
    }

    /// How long until it goes on.
    pub(super) fn wait(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }
}

impl Sweeper {
    /// Looks at a page of tokens and forgets what is due; `at_once`: without waiting for its time.
    pub(super) async fn purge(&mut self, at_once: bool) -> Result<Step, StoreError> {
        if !(at_once || self.purge.is_due()) {
            return Ok(Step::Idle);
        }
        if self.service.clock.unsettled() {
            self.purge.next = Instant::now() + FIRST;
            return Ok(Step::Idle);
        }
        let (now, retention) = (self.service.clock.now(), self.settings().retention);
        let scan = Scan { after: self.purge.after, index: None, limit: LOOKS, visit_max: LOOKS };
        let youngest = youngest_id(now.saturating_sub(retention));
        let store = self.service.store.clone();
        let page = tokio::task::spawn_blocking(move || {
            let mut ids = Vec::new();
            let mut past = false;
            let page = store.scan(scan, |record| {
                past |= record.id > youngest;
                if sweep::forgets(record, retention, now) {
                    ids.push(record.id);
                }
                Ok(false)
            })?;
            Ok::<_, StoreError>((ids, page.next.filter(|_| !past)))
        });
        // It can only have panicked over a damaged file, and the store says so itself.
        let (ids, next) = page.await.unwrap_or(Err(StoreError::JobPanicked))?;
        for ids in ids.chunks(BATCH) {
            if self.stopped() || self.service.clock.unsettled() {
                return Ok(Step::Idle);
            }
            self.forget(ids.to_vec(), retention).await?;
        }
        self.purge.after = next;
        let ended = next.is_none();
        self.purge.next = Instant::now() + if ended { EVERY } else { PACE };
        Ok(if at_once && !ended { Step::More } else { Step::Idle })
    }

    async fn forget(&self, ids: Vec<TokenId>, retention: Duration) -> Result<(), StoreError> {
        let clock = std::sync::Arc::clone(&self.service.clock);
        let written = self.write(move |txn| {
            let now = clock.now();
            let mut count = 0_u64;
            let mut ends: Option<(UnixTime, UnixTime)> = None;
            for id in ids {
                let Some(record) = txn.record(id)?.filter(|it| sweep::forgets(it, retention, now)) else { continue };
                if let Some(at) = sweep::ended_at(&record, now) {
                    ends = Some(ends.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
                }
                txn.remove(id)?;
                count += 1;
            }
            let Some((first, last)) = ends else { return Ok(Vec::new()) };
            let mut event = AuditEvent::new(EventKind::Expire, now);
            event.outcome = Some("purged".into());
            event.reason = Some("retention".into());
            event.note = Some(format!("ended between {first} and {last}"));
            event.count = Some(count);
            Ok(vec![announce(txn, event)?])
        });
        written.await
    }
}

/// The greatest id that was made at that time.
fn youngest_id(at: UnixTime) -> TokenId {
    let millis = at.as_micros() / 1000;
    let mut bytes = [0xff; 16];
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    TokenId::from_bytes(bytes)
}
