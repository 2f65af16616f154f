//! The journal of changes that those who follow read (`src/store/journal.rs`): what it keeps, what it lets go of, and
//! that a start does not read it.

mod simdisk;

use std::time::Duration;

use bearerd::store::record::TokenRecord;
use bearerd::store::{Boot, Effect, FileOptions, Store, StoreError, StoreFile, StoreOptions, Txn};

use simdisk::{Fail, SimDisk, TestSealer, block_on, clock, create_with, ending, id, open_with, quiet, token};

fn keeping(journal: u64) -> StoreOptions {
    StoreOptions { journal, ..quiet() }
}

fn record(generation: u64) -> Vec<u8> {
    format!("change {generation}").into_bytes()
}

/// Announces `count` changes, in one transaction.
fn announce(store: &Store, count: u64) -> u64 {
    let job = move |txn: &mut Txn<'_>| -> Result<(), StoreError> {
        (0..count).try_for_each(|_| txn.announce(record).map(drop))
    };
    block_on(store.write(job)).unwrap().unwrap().generation
}

/// Says that the log has all up to `through`, and waits until that is stored.
fn tell(store: &Store, through: u64) {
    store.seal_stored(through.to_be_bytes().to_vec(), through);
    block_on(store.flush()).unwrap();
}

/// The numbers that are kept; each record is looked at.
fn kept(store: &Store) -> Vec<u64> {
    let mut kept: Vec<u64> = Vec::new();
    loop {
        let page = store.journal(kept.last().copied().unwrap_or(0), 7).unwrap();
        assert!(page.records.iter().all(|(at, bytes)| *bytes == record(*at)));
        kept.extend(page.records.iter().map(|(at, _)| at));
        assert_eq!((page.newest, page.first), (store.generation(), kept.first().copied()));
        if !page.more {
            return kept;
        }
    }
}

fn numbers(boot: &Boot) -> Vec<u64> {
    boot.outbox.iter().map(|(at, _)| *at).collect()
}

fn from_to(first: u64, last: u64) -> Vec<u64> {
    (first..=last).collect()
}

#[test]
fn the_newest_are_kept_and_what_the_log_lacks() {
    let disk = SimDisk::new();
    let store = create_with(&disk, keeping(5));
    assert_eq!(store.journal(0, 10).unwrap().first, None);
    announce(&store, 8);
    // Nothing is told: nothing goes, however much there is.
    assert_eq!(kept(&store), from_to(1, 8));
    tell(&store, 2);
    assert_eq!(kept(&store), from_to(3, 8));
    tell(&store, 8);
    assert_eq!(kept(&store), from_to(4, 8), "told, and among the newest");
    // Each change takes the place of one.
    announce(&store, 1);
    assert_eq!(kept(&store), from_to(5, 9));
    announce(&store, 3);
    assert_eq!(kept(&store), from_to(8, 12));
    announce(&store, 3);
    assert_eq!(kept(&store), from_to(9, 15), "9 to 15 are not told");
    // An older word takes nothing back.
    tell(&store, 3);
    drop(store);
    let (store, boot) = open_with(&disk, keeping(5)).unwrap();
    assert_eq!((numbers(&boot), boot.generation), (from_to(9, 15), 15));
    tell(&store, 15);
    drop(store);
    // Kept, but nothing that a start has to write to the log.
    let (store, boot) = open_with(&disk, keeping(5)).unwrap();
    assert_eq!((numbers(&boot), kept(&store)), (vec![], from_to(11, 15)));
    // A shorter journal is made so; one that keeps nothing is the outbox alone.
    drop(store);
    let (store, _) = open_with(&disk, keeping(2)).unwrap();
    assert_eq!(kept(&store), from_to(14, 15));
    drop(store);
    let (store, _) = open_with(&disk, keeping(0)).unwrap();
    announce(&store, 2);
    assert_eq!(kept(&store), from_to(16, 17));
    tell(&store, 16);
    assert_eq!(kept(&store), [17]);
    let page = store.journal(3, 1).unwrap();
    assert_eq!((page.records.len(), page.first, page.newest), (1, Some(17), 17));
    assert_eq!(store.journal(17, 1).unwrap().records, []);
    assert_eq!(store.journal(u64::MAX, 1).unwrap().records, []);
}

#[test]
fn who_waits_hears_of_what_is_durable_and_of_nothing_else() {
    let disk = SimDisk::new();
    let store = create_with(&disk, keeping(5));
    let mut announced = store.announced();
    announced.mark_unchanged();
    // What a job gives up, and what the disk does not take, is never announced.
    let given_up = block_on(store.write(|txn: &mut Txn<'_>| -> Result<(), StoreError> {
        txn.announce(record)?;
        Err(StoreError::NoRoom)
    }));
    assert!(matches!(given_up, Ok(Err(StoreError::NoRoom))));
    disk.fail(Fail::Write, 0);
    let job = |txn: &mut Txn<'_>| -> Result<(), StoreError> { txn.announce(record).map(drop) };
    assert!(matches!(block_on(store.write(job)), Err(StoreError::NotWritten(_))));
    block_on(store.flush()).unwrap();
    assert!(!announced.has_changed().unwrap());
    assert!(kept(&store).is_empty());
    // While its sync is under way nobody sees it; then at once.
    disk.hold_syncs();
    let (changing, other) = (store.clone(), announced.clone());
    let change = std::thread::spawn(move || announce(&changing, 2));
    disk.wait_for_sync();
    assert!(!other.has_changed().unwrap());
    assert!(kept(&store).is_empty());
    disk.release();
    assert_eq!(block_on(async { *announced.wait_for(|newest| *newest > 0).await.unwrap() }), 2);
    assert_eq!((kept(&store), change.join().unwrap()), (vec![1, 2], 2));
}

/// A journal that has become far too long goes down in steps, not in one commit that everybody waits for.
#[test]
fn what_is_too_much_goes_in_steps() {
    let disk = SimDisk::new();
    let store = create_with(&disk, keeping(10));
    announce(&store, 5000);
    tell(&store, 5000);
    let mut steps = vec![kept(&store).len()];
    while *steps.last().unwrap() > 10 {
        block_on(store.flush()).unwrap();
        steps.push(kept(&store).len());
    }
    assert!(steps.windows(2).all(|pair| pair[0] - pair[1] <= 1024), "{steps:?}");
    assert!(steps.len() >= 4, "{steps:?}");
    // A commit that brings many takes as many away.
    for _ in 0..3 {
        let newest = announce(&store, 3000);
        tell(&store, newest);
    }
    assert!(kept(&store).len() <= 6010, "{}", kept(&store).len());
}

/// A start reads what the log lacks, and of the rest nothing: it takes no longer for a long journal.
#[test]
fn a_start_does_not_read_what_is_told() {
    let mut read = Vec::new();
    for count in [10, 20_000] {
        let disk = SimDisk::new();
        let store = create_with(&disk, quiet());
        announce(&store, count);
        tell(&store, count);
        announce(&store, 3);
        block_on(store.stop()).unwrap();
        // Without room to keep pages: a build with debug assertions has the engine walk the file here.
        let file = StoreFile::on(disk.handle(), FileOptions { cache_bytes: 0, check: false }).unwrap();
        let before = disk.bytes_read();
        let (store, boot) = Store::open(file, TestSealer::new(1), clock(), quiet()).unwrap();
        assert_eq!(numbers(&boot), from_to(count + 1, count + 3));
        read.push(disk.bytes_read() - before);
        assert_eq!(store.journal(count, 10).unwrap().records.len(), 3);
    }
    // The path to it in a deeper tree.
    assert!(read[0] > 0 && read[1] < read[0] + (64 << 10), "{read:?}");
}

/// On a full disk room is for what restricts: the journal gives up what it keeps for those who follow, but for a little.
#[test]
fn on_a_full_disk_the_journal_gives_room_to_revocations() {
    let disk = SimDisk::new();
    let soon = StoreOptions { seal_interval: Duration::from_millis(1), ..quiet() };
    let store = create_with(&disk, soon);
    let issue = |n: u64| {
        let job = move |txn: &mut Txn<'_>| -> Result<(), StoreError> {
            txn.put(token(n), Effect::New)?;
            txn.announce(record).map(drop)
        };
        block_on(store.write(job))
    };
    for n in 0..3000 {
        issue(n).unwrap().unwrap();
    }
    disk.leave_free(0);
    let refused = (3000..).map(issue).find(|said| !matches!(said, Ok(Ok(_)))).unwrap();
    assert!(matches!(refused, Ok(Err(StoreError::NoRoom)) | Err(StoreError::NotWritten(_))), "{refused:?}");
    // Each is told at once, as the audit does within a second; far more than the room that is kept would hold.
    for round in 0..400_u64 {
        let job = move |txn: &mut Txn<'_>| -> Result<(), StoreError> {
            let old = txn.record(id(round))?.unwrap();
            txn.put(TokenRecord { revoked: Some(ending()), version: old.version + 1, ..old }, Effect::Restricts)?;
            // As many as a change of a hundred tokens has, each as long as an audit record is.
            let long = |generation| [record(generation), vec![b' '; 300]].concat();
            (0..100).try_for_each(|_| txn.announce(long).map(drop))
        };
        match block_on(store.write(job)) {
            Ok(Ok(committed)) => store.seal_stored(Vec::new(), committed.generation),
            said => panic!("revocation {round}: {said:?}"),
        }
    }
    let page = store.journal(0, 1).unwrap();
    let length = page.newest + 1 - page.first.unwrap();
    assert!(length < 20_000, "{length} {:?}", store.room());
}
