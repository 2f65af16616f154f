//! Whole commands against a daemon that needs no socket: what goes out where, and with which status.

mod fake;
mod reading;
mod tokens;

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};

use serde_json::Value;

use super::error::CtlError;
use super::render::tests::{TOKEN, status_object};
use crate::protocol::code::{ErrorCode, Reason};
use crate::protocol::message::{Failure, ImportOutcome, RekeyProgress, Rekeyed, SecretText, Verdict};
use fake::{ID, Screen, Script, TokenFile, changed, refusal, run, run_on, verdict};

#[test]
fn errors_are_one_line_and_have_their_status() {
    for code in ErrorCode::ALL {
        let outcome = run(refusal(code), &["show", ID]);
        assert_eq!(outcome.status, super::error::status_of(code), "{code:?}");
        assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("", "bearerctl: this: can't be; try that\n"));
        let json = run(refusal(code), &["show", ID, "--json"]);
        let object: Value = serde_json::from_str(&json.err).unwrap();
        assert_eq!(object["error"]["code"], code.name());
        assert_eq!((json.out.as_str(), object["error"]["message"].as_str()), ("", Some("this: can't be; try that")));
    }
}

#[test]
fn usage_errors_are_one_line_with_status_64() {
    for (args, says) in [
        (&["lst"][..], "unrecognized subcommand 'lst'; a similar subcommand exists: 'list'; see '--help'"),
        (&["issue"], "the following required arguments were not provided: <NAME>; see '--help'"),
        (
            &["list", "--limt", "3"],
            "unexpected argument '--limt' found; a similar argument exists: '--limit'; see '--help'",
        ),
        (&["list", "--limit", "x"], "invalid value 'x' for '--limit <N>': invalid digit found in string; see '--help'"),
        (&["show", "glpat-0123456789abcdef"], "invalid value '(not shown)' for '<ID>': not an id"),
        (&["validate", "glpat-0123456789abcdef"], "unexpected argument '(not shown)' found"),
        (&["glpat-0123456789abcdef"], "unrecognized subcommand '(not shown)'"),
    ] {
        let outcome = run(Script::default(), args);
        assert_eq!((outcome.status, outcome.out.as_str(), outcome.connects), (64, "", 0), "{args:?}");
        assert!(outcome.err.starts_with(&format!("bearerctl: {says}")), "{args:?}: {}", outcome.err);
        assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);
    }
    let json = run(Script::default(), &["--json", "lst"]);
    assert_eq!(serde_json::from_str::<Value>(&json.err).unwrap()["error"]["code"], "usage");
    let bare = run(Script::default(), &[]);
    assert_eq!((bare.status, bare.out.as_str()), (64, ""));
    assert!(bare.err.contains("Usage: bearerctl"));
}

#[test]
fn help_and_version_are_results() {
    for args in
        [&["--help"][..], &["-h"], &["issue", "--help"], &["help", "audit", "verify"], &["audit", "verify", "-h"]]
    {
        let outcome = run(Script::default(), args);
        assert_eq!((outcome.status, outcome.err.as_str()), (0, ""), "{args:?}");
        assert!(outcome.out.contains("Usage: bearerctl"), "{args:?}: {}", outcome.out);
    }
    let version = run(Script::default(), &["--version"]);
    assert_eq!((version.status, version.out), (0, format!("bearerctl {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn the_other_commands_answer() {
    let status = run(Script::default(), &["status", "--json"]);
    assert_eq!((status.status, status.out), (0, format!("{}\n", Value::Object(status_object()))));
    assert!(run(Script::default(), &["status"]).out.contains("12,345 tokens"));
    let show = run(Script::default(), &["show", &format!("brdm_{ID}")]);
    assert_eq!((show.status, show.asked), (0, vec![format!("show brdm_{ID}")]));
    assert!(show.out.starts_with(&format!("id            {ID}\n")), "{}", show.out);
    let summary = run(Script::default(), &["audit", "--token", ID, "--summary", "--json"]);
    assert_eq!((summary.out.as_str(), summary.asked), ("{\"rows\":[]}\n", vec![format!("summary {ID}")]));
    let reset = run(Script::default(), &["clock", "reset", "--json"]);
    assert_eq!(reset.out, "{\"now\":\"2026-11-23T17:42:09.000000Z\"}\n");
    for shell in ["bash", "zsh", "fish"] {
        let script = run(Script::default(), &["completions", shell]);
        assert!(script.status == 0 && script.out.contains("expiring-within"), "{shell}");
    }
}

/// Who has no rule may end one token a second, and is not told how tokens stand: a scan waits, and says it once.
#[test]
fn a_scan_ends_tokens_at_the_pace_that_the_daemon_allows() {
    let file = TokenFile::new("scan", &format!("KEY={TOKEN}\nagain {TOKEN}\n"));
    let refused = |code| CtlError::Refused(Failure::new(code, "no"));
    let script = || Script { refusals: [refused(ErrorCode::NotPermitted)].into(), ..changed(1, &[ID]) };
    let mut slow = script();
    slow.refusals.push_back(refused(ErrorCode::LimitReached));
    slow.refusals.push_back(CtlError::Lost("it restarts".into()));
    let outcome = run(slow, &["scan", file.path(), "--revoke", "--yes", "--reason", "leaked"]);
    assert_eq!((outcome.status, outcome.connects), (1, 3), "{}", outcome.err);
    let revoke = r#"revoke token true Some("leaked") false"#;
    assert_eq!(outcome.asked, ["batch of 1 true", revoke, revoke, revoke]);
    assert_eq!(outcome.out, format!("{}:1: brdm_{ID}, 2 times\n", file.path()));
    let said = ["not known: to ask for it, you need the right to validate", "one by one", "Revoked 1 token."];
    assert!(said.iter().all(|words| outcome.err.matches(words).count() == 1), "{}", outcome.err);

    // What does not get better by waiting ends it, and the find stays a find for programs.
    let mut denied = script();
    denied.refusals.push_back(refused(ErrorCode::BadRequest));
    let outcome = run(denied, &["scan", file.path(), "--revoke", "-y", "--json"]);
    let object: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!((outcome.status, outcome.asked.len()), (64, 2));
    assert_eq!((&object["found"][0]["revoked"], object["daemon"].as_str()), (&false.into(), Some("not_permitted")));
    // With --live there is nothing to be said without the daemon.
    assert_eq!(run(script(), &["scan", file.path(), "--live"]).status, 77);
}

/// Each state of a token that is found decides whether it counts as live, and whether there is anything to end.
#[test]
fn a_scan_says_how_tokens_stand() {
    let file = TokenFile::new("stands", TOKEN);
    let mut script = verdict(Some(Reason::WrongPeer));
    script.changed = changed(1, &[ID]).changed;
    let outcome = run(script, &["scan", file.path(), "--live", "--revoke", "--yes"]);
    // That this peer may not use it does not make it harmless.
    assert_eq!((outcome.status, outcome.asked.len()), (1, 2), "{}", outcome.err);
    assert_eq!(outcome.out, format!("{}:1: brdm_{ID} active, backup of backup\n", file.path()));

    let unknown = Verdict { active: false, reason: Some(Reason::Unknown), missing_scopes: Vec::new(), token: None };
    let script = || Script { verdict: Some(unknown.clone()), ..Script::default() };
    let outcome = run(script(), &["scan", file.path(), "--revoke", "--yes"]);
    assert_eq!((outcome.status, outcome.asked.len()), (1, 1));
    assert!(outcome.out.ends_with(" unknown\n") && outcome.err.contains("nothing to revoke"), "{}", outcome.err);
    assert_eq!(run(script(), &["scan", file.path(), "--live"]).status, 0);
}

fn rekeyed(key: Option<&str>) -> Rekeyed {
    Rekeyed {
        slot: "4db3cfbc236ada05".into(),
        installed: key.is_none(),
        origin: "/var/lib/bearerd-key/master.key".into(),
        dropped: vec!["f80b1daa9719f1fb".into()],
        key: key.map(|key| SecretText::new(key.to_owned())),
    }
}

/// docs/man/bearerctl.1.md, `rekey`: a key goes alone to standard output, what to do with it to standard error.
#[test]
fn a_new_key_stands_alone_on_stdout() {
    const KEY: &str = "bearerd-key-1 4db3cfbc236ada05 01337f";
    for (words, asked) in [(["rekey"], "rekey"), (["recovery-key"], "recovery key")] {
        let script = || Script { rekeyed: Some(rekeyed(Some(KEY))), ..Script::default() };
        let outcome = run_on(script(), &words, Screen::default());
        assert_eq!((outcome.status, outcome.out.as_str()), (0, format!("{KEY}\n").as_str()));
        assert!(outcome.err.contains("4db3cfbc236ada05") && !outcome.err.contains("01337f"), "{}", outcome.err);
        assert_eq!(outcome.asked, [asked]);
        let json = run_on(script(), &["--json", words[0]], Screen::default());
        let object: Value = serde_json::from_str(&json.out).unwrap();
        assert_eq!(object["key"], KEY);
        assert_eq!((&object["slot"], &object["dropped"][0]), (&"4db3cfbc236ada05".into(), &"f80b1daa9719f1fb".into()));
        assert_eq!(json.err, "");
        // What can't be printed is lost, and that is said.
        let full = Screen { fails: Some(io::ErrorKind::StorageFull), ..Screen::default() };
        let lost = run_on(script(), &words, full);
        assert_eq!(lost.status, 74);
        assert!(lost.err.contains("it is lost") && !lost.err.contains("01337f"), "{}", lost.err);
    }
    let outcome = run_on(Script { rekeyed: Some(rekeyed(None)), ..Script::default() }, &["rekey"], Screen::default());
    assert_eq!(outcome.status, 0);
    assert!(
        outcome.out.contains("in force: key 4db3cfbc236ada05")
            && outcome.out.contains("f80b1daa9719f1fb opens nothing")
    );
    let json = Script { rekeyed: Some(rekeyed(None)), ..Script::default() };
    let json: Value = serde_json::from_str(&run_on(json, &["rekey", "--json"], Screen::default()).out).unwrap();
    assert!(json["key"].is_null() && json["installed"] == true);
}

/// It is followed to its end; what stops it short of that is no success.
#[test]
fn sealing_anew_is_followed_to_its_end() {
    let at = |running, done, fault: Option<&str>| RekeyProgress {
        running,
        finished: done == 3,
        epoch: 2,
        done,
        total: 3,
        fault: fault.map(str::to_owned),
    };
    let script = |steps: Vec<RekeyProgress>| Script { progress: steps.into(), ..Script::default() };
    let run = |steps, words: &[&str]| run_on(script(steps), words, Screen::default());
    let done = run(vec![at(true, 0, None), at(true, 1, Some("full")), at(false, 3, None)], &["rekey", "--data"]);
    assert_eq!(done.asked, ["rekey data", "progress", "progress"]);
    assert_eq!((done.status, done.connects), (0, 1));
    assert!(done.out.contains("3 values under record key 2"), "{}", done.out);
    let json = run(vec![at(false, 3, None)], &["rekey", "--data", "--json"]);
    assert_eq!(json.out, "{\"epoch\":2,\"values\":3}\n");
    let broken = run(vec![at(true, 0, None), at(false, 1, Some("a value does not open"))], &["rekey", "--data"]);
    assert_eq!(broken.status, 70);
    assert!(broken.err.contains("a value does not open") && broken.out.is_empty());
    let stopped = run(vec![at(true, 0, None), at(false, 1, None)], &["rekey", "--data"]);
    assert_eq!(stopped.status, 75);
}

/// A file of so many good tokens, with a weak one as its second line.
fn tokens_file(count: usize) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for n in 0..count {
        let weak = "passwordpassword\n";
        let good = format!("q8Zr2Lm7Xv4Tk9Wb{n}\n");
        file.write_all(if n == 1 { weak.as_bytes() } else { good.as_bytes() }).unwrap();
    }
    file
}

#[test]
fn an_import_goes_in_batches_and_is_reported_by_line() {
    let file = tokens_file(600);
    let path = file.path().to_str().unwrap();
    let ran = run_on(Script::default(), &["--json", "import", path, "--name-prefix", "old"], Screen::default());
    assert_eq!(ran.status, 65);
    let sizes: Vec<usize> = ran.asked.iter().map(|asked| asked.split(' ').count() - 1).collect();
    assert_eq!(sizes, [256, 256, 87]);
    assert!(ran.asked[0].starts_with("import old-1=q8Zr2Lm7Xv4Tk9Wb0 old-3=q8Zr2Lm7Xv4Tk9Wb2 "));
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&report["taken"], &report["already"]), (&599.into(), &0.into()));
    assert_eq!((&report["refused"][0]["line"], &report["tokens"][1]["line"]), (&2.into(), &3.into()));
    assert!(!ran.out.contains("q8Zr") && !ran.out.contains("password"));
    assert_eq!(ran.connects, 1);
}

#[test]
fn an_import_that_breaks_off_says_where() {
    let file = tokens_file(600);
    let path = file.path().to_str().unwrap();
    let id = ID.parse().unwrap();
    let script = || {
        let first = vec![ImportOutcome::Already(id); 256];
        Script { imported: [first].into(), refusals: VecDeque::new(), ..Script::default() }
    };
    let mut broken = script();
    broken.lost_after = Some(1);
    let ran = run_on(broken, &["import", path], Screen::default());
    assert_eq!(ran.status, 75);
    assert!(ran.out.contains("broken off: what became of line 258 and those after it is not known"), "{}", ran.out);
    assert!(ran.out.contains("0 taken, 256 there already, 1 not taken"), "{}", ran.out);
    assert!(ran.err.contains("the end"), "{}", ran.err);
    let mut broken = script();
    broken.lost_after = Some(1);
    let ran = run_on(broken, &["--json", "import", path], Screen::default());
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&report["unfinished_from"], &report["already"]), (&258.into(), &256.into()));
    // Refused whole: there is nothing to report.
    let refused = CtlError::Refused(Failure::new(ErrorCode::NotPermitted, "no"));
    let script = Script { refusals: [refused].into(), ..Script::default() };
    let short = tokens_file(1);
    let ran = run_on(script, &["import", short.path().to_str().unwrap()], Screen::default());
    assert_eq!((ran.status, ran.out.as_str()), (77, ""));
}

#[test]
fn a_backup_is_asked_for_piece_by_piece_and_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b");
    let file = path.to_str().unwrap();
    let done = run(Script::default(), &["backup", "--json", file]);
    let wanted = ["None", "Some(3)", "Some(6)", "Some(9)"].map(|after| format!("backup after {after}"));
    assert_eq!((done.status, &done.asked[..]), (super::error::OK, &wanted[..]));
    assert_eq!(fs::read(&path).unwrap(), b"abcabcabcabc");
    let object: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((&object["bytes"], &object["rows"], &object["generation"]), (&12.into(), &4.into(), &7.into()));
    // Nothing is asked for in vain.
    let there = run(Script::default(), &["backup", file]);
    assert_eq!((there.status, there.connects), (super::error::USAGE, 0));
    assert!(there.err.contains("--force"), "{}", there.err);
    let again = run(Script::default(), &["backup", "--force", "--quiet", file]);
    assert_eq!((again.status, again.out, again.err), (super::error::OK, String::new(), String::new()));
    // One that the daemon refuses leaves what was there.
    let refused = run(refusal(ErrorCode::NotPermitted), &["backup", "--force", file]);
    assert_eq!(refused.status, super::error::NOT_PERMITTED);
    assert_eq!(fs::read(&path).unwrap(), b"abcabcabcabc");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
