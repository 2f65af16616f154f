//! Reading where the kernel lets peers push descriptors: Linux before 6.16, which has no SO_PASSRIGHTS.
//!
//! Invariant I5: no descriptor of a peer ever enters the daemon, which would otherwise run out of them.

use std::io;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{MsgFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;

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
