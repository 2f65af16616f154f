//! Reading the log back: the lines that a filter wants, in pages, and who used a token.
//!
//! Invariant: bounded work and memory a call whatever the log's size, and pages that stay stable while the log grows and
//! is rotated. A cursor is a file (by inode), an offset and the last line's number; when the file is gone, the number
//! says where to go on. Lines are read leniently; whether they are genuine is `verify`'s matter.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::chain::read_line;
use super::escape::{NAME_MAX, NOTE_MAX, visible};
use super::event::EventKind;
use super::file::{Opened, log_files};
use super::view::LineView;
use crate::time::UnixTime;
use crate::token::TokenId;

/// Most lines of one page.
pub const PAGE_LINES_MAX: usize = 1000;
/// Most bytes of one page.
const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Most bytes looked at for one page.
const SCAN_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Most rows of a summary, and reasons of a row.
const ROWS_MAX: usize = 10_000;
const REASONS_MAX: usize = 32;

/// Why a query can't be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The cursor is not one that a page gave. Begin anew.
    #[error("not a cursor of this log; begin again without one")]
    Cursor,
    /// The log can't be read.
    #[error("can't read the audit log: {0}")]
    Read(#[source] io::Error),
}

/// Which lines are wanted: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this token.
    pub token: Option<TokenId>,
    /// Of tokens that stand for this subject.
    pub subject: Option<String>,
    /// Through this unit.
    pub unit: Option<String>,
    /// By this uid.
    pub uid: Option<u32>,
    /// Of this event.
    pub event: Option<EventKind>,
    /// Not before this.
    pub since: Option<UnixTime>,
    /// Not after this.
    pub until: Option<UnixTime>,
}

/// Lines, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// As they stand in the log, without newlines.
    pub lines: Vec<String>,
    /// Where the next page begins; also at the end of the log, for whoever follows.
    pub next: String,
    /// There is more to look at now.
    pub more: bool,
}

/// Who used a token, through what, from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The last used first.
    pub rows: Vec<SummaryRow>,
    /// There were more than could be kept.
    pub truncated: bool,
}

/// One way in which a token was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryRow {
    /// Through which unit.
    pub unit: Option<String>,
    /// By which uid.
    pub uid: Option<u32>,
    /// From which client address.
    pub from: Option<String>,
    /// Standing for whom.
    pub subject: Option<String>,
    /// How often, good or not.
    pub count: u64,
    /// How often it was good.
    pub active: u64,
    /// First time, as in the log.
    pub first: String,
    /// Last time, as in the log.
    pub last: String,
    /// Why it was not good, and how often.
    pub reasons: BTreeMap<String, u64>,
}

/// The filter in the form in which lines have it.
struct Wanted {
    token: Option<String>,
    subject: Option<String>,
    unit: Option<String>,
    uid: Option<u32>,
    event: Option<&'static str>,
    since: Option<String>,
    until: Option<String>,
}

impl Wanted {
    fn new(filter: &Filter) -> Self {
        Self {
            token: filter.token.map(|id| id.to_string()),
            // As they were written, so that an odd name finds itself.
            subject: filter.subject.as_deref().map(|subject| visible(subject, NAME_MAX).into_owned()),
            unit: filter.unit.as_deref().map(|unit| visible(unit, NOTE_MAX).into_owned()),
            uid: filter.uid,
            event: filter.event.map(EventKind::name),
            since: filter.since.map(|time| time.to_string()),
            until: filter.until.map(|time| time.to_string()),
        }
    }

    fn wants(&self, line: &[u8]) -> bool {
        // Cheaper than parsing what is of another token.
        if self.token.as_ref().is_some_and(|id| !contains(line, id.as_bytes())) {
            return false;
        }
        let Some(view) = LineView::parse(line) else { return false };
        let peer = view.peer.as_ref();
        let is =
            |wanted: &Option<String>, value: Option<&str>| wanted.as_deref().is_none_or(|wanted| value == Some(wanted));
        is(&self.token, view.id.as_deref())
            && is(&self.subject, view.subject.as_deref())
            && is(&self.unit, peer.and_then(|peer| peer.unit.as_deref()))
            && self.uid.is_none_or(|uid| peer.is_some_and(|peer| peer.uid == uid))
            && self.event.is_none_or(|event| view.event == event)
            // A counted line reaches from its first to its last event. Such texts sort as the times do.
            && self.since.as_deref().is_none_or(|since| *view.last.as_deref().unwrap_or(&view.time) >= *since)
            && self.until.as_deref().is_none_or(|until| *view.first.as_deref().unwrap_or(&view.time) <= *until)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cursor {
    inode: u64,
    offset: u64,
    seq: u64,
}

impl Cursor {
    fn parse(text: &str) -> Result<Self, QueryError> {
        let mut numbers = text.split('-').map(|number| u64::from_str_radix(number, 16));
        match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(inode)), Some(Ok(offset)), Some(Ok(seq)), None) => Ok(Self { inode, offset, seq }),
            _ => Err(QueryError::Cursor),
        }
    }

    fn text(self) -> String {
        format!("{:x}-{:x}-{:x}", self.inode, self.offset, self.seq)
    }

    /// Where to begin: which file, at which offset, and up to which number lines are known already.
    fn place(self, files: &[Opened]) -> Result<(usize, u64, u64), QueryError> {
        match files.iter().position(|file| file.inode == self.inode && file.len >= self.offset) {
            Some(at) => {
                // Never in the middle of a line, where a peer's text could be taken for one.
                let mut before = [b'\n'];
                if self.offset > 0 {
                    files[at].file.read_exact_at(&mut before, self.offset - 1).map_err(QueryError::Read)?;
                }
                if before == *b"\n" { Ok((at, self.offset, 0)) } else { Err(QueryError::Cursor) }
            }
            None => Ok((0, 0, self.seq)),
        }
    }
}

/// One page.
pub(super) fn page(path: &Path, filter: &Filter, cursor: Option<&str>, limit: usize) -> Result<Page, QueryError> {
    let limit = limit.clamp(1, PAGE_LINES_MAX);
    let wanted = Wanted::new(filter);
    let mut at = cursor.map(Cursor::parse).transpose()?.unwrap_or_default();
    let files = log_files(path);
    let (first, mut offset, known) = at.place(&files)?;
    let mut page = Page::default();
    let (mut bytes, mut scanned) = (0, 0);
    let mut line = Vec::new();
    for file in &files[first.min(files.len())..] {
        let mut reader = file.read_from(offset);
        (at.inode, at.offset) = (file.inode, offset);
        offset = 0;
        loop {
            if page.lines.len() >= limit || bytes >= PAGE_BYTES_MAX || scanned >= SCAN_BYTES_MAX {
                page.more = true;
                page.next = at.text();
                return Ok(page);
            }
            let Some(read) = read_line(&mut reader, &mut line).map_err(QueryError::Read)? else { break };
            // The writer is in the middle of it.
            if !read.terminated {
                break;
            }
            at.offset += read.bytes;
            scanned += read.bytes;
            let seq = super::chain::RawLine::parse(&line).map_or(0, |line| line.seq);
            if read.whole && (known == 0 || seq > known) {
                at.seq = at.seq.max(seq);
                if wanted.wants(&line)
                    && let Ok(text) = std::str::from_utf8(&line)
                {
                    bytes += text.len();
                    page.lines.push(text.to_owned());
                }
            }
        }
    }
    page.next = at.text();
    Ok(page)
}

/// Who used a token.
pub(super) fn summary(path: &Path, id: TokenId) -> Result<Summary, QueryError> {
    type Key = (Option<String>, Option<u32>, Option<String>, Option<String>);
    let wanted = Wanted::new(&Filter { token: Some(id), ..Filter::default() });
    let mut rows: HashMap<Key, SummaryRow> = HashMap::new();
    let mut summary = Summary::default();
    let mut line = Vec::new();
    for file in log_files(path) {
        let mut reader = file.read_from(0);
        while let Some(read) = read_line(&mut reader, &mut line).map_err(QueryError::Read)? {
            if !read.whole || !read.terminated || !wanted.wants(&line) {
                continue;
            }
            let Some(view) = LineView::parse(&line) else { continue };
            let shown = [EventKind::Use, EventKind::Deny, EventKind::Canary, EventKind::Reuse];
            if !shown.iter().any(|event| event.name() == view.event) {
                continue;
            }
            let owned = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
            let unit = view.peer.as_ref().and_then(|peer| owned(&peer.unit));
            let uid = view.peer.as_ref().map(|peer| peer.uid);
            let key = (unit.clone(), uid, owned(&view.from), owned(&view.subject));
            if rows.len() >= ROWS_MAX && !rows.contains_key(&key) {
                summary.truncated = true;
                continue;
            }
            let first = view.first.as_deref().unwrap_or(&view.time);
            let last = view.last.as_deref().unwrap_or(&view.time);
            let row = rows.entry(key).or_insert_with_key(|(_, _, from, subject)| SummaryRow {
                unit,
                uid,
                from: from.clone(),
                subject: subject.clone(),
                count: 0,
                active: 0,
                first: first.to_owned(),
                last: last.to_owned(),
                reasons: BTreeMap::new(),
            });
            let count = view.count.unwrap_or(1);
            row.count = row.count.saturating_add(count);
            if *first < *row.first {
                first.clone_into(&mut row.first);
            }
            if *last > *row.last {
                last.clone_into(&mut row.last);
            }
            if view.outcome.as_deref() == Some("active") {
                row.active = row.active.saturating_add(count);
            } else {
                let reason = view.reason.as_deref().unwrap_or(&view.event);
                if row.reasons.contains_key(reason) || row.reasons.len() < REASONS_MAX {
                    let told = row.reasons.entry(reason.to_owned()).or_default();
                    *told = told.saturating_add(count);
                }
            }
        }
    }
    summary.rows = rows.into_values().collect();
    summary.rows.sort_by(|a, b| b.last.cmp(&a.last).then_with(|| a.first.cmp(&b.first)));
    Ok(summary)
}

fn contains(line: &[u8], wanted: &[u8]) -> bool {
    line.windows(wanted.len()).any(|window| window == wanted)
}
