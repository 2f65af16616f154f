//! Which tokens are meant: conditions that must all hold, in listings and in changes of many tokens at once.
//!
//! The enum is append only, as all messages are: a condition that a version does not know is refused, never skipped.

use std::fmt::{self, Write};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::message::State;
use crate::time::{UnixTime, format_duration, parse_duration};
use crate::token::{Kind, TokenId};

/// Conditions in one filter.
pub const CONDITIONS_MAX: usize = 32;

/// Bytes of a filter written out: what a change of many tokens takes, so that its audit line has it whole.
pub const FILTER_TEXT_MAX: usize = 4096;

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

/// A text that is no filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a filter as bearerd writes it")]
pub struct NotAFilter;

/// Reads what [`Filter`]'s `Display` writes: `filter.to_string().parse() == Ok(filter)`, as long as
/// its durations are whole milliseconds and no longer than 1,000 years.
impl FromStr for Filter {
    type Err = NotAFilter;

    fn from_str(text: &str) -> Result<Self, NotAFilter> {
        let mut words = words(text)?.into_iter();
        let mut conditions = Vec::new();
        while let Some(flag) = words.next() {
            if flag == "--all" {
                conditions.push(Condition::All);
                continue;
            }
            let value = words.next().ok_or(NotAFilter)?;
            conditions.push(condition(&flag, value).ok_or(NotAFilter)?);
        }
        Ok(Self(conditions))
    }
}

fn condition(flag: &str, value: String) -> Option<Condition> {
    Some(match flag {
        "--subject" => Condition::Subject(value),
        "--issuer" => Condition::Issuer(value),
        "--name" => Condition::Name(value),
        "--label" => Condition::Label(value),
        "--scope" => Condition::Scope(value),
        "--kind" => Condition::Kind(value.parse().ok()?),
        "--profile" => Condition::Profile(value),
        "--state" => Condition::State(State::ALL.into_iter().find(|state| state.name() == value)?),
        "--expiring-within" => Condition::ExpiringWithin(parse_duration(&value).ok()?),
        "--unused-for" => Condition::UnusedFor(parse_duration(&value).ok()?),
        "--unused-since" => Condition::UnusedSince(value.parse().ok()?),
        "--family" => Condition::Family(value.parse().ok()?),
        "--issued-before" => Condition::IssuedBefore(value.parse().ok()?),
        "--issued-after" => Condition::IssuedAfter(value.parse().ok()?),
        _ => return None,
    })
}

/// Words as a shell takes them apart: bare, in single quotes, or an escaped quote between those.
fn words(text: &str) -> Result<Vec<String>, NotAFilter> {
    let mut words = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut word = String::new();
        loop {
            if let Some(quoted) = rest.strip_prefix('\'') {
                let (inside, after) = quoted.split_once('\'').ok_or(NotAFilter)?;
                word.push_str(inside);
                rest = after;
            } else if let Some(after) = rest.strip_prefix(r"\'") {
                word.push('\'');
                rest = after;
            } else {
                let end = rest.find([' ', '\'', '\\']).unwrap_or(rest.len());
                if end == 0 {
                    break;
                }
                word.push_str(&rest[..end]);
                rest = &rest[end..];
            }
        }
        words.push(word);
        match rest.strip_prefix(' ') {
            Some(after) if !after.is_empty() => rest = after,
            None if rest.is_empty() => {}
            _ => return Err(NotAFilter),
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_condition() -> impl Strategy<Value = Condition> {
        // What a shell and a parser could stumble over, and anything else.
        let text = || prop_oneof![any::<String>(), "[ '\"\\\\$a=:-]{0,12}"];
        let time = || (0..=UnixTime::MAX.as_micros()).prop_map(UnixTime::from_micros);
        let duration = || (0_u64..=366_000 * 86_400_000).prop_map(Duration::from_millis);
        prop_oneof![
            text().prop_map(Condition::Subject),
            text().prop_map(Condition::Issuer),
            text().prop_map(Condition::Name),
            text().prop_map(Condition::Label),
            text().prop_map(Condition::Scope),
            text().prop_map(Condition::Profile),
            prop_oneof![Just(Kind::Machine), Just(Kind::Session), Just(Kind::Canary)].prop_map(Condition::Kind),
            prop::sample::select(State::ALL.to_vec()).prop_map(Condition::State),
            duration().prop_map(Condition::ExpiringWithin),
            duration().prop_map(Condition::UnusedFor),
            time().prop_map(Condition::UnusedSince),
            any::<[u8; 16]>().prop_map(|bytes| Condition::Family(TokenId::from_bytes(bytes))),
            time().prop_map(Condition::IssuedBefore),
            time().prop_map(Condition::IssuedAfter),
            Just(Condition::All),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(conditions in prop::collection::vec(any_condition(), 0..6)) {
            let filter = Filter(conditions);
            prop_assert_eq!(filter.to_string().parse(), Ok(filter));
        }

        #[test]
        fn nothing_else_panics(text in any::<String>()) {
            let _ = text.parse::<Filter>();
        }
    }

    #[test]
    fn what_no_filter_is_written_as_is_none() {
        for text in [
            "--subject",
            "subject alice",
            "--subject 'alice",
            "--all ",
            " --all",
            "--all  --all",
            r"--name \a",
            "--kind x",
        ] {
            assert_eq!(text.parse::<Filter>(), Err(NotAFilter), "{text}");
        }
        assert_eq!("".parse(), Ok(Filter::default()));
    }

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
