//! `bearerctl list`.

use clap::Args;

use super::filter::FilterArgs;
use crate::ctl::error::ArgumentError;
use crate::token::{self, TokenId};

/// Where to go on is an id as a whole: a prefix would skip or repeat tokens.
fn cursor(text: &str) -> Result<TokenId, ArgumentError> {
    token::id_of_handle(text).map_err(|_| ArgumentError::Cursor)
}

/// What a listing can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// When it was issued.
    Issued,
    /// When it expires; what never does comes last.
    Expires,
    /// When it was last used; what never was comes first.
    LastUsed,
    /// Its name.
    Name,
    /// Whom it stands for.
    Subject,
    /// How often it was used.
    Uses,
}

/// `bearerctl list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bearerctl list
  bearerctl list --subject backup --state active
  bearerctl list --expiring-within 14d
  bearerctl list --unused-for 90d --label team=web
  bearerctl list --sort last-used --limit 20    # what was not used for longest
  bearerctl list --json --limit 100 | jq -r '.tokens[].id'")]
pub struct ListArgs {
    /// At most so many; where to go on is then said [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Go on after this id
    #[arg(long, value_name = "ID", value_parser = cursor)]
    pub after: Option<TokenId>,
    /// In this order: issued, expires, last-used, name, subject or uses; all that match are read first
    #[arg(long, value_name = "ORDER", value_enum, conflicts_with = "after", hide_possible_values = true)]
    pub sort: Option<Sort>,
    /// The other way round; alone: the newest first
    #[arg(long, conflicts_with = "after")]
    pub reverse: bool,
    /// Which. Last, for its heading holds for what follows.
    #[command(flatten)]
    pub filter: FilterArgs,
}
