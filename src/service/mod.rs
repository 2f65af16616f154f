//! The one ladder that every request climbs: authorise, decide, commit, announce, record, answer.
//!
//! The order is the promise (invariants I1, I2, I4):
//!
//! 1. **authorise**: policy decides about the peer as the kernel says it. A refusal names nothing to the peer; the
//!    audit line says what would have been needed.
//! 2. **decide**: the registry says what shall be. A change is decided inside the writer's transaction.
//! 3. **commit**: the store writes the change and its audit record in one transaction and syncs it. What it restricts
//!    is refused in memory before that: refusing early is safe, acknowledging early is not.
//! 4. **announce**: no cached copy of the old state is good any more.
//! 5. **record**: the line stands in audit.log. For *active* this is a condition of the answer.
//! 6. **answer**.
//!
//! What may wait long is awaited, or runs on the blocking pool; single reads of the store (a cache miss, show, status) are
//! made in place.

#![forbid(unsafe_code)]

mod alerts;
mod apply;
mod backup;
mod body;
mod caller;
mod changes;
mod clock;
mod edit;
mod events;
mod hold;
mod import;
mod issue;
mod keep;
mod keys;
mod lines;
mod names;
mod orders;
mod presented;
mod renew;
mod reseal;
mod revoke;
mod right;
mod rotate;
mod settings;
mod sweep;
mod tickets;
mod trail;
mod turns;
mod uses;
mod validate;
mod views;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{Semaphore, watch};

use crate::audit::{Audit, AuditEvent, EventKind};
use crate::config::Operation;
use crate::page;
use crate::peer::Peer;
use crate::policy::{self, Decision, Grant, Names};
use crate::protocol::IDS_MAX;
use crate::protocol::code::ErrorCode;
use crate::protocol::message::{Answer, Ask, Failure};
use crate::registry::Invalid;
use crate::registry::rate::RateLimiter;
use crate::store::record::Rate;
use crate::store::{Store, StoreError};
use crate::time::{Clock, UnixTime};
use crate::token::{IdSource, TokenId};
use crate::vault::Keyring;

use alerts::Alerts;
use backup::Backups;
pub use body::{Body, Told};
pub use caller::Caller;
pub use keys::KeyPlaces;
pub use settings::Settings;
pub use sweep::Sweeper;
use turns::Turns;

/// Listings and audit queries that run at a time: each holds a thread and a page in memory.
const READERS_MAX: usize = 8;
/// The same of one user.
const READERS_EACH: usize = 2;
/// Pages of the journal that are read at a time for those who watch.
const WATCHERS_MAX: usize = 4;
/// The same of one user.
const WATCHERS_EACH: usize = 2;
/// Look-ups of user names that run at a time; a name service that hangs must not take all threads.
const LOOKUPS_MAX: usize = 4;
/// The same of one user.
const LOOKUPS_EACH: usize = 1;
/// Records that the changes of one user which wait for the writer may be about: two transactions full.
const WRITES_EACH: usize = 1024;
/// Edits, renewals and resumptions of one user without full rights: each is a line, and a place in the journal, and unlike
/// revocations they can be made again and again. As many as one request may name at once, and then one each 60 ms.
const CHANGES_RATE: Rate = Rate { count: IDS_MAX as u32, per: Duration::from_secs(60) };
/// Of those, what one order to revoke or suspend counts for: it is a line and a place in the journal whether or not it
/// means any token, so that it can be given again and again, too, and each is a walk over all tokens.
const ORDER_CHANGES: u32 = 10;
/// The same of an order to resume: by turns with one to suspend it rewrites all that the peer has.
const RESUME_ORDER_CHANGES: u32 = 100;
/// How long a user name is waited for; then it is `uid:1000`.
const LOOKUP_WAIT: Duration = Duration::from_secs(1);

/// An answer that is on its way.
pub type Later<A = Answer> = Pin<Box<dyn Future<Output = A> + Send>>;

/// Answers that come one after the other, all to one request. It may be dropped at any time.
pub type Streamed = Pin<Box<dyn Stream<Item = Answer> + Send>>;

/// What a request comes to at once.
pub enum Now<A = Answer> {
    /// Its answer.
    Ready(A),
    /// The answer comes when something durable or slow is done. Dropping it does not undo a change that was begun.
    Later(Later<A>),
    /// There are many answers, and each is asked for when the one before it is out.
    Stream(Streamed),
}

impl<A: From<Answer> + 'static> Now<A> {
    fn failure(failure: Failure) -> Self {
        Self::Ready(Answer::Error(failure).into())
    }

    /// The same answer in another form.
    fn into<B: From<A>>(self) -> Now<B> {
        match self {
            Self::Ready(answer) => Now::Ready(answer.into()),
            Self::Later(answer) => Now::Later(Box::pin(async move { answer.await.into() })),
            Self::Stream(answers) => Now::Stream(answers),
        }
    }
}

/// What the service is made of.
pub struct Parts {
    /// The truth.
    pub store: Store,
    /// The keys.
    pub keyring: Arc<Keyring>,
    /// The trail.
    pub audit: Audit,
    /// The time.
    pub clock: Arc<Clock>,
    /// User names, for issue.
    pub names: Arc<dyn Names>,
    /// What the configuration says.
    pub settings: Settings,
    /// For `status`: where things are.
    pub places: Places,
    /// The epoch page that the store bumps, where clients may keep verdicts.
    pub page: Option<Arc<page::Served>>,
    /// From when on no page of an earlier daemon counts.
    pub takeover: page::Takeover,
    /// For `status`: what the server counts.
    pub connections: Box<dyn Fn() -> Connections + Send + Sync>,
}

/// What the server counts of connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connections {
    /// Open now.
    pub now: u64,
    /// Turned away since the start.
    pub refused: u64,
    /// Of those open now, the ones that watch.
    pub watching: u64,
}

/// Where things are: for `status`, and the key for changes of it.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The store's file.
    pub store: String,
    /// The audit log.
    pub audit: String,
    /// The syslog socket, if any.
    pub syslog: Option<String>,
    /// Where the key comes from.
    pub key: KeyPlaces,
}

/// The service behind every door.
pub struct Service {
    store: Store,
    keyring: Arc<Keyring>,
    audit: Audit,
    clock: Arc<Clock>,
    names: Arc<dyn Names>,
    settings: RwLock<Arc<Settings>>,
    /// How often `settings` was replaced.
    reloads: AtomicU64,
    /// Says so to those who wait while nothing is asked.
    reloaded: watch::Sender<()>,
    places: Places,
    page: Option<Arc<page::Served>>,
    /// Uses that clients have granted out of their caches and told of.
    reported: AtomicU64,
    takeover: page::Takeover,
    connections: Box<dyn Fn() -> Connections + Send + Sync>,
    started_at: UnixTime,
    ids: IdSource,
    /// Validations by token family.
    rates: RateLimiter<TokenId>,
    /// Issues by uid.
    issues: RateLimiter<u32>,
    /// Revocations by who holds the token and has no rule, by uid.
    finders: RateLimiter<u32>,
    /// Edits, renewals, resumptions and orders, by uid.
    changes: RateLimiter<u32>,
    alerts: Alerts,
    readers: Turns,
    lookups: Turns,
    subjects: names::Subjects,
    writers: Turns,
    watchers: Turns,
    keys: keys::Keys,
    backups: Backups,
    /// The stop has come.
    is_stopping: AtomicBool,
    /// True from the stop on; who waits for something that may never come hears of it.
    stopping: watch::Sender<bool>,
}

impl Service {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Arc<Self> {
        let started_at = parts.clock.now();
        Arc::new(Self {
            store: parts.store,
            keyring: parts.keyring,
            audit: parts.audit,
            clock: parts.clock,
            names: parts.names,
            settings: RwLock::new(Arc::new(parts.settings)),
            reloads: AtomicU64::new(0),
            reloaded: watch::Sender::new(()),
            places: parts.places,
            page: parts.page,
            reported: AtomicU64::new(0),
            takeover: parts.takeover,
            connections: parts.connections,
            started_at,
            ids: IdSource::default(),
            rates: RateLimiter::default(),
            issues: RateLimiter::default(),
            finders: RateLimiter::default(),
            changes: RateLimiter::default(),
            alerts: Alerts::default(),
            readers: Turns::new(READERS_MAX, READERS_EACH),
            lookups: Turns::new(LOOKUPS_MAX, LOOKUPS_EACH),
            subjects: names::Subjects::default(),
            writers: Turns::new(Semaphore::MAX_PERMITS, WRITES_EACH),
            watchers: Turns::new(WATCHERS_MAX, WATCHERS_EACH),
            keys: keys::Keys::default(),
            backups: Backups::default(),
            is_stopping: AtomicBool::new(false),
            stopping: watch::Sender::new(false),
        })
    }

    /// Takes a peer in: what policy says of it is worked out once.
    pub fn admit(&self, peer: Peer) -> Arc<Caller> {
        Arc::new(Caller::new(peer, self))
    }

    /// Answers a request, at once or later, with what is to be written.
    pub fn reply(self: &Arc<Self>, caller: &Arc<Caller>, ask: &Ask<'_>) -> Now<Body> {
        match ask {
            _ if self.is_stopping.load(Ordering::Acquire) => {
                Now::failure(Failure::new(ErrorCode::Stopping, "bearerd is stopping: connect again"))
            }
            Ask::Validate(ask) => self.validate(caller, ask),
            Ask::ValidateBatch(batch) => self.validate_batch(caller, batch),
            other => self.acknowledge(other, self.answer_other(caller, other)).into(),
        }
    }

    /// Answers a request, at once or later, with a message.
    pub fn answer(self: &Arc<Self>, caller: &Arc<Caller>, ask: &Ask<'_>) -> Now {
        self.reply(caller, ask).into()
    }

    /// All but what is asked of the hot path.
    fn answer_other(self: &Arc<Self>, caller: &Arc<Caller>, ask: &Ask<'_>) -> Now {
        match ask {
            Ask::Validate(_) | Ask::ValidateBatch(_) => self.reply(caller, ask).into(),
            Ask::Issue(request) => {
                let (service, caller, request) = (Arc::clone(self), Arc::clone(caller), request.clone());
                later(async move { service.issue(&caller, request).await.map(|it| Answer::Issued(Box::new(it))) })
            }
            Ask::Revoke(request) => self.revoke(caller, request),
            Ask::Show(handle) => self.show(caller, handle),
            Ask::List(list) => {
                let (service, caller, list) = (Arc::clone(self), Arc::clone(caller), list.clone());
                later(async move { service.list(&caller, list).await.map(Answer::Tokens) })
            }
            Ask::Status => ready(self.status(caller).map(Answer::Json)),
            Ask::Audit(query) => {
                let (service, caller, query) = (Arc::clone(self), Arc::clone(caller), query.clone());
                later(async move { service.audit_page(&caller, query).await.map(Answer::AuditLines) })
            }
            Ask::AuditSummary(handle) => {
                let (service, caller, handle) = (Arc::clone(self), Arc::clone(caller), handle.clone());
                later(async move { service.audit_summary(&caller, handle).await.map(Answer::Json) })
            }
            Ask::AuditVerify => {
                let (service, caller) = (Arc::clone(self), Arc::clone(caller));
                later(async move { service.audit_verify(&caller).await.map(Answer::Json) })
            }
            Ask::Watch(request) => self.watch(caller, *request),
            Ask::Import(entries) => self.import(caller, entries),
            Ask::Suspend(request) => self.suspend(caller, request),
            Ask::Resume(request) => self.resume(caller, request),
            Ask::Edit(request) => {
                let (service, caller, request) = (Arc::clone(self), Arc::clone(caller), request.clone());
                later(async move { service.edit(&caller, request).await.map(|it| Answer::Token(Box::new(it))) })
            }
            Ask::Renew(handle) => {
                let (service, caller, handle) = (Arc::clone(self), Arc::clone(caller), handle.clone());
                later(async move { service.renew(&caller, handle).await.map(|it| Answer::Token(Box::new(it))) })
            }
            Ask::Rotate(request) => {
                let (service, caller, request) = (Arc::clone(self), Arc::clone(caller), request.clone());
                later(async move { service.rotate(&caller, request).await.map(|it| Answer::Rotated(Box::new(it))) })
            }
            Ask::ReportUses(reports) => self.report_uses(caller, reports),
            Ask::ClockReset => {
                let (service, caller) = (Arc::clone(self), Arc::clone(caller));
                later(async move { service.clock_reset(&caller).await.map(Answer::Time) })
            }
            Ask::Rekey(ask) => self.rekey(caller, *ask),
            Ask::RekeyProgress => {
                let (service, caller) = (Arc::clone(self), Arc::clone(caller));
                later(async move { service.rekey_progress(&caller).await.map(Answer::RekeyProgress) })
            }
            Ask::RecoveryKey => self.recovery_key(caller),
            Ask::Backup(ask) => {
                let (service, caller, ask) = (Arc::clone(self), Arc::clone(caller), *ask);
                later(async move { service.backup(&caller, ask).await.map(Answer::Backup) })
            }
        }
    }

    /// From now on every request is answered with `stopping`.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.stopping.send_replace(true);
    }

    /// Puts new settings in force. Connections work out their standing anew at their next request.
    pub fn reload(&self, settings: Settings) {
        let mut there = self.settings.write().unwrap_or_else(PoisonError::into_inner);
        *there = Arc::new(settings);
        // After them and before this returns: a request that begins later sees the number, and so the settings.
        self.reloads.fetch_add(1, Ordering::Release);
        // Whoever reads the new epoch after this sees that number too.
        self.store.bump_epoch();
        self.reloaded.send_replace(());
    }

    fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Acquire)
    }

    /// The settings in force.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// CLOCK_BOOTTIME, for the hello.
    pub fn boottime(&self) -> Duration {
        self.clock.boottime()
    }

    /// A connection that was refused or broke the protocol, for the trail.
    pub fn refused_connection(&self, peer: &Peer, code: ErrorCode) {
        let mut event = AuditEvent::new(EventKind::Deny, self.clock.now());
        event.outcome = Some("denied".into());
        event.reason = Some(code.name().into());
        event.peer = Some(peer.label());
        self.refuse_plain(peer, code.name(), event);
    }

    /// Asks policy. A denial is in the trail when this returns.
    fn authorise(&self, caller: &Caller, ask: &policy::Ask<'_>, id: Option<TokenId>) -> Result<Grant, Failure> {
        let decision = {
            let known = caller.known(self);
            known.settings.policy.decide(&caller.peer, &known.standing, ask)
        };
        match decision {
            Decision::Granted(grant) => Ok(grant),
            Decision::Denied { needed } => Err(self.deny(caller, ask.op, needed, id)),
        }
    }

    fn deny(&self, caller: &Caller, operation: Operation, needed: String, id: Option<TokenId>) -> Failure {
        let mut event = AuditEvent::new(EventKind::Deny, self.clock.now());
        event.outcome = Some("denied".into());
        event.reason = Some("not_permitted".into());
        event.id = id;
        event.peer = Some(caller.peer.label());
        event.note = Some(format!("{operation}: {needed}"));
        self.refuse_plain(&caller.peer, "not_permitted", event);
        not_permitted()
    }
}

fn ready(result: Result<Answer, Failure>) -> Now {
    Now::Ready(result.unwrap_or_else(Answer::Error))
}

fn later<A: From<Answer>>(answer: impl Future<Output = Result<A, Failure>> + Send + 'static) -> Now<A> {
    Now::Later(Box::pin(async move { answer.await.unwrap_or_else(|failure| Answer::Error(failure).into()) }))
}

fn not_permitted() -> Failure {
    Failure::new(
        ErrorCode::NotPermitted,
        "not permitted: the policy in bearerd's configuration does not allow it; its administrator finds what is needed in the audit log",
    )
}

fn invalid(invalid: Invalid) -> Failure {
    Failure::new(ErrorCode::BadRequest, invalid.to_string())
}

fn audit_unavailable() -> Failure {
    Failure::new(
        ErrorCode::Unavailable,
        "the audit log can't take a record now, and without one nothing is made or said to be active: see bearerctl status, make room on its disk or mend it, and try again",
    )
}

fn store_failure(error: &StoreError) -> Failure {
    let code = match error {
        StoreError::NoRoom => ErrorCode::NoSpace,
        StoreError::NotWritten(_) | StoreError::Read(_) | StoreError::TooManyOrders | StoreError::Stopped => {
            ErrorCode::Unavailable
        }
        StoreError::SyncFailed | StoreError::Fatal(_) => ErrorCode::Undecided,
        _ => ErrorCode::Internal,
    };
    Failure::new(code, error.to_string())
}
