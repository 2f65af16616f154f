//! The commands, a file each. A command reads what it needs, asks the daemon, and says what came of it; its value is the
//! exit status.

pub(super) mod audit;
pub(super) mod backup;
pub(super) mod clock;
pub(super) mod completions;
pub(super) mod edit;
pub(super) mod hold;
pub(super) mod import;
pub(super) mod issue;
pub(super) mod list;
mod many;
pub(super) mod rekey;
pub(super) mod renew;
pub(super) mod revoke;
pub(super) mod rotate;
pub(super) mod show;
mod sorted;
pub(super) mod status;
pub(super) mod validate;
pub(super) mod verify;
pub(super) mod watch;

use std::io;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::args::FilterArgs;
use super::console::Console;
use super::daemon::Daemon;
use super::error::{self, CtlError};
use super::render;
use crate::protocol::IDS_MAX;
use crate::protocol::filter::{Condition, Filter};
use crate::protocol::message::{Handle, SecretText, TokenInfo};

/// The daemon's JSON as an object.
fn object(json: &str) -> Result<Map<String, Value>, CtlError> {
    serde_json::from_str(json).map_err(|_| {
        let what = "the daemon's answer is no JSON object; do bearerd and bearerctl have the same version?";
        CtlError::Protocol(what.to_owned())
    })
}

/// The daemon's JSON as the one line that programs read.
fn json_line(json: &str) -> String {
    format!("{}\n", json.trim_end())
}

/// The filter that arguments ask for. A family is named by any of its members: the daemon says which it is of.
fn filter(args: &FilterArgs, daemon: &mut dyn Daemon) -> Result<Filter, CtlError> {
    let mut filter = args.filter();
    if let Some(member) = &args.family {
        filter.0.push(Condition::Family(daemon.show(member)?.info.facts.family));
    }
    Ok(filter)
}

/// Handles that were named, each once.
fn each_once(mut ids: Vec<Handle>) -> Result<Vec<Handle>, CtlError> {
    ids.sort_by(|a, b| a.0.cmp(&b.0));
    ids.dedup();
    match ids.len() {
        named if named > IDS_MAX => {
            Err(CtlError::Usage(format!("{named} ids are too many for one command: give at most {IDS_MAX}")))
        }
        _ => Ok(ids),
    }
}

/// A token after a change.
fn changed_token(info: &TokenInfo, console: &mut Console) -> Result<u8, CtlError> {
    if console.json {
        console.plain(&format!("{}\n", render::json::token(info)))?;
    } else if !console.quiet {
        console.print(&render::token::show(info, console.now, console.width))?;
    }
    Ok(error::OK)
}

/// The one way that a token goes out: to standard output before anything else is said, straight from the buffer it came
/// in or within its JSON object, so that nothing that fails later can lose it.
fn hand_over(token: &SecretText, json: Option<Zeroizing<Vec<u8>>>, console: &mut Console) -> io::Result<()> {
    let bytes = json.unwrap_or_else(|| {
        let text = token.expose();
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() + 1));
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(b'\n');
        bytes
    });
    console.raw(&bytes)
}
