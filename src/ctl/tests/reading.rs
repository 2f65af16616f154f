//! What is read page by page or as it comes: listings, the audit log, events.

use std::io;

use serde_json::Value;

use super::fake::{ID, SECOND, Screen, Script, run, run_on};
use crate::ctl::error::CtlError;
use crate::ctl::render::tests::{AUDIT, bare};
use crate::protocol::code::ErrorCode;
use crate::protocol::message::{AuditLines, Event, Failure, Tokens};

fn page(ids: &[&str], next: Option<&str>) -> Tokens {
    Tokens { tokens: ids.iter().map(|id| bare(id, "x")).collect(), next: next.map(|id| id.parse().unwrap()) }
}

#[test]
fn a_list_goes_over_pages_also_empty_ones() {
    let pages = || [page(&[ID], Some(ID)), page(&[], Some(SECOND)), page(&[SECOND], None)];
    let json = run(Script { pages: pages().into(), ..Script::default() }, &["list", "--json"]);
    let object: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((object["tokens"].as_array().unwrap().len(), &object["next"]), (2, &Value::Null));
    assert_eq!(json.asked, ["list 1000 None", &format!("list 1000 Some({ID})"), &format!("list 1000 Some({SECOND})")]);
    let table = run(Script { pages: pages().into(), ..Script::default() }, &["list"]);
    assert!(table.out.contains(ID) && table.out.contains(SECOND));

    let cut = Script { pages: [page(&[ID], Some(ID))].into(), ..Script::default() };
    let cut = run(cut, &["list", "--limit", "1"]);
    assert_eq!((cut.status, cut.err), (0, format!("More: bearerctl list … --after {ID}\n")));
    let cut = Script { pages: [page(&[ID], Some(ID))].into(), ..Script::default() };
    let object: Value = serde_json::from_str(&run(cut, &["list", "--limit", "1", "--json"]).out).unwrap();
    assert_eq!(object["next"], ID);
}

#[test]
fn an_empty_list_is_done_and_one_that_goes_in_circles_ends() {
    let empty = || Script { pages: [page(&[], None)].into(), ..Script::default() };
    let outcome = run(empty(), &["list"]);
    assert_eq!((outcome.status, outcome.out.as_str(), outcome.err.as_str()), (0, "", "No tokens.\n"));
    assert_eq!(run(empty(), &["list", "--json"]).out, "{\"tokens\":[],\"next\":null}\n");
    let circle = Script { pages: [page(&[], Some(ID)), page(&[], Some(ID))].into(), ..Script::default() };
    assert_eq!(run(circle, &["list"]).status, 70);
}

fn lines(lines: &[&str], next: &str, end: bool) -> AuditLines {
    AuditLines { lines: lines.iter().map(ToString::to_string).collect(), next: next.into(), end }
}

/// DESIGN: audit with --json is one object a line, as it stands in the log.
#[test]
fn audit_passes_lines_through() {
    let pages = || [lines(&AUDIT[..2], "2", false), lines(&[], "3", false), lines(&AUDIT[2..4], "4", true)];
    let json = run(Script { audit: pages().into(), ..Script::default() }, &["audit", "--json"]);
    assert_eq!(json.out, AUDIT[..4].iter().map(|line| format!("{line}\n")).collect::<String>());
    assert_eq!(json.asked[2], r#"audit after Some("3") wait false since false"#);
    let table = run(Script { audit: pages().into(), ..Script::default() }, &["audit"]);
    // Each page is a table of its own.
    assert_eq!((table.out.lines().count(), table.out.matches("TIME").count()), (7, 2));
    let none = run(Script { audit: [lines(&[], "0", true)].into(), ..Script::default() }, &["audit"]);
    assert_eq!((none.status, none.err.as_str()), (0, "No such lines.\n"));
}

/// A follower goes on where it was when the daemon is back, and stops when the daemon says that it may not.
#[test]
fn following_waits_at_the_end_and_outlives_a_restart() {
    let audit = [lines(&AUDIT[..1], "1", true), lines(&AUDIT[1..2], "2", true)].into();
    let mut script = Script { audit, ..Script::default() };
    let lost = CtlError::Lost("gone".into());
    let refused = CtlError::Unreachable("not there yet".into());
    let denied = || CtlError::Refused(Failure::new(ErrorCode::NotPermitted, "no"));
    script.refusals = [lost, refused, denied()].into();
    let outcome = run(script, &["audit", "--follow", "--json"]);
    assert_eq!((outcome.status, outcome.connects), (77, 3));
    assert_eq!(outcome.asked, ["audit after None wait false since true"; 3]);

    let audit = [lines(&AUDIT[..1], "1", true), lines(&AUDIT[1..2], "2", true)].into();
    let outcome = run(Script { audit, ..Script::default() }, &["audit", "-f"]);
    // Nothing is left to be answered: the fake refuses, and the loop ends.
    assert_eq!((outcome.status, outcome.out.lines().count()), (77, 3));
    assert_eq!(
        outcome.asked,
        [
            "audit after None wait false since true",
            r#"audit after Some("1") wait true since true"#,
            r#"audit after Some("2") wait true since true"#
        ]
    );
}

#[test]
fn a_broken_chain_is_bad_data() {
    let verify = |json: &str| Script { verify: json.into(), ..Script::default() };
    let whole =
        r#"{"ok":true,"lines":3,"first_bad":null,"segments":[],"unsealed_lines":0,"sealed_seq":2,"files":["f"]}"#;
    let outcome = run(verify(whole), &["audit", "verify"]);
    assert!(outcome.status == 0 && outcome.out.starts_with("intact"), "{}", outcome.out);
    let broken = whole.replace("true", "false").replace("null", r#"{"file":"f","line":2,"seq":1,"class":"changed"}"#);
    let outcome = run(verify(&broken), &["audit", "verify"]);
    assert!(
        outcome.status == 65 && outcome.out.starts_with("BROKEN at f, line 2, seq 1: the line is not"),
        "{}",
        outcome.out
    );
    let json = run(verify(&broken), &["audit", "verify", "--json"]);
    assert_eq!((json.status, json.out), (65, format!("{broken}\n")));
    // What does not say that the chain is whole is no proof that it is.
    assert_eq!(run(verify(r#"{"lines":3}"#), &["audit", "verify"]).status, 70);
}

fn event(seq: u64, event: &str, id: &str, subject: &str) -> Result<Event, CtlError> {
    let json = format!(r#"{{"seq":{seq},"event":"{event}","id":"{id}","subject":"{subject}"}}"#);
    Ok(Event { seq, gap: event == "gap", json })
}

fn streams(streams: Vec<Vec<Result<Event, CtlError>>>) -> Script {
    Script { streams: streams.into_iter().map(|left| (40, left.into())).collect(), ..Script::default() }
}

fn lost() -> Result<Event, CtlError> {
    Err(CtlError::Lost("lost".into()))
}

fn denied() -> Result<Event, CtlError> {
    Err(CtlError::Refused(Failure::new(ErrorCode::NotPermitted, "not any more")))
}

/// Every new connection begins after the newest line, be it that of a gap; what is final is the end.
#[test]
fn watch_goes_on_where_it_was() {
    let script = || {
        streams(vec![
            vec![event(41, "issue", ID, "a"), event(43, "revoke", ID, "a"), lost()],
            vec![lost()],
            // Cut off.
            vec![event(44, "issue", ID, "a"), event(60, "gap", "", "")],
            vec![event(61, "issue", ID, "a"), denied()],
        ])
    };
    let outcome = run(script(), &["watch"]);
    assert_eq!(outcome.asked, ["watch None", "watch Some(43)", "watch Some(43)", "watch Some(60)"]);
    let seqs: Vec<u64> =
        outcome.out.lines().map(|it| serde_json::from_str::<Value>(it).unwrap()["seq"].as_u64().unwrap()).collect();
    assert_eq!((outcome.status, seqs), (77, vec![41, 43, 44, 60, 61]));
    assert_eq!(outcome.err.lines().filter(|line| line.contains("going on after 43")).count(), 2, "{}", outcome.err);
    // One object a line is the only form that there is.
    let json = run(script(), &["watch", "--json"]);
    assert_eq!((json.out, json.err.lines().count()), (outcome.out, 1));
    // Before the first event, too: where the stream began is known.
    let early = run(streams(vec![vec![lost()], vec![denied()]]), &["watch"]);
    assert_eq!(early.asked, ["watch None", "watch Some(40)"]);
    // A daemon that was never there is not waited for.
    let refused = Script { refusals: [CtlError::Unreachable("nobody".into())].into(), ..Script::default() };
    assert_eq!(run(refused, &["watch"]).status, 69);
}

#[test]
fn watch_ends_after_so_many_and_when_nobody_reads() {
    let three = || streams(vec![(41..44).map(|seq| event(seq, "issue", ID, "a")).collect()]);
    let outcome = run(three(), &["watch", "--since", "40", "--limit", "2"]);
    assert_eq!((outcome.status, outcome.out.lines().count()), (0, 2));
    assert_eq!(outcome.asked, ["watch Some(40)"]);
    let screen = Screen { fails: Some(io::ErrorKind::BrokenPipe), ..Screen::default() };
    let outcome = run_on(three(), &["watch"], screen);
    assert_eq!((outcome.status, outcome.err.as_str()), (0, ""));
}

/// A gap passes every filter: what was asked for may be in it.
#[test]
fn watch_prints_what_was_asked_for() {
    let other = "01M844DZG0FAY828T5CY4TQKFG";
    let script = || {
        streams(vec![vec![
            event(41, "issue", ID, "a"),
            event(42, "issue", other, "b"),
            event(43, "revoke", ID, "a"),
            event(44, "gap", "", ""),
            event(45, "expire", other, "b"),
            denied(),
        ]])
    };
    let head = format!("brdm_{ID}");
    for (args, seqs) in [
        (&["--event", "issue", "--event", "expire"][..], &[41, 42, 44, 45][..]),
        (&["--token", ID], &[41, 43, 44]),
        (&["--token", &head], &[41, 43, 44]),
        (&["--token", &ID[..16]], &[41, 42, 43, 44, 45]),
        (&["--subject", "b"], &[42, 44, 45]),
        (&["--subject", "a", "--event", "revoke"], &[43, 44]),
    ] {
        let outcome = run(script(), &[&["watch"], args].concat());
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap();
        assert_eq!(outcome.out.lines().map(line).collect::<Vec<_>>(), seqs, "{args:?}");
    }
}
