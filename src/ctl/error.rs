//! What can go wrong, the exit status and the one line that it becomes (`docs/json.md`).

use std::io;
use std::path::PathBuf;

use crate::protocol::code::ErrorCode;
use crate::protocol::message::Failure;

/// Done; the token is active; a list is complete, be it empty.
pub const OK: u8 = 0;
/// The token is not active; nothing matched.
pub const NO: u8 = 1;
/// The command line is wrong (EX_USAGE).
pub const USAGE: u8 = 64;
/// Bad data; the audit log's chain is broken (EX_DATAERR).
pub const BAD_DATA: u8 = 65;
/// The daemon can't be reached (EX_UNAVAILABLE).
pub const UNREACHABLE: u8 = 69;
/// A fault in the daemon, or it does not speak as it should (EX_SOFTWARE).
pub const INTERNAL: u8 = 70;
/// The output can't be written, or what was to be scanned can't be read (EX_IOERR).
pub const OUTPUT: u8 = 74;
/// Not now: try again (EX_TEMPFAIL).
pub const TRY_AGAIN: u8 = 75;
/// Policy or a limit is in the way (EX_NOPERM).
pub const NOT_PERMITTED: u8 = 77;

/// An argument that can't be used. No message repeats it: it may be a credential that was pasted into the wrong place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArgumentError {
    /// Not count and period.
    #[error("not a rate: write how many in which time, as in 100/1m")]
    Rate,
    /// Not key and value, or too long.
    #[error("not a label: write KEY=VALUE, at most 64 and 256 bytes")]
    Label,
    /// One key with two values.
    #[error("a label's key is given twice")]
    LabelTwice,
    /// Not an address with a length of prefix.
    #[error("not a network: write an address, or a network as in 192.0.2.0/24")]
    Network,
    /// Neither id nor head nor the beginning of an id.
    #[error(
        "not an id: write the 26 characters that list shows, the first of them, or a head as in brdm_01M844…; a token \
         is never an argument, so if it is one, revoke it with --token-file: it stands in the shell's history now"
    )]
    Handle,
    /// Too short for a change: what it fits may not be what was meant.
    #[error("too short: to change something give at least 12 characters of the id")]
    HandleTooShort,
    /// Not a whole id.
    #[error("not a whole id: go on after the 26 characters that the last page named")]
    Cursor,
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CtlError {
    /// clap refused the arguments; its message in one line.
    #[error("{0}")]
    Usage(String),
    /// An argument of right form that can't be.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// An argument holds a token. It must be considered known to others.
    #[error(
        "a token is on the command line: it was not looked at, but it stands in the shell's history and the process \
         list now; revoke it (bearerctl revoke --token-file FILE) and give tokens on standard input or in a file"
    )]
    TokenInArguments,
    /// There is no token where one should be.
    #[error("no token given: {0} is empty; write the token into it")]
    NoToken(String),
    /// What should hold a token is longer than any, or no text.
    #[error("no token: the first line of {0} is longer than 1,024 bytes or not text; give the token alone")]
    BadToken(String),
    /// A file that was named can't be read.
    #[error("can't read {path}: {source}; check its name and mode", path = .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is there, and nobody said that it may go.
    #[error("{} exists already: name another file, or give --force to put the new one in its place", .path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// A file that was named can't be written.
    #[error("can't write {path}: {source}; nothing of that name was changed", path = .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Ctrl-C at the prompt.
    #[error("interrupted")]
    Interrupted,
    /// Nobody answers at the socket.
    #[error("{0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("{0}")]
    Timeout(String),
    /// The connection ended before the answer came.
    #[error("{0}")]
    Lost(String),
    /// What came back is no answer.
    #[error("{0}")]
    Protocol(String),
    /// The daemon said no.
    #[error("{0}")]
    Refused(#[from] Failure),
    /// A person was asked and did not say yes.
    #[error("not confirmed: nothing was changed")]
    NotConfirmed,
    /// Standard output can't be written.
    #[error("can't write the output: {0}; write it elsewhere")]
    Output(#[source] io::Error),
    /// A successor was made and can't be handed over; its predecessor is as good as before.
    #[error(
        "token {id} was made but can't be printed: {source}; it is lost, so rotate again, which puts another in its \
         place: bearerctl rotate {id}"
    )]
    SuccessorLost {
        /// Its id.
        id: crate::token::TokenId,
        /// Why.
        source: io::Error,
    },
    /// A token was made and can't be handed over.
    #[error("token {id} was made but can't be printed: {source}; it is lost, so revoke it: bearerctl revoke {id}")]
    TokenLost {
        /// Its id.
        id: crate::token::TokenId,
        /// Why.
        source: io::Error,
    },
    /// A key was made and can't be handed over.
    #[error(
        "key {slot} was made but can't be printed: {source}; it is lost, and opens nothing once you ask for another: do that now"
    )]
    KeyLost {
        /// The id of its slot.
        slot: String,
        /// Why.
        source: io::Error,
    },
}

impl CtlError {
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_)
            | Self::Argument(_)
            | Self::TokenInArguments
            | Self::NoToken(_)
            | Self::Read { .. }
            | Self::Exists { .. } => USAGE,
            Self::BadToken(_) => BAD_DATA,
            Self::Interrupted => 130,
            Self::NotConfirmed => NO,
            Self::Unreachable(_) => UNREACHABLE,
            Self::Timeout(_) | Self::Lost(_) => TRY_AGAIN,
            Self::Protocol(_) => INTERNAL,
            Self::Refused(failure) => status_of(failure.code),
            Self::Output(_)
            | Self::TokenLost { .. }
            | Self::SuccessorLost { .. }
            | Self::KeyLost { .. }
            | Self::Write { .. } => OUTPUT,
        }
    }

    /// The name in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Usage(_) | Self::Argument(_) | Self::NoToken(_) => "usage",
            Self::TokenInArguments => "token_in_arguments",
            Self::BadToken(_) => "bad_token",
            Self::Read { .. } => "unreadable",
            Self::Exists { .. } => "exists",
            Self::Write { .. } => "unwritable",
            Self::Interrupted => "interrupted",
            Self::NotConfirmed => "not_confirmed",
            Self::Unreachable(_) => "unreachable",
            Self::Timeout(_) => "timeout",
            Self::Lost(_) => "connection_lost",
            Self::Protocol(_) => "protocol",
            Self::Refused(failure) => failure.code.name(),
            Self::Output(_) => "output",
            Self::TokenLost { .. } | Self::SuccessorLost { .. } => "token_lost",
            Self::KeyLost { .. } => "key_lost",
        }
    }
}

/// The exit status of what the daemon refused.
pub fn status_of(code: ErrorCode) -> u8 {
    match code {
        ErrorCode::NotFound | ErrorCode::AlreadyRotated | ErrorCode::WrongState => NO,
        ErrorCode::BadRequest | ErrorCode::Ambiguous | ErrorCode::FrameTooLarge => USAGE,
        ErrorCode::NotPermitted | ErrorCode::LimitReached => NOT_PERMITTED,
        ErrorCode::Unavailable
        | ErrorCode::NoSpace
        | ErrorCode::Undecided
        | ErrorCode::Stopping
        | ErrorCode::TooSlow
        | ErrorCode::TooManyConnections
        | ErrorCode::TooManyRequests => TRY_AGAIN,
        ErrorCode::Internal | ErrorCode::Unsupported | ErrorCode::BadFrame => INTERNAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/json.md, "Exit status": scripts are written against this table.
    #[test]
    fn every_refusal_has_its_status() {
        let table: Vec<(u8, &str)> = ErrorCode::ALL.iter().map(|&code| (status_of(code), code.name())).collect();
        assert_eq!(
            table,
            [
                (64, "bad_request"),
                (77, "not_permitted"),
                (1, "not_found"),
                (75, "unavailable"),
                (77, "limit_reached"),
                (64, "ambiguous"),
                (75, "no_space"),
                (70, "internal"),
                (75, "undecided"),
                (75, "stopping"),
                (1, "already_rotated"),
                (1, "wrong_state"),
                (70, "unsupported"),
                (64, "frame_too_large"),
                (70, "bad_frame"),
                (75, "too_slow"),
                (75, "too_many_connections"),
                (75, "too_many_requests"),
            ]
        );
    }
}
