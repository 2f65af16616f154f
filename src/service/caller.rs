//! A connection's peer and what policy says of it, worked out once and again after a reload.
//!
//! A connection keeps the settings that it last saw. Asking whether they are still in force reads one number that only
//! a reload writes; taking a lock and a count that all connections share would have the processors hand them round.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Service, Settings};
use crate::peer::Peer;
use crate::policy::Standing;

/// One connection.
pub struct Caller {
    /// Who connected, as the kernel says it.
    pub peer: Peer,
    known: Mutex<Known>,
}

/// What one connection last saw of the settings.
pub(super) struct Known {
    /// How many reloads there had been.
    reloads: u64,
    /// The settings.
    pub(super) settings: Arc<Settings>,
    /// What their policy says of the peer.
    pub(super) standing: Arc<Standing>,
}

impl Known {
    fn of(peer: &Peer, service: &Service) -> Self {
        // The number first: what is read after it is at least as new.
        let reloads = service.reloads();
        let settings = service.settings();
        let standing = Arc::new(settings.policy.standing(peer));
        Self { reloads, settings, standing }
    }
}

impl Caller {
    pub(super) fn new(peer: Peer, service: &Service) -> Self {
        let known = Mutex::new(Known::of(&peer, service));
        Self { peer, known }
    }

    /// The settings in force and the peer's standing under them. To be let go of before anything is awaited, and before
    /// it is asked for again.
    pub(super) fn known(&self, service: &Service) -> MutexGuard<'_, Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.reloads != service.reloads() {
            *known = Known::of(&self.peer, service);
        }
        known
    }

    /// What policy says of the peer under the settings in force.
    pub fn standing_now(&self, service: &Service) -> Arc<Standing> {
        Arc::clone(&self.known(service).standing)
    }

    /// What policy says of the peer under these settings, which may have been replaced since they were taken.
    pub fn standing(&self, settings: &Settings) -> Arc<Standing> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if std::ptr::eq(&raw const *known.settings, settings) {
            Arc::clone(&known.standing)
        } else {
            Arc::new(settings.policy.standing(&self.peer))
        }
    }

    /// The uid, if the peer has one on this host.
    pub fn uid(&self) -> Option<u32> {
        self.peer.has_uid().then_some(self.peer.uid)
    }
}
