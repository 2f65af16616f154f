//! The daemon's side: it counts, beats and closes. Any thread may.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{
    AT_GENERATION, AT_HEARTBEAT, AT_MAGIC, AT_OFFSET, AT_SLOTS, AT_STATE, AT_VERSION, FIRST_SLOT, LEASE, MAGIC,
    OwnMemory, SLOTS, STATE_ASK, STATE_CLOSED, STATE_OPEN, VERSION, WORDS, micros, slot_of,
};
use crate::sys::shared::OwnWords;
use crate::time::UnixTime;
use crate::token::TokenId;

/// The page, to be written.
pub struct Writer<M: OwnMemory> {
    memory: M,
    /// The offset of the last beat; 0 before the first.
    offset: AtomicU64,
}

/// What of the page says that a state has changed: all that the store and the service need to know of it.
pub trait Epochs: Send + Sync + 'static {
    /// The generation: to be read before everything else that a verdict rests on.
    fn generation(&self) -> u64;
    /// What the token's slot counts: to be read before the token's state.
    fn slot(&self, id: TokenId) -> u64;
    /// What is known of this token is void; it is refused in memory already.
    fn bump(&self, id: TokenId);
    /// What is known of any token is void; what it is for is refused in memory already.
    fn bump_all(&self);
}

impl Writer<Box<[AtomicU64]>> {
    /// A page that no other process reads: for a store that is not served.
    pub fn private() -> Self {
        Self::new((0..WORDS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Writer<OwnWords> {
    /// A page that can be handed to other processes.
    ///
    /// # Errors
    /// As [`OwnWords::new`].
    pub fn shared() -> io::Result<Self> {
        OwnWords::new("bearerd-epochs", WORDS).map(Self::new)
    }

    /// The file of the page, to be handed to readers.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.memory.file()
    }
}

impl<M: OwnMemory> Writer<M> {
    /// A page in memory of [`super::WORDS`] zeroes. It says `ask` until it is opened, and counts only once it has beaten.
    pub fn new(memory: M) -> Self {
        memory.store(AT_VERSION, VERSION);
        memory.store(AT_SLOTS, SLOTS as u64);
        memory.store(AT_STATE, STATE_ASK);
        memory.store(AT_MAGIC, MAGIC);
        Self { memory, offset: AtomicU64::new(0) }
    }

    /// The daemon lives: at this CLOCK_BOOTTIME, and after it was read the time that counts was `now`. In that order, so
    /// that readers are never behind: what comes in between ends tokens early, not late.
    ///
    /// When that time was taken back, nothing that was kept counts any more: a token that was issued ahead of it has not
    /// begun yet.
    pub fn beat(&self, boottime: Duration, now: UnixTime) {
        let heartbeat = micros(boottime);
        let offset = now.as_micros().wrapping_sub(heartbeat);
        let before = self.offset.swap(offset, Ordering::Relaxed);
        let back = before.wrapping_sub(offset).cast_signed();
        // The offset first: whoever sees the beat sees its offset, or a later one.
        self.memory.store(AT_OFFSET, offset);
        // The two clocks are not read at the same moment; what is less than a lease is that.
        if before != 0 && back > micros(LEASE).cast_signed() {
            self.bump_generation();
        }
        self.memory.store(AT_HEARTBEAT, heartbeat);
    }

    /// Cached verdicts count from now on; not on a page that is closed.
    pub fn open(&self) {
        self.memory.replace(AT_STATE, STATE_ASK, STATE_OPEN);
    }

    /// Everybody is to ask, for now.
    pub fn ask(&self) {
        self.memory.replace(AT_STATE, STATE_OPEN, STATE_ASK);
    }

    /// The end of the page: nothing cached counts any more.
    pub fn close(&self) {
        if mutant!(NoClose) {
            return;
        }
        self.memory.exchange(AT_STATE, STATE_CLOSED);
    }

    /// What it says of cached verdicts: `open`, `ask` or `closed`.
    pub fn state(&self) -> &'static str {
        match self.memory.load(AT_STATE) {
            STATE_OPEN => "open",
            STATE_ASK => "ask",
            _ => "closed",
        }
    }

    /// Of all tokens; see [`Epochs::generation`].
    pub fn generation(&self) -> u64 {
        self.memory.load(AT_GENERATION)
    }

    /// The value of the slot of this number, which must be below [`SLOTS`].
    pub fn slot_value(&self, slot: usize) -> u64 {
        self.memory.load(FIRST_SLOT + slot)
    }

    /// Counts in the slot of this number, which must be below [`SLOTS`].
    pub fn bump_slot(&self, slot: usize) {
        self.memory.increment(FIRST_SLOT + slot);
    }

    /// Counts for all tokens.
    pub fn bump_generation(&self) {
        self.memory.increment(AT_GENERATION);
    }

    /// The memory, to be handed to readers.
    pub fn memory(&self) -> &M {
        &self.memory
    }
}

impl<M: OwnMemory + Send + Sync + 'static> Epochs for Writer<M> {
    fn generation(&self) -> u64 {
        Self::generation(self)
    }

    fn slot(&self, id: TokenId) -> u64 {
        self.slot_value(slot_of(id))
    }

    fn bump(&self, id: TokenId) {
        if mutant!(NoSlot) {
            return;
        }
        self.bump_slot(slot_of(id));
    }

    fn bump_all(&self) {
        if mutant!(NoGeneration) {
            return;
        }
        self.bump_generation();
    }
}
