//! The buffers that frames are read into and written from, the same on both sides.
//!
//! Invariant I3: bytes that may have held a token are wiped when their frame has been dealt with, when a buffer moves
//! to a larger piece of memory, and when it is dropped. Invariant I5: a read buffer grows only for the frame that has
//! begun, only to that frame's checked length, and only as its bytes arrive.

use serde::Serialize;
use zeroize::Zeroize;

use super::frame::{self, Direction, FrameError, LENGTH_BYTES};
use crate::codec;

/// What a read buffer begins with, in bytes: some thirty pipelined validates.
pub const READ_START: usize = 4 * 1024;
/// What it may keep when it is empty, in bytes: a batch of a hundred tokens is read at once and in the same memory.
pub const READ_KEPT: usize = 16 * 1024;
/// What an empty write buffer may keep for the next replies, in bytes.
const WRITE_KEPT: usize = 64 * 1024;

/// Bytes from the other side: whole frames and the beginning of one.
pub struct ReadBuffer {
    /// All of it is initialised; `start..end` has been read and not been dealt with; outside of that it is zero.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    direction: Direction,
}

impl ReadBuffer {
    /// An empty buffer for frames of this direction; it takes no memory before it is read into.
    pub const fn new(direction: Direction) -> Self {
        Self { bytes: Vec::new(), start: 0, end: 0, direction }
    }

    /// Room to read into, never empty. To be called only when [`Self::frame`] finds no whole frame.
    ///
    /// # Errors
    /// As [`frame::length`]: before anything is allocated for the frame.
    pub fn space(&mut self) -> Result<&mut [u8], FrameError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.bytes.len() > READ_KEPT {
                self.bytes = Vec::new();
            }
        }
        let wanted = LENGTH_BYTES + frame::length(self.unread(), self.direction)?.unwrap_or(0);
        if self.bytes.len() - self.start < wanted || self.end == self.bytes.len() {
            self.move_to_front();
        }
        if self.end == self.bytes.len() {
            // Doubling: a claimed length alone takes no memory, only bytes that have come do.
            let larger = wanted.min(2 * self.bytes.len()).max(READ_START).max(self.end + 1);
            let mut bytes = vec![0; larger];
            bytes[..self.end].copy_from_slice(&self.bytes[..self.end]);
            self.bytes.zeroize();
            self.bytes = bytes;
        }
        Ok(&mut self.bytes[self.end..])
    }

    /// Says that the first `count` bytes of [`Self::space`] have been read.
    pub fn filled(&mut self, count: usize) {
        self.end = self.bytes.len().min(self.end + count);
    }

    /// The content of the first frame, once it is whole.
    ///
    /// # Errors
    /// As [`frame::first`].
    pub fn frame(&self) -> Result<Option<&[u8]>, FrameError> {
        Ok(frame::first(self.unread(), self.direction)?.map(|(content, _)| content))
    }

    /// Wipes the first frame and goes on to the next; nothing happens while it is not whole.
    pub fn consume(&mut self) {
        if let Ok(Some((_, bytes))) = frame::first(self.unread(), self.direction) {
            self.bytes[self.start..self.start + bytes].zeroize();
            self.start += bytes;
        }
    }

    /// What has been read and not been dealt with.
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Memory that it takes, in bytes.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    fn move_to_front(&mut self) {
        let (start, end) = (self.start, self.end);
        if start > 0 {
            self.bytes.copy_within(start..end, 0);
            (self.start, self.end) = (0, end - start);
            self.bytes[self.end..end].zeroize();
        }
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        self.bytes[self.start..self.end].zeroize();
    }
}

/// Frames on their way to the other side.
#[derive(Default)]
pub struct WriteBuffer {
    bytes: Vec<u8>,
    written: usize,
    /// A token is among `bytes`.
    secret: bool,
}

impl WriteBuffer {
    /// An empty buffer.
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), written: 0, secret: false }
    }

    /// Appends a message as a frame; returns its length without the length field.
    ///
    /// `secret`: it holds a token, so that all copies of it must be wiped.
    pub fn push<T: Serialize + ?Sized>(&mut self, message: &T, secret: bool) -> usize {
        if secret || self.secret {
            // A vector that grows leaves its old bytes behind: make room first, wiping what is left.
            self.secret = true;
            self.reserve_wiping(LENGTH_BYTES + codec::encoded_len(message));
        }
        let start = self.bytes.len();
        frame::append(message, &mut self.bytes);
        self.bytes.len() - start - LENGTH_BYTES
    }

    /// Appends a frame that `write` makes of what is not secret; returns its length without the length field.
    pub fn push_written(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        if self.secret {
            let mut frame = Vec::new();
            frame::append_written(write, &mut frame);
            self.reserve_wiping(frame.len());
            self.bytes.extend_from_slice(&frame);
            return frame.len() - LENGTH_BYTES;
        }
        let start = self.bytes.len();
        frame::append_written(write, &mut self.bytes);
        self.bytes.len() - start - LENGTH_BYTES
    }

    /// Takes back the newest `count` bytes, of which none may have been written: a reply that was too long.
    pub fn take_back(&mut self, count: usize) {
        let kept = self.bytes.len().saturating_sub(count).max(self.written);
        self.bytes[kept..].zeroize();
        self.bytes.truncate(kept);
    }

    /// What is to be written.
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Says that the first `count` bytes of [`Self::pending`] have been written.
    pub fn advance(&mut self, count: usize) {
        self.written = self.bytes.len().min(self.written + count);
        if self.written == self.bytes.len() {
            self.clear();
        } else if self.written > self.bytes.len() / 2 {
            // A reader that is always a little behind must not make the buffer grow for ever.
            self.bytes.copy_within(self.written.., 0);
            let kept = self.bytes.len() - self.written;
            if self.secret {
                self.bytes[kept..].zeroize();
            }
            self.bytes.truncate(kept);
            self.written = 0;
        }
    }

    /// Throws away what is to be written.
    pub fn clear(&mut self) {
        if self.secret {
            self.bytes.as_mut_slice().zeroize();
            self.secret = false;
        }
        self.bytes.clear();
        self.written = 0;
        if self.bytes.capacity() > WRITE_KEPT {
            self.bytes = Vec::new();
        }
    }

    /// How many bytes are to be written.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn reserve_wiping(&mut self, more: usize) {
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let mut bytes = Vec::with_capacity(needed.max(2 * self.bytes.capacity()));
            bytes.extend_from_slice(&self.bytes);
            self.bytes.as_mut_slice().zeroize();
            self.bytes = bytes;
        }
    }
}

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        if self.secret {
            self.bytes.as_mut_slice().zeroize();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_in(buffer: &mut ReadBuffer, mut bytes: &[u8], step: usize) {
        while !bytes.is_empty() {
            let space = buffer.space().unwrap();
            let count = step.min(space.len()).min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            buffer.filled(count);
            bytes = &bytes[count..];
        }
    }

    #[test]
    fn a_read_buffer_grows_with_what_came_and_goes_back() {
        let mut bytes = Vec::new();
        frame::append(&[b'x'; 20_000][..], &mut bytes);
        let mut buffer = ReadBuffer::new(Direction::Request);
        assert_eq!(buffer.capacity(), 0);
        // The length alone: no memory for the frame yet.
        read_in(&mut buffer, &bytes[..4], 4);
        assert_eq!(buffer.capacity(), READ_START);
        read_in(&mut buffer, &bytes[4..5000], 1000);
        assert_eq!(buffer.capacity(), 2 * READ_START);
        assert_eq!(buffer.frame(), Ok(None));
        read_in(&mut buffer, &bytes[5000..], 1000);
        assert_eq!(buffer.capacity(), bytes.len(), "to the frame's length and no further");
        assert_eq!(buffer.frame(), Ok(Some(&bytes[4..])));
        buffer.consume();
        assert!(buffer.bytes.iter().all(|&byte| byte == 0), "wiped");
        assert_eq!(buffer.space().unwrap().len(), READ_START);
    }

    #[test]
    fn frames_that_straddle_the_end_are_moved_and_what_was_there_is_wiped() {
        let mut bytes = Vec::new();
        for _ in 0..500 {
            frame::append("0123456789", &mut bytes);
        }
        for step in [1, 7, 4096] {
            let mut buffer = ReadBuffer::new(Direction::Request);
            let mut rest = &bytes[..];
            let mut seen = 0;
            while seen < 500 {
                let space = buffer.space().unwrap();
                let count = step.min(space.len()).min(rest.len());
                space[..count].copy_from_slice(&rest[..count]);
                buffer.filled(count);
                rest = &rest[count..];
                while let Some(content) = buffer.frame().unwrap() {
                    assert_eq!(content, codec::encode("0123456789"));
                    buffer.consume();
                    seen += 1;
                }
                let outside = buffer.bytes[..buffer.start].iter().chain(&buffer.bytes[buffer.end..]);
                assert!(outside.copied().all(|byte| byte == 0));
            }
            assert_eq!(buffer.capacity(), READ_START);
        }
    }

    #[test]
    fn lengths_are_refused_before_there_is_room_for_them() {
        let mut buffer = ReadBuffer::new(Direction::Request);
        read_in(&mut buffer, &u32::MAX.to_le_bytes(), 4);
        assert_eq!(buffer.space(), Err(FrameError::TooLarge(u32::MAX)));
        assert_eq!(buffer.capacity(), READ_START);
    }

    #[test]
    fn a_write_buffer_gives_frames_in_order_and_wipes_secrets() {
        let mut buffer = WriteBuffer::new();
        assert_eq!(buffer.push("plain", false), 6);
        assert_eq!(buffer.push("secret", true), 7);
        assert_eq!(buffer.len(), 4 + 6 + 4 + 7);
        buffer.advance(12);
        assert_eq!(buffer.pending(), b"\0\0\x06secret");
        assert_eq!(buffer.push("late", false), 5);
        buffer.take_back(9);
        assert_eq!(buffer.pending(), b"\0\0\x06secret");
        let capacity = buffer.bytes.capacity();
        buffer.advance(9);
        assert!(buffer.is_empty() && !buffer.secret);
        // What the memory holds now: filled up again without writing to it.
        assert_eq!(buffer.bytes.capacity(), capacity);
    }

    #[test]
    fn a_reader_that_stays_behind_makes_no_buffer_grow() {
        let mut buffer = WriteBuffer::new();
        buffer.push(&[1u8; 100][..], true);
        for _ in 0..10_000 {
            buffer.push(&[2u8; 100][..], true);
            buffer.advance(105);
        }
        assert!(buffer.bytes.capacity() < 2048, "{}", buffer.bytes.capacity());
    }
}
