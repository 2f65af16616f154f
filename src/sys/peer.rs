//! Who is at the other end of a Unix socket, as the kernel says it, and in which cgroup.
//!
//! All of it is of the moment of connect: a process that hands on its connected socket hands on its rights. A getsockopt
//! error is an error here and a refusal above: a peer that is gone must never be taken for another (it was root, once, in
//! a well-known authorisation service).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

/// Most supplementary groups that Linux lets a process have (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

/// What the kernel says of a peer.
#[derive(Debug)]
pub struct Credentials {
    /// Process id; 0 when it is outside our pid namespace.
    pub pid: i32,
    /// Effective uid.
    pub uid: u32,
    /// Effective gid.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Box<[u32]>,
    /// Holds the process: its pid means nobody else while this shows it alive. `None` before Linux 6.5.
    pub pidfd: Option<OwnedFd>,
}

/// The cgroup of a peer, and how well that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroup {
    /// Read while the pidfd showed the process alive: it is this process's.
    Attested(String),
    /// Read by pid alone, on a kernel without SO_PEERPIDFD: the pid may have passed to another process.
    ByPid(String),
    /// The process is gone, or can't be seen (another pid namespace, `/proc` mounted with hidepid).
    Unknown,
}

/// Asks the kernel who is connected to `socket`.
///
/// # Errors
/// What getsockopt says: not a Unix socket, or the peer can't be told any more. The connection must be refused.
pub fn credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let cred = getsockopt(&socket, sockopt::PeerCredentials)?;
    let groups = peer_groups(socket)?;
    let pidfd = match getsockopt(&socket, sockopt::PeerPidfd) {
        Ok(pidfd) => Some(pidfd),
        // Linux before 6.5 does not know the option.
        Err(Errno::ENOPROTOOPT) => None,
        Err(errno) => return Err(errno.into()),
    };
    Ok(Credentials { pid: cred.pid(), uid: cred.uid(), gid: cred.gid(), groups, pidfd })
}

/// SO_PEERGROUPS. The kernel says ERANGE, and how much it needs, when the buffer is too short.
fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Box<[u32]>> {
    let mut groups: Vec<u32> = vec![0; 64];
    loop {
        let mut bytes = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        // SAFETY: the pointer and `bytes` describe the initialised buffer of `groups`, which outlives the call; gid_t is
        // u32 on Linux, for which every bit pattern is valid; `bytes` is a socklen_t that the kernel may write.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups.into_boxed_slice());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > GROUPS_MAX {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// Reads the cgroup of the peer: `/proc/PID/cgroup`, and *then* asks the pidfd whether the process that had that pid
/// while it was read is the one that connected. The order matters: asked before, the pid could pass on in between.
pub fn cgroup_of(peer: &Credentials) -> Cgroup {
    if peer.pid <= 0 {
        return Cgroup::Unknown;
    }
    let Some(path) = read_cgroup(&format!("/proc/{}/cgroup", peer.pid)) else { return Cgroup::Unknown };
    match &peer.pidfd {
        Some(pidfd) if holds(pidfd.as_fd(), peer.pid) && is_alive(pidfd.as_fd()) => Cgroup::Attested(path),
        Some(_) => Cgroup::Unknown,
        None => Cgroup::ByPid(path),
    }
}

/// Our own cgroup; `None` on a system without cgroups, where no peer has one either.
///
/// # Errors
/// It can't be told, as when `/proc` is not mounted; that must not be taken for a system without cgroups.
pub fn own_cgroup() -> io::Result<Option<String>> {
    match std::fs::read("/proc/self/cgroup") {
        Ok(bytes) => Ok(path_in(&String::from_utf8_lossy(&bytes)).map(str::to_owned)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::metadata("/proc/self/stat").map(|_| None),
        Err(error) => Err(error),
    }
}

fn read_cgroup(file: &str) -> Option<String> {
    let bytes = std::fs::read(file).ok()?;
    // Names of cgroups are bytes; one that is not text has no name in any rule, but it must not hide a container.
    let text = String::from_utf8_lossy(&bytes);
    path_in(&text).map(str::to_owned)
}

/// The path in the text of `/proc/PID/cgroup`: of the unified hierarchy, unless that is the root and systemd keeps its
/// units in a hierarchy of its own (cgroup v1, hybrid).
pub fn path_in(text: &str) -> Option<&str> {
    let line = |wanted: fn(&str) -> bool| {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            (wanted(controllers) && path.starts_with('/')).then_some(path)
        })
    };
    let unified = line(str::is_empty);
    match unified {
        Some(path) if path != "/" => Some(path),
        _ => line(|controllers| controllers == "name=systemd").or(unified),
    }
}

/// Whether the pidfd is of that pid, by its fdinfo: it says `-1` once the process has been reaped, `0` where its pid is
/// not one of ours.
fn holds(pidfd: BorrowedFd<'_>, pid: i32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())) else { return false };
    let shown = text.lines().find_map(|line| line.strip_prefix("Pid:")).map(|value| value.trim().parse::<i32>());
    shown == Some(Ok(pid))
}

/// A pidfd is readable once its process has ended.
fn is_alive(pidfd: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::{Command, Stdio};

    use nix::unistd::{getegid, geteuid, getgroups};

    use super::*;

    #[test]
    fn the_cgroup_line_is_chosen() {
        assert_eq!(path_in("0::/system.slice/nginx.service\n"), Some("/system.slice/nginx.service"));
        let hybrid = "9:name=systemd:/system.slice/a.service\n1:cpu:/b\n0::/\n";
        assert_eq!(path_in(hybrid), Some("/system.slice/a.service"));
        let hybrid = "9:name=systemd:/system.slice/a.service\n0::/system.slice/c.service\n";
        assert_eq!(path_in(hybrid), Some("/system.slice/c.service"));
        assert_eq!(path_in("9:name=systemd:/\n0::/\n"), Some("/"));
        assert_eq!(path_in("1:cpu,cpuacct:/only/controllers\n"), None);
        assert_eq!(path_in("0::/odd:name.service\n"), Some("/odd:name.service"));
        for text in ["", "\n", "0", "0:", "0::", "0::relative"] {
            assert_eq!(path_in(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_peer_is_who_connected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        let (server, _) = listener.accept().unwrap();
        let peer = credentials(server.as_fd()).unwrap();
        assert_eq!(peer.pid, std::process::id() as i32);
        assert_eq!((peer.uid, peer.gid), (geteuid().as_raw(), getegid().as_raw()));
        let groups: Vec<u32> = getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
        assert_eq!(&*peer.groups, &*groups);
        let own = own_cgroup().unwrap();
        match (&peer.pidfd, cgroup_of(&peer)) {
            (Some(_), Cgroup::Attested(path)) => assert_eq!(Some(path), own),
            (None, Cgroup::ByPid(path)) => assert_eq!(Some(path), own),
            (_, cgroup) => assert_eq!((cgroup, own), (Cgroup::Unknown, None), "no cgroups here"),
        }
    }

    #[test]
    fn what_is_no_unix_socket_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(credentials(file.as_fd()).is_err());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        // The kernel answers SO_PEERCRED for any socket; what it says must not name anybody.
        if let Ok(peer) = credentials(server.as_fd()) {
            assert_eq!((peer.pid, peer.uid), (0, u32::MAX));
        }
    }

    /// A pidfd of a process that lives, but is not the one of that pid; then of one that has ended.
    #[test]
    fn a_cgroup_is_not_taken_from_another_process() {
        let (socket, _other) = UnixStream::pair().unwrap();
        let peer = credentials(socket.as_fd()).unwrap();
        if peer.pidfd.is_none() || own_cgroup().unwrap().is_none() {
            return;
        }
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let forged = Credentials { pid: child.id() as i32, ..peer };
        assert_eq!(cgroup_of(&forged), Cgroup::Unknown);

        // SAFETY: pidfd_open takes a pid and flags, and returns a new descriptor that nothing else owns.
        let pidfd = unsafe {
            use std::os::fd::FromRawFd;
            let fd = libc::syscall(libc::SYS_pidfd_open, child.id(), 0);
            assert!(fd >= 0);
            OwnedFd::from_raw_fd(fd as i32)
        };
        let of_child = Credentials { pidfd: Some(pidfd), ..forged };
        assert!(matches!(cgroup_of(&of_child), Cgroup::Attested(_)));
        drop(child.stdin.take());
        child.wait().unwrap();
        // It has been reaped: whoever has its pid now is somebody else.
        assert_eq!(cgroup_of(&of_child), Cgroup::Unknown);
        let here = Credentials { pid: std::process::id() as i32, ..of_child };
        assert_eq!(cgroup_of(&here), Cgroup::Unknown);
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = Command::new("true").spawn().unwrap();
        // SAFETY: as above.
        let pidfd = unsafe {
            use std::os::fd::FromRawFd;
            OwnedFd::from_raw_fd(libc::syscall(libc::SYS_pidfd_open, child.id(), 0) as i32)
        };
        poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
        assert!(holds(pidfd.as_fd(), child.id() as i32), "not reaped: the pid is still its own");
        assert!(!is_alive(pidfd.as_fd()));
        child.wait().unwrap();
        assert!(!holds(pidfd.as_fd(), child.id() as i32));
    }
}
