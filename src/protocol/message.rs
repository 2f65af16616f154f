//! The messages. Enums are append only; their order and the order of fields are the wire format (`docs/protocol.md`,
//! vectors in `tests/vectors/`). Wire messages are not disk records.
//!
//! What borrows (`Validate`) is decoded in place: the hot path copies nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::code::{ErrorCode, Reason};
pub use super::filter::{Condition, Filter};
use crate::time::UnixTime;
use crate::token::{Kind, TokenId};

/// First message of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientHello {
    /// [`super::MAGIC`].
    pub magic: [u8; 8],
    /// Lowest version that the client speaks.
    pub version_min: u16,
    /// Highest version that the client speaks.
    pub version_max: u16,
    /// Bits of what the client wants: [`super::FLAG_PAGE`]. An unknown one is refused.
    pub flags: u32,
}

/// Answer to a [`ClientHello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerHello {
    /// [`super::MAGIC`].
    pub magic: [u8; 8],
    /// The version that both speak from here on; 0 when there is none, and then an error frame follows.
    pub version: u16,
    /// Bits of what the server grants, of those that the client wants.
    pub flags: u32,
    /// Largest request frame, in bytes.
    pub request_max: u32,
    /// Requests that this connection may have in flight.
    pub in_flight_max: u32,
    /// Tokens in one batch.
    pub batch_max: u32,
    /// The daemon's CLOCK_BOOTTIME, in microseconds.
    pub boottime_micros: u64,
}

/// A request with the number that its reply will carry.
#[derive(Serialize, Deserialize)]
pub struct Request<'a> {
    /// Chosen by the client; unique among what it has in flight.
    pub id: u32,
    /// What is asked.
    #[serde(borrow)]
    pub body: Ask<'a>,
}

/// What can be asked.
#[derive(Serialize, Deserialize)]
pub enum Ask<'a> {
    /// Is this token good for this?
    #[serde(borrow)]
    Validate(Validate<'a>),
    /// The same for up to [`super::BATCH_MAX`] tokens.
    #[serde(borrow)]
    ValidateBatch(Vec<Validate<'a>>),
    /// Make a token.
    Issue(Issue),
    /// End tokens.
    #[serde(borrow)]
    Revoke(Revoke<'a>),
    /// One token, by id, head or unambiguous prefix: its facts, who uses it, and its neighbours in the rotation.
    Show(Handle),
    /// A page of tokens.
    List(List),
    /// How the daemon is.
    Status,
    /// A page of audit lines.
    Audit(AuditQuery),
    /// Who used a token, through what, from where, since when.
    AuditSummary(Handle),
    /// Check the audit log's chain.
    AuditVerify,
    /// Take a wrong clock mark back.
    ClockReset,
    /// Hold tokens until they are resumed.
    Suspend(Hold),
    /// Let held tokens be good again.
    Resume(Hold),
    /// Receive changes as they are made: answered by many [`Events`].
    Watch(Watch),
    /// Change the key that opens the store, or the one that its values are sealed under.
    Rekey(Rekey),
    /// How far the sealing of every value anew has got; answered when that has ended, or after a moment.
    RekeyProgress,
    /// Make a recovery key, in place of an earlier one.
    RecoveryKey,
    /// A copy of the whole store, piece by piece.
    Backup(BackupAsk),
    /// Take in tokens that another system made; up to [`super::BATCH_MAX`].
    #[serde(borrow)]
    Import(Vec<ImportEntry<'a>>),
    /// Change what a token is called and where it is good; take scopes or time away.
    Edit(Edit),
    /// Give a token its life again.
    Renew(Handle),
    /// Make a token's successor.
    Rotate(Rotate),
    /// Tell of uses that were granted out of a cache; up to [`super::REPORTS_MAX`].
    #[serde(borrow)]
    ReportUses(Vec<UseReport<'a>>),
}

/// The question that bearerd exists for. No `Debug`: it holds a token.
#[derive(Clone, Serialize, Deserialize)]
pub struct Validate<'a> {
    /// The token's text, at most 1,024 bytes.
    pub token: &'a str,
    /// Scopes that are needed, all of them; no wildcards; at most 64.
    #[serde(borrow)]
    pub scopes: Vec<&'a str>,
    /// The service that asks, if it wants tokens for itself only.
    pub audience: Option<&'a str>,
    /// The address of the client that presented it, as the peer says.
    pub from: Option<IpAddr>,
    /// For the audit line.
    pub note: Option<&'a str>,
    /// Spend no use and no rate; audited as such.
    pub peek: bool,
}

/// Uses of a token that a client granted out of its cache, all by one verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UseReport<'a> {
    /// What came with the verdict ([`Cacheable::ticket`]).
    pub ticket: &'a [u8],
    /// How many, since the last report; at least 1.
    pub count: u32,
    /// When the first of them was.
    pub first: UnixTime,
    /// When the last of them was.
    pub last: UnixTime,
}

/// What a new token shall be; `None` and empty = the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    /// What people call it.
    pub name: String,
    /// Absent: what the profile says, else machine, or session where policy allows the peer only that.
    pub kind: Option<Kind>,
    /// Whom it stands for; default the peer's user name, for uid 0 the token's name.
    pub subject: Option<String>,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Which services it is for; empty = any.
    pub audiences: Vec<String>,
    /// How long it lives.
    pub ttl: Option<Duration>,
    /// Not good before.
    pub not_before: Option<UnixTime>,
    /// Good for so many validations.
    pub max_uses: Option<u64>,
    /// At most so many validations in each period.
    pub rate: Option<Rate>,
    /// Client networks (CIDR) it is good from.
    pub allow_from: Vec<String>,
    /// systemd units it is good through.
    pub allow_units: Vec<String>,
    /// uids it is good through.
    pub allow_uids: Vec<u32>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// A profile of the configuration.
    pub profile: Option<String>,
}

/// At most `count` in each `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    /// Longer than zero.
    pub per: Duration,
}

/// An id (26 characters), a head, or the first characters of an id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle(pub String);

/// End tokens. No `Debug`: it may hold one.
#[derive(Serialize, Deserialize)]
pub struct Revoke<'a> {
    /// Which.
    #[serde(borrow)]
    pub which: Which<'a>,
    /// For the record and the audit line.
    pub reason: Option<String>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// Which tokens a change is for. No `Debug`: it may hold one.
#[derive(Serialize, Deserialize)]
pub enum Which<'a> {
    /// These; at most [`super::IDS_MAX`].
    Handles(Vec<Handle>),
    /// This one, which whoever holds it may end.
    Token(&'a str),
    /// All that meet every condition, of which there must be one.
    Filter(Filter),
}

/// Suspend or resume tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Which.
    pub which: Chosen,
    /// For the record and the audit line.
    pub reason: Option<String>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// Which tokens a change that takes no secret is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Chosen {
    /// These; at most [`super::IDS_MAX`].
    Handles(Vec<Handle>),
    /// All that meet every condition, of which there must be one.
    Filter(Filter),
}

/// A piece of a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupAsk {
    /// The bytes that this connection has got so far, for the next piece; absent = begin.
    pub after: Option<u64>,
}

/// A token of another system, and what it shall be here. No `Debug`: it holds a token.
#[derive(Clone, Serialize, Deserialize)]
pub struct ImportEntry<'a> {
    /// What it is known by.
    #[serde(borrow)]
    pub token: Foreign<'a>,
    /// What it shall be, as of a token that is issued.
    pub facts: Issue,
    /// Good while now is before; instead of the ttl.
    pub expires_at: Option<UnixTime>,
}

/// A token that another system made. No `Debug`: it is one.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub enum Foreign<'a> {
    /// Its text: digested where it was received, and forgotten.
    Text(&'a str),
    /// SHA-256 of its text, where that is all there is.
    Sha256([u8; 32]),
}

/// What became of one token of an import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImportOutcome {
    /// It is this token now.
    Taken(TokenId),
    /// It was this token before, which is as it was.
    Already(TokenId),
    /// It was not taken: why, for people. Never any of its text.
    Refused(String),
}

/// Change a token. What is `None` or empty stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// Which.
    pub token: Handle,
    /// What people call it.
    pub name: Option<String>,
    /// Labels to set.
    pub labels: BTreeMap<String, String>,
    /// Keys of labels to take off.
    pub unlabel: Vec<String>,
    /// The client networks (CIDR) it is good from; none of them = any.
    pub allow_from: Option<Vec<String>>,
    /// The units it is good through; none of them = any.
    pub allow_units: Option<Vec<String>>,
    /// The uids it is good through; none of them = any.
    pub allow_uids: Option<Vec<u32>>,
    /// All that it may do; no more than it might.
    pub scopes: Option<Vec<String>>,
    /// Scopes to take away, as they were granted.
    pub drop_scopes: Vec<String>,
    /// When it ends; no later than it did.
    pub ends: Option<Ends>,
}

impl Edit {
    /// An edit of nothing yet.
    pub fn of(token: Handle) -> Self {
        Self {
            token,
            name: None,
            labels: BTreeMap::new(),
            unlabel: Vec::new(),
            allow_from: None,
            allow_units: None,
            allow_uids: None,
            scopes: None,
            drop_scopes: Vec::new(),
            ends: None,
        }
    }
}

/// When a token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ends {
    /// At this time.
    At(UnixTime),
    /// So long from now, by the daemon's clock.
    In(Duration),
}

/// Make a token's successor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotate {
    /// Which.
    pub token: Handle,
    /// It ends at once, and not when its successor is in use.
    pub now: bool,
    /// How long it stays good after its successor's first use; `None` = as configured.
    pub grace: Option<Duration>,
}

/// A page of a listing, by id, which is by time of issue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Which.
    pub filter: Filter,
    /// At most so many, and at most [`super::PAGE_MAX`].
    pub limit: u32,
    /// Go on after this id, which need not exist any more.
    pub after: Option<TokenId>,
}

/// A page of the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditQuery {
    /// Of this token.
    pub token: Option<Handle>,
    /// Of this subject.
    pub subject: Option<String>,
    /// Through this unit.
    pub unit: Option<String>,
    /// Through this uid.
    pub uid: Option<u32>,
    /// Of this event.
    pub event: Option<String>,
    /// Not before.
    pub since: Option<UnixTime>,
    /// Before.
    pub until: Option<UnixTime>,
    /// Go on after what an earlier page ended with.
    pub after: Option<String>,
    /// At the end of the log, wait (up to some seconds) for a line instead of answering at once.
    pub wait: bool,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// After this number; absent: with what happens from now on.
    pub since: Option<u64>,
}

/// A reply with the number of its request; id 0 with an error that is of the connection.
#[derive(Serialize, Deserialize)]
pub struct Reply {
    /// The request's number.
    pub id: u32,
    /// What came of it.
    pub body: Answer,
}

/// What can be answered. One of them is an error, so that no reply holds both a token and an error.
#[derive(Serialize, Deserialize)]
pub enum Answer {
    /// It failed, and changed nothing (but see [`ErrorCode::Undecided`]).
    Error(Failure),
    /// To `Validate`.
    Verdict(Box<Verdict>),
    /// To `ValidateBatch`, in its order.
    Verdicts(Vec<Verdict>),
    /// To `Issue`: the one reply that delivers the token.
    Issued(Box<Issued>),
    /// To `Revoke`, `Suspend` and `Resume`.
    Changed(Changed),
    /// To `Edit` and `Renew`.
    Token(Box<TokenInfo>),
    /// To `List`.
    Tokens(Tokens),
    /// To `Status`, `AuditSummary` and `AuditVerify`: a JSON object (RFC 8259), which may gain keys.
    Json(String),
    /// To `Audit`.
    AuditLines(AuditLines),
    /// To `ClockReset`: the time that counts now.
    Time(UnixTime),
    /// To `Watch`, again and again with the same number, until one says that it is the last, or an error comes.
    Events(Events),
    /// To `Rekey` of a key and to `RecoveryKey`.
    Rekeyed(Box<Rekeyed>),
    /// To `Rekey` of the data, which goes on, and to `RekeyProgress`.
    RekeyProgress(RekeyProgress),
    /// To `Backup`.
    Backup(BackupPiece),
    /// To `Import`, in its order.
    Imported(Vec<ImportOutcome>),
    /// To `Show`.
    Shown(Box<Shown>),
    /// To `Rotate`: the one reply that delivers the new token.
    Rotated(Box<Rotated>),
    /// To `Validate` on a connection that was given the epoch page.
    Stamped(Box<Stamped>),
    /// To `ReportUses`: all of them are in the audit log.
    Reported,
}

impl Answer {
    /// Whether it delivers a token: its bytes are wiped once they are sent.
    pub const fn is_secret(&self) -> bool {
        matches!(self, Self::Issued(_) | Self::Rotated(_) | Self::Rekeyed(_))
    }
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what, why, what to do. Never a secret.
    pub message: String,
}

impl Failure {
    /// A failure with its text.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Whether a token is good for what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub struct Verdict {
    /// It is.
    pub active: bool,
    /// Why not.
    pub reason: Option<Reason>,
    /// With [`Reason::InsufficientScope`]: all that is missing.
    pub missing_scopes: Vec<String>,
    /// The token's facts; only to who showed the right secret.
    pub token: Option<Box<TokenInfo>>,
}

/// A verdict, and how it may be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub struct Stamped {
    /// The verdict.
    pub verdict: Verdict,
    /// How it may be kept for the same question; `None` = it may not.
    pub cache: Option<Cacheable>,
}

/// Under which conditions an *active* counts for the same question again (`docs/epoch-page.md`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cacheable {
    /// While the epoch page has this generation,
    pub generation: u64,
    /// and in the slot of this number
    pub slot: u32,
    /// this value,
    pub value: u64,
    /// and it is before this time. `None` = no time ends it.
    pub good_until: Option<UnixTime>,
    /// What its uses are reported with: at most [`super::TICKET_MAX`] bytes that mean something to the daemon alone.
    pub ticket: Vec<u8>,
}

/// The state of a token; the numbers are the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Good.
    Active,
    /// Its `not_before` lies ahead.
    NotYetValid,
    /// Its time is over.
    Expired,
    /// Ended by decision.
    Revoked,
    /// Held until resumed.
    Suspended,
    /// Good, but its successor exists.
    Rotating,
    /// Ended because its successor took over.
    Rotated,
    /// All its uses are spent.
    Exhausted,
    /// Bait.
    Canary,
}

impl State {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Active,
        Self::NotYetValid,
        Self::Expired,
        Self::Revoked,
        Self::Suspended,
        Self::Rotating,
        Self::Rotated,
        Self::Exhausted,
        Self::Canary,
    ];

    /// The name in JSON and in filters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::NotYetValid => "not_yet_valid",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Suspended => "suspended",
            Self::Rotating => "rotating",
            Self::Rotated => "rotated",
            Self::Exhausted => "exhausted",
            Self::Canary => "canary",
        }
    }

    /// Whether it has ended for good.
    pub const fn ended(self) -> bool {
        matches!(self, Self::Expired | Self::Revoked | Self::Rotated | Self::Exhausted)
    }
}

/// What may be shown of a token. The facts, which only a change alters, come first and in one piece.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// What only a change alters.
    pub facts: TokenFacts,
    /// The state at the time of the answer.
    pub state: State,
    /// The last use; only in answers to `Show`, `List`, `Edit` and `Renew`.
    pub last_used: Option<LastUsed>,
}

/// The facts of a token that only a change alters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenFacts {
    /// The public handle.
    pub id: TokenId,
    /// `<prefix><k>_<id>`; `None` for an imported token.
    pub head: Option<String>,
    /// Its kind.
    pub kind: Kind,
    /// What people call it.
    pub name: String,
    /// Whom it stands for.
    pub subject: String,
    /// User name of who issued it.
    pub issuer: String,
    /// uid of who issued it.
    pub issuer_uid: u32,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Which services it is for.
    pub audiences: Vec<String>,
    /// When it was issued.
    pub issued_at: UnixTime,
    /// Not good before.
    pub not_before: Option<UnixTime>,
    /// Good while now is before.
    pub expires_at: Option<UnixTime>,
    /// Renewal never passes this.
    pub max_expires_at: Option<UnixTime>,
    /// The life it was issued with.
    pub ttl: Option<Duration>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The profile it was issued by.
    pub profile: Option<String>,
    /// Good for so many validations.
    pub max_uses: Option<u64>,
    /// How many of them are left.
    pub uses_left: Option<u64>,
    /// Validations per time.
    pub rate: Option<Rate>,
    /// Client networks (CIDR).
    pub allow_from: Vec<String>,
    /// Units.
    pub allow_units: Vec<String>,
    /// uids.
    pub allow_uids: Vec<u32>,
    /// The id of the first of its family.
    pub family: TokenId,
    /// What it was rotated from.
    pub predecessor: Option<TokenId>,
    /// What it was rotated to.
    pub successor: Option<TokenId>,
    /// When it was revoked.
    pub revoked_at: Option<UnixTime>,
    /// Why.
    pub revoked_reason: Option<String>,
}

/// The last use of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUsed {
    /// When.
    pub at: UnixTime,
    /// Through which unit.
    pub unit: Option<String>,
    /// Through which uid.
    pub uid: u32,
    /// From which client address, as the peer gave it.
    pub from: Option<IpAddr>,
    /// How often in all.
    pub count: u64,
}

/// A token, who uses it, and its neighbours in the rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// What may be shown of it.
    pub info: TokenInfo,
    /// Through whom it was used, the latest first; at most 8 are remembered.
    pub uses_by: Vec<UsesBy>,
    /// Whether everyone who used it has moved to its successor; `None` = it has none.
    pub safe_to_cut: Option<bool>,
    /// What it was rotated from and to, as far as those are still known and may be shown.
    pub relatives: Vec<Relative>,
}

/// The use of a token through one unit and uid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsesBy {
    /// Through which unit.
    pub unit: Option<String>,
    /// Through which uid.
    pub uid: u32,
    /// When, the last time.
    pub at: UnixTime,
    /// How often.
    pub count: u64,
}

/// A neighbour in the rotation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relative {
    /// The public handle.
    pub id: TokenId,
    /// `<prefix><k>_<id>`; `None` for an imported token.
    pub head: Option<String>,
    /// The state at the time of the answer.
    pub state: State,
    /// As of [`Shown`].
    pub safe_to_cut: Option<bool>,
    /// As of [`Shown`].
    pub uses_by: Vec<UsesBy>,
}

/// A new token. No `Debug`; the text is wiped when it is dropped.
#[derive(Serialize, Deserialize)]
pub struct Issued {
    /// The token's text: shown this once.
    pub token: SecretText,
    /// What it is.
    pub info: TokenInfo,
}

/// A token's successor. No `Debug`; the text is wiped when it is dropped.
#[derive(Serialize, Deserialize)]
pub struct Rotated {
    /// The successor's text: shown this once.
    pub token: SecretText,
    /// What it is; its `predecessor` is the token that it takes over from.
    pub info: TokenInfo,
    /// When the predecessor ends at the latest, or has ended; `None` when it was revoked.
    pub predecessor_ends_at: Option<UnixTime>,
    /// How long the predecessor stays good after the successor's first use, within that.
    pub grace: Duration,
    /// The unused successor that this one took the place of.
    pub replaced: Option<TokenId>,
    /// The predecessor's own predecessor, which was still good and has ended now.
    pub ended: Option<TokenId>,
}

/// A token's or key's text on its way through the one reply that delivers it. No `Debug`; wiped when dropped.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// Takes the text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What a change of tokens did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// How many tokens changed; those that were so already are not counted.
    pub count: u64,
    /// Their ids, at most [`super::IDS_MAX`].
    pub ids: Vec<TokenId>,
    /// Nothing was changed.
    pub dry_run: bool,
    /// Members of the same families that are still good.
    pub still_good: Vec<TokenId>,
}

/// A piece of a backup. The pieces one behind the other are the file (`docs/file-format.md`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPiece {
    /// The bytes; values in them are sealed.
    pub bytes: Vec<u8>,
    /// What to ask for next, which is how many bytes there are so far; `None` behind the last piece.
    pub next: Option<u64>,
    /// The newest change in it.
    pub generation: u64,
    /// Rows so far.
    pub rows: u64,
    /// Rows in all.
    pub rows_total: u64,
}

/// A page of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// In order of their ids.
    pub tokens: Vec<TokenInfo>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<TokenId>,
}

/// A page of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLines {
    /// JSON objects, as they stand in the log.
    pub lines: Vec<String>,
    /// Where the next page begins.
    pub next: String,
    /// There was nothing more when this was answered.
    pub end: bool,
}

/// Some of what happened. The first comes at once, be it without events: it says where the stream begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// In the order of their numbers.
    pub events: Vec<Event>,
    /// All that the peer may see up to this number has been sent: what to go on after.
    pub through: u64,
    /// Nothing more comes to this request: the peer read too slowly, and `events` ends with a gap.
    pub last: bool,
}

/// A change, or what is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, which grows from event to event: what to go on after.
    pub seq: u64,
    /// Events are missing: whoever keeps what it learned from them must let go of it.
    pub gap: bool,
    /// A JSON object (RFC 8259) in one line, which may gain keys.
    pub json: String,
}

/// Which key to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rekey {
    /// The record key, under which every value is then sealed anew; else the key file's or the credential's.
    pub data: bool,
}

/// A new key. No `Debug`: it may hold one.
#[derive(Serialize, Deserialize)]
pub struct Rekeyed {
    /// The id of its slot, 16 hex digits.
    pub slot: String,
    /// It is in force: whoever asked has nothing to install.
    pub installed: bool,
    /// Where it is, or what it is to be installed as.
    pub origin: String,
    /// Slots whose keys open the store no more.
    pub dropped: Vec<String>,
    /// The key's text, which whoever asked is to keep: shown this once.
    pub key: Option<SecretText>,
}

/// How far the sealing of every value anew has got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RekeyProgress {
    /// It goes on.
    pub running: bool,
    /// It has come to its end: there is one record key, and every value is sealed under it.
    pub finished: bool,
    /// The record key that values are sealed under.
    pub epoch: u32,
    /// Values that this run has looked at: they are sealed under it.
    pub done: u64,
    /// Values in all, as counted at its begin.
    pub total: u64,
    /// Why it does not go on, or not now.
    pub fault: Option<String>,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
