//! What a hostile look at the whole life of a token found: each as the smallest thing that showed it.

mod daemon;
mod within;

use std::process::Stdio;
use std::time::Duration;

use bearerd::protocol::code::{ErrorCode, Reason};
use bearerd::protocol::message::{
    Answer, Ask, Changed, Chosen, Condition, Failure, Filter, Hold, Issue, Revoke, State, Validate, Which,
};
use bearerd::registry::rate::KEYS_MAX;
use bearerd::token::Kind;
use daemon::{Daemon, id_of};
use within::{ALICE, BOB, HOUR, User, Within, changed, code, handle_of, handles, hold, named};

const OWN: &str = r#"
[[policy]]
name = "people"
peer = "*"
allow = ["issue", "renew:own", "edit:own", "revoke:own", "suspend:own", "rotate:own"]
kinds = ["session"]
subjects = ["alice", "bob"]
max_ttl = "8h"
[[policy]]
name = "more"
peer = { user = 1001 }
allow = ["show"]
"#;

fn session(name: &str) -> Issue {
    Issue { kind: Some(Kind::Session), ttl: Some(HOUR), ..named(name) }
}

/// Edits, renewals and resumptions could be made without end: lines and events of others went by in their flood.
#[tokio::test]
async fn a_user_cannot_flood_the_trail_by_changing_its_tokens() {
    let within = Within::start(OWN);
    let (alice, bob, root) = (within.user(ALICE), within.user(BOB), within.root());
    let token = alice.token(session("mine")).await;
    let id = handle_of(&token);
    let bobs = bob.token(session("his")).await;
    // Nothing to renew yet: it is the asking that counts.
    for _ in 0..999 {
        alice.renew(id).await.unwrap();
    }
    alice.edit(id, |edit| edit.name = Some("again".into())).await.unwrap();
    assert_eq!(code(alice.renew(id).await), ErrorCode::LimitReached);
    assert_eq!(code(alice.edit(id, |edit| edit.name = Some("more".into())).await), ErrorCode::LimitReached);
    assert_eq!(alice.suspend(&[id]).await.unwrap().count, 1, "to hold is not held up");
    assert_eq!(code(alice.resume(&[id]).await), ErrorCode::LimitReached);
    assert_eq!(changed(alice.ask(Ask::Resume(hold(&[id], true))).await).unwrap().count, 1, "a look costs nothing");
    bob.renew(handle_of(&bobs)).await.unwrap();
    root.edit(id, |edit| edit.name = Some("of root".into())).await.unwrap();
    within.hands.pass(Duration::from_millis(60));
    assert_eq!(alice.resume(&[id]).await.unwrap().count, 1);
    assert_eq!(code(alice.renew(id).await), ErrorCode::LimitReached);
    alice.revoke(&[id]).await.unwrap();
    within.stop().await;
}

/// Only orders to resume were counted: one to suspend or revoke, given again and again, was as much of a flood.
#[tokio::test]
async fn a_user_cannot_flood_the_trail_by_orders() {
    let within = Within::start(OWN);
    let (alice, bob, root) = (within.user(ALICE), within.user(BOB), within.root());
    let token = alice.token(session("mine")).await;
    let id = handle_of(&token);
    let bobs = bob.token(session("his")).await;
    for _ in 0..985 {
        alice.renew(id).await.unwrap();
    }
    // A look costs nothing, and one order is there yet.
    for _ in 0..5 {
        assert_eq!(ordered(&alice, Verb::Suspend, true).await.unwrap().count, 1);
        assert_eq!(ordered(&alice, Verb::Revoke, true).await.unwrap().count, 1);
    }
    assert_eq!(code(ordered(&alice, Verb::Resume, false).await), ErrorCode::LimitReached, "that one costs a hundred");
    assert_eq!(ordered(&alice, Verb::Suspend, false).await.unwrap().count, 1);
    assert_eq!(code(ordered(&alice, Verb::Suspend, false).await), ErrorCode::LimitReached);
    assert_eq!(code(ordered(&alice, Verb::Revoke, false).await), ErrorCode::LimitReached);
    // Five are left of it, which refusals take nothing of.
    for n in 0..5 {
        alice.edit(id, |edit| edit.name = Some(format!("again {n}"))).await.unwrap();
    }
    assert_eq!(code(alice.edit(id, |edit| edit.name = Some("more".into())).await), ErrorCode::LimitReached);
    assert_eq!(ordered(&alice, Verb::Resume, true).await.unwrap().count, 1);
    // By its id a token is taken away whatever was done before, and what Alice did is no matter for others.
    assert_eq!(alice.revoke(&[id]).await.unwrap().count, 1);
    assert_eq!(ordered(&bob, Verb::Revoke, false).await.unwrap().count, 1);
    assert_eq!(within.root().peek(&bobs).await.reason, Some(Reason::Revoked));
    for _ in 0..110 {
        ordered(&root, Verb::Suspend, false).await.unwrap();
    }
    // One more order after ten times 60 ms.
    within.hands.pass(Duration::from_millis(599));
    assert_eq!(code(ordered(&alice, Verb::Suspend, false).await), ErrorCode::LimitReached);
    within.hands.pass(Duration::from_millis(1));
    ordered(&alice, Verb::Suspend, false).await.unwrap();
    assert_eq!(code(ordered(&alice, Verb::Suspend, false).await), ErrorCode::LimitReached);
    within.stop().await;
}

/// Changes are counted for so many users and no more; who comes when that is full is not kept from taking away.
#[tokio::test]
async fn no_crowd_holds_up_an_order_that_takes_away() {
    // Without `:own` no user name is looked up, which is most of what this would take.
    let within = Within::start(&OWN.replace("\"renew:own\"", "\"renew\""));
    let alice = within.user(ALICE);
    let token = alice.token(session("mine")).await;
    let id = handle_of(&token);
    // Without a log nothing is renewed: it is the asking that counts.
    std::fs::remove_file(within.path("log/audit.log")).unwrap();
    std::fs::create_dir(within.path("log/audit.log")).unwrap();
    within.root().suspend(&[id]).await.unwrap();
    for uid in 0..KEYS_MAX as u32 {
        assert_eq!(code(within.user(100_000 + uid).renew(id).await), ErrorCode::Unavailable);
    }
    std::fs::remove_dir(within.path("log/audit.log")).unwrap();
    assert_eq!(code(alice.renew(id).await), ErrorCode::LimitReached);
    ordered(&alice, Verb::Suspend, false).await.unwrap();
    assert_eq!(ordered(&alice, Verb::Revoke, false).await.unwrap().count, 1);
    within.hands.pass(Duration::from_millis(60));
    assert_ne!(code(alice.renew(id).await), ErrorCode::LimitReached);
    within.stop().await;
}

/// What an order is for.
#[derive(Clone, Copy)]
enum Verb {
    Suspend,
    Resume,
    Revoke,
}

/// An order for all tokens that the peer may give it for.
async fn ordered(user: &User, verb: Verb, dry_run: bool) -> Result<Changed, Failure> {
    let all = || Filter::from(Condition::All);
    let hold = || Hold { which: Chosen::Filter(all()), reason: None, dry_run };
    changed(match verb {
        Verb::Suspend => user.ask(Ask::Suspend(hold())).await,
        Verb::Resume => user.ask(Ask::Resume(hold())).await,
        Verb::Revoke => user.ask(Ask::Revoke(Revoke { which: Which::Filter(all()), reason: None, dry_run })).await,
    })
}

/// An order's reason is a text for lines and records as that of a single change is.
#[tokio::test]
async fn a_reason_that_holds_a_token_is_kept_by_no_change() {
    let within = Within::start("");
    let root = within.root();
    let token = root.token(named("mine")).await;
    let reason = |text: &str| Some(text.to_owned());
    let all = || Filter::from(Condition::All);
    for bad in [format!("found {token}"), "a\nb".to_owned(), "x".repeat(10_000)] {
        for which in [Chosen::Filter(all()), Chosen::Handles(handles(&[handle_of(&token)]))] {
            let hold = || Hold { which: which.clone(), reason: reason(&bad), dry_run: false };
            assert_eq!(code(changed(root.ask(Ask::Suspend(hold())).await)), ErrorCode::BadRequest);
            assert_eq!(code(changed(root.ask(Ask::Resume(hold())).await)), ErrorCode::BadRequest);
        }
        let revoke = Revoke { which: Which::Filter(all()), reason: reason(&bad), dry_run: false };
        assert_eq!(code(changed(root.ask(Ask::Revoke(revoke)).await)), ErrorCode::BadRequest);
    }
    let hold = Hold { which: Chosen::Filter(all()), reason: reason(""), dry_run: false };
    assert_eq!(changed(root.ask(Ask::Suspend(hold)).await).unwrap().count, 1, "an empty one is none");
    within.stop().await;
}

/// Who may suspend only its own could let go what an administrator holds.
#[tokio::test]
async fn what_an_administrator_holds_its_owner_does_not_let_go() {
    let within = Within::start(OWN);
    let (alice, bob, root) = (within.user(ALICE), within.user(BOB), within.root());
    let token = alice.token(session("mine")).await;
    let id = handle_of(&token);
    root.suspend(&[id]).await.unwrap();
    assert_eq!(code(alice.resume(&[id]).await), ErrorCode::NotPermitted);
    assert_eq!(within.state(id), State::Suspended);
    assert!(within.denials().await.iter().any(|note| note.contains("what uid 0 holds")));
    assert_eq!(root.resume(&[id]).await.unwrap().count, 1);
    // Its own hold it may.
    alice.suspend(&[id]).await.unwrap();
    assert_eq!(alice.resume(&[id]).await.unwrap().count, 1);
    assert_eq!(alice.resume(&[id]).await.unwrap().count, 0, "nothing holds it");
    // Nor does a hold of its own that was there before.
    alice.suspend(&[id]).await.unwrap();
    assert_eq!(root.suspend(&[id]).await.unwrap().count, 1);
    assert_eq!(root.suspend(&[id]).await.unwrap().count, 0);
    assert_eq!(code(alice.resume(&[id]).await), ErrorCode::NotPermitted);
    // And what its subject holds, its issuer; not the other way round.
    let token = alice.token(Issue { subject: Some("bob".into()), ..session("his") }).await;
    let id = handle_of(&token);
    bob.suspend(&[id]).await.unwrap();
    assert_eq!(alice.resume(&[id]).await.unwrap().count, 1);
    alice.suspend(&[id]).await.unwrap();
    assert_eq!(code(bob.resume(&[id]).await), ErrorCode::NotPermitted);
    assert_eq!(within.state(id), State::Suspended);
    within.stop().await;
}

/// A peer's own note could say `peek`: the trail then showed a use as a look, and a restore gave it back.
#[tokio::test]
async fn a_note_does_not_make_a_use_a_look() {
    let within = Within::start("");
    let root = within.root();
    let token = root.token(Issue { max_uses: Some(9), ..named("counted") }).await;
    for (note, peek) in
        [(None, true), (Some("peek"), false), (Some("peek: x"), false), (Some("x"), true), (Some("x"), false)]
    {
        let ask = Validate { token: &token, scopes: Vec::new(), audience: None, from: None, note, peek };
        assert!(matches!(root.ask(Ask::Validate(ask)).await, Answer::Verdict(verdict) if verdict.active));
        within.hands.pass(Duration::from_secs(2));
    }
    let lines = within.lines(handle_of(&token), "use").await;
    let mut notes: Vec<&str> = lines.iter().map(|line| line["note"].as_str().unwrap()).collect();
    notes.sort_unstable();
    assert_eq!(notes, ["note: peek", "note: peek: x", "peek", "peek: x", "x"]);
    within.stop().await;
}

/// Nor did a restore ask the newer store, where the log is lost, for more than what was revoked or suspended.
#[test]
fn what_the_newer_store_knows_as_rotated_out_stays_so_without_a_log() {
    let mut daemon = Daemon::start();
    let (cut, taken, left) = (daemon.issue(&["cut"]), daemon.issue(&["taken"]), daemon.issue(&["left"]));
    let file = daemon.path("b");
    let file = file.to_str().unwrap();
    daemon.ctl(&["backup", file]).exits(0);
    daemon.ctl(&["rotate", "--now", &id_of(&cut)]).exits(0);
    let heir = daemon.ctl(&["rotate", "--grace", "0s", &id_of(&taken)]).exits(0).line();
    daemon.ctl_with(&format!("{heir}\n"), &["validate"]).exits(0);
    daemon.ctl(&["rotate", &id_of(&left)]).exits(0);
    daemon.stop();
    std::fs::remove_file(daemon.audit_log()).unwrap();
    let restored = daemon.command().args(["restore", "--accept-rollback", file]).stdin(Stdio::null()).output().unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    daemon.run();
    let peek = |token: &str| daemon.ctl_with(&format!("{token}\n"), &["validate", "--peek"]).status;
    assert_eq!((peek(&cut), peek(&taken), peek(&left)), (1, 1, 0));
}

/// A restore knows a cut by a word in the line of the rotation, and the line did not say it: what was cut came back.
#[test]
fn what_was_rotated_at_once_stays_ended_over_a_restore() {
    let mut daemon = Daemon::start();
    let (cut, left) = (daemon.issue(&["cut"]), daemon.issue(&["left"]));
    let file = daemon.path("b");
    let file = file.to_str().unwrap();
    daemon.ctl(&["backup", file]).exits(0);
    daemon.ctl(&["rotate", "--now", &id_of(&cut)]).exits(0);
    daemon.ctl(&["rotate", &id_of(&left)]).exits(0);
    daemon.stop();
    let restored = daemon.command().args(["restore", "--accept-rollback", file]).stdin(Stdio::null()).output().unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    daemon.run();
    let peek = |token: &str| daemon.ctl_with(&format!("{token}\n"), &["validate", "--peek"]).status;
    assert_eq!((peek(&cut), peek(&left)), (1, 0));
}
