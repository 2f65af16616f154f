//! `bearerctl revoke`. When it returns with status 0 the revocation is in force.

use super::many;
use crate::ctl::args::{ChangeArgs, RevokeArgs};
use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::{self, CtlError};
use crate::ctl::render::many::Verb;
use crate::ctl::{Connect, commands, input, render};
use crate::protocol::message::{Revoke, Which};

pub(in crate::ctl) fn run(args: RevokeArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let RevokeArgs { token_file, change } = args;
    if change.many.names_some() {
        return many::run(Verb::Revoke, change, connect, console);
    }
    if change.ids.is_empty() && token_file.is_none() {
        return Err(many::nothing_named(Verb::Revoke));
    }
    let ChangeArgs { ids, reason, dry_run, .. } = change;
    let (changed, named) = match token_file {
        Some(file) => {
            let token = input::token(Some(&file), console)?;
            (connect(Patience::Usual)?.revoke(&Revoke { which: Which::Token(&token), reason, dry_run })?, 1)
        }
        None => {
            let ids = commands::each_once(ids)?;
            let named = ids.len();
            (connect(Patience::Usual)?.revoke(&Revoke { which: Which::Handles(ids), reason, dry_run })?, named)
        }
    };
    if console.json {
        console.plain(&format!("{}\n", render::json::changed(&changed)))?;
    } else if !console.quiet {
        console.print(&render::token::changed(&changed, named, &render::token::REVOKED))?;
    }
    Ok(error::OK)
}
