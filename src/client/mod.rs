//! Clients of the native socket: [`blocking`], and with the feature `client-async` [`asynchronous`].
//!
//! Both reconnect by themselves, also while the daemon restarts, and repeat a request only where that is safe:
//!
//! | what happened | reads, validate, revoke, suspend, resume, import | issue, edit, renew, rotate, clock reset |
//! | --- | --- | --- |
//! | the connection turned out closed before a byte of the request was taken | repeated once | repeated once |
//! | the daemon said that it is stopping and did not begin the request | repeated once | repeated once |
//! | the connection ended after that, without a byte of the reply | repeated once | [`ClientError::Lost`] |
//! | a part of the reply came, or something that is no reply | error | error |
//!
//! A stream of events (`watch`) has a connection of its own and does not reconnect: whoever reads it asks again, after the
//! number that the stream had come to, and misses nothing.
//!
//! A repeated revocation changes nothing more. After a rotation that was lost the caller asks again: that is safe, since it
//! replaces a successor that nobody has, but it is the caller's to decide. A repeated validation may spend a second use of a token that has a
//! number of uses: never more than it has. Everything has a deadline; replies are checked strictly (I5), and buffers
//! that held a token are wiped (I3). Protocol: `docs/protocol.md`.

#![forbid(unsafe_code)]

#[cfg(feature = "client-async")]
pub mod asynchronous;
pub mod blocking;
mod cache;
mod feed;
#[cfg(feature = "client-async")]
mod link;
mod message;
mod socket;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use cache::Known;
pub use socket::{SYSTEM_SOCKET, default_socket};

/// How a caching client behaves.
#[derive(Clone, Debug)]
pub struct CacheOptions {
    /// Verdicts that are kept at most, rounded up to a power of two: twice as many as there are different questions, if
    /// hardly any is to push another out. A place takes some 150 bytes; a verdict in it 300, and the token's facts.
    pub entries: usize,
    /// How often uses are told to the daemon.
    pub report_every: Duration,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self { entries: 16_384, report_every: Duration::from_secs(1) }
    }
}

use crate::protocol::code::ErrorCode;
use crate::protocol::message::Failure;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a validation may take in all, connecting included.
    pub timeout: Duration,
    /// How long anything else may take: a change waits for the disk, a listing may be long.
    pub long_timeout: Duration,
    /// How long to try again, within the timeout, where no daemon listens yet: it may be restarting. Zero = not at all.
    pub connect_retry: Duration,
    /// Talk only to a daemon that runs as this uid.
    ///
    /// With socket activation the kernel names root until the daemon has taken the socket over.
    pub expect_uid: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            long_timeout: Duration::from_secs(30),
            connect_retry: Duration::from_secs(5),
            expect_uid: None,
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody could be connected to at the path; start the daemon, or name another socket.
    #[error("cannot connect to {}: {source}; is bearerd running? ({})", path.display(), socket::look(path))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another user than expected listens there; do not show it tokens.
    #[error("{} is served by uid {uid}, not by uid {expected}: nothing was sent to it", path.display())]
    WrongServer {
        /// The socket.
        path: PathBuf,
        /// Who listens.
        uid: u32,
        /// Who was expected.
        expected: u32,
    },
    /// The time is over. A change may or may not have been made: look before you repeat it.
    #[error("bearerd did not answer within {0:?}; a change may or may not have been made: look before you repeat it")]
    Timeout(Duration),
    /// What came is not this protocol; something else listens there, or one side is too new.
    #[error("what listens at the socket does not speak bearerd's protocol: {0}")]
    Protocol(&'static str),
    /// The request is longer than the daemon takes; ask for fewer at a time.
    #[error("the request takes {bytes} bytes and may take {limit}: ask for fewer at a time")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The daemon answered that it can't or won't.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The daemon ended the connection and said why.
    #[error("bearerd closed the connection: {0}")]
    Refused(#[source] Failure),
    /// The connection ended before the reply. A change may or may not have been made: look before you repeat it.
    #[error("the connection to bearerd was lost before the reply; a change may or may not have been made")]
    Lost {
        /// What the kernel said, if it was more than an end.
        source: Option<io::Error>,
    },
}

impl ClientError {
    /// The daemon's code, if it is the daemon that refused.
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Failure(failure) | Self::Refused(failure) => Some(failure.code),
            _ => None,
        }
    }
}

/// When a request may be sent a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    /// Whenever its reply was lost: doing it twice is as good as once.
    Harmless,
    /// Only when it is certain that it was not begun.
    Unbegun,
}

/// What became of a request that got no answer on its connection.
#[derive(Debug)]
enum Broken {
    /// No byte of it was taken, or the daemon said that it was not begun.
    Unbegun(ClientError),
    /// The connection ended after it was sent, without a byte of the reply.
    NoReply(Option<io::Error>),
    /// Repeating makes it no better.
    Final(ClientError),
}

impl Broken {
    fn may_repeat(&self, repeat: Repeat) -> bool {
        match self {
            Self::Unbegun(_) => true,
            Self::NoReply(_) => repeat == Repeat::Harmless,
            Self::Final(_) => false,
        }
    }

    /// For an error frame that is of the connection.
    fn by_daemon(failure: Failure) -> Self {
        match failure.code {
            ErrorCode::Stopping => Self::Unbegun(ClientError::Refused(failure)),
            _ => Self::Final(ClientError::Refused(failure)),
        }
    }
}

impl From<Broken> for ClientError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Unbegun(error) | Broken::Final(error) => error,
            Broken::NoReply(source) => Self::Lost { source },
        }
    }
}
