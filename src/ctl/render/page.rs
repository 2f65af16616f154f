//! Pages from JSON whose keys are not all known: what a newer daemon adds is shown too.

use serde_json::{Map, Value};

use super::grid::{self, Column, Fit};
use super::style::{Ink, clean, ink};
use super::token::card;
use super::when::{both, bytes, count};
use crate::time::UnixTime;

/// An object as a page: single values as a card, then objects and lists under their names.
pub fn page(object: &Map<String, Value>, now: UnixTime, room: Option<usize>) -> String {
    let single: Vec<(String, String)> = object
        .iter()
        .filter(|(_, value)| !value.is_null() && !has_parts(value))
        .map(|(key, value)| (words(key), keyed(key, value, now)))
        .collect();
    let lines: Vec<(&str, String)> = single.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    let mut text = if lines.is_empty() { String::new() } else { card(&lines, room) };
    for (key, value) in object.iter().filter(|(_, value)| has_parts(value)) {
        let body = match value {
            Value::Object(inner) => page(inner, now, room),
            Value::Array(rows) => table(rows, now, room),
            _ => unreachable!("only these have parts"),
        };
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("{}\n{body}", ink(Ink::Strong, &words(key))));
    }
    text
}

/// Rows that are objects, as a table with their keys as titles.
pub fn table(rows: &[Value], now: UnixTime, room: Option<usize>) -> String {
    let mut keys: Vec<&str> = Vec::new();
    for key in rows.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let cell = |row: &Value, key: &str| row.get(key).map_or_else(String::new, |value| keyed(key, value, now));
    let rows: Vec<Vec<String>> = rows.iter().map(|row| keys.iter().map(|key| cell(row, key)).collect()).collect();
    let titles: Vec<String> = keys.iter().map(|key| words(key).to_uppercase()).collect();
    let columns: Vec<Column> = titles
        .iter()
        .enumerate()
        .map(|(nth, _)| Column::new("", u8::try_from(nth).unwrap_or(u8::MAX), Fit::Shorten(8)))
        .collect();
    let mut all = vec![titles.iter().map(|title| ink(Ink::Dim, title)).collect()];
    all.extend(rows);
    // The titles are known only now, so they are the first row, and the line that titles would take is cut off.
    let text = grid::table(&columns, &all, room);
    text.split_once('\n').map_or_else(String::new, |(_, rows)| rows.to_owned())
}

/// A value by its key: numbers that name something are not counts.
pub fn keyed(key: &str, value: &Value, now: UnixTime) -> String {
    let names = ["uid", "gid", "pid", "seq", "line", "generation", "issuer_uid"].contains(&key);
    match value {
        Value::Number(number) if names => number.to_string(),
        Value::Number(number) if key.ends_with("bytes") => number.as_u64().map_or_else(|| number.to_string(), bytes),
        _ => scalar(value, now),
    }
}

/// A value in words: times with how long ago, numbers grouped.
pub fn scalar(value: &Value, now: UnixTime) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.as_u64().map_or_else(|| number.to_string(), count),
        // A name may look like many things, but not like RFC 3339 with microseconds.
        Value::String(text) if text.len() >= 20 && text.as_bytes()[10] == b'T' => match text.parse::<UnixTime>() {
            Ok(at) => both(at, now),
            Err(_) => clean(text).into_owned(),
        },
        Value::String(text) => clean(text).into_owned(),
        Value::Array(values) => values.iter().map(|value| scalar(value, now)).collect::<Vec<_>>().join(", "),
        Value::Object(object) => object
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| format!("{} {}", words(key), keyed(key, value, now)))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// `free_bytes` as people write it.
pub fn words(key: &str) -> String {
    clean(key).replace('_', " ")
}

fn has_parts(value: &Value) -> bool {
    match value {
        Value::Object(object) => !object.is_empty(),
        Value::Array(values) => values.iter().any(Value::is_object),
        _ => false,
    }
}
