//! renew: gives a token its life again, up to the end of its lifetime.

use std::sync::Arc;

use super::changes::{GivenUp, announce, event_about};
use super::{Caller, Service, audit_unavailable, store_failure};
use crate::audit::{AuditEvent, EventKind};
use crate::config::Operation;
use crate::protocol::message::{Failure, Handle, TokenInfo};
use crate::registry::renew::renew;
use crate::store::record::TokenRecord;
use crate::store::{Effect, Txn};

impl Service {
    pub(super) async fn renew(&self, caller: &Arc<Caller>, handle: Handle) -> Result<TokenInfo, Failure> {
        let (right, id) = self.right_to(caller, Operation::Renew, &handle).await?;
        self.may_change_again(&right, 1)?;
        if !self.audit.ready() {
            return Err(audit_unavailable());
        }
        let job = move |txn: &mut Txn<'_>| -> Result<(TokenRecord, Vec<AuditEvent>), GivenUp> {
            let now = txn.now();
            let old = right.record(txn, id)?;
            let renewed = renew(&old, now).map_err(|refusal| GivenUp::refused(refusal, id))?;
            let Some(record) = renewed else { return Ok((old, Vec::new())) };
            let mut event = event_about(EventKind::Renew, &record, now);
            event.peer = Some(right.caller.peer.label());
            event.note = record.expires_at.map(|at| format!("expires at {at}"));
            txn.put(record.clone(), Effect::Extends)?;
            let event = announce(txn, event)?;
            Ok((record, vec![event]))
        };
        match self.commit(caller, 1, job).await.map_err(|error| store_failure(&error))? {
            Ok((record, lines)) => {
                self.recorded(lines).await;
                self.info(&record)
            }
            Err(given_up) => Err(self.given_up(caller, Operation::Renew, given_up)),
        }
    }
}
