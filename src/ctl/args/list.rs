//! `bearerctl list`.

use clap::Args;

use super::filter::FilterArgs;
use crate::ctl::error::ArgumentError;
use crate::token::{self, TokenId};

/// Where to go on is an id as a whole: a prefix would skip or repeat tokens.
fn cursor(text: &str) -> Result<TokenId, ArgumentError> {
    token::id_of_handle(text).map_err(|_| ArgumentError::Cursor)
}

/// `bearerctl list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bearerctl list
  bearerctl list --subject backup --state active
  bearerctl list --expiring-within 14d
  bearerctl list --unused-for 90d --label team=web
  bearerctl list --json --limit 100 | jq -r '.tokens[].id'")]
pub struct ListArgs {
    /// At most so many; where to go on is then said [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Go on after this id
    #[arg(long, value_name = "ID", value_parser = cursor)]
    pub after: Option<TokenId>,
    /// Which. Last, for its heading holds for what follows.
    #[command(flatten)]
    pub filter: FilterArgs,
}
