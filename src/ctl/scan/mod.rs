//! `bearerctl scan`: tokens where they should not be, whether they still work, and their end.
//!
//! `walk` opens what is to be read, `stream` reads it, `find` knows a token when it sees one, `survey` runs them side by
//! side, `findings` folds what they find, `standing` asks the daemon, `report` says it.
//!
//! Invariant I3: the text of a token is in buffers that are wiped and in what is shown to the daemon, and never in what
//! is said; a head stands for it, in the names of files, too.

mod find;
mod findings;
mod journal;
mod report;
mod standing;
mod stream;
mod survey;
mod walk;

use std::io::{self, BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::ctl::Connect;
use crate::ctl::args::ScanArgs;
use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::{self, CtlError};
use crate::ctl::render::when::plural;
use findings::Findings;
use report::{Answer, Extent};
use survey::Plan;

pub(in crate::ctl) fn run(args: ScanArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let plan = plan(&args);
    // Whoever gives what is scanned on standard input can't answer there as well.
    let answerable = !plan.stdin && may_ask();
    if args.revoke && !args.yes && !answerable {
        let what = "scan --revoke asks before it ends anything, and nobody can be asked here: give --yes";
        return Err(CtlError::Usage(what.to_owned()));
    }
    if args.live || args.revoke {
        // Before hours of reading that would be for nothing.
        drop(connect(Patience::Usual)?);
    }
    let (mut findings, counters) = survey::survey(&plan, console.watched && !console.quiet);
    let extent =
        Extent { files: counters.files.load(Ordering::Relaxed), bytes: counters.bytes.load(Ordering::Relaxed) };
    if !console.json {
        console.say(&report::unreadable(&findings));
    }
    let asked = ask(&mut findings, &args, connect, console)?;
    if args.live {
        findings.keep_live();
    }
    if !console.json {
        for finds in findings.finds.chunks(report::LINES) {
            console.print(&report::lines(&findings.tokens, finds))?;
        }
    }
    console.note(&report::summary(&findings, extent, args.live));
    let ended = if args.revoke { revoke(&mut findings, &args, connect, console) } else { Ok(()) };
    if console.json {
        console.plain(&format!("{}\n", report::json(&findings, extent, asked, args.revoke)))?;
    }
    ended?;
    Ok(if !findings.finds.is_empty() || findings.more > 0 {
        error::NO
    } else if findings.unreadable_count > 0 {
        error::OUTPUT
    } else {
        error::OK
    })
}

fn plan(args: &ScanArgs) -> Plan {
    let (stdin, mut paths): (Vec<PathBuf>, Vec<PathBuf>) =
        args.paths.iter().cloned().partition(|path| path == Path::new("-"));
    paths.sort();
    paths.dedup();
    Plan { paths, stdin: !stdin.is_empty(), journal: args.journal, since: args.since }
}

fn may_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks the daemon how the tokens stand. That it does not say is an error only where it was asked for.
fn ask(
    findings: &mut Findings,
    args: &ScanArgs,
    connect: Connect<'_>,
    console: &mut Console,
) -> Result<Answer, CtlError> {
    if findings.tokens.is_empty() {
        return Ok(Answer::NotAsked);
    }
    let answer = connect(Patience::Usual).and_then(|mut daemon| standing::ask(&mut *daemon, &mut findings.tokens));
    let error = match answer {
        Ok(()) => return Ok(Answer::Given),
        Err(error) if args.live => return Err(error),
        Err(error) => error,
    };
    let (asked, why) = match &error {
        CtlError::Unreachable(_) if args.revoke => return Err(error),
        CtlError::Unreachable(_) => (Answer::Unreachable, error.to_string()),
        _ if standing::not_permitted(&error) => {
            (Answer::NotPermitted, "to ask for it, you need the right to validate".to_owned())
        }
        _ => (Answer::Failed, error.to_string()),
    };
    console.note(&format!("Whether they are live is not known: {why}\n"));
    Ok(asked)
}

/// Ends what there is to end, if whoever sits there agrees.
fn revoke(
    findings: &mut Findings,
    args: &ScanArgs,
    connect: Connect<'_>,
    console: &mut Console,
) -> Result<(), CtlError> {
    let ends = standing::to_end(findings);
    if ends.is_empty() {
        console.note("There is nothing to revoke.\n");
        return Ok(());
    }
    let all = plural(ends.len() as u64, "token");
    if !args.yes {
        console.say(&format!("Revoke {all}? Whoever uses one is refused from then on. [y/N] "));
        if !agreed(&mut io::stdin().lock())
            .map_err(|source| CtlError::Read { path: "standard input".into(), source })?
        {
            console.note("Nothing was revoked.\n");
            return Ok(());
        }
    }
    let mut daemon = connect(Patience::Usual)?;
    let mut told = false;
    let mut outcome = Ok(());
    for at in ends {
        let waits = &mut || {
            if !std::mem::replace(&mut told, true) {
                console.note("The daemon takes them one by one; this takes about a second for each.\n");
            }
        };
        outcome = standing::end(&mut *daemon, &mut findings.tokens[at], args.reason.as_deref(), waits);
        if outcome.is_err() {
            break;
        }
    }
    let revoked = findings.tokens.iter().filter(|known| known.revoked).count() as u64;
    console.note(&match (revoked, outcome.is_ok()) {
        (0, true) => "Nothing changed: they are unknown to the daemon, or were ended before.\n".to_owned(),
        (_, true) => format!("Revoked {}. What is refused now stays so.\n", plural(revoked, "token")),
        (_, false) => format!("Revoked {revoked} of {all}; run it again for the rest.\n"),
    });
    outcome
}

/// Whether the answer is yes. An end of the input is none.
fn agreed(input: &mut impl BufRead) -> io::Result<bool> {
    let mut line = String::new();
    input.take(64).read_line(&mut line)?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for (typed, means) in [
            ("y\n", true),
            ("Yes\n", true),
            ("\n", false),
            ("", false),
            ("n\n", false),
            ("yesterday\n", false),
            ("no\ny\n", false),
        ] {
            assert_eq!(agreed(&mut typed.as_bytes()).unwrap(), means, "{typed:?}");
        }
    }
}
