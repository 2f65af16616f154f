//! `bearerctl suspend` and `bearerctl resume`.

use super::many::{self, Change};
use crate::ctl::args::HoldArgs;
use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::{self, CtlError};
use crate::ctl::render::many::Verb;
use crate::ctl::{Connect, render};
use crate::protocol::IDS_MAX;
use crate::protocol::message::{Chosen, Hold};

pub(in crate::ctl) fn run(
    args: HoldArgs,
    verb: Verb,
    connect: Connect<'_>,
    console: &mut Console,
) -> Result<u8, CtlError> {
    let HoldArgs { mut ids, reason, dry_run, yes, many } = args;
    if ids.is_empty() {
        if !many.names_some() {
            return Err(many::nothing_named(verb));
        }
        return many::run(Change { verb, many, reason, dry_run, yes }, connect, console);
    }
    ids.sort_by(|a, b| a.0.cmp(&b.0));
    ids.dedup();
    if ids.len() > IDS_MAX {
        return Err(CtlError::Usage(format!("{} ids are too many for one command: give at most {IDS_MAX}", ids.len())));
    }
    let mut daemon = connect(Patience::Usual)?;
    let hold = Hold { which: Chosen::Handles(ids), reason, dry_run };
    let changed = if verb == Verb::Resume { daemon.resume(&hold)? } else { daemon.suspend(&hold)? };
    if console.json {
        console.plain(&format!("{}\n", render::json::changed(&changed)))?;
    } else if !console.quiet {
        console.print(&render::many::changed(verb, &changed))?;
    }
    Ok(error::OK)
}
