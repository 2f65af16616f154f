//! `bearerctl rekey` and `bearerctl recovery-key`.
//!
//! A key that is to be kept goes to standard output alone, before anything else is said, as a token does at issue: so it
//! can be piped to what encrypts it, and nothing that fails later can lose it.

use indicatif::{ProgressBar, ProgressStyle};
use zeroize::Zeroizing;

use crate::ctl::args::RekeyArgs;
use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::{self, CtlError};
use crate::ctl::{Connect, render};
use crate::protocol::code::ErrorCode;
use crate::protocol::message::{Failure, RekeyProgress, Rekeyed};

pub(in crate::ctl) fn run(args: RekeyArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    if args.data {
        return data(connect, console);
    }
    let rekeyed = connect(Patience::Usual)?.rekey()?;
    deliver(&rekeyed, console)?;
    if rekeyed.key.is_some() {
        console.note(&render::rekey::to_install(&rekeyed));
    } else if !console.json && !console.quiet {
        console.print(&render::rekey::installed(&rekeyed))?;
    }
    Ok(error::OK)
}

pub(in crate::ctl) fn recovery_key(connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let rekeyed = connect(Patience::Usual)?.recovery_key()?;
    deliver(&rekeyed, console)?;
    console.note(&render::rekey::recovery(&rekeyed));
    Ok(error::OK)
}

/// What is asked for on standard output: with `--json` the object, else the key alone, if there is one.
fn deliver(rekeyed: &Rekeyed, console: &mut Console) -> Result<(), CtlError> {
    let bytes = match &rekeyed.key {
        _ if console.json => render::rekey::json(rekeyed),
        Some(key) => {
            let mut bytes = Zeroizing::new(Vec::with_capacity(key.expose().len() + 1));
            bytes.extend_from_slice(key.expose().as_bytes());
            bytes.push(b'\n');
            bytes
        }
        None => return Ok(()),
    };
    console.raw(&bytes).map_err(|source| match rekeyed.key {
        Some(_) => CtlError::KeyLost { slot: rekeyed.slot.clone(), source },
        None => CtlError::Output(source),
    })
}

/// Every value under a new record key, watched until it is done. Who goes away stops nothing.
fn data(connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let mut daemon = connect(Patience::Usual)?;
    let mut progress = daemon.rekey_data()?;
    let bar = (console.watched && !console.quiet && !console.json).then(|| {
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} values, {eta} to go");
        ProgressBar::new(progress.total).with_style(style.expect("a template of known keys"))
    });
    while progress.running {
        // The daemon answers when it has ended, or after a moment.
        progress = daemon.rekey_progress()?;
        if let Some(bar) = &bar {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            if let Some(fault) = &progress.fault {
                bar.println(format!("it goes on when it can: {fault}"));
            }
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    finished(progress, console)
}

fn finished(progress: RekeyProgress, console: &mut Console) -> Result<u8, CtlError> {
    if let Some(fault) = progress.fault {
        let text = format!("not every value is sealed under the new record key, and the old one stays: {fault}");
        return Err(Failure::new(ErrorCode::Internal, text).into());
    }
    if !progress.finished {
        let text =
            "bearerd is stopping: its next start goes on sealing by itself; bearerctl status shows how far it is";
        return Err(Failure::new(ErrorCode::Stopping, text).into());
    }
    if console.json {
        let object = serde_json::json!({ "epoch": progress.epoch, "values": progress.done });
        console.plain(&format!("{object}\n"))?;
    } else if !console.quiet {
        console.print(&render::rekey::resealed(&progress))?;
    }
    Ok(error::OK)
}
