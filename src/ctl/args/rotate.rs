//! `bearerctl renew` and `bearerctl rotate`.

use std::time::Duration;

use clap::Args;

use super::values::{change_handle, duration};
use crate::protocol::message::{Handle, Rotate};

/// `bearerctl renew`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bearerctl renew 01M844DZG0FAY828")]
pub struct RenewArgs {
    /// The token's id, its head, or the first characters of its id (12 at least)
    #[arg(value_name = "ID", value_parser = change_handle)]
    pub id: Handle,
}

/// `bearerctl rotate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bearerctl rotate 01M844DZG0FAY828 > backup.token
  bearerctl rotate 01M844DZG0FAY828 --grace 1h
  bearerctl rotate 01M844DZG0FAY828 --now           # it leaked: the old one is refused at once")]
pub struct RotateArgs {
    /// The token's id, its head, or the first characters of its id (12 at least)
    #[arg(value_name = "ID", value_parser = change_handle)]
    id: Handle,
    /// End the old token at once, and not when the new one is in use
    #[arg(long, conflicts_with = "grace")]
    now: bool,
    /// How long the old token stays good after the new one's first use [default: as configured]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    grace: Option<Duration>,
}

impl RotateArgs {
    /// The request that these arguments ask for.
    pub fn request(self) -> Rotate {
        Rotate { token: self.id, now: self.now, grace: self.grace }
    }
}
