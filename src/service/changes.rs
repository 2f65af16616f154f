//! What changes the store: issue, revoke, and the clock's reset.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use zeroize::Zeroizing;

use super::orders::What;
use super::{Caller, LOOKUP_WAIT, Later, Now, Service, Settings, audit_unavailable, invalid, later, store_failure};
use crate::audit::{AuditEvent, EventKind, Receipt};
use crate::config::Operation;
use crate::peer::{CONTAINER_UNKNOWN, Peer};
use crate::policy::{self, Decision, IssueAsk, Ownership, Standing};
use crate::protocol::code::ErrorCode;
use crate::protocol::message::{Answer, Changed, Failure, Handle, Issue, Issued, Revoke, SecretText, Which};
use crate::protocol::{IDS_MAX, NAME_MAX, NOTE_MAX, is_clean};
use crate::registry::issue::{Parties, Plan, plan};
use crate::registry::revoke::{Revocation, relatives, revoke};
use crate::registry::validate::is_genuine;
use crate::registry::{Invalid, view};
use crate::store::record::{Rate, TokenRecord};
use crate::store::{Effect, StoreError, Txn};
use crate::time::UnixTime;
use crate::token::{self, Kind, TEXT_MAX, Token, TokenId};

/// Revocations that a holder without a rule may make: one a second.
const FINDER_RATE: Rate = Rate { count: 1, per: std::time::Duration::from_secs(1) };

/// Which tokens a revocation may be of.
#[derive(Clone)]
enum Whose {
    /// The one whose secret was shown: whoever holds it may end it.
    Held,
    /// Only those of the peer, who has this name.
    OwnOf(String),
    /// Any.
    Anyones,
}

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

impl Service {
    pub(super) async fn issue(&self, caller: &Arc<Caller>, request: Issue) -> Result<Issued, Failure> {
        let settings = self.settings();
        let standing = caller.standing(&settings);
        let own_name = self.user_name(caller).await;
        let (plan, subject) = self.permitted_plan(caller, request, &own_name, &settings)?;
        if !standing.full && !self.issues.allow(caller.peer.uid, settings.issue_per_uid, self.clock.boottime(), true) {
            return Err(self.over_limit(caller, "issue_per_uid", settings.issue_per_uid.count.into()));
        }
        let subject_uid = if subject == own_name { caller.uid() } else { self.uid_of(caller, &subject).await };
        // Before the commit: what can't be recorded is not made.
        if !self.audit.ready() {
            return Err(audit_unavailable());
        }

        let now = self.clock.now();
        let token = Token {
            prefix: settings.rules.prefix,
            kind: plan.kind,
            id: self.ids.next(now),
            secret: token::new_secret(),
        };
        let digest = token::digest(self.keyring.digest_key(), token.id, &token.secret);
        let parties = Parties { subject, subject_uid, issuer: own_name, issuer_uid: caller.peer.uid };
        let record = plan.record(token.id, token.prefix, digest, parties, now).map_err(invalid)?;
        let info = view::info(&record, None, now);

        let quota = if standing.full { None } else { Some(settings.tokens_per_uid) };
        let (uid, peer) = (caller.peer.uid, caller.peer.label());
        let job = move |txn: &mut Txn<'_>| -> Result<((), Vec<AuditEvent>), GivenUp> {
            if let Some(quota) = quota {
                let limit = usize::try_from(quota).unwrap_or(usize::MAX);
                if txn.live_count(uid, limit)? >= limit {
                    return Err(GivenUp::Failure(limit_reached("tokens_per_uid", quota)));
                }
            }
            let mut event = event_about(EventKind::Issue, &record, now);
            event.scopes = Some(record.scopes.to_strings());
            event.peer = Some(peer);
            txn.put(record, Effect::New)?;
            announce(txn, &mut event)?;
            Ok(((), vec![event]))
        };
        match self.commit(caller, 1, job).await.map_err(|error| store_failure(&error))? {
            Ok(((), lines)) => self.recorded(lines).await,
            Err(given_up) => return Err(self.given_up(caller, Operation::Issue, given_up)),
        }
        let text = Zeroizing::new(String::from(token.reveal().as_str()));
        Ok(Issued { token: SecretText::new(text.as_str().to_owned()), info })
    }

    /// What is asked for, with the defaults filled in, and for whom: if policy allows it.
    ///
    /// Where neither the request nor its profile names a kind, it is a machine token; or, for a peer that may have only
    /// the short-lived one, a session token. What was denied on the way to that is no line in the trail.
    fn permitted_plan(
        &self,
        caller: &Caller,
        mut request: Issue,
        own_name: &str,
        settings: &Settings,
    ) -> Result<(Plan, String), Failure> {
        let standing = caller.standing(settings);
        let attempt = |request: &Issue| {
            let mut plan = plan(request, &settings.rules)?;
            let subject = plan.subject.take().unwrap_or_else(|| default_subject(&standing, caller, own_name, &plan));
            let ask = policy::Ask::issue(IssueAsk {
                subject: &subject,
                own_name,
                kind: plan.kind,
                scopes: &plan.scopes,
                ttl: plan.ttl,
                profile: plan.profile.as_deref(),
            });
            let decision = settings.policy.decide(&caller.peer, &standing, &ask);
            Ok::<_, Invalid>((decision, plan, subject))
        };
        let open = request.kind.is_none() && settings.rules.kind_of(request.profile.as_deref()).is_none();
        let mut found = attempt(&request).map_err(invalid)?;
        if open && matches!(found.0, Decision::Denied { .. }) {
            request.kind = Some(Kind::Session);
            // What can't be a session token at all stays denied.
            if let Ok(second) = attempt(&request) {
                found = second;
            }
        }
        match found {
            (Decision::Granted(_), plan, subject) => Ok((plan, subject)),
            (Decision::Denied { needed }, ..) => Err(self.deny(caller, Operation::Issue, needed, None)),
        }
    }

    pub(super) fn revoke(self: &Arc<Self>, caller: &Arc<Caller>, request: &Revoke<'_>) -> Now {
        let reason = match &request.reason {
            Some(reason) if reason.is_empty() => None,
            Some(reason) if token::holds_token(reason) => {
                return Now::failure(invalid(Invalid::LooksLikeToken("reason")));
            }
            Some(reason) if !is_clean(reason, NOTE_MAX) => {
                return Now::failure(invalid(Invalid::Text { field: "reason", max: NOTE_MAX }));
            }
            reason => reason.clone(),
        };
        let (service, caller, dry_run) = (Arc::clone(self), Arc::clone(caller), request.dry_run);
        match &request.which {
            Which::Handles(handles) if handles.is_empty() || handles.len() > IDS_MAX => {
                Now::failure(Failure::new(ErrorCode::BadRequest, format!("name 1 to {IDS_MAX} tokens at a time")))
            }
            Which::Handles(handles) => {
                let handles = handles.clone();
                later(
                    async move { service.revoke_handles(&caller, &handles, reason, dry_run).await.map(Answer::Changed) },
                )
            }
            Which::Filter(filter) => service.order(&caller, What::Revoke, filter.clone(), reason, dry_run),
            Which::Token(text) if text.len() > TEXT_MAX => {
                Now::failure(invalid(Invalid::Text { field: "token", max: TEXT_MAX }))
            }
            Which::Token(text) => match Token::parse(text) {
                Ok(token) => service.revoke_held(&caller, token, reason, dry_run),
                Err(_) => Now::Ready(Answer::Changed(nothing(dry_run))),
            },
        }
    }

    /// Whoever holds a token may end it. That it was unknown is not said in another way than that it was ended before.
    fn revoke_held(self: Arc<Self>, caller: &Arc<Caller>, token: Token, reason: Option<String>, dry_run: bool) -> Now {
        let ruleless = caller.standing(&self.settings()).ruleless();
        if ruleless && !self.finders.allow(caller.peer.uid, FINDER_RATE, self.clock.boottime(), true) {
            return Now::failure(self.over_limit(caller, "one revocation a second for who has no rule", 1));
        }
        let found = match self.store.lookup(token.id) {
            Ok(found) => found.record,
            Err(error) => return Now::failure(store_failure(&error)),
        };
        if !is_genuine(self.keyring.digest_key(), &token, found.as_deref()) {
            return Now::Ready(Answer::Changed(nothing(dry_run)));
        }
        let caller = Arc::clone(caller);
        let answer: Later = Box::pin(async move {
            let done = self.commit_revocation(&caller, vec![token.id], reason, dry_run, Whose::Held).await;
            done.map_or_else(Answer::Error, Answer::Changed)
        });
        Now::Later(answer)
    }

    async fn revoke_handles(
        &self,
        caller: &Arc<Caller>,
        handles: &[Handle],
        reason: Option<String>,
        dry_run: bool,
    ) -> Result<Changed, Failure> {
        // Before any is looked up: who may revoke nothing at all learns nothing about which ids exist.
        let ask = policy::Ask::to_token(Operation::Revoke, Ownership::Undecided);
        let first = handles.first().and_then(|handle| token::id_of_handle(&handle.0).ok());
        let grant = self.authorise(caller, &ask, first)?;
        let ids = match self.resolve_all(handles) {
            Err(failure) if grant.own_only && failure.code != ErrorCode::BadRequest => {
                return Err(self.not_theirs(caller, Operation::Revoke, None));
            }
            ids => ids?,
        };
        // A name service that hangs must not hold up who may revoke anything.
        let whose = if grant.own_only { Whose::OwnOf(self.user_name(caller).await) } else { Whose::Anyones };
        self.commit_revocation(caller, ids, reason, dry_run, whose).await
    }

    /// Decides and commits in one transaction: all of the ids or, when one may not be revoked, none.
    async fn commit_revocation(
        &self,
        caller: &Arc<Caller>,
        ids: Vec<TokenId>,
        reason: Option<String>,
        dry_run: bool,
        whose: Whose,
    ) -> Result<Changed, Failure> {
        let now = self.clock.now();
        let settings = self.settings();
        let (asking, weight) = (Arc::clone(caller), ids.len());
        let job = || {
            let (ids, reason, whose, asking, settings) =
                (ids.clone(), reason.clone(), whose.clone(), Arc::clone(&asking), Arc::clone(&settings));
            move |txn: &mut Txn<'_>| -> Result<(Changed, Vec<AuditEvent>), GivenUp> {
                let mut revoked: Vec<TokenRecord> = Vec::new();
                let mut changed = nothing(dry_run);
                let standing = asking.standing(&settings);
                for id in ids {
                    let Some(record) = txn.record(id)? else {
                        // To who may end only its own, another's token and none look alike.
                        let ask = policy::Ask::to_token(Operation::Revoke, Ownership::NotOwn);
                        return Err(match settings.policy.decide(&asking.peer, &standing, &ask) {
                            Decision::Denied { needed } => GivenUp::Denied { needed, id },
                            Decision::Granted(_) => GivenUp::Failure(not_found()),
                        });
                    };
                    let own = match &whose {
                        Whose::Held => None,
                        Whose::OwnOf(name) => Some(ownership(&record, &asking, name)),
                        Whose::Anyones => Some(Ownership::NotOwn),
                    };
                    if let Some(own) = own {
                        let ask = policy::Ask::to_token(Operation::Revoke, own);
                        if let Decision::Denied { needed } = settings.policy.decide(&asking.peer, &standing, &ask) {
                            return Err(GivenUp::Denied { needed, id });
                        }
                    }
                    if let Revocation::Revoke(record) = revoke(&record, reason.as_deref(), asking.peer.uid, now) {
                        revoked.push(*record);
                    }
                }
                for record in &revoked {
                    for id in relatives(record).filter(|id| revoked.iter().all(|other| other.id != *id)) {
                        if txn.record(id)?.is_some_and(|relative| !relative.state(now).ended()) {
                            changed.still_good.push(id);
                        }
                    }
                }
                changed.count = revoked.len() as u64;
                changed.ids = revoked.iter().map(|record| record.id).collect();
                let mut events = Vec::new();
                if !dry_run {
                    for record in revoked {
                        let mut event = event_about(EventKind::Revoke, &record, now);
                        event.reason = reason.clone().map(Into::into);
                        event.peer = Some(asking.peer.label());
                        event.note = matches!(whose, Whose::Held).then(|| "by who held it".to_owned());
                        txn.put(record, Effect::Restricts)?;
                        announce(txn, &mut event)?;
                        events.push(event);
                    }
                }
                Ok((changed, events))
            }
        };
        let written = match self.commit(caller, weight, job()).await {
            // Somebody else took the disk's room at that very moment. The store has opened itself again, with the room that
            // it keeps for this: a revocation is not refused for that.
            Err(StoreError::NotWritten(_)) => self.commit(caller, weight, job()).await,
            written => written,
        };
        match written.map_err(|error| store_failure(&error))? {
            Ok((changed, lines)) => {
                self.recorded(lines).await;
                Ok(changed)
            }
            Err(given_up) => Err(self.given_up(caller, Operation::Revoke, given_up)),
        }
    }

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
            announce(txn, &mut event)?;
            Ok((after, vec![event]))
        };
        let written = self.commit(caller, 1, job).await;
        match written {
            Ok(Ok((after, lines))) => {
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
                let lines = events.into_iter();
                let told = lines.map(|event| audit.committed(event.generation.unwrap_or_default(), event));
                (value, told.collect())
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

    fn over_limit(&self, caller: &Caller, limit: &'static str, allowed: u64) -> Failure {
        let failure = limit_reached(limit, allowed);
        self.note_limit(caller, failure.message.clone());
        failure
    }

    fn note_limit(&self, caller: &Caller, message: String) {
        let mut event = AuditEvent::new(EventKind::Deny, self.clock.now());
        event.outcome = Some("denied".into());
        event.reason = Some("limit_reached".into());
        event.peer = Some(caller.peer.label());
        event.note = Some(message);
        self.refuse_plain(&caller.peer, "limit_reached", event);
    }

    /// The peer's user name, looked up off the event loop and for one second at most; else `uid:1000`. In a container
    /// it is `uid:0@docker-0123`.
    pub(super) async fn user_name(&self, caller: &Caller) -> String {
        let uid = caller.peer.uid;
        if !self.settings().policy.knows_user(&caller.peer) {
            return contained_name(&caller.peer);
        }
        if let Some(name) = caller.known_name(self.clock.boottime()) {
            return name;
        }
        let names = Arc::clone(&self.names);
        // Known by now, if others on this connection were before us.
        let known = || caller.known_name(self.clock.boottime());
        let found = self.look_up(caller, known, move || names.user_of(uid)).await;
        let name = found.clone().flatten().unwrap_or_else(|| format!("uid:{uid}"));
        if found.is_some() {
            caller.learn_name(self.clock.boottime(), &name);
        }
        name
    }

    async fn uid_of(&self, caller: &Caller, subject: &str) -> Option<u32> {
        let (names, subject) = (Arc::clone(&self.names), subject.to_owned());
        self.look_up(caller, || None, move || names.uid_of(&subject)).await.flatten()
    }

    /// What the name services say; `None` when they do not in time.
    async fn look_up<T: Send + 'static>(
        &self,
        caller: &Caller,
        known: impl Fn() -> Option<T>,
        look: impl FnOnce() -> std::io::Result<Option<T>> + Send + 'static,
    ) -> Option<Option<T>> {
        // The turn goes with the thread: one that hangs in a name service keeps its place, and the rest of us go on.
        let waited = tokio::time::timeout(LOOKUP_WAIT, async {
            let turn = self.lookups.take(caller, &self.settings(), 1).await?;
            if let Some(known) = known() {
                return Some(Some(known));
            }
            let found = tokio::task::spawn_blocking(move || {
                let found = look();
                drop(turn);
                found
            });
            found.await.ok()?.ok()
        });
        waited.await.ok().flatten()
    }

    /// The answer about a token that is not there, to who may do this only to its own: as about another's.
    pub(super) fn not_theirs(&self, caller: &Caller, operation: Operation, id: Option<TokenId>) -> Failure {
        let ask = policy::Ask::to_token(operation, Ownership::NotOwn);
        self.authorise(caller, &ask, id).err().unwrap_or_else(not_found)
    }

    fn resolve_all(&self, handles: &[Handle]) -> Result<Vec<TokenId>, Failure> {
        let mut ids = handles.iter().map(|handle| self.resolve(handle, true)).collect::<Result<Vec<_>, _>>()?;
        ids.sort();
        ids.dedup();
        Ok(ids)
    }
}

/// The name of a peer in a container, where a uid is no user of this host: what it issues is its own there only.
fn contained_name(peer: &Peer) -> String {
    let container = peer.container.as_deref().unwrap_or(CONTAINER_UNKNOWN);
    let name = format!("uid:{}@{container}", peer.uid);
    if is_clean(&name, NAME_MAX) {
        return name;
    }
    // Who may make cgroups may call them anything.
    format!("uid:{}@{}", peer.uid, blake3::hash(container.as_bytes()).to_hex())
}

fn default_subject(standing: &Standing, caller: &Caller, own_name: &str, plan: &Plan) -> String {
    if standing.full && caller.peer.uid == 0 { plan.name.clone() } else { own_name.to_owned() }
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

/// Puts a change's record into the outbox, in the transaction of the change.
pub(super) fn announce(txn: &mut Txn<'_>, event: &mut AuditEvent) -> Result<u64, StoreError> {
    let generation = txn.announce(|generation| {
        event.generation = Some(generation);
        event.encode()
    })?;
    Ok(generation)
}

fn event_about(kind: EventKind, record: &TokenRecord, now: UnixTime) -> AuditEvent {
    let mut event = AuditEvent::new(kind, now);
    event.outcome = Some("done".into());
    event.id = Some(record.id);
    event.name = Some(record.name.clone());
    event.subject = Some(record.subject.clone());
    event.kind = Some(record.kind);
    event
}

const fn nothing(dry_run: bool) -> Changed {
    Changed { count: 0, ids: Vec::new(), dry_run, still_good: Vec::new() }
}

pub(super) fn not_found() -> Failure {
    Failure::new(ErrorCode::NotFound, "no such token: bearerctl list shows the ids")
}

fn limit_reached(limit: &str, allowed: u64) -> Failure {
    Failure::new(
        ErrorCode::LimitReached,
        format!(
            "over the limit {limit} ({allowed}) of [limits] in bearerd's configuration: revoke what is not needed, wait, or ask its administrator"
        ),
    )
}
