//! The values that a configuration file is written in: durations, sizes, rates, paths and texts, each checked where it
//! is read, so that an error names the file and the line.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::time::parse_duration;

/// Longest subject, name, audience or pattern, in bytes.
pub(super) const TEXT_MAX: usize = 128;
/// Longest path of a Unix socket, in bytes: `sun_path` has 108 with the closing zero.
pub const SOCKET_PATH_MAX: usize = 107;
/// Most labels of a token.
pub(super) const LABELS_MAX: usize = 32;
/// Longest key of a label, in bytes.
pub(super) const LABEL_KEY_MAX: usize = 64;
/// Longest value of a label, in bytes.
pub(super) const LABEL_VALUE_MAX: usize = 256;

/// At most `count` in each `per`: `60/1m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many, at least 1.
    pub count: u32,
    /// The period, longer than zero.
    pub per: Duration,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, crate::time::format_duration(self.per))
    }
}

/// Parses `60/1m`. `None` for anything else, for a count of zero and for a period of zero.
pub fn parse_rate(text: &str) -> Option<Rate> {
    let (count, per) = text.split_once('/')?;
    if !count.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let rate = Rate { count: count.parse().ok()?, per: parse_duration(per).ok()? };
    (rate.count > 0 && !rate.per.is_zero()).then_some(rate)
}

/// Parses a size in bytes: `4096B`, `64KiB`, `64MiB`, `2GiB`. `None` for anything else.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Whether a text can be shown anywhere: no control characters, none that turn the direction of writing.
pub(super) fn printable(text: &str) -> bool {
    !text.chars().any(|c| {
        c.is_control()
            || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    })
}

/// Reads a string through `parse`; another type is an error that says what was expected.
struct FromText<T> {
    expected: &'static str,
    parse: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::custom(format_args!("{text:?} is not {}", self.expected)))
    }
}

macro_rules! from_text {
    ($($(#[$doc:meta])* $name:ident($inner:ty): $expected:literal, $parse:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub(super) struct $name(pub(super) $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let parse: fn(&str) -> Option<$inner> = $parse;
                deserializer.deserialize_any(FromText { expected: $expected, parse }).map(Self)
            }
        }
    )*};
}

from_text! {
    /// `15m`; `0` is written without a unit too.
    Span(Duration): "a duration in quotes: a whole number and a unit, as in \"250ms\", \"90s\", \"15m\", \"8h\", \"30d\" or \"12w\"",
        |text| if text == "0" { Some(Duration::ZERO) } else { parse_duration(text).ok() };
    /// `64MiB`.
    Size(u64): "a size in quotes: a whole number and one of B, KiB, MiB, GiB, as in \"64MiB\"", parse_size;
    /// `60/1m`.
    RateText(Rate): "a rate in quotes: a count, a slash and a duration, as in \"60/1m\"", parse_rate;
    /// A path that means the same whatever the working directory is.
    AbsolutePath(PathBuf): "an absolute path without \"..\"", parse_path;
    /// A path, or empty for none.
    OptionalPath(Option<PathBuf>): "an absolute path without \"..\", or \"\" for none",
        |text| if text.is_empty() { Some(None) } else { parse_path(text).map(Some) };
    /// The prefix of new tokens.
    PrefixText(crate::token::Prefix): "a prefix: 2 to 8 of a-z and 0-9, the first a letter", |text| text.parse().ok();
    /// A name, an audience, a pattern.
    Text(String): "a text of 1 to 128 bytes without control characters",
        |text| (!text.is_empty() && text.len() <= TEXT_MAX && printable(text)).then(|| text.to_owned());
    /// Whom a token may stand for.
    SubjectText(String): "a subject: a pattern with * and ?, or \"@user\" for the peer's own user name, 1 to 128 bytes",
        |text| {
            let sound = !text.is_empty() && text.len() <= TEXT_MAX && printable(text);
            (sound && (!text.starts_with('@') || text == "@user")).then(|| text.to_owned())
        };
    /// The `iss` of introspection, or empty for none.
    IssuerText(String): "an issuer: at most 256 bytes without spaces and control characters, or \"\" for none",
        |text| (text.len() <= 256 && printable(text) && !text.contains(' ')).then(|| text.to_owned());
    /// The name of a profile, as it stands in commands.
    ProfileName(String): "the name of a profile: 1 to 64 of A-Z a-z 0-9 . _ -",
        |text| is_profile_name(text).then(|| text.to_owned());
}

fn parse_path(text: &str) -> Option<PathBuf> {
    let sound = text.starts_with('/')
        && text.len() > 1
        && text.len() < 4096
        && !text.ends_with('/')
        && printable(text)
        && text.split('/').all(|part| part != "..");
    sound.then(|| PathBuf::from(text))
}

/// 1 to 64 of `A-Z a-z 0-9 . _ -`.
pub(super) fn is_profile_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'))
}

/// Scopes as granted: sorted, without duplicates.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scopes(pub(super) crate::scope::ScopeSet);

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Scopes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of scopes, as in [\"repo:read\", \"ci:*\"]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Scopes, A::Error> {
                let mut scopes: Vec<crate::scope::Scope> = Vec::new();
                while let Some(text) = list.next_element::<String>()? {
                    let scope = text.parse().map_err(|error| A::Error::custom(format_args!("{text:?} is {error}")))?;
                    scopes.push(scope);
                }
                scopes.try_into().map(Scopes).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_any(List)
    }
}

/// Labels of a profile.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Labels(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Labels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of labels, as in { team = \"web\" }")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut labels = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    let sound = (1..=LABEL_KEY_MAX).contains(&key.len())
                        && value.len() <= LABEL_VALUE_MAX
                        && !key.contains('=')
                        && printable(&key)
                        && printable(&value);
                    if !sound {
                        return Err(A::Error::custom(format_args!(
                            "the label {key:?} is not a key of 1 to 64 bytes without \"=\" and a value of at most 256 bytes, \
                             both without control characters"
                        )));
                    }
                    labels.insert(key, value);
                }
                if labels.len() > LABELS_MAX {
                    return Err(A::Error::custom("at most 32 labels"));
                }
                Ok(Labels(labels))
            }
        }
        deserializer.deserialize_any(Table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(parse_size("64MiB"), Some(64 << 20));
        assert_eq!(parse_size("0B"), Some(0));
        for text in ["", "64", "MiB", "64MB", "64 MiB", "-1B", "99999999999GiB", "1.5GiB"] {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_rate_has_a_count_and_a_period() {
        assert_eq!(parse_rate("60/1m"), Some(Rate { count: 60, per: Duration::from_secs(60) }));
        assert_eq!(parse_rate("60/1m").unwrap().to_string(), "60/1m");
        for text in ["", "60", "60/", "/1m", "0/1m", "60/0s", "+60/1m", "60/1", "60/1m/2", "4294967296/1m"] {
            assert_eq!(parse_rate(text), None, "{text:?}");
        }
    }

    #[test]
    fn paths_are_absolute() {
        assert!(parse_path("/var/lib/bearerd/tokens.redb").is_some());
        for text in ["", "/", "a", "./a", "/a/../b", "/a/", "/a\0b", "/a\nb"] {
            assert!(parse_path(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn what_turns_a_line_around_is_not_printable() {
        assert!(printable("Ünïcode is fine"));
        for text in ["a\u{202e}b", "a\u{2066}b", "a\u{1b}b", "a\u{85}b", "a\nb"] {
            assert!(!printable(text), "{text:?}");
        }
    }
}
