//! I1 and I4: a scripted workload on a simulated disk, cut before and after every write and sync, with any part of what
//! was not synced lost, opened by the real engine and held against an oracle; and cut again while it is being opened.

mod simdisk;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Instant;

use bearerd::store::record::TokenRecord;
use bearerd::store::{Effect, IndexTag, Scan, Store, StoreError, StoreOptions, Txn, UseNote};
use bearerd::time::UnixTime;
use bearerd::token::TokenId;

use simdisk::{
    Event, Lost, Random, START, SimDisk, apply, block_on, create_with, ending, id, open_with, quiet, token, unsynced,
};

/// How many changes the store keeps for those who follow: so few that they go while the workload runs.
const KEPT: u64 = 12;

fn options() -> StoreOptions {
    StoreOptions { journal: KEPT, ..quiet() }
}

/// What one generation did.
#[derive(Clone)]
struct Effected {
    id: TokenId,
    /// `None` = removed.
    record: Option<TokenRecord>,
    /// How much the disk had done when it was asked for, and when it was answered.
    asked: usize,
    answered: usize,
}

/// What the outside world saw of the workload.
#[derive(Default)]
struct Journal {
    effects: BTreeMap<u64, Effected>,
    /// Outbox records up to here may be gone (asked), are gone (answered).
    sealed: Vec<(u64, usize, usize)>,
    /// The count of uses of a token that is certainly on disk once the disk has done so much.
    used: Vec<(TokenId, u64, usize)>,
    created: usize,
    operations: usize,
}

struct Script<'a> {
    store: &'a Store,
    disk: &'a SimDisk,
    journal: Mutex<Journal>,
}

/// The record's audit record: which token, and which version of it.
fn audit(generation: u64, id: TokenId, version: u64) -> Vec<u8> {
    [&generation.to_be_bytes()[..], id.as_bytes(), &version.to_be_bytes()].concat()
}

impl Script<'_> {
    async fn change(
        &self,
        id: TokenId,
        effect: Effect,
        change: impl FnOnce(Option<TokenRecord>) -> Option<TokenRecord> + Send + 'static,
    ) {
        let asked = self.disk.log_len();
        let job = move |txn: &mut Txn<'_>| -> Result<Option<TokenRecord>, StoreError> {
            let old = txn.record(id)?;
            let version = old.as_ref().map_or(0, |record| record.version) + 1;
            let new = change(old).map(|record| TokenRecord { version, ..record });
            match new.clone() {
                Some(record) => txn.put(record, effect)?,
                None => txn.remove(id)?,
            }
            txn.announce(|generation| audit(generation, id, version))?;
            Ok(new)
        };
        let committed = self.store.write(job).await.unwrap().unwrap();
        let answered = self.disk.log_len();
        let mut journal = self.journal.lock().unwrap();
        journal.operations += 1;
        let effected = Effected { id, record: committed.value, asked, answered };
        assert!(journal.effects.insert(committed.generation, effected).is_none(), "one generation each");
    }

    async fn issue(&self, n: u64) {
        self.change(id(n), Effect::New, move |_| Some(token(n))).await;
    }

    async fn revoke(&self, n: u64) {
        self.change(id(n), Effect::Restricts, |old| Some(TokenRecord { revoked: Some(ending()), ..old.unwrap() }))
            .await;
    }

    async fn suspend(&self, n: u64) {
        self.change(id(n), Effect::Restricts, |old| Some(TokenRecord { suspended: Some(ending()), ..old.unwrap() }))
            .await;
    }

    async fn resume(&self, n: u64) {
        self.change(id(n), Effect::Extends, |old| Some(TokenRecord { suspended: None, ..old.unwrap() })).await;
    }

    async fn rename(&self, n: u64, subject: &'static str) {
        self.change(id(n), Effect::Extends, move |old| {
            Some(TokenRecord { subject: subject.to_owned(), ..old.unwrap() })
        })
        .await;
    }

    async fn remove(&self, n: u64) {
        self.change(id(n), Effect::Restricts, |_| None).await;
    }

    /// The log has all but the newest `lag`.
    async fn seal(&self, lag: u64) {
        let (through, asked) = (self.store.generation() - lag, self.disk.log_len());
        self.store.seal_stored(through.to_be_bytes().to_vec(), through);
        self.store.flush().await.unwrap();
        let mut journal = self.journal.lock().unwrap();
        journal.operations += 1;
        journal.sealed.push((through, asked, self.disk.log_len()));
    }

    async fn use_token(&self, n: u64, times: u64) {
        self.store.note_use(id(n), UseNote { at: START, unit: None, uid: 7, from: None, count: times });
        let count = self.store.last_use(id(n)).unwrap().unwrap().count;
        self.store.flush().await.unwrap();
        let mut journal = self.journal.lock().unwrap();
        journal.operations += 1;
        journal.used.push((id(n), count, self.disk.log_len()));
    }
}

/// Some of everything, alone and in groups.
async fn workload(script: &Script<'_>) {
    for n in 0..6 {
        script.issue(n).await;
    }
    script.revoke(1).await;
    script.seal(2).await;
    // One transaction for several: each has its own generation.
    tokio::join!(script.issue(10), script.issue(11), script.issue(12), script.revoke(2), script.suspend(3));
    script.resume(3).await;
    script.rename(4, "somebody else").await;
    script.use_token(4, 3).await;
    script.use_token(4, 2).await;
    tokio::join!(script.suspend(5), script.resume(5), script.revoke(5));
    script.remove(1).await;
    script.seal(0).await;
    for n in 20..40 {
        script.issue(n).await;
        if n % 4 == 0 {
            script.revoke(n).await;
        }
    }
    tokio::join!(script.remove(20), script.revoke(21), script.issue(41), script.use_token(21, 1));
    script.seal(3).await;
    script.rename(41, "user1").await;
    script.revoke(41).await;
}

/// The tokens as they are once `generation` is durable.
fn tokens_at(journal: &Journal, generation: u64) -> BTreeMap<TokenId, TokenRecord> {
    let mut tokens = BTreeMap::new();
    for effected in journal.effects.range(..=generation).map(|(_, effected)| effected) {
        match &effected.record {
            Some(record) => tokens.insert(effected.id, record.clone()),
            None => tokens.remove(&effected.id),
        };
    }
    tokens
}

fn scan_all(store: &Store, index: Option<(IndexTag, String)>) -> Vec<TokenRecord> {
    let mut records = Vec::new();
    let mut after = None;
    loop {
        let scan = Scan { after, index: index.clone(), limit: 7, visit_max: 5 };
        let page = store.scan(scan, |_| Ok(true)).unwrap();
        records.extend(page.records);
        after = page.next;
        if after.is_none() {
            return records;
        }
    }
}

/// Opens the image and holds it against what was asked and answered by the time the disk had done `done` things.
fn check(journal: &Journal, image: &[u8], done: usize, thoroughly: bool, what: &str) -> (SimDisk, u64) {
    let disk = SimDisk::of(image.to_vec());
    let opened = open_with(&disk, options());
    let (store, boot) = match opened {
        Ok(opened) => opened,
        // Cut while it was being made: nothing was in it, and it is refused.
        Err(StoreError::Empty | StoreError::Unfinished | StoreError::NotAStore(_) | StoreError::Damaged { .. })
            if done < journal.created =>
        {
            return (disk, 0);
        }
        Err(error) => panic!("{what}: does not open: {error:?}"),
    };
    let generation = boot.generation;
    assert_eq!(store.generation(), generation, "{what}");
    assert!(!boot.clean_stop, "{what}");
    // I1: what was answered is there, what was never asked is not.
    let answered = journal.effects.iter().filter(|(_, it)| it.answered <= done).map(|(&at, _)| at).max().unwrap_or(0);
    let asked = journal.effects.iter().filter(|(_, it)| it.asked <= done).map(|(&at, _)| at).max().unwrap_or(0);
    assert!((answered..=asked).contains(&generation), "{what}: {answered} <= {generation} <= {asked}");
    // Whole: exactly the state of that generation, in every table.
    let expected = tokens_at(journal, generation);
    let found = scan_all(&store, None);
    assert_eq!(found.len() as u64, store.token_count().unwrap(), "{what}");
    assert!(found.iter().eq(expected.values()), "{what}: the records are not those of generation {generation}");
    let by_expiry = store.expiring(None, UnixTime::MAX, 1000).unwrap();
    let expiring: BTreeSet<_> = expected.values().map(|record| (record.expires_at.unwrap(), record.id)).collect();
    assert!(by_expiry.into_iter().eq(expiring), "{what}");
    for (tag, value) in [
        (IndexTag::Subject, "user1"),
        (IndexTag::Subject, "somebody else"),
        (IndexTag::Issuer, "user2"),
        (IndexTag::LabelKey, "team"),
        (IndexTag::Label, "team=t1"),
        (IndexTag::SubjectUnrevoked, "user1"),
    ] {
        let has = |record: &&TokenRecord| match tag {
            IndexTag::Subject => record.subject == value,
            IndexTag::SubjectUnrevoked => record.subject == value && record.revoked.is_none(),
            IndexTag::Issuer => record.issuer == value,
            IndexTag::LabelKey => record.labels.contains_key(value),
            IndexTag::Label => record.labels.get("team").is_some_and(|team| team == "t1"),
        };
        let by_index = scan_all(&store, Some((tag, value.to_owned())));
        assert!(by_index.iter().eq(expected.values().filter(has)), "{what}: index {tag:?} {value}");
    }
    // I4: no change without its audit record: all of them from the newest seal on, each with its own content.
    let dropped = generation - boot.outbox.len() as u64;
    let certainly = journal.sealed.iter().filter(|(_, _, at)| *at <= done).map(|(through, ..)| *through).max();
    let possibly = journal.sealed.iter().filter(|(_, at, _)| *at <= done).map(|(through, ..)| *through).max();
    assert!(dropped >= certainly.unwrap_or(0), "{what}: {dropped} >= {certainly:?}");
    assert!(dropped <= possibly.unwrap_or(0), "{what}: {dropped} <= {possibly:?}");
    // The seal that allowed it is there with it.
    assert_eq!(boot.seal, (dropped > 0).then(|| dropped.to_be_bytes().to_vec()), "{what}");
    let is_of_its_change = |&(at, ref record): &(u64, Vec<u8>)| {
        let effected = &journal.effects[&at];
        let version = effected.record.as_ref().map(|record| record.version);
        let version = version.unwrap_or_else(|| tokens_at(journal, at - 1)[&effected.id].version + 1);
        *record == audit(at, effected.id, version)
    };
    let numbers = |records: &[(u64, Vec<u8>)]| records.iter().map(|(at, _)| *at).collect::<Vec<_>>();
    assert_eq!(numbers(&boot.outbox), (dropped + 1..=generation).collect::<Vec<_>>(), "{what}");
    assert!(boot.outbox.iter().all(is_of_its_change), "{what}");
    // Those who follow find exactly what was committed: the newest ones, and all that the log may lack.
    let page = store.journal(0, 1000).unwrap();
    let first = page.first.unwrap_or(generation + 1);
    assert_eq!((page.newest, page.more), (generation, false), "{what}");
    assert_eq!(numbers(&page.records), (first..=generation).collect::<Vec<_>>(), "{what}");
    assert!(first <= generation.saturating_sub(KEPT).min(dropped) + 1, "{what}: {first}");
    assert!(page.records.iter().all(is_of_its_change), "{what}");
    // Told and old: gone, but for what the last commit left to the next.
    assert!(dropped < 40 || first > 1, "{what}: nothing is ever dropped");
    for (id, count, _) in journal.used.iter().filter(|(.., at)| *at <= done) {
        if expected.contains_key(id) {
            assert!(store.last_use(*id).unwrap().unwrap().count >= *count, "{what}: uses");
        }
    }
    if thoroughly {
        for uid in 1000..1004 {
            let live = expected.values().filter(|it| it.issuer_uid == uid && it.revoked.is_none()).count();
            let counted = block_on(store.write(move |txn| txn.live_count(uid, 1000))).unwrap().unwrap();
            assert_eq!(counted.value, live, "{what}: live tokens of {uid}");
        }
    }
    drop(store);
    (disk, generation)
}

/// Cuts at one place: killed, everything unsynced lost, and two random parts of it lost.
fn losses(done: usize) -> [Lost; 4] {
    let random = |n| Lost::Random(done as u64 * 2 + n);
    [Lost::Nothing, Lost::Everything, random(0), random(1)]
}

#[test]
fn cut_anywhere_what_was_answered_is_there_and_what_was_not_is_absent_or_whole() {
    let begun = Instant::now();
    let disk = SimDisk::new();
    let store = create_with(&disk, options());
    let journal = Journal { created: disk.log_len(), ..Journal::default() };
    let script = Script { store: &store, disk: &disk, journal: Mutex::new(journal) };
    block_on(workload(&script));
    let journal = script.journal.into_inner().unwrap();
    drop(store);
    assert!(journal.operations >= 30, "{} operations", journal.operations);

    let log = disk.log();
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let seen = std::thread::scope(|scope| {
        let work = |worker| cut_everywhere(&journal, &log, worker, workers);
        let threads: Vec<_> = (0..workers).map(|worker| scope.spawn(move || work(worker))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).reduce(Seen::and).unwrap()
    });
    println!(
        "{} images and {} cut twice, of {} writes and syncs of {} operations, in {:.1?}",
        seen.images,
        seen.twice,
        log.len(),
        journal.operations,
        begun.elapsed()
    );
    // Every state that there was has been seen, and enough of them.
    let newest = *journal.effects.keys().max().unwrap();
    assert!(seen.generations.len() as u64 > newest * 8 / 10, "{} of {newest}", seen.generations.len());
    assert!(seen.images >= 2500, "{} images", seen.images);
    assert!(seen.twice >= 800, "{} images cut twice", seen.twice);
}

#[derive(Default)]
struct Seen {
    generations: BTreeSet<u64>,
    images: u64,
    twice: u64,
}

impl Seen {
    fn and(mut self, other: Self) -> Self {
        self.generations.extend(other.generations);
        Self { generations: self.generations, images: self.images + other.images, twice: self.twice + other.twice }
    }
}

/// Cuts the log at every `workers`-th place, from `worker` on.
fn cut_everywhere(journal: &Journal, log: &[Event], worker: usize, workers: usize) -> Seen {
    let mut durable: Vec<u8> = Vec::new();
    let mut synced = 0;
    let mut seen = Seen::default();
    for done in 0..=log.len() {
        if let Some(Event::Sync) = done.checked_sub(1).map(|last| &log[last]) {
            for event in &log[synced..done] {
                apply(&mut durable, event, &mut || true);
            }
            synced = done;
        }
        if done % workers != worker {
            continue;
        }
        for (variant, lost) in losses(done).into_iter().enumerate() {
            // Nothing unsynced: every loss is the same.
            if done == synced && variant > 0 {
                continue;
            }
            let number = done as u64 * 4 + variant as u64;
            let mut image = durable.clone();
            unsynced(&mut image, &log[synced..done], lost);
            let what = format!("cut after {done} of {}, {lost:?}", log.len());
            let (reopened, generation) = check(journal, &image, done, number.is_multiple_of(16), &what);
            seen.generations.insert(generation);
            seen.images += 1;

            // And again, while that was being opened.
            if number.is_multiple_of(3) && done >= journal.created {
                let mut random = Random(number);
                let opening = reopened.log();
                let cut = random.below(opening.len() as u64 + 1) as usize;
                let lost = [Lost::Nothing, Lost::Everything, Lost::Random(number)][random.below(3) as usize];
                let image = simdisk::crash_image(&image, &opening[..cut], lost);
                let what = format!("{what}; cut again after {cut} of {}, {lost:?}", opening.len());
                let (_, again) = check(journal, &image, done, false, &what);
                assert_eq!(again, generation, "{what}: opening changed the state");
                seen.twice += 1;
            }
        }
    }
    seen
}
