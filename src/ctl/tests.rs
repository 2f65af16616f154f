//! Whole commands against a daemon that needs no socket: what goes out where, and with which status.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;

use super::console::Console;
use super::daemon::{Daemon, Events, Patience};
use super::error::CtlError;
use super::render::tests::{AUDIT, TOKEN, bare, now, status_object, tokens};
use crate::protocol::code::{ErrorCode, Reason};
use crate::protocol::message::{
    AuditLines, AuditQuery, BackupAsk, BackupPiece, Changed, Chosen, Edit, Ends, Event, Failure, Foreign, Handle, Hold,
    ImportEntry, ImportOutcome, Issue, Issued, List, RekeyProgress, Rekeyed, Revoke, Rotate, Rotated, SecretText,
    Shown, TokenFacts, TokenInfo, Tokens, Validate, Verdict, Which,
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
    streams: VecDeque<(u64, VecDeque<Result<Event, CtlError>>)>,
    rekeyed: Option<Rekeyed>,
    progress: VecDeque<RekeyProgress>,
    imported: VecDeque<Vec<ImportOutcome>>,
    /// After so many questions the connection is gone.
    lost_after: Option<usize>,
    rotated: Option<Rotated>,
    connects: u32,
}

struct Fake(Rc<RefCell<Script>>);

impl Fake {
    fn held(&self, verb: &str, ask: &Hold) -> Result<Changed, CtlError> {
        let changed = self.asked(format!("{verb} {}", held(ask)))?.changed.clone().unwrap();
        Ok(Changed { dry_run: ask.dry_run, ..changed })
    }

    fn asked(&self, what: String) -> Result<std::cell::RefMut<'_, Script>, CtlError> {
        let mut script = self.0.borrow_mut();
        script.asked.push(what);
        match script.refusals.pop_front() {
            Some(error) => Err(error),
            None => Ok(script),
        }
    }
}

/// A stream of events that was thought up.
struct Stream {
    seq: u64,
    left: VecDeque<Result<Event, CtlError>>,
}

impl Events for Stream {
    fn next(&mut self) -> Option<Result<Event, CtlError>> {
        let next = self.left.pop_front();
        if let Some(Ok(event)) = &next {
            self.seq = event.seq;
        }
        next
    }

    fn seq(&self) -> u64 {
        self.seq
    }
}

impl Daemon for Fake {
    fn validate(&mut self, ask: &Validate<'_>) -> Result<Verdict, CtlError> {
        let what = format!("validate {} {:?} {:?} {:?}", ask.token == TOKEN, ask.scopes, ask.audience, ask.peek);
        Ok(self.asked(what)?.verdict.clone().unwrap())
    }

    fn validate_batch(&mut self, asks: &[Validate<'_>]) -> Result<Vec<Verdict>, CtlError> {
        let all = asks.iter().all(|ask| ask.token == TOKEN && ask.peek);
        let script = self.asked(format!("batch of {} {all}", asks.len()))?;
        Ok(vec![script.verdict.clone().unwrap(); asks.len()])
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

    fn show(&mut self, token: &Handle) -> Result<Shown, CtlError> {
        self.asked(format!("show {}", token.0))?;
        let info = tokens().swap_remove(0);
        Ok(Shown { info, uses_by: Vec::new(), safe_to_cut: None, relatives: Vec::new() })
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

    fn rekey(&mut self) -> Result<Rekeyed, CtlError> {
        let mut script = self.asked("rekey".into())?;
        Ok(script.rekeyed.take().unwrap())
    }

    fn rekey_data(&mut self) -> Result<RekeyProgress, CtlError> {
        let mut script = self.asked("rekey data".into())?;
        Ok(script.progress.pop_front().unwrap())
    }

    fn rekey_progress(&mut self) -> Result<RekeyProgress, CtlError> {
        let mut script = self.asked("progress".into())?;
        Ok(script.progress.pop_front().unwrap())
    }

    fn recovery_key(&mut self) -> Result<Rekeyed, CtlError> {
        let mut script = self.asked("recovery key".into())?;
        Ok(script.rekeyed.take().unwrap())
    }

    fn watch(&mut self, since: Option<u64>) -> Result<Box<dyn Events>, CtlError> {
        let stream = self.asked(format!("watch {since:?}"))?.streams.pop_front().unwrap();
        Ok(Box::new(Stream { seq: since.unwrap_or(stream.0), left: stream.1 }))
    }

    /// Three bytes a piece, and then the last.
    fn backup(&mut self, ask: BackupAsk) -> Result<BackupPiece, CtlError> {
        self.asked(format!("backup after {:?}", ask.after))?;
        let got = ask.after.unwrap_or(0);
        let next = (got < 9).then_some(got + 3);
        Ok(BackupPiece { bytes: b"abc".to_vec(), next, generation: 7, rows: got / 3 + 1, rows_total: 4 })
    }

    fn import(&mut self, entries: &[ImportEntry<'_>]) -> Result<Vec<ImportOutcome>, CtlError> {
        let of = |entry: &ImportEntry<'_>| match entry.token {
            Foreign::Text(text) => format!("{}={text}", entry.facts.name),
            Foreign::Sha256(hash) => format!("{}=#{:02x}", entry.facts.name, hash[0]),
        };
        let what = entries.iter().map(of).collect::<Vec<_>>().join(" ");
        let id = ID.parse().unwrap();
        let mut script = self.asked(format!("import {what}"))?;
        if script.lost_after.is_some_and(|after| script.asked.len() > after) {
            return Err(CtlError::Lost("the end".into()));
        }
        let all = || vec![ImportOutcome::Taken(id); entries.len()];
        Ok(script.imported.pop_front().unwrap_or_else(all))
    }
    fn edit(&mut self, ask: &Edit) -> Result<TokenInfo, CtlError> {
        let Edit { token, name, labels, unlabel, allow_from, allow_units, allow_uids, scopes, drop_scopes, ends } = ask;
        self.asked(format!(
            "edit {} {name:?} {labels:?} {unlabel:?} {allow_from:?} {allow_units:?} {allow_uids:?} {scopes:?} \
             {drop_scopes:?} {ends:?}",
            token.0
        ))?;
        Ok(tokens().swap_remove(0))
    }

    fn renew(&mut self, token: &Handle) -> Result<TokenInfo, CtlError> {
        self.asked(format!("renew {}", token.0))?;
        Ok(tokens().swap_remove(0))
    }

    fn rotate(&mut self, ask: &Rotate) -> Result<Rotated, CtlError> {
        let mut script = self.asked(format!("rotate {} {} {:?}", ask.token.0, ask.now, ask.grace))?;
        let mut info = tokens().swap_remove(0);
        info.facts.predecessor = Some(SECOND.parse().unwrap());
        Ok(script.rotated.take().unwrap_or(Rotated {
            token: SecretText::new(TOKEN.into()),
            info,
            predecessor_ends_at: Some(now().saturating_add(Duration::from_secs(7 * 86_400))),
            grace: Duration::from_secs(300),
            replaced: None,
            ended: None,
        }))
    }
}

fn held(ask: &Hold) -> String {
    let which = match &ask.which {
        Chosen::Handles(ids) => ids.iter().map(|id| id.0.as_str()).collect::<Vec<_>>().join(","),
        Chosen::Filter(filter) => filter.to_string(),
    };
    format!("{which} {:?} {}", ask.reason, ask.dry_run)
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
