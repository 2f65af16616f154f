//! A simulated disk under the real engine, and what else the tests of the store share.
//!
//! The disk keeps what was written since the last sync apart from what is durable, runs out of space, fails where it is
//! told to, and stops inside a sync until it is let go. Its log of writes and syncs is what crash images are cut from.
#![allow(dead_code, unreachable_pub, reason = "shared by test binaries that use a part of it each")]

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use bearerd::scope::ScopeSet;
use bearerd::store::record::{Ending, TokenRecord};
use bearerd::store::{Boot, Disk, FileOptions, SealBroken, Sealer, Store, StoreError, StoreFile, StoreOptions};
use bearerd::time::{Clock, UnixTime, manual::ManualTime};
use bearerd::token::{Digest, Kind, TokenId};
use zeroize::Zeroizing;

const BLOCK: u64 = 4096;
const SECTOR: usize = 512;

/// One thing that the engine did to the disk.
#[derive(Clone, Debug)]
pub enum Event {
    /// Bytes at an offset.
    Write(u64, Vec<u8>),
    /// A new length.
    SetLen(u64),
    /// All of the above are durable.
    Sync,
}

/// What is to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fail {
    /// Reads fail with EIO.
    Read,
    /// Writes fail with EIO.
    Write,
    /// Writes fail with ENOSPC.
    WriteFull,
    /// Writes are done, and fail all the same.
    WriteDone,
    /// Syncs fail with EIO.
    Sync,
}

struct State {
    bytes: Vec<u8>,
    log: Vec<Event>,
    /// Which blocks are allocated, and how many.
    blocks: Vec<bool>,
    taken: u64,
    capacity: u64,
    /// What the file system says is free, if that is not true: a quota, or another program that is quicker.
    claimed: Option<u64>,
    locked: bool,
    /// What fails, and how many calls of the kind go well before; once, then it is over.
    fail: Option<(Fail, u32)>,
    hold_syncs: bool,
    in_sync: bool,
    syncs: u64,
    bytes_read: u64,
}

/// The medium; each opening of it is a [`Handle`].
#[derive(Clone)]
pub struct SimDisk(Arc<(Mutex<State>, Condvar)>);

/// One opening: holds the lock until it is dropped.
pub struct Handle {
    disk: SimDisk,
    holds_lock: AtomicBool,
}

impl SimDisk {
    /// An empty disk with as much space as one wants.
    pub fn new() -> Self {
        Self::of(Vec::new())
    }

    /// A disk with these bytes on it.
    pub fn of(bytes: Vec<u8>) -> Self {
        let blocks = vec![true; bytes.len().div_ceil(BLOCK as usize)];
        let state = State {
            bytes,
            log: Vec::new(),
            taken: blocks.len() as u64,
            blocks,
            capacity: 1 << 40,
            claimed: None,
            locked: false,
            fail: None,
            hold_syncs: false,
            in_sync: false,
            syncs: 0,
            bytes_read: 0,
        };
        Self(Arc::new((Mutex::new(state), Condvar::new())))
    }

    /// Opens it.
    pub fn handle(&self) -> Arc<Handle> {
        Arc::new(Handle { disk: self.clone(), holds_lock: AtomicBool::new(false) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    /// What is on it, written or synced.
    pub fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// Everything that was done so far.
    pub fn log(&self) -> Vec<Event> {
        self.state().log.clone()
    }

    /// How much was done so far.
    pub fn log_len(&self) -> usize {
        self.state().log.len()
    }

    /// Syncs so far, failed ones too.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Another program takes everything but so many bytes; gives it back with a large number.
    pub fn leave_free(&self, bytes: u64) {
        let mut state = self.state();
        state.capacity = state.taken * BLOCK + bytes;
    }

    /// The file system says that so much is free, whatever is true.
    pub fn claim_free(&self, bytes: u64) {
        self.state().claimed = Some(bytes);
    }

    /// After `after` more calls of its kind, one fails.
    pub fn fail(&self, fail: Fail, after: u32) {
        self.state().fail = Some((fail, after));
    }

    /// Whether what was to fail has failed; if not, it will not any more.
    pub fn has_failed(&self) -> bool {
        self.state().fail.take().is_none()
    }

    /// The next sync stops inside until [`Self::release`].
    pub fn hold_syncs(&self) {
        self.state().hold_syncs = true;
    }

    /// Waits until the writer is inside a sync.
    pub fn wait_for_sync(&self) {
        let mut state = self.state();
        while !state.in_sync {
            state = self.0.1.wait(state).unwrap();
        }
    }

    /// Waits until so many syncs have been begun since the disk was made.
    pub fn wait_for_syncs(&self, count: u64) {
        let mut state = self.state();
        while state.syncs < count {
            state = self.0.1.wait(state).unwrap();
        }
    }

    /// Bytes that were read so far.
    pub fn bytes_read(&self) -> u64 {
        self.state().bytes_read
    }

    /// Lets held syncs go on.
    pub fn release(&self) {
        self.state().hold_syncs = false;
        self.0.1.notify_all();
    }
}

impl State {
    fn fails(&mut self, kind: &[Fail]) -> Option<Fail> {
        match &mut self.fail {
            Some((fail, 0)) if kind.contains(fail) => self.fail.take().map(|(fail, _)| fail),
            Some((fail, after)) if kind.contains(fail) => {
                *after -= 1;
                None
            }
            _ => None,
        }
    }

    fn take_blocks(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let end = (offset + len).div_ceil(BLOCK) as usize;
        if self.blocks.len() < end {
            self.blocks.resize(end, false);
        }
        for block in &mut self.blocks[(offset / BLOCK) as usize..end] {
            if !*block {
                if (self.taken + 1) * BLOCK > self.capacity {
                    return Err(io::Error::from_raw_os_error(ENOSPC));
                }
                (*block, self.taken) = (true, self.taken + 1);
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("simulated disk")
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if *self.holds_lock.get_mut() {
            self.disk.state().locked = false;
        }
    }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

impl Disk for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        if state.fails(&[Fail::Read]).is_some() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        state.bytes_read += out.len() as u64;
        let there = state.bytes.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let fails = state.fails(&[Fail::Write, Fail::WriteFull, Fail::WriteDone]);
        match fails {
            Some(Fail::WriteFull) => return Err(io::Error::from_raw_os_error(ENOSPC)),
            Some(Fail::Write) => return Err(io::Error::from_raw_os_error(EIO)),
            _ => {}
        }
        state.take_blocks(offset, data.len() as u64)?;
        let range = offset as usize..offset as usize + data.len();
        state.bytes.get_mut(range).expect("the engine writes inside the file").copy_from_slice(data);
        state.log.push(Event::Write(offset, data.to_vec()));
        fails.map_or(Ok(()), |_| Err(io::Error::from_raw_os_error(EIO)))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        assert!(len >= state.bytes.len() as u64, "the file is never made shorter");
        state.bytes.resize(len as usize, 0);
        state.log.push(Event::SetLen(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.syncs += 1;
        self.disk.0.1.notify_all();
        while state.hold_syncs {
            state.in_sync = true;
            self.disk.0.1.notify_all();
            state = self.disk.0.1.wait(state).unwrap();
        }
        state.in_sync = false;
        if state.fails(&[Fail::Sync]).is_some() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        state.log.push(Event::Sync);
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.state().take_blocks(offset, len)
    }

    fn available(&self) -> io::Result<u64> {
        let state = self.disk.state();
        Ok(state.claimed.unwrap_or(state.capacity.saturating_sub(state.taken * BLOCK)))
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut state = self.disk.state();
        if state.locked {
            return Ok(false);
        }
        state.locked = true;
        self.holds_lock.store(true, Ordering::SeqCst);
        Ok(true)
    }

    fn unlock(&self) -> io::Result<()> {
        if self.holds_lock.swap(false, Ordering::SeqCst) {
            self.disk.state().locked = false;
        }
        Ok(())
    }
}

/// A small generator: the same numbers from the same seed, for ever.
pub struct Random(pub u64);

impl Random {
    /// The next number (splitmix64).
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Lost {
    /// Nothing is lost: the process was killed.
    Nothing,
    /// All of it.
    Everything,
    /// Each sector and each change of the length with an even chance.
    Random(u64),
}

/// The disk after `done` were followed by a crash, from `base`.
pub fn crash_image(base: &[u8], done: &[Event], lost: Lost) -> Vec<u8> {
    let synced = done.iter().rposition(|event| matches!(event, Event::Sync)).map_or(0, |at| at + 1);
    let mut image = base.to_vec();
    for event in &done[..synced] {
        apply(&mut image, event, &mut || true);
    }
    unsynced(&mut image, &done[synced..], lost);
    image
}

/// Does to `image` what a crash leaves of `events`, none of them synced.
pub fn unsynced(image: &mut Vec<u8>, events: &[Event], lost: Lost) {
    let mut random = Random(match lost {
        Lost::Random(seed) => seed,
        _ => 0,
    });
    for event in events {
        apply(image, event, &mut || match lost {
            Lost::Nothing => true,
            Lost::Everything => false,
            Lost::Random(_) => random.below(2) == 0,
        });
    }
}

/// Does one event to an image, as far as each of its sectors is kept.
pub fn apply(image: &mut Vec<u8>, event: &Event, keep: &mut dyn FnMut() -> bool) {
    match event {
        Event::Write(offset, data) => {
            let (mut at, mut rest) = (*offset as usize, data.as_slice());
            while !rest.is_empty() {
                let (sector, more) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
                // What lies past the end, because the length was lost, is lost.
                if keep() && at + sector.len() <= image.len() {
                    image[at..at + sector.len()].copy_from_slice(sector);
                }
                (at, rest) = (at + sector.len(), more);
            }
        }
        Event::SetLen(len) => {
            if keep() {
                image.resize(*len as usize, 0);
            }
        }
        Event::Sync => {}
    }
}

/// Seals with BLAKE3: a keystream over a counted nonce, and a MAC over place and ciphertext.
pub struct TestSealer {
    key: [u8; 32],
    nonce: AtomicU64,
}

impl TestSealer {
    /// With a key of `seed`.
    pub fn new(seed: u8) -> Arc<Self> {
        Arc::new(Self { key: [seed; 32], nonce: AtomicU64::new(0) })
    }

    fn stream(&self, nonce: &[u8], data: &mut [u8]) {
        let mut stream = vec![0; data.len()];
        blake3::Hasher::new_keyed(&self.key).update(b"stream").update(nonce).finalize_xof().fill(&mut stream);
        data.iter_mut().zip(stream).for_each(|(byte, with)| *byte ^= with);
    }

    fn mac(&self, table: &str, key: &[u8], body: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(b"mac").update(&(table.len() as u64).to_le_bytes()).update(table.as_bytes());
        *hasher.update(&(key.len() as u64).to_le_bytes()).update(key).update(body).finalize().as_bytes()
    }
}

impl Sealer for TestSealer {
    fn seal(&self, table: &str, key: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut body = self.nonce.fetch_add(1, Ordering::Relaxed).to_le_bytes().to_vec();
        body.extend_from_slice(plain);
        let (nonce, data) = body.split_at_mut(8);
        self.stream(nonce, data);
        let mac = self.mac(table, key, &body);
        body.extend_from_slice(&mac[..16]);
        body
    }

    fn open(&self, table: &str, key: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealBroken> {
        let (body, mac) = sealed.split_last_chunk::<16>().ok_or(SealBroken)?;
        if self.mac(table, key, body)[..16] != mac[..] {
            return Err(SealBroken);
        }
        let (nonce, data) = body.split_first_chunk::<8>().ok_or(SealBroken)?;
        let mut plain = Zeroizing::new(data.to_vec());
        self.stream(nonce, &mut plain);
        Ok(plain)
    }

    fn index(&self, tag: &str, value: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(b"index").update(tag.as_bytes()).update(&[0]).update(value);
        hasher.finalize().as_bytes()[..16].try_into().unwrap()
    }
}

/// When the tests begin.
pub const START: UnixTime = UnixTime::from_secs(1_800_000_000);

/// A clock that stands at [`START`].
pub fn clock() -> Arc<Clock> {
    Arc::new(Clock::new(Box::new(ManualTime::new(START)), None))
}

/// Options under which nothing is written but what a test asks for.
pub fn quiet() -> StoreOptions {
    let never = Duration::from_secs(86_400);
    StoreOptions { usage_interval: never, seal_interval: never, mark_interval: never, ..StoreOptions::default() }
}

/// What the header of the test stores is.
pub const HEADER: &[u8] = b"key slots";

/// A new store on this disk.
pub fn create(disk: &SimDisk) -> Store {
    create_with(disk, quiet())
}

/// A new store with these options.
pub fn create_with(disk: &SimDisk, options: StoreOptions) -> Store {
    let file = StoreFile::on(disk.handle(), FileOptions::default()).unwrap();
    assert!(file.is_new());
    Store::create(file, HEADER, TestSealer::new(1), clock(), options).unwrap()
}

/// Opens the store on this disk.
pub fn open(disk: &SimDisk) -> Result<(Store, Boot), StoreError> {
    open_with(disk, quiet())
}

/// Opens it with these options.
pub fn open_with(disk: &SimDisk, options: StoreOptions) -> Result<(Store, Boot), StoreError> {
    // A small cache of the engine's, so that reads reach the disk.
    let file = StoreFile::on(disk.handle(), FileOptions { cache_bytes: 64 << 10, check: false })?;
    Store::open(file, TestSealer::new(1), clock(), options)
}

/// The n-th id: spread over the slots, growing with `n`.
pub fn id(n: u64) -> TokenId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(START.as_micros() + n).to_be_bytes());
    bytes[8..].copy_from_slice(&Random(n).next().to_be_bytes());
    TokenId::from_bytes(bytes)
}

/// The n-th token, a day good; every third one has labels, and four people share them.
pub fn token(n: u64) -> TokenRecord {
    let owner = format!("user{}", n % 4);
    let expires_at = Some(START.saturating_add(Duration::from_secs(86_400 + n)));
    let mut labels = BTreeMap::new();
    if n.is_multiple_of(3) {
        labels.insert("team".to_owned(), format!("t{}", n % 2));
        labels.insert("env".to_owned(), "prod".to_owned());
    }
    TokenRecord {
        version: 1,
        order: 0,
        id: id(n),
        kind: Kind::Machine,
        prefix: Some("brd".to_owned()),
        digest: Digest([n as u8; 32]),
        name: format!("token {n}"),
        subject: owner.clone(),
        subject_uid: None,
        issuer: owner,
        issuer_uid: 1000 + (n % 4) as u32,
        scopes: ScopeSet::default(),
        audiences: Vec::new(),
        issued_at: START,
        not_before: None,
        expires_at,
        max_expires_at: expires_at,
        ttl: Some(Duration::from_secs(86_400)),
        labels,
        profile: None,
        max_uses: None,
        uses: 0,
        rate: None,
        allow_from: Vec::new(),
        allow_units: Vec::new(),
        allow_uids: Vec::new(),
        family: id(n),
        predecessor: None,
        successor: None,
        rotation: None,
        first_used_at: None,
        replaced: false,
        revoked: None,
        suspended: None,
        warned: None,
        expiry_told: false,
    }
}

/// Who did it, when and why.
pub fn ending() -> Ending {
    Ending { at: START, reason: Some("test".to_owned()), by_uid: 0 }
}

/// Runs a future on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}
