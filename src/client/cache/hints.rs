//! Where in a set a key may be: a byte of each key there, all eight looked at at once.
//!
//! A hint is not written in one step with the entry that it is of, so it is no more than that: what is found is compared
//! with the whole key, and what is not found is asked for.

use super::WAYS;
use super::atomic::{AtomicU64, Ordering};

/// Of one set.
#[derive(Default)]
pub(super) struct Hints(AtomicU64);

/// All bytes 1.
const ONES: u64 = u64::MAX / 0xff;

const _: () = assert!(WAYS == 8, "a word has eight bytes");

impl Hints {
    /// The ways that have this hint, and now and then one that has not.
    pub(super) fn ways(&self, hint: u8) -> impl Iterator<Item = usize> {
        let other = self.0.load(Ordering::Relaxed) ^ (u64::from(hint) * ONES);
        // The highest bit of each byte that is zero, and maybe of some above one: Mycroft's way to find a zero byte.
        let mut same = other.wrapping_sub(ONES) & !other & (ONES << 7);
        std::iter::from_fn(move || {
            let way = (same.trailing_zeros() / 8) as usize;
            same &= same.wrapping_sub(1);
            (way < WAYS).then_some(way)
        })
    }

    /// This way has this hint from now on.
    pub(super) fn put(&self, way: usize, hint: u8) {
        let shift = 8 * way;
        let put = |hints: u64| Some(hints & !(0xff << shift) | u64::from(hint) << shift);
        // It never declines.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, put);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_that_has_a_hint_is_found_in_turn() {
        let hints = Hints::default();
        assert_eq!(hints.ways(0).collect::<Vec<_>>(), (0..WAYS).collect::<Vec<_>>());
        assert_eq!(hints.ways(7).count(), 0);
        for (way, hint) in [(0, 7), (3, 0xff), (7, 7), (4, 0x80), (0, 9)] {
            hints.put(way, hint);
        }
        assert_eq!(hints.ways(9).collect::<Vec<_>>(), [0]);
        assert_eq!(hints.ways(0xff).next(), Some(3));
        assert_eq!(hints.ways(0x80).next(), Some(4));
        assert_eq!(hints.ways(7).collect::<Vec<_>>(), [7]);
    }

    /// Whatever else is there.
    #[test]
    fn none_that_has_it_is_left_out() {
        let hints = Hints::default();
        for number in 0..100_000_u64 {
            let word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let bytes = word.to_le_bytes();
            bytes.iter().enumerate().for_each(|(way, &byte)| hints.put(way, byte));
            let hint = bytes[(number % 8) as usize];
            let found: Vec<usize> = hints.ways(hint).collect();
            assert!(found.is_sorted());
            assert!((0..WAYS).all(|way| bytes[way] != hint || found.contains(&way)), "{word:x} {hint:x} {found:?}");
        }
    }
}
