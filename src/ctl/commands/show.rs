//! `bearerctl show`.

use crate::ctl::args::ShowArgs;
use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::{self, CtlError};
use crate::ctl::{Connect, render};

pub(in crate::ctl) fn run(args: ShowArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let shown = connect(Patience::Usual)?.show(&args.id)?;
    if console.json {
        console.plain(&format!("{}\n", render::shown::json(&shown)))?;
    } else {
        console.print(&render::shown::show(&shown, console.now, console.width))?;
    }
    Ok(error::OK)
}
