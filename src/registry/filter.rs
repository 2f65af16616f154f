//! Which tokens a listing or a change of many is about: every condition that is given must hold.

use super::{Invalid, check_text};
use crate::protocol::filter::{CONDITIONS_MAX, Condition, Filter};
use crate::protocol::message::State;
use crate::protocol::{LABEL_KEY_MAX, LABEL_VALUE_MAX, NAME_MAX};
use crate::store::record::{LastUse, TokenRecord};
use crate::store::select;
use crate::time::UnixTime;

/// Checks the texts of a filter, so that a mistyped one is an error and not an empty list.
///
/// # Errors
/// [`Invalid`] of the first that can't be.
pub fn check(filter: &Filter) -> Result<(), Invalid> {
    if filter.0.len() > CONDITIONS_MAX {
        return Err(Invalid::TooMany { field: "conditions", max: CONDITIONS_MAX });
    }
    filter.0.iter().try_for_each(|condition| match condition {
        Condition::Subject(text) => check_text("subject", text, NAME_MAX),
        Condition::Issuer(text) => check_text("issuer", text, NAME_MAX),
        Condition::Name(text) => check_text("name", text, NAME_MAX),
        Condition::Profile(text) => check_text("profile", text, NAME_MAX),
        Condition::Label(text) => check_text("label", text, LABEL_KEY_MAX + 1 + LABEL_VALUE_MAX),
        Condition::Scope(scope) => Ok(scope.parse::<crate::scope::Scope>().map(drop)?),
        _ => Ok(()),
    })
}

/// Whether a token fits. `last` is asked for only if the filter is about use, and once at most.
pub fn matches<E>(
    filter: &Filter,
    record: &TokenRecord,
    now: UnixTime,
    last: impl FnOnce() -> Result<Option<LastUse>, E>,
) -> Result<bool, E> {
    if !select::meets(filter, record) {
        return Ok(false);
    }
    let mut unused_since = None;
    for condition in &filter.0 {
        let fits = match condition {
            Condition::State(state) => *state == record.state(now),
            Condition::ExpiringWithin(within) => {
                let soon = record.expires_at.is_some_and(|at| at > now && at <= now.saturating_add(*within));
                let good = [State::Active, State::Rotating, State::NotYetValid, State::Suspended];
                soon && good.contains(&record.state(now))
            }
            Condition::UnusedFor(unused) => {
                let at = now.saturating_sub(*unused);
                unused_since = Some(unused_since.map_or(at, |other: UnixTime| other.min(at)));
                true
            }
            Condition::UnusedSince(at) => {
                unused_since = Some(unused_since.map_or(*at, |other: UnixTime| other.min(*at)));
                true
            }
            _ => true,
        };
        if !fits {
            return Ok(false);
        }
    }
    match unused_since {
        // Used at that very moment `UnusedFor` ago counts as unused for that long.
        Some(at) => Ok(last()?.map_or(record.issued_at, |last| last.at) <= at),
        None => Ok(true),
    }
}
