//! One connection: frames in, answers out, all in one task and one `poll`.
//!
//! Invariant I5: whatever the peer sends, the memory is bounded and the time of each step is: a frame has a length
//! limit and a deadline, answers and requests wait for a peer that does not read, and a peer that takes nothing is cut
//! off. Requests beyond the limit in flight are not an error: they stay in the socket until there is room for them.
//!
//! A stream of answers is asked for the next one only once the kernel has all before it: a peer that does not read holds
//! up itself, and costs its place and one frame.
//!
//! A peer that goes away does not cancel what it asked for: the answers are awaited and thrown away, and until then the
//! connection keeps its place, so that coming back does not get round the limits. Its stream ends at once. So does one
//! that leaves the file of the epoch page unread: of those the kernel lets only so many be in flight, of all peers together.
//! (`docs/protocol.md`)

use std::future::Future;
use std::os::fd::AsRawFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{future, io};

use futures_util::stream::StreamExt;
use nix::sys::socket::{self, MsgFlags};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::task;
use tokio::time::{self, Instant, Sleep};
use tracing::debug;

use super::descriptors::{poll_read_refusing_fds, poll_write_with_file};
use super::handler::{Class, Handler};
use super::in_flight::{Flight, InFlight, Landed, Take};
use super::limits::{Counters, Place, ServerLimits, StreamPlace};
use super::stop::{Stop, Stopping};
use crate::codec;
use crate::peer::Peer;
use crate::protocol::buffer::{ReadBuffer, WriteBuffer};
use crate::protocol::code::ErrorCode;
use crate::protocol::frame::{Direction, FrameError, LENGTH_BYTES};
use crate::protocol::message::{Answer, Ask, ClientHello, Failure, Reply, Request, ServerHello};
use crate::protocol::{BATCH_MAX, FLAG_PAGE, MAGIC, REPLY_MAX, REQUEST_MAX, VERSION, quick};
use crate::service::{Body, Now, Streamed};
use crate::sys::net;

/// Requests that are answered before other connections get their turn; in a batch, each token counts, and each report.
const REQUESTS_PER_TURN: usize = 256;
/// Replies above this are refused, in bytes, while the peer's uid leaves too much unread.
const LARGE_REPLY: usize = 64 * 1024;
/// How often it is looked whether a peer has read what was left to it: the kernel tells nobody.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What all connections share.
pub(super) struct Shared<H> {
    pub(super) handler: Arc<H>,
    pub(super) limits: ServerLimits,
    pub(super) counters: Arc<Counters>,
    pub(super) stop: Stop,
}

/// Serves one peer until either side is done.
pub(super) async fn serve<H: Handler>(
    shared: Arc<Shared<H>>,
    stream: UnixStream,
    peer: Peer,
    caller: Arc<H::Caller>,
    place: Place,
) {
    let mut connection = Connection {
        stopping: Stopping::new(&shared.stop),
        begun: Some(Instant::now() + shared.limits.hello_deadline),
        shared: &shared,
        caller: &caller,
        place,
        stream,
        input: ReadBuffer::new(Direction::Request),
        output: WriteBuffer::new(),
        in_flight: InFlight::default(),
        in_flight_bytes: 0,
        streamed: None,
        greeted: false,
        hands_page: false,
        handed_page: false,
        half_closed: false,
        said_goodbye: false,
        stalled: None,
        finish_by: None,
        alarm: None,
    };
    let end = future::poll_fn(|cx| connection.poll(cx)).await;
    let counters = &shared.counters;
    match &end {
        End::Done => {}
        End::GaveUp => {
            debug!(uid = peer.uid, pid = peer.pid, "gave up on what a peer had asked for");
        }
        End::Gone => debug!(uid = peer.uid, pid = peer.pid, "the peer went away"),
        End::CutOff => {
            Counters::add(&counters.cut_off);
            debug!(uid = peer.uid, pid = peer.pid, "cut off: the peer reads nothing");
        }
        End::Refused(failure) => {
            Counters::add(match failure.code {
                ErrorCode::TooManyConnections => &counters.refused,
                _ => &counters.broken,
            });
            debug!(
                uid = peer.uid,
                pid = peer.pid,
                code = failure.code.name(),
                "connection refused: {}",
                failure.message
            );
            shared.handler.refused_connection(&peer, failure.code);
            connection.last_words(failure).await;
        }
    }
    let Connection { stream, mut in_flight, mut place, input, output, streamed, handed_page, .. } = connection;
    let untaken = handed_page.then_some(stream).filter(|stream| net::unread(stream) > 0);
    if let Some(stream) = &untaken {
        // It hears that this is the end, and can read what there is.
        let _ = socket::shutdown(stream.as_raw_fd(), socket::Shutdown::Both);
    }
    drop((input, output, streamed));
    place.account(0);
    let gave_up = matches!(end, End::GaveUp);
    if !gave_up && time::timeout(shared.limits.finish, in_flight.finish()).await.is_err() {
        debug!(uid = peer.uid, pid = peer.pid, "gave up on what a peer that went away had asked for");
    }
    drop(in_flight);
    if let Some(stream) = untaken {
        until_taken(&stream, &shared.stop).await;
    }
    drop(place);
}

/// Waits until the peer has read what was sent, or is gone, or the server stops.
async fn until_taken(stream: &UnixStream, stop: &Stop) {
    let taken = async {
        while net::unread(stream) > 0 {
            time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::select! {
        () = taken => {}
        () = stop.said() => {}
    }
}

/// The frames that turn a peer away before it has said anything.
pub(super) fn refusal(code: ErrorCode, message: &str) -> WriteBuffer {
    let mut output = WriteBuffer::new();
    push_failure(&mut output, false, &Failure::new(code, message));
    output
}

/// Why a connection ends.
enum End {
    /// Both sides are done.
    Done,
    /// The socket is closed or broken.
    Gone,
    /// The peer sends nothing more, and what it asked for takes too long.
    GaveUp,
    /// The peer took no byte for too long.
    CutOff,
    /// The peer broke the protocol, or a limit; it is told so.
    Refused(Failure),
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        let code = match error {
            FrameError::TooLarge(_) => ErrorCode::FrameTooLarge,
            FrameError::Empty | FrameError::Content(_) => ErrorCode::BadFrame,
        };
        Self::Refused(Failure::new(code, error.to_string()))
    }
}

/// A request that is answered by a stream; one on a connection.
struct OpenStream {
    id: u32,
    answers: Streamed,
    _place: StreamPlace,
}

struct Connection<'a, H: Handler> {
    shared: &'a Shared<H>,
    caller: &'a Arc<H::Caller>,
    place: Place,
    stream: UnixStream,
    input: ReadBuffer,
    output: WriteBuffer,
    in_flight: InFlight,
    /// Bytes of the requests in flight.
    in_flight_bytes: usize,
    /// What is answered again and again.
    streamed: Option<OpenStream>,
    /// The hello has been answered.
    greeted: bool,
    /// The file of the epoch page goes out with the next bytes.
    hands_page: bool,
    /// It went.
    handed_page: bool,
    /// The peer will send nothing more.
    half_closed: bool,
    said_goodbye: bool,
    stopping: Stopping,
    /// When the frame that has begun (or the hello) must be whole.
    begun: Option<Instant>,
    /// When the peer must have taken a byte.
    stalled: Option<Instant>,
    /// When what is in flight must be done: a peer that has closed looks at first like one that will send no more.
    finish_by: Option<Instant>,
    /// Set late and let go of early: a deadline that is met costs no timer.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<H: Handler> Connection<'_, H> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let end = self.turn(cx);
        self.place.account(self.input.capacity() + self.output.len() + self.in_flight_bytes);
        end
    }

    /// Goes round until there is nothing to do but wait. One write for all that one read brought.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let stopping = self.stopping.poll(&self.shared.stop, cx);
        let class = self.shared.handler.class(self.caller);
        if self.place.reclass(class).is_err() {
            let message = "policy no longer has a rule for you, and there are too many such connections";
            return Poll::Ready(End::Refused(Failure::new(ErrorCode::TooManyConnections, message)));
        }
        let mut budget = REQUESTS_PER_TURN;
        loop {
            if let Err(end) = self.take_frames(stopping, &mut budget) {
                return Poll::Ready(end);
            }
            let was_full = self.in_flight_full();
            self.collect_answers(cx);
            if was_full && !self.in_flight_full() && budget > 0 {
                continue;
            }
            if stopping || self.half_closed {
                // Whoever sends nothing more has, as far as can be told, gone; and nothing else would end a stream.
                self.streamed = None;
            }
            if stopping && self.in_flight.is_empty() && !self.said_goodbye {
                self.said_goodbye = true;
                let message = "bearerd is stopping: connect again; what was not answered was not begun";
                push_failure(&mut self.output, self.greeted, &Failure::new(ErrorCode::Stopping, message));
            }
            let was_full = self.output_full();
            if self.poll_write(cx).is_err() {
                return Poll::Ready(End::Gone);
            }
            if was_full && !self.output_full() && budget > 0 {
                continue;
            }
            if (stopping || self.half_closed) && self.in_flight.is_empty() && self.output.is_empty() && budget > 0 {
                return Poll::Ready(End::Done);
            }
            if budget == 0 {
                // Not `wake_by_ref`: the runtime would look at its sockets only after many such turns.
                let _ = pin!(task::yield_now()).poll(cx);
                return Poll::Pending;
            }
            let pushed = self.poll_stream(cx);
            if pushed {
                budget -= 1;
                if self.poll_write(cx).is_err() {
                    return Poll::Ready(End::Gone);
                }
            }
            // Nobody would wake us for what the stream has ready.
            let again = pushed && self.output.is_empty();
            if stopping || self.half_closed || self.in_flight_full() || self.output_full() {
                // Whoever is not read from can't finish a frame.
                self.begun = self.begun.filter(|_| !self.greeted);
                if again {
                    continue;
                }
                break;
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(0)) => {
                    self.half_closed = true;
                    self.finish_by = Some(Instant::now() + self.shared.limits.finish);
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => {
                    if self.greeted {
                        self.begun = match self.input.unread() {
                            [] => None,
                            _ => self.begun.or_else(|| Some(Instant::now() + self.shared.limits.frame_deadline)),
                        };
                    }
                    if again {
                        continue;
                    }
                    break;
                }
            }
        }
        self.poll_deadlines(cx)
    }

    /// Answers the whole frames that have been read, as far as the limits let it.
    fn take_frames(&mut self, stopping: bool, budget: &mut usize) -> Result<(), End> {
        while *budget > 0 && !self.output_full() && (stopping || !self.in_flight_full()) {
            let Some(content) = self.input.frame()? else { break };
            *budget -= 1;
            if !self.greeted {
                let hello = greet(content, self.place.class(), self.shared, self.caller)?;
                self.greeted = true;
                // With the first byte of the hello, which is the first of all.
                self.hands_page = hello.flags & FLAG_PAGE != 0;
                self.output.push(&hello, false);
            } else {
                let request: Request<'_> = quick::request(content).map_err(FrameError::from)?;
                let more = match &request.body {
                    Ask::ValidateBatch(batch) => batch.len(),
                    Ask::ReportUses(reports) => reports.len(),
                    _ => 1,
                };
                *budget = budget.saturating_sub(more.saturating_sub(1));
                let id = request.id;
                if id == 0 {
                    let message = "a request with the number 0, which stands for the connection";
                    return Err(End::Refused(Failure::new(ErrorCode::BadFrame, message)));
                }
                let answer = if stopping {
                    let failure = Failure::new(ErrorCode::Stopping, "bearerd is stopping: connect again");
                    Now::Ready(Answer::Error(failure).into())
                } else {
                    self.shared.handler.answer(self.caller, &request.body)
                };
                match answer {
                    Now::Ready(answer) => push_reply(&mut self.output, &self.place, id, answer),
                    Now::Later(answer) => {
                        self.in_flight_bytes += content.len();
                        self.in_flight.push(Flight { id, bytes: content.len(), answer });
                    }
                    Now::Stream(answers) => match stream_place(self.streamed.is_some(), &self.place) {
                        Ok(_place) => self.streamed = Some(OpenStream { id, answers, _place }),
                        Err(failure) => push_reply(&mut self.output, &self.place, id, Answer::Error(failure).into()),
                    },
                }
            }
            self.input.consume();
            self.begun = None;
        }
        Ok(())
    }

    fn collect_answers(&mut self, cx: &mut Context<'_>) {
        if self.in_flight.is_empty() || self.output_full() {
            return;
        }
        let full = self.queue_bytes();
        let Self { in_flight, in_flight_bytes, output, place, .. } = self;
        in_flight.collect(cx, |Landed { id, bytes, body }| {
            *in_flight_bytes -= bytes;
            push_reply(output, place, id, body);
            if output.len() > full { Take::NoMore } else { Take::More }
        });
    }

    /// Takes the stream's next answer, if there is one and all before it has been written.
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.output.is_empty() {
            return false;
        }
        let Some(stream) = &mut self.streamed else { return false };
        match stream.answers.poll_next_unpin(cx) {
            Poll::Pending => false,
            Poll::Ready(None) => {
                self.streamed = None;
                false
            }
            Poll::Ready(Some(answer)) => {
                // Not held to what all connections of its uid leave unread: of each stream that is one answer.
                self.output.push(&Reply { id: stream.id, body: answer }, false);
                true
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.output.is_empty() {
            let page = if self.hands_page { self.shared.handler.page() } else { None };
            let written = match page {
                Some(page) => poll_write_with_file(&self.stream, cx, self.output.pending(), page),
                None => Pin::new(&mut self.stream).poll_write(cx, self.output.pending()),
            };
            match written {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    self.handed_page |= page.is_some();
                    self.hands_page = false;
                    self.output.advance(count);
                    self.stalled = None;
                }
                // Others have left too many handed-over files unread: this one does without.
                Poll::Ready(Err(error)) if self.hands_page && error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                    self.hands_page = false;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.stalled.get_or_insert_with(|| Instant::now() + self.shared.limits.write_stall);
                    return Ok(());
                }
            }
        }
        self.stalled = None;
        Ok(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, End>> {
        let space = self.input.space()?;
        let read = if self.shared.limits.fds_refused_by_kernel {
            let mut space = ReadBuf::new(space);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space)).map(|()| space.filled().len())
        } else {
            ready!(poll_read_refusing_fds(&self.stream, cx, space))
        };
        Poll::Ready(match read {
            Ok(count) => {
                self.input.filled(count);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let message = "a descriptor was pushed at the daemon, which takes none";
                Err(End::Refused(Failure::new(ErrorCode::BadFrame, message)))
            }
            Err(_) => Err(End::Gone),
        })
    }

    fn poll_deadlines(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Some(next) = [self.begun, self.stalled, self.finish_by].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(time::sleep_until(next)));
        if alarm.is_elapsed() || alarm.deadline() > next {
            alarm.as_mut().reset(next);
        }
        loop {
            ready!(alarm.as_mut().poll(cx));
            let now = Instant::now();
            let over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
            if over(self.finish_by) {
                return Poll::Ready(End::GaveUp);
            }
            if over(self.stalled) {
                if !self.takes_a_byte() {
                    return Poll::Ready(End::CutOff);
                }
                self.stalled = Some(now + self.shared.limits.write_stall);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if over(self.begun) {
                let message = if self.greeted { "a frame was begun and not finished" } else { "no whole hello came" };
                return Poll::Ready(End::Refused(Failure::new(ErrorCode::TooSlow, format!("{message} in time"))));
            }
            alarm.as_mut().reset(next);
        }
    }

    /// Whether the peer has made room after all: the kernel calls a socket writable only when most of it was read, so
    /// that one who reads slowly but steadily looks like one who does not read.
    fn takes_a_byte(&mut self) -> bool {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match socket::send(self.stream.as_raw_fd(), self.output.pending(), flags) {
            Ok(count) => {
                self.output.advance(count);
                count > 0
            }
            Err(_) => false,
        }
    }

    /// Whether the peer, or its uid as a whole, is to be held short.
    fn held_short(&self) -> bool {
        self.place.class() == Class::Ruleless || self.place.over_budget(0)
    }

    fn in_flight_full(&self) -> bool {
        let limits = &self.shared.limits;
        self.in_flight.len() >= if self.held_short() { limits.in_flight_small } else { limits.in_flight }
    }

    fn output_full(&self) -> bool {
        !self.output.is_empty() && self.output.len() > self.queue_bytes()
    }

    fn queue_bytes(&self) -> usize {
        let limits = &self.shared.limits;
        if self.held_short() { limits.queue_bytes_small } else { limits.queue_bytes }
    }

    /// Says why the connection ends, if the peer takes it soon.
    async fn last_words(&mut self, failure: &Failure) {
        push_failure(&mut self.output, self.greeted, failure);
        let stream = &mut self.stream;
        let written = time::timeout(self.shared.limits.farewell, stream.write_all(self.output.pending())).await;
        if !matches!(written, Ok(Ok(()))) {
            debug!("the peer did not wait for the reason");
        }
    }
}

/// Answers a client's hello.
fn greet<H: Handler>(content: &[u8], class: Class, shared: &Shared<H>, caller: &H::Caller) -> Result<ServerHello, End> {
    let unsupported = |message: &str| End::Refused(Failure::new(ErrorCode::Unsupported, message));
    // What begins otherwise is another protocol, and its frames mean nothing here.
    if !content.starts_with(&MAGIC) {
        return Err(unsupported("this is not a hello of bearerd's protocol"));
    }
    let hello: ClientHello = codec::decode(content).map_err(FrameError::from)?;
    if !(hello.version_min..=hello.version_max).contains(&VERSION) {
        return Err(unsupported("this bearerd speaks version 1 of the protocol only"));
    }
    if hello.flags & !FLAG_PAGE != 0 {
        return Err(unsupported("the hello asks for something that version 1 does not have"));
    }
    let in_flight_max = if class == Class::Ruleless { shared.limits.in_flight_small } else { shared.limits.in_flight };
    let granted = hello.flags & FLAG_PAGE != 0 && shared.handler.grant_page(caller);
    let boottime = shared.handler.boottime();
    Ok(ServerHello {
        version: VERSION,
        flags: if granted { FLAG_PAGE } else { 0 },
        in_flight_max: u32::try_from(in_flight_max).unwrap_or(u32::MAX),
        boottime_micros: u64::try_from(boottime.as_micros()).unwrap_or(u64::MAX),
        ..no_version()
    })
}

/// The hello of a server that has no version in common with the client, or does not take it.
fn no_version() -> ServerHello {
    ServerHello {
        magic: MAGIC,
        version: 0,
        flags: 0,
        request_max: REQUEST_MAX as u32,
        in_flight_max: 0,
        batch_max: BATCH_MAX as u32,
        boottime_micros: 0,
    }
}

/// An error that is of the connection; before the hello was answered, a hello without a version goes first.
fn push_failure(output: &mut WriteBuffer, greeted: bool, failure: &Failure) {
    if !greeted {
        output.push(&no_version(), false);
    }
    output.push(&Reply { id: 0, body: Answer::Error(failure.clone()) }, false);
}

/// A place for a stream on this connection, unless it has one.
fn stream_place(has_one: bool, place: &Place) -> Result<StreamPlace, Failure> {
    if has_one {
        let message = "one watch at a time on a connection: open another connection for a second one";
        return Err(Failure::new(ErrorCode::BadRequest, message));
    }
    place.stream().map_err(|_| {
        let message = "too many watch already, of you or in all: end one of them, or try again later";
        Failure::new(ErrorCode::LimitReached, message)
    })
}

fn push_reply(output: &mut WriteBuffer, place: &Place, id: u32, body: Body) {
    let bytes = body.push(id, output);
    let failure = if bytes > REPLY_MAX {
        Failure::new(ErrorCode::Internal, "the reply would be longer than a frame may be: ask for fewer at a time")
    } else if bytes > LARGE_REPLY && place.over_budget(output.len()) {
        Failure::new(ErrorCode::LimitReached, "too many replies to this user are unread: read them, then ask again")
    } else {
        return;
    };
    output.take_back(LENGTH_BYTES + bytes);
    output.push(&Reply { id, body: Answer::Error(failure) }, false);
}
