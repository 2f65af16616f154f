//! What an administrator grants: policy rules, profiles and the credentials of services, as they are written.
//!
//! Names of users and groups are still names here; `policy` resolves them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use super::Place;
use super::value::{TEXT_MAX, printable};
use crate::scope::ScopeSet;
use crate::token::Kind;

/// What a peer asks to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Operation {
    /// Ask whether a token is good.
    Validate,
    /// Make a token.
    Issue,
    /// Take over tokens of another system.
    Import,
    /// See one token's facts.
    Show,
    /// See many tokens' facts.
    List,
    /// Change names, labels, networks; narrow scopes and expiry.
    Edit,
    /// Lengthen a life by its own ttl.
    Renew,
    /// Replace a token by a successor.
    Rotate,
    /// End a token for good.
    Revoke,
    /// Hold a token, and let it go again.
    Suspend,
    /// Receive events as they happen.
    Watch,
    /// Read the audit trail.
    Audit,
    /// See the daemon's state and figures.
    Status,
    /// Backup, rekey, reload, clock, sweep.
    Admin,
}

impl Operation {
    /// All, in the order of the documentation.
    pub const ALL: [Self; 14] = [
        Self::Validate,
        Self::Issue,
        Self::Import,
        Self::Show,
        Self::List,
        Self::Edit,
        Self::Renew,
        Self::Rotate,
        Self::Revoke,
        Self::Suspend,
        Self::Watch,
        Self::Audit,
        Self::Status,
        Self::Admin,
    ];

    /// The word in configuration and in refusals.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Validate => "validate",
            Self::Issue => "issue",
            Self::Import => "import",
            Self::Show => "show",
            Self::List => "list",
            Self::Edit => "edit",
            Self::Renew => "renew",
            Self::Rotate => "rotate",
            Self::Revoke => "revoke",
            Self::Suspend => "suspend",
            Self::Watch => "watch",
            Self::Audit => "audit",
            Self::Status => "status",
            Self::Admin => "admin",
        }
    }

    /// Whether it is done to tokens that exist, so that `:own` can bound it.
    pub const fn takes_own(self) -> bool {
        matches!(
            self,
            Self::Show
                | Self::List
                | Self::Edit
                | Self::Renew
                | Self::Rotate
                | Self::Revoke
                | Self::Suspend
                | Self::Watch
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One entry of `allow`: `revoke`, or `revoke:own`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allow {
    /// What.
    pub operation: Operation,
    /// Only to tokens whose subject or issuer is the peer.
    pub own: bool,
}

impl<'de> Deserialize<'de> for Allow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (word, own) = match text.strip_suffix(":own") {
            Some(word) => (word, true),
            None => (text.as_str(), false),
        };
        let Some(operation) = Operation::ALL.into_iter().find(|operation| operation.name() == word) else {
            let hint = if word == "resume" { " (resume goes with suspend)" } else { "" };
            let known = Operation::ALL.map(Operation::name).join(" ");
            return Err(D::Error::custom(format_args!(
                "{text:?} is not an operation{hint}; allowed are: {known}; some with \":own\""
            )));
        };
        if own && !operation.takes_own() {
            let known = Operation::ALL.into_iter().filter(|o| o.takes_own()).map(Operation::name).collect::<Vec<_>>();
            return Err(D::Error::custom(format_args!(
                "{text:?}: \":own\" has a meaning only with {}; write {word:?}",
                known.join(" ")
            )));
        }
        Ok(Self { operation, own })
    }
}

/// A user or a group in a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// `"*"`: any.
    Anyone,
    /// By name, resolved when policy is loaded.
    Name(String),
    /// By number.
    Number(u32),
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("*"),
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl<'de> Deserialize<'de> for Principal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrNumber;

        impl Visitor<'_> for NameOrNumber {
            type Value = Principal;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name or the number of a user or group, or \"*\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Principal, E> {
                if text == "*" {
                    return Ok(Principal::Anyone);
                }
                if let Ok(number) = text.parse() {
                    return Ok(Principal::Number(number));
                }
                let sound = !text.is_empty()
                    && text.len() <= 256
                    && printable(text)
                    && !text.contains([' ', ':', '*', '?', '/', ','])
                    && !text.starts_with(['-', '+', '@'])
                    && !text.bytes().all(|c| c.is_ascii_digit());
                if sound {
                    return Ok(Principal::Name(text.to_owned()));
                }
                Err(E::custom(format_args!("{text:?} is not the name or the number of a user or group, or \"*\"")))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Principal, E> {
                u32::try_from(number)
                    .map(Principal::Number)
                    .map_err(|_| E::custom(format_args!("{number} is not the number of a user or group")))
            }
        }

        deserializer.deserialize_any(NameOrNumber)
    }
}

/// Whom a rule is for; what is given must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerMatch {
    /// `peer = "*"`: anyone on this host.
    pub anyone: bool,
    /// The peer's user.
    pub user: Option<Principal>,
    /// A group that the peer is in.
    pub group: Option<Principal>,
    /// The peer's systemd unit; a pattern with `*` and `?`.
    pub unit: Option<String>,
    /// The container that the peer runs in; a pattern.
    pub container: Option<String>,
    /// It came over TCP: nobody in particular.
    pub tcp: bool,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
struct PeerTable {
    user: Option<Principal>,
    group: Option<Principal>,
    unit: Option<String>,
    container: Option<String>,
    #[serde(default)]
    tcp: bool,
}

impl PeerTable {
    fn checked(self) -> Result<PeerMatch, &'static str> {
        let named = self.user.is_some() || self.group.is_some() || self.unit.is_some() || self.container.is_some();
        if !named && !self.tcp {
            return Err(
                "peer names nobody: give user, group, unit, container or tcp = true, or write peer = \"*\" for anyone",
            );
        }
        if named && self.tcp {
            return Err("tcp = true stands alone: nothing is known of who comes over TCP");
        }
        for pattern in [&self.unit, &self.container].into_iter().flatten() {
            if pattern.is_empty() || pattern.len() > 2 * TEXT_MAX || !printable(pattern) {
                return Err("unit and container are patterns of 1 to 256 bytes without control characters");
            }
        }
        Ok(PeerMatch {
            anyone: false,
            user: self.user,
            group: self.group,
            unit: self.unit,
            container: self.container,
            tcp: self.tcp,
        })
    }
}

impl<'de> Deserialize<'de> for PeerMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StarOrTable;

        impl<'de> Visitor<'de> for StarOrTable {
            type Value = PeerMatch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"*\" for anyone, or a table of user, group, unit, container, tcp")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PeerMatch, E> {
                if text == "*" {
                    return Ok(PeerMatch { anyone: true, ..PeerMatch::default() });
                }
                Err(E::custom(format_args!(
                    "{text:?} is not \"*\"; to name somebody write a table, as in {{ user = {text:?} }}"
                )))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PeerMatch, A::Error> {
                PeerTable::deserialize(MapAccessDeserializer::new(map))?.checked().map_err(A::Error::custom)
            }
        }

        deserializer.deserialize_any(StarOrTable)
    }
}

/// Which word of a peer about the client's address is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub enum AssertAddress {
    /// The last element of `X-Forwarded-For`: the one that the proxy itself has added.
    #[serde(rename = "x-forwarded-for")]
    XForwardedFor,
    /// `X-Real-IP`.
    #[serde(rename = "x-real-ip")]
    XRealIp,
    /// What the peer says on the native socket.
    #[serde(rename = "yes")]
    Yes,
}

/// One `[[policy]]`. What is `None` was not written; what that means is said in `policy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// As the administrator calls it.
    pub name: String,
    /// Where it stands.
    pub place: Place,
    /// Whom it is for.
    pub peer: PeerMatch,
    /// What it allows.
    pub allow: Vec<Allow>,
    /// Whom issued tokens may stand for: patterns, or `@user`.
    pub subjects: Option<Vec<String>>,
    /// Which kinds may be issued.
    pub kinds: Option<Vec<Kind>>,
    /// Which scopes may be issued, or asked for.
    pub scopes: Option<ScopeSet>,
    /// The longest life that may be issued.
    pub max_ttl: Option<Duration>,
    /// Issue only through these; empty = no such bound.
    pub profiles: Vec<String>,
    /// Whose word about the client's address is taken.
    pub assert_address: Option<AssertAddress>,
}

/// One `[profile.NAME]`: what `issue --profile NAME` fills in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The kind; `None` leaves it to the asker.
    pub kind: Option<Kind>,
    /// The scopes.
    pub scopes: ScopeSet,
    /// The audiences.
    pub audiences: Vec<String>,
    /// The life; `None` = the kind's default.
    pub ttl: Option<Duration>,
    /// The labels.
    pub labels: BTreeMap<String, String>,
}

/// One `[[credential]]`: the token that a starting service is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialRule {
    /// Where it stands.
    pub place: Place,
    /// The unit that asks; a pattern.
    pub unit: String,
    /// The name of the credential in its `LoadCredential=`; a pattern.
    pub credential: String,
    /// The profile to issue by.
    pub profile: Option<String>,
    /// Whom the token stands for; `None` = the unit.
    pub subject: Option<String>,
    /// The scopes, beside those of the profile.
    pub scopes: ScopeSet,
    /// The life; `None` = the profile's or the default of the kind.
    pub ttl: Option<Duration>,
    /// The kind: the profile's, else machine.
    pub kind: Kind,
}
