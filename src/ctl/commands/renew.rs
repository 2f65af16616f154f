//! `bearerctl renew`.

use crate::ctl::args::RenewArgs;
use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::CtlError;
use crate::ctl::{Connect, commands};

pub(in crate::ctl) fn run(args: &RenewArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let info = connect(Patience::Usual)?.renew(&args.id)?;
    commands::changed_token(&info, console)
}
