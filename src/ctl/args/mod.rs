//! The arguments of bearerctl, as clap derives them. Completions and manual pages are made from the same [`command`].
//!
//! Invariant I3: no argument takes a token. What looks like one is refused before clap sees it (`super::leak`), since
//! clap repeats bad values in its messages.

mod audit;
mod filter;
mod issue;
mod list;
mod many;
mod values;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

pub use audit::{AuditArgs, AuditCommand, EVENTS};
pub use filter::FilterArgs;
pub use issue::IssueArgs;
pub use list::ListArgs;
pub use many::{HoldArgs, ManyArgs, RevokeArgs};
use values::{handle, required_scope};

use crate::protocol::message::Handle;

/// Heading of the options that every command takes.
const GLOBAL: &str = "Options of every command";
const EXIT_STATUS: &str = "\
Exit status:
   0  done; the token is active; the list is complete, be it empty
   1  the token is not active; nothing matched
  64  wrong usage             69  the daemon can't be reached
  65  bad data, broken chain  70  a fault inside the daemon
  74  can't write the output  75  not now: try again
  77  not permitted, or a limit is reached";

const EXAMPLES: &str = "\
Examples:
  bearerctl issue backup --scope repo:read --ttl 30d > backup.token
  bearerctl validate --scope repo:read < backup.token
  bearerctl list --expiring-within 14d
  bearerctl revoke 01M844DZG0FAY828 --reason 'laptop lost'
  bearerctl audit --token 01M844DZG0FAY828 --summary";

/// Makes, checks, lists and revokes the API tokens of this host, and shows who used them.
///
/// bearerctl talks to bearerd over its Unix socket; the kernel tells the daemon who asks, and the daemon's policy says
/// what they may do. Tokens are read from standard input or a file, never from an argument: arguments stand in the
/// shell's history and in the process list.
#[derive(Debug, Parser)]
#[command(name = "bearerctl", version, about, max_term_width = 100, after_help = EXIT_STATUS)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{EXIT_STATUS}"))]
#[command(subcommand_required = true, arg_required_else_help = true, infer_subcommands = false)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Clone, Debug, Args)]
pub struct Globals {
    /// The daemon's socket; without it the system's, else the user's own
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "PATH", env = "BEARERD_SOCKET", hide_env_values = true)]
    pub socket: Option<PathBuf>,
    /// Print JSON for programs; its keys are stable (docs/json.md)
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,
    /// Print only what was asked for; validate and revoke then answer by exit status alone
    #[arg(long, short, global = true, help_heading = GLOBAL)]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a token and print it, this once
    ///
    /// The token alone goes to standard output; what it is goes to standard error. It is kept nowhere: who loses it issues
    /// another. What is not given is decided by the profile, else by the daemon's configuration.
    Issue(Box<IssueArgs>),
    /// Ask whether a token is good, for what it is needed
    ///
    /// The token is the first line of standard input (asked for without echo on a terminal) or of --token-file. It counts
    /// as a use, in the limits of the token and in the audit log, unless --peek is given. Exit status 0 says active, 1 not
    /// active; of a token that is not active the reason is shown.
    Validate(ValidateArgs),
    /// Show what is known of one token
    Show(ShowArgs),
    /// List tokens
    ///
    /// Oldest first. All filters that are given must hold. A narrow table shortens ids: as they are shown they are enough
    /// for other commands. Pages stay stable while tokens come and go.
    List(Box<ListArgs>),
    /// End tokens; in force when the command returns
    ///
    /// When the command returns with status 0, the tokens are refused by everything on this host, caches included, and that
    /// survives a power cut. What was revoked before stays so and is counted 0. Of tokens that were rotated, only the
    /// member named is revoked; if another of its family is still good, that is said.
    ///
    /// Filters name all tokens that meet every one of them, whatever their number, as one order that is in force at once.
    /// On a terminal it is asked first; elsewhere filters need --yes.
    Revoke(Box<RevokeArgs>),
    /// Hold tokens until they are resumed; in force when the command returns
    ///
    /// As revoke, but it can be taken back. Tokens that have ended are not held.
    Suspend(Box<HoldArgs>),
    /// Let held tokens be good again
    Resume(Box<HoldArgs>),
    /// Show who used which token, when, from where and through what
    ///
    /// All filters that are given must hold. With --json each line is printed as it stands in the log.
    Audit(Box<AuditArgs>),
    /// Show how the daemon, its store, keys, audit and clock are
    Status,
    /// The time that lives of tokens are measured by
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Clock {
        /// What to do with it.
        #[command(subcommand)]
        command: ClockCommand,
    },
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  bearerctl completions bash > /etc/bash_completion.d/bearerctl")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `bearerctl validate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bearerctl validate --scope repo:read < token
  bearerctl validate --scope repo:read --scope repo:write --from 192.0.2.7 --token-file token
  if bearerctl --quiet validate --scope deploy < token; then ...; fi")]
pub struct ValidateArgs {
    /// A scope that is needed, exact; repeat it for several, all of which must be granted
    #[arg(long = "scope", value_name = "SCOPE", value_parser = required_scope)]
    pub scopes: Vec<String>,
    /// The service that asks, if it takes tokens only that are for it
    #[arg(long, value_name = "NAME")]
    pub audience: Option<String>,
    /// The address of the client that showed the token; policy must let you say so
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<IpAddr>,
    /// A note for the audit line
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// Spend no use and no rate; the audit log says so
    #[arg(long)]
    pub peek: bool,
    /// Read the token from the first line of a file; '-' is standard input
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// `bearerctl show`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bearerctl show 01M844DZG0FAY828\n  bearerctl show --json brdm_01M844DZG0FAY828T5CY4TQKFF"
)]
pub struct ShowArgs {
    /// The token's id, its head, or the first characters of its id
    #[arg(value_name = "ID", value_parser = handle)]
    pub id: Handle,
}

/// `bearerctl clock …`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ClockCommand {
    /// Take a wrong time back: the wall clock counts from now on
    ///
    /// The daemon never counts back: if the clock was once set to a date in the future, tokens stay expired after it was
    /// put right. Put the clock right, then run this. It needs the right `admin`, and is audited.
    Reset,
}

/// The whole command line, for completions and manual pages.
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests;
