//! Looking again for a moment before sleeping: being woken costs more than a line does.
//!
//! Invariant: it costs at most [`MOMENT`] at a time, gives way to whoever else wants the processor, and is given up
//! for a while where it did not help. A host with one processor does without.

use std::hint;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// About twice what writing a line takes, and what a peer takes to ask again.
const MOMENT: Duration = Duration::from_micros(50);
/// Looks between two turns of giving way.
const LOOKS: u32 = 64;
/// After it did not help, so many times it is not tried.
const SKIPPED: u32 = 32;

/// Whether looking again helps.
#[derive(Debug, Default)]
pub(super) struct Spin {
    skip: u32,
}

impl Spin {
    /// Looks until `done`, for a moment, if that may help; whether it is.
    pub(super) fn until(&mut self, mut done: impl FnMut() -> bool) -> bool {
        if self.skip > 0 || !several_processors() {
            self.skip = self.skip.saturating_sub(1);
            return false;
        }
        let begun = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if done() {
                    return true;
                }
                hint::spin_loop();
            }
            if begun.elapsed() > MOMENT {
                self.skip = SKIPPED;
                return false;
            }
            thread::yield_now();
        }
    }

    /// It slept for so long: had it looked on, would that have helped?
    pub(super) fn slept(&mut self, slept: Duration) {
        if slept < MOMENT {
            self.skip = 0;
        }
    }
}

fn several_processors() -> bool {
    static SEVERAL: OnceLock<bool> = OnceLock::new();
    *SEVERAL.get_or_init(|| thread::available_parallelism().is_ok_and(|count| count.get() > 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_where_it_would_have_helped_and_given_up_where_it_did_not() {
        let mut spin = Spin::default();
        let mut looks = 0;
        let found = spin.until(|| {
            looks += 1;
            looks == 100
        });
        assert_eq!(found, several_processors());
        assert!(!spin.until(|| false));
        assert!(!spin.until(|| several_processors() && panic!("it did not help the last time")));
        spin.slept(Duration::from_secs(1));
        assert!(!spin.until(|| several_processors() && panic!("nor would it have since")));
        spin.slept(Duration::ZERO);
        assert_eq!(spin.until(|| true), several_processors());
    }
}
