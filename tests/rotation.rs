//! Rotation, renewal and holding: what stands about them in `docs/man/bearerctl.1.md`, sentence by sentence. In one process
//! with time moved by hand, then by the programs themselves.

mod daemon;
mod within;

use std::time::Duration;

use bearerd::protocol::code::{ErrorCode, Reason};
use bearerd::protocol::message::{Ask, Ends, Handle, Issue, Rate, Rotate, State};
use bearerd::token::Kind;
use daemon::Daemon;
use within::{ALICE, DAY, HOUR, MINUTE, Within, code, handle_of, named};

/// Alice may rotate and renew her own, and issue sessions of a day; Bob may do the same, but issue.
const RULES: &str = r#"
[tokens.session]
default_ttl = "1h"
max_ttl = "1d"
max_lifetime = "3d"
[[policy]]
name = "alice"
peer = { user = 1000 }
allow = ["issue", "show:own", "list:own", "renew:own", "rotate:own", "revoke:own", "edit:own", "suspend:own", "validate"]
scopes = ["repo:*"]
max_ttl = "1d"
[[policy]]
name = "bob"
peer = { user = 1001 }
allow = ["show:own", "renew:own", "rotate:own", "validate"]
"#;

fn of_days(days: u32) -> Issue {
    Issue { ttl: Some(days * DAY), ..named("backup") }
}

/// A token of root's, of 30 days, and its id.
async fn token(within: &Within) -> (String, String) {
    let token = within.root().token(of_days(30)).await;
    let id = handle_of(&token).to_owned();
    (token, id)
}

fn now_of(id: &str) -> Rotate {
    Rotate { token: Handle(id.to_owned()), now: true, grace: None }
}

#[tokio::test]
async fn the_successor_is_the_same_token_with_another_secret_and_its_life_again() {
    let within = Within::start("[tokens]\nprefix = \"acme\"\n");
    let root = within.root();
    let request = Issue {
        scopes: vec!["repo:*".into()],
        audiences: vec!["git".into()],
        max_uses: Some(9),
        rate: Some(Rate { count: 100, per: HOUR }),
        allow_from: vec!["10.0.0.0/8".into()],
        allow_uids: vec![7],
        labels: [("team".to_owned(), "web".to_owned())].into(),
        subject: Some("alice".into()),
        ..of_days(30)
    };
    let old = root.issue(request).await.unwrap();
    within.hands.pass(DAY);
    let new = root.rotate(&old.info.facts.id.to_string()).await.unwrap();
    let mut expected = old.info.facts.clone();
    let facts = &new.info.facts;
    assert!(facts.id > expected.id && new.token.expose().starts_with("acmem_"));
    (expected.id, expected.head) = (facts.id, facts.head.clone());
    (expected.issued_at, expected.predecessor) = (within.now(), Some(old.info.facts.id));
    expected.expires_at = Some(within.now().saturating_add(30 * DAY));
    expected.max_expires_at = Some(within.now().saturating_add(366 * DAY));
    assert_eq!(*facts, expected);
    assert_eq!(facts.family, old.info.facts.id);
    // The record's owner stays who it was, by uid too.
    let (before, after) = (within.record(&old.info.facts.id.to_string()), within.record(&facts.id.to_string()));
    assert_eq!((after.subject_uid, after.issuer_uid), (Some(ALICE), before.issuer_uid));
    within.stop().await;
}

/// Uses are the family's: what was spent is not given back.
#[tokio::test]
async fn spent_uses_are_inherited() {
    let within = Within::start("");
    let root = within.root();
    let old = root.token(Issue { max_uses: Some(3), ..of_days(1) }).await;
    assert!(root.validate(&old).await.active && root.validate(&old).await.active);
    let new = root.rotate(handle_of(&old)).await.unwrap();
    assert_eq!((new.info.facts.max_uses, new.info.facts.uses_left), (Some(3), Some(1)));
    within.stop().await;
}

/// "Its lifetime starts afresh only if the peer may issue the like."
#[tokio::test]
async fn the_lifetime_is_afresh_only_for_who_might_issue_the_like() {
    let within = Within::start(RULES);
    let (root, alice, bob) = (within.root(), within.user(ALICE), within.user(within::BOB));
    let session = |subject: &str, scope: &str| Issue {
        kind: Some(Kind::Session),
        subject: Some(subject.into()),
        scopes: vec![scope.into()],
        ttl: Some(DAY),
        ..named("laptop")
    };
    let ids = {
        let mut ids = Vec::new();
        for (subject, scope) in [("alice", "repo:read"), ("alice", "admin"), ("bob", "repo:read")] {
            ids.push(handle_of(&root.token(session(subject, scope)).await).to_owned());
        }
        ids
    };
    within.hands.pass(HOUR);
    let ceilings: Vec<_> = ids.iter().map(|id| within.record(id).max_expires_at).collect();
    let afresh = Some(within.now().saturating_add(3 * DAY));
    // She might issue that one.
    assert_eq!(alice.rotate(&ids[0]).await.unwrap().info.facts.max_expires_at, afresh);
    // But none with that scope.
    assert_eq!(alice.rotate(&ids[1]).await.unwrap().info.facts.max_expires_at, ceilings[1]);
    // He may rotate, and issue nothing.
    assert_eq!(bob.rotate(&ids[2]).await.unwrap().info.facts.max_expires_at, ceilings[2]);
    // What was not asked for is nobody's denial.
    assert_eq!(within.denials().await, Vec::<String>::new());
    // Root might issue any.
    assert_eq!(root.rotate(&ids[1]).await.unwrap().info.facts.max_expires_at, afresh);
    within.stop().await;
}

/// An inherited end bounds the successor's life.
#[tokio::test]
async fn an_inherited_ceiling_bounds_the_successor() {
    let within = Within::start(RULES);
    let bob = within.user(within::BOB);
    let request = Issue { kind: Some(Kind::Session), subject: Some("bob".into()), ttl: Some(DAY), ..named("x") };
    let mut id = handle_of(&within.root().token(request).await).to_owned();
    let ceiling = within.record(&id).max_expires_at.unwrap();
    for _ in 0..3 {
        within.hands.pass(23 * HOUR);
        let new = bob.rotate(&id).await.unwrap();
        id = new.info.facts.id.to_string();
        within.first_use(new.token.expose()).await;
    }
    assert_eq!(within.record(&id).expires_at, Some(ceiling));
    within.hands.pass(4 * HOUR);
    assert_eq!(code(bob.rotate(&id).await), ErrorCode::WrongState);
    within.stop().await;
}

/// "The predecessor stays good until the successor's first use plus grace."
#[tokio::test]
async fn the_predecessor_is_good_until_the_grace_after_the_first_use_is_over() {
    let within = Within::start("[rotation]\ngrace = \"10m\"\noverlap = \"2d\"\n");
    let root = within.root();
    let (old, id) = token(&within).await;
    let new = root.rotate(&id).await.unwrap();
    assert_eq!((new.grace, new.predecessor_ends_at), (10 * MINUTE, Some(within.now().saturating_add(2 * DAY))));
    within.hands.pass(DAY);
    assert!(root.validate(&old).await.active && root.peek(new.token.expose()).await.active);
    assert_eq!(within.state(&id), State::Rotating);
    within.first_use(new.token.expose()).await;
    within.hands.pass(9 * MINUTE);
    assert!(root.validate(&old).await.active);
    within.hands.pass(MINUTE);
    assert_eq!(root.validate(&old).await.reason, Some(Reason::Rotated));
    assert!(root.validate(new.token.expose()).await.active);
    within.stop().await;
}

#[tokio::test]
async fn it_is_good_for_no_longer_than_the_overlap_or_its_own_expiry() {
    let within = Within::start("");
    let root = within.root();
    let (old, id) = token(&within).await;
    root.rotate(&id).await.unwrap();
    within.hands.pass(7 * DAY - MINUTE);
    assert!(root.validate(&old).await.active);
    within.hands.pass(MINUTE);
    assert_eq!(root.validate(&old).await.reason, Some(Reason::Rotated));

    let short = root.token(of_days(1)).await;
    let new = root.rotate(handle_of(&short)).await.unwrap();
    assert_eq!(new.predecessor_ends_at, Some(within.now().saturating_add(DAY)));
    within.hands.pass(DAY);
    assert!(!root.validate(&short).await.active);
    within.stop().await;
}

#[tokio::test]
async fn a_grace_can_be_given_and_now_ends_it_at_once() {
    let within = Within::start("");
    let root = within.root();
    let (old, id) = token(&within).await;
    let grace = |grace| Rotate { token: Handle(id.clone()), now: false, grace: Some(grace) };
    assert_eq!(code(root.rotate_as(grace(7 * DAY + MINUTE)).await), ErrorCode::BadRequest);
    let new = root.rotate_as(grace(HOUR)).await.unwrap();
    within.first_use(new.token.expose()).await;
    within.hands.pass(HOUR - MINUTE);
    assert!(root.validate(&old).await.active);
    within.hands.pass(MINUTE);
    assert!(!root.validate(&old).await.active);

    let (old, id) = token(&within).await;
    let new = root.rotate_as(now_of(&id)).await.unwrap();
    assert_eq!(new.predecessor_ends_at, Some(within.now()));
    assert_eq!(root.validate(&old).await.reason, Some(Reason::Rotated));
    assert!(root.validate(new.token.expose()).await.active);
    within.stop().await;
}

/// "Repeating it on either while the successor is unused replaces the successor, so that a retry can't lock anyone out."
#[tokio::test]
async fn repeating_it_puts_another_successor_in_the_place_of_an_unused_one() {
    let within = Within::start("");
    let root = within.root();
    let (old, id) = token(&within).await;
    let lost = root.rotate(&id).await.unwrap();
    let lost_id = lost.info.facts.id.to_string();
    within.hands.pass(DAY);
    let second = root.rotate(&id).await.unwrap();
    assert_eq!(second.replaced, Some(lost.info.facts.id));
    assert_eq!(root.validate(lost.token.expose()).await.reason, Some(Reason::Rotated));
    assert!(root.validate(&old).await.active && root.peek(second.token.expose()).await.active);
    // The overlap counts afresh.
    assert_eq!(second.predecessor_ends_at, Some(within.now().saturating_add(7 * DAY)));
    // By the successor, and by one that was replaced already.
    let third = root.rotate(&second.info.facts.id.to_string()).await.unwrap();
    assert_eq!((third.replaced, third.info.facts.predecessor), (Some(second.info.facts.id), Some(old_id(&old))));
    let fourth = root.rotate(&lost_id).await.unwrap();
    assert_eq!(fourth.replaced, Some(third.info.facts.id));
    // Nobody is locked out when the old one's time is over, either.
    within.hands.pass(8 * DAY);
    assert!(!root.validate(&old).await.active);
    let fifth = root.rotate(&id).await.unwrap();
    assert!(root.peek(fifth.token.expose()).await.active && !root.validate(&old).await.active);
    assert_eq!(within.state(&id), State::Rotated);
    // Never more than one of each.
    let good = root.show(&fifth.info.facts.id.to_string()).await.unwrap();
    assert_eq!((good.state, good.facts.family), (State::Active, old_id(&old)));
    within.stop().await;
}

fn old_id(token: &str) -> bearerd::token::TokenId {
    within::id_of(handle_of(token))
}

/// A replaced successor is rotated out: its use is told as that, and takes nothing else along.
#[tokio::test]
async fn the_use_of_a_replaced_one_is_told_and_takes_nobody_along() {
    let within = Within::start("");
    let root = within.root();
    let (old, id) = token(&within).await;
    let lost = root.rotate(&id).await.unwrap();
    let second = root.rotate(&id).await.unwrap();
    assert_eq!(root.validate(lost.token.expose()).await.reason, Some(Reason::Rotated));
    assert!(root.validate(&old).await.active && root.validate(second.token.expose()).await.active);
    within.stop().await;
}

/// "Rotating a token whose successor was used is refused (`already_rotated`, naming it)."
#[tokio::test]
async fn a_token_whose_successor_is_in_use_is_not_rotated() {
    let within = Within::start("");
    let root = within.root();
    let (_, id) = token(&within).await;
    let replaced = root.rotate(&id).await.unwrap().info.facts.id.to_string();
    let new = root.rotate(&id).await.unwrap();
    within.first_use(new.token.expose()).await;
    for id in [&id, &replaced] {
        let refused = root.rotate(id).await.err().unwrap();
        assert_eq!(refused.code, ErrorCode::AlreadyRotated);
        assert!(refused.message.contains(&new.info.facts.id.to_string()), "{refused}");
    }
    within.stop().await;
}

/// "A family has at most one good predecessor and one successor."
#[tokio::test]
async fn rotating_a_used_successor_ends_its_predecessor() {
    let within = Within::start("");
    let root = within.root();
    let (old, id) = token(&within).await;
    let second = root.rotate(&id).await.unwrap();
    within.first_use(second.token.expose()).await;
    assert!(root.validate(&old).await.active, "in its grace");
    let third = root.rotate(&second.info.facts.id.to_string()).await.unwrap();
    assert_eq!(third.ended, Some(old_id(&old)));
    assert_eq!(root.validate(&old).await.reason, Some(Reason::Rotated));
    assert!(root.validate(second.token.expose()).await.active && root.peek(third.token.expose()).await.active);
    assert_eq!(third.info.facts.family, old_id(&old));
    within.stop().await;
}

/// "A successor revoked unused makes the predecessor good again", also when its overlap has run out meanwhile.
#[tokio::test]
async fn revoking_an_unused_successor_takes_the_rotation_back() {
    let within = Within::start("");
    let root = within.root();
    let (old, id) = token(&within).await;
    for wait in [DAY, 8 * DAY] {
        let new = root.rotate(&id).await.unwrap();
        within.hands.pass(wait);
        let changed = root.revoke(&[&new.info.facts.id.to_string()]).await.unwrap();
        assert_eq!((changed.count, changed.still_good), (1, vec![old_id(&old)]));
        assert_eq!(root.validate(new.token.expose()).await.reason, Some(Reason::Revoked));
        assert!(root.validate(&old).await.active);
        let shown = root.show(&id).await.unwrap();
        assert_eq!((shown.state, shown.facts.successor), (State::Active, None));
    }
    assert_eq!(within.lines(&id, "rotate").await.iter().filter(|line| line["reason"] == "undone").count(), 2);
    // By holding it, too: whoever finds it ends it, and nobody is locked out.
    let new = root.rotate(&id).await.unwrap();
    let which = bearerd::protocol::message::Which::Token(new.token.expose());
    let revoke = bearerd::protocol::message::Revoke { which, reason: None, dry_run: false };
    within::changed(root.ask(Ask::Revoke(revoke)).await).unwrap();
    assert_eq!(within.state(&id), State::Active);

    // Not after --now.
    let new = root.rotate_as(now_of(&id)).await.unwrap();
    assert_eq!(root.revoke(&[&new.info.facts.id.to_string()]).await.unwrap().still_good, []);
    assert_eq!(root.validate(&old).await.reason, Some(Reason::Rotated));

    // Not once it was used: then the predecessor has its grace, and no more.
    let (old, id) = token(&within).await;
    let new = root.rotate(&id).await.unwrap();
    within.first_use(new.token.expose()).await;
    root.revoke(&[&new.info.facts.id.to_string()]).await.unwrap();
    within.hands.pass(5 * MINUTE);
    assert!(!root.validate(&old).await.active);

    // Both at once are both ended; a dry run does nothing.
    let (old, id) = token(&within).await;
    let new = root.rotate(&id).await.unwrap().info.facts.id.to_string();
    let dry = bearerd::protocol::message::Which::Handles(within::handles(&[&new]));
    let dry = bearerd::protocol::message::Revoke { which: dry, reason: None, dry_run: true };
    let would = within::changed(root.ask(Ask::Revoke(dry)).await).unwrap();
    assert_eq!((would.count, would.still_good), (1, vec![old_id(&old)]));
    assert_eq!(within.state(&id), State::Rotating);
    let changed = root.revoke(&[&id, &new]).await.unwrap();
    assert_eq!((changed.count, changed.still_good), (2, vec![]));
    assert_eq!((within.state(&id), within.state(&new)), (State::Revoked, State::Revoked));
    within.stop().await;
}

/// "Revoking one member of a family leaves the other and says so."
#[tokio::test]
async fn revoking_the_predecessor_leaves_the_successor() {
    let within = Within::start("");
    let root = within.root();
    let (old, id) = token(&within).await;
    let new = root.rotate(&id).await.unwrap();
    let changed = root.revoke(&[&id]).await.unwrap();
    assert_eq!((changed.count, changed.still_good), (1, vec![new.info.facts.id]));
    assert!(!root.validate(&old).await.active && root.peek(new.token.expose()).await.active);
    // It goes on by itself.
    let next = root.rotate(&new.info.facts.id.to_string()).await.unwrap();
    assert_eq!((next.replaced, next.predecessor_ends_at), (Some(new.info.facts.id), None));
    assert!(root.peek(next.token.expose()).await.active);
    assert_eq!(code(root.rotate(&id).await), ErrorCode::WrongState);
    within.stop().await;
}

/// A successor that is suspended leaves its predecessor as it was.
#[tokio::test]
async fn a_suspended_successor_waits() {
    let within = Within::start("");
    let root = within.root();
    let (old, id) = token(&within).await;
    let new = root.rotate(&id).await.unwrap();
    let new_id = new.info.facts.id.to_string();
    let changed = root.suspend(&[&new_id]).await.unwrap();
    assert_eq!((changed.count, changed.still_good), (1, vec![old_id(&old)]));
    assert!(root.validate(&old).await.active);
    let refused = root.rotate(&id).await.err().unwrap();
    assert_eq!(refused.code, ErrorCode::WrongState);
    assert!(refused.message.contains(&new_id) && refused.message.contains("suspended"), "{refused}");
    root.resume(&[&new_id]).await.unwrap();
    assert!(root.rotate(&id).await.is_ok());
    within.stop().await;
}

/// What is not good is not rotated, and the message says what it is.
#[tokio::test]
async fn only_what_is_good_is_rotated() {
    let within = Within::start("");
    let root = within.root();
    let refused = async |id: &str, state: &str| {
        let refused = root.rotate(id).await.err().unwrap();
        assert_eq!(refused.code, ErrorCode::WrongState);
        assert!(refused.message.contains(state), "{refused}");
    };
    let (_, id) = token(&within).await;
    root.suspend(&[&id]).await.unwrap();
    refused(&id, "suspended").await;
    root.revoke(&[&id]).await.unwrap();
    refused(&id, "revoked").await;
    let bait = root.token(Issue { kind: Some(Kind::Canary), ..named("bait") }).await;
    refused(handle_of(&bait), "canary").await;
    let later = Issue { not_before: Some(within.now().saturating_add(DAY)), ..of_days(2) };
    refused(handle_of(&root.token(later).await), "not_yet_valid").await;
    let once = root.token(Issue { max_uses: Some(1), ..of_days(2) }).await;
    assert!(root.validate(&once).await.active);
    refused(handle_of(&once), "exhausted").await;
    let short = root.token(of_days(1)).await;
    within.hands.pass(DAY);
    refused(handle_of(&short), "expired").await;
    within.stop().await;
}

/// I4: each record that a rotation changes has its line, and no line has the token.
#[tokio::test]
async fn every_change_of_a_rotation_is_in_the_trail() {
    let within = Within::start("");
    let root = within.root();
    let (_, id) = token(&within).await;
    let one = root.rotate(&id).await.unwrap().info.facts.id.to_string();
    let two = root.rotate(&id).await.unwrap();
    let two_id = two.info.facts.id.to_string();
    let lines = within.lines(&id, "rotate").await;
    assert_eq!(lines.len(), 2);
    assert!(lines[1]["note"].as_str().unwrap().starts_with(&format!("to {two_id}, ends at ")));
    let replaced = within.lines(&one, "rotate").await;
    assert_eq!((replaced.len(), &replaced[1]["reason"]), (2, &"replaced".into()));
    let born = within.lines(&two_id, "rotate").await;
    assert_eq!((&born[0]["reason"], &born[0]["note"]), (&"successor".into(), &format!("of {id}").into()));
    for line in lines.iter().chain(&replaced).chain(&born) {
        assert_eq!((&line["outcome"], &line["peer"]["uid"]), (&"done".into(), &0.into()));
        assert!(!line.to_string().contains(two.token.expose().split('_').nth(2).unwrap()));
    }
    within.stop().await;
}

/// Nobody with a full quota is locked out of rotating; the rate is the one of issuing.
#[tokio::test]
async fn rotations_count_against_the_rate_of_issuing_and_not_against_the_quota() {
    let within = Within::start(&format!("[limits]\ntokens_per_uid = 1\nissue_per_uid = \"4/1h\"\n{RULES}"));
    let alice = within.user(ALICE);
    let old = alice.token(Issue { ttl: Some(HOUR), ..named("laptop") }).await;
    assert_eq!(code(alice.issue(Issue { ttl: Some(HOUR), ..named("more") }).await), ErrorCode::LimitReached);
    for _ in 0..2 {
        alice.rotate(handle_of(&old)).await.unwrap();
    }
    let refused = alice.rotate(handle_of(&old)).await.err().unwrap();
    assert_eq!(refused.code, ErrorCode::LimitReached);
    assert!(refused.message.contains("issue_per_uid"), "{refused}");
    within.root().rotate(handle_of(&old)).await.unwrap();
    within.stop().await;
}

/// "renew: by the token's own ttl, up to max_expires_at; not if ended or suspended."
#[tokio::test]
async fn renewing_gives_the_ttl_again_up_to_the_ceiling() {
    let within = Within::start("");
    let root = within.root();
    let token = root.token(of_days(300)).await;
    let id = handle_of(&token).to_owned();
    within.change(&id, |record| record.warned = Some(DAY)).await;
    within.hands.pass(10 * DAY);
    let renewed = root.renew(&id).await.unwrap();
    assert_eq!(renewed.facts.expires_at, Some(within.now().saturating_add(300 * DAY)));
    assert_eq!(within.record(&id).warned, None);
    within.hands.pass(200 * DAY);
    let ceiling = renewed.facts.max_expires_at;
    assert_eq!(root.renew(&id).await.unwrap().facts.expires_at, ceiling);
    let refused = root.renew(&id).await.err().unwrap();
    assert_eq!(refused.code, ErrorCode::WrongState);
    assert!(refused.message.contains("rotate it"), "{refused}");
    assert_eq!(within.lines(&id, "renew").await.len(), 2);
    within.hands.pass(155 * DAY);
    assert!(root.validate(&token).await.active);
    within.hands.pass(DAY);
    assert!(!root.validate(&token).await.active);

    let (_, id) = token_of(&within).await;
    root.suspend(&[&id]).await.unwrap();
    let refused = root.renew(&id).await.err().unwrap();
    assert!(refused.code == ErrorCode::WrongState && refused.message.contains("suspended"), "{refused}");
    root.revoke(&[&id]).await.unwrap();
    assert_eq!(code(root.renew(&id).await), ErrorCode::WrongState);
    let bait = root.token(Issue { kind: Some(Kind::Canary), ..named("bait") }).await;
    assert_eq!(code(root.renew(handle_of(&bait)).await), ErrorCode::WrongState);
    within.stop().await;
}

async fn token_of(within: &Within) -> (String, String) {
    token(within).await
}

/// "suspend / resume is the reversible form."
#[tokio::test]
async fn what_is_suspended_is_refused_until_it_is_resumed() {
    let within = Within::start("");
    let root = within.root();
    let (token, id) = token(&within).await;
    let (other, other_id) = token_of(&within).await;
    let dry = within::changed(root.ask(Ask::Suspend(within::hold(&[&id], true))).await).unwrap();
    assert_eq!((dry.count, dry.dry_run), (1, true));
    assert!(root.validate(&token).await.active);

    let changed = root.suspend(&[&id, &other_id]).await.unwrap();
    assert_eq!((changed.count, changed.ids.len()), (2, 2));
    for token in [&token, &other] {
        assert_eq!(root.validate(token).await.reason, Some(Reason::Suspended));
    }
    assert_eq!(root.suspend(&[&id]).await.unwrap().count, 0);
    assert_eq!(within.record(&id).suspended.unwrap().reason.as_deref(), Some("odd"));
    // Its time goes on, and what was revoked is not to be had back.
    root.revoke(&[&other_id]).await.unwrap();
    assert_eq!(root.resume(&[&id, &other_id]).await.unwrap().ids, [old_id(&token)]);
    assert!(root.validate(&token).await.active && !root.validate(&other).await.active);
    assert_eq!(root.resume(&[&id]).await.unwrap().count, 0);
    assert_eq!(root.suspend(&[&other_id]).await.unwrap().count, 0);
    assert_eq!((within.lines(&id, "suspend").await.len(), within.lines(&id, "resume").await.len()), (1, 1));
    assert_eq!(within.lines(&id, "suspend").await[0]["reason"], "odd");
    assert_eq!(code(root.suspend(&["01M844DZG0FAY828T5CY4TQKFF"]).await), ErrorCode::NotFound);
    within.stop().await;
}

/// A narrowing edit, a suspension and `rotate --now` are in force when they return, as a revocation is.
#[tokio::test]
async fn every_restriction_is_in_force_when_it_returns() {
    let within = Within::start("");
    let root = within.root();
    for n in 0..30 {
        let (token, id) = token(&within).await;
        assert!(root.validate(&token).await.active);
        match n % 3 {
            0 => drop(root.suspend(&[&id]).await.unwrap()),
            1 => drop(root.rotate_as(now_of(&id)).await.unwrap()),
            _ => {
                root.edit(&id, |edit| edit.ends = Some(Ends::In(Duration::from_millis(1)))).await.unwrap();
                within.hands.pass(Duration::from_millis(1));
            }
        }
        assert!(!root.validate(&token).await.active);
    }
    within.stop().await;
}

/// By the programs: what goes where, what it says, and that all of it survives kill -9.
#[test]
fn bearerctl_rotates_renews_and_holds() {
    let mut daemon = Daemon::start();
    let old = daemon.issue(&["backup", "--scope", "repo:read", "--ttl", "30d"]);
    let id = daemon::id_of(&old);
    let ran = daemon.ctl(&["rotate", &id[..16]]).exits(0);
    let lost = ran.line();
    assert!(ran.stderr.contains(&format!("The old one, {id}, stays good until 5m")), "{}", ran.stderr);
    let second = daemon.ctl(&["--json", "rotate", &id, "--grace", "1h"]).exits(0).json();
    let new = second["token"].as_str().unwrap().to_owned();
    assert_eq!((&second["predecessor"], &second["family"]), (&id.clone().into(), &id.clone().into()));
    assert_eq!((&second["replaced"], &second["grace"]), (&daemon::id_of(&lost).into(), &"1h".into()));
    daemon.kill();
    daemon.run();
    let reason = |daemon: &Daemon, token: &str| {
        daemon.ctl_with(token, &["--json", "validate", "--peek"]).json()["reason"].clone()
    };
    assert_eq!(
        (reason(&daemon, &lost), reason(&daemon, &old), reason(&daemon, &new)),
        ("rotated".into(), ().into(), ().into())
    );
    assert_eq!(daemon.ctl(&["--json", "show", &id]).exits(0).json()["state"], "rotating");

    let new_id = daemon::id_of(&new);
    let now = daemon.ctl(&["rotate", "--now", &new_id]).exits(0);
    assert!(now.stderr.contains(&format!("The old one, {id}, has ended.")), "{}", now.stderr);
    assert_eq!(reason(&daemon, &old), "rotated");
    let last = now.line();
    let last_id = daemon::id_of(&last);

    daemon.ctl(&["suspend", &last_id, "--reason", "odd"]).exits(0);
    assert_eq!(reason(&daemon, &last), "suspended");
    daemon.ctl(&["renew", &last_id]).exits(1);
    let held = daemon.ctl(&["--json", "rotate", &last_id]).exits(1);
    assert!(held.stderr.contains("wrong_state"), "{}", held.stderr);
    daemon.kill();
    daemon.run();
    assert_eq!(reason(&daemon, &last), "suspended");
    assert_eq!(daemon.ctl(&["--json", "resume", &last_id]).exits(0).json()["count"], 1);
    assert!(reason(&daemon, &last).is_null());
    let renewed = daemon.ctl(&["--json", "renew", &last_id]).exits(0).json();
    assert!(renewed["expires_at"].as_str() > second["expires_at"].as_str(), "{renewed}");
    let edited = daemon.ctl(&["--json", "edit", &last_id, "--name", "nightly", "--label", "team=ops"]).exits(0).json();
    assert_eq!((&edited["name"], &edited["labels"]["team"]), (&"nightly".into(), &"ops".into()));
    assert_eq!(
        daemon.ctl(&["--json", "list", "--label", "team=ops"]).exits(0).json()["tokens"][0]["id"],
        last_id.as_str()
    );
    daemon.ctl(&["edit", &last_id, "--scope", "repo:write"]).exits(64);
    daemon.ctl(&["audit", "verify"]).exits(0);
    // Whole tokens are no ids.
    daemon.ctl(&["rotate", &last]).exits(64);
}
