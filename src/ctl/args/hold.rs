//! `bearerctl suspend` and `bearerctl resume`.

use clap::Args;

use super::values::change_handle;
use crate::protocol::message::Handle;

pub(super) const SUSPEND_EXAMPLES: &str = "\
Examples:
  bearerctl suspend 01M844DZG0FAY828 --reason 'odd traffic'
  bearerctl suspend --dry-run 01M844DZG0FAY828 01M844E0M8F1V8Q4";

pub(super) const RESUME_EXAMPLES: &str = "\
Examples:
  bearerctl resume 01M844DZG0FAY828";

/// `bearerctl suspend` and `bearerctl resume`.
#[derive(Debug, Args)]
pub struct HoldArgs {
    /// Ids, heads, or first characters of ids (12 at least)
    #[arg(value_name = "ID", value_parser = change_handle, required = true)]
    pub ids: Vec<Handle>,
    /// Why, for the record and the audit line
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}
