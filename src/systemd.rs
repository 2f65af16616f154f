//! What systemd gives the daemon and is told by it: sockets, credentials, readiness, the watchdog (sd_listen_fds(3),
//! sd_notify(3)). Without systemd all of it is nothing and does nothing.
//!
//! Invariant: telling never hangs the daemon. Messages go over a socket of our own that does not block, or for those that
//! must arrive (READY, RELOADING, STOPPING) waits for two seconds at most.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

use crate::sys::net;

/// How long a message that must arrive waits for a manager that does not read.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest status line, in bytes.
const STATUS_MAX: usize = 256;

/// The sockets that the service manager holds for us, by their `FileDescriptorName=`.
#[derive(Debug, Default)]
pub struct Inherited {
    /// `api`: the native socket.
    pub api: Option<UnixListener>,
    /// `http`: the HTTP face.
    pub http: Option<UnixListener>,
    /// `credentials`: for `LoadCredential=`.
    pub credentials: Option<UnixListener>,
}

/// Why the passed sockets can't be used. Each names the unit's setting to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InheritError {
    /// LISTEN_FDS and LISTEN_FDNAMES do not fit what is open.
    #[error(
        "the sockets passed by the service manager can't be taken: {0}; is it a unit of type .socket that passes them?"
    )]
    Environment(#[source] io::Error),
    /// A name that means nothing here: a door would stand open that nobody serves.
    #[error("a socket named {0:?} was passed; set FileDescriptorName= of its unit to api, http or credentials")]
    UnknownName(String),
    /// Two sockets of one name.
    #[error("two sockets named {0:?} were passed; leave one ListenStream= of that name")]
    Twice(String),
    /// It is a datagram socket, a connection, of another family, or no socket.
    #[error(
        "what was passed as {0:?} is not a listening Unix stream socket; use ListenStream= with a path and Accept=no"
    )]
    NotAListener(String),
    /// A system call on it failed.
    #[error("the socket passed as {name:?} can't be used: {source}")]
    System {
        /// Its name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Takes the sockets that were passed, checks and readies them: non-blocking, and listening by us, so that clients see
/// our uid and pid at the other end and not the manager's. Only the first call returns any.
///
/// # Errors
/// [`InheritError`] as its variants say.
pub fn inherited() -> Result<Inherited, InheritError> {
    adopt(net::take_inherited().map_err(InheritError::Environment)?)
}

fn adopt(passed: Vec<(String, OwnedFd)>) -> Result<Inherited, InheritError> {
    let mut sockets = Inherited::default();
    for (name, fd) in passed {
        let place = match name.as_str() {
            "api" => &mut sockets.api,
            "http" => &mut sockets.http,
            "credentials" => &mut sockets.credentials,
            _ => return Err(InheritError::UnknownName(name)),
        };
        if place.is_some() {
            return Err(InheritError::Twice(name));
        }
        if !net::is_unix_listener(&fd) {
            return Err(InheritError::NotAListener(name));
        }
        let listener = UnixListener::from(fd);
        let ready = listener.set_nonblocking(true).and_then(|()| net::relisten(&listener));
        ready.map_err(|source| InheritError::System { name, source })?;
        *place = Some(listener);
    }
    Ok(sockets)
}

/// Tells the service manager how the daemon is.
#[derive(Debug)]
pub struct Notifier(Option<Channel>);

#[derive(Debug)]
struct Channel {
    /// Never waits.
    quick: UnixDatagram,
    /// Waits for so long as its write timeout says. Two sockets, because what the one thread asks of a socket must not
    /// make the other wait.
    patient: UnixDatagram,
    address: SocketAddr,
}

impl Channel {
    fn to(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let (quick, patient) = (UnixDatagram::unbound()?, UnixDatagram::unbound()?);
        quick.set_nonblocking(true)?;
        patient.set_write_timeout(Some(patience))?;
        Ok(Self { quick, patient, address })
    }
}

impl Notifier {
    /// To who is named by NOTIFY_SOCKET; nobody when it is not set.
    pub fn from_env() -> Self {
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(name) => Self::to(&name, PATIENCE),
            None => Self(None),
        }
    }

    /// To the socket of that name: a path, or `@name` in the abstract namespace.
    fn to(name: &OsStr, patience: Duration) -> Self {
        let address = match name.as_bytes() {
            [] => return Self(None),
            [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name),
            path => SocketAddr::from_pathname(OsStr::from_bytes(path)),
        };
        let channel = address.and_then(|address| Channel::to(address, patience));
        match channel {
            Ok(channel) => Self(Some(channel)),
            Err(error) => {
                warn!("the service manager can't be told anything: NOTIFY_SOCKET: {error}");
                Self(None)
            }
        }
    }

    /// It serves, also again after a reload; `status` is a line for `systemctl status`.
    pub fn ready(&self, status: &str) {
        self.must_arrive(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
    }

    /// It re-reads its configuration; [`Self::ready`] must follow.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.must_arrive(&[NotifyState::Reloading, now]),
            Err(_) => self.must_arrive(&[NotifyState::Reloading]),
        };
    }

    /// It stops.
    pub fn stopping(&self) {
        self.must_arrive(&[NotifyState::Stopping]);
    }

    /// It is alive. Called from the event loop, so that a loop that hangs is found; never waits.
    pub fn watchdog(&self) {
        self.may_be_lost(&NotifyState::Watchdog);
    }

    /// `false` when the manager's queue is full.
    fn may_be_lost(&self, state: &NotifyState<'_>) -> bool {
        let Some(Channel { quick, address, .. }) = &self.0 else { return true };
        quick.send_to_addr(format!("{state}\n").as_bytes(), address).is_ok()
    }

    fn must_arrive(&self, states: &[NotifyState<'_>]) -> bool {
        let Some(Channel { patient, address, .. }) = &self.0 else { return true };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        let sent = patient.send_to_addr(message.as_bytes(), address);
        if let Err(error) = &sent {
            warn!("the service manager did not take a notification and may believe that the daemon hangs: {error}");
        }
        sent.is_ok()
    }
}

/// A status is one line: what follows a line feed would be read as another assignment.
fn one_line(status: &str) -> String {
    let mut line: String = status.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let end = (0..=STATUS_MAX.min(line.len())).rev().find(|&end| line.is_char_boundary(end)).unwrap_or(0);
    line.truncate(end);
    line
}

/// How often [`Notifier::watchdog`] is to be called: half of what the unit's `WatchdogSec=` allows. `None` = never.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|interval| !interval.is_zero())
}

/// Where the unit's credentials are.
pub fn credentials_directory() -> Option<PathBuf> {
    credentials_directory_in(std::env::var_os("CREDENTIALS_DIRECTORY"))
}

fn credentials_directory_in(variable: Option<OsString>) -> Option<PathBuf> {
    variable.map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn manager() -> (tempfile::TempDir, UnixDatagram, Notifier) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::to(path.as_os_str(), Duration::from_millis(20));
        (dir, socket, notifier)
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 1024];
        socket.set_nonblocking(true).unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn the_manager_is_told() {
        let (_dir, socket, notifier) = manager();
        notifier.ready("serving 5 tokens");
        assert_eq!(heard(&socket), "READY=1\nSTATUS=serving 5 tokens\n");
        notifier.reloading();
        let reloading = heard(&socket);
        assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
        notifier.stopping();
        assert_eq!(heard(&socket), "STOPPING=1\n");
        notifier.watchdog();
        assert_eq!(heard(&socket), "WATCHDOG=1\n");
        // A line feed in a name must not become a field.
        notifier.ready("a\nMAINPID=1\nb");
        assert_eq!(heard(&socket), "READY=1\nSTATUS=a MAINPID=1 b\n");
        notifier.ready(&"é".repeat(300));
        assert_eq!(heard(&socket).len(), "READY=1\nSTATUS=\n".len() + 256);
    }

    #[test]
    fn an_abstract_socket_is_reached() {
        let name = format!("bearerd-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Notifier::to(OsStr::new(&format!("@{name}")), PATIENCE).watchdog();
        assert_eq!(heard(&socket), "WATCHDOG=1\n");
    }

    /// A manager that does not read: its queue fills, and telling it still returns.
    #[test]
    fn telling_never_hangs() {
        let (_dir, socket, notifier) = manager();
        let mut sent = 0;
        while notifier.may_be_lost(&NotifyState::Watchdog) {
            sent += 1;
            assert!(sent < 100_000, "the queue has an end");
        }
        notifier.watchdog();
        assert!(!notifier.must_arrive(&[NotifyState::Ready]));
        for _ in 0..sent {
            assert_eq!(heard(&socket), "WATCHDOG=1\n");
        }
        notifier.ready("");
        assert_eq!(heard(&socket), "READY=1\nSTATUS=\n");
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        for name in ["", "/nonexistent/notify"] {
            let notifier = Notifier::to(OsStr::new(name), PATIENCE);
            notifier.ready("x");
            notifier.watchdog();
        }
        assert!(Notifier(None).must_arrive(&[NotifyState::Ready]));
    }

    #[test]
    fn sockets_are_adopted_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let listener = |name: &str| OwnedFd::from(UnixListener::bind(dir.path().join(name)).unwrap());
        let sockets = adopt(vec![("http".into(), listener("1")), ("api".into(), listener("2"))]).unwrap();
        assert!(sockets.api.is_some() && sockets.http.is_some() && sockets.credentials.is_none());
        let error = sockets.api.unwrap().accept().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "it does not block");

        let error = adopt(vec![("bearerd.socket".into(), listener("3"))]).unwrap_err();
        assert!(matches!(error, InheritError::UnknownName(_)), "{error}");
        let error = adopt(vec![("api".into(), listener("4")), ("api".into(), listener("5"))]).unwrap_err();
        assert!(matches!(error, InheritError::Twice(_)), "{error}");
        let (one, _other) = UnixStream::pair().unwrap();
        for fd in [OwnedFd::from(one), OwnedFd::from(UnixDatagram::unbound().unwrap())] {
            let error = adopt(vec![("api".into(), fd)]).unwrap_err();
            assert!(matches!(error, InheritError::NotAListener(_)), "{error}");
        }
    }

    #[test]
    fn a_credentials_directory_is_absolute() {
        assert_eq!(credentials_directory_in(Some("/run/c".into())), Some("/run/c".into()));
        assert_eq!(credentials_directory_in(Some("".into())), None);
        assert_eq!(credentials_directory_in(None), None);
    }
}
