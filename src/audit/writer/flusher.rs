//! Lines written on the runtime's own threads, by one task of its own: an asker's line costs no wake-up of another
//! thread, and what several ask for at once is one write.
//!
//! Invariants: it writes only while nothing is amiss; whatever else there is to do is left to the [`super::keeper::Keeper`].
//! A write that hangs holds one worker of the runtime and no asker: their own tasks wait for their receipts, at most
//! `max_wait`. So it is only used where there is a second worker, and `Shared::nudge` keeps that one at its sockets.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::audit::shared::{Lent, Shared};

/// The task.
pub(in crate::audit) struct Flusher {
    shared: Arc<Shared>,
}

impl Flusher {
    /// Starts it on the runtime that this is called on, if it may run there.
    pub(in crate::audit) fn start(shared: &Arc<Shared>) -> bool {
        let Ok(handle) = Handle::try_current() else { return false };
        if handle.runtime_flavor() != RuntimeFlavor::MultiThread || handle.metrics().num_workers() < 2 {
            return false;
        }
        handle.spawn(Self { shared: Arc::clone(shared) });
        true
    }
}

impl Future for Flusher {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.shared.lend(cx.waker()) {
            Lent::Over => return Poll::Ready(()),
            Lent::Nothing => {}
            Lent::Writer(mut writer, jobs) => {
                let left = writer.write_quick(jobs).err();
                if self.shared.give_back(writer, left) {
                    cx.waker().wake_by_ref();
                }
            }
        }
        Poll::Pending
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.flusher_gone();
    }
}
