//! `bearerctl list`.

use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::issue::kind_parser;
use super::values::{duration, granted_scope};
use crate::ctl::error::ArgumentError;
use crate::protocol::message::{Filter, State};
use crate::token::{self, Kind, TokenId};

fn state_parser() -> impl TypedValueParser<Value = State> {
    PossibleValuesParser::new(State::ALL.map(State::name))
        .map(|name| State::ALL.into_iter().find(|state| state.name() == name).expect("one of the names just checked"))
}

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
    /// Of exactly this subject
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Issued by exactly this user
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Of exactly this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// With this label: KEY, or KEY=VALUE
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Option<String>,
    /// That may do this
    #[arg(long, value_name = "SCOPE", value_parser = granted_scope)]
    scope: Option<String>,
    /// Of this kind
    #[arg(long, value_name = "KIND", value_parser = kind_parser())]
    kind: Option<Kind>,
    /// Issued by this profile
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// In this state
    #[arg(long, value_name = "STATE", value_parser = state_parser())]
    state: Option<State>,
    /// Good now, and over within this: 30d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expiring_within: Option<Duration>,
    /// Not used for this long, or never since it was issued that long ago: 90d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    unused_for: Option<Duration>,
    /// At most so many; where to go on is then said [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Go on after this id
    #[arg(long, value_name = "ID", value_parser = cursor)]
    pub after: Option<TokenId>,
}

impl ListArgs {
    /// The filter that these arguments ask for.
    pub fn filter(&self) -> Filter {
        Filter {
            subject: self.subject.clone(),
            issuer: self.issuer.clone(),
            name: self.name.clone(),
            label: self.label.clone(),
            scope: self.scope.clone(),
            kind: self.kind,
            profile: self.profile.clone(),
            state: self.state,
            expiring_within: self.expiring_within,
            unused_for: self.unused_for,
        }
    }
}
