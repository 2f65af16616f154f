//! `bearerctl issue`: the one place where a token goes out.
//!
//! The token goes to standard output before anything else is said, straight from the buffer it came in, so that nothing
//! that fails later can lose it. If it can't be written it is named by its id, to be revoked: a token that exists and
//! that nobody has is of no use, and one that lies in a half-written file may be of use to somebody.

use zeroize::Zeroizing;

use crate::ctl::args::IssueArgs;
use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::{self, CtlError};
use crate::ctl::{Connect, render};

pub(in crate::ctl) fn run(args: IssueArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let issued = connect(Patience::Usual)?.issue(&args.request()?)?;
    let bytes = if console.json {
        render::json::issued(&issued)
    } else {
        let text = issued.token.expose();
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() + 1));
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(b'\n');
        bytes
    };
    console.raw(&bytes).map_err(|source| CtlError::TokenLost { id: issued.info.facts.id, source })?;
    console.note(&render::token::issued(&issued.info, console.now, console.width));
    Ok(error::OK)
}
