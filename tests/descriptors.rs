//! Descriptors: pushed at the server, and run out of (I5, I6). A process of its own, for the whole process is counted.

mod fake;

use std::fs::File;
use std::future::Future;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bearerd::protocol::code::ErrorCode;
use bearerd::server::ServerLimits;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;

use fake::{ROOT, RULED, Raw, Server, ask_validate, hello, until};

/// One test at a time, its runtime included; time stands still in it.
fn alone(test: impl Future<Output = ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(test);
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Sends the bytes with 50 copies of a descriptor.
fn push(peer: &Raw, bytes: &[u8], fd: &impl AsRawFd) -> nix::Result<usize> {
    let fds = [fd.as_raw_fd(); 50];
    let slices = [IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(peer.stream.as_raw_fd(), &slices, &[ControlMessage::ScmRights(&fds)], flags, None)
}

/// Linux before 6.16, or a listener that was not told: each read looks.
#[test]
fn pushed_descriptors_never_enter_and_end_the_connection() {
    alone(push_and_be_closed());
}

async fn push_and_be_closed() {
    let server = Server::start(ServerLimits { fds_refused_by_kernel: false, ..ServerLimits::default() });
    let file = File::open("/dev/null").unwrap();
    let mut bystander = server.connect(RULED).await;
    let before = open_descriptors();
    for _ in 0..20 {
        // With the hello, with a whole frame, with a part of one.
        let mut peer = server.connect_silent(RULED).await;
        push(&peer, &hello(), &file).unwrap();
        peer.expect_refusal(ErrorCode::BadFrame).await;
        for bytes in [&ask_validate(1, "good")[..], &ask_validate(1, "good")[..3]] {
            let mut peer = server.connect(RULED).await;
            push(&peer, bytes, &file).unwrap();
            let failure = peer.expect_end(ErrorCode::BadFrame).await;
            assert!(failure.message.contains("descriptor"), "{failure}");
        }
    }
    until("only the bystander is left", || server.connections() == 1).await;
    assert_eq!(open_descriptors(), before);
    bystander.send(&ask_validate(1, "good")).await;
    bystander.expect_verdict(1, true).await;
    assert_eq!(server.fake.answered_now.load(Ordering::SeqCst), 1, "nothing that came with a descriptor was answered");
}

/// Linux 6.16 and later.
#[test]
fn a_push_that_the_kernel_refuses_disturbs_nobody() {
    alone(push_and_be_refused());
}

async fn push_and_be_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    const SO_PASSRIGHTS: libc::c_int = 83;
    let zero: libc::c_int = 0;
    let size = size_of_val(&zero) as libc::socklen_t;
    // SAFETY: the value is a c_int that lives as long as the call, and its size is given.
    let set = unsafe {
        libc::setsockopt(listener.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const zero).cast(), size)
    };
    if set != 0 {
        eprintln!("this kernel has no SO_PASSRIGHTS: {}", Errno::last());
        return;
    }
    let limits = ServerLimits { fds_refused_by_kernel: true, ..ServerLimits::default() };
    let server = Server::start_on(UnixListener::from_std(listener).unwrap(), &path, limits);
    let file = File::open("/dev/null").unwrap();
    let mut peer = server.connect_silent(RULED).await;
    assert_eq!(push(&peer, &hello(), &file), Err(Errno::EPERM), "before accept too");
    peer.send(&hello()).await;
    assert_eq!(peer.hello().await.version, 1);
    let before = open_descriptors();
    assert_eq!(push(&peer, &ask_validate(1, "good"), &file), Err(Errno::EPERM));
    peer.send(&ask_validate(2, "good")).await;
    peer.expect_verdict(2, true).await;
    assert_eq!(open_descriptors(), before);
}

/// A socket that connects without needing another descriptor.
struct Unconnected(OwnedFd);

impl Unconnected {
    fn new() -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Self(socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap())
    }

    fn connect(self, path: &Path) -> Raw {
        connect(self.0.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        Raw::new(UnixStream::from_std(StdUnixStream::from(self.0)).unwrap())
    }
}

/// Takes all descriptors that are free.
fn exhaust(file: &File) -> Vec<OwnedFd> {
    std::iter::from_fn(|| file.as_fd().try_clone_to_owned().ok()).collect()
}

/// I6: clear refusals, root gets in, nothing spins, and it ends when the shortage does.
#[test]
fn without_free_descriptors_the_server_refuses_pauses_and_comes_back() {
    alone(run_out());
}

async fn run_out() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, open_descriptors() as u64 + 100, hard).unwrap();
    let server = Server::start(ServerLimits::default());
    let file = File::open("/dev/null").unwrap();
    let mut bystander = server.connect(RULED).await;
    let mut sockets: Vec<Unconnected> = (0..12).map(|_| Unconnected::new()).collect();
    let mut next = |uid| {
        server.uids.lock().unwrap().push_back(uid);
        sockets.pop().unwrap().connect(&server.path)
    };
    let taken = exhaust(&file);
    assert!(taken.len() > 20);

    // An ordinary peer is told, each in its turn.
    let mut refused = Vec::new();
    for _ in 0..3 {
        let mut peer = next(RULED);
        peer.expect_refusal(ErrorCode::TooManyConnections).await;
        refused.push(peer);
        assert!(exhaust(&file).is_empty(), "the spare descriptors are kept again");
    }
    assert_eq!(server.counters.refused.load(Ordering::SeqCst), 3);
    // Root is served.
    let mut root = next(ROOT);
    root.send(&hello()).await;
    assert_eq!(root.hello().await.version, 1);
    root.send(&ask_validate(1, "good")).await;
    root.expect_verdict(1, true).await;
    // And so are those who were in.
    bystander.send(&ask_validate(1, "good")).await;
    bystander.expect_verdict(1, true).await;

    // When the spare ones are of no use, who comes waits, and the server does not spin.
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
    let mut waiting = next(RULED);
    waiting.send(&hello()).await;
    let pauses = server.counters.accept_pauses.load(Ordering::SeqCst);
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let pauses = server.counters.accept_pauses.load(Ordering::SeqCst) - pauses;
    assert!((50..=70).contains(&pauses), "{pauses} tries in a minute");

    // It ends by itself.
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert_eq!(waiting.hello().await.version, 1);
    assert!(begun.elapsed() < Duration::from_secs(63), "at the next try");
    let mut after = next(RULED);
    after.send(&hello()).await;
    assert_eq!(after.hello().await.version, 1);
}
