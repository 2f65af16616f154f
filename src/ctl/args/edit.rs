//! `bearerctl edit`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{ArgGroup, Args};

use super::values::{change_handle, duration, granted_scope, label, network, time};
use crate::ctl::error::{ArgumentError, CtlError};
use crate::protocol::message::{Edit, Ends, Handle};
use crate::time::UnixTime;

/// `bearerctl edit`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true).args([
    "name", "labels", "unlabel", "allow_from", "allow_from_any", "allow_units", "allow_unit_any", "allow_uids",
    "allow_uid_any", "scopes", "drop_scopes", "expires", "ttl",
]))]
#[command(after_help = "\
Examples:
  bearerctl edit 01M844DZG0FAY828 --name nightly --label team=ops --unlabel old
  bearerctl edit 01M844DZG0FAY828 --allow-from 192.0.2.0/24 --allow-from 198.51.100.7
  bearerctl edit 01M844DZG0FAY828 --allow-unit-any
  bearerctl edit 01M844DZG0FAY828 --drop-scope deploy --ttl 2d")]
pub struct EditArgs {
    /// The token's id, its head, or the first characters of its id (12 at least)
    #[arg(value_name = "ID", value_parser = change_handle)]
    id: Handle,
    /// What people call it
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Set a label, as in team=web; repeat it for several
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Take a label off; repeat it for several
    #[arg(long, value_name = "KEY")]
    unlabel: Vec<String>,
    /// A client network that it is good from; repeat it for several, which replace what it had
    #[arg(long, value_name = "CIDR", value_parser = network)]
    allow_from: Vec<String>,
    /// Good from any client network
    #[arg(long, conflicts_with = "allow_from")]
    allow_from_any: bool,
    /// A systemd unit that it is good through; repeat it for several, which replace what it had
    #[arg(long = "allow-unit", value_name = "UNIT")]
    allow_units: Vec<String>,
    /// Good through any unit
    #[arg(long, conflicts_with = "allow_units")]
    allow_unit_any: bool,
    /// A uid that it is good through; repeat it for several, which replace what it had
    #[arg(long = "allow-uid", value_name = "UID")]
    allow_uids: Vec<u32>,
    /// Good through any uid
    #[arg(long, conflicts_with = "allow_uids")]
    allow_uid_any: bool,
    /// All that it may do from now on, within what it might; repeat it for several
    #[arg(long = "scope", value_name = "SCOPE", value_parser = granted_scope)]
    scopes: Vec<String>,
    /// Take a scope away, as it was granted; repeat it for several
    #[arg(long = "drop-scope", value_name = "SCOPE", value_parser = granted_scope)]
    drop_scopes: Vec<String>,
    /// When it ends, sooner than it would: RFC 3339, or +2h from now
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true, conflicts_with = "ttl")]
    expires: Option<UnixTime>,
    /// How long it lives from now, shorter than it would: 90s 15m 8h 30d 12w
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    ttl: Option<Duration>,
}

impl EditArgs {
    /// The request that these arguments ask for.
    ///
    /// # Errors
    /// [`ArgumentError::LabelTwice`]: which of two values counts would be a guess.
    pub fn request(self) -> Result<Edit, CtlError> {
        let mut labels = BTreeMap::new();
        for (key, value) in self.labels {
            if labels.insert(key, value).is_some() {
                return Err(ArgumentError::LabelTwice.into());
            }
        }
        Ok(Edit {
            token: self.id,
            name: self.name,
            labels,
            unlabel: self.unlabel,
            allow_from: replaced(self.allow_from, self.allow_from_any),
            allow_units: replaced(self.allow_units, self.allow_unit_any),
            allow_uids: replaced(self.allow_uids, self.allow_uid_any),
            scopes: replaced(self.scopes, false),
            drop_scopes: self.drop_scopes,
            ends: self.expires.map(Ends::At).or(self.ttl.map(Ends::In)),
        })
    }
}

/// A list that was given, or the empty one that stands for any.
fn replaced<T>(given: Vec<T>, any: bool) -> Option<Vec<T>> {
    (any || !given.is_empty()).then_some(given)
}
