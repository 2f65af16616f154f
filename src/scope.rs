//! Scopes: what a token may do, and whether what it may do covers what is asked.
//!
//! Grammar: segments `[a-z0-9._-]+` joined by `:`. A granted scope may end in `:*` (all below, and not the parent itself) or be `*`;
//! a required one may not.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest scope, in bytes.
pub const SCOPE_MAX: usize = 128;
/// Most scopes of one token or one request.
pub const SCOPES_MAX: usize = 64;

/// Why a text is no scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScopeError {
    /// Not segments of `[a-z0-9._-]` joined by `:`, or longer than [`SCOPE_MAX`].
    #[error("not a scope: segments of a-z 0-9 . _ - joined by ':', at most 128 characters")]
    Grammar,
    /// A wildcard where one exact scope is needed.
    #[error("a scope that is asked for can't have a wildcard")]
    Wildcard,
    /// More than [`SCOPES_MAX`].
    #[error("at most 64 scopes")]
    TooMany,
}

/// A checked scope, as granted: it may be `*` or end in `:*`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(Box<str>);

/// What a byte is in a scope: 0 = nothing that may stand there, 1 = of a segment, 2 = between segments.
const BYTES: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        kinds[byte] = match byte as u8 {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => 1,
            b':' => 2,
            _ => 0,
        };
        byte += 1;
    }
    kinds
};

fn segments_are_sound(text: &str) -> bool {
    let mut before = 2;
    for byte in text.bytes() {
        let kind = BYTES[usize::from(byte)];
        // A colon needs a segment before it.
        if kind == 0 || (kind == 2 && before == 2) {
            return false;
        }
        before = kind;
    }
    before == 1
}

/// Checks a scope that is asked for: no wildcards.
///
/// # Errors
/// [`ScopeError`] as its variants say.
pub fn check_required(text: &str) -> Result<(), ScopeError> {
    if text.len() > SCOPE_MAX {
        return Err(ScopeError::Grammar);
    }
    if text == "*" || text.ends_with(":*") {
        return Err(ScopeError::Wildcard);
    }
    if segments_are_sound(text) { Ok(()) } else { Err(ScopeError::Grammar) }
}

impl Scope {
    /// The scope as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this grant covers `asked`, which may itself be a grant (then all that it covers must be covered).
    pub fn covers(&self, asked: &str) -> bool {
        if &*self.0 == "*" || &*self.0 == asked {
            return true;
        }
        match self.0.strip_suffix('*') {
            // "repo:" keeps its colon, so that "repo:*" covers "repo:read" and neither "repo" nor "repository:read".
            Some(below) => asked.len() > below.len() && asked.starts_with(below),
            None => false,
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let body = if text == "*" { "any" } else { text.strip_suffix(":*").unwrap_or(text) };
        if text.len() > SCOPE_MAX || !segments_are_sound(body) {
            return Err(ScopeError::Grammar);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for Scope {
    type Error = ScopeError;

    fn try_from(text: String) -> Result<Self, ScopeError> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.0.into()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The scopes of a token: sorted, without duplicates, at most [`SCOPES_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Scope>", into = "Vec<Scope>")]
pub struct ScopeSet(Vec<Scope>);

impl ScopeSet {
    /// Checks each text and takes them as a set.
    ///
    /// # Errors
    /// [`ScopeError`] of the first that is wrong, or [`ScopeError::TooMany`].
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, ScopeError> {
        let scopes = texts.iter().map(|text| text.as_ref().parse()).collect::<Result<Vec<_>, _>>()?;
        Self::try_from(scopes)
    }

    /// The scopes in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Scope> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the scopes covers `asked`.
    pub fn covers(&self, asked: &str) -> bool {
        self.0.iter().any(|scope| scope.covers(asked))
    }

    /// All of `required` that no scope covers, in the order asked, each once.
    pub fn missing<'a, S: AsRef<str>>(&self, required: &'a [S]) -> Vec<&'a str> {
        let mut missing: Vec<&str> = Vec::new();
        for asked in required.iter().map(AsRef::as_ref) {
            if !self.covers(asked) && !missing.contains(&asked) {
                missing.push(asked);
            }
        }
        missing
    }

    /// The scopes as texts.
    pub fn to_strings(&self) -> Vec<String> {
        self.0.iter().map(|scope| scope.as_str().to_owned()).collect()
    }
}

impl TryFrom<Vec<Scope>> for ScopeSet {
    type Error = ScopeError;

    fn try_from(mut scopes: Vec<Scope>) -> Result<Self, ScopeError> {
        scopes.sort();
        scopes.dedup();
        if scopes.len() > SCOPES_MAX { Err(ScopeError::TooMany) } else { Ok(Self(scopes)) }
    }
}

impl From<ScopeSet> for Vec<Scope> {
    fn from(set: ScopeSet) -> Self {
        set.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cover_is_exact_below_or_everything() {
        let covers = |granted: &str, asked: &str| granted.parse::<Scope>().unwrap().covers(asked);
        assert!(covers("repo:read", "repo:read"));
        assert!(!covers("repo:read", "repo:read:all"));
        assert!(covers("repo:*", "repo:read"));
        assert!(covers("repo:*", "repo:read:all"));
        assert!(covers("repo:*", "repo:sub:*"));
        assert!(!covers("repo:*", "repo"));
        assert!(!covers("repo:*", "repository:read"));
        assert!(!covers("repo:sub:*", "repo:*"));
        assert!(covers("*", "repo:*"));
        assert!(!covers("repo:*", "*"));
    }

    #[test]
    fn bad_scopes_are_refused() {
        for text in ["", ":", "a:", ":a", "a::b", "A", "a b", "a:*:b", "*:a", "a*", "**", "é", "a\n"] {
            assert!(text.parse::<Scope>().is_err(), "{text:?}");
        }
        assert!("a".repeat(128).parse::<Scope>().is_ok());
        assert!("a".repeat(129).parse::<Scope>().is_err());
        assert_eq!(check_required("a:*"), Err(ScopeError::Wildcard));
        assert_eq!(check_required("*"), Err(ScopeError::Wildcard));
        assert_eq!(check_required("a:b"), Ok(()));
    }

    #[test]
    fn all_that_is_missing_is_named_once() {
        let set = ScopeSet::parse(&["repo:read", "ci:*"]).unwrap();
        assert_eq!(set.missing(&["repo:write", "ci:run", "repo:write", "admin", "repo:read"]), ["repo:write", "admin"]);
    }

    #[test]
    fn a_set_is_sorted_bounded_and_without_duplicates() {
        assert_eq!(ScopeSet::parse(&["b", "a", "b"]).unwrap().to_strings(), ["a", "b"]);
        let many: Vec<String> = (0..65).map(|i| format!("s{i}")).collect();
        assert_eq!(ScopeSet::parse(&many), Err(ScopeError::TooMany));
    }

    proptest! {
        #[test]
        fn a_wildcard_covers_just_what_lies_below(stem in "[a-c]{1,2}(:[a-c]{1,2}){0,2}", asked in "[a-c]{1,2}(:[a-c]{1,2}){0,3}") {
            let granted: Scope = format!("{stem}:*").parse().unwrap();
            let below = asked.split(':').count() > stem.split(':').count()
                && asked.split(':').zip(stem.split(':')).all(|(a, b)| a == b);
            prop_assert_eq!(granted.covers(&asked), below);
        }
    }
}
