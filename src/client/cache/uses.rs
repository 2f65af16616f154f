//! Uses that were granted out of the cache, until the daemon is told.
//!
//! Invariant I4: each is told once. Whoever counts marks it afterwards; whoever tells takes the mark back before it takes
//! the counts. Both change the same word in one step, so that one of them comes after the other: a use that was not among
//! those taken finds the mark taken back, and sets it anew.
//!
//! The atomics come from the room above: the tests compile this file a second time, over those of a model checker.

use super::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::time::UnixTime;

/// Above this nothing more is counted until some are told. Threads that are past the look add one each, and no more, so
/// that the number never comes round.
const MOST: u32 = u32::MAX / 2;

/// Uses of one verdict.
pub(super) struct Uses {
    count: AtomicU32,
    /// In microseconds of the daemon's time, as are all times here.
    first: AtomicU64,
    last: AtomicU64,
}

/// Uses that were taken to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) count: u32,
    pub(super) first: UnixTime,
    pub(super) last: UnixTime,
}

/// That something is to be told.
pub(super) struct Mark(AtomicBool);

impl Uses {
    /// None, or some that were counted before.
    pub(super) fn new(count: u32) -> Self {
        Self { count: AtomicU32::new(count), first: AtomicU64::new(0), last: AtomicU64::new(0) }
    }

    /// Whether more can be counted before some are told.
    pub(super) fn takes_more(&self) -> bool {
        self.count.load(Ordering::Relaxed) < MOST
    }

    /// Counts a use; false when no more can be counted until some are told.
    pub(super) fn count(&self, now: UnixTime, mark: &Mark) -> bool {
        if !self.takes_more() {
            return false;
        }
        if self.count.fetch_add(1, Ordering::AcqRel) == 0 {
            self.first.store(now.as_micros(), Ordering::Relaxed);
        }
        self.last.store(now.as_micros(), Ordering::Relaxed);
        mark.set();
        true
    }

    /// Those that were counted since the last time.
    pub(super) fn take(&self) -> Option<Taken> {
        let count = self.count.swap(0, Ordering::AcqRel);
        // A use that is being counted may not have left its time yet.
        let (first, last) = (self.first.load(Ordering::Relaxed), self.last.load(Ordering::Relaxed));
        (count > 0).then(|| Taken {
            count,
            first: UnixTime::from_micros(first.min(last)),
            last: UnixTime::from_micros(last.max(first)),
        })
    }
}

impl Mark {
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    fn set(&self) {
        // Mostly it is set: then its cache line stays where it is. Else in one step, as it is taken back: there is an order
        // between the two that the model checker knows too.
        if !self.0.load(Ordering::Acquire) {
            self.0.swap(true, Ordering::AcqRel);
        }
    }

    /// Takes it back; whether it was set.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}
