//! Which tokens are meant: conditions that must all hold, in listings and in changes of many tokens at once.
//!
//! The enum is append only, as all messages are: a condition that a version does not know is refused, never skipped.

use std::fmt::{self, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::message::State;
use crate::time::{UnixTime, format_duration};
use crate::token::{Kind, TokenId};

/// Conditions in one filter.
pub const CONDITIONS_MAX: usize = 32;

/// Conditions that must all hold; none at all = every token, which only listings take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Filter(pub Vec<Condition>);

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Exactly this subject.
    Subject(String),
    /// Exactly this issuer.
    Issuer(String),
    /// Exactly this name.
    Name(String),
    /// Has this label: `key`, or `key=value`.
    Label(String),
    /// May do this.
    Scope(String),
    /// Of this kind.
    Kind(Kind),
    /// Issued by this profile.
    Profile(String),
    /// In this state.
    State(State),
    /// Good now and expires within this.
    ExpiringWithin(Duration),
    /// Not used for this long, nor issued so lately.
    UnusedFor(Duration),
    /// Not used at or after this time, and issued before it.
    UnusedSince(UnixTime),
    /// Of the family of this id, its first member's.
    Family(TokenId),
    /// Issued before this time.
    IssuedBefore(UnixTime),
    /// Issued at or after this time.
    IssuedAfter(UnixTime),
    /// Every token: what a change of all of them must say.
    All,
}

impl From<Condition> for Filter {
    fn from(condition: Condition) -> Self {
        Self(vec![condition])
    }
}

impl Filter {
    /// Whether it names nothing: what changes tokens refuses that.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// As a person would ask for it: `--subject alice --label team=web`, for audit lines and questions.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, condition) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_char(' ')?;
            }
            condition.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |f: &mut fmt::Formatter<'_>, flag: &str, value: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-:=/@*".contains(c);
            if !value.is_empty() && value.chars().all(plain) {
                write!(f, "--{flag} {value}")
            } else {
                write!(f, "--{flag} '{}'", value.replace('\'', r"'\''"))
            }
        };
        match self {
            Self::Subject(value) => text(f, "subject", value),
            Self::Issuer(value) => text(f, "issuer", value),
            Self::Name(value) => text(f, "name", value),
            Self::Label(value) => text(f, "label", value),
            Self::Scope(value) => text(f, "scope", value),
            Self::Kind(kind) => text(f, "kind", kind.name()),
            Self::Profile(value) => text(f, "profile", value),
            Self::State(state) => text(f, "state", state.name()),
            Self::ExpiringWithin(within) => write!(f, "--expiring-within {}", format_duration(*within)),
            Self::UnusedFor(unused) => write!(f, "--unused-for {}", format_duration(*unused)),
            Self::UnusedSince(at) => write!(f, "--unused-since {at}"),
            Self::Family(id) => write!(f, "--family {id}"),
            Self::IssuedBefore(at) => write!(f, "--issued-before {at}"),
            Self::IssuedAfter(at) => write!(f, "--issued-after {at}"),
            Self::All => f.write_str("--all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_reads_as_it_would_be_typed() {
        let filter = Filter(vec![
            Condition::Subject("alice".into()),
            Condition::Label("team=web ops".into()),
            Condition::Name("it's".into()),
            Condition::UnusedFor(Duration::from_secs(90 * 86_400)),
            Condition::IssuedBefore(UnixTime::from_secs(1_800_000_000)),
        ]);
        assert_eq!(
            filter.to_string(),
            r"--subject alice --label 'team=web ops' --name 'it'\''s' --unused-for 90d --issued-before 2027-01-15T08:00:00.000000Z"
        );
        assert_eq!(Filter::from(Condition::All).to_string(), "--all");
        assert_eq!(Filter::default().to_string(), "");
    }
}
