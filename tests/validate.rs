//! The whole of validate, by peers of every kind: bindings, networks, audiences, rates, uses, families, alerts.

mod host;
mod simdisk;

use std::sync::Arc;
use std::time::Duration;

use bearerd::protocol::message::{
    Answer, Ask, Chosen, Condition, Edit, Filter, Handle, Hold, Issue, Rate, Revoke, State, Validate, Which,
};
use bearerd::registry::view;
use bearerd::store::Effect;
use bearerd::token::{Token, TokenId};
use host::{Host, ask, own_uid};
use simdisk::Fail;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// Anyone may validate; nobody's word about addresses counts.
const ANYONE: &str = "[[policy]]\nname = \"all\"\npeer = \"*\"\nallow = [\"validate\"]\n";
const NOBODY: u32 = 65_534;

fn some(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

/// Asks from many tasks at once; how many were active.
async fn all_at_once(host: &Host, token: &str, askers: usize) -> usize {
    let caller = host.owner();
    let asked = (0..askers).map(|_| host.validate_as(&caller, ask(token)));
    let verdicts = futures_util::future::join_all(asked).await;
    verdicts.into_iter().filter(|verdict| *verdict == "active").count()
}

// ---- bindings

#[tokio::test]
async fn a_token_bound_to_a_unit_is_good_through_that_unit_alone() {
    let host = Host::new(ANYONE);
    let token = host.issue(Issue { allow_units: some(&["nginx.service", "caddy.service"]), ..Issue::default() }).await;
    for (unit, verdict) in [
        (Some("nginx.service"), "active"),
        (Some("caddy.service"), "active"),
        (Some("nginx.service.x"), "wrong_peer"),
        (Some("ssh.service"), "wrong_peer"),
        // Without a pidfd the unit is not known, and a binding to one never holds.
        (None, "wrong_peer"),
    ] {
        assert_eq!(host.validate_as(&host.peer(33, unit), ask(&token)).await, verdict, "{unit:?}");
    }
    // Full rights are no unit.
    assert_eq!(host.validate(&token).await, "wrong_peer");
}

#[tokio::test]
async fn a_token_bound_to_uids_is_good_through_those_alone() {
    let host = Host::new(ANYONE);
    let token = host.issue(Issue { allow_uids: vec![33, 1000, NOBODY], ..Issue::default() }).await;
    assert_eq!(host.validate_as(&host.peer(33, None), ask(&token)).await, "active");
    assert_eq!(host.validate_as(&host.peer(1000, None), ask(&token)).await, "active");
    assert_eq!(host.validate_as(&host.peer(34, None), ask(&token)).await, "wrong_peer");
    // What the kernel shows for who has no uid here is nobody's.
    assert_eq!(host.validate_as(&host.peer(NOBODY, None), ask(&token)).await, "wrong_peer");
    let both = Issue { allow_uids: vec![33], allow_units: some(&["nginx.service"]), ..Issue::default() };
    let token = host.issue(both).await;
    assert_eq!(host.validate_as(&host.peer(33, Some("nginx.service")), ask(&token)).await, "active");
    assert_eq!(host.validate_as(&host.peer(33, None), ask(&token)).await, "wrong_peer");
    assert_eq!(host.validate_as(&host.peer(34, Some("nginx.service")), ask(&token)).await, "wrong_peer");
}

fn from<'a>(token: &'a str, address: &str) -> Validate<'a> {
    Validate { from: Some(address.parse().unwrap()), ..ask(token) }
}

#[tokio::test]
async fn networks_hold_and_a_mapped_address_counts_as_the_one_it_holds() {
    let host = Host::new("");
    let networks = Issue { allow_from: some(&["10.0.0.0/8", "2001:db8::/32"]), ..Issue::default() };
    let token = host.issue(networks).await;
    let mapped = host.issue(Issue { allow_from: some(&["::ffff:192.0.2.0/120"]), ..Issue::default() }).await;
    let owner = host.owner();
    for (token, address, verdict) in [
        (&token, "10.1.2.3", "active"),
        (&token, "::ffff:10.1.2.3", "active"),
        (&token, "2001:db8::1", "active"),
        (&token, "11.1.2.3", "wrong_network"),
        (&token, "::ffff:11.1.2.3", "wrong_network"),
        // An IPv4 address that is only embedded is another one.
        (&token, "::10.1.2.3", "wrong_network"),
        (&mapped, "192.0.2.9", "active"),
        (&mapped, "::ffff:192.0.2.9", "active"),
        (&mapped, "192.0.3.9", "wrong_network"),
    ] {
        assert_eq!(host.validate_as(&owner, from(token, address)).await, verdict, "{address}");
    }
    assert_eq!(host.validate(&token).await, "wrong_network", "nobody says from where");
}

/// `assert_address` absent: the peer's word is ignored, and audited as such.
#[tokio::test]
async fn a_peers_word_about_an_address_counts_only_by_a_rule() {
    let rules =
        "[[policy]]\nname = \"proxy\"\npeer = { user = \"33\" }\nallow = [\"validate\"]\nassert_address = \"yes\"\n";
    let host = Host::new(&format!("{rules}{ANYONE}"));
    let bound = host.issue(Issue { allow_from: some(&["10.0.0.0/8"]), ..Issue::default() }).await;
    let free = host.issue(Issue::default()).await;
    let (proxy, other) = (host.peer(33, None), host.peer(34, None));
    assert_eq!(host.validate_as(&proxy, from(&bound, "10.1.2.3")).await, "active");
    assert_eq!(host.validate_as(&other, from(&bound, "10.1.2.3")).await, "wrong_network");
    assert_eq!(host.validate_as(&other, from(&free, "10.1.2.3")).await, "active");
    let lines = [host.lines("use").await, host.lines("deny").await].concat();
    let of = |uid: u32| lines.iter().filter(move |line| line["peer"]["uid"] == uid);
    assert_eq!((of(33).count(), of(34).count()), (1, 2));
    assert!(of(33).all(|line| line["from"] == "10.1.2.3" && line["from_asserted"] == true));
    assert!(of(34).all(|line| line["from"] == "10.1.2.3" && line["from_asserted"] == false));
}

#[tokio::test]
async fn a_token_for_certain_services_is_for_those_alone() {
    let host = Host::new("");
    let token = host.issue(Issue { audiences: some(&["git", "registry"]), ..Issue::default() }).await;
    let owner = host.owner();
    for (audience, verdict) in [(Some("git"), "active"), (Some("wiki"), "wrong_audience"), (None, "wrong_audience")] {
        assert_eq!(host.validate_as(&owner, Validate { audience, ..ask(&token) }).await, verdict);
    }
    let any = host.issue(Issue::default()).await;
    assert_eq!(host.validate_as(&owner, Validate { audience: Some("wiki"), ..ask(&any) }).await, "active");
}

// ---- rate and uses

fn three_a_minute() -> Issue {
    Issue { rate: Some(Rate { count: 3, per: MINUTE }), ..Issue::default() }
}

#[tokio::test]
async fn a_rate_is_of_the_whole_family() {
    let host = Host::new("");
    let old = host.issue(three_a_minute()).await;
    let new = host.successor(&old, 5 * MINUTE, 7 * DAY).await;
    assert_eq!(host.validate(&old).await, "active");
    assert_eq!(host.validate(&new).await, "active");
    assert_eq!(host.validate(&old).await, "active");
    assert_eq!(host.validate(&new).await, "rate_limited");
    assert_eq!(host.validate(&old).await, "rate_limited");
    host.hands.pass(20 * Duration::from_secs(1));
    assert_eq!(host.validate(&new).await, "active");
    assert_eq!(host.validate(&old).await, "rate_limited");
}

async fn batch(host: &Host, asks: Vec<Validate<'_>>) -> Vec<&'static str> {
    match host.answer(&host.owner(), Ask::ValidateBatch(asks)).await {
        Answer::Verdicts(verdicts) => {
            verdicts.iter().map(|verdict| verdict.reason.map_or("active", |reason| reason.name())).collect()
        }
        _ => panic!("no verdicts"),
    }
}

#[tokio::test]
async fn each_entry_of_a_batch_counts() {
    let host = Host::new("");
    let rated = host.issue(three_a_minute()).await;
    let counted = host.issue(Issue { max_uses: Some(3), ..Issue::default() }).await;
    for (token, over) in [(&rated, "rate_limited"), (&counted, "exhausted")] {
        let mut verdicts = batch(&host, vec![ask(token); 5]).await;
        verdicts.sort_unstable();
        assert_eq!(verdicts, ["active", "active", "active", over, over]);
    }
    assert_eq!(host.record(&counted).uses, 3);
}

/// `--peek` spends no use and no rate, and is audited as such.
#[tokio::test]
async fn a_peek_spends_nothing_and_says_so() {
    let host = Host::new("");
    let counted = host.issue(Issue { max_uses: Some(1), ..three_a_minute() }).await;
    let owner = host.owner();
    let peek = |token| Validate { peek: true, note: Some("looking"), ..ask(token) };
    for _ in 0..10 {
        assert_eq!(host.validate_as(&owner, peek(&counted)).await, "active");
    }
    assert_eq!(host.record(&counted).uses, 0);
    assert!(host.store.last_use(host.record(&counted).id).unwrap().is_none(), "a look is no use");
    assert_eq!(host.validate(&counted).await, "active");
    assert_eq!(host.validate_as(&owner, peek(&counted)).await, "exhausted");
    let lines = host.lines("use").await;
    assert_eq!(lines.iter().filter(|line| line["note"] == "peek: looking").count(), 1, "coalesced apart from uses");
    assert_eq!(lines.iter().filter(|line| line["note"].is_null()).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_uses_are_five_among_64_askers() {
    let host = Host::new("");
    let token = host.issue(Issue { max_uses: Some(5), ..Issue::default() }).await;
    assert_eq!(all_at_once(&host, &token, 64).await, 5);
    assert_eq!(host.record(&token).uses, 5);
    assert_eq!(host.lines("use").await.len(), 5, "each has its line");
    assert_eq!(host.validate(&token).await, "exhausted");
}

/// The count is durable before *active*: with a disk that does not sync there is no answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counted_use_is_answered_only_when_it_is_durable() {
    let host = Arc::new(Host::new(""));
    let token = host.issue(Issue { max_uses: Some(5), ..Issue::default() }).await;
    host.disk.hold_syncs();
    let asked = tokio::spawn({
        let (host, token) = (Arc::clone(&host), token.clone());
        async move { host.validate(&token).await }
    });
    let waiting = Arc::clone(&host);
    tokio::task::spawn_blocking(move || waiting.disk.wait_for_sync()).await.unwrap();
    let early = asked.is_finished();
    host.disk.release();
    assert!(!early);
    assert_eq!(asked.await.unwrap(), "active");
}

#[tokio::test]
async fn a_use_that_could_not_be_written_is_not_active_and_not_spent() {
    let host = Host::new("");
    let token = host.issue(Issue { max_uses: Some(1), ..Issue::default() }).await;
    host.disk.fail(Fail::WriteFull, 0);
    assert!(host.verdict(&host.owner(), ask(&token)).await.is_err());
    assert_eq!(host.validate(&token).await, "active");
    assert_eq!(host.validate(&token).await, "exhausted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_family_has_its_uses_together() {
    let host = Host::new("");
    let old = host.issue(Issue { max_uses: Some(5), ..Issue::default() }).await;
    assert_eq!(host.validate(&old).await, "active");
    let new = host.successor(&old, 5 * MINUTE, 7 * DAY).await;
    let (caller, both) = (host.owner(), [&old, &new]);
    let asked = (0..64).map(|n| host.validate_as(&caller, ask(both[n % 2])));
    let verdicts = futures_util::future::join_all(asked).await;
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == "active").count(), 4);
    assert_eq!((host.record(&old).uses, host.record(&new).uses), (5, 5));
    assert_eq!((host.validate(&old).await, host.validate(&new).await), ("exhausted", "exhausted"));
}

// ---- the first use of a successor

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_use_of_a_successor_ends_its_predecessor_by_the_grace() {
    let host = Host::new("");
    let old = host.issue(Issue::default()).await;
    let new = host.successor(&old, 5 * MINUTE, 7 * DAY).await;
    host.hands.pass(DAY);
    assert_eq!(host.validate(&old).await, "active");
    let owner = host.owner();
    assert_eq!(host.validate_as(&owner, Validate { peek: true, ..ask(&new) }).await, "active");
    assert_eq!(host.record(&new).first_used_at, None, "a look is no use");

    let before = host.store.generation();
    assert_eq!(all_at_once(&host, &new, 64).await, 64);
    assert_eq!(host.store.generation(), before + 1, "one change, whatever the askers");
    let first = host.record(&new).first_used_at.expect("it was used");
    let rotation = host.record(&old).rotation.unwrap();
    assert_eq!(rotation.successor_used_at, Some(first));
    assert_eq!(rotation.ends_at, first.saturating_add(5 * MINUTE));

    let said = format!("first use: its predecessor {} ends at {}", host.record(&old).id, rotation.ends_at);
    let lines = host.lines("use").await;
    assert_eq!(lines.iter().filter(|line| line["note"] == said.as_str()).count(), 1);
    assert_eq!(host.validate(&old).await, "active");
    host.hands.pass(5 * MINUTE - Duration::from_millis(1));
    assert_eq!(host.validate(&old).await, "active");
    host.hands.pass(Duration::from_millis(1));
    assert_eq!((host.validate(&old).await, host.validate(&new).await), ("rotated", "active"));
}

/// "Committed before that use is answered": not the first asker, and not another that comes meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_use_of_a_successor_is_answered_before_the_first_is_durable() {
    for max_uses in [None, Some(50)] {
        let host = Arc::new(Host::new(""));
        let old = host.issue(Issue { max_uses, ..Issue::default() }).await;
        let new = host.successor(&old, 5 * MINUTE, 7 * DAY).await;
        host.disk.hold_syncs();
        let first = tokio::spawn({
            let (host, new) = (Arc::clone(&host), new.clone());
            async move { host.validate(&new).await }
        });
        let waiting = Arc::clone(&host);
        tokio::task::spawn_blocking(move || waiting.disk.wait_for_sync()).await.unwrap();
        // It would be answered at once, if it were from memory.
        let mut second = std::pin::pin!(host.validate(&new));
        let early = tokio::time::timeout(Duration::from_millis(300), &mut second).await;
        let first_early = first.is_finished();
        // Before anything can fail: a store that is dropped waits for its disk.
        host.disk.release();
        assert!(early.is_err() && !first_early, "{max_uses:?}: {early:?}");
        assert_eq!((first.await.unwrap(), second.await), ("active", "active"));
    }
}

#[tokio::test]
async fn a_first_use_that_could_not_be_written_is_not_active_and_ends_nothing() {
    let host = Host::new("");
    let old = host.issue(Issue::default()).await;
    let new = host.successor(&old, 5 * MINUTE, 7 * DAY).await;
    host.disk.fail(Fail::WriteFull, 0);
    assert!(host.verdict(&host.owner(), ask(&new)).await.is_err());
    assert_eq!(host.record(&new).first_used_at, None);
    host.hands.pass(DAY);
    assert_eq!((host.validate(&old).await, host.validate(&new).await), ("active", "active"));
}

#[tokio::test]
async fn a_successor_without_a_predecessor_is_good_all_the_same() {
    let host = Host::new("");
    let old = host.issue(Issue::default()).await;
    let new = host.successor(&old, 5 * MINUTE, 7 * DAY).await;
    let id = host.record(&old).id;
    let removed = host.store.write(move |txn: &mut bearerd::store::Txn<'_>| txn.remove(id)).await;
    removed.unwrap().unwrap();
    assert_eq!(host.validate(&new).await, "active");
    assert!(host.record(&new).first_used_at.is_some());
}

// ---- alerts

/// A predecessor that has ended, and its successor that took over.
async fn rotated(host: &Host) -> (String, String) {
    let old = host.issue(Issue::default()).await;
    let new = host.successor(&old, Duration::ZERO, 7 * DAY).await;
    assert_eq!(host.validate(&new).await, "active");
    (old, new)
}

#[tokio::test]
async fn the_use_of_a_rotated_out_token_is_an_alert_that_watchers_hear() {
    let host = Host::new("");
    let (old, new) = rotated(&host).await;
    let before = host.store.generation();
    assert_eq!(host.validate_as(&host.owner(), from(&old, "192.0.2.7")).await, "rotated");
    assert_eq!(host.validate(&new).await, "active", "an alert, and nothing else");
    host.settle().await;
    let lines = host.lines("reuse").await;
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["generation"], before + 1, "announced with a commit of its own");
    assert_eq!((&lines[0]["reason"], &lines[0]["outcome"]), (&"rotated".into(), &"inactive".into()));
    assert_eq!((&lines[0]["peer"]["uid"], &lines[0]["from"]), (&own_uid().into(), &"192.0.2.7".into()));
    assert_eq!(lines[0]["id"], host.record(&old).id.to_string());
}

const REVOKES: &str = "[rotation]\non_reuse = \"revoke-family\"\n";

#[tokio::test]
async fn a_reuse_ends_the_family_where_that_is_configured() {
    let host = Host::new(REVOKES);
    let (old, middle) = rotated(&host).await;
    let new = host.successor(&middle, 5 * MINUTE, 7 * DAY).await;
    assert_eq!(host.validate(&old).await, "rotated");
    // When the verdict is there, it is done.
    assert_eq!((host.validate(&middle).await, host.validate(&new).await), ("revoked", "revoked"));
    let why = format!("reuse of {}", host.record(&old).id);
    for token in [&middle, &new] {
        assert_eq!(host.record(token).revoked.unwrap().reason.as_deref(), Some(why.as_str()));
    }
    assert!(host.record(&old).revoked.is_none(), "it had ended already");
    let lines = host.lines("revoke").await;
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line["reason"] == why.as_str() && line["generation"].is_u64()));
    // Once, not per attempt.
    for _ in 0..20 {
        assert_eq!(host.validate(&old).await, "rotated");
    }
    host.settle().await;
    assert_eq!(host.lines("revoke").await.len(), 2);
    let told: u64 = host.lines("reuse").await.iter().map(|line| line["count"].as_u64().unwrap()).sum();
    assert_eq!(told, 21);
}

#[tokio::test]
async fn a_replaced_successor_alerts_and_never_takes_the_family() {
    let host = Host::new(REVOKES);
    let old = host.issue(Issue::default()).await;
    let replaced = host.successor(&old, 5 * MINUTE, 7 * DAY).await;
    let mut record = host.record(&replaced);
    record.replaced = true;
    host.put(vec![(record, Effect::Restricts)]).await;
    assert_eq!(host.validate(&replaced).await, "rotated");
    host.settle().await;
    assert_eq!(host.lines("reuse").await.len(), 1);
    assert_eq!(host.lines("revoke").await.len(), 0);
    assert!(host.record(&old).revoked.is_none());
}

#[tokio::test]
async fn a_look_at_a_rotated_out_token_ends_nothing() {
    let host = Host::new(REVOKES);
    let (old, new) = rotated(&host).await;
    assert_eq!(host.validate_as(&host.owner(), Validate { peek: true, ..ask(&old) }).await, "rotated");
    assert_eq!(host.validate(&new).await, "active");
}

#[tokio::test]
async fn a_canary_tells_who_showed_it_and_from_where() {
    let host = Host::new(ANYONE);
    let token = host.issue(Issue { kind: Some(bearerd::token::Kind::Canary), ..Issue::default() }).await;
    assert_eq!(host.validate_as(&host.peer(33, Some("nginx.service")), from(&token, "192.0.2.7")).await, "canary");
    host.settle().await;
    let lines = host.lines("canary").await;
    assert_eq!(lines.len(), 1);
    let peer = &lines[0]["peer"];
    assert_eq!((&peer["uid"], &peer["unit"], &peer["pid"]), (&33.into(), &"nginx.service".into(), &7.into()));
    assert_eq!((&lines[0]["from"], &lines[0]["from_asserted"]), (&"192.0.2.7".into(), &false.into()));
    assert!(lines[0]["generation"].is_u64());
}

/// A disk that fails neither delays nor turns the verdict, and the line is written all the same.
#[tokio::test]
async fn an_alert_that_cannot_be_stored_is_in_the_log() {
    let host = Host::new("");
    let token = host.issue(Issue { kind: Some(bearerd::token::Kind::Canary), ..Issue::default() }).await;
    host.disk.fail(Fail::WriteFull, 0);
    assert_eq!(host.validate(&token).await, "canary");
    host.settle().await;
    assert!(host.disk.has_failed());
    assert_eq!(host.lines("canary").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_of_bait_does_not_wait_for_the_disk() {
    let host = Host::new("");
    let token = host.issue(Issue { kind: Some(bearerd::token::Kind::Canary), ..Issue::default() }).await;
    host.disk.hold_syncs();
    let verdict = tokio::time::timeout(MINUTE, host.validate(&token)).await;
    host.disk.release();
    assert_eq!(verdict, Ok("canary"));
    host.settle().await;
    assert_eq!(host.lines("canary").await.len(), 1);
}

/// I7: who hammers makes neither commits nor lines without bound, and every attempt is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_are_bounded_and_counted() {
    let host = Host::new(ANYONE);
    let token = host.issue(Issue { kind: Some(bearerd::token::Kind::Canary), ..Issue::default() }).await;
    let before = host.store.generation();
    let caller = host.peer(33, None);
    for _ in 0..5000 {
        assert_eq!(host.validate_as(&caller, ask(&token)).await, "canary");
    }
    host.settle().await;
    assert!(host.store.generation() <= before + 3, "{} commits", host.store.generation() - before);
    let lines = host.lines("canary").await;
    assert!(lines.len() <= 3, "{} lines", lines.len());
    let told: u64 = lines.iter().map(|line| line["count"].as_u64().unwrap()).sum();
    assert_eq!(told, 5000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_cannot_take_all_alerts() {
    let host = Host::new(ANYONE);
    let token = host.issue(Issue { kind: Some(bearerd::token::Kind::Canary), ..Issue::default() }).await;
    let before = host.store.generation();
    let hammer = host.peer(1000, None);
    for n in 0..500_u32 {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).to_string();
        assert_eq!(host.validate_as(&hammer, from(&token, &address)).await, "canary");
    }
    assert_eq!(host.validate_as(&host.peer(33, None), ask(&token)).await, "canary");
    host.settle().await;
    // 32 of the one, and the other's.
    assert_eq!(host.store.generation(), before + 33);
    let lines = host.lines("canary").await;
    let of = |uid: u32| lines.iter().filter(move |line| line["peer"]["uid"] == uid);
    assert_eq!(of(33).count(), 1);
    assert!(of(1000).count() < 50, "{} lines", of(1000).count());
}

/// Nothing that is asked of an ordinary token writes to the store.
#[tokio::test]
async fn an_ordinary_use_commits_nothing() {
    let host = Host::new("");
    let token = host.issue(Issue::default()).await;
    let (before, syncs) = (host.store.generation(), host.disk.syncs());
    for _ in 0..100 {
        assert_eq!(host.validate(&token).await, "active");
    }
    assert_eq!((host.store.generation(), host.disk.syncs()), (before, syncs));
}

#[tokio::test]
async fn strangers_are_told_one_of_two_reasons() {
    let host = Host::new("");
    let token = host.issue(Issue::default()).await;
    assert_eq!(host.validate("no token").await, "malformed");
    let other = bearerd::token::Token::parse(&token).unwrap();
    let mut wrong_id = other.clone();
    wrong_id.id = TokenId::from_bytes([1; 16]);
    let mut wrong_secret = other.clone();
    wrong_secret.secret = bearerd::token::Secret::from_bytes([1; 32]);
    let mut wrong_kind = other;
    wrong_kind.kind = bearerd::token::Kind::Session;
    for wrong in [wrong_id, wrong_secret, wrong_kind] {
        assert_eq!(host.validate(&wrong.reveal()).await, "unknown");
    }
}

// ---- what goes with a verdict

/// The facts are encoded once for each state of a record: never those of another.
#[tokio::test]
async fn the_facts_that_are_written_are_those_of_the_record_as_it_is() {
    let host = Host::new("");
    let token =
        host.issue(Issue { subject: Some("alice".into()), scopes: some(&["a", "b"]), ..Issue::default() }).await;
    let id = Token::parse(&token).unwrap().id;
    let handle = Handle(id.to_string());
    let by_subject = || Filter::from(Condition::Subject("alice".into()));
    let rename = Edit { name: Some("renamed".into()), ..Edit::of(handle.clone()) };
    let hold = || Hold { which: Chosen::Filter(by_subject()), reason: None, dry_run: false };
    let revoke = Revoke { which: Which::Handles(vec![handle.clone()]), reason: Some("leaked".into()), dry_run: false };
    let changes = [
        Ask::Status,
        Ask::Edit(rename),
        Ask::Edit(Edit { drop_scopes: some(&["b"]), ..Edit::of(handle) }),
        Ask::Suspend(hold()),
        Ask::Resume(hold()),
        Ask::Revoke(revoke),
    ];
    let mut seen = Vec::new();
    for change in changes {
        if let Answer::Error(failure) = host.answer(&host.owner(), change).await {
            panic!("{failure}");
        }
        // Twice: as it is read, and as it is kept.
        for _ in 0..2 {
            let told = host.written(&token).await.token.unwrap();
            assert_eq!(told.facts, view::facts(&host.record_of(id)));
            assert_eq!(told.state, host.record_of(id).state(host.now()));
            seen.push((told.facts.name.clone(), told.facts.scopes.len(), told.state));
        }
    }
    let states: Vec<State> = seen.iter().step_by(2).map(|(.., state)| *state).collect();
    let (good, held, ended) = (State::Active, State::Suspended, State::Revoked);
    assert_eq!(states, [good, good, good, held, good, ended]);
    assert_eq!((&seen[0].0[..], seen[0].1, &seen[2].0[..], seen[4].1), ("t", 2, "renamed", 1));
}

/// What the clock alone changes goes with facts that were encoded before.
#[tokio::test]
async fn the_state_is_that_of_the_answer_whatever_is_kept() {
    let host = Host::new("");
    let token = host.issue(Issue { ttl: Some(MINUTE), ..Issue::default() }).await;
    assert_eq!(host.written(&token).await.token.unwrap().state, State::Active);
    host.hands.pass(MINUTE);
    let verdict = host.written(&token).await;
    assert_eq!((verdict.active, verdict.token.unwrap().state), (false, State::Expired));
}
