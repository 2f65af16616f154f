//! The bytes of every message, pinned: `tests/vectors/messages.tsv`, and what is refused:
//! `tests/vectors/messages-refused.tsv`. The worked examples of `docs/protocol.md` are read and compared too.
//!
//! A line of the vectors is never changed: old programs speak it. A new message adds lines, which the failing test
//! prints.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use bearerd::codec::{self, CodecError};
use bearerd::protocol::code::{ErrorCode, Reason};
use bearerd::protocol::frame::{self, Direction, FrameError};
use bearerd::protocol::message::{
    Answer, Ask, AuditLines, AuditQuery, BackupAsk, BackupPiece, Cacheable, Changed, Chosen, ClientHello, Condition,
    Edit, Ends, Event, Events, Failure, Filter, Foreign, Handle, Hold, ImportEntry, ImportOutcome, Issue, Issued,
    LastUsed, List, Rate, Rekey, RekeyProgress, Rekeyed, Relative, Reply, Request, Revoke, Rotate, Rotated, SecretText,
    ServerHello, Shown, Stamped, State, TokenFacts, TokenInfo, Tokens, UseReport, UsesBy, Validate, Verdict, Watch,
    Which,
};
use bearerd::protocol::{FLAG_PAGE, MAGIC, REQUEST_MAX};
use bearerd::time::UnixTime;
use bearerd::token::{Kind, TokenId};

/// The vector of the token format (`docs/token-format.md`).
const TOKEN: &str = "brdm_01M844DZG0FAY828T5CY4TQKFF_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf2b9MjO";

fn id() -> TokenId {
    "01M844DZG0FAY828T5CY4TQKFF".parse().unwrap()
}

fn other_id() -> TokenId {
    TokenId::from_bytes([0x01, 0xa2, 0x08, 0x46, 0xfe, 0, 0x7a, 0xbc, 0x81, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xf0])
}

fn client_hello() -> ClientHello {
    ClientHello { magic: MAGIC, version_min: 1, version_max: 1, flags: 0 }
}

fn server_hello() -> ServerHello {
    ServerHello {
        magic: MAGIC,
        version: 1,
        flags: 0,
        request_max: 65_536,
        in_flight_max: 256,
        batch_max: 256,
        boottime_micros: 3_600_000_000,
    }
}

fn validate() -> Validate<'static> {
    Validate {
        token: TOKEN,
        scopes: vec!["backup:write"],
        audience: Some("backup"),
        from: Some("192.0.2.7".parse().unwrap()),
        note: None,
        peek: false,
    }
}

fn validate_full() -> Validate<'static> {
    Validate {
        token: TOKEN,
        scopes: vec!["a", "b:c"],
        audience: Some("x"),
        from: Some("2001:db8::7".parse().unwrap()),
        note: Some("n"),
        peek: true,
    }
}

fn issue() -> Issue {
    Issue {
        name: "nightly".into(),
        scopes: vec!["backup:*".into()],
        ttl: Some(Duration::from_secs(30 * 86_400)),
        ..Issue::default()
    }
}

fn issue_full() -> Issue {
    Issue {
        name: "n".into(),
        kind: Some(Kind::Session),
        subject: Some("s".into()),
        scopes: vec!["a".into(), "*".into()],
        audiences: vec!["x".into()],
        ttl: Some(Duration::from_millis(1500)),
        not_before: Some(UnixTime::from_micros(1_790_000_000_000_001)),
        max_uses: Some(u64::MAX),
        rate: Some(Rate { count: 100, per: Duration::from_secs(60) }),
        allow_from: vec!["192.0.2.0/24".into()],
        allow_units: vec!["backup.service".into()],
        allow_uids: vec![0, u32::MAX],
        labels: [("env".to_owned(), "prod".to_owned()), ("team".to_owned(), String::new())].into(),
        profile: Some("ci".into()),
    }
}

fn facts() -> TokenFacts {
    TokenFacts {
        id: id(),
        head: Some("brdm_01M844DZG0FAY828T5CY4TQKFF".into()),
        kind: Kind::Machine,
        name: "nightly".into(),
        subject: "nightly".into(),
        issuer: "root".into(),
        issuer_uid: 0,
        scopes: vec!["backup:*".into()],
        audiences: Vec::new(),
        issued_at: UnixTime::from_secs(1_796_000_000),
        not_before: None,
        expires_at: Some(UnixTime::from_secs(1_798_592_000)),
        max_expires_at: Some(UnixTime::from_secs(1_827_622_400)),
        ttl: Some(Duration::from_secs(30 * 86_400)),
        labels: BTreeMap::new(),
        profile: None,
        max_uses: None,
        uses_left: None,
        rate: None,
        allow_from: Vec::new(),
        allow_units: Vec::new(),
        allow_uids: Vec::new(),
        family: id(),
        predecessor: None,
        successor: None,
        revoked_at: None,
        revoked_reason: None,
    }
}

fn info() -> TokenInfo {
    TokenInfo { facts: facts(), state: State::Active, last_used: None }
}

fn info_full() -> TokenInfo {
    TokenInfo {
        facts: TokenFacts {
            head: None,
            kind: Kind::Session,
            issuer_uid: 1000,
            audiences: vec!["x".into()],
            not_before: Some(UnixTime::from_secs(1_796_000_001)),
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            profile: Some("ci".into()),
            max_uses: Some(300),
            uses_left: Some(1),
            rate: Some(Rate { count: 100, per: Duration::from_secs(60) }),
            allow_from: vec!["2001:db8::/32".into()],
            allow_units: vec!["backup.service".into()],
            allow_uids: vec![1000],
            predecessor: Some(other_id()),
            successor: Some(other_id()),
            revoked_at: Some(UnixTime::MAX),
            revoked_reason: Some("left".into()),
            ..facts()
        },
        state: State::Revoked,
        last_used: Some(LastUsed {
            at: UnixTime::from_secs(1_796_000_100),
            unit: Some("backup.service".into()),
            uid: 1000,
            from: Some("192.0.2.7".parse().unwrap()),
            count: 12_345,
        }),
    }
}

fn inactive(reason: Reason, missing: &[&str]) -> Verdict {
    let missing_scopes = missing.iter().map(|&scope| scope.to_owned()).collect();
    Verdict { active: false, reason: Some(reason), missing_scopes, token: None }
}

fn active() -> Verdict {
    Verdict { active: true, reason: None, missing_scopes: Vec::new(), token: Some(Box::new(info())) }
}

fn rekeyed(key: Option<&str>) -> Rekeyed {
    Rekeyed {
        slot: "4db3cfbc236ada05".into(),
        installed: key.is_none(),
        origin: "o".into(),
        dropped: vec!["f80b1daa9719f1fb".into()],
        key: key.map(|key| SecretText::new(key.to_owned())),
    }
}

fn requests() -> Vec<(&'static str, Ask<'static>)> {
    let revoke = |which| Ask::Revoke(Revoke { which, reason: Some("left".into()), dry_run: false });
    vec![
        ("validate", Ask::Validate(validate())),
        ("validate, all given", Ask::Validate(validate_full())),
        ("validate-batch", Ask::ValidateBatch(vec![validate(), validate_full()])),
        ("issue", Ask::Issue(issue())),
        ("issue, all given", Ask::Issue(issue_full())),
        ("revoke by handles", revoke(Which::Handles(vec![Handle("01M844DZG0FAY828T5CY4TQKFF".into())]))),
        ("revoke by token", revoke(Which::Token(TOKEN))),
        ("revoke, dry run", Ask::Revoke(Revoke { which: Which::Handles(Vec::new()), reason: None, dry_run: true })),
        ("show", Ask::Show(Handle("01M844DZG0FA".into()))),
        ("list", Ask::List(List { limit: 100, ..List::default() })),
        (
            "list, all given",
            Ask::List(List {
                filter: Filter(vec![
                    Condition::Subject("s".into()),
                    Condition::Issuer("i".into()),
                    Condition::Name("n".into()),
                    Condition::Label("k=v".into()),
                    Condition::Scope("a:b".into()),
                    Condition::Kind(Kind::Canary),
                    Condition::Profile("p".into()),
                    Condition::State(State::Expired),
                    Condition::ExpiringWithin(Duration::from_secs(86_400)),
                    Condition::UnusedFor(Duration::from_secs(60)),
                    Condition::UnusedSince(UnixTime::from_secs(1)),
                    Condition::Family(id()),
                    Condition::IssuedBefore(UnixTime::from_secs(2)),
                    Condition::IssuedAfter(UnixTime::from_secs(3)),
                    Condition::All,
                ]),
                limit: 1000,
                after: Some(id()),
            }),
        ),
        ("status", Ask::Status),
        ("audit", Ask::Audit(AuditQuery::default())),
        (
            "audit, all given",
            Ask::Audit(AuditQuery {
                token: Some(Handle("01M844DZG0FA".into())),
                subject: Some("s".into()),
                unit: Some("u.service".into()),
                uid: Some(1000),
                event: Some("use".into()),
                since: Some(UnixTime::from_secs(1_796_000_000)),
                until: Some(UnixTime::from_secs(1_796_003_600)),
                after: Some("c".into()),
                wait: true,
            }),
        ),
        ("audit-summary", Ask::AuditSummary(Handle("01M844DZG0FA".into()))),
        ("audit-verify", Ask::AuditVerify),
        ("clock-reset", Ask::ClockReset),
        ("watch", Ask::Watch(Watch { since: None })),
        ("watch, all given", Ask::Watch(Watch { since: Some(1041) })),
        ("rekey", Ask::Rekey(Rekey { data: false })),
        ("rekey, data", Ask::Rekey(Rekey { data: true })),
        ("rekey-progress", Ask::RekeyProgress),
        ("recovery-key", Ask::RecoveryKey),
        ("import", Ask::Import(vec![imported(Foreign::Text("q8Zr2Lm7Xv4Tk9Wb"))])),
        (
            "import, all given",
            Ask::Import(vec![
                imported(Foreign::Sha256(std::array::from_fn(|i| i as u8))),
                ImportEntry {
                    facts: issue_full(),
                    expires_at: Some(UnixTime::from_secs(1_796_003_600)),
                    ..imported(Foreign::Text(TOKEN))
                },
            ]),
        ),
        ("revoke by filter", revoke(Which::Filter(Condition::Subject("s".into()).into()))),
        (
            "suspend by handles",
            Ask::Suspend(Hold {
                which: Chosen::Handles(vec![Handle("01M844DZG0FAY828".into())]),
                reason: Some("odd".into()),
                dry_run: false,
            }),
        ),
        (
            "suspend by filter",
            Ask::Suspend(Hold { which: Chosen::Filter(Condition::All.into()), reason: None, dry_run: true }),
        ),
        (
            "resume by handles",
            Ask::Resume(Hold {
                which: Chosen::Handles(vec![Handle("01M844DZG0FAY828".into())]),
                reason: None,
                dry_run: false,
            }),
        ),
        ("edit", Ask::Edit(Edit { name: Some("n".into()), ..Edit::of(Handle("01M844DZG0FAY828".into())) })),
        (
            "edit, all given",
            Ask::Edit(Edit {
                token: Handle("01M844DZG0FAY828".into()),
                name: Some("n".into()),
                labels: [("env".to_owned(), "prod".to_owned())].into(),
                unlabel: vec!["team".into()],
                allow_from: Some(vec!["192.0.2.0/24".into()]),
                allow_units: Some(vec!["backup.service".into()]),
                allow_uids: Some(Vec::new()),
                scopes: Some(vec!["a".into()]),
                drop_scopes: vec!["b:*".into()],
                ends: Some(Ends::At(UnixTime::from_secs(1_796_000_000))),
            }),
        ),
        (
            "edit, for a time from now",
            Ask::Edit(Edit {
                ends: Some(Ends::In(Duration::from_secs(3600))),
                ..Edit::of(Handle("01M844DZG0FAY828".into()))
            }),
        ),
        ("renew", Ask::Renew(Handle("01M844DZG0FAY828".into()))),
        ("rotate", Ask::Rotate(Rotate { token: Handle("01M844DZG0FAY828".into()), now: false, grace: None })),
        (
            "rotate, all given",
            Ask::Rotate(Rotate {
                token: Handle("01M844DZG0FAY828".into()),
                now: true,
                grace: Some(Duration::from_secs(300)),
            }),
        ),
        ("backup", Ask::Backup(BackupAsk { after: None })),
        ("backup, the next piece", Ask::Backup(BackupAsk { after: Some(1_048_600) })),
        (
            "report of uses",
            Ask::ReportUses(vec![
                UseReport {
                    ticket: &[0xff, 0, 1],
                    count: 300,
                    first: UnixTime::from_micros(1_796_000_000_000_001),
                    last: UnixTime::from_micros(1_796_000_000_900_000),
                },
                UseReport { ticket: &[2], count: 1, first: UnixTime::EPOCH, last: UnixTime::EPOCH },
            ]),
        ),
    ]
}

fn imported(token: Foreign<'static>) -> ImportEntry<'static> {
    ImportEntry { token, facts: issue(), expires_at: None }
}

fn replies() -> Vec<(&'static str, Answer)> {
    let issued = || Issued { token: SecretText::new(TOKEN.into()), info: info() };
    vec![
        ("error", Answer::Error(Failure::new(ErrorCode::NotPermitted, "not permitted"))),
        ("verdict, active", Answer::Verdict(Box::new(active()))),
        ("verdict, unknown", Answer::Verdict(Box::new(inactive(Reason::Unknown, &[])))),
        ("verdict, scopes missing", Answer::Verdict(Box::new(inactive(Reason::InsufficientScope, &["a", "b:c"])))),
        ("verdicts", Answer::Verdicts(vec![active(), inactive(Reason::Expired, &[])])),
        ("issued", Answer::Issued(Box::new(issued()))),
        (
            "changed",
            Answer::Changed(Changed { count: 1, ids: vec![id()], dry_run: false, still_good: vec![other_id()] }),
        ),
        ("token", Answer::Token(Box::new(info()))),
        ("token, all given", Answer::Token(Box::new(info_full()))),
        ("tokens", Answer::Tokens(Tokens { tokens: vec![info()], next: Some(id()) })),
        ("json", Answer::Json("{}".into())),
        (
            "audit-lines",
            Answer::AuditLines(AuditLines { lines: vec!["{\"seq\":1}".into()], next: "c".into(), end: true }),
        ),
        ("time", Answer::Time(UnixTime::from_micros(1_796_000_000_000_001))),
        ("events, none", Answer::Events(Events { events: Vec::new(), through: 1041, last: false })),
        (
            "events",
            Answer::Events(Events {
                events: vec![
                    Event { seq: 1042, gap: false, json: "{\"seq\":1042}".into() },
                    Event { seq: 2000, gap: true, json: "{\"seq\":2000}".into() },
                ],
                through: 2000,
                last: true,
            }),
        ),
        ("rekeyed", Answer::Rekeyed(Box::new(rekeyed(None)))),
        ("rekeyed, key", Answer::Rekeyed(Box::new(rekeyed(Some("bearerd-key-1 4db3cfbc236ada05 01337f"))))),
        (
            "rekey-progress",
            Answer::RekeyProgress(RekeyProgress {
                running: true,
                finished: false,
                epoch: 2,
                done: 300,
                total: 1_000_000,
                fault: Some("f".into()),
            }),
        ),
        (
            "imported",
            Answer::Imported(vec![
                ImportOutcome::Taken(id()),
                ImportOutcome::Already(other_id()),
                ImportOutcome::Refused("too weak".into()),
            ]),
        ),
        ("shown", Answer::Shown(Box::new(shown()))),
        (
            "rotated",
            Answer::Rotated(Box::new(Rotated {
                token: SecretText::new(TOKEN.into()),
                info: info(),
                predecessor_ends_at: Some(UnixTime::from_secs(1_796_604_800)),
                grace: Duration::from_secs(300),
                replaced: None,
                ended: None,
            })),
        ),
        (
            "rotated, all given",
            Answer::Rotated(Box::new(Rotated {
                token: SecretText::new(TOKEN.into()),
                info: info(),
                predecessor_ends_at: None,
                grace: Duration::ZERO,
                replaced: Some(id()),
                ended: Some(other_id()),
            })),
        ),
        (
            "backup",
            Answer::Backup(BackupPiece {
                bytes: vec![0xff, 0, 1],
                next: Some(3),
                generation: 77,
                rows: 1,
                rows_total: 300,
            }),
        ),
        ("reported", Answer::Reported),
        (
            "verdict that may be kept",
            Answer::Stamped(Box::new(Stamped {
                verdict: Verdict {
                    active: true,
                    reason: None,
                    missing_scopes: Vec::new(),
                    token: Some(Box::new(info())),
                },
                cache: Some(Cacheable {
                    generation: 300,
                    slot: 65_535,
                    value: 70_000,
                    good_until: Some(UnixTime::from_micros(1_796_000_000_000_001)),
                    ticket: vec![0xff, 0, 1],
                }),
            })),
        ),
        (
            "verdict that may not be kept",
            Answer::Stamped(Box::new(Stamped {
                verdict: Verdict {
                    active: false,
                    reason: Some(Reason::Revoked),
                    missing_scopes: Vec::new(),
                    token: None,
                },
                cache: None,
            })),
        ),
    ]
}

fn shown() -> Shown {
    let by = |unit: Option<&str>| UsesBy {
        unit: unit.map(str::to_owned),
        uid: 34,
        at: UnixTime::from_micros(1_796_000_000_000_001),
        count: 300,
    };
    let relative = Relative {
        id: other_id(),
        head: None,
        state: State::Rotating,
        safe_to_cut: Some(false),
        uses_by: vec![by(Some("backup.service"))],
    };
    Shown { info: info(), uses_by: vec![by(None)], safe_to_cut: None, relatives: vec![relative] }
}

/// Name and content of each vector.
fn vectors() -> Vec<(String, Vec<u8>)> {
    let mut vectors = vec![
        ("client-hello".to_owned(), codec::encode(&client_hello())),
        ("server-hello".to_owned(), codec::encode(&server_hello())),
        ("client-hello, the epoch page".to_owned(), codec::encode(&ClientHello { flags: FLAG_PAGE, ..client_hello() })),
        ("server-hello, the epoch page".to_owned(), codec::encode(&ServerHello { flags: FLAG_PAGE, ..server_hello() })),
        (
            "server-hello, no version".to_owned(),
            codec::encode(&ServerHello { version: 0, in_flight_max: 0, boottime_micros: 0, ..server_hello() }),
        ),
    ];
    for (number, (name, body)) in (1..).zip(requests()) {
        vectors.push((format!("request: {name}"), codec::encode(&Request { id: number * 100, body })));
    }
    for (number, (name, body)) in (1..).zip(replies()) {
        vectors.push((format!("reply: {name}"), codec::encode(&Reply { id: number * 100, body })));
    }
    let stopping = Failure::new(ErrorCode::Stopping, "stopping");
    vectors.push(("reply: of the connection".into(), codec::encode(&Reply { id: 0, body: Answer::Error(stopping) })));
    for state in State::ALL {
        vectors.push((format!("state: {state}"), codec::encode(&state)));
    }
    for kind in [Kind::Machine, Kind::Session, Kind::Canary] {
        vectors.push((format!("kind: {kind}"), codec::encode(&kind)));
    }
    for reason in Reason::ALL {
        vectors.push((format!("reason: {}", reason.name()), codec::encode(&reason)));
    }
    for code in ErrorCode::ALL {
        vectors.push((format!("code: {}", code.name()), codec::encode(&code)));
    }
    vectors
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    assert!(digits.len().is_multiple_of(2), "whole bytes: {text}");
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap_or_else(|_| panic!("{text}")))
        .collect()
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| line.split('\t').collect())
}

#[test]
fn every_message_has_its_pinned_bytes() {
    let pinned: Vec<(String, String)> = lines(include_str!("vectors/messages.tsv"))
        .map(|columns| (columns[0].to_owned(), columns[1].to_owned()))
        .collect();
    let now: Vec<(String, String)> = vectors().into_iter().map(|(name, bytes)| (name, hex(&bytes))).collect();
    for (name, bytes) in &now {
        match pinned.iter().find(|(pinned, _)| pinned == name) {
            Some((_, pinned)) => assert_eq!(bytes, pinned, "{name}: its bytes have changed, and old programs break"),
            None => panic!("a message without a vector; if it is new, add this line:\n{name}\t{bytes}"),
        }
    }
    assert_eq!(now.len(), pinned.len(), "a vector whose message is gone, or that is there twice");
}

/// What was pinned decodes, strictly, to what encodes so again.
#[test]
fn every_pinned_message_decodes_to_itself() {
    for columns in lines(include_str!("vectors/messages.tsv")) {
        let (name, bytes) = (columns[0], unhex(columns[1]));
        let again = match name.split([':', ',']).next().unwrap() {
            "request" => codec::encode(&codec::decode::<Request<'_>>(&bytes).unwrap()),
            "reply" => codec::encode(&codec::decode::<Reply>(&bytes).unwrap()),
            "client-hello" => codec::encode(&codec::decode::<ClientHello>(&bytes).unwrap()),
            "server-hello" => codec::encode(&codec::decode::<ServerHello>(&bytes).unwrap()),
            "state" => codec::encode(&codec::decode::<State>(&bytes).unwrap()),
            "kind" => codec::encode(&codec::decode::<Kind>(&bytes).unwrap()),
            "reason" => codec::encode(&codec::decode::<Reason>(&bytes).unwrap()),
            "code" => codec::encode(&codec::decode::<ErrorCode>(&bytes).unwrap()),
            other => panic!("{other}"),
        };
        assert_eq!(again, bytes, "{name}");
    }
}

/// I5: cut anywhere, or with anything after it, no message is another one.
#[test]
fn no_message_is_the_beginning_of_another() {
    for columns in lines(include_str!("vectors/messages.tsv")) {
        let (name, mut bytes) = (columns[0], unhex(columns[1]));
        let refused = |bytes: &[u8]| match name.split([':', ',']).next().unwrap() {
            "request" => codec::decode::<Request<'_>>(bytes).is_err(),
            "reply" => codec::decode::<Reply>(bytes).is_err(),
            "client-hello" => codec::decode::<ClientHello>(bytes).is_err(),
            _ => codec::decode::<ServerHello>(bytes).is_err(),
        };
        for cut in 0..bytes.len() {
            assert!(refused(&bytes[..cut]), "{name}, cut to {cut}");
        }
        bytes.push(0);
        assert!(refused(&bytes), "{name}, with a byte more");
    }
}

#[test]
fn what_is_no_frame_is_refused_for_its_reason() {
    let mut seen = 0;
    for columns in lines(include_str!("vectors/messages-refused.tsv")) {
        let [direction, name, bytes, reason] = columns[..] else { panic!("four columns: {columns:?}") };
        let bytes = unhex(bytes);
        let direction = if direction == "request" { Direction::Request } else { Direction::Reply };
        let outcome = match frame::first(&bytes, direction) {
            Ok(Some((content, taken))) => {
                assert_eq!(taken, bytes.len(), "{name}: one frame");
                match direction {
                    Direction::Request if content.starts_with(&MAGIC) => {
                        codec::decode::<ClientHello>(content).map(drop).map_err(FrameError::from)
                    }
                    Direction::Request => codec::decode::<Request<'_>>(content).map(drop).map_err(FrameError::from),
                    Direction::Reply => codec::decode::<Reply>(content).map(drop).map_err(FrameError::from),
                }
            }
            Ok(None) => panic!("{name}: not whole"),
            Err(error) => Err(error),
        };
        let outcome = match outcome {
            Ok(()) => "taken",
            Err(FrameError::Empty) => "empty",
            Err(FrameError::TooLarge(_)) => "too large",
            Err(FrameError::Content(CodecError::Malformed)) => "malformed",
            Err(FrameError::Content(CodecError::NotCanonical)) => "not canonical",
            Err(other) => panic!("{other}"),
        };
        assert_eq!(outcome, reason, "{name}");
        seen += 1;
    }
    assert!(seen >= 20, "the vectors are there");
}

/// The blocks of `docs/protocol.md` that begin with three backquotes and `hex NAME`; `#` begins a comment.
fn worked_examples() -> BTreeMap<String, Vec<u8>> {
    let mut examples = BTreeMap::new();
    let mut block: Option<(String, String)> = None;
    for line in include_str!("../docs/protocol.md").lines() {
        match (&mut block, line.strip_prefix("```")) {
            (None, Some(info)) => block = info.strip_prefix("hex ").map(|name| (name.to_owned(), String::new())),
            (Some(_), Some(_)) => {
                let (name, text) = block.take().expect("it is open");
                assert!(examples.insert(name.clone(), unhex(&text)).is_none(), "{name} is there twice");
            }
            (Some((_, text)), None) => text.push_str(line.split('#').next().unwrap_or_default()),
            (None, None) => {}
        }
    }
    examples
}

/// `docs/protocol.md`: what a reader would write by it is what the encoder writes.
#[test]
fn the_documents_examples_are_the_encoders() {
    fn framed<T: serde::Serialize>(message: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame::append(message, &mut bytes);
        bytes
    }
    let reply = |id, body| framed(&Reply { id, body });
    let expected: BTreeMap<String, Vec<u8>> = [
        ("client-hello", framed(&client_hello())),
        ("server-hello", framed(&server_hello())),
        (
            "refusal",
            [
                framed(&ServerHello { version: 0, in_flight_max: 0, boottime_micros: 0, ..server_hello() }),
                reply(0, Answer::Error(Failure::new(ErrorCode::TooManyConnections, "too many connections"))),
            ]
            .concat(),
        ),
        ("validate", framed(&Request { id: 1, body: Ask::Validate(validate()) })),
        ("verdict-active", reply(1, Answer::Verdict(Box::new(active())))),
        ("verdict-unknown", reply(1, Answer::Verdict(Box::new(inactive(Reason::Unknown, &[]))))),
        (
            "verdict-insufficient-scope",
            reply(1, Answer::Verdict(Box::new(inactive(Reason::InsufficientScope, &["backup:write"])))),
        ),
        ("issue", framed(&Request { id: 300, body: Ask::Issue(issue()) })),
        ("issued", reply(300, Answer::Issued(Box::new(Issued { token: SecretText::new(TOKEN.into()), info: info() })))),
        ("error", reply(300, Answer::Error(Failure::new(ErrorCode::NotPermitted, "not permitted")))),
    ]
    .into_iter()
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .collect();
    let examples = worked_examples();
    for (name, bytes) in &expected {
        let example = examples.get(name).unwrap_or_else(|| panic!("no example {name}; it would be {}", hex(bytes)));
        assert_eq!(hex(example), hex(bytes), "{name}");
    }
    assert_eq!(examples.len(), expected.len(), "an example that is not compared");
}

/// The figures that the document gives.
#[test]
fn the_documents_limits_are_the_programs() {
    let text = include_str!("../docs/protocol.md");
    for (what, figure) in [
        ("request frame", REQUEST_MAX.to_string()),
        ("reply frame", bearerd::protocol::REPLY_MAX.to_string()),
        ("requests in flight", bearerd::protocol::IN_FLIGHT_MAX.to_string()),
        ("tokens in a batch", bearerd::protocol::BATCH_MAX.to_string()),
        ("tokens in a page", bearerd::protocol::PAGE_MAX.to_string()),
        ("ids in a revocation", bearerd::protocol::IDS_MAX.to_string()),
        ("frame deadline", format!("{} s", bearerd::protocol::FRAME_DEADLINE.as_secs())),
        ("token text", bearerd::token::TEXT_MAX.to_string()),
        ("name, subject, audience", bearerd::protocol::NAME_MAX.to_string()),
        ("note, reason", bearerd::protocol::NOTE_MAX.to_string()),
        ("audiences", bearerd::protocol::AUDIENCES_MAX.to_string()),
        ("labels", bearerd::protocol::LABELS_MAX.to_string()),
        ("label key", bearerd::protocol::LABEL_KEY_MAX.to_string()),
        ("label value", bearerd::protocol::LABEL_VALUE_MAX.to_string()),
        ("networks, units, uids", bearerd::protocol::BINDINGS_MAX.to_string()),
    ] {
        let row = format!("| {what} | {figure} |");
        assert!(text.contains(&row), "no row {row}");
    }
    for code in ErrorCode::ALL {
        let row = format!("| {} | `{}` |", u16::from(code), code.name());
        assert!(text.contains(&row), "no row {row}");
    }
    for (number, reason) in Reason::ALL.into_iter().enumerate() {
        let row = format!("| {number} | `{}` |", reason.name());
        assert!(text.contains(&row), "no row {row}");
    }
}
