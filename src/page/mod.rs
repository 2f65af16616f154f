//! The epoch page: one piece of memory that the daemon writes and every client reads, so that a client may keep a verdict
//! and know, without asking, that nothing has changed since.
//!
//! Invariants: I2 (nothing that was cached before a restriction counts once that restriction has been acknowledged), and
//! that a daemon which is dead, stopped or hung lets every cache lapse within [`LEASE`].
//!
//! Why it holds. A verdict carries a [`Stamp`]: the generation and the token's slot, as the *daemon* read them before it
//! read policy and state. The daemon changes in this order: (1) the state is refused in memory, (2) the slot or the
//! generation is bumped, (3) the change is committed, (4) recorded, (5) acknowledged.
//!
//! - A verdict whose stamp has the values of before (2) is void from (2) on, which is before (5).
//! - A verdict whose stamp has the values of after (2) was made from a state read after (1): the bump releases what was
//!   written before it, and the daemon's reading of the slot acquires it.
//! - A daemon that does not live can't bump. It does not beat either: the heartbeat gets older than [`LEASE`]. The next
//!   daemon has a page of its own, and acknowledges no restriction before every reader of the old page has seen the lease
//!   lapse ([`TAKEOVER`] after it took the store's lock), unless the page was closed in good order.
//! - So that lapsing is seen in time, a reader looks at its clock *after* everything else: a check that began after an
//!   acknowledgement reads a clock that is later still.
//!
//! The clock is CLOCK_BOOTTIME, which runs on in suspend and is never set. A process in a time namespace of its own may see
//! another one: what the daemon said of its clock at hello shows that ([`agrees`]), and so does a heartbeat from the future.
//!
//! The layout, for readers in other languages: `docs/epoch-page.md`.
#![forbid(unsafe_code)]

#[cfg(feature = "mutants")]
pub mod mutant;
mod reader;
#[cfg(feature = "daemon")]
mod takeover;
#[cfg(feature = "daemon")]
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use reader::{Check, NotAPage, Reader};
#[cfg(feature = "daemon")]
pub use takeover::Takeover;
#[cfg(feature = "daemon")]
pub use writer::{Epochs, Writer};

use crate::token::TokenId;

/// The page that the daemon serves.
#[cfg(feature = "daemon")]
pub type Served = Writer<crate::sys::shared::OwnWords>;
/// The page as another process has it.
pub type Seen = Reader<crate::sys::shared::Words>;

/// The first word: "bearerdp", its first byte the lowest.
pub const MAGIC: u64 = u64::from_le_bytes(*b"bearerdp");
/// The second word.
pub const VERSION: u64 = 1;
/// Slots; a power of two. 512 KiB of counters: with 100 changes a second, one token's cached verdict is spoiled by others'
/// every ten minutes.
pub const SLOTS: usize = 65_536;
/// Words of the page, all in all: 528,384 bytes.
pub const WORDS: usize = FIRST_SLOT + SLOTS;

/// How old a heartbeat may be for a cached verdict to count.
///
/// With faults made on purpose it is longer, so that a slow machine can start two daemons within one.
pub const LEASE: Duration = Duration::from_secs(if cfg!(feature = "mutants") { 4 } else { 1 });
/// How often the daemon's heart beats: three beats may be late before a cache lapses.
pub const BEAT: Duration = Duration::from_millis(250);
/// By how much a client's CLOCK_BOOTTIME may differ from the daemon's.
pub const SKEW_MAX: Duration = Duration::from_millis(50);
/// How long after it took the store's lock a daemon acknowledges no restriction, when the last one did not close its page.
pub const TAKEOVER: Duration = LEASE.saturating_add(SKEW_MAX);

const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 1;
const AT_SLOTS: usize = 2;
const AT_STATE: usize = 3;
const AT_GENERATION: usize = 4;
const AT_HEARTBEAT: usize = 5;
const AT_OFFSET: usize = 6;
/// A page of 4 KiB after the header's: what is written four times a second shares no cache line with a slot.
const FIRST_SLOT: usize = 512;

/// Cached verdicts count.
const STATE_OPEN: u64 = 1;
/// Ask each time, for now: what is used can't be recorded, or the daemon has not begun.
const STATE_ASK: u64 = 2;
/// The daemon has stopped: this page will never count again. To readers, so is all that is neither of the others.
#[cfg(feature = "daemon")]
const STATE_CLOSED: u64 = 3;

/// What of the page a verdict was read under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Of all tokens.
    pub generation: u64,
    /// The token's slot.
    pub slot: u32,
    /// What the slot counted.
    pub value: u64,
}

/// The slot of a token: a hash of its id, the same in every daemon.
pub fn slot_of(id: TokenId) -> usize {
    let (high, low) = id.as_bytes().split_first_chunk::<8>().expect("16 bytes have 8");
    let low = u64::from_le_bytes(low.try_into().expect("16 - 8 = 8"));
    // Fibonacci hashing: the top bits depend on all bits below.
    ((low ^ u64::from_le_bytes(*high).rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize
}

/// Whether the daemon's clock, which it read between a client's sending its hello and reading the answer, is the
/// client's, by what the client's was before it sent. A slow answer looks like another clock: then nothing is proven.
pub fn agrees(before: Duration, daemons: Duration) -> bool {
    mutant!(AnyClock) || before.abs_diff(daemons) <= SKEW_MAX
}

/// The page's words as a reader has them. A trait, so that a model checker can stand in for the memory.
pub trait Memory {
    /// A word; what was written before the value that is read was stored is seen from here on.
    fn load(&self, word: usize) -> u64;
}

/// The page's words as the daemon has them.
pub trait OwnMemory: Memory {
    /// Stores a word, and with it all that was written before.
    fn store(&self, word: usize, value: u64);
    /// Adds one, with the same effect.
    fn increment(&self, word: usize);
    /// Stores `new` in one step: what replaces the word at the same time does so before or after it.
    fn exchange(&self, word: usize, new: u64);
    /// Stores `new` if the word is `old`; returns whether it was.
    fn replace(&self, word: usize, old: u64, new: u64) -> bool;
}

/// Ordinary memory: of the mapping that the daemon shares, or of a test.
impl Memory for [AtomicU64] {
    fn load(&self, word: usize) -> u64 {
        self[word].load(Ordering::Acquire)
    }
}

impl OwnMemory for [AtomicU64] {
    fn store(&self, word: usize, value: u64) {
        self[word].store(value, Ordering::Release);
    }

    fn increment(&self, word: usize) {
        self[word].fetch_add(1, Ordering::Release);
    }

    fn exchange(&self, word: usize, new: u64) {
        self[word].swap(new, Ordering::AcqRel);
    }

    fn replace(&self, word: usize, old: u64, new: u64) -> bool {
        self[word].compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl<M: Memory + ?Sized> Memory for Box<M> {
    fn load(&self, word: usize) -> u64 {
        (**self).load(word)
    }
}

impl<M: OwnMemory + ?Sized> OwnMemory for Box<M> {
    fn store(&self, word: usize, value: u64) {
        (**self).store(word, value);
    }

    fn increment(&self, word: usize) {
        (**self).increment(word);
    }

    fn exchange(&self, word: usize, new: u64) {
        (**self).exchange(word, new);
    }

    fn replace(&self, word: usize, old: u64, new: u64) -> bool {
        (**self).replace(word, old, new)
    }
}

impl Memory for crate::sys::shared::Words {
    fn load(&self, word: usize) -> u64 {
        Self::load(self, word)
    }
}

#[cfg(feature = "daemon")]
impl Memory for crate::sys::shared::OwnWords {
    fn load(&self, word: usize) -> u64 {
        self.words().load(word)
    }
}

#[cfg(feature = "daemon")]
impl OwnMemory for crate::sys::shared::OwnWords {
    fn store(&self, word: usize, value: u64) {
        self.words().store(word, value);
    }

    fn increment(&self, word: usize) {
        self.words().increment(word);
    }

    fn exchange(&self, word: usize, new: u64) {
        self.words().exchange(word, new);
    }

    fn replace(&self, word: usize, old: u64, new: u64) -> bool {
        self.words().replace(word, old, new)
    }
}

/// Microseconds, as the page has times.
fn micros(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000).saturating_add(time.subsec_micros().into())
}

#[cfg(all(test, feature = "daemon"))]
mod tests;
