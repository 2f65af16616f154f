//! The daemon's command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

/// Makes, keeps, checks, revokes and accounts for the API tokens of this host.
#[derive(Parser, Debug)]
#[command(name = "bearerd", version, max_term_width = 100)]
#[command(
    after_help = "Examples:\n  bearerd demo                  a guided tour in a temporary directory, ten seconds at most\n  bearerd --user                for yourself, in the XDG base directories\n  bearerd --check-config        say what is wrong with the configuration, and exit\n\nbearerctl is the command line for tokens. Exit status: 0, 64 usage, 65 a bad backup, 74 I/O, 77 refused by its\nown checks, 78 configuration or key."
)]
pub struct Args {
    /// The configuration file [default: /etc/bearerd/bearerd.toml, with --user $XDG_CONFIG_HOME/bearerd/bearerd.toml]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Check the configuration, say what is wrong with it, and exit
    #[arg(long)]
    pub check_config: bool,
    /// Run for yourself: below $XDG_RUNTIME_DIR, $XDG_STATE_HOME and $XDG_CONFIG_HOME; you have full rights
    #[arg(long, global = true)]
    pub user: bool,
    /// How much to say on stderr
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
    /// What to do instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Args {
    /// The command line of this process.
    ///
    /// # Errors
    /// clap's, help and version among them.
    pub fn of_process() -> Result<Self, clap::Error> {
        Self::of(std::env::args_os())
    }

    fn of(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let args = Self::try_parse_from(words)?;
        // Not left to clap: it would call every unknown command a conflict.
        let (kind, text) = match &args.command {
            Some(Command::Demo) if args.config.is_some() || args.check_config || args.user => (
                ErrorKind::ArgumentConflict,
                "demo has a configuration of its own: --config, --check-config and --user are not for it",
            ),
            Some(Command::Recover) if args.check_config => {
                (ErrorKind::ArgumentConflict, "--check-config only checks: it is not for recover")
            }
            Some(Command::Restore(_)) if args.check_config => {
                (ErrorKind::ArgumentConflict, "--check-config only checks: it is not for restore")
            }
            Some(Command::Restore(restore)) if restore.file.is_none() && !restore.accept_rollback => (
                ErrorKind::MissingRequiredArgument,
                "name the FILE to restore; or give --accept-rollback alone, to take the store that is there",
            ),
            _ => return Ok(args),
        };
        Err(Self::command().error(kind, text))
    }
}

/// What the daemon's program does besides serving.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// A guided tour against a real daemon in a temporary directory
    Demo,
    /// Make a new key from the recovery key, which is read from standard input; bearerd must not run
    #[command(after_help = "Example:\n  runuser -u bearerd -- bearerd recover")]
    Recover,
    /// Put a backup in the place of the store; bearerd must not run
    ///
    /// FILE is what bearerctl backup wrote, or a copy of a store. It is checked whole before anything is touched, with the key
    /// that bearerd would use; what is there is kept beside it. A backup that is older than the audit log is refused, because
    /// tokens that were revoked since would be good again, unless --accept-rollback is given.
    #[command(after_help = "\
Examples:
  systemctl stop bearerd.socket bearerd.service
  bearerd restore /var/backups/bearerd/tokens.backup
  bearerd restore --accept-rollback /var/backups/bearerd/tokens.backup
  bearerd restore --accept-rollback      the store that is there, which was put back by hand
  systemctl start bearerd.socket bearerd.service")]
    Restore(RestoreArgs),
}

/// `bearerd restore`.
#[derive(clap::Args, Debug)]
pub struct RestoreArgs {
    /// The backup, or a copy of a store; without it the store that is there
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Take one that is older than the audit log, and end again what the log knows as ended since
    #[arg(long)]
    pub accept_rollback: bool,
    /// Take one of another store than that which is there, or whose audit log is there
    #[arg(long)]
    pub replace_other: bool,
    /// Open it with the recovery key, which is read from standard input; run bearerd recover afterwards
    #[arg(long)]
    pub recovery_key: bool,
}

/// How much the daemon says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What fails
    Error,
    /// And what should be looked at
    Warn,
    /// And what happens
    Info,
    /// And why
    Debug,
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_command_is_called_so() {
        let of = |line: &str| Args::of(line.split(' ').map(str::to_owned));
        for line in ["bearerd renew", "bearerd --user renew", "bearerd --config x renew"] {
            let error = of(line).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidSubcommand, "{line}: {error}");
            assert!(error.to_string().contains("unrecognized subcommand 'renew'"), "{error}");
        }
        let error = of("bearerd --user demo").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ArgumentConflict);
        assert!(error.to_string().contains("demo has a configuration of its own"), "{error}");
        assert!(of("bearerd --log-level debug demo").unwrap().command.is_some());
        assert!(of("bearerd --user").unwrap().user);
        let recover = of("bearerd recover --user --config x").unwrap();
        assert!(recover.user && recover.config.is_some());
        assert!(of("bearerd --user recover").unwrap().user);
        assert_eq!(of("bearerd --check-config recover").unwrap_err().kind(), ErrorKind::ArgumentConflict);
        assert!(of("bearerd restore --user x").unwrap().user);
        assert!(of("bearerd --config y restore --accept-rollback").unwrap().config.is_some());
        assert_eq!(of("bearerd --user restore").unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
        assert_eq!(of("bearerd --check-config restore x").unwrap_err().kind(), ErrorKind::ArgumentConflict);
    }
}
