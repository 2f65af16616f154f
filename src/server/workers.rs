//! The threads that connections are served on, each with an event loop of its own.
//!
//! A connection stays on the thread that had the fewest when it came. So an answer is written by the thread that read
//! the request, nothing is handed from one thread to another, and none is woken to look for work of another's
//! (`docs/performance.md` says what that is worth).
//!
//! Invariant I7, that one uid cannot starve another, hangs on what a connection may do in one turn: the others of its
//! thread wait for that, and nobody takes them over (`connection`, REQUESTS_PER_TURN).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The threads. When this is dropped they end, with all that still runs on them.
pub struct Workers(Vec<Worker>);

struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    /// Dropped to end it.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A connection's place on a thread, given back when dropped.
pub(super) struct Seat(Arc<AtomicUsize>);

impl Workers {
    /// Starts so many threads, each with at most so many more for what may block.
    ///
    /// # Errors
    /// When a thread or an event loop can't be had.
    pub fn start(count: usize, blocking_threads: usize) -> io::Result<Self> {
        (0..count).map(|number| Worker::start(number, blocking_threads)).collect::<io::Result<_>>().map(Self)
    }

    /// None: the event loop that the server runs on serves its connections too.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Returns once each of the loops has come round: one that stands still is found by that.
    pub async fn pulse(&self) {
        for worker in &self.0 {
            // It fails only when the loop has ended, which is no standstill.
            let _ = worker.runtime.spawn(async {}).await;
        }
    }

    /// Where the next connection goes.
    pub(super) fn seat(&self) -> Option<(&Handle, Seat)> {
        let worker = self.0.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed))?;
        worker.connections.fetch_add(1, Ordering::Relaxed);
        Some((&worker.runtime, Seat(Arc::clone(&worker.connections))))
    }
}

impl Worker {
    fn start(number: usize, blocking_threads: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .on_thread_park(crate::audit::linger)
            .max_blocking_threads(blocking_threads)
            .thread_name("bearerd")
            .build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name(format!("serve-{number}")).spawn(move || {
            // Nothing is ever sent: the sender is dropped.
            let _ = runtime.block_on(ended);
            // A name service that hangs holds its thread; the process does not wait for it.
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, connections: Arc::default(), end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It has said where it panicked, if it did.
            let _ = thread.join();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn connections(workers: &Workers) -> Vec<usize> {
        workers.0.iter().map(|worker| worker.connections.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn connections_go_where_the_fewest_are() {
        assert!(Workers::none().seat().is_none());
        let workers = Workers::start(3, 1).unwrap();
        let mut seats: Vec<Seat> = (0..7).map(|_| workers.seat().unwrap().1).collect();
        assert_eq!(connections(&workers), [3, 2, 2]);
        // The first seat of each of the first two threads.
        seats.drain(..2);
        drop(workers.seat().unwrap());
        assert_eq!(connections(&workers), [2, 1, 2]);
        seats.push(workers.seat().unwrap().1);
        assert_eq!(connections(&workers), [2, 2, 2]);
        drop(seats);
        assert_eq!(connections(&workers), [0, 0, 0]);
    }

    #[tokio::test]
    async fn a_loop_that_stands_still_has_no_pulse() {
        let workers = Arc::new(Workers::start(2, 1).unwrap());
        workers.pulse().await;
        let (go_on, held) = mpsc::channel::<()>();
        workers.0[1].runtime.spawn(async move {
            let _ = held.recv();
        });
        let mut pulse = tokio::spawn({
            let workers = Arc::clone(&workers);
            async move { workers.pulse().await }
        });
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut pulse).await.is_err());
        drop(go_on);
        pulse.await.unwrap();
    }

    #[test]
    fn what_runs_ends_with_the_threads() {
        let workers = Workers::start(1, 1).unwrap();
        let (runtime, seat) = workers.seat().unwrap();
        let count = Arc::clone(&seat.0);
        runtime.spawn(async move {
            let _seat = seat;
            std::future::pending::<()>().await;
        });
        drop(workers);
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }
}
