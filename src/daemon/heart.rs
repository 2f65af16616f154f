//! The heart: a thread that says four times a second that the daemon lives, and whether cached verdicts count.
//!
//! Invariant: it beats only while what it vouches for holds. A thread of its own, so that no load delays it; what stops the
//! process stops it too, and then every cache lapses within the lease. While uses can't be recorded everybody is to ask.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::audit::Audit;
use crate::page::{BEAT, Served};
use crate::time::Clock;

/// Beats until it is stopped; the page is closed then, also when this is dropped.
pub struct Heart {
    page: Arc<Served>,
    /// Dropping it stops the thread.
    stop: Mutex<Option<Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Heart {
    /// Opens the page and begins.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(page: Arc<Served>, clock: Arc<Clock>, audit: Audit) -> std::io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let beating = Arc::clone(&page);
        beat(&beating, &clock, &audit);
        let thread = thread::Builder::new().name("heart".to_owned()).spawn(move || {
            while stopped.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                beat(&beating, &clock, &audit);
            }
        })?;
        Ok(Self { page, stop: Mutex::new(Some(stop)), thread: Mutex::new(Some(thread)) })
    }

    /// Closes the page: from now on nothing that any cache holds counts.
    pub fn stop(&self) {
        self.page.close();
        drop(self.stop.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It can only have ended.
            let _ = thread.join();
        }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.stop();
    }
}

fn beat(page: &Served, clock: &Clock, audit: &Audit) {
    // Before the time: a beat never says that something held later than it was seen to.
    let recorded = audit.ready();
    let boottime = clock.boottime();
    let now = clock.now();
    page.beat(boottime, now);
    if recorded {
        page.open();
    } else {
        page.ask();
    }
}
