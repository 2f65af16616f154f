//! What a single value can't show: whether values fit each other, and whether what they name exists.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::load::Sources;
use super::partial::{At, CredentialTable, DoorTable, FileTable, LivesTable, PolicyTable, ProfileTable, Spot};
use super::rules::{CredentialRule, Operation, PolicyRule, Principal, Profile};
use super::value::{SOCKET_PATH_MAX, is_profile_name};
use super::{Config, ConfigError, Lives, Paths, Problem, TokenSettings};
use crate::time::format_duration;
use crate::token::Kind;

/// The uid that the kernel shows for a user without a mapping here.
const UNMAPPED: u32 = 65_534;
/// Most rules: their numbers are kept in 16 bits for each connection.
const POLICY_MAX: usize = 4096;
/// Most warnings: which were given is kept in the bits of a word.
const WARNINGS_MAX: usize = 32;
/// Most audiences of a token.
const AUDIENCES_MAX: usize = 16;
/// A crash loses the counts of the uses that are still being coalesced: no more than an hour's.
const COALESCE_MAX: Duration = Duration::from_secs(60 * 60);
/// Longest wait for an audit record: clients have given up by then.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Smallest page cache that redb works with at all well.
const CACHE_MIN: u64 = 1 << 20;

/// Fills in the defaults and checks the whole.
///
/// # Errors
/// [`ConfigError::Invalid`] with everything that was found.
pub(super) fn finish(table: FileTable, sources: &Sources, paths: &Paths) -> Result<Config, ConfigError> {
    let mut check = Check { sources, problems: Vec::new(), remarks: Vec::new() };
    let config = check.build(table, Config::defaults(paths));
    if check.problems.is_empty() {
        Ok(Config { remarks: check.remarks, ..config })
    } else {
        Err(ConfigError::Invalid(check.problems))
    }
}

struct Check<'a> {
    sources: &'a Sources,
    problems: Vec<Problem>,
    remarks: Vec<Problem>,
}

/// Takes a key's value if it was written, and tells where.
fn set<T, U>(target: &mut U, key: Option<At<T>>, value: impl FnOnce(T) -> U) -> Option<Spot> {
    let at = key?;
    *target = value(at.value);
    Some(at.spot)
}

impl Check<'_> {
    fn problem(&mut self, spot: Option<Spot>, text: impl Into<String>) {
        let place = spot.map(|spot| self.sources.place(spot));
        self.problems.push(Problem { place, text: text.into() });
    }

    fn remark(&mut self, spot: Option<Spot>, text: impl Into<String>) {
        let place = spot.map(|spot| self.sources.place(spot));
        self.remarks.push(Problem { place, text: text.into() });
    }

    fn bounds<T: PartialOrd>(&mut self, spot: Option<Spot>, value: &T, low: &T, high: &T, text: &str) {
        if value < low || value > high {
            self.problem(spot, text);
        }
    }

    fn build(&mut self, table: FileTable, mut config: Config) -> Config {
        set(&mut config.tokens.prefix, table.tokens.prefix, |v| v.0);
        let spot = set(&mut config.tokens.issuer, table.tokens.issuer, |v| v.0);
        self.unused(spot.filter(|_| !config.tokens.issuer.is_empty()), "[tokens] issuer");
        self.lives("session", &mut config.tokens.session, table.tokens.session);
        self.lives("machine", &mut config.tokens.machine, table.tokens.machine);

        set(&mut config.rotation.grace, table.rotation.grace, |v| v.0);
        set(&mut config.rotation.overlap, table.rotation.overlap, |v| v.0);
        set(&mut config.rotation.on_reuse, table.rotation.on_reuse, |v| v);

        let spot = set(&mut config.warnings, table.warnings.before, |v| v.into_iter().map(|span| span.0).collect());
        config.warnings.sort_by(|a, b| b.cmp(a));
        config.warnings.dedup();
        if config.warnings.len() > WARNINGS_MAX || config.warnings.last().is_some_and(Duration::is_zero) {
            self.problem(spot, "[warnings] before has at most 32 durations, each longer than zero");
        }

        let store_spot = set(&mut config.store.path, table.store.path, |v| v.0);
        set(&mut config.store.retention, table.store.retention, |v| v.0);
        let spot = set(&mut config.store.cache_bytes, table.store.cache_bytes, |v| v.0);
        let text = "[store] cache_bytes is at least 1MiB and at most 1024GiB";
        self.bounds(spot, &config.store.cache_bytes, &CACHE_MIN, &(1 << 40), text);
        let key_spot = set(&mut config.key_file, table.keys.file, |v| v.0);
        set(&mut config.unsynced, table.time.unsynced, |v| v);

        let socket_spot = set(&mut config.socket.path, table.socket.path, |v| v.0);
        if config.socket.path.as_os_str().len() > SOCKET_PATH_MAX {
            self.problem(socket_spot, format!("the path of a socket has at most {SOCKET_PATH_MAX} bytes"));
        }
        let text = "a number of connections is at least 1 and at most 1000000";
        let spot = set(&mut config.socket.max_connections, table.socket.max_connections, |v| v);
        self.bounds(spot, &config.socket.max_connections, &1, &1_000_000, text);
        let spot = set(&mut config.socket.max_connections_per_uid, table.socket.max_connections_per_uid, |v| v);
        self.bounds(spot, &config.socket.max_connections_per_uid, &1, &1_000_000, text);
        self.closed_door(table.http, "this version has no HTTP face yet; leave [http] path empty");
        self.closed_door(
            table.credentials,
            "this version has no credential socket yet; leave [credentials] path empty",
        );

        let spot = set(&mut config.limits.tokens_per_uid, table.limits.tokens_per_uid, |v| v);
        self.bounds(spot, &config.limits.tokens_per_uid, &1, &u32::MAX, "[limits] tokens_per_uid is at least 1");
        set(&mut config.limits.issue_per_uid, table.limits.issue_per_uid, |v| v.0);

        let audit_spot = set(&mut config.audit.file, table.audit.file, |v| v.0);
        set(&mut config.audit.required, table.audit.required, |v| v);
        set(&mut config.audit.sync, table.audit.sync, |v| v);
        let spot = set(&mut config.audit.coalesce, table.audit.coalesce, |v| v.0);
        let text = "[audit] coalesce is at most 1h: a crash loses the counts that are still open";
        self.bounds(spot, &config.audit.coalesce, &Duration::ZERO, &COALESCE_MAX, text);
        let spot = set(&mut config.audit.max_wait, table.audit.max_wait, |v| v.0);
        let text = "[audit] max_wait is longer than zero and at most 1m";
        self.bounds(spot, &config.audit.max_wait, &Duration::from_millis(1), &WAIT_MAX, text);
        set(&mut config.audit.syslog, table.audit.syslog, |v| v.0);

        self.files_apart(&config, [store_spot, key_spot, socket_spot, audit_spot]);
        config.profiles = self.profiles(table.profile, &config.tokens);
        config.policy = self.rules(table.policy, &config.profiles);
        config.credentials = self.credentials(table.credential, &config);
        config
    }

    fn lives(&mut self, kind: &str, lives: &mut Lives, table: LivesTable) {
        let default_spot = set(&mut lives.default_ttl, table.default_ttl, |v| v.0);
        let max_spot = set(&mut lives.max_ttl, table.max_ttl, |v| v.0);
        let lifetime_spot = set(&mut lives.max_lifetime, table.max_lifetime, |v| v.0);
        let text = |duration| format_duration(duration);
        if lives.default_ttl.is_zero() {
            self.problem(default_spot, format!("[tokens.{kind}] default_ttl is longer than zero"));
        }
        if lives.default_ttl > lives.max_ttl {
            self.problem(
                default_spot.or(max_spot),
                format!(
                    "[tokens.{kind}] default_ttl ({}) is longer than max_ttl ({}); lower the one or raise the other",
                    text(lives.default_ttl),
                    text(lives.max_ttl)
                ),
            );
        }
        if lives.max_ttl > lives.max_lifetime {
            self.problem(
                max_spot.or(lifetime_spot),
                format!(
                    "[tokens.{kind}] max_ttl ({}) is longer than max_lifetime ({}); lower the one or raise the other",
                    text(lives.max_ttl),
                    text(lives.max_lifetime)
                ),
            );
        }
    }

    /// A door that this version does not have: saying nothing would leave people to believe that it is open.
    fn closed_door(&mut self, table: DoorTable, text: &str) {
        if let Some(at) = table.path
            && at.value.0.is_some()
        {
            self.problem(Some(at.spot), text);
        }
    }

    /// A key that this version only checks: who sets it must not count on it.
    fn unused(&mut self, spot: Option<Spot>, key: &str) {
        if spot.is_some() {
            self.remark(spot, format!("{key} is set, and in this version nothing uses it yet"));
        }
    }

    fn files_apart(&mut self, config: &Config, spots: [Option<Spot>; 4]) {
        let paths: [&Path; 4] =
            [&config.store.path, &config.key_file, &config.socket.path, &config.audit.file].map(|path| path.as_path());
        for (index, path) in paths.iter().enumerate() {
            if paths[..index].contains(path) {
                let text = format!("{} is given for two things; each needs a path of its own", path.display());
                self.problem(spots[index], text);
            }
        }
        if config.store.path.parent() == config.key_file.parent() {
            self.remark(
                spots[1].or(spots[0]),
                "the key lies beside the store: a copy of that directory opens the store; give [keys] file a directory of its own",
            );
        }
    }

    fn profiles(
        &mut self,
        tables: BTreeMap<String, At<ProfileTable>>,
        tokens: &TokenSettings,
    ) -> BTreeMap<String, Profile> {
        let mut profiles = BTreeMap::new();
        for (name, At { value: table, spot }) in tables {
            if !is_profile_name(&name) {
                self.problem(
                    Some(spot),
                    format!("{name:?} is not the name of a profile: 1 to 64 of A-Z a-z 0-9 . _ -"),
                );
            }
            if table.audiences.len() > AUDIENCES_MAX {
                self.problem(Some(spot), format!("the profile {name:?} has more than {AUDIENCES_MAX} audiences"));
            }
            if let Some(ttl) = &table.ttl {
                let what = format!("the ttl of the profile {name:?}");
                self.ttl(&what, ttl, table.kind, tokens);
            }
            profiles.insert(
                name,
                Profile {
                    kind: table.kind,
                    scopes: table.scopes.map(|scopes| scopes.0).unwrap_or_default(),
                    audiences: table.audiences.into_iter().map(|audience| audience.0).collect(),
                    ttl: table.ttl.map(|ttl| ttl.value.0),
                    labels: table.labels.map(|labels| labels.0).unwrap_or_default(),
                },
            );
        }
        profiles
    }

    /// A life is longer than zero and no longer than its kind's ceiling, of an unknown kind the higher one.
    fn ttl(&mut self, what: &str, ttl: &At<super::value::Span>, kind: Option<Kind>, tokens: &TokenSettings) {
        let ceiling = match kind {
            Some(Kind::Canary) => {
                return self.problem(Some(ttl.spot), format!("{what}: a canary does not expire; leave ttl out"));
            }
            Some(Kind::Session) => tokens.session.max_ttl,
            Some(Kind::Machine) => tokens.machine.max_ttl,
            None => tokens.machine.max_ttl.max(tokens.session.max_ttl),
        };
        if ttl.value.0.is_zero() || ttl.value.0 > ceiling {
            let ceiling = format_duration(ceiling);
            self.problem(
                Some(ttl.spot),
                format!("{what} is longer than zero and at most {ceiling}, the kind's max_ttl"),
            );
        }
    }

    fn known_profile(&mut self, spot: Spot, name: &str, profiles: &BTreeMap<String, Profile>) {
        if !profiles.contains_key(name) {
            let known = profiles.keys().map(String::as_str).collect::<Vec<_>>().join(" ");
            let known = if known.is_empty() { "there is none".to_owned() } else { format!("known are: {known}") };
            self.problem(Some(spot), format!("there is no profile {name:?}; {known}; write a [profile.{name}]"));
        }
    }

    fn rules(&mut self, tables: Vec<At<PolicyTable>>, profiles: &BTreeMap<String, Profile>) -> Vec<PolicyRule> {
        if tables.len() > POLICY_MAX {
            self.problem(tables.last().map(|table| table.spot), format!("there are more than {POLICY_MAX} rules"));
            return Vec::new();
        }
        tables.into_iter().map(|At { value, spot }| self.rule(value, spot, profiles)).collect()
    }

    fn rule(&mut self, table: PolicyTable, spot: Spot, profiles: &BTreeMap<String, Profile>) -> PolicyRule {
        let place = self.sources.place(spot);
        let name = table.name.map_or_else(|| place.to_string(), |name| name.0);
        if table.allow.value.is_empty() {
            self.problem(
                Some(table.allow.spot),
                format!("the rule {name:?} allows nothing; name operations or remove it"),
            );
        }
        for profile in &table.profiles {
            self.known_profile(profile.spot, &profile.value.0, profiles);
        }
        let never = |principal: &Principal| matches!(principal, Principal::Number(UNMAPPED | u32::MAX));
        if table.peer.value.user.as_ref().is_some_and(never) {
            let text =
                "uid 65534 is what the kernel shows for users that it can't name here; only peer = \"*\" matches it";
            self.problem(Some(table.peer.spot), text);
        }
        for (key, empty, at) in [
            ("subjects", "what may be issued then? leave it out for the peer's own name", empty(&table.subjects)),
            ("kinds", "what may be issued then? leave it out for session tokens", empty(&table.kinds)),
        ] {
            if let Some(at) = at {
                self.problem(Some(at), format!("{key} is empty: {empty}"));
            }
        }
        let max_ttl = table.max_ttl.map(|at| {
            if at.value.0.is_zero() {
                self.problem(Some(at.spot), "max_ttl is longer than zero");
            }
            (at.value.0, at.spot)
        });
        let allows = |operations: &[Operation]| table.allow.value.iter().any(|a| operations.contains(&a.operation));
        if !allows(&[Operation::Issue, Operation::Import]) {
            // Said, because who writes `subjects` beside `revoke` may believe that it bounds what can be revoked.
            for (key, spot) in [
                ("subjects", table.subjects.as_ref().map(|at| at.spot)),
                ("kinds", table.kinds.as_ref().map(|at| at.spot)),
                ("max_ttl", max_ttl.map(|(_, spot)| spot)),
                ("profiles", table.profiles.first().map(|at| at.spot)),
            ] {
                if spot.is_some() {
                    let text = format!(
                        "{key} bounds only what may be issued, and the rule {name:?} allows neither issue nor import: it has no effect"
                    );
                    self.remark(spot, text);
                }
            }
        }
        if let Some(at) = &table.assert_address
            && !allows(&[Operation::Validate])
        {
            let text =
                format!("assert_address is for validate, which the rule {name:?} does not allow: it has no effect");
            self.remark(Some(at.spot), text);
        }
        PolicyRule {
            name,
            place,
            peer: table.peer.value,
            allow: table.allow.value,
            subjects: table.subjects.map(|at| at.value.into_iter().map(|subject| subject.0).collect()),
            kinds: table.kinds.map(|at| at.value),
            scopes: table.scopes.map(|at| at.value.0),
            max_ttl: max_ttl.map(|(ttl, _)| ttl),
            profiles: table.profiles.into_iter().map(|at| at.value.0).collect(),
            assert_address: table.assert_address.map(|at| at.value),
        }
    }

    fn credentials(&mut self, tables: Vec<At<CredentialTable>>, config: &Config) -> Vec<CredentialRule> {
        let mut rules = Vec::new();
        for At { value: table, spot } in tables {
            self.unused(Some(spot), "[[credential]]");
            let mut kind = Kind::Machine;
            if let Some(profile) = &table.profile {
                self.known_profile(profile.spot, &profile.value.0, &config.profiles);
                kind = config.profiles.get(&profile.value.0).and_then(|profile| profile.kind).unwrap_or(kind);
            }
            if kind == Kind::Canary {
                self.problem(
                    Some(spot),
                    "a service can't be given a canary, which is never good; name another profile",
                );
            } else if let Some(ttl) = &table.ttl {
                self.ttl("the ttl of a credential", ttl, Some(kind), &config.tokens);
            }
            rules.push(CredentialRule {
                place: self.sources.place(spot),
                unit: table.unit.0,
                credential: table.credential.0,
                profile: table.profile.map(|at| at.value.0),
                subject: table.subject.map(|subject| subject.0),
                scopes: table.scopes.map(|scopes| scopes.0).unwrap_or_default(),
                ttl: table.ttl.map(|at| at.value.0),
                kind,
            });
        }
        rules
    }
}

fn empty<T>(list: &Option<At<Vec<T>>>) -> Option<Spot> {
    list.as_ref().filter(|at| at.value.is_empty()).map(|at| at.spot)
}
