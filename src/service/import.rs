//! import: tokens that other systems made, many at a time.
//!
//! Invariants: a text is digested where it was received, before anything is waited for, and nothing of it goes on (I3);
//! a batch is one transaction with one audit record for each token (I1, I4); a digest is taken once, so that whoever runs
//! an import again after a crash doubles nothing. Policy and the limits of `[limits]` are for each token, as if it were
//! issued.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::changes::{GivenUp, announce, event_about, limit_reached};
use super::issue::{Unfit, permitted};
use super::{Caller, Now, Service, Settings, audit_unavailable, later, not_permitted, store_failure};
use crate::audit::{AuditEvent, EventKind};
use crate::config::Operation;
use crate::protocol::BATCH_MAX;
use crate::protocol::code::ErrorCode;
use crate::protocol::message::{Answer, Failure, Foreign, ImportEntry, ImportOutcome, Issue};
use crate::registry::issue::Parties;
use crate::registry::{Invalid, import};
use crate::store::record::TokenRecord;
use crate::store::{Effect, Txn};
use crate::time::UnixTime;
use crate::token::{self, Digest, imported};

/// How long user names are looked up for one batch, in all; who is not found by then is no user of this host.
const LOOKUPS_WAIT: Duration = Duration::from_secs(2);

/// A token as it was offered, without its text.
struct Offered {
    digest: Result<Digest, String>,
    facts: Issue,
    expires_at: Option<UnixTime>,
}

/// Where one token of a batch stands.
enum Stage {
    Ended(ImportOutcome),
    /// Policy does not allow it.
    Denied(String),
    /// To be put.
    Ready(Box<TokenRecord>),
}

/// What a transaction did.
struct Imported {
    outcomes: Vec<ImportOutcome>,
    /// Some were beyond the quota.
    over: bool,
}

impl Service {
    pub(super) fn import(self: &Arc<Self>, caller: &Arc<Caller>, entries: &[ImportEntry<'_>]) -> Now {
        if entries.is_empty() || entries.len() > BATCH_MAX {
            return Now::failure(Failure::new(ErrorCode::BadRequest, format!("a batch has 1 to {BATCH_MAX} tokens")));
        }
        let offered: Vec<Offered> = entries.iter().map(|entry| self.offered(entry)).collect();
        let (service, caller) = (Arc::clone(self), Arc::clone(caller));
        later(async move { service.import_all(&caller, offered).await.map(Answer::Imported) })
    }

    fn offered(&self, entry: &ImportEntry<'_>) -> Offered {
        let key = self.keyring.digest_key();
        let digest = match entry.token {
            Foreign::Sha256(sha256) => Ok(token::imported_digest(key, &sha256)),
            Foreign::Text(text) if import::shows(&entry.facts, text) => Err(Invalid::OwnText.to_string()),
            Foreign::Text(text) => match imported::check(text) {
                Ok(()) => Ok(token::imported_digest(key, &token::sha256(text))),
                Err(unfit) => Err(unfit.to_string()),
            },
        };
        let facts = match entry.token {
            // Nothing that shows the text goes on, not even to policy, which tells the trail what it was asked.
            Foreign::Text(text) if import::shows(&entry.facts, text) => {
                Issue { name: "-".to_owned(), ..Issue::default() }
            }
            _ => entry.facts.clone(),
        };
        Offered { digest, facts, expires_at: entry.expires_at }
    }

    async fn import_all(&self, caller: &Arc<Caller>, offered: Vec<Offered>) -> Result<Vec<ImportOutcome>, Failure> {
        let settings = self.settings();
        let own_name = self.user_name(caller).await;
        let now = self.clock.now();
        let mut users =
            Users { service: self, caller, own_name: &own_name, known: HashMap::new(), begun: Instant::now() };
        let mut stages = Vec::with_capacity(offered.len());
        for offered in offered {
            stages.push(self.stage(offered, &mut users, &settings, now).await?);
        }
        // Each has its line in the trail, coalesced; who may import none of them hears no more than that.
        let denied = stages.iter().filter(|stage| matches!(stage, Stage::Denied(_))).count();
        for stage in &stages {
            if let Stage::Denied(needed) = stage {
                let _ = self.deny(caller, Operation::Import, needed.clone(), None);
            }
        }
        if denied == stages.len() {
            return Err(not_permitted());
        }
        if stages.iter().all(|stage| !matches!(stage, Stage::Ready(_))) {
            return Ok(stages.into_iter().map(Stage::outcome).collect());
        }
        // Before the commit: what can't be recorded is not made.
        if !self.audit.ready() {
            return Err(audit_unavailable());
        }
        self.commit_import(caller, stages, &settings, now).await
    }

    /// What one of them comes to before the transaction.
    async fn stage(
        &self,
        offered: Offered,
        users: &mut Users<'_>,
        settings: &Settings,
        now: UnixTime,
    ) -> Result<Stage, Failure> {
        let refused = |why: String| Ok(Stage::Ended(ImportOutcome::Refused(why)));
        let permitted = import::with_end(offered.facts, offered.expires_at, now)
            .map_err(Unfit::Invalid)
            .and_then(|facts| permitted(Operation::Import, users.caller, facts, users.own_name, settings));
        let (plan, subject, digest) = match (permitted, offered.digest) {
            // First of all: who may not import learns nothing of what may be.
            (Err(Unfit::Denied(needed)), _) => return Ok(Stage::Denied(needed)),
            (_, Err(why)) => return refused(why),
            (Err(Unfit::Invalid(why)), _) => return refused(why.to_string()),
            (Ok((plan, subject)), Ok(digest)) => (plan, subject, digest),
        };
        // Before it costs anything of a limit; what is decided in the transaction counts.
        if let Some(id) = self.store.imported(&digest).map_err(|error| store_failure(&error))? {
            return Ok(Stage::Ended(ImportOutcome::Already(id)));
        }
        let uid = users.caller.peer.uid;
        let rate = settings.issue_per_uid;
        let full = users.caller.standing(settings).full;
        if !full && !self.issues.allow(uid, rate, self.clock.boottime(), true) {
            return refused(self.over_limit(users.caller, "issue_per_uid", rate.count.into()).message);
        }
        let subject_uid = users.uid_of(&subject).await;
        let parties = Parties { subject, subject_uid, issuer: users.own_name.to_owned(), issuer_uid: uid };
        let id = self.ids.next(now);
        match import::record(plan, id, digest, parties, settings.rules.prefix, now) {
            Ok(record) => Ok(Stage::Ready(Box::new(record))),
            Err(why) => refused(why.to_string()),
        }
    }

    /// Puts all that are ready, in one transaction.
    async fn commit_import(
        &self,
        caller: &Arc<Caller>,
        stages: Vec<Stage>,
        settings: &Settings,
        now: UnixTime,
    ) -> Result<Vec<ImportOutcome>, Failure> {
        let full = caller.standing(settings).full;
        let quota = (!full).then_some(settings.tokens_per_uid);
        let (uid, peer, weight) = (caller.peer.uid, caller.peer.label(), stages.len());
        let job = move |txn: &mut Txn<'_>| -> Result<(Imported, Vec<AuditEvent>), GivenUp> {
            let mut room = match quota {
                None => usize::MAX,
                Some(quota) => {
                    let limit = usize::try_from(quota).unwrap_or(usize::MAX);
                    limit - txn.live_count(uid, limit)?
                }
            };
            let mut over = false;
            let mut events = Vec::new();
            let mut outcomes = Vec::with_capacity(stages.len());
            for stage in stages {
                let record = match stage {
                    Stage::Ready(record) => *record,
                    ended => {
                        outcomes.push(ended.outcome());
                        continue;
                    }
                };
                if let Some(id) = txn.imported(&record.digest)? {
                    outcomes.push(ImportOutcome::Already(id));
                    continue;
                }
                if room == 0 {
                    over = true;
                    let failure = limit_reached("tokens_per_uid", quota.unwrap_or_default());
                    outcomes.push(ImportOutcome::Refused(failure.message));
                    continue;
                }
                room -= 1;
                let mut event = event_about(EventKind::Import, &record, now);
                event.scopes = Some(record.scopes.to_strings());
                event.peer = Some(peer.clone());
                outcomes.push(ImportOutcome::Taken(record.id));
                txn.put(record, Effect::New)?;
                events.push(announce(txn, event)?);
            }
            Ok((Imported { outcomes, over }, events))
        };
        match self.commit(caller, weight, job).await.map_err(|error| store_failure(&error))? {
            Ok((Imported { outcomes, over }, lines)) => {
                if over {
                    self.note_limit(caller, limit_reached("tokens_per_uid", settings.tokens_per_uid).message);
                }
                self.recorded(lines).await;
                Ok(outcomes)
            }
            Err(given_up) => Err(self.given_up(caller, Operation::Import, given_up)),
        }
    }
}

impl Stage {
    fn outcome(self) -> ImportOutcome {
        match self {
            Self::Ended(outcome) => outcome,
            Self::Denied(_) => ImportOutcome::Refused(not_permitted().message),
            Self::Ready(_) => unreachable!("what is ready is put"),
        }
    }
}

/// The uids of the subjects of one batch.
struct Users<'a> {
    service: &'a Service,
    caller: &'a Arc<Caller>,
    own_name: &'a str,
    known: HashMap<String, Option<u32>>,
    begun: Instant,
}

impl Users<'_> {
    async fn uid_of(&mut self, subject: &str) -> Option<u32> {
        if subject == self.own_name {
            return self.caller.uid();
        }
        if let Some(known) = self.known.get(subject) {
            return *known;
        }
        // A name service that hangs holds a batch up for so long, not for a second each.
        let left = LOOKUPS_WAIT.checked_sub(self.begun.elapsed())?;
        let found = tokio::time::timeout(left, self.service.uid_of(self.caller, subject)).await.ok().flatten();
        self.known.insert(subject.to_owned(), found);
        found
    }
}
