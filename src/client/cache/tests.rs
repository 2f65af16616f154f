use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread;

use super::ledger::WAITING_MAX;
use super::uses::{Taken, Uses};
use super::*;
use crate::client::ClientError;
use crate::page::{self, Served};
use crate::protocol::code::ErrorCode;
use crate::protocol::message::Failure;
use crate::protocol::{REPORTS_MAX, REQUEST_MAX};
use crate::sys::shared::Words;
use crate::time::wall_now;

/// The source of the counting once more, over the model checker's atomics.
#[allow(clippy::duplicate_mod, reason = "that is what it is for")]
#[path = "uses.rs"]
mod uses_under_loom;

/// What it goes by there. The times are not what is checked: each of them would only be tried against each other.
mod atomic {
    pub(super) use std::sync::atomic::AtomicU64;

    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
}

const TOKEN: &str = "brdm_01M844DZG0FAY828T5CY4TQKFF_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf2b9MjO";

/// An open page that beats once, now, and as clients see it.
fn page() -> (Served, Arc<Seen>) {
    let served = page::Writer::shared().expect("memory");
    served.beat(boottime(), wall_now());
    served.open();
    let file = served.file().try_clone_to_owned().expect("a descriptor");
    let seen = Seen::new(Words::open(&file, page::WORDS).expect("sealed")).expect("a page");
    (served, Arc::new(seen))
}

fn ask<'a>(token: &'a str, scopes: &[&'a str]) -> Validate<'a> {
    Validate { token, scopes: scopes.to_vec(), audience: None, from: None, note: None, peek: false }
}

fn stamped(active: bool, ticket: &[u8]) -> Stamped {
    Stamped {
        verdict: Verdict { active, reason: None, missing_scopes: Vec::new(), token: None },
        cache: Some(Cacheable { generation: 0, slot: 7, value: 0, good_until: None, ticket: ticket.to_vec() }),
    }
}

fn keep(cache: &Cache, page: &Arc<Seen>, asked: &Validate<'_>, ticket: &[u8]) {
    let key = cache.secret.key(asked).expect("it has a key");
    drop(cache.keep(key, Some(page), stamped(true, ticket)));
}

fn kept(cache: &Cache, asked: &Validate<'_>) -> bool {
    matches!(cache.find(asked), Found::Kept(_))
}

fn told(reports: &[Report]) -> u64 {
    reports.iter().map(|report| u64::from(report.count)).sum()
}

/// Entries that are there.
fn there(cache: &Cache) -> usize {
    cache.sets.iter().flat_map(|set| &set.0).filter(|way| way.load().is_some()).count()
}

#[test]
fn each_part_of_a_question_tells_it_from_others() {
    let cache = Cache::new(16);
    let with = |scopes: &[&'static str], audience: Option<&'static str>, from: Option<&str>| Validate {
        audience,
        from: from.map(|from| from.parse().expect("an address")),
        ..ask(TOKEN, scopes)
    };
    let questions = [
        with(&[], None, None),
        with(&["a"], None, None),
        with(&["b"], None, None),
        with(&["a", "b"], None, None),
        with(&["b", "a"], None, None),
        with(&["ab"], None, None),
        with(&["a", "a"], None, None),
        // No daemon says yes to an empty scope, nor may a cache.
        with(&[""], None, None),
        with(&["", ""], None, None),
        with(&["", "a"], None, None),
        with(&["", "", "a"], None, None),
        with(&["a", ""], None, None),
        with(&[], Some("a"), None),
        with(&[], Some(""), None),
        with(&["", "a"], Some("a"), None),
        with(&["a"], Some("a"), None),
        with(&["a"], Some("b"), None),
        with(&[], None, Some("192.0.2.1")),
        with(&[], None, Some("192.0.2.2")),
        with(&[], None, Some("::ffff:192.0.2.1")),
        with(&[], None, Some("::")),
        with(&[], None, Some("0.0.0.0")),
        with(&[], None, Some("255.255.255.255")),
        with(&[], None, Some("255.1.97.255")),
        with(&[], None, Some("97.255.255.255")),
        with(&[], None, Some("ff01:6100::")),
        with(&[], None, Some("ff02:61ff:300::")),
        with(&[], Some("a"), Some("192.0.2.1")),
        with(&["a"], None, Some("192.0.2.1")),
        ask("", &[]),
        ask("", &[TOKEN]),
        ask("x", &[]),
    ];
    let keys: HashSet<(u64, u64)> = questions
        .iter()
        .map(|asked| cache.secret.key(asked).expect("it has a key"))
        .map(|key| (key.0, key.1))
        .collect();
    assert_eq!(keys.len(), questions.len(), "two questions have one key");
    // Another character of the token anywhere.
    let mut tokens: Vec<String> = (0..TOKEN.len()).map(|at| format!("{}!{}", &TOKEN[..at], &TOKEN[at + 1..])).collect();
    tokens.extend((0..TOKEN.len()).map(|at| TOKEN[..at].to_owned()));
    assert!(tokens.iter().all(|token| cache.secret.key(&ask(token, &[])) != cache.secret.key(&ask(TOKEN, &[]))));
    // Asked again it is the same; of another process it is another.
    assert_eq!(cache.secret.key(&ask(TOKEN, &["a"])), cache.secret.key(&ask(TOKEN, &["a"])));
    assert_ne!(cache.secret.key(&ask(TOKEN, &["a"])), Cache::new(16).secret.key(&ask(TOKEN, &["a"])));
}

#[test]
fn what_is_not_to_be_kept_has_no_key() {
    let cache = Cache::new(16);
    assert!(cache.secret.key(&Validate { note: Some("job 7"), ..ask(TOKEN, &[]) }).is_none());
    assert!(cache.secret.key(&Validate { peek: true, ..ask(TOKEN, &[]) }).is_none());
    // Nor has what is longer than two KiB.
    let long = "s".repeat(2048);
    assert!(cache.secret.key(&ask(TOKEN, &[&long])).is_none());
    assert!(cache.secret.key(&ask(TOKEN, &[&long[..1900]])).is_some());
    assert!(matches!(cache.find(&ask(TOKEN, &[&long])), Found::AskOnly));
}

#[test]
fn only_a_good_verdict_with_a_page_is_kept() {
    let (_served, page) = page();
    let cache = Cache::new(16);
    let asked = ask(TOKEN, &[]);
    let key = cache.secret.key(&asked).expect("it has a key");
    drop(cache.keep(key, Some(&page), stamped(false, b"t")));
    drop(cache.keep(key, None, stamped(true, b"t")));
    drop(cache.keep(key, Some(&page), Stamped { cache: None, ..stamped(true, b"t") }));
    assert_eq!(there(&cache), 0);
    keep(&cache, &page, &asked, b"t");
    assert!(kept(&cache, &asked) && !kept(&cache, &ask(TOKEN, &["a"])));
}

#[test]
fn what_is_void_is_thrown_away_and_what_may_count_later_is_not() {
    let (served, page) = page();
    let cache = Cache::new(16);
    let asked = ask(TOKEN, &[]);
    keep(&cache, &page, &asked, b"t");
    served.ask();
    assert!(!kept(&cache, &asked) && there(&cache) == 1);
    served.open();
    assert!(kept(&cache, &asked));
    served.bump_slot(7);
    assert!(!kept(&cache, &asked) && there(&cache) == 0);
    // What it had counted is told.
    assert_eq!(told(&cache.reports()), 1);
    // A time that is over ends it too.
    let key = cache.secret.key(&asked).expect("it has a key");
    let mut over = stamped(true, b"t");
    let cacheable = over.cache.as_mut().expect("it may be kept");
    (cacheable.value, cacheable.good_until) = (1, Some(wall_now()));
    drop(cache.keep(key, Some(&page), over));
    assert!(there(&cache) == 1 && !kept(&cache, &asked) && there(&cache) == 0);
    served.close();
    keep(&cache, &page, &asked, b"t");
    assert!(!kept(&cache, &asked) && there(&cache) == 0);
    assert!(cache.reports().is_empty());
}

/// I5: so many entries, however many questions there are; and no use of those that are pushed out is lost.
#[test]
fn it_stays_as_large_as_it_is_and_what_gives_way_tells_what_it_counted() {
    let (served, page) = page();
    let cache = Cache::new(64);
    assert_eq!(cache.sets.len() * WAYS, 64);
    for n in 0..5_000 {
        let token = format!("t{n}");
        served.beat(boottime(), wall_now());
        keep(&cache, &page, &ask(&token, &[]), token.as_bytes());
        assert!(kept(&cache, &ask(&token, &[])), "the newest is kept");
        assert!(there(&cache) <= 64);
    }
    assert_eq!(there(&cache), 64);
    let reports = cache.reports();
    assert_eq!((reports.len(), told(&reports)), (5_000, 5_000));
    let tickets: HashSet<&[u8]> = reports.iter().map(|report| &*report.ticket).collect();
    assert_eq!(tickets.len(), 5_000);
    assert!(cache.reports().is_empty(), "a use is told twice");
    assert_eq!(Cache::new(0).sets.len(), 1);
    assert_eq!(Cache::new(65).sets.len() * WAYS, 128);
}

/// Of one void page all ways may be taken again, and one question takes one way.
#[test]
fn a_question_that_is_kept_again_takes_the_place_of_the_first() {
    let (_served, page) = page();
    let cache = Cache::new(4);
    for n in 0..10_u8 {
        keep(&cache, &page, &ask(TOKEN, &[]), &[n]);
        assert!(kept(&cache, &ask(TOKEN, &[])));
    }
    assert_eq!(there(&cache), 1);
    assert_eq!(told(&cache.reports()), 10);
}

#[test]
fn reports_that_were_not_taken_wait_and_too_many_of_them_stop_the_granting() {
    let (_served, page) = page();
    let cache = Cache::new(16);
    let asked = ask(TOKEN, &[]);
    keep(&cache, &page, &asked, b"t");
    assert!(kept(&cache, &asked));
    let mut reports = cache.reports();
    let one = reports.pop().expect("a report");
    assert_eq!((one.count, &*one.ticket), (1, &b"t"[..]));
    assert!(one.first <= one.last && wall_now().saturating_add(Duration::from_secs(1)) > one.last);
    let again = |count| Report { ticket: Arc::clone(&one.ticket), count, first: one.first, last: one.last };
    cache.put_back(vec![again(5), again(7)]);
    assert!(kept(&cache, &asked));
    assert_eq!(told(&cache.reports()), 13);
    cache.put_back((0..WAITING_MAX).map(|_| again(1)).collect());
    assert!(!kept(&cache, &asked), "reports pile up");
    assert_eq!(told(&cache.reports()), WAITING_MAX as u64, "what was not granted was counted");
    assert!(kept(&cache, &asked));
}

/// So many uses that their number has no room: the daemon is asked until some are told, and none is made up.
#[test]
fn a_full_count_grants_nothing_more_and_does_not_come_round() {
    let mark = Mark::new();
    let now = UnixTime::from_secs(1_800_000_000);
    let uses = Uses::new(u32::MAX / 2 - 1);
    assert!(uses.count(now, &mark));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1000).for_each(|_| assert!(!uses.count(now, &mark))));
        }
    });
    assert_eq!(uses.take().map(|taken| taken.count), Some(u32::MAX / 2));
    assert_eq!(uses.take(), None);
    assert!(uses.count(now, &mark));
    assert_eq!(uses.take(), Some(Taken { count: 1, first: now, last: now }));
}

#[test]
fn reports_fit_a_request() {
    let report = |bytes| Report { ticket: vec![0; bytes].into(), count: 1, first: UnixTime::MAX, last: UnixTime::MAX };
    let small: Vec<Report> = (0..1000).map(|_| report(60)).collect();
    assert_eq!(one_request(&small), REPORTS_MAX);
    let large: Vec<Report> = (0..10).map(|_| report(crate::protocol::TICKET_MAX)).collect();
    let many = one_request(&large);
    let bytes = crate::codec::encode(&as_messages(&large[..many])).len();
    assert!(many >= 1 && bytes <= REQUEST_MAX, "{many} {bytes}");
}

#[test]
fn what_may_have_been_taken_is_not_told_again() {
    let failed = |code| ClientError::Failure(Failure::new(code, "so"));
    assert!(may_tell_again(&failed(ErrorCode::Unavailable)));
    assert!(may_tell_again(&ClientError::Refused(Failure::new(ErrorCode::Stopping, "so"))));
    assert!(!may_tell_again(&failed(ErrorCode::BadRequest)));
    assert!(!may_tell_again(&ClientError::Lost { source: None }));
    assert!(!may_tell_again(&ClientError::Timeout(Duration::ZERO)));
}

/// I4 in the cache alone: threads grant, replace, void and tell at the same time, and each use is told once, by its ticket.
#[test]
fn no_use_is_lost_or_told_twice_while_entries_come_and_go() {
    const THREADS: u64 = 4;
    let each = 30_000;
    let (served, page) = page();
    let cache = Cache::new(8);
    let tokens: Vec<String> = (0..24).map(|n| format!("t{n}")).collect();
    let all = Mutex::new(HashMap::<Arc<[u8]>, u64>::new());
    let tell = |reports: Vec<Report>| {
        let mut all = all.lock().expect("whole");
        reports.into_iter().for_each(|report| *all.entry(report.ticket).or_default() += u64::from(report.count));
    };
    let done = AtomicBool::new(false);
    let granted: Vec<HashMap<usize, u64>> = thread::scope(|scope| {
        let (cache, page, tokens, served, done) = (&cache, &page, &tokens, &served, &done);
        scope.spawn(move || {
            let mut turn = 0_u64;
            while !done.load(Ordering::Acquire) {
                served.beat(boottime(), wall_now());
                let mut reports = cache.reports();
                turn += 1;
                // Each third time the daemon does not take them.
                if turn.is_multiple_of(3) {
                    cache.put_back(reports);
                } else {
                    tell(std::mem::take(&mut reports));
                }
                if turn.is_multiple_of(64) {
                    served.bump_slot(7);
                }
            }
            tell(cache.reports());
        });
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    let mut granted = HashMap::new();
                    for n in 0..each {
                        let place = ((n * (thread + 1) + n / 7) % 24) as usize;
                        let asked = ask(&tokens[place], &["a"]);
                        match cache.find(&asked) {
                            Found::Kept(_) => *granted.entry(place).or_insert(0) += 1,
                            Found::Ask(key) => {
                                let mut answer = stamped(true, tokens[place].as_bytes());
                                answer.cache.as_mut().expect("kept").value = served.slot_value(7);
                                drop(cache.keep(key, Some(page), answer));
                            }
                            Found::AskOnly => unreachable!("it has a key"),
                        }
                    }
                    granted
                })
            })
            .collect();
        let granted = threads.into_iter().map(|thread| thread.join().expect("it ends well")).collect();
        done.store(true, Ordering::Release);
        granted
    });
    tell(cache.reports());
    let all = all.into_inner().expect("whole");
    assert!(granted.iter().flat_map(HashMap::values).sum::<u64>() > 0, "nothing was a hit");
    for (place, token) in tokens.iter().enumerate() {
        let granted: u64 = granted.iter().filter_map(|of| of.get(&place)).sum();
        assert_eq!(all.get(token.as_bytes()).copied().unwrap_or(0), granted, "{token}");
    }
}

/// The counting in every interleaving: two that grant, one that tells, and one of the entries is replaced meanwhile.
mod counting {
    use loom::sync::{Arc, Mutex};

    use super::uses_under_loom::{Mark, Uses};
    use crate::time::UnixTime;

    /// An entry as the cache has it: what it counted and did not tell, it tells when it goes.
    struct Entry {
        uses: Uses,
        left: Arc<Mutex<u32>>,
    }

    impl Drop for Entry {
        fn drop(&mut self) {
            if let Some(taken) = self.uses.take() {
                *self.left.lock().unwrap() += taken.count;
            }
        }
    }

    fn now() -> UnixTime {
        UnixTime::from_secs(1_800_000_000)
    }

    fn every_interleaving(tell: impl Fn(&Mark, &Uses) -> u32 + Send + Sync + Copy + 'static) {
        loom::model(move || {
            let mark = Arc::new(Mark::new());
            let uses = Arc::new(Uses::new(0));
            let granting: Vec<_> = (0..2)
                .map(|_| {
                    let (mark, uses) = (Arc::clone(&mark), Arc::clone(&uses));
                    loom::thread::spawn(move || assert!(uses.count(now(), &mark)))
                })
                .collect();
            let told = tell(&mark, &uses);
            granting.into_iter().for_each(|thread| thread.join().unwrap());
            let rest = tell(&mark, &uses);
            assert_eq!(told + rest, 2, "uses were lost or made up");
            assert_eq!(tell(&mark, &uses), 0, "told twice");
        });
    }

    /// As `Cache::reports`.
    fn tell(mark: &Mark, uses: &Uses) -> u32 {
        if mark.take() { uses.take().map_or(0, |taken| taken.count) } else { 0 }
    }

    #[test]
    fn a_use_is_told_once() {
        every_interleaving(tell);
    }

    #[test]
    fn a_mark_that_is_taken_back_after_the_counts_loses_uses_and_the_checker_finds_it() {
        let found = std::panic::catch_unwind(|| {
            every_interleaving(|mark, uses| {
                let told = uses.take().map_or(0, |taken| taken.count);
                if mark.take() { told } else { 0 }
            });
        });
        assert!(said(found).contains("uses were lost or made up"));
    }

    /// The table is a lock here, where the cache has a pointer that is swapped; who has looked the entry up holds it still.
    #[test]
    fn an_entry_that_is_replaced_tells_what_is_counted_on_it_meanwhile() {
        loom::model(|| {
            let left = Arc::new(Mutex::new(0));
            let mark = Arc::new(Mark::new());
            let entry = || Arc::new(Entry { uses: Uses::new(0), left: Arc::clone(&left) });
            let way = Arc::new(Mutex::new(entry()));
            let granting = {
                let (way, mark) = (Arc::clone(&way), Arc::clone(&mark));
                loom::thread::spawn(move || {
                    let there = Arc::clone(&*way.lock().unwrap());
                    assert!(there.uses.count(now(), &mark));
                })
            };
            let replacing = {
                let (way, newer) = (Arc::clone(&way), entry());
                loom::thread::spawn(move || drop(std::mem::replace(&mut *way.lock().unwrap(), newer)))
            };
            let tell = || {
                let told = std::mem::take(&mut *left.lock().unwrap());
                if !mark.take() {
                    return told;
                }
                let there = Arc::clone(&*way.lock().unwrap());
                told + there.uses.take().map_or(0, |taken| taken.count)
            };
            let told = tell();
            granting.join().unwrap();
            replacing.join().unwrap();
            assert_eq!(told + tell(), 1, "a use was lost or told twice");
        });
    }

    /// What a model that failed said.
    fn said(found: std::thread::Result<()>) -> String {
        let panic = found.expect_err("the checker finds nothing");
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default()
    }
}
