//! A file or stream of any length through one buffer.
//!
//! Invariant: every token of the stream is found exactly once, wherever the reads happen to be cut, and the memory that
//! this takes does not depend on the stream. The buffer is wiped when dropped (I3).

use std::io::{self, Read};

use memchr::{memchr, memchr_iter, memmem};
use zeroize::Zeroizing;

use super::find::{self, BEFORE, BEHIND, Hit};
use crate::time::UnixTime;

/// Large enough that calls do not count, small enough to stay in a core's cache.
const BUFFER_BYTES: usize = 256 * 1024;
/// A stream with a zero byte in so many of its first is binary, as for git.
const SNIFFED_BYTES: usize = 8000;
/// What begins each entry of the journal's export form, but for its cursor.
const ENTRY_TIME: &[u8] = b"\n__REALTIME_TIMESTAMP=";

/// Where in a stream something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// In the name of the file.
    Name,
    /// In text: the line, from 1, and the byte, from 0.
    Line {
        /// Which line.
        line: u64,
        /// Which byte.
        offset: u64,
    },
    /// In something binary.
    Byte {
        /// Which byte.
        offset: u64,
    },
    /// In the entry of the journal with this time.
    Entry {
        /// What its clock said.
        at: Option<UnixTime>,
    },
}

/// How a stream says where something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Lines if it is text, bytes if it is not.
    Bytes,
    /// The journal's export form: the time of the entry.
    Journal,
}

/// The buffer of one thread.
pub(super) struct Reader {
    buffer: Zeroizing<Vec<u8>>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self::with_buffer(BUFFER_BYTES)
    }

    fn with_buffer(bytes: usize) -> Self {
        debug_assert!(bytes > BEFORE + BEHIND, "a token and a byte of progress");
        Self { buffer: Zeroizing::new(vec![0; bytes]) }
    }

    /// Reads to the end; `progress` is told what was read, `found` what was found.
    ///
    /// # Errors
    /// As the reading. What was read until then was looked at.
    pub(super) fn scan(
        &mut self,
        input: &mut impl Read,
        form: Form,
        mut progress: impl FnMut(usize),
        mut found: impl FnMut(Place, Hit),
    ) -> io::Result<()> {
        let buffer = &mut self.buffer[..];
        // How much of the buffer is filled; from where on underscores are still to be looked at; where the buffer begins.
        let (mut len, mut next, mut base) = (0, 0, 0u64);
        let mut lines = Lines { text: None, line: 1, counted: 0 };
        let mut entry = None;
        loop {
            let (read, end) = fill(input, &mut buffer[len..]);
            len += read;
            progress(read);
            let window = &buffer[..len];
            let text = *lines.text.get_or_insert_with(|| memchr(0, &window[..len.min(SNIFFED_BYTES)]).is_none());
            // A token that begins later may not be here as a whole.
            let limit = if end.is_some() { len } else { len.saturating_sub(BEHIND - 1).max(next) };
            find::tokens(window, next..limit, |hit| {
                let offset = base + hit.at as u64;
                let place = match form {
                    Form::Journal => Place::Entry { at: entry_time(&window[..hit.at]).or(entry) },
                    Form::Bytes if text => Place::Line { line: lines.up_to(window, hit.at), offset },
                    Form::Bytes => Place::Byte { offset },
                };
                found(place, hit);
            });
            match end {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => return Err(error),
                None => {}
            }
            let keep = limit.saturating_sub(BEFORE);
            if form == Form::Journal {
                entry = entry_time(window).or(entry);
            } else if text {
                lines.up_to(window, keep);
                lines.counted -= keep;
            }
            buffer.copy_within(keep..len, 0);
            (len, next, base) = (len - keep, limit - keep, base + keep as u64);
        }
    }
}

/// Fills what it can; says whether that was the end, and how it came.
fn fill(input: &mut impl Read, mut space: &mut [u8]) -> (usize, Option<io::Result<()>>) {
    let mut filled = 0;
    while !space.is_empty() {
        match input.read(space) {
            Ok(0) => return (filled, Some(Ok(()))),
            Ok(read) => {
                filled += read;
                space = &mut space[read..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(Err(error))),
        }
    }
    (filled, None)
}

/// Counts lines as far as somebody asks.
struct Lines {
    text: Option<bool>,
    /// The line that `counted` is in.
    line: u64,
    counted: usize,
}

impl Lines {
    fn up_to(&mut self, window: &[u8], at: usize) -> u64 {
        if let Some(more) = window.get(self.counted..at) {
            self.line += memchr_iter(b'\n', more).count() as u64;
            self.counted = at;
        }
        self.line
    }
}

/// The time of the last entry that begins here. A message with a line feed in it can forge it: it is for people to find
/// the entry by, and decides nothing.
fn entry_time(mut bytes: &[u8]) -> Option<UnixTime> {
    loop {
        let at = memmem::rfind(bytes, ENTRY_TIME)?;
        let digits = &bytes[at + ENTRY_TIME.len()..];
        let end = memchr(b'\n', &digits[..digits.len().min(24)]);
        if let Some(micros) = end.and_then(|end| std::str::from_utf8(&digits[..end]).ok()?.parse().ok()) {
            return Some(UnixTime::from_micros(micros));
        }
        // Cut off by the end of the buffer: the one before it counts.
        bytes = &bytes[..at];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::token::{Kind, Secret, Token, TokenId};

    fn token(seed: u128, kind: Kind, prefix: &str) -> Token {
        let mut secret = [0; 32];
        secret[..16].copy_from_slice(&seed.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_be_bytes());
        secret[16..].copy_from_slice(&seed.to_le_bytes());
        Token {
            prefix: prefix.parse().unwrap(),
            kind,
            id: TokenId::from_bytes(seed.to_be_bytes()),
            secret: Secret::from_bytes(secret),
        }
    }

    /// Gives at most so many bytes at a time.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
            let len = self.0.len().min(self.1).min(space.len());
            space[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    fn scan(bytes: &[u8], buffer: usize, pieces: usize, form: Form) -> Vec<(Place, String)> {
        let mut all = Vec::new();
        let mut told = 0;
        let input = &mut Trickle(bytes, pieces);
        let mut reader = Reader::with_buffer(buffer);
        reader.scan(input, form, |read| told += read, |place, hit| all.push((place, hit.text.to_string()))).unwrap();
        assert_eq!(told, bytes.len());
        all
    }

    /// Noise with much in it that tokens are made of; a byte less than a token in one piece.
    fn noise() -> impl Strategy<Value = Vec<u8>> {
        let made_of = || prop::sample::select(b"_msc01MBRDbrd7zZ\n\0_".to_vec());
        // Neither its first nor its last character: what stands before or follows might put it back.
        let torn = (any::<u128>(), 1..80usize).prop_map(|(seed, at)| {
            let mut text = token(seed, Kind::Machine, "brd").reveal().as_bytes().to_vec();
            text.remove(at);
            text
        });
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..600),
            prop::collection::vec(made_of(), 0..400),
            "[ -~]{0,200}".prop_map(String::into_bytes),
            torn,
        ]
    }

    fn placed() -> impl Strategy<Value = (Token, bool)> {
        let kind = prop::sample::select(vec![Kind::Machine, Kind::Session, Kind::Canary]);
        (any::<u128>(), kind, "[a-z][a-z0-9]{1,7}", any::<bool>())
            .prop_map(|(seed, kind, prefix, wide)| (token(seed, kind, &prefix), wide))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        /// Tokens anywhere in noise, in any encoding, through buffers and reads of any length: all, once, and no more.
        #[test]
        fn all_tokens_and_nothing_else(
            parts in prop::collection::vec((noise(), placed()), 0..6),
            tail in noise(),
            buffer in (BEFORE + BEHIND + 1)..900,
            pieces in 1usize..700,
        ) {
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            for (noise, (token, wide)) in &parts {
                bytes.extend_from_slice(noise);
                let text = token.reveal();
                expected.push((bytes.len() as u64, text.to_string()));
                let stride: &[u8] = if *wide { &[0] } else { &[] };
                bytes.extend(text.bytes().flat_map(|c| std::iter::once(c).chain(stride.iter().copied())));
            }
            bytes.extend_from_slice(&tail);
            let text = !bytes[..bytes.len().min(SNIFFED_BYTES.min(buffer))].contains(&0);
            let expected: Vec<(Place, String)> = expected.into_iter().map(|(offset, token)| {
                let line = 1 + bytes[..offset as usize].iter().filter(|&&c| c == b'\n').count() as u64;
                (if text { Place::Line { line, offset } } else { Place::Byte { offset } }, token)
            }).collect();
            prop_assert_eq!(scan(&bytes, buffer, pieces, Form::Bytes), expected);
        }
    }

    /// Each split of a small file, so that no single byte is a place where a token is lost.
    #[test]
    fn every_split_of_a_buffer_finds_it() {
        let text = token(7, Kind::Machine, "a2345678").reveal().to_string();
        for before in 0..400 {
            let mut bytes = vec![b'\n'; before];
            bytes.extend_from_slice(text.as_bytes());
            bytes.extend_from_slice(&[b'.'; 300]);
            let place = Place::Line { line: before as u64 + 1, offset: before as u64 };
            for buffer in [BEFORE + BEHIND + 1, BEFORE + BEHIND + 2, 200, 256] {
                assert_eq!(scan(&bytes, buffer, usize::MAX, Form::Bytes), [(place, text.clone())], "{before} {buffer}");
            }
        }
    }

    #[test]
    fn the_journal_is_told_by_its_time() {
        let text = token(9, Kind::Session, "brd").reveal().to_string();
        let filler = "_PID=1\n".repeat(100);
        let export = format!(
            "__CURSOR=a\n__REALTIME_TIMESTAMP=1000000\n{filler}MESSAGE=x\n\n\
             __CURSOR=b\n__REALTIME_TIMESTAMP=2000000\n{filler}_CMDLINE=curl {text}\n{filler}\n\n"
        );
        let at = Some(UnixTime::from_secs(2));
        for buffer in [BEFORE + BEHIND + 1, 300, 4096] {
            assert_eq!(scan(export.as_bytes(), buffer, 50, Form::Journal), [(Place::Entry { at }, text.clone())]);
        }
        assert_eq!(scan(text.as_bytes(), 300, 50, Form::Journal), [(Place::Entry { at: None }, text.clone())]);
    }

    /// What was read before a disk failed counts.
    #[test]
    fn a_failing_read_is_an_error_after_what_was_found() {
        struct Failing(bool);
        impl Read for Failing {
            fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                let text = token(1, Kind::Machine, "brd").reveal();
                space[..text.len()].copy_from_slice(text.as_bytes());
                Ok(text.len())
            }
        }
        let mut found = 0;
        let scanned = Reader::new().scan(&mut Failing(false), Form::Bytes, |_| {}, |_, _| found += 1);
        assert_eq!((scanned.unwrap_err().kind(), found), (io::ErrorKind::TimedOut, 1));
    }
}
