//! `bearerctl watch`.

use std::num::NonZeroU64;

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::EVENTS;
use super::values::handle;
use crate::protocol::message::Handle;

/// `bearerctl watch`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bearerctl watch
  bearerctl watch --since 1041 --event revoke --event suspend
  bearerctl watch --event expire | while read -r event; do ...; done")]
pub struct WatchArgs {
    /// Begin after this number (`seq` of an event); without it with what happens from now on
    #[arg(long, value_name = "N")]
    pub since: Option<u64>,
    /// Only this event; repeat it for several
    #[arg(long = "event", value_name = "EVENT", value_parser = PossibleValuesParser::new(EVENTS), hide_possible_values = true)]
    pub events: Vec<String>,
    /// Only what is about this token: its id, its head, or the first characters of its id
    #[arg(long, value_name = "ID", value_parser = handle)]
    pub token: Option<Handle>,
    /// Only what is about tokens of this subject
    #[arg(long, value_name = "NAME")]
    pub subject: Option<String>,
    /// End after so many
    #[arg(long, value_name = "N")]
    pub limit: Option<NonZeroU64>,
}
