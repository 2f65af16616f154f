//! `bearerctl completions`.

use clap_complete::Shell;

use crate::ctl::args;
use crate::ctl::console::Console;
use crate::ctl::error::{self, CtlError};

pub(in crate::ctl) fn run(shell: Shell, console: &mut Console) -> Result<u8, CtlError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "bearerctl", &mut script);
    console.plain(&String::from_utf8_lossy(&script))?;
    Ok(error::OK)
}
