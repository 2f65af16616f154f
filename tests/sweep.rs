//! The sweeper: expiries are told once and in time, warnings once each and ahead, what ended long ago is forgotten.

mod daemon;
mod keeper;
mod simdisk;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bearerd::store::record::{Ending, Rotation};
use bearerd::time::UnixTime;
use bearerd::token::TokenId;
use keeper::{DAY, Host, SECOND, id_of};
use serde_json::Value;

fn ids(lines: &[Value]) -> Vec<String> {
    lines.iter().map(|line| line["id"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn turn(host: &Host) {
    host.sweeper().turn().await.unwrap();
}

mod expiries {
    use super::*;

    #[tokio::test]
    async fn each_is_told_once_in_its_order_over_restarts_too() {
        let host = Host::new();
        let mut tokens = Vec::new();
        for number in (0..40_u64).rev() {
            tokens.push(id_of(&host.issue(&format!("t{number}"), SECOND * 10 + number as u32 * SECOND).await));
        }
        turn(&host).await;
        assert!(host.lines("expire").await.is_empty());
        // 25 of them, the last issued first.
        host.time.pass(34 * SECOND);
        turn(&host).await;
        let told = host.lines("expire").await;
        let expected: Vec<String> = tokens.iter().rev().take(25).map(TokenId::to_string).collect();
        assert_eq!(ids(&told), expected);
        assert_eq!(
            (&told[0]["outcome"], &told[0]["name"], &told[0]["kind"]),
            (&"done".into(), &"t0".into(), &"machine".into())
        );
        turn(&host).await;
        let host = host.killed();
        turn(&host).await;
        assert_eq!(host.lines("expire").await.len(), 25);
        host.time.pass(60 * SECOND);
        turn(&host).await;
        let all: BTreeSet<String> = ids(&host.lines("expire").await).into_iter().collect();
        assert_eq!((all.len(), host.lines("expire").await.len()), (40, 40));
    }

    #[tokio::test]
    async fn what_ended_before_is_not_told_again() {
        let host = Host::new();
        let mut issued = Vec::new();
        for _ in 0..5 {
            issued.push(id_of(&host.issue("t", 100 * SECOND).await));
        }
        let [revoked, rotated, replaced, waited, plain] = issued[..] else { unreachable!("five") };
        host.revoke(revoked).await;
        let until = |secs: u64| Rotation {
            at: host.now(),
            grace: SECOND,
            ends_at: host.now().saturating_add(Duration::from_secs(secs)),
            successor_used_at: None,
        };
        let (early, late) = (until(50), until(100));
        host.change(rotated, move |record| record.rotation = Some(early)).await;
        host.change(waited, move |record| record.rotation = Some(late)).await;
        host.change(replaced, |record| record.replaced = true).await;
        host.time.pass(100 * SECOND);
        turn(&host).await;
        let told: BTreeSet<String> = ids(&host.lines("expire").await).into_iter().collect();
        assert_eq!(told, [waited.to_string(), plain.to_string()].into());
    }

    /// What is committed only after its life is over comes behind the mark, and takes it back.
    #[tokio::test]
    async fn an_expiry_that_comes_behind_the_mark_is_told_all_the_same() {
        let host = Host::new();
        let first = id_of(&host.issue("a", 10 * SECOND).await);
        let late = id_of(&host.issue("b", 90 * DAY).await);
        host.time.pass(20 * SECOND);
        turn(&host).await;
        let at = host.record(first).unwrap().expires_at.unwrap();
        assert_eq!(host.store.sweep_marks().told, Some((at, first)));
        let before = at.saturating_sub(SECOND);
        host.change(late, move |record| record.expires_at = Some(before)).await;
        assert!(host.store.sweep_marks().told < Some((before, late)));
        let host = host.killed();
        turn(&host).await;
        assert_eq!(ids(&host.lines("expire").await), [first.to_string(), late.to_string()]);
    }

    #[tokio::test]
    async fn renewal_moves_a_token_ahead_of_the_mark() {
        let host = Host::new();
        let [a, b] = [id_of(&host.issue("a", 10 * SECOND).await), id_of(&host.issue("b", 20 * SECOND).await)];
        let later = host.now().saturating_add(30 * SECOND);
        host.change(a, move |record| record.expires_at = Some(later)).await;
        for (secs, told) in [(10, 0), (10, 1), (9, 1), (1, 2)] {
            host.time.pass(Duration::from_secs(secs));
            turn(&host).await;
            assert_eq!(host.lines("expire").await.len(), told);
        }
        assert_eq!(ids(&host.lines("expire").await), [b.to_string(), a.to_string()]);
    }

    /// A forward step counts at once; when it is taken back, what it had told was not true, and is told when it is.
    #[tokio::test]
    async fn a_clock_that_goes_back_takes_back_what_it_told() {
        let host = Host::new();
        let token = id_of(&host.issue("t", 30 * DAY).await);
        turn(&host).await;
        host.time.set(|hands| hands.wall = hands.wall.saturating_add(29 * DAY + DAY / 2));
        assert!(host.clock.unsettled());
        turn(&host).await;
        assert_eq!(host.lines("warn").await[0]["reason"], "expires_in_1d");
        host.time.set(|hands| hands.wall = hands.wall.saturating_add(DAY));
        turn(&host).await;
        assert_eq!(host.lines("expire").await.len(), 1);
        host.time.set(|hands| hands.wall = hands.wall.saturating_sub(30 * DAY + DAY / 2));
        turn(&host).await;
        let record = host.record(token).unwrap();
        assert_eq!((record.expiry_told, record.warned), (false, None));
        let soon = id_of(&host.issue("u", 10 * DAY).await);
        for _ in 0..31 {
            host.time.pass(DAY);
            turn(&host).await;
        }
        let told = ids(&host.lines("expire").await);
        assert_eq!(told, [token.to_string(), soon.to_string(), token.to_string()]);
        let reasons: Vec<Value> = host.lines("warn").await.iter().map(|line| line["reason"].clone()).collect();
        let expected =
            ["expires_in_1d", "expires_in_7d", "expires_in_1d", "expires_in_14d", "expires_in_7d", "expires_in_1d"];
        assert_eq!(reasons, expected);
    }

    #[tokio::test]
    async fn more_than_a_batch_is_told_at_once() {
        let host = Host::new();
        for number in 0..700 {
            host.issue(&format!("t{number}"), 10 * SECOND).await;
        }
        host.time.pass(11 * SECOND);
        turn(&host).await;
        let told = ids(&host.lines("expire").await);
        assert_eq!((told.len(), told.iter().collect::<BTreeSet<_>>().len()), (700, 700));
    }
}

mod warnings {
    use super::*;

    async fn reasons(host: &Host, id: TokenId) -> Vec<String> {
        let lines = host.lines("warn").await;
        let of = lines.iter().filter(|line| line["id"] == id.to_string());
        of.map(|line| line["reason"].as_str().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn each_lead_is_told_once_over_restarts_and_new_configurations() {
        let mut host = Host::new();
        let (long, short) = (id_of(&host.issue("long", 30 * DAY).await), id_of(&host.issue("short", 5 * DAY).await));
        let mut told = Vec::new();
        for day in 0..30 {
            turn(&host).await;
            turn(&host).await;
            if day % 5 == 3 {
                host = host.killed();
                turn(&host).await;
            }
            if day == 20 {
                host.configure(|config| config.warnings = vec![20 * DAY, 8 * DAY, 7 * DAY, DAY]);
            }
            while told.len() < reasons(&host, long).await.len() {
                told.push(day);
            }
            host.time.pass(DAY);
        }
        assert_eq!(reasons(&host, long).await, ["expires_in_14d", "expires_in_8d", "expires_in_7d", "expires_in_1d"]);
        assert_eq!(told, [16, 22, 23, 29]);
        assert_eq!(reasons(&host, short).await, ["expires_in_1d"], "14 and 7 days are more than it ever had");
        let expires = host.record(long).unwrap().expires_at.unwrap();
        assert_eq!(host.lines("warn").await.last().unwrap()["note"], format!("expires at {expires}"));
    }

    #[tokio::test]
    async fn after_a_time_without_looking_only_the_nearest_is_told() {
        let host = Host::new();
        let id = id_of(&host.issue("t", 30 * DAY).await);
        turn(&host).await;
        host.time.pass(25 * DAY);
        let host = host.killed();
        turn(&host).await;
        host.time.pass(4 * DAY);
        turn(&host).await;
        assert_eq!(reasons(&host, id).await, ["expires_in_7d", "expires_in_1d"]);
    }

    #[tokio::test]
    async fn only_machine_tokens_that_somebody_needs() {
        let host = Host::new();
        let session = bearerd::protocol::message::Issue {
            name: "s".into(),
            kind: Some(bearerd::token::Kind::Session),
            ttl: Some(20 * 3600 * SECOND),
            ..Default::default()
        };
        host.issue_of(session).await;
        let [revoked, held, taken_over] = [
            id_of(&host.issue("a", 30 * DAY).await),
            id_of(&host.issue("b", 30 * DAY).await),
            id_of(&host.issue("c", 30 * DAY).await),
        ];
        host.revoke(revoked).await;
        let ending = Ending { at: host.now(), reason: None, by_uid: 0 };
        host.change(held, move |record| record.suspended = Some(ending)).await;
        let rotation =
            Rotation { at: host.now(), grace: SECOND, ends_at: UnixTime::MAX, successor_used_at: Some(host.now()) };
        host.change(taken_over, move |record| record.rotation = Some(rotation)).await;
        for _ in 0..30 {
            host.time.pass(DAY);
            turn(&host).await;
        }
        assert!(host.lines("warn").await.is_empty());
    }

    /// A renewal clears what was told (its own doing); then all leads are told again.
    #[tokio::test]
    async fn a_renewed_token_is_warned_of_again() {
        let host = Host::new();
        let id = id_of(&host.issue("t", 10 * DAY).await);
        turn(&host).await;
        host.time.pass(4 * DAY);
        turn(&host).await;
        let later = host.now().saturating_add(10 * DAY);
        host.change(id, move |record| (record.expires_at, record.warned) = (Some(later), None)).await;
        for _ in 0..10 {
            turn(&host).await;
            host.time.pass(DAY);
        }
        assert_eq!(reasons(&host, id).await, ["expires_in_7d", "expires_in_7d", "expires_in_1d"]);
    }
}

mod purge {
    use super::*;

    #[tokio::test]
    async fn what_ended_long_ago_is_forgotten_and_nothing_else() {
        let mut host = Host::new();
        host.configure(|config| config.store.retention = 20 * DAY);
        let mut revoked = Vec::new();
        for _ in 0..600 {
            revoked.push(id_of(&host.issue("r", 300 * DAY).await));
        }
        for id in &revoked {
            host.revoke(*id).await;
        }
        let expired = id_of(&host.issue("e", 10 * DAY).await);
        let alive = id_of(&host.issue("a", 90 * DAY).await);
        let bait = bearerd::protocol::message::Issue {
            name: "bait".into(),
            kind: Some(bearerd::token::Kind::Canary),
            ..Default::default()
        };
        let bait = id_of(&host.issue_of(bait).await);
        host.time.pass(20 * DAY - SECOND);
        let young = id_of(&host.issue("y", 90 * DAY).await);
        host.revoke(young).await;
        host.sweeper().purge_now().await.unwrap();
        assert_eq!(host.store.token_count().unwrap(), 604);

        host.time.pass(11 * DAY);
        // Its expiry is not told yet, and nothing is forgotten untold.
        host.sweeper().purge_now().await.unwrap();
        assert_eq!(host.store.token_count().unwrap(), 4);
        assert!(revoked.iter().all(|id| host.record(*id).is_none()));
        turn(&host).await;
        host.sweeper().purge_now().await.unwrap();
        assert!(host.record(expired).is_none());
        for id in [alive, bait, young] {
            assert!(host.record(id).is_some());
        }
        let lines: Vec<Value> =
            host.lines("expire").await.into_iter().filter(|line| line["outcome"] == "purged").collect();
        let counted: u64 = lines.iter().map(|line| line["count"].as_u64().unwrap()).sum();
        assert_eq!((counted, lines[0]["reason"].as_str()), (601, Some("retention")));
        assert!(lines.len() <= 5, "a line for a batch, not for a token");
    }

    /// A clock that jumped ahead may be wrong: what it makes old is kept until it is believed.
    #[tokio::test]
    async fn it_waits_while_a_forward_step_is_not_believed() {
        let host = Host::new();
        let id = id_of(&host.issue("t", 90 * DAY).await);
        host.revoke(id).await;
        host.time.set(|hands| hands.wall = hands.wall.saturating_add(400 * DAY));
        host.sweeper().purge_now().await.unwrap();
        assert!(host.record(id).is_some());
        host.time.set(|hands| hands.synchronised = true);
        host.sweeper().purge_now().await.unwrap();
        assert!(host.record(id).is_none());
    }
}

/// Whatever moment it is killed at: when all is over, each expiry and each warning has one line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_neither_loses_nor_doubles_a_line() {
    let mut host = Host::new();
    host.configure(|config| config.warnings = vec![DAY]);
    let mut issued = BTreeSet::new();
    for number in 0..600_u32 {
        issued.insert(id_of(&host.issue("t", 2 * DAY + number % 7 * SECOND).await).to_string());
    }
    for phase in ["warn", "expire"] {
        host.time.pass(DAY + 10 * SECOND);
        let all = host.store.generation() + issued.len() as u64;
        for round in 0..6_u64 {
            let sweeping = tokio::spawn(host.sweeper().run());
            // So many commits later, or when there is no more to do.
            let syncs = host.disk.syncs() + 1 + round % 4;
            while host.disk.syncs() < syncs && host.store.generation() < all {
                tokio::task::yield_now().await;
            }
            let stopped = host.service.clone();
            host = host.killed();
            stopped.stop();
            let _ = sweeping.await;
        }
        turn(&host).await;
        let told = ids(&host.lines(phase).await);
        assert_eq!(told.len(), issued.len(), "{phase}");
        assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), issued, "{phase}");
    }
}

/// With the real daemon and the real time: within a second, whoever issued it and whatever it slept for.
#[test]
fn an_expiry_is_in_the_log_within_a_second() {
    let daemon = daemon::Daemon::start();
    daemon.issue(&["later", "--ttl", "1h"]);
    for ttl in ["250ms", "1s", "1500ms"] {
        let id = daemon::id_of(&daemon.issue(&["soon", "--ttl", ttl]));
        let line = expired(&daemon, &id);
        let time = |text: &Value| text.as_str().unwrap().parse::<UnixTime>().unwrap();
        let at = daemon.ctl(&["show", &id, "--json"]).exits(0).json()["expires_at"].clone();
        let late = time(&line["time"]).since(time(&at));
        assert!(late < SECOND, "{ttl}: told {late:?} late");
    }
}

fn expired(daemon: &daemon::Daemon, id: &str) -> Value {
    let begun = Instant::now();
    loop {
        let found = daemon.trail().into_iter().find(|line| line["event"] == "expire" && line["id"] == id);
        if let Some(line) = found {
            return line;
        }
        assert!(begun.elapsed() < daemon::PATIENCE, "never told: {}", daemon.said());
        daemon.ctl(&["audit", "--since", "-1s"]).exits(0);
    }
}

/// kill -9 of the real daemon, with its seals and its outbox that is emptied.
#[test]
fn killed_daemons_tell_each_expiry_once() {
    let mut daemon = daemon::Daemon::start();
    let mut issued = Vec::new();
    for round in 0..5 {
        let mut client = daemon.client();
        for number in 0..60_u64 {
            let ttl = Duration::from_millis(200 + number * 17 % 900);
            let issue = bearerd::protocol::message::Issue { name: "t".into(), ttl: Some(ttl), ..Default::default() };
            issued.push(daemon::id_of(client.issue(&issue).unwrap().token.expose()));
        }
        // Another moment each time: when so many have been told.
        let begun = Instant::now();
        let enough = issued.len() - 50 + round * 5;
        while daemon.trail().iter().filter(|line| line["event"] == "expire").count() < enough {
            assert!(begun.elapsed() < daemon::PATIENCE, "{}", daemon.said());
            // Whoever spins here takes the core that the daemon needs.
            std::thread::park_timeout(Duration::from_millis(5));
        }
        daemon.kill();
        daemon.run();
    }
    expired(&daemon, issued.last().unwrap());
    for id in &issued {
        expired(&daemon, id);
    }
    let mut told = BTreeMap::new();
    for line in daemon.trail().iter().filter(|line| line["event"] == "expire") {
        *told.entry(line["id"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(told.len(), issued.len());
    assert!(told.values().all(|count| *count == 1), "{told:?}");
    daemon.ctl(&["audit", "verify"]).exits(0);
}
