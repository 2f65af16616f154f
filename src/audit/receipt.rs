//! [`Receipt`]: what an asker holds until its line is written, or until it has waited long enough.
//!
//! Invariant: a line whose askers have all given up is not written, if the writer has not taken it yet. One race
//! remains: the writer has taken the line, the write hangs beyond `max_wait`, the asker is told `unavailable`, and the
//! line, which says `active`, is written when the disk comes back. The log then claims more than was granted, never less.

use std::cell::RefCell;
use std::future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::shared::lock;
use super::spin::Spin;

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
/// Its asker's thread looks at it: nobody needs to be woken.
const WATCHED: u32 = 0b1000;
const ONE_WAITER: u32 = 0b1_0000;

/// How many lines a thread looks at before it sleeps: with more, there will be other things to do.
const LINGER_FOR: usize = 2;

/// The line's side of a receipt. State in the low bits, waiters above, in one word, so that giving up and taking can't
/// both win.
#[derive(Debug)]
pub(super) struct Pending {
    word: AtomicU32,
    waiting: Mutex<Wakers>,
}

/// Who is to be woken: mostly one.
#[derive(Debug, Default)]
struct Wakers {
    first: Option<Waker>,
    more: Vec<Waker>,
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
        Arc::new(Self { word: AtomicU32::new(WAITING), waiting: Mutex::default() })
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
        let ended = self.change(|word| (word & STATE <= TAKEN).then_some(word & !STATE | end));
        if !ended.is_ok_and(|word| word & WATCHED != 0) {
            self.wake();
        }
    }

    /// Wakes all who wait.
    fn wake(&self) {
        let Wakers { first, more } = std::mem::take(&mut *lock(&self.waiting));
        first.into_iter().chain(more).for_each(Waker::wake);
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
            Ok(_) => Ok(Receipt { pending: Arc::clone(self), max_wait, place: None }),
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
    /// Which of the wakers is its own: 0 the first.
    place: Option<usize>,
}

impl Receipt {
    /// Waits, at most `max_wait` of the options.
    ///
    /// # Errors
    /// [`Unavailable`] when the line can't be written, or was not in time.
    pub async fn wait(mut self) -> Result<(), Unavailable> {
        let max_wait = self.max_wait;
        let waited = tokio::time::timeout(max_wait, future::poll_fn(|cx| self.poll_end(cx)));
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

    fn poll_end(&mut self, cx: &Context<'_>) -> Poll<Result<(), Unavailable>> {
        if let Some(end) = self.poll() {
            return Poll::Ready(end);
        }
        let mut wakers = lock(&self.pending.waiting);
        // Looked at again under the lock that whoever ends it takes afterwards.
        if let Some(end) = self.poll() {
            return Poll::Ready(end);
        }
        let place = *self.place.get_or_insert(if wakers.first.is_none() { 0 } else { wakers.more.len() + 1 });
        match place.checked_sub(1) {
            None => wakers.first = Some(cx.waker().clone()),
            Some(place) if place < wakers.more.len() => wakers.more[place].clone_from(cx.waker()),
            Some(_) => wakers.more.push(cx.waker().clone()),
        }
        drop(wakers);
        LOCAL.with_borrow_mut(|local| local.add(&self.pending));
        Poll::Pending
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let _ = self.pending.change(|word| {
            let left = word - ONE_WAITER;
            Some(if left & !WATCHED == WAITING { ABANDONED } else { left })
        });
    }
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::default();
}

/// The lines that this thread's tasks wait for.
#[derive(Default)]
struct Local {
    /// The thread calls [`linger`].
    lingers: bool,
    lines: Vec<Arc<Pending>>,
    /// More than it looks at.
    many: bool,
    spin: Spin,
}

impl Local {
    fn add(&mut self, line: &Arc<Pending>) {
        if !self.lingers {
        } else if self.lines.len() < LINGER_FOR {
            self.lines.push(Arc::clone(line));
        } else {
            self.many = true;
        }
    }
}

/// For a thread that serves, before it sleeps: looks for a moment whether the line that it waits for is written, since
/// being woken costs more than a line does. Returns when there is something to do, or soon.
pub fn linger() {
    LOCAL.with_borrow_mut(|local| {
        let Local { lingers, lines, many, spin } = local;
        *lingers = true;
        if std::mem::take(many) {
            lines.clear();
        }
        if lines.is_empty() {
            return;
        }
        for line in &*lines {
            let _ = line.change(|word| (word & STATE <= TAKEN).then_some(word | WATCHED));
        }
        spin.until(|| lines.iter().any(|line| line.standing() != Standing::Open));
        for line in lines.drain(..) {
            // Who ends it from now on wakes its askers; who ended it before has not.
            let was = line.change(|word| Some(word & !WATCHED));
            if was.is_ok_and(|word| word & WATCHED != 0) && line.standing() != Standing::Open {
                line.wake();
            }
        }
    });
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

    #[test]
    fn a_thread_that_lingers_misses_no_end() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().on_thread_park(linger).build().unwrap();
        let lines: Vec<_> = (0..2000).map(|_| Pending::new()).collect();
        let receipts: Vec<_> = lines.iter().map(|line| line.attach(Duration::from_secs(60)).unwrap()).collect();
        let (ask, asked) = std::sync::mpsc::channel::<usize>();
        let writer = std::thread::spawn(move || {
            for number in asked {
                assert!(lines[number].take());
                // At once, while it is looked at, and after that was given up.
                std::thread::sleep(Duration::from_micros([0, 5, 80][number % 3]));
                lines[number].finish(true);
            }
        });
        runtime.block_on(async {
            let mut receipts = receipts.into_iter().enumerate();
            // One at a time, then several.
            for few in [1, 1, 1, 2, 3].into_iter().cycle() {
                let waiting: Vec<_> = receipts
                    .by_ref()
                    .take(few)
                    .map(|(number, receipt)| {
                        ask.send(number).unwrap();
                        tokio::spawn(receipt.wait())
                    })
                    .collect();
                if waiting.is_empty() {
                    break;
                }
                for waiting in waiting {
                    assert_eq!(waiting.await.unwrap(), Ok(()));
                }
            }
            let stuck = Pending::new();
            assert_eq!(stuck.attach(SOON).unwrap().wait().await, Err(Unavailable));
        });
        drop(ask);
        writer.join().unwrap();
    }

    #[tokio::test]
    async fn all_who_wait_are_woken_however_often_they_look() {
        let pending = Pending::new();
        let attach = || pending.attach(Duration::from_secs(60)).unwrap();
        let cx = Context::from_waker(Waker::noop());
        let mut one = attach();
        for _ in 0..3 {
            assert!(one.poll_end(&cx).is_pending());
        }
        let others: Vec<_> = (0..5).map(|_| tokio::spawn(attach().wait())).collect();
        tokio::task::yield_now().await;
        assert!(one.poll_end(&cx).is_pending());
        assert_eq!(lock(&pending.waiting).more.len(), 5);
        pending.finish(true);
        assert_eq!(one.poll_end(&cx), Poll::Ready(Ok(())));
        for other in others {
            assert_eq!(other.await.unwrap(), Ok(()));
        }
    }
}
