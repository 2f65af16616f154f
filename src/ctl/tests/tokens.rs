//! What is done to tokens: made, checked, ended, rotated, held, edited, one by one or all that filters mean.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use serde_json::Value;

use super::fake::{ID, Outcome, SECOND, Screen, Script, TokenFile, changed, refusal, run, run_on, verdict};
use crate::ctl::error::CtlError;
use crate::ctl::render::tests::{TOKEN, bare, tokens};
use crate::protocol::code::{ErrorCode, Reason};
use crate::protocol::message::{Ends, Rotated, SecretText, TokenFacts, TokenInfo, Tokens};

/// I3: a token among the arguments is refused before anything is looked up, and is not repeated.
#[test]
fn a_token_in_an_argument_is_refused_unseen() {
    let damaged = TOKEN.replace("MjO", "MjP");
    let option = format!("--token={TOKEN}");
    let label = format!("k={TOKEN}");
    for args in [
        &["show", TOKEN][..],
        &["show", &damaged],
        &["revoke", TOKEN],
        &["rotate", TOKEN],
        &["renew", TOKEN],
        &["suspend", TOKEN],
        &["resume", TOKEN],
        &["edit", TOKEN, "--name", "x"],
        &["edit", ID, "--name", TOKEN],
        &["revoke", "--token-file", TOKEN],
        &["issue", TOKEN],
        &["issue", "x", "--label", &label],
        &["validate", TOKEN],
        &["validate", "--json", TOKEN],
        &["audit", "--token", TOKEN],
        &["list", &option],
        &[TOKEN],
    ] {
        let outcome = run(Script::default(), args);
        assert_eq!(outcome.status, 64, "{args:?}");
        assert_eq!((outcome.connects, outcome.out.as_str()), (0, ""), "{args:?}");
        assert!(outcome.err.contains("history") && outcome.err.contains("revoke"), "{}", outcome.err);
        assert!(!outcome.err.contains("003aUlTJ") && !outcome.err.contains(ID), "{}", outcome.err);
        assert_eq!(outcome.err.lines().count(), 1);
    }
}

#[test]
fn issue_prints_the_token_alone_and_the_rest_beside_it() {
    let outcome = run(Script::default(), &["issue", "backup"]);
    assert_eq!((outcome.status, outcome.out), (0, format!("{TOKEN}\n")));
    assert!(outcome.err.contains(ID) && outcome.err.contains("kept nowhere"), "{}", outcome.err);
    assert!(!outcome.err.contains("003aUlTJ"));
    assert_eq!(outcome.asked, ["issue backup"]);

    let quiet = run(Script::default(), &["issue", "backup", "-q"]);
    assert_eq!((quiet.status, quiet.out, quiet.err.as_str()), (0, format!("{TOKEN}\n"), ""));

    let json = run(Script::default(), &["--json", "issue", "backup"]);
    let object: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((object["token"].as_str(), object["id"].as_str()), (Some(TOKEN), Some(ID)));
    assert_eq!((json.err.as_str(), object.as_object().unwrap().len()), ("", 30));
}

/// A token that can't be handed over is named, so that it can be ended.
#[test]
fn a_token_that_cant_be_printed_is_said_to_be_lost() {
    for fails in [io::ErrorKind::BrokenPipe, io::ErrorKind::StorageFull] {
        let screen = Screen { fails: Some(fails), ..Screen::default() };
        let outcome = run_on(Script::default(), &["issue", "backup"], screen);
        assert_eq!(outcome.status, 74);
        assert!(outcome.err.contains(&format!("bearerctl revoke {ID}")), "{}", outcome.err);
    }
}

#[test]
fn a_verdict_decides_the_status() {
    let file = TokenFile::new("verdict", &format!("{TOKEN}\nmore\n"));
    let args = ["validate", "--scope", "a", "--scope", "b:c", "--audience", "x", "--peek", "--token-file", file.path()];
    let outcome = run(verdict(None), &args);
    assert_eq!(outcome.status, 0);
    assert_eq!(outcome.out, format!("active: backup ({ID} of backup), expires in 29 d\n"));
    assert_eq!(outcome.asked, [r#"validate true ["a", "b:c"] Some("x") true"#]);
    for reason in Reason::ALL {
        let outcome = run(verdict(Some(reason)), &["validate", "--json", "--token-file", file.path()]);
        let object: Value = serde_json::from_str(&outcome.out).unwrap();
        assert_eq!((outcome.status, object["reason"].as_str()), (1, Some(reason.name())));
        assert_eq!(run(verdict(Some(reason)), &["-q", "validate", "--token-file", file.path()]).out, "");
    }
}

/// A verdict is not changed by a reader that went away.
#[test]
fn not_active_stays_so_when_nobody_reads_it() {
    let file = TokenFile::new("unread", TOKEN);
    let screen = || Screen { fails: Some(io::ErrorKind::BrokenPipe), ..Screen::default() };
    let args = ["validate", "--token-file", file.path()];
    assert_eq!(run_on(verdict(Some(Reason::Revoked)), &args, screen()).status, 1);
    assert_eq!(run_on(verdict(None), &args, screen()).status, 0);
    let full = Screen { fails: Some(io::ErrorKind::StorageFull), ..Screen::default() };
    let outcome = run_on(verdict(None), &args, full);
    assert_eq!((outcome.status, outcome.err.lines().count()), (74, 1));
}

#[test]
fn what_can_be_no_token_is_malformed_and_nothing_is_no_token_at_all() {
    let long = TokenFile::new("long", &"x".repeat(2000));
    let outcome = run(Script::default(), &["validate", "--json", "--token-file", long.path()]);
    assert_eq!((outcome.status, outcome.connects), (1, 0));
    assert_eq!(outcome.out, "{\"active\":false,\"reason\":\"malformed\",\"missing_scopes\":[]}\n");
    assert_eq!(run(Script::default(), &["revoke", "--token-file", long.path()]).status, 65);
    let empty = TokenFile::new("empty", "");
    assert_eq!(run(Script::default(), &["validate", "--token-file", empty.path()]).status, 64);
    let absent = run(Script::default(), &["validate", "--token-file", "/nonexistent/token"]);
    assert_eq!((absent.status, absent.err.lines().count()), (64, 1));
}

#[test]
fn revoke_says_what_it_did() {
    let outcome = run(changed(1, &[ID]), &["revoke", ID, ID, "--reason", "lost"]);
    assert_eq!((outcome.status, outcome.asked), (0, vec![format!("revoke {ID} Some(\"lost\") false")]));
    assert!(outcome.out.starts_with(&format!("Revoked {ID}.")), "{}", outcome.out);

    let again = run(changed(0, &[]), &["revoke", ID]);
    assert_eq!((again.status, again.out.as_str()), (0, "Nothing changed: already revoked.\n"));
    let json = run(changed(0, &[]), &["revoke", ID, "--json"]);
    assert_eq!((json.status, json.out.as_str()), (0, "{\"count\":0,\"ids\":[],\"dry_run\":false}\n"));

    let file = TokenFile::new("revoke", TOKEN);
    let by_token = run(changed(1, &[ID]), &["revoke", "--token-file", file.path(), "--dry-run"]);
    assert_eq!((by_token.status, by_token.asked), (0, vec!["revoke token true None true".to_owned()]));
    assert_eq!(run(refusal(ErrorCode::NotFound), &["revoke", "--token-file", file.path()]).status, 1);

    let short = run(Script::default(), &["revoke", &ID[..11]]);
    assert_eq!((short.status, short.connects), (64, 0));
}

/// DESIGN: as issue, the token alone on standard output, the rest beside it; one object with --json.
#[test]
fn rotate_prints_the_token_alone_and_the_rest_beside_it() {
    let outcome = run(Script::default(), &["rotate", SECOND, "--grace", "5m"]);
    assert_eq!((outcome.status, outcome.out), (0, format!("{TOKEN}\n")));
    assert_eq!(outcome.asked, [format!("rotate {SECOND} false Some(300s)")]);
    let says = format!("The old one, {SECOND}, stays good until 5m after the new one's first use");
    assert!(outcome.err.contains(ID) && outcome.err.contains(&says), "{}", outcome.err);
    assert!(!outcome.err.contains("003aUlTJ"));

    let json = run(Script::default(), &["--json", "rotate", SECOND, "--now"]);
    let object: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((object["token"].as_str(), object["id"].as_str()), (Some(TOKEN), Some(ID)));
    assert_eq!((object["predecessor"].as_str(), object["grace"].as_str()), (Some(SECOND), Some("5m")));
    assert_eq!(object["predecessor_ends_at"], "2026-11-30T17:42:09.000000Z");
    assert!(object["replaced"].is_null() && object["ended"].is_null());
    assert_eq!((json.err.as_str(), object.as_object().unwrap().len()), ("", 34));
    assert_eq!(json.asked, [format!("rotate {SECOND} true None")]);

    let rotated = Rotated {
        token: SecretText::new(TOKEN.into()),
        info: TokenInfo {
            facts: TokenFacts { predecessor: Some(SECOND.parse().unwrap()), ..bare(ID, "x").facts },
            ..bare(ID, "x")
        },
        predecessor_ends_at: Some(bare(ID, "x").facts.issued_at),
        grace: Duration::ZERO,
        replaced: Some(SECOND.parse().unwrap()),
        ended: Some(ID.parse().unwrap()),
    };
    let all = run(Script { rotated: Some(rotated), ..Script::default() }, &["rotate", SECOND]);
    for says in [
        format!("The old one, {SECOND}, has ended."),
        format!("{SECOND}, which was never used, is replaced and has ended."),
        format!("{ID}, from which {SECOND} had taken over, has ended now."),
    ] {
        assert!(all.err.contains(&says), "{says:?} is not in {}", all.err);
    }
}

/// Whoever does not get the answer, or can't keep it, is told that to ask again is safe.
#[test]
fn a_rotation_whose_answer_is_lost_can_be_repeated() {
    for (error, status) in [(CtlError::Lost("gone".into()), 75), (CtlError::Timeout("late".into()), 75)] {
        let outcome = run(Script { refusals: [error].into(), ..Script::default() }, &["rotate", ID]);
        assert_eq!((outcome.status, outcome.asked.len()), (status, 1), "it is not sent again by itself");
        assert!(outcome.err.contains("to run it again is safe"), "{}", outcome.err);
    }
    let screen = Screen { fails: Some(io::ErrorKind::StorageFull), ..Screen::default() };
    let outcome = run_on(Script::default(), &["rotate", SECOND], screen);
    assert_eq!(outcome.status, 74);
    assert!(outcome.err.contains(&format!("bearerctl rotate {ID}")), "{}", outcome.err);
    for code in [ErrorCode::AlreadyRotated, ErrorCode::WrongState] {
        assert_eq!(run(refusal(code), &["rotate", ID]).status, 1);
    }
}

#[test]
fn suspend_and_resume_say_what_they_did() {
    let outcome = run(changed(1, &[ID]), &["suspend", ID, ID, "--reason", "odd"]);
    assert_eq!((outcome.status, outcome.asked), (0, vec![format!("suspend {ID} Some(\"odd\") false")]));
    assert_eq!(outcome.out, format!("Suspended {ID}. It is refused until it is resumed.\n"));
    let again = run(changed(0, &[]), &["suspend", ID]);
    assert_eq!((again.status, again.out.as_str()), (0, "Nothing changed: suspended already, or ended.\n"));
    let resumed = run(changed(1, &[ID]), &["resume", ID, "--dry-run"]);
    assert_eq!((resumed.status, resumed.asked), (0, vec![format!("resume {ID} None true")]));
    let json = run(changed(1, &[ID]), &["--json", "resume", ID]);
    assert_eq!(json.out, format!("{{\"count\":1,\"ids\":[\"{ID}\"],\"dry_run\":false}}\n"));
    let part = run(changed(1, &[ID]), &["resume", ID, SECOND]);
    assert!(part.out.ends_with("It is held no longer.\n1 was not suspended.\n"), "{}", part.out);
    assert_eq!(run(changed(1, &[ID]), &["-q", "suspend", ID]).out, "");
}

#[test]
fn edit_and_renew_show_the_token_as_it_is_now() {
    let outcome = run(
        Script::default(),
        &[
            "edit",
            ID,
            "--name",
            "n",
            "--label",
            "a=b",
            "--unlabel",
            "c",
            "--allow-from-any",
            "--allow-unit",
            "u.service",
            "--allow-uid",
            "7",
            "--scope",
            "repo:read",
            "--ttl",
            "2d",
        ],
    );
    assert_eq!(
        outcome.asked,
        [format!(
            "edit {ID} Some(\"n\") {{\"a\": \"b\"}} [\"c\"] Some([]) Some([\"u.service\"]) Some([7]) \
             Some([\"repo:read\"]) [] {:?}",
            Some(Ends::In(Duration::from_secs(2 * 86_400)))
        )]
    );
    assert!(outcome.status == 0 && outcome.out.starts_with(&format!("id            {ID}\n")), "{}", outcome.out);
    let renewed = run(Script::default(), &["--json", "renew", ID]);
    let object: Value = serde_json::from_str(&renewed.out).unwrap();
    assert_eq!((renewed.status, object["id"].as_str(), renewed.asked), (0, Some(ID), vec![format!("renew {ID}")]));
    assert_eq!(run(Script::default(), &["-q", "renew", ID]).out, "");
    assert_eq!(run(Script::default(), &["edit", ID, "--label", "a=1", "--label", "a=2"]).status, 64);
}

/// What is meant is shown and asked before anything is done; what is done is said, and a filter that means nothing is told.
#[test]
fn many_are_changed_only_after_a_yes() {
    let pages = || VecDeque::from([Tokens { tokens: tokens(), next: None }]);
    let asked = |answer: &'static str, count: u64| {
        let script = Script { pages: pages(), answers: Some(answer), ..changed(count, &[ID]) };
        let Outcome { status, out, err, asked, .. } = run(script, &["suspend", "--subject", "alice"]);
        (status, out, err, asked)
    };
    let dry = "suspend --subject alice None true".to_owned();
    let real = "suspend --subject alice None false".to_owned();
    let (status, out, err, did) = asked("n\n", 1204);
    assert_eq!((status, out.as_str(), did), (1, "", vec![dry.clone(), format!("show {ID}")]));
    assert!(err.contains("and 1,203 more\n") && err.contains("Suspend 1,204 tokens? [y/N] "), "{err}");
    assert!(err.ends_with("bearerctl: not confirmed: nothing was changed\n"), "{err}");
    let (status, out, _, did) = asked("Yes\n", 1204);
    assert_eq!((status, did), (0, vec![dry.clone(), format!("show {ID}"), real.clone()]));
    assert_eq!(out, "Suspended 1,204 tokens, refused until resumed.\n");
    // Nothing would change: no question, and the answer of the real thing counts.
    let (status, out, err, did) = asked("", 0);
    assert_eq!((status, out.as_str(), err.as_str()), (0, "Nothing changed.\n", ""));
    assert_eq!(did, [dry, real, "list 1 None".to_owned()]);

    let none = || Script { pages: [Tokens { tokens: Vec::new(), next: None }].into(), ..changed(0, &[]) };
    assert_eq!(run(none(), &["revoke", "--all", "--yes"]).status, 1);
    let json = run(Script { pages: pages(), ..changed(0, &[]) }, &["resume", "--all", "--yes", "--json"]);
    assert_eq!((json.status, json.out.as_str()), (0, "{\"count\":0,\"ids\":[],\"dry_run\":false}\n"));
    let dry = run(changed(1204, &[ID]), &["revoke", "--label", "a=b c", "--dry-run"]);
    assert_eq!(dry.asked, ["revoke --label 'a=b c' None true".to_owned(), format!("show {ID}")]);
    assert!(dry.out.starts_with("Would revoke 1,204 tokens.\n") && dry.out.contains("and 1,203 more\n"), "{}", dry.out);
}
