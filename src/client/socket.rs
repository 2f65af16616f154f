//! Finding and opening the socket, and the hello: what both clients do before the first request.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sockopt};

use super::{Broken, ClientError, Options};
use crate::codec;
use crate::page::{self, Seen};
use crate::protocol::message::{Answer, ClientHello, Reply, ServerHello};
use crate::protocol::{FLAG_PAGE, MAGIC, REQUEST_MAX, VERSION};
use crate::sys::shared::Words;

/// Where the system's daemon listens.
pub const SYSTEM_SOCKET: &str = "/run/bearerd/bearerd.sock";
/// First pause before another try to connect; it doubles up to [`PAUSE_MAX`].
pub(super) const PAUSE: Duration = Duration::from_millis(25);
/// How long a connection whose answer to the hello was too late to prove the daemon's clock is used for.
pub(super) const DOUBT: Duration = Duration::from_secs(1);
/// Longest pause.
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(400);

/// The socket that is meant when none is named: `BEARERD_SOCKET`, else the system's if it exists, else the user's under
/// `XDG_RUNTIME_DIR` if that exists, else the system's.
pub fn default_socket() -> PathBuf {
    choose(env::var_os("BEARERD_SOCKET"), env::var_os("XDG_RUNTIME_DIR"), Path::exists)
}

fn choose(named: Option<OsString>, runtime_dir: Option<OsString>, exists: impl Fn(&Path) -> bool) -> PathBuf {
    let set = |value: Option<OsString>| value.filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set(named) {
        return path;
    }
    let system = PathBuf::from(SYSTEM_SOCKET);
    if exists(&system) {
        return system;
    }
    let user = set(runtime_dir).map(|dir| dir.join("bearerd/bearerd.sock"));
    user.filter(|path| exists(path)).unwrap_or(system)
}

/// What to type where nobody listens.
pub(super) fn look(path: &Path) -> &'static str {
    if path == Path::new(SYSTEM_SOCKET) { "systemctl status bearerd" } else { "one of your own: bearerd --user" }
}

/// One try to connect; the socket is non-blocking, so that a full backlog does not hold the caller up.
pub(super) fn open(path: &Path) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(socket.as_raw_fd(), &address)?;
    Ok(UnixStream::from(socket))
}

/// Whether a connect that failed so may succeed soon: nobody listens yet, or too many wait.
pub(super) fn may_come(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOENT | Errno::ECONNREFUSED | Errno::EAGAIN | Errno::EINTR | Errno::ECONNRESET))
}

/// The uid that listens, checked against the one that is expected.
pub(super) fn server_uid(stream: &impl std::os::fd::AsFd, path: &Path, options: &Options) -> Result<u32, ClientError> {
    let credentials = socket::getsockopt(stream, sockopt::PeerCredentials)
        .map_err(|errno| ClientError::Connect { path: path.to_owned(), source: errno.into() })?;
    match options.expect_uid {
        Some(expected) if expected != credentials.uid() => {
            Err(ClientError::WrongServer { path: path.to_owned(), uid: credentials.uid(), expected })
        }
        _ => Ok(credentials.uid()),
    }
}

/// Sends what there is room for, without waiting, and without a signal when the other side is gone: the library may
/// run in a program that does not ignore SIGPIPE.
pub(super) fn send(stream: &impl AsRawFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(socket::send(stream.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)?)
}

/// Whether an error of `send` or `recv` means that the other side has closed.
pub(super) fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected)
}

/// The first message of a client, which may want the epoch page.
pub(super) const fn hello(wants_page: bool) -> ClientHello {
    let flags = if wants_page { FLAG_PAGE } else { 0 };
    ClientHello { magic: MAGIC, version_min: VERSION, version_max: VERSION, flags }
}

/// What a server's hello allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Bytes of a request.
    pub(super) request_max: usize,
    /// Requests in flight.
    #[cfg_attr(not(feature = "client-async"), expect(dead_code, reason = "one request at a time needs no limit"))]
    pub(super) in_flight_max: usize,
    /// What the server's CLOCK_BOOTTIME was, if it granted the epoch page.
    pub(super) page: Option<Duration>,
}

/// Checks a server's hello; `None` when it has no common version, and an error frame follows.
pub(super) fn terms(content: &[u8], wants_page: bool) -> Result<Option<Terms>, ClientError> {
    let hello: ServerHello =
        codec::decode(content).map_err(|_| ClientError::Protocol("its first frame is no hello of version 1"))?;
    if hello.magic != MAGIC {
        return Err(ClientError::Protocol("its hello begins with other bytes"));
    }
    match hello.version {
        0 => Ok(None),
        VERSION if hello.flags == 0 || (wants_page && hello.flags == FLAG_PAGE) => Ok(Some(Terms {
            request_max: (hello.request_max as usize).min(REQUEST_MAX),
            in_flight_max: hello.in_flight_max as usize,
            page: (hello.flags == FLAG_PAGE).then(|| Duration::from_micros(hello.boottime_micros)),
        })),
        VERSION => Err(ClientError::Protocol("it grants what was not asked for")),
        _ => Err(ClientError::Protocol("it chose a version that was not offered")),
    }
}

/// The epoch page of a connection.
#[derive(Clone)]
pub(super) enum Page {
    /// Not wanted, or not granted.
    None,
    /// Granted, but it did not come, or it is not certain that the daemon's clock is ours: greeting again may bring it.
    Doubtful,
    /// This.
    Seen(Arc<Seen>),
}

impl Page {
    /// What a greeting has brought: `before` is our CLOCK_BOOTTIME before it was sent, `daemons` what the hello says.
    pub(super) fn of(file: Option<OwnedFd>, before: Duration, daemons: Option<Duration>) -> Self {
        let Some(daemons) = daemons else { return Self::None };
        let Some(file) = file.filter(|_| page::agrees(before, daemons)) else { return Self::Doubtful };
        let seen = Words::open(&file, page::WORDS).ok().and_then(|words| Seen::new(words).ok());
        seen.map_or(Self::None, |seen| Self::Seen(Arc::new(seen)))
    }

    pub(super) fn seen(&self) -> Option<&Arc<Seen>> {
        match self {
            Self::Seen(page) => Some(page),
            Self::None | Self::Doubtful => None,
        }
    }
}

/// A reply frame, taken apart; an error of the connection is an `Err`.
pub(super) fn reply(content: &[u8]) -> Result<(u32, Answer), Broken> {
    let protocol = |what| Broken::Final(ClientError::Protocol(what));
    let reply: Reply = codec::decode(content).map_err(|_| protocol("a frame is no reply of version 1"))?;
    match (reply.id, reply.body) {
        (0, Answer::Error(failure)) => Err(Broken::by_daemon(failure)),
        (0, _) => Err(protocol("a reply has the number 0")),
        (id, answer) => Ok((id, answer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_socket_goes_first_then_the_systems_then_the_users() {
        let user = Path::new("/run/user/1000/bearerd/bearerd.sock");
        let system = Path::new(SYSTEM_SOCKET);
        let named = || Some(OsString::from("/tmp/x"));
        let runtime = || Some(OsString::from("/run/user/1000"));
        assert_eq!(choose(named(), runtime(), |_| true), Path::new("/tmp/x"));
        assert_eq!(choose(None, runtime(), |_| true), system);
        assert_eq!(choose(Some(OsString::new()), runtime(), |path| path == user), user);
        assert_eq!(choose(None, None, |path| path == user), system);
        assert_eq!(choose(None, runtime(), |_| false), system);
    }

    #[test]
    fn the_hint_suits_the_socket() {
        let text = |path: &str| {
            let source = io::ErrorKind::NotFound.into();
            ClientError::Connect { path: path.into(), source }.to_string()
        };
        assert!(text(SYSTEM_SOCKET).ends_with("is bearerd running? (systemctl status bearerd)"));
        assert!(
            text("/run/user/1000/bearerd/bearerd.sock")
                .ends_with("is bearerd running? (one of your own: bearerd --user)")
        );
    }

    #[test]
    fn a_hello_that_promises_something_else_is_refused() {
        let good = ServerHello {
            magic: MAGIC,
            version: 1,
            flags: 0,
            request_max: 1000,
            in_flight_max: 3,
            batch_max: 256,
            boottime_micros: 5,
        };
        let given = terms(&codec::encode(&good), false).unwrap().unwrap();
        assert_eq!((given.request_max, given.in_flight_max), (1000, 3));
        assert!(terms(&codec::encode(&ServerHello { version: 0, ..good.clone() }), false).unwrap().is_none());
        for bad in [
            ServerHello { version: 2, ..good.clone() },
            ServerHello { flags: 1, ..good.clone() },
            ServerHello { magic: *b"nothing\0", ..good.clone() },
        ] {
            assert!(matches!(terms(&codec::encode(&bad), false), Err(ClientError::Protocol(_))), "{bad:?}");
        }
        let with_page = codec::encode(&ServerHello { flags: FLAG_PAGE, ..good.clone() });
        assert_eq!(terms(&with_page, true).unwrap().unwrap().page, Some(Duration::from_micros(5)));
        assert_eq!(terms(&codec::encode(&good), true).unwrap().unwrap().page, None);
        let more = codec::encode(&ServerHello { flags: FLAG_PAGE | 2, ..good.clone() });
        assert!(matches!(terms(&more, true), Err(ClientError::Protocol(_))));
        let mut longer = codec::encode(&good);
        longer.push(0);
        assert!(matches!(terms(&longer, false), Err(ClientError::Protocol(_))));
    }
}
