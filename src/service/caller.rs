//! A connection's peer and what policy says of it, worked out once and again after a reload.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Settings;
use crate::peer::Peer;
use crate::policy::Standing;

/// How long a user name is good for.
const NAME_KEPT: Duration = Duration::from_secs(60);

/// One connection.
pub struct Caller {
    /// Who connected, as the kernel says it.
    pub peer: Peer,
    standing: Mutex<(u64, Arc<Standing>)>,
    /// The user name, and when (CLOCK_BOOTTIME) it was looked up.
    name: Mutex<Option<(Duration, String)>>,
}

impl Caller {
    pub(super) fn new(peer: Peer, settings: &Settings) -> Self {
        let standing = Arc::new(settings.policy.standing(&peer));
        Self { peer, standing: Mutex::new((settings.generation, standing)), name: Mutex::new(None) }
    }

    /// What policy says of the peer under these settings.
    pub fn standing(&self, settings: &Settings) -> Arc<Standing> {
        let mut cached = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.0 != settings.generation {
            *cached = (settings.generation, Arc::new(settings.policy.standing(&self.peer)));
        }
        Arc::clone(&cached.1)
    }

    /// The user name, if it was looked up less than a minute ago: names in policy are no fresher.
    pub(super) fn known_name(&self, now: Duration) -> Option<String> {
        let known = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|(at, _)| now.saturating_sub(*at) < NAME_KEPT).map(|(_, name)| name.clone())
    }

    /// Remembers what the name services said.
    pub(super) fn learn_name(&self, now: Duration, name: &str) {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, name.to_owned()));
    }

    /// The uid, if the peer has one on this host.
    pub fn uid(&self) -> Option<u32> {
        self.peer.has_uid().then_some(self.peer.uid)
    }
}
