//! Frames: a length as u32 little-endian, then that many bytes.
//!
//! Invariant I5: a length is checked before anything is allocated for it; a reader never holds more than one frame
//! beyond what it was given.

use super::{REPLY_MAX, REQUEST_MAX};
use crate::codec::{self, CodecError};

/// Bytes of the length field.
pub const LENGTH_BYTES: usize = 4;

/// Why the bytes of a peer are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length is over the limit; close the connection.
    #[error("a frame of {0} bytes is longer than allowed")]
    TooLarge(u32),
    /// The length is zero: no message is that short; close the connection.
    #[error("an empty frame")]
    Empty,
    /// The content is not one strictly encoded message; close the connection.
    #[error("the frame's content {0}")]
    Content(#[from] CodecError),
}

/// Whose frames are read: it decides how long they may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to daemon: at most [`REQUEST_MAX`].
    Request,
    /// Daemon to client: at most [`REPLY_MAX`].
    Reply,
}

impl Direction {
    const fn limit(self) -> usize {
        match self {
            Self::Request => REQUEST_MAX,
            Self::Reply => REPLY_MAX,
        }
    }
}

/// The length of the frame that `buffer` begins with, or `None` while fewer than four bytes are there.
///
/// # Errors
/// [`FrameError::TooLarge`] and [`FrameError::Empty`].
pub fn length(buffer: &[u8], direction: Direction) -> Result<Option<usize>, FrameError> {
    let Some(head) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_le_bytes(*head);
    match length as usize {
        0 => Err(FrameError::Empty),
        bytes if bytes > direction.limit() => Err(FrameError::TooLarge(length)),
        bytes => Ok(Some(bytes)),
    }
}

/// The first whole frame's content in `buffer` and how many bytes it takes with its length, or `None` until it is whole.
///
/// # Errors
/// As [`length`].
pub fn first(buffer: &[u8], direction: Direction) -> Result<Option<(&[u8], usize)>, FrameError> {
    let Some(bytes) = length(buffer, direction)? else { return Ok(None) };
    Ok(buffer.get(LENGTH_BYTES..LENGTH_BYTES + bytes).map(|content| (content, LENGTH_BYTES + bytes)))
}

/// Appends one message as a frame to `out`.
pub fn append<T: serde::Serialize + ?Sized>(message: &T, out: &mut Vec<u8>) {
    append_written(|out| *out = codec::encode_onto(message, std::mem::take(out)), out);
}

/// Appends as a frame what `write` appends.
pub fn append_written(write: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    write(out);
    let bytes = u32::try_from(out.len() - start - LENGTH_BYTES).expect("messages are far smaller than 4 GiB");
    out[start..start + LENGTH_BYTES].copy_from_slice(&bytes.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_whole_or_not_at_all() {
        let mut bytes = Vec::new();
        append(&300u64, &mut bytes);
        append(&1u64, &mut bytes);
        assert_eq!(bytes, [2, 0, 0, 0, 0xAC, 2, 1, 0, 0, 0, 1]);
        for cut in 0..6 {
            assert_eq!(first(&bytes[..cut], Direction::Request), Ok(None), "{cut}");
        }
        assert_eq!(first(&bytes, Direction::Request), Ok(Some((&[0xAC, 2][..], 6))));
        assert_eq!(first(&bytes[6..], Direction::Request), Ok(Some((&[1][..], 5))));
    }

    #[test]
    fn lengths_are_refused_before_anything_is_read() {
        assert_eq!(length(&[0, 0, 0, 0], Direction::Request), Err(FrameError::Empty));
        assert_eq!(length(&[1, 0, 1, 0], Direction::Request), Err(FrameError::TooLarge(65_537)));
        assert_eq!(length(&[0, 0, 1, 0], Direction::Request), Ok(Some(65_536)));
        assert_eq!(length(&[1, 0, 1, 0], Direction::Reply), Ok(Some(65_537)));
        assert_eq!(length(&[0xFF; 4], Direction::Reply), Err(FrameError::TooLarge(u32::MAX)));
    }
}
