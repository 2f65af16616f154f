//! When a `gap` line tells of what syslog did not take.
//!
//! Invariant: the first drop is told at the next look, later ones at most once a minute, until syslog has been well for a
//! while; every drop is told once. A host without syslog must not write a line a second for ever.

use std::time::Duration;

/// While syslog goes on dropping, how often that is told after the first time.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// For how long syslog must have taken everything to count as well: one that stalls takes a message here and there.
const WELL_AFTER: Duration = Duration::from_secs(10);

/// What was dropped, and what of it has been told.
#[derive(Debug, Default)]
pub(super) struct Drops {
    untold: u64,
    /// The last line that told of drops; `None` when syslog has been well since.
    told_at: Option<Duration>,
    /// Since when every message was taken.
    well_since: Option<Duration>,
}

impl Drops {
    /// A message was sent, or dropped; `counts` when its loss is to be told.
    pub(super) fn look(&mut self, sent: bool, counts: bool, now: Duration) {
        if sent {
            self.well_since.get_or_insert(now);
            return;
        }
        if self.well_since.take().is_some_and(|since| now.saturating_sub(since) >= WELL_AFTER) {
            self.told_at = None;
        }
        self.untold += u64::from(counts);
    }

    /// How many drops a line is due for; `all` when it is the last chance.
    pub(super) fn due(&mut self, all: bool, now: Duration) -> Option<u64> {
        let waited = self.told_at.is_none_or(|told| now.saturating_sub(told) >= TOLD_EVERY);
        if self.untold == 0 || !(all || waited) {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_drop_is_told_at_once_and_the_rest_each_minute() {
        let mut drops = Drops::default();
        assert_eq!(drops.due(true, Duration::ZERO), None);
        let mut told = Vec::new();
        for second in 0..=125_u32 {
            drops.look(false, true, SECOND * second);
            // The line that tells of it is dropped too, and not counted.
            if let Some(count) = drops.due(false, SECOND * second) {
                told.push((second, count));
                drops.look(false, false, SECOND * second);
            }
        }
        assert_eq!(told, [(0, 1), (60, 60), (120, 60)]);
        assert_eq!(drops.due(true, SECOND * 126), Some(5), "and what is left at the stop");
        assert_eq!(drops.due(true, SECOND * 126), None);
    }

    #[test]
    fn a_syslog_that_was_well_again_is_told_of_at_once() {
        let mut drops = Drops::default();
        drops.look(false, true, SECOND);
        assert_eq!(drops.due(false, SECOND), Some(1));
        // One message that gets through does not make it well.
        drops.look(true, true, SECOND * 2);
        drops.look(false, true, SECOND * 3);
        assert_eq!(drops.due(false, SECOND * 3), None);
        drops.look(true, true, SECOND * 4);
        drops.look(true, true, SECOND * 14);
        drops.look(false, true, SECOND * 15);
        assert_eq!(drops.due(false, SECOND * 15), Some(2));
    }
}
