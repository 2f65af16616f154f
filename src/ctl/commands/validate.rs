//! `bearerctl validate`.

use crate::ctl::args::ValidateArgs;
use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::{self, CtlError};
use crate::ctl::{Connect, input, render};
use crate::protocol::code::Reason;
use crate::protocol::message::{Validate, Verdict};

pub(in crate::ctl) fn run(args: &ValidateArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let verdict = match input::token(args.token_file.as_deref(), console) {
        Ok(token) => connect(Patience::Usual)?.validate(&Validate {
            token: &token,
            scopes: args.scopes.iter().map(String::as_str).collect(),
            audience: args.audience.as_deref(),
            from: args.from,
            note: args.note.as_deref(),
            peek: args.peek,
        })?,
        // Too long or no text: no request could carry it, and the answer is known.
        Err(CtlError::BadToken(_)) => {
            let reason = Some(Reason::Malformed);
            Verdict { active: false, reason, missing_scopes: Vec::new(), token: None }
        }
        Err(error) => return Err(error),
    };
    if console.json {
        console.plain(&format!("{}\n", render::json::verdict(&verdict)))?;
    } else if !console.quiet {
        console.print(&render::token::verdict(&verdict, console.now))?;
    }
    Ok(if verdict.active { error::OK } else { error::NO })
}
