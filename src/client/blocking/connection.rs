//! The blocking client's connection: a greeted socket, and what it means when it ends.
//!
//! Invariant: a connection is thrown away after any failure, so that no late reply is taken for another request's.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::client::cache::boottime;
use crate::client::message::{Outgoing, Question};
use crate::client::socket::{self, Page, Terms};
use crate::client::{Broken, ClientError, Options};
use crate::protocol::REQUEST_MAX;
use crate::protocol::buffer::{ReadBuffer, WriteBuffer};
use crate::protocol::frame::{Direction, FrameError};
use crate::protocol::message::Answer;
use crate::sys::pass::receive_with_file;

/// When an exchange must be over.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    whole: Duration,
}

impl Deadline {
    pub(super) fn after(whole: Duration) -> Self {
        Self { at: Instant::now() + whole, whole }
    }

    /// What is left; an error when nothing is.
    fn left(self) -> Result<Duration, Broken> {
        match self.at.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(Broken::Final(ClientError::Timeout(self.whole))),
            left => Ok(left),
        }
    }
}

/// A greeted connection.
pub(super) struct Connection {
    stream: UnixStream,
    pub(super) input: ReadBuffer,
    pub(super) output: WriteBuffer,
    terms: Terms,
    next_id: u32,
    pub(super) server_uid: u32,
    /// The receive timeout that the socket has.
    armed: Duration,
    /// The epoch page, where it was asked for.
    pub(super) page: Page,
    greeted_at: Instant,
}

impl Connection {
    pub(super) fn greet(
        stream: UnixStream,
        path: &Path,
        options: &Options,
        wants_page: bool,
        deadline: Deadline,
    ) -> Result<Self, Broken> {
        let connect = |source| Broken::Final(ClientError::Connect { path: path.to_owned(), source });
        let server_uid = socket::server_uid(&stream, path, options).map_err(Broken::Final)?;
        stream.set_nonblocking(false).map_err(connect)?;
        let mut connection = Self {
            stream,
            input: ReadBuffer::new(Direction::Reply),
            output: WriteBuffer::new(),
            terms: Terms { request_max: REQUEST_MAX, in_flight_max: 1, page: None },
            next_id: 1,
            server_uid,
            armed: Duration::ZERO,
            page: Page::None,
            greeted_at: Instant::now(),
        };
        let before = boottime();
        connection.output.push(&socket::hello(wants_page), false);
        match connection.send_all(deadline) {
            // Whoever turned us away has said so before closing: that is read although the hello was not taken.
            Ok(()) | Err(Unsent::Closed { .. }) => {}
            Err(Unsent::Late(broken)) => return Err(broken),
        }
        let file = if wants_page { connection.first_bytes(deadline)? } else { None };
        let content = connection.next_frame(deadline)?;
        let terms = socket::terms(content, wants_page).map_err(Broken::Final)?;
        connection.input.consume();
        let Some(terms) = terms else {
            return match socket::reply(connection.next_frame(deadline)?) {
                Err(broken) => Err(broken),
                Ok(_) => Err(Broken::Final(ClientError::Protocol("a hello without a version and no reason for it"))),
            };
        };
        connection.page = Page::of(file, before, terms.page);
        connection.terms = terms;
        Ok(connection)
    }

    /// Reads the first bytes, and the file that may come with them.
    fn first_bytes(&mut self, deadline: Deadline) -> Result<Option<OwnedFd>, Broken> {
        loop {
            match receive_with_file(&self.stream, self.input.space().map_err(unframed)?) {
                // The end of the connection is found by whoever reads on.
                Ok((count, file)) => {
                    self.input.filled(count);
                    return Ok(file);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let wait = PollTimeout::try_from(deadline.left()?).unwrap_or(PollTimeout::MAX);
                    match poll(&mut [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)], wait) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(errno) => return Err(self.ended(Some(errno.into()))),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.ended(Some(error))),
            }
        }
    }

    /// Whether greeting again may show that the daemon's clock is ours: the answer to the hello was late.
    pub(super) fn might_prove_its_clock(&self) -> bool {
        matches!(self.page, Page::Doubtful) && self.greeted_at.elapsed() >= socket::DOUBT
    }

    /// Sends the questions in one piece and waits for all answers, which may come in any order.
    pub(super) fn ask(&mut self, questions: &[Question<'_>], deadline: Deadline) -> Result<Vec<Answer>, Broken> {
        let first = self.next_id;
        for &body in questions {
            let id = self.next_id;
            // 0 stands for the connection; the numbers of one exchange follow each other all the same.
            self.next_id = id.checked_add(1).unwrap_or(1);
            let bytes = self.output.push(&Outgoing { id, body }, true);
            let limit = self.terms.request_max;
            if bytes > limit {
                return Err(Broken::Final(ClientError::TooLarge { bytes, limit }));
            }
        }
        if self.next_id < first {
            // The numbers have come round within one exchange: every four thousand million requests.
            self.output.clear();
            self.next_id = 1;
            return self.ask(questions, deadline);
        }
        match self.send_all(deadline) {
            Ok(()) => {}
            Err(Unsent::Late(broken)) => return Err(broken),
            Err(Unsent::Closed { begun, source }) => return Err(self.turned_away(begun, source)),
        }
        let mut answers: Vec<Option<Answer>> = questions.iter().map(|_| None).collect();
        for _ in questions {
            let (id, answer) = socket::reply(self.next_frame(deadline)?)?;
            self.input.consume();
            let place = id.checked_sub(first).and_then(|index| answers.get_mut(index as usize));
            match place {
                Some(place @ None) => *place = Some(answer),
                _ => return Err(Broken::Final(ClientError::Protocol("a reply has a number that was not asked"))),
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    pub(super) fn send_all(&mut self, deadline: Deadline) -> Result<(), Unsent> {
        let mut begun = false;
        while !self.output.is_empty() {
            match socket::send(&self.stream, self.output.pending()) {
                Ok(count) => {
                    begun |= count > 0;
                    self.output.advance(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = deadline.left().map_err(Unsent::Late)?;
                    let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                    match poll(&mut [PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT)], wait) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(errno) => return Err(Unsent::Closed { begun, source: errno.into() }),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Unsent::Closed { begun, source }),
            }
        }
        Ok(())
    }

    /// The content of the next frame; it stays in the buffer until it is consumed.
    pub(super) fn next_frame(&mut self, deadline: Deadline) -> Result<&[u8], Broken> {
        while self.input.frame().map_err(unframed)?.is_none() {
            // The first wait may be as long as the whole: that is set already, and saves a call.
            let left = deadline.left()?;
            let almost_whole = left + Duration::from_millis(10) >= deadline.whole;
            let wait = if almost_whole { deadline.whole } else { left };
            if wait != self.armed {
                self.stream.set_read_timeout(Some(wait)).map_err(|error| Broken::NoReply(Some(error)))?;
                self.armed = wait;
            }
            let read = self.stream.read(self.input.space().map_err(unframed)?);
            match read {
                Ok(0) => return Err(self.ended(None)),
                Ok(count) => self.input.filled(count),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(self.ended(Some(error))),
            }
        }
        // Borrowed again: the loop's own look can't outlive the reading.
        self.input.frame().map_err(unframed)?.ok_or(Broken::NoReply(None))
    }

    /// What it means that the connection ended while a reply was waited for.
    fn ended(&self, source: Option<io::Error>) -> Broken {
        let plain = source.as_ref().is_none_or(socket::is_closed);
        if plain && self.input.unread().is_empty() {
            Broken::NoReply(source)
        } else {
            Broken::Final(ClientError::Lost { source })
        }
    }

    /// What it means that a request was not taken; the daemon may have left a reason in the socket.
    pub(super) fn turned_away(&mut self, begun: bool, source: io::Error) -> Broken {
        if self.stream.set_nonblocking(true).is_ok() {
            while let Ok(space) = self.input.space()
                && let Ok(count @ 1..) = self.stream.read(space)
            {
                self.input.filled(count);
                while let Ok(Some(content)) = self.input.frame() {
                    if let Err(broken) = socket::reply(content) {
                        return broken;
                    }
                    self.input.consume();
                }
            }
        }
        if begun { self.ended(Some(source)) } else { Broken::Unbegun(ClientError::Lost { source: Some(source) }) }
    }
}

/// Why a request was not sent whole.
pub(super) enum Unsent {
    /// The time is over.
    Late(Broken),
    /// The other side has closed.
    Closed {
        /// A byte of it had been taken.
        begun: bool,
        /// What the kernel said.
        source: io::Error,
    },
}

fn unframed(_: FrameError) -> Broken {
    Broken::Final(ClientError::Protocol("a frame is empty or too long"))
}
