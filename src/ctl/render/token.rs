//! Tokens for people: the card of one, the table of many, the sentence of a verdict.

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};

use super::grid::{self, Column, Fit};
use super::json::rate;
use super::style::{Ink, clean, ink};
use super::when::{absolute, both, count, plural, relative};
use crate::protocol::code::Reason;
use crate::protocol::message::{Changed, Rotated, State, TokenInfo, Verdict};
use crate::time::{UnixTime, format_duration};
use crate::token::{Kind, TokenId};

/// Characters of an id that a table shows at least when it has no room for all: the time of issue and 26 random bits.
const ID_SHORT: usize = 16;
/// Ids named in a sentence; more are only counted.
const IDS_NAMED: usize = 20;

/// A state in its colour.
pub fn state(state: State) -> String {
    let colour = match state {
        State::Active => Ink::Good,
        State::Revoked | State::Canary => Ink::Bad,
        State::Suspended | State::NotYetValid | State::Rotating => Ink::Warn,
        State::Expired | State::Rotated | State::Exhausted => Ink::Dim,
    };
    ink(colour, state.name())
}

/// Keys and values, the values aligned; long ones are wrapped at words.
pub fn card(lines: &[(&str, String)], room: Option<usize>) -> String {
    let keys = lines.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if let Some(room) = room {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(u16::try_from(room).unwrap_or(u16::MAX));
    }
    for (key, value) in lines {
        table.add_row([ink(Ink::Dim, key), value.clone()]);
    }
    if let Some(column) = table.column_mut(0) {
        column.set_padding((0, 2));
        column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(u16::try_from(keys + 2).unwrap_or(u16::MAX))));
    }
    if let Some(column) = table.column_mut(1) {
        column.set_padding((0, 0));
    }
    table.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

/// What a person who was just given a token wants to know of it.
pub fn issued(info: &TokenInfo, now: UnixTime, room: Option<usize>) -> String {
    let facts = &info.facts;
    let mut lines = vec![
        ("id", facts.id.to_string()),
        ("name", clean(&facts.name).into_owned()),
        ("kind", facts.kind.to_string()),
        ("subject", clean(&facts.subject).into_owned()),
    ];
    if facts.kind == Kind::Canary {
        lines.push(("good for", "nothing: any use of it raises an alert".to_owned()));
    } else {
        let none = ink(Ink::Warn, "none: it is good only where none is asked for");
        lines.push(("scopes", if facts.scopes.is_empty() { none } else { words(&facts.scopes) }));
    }
    if let Some(at) = facts.not_before.filter(|at| *at > now) {
        lines.push(("good from", both(at, now)));
    }
    lines.push(("expires", facts.expires_at.map_or_else(|| "never".to_owned(), |at| both(at, now))));
    restrictions(info, &mut lines);
    let title = ink(Ink::Strong, "Shown this once, and kept nowhere: store it now.");
    format!("{title}\n{}", card(&lines, room))
}

/// All that is known of a token, without what is absent.
pub fn show(info: &TokenInfo, now: UnixTime, room: Option<usize>) -> String {
    let facts = &info.facts;
    let text = |text: &str| clean(text).into_owned();
    let mut lines = vec![("id", facts.id.to_string())];
    let mut add = |key, value: Option<String>| lines.extend(value.map(|value| (key, value)));
    add("head", facts.head.as_deref().map(text));
    add("name", Some(text(&facts.name)));
    add("kind", Some(facts.kind.to_string()));
    add("state", Some(state(info.state)));
    add("subject", Some(text(&facts.subject)));
    add("scopes", Some(if facts.scopes.is_empty() { ink(Ink::Dim, "none") } else { words(&facts.scopes) }));
    add("issued", Some(both(facts.issued_at, now)));
    add("issued by", Some(format!("{} (uid {})", clean(&facts.issuer), facts.issuer_uid)));
    add("profile", facts.profile.as_deref().map(text));
    add("good from", facts.not_before.map(|at| both(at, now)));
    add("expires", Some(facts.expires_at.map_or_else(|| "never".to_owned(), |at| both(at, now))));
    add("renewable to", facts.max_expires_at.filter(|at| Some(*at) != facts.expires_at).map(|at| both(at, now)));
    add("ttl", facts.ttl.map(format_duration));
    restrictions(info, &mut lines);
    let mut add = |key, value: Option<String>| lines.extend(value.map(|value| (key, value)));
    let labels: Vec<String> = facts.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    add("labels", (!labels.is_empty()).then(|| words(&labels)));
    add("family", (facts.family != facts.id).then(|| facts.family.to_string()));
    add("predecessor", facts.predecessor.map(|id| id.to_string()));
    add("successor", facts.successor.map(|id| id.to_string()));
    add("revoked", facts.revoked_at.map(|at| ink(Ink::Bad, &both(at, now))));
    add("reason", facts.revoked_reason.as_deref().map(text));
    let last = info.last_used.as_ref();
    add("last used", Some(last.map_or_else(|| ink(Ink::Dim, "never"), |used| both(used.at, now))));
    add(
        "used by",
        last.map(|used| {
            let unit = used.unit.as_deref().map_or_else(String::new, |unit| format!("{}, ", clean(unit)));
            let from = used.from.map_or_else(String::new, |from| format!(", from {from}"));
            format!("{unit}uid {}{from}; {} in all", used.uid, plural(used.count, "use"))
        }),
    );
    card(&lines, room)
}

/// Where, through what and how often a token is good: what is not restricted is not mentioned.
fn restrictions(info: &TokenInfo, lines: &mut Vec<(&'static str, String)>) {
    let facts = &info.facts;
    let mut list = |key, words_of: &[String]| {
        if !words_of.is_empty() {
            lines.push((key, words(words_of)));
        }
    };
    list("audiences", &facts.audiences);
    list("only from", &facts.allow_from);
    list("only units", &facts.allow_units);
    list("only uids", &facts.allow_uids.iter().map(u32::to_string).collect::<Vec<_>>());
    if let Some(max) = facts.max_uses {
        let left = facts.uses_left.map_or_else(|| "?".to_owned(), count);
        lines.push(("uses left", format!("{left} of {}", count(max))));
    }
    if let Some(at_most) = &facts.rate {
        lines.push(("rate", rate(at_most)));
    }
}

fn words<S: AsRef<str>>(words: &[S]) -> String {
    words.iter().map(|word| clean(word.as_ref()).into_owned()).collect::<Vec<_>>().join(", ")
}

/// A page of tokens.
pub fn list(tokens: &[TokenInfo], now: UnixTime, room: Option<usize>) -> String {
    let columns = [
        Column::new("ID", 0, Fit::Cut(distinct(tokens))),
        Column::new("NAME", 0, Fit::Shorten(8)).wish(20),
        Column::new("STATE", 0, Fit::Whole),
        Column::new("ENDS", 1, Fit::Whole),
        Column::new("LAST USED", 2, Fit::Whole),
        Column::new("SUBJECT", 3, Fit::Shorten(8)),
        Column::new("SCOPES", 4, Fit::Shorten(9)).wish(14),
        Column::new("KIND", 5, Fit::Whole),
        Column::new("THROUGH", 6, Fit::Shorten(10)),
        Column::new("USES LEFT", 7, Fit::Whole),
        Column::new("ISSUER", 8, Fit::Shorten(8)),
        Column::new("LABELS", 9, Fit::Shorten(10)),
    ];
    let rows: Vec<Vec<String>> = tokens.iter().map(|info| row(info, now)).collect();
    grid::table(&columns, &rows, room)
}

fn row(info: &TokenInfo, now: UnixTime) -> Vec<String> {
    let facts = &info.facts;
    let dim = |text: &str| ink(Ink::Dim, text);
    let ends = match (info.state, facts.expires_at) {
        (State::Revoked, _) => facts.revoked_at.map_or_else(String::new, |at| dim(&relative(at, now))),
        (_, None) => dim("never"),
        (state, Some(at)) if state.ended() => dim(&relative(at, now)),
        // A week is when somebody should do something about it.
        (_, Some(at)) if at.since(now).as_secs() < 7 * 86_400 && facts.kind == Kind::Machine => {
            ink(Ink::Warn, &relative(at, now))
        }
        (_, Some(at)) => relative(at, now),
    };
    let used = info.last_used.as_ref();
    vec![
        facts.id.to_string(),
        clean(&facts.name).into_owned(),
        state(info.state),
        ends,
        used.map_or_else(|| dim("never"), |used| relative(used.at, now)),
        clean(&facts.subject).into_owned(),
        if facts.scopes.is_empty() { dim("none") } else { words(&facts.scopes) },
        facts.kind.to_string(),
        used.map_or_else(String::new, |used| {
            used.unit.as_deref().map_or_else(|| format!("uid {}", used.uid), |unit| clean(unit).into_owned())
        }),
        facts.uses_left.map_or_else(String::new, count),
        clean(&facts.issuer).into_owned(),
        words(&facts.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()),
    ]
}

/// How many characters tell the ids of a page apart, and [`ID_SHORT`] at least. Tokens of one millisecond share more.
fn distinct(tokens: &[TokenInfo]) -> usize {
    let mut ids: Vec<String> = tokens.iter().map(|info| info.facts.id.to_string()).collect();
    ids.sort_unstable();
    // In order, those that share most stand side by side.
    let shared = |pair: &[String]| pair[0].bytes().zip(pair[1].bytes()).take_while(|(a, b)| a == b).count();
    ids.windows(2).map(|pair| shared(pair) + 1).max().unwrap_or(0).max(ID_SHORT)
}

/// A verdict in a sentence.
pub fn verdict(verdict: &Verdict, now: UnixTime) -> String {
    let about = verdict.token.as_deref().map(|info| {
        let facts = &info.facts;
        format!("{} ({} of {})", clean(&facts.name), facts.id, clean(&facts.subject))
    });
    if verdict.active {
        let ends = verdict.token.as_deref().and_then(|info| {
            let uses = info.facts.uses_left.map(|left| format!(", {} left", plural(left, "use")));
            let expires = info.facts.expires_at.map(|at| format!(", expires {}", relative(at, now)));
            Some(expires.unwrap_or_default() + &uses.unwrap_or_default()).filter(|text| !text.is_empty())
        });
        let about = about.map_or_else(String::new, |about| format!(": {about}"));
        return format!("{}{about}{}\n", ink(Ink::Good, "active"), ends.unwrap_or_default());
    }
    let why = verdict.reason.map_or_else(|| "no reason given".to_owned(), |reason| because(reason, verdict, now));
    let about = about.map_or_else(String::new, |about| format!("\n  {about}"));
    format!("{}: {why}{about}\n", ink(Ink::Bad, "not active"))
}

fn because(reason: Reason, verdict: &Verdict, now: UnixTime) -> String {
    let facts = verdict.token.as_deref().map(|info| &info.facts);
    let when = |at: Option<UnixTime>| at.map_or_else(String::new, |at| format!(" {}", relative(at, now)));
    let more = match reason {
        Reason::Malformed => "this is no token, or a damaged one".to_owned(),
        Reason::Unknown => "there is no such token".to_owned(),
        Reason::Revoked => {
            let why = facts.and_then(|facts| facts.revoked_reason.as_deref());
            let why = why.map_or_else(String::new, |why| format!(": {}", clean(why)));
            format!("it was ended{}{why}", when(facts.and_then(|facts| facts.revoked_at)))
        }
        Reason::Suspended => "it is held until it is resumed".to_owned(),
        Reason::Rotated => {
            let successor = facts.and_then(|facts| facts.successor);
            successor.map_or_else(|| "its successor took over".to_owned(), |id| format!("{id} took over"))
        }
        Reason::Expired => format!("its time ended{}", when(facts.and_then(|facts| facts.expires_at))),
        Reason::NotYetValid => format!("it is good{}", when(facts.and_then(|facts| facts.not_before))),
        Reason::Canary => "it is bait, and this use raised an alert".to_owned(),
        Reason::WrongPeer => "it is not good through this service or user".to_owned(),
        Reason::WrongNetwork => "it is not good from this address".to_owned(),
        Reason::WrongAudience => "it is for another service".to_owned(),
        Reason::InsufficientScope => format!("missing {}", words(&verdict.missing_scopes)),
        Reason::RateLimited => "it was used too often just now".to_owned(),
        Reason::Exhausted => "all its uses are spent".to_owned(),
    };
    format!("{} ({more})", reason.name())
}

/// The words of one kind of change.
pub struct Words {
    /// `revoke`.
    verb: &'static str,
    /// `Revoked`.
    done: &'static str,
    /// Why nothing was to be done.
    nothing: &'static str,
    /// What it means for one.
    one: &'static str,
    /// For several.
    several: &'static str,
    /// Of those that were so before.
    before: &'static str,
}

/// Those of a revocation.
pub const REVOKED: Words = Words {
    verb: "revoke",
    done: "Revoked",
    nothing: "already revoked",
    one: "It is refused from now on.",
    several: "refused from now on",
    before: "revoked before already",
};

/// Those of suspend.
pub const SUSPENDED: Words = Words {
    verb: "suspend",
    done: "Suspended",
    nothing: "suspended already, or ended",
    one: "It is refused until it is resumed.",
    several: "refused until they are resumed",
    before: "suspended already, or had ended",
};

/// Those of resume.
pub const RESUMED: Words = Words {
    verb: "resume",
    done: "Resumed",
    nothing: "not suspended",
    one: "It is held no longer.",
    several: "held no longer",
    before: "not suspended",
};

/// What a change did, or would do. `named` is how many tokens were named for it.
pub fn changed(changed: &Changed, named: usize, words: &Words) -> String {
    let Words { verb, done, nothing, one, several, before } = words;
    let mut text = match (changed.count, changed.dry_run) {
        (0, true) => format!("Nothing to {verb}: {nothing}.\n"),
        (0, false) => format!("Nothing changed: {nothing}.\n"),
        (number, true) => format!("Would {verb} {}:\n{}", plural(number, "token"), ids(&changed.ids, number)),
        (1, false) if changed.ids.len() == 1 => format!("{done} {}. {one}\n", changed.ids[0]),
        (number, false) => format!("{done} {}, {several}:\n{}", plural(number, "token"), ids(&changed.ids, number)),
    };
    let already = (named as u64).saturating_sub(changed.count);
    if already > 0 && changed.count > 0 {
        let number = if already == 1 { "1 was".to_owned() } else { format!("{} were", count(already)) };
        text.push_str(&format!("{number} {before}.\n"));
    }
    if !changed.still_good.is_empty() {
        let heading = ink(Ink::Warn, "Still good, of the same family:");
        text.push_str(&format!("{heading}\n{}", ids(&changed.still_good, changed.still_good.len() as u64)));
    }
    text
}

/// What a person who just rotated a token wants to know, of the new one and of the old one.
pub fn rotated(rotated: &Rotated, now: UnixTime, room: Option<usize>) -> String {
    let mut text = issued(&rotated.info, now, room);
    let Some(old) = rotated.info.facts.predecessor else { return text };
    text.push_str(&match rotated.predecessor_ends_at {
        Some(at) if at > rotated.info.facts.issued_at => format!(
            "The old one, {old}, stays good until {} after the new one's first use, and no longer than {}.\n",
            format_duration(rotated.grace),
            both(at, now)
        ),
        _ => format!("{}\n", ink(Ink::Warn, &format!("The old one, {old}, has ended."))),
    });
    if let Some(id) = rotated.replaced {
        text.push_str(&format!("{id}, which was never used, is replaced and has ended.\n"));
    }
    if let Some(id) = rotated.ended {
        text.push_str(&format!("{id}, from which {old} had taken over, has ended now.\n"));
    }
    text
}

fn ids(ids: &[TokenId], number: u64) -> String {
    let named = ids.len().min(IDS_NAMED);
    let mut text: String = ids[..named].iter().map(|id| format!("  {id}\n")).collect();
    if number > named as u64 {
        text.push_str(&format!("  and {} more\n", count(number - named as u64)));
    }
    text
}

/// What a listing that was cut off says.
pub fn more(next: TokenId) -> String {
    format!("More: bearerctl list … --after {next}\n")
}

/// The time that counts after a reset.
pub fn reset(at: UnixTime) -> String {
    format!("The time that counts is now {}.\n", absolute(at))
}
