//! The configuration: what `/etc/bearerd/bearerd.toml` and its drop-ins say, checked, with a default for every key.
//!
//! Invariant: a [`Config`] that exists is sound. An unknown key, a wrong type, a value out of bounds, a profile that
//! nobody wrote is an error with file and line. The keys are explained in the shipped file, `packaging/bearerd.toml`;
//! a test holds the two together.

#![forbid(unsafe_code)]

mod check;
mod load;
mod partial;
mod paths;
mod rules;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use load::ConfigError;
pub use paths::{Mode, Paths};
pub use rules::{Allow, AssertAddress, CredentialRule, Operation, PeerMatch, PolicyRule, Principal, Profile};
pub use value::{Rate, SOCKET_PATH_MAX, parse_rate, parse_size};

use crate::token::{Kind, Prefix};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A line of a file, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Something to say about a place in the configuration: one line for an administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, when it is one place.
    pub place: Option<Place>,
    /// What, why, what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[tokens]`.
    pub tokens: TokenSettings,
    /// `[rotation]`.
    pub rotation: RotationSettings,
    /// `[warnings] before`: how long before a machine token's expiry it is told, longest first.
    pub warnings: Vec<Duration>,
    /// `[store]`.
    pub store: StoreSettings,
    /// `[keys] file`: the master key, where no systemd credential holds it.
    pub key_file: PathBuf,
    /// `[time] unsynced`.
    pub unsynced: Unsynced,
    /// `[socket]`.
    pub socket: SocketSettings,
    /// `[limits]`.
    pub limits: LimitSettings,
    /// `[audit]`.
    pub audit: AuditSettings,
    /// `[[policy]]`, in the order of the files.
    pub policy: Vec<PolicyRule>,
    /// `[profile.NAME]`.
    pub profiles: BTreeMap<String, Profile>,
    /// `[[credential]]`.
    pub credentials: Vec<CredentialRule>,
    /// What is sound but probably not what was meant; to be logged at start and shown by `--check-config`.
    pub remarks: Vec<Problem>,
}

/// `[tokens]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    /// The prefix of new tokens.
    pub prefix: Prefix,
    /// The `iss` of introspection; empty = none.
    pub issuer: String,
    /// `[tokens.session]`.
    pub session: Lives,
    /// `[tokens.machine]`.
    pub machine: Lives,
}

impl TokenSettings {
    /// The lives of a kind; `None` for a canary, which does not expire.
    pub fn lives(&self, kind: Kind) -> Option<&Lives> {
        match kind {
            Kind::Session => Some(&self.session),
            Kind::Machine => Some(&self.machine),
            Kind::Canary => None,
        }
    }
}

/// How long tokens of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// When nothing is asked for.
    pub default_ttl: Duration,
    /// At most, at issue and at each renewal.
    pub max_ttl: Duration,
    /// At most in all, renewals included; fixed at issue.
    pub max_lifetime: Duration,
}

/// `[rotation]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationSettings {
    /// How long a predecessor stays good after its successor's first use.
    pub grace: Duration,
    /// How long it stays good at most.
    pub overlap: Duration,
    /// What the use of a rotated-out token does, beside the alert.
    pub on_reuse: OnReuse,
}

/// `[rotation] on_reuse`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnReuse {
    /// Only the alert.
    Alert,
    /// The whole family ends.
    RevokeFamily,
}

/// `[store]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// The file.
    pub path: PathBuf,
    /// How long ended tokens are kept.
    pub retention: Duration,
    /// Memory for pages of the file, in bytes.
    pub cache_bytes: u64,
}

/// `[time] unsynced`: at a start with a clock that is not synchronised and behind what the store has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unsynced {
    /// Go on, with a warning.
    Serve,
    /// Do not start.
    Refuse,
}

/// `[socket]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketSettings {
    /// The native socket.
    pub path: PathBuf,
    /// Connections in all.
    pub max_connections: u32,
    /// Connections of one uid without full rights.
    pub max_connections_per_uid: u32,
}

/// `[limits]`: for peers without full rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Tokens that have not ended, by who issued them.
    pub tokens_per_uid: u32,
    /// How often one uid may issue.
    pub issue_per_uid: Rate,
}

/// `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSettings {
    /// The log.
    pub file: PathBuf,
    /// Without a record nothing is *active* and nothing is issued.
    pub required: bool,
    /// A record is on disk before its verdict is given.
    pub sync: bool,
    /// Like uses within this are one line with a count; zero = every one is a line.
    pub coalesce: Duration,
    /// How long a verdict waits for its record.
    pub max_wait: Duration,
    /// The datagram socket of syslog; `None` = off.
    pub syslog: Option<PathBuf>,
}

impl Config {
    /// Every default, with the files where `paths` says.
    pub fn defaults(paths: &Paths) -> Self {
        Self {
            tokens: TokenSettings {
                prefix: crate::token::DEFAULT_PREFIX.parse().expect("the default prefix is a prefix"),
                issuer: String::new(),
                session: Lives { default_ttl: 15 * MINUTE, max_ttl: 24 * HOUR, max_lifetime: 7 * DAY },
                machine: Lives { default_ttl: 90 * DAY, max_ttl: 366 * DAY, max_lifetime: 366 * DAY },
            },
            rotation: RotationSettings { grace: 5 * MINUTE, overlap: 7 * DAY, on_reuse: OnReuse::Alert },
            warnings: vec![14 * DAY, 7 * DAY, DAY],
            store: StoreSettings { path: paths.store.clone(), retention: 90 * DAY, cache_bytes: 64 << 20 },
            key_file: paths.key.clone(),
            unsynced: Unsynced::Serve,
            socket: SocketSettings { path: paths.socket.clone(), max_connections: 4096, max_connections_per_uid: 512 },
            limits: LimitSettings { tokens_per_uid: 1000, issue_per_uid: Rate { count: 60, per: MINUTE } },
            audit: AuditSettings {
                file: paths.audit.clone(),
                required: true,
                sync: false,
                coalesce: Duration::from_secs(1),
                max_wait: Duration::from_secs(1),
                syslog: Some("/dev/log".into()),
            },
            policy: Vec::new(),
            profiles: BTreeMap::new(),
            credentials: Vec::new(),
            remarks: Vec::new(),
        }
    }

    /// Reads the configuration and its drop-ins (`conf.d/*.toml` beside it, in the order of their names).
    ///
    /// `file` is what `--config` says and must exist; without it the file of `paths` is read if there is one. Of two
    /// files that set a key the later wins, `[[policy]]` and `[[credential]]` add up, a profile is replaced whole.
    ///
    /// # Errors
    /// [`ConfigError`] as its variants say; [`ConfigError::is_refusal`] tells the exit status.
    pub fn load(paths: &Paths, file: Option<&Path>) -> Result<Self, ConfigError> {
        load::load(paths, file)
    }

    /// The keys whose values differ and that only a restart puts into force: a reload keeps the old ones and says so.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let mut keys = Vec::new();
        let mut note = |key, differs| {
            if differs {
                keys.push(key);
            }
        };
        note("[store] path", self.store.path != new.store.path);
        note("[store] cache_bytes", self.store.cache_bytes != new.store.cache_bytes);
        note("[keys] file", self.key_file != new.key_file);
        note("[socket] path", self.socket.path != new.socket.path);
        note("[socket] max_connections", self.socket.max_connections != new.socket.max_connections);
        note("[audit] file", self.audit.file != new.audit.file);
        keys
    }
}

#[cfg(test)]
mod tests;
