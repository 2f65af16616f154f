//! `bearerctl revoke`, `suspend`, `resume`: tokens by their ids, or all that filters mean.

use std::path::PathBuf;

use clap::Args;

use super::filter::FilterArgs;
use super::values::change_handle;
use crate::protocol::message::Handle;

/// Which of all tokens.
#[derive(Clone, Debug, Default, Args)]
pub struct ManyArgs {
    /// Those that meet all of these.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Every token there is
    #[arg(long, conflicts_with = "FilterArgs")]
    pub all: bool,
}

/// Which tokens are to be changed, and how it is asked.
#[derive(Clone, Debug, Default, Args)]
pub struct ChangeArgs {
    /// Ids, heads, or first characters of ids (12 at least)
    #[arg(value_name = "ID", value_parser = change_handle, conflicts_with_all = ["FilterArgs", "all"])]
    pub ids: Vec<Handle>,
    /// Why, for the record and the audit line
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Only say what would be changed: how many, and the first of them
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask; tokens that are named by id are changed without a question anyway
    #[arg(long, short)]
    pub yes: bool,
    /// Which. Last, for its heading holds for what follows.
    #[command(flatten)]
    pub many: ManyArgs,
}

/// `bearerctl revoke`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bearerctl revoke 01M844DZG0FAY828 --reason 'laptop lost'
  bearerctl revoke --dry-run --subject alice
  bearerctl revoke --subject alice --label team=web --reason 'alice left' --yes
  bearerctl revoke --token-file found.token     # whoever holds a token may end it
  bearerctl revoke --token-file - < found.token")]
pub struct RevokeArgs {
    /// End the token in the first line of this file; '-' is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ids", "FilterArgs", "all"])]
    pub token_file: Option<PathBuf>,
    /// The rest is as for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `bearerctl suspend` and `bearerctl resume`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bearerctl suspend 01M844DZG0FAY828 --reason 'who uses this?'
  bearerctl suspend --dry-run --unused-for 90d
  bearerctl suspend --issuer mallory --yes
  bearerctl resume --issuer mallory --yes")]
pub struct HoldArgs {
    /// As for every change.
    #[command(flatten)]
    pub change: ChangeArgs,
}
