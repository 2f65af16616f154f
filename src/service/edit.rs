//! edit: changes what a token is called and where it is good; takes scopes and time away. What it takes away is refused
//! at once, what it gives is seen once it is durable.

use std::sync::Arc;

use super::changes::{GivenUp, announce, event_about};
use super::{Caller, Service, audit_unavailable, invalid, store_failure};
use crate::audit::{AuditEvent, EventKind};
use crate::config::Operation;
use crate::protocol::message::{Edit, Failure, TokenInfo};
use crate::registry::edit::{check, edit};
use crate::registry::view;
use crate::store::record::TokenRecord;
use crate::store::{Effect, Txn};

impl Service {
    pub(super) async fn edit(&self, caller: &Arc<Caller>, request: Edit) -> Result<TokenInfo, Failure> {
        let (right, id) = self.right_to(caller, Operation::Edit, &request.token).await?;
        check(&request).map_err(invalid)?;
        self.may_change_again(&right, 1)?;
        let recordable = self.audit.ready();
        let job = move |txn: &mut Txn<'_>| -> Result<(TokenRecord, Vec<AuditEvent>), GivenUp> {
            let now = txn.now();
            let old = right.record(txn, id)?;
            let edited = edit(&old, &request, right.hand(&old), &right.settings.rules, now);
            let Some(edited) = edited.map_err(|refusal| GivenUp::refused(refusal, id))? else {
                return Ok((old, Vec::new()));
            };
            // What only takes away goes through, as a revocation does.
            if !edited.narrows_only && !recordable {
                return Err(GivenUp::Failure(audit_unavailable()));
            }
            let mut event = event_about(EventKind::Edit, &edited.record, now);
            event.scopes = (edited.record.scopes != old.scopes).then(|| edited.record.scopes.to_strings());
            event.peer = Some(right.caller.peer.label());
            event.note = Some(edited.what);
            match edited.meanwhile {
                Some(meanwhile) => txn.put_between(edited.record.clone(), meanwhile)?,
                None => txn.put(edited.record.clone(), Effect::Extends)?,
            }
            let event = announce(txn, event)?;
            Ok((edited.record, vec![event]))
        };
        match self.commit(caller, 1, job).await.map_err(|error| store_failure(&error))? {
            Ok((record, lines)) => {
                self.recorded(lines).await;
                self.info(&record)
            }
            Err(given_up) => Err(self.given_up(caller, Operation::Edit, given_up)),
        }
    }

    /// What a peer that may change a token is shown of it.
    pub(super) fn info(&self, record: &TokenRecord) -> Result<TokenInfo, Failure> {
        let last = self.store.last_use(record.id).map_err(|error| store_failure(&error))?;
        Ok(view::info(record, last, self.clock.now()))
    }
}
