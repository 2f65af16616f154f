//! Unix sockets: made with their mode, taken over from the service manager, and closed to pushed descriptors.
//!
//! A socket never stands open wider than it is meant to, not for a moment: it has its mode before it is bound. Nothing in
//! its directory is followed through a link, and only a dead socket is ever removed.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, bind, connect, getsockname,
    getsockopt, listen, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};

/// SO_PASSRIGHTS (Linux 6.16): whether descriptors may be sent to this socket.
const SO_PASSRIGHTS: libc::c_int = 83;

/// Why there is no listening socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The directory is missing, a link, or could be rearranged by others. The message says what to change.
    #[error("the socket's directory {} {what}; {todo}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What to do.
        todo: &'static str,
    },
    /// Somebody answers there: stop the other daemon first.
    #[error("a daemon is already listening on {}; stop it first", .0.display())]
    Live(PathBuf),
    /// What lies there is not a socket of ours, and is not removed.
    #[error("{} is in the way: {what}; move it away", path.display())]
    InTheWay {
        /// The path of the socket.
        path: PathBuf,
        /// What lies there.
        what: String,
    },
    /// A system call failed.
    #[error("can't {call} the socket {}: {source}", path.display())]
    System {
        /// Which.
        call: &'static str,
        /// The path of the socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Binds a listening, non-blocking stream socket with exactly that mode. A socket that nobody listens on any more is
/// replaced; two daemons can't both do that, because each has taken the lock of its store before.
///
/// # Errors
/// [`SocketError`] as its variants say.
pub fn listen_unix(path: &Path, mode: u32) -> Result<UnixListener, SocketError> {
    let failed = |call| move |errno: Errno| SocketError::System { call, path: path.to_owned(), source: errno.into() };
    let io_failed = |call| move |source| SocketError::System { call, path: path.to_owned(), source };
    check_directory(path)?;
    let address = UnixAddr::new(path).map_err(failed("name"))?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed("make"))?;
    // Before it is bound: the file is made with this mode less the umask, so never wider than it is meant to be.
    fchmod(&fd, Mode::from_bits_truncate(mode)).map_err(failed("chmod"))?;
    match bind(fd.as_raw_fd(), &address) {
        Ok(()) => {}
        Err(Errno::EADDRINUSE) => {
            remove_stale(path, &address)?;
            bind(fd.as_raw_fd(), &address).map_err(failed("bind"))?;
        }
        Err(errno) => return Err(failed("bind")(errno)),
    }
    // What the umask took away is given back, through a descriptor of what was just bound.
    let bound = fs::OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits())
        .open(path)
        .map_err(io_failed("open"))?;
    let metadata = bound.metadata().map_err(io_failed("stat"))?;
    if !metadata.file_type().is_socket() {
        return Err(SocketError::InTheWay {
            path: path.to_owned(),
            what: "it is not the socket just bound".to_owned(),
        });
    }
    if metadata.mode() & 0o7777 != mode {
        let through = format!("/proc/self/fd/{}", bound.as_raw_fd());
        fs::set_permissions(through, fs::Permissions::from_mode(mode)).map_err(io_failed("chmod"))?;
    }
    listen(&fd, Backlog::MAXALLOWABLE).map_err(failed("listen on"))?;
    Ok(UnixListener::from(fd))
}

/// The socket's directory must be a real one that only root or we can rearrange; a sticky one (`/tmp`) keeps what is
/// ours.
fn check_directory(path: &Path) -> Result<(), SocketError> {
    let Some(directory) = path.parent() else {
        return Err(SocketError::InTheWay { path: path.to_owned(), what: "it is no path of a file".to_owned() });
    };
    let refuse = |what: String, todo| Err(SocketError::Directory { path: directory.to_owned(), what, todo });
    let metadata = match fs::symlink_metadata(directory) {
        Ok(metadata) => metadata,
        Err(error) => return refuse(format!("can't be used: {error}"), "create it with mode 0755"),
    };
    let own = nix::unistd::geteuid().as_raw();
    if !metadata.is_dir() {
        return refuse("is not a directory (links are not followed)".to_owned(), "give the real path");
    }
    if metadata.uid() != 0 && metadata.uid() != own {
        return refuse(format!("belongs to uid {}", metadata.uid()), "give it to root or to the daemon's user");
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return refuse(format!("has mode {mode:04o}: others could replace the socket"), "chmod go-w it");
    }
    Ok(())
}

/// Removes a socket of ours (or root's) that nobody listens on; anything else stays.
fn remove_stale(path: &Path, address: &UnixAddr) -> Result<(), SocketError> {
    let in_the_way = |what: String| SocketError::InTheWay { path: path.to_owned(), what };
    let metadata = fs::symlink_metadata(path).map_err(|error| in_the_way(error.to_string()))?;
    if !metadata.file_type().is_socket() {
        return Err(in_the_way("it is not a socket".to_owned()));
    }
    let own = nix::unistd::geteuid().as_raw();
    if metadata.uid() != own && own != 0 {
        return Err(in_the_way(format!("it is a socket of uid {}", metadata.uid())));
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(|errno| SocketError::System {
        call: "make",
        path: path.to_owned(),
        source: errno.into(),
    })?;
    match connect(probe.as_raw_fd(), address) {
        Err(Errno::ECONNREFUSED) => {}
        // A full backlog (EAGAIN) is somebody alive, too.
        Ok(()) | Err(Errno::EAGAIN) => return Err(SocketError::Live(path.to_owned())),
        Err(errno) => return Err(in_the_way(format!("connecting to it says {errno}"))),
    }
    fs::remove_file(path).map_err(|source| SocketError::System { call: "remove", path: path.to_owned(), source })
}

/// Listens again on a socket that another process made: clients ask SO_PEERCRED of the one who last called listen(), and
/// are to see us there and not the service manager.
///
/// # Errors
/// What listen() says.
pub fn relisten(listener: &impl AsFd) -> io::Result<()> {
    Ok(listen(listener, Backlog::MAXALLOWABLE)?)
}

#[derive(Clone, Copy)]
struct PassRights;
nix::setsockopt_impl!(PassRights, libc::SOL_SOCKET, SO_PASSRIGHTS, bool, nix::sys::socket::sockopt::SetBool);

/// Closes a listener, and what it accepts, to descriptors that peers push. `false` on a kernel that can't (before 6.16):
/// then reads must leave no room for them and close on any.
pub fn refuse_fds(listener: &impl AsFd) -> bool {
    setsockopt(listener, PassRights, &false).is_ok()
}

/// Whether it is a Unix stream socket that listens.
pub fn is_unix_listener(fd: &impl AsFd) -> bool {
    let family = getsockname::<SockaddrStorage>(fd.as_fd().as_raw_fd()).ok().and_then(|address| address.family());
    family == Some(AddressFamily::Unix)
        && getsockopt(fd, sockopt::SockType) == Ok(SockType::Stream)
        && getsockopt(fd, sockopt::AcceptConn) == Ok(true)
}

/// Takes the descriptors that the service manager passed, with their names. They are given out once: a second call
/// returns none.
///
/// # Errors
/// What the environment says does not fit: fewer names than descriptors, or one that is not open.
pub fn take_inherited() -> io::Result<Vec<(String, OwnedFd)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    // The variables stay: LISTEN_PID is ours alone, so that no child takes them for its own, and removing them would need
    // a promise that there is no other thread.
    let passed: Vec<(RawFd, String)> = sd_notify::listen_fds_with_names()?.collect();
    Ok(passed
        .into_iter()
        .map(|(fd, name)| {
            // SAFETY: sd_listen_fds(3): the service manager opened these descriptors for this very process (LISTEN_PID)
            // before it began, sd-notify has just found each of them open, and the flag above gives each out only once.
            let owned = unsafe { OwnedFd::from_raw_fd(fd) };
            (name, owned)
        })
        .collect())
}

/// How much of what was sent on a socket its peer has not read, in the kernel's own measure (`unix(7)`: SIOCOUTQ); 0 when
/// the peer is gone.
pub fn unread(socket: &impl AsRawFd) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one int to where the pointer leads, which is ours.
    let asked = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if asked == 0 { usize::try_from(count).unwrap_or(0) } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read};
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_socket_has_exactly_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o660, 0o666] {
            let path = dir.path().join(format!("{mode:o}"));
            let listener = listen_unix(&path, mode).unwrap();
            assert_eq!(mode_of(&path), mode);
            assert!(is_unix_listener(&listener));
            let _client = UnixStream::connect(&path).unwrap();
            listener.accept().unwrap();
            assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = listen_unix(&path, 0o600).unwrap();
        assert!(matches!(listen_unix(&path, 0o600), Err(SocketError::Live(_))));
        drop(first);
        assert!(path.exists());
        let _second = listen_unix(&path, 0o666).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(mode_of(&path), 0o666);
    }

    #[test]
    fn what_is_not_a_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::write(&target, "precious").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let dangling = dir.path().join("dangling");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &dangling).unwrap();
        for path in [&target, &link, &dangling] {
            let error = listen_unix(path, 0o600).unwrap_err();
            assert!(matches!(error, SocketError::InTheWay { .. }), "{error}");
        }
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
        assert!(!dir.path().join("elsewhere").exists());
    }

    #[test]
    fn a_directory_that_others_can_rearrange_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("d");
        fs::create_dir(&real).unwrap();
        let path = real.join("s");
        for (mode, fine) in [(0o777, false), (0o775, false), (0o1777, true), (0o755, true)] {
            fs::set_permissions(&real, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(listen_unix(&path, 0o600).is_ok(), fine, "{mode:o}");
        }
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let error = listen_unix(&link.join("s"), 0o600).unwrap_err();
        assert!(error.to_string().contains("links are not followed"), "{error}");
        assert!(listen_unix(&dir.path().join("missing/s"), 0o600).is_err());
    }

    #[test]
    fn descriptors_are_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = listen_unix(&path, 0o600).unwrap();
        let refused = refuse_fds(&listener);
        let client = UnixStream::connect(&path).unwrap();
        let null = fs::File::open("/dev/null").unwrap();
        let sent = sendmsg::<()>(
            client.as_raw_fd(),
            &[IoSlice::new(b"x")],
            &[ControlMessage::ScmRights(&[null.as_raw_fd()])],
            MsgFlags::empty(),
            None,
        );
        // Even before it is accepted; on an older kernel it is taken, and the caller knows.
        assert_eq!(sent == Err(Errno::EPERM), refused);
        let (mut server, _) = listener.accept().unwrap();
        drop(client);
        let mut got = Vec::new();
        server.set_nonblocking(false).unwrap();
        server.read_to_end(&mut got).unwrap();
        assert_eq!(got.is_empty(), refused);
    }

    #[test]
    fn listeners_are_told_from_other_sockets() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(!is_unix_listener(&one));
        assert!(!is_unix_listener(&std::os::unix::net::UnixDatagram::unbound().unwrap()));
        assert!(!is_unix_listener(&std::net::TcpListener::bind("127.0.0.1:0").unwrap()));
        assert!(!is_unix_listener(&fs::File::open("/dev/null").unwrap()));
    }

    #[test]
    fn listening_again_shows_clients_who_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = listen_unix(&path, 0o600).unwrap();
        relisten(&listener).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let shown = getsockopt(&client, sockopt::PeerCredentials).unwrap();
        assert_eq!(shown.pid(), std::process::id() as i32);
    }
}
