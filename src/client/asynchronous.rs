//! The asynchronous client: clones share one connection, on which their requests are pipelined.
//!
//! A task of the runtime that first connected owns the socket. A caller may be dropped at any time: its reply is thrown
//! away when it comes, and no other caller notices.
//!
//! ```no_run
//! use bearerd::client::Options;
//! use bearerd::client::asynchronous::Client;
//! use bearerd::protocol::message::Validate;
//!
//! # async fn f(token: String) -> Result<(), bearerd::client::ClientError> {
//! let client = Client::connect("/run/bearerd/bearerd.sock", Options::default()).await?;
//! let ask = Validate { token: &token, scopes: vec![], audience: None, from: None, note: None, peek: false };
//! let (one, two) = tokio::join!(client.validate(&ask), client.validate(&ask));
//! # let _ = (one?, two?);
//! # Ok(())
//! # }
//! ```

mod cached;
mod watch;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{self, Instant};
use zeroize::Zeroizing;

pub use cached::CachedClient;
pub use watch::Watch;

use super::link::{Greeted, Link};
use super::message::{self, Question};
use super::{Broken, ClientError, Options, Repeat, socket};
use crate::codec;
use crate::page::Seen;
use crate::protocol::message::{
    Answer, AuditLines, AuditQuery, BackupAsk, BackupPiece, Changed, Edit, Handle, Hold, ImportEntry, ImportOutcome,
    Issue, Issued, List, Rekey, RekeyProgress, Rekeyed, Revoke, Rotate, Rotated, Shown, Stamped, TokenInfo, Tokens,
    UseReport, Validate, Verdict,
};
use crate::time::UnixTime;

/// A client for many callers.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    options: Options,
    /// It wants the epoch page with each connection.
    wants_page: bool,
    /// Held while connecting, so that all callers wait for the one attempt.
    link: Mutex<Option<Link>>,
}

impl Client {
    /// Connects to the daemon that listens at `path`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] and the others that concern a connection; [`ClientError::Refused`] when there are too many.
    pub async fn connect(path: impl AsRef<Path>, options: Options) -> Result<Self, ClientError> {
        Self::connect_as(path.as_ref(), options, false).await
    }

    async fn connect_as(path: &Path, options: Options, wants_page: bool) -> Result<Self, ClientError> {
        let inner = Inner { path: path.to_owned(), options, wants_page, link: Mutex::new(None) };
        let timeout = inner.options.timeout;
        within(timeout, inner.link()).await?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A verdict that may be kept, and the page of the connection that it came on.
    async fn validate_stamped(&self, ask: &Validate<'_>) -> Result<(Stamped, Option<Arc<Seen>>), ClientError> {
        let body = body(Question::Validate(ask));
        let asked = self.inner.ask(body, Repeat::Harmless);
        let (answer, link) = within(self.inner.options.timeout, asked).await?;
        Ok((message::stamped(answer)?, link.page().cloned()))
    }

    /// Tells of uses that were granted out of a cache. Never sent twice.
    async fn report_uses(&self, reports: &[UseReport<'_>]) -> Result<(), ClientError> {
        message::reported(self.long(Question::ReportUses(reports), Repeat::Unbegun).await?)
    }

    /// Connects to [`super::default_socket`].
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_default() -> Result<Self, ClientError> {
        Self::connect(super::default_socket(), Options::default()).await
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Who listened when the connection was made, as the kernel said; `None` while there is none.
    pub async fn server_uid(&self) -> Option<u32> {
        self.inner.link.lock().await.as_ref().map(Link::server_uid)
    }

    /// Is this token good for this?
    ///
    /// # Errors
    /// Any [`ClientError`]; none of them means that the token is good.
    pub async fn validate(&self, ask: &Validate<'_>) -> Result<Verdict, ClientError> {
        let answer = self.exchange(Question::Validate(ask), Repeat::Harmless, self.inner.options.timeout).await?;
        message::verdict(answer).map(|verdict| *verdict)
    }

    /// The same for up to [`crate::protocol::BATCH_MAX`] tokens in one request; verdicts come in their order.
    ///
    /// # Errors
    /// As [`Self::validate`]; then there is no verdict for any.
    pub async fn validate_batch(&self, asks: &[Validate<'_>]) -> Result<Vec<Verdict>, ClientError> {
        let answer = self.exchange(Question::ValidateBatch(asks), Repeat::Harmless, self.inner.options.timeout).await?;
        message::verdicts(answer, asks.len())
    }

    /// Makes a token. Never sent twice.
    ///
    /// # Errors
    /// Any [`ClientError`]; after [`ClientError::Lost`] and [`ClientError::Timeout`], and when the future is dropped,
    /// there may be a token that nobody has: `bearerctl list` shows it.
    pub async fn issue(&self, issue: &Issue) -> Result<Issued, ClientError> {
        message::issued(self.long(Question::Issue(issue), Repeat::Unbegun).await?).map(|issued| *issued)
    }

    /// Ends tokens. When it has returned, they are not good any more.
    ///
    /// # Errors
    /// Any [`ClientError`]; repeating it does no harm.
    pub async fn revoke(&self, revoke: &Revoke<'_>) -> Result<Changed, ClientError> {
        message::changed(self.long(Question::Revoke(revoke), Repeat::Harmless).await?)
    }

    /// Holds tokens until they are resumed. When it has returned, they are not good any more.
    ///
    /// # Errors
    /// Any [`ClientError`]; repeating it does no harm.
    pub async fn suspend(&self, hold: &Hold) -> Result<Changed, ClientError> {
        message::changed(self.long(Question::Suspend(hold), Repeat::Harmless).await?)
    }

    /// Lets held tokens be good again.
    ///
    /// # Errors
    /// Any [`ClientError`]; repeating it does no harm.
    pub async fn resume(&self, hold: &Hold) -> Result<Changed, ClientError> {
        message::changed(self.long(Question::Resume(hold), Repeat::Harmless).await?)
    }

    /// Changes a token. Never sent twice.
    ///
    /// # Errors
    /// Any [`ClientError`]; after [`ClientError::Lost`] and [`ClientError::Timeout`] it may or may not have been done.
    pub async fn edit(&self, edit: &Edit) -> Result<TokenInfo, ClientError> {
        message::token(self.long(Question::Edit(edit), Repeat::Unbegun).await?).map(|it| *it)
    }

    /// Gives a token its life again. Never sent twice.
    ///
    /// # Errors
    /// Any [`ClientError`]; after [`ClientError::Lost`] and [`ClientError::Timeout`] it may or may not have been done.
    pub async fn renew(&self, handle: &Handle) -> Result<TokenInfo, ClientError> {
        message::token(self.long(Question::Renew(handle), Repeat::Unbegun).await?).map(|it| *it)
    }

    /// Makes a token's successor. Never sent twice by itself.
    ///
    /// # Errors
    /// Any [`ClientError`]; after [`ClientError::Lost`] and [`ClientError::Timeout`] there may be a successor that nobody has:
    /// to ask again is safe, and puts another in its place.
    pub async fn rotate(&self, rotate: &Rotate) -> Result<Rotated, ClientError> {
        message::rotated(self.long(Question::Rotate(rotate), Repeat::Unbegun).await?).map(|it| *it)
    }

    /// One token: its facts, who uses it, and its neighbours in the rotation.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn show(&self, handle: &Handle) -> Result<Shown, ClientError> {
        message::shown(self.long(Question::Show(handle), Repeat::Harmless).await?).map(|shown| *shown)
    }

    /// A page of tokens.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn list(&self, list: &List) -> Result<Tokens, ClientError> {
        message::tokens(self.long(Question::List(list), Repeat::Harmless).await?)
    }

    /// How the daemon is: a JSON object.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn status(&self) -> Result<String, ClientError> {
        message::json(self.long(Question::Status, Repeat::Harmless).await?)
    }

    /// A page of audit lines.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn audit(&self, query: &AuditQuery) -> Result<AuditLines, ClientError> {
        message::audit_lines(self.long(Question::Audit(query), Repeat::Harmless).await?)
    }

    /// Who used a token, through what, from where, since when: a JSON object.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn audit_summary(&self, handle: &Handle) -> Result<String, ClientError> {
        message::json(self.long(Question::AuditSummary(handle), Repeat::Harmless).await?)
    }

    /// A piece of a backup: the first, or the next behind `next` of the one before. Never sent twice.
    ///
    /// # Errors
    /// Any [`ClientError`]; then begin again with the first.
    pub async fn backup(&self, ask: BackupAsk) -> Result<BackupPiece, ClientError> {
        message::backup(self.long(Question::Backup(ask), Repeat::Unbegun).await?)
    }

    /// Checks the audit log's chain: a JSON object.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn audit_verify(&self) -> Result<String, ClientError> {
        message::json(self.long(Question::AuditVerify, Repeat::Harmless).await?)
    }

    /// Takes in tokens of another system, up to [`crate::protocol::BATCH_MAX`]; outcomes come in their order. All that are
    /// taken are durable then. To repeat it is safe: what was taken is there already.
    ///
    /// # Errors
    /// Any [`ClientError`]; what became of these tokens is then not known.
    pub async fn import(&self, entries: &[ImportEntry<'_>]) -> Result<Vec<ImportOutcome>, ClientError> {
        let answer = self.long(Question::Import(entries), Repeat::Harmless).await?;
        message::imported(answer, entries.len())
    }

    /// Takes a wrong clock mark back; returns the time that counts now.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn clock_reset(&self) -> Result<UnixTime, ClientError> {
        message::time(self.long(Question::ClockReset, Repeat::Unbegun).await?)
    }

    /// Follows changes as they are made, on a connection of its own: those after the number `since`, or those from now on.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn watch(&self, since: Option<u64>) -> Result<Watch, ClientError> {
        within(self.inner.options.long_timeout, async {
            let mut repeated = false;
            loop {
                match Watch::begin(self.inner.dial().await?, since).await {
                    Ok(watch) => return Ok(watch),
                    Err(broken) if !repeated && broken.may_repeat(Repeat::Harmless) => repeated = true,
                    Err(broken) => return Err(broken.into()),
                }
            }
        })
        .await
    }

    /// Changes the key that opens the store. Never sent twice.
    ///
    /// # Errors
    /// Any [`ClientError`]; after [`ClientError::Lost`] and [`ClientError::Timeout`] it may have been done.
    pub async fn rekey(&self) -> Result<Rekeyed, ClientError> {
        let ask = Rekey { data: false };
        message::rekeyed(self.long(Question::Rekey(ask), Repeat::Unbegun).await?).map(|rekeyed| *rekeyed)
    }

    /// Begins to seal every value under a new record key, or joins where that goes on.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn rekey_data(&self) -> Result<RekeyProgress, ClientError> {
        let ask = Rekey { data: true };
        message::rekey_progress(self.long(Question::Rekey(ask), Repeat::Unbegun).await?)
    }

    /// How far that has got; the answer comes when it has ended, or after a moment.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn rekey_progress(&self) -> Result<RekeyProgress, ClientError> {
        message::rekey_progress(self.long(Question::RekeyProgress, Repeat::Harmless).await?)
    }

    /// Makes a recovery key, in place of an earlier one. Never sent twice.
    ///
    /// # Errors
    /// As [`Self::rekey`].
    pub async fn recovery_key(&self) -> Result<Rekeyed, ClientError> {
        message::rekeyed(self.long(Question::RecoveryKey, Repeat::Unbegun).await?).map(|rekeyed| *rekeyed)
    }

    async fn long(&self, question: Question<'_>, repeat: Repeat) -> Result<Answer, ClientError> {
        self.exchange(question, repeat, self.inner.options.long_timeout).await
    }

    async fn exchange(&self, question: Question<'_>, repeat: Repeat, timeout: Duration) -> Result<Answer, ClientError> {
        within(timeout, self.inner.ask(body(question), repeat)).await.map(|(answer, _)| answer)
    }
}

fn body(question: Question<'_>) -> Zeroizing<Vec<u8>> {
    // Room for all of it: a vector that grows leaves copies of the token behind.
    let body = Vec::with_capacity(codec::encoded_len(&question));
    Zeroizing::new(codec::encode_onto(&question, body))
}

async fn within<T>(timeout: Duration, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    time::timeout(timeout, work).await.unwrap_or(Err(ClientError::Timeout(timeout)))
}

impl Inner {
    /// The answer, and the connection that it came on.
    async fn ask(&self, body: Zeroizing<Vec<u8>>, repeat: Repeat) -> Result<(Answer, Link), ClientError> {
        let mut repeated = false;
        loop {
            let link = self.link().await?;
            let broken = match link.ask(&body).await {
                Ok(answer) => return Ok((answer, link)),
                Err(broken) => broken,
            };
            if repeated || !broken.may_repeat(repeat) {
                return Err(broken.into());
            }
            repeated = true;
        }
    }

    /// The connection that lives, or a new one.
    async fn link(&self) -> Result<Link, ClientError> {
        let mut current = self.link.lock().await;
        if let Some(link) = &*current
            && !link.is_closed()
            && !link.might_prove_its_clock()
        {
            return Ok(link.clone());
        }
        let link = Link::over(self.dial().await?);
        *current = Some(link.clone());
        Ok(link)
    }

    /// Connects and greets; tries again for a while where nobody listens, or where who listened goes away.
    async fn dial(&self) -> Result<Greeted, ClientError> {
        let give_up = Instant::now() + self.options.connect_retry;
        let mut pause = socket::PAUSE;
        loop {
            let error = match socket::open(&self.path) {
                Ok(stream) => match Greeted::on(stream, &self.path, &self.options, self.wants_page).await {
                    Ok(greeted) => return Ok(greeted),
                    Err(Broken::NoReply(source)) => ClientError::Lost { source },
                    Err(Broken::Unbegun(error)) => error,
                    Err(Broken::Final(error)) => return Err(error),
                },
                Err(source) if socket::may_come(&source) => ClientError::Connect { path: self.path.clone(), source },
                Err(source) => return Err(ClientError::Connect { path: self.path.clone(), source }),
            };
            if Instant::now() + pause >= give_up {
                return Err(error);
            }
            time::sleep(pause).await;
            pause = (2 * pause).min(socket::PAUSE_MAX);
        }
    }
}
