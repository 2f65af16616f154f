//! The keyed chain: `mac(n) = BLAKE3 keyed(audit key, mac(n-1) || raw bytes of line n before ,"mac":")`.
//!
//! Invariant: whoever lacks the audit key can neither change, drop, move, add nor double a line without [`Tip::step`]
//! refusing at the first line that is not as it was written. The MAC is over raw bytes and its place in the line is
//! fixed (the last 75 bytes), so no two readings of a line exist. The first line ever has 32 zero bytes before it.
//!
//! A line whose predecessor is not the line before it (a new file, lines that are gone, a tail that could not be cut)
//! says so in its note, which its own MAC covers: an [`Anchor`]. It names its own offset, so that it is good in the one
//! place where the daemon wrote it and nowhere else.

use std::fmt;
use std::io::{self, BufRead};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::event::LINE_MAX;
use crate::codec::{self, CodecError};
use crate::time::UnixTime;

/// What stands between the bytes that a MAC covers and the MAC.
const MAC_MARK: &[u8] = b",\"mac\":\"";
/// Bytes of a line from the mark on, without the newline: mark, 64 hex digits, `"}`.
const MAC_TAIL: usize = MAC_MARK.len() + 64 + 2;
/// `{"time":"2026-11-23T17:42:09.000000Z","seq":`, whose length never varies.
const SEQ_AT: usize = 44;

/// The key of the chain, which never leaves the vault: it computes
/// `BLAKE3 keyed_hash(audit key, previous || bytes)`.
pub trait AuditMac: Send + Sync {
    /// The MAC of `bytes` after `previous`.
    fn mac(&self, previous: &[u8; 32], bytes: &[u8]) -> [u8; 32];
}

/// What an [`AuditMac`] computes, for whoever holds the key's 32 bytes.
pub fn keyed_mac(key: &[u8; 32], previous: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(previous).update(bytes);
    *hasher.finalize().as_bytes()
}

/// A line's MAC; 64 lower-case hex digits in the file. Not a secret.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mac([u8; 32]);

impl Mac {
    /// What stands before the first line ever.
    pub const GENESIS: Self = Self([0; 32]);

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The MAC of a line's body after this one.
    pub(super) fn next(self, key: &dyn AuditMac, body: &[u8]) -> Self {
        Self(key.mac(&self.0, body))
    }

    /// Strict: upper case would be a second form of the same line.
    fn parse(hex: &[u8]) -> Option<Self> {
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        let mut mac = [0; 32];
        if hex.len() != 64 {
            return None;
        }
        for (byte, pair) in mac.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(mac))
    }
}

impl FromStr for Mac {
    type Err = CodecError;

    fn from_str(hex: &str) -> Result<Self, CodecError> {
        Self::parse(hex.as_bytes()).ok_or(CodecError::Malformed)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What was fsynced at a moment: stored with the tokens and sent to syslog, so that a cut tail shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The last line that is fsynced.
    pub seq: u64,
    /// Its MAC.
    pub mac: Mac,
    /// Where the next line begins, in bytes from the beginning of the file.
    pub offset: u64,
    /// Which file that is of.
    pub inode: u64,
    /// The newest generation among the lines.
    pub generation: u64,
    /// When it was made.
    pub at: UnixTime,
    /// Changes beyond `outbox_through` whose lines are fsynced too, first and last generation: they overtook others.
    pub beyond: Vec<(u64, u64)>,
}

/// The stored forms of a seal that this version reads.
#[derive(Serialize, Deserialize)]
enum Versioned<T> {
    V1(T),
}

impl Seal {
    /// For the store.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&Versioned::V1(self))
    }

    /// From the store.
    ///
    /// # Errors
    /// When the bytes are no seal, or of a version that this one does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let Versioned::V1(seal) = codec::decode::<Versioned<Self>>(bytes)?;
        Ok(seal)
    }
}

/// A line taken apart, not yet checked against anything.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawLine<'a> {
    /// The bytes that the MAC covers.
    pub(super) body: &'a [u8],
    pub(super) mac: Mac,
    pub(super) seq: u64,
}

impl<'a> RawLine<'a> {
    /// Takes a line without its newline apart; `None` when it has not the form of one.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let (body, tail) = line.split_at_checked(line.len().checked_sub(MAC_TAIL)?)?;
        let hex = tail.strip_prefix(MAC_MARK)?.strip_suffix(b"\"}")?;
        let digits = body.get(SEQ_AT..)?;
        let len = digits.iter().take_while(|c| c.is_ascii_digit()).count();
        let seq = std::str::from_utf8(&digits[..len]).ok()?.parse().ok()?;
        Some(Self { body, mac: Mac::parse(hex)?, seq })
    }

    /// Whether it was written with this key right after a line with the MAC `previous`.
    pub(super) fn follows(&self, previous: Mac, key: &dyn AuditMac) -> bool {
        previous.next(key, self.body) == self.mac
    }

    /// What it says of where the chain goes on, if it is of the kinds that may.
    fn anchor(&self) -> Option<Anchor> {
        if !["seal", "gap", "recovered"].into_iter().any(|event| self.is_event(event)) {
            return None;
        }
        self.note()?.parse().ok()
    }

    /// Its note, if it has one.
    pub(super) fn note(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Note {
            #[serde(default)]
            note: Option<String>,
        }
        let mut json = self.body.to_vec();
        json.push(b'}');
        serde_json::from_slice::<Note>(&json).ok()?.note
    }

    /// Whether it is a line of that event, which stands right after the number.
    pub(super) fn is_event(&self, event: &str) -> bool {
        let after = self.body.get(SEQ_AT..).unwrap_or_default();
        let digits = after.iter().take_while(|c| c.is_ascii_digit()).count();
        let name = after[digits..].strip_prefix(b",\"event\":\"");
        name.and_then(|name| name.strip_prefix(event.as_bytes())).is_some_and(|rest| rest.starts_with(b"\","))
    }
}

/// Appends the line of a body that begins at `from` in `buffer`: `,"mac":"…"}` and the newline.
pub(super) fn finish_line(buffer: &mut Vec<u8>, from: usize, previous: Mac, key: &dyn AuditMac) -> Mac {
    let mac = previous.next(key, &buffer[from..]);
    let mut tail = *b",\"mac\":\"0000000000000000000000000000000000000000000000000000000000000000\"}\n";
    for (pair, byte) in tail[MAC_MARK.len()..].chunks_exact_mut(2).zip(mac.0) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    buffer.extend_from_slice(&tail);
    mac
}

/// What a line says of where the chain goes on: `continues mac=… last=… at=…: in words`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    /// The MAC that this line's MAC was computed after.
    pub(super) mac: Mac,
    /// The last good line before it. What stands between is left alone, and vouched for by nobody: to `verify` it is
    /// damage all the same.
    pub(super) last: u64,
    /// The offset at which this line stands in its file.
    pub(super) at: u64,
}

impl Anchor {
    /// The note of a line that says this.
    pub(super) fn note(&self, words: &str) -> String {
        format!("continues mac={} last={} at={}: {words}", self.mac, self.last, self.at)
    }
}

impl FromStr for Anchor {
    type Err = ();

    fn from_str(note: &str) -> Result<Self, ()> {
        let (head, _) = note.strip_prefix("continues mac=").ok_or(())?.split_once(": ").ok_or(())?;
        let (mac, rest) = head.split_once(" last=").ok_or(())?;
        let (last, at) = rest.split_once(" at=").ok_or(())?;
        Ok(Self {
            mac: mac.parse().map_err(|_| ())?,
            last: last.parse().map_err(|_| ())?,
            at: at.parse().map_err(|_| ())?,
        })
    }
}

/// How far a chain has been followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tip {
    /// The last good line; 0 before the first.
    pub(super) seq: u64,
    /// Its MAC.
    pub(super) mac: Mac,
    /// Nothing has been followed yet: a file that goes on from another, which is not at hand, may begin here.
    pub(super) open: bool,
}

/// How a good line is tied to what is before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tie {
    /// It follows the line before it.
    Next,
    /// It says itself what it goes on from; the lines between are not here.
    Said(Anchor),
}

impl Tip {
    /// Before the first line of the oldest file at hand.
    pub(super) const START: Self = Self { seq: 0, mac: Mac::GENESIS, open: true };

    /// Whether the line at `offset` of its file is the next good one.
    pub(super) fn step(&self, line: &RawLine<'_>, offset: u64, key: &dyn AuditMac) -> Option<Tie> {
        if self.seq.checked_add(1) == Some(line.seq) && line.follows(self.mac, key) {
            return Some(Tie::Next);
        }
        self.said(line, offset, key).map(Tie::Said)
    }

    /// Whether the line says, truly and in its own place, that the chain goes on here.
    fn said(&self, line: &RawLine<'_>, offset: u64, key: &dyn AuditMac) -> Option<Anchor> {
        let anchor = line.anchor()?;
        let fits = (self.open && offset == 0) || anchor.last <= self.seq;
        (anchor.at == offset && fits && line.seq > self.seq && line.follows(anchor.mac, key)).then_some(anchor)
    }

    fn at(line: &RawLine<'_>) -> Self {
        Self { seq: line.seq, mac: line.mac, open: false }
    }
}

/// A good line, as [`walk`] shows it.
pub(super) struct Visit<'a> {
    pub(super) line: RawLine<'a>,
    /// The last good line before it.
    pub(super) before: Tip,
    pub(super) tie: Tie,
    /// Which line it is of those walked, from 1.
    pub(super) number: u64,
    /// Bytes stand between the two that are no good line; this one says so itself.
    pub(super) skipped: Option<Bad>,
}

/// Where bytes begin that are no good line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) offset: u64,
    /// Lines are counted from 1.
    pub(super) line: u64,
    /// It is the end of the file, and has no newline.
    pub(super) unterminated: bool,
}

/// How far [`walk`] came.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) tip: Tip,
    /// Where the last good line ends.
    pub(super) good_end: u64,
    /// Where the file ends.
    pub(super) end: u64,
    /// What follows the last good line, if anything.
    pub(super) bad: Option<Bad>,
    /// Good lines.
    pub(super) lines: u64,
    /// Whether the file ends with a newline (or is empty).
    pub(super) terminated: bool,
}

/// Follows the chain through one file from `offset` on. Bytes that are no good line end it, unless a later line says
/// that it goes on there: that they are skipped is for `visit` to judge.
///
/// # Errors
/// When the file can't be read.
pub(super) fn walk(
    reader: &mut dyn BufRead,
    offset: u64,
    tip: Tip,
    key: &dyn AuditMac,
    mut visit: impl FnMut(Visit<'_>),
) -> io::Result<Walk> {
    let mut walk = Walk { tip, good_end: offset, end: offset, bad: None, lines: 0, terminated: true };
    let mut buffer = Vec::new();
    let mut number = 0;
    loop {
        let at = walk.end;
        let Some(read) = read_line(reader, &mut buffer)? else { return Ok(walk) };
        number += 1;
        walk.end += read.bytes;
        walk.terminated = read.terminated;
        let line = if read.whole && read.terminated { RawLine::parse(&buffer) } else { None };
        let tie = line.as_ref().and_then(|line| match walk.bad {
            None => walk.tip.step(line, at, key),
            Some(_) => walk.tip.said(line, at, key).map(Tie::Said),
        });
        match (line, tie) {
            (Some(line), Some(tie)) => {
                visit(Visit { line, before: walk.tip, tie, number, skipped: walk.bad });
                walk.tip = Tip::at(&line);
                walk.good_end = walk.end;
                walk.lines += 1;
                walk.bad = None;
            }
            _ => {
                walk.bad.get_or_insert(Bad { offset: at, line: number, unterminated: !read.terminated });
            }
        }
    }
}

/// What [`read_line`] took from the reader.
pub(super) struct Read {
    /// With the newline.
    pub(super) bytes: u64,
    /// The buffer holds all of it; otherwise it was longer than any line is.
    pub(super) whole: bool,
    /// It ended with a newline.
    pub(super) terminated: bool,
}

/// Reads a line without its newline into `buffer`, which never grows past the longest line.
pub(super) fn read_line(reader: &mut dyn BufRead, buffer: &mut Vec<u8>) -> io::Result<Option<Read>> {
    buffer.clear();
    let mut read = Read { bytes: 0, whole: true, terminated: false };
    loop {
        let chunk = match reader.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if chunk.is_empty() {
            return Ok((read.bytes > 0).then_some(read));
        }
        let newline = chunk.iter().position(|c| *c == b'\n');
        let taken = newline.unwrap_or(chunk.len());
        if read.whole && buffer.len() + taken <= LINE_MAX {
            buffer.extend_from_slice(&chunk[..taken]);
        } else {
            read.whole = false;
        }
        let consumed = taken + usize::from(newline.is_some());
        read.bytes += consumed as u64;
        reader.consume(consumed);
        if newline.is_some() {
            read.terminated = true;
            return Ok(Some(read));
        }
    }
}
