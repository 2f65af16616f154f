//! What single arguments may be. Errors here never repeat the argument: clap does, and `super::super::leak` sees to it
//! that it repeats no token.

use std::net::IpAddr;
use std::time::Duration;

use crate::ctl::error::ArgumentError;
use crate::protocol::message::{Handle, Rate};
use crate::protocol::{LABEL_KEY_MAX, LABEL_VALUE_MAX};
use crate::scope::{self, Scope, ScopeError};
use crate::time::{TimeError, UnixTime, parse_duration, parse_time, wall_now};
use crate::token::{self, ID_CHARS};

/// Characters of an id that a change needs at least: the time of issue alone is ten of them.
pub(super) const CHANGE_PREFIX_MIN: usize = 12;

pub(super) fn duration(text: &str) -> Result<Duration, TimeError> {
    parse_duration(text)
}

pub(super) fn time(text: &str) -> Result<UnixTime, TimeError> {
    parse_time(text, wall_now())
}

pub(super) fn granted_scope(text: &str) -> Result<String, ScopeError> {
    text.parse::<Scope>().map(String::from)
}

pub(super) fn required_scope(text: &str) -> Result<String, ScopeError> {
    scope::check_required(text).map(|()| text.to_owned())
}

/// `100/1m`: at most 100 in each minute.
pub(in crate::ctl) fn rate(text: &str) -> Result<Rate, ArgumentError> {
    let (count, per) = text.split_once('/').ok_or(ArgumentError::Rate)?;
    let count: u32 = count.parse().map_err(|_| ArgumentError::Rate)?;
    let per = parse_duration(per).map_err(|_| ArgumentError::Rate)?;
    if count == 0 || per.is_zero() { Err(ArgumentError::Rate) } else { Ok(Rate { count, per }) }
}

/// `key=value`; the value may be empty and may contain `=`.
pub(super) fn label(text: &str) -> Result<(String, String), ArgumentError> {
    let (key, value) = text.split_once('=').ok_or(ArgumentError::Label)?;
    if key.is_empty() || key.len() > LABEL_KEY_MAX || value.len() > LABEL_VALUE_MAX {
        return Err(ArgumentError::Label);
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// A network in CIDR form; an address alone is the network of that one address.
pub(super) fn network(text: &str) -> Result<String, ArgumentError> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| ArgumentError::Network)?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| ArgumentError::Network)?;
    let all = if address.is_ipv4() { 32 } else { 128 };
    match bits.unwrap_or(all) {
        bits if bits <= all => Ok(format!("{address}/{bits}")),
        _ => Err(ArgumentError::Network),
    }
}

/// An id, a head, or the first characters of either.
pub(super) fn handle(text: &str) -> Result<Handle, ArgumentError> {
    prefix_of(text, 1)
}

/// The same for what changes something: a prefix is at least [`CHANGE_PREFIX_MIN`] characters of the id.
pub(super) fn change_handle(text: &str) -> Result<Handle, ArgumentError> {
    prefix_of(text, CHANGE_PREFIX_MIN)
}

fn prefix_of(text: &str, min: usize) -> Result<Handle, ArgumentError> {
    if token::id_of_handle(text).is_ok() {
        return Ok(Handle(text.to_owned()));
    }
    // Of a head that was cut short only the id's part counts.
    let id = text.split_once('_').map_or(text, |(_, id)| id);
    let crockford = |c: u8| c.is_ascii_digit() || c.is_ascii_uppercase() && !matches!(c, b'I' | b'L' | b'O' | b'U');
    if id.is_empty() || id.len() >= ID_CHARS || !id.bytes().all(crockford) || id.as_bytes()[0] > b'7' {
        return Err(ArgumentError::Handle);
    }
    if id.len() < min {
        return Err(ArgumentError::HandleTooShort);
    }
    Ok(Handle(id.to_owned()))
}
