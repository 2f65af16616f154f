//! `bearerctl issue`.
//!
//! If the token can't be written it is named by its id, to be revoked: a token that exists and that nobody has is of no
//! use, and one that lies in a half-written file may be of use to somebody.

use crate::ctl::args::IssueArgs;
use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::{self, CtlError};
use crate::ctl::{Connect, commands, render};

pub(in crate::ctl) fn run(args: IssueArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let issued = connect(Patience::Usual)?.issue(&args.request()?)?;
    let json = console.json.then(|| render::json::issued(&issued));
    commands::hand_over(&issued.token, json, console)
        .map_err(|source| CtlError::TokenLost { id: issued.info.facts.id, source })?;
    console.note(&render::token::issued(&issued.info, console.now, console.width));
    Ok(error::OK)
}
