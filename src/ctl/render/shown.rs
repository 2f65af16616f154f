//! What `show` prints: the token, who uses it, and whether the older of a rotation can be cut.

use serde::Serialize;

use super::json::{self, Token};
use super::style::{Ink, clean, ink};
use super::token::{self, card};
use super::when::{both, plural, relative};
use crate::protocol::message::{Relative, Shown, State, UsesBy};
use crate::time::UnixTime;

#[derive(Serialize)]
struct Object<'a> {
    #[serde(flatten)]
    info: Token<'a>,
    uses_by: Vec<User<'a>>,
    safe_to_cut: Option<bool>,
    relatives: Vec<Neighbour<'a>>,
}

#[derive(Serialize)]
struct Neighbour<'a> {
    id: String,
    head: Option<&'a str>,
    state: &'static str,
    safe_to_cut: Option<bool>,
    uses_by: Vec<User<'a>>,
}

#[derive(Serialize)]
struct User<'a> {
    unit: Option<&'a str>,
    uid: u32,
    at: String,
    count: u64,
}

/// The object that programs read.
pub fn json(shown: &Shown) -> String {
    let relatives = shown.relatives.iter().map(|relative| Neighbour {
        id: relative.id.to_string(),
        head: relative.head.as_deref(),
        state: relative.state.name(),
        safe_to_cut: relative.safe_to_cut,
        uses_by: users(&relative.uses_by),
    });
    json::to_text(&Object {
        info: Token::of(&shown.info),
        uses_by: users(&shown.uses_by),
        safe_to_cut: shown.safe_to_cut,
        relatives: relatives.collect(),
    })
}

fn users(by: &[UsesBy]) -> Vec<User<'_>> {
    by.iter().map(|by| User { unit: by.unit.as_deref(), uid: by.uid, at: by.at.to_string(), count: by.count }).collect()
}

/// The card of the token, with a sentence for each of the others.
pub fn show(shown: &Shown, now: UnixTime, room: Option<usize>) -> String {
    let mut text = token::show(&shown.info, now, room);
    let mut lines: Vec<(&str, String)> = Vec::new();
    // Of one user the card above says all.
    if shown.uses_by.len() > 1 {
        for (nth, by) in shown.uses_by.iter().enumerate() {
            lines.push((if nth == 0 { "through" } else { "" }, user(by, now)));
        }
    }
    let facts = &shown.info.facts;
    let other = |id| shown.relatives.iter().find(|relative| Some(relative.id) == id);
    if let Some(old) = other(facts.predecessor) {
        lines.push(("old one", format!("{} ({})", old.id, token::state(old.state))));
        if !old.state.ended() {
            lines.push(("", cut(old.safe_to_cut, &old.uses_by, &shown.uses_by, now)));
        }
    }
    if let Some(new) = other(facts.successor) {
        lines.push(("new one", format!("{} ({}), {}", new.id, token::state(new.state), last_of(new, now))));
        if shown.info.state == State::Rotating {
            lines.push(("this one", cut(shown.safe_to_cut, &shown.uses_by, &new.uses_by, now)));
        }
    }
    if !lines.is_empty() {
        text.push('\n');
        text.push_str(&card(&lines, room));
    }
    text
}

fn last_of(relative: &Relative, now: UnixTime) -> String {
    relative.uses_by.first().map_or_else(|| "not used yet".to_owned(), |by| format!("used by {}", user(by, now)))
}

/// Whether the old one can be cut, and if not, because of whom.
fn cut(safe: Option<bool>, old: &[UsesBy], new: &[UsesBy], now: UnixTime) -> String {
    if safe == Some(true) {
        let since = old.first().map_or_else(String::new, |by| format!(" since {}", both(by.at, now)));
        return ink(Ink::Good, &format!("nobody uses the old one{since}: safe to cut"));
    }
    if new.is_empty() {
        return ink(Ink::Warn, "not safe to cut: the new one is not used yet");
    }
    let behind = old.iter().filter(|by| {
        let moved = new.iter().any(|other| other.uid == by.uid && other.unit == by.unit && other.at > by.at);
        !moved
    });
    let behind: Vec<String> = behind.map(|by| user(by, now)).collect();
    let who = if behind.is_empty() { "others that are not remembered any more".to_owned() } else { behind.join("; ") };
    ink(Ink::Warn, &format!("not safe to cut: still used by {who}"))
}

fn user(by: &UsesBy, now: UnixTime) -> String {
    let when = relative(by.at, now);
    let often = plural(by.count, "use");
    match &by.unit {
        Some(unit) => format!("{} (uid {}), {when}, {often}", clean(unit), by.uid),
        None => format!("uid {}, {when}, {often}", by.uid),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{now, tokens};
    use super::*;
    use crate::ctl::render::style::resolve;

    fn by(unit: &str, secs_ago: u64) -> UsesBy {
        let at = now().saturating_sub(std::time::Duration::from_secs(secs_ago));
        UsesBy { unit: Some(unit.into()), uid: 34, at, count: 2 }
    }

    /// A new token with its predecessor beside it.
    fn rotated(old: Vec<UsesBy>, new: Vec<UsesBy>, safe: bool) -> Shown {
        let mut tokens = tokens();
        let id = tokens.remove(0).facts.id;
        let mut info = tokens.remove(0);
        info.facts.predecessor = Some(id);
        let old = Relative { id, head: None, state: State::Rotating, safe_to_cut: Some(safe), uses_by: old };
        Shown { info, uses_by: new, safe_to_cut: None, relatives: vec![old] }
    }

    fn text(shown: &Shown) -> String {
        resolve(&show(shown, now(), None), false).into_owned()
    }

    #[test]
    fn it_says_who_still_uses_the_old_one() {
        let behind =
            rotated(vec![by("backup.service", 180), by("web.service", 900)], vec![by("web.service", 60)], false);
        assert!(
            text(&behind).contains("not safe to cut: still used by backup.service (uid 34), 3 min ago, 2 uses\n"),
            "{}",
            text(&behind)
        );
        let unused = rotated(vec![by("backup.service", 180)], Vec::new(), false);
        assert!(text(&unused).contains("not safe to cut: the new one is not used yet"));
        let moved = rotated(vec![by("backup.service", 180)], vec![by("backup.service", 60)], true);
        assert!(text(&moved).contains("nobody uses the old one since 2026-11-23 17:"), "{}", text(&moved));
        assert!(text(&moved).contains("(3 min ago): safe to cut"), "{}", text(&moved));
    }

    #[test]
    fn json_has_all_of_it() {
        let shown = rotated(vec![by("a.service", 180)], vec![by("b\u{1b}.service", 60)], false);
        let object: serde_json::Value = serde_json::from_str(&json(&shown)).unwrap();
        assert_eq!(object["id"], shown.info.facts.id.to_string());
        assert_eq!(object["safe_to_cut"], serde_json::Value::Null);
        assert_eq!(object["uses_by"][0]["count"], 2);
        assert_eq!(object["uses_by"][0]["unit"], "b\u{1b}.service");
        let old = &object["relatives"][0];
        assert_eq!((&old["state"], &old["safe_to_cut"]), (&"rotating".into(), &false.into()));
        assert_eq!(old["head"], serde_json::Value::Null);
        assert_eq!((&old["uses_by"][0]["uid"], old["uses_by"].as_array().unwrap().len()), (&34.into(), 1));
        assert!(!text(&shown).contains('\u{1b}'), "what others wrote is shown, not obeyed");
    }
}
