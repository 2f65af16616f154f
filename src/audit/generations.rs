//! Which changes have their line in the log: what the store may drop from its outbox.
//!
//! Invariant: a change counts as told only when its line is fsynced, and all before it too. Changes arrive in any order
//! (their askers run concurrently), so that beside "all up to" there are ranges beyond.

use std::collections::BTreeMap;

/// Ranges beyond that a seal carries; more would only mean a doubled line after a crash.
const BEYOND_MAX: usize = 1024;

/// The generations whose lines are durable, and those whose lines are only written.
#[derive(Debug)]
pub(super) struct Generations {
    /// All up to this one are durable.
    through: u64,
    /// Durable ranges beyond, by their first generation.
    beyond: BTreeMap<u64, u64>,
    /// Written since the last sync began.
    written: Vec<u64>,
    /// Written before the sync that is under way.
    syncing: Vec<u64>,
    newest: u64,
}

impl Generations {
    /// `newest` is the store's generation, `owed` what is still in its outbox.
    pub(super) fn new(newest: u64, owed: impl IntoIterator<Item = u64>) -> Self {
        let mut owed: Vec<u64> = owed.into_iter().collect();
        owed.sort_unstable();
        let mut generations =
            Self { through: newest, beyond: BTreeMap::new(), written: Vec::new(), syncing: Vec::new(), newest };
        if let Some(first) = owed.first() {
            generations.through = first.saturating_sub(1);
            for (i, generation) in owed.iter().enumerate() {
                let next = owed.get(i + 1).copied().unwrap_or(newest.saturating_add(1));
                if next > generation + 1 {
                    generations.beyond.insert(generation + 1, next - 1);
                }
            }
        }
        generations
    }

    /// A line without a generation of its own carries this.
    pub(super) const fn newest(&self) -> u64 {
        self.newest
    }

    /// The store says that it made this generation durable.
    pub(super) fn known(&mut self, generation: u64) {
        self.newest = self.newest.max(generation);
    }

    /// The line of this change has been written.
    pub(super) fn wrote(&mut self, generation: u64) {
        self.written.push(generation);
    }

    /// A sync begins: it speaks for what has been written, and for nothing that is written meanwhile.
    pub(super) fn sync_began(&mut self) {
        self.syncing.append(&mut self.written);
    }

    /// It has ended.
    pub(super) fn sync_ended(&mut self, durable: bool) {
        let mut written = std::mem::take(&mut self.syncing);
        if !durable {
            self.written.append(&mut written);
            return;
        }
        written.sort_unstable();
        for generation in written {
            self.insert(generation);
        }
    }

    /// All that was written is durable now.
    pub(super) fn synced(&mut self) {
        self.sync_began();
        self.sync_ended(true);
    }

    /// What was written is not known to be there: it is told again.
    pub(super) fn unwritten(&mut self) {
        self.written.clear();
        self.syncing.clear();
    }

    /// All up to this one are durable in the log.
    pub(super) const fn through(&self) -> u64 {
        self.through
    }

    /// Durable ranges beyond [`Self::through`].
    pub(super) fn beyond(&self) -> Vec<(u64, u64)> {
        self.beyond.iter().take(BEYOND_MAX).map(|(first, last)| (*first, *last)).collect()
    }

    fn insert(&mut self, generation: u64) {
        if generation <= self.through {
            return;
        }
        let (mut first, mut last) = (generation, generation);
        if let Some((before, end)) = self.beyond.range(..=generation).next_back().map(|(a, b)| (*a, *b)) {
            if end >= generation {
                return;
            }
            if end + 1 == generation {
                self.beyond.remove(&before);
                first = before;
            }
        }
        if let Some(end) = generation.checked_add(1).and_then(|next| self.beyond.remove(&next)) {
            last = end;
        }
        self.beyond.insert(first, last);
        while let Some(end) = self.beyond.remove(&(self.through + 1)) {
            self.through = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_is_fsynced_without_a_hole_may_be_dropped() {
        let mut generations = Generations::new(10, []);
        assert_eq!(generations.through(), 10);
        generations.wrote(12);
        generations.synced();
        assert_eq!((generations.through(), generations.beyond()), (10, vec![(12, 12)]));
        generations.wrote(11);
        assert_eq!(generations.through(), 10, "written is not durable");
        generations.synced();
        assert_eq!((generations.through(), generations.beyond()), (12, vec![]));
        generations.wrote(13);
        generations.unwritten();
        generations.synced();
        assert_eq!(generations.through(), 12);
    }

    #[test]
    fn a_sync_speaks_for_what_was_written_before_it_began() {
        let mut generations = Generations::new(0, []);
        generations.wrote(1);
        generations.sync_began();
        generations.wrote(2);
        generations.sync_ended(true);
        assert_eq!(generations.through(), 1);
        generations.sync_began();
        generations.wrote(3);
        generations.sync_ended(false);
        assert_eq!(generations.through(), 1, "a failed one speaks for nothing");
        generations.synced();
        assert_eq!(generations.through(), 3);
    }

    #[test]
    fn what_the_outbox_holds_is_owed_and_the_rest_is_not() {
        let mut generations = Generations::new(10, [9, 4, 5]);
        assert_eq!((generations.through(), generations.beyond()), (3, vec![(6, 8), (10, 10)]));
        for generation in [5, 9, 4] {
            generations.wrote(generation);
        }
        generations.synced();
        assert_eq!((generations.through(), generations.beyond()), (10, vec![]));
    }

    proptest! {
        #[test]
        fn any_order_ends_in_one_range(order in Just((1..=60_u64).collect::<Vec<_>>()).prop_shuffle(), holes in 0..3_usize) {
            let mut generations = Generations::new(0, []);
            let (late, soon) = order.split_at(holes);
            for generation in soon {
                generations.wrote(*generation);
                generations.synced();
                let covered = |g: u64| g <= generations.through() || generations.beyond().iter().any(|(a, b)| (*a..=*b).contains(&g));
                prop_assert!(covered(*generation));
                prop_assert!(late.iter().all(|g| !covered(*g)));
            }
            let lowest = late.iter().min().map_or(60, |g| g - 1);
            prop_assert_eq!(generations.through(), lowest);
            prop_assert!(generations.beyond().len() <= holes);
        }
    }
}
