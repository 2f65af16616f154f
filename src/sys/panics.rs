//! Panics that are answers: code that is not ours and panics over damaged data is run by [`caught`], and the hook that
//! logs panics asks [`is_awaited`] before it calls one a bug.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// How many [`caught`] this thread is in.
    static AWAITED: Cell<u32> = const { Cell::new(0) };
}

/// Runs something that may panic for reasons of its data; `None` when it did. What it leaves half done must not be used.
pub fn caught<T>(run: impl FnOnce() -> T) -> Option<T> {
    AWAITED.set(AWAITED.get() + 1);
    let ran = catch_unwind(AssertUnwindSafe(run)).ok();
    AWAITED.set(AWAITED.get() - 1);
    ran
}

/// Whether a panic of this thread would be caught and become an error.
pub fn is_awaited() -> bool {
    AWAITED.get() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_caught_is_awaited() {
        assert!(!is_awaited());
        let ran = caught(|| {
            assert_eq!(caught(|| std::panic::resume_unwind(Box::new(()))), None::<()>);
            let elsewhere = std::thread::spawn(is_awaited).join().unwrap();
            (is_awaited(), elsewhere)
        });
        assert_eq!(ran, Some((true, false)));
        assert!(!is_awaited());
    }
}
