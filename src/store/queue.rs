//! The way to the writer: a bounded queue of jobs, and what else wakes it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::Committed;
use super::error::StoreError;
use super::txn::Txn;

/// Jobs that wait at most; whoever asks for more waits before its job is queued.
const WAITING_MAX: usize = 4096;

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ran {
    /// It wants what it did.
    Done,
    /// It returned an error or panicked: what it did is dropped.
    Dropped,
}

/// A queued job, its types gone.
pub(super) trait Job: Send {
    /// Runs it; a panic ends here.
    fn run(&mut self, txn: &mut Txn<'_>) -> Ran;
    /// What the job has been promised its generation for.
    fn accepted(&mut self, generation: u64);
    /// Answers whoever asked.
    fn reply(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// What an asker is told.
pub(super) type Answer<T, E> = Result<Result<Committed<T>, E>, StoreError>;

struct Work<T, E, F> {
    job: Option<F>,
    result: Option<Result<T, E>>,
    generation: u64,
    answer: oneshot::Sender<Answer<T, E>>,
    _waiting: OwnedSemaphorePermit,
}

impl<T, E, F> Job for Work<T, E, F>
where
    F: FnOnce(&mut Txn<'_>) -> Result<T, E> + Send,
    T: Send,
    E: Send,
{
    fn run(&mut self, txn: &mut Txn<'_>) -> Ran {
        // What a panic leaves half done is held back by the transaction, and dropped.
        self.result = self.job.take().and_then(|job| catch_unwind(AssertUnwindSafe(|| job(txn))).ok());
        if matches!(self.result, Some(Ok(_))) { Ran::Done } else { Ran::Dropped }
    }

    fn accepted(&mut self, generation: u64) {
        self.generation = generation;
    }

    fn reply(self: Box<Self>, outcome: Result<(), StoreError>) {
        let generation = self.generation;
        let answer = match (outcome, self.result) {
            (Err(error), _) => Err(error),
            (Ok(()), None) => Err(StoreError::JobPanicked),
            (Ok(()), Some(result)) => Ok(result.map(|value| Committed { value, generation })),
        };
        // Whoever asked may have gone; the change stands.
        let _ = self.answer.send(answer);
    }
}

/// How the writer is to end.
#[derive(Debug)]
pub(super) enum Ending {
    /// In good order: everything queued, everything noted, then the flag.
    Stop(oneshot::Sender<Result<(), StoreError>>),
    /// At once, as after a kill.
    Abandon,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Box<dyn Job>>,
    flush: Vec<oneshot::Sender<Result<(), StoreError>>>,
    nudged: bool,
    ending: Option<Ending>,
    /// Set once the writer is gone: why nothing more is taken.
    closed: Option<StoreError>,
}

/// What the writer is to do next.
pub(super) struct Turn {
    pub(super) jobs: Vec<Box<dyn Job>>,
    pub(super) flush: Vec<oneshot::Sender<Result<(), StoreError>>>,
    pub(super) ending: Option<Ending>,
}

/// See the file's head.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    room: Arc<Semaphore>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { waiting: Mutex::default(), wake: Condvar::new(), room: Arc::new(Semaphore::new(WAITING_MAX)) }
    }
}

impl Queue {
    /// Queues a job, when there is room, and waits for its answer. Once queued it runs, whether anyone waits or not.
    pub(super) async fn ask<T, E, F>(&self, job: F) -> Answer<T, E>
    where
        F: FnOnce(&mut Txn<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        let permit = Arc::clone(&self.room).acquire_owned().await.map_err(|_| self.closed())?;
        let (answer, answered) = oneshot::channel();
        let work = Work { job: Some(job), result: None, generation: 0, answer, _waiting: permit };
        self.enter()?.jobs.push_back(Box::new(work));
        self.wake.notify_one();
        answered.await.unwrap_or_else(|_| Err(self.closed()))
    }

    /// Asks for everything noted to be written now.
    pub(super) async fn flush(&self) -> Result<(), StoreError> {
        let (done, waits) = oneshot::channel();
        self.enter()?.flush.push(done);
        self.wake.notify_one();
        waits.await.unwrap_or_else(|_| Err(self.closed()))
    }

    /// Asks the writer to end.
    pub(super) fn end(&self, ending: Ending) -> Result<(), StoreError> {
        let mut waiting = self.enter()?;
        // Whoever asked to stop first is waiting for it.
        if waiting.ending.is_none() {
            waiting.ending = Some(ending);
        }
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    /// Wakes the writer to look at what is due.
    pub(super) fn nudge(&self) {
        self.lock().nudged = true;
        self.wake.notify_one();
    }

    /// Waits for something to do, at most until `deadline`; takes at most `most` jobs.
    pub(super) fn next(&self, deadline: Instant, most: usize) -> Turn {
        let mut waiting = self.lock();
        loop {
            let idle = waiting.jobs.is_empty() && waiting.flush.is_empty() && waiting.ending.is_none();
            let left = deadline.saturating_duration_since(Instant::now());
            if !idle || waiting.nudged || left.is_zero() {
                break;
            }
            waiting = self.wake.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting.nudged = false;
        let take = waiting.jobs.len().min(most);
        let jobs: Vec<_> = waiting.jobs.drain(..take).collect();
        // An ending comes after all that was queued before it; to abandon is at once.
        let abandoned = matches!(waiting.ending, Some(Ending::Abandon));
        let last = abandoned || waiting.jobs.is_empty();
        Turn {
            jobs: if abandoned { Vec::new() } else { jobs },
            flush: std::mem::take(&mut waiting.flush),
            ending: if last { waiting.ending.take() } else { None },
        }
    }

    /// Takes nothing more, for this reason; returns what was still waiting.
    pub(super) fn close(&self, reason: StoreError) -> Turn {
        let mut waiting = self.lock();
        waiting.closed.get_or_insert(reason);
        self.room.close();
        Turn {
            jobs: waiting.jobs.drain(..).collect(),
            flush: std::mem::take(&mut waiting.flush),
            ending: waiting.ending.take(),
        }
    }

    /// Why nothing more is taken.
    fn closed(&self) -> StoreError {
        self.lock().closed.clone().unwrap_or(StoreError::Stopped)
    }

    fn enter(&self) -> Result<MutexGuard<'_, Waiting>, StoreError> {
        let waiting = self.lock();
        match &waiting.closed {
            Some(reason) => Err(reason.clone()),
            None => Ok(waiting),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
