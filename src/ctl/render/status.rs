//! The page of `bearerctl status`, and of `audit verify`.
//!
//! Sections and keys that are known get a sentence; what a newer daemon adds is shown beneath, so that nothing is
//! hidden by an older bearerctl.

use serde_json::{Map, Value};

use super::page::{keyed, page, scalar, words};
use super::style::{Ink, clean, ink};
use super::token::card;
use super::when::{absolute, bytes, count, plural, span};
use crate::time::UnixTime;

/// Takes known keys out of a section; the rest is shown as it is.
struct Section(Map<String, Value>);

impl Section {
    fn take(object: &mut Map<String, Value>, key: &str) -> Option<Self> {
        match object.remove(key)? {
            Value::Object(section) => Some(Self(section)),
            other => {
                object.insert(key.to_owned(), other);
                None
            }
        }
    }

    fn text(&mut self, key: &str) -> Option<String> {
        match self.0.remove(key)? {
            Value::String(text) => Some(clean(&text).into_owned()),
            Value::Null => None,
            other => Some(other.to_string()),
        }
    }

    fn number(&mut self, key: &str) -> Option<u64> {
        self.0.remove(key)?.as_u64()
    }

    fn flag(&mut self, key: &str) -> Option<bool> {
        self.0.remove(key)?.as_bool()
    }

    fn time(&mut self, key: &str) -> Option<UnixTime> {
        self.text(key)?.parse().ok()
    }

    fn rest(self, now: UnixTime) -> Option<String> {
        let rest: Vec<String> = self
            .0
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| format!("{}: {}", words(key), keyed(key, value, now)))
            .collect();
        (!rest.is_empty()).then(|| rest.join("; "))
    }
}

/// A sentence of what is there, with what is not left out.
fn sentence(parts: impl IntoIterator<Item = Option<String>>) -> String {
    parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

/// The daemon's status.
pub fn status(mut object: Map<String, Value>, now: UnixTime, room: Option<usize>) -> String {
    let mut text = title(&mut object, now);
    let mut lines: Vec<(&str, String)> = Vec::new();
    let mut section = |key: &'static str, said: Vec<String>, rest: Option<String>| {
        for (nth, line) in said.into_iter().chain(rest).filter(|line| !line.is_empty()).enumerate() {
            lines.push((if nth == 0 { key } else { "" }, line));
        }
    };
    if let Some(mut store) = Section::take(&mut object, "store") {
        let said = vec![
            store.text("path").unwrap_or_default(),
            sentence([
                store.number("tokens").map(|number| plural(number, "token")),
                store.number("expiring_7d").and_then(expiring),
                store.number("bytes").map(bytes),
                store.number("free_bytes").map(|free| format!("{} free in it", bytes(free))),
                store.number("disk_free_bytes").map(|free| format!("{} on its disk", bytes(free))),
                store.number("generation").map(|number| format!("generation {}", count(number))),
            ]),
            match store.flag("issue_ok") {
                Some(false) => ink(Ink::Bad, "no room to issue tokens; revoking goes on: make room on its disk"),
                _ => String::new(),
            },
        ];
        section("store", said, store.rest(now));
    }
    if let Some(mut key) = Section::take(&mut object, "key") {
        let kind = key.text("kind");
        let from = sentence([kind, key.text("origin"), key.text("slot").map(|slot| format!("slot {slot}"))]);
        let mut said = vec![from, key.text("note").map_or_else(String::new, |note| ink(Ink::Warn, &note))];
        said.extend(slots(&mut key));
        said.extend(resealing(&mut key));
        section("key", said, key.rest(now));
    }
    if let Some(mut audit) = Section::take(&mut object, "audit") {
        let file = audit.text("file").unwrap_or_default();
        let writable = match audit.flag("writable") {
            Some(true) => Some(ink(Ink::Good, "writable")),
            Some(false) => Some(ink(Ink::Bad, "NOT WRITABLE")),
            None => None,
        };
        let required = audit
            .flag("required")
            .map(|required| if required { "required".to_owned() } else { ink(Ink::Warn, "not required") });
        let log = sentence([
            writable,
            required,
            audit.number("lines").map(|lines| plural(lines, "line")),
            audit.number("seq").map(|seq| format!("newest seq {seq}")),
            audit.number("sealed_seq").map(|seq| format!("sealed to {seq}")),
            audit.number("free_bytes").map(|free| format!("{} free", bytes(free))),
        ]);
        let lost = |number: Option<u64>, what: &str| {
            number.filter(|number| *number > 0).map(|number| ink(Ink::Warn, &plural(number, what)))
        };
        let syslog = match audit.0.remove("syslog") {
            Some(Value::Bool(on)) => Some(if on { "syslog on" } else { "no syslog" }.to_owned()),
            Some(Value::String(path)) if path.is_empty() => Some("no syslog".to_owned()),
            Some(Value::String(path)) => Some(format!("syslog {}", clean(&path))),
            Some(Value::Null) => Some("no syslog".to_owned()),
            Some(other) => Some(format!("syslog {}", scalar(&other, now))),
            None => None,
        };
        let beside = sentence([
            syslog,
            lost(audit.number("syslog_dropped"), "dropped message"),
            lost(audit.number("gaps"), "gap"),
        ]);
        let fault = audit.text("fault").map_or_else(String::new, |fault| ink(Ink::Bad, &fault));
        // Why not stands in the fault.
        let _ = audit.flag("issue_ok");
        section("audit", vec![file, log, fault, beside], audit.rest(now));
    }
    if let Some(mut clock) = Section::take(&mut object, "clock") {
        let span_behind = clock.number("behind_secs").and_then(span);
        let synchronised = match clock.flag("synchronised") {
            Some(true) => Some("synchronised".to_owned()),
            Some(false) => Some(ink(Ink::Warn, "not synchronised")),
            None => None,
        };
        let unsettled = clock.flag("unsettled").unwrap_or(false);
        let behind = |span| format!("the wall clock is {span} behind it; once that is right: bearerctl clock reset");
        let said = vec![
            sentence([clock.time("now").map(absolute), synchronised]),
            span_behind.map(|span| ink(Ink::Warn, &behind(span))).unwrap_or_default(),
            if unsettled {
                ink(Ink::Warn, "it jumped forward, and is not believed for good yet")
            } else {
                String::new()
            },
        ];
        section("clock", said, clock.rest(now));
    }
    if let Some(mut caches) = Section::take(&mut object, "caches") {
        let state = caches.text("state").map(|state| match state.as_str() {
            "open" => "clients may keep verdicts".to_owned(),
            "ask" => ink(Ink::Warn, "clients are to ask each time, while uses can't be recorded"),
            other => format!("clients keep nothing ({other})"),
        });
        let told =
            caches.number("reported_uses").map(|uses| format!("{} told of since the start", plural(uses, "use")));
        section("caches", vec![sentence([state, told])], caches.rest(now));
    }
    if let Some(mut connections) = Section::take(&mut object, "connections") {
        let said = sentence([
            connections.number("now").map(|number| format!("{} now", count(number))),
            connections.number("refused").map(|number| format!("{} refused", count(number))),
        ]);
        section("connections", vec![said], connections.rest(now));
    }
    let warnings = warnings(&mut object);
    text.push_str(&card(&lines, room));
    if !object.is_empty() {
        text.push('\n');
        text.push_str(&page(&object, now, room));
    }
    text + &warnings
}

/// A line for each slot.
fn slots(key: &mut Section) -> Vec<String> {
    let Some(Value::Array(slots)) = key.0.remove("slots") else { return Vec::new() };
    let line = |slot: Value| {
        let mut slot = Section(slot.as_object().cloned().unwrap_or_default());
        let state = match (slot.flag("in_force"), slot.flag("pending")) {
            (Some(true), _) => Some("in force".to_owned()),
            (_, Some(true)) => Some(ink(Ink::Warn, "to be installed")),
            _ => None,
        };
        let made = slot.time("created_at").map(|at| format!("made {}", absolute(at)));
        sentence([slot.text("id").map(|id| format!("slot {id}")), slot.text("kind"), made, state])
    };
    slots.into_iter().map(line).collect()
}

/// The record key, and how far it has got where every value is being sealed under it.
fn resealing(key: &mut Section) -> Vec<String> {
    let epoch = key.number("record_epoch").map(|epoch| format!("record key {epoch}"));
    let Some(mut reseal) = Section::take(&mut key.0, "reseal") else {
        key.0.remove("reseal");
        return epoch.into_iter().collect();
    };
    let far = match (reseal.number("done"), reseal.number("total")) {
        (Some(done), Some(total)) => Some(format!("{} of {} sealed under it", count(done), plural(total, "value"))),
        _ => None,
    };
    let stands = (reseal.flag("running") == Some(false)).then(|| ink(Ink::Warn, "it does not go on"));
    let fault = reseal.text("fault").map(|fault| ink(Ink::Bad, &fault));
    vec![sentence([epoch, far, stands, fault])]
}

/// `3 expiring this week`; the daemon stops counting at 10,000.
fn expiring(number: u64) -> Option<String> {
    let more = if number >= 10_000 { " or more" } else { "" };
    (number > 0).then(|| format!("{}{more} expiring this week", count(number)))
}

fn title(object: &mut Map<String, Value>, now: UnixTime) -> String {
    let mut about = Section(std::mem::take(object));
    let version = about.text("version").map_or_else(String::new, |version| format!(" {version}"));
    let pid = about.number("pid").map(|pid| format!("pid {pid}"));
    // The daemon's own now: the two clocks may disagree, and that is said below.
    let daemon_now = about.time("now").unwrap_or(now);
    let up = about.time("started_at").map(|at| {
        let up = span(daemon_now.since(at).as_secs()).unwrap_or_else(|| "0 s".to_owned());
        format!("up {up} (since {})", absolute(at))
    });
    *object = about.0;
    let rest = sentence([pid, up]);
    let rest = if rest.is_empty() { rest } else { format!(", {rest}") };
    format!("{}{rest}\n\n", ink(Ink::Strong, &format!("bearerd{version}")))
}

fn warnings(object: &mut Map<String, Value>) -> String {
    match object.remove("warnings") {
        Some(Value::Array(list)) if list.is_empty() => format!("\n{}\n", ink(Ink::Good, "No warnings.")),
        Some(Value::Array(list)) => {
            let mut text = format!("\n{}\n", ink(Ink::Warn, &plural(list.len() as u64, "warning")));
            for warning in &list {
                let line = warning.as_str().map_or_else(|| warning.to_string(), |text| clean(text).into_owned());
                text.push_str(&format!("  {line}\n"));
            }
            text
        }
        Some(other) => {
            object.insert("warnings".to_owned(), other);
            String::new()
        }
        None => String::new(),
    }
}

/// What checking the chain found.
pub fn verify(mut object: Map<String, Value>, now: UnixTime, room: Option<usize>) -> String {
    let mut found = Section(std::mem::take(&mut object));
    let ok = found.flag("ok").unwrap_or(false);
    let lines = found.number("lines").map(|lines| plural(lines, "line"));
    let (files, number) = match found.0.remove("files") {
        Some(Value::Array(files)) => (files.clone(), files.len() as u64),
        Some(Value::Number(number)) => (Vec::new(), number.as_u64().unwrap_or(0)),
        _ => (Vec::new(), 0),
    };
    let sealed = found.number("sealed_seq").map(|seq| format!("up to seq {seq}"));
    let range = match (found.number("first_seq"), found.number("last_seq")) {
        (Some(first), Some(last)) => Some(format!("seq {first} to {last}")),
        _ => None,
    };
    let unsealed = found.number("unsealed_lines").filter(|lines| *lines > 0);
    let unsealed = unsealed.map(|lines| format!("{} since then", plural(lines, "line")));
    let bad = found.0.remove("first_bad").filter(|bad| !bad.is_null());
    let missing = found.number("missing_lines").unwrap_or(0);
    let segments =
        found.0.remove("segments").filter(|segments| segments.as_array().is_none_or(|list| !list.is_empty()));
    let mut text = if ok && missing == 0 && segments.is_none() {
        format!("{}: no line was removed, changed, swapped, inserted or cut off\n", ink(Ink::Good, "intact"))
    } else if ok {
        let what = match missing {
            0 => "the daemon says what is not in it (see below)".to_owned(),
            1 => "1 line is not in these files (see below)".to_owned(),
            _ => format!("{} lines are not in these files (see below)", count(missing)),
        };
        format!("{} as far as it goes: {what}\n", ink(Ink::Warn, "intact"))
    } else {
        let mut bad = Section(bad.and_then(|bad| bad.as_object().cloned()).unwrap_or_default());
        let class = bad.text("class").unwrap_or_else(|| "broken".to_owned());
        let at = sentence([
            bad.text("file"),
            bad.number("line").map(|line| format!("line {}", count(line))),
            bad.number("seq").map(|seq| format!("seq {seq}")),
        ]);
        let detail = bad.text("detail").map_or_else(String::new, |detail| format!("\n{detail}"));
        let at = if at.is_empty() { at } else { format!(" at {at}") };
        format!("{}{at}: {}{detail}\n", ink(Ink::Bad, "BROKEN"), damage(&class))
    };
    let size = sentence([lines, range, (number > 0).then(|| plural(number, "file"))]);
    let mut card_lines = vec![("checked", size), ("sealed", sentence([sealed, unsealed]))];
    for (nth, file) in files.iter().enumerate() {
        card_lines.push((if nth == 0 { "files" } else { "" }, scalar(file, now)));
    }
    card_lines.retain(|(_, value)| !value.is_empty());
    text.push_str(&card(&card_lines, room));
    let mut rest = found.0;
    if let Some(segments) = segments {
        rest.insert("segments".to_owned(), segments);
    }
    rest.retain(|_, value| !value.is_null());
    if !rest.is_empty() {
        text.push('\n');
        text.push_str(&page(&rest, now, room));
    }
    text
}

/// What was done to the log, for who has to find out who did it.
fn damage(class: &str) -> String {
    match class {
        "changed" => "the line is not as it was written",
        "mac_changed" => "the line's authentication code is not as it was written",
        "removed" => "the line that belongs here, and perhaps more after it, was removed",
        "inserted" => "a line that the daemon did not write stands here",
        "swapped" => "lines have changed places",
        "duplicated" => "a copy of another line stands here",
        "cut_tail" => "lines that were sealed are missing at the end",
        "torn_tail" => "the log ends in half a line, as after a power cut",
        "not_sealed" => "the lines fit each other, but not the seal: another history was put in place",
        other => return words(other),
    }
    .to_owned()
}
