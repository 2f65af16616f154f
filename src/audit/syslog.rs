//! Each line to syslog as well: RFC 3164 on `/dev/log`, facility authpriv, the message in logfmt.
//!
//! Invariant: it never blocks and never fails anything; what becomes of a datagram is said at once ([`Sent`]).
//! One record is one datagram without a newline, at most [`MESSAGE_MAX`] bytes, so that no peer can forge a second one.
//! The `syslog` crate formats; the socket is ours, because the crate's own never reconnects after a restart of syslog.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use syslog::{Facility, Formatter3164, LogFormat, Severity};

use super::chain::Seal;
use super::escape::{NAME_MAX, NOTE_MAX, visible};
use super::event::{AuditEvent, EventKind};
use super::text;
use crate::token::Kind;

/// Longest message, in bytes: what every syslog daemon takes whole.
const MESSAGE_MAX: usize = 2048;
/// Longest list of scopes in a message; the line in audit.log has them all.
const SCOPES_BYTES_MAX: usize = 512;
const SEVERITIES: [Severity; 3] = [Severity::LOG_NOTICE, Severity::LOG_WARNING, Severity::LOG_CRIT];

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is in the reader's queue.
    Taken,
    /// The queue is full.
    Full,
    /// Nobody is there to read.
    Nowhere,
}

/// The way to syslog.
pub(super) struct Syslog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    /// The socket knows whom it sends to: the name is looked up once a second, not for each line.
    connected: bool,
    formatter: Formatter3164,
    /// `<85>Nov 23 17:42:09 bearerd[814]: ` of each severity, and the second that they are of.
    headers: [Vec<u8>; 3],
    headers_of: Option<u64>,
    datagram: Vec<u8>,
}

impl Syslog {
    pub(super) fn new(path: PathBuf) -> Self {
        let formatter = Formatter3164 {
            facility: Facility::LOG_AUTHPRIV,
            hostname: None,
            process: "bearerd".to_owned(),
            pid: std::process::id(),
        };
        Self {
            path,
            socket: None,
            connected: false,
            formatter,
            headers: Default::default(),
            headers_of: None,
            datagram: Vec::new(),
        }
    }

    /// Sends an event that stands in the log as line `seq`.
    pub(super) fn event(&mut self, event: &AuditEvent, seq: u64, generation: u64) -> Sent {
        let severity = match event.event {
            EventKind::Canary | EventKind::Reuse => 2,
            EventKind::Deny | EventKind::Flood | EventKind::Gap | EventKind::Recovered => 1,
            _ => 0,
        };
        self.send(severity, |out| logfmt(event, seq, generation, out))
    }

    /// Sends what is fsynced to where the thief of this host can't reach it.
    pub(super) fn seal(&mut self, seal: &Seal) -> Sent {
        self.send(0, |out| {
            text::shown(
                format_args!("event=seal seq={} mac={} generation={}", seal.seq, seal.mac, seal.generation),
                out,
            );
        })
    }

    fn send(&mut self, severity: usize, message: impl FnOnce(&mut Vec<u8>)) -> Sent {
        self.freshen();
        self.datagram.clear();
        self.datagram.extend_from_slice(&self.headers[severity]);
        message(&mut self.datagram);
        // The second time to who listens now: syslog has been restarted.
        for _ in 0..2 {
            let sent = match (self.connect(), &self.socket) {
                (Ok(()), Some(socket)) => socket.send(&self.datagram),
                _ => return Sent::Nowhere,
            };
            match sent {
                Ok(_) => return Sent::Taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::Full,
                Err(_) => self.connected = false,
            }
        }
        Sent::Nowhere
    }

    fn connect(&mut self) -> io::Result<()> {
        if self.socket.is_none() {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            self.socket = Some(socket);
        }
        if let (false, Some(socket)) = (self.connected, &self.socket) {
            socket.connect(&self.path)?;
            self.connected = true;
        }
        Ok(())
    }

    /// The formatter takes longer than everything else here together, and its header changes once a second.
    fn freshen(&mut self) {
        let second = crate::time::wall_now().as_secs();
        if self.headers_of == Some(second) {
            return;
        }
        for (header, severity) in self.headers.iter_mut().zip(SEVERITIES) {
            header.clear();
            if self.formatter.format(&mut *header, severity, "").is_err() {
                header.clear();
            }
        }
        self.headers_of = Some(second);
        // Another one may listen at that name by now, though the old one still does.
        self.connected = false;
    }
}

/// `event=use outcome=active id=… subject=… seq=…`, absent fields left out.
fn logfmt(event: &AuditEvent, seq: u64, generation: u64, out: &mut Vec<u8>) {
    let generation = event.generation.unwrap_or(generation);
    let limit = out.len() + MESSAGE_MAX - end_len(generation, seq);
    let mut pairs = Pairs { out, limit };
    pairs.put(" event=", Some(event.event.name()), word);
    pairs.text(" outcome=", event.outcome.as_deref(), NAME_MAX);
    pairs.text(" reason=", event.reason.as_deref(), NAME_MAX);
    pairs.put(" id=", event.id, text::id);
    pairs.text(" name=", event.name.as_deref(), NAME_MAX);
    pairs.text(" subject=", event.subject.as_deref(), NAME_MAX);
    pairs.put(" kind=", event.kind.map(Kind::name), word);
    if let Some(peer) = &event.peer {
        pairs.put(" uid=", Some(peer.uid.into()), text::number);
        pairs.put(" gid=", Some(peer.gid.into()), text::number);
        pairs.put(" pid=", Some(peer.pid), text::signed);
        pairs.text(" unit=", peer.unit.as_deref(), NOTE_MAX);
        pairs.text(" container=", peer.container.as_deref(), NAME_MAX);
    }
    pairs.put(" from=", event.from, text::shown);
    pairs.put(" from_asserted=", event.from_asserted, text::shown);
    pairs.put(" count=", event.count, text::number);
    pairs.put(" first=", event.first, text::time);
    pairs.put(" last=", event.last, text::time);
    pairs.put(" cached=", event.cached, text::shown);
    pairs.text(" claimed_by=", event.claimed_by.as_deref(), NAME_MAX);
    pairs.text(" audience=", event.audience.as_deref(), NAME_MAX);
    pairs.scopes(event.scopes.as_deref());
    pairs.text(" note=", event.note.as_deref(), NOTE_MAX);
    out.extend_from_slice(b" generation=");
    text::number(generation, out);
    out.extend_from_slice(b" seq=");
    text::number(seq, out);
}

/// How long ` generation=… seq=…` is.
fn end_len(generation: u64, seq: u64) -> usize {
    let digits = |number: u64| number.checked_ilog10().unwrap_or(0) as usize + 1;
    " generation= seq=".len() + digits(generation) + digits(seq)
}

fn word(word: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(word.as_bytes());
}

/// Writes `key=value` pairs, quoted where they must be. A pair that no longer fits is left out whole, so that no value
/// looks complete that is not.
struct Pairs<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
}

impl Pairs<'_> {
    /// `key` begins with the space that parts it from what stands before, if anything does.
    fn put<T>(&mut self, key: &str, value: Option<T>, write: impl FnOnce(T, &mut Vec<u8>)) {
        let Some(value) = value else { return };
        let before = self.out.len();
        let parted = matches!(self.out.last(), None | Some(b' '));
        self.out.extend_from_slice(&key.as_bytes()[usize::from(parted)..]);
        write(value, self.out);
        if self.out.len() > self.limit {
            self.out.truncate(before);
        }
    }

    fn text(&mut self, key: &str, value: Option<&str>, max: usize) {
        self.put(key, value, |value, out| {
            if value.len() <= max && text::is_bare(value) {
                word(value, out);
            } else {
                quoted(&visible(value, max), out);
            }
        });
    }

    fn scopes(&mut self, scopes: Option<&[String]>) {
        self.put(" scopes=", scopes, |scopes, out| {
            let len: usize = scopes.iter().map(|scope| scope.len() + 1).sum();
            if scopes.is_empty() || len > SCOPES_BYTES_MAX || !scopes.iter().all(|scope| text::is_bare(scope)) {
                return quoted(&visible(&scopes.join(","), SCOPES_BYTES_MAX), out);
            }
            for (i, scope) in scopes.iter().enumerate() {
                word(if i == 0 { "" } else { "," }, out);
                word(scope, out);
            }
        });
    }
}

/// What is harmless already, in quotes if it needs them.
fn quoted(value: &str, out: &mut Vec<u8>) {
    if text::is_bare(value) {
        return word(value, out);
    }
    out.push(b'"');
    for c in value.bytes() {
        if matches!(c, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(c);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::fmt::{self, Write as _};

    use proptest::prelude::*;

    use super::*;
    use crate::peer::PeerLabel;
    use crate::time::UnixTime;
    use crate::token::TokenId;

    fn deny() -> AuditEvent {
        AuditEvent {
            outcome: Some("denied".into()),
            reason: Some("policy".into()),
            id: Some(TokenId::from_bytes([1; 16])),
            subject: Some("build bot \"x\"".to_owned()),
            peer: Some(PeerLabel { pid: 1, uid: 1000, gid: 100, unit: Some("ci.service".to_owned()), container: None }),
            scopes: Some(vec!["repo:read".to_owned(), "repo:write".to_owned()]),
            note: Some("a=b\nevent=use".to_owned()),
            ..AuditEvent::new(EventKind::Deny, UnixTime::EPOCH)
        }
    }

    #[test]
    fn one_event_is_one_line_of_pairs() {
        let mut out = Vec::new();
        logfmt(&deny(), 9, 4, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "event=deny outcome=denied reason=policy id=01040G2081040G2081040G2081 subject=\"build bot \\\"x\\\"\" \
             uid=1000 gid=100 pid=1 unit=ci.service scopes=repo:read,repo:write note=\"a=b\\\\x0aevent=use\" \
             generation=4 seq=9"
        );
    }

    #[test]
    fn a_message_is_capped_and_keeps_its_number() {
        let mut event = deny();
        let nasty = "\u{202e}\n\" ".repeat(300);
        event.name = Some(nasty.clone());
        event.scopes = Some(vec![nasty.clone(); 64]);
        event.claimed_by = Some(nasty.clone());
        event.audience = Some(nasty.clone());
        event.reason = Some(nasty.into());
        let mut out = Vec::new();
        logfmt(&event, u64::MAX, u64::MAX, &mut out);
        assert!(out.len() <= MESSAGE_MAX);
        let text = String::from_utf8(out).unwrap();
        assert!(text.ends_with(" generation=18446744073709551615 seq=18446744073709551615"));
        assert!(!text.contains(['\n', '\u{202e}']));
    }

    #[test]
    fn a_listener_hears_and_a_dead_or_stalled_one_blocks_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut syslog = Syslog::new(path.clone());
        assert_eq!(syslog.event(&deny(), 1, 0), Sent::Nowhere);

        let listener = UnixDatagram::bind(&path).unwrap();
        assert_eq!(syslog.event(&deny(), 2, 0), Sent::Taken, "it comes back by itself");
        let mut buffer = [0; 4096];
        let len = listener.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..len]).unwrap();
        // authpriv is 10, warning 4: 10 * 8 + 4.
        assert!(text.starts_with("<84>"), "{text}");
        assert!(text.contains(&format!(" bearerd[{}]: event=deny outcome=denied ", std::process::id())), "{text}");

        // Nobody reads: the queue fills, and that is said at once.
        assert!((0..5000).any(|_| syslog.event(&deny(), 3, 0) == Sent::Full));

        drop(listener);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(syslog.event(&deny(), 4, 0), Sent::Nowhere);
        let _again = UnixDatagram::bind(&path).unwrap();
        assert_eq!(syslog.event(&deny(), 5, 0), Sent::Taken, "a restart of syslog is survived");
    }

    /// The same message, each value by its own `Display`: slow, and plainly right.
    fn plainly(event: &AuditEvent, seq: u64, generation: u64, out: &mut Vec<u8>) {
        let end = format!(" generation={} seq={seq}", event.generation.unwrap_or(generation));
        let limit = out.len() + MESSAGE_MAX - end.len();
        let mut pairs = Plain { out, limit };
        pairs.plain("event", Some(event.event));
        pairs.text("outcome", event.outcome.as_deref(), NAME_MAX);
        pairs.text("reason", event.reason.as_deref(), NAME_MAX);
        pairs.plain("id", event.id);
        pairs.text("name", event.name.as_deref(), NAME_MAX);
        pairs.text("subject", event.subject.as_deref(), NAME_MAX);
        pairs.plain("kind", event.kind.map(Kind::name));
        if let Some(peer) = &event.peer {
            pairs.plain("uid", Some(peer.uid));
            pairs.plain("gid", Some(peer.gid));
            pairs.plain("pid", Some(peer.pid));
            pairs.text("unit", peer.unit.as_deref(), NOTE_MAX);
            pairs.text("container", peer.container.as_deref(), NAME_MAX);
        }
        pairs.plain("from", event.from);
        pairs.plain("from_asserted", event.from_asserted);
        pairs.plain("count", event.count);
        pairs.plain("first", event.first);
        pairs.plain("last", event.last);
        pairs.plain("cached", event.cached);
        pairs.text("claimed_by", event.claimed_by.as_deref(), NAME_MAX);
        pairs.text("audience", event.audience.as_deref(), NAME_MAX);
        pairs.text("scopes", event.scopes.as_ref().map(|scopes| scopes.join(",")).as_deref(), SCOPES_BYTES_MAX);
        pairs.text("note", event.note.as_deref(), NOTE_MAX);
        out.extend_from_slice(end.as_bytes());
    }

    /// Writes `key=value` pairs, quoted where they must be. A pair that no longer fits is left out whole, so that no value
    /// looks complete that is not.
    struct Plain<'a> {
        out: &'a mut Vec<u8>,
        limit: usize,
    }

    impl Plain<'_> {
        fn pair(&mut self, key: &str, write: impl FnOnce(&mut Vec<u8>)) {
            let before = self.out.len();
            if !self.out.is_empty() && !self.out.ends_with(b" ") {
                self.out.push(b' ');
            }
            self.out.extend_from_slice(key.as_bytes());
            self.out.push(b'=');
            write(self.out);
            if self.out.len() > self.limit {
                self.out.truncate(before);
            }
        }

        fn plain(&mut self, key: &str, value: Option<impl fmt::Display>) {
            if let Some(value) = value {
                self.pair(key, |out| {
                    let _ = write!(Utf8(out), "{value}");
                });
            }
        }

        fn text(&mut self, key: &str, value: Option<&str>, max: usize) {
            let Some(value) = value else { return };
            let value = visible(value, max);
            let bare = |c: u8| c.is_ascii_graphic() && !matches!(c, b'"' | b'=' | b'\\');
            self.pair(key, |out| {
                if !value.is_empty() && value.bytes().all(bare) {
                    out.extend_from_slice(value.as_bytes());
                    return;
                }
                out.push(b'"');
                for c in value.bytes() {
                    if matches!(c, b'"' | b'\\') {
                        out.push(b'\\');
                    }
                    out.push(c);
                }
                out.push(b'"');
            });
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_message_is_as_its_values_print(event in crate::audit::event::any_event(), seq in any::<u64>(), short in 0..9_u64) {
            for (header, seq, generation) in [("", seq, short), ("<84>bearerd: ", short, seq)] {
                let (mut message, mut plain) = (header.as_bytes().to_vec(), header.as_bytes().to_vec());
                logfmt(&event, seq, generation, &mut message);
                plainly(&event, seq, generation, &mut plain);
                prop_assert_eq!(String::from_utf8(message).unwrap(), String::from_utf8(plain).unwrap());
            }
        }
    }
}
