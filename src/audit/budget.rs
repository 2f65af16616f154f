//! How many lines of refusals each uid may cause.
//!
//! Invariant I7: no uid fills the disk or drowns the log. Every uid has a bucket, and all together have one more, so
//! that many uids of one person (subuids) can't do together what one can't do alone. What is over is counted and told
//! in `flood` lines, themselves bounded. Memory is bounded by [`UIDS_MAX`].

use std::collections::HashMap;
use std::time::Duration;

use crate::time::UnixTime;

/// uids with a bucket of their own; the rest share one.
const UIDS_MAX: usize = 4096;
/// `flood` lines that one look makes; what is beyond is one line without a uid.
const FLOOD_LINES_MAX: usize = 32;

/// Lines per second, and how many at once after a quiet time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineRate {
    /// Lines per second.
    pub per_second: u32,
    /// Lines at once.
    pub burst: u32,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Lines left; below zero when closing lines were owed.
    left: f64,
    filled: Duration,
}

impl Bucket {
    const fn full(rate: LineRate, now: Duration) -> Self {
        Self { left: rate.burst as f64, filled: now }
    }

    fn fill(&mut self, rate: LineRate, now: Duration) {
        let passed = now.saturating_sub(self.filled).as_secs_f64();
        self.left = (self.left + passed * f64::from(rate.per_second)).min(f64::from(rate.burst));
        self.filled = now;
    }

    fn take(&mut self) -> bool {
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

/// What one uid was not given lines for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flood {
    /// `None`: several, which had no room of their own.
    pub(super) uid: Option<u32>,
    pub(super) count: u64,
    pub(super) first: UnixTime,
    pub(super) last: UnixTime,
}

impl Flood {
    fn add(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

struct Account {
    bucket: Bucket,
    flood: Option<Flood>,
}

/// The buckets.
pub(super) struct Budget {
    each: LineRate,
    all: LineRate,
    total: Bucket,
    accounts: HashMap<u32, Account>,
    others: Account,
    flooded: u64,
}

impl Budget {
    pub(super) fn new(each: LineRate, all: LineRate, now: Duration) -> Self {
        let others = Account { bucket: Bucket::full(each, now), flood: None };
        Self { each, all, total: Bucket::full(all, now), accounts: HashMap::new(), others, flooded: 0 }
    }

    /// One line for `uid`, or one more counted as too many.
    pub(super) fn take(&mut self, uid: u32, now: Duration, at: UnixTime) -> bool {
        self.total.fill(self.all, now);
        let (each, account, named) = self.account(uid, now);
        account.bucket.fill(each, now);
        let own = account.bucket.left >= 1.0;
        if own && self.total.take() {
            self.account(uid, now).1.bucket.take();
            return true;
        }
        let (_, account, _) = self.account(uid, now);
        let one = Flood { uid: named.then_some(uid), count: 1, first: at, last: at };
        account.flood.get_or_insert(Flood { count: 0, ..one }).add(&one);
        self.flooded += 1;
        false
    }

    /// A line that is written in any case (the end of a counted window, an alert) is owed.
    pub(super) fn charge(&mut self, uid: u32, now: Duration) {
        let (each, account, _) = self.account(uid, now);
        account.bucket.left = (account.bucket.left - 1.0).max(-f64::from(each.burst));
        self.total.left = (self.total.left - 1.0).max(-f64::from(self.all.burst));
    }

    /// How many refusals have had no line, ever.
    pub(super) const fn flooded(&self) -> u64 {
        self.flooded
    }

    /// What has been too many since the last call, and forgets uids that have been quiet.
    pub(super) fn floods(&mut self, now: Duration) -> Vec<Flood> {
        let mut floods: Vec<Flood> = Vec::new();
        let mut rest = self.others.flood.take();
        for account in self.accounts.values_mut() {
            account.bucket.fill(self.each, now);
            match account.flood.take() {
                Some(flood) if floods.len() < FLOOD_LINES_MAX => floods.push(flood),
                Some(flood) => rest.get_or_insert(Flood { uid: None, count: 0, ..flood }).add(&flood),
                None => {}
            }
        }
        let burst = f64::from(self.each.burst);
        self.accounts.retain(|_, account| account.bucket.left < burst);
        floods.sort_by_key(|flood| flood.uid);
        floods.extend(rest);
        floods
    }

    fn account(&mut self, uid: u32, now: Duration) -> (LineRate, &mut Account, bool) {
        let room = self.accounts.len() < UIDS_MAX;
        let each = self.each;
        match self.accounts.entry(uid) {
            std::collections::hash_map::Entry::Occupied(entry) => (each, entry.into_mut(), true),
            std::collections::hash_map::Entry::Vacant(entry) if room => {
                (each, entry.insert(Account { bucket: Bucket::full(each, now), flood: None }), true)
            }
            std::collections::hash_map::Entry::Vacant(_) => (each, &mut self.others, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EACH: LineRate = LineRate { per_second: 20, burst: 200 };
    const ALL: LineRate = LineRate { per_second: 1000, burst: 5000 };

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(secs)
    }

    #[test]
    fn one_uid_is_held_to_its_rate_and_another_is_not_touched() {
        let mut budget = Budget::new(EACH, ALL, secs(0));
        let given = (0..1000).filter(|_| budget.take(1000, secs(0), at(5))).count();
        assert_eq!(given, 200);
        assert!(budget.take(1001, secs(0), at(5)));
        let given = (0..1000).filter(|_| budget.take(1000, secs(1), at(6))).count();
        assert_eq!(given, 20);
        let floods = budget.floods(secs(1));
        assert_eq!(floods, [Flood { uid: Some(1000), count: 1780, first: at(5), last: at(6) }]);
        assert!(budget.floods(secs(1)).is_empty(), "told once");
        assert_eq!(budget.flooded(), 1780);
    }

    #[test]
    fn many_uids_together_are_held_to_the_common_rate_in_bounded_memory() {
        let mut budget = Budget::new(EACH, ALL, secs(0));
        let given = (0..100_000).filter(|uid| budget.take(*uid, secs(0), at(0))).count();
        // Those beyond the table share one bucket, all share the total.
        assert_eq!(given, UIDS_MAX + 200);
        assert_eq!(budget.accounts.len(), UIDS_MAX);
        let given = (0..100_000).filter(|uid| budget.take(*uid, secs(1), at(1))).count();
        assert!(given <= 2000, "{given}");
        let floods = budget.floods(secs(1));
        assert!(floods.len() <= FLOOD_LINES_MAX + 1);
        let told: u64 = floods.iter().map(|flood| flood.count).sum();
        assert_eq!(told, budget.flooded());
        assert_eq!(budget.floods(secs(60)), []);
        assert!(budget.accounts.is_empty(), "the quiet are forgotten");
    }

    #[test]
    fn what_is_owed_is_paid_first() {
        let mut budget = Budget::new(EACH, ALL, secs(0));
        (0..220).for_each(|_| budget.charge(7, secs(0)));
        assert!(!budget.take(7, secs(1), at(1)));
        assert!(budget.take(7, secs(2), at(2)));
    }
}
