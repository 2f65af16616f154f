//! issue: makes a token, within the peer's rule and its limits.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::changes::{GivenUp, announce, event_about, limit_reached};
use super::{Caller, Service, Settings, audit_unavailable, invalid, store_failure};
use crate::audit::{AuditEvent, EventKind};
use crate::config::Operation;
use crate::policy::{self, Decision, IssueAsk, Standing};
use crate::protocol::message::{Failure, Issue, Issued, SecretText};
use crate::registry::issue::{Parties, Plan, plan};
use crate::registry::{Invalid, view};
use crate::store::{Effect, Txn};
use crate::token::{self, Kind, Token};

impl Service {
    pub(super) async fn issue(&self, caller: &Arc<Caller>, request: Issue) -> Result<Issued, Failure> {
        let settings = self.settings();
        let standing = caller.standing(&settings);
        let own_name = self.user_name(caller).await;
        let (plan, subject) = match permitted(Operation::Issue, caller, request, &own_name, &settings) {
            Ok(permitted) => permitted,
            Err(Unfit::Invalid(why)) => return Err(invalid(why)),
            Err(Unfit::Denied(needed)) => return Err(self.deny(caller, Operation::Issue, needed, None)),
        };
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
            let event = announce(txn, event)?;
            Ok(((), vec![event]))
        };
        match self.commit(caller, 1, job).await.map_err(|error| store_failure(&error))? {
            Ok(((), lines)) => self.recorded(lines).await,
            Err(given_up) => return Err(self.given_up(caller, Operation::Issue, given_up)),
        }
        let text = Zeroizing::new(String::from(token.reveal().as_str()));
        Ok(Issued { token: SecretText::new(text.as_str().to_owned()), info })
    }
}

/// Why a token may not be as it is asked for.
pub(super) enum Unfit {
    /// Policy says so: what would have been needed.
    Denied(String),
    /// It can't be at all.
    Invalid(Invalid),
}

/// What is asked for, with the defaults filled in, and for whom: if policy allows it to be issued, or imported.
///
/// Where neither the request nor its profile names a kind, it is a machine token; or, for a peer that may have only
/// the short-lived one, a session token. What was denied on the way to that is no line in the trail.
pub(super) fn permitted(
    operation: Operation,
    caller: &Caller,
    mut request: Issue,
    own_name: &str,
    settings: &Settings,
) -> Result<(Plan, String), Unfit> {
    let standing = caller.standing(settings);
    let attempt = |request: &Issue| {
        let mut plan = plan(request, &settings.rules)?;
        let subject = plan.subject.take().unwrap_or_else(|| default_subject(&standing, caller, own_name, &plan));
        let ask = policy::Ask { op: operation, ..policy::Ask::issue(ask_of(&plan, &subject, own_name)) };
        let decision = settings.policy.decide(&caller.peer, &standing, &ask);
        Ok::<_, Invalid>((decision, plan, subject))
    };
    let open = request.kind.is_none() && settings.rules.kind_of(request.profile.as_deref()).is_none();
    let mut found = attempt(&request).map_err(Unfit::Invalid)?;
    if open && matches!(found.0, Decision::Denied { .. }) {
        request.kind = Some(Kind::Session);
        // What can't be a session token at all stays denied.
        if let Ok(second) = attempt(&request) {
            found = second;
        }
    }
    match found {
        (Decision::Granted(_), plan, subject) => Ok((plan, subject)),
        (Decision::Denied { needed }, ..) => Err(Unfit::Denied(needed)),
    }
}

/// What policy looks at of a token that is to be made.
pub(super) fn ask_of<'a>(plan: &'a Plan, subject: &'a str, own_name: &'a str) -> IssueAsk<'a> {
    IssueAsk {
        subject,
        own_name,
        kind: plan.kind,
        scopes: &plan.scopes,
        ttl: plan.ttl,
        profile: plan.profile.as_deref(),
    }
}

fn default_subject(standing: &Standing, caller: &Caller, own_name: &str, plan: &Plan) -> String {
    if standing.full && caller.peer.uid == 0 { plan.name.clone() } else { own_name.to_owned() }
}
