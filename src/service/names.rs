//! User names of peers and of subjects: looked up off the event loop, for a moment at most, and never on the way of a
//! validation.

use std::sync::Arc;

use super::{Caller, LOOKUP_WAIT, Service};
use crate::peer::{CONTAINER_UNKNOWN, Peer};
use crate::protocol::{NAME_MAX, is_clean};

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
        let (names, subject) = (Arc::clone(&self.names), subject.to_owned());
        self.look_up(caller, || None, move || names.uid_of(&subject)).await.flatten()
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
