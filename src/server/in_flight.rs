//! The answers that one connection waits for.
//!
//! Invariant: whatever was put in is polled to its end as long as the connection asks, and each wake-up looks at a
//! bounded number in vain. A few are simply looked at one after the other: most connections have one in flight, and
//! what many pipelined requests wait for is mostly written together. Only those beyond have wakers of their own.

use std::future::{self, Future};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::service::{Body, Later};

/// How many are looked at on each wake-up.
const FEW: usize = 16;

/// A request that is being answered.
pub(super) struct Flight {
    /// Its number.
    pub(super) id: u32,
    /// How long it was.
    pub(super) bytes: usize,
    pub(super) answer: Later<Body>,
}

/// What came of it.
pub(super) struct Landed {
    pub(super) id: u32,
    pub(super) bytes: usize,
    pub(super) body: Body,
}

impl Future for Flight {
    type Output = Landed;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Landed> {
        let body = ready!(self.answer.as_mut().poll(cx));
        Poll::Ready(Landed { id: self.id, bytes: self.bytes, body })
    }
}

/// Requests that are being answered.
#[derive(Default)]
pub(super) struct InFlight {
    few: Vec<Flight>,
    more: FuturesUnordered<Flight>,
}

impl InFlight {
    pub(super) fn push(&mut self, flight: Flight) {
        if self.few.len() < FEW {
            self.few.push(flight);
        } else {
            self.more.push(flight);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.few.len() + self.more.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands over what has been answered, until `take` wants no more. Unless it said so, all that is left has been
    /// polled and wakes the task.
    pub(super) fn collect(&mut self, cx: &mut Context<'_>, mut take: impl FnMut(Landed) -> Take) {
        let mut place = 0;
        while place < self.few.len() {
            match Pin::new(&mut self.few[place]).poll(cx) {
                Poll::Pending => place += 1,
                Poll::Ready(landed) => {
                    self.few.swap_remove(place);
                    if take(landed) == Take::NoMore {
                        return;
                    }
                }
            }
        }
        while let Poll::Ready(Some(landed)) = self.more.poll_next_unpin(cx) {
            if take(landed) == Take::NoMore {
                return;
            }
        }
    }

    /// Waits for all of it, for a peer that has gone.
    pub(super) async fn finish(&mut self) {
        future::poll_fn(|cx| {
            self.collect(cx, |_| Take::More);
            if self.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Whether there is room for another answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    More,
    NoMore,
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::sync::oneshot;

    use super::*;
    use crate::protocol::message::Answer;

    fn flights(count: u32) -> (InFlight, Vec<Option<oneshot::Sender<()>>>) {
        let mut all = InFlight::default();
        let senders = (0..count).map(|id| {
            let (done, wait) = oneshot::channel();
            let answer = Box::pin(async move {
                let _ = wait.await;
                Answer::Json(String::new()).into()
            });
            all.push(Flight { id, bytes: 1, answer });
            Some(done)
        });
        let senders = senders.collect();
        (all, senders)
    }

    fn collected(all: &mut InFlight, most: usize) -> Vec<u32> {
        let mut ids = Vec::new();
        all.collect(&mut Context::from_waker(Waker::noop()), |landed| {
            ids.push(landed.id);
            if ids.len() < most { Take::More } else { Take::NoMore }
        });
        ids.sort_unstable();
        ids
    }

    #[test]
    fn each_answer_is_handed_over_once_whatever_their_number_and_order() {
        let (mut all, mut senders) = flights(100);
        assert_eq!((all.len(), all.few.len()), (100, FEW));
        assert!(collected(&mut all, 100).is_empty());
        for id in [99, 3, 0, 50] {
            let _ = senders[id].take().expect("once").send(());
        }
        assert_eq!(collected(&mut all, 2), [0, 3], "no more than there is room for");
        assert_eq!(collected(&mut all, 100), [50, 99]);
        for sender in senders.into_iter().flatten() {
            let _ = sender.send(());
        }
        assert_eq!(collected(&mut all, 100).len(), 96);
        assert!(all.is_empty());
    }

    #[tokio::test]
    async fn what_is_left_is_waited_for() {
        let (mut all, senders) = flights(40);
        let waiting = tokio::spawn(async move { all.finish().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(senders);
        waiting.await.unwrap();
    }
}
