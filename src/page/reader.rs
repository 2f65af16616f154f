//! A client's side: whether what it has kept still counts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{
    AT_GENERATION, AT_HEARTBEAT, AT_MAGIC, AT_OFFSET, AT_SLOTS, AT_STATE, AT_VERSION, FIRST_SLOT, LEASE, MAGIC, Memory,
    SKEW_MAX, SLOTS, STATE_ASK, STATE_OPEN, Stamp, VERSION, micros,
};
use crate::time::UnixTime;

/// The page, to be read. Any number of threads may.
pub struct Reader<M: Memory> {
    memory: M,
    /// It was closed, or beat in the future: it never counts again, whatever it says later.
    void: AtomicBool,
}

/// Something that is not an epoch page of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what the daemon handed over is no epoch page of version {VERSION}")]
pub struct NotAPage;

/// Whether what was kept under a stamp counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Nothing has changed; and this is the time now, by which the token must not have ended.
    Good(UnixTime),
    /// Something has: what was kept is to be thrown away.
    Changed,
    /// Not now: the daemon says to ask, or has not been heard of for too long. What was kept may count later.
    Ask,
    /// Never again: the page is closed, or its time is not ours.
    Void,
}

impl<M: Memory> Reader<M> {
    /// Reads a page.
    ///
    /// # Errors
    /// [`NotAPage`]: another magic number, version or number of slots.
    pub fn new(memory: M) -> Result<Self, NotAPage> {
        let header = [memory.load(AT_MAGIC), memory.load(AT_VERSION), memory.load(AT_SLOTS)];
        if header != [MAGIC, VERSION, SLOTS as u64] {
            return Err(NotAPage);
        }
        Ok(Self { memory, void: AtomicBool::new(false) })
    }

    /// Whether what was kept under this stamp counts. `boottime` reads CLOCK_BOOTTIME, and is called last.
    pub fn check(&self, stamp: &Stamp, boottime: impl FnOnce() -> Duration) -> Check {
        if self.is_void() {
            return Check::Void;
        }
        match self.memory.load(AT_STATE) {
            STATE_OPEN => {}
            STATE_ASK => return Check::Ask,
            _ => return self.never_again(),
        }
        let slot = stamp.slot as usize;
        if slot >= SLOTS
            || self.memory.load(FIRST_SLOT + slot) != stamp.value
            || self.memory.load(AT_GENERATION) != stamp.generation
        {
            return Check::Changed;
        }
        let heartbeat = self.memory.load(AT_HEARTBEAT);
        let offset = self.memory.load(AT_OFFSET);
        let now = micros(boottime());
        match now.checked_sub(heartbeat) {
            Some(age) if age < micros(LEASE) || mutant!(NoLease) => {
                Check::Good(UnixTime::from_micros(now.wrapping_add(offset)))
            }
            Some(_) => Check::Ask,
            None if mutant!(AnyClock) => Check::Good(UnixTime::from_micros(now.wrapping_add(offset))),
            None if heartbeat - now > micros(SKEW_MAX) => self.never_again(),
            None => Check::Ask,
        }
    }

    /// Whether it will never count again.
    pub fn is_void(&self) -> bool {
        self.void.load(Ordering::Relaxed)
    }

    fn never_again(&self) -> Check {
        self.void.store(true, Ordering::Relaxed);
        Check::Void
    }
}
