//! `expire`: told when a token's time has run out, in the order of the expiries.
//!
//! A mark says up to which expiry all has been told; it moves in the transaction that tells. Nothing gets behind it
//! unseen: a renewal moves a token forward, ahead of it; a narrowed expiry lies after the time of the edit; and what is
//! committed so late that its expiry is over takes the mark back (`store/marks`).

use super::{BATCH, Step, Sweeper};
use crate::audit::EventKind;
use crate::registry::sweep;
use crate::service::changes::{announce, event_about};
use crate::store::{Effect, StoreError};
use crate::time::UnixTime;

impl Sweeper {
    /// Tells a batch of expiries.
    pub(super) async fn expire(&mut self) -> Result<Step, StoreError> {
        let now = self.service.clock.now();
        if self.expiry_due.is_some_and(|due| now < due) {
            return Ok(Step::Idle);
        }
        let store = &self.service.store;
        let told = store.sweep_marks().told;
        let due = store.expiring(told, now, BATCH)?;
        let Some(last) = due.last().copied() else {
            let next = store.expiring(told, UnixTime::MAX, 1)?;
            self.expiry_due = Some(next.first().map_or(UnixTime::MAX, |(at, _)| *at));
            return Ok(Step::Idle);
        };
        self.expiry_due = None;
        let leads = self.leads.clone();
        self.write(move |txn| {
            let mut events = Vec::with_capacity(due.len());
            for (at, id) in due {
                let Some(record) = txn.record(id)? else { continue };
                if record.expires_at != Some(at) || !sweep::expires(&record, now) {
                    continue;
                }
                let mut event = event_about(EventKind::Expire, &record, now);
                event.note = Some(format!("expired at {at}"));
                txn.put(sweep::expiry_told(record), Effect::Extends)?;
                events.push(announce(txn, event)?);
            }
            let mut marks = txn.sweep_marks().clone();
            // A job before this one may have brought something behind where we began: then the mark stays there.
            if marks.told >= told {
                marks.told = Some(last);
            }
            marks.leads = leads;
            txn.set_sweep_marks(marks);
            Ok(events)
        })
        .await?;
        self.leads_stored();
        Ok(Step::More)
    }
}
