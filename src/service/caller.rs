//! A connection's peer and what policy says of it, worked out once and again after a reload.

use std::sync::{Arc, Mutex, PoisonError};

use super::Settings;
use crate::peer::Peer;
use crate::policy::Standing;

/// One connection.
pub struct Caller {
    /// Who connected, as the kernel says it.
    pub peer: Peer,
    standing: Mutex<(u64, Arc<Standing>)>,
}

impl Caller {
    pub(super) fn new(peer: Peer, settings: &Settings) -> Self {
        let standing = Arc::new(settings.policy.standing(&peer));
        Self { peer, standing: Mutex::new((settings.generation, standing)) }
    }

    /// What policy says of the peer under these settings.
    pub fn standing(&self, settings: &Settings) -> Arc<Standing> {
        let mut cached = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.0 != settings.generation {
            *cached = (settings.generation, Arc::new(settings.policy.standing(&self.peer)));
        }
        Arc::clone(&cached.1)
    }

    /// The uid, if the peer has one on this host.
    pub fn uid(&self) -> Option<u32> {
        self.peer.has_uid().then_some(self.peer.uid)
    }
}
