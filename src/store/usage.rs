//! Last uses: kept in memory, written back every few seconds and at stop.
//!
//! Not part of the state that a generation names: a crash may lose the last seconds of it, as the audit log has every
//! use. Memory is bounded: past that, uses of further tokens are counted as lost until the next write-back, which a
//! shard that fills up asks for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::record::{LastUse, USERS_MAX, UsedBy};
use crate::time::UnixTime;
use crate::token::TokenId;

const SHARDS: usize = 64;
/// Tokens in one shard before a write-back is asked for ahead of its time.
const SHARD_ASKS: usize = 512;
/// Tokens in one shard at most: all shards full are about 20 MiB.
const SHARD_MAX: usize = 1024;
/// Tokens written back in one transaction, up to one shard more: revocations wait for no more than this.
const CHUNK: usize = 2048;

/// Uses as they are noted: `count` of them, with the circumstances of the last.
#[derive(Clone, Copy, Debug)]
pub struct UseNote<'a> {
    /// When.
    pub at: UnixTime,
    /// Through which unit.
    pub unit: Option<&'a str>,
    /// Through which uid.
    pub uid: u32,
    /// From which client address, as the peer gave it.
    pub from: Option<IpAddr>,
    /// How often.
    pub count: u64,
}

/// What has been noted since the last write-back.
pub(super) struct Usage {
    shards: [Mutex<HashMap<TokenId, LastUse>>; SHARDS],
    /// What is being written back. Locked before a shard, never after.
    flights: Mutex<HashMap<TokenId, Flight>>,
    /// Something has been noted since the writer last looked.
    dirty: AtomicBool,
    /// A shard is filling up, and the writer has been told.
    urgent: AtomicBool,
    lost: AtomicU64,
}

/// A use on its way to the disk.
struct Flight {
    /// What was noted.
    noted: LastUse,
    /// What the disk will hold; known once the writer has read what it holds now.
    whole: Option<LastUse>,
}

/// What a note asks of the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// Nothing.
    Nothing,
    /// The first since the last write-back: one is due some seconds from now.
    Timer,
    /// A shard fills up: now.
    Now,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            flights: Mutex::default(),
            dirty: AtomicBool::new(false),
            urgent: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        }
    }
}

impl Usage {
    /// Counts uses of a token.
    pub(super) fn note(&self, id: TokenId, noted: UseNote<'_>) -> Asks {
        let mut shard = self.shard(id);
        let fill = shard.len();
        match shard.get_mut(&id) {
            Some(there) => add(there, noted),
            None if fill >= SHARD_MAX => {
                self.lost.fetch_add(noted.count, Ordering::Relaxed);
            }
            None => {
                shard.insert(id, begun(noted.into()));
            }
        }
        drop(shard);
        if fill >= SHARD_ASKS && raise(&self.urgent) {
            self.dirty.store(true, Ordering::Release);
            return Asks::Now;
        }
        if raise(&self.dirty) { Asks::Timer } else { Asks::Nothing }
    }

    /// The last use, memory and disk together; `stored` reads the disk, and only if it must.
    pub(super) fn last<E>(
        &self,
        id: TokenId,
        stored: impl FnOnce() -> Result<Option<LastUse>, E>,
    ) -> Result<Option<LastUse>, E> {
        // Held over all three reads: a write-back moves uses from the shard to the flight to the disk, and one that
        // moves meanwhile would be missed or counted twice.
        let flights = self.flights();
        let noted = self.shard(id).get(&id).cloned();
        let settled = match flights.get(&id) {
            Some(Flight { whole: Some(whole), .. }) => Some(whole.clone()),
            Some(Flight { noted, whole: None }) => Some(join(stored()?, noted.clone())),
            None => stored()?,
        };
        Ok(match noted {
            Some(noted) => Some(join(settled, noted)),
            None => settled,
        })
    }

    /// Whether something waits to be written back.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    /// Whether that can't wait for its time.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Acquire)
    }

    /// Uses that were not kept because too many tokens were in use at once.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Takes about [`CHUNK`] noted uses, joins each with what `stored` gives of the disk, and returns what to write.
    /// Until [`Self::written`] or [`Self::not_written`] they are neither lost nor counted twice.
    pub(super) fn begin<E>(
        &self,
        mut stored: impl FnMut(TokenId) -> Result<Option<LastUse>, E>,
    ) -> Result<Vec<(TokenId, LastUse)>, E> {
        // Lowered first: what is noted from here on raises them again.
        self.dirty.store(false, Ordering::Release);
        self.urgent.store(false, Ordering::Release);
        let mut flights = self.flights();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            if flights.len() < CHUNK {
                flights.extend(shard.drain().map(|(id, noted)| (id, Flight { noted, whole: None })));
            } else if !shard.is_empty() {
                self.dirty.store(true, Ordering::Release);
            }
        }
        let mut batch = Vec::with_capacity(flights.len());
        for (&id, flight) in flights.iter_mut() {
            let whole = join(stored(id)?, flight.noted.clone());
            batch.push((id, whole.clone()));
            flight.whole = Some(whole);
        }
        // In the order of the table, so that its pages are written one after another.
        batch.sort_unstable_by_key(|(id, _)| *id);
        Ok(batch)
    }

    /// The commit that took them is durable.
    pub(super) fn written(&self) {
        self.flights().clear();
    }

    /// The commit that took them was not written: they are kept for the next.
    pub(super) fn not_written(&self) {
        let mut flights = self.flights();
        for (id, flight) in flights.drain() {
            self.dirty.store(true, Ordering::Release);
            let mut shard = self.shard(id);
            let joined = match shard.remove(&id) {
                Some(newer) => join(Some(flight.noted), newer),
                None => flight.noted,
            };
            shard.insert(id, joined);
        }
    }

    fn shard(&self, id: TokenId) -> MutexGuard<'_, HashMap<TokenId, LastUse>> {
        let shard = crate::page::slot_of(id) % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<TokenId, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<UseNote<'_>> for LastUse {
    fn from(note: UseNote<'_>) -> Self {
        let UseNote { at, unit, uid, from, count } = note;
        Self { at, unit: unit.map(str::to_owned), uid, from, count, by: Vec::new() }
    }
}

/// Raises a flag; whether it was down.
fn raise(flag: &AtomicBool) -> bool {
    !flag.load(Ordering::Relaxed) && !flag.swap(true, Ordering::AcqRel)
}

/// The first use of a span, as it was noted: its own circumstances are those of all its uses.
fn begun(mut noted: LastUse) -> LastUse {
    if noted.by.is_empty() {
        noted.by.push(UsedBy { unit: noted.unit.clone(), uid: noted.uid, at: noted.at, count: noted.count });
    }
    noted
}

/// Counts one more use; in the common case, of the same unit and uid as the last, nothing is allocated.
fn add(there: &mut LastUse, noted: UseNote<'_>) {
    let latest = there.by.first_mut().filter(|by| by.uid == noted.uid && by.unit.as_deref() == noted.unit);
    match latest {
        Some(by) => {
            by.at = by.at.max(noted.at);
            by.count = by.count.saturating_add(noted.count);
            there.count = there.count.saturating_add(noted.count);
            if noted.at >= there.at {
                there.at = noted.at;
                there.from = noted.from;
            }
        }
        None => {
            let noted = begun(noted.into());
            let earlier = std::mem::replace(there, noted.clone());
            *there = join(Some(earlier), noted);
        }
    }
}

/// Two spans of use as one: the later one's circumstances, both counts, and through whom.
fn join(earlier: Option<LastUse>, later: LastUse) -> LastUse {
    let Some(mut earlier) = earlier else { return begun(later) };
    let later = begun(later);
    let mut by = std::mem::take(&mut earlier.by);
    for newer in &later.by {
        match by.iter_mut().find(|old| old.uid == newer.uid && old.unit == newer.unit) {
            Some(old) => {
                old.at = old.at.max(newer.at);
                old.count = old.count.saturating_add(newer.count);
            }
            None => by.push(newer.clone()),
        }
    }
    by.sort_by_key(|by| std::cmp::Reverse(by.at));
    by.truncate(USERS_MAX);
    let count = earlier.count.saturating_add(later.count);
    let newest = if later.at >= earlier.at { later } else { earlier };
    LastUse { count, by, ..newest }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const AT: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn id(n: u64) -> TokenId {
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        TokenId::from_bytes(bytes)
    }

    fn used(at: UnixTime, unit: Option<&str>, uid: u32) -> UseNote<'_> {
        UseNote { at, unit, uid, from: None, count: 1 }
    }

    fn on_disk(count: u64) -> impl Fn() -> Result<Option<LastUse>, Infallible> {
        move || Ok(Some(LastUse { at: UnixTime::EPOCH, unit: None, uid: 0, from: None, count, by: Vec::new() }))
    }

    fn count(usage: &Usage, n: u64, disk: u64) -> u64 {
        usage.last(id(n), on_disk(disk)).expect("infallible").expect("used").count
    }

    /// Wherever a use is on its way to the disk, it is counted once.
    #[test]
    fn a_use_is_counted_once_wherever_it_is() {
        let usage = Usage::default();
        assert_eq!(usage.note(id(1), used(AT, Some("a.service"), 7)), Asks::Timer);
        assert_eq!(usage.note(id(1), used(AT, Some("b.service"), 8)), Asks::Nothing);
        assert_eq!(count(&usage, 1, 10), 12);

        let batch = usage.begin(|_| on_disk(10)()).expect("infallible");
        assert_eq!((batch.len(), batch[0].1.count, batch[0].1.unit.as_deref()), (1, 12, Some("b.service")));
        // In flight: whether the disk holds it yet makes no difference.
        assert_eq!((count(&usage, 1, 10), count(&usage, 1, 12)), (12, 12));
        assert_eq!(usage.note(id(1), used(AT, None, 9)), Asks::Timer);
        assert_eq!((count(&usage, 1, 10), count(&usage, 1, 12)), (13, 13));
        // Not written: as before, with what came since.
        usage.not_written();
        assert!(usage.is_dirty());
        assert_eq!(count(&usage, 1, 10), 13);

        let batch = usage.begin(|_| on_disk(10)()).expect("infallible");
        assert_eq!(batch[0].1.count, 13);
        usage.written();
        assert_eq!(count(&usage, 1, 13), 13);
        assert!(!usage.is_dirty());
    }

    #[test]
    fn a_disk_that_cannot_be_read_loses_nothing() {
        let usage = Usage::default();
        usage.note(id(1), used(AT, None, 7));
        usage.note(id(2), used(AT, None, 7));
        assert_eq!(usage.begin(|_| Err::<Option<LastUse>, _>("EIO")).expect_err("fails"), "EIO");
        usage.not_written();
        assert_eq!((count(&usage, 1, 0), count(&usage, 2, 0)), (1, 1));
    }

    #[test]
    fn an_older_use_counts_but_does_not_replace_a_newer_one() {
        let usage = Usage::default();
        usage.note(id(1), used(AT, Some("new.service"), 1));
        usage.note(id(1), used(UnixTime::EPOCH, Some("old.service"), 2));
        let last = usage.last(id(1), || Ok::<_, Infallible>(None)).expect("infallible").expect("used");
        assert_eq!((last.count, last.uid, last.unit.as_deref()), (2, 1, Some("new.service")));
    }

    #[test]
    fn memory_is_bounded_and_fullness_is_told_once() {
        let usage = Usage::default();
        let asked: Vec<Asks> = (0..200_000).map(|n| usage.note(id(n), used(AT, None, 1))).collect();
        assert_eq!(asked.iter().filter(|&&asks| asks == Asks::Now).count(), 1);
        assert!(usage.is_urgent());
        assert!(usage.lost() > 100_000);
        let mut taken = 0;
        while usage.is_dirty() {
            let batch = usage.begin(|_| Ok::<_, Infallible>(None)).expect("infallible");
            assert!(batch.len() < CHUNK + SHARD_MAX);
            assert!(batch.is_sorted_by_key(|(id, _)| *id));
            taken += batch.len() as u64;
            usage.written();
        }
        assert_eq!(taken + usage.lost(), 200_000);
        assert!(!usage.is_urgent());
    }
}
