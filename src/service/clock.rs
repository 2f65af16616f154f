//! clock reset: takes a wrong time back, durable and audited or not at all.

use std::sync::{Arc, Mutex, PoisonError};

use super::changes::{GivenUp, announce};
use super::{Caller, Service, audit_unavailable, store_failure};
use crate::audit::{AuditEvent, EventKind};
use crate::config::Operation;
use crate::policy;
use crate::protocol::message::Failure;
use crate::store::Txn;
use crate::time::UnixTime;

impl Service {
    pub(super) async fn clock_reset(&self, caller: &Arc<Caller>) -> Result<UnixTime, Failure> {
        let _ = self.authorise(caller, &policy::Ask::of(Operation::Admin), None)?;
        if !self.audit.ready() {
            return Err(audit_unavailable());
        }
        let before = self.clock.now();
        let peer = caller.peer.label();
        let clock = Arc::clone(&self.clock);
        let taken = Arc::new(Mutex::new(None));
        let keep = Arc::clone(&taken);
        let job = move |txn: &mut Txn<'_>| -> Result<(UnixTime, Vec<AuditEvent>), GivenUp> {
            // The mark is persisted with this very commit, which takes it from the clock.
            let (after, old) = clock.reset();
            *keep.lock().unwrap_or_else(PoisonError::into_inner) = Some(old);
            let mut event = AuditEvent::new(EventKind::Clock, after);
            event.outcome = Some("done".into());
            event.reason = Some("reset".into());
            event.peer = Some(peer);
            event.note = Some(format!("the time that counted was {before}"));
            let event = announce(txn, event)?;
            Ok((after, vec![event]))
        };
        let written = self.commit(caller, 1, job).await;
        match written {
            Ok(Ok((after, lines))) => {
                // What was issued while the clock was ahead has not begun: no cache may say otherwise.
                self.store.bump_epoch();
                self.recorded(lines).await;
                Ok(after)
            }
            failed => {
                // What is not durable and audited has not happened.
                if let Some(old) = taken.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    self.clock.undo_reset(old);
                }
                Err(match failed {
                    Ok(Err(given_up)) => self.given_up(caller, Operation::Admin, given_up),
                    Err(error) => store_failure(&error),
                    Ok(Ok(_)) => unreachable!("taken above"),
                })
            }
        }
    }
}
