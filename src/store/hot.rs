//! The hot path of lookups: a bounded cache, slots that say when an entry is stale, and what is about to change.
//!
//! Invariant I2: no lookup that begins after the reply to a restricting change sees the state before it. The reasoning,
//! once, for the whole store:
//!
//! A token's **slot** is a counter that only grows; it lies in the epoch page, where clients see it too, so that what is
//! said here of a reader holds for caches of other processes as for this one. A reader loads the slot (Acquire) *before* it reads the state, keeps
//! that value with what it caches, and later takes the entry only if the slot still has that value. The writer, for a
//! change that **restricts**:
//!
//! 1. puts the new record into `pending`: from here on lookups are answered by it, before it is durable;
//! 2. bumps the slot (Release);
//! 3. commits;
//! 4. bumps the slot again, and only then takes the record out of `pending`.
//!
//! - A reader that saw the slot as it was before 2 may read the old state and cache it under a value that the slot
//!   never has again. It began before the reply.
//! - A reader that saw the value of 2 also sees 1, because the bump is a Release after it. So it finds the record in
//!   `pending`, or finds it gone, which is after 3: then the engine's new read shows the new state. Either way nothing
//!   old is cached under that value. (What is answered from `pending` is not cached.)
//! - A reader that begins after the reply sees the value of 4, under which only what was read after 3 is cached.
//!
//! A change that **extends** (or is new) is not put into `pending`: lookups see the old state until it is durable, and
//! the bump comes after the commit. A change that does both puts what is good for no more than either into `pending`.
//! What restricts after an extension of the same batch leaves `pending` as it is: its result has the extension in it,
//! which is not durable. When a commit fails, `pending` is cleared and the slots bumped: a token was refused a moment
//! early, which is safe; acknowledging early is not. After a failed sync `pending` stays: what the disk holds is not
//! known, and refusing is safe.
//!
//! Several tokens share a slot: a bump for one costs another a read, never a stale answer.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::hot_record::HotRecord;
use super::record::TokenRecord;
use crate::page::{Epochs, slot_of};
use crate::token::TokenId;

/// Shards of the cache: readers on different cores rarely meet.
const SHARDS: usize = 64;

/// A cached record, or one about to change; `None` = removed.
type Found = Option<Arc<HotRecord>>;

/// See the room's head.
pub(super) struct Hot {
    epochs: Arc<dyn Epochs>,
    shards: Box<[RwLock<Shard>]>,
    shard_entries: usize,
    pending: RwLock<HashMap<TokenId, Found>>,
    /// How many are pending: the fast path reads only this.
    pending_count: AtomicUsize,
    /// A token was imported, ever.
    imports: AtomicBool,
}

/// One part of the cache, with second-chance eviction.
#[derive(Default)]
struct Shard {
    /// Keyed by the standard library's random state: peers choose the ids that they ask for.
    entries: HashMap<TokenId, Entry, RandomState>,
    /// The keys of `entries`, in the order that the hand passes them.
    ring: Vec<TokenId>,
    hand: usize,
}

struct Entry {
    /// The slot's value that was read before the record.
    slot: u64,
    record: Arc<HotRecord>,
    /// Hit since the hand last passed.
    used: AtomicBool,
}

impl Hot {
    /// An empty cache of at most about `entries` records.
    pub(super) fn new(entries: usize, epochs: Arc<dyn Epochs>) -> Self {
        Self {
            epochs,
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            shard_entries: entries.div_ceil(SHARDS).max(1),
            pending: RwLock::default(),
            pending_count: AtomicUsize::new(0),
            imports: AtomicBool::new(false),
        }
    }

    /// The value of the token's slot: read it before anything else of the token.
    pub(super) fn slot(&self, id: TokenId) -> u64 {
        self.epochs.slot(id)
    }

    /// What is about to be the token's state, if that is more restricted than what it is.
    pub(super) fn pending(&self, id: TokenId) -> Option<Found> {
        if self.pending_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.pending.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// The cached record, if it was read under this value of its slot.
    pub(super) fn cached(&self, id: TokenId, slot: u64) -> Option<Arc<HotRecord>> {
        let shard = self.shard(id).read().unwrap_or_else(PoisonError::into_inner);
        let entry = shard.entries.get(&id).filter(|entry| entry.slot == slot)?;
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&entry.record))
    }

    /// Keeps a record that was read from the engine after `slot` was read.
    pub(super) fn keep(&self, slot: u64, record: Arc<HotRecord>) {
        let id = record.id;
        let entry = Entry { slot, record, used: AtomicBool::new(false) };
        let mut shard = self.shard(id).write().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = shard.entries.get_mut(&id) {
            // A slower reader with an older value must not push out a newer one.
            if there.slot <= entry.slot {
                *there = entry;
            }
            return;
        }
        if shard.ring.len() < self.shard_entries {
            shard.ring.push(id);
        } else {
            let place = shard.evict();
            shard.ring[place] = id;
        }
        shard.entries.insert(id, entry);
    }

    /// Steps 1 and 2 of a change that restricts.
    pub(super) fn restrict(&self, id: TokenId, record: Option<TokenRecord>) {
        let mut pending = self.pending.write().unwrap_or_else(PoisonError::into_inner);
        pending.insert(id, record.map(|record| Arc::new(HotRecord::new(record))));
        self.pending_count.store(pending.len(), Ordering::Release);
        drop(pending);
        self.bump(id);
    }

    /// Step 4, for all that a batch changed; or the way back, when its commit is known to have failed.
    pub(super) fn settle(&self, changed: impl IntoIterator<Item = TokenId>) {
        for id in changed {
            self.bump(id);
        }
        let mut pending = self.pending.write().unwrap_or_else(PoisonError::into_inner);
        pending.clear();
        self.pending_count.store(0, Ordering::Release);
    }

    /// There are imported tokens, or will be in a moment: looking for one too early finds none.
    pub(super) fn knows_imports(&self) {
        self.imports.store(true, Ordering::Release);
    }

    pub(super) fn has_imports(&self) -> bool {
        self.imports.load(Ordering::Acquire)
    }

    fn bump(&self, id: TokenId) {
        #[cfg(feature = "mutants")]
        if mutant!(BumpAfterReply) {
            let epochs = Arc::clone(&self.epochs);
            return crate::page::mutant::late(move || epochs.bump(id));
        }
        self.epochs.bump(id);
    }

    fn shard(&self, id: TokenId) -> &RwLock<Shard> {
        &self.shards[slot_of(id) % SHARDS]
    }
}

impl Shard {
    /// Frees a place of the full ring: passes over what was used since the last time, once.
    fn evict(&mut self) -> usize {
        loop {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.ring.len();
            let id = self.ring[place];
            match self.entries.get(&id) {
                Some(entry) if entry.used.swap(false, Ordering::Relaxed) => {}
                _ => {
                    self.entries.remove(&id);
                    return place;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Writer;
    use crate::store::testing::record;

    fn hot(entries: usize) -> Hot {
        Hot::new(entries, Arc::new(Writer::private()))
    }

    fn hot_record(id: TokenId, version: u64) -> Arc<HotRecord> {
        Arc::new(HotRecord::new(record(id, version)))
    }

    fn id(n: u128) -> TokenId {
        TokenId::from_bytes(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes())
    }

    #[test]
    fn an_entry_is_good_only_for_the_slot_value_it_was_read_under() {
        let hot = hot(1000);
        let slot = hot.slot(id(1));
        hot.keep(slot, hot_record(id(1), 1));
        assert_eq!(hot.cached(id(1), slot).expect("cached").version, 1);
        hot.settle([id(1)]);
        let later = hot.slot(id(1));
        assert!(later > slot);
        assert!(hot.cached(id(1), later).is_none());
        // The reader that was overtaken comes back with what it read before the change: never taken, nor does it push
        // out what is newer.
        hot.keep(slot, hot_record(id(1), 1));
        assert!(hot.cached(id(1), later).is_none());
        hot.keep(later, hot_record(id(1), 2));
        hot.keep(slot, hot_record(id(1), 1));
        assert_eq!(hot.cached(id(1), later).expect("cached").version, 2);
    }

    #[test]
    fn what_is_about_to_be_restricted_is_seen_at_once_and_until_it_is_settled() {
        let hot = hot(1000);
        let before = hot.slot(id(1));
        assert!(hot.pending(id(1)).is_none());
        hot.restrict(id(1), Some(record(id(1), 2)));
        hot.restrict(id(2), None);
        assert!(hot.slot(id(1)) > before);
        assert_eq!(hot.pending(id(1)).flatten().expect("pending").version, 2);
        assert!(hot.pending(id(2)).expect("pending").is_none());
        assert!(hot.pending(id(3)).is_none());
        let between = hot.slot(id(1));
        hot.settle([id(1), id(2)]);
        assert!(hot.slot(id(1)) > between);
        assert!(hot.pending(id(1)).is_none());
    }

    #[test]
    fn it_stays_bounded_and_keeps_what_is_used() {
        let hot = hot(SHARDS * 8);
        for n in 0..20_000 {
            hot.keep(hot.slot(id(n)), hot_record(id(n), 1));
            // Asked for all the time.
            let _ = hot.cached(id(0), hot.slot(id(0)));
        }
        let kept: usize = hot.shards.iter().map(|shard| shard.read().expect("sound").entries.len()).sum();
        assert_eq!(kept, SHARDS * 8);
        for shard in &hot.shards {
            let shard = shard.read().expect("sound");
            assert_eq!(shard.ring.len(), shard.entries.len());
            assert!(shard.ring.iter().all(|id| shard.entries.contains_key(id)));
        }
        assert!(hot.cached(id(0), hot.slot(id(0))).is_some());
    }
}
