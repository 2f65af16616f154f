//! Verdicts that are kept, and when they count.
//!
//! Invariants: I2 (a kept *active* counts only while the epoch page says that nothing it rests on has changed, by a lease
//! that has not lapsed), I3 (no token is in here: a question is known by a keyed hash under a key of this process), I5 (so
//! many entries, and no more), and that no use is lost: what was granted is counted, and told to the daemon in time.
//!
//! A hit takes no lock and makes no system call: a hash of the question, a look into one set of a table, a look at the
//! page, one at the clock, and a count. Entries are immutable but for their counts. What is pushed out while somebody still
//! grants by it tells what it counted when the last one lets go of it.
//!
//! The conditions, in the order in which they are checked (`docs/epoch-page.md`): the very same question, by the same
//! token, for the same scopes, service and client; the page it was read under is open, has its generation and slot value,
//! and its heartbeat is younger than the lease; the token has not ended by the daemon's time. A question with a note, or one
//! that only peeks, is always asked; what has a number of uses or a rate the daemon never lets keep.

mod hints;
mod known;
mod ledger;
mod question;
mod uses;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use nix::time::{ClockId, clock_gettime};

use self::atomic::{AtomicU32, Ordering};
use self::hints::Hints;
pub use self::known::Known;
use self::ledger::{Account, Ledger};
pub(super) use self::ledger::{Report, as_messages, may_tell_again, one_request};
pub(super) use self::question::Key;
use self::question::Secret;
use self::uses::Mark;
use crate::page::{Check, Seen, Stamp};
use crate::protocol::message::{Cacheable, Stamped, Validate, Verdict};
use crate::time::UnixTime;

/// What uses are counted with.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
}

/// Entries that a question may be found in.
const WAYS: usize = 8;
/// Sets that share a mark that something in them is to be told.
const SETS_PER_MARK: usize = 32;
/// Verdicts that may be in use after others took their places, besides an eighth of all: what is above is not kept.
const SPARE: usize = 64;

/// See the file's head.
pub(super) struct Cache {
    secret: Secret,
    /// Of each set.
    hints: Box<[Hints]>,
    sets: Box<[Set]>,
    /// Whether something in these sets was counted since it was last told.
    marks: Box<[Mark]>,
    /// Which way of a full set gives way next.
    hand: AtomicU32,
    ledger: Arc<Ledger>,
}

/// A line of memory.
#[derive(Default)]
#[repr(align(64))]
struct Set([ArcSwapOption<Entry>; WAYS]);

/// A kept verdict: a line of memory that a hit reads, and what it has no need of.
struct Entry {
    grant: Grant,
    verdict: Arc<Verdict>,
    account: Account,
}

#[repr(align(64))]
struct Grant {
    key: Key,
    page: Arc<Seen>,
    stamp: Stamp,
    good_until: UnixTime,
    /// Of the account.
    number: u32,
}

const _: () = assert!(size_of::<Set>() == 64 && size_of::<Grant>() == 64, "a hit reads one line of each");

/// What a look into the cache comes to.
pub(super) enum Found {
    /// This counts, and is counted.
    Kept(Known),
    /// Ask, and keep what comes under this key.
    Ask(Key),
    /// Ask, and keep nothing.
    AskOnly,
}

impl Cache {
    /// Of at most `entries` verdicts, and at least a few.
    pub(super) fn new(entries: usize) -> Self {
        let sets = entries.div_ceil(WAYS).next_power_of_two();
        let places = sets * WAYS;
        Self {
            secret: Secret::random(),
            hints: (0..sets).map(|_| Hints::default()).collect(),
            sets: (0..sets).map(|_| Set::default()).collect(),
            marks: (0..sets.div_ceil(SETS_PER_MARK)).map(|_| Mark::new()).collect(),
            hand: AtomicU32::new(0),
            ledger: Ledger::new(places + places / 8 + SPARE),
        }
    }

    /// Whether this question was answered with *active*, and that still counts.
    pub(super) fn find(&self, ask: &Validate<'_>) -> Found {
        let Some(key) = self.secret.key(ask) else { return Found::AskOnly };
        let place = self.place(key);
        for way in self.hints[place].ways(key.hint()) {
            let way = &self.sets[place].0[way];
            let there = way.load();
            let Some(Grant { page, stamp, good_until, number, .. }) = there.as_ref().and_then(|it| it.grant_of(key))
            else {
                continue;
            };
            // Looked up before the clock is, for which the processor would finish all else first.
            let Some(uses) = self.ledger.line(*number) else { return Found::Ask(key) };
            let now = match page.check(stamp, boottime) {
                Check::Good(now) if now < *good_until => now,
                // It may count again when the daemon is back, or records again.
                Check::Ask => return Found::Ask(key),
                Check::Good(_) | Check::Changed | Check::Void => {
                    // Only if it is the same still: a newer one may have come.
                    way.compare_and_swap(&there, None);
                    return Found::Ask(key);
                }
            };
            return match uses.count(now, &self.marks[place / SETS_PER_MARK]) {
                true => Found::Kept(Known::kept(there)),
                false => Found::Ask(key),
            };
        }
        Found::Ask(key)
    }

    /// Keeps an answer, if the daemon lets it be kept. `page` is of the connection that it came on.
    pub(super) fn keep(&self, key: Key, page: Option<&Arc<Seen>>, stamped: Stamped) -> Known {
        let Stamped { verdict, cache } = stamped;
        let verdict = Arc::new(verdict);
        let known = Known::from(Arc::clone(&verdict));
        let (Some(page), Some(cache), true) = (page, cache, verdict.active) else { return known };
        let Cacheable { generation, slot, value, good_until, ticket } = cache;
        let Some(account) = self.ledger.open(ticket.into()) else { return known };
        let grant = Grant {
            key,
            page: Arc::clone(page),
            stamp: Stamp { generation, slot, value },
            good_until: good_until.unwrap_or(UnixTime::MAX),
            number: account.number(),
        };
        let place = self.place(key);
        let is_free = |way: &ArcSwapOption<Entry>| {
            let there = way.load();
            there.as_ref().is_none_or(|there| there.grant.key == key || there.grant.page.is_void())
        };
        let way = self.sets[place].0.iter().position(is_free).unwrap_or_else(|| {
            // Any but always the same: which entries are used is not worth a write at each hit.
            self.hand.fetch_add(1, Ordering::Relaxed) as usize % WAYS
        });
        self.sets[place].0[way].store(Some(Arc::new(Entry { grant, verdict, account })));
        // When another thread puts another one there now, the hint may be of the wrong one: that is asked for once more.
        self.hints[place].put(way, key.hint());
        known
    }

    /// What was counted since the last time.
    pub(super) fn reports(&self) -> Vec<Report> {
        let mut reports = self.ledger.take();
        for (mark, sets) in self.marks.iter().zip(self.sets.chunks(SETS_PER_MARK)) {
            // Taken back before the counts are read: what is counted meanwhile marks it again.
            if !mark.take() {
                continue;
            }
            for way in sets.iter().flat_map(|set| &set.0) {
                reports.extend(way.load().as_ref().and_then(|entry| entry.account.report()));
            }
        }
        reports
    }

    /// Reports that were not taken, for the next time.
    pub(super) fn put_back(&self, reports: Vec<Report>) {
        self.ledger.add(reports);
    }

    fn place(&self, key: Key) -> usize {
        // A power of two of them.
        key.0 as usize & (self.sets.len() - 1)
    }
}

impl Entry {
    /// What is granted to the question of this key.
    fn grant_of(&self, key: Key) -> Option<&Grant> {
        Some(&self.grant).filter(|grant| grant.key == key)
    }
}

impl Key {
    /// What tells most others in its set apart.
    const fn hint(self) -> u8 {
        self.1 as u8
    }
}

/// CLOCK_BOOTTIME.
pub(super) fn boottime() -> Duration {
    // Every Linux that has memfd has it; without a clock nothing that is kept may count.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}

#[cfg(all(test, feature = "daemon"))]
mod tests;
