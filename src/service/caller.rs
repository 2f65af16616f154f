//! A connection's peer and what policy says of it, worked out once and again after a reload.
//!
//! A connection keeps the settings that it last saw. Asking whether they are still in force reads one number that only
//! a reload writes; taking a lock and a count that all connections share would have the processors hand them round.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Service, Settings};
use crate::peer::Peer;
use crate::policy::Standing;

/// How long a user name is good for.
const NAME_KEPT: Duration = Duration::from_secs(60);

/// One connection.
pub struct Caller {
    /// Who connected, as the kernel says it.
    pub peer: Peer,
    known: Mutex<Known>,
    /// It was given the epoch page: its verdicts say how they may be kept.
    keeps: AtomicBool,
    /// The user name, and when (CLOCK_BOOTTIME) it was looked up.
    name: Mutex<Option<(Duration, String)>>,
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
        Self { peer, known, keeps: AtomicBool::new(false), name: Mutex::new(None) }
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

    /// Something about what policy says of the peer under the settings in force.
    pub fn standing_is<T>(&self, service: &Service, look: impl FnOnce(&Standing) -> T) -> T {
        look(&self.known(service).standing)
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

    /// The user name, if it was looked up less than a minute ago: names in policy are no fresher.
    pub(super) fn known_name(&self, now: Duration) -> Option<String> {
        let known = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|(at, _)| now.saturating_sub(*at) < NAME_KEPT).map(|(_, name)| name.clone())
    }

    /// Remembers what the name services said.
    pub(super) fn learn_name(&self, now: Duration, name: &str) {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, name.to_owned()));
    }

    /// Whether it was given the epoch page.
    pub(super) fn keeps(&self) -> bool {
        self.keeps.load(Ordering::Relaxed)
    }

    /// It is given the epoch page.
    pub(super) fn may_keep(&self) {
        self.keeps.store(true, Ordering::Relaxed);
    }

    /// The uid, if the peer has one on this host.
    pub fn uid(&self) -> Option<u32> {
        self.peer.has_uid().then_some(self.peer.uid)
    }
}
