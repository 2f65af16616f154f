//! The inventory: who uses what, when last, how often; lists that stay whole while tokens come and go.

mod daemon;
mod keeper;
mod simdisk;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bearerd::protocol::filter::{Condition, Filter};
use bearerd::protocol::message::{Issue, State, Validate};
use bearerd::store::record::Rotation;
use daemon::Daemon;
use keeper::{DAY, Host, SECOND, id_of};

const ASKERS: usize = 64;
const TOKENS: usize = 300;
const EACH: usize = 40;

/// Uses tokens from many connections at once; how often each was used.
fn use_many(daemon: &Daemon, tokens: &[String]) -> Vec<u64> {
    let uses: Vec<AtomicU64> = tokens.iter().map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for asker in 0..ASKERS {
            let uses = &uses;
            scope.spawn(move || {
                let mut client = daemon.client();
                for number in 0..EACH {
                    let at = (asker * 7919 + number * 104_729) % tokens.len();
                    let ask = |token| Validate {
                        token,
                        scopes: Vec::new(),
                        audience: None,
                        from: None,
                        note: None,
                        peek: number % 8 == 7,
                    };
                    assert!(client.validate(&ask(&tokens[at])).unwrap().active);
                    if number % 8 != 7 {
                        uses[at].fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    uses.into_iter().map(AtomicU64::into_inner).collect()
}

fn counts(daemon: &Daemon, tokens: &[String]) -> Vec<u64> {
    let listed = daemon.ctl(&["list", "--json"]).exits(0).json();
    let count = |id: String| {
        let found = listed["tokens"].as_array().unwrap().iter().find(|token| token["id"] == id.as_str());
        found.expect("it is listed")["last_used"]["count"].as_u64().unwrap_or(0)
    };
    tokens.iter().map(|token| count(daemon::id_of(token))).collect()
}

fn many(daemon: &Daemon) -> Vec<String> {
    let mut client = daemon.client();
    let issue = |number: usize| Issue { name: format!("t{number}"), ..Issue::default() };
    (0..TOKENS).map(|number| client.issue(&issue(number)).unwrap().token.expose().to_owned()).collect()
}

/// Not one use too few and not one too many; a peek is none.
#[test]
fn last_uses_are_exact_after_a_clean_stop() {
    let mut daemon = Daemon::start();
    let tokens = many(&daemon);
    let mut made = use_many(&daemon, &tokens);
    assert_eq!(counts(&daemon, &tokens), made, "before anything is written back");
    daemon.restart();
    assert_eq!(counts(&daemon, &tokens), made);
    for (made, more) in made.iter_mut().zip(use_many(&daemon, &tokens)) {
        *made += more;
    }
    daemon.restart();
    assert_eq!(counts(&daemon, &tokens), made);
    assert_eq!(daemon.ctl(&["status", "--json"]).exits(0).json()["store"]["last_uses_lost"], 0);
}

/// What was written back by a stop stays; of what came later a kill may take some, and never adds any.
#[test]
fn a_kill_takes_no_more_than_the_last_uses_and_adds_none() {
    let mut daemon = Daemon::start();
    let tokens = many(&daemon);
    let before = use_many(&daemon, &tokens);
    daemon.restart();
    let more = use_many(&daemon, &tokens);
    daemon.kill();
    daemon.run();
    for ((count, before), more) in counts(&daemon, &tokens).into_iter().zip(before).zip(more) {
        assert!((before..=before + more).contains(&count), "{count} of {before} and {more}");
    }
}

/// The filter sees what only memory has.
#[tokio::test]
async fn unused_for_knows_uses_that_are_not_written_back_yet() {
    let host = Host::new();
    let mut tokens = Vec::new();
    for number in 0..6 {
        tokens.push(host.issue(&format!("t{number}"), 90 * DAY).await);
    }
    host.time.pass(10 * DAY);
    for token in &tokens[..3] {
        assert!(host.use_as(token, Some("a.service")).await);
    }
    let unused = |filter: Filter| {
        let host = &host;
        async move {
            let page = host.page(filter, 100, None).await;
            page.tokens.into_iter().map(|info| info.facts.name).collect::<Vec<_>>()
        }
    };
    let quiet = || Filter::from(Condition::UnusedFor(5 * DAY));
    assert_eq!(unused(quiet()).await, ["t3", "t4", "t5"]);
    host.store.flush().await.unwrap();
    assert_eq!(unused(quiet()).await, ["t3", "t4", "t5"]);
    assert!(host.use_as(&tokens[4], None).await);
    assert_eq!(unused(quiet()).await, ["t3", "t5"]);
    host.time.pass(5 * DAY);
    assert_eq!(unused(quiet()).await.len(), 6);
}

/// Pages while tokens are issued, revoked and forgotten: what is there all the time is on them once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_whole_while_tokens_come_and_go() {
    let mut host = Host::new();
    host.configure(|config| config.store.retention = SECOND);
    let (mut stay, mut go) = (BTreeSet::new(), Vec::new());
    for number in 0..400 {
        let id = id_of(&host.issue("t", 90 * DAY).await);
        if number % 3 == 0 {
            go.push(id);
        } else {
            stay.insert(id);
        }
    }
    host.time.pass(10 * SECOND);
    let host = Arc::new(host);
    let over = Arc::new(AtomicBool::new(false));
    let coming = tokio::spawn({
        let (host, over) = (Arc::clone(&host), Arc::clone(&over));
        async move {
            let mut sweeper = host.sweeper();
            for id in go {
                host.issue("new", 90 * DAY).await;
                host.revoke(id).await;
                host.time.pass(2 * SECOND);
                sweeper.purge_now().await.unwrap();
            }
            over.store(true, Ordering::Release);
        }
    });
    let mut walks = 0;
    while !over.load(Ordering::Acquire) || walks < 3 {
        for filter in [Filter::default(), Filter::from(Condition::IssuedAfter(simdisk::START))] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = host.page(filter.clone(), 7, after).await;
                seen.extend(page.tokens.iter().map(|info| info.facts.id));
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
            assert!(seen.is_sorted() && seen.windows(2).all(|pair| pair[0] != pair[1]), "one is there twice");
            let missed = stay.iter().filter(|id| seen.binary_search(id).is_err()).count();
            assert_eq!(missed, 0, "of {}", stay.len());
        }
        walks += 1;
    }
    coming.await.unwrap();
    assert_eq!(host.store.token_count().unwrap() as usize, stay.len() + 134);
}

/// A rotation as it is shown from both of its ends.
#[tokio::test]
async fn show_says_who_still_uses_the_old_one() {
    let host = Host::new();
    let (old, new) = (host.issue("t", 90 * DAY).await, host.issue("t", 90 * DAY).await);
    let (old_id, new_id) = (id_of(&old), id_of(&new));
    assert!(host.use_as(&old, Some("backup.service")).await);
    assert!(host.use_as(&old, Some("web.service")).await);
    host.time.pass(SECOND);
    let alone = host.show(old_id).await;
    assert_eq!((alone.safe_to_cut, alone.relatives.len(), alone.uses_by.len()), (None, 0, 2));

    let rotation = Rotation {
        at: host.now(),
        grace: SECOND,
        ends_at: host.now().saturating_add(7 * DAY),
        successor_used_at: None,
    };
    host.change(old_id, move |record| (record.successor, record.rotation) = (Some(new_id), Some(rotation))).await;
    host.change(new_id, move |record| record.predecessor = Some(old_id)).await;
    let cut = || async {
        let (of_old, of_new) = (host.show(old_id).await, host.show(new_id).await);
        assert_eq!((of_new.safe_to_cut, of_new.relatives.len()), (None, 1));
        assert_eq!(of_new.relatives[0].safe_to_cut, of_old.safe_to_cut, "seen from both ends");
        assert_eq!(of_new.relatives[0].uses_by, of_old.uses_by);
        assert_eq!((of_old.relatives[0].id, of_new.relatives[0].state), (new_id, State::Rotating));
        of_old.safe_to_cut
    };
    host.time.pass(SECOND);
    assert_eq!(cut().await, Some(false), "the new one is not used yet");
    assert!(host.use_as(&old, Some("backup.service")).await);
    host.time.pass(SECOND);
    assert!(host.use_as(&new, Some("web.service")).await);
    assert_eq!(cut().await, Some(false), "one has stayed behind");
    assert!(host.use_as(&new, Some("backup.service")).await);
    assert_eq!(cut().await, Some(true));
    // What is forgotten is no relative any more.
    host.store.write(move |txn| txn.remove(new_id)).await.unwrap().unwrap();
    let left = host.show(old_id).await;
    assert_eq!((left.relatives.len(), left.safe_to_cut), (0, Some(false)));
}

/// Through the programs, as people see it.
#[test]
fn show_and_list_on_the_command_line() {
    let daemon = Daemon::start();
    let token = daemon.issue(&["b", "--ttl", "3d"]);
    daemon.issue(&["c", "--ttl", "60d"]);
    daemon.issue(&["a", "--ttl", "30d"]);
    daemon.ctl_with(&token, &["validate"]).exits(0);
    let shown = daemon.ctl(&["show", &daemon::id_of(&token), "--json"]).exits(0).json();
    assert_eq!(shown["uses_by"][0]["count"], 1);
    assert_eq!((&shown["safe_to_cut"], &shown["relatives"]), (&serde_json::Value::Null, &serde_json::json!([])));
    let names = |flags: &[&str]| -> String {
        let listed = daemon.ctl(&[&["list", "--json"], flags].concat()).exits(0).json();
        assert_eq!(listed["next"].is_null(), !flags.contains(&"1") || flags.contains(&"--sort"));
        listed["tokens"].as_array().unwrap().iter().map(|token| token["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&[]), "bca");
    assert_eq!(names(&["--reverse"]), "acb");
    assert_eq!(names(&["--sort", "expires"]), "bac");
    assert_eq!(names(&["--sort", "name", "--limit", "2"]), "ab");
    assert_eq!(names(&["--sort", "last-used", "--reverse", "--limit", "1"]), "b");
    assert_eq!(names(&["--limit", "1"]), "b");
    daemon.ctl(&["list", "--sort", "size"]).exits(64);
    daemon.ctl(&["list", "--sort", "name", "--after", &daemon::id_of(&token)]).exits(64);
    let status = daemon.ctl(&["status", "--json"]).exits(0).json();
    assert_eq!((&status["store"]["tokens"], &status["store"]["expiring_7d"]), (&3.into(), &1.into()));
    assert!(daemon.ctl(&["status"]).exits(0).stdout.contains("3 tokens, 1 expiring this week"));
}
