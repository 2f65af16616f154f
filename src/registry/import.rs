//! import: a token that another system made becomes one of ours.
//!
//! What it shall be is planned as of a token that is issued ([`super::issue`]): the same defaults, profiles and ceilings.
//! Only its digest differs, and that it has no head.

use super::Invalid;
use super::issue::{Parties, Plan};
use crate::protocol::message::Issue;
use crate::store::record::TokenRecord;
use crate::time::UnixTime;
use crate::token::{Digest, Prefix, TokenId};

/// The request with its end told as a ttl.
///
/// # Errors
/// [`Invalid::TtlAndEnd`], [`Invalid::Expired`].
pub fn with_end(mut facts: Issue, expires_at: Option<UnixTime>, now: UnixTime) -> Result<Issue, Invalid> {
    let Some(at) = expires_at else { return Ok(facts) };
    if facts.ttl.is_some() {
        return Err(Invalid::TtlAndEnd);
    }
    if at <= now {
        return Err(Invalid::Expired);
    }
    facts.ttl = Some(at.since(now));
    Ok(facts)
}

/// Whether the text of a token stands in what would be shown of it.
pub fn shows(facts: &Issue, text: &str) -> bool {
    let Issue { name, subject, scopes, audiences, allow_from, allow_units, labels, profile, .. } = facts;
    let lists = scopes.iter().chain(audiences).chain(allow_from).chain(allow_units);
    let labels = labels.iter().flat_map(|(key, value)| [key, value]);
    let mut texts = [name].into_iter().chain(subject).chain(profile).chain(lists).chain(labels);
    texts.any(|shown| shown.contains(text))
}

/// The record of an imported token.
///
/// # Errors
/// As [`Plan::record`].
pub fn record(
    plan: Plan,
    id: TokenId,
    digest: Digest,
    parties: Parties,
    any_prefix: Prefix,
    now: UnixTime,
) -> Result<TokenRecord, Invalid> {
    let mut record = plan.record(id, any_prefix, digest, parties, now)?;
    record.prefix = None;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fixtures::{DAY, NOW, named, rules};
    use crate::registry::issue::plan;

    #[test]
    fn an_end_becomes_the_ttl_and_is_kept_to_the_microsecond() {
        let at = NOW.saturating_add(DAY * 3);
        let facts = with_end(named(), Some(at), NOW).unwrap();
        let parties = Parties { subject: "alice".into(), subject_uid: None, issuer: "root".into(), issuer_uid: 0 };
        let plan = plan(&facts, &rules()).unwrap();
        let id = TokenId::from_bytes([7; 16]);
        let it = record(plan, id, Digest([9; 32]), parties, rules().prefix, NOW).unwrap();
        assert_eq!((it.expires_at, it.ttl), (Some(at), Some(DAY * 3)));
        assert_eq!((it.head(), it.family), (None, id));
    }

    #[test]
    fn an_end_behind_us_or_a_second_one_is_refused() {
        assert_eq!(with_end(named(), Some(NOW), NOW), Err(Invalid::Expired));
        let both = Issue { ttl: Some(DAY), ..named() };
        assert_eq!(with_end(both.clone(), Some(NOW.saturating_add(DAY)), NOW), Err(Invalid::TtlAndEnd));
        assert_eq!(with_end(both.clone(), None, NOW), Ok(both));
    }

    #[test]
    fn the_text_is_shown_nowhere() {
        let text = "q8Zr2Lm7Xv4Tk9Wb";
        assert!(!shows(&named(), text));
        let around = format!("old {text}");
        for facts in [
            Issue { name: around.clone(), ..named() },
            Issue { subject: Some(text.into()), ..named() },
            Issue { audiences: vec![text.into()], ..named() },
            Issue { labels: [("k".to_owned(), around)].into(), ..named() },
            Issue { labels: [(text.to_owned(), String::new())].into(), ..named() },
        ] {
            assert!(shows(&facts, text));
        }
    }
}
