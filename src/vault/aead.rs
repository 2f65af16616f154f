//! Sealing with XChaCha20-Poly1305: values of the store, and keys under keys.
//!
//! A sealed value:
//!
//! ```text
//! version u8 = 1 | epoch u32 LE | nonce 24 | ciphertext, as long as the plain text | tag 16
//! ```
//!
//! Its associated data binds it to its place, so that a value moved to another key, table or store does not open:
//!
//! ```text
//! table length u32 LE | table | key length u32 LE | key | version u8 | epoch u32 LE | store id 16
//! ```
//!
//! **Why no nonce repeats**: each is 192 bits from the operating system's generator. Among n values under one key the
//! chance of any repetition is below n² / 2^193: for 2^64 of them, a million a second for 500,000 years, one in 2^65.
//! A counter would be shorter, but would have to survive what the store does not promise: a restored backup would count
//! again from where it was, and seal other data under nonces that were used.

use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::VaultError;
use super::header::WrappedKey;
use crate::sys::memory::LockedKey;
use crate::token::random;

/// The format of sealed values that is written, and the only one that is read.
pub(super) const VERSION: u8 = 1;
/// Bytes of the number of the record key.
const EPOCH_BYTES: usize = 4;
/// Bytes of a nonce.
pub(super) const NONCE_BYTES: usize = 24;
/// Bytes of a tag.
pub(super) const TAG_BYTES: usize = 16;
/// Where the nonce begins.
const NONCE_AT: usize = 1 + EPOCH_BYTES;
/// Where the ciphertext begins.
const TEXT_AT: usize = NONCE_AT + NONCE_BYTES;

/// The place of a value, which is sealed with it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) store_id: &'a [u8; 16],
    pub(super) table: &'a str,
    pub(super) key: &'a [u8],
}

/// Seals `plain` for its place under the record key of `epoch`. One allocation; `plain` is copied once.
pub(super) fn seal(record_key: &LockedKey, epoch: u32, place: Place<'_>, plain: &[u8]) -> Vec<u8> {
    let mut nonce = [0; NONCE_BYTES];
    random(&mut nonce);
    let mut sealed = Vec::with_capacity(TEXT_AT + plain.len() + TAG_BYTES);
    sealed.push(VERSION);
    sealed.extend_from_slice(&epoch.to_le_bytes());
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let tag = with_associated_data(epoch, place, |data| encrypt(record_key, &nonce, data, &mut sealed[TEXT_AT..]));
    sealed.extend_from_slice(&tag);
    sealed
}

/// The number of the record key that `sealed` needs.
pub(super) fn epoch_of(place: Place<'_>, sealed: &[u8]) -> Result<u32, VaultError> {
    match sealed.first() {
        Some(&VERSION) if sealed.len() >= TEXT_AT + TAG_BYTES => {
            let epoch = sealed[1..NONCE_AT].try_into().expect("NONCE_AT is EPOCH_BYTES behind 1");
            Ok(u32::from_le_bytes(epoch))
        }
        Some(&VERSION) | None => Err(does_not_open(place)),
        Some(&format) => Err(VaultError::UnknownVersion { table: place.table.to_owned(), format }),
    }
}

/// The same where nothing needs to be said of a value that states none.
pub(super) fn stated_epoch(sealed: &[u8]) -> Option<u32> {
    let (version, rest) = sealed.split_first()?;
    (*version == VERSION).then_some(())?;
    rest.first_chunk::<EPOCH_BYTES>().map(|epoch| u32::from_le_bytes(*epoch))
}

/// Opens a value that [`epoch_of`] has looked at. One allocation, wiped when it is dropped.
pub(super) fn open(
    record_key: &LockedKey,
    epoch: u32,
    place: Place<'_>,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let split = || {
        let (rest, tag) = sealed.split_last_chunk::<TAG_BYTES>()?;
        let (nonce, text) = rest.get(NONCE_AT..)?.split_first_chunk::<NONCE_BYTES>()?;
        Some((nonce, text, tag))
    };
    let (nonce, text, tag) = split().ok_or_else(|| does_not_open(place))?;
    let mut plain = Zeroizing::new(text.to_vec());
    let sound = with_associated_data(epoch, place, |data| decrypt(record_key, nonce, data, &mut plain, tag));
    if sound { Ok(plain) } else { Err(does_not_open(place)) }
}

/// Wraps `key` under another. `data` says what it is and where it belongs.
pub(super) fn wrap(under: &LockedKey, data: &[u8], key: &LockedKey) -> WrappedKey {
    let mut nonce = [0; NONCE_BYTES];
    random(&mut nonce);
    let mut wrapped = WrappedKey { nonce, key: [0; 32], tag: [0; TAG_BYTES] };
    // Where it is encrypted, so that no copy stays on the stack.
    wrapped.key.copy_from_slice(key.expose());
    wrapped.tag = encrypt(under, &nonce, data, &mut wrapped.key);
    wrapped
}

/// Unwraps a key in place, in locked memory; `Ok(None)` when it does not open.
pub(super) fn unwrap(under: &LockedKey, data: &[u8], wrapped: &WrappedKey) -> Result<Option<LockedKey>, VaultError> {
    let mut sound = false;
    let key = LockedKey::new(|key| {
        *key = wrapped.key;
        sound = decrypt(under, &wrapped.nonce, data, key, &wrapped.tag);
    })?;
    Ok(sound.then_some(key))
}

/// Builds the associated data, on the stack for every key that the store uses.
fn with_associated_data<T>(epoch: u32, place: Place<'_>, run: impl FnOnce(&[u8]) -> T) -> T {
    let (table, key) = (place.table.as_bytes(), place.key);
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("names and keys are far below 4 GiB").to_le_bytes();
    let parts: [&[u8]; 7] =
        [&length(table), table, &length(key), key, &[VERSION], &epoch.to_le_bytes(), place.store_id];
    let total = parts.iter().map(|part| part.len()).sum();
    let mut stack = [0; 192];
    let mut heap = Vec::new();
    let data = match stack.get_mut(..total) {
        Some(data) => data,
        None => {
            heap.resize(total, 0);
            &mut heap[..]
        }
    };
    let mut at = 0;
    for part in parts {
        data[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    run(data)
}

/// The cipher is built for each call and wipes its copy of the key when it is dropped: between calls the key is in
/// locked memory only.
fn cipher(key: &LockedKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(key.expose().into())
}

fn encrypt(key: &LockedKey, nonce: &[u8; NONCE_BYTES], data: &[u8], text: &mut [u8]) -> [u8; TAG_BYTES] {
    let tag = cipher(key).encrypt_inout_detached(<&XNonce>::from(nonce), data, text.into());
    tag.expect("a value is below the 256 GiB that one nonce serves").into()
}

/// Decrypts in place. When the tag does not fit, `text` stays as it is: ciphertext.
fn decrypt(key: &LockedKey, nonce: &[u8; NONCE_BYTES], data: &[u8], text: &mut [u8], tag: &[u8; TAG_BYTES]) -> bool {
    cipher(key).decrypt_inout_detached(nonce.into(), data, text.into(), tag.into()).is_ok()
}

fn does_not_open(place: Place<'_>) -> VaultError {
    let mut key = String::with_capacity(2 * place.key.len());
    for byte in place.key {
        key.push_str(&format!("{byte:02x}"));
    }
    VaultError::DoesNotOpen { table: place.table.to_owned(), key }
}
