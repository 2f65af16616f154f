//! `bearerctl rotate`: prints a token, as `issue` does and with the same care.
//!
//! It is never sent a second time by itself. Whoever does not get the answer is told that to run it again is safe: as
//! long as the new token was never used, another takes its place.

use crate::ctl::args::RotateArgs;
use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::{self, CtlError};
use crate::ctl::{Connect, commands, render};

const AGAIN: &str = "to run it again is safe: it replaces a new token that nobody has";

pub(in crate::ctl) fn run(args: RotateArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let rotated = connect(Patience::Usual)?.rotate(&args.request()).map_err(|error| match error {
        CtlError::Lost(text) => CtlError::Lost(format!("{text}; {AGAIN}")),
        CtlError::Timeout(text) => CtlError::Timeout(format!("{text}; {AGAIN}")),
        other => other,
    })?;
    let json = console.json.then(|| render::json::rotated(&rotated));
    commands::hand_over(&rotated.token, json, console)
        .map_err(|source| CtlError::SuccessorLost { id: rotated.info.facts.id, source })?;
    console.note(&render::token::rotated(&rotated, console.now, console.width));
    Ok(error::OK)
}
