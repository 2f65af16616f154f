use std::time::Duration;

use super::filter;
use super::fixtures::{DAY, NOW, named, record, rules};
use super::issue::plan;
use super::revoke::{Revocation, revoke};
use super::validate::{Circumstances, Judgement, is_exhausted, is_genuine, judge};
use super::*;
use crate::config::Profile;
use crate::protocol::code::Reason;
use crate::protocol::filter::{Condition, Filter};
use crate::protocol::message::{self, State};
use crate::scope::ScopeSet;
use crate::store::record::{Ending, LastUse, Rotation, TokenRecord};
use crate::token::{Digest, Secret, Token, TokenId};

const ASKED: Circumstances<'static> =
    Circumstances { now: NOW, scopes: &[], audience: None, from: None, unit: None, uid: Some(0) };

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// Issued while the clock stood ten years ahead, and the clock is right again: not good for ten years and a day.
#[test]
fn a_token_of_the_future_is_not_good_before_it_was_issued() {
    let it = record(&message::Issue { ttl: Some(DAY), ..named() });
    let asked = Circumstances { now: NOW.saturating_sub(3650 * DAY), ..ASKED };
    assert_eq!(judge(&it, &asked), Judgement::Bad(Reason::NotYetValid));
    assert_eq!(it.state(asked.now), State::NotYetValid);
    assert_eq!(judge(&it, &ASKED), Judgement::Good);
}

/// A record that breaks every check of validate at once; healing them one by one shows the order.
#[test]
fn the_order_of_checks_is_fixed() {
    let mut it = record(&message::Issue {
        scopes: texts(&["repo:read"]),
        audiences: texts(&["git"]),
        allow_from: texts(&["10.0.0.0/8"]),
        allow_units: texts(&["nginx.service"]),
        max_uses: Some(1),
        ..named()
    });
    let ending = Some(Ending { at: NOW, reason: None, by_uid: 0 });
    it.revoked = ending.clone();
    it.suspended = ending;
    it.replaced = true;
    it.expires_at = Some(NOW);
    it.not_before = Some(NOW.saturating_add(DAY));
    it.kind = crate::token::Kind::Canary;
    it.uses = 1;
    type Heal = (Reason, fn(&mut TokenRecord, &mut Circumstances<'static>));
    let heal: [Heal; 9] = [
        (Reason::Revoked, |it, _| it.revoked = None),
        (Reason::Suspended, |it, _| it.suspended = None),
        (Reason::Rotated, |it, _| it.replaced = false),
        (Reason::Expired, |it, _| it.expires_at = None),
        (Reason::NotYetValid, |it, _| it.not_before = None),
        (Reason::Canary, |it, _| it.kind = crate::token::Kind::Machine),
        (Reason::WrongPeer, |_, asked| asked.unit = Some("nginx.service")),
        (Reason::WrongNetwork, |_, asked| asked.from = Some("::ffff:10.1.2.3".parse().unwrap())),
        (Reason::WrongAudience, |_, asked| asked.audience = Some("git")),
    ];
    let mut asked = Circumstances { scopes: &["repo:write", "admin"], ..ASKED };
    for (reason, mend) in heal {
        assert_eq!(judge(&it, &asked), Judgement::Bad(reason));
        mend(&mut it, &mut asked);
    }
    assert_eq!(judge(&it, &asked), Judgement::Lacks(texts(&["repo:write", "admin"])));
    asked.scopes = &["repo:read"];
    assert_eq!(judge(&it, &asked), Judgement::Good);
    assert!(is_exhausted(&it));
    it.uses = 0;
    assert!(!is_exhausted(&it));
}

#[test]
fn expiry_is_exclusive_and_beginning_inclusive() {
    let it = record(&message::Issue { ttl: Some(DAY), not_before: Some(NOW.saturating_add(DAY / 2)), ..named() });
    let at = |time: Duration| judge(&it, &Circumstances { now: NOW.saturating_add(time), ..ASKED });
    assert_eq!(at(DAY / 2 - Duration::from_micros(1)), Judgement::Bad(Reason::NotYetValid));
    assert_eq!(at(DAY / 2), Judgement::Good);
    assert_eq!(at(DAY - Duration::from_micros(1)), Judgement::Good);
    assert_eq!(at(DAY), Judgement::Bad(Reason::Expired));
}

#[test]
fn bindings_fail_closed() {
    let bound = |request: message::Issue| record(&request);
    let networked = bound(message::Issue { allow_from: texts(&["192.0.2.7", "2001:db8::/32"]), ..named() });
    let from = |text: &str| judge(&networked, &Circumstances { from: Some(text.parse().unwrap()), ..ASKED });
    assert_eq!(judge(&networked, &ASKED), Judgement::Bad(Reason::WrongNetwork));
    assert_eq!(from("192.0.2.7"), Judgement::Good);
    assert_eq!(from("192.0.2.8"), Judgement::Bad(Reason::WrongNetwork));
    assert_eq!(from("2001:db8::1"), Judgement::Good);
    let for_uid = bound(message::Issue { allow_uids: vec![33], ..named() });
    assert_eq!(judge(&for_uid, &ASKED), Judgement::Bad(Reason::WrongPeer));
    assert_eq!(judge(&for_uid, &Circumstances { uid: None, ..ASKED }), Judgement::Bad(Reason::WrongPeer));
    assert_eq!(judge(&for_uid, &Circumstances { uid: Some(33), ..ASKED }), Judgement::Good);
    let for_service = bound(message::Issue { audiences: texts(&["git"]), ..named() });
    assert_eq!(judge(&for_service, &ASKED), Judgement::Bad(Reason::WrongAudience));
}

#[test]
fn a_genuine_token_has_the_right_secret_letter_and_record() {
    let key = [3; 32];
    let token = Token {
        prefix: "brd".parse().unwrap(),
        kind: crate::token::Kind::Machine,
        id: TokenId::from_bytes([7; 16]),
        secret: Secret::from_bytes([1; 32]),
    };
    let mut it = record(&named());
    it.digest = crate::token::digest(&key, token.id, &token.secret);
    assert!(is_genuine(&key, &token, Some(&it)));
    assert!(!is_genuine(&key, &token, None));
    assert!(!is_genuine(&key, &Token { secret: Secret::from_bytes([2; 32]), ..token.clone() }, Some(&it)));
    assert!(!is_genuine(&key, &Token { kind: crate::token::Kind::Session, ..token.clone() }, Some(&it)));
    assert!(!is_genuine(&key, &token, Some(&TokenRecord { digest: Digest([0; 32]), ..it })));
}

#[test]
fn what_cannot_be_issued_is_said() {
    let with = |change: fn(&mut message::Issue)| {
        let mut request = named();
        change(&mut request);
        plan(&request, &rules()).unwrap_err()
    };
    assert_eq!(with(|r| r.name.clear()), Invalid::Empty("name"));
    assert_eq!(with(|r| r.name = "  ".into()), Invalid::Empty("name"));
    assert_eq!(with(|r| r.name = "a\nb".into()), Invalid::Text { field: "name", max: 128 });
    assert_eq!(with(|r| r.name = "a\u{202e}b".into()), Invalid::Text { field: "name", max: 128 });
    assert_eq!(with(|r| r.name = "x".repeat(129)), Invalid::Text { field: "name", max: 128 });
    assert_eq!(
        with(|r| r.name = "brdm_01M844DZG0FAY828T5CY4TQKFF_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf2b9MjO".into()),
        Invalid::LooksLikeToken("name")
    );
    assert_eq!(with(|r| r.scopes = texts(&["Repo"])), Invalid::Scope(ScopeError::Grammar));
    assert_eq!(with(|r| r.ttl = Some(Duration::ZERO)), Invalid::ZeroTtl);
    assert!(matches!(with(|r| r.ttl = Some(367 * DAY)), Invalid::TtlTooLong { .. }));
    assert!(matches!(
        with(|r| (r.kind, r.ttl) = (Some(crate::token::Kind::Session), Some(2 * DAY))),
        Invalid::TtlTooLong { .. }
    ));
    assert_eq!(with(|r| (r.kind, r.ttl) = (Some(crate::token::Kind::Canary), Some(DAY))), Invalid::CanaryTtl);
    assert_eq!(with(|r| r.max_uses = Some(0)), Invalid::ZeroUses);
    assert_eq!(with(|r| r.rate = Some(message::Rate { count: 0, per: DAY })), Invalid::Rate);
    assert_eq!(with(|r| r.allow_from = texts(&["10.0.0.0/33"])), Invalid::Network);
    assert_eq!(with(|r| r.allow_from = texts(&["10.0.0.1/8"])), Invalid::HostBits("10.0.0.0/8".parse().unwrap()));
    assert_eq!(with(|r| r.allow_units = texts(&["nginx"])), Invalid::Unit);
    assert_eq!(with(|r| r.labels = [("a=b".into(), "c".into())].into()), Invalid::LabelKey);
    assert_eq!(
        with(|r| r.labels = (0..33).map(|i| (format!("k{i}"), String::new())).collect()),
        Invalid::TooMany { field: "labels", max: 32 }
    );
    assert_eq!(with(|r| r.profile = Some("ci".into())), Invalid::NoProfile);
    let late = message::Issue { ttl: Some(DAY), not_before: Some(NOW.saturating_add(DAY)), ..named() };
    let parties = || issue::Parties { subject: "a".into(), subject_uid: None, issuer: "a".into(), issuer_uid: 0 };
    let late = plan(&late, &rules()).unwrap().record(TokenId::MIN, rules().prefix, Digest([0; 32]), parties(), NOW);
    assert_eq!(late.err(), Some(Invalid::NeverValid));
}

#[test]
fn defaults_come_from_the_kind() {
    let it = record(&named());
    assert_eq!(it.kind, crate::token::Kind::Machine);
    assert_eq!(it.expires_at, Some(NOW.saturating_add(90 * DAY)));
    assert_eq!(it.max_expires_at, Some(NOW.saturating_add(366 * DAY)));
    let session = record(&message::Issue { kind: Some(crate::token::Kind::Session), ..named() });
    assert_eq!(session.expires_at, Some(NOW.saturating_add(Duration::from_secs(900))));
    let canary = record(&message::Issue { kind: Some(crate::token::Kind::Canary), ..named() });
    assert_eq!((canary.expires_at, canary.max_expires_at, canary.ttl), (None, None, None));
    assert_eq!(canary.state(NOW), State::Canary);
}

#[test]
fn a_profile_gives_and_is_never_exceeded() {
    let mut rules = rules();
    rules.profiles.insert(
        "ci".into(),
        Profile {
            kind: Some(crate::token::Kind::Session),
            scopes: ScopeSet::parse(&["repo:*"]).unwrap(),
            audiences: texts(&["git"]),
            ttl: Some(Duration::from_secs(3600)),
            labels: [("made-by".into(), "ci".into())].into(),
        },
    );
    let by_profile = message::Issue { profile: Some("ci".into()), ..named() };
    let it = plan(&by_profile, &rules).unwrap();
    assert_eq!(it.ttl, Some(Duration::from_secs(3600)));
    assert_eq!(it.scopes.to_strings(), ["repo:*"]);
    assert_eq!(it.audiences, ["git"]);
    let fails = |change: fn(&mut message::Issue)| {
        let mut request = by_profile.clone();
        change(&mut request);
        plan(&request, &rules).unwrap_err()
    };
    assert_eq!(fails(|r| r.kind = Some(crate::token::Kind::Machine)), Invalid::BeyondProfile("kind"));
    assert_eq!(fails(|r| r.scopes = texts(&["admin"])), Invalid::BeyondProfile("scope"));
    assert_eq!(fails(|r| r.audiences = texts(&["web"])), Invalid::BeyondProfile("audience"));
    assert_eq!(fails(|r| r.ttl = Some(Duration::from_secs(3601))), Invalid::BeyondProfile("ttl"));
    let less =
        message::Issue { scopes: texts(&["repo:read"]), ttl: Some(Duration::from_secs(60)), ..by_profile.clone() };
    assert_eq!(plan(&less, &rules).unwrap().scopes.to_strings(), ["repo:read"]);
    let relabelled = message::Issue { labels: [("made-by".into(), "me".into())].into(), ..by_profile };
    assert_eq!(plan(&relabelled, &rules).unwrap().labels["made-by"], "ci");
}

#[test]
fn revoking_is_for_good_and_counted_once() {
    let it = record(&named());
    let Revocation::Revoke(revoked) = revoke(&it, Some("leaked"), 0, NOW) else { panic!("it was good") };
    assert_eq!(revoked.state(NOW), State::Revoked);
    assert_eq!(revoked.version, it.version + 1);
    assert_eq!(revoked.revoked.as_ref().unwrap().reason.as_deref(), Some("leaked"));
    assert!(matches!(revoke(&revoked, None, 0, NOW), Revocation::Already));
}

#[test]
fn filters_must_all_hold() {
    let it = record(&message::Issue {
        scopes: texts(&["repo:*"]),
        labels: [("team".into(), "ops".into())].into(),
        ttl: Some(10 * DAY),
        ..named()
    });
    let fits =
        |conditions: &[Condition]| filter::matches::<()>(&Filter(conditions.to_vec()), &it, NOW, || Ok(None)).unwrap();
    let (alice, other) = (Condition::Subject("alice".into()), Condition::Name("other".into()));
    let label = |text: &str| Condition::Label(text.into());
    assert!(fits(&[]) && fits(&[Condition::All]));
    assert!(fits(&[alice.clone(), Condition::Scope("repo:read".into()), label("team")]));
    assert!(!fits(&[alice, other]));
    assert!(fits(&[label("team=ops")]) && !fits(&[label("team=dev")]) && !fits(&[label("team=ops"), label("x")]));
    assert!(!fits(&[Condition::State(State::Revoked)]));
    assert!(fits(&[Condition::ExpiringWithin(10 * DAY)]) && !fits(&[Condition::ExpiringWithin(9 * DAY)]));
    assert!(!fits(&[Condition::UnusedFor(DAY)]), "issued just now");
    assert!(fits(&[Condition::Family(it.family)]) && !fits(&[Condition::Family(TokenId::MIN)]));
    // From the moment given, and before it.
    assert!(fits(&[Condition::IssuedAfter(NOW)]) && !fits(&[Condition::IssuedBefore(NOW)]));
    let used = LastUse { at: NOW, unit: None, uid: 0, from: None, count: 1, by: Vec::new() };
    let later = NOW.saturating_add(2 * DAY);
    let unused = |filter: Condition, now, last: Option<LastUse>| {
        filter::matches::<()>(&filter.into(), &it, now, || Ok(last)).unwrap()
    };
    assert!(unused(Condition::UnusedFor(DAY), later, Some(used.clone())));
    assert!(!unused(Condition::UnusedFor(DAY), NOW.saturating_add(DAY / 2), Some(used.clone())));
    assert!(unused(Condition::UnusedSince(later), later, Some(used.clone())));
    assert!(!unused(Condition::UnusedSince(NOW.saturating_sub(DAY)), later, Some(used)));
}

#[test]
fn states_follow_the_record_and_the_clock() {
    let mut it = record(&named());
    assert_eq!(it.state(NOW), State::Active);
    it.successor = Some(TokenId::MIN);
    it.rotation = Some(Rotation { at: NOW, grace: DAY, ends_at: NOW.saturating_add(DAY), successor_used_at: None });
    assert_eq!(it.state(NOW), State::Rotating);
    assert_eq!(it.state(NOW.saturating_add(DAY)), State::Rotated);
}
