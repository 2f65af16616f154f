//! Changes of many tokens for people: what would be done, the question, what was done.

use super::token;
use super::when::plural;
use crate::protocol::message::{Changed, TokenInfo};
use crate::time::UnixTime;

/// What is done to tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Ended.
    Revoke,
    /// Held.
    Suspend,
    /// Let go.
    Resume,
}

impl Verb {
    /// The name of the command.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Revoke => "revoke",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
        }
    }

    const fn question(self) -> &'static str {
        match self {
            Self::Revoke => "Revoke",
            Self::Suspend => "Suspend",
            Self::Resume => "Resume",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Revoke => "Revoked",
            Self::Suspend => "Suspended",
            Self::Resume => "Resumed",
        }
    }

    const fn consequence(self) -> &'static str {
        match self {
            Self::Revoke => "refused from now on",
            Self::Suspend => "refused until resumed",
            Self::Resume => "good again as far as nothing else is in the way",
        }
    }
}

/// `Revoke 1,204 tokens?`
pub fn question(verb: Verb, number: u64) -> String {
    format!("{} {}?", verb.question(), plural(number, "token"))
}

/// What was done, or would be.
pub fn changed(verb: Verb, changed: &Changed) -> String {
    match (changed.count, changed.dry_run) {
        (0, true) => format!("Nothing to {}: no token would change.\n", verb.name()),
        (0, false) => "Nothing changed.\n".to_owned(),
        (number, true) => format!("Would {} {}.\n", verb.name(), plural(number, "token")),
        (number, false) => format!("{} {}, {}.\n", verb.done(), plural(number, "token"), verb.consequence()),
    }
}

/// The first of those that would change, and how many more there are; nothing where no row may be shown.
pub fn preview(changed: &Changed, rows: &[TokenInfo], now: UnixTime, room: Option<usize>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = token::list(rows, now, room);
    let more = changed.count.saturating_sub(rows.len() as u64);
    if more > 0 {
        text.push_str(&format!("and {} more\n", super::when::count(more)));
    }
    text
}
