//! The verbs: what each decides about tokens, as pure functions over records, requests and a time.
//!
//! Invariant: nothing here reads a clock, a file or a socket, so that every decision can be tested alone and made again
//! inside the transaction that commits it. Who may ask is decided before, in `policy`; `service` ties both together.

#![forbid(unsafe_code)]

pub mod cut;
pub mod edit;
pub mod family;
pub mod filter;
pub mod first_use;
pub mod hold;
pub mod import;
pub mod issue;
pub mod narrow;
pub mod rate;
mod refusal;
pub mod renew;
pub mod replay;
pub mod revoke;
pub mod rotate;
pub mod shown;
pub mod sweep;
pub mod validate;
pub mod view;

use std::net::IpAddr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

pub use refusal::Refusal;

use crate::protocol;
use crate::protocol::message::State;
use crate::scope::{Scope, ScopeError};
use crate::store::record::TokenRecord;
use crate::time::{UnixTime, format_duration};
use crate::token::Kind;

/// What a request asks for that can't be; nothing was changed. The texts say what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// A text that must be there is empty.
    #[error("the {0} is empty: give one")]
    Empty(&'static str),
    /// A text is too long, or has control or bidirectional characters.
    #[error("the {field} is not plain printable text of at most {max} bytes")]
    Text {
        /// Which.
        field: &'static str,
        /// Bytes allowed.
        max: usize,
    },
    /// A text holds a token: a secret would end up in lists and logs.
    #[error("the {0} holds a whole token, and no log or list shows one: revoke that token, and leave it out")]
    LooksLikeToken(&'static str),
    /// Too many values.
    #[error("at most {max} {field}")]
    TooMany {
        /// Of which.
        field: &'static str,
        /// Allowed.
        max: usize,
    },
    /// A scope that is none.
    #[error("{0}")]
    Scope(#[from] ScopeError),
    /// A ttl of zero.
    #[error("the ttl is zero: give one, as in --ttl 30d")]
    ZeroTtl,
    /// A ttl over the kind's ceiling.
    #[error("a ttl of {} is over the ceiling for {kind} tokens, {} ([tokens.{kind}] max_ttl)", format_duration(*ttl), format_duration(*max))]
    TtlTooLong {
        /// Asked for.
        ttl: Duration,
        /// Allowed.
        max: Duration,
        /// Of which kind.
        kind: Kind,
    },
    /// A ttl for a canary.
    #[error("a canary does not expire: leave the ttl out")]
    CanaryTtl,
    /// Not before a time at which it has already expired.
    #[error("not_before is not before the token expires: give a longer ttl or an earlier time")]
    NeverValid,
    /// Zero uses.
    #[error("max_uses is zero: a token that is good for nothing is not made")]
    ZeroUses,
    /// A rate of none, or in no time.
    #[error("not a rate: a count of at least 1 and a period of 1 ms to 366 d, as in 100/1m")]
    Rate,
    /// Not a network.
    #[error("a network is not in CIDR form: write 10.0.0.0/8, 2001:db8::/32 or a single address")]
    Network,
    /// A network with bits set behind its prefix.
    #[error("a network has bits set behind its prefix: write {0}")]
    HostBits(IpNet),
    /// Not a unit.
    #[error("a unit is not the name of a .service or .scope")]
    Unit,
    /// A label's key.
    #[error("a label's key is 1 to {} plain bytes without '='", protocol::LABEL_KEY_MAX)]
    LabelKey,
    /// No such profile.
    #[error("there is no profile of that name in the configuration ([profile.NAME])")]
    NoProfile,
    /// Two ends of one life.
    #[error("give a ttl or expires_at, not both")]
    TtlAndEnd,
    /// Of a token that has expired where it comes from.
    #[error("expires_at is not in the future: it has expired")]
    Expired,
    /// The text of a token would end up in lists and logs.
    #[error(
        "the token's own text stands in its name, subject, labels or bindings, and no log or list shows one: leave it out"
    )]
    OwnText,
    /// More than the profile gives.
    #[error("the profile does not give that {0}: leave it out, or ask for less")]
    BeyondProfile(&'static str),
    /// An edit of nothing.
    #[error("nothing to change: say what")]
    NoChange,
    /// One label set and taken off.
    #[error("one label is set and taken off at once: do one of both")]
    LabelTwice,
    /// All scopes taken away.
    #[error("no scope would be left: revoke the token instead")]
    NoScopes,
    /// A scope that the token does not cover.
    #[error("{0} is more than the token has: an edit takes scopes away only; issue another token")]
    WiderScope(Scope),
    /// A scope to take away that is not there.
    #[error("the token has no scope {0}: bearerctl show lists what it has")]
    NoSuchScope(Scope),
    /// An expiry that is not ahead.
    #[error("that expiry is not ahead: revoke the token instead")]
    ExpiryPast,
    /// An expiry after the one that it has.
    #[error("the token expires at {0} already: an edit brings that forward only; renew it to have it longer")]
    LaterExpiry(UnixTime),
    /// A grace longer than the overlap.
    #[error("a grace of at most {}, which is how long a rotated token stays good at all ([rotation] overlap)", format_duration(*.0))]
    Grace(Duration),
}

/// How a token has ended for good, whether or not it is suspended as well.
pub fn ended(record: &TokenRecord, now: UnixTime) -> Option<State> {
    if record.revoked.is_some() {
        Some(State::Revoked)
    } else if record.is_rotated_out(now) {
        Some(State::Rotated)
    } else if record.expires_at.is_some_and(|at| now >= at) {
        Some(State::Expired)
    } else if validate::is_exhausted(record) {
        Some(State::Exhausted)
    } else {
        None
    }
}

/// Checks a text that people give: not empty, at most `max` bytes, printable, and not a token.
fn check_text(field: &'static str, text: &str, max: usize) -> Result<(), Invalid> {
    if text.trim().is_empty() {
        return Err(Invalid::Empty(field));
    }
    if !protocol::is_clean(text, max) {
        return Err(Invalid::Text { field, max });
    }
    if crate::token::holds_token(text) {
        return Err(Invalid::LooksLikeToken(field));
    }
    Ok(())
}

/// An IPv4 address that came mapped into IPv6 counts as IPv4.
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Reads a network or a single address; `::ffff:10.0.0.0/104` counts as `10.0.0.0/8`.
fn parse_network(text: &str) -> Result<IpNet, Invalid> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => IpNet::from(text.parse::<IpAddr>().map_err(|_| Invalid::Network)?),
    };
    if net.trunc() != net {
        return Err(Invalid::HostBits(net.trunc()));
    }
    if let IpNet::V6(v6) = net
        && v6.prefix_len() >= 96
        && let Some(v4) = v6.addr().to_ipv4_mapped()
    {
        return Ok(IpNet::V4(Ipv4Net::new(v4, v6.prefix_len() - 96).expect("at most 32 bits are left")));
    }
    Ok(net)
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
