//! A backup's bytes: any cut, any change, anything added is found before anything of it is believed.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use bearerd::store::backup::{Backup, Input};
use bearerd::store::record::TokenRecord;
use bearerd::store::{Boot, Effect, FileOptions, Renew, Renewed, Store, StoreError, StoreFile, StoreOptions, Txn};
use bearerd::time::{Clock, UnixTime, manual::ManualTime};
use bearerd::vault::{KeyHeader, KeySource, Keyring};

mod simdisk;
use simdisk::{block_on, id, token};

const START: UnixTime = UnixTime::from_secs(1_800_000_000);

/// A store in a directory of its own.
struct Place {
    dir: tempfile::TempDir,
    keyring: Arc<Keyring>,
    store: Store,
}

fn place(tokens: u64) -> Place {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let source = KeySource::create_file(&dir.path().join("key")).unwrap();
    let (keyring, header) = Keyring::create(&source, START).unwrap();
    let keyring = Arc::new(keyring);
    let clock = Arc::new(Clock::new(Box::new(ManualTime::new(START)), None));
    let file = file(&dir.path().join("store"));
    let options = StoreOptions::default();
    let store = Store::create(file, &header.encode(), Arc::clone(&keyring) as _, clock, options).unwrap();
    for first in (0..tokens).step_by(1000) {
        let made = store.write(move |txn: &mut Txn<'_>| {
            (first..tokens.min(first + 1000)).try_for_each(|n| {
                txn.put(token(n), Effect::New)?;
                txn.announce(|generation| format!("issue {n} at {generation}").into_bytes()).map(drop)
            })
        });
        block_on(made).unwrap().unwrap();
    }
    Place { dir, keyring, store }
}

fn file(path: &Path) -> StoreFile {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    StoreFile::from_file(file, FileOptions::default()).unwrap()
}

impl Place {
    fn backup(&self, piece: usize) -> Vec<u8> {
        let mut snapshot = self.store.snapshot(self.keyring.backup_mac()).unwrap();
        let mut bytes = Vec::new();
        while let Some(next) = snapshot.piece(piece).unwrap() {
            bytes.extend(next);
        }
        assert!(snapshot.ended());
        bytes
    }

    fn input(&self, bytes: &[u8]) -> Input {
        let mut file = tempfile::tempfile_in(self.dir.path()).unwrap();
        file.write_all(bytes).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        Input::file(file)
    }

    fn check(&self, bytes: &[u8]) -> Result<(Boot, Vec<TokenRecord>), StoreError> {
        let mut input = self.input(bytes);
        let mut records = Vec::new();
        let backup = Backup::begin(&mut input)?;
        let see = &mut |record| records.push(record);
        let boot = backup.check(&mut input, &*self.keyring, self.keyring.backup_mac(), see)?;
        Ok((boot, records))
    }

    fn refuses(&self, bytes: &[u8], what: &str) {
        match self.check(bytes) {
            Err(StoreError::BadBackup { .. } | StoreError::NewerFormat { .. }) => {}
            Err(other) => panic!("{what}: {other}"),
            Ok(_) => panic!("{what}: it was taken"),
        }
    }
}

#[test]
fn pieces_of_any_size_make_the_same_backup() {
    let place = place(40);
    let (whole, small) = (place.backup(usize::MAX), place.backup(1));
    assert_eq!(whole, small);
    let (boot, records) = place.check(&whole).unwrap();
    assert_eq!((boot.generation, boot.outbox.len(), records.len()), (40, 40, 40));
    assert!(records == (0..40).map(token).collect::<Vec<_>>());
    block_on(place.store.stop()).unwrap();
}

#[test]
fn every_cut_and_every_changed_byte_is_found() {
    let place = place(2);
    let whole = place.backup(usize::MAX);
    assert!(place.check(&whole).is_ok());
    for cut in 0..whole.len() {
        place.refuses(&whole[..cut], &format!("cut at {cut}"));
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        // Lengths, counts and versions lie at the beginning and at the end.
        let near = at < 64 || at + 64 > whole.len();
        for bit in (0..8).filter(|bit| near || at % 8 == *bit) {
            changed[at] = whole[at] ^ 1 << bit;
            place.refuses(&changed, &format!("bit {bit} at {at}"));
        }
    }
    place.refuses(&[&whole[..], b"\0"].concat(), "a byte behind");
    place.refuses(&[&whole[..], &whole[..]].concat(), "twice");
}

/// Each value opens, and the MAC is what finds that they are not of one backup.
#[test]
fn rows_of_two_backups_make_none() {
    let place = place(3);
    let before = place.backup(usize::MAX);
    block_on(place.store.write(|txn: &mut Txn<'_>| {
        let mut record = txn.record(id(1))?.unwrap();
        record.name = "sooth".to_owned() + &record.name[5.min(record.name.len())..];
        record.version += 1;
        txn.put(record, Effect::Restricts)
    }))
    .unwrap()
    .unwrap();
    let after = place.backup(usize::MAX);
    // A row of the older, where the newer has its own.
    let row = |bytes: &[u8]| {
        let at = bytes.windows(16).position(|window| window == id(1).as_bytes()).unwrap();
        let length = u32::from_le_bytes(bytes[at + 16..at + 20].try_into().unwrap()) as usize;
        (at, bytes[at..at + 20 + length].to_vec())
    };
    let ((at, old), (_, new)) = (row(&before), row(&after));
    let mixed = [&after[..row(&after).0], &old, &after[row(&after).0 + new.len()..]].concat();
    assert!(mixed != after && at > 0);
    match place.check(&mixed) {
        Err(StoreError::BadBackup { what }) => assert!(what.contains("MAC"), "{what}"),
        other => panic!("an old row among new ones: {:?}", other.err()),
    }
}

/// As it is, but for what the test wants otherwise.
struct Plain(u64);

impl Renew for Plain {
    fn change(&mut self, record: &TokenRecord) -> Option<TokenRecord> {
        (record.id == id(2)).then(|| TokenRecord { subject: "mallory".into(), ..record.clone() })
    }

    fn forgets(&self, generation: u64) -> bool {
        generation == 1
    }

    fn finish(&mut self) -> Renewed {
        Renewed { generation: self.0, mark: None, outbox: vec![(self.0, b"restored".to_vec())] }
    }
}

/// More than one transaction's worth, so that batches meet.
#[test]
fn a_store_made_from_a_backup_has_its_records_and_indexes() {
    let place = place(10_050);
    let whole = place.backup(usize::MAX);
    let mut input = place.input(&whole);
    let backup = Backup::begin(&mut input).unwrap();
    let path = place.dir.path().join("new");
    let mac = place.keyring.backup_mac();
    file(&path).rebuild(&backup, &mut input, &*place.keyring, mac, &mut Plain(20_000)).unwrap();

    let opened = file(&path);
    assert_eq!(KeyHeader::decode(opened.header().unwrap()).unwrap().slots.len(), 1);
    let clock = Arc::new(Clock::new(Box::new(ManualTime::new(START)), None));
    let (store, boot) = Store::open(opened, Arc::clone(&place.keyring) as _, clock, StoreOptions::default()).unwrap();
    assert_eq!((boot.generation, store.token_count().unwrap()), (20_000, 10_050));
    let generations: Vec<u64> = boot.outbox.iter().map(|(generation, _)| *generation).collect();
    assert_eq!(generations, (2..=10_050).chain([20_000]).collect::<Vec<_>>());
    let scan = |subject: &str| bearerd::store::Scan {
        after: None,
        index: Some((bearerd::store::IndexTag::Subject, subject.to_owned())),
        limit: 100,
        visit_max: 100,
    };
    let found = store.scan(scan("mallory"), |_| Ok(true)).unwrap().records;
    assert_eq!(found.iter().map(|record| record.id).collect::<Vec<_>>(), [id(2)]);
    let others = store.scan(scan(&token(1).subject), |_| Ok(true)).unwrap().records;
    assert!(others.iter().any(|record| record.id == id(1)) && others.iter().all(|record| record.id != id(2)));
    assert_eq!(store.expiring(None, UnixTime::MAX, 20_000).unwrap().len(), 10_050);
    // A file that is no new one is not written to.
    let mut again = place.input(&whole);
    let backup = Backup::begin(&mut again).unwrap();
    block_on(store.stop()).unwrap();
    let mac = place.keyring.backup_mac();
    let refused = file(&path).rebuild(&backup, &mut again, &*place.keyring, mac, &mut Plain(20_000));
    assert!(matches!(refused, Err(StoreError::NotEmpty)));
}
