//! A daemon that needs no socket: it notes what it is asked and answers by a script.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;

use crate::ctl::console::Console;
use crate::ctl::daemon::{Daemon, Events, Patience};
use crate::ctl::error::CtlError;
use crate::ctl::render::tests::{TOKEN, now, status_object, tokens};
use crate::protocol::code::{ErrorCode, Reason};
use crate::protocol::message::{
    AuditLines, AuditQuery, BackupAsk, BackupPiece, Changed, Chosen, Edit, Event, Failure, Foreign, Handle, Hold,
    ImportEntry, ImportOutcome, Issue, Issued, List, RekeyProgress, Rekeyed, Revoke, Rotate, Rotated, SecretText,
    Shown, TokenInfo, Tokens, Validate, Verdict, Which,
};
use crate::time::UnixTime;

pub(super) const ID: &str = "01M844DZG0FAY828T5CY4TQKFF";
pub(super) const SECOND: &str = "01M844E0M8F1V8Q4ZC0T2W3K4N";

/// What was asked, in words, and what is answered.
#[derive(Default)]
pub(super) struct Script {
    pub(super) asked: Vec<String>,
    pub(super) refusals: VecDeque<CtlError>,
    pub(super) verdict: Option<Verdict>,
    pub(super) changed: Option<Changed>,
    pub(super) pages: VecDeque<Tokens>,
    pub(super) audit: VecDeque<AuditLines>,
    pub(super) verify: String,
    pub(super) streams: VecDeque<(u64, VecDeque<Result<Event, CtlError>>)>,
    pub(super) rekeyed: Option<Rekeyed>,
    pub(super) progress: VecDeque<RekeyProgress>,
    pub(super) imported: VecDeque<Vec<ImportOutcome>>,
    /// After so many questions the connection is gone.
    pub(super) lost_after: Option<usize>,
    pub(super) rotated: Option<Rotated>,
    /// What is typed when it is asked; `None` = nobody is there.
    pub(super) answers: Option<&'static str>,
    pub(super) connects: u32,
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
pub(super) struct Screen {
    pub(super) text: Rc<RefCell<Vec<u8>>>,
    pub(super) fails: Option<io::ErrorKind>,
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

pub(super) struct Outcome {
    pub(super) status: u8,
    pub(super) out: String,
    pub(super) err: String,
    pub(super) asked: Vec<String>,
    pub(super) connects: u32,
}

pub(super) fn run_on(script: Script, args: &[&str], out: Screen) -> Outcome {
    let script = Rc::new(RefCell::new(script));
    let err = Screen::default();
    let mut console = Console::captured(out.clone(), err.clone(), now());
    if let Some(answers) = script.borrow().answers {
        console.answered_by(answers.as_bytes());
    }
    let args = std::iter::once("bearerctl").chain(args.iter().copied()).map(OsString::from).collect();
    let connect = |_: Option<&Path>, _: Patience| {
        script.borrow_mut().connects += 1;
        Ok(Box::new(Fake(script.clone())) as Box<dyn Daemon>)
    };
    let status = crate::ctl::run(args, &mut console, &connect);
    let text = |screen: &Screen| String::from_utf8(screen.text.borrow().clone()).unwrap();
    let asked = std::mem::take(&mut script.borrow_mut().asked);
    let connects = script.borrow().connects;
    Outcome { status, out: text(&out), err: text(&err), asked, connects }
}

pub(super) fn run(script: Script, args: &[&str]) -> Outcome {
    run_on(script, args, Screen::default())
}

/// A file with a token in it, gone with the value.
pub(super) struct TokenFile(std::path::PathBuf);

impl TokenFile {
    pub(super) fn new(test: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bearerctl-{test}-{}", std::process::id()));
        fs::write(&path, content).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub(super) fn verdict(reason: Option<Reason>) -> Script {
    let token = Some(Box::new(tokens().swap_remove(0)));
    let verdict = Verdict { active: reason.is_none(), reason, missing_scopes: Vec::new(), token };
    Script { verdict: Some(verdict), ..Script::default() }
}

pub(super) fn changed(count: u64, ids: &[&str]) -> Script {
    let ids = ids.iter().map(|id| id.parse().unwrap()).collect();
    Script { changed: Some(Changed { count, ids, dry_run: false, still_good: Vec::new() }), ..Script::default() }
}

pub(super) fn refusal(code: ErrorCode) -> Script {
    let failure = Failure::new(code, "this: can't be;\n try that");
    Script { refusals: [CtlError::Refused(failure)].into(), ..Script::default() }
}
