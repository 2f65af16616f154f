//! `bearerctl suspend` and `bearerctl resume`.

use super::many;
use crate::ctl::args::{ChangeArgs, HoldArgs};
use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::{self, CtlError};
use crate::ctl::render::many::Verb;
use crate::ctl::{Connect, commands, render};
use crate::protocol::message::{Chosen, Hold};

pub(in crate::ctl) fn run(
    args: HoldArgs,
    verb: Verb,
    connect: Connect<'_>,
    console: &mut Console,
) -> Result<u8, CtlError> {
    let HoldArgs { change } = args;
    if change.many.names_some() {
        return many::run(verb, change, connect, console);
    }
    if change.ids.is_empty() {
        return Err(many::nothing_named(verb));
    }
    let ChangeArgs { ids, reason, dry_run, .. } = change;
    let ids = commands::each_once(ids)?;
    let named = ids.len();
    let mut daemon = connect(Patience::Usual)?;
    let hold = Hold { which: Chosen::Handles(ids), reason, dry_run };
    let changed = if verb == Verb::Resume { daemon.resume(&hold)? } else { daemon.suspend(&hold)? };
    if console.json {
        console.plain(&format!("{}\n", render::json::changed(&changed)))?;
    } else if !console.quiet {
        let words = if verb == Verb::Resume { &render::token::RESUMED } else { &render::token::SUSPENDED };
        console.print(&render::token::changed(&changed, named, words))?;
    }
    Ok(error::OK)
}
