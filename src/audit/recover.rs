//! What a start (or a reopening, or a surprise) finds in audit.log, and where the chain goes on.
//!
//! Invariant: a line is never doubled or silently lost. From the last seal on the chain is followed over all files; a
//! torn tail is cut off and said in a chained `recovered` line; where lines are missing or can't be vouched for, the
//! first new line says so and is an [`Anchor`]. Bytes from before the seal are never cut: they are evidence, and a line
//! that says where the chain goes on after them makes none of them good.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::AuditError;
use super::chain::{Anchor, AuditMac, Mac, RawLine, Seal, Tip, Walk, walk};
use super::event::{EventKind, LINE_MAX};
use super::file::{DiskLog, LogFile, Opened, fingerprint, siblings};

/// What became of a torn tail.
const CUT_OFF: &str = "cut off";
/// It could not be: the file is append-only.
pub(super) const LEFT_IN_PLACE: &str = "left in place";

/// How the log that was found stands to what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogState {
    /// It holds everything that was sealed.
    Complete,
    /// It ends before the last seal: lines are missing. Normal after a restore of the log, else somebody cut it.
    Behind,
    /// There is none, nor a rotated one that goes up to the last seal.
    Absent,
    /// What was sealed is in a file that has been moved away; the chain goes on in a new one.
    Rotated,
}

/// Up to where the log is known to go: the last seal, or the writer's own place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) seq: u64,
    pub(super) mac: Mac,
    pub(super) offset: u64,
    pub(super) inode: u64,
}

impl From<&Seal> for Held {
    fn from(seal: &Seal) -> Self {
        Self { seq: seal.seq, mac: seal.mac, offset: seal.offset, inode: seal.inode }
    }
}

/// A line to be written before anything else.
#[derive(Clone, Debug)]
pub(super) struct Say {
    pub(super) event: EventKind,
    pub(super) outcome: &'static str,
    pub(super) note: String,
    pub(super) count: Option<u64>,
}

/// Bytes at the end of a file that are no lines of the chain.
#[derive(Debug)]
struct Cut {
    path: PathBuf,
    from: u64,
    bytes: u64,
    fingerprint: String,
}

/// What was found, nothing changed yet.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) state: LogState,
    /// Where the chain goes on.
    pub(super) seq: u64,
    pub(super) mac: Mac,
    /// The last good line that is in the current file or one before it.
    last: u64,
    /// Where the current file's good lines end.
    end: u64,
    /// The current file holds bytes beyond that, which must stay.
    stray: Option<Stray>,
    cuts: Vec<Cut>,
    /// The first line must say where it comes from.
    anchored: bool,
}

impl Survey {
    /// Bytes that are no lines and will be cut off.
    pub(super) fn cut_bytes(&self) -> u64 {
        self.cuts.iter().map(|cut| cut.bytes).sum()
    }
}

#[derive(Clone, Copy, Debug)]
struct Stray {
    len: u64,
    terminated: bool,
}

/// The log, opened and ready for the next line.
pub(super) struct Adopted {
    pub(super) log: DiskLog,
    pub(super) inode: u64,
    pub(super) offset: u64,
    pub(super) seq: u64,
    pub(super) mac: Mac,
    pub(super) say: Vec<Say>,
}

/// Follows the chain through what is there. `visit` sees every good line after what is held.
///
/// # Errors
/// When a file that is there can't be read.
pub(super) fn survey(
    path: &Path,
    held: Option<&Held>,
    key: &dyn AuditMac,
    visit: &mut dyn FnMut(&RawLine<'_>),
) -> Result<Survey, AuditError> {
    let failed = |source| AuditError::Open { path: path.to_owned(), source };
    let mut files = siblings(path);
    let current = match Opened::open(path) {
        Ok(opened) => {
            files.push(opened);
            Some(files.len() - 1)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    if let Some(held) = held {
        for (i, file) in files.iter().enumerate() {
            if file.inode == held.inode && ends_sealed(file, held).map_err(failed)? {
                return from_held(&files, i, current, held, key, visit).map_err(failed);
            }
        }
    }
    from_start(&files, current, held, key, visit).map_err(failed)
}

/// Whether the held line ends where it is said to: not so when the file was rewritten in place.
fn ends_sealed(file: &Opened, held: &Held) -> io::Result<bool> {
    if file.len < held.offset {
        return Ok(false);
    }
    // There is no line to compare: inodes are used again, so that only an empty file is surely the one.
    if held.offset == 0 {
        return Ok(file.len == 0);
    }
    let len = held.offset.min(LINE_MAX as u64 + 1);
    let mut tail = vec![0; usize::try_from(len).expect("at most a line")];
    file.file.read_exact_at(&mut tail, held.offset - len)?;
    let Some(tail) = tail.strip_suffix(b"\n") else { return Ok(false) };
    let line = tail.rsplit(|c| *c == b'\n').next().unwrap_or_default();
    Ok(RawLine::parse(line).is_some_and(|line| line.seq == held.seq && line.mac == held.mac))
}

/// The usual case: everything up to `held` is there; what follows is checked.
fn from_held(
    files: &[Opened],
    first: usize,
    current: Option<usize>,
    held: &Held,
    key: &dyn AuditMac,
    visit: &mut dyn FnMut(&RawLine<'_>),
) -> io::Result<Survey> {
    let mut tip = Tip { seq: held.seq, mac: held.mac, open: false };
    let mut survey = Survey {
        state: if Some(first) == current { LogState::Complete } else { LogState::Rotated },
        seq: 0,
        mac: Mac::GENESIS,
        last: 0,
        end: 0,
        stray: None,
        cuts: Vec::new(),
        anchored: false,
    };
    for (i, file) in files.iter().enumerate().skip(first) {
        let start = if i == first { held.offset } else { 0 };
        let mut found = walk(&mut file.read_from(start), start, tip, key, |good| visit(&good.line))?;
        if found.lines == 0 && i > first {
            // Files between this one and the last may be compressed by now.
            let from_here = walk(&mut file.read_from(0), 0, Tip::START, key, |good| visit(&good.line))?;
            if from_here.lines > 0 && from_here.tip.seq > tip.seq {
                found = from_here;
            }
        }
        let ours = i == first || found.lines > 0;
        if ours && found.bad.is_some() {
            survey.cuts.push(cut(file, &found)?);
        }
        if Some(i) == current {
            survey.end = if ours { found.good_end } else { 0 };
            let foreign = !ours && found.end > 0;
            survey.stray = foreign.then_some(Stray { len: found.end, terminated: found.terminated });
            survey.anchored = !ours;
        }
        tip = found.tip;
    }
    survey.anchored |= current.is_none() || (survey.end == 0 && survey.stray.is_none());
    // A chain that has no line yet needs no line that ties it to one.
    survey.anchored &= tip.seq > 0 || survey.stray.is_some();
    (survey.seq, survey.mac, survey.last) = (tip.seq, tip.mac, tip.seq);
    Ok(survey)
}

/// What is held is not there, or nothing is held: everything is followed from the beginning.
fn from_start(
    files: &[Opened],
    current: Option<usize>,
    held: Option<&Held>,
    key: &dyn AuditMac,
    visit: &mut dyn FnMut(&RawLine<'_>),
) -> io::Result<Survey> {
    let mut tip = Tip::START;
    let mut met = false;
    let mut here: Option<Walk> = None;
    for (i, file) in files.iter().enumerate() {
        let mut look = |from: Tip| {
            walk(&mut file.read_from(0), 0, from, key, |good| {
                met |= held.is_some_and(|held| good.line.seq == held.seq && good.line.mac == held.mac);
                visit(&good.line);
            })
        };
        let mut found = look(tip)?;
        if found.lines == 0 && !tip.open {
            found = look(Tip::START)?;
        }
        if found.lines > 0 && found.tip.seq > tip.seq {
            tip = found.tip;
        }
        if Some(i) == current {
            here = Some(found);
        }
    }
    let (end, len, lines, terminated, bad) =
        here.as_ref().map_or((0, 0, 0, true, false), |w| (w.good_end, w.end, w.lines, w.terminated, w.bad.is_some()));
    let behind = held.filter(|held| tip.seq < held.seq);
    let mut survey = Survey {
        state: match held {
            _ if len == 0 && files.len() <= 1 => LogState::Absent,
            Some(_) if behind.is_some() && len == 0 => LogState::Absent,
            Some(_) if behind.is_some() => LogState::Behind,
            Some(_) if !met => LogState::Rotated,
            _ => LogState::Complete,
        },
        seq: behind.map_or(tip.seq, |held| held.seq),
        mac: behind.map_or(tip.mac, |held| held.mac),
        last: if len == 0 { behind.map_or(tip.seq, |held| held.seq) } else { tip.seq },
        end,
        stray: None,
        cuts: Vec::new(),
        anchored: behind.is_some() || lines == 0,
    };
    if bad {
        // Half of the first line ever: a daemon was killed in its first second. Whoever else wrote it wrote whole lines.
        let first_line = held.is_none()
            && here.as_ref().and_then(|walk| walk.bad).is_some_and(|bad| bad.line == 1 && bad.unterminated);
        survey.anchored &= !first_line;
        if (lines > 0 && behind.is_none()) || first_line {
            let (file, found) = (&files[current.expect("walked")], here.as_ref().expect("walked"));
            survey.cuts.push(cut(file, found)?);
        } else {
            survey.stray = Some(Stray { len, terminated });
            survey.anchored = true;
        }
    }
    survey.anchored &= survey.seq > 0 || survey.stray.is_some();
    Ok(survey)
}

fn cut(file: &Opened, found: &Walk) -> io::Result<Cut> {
    Ok(Cut {
        path: file.path.clone(),
        from: found.good_end,
        bytes: found.end - found.good_end,
        fingerprint: fingerprint(&mut file.read_from(found.good_end))?,
    })
}

/// Opens the log for the next line: cuts torn tails, and says what has to be said.
///
/// # Errors
/// When the file can't be opened or is not fit to be trusted.
pub(super) fn adopt(path: &Path, mode: u32, group: Option<u32>, mut survey: Survey) -> Result<Adopted, AuditError> {
    let failed = |source| AuditError::Open { path: path.to_owned(), source };
    let log = DiskLog::open(path, mode, group)?;
    let (mut lost, mut left) = (Vec::new(), false);
    for cut in &survey.cuts {
        let done = if cut.path == path { log.truncate(cut.from) } else { truncate_sibling(cut) };
        let how = match done {
            Ok(()) => CUT_OFF,
            // An append-only file (chattr +a): the bytes stay, and the line after them says which they are.
            Err(error) => {
                tracing::warn!(path = %cut.path.display(), %error, "a torn tail of the audit log can't be cut off");
                if cut.path == path {
                    survey.stray = Some(Stray { len: cut.from + cut.bytes, terminated: false });
                    survey.anchored = true;
                    left = true;
                }
                LEFT_IN_PLACE
            }
        };
        lost.push((cut.bytes, torn_words(cut.bytes, &cut.fingerprint, survey.seq, how)));
    }
    let state = log.state().map_err(failed)?;
    let mut offset = survey.stray.map_or(survey.end, |stray| stray.len);
    if survey.stray.is_some_and(|stray| !stray.terminated) {
        log.append(b"\n").map_err(failed)?;
        offset += 1;
    }
    let mut say = Vec::new();
    if survey.anchored && !left {
        let anchor = Anchor { mac: survey.mac, last: survey.last, at: offset };
        let missing = survey.seq - survey.last.min(survey.seq);
        let (event, outcome, words) = match survey.state {
            _ if missing > 0 => (EventKind::Gap, "missing", format!("{missing} sealed lines before this are missing")),
            LogState::Absent | LogState::Behind if survey.stray.is_none() => {
                (EventKind::Gap, "absent", format!("audit.log was absent; lines to {} are elsewhere", survey.seq))
            }
            _ if survey.stray.is_some() => {
                (EventKind::Gap, "unreadable", "bytes before this are no lines of this log's key".to_owned())
            }
            _ => (EventKind::Seal, "continued", "the chain goes on from the file before".to_owned()),
        };
        let count = (missing > 0).then_some(missing);
        say.push(Say { event, outcome, note: anchor.note(&words), count });
    }
    if left {
        // The current file's own, which is the last of them, stands right before the first line.
        lost.reverse();
        let anchor = Anchor { mac: survey.mac, last: survey.last, at: offset };
        lost[0].1 = anchor.note(&lost[0].1);
    }
    for (bytes, note) in lost {
        say.push(Say { event: EventKind::Recovered, outcome: "recovered", note, count: Some(bytes) });
    }
    if !say.is_empty() {
        let (path, cut_bytes) = (path.display(), survey.cut_bytes());
        tracing::warn!(%path, state = ?survey.state, cut_bytes, "audit.log: {}", say[0].note);
    }
    Ok(Adopted { log, inode: state.inode, offset, seq: survey.seq, mac: survey.mac, say })
}

/// What a `recovered` line says in words. `verify` compares it with the bytes that were left in place.
pub(super) fn torn_words(bytes: u64, fingerprint: &str, seq: u64, how: &str) -> String {
    format!("{bytes} bytes (blake3 {fingerprint}) that followed line {seq} were {how}")
}

/// The tail of a file that was renamed, torn by a crash before the daemon was told to reopen.
fn truncate_sibling(cut: &Cut) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(&cut.path)?;
    file.set_len(cut.from)?;
    file.sync_data()
}
