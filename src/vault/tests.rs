use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::derive::{WRAPPING_KEY, derive};
use super::header::record_key_data;
use super::*;
use crate::sys::memory::LockedKey;
use crate::time::UnixTime;

const NOW: UnixTime = UnixTime::from_secs(1_795_000_000);
const OTHER_ID: &str = "f80b1daa9719f1fb";

fn created() -> (KeySource, Keyring, KeyHeader) {
    let source = KeySource::of_bytes([0x42; 32]);
    let (keyring, header) = Keyring::create(&source, NOW).unwrap();
    (source, keyring, header)
}

/// The header with a second record key, which is in force.
fn with_second_epoch(source: &KeySource, mut header: KeyHeader) -> KeyHeader {
    let root = keyring::open_slot(&header, source).unwrap();
    let wrapping_key = derive(WRAPPING_KEY, &root).unwrap();
    let key = LockedKey::new(|key| crate::token::random(key)).unwrap();
    let wrapped = aead::wrap(&wrapping_key, &record_key_data(&header.store_id, 2), &key);
    header.record_keys.push(WrappedRecordKey { epoch: 2, key: wrapped });
    header.record_epoch = 2;
    header
}

/// A private directory and the path of a key file in it that does not exist yet.
fn key_dir() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let path = dir.path().join("master.key");
    (dir, path)
}

fn me() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn write_key(path: &std::path::Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

// Sealed values.

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sealed_opens_at_its_place_only(
        table in "[a-z_]{0,12}", key in prop::collection::vec(any::<u8>(), 0..300), plain in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let (source, keyring, header) = created();
        let sealed = keyring.seal(&table, &key, &plain);
        prop_assert_eq!(sealed.len(), 45 + plain.len());
        prop_assert_eq!(keyring.open(&table, &key, &sealed).unwrap().to_vec(), plain.clone());
        prop_assert_ne!(&keyring.seal(&table, &key, &plain), &sealed, "a nonce repeats");

        let elsewhere = format!("{table}x");
        prop_assert!(keyring.open(&elsewhere, &key, &sealed).is_err());
        let longer = [&key[..], &[0]].concat();
        prop_assert!(keyring.open(&table, &longer, &sealed).is_err());
        // The same bytes, cut between table and key at another place.
        if let (Some((&first, rest)), true) = (key.split_first(), key.first().is_some_and(u8::is_ascii)) {
            let shifted = format!("{table}{}", char::from(first));
            prop_assert!(keyring.open(&shifted, rest, &sealed).is_err());
        }
        // The same keys in a store of another id.
        let other = KeyHeader { store_id: [9; 16], ..header };
        let unlocked = Keyring::unlock(&other, &source);
        prop_assert!(matches!(unlocked, Err(VaultError::SlotDamaged { .. })), "it opened in another store");
        let (_, stranger, _) = created();
        prop_assert!(stranger.open(&table, &key, &sealed).is_err());
    }
}

#[test]
fn every_changed_cut_or_added_byte_is_found() {
    let (source, _, header) = created();
    let keyring = Keyring::unlock(&with_second_epoch(&source, header), &source).unwrap();
    let sealed = keyring.seal("tokens", b"id", &[7; 100]);
    for at in 0..sealed.len() {
        for bit in 0..8 {
            let mut changed = sealed.clone();
            changed[at] ^= 1 << bit;
            let error = keyring.open("tokens", b"id", &changed).expect_err("it was changed");
            match at {
                0 => assert!(matches!(error, VaultError::UnknownVersion { .. }), "{error}"),
                // Epochs 2 ^ 1 and so on are unknown; none of them is 1.
                1..5 => assert!(matches!(error, VaultError::UnknownEpoch { .. }), "{error}"),
                _ => assert!(matches!(error, VaultError::DoesNotOpen { .. }), "{error}"),
            }
        }
        assert!(matches!(keyring.open("tokens", b"id", &sealed[..at]), Err(VaultError::DoesNotOpen { .. })));
    }
    let longer = [&sealed[..], &[0]].concat();
    let error = keyring.open("tokens", b"id", &longer).expect_err("it is longer").to_string();
    assert!(error.contains("the value at 6964 in table tokens does not open"), "{error}");
    // Said to be under the record key that exists, but is not the one.
    let mut older = sealed;
    older[1] = 1;
    assert!(matches!(keyring.open("tokens", b"id", &older), Err(VaultError::DoesNotOpen { .. })));
}

#[test]
fn each_part_of_the_associated_data_counts() {
    let key = LockedKey::new(|key| key.fill(1)).unwrap();
    let place = aead::Place { store_id: &[2; 16], table: "tokens", key: b"id" };
    let sealed = aead::seal(&key, 3, place, b"plain");
    assert_eq!(*aead::open(&key, 3, place, &sealed).unwrap(), b"plain");
    // The same record key throughout: only the place differs.
    assert!(aead::open(&key, 4, place, &sealed).is_err());
    for other in [
        aead::Place { store_id: &[3; 16], ..place },
        aead::Place { table: "token", ..place },
        aead::Place { table: "tokensi", key: b"d", ..place },
        aead::Place { key: b"ie", ..place },
        aead::Place { key: &[b'i'; 200], ..place },
    ] {
        assert!(aead::open(&key, 3, other, &sealed).is_err());
    }

    let wrapped = aead::wrap(&key, &record_key_data(&[2; 16], 3), &key);
    assert!(aead::unwrap(&key, &record_key_data(&[2; 16], 3), &wrapped).unwrap().is_some());
    assert!(aead::unwrap(&key, &record_key_data(&[2; 16], 4), &wrapped).unwrap().is_none());
    assert!(aead::unwrap(&key, &record_key_data(&[3; 16], 3), &wrapped).unwrap().is_none());
    let slot = |store: u8, id: u8, kind| header::slot_data(&[store; 16], KeyId([id; 8]), kind);
    let wrapped = aead::wrap(&key, &slot(2, 5, SlotKind::File), &key);
    assert!(aead::unwrap(&key, &slot(2, 5, SlotKind::File), &wrapped).unwrap().is_some());
    for other in [slot(3, 5, SlotKind::File), slot(2, 6, SlotKind::File), slot(2, 5, SlotKind::Credential)] {
        assert!(aead::unwrap(&key, &other, &wrapped).unwrap().is_none());
    }
}

#[test]
fn values_of_an_older_epoch_still_open() {
    let (source, keyring, header) = created();
    let old = keyring.seal("tokens", b"id", b"old");
    let keyring = Keyring::unlock(&with_second_epoch(&source, header), &source).unwrap();
    assert_eq!(*keyring.open("tokens", b"id", &old).unwrap(), b"old");
    let new = keyring.seal("tokens", b"id", b"new");
    assert_eq!(&new[..5], [1, 2, 0, 0, 0]);
    assert_eq!(*keyring.open("tokens", b"id", &new).unwrap(), b"new");
}

#[test]
fn an_index_key_depends_on_tag_and_value_and_store() {
    let (_, keyring, _) = created();
    let index = keyring.index("subject", b"alice");
    assert_eq!(index, keyring.index("subject", b"alice"));
    assert_ne!(index, keyring.index("subject", b"alicf"));
    assert_ne!(index, keyring.index("issuer", b"alice"));
    assert_ne!(index, keyring.index("subjecta", b"lice"));
    assert_ne!(index, created().1.index("subject", b"alice"));
}

// Slots and the header.

#[test]
fn the_source_opens_the_store_again() {
    let (source, keyring, header) = created();
    let again = Keyring::unlock(&KeyHeader::decode(&header.encode()).unwrap(), &source).unwrap();
    assert_eq!(again.digest_key(), keyring.digest_key());
    assert_eq!(again.audit_key().expose(), keyring.audit_key().expose());
    assert_eq!(again.index("t", b"v"), keyring.index("t", b"v"));
    assert_eq!(*again.open("t", b"k", &keyring.seal("t", b"k", b"v")).unwrap(), b"v");
    assert_eq!(again.slot(), SlotInfo { id: source.id(), kind: SlotKind::File, origin: "a test".to_owned() });
    assert_eq!(header.slots[0].created_at, NOW);
}

#[test]
fn another_key_opens_nothing_and_the_ids_are_named() {
    let (source, _, header) = created();
    let other = KeySource::of_bytes([0x43; 32]);
    assert_eq!(other.id().to_string(), OTHER_ID);
    let error = Keyring::unlock(&header, &other).err().expect("it is another key");
    assert_eq!(
        error.to_string(),
        format!(
            "key {OTHER_ID} from a test opens no slot of this store, whose slots are for {}: install that key, or the store that belongs to this one",
            source.id()
        )
    );
    // Under a forged id it does not open either.
    let mut forged = header;
    forged.slots[0].id = other.id();
    assert!(matches!(Keyring::unlock(&forged, &other), Err(VaultError::SlotDamaged { id }) if id == other.id()));
}

#[test]
fn a_second_slot_opens_the_same_keys() {
    let (source, keyring, mut header) = created();
    let other = KeySource::of_bytes([0x43; 32]);
    let root = keyring::open_slot(&header, &source).unwrap();
    let data = header::slot_data(&header.store_id, other.id(), SlotKind::Recovery);
    let slot_key = derive(derive::SLOT_KEY, other.key()).unwrap();
    let root = aead::wrap(&slot_key, &data, &root);
    header.slots.push(KeySlot { id: other.id(), kind: SlotKind::Recovery, created_at: NOW, root });
    for source in [&source, &other] {
        assert_eq!(Keyring::unlock(&header, source).unwrap().digest_key(), keyring.digest_key());
    }
    header.slots[1].kind = SlotKind::File;
    assert!(matches!(Keyring::unlock(&header, &other), Err(VaultError::SlotDamaged { .. })));
}

#[test]
fn every_changed_byte_of_a_header_is_found_or_harmless() {
    let (source, keyring, header) = created();
    let bytes = header.encode();
    let mut opened = 0;
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        // Only the slot's date is not bound to what the slot holds; the store seals the digest of all of it.
        if let Ok(changed) = KeyHeader::decode(&changed).and_then(|header| {
            Keyring::unlock(&header, &source)?;
            Ok(header)
        }) {
            opened += 1;
            assert_ne!(changed.slots[0].created_at, header.slots[0].created_at, "byte {at}");
        }
        assert!(KeyHeader::decode(&bytes[..at]).is_err());
    }
    assert!(opened > 0 && opened < 10, "{opened} changes opened");
    assert!(KeyHeader::decode(&[&bytes[..], &[0]].concat()).is_err());
    // A damaged record key is told from a damaged slot.
    let mut damaged = header;
    damaged.record_keys[0].key.tag[0] ^= 1;
    assert!(matches!(Keyring::unlock(&damaged, &source), Err(VaultError::RecordKeyDamaged { epoch: 1 })));
    drop(keyring);
}

#[test]
fn a_header_of_an_unknown_version_or_against_itself_is_refused() {
    let (source, _, header) = created();
    let mut newer = header.encode();
    newer[0] = 2;
    let error = KeyHeader::decode(&newer).expect_err("it is of format 3").to_string();
    assert!(error.contains("has format 3, this bearerd knows formats 1 and 2"), "{error}");
    assert!(matches!(KeyHeader::decode(&[]), Err(VaultError::HeaderMalformed { .. })));

    let key = header.record_keys[0].clone();
    let slot = header.slots[0].clone();
    for wrong in [
        KeyHeader { slots: vec![], ..header.clone() },
        KeyHeader { slots: vec![slot; 17], ..header.clone() },
        KeyHeader { record_keys: vec![], ..header.clone() },
        KeyHeader { record_keys: vec![key.clone(), key], ..header.clone() },
        KeyHeader { record_epoch: 2, ..header.clone() },
    ] {
        assert!(matches!(KeyHeader::decode(&wrong.encode()), Err(VaultError::HeaderMalformed { .. })));
        assert!(matches!(Keyring::unlock(&wrong, &source), Err(VaultError::HeaderMalformed { .. })));
    }
}

// Changes of the header.

#[test]
fn a_new_key_is_added_before_the_old_one_goes() {
    let (source, keyring, header) = created();
    let [new, third, recovery] = [0x43, 0x44, 0x45].map(|byte| KeySource::of_bytes([byte; 32]));
    let recovery = KeySource::of_key(SlotKind::Recovery, "paper".into(), recovery.again().unwrap().into_key());
    let opens = |header: &KeyHeader, source: &KeySource| {
        let header = KeyHeader::decode(&header.encode()).unwrap();
        Keyring::unlock(&header, source).is_ok_and(|again| again.digest_key() == keyring.digest_key())
    };
    let header = header.with_recovery(&source, &recovery, NOW).unwrap();
    assert!(opens(&header, &source) && opens(&header, &recovery) && header.installing.is_none());
    let both = header.install(&source, &new, NOW).unwrap();
    assert_eq!(both.installing, Some(new.id()));
    assert!([&source, &new, &recovery].iter().all(|key| opens(&both, key)));
    // Another takes its place; taking back and settling leave the recovery key alone.
    let another = both.install(&source, &third, NOW).unwrap();
    assert_eq!(both.dropped_in(&another), [new.id()]);
    assert!(!opens(&another, &new) && opens(&another, &third));
    assert_eq!(both.take_back(), header);
    let settled = both.settle();
    assert_eq!(both.dropped_in(&settled), [source.id()]);
    assert!(!opens(&settled, &source) && opens(&settled, &new) && opens(&settled, &recovery));
    // By a key that opens nothing, nothing is added.
    assert!(matches!(settled.install(&source, &third, NOW), Err(VaultError::NoSlotOpens { .. })));
    // A recovery key takes the place of the one before, and opens the way for a new file.
    let other = KeySource::of_key(SlotKind::Recovery, "paper".into(), third.into_key());
    let replaced = settled.with_recovery(&new, &other, NOW).unwrap();
    assert_eq!(settled.dropped_in(&replaced), [recovery.id()]);
    assert!(!opens(&replaced, &recovery) && opens(&replaced, &other));
    let recovered = replaced.install(&other, &source, NOW).unwrap().settle();
    assert!(opens(&recovered, &source) && opens(&recovered, &other) && !opens(&recovered, &new));
}

#[test]
fn a_header_with_a_key_being_installed_is_strict() {
    let (source, _, header) = created();
    let new = KeySource::of_bytes([0x43; 32]);
    let both = header.install(&source, &new, NOW).unwrap();
    assert_eq!(both.encode()[0], 1, "an older version refuses what it would not finish");
    assert_eq!(both.settle().encode()[0], 0);
    for wrong in [
        KeyHeader { installing: Some(KeyId([9; 8])), ..both.clone() },
        KeyHeader { slots: vec![both.slots[1].clone()], ..both.clone() },
        KeyHeader { slots: vec![both.slots[1].clone(), both.slots[1].clone()], ..both.clone() },
        KeyHeader { slots: vec![both.slots[0].clone(), both.slots[0].clone()], installing: None, ..both.clone() },
    ] {
        assert!(matches!(KeyHeader::decode(&wrong.encode()), Err(VaultError::HeaderMalformed { .. })));
    }
}

#[test]
fn a_record_key_is_added_put_in_force_and_left_alone() {
    let (source, keyring, header) = created();
    let old = keyring.seal("tokens", b"id", b"v");
    let (both, new) = header.with_new_record_key(&source).unwrap();
    assert_eq!((new.epoch(), both.record_epoch, keyring.epoch()), (2, 2, 1));
    // Not before it is said to be durable.
    assert!(keyring.is_current(&keyring.seal("tokens", b"id", b"v")));
    assert_eq!(keyring.seal("tokens", b"id", b"v")[1], 1);
    keyring.put_in_force(new);
    let anew = keyring.seal("tokens", b"id", b"v");
    assert!(anew[1] == 2 && keyring.is_current(&anew) && !keyring.is_current(&old) && !keyring.is_current(b"x"));
    for sealed in [&old, &anew] {
        assert_eq!(*keyring.open("tokens", b"id", sealed).unwrap(), b"v");
    }
    // As a start finds it, half way and at the end.
    let half = Keyring::unlock(&both, &source).unwrap();
    assert!(half.epoch() == 2 && half.open("tokens", b"id", &old).is_ok() && half.open("tokens", b"id", &anew).is_ok());
    let done = Keyring::unlock(&both.with_last_record_key(), &source).unwrap();
    assert!(done.open("tokens", b"id", &anew).is_ok());
    assert!(matches!(done.open("tokens", b"id", &old), Err(VaultError::UnknownEpoch { epoch: 1, .. })));
    // Sealing anew twice in one run: what was two keys ago is in memory no more.
    let (_, third) = both.with_last_record_key().with_new_record_key(&source).unwrap();
    keyring.put_in_force(third);
    assert!(keyring.open("tokens", b"id", &anew).is_ok() && keyring.open("tokens", b"id", &old).is_err());
}

#[test]
fn a_successor_takes_the_key_files_name() {
    let (dir, path) = key_dir();
    let old = KeySource::create_file(&path).unwrap();
    let read = || KeySource::from_file(&path, me()).unwrap().unwrap();
    let new = KeySource::random(SlotKind::File, old.origin()).unwrap();
    assert!(KeySource::successor(&path, me()).unwrap().is_none());
    KeySource::remove_successor(&path).unwrap();
    // One that was left there goes.
    old.write_successor(&path).unwrap();
    new.write_successor(&path).unwrap();
    let beside = KeySource::successor(&path, me()).unwrap().unwrap();
    assert_eq!((beside.id(), beside.origin()), (new.id(), old.origin()));
    assert_eq!(read().id(), old.id());
    assert_eq!(fs::metadata(dir.path().join("master.key.new")).unwrap().mode() & 0o7777, 0o600);
    // The old file's own bytes are overwritten: whoever still has it open reads no key.
    let mut still_open = fs::File::open(&path).unwrap();
    KeySource::install_successor(&path).unwrap();
    assert_eq!(read().id(), new.id());
    let mut left = Vec::new();
    std::io::Read::read_to_end(&mut still_open, &mut left).unwrap();
    assert_eq!(left, [0; 96]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(KeySource::install_successor(&path).is_err() && read().id() == new.id());
    // The line that is handed out is the file's.
    assert_eq!(*new.line(), fs::read_to_string(&path).unwrap().trim_end());
}

proptest! {
    #[test]
    fn a_header_has_one_encoding(
        store_id: [u8; 16],
        slots in prop::collection::vec((any::<[u8; 8]>(), 0..3usize, 0..=UnixTime::MAX.as_micros(), any::<[u8; 32]>()), 1..16),
        epochs in prop::collection::btree_set(any::<u32>(), 1..8),
        last: bool,
    ) {
        let kinds = [SlotKind::File, SlotKind::Credential, SlotKind::Recovery];
        let wrapped = |key| WrappedKey { nonce: [3; 24], key, tag: [4; 16] };
        let header = KeyHeader {
            store_id,
            slots: slots.into_iter().map(|(id, kind, at, key)| KeySlot {
                id: KeyId(id), kind: kinds[kind], created_at: UnixTime::from_micros(at), root: wrapped(key),
            }).collect(),
            record_epoch: *if last { epochs.last() } else { epochs.first() }.unwrap(),
            record_keys: epochs.iter().map(|&epoch| WrappedRecordKey { epoch, key: wrapped([5; 32]) }).collect(),
            installing: None,
        };
        let ids: std::collections::BTreeSet<_> = header.slots.iter().map(|slot| slot.id).collect();
        prop_assume!(ids.len() == header.slots.len());
        let being_installed = header.slots.iter().find(|slot| slot.kind != SlotKind::Recovery && ids.len() > 1);
        let header = KeyHeader { installing: being_installed.filter(|_| last).map(|slot| slot.id), ..header };
        let bytes = header.encode();
        prop_assert_eq!(KeyHeader::decode(&bytes).unwrap(), header);
    }

    #[test]
    fn no_bytes_make_the_decoders_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(header) = KeyHeader::decode(&bytes) {
            prop_assert_eq!(header.encode(), bytes.clone());
        }
        let (_, keyring, _) = created();
        prop_assert!(keyring.open("t", b"k", &bytes).is_err());
    }
}

// Sources.

#[test]
fn a_made_key_file_is_private_and_read_again() {
    let (dir, path) = key_dir();
    assert!(KeySource::from_file(&path, me()).unwrap().is_none());
    let made = KeySource::create_file(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(&format!("bearerd-key-1 {} ", made.id())) && text.ends_with('\n'));
    assert_eq!(text.len(), 96);

    let read = KeySource::from_file(&path, me()).unwrap().unwrap();
    assert_eq!((read.id(), read.kind()), (made.id(), SlotKind::File));
    assert_eq!(read.origin(), path.display().to_string());
    assert_eq!(read.key().expose(), made.key().expose());
    // Without its line feed, as an editor or a credential may leave it.
    write_key(&path, text.trim_end());
    assert_eq!(KeySource::from_file(&path, me()).unwrap().unwrap().id(), made.id());

    assert!(matches!(KeySource::create_file(&path), Err(VaultError::File(FileError::Exists { .. }))));
    assert_eq!(fs::read_to_string(&path).unwrap(), text.trim_end(), "never over an existing file");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file with a key stays behind");
    let other = KeySource::create_file(&dir.path().join("other.key")).unwrap();
    assert_ne!(other.id(), made.id());
}

#[test]
fn a_key_file_that_others_may_reach_is_refused() {
    let (dir, path) = key_dir();
    KeySource::create_file(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = KeySource::from_file(&path, me()).err().expect("the group may read it").to_string();
    assert!(error.contains("has mode 0640; it must be 0600: chmod 0600"), "{error}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();

    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let error = KeySource::from_file(&path, me()).err().expect("others may look in").to_string();
    assert!(error.contains("has mode 0755; it must be 0700: chmod 0700"), "{error}");
    let fresh = dir.path().join("fresh");
    assert!(matches!(KeySource::create_file(&fresh), Err(VaultError::File(FileError::WrongMode { .. }))));
    assert!(!fresh.exists());
    let missing = KeySource::create_file(&dir.path().join("none/master.key"));
    assert!(matches!(missing, Err(VaultError::File(FileError::Missing { .. }))));

    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(KeySource::from_file(&link, me()), Err(VaultError::File(FileError::Link { .. }))));
    if !nix::unistd::geteuid().is_root() {
        assert!(matches!(KeySource::from_file(&path, me() + 1), Err(VaultError::File(FileError::WrongOwner { .. }))));
    }
}

#[test]
fn a_mistyped_key_is_found_and_never_shown() {
    let (_dir, path) = key_dir();
    KeySource::create_file(&path).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    let secret = &good[31..95];
    let read = |text: &str| {
        write_key(&path, text);
        let error = KeySource::from_file(&path, me()).err().expect("it is no key");
        let message = error.to_string();
        assert!(message.starts_with(path.to_str().unwrap()), "{message}");
        for shown in [message, format!("{error:?}")] {
            assert!(!shown.contains(&secret[..16]) && !shown.contains(&secret[48..]), "{shown}");
        }
        error
    };
    // Any other digit anywhere in id or key.
    for at in (14..30).chain(31..95) {
        let mut typed = good.clone();
        typed.replace_range(at..=at, if &good[at..=at] == "0" { "1" } else { "0" });
        assert!(matches!(read(&typed), VaultError::WrongKeyId { .. }), "column {at}");
    }
    // Any other form, at each place of the line.
    for at in 0..95 {
        let mut typed = good.clone();
        typed.replace_range(at..=at, "g");
        assert!(matches!(read(&typed), VaultError::Malformed { .. }), "column {at}");
        assert!(matches!(read(&good[..at]), VaultError::Malformed { .. } | VaultError::UnknownKeyVersion { .. }));
    }
    for wrong in
        ["", "\n", &format!("{good}\n"), &format!(" {good}"), &good.repeat(2), &good.to_uppercase(), &"x".repeat(5000)]
    {
        assert!(matches!(read(wrong), VaultError::Malformed { .. }), "{wrong:?}");
    }
    assert!(read("key").to_string().contains("one line `bearerd-key-1 <id, 16 hex digits> <key, 64 hex digits>`"));
    let newer = read(&good.replacen("key-1 ", "key-2 ", 1));
    assert!(matches!(newer, VaultError::UnknownKeyVersion { .. }), "{newer}");
}

#[test]
fn the_credential_goes_before_the_file_and_no_source_is_an_error() {
    let (dir, path) = key_dir();
    let credentials = dir.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    let error = KeySource::find(Some(&credentials), &path, me()).err().expect("there is no key").to_string();
    assert!(
        error.contains("neither the systemd credential bearerd.master-key nor") && error.contains("master.key"),
        "{error}"
    );
    assert!(KeySource::from_credential(&credentials).unwrap().is_none());

    let file = KeySource::create_file(&path).unwrap();
    assert_eq!(KeySource::find(Some(&credentials), &path, me()).unwrap().id(), file.id());
    assert_eq!(KeySource::find(None, &path, me()).unwrap().kind(), SlotKind::File);

    let other = dir.path().join("other.key");
    let credential = KeySource::create_file(&other).unwrap();
    let installed = credentials.join(CREDENTIAL);
    fs::rename(&other, &installed).unwrap();
    // As systemd gives it: 0400, or 0440 where the group bits are an ACL's mask; or put there by hand.
    for mode in [0o400, 0o440, 0o600] {
        fs::set_permissions(&installed, fs::Permissions::from_mode(mode)).unwrap();
        let found = KeySource::find(Some(&credentials), &path, me()).unwrap();
        assert_eq!((found.id(), found.kind()), (credential.id(), SlotKind::Credential));
        assert_eq!(found.origin(), "credential bearerd.master-key");
    }
    // A credential that is no key is refused, not passed over.
    fs::set_permissions(&installed, fs::Permissions::from_mode(0o444)).unwrap();
    assert!(matches!(
        KeySource::find(Some(&credentials), &path, me()),
        Err(VaultError::File(FileError::WrongMode { .. }))
    ));
    write_key(&installed, "bearerd");
    fs::set_permissions(&installed, fs::Permissions::from_mode(0o400)).unwrap();
    let error = KeySource::find(Some(&credentials), &path, me()).err().expect("it is no key").to_string();
    assert!(error.starts_with("credential bearerd.master-key is not a key"), "{error}");
}

#[test]
fn a_slot_made_for_the_file_opens_with_the_same_key_as_credential() {
    let (dir, path) = key_dir();
    let file = KeySource::create_file(&path).unwrap();
    let (_, header) = Keyring::create(&file, NOW).unwrap();
    let installed = dir.path().join(CREDENTIAL);
    fs::rename(&path, &installed).unwrap();
    fs::set_permissions(&installed, fs::Permissions::from_mode(0o400)).unwrap();
    let credential = KeySource::from_credential(dir.path()).unwrap().unwrap();
    let keyring = Keyring::unlock(&header, &credential).unwrap();
    assert_eq!(keyring.slot().kind, SlotKind::Credential);
}

#[test]
fn a_keyring_is_shared_between_threads() {
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Keyring>();
    is_send_and_sync::<KeySource>();
}

// Files of every released version open (I9): these bytes are never made anew.

#[test]
fn the_stored_forms_are_pinned() {
    let file = include_str!("../../tests/vectors/vault.tsv");
    let vector = |name: &str| {
        let found = file.lines().find_map(|line| line.split_once('\t').filter(|(key, _)| *key == name));
        found.unwrap_or_else(|| panic!("no vector {name}")).1
    };
    let (_dir, path) = key_dir();
    write_key(&path, vector("key file"));
    let source = KeySource::from_file(&path, me()).unwrap().unwrap();
    assert_eq!(source.id().to_string(), vector("key id"));
    let header = KeyHeader::decode(&hex(vector("header"))).unwrap();
    assert_eq!(header.slots[0].created_at, NOW);
    assert_eq!(header.record_epoch, 2);
    let keyring = Keyring::unlock(&header, &source).unwrap();
    assert_eq!(keyring.digest_key()[..], hex(vector("digest key")));
    assert_eq!(keyring.audit_key().expose()[..], hex(vector("audit key")));
    assert_eq!(keyring.index("subject", b"alice")[..], hex(vector("index subject alice")));
    let both = KeyHeader::decode(&hex(vector("header, a key being installed"))).unwrap();
    assert_eq!(both.installing.unwrap().to_string(), OTHER_ID);
    assert_eq!(both.take_back(), header);
    assert_eq!(Keyring::unlock(&both, &KeySource::of_bytes([0x43; 32])).unwrap().digest_key(), keyring.digest_key());
    for (name, plain) in [("sealed epoch 1", "the first"), ("sealed epoch 2", "the second")] {
        assert_eq!(*keyring.open("tokens", &[0x11; 16], &hex(vector(name))).unwrap(), plain.as_bytes());
    }
}
