//! `bearerctl audit verify`: exit status 65 says that the chain is broken.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::{self, CtlError};
use crate::ctl::{Connect, commands, render};

pub(in crate::ctl) fn run(connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let mut daemon = connect(Patience::Search)?;
    // Gigabytes of log take a while; somebody who waits sees that something is being done.
    let spinner = (console.watched && !console.quiet).then(|| {
        let style = ProgressStyle::with_template("{spinner} checking the audit log, {elapsed}");
        let spinner = ProgressBar::new_spinner().with_style(style.expect("a template of known keys"));
        spinner.enable_steady_tick(Duration::from_millis(100));
        spinner
    });
    let report = daemon.audit_verify();
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    let json = report?;
    let object = commands::object(&json)?;
    let ok = object.get("ok").and_then(serde_json::Value::as_bool).ok_or_else(|| {
        CtlError::Protocol(
            "the daemon's report does not say whether the chain is whole; is it of this version?".to_owned(),
        )
    })?;
    if console.json {
        console.plain(&commands::json_line(&json))?;
    } else if !(console.quiet && ok) {
        console.print(&render::status::verify(object, console.now, console.width))?;
    }
    Ok(if ok { error::OK } else { error::BAD_DATA })
}
