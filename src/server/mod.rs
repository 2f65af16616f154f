//! The native socket: accepts peers, gives them places, reads their frames and writes the answers.
//!
//! Knows the protocol and how much each peer may take; what the answers are is the [`Handler`]'s business. Both the
//! listener and the end of the server are given from outside, so that tests own them. (`docs/protocol.md`)

#![forbid(unsafe_code)]

mod connection;
mod descriptors;
mod handler;
mod in_flight;
mod limits;
mod listener;
mod stop;
mod workers;

use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;

use nix::sys::socket::{MsgFlags, send};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time;
use tracing::{debug, error, warn};

pub use handler::{Class, Handler};
pub use limits::{Counters, ServerLimits};
pub use workers::Workers;

use crate::peer::Peer;
use crate::protocol::code::ErrorCode;
use connection::Shared;
use limits::{Place, Places};
use listener::{Accepted, Door};
use stop::Stop;

/// Serves the listener until `shutdown` is ready; then takes no new connection and no new request, finishes what is in
/// flight, at most [`ServerLimits::drain`] long, and closes. Returns how many connections were cut off by that.
///
/// `identify` asks the kernel who connected; a peer of whom that fails is not served.
pub async fn run<H: Handler>(
    listener: UnixListener,
    identify: impl Fn(&UnixStream) -> io::Result<Peer> + Send + Sync + 'static,
    handler: Arc<H>,
    limits: ServerLimits,
    counters: Arc<Counters>,
    shutdown: impl Future<Output = ()>,
) -> usize {
    run_on(&Workers::none(), listener, identify, handler, limits, counters, shutdown).await
}

/// [`run`], with the connections on threads of their own. They end with [`Workers`], which must outlive this.
pub async fn run_on<H: Handler>(
    workers: &Workers,
    listener: UnixListener,
    identify: impl Fn(&UnixStream) -> io::Result<Peer> + Send + Sync + 'static,
    handler: Arc<H>,
    limits: ServerLimits,
    counters: Arc<Counters>,
    shutdown: impl Future<Output = ()>,
) -> usize {
    let mut door = Door::new(listener, &limits);
    let drain = limits.drain;
    let places = Places::new(limits.clone(), Arc::clone(&counters));
    let shared = Arc::new(Shared { handler, limits, counters, stop: Stop::default() });
    let mut tasks = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => report(ended),
            accepted = door.accept(&shared.counters) => {
                let admission = || {
                    let admitted = admit(accepted, &mut door, &identify, &shared, &places);
                    if let Some(admitted) = admitted {
                        admitted.serve(workers, &shared, &mut tasks);
                    }
                };
                // A fault with one peer must not close the door to all others.
                if catch_unwind(AssertUnwindSafe(admission)).is_err() {
                    error!("a peer could not be admitted by a fault of the daemon; the others go on");
                }
                door.keep_spare();
            }
        }
    }
    drop(door);
    shared.stop.set();
    let drained = time::timeout(drain, async {
        while let Some(ended) = tasks.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_ok() {
        return 0;
    }
    let cut = tasks.len();
    warn!("{cut} connections were not done {drain:?} after the stop and are cut off");
    tasks.shutdown().await;
    cut
}

/// Gives a new peer a place, or turns it away.
fn admit<H: Handler>(
    accepted: Accepted,
    door: &mut Door,
    identify: &impl Fn(&UnixStream) -> io::Result<Peer>,
    shared: &Arc<Shared<H>>,
    places: &Arc<Places>,
) -> Option<Admitted<H>> {
    let Accepted { stream, mut with_spare } = accepted;
    let mut identified = identify(&stream);
    if let Err(error) = &identified
        && listener::is_shortage(error)
    {
        door.give_up_spare(error, &shared.counters);
        with_spare = true;
        identified = identify(&stream);
    }
    let peer = match identified {
        Ok(peer) => peer,
        Err(error) => {
            if listener::is_shortage(&error) {
                turn_away(&stream);
            }
            Counters::add(&shared.counters.unidentified);
            debug!("a connection was closed: the kernel does not say who it is: {error}");
            return None;
        }
    };
    let caller = shared.handler.admit(peer.clone());
    let class = shared.handler.class(&caller);
    let place = if with_spare && class != Class::Full { None } else { places.take(peer.uid, class).ok() };
    let Some(place) = place else {
        Counters::add(&shared.counters.refused);
        shared.handler.refused_connection(&peer, ErrorCode::TooManyConnections);
        turn_away(&stream);
        return None;
    };
    Counters::add(&shared.counters.accepted);
    Some(Admitted { stream, peer, caller, place })
}

/// A peer that has a place.
struct Admitted<H: Handler> {
    stream: UnixStream,
    peer: Peer,
    caller: Arc<H::Caller>,
    place: Place,
}

impl<H: Handler> Admitted<H> {
    fn serve(self, workers: &Workers, shared: &Arc<Shared<H>>, tasks: &mut JoinSet<()>) {
        let Self { stream, peer, caller, place } = self;
        let shared = Arc::clone(shared);
        let Some((runtime, seat)) = workers.seat() else {
            tasks.spawn(connection::serve(shared, stream, peer, caller, place));
            return;
        };
        let moved = stream.into_std();
        let on_its_thread = async move {
            let _seat = seat;
            match moved.and_then(UnixStream::from_std) {
                Ok(stream) => connection::serve(shared, stream, peer, caller, place).await,
                Err(error) => warn!("a connection was closed: its thread's event loop does not take it: {error}"),
            }
        };
        tasks.spawn_on(on_its_thread, runtime);
    }
}

/// Says why there is no place. A new socket has room for it, so nobody waits for a peer that does not read.
fn turn_away(stream: &UnixStream) {
    let words = connection::refusal(
        ErrorCode::TooManyConnections,
        "bearerd has too many connections, of you or in all: close some, or try again later",
    );
    // Not `try_write`: the runtime does not know yet that the socket is writable.
    if let Err(error) = send(stream.as_raw_fd(), words.pending(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
        debug!("a peer that was turned away did not hear why: {error}");
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        // The panic hook has said where; its payload may hold what a peer sent, and is not repeated.
        error!("a connection ended in a fault of the daemon; the others go on");
    }
}
