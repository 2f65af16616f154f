//! User names of peers and of subjects: looked up off the event loop, for a moment at most, and never on the way of a
//! validation.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Caller, LOOKUP_WAIT, Service};
use crate::peer::{CONTAINER_UNKNOWN, Peer};
use crate::protocol::{NAME_MAX, is_clean};

/// How long it is known which uid a subject has, or that it has none: whoever issues many tokens for the same asks once.
const SUBJECT_KEPT: Duration = Duration::from_secs(5);
/// Subjects of which that is remembered.
const SUBJECTS_MAX: usize = 4096;

/// What was last heard of subjects, and when (CLOCK_BOOTTIME).
#[derive(Default)]
pub(super) struct Subjects(Mutex<HashMap<String, (Duration, Option<u32>)>>);

impl Subjects {
    fn known(&self, subject: &str, now: Duration) -> Option<Option<u32>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(subject).filter(|(at, _)| now.saturating_sub(*at) < SUBJECT_KEPT).map(|(_, uid)| *uid)
    }

    fn learn(&self, subject: &str, now: Duration, uid: Option<u32>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= SUBJECTS_MAX && !known.contains_key(subject) {
            known.retain(|_, (at, _)| now.saturating_sub(*at) < SUBJECT_KEPT);
            if known.len() >= SUBJECTS_MAX {
                return;
            }
        }
        known.insert(subject.to_owned(), (now, uid));
    }
}

impl Service {
    /// The peer's user name, looked up off the event loop and for one second at most; else `uid:1000`. In a container
    /// it is `uid:0@docker-0123`.
    pub(super) async fn user_name(&self, caller: &Caller) -> String {
        let uid = caller.peer.uid;
        if !self.settings().policy.knows_user(&caller.peer) {
            return contained_name(&caller.peer);
        }
        if let Some(name) = caller.known_name(self.clock.boottime()) {
            return name;
        }
        let names = Arc::clone(&self.names);
        // Known by now, if others on this connection were before us.
        let known = || caller.known_name(self.clock.boottime());
        let found = self.look_up(caller, known, move || names.user_of(uid)).await;
        let name = found.clone().flatten().unwrap_or_else(|| format!("uid:{uid}"));
        if found.is_some() {
            caller.learn_name(self.clock.boottime(), &name);
        }
        name
    }

    pub(super) async fn uid_of(&self, caller: &Caller, subject: &str) -> Option<u32> {
        let known = || self.subjects.known(subject, self.clock.boottime());
        if let Some(uid) = known() {
            return uid;
        }
        let (names, name) = (Arc::clone(&self.names), subject.to_owned());
        // What was heard meanwhile, by who was before us, is as good.
        let found = self.look_up(caller, known, move || names.uid_of(&name).map(Some)).await.flatten();
        if let Some(uid) = found {
            self.subjects.learn(subject, self.clock.boottime(), uid);
        }
        found.flatten()
    }

    /// What the name services say; `None` when they do not in time.
    async fn look_up<T: Send + 'static>(
        &self,
        caller: &Caller,
        known: impl Fn() -> Option<T>,
        look: impl FnOnce() -> std::io::Result<Option<T>> + Send + 'static,
    ) -> Option<Option<T>> {
        // The turn goes with the thread: one that hangs in a name service keeps its place, and the rest of us go on.
        let waited = tokio::time::timeout(LOOKUP_WAIT, async {
            let turn = self.lookups.take(caller, &self.settings(), 1).await?;
            if let Some(known) = known() {
                return Some(Some(known));
            }
            let found = tokio::task::spawn_blocking(move || {
                let found = look();
                drop(turn);
                found
            });
            found.await.ok()?.ok()
        });
        waited.await.ok().flatten()
    }
}

/// The name of a peer in a container, where a uid is no user of this host: what it issues is its own there only.
fn contained_name(peer: &Peer) -> String {
    let container = peer.container.as_deref().unwrap_or(CONTAINER_UNKNOWN);
    let name = format!("uid:{}@{container}", peer.uid);
    if is_clean(&name, NAME_MAX) {
        return name;
    }
    // Who may make cgroups may call them anything.
    format!("uid:{}@{}", peer.uid, blake3::hash(container.as_bytes()).to_hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_subjects_ends_and_is_bounded() {
        let (subjects, at) = (Subjects::default(), Duration::from_secs);
        subjects.learn("ann", at(10), Some(1000));
        subjects.learn("team", at(10), None);
        assert_eq!((subjects.known("ann", at(14)), subjects.known("team", at(14))), (Some(Some(1000)), Some(None)));
        assert_eq!((subjects.known("bob", at(14)), subjects.known("ann", at(15))), (None, None));
        for n in 0..2 * SUBJECTS_MAX {
            subjects.learn(&n.to_string(), at(12), None);
        }
        assert_eq!(subjects.0.lock().unwrap().len(), SUBJECTS_MAX);
        subjects.learn("zoe", at(20), Some(1001));
        assert_eq!(subjects.known("zoe", at(20)), Some(Some(1001)));
        assert_eq!(subjects.0.lock().unwrap().len(), 1);
    }
}
