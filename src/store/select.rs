//! Whether a record meets a condition that only the record decides: what orders over many tokens are made of, and the
//! first half of what listings ask.
//!
//! Conditions on the clock or on uses are not here: their answer changes without a write, so that nothing durable may
//! hang on them ([`decides`]).

use super::IndexTag;
use super::record::TokenRecord;
use crate::protocol::filter::{Condition, Filter};

/// Whether the record alone decides every condition of the filter, now and later.
pub fn decides(filter: &Filter) -> bool {
    filter.0.iter().all(decides_one)
}

/// The same of one condition.
pub fn decides_one(condition: &Condition) -> bool {
    !matches!(
        condition,
        Condition::State(_) | Condition::ExpiringWithin(_) | Condition::UnusedFor(_) | Condition::UnusedSince(_)
    )
}

/// Whether the record meets all conditions that it decides alone; the others are taken as met.
pub fn meets(filter: &Filter, record: &TokenRecord) -> bool {
    filter.0.iter().all(|condition| meets_one(condition, record))
}

fn meets_one(condition: &Condition, record: &TokenRecord) -> bool {
    match condition {
        Condition::Subject(subject) => record.subject == *subject,
        Condition::Issuer(issuer) => record.issuer == *issuer,
        Condition::Name(name) => record.name == *name,
        Condition::Label(label) => has_label(record, label),
        Condition::Scope(scope) => record.scopes.covers(scope),
        Condition::Kind(kind) => record.kind == *kind,
        Condition::Profile(profile) => record.profile.as_ref() == Some(profile),
        Condition::Family(family) => record.family == *family,
        Condition::IssuedBefore(at) => record.issued_at < *at,
        Condition::IssuedAfter(at) => record.issued_at >= *at,
        Condition::State(_)
        | Condition::ExpiringWithin(_)
        | Condition::UnusedFor(_)
        | Condition::UnusedSince(_)
        | Condition::All => true,
    }
}

/// The index that finds the fewest tokens, if the filter names something indexed.
pub fn index(filter: &Filter) -> Option<(IndexTag, String)> {
    let conditions = || filter.0.iter();
    let subject = conditions().find_map(|condition| match condition {
        Condition::Subject(subject) => Some((IndexTag::Subject, subject.clone())),
        _ => None,
    });
    let label = || {
        conditions().find_map(|condition| match condition {
            Condition::Label(label) if label.contains('=') => Some((IndexTag::Label, label.clone())),
            Condition::Label(key) => Some((IndexTag::LabelKey, key.clone())),
            _ => None,
        })
    };
    let issuer = || {
        conditions().find_map(|condition| match condition {
            Condition::Issuer(issuer) => Some((IndexTag::Issuer, issuer.clone())),
            _ => None,
        })
    };
    subject.or_else(label).or_else(issuer)
}

fn has_label(record: &TokenRecord, label: &str) -> bool {
    match label.split_once('=') {
        Some((key, value)) => record.labels.get(key).is_some_and(|v| v == value),
        None => record.labels.contains_key(label),
    }
}
