//! `bearerctl audit`.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

use super::values::{handle, time};
use crate::protocol::message::{AuditQuery, Handle};
use crate::time::UnixTime;

/// Names of the audit events, for help and completions.
pub const EVENTS: [&str; 24] = [
    "issue",
    "import",
    "edit",
    "renew",
    "rotate",
    "revoke",
    "suspend",
    "resume",
    "expire",
    "warn",
    "use",
    "deny",
    "canary",
    "reuse",
    "policy",
    "seal",
    "recovered",
    "flood",
    "start",
    "stop",
    "reload",
    "rekey",
    "clock",
    "gap",
];

/// `bearerctl audit`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  bearerctl audit --since -2h
  bearerctl audit --token 01M844DZG0FAY828 --summary
  bearerctl audit --event deny --since 2026-11-01T00:00:00Z
  bearerctl audit --follow
  bearerctl audit --json --since -1d | jq -r 'select(.event == \"use\") | .subject' | sort | uniq -c
  bearerctl audit verify")]
pub struct AuditArgs {
    /// Something other than showing lines.
    #[command(subcommand)]
    pub command: Option<AuditCommand>,
    /// Of this token: its id, its head, or the first characters of its id
    #[arg(long, value_name = "ID", value_parser = handle)]
    pub token: Option<Handle>,
    /// Of this subject
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Through this systemd unit
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
    /// Through this uid
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
    /// Of this event
    #[arg(long, value_name = "EVENT", value_parser = PossibleValuesParser::new(EVENTS), hide_possible_values = true)]
    event: Option<String>,
    /// Not before: RFC 3339, or -2h
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    pub since: Option<UnixTime>,
    /// Before: RFC 3339, or -2h
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    until: Option<UnixTime>,
    /// Go on showing lines as they come; without --since only new ones
    #[arg(long, short, conflicts_with = "until")]
    pub follow: bool,
    /// Who used the token of --token: through what, from where, how often, since when
    #[arg(long, requires = "token", conflicts_with_all = ["subject", "unit", "uid", "event", "since", "until", "follow"])]
    pub summary: bool,
}

/// `bearerctl audit …`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum AuditCommand {
    /// Check that no line of the log was removed, changed, swapped, inserted or cut off
    ///
    /// The chain goes over rotated files too. The first bad line is named; exit status 65 says that there is one. Whoever
    /// holds the daemon's key could write a chain anew: the seals that syslog carried elsewhere show that.
    Verify,
}

impl AuditArgs {
    /// The query that these arguments ask for, from its beginning.
    pub fn query(&self) -> AuditQuery {
        AuditQuery {
            token: self.token.clone(),
            subject: self.subject.clone(),
            unit: self.unit.clone(),
            uid: self.uid,
            event: self.event.clone(),
            since: self.since,
            until: self.until,
            after: None,
            wait: false,
        }
    }
}
