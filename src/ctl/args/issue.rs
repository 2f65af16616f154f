//! `bearerctl issue`.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::facts::FactsArgs;
use crate::ctl::error::CtlError;
use crate::protocol::message::Issue;
use crate::token::Kind;

/// Names of the kinds, for help and completions.
const KINDS: [&str; 3] = ["machine", "session", "canary"];

/// clap's parser for a kind of token.
pub(super) fn kind_parser() -> impl TypedValueParser<Value = Kind> {
    PossibleValuesParser::new(KINDS).map(|name| name.parse().expect("one of the names just checked"))
}

/// `bearerctl issue`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bearerctl issue backup --scope repo:read --ttl 30d > backup.token
  bearerctl issue ci-42 --kind session --scope 'repo:*' --label project=web
  bearerctl issue deploy --scope deploy --allow-from 192.0.2.0/24 --allow-unit ci.service
  bearerctl issue probe --scope status --rate 100/1m --max-uses 5000
  bearerctl issue aws-key-in-wiki --kind canary     # bait: any use of it raises an alert")]
pub struct IssueArgs {
    /// What people call it
    #[arg(value_name = "NAME")]
    name: String,
    /// What it shall be.
    #[command(flatten)]
    facts: FactsArgs,
}

impl IssueArgs {
    /// The request that these arguments ask for.
    ///
    /// # Errors
    /// As [`FactsArgs::request`].
    pub fn request(self) -> Result<Issue, CtlError> {
        self.facts.request(self.name)
    }
}
