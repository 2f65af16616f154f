//! I1 while every value is sealed anew: on a simulated disk, cut before and after every write and sync, with any part of
//! what was not synced lost. Each image opens with the key that is there, has what was answered, and can be brought to the
//! end of the change.

mod simdisk;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use bearerd::store::record::TokenRecord;
use bearerd::store::{Effect, FileOptions, ResealCursor, Sealer, Store, StoreError, StoreFile, Txn, UseNote};
use bearerd::token::TokenId;
use bearerd::vault::{KeyHeader, KeySource, Keyring};
use simdisk::{Event, Lost, START, SimDisk, apply, block_on, clock, ending, id, quiet, token, unsynced};

/// A row of few values is sealed anew in each transaction, so that there are many places to cut at.
const ROWS: usize = 4;

fn source() -> (tempfile::TempDir, KeySource) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let source = KeySource::create_file(&dir.path().join("master.key")).unwrap();
    (dir, source)
}

fn open(disk: &SimDisk, source: &KeySource) -> (Store, Arc<Keyring>, KeyHeader) {
    let file = StoreFile::on(disk.handle(), FileOptions::default()).unwrap();
    let header = KeyHeader::decode(file.header().unwrap()).unwrap();
    let keyring = Arc::new(Keyring::unlock(&header, source).unwrap());
    let sealer = Arc::clone(&keyring) as Arc<dyn Sealer>;
    let (store, _) = Store::open(file, sealer, clock(), quiet()).unwrap();
    (store, keyring, header)
}

async fn change(store: &Store, job: impl FnOnce(&mut Txn<'_>) -> Result<(), StoreError> + Send + 'static) {
    store.write(job).await.unwrap().unwrap();
}

async fn put_header(store: &Store, header: &KeyHeader) {
    let bytes = header.encode();
    change(store, move |txn| {
        txn.put_header(bytes);
        txn.announce(|_| b"keys".to_vec()).map(drop)
    })
    .await;
}

/// One step of the walk.
async fn step(store: &Store, at: ResealCursor) -> ResealCursor {
    let job = move |txn: &mut Txn<'_>| -> Result<ResealCursor, StoreError> { txn.reseal(&at, ROWS) };
    store.write(job).await.unwrap().unwrap().value
}

/// From wherever it is to the end.
async fn finish(store: &Store, header: &KeyHeader) {
    let mut cursor = ResealCursor::default();
    while !cursor.is_finished() {
        cursor = step(store, cursor).await;
    }
    assert_eq!(store.not_resealed().unwrap(), None);
    put_header(store, &header.with_last_record_key()).await;
}

/// What was asked and answered of a token, and when.
struct Changed {
    id: TokenId,
    record: Option<TokenRecord>,
    asked: usize,
    answered: usize,
}

#[test]
fn cut_anywhere_every_value_opens_and_the_change_ends() {
    let (_dir, source) = source();
    let disk = SimDisk::new();
    let (keyring, header) = Keyring::create(&source, START).unwrap();
    let keyring = Arc::new(keyring);
    let file = StoreFile::on(disk.handle(), FileOptions::default()).unwrap();
    let sealer = Arc::clone(&keyring) as Arc<dyn Sealer>;
    let store = Store::create(file, &header.encode(), sealer, clock(), quiet()).unwrap();
    let mut journal: Vec<Changed> = Vec::new();
    let mut put = |store: &Store, n: u64, new: Option<TokenRecord>| {
        let (asked, record) = (disk.log_len(), new.clone());
        block_on(change(store, move |txn| {
            match record {
                Some(record) => {
                    let there = txn.record(record.id)?.is_some();
                    txn.put(record, if there { Effect::Restricts } else { Effect::New })?;
                }
                None => txn.remove(id(n))?,
            }
            txn.announce(|_| vec![0; 40]).map(drop)
        }));
        journal.push(Changed { id: id(n), record: new, asked, answered: disk.log_len() });
    };
    for n in 0..24 {
        put(&store, n, Some(token(n)));
        store.note_use(id(n), UseNote { at: START, unit: None, uid: 7, from: None, count: 1 });
    }
    block_on(store.flush()).unwrap();
    let begun = disk.log_len();

    let (both, new) = header.with_new_record_key(&source).unwrap();
    block_on(put_header(&store, &both));
    keyring.put_in_force(new);
    let mut cursor = ResealCursor::default();
    let mut steps = 0;
    while !cursor.is_finished() {
        cursor = block_on(step(&store, cursor));
        // Life goes on before and behind it.
        let n = steps % 20;
        match steps % 3 {
            0 => put(&store, n, Some(TokenRecord { version: 2, revoked: Some(ending()), ..token(n) })),
            1 => put(&store, 100 + steps, Some(token(100 + steps))),
            _ => put(&store, n, None),
        }
        steps += 1;
    }
    assert!(steps > 15, "{steps} steps");
    assert_eq!(store.not_resealed().unwrap(), None);
    let done = both.with_last_record_key();
    block_on(put_header(&store, &done));
    let ended = disk.log_len();
    // What is left of the old key is overwritten, and the store goes on.
    put(&store, 200, Some(token(200)));
    block_on(store.flush()).unwrap();
    let dropped = Arc::new(both.wrapped_dropped_in(&done));
    let left = store.remnants(&dropped).unwrap();
    assert_eq!(block_on(store.wipe(Arc::clone(&dropped), left.clone())).unwrap(), left.len() as u64);
    assert_eq!(store.remnants(&dropped).unwrap(), []);
    for n in 201..210 {
        put(&store, n, Some(token(n)));
    }
    drop(store);

    let log = disk.log();
    let (mut durable, mut synced, mut images) = (Vec::new(), 0, 0);
    let mut headers = BTreeSet::new();
    for at in 0..=log.len() {
        if let Some(Event::Sync) = at.checked_sub(1).map(|last| &log[last]) {
            log[synced..at].iter().for_each(|event| apply(&mut durable, event, &mut || true));
            synced = at;
        }
        if at < begun {
            continue;
        }
        // One of the losses at each place: the places beside it have the others.
        for (variant, lost) in [Lost::Nothing, Lost::Everything, Lost::Random(at as u64)].into_iter().enumerate() {
            if variant != at % 3 {
                continue;
            }
            let mut image = durable.clone();
            unsynced(&mut image, &log[synced..at], lost);
            let what = format!("cut after {at} of {}, {lost:?}", log.len());
            let (store, keyring, found) = open(&SimDisk::of(image), &source);
            headers.insert(found.record_keys.len());
            assert!(at < ended || found == done, "{what}: the old key is back");
            holds(&store, &journal, at, &what);
            // What the next start does; not for each of them, for time's sake.
            if images % 7 == 0 && found.record_keys.len() > 1 {
                assert_eq!(keyring.epoch(), 2, "{what}");
                block_on(finish(&store, &found));
                holds(&store, &journal, at, &what);
            }
            images += 1;
        }
    }
    println!("{images} images of {} writes and syncs", log.len() - begun);
    assert_eq!(headers, [1, 2].into(), "both states were seen");
    assert!(images > 150, "{images} images");
}

/// Each token is as it was last answered, or as it was asked for since.
fn holds(store: &Store, journal: &[Changed], done: usize, what: &str) {
    let mut may: BTreeMap<TokenId, Vec<&Option<TokenRecord>>> = BTreeMap::new();
    for changed in journal.iter().filter(|changed| changed.asked <= done) {
        let states = may.entry(changed.id).or_insert_with(|| vec![&None]);
        if changed.answered <= done {
            states.clear();
        }
        states.push(&changed.record);
    }
    for (id, states) in may {
        let found = store.lookup(id).unwrap_or_else(|error| panic!("{what}: {error}")).record;
        assert!(
            states.iter().any(|state| state.as_ref() == found.as_deref().map(|found| &**found)),
            "{what}: {id} is in no state that was asked for"
        );
        if found.is_some() {
            store.last_use(id).unwrap();
        }
    }
}

/// A value that does not open stays, and so does its key.
#[test]
fn a_damaged_value_stops_it_and_nothing_is_lost() {
    let (_dir, source) = source();
    let disk = SimDisk::new();
    let (keyring, header) = Keyring::create(&source, START).unwrap();
    let (keyring, stranger) = (Arc::new(keyring), Keyring::create(&source, START).unwrap().0);
    let file = StoreFile::on(disk.handle(), FileOptions::default()).unwrap();
    let sealer = Arc::clone(&keyring) as Arc<dyn Sealer>;
    let store = Store::create(file, &header.encode(), sealer, clock(), quiet()).unwrap();
    for n in 0..10 {
        block_on(change(&store, move |txn| txn.put(token(n), Effect::New)));
    }
    block_on(store.stop()).unwrap();
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), disk.bytes()).unwrap();
    let db = redb::Database::open(path.path()).unwrap();
    let txn = db.begin_write().unwrap();
    const TOKENS: redb::TableDefinition<'_, &[u8; 16], &[u8]> = redb::TableDefinition::new("tokens");
    let sealed = stranger.seal("tokens", id(5).as_bytes(), b"not of this store");
    txn.open_table(TOKENS).unwrap().insert(id(5).as_bytes(), &*sealed).unwrap();
    txn.commit().unwrap();
    drop(db);

    let (store, keyring, header) = open(&SimDisk::of(std::fs::read(path.path()).unwrap()), &source);
    let (both, new) = header.with_new_record_key(&source).unwrap();
    block_on(put_header(&store, &both));
    keyring.put_in_force(new);
    let walk = || {
        let mut cursor = ResealCursor::default();
        loop {
            let at = cursor.clone();
            let job = move |txn: &mut Txn<'_>| -> Result<ResealCursor, StoreError> { txn.reseal(&at, 1) };
            match block_on(store.write(job)).unwrap() {
                Ok(next) if next.value.is_finished() => return Ok(()),
                Ok(next) => cursor = next.value,
                Err(error) => return Err(error),
            }
        }
    };
    assert!(matches!(walk(), Err(StoreError::Broken { table: "tokens" })));
    assert_eq!(store.not_resealed().unwrap(), Some("tokens"));
    for n in (0..10).filter(|n| *n != 5) {
        assert!(store.lookup(id(n)).unwrap().record.is_some());
    }
}
