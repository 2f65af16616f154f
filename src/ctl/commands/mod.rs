//! The commands, a file each. A command reads what it needs, asks the daemon, and says what came of it; its value is the
//! exit status.

pub(super) mod audit;
pub(super) mod clock;
pub(super) mod completions;
pub(super) mod hold;
pub(super) mod issue;
pub(super) mod list;
mod many;
pub(super) mod revoke;
pub(super) mod show;
pub(super) mod status;
pub(super) mod validate;
pub(super) mod verify;

use serde_json::{Map, Value};

use super::args::FilterArgs;
use super::daemon::Daemon;
use super::error::CtlError;
use crate::protocol::filter::{Condition, Filter};

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
        filter.0.push(Condition::Family(daemon.show(member)?.facts.family));
    }
    Ok(filter)
}
