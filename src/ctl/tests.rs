//! Whole commands against a daemon that needs no socket: what goes out where, and with which status.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;

use serde_json::Value;

use super::console::Console;
use super::daemon::{Daemon, Patience};
use super::error::CtlError;
use super::render::tests::{AUDIT, TOKEN, bare, now, status_object, tokens};
use crate::protocol::code::{ErrorCode, Reason};
use crate::protocol::message::{
    AuditLines, AuditQuery, Changed, Chosen, Failure, Handle, Hold, Issue, Issued, List, Revoke, SecretText, TokenInfo,
    Tokens, Validate, Verdict, Which,
};
use crate::time::UnixTime;

const ID: &str = "01M844DZG0FAY828T5CY4TQKFF";

/// What was asked, in words, and what is answered.
#[derive(Default)]
struct Script {
    asked: Vec<String>,
    refusals: VecDeque<CtlError>,
    verdict: Option<Verdict>,
    changed: Option<Changed>,
    pages: VecDeque<Tokens>,
    audit: VecDeque<AuditLines>,
    verify: String,
    connects: u32,
}

struct Fake(Rc<RefCell<Script>>);

impl Fake {
    fn asked(&self, what: String) -> Result<std::cell::RefMut<'_, Script>, CtlError> {
        let mut script = self.0.borrow_mut();
        script.asked.push(what);
        match script.refusals.pop_front() {
            Some(error) => Err(error),
            None => Ok(script),
        }
    }
}

impl Fake {
    fn held(&self, verb: &str, ask: &Hold) -> Result<Changed, CtlError> {
        let which = match &ask.which {
            Chosen::Handles(ids) => ids.iter().map(|id| id.0.as_str()).collect::<Vec<_>>().join(","),
            Chosen::Filter(filter) => filter.to_string(),
        };
        let changed = self.asked(format!("{verb} {which} {:?} {}", ask.reason, ask.dry_run))?.changed.clone().unwrap();
        Ok(Changed { dry_run: ask.dry_run, ..changed })
    }
}

impl Daemon for Fake {
    fn validate(&mut self, ask: &Validate<'_>) -> Result<Verdict, CtlError> {
        let what = format!("validate {} {:?} {:?} {:?}", ask.token == TOKEN, ask.scopes, ask.audience, ask.peek);
        Ok(self.asked(what)?.verdict.clone().unwrap())
    }

    fn issue(&mut self, ask: &Issue) -> Result<Issued, CtlError> {
        self.asked(format!("issue {}", ask.name))?;
        Ok(Issued { token: SecretText::new(TOKEN.into()), info: tokens().swap_remove(0) })
    }

    fn revoke(&mut self, ask: &Revoke<'_>) -> Result<Changed, CtlError> {
        let which = match &ask.which {
            Which::Handles(ids) => ids.iter().map(|id| id.0.as_str()).collect::<Vec<_>>().join(","),
            Which::Token(token) => format!("token {}", *token == TOKEN),
            Which::Filter(filter) => filter.to_string(),
        };
        let changed = self.asked(format!("revoke {which} {:?} {}", ask.reason, ask.dry_run))?.changed.clone().unwrap();
        Ok(Changed { dry_run: ask.dry_run, ..changed })
    }

    fn suspend(&mut self, ask: &Hold) -> Result<Changed, CtlError> {
        self.held("suspend", ask)
    }

    fn resume(&mut self, ask: &Hold) -> Result<Changed, CtlError> {
        self.held("resume", ask)
    }

    fn show(&mut self, token: &Handle) -> Result<TokenInfo, CtlError> {
        self.asked(format!("show {}", token.0))?;
        Ok(tokens().swap_remove(0))
    }

    fn list(&mut self, ask: &List) -> Result<Tokens, CtlError> {
        let mut script = self.asked(format!("list {} {:?}", ask.limit, ask.after))?;
        Ok(script.pages.pop_front().unwrap())
    }

    fn status(&mut self) -> Result<String, CtlError> {
        self.asked("status".into())?;
        Ok(Value::Object(status_object()).to_string())
    }

    fn audit(&mut self, query: &AuditQuery) -> Result<AuditLines, CtlError> {
        let what = format!("audit after {:?} wait {} since {}", query.after, query.wait, query.since.is_some());
        let over = || CtlError::Refused(Failure::new(ErrorCode::NotPermitted, "no more"));
        self.asked(what)?.audit.pop_front().ok_or_else(over)
    }

    fn audit_summary(&mut self, token: &Handle) -> Result<String, CtlError> {
        self.asked(format!("summary {}", token.0))?;
        Ok(r#"{"rows":[]}"#.into())
    }

    fn audit_verify(&mut self) -> Result<String, CtlError> {
        Ok(self.asked("verify".into())?.verify.clone())
    }

    fn clock_reset(&mut self) -> Result<UnixTime, CtlError> {
        self.asked("reset".into())?;
        Ok(now())
    }
}

/// Standard output or standard error of a test; takes so many bytes and then fails.
#[derive(Clone, Default)]
struct Screen {
    text: Rc<RefCell<Vec<u8>>>,
    fails: Option<io::ErrorKind>,
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.fails {
            Some(kind) => Err(kind.into()),
            None => self.text.borrow_mut().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Outcome {
    status: u8,
    out: String,
    err: String,
    asked: Vec<String>,
    connects: u32,
}

fn run_on(script: Script, args: &[&str], out: Screen) -> Outcome {
    let script = Rc::new(RefCell::new(script));
    let err = Screen::default();
    let mut console = Console::captured(out.clone(), err.clone(), now());
    let args = std::iter::once("bearerctl").chain(args.iter().copied()).map(OsString::from).collect();
    let connect = |_: Option<&Path>, _: Patience| {
        script.borrow_mut().connects += 1;
        Ok(Box::new(Fake(script.clone())) as Box<dyn Daemon>)
    };
    let status = super::run(args, &mut console, &connect);
    let text = |screen: &Screen| String::from_utf8(screen.text.borrow().clone()).unwrap();
    let asked = std::mem::take(&mut script.borrow_mut().asked);
    let connects = script.borrow().connects;
    Outcome { status, out: text(&out), err: text(&err), asked, connects }
}

fn run(script: Script, args: &[&str]) -> Outcome {
    run_on(script, args, Screen::default())
}

/// A file with a token in it, gone with the value.
struct TokenFile(std::path::PathBuf);

impl TokenFile {
    fn new(test: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bearerctl-{test}-{}", std::process::id()));
        fs::write(&path, content).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn verdict(reason: Option<Reason>) -> Script {
    let token = Some(Box::new(tokens().swap_remove(0)));
    let verdict = Verdict { active: reason.is_none(), reason, missing_scopes: Vec::new(), token };
    Script { verdict: Some(verdict), ..Script::default() }
}

fn changed(count: u64, ids: &[&str]) -> Script {
    let ids = ids.iter().map(|id| id.parse().unwrap()).collect();
    Script { changed: Some(Changed { count, ids, dry_run: false, still_good: Vec::new() }), ..Script::default() }
}

fn refusal(code: ErrorCode) -> Script {
    let failure = Failure::new(code, "this: can't be;\n try that");
    Script { refusals: [CtlError::Refused(failure)].into(), ..Script::default() }
}

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

fn page(ids: &[&str], next: Option<&str>) -> Tokens {
    Tokens { tokens: ids.iter().map(|id| bare(id, "x")).collect(), next: next.map(|id| id.parse().unwrap()) }
}

const SECOND: &str = "01M844E0M8F1V8Q4ZC0T2W3K4N";

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

/// What is meant is shown and asked before anything is done; what is done is said, and a filter that means nothing is told.
#[test]
fn many_are_changed_only_after_a_yes() {
    let pages = || VecDeque::from([Tokens { tokens: tokens(), next: None }]);
    let asked = |answer: &'static str, count: u64| {
        let script = Rc::new(RefCell::new(changed(count, &[ID])));
        script.borrow_mut().pages = pages();
        let (out, err) = (Screen::default(), Screen::default());
        let mut console = Console::captured(out.clone(), err.clone(), now());
        console.answered_by(answer.as_bytes());
        let args = ["bearerctl", "suspend", "--subject", "alice"].into_iter().map(OsString::from).collect();
        let fake = script.clone();
        let connect = move |_: Option<&Path>, _: Patience| Ok(Box::new(Fake(fake.clone())) as Box<dyn Daemon>);
        let status = super::run(args, &mut console, &connect);
        let text = |screen: &Screen| String::from_utf8(screen.text.borrow().clone()).unwrap();
        (status, text(&out), text(&err), script.borrow().asked.clone())
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
