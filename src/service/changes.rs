//! What all changes share: the commit of a change with its audit record, what gives one up, and how the trail is told.

use futures_util::future::join_all;

use super::{Caller, Service, invalid, store_failure};
use crate::audit::{Audit, AuditEvent, EventKind, Receipt};
use crate::config::Operation;
use crate::peer::CONTAINER_UNKNOWN;
use crate::policy::Ownership;
use crate::protocol::code::ErrorCode;
use crate::protocol::message::{Changed, Failure};
use crate::protocol::{NOTE_MAX, is_clean};
use crate::registry::{Invalid, Refusal};
use crate::store::record::TokenRecord;
use crate::store::{StoreError, Txn};
use crate::time::UnixTime;
use crate::token::{self, TokenId};

/// Why a change was given up inside its transaction; nothing was written.
pub(super) enum GivenUp {
    Store(StoreError),
    Failure(Failure),
    Denied { needed: String, id: TokenId },
}

impl From<StoreError> for GivenUp {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl GivenUp {
    /// Of a refusal about this token.
    pub(super) fn refused(refusal: Refusal, id: TokenId) -> Self {
        let code = match refusal {
            Refusal::Invalid(_) => ErrorCode::BadRequest,
            // The peer hears only that it is not permitted.
            Refusal::NotTheirs(needed) => return Self::Denied { needed: needed.to_owned(), id },
            Refusal::AlreadyRotated(_) => ErrorCode::AlreadyRotated,
            _ => ErrorCode::WrongState,
        };
        Self::Failure(Failure::new(code, refusal.to_string()))
    }
}

impl Service {
    /// Commits in the peer's turn and hands the lines of what it did to the audit; `weight`: about so many records.
    ///
    /// In a task of its own: a change may become durable after its asker has given up, and its line is due all the same.
    pub(super) async fn commit<T, E>(
        &self,
        caller: &Caller,
        weight: usize,
        job: impl FnOnce(&mut Txn<'_>) -> Result<(T, Vec<AuditEvent>), E> + Send + 'static,
    ) -> Result<Result<(T, Vec<Receipt>), E>, StoreError>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let turn = self.writers.take(caller, &self.settings(), weight).await.ok_or(StoreError::Stopped)?;
        let (store, audit) = (self.store.clone(), self.audit.clone());
        let committed = tokio::spawn(async move {
            let _turn = turn;
            let done = store.write(job).await?;
            Ok(done.map(|committed| {
                let (value, events) = committed.value;
                (value, events.into_iter().map(|event| line_due(&audit, event)).collect())
            }))
        });
        committed.await.unwrap_or(Err(StoreError::JobPanicked))
    }

    /// Waits for the lines of durable changes. They are in the outbox already: if the log can't take them now, they
    /// follow later, and the answer is not held back for longer than the audit's `max_wait`, however many they are.
    pub(super) async fn recorded(&self, lines: Vec<Receipt>) {
        let waited = join_all(lines.into_iter().map(Receipt::wait)).await;
        let late = waited.iter().filter(|line| line.is_err()).count();
        if late > 0 {
            tracing::warn!("{late} changes are durable, but their lines wait: the audit log can't be written");
        }
    }

    pub(super) fn given_up(&self, caller: &Caller, operation: Operation, given_up: GivenUp) -> Failure {
        match given_up {
            GivenUp::Store(error) => store_failure(&error),
            GivenUp::Denied { needed, id } => self.deny(caller, operation, needed, Some(id)),
            GivenUp::Failure(failure) => {
                if failure.code == ErrorCode::LimitReached {
                    self.note_limit(caller, failure.message.clone());
                }
                failure
            }
        }
    }

    pub(super) fn over_limit(&self, caller: &Caller, limit: &'static str, allowed: u64) -> Failure {
        let failure = limit_reached(limit, allowed);
        self.note_limit(caller, failure.message.clone());
        failure
    }

    pub(super) fn note_limit(&self, caller: &Caller, message: String) {
        let mut event = AuditEvent::new(EventKind::Deny, self.clock.now());
        event.outcome = Some("denied".into());
        event.reason = Some("limit_reached".into());
        event.peer = Some(caller.peer.label());
        event.note = Some(message);
        self.refuse_plain(&caller.peer, "limit_reached", event);
    }
}

/// Whether a token is the peer's own: its issuer or its subject, by uid *and* by name as stored, so that neither a
/// later user of the same name nor one of the same uid inherits it.
pub(super) fn ownership(record: &TokenRecord, caller: &Caller, own_name: &str) -> Ownership {
    let Some(uid) = caller.uid() else { return Ownership::NotOwn };
    if caller.peer.container.as_deref() == Some(CONTAINER_UNKNOWN) {
        return Ownership::NotOwn;
    }
    let issued = record.issuer_uid == uid && record.issuer == own_name;
    let stands_for = record.subject_uid == Some(uid) && record.subject == own_name;
    if issued || stands_for { Ownership::Own } else { Ownership::NotOwn }
}

/// A reason that a peer gives, fit for records and lines; an empty one is none.
pub(super) fn checked_reason(reason: Option<&String>) -> Result<Option<String>, Failure> {
    match reason.filter(|reason| !reason.is_empty()) {
        Some(reason) if token::holds_token(reason) => Err(invalid(Invalid::LooksLikeToken("reason"))),
        Some(reason) if !is_clean(reason, NOTE_MAX) => Err(invalid(Invalid::Text { field: "reason", max: NOTE_MAX })),
        reason => Ok(reason.cloned()),
    }
}

/// Puts a change's record into the outbox, in the transaction of the change, and gives it back with its generation.
pub(super) fn announce(txn: &mut Txn<'_>, mut event: AuditEvent) -> Result<AuditEvent, StoreError> {
    txn.announce(|generation| {
        event.generation = Some(generation);
        event.encode()
    })?;
    Ok(event)
}

/// Hands the record of a change that is durable to the audit: its line is due.
pub(super) fn line_due(audit: &Audit, event: AuditEvent) -> Receipt {
    audit.committed(event.generation.unwrap_or_default(), event)
}

/// The record of something that was done to a token.
pub(super) fn event_about(kind: EventKind, record: &TokenRecord, now: UnixTime) -> AuditEvent {
    let mut event = AuditEvent::new(kind, now);
    event.outcome = Some("done".into());
    event.id = Some(record.id);
    event.name = Some(record.name.clone());
    event.subject = Some(record.subject.clone());
    event.kind = Some(record.kind);
    event
}

pub(super) const fn nothing(dry_run: bool) -> Changed {
    Changed { count: 0, ids: Vec::new(), dry_run, still_good: Vec::new() }
}

pub(super) fn not_found() -> Failure {
    Failure::new(ErrorCode::NotFound, "no such token: bearerctl list shows the ids")
}

pub(super) fn limit_reached(limit: &str, allowed: u64) -> Failure {
    Failure::new(
        ErrorCode::LimitReached,
        format!(
            "over the limit {limit} ({allowed}) of [limits] in bearerd's configuration: revoke what is not needed, wait, or ask its administrator"
        ),
    )
}
