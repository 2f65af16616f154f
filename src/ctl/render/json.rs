//! The JSON that programs read (`docs/json.md`). Every key is always there; what is absent is null.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;

use serde::Serialize;
use zeroize::Zeroizing;

use crate::protocol::message::{Changed, Issued, Rate, Rotated, TokenInfo, Verdict};
use crate::time::{UnixTime, format_duration};
use crate::token::TokenId;

/// Bytes that JSON of a token can't pass: so much is there before a token's text is written, so that no copy of the
/// text stays behind in a buffer that was outgrown.
const ISSUED_BYTES: usize = 256 * 1024;

/// A token.
#[derive(Serialize)]
pub(super) struct Token<'a> {
    id: String,
    head: Option<&'a str>,
    kind: &'static str,
    name: &'a str,
    subject: &'a str,
    issuer: &'a str,
    issuer_uid: u32,
    scopes: &'a [String],
    audiences: &'a [String],
    state: &'static str,
    issued_at: String,
    not_before: Option<String>,
    expires_at: Option<String>,
    max_expires_at: Option<String>,
    ttl: Option<String>,
    labels: &'a BTreeMap<String, String>,
    profile: Option<&'a str>,
    max_uses: Option<u64>,
    uses_left: Option<u64>,
    rate: Option<String>,
    allow_from: &'a [String],
    allow_units: &'a [String],
    allow_uids: &'a [u32],
    family: String,
    predecessor: Option<String>,
    successor: Option<String>,
    revoked_at: Option<String>,
    revoked_reason: Option<&'a str>,
    last_used: Option<LastUsed<'a>>,
}

#[derive(Serialize)]
struct LastUsed<'a> {
    at: String,
    unit: Option<&'a str>,
    uid: u32,
    from: Option<IpAddr>,
    count: u64,
}

impl<'a> Token<'a> {
    pub(super) fn of(info: &'a TokenInfo) -> Self {
        let facts = &info.facts;
        let time = |at: Option<UnixTime>| at.map(|at| at.to_string());
        let id = |id: Option<TokenId>| id.map(|id| id.to_string());
        Self {
            id: facts.id.to_string(),
            head: facts.head.as_deref(),
            kind: facts.kind.name(),
            name: &facts.name,
            subject: &facts.subject,
            issuer: &facts.issuer,
            issuer_uid: facts.issuer_uid,
            scopes: &facts.scopes,
            audiences: &facts.audiences,
            state: info.state.name(),
            issued_at: facts.issued_at.to_string(),
            not_before: time(facts.not_before),
            expires_at: time(facts.expires_at),
            max_expires_at: time(facts.max_expires_at),
            ttl: facts.ttl.map(format_duration),
            labels: &facts.labels,
            profile: facts.profile.as_deref(),
            max_uses: facts.max_uses,
            uses_left: facts.uses_left,
            rate: facts.rate.as_ref().map(rate),
            allow_from: &facts.allow_from,
            allow_units: &facts.allow_units,
            allow_uids: &facts.allow_uids,
            family: facts.family.to_string(),
            predecessor: id(facts.predecessor),
            successor: id(facts.successor),
            revoked_at: time(facts.revoked_at),
            revoked_reason: facts.revoked_reason.as_deref(),
            last_used: info.last_used.as_ref().map(|used| LastUsed {
                at: used.at.to_string(),
                unit: used.unit.as_deref(),
                uid: used.uid,
                from: used.from,
                count: used.count,
            }),
        }
    }
}

/// `100/1m`, as it is given to issue.
pub fn rate(rate: &Rate) -> String {
    format!("{}/{}", rate.count, format_duration(rate.per))
}

pub(super) fn to_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("own types with text keys serialise")
}

/// A token.
pub fn token(info: &TokenInfo) -> String {
    to_text(&Token::of(info))
}

/// A token with its text as the key `token`, and what else is to be said of it.
#[derive(Serialize)]
struct WithText<'a, T> {
    #[serde(flatten)]
    info: Token<'a>,
    token: &'a str,
    #[serde(flatten)]
    more: T,
}

/// A token that was issued, with its text as the key `token`. Ends with a line feed; wiped when dropped.
pub fn issued(issued: &Issued) -> Zeroizing<Vec<u8>> {
    #[derive(Serialize)]
    struct NoMore {}
    secret(&WithText { info: Token::of(&issued.info), token: issued.token.expose(), more: NoMore {} })
}

/// A successor, as [`issued`], and what became of the token that it takes over from.
pub fn rotated(rotated: &Rotated) -> Zeroizing<Vec<u8>> {
    #[derive(Serialize)]
    struct More {
        predecessor_ends_at: Option<String>,
        grace: String,
        replaced: Option<String>,
        ended: Option<String>,
    }
    let more = More {
        predecessor_ends_at: rotated.predecessor_ends_at.map(|at| at.to_string()),
        grace: format_duration(rotated.grace),
        replaced: rotated.replaced.map(|id| id.to_string()),
        ended: rotated.ended.map(|id| id.to_string()),
    };
    secret(&WithText { info: Token::of(&rotated.info), token: rotated.token.expose(), more })
}

fn secret(object: &impl Serialize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(ISSUED_BYTES));
    serde_json::to_writer(&mut *bytes, object).expect("own types with text keys serialise into memory");
    bytes.push(b'\n');
    bytes
}

/// A verdict: the token's keys are there only if its secret was shown.
pub fn verdict(verdict: &Verdict) -> String {
    #[derive(Serialize)]
    struct Inactive<'a> {
        active: bool,
        reason: Option<&'static str>,
        missing_scopes: &'a [String],
        #[serde(flatten)]
        info: Option<Token<'a>>,
    }
    to_text(&Inactive {
        active: verdict.active,
        reason: verdict.reason.map(|reason| reason.name()),
        missing_scopes: &verdict.missing_scopes,
        info: verdict.token.as_deref().map(Token::of),
    })
}

/// What a change did.
pub fn changed(changed: &Changed) -> String {
    #[derive(Serialize)]
    struct Object {
        count: u64,
        ids: Vec<String>,
        dry_run: bool,
    }
    to_text(&Object {
        count: changed.count,
        ids: changed.ids.iter().map(TokenId::to_string).collect(),
        dry_run: changed.dry_run,
    })
}

/// A list that is written while its pages come: [`Listing::page`] for each, then [`Listing::end`].
#[derive(Default)]
pub struct Listing {
    begun: bool,
}

impl Listing {
    /// The next tokens.
    pub fn page(&mut self, tokens: &[TokenInfo]) -> String {
        let mut text = Vec::with_capacity(1024 * tokens.len() + 16);
        for info in tokens {
            text.extend_from_slice(if std::mem::replace(&mut self.begun, true) { b"," } else { b"{\"tokens\":[" });
            write!(text, "{}", token(info)).expect("memory takes what is written");
        }
        String::from_utf8(text).expect("JSON is UTF-8")
    }

    /// What closes the list; `next` is where another list would go on.
    pub fn end(self, next: Option<TokenId>) -> String {
        let begin = if self.begun { "" } else { "{\"tokens\":[" };
        format!("{begin}],\"next\":{}}}\n", to_text(&next.map(|id| id.to_string())))
    }
}
