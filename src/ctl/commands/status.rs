//! `bearerctl status`.

use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::{self, CtlError};
use crate::ctl::{Connect, commands, render};

pub(in crate::ctl) fn run(connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let json = connect(Patience::Usual)?.status()?;
    if console.json {
        console.plain(&commands::json_line(&json))?;
    } else {
        console.print(&render::status::status(commands::object(&json)?, console.now, console.width))?;
    }
    Ok(error::OK)
}
