//! `bearerd demo`: a guided tour against a real daemon in a directory of its own.
//!
//! Every step says what a person would type, shows what came of it, and is checked: the tour is a success only if every
//! outcome was the one that the documentation promises. Tokens are shown without their secrets. Nothing is left behind
//! (`stage`).

mod stage;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::client::ClientError;
use crate::client::blocking::Client;
use crate::ctl::console::Console;
use crate::ctl::error::CtlError;
use crate::ctl::render;
use crate::ctl::render::style::{Ink, ink};
use crate::protocol::code::Reason;
use crate::protocol::message::{
    AuditQuery, Handle, Issue, Issued, Revoke, Rotate, TokenInfo, Validate, Verdict, Which,
};
use crate::time::{UnixTime, wall_now};
use crate::token::TokenId;
use stage::Stage;

/// Pages of the audit log that are looked through for the few lines of the tour.
const AUDIT_PAGES_MAX: usize = 64;
/// Wider than this a table is no pleasure to read.
const WIDTH_MAX: usize = 110;

/// Why the tour ended before its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum DemoError {
    /// Something else came than what is promised: a defect, or an odd system. The daemon's log is shown.
    #[error("expected {expected}, but got {got}")]
    Unexpected {
        /// What is promised.
        expected: String,
        /// What came.
        got: String,
    },
    /// The daemon gave no answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file or process of the tour's own.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The daemon ended instead of answering.
    #[error("the daemon ended with {0} instead of answering")]
    Died(std::process::ExitStatus),
    /// The daemon neither answers nor ends.
    #[error("the daemon did not answer within {0:?}")]
    Silent(Duration),
    /// Ctrl-C: the directory is gone already.
    #[error("interrupted")]
    Interrupted,
    /// Nobody can see the tour.
    #[error(transparent)]
    Output(#[from] CtlError),
}

/// Runs the tour with this executable as the daemon.
pub fn run() -> ExitCode {
    let mut console = Console::of_process();
    let executable = std::env::current_exe()
        .map_err(|source| DemoError::Io { what: "can't find this program's own file".to_owned(), source });
    match executable.and_then(|executable| tour(&executable, &mut console)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console.say(&format!("{} {error}\n", ink(Ink::Bad, "bearerd demo:")));
            ExitCode::FAILURE
        }
    }
}

/// The whole tour; the daemon and its directory are gone when it returns.
fn tour(executable: &Path, console: &mut Console) -> Result<(), DemoError> {
    let begun = Instant::now();
    let stage = Stage::new(executable)?;
    let mut guide = Guide { stage, console, step: 0, client: None, restarted_at: UnixTime::EPOCH };
    let result = guide.steps();
    let Guide { stage, console, .. } = guide;
    if let Err(error) = result {
        let log = stage.log_tail();
        if !log.is_empty() {
            console.say(&format!("\nThe daemon's log ends with:\n{log}\n"));
        }
        return Err(error);
    }
    stage.strike()?;
    console.print(&format!(
        "\n{}\n",
        ink(Ink::Good, &format!("Everything went as it should, in {:.1} s.", begun.elapsed().as_secs_f64()))
    ))?;
    console.print("The daemon is stopped, its directory is gone.\n")?;
    let typed = ink(Ink::Typed, &format!("{} --user", as_typed()));
    console.print(&format!("To have one for yourself: {typed}. README.md says how to install it on a server.\n"))?;
    Ok(())
}

struct Guide<'a> {
    stage: Stage,
    console: &'a mut Console,
    step: u32,
    client: Option<Client>,
    /// When the daemon answered again after it was killed.
    restarted_at: UnixTime,
}

impl Guide<'_> {
    fn steps(&mut self) -> Result<(), DemoError> {
        self.say(&format!("{}\n", ink(Ink::Strong, "A tour of bearerd: a real daemon, in a directory of its own.")))?;
        self.start()?;
        let backup = self.issue_and_validate()?;
        self.wrong_scope(&backup)?;
        self.use_limit()?;
        let backup = self.rotate(&backup)?;
        self.revoke(&backup)?;
        self.kill(&backup)?;
        self.audit(backup.info.facts.id)
    }

    fn start(&mut self) -> Result<(), DemoError> {
        let begun = Instant::now();
        self.stage.start()?;
        self.client = Some(self.stage.connect()?);
        let ready = millis(begun.elapsed());
        let (pid, dir) = (self.stage.pid(), self.stage.path().display().to_string());
        self.say(&format!("bearerd runs as pid {pid} in {dir}, answering after {ready}.\n"))
    }

    fn issue_and_validate(&mut self) -> Result<Issued, DemoError> {
        self.heading("Make a token", "It is shown once; what is kept of it is a keyed digest.")?;
        self.typed("bearerctl issue backup --scope repo:read --scope repo:list --ttl 30d > backup.token")?;
        let issue = Issue {
            name: "backup".to_owned(),
            scopes: vec!["repo:read".to_owned(), "repo:list".to_owned()],
            ttl: Some(Duration::from_secs(30 * 86_400)),
            ..Issue::default()
        };
        let issued = self.client()?.issue(&issue)?;
        self.shown(&format!("{}\n", shortened(&issued.info)))?;
        let card = render::token::issued(&issued.info, wall_now(), self.width());
        // Its first line tells to store the token, which is not for this one.
        self.shown(card.split_once('\n').map_or("", |(_, card)| card))?;

        self.heading("Is it good?", "Any program on this host can ask; policy says who may.")?;
        self.typed("bearerctl validate --scope repo:read < backup.token")?;
        self.validate(&issued, &["repo:read"], None)?;
        Ok(issued)
    }

    fn wrong_scope(&mut self, backup: &Issued) -> Result<(), DemoError> {
        self.heading("Is it good for more?", "All that is missing is named at once.")?;
        self.typed("bearerctl validate --scope repo:read --scope repo:write --scope admin < backup.token")?;
        let verdict = self.ask(backup, &["repo:read", "repo:write", "admin"])?;
        self.judge(&verdict, Some(Reason::InsufficientScope))?;
        expect("repo:write and admin to be missing", verdict.missing_scopes == ["repo:write", "admin"], || {
            format!("{:?}", verdict.missing_scopes)
        })
    }

    fn use_limit(&mut self) -> Result<(), DemoError> {
        self.heading("A token for one use", "Uses are counted on disk before the answer is given.")?;
        self.typed("bearerctl issue once --scope deploy --max-uses 1 > once.token")?;
        let issue =
            Issue { name: "once".to_owned(), scopes: vec!["deploy".to_owned()], max_uses: Some(1), ..Issue::default() };
        let once = self.client()?.issue(&issue)?;
        self.shown(&format!("{}\n", shortened(&once.info)))?;
        self.typed("bearerctl validate --scope deploy < once.token")?;
        self.validate(&once, &["deploy"], None)?;
        self.typed("bearerctl validate --scope deploy < once.token")?;
        self.validate(&once, &["deploy"], Some(Reason::Exhausted))
    }

    fn rotate(&mut self, backup: &Issued) -> Result<Issued, DemoError> {
        self.heading(
            "Rotate it",
            "It may have leaked: the same token with another secret, and the old one is refused at once.",
        )?;
        let id = backup.info.facts.id;
        self.typed(&format!("bearerctl rotate {id} --now > backup.token.new"))?;
        let rotate = Rotate { token: Handle(id.to_string()), now: true, grace: None };
        let rotated = self.client()?.rotate(&rotate)?;
        let card = render::token::rotated(&rotated, wall_now(), self.width());
        let new = Issued { token: rotated.token, info: rotated.info };
        self.shown(&format!("{}\n", shortened(&new.info)))?;
        self.shown(card.split_once('\n').map_or("", |(_, card)| card))?;
        self.typed("bearerctl validate --scope repo:read < backup.token")?;
        self.validate(backup, &["repo:read"], Some(Reason::Rotated))?;
        self.typed("bearerctl validate --scope repo:read < backup.token.new")?;
        self.validate(&new, &["repo:read"], None)?;
        self.typed("mv backup.token.new backup.token")?;
        Ok(new)
    }

    fn revoke(&mut self, backup: &Issued) -> Result<(), DemoError> {
        self.heading("Revoke it", "When the command returns, it is on disk, in the audit log, and in force.")?;
        let id = backup.info.facts.id;
        self.typed(&format!("bearerctl revoke {id} --reason 'laptop lost'"))?;
        let revoke = Revoke {
            which: Which::Handles(vec![Handle(id.to_string())]),
            reason: Some("laptop lost".to_owned()),
            dry_run: false,
        };
        let begun = Instant::now();
        let changed = self.client()?.revoke(&revoke)?;
        let returned = begun.elapsed();
        let verdict = self.ask(backup, &["repo:read"])?;
        let refused = begun.elapsed();
        expect("one token to be revoked", changed.count == 1, || changed.count.to_string())?;
        self.shown(&render::token::changed(&changed, 1, &render::token::REVOKED))?;
        self.typed("bearerctl validate --scope repo:read < backup.token")?;
        self.judge(&verdict, Some(Reason::Revoked))?;
        let text = format!("returned after {}, refused {} later", millis(returned), millis(refused - returned));
        self.shown(&format!("{}\n", ink(Ink::Dim, &text)))
    }

    fn kill(&mut self, backup: &Issued) -> Result<(), DemoError> {
        self.heading("Kill the daemon", "What was acknowledged stays so.")?;
        self.typed(&format!("kill -9 {}", self.stage.pid()))?;
        self.client = None;
        self.stage.kill()?;
        let begun = Instant::now();
        self.stage.start()?;
        self.client = Some(self.stage.connect()?);
        self.restarted_at = wall_now();
        let text =
            format!("killed, started again as pid {}, answering after {}", self.stage.pid(), millis(begun.elapsed()));
        self.shown(&format!("{}\n", ink(Ink::Dim, &text)))?;
        self.typed("bearerctl validate --scope repo:read < backup.token")?;
        self.validate(backup, &["repo:read"], Some(Reason::Revoked))
    }

    fn audit(&mut self, id: TokenId) -> Result<(), DemoError> {
        self.heading("Who did what, and when?", "Also what was refused, and through which service or user.")?;
        self.typed(&format!("bearerctl audit --token {id}"))?;
        let lines = self.lines_of(id)?;
        self.shown(&render::audit::table(&lines, wall_now(), self.width()))?;
        for event in ["rotate", "use", "revoke"] {
            let there = lines.iter().any(|line| event_of(line).as_deref() == Some(event));
            expect(&format!("a line of the event {event}"), there, || format!("{} lines without it", lines.len()))?;
        }
        self.typed("bearerctl audit verify")?;
        let json = self.client()?.audit_verify()?;
        let report: serde_json::Value = serde_json::from_str(&json).unwrap_or_default();
        let whole = report.get("ok").and_then(serde_json::Value::as_bool) == Some(true);
        if let serde_json::Value::Object(mut object) = report {
            // Names of files in a directory that is about to go say nothing.
            object.remove("files");
            self.shown(&render::status::verify(object, wall_now(), self.width()))?;
        }
        expect("the chain to be whole", whole, || json)
    }

    fn lines_of(&mut self, id: TokenId) -> Result<Vec<String>, DemoError> {
        let mut query = AuditQuery { token: Some(Handle(id.to_string())), ..AuditQuery::default() };
        let mut lines = Vec::new();
        for _ in 0..AUDIT_PAGES_MAX {
            let page = self.client()?.audit(&query)?;
            lines.extend(page.lines);
            // A refusal is answered before its line is in the log: the last is waited for.
            let last_is_there = lines.iter().any(|line| time_of(line).is_some_and(|time| time > self.restarted_at));
            if page.end && last_is_there {
                break;
            }
            query.wait = page.end;
            query.after = Some(page.next);
        }
        Ok(lines)
    }

    fn ask(&mut self, issued: &Issued, scopes: &[&str]) -> Result<Verdict, DemoError> {
        let token = issued.token.expose();
        let ask = Validate { token, scopes: scopes.to_vec(), audience: None, from: None, note: None, peek: false };
        Ok(self.client()?.validate(&ask)?)
    }

    fn validate(&mut self, issued: &Issued, scopes: &[&str], expected: Option<Reason>) -> Result<(), DemoError> {
        let verdict = self.ask(issued, scopes)?;
        self.judge(&verdict, expected)
    }

    /// Shows a verdict and holds it against what is promised.
    fn judge(&mut self, verdict: &Verdict, expected: Option<Reason>) -> Result<(), DemoError> {
        self.shown(&render::token::verdict(verdict, wall_now()))?;
        let name = |reason: Option<Reason>| reason.map_or("active", Reason::name);
        let fits = verdict.active == expected.is_none() && verdict.reason == expected;
        expect(name(expected), fits, || name(verdict.reason).to_owned())
    }

    fn client(&mut self) -> Result<&mut Client, DemoError> {
        self.client.as_mut().ok_or(DemoError::Interrupted)
    }

    fn width(&self) -> Option<usize> {
        // Two blanks are before each line.
        Some(self.console.width.unwrap_or(WIDTH_MAX).min(WIDTH_MAX) - 2)
    }

    fn say(&mut self, text: &str) -> Result<(), DemoError> {
        Ok(self.console.print(text)?)
    }

    fn heading(&mut self, title: &str, about: &str) -> Result<(), DemoError> {
        self.step += 1;
        let title = ink(Ink::Strong, &format!("{}  {title}", self.step));
        self.say(&format!("\n{title}  {}\n", ink(Ink::Dim, about)))
    }

    fn typed(&mut self, command: &str) -> Result<(), DemoError> {
        self.say(&format!("  {} {}\n", ink(Ink::Dim, "$"), ink(Ink::Typed, command)))
    }

    fn shown(&mut self, text: &str) -> Result<(), DemoError> {
        let indented: String = text.lines().map(|line| format!("  {line}\n")).collect();
        self.say(&indented)
    }
}

fn expect(expected: &str, fits: bool, got: impl FnOnce() -> String) -> Result<(), DemoError> {
    if fits { Ok(()) } else { Err(DemoError::Unexpected { expected: expected.to_owned(), got: got() }) }
}

/// A token without its secret, which is nobody's to read over a shoulder.
fn shortened(info: &TokenInfo) -> String {
    format!("{}_{}", info.facts.head.as_deref().unwrap_or("…"), ink(Ink::Dim, "(the secret)"))
}

/// This program as it was called: in a source tree `bearerd` alone is not found.
fn as_typed() -> String {
    std::env::args_os().next().map_or_else(|| "bearerd".to_owned(), |program| program.display().to_string())
}

fn event_of(line: &str) -> Option<String> {
    let object: serde_json::Value = serde_json::from_str(line).ok()?;
    object.get("event")?.as_str().map(str::to_owned)
}

fn time_of(line: &str) -> Option<UnixTime> {
    let object: serde_json::Value = serde_json::from_str(line).ok()?;
    object.get("time")?.as_str()?.parse().ok()
}

fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    if millis < 10.0 { format!("{millis:.2} ms") } else { format!("{millis:.0} ms") }
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> DemoError {
    let what = what.into();
    move |source| DemoError::Io { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tour fails where there is no daemon to take it with.
    #[test]
    fn a_tour_without_a_daemon_fails() {
        let mut console = Console::captured(io::sink(), io::sink(), wall_now());
        assert!(matches!(tour(Path::new("/bin/false"), &mut console), Err(DemoError::Died(_))));
        assert!(matches!(tour(Path::new("/nonexistent"), &mut console), Err(DemoError::Io { .. })));
    }
}
