//! edit: what a token is called and where it is good, freely; what it may do and for how long, only less.
//!
//! Who only holds a token (its subject, and not its issuer) may narrow where it is good and not widen it: what its issuer
//! set must not be lifted by its holder. Labels that a profile set are the configuration's, and its administrator's to change.

use std::collections::BTreeMap;

use super::issue::{Rules, bounded, check_labels, networks, sorted, units};
use super::narrow::{is_within, narrower};
use super::{Invalid, Refusal, check_text, ended};
use crate::protocol::message::{self, Ends};
use crate::protocol::{BINDINGS_MAX, LABELS_MAX, NAME_MAX};
use crate::scope::{Scope, ScopeSet};
use crate::store::record::TokenRecord;
use crate::time::UnixTime;

/// Whose hand edits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    /// A peer with full rights.
    Full,
    /// The token's issuer, or a peer that a rule lets edit others' tokens.
    Free,
    /// The one whom the token stands for, and who did not issue it.
    Subject,
}

/// An edit that changes something.
#[derive(Clone, PartialEq, Eq)]
pub struct Edited {
    /// The record as it is to be stored.
    pub record: TokenRecord,
    /// What lookups may see before that is durable; `None` where nothing was taken away, and then the state before.
    pub meanwhile: Option<TokenRecord>,
    /// Nothing was given: only less than before is left.
    pub narrows_only: bool,
    /// What changed, for the audit line.
    pub what: String,
}

/// The edited record; `None` when all is so already.
///
/// # Errors
/// [`Refusal::State`] for a token that has ended; [`Refusal::NotTheirs`] for what is beyond `hand`; [`Refusal::Invalid`]
/// for more than the token has.
pub fn edit(
    old: &TokenRecord,
    asked: &message::Edit,
    hand: Hand,
    rules: &Rules,
    now: UnixTime,
) -> Result<Option<Edited>, Refusal> {
    if let Some(state) = ended(old, now) {
        return Err(Refusal::State { verb: "edited", state });
    }
    let mut new = old.clone();
    let mut what = Vec::new();
    if let Some(name) = &asked.name {
        check_text("name", name, NAME_MAX)?;
        new.name.clone_from(name);
        note(&mut what, new.name != old.name, || format!("name, was {:?}", old.name));
    }
    new.labels = labels(old, asked, hand, rules)?;
    note(&mut what, new.labels != old.labels, || "labels".to_owned());
    if let Some(list) = &asked.allow_from {
        new.allow_from = networks(list)?;
        note(&mut what, new.allow_from != old.allow_from, || format!("networks, now {}", listed(&new.allow_from)));
    }
    if let Some(list) = &asked.allow_units {
        new.allow_units = units(list)?;
        note(&mut what, new.allow_units != old.allow_units, || format!("units, now {}", listed(&new.allow_units)));
    }
    if let Some(list) = &asked.allow_uids {
        new.allow_uids = bounded("uids", sorted(list.clone()), BINDINGS_MAX)?;
        note(&mut what, new.allow_uids != old.allow_uids, || format!("uids, now {}", listed(&new.allow_uids)));
    }
    new.scopes = scopes(old, asked)?;
    note(&mut what, new.scopes != old.scopes, || "scopes".to_owned());
    if let Some(ends) = asked.ends {
        let at = expiry(old, ends, now)?;
        new.expires_at = Some(at);
        note(&mut what, new.expires_at != old.expires_at, || format!("expiry, now {at}"));
    }
    let within = is_within(&new, old);
    if hand == Hand::Subject && !within {
        return Err(Refusal::NotTheirs("to be the token's issuer, to widen where it is good (it is only its subject)"));
    }
    if what.is_empty() {
        return Ok(None);
    }
    new.version += 1;
    let between = narrower(old, &new, now);
    let bounds = |record: &TokenRecord| {
        let TokenRecord { scopes, expires_at, allow_from, allow_units, allow_uids, .. } = record.clone();
        (scopes, expires_at, allow_from, allow_units, allow_uids, record.suspended.is_some())
    };
    let takes_away = bounds(&between) != bounds(old);
    let meanwhile = takes_away.then_some(between);
    Ok(Some(Edited { record: new, meanwhile, narrows_only: within && takes_away, what: what.join("; ") }))
}

/// Whether a request says anything at all.
///
/// # Errors
/// [`Invalid::NoChange`], and [`Invalid::TooMany`] for lists that no token could have.
pub fn check(asked: &message::Edit) -> Result<(), Invalid> {
    let nothing = message::Edit::of(asked.token.clone());
    if *asked == nothing {
        return Err(Invalid::NoChange);
    }
    if asked.unlabel.len() > LABELS_MAX {
        return Err(Invalid::TooMany { field: "labels", max: LABELS_MAX });
    }
    if asked.unlabel.iter().any(|key| asked.labels.contains_key(key)) {
        return Err(Invalid::LabelTwice);
    }
    Ok(())
}

fn note(what: &mut Vec<String>, changed: bool, say: impl FnOnce() -> String) {
    if changed {
        what.push(say());
    }
}

fn listed<T: ToString>(values: &[T]) -> String {
    if values.is_empty() {
        return "any".to_owned();
    }
    values.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}

fn labels(
    old: &TokenRecord,
    asked: &message::Edit,
    hand: Hand,
    rules: &Rules,
) -> Result<BTreeMap<String, String>, Refusal> {
    let mut labels = old.labels.clone();
    labels.extend(asked.labels.clone());
    labels.retain(|key, _| !asked.unlabel.contains(key));
    check_labels(&labels)?;
    let marked = |key: &String| match old.profile.as_ref().map(|name| rules.profiles.get(name)) {
        None => false,
        Some(Some(profile)) => profile.labels.contains_key(key),
        // The profile is gone from the configuration: which labels were its own is not known any more.
        Some(None) => old.labels.contains_key(key),
    };
    let touched = |key: &&String| labels.get(*key) != old.labels.get(*key);
    if hand != Hand::Full && asked.labels.keys().chain(&asked.unlabel).filter(touched).any(marked) {
        return Err(Refusal::NotTheirs("full rights, to change a label that the token's profile sets"));
    }
    Ok(labels)
}

fn scopes(old: &TokenRecord, asked: &message::Edit) -> Result<ScopeSet, Refusal> {
    let mut scopes = match &asked.scopes {
        Some(texts) => {
            let scopes = ScopeSet::parse(texts).map_err(Invalid::from)?;
            if let Some(wider) = scopes.iter().find(|scope| !old.scopes.covers(scope.as_str())) {
                return Err(Invalid::WiderScope(wider.clone()).into());
            }
            scopes
        }
        None => old.scopes.clone(),
    };
    if !asked.drop_scopes.is_empty() {
        let dropped = ScopeSet::parse(&asked.drop_scopes).map_err(Invalid::from)?;
        let there = |scope: &&Scope| scopes.iter().any(|other| other == *scope);
        if let Some(missing) = dropped.iter().find(|scope| !there(scope)) {
            return Err(Invalid::NoSuchScope(missing.clone()).into());
        }
        let kept: Vec<Scope> = scopes.iter().filter(|scope| !dropped.iter().any(|it| it == *scope)).cloned().collect();
        scopes = ScopeSet::try_from(kept).map_err(Invalid::from)?;
    }
    if scopes.is_empty() && (asked.scopes.is_some() || !asked.drop_scopes.is_empty()) {
        return Err(Invalid::NoScopes.into());
    }
    Ok(scopes)
}

fn expiry(old: &TokenRecord, ends: Ends, now: UnixTime) -> Result<UnixTime, Refusal> {
    let Some(expires_at) = old.expires_at else { return Err(Invalid::CanaryTtl.into()) };
    let at = match ends {
        Ends::At(at) => at,
        Ends::In(ttl) => now.saturating_add(ttl),
    };
    if at <= now {
        return Err(Invalid::ExpiryPast.into());
    }
    if at > expires_at {
        return Err(Invalid::LaterExpiry(expires_at).into());
    }
    if old.not_before.is_some_and(|begins| begins >= at) {
        return Err(Invalid::NeverValid.into());
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Profile;
    use crate::protocol::message::{Edit, Handle, Issue, State};
    use crate::registry::fixtures::{DAY, NOW, named, record, rules};
    use crate::store::record::Ending;
    use crate::token::Kind;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    fn asked(change: impl FnOnce(&mut Edit)) -> Edit {
        let mut edit = Edit::of(Handle("01M844DZG0FAY828T5CY4TQKFF".into()));
        change(&mut edit);
        edit
    }

    fn with(it: &TokenRecord, hand: Hand, change: impl FnOnce(&mut Edit)) -> Result<Option<Edited>, Refusal> {
        edit(it, &asked(change), hand, &rules(), NOW)
    }

    fn done(it: &TokenRecord, hand: Hand, change: impl FnOnce(&mut Edit)) -> Edited {
        match with(it, hand, change) {
            Ok(Some(edited)) => edited,
            Ok(None) => panic!("nothing changed"),
            Err(refusal) => panic!("{refusal}"),
        }
    }

    fn refused(it: &TokenRecord, hand: Hand, change: impl FnOnce(&mut Edit)) -> Refusal {
        with(it, hand, change).err().expect("it is not to be had")
    }

    fn sample() -> TokenRecord {
        record(&Issue {
            scopes: texts(&["repo:*", "ci:run"]),
            allow_from: texts(&["10.0.0.0/8"]),
            labels: [("team".into(), "web".into()), ("env".into(), "prod".into())].into(),
            ttl: Some(10 * DAY),
            ..named()
        })
    }

    #[test]
    fn name_labels_networks_units_and_uids_change_as_asked() {
        let it = sample();
        let edited = done(&it, Hand::Free, |edit| {
            edit.name = Some("nightly".into());
            edit.labels = [("team".into(), "ops".into()), ("x".into(), String::new())].into();
            edit.unlabel = texts(&["env", "never-there"]);
            edit.allow_from = Some(Vec::new());
            edit.allow_units = Some(texts(&["b.service", "a.service", "a.service"]));
            edit.allow_uids = Some(vec![7]);
        });
        let new = edited.record;
        assert_eq!((new.name.as_str(), new.version), ("nightly", it.version + 1));
        assert_eq!(new.labels, [("team".into(), "ops".into()), ("x".into(), String::new())].into());
        assert_eq!(
            (new.allow_from.len(), new.allow_units, new.allow_uids),
            (0, texts(&["a.service", "b.service"]), vec![7])
        );
        assert_eq!((new.scopes, new.expires_at), (it.scopes, it.expires_at));
        assert_eq!(
            edited.what,
            "name, was \"backup\"; labels; networks, now any; units, now a.service b.service; uids, now 7"
        );
    }

    #[test]
    fn scopes_and_expiry_only_become_narrower() {
        let it = sample();
        let less = done(&it, Hand::Subject, |edit| edit.scopes = Some(texts(&["repo:read", "ci:run"])));
        assert_eq!(less.record.scopes.to_strings(), ["ci:run", "repo:read"]);
        assert!(less.narrows_only);
        let dropped = done(&it, Hand::Subject, |edit| edit.drop_scopes = texts(&["repo:*"]));
        assert_eq!(dropped.record.scopes.to_strings(), ["ci:run"]);
        let wider = |scope: &str| refused(&it, Hand::Full, |edit| edit.scopes = Some(texts(&[scope])));
        for scope in ["*", "ci:*", "repo", "admin"] {
            assert_eq!(wider(scope), Invalid::WiderScope(scope.parse().unwrap()).into());
        }
        assert_eq!(
            refused(&it, Hand::Full, |edit| edit.drop_scopes = texts(&["repo:read"])),
            Invalid::NoSuchScope("repo:read".parse().unwrap()).into(),
            "it is in what a wildcard covers, and can't be taken out of that"
        );
        assert_eq!(refused(&it, Hand::Full, |edit| edit.scopes = Some(Vec::new())), Invalid::NoScopes.into());
        assert_eq!(
            refused(&it, Hand::Full, |edit| edit.drop_scopes = texts(&["repo:*", "ci:run"])),
            Invalid::NoScopes.into()
        );

        let sooner = done(&it, Hand::Subject, |edit| edit.ends = Some(Ends::In(DAY)));
        assert_eq!(sooner.record.expires_at, Some(NOW.saturating_add(DAY)));
        assert_eq!((sooner.record.max_expires_at, sooner.record.ttl), (it.max_expires_at, it.ttl));
        let ends = |ends| refused(&it, Hand::Full, |edit| edit.ends = Some(ends));
        let at = it.expires_at.unwrap();
        assert_eq!(ends(Ends::At(at.saturating_add(Duration::from_secs(1)))), Invalid::LaterExpiry(at).into());
        assert_eq!(ends(Ends::In(11 * DAY)), Invalid::LaterExpiry(at).into());
        assert_eq!(ends(Ends::At(NOW)), Invalid::ExpiryPast.into());
        assert_eq!(ends(Ends::In(Duration::ZERO)), Invalid::ExpiryPast.into());
        let later = TokenRecord { not_before: Some(NOW.saturating_add(2 * DAY)), ..it };
        assert_eq!(refused(&later, Hand::Full, |edit| edit.ends = Some(Ends::In(DAY))), Invalid::NeverValid.into());
    }

    /// What its issuer set must not be lifted by its holder.
    #[test]
    fn the_subject_narrows_and_does_not_widen() {
        let it = sample();
        let narrowed = |hand| done(&it, hand, |edit| edit.allow_from = Some(texts(&["10.1.0.0/16"])));
        assert!(narrowed(Hand::Subject).narrows_only);
        done(&it, Hand::Subject, |edit| edit.allow_units = Some(texts(&["a.service"])));
        for wider in [&["10.0.0.0/8", "192.0.2.0/24"][..], &["192.0.2.0/24"], &[], &["0.0.0.0/0"]] {
            let change = |edit: &mut Edit| edit.allow_from = Some(texts(wider));
            assert!(matches!(refused(&it, Hand::Subject, change), Refusal::NotTheirs(_)), "{wider:?}");
            done(&it, Hand::Free, change);
        }
    }

    #[test]
    fn a_profiles_label_is_its_administrators() {
        let mut rules = rules();
        let profile = Profile {
            kind: None,
            scopes: ScopeSet::default(),
            audiences: Vec::new(),
            ttl: None,
            labels: [("team".into(), "web".into())].into(),
        };
        rules.profiles.insert("ci".into(), profile);
        let it = TokenRecord { profile: Some("ci".into()), ..sample() };
        let try_it = |rules: &Rules, hand, change: fn(&mut Edit)| edit(&it, &asked(change), hand, rules, NOW);
        let takes: [fn(&mut Edit); 2] =
            [|edit| edit.unlabel = vec!["team".into()], |edit| edit.labels = [("team".into(), "ops".into())].into()];
        for take in takes {
            for hand in [Hand::Free, Hand::Subject] {
                assert!(matches!(try_it(&rules, hand, take), Err(Refusal::NotTheirs(_))));
            }
            assert!(matches!(try_it(&rules, Hand::Full, take), Ok(Some(_))));
        }
        // The other labels are free, and so is to say what is so already.
        assert!(matches!(try_it(&rules, Hand::Free, |edit| edit.unlabel = vec!["env".into()]), Ok(Some(_))));
        let same: fn(&mut Edit) = |edit| edit.labels = [("team".into(), "web".into())].into();
        assert!(matches!(try_it(&rules, Hand::Free, same), Ok(None)));
        // Which were its own is not known when the profile is gone: then none is given away.
        rules.profiles.clear();
        let env: fn(&mut Edit) = |edit| edit.unlabel = vec!["env".into()];
        assert!(matches!(try_it(&rules, Hand::Free, env), Err(Refusal::NotTheirs(_))));
    }

    #[test]
    fn what_is_seen_before_it_is_durable_is_the_narrower_of_both() {
        let it = sample();
        let both_ways = done(&it, Hand::Full, |edit| {
            edit.allow_from = Some(texts(&["10.1.0.0/16", "192.0.2.0/24"]));
            edit.scopes = Some(texts(&["ci:run"]));
        });
        let meanwhile = both_ways.meanwhile.expect("something was taken away");
        assert_eq!(meanwhile.allow_from, ["10.1.0.0/16".parse().unwrap()]);
        assert_eq!(meanwhile.scopes.to_strings(), ["ci:run"]);
        assert!(!both_ways.narrows_only);
        let elsewhere = done(&it, Hand::Full, |edit| edit.allow_from = Some(texts(&["192.0.2.0/24"])));
        assert_eq!(elsewhere.meanwhile.expect("something was taken away").state(NOW), State::Suspended);
        for widens in [Some(Vec::new()), Some(texts(&["10.0.0.0/8", "192.0.2.0/24"]))] {
            assert!(done(&it, Hand::Full, |edit| edit.allow_from = widens).meanwhile.is_none());
        }
        assert!(done(&it, Hand::Full, |edit| edit.name = Some("x".into())).meanwhile.is_none());
    }

    #[test]
    fn what_has_ended_stays_as_it_is_and_bait_has_no_expiry() {
        let it = sample();
        let ending = Some(Ending { at: NOW, reason: None, by_uid: 0 });
        let rename = |edit: &mut Edit| edit.name = Some("x".into());
        for (it, state) in [
            (TokenRecord { revoked: ending.clone(), ..it.clone() }, State::Revoked),
            (TokenRecord { expires_at: Some(NOW), ..it.clone() }, State::Expired),
            (TokenRecord { replaced: true, ..it.clone() }, State::Rotated),
            (TokenRecord { max_uses: Some(1), uses: 1, ..it.clone() }, State::Exhausted),
        ] {
            assert_eq!(refused(&it, Hand::Full, rename), Refusal::State { verb: "edited", state });
        }
        done(&TokenRecord { suspended: ending, ..it }, Hand::Full, rename);
        let canary = record(&Issue { kind: Some(Kind::Canary), ..named() });
        done(&canary, Hand::Full, rename);
        assert_eq!(refused(&canary, Hand::Full, |edit| edit.ends = Some(Ends::In(DAY))), Invalid::CanaryTtl.into());
    }

    #[test]
    fn nothing_to_do_is_nothing_done() {
        let it = sample();
        let same = with(&it, Hand::Full, |edit| {
            edit.name = Some(it.name.clone());
            edit.allow_from = Some(texts(&["10.0.0.0/8"]));
            edit.ends = Some(Ends::At(it.expires_at.unwrap()));
        });
        assert!(matches!(same, Ok(None)));
        assert_eq!(check(&asked(|_| {})), Err(Invalid::NoChange));
        let twice = asked(|edit| {
            edit.labels = [("a".into(), "b".into())].into();
            edit.unlabel = texts(&["a"]);
        });
        assert_eq!(check(&twice), Err(Invalid::LabelTwice));
    }
}
