//! The blocking client: one connection, one caller at a time, no threads and no runtime.
//!
//! ```no_run
//! use bearerd::client::blocking::Client;
//! use bearerd::protocol::message::Validate;
//!
//! # fn presented() -> String { String::new() }
//! let mut client = Client::connect_default()?;
//! let token = presented();
//! let verdict = client.validate(&Validate {
//!     token: &token,
//!     scopes: vec!["backup:write"],
//!     audience: Some("backup"),
//!     from: None,
//!     note: None,
//!     peek: false,
//! })?;
//! let subject = if verdict.active { verdict.token.map(|token| token.facts.subject) } else { None };
//! # let _ = subject;
//! # Ok::<(), bearerd::client::ClientError>(())
//! ```

mod cached;
mod watch;

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use cached::CachedClient;
pub use watch::Watch;

use super::cache::boottime;
use super::message::{self, Outgoing, Question};
use super::socket::{self, Page, Terms};
use super::{Broken, ClientError, Options, Repeat};
use crate::page::Seen;
use crate::protocol::REQUEST_MAX;
use crate::protocol::buffer::{ReadBuffer, WriteBuffer};
use crate::protocol::frame::{Direction, FrameError};
use crate::protocol::message::{
    Answer, AuditLines, AuditQuery, BackupAsk, BackupPiece, Changed, Edit, Failure, Handle, Hold, ImportEntry,
    ImportOutcome, Issue, Issued, List, Rekey, RekeyProgress, Rekeyed, Revoke, Rotate, Rotated, Shown, Stamped,
    TokenInfo, Tokens, UseReport, Validate, Verdict,
};
use crate::sys::pass::receive_with_file;
use crate::time::UnixTime;

/// Requests that [`Client::validate_each`] has in flight: so few that their replies always find room in the daemon's
/// queue, which it must have for the rest to be taken.
const WINDOW: usize = 16;

/// A client that waits for each answer.
pub struct Client {
    path: PathBuf,
    options: Options,
    /// It wants the epoch page with each connection.
    wants_page: bool,
    /// `None` after a failure: the next request connects again.
    connection: Option<Connection>,
}

impl Client {
    /// Connects to the daemon that listens at `path`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] and the others that concern a connection; [`ClientError::Refused`] when there are too many.
    pub fn connect(path: impl AsRef<Path>, options: Options) -> Result<Self, ClientError> {
        let mut client = Self { path: path.as_ref().to_owned(), options, wants_page: false, connection: None };
        let deadline = Deadline::after(client.options.timeout);
        client.connection = Some(client.dial(deadline)?);
        Ok(client)
    }

    /// One whose connections bring the epoch page, not connected yet.
    pub(super) fn with_page(path: &Path, options: Options) -> Self {
        Self { path: path.to_owned(), options, wants_page: true, connection: None }
    }

    /// A verdict that may be kept, and the page of the connection that it came on.
    pub(super) fn validate_stamped(&mut self, ask: &Validate<'_>) -> Result<(Stamped, Option<Arc<Seen>>), ClientError> {
        if self.connection.as_ref().is_some_and(Connection::might_prove_its_clock) {
            self.connection = None;
        }
        let answer = self.exchange(Question::Validate(ask), Repeat::Harmless, self.options.timeout)?;
        let page = self.connection.as_ref().and_then(|connection| connection.page.seen().cloned());
        Ok((message::stamped(answer)?, page))
    }

    /// Tells of uses that were granted out of a cache. Never sent twice.
    pub(super) fn report_uses(&mut self, reports: &[UseReport<'_>]) -> Result<(), ClientError> {
        message::reported(self.exchange(Question::ReportUses(reports), Repeat::Unbegun, self.options.long_timeout)?)
    }

    /// Connects to [`super::default_socket`].
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_default() -> Result<Self, ClientError> {
        Self::connect(super::default_socket(), Options::default())
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who listened when the connection was made, as the kernel said; `None` while there is none.
    pub fn server_uid(&self) -> Option<u32> {
        self.connection.as_ref().map(|connection| connection.server_uid)
    }

    /// Is this token good for this?
    ///
    /// # Errors
    /// Any [`ClientError`]; none of them means that the token is good.
    pub fn validate(&mut self, ask: &Validate<'_>) -> Result<Verdict, ClientError> {
        let answer = self.exchange(Question::Validate(ask), Repeat::Harmless, self.options.timeout)?;
        message::verdict(answer).map(|verdict| *verdict)
    }

    /// The same for up to [`crate::protocol::BATCH_MAX`] tokens in one request; verdicts come in their order.
    ///
    /// # Errors
    /// As [`Self::validate`]; then there is no verdict for any.
    pub fn validate_batch(&mut self, asks: &[Validate<'_>]) -> Result<Vec<Verdict>, ClientError> {
        let answer = self.exchange(Question::ValidateBatch(asks), Repeat::Harmless, self.options.timeout)?;
        message::verdicts(answer, asks.len())
    }

    /// The same for any number of tokens, a request each and several of them in flight; each has its own outcome.
    ///
    /// # Errors
    /// As [`Self::validate`], when the connection fails.
    pub fn validate_each(&mut self, asks: &[Validate<'_>]) -> Result<Vec<Result<Verdict, Failure>>, ClientError> {
        let mut outcomes = Vec::with_capacity(asks.len());
        for window in asks.chunks(WINDOW) {
            let questions: Vec<_> = window.iter().map(Question::Validate).collect();
            for answer in self.exchange_all(&questions, Repeat::Harmless, self.options.timeout)? {
                outcomes.push(match message::verdict(answer) {
                    Ok(verdict) => Ok(*verdict),
                    Err(ClientError::Failure(failure)) => Err(failure),
                    Err(error) => return Err(error),
                });
            }
        }
        Ok(outcomes)
    }

    /// Makes a token. Never sent twice.
    ///
    /// # Errors
    /// Any [`ClientError`]; after [`ClientError::Lost`] and [`ClientError::Timeout`] there may be a token that nobody
    /// has: `bearerctl list` shows it.
    pub fn issue(&mut self, issue: &Issue) -> Result<Issued, ClientError> {
        let answer = self.exchange(Question::Issue(issue), Repeat::Unbegun, self.options.long_timeout)?;
        message::issued(answer).map(|issued| *issued)
    }

    /// Ends tokens. When it has returned, they are not good any more.
    ///
    /// # Errors
    /// Any [`ClientError`]; repeating it does no harm.
    pub fn revoke(&mut self, revoke: &Revoke<'_>) -> Result<Changed, ClientError> {
        message::changed(self.exchange(Question::Revoke(revoke), Repeat::Harmless, self.options.long_timeout)?)
    }

    /// Holds tokens until they are resumed. When it has returned, they are not good any more.
    ///
    /// # Errors
    /// Any [`ClientError`]; repeating it does no harm.
    pub fn suspend(&mut self, hold: &Hold) -> Result<Changed, ClientError> {
        message::changed(self.exchange(Question::Suspend(hold), Repeat::Harmless, self.options.long_timeout)?)
    }

    /// Lets held tokens be good again.
    ///
    /// # Errors
    /// Any [`ClientError`]; repeating it does no harm.
    pub fn resume(&mut self, hold: &Hold) -> Result<Changed, ClientError> {
        message::changed(self.exchange(Question::Resume(hold), Repeat::Harmless, self.options.long_timeout)?)
    }

    /// Changes a token. Never sent twice.
    ///
    /// # Errors
    /// Any [`ClientError`]; after [`ClientError::Lost`] and [`ClientError::Timeout`] it may or may not have been done.
    pub fn edit(&mut self, edit: &Edit) -> Result<TokenInfo, ClientError> {
        message::token(self.exchange(Question::Edit(edit), Repeat::Unbegun, self.options.long_timeout)?).map(|it| *it)
    }

    /// Gives a token its life again. Never sent twice.
    ///
    /// # Errors
    /// Any [`ClientError`]; after [`ClientError::Lost`] and [`ClientError::Timeout`] it may or may not have been done.
    pub fn renew(&mut self, handle: &Handle) -> Result<TokenInfo, ClientError> {
        message::token(self.exchange(Question::Renew(handle), Repeat::Unbegun, self.options.long_timeout)?)
            .map(|it| *it)
    }

    /// Makes a token's successor. Never sent twice by itself.
    ///
    /// # Errors
    /// Any [`ClientError`]; after [`ClientError::Lost`] and [`ClientError::Timeout`] there may be a successor that nobody has:
    /// to ask again is safe, and puts another in its place.
    pub fn rotate(&mut self, rotate: &Rotate) -> Result<Rotated, ClientError> {
        message::rotated(self.exchange(Question::Rotate(rotate), Repeat::Unbegun, self.options.long_timeout)?)
            .map(|it| *it)
    }

    /// One token: its facts, who uses it, and its neighbours in the rotation.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn show(&mut self, handle: &Handle) -> Result<Shown, ClientError> {
        message::shown(self.read(Question::Show(handle))?).map(|shown| *shown)
    }

    /// A page of tokens.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn list(&mut self, list: &List) -> Result<Tokens, ClientError> {
        message::tokens(self.read(Question::List(list))?)
    }

    /// How the daemon is: a JSON object.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn status(&mut self) -> Result<String, ClientError> {
        message::json(self.read(Question::Status)?)
    }

    /// A page of audit lines.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn audit(&mut self, query: &AuditQuery) -> Result<AuditLines, ClientError> {
        message::audit_lines(self.read(Question::Audit(query))?)
    }

    /// Who used a token, through what, from where, since when: a JSON object.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn audit_summary(&mut self, handle: &Handle) -> Result<String, ClientError> {
        message::json(self.read(Question::AuditSummary(handle))?)
    }

    /// A piece of a backup: the first, or the next behind `next` of the one before. Never sent twice.
    ///
    /// # Errors
    /// Any [`ClientError`]; then begin again with the first.
    pub fn backup(&mut self, ask: BackupAsk) -> Result<BackupPiece, ClientError> {
        message::backup(self.exchange(Question::Backup(ask), Repeat::Unbegun, self.options.long_timeout)?)
    }

    /// Checks the audit log's chain: a JSON object.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn audit_verify(&mut self) -> Result<String, ClientError> {
        message::json(self.read(Question::AuditVerify)?)
    }

    /// Takes in tokens of another system, up to [`crate::protocol::BATCH_MAX`]; outcomes come in their order. All that are
    /// taken are durable then. To repeat it is safe: what was taken is there already.
    ///
    /// # Errors
    /// Any [`ClientError`]; what became of these tokens is then not known.
    pub fn import(&mut self, entries: &[ImportEntry<'_>]) -> Result<Vec<ImportOutcome>, ClientError> {
        let answer = self.exchange(Question::Import(entries), Repeat::Harmless, self.options.long_timeout)?;
        message::imported(answer, entries.len())
    }

    /// Takes a wrong clock mark back; returns the time that counts now.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn clock_reset(&mut self) -> Result<UnixTime, ClientError> {
        message::time(self.exchange(Question::ClockReset, Repeat::Unbegun, self.options.long_timeout)?)
    }

    /// Follows changes as they are made, on a connection of its own: those after the number `since`, or those from now on.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn watch(&self, since: Option<u64>) -> Result<Watch, ClientError> {
        let deadline = Deadline::after(self.options.long_timeout);
        let mut repeated = false;
        loop {
            match Watch::begin(self.dial(deadline)?, since, deadline) {
                Ok(watch) => return Ok(watch),
                Err(broken) if !repeated && broken.may_repeat(Repeat::Harmless) => repeated = true,
                Err(broken) => return Err(broken.into()),
            }
        }
    }

    /// Changes the key that opens the store. Never sent twice.
    ///
    /// # Errors
    /// Any [`ClientError`]; after [`ClientError::Lost`] and [`ClientError::Timeout`] it may have been done.
    pub fn rekey(&mut self) -> Result<Rekeyed, ClientError> {
        let ask = Rekey { data: false };
        message::rekeyed(self.exchange(Question::Rekey(ask), Repeat::Unbegun, self.options.long_timeout)?)
            .map(|rekeyed| *rekeyed)
    }

    /// Begins to seal every value under a new record key, or joins where that goes on.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn rekey_data(&mut self) -> Result<RekeyProgress, ClientError> {
        let ask = Rekey { data: true };
        message::rekey_progress(self.exchange(Question::Rekey(ask), Repeat::Unbegun, self.options.long_timeout)?)
    }

    /// How far that has got; the answer comes when it has ended, or after a moment.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn rekey_progress(&mut self) -> Result<RekeyProgress, ClientError> {
        message::rekey_progress(self.exchange(Question::RekeyProgress, Repeat::Harmless, self.options.long_timeout)?)
    }

    /// Makes a recovery key, in place of an earlier one. Never sent twice.
    ///
    /// # Errors
    /// As [`Self::rekey`].
    pub fn recovery_key(&mut self) -> Result<Rekeyed, ClientError> {
        message::rekeyed(self.exchange(Question::RecoveryKey, Repeat::Unbegun, self.options.long_timeout)?)
            .map(|rekeyed| *rekeyed)
    }

    fn read(&mut self, question: Question<'_>) -> Result<Answer, ClientError> {
        self.exchange(question, Repeat::Harmless, self.options.long_timeout)
    }

    fn exchange(&mut self, question: Question<'_>, repeat: Repeat, timeout: Duration) -> Result<Answer, ClientError> {
        let mut answers = self.exchange_all(&[question], repeat, timeout)?;
        answers.pop().ok_or(ClientError::Protocol("no reply came"))
    }

    /// Asks, in order, and repeats all once where that is safe.
    fn exchange_all(
        &mut self,
        questions: &[Question<'_>],
        repeat: Repeat,
        timeout: Duration,
    ) -> Result<Vec<Answer>, ClientError> {
        let deadline = Deadline::after(timeout);
        let mut repeated = false;
        loop {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.dial(deadline)?,
            };
            match connection.ask(questions, deadline) {
                Ok(answers) => {
                    self.connection = Some(connection);
                    return Ok(answers);
                }
                Err(broken) if !repeated && broken.may_repeat(repeat) => repeated = true,
                Err(broken) => return Err(broken.into()),
            }
        }
    }

    /// Connects and greets; tries again for a while where nobody listens, or where who listened goes away.
    fn dial(&self, deadline: Deadline) -> Result<Connection, ClientError> {
        let give_up = Instant::now() + self.options.connect_retry;
        let mut pause = socket::PAUSE;
        loop {
            let error = match socket::open(&self.path) {
                Ok(stream) => match Connection::greet(stream, &self.path, &self.options, self.wants_page, deadline) {
                    Ok(connection) => return Ok(connection),
                    // Nothing has been asked yet, so a connection that ends now is one more try.
                    Err(Broken::NoReply(source)) => ClientError::Lost { source },
                    Err(Broken::Unbegun(error)) => error,
                    Err(Broken::Final(error)) => return Err(error),
                },
                Err(source) if socket::may_come(&source) => ClientError::Connect { path: self.path.clone(), source },
                Err(source) => return Err(ClientError::Connect { path: self.path.clone(), source }),
            };
            let now = Instant::now();
            if now + pause >= give_up.min(deadline.at) {
                return Err(error);
            }
            thread::sleep(pause);
            pause = (2 * pause).min(socket::PAUSE_MAX);
        }
    }
}

/// When an exchange must be over.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    whole: Duration,
}

impl Deadline {
    fn after(whole: Duration) -> Self {
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

/// A greeted connection. It is thrown away after any failure, so that no late reply is taken for another request's.
struct Connection {
    stream: UnixStream,
    input: ReadBuffer,
    output: WriteBuffer,
    terms: Terms,
    next_id: u32,
    server_uid: u32,
    /// The receive timeout that the socket has.
    armed: Duration,
    /// The epoch page, where it was asked for.
    page: Page,
    greeted_at: Instant,
}

impl Connection {
    fn greet(
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
    fn might_prove_its_clock(&self) -> bool {
        matches!(self.page, Page::Doubtful) && self.greeted_at.elapsed() >= socket::DOUBT
    }

    /// Sends the questions in one piece and waits for all answers, which may come in any order.
    fn ask(&mut self, questions: &[Question<'_>], deadline: Deadline) -> Result<Vec<Answer>, Broken> {
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

    fn send_all(&mut self, deadline: Deadline) -> Result<(), Unsent> {
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
    fn next_frame(&mut self, deadline: Deadline) -> Result<&[u8], Broken> {
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
    fn turned_away(&mut self, begun: bool, source: io::Error) -> Broken {
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
enum Unsent {
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
