//! What a token shall be, as options: of `issue`, and for all tokens of an `import`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;

use super::issue::kind_parser;
use super::values::{duration, granted_scope, label, network, rate, time};
use crate::ctl::error::{ArgumentError, CtlError};
use crate::protocol::message::{Issue, Rate};
use crate::time::UnixTime;
use crate::token::Kind;

/// All but the name.
#[derive(Debug, Args)]
pub struct FactsArgs {
    /// What it is for: machine for integrations, session for people and jobs, canary as bait [default: machine, or session
    /// where policy allows only that]
    #[arg(long, value_name = "KIND", value_parser = kind_parser())]
    kind: Option<Kind>,
    /// A profile of the daemon's configuration
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Whom it stands for [default: your user name; for root the token's name]
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// What it may do: exact, 'repo:*' for all below, or '*'; repeat it for several
    #[arg(long = "scope", value_name = "SCOPE", value_parser = granted_scope)]
    scopes: Vec<String>,
    /// A service that it is for; repeat it for several [default: any]
    #[arg(long = "audience", value_name = "NAME")]
    audiences: Vec<String>,
    /// How long it lives: 90s 15m 8h 30d 12w
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    ttl: Option<Duration>,
    /// Not good before: RFC 3339, or +2h from now
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    not_before: Option<UnixTime>,
    /// Good for so many validations
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_uses: Option<u64>,
    /// At most N validations in each D, as in 100/1m
    #[arg(long, value_name = "N/D", value_parser = rate)]
    rate: Option<Rate>,
    /// A client network that it is good from, as in 192.0.2.0/24; repeat it for several [default: any]
    #[arg(long, value_name = "CIDR", value_parser = network)]
    allow_from: Vec<String>,
    /// A systemd unit that it is good through, as in nginx.service; repeat it for several [default: any]
    #[arg(long = "allow-unit", value_name = "UNIT")]
    allow_units: Vec<String>,
    /// A uid that it is good through; repeat it for several [default: any]
    #[arg(long = "allow-uid", value_name = "UID")]
    allow_uids: Vec<u32>,
    /// A label, as in team=web; repeat it for several
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

impl FactsArgs {
    /// The request that these arguments ask for, of a token of this name.
    ///
    /// # Errors
    /// [`ArgumentError::LabelTwice`]: which of two values counts would be a guess.
    pub fn request(self, name: String) -> Result<Issue, CtlError> {
        let mut labels = BTreeMap::new();
        for (key, value) in self.labels {
            if labels.insert(key, value).is_some() {
                return Err(ArgumentError::LabelTwice.into());
            }
        }
        Ok(Issue {
            name,
            kind: self.kind,
            subject: self.subject,
            scopes: self.scopes,
            audiences: self.audiences,
            ttl: self.ttl,
            not_before: self.not_before,
            max_uses: self.max_uses,
            rate: self.rate,
            allow_from: self.allow_from,
            allow_units: self.allow_units,
            allow_uids: self.allow_uids,
            labels,
            profile: self.profile,
        })
    }
}
