//! One rule, with its names resolved: whether it is for a peer, and what it lacks to grant a request.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::glob;
use super::{Ask, Operation, Own, Ownership};
use crate::config::{Allow, AssertAddress, Place, TokenSettings};
use crate::peer::{CONTAINER_UNKNOWN, Peer};
use crate::scope::ScopeSet;
use crate::time::format_duration;
use crate::token::Kind;

/// A user or a group, resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    /// Anyone.
    Any,
    /// This one.
    Is(u32),
    /// A name that nobody has: matches nothing.
    Unresolved,
}

impl Number {
    fn is(self, mut holds: impl FnMut(u32) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::Is(number) => holds(number),
            Self::Unresolved => false,
        }
    }
}

/// Whom a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Who {
    /// `"*"` and nothing else: also those whose uid names nobody.
    pub(super) anyone: bool,
    pub(super) user: Option<Number>,
    pub(super) group: Option<Number>,
    pub(super) unit: Option<String>,
    pub(super) container: Option<String>,
    pub(super) tcp: bool,
}

impl Who {
    pub(super) fn is(&self, peer: &Peer, own: &Own) -> bool {
        if self.tcp || peer.tcp {
            return self.tcp && peer.tcp;
        }
        if self.anyone {
            return true;
        }
        if !peer.has_uid() {
            return false;
        }
        if let Some(pattern) = &self.unit
            && !peer.unit.as_deref().is_some_and(|unit| glob::matches(pattern, unit))
        {
            return false;
        }
        if let Some(pattern) = &self.container {
            let within = peer.container.as_deref().filter(|name| *name != CONTAINER_UNKNOWN);
            if !within.is_some_and(|name| glob::matches(pattern, name)) {
                return false;
            }
        }
        // The root of a container can take any uid and gid, so there they name nobody, unless the rule says which
        // container or unit is trusted to use them.
        let by_number = |number: Option<Number>| number.is_some_and(|number| number != Number::Any);
        let placed = self.unit.is_some() || self.container.is_some();
        if !placed && by_number(self.user) && !is_on_the_host(peer, own) && !is_in_a_container_of_its_own(peer) {
            return false;
        }
        if !placed && by_number(self.group) && !is_on_the_host(peer, own) {
            return false;
        }
        self.user.is_none_or(|user| user.is(|uid| uid == peer.uid))
            && self.group.is_none_or(|group| group.is(|gid| in_group(peer, gid)))
    }
}

/// Whether the peer is in that group.
pub(super) fn in_group(peer: &Peer, gid: u32) -> bool {
    peer.gid == gid || peer.groups.contains(&gid)
}

/// Whether the peer is in no container but our own.
pub(super) fn is_on_the_host(peer: &Peer, own: &Own) -> bool {
    peer.container.is_none()
        || (peer.container == own.container && peer.container.as_deref() != Some(CONTAINER_UNKNOWN))
}

/// Whether the peer is in a container below its own `user@N.service`, and has that very uid: there the user is the
/// container's root and can take no other. Its groups are not believed.
pub(super) fn is_in_a_container_of_its_own(peer: &Peer) -> bool {
    let (Some(container), Some(unit)) = (peer.container.as_deref(), peer.unit.as_deref()) else { return false };
    let uid = unit.strip_prefix("user@").and_then(|rest| rest.strip_suffix(".service"));
    peer.uid != 0
        && uid.and_then(|uid| uid.parse().ok()) == Some(peer.uid)
        && container.strip_prefix(unit).is_some_and(|below| below.starts_with('/'))
}

/// A set of operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Operations(u16);

impl Operations {
    pub(super) fn of(allow: &[Allow], own: bool) -> Self {
        let bits = allow.iter().filter(|allow| allow.own == own).map(|allow| 1 << allow.operation as u8);
        Self(bits.fold(0, |set, bit: u16| set | bit))
    }

    fn has(self, operation: Operation) -> bool {
        self.0 & (1 << operation as u8) != 0
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) name: Arc<str>,
    pub(super) place: Place,
    pub(super) who: Who,
    pub(super) all: Operations,
    pub(super) own: Operations,
    pub(super) subjects: Option<Vec<String>>,
    pub(super) kinds: Option<Vec<Kind>>,
    pub(super) scopes: Option<ScopeSet>,
    pub(super) max_ttl: Option<Duration>,
    pub(super) profiles: Vec<String>,
    pub(super) assert_address: Option<AssertAddress>,
}

/// How far a rule's grant reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// To all tokens.
    All,
    /// To those of the peer.
    Own,
}

/// What a rule lacks to grant a request, for the administrator's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    Operation(Operation),
    OthersTokens(Operation),
    Facts,
    Subject(String),
    Kind(Kind),
    Scope(String),
    Ttl { asked: Option<Duration>, most: Duration },
    Profile(Option<String>),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operation(operation) => write!(f, "{:?} in allow", operation.name()),
            Self::OthersTokens(operation) => {
                write!(f, "{:?} in allow (it has \"{operation}:own\", and the token is another's)", operation.name())
            }
            Self::Facts => f.write_str("what is to be issued"),
            Self::Subject(subject) => write!(f, "subject {subject:?}"),
            Self::Kind(kind) => write!(f, "kind {:?}", kind.name()),
            Self::Scope(scope) => write!(f, "scope {scope:?}"),
            Self::Ttl { asked: Some(asked), most } => {
                write!(f, "max_ttl {} (it has {})", format_duration(*asked), format_duration(*most))
            }
            Self::Ttl { asked: None, most } => write!(f, "a ttl (at most {})", format_duration(*most)),
            Self::Profile(Some(profile)) => write!(f, "profile {profile:?}"),
            Self::Profile(None) => f.write_str("a profile in the request (it allows issuing only through profiles)"),
        }
    }
}

impl Rule {
    /// Whether it allows the operation, for some tokens.
    pub(super) fn has(&self, operation: Operation) -> bool {
        self.all.has(operation) || self.own.has(operation)
    }

    /// Whether the rule grants the whole request, and for which tokens; no allocation, as each validation comes here.
    pub(super) fn grants(&self, ask: &Ask<'_>, tokens: &TokenSettings) -> Option<Reach> {
        let mut lacking = false;
        let reach = self.weigh(ask, tokens, |_| lacking = true);
        if lacking { None } else { reach }
    }

    /// Everything that it lacks.
    pub(super) fn lacks(&self, ask: &Ask<'_>, tokens: &TokenSettings) -> Vec<Lack> {
        let mut lacks = Vec::new();
        self.weigh(ask, tokens, |lack| lacks.push(lack()));
        lacks
    }

    /// The one place where a request is held against a rule; calls `lack` for each thing that is missing.
    fn weigh(&self, ask: &Ask<'_>, tokens: &TokenSettings, mut lack: impl FnMut(&dyn Fn() -> Lack)) -> Option<Reach> {
        let reach = if self.all.has(ask.op) {
            Some(Reach::All)
        } else if self.own.has(ask.op) {
            match ask.own {
                Ownership::Own | Ownership::Undecided => Some(Reach::Own),
                Ownership::NotOwn => {
                    lack(&|| Lack::OthersTokens(ask.op));
                    None
                }
            }
        } else {
            lack(&|| Lack::Operation(ask.op));
            None
        };
        match ask.op {
            Operation::Validate => {
                // Absent = anything may be asked for.
                if let Some(scopes) = &self.scopes {
                    for scope in ask.scopes.iter().filter(|scope| !scopes.covers(scope)) {
                        lack(&|| Lack::Scope((*scope).to_owned()));
                    }
                }
            }
            Operation::Issue | Operation::Import => self.weigh_issue(ask, tokens, &mut lack),
            _ => {}
        }
        reach
    }

    fn weigh_issue(&self, ask: &Ask<'_>, tokens: &TokenSettings, lack: &mut impl FnMut(&dyn Fn() -> Lack)) {
        // Without the facts there is nothing that could be held against the bounds.
        let Some(issue) = &ask.issue else { return lack(&|| Lack::Facts) };
        let of_peer = |pattern: &str| pattern == "@user" && issue.subject == issue.own_name;
        let subject_fits = match &self.subjects {
            None => issue.subject == issue.own_name,
            Some(patterns) => patterns.iter().any(|p| of_peer(p) || (p != "@user" && glob::matches(p, issue.subject))),
        };
        if !subject_fits {
            lack(&|| Lack::Subject(issue.subject.to_owned()));
        }
        if !self.kinds.as_deref().unwrap_or(&[Kind::Session]).contains(&issue.kind) {
            lack(&|| Lack::Kind(issue.kind));
        }
        for scope in issue.scopes.iter() {
            // Absent = none.
            if !self.scopes.as_ref().is_some_and(|scopes| scopes.covers(scope.as_str())) {
                lack(&|| Lack::Scope(scope.as_str().to_owned()));
            }
        }
        // A canary does not expire and is never good, so no life of it needs a bound.
        if let Some(lives) = tokens.lives(issue.kind) {
            let most = self.max_ttl.unwrap_or(lives.default_ttl);
            if issue.ttl.is_none_or(|ttl| ttl > most) {
                lack(&|| Lack::Ttl { asked: issue.ttl, most });
            }
        }
        let listed = |profile: &str| self.profiles.iter().any(|name| name == profile);
        if !self.profiles.is_empty() && !issue.profile.is_some_and(listed) {
            lack(&|| Lack::Profile(issue.profile.map(str::to_owned)));
        }
    }
}
