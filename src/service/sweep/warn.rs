//! `warn`: machine tokens are told of ahead of their expiry, once for each of the times that the configuration names.
//!
//! For each lead a mark says up to which expiry has been looked. What is looked at in vain moves it in memory only, and
//! is stored with the next change, every so often, and at the stop. A token whose expiry is brought behind a mark has
//! less time left than that lead: it was issued for less, or somebody has just decided so, and knows. A token that is
//! held is not told of; what passes meanwhile is not made up for.

use std::time::Duration;

use super::{BATCH, LAST, LOOKS, Step, Sweeper};
use crate::audit::EventKind;
use crate::registry::sweep;
use crate::service::changes::{announce, event_about};
use crate::store::record::TokenRecord;
use crate::store::{Effect, ExpiryPlace, LeadMark, StoreError};
use crate::time::{UnixTime, format_duration};
use crate::token::TokenId;

/// Records that may have to be looked at again after a kill.
const UNSTORED_MAX: usize = 16_384;
/// What is issued takes a while to be committed: so far behind the time the mark stays.
const SLACK: Duration = Duration::from_secs(60);

impl Sweeper {
    /// Looks at some tokens, and tells of those that are due.
    pub(super) async fn warn(&mut self) -> Result<Step, StoreError> {
        let now = self.service.clock.now();
        if self.warning_due.is_some_and(|due| now < due) {
            return Ok(Step::Idle);
        }
        let leads = self.settings().warn_before.clone();
        self.know(&leads, now);
        for number in 0..self.leads.len() {
            let LeadMark { before, looked } = self.leads[number];
            let until = now.saturating_add(before);
            // Asked before the records are read, which is for another thread.
            if self.service.store.expiring(Some(looked), until, 1)?.is_empty() {
                continue;
            }
            let wanted = leads.clone();
            let due = move |record: &TokenRecord| sweep::warns(record, &wanted, now).is_some();
            let Some((last, due)) = self.look(looked, until, due).await? else { continue };
            for ids in due.chunks(BATCH) {
                self.tell(ids.to_vec(), leads.clone(), now).await?;
            }
            self.leads[number].looked = last;
            self.looked_in_vain += LOOKS;
            if self.looked_in_vain >= UNSTORED_MAX {
                self.store_leads().await?;
            }
            return Ok(Step::More);
        }
        self.warning_due = Some(self.next_warning(now)?);
        Ok(Step::Idle)
    }

    /// The marks of these leads and of no others; a lead that is new begins with what expires from now on.
    fn know(&mut self, leads: &[Duration], now: UnixTime) {
        self.leads.retain(|mark| leads.contains(&mark.before));
        for &before in leads {
            if self.leads.iter().all(|mark| mark.before != before) {
                self.leads.push(LeadMark { before, looked: (now, LAST) });
            }
        }
    }

    async fn tell(&mut self, ids: Vec<TokenId>, leads: Vec<Duration>, now: UnixTime) -> Result<(), StoreError> {
        let told = self.write(move |txn| {
            let mut events = Vec::with_capacity(ids.len());
            for id in ids {
                let Some(record) = txn.record(id)? else { continue };
                let (Some(lead), Some(at)) = (sweep::warns(&record, &leads, now), record.expires_at) else { continue };
                let mut event = event_about(EventKind::Warn, &record, now);
                event.reason = Some(format!("expires_in_{}", format_duration(lead)).into());
                event.note = Some(format!("expires at {at}"));
                txn.put(sweep::warned(record, lead), Effect::Extends)?;
                events.push(announce(txn, event)?);
            }
            Ok(events)
        });
        told.await
    }

    /// When the next is due. Whatever lies before has been looked at, and the marks follow the time, so that tokens of
    /// short lives, which come behind them, are not looked at again and again.
    fn next_warning(&mut self, now: UnixTime) -> Result<UnixTime, StoreError> {
        let mut due = UnixTime::MAX;
        for mark in &mut self.leads {
            let behind: ExpiryPlace = (now.saturating_add(mark.before).saturating_sub(SLACK), LAST);
            mark.looked = mark.looked.max(behind);
            let next = self.service.store.expiring(Some(mark.looked), UnixTime::MAX, 1)?;
            if let Some((at, _)) = next.first() {
                due = due.min(at.saturating_sub(mark.before));
            }
        }
        Ok(due)
    }
}
