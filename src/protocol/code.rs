//! Stable numbers and names: why a token is not active, and why a request failed.
//!
//! Append only: a number never changes its meaning. Tests pin them.

use serde::{Deserialize, Serialize};

/// Why a token is not active. Only `Malformed` and `Unknown` are said to who did not show the right secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reason {
    /// It is no token by its form or its check characters.
    Malformed,
    /// Unknown id, wrong secret or wrong kind letter; which of them is not said.
    Unknown,
    /// Ended by decision.
    Revoked,
    /// Held until resumed.
    Suspended,
    /// Its successor has taken over.
    Rotated,
    /// Its time is over.
    Expired,
    /// Its time has not begun.
    NotYetValid,
    /// Bait: never good.
    Canary,
    /// Not good through this peer (unit or uid).
    WrongPeer,
    /// Not good from this client address.
    WrongNetwork,
    /// Not for this service.
    WrongAudience,
    /// It may not do all that is asked; the missing scopes are listed.
    InsufficientScope,
    /// Used too often in its period.
    RateLimited,
    /// All its uses are spent.
    Exhausted,
}

impl Reason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::Malformed,
        Self::Unknown,
        Self::Revoked,
        Self::Suspended,
        Self::Rotated,
        Self::Expired,
        Self::NotYetValid,
        Self::Canary,
        Self::WrongPeer,
        Self::WrongNetwork,
        Self::WrongAudience,
        Self::InsufficientScope,
        Self::RateLimited,
        Self::Exhausted,
    ];

    /// The name in JSON and audit lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Revoked => "revoked",
            Self::Suspended => "suspended",
            Self::Rotated => "rotated",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Canary => "canary",
            Self::WrongPeer => "wrong_peer",
            Self::WrongNetwork => "wrong_network",
            Self::WrongAudience => "wrong_audience",
            Self::InsufficientScope => "insufficient_scope",
            Self::RateLimited => "rate_limited",
            Self::Exhausted => "exhausted",
        }
    }
}

/// Why a request failed, as a stable number; the text beside it is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u16", try_from = "u16")]
#[repr(u16)]
pub enum ErrorCode {
    /// The request has a value that can't be: the message says which.
    BadRequest = 1,
    /// Policy does not allow it. The administrator's log says what would have been needed.
    NotPermitted = 2,
    /// No such token.
    NotFound = 3,
    /// It can't be done now, and nothing was changed: try again.
    Unavailable = 4,
    /// A limit of `[limits]` is reached.
    LimitReached = 5,
    /// The prefix fits more than one id.
    Ambiguous = 6,
    /// The disk has no room for it; nothing was changed.
    NoSpace = 7,
    /// A fault in the daemon; its log says more.
    Internal = 8,
    /// The change may or may not be on disk: the daemon stops and recovers what the disk holds.
    Undecided = 9,
    /// The daemon is stopping: connect again.
    Stopping = 10,
    /// The token's successor is in use already: the message names it.
    AlreadyRotated = 11,
    /// The token's state does not allow it (it has ended, is suspended, or can't be had longer): the message says which.
    WrongState = 12,
    /// No common protocol version, or an unknown flag.
    Unsupported = 20,
    /// A frame longer than the limit; the connection ends.
    FrameTooLarge = 21,
    /// A frame that is not one strictly encoded message; the connection ends.
    BadFrame = 22,
    /// A frame was begun and not finished in time; the connection ends.
    TooSlow = 23,
    /// Too many connections, of this user or in all; the connection ends.
    TooManyConnections = 24,
    /// More requests in flight than allowed; the connection ends.
    TooManyRequests = 25,
}

impl ErrorCode {
    /// All codes.
    pub const ALL: [Self; 18] = [
        Self::BadRequest,
        Self::NotPermitted,
        Self::NotFound,
        Self::Unavailable,
        Self::LimitReached,
        Self::Ambiguous,
        Self::NoSpace,
        Self::Internal,
        Self::Undecided,
        Self::Stopping,
        Self::AlreadyRotated,
        Self::WrongState,
        Self::Unsupported,
        Self::FrameTooLarge,
        Self::BadFrame,
        Self::TooSlow,
        Self::TooManyConnections,
        Self::TooManyRequests,
    ];

    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::NotPermitted => "not_permitted",
            Self::NotFound => "not_found",
            Self::Unavailable => "unavailable",
            Self::LimitReached => "limit_reached",
            Self::Ambiguous => "ambiguous",
            Self::NoSpace => "no_space",
            Self::Internal => "internal",
            Self::Undecided => "undecided",
            Self::Stopping => "stopping",
            Self::AlreadyRotated => "already_rotated",
            Self::WrongState => "wrong_state",
            Self::Unsupported => "unsupported",
            Self::FrameTooLarge => "frame_too_large",
            Self::BadFrame => "bad_frame",
            Self::TooSlow => "too_slow",
            Self::TooManyConnections => "too_many_connections",
            Self::TooManyRequests => "too_many_requests",
        }
    }
}

impl From<ErrorCode> for u16 {
    fn from(code: ErrorCode) -> Self {
        code as Self
    }
}

/// A number that is no code of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown error code")]
pub struct UnknownCode;

impl TryFrom<u16> for ErrorCode {
    type Error = UnknownCode;

    fn try_from(number: u16) -> Result<Self, UnknownCode> {
        Self::ALL.into_iter().find(|code| u16::from(*code) == number).ok_or(UnknownCode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn numbers_are_pinned() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(codec::encode(&reason), [number as u8], "{reason:?}");
        }
        let codes: Vec<(u16, &str)> = ErrorCode::ALL.iter().map(|&code| (code.into(), code.name())).collect();
        assert_eq!(
            codes,
            [
                (1, "bad_request"),
                (2, "not_permitted"),
                (3, "not_found"),
                (4, "unavailable"),
                (5, "limit_reached"),
                (6, "ambiguous"),
                (7, "no_space"),
                (8, "internal"),
                (9, "undecided"),
                (10, "stopping"),
                (11, "already_rotated"),
                (12, "wrong_state"),
                (20, "unsupported"),
                (21, "frame_too_large"),
                (22, "bad_frame"),
                (23, "too_slow"),
                (24, "too_many_connections"),
                (25, "too_many_requests"),
            ]
        );
        assert!(codec::decode::<ErrorCode>(&[13]).is_err());
    }
}
