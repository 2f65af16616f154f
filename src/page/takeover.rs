//! The first moments of a daemon that did not find the last one's page closed.
//!
//! Invariant I2 over restarts: what a killed daemon had allowed may be granted out of a cache until that daemon's lease has
//! lapsed. Until then its successor refuses in memory and commits as ever, but acknowledges nothing that takes rights away;
//! nor does it call its own stop orderly, or a third daemon would not wait for the first one's caches.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::TAKEOVER;
use crate::time::Clock;

/// When no page of an earlier daemon counts any more.
#[derive(Clone)]
pub struct Takeover {
    clock: Arc<Clock>,
    /// CLOCK_BOOTTIME.
    at: Duration,
}

impl Takeover {
    /// The store's lock has been taken, before now; `orderly` if the last daemon had closed its page.
    pub fn begin(clock: Arc<Clock>, orderly: bool) -> Self {
        let at = if orderly || mutant!(NoTakeover) { Duration::ZERO } else { clock.boottime() + TAKEOVER };
        Self { clock, at }
    }

    /// How long that still takes.
    pub fn left(&self) -> Duration {
        self.at.saturating_sub(self.clock.boottime())
    }

    /// Waits for it.
    pub async fn over(&self) {
        loop {
            match self.left() {
                Duration::ZERO => return,
                // A timer may stand still in suspend; the clock that counts does not.
                left => sleep(left).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UnixTime;
    use crate::time::manual::ManualTime;

    #[test]
    fn it_is_over_when_the_lease_has_lapsed_and_at_once_after_an_orderly_stop() {
        let hands = ManualTime::new(UnixTime::from_secs(1_800_000_000));
        let clock = Arc::new(Clock::new(Box::new(hands.clone()), None));
        assert_eq!(Takeover::begin(Arc::clone(&clock), true).left(), Duration::ZERO);
        let takeover = Takeover::begin(clock, false);
        assert_eq!(takeover.left(), TAKEOVER);
        hands.pass(super::super::LEASE);
        assert_eq!(takeover.left(), super::super::SKEW_MAX);
        hands.pass(super::super::SKEW_MAX);
        assert_eq!(takeover.left(), Duration::ZERO);
    }
}
