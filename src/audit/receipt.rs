//! [`Receipt`]: what an asker holds until its line is written, or until it has waited long enough.
//!
//! Invariant: a line whose askers have all given up is not written, if the writer has not taken it yet. One race
//! remains: the writer has taken the line, the write hangs beyond `max_wait`, the asker is told `unavailable`, and the
//! line, which says `active`, is written when the disk comes back. The log then claims more than was granted, never less.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// The record can't be written now: nothing may be granted on the strength of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log can't be written; nothing is granted until it can")]
pub struct Unavailable;

const WAITING: u32 = 0;
const TAKEN: u32 = 1;
const WRITTEN: u32 = 2;
const FAILED: u32 = 3;
const ABANDONED: u32 = 4;
const STATE: u32 = 0b111;
const ONE_WAITER: u32 = 0b1000;

/// The line's side of a receipt. State in the low bits, waiters above, in one word, so that giving up and taking can't
/// both win.
#[derive(Debug)]
pub(super) struct Pending {
    word: AtomicU32,
    done: Notify,
}

/// How a line stands, for one who would lean on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not written yet: wait for it.
    Open,
    /// Written.
    Written,
    /// It will never be.
    Void,
}

impl Pending {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { word: AtomicU32::new(WAITING), done: Notify::new() })
    }

    fn change(&self, change: impl Fn(u32) -> Option<u32>) -> Result<u32, u32> {
        self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, change)
    }

    /// The writer takes the line; false when nobody waits for it any more.
    pub(super) fn take(&self) -> bool {
        self.change(|word| (word & STATE == WAITING).then_some(word & !STATE | TAKEN)).is_ok()
    }

    /// The writer says how it ended.
    pub(super) fn finish(&self, written: bool) {
        let end = if written { WRITTEN } else { FAILED };
        let _ = self.change(|word| (word & STATE <= TAKEN).then_some(word & !STATE | end));
        self.done.notify_waiters();
    }

    pub(super) fn standing(&self) -> Standing {
        match self.word.load(Ordering::Acquire) & STATE {
            WRITTEN => Standing::Written,
            FAILED | ABANDONED => Standing::Void,
            _ => Standing::Open,
        }
    }

    /// One more waits for the line.
    pub(super) fn attach(self: &Arc<Self>, max_wait: Duration) -> Result<Receipt, Standing> {
        match self.change(|word| (word & STATE <= TAKEN).then_some(word + ONE_WAITER)) {
            Ok(_) => Ok(Receipt { pending: Arc::clone(self), max_wait }),
            Err(_) => Err(self.standing()),
        }
    }
}

/// Resolves when the line is written, or can't be.
#[derive(Debug)]
#[must_use = "nothing may be granted before the record is written"]
pub struct Receipt {
    pending: Arc<Pending>,
    max_wait: Duration,
}

impl Receipt {
    /// Waits, at most `max_wait` of the options.
    ///
    /// # Errors
    /// [`Unavailable`] when the line can't be written, or was not in time.
    pub async fn wait(self) -> Result<(), Unavailable> {
        let waited = tokio::time::timeout(self.max_wait, async {
            loop {
                let mut done = std::pin::pin!(self.pending.done.notified());
                // Registered before the look, so that an end between the two is not missed.
                done.as_mut().enable();
                match self.pending.standing() {
                    Standing::Written => return Ok(()),
                    Standing::Void => return Err(Unavailable),
                    Standing::Open => done.await,
                }
            }
        });
        waited.await.unwrap_or(Err(Unavailable))
    }

    /// How it stands, without waiting: `None` while it is open.
    pub fn poll(&self) -> Option<Result<(), Unavailable>> {
        match self.pending.standing() {
            Standing::Open => None,
            Standing::Written => Some(Ok(())),
            Standing::Void => Some(Err(Unavailable)),
        }
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let _ = self.pending.change(|word| {
            let left = word - ONE_WAITER;
            Some(if left == WAITING { ABANDONED } else { left })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[test]
    fn a_line_nobody_waits_for_is_not_taken() {
        let pending = Pending::new();
        let first = pending.attach(SOON).unwrap();
        let second = pending.attach(SOON).unwrap();
        drop(first);
        assert_eq!(pending.standing(), Standing::Open);
        drop(second);
        assert!(!pending.take());
        assert_eq!(pending.attach(SOON).unwrap_err(), Standing::Void);
    }

    #[test]
    fn what_is_taken_can_be_given_up_and_ends_all_the_same() {
        let pending = Pending::new();
        let receipt = pending.attach(SOON).unwrap();
        assert!(pending.take());
        drop(receipt);
        let late = pending.attach(SOON).unwrap();
        assert_eq!(late.poll(), None);
        pending.finish(true);
        assert_eq!(late.poll(), Some(Ok(())));
        assert_eq!(pending.attach(SOON).unwrap_err(), Standing::Written);
        assert!(!pending.take());
    }

    #[tokio::test]
    async fn waiting_ends_with_the_line_or_with_the_time() {
        let pending = Pending::new();
        let one = pending.attach(Duration::from_secs(60)).unwrap();
        let other = pending.attach(Duration::from_secs(60)).unwrap();
        let waiting = tokio::spawn(one.wait());
        tokio::task::yield_now().await;
        assert!(pending.take());
        pending.finish(true);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert_eq!(other.wait().await, Ok(()));

        let failing = Pending::new();
        let receipt = failing.attach(Duration::from_secs(60)).unwrap();
        assert!(failing.take());
        failing.finish(false);
        assert_eq!(receipt.wait().await, Err(Unavailable));

        let stuck = Pending::new();
        let receipt = stuck.attach(SOON).unwrap();
        assert_eq!(receipt.wait().await, Err(Unavailable));
        assert!(!stuck.take(), "who timed out has given it up");
    }
}
