//! Which tokens a listing is about: every condition that is given must hold.

use super::{Invalid, check_text};
use crate::protocol::message::{Filter, State};
use crate::protocol::{LABEL_KEY_MAX, LABEL_VALUE_MAX, NAME_MAX};
use crate::store::record::{LastUse, TokenRecord};
use crate::time::UnixTime;

/// Checks the texts of a filter, so that a mistyped one is an error and not an empty list.
///
/// # Errors
/// [`Invalid`] of the first that can't be.
pub fn check(filter: &Filter) -> Result<(), Invalid> {
    let texts = [
        ("subject", &filter.subject, NAME_MAX),
        ("issuer", &filter.issuer, NAME_MAX),
        ("name", &filter.name, NAME_MAX),
        ("profile", &filter.profile, NAME_MAX),
        ("label", &filter.label, LABEL_KEY_MAX + 1 + LABEL_VALUE_MAX),
    ];
    for (field, text, max) in texts {
        if let Some(text) = text {
            check_text(field, text, max)?;
        }
    }
    match &filter.scope {
        Some(scope) => Ok(scope.parse::<crate::scope::Scope>().map(drop)?),
        None => Ok(()),
    }
}

/// Whether a token fits. `last` is asked for only if the filter is about use.
pub fn matches<E>(
    filter: &Filter,
    record: &TokenRecord,
    now: UnixTime,
    last: impl FnOnce() -> Result<Option<LastUse>, E>,
) -> Result<bool, E> {
    let is =
        |wanted: &Option<String>, value: Option<&str>| wanted.as_deref().is_none_or(|wanted| value == Some(wanted));
    if !is(&filter.subject, Some(&record.subject))
        || !is(&filter.issuer, Some(&record.issuer))
        || !is(&filter.name, Some(&record.name))
        || !is(&filter.profile, record.profile.as_deref())
        || filter.kind.is_some_and(|kind| kind != record.kind)
        || filter.scope.as_deref().is_some_and(|scope| !record.scopes.covers(scope))
        || filter.state.is_some_and(|state| state != record.state(now))
        || filter.label.as_deref().is_some_and(|label| !has_label(record, label))
    {
        return Ok(false);
    }
    if let Some(within) = filter.expiring_within {
        let soon = record.expires_at.is_some_and(|at| at > now && at <= now.saturating_add(within));
        let good = matches!(record.state(now), State::Active | State::Rotating | State::NotYetValid | State::Suspended);
        if !soon || !good {
            return Ok(false);
        }
    }
    if let Some(unused) = filter.unused_for {
        let since = last()?.map_or(record.issued_at, |last| last.at);
        return Ok(now.since(since) >= unused);
    }
    Ok(true)
}

fn has_label(record: &TokenRecord, label: &str) -> bool {
    match label.split_once('=') {
        Some((key, value)) => record.labels.get(key).is_some_and(|v| v == value),
        None => record.labels.contains_key(label),
    }
}
