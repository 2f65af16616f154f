//! Policy: who may do what. Default deny.
//!
//! - Root has full rights, unless it is in a container other than the daemon's own; so has the daemon's own user.
//! - Members of the group `bearerd-clients` may validate.
//! - The rest is rules ([`crate::config::PolicyRule`]). One rule must grant the whole request; the bounds of two rules
//!   never add up.
//!
//! Invariant: nothing here waits. Names are resolved when policy is loaded ([`Policy::resolve`]), a peer is held against
//! the rules once for each connection ([`Policy::standing`]), and a decision only compares ([`Policy::decide`]).
//! The clauses are explained to administrators in `packaging/bearerd.toml`.

#![forbid(unsafe_code)]

mod glob;
mod identify;
mod names;
mod rule;

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

pub use identify::{Own, container_of, identify, unit_of};
pub use names::{Names, SystemNames};

pub use crate::config::{AssertAddress, Operation};
use crate::config::{Config, PeerMatch, PolicyRule, Principal, Problem, TokenSettings};
use crate::peer::{Peer, UID_NOBODY};
use crate::scope::ScopeSet;
use crate::token::Kind;

use rule::{Lack, Number, Operations, Reach, Rule, Who};

/// The group whose members may validate.
pub const CLIENTS_GROUP: &str = "bearerd-clients";

/// The rules in force, with their names resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    clients_gid: Option<u32>,
    tokens: TokenSettings,
    own: Own,
    unresolved: bool,
}

/// What a connection may be matched with: computed once for each connection and policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It may do everything.
    pub full: bool,
    /// The rules that are for this peer, by their number.
    pub rules: Box<[u16]>,
    /// It is in the group of clients.
    pub clients: bool,
}

impl Standing {
    /// Nothing at all is for this peer: it shares the few connections of strangers.
    pub fn ruleless(&self) -> bool {
        !self.full && !self.clients && self.rules.is_empty()
    }
}

/// Whose the token is that something is to be done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Its subject or issuer is the peer (uid and name, as stored).
    Own,
    /// It is another's; also for what is not done to a token.
    NotOwn,
    /// Many tokens, looked at one by one: the grant says whether only the peer's own may be shown.
    Undecided,
}

/// What is to be issued, with profile and defaults filled in.
#[derive(Clone, Copy, Debug)]
pub struct IssueAsk<'a> {
    /// Whom it stands for.
    pub subject: &'a str,
    /// The peer's own user name, or `uid:1000` when it has none.
    pub own_name: &'a str,
    /// Its kind.
    pub kind: Kind,
    /// Its scopes.
    pub scopes: &'a ScopeSet,
    /// Its life; `None` only for a canary.
    pub ttl: Option<Duration>,
    /// The profile that it was asked for by.
    pub profile: Option<&'a str>,
}

/// A request, as far as policy looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What.
    pub op: Operation,
    /// Whose token.
    pub own: Ownership,
    /// For issue and import: what. Without it they are denied.
    pub issue: Option<IssueAsk<'a>>,
    /// For validate: the scopes asked for.
    pub scopes: &'a [&'a str],
}

impl<'a> Ask<'a> {
    /// Something that is not done to tokens: status, audit, admin.
    pub fn of(op: Operation) -> Self {
        Self { op, own: Ownership::NotOwn, issue: None, scopes: &[] }
    }

    /// Whether a token is good for these scopes.
    pub fn validate(scopes: &'a [&'a str]) -> Self {
        Self { scopes, ..Self::of(Operation::Validate) }
    }

    /// Something done to a token, or to many.
    pub fn to_token(op: Operation, own: Ownership) -> Self {
        Self { own, ..Self::of(op) }
    }

    /// To make a token.
    pub fn issue(issue: IssueAsk<'a>) -> Self {
        Self { issue: Some(issue), ..Self::of(Operation::Issue) }
    }
}

/// What policy says.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may be done, within the grant.
    Granted(Grant),
    /// It may not.
    Denied {
        /// What would have been needed: for the administrator's log. The peer is only told that it is not permitted.
        needed: String,
    },
}

/// What goes with a permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The rule that grants; `None` for full rights and for the group of clients.
    pub rule: Option<Arc<str>>,
    /// Only to tokens of the peer's own; the caller must see to it.
    pub own_only: bool,
    /// Whose word about the client's address is taken; `None` = nobody's.
    pub assert_address: Option<AssertAddress>,
}

impl Policy {
    /// Resolves the names in the rules. What does not resolve matches nothing and is a warning each; the caller asks again
    /// later ([`Self::is_unresolved`]). May wait for a directory service: not from the event loop.
    pub fn resolve(config: &Config, names: &dyn Names, own: Own) -> (Self, Vec<Problem>) {
        let mut warnings = Vec::new();
        let rules = config.policy.iter().map(|rule| resolve_rule(rule, names, &mut warnings)).collect();
        let unresolved = !warnings.is_empty();
        let clients_gid = match names.gid_of(CLIENTS_GROUP) {
            Ok(gid) => gid,
            Err(error) => {
                warnings
                    .push(Problem { place: None, text: format!("can't look up the group {CLIENTS_GROUP:?}: {error}") });
                None
            }
        };
        let unresolved = unresolved || !warnings.is_empty();
        (Self { rules, clients_gid, tokens: config.tokens.clone(), own, unresolved }, warnings)
    }

    /// Whether some name did not resolve: to be tried again in a minute. Two policies that compare equal are the same, so
    /// that a repeated try which finds nothing new need not be put into force.
    pub fn is_unresolved(&self) -> bool {
        self.unresolved
    }

    /// What the daemon itself is.
    pub fn own(&self) -> &Own {
        &self.own
    }

    /// Holds a peer against the rules. The standing is good for as long as this policy is in force.
    pub fn standing(&self, peer: &Peer) -> Standing {
        let trusted_uid = peer.has_uid() && (peer.uid == 0 || peer.uid == self.own.uid);
        let rules = self.rules.iter().zip(0..=u16::MAX).filter(|(rule, _)| rule.who.is(peer, &self.own));
        Standing {
            full: trusted_uid && rule::is_on_the_host(peer, &self.own),
            rules: rules.map(|(_, number)| number).collect(),
            clients: self.clients_gid.is_some_and(|gid| {
                peer.has_uid() && rule::is_on_the_host(peer, &self.own) && rule::in_group(peer, gid)
            }),
        }
    }

    /// Whether something of this kind may be asked at all, whatever the details. `standing` as for [`Self::decide`].
    pub fn may(&self, standing: &Standing, op: Operation) -> bool {
        standing.full
            || (standing.clients && op == Operation::Validate)
            || self.rules_of(standing).any(|rule| rule.has(op))
    }

    /// Whether the peer's uid says which user of this host it is. In a container it does not, unless that is one which
    /// the very user has made: the root of a container can take any uid, and must not pass for whoever has it here.
    pub fn knows_user(&self, peer: &Peer) -> bool {
        rule::is_on_the_host(peer, &self.own) || rule::is_in_a_container_of_its_own(peer)
    }

    /// Decides a request. `standing` must be what [`Self::standing`] of this policy said of `peer`.
    ///
    /// Of several rules that grant it the most useful counts: one for all tokens before one for the peer's own, then one
    /// that takes the peer's word about addresses; then the first.
    pub fn decide(&self, peer: &Peer, standing: &Standing, ask: &Ask<'_>) -> Decision {
        let mut best: Option<(&Rule, Reach)> = None;
        for rule in self.rules_of(standing) {
            let Some(reach) = rule.grants(ask, &self.tokens) else { continue };
            let rank = |(rule, reach): (&Rule, Reach)| (reach == Reach::All, rule.assert_address.is_some());
            if best.is_none_or(|best| rank((rule, reach)) > rank(best)) {
                best = Some((rule, reach));
            }
        }
        if standing.full {
            // Its own word, unless a rule says that it speaks for clients of its own.
            let assert_address = best.and_then(|(rule, _)| rule.assert_address).or(Some(AssertAddress::Yes));
            return Decision::Granted(Grant { rule: None, own_only: false, assert_address });
        }
        if let Some((rule, reach)) = best {
            return Decision::Granted(Grant {
                rule: Some(Arc::clone(&rule.name)),
                own_only: reach == Reach::Own,
                assert_address: rule.assert_address,
            });
        }
        if standing.clients && ask.op == Operation::Validate {
            return Decision::Granted(Grant { rule: None, own_only: false, assert_address: None });
        }
        Decision::Denied { needed: self.needed(peer, standing, ask) }
    }

    fn rules_of(&self, standing: &Standing) -> impl Iterator<Item = &Rule> {
        // A standing of another policy can name rules that are not there: they grant nothing.
        standing.rules.iter().filter_map(|&number| self.rules.get(usize::from(number)))
    }

    /// What would have been needed, in one line.
    fn needed(&self, peer: &Peer, standing: &Standing, ask: &Ask<'_>) -> String {
        let mut text = format!("no rule allows {:?}", ask.op.name());
        if let Some(issue) = &ask.issue {
            write_to(&mut text, format_args!(" of a {} token for {:?}", issue.kind, issue.subject));
        }
        write_to(&mut text, format_args!(" for {}", describe(peer)));
        let nearest = self
            .rules_of(standing)
            .map(|rule| (rule, rule.lacks(ask, &self.tokens)))
            // A rule that has the operation is nearer than any that has not, whatever else is missing.
            .min_by_key(|(_, lacks)| (lacks.iter().any(|lack| matches!(lack, Lack::Operation(_))), lacks.len()));
        match nearest {
            Some((rule, lacks)) => {
                let lacks = lacks.iter().map(Lack::to_string).collect::<Vec<_>>().join(", ");
                write_to(&mut text, format_args!("; nearest rule {:?} ({}) lacks: {lacks}", rule.name, rule.place));
            }
            None => {
                text.push_str("; no rule is for this peer");
                if !peer.tcp && !rule::is_on_the_host(peer, &self.own) {
                    text.push_str(
                        ": it is in a container, where user and group alone match nobody; name the container",
                    );
                }
            }
        }
        text
    }
}

fn write_to(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes what is written");
}

/// The peer in an administrator's line. Names of units and containers are of the peer's making: quoted.
fn describe(peer: &Peer) -> String {
    if peer.tcp {
        return "a peer over TCP".to_owned();
    }
    let mut text = format!("uid {} gid {}", peer.uid, peer.gid);
    for (what, name) in [("unit", &peer.unit), ("container", &peer.container)] {
        if let Some(name) = name {
            write_to(&mut text, format_args!(" {what} {name:?}"));
        }
    }
    text
}

fn resolve_rule(rule: &PolicyRule, names: &dyn Names, warnings: &mut Vec<Problem>) -> Rule {
    let mut resolve = |principal: &Option<Principal>,
                       what: &str,
                       look_up: &dyn Fn(&str) -> std::io::Result<Option<u32>>| {
        let number = match principal.as_ref()? {
            Principal::Anyone => return Some(Number::Any),
            Principal::Number(number) => return Some(Number::Is(*number)),
            Principal::Name(name) => look_up(name),
        };
        let problem = match number {
            // It is what the kernel shows for users that it can't name: whoever has it is not that user.
            Ok(Some(UID_NOBODY | u32::MAX)) if what == "user" => "has the uid of nobody in particular".to_owned(),
            Ok(Some(number)) => return Some(Number::Is(number)),
            Ok(None) => "does not exist".to_owned(),
            Err(error) => format!("can't be looked up: {error}"),
        };
        let principal = principal.as_ref().map(Principal::to_string).unwrap_or_default();
        let text = format!("the {what} {principal:?} {problem}; the rule {:?} matches nothing until it can", rule.name);
        warnings.push(Problem { place: Some(rule.place.clone()), text });
        Some(Number::Unresolved)
    };
    let PeerMatch { anyone, user, group, unit, container, tcp } = &rule.peer;
    let user = resolve(user, "user", &|name| names.uid_of(name));
    let group = resolve(group, "group", &|name| names.gid_of(name));
    // `{ user = "*" }` alone is `"*"`, written at length.
    let any = |number: Option<Number>| number.is_none_or(|number| number == Number::Any);
    let named = user.is_some() || group.is_some();
    let anyone = *anyone || (named && any(user) && any(group) && unit.is_none() && container.is_none());
    Rule {
        name: Arc::from(rule.name.as_str()),
        place: rule.place.clone(),
        who: Who { anyone, user, group, unit: unit.clone(), container: container.clone(), tcp: *tcp },
        all: Operations::of(&rule.allow, false),
        own: Operations::of(&rule.allow, true),
        subjects: rule.subjects.clone(),
        kinds: rule.kinds.clone(),
        scopes: rule.scopes.clone(),
        max_ttl: rule.max_ttl,
        profiles: rule.profiles.clone(),
        assert_address: rule.assert_address,
    }
}

#[cfg(test)]
mod tests;
