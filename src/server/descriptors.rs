//! Descriptors on connections: none of a peer's comes in, and of ours only the epoch page's goes out.
//!
//! Invariant I5: no descriptor of a peer ever enters the daemon, which would otherwise run out of them. Linux before 6.16
//! has no SO_PASSRIGHTS, and lets peers push them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::task::{Context, Poll, ready};

use nix::sys::socket::{MsgFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::sys::pass::send_with_file;

/// Reads without room for descriptors, so that none enters; [`io::ErrorKind::InvalidData`] when some were sent.
pub(super) fn poll_read_refusing_fds(
    stream: &UnixStream,
    cx: &mut Context<'_>,
    space: &mut [u8],
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        // A short read has emptied the socket. Saying so here, as tokio's own read does, saves a read that would only
        // find that out: readiness is cleared when the closure says WouldBlock.
        let mut short = None;
        let read = stream.try_io(Interest::READABLE, || {
            let length = space.len();
            let mut slices = [io::IoSliceMut::new(space)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, None, flags)?;
            if message.flags.contains(MsgFlags::MSG_CTRUNC) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if (1..length).contains(&message.bytes) {
                short = Some(message.bytes);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(message.bytes)
        });
        match (read, short) {
            (Err(error), Some(count)) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Ready(Ok(count)),
            (Err(error), None) if error.kind() == io::ErrorKind::WouldBlock => {}
            (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {}
            (read, _) => return Poll::Ready(read),
        }
    }
}

/// Writes, and hands over a file with the first byte that is taken.
pub(super) fn poll_write_with_file(
    stream: &UnixStream,
    cx: &mut Context<'_>,
    bytes: &[u8],
    file: BorrowedFd<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        match stream.try_io(Interest::WRITABLE, || send_with_file(stream, bytes, file)) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            written => return Poll::Ready(written),
        }
    }
}
