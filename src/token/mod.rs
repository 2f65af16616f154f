//! A token: `<prefix><k>_<id>_<secret><check>`, and its public handle, the id.
//!
//! The text form is in `format`, new tokens come from `generate`, what is stored of a secret is in `digest`.
//! Layout and reasons: `docs/token-format.md`.
//!
//! Invariant: a secret leaves this room only through [`Token::reveal`], which exists for the one reply that delivers it
//! and for the client that presents it.

#[cfg(feature = "daemon")]
mod digest;
mod format;
#[cfg(feature = "daemon")]
mod generate;
pub mod imported;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

#[cfg(feature = "daemon")]
pub use digest::{Digest, digest, imported_digest, sha256};
pub use format::Malformed;
// Recovery keys are written with the same digits.
#[cfg(feature = "daemon")]
pub(crate) use format::{CROCKFORD, CROCKFORD_VALUE};
#[cfg(feature = "daemon")]
pub use generate::{IdSource, new_secret, random};

/// Longest text that is looked at as a token, in bytes (imported tokens may be this long).
pub const TEXT_MAX: usize = 1024;
/// Characters of an id: 128 bits in Crockford base32.
pub const ID_CHARS: usize = 26;
/// Characters of the secret: 256 bits in base62.
pub const SECRET_CHARS: usize = 43;
/// Characters of the check: 32 bits in base62.
pub const CHECK_CHARS: usize = 6;
/// The prefix of tokens made here unless the configuration says otherwise.
pub const DEFAULT_PREFIX: &str = "brd";

/// UUIDv7 (RFC 9562, 5.7), 16 bytes big-endian; printed as 26 characters of Crockford base32. Not a secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId([u8; 16]);

impl TokenId {
    /// The smallest id, where a listing begins.
    pub const MIN: Self = Self([0; 16]);

    /// From the 16 bytes of the UUID, big-endian.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes of the UUID, big-endian.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format::encode_id(*self))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TokenId {
    type Err = Malformed;

    /// Parses the 26 characters; lower case and the aliases of Crockford's alphabet are refused.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        format::decode_id(text)
    }
}

/// What a token is for. The letter in its text must equal the record's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Long-lived, for integrations.
    Machine,
    /// Short-lived, for people and jobs.
    Session,
    /// Never good: any use of it is an alert.
    Canary,
}

impl Kind {
    /// The letter in the token's text: `m`, `s` or `c`.
    pub const fn letter(self) -> char {
        match self {
            Self::Machine => 'm',
            Self::Session => 's',
            Self::Canary => 'c',
        }
    }

    /// The name in commands, JSON and audit lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Session => "session",
            Self::Canary => "canary",
        }
    }

    /// The kind of that letter.
    pub const fn from_letter(letter: u8) -> Option<Self> {
        match letter {
            b'm' => Some(Self::Machine),
            b's' => Some(Self::Session),
            b'c' => Some(Self::Canary),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        [Self::Machine, Self::Session, Self::Canary].into_iter().find(|kind| kind.name() == text).ok_or(UnknownKind)
    }
}

/// A word that names no kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a kind of token (machine, session or canary)")]
pub struct UnknownKind;

/// The 256-bit secret of a token. Wiped when dropped; no `Debug`, no equality: only its keyed digest is compared.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes the 32 bytes, most significant first.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, most significant first.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The prefix of a token: 2 to 8 of `[a-z0-9]`, first a letter.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    bytes: [u8; 8],
    len: u8,
}

impl Prefix {
    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("checked to be ASCII when made")
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let raw = text.as_bytes();
        let sound = (2..=8).contains(&raw.len())
            && raw[0].is_ascii_lowercase()
            && raw.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !sound {
            return Err(Malformed::Prefix);
        }
        let mut bytes = [0; 8];
        bytes[..raw.len()].copy_from_slice(raw);
        Ok(Self { bytes, len: raw.len() as u8 })
    }
}

/// A whole token. Its `Debug` shows the head only; the secret is wiped when it is dropped.
#[derive(Clone)]
pub struct Token {
    /// The prefix it was written with.
    pub prefix: Prefix,
    /// The kind its letter claims; the record's kind decides.
    pub kind: Kind,
    /// The public handle.
    pub id: TokenId,
    /// What makes it a credential.
    pub secret: Secret,
}

impl Token {
    /// Parses the text form, without a lookup.
    ///
    /// # Errors
    /// [`Malformed`] says which part is wrong; the text itself is never repeated.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        format::parse(text)
    }

    /// `<prefix><k>_<id>`: safe to show anywhere.
    pub fn head(&self) -> String {
        head(self.prefix, self.kind, self.id)
    }

    /// The whole text, secret included: for the one reply that delivers it and for the client that presents it.
    pub fn reveal(&self) -> Zeroizing<String> {
        format::print(self)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_…", self.head())
    }
}

/// `<prefix><k>_<id>` of a token that is known by its parts.
pub fn head(prefix: Prefix, kind: Kind, id: TokenId) -> String {
    format!("{prefix}{}_{id}", kind.letter())
}

/// Whether a whole token stands anywhere in `text`.
pub fn holds_token(text: &str) -> bool {
    format::holds_token(text)
}

/// The id in a head or in a bare id; a whole token is refused, so that it is never taken for one.
///
/// # Errors
/// [`Malformed`] when the text is neither.
pub fn id_of_handle(text: &str) -> Result<TokenId, Malformed> {
    match text.split_once('_') {
        Some((front, id)) => {
            format::parse_front(front.as_bytes())?;
            id.parse()
        }
        None => text.parse(),
    }
}

#[cfg(test)]
mod tests;
