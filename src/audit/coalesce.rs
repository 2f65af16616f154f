//! One line for many like events: the first is written, the rest of its window counted.
//!
//! Invariant I4: an event is only counted where its first line is written or being waited for, and every count is told
//! in a line at the window's end. What can't be kept (the table is full) gets a line of its own. Sharded, because every
//! validation of every connection passes here; keys are hashes under random keys of this process, so that a peer can
//! neither make two different uses look alike nor pile keys into one shard.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry as Slot, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::event::AuditEvent;
use super::receipt::{Pending, Receipt, Standing};
use crate::time::UnixTime;

const SHARDS: usize = 64;
/// Windows open at once in a shard; 32,768 in all, some 20 MiB.
const WINDOWS_PER_SHARD: usize = 512;

/// What makes two events alike: 128 bits, twice SipHash-1-3 under two random keys of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UseKey(u128);

impl UseKey {
    /// The key of what is fed: everything that must be the same for two events to share a line.
    pub fn of(feed: impl FnOnce(&mut KeyHasher)) -> Self {
        static KEYS: OnceLock<[RandomState; 2]> = OnceLock::new();
        let keys = KEYS.get_or_init(|| [RandomState::new(), RandomState::new()]);
        let mut hasher =
            KeyHasher { gathered: [0; GATHERED], filled: 0, high: keys[0].build_hasher(), low: keys[1].build_hasher() };
        feed(&mut hasher);
        hasher.pass_on();
        Self(u128::from(hasher.high.finish()) << 64 | u128::from(hasher.low.finish()))
    }
}

impl std::hash::Hash for UseKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0 as u64);
    }
}

/// Bytes that are gathered before they are hashed: what a use is made of fits mostly.
const GATHERED: usize = 160;

/// Feeds both halves of a [`UseKey`]: `key.hash(hasher)` of whatever is `Hash`. What is fed in many small pieces is hashed
/// in few large ones, which costs a fraction and comes to the same.
pub struct KeyHasher {
    gathered: [u8; GATHERED],
    filled: usize,
    high: DefaultHasher,
    low: DefaultHasher,
}

impl Hasher for KeyHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        match self.gathered[self.filled..].get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.filled += bytes.len();
            }
            None => self.write_through(bytes),
        }
    }

    /// Not asked for: a [`UseKey`] is made of both halves.
    fn finish(&self) -> u64 {
        let mut high = self.high.clone();
        high.write(&self.gathered[..self.filled]);
        high.finish()
    }
}

impl KeyHasher {
    #[cold]
    fn write_through(&mut self, bytes: &[u8]) {
        self.pass_on();
        self.high.write(bytes);
        self.low.write(bytes);
    }

    fn pass_on(&mut self) {
        let gathered = &self.gathered[..self.filled];
        self.high.write(gathered);
        self.low.write(gathered);
        self.filled = 0;
    }
}

/// A key is a hash already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("a UseKey writes one u64");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The line that opens a window.
pub(super) struct Opening {
    pub(super) event: Arc<AuditEvent>,
    /// What its askers wait on, if any do.
    pub(super) pending: Option<Arc<Pending>>,
    /// Whose budget its end is charged to.
    pub(super) uid: Option<u32>,
}

/// The line that ends a window: what was counted.
pub(super) struct Closing {
    pub(super) event: AuditEvent,
    /// It is only true if this one was written.
    pub(super) after: Option<Arc<Pending>>,
    pub(super) uid: Option<u32>,
}

/// What became of an event.
pub(super) enum Counted {
    /// Counted under a line that is written.
    Done,
    /// Counted under a line that is not written yet.
    Wait(Receipt),
    /// It opened a window; an older one of the same key is ended first.
    Opened(Option<Box<Closing>>),
    /// `open` made no line.
    Refused,
}

struct Window {
    first: UnixTime,
    last: UnixTime,
    /// Events after the first.
    rest: u64,
    opening: Opening,
}

impl Window {
    fn close(self) -> Option<Closing> {
        let Opening { event, pending, uid } = self.opening;
        let void = pending.as_ref().is_some_and(|pending| pending.standing() == Standing::Void);
        if self.rest == 0 || void {
            return None;
        }
        let event = AuditEvent {
            time: self.last,
            count: Some(self.rest),
            first: Some(self.first),
            last: Some(self.last),
            generation: None,
            ..AuditEvent::clone(&event)
        };
        Some(Closing { event, after: pending, uid })
    }
}

#[derive(Default)]
struct Shard {
    windows: HashMap<UseKey, Window, BuildHasherDefault<AsItIs>>,
    /// In the order in which they opened.
    order: VecDeque<(UnixTime, UseKey)>,
}

/// The open windows.
pub(super) struct Coalescer {
    window: Duration,
    max_wait: Duration,
    shards: Box<[Mutex<Shard>]>,
}

impl Coalescer {
    /// `window` zero: every event is a line.
    pub(super) fn new(window: Duration, max_wait: Duration) -> Self {
        Self { window, max_wait, shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Counts an event, or has `open` make the line of a new window. `open` runs under the shard's lock: it must be
    /// quick, and not come here again.
    pub(super) fn count(&self, key: UseKey, time: UnixTime, open: impl FnOnce() -> Option<Opening>) -> Counted {
        if self.window.is_zero() {
            return if open().is_some() { Counted::Opened(None) } else { Counted::Refused };
        }
        let mut shard = self.shard(key);
        let shard = &mut *shard;
        let full = shard.windows.len() >= WINDOWS_PER_SHARD || shard.order.len() >= 4 * WINDOWS_PER_SHARD;
        match shard.windows.entry(key) {
            Slot::Occupied(mut slot) => {
                let window = slot.get_mut();
                if !self.is_over(window.first, time) {
                    let standing = match &window.opening.pending {
                        None => Err(Standing::Written),
                        Some(pending) => pending.attach(self.max_wait),
                    };
                    if !matches!(standing, Err(Standing::Void)) {
                        window.rest += 1;
                        window.last = window.last.max(time);
                        return standing.map_or(Counted::Done, Counted::Wait);
                    }
                }
                let Some(opening) = open() else { return Counted::Refused };
                let old = slot.insert(Window { first: time, last: time, rest: 0, opening });
                shard.order.push_back((time, key));
                Counted::Opened(old.close().map(Box::new))
            }
            Slot::Vacant(slot) => {
                let Some(opening) = open() else { return Counted::Refused };
                if !full {
                    slot.insert(Window { first: time, last: time, rest: 0, opening });
                    shard.order.push_back((time, key));
                }
                Counted::Opened(None)
            }
        }
    }

    /// Ends the windows that are over at `now`, or all.
    pub(super) fn sweep(&self, now: UnixTime, all: bool, mut end: impl FnMut(Closing)) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            while let Some((first, key)) = shard.order.front().copied() {
                if !all && !self.is_over(first, now) {
                    break;
                }
                shard.order.pop_front();
                // A window that took the place of this one has its own place in the order.
                if shard.windows.get(&key).is_some_and(|window| window.first == first)
                    && let Some(closing) = shard.windows.remove(&key).and_then(Window::close)
                {
                    end(closing);
                }
            }
        }
    }

    /// Open windows.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).windows.len()).sum()
    }

    /// Also when the clock was taken back: a window must not stay open until it has caught up.
    fn is_over(&self, first: UnixTime, time: UnixTime) -> bool {
        time.since(first) >= self.window || first.since(time) >= self.window
    }

    fn shard(&self, key: UseKey) -> MutexGuard<'_, Shard> {
        lock(&self.shards[(key.0 >> 64) as usize % SHARDS])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::hash::Hash;

    use super::*;
    use crate::audit::event::EventKind;

    const WINDOW: Duration = Duration::from_secs(1);

    fn key(name: &str) -> UseKey {
        UseKey::of(|hasher| name.hash(hasher))
    }

    fn millis(millis: u64) -> UnixTime {
        UnixTime::from_micros(1_000_000_000 + millis * 1000)
    }

    fn opening(at: UnixTime, pending: Option<Arc<Pending>>) -> Option<Opening> {
        let mut event = AuditEvent::new(EventKind::Use, at);
        event.count = Some(1);
        Some(Opening { event: Arc::new(event), pending, uid: None })
    }

    fn swept(coalescer: &Coalescer, now: UnixTime, all: bool) -> Vec<AuditEvent> {
        let mut ended = Vec::new();
        coalescer.sweep(now, all, |closing| ended.push(closing.event));
        ended
    }

    #[test]
    fn the_first_opens_the_rest_is_counted_and_told_once() {
        let coalescer = Coalescer::new(WINDOW, WINDOW);
        let count = |name, at| coalescer.count(key(name), at, || opening(at, None));
        assert!(matches!(count("a", millis(0)), Counted::Opened(None)));
        assert!(matches!(count("b", millis(0)), Counted::Opened(None)));
        for at in [1, 2, 999] {
            assert!(matches!(count("a", millis(at)), Counted::Done));
        }
        assert!(swept(&coalescer, millis(999), false).is_empty());
        let ended = swept(&coalescer, millis(1000), false);
        assert_eq!(ended.len(), 1, "b had one event, which its first line told");
        assert_eq!((ended[0].count, ended[0].first, ended[0].last), (Some(3), Some(millis(0)), Some(millis(999))));
        assert_eq!(coalescer.len(), 0);
        assert!(matches!(count("a", millis(1001)), Counted::Opened(None)));
    }

    #[test]
    fn a_new_window_ends_the_old_one_even_before_the_sweep() {
        let coalescer = Coalescer::new(WINDOW, WINDOW);
        let count = |at| coalescer.count(key("a"), at, || opening(at, None));
        count(millis(0));
        count(millis(5));
        let Counted::Opened(Some(old)) = count(millis(1000)) else { panic!("the window is over") };
        assert_eq!(old.event.count, Some(1));
        count(millis(1500));
        assert_eq!(swept(&coalescer, millis(1600), false), [], "the new window is not ended by the old one's time");
        assert_eq!(swept(&coalescer, millis(2000), false).len(), 1);
        // The clock taken back by a year.
        count(millis(9000));
        let Counted::Opened(None) = coalescer.count(key("a"), UnixTime::EPOCH, || opening(UnixTime::EPOCH, None))
        else {
            panic!("a window of the future is over")
        };
    }

    #[test]
    fn nothing_leans_on_a_line_that_will_not_be() {
        let coalescer = Coalescer::new(WINDOW, WINDOW);
        let pending = Pending::new();
        let first = pending.attach(WINDOW).unwrap();
        coalescer.count(key("a"), millis(0), || opening(millis(0), Some(Arc::clone(&pending))));
        let Counted::Wait(second) = coalescer.count(key("a"), millis(1), || panic!("counted")) else {
            panic!("not written yet: it must be waited for")
        };
        assert!(pending.take());
        pending.finish(false);
        assert!(first.poll().unwrap().is_err() && second.poll().unwrap().is_err());
        let Counted::Opened(closing) = coalescer.count(key("a"), millis(2), || opening(millis(2), None)) else {
            panic!("a failed line carries nobody")
        };
        assert!(closing.is_none(), "who was told unavailable is not counted as active");
        assert!(matches!(coalescer.count(key("a"), millis(3), || None), Counted::Done));
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_lost_by_it() {
        let coalescer = Coalescer::new(WINDOW, WINDOW);
        for i in 0..100_000_u32 {
            let counted = coalescer.count(UseKey::of(|h| i.hash(h)), millis(0), || opening(millis(0), None));
            assert!(matches!(counted, Counted::Opened(None)));
        }
        assert_eq!(coalescer.len(), SHARDS * WINDOWS_PER_SHARD);
        assert!(swept(&coalescer, millis(0), true).is_empty());
        assert_eq!(coalescer.len(), 0);
    }

    #[test]
    fn a_key_is_of_all_that_was_fed() {
        assert_eq!(key("a"), key("a"));
        assert_ne!(key("a"), key("b"));
        assert_ne!(UseKey::of(|h| ("ab", "c").hash(h)), UseKey::of(|h| ("a", "bc").hash(h)));
        // Gathered or not, whole or in pieces.
        let long = "0123456789".repeat(40);
        let pieces = UseKey::of(|h| long.as_bytes().chunks(7).for_each(|piece| h.write(piece)));
        assert_eq!(pieces, UseKey::of(|h| h.write(long.as_bytes())));
        for end in [0, 1, 159, 160, 161, 399] {
            assert_ne!(pieces, UseKey::of(|h| h.write(&long.as_bytes()[..end])));
        }
        let UseKey(wide) = key("a");
        assert_ne!((wide >> 64) as u64, wide as u64, "two keys, two halves");
    }

    #[test]
    fn zero_means_every_one() {
        let coalescer = Coalescer::new(Duration::ZERO, WINDOW);
        for _ in 0..2 {
            assert!(matches!(coalescer.count(key("a"), millis(0), || opening(millis(0), None)), Counted::Opened(None)));
        }
    }
}
