//! A file handed over with bytes on a Unix socket (`unix(7)`: SCM_RIGHTS).
//!
//! Invariant: every descriptor that the kernel gives us is owned at once, so that none leaks, whatever the other side sends.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Sends bytes, and with the first of them a file. Does not wait, and raises no signal.
///
/// # Errors
/// Of `sendmsg(2)`; [`io::ErrorKind::WouldBlock`] when there is no room, and then nothing was sent.
pub fn send_with_file(socket: &impl AsRawFd, bytes: &[u8], file: BorrowedFd<'_>) -> io::Result<usize> {
    let files = [file.as_raw_fd()];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let control = [ControlMessage::ScmRights(&files)];
    Ok(sendmsg::<()>(socket.as_raw_fd(), &[io::IoSlice::new(bytes)], &control, flags, None)?)
}

/// Files that one message can carry (SCM_MAX_FD). There is room for all, so that the kernel never has to leave some out:
/// what it says of such a message does not tell which it did give us.
const FILES_MAX: usize = 253;

/// Receives bytes, and the file that came with them, if it was one. Does not wait. Of several none is kept; none comes
/// either when this process may have no more descriptors.
///
/// # Errors
/// Of `recvmsg(2)`; [`io::ErrorKind::WouldBlock`] when nothing is there.
pub fn receive_with_file(socket: &impl AsRawFd, space: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; FILES_MAX]);
    let mut slices = [io::IoSliceMut::new(space)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let mut files = Vec::new();
    for part in message.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmRights(raw) = part {
            // SAFETY: the kernel has just made these descriptors for us, and told nobody else of them.
            files.extend(raw.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
        }
    }
    let one = if files.len() == 1 { files.pop() } else { None };
    Ok((message.bytes, one))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_file_comes_with_its_bytes_and_only_once() {
        let (here, there) = UnixStream::pair().expect("a pair");
        let (pipe, _writer) = nix::unistd::pipe().expect("a pipe");
        assert_eq!(send_with_file(&here, b"hello", pipe.as_fd()).expect("sent"), 5);
        assert_eq!(nix::sys::socket::send(here.as_raw_fd(), b"more", MsgFlags::empty()), Ok(4));
        let mut space = [0; 3];
        let (count, file) = receive_with_file(&there, &mut space).expect("received");
        let same = |file: &OwnedFd| {
            let inode = |fd: BorrowedFd<'_>| nix::sys::stat::fstat(fd).expect("a file").st_ino;
            inode(file.as_fd()) == inode(pipe.as_fd())
        };
        assert!(count == 3 && file.as_ref().is_some_and(same));
        let mut rest = [0; 64];
        let (count, file) = receive_with_file(&there, &mut rest).expect("received");
        assert!(count >= 2 && file.is_none());
    }

    #[test]
    fn of_several_files_none_is_kept_and_none_leaks() {
        let (here, there) = UnixStream::pair().expect("a pair");
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        let files = [writer.as_raw_fd(); FILES_MAX];
        let control = [ControlMessage::ScmRights(&files)];
        sendmsg::<()>(here.as_raw_fd(), &[io::IoSlice::new(b"x")], &control, MsgFlags::empty(), None).expect("sent");
        drop(writer);
        let (count, file) = receive_with_file(&there, &mut [0; 8]).expect("received");
        assert!(count == 1 && file.is_none());
        // Every writing end is closed: the pipe is at its end.
        assert_eq!(nix::unistd::read(&reader, &mut [0; 1]), Ok(0));
    }

    #[test]
    fn nothing_there_is_said_at_once() {
        let (_here, there) = UnixStream::pair().expect("a pair");
        let error = receive_with_file(&there, &mut [0; 8]).expect_err("nothing was sent");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
