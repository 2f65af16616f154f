//! Which tokens are meant, for every command that takes more than ids.

use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::issue::kind_parser;
use super::values::{duration, granted_scope, handle, time};
use crate::protocol::filter::{Condition, Filter};
use crate::protocol::message::{Handle, State};
use crate::time::UnixTime;
use crate::token::Kind;

fn state_parser() -> impl TypedValueParser<Value = State> {
    PossibleValuesParser::new(State::ALL.map(State::name))
        .map(|name| State::ALL.into_iter().find(|state| state.name() == name).expect("one of the names just checked"))
}

/// Heading of these options.
const FILTERS: &str = "Filters (all that are given must hold)";

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = FILTERS)]
pub struct FilterArgs {
    /// Of exactly this subject
    #[arg(long, value_name = "NAME")]
    pub subject: Option<String>,
    /// Issued by exactly this user
    #[arg(long, value_name = "NAME")]
    pub issuer: Option<String>,
    /// Of exactly this name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// With this label: KEY, or KEY=VALUE; repeat it for several, all of which must be there
    #[arg(long = "label", value_name = "KEY[=VALUE]")]
    pub labels: Vec<String>,
    /// That may do this
    #[arg(long, value_name = "SCOPE", value_parser = granted_scope)]
    pub scope: Option<String>,
    /// Of this kind
    #[arg(long, value_name = "KIND", value_parser = kind_parser())]
    pub kind: Option<Kind>,
    /// Issued by this profile
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Of the family of this token: it, what it was rotated from and to
    #[arg(long, value_name = "ID", value_parser = handle)]
    pub family: Option<Handle>,
    /// In this state
    #[arg(long, value_name = "STATE", value_parser = state_parser())]
    pub state: Option<State>,
    /// Issued before this time: 2027-01-31T00:00:00Z, or -2h
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    pub issued_before: Option<UnixTime>,
    /// Issued at or after this time
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    pub issued_after: Option<UnixTime>,
    /// Good now, and over within this: 30d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub expiring_within: Option<Duration>,
    /// Not used for this long, or never since it was issued that long ago: 90d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub unused_for: Option<Duration>,
    /// Not used since this time, and issued before it
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    pub unused_since: Option<UnixTime>,
}

impl FilterArgs {
    /// The conditions of the wire; the family comes with the id that the handle was found to be of.
    pub fn filter(&self) -> Filter {
        let mut conditions = Vec::new();
        let mut add = |condition: Option<Condition>| conditions.extend(condition);
        add(self.subject.clone().map(Condition::Subject));
        add(self.issuer.clone().map(Condition::Issuer));
        add(self.name.clone().map(Condition::Name));
        for label in &self.labels {
            add(Some(Condition::Label(label.clone())));
        }
        add(self.scope.clone().map(Condition::Scope));
        add(self.kind.map(Condition::Kind));
        add(self.profile.clone().map(Condition::Profile));
        add(self.state.map(Condition::State));
        add(self.issued_before.map(Condition::IssuedBefore));
        add(self.issued_after.map(Condition::IssuedAfter));
        add(self.expiring_within.map(Condition::ExpiringWithin));
        add(self.unused_for.map(Condition::UnusedFor));
        add(self.unused_since.map(Condition::UnusedSince));
        Filter(conditions)
    }
}
