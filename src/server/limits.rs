//! How much the server gives, to whom, and the places that connections hold.
//!
//! Invariant I7: one uid cannot starve another. A place is held by a guard, so that the counts are exact even when a
//! task panics. Three pools: ordinary places; a small share of them for peers that no rule is about, which never get
//! the last ones; and extra places for peers with full rights, so that root always gets in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::handler::Class;
use crate::protocol::{FRAME_DEADLINE, IN_FLIGHT_MAX};

/// All figures of the server; tests shrink them.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Connections in all, but for the extra places.
    pub max_connections: usize,
    /// Connections of one uid; full rights count apart, so that a container's root takes nothing from the host's.
    pub max_connections_per_uid: usize,
    /// Places beyond both, for peers with full rights only.
    pub extra_full: usize,
    /// Connections of all peers together that no rule is about.
    pub ruleless_connections: usize,
    /// The same of one uid.
    pub ruleless_per_uid: usize,
    /// Ordinary places that such peers never get.
    pub kept_from_ruleless: usize,
    /// Unanswered requests of one connection; more are simply not read yet.
    pub in_flight: usize,
    /// The same where no rule is about the peer, or its uid holds more than `uid_bytes`.
    pub in_flight_small: usize,
    /// Unwritten bytes of one connection above which nothing more is read or answered.
    pub queue_bytes: usize,
    /// The same where no rule is about the peer, or its uid holds more than `uid_bytes`.
    pub queue_bytes_small: usize,
    /// Streams in all, but for those of peers with full rights.
    pub streams: usize,
    /// Streams of one uid.
    pub streams_per_uid: usize,
    /// What all connections of one uid may hold in buffers and requests before each is held to the small figures.
    pub uid_bytes: usize,
    /// From connect until the hello is whole.
    pub hello_deadline: Duration,
    /// From a frame's first byte until it is whole.
    pub frame_deadline: Duration,
    /// How long a peer may take no byte while there is something to write.
    pub write_stall: Duration,
    /// How long the last words on a connection that ends may take.
    pub farewell: Duration,
    /// How long what a peer asked for goes on after it went away.
    pub finish: Duration,
    /// How long what is in flight may take when the server stops.
    pub drain: Duration,
    /// First and longest pause of the listener when descriptors or memory are short.
    pub accept_pause: (Duration, Duration),
    /// The kernel refuses descriptors that peers push (SO_PASSRIGHTS is 0 on the listener); else each read looks.
    pub fds_refused_by_kernel: bool,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_connections_per_uid: 512,
            extra_full: 64,
            ruleless_connections: 64,
            ruleless_per_uid: 8,
            kept_from_ruleless: 64,
            in_flight: IN_FLIGHT_MAX,
            in_flight_small: 1,
            queue_bytes: 1024 * 1024,
            queue_bytes_small: 16 * 1024,
            streams: 64,
            streams_per_uid: 16,
            uid_bytes: 64 * 1024 * 1024,
            hello_deadline: FRAME_DEADLINE,
            frame_deadline: FRAME_DEADLINE,
            write_stall: Duration::from_secs(10),
            farewell: Duration::from_secs(1),
            finish: Duration::from_secs(30),
            drain: Duration::from_secs(5),
            accept_pause: (Duration::from_millis(20), Duration::from_secs(1)),
            fds_refused_by_kernel: false,
        }
    }
}

/// What the server counts, for `status` and metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections now.
    pub connections: AtomicUsize,
    /// Of them, those of peers that no rule is about.
    pub ruleless: AtomicUsize,
    /// Streams now.
    pub streams: AtomicUsize,
    /// Connections that got a place, ever.
    pub accepted: AtomicU64,
    /// Connections turned away by a limit.
    pub refused: AtomicU64,
    /// Connections closed because the kernel did not say who connected.
    pub unidentified: AtomicU64,
    /// Connections closed because the peer broke the protocol.
    pub broken: AtomicU64,
    /// Connections closed because the peer took no byte.
    pub cut_off: AtomicU64,
    /// Times that the listener paused for want of descriptors or memory.
    pub accept_pauses: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// No place is free for such a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoPlace;

/// Who holds how many places.
pub(super) struct Places {
    limits: ServerLimits,
    counters: Arc<Counters>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: Tally,
    /// Of peers with full rights, and of the others.
    streams: [usize; 2],
    uids: HashMap<Key, Share>,
}

#[derive(Clone, Copy, Default)]
struct Tally {
    ordinary: usize,
    extra: usize,
    ruleless: usize,
}

/// A container's root has the host root's uid, but not its rights: they are counted apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    uid: u32,
    full: bool,
}

#[derive(Default)]
struct Share {
    tally: Tally,
    streams: usize,
    bytes: Arc<AtomicUsize>,
}

/// Which counts a place stands in.
#[derive(Clone, Copy)]
struct Seat {
    key: Key,
    ruleless: bool,
    extra: bool,
}

impl Tally {
    fn add(&mut self, seat: Seat) {
        *(if seat.extra { &mut self.extra } else { &mut self.ordinary }) += 1;
        self.ruleless += usize::from(seat.ruleless);
    }

    fn remove(&mut self, seat: Seat) {
        *(if seat.extra { &mut self.extra } else { &mut self.ordinary }) -= 1;
        self.ruleless -= usize::from(seat.ruleless);
    }

    fn connections(&self) -> usize {
        self.ordinary + self.extra
    }
}

impl Held {
    fn take(&mut self, limits: &ServerLimits, uid: u32, class: Class) -> Result<(Seat, Arc<AtomicUsize>), NoPlace> {
        let key = Key { uid, full: class == Class::Full };
        let ruleless = class == Class::Ruleless;
        let mine = self.uids.get(&key).map(|share| share.tally).unwrap_or_default();
        if ruleless && (mine.ruleless >= limits.ruleless_per_uid || self.all.ruleless >= limits.ruleless_connections) {
            return Err(NoPlace);
        }
        let kept = if ruleless { limits.kept_from_ruleless } else { 0 };
        let ordinary =
            mine.ordinary < limits.max_connections_per_uid && self.all.ordinary + kept < limits.max_connections;
        if !ordinary && (class != Class::Full || self.all.extra >= limits.extra_full) {
            return Err(NoPlace);
        }
        let seat = Seat { key, ruleless, extra: !ordinary };
        let share = self.uids.entry(key).or_default();
        share.tally.add(seat);
        self.all.add(seat);
        Ok((seat, Arc::clone(&share.bytes)))
    }

    fn give_back(&mut self, seat: Seat) {
        self.all.remove(seat);
        let share = self.uids.get_mut(&seat.key).expect("a uid has a share until its last seat is given back");
        share.tally.remove(seat);
        self.forget_if_idle(seat.key);
    }

    fn take_stream(&mut self, limits: &ServerLimits, key: Key) -> Result<(), NoPlace> {
        let share = self.uids.entry(key).or_default();
        let all = &mut self.streams[usize::from(!key.full)];
        if share.streams >= limits.streams_per_uid || (!key.full && *all >= limits.streams) {
            return Err(NoPlace);
        }
        share.streams += 1;
        *all += 1;
        Ok(())
    }

    fn give_stream_back(&mut self, key: Key) {
        self.streams[usize::from(!key.full)] -= 1;
        let share = self.uids.get_mut(&key).expect("a uid has a share until its last stream is given back");
        share.streams -= 1;
        self.forget_if_idle(key);
    }

    fn forget_if_idle(&mut self, key: Key) {
        if self.uids.get(&key).is_some_and(|share| share.tally.connections() == 0 && share.streams == 0) {
            self.uids.remove(&key);
        }
    }
}

impl Places {
    pub(super) fn new(limits: ServerLimits, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self { limits, counters, held: Mutex::default() })
    }

    /// A place for a peer.
    pub(super) fn take(self: &Arc<Self>, uid: u32, class: Class) -> Result<Place, NoPlace> {
        let mut held = self.held();
        let (seat, bytes) = held.take(&self.limits, uid, class)?;
        self.publish(&held);
        Ok(Place { places: Arc::clone(self), uid, class, seat: Some(seat), bytes, own_bytes: 0 })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // The counts are changed in one piece; a panic elsewhere leaves them right.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, held: &Held) {
        self.counters.connections.store(held.all.connections(), Ordering::Relaxed);
        self.counters.ruleless.store(held.all.ruleless, Ordering::Relaxed);
        self.counters.streams.store(held.streams.iter().sum(), Ordering::Relaxed);
    }
}

/// A connection's place, given back when dropped.
pub(super) struct Place {
    places: Arc<Places>,
    uid: u32,
    class: Class,
    seat: Option<Seat>,
    /// What all connections of this uid hold.
    bytes: Arc<AtomicUsize>,
    own_bytes: usize,
}

impl Place {
    /// Moves to the pool of another class, after policy changed. Without a place there, the connection must end.
    pub(super) fn reclass(&mut self, class: Class) -> Result<(), NoPlace> {
        if class == self.class {
            return Ok(());
        }
        self.account(0);
        let mut held = self.places.held();
        if let Some(seat) = self.seat.take() {
            held.give_back(seat);
        }
        let taken = held.take(&self.places.limits, self.uid, class);
        self.places.publish(&held);
        let (seat, bytes) = taken?;
        self.bytes = bytes;
        self.seat = Some(seat);
        self.class = class;
        Ok(())
    }

    /// Says how much memory the connection holds now.
    pub(super) fn account(&mut self, bytes: usize) {
        if bytes > self.own_bytes {
            self.bytes.fetch_add(bytes - self.own_bytes, Ordering::Relaxed);
        } else if bytes < self.own_bytes {
            self.bytes.fetch_sub(self.own_bytes - bytes, Ordering::Relaxed);
        }
        self.own_bytes = bytes;
    }

    /// Whether all connections of this uid together would hold too much with `more`.
    pub(super) fn over_budget(&self, more: usize) -> bool {
        self.bytes.load(Ordering::Relaxed).saturating_add(more) > self.places.limits.uid_bytes
    }

    pub(super) fn class(&self) -> Class {
        self.class
    }

    /// A place for a stream on this connection.
    pub(super) fn stream(&self) -> Result<StreamPlace, NoPlace> {
        let key = Key { uid: self.uid, full: self.class == Class::Full };
        let mut held = self.places.held();
        held.take_stream(&self.places.limits, key)?;
        self.places.publish(&held);
        Ok(StreamPlace { places: Arc::clone(&self.places), key })
    }
}

/// A stream's place, given back when dropped.
pub(super) struct StreamPlace {
    places: Arc<Places>,
    key: Key,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut held = self.places.held();
        held.give_stream_back(self.key);
        self.places.publish(&held);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.account(0);
        if let Some(seat) = self.seat.take() {
            let mut held = self.places.held();
            held.give_back(seat);
            self.places.publish(&held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(limits: ServerLimits) -> (Arc<Places>, Arc<Counters>) {
        let counters = Arc::new(Counters::default());
        (Places::new(limits, Arc::clone(&counters)), counters)
    }

    fn small() -> ServerLimits {
        ServerLimits {
            max_connections: 10,
            max_connections_per_uid: 6,
            extra_full: 2,
            ruleless_connections: 3,
            ruleless_per_uid: 2,
            kept_from_ruleless: 4,
            ..ServerLimits::default()
        }
    }

    fn fill(places: &Arc<Places>, uid: u32, class: Class) -> Vec<Place> {
        std::iter::from_fn(|| places.take(uid, class).ok()).take(100).collect()
    }

    #[test]
    fn one_uid_gets_its_share_and_no_more() {
        let (places, counters) = places(small());
        let first = fill(&places, 1000, Class::Ruled);
        assert_eq!(first.len(), 6);
        let second = fill(&places, 1001, Class::Ruled);
        assert_eq!(second.len(), 4, "what is left in all");
        assert_eq!(counters.connections.load(Ordering::Relaxed), 10);
        drop(first);
        assert_eq!(fill(&places, 1001, Class::Ruled).len(), 2);
        drop(second);
        assert_eq!(counters.connections.load(Ordering::Relaxed), 0);
        assert!(places.held().uids.is_empty());
    }

    #[test]
    fn full_rights_get_in_when_all_is_taken_even_by_a_containers_root() {
        let (places, _) = places(small());
        let _contained = fill(&places, 0, Class::Ruled);
        let _others = fill(&places, 1000, Class::Ruled);
        assert_eq!(fill(&places, 1001, Class::Ruled).len(), 0);
        assert_eq!(fill(&places, 0, Class::Full).len(), 2);
    }

    #[test]
    fn a_leaking_program_with_full_rights_leaves_room_for_another() {
        let (places, _) = places(small());
        let leak = fill(&places, 0, Class::Full);
        assert_eq!(leak.len(), 8, "its share and the extra places");
        assert_eq!(fill(&places, 1000, Class::Ruled).len(), 4);
    }

    #[test]
    fn peers_without_a_rule_share_a_pool_and_never_get_the_last_places() {
        let (places, counters) = places(small());
        let one = fill(&places, 1000, Class::Ruleless);
        assert_eq!(one.len(), 2);
        let two = fill(&places, 1001, Class::Ruleless);
        assert_eq!((two.len(), counters.ruleless.load(Ordering::Relaxed)), (1, 3));
        drop((one, two));
        let _ruled = fill(&places, 1002, Class::Ruled);
        assert_eq!(fill(&places, 1000, Class::Ruleless).len(), 0, "6 of 10 are taken, the last 4 are not for it");
        assert_eq!(fill(&places, 1003, Class::Ruled).len(), 4);
    }

    #[test]
    fn a_change_of_policy_moves_a_place_or_ends_it() {
        let (places, counters) = places(small());
        let others = (places.take(1001, Class::Ruled), places.take(1001, Class::Ruled));
        let mut ruled = fill(&places, 1000, Class::Ruled);
        let now = || (counters.connections.load(Ordering::Relaxed), counters.ruleless.load(Ordering::Relaxed));
        assert_eq!(now(), (8, 0));
        ruled[0].account(500);
        assert_eq!(ruled[0].reclass(Class::Ruled), Ok(()));
        assert_eq!(ruled[0].reclass(Class::Ruleless), Err(NoPlace), "the last places are not for it");
        assert_eq!(now(), (7, 0), "and the one that it had is free");
        ruled.truncate(3);
        assert_eq!(now(), (4, 0));
        assert_eq!(ruled[1].reclass(Class::Ruleless), Ok(()));
        assert_eq!(now(), (4, 1));
        assert_eq!(ruled[1].reclass(Class::Full), Ok(()));
        assert_eq!(now(), (4, 0));
        drop(ruled);
        assert_eq!(now(), (2, 0));
        drop(others);
        assert!(places.held().uids.is_empty());
    }

    #[test]
    fn streams_are_counted_apart_and_outlive_a_change_of_policy() {
        let limits = ServerLimits { streams: 3, streams_per_uid: 2, ..small() };
        let (places, counters) = places(limits);
        let mut one = places.take(1000, Class::Ruled).unwrap();
        let two = places.take(1001, Class::Ruled).unwrap();
        let root = places.take(0, Class::Full).unwrap();
        let first = one.stream().unwrap();
        let second = one.stream().unwrap();
        assert!(one.stream().is_err(), "its own are two");
        let third = two.stream().unwrap();
        assert!(two.stream().is_err(), "three in all");
        let full = [root.stream().unwrap(), root.stream().unwrap()];
        assert!(root.stream().is_err());
        assert_eq!(counters.streams.load(Ordering::Relaxed), 5);
        drop(full);
        drop(first);
        let full = root.stream().unwrap();
        let fourth = two.stream().unwrap();
        drop(full);
        assert_eq!(one.reclass(Class::Full), Ok(()));
        drop(one);
        drop((second, third, fourth));
        assert_eq!(counters.streams.load(Ordering::Relaxed), 0);
        drop((two, root));
        assert!(places.held().uids.is_empty());
    }

    #[test]
    fn what_a_uid_holds_is_counted_over_its_connections() {
        let (places, _) = places(ServerLimits { uid_bytes: 100, ..small() });
        let mut places = fill(&places, 1000, Class::Ruled);
        places[0].account(60);
        places[1].account(40);
        assert!(!places[2].over_budget(0));
        assert!(places[2].over_budget(1));
        places[0].account(10);
        assert!(!places[2].over_budget(50));
        places.remove(1);
        assert!(!places[0].over_budget(90));
    }

    #[test]
    fn a_panic_gives_the_place_back() {
        let (places, counters) = places(small());
        let place = places.take(1, Class::Ruled).unwrap();
        let panicked = std::thread::spawn(move || {
            let _place = place;
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(panicked.join().is_err());
        assert_eq!(counters.connections.load(Ordering::Relaxed), 0);
    }
}
