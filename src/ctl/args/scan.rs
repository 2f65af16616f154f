//! `bearerctl scan`.

use std::path::PathBuf;

use clap::Args;

use super::values::time;
use crate::time::UnixTime;

/// `bearerctl scan`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 nothing found, 1 found, 74 nothing found but not everything could be read

Examples:
  bearerctl scan /srv/app /etc
  git log -p --all | bearerctl scan -           # what is in git's packs is compressed
  bearerctl scan --journal --since -2h
  bearerctl scan --live .                       # fails only if one of them still works
  bearerctl scan --revoke --reason 'was in the public repository' .")]
pub struct ScanArgs {
    /// Files, and directories with all that is below them; '-' is standard input
    #[arg(value_name = "PATH", required_unless_present = "journal")]
    pub paths: Vec<PathBuf>,
    /// The systemd journal too, as far as you may read it
    #[arg(long)]
    pub journal: bool,
    /// Of the journal only what was written since: RFC 3339, or -2h
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true, requires = "journal")]
    pub since: Option<UnixTime>,
    /// Only tokens that are good, or can become good again, count and are shown; it needs the daemon
    #[arg(long)]
    pub live: bool,
    /// End what is found, after a question; it needs the daemon
    #[arg(long)]
    pub revoke: bool,
    /// Why, for the records and the audit lines
    #[arg(long, value_name = "TEXT", requires = "revoke")]
    pub reason: Option<String>,
    /// Do not ask
    #[arg(long, short, requires = "revoke")]
    pub yes: bool,
}
