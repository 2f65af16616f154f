//! What the server asks of whoever answers: the door between the sockets and the service.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::peer::Peer;
use crate::protocol::code::ErrorCode;
use crate::protocol::message::Ask;
use crate::service::{Body, Caller, Now, Service};

/// What policy says of a peer as a whole; it decides which places and how much in flight the peer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Full rights: root and the daemon's own user. Gets in when nobody else does.
    Full,
    /// A rule, or membership of the clients' group, is about it.
    Ruled,
    /// No rule is about it: it shares a small pool with all others of its kind.
    Ruleless,
}

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// What is known of a peer after it was admitted, kept as long as its connection.
    type Caller: Send + Sync + 'static;

    /// Looks a new peer up, once for each connection.
    fn admit(&self, peer: Peer) -> Arc<Self::Caller>;

    /// The peer's class; asked again as requests come, for policy may have been reloaded.
    fn class(&self, caller: &Self::Caller) -> Class;

    /// Answers a request, at once where that can be done (the hot path), else with a future, or with a stream.
    ///
    /// When the peer goes away that future is still polled to its end, at most
    /// [`ServerLimits::finish`](super::ServerLimits::finish) long. A stream is dropped: it changes nothing.
    fn answer(self: &Arc<Self>, caller: &Arc<Self::Caller>, ask: &Ask<'_>) -> Now<Body>;

    /// Told of a peer that was turned away or broke the protocol, for the audit.
    fn refused_connection(&self, peer: &Peer, code: ErrorCode);

    /// CLOCK_BOOTTIME, for the hello.
    fn boottime(&self) -> Duration;

    /// The peer wants the epoch page. Says whether it gets it; its verdicts say from then on how they may be kept.
    fn grant_page(&self, caller: &Self::Caller) -> bool;

    /// The file of the page, for those who get it.
    fn page(&self) -> Option<BorrowedFd<'_>>;
}

impl Handler for Service {
    type Caller = Caller;

    fn admit(&self, peer: Peer) -> Arc<Caller> {
        Service::admit(self, peer)
    }

    fn class(&self, caller: &Caller) -> Class {
        caller.standing_is(self, |standing| match () {
            () if standing.full => Class::Full,
            () if standing.ruleless() => Class::Ruleless,
            () => Class::Ruled,
        })
    }

    fn answer(self: &Arc<Self>, caller: &Arc<Caller>, ask: &Ask<'_>) -> Now<Body> {
        Service::reply(self, caller, ask)
    }

    fn refused_connection(&self, peer: &Peer, code: ErrorCode) {
        Service::refused_connection(self, peer, code);
    }

    fn boottime(&self) -> Duration {
        Service::boottime(self)
    }

    fn grant_page(&self, caller: &Caller) -> bool {
        Service::grant_page(self, caller)
    }

    fn page(&self) -> Option<BorrowedFd<'_>> {
        Service::epoch_page(self)
    }
}
