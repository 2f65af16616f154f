//! `bearerctl import`.

use std::path::PathBuf;

use clap::Args;

use super::facts::FactsArgs;
use crate::ctl::error::CtlError;
use crate::protocol::message::Issue;

/// `bearerctl import`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bearerctl import old-tokens.txt --name-prefix gitlab --scope repo:read --ttl 90d
  bearerctl import tokens.jsonl --dry-run
  psql -Atc 'select token from api_tokens' | bearerctl import - --label from=app

A line of JSON:
  {\"token\":\"glpat-Zx8qT3vKr9mLw2Yb7NcD\",\"name\":\"ci\",\"scopes\":[\"repo:read\"],\"expires_at\":\"2027-01-01T00:00:00Z\"}
  {\"sha256\":\"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\",\"name\":\"backup\"}")]
pub struct ImportArgs {
    /// The tokens, one a line: each alone, or a JSON object; '-' is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Tokens without a name are called by this and the number of their line
    #[arg(long, value_name = "NAME", default_value = "imported")]
    pub name_prefix: String,
    /// Only say which lines could be taken by their form and strength; the daemon is not asked
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    facts: FactsArgs,
}

impl ImportArgs {
    /// What each token shall be, where its line does not say otherwise; without a name.
    ///
    /// # Errors
    /// As [`FactsArgs::request`].
    pub fn defaults(self) -> Result<Issue, CtlError> {
        self.facts.request(String::new())
    }
}
