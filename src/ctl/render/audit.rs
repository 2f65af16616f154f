//! Audit lines for people: one row each, in a layout that is fixed before the first line is known, so that what comes
//! later stands below what came before.

use serde_json::Value;

use super::grid::{Column, Fit, Layout};
use super::style::{Ink, clean, ink};
use super::when::{count, stamp};
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

/// The layout of the rows for a terminal.
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
    if let Some(times) = number("count").filter(|times| *times > 1) {
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
