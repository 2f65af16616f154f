//! An ordinary user's own tokens: what a rule with `:own` gives, and where it ends. Peers of any uid, in this process.

mod daemon;
mod within;

use std::time::Duration;

use bearerd::protocol::code::{ErrorCode, Reason};
use bearerd::protocol::message::{Answer, Ask, Ends, Failure, Filter, Issue, List, Revoke, State, Which};
use bearerd::token::Kind;
use within::{ALICE, BOB, DAY, HOUR, STRANGER, User, Within, code, handle_of, named};

const RULES: &str = r#"
[profile.ci]
kind = "session"
scopes = ["repo:*"]
ttl = "1h"
labels = { made-by = "ci" }
[[policy]]
name = "people"
peer = { user = 1000 }
allow = ["issue", "show:own", "list:own", "renew:own", "rotate:own", "revoke:own", "edit:own", "suspend:own"]
kinds = ["session"]
scopes = ["repo:*"]
max_ttl = "8h"
[[policy]]
name = "others"
peer = { user = 1001 }
allow = ["issue", "show:own", "list:own", "renew:own", "rotate:own", "revoke:own", "edit:own", "suspend:own"]
kinds = ["session", "machine"]
scopes = ["repo:*"]
max_ttl = "1h"
profiles = ["ci"]
"#;

fn session(name: &str) -> Issue {
    Issue { kind: Some(Kind::Session), ttl: Some(HOUR), scopes: vec!["repo:read".into()], ..named(name) }
}

async fn listed(user: &User) -> Vec<String> {
    let list = List { limit: 100, filter: Filter::default(), after: None };
    match user.ask(Ask::List(list)).await {
        Answer::Tokens(page) => page.tokens.iter().map(|info| info.facts.id.to_string()).collect(),
        _ => panic!("no list"),
    }
}

/// What each verb says of a token.
async fn tried(within: &Within, user: &User, id: &str) -> Vec<(ErrorCode, String)> {
    let mut said = Vec::new();
    let mut say = |failure: Failure| {
        said.push((failure.code, failure.message));
        // Like refusals of one second are one line in the trail.
        within.hands.pass(Duration::from_secs(2));
    };
    say(user.show(id).await.err().unwrap());
    say(user.renew(id).await.err().unwrap());
    say(user.rotate(id).await.err().unwrap());
    say(user.edit(id, |edit| edit.name = Some("x".into())).await.err().unwrap());
    say(user.suspend(&[id]).await.err().unwrap());
    say(user.resume(&[id]).await.err().unwrap());
    say(user.revoke(&[id]).await.err().unwrap());
    said
}

#[tokio::test]
async fn a_user_does_it_all_to_its_own() {
    let within = Within::start(RULES);
    let (alice, root) = (within.user(ALICE), within.root());
    let token = alice.token(session("laptop")).await;
    let id = handle_of(&token);
    let shown = alice.show(id).await.unwrap();
    assert_eq!(
        (shown.facts.subject.as_str(), shown.facts.issuer.as_str(), shown.facts.issuer_uid),
        ("alice", "alice", ALICE)
    );
    assert_eq!(listed(&alice).await, [id]);
    within.hands.pass(Duration::from_secs(60));
    assert!(alice.renew(id).await.unwrap().facts.expires_at > shown.facts.expires_at);
    let edited = alice
        .edit(id, |edit| {
            edit.name = Some("old laptop".into());
            edit.allow_from = Some(vec!["10.0.0.0/8".into()]);
            edit.ends = Some(Ends::In(HOUR / 2));
        })
        .await
        .unwrap();
    assert_eq!((edited.facts.name.as_str(), edited.facts.allow_from.len()), ("old laptop", 1));
    // Its issuer may lift what it set itself.
    assert!(alice.edit(id, |edit| edit.allow_from = Some(Vec::new())).await.unwrap().facts.allow_from.is_empty());
    assert_eq!(alice.suspend(&[id]).await.unwrap().count, 1);
    assert_eq!(root.validate(&token).await.reason, Some(Reason::Suspended));
    assert_eq!(alice.resume(&[id]).await.unwrap().count, 1);
    let new = alice.rotate(id).await.unwrap();
    assert_eq!((new.info.facts.issuer_uid, new.info.facts.subject.as_str()), (ALICE, "alice"));
    assert_eq!(alice.revoke(&[id]).await.unwrap().count, 1);
    assert!(root.peek(new.token.expose()).await.active && !root.validate(&token).await.active);
    within.stop().await;
}

/// Another's token and none look alike, whoever issued it and however it is named.
#[tokio::test]
async fn anothers_token_and_none_look_alike() {
    let within = Within::start(RULES);
    let (alice, bob, root) = (within.user(ALICE), within.user(BOB), within.root());
    let bobs = bob.token(Issue { profile: Some("ci".into()), ..named("ci") }).await;
    let roots = root.token(named("backup")).await;
    let nobodys = "01M844DZG0FAY828T5CY4TQKFF";
    let none = tried(&within, &alice, nobodys).await;
    assert!(none.iter().all(|(code, _)| *code == ErrorCode::NotPermitted), "{none:?}");
    for token in [&bobs, &roots] {
        let id = handle_of(token);
        assert_eq!(tried(&within, &alice, id).await, none);
        assert_eq!(tried(&within, &alice, &id[..16]).await, none);
        assert_eq!(within.state(id), State::Active);
    }
    assert_eq!(tried(&within, &alice, &nobodys[..16]).await, none);
    assert_eq!(listed(&alice).await, Vec::<String>::new());
    // All or nothing.
    let own = alice.token(session("laptop")).await;
    assert_eq!(code(alice.suspend(&[handle_of(&own), handle_of(&bobs)]).await), ErrorCode::NotPermitted);
    assert_eq!(within.state(handle_of(&own)), State::Active);
    // Whom no rule is for learns the same.
    assert_eq!(tried(&within, &within.user(STRANGER), handle_of(&own)).await, none);
    // The administrator reads what would have been needed.
    let denials = within.denials().await;
    for operation in ["show", "renew", "rotate", "edit", "suspend", "revoke"] {
        let says = format!("{operation:?} in allow (it has \"{operation}:own\", and the token is another's)");
        assert!(denials.iter().any(|note| note.starts_with(operation) && note.contains(&says)), "{says}: {denials:?}");
    }
    within.stop().await;
}

/// Own is by uid and by name as stored: neither a later user of the name nor one of the uid inherits.
#[tokio::test]
async fn a_later_user_of_the_name_inherits_nothing() {
    let within = Within::start(RULES);
    let alice = within.user(ALICE);
    let token = alice.token(session("laptop")).await;
    let id = handle_of(&token);
    within.change(id, |record| (record.issuer_uid, record.subject_uid) = (4242, Some(4242))).await;
    assert!(tried(&within, &alice, id).await.iter().all(|(code, _)| *code == ErrorCode::NotPermitted));
    within
        .change(id, |record| {
            (record.issuer_uid, record.subject_uid) = (ALICE, Some(ALICE));
            (record.issuer, record.subject) = ("alicia".into(), "alicia".into());
        })
        .await;
    assert!(tried(&within, &alice, id).await.iter().all(|(code, _)| *code == ErrorCode::NotPermitted));
    within.stop().await;
}

/// Every limit of the rule holds, and the administrator reads which it was; the peer is told that it is not permitted.
#[tokio::test]
async fn every_bound_of_a_rule_holds_and_is_named_to_the_administrator() {
    let within = Within::start(RULES);
    let (alice, bob) = (within.user(ALICE), within.user(BOB));
    let by_profile = || Issue { profile: Some("ci".into()), ..named("x") };
    let bad: [(&User, Issue, &str); 7] = [
        (&alice, Issue { ttl: Some(9 * HOUR), ..session("x") }, "max_ttl 9h (it has 8h)"),
        (&alice, Issue { kind: Some(Kind::Machine), ..session("x") }, "kind \"machine\""),
        (&alice, Issue { kind: Some(Kind::Canary), ttl: None, ..session("x") }, "kind \"canary\""),
        (&alice, Issue { scopes: vec!["repo:read".into(), "admin".into()], ..session("x") }, "scope \"admin\""),
        (&alice, Issue { subject: Some("bob".into()), ..session("x") }, "subject \"bob\""),
        (&bob, Issue { kind: Some(Kind::Session), ..named("x") }, "a profile in the request"),
        (&bob, Issue { subject: Some("alice".into()), ..by_profile() }, "subject \"alice\""),
    ];
    for (user, request, needed) in bad {
        let refused = user.issue(request).await.err().expect(needed);
        assert_eq!(refused.code, ErrorCode::NotPermitted, "{needed}");
        assert!(refused.message.starts_with("not permitted") && !refused.message.contains(needed), "{refused}");
        let denials = within.denials().await;
        assert!(denials.last().unwrap().contains(needed), "{needed} is not in {denials:?}");
        // Lines of like refusals are counted together within a second.
        within.hands.pass(Duration::from_secs(2));
    }
    assert_eq!(listed(&alice).await, Vec::<String>::new());
    within.stop().await;
}

/// `[limits]` are for each uid, named in the refusal, and not for peers with full rights.
#[tokio::test]
async fn limits_are_named() {
    let within = Within::start(&format!("[limits]\ntokens_per_uid = 2\nissue_per_uid = \"4/1h\"\n{RULES}"));
    let (alice, root) = (within.user(ALICE), within.root());
    let mut tokens = Vec::new();
    for _ in 0..2 {
        tokens.push(alice.token(session("x")).await);
    }
    let refused = alice.issue(session("x")).await.err().unwrap();
    assert_eq!(refused.code, ErrorCode::LimitReached);
    assert!(refused.message.contains("tokens_per_uid (2) of [limits]"), "{refused}");
    alice.revoke(&[handle_of(&tokens[0])]).await.unwrap();
    alice.token(session("x")).await;
    let refused = alice.issue(session("x")).await.err().unwrap();
    assert!(refused.message.contains("issue_per_uid (4) of [limits]"), "{refused}");
    // The quota is of those that have not ended: time makes room, too.
    within.hands.pass(2 * HOUR);
    alice.token(session("x")).await;
    for _ in 0..5 {
        root.token(named("x")).await;
    }
    within.stop().await;
}

/// What its issuer set, its holder does not lift: networks, units, uids, and the mark of a profile.
#[tokio::test]
async fn a_holder_does_not_lift_what_the_issuer_set() {
    let within = Within::start(RULES);
    let (alice, bob, root) = (within.user(ALICE), within.user(BOB), within.root());
    let bound = Issue { subject: Some("alice".into()), allow_from: vec!["10.0.0.0/8".into()], ..named("vpn") };
    let token = root.token(bound).await;
    let id = handle_of(&token);
    assert_eq!(alice.show(id).await.unwrap().facts.subject, "alice");
    for wider in [Vec::new(), vec!["0.0.0.0/0".to_owned()]] {
        assert_eq!(code(alice.edit(id, |edit| edit.allow_from = Some(wider)).await), ErrorCode::NotPermitted);
    }
    let narrowed = alice.edit(id, |edit| edit.allow_from = Some(vec!["10.1.0.0/16".into()])).await.unwrap();
    assert_eq!(narrowed.facts.allow_from, ["10.1.0.0/16"]);
    assert!(within.denials().await.iter().any(|note| note.contains("to be the token's issuer")));

    let token = bob.token(Issue { profile: Some("ci".into()), ..named("ci") }).await;
    assert_eq!(
        code(bob.edit(handle_of(&token), |edit| edit.unlabel = vec!["made-by".into()]).await),
        ErrorCode::NotPermitted
    );
    // A successor has it, too.
    let new = bob.rotate(handle_of(&token)).await.unwrap();
    assert_eq!((new.info.facts.labels["made-by"].as_str(), new.info.facts.profile.as_deref()), ("ci", Some("ci")));
    root.edit(handle_of(&token), |edit| edit.unlabel = vec!["made-by".into()]).await.unwrap();
    within.stop().await;
}

/// "edit: name, labels, networks, units; scopes and expiry only narrower", and each is told in the trail.
#[tokio::test]
async fn an_edit_takes_away_and_never_gives() {
    let within = Within::start("");
    let root = within.root();
    let token =
        root.token(Issue { scopes: vec!["repo:*".into(), "ci".into()], ttl: Some(10 * DAY), ..named("x") }).await;
    let id = handle_of(&token);
    let less = root.edit(id, |edit| edit.scopes = Some(vec!["repo:read".into()])).await.unwrap();
    assert_eq!(less.facts.scopes, ["repo:read"]);
    assert_eq!(code(root.edit(id, |edit| edit.scopes = Some(vec!["repo:*".into()])).await), ErrorCode::BadRequest);
    assert_eq!(code(root.edit(id, |edit| edit.scopes = Some(Vec::new())).await), ErrorCode::BadRequest);
    let ends = within.now().saturating_add(DAY);
    assert_eq!(root.edit(id, |edit| edit.ends = Some(Ends::At(ends))).await.unwrap().facts.expires_at, Some(ends));
    assert_eq!(code(root.edit(id, |edit| edit.ends = Some(Ends::In(2 * DAY))).await), ErrorCode::BadRequest);
    assert_eq!(code(root.edit(id, |_| {}).await), ErrorCode::BadRequest);
    let lines = within.lines(id, "edit").await;
    assert_eq!((lines.len(), &lines[0]["scopes"][0]), (2, &"repo:read".into()));
    assert!(lines[1]["note"].as_str().unwrap().contains("expiry, now "));
    within.hands.pass(DAY);
    assert_eq!(root.validate(&token).await.reason, Some(Reason::Expired));
    assert_eq!(code(root.edit(id, |edit| edit.name = Some("y".into())).await), ErrorCode::WrongState);
    // So many of each as a token may have, and no more.
    let token = root.token(named("y")).await;
    let id = handle_of(&token);
    let many = |n: usize| (0..n).map(|i| format!("10.0.{i}.0/24")).collect::<Vec<_>>();
    assert!(root.edit(id, |edit| edit.allow_from = Some(many(64))).await.is_ok());
    assert_eq!(code(root.edit(id, |edit| edit.allow_from = Some(many(65))).await), ErrorCode::BadRequest);
    let labels = |n: usize| (0..n).map(|i| (format!("k{i}"), String::new())).collect();
    assert!(root.edit(id, |edit| edit.labels = labels(32)).await.is_ok());
    assert_eq!(
        code(root.edit(id, |edit| edit.labels = [("one-more".into(), String::new())].into()).await),
        ErrorCode::BadRequest
    );
    within.stop().await;
}

/// Whoever holds a token may end it, and nothing else.
#[tokio::test]
async fn a_holder_without_a_rule_may_end_it_and_nothing_else() {
    let within = Within::start(RULES);
    let stranger = within.user(STRANGER);
    let token = within.root().token(named("found")).await;
    assert!(
        tried(&within, &stranger, handle_of(&token)).await.iter().all(|(code, _)| *code == ErrorCode::NotPermitted)
    );
    let revoke = Revoke { which: Which::Token(&token), reason: None, dry_run: false };
    assert_eq!(within::changed(stranger.ask(Ask::Revoke(revoke)).await).unwrap().count, 1);
    within.stop().await;
}

/// By the programs, as other users.
#[test]
#[ignore = "needs root"]
fn root_users_look_after_their_own_by_the_programs() {
    let daemon = daemon::Daemon::start_with(RULES);
    let request = ["issue", "laptop", "--scope", "repo:read", "--ttl", "1h"];
    let token = daemon.ctl_as(ALICE, "", &request).exits(0).line();
    let id = daemon::id_of(&token);
    let verbs: [&[&str]; 7] = [
        &["show", &id],
        &["edit", &id, "--name", "old laptop"],
        &["renew", &id],
        &["suspend", &id],
        &["resume", &id],
        &["rotate", &id],
        &["revoke", &id],
    ];
    for verb in verbs {
        let refused = daemon.ctl_as(BOB, "", verb).exits(77);
        let none =
            verb.iter().map(|word| if *word == id { "01M844DZG0FAY828T5CY4TQKFF" } else { word }).collect::<Vec<_>>();
        assert_eq!(daemon.ctl_as(BOB, "", &none).exits(77).stderr, refused.stderr);
    }
    for verb in verbs {
        daemon.ctl_as(ALICE, "", verb).exits(0);
    }
    assert_eq!(daemon.ctl(&["--json", "show", &id]).exits(0).json()["state"], "revoked");
}
