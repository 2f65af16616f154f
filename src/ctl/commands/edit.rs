//! `bearerctl edit`.

use crate::ctl::args::EditArgs;
use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::CtlError;
use crate::ctl::{Connect, commands};

pub(in crate::ctl) fn run(args: EditArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let info = connect(Patience::Usual)?.edit(&args.request()?)?;
    commands::changed_token(&info, console)
}
