//! Rates: at most so many in each period, by the generic cell rate algorithm (ITU-T I.371, annex A, virtual scheduling).
//!
//! One number a key is all the state there is: the theoretical arrival time. It is in memory only; a restart forgets it.
//! (A crate was looked for: those with a state per key have one quota for all keys, and here each token has its own.)

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::store::record::Rate;

/// Keys that are kept at most; one more than that is refused until some have run out.
pub const KEYS_MAX: usize = 65_536;

/// Counts by key. A key whose period has run out takes no room.
pub struct RateLimiter<K> {
    arrivals: Mutex<HashMap<K, Duration>>,
}

impl<K> Default for RateLimiter<K> {
    fn default() -> Self {
        Self { arrivals: Mutex::new(HashMap::new()) }
    }
}

impl<K: Eq + Hash> RateLimiter<K> {
    /// Whether one more at `now` (CLOCK_BOOTTIME) is within `rate`, and counts it if `spend`.
    #[must_use]
    pub fn allow(&self, key: K, rate: Rate, now: Duration, spend: bool) -> bool {
        let step = rate.per / rate.count.max(1);
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let due = arrivals.get(&key).copied().unwrap_or(now).max(now);
        if due + step > now + rate.per {
            return false;
        }
        if spend {
            if arrivals.len() >= KEYS_MAX && !arrivals.contains_key(&key) {
                arrivals.retain(|_, due| *due > now);
                if arrivals.len() >= KEYS_MAX {
                    return false;
                }
            }
            arrivals.insert(key, due + step);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { count: 3, per: Duration::from_secs(60) };

    #[test]
    fn a_full_period_at_once_and_then_one_each_step() {
        let limiter = RateLimiter::default();
        let at = Duration::from_secs;
        assert!((0..3).all(|_| limiter.allow("a", RATE, at(100), true)));
        assert!(!limiter.allow("a", RATE, at(100), true));
        assert!(limiter.allow("b", RATE, at(100), true), "another key has its own count");
        assert!(!limiter.allow("a", RATE, at(119), true));
        assert!(limiter.allow("a", RATE, at(120), true));
        assert!(!limiter.allow("a", RATE, at(120), true));
        assert!((0..3).all(|_| limiter.allow("a", RATE, at(200), true)));
    }

    #[test]
    fn a_peek_spends_nothing() {
        let limiter = RateLimiter::default();
        let now = Duration::from_secs(1);
        assert!((0..10).all(|_| limiter.allow("a", RATE, now, false)));
        assert!((0..3).all(|_| limiter.allow("a", RATE, now, true)));
        assert!(!limiter.allow("a", RATE, now, false));
    }

    #[test]
    fn memory_is_bounded_and_freed_when_periods_run_out() {
        let limiter = RateLimiter::default();
        assert!((0..KEYS_MAX).all(|key| limiter.allow(key, RATE, Duration::ZERO, true)));
        assert!(!limiter.allow(KEYS_MAX, RATE, Duration::ZERO, true));
        assert!(limiter.allow(KEYS_MAX, RATE, Duration::from_secs(61), true));
        assert_eq!(limiter.arrivals.lock().unwrap().len(), 1);
    }
}
