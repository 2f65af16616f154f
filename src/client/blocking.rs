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
mod connection;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

pub use cached::CachedClient;
pub use watch::Watch;

use super::message::{self, Question};
use super::{Broken, ClientError, Options, Repeat, socket};
use crate::page::Seen;
use crate::protocol::message::{
    Answer, AuditLines, AuditQuery, BackupAsk, BackupPiece, Changed, Edit, Failure, Handle, Hold, ImportEntry,
    ImportOutcome, Issue, Issued, List, Rekey, RekeyProgress, Rekeyed, Revoke, Rotate, Rotated, Shown, Stamped,
    TokenInfo, Tokens, UseReport, Validate, Verdict,
};
use crate::time::UnixTime;
use connection::{Connection, Deadline};

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
