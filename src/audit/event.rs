//! [`AuditEvent`]: what happened, to which token, who did it. Its two encodings: postcard for the store's outbox and
//! one JSON object for a line of audit.log.
//!
//! Invariant: a line never holds a secret (no field can), and never a character of a peer's that could break the line or
//! a terminal (`escape.rs`). The order of the keys is fixed, absent is null, and `mac` is last, because the chain's MAC
//! covers the raw bytes before it. Layout: `docs/file-format.md`.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::escape::{NAME_MAX, NOTE_MAX, ORDER_NOTE_MAX};
use super::text;
use crate::codec::{self, CodecError};
use crate::peer::PeerLabel;
use crate::scope::SCOPES_MAX;
use crate::time::UnixTime;
use crate::token::{Kind, TokenId};

/// Longest line that is ever written: 64 hostile scopes of 128 bytes, each byte written as five, and the rest.
pub(super) const LINE_MAX: usize = 64 * 1024;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),+ $(,)?) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum EventKind { $($(#[$doc])* $variant),+ }

        impl EventKind {
            /// All of them, for completion and help.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in lines, filters and syslog.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

kinds! {
    /// A token was made.
    Issue = "issue",
    /// A token of another system was taken in.
    Import = "import",
    /// A token's name, labels or restrictions changed.
    Edit = "edit",
    /// A token's expiry moved.
    Renew = "renew",
    /// A token got a successor.
    Rotate = "rotate",
    /// A token was ended.
    Revoke = "revoke",
    /// A token was put on hold.
    Suspend = "suspend",
    /// A held token is good again.
    Resume = "resume",
    /// A token's time ran out.
    Expire = "expire",
    /// A token's time will run out.
    Warn = "warn",
    /// A token was shown and was good.
    Use = "use",
    /// A token was refused, or a peer was.
    Deny = "deny",
    /// A bait was shown: someone has what nobody should have.
    Canary = "canary",
    /// A rotated-out token was shown.
    Reuse = "reuse",
    /// The policy changed.
    Policy = "policy",
    /// What is fsynced, said to syslog; in the log, where the chain goes on in a new file.
    Seal = "seal",
    /// The tail of the log was torn, and is cut off.
    Recovered = "recovered",
    /// Refusals beyond a uid's budget of lines.
    Flood = "flood",
    /// The daemon started.
    Start = "start",
    /// The daemon stops.
    Stop = "stop",
    /// The configuration was read again.
    Reload = "reload",
    /// A key slot or a record key changed.
    Rekey = "rekey",
    /// The clock was reset, or did something odd.
    Clock = "clock",
    /// Something is missing in the log, or did not reach syslog: what, and how much.
    Gap = "gap",
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EventKind {
    type Err = UnknownEvent;

    fn from_str(text: &str) -> Result<Self, UnknownEvent> {
        Self::ALL.iter().copied().find(|kind| kind.name() == text).ok_or(UnknownEvent)
    }
}

/// A word that names no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an event (issue, use, deny, revoke and so on; see bearerctl audit --help)")]
pub struct UnknownEvent;

/// One event, before it has its place in the chain (`seq` and `mac` come when its line is appended).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// When it happened.
    pub time: UnixTime,
    /// What.
    pub event: EventKind,
    /// How it ended: `active`, `inactive`, `done`, `denied`, …
    pub outcome: Option<Cow<'static, str>>,
    /// Why: a reason's name, or what a person gave as one.
    pub reason: Option<Cow<'static, str>>,
    /// The token.
    pub id: Option<TokenId>,
    /// The token's name.
    pub name: Option<String>,
    /// Whom the token stands for.
    pub subject: Option<String>,
    /// The token's kind.
    pub kind: Option<Kind>,
    /// Scopes: granted, or asked for.
    pub scopes: Option<Vec<String>>,
    /// The audience asked for.
    pub audience: Option<String>,
    /// Who asked, as the kernel says it.
    pub peer: Option<PeerLabel>,
    /// The client's address as the peer gave it.
    pub from: Option<IpAddr>,
    /// Whether a rule lets this peer assert addresses; false: its word was not relied on.
    pub from_asserted: Option<bool>,
    /// The peer's own remark.
    pub note: Option<String>,
    /// How many events this line stands for.
    pub count: Option<u64>,
    /// The first of them.
    pub first: Option<UnixTime>,
    /// The last of them.
    pub last: Option<UnixTime>,
    /// Answered from a client's cache.
    pub cached: Option<bool>,
    /// Who reported that.
    pub claimed_by: Option<String>,
    /// The generation of the store that this change made; other lines get the newest durable one when written.
    pub generation: Option<u64>,
}

/// The encodings in the outbox that this version reads. An unknown one is refused, never skipped.
#[derive(Serialize, Deserialize)]
enum Versioned<T> {
    V1(T),
}

impl AuditEvent {
    /// An event with all but its kind and time absent.
    pub const fn new(event: EventKind, time: UnixTime) -> Self {
        Self {
            time,
            event,
            outcome: None,
            reason: None,
            id: None,
            name: None,
            subject: None,
            kind: None,
            scopes: None,
            audience: None,
            peer: None,
            from: None,
            from_asserted: None,
            note: None,
            count: None,
            first: None,
            last: None,
            cached: None,
            claimed_by: None,
            generation: None,
        }
    }

    /// For the store's outbox.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&Versioned::V1(self))
    }

    /// From the store's outbox.
    ///
    /// # Errors
    /// When the bytes are no event, or of a version that this one does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let Versioned::V1(event) = codec::decode::<Versioned<Self>>(bytes)?;
        Ok(event)
    }

    /// The event by itself, outside the chain: its line without a MAC, and with its own generation for a number.
    pub fn to_json(&self, seq: u64) -> String {
        let mut line = Vec::with_capacity(512);
        self.write_body(seq, seq, &mut line);
        line.push(b'}');
        // Only text is ever written to it.
        String::from_utf8(line).unwrap_or_default()
    }

    /// Whether it is about all tokens that a filter means: then its note is what was ordered, and stands whole. Such a
    /// line has no scopes, which could take as much room.
    fn is_order(&self) -> bool {
        let many = matches!(self.event, EventKind::Revoke | EventKind::Suspend | EventKind::Resume);
        many && self.id.is_none() && self.scopes.is_none()
    }

    /// About how much memory it holds, in bytes: what the queue is bounded by.
    pub(super) fn weight(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let word = |word: &Option<Cow<'static, str>>| word.as_ref().map_or(0, |word| word.len());
        let scopes = self.scopes.as_ref().map_or(0, |scopes| scopes.iter().map(|scope| scope.len() + 24).sum());
        let peer = self.peer.as_ref().map_or(0, |peer| text(&peer.unit) + text(&peer.container));
        size_of::<Self>()
            + scopes
            + peer
            + word(&self.outcome)
            + word(&self.reason)
            + text(&self.name)
            + text(&self.subject)
            + text(&self.audience)
            + text(&self.note)
            + text(&self.claimed_by)
    }

    /// Appends the line up to where `,"mac":"` follows: the bytes that the MAC covers.
    pub(super) fn write_body(&self, seq: u64, generation: u64, out: &mut Vec<u8>) {
        // What most lines take, so that the buffer seldom grows in the middle of one.
        out.reserve(1024);
        let mut line = Line(out);
        line.raw("{\"time\":\"");
        text::time(self.time, line.0);
        line.raw("\",\"seq\":");
        text::number(seq, line.0);
        line.raw(",\"event\":\"");
        line.raw(self.event.name());
        line.raw("\",\"outcome\":");
        line.text(self.outcome.as_deref(), NAME_MAX);
        line.raw(",\"reason\":");
        line.text(self.reason.as_deref(), NOTE_MAX);
        line.raw(",\"id\":");
        line.quoted(self.id, text::id);
        line.raw(",\"name\":");
        line.text(self.name.as_deref(), NAME_MAX);
        line.raw(",\"subject\":");
        line.text(self.subject.as_deref(), NAME_MAX);
        line.raw(",\"kind\":");
        line.text(self.kind.map(Kind::name), NAME_MAX);
        line.raw(",\"scopes\":");
        match &self.scopes {
            None => line.raw("null"),
            Some(scopes) => {
                for (i, scope) in scopes.iter().take(SCOPES_MAX).enumerate() {
                    line.raw(if i == 0 { "[" } else { "," });
                    text::json(scope, NAME_MAX, line.0);
                }
                line.raw(if scopes.is_empty() { "[]" } else { "]" });
            }
        }
        line.raw(",\"audience\":");
        line.text(self.audience.as_deref(), NAME_MAX);
        line.raw(",\"peer\":");
        match &self.peer {
            None => line.raw("null"),
            Some(peer) => {
                line.raw("{\"pid\":");
                text::signed(peer.pid, line.0);
                line.raw(",\"uid\":");
                text::number(peer.uid.into(), line.0);
                line.raw(",\"gid\":");
                text::number(peer.gid.into(), line.0);
                line.raw(",\"unit\":");
                line.text(peer.unit.as_deref(), NOTE_MAX);
                line.raw(",\"container\":");
                line.text(peer.container.as_deref(), NOTE_MAX);
                line.raw("}");
            }
        }
        line.raw(",\"from\":");
        line.quoted(self.from, text::shown);
        line.raw(",\"from_asserted\":");
        line.raw(word(self.from_asserted));
        line.raw(",\"note\":");
        line.text(self.note.as_deref(), if self.is_order() { ORDER_NOTE_MAX } else { NOTE_MAX });
        line.raw(",\"count\":");
        match self.count {
            Some(count) => text::number(count, line.0),
            None => line.raw("null"),
        }
        line.raw(",\"first\":");
        line.quoted(self.first, text::time);
        line.raw(",\"last\":");
        line.quoted(self.last, text::time);
        line.raw(",\"cached\":");
        line.raw(word(self.cached));
        line.raw(",\"claimed_by\":");
        line.text(self.claimed_by.as_deref(), NAME_MAX);
        line.raw(",\"generation\":");
        text::number(self.generation.unwrap_or(generation), line.0);
    }
}

/// Writes the values of one object; the keys are the caller's.
struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    fn text(&mut self, value: Option<&str>, max: usize) {
        match value {
            Some(value) => text::json(value, max, self.0),
            None => self.raw("null"),
        }
    }

    /// For what prints without anything that JSON would escape: ids, times, addresses.
    fn quoted<T>(&mut self, value: Option<T>, write: impl FnOnce(T, &mut Vec<u8>)) {
        match value {
            Some(value) => {
                self.raw("\"");
                write(value, self.0);
                self.raw("\"");
            }
            None => self.raw("null"),
        }
    }
}

fn word(value: Option<bool>) -> &'static str {
    match value {
        Some(true) => "true",
        Some(false) => "false",
        None => "null",
    }
}

#[cfg(test)]
pub(super) use tests::any_event;

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;
    use crate::audit::escape::visible;

    /// The same line, each value by its own `Display` and `serde_json`: slow, and plainly right.
    fn plainly(event: &AuditEvent, seq: u64, generation: u64, out: &mut Vec<u8>) {
        let mut line = Plain { out, first: true };
        line.value("time", format_args!("\"{}\"", event.time));
        line.value("seq", seq);
        line.value("event", format_args!("\"{}\"", event.event.name()));
        line.text("outcome", event.outcome.as_deref(), NAME_MAX);
        line.text("reason", event.reason.as_deref(), NOTE_MAX);
        line.quoted("id", event.id);
        line.text("name", event.name.as_deref(), NAME_MAX);
        line.text("subject", event.subject.as_deref(), NAME_MAX);
        line.text("kind", event.kind.map(Kind::name), NAME_MAX);
        line.key("scopes");
        match &event.scopes {
            None => line.raw("null"),
            Some(scopes) => {
                for (i, scope) in scopes.iter().take(SCOPES_MAX).enumerate() {
                    line.raw(if i == 0 { "[" } else { "," });
                    line.string(scope, NAME_MAX);
                }
                line.raw(if scopes.is_empty() { "[]" } else { "]" });
            }
        }
        line.text("audience", event.audience.as_deref(), NAME_MAX);
        line.key("peer");
        match &event.peer {
            None => line.raw("null"),
            Some(peer) => {
                line.open();
                line.value("pid", peer.pid);
                line.value("uid", peer.uid);
                line.value("gid", peer.gid);
                line.text("unit", peer.unit.as_deref(), NOTE_MAX);
                line.text("container", peer.container.as_deref(), NOTE_MAX);
                line.raw("}");
            }
        }
        line.quoted("from", event.from);
        line.plain("from_asserted", event.from_asserted);
        line.text("note", event.note.as_deref(), if event.is_order() { ORDER_NOTE_MAX } else { NOTE_MAX });
        line.plain("count", event.count);
        line.quoted("first", event.first);
        line.quoted("last", event.last);
        line.plain("cached", event.cached);
        line.text("claimed_by", event.claimed_by.as_deref(), NAME_MAX);
        line.value("generation", event.generation.unwrap_or(generation));
    }

    /// Writes one object's keys and values in the order in which they are called for.
    struct Plain<'a> {
        out: &'a mut Vec<u8>,
        first: bool,
    }

    impl Plain<'_> {
        fn raw(&mut self, text: &str) {
            self.out.extend_from_slice(text.as_bytes());
        }

        fn open(&mut self) {
            self.first = true;
        }

        fn key(&mut self, key: &str) {
            self.raw(if self.first { "{\"" } else { ",\"" });
            self.first = false;
            self.raw(key);
            self.raw("\":");
        }

        fn value(&mut self, key: &str, value: impl fmt::Display) {
            self.key(key);
            let _ = write!(Utf8(self.out), "{value}");
        }

        fn plain(&mut self, key: &str, value: Option<impl fmt::Display>) {
            match value {
                Some(value) => self.value(key, value),
                None => self.value(key, "null"),
            }
        }

        /// For what prints without anything that JSON would escape: ids, times, addresses.
        fn quoted(&mut self, key: &str, value: Option<impl fmt::Display>) {
            match value {
                Some(value) => self.value(key, format_args!("\"{value}\"")),
                None => self.value(key, "null"),
            }
        }

        fn text(&mut self, key: &str, value: Option<&str>, max: usize) {
            self.key(key);
            match value {
                Some(value) => self.string(value, max),
                None => self.raw("null"),
            }
        }

        fn string(&mut self, value: &str, max: usize) {
            serde_json::to_writer(&mut *self.out, &*visible(value, max)).expect("a string into a Vec");
        }
    }

    /// `fmt::Write` onto bytes.
    struct Utf8<'a>(&'a mut Vec<u8>);

    impl fmt::Write for Utf8<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }

    fn hostile() -> AuditEvent {
        let nasty = "\u{202e}\n\x1b]0;x\x07\"\\\u{9b}".repeat(200);
        let peer = PeerLabel {
            pid: -1,
            uid: u32::MAX,
            gid: u32::MAX,
            unit: Some(nasty.clone()),
            container: Some(nasty.clone()),
        };
        AuditEvent {
            outcome: Some(nasty.clone().into()),
            reason: Some(nasty.clone().into()),
            id: Some(TokenId::from_bytes([7; 16])),
            name: Some(nasty.clone()),
            subject: Some(nasty.clone()),
            kind: Some(Kind::Machine),
            scopes: Some(vec![nasty.clone(); 100]),
            audience: Some(nasty.clone()),
            peer: Some(peer),
            from: Some("2001:db8::1".parse().unwrap()),
            from_asserted: Some(false),
            note: Some(nasty.clone()),
            count: Some(u64::MAX),
            first: Some(UnixTime::EPOCH),
            last: Some(UnixTime::MAX),
            cached: Some(true),
            claimed_by: Some(nasty),
            generation: Some(u64::MAX),
            ..AuditEvent::new(EventKind::Deny, UnixTime::MAX)
        }
    }

    fn body(event: &AuditEvent) -> String {
        let mut out = Vec::new();
        event.write_body(7, 42, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_keys_stand_in_their_order_and_absent_is_null() {
        let event = AuditEvent::new(EventKind::Start, UnixTime::from_micros(1_764_000_000_000_001));
        assert_eq!(
            body(&event),
            "{\"time\":\"2025-11-24T16:00:00.000001Z\",\"seq\":7,\"event\":\"start\",\"outcome\":null,\"reason\":null,\
             \"id\":null,\"name\":null,\"subject\":null,\"kind\":null,\"scopes\":null,\"audience\":null,\"peer\":null,\
             \"from\":null,\"from_asserted\":null,\"note\":null,\"count\":null,\"first\":null,\"last\":null,\
             \"cached\":null,\"claimed_by\":null,\"generation\":42"
        );
        let mut full = hostile();
        full.scopes = Some(vec![]);
        let keys = |text: &str| text.matches("\":").count();
        assert_eq!(keys(&body(&full)), keys(&body(&event)) + 5, "a peer adds its five keys");
    }

    #[test]
    fn an_event_by_itself_has_the_keys_of_its_line_without_the_mac() {
        let event = AuditEvent { generation: Some(42), ..AuditEvent::new(EventKind::Start, UnixTime::EPOCH) };
        let text = event.to_json(42);
        assert_eq!(text, body(&event).replace("\"seq\":7", "\"seq\":42") + "}");
        let value: serde_json::Value = serde_json::from_str(&hostile().to_json(9)).unwrap();
        assert_eq!((value["seq"].as_u64(), value.as_object().unwrap().get("mac")), (Some(9), None));
    }

    #[test]
    fn hostile_text_neither_breaks_a_line_nor_makes_it_longer_than_the_limit() {
        let text = body(&hostile()) + "}";
        assert!(text.len() + 80 < LINE_MAX, "{}", text.len());
        assert!(!text.contains(['\n', '\x1b', '\u{202e}', '\u{9b}']));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["scopes"].as_array().unwrap().len(), SCOPES_MAX);
        for key in ["outcome", "reason", "name", "subject", "audience", "note", "claimed_by"] {
            let shown = value[key].as_str().unwrap();
            assert!(shown.starts_with("\\u{202e}\\x0a\\x1b]0;x\\x07\"\\\\u{9b}"), "{key}: {shown}");
        }
    }

    #[test]
    fn the_outbox_form_comes_back_whole_and_strict() {
        for event in [hostile(), AuditEvent::new(EventKind::Gap, UnixTime::EPOCH)] {
            let bytes = event.encode();
            assert_eq!(AuditEvent::decode(&bytes), Ok(event));
            assert!(AuditEvent::decode(&bytes[..bytes.len() - 1]).is_err());
            let mut newer = bytes;
            newer[0] = 1;
            assert!(AuditEvent::decode(&newer).is_err(), "an unknown version is refused");
        }
    }

    #[test]
    fn names_parse_back() {
        for kind in EventKind::ALL {
            assert_eq!(kind.name().parse(), Ok(*kind));
        }
        assert_eq!("USE".parse::<EventKind>(), Err(UnknownEvent));
        assert_eq!(EventKind::ALL.len(), 24);
    }

    pub(crate) fn any_event() -> impl Strategy<Value = AuditEvent> {
        let text = || proptest::option::of("(\\PC|[ -~]|[\"\\\\\n\u{202e}]){0,150}");
        let time = || (0..=UnixTime::MAX.as_micros()).prop_map(UnixTime::from_micros);
        let words = (text(), text(), text(), text(), text(), text(), text());
        let peer = (any::<i32>(), any::<u32>(), any::<u32>(), text(), text());
        let peer = peer.prop_map(|(pid, uid, gid, unit, container)| PeerLabel { pid, uid, gid, unit, container });
        let scopes = proptest::option::of(proptest::collection::vec("[a-z:\"é]{0,140}", 0..70));
        let numbers = (any::<Option<u64>>(), any::<Option<u64>>(), any::<Option<bool>>(), any::<Option<bool>>());
        let times = (time(), proptest::option::of(time()), proptest::option::of(time()));
        let rest = (any::<Option<[u8; 16]>>(), any::<Option<IpAddr>>(), proptest::sample::select(EventKind::ALL));
        (words, proptest::option::of(peer), scopes, numbers, times, rest, any::<bool>()).prop_map(
            |(
                (outcome, reason, name, subject, audience, note, claimed_by),
                peer,
                scopes,
                numbers,
                times,
                rest,
                kind,
            )| {
                AuditEvent {
                    time: times.0,
                    event: rest.2,
                    outcome: outcome.map(Cow::Owned),
                    reason: reason.map(Cow::Owned),
                    id: rest.0.map(TokenId::from_bytes),
                    name,
                    subject,
                    kind: kind.then_some(Kind::Machine),
                    scopes,
                    audience,
                    peer,
                    from: rest.1,
                    from_asserted: numbers.2,
                    note,
                    count: numbers.0,
                    first: times.1,
                    last: times.2,
                    cached: numbers.3,
                    claimed_by,
                    generation: numbers.1,
                }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_line_is_as_its_values_print(event in any_event(), seq in any::<u64>(), generation in any::<u64>()) {
            let (mut line, mut plain) = (b"before".to_vec(), b"before".to_vec());
            event.write_body(seq, generation, &mut line);
            plainly(&event, seq, generation, &mut plain);
            prop_assert_eq!(String::from_utf8(line).unwrap(), String::from_utf8(plain).unwrap());
        }
    }
}
