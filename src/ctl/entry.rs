//! A line of an import: a token alone, or a JSON object that also says what it shall be.
//!
//! Invariants: no error repeats anything of the line but a known key's name, for any part of it may be the secret (I3); a
//! key that is not known is an error, so that a mistyped restriction is never left out; the text is copied once, into a
//! buffer that is wiped.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::ctl::args::values::rate;
use crate::protocol::message::{Foreign, ImportEntry, Issue};
use crate::time::{UnixTime, parse_duration, parse_time, wall_now};
use crate::token::Kind;
use crate::token::imported::{self, Unfit};

/// A token as its line offers it.
pub(super) struct Entry {
    token: Offer,
    facts: Issue,
    expires_at: Option<UnixTime>,
}

enum Offer {
    Text(Zeroizing<String>),
    Sha256([u8; 32]),
}

/// Why a line is not offered to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(super) enum LineError {
    /// Longer than a request.
    #[error("the line is longer than 64 KiB")]
    TooLong,
    /// Not UTF-8.
    #[error("the line is not text")]
    NotText,
    /// Its text is none that may be imported.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// It begins with a brace and is no object.
    #[error("the line is not one JSON object")]
    NotJson,
    /// Not one of [`KEYS`]. It is not shown: it may be a token that was set in the wrong place.
    #[error("the object has a key that is not known; the keys are {}", KEYS.join(" "))]
    Key,
    /// Which of the two counts would be a guess.
    #[error("{0} is given twice")]
    Twice(&'static str),
    /// A value of another type or form.
    #[error("{key} is not {expected}")]
    Value {
        /// Of which key.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// Neither or both.
    #[error("the object has to have either token or sha256")]
    OneToken,
    /// Two ends of one life.
    #[error("give a ttl or expires_at, not both")]
    TtlAndEnd,
}

/// What a line may say.
const KEYS: [&str; 17] = [
    "token",
    "sha256",
    "name",
    "kind",
    "subject",
    "scopes",
    "audiences",
    "ttl",
    "expires_at",
    "not_before",
    "max_uses",
    "rate",
    "allow_from",
    "allow_units",
    "allow_uids",
    "labels",
    "profile",
];

impl Entry {
    /// Reads a line; `None` for an empty one. What it does not say is as in `defaults`; a name is made of `prefix` and the
    /// line's number.
    pub(super) fn of_line(line: &[u8], number: u64, prefix: &str, defaults: &Issue) -> Result<Option<Self>, LineError> {
        let line = std::str::from_utf8(line).map_err(|_| LineError::NotText)?;
        // The mark that some editors begin a file with.
        let line = line.strip_prefix('\u{FEFF}').filter(|_| number == 1).unwrap_or(line);
        let line = line.trim_matches([' ', '\t']);
        if line.is_empty() {
            return Ok(None);
        }
        let named = || Issue { name: format!("{prefix}-{number}"), ..defaults.clone() };
        let entry = if line.starts_with('{') {
            Self::of_json(line, named())?
        } else {
            Self { token: Offer::Text(Zeroizing::new(line.to_owned())), facts: named(), expires_at: None }
        };
        if let Offer::Text(text) = &entry.token {
            imported::check(text)?;
        }
        Ok(Some(entry))
    }

    /// As the daemon is told.
    pub(super) fn wire(&self) -> ImportEntry<'_> {
        let token = match &self.token {
            Offer::Text(text) => Foreign::Text(text),
            Offer::Sha256(hash) => Foreign::Sha256(*hash),
        };
        ImportEntry { token, facts: self.facts.clone(), expires_at: self.expires_at }
    }

    fn of_json(line: &str, mut facts: Issue) -> Result<Self, LineError> {
        // The parser's own message may hold a value: it is not passed on.
        let Object(members) = serde_json::from_str(line).map_err(|_| LineError::NotJson)?;
        let mut seen = Vec::new();
        let (mut token, mut ttl_given, mut expires_at) = (None, false, None);
        for (key, raw) in members {
            let key = KEYS.into_iter().find(|known| *known == key).ok_or(LineError::Key)?;
            if seen.contains(&key) {
                return Err(LineError::Twice(key));
            }
            seen.push(key);
            if raw.get() == "null" {
                continue;
            }
            let wrong = |expected| LineError::Value { key, expected };
            match key {
                "token" | "sha256" if token.is_some() => return Err(LineError::OneToken),
                "token" => token = Some(Offer::Text(secret(raw.get()).ok_or(wrong("text"))?)),
                "sha256" => {
                    let hash = secret(raw.get()).and_then(|text| sha256(&text));
                    token = Some(Offer::Sha256(hash.ok_or(wrong("a SHA-256 of 64 hexadecimal digits"))?));
                }
                "name" => facts.name = value(raw).ok_or(wrong("text"))?,
                "subject" => facts.subject = Some(value(raw).ok_or(wrong("text"))?),
                "profile" => facts.profile = Some(value(raw).ok_or(wrong("text"))?),
                "kind" => {
                    facts.kind =
                        Some(parsed(raw, |text| text.parse::<Kind>().ok()).ok_or(wrong("machine, session or canary"))?)
                }
                "scopes" => facts.scopes = value(raw).ok_or(wrong("a list of texts"))?,
                "audiences" => facts.audiences = value(raw).ok_or(wrong("a list of texts"))?,
                "allow_from" => facts.allow_from = value(raw).ok_or(wrong("a list of texts"))?,
                "allow_units" => facts.allow_units = value(raw).ok_or(wrong("a list of texts"))?,
                "allow_uids" => facts.allow_uids = value(raw).ok_or(wrong("a list of uids"))?,
                "max_uses" => facts.max_uses = Some(value(raw).ok_or(wrong("a whole number"))?),
                "ttl" => {
                    ttl_given = true;
                    let ttl = parsed(raw, |text| parse_duration(text).ok());
                    facts.ttl = Some(ttl.ok_or(wrong("a duration, as in \"30d\""))?);
                }
                "rate" => {
                    facts.rate = Some(parsed(raw, |text| rate(text).ok()).ok_or(wrong("a rate, as in \"100/1m\""))?)
                }
                "not_before" => facts.not_before = Some(time(raw).ok_or(wrong("a time in the form of RFC 3339"))?),
                "expires_at" => expires_at = Some(time(raw).ok_or(wrong("a time in the form of RFC 3339"))?),
                "labels" => {
                    let labels: BTreeMap<String, String> = value(raw).ok_or(wrong("an object of texts"))?;
                    facts.labels.extend(labels);
                }
                _ => return Err(LineError::Key),
            }
        }
        match expires_at {
            Some(_) if ttl_given => return Err(LineError::TtlAndEnd),
            // The option is for lines that say nothing of their end.
            Some(_) => facts.ttl = None,
            None => {}
        }
        Ok(Self { token: token.ok_or(LineError::OneToken)?, facts, expires_at })
    }
}

/// The members of an object as they stand in the line, whatever they are.
struct Object<'a>(Vec<(&'a str, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    // Each key comes once, so that more members than keys are wrong in any case.
                    if members.len() > KEYS.len() {
                        return Err(de::Error::custom("too many members"));
                    }
                    members.push(member);
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

fn value<T: DeserializeOwned>(raw: &RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

fn parsed<T>(raw: &RawValue, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    parse(&value::<String>(raw)?)
}

fn time(raw: &RawValue) -> Option<UnixTime> {
    parsed(raw, |text| parse_time(text, wall_now()).ok())
}

fn sha256(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(hash)
}

/// The text of a JSON string that the parser has found to be one: unescaped here, since it would leave a copy behind.
fn secret(raw: &str) -> Option<Zeroizing<String>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = Zeroizing::new(String::with_capacity(inner.len()));
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next()? {
                'u' => {
                    let code = (0..4).try_fold(0, |code, _| Some(code << 4 | chars.next()?.to_digit(16)?))?;
                    // Half of a pair is nothing that a token has.
                    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
                }
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'b' => '\u{8}',
                'f' => '\u{c}',
                other => other,
            },
            other => other,
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::message::Rate;

    const TEXT: &str = "q8Zr2Lm7Xv4Tk9Wb";

    fn defaults() -> Issue {
        let labels = [("from".to_owned(), "gitlab".to_owned()), ("team".to_owned(), "web".to_owned())];
        Issue {
            ttl: Some(Duration::from_secs(60)),
            scopes: vec!["a".into()],
            labels: labels.into(),
            ..Issue::default()
        }
    }

    fn of(line: &str) -> Result<Option<Entry>, LineError> {
        Entry::of_line(line.as_bytes(), 7, "old", &defaults())
    }

    fn text_of(entry: &Entry) -> &str {
        match &entry.token {
            Offer::Text(text) => text,
            Offer::Sha256(_) => "",
        }
    }

    #[track_caller]
    fn refused(line: &str) -> LineError {
        match of(line) {
            Err(error) => {
                assert!(!error.to_string().contains("Zr2Lm"), "{error}");
                error
            }
            Ok(_) => panic!("it was taken: {line}"),
        }
    }

    #[test]
    fn a_line_alone_is_a_token_with_the_defaults() {
        let entry = of(&format!(" {TEXT}\t")).unwrap().unwrap();
        assert_eq!(text_of(&entry), TEXT);
        assert_eq!((entry.facts.name.as_str(), entry.facts.ttl), ("old-7", Some(Duration::from_secs(60))));
        assert!(of("").unwrap().is_none() && of("  \t").unwrap().is_none());
        assert_eq!(refused("password"), LineError::Unfit(Unfit::Length));
        assert_eq!(Entry::of_line(b"\xFF", 1, "", &defaults()).err(), Some(LineError::NotText));
    }

    #[test]
    fn an_object_says_what_it_shall_be() {
        let line = format!(
            r#"{{"token":"{TEXT}","name":"ci","kind":"session","subject":"bob","scopes":["b:*","c"],"audiences":["x"],
            "expires_at":"2027-01-01T00:00:00Z","not_before":"2026-12-01T00:00:00Z","max_uses":3,"rate":"100/1m",
            "allow_from":["10.0.0.0/8"],"allow_units":["a.service"],"allow_uids":[0,1000],"labels":{{"team":"db"}},
            "profile":"p"}}"#
        );
        let Entry { facts, expires_at, .. } = of(&line.replace('\n', "")).unwrap().unwrap();
        assert_eq!(
            (facts.name.as_str(), facts.kind, facts.subject.as_deref()),
            ("ci", Some(Kind::Session), Some("bob"))
        );
        assert_eq!(facts.scopes, ["b:*", "c"]);
        assert_eq!((facts.ttl, expires_at), (None, Some(UnixTime::from_secs(1_798_761_600))));
        assert_eq!(facts.not_before, Some(UnixTime::from_secs(1_796_083_200)));
        assert_eq!((facts.max_uses, facts.rate), (Some(3), Some(Rate { count: 100, per: Duration::from_secs(60) })));
        assert_eq!((facts.allow_from.len(), facts.allow_units.len(), facts.allow_uids), (1, 1, vec![0, 1000]));
        let labels: Vec<_> = facts.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(labels, ["from=gitlab", "team=db"]);
        assert_eq!(facts.profile.as_deref(), Some("p"));
    }

    #[test]
    fn what_is_null_or_absent_is_as_the_options_say() {
        let entry = of(&format!(r#"{{"token":"{TEXT}","ttl":null,"scopes":null}}"#)).unwrap().unwrap();
        assert_eq!((entry.facts.ttl, entry.facts.scopes.len()), (Some(Duration::from_secs(60)), 1));
        let entry = of(&format!(r#"{{"token":"{TEXT}","scopes":[],"ttl":"2h"}}"#)).unwrap().unwrap();
        assert_eq!((entry.facts.ttl, entry.facts.scopes.len()), (Some(Duration::from_secs(7200)), 0));
    }

    #[test]
    fn a_hash_is_taken_as_it_is() {
        let hash = "9F86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let entry = of(&format!(r#"{{"sha256":"{hash}"}}"#)).unwrap().unwrap();
        assert!(matches!(entry.wire().token, Foreign::Sha256(hash) if hash[..2] == [0x9f, 0x86]));
        for wrong in [&hash[1..], &format!("{hash}0"), &hash.replace('9', "g")] {
            assert!(matches!(refused(&format!(r#"{{"sha256":"{wrong}"}}"#)), LineError::Value { key: "sha256", .. }));
        }
    }

    #[test]
    fn escapes_are_undone() {
        let entry = of(r#"{"token":"q8Zr2Lm7\/v4Tk9Wb\u002b\"\\"}"#).unwrap().unwrap();
        assert_eq!(text_of(&entry), "q8Zr2Lm7/v4Tk9Wb+\"\\");
        assert_eq!(refused(r#"{"token":"q8Zr2Lm7\nv4Tk9Wb"}"#), LineError::Unfit(Unfit::NotPrintable));
        assert_eq!(refused(r#"{"token":"q8Zr2Lm7\ud83dv4Tk9Wb"}"#), LineError::Unfit(Unfit::NotPrintable));
    }

    #[test]
    fn what_is_not_understood_is_refused_and_not_repeated() {
        let with = |more: &str| format!(r#"{{"token":"{TEXT}",{more}}}"#);
        assert_eq!(refused(&format!("{{{TEXT}")), LineError::NotJson);
        assert_eq!(refused(&format!(r#"{{"token":"{TEXT}"}} {{}}"#)), LineError::NotJson);
        assert_eq!(refused(&format!(r#"{{"{TEXT}":1}}"#)), LineError::Key);
        assert_eq!(refused(&with(r#""alow_from":["10.0.0.0/8"]"#)), LineError::Key);
        assert_eq!(refused(&with(&format!(r#""token":"{TEXT}""#))), LineError::Twice("token"));
        assert_eq!(refused(&with(r#""name":"a","name":"b""#)), LineError::Twice("name"));
        assert_eq!(refused(r#"{"name":"a"}"#), LineError::OneToken);
        assert_eq!(refused(&with(&format!(r#""sha256":"{}""#, "0".repeat(64)))), LineError::OneToken);
        assert_eq!(refused(&with(r#""ttl":"1d","expires_at":"2027-01-01T00:00:00Z""#)), LineError::TtlAndEnd);
        for (key, value) in [
            ("name", "5"),
            ("kind", "\"robot\""),
            ("scopes", "\"a\""),
            ("ttl", "30"),
            ("ttl", &format!("\"{TEXT}\"")),
            ("max_uses", &format!("\"{TEXT}\"")),
            ("max_uses", "-1"),
            ("rate", "\"100\""),
            ("allow_uids", "[\"root\"]"),
            ("labels", "{\"a\":1}"),
            ("not_before", "\"soon\""),
        ] {
            assert!(matches!(refused(&with(&format!(r#""{key}":{value}"#))), LineError::Value { .. }), "{key}");
        }
        let many: Vec<String> = (0..100).map(|n| format!(r#""k{n}":{n}"#)).collect();
        assert!(matches!(refused(&with(&many.join(","))), LineError::NotJson | LineError::Key));
    }
}
