//! The arguments of bearerctl, as clap derives them. Completions and manual pages are made from the same [`command`].
//!
//! Invariant I3: no argument takes a token. What looks like one is refused before clap sees it (`super::leak`), since
//! clap repeats bad values in its messages.

mod audit;
mod backup;
mod edit;
mod facts;
mod filter;
mod import;
mod issue;
mod list;
mod many;
mod rotate;
mod scan;
pub(super) mod values;
mod watch;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

pub use audit::{AuditArgs, AuditCommand, EVENTS};
pub use backup::BackupArgs;
pub use edit::EditArgs;
pub use facts::FactsArgs;
pub use filter::FilterArgs;
pub use import::ImportArgs;
pub use issue::IssueArgs;
pub use list::{ListArgs, Sort};
pub use many::{ChangeArgs, HoldArgs, ManyArgs, RevokeArgs};
pub use rotate::{RenewArgs, RotateArgs};
pub use scan::ScanArgs;
use values::{handle, required_scope};
pub use watch::WatchArgs;

use crate::protocol::message::Handle;

/// Heading of the options that every command takes.
const GLOBAL: &str = "Options of every command";
const EXIT_STATUS: &str = "\
Exit status:
   0  done; the token is active; the list is complete, be it empty
   1  the token is not active; nothing matched; scan found tokens
  64  wrong usage             69  the daemon can't be reached
  65  bad data, broken chain  70  a fault inside the daemon
  74  can't write or scan     75  not now: try again
  77  not permitted, or a limit is reached";

const EXAMPLES: &str = "\
Examples:
  bearerctl issue backup --scope repo:read --ttl 30d > backup.token
  bearerctl validate --scope repo:read < backup.token
  bearerctl list --expiring-within 14d
  bearerctl revoke 01M844DZG0FAY828 --reason 'laptop lost'
  bearerctl audit --token 01M844DZG0FAY828 --summary
  bearerctl scan /srv/app";

/// Makes, checks, lists, rotates and revokes the API tokens of this host, and shows who used them.
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
    /// Print only what was asked for; validate, revoke, suspend and resume then answer by exit status alone
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
    /// Oldest first, unless --sort is given. All filters that are given must hold. A narrow table shortens ids: as they are shown they are enough
    /// for other commands. Pages stay stable while tokens come and go.
    List(Box<ListArgs>),
    /// Change what a token is called and where it is good; take scopes or time away
    ///
    /// Name, labels, networks, units and uids change freely; a token that stands for you and that another issued you may
    /// narrow, and not widen. Scopes and expiry only become less. What is taken away is in force when the command returns.
    Edit(Box<EditArgs>),
    /// Give a token its life again
    ///
    /// It then expires its own ttl from now, and no later than the end of its lifetime, which was fixed when it was issued:
    /// at that end it must be rotated or issued anew.
    Renew(RenewArgs),
    /// Make a token's successor and print it, this once
    ///
    /// The successor is the same but for its secret and its life. The old token stays good until the new one's first use and a
    /// grace after it (`[rotation]` in the daemon's configuration), so that there is time to put the new one in its place. While
    /// the new one was never used, to rotate again by either id replaces it: a lost answer locks nobody out.
    Rotate(RotateArgs),
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
    /// Print changes as they are made, one JSON object a line
    ///
    /// What is printed is durable: issues, revocations, and whatever else changes a token or the daemon's keys; uses are in
    /// the audit log only. Each object has a number, `seq`, that grows: --since takes it up again after it, with nothing lost
    /// and nothing twice. The daemon keeps the newest 65,536 changes. When it can't go on where it should, it prints an
    /// object with the event `gap`, and goes on after it. A daemon that is restarted is waited for. Ends with Ctrl-C, or
    /// when nobody reads what it prints.
    Watch(WatchArgs),
    /// Write a copy of the store to a file, while the daemon goes on
    ///
    /// All of one moment, still encrypted: to restore it (bearerd restore) its key is needed as well, so keep a copy of that
    /// too, elsewhere. The file has mode 0600 and gets its name once it is whole. Needs the right admin; it stands in the
    /// audit log.
    Backup(BackupArgs),
    /// Show how the daemon, its store, keys, audit and clock are
    Status,
    /// The time that lives of tokens are measured by
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Clock {
        /// What to do with it.
        #[command(subcommand)]
        command: ClockCommand,
    },
    /// Find tokens in files, standard input and the journal, and end them
    ///
    /// Tokens are known by their form and check digits; no daemon is needed for that. If one answers, it is said which of
    /// them are live and whose. Whoever holds a token may end it, and so may whoever finds it. No token is printed, only its
    /// head. Links met on the way are not followed; what is compressed or encoded is not looked into.
    Scan(ScanArgs),
    /// Change the key that opens the store, or the one that its values are sealed under
    ///
    /// A key file is changed at once: the old key opens nothing any more when this returns. A credential is the service
    /// manager's: the new key is printed, once and alone, to be installed, and the start that opens the store with it ends
    /// the old one. With --data every value is sealed anew, while everything goes on. It needs the right `admin`, and is audited.
    Rekey(RekeyArgs),
    /// Make a recovery key and print it, this once
    ///
    /// For the day when the daemon's key is lost: `bearerd recover` asks for it and makes a new one. It is made to be written
    /// down and typed: a mistyped group is named. An earlier recovery key opens nothing any more. It needs the right `admin`,
    /// and is audited.
    #[command(after_help = "Examples:\n  bearerctl recovery-key\n  bearerctl --quiet recovery-key | lp")]
    RecoveryKey,
    /// Take in tokens that another system made
    ///
    /// From then on they are good here as they are: nobody has to be given a new one. Of each only a keyed digest is kept.
    /// A line that begins with '{' is a JSON object with the keys token or sha256 (hexadecimal), and any of name, kind,
    /// subject, scopes, audiences, ttl or expires_at, not_before, max_uses, rate, allow_from, allow_units, allow_uids,
    /// labels, profile; every other line is a token alone. The options below are for all lines that do not say otherwise.
    /// A text is 16 to 1,024 printable bytes, and refused if it could be guessed. To run an import again is safe: what was
    /// taken is there already. Status 65 says that lines were refused; they are named by number.
    Import(Box<ImportArgs>),
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

/// `bearerctl rekey`.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Examples:
  bearerctl rekey                # a key file: done when it returns
  bearerctl rekey | systemd-creds encrypt --name=bearerd.master-key - /etc/credstore.encrypted/bearerd.master-key
  bearerctl rekey --data")]
pub struct RekeyArgs {
    /// Seal every value under a new record key; shows how far it is. It goes on by itself when this ends, and after a restart
    #[arg(long)]
    pub data: bool,
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
