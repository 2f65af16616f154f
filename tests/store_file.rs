//! The store's file: what is refused and left as it is, what it shows without the key, and the real file system.

mod simdisk;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use bearerd::store::{Boot, Effect, FileOptions, Store, StoreError, StoreFile, Txn, UseNote};
use bearerd::vault::{KeyHeader, KeySource, Keyring};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};

use simdisk::{HEADER, SimDisk, TestSealer, block_on, clock, create, ending, id, open, quiet, token};

fn issue_some(store: &Store, numbers: std::ops::Range<u64>) {
    block_on(store.write(move |txn: &mut Txn<'_>| -> Result<(), StoreError> {
        for n in numbers {
            txn.put(token(n), Effect::New)?;
            txn.announce(|_| b"issued".to_vec())?;
        }
        Ok(())
    }))
    .unwrap()
    .unwrap();
}

fn a_store() -> Vec<u8> {
    let disk = SimDisk::new();
    let store = create(&disk);
    issue_some(&store, 0..50);
    block_on(store.stop()).unwrap();
    disk.bytes()
}

/// The refusal of an image, which must be left as it was.
fn refusal(image: &[u8]) -> StoreError {
    refusal_with(image, FileOptions::default())
}

fn refusal_with(image: &[u8], options: FileOptions) -> StoreError {
    let disk = SimDisk::of(image.to_vec());
    let error = StoreFile::on(disk.handle(), options).expect_err("is refused");
    assert!(disk.bytes() == image, "a refused file was changed");
    // What, why, what to do: in one line.
    let text = error.to_string();
    assert!(text.starts_with("the store") || text.starts_with("there is"), "{text}");
    assert!(!text.contains('\n') && text.len() < 300, "{text}");
    error
}

mod refusals {
    use super::*;

    #[test]
    fn what_is_no_store_is_refused_and_left_alone() {
        assert!(matches!(refusal(b"x"), StoreError::NotAStore(_)));
        assert!(matches!(refusal(&b"#!/bin/sh\n".repeat(2000)), StoreError::NotAStore(_)));
        assert!(matches!(refusal(&vec![0; 100_000]), StoreError::NotAStore(_)));
        let whole = a_store();
        assert!(matches!(refusal(&whole[..1000]), StoreError::Damaged { .. }));
        assert!(matches!(refusal(&whole[..whole.len() - 4096]), StoreError::Damaged { .. }));
    }

    /// An empty file is new for whoever makes a store, and never for whoever opens one.
    #[test]
    fn an_empty_file_is_new_only_for_create() {
        let disk = SimDisk::new();
        let file = StoreFile::on(disk.handle(), FileOptions::default()).unwrap();
        assert!(file.is_new() && file.header().is_none());
        assert!(matches!(file.boot(&*TestSealer::new(1)), Err(StoreError::Empty)));
        assert!(matches!(Store::open(file, TestSealer::new(1), clock(), quiet()), Err(StoreError::Empty)));
        assert!(disk.bytes().is_empty());
    }

    #[test]
    fn a_store_is_never_overwritten() {
        let disk = SimDisk::of(a_store());
        let before = disk.bytes();
        let file = StoreFile::on(disk.handle(), FileOptions::default()).unwrap();
        assert!(!file.is_new());
        assert_eq!(file.header(), Some(HEADER));
        let made = Store::create(file, b"other", TestSealer::new(2), clock(), quiet());
        assert!(matches!(made, Err(StoreError::NotEmpty)));
        let (store, _) = open(&disk).unwrap();
        assert_eq!(store.token_count().unwrap(), 50);
        assert!(before.len() <= disk.bytes().len());
    }

    #[test]
    fn a_second_daemon_is_kept_out() {
        let disk = SimDisk::new();
        let store = create(&disk);
        assert!(matches!(open(&disk), Err(StoreError::AlreadyOpen)));
        drop(store);
        open(&disk).unwrap();
    }

    #[test]
    fn the_wrong_key_opens_nothing_and_changes_nothing() {
        let image = a_store();
        let disk = SimDisk::of(image.clone());
        let file = StoreFile::on(disk.handle(), FileOptions::default()).unwrap();
        assert!(matches!(file.boot(&*TestSealer::new(2)), Err(StoreError::Broken { table: "meta" })));
        let opened = Store::open(file, TestSealer::new(2), clock(), quiet());
        assert!(matches!(opened, Err(StoreError::Broken { .. })));
        assert!(disk.bytes() == image);
        // Nor does looking with the right key, and going away: as a daemon does that finds the store older than its log.
        let file = StoreFile::on(disk.handle(), FileOptions::default()).unwrap();
        assert_eq!(file.boot(&*TestSealer::new(1)).unwrap().generation, 50);
        drop(file);
        assert!(disk.bytes() == image && disk.log_len() == 0);
        assert_eq!(open(&disk).unwrap().1.generation, 50);
    }

    /// Changes a table of a store behind its back, with the engine itself.
    fn tamper(change: impl FnOnce(&redb::WriteTransaction)) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), a_store()).unwrap();
        let db = redb::Database::open(file.path()).unwrap();
        let txn = db.begin_write().unwrap();
        change(&txn);
        txn.commit().unwrap();
        drop(db);
        fs::read(file.path()).unwrap()
    }

    const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
    const TOKENS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("tokens");

    /// I9: what a newer version wrote for newer readers only is refused, not read as far as it goes.
    #[test]
    fn a_newer_format_is_refused() {
        let image = tamper(|txn| {
            txn.open_table(META).unwrap().insert("format", &[3, 0, 3, 0][..]).unwrap();
        });
        assert!(matches!(refusal(&image), StoreError::NewerFormat { found: 3, needed: 3, .. }));
        // Newer, but it says that this version may read it.
        let image = tamper(|txn| {
            txn.open_table(META).unwrap().insert("format", &[3, 0, 2, 0][..]).unwrap();
        });
        open(&SimDisk::of(image)).unwrap();
    }

    #[test]
    fn a_database_of_something_else_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let db = redb::Database::create(file.path()).unwrap();
        drop(db);
        assert!(matches!(refusal(&fs::read(file.path()).unwrap()), StoreError::Unfinished));
        let db = redb::Database::create(file.path()).unwrap();
        let txn = db.begin_write().unwrap();
        txn.open_table(TableDefinition::<u64, u64>::new("things")).unwrap().insert(1, 1).unwrap();
        txn.commit().unwrap();
        drop(db);
        assert!(matches!(refusal(&fs::read(file.path()).unwrap()), StoreError::NotAStore(_)));
    }

    /// A sealed value opens in its own place only.
    #[test]
    fn a_record_that_was_moved_or_changed_does_not_open() {
        let image = tamper(|txn| {
            let mut tokens = txn.open_table(TOKENS).unwrap();
            let moved = tokens.get(id(1).as_bytes()).unwrap().unwrap().value().to_vec();
            tokens.insert(id(2).as_bytes(), &*moved).unwrap();
            let mut changed = tokens.get(id(3).as_bytes()).unwrap().unwrap().value().to_vec();
            changed[20] ^= 1;
            tokens.insert(id(3).as_bytes(), &*changed).unwrap();
        });
        let (store, _) = open(&SimDisk::of(image)).unwrap();
        assert!(store.lookup(id(1)).unwrap().record.is_some());
        for n in [2, 3] {
            assert!(matches!(store.lookup(id(n)), Err(StoreError::Broken { table: "tokens" })));
            // A job hears it, and others go on.
            let read = block_on(store.write(move |txn: &mut Txn<'_>| txn.record(id(n))));
            assert!(matches!(read, Ok(Err(StoreError::Broken { .. }))));
        }
        issue_some(&store, 100..101);
    }

    /// The check finds damage wherever a page is in use; without it, the seal does, or the engine's own sense.
    #[test]
    fn damaged_pages_are_found_by_the_check() {
        let whole = a_store();
        let check = FileOptions { check: true, ..FileOptions::default() };
        let disk = SimDisk::of(whole.clone());
        StoreFile::on(disk.handle(), check).expect("nothing is wrong with it");
        let mut found = 0;
        for page in 1..whole.len() / 4096 {
            let mut image = whole.clone();
            image[page * 4096 + 100..page * 4096 + 140].iter_mut().for_each(|byte| *byte ^= 0x55);
            let disk = SimDisk::of(image);
            match StoreFile::on(disk.handle(), check) {
                Err(StoreError::Damaged { .. }) => found += 1,
                Err(error) => panic!("page {page}: {error:?}"),
                // A page that is not in use.
                Ok(file) => {
                    let (store, _) = Store::open(file, TestSealer::new(1), clock(), quiet()).unwrap();
                    assert!((0..50).all(|n| store.lookup(id(n)).unwrap().record.is_some()), "page {page}");
                }
            }
        }
        assert!(found >= 5, "{found} damaged pages found");
    }

    /// I5: without the check, damage is an error where it is met: never a wrong record, and no panic comes out.
    #[test]
    fn a_damaged_page_never_gives_a_wrong_record() {
        let whole = a_store();
        let mut met = 0;
        for (page, spoil) in (1..whole.len() / 4096).flat_map(|page| [(page, 0x55), (page, 0xff)]) {
            let mut image = whole.clone();
            image[page * 4096..page * 4096 + 64].iter_mut().for_each(|byte| *byte ^= spoil);
            let disk = SimDisk::of(image);
            let (store, boot) = match open(&disk) {
                Ok(opened) => opened,
                Err(_) => {
                    met += 1;
                    continue;
                }
            };
            assert_eq!(boot.generation, 50);
            for n in 0..50 {
                match store.lookup(id(n)) {
                    Ok(found) => assert!(found.record.is_none_or(|found| **found == token(n)), "page {page}"),
                    Err(_) => met += 1,
                }
            }
            let _ = block_on(store.write(|txn: &mut Txn<'_>| txn.remove(id(7))));
        }
        assert!(met >= 5, "{met}");
    }
}

/// Without the key: how many tokens, when they were issued and expire, which share an owner or label; nothing else.
#[test]
fn the_file_shows_no_names_subjects_or_labels() {
    let disk = SimDisk::new();
    let store = create(&disk);
    issue_some(&store, 0..20);
    let unit = Some("app.service");
    store.note_use(id(1), UseNote { at: simdisk::START, unit, uid: 7, from: None, count: 1 });
    store.seal_stored(b"the audit's seal".to_vec(), 3);
    block_on(store.flush()).unwrap();
    let image = disk.bytes();
    let shown = |text: &[u8]| image.windows(text.len()).any(|window| window == text);
    for secret in ["user1", "token 3", "team", "prod", "app.service", "issued", "the audit's seal"] {
        assert!(!shown(secret.as_bytes()), "{secret:?} is in the file");
    }
    // The test can see what is there.
    assert!(shown(HEADER) && shown(b"by_expiry") && shown(id(3).as_bytes()));
    drop(store);

    // Every value but format and header is sealed: a few bytes longer than what is in it, and never the same twice.
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &image).unwrap();
    let db = redb::Database::open(file.path()).unwrap();
    let txn = db.begin_read().unwrap();
    let meta = txn.open_table(TableDefinition::<&str, &[u8]>::new("meta")).unwrap();
    let names: Vec<_> = meta.iter().unwrap().map(|row| row.unwrap().0.value().to_owned()).collect();
    assert_eq!(names, ["format", "header", "seal", "standing", "told"]);
}

fn real(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn open_real(path: &Path) -> Result<(Store, Boot), StoreError> {
    let file = StoreFile::from_file(real(path), FileOptions::default())?;
    Store::open(file, TestSealer::new(1), clock(), quiet())
}

fn create_real(path: &Path) -> Store {
    let file = StoreFile::from_file(real(path), FileOptions::default()).unwrap();
    Store::create(file, HEADER, TestSealer::new(1), clock(), quiet()).unwrap()
}

mod real_files {
    use super::*;

    #[test]
    fn a_real_file_is_locked_allocated_ahead_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.redb");
        let store = create_real(&path);
        issue_some(&store, 0..100);
        assert!(matches!(open_real(&path), Err(StoreError::AlreadyOpen)));
        // redb's own tools are kept out, too.
        assert!(matches!(redb::Database::open(&path), Err(redb::DatabaseError::DatabaseAlreadyOpen)));
        let there = fs::metadata(&path).unwrap();
        assert!(there.blocks() * 512 >= there.len() + (12 << 20), "no reserve: {} blocks", there.blocks());
        assert!(store.room().issue_ok && store.room().free_bytes >= 12 << 20);
        drop(store);
        let (store, boot) = open_real(&path).unwrap();
        assert_eq!((boot.generation, store.token_count().unwrap()), (100, 100));
        block_on(store.stop()).unwrap();
        // The reserve is kept while nobody is there, too.
        let there = fs::metadata(&path).unwrap();
        assert!(there.blocks() * 512 >= 12 << 20, "{} blocks", there.blocks());
        let (_, boot) = open_real(&path).unwrap();
        assert!(boot.clean_stop);
    }

    /// The keys that the daemon seals with, and the header that opens them again.
    #[test]
    fn a_store_opens_with_its_keyring_and_with_no_other() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let path = dir.path().join("tokens.redb");
        let source = KeySource::create_file(&dir.path().join("master.key")).unwrap();
        let (keyring, header) = Keyring::create(&source, simdisk::START).unwrap();
        let file = StoreFile::from_file(real(&path), FileOptions::default()).unwrap();
        let store = Store::create(file, &header.encode(), Arc::new(keyring), clock(), quiet()).unwrap();
        issue_some(&store, 0..5);
        drop(store);
        let file = StoreFile::from_file(real(&path), FileOptions::default()).unwrap();
        let header = KeyHeader::decode(file.header().unwrap()).unwrap();
        let (other, _) = Keyring::create(&source, simdisk::START).unwrap();
        assert!(matches!(file.boot(&other), Err(StoreError::Broken { .. })));
        let keyring = Keyring::unlock(&header, &source).unwrap();
        let (store, boot) = Store::open(file, Arc::new(keyring), clock(), quiet()).unwrap();
        assert_eq!((boot.outbox.len(), store.lookup(id(3)).unwrap().record.unwrap().name.as_str()), (5, "token 3"));
    }

    /// The file may be given its name once the store is whole in it.
    #[test]
    fn a_store_may_be_made_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let (made, named) = (dir.path().join("new"), dir.path().join("tokens.redb"));
        let store = create_real(&made);
        fs::rename(&made, &named).unwrap();
        issue_some(&store, 0..3);
        drop(store);
        assert_eq!(open_real(&named).unwrap().0.token_count().unwrap(), 3);
    }

    /// Needs root: a file system of its own that gets full.
    #[test]
    #[ignore = "needs root"]
    fn root_on_a_full_file_system_revocations_are_durable() {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Mounted::tmpfs(dir.path(), "64m");
        let path = dir.path().join("tokens.redb");
        let store = create_real(&path);
        issue_some(&store, 0..500);
        // Another program takes all the rest.
        let other = real(&dir.path().join("other"));
        let block = vec![1; 1 << 16];
        let mut at = 0;
        while other.write_all_at(&block, at).is_ok() {
            at += block.len() as u64;
        }
        let mut n = 1000;
        let refused = loop {
            let said = block_on(store.write(move |txn: &mut Txn<'_>| -> Result<(), StoreError> {
                (n..n + 20).try_for_each(|n| txn.put(token(n), Effect::New))
            }));
            match said {
                Ok(Ok(_)) => n += 20,
                refused => break refused,
            }
            assert!(n < 100_000, "a full disk takes tokens without end");
        };
        assert!(matches!(refused, Ok(Err(StoreError::NoRoom))), "{refused:?}");
        for n in 0..500 {
            block_on(store.write(move |txn: &mut Txn<'_>| -> Result<(), StoreError> {
                let mut record = txn.record(id(n))?.unwrap();
                record.revoked = Some(ending());
                txn.put(record, Effect::Restricts)
            }))
            .unwrap()
            .unwrap();
        }
        assert_eq!(store.fault(), None);
        drop(store);
        let (store, _) = open_real(&path).unwrap();
        assert!((0..500).all(|n| store.lookup(id(n)).unwrap().record.unwrap().revoked.is_some()));
        drop((store, other));
        drop(mounted);
    }

    /// A mount that goes with the test.
    struct Mounted(Arc<Path>);

    impl Mounted {
        fn tmpfs(at: &Path, size: &str) -> Self {
            let done = std::process::Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
                .arg(at)
                .status()
                .unwrap();
            assert!(done.success(), "mount -t tmpfs");
            Self(at.into())
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg(&*self.0).status();
        }
    }
}
