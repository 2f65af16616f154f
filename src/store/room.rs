//! Room on the disk: whether new tokens may be issued, and what is kept so that a revocation is durable on a full disk.
//!
//! redb makes its file longer by doubling, inside a transaction, and an error then poisons its handle. So what may fail
//! is done before a transaction begins:
//!
//! - A **reserve** is allocated past the end of the file (fallocate, the length stays). redb does not see it.
//! - While the file system has room for the doubling (**roomy**), redb may grow as it likes: the backend allocates what
//!   it adds before it is used.
//! - When it has not, redb must find its pages inside the file. What is certainly free there is known as a lower bound:
//!   what was added, less everything written since (pages that were freed again are not credited). When the bound gets
//!   low the engine is asked, which walks the whole file; when that says low too, the reserve is **adopted**: the engine
//!   is closed, the file made longer by the reserve, and the engine opened again, which takes the new length for its
//!   own (milliseconds).
//! - New tokens are refused once the reserve is gone and less than [`KEPT`] is free inside; what restricts goes on until
//!   that is used up.
//!
//! A growth that fails all the same (another program took the space in between) is an error that was not written: the
//! batch is refused, the reserve adopted, and the next attempt goes through.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::disk::{KEPT, Medium};

/// What a batch may need: 64 jobs of some 10 pages each, and the engine's own.
const BATCH_NEEDS: u64 = 4 << 20;
/// Jobs in one transaction when room is short.
pub(super) const TIGHT_BATCH: usize = 64;
/// The reserve is an eighth of the file, within these bounds.
const RESERVE_MIN: u64 = 16 << 20;
const RESERVE_MAX: u64 = 64 << 20;
/// How long after a failed allocation the next is tried.
const RETRY: Duration = Duration::from_secs(1);
/// Asking the engine walks the file: at most so small a part of the writer's time.
const WALK_SHARE: u32 = 50;
/// redb grows by two of its largest regions at most.
const GROWTH_MAX: u64 = 8 << 30;
/// Left to the rest of the system when the engine doubles its file.
const MARGIN: u64 = 16 << 20;

/// How much room the store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Certainly free for changes without another block of the file system: inside the file and reserved behind it.
    pub free_bytes: u64,
    /// What the file system has besides.
    pub disk_free_bytes: u64,
    /// New tokens are taken.
    pub issue_ok: bool,
}

/// What the writer last found, for everyone to read.
#[derive(Debug)]
pub(super) struct Shown {
    free: AtomicU64,
    disk_free: AtomicU64,
    issue_ok: AtomicBool,
}

impl Default for Shown {
    fn default() -> Self {
        Self { free: AtomicU64::new(0), disk_free: AtomicU64::new(0), issue_ok: AtomicBool::new(true) }
    }
}

impl Shown {
    pub(super) fn room(&self) -> Room {
        Room {
            free_bytes: self.free.load(Ordering::Relaxed),
            disk_free_bytes: self.disk_free.load(Ordering::Relaxed),
            issue_ok: self.issue_ok.load(Ordering::Relaxed),
        }
    }
}

/// What the writer must do before it begins a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Begin.
    Go,
    /// Ask the engine how much is free, tell [`Keeper::measured`], and ask again.
    Measure,
    /// Open the engine anew with the reserve inside the file, tell [`Keeper::adopted`], and ask again.
    Adopt,
}

/// Keeps the account; the writer's own.
#[derive(Debug)]
pub(super) struct Keeper {
    medium: Medium,
    /// Lower bound of what is free inside the file.
    inside: u64,
    reserve: u64,
    roomy: bool,
    /// A growth failed: do not believe the file system's figure until an allocation has gone through.
    doubtful: bool,
    next_allocation: Instant,
    next_walk: Instant,
    issue_ok: bool,
}

impl Keeper {
    pub(super) fn new(medium: Medium) -> Self {
        let now = Instant::now();
        Self {
            medium,
            inside: 0,
            reserve: 0,
            roomy: false,
            doubtful: false,
            next_allocation: now,
            next_walk: now,
            issue_ok: true,
        }
    }

    /// Brings the account up to date and says what to do next.
    pub(super) fn step(&mut self, shown: &Shown) -> Step {
        let (written, grown) = self.medium.gauge.take();
        self.inside = (self.inside + grown).saturating_sub(written);
        let now = Instant::now();
        let len = self.medium.disk.len().unwrap_or(0);
        let available = self.medium.disk.available().unwrap_or(0);
        self.top_up(len, available, now);
        self.roomy = !self.doubtful && available >= len.min(GROWTH_MAX) + MARGIN;
        let low = self.inside < BATCH_NEEDS;
        let step = if self.roomy {
            Step::Go
        } else if (low || !self.issue_ok || self.inside + self.reserve < KEPT) && now >= self.next_walk {
            // Before the reserve is touched or new tokens are refused: the bound may be far too low.
            Step::Measure
        } else if low && self.reserve >= BATCH_NEEDS {
            Step::Adopt
        } else {
            // If it is low, there is nothing left to give. What restricts is still tried: freed pages may do.
            Step::Go
        };
        if step == Step::Go {
            self.show(available, shown);
        }
        step
    }

    /// Whether so little is certain that batches should be small.
    pub(super) fn tight(&self) -> bool {
        !self.roomy
    }

    /// What the engine found free inside the file, and how long it took.
    pub(super) fn measured(&mut self, free: u64, took: Duration) {
        self.inside = free;
        self.next_walk = Instant::now() + took * WALK_SHARE;
    }

    /// A growth failed, so the file system has less than it says: the reserve is what there is.
    pub(super) fn refused(&mut self) {
        self.doubtful = true;
        self.next_allocation = Instant::now() + RETRY;
    }

    /// How much of the reserve can be put inside the file: whole pages of what is allocated, nothing when that is little.
    pub(super) fn adoptable(&self) -> u64 {
        if self.reserve >= BATCH_NEEDS { self.reserve } else { 0 }
    }

    /// The file is longer by `bytes`, all of it allocated, all of it free.
    pub(super) fn adopted(&mut self, bytes: u64) {
        // What was counted before belongs to the engine's last opening.
        self.medium.gauge.take();
        self.inside = bytes;
        self.reserve = 0;
    }

    /// Fills the reserve up, if that is due and the file system has that much.
    fn top_up(&mut self, len: u64, available: u64, now: Instant) {
        self.reserve = self.medium.gauge.allocated_past(len);
        let wanted = (len / 8).clamp(RESERVE_MIN, RESERVE_MAX).next_multiple_of(4096);
        // Not for every page that it lacks: at three quarters, and then whole.
        if self.reserve >= wanted / 4 * 3 && !self.doubtful || now < self.next_allocation {
            return;
        }
        // The last of a small disk, rather than nothing.
        let possible = self.reserve.saturating_add(available).min(wanted) & !4095;
        if possible < KEPT {
            self.next_allocation = now + RETRY;
            return;
        }
        match self.medium.allocate(len, possible) {
            Ok(()) => {
                self.doubtful = false;
                self.reserve = self.medium.gauge.allocated_past(len);
                // A file system that can't allocate ahead keeps no reserve: no need to ask it each time.
                if self.reserve == 0 {
                    self.next_allocation = now + RETRY;
                }
            }
            Err(error) => {
                info!("the store's reserve could not be allocated: {error}");
                self.next_allocation = now + RETRY;
            }
        }
    }

    fn show(&mut self, available: u64, shown: &Shown) {
        let certain = self.inside + self.reserve;
        // Once refused, not before there is clearly more: at the edge it would change with every commit.
        let needed = if self.issue_ok { KEPT } else { KEPT + KEPT / 4 };
        let issue_ok = self.roomy || certain >= needed;
        if issue_ok != self.issue_ok {
            if issue_ok {
                info!("the disk of the store has room again: new tokens are issued");
            } else {
                warn!(
                    "the disk of the store is full: no new tokens are issued, revocations still go through; make room"
                );
            }
        }
        self.issue_ok = issue_ok;
        shown.free.store(certain, Ordering::Relaxed);
        shown.disk_free.store(available, Ordering::Relaxed);
        shown.issue_ok.store(issue_ok, Ordering::Relaxed);
    }
}
