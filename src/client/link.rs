//! The task that owns an asynchronous client's connection: requests from many callers, replies back to each.
//!
//! Invariant: every caller is told what became of its request, also when the runtime throws the task away; and it is
//! told that nothing was begun only where no byte of the request was taken, or the daemon said so.

use std::collections::HashMap;
use std::future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use super::cache::boottime;
use super::socket::{self, Page, Terms};
use super::{Broken, ClientError, Options};
use crate::page::Seen;
use crate::protocol::buffer::{ReadBuffer, WriteBuffer};
use crate::protocol::frame::{Direction, FrameError, LENGTH_BYTES};
use crate::protocol::message::{Answer, Failure};
use crate::sys::pass::receive_with_file;

/// Requests that wait for their turn before a caller waits to hand its own over.
const ORDERS: usize = 64;
/// Unsent bytes above which no further request is taken.
const UNSENT_MAX: usize = 256 * 1024;
/// Longest encoding of a request's number.
const ID_BYTES_MAX: usize = 5;

/// The way to the task that owns the connection.
#[derive(Clone)]
pub(super) struct Link {
    orders: mpsc::Sender<Order>,
    request_max: usize,
    server_uid: u32,
    page: Page,
    greeted_at: Instant,
}

impl Link {
    /// Gives a greeted connection to a task of the runtime.
    pub(super) fn over(greeted: Greeted) -> Self {
        let Greeted { wire, terms, server_uid, page } = greeted;
        let (orders, inbox) = mpsc::channel(ORDERS);
        let pushed = wire.taken;
        let task = Task { wire, inbox, waiting: HashMap::new(), terms, next_id: 1, pushed, abandoned: false };
        tokio::spawn(task.run());
        Self { orders, request_max: terms.request_max, server_uid, page, greeted_at: Instant::now() }
    }

    /// Asks, with an encoded question that has no number yet.
    pub(super) async fn ask(&self, body: &Zeroizing<Vec<u8>>) -> Result<Answer, Broken> {
        let (bytes, limit) = (body.len() + ID_BYTES_MAX, self.request_max);
        if bytes > limit {
            return Err(Broken::Final(ClientError::TooLarge { bytes, limit }));
        }
        let (waiter, answer) = Waiter::new();
        match self.orders.send(Order { body: body.clone(), waiter }).await {
            Ok(()) => answer.await.unwrap_or(Err(Broken::NoReply(None))),
            Err(_) => Err(Broken::Unbegun(ClientError::Lost { source: None })),
        }
    }

    /// Whether the connection has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.orders.is_closed()
    }

    /// The epoch page that came with it.
    pub(super) fn page(&self) -> Option<&Arc<Seen>> {
        self.page.seen()
    }

    /// Whether greeting again may show that the daemon's clock is ours: the answer to the hello was late.
    pub(super) fn might_prove_its_clock(&self) -> bool {
        matches!(self.page, Page::Doubtful) && self.greeted_at.elapsed() >= socket::DOUBT
    }

    /// Who listened when it was made.
    pub(super) fn server_uid(&self) -> u32 {
        self.server_uid
    }
}

/// A connection after both hellos.
pub(super) struct Greeted {
    pub(super) wire: Wire,
    terms: Terms,
    server_uid: u32,
    page: Page,
}

impl Greeted {
    /// Greets on a new connection.
    pub(super) async fn on(
        stream: StdUnixStream,
        path: &Path,
        options: &Options,
        wants_page: bool,
    ) -> Result<Self, Broken> {
        let server_uid = socket::server_uid(&stream, path, options).map_err(Broken::Final)?;
        let stream = UnixStream::from_std(stream)
            .map_err(|source| Broken::Final(ClientError::Connect { path: path.to_owned(), source }))?;
        let mut wire = Wire { stream, input: ReadBuffer::new(Direction::Reply), output: WriteBuffer::new(), taken: 0 };
        let before = boottime();
        wire.output.push(&socket::hello(wants_page), false);
        let written = future::poll_fn(|cx| wire.poll_write(cx)).await;
        let file = if wants_page { wire.first_bytes().await? } else { None };
        // Whoever turned us away has said so before closing: the frames are there although the write failed.
        if !future::poll_fn(|cx| wire.poll_frame(cx)).await? {
            return Err(Broken::NoReply(written.err()));
        }
        let terms = socket::terms(wire.frame(), wants_page).map_err(Broken::Final)?;
        wire.consume();
        let Some(terms) = terms else {
            if !future::poll_fn(|cx| wire.poll_frame(cx)).await? {
                return Err(Broken::NoReply(None));
            }
            return match socket::reply(wire.frame()) {
                Err(broken) => Err(broken),
                Ok(_) => Err(Broken::Final(ClientError::Protocol("a hello without a version and no reason for it"))),
            };
        };
        let page = Page::of(file, before, terms.page);
        Ok(Self { wire, terms, server_uid, page })
    }
}

/// A request on its way to the connection.
struct Order {
    /// The encoded question, without a number.
    body: Zeroizing<Vec<u8>>,
    waiter: Waiter,
}

/// Who waits for an answer. Always told: also when the runtime throws the task away, and then nothing is known.
struct Waiter {
    answer: Option<oneshot::Sender<Result<Answer, Broken>>>,
    /// How much must have been written for a byte of the request to be among it; `None` = it is not in the buffer yet.
    begins_after: Option<u64>,
}

impl Waiter {
    fn new() -> (Self, oneshot::Receiver<Result<Answer, Broken>>) {
        let (sender, receiver) = oneshot::channel();
        (Self { answer: Some(sender), begins_after: None }, receiver)
    }

    fn tell(mut self, answer: Result<Answer, Broken>) {
        if let Some(sender) = self.answer.take() {
            // A caller that was dropped hears nothing.
            let _ = sender.send(answer);
        }
    }

    fn is_gone(&self) -> bool {
        self.answer.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(sender) = self.answer.take() {
            let lost = || ClientError::Lost { source: None };
            let broken = if self.begins_after.is_none() { Broken::Unbegun(lost()) } else { Broken::NoReply(None) };
            let _ = sender.send(Err(broken));
        }
    }
}

/// The socket and its buffers.
pub(super) struct Wire {
    stream: UnixStream,
    input: ReadBuffer,
    pub(super) output: WriteBuffer,
    /// Bytes that the kernel has taken, ever.
    taken: u64,
}

impl Wire {
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            ready!(self.stream.poll_write_ready(cx))?;
            let sent = self.stream.try_io(Interest::WRITABLE, || socket::send(&self.stream, self.output.pending()));
            match sent {
                Ok(count) => {
                    self.output.advance(count);
                    self.taken += count as u64;
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads the first bytes, and the file that may come with them. The end of the connection is found by whoever reads on.
    async fn first_bytes(&mut self) -> Result<Option<OwnedFd>, Broken> {
        let unframed = |_: FrameError| Broken::Final(ClientError::Protocol("a frame is empty or too long"));
        let space = self.input.space().map_err(unframed)?;
        let read = self.stream.async_io(Interest::READABLE, || receive_with_file(&self.stream, space)).await;
        match read {
            Ok((count, file)) => {
                self.input.filled(count);
                Ok(file)
            }
            Err(error) if socket::is_closed(&error) => Err(Broken::NoReply(Some(error))),
            Err(error) => Err(Broken::Final(ClientError::Lost { source: Some(error) })),
        }
    }

    /// Waits until a whole frame is there; false at the end of the connection.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Broken>> {
        let unframed = |_: FrameError| Broken::Final(ClientError::Protocol("a frame is empty or too long"));
        while self.input.frame().map_err(unframed)?.is_none() {
            let mut space = ReadBuf::new(self.input.space().map_err(unframed)?);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space));
            let count = space.filled().len();
            match read {
                Ok(()) if count > 0 => self.input.filled(count),
                Ok(()) => return Poll::Ready(Ok(false)),
                Err(error) if socket::is_closed(&error) => return Poll::Ready(Ok(false)),
                Err(error) => return Poll::Ready(Err(Broken::Final(ClientError::Lost { source: Some(error) }))),
            }
        }
        Poll::Ready(Ok(true))
    }

    /// The content of the frame that is there.
    pub(super) fn frame(&self) -> &[u8] {
        self.input.frame().ok().flatten().unwrap_or_default()
    }

    /// Goes on to the next frame.
    pub(super) fn consume(&mut self) {
        self.input.consume();
    }
}

/// The task that owns the connection.
struct Task {
    wire: Wire,
    inbox: mpsc::Receiver<Order>,
    waiting: HashMap<u32, Waiter>,
    terms: Terms,
    next_id: u32,
    /// Bytes of requests that were put into the buffer, ever, and the hello's.
    pushed: u64,
    /// All clients are gone.
    abandoned: bool,
}

/// Why the task ends.
enum End {
    /// The connection ended, or nobody needs it any more.
    Closed(Option<io::ErrorKind>),
    /// The daemon said something that is of the connection.
    Said(Failure),
    /// What came can't be understood.
    Nonsense(&'static str),
}

impl Task {
    async fn run(mut self) {
        let end = future::poll_fn(|cx| self.poll(cx)).await;
        // New callers connect again; those in the inbox are told by their waiters that nothing was begun.
        self.inbox.close();
        let taken = self.wire.taken;
        let cut_short = !self.wire.input.unread().is_empty();
        for (_, waiter) in self.waiting.drain() {
            let begun = waiter.begins_after.is_some_and(|before| taken > before);
            let broken = match &end {
                End::Said(failure) => Broken::by_daemon(failure.clone()),
                End::Nonsense(what) => Broken::Final(ClientError::Protocol(what)),
                End::Closed(kind) => {
                    let source = kind.map(io::Error::from);
                    match begun {
                        false => Broken::Unbegun(ClientError::Lost { source }),
                        true if cut_short => Broken::Final(ClientError::Lost { source }),
                        true => Broken::NoReply(source),
                    }
                }
            };
            waiter.tell(Err(broken));
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            self.take_orders(cx);
            let had_room = self.has_room();
            if let Poll::Ready(Err(error)) = self.wire.poll_write(cx) {
                // What the daemon said before it closed explains more than the error does.
                return match self.take_replies(cx) {
                    Poll::Ready(end @ End::Said(_)) => Poll::Ready(end),
                    _ => Poll::Ready(End::Closed(Some(error.kind()))),
                };
            }
            if let Poll::Ready(end) = self.take_replies(cx) {
                return Poll::Ready(end);
            }
            if self.abandoned && self.waiting.values().all(Waiter::is_gone) {
                return Poll::Ready(End::Closed(None));
            }
            if had_room || !self.has_room() {
                return Poll::Pending;
            }
            // Room was made after the inbox was looked at: without another look nobody would wake us for it.
        }
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < self.terms.in_flight_max.max(1) && self.wire.output.len() < UNSENT_MAX
    }

    fn take_orders(&mut self, cx: &mut Context<'_>) {
        while self.has_room() && !self.abandoned {
            match self.inbox.poll_recv(cx) {
                Poll::Ready(Some(order)) if order.waiter.is_gone() => {}
                Poll::Ready(Some(Order { body, mut waiter })) => {
                    let id = self.free_id();
                    let bytes = self.wire.output.push(&Numbered { id, body: &body }, true);
                    waiter.begins_after = Some(self.pushed);
                    self.pushed += (LENGTH_BYTES + bytes) as u64;
                    self.waiting.insert(id, waiter);
                }
                Poll::Ready(None) => self.abandoned = true,
                Poll::Pending => return,
            }
        }
    }

    fn take_replies(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let reply = match ready!(self.wire.poll_frame(cx)) {
                Ok(true) => socket::reply(self.wire.frame()),
                Ok(false) => return Poll::Ready(End::Closed(None)),
                Err(broken) => Err(broken),
            };
            match reply {
                Ok((id, answer)) => {
                    self.wire.consume();
                    match self.waiting.remove(&id) {
                        Some(waiter) => waiter.tell(Ok(answer)),
                        None => return Poll::Ready(End::Nonsense("a reply has a number that was not asked")),
                    }
                }
                Err(broken) => {
                    return Poll::Ready(match ClientError::from(broken) {
                        ClientError::Refused(failure) => End::Said(failure),
                        ClientError::Protocol(what) => End::Nonsense(what),
                        ClientError::Lost { source: Some(error) } => End::Closed(Some(error.kind())),
                        _ => End::Closed(None),
                    });
                }
            }
        }
    }

    fn free_id(&mut self) -> u32 {
        loop {
            let id = self.next_id;
            self.next_id = id.checked_add(1).unwrap_or(1);
            if !self.waiting.contains_key(&id) {
                return id;
            }
        }
    }
}

/// A request whose body is encoded already: a struct's encoding is that of its fields, one after the other.
struct Numbered<'a> {
    id: u32,
    body: &'a [u8],
}

impl serde::Serialize for Numbered<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple;

        let mut parts = serializer.serialize_tuple(1 + self.body.len())?;
        parts.serialize_element(&self.id)?;
        for byte in self.body {
            parts.serialize_element(byte)?;
        }
        parts.end()
    }
}
