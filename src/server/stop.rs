//! The word that the server stops, and how a connection hears it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// Says to all connections that the server stops.
#[derive(Default)]
pub(super) struct Stop {
    stopping: AtomicBool,
    notify: Arc<Notify>,
}

impl Stop {
    pub(super) fn set(&self) {
        self.stopping.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }

    /// Returns once it is said.
    pub(super) async fn said(&self) {
        // Before the look: it counts from when it is made.
        let notified = self.notify.notified();
        if !self.is_set() {
            notified.await;
        }
    }

    fn is_set(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// Waits for the server's stop without looking at the wait list on each turn: a task's waker seldom changes.
pub(super) struct Stopping {
    notified: Pin<Box<OwnedNotified>>,
    registered: Option<Waker>,
}

impl Stopping {
    pub(super) fn new(stop: &Stop) -> Self {
        Self { notified: Box::pin(Arc::clone(&stop.notify).notified_owned()), registered: None }
    }

    pub(super) fn poll(&mut self, stop: &Stop, cx: &mut Context<'_>) -> bool {
        if !self.registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) && !stop.is_set() {
            // A stop between this look and the registration is not missed: the flag is set before the notification,
            // and `notified` counts from when it was made.
            if self.notified.as_mut().poll(cx).is_pending() {
                self.registered = Some(cx.waker().clone());
            }
        }
        stop.is_set()
    }
}
