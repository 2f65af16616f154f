//! The store over a simulated disk: what a job may do, who sees what when, and what faults come to.

mod simdisk;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bearerd::store::record::{Rotation, TokenRecord};
use bearerd::store::{Committed, Effect, Fault, IndexTag, Scan, Store, StoreError, StoreOptions, Txn, UseNote};
use bearerd::time::{Clock, UnixTime, manual::ManualTime};
use bearerd::token::TokenId;

use simdisk::{
    Fail, HEADER, START, SimDisk, TestSealer, block_on, clock, create, create_with, ending, id, open, quiet, token,
};

type Written<T> = Result<Result<Committed<T>, StoreError>, StoreError>;

async fn issue(store: &Store, n: u64) -> Written<u64> {
    store
        .write(move |txn: &mut Txn<'_>| {
            txn.put(token(n), Effect::New)?;
            txn.announce(|generation| format!("issue {n} at {generation}").into_bytes())
        })
        .await
}

async fn change(
    store: &Store,
    n: u64,
    effect: Effect,
    change: impl FnOnce(&mut TokenRecord) + Send + 'static,
) -> Written<u64> {
    store
        .write(move |txn: &mut Txn<'_>| {
            let mut record = txn.record(id(n))?.unwrap();
            record.version += 1;
            change(&mut record);
            txn.put(record, effect)?;
            txn.announce(|generation| format!("change {n} at {generation}").into_bytes())
        })
        .await
}

async fn revoke(store: &Store, n: u64) -> Written<u64> {
    change(store, n, Effect::Restricts, |record| record.revoked = Some(ending())).await
}

fn version(store: &Store, n: u64) -> Option<u64> {
    store.lookup(id(n)).unwrap().record.map(|record| record.version)
}

fn is_revoked(store: &Store, n: u64) -> bool {
    store.lookup(id(n)).unwrap().record.unwrap().revoked.is_some()
}

fn issued(store: &Store, n: u64) {
    block_on(issue(store, n)).unwrap().unwrap();
}

fn last_use(at: UnixTime, count: u64) -> UseNote<'static> {
    UseNote { at, unit: Some("app.service"), uid: 7, from: None, count }
}

mod jobs {
    use super::*;

    #[test]
    fn what_was_written_is_found_again_after_a_kill_and_after_a_stop() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 1);
        let committed = block_on(revoke(&store, 1)).unwrap().unwrap();
        assert_eq!((committed.value, committed.generation, store.generation()), (2, 2, 2));
        drop(store);

        let (store, boot) = open(&disk).unwrap();
        assert_eq!((boot.generation, boot.clean_stop), (2, false));
        assert_eq!(boot.outbox, [(1, b"issue 1 at 1".to_vec()), (2, b"change 1 at 2".to_vec())]);
        assert!(is_revoked(&store, 1));
        assert!(store.lookup(id(9)).unwrap().record.is_none());
        block_on(store.stop()).unwrap();
        assert!(matches!(store.lookup(id(2)), Err(StoreError::Stopped)));
        assert!(matches!(block_on(issue(&store, 2)), Err(StoreError::Stopped)));

        // The lock is free though a handle lives; a clean stop is believed once.
        let (again, boot) = open(&disk).unwrap();
        assert!(boot.clean_stop);
        drop(again);
        let (_, boot) = open(&disk).unwrap();
        assert!(!boot.clean_stop);
    }

    #[test]
    fn a_job_that_returns_an_error_has_written_nothing() {
        let store = create(&SimDisk::new());
        let given_up = block_on(store.write(|txn: &mut Txn<'_>| -> Result<(), StoreError> {
            txn.put(token(1), Effect::New)?;
            txn.announce(|_| Vec::new())?;
            assert_eq!(txn.record(id(1))?.unwrap().version, 1);
            Err(StoreError::Exists)
        }));
        assert!(matches!(given_up, Ok(Err(StoreError::Exists))));
        assert_eq!((version(&store, 1), store.generation(), store.token_count().unwrap()), (None, 0, 0));
        // Its generation was not used up.
        assert_eq!(block_on(issue(&store, 1)).unwrap().unwrap().generation, 1);
        assert!(matches!(block_on(issue(&store, 1)), Ok(Err(StoreError::Exists))));
    }

    /// Others in the same transaction are not touched by one that panics or gives up, and see each other.
    #[test]
    fn a_batch_is_one_transaction_in_which_each_job_stands_alone() {
        let disk = SimDisk::new();
        let store = create(&disk);
        disk.hold_syncs();
        block_on(async {
            let first = tokio::spawn({
                let store = store.clone();
                async move { issue(&store, 1).await }
            });
            tokio::task::yield_now().await;
            disk.wait_for_sync();
            // All of these wait until the first is durable, and then go together.
            let syncs = disk.syncs();
            let others = async {
                tokio::join!(
                    issue(&store, 2),
                    store.write(|txn: &mut Txn<'_>| -> Result<(), StoreError> {
                        txn.put(token(3), Effect::New)?;
                        panic!("a job's own fault");
                    }),
                    store.write(|txn: &mut Txn<'_>| -> Result<(), StoreError> {
                        txn.remove(id(2))?;
                        Err(StoreError::NoRoom)
                    }),
                    revoke(&store, 2),
                    store.write(|txn: &mut Txn<'_>| -> Result<usize, StoreError> { txn.live_count(1002, 10) }),
                    async { disk.release() },
                )
            };
            let (second, panicked, gave_up, revoked, live, ()) = others.await;
            assert_eq!(first.await.unwrap().unwrap().unwrap().generation, 1);
            assert_eq!(second.unwrap().unwrap().generation, 2);
            assert!(matches!(panicked, Err(StoreError::JobPanicked)));
            assert!(matches!(gave_up, Ok(Err(StoreError::NoRoom))));
            assert_eq!(revoked.unwrap().unwrap().generation, 3);
            assert_eq!(live.unwrap().unwrap().value, 0, "revoked by the job before");
            // Two syncs of a commit, at most one more for the growth of the file.
            assert!(disk.syncs() - syncs <= 4, "{} syncs", disk.syncs() - syncs);
        });
        assert!(is_revoked(&store, 2));
        assert_eq!(version(&store, 3), None);
    }

    #[test]
    fn a_job_that_only_reads_costs_no_write() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 1);
        let before = disk.log_len();
        let read = block_on(store.write(|txn: &mut Txn<'_>| txn.record(id(1)))).unwrap().unwrap();
        assert_eq!((read.value.unwrap().version, read.generation), (1, 1));
        assert_eq!(disk.log_len(), before);
    }

    #[test]
    fn live_tokens_are_counted_exactly_with_what_the_job_itself_changed() {
        let store = create(&SimDisk::new());
        // uid 1001: 1, 5, 9, 13, 17.
        for n in [1, 5, 9, 13, 17, 2] {
            issued(&store, n);
        }
        block_on(revoke(&store, 1)).unwrap().unwrap();
        block_on(change(&store, 5, Effect::Restricts, |record| record.suspended = Some(ending()))).unwrap().unwrap();
        block_on(change(&store, 9, Effect::Restricts, |record| {
            (record.max_uses, record.uses) = (Some(2), 2);
        }))
        .unwrap()
        .unwrap();
        // Rotated, good for no longer than now.
        let rotation = Rotation { at: START, grace: Duration::ZERO, ends_at: START, successor_used_at: None };
        block_on(change(&store, 13, Effect::Restricts, |record| record.rotation = Some(rotation))).unwrap().unwrap();
        let counts = block_on(store.write(|txn: &mut Txn<'_>| -> Result<Vec<usize>, StoreError> {
            let mut counts = vec![txn.live_count(1001, 100)?, txn.live_count(1001, 1)?, txn.live_count(999, 100)?];
            txn.put(token(21), Effect::New)?;
            counts.push(txn.live_count(1001, 100)?);
            let mut ended = txn.record(id(17))?.unwrap();
            ended.revoked = Some(ending());
            txn.put(ended, Effect::Restricts)?;
            txn.remove(id(5))?;
            counts.push(txn.live_count(1001, 100)?);
            Ok(counts)
        }));
        // Suspended ones count.
        assert_eq!(counts.unwrap().unwrap().value, [2, 1, 0, 3, 1]);
    }

    #[test]
    fn removed_tokens_leave_nothing_behind() {
        let store = create(&SimDisk::new());
        issued(&store, 3);
        store.note_use(id(3), last_use(START, 4));
        block_on(store.flush()).unwrap();
        assert_eq!(store.last_use(id(3)).unwrap().unwrap().count, 4);
        block_on(store.write(|txn: &mut Txn<'_>| txn.remove(id(3)))).unwrap().unwrap();
        assert!(store.lookup(id(3)).unwrap().record.is_none());
        assert!(store.last_use(id(3)).unwrap().is_none());
        assert_eq!(store.token_count().unwrap(), 0);
        assert!(store.expiring(None, UnixTime::MAX, 10).unwrap().is_empty());
        let scan = Scan { after: None, index: Some((IndexTag::LabelKey, "env".to_owned())), limit: 9, visit_max: 9 };
        assert!(store.scan(scan, |_| Ok(true)).unwrap().records.is_empty());
        // A use that was noted before it was gone does not bring it back.
        store.note_use(id(3), last_use(START, 1));
        block_on(store.flush()).unwrap();
        assert!(store.last_use(id(3)).unwrap().is_none());
    }
}

/// I2, and the order of a revocation: refused in memory, slot bumped, durable, slot bumped, answered.
mod visibility {
    use super::*;

    /// Holds the disk inside the sync of a change, looks, lets go, looks again.
    fn while_in_sync<T>(
        disk: &SimDisk,
        store: &Store,
        n: u64,
        effect: Effect,
        how: impl FnOnce(&mut TokenRecord) + Send + 'static,
        look: impl FnOnce() -> T,
    ) -> T {
        disk.hold_syncs();
        let writer = std::thread::spawn({
            let store = store.clone();
            move || block_on(change(&store, n, effect, how))
        });
        disk.wait_for_sync();
        assert!(!writer.is_finished(), "answered before it was durable");
        let seen = look();
        disk.release();
        writer.join().unwrap().unwrap().unwrap();
        seen
    }

    #[test]
    fn a_restriction_is_seen_before_it_is_durable_and_nothing_stale_after() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 1);
        let before = store.lookup(id(1)).unwrap();
        assert!(before.record.unwrap().revoked.is_none());
        let how = |record: &mut TokenRecord| record.revoked = Some(ending());
        let between = while_in_sync(&disk, &store, 1, Effect::Restricts, how, || {
            let seen = store.lookup(id(1)).unwrap();
            assert!(seen.record.unwrap().revoked.is_some(), "refused early");
            // Listings read the disk: they still show what is durable.
            let page = store.scan(Scan { after: None, index: None, limit: 9, visit_max: 9 }, |_| Ok(true)).unwrap();
            assert!(page.records[0].revoked.is_none());
            seen.slot
        });
        let after = store.lookup(id(1)).unwrap();
        assert!(after.record.unwrap().revoked.is_some());
        // Whoever kept the record with the slot's value, before or in between, finds it void.
        assert!(before.slot < between && between < after.slot);
    }

    #[test]
    fn an_extension_is_seen_only_when_it_is_durable() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 1);
        block_on(change(&store, 1, Effect::Restricts, |record| record.suspended = Some(ending()))).unwrap().unwrap();
        let before = store.lookup(id(1)).unwrap();
        while_in_sync(
            &disk,
            &store,
            1,
            Effect::Extends,
            |record| record.suspended = None,
            || {
                assert!(store.lookup(id(1)).unwrap().record.unwrap().suspended.is_some(), "good before it was durable");
            },
        );
        let after = store.lookup(id(1)).unwrap();
        assert!(after.record.unwrap().suspended.is_none());
        assert!(before.slot < after.slot);
    }

    /// Less in one way and more in another: neither is seen too late or too early.
    #[test]
    fn what_does_both_is_seen_as_the_less_of_both_until_it_is_durable() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 1);
        let put = |store: &Store| {
            block_on(store.write(|txn: &mut Txn<'_>| -> Result<(), StoreError> {
                let mut record = txn.record(id(1))?.unwrap();
                record.version += 1;
                (record.allow_uids, record.name) = (vec![1, 2], "after".to_owned());
                let mut meanwhile = record.clone();
                meanwhile.allow_uids = vec![1];
                txn.put_between(record, meanwhile)
            }))
        };
        let uids = |store: &Store| store.lookup(id(1)).unwrap().record.unwrap().allow_uids.clone();
        // Not written: as it was.
        disk.fail(Fail::WriteFull, 0);
        assert!(matches!(put(&store), Err(StoreError::NotWritten(_))));
        assert_eq!((uids(&store), version(&store, 1)), (vec![], Some(1)));

        disk.hold_syncs();
        let before = store.lookup(id(1)).unwrap().slot;
        let writer = std::thread::spawn({
            let store = store.clone();
            move || put(&store)
        });
        disk.wait_for_sync();
        assert_eq!(uids(&store), [1], "neither the old state nor the new one");
        let between = store.lookup(id(1)).unwrap().slot;
        disk.release();
        writer.join().unwrap().unwrap().unwrap();
        assert_eq!(uids(&store), [1, 2]);
        assert!(before < between && between < store.lookup(id(1)).unwrap().slot);
    }

    /// What a later job of the same batch restricts stands on an extension that is not durable: it does not show it.
    #[test]
    fn a_restriction_after_an_extension_in_one_batch_shows_nothing_of_it() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 1);
        block_on(change(&store, 1, Effect::Restricts, |record| record.suspended = Some(ending()))).unwrap().unwrap();
        disk.hold_syncs();
        block_on(async {
            let first = tokio::spawn({
                let store = store.clone();
                async move { issue(&store, 2).await }
            });
            tokio::task::yield_now().await;
            disk.wait_for_sync();
            // All of these wait until the first is durable, and then go together; the last looks before they are.
            let looking = store.clone();
            let (resumed, used, seen, ()) = tokio::join!(
                change(&store, 1, Effect::Extends, |record| record.suspended = None),
                change(&store, 1, Effect::Restricts, |record| record.uses += 1),
                store.write(move |txn: &mut Txn<'_>| -> Result<_, StoreError> {
                    let in_batch = txn.record(id(1))?.unwrap();
                    assert_eq!((in_batch.suspended.is_some(), in_batch.uses), (false, 1));
                    Ok(looking.lookup(id(1))?.record.unwrap().suspended.is_some())
                }),
                async { disk.release() },
            );
            first.await.unwrap().unwrap().unwrap();
            resumed.unwrap().unwrap();
            used.unwrap().unwrap();
            assert!(seen.unwrap().unwrap().value, "good before it was durable");
        });
        let seen = store.lookup(id(1)).unwrap().record.unwrap();
        assert_eq!((seen.suspended.is_some(), seen.uses), (false, 1));
    }

    #[test]
    fn a_restriction_that_was_not_written_is_taken_back() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 1);
        let before = store.lookup(id(1)).unwrap().slot;
        disk.fail(Fail::WriteFull, 0);
        assert!(matches!(block_on(revoke(&store, 1)), Err(StoreError::NotWritten(_))));
        assert!(!is_revoked(&store, 1));
        assert!(store.lookup(id(1)).unwrap().slot > before);
        block_on(revoke(&store, 1)).unwrap().unwrap();
        assert!(is_revoked(&store, 1));
    }

    /// Suspended and resumed in one transaction: what nobody was told of is refused until all of it is durable.
    #[test]
    fn a_restriction_and_its_end_in_one_batch_stay_refused_until_durable() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 1);
        disk.hold_syncs();
        let writer = std::thread::spawn({
            let store = store.clone();
            move || {
                block_on(store.write(|txn: &mut Txn<'_>| -> Result<(), StoreError> {
                    let mut record = txn.record(id(1))?.unwrap();
                    record.suspended = Some(ending());
                    txn.put(record.clone(), Effect::Restricts)?;
                    record.suspended = None;
                    record.version += 1;
                    txn.put(record, Effect::Extends)
                }))
            }
        });
        disk.wait_for_sync();
        let seen = store.lookup(id(1)).unwrap().record.unwrap();
        assert_eq!(seen.version, 2, "the job's result, which is restricted by one of its steps");
        disk.release();
        writer.join().unwrap().unwrap().unwrap();
        assert_eq!(version(&store, 1), Some(2));
    }

    /// No lookup that begins after the reply sees the state before it; nobody ever sees an older state after a newer.
    #[test]
    fn no_reader_sees_a_state_older_than_what_was_answered() {
        const TOKENS: u64 = 40;
        const ROUNDS: u64 = 30;
        // A cache smaller than the tokens, so that entries come and go.
        let store = create_with(&SimDisk::new(), StoreOptions { hot_records: 8, ..quiet() });
        for n in 0..TOKENS {
            issued(&store, n);
        }
        let answered: Arc<Vec<AtomicU64>> = Arc::new((0..TOKENS).map(|_| AtomicU64::new(1)).collect());
        let done = Arc::new(AtomicBool::new(false));
        let lookups = Arc::new(AtomicU64::new(0));
        let readers: Vec<_> = (0..4)
            .map(|reader| {
                let (store, answered) = (store.clone(), Arc::clone(&answered));
                let (done, lookups) = (Arc::clone(&done), Arc::clone(&lookups));
                std::thread::spawn(move || {
                    let mut kept = vec![(0, 0); TOKENS as usize];
                    let mut random = simdisk::Random(reader);
                    while !done.load(Ordering::Acquire) {
                        let n = random.below(TOKENS);
                        let least = answered[n as usize].load(Ordering::Acquire);
                        let found = store.lookup(id(n)).unwrap();
                        let version = found.record.unwrap().version;
                        assert!(version >= least, "token {n}: {version} after {least} was answered");
                        // A cache outside that kept what it saw under the slot's value: the same rule.
                        let (slot, seen) = kept[n as usize];
                        assert!(slot != found.slot || version >= seen, "token {n}: older under the same slot");
                        kept[n as usize] = (found.slot, version);
                        lookups.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        block_on(async {
            for round in 0..ROUNDS {
                let changes = (0..TOKENS).map(|n| {
                    let (store, answered) = (&store, &answered);
                    async move {
                        let effect = if (n + round) % 3 == 0 { Effect::Extends } else { Effect::Restricts };
                        change(store, n, effect, |_| {}).await.unwrap().unwrap();
                        answered[n as usize].store(round + 2, Ordering::Release);
                    }
                });
                futures_util::future::join_all(changes).await;
            }
        });
        done.store(true, Ordering::Release);
        for reader in readers {
            reader.join().unwrap();
        }
        assert!(lookups.load(Ordering::Relaxed) > 1000);
        assert!((0..TOKENS).all(|n| version(&store, n) == Some(ROUNDS + 1)));
    }
}

/// I6: every fault is a clear refusal that ends by itself, or the end of the daemon.
mod faults {
    use super::*;

    /// An I/O error at each write of a commit: what is said is what the disk holds, and the store goes on.
    #[test]
    fn after_a_write_error_anywhere_what_was_said_is_what_the_disk_holds() {
        let mut refused = 0;
        let mut taken = 0;
        let kinds = [Fail::Write, Fail::WriteFull, Fail::WriteDone];
        for (at, kind) in (0..40).flat_map(|at| kinds.map(|kind| (at, kind))) {
            let disk = SimDisk::new();
            let store = create(&disk);
            issued(&store, 1);
            disk.fail(kind, at);
            let said = block_on(revoke(&store, 1));
            let struck = disk.has_failed();
            let written = match said {
                Ok(Ok(_)) => true,
                Err(StoreError::NotWritten(_)) => false,
                other => panic!("write {at} {kind:?}: {other:?}"),
            };
            assert_eq!(is_revoked(&store, 1), written, "write {at} {kind:?}");
            assert_eq!(store.generation(), 1 + u64::from(written));
            // It goes on at once, and nothing was fatal.
            issued(&store, 2);
            assert_eq!(store.fault(), None);
            drop(store);
            let (store, boot) = open(&disk).unwrap();
            assert_eq!(is_revoked(&store, 1), written, "write {at} {kind:?}, opened again");
            assert_eq!(boot.outbox.len() as u64, boot.generation);
            if struck {
                refused += u32::from(!written);
                taken += u32::from(written);
            }
        }
        // Errors before the commit's point of no return, and one in what makes it the newest.
        assert!(refused >= 10 && taken >= 1, "{refused} refused, {taken} taken");
    }

    /// A failed sync is never tried again, whichever it is: the asker hears it, the daemon hears it, nothing goes on.
    #[test]
    fn a_failed_sync_ends_the_store() {
        for at in 0..2 {
            let disk = SimDisk::new();
            let store = create(&disk);
            issued(&store, 1);
            disk.fail(Fail::Sync, at);
            assert!(matches!(block_on(revoke(&store, 1)), Err(StoreError::SyncFailed)), "sync {at}");
            let (syncs, done) = (disk.syncs(), disk.log_len());
            assert_eq!(block_on(store.fatal()), Fault::SyncFailed);
            assert_eq!(store.fault(), Some(Fault::SyncFailed));
            assert!(matches!(block_on(issue(&store, 2)), Err(StoreError::Fatal(Fault::SyncFailed))));
            assert!(matches!(store.lookup(id(1)), Err(StoreError::Fatal(Fault::SyncFailed))));
            assert!(matches!(store.token_count(), Err(StoreError::Fatal(_))));
            assert!(matches!(block_on(store.stop()), Err(StoreError::Fatal(_))));
            drop(store);
            assert_eq!((disk.syncs(), disk.log_len()), (syncs, done), "nothing after the failed sync");
            // The next start recovers what the disk holds: one or the other, whole.
            let (store, boot) = open(&disk).unwrap();
            assert_eq!(is_revoked(&store, 1), boot.generation == 2);
        }
    }

    /// Those who were waiting behind it are told, too.
    #[test]
    fn whoever_waits_behind_a_failed_sync_is_answered() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 1);
        disk.fail(Fail::Sync, 0);
        disk.hold_syncs();
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let store = store.clone();
                std::thread::spawn(move || block_on(issue(&store, 10 + n)))
            })
            .collect();
        disk.wait_for_sync();
        disk.release();
        for thread in threads {
            let said = thread.join().unwrap();
            assert!(matches!(said, Err(StoreError::SyncFailed | StoreError::Fatal(Fault::SyncFailed))), "{said:?}");
        }
    }

    #[test]
    fn a_read_error_is_told_and_mends_itself() {
        let disk = SimDisk::new();
        let store = create(&disk);
        for n in 0..200 {
            issued(&store, n);
        }
        drop(store);
        let (store, _) = open(&disk).unwrap();
        disk.fail(Fail::Read, 0);
        // Some page on the way is not in memory yet.
        let failed = (0..200).find_map(|n| store.lookup(id(n)).err());
        assert!(matches!(failed, Some(StoreError::Read(_))), "{failed:?}");
        // The engine's handle is of no more use until the writer has opened it again, which this waits for.
        block_on(store.flush()).unwrap();
        assert!((0..200).all(|n| version(&store, n) == Some(1)));
        block_on(revoke(&store, 1)).unwrap().unwrap();
    }

    /// Whoever reads page by page holds nothing that the writer needs to mend the engine, and may ask the store meanwhile.
    #[test]
    fn the_engine_is_opened_again_under_a_listing_that_asks_for_more() {
        let disk = SimDisk::new();
        let store = create(&disk);
        for n in 0..200 {
            issued(&store, n);
        }
        let mut seen = 0;
        let scan = Scan { after: None, index: None, limit: 1000, visit_max: 1000 };
        let page = store.scan(scan, |record| {
            seen += 1;
            if seen == 3 {
                disk.fail(Fail::Write, 0);
                assert!(matches!(block_on(revoke(&store, 1)), Err(StoreError::NotWritten(_))));
            }
            assert_eq!(store.last_use(record.id)?, None);
            assert!(store.lookup(record.id)?.record.is_some());
            Ok(true)
        });
        // The snapshot went with the engine: told, and good when asked again.
        assert!(seen >= 3);
        if let Err(error) = page {
            assert!(matches!(error, StoreError::Read(_)), "{error:?}");
        }
        let again = Scan { after: None, index: None, limit: 1000, visit_max: 1000 };
        assert_eq!(store.scan(again, |_| Ok(true)).unwrap().records.len(), 200);
        block_on(revoke(&store, 1)).unwrap().unwrap();
    }

    /// New tokens stop while room is left for revocations, which go on; and it ends when there is room again.
    #[test]
    fn on_a_full_disk_revocations_go_through_and_new_tokens_are_refused_before_their_commit() {
        let disk = SimDisk::new();
        let store = create(&disk);
        for n in 0..300 {
            issued(&store, n);
        }
        assert!(store.room().issue_ok);
        disk.leave_free(0);
        let refused = (0..1000).find_map(|group| {
            let group = 300 + group * 50;
            let said = block_on(futures_util::future::join_all((group..group + 50).map(|n| issue(&store, n))));
            said.into_iter().find(|said| !matches!(said, Ok(Ok(_))))
        });
        assert!(matches!(refused, Some(Ok(Err(StoreError::NoRoom)))), "{refused:?}");
        let room = store.room();
        assert!(!room.issue_ok && room.free_bytes > 4 << 20, "{room:?}");
        for n in 0..300 {
            block_on(revoke(&store, n)).unwrap().unwrap();
        }
        assert_eq!(store.fault(), None);
        // After a kill on the full disk, too.
        drop(store);
        let (store, _) = open(&disk).unwrap();
        assert!((0..300).all(|n| is_revoked(&store, n)));
        block_on(revoke(&store, 299)).unwrap().unwrap();
        disk.leave_free(1 << 30);
        // One more commit, in which the room is seen.
        block_on(store.flush()).unwrap();
        wait_for_room(&store);
        issued(&store, 90_000);
    }

    /// The allocation is tried again once a second.
    fn wait_for_room(store: &Store) {
        for _ in 0..10_000 {
            if store.room().issue_ok {
                return;
            }
            block_on(store.flush()).unwrap();
        }
        panic!("no room: {:?}", store.room());
    }

    /// The space that the file system promised is gone when the engine asks for it: refused, not fatal, and the next
    /// attempt finds the reserve inside the file.
    #[test]
    fn a_growth_that_fails_after_all_is_refused_and_then_the_reserve_is_used() {
        let disk = SimDisk::new();
        let store = create(&disk);
        issued(&store, 0);
        disk.leave_free(0);
        disk.claim_free(1 << 40);
        // The reserve was allocated while there was room, but the file grows past it at once only by what is missing.
        let (mut good, mut not_written, mut no_room) = (vec![0], Vec::new(), Vec::new());
        for group in 0..600 {
            if no_room.len() > 500 {
                break;
            }
            let numbers = group * 50 + 1..group * 50 + 51;
            let said = block_on(futures_util::future::join_all(numbers.clone().map(|n| issue(&store, n))));
            for (n, said) in numbers.zip(said) {
                match said {
                    Ok(Ok(_)) => good.push(n),
                    Err(StoreError::NotWritten(_)) => not_written.push(n),
                    Ok(Err(StoreError::NoRoom)) => no_room.push(n),
                    other => panic!("{other:?}"),
                }
            }
            // What restricts is refused at most once in a row.
            if block_on(revoke(&store, 0)).is_err() {
                block_on(revoke(&store, 0)).unwrap().unwrap();
            }
        }
        assert!(good.len() > 5000, "{} good", good.len());
        assert!((1..=100).contains(&not_written.len()), "{} not written", not_written.len());
        assert!(!no_room.is_empty(), "the disk was not full");
        assert!(not_written.iter().all(|n| good.last() > Some(n)), "tokens were taken again after the refusal");
        assert!(good.iter().all(|&n| store.lookup(id(n)).unwrap().record.is_some()));
        assert!(not_written.iter().chain(&no_room).all(|&n| store.lookup(id(n)).unwrap().record.is_none()));
        // What is kept is kept for this.
        assert!(store.room().free_bytes > 7 << 20, "{:?}", store.room());
        assert_eq!(store.fault(), None);
    }
}

mod housekeeping {
    use super::*;

    #[test]
    fn the_seal_rides_with_the_next_commit_and_drops_what_the_log_has() {
        let disk = SimDisk::new();
        let store = create(&disk);
        for n in 1..=4 {
            issued(&store, n);
        }
        store.seal_stored(b"first".to_vec(), 3);
        store.seal_stored(b"second".to_vec(), 2);
        issued(&store, 5);
        drop(store);
        let (store, boot) = open(&disk).unwrap();
        assert_eq!(boot.seal.as_deref(), Some(&b"second"[..]));
        assert_eq!(boot.outbox.iter().map(|(generation, _)| *generation).collect::<Vec<_>>(), [4, 5]);
        // Nothing comes along: it has a commit of its own, soon.
        drop(store);
        let disk = SimDisk::of(disk.bytes());
        let soon = StoreOptions { seal_interval: Duration::from_millis(1), ..quiet() };
        let (store, _) = simdisk::open_with(&disk, soon).unwrap();
        let syncs = disk.syncs();
        store.seal_stored(b"third".to_vec(), 5);
        disk.wait_for_syncs(syncs + 2);
        block_on(store.flush()).unwrap();
        drop(store);
        let (_, boot) = open(&disk).unwrap();
        assert_eq!((boot.seal.as_deref(), boot.outbox.len(), boot.generation), (Some(&b"third"[..]), 0, 5));
    }

    #[test]
    fn last_uses_are_written_back_in_time_and_at_stop() {
        let disk = SimDisk::new();
        let soon = StoreOptions { usage_interval: Duration::from_millis(1), ..quiet() };
        let store = create_with(&disk, soon);
        issued(&store, 1);
        let syncs = disk.syncs();
        store.note_use(id(1), last_use(START, 2));
        disk.wait_for_syncs(syncs + 2);
        store.note_use(id(1), last_use(START.saturating_add(Duration::from_secs(5)), 3));
        let seen = store.last_use(id(1)).unwrap().unwrap();
        assert_eq!((seen.count, seen.at), (5, START.saturating_add(Duration::from_secs(5))));
        let generation = store.generation();
        block_on(store.stop()).unwrap();
        let (store, boot) = open(&disk).unwrap();
        assert_eq!(boot.generation, generation, "last uses make no generation");
        assert_eq!(store.last_use(id(1)).unwrap(), Some(seen));
        assert!(store.last_use(id(2)).unwrap().is_none());
    }

    /// A write-back that fails loses no use and counts none twice.
    /// They are due some time after the first of them was noted, not after the last commit of something else.
    #[test]
    fn changes_do_not_put_last_uses_off() {
        let disk = SimDisk::new();
        let soon = StoreOptions { usage_interval: Duration::from_millis(50), ..quiet() };
        let store = create_with(&disk, soon);
        issued(&store, 1);
        store.note_use(id(1), last_use(START, 2));
        let begun = std::time::Instant::now();
        let mut n = 2;
        // Each commit comes long before the interval is over.
        while begun.elapsed() < Duration::from_millis(500) {
            issued(&store, n);
            n += 1;
        }
        drop(store);
        let (store, _) = open(&disk).unwrap();
        assert_eq!(store.last_use(id(1)).unwrap().map(|last| last.count), Some(2));
    }

    #[test]
    fn last_uses_survive_a_failed_write_back() {
        let disk = SimDisk::new();
        let store = create(&disk);
        for n in 0..20 {
            issued(&store, n);
            store.note_use(id(n), last_use(START, 2));
        }
        disk.fail(Fail::Write, 0);
        assert!(matches!(block_on(store.flush()), Err(StoreError::NotWritten(_))));
        assert!((0..20).all(|n| store.last_use(id(n)).unwrap().unwrap().count == 2));
        store.note_use(id(0), last_use(START, 1));
        block_on(store.flush()).unwrap();
        drop(store);
        let (store, _) = open(&disk).unwrap();
        assert_eq!(store.last_use(id(0)).unwrap().unwrap().count, 3);
        assert!((1..20).all(|n| store.last_use(id(n)).unwrap().unwrap().count == 2));
    }

    /// I8: the mark goes with each commit.
    #[test]
    fn the_clock_s_mark_is_stored_with_each_commit() {
        let disk = SimDisk::new();
        let hands = ManualTime::new(START);
        let clock = Arc::new(Clock::new(Box::new(hands.clone()), None));
        let file = bearerd::store::StoreFile::on(disk.handle(), Default::default()).unwrap();
        let store = Store::create(file, HEADER, TestSealer::new(1), clock, quiet()).unwrap();
        hands.pass(Duration::from_secs(3600));
        issued(&store, 1);
        drop(store);
        let file = bearerd::store::StoreFile::on(disk.handle(), Default::default()).unwrap();
        assert_eq!(file.header(), Some(HEADER));
        let boot = file.boot(&*TestSealer::new(1)).unwrap();
        assert_eq!(boot.mark.unwrap().time, START.saturating_add(Duration::from_secs(3600)));
    }
}

mod reading {
    use super::*;

    fn pages(store: &Store, index: Option<(IndexTag, &str)>, limit: usize, visit_max: usize) -> Vec<Vec<TokenId>> {
        let mut pages = Vec::new();
        let mut after = None;
        loop {
            let index = index.map(|(tag, value)| (tag, value.to_owned()));
            let scan = Scan { after, index, limit, visit_max };
            let page = store.scan(scan, |record| Ok(record.name != "token 7")).unwrap();
            pages.push(page.records.iter().map(|record| record.id).collect());
            assert!(page.next.is_none() || page.next > after, "it gets on");
            after = page.next;
            if after.is_none() {
                return pages;
            }
        }
    }

    #[test]
    fn pages_are_bounded_complete_and_in_order() {
        let store = create(&SimDisk::new());
        assert_eq!(pages(&store, None, 10, 10), [Vec::<TokenId>::new()]);
        for n in (0..25).rev() {
            issued(&store, n);
        }
        let all: Vec<_> = (0..25).filter(|&n| n != 7).map(id).collect();
        for (limit, visit_max) in [(100, 100), (5, 100), (100, 5), (3, 7), (1, 1), (24, 25), (25, 25), (26, 0)] {
            let pages = pages(&store, None, limit, visit_max);
            assert_eq!(pages.concat(), all, "{limit} {visit_max}");
            assert!(pages.iter().all(|page| page.len() <= limit.min(visit_max.max(1))));
        }
        let of_user1: Vec<_> =
            all.iter().copied().skip(1).filter(|it| (0..25).any(|n| n % 4 == 1 && id(n) == *it)).collect();
        assert_eq!(pages(&store, Some((IndexTag::Subject, "user1")), 2, 3).concat(), of_user1);
        assert!(pages(&store, Some((IndexTag::Subject, "nobody")), 2, 3).concat().is_empty());
        let prod: Vec<_> = (0..25).filter(|n| n % 3 == 0).map(id).collect();
        assert_eq!(pages(&store, Some((IndexTag::Label, "env=prod")), 4, 4).concat(), prod);
        assert_eq!(pages(&store, Some((IndexTag::LabelKey, "env")), 4, 4).concat(), prod);
        assert!(pages(&store, Some((IndexTag::Label, "env")), 4, 4).concat().is_empty());
    }

    /// Pages neither repeat nor skip while tokens come and go.
    #[test]
    fn a_page_begins_after_an_id_not_at_a_position() {
        let store = create(&SimDisk::new());
        for n in [10, 20, 30, 40] {
            issued(&store, n);
        }
        let scan = |after| Scan { after, index: None, limit: 2, visit_max: 100 };
        let first = store.scan(scan(None), |_| Ok(true)).unwrap();
        assert_eq!(first.next, Some(id(20)));
        issued(&store, 15);
        block_on(store.write(|txn: &mut Txn<'_>| txn.remove(id(20)))).unwrap().unwrap();
        let second = store.scan(scan(first.next), |_| Ok(true)).unwrap();
        assert_eq!(second.records.iter().map(|record| record.id).collect::<Vec<_>>(), [id(30), id(40)]);
        assert_eq!(second.next, None);
    }

    #[test]
    fn ids_are_found_by_range_and_expiries_in_order() {
        let store = create(&SimDisk::new());
        for n in 0..10 {
            issued(&store, n);
        }
        assert_eq!(store.find_between(id(3), id(5), 2).unwrap(), [id(3), id(4)]);
        assert_eq!(store.find_between(id(3), id(3), 2).unwrap(), [id(3)]);
        assert!(store.find_between(id(5), id(3), 2).unwrap().is_empty());
        let expiry = |n| (token(n).expires_at.unwrap(), id(n));
        assert_eq!(store.expiring(None, expiry(2).0, 100).unwrap(), [expiry(0), expiry(1), expiry(2)]);
        assert_eq!(store.expiring(Some(expiry(2)), UnixTime::MAX, 2).unwrap(), [expiry(3), expiry(4)]);
        block_on(change(&store, 0, Effect::Extends, |record| record.expires_at = Some(UnixTime::MAX)))
            .unwrap()
            .unwrap();
        assert_eq!(store.expiring(None, UnixTime::MAX, 100).unwrap().last(), Some(&(UnixTime::MAX, id(0))));
        assert_eq!(store.expiring(None, UnixTime::MAX, 100).unwrap().len(), 10);
    }

    /// After a kill the file is not walked: what is read to open it does not grow with it.
    #[test]
    fn opening_after_a_kill_does_not_read_the_whole_file() {
        let disk = SimDisk::new();
        let store = create(&disk);
        block_on(async {
            for n in 0..100 {
                let jobs = (0..100).map(|m| issue(&store, n * 100 + m));
                futures_util::future::join_all(jobs).await;
            }
        });
        // As a kill leaves it: no shutdown header.
        let image = disk.bytes();
        drop(store);
        let killed = SimDisk::of(image);
        let size = killed.bytes().len() as u64;
        let file = bearerd::store::StoreFile::on(killed.handle(), Default::default()).unwrap();
        // Debug builds of the engine walk the tree to check themselves: only the optimised one is measured.
        let read = killed.bytes_read();
        if !cfg!(debug_assertions) {
            assert!(read < size / 20, "{read} of {size} bytes read");
        }
        drop(file);
        let (store, _) = open(&killed).unwrap();
        assert_eq!(store.token_count().unwrap(), 10_000);
    }

    #[test]
    fn the_clock_of_the_store_is_the_one_it_was_given() {
        let store = create(&SimDisk::new());
        assert_eq!(store.clock().now(), clock().now());
    }
}
