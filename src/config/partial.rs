//! One configuration file as it is written: every key optional, each with the place where it stands, and how a later
//! file is laid over an earlier one.
//!
//! Each file is deserialised by itself: merging before would lose the places that errors name.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::rules::{Allow, AssertAddress, PeerMatch};
use super::value::{
    AbsolutePath, IssuerText, Labels, OptionalPath, PrefixText, ProfileName, RateText, Scopes, Size, Span, SubjectText,
    Text,
};
use super::{OnReuse, Unsynced};
use crate::token::Kind;

/// Where a value stands: the number of the file, and the byte in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    pub(super) file: usize,
    pub(super) offset: usize,
}

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) spot: Spot,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = toml::Spanned::<T>::deserialize(deserializer)?;
        // The file is known to who merges.
        let spot = Spot { file: 0, offset: spanned.span().start };
        Ok(Self { value: spanned.into_inner(), spot })
    }
}

/// Lays what a later file says over what earlier ones said.
pub(super) trait Absorb {
    /// `later` was read from the file with that number.
    fn absorb(&mut self, later: Self, file: usize);
}

impl<T> At<T> {
    fn in_file(mut self, file: usize) -> Self {
        self.spot.file = file;
        self
    }
}

/// The later value wins.
impl<T> Absorb for Option<At<T>> {
    fn absorb(&mut self, later: Self, file: usize) {
        if let Some(at) = later {
            *self = Some(at.in_file(file));
        }
    }
}

/// Rules add up.
impl<T> Absorb for Vec<At<T>> {
    fn absorb(&mut self, later: Self, file: usize) {
        self.extend(later.into_iter().map(|at| at.in_file(file)));
    }
}

/// Of one name the later wins, whole.
impl<T> Absorb for BTreeMap<String, At<T>> {
    fn absorb(&mut self, later: Self, file: usize) {
        self.extend(later.into_iter().map(|(name, at)| (name, at.in_file(file))));
    }
}

macro_rules! tables {
    ($($(#[$doc:meta])* $table:ident { $($key:ident: $value:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default, expecting = "a table")]
        pub(super) struct $table { $(pub(super) $key: $value,)* }

        impl Absorb for $table {
            fn absorb(&mut self, later: Self, file: usize) {
                $(self.$key.absorb(later.$key, file);)*
            }
        }
    )*};
}

tables! {
    /// The whole file.
    FileTable {
        tokens: TokensTable,
        rotation: RotationTable,
        warnings: WarningsTable,
        store: StoreTable,
        keys: KeysTable,
        time: TimeTable,
        socket: SocketTable,
        http: DoorTable,
        credentials: DoorTable,
        limits: LimitsTable,
        audit: AuditTable,
        policy: Vec<At<PolicyTable>>,
        profile: BTreeMap<String, At<ProfileTable>>,
        credential: Vec<At<CredentialTable>>,
    }
    TokensTable {
        prefix: Option<At<PrefixText>>,
        issuer: Option<At<IssuerText>>,
        session: LivesTable,
        machine: LivesTable,
    }
    LivesTable {
        default_ttl: Option<At<Span>>,
        max_ttl: Option<At<Span>>,
        max_lifetime: Option<At<Span>>,
    }
    RotationTable {
        grace: Option<At<Span>>,
        overlap: Option<At<Span>>,
        on_reuse: Option<At<OnReuse>>,
    }
    WarningsTable {
        before: Option<At<Vec<Span>>>,
    }
    StoreTable {
        path: Option<At<AbsolutePath>>,
        retention: Option<At<Span>>,
        cache_bytes: Option<At<Size>>,
    }
    KeysTable {
        file: Option<At<AbsolutePath>>,
    }
    TimeTable {
        unsynced: Option<At<Unsynced>>,
    }
    SocketTable {
        path: Option<At<AbsolutePath>>,
        max_connections: Option<At<u32>>,
        max_connections_per_uid: Option<At<u32>>,
    }
    /// `[http]`, `[credentials]`.
    DoorTable {
        path: Option<At<OptionalPath>>,
    }
    LimitsTable {
        tokens_per_uid: Option<At<u32>>,
        issue_per_uid: Option<At<RateText>>,
    }
    AuditTable {
        file: Option<At<AbsolutePath>>,
        required: Option<At<bool>>,
        sync: Option<At<bool>>,
        coalesce: Option<At<Span>>,
        max_wait: Option<At<Span>>,
        syslog: Option<At<OptionalPath>>,
    }
}

/// One `[[policy]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct PolicyTable {
    pub(super) name: Option<Text>,
    pub(super) peer: At<PeerMatch>,
    pub(super) allow: At<Vec<Allow>>,
    pub(super) subjects: Option<At<Vec<SubjectText>>>,
    pub(super) kinds: Option<At<Vec<Kind>>>,
    pub(super) scopes: Option<At<Scopes>>,
    pub(super) max_ttl: Option<At<Span>>,
    #[serde(default)]
    pub(super) profiles: Vec<At<ProfileName>>,
    pub(super) assert_address: Option<At<AssertAddress>>,
}

/// One `[profile.NAME]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct ProfileTable {
    pub(super) kind: Option<Kind>,
    pub(super) scopes: Option<Scopes>,
    #[serde(default)]
    pub(super) audiences: Vec<Text>,
    pub(super) ttl: Option<At<Span>>,
    pub(super) labels: Option<Labels>,
}

/// One `[[credential]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(super) struct CredentialTable {
    pub(super) unit: Text,
    pub(super) credential: Text,
    pub(super) profile: Option<At<ProfileName>>,
    pub(super) subject: Option<Text>,
    pub(super) scopes: Option<Scopes>,
    pub(super) ttl: Option<At<Span>>,
}
