//! The lines of a file or a stream that holds secrets, one at a time.
//!
//! Invariant I3: what is read stays in one buffer, which is wiped; its size is the longest line (I5).

use std::io::{self, Read};

use zeroize::Zeroizing;

/// Longest line: no request could carry a longer one.
pub(super) const LINE_MAX: usize = 64 * 1024;

/// Reads lines.
pub(super) struct Lines<R> {
    input: R,
    buffer: Zeroizing<Vec<u8>>,
    /// What is read and not given out: from here
    start: usize,
    /// up to here.
    end: usize,
    number: u64,
    read: u64,
    ended: bool,
}

/// One line, without its line feed and a carriage return before it.
pub(super) struct Line<'a> {
    /// From 1.
    pub(super) number: u64,
    /// `None`: longer than [`LINE_MAX`], and skipped.
    pub(super) content: Option<&'a [u8]>,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        let buffer = Zeroizing::new(vec![0; LINE_MAX + 2]);
        Self { input, buffer, start: 0, end: 0, number: 0, read: 0, ended: false }
    }

    /// Bytes read so far, for a progress bar.
    pub(super) fn position(&self) -> u64 {
        self.read
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        let mut skipped = false;
        let mut looked = self.start;
        let (end, next) = loop {
            if let Some(at) = self.buffer[looked..self.end].iter().position(|&c| c == b'\n') {
                break (looked + at, looked + at + 1);
            }
            looked = self.end;
            if self.ended {
                if self.start == self.end && !skipped {
                    return Ok(None);
                }
                break (self.end, self.end);
            }
            if self.end == self.buffer.len() {
                if self.start == 0 {
                    // Too long: what is here is thrown away, and what comes until the next line.
                    skipped = true;
                    self.end = 0;
                } else {
                    self.buffer.copy_within(self.start..self.end, 0);
                    self.end -= self.start;
                }
                self.start = 0;
                looked = self.end;
            }
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.end += count;
                    self.read += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        let line = std::mem::replace(&mut self.start, next)..end;
        self.number += 1;
        let content = &self.buffer[line];
        let content = content.strip_suffix(b"\r").unwrap_or(content);
        Ok(Some(Line { number: self.number, content: (!skipped && content.len() <= LINE_MAX).then_some(content) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives so many bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(into.len()).min(self.0.len());
            let (now, later) = self.0.split_at(count);
            into[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    fn lines(text: &[u8], at_once: usize) -> Vec<(u64, Option<Vec<u8>>)> {
        let mut lines = Lines::new(Slow(text, at_once));
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            found.push((line.number, line.content.map(<[u8]>::to_vec)));
        }
        assert_eq!(lines.position(), text.len() as u64);
        found
    }

    fn some(text: &str) -> Option<Vec<u8>> {
        Some(text.as_bytes().to_vec())
    }

    #[test]
    fn lines_are_numbered_whatever_they_come_in() {
        for at_once in [1, 2, 7, 100_000] {
            let found = lines(b"one\r\n\nthree\nfour", at_once);
            assert_eq!(found, [(1, some("one")), (2, some("")), (3, some("three")), (4, some("four"))]);
            assert_eq!(lines(b"one\n", at_once), [(1, some("one"))]);
            assert_eq!(lines(b"", at_once), []);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_the_rest_is_not() {
        let longest = "x".repeat(LINE_MAX);
        let text = format!("{longest}\n{longest}y\nshort\n{longest}{longest}{longest}\nlast");
        for at_once in [1000, 1_000_000] {
            let found = lines(text.as_bytes(), at_once);
            let expected = [(1, some(&longest)), (2, None), (3, some("short")), (4, None), (5, some("last"))];
            assert_eq!(found, expected);
        }
        let endless = "z".repeat(5 * LINE_MAX);
        assert_eq!(lines(endless.as_bytes(), 4096), [(1, None)]);
    }
}
