//! `bearerctl clock reset`.

use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::{self, CtlError};
use crate::ctl::{Connect, render};

pub(in crate::ctl) fn reset(connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let now = connect(Patience::Usual)?.clock_reset()?;
    if console.json {
        console.plain(&format!("{}\n", serde_json::json!({ "now": now.to_string() })))?;
    } else if !console.quiet {
        console.print(&render::token::reset(now))?;
    }
    Ok(error::OK)
}
