//! Policy as an administrator writes it, against peers as the kernel shows them.

use std::os::unix::fs::PermissionsExt;

use super::names::fake::FakeNames;
use super::*;
use crate::config::Paths;

const ALICE: u32 = 1000;
const DEVELOPERS: u32 = 200;
const CLIENTS: u32 = 300;
const DAEMON: u32 = 990;

fn own() -> Own {
    Own { uid: DAEMON, container: None, cgroups: true }
}

fn names() -> FakeNames {
    FakeNames {
        users: vec![("root", 0), ("alice", ALICE), ("nobody", UID_NOBODY)],
        groups: vec![("developers", DEVELOPERS), (CLIENTS_GROUP, CLIENTS)],
        broken: false,
    }
}

fn config(text: &str) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bearerd.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let paths = Paths::system(nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    Config::load(&paths, Some(&path)).unwrap()
}

fn policy(text: &str) -> Policy {
    let (policy, warnings) = Policy::resolve(&config(text), &names(), own());
    assert_eq!(warnings, []);
    policy
}

/// A policy of one rule for alice.
fn for_alice(rule: &str) -> Policy {
    policy(&format!("[[policy]]\nname = \"r\"\npeer = {{ user = \"alice\" }}\n{rule}"))
}

fn peer(uid: u32) -> Peer {
    Peer { pid: 42, uid, gid: uid, groups: [].into(), unit: None, container: None, tcp: false }
}

fn in_unit(uid: u32, unit: &str) -> Peer {
    Peer { unit: Some(unit.into()), ..peer(uid) }
}

fn in_container(uid: u32, container: &str) -> Peer {
    Peer { container: Some(container.into()), ..peer(uid) }
}

fn in_groups(uid: u32, groups: &[u32]) -> Peer {
    Peer { groups: groups.into(), ..peer(uid) }
}

fn decide(policy: &Policy, peer: &Peer, ask: &Ask<'_>) -> Decision {
    policy.decide(peer, &policy.standing(peer), ask)
}

fn granted(policy: &Policy, peer: &Peer, ask: &Ask<'_>) -> Option<Grant> {
    match decide(policy, peer, ask) {
        Decision::Granted(grant) => Some(grant),
        Decision::Denied { .. } => None,
    }
}

fn may(policy: &Policy, peer: &Peer, op: Operation) -> bool {
    granted(policy, peer, &Ask::of(op)).is_some()
}

fn needed(policy: &Policy, peer: &Peer, ask: &Ask<'_>) -> String {
    match decide(policy, peer, ask) {
        Decision::Denied { needed } => needed,
        Decision::Granted(grant) => panic!("granted: {grant:?}"),
    }
}

/// What alice asks to issue, if nothing else is said.
struct Wanted {
    subject: &'static str,
    kind: Kind,
    scopes: &'static [&'static str],
    ttl_secs: u64,
    profile: Option<&'static str>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { subject: "alice", kind: Kind::Session, scopes: &[], ttl_secs: 15 * 60, profile: None }
    }
}

impl Wanted {
    fn by(&self, policy: &Policy, peer: &Peer) -> bool {
        let scopes = ScopeSet::parse(self.scopes).unwrap();
        let ttl = (self.kind != Kind::Canary).then(|| Duration::from_secs(self.ttl_secs));
        let issue = IssueAsk {
            subject: self.subject,
            own_name: "alice",
            kind: self.kind,
            scopes: &scopes,
            ttl,
            profile: self.profile,
        };
        granted(policy, peer, &Ask::issue(issue)).is_some()
    }
}

// Section "Who asks": default deny.

#[test]
fn nothing_is_allowed_to_a_stranger() {
    let policy = policy("");
    let standing = policy.standing(&peer(ALICE));
    assert!(standing.ruleless());
    for op in Operation::ALL {
        assert!(!may(&policy, &peer(ALICE), op), "{op}");
    }
    assert!(!Wanted::default().by(&policy, &peer(ALICE)));
}

#[test]
fn root_and_the_daemons_user_may_do_everything() {
    let policy = policy("");
    for uid in [0, DAEMON] {
        for op in Operation::ALL {
            let grant = granted(&policy, &peer(uid), &Ask::of(op)).unwrap();
            assert!(!grant.own_only && grant.rule.is_none());
            assert_eq!(grant.assert_address, Some(AssertAddress::Yes));
        }
        assert!(
            Wanted { subject: "anyone", kind: Kind::Machine, scopes: &["*"], ttl_secs: 1 << 40, profile: None }
                .by(&policy, &peer(uid))
        );
    }
}

#[test]
fn a_containers_root_is_an_ordinary_peer() {
    let policy = policy(
        "[[policy]]\nname = \"c\"\npeer = { container = \"docker-*\" }\nallow = [\"validate\"]\n\
         [[policy]]\nname = \"root\"\npeer = { user = \"root\" }\nallow = [\"status\"]\n",
    );
    for uid in [0, DAEMON] {
        let peer = in_container(uid, "docker-0123");
        assert!(!policy.standing(&peer).full);
        assert!(may(&policy, &peer, Operation::Validate));
        // Its uid 0 is not the host's, whatever a rule for root says.
        assert!(!may(&policy, &peer, Operation::Status));
        assert!(policy.standing(&in_container(uid, "libpod-1")).ruleless());
        // It is not known where it is: nothing, and no pattern matches that.
        assert!(policy.standing(&in_container(uid, "?")).ruleless());
    }
    assert!(needed(&policy, &in_container(0, "libpod-1"), &Ask::of(Operation::Status)).contains("name the container"));
}

#[test]
fn in_the_daemons_own_container_root_is_root() {
    let own = Own { container: Some("docker-A".into()), ..own() };
    let (policy, _) = Policy::resolve(&config(""), &names(), own);
    assert!(policy.standing(&in_container(0, "docker-A")).full);
    assert!(!policy.standing(&in_container(0, "docker-B")).full);
    assert!(!policy.standing(&in_container(0, "?")).full);
    // Even if the daemon does not know where it is itself.
    let own = Own { container: Some("?".into()), ..self::own() };
    let (policy, _) = Policy::resolve(&config(""), &names(), own);
    assert!(!policy.standing(&in_container(0, "?")).full);
}

#[test]
fn a_container_can_take_any_uid_so_there_it_names_nobody() {
    let policy = policy(
        "[[policy]]\nname = \"alice\"\npeer = { user = \"alice\" }\nallow = [\"status\"]\n\
         [[policy]]\nname = \"developers\"\npeer = { group = \"developers\" }\nallow = [\"audit\"]\n\
         [[policy]]\nname = \"app\"\npeer = { user = \"alice\", container = \"docker-app*\" }\nallow = [\"validate\"]\n\
         [[policy]]\nname = \"unit\"\npeer = { user = \"alice\", unit = \"app.service\" }\nallow = [\"show\"]\n\
         [[policy]]\nname = \"all\"\npeer = \"*\"\nallow = [\"list\"]\n",
    );
    let host = in_groups(ALICE, &[DEVELOPERS, CLIENTS]);
    assert!(may(&policy, &host, Operation::Status) && may(&policy, &host, Operation::Audit));
    let forged = Peer { container: Some("docker-app1".into()), ..host.clone() };
    assert!(!may(&policy, &forged, Operation::Status) && !may(&policy, &forged, Operation::Audit));
    assert!(!policy.standing(&forged).clients);
    // Where the container or the unit is named with it, or nobody is.
    assert!(may(&policy, &forged, Operation::Validate) && may(&policy, &forged, Operation::List));
    let within =
        Peer { unit: Some("app.service".into()), container: Some("app.service/libpod-1".into()), ..host.clone() };
    assert!(may(&policy, &within, Operation::Show) && !may(&policy, &within, Operation::Status));
    // A user's own container, by which she can become nobody else.
    let rootless =
        Peer { unit: Some("user@1000.service".into()), container: Some("user@1000.service/libpod-1".into()), ..host };
    assert!(may(&policy, &rootless, Operation::Status));
    // She, and neither her groups nor her other uids.
    assert!(!may(&policy, &rootless, Operation::Audit) && !policy.standing(&rootless).clients);
    let other = Peer { unit: Some("user@1001.service".into()), ..rootless.clone() };
    assert!(!may(&policy, &other, Operation::Status));
    let other = Peer {
        unit: Some("user@1001.service".into()),
        container: Some("user@1001.service/libpod-1".into()),
        ..rootless.clone()
    };
    assert!(!may(&policy, &other, Operation::Status));
    // But not what merely calls itself so.
    let forged = Peer { unit: Some("docker-1.scope".into()), ..rootless.clone() };
    assert!(!may(&policy, &forged, Operation::Status));
    let forged = Peer { unit: None, ..rootless };
    assert!(!may(&policy, &forged, Operation::Status));
}

#[test]
fn a_user_can_not_pass_for_a_container_of_the_host() {
    let policy = policy("[[policy]]\nname = \"c\"\npeer = { container = \"docker-prod*\" }\nallow = [\"validate\"]\n");
    assert!(may(&policy, &in_container(ALICE, "docker-prod"), Operation::Validate));
    assert!(!may(&policy, &in_container(ALICE, "user@1000.service/docker-prod"), Operation::Validate));
}

#[test]
fn clients_may_validate_and_nothing_else() {
    let policy = policy("");
    for peer in [in_groups(ALICE, &[1, CLIENTS]), Peer { gid: CLIENTS, ..peer(ALICE) }] {
        let standing = policy.standing(&peer);
        assert!(standing.clients && !standing.ruleless() && !standing.full);
        for op in Operation::ALL {
            assert_eq!(may(&policy, &peer, op), op == Operation::Validate, "{op}");
        }
        let grant = granted(&policy, &peer, &Ask::validate(&["any:thing"])).unwrap();
        assert_eq!((grant.rule, grant.assert_address), (None, None));
    }
    let (without, warnings) = Policy::resolve(&config(""), &FakeNames::default(), own());
    assert_eq!(warnings, [], "no such group = nobody");
    assert!(without.standing(&in_groups(ALICE, &[CLIENTS])).ruleless());
}

#[test]
fn an_unmapped_uid_matches_only_the_star() {
    let text = |peer: &str| format!("[[policy]]\nname = \"r\"\npeer = {peer}\nallow = [\"validate\"]\n");
    for uid in [UID_NOBODY, u32::MAX] {
        let nobody = Peer { unit: Some("a.service".into()), gid: CLIENTS, ..peer(uid) };
        for (rule, matches) in [
            ("\"*\"", true),
            ("{ user = \"*\" }", true),
            ("{ user = \"*\", group = \"*\" }", true),
            ("{ unit = \"*\" }", false),
            ("{ unit = \"a.service\" }", false),
            ("{ user = \"*\", unit = \"a.service\" }", false),
            ("{ group = \"developers\" }", false),
        ] {
            let policy = policy(&text(rule));
            assert_eq!(!policy.standing(&nobody).rules.is_empty(), matches, "{uid} {rule}");
            assert!(!policy.standing(&nobody).clients);
        }
        // Not even as the daemon's own uid.
        let (policy, _) = Policy::resolve(&config(""), &names(), Own { uid, ..own() });
        assert!(!policy.standing(&peer(uid)).full);
    }
    // A user of that uid can't be named at all.
    let (_, warnings) = Policy::resolve(&config(&text("{ user = \"nobody\" }")), &names(), own());
    assert!(warnings[0].text.contains("nobody in particular"), "{warnings:?}");
}

#[test]
fn all_that_a_rule_says_of_the_peer_must_hold() {
    let policy = policy(
        "[[policy]]\nname = \"r\"\npeer = { user = \"alice\", group = \"developers\", unit = \"app@*.service\" }\nallow = [\"validate\"]\n",
    );
    let whole = Peer { unit: Some("app@1.service".into()), ..in_groups(ALICE, &[DEVELOPERS]) };
    assert!(may(&policy, &whole, Operation::Validate));
    for short in [
        Peer { uid: 1001, ..whole.clone() },
        Peer { groups: [].into(), ..whole.clone() },
        Peer { unit: Some("other.service".into()), ..whole.clone() },
        Peer { unit: None, ..whole.clone() },
        Peer { tcp: true, ..whole },
    ] {
        assert!(!may(&policy, &short, Operation::Validate), "{short:?}");
    }
}

#[test]
fn a_group_is_the_primary_or_a_supplementary_one() {
    let policy = policy("[[policy]]\nname = \"r\"\npeer = { group = \"developers\" }\nallow = [\"validate\"]\n");
    assert!(may(&policy, &Peer { gid: DEVELOPERS, ..peer(ALICE) }, Operation::Validate));
    assert!(may(&policy, &in_groups(ALICE, &[7, DEVELOPERS]), Operation::Validate));
    assert!(!may(&policy, &in_groups(ALICE, &[7]), Operation::Validate));
}

#[test]
fn a_unit_rule_needs_an_attested_unit() {
    let policy = policy("[[policy]]\nname = \"r\"\npeer = { unit = \"*\" }\nallow = [\"validate\"]\n");
    assert!(may(&policy, &in_unit(ALICE, "nginx.service"), Operation::Validate));
    assert!(policy.standing(&peer(ALICE)).ruleless());
}

#[test]
fn tcp_is_matched_by_tcp_alone() {
    let policy = policy(
        "[[policy]]\nname = \"t\"\npeer = { tcp = true }\nallow = [\"validate\"]\n\
         [[policy]]\nname = \"a\"\npeer = \"*\"\nallow = [\"status\"]\n",
    );
    // Whatever stands in its other fields: nothing of it is attested.
    let tcp = Peer { tcp: true, ..in_groups(0, &[CLIENTS]) };
    let standing = policy.standing(&tcp);
    assert!(!standing.full && !standing.clients);
    assert!(may(&policy, &tcp, Operation::Validate) && !may(&policy, &tcp, Operation::Status));
    assert!(!may(&policy, &peer(ALICE), Operation::Validate) && may(&policy, &peer(ALICE), Operation::Status));
}

#[test]
fn own_is_only_for_the_peers_tokens() {
    let policy = for_alice("allow = [\"revoke:own\", \"list:own\", \"show\"]");
    let alice = peer(ALICE);
    let ask = |op, own| granted(&policy, &alice, &Ask::to_token(op, own)).map(|grant| grant.own_only);
    assert_eq!(ask(Operation::Revoke, Ownership::Own), Some(true));
    assert_eq!(ask(Operation::Revoke, Ownership::NotOwn), None);
    assert_eq!(ask(Operation::List, Ownership::Undecided), Some(true));
    assert_eq!(ask(Operation::Show, Ownership::NotOwn), Some(false));
    assert_eq!(ask(Operation::Show, Ownership::Undecided), Some(false));
    assert_eq!(ask(Operation::Renew, Ownership::Own), None);
    let text = needed(&policy, &alice, &Ask::to_token(Operation::Revoke, Ownership::NotOwn));
    assert!(text.contains("\"revoke:own\", and the token is another's"), "{text}");
}

#[test]
fn a_grant_for_all_goes_before_one_for_the_own() {
    let policy = policy(
        "[[policy]]\nname = \"own\"\npeer = { user = \"alice\" }\nallow = [\"list:own\"]\n\
         [[policy]]\nname = \"all\"\npeer = { group = \"developers\" }\nallow = [\"list\"]\n",
    );
    let ask = Ask::to_token(Operation::List, Ownership::Undecided);
    let grant = granted(&policy, &in_groups(ALICE, &[DEVELOPERS]), &ask).unwrap();
    assert_eq!((grant.rule.as_deref(), grant.own_only), (Some("all"), false));
    assert!(granted(&policy, &peer(ALICE), &ask).unwrap().own_only);
}

#[test]
fn validate_is_bounded_by_scopes_only_where_a_rule_has_some() {
    let any = for_alice("allow = [\"validate\"]");
    let some = for_alice("allow = [\"validate\"]\nscopes = [\"repo:*\"]");
    let none = for_alice("allow = [\"validate\"]\nscopes = []");
    let asks = |policy: &Policy, scopes: &[&str]| granted(policy, &peer(ALICE), &Ask::validate(scopes)).is_some();
    assert!(asks(&any, &[]) && asks(&any, &["x", "y:z"]));
    assert!(asks(&some, &[]) && asks(&some, &["repo:read", "repo:a:b"]));
    assert!(!asks(&some, &["repo"]) && !asks(&some, &["repo:read", "x"]));
    assert!(asks(&none, &[]) && !asks(&none, &["x"]));
}

#[test]
fn what_a_rule_leaves_out_is_narrow() {
    // subjects = the peer itself, kinds = session, scopes = none, max_ttl = the kind's default.
    let policy = for_alice("allow = [\"issue\"]");
    let alice = peer(ALICE);
    assert!(Wanted::default().by(&policy, &alice));
    assert!(!Wanted { subject: "bob", ..Wanted::default() }.by(&policy, &alice));
    assert!(!Wanted { kind: Kind::Machine, ..Wanted::default() }.by(&policy, &alice));
    assert!(!Wanted { kind: Kind::Canary, ..Wanted::default() }.by(&policy, &alice));
    assert!(!Wanted { scopes: &["repo:read"], ..Wanted::default() }.by(&policy, &alice));
    assert!(!Wanted { ttl_secs: 15 * 60 + 1, ..Wanted::default() }.by(&policy, &alice));
    // A profile is no bound by itself.
    assert!(Wanted { profile: Some("ci"), ..Wanted::default() }.by(&policy, &alice));
    // Nobody else, and nothing else.
    assert!(!Wanted::default().by(&policy, &peer(1001)));
    assert!(!may(&policy, &alice, Operation::Import));
    // Without the facts there is no permission.
    assert!(!may(&policy, &alice, Operation::Issue));
}

#[test]
fn what_a_rule_names_may_be_issued() {
    let policy = for_alice(
        "allow = [\"issue\"]\nsubjects = [\"@user\", \"ci-*\"]\nkinds = [\"machine\", \"canary\"]\nscopes = [\"repo:*\", \"ci:run\"]\nmax_ttl = \"30d\"",
    );
    let alice = peer(ALICE);
    let machine = |subject, scopes| Wanted { subject, scopes, kind: Kind::Machine, ..Wanted::default() };
    assert!(machine("alice", &["repo:read", "ci:run"]).by(&policy, &alice));
    assert!(machine("ci-1", &["repo:*", "repo:sub:*"]).by(&policy, &alice));
    assert!(!machine("bob", &[]).by(&policy, &alice));
    // `@user` is the peer's name, not a text.
    assert!(!machine("@user", &[]).by(&policy, &alice));
    assert!(!machine("alice", &["*"]).by(&policy, &alice));
    assert!(!machine("alice", &["repo"]).by(&policy, &alice));
    assert!(!machine("alice", &["repo:read", "ci:stop"]).by(&policy, &alice));
    assert!(!Wanted::default().by(&policy, &alice), "session is no longer among the kinds");
    let day = 24 * 60 * 60;
    assert!(Wanted { ttl_secs: 30 * day, ..machine("alice", &[]) }.by(&policy, &alice));
    assert!(!Wanted { ttl_secs: 30 * day + 1, ..machine("alice", &[]) }.by(&policy, &alice));
    // A canary has no life that could be too long.
    assert!(Wanted { kind: Kind::Canary, ..machine("alice", &[]) }.by(&policy, &alice));
}

#[test]
fn a_life_must_be_said_but_for_a_canary() {
    let policy = for_alice("allow = [\"issue\"]\nmax_ttl = \"1h\"");
    let scopes = ScopeSet::default();
    let issue = IssueAsk {
        subject: "alice",
        own_name: "alice",
        kind: Kind::Session,
        scopes: &scopes,
        ttl: None,
        profile: None,
    };
    assert!(needed(&policy, &peer(ALICE), &Ask::issue(issue)).contains("lacks: a ttl (at most 1h)"));
}

#[test]
fn profiles_bound_where_they_are_given() {
    let policy = for_alice("allow = [\"issue\"]\nprofiles = [\"ci\"]\n[profile.ci]\n[profile.other]\n");
    let alice = peer(ALICE);
    assert!(Wanted { profile: Some("ci"), ..Wanted::default() }.by(&policy, &alice));
    assert!(!Wanted { profile: Some("other"), ..Wanted::default() }.by(&policy, &alice));
    assert!(!Wanted::default().by(&policy, &alice));
    // A profile lifts no bound.
    assert!(!Wanted { profile: Some("ci"), kind: Kind::Machine, ..Wanted::default() }.by(&policy, &alice));
}

#[test]
fn the_bounds_of_two_rules_never_add_up() {
    let policy = policy(
        "[[policy]]\nname = \"a\"\npeer = { user = \"alice\" }\nallow = [\"issue\"]\nscopes = [\"a\"]\nmax_ttl = \"8h\"\n\
         [[policy]]\nname = \"b\"\npeer = { user = \"alice\" }\nallow = [\"issue\"]\nscopes = [\"b\"]\n",
    );
    let alice = peer(ALICE);
    assert!(Wanted { scopes: &["a"], ..Wanted::default() }.by(&policy, &alice));
    assert!(Wanted { scopes: &["b"], ..Wanted::default() }.by(&policy, &alice));
    assert!(!Wanted { scopes: &["a", "b"], ..Wanted::default() }.by(&policy, &alice));
    assert!(!Wanted { scopes: &["b"], ttl_secs: 3600, ..Wanted::default() }.by(&policy, &alice));
}

#[test]
fn the_word_about_addresses_is_taken_where_a_rule_says_so() {
    let policy = policy(
        "[[policy]]\nname = \"any\"\npeer = \"*\"\nallow = [\"validate\"]\n\
         [[policy]]\nname = \"proxy\"\npeer = { unit = \"nginx.service\" }\nallow = [\"validate\"]\nassert_address = \"x-real-ip\"\n",
    );
    let of = |peer: &Peer| granted(&policy, peer, &Ask::validate(&[])).unwrap();
    assert_eq!(of(&peer(ALICE)).assert_address, None);
    let grant = of(&in_unit(33, "nginx.service"));
    assert_eq!((grant.rule.as_deref(), grant.assert_address), (Some("proxy"), Some(AssertAddress::XRealIp)));
    // For root as well, where a rule names what speaks.
    assert_eq!(of(&in_unit(0, "nginx.service")).assert_address, Some(AssertAddress::XRealIp));
    assert_eq!(of(&peer(0)).assert_address, Some(AssertAddress::Yes));
}

#[test]
fn what_does_not_resolve_matches_nothing_and_is_said() {
    let text = "[[policy]]\nname = \"r\"\npeer = { user = \"ghost\" }\nallow = [\"validate\"]\n\
                [[policy]]\nname = \"s\"\npeer = { group = \"ghosts\", user = \"*\" }\nallow = [\"validate\"]\n";
    let (policy, warnings) = Policy::resolve(&config(text), &names(), own());
    assert!(policy.is_unresolved());
    let lines: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].contains("bearerd.toml:1: the user \"ghost\" does not exist"), "{lines:?}");
    assert!(lines[1].contains("the group \"ghosts\" does not exist"), "{lines:?}");
    for uid in [ALICE, u32::MAX, UID_NOBODY] {
        assert!(policy.standing(&peer(uid)).ruleless());
    }
    // Later they are there.
    let names = FakeNames { users: vec![("ghost", 77)], groups: vec![("ghosts", 78)], broken: false };
    let (later, warnings) = Policy::resolve(&config(text), &names, own());
    assert!(warnings.is_empty() && !later.is_unresolved() && later != policy);
    assert!(may(&later, &peer(77), Operation::Validate));
}

#[test]
fn a_directory_that_does_not_answer_opens_nothing() {
    let text = "[[policy]]\nname = \"r\"\npeer = { user = \"alice\" }\nallow = [\"validate\"]\n";
    let (policy, warnings) = Policy::resolve(&config(text), &FakeNames { broken: true, ..names() }, own());
    assert_eq!(warnings.len(), 2, "the rule's user and the group of clients: {warnings:?}");
    assert!(policy.is_unresolved());
    assert!(policy.standing(&in_groups(ALICE, &[CLIENTS])).ruleless());
    // Numbers and root need no directory.
    assert!(policy.standing(&peer(0)).full);
}

#[test]
fn a_denial_says_what_was_needed() {
    let policy = policy(
        "[[policy]]\nname = \"watchers\"\npeer = { user = \"alice\" }\nallow = [\"watch\"]\n\
         [[policy]]\nname = \"developers\"\npeer = { user = \"alice\" }\nallow = [\"issue\"]\nscopes = [\"repo:read\"]\n",
    );
    let scopes = ScopeSet::parse(&["repo:write"]).unwrap();
    let issue = IssueAsk {
        subject: "alice",
        own_name: "alice",
        kind: Kind::Session,
        scopes: &scopes,
        ttl: Some(Duration::from_secs(3600)),
        profile: None,
    };
    let text = needed(&policy, &in_unit(ALICE, "a\n.service"), &Ask::issue(issue));
    assert!(
        text.starts_with(
            "no rule allows \"issue\" of a session token for \"alice\" for uid 1000 gid 1000 unit \"a\\n.service\""
        ),
        "{text}"
    );
    assert!(text.contains("nearest rule \"developers\" ("), "{text}");
    assert!(text.ends_with("lacks: scope \"repo:write\", max_ttl 1h (it has 15m)"), "{text}");
    let text = needed(&policy, &peer(1001), &Ask::of(Operation::Admin));
    assert_eq!(text, "no rule allows \"admin\" for uid 1001 gid 1001; no rule is for this peer");
}

#[test]
fn a_standing_of_another_policy_grants_nothing_that_is_not_there() {
    let standing = for_alice("allow = [\"admin\"]").standing(&peer(ALICE));
    assert!(matches!(policy("").decide(&peer(ALICE), &standing, &Ask::of(Operation::Admin)), Decision::Denied { .. }));
}

/// Each operation of each rule is what grants it: without it nothing is left.
#[test]
fn each_operation_is_granted_by_its_word_alone() {
    for op in Operation::ALL {
        let policy = for_alice(&format!("allow = [\"{op}\"]"));
        for asked in Operation::ALL {
            // Issue and import need their facts.
            let scopes = ScopeSet::default();
            let facts = IssueAsk {
                subject: "alice",
                own_name: "alice",
                kind: Kind::Session,
                scopes: &scopes,
                ttl: Some(Duration::from_secs(60)),
                profile: None,
            };
            let ask = Ask { issue: Some(facts), ..Ask::of(asked) };
            assert_eq!(granted(&policy, &peer(ALICE), &ask).is_some(), op == asked, "{op} {asked}");
        }
    }
}
