//! What a hostile look at the whole life of a token found: each as the smallest thing that showed it.

mod daemon;
mod within;

use std::process::Stdio;
use std::time::Duration;

use bearerd::protocol::code::ErrorCode;
use bearerd::protocol::message::{Answer, Ask, Issue, State, Validate};
use bearerd::token::Kind;
use daemon::{Daemon, id_of};
use within::{ALICE, BOB, HOUR, Within, changed, code, handle_of, hold, named};

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
