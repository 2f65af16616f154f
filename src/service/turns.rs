//! Turns: how much of what is scarce (readers, look-ups, the writer's queue) one user may hold or wait for.
//!
//! Invariant I7: a user that asks for more waits for itself. Without this, what is first come, first served belongs to
//! whoever queues a hundred thousand requests on its connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Caller, Settings};

/// Users whose share is kept although they hold none; more than that are swept out.
const IDLE_MAX: usize = 64;

/// A container's root has the host root's uid, but not its rights: they wait apart.
type User = (u32, bool);

/// Gives turns: so many at a time in all, and so many of them to one user.
pub(super) struct Turns {
    all: Arc<Semaphore>,
    each: usize,
    users: Mutex<HashMap<User, Weak<Semaphore>>>,
}

/// A turn; given back when dropped.
pub(super) struct Turn {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
    /// Keeps the user's share known for as long as a part of it is held.
    _share: Arc<Semaphore>,
}

impl Turns {
    pub(super) fn new(all: usize, each: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), each, users: Mutex::default() }
    }

    /// Waits for a turn of this weight, which counts as the user's whole share if it is more; `None` when there are no
    /// more turns.
    pub(super) async fn take(&self, caller: &Caller, settings: &Settings, weight: usize) -> Option<Turn> {
        let share = self.share((caller.peer.uid, caller.standing(settings).full));
        let weight = u32::try_from(weight.clamp(1, self.each)).unwrap_or(u32::MAX);
        // One's own first: who has used its share up waits there, and in nobody's way.
        let own = Arc::clone(&share).acquire_many_owned(weight).await.ok()?;
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Turn { _all: all, _own: own, _share: share })
    }

    fn share(&self, user: User) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = users.get(&user).and_then(Weak::upgrade) {
            return share;
        }
        if users.len() >= IDLE_MAX {
            users.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Semaphore::new(self.each));
        users.insert(user, Arc::downgrade(&share));
        share
    }
}
