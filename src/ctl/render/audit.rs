//! Audit lines for people: one row each. What comes line by line has a layout that is fixed before the first is known, so
//! that what comes later stands below what came before.

use serde_json::{Map, Value};

use super::grid::{self, Column, Fit, Layout};
use super::page::page;
use super::style::{Ink, clean, ink};
use super::when::{count, relative, stamp};
use crate::time::UnixTime;

const COLUMNS: [Column; 8] = [
    Column::new("TIME", 0, Fit::Whole),
    Column::new("EVENT", 0, Fit::Shorten(15)),
    Column::new("NAME", 0, Fit::Shorten(8)),
    Column::new("ID", 2, Fit::Cut(16)),
    Column::new("THROUGH", 1, Fit::Shorten(10)),
    Column::new("FROM", 3, Fit::Shorten(9)),
    Column::new("SUBJECT", 4, Fit::Shorten(8)),
    Column::new("REMARK", 1, Fit::Shorten(9)),
];
/// What the columns get when there is room enough. The last takes what is left.
const NATURAL: [usize; 8] = [11, 22, 22, 26, 24, 25, 16, 12];
/// Longest remark without a terminal: a note and a reason at their limits.
const REMARK_MAX: usize = 600;

/// Lines that are there all at once, in the layout that suits them. What is no JSON object follows as it is, cleaned.
pub fn table(lines: &[String], now: UnixTime, room: Option<usize>) -> String {
    let events = lines.iter().map(|line| serde_json::from_str::<Value>(line).ok().filter(Value::is_object));
    let (events, others): (Vec<_>, Vec<_>) = events.zip(lines).partition(|(event, _)| event.is_some());
    let rows: Vec<Vec<String>> = events.iter().filter_map(|(event, _)| Some(cells(event.as_ref()?, now))).collect();
    let others: String = others.iter().map(|(_, line)| format!("{}\n", clean(line))).collect();
    grid::table(&COLUMNS, &rows, room) + &others
}

/// The layout of rows that come one by one.
pub struct Rows {
    layout: Layout,
}

impl Rows {
    /// A layout for so many columns; without a terminal nothing is left out.
    pub fn new(room: Option<usize>) -> Self {
        // A remark is free text: without a terminal it may be as long as it is, and it is last, so nothing moves.
        let mut natural = NATURAL;
        let (last, others) = natural.split_last_mut().expect("there are columns");
        let others: usize = others.iter().map(|columns| columns + 2).sum();
        *last = room.map_or(REMARK_MAX, |room| room.saturating_sub(others).max(*last));
        Self { layout: Layout::new(&COLUMNS, &natural, room) }
    }

    /// The titles.
    pub fn header(&self) -> String {
        self.layout.header()
    }

    /// A line of the log. What is no JSON object is shown as it is, cleaned.
    pub fn row(&self, line: &str, now: UnixTime) -> String {
        match serde_json::from_str::<Value>(line) {
            Ok(event @ Value::Object(_)) => self.layout.rows(&[cells(&event, now)]),
            _ => format!("{}\n", clean(line)),
        }
    }
}

fn cells(event: &Value, now: UnixTime) -> Vec<String> {
    let text = |key: &str| event.get(key).and_then(Value::as_str).map(|text| clean(text).into_owned());
    let time = text("time").and_then(|time| time.parse::<UnixTime>().ok());
    let reason = text("reason").unwrap_or_default();
    vec![
        ink(Ink::Dim, &time.map_or_else(|| "?".to_owned(), |at| stamp(at, now))),
        what(&text("event").unwrap_or_default(), &text("outcome").unwrap_or_default(), &reason),
        text("name").unwrap_or_default(),
        text("id").unwrap_or_default(),
        peer(event),
        from(event),
        text("subject").unwrap_or_default(),
        remark(event, &reason),
    ]
}

/// Reasons of validation are words of a fixed list; a reason of a revocation is what somebody wrote.
fn reason_is_code(reason: &str) -> bool {
    crate::protocol::code::Reason::ALL.iter().any(|code| code.name() == reason)
}

/// Event and outcome in one: `use active`, `use insufficient_scope`, `revoke`. That it was done is the rule.
fn what(event: &str, outcome: &str, reason: &str) -> String {
    let coloured = match event {
        "revoke" | "suspend" | "canary" | "reuse" | "deny" | "flood" | "gap" | "recovered" => ink(Ink::Warn, event),
        "issue" | "import" | "rotate" | "renew" | "resume" => ink(Ink::Strong, event),
        "seal" | "start" | "stop" | "reload" => ink(Ink::Dim, event),
        _ => event.to_owned(),
    };
    let (colour, said) = match outcome {
        "done" | "ok" | "" => return coloured,
        "active" => (Ink::Good, outcome),
        // A use of bait is an event of its own, and what was recovered needs saying once.
        _ if reason == event || outcome == event => return coloured,
        _ if reason_is_code(reason) => (Ink::Bad, reason),
        _ => (Ink::Bad, outcome),
    };
    format!("{coloured} {}", ink(colour, said))
}

/// The service that asked, else the user.
fn peer(event: &Value) -> String {
    let Some(peer) = event.get("peer").filter(|peer| peer.is_object()) else { return String::new() };
    let text = |key: &str| peer.get(key).and_then(Value::as_str).map(|text| clean(text).into_owned());
    let uid = peer.get("uid").and_then(Value::as_u64).map(|uid| format!("uid {uid}"));
    text("unit").or_else(|| text("container")).or(uid).unwrap_or_default()
}

/// The client's address; one that the peer was not allowed to say is in brackets.
fn from(event: &Value) -> String {
    let Some(from) = event.get("from").and_then(Value::as_str) else { return String::new() };
    let believed = event.get("from_asserted").and_then(Value::as_bool).unwrap_or(true);
    if believed { clean(from).into_owned() } else { format!("[{}]", clean(from)) }
}

fn remark(event: &Value, reason: &str) -> String {
    let number = |key: &str| event.get(key).and_then(Value::as_u64);
    let mut parts: Vec<String> = Vec::new();
    // Of these it counts bytes and lines that are gone, and the note says which.
    let repeats = !matches!(event.get("event").and_then(Value::as_str), Some("recovered" | "gap"));
    if let Some(times) = number("count").filter(|times| repeats && *times > 1) {
        parts.push(format!("× {}", count(times)));
    }
    if event.get("cached").and_then(Value::as_bool) == Some(true) {
        parts.push("cached".to_owned());
    }
    if !reason.is_empty() && !reason_is_code(reason) {
        parts.push(reason.to_owned());
    }
    if let Some(note) = event.get("note").and_then(Value::as_str) {
        parts.push(clean(note).into_owned());
    }
    parts.join(", ")
}

/// Who used a token: a row for each unit, user and address, the last used first.
pub fn summary(mut object: Map<String, Value>, now: UnixTime, room: Option<usize>) -> String {
    let rows = match object.remove("rows") {
        Some(Value::Array(rows)) => rows,
        Some(other) => {
            object.insert("rows".to_owned(), other);
            Vec::new()
        }
        None => Vec::new(),
    };
    let columns = [
        Column::new("THROUGH", 0, Fit::Shorten(10)),
        Column::new("FROM", 1, Fit::Shorten(9)),
        Column::new("GOOD", 0, Fit::Whole),
        Column::new("REFUSED", 0, Fit::Shorten(8)),
        Column::new("FIRST", 2, Fit::Whole),
        Column::new("LAST", 0, Fit::Whole),
        Column::new("SUBJECT", 3, Fit::Shorten(8)),
    ];
    let cells: Vec<Vec<String>> = rows.iter().map(|row| summary_cells(row, now)).collect();
    let table = if cells.is_empty() { "Never used.\n".to_owned() } else { grid::table(&columns, &cells, room) };
    let more = object.remove("truncated").and_then(|more| more.as_bool()).unwrap_or(false);
    let more = if more { ink(Ink::Warn, "There were more, which are not counted here.\n") } else { String::new() };
    object.retain(|_, value| !value.is_null());
    let about = if object.is_empty() { String::new() } else { page(&object, now, room) + "\n" };
    about + &table + &more
}

fn summary_cells(row: &Value, now: UnixTime) -> Vec<String> {
    let text = |key: &str| row.get(key).and_then(Value::as_str).map(|text| clean(text).into_owned());
    let number = |key: &str| row.get(key).and_then(Value::as_u64).unwrap_or(0);
    let when = |key: &str| match text(key).and_then(|text| text.parse().ok()) {
        Some(at) => relative(at, now),
        None => text(key).unwrap_or_default(),
    };
    let reasons = row.get("reasons").and_then(Value::as_object).map(|reasons| {
        let named = reasons.iter().map(|(reason, times)| format!("{} {}", times, clean(reason)));
        named.collect::<Vec<_>>().join(", ")
    });
    let refused = number("count").saturating_sub(number("active"));
    let refused = match reasons.filter(|reasons| !reasons.is_empty()) {
        Some(reasons) => ink(Ink::Warn, &reasons),
        None if refused > 0 => ink(Ink::Warn, &count(refused)),
        None => String::new(),
    };
    let uid = row.get("uid").and_then(Value::as_u64).map(|uid| format!("uid {uid}"));
    vec![
        text("unit").or(uid).unwrap_or_default(),
        text("from").unwrap_or_default(),
        count(number("active")),
        refused,
        when("first"),
        when("last"),
        text("subject").unwrap_or_default(),
    ]
}
