//! `bearerctl audit`: lines of the log, those to come with `--follow`, and the summary of a token.

use std::time::{Duration, Instant};

use crate::ctl::args::AuditArgs;
use crate::ctl::console::Console;
use crate::ctl::daemon::{Daemon, Patience};
use crate::ctl::error::{self, CtlError};
use crate::ctl::render::audit::Rows;
use crate::ctl::{Connect, commands, render};
use crate::time::wall_now;

/// How long a follower waits for a daemon that went away: a restart takes far less.
const RECONNECT_FOR: Duration = Duration::from_secs(60);
/// How often it looks whether the daemon is back.
const RECONNECT_EVERY: Duration = Duration::from_millis(500);

pub(in crate::ctl) fn run(args: AuditArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let mut daemon = connect(Patience::Search)?;
    if args.summary {
        let token = args.token.ok_or_else(|| CtlError::Usage("--summary needs --token ID".to_owned()))?;
        return summary(&daemon.audit_summary(&token)?, console);
    }
    let mut query = args.query();
    if args.follow && query.since.is_none() {
        query.since = Some(console.now);
    }
    let rows = Rows::new(console.width);
    let mut shown = false;
    loop {
        let lines = match daemon.audit(&query) {
            Ok(lines) => lines,
            Err(error) if args.follow && went_away(&error) => {
                console.note("bearerctl: the daemon went away; waiting for it\n");
                daemon = reconnect(connect, error)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        if !lines.lines.is_empty() {
            console.now = wall_now();
            let first = !std::mem::replace(&mut shown, true);
            let text = if console.json {
                lines.lines.iter().map(|line| commands::json_line(line)).collect()
            } else if args.follow {
                let title = if first { rows.header() } else { String::new() };
                lines.lines.iter().fold(title, |text, line| text + &rows.row(line, console.now))
            } else {
                let table = render::audit::table(&lines.lines, console.now, console.width);
                if first { table } else { format!("\n{table}") }
            };
            console.print(&text)?;
        }
        if console.deserted || lines.end && !args.follow {
            break;
        }
        let stuck = lines.lines.is_empty() && query.after.as_ref() == Some(&lines.next) && !query.wait;
        if stuck && !args.follow {
            return Err(CtlError::Protocol("the daemon's pages do not go on; ask its administrator".to_owned()));
        }
        query.wait = args.follow && lines.end;
        query.after = Some(lines.next);
    }
    if !shown && !console.json {
        console.note("No such lines.\n");
    }
    Ok(error::OK)
}

fn went_away(error: &CtlError) -> bool {
    matches!(error.status(), error::UNREACHABLE | error::TRY_AGAIN)
}

/// Where the follower was is in the query: nothing is lost or shown twice over a restart of the daemon.
fn reconnect(connect: Connect<'_>, lost: CtlError) -> Result<Box<dyn Daemon>, CtlError> {
    let begun = Instant::now();
    loop {
        match connect(Patience::Search) {
            Ok(daemon) => return Ok(daemon),
            Err(error) if begun.elapsed() > RECONNECT_FOR => return Err(error),
            Err(error) if went_away(&error) => {}
            Err(_) => return Err(lost),
        }
        std::thread::sleep(RECONNECT_EVERY);
    }
}

fn summary(json: &str, console: &mut Console) -> Result<u8, CtlError> {
    if console.json {
        console.plain(&commands::json_line(json))?;
    } else {
        console.print(&render::audit::summary(commands::object(json)?, console.now, console.width))?;
    }
    Ok(error::OK)
}
