//! The arguments of `bearerctl backup`.

use std::path::PathBuf;

use clap::Args;

/// `bearerctl backup`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bearerctl backup /var/backups/bearerd/tokens.backup
  bearerctl backup --force /var/backups/bearerd/tokens.backup    # take the place of yesterday's
  bearerctl backup - | ssh vault 'cat > tokens.backup'
  bearerd restore /var/backups/bearerd/tokens.backup             # with the daemon stopped")]
pub struct BackupArgs {
    /// The file to write; '-' is standard output, which must not be a terminal
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Take the place of a file that is there, once the new one is whole
    #[arg(long)]
    pub force: bool,
}
