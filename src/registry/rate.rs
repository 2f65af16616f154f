//! Rates: at most so many in each period, by the generic cell rate algorithm (ITU-T I.371, annex A, virtual scheduling).
//!
//! One number a key is all the state there is: the theoretical arrival time. It is in memory only; a restart forgets it.
//! (A crate was looked for: those with a state per key have one quota for all keys, and here each token has its own.)

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::store::record::Rate;

/// Keys that are kept at most; one more than that is refused until some have run out.
pub const KEYS_MAX: usize = 65_536;

/// Counts by key. A key whose period has run out takes no room.
pub struct RateLimiter<K> {
    arrivals: Mutex<HashMap<K, Duration>>,
}

/// What came of counting.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// It is within the rate, and counted.
    Counted,
    /// It is more than the rate has left for this key: nothing was counted.
    Over,
    /// There is no room to count for one more key: others have taken it. Nothing was counted.
    Crowded,
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
        if spend {
            return self.spend(key, 1, rate, now) == Spent::Counted;
        }
        next(&self.lock(), &key, 1, rate, now).is_some()
    }

    /// Counts `weight` at once at `now` (CLOCK_BOOTTIME): all of it, or nothing.
    pub fn spend(&self, key: K, weight: u32, rate: Rate, now: Duration) -> Spent {
        let mut arrivals = self.lock();
        let Some(next) = next(&arrivals, &key, weight, rate, now) else { return Spent::Over };
        if arrivals.len() >= KEYS_MAX && !arrivals.contains_key(&key) {
            arrivals.retain(|_, due| *due > now);
            if arrivals.len() >= KEYS_MAX {
                return Spent::Crowded;
            }
        }
        arrivals.insert(key, next);
        Spent::Counted
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Duration>> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The theoretical arrival time after `weight` more; `None` where that is more than `rate` allows.
fn next<K: Eq + Hash>(
    arrivals: &HashMap<K, Duration>,
    key: &K,
    weight: u32,
    rate: Rate,
    now: Duration,
) -> Option<Duration> {
    let step = rate.per / rate.count.max(1);
    let due = arrivals.get(key).copied().unwrap_or(now).max(now);
    Some(due.saturating_add(step.saturating_mul(weight))).filter(|next| *next <= now.saturating_add(rate.per))
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
    fn many_at_once_are_counted_whole_or_not_at_all() {
        let limiter = RateLimiter::default();
        let now = Duration::from_secs(1);
        assert_eq!(limiter.spend("a", 4, RATE, now), Spent::Over);
        assert_eq!(limiter.spend("a", 2, RATE, now), Spent::Counted);
        assert_eq!(limiter.spend("a", 2, RATE, now), Spent::Over);
        assert_eq!(limiter.spend("a", 1, RATE, now), Spent::Counted, "what was refused took nothing");
        assert_eq!(limiter.spend("a", 1, RATE, now), Spent::Over);
        assert_eq!(limiter.spend("a", 2, RATE, now + Duration::from_secs(40)), Spent::Counted);
    }

    #[test]
    fn memory_is_bounded_and_freed_when_periods_run_out() {
        let limiter = RateLimiter::default();
        assert!((0..KEYS_MAX).all(|key| limiter.allow(key, RATE, Duration::ZERO, true)));
        assert!(!limiter.allow(KEYS_MAX, RATE, Duration::ZERO, true));
        assert_eq!(limiter.spend(KEYS_MAX, 1, RATE, Duration::ZERO), Spent::Crowded);
        assert_eq!(limiter.spend(KEYS_MAX, 4, RATE, Duration::ZERO), Spent::Over, "its own are too many all the same");
        assert!(limiter.allow(KEYS_MAX, RATE, Duration::from_secs(61), true));
        assert_eq!(limiter.arrivals.lock().unwrap().len(), 1);
    }
}
