//! `bearerctl suspend` and `bearerctl resume`. When they return with status 0, it is in force.

use crate::ctl::args::HoldArgs;
use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::{self, CtlError};
use crate::ctl::{Connect, commands, render};
use crate::protocol::message::{Chosen, Hold};

/// Which of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ctl) enum Verb {
    Suspend,
    Resume,
}

pub(in crate::ctl) fn run(
    args: HoldArgs,
    verb: Verb,
    connect: Connect<'_>,
    console: &mut Console,
) -> Result<u8, CtlError> {
    let HoldArgs { ids, reason, dry_run } = args;
    let ids = commands::each_once(ids)?;
    let named = ids.len();
    let hold = Hold { which: Chosen::Handles(ids), reason, dry_run };
    let mut daemon = connect(Patience::Usual)?;
    let (changed, words) = match verb {
        Verb::Suspend => (daemon.suspend(&hold)?, &render::token::SUSPENDED),
        Verb::Resume => (daemon.resume(&hold)?, &render::token::RESUMED),
    };
    if console.json {
        console.plain(&format!("{}\n", render::json::changed(&changed)))?;
    } else if !console.quiet {
        console.print(&render::token::changed(&changed, named, words))?;
    }
    Ok(error::OK)
}
