//! Orders in the store, over a simulated disk: in force before they are durable, never half, done once to each token.

mod simdisk;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bearerd::protocol::filter::{Condition, Filter};
use bearerd::store::order::{Order, Own, What};
use bearerd::store::record::{Ending, TokenRecord};
use bearerd::store::{Committed, Counted, Effect, IndexTag, ORDERS_MAX, Placed, Scan, Store, StoreError, Txn};
use bearerd::token::TokenId;

use simdisk::{Event, Fail, Lost, Random, START, SimDisk, apply, block_on, create, ending, id, open, token, unsynced};

fn subject(name: &str) -> Filter {
    Condition::Subject(name.to_owned()).into()
}

fn draft(what: What, filter: impl Into<Filter>) -> Order {
    Order { number: 0, what, filter: filter.into(), among: None, own: None, ending: ending() }
}

async fn give(store: &Store, order: Order) -> Result<Result<Committed<Placed>, StoreError>, StoreError> {
    store
        .write(move |txn: &mut Txn<'_>| {
            txn.announce(|generation| format!("order {generation}").into_bytes())?;
            txn.order(order)
        })
        .await
}

fn given(store: &Store, order: Order) -> Placed {
    block_on(give(store, order)).unwrap().unwrap().value
}

async fn put(store: &Store, n: u64, change: impl FnOnce(&mut TokenRecord) + Send + 'static) {
    let job = move |txn: &mut Txn<'_>| {
        let mut record = txn.record(id(n))?.unwrap();
        record.version += 1;
        change(&mut record);
        txn.put(record, Effect::Extends)?;
        txn.announce(|generation| format!("change {n} at {generation}").into_bytes())
    };
    store.write(job).await.unwrap().unwrap();
}

fn changed(store: &Store, n: u64, change: impl FnOnce(&mut TokenRecord) + Send + 'static) {
    block_on(put(store, n, change));
}

fn issued(store: &Store, numbers: impl IntoIterator<Item = u64>) {
    let numbers: Vec<u64> = numbers.into_iter().collect();
    let job = move |txn: &mut Txn<'_>| {
        for n in &numbers {
            txn.put(token(*n), Effect::New)?;
        }
        txn.announce(|_| b"issue".to_vec())
    };
    block_on(store.write(job)).unwrap().unwrap();
}

fn found(store: &Store, n: u64) -> TokenRecord {
    (*store.lookup(id(n)).unwrap().record.unwrap()).clone()
}

fn is_revoked(store: &Store, n: u64) -> bool {
    found(store, n).revoked.is_some()
}

fn is_suspended(store: &Store, n: u64) -> bool {
    found(store, n).suspended.is_some()
}

fn scan_all(store: &Store) -> Vec<TokenRecord> {
    let scan = Scan { after: None, index: None, limit: 100_000, visit_max: 100_000 };
    store.scan(scan, |_| Ok(true)).unwrap().records
}

/// Writes what is unfinished into the records, as the daemon does; `batch` records at a time.
async fn apply_one(store: &Store, order: &Order, batch: usize) {
    let mut after = None;
    loop {
        let page = store.order_page(order, after).unwrap();
        for ids in page.ids.chunks(batch) {
            let ids = ids.to_vec();
            let job = move |txn: &mut Txn<'_>| -> Result<(), StoreError> {
                for id in ids {
                    if let Some(record) = txn.overdue(id)? {
                        txn.put(record, Effect::Extends)?;
                    }
                }
                Ok(())
            };
            store.write(job).await.unwrap().unwrap();
        }
        match page.next {
            None => break,
            next => after = next,
        }
    }
    let number = order.number;
    let finish = move |txn: &mut Txn<'_>| {
        txn.finish_order(number);
        Ok::<(), StoreError>(())
    };
    store.write(finish).await.unwrap().unwrap();
}

fn unfinished(store: &Store) -> Vec<Order> {
    let job = |txn: &mut Txn<'_>| Ok::<_, StoreError>(txn.unfinished_orders().cloned().collect::<Vec<_>>());
    block_on(store.write(job)).unwrap().unwrap().value
}

fn apply_all(store: &Store, batch: usize) {
    for order in unfinished(store) {
        block_on(apply_one(store, &order, batch));
    }
}

mod in_force {
    use super::*;

    /// Looks while the order's commit is inside its sync.
    fn while_in_sync<T>(disk: &SimDisk, store: &Store, order: Order, look: impl FnOnce() -> T) -> T {
        disk.hold_syncs();
        let writer = std::thread::spawn({
            let store = store.clone();
            move || drop(given(&store, order))
        });
        disk.wait_for_sync();
        assert!(!writer.is_finished(), "answered before it was durable");
        let seen = look();
        disk.release();
        writer.join().unwrap();
        seen
    }

    #[test]
    fn what_restricts_is_seen_before_it_is_durable_and_what_lets_go_only_then() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 0..8);
        // One in the cache, one not.
        assert!(!is_suspended(&store, 1));
        let look = || (is_suspended(&store, 1), is_suspended(&store, 5), is_suspended(&store, 2));
        assert_eq!(while_in_sync(&disk, &store, draft(What::Suspend, subject("user1")), look), (true, true, false));
        assert_eq!(look(), (true, true, false));
        assert_eq!(while_in_sync(&disk, &store, draft(What::Resume, subject("user1")), look), (true, true, false));
        assert_eq!(look(), (false, false, false));
        let revoked = || (is_revoked(&store, 1), is_revoked(&store, 5), is_revoked(&store, 2));
        assert_eq!(while_in_sync(&disk, &store, draft(What::Revoke, subject("user1")), revoked), (true, true, false));
        // And the same again from the disk alone, before and after it is written into the records.
        for _ in 0..2 {
            drop(open_after_kill(&disk));
        }
        assert_eq!(revoked(), (true, true, false));
    }

    fn open_after_kill(disk: &SimDisk) -> Store {
        let (store, _) = open(&SimDisk::of(disk.bytes())).unwrap();
        for _ in 0..2 {
            assert!(is_revoked(&store, 1) && is_revoked(&store, 5) && !is_revoked(&store, 2));
            assert_eq!(scan_all(&store).iter().filter(|record| record.revoked.is_some()).count(), 2);
            apply_all(&store, 1);
        }
        assert!(unfinished(&store).is_empty());
        store
    }

    /// A commit that fails takes the order back, whatever lookups have seen and cached meanwhile; and the next order,
    /// which gets the same number, is not mistaken for it.
    #[test]
    fn an_order_that_was_not_written_is_taken_back() {
        let mut taken_back = 0;
        for at in 0..40 {
            let disk = SimDisk::new();
            let store = create(&disk);
            issued(&store, 0..8);
            let over = AtomicBool::new(false);
            let failed = std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        while !over.load(Ordering::Acquire) {
                            for n in 0..8 {
                                // A read may fail while the engine is opened again.
                                let _ = store.lookup(id(n));
                            }
                        }
                    });
                }
                disk.fail(Fail::Write, at);
                let outcome = block_on(give(&store, draft(What::Suspend, subject("user1"))));
                let struck = disk.has_failed();
                over.store(true, Ordering::Release);
                match outcome {
                    Ok(given) => {
                        drop(given.unwrap());
                        false
                    }
                    Err(StoreError::NotWritten(_)) => {
                        assert!(struck);
                        true
                    }
                    Err(error) => panic!("{error:?}"),
                }
            });
            for n in 0..8 {
                assert_eq!(is_suspended(&store, n), !failed && n % 4 == 1, "{n}, failed at {at}: {failed}");
            }
            taken_back += usize::from(failed);
            let other = given(&store, draft(What::Suspend, subject("user2")));
            assert_eq!(other.order.number, if failed { 2 } else { 3 });
            for n in 0..8 {
                assert_eq!(is_suspended(&store, n), n % 4 == 2 || !failed && n % 4 == 1, "{n}, failed at {at}");
            }
        }
        assert!(taken_back >= 3, "{taken_back}");
    }

    /// The same to the letter: a lookup between the order and its failed commit sees it, and leaves nothing in the cache.
    #[test]
    fn nothing_that_bears_an_order_which_is_not_durable_is_cached() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 0..8);
        assert!(!is_suspended(&store, 1));
        disk.hold_syncs();
        block_on(async {
            let first = tokio::spawn({
                let store = store.clone();
                async move { put(&store, 0, |record| record.name = "first".into()).await }
            });
            tokio::task::yield_now().await;
            disk.wait_for_sync();
            let (looking, failing) = (store.clone(), disk.clone());
            let look = move |_: &mut Txn<'_>| {
                // One that is cached, and one that is not.
                let seen = (is_suspended(&looking, 1), is_suspended(&looking, 5), is_suspended(&looking, 2));
                failing.fail(Fail::Write, 0);
                Ok::<_, StoreError>(seen)
            };
            let (order, seen, ()) =
                tokio::join!(give(&store, draft(What::Suspend, subject("user1"))), store.write(look), async {
                    tokio::task::yield_now().await;
                    disk.release();
                });
            assert!(matches!(order, Err(StoreError::NotWritten(_))) && matches!(seen, Err(StoreError::NotWritten(_))));
            first.await.unwrap();
        });
        assert!((0..8).all(|n| !is_suspended(&store, n)));
        drop(given(&store, draft(What::Suspend, subject("user2"))));
        assert!((0..8).all(|n| is_suspended(&store, n) == (n % 4 == 2)));
    }

    #[test]
    fn after_a_failed_sync_what_was_to_be_refused_stays_refused() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 0..4);
        disk.fail(Fail::Sync, 0);
        assert!(matches!(block_on(give(&store, draft(What::Revoke, Condition::All))), Err(StoreError::SyncFailed)));
        assert!(matches!(store.lookup(id(1)), Err(StoreError::Fatal(_))));
    }

    /// I2, as the cached copies see it: no lookup that begins after the reply finds the state before it, while the order is
    /// written into the records and leaves the list.
    #[test]
    fn no_lookup_after_the_reply_is_stale_while_the_order_comes_and_goes() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 0..64);
        // Even: suspended now. The lookups go by what it was when they began and when they ended.
        let phase = std::sync::atomic::AtomicU64::new(1);
        std::thread::scope(|scope| {
            for reader in 0..3 {
                let (store, phase) = (&store, &phase);
                scope.spawn(move || {
                    let mut random = Random(reader);
                    loop {
                        let n = random.below(16) * 4 + 1;
                        let before = phase.load(Ordering::SeqCst);
                        let suspended = is_suspended(store, n);
                        let after = phase.load(Ordering::SeqCst);
                        if before == u64::MAX || after == u64::MAX {
                            return;
                        }
                        if before == after && before < 1_000_000 {
                            assert_eq!(suspended, before.is_multiple_of(2), "{n} in phase {before}");
                        }
                    }
                });
            }
            for round in 0..60 {
                // Between phases nothing is promised: they are numbered where nobody looks.
                let now = phase.load(Ordering::SeqCst);
                phase.store(now + 1_000_000, Ordering::SeqCst);
                let what = if now.is_multiple_of(2) { What::Resume } else { What::Suspend };
                let placed = given(&store, draft(what, subject("user1")));
                phase.store(now + 1, Ordering::SeqCst);
                if round % 3 != 0 {
                    for order in unfinished(&store) {
                        block_on(apply_one(&store, &order, 3));
                    }
                }
                drop(placed);
            }
            phase.store(u64::MAX, Ordering::SeqCst);
        });
    }
}

mod once {
    use super::*;

    #[test]
    fn what_was_done_to_a_token_after_an_order_stays() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 0..8);
        given(&store, draft(What::Suspend, Condition::All));
        // Resumed alone, issued later, and made to fit later.
        changed(&store, 1, |record| record.suspended = None);
        issued(&store, [8]);
        given(&store, draft(What::Revoke, subject("moved here")));
        changed(&store, 2, |record| record.subject = "moved here".into());
        let fits = |store: &Store| {
            for n in 0..9 {
                assert_eq!(is_suspended(store, n), n != 1 && n != 8, "{n}");
                assert!(!is_revoked(store, n), "{n}");
            }
        };
        fits(&store);
        drop(store);
        let (store, _) = open(&disk).unwrap();
        fits(&store);
        apply_all(&store, 2);
        fits(&store);
        assert!(unfinished(&store).is_empty());
        drop(store);
        let (store, _) = open(&disk).unwrap();
        assert!(unfinished(&store).is_empty());
        fits(&store);
        // The next one is held against all of them again.
        given(&store, draft(What::Suspend, Condition::All));
        assert!((0..9).all(|n| is_suspended(&store, n)));
    }

    /// A reader may still hold the list with an order that is over: what was written after it says so.
    #[test]
    fn what_is_written_when_an_order_is_over_is_held_against_it() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 0..4);
        let number = given(&store, draft(What::Suspend, Condition::All)).order.number;
        apply_all(&store, 4);
        given(&store, draft(What::Resume, Condition::Name("nobody".into())));
        let newer = unfinished(&store)[0].number;
        let last = move |txn: &mut Txn<'_>| {
            txn.finish_order(newer);
            let mut record = txn.record(id(1))?.unwrap();
            record.suspended = None;
            txn.put(record, Effect::Extends)
        };
        block_on(store.write(last)).unwrap().unwrap();
        assert!(newer > number && found(&store, 1).order >= newer);
        issued(&store, [9]);
        assert!(found(&store, 9).order >= newer);
    }

    #[test]
    fn a_batch_has_its_own_order_of_things() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 0..4);
        disk.hold_syncs();
        block_on(async {
            let first = tokio::spawn({
                let store = store.clone();
                async move { put(&store, 0, |record| record.name = "first".into()).await }
            });
            tokio::task::yield_now().await;
            disk.wait_for_sync();
            // All in one transaction: suspended, one resumed, one issued after it, all resumed but what came after.
            let together = async {
                tokio::join!(
                    async { drop(give(&store, draft(What::Suspend, Condition::All)).await.unwrap().unwrap()) },
                    put(&store, 1, |record| {
                        assert!(record.suspended.is_some());
                        record.suspended = None;
                    }),
                    async {
                        let issue = |txn: &mut Txn<'_>| {
                            txn.put(token(4), Effect::New)?;
                            txn.announce(|_| b"issue".to_vec())
                        };
                        store.write(issue).await.unwrap().unwrap();
                    },
                    async { drop(give(&store, draft(What::Resume, subject("user2"))).await.unwrap().unwrap()) },
                    put(&store, 2, |record| {
                        assert!(record.suspended.is_none());
                        record.suspended = Some(ending());
                    }),
                )
            };
            let release = async {
                tokio::task::yield_now().await;
                disk.release();
            };
            tokio::join!(together, release);
            first.await.unwrap();
        });
        let suspended = |store: &Store| (0..5).map(|n| is_suspended(store, n)).collect::<Vec<_>>();
        assert_eq!(suspended(&store), [true, false, true, true, false]);
        apply_all(&store, 1);
        assert_eq!(suspended(&store), [true, false, true, true, false]);
    }

    #[test]
    fn what_an_order_ended_counts_no_more_in_its_issuers_share() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 0..12);
        let live = |limit| {
            let count = move |txn: &mut Txn<'_>| txn.live_count(1001, limit);
            block_on(store.write(count)).unwrap().unwrap().value
        };
        assert_eq!(live(100), 3);
        given(&store, draft(What::Revoke, Condition::Name("token 5".into())));
        assert_eq!((live(100), live(1), live(2)), (2, 1, 2));
        apply_all(&store, 10);
        assert_eq!(live(100), 2);
    }

    #[test]
    fn so_many_unfinished_ones_and_no_more() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 0..4);
        for _ in 0..ORDERS_MAX {
            given(&store, draft(What::Suspend, subject("user1")));
        }
        let refused = block_on(give(&store, draft(What::Revoke, Condition::All))).unwrap();
        assert!(matches!(refused, Err(StoreError::TooManyOrders)));
        assert!(!is_revoked(&store, 1));
        block_on(apply_one(&store, &unfinished(&store)[0], 10));
        given(&store, draft(What::Revoke, Condition::All));
        assert!(is_revoked(&store, 1));
    }
}

mod counts {
    use super::*;

    fn counted(numbers: impl IntoIterator<Item = u64>, most: usize) -> Counted {
        let mut ids: Vec<TokenId> = numbers.into_iter().map(id).collect();
        let count = ids.len() as u64;
        ids.sort_unstable();
        ids.truncate(most);
        Counted { count, ids }
    }

    #[test]
    fn only_what_changes_counts() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 0..40);
        changed(&store, 5, |record| record.revoked = Some(ending()));
        let would = |order: Order| store.count(&Order { number: u64::MAX, ..order }, 4).unwrap();
        let user1 = |n: &u64| n % 4 == 1 && *n != 5;
        assert_eq!(would(draft(What::Revoke, subject("user1"))), counted((0..40).filter(user1), 4));
        let index = |store: &Store, name: &'static str| {
            let count = move |txn: &mut Txn<'_>| txn.count_unrevoked(name, 4);
            block_on(store.write(count)).unwrap().unwrap().value
        };
        assert_eq!(index(&store, "user1"), Some(counted((0..40).filter(user1), 4)));
        let team = || draft(What::Revoke, Condition::Label("team=t1".into()));
        let placed = given(&store, team());
        // Not written down yet: the index can't say.
        assert_eq!(index(&store, "user1"), None);
        assert_eq!(
            would(draft(What::Revoke, subject("user1"))),
            counted((0..40).filter(user1).filter(|n| n % 6 != 3), 4)
        );
        assert_eq!(store.count_placed(placed, 4).unwrap(), counted((0..40).filter(|n| n % 6 == 3), 4));
        apply_all(&store, 7);
        assert_eq!(index(&store, "user1"), Some(counted((0..40).filter(user1).filter(|n| n % 6 != 3), 4)));
        // An order for others does not get in the way.
        given(&store, draft(What::Revoke, subject("user2")));
        assert!(index(&store, "user1").is_some() && index(&store, "user2").is_none());
        assert_eq!(would(team()).count, 0);
        // Its giver's own: issued by, or standing for, each once.
        let own = Own { uid: 1003, name: "user3".into() };
        let mine = Order { own: Some(own), ..draft(What::Suspend, Condition::All) };
        assert_eq!(would(mine.clone()), counted((0..40).filter(|n| n % 4 == 3 && n % 6 != 3), 4));
        let some: Vec<TokenId> = counted([1, 3, 7, 8], 9).ids;
        assert_eq!(would(Order { among: Some(some), ..mine }), counted([7], 4));
    }

    /// Exact while others write tokens that it has changed and the order is written into the rest.
    #[test]
    fn a_count_is_exact_while_everything_is_written() {
        const TOKENS: u64 = 9_000;
        let disk = SimDisk::new();
        let store = create(&disk);
        for from in (0..TOKENS).step_by(1000) {
            issued(&store, from..from + 1000);
        }
        let all = TOKENS - TOKENS / 4;
        for round in 0..2_u64 {
            let filter = Filter(vec![Condition::IssuedBefore(START.saturating_add(Duration::from_secs(1)))]);
            let what = if round % 2 == 0 { What::Suspend } else { What::Resume };
            // A quarter changed by themselves before: not counted.
            let at = ending();
            let before = move |txn: &mut Txn<'_>| {
                for n in (0..TOKENS).filter(|n| n % 4 == 0) {
                    let mut record = txn.record(id(n))?.unwrap();
                    record.version += 1;
                    record.suspended = (what == What::Suspend).then(|| at.clone());
                    txn.put(record, Effect::Extends)?;
                }
                Ok::<(), StoreError>(())
            };
            block_on(store.write(before)).unwrap().unwrap();
            let placed = given(&store, draft(what, filter));
            let order = (*placed.order).clone();
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| block_on(apply_one(&store, &order, 50)));
                let (store, over) = (&store, &over);
                for writer in 0..2 {
                    scope.spawn(move || {
                        let mut random = Random(round * 2 + writer);
                        while !over.load(Ordering::Acquire) {
                            let n = random.below(TOKENS);
                            // Back and forth: what they do after the order is not its doing.
                            changed(store, n, |record| {
                                record.suspended = if record.suspended.is_some() { None } else { Some(ending()) };
                            });
                        }
                    });
                }
                let count = store.count_placed(placed, 1000).unwrap();
                over.store(true, Ordering::Release);
                assert_eq!((count.count, count.ids.len()), (all, 1000), "round {round}");
                assert!(count.ids.is_sorted());
            });
            // Even again for the next round.
            let reset = move |txn: &mut Txn<'_>| {
                for n in 0..TOKENS {
                    let mut record = txn.record(id(n))?.unwrap();
                    record.suspended = (what == What::Suspend).then(ending);
                    txn.put(record, Effect::Extends)?;
                }
                Ok::<(), StoreError>(())
            };
            block_on(store.write(reset)).unwrap().unwrap();
        }
    }
}

/// I1 and I4: cut before and after every write and sync, with any part of what was not synced lost.
mod cut {
    use super::*;

    /// What is so after a generation.
    type States = BTreeMap<TokenId, (Option<Ending>, Option<Ending>)>;

    fn states(records: &[TokenRecord]) -> States {
        records.iter().map(|record| (record.id, (record.revoked.clone(), record.suspended.clone()))).collect()
    }

    #[test]
    fn cut_anywhere_an_order_is_there_whole_or_not_at_all_and_done_once() {
        let disk = SimDisk::new();
        let store = create(&disk);
        // What each generation looks like to whoever reads, and how much the disk had done when it was answered.
        let mut expected: BTreeMap<u64, (States, usize)> = BTreeMap::new();
        let mut note = |store: &Store| {
            let generation = store.generation();
            let seen = states(&scan_all(store));
            if let Some((before, _)) = expected.get(&generation) {
                assert_eq!(*before, seen, "writing orders down changed what is so");
            } else {
                expected.insert(generation, (seen, disk.log_len()));
            }
        };
        note(&store);
        issued(&store, 0..12);
        note(&store);
        given(&store, draft(What::Suspend, subject("user1")));
        note(&store);
        changed(&store, 1, |record| record.suspended = None);
        note(&store);
        given(&store, draft(What::Revoke, Condition::Label("team=t0".into())));
        note(&store);
        issued(&store, [12, 13]);
        note(&store);
        let orders = unfinished(&store);
        block_on(apply_one(&store, &orders[0], 1));
        note(&store);
        given(&store, draft(What::Resume, Condition::All));
        note(&store);
        changed(&store, 5, |record| record.suspended = Some(ending()));
        note(&store);
        apply_all(&store, 2);
        note(&store);
        drop(store);

        let log = disk.log();
        let (mut durable, mut synced, mut images) = (Vec::new(), 0, 0);
        let mut seen = std::collections::BTreeSet::new();
        for done in 0..=log.len() {
            if let Some(Event::Sync) = done.checked_sub(1).map(|last| &log[last]) {
                for event in &log[synced..done] {
                    apply(&mut durable, event, &mut || true);
                }
                synced = done;
            }
            for lost in [Lost::Nothing, Lost::Everything, Lost::Random(done as u64)] {
                if done == synced && !matches!(lost, Lost::Nothing) {
                    continue;
                }
                let mut image = durable.clone();
                unsynced(&mut image, &log[synced..done], lost);
                let what = format!("cut after {done} of {}, {lost:?}", log.len());
                let disk = SimDisk::of(image);
                let store = match open(&disk) {
                    Ok((store, _)) => store,
                    Err(_) if done < expected[&0].1 => continue,
                    Err(error) => panic!("{what}: {error:?}"),
                };
                let generation = store.generation();
                let answered = expected.iter().filter(|(_, (_, at))| *at <= done).map(|(at, _)| *at).max();
                assert!(generation >= answered.unwrap_or(0), "{what}");
                for _ in 0..2 {
                    assert_eq!(states(&scan_all(&store)), expected[&generation].0, "{what}, generation {generation}");
                    apply_all(&store, 3);
                }
                assert!(unfinished(&store).is_empty(), "{what}");
                for record in scan_all(&store) {
                    let found = store.lookup(record.id).unwrap().record.unwrap();
                    assert_eq!(found.revoked, record.revoked, "{what}");
                    assert_eq!(found.suspended, record.suspended, "{what}");
                }
                // Written down: the index of what is not revoked says so too.
                for name in ["user0", "user1", "user2", "user3"] {
                    let count = move |txn: &mut Txn<'_>| txn.count_unrevoked(name, 0);
                    let count = block_on(store.write(count)).unwrap().unwrap().value.unwrap().count;
                    let scan =
                        Scan { after: None, index: Some((IndexTag::Subject, name.into())), limit: 100, visit_max: 100 };
                    let there = store.scan(scan, |record| Ok(record.revoked.is_none())).unwrap().records.len();
                    assert_eq!(count, there as u64, "{what}: {name}");
                }
                seen.insert(generation);
                images += 1;
            }
        }
        assert_eq!(seen.len(), expected.len(), "every state was seen");
        assert!(images > 150, "{images}");
    }
}

/// I9: a store of the first format has neither the table nor the index.
mod first_format {
    use super::*;
    use bearerd::store::{FileOptions, StoreFile};
    use redb::{Database, ReadableTable, TableDefinition};
    use simdisk::{HEADER, TestSealer, clock, quiet};

    const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
    const INDEX: TableDefinition<'_, &[u8; 33], ()> = TableDefinition::new("index");
    const COUNTS: TableDefinition<'_, &[u8; 17], u64> = TableDefinition::new("counts");
    const ORDERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("orders");

    fn format_of(path: &std::path::Path) -> Vec<u8> {
        let db = Database::open(path).unwrap();
        let txn = db.begin_write().unwrap();
        let meta = txn.open_table(META).unwrap();
        meta.get("format").unwrap().unwrap().value().to_vec()
    }

    #[test]
    fn it_is_brought_up_when_it_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.redb");
        let file = || {
            let file =
                std::fs::File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
            StoreFile::from_file(file, FileOptions::default()).unwrap()
        };
        let store = Store::create(file(), HEADER, TestSealer::new(1), clock(), quiet()).unwrap();
        issued(&store, 0..5000);
        changed(&store, 1, |record| record.revoked = Some(ending()));
        block_on(store.stop()).unwrap();
        drop(store);
        {
            let db = Database::open(&path).unwrap();
            let txn = db.begin_write().unwrap();
            {
                let mut index = txn.open_table(INDEX).unwrap();
                index.retain(|key, ()| key[0] != 5).unwrap();
                txn.open_table(META).unwrap().insert("format", &[1_u8, 0, 1, 0][..]).unwrap();
            }
            txn.delete_table(ORDERS).unwrap();
            txn.delete_table(COUNTS).unwrap();
            txn.commit().unwrap();
        }
        assert_eq!(format_of(&path), [1, 0, 1, 0]);
        for _ in 0..2 {
            let (store, _) = Store::open(file(), TestSealer::new(1), clock(), quiet()).unwrap();
            let count = |txn: &mut Txn<'_>| txn.count_unrevoked("user1", 0);
            assert_eq!(block_on(store.write(count)).unwrap().unwrap().value.unwrap().count, 1249);
            block_on(store.stop()).unwrap();
            drop(store);
            assert_eq!(format_of(&path), [2, 0, 2, 0]);
        }
    }
}
