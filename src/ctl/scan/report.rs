//! What is said of a scan. No text of a token gets here: heads only.

use serde::Serialize;

use super::findings::{Find, Findings, Kindred, Known, Standing};
use super::stream::Place;
use crate::ctl::render::style::{Ink, clean, ink};
use crate::ctl::render::token::state;
use crate::ctl::render::when::{absolute, bytes, count, plural};

/// Things that could not be read and are named to people; the rest is counted. JSON names more.
const UNREADABLE_SAID: usize = 20;
/// Lines that are made at a time.
pub(super) const LINES: usize = 1000;

/// How much was looked at.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub files: u64,
    pub bytes: u64,
}

/// Whether the daemon said how tokens stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// It did.
    #[serde(rename = "answered")]
    Given,
    /// Nothing was found to be asked for.
    NotAsked,
    /// There is none.
    Unreachable,
    /// It does not tell this user.
    NotPermitted,
    /// It could not.
    Failed,
}

/// A line for each find.
pub(super) fn lines(tokens: &[Known], finds: &[Find]) -> String {
    finds.iter().fold(String::new(), |text, find| text + &line(&tokens[find.token], find))
}

fn line(known: &Known, find: &Find) -> String {
    let name = clean(&find.source.name);
    let place = match find.place {
        Place::Name => format!("{name} (in its name)"),
        Place::Line { line, .. } => format!("{name}:{line}"),
        Place::Byte { offset } => format!("{name} (byte {offset})"),
        Place::Entry { at: Some(at) } => format!("{name} {}", absolute(at)),
        Place::Entry { at: None } => name.into_owned(),
    };
    let standing = match &known.standing {
        None => String::new(),
        Some(Standing::Unknown) => format!(" {}", ink(Ink::Dim, "unknown")),
        Some(Standing::Bait) => format!(" {} (bait: left alone)", ink(Ink::Bad, "canary")),
        Some(Standing::Is { state: now, subject, name }) => {
            format!(" {}, {} of {}", state(*now), clean(name), clean(subject))
        }
    };
    let times = if find.count > 1 { format!(", {} times", count(find.count)) } else { String::new() };
    format!("{place}: {}{standing}{times}\n", known.head)
}

/// The sentence at the end.
pub(super) fn summary(findings: &Findings, extent: Extent, live_only: bool) -> String {
    let mut shown = vec![false; findings.tokens.len()];
    findings.finds.iter().for_each(|find| shown[find.token] = true);
    let found = || findings.tokens.iter().zip(&shown).filter(|(_, shown)| **shown).map(|(known, _)| known);
    let all = found().count() as u64;
    let read = format!("{}, {}", plural(extent.files, "file"), bytes(extent.bytes));
    let kind = if live_only { "live token" } else { "token" };
    if all == 0 && findings.more == 0 {
        return format!("No {kind}s in {read}.\n");
    }
    let known = found().filter(|known| known.standing.is_some()).count();
    let live = found().filter(|known| known.standing.as_ref().is_some_and(Standing::live)).count() as u64;
    let of_them = if known > 0 && !live_only { format!(", {} live,", count(live)) } else { String::new() };
    let places = plural(findings.finds.len() as u64, "place");
    let mut text = format!("{}{of_them} in {places} of {read}.\n", plural(all, kind));
    if findings.more > 0 {
        text += &format!(
            "{} more are neither listed nor looked up: there is no room for them. Scan parts of it.\n",
            plural(findings.more, "find")
        );
    }
    text
}

/// A line for each thing that could not be read, as far as people read.
pub(super) fn unreadable(findings: &Findings) -> String {
    let mut text = String::new();
    for it in findings.unreadable.iter().take(UNREADABLE_SAID) {
        let why = it.why.split_whitespace().collect::<Vec<_>>().join(" ");
        text += &format!("{} can't read {}: {}\n", ink(Ink::Bad, "bearerctl:"), clean(&it.name), clean(&why));
    }
    let more = findings.unreadable_count.saturating_sub(UNREADABLE_SAID as u64);
    if more > 0 {
        text += &format!("{} can't read {} more\n", ink(Ink::Bad, "bearerctl:"), count(more));
    }
    text
}

/// One object (docs/json.md).
pub(super) fn json(findings: &Findings, extent: Extent, asked: Answer, revoking: bool) -> String {
    #[derive(Serialize)]
    struct Object<'a> {
        found: Vec<Row<'a>>,
        more: u64,
        files: u64,
        bytes: u64,
        skipped: u64,
        daemon: Answer,
        unreadable: Vec<Refused<'a>>,
        unreadable_count: u64,
    }
    #[derive(Serialize)]
    struct Row<'a> {
        head: &'a str,
        id: String,
        kind: &'static str,
        source: &'static str,
        path: Option<&'a str>,
        line: Option<u64>,
        offset: Option<u64>,
        at: Option<String>,
        count: u64,
        state: Option<&'static str>,
        live: Option<bool>,
        subject: Option<&'a str>,
        name: Option<&'a str>,
        revoked: Option<bool>,
    }
    #[derive(Serialize)]
    struct Refused<'a> {
        path: &'a str,
        reason: &'a str,
    }
    let found = findings.finds.iter().map(|find| {
        let known = &findings.tokens[find.token];
        let (line, offset, at) = match find.place {
            Place::Line { line, offset } => (Some(line), Some(offset), None),
            Place::Byte { offset } => (None, Some(offset), None),
            Place::Entry { at } => (None, None, at),
            Place::Name => (None, None, None),
        };
        let (subject, name) = match &known.standing {
            Some(Standing::Is { subject, name, .. }) => (Some(subject.as_str()), Some(name.as_str())),
            _ => (None, None),
        };
        Row {
            head: &known.head,
            id: known.id.to_string(),
            kind: known.kind.name(),
            source: match (find.source.kind, find.place) {
                (Kindred::File, Place::Name) => "name",
                (Kindred::File, _) => "file",
                (Kindred::Stdin, _) => "stdin",
                (Kindred::Journal, _) => "journal",
            },
            path: (find.source.kind == Kindred::File).then_some(find.source.name.as_str()),
            line,
            offset,
            at: at.map(|at| at.to_string()),
            count: find.count,
            state: known.standing.as_ref().map(Standing::name),
            live: known.standing.as_ref().map(Standing::live),
            subject,
            name,
            revoked: revoking.then_some(known.revoked),
        }
    });
    let unreadable = findings.unreadable.iter().map(|it| Refused { path: &it.name, reason: &it.why });
    let object = Object {
        found: found.collect(),
        more: findings.more,
        files: extent.files,
        bytes: extent.bytes,
        skipped: findings.skipped,
        daemon: asked,
        unreadable: unreadable.collect(),
        unreadable_count: findings.unreadable_count,
    };
    serde_json::to_string(&object).expect("own types with text keys serialise")
}
