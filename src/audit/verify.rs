//! `audit verify`: whether a log is as it was written, and if not, where it stops being so and what was done to it.
//!
//! Invariant: any change of any byte of the lines up to the last seal, any line dropped, moved, added or doubled, and any
//! cut tail is found, and the first bad line named. That the daemon has noticed, and said so in the chain (`gap`), makes
//! nothing good: bytes that are there must verify, and lines may be missing only before the first file's beginning, where
//! older files were. What else it says (a torn tail that was cut off, events that were never written) is listed, not called
//! damage. Lines past the last seal are checked as well, but that some of them are gone can't show. Who holds the audit
//! key can write any log: only the seals that syslog carried elsewhere show that.

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use super::chain::{AuditMac, Bad, RawLine, Seal, Tie, Tip, Visit, read_line, walk};
use super::file::{Opened, fingerprint};
use super::recover::{LEFT_IN_PLACE, torn_words};

/// How far beyond a bad line it is looked what was done, in bytes.
const LOOK_AHEAD_BYTES: usize = 16 * 1024 * 1024;
/// Said gaps that are listed; all are counted.
const SAID_MAX: usize = 1000;

/// What was done to a log at its first bad line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The line is not as it was written.
    Changed,
    /// The line is as it was written, but for its MAC.
    MacChanged,
    /// The line that belongs here, and perhaps others after it, is gone.
    Removed,
    /// A line that was never there stands here.
    Inserted,
    /// A later line stands here, and this one later.
    Swapped,
    /// A copy of another line stands here.
    Duplicated,
    /// The log ends before what was sealed.
    CutTail,
    /// The log ends in half a line, past what was sealed: a power cut, if the daemon has not started since.
    TornTail,
    /// The chain holds, but is not the one that was sealed: another history with the same key.
    NotSealed,
}

impl Damage {
    /// The name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::MacChanged => "mac_changed",
            Self::Removed => "removed",
            Self::Inserted => "inserted",
            Self::Swapped => "swapped",
            Self::Duplicated => "duplicated",
            Self::CutTail => "cut_tail",
            Self::TornTail => "torn_tail",
            Self::NotSealed => "not_sealed",
        }
    }
}

/// The first line that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// In which file.
    pub file: PathBuf,
    /// Which line of it, from 1.
    pub line: u64,
    /// The number that the line in this place should have.
    pub seq: u64,
    /// What was done.
    pub damage: Damage,
}

/// What the daemon itself says is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// In which file.
    pub file: PathBuf,
    /// Which line of it says so, from 1.
    pub line: u64,
    /// Its number.
    pub seq: u64,
    /// `gap` or `recovered`, or `seal` for a file that goes on from one which is not at hand.
    pub event: String,
    /// In its words, without the anchor before them.
    pub note: String,
    /// Sealed lines that are not in the files, because this one begins the oldest of them.
    pub missing: u64,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Files looked at.
    pub files: usize,
    /// Good lines before the first bad one.
    pub lines: u64,
    /// The number of the first.
    pub first_seq: Option<u64>,
    /// The number of the last.
    pub last_seq: Option<u64>,
    /// The first bad line.
    pub bad: Option<BadLine>,
    /// What the daemon says is missing, the first thousand.
    pub said: Vec<Said>,
    /// How many those are in all.
    pub said_count: u64,
    /// Lines that are in none of the files, in all.
    pub missing_lines: u64,
    /// Good lines past the last seal: whether more of them were there can't be known.
    pub past_seal: u64,
    /// The number that the seal is of.
    pub sealed_seq: Option<u64>,
}

impl VerifyReport {
    /// Whether nothing was done to what is there. Older files may be absent: see [`Self::missing_lines`].
    pub const fn intact(&self) -> bool {
        self.bad.is_none()
    }
}

/// Checks `files`, oldest first, against the key and the last seal.
///
/// # Errors
/// When a file can't be read.
pub fn verify(files: &[PathBuf], key: &dyn AuditMac, seal: Option<&Seal>) -> io::Result<VerifyReport> {
    verify_to(files, key, seal, None)
}

/// The same, looking at the file with an inode only up to a length: the writer may be in the middle of what follows.
pub(super) fn verify_to(
    files: &[PathBuf],
    key: &dyn AuditMac,
    seal: Option<&Seal>,
    end: Option<(u64, u64)>,
) -> io::Result<VerifyReport> {
    let named = |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut opened = Vec::new();
    for path in files {
        let mut file = Opened::open(path).map_err(|error| named(path, error))?;
        if let Some((inode, end)) = end
            && inode == file.inode
        {
            file.len = file.len.min(end);
        }
        opened.push(file);
    }
    let sources: Vec<&dyn Source> = opened.iter().map(|opened| opened as &dyn Source).collect();
    verify_sources(&sources, key, seal)
}

/// Where lines are read from, again and again.
pub(super) trait Source {
    fn path(&self) -> &Path;
    fn open_at(&self, offset: u64) -> io::Result<Box<dyn BufRead + '_>>;
}

impl Source for Opened {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open_at(&self, offset: u64) -> io::Result<Box<dyn BufRead + '_>> {
        Ok(Box::new(self.read_from(offset).take(self.len.saturating_sub(offset))))
    }
}

pub(super) fn verify_sources(
    sources: &[&dyn Source],
    key: &dyn AuditMac,
    seal: Option<&Seal>,
) -> io::Result<VerifyReport> {
    let mut report =
        VerifyReport { files: sources.len(), sealed_seq: seal.map(|seal| seal.seq), ..VerifyReport::default() };
    let mut tip = Tip::START;
    let mut last_place = (PathBuf::new(), 0);
    for (i, source) in sources.iter().enumerate() {
        let mut first = None;
        let found = walk(&mut *source.open_at(0)?, 0, tip, key, |good| {
            if first.is_some() {
                return;
            }
            let seq = good.line.seq;
            first = wrong_before(*source, &good);
            if first.is_none() && seal.is_some_and(|seal| seal.seq == seq && seal.mac != good.line.mac) {
                first = Some(Wrong { at: At::Line(good.number, Damage::NotSealed), tip: good.before });
            }
            if first.is_some() {
                return;
            }
            report.lines += 1;
            report.first_seq.get_or_insert(seq);
            report.last_seq = Some(seq);
            report.past_seal += u64::from(seal.is_some_and(|seal| seq > seal.seq));
            if let Some(said) = said(source.path(), &good) {
                report.said_count += 1;
                report.missing_lines += said.missing;
                if report.said.len() < SAID_MAX {
                    report.said.push(said);
                }
            }
        })?;
        tip = found.tip;
        if let Some(Wrong { at, tip }) = first.or(found.bad.map(|bad| Wrong { at: At::Bytes(bad), tip })) {
            let (line, damage) = match at {
                At::Line(line, damage) => (line, damage),
                At::Bytes(bad) => (bad.line, classify(sources, i, bad, tip, key, seal)?),
            };
            report.bad = Some(BadLine { file: source.path().to_owned(), line, seq: tip.seq + 1, damage });
            return Ok(report);
        }
        last_place = (source.path().to_owned(), found.lines);
    }
    if seal.is_some_and(|seal| seal.seq > tip.seq) {
        let (file, lines) = last_place;
        report.bad = Some(BadLine { file, line: lines + 1, seq: tip.seq + 1, damage: Damage::CutTail });
    }
    Ok(report)
}

/// The first thing wrong in a file, and how far the chain was good.
struct Wrong {
    at: At,
    tip: Tip,
}

enum At {
    /// The line with this number; what was done is known.
    Line(u64, Damage),
    /// From these bytes on.
    Bytes(Bad),
}

/// What is wrong between a good line and the one before it, whatever the line says of it.
fn wrong_before(source: &dyn Source, good: &Visit<'_>) -> Option<Wrong> {
    let wrong = |at| Some(Wrong { at, tip: good.before });
    if let Some(bad) = good.skipped {
        return if torn_piece(source, good, bad) { None } else { wrong(At::Bytes(bad)) };
    }
    let jumped = !good.before.open && good.line.seq != good.before.seq + 1;
    if jumped { wrong(At::Line(good.number, Damage::Removed)) } else { None }
}

/// Whether the bytes before a line are the one torn piece that its note names: behind everything that was sealed, and
/// left there because the file is append-only.
fn torn_piece(source: &dyn Source, good: &Visit<'_>, bad: Bad) -> bool {
    let Tie::Said(anchor) = good.tie else { return false };
    let next = good.before.seq.checked_add(1) == Some(good.line.seq) && anchor.last == good.before.seq;
    if !next || bad.line.checked_add(1) != Some(good.number) || !good.line.is_event("recovered") {
        return false;
    }
    // Without the newline that ends it, which the daemon wrote.
    let bytes = anchor.at - bad.offset - 1;
    let piece = source.open_at(bad.offset).and_then(|reader| fingerprint(&mut reader.take(bytes)));
    piece.is_ok_and(|fingerprint| {
        good.line.note() == Some(anchor.note(&torn_words(bytes, &fingerprint, anchor.last, LEFT_IN_PLACE)))
    })
}

/// Whether a good line says that something is missing.
fn said(file: &Path, good: &Visit<'_>) -> Option<Said> {
    let line = &good.line;
    // Lines may be missing only before the oldest file at hand.
    let missing = if good.before.open { line.seq - 1 } else { 0 };
    // Only the daemon makes these events, and their name stands in a fixed place.
    let event = ["gap", "recovered"].into_iter().find(|event| line.is_event(event));
    let event = event.or((missing > 0).then_some("seal"))?;
    let mut note = line.note().unwrap_or_default();
    if matches!(good.tie, Tie::Said(_))
        && let Some((_, words)) = note.split_once(": ")
    {
        note = words.to_owned();
    }
    Some(Said { file: file.to_owned(), line: good.number, seq: line.seq, event: event.to_owned(), note, missing })
}

/// What was done at the first bad line, from what stands around it.
fn classify(
    sources: &[&dyn Source],
    i: usize,
    bad: Bad,
    tip: Tip,
    key: &dyn AuditMac,
    seal: Option<&Seal>,
) -> io::Result<Damage> {
    if bad.unterminated && i + 1 == sources.len() {
        let sealed = seal.is_some_and(|seal| seal.seq > tip.seq);
        return Ok(if sealed { Damage::CutTail } else { Damage::TornTail });
    }
    let rest = lines_from(sources, i, bad.offset)?;
    let parsed: Vec<Option<RawLine<'_>>> = rest.iter().map(|line| RawLine::parse(line)).collect();
    let Some(Some(here)) = parsed.first().copied() else { return Ok(inserted_or_changed(&parsed, tip, key)) };
    let wanted = tip.seq + 1;
    let copied_later = || rest[1..].contains(&rest[0]);
    if (here.seq <= tip.seq && stands_before(sources, i, bad.offset, &rest[0])?)
        || (here.seq > wanted && copied_later())
    {
        return Ok(Damage::Duplicated);
    }
    let right =
        (1..parsed.len()).find(|at| parsed[*at].is_some_and(|line| line.seq == wanted && line.follows(tip.mac, key)));
    if let Some(at) = right {
        let after_right = parsed.get(at + 1).copied().flatten();
        let before_right = if at == 1 { parsed[1] } else { parsed[at - 1] };
        // Either neighbour of its rightful place vouches for it.
        let own = after_right.is_some_and(|line| line.seq == here.seq + 1 && line.follows(here.mac, key))
            || before_right.is_some_and(|line| line.seq + 1 == here.seq && here.follows(line.mac, key));
        return Ok(if here.seq > wanted && own { Damage::Swapped } else { Damage::Inserted });
    }
    let next = parsed.get(1).copied().flatten();
    Ok(match next {
        Some(next) if next.seq == wanted + 1 && next.follows(tip.mac.next(key, here.body), key) => Damage::MacChanged,
        Some(next) if next.seq == wanted + 1 => Damage::Changed,
        Some(next) if here.seq > wanted && next.seq == here.seq + 1 && next.follows(here.mac, key) => Damage::Removed,
        Some(_) => Damage::Changed,
        // The last line: only the seal can tell whether its number is its own.
        None => match seal {
            Some(seal) if seal.seq == here.seq && seal.mac == here.mac => Damage::Removed,
            None if here.seq > wanted => Damage::Removed,
            _ => Damage::Changed,
        },
    })
}

/// A line without the form of one: something put in, if the right line follows, else the right line spoilt.
fn inserted_or_changed(parsed: &[Option<RawLine<'_>>], tip: Tip, key: &dyn AuditMac) -> Damage {
    let follows = parsed.iter().flatten().any(|line| line.seq == tip.seq + 1 && line.follows(tip.mac, key));
    if follows { Damage::Inserted } else { Damage::Changed }
}

/// The lines from a place on, over files, as far as it is looked.
fn lines_from(sources: &[&dyn Source], i: usize, offset: u64) -> io::Result<Vec<Vec<u8>>> {
    let (mut lines, mut bytes) = (Vec::new(), 0);
    for (k, source) in sources.iter().enumerate().skip(i) {
        let mut reader = source.open_at(if k == i { offset } else { 0 })?;
        let mut line = Vec::new();
        while bytes < LOOK_AHEAD_BYTES && read_line(&mut *reader, &mut line)?.is_some() {
            bytes += line.len() + 1;
            lines.push(line.clone());
        }
    }
    Ok(lines)
}

/// Whether the very same line stands before a place.
fn stands_before(sources: &[&dyn Source], i: usize, offset: u64, wanted: &[u8]) -> io::Result<bool> {
    for (k, source) in sources.iter().enumerate().take(i + 1) {
        let mut reader = source.open_at(0)?;
        let (mut line, mut at) = (Vec::new(), 0);
        while (k < i || at < offset)
            && let Some(read) = read_line(&mut *reader, &mut line)?
        {
            at += read.bytes;
            if line == wanted {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
