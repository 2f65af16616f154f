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

mod uses;

/// What the counting goes by.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
}

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use nix::time::{ClockId, clock_gettime};
use siphasher::sip128::{Hasher128, SipHasher13};

use atomic::{AtomicBool, AtomicU32, Ordering};
use uses::{Mark, Taken, Uses};

use super::ClientError;
use crate::page::{Check, Seen, Stamp};
use crate::protocol::code::ErrorCode;
use crate::protocol::message::{Cacheable, Stamped, UseReport, Validate, Verdict};
use crate::protocol::{REPORTS_MAX, REQUEST_MAX};
use crate::time::UnixTime;

/// Entries that a question may be found in.
const WAYS: usize = 4;
/// Sets that share a mark that something in them is to be told.
const SETS_PER_MARK: usize = 64;
/// Longest question, besides its token, that is kept: others are asked each time.
const REST_MAX: usize = 1024;
/// What comes before each scope, the audience and the address in what is hashed. No text has a byte of 0xff in it, and the
/// address comes last: two questions never have the same bytes, whatever is in them.
const SCOPE: &[u8] = &[0xff, 1];
const AUDIENCE: &[u8] = &[0xff, 2];
const ADDRESS: &[u8] = &[0xff, 3];
/// Most bytes of a report besides its ticket.
const REPORT_BYTES: usize = 32;
/// Reports that wait for the daemon; above it nothing is granted that would add to them.
const WAITING_MAX: usize = 65_536;

/// How many of these fit one request, at least one.
pub(super) fn one_request(reports: &[Report]) -> usize {
    let mut bytes = 0;
    let fits = reports.iter().take(REPORTS_MAX).take_while(|report| {
        bytes += report.ticket.len() + REPORT_BYTES;
        bytes <= REQUEST_MAX / 2
    });
    fits.count().max(1)
}

/// As they are sent.
pub(super) fn as_messages(reports: &[Report]) -> Vec<UseReport<'_>> {
    let messages = reports.iter().map(|report| UseReport {
        ticket: &report.ticket,
        count: report.count,
        first: report.first,
        last: report.last,
    });
    messages.collect()
}

/// Whether a report that failed so may be sent again. When the connection was lost it may have been taken: a use less is
/// told rather than one too many; and what the daemon does not take it will not take later.
pub(super) fn may_tell_again(error: &ClientError) -> bool {
    match error {
        ClientError::Failure(failure) | ClientError::Refused(failure) => {
            matches!(failure.code, ErrorCode::Unavailable | ErrorCode::Stopping | ErrorCode::TooManyConnections)
        }
        ClientError::Connect { .. } | ClientError::WrongServer { .. } => true,
        _ => false,
    }
}

/// What a question is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u64, u64);

/// Uses of one verdict that the daemon is to be told of.
pub(super) struct Report {
    pub(super) ticket: Arc<[u8]>,
    pub(super) count: u32,
    pub(super) first: UnixTime,
    pub(super) last: UnixTime,
}

/// See the file's head.
pub(super) struct Cache {
    hash_key: [u8; 16],
    sets: Box<[[ArcSwapOption<Entry>; WAYS]]>,
    /// Whether something in these sets was counted since it was last told.
    marks: Box<[Mark]>,
    /// Which way of a full set gives way next.
    hand: AtomicU32,
    left: Arc<Left>,
}

/// What entries that are gone had counted.
#[derive(Default)]
struct Left {
    reports: Mutex<Vec<Report>>,
    full: AtomicBool,
}

struct Entry {
    key: Key,
    page: Arc<Seen>,
    stamp: Stamp,
    good_until: UnixTime,
    verdict: Arc<Verdict>,
    ticket: Arc<[u8]>,
    uses: Uses,
    left: Arc<Left>,
}

/// What a look into the cache comes to.
pub(super) enum Found {
    /// This counts, and is counted.
    Kept(Arc<Verdict>),
    /// Ask, and keep what comes under this key.
    Ask(Key),
    /// Ask, and keep nothing.
    AskOnly,
}

impl Cache {
    /// Of at most `entries` verdicts, and at least a few.
    pub(super) fn new(entries: usize) -> Self {
        let sets = entries.div_ceil(WAYS).next_power_of_two();
        // Both halves come from the operating system's generator, by way of what the standard library keys its maps with.
        let half = || RandomState::new().build_hasher().finish().to_le_bytes();
        let mut hash_key = [0; 16];
        hash_key[..8].copy_from_slice(&half());
        hash_key[8..].copy_from_slice(&half());
        Self {
            hash_key,
            sets: (0..sets).map(|_| Default::default()).collect(),
            marks: (0..sets.div_ceil(SETS_PER_MARK)).map(|_| Mark::new()).collect(),
            hand: AtomicU32::new(0),
            left: Arc::default(),
        }
    }

    /// Whether this question was answered with *active*, and that still counts.
    pub(super) fn find(&self, ask: &Validate<'_>) -> Found {
        let Some(key) = self.key(ask) else { return Found::AskOnly };
        let place = self.place(key);
        for way in &self.sets[place] {
            let there = way.load();
            let Some(entry) = there.as_ref().filter(|entry| entry.key == key) else { continue };
            let now = match entry.page.check(&entry.stamp, boottime) {
                Check::Good(now) if now < entry.good_until => now,
                // It may count again when the daemon is back, or records again.
                Check::Ask => return Found::Ask(key),
                Check::Good(_) | Check::Changed | Check::Void => {
                    // Only if it is the same still: a newer one may have come.
                    way.compare_and_swap(&there, None);
                    return Found::Ask(key);
                }
            };
            if self.left.full.load(Ordering::Relaxed) || !entry.uses.count(now, &self.marks[place / SETS_PER_MARK]) {
                return Found::Ask(key);
            }
            return Found::Kept(Arc::clone(&entry.verdict));
        }
        Found::Ask(key)
    }

    /// Keeps an answer, if the daemon lets it be kept. `page` is of the connection that it came on.
    pub(super) fn keep(&self, key: Key, page: Option<&Arc<Seen>>, stamped: Stamped) -> Arc<Verdict> {
        let Stamped { verdict, cache } = stamped;
        let verdict = Arc::new(verdict);
        let (Some(page), Some(cache), true) = (page, cache, verdict.active) else { return verdict };
        let Cacheable { generation, slot, value, good_until, ticket } = cache;
        let entry = Arc::new(Entry {
            key,
            page: Arc::clone(page),
            stamp: Stamp { generation, slot, value },
            good_until: good_until.unwrap_or(UnixTime::MAX),
            verdict: Arc::clone(&verdict),
            ticket: ticket.into(),
            uses: Uses::new(0),
            left: Arc::clone(&self.left),
        });
        let set = &self.sets[self.place(key)];
        let is_free = |way: &&ArcSwapOption<Entry>| {
            let there = way.load();
            there.as_ref().is_none_or(|there| there.key == key || there.page.is_void())
        };
        let way = set.iter().find(is_free).unwrap_or_else(|| {
            // Any but always the same: which entries are used is not worth a write at each hit.
            &set[self.hand.fetch_add(1, Ordering::Relaxed) as usize % WAYS]
        });
        way.store(Some(entry));
        verdict
    }

    /// What was counted since the last time.
    pub(super) fn reports(&self) -> Vec<Report> {
        let mut reports = self.left.take();
        for (mark, sets) in self.marks.iter().zip(self.sets.chunks(SETS_PER_MARK)) {
            // Taken back before the counts are taken: what is counted meanwhile marks it again.
            if !mark.take() {
                continue;
            }
            for way in sets.iter().flatten() {
                reports.extend(way.load().as_ref().and_then(|entry| entry.report()));
            }
        }
        reports
    }

    /// Reports that were not taken, for the next time.
    pub(super) fn put_back(&self, reports: Vec<Report>) {
        self.left.add(reports);
    }

    /// The key of a question that may be answered out of a cache at all.
    fn key(&self, ask: &Validate<'_>) -> Option<Key> {
        if ask.note.is_some() || ask.peek {
            return None;
        }
        // The daemon refuses these; here one would look like what separates the others.
        if ask.scopes.iter().any(|scope| scope.is_empty()) || ask.audience.is_some_and(str::is_empty) {
            return None;
        }
        let mut hasher = SipHasher13::new_with_key(&self.hash_key);
        // The token goes straight from the caller's memory.
        hasher.write(ask.token.as_bytes());
        let mut rest = Gathered { bytes: [0; REST_MAX], length: 0 };
        for scope in &ask.scopes {
            rest.put(SCOPE)?;
            rest.put(scope.as_bytes())?;
        }
        if let Some(audience) = ask.audience {
            rest.put(AUDIENCE)?;
            rest.put(audience.as_bytes())?;
        }
        if let Some(address) = ask.from {
            rest.put(ADDRESS)?;
            match address {
                IpAddr::V4(address) => rest.put(&address.octets())?,
                IpAddr::V6(address) => rest.put(&address.octets())?,
            }
        }
        hasher.write(&rest.bytes[..rest.length]);
        let hash = hasher.finish128();
        Some(Key(hash.h1, hash.h2))
    }

    fn place(&self, key: Key) -> usize {
        // A power of two of them.
        key.0 as usize & (self.sets.len() - 1)
    }
}

impl Entry {
    fn report(&self) -> Option<Report> {
        let Taken { count, first, last } = self.uses.take()?;
        Some(Report { ticket: Arc::clone(&self.ticket), count, first, last })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(report) = self.report() {
            self.left.add([report]);
        }
    }
}

impl Left {
    fn lock(&self) -> MutexGuard<'_, Vec<Report>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, reports: impl IntoIterator<Item = Report>) {
        let mut there = self.lock();
        there.extend(reports);
        self.full.store(there.len() >= WAITING_MAX, Ordering::Relaxed);
    }

    fn take(&self) -> Vec<Report> {
        let mut there = self.lock();
        self.full.store(false, Ordering::Relaxed);
        std::mem::take(&mut there)
    }
}

/// Bytes put one behind the other: a hash is quicker of one piece than of many.
struct Gathered {
    bytes: [u8; REST_MAX],
    length: usize,
}

impl Gathered {
    fn put(&mut self, piece: &[u8]) -> Option<()> {
        let end = self.length + piece.len();
        self.bytes.get_mut(self.length..end)?.copy_from_slice(piece);
        self.length = end;
        Some(())
    }
}

/// CLOCK_BOOTTIME.
pub(super) fn boottime() -> Duration {
    // Every Linux that has memfd has it; without a clock nothing that is kept may count.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}

#[cfg(all(test, feature = "daemon"))]
mod tests;
