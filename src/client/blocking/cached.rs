//! The blocking client that keeps verdicts: for a service that sees the same tokens again and again.
//!
//! ```no_run
//! use bearerd::client::blocking::CachedClient;
//! use bearerd::client::{CacheOptions, Options, default_socket};
//! use bearerd::protocol::message::Validate;
//!
//! # fn presented() -> String { String::new() }
//! let client = CachedClient::connect(default_socket(), Options::default(), CacheOptions::default())?;
//! let token = presented();
//! let ask = Validate { token: &token, scopes: vec!["backup:write"], audience: None, from: None, note: None, peek: false };
//! // The first asks the daemon; from then on this takes some hundred nanoseconds, and the token's revocation ends it at once.
//! let active = client.validate(&ask)?.active;
//! # let _ = active;
//! # Ok::<(), bearerd::client::ClientError>(())
//! ```

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::Client;
use crate::client::cache::{self, Cache, Found, Known};
use crate::client::{CacheOptions, ClientError, Options};
use crate::protocol::message::Validate;

/// Connections that are kept for the next question; more are made when more threads ask at once.
const IDLE_MAX: usize = 8;

/// A client that answers from memory while the daemon's epoch page says that nothing has changed.
///
/// Any number of threads may use one. A thread of its own tells the daemon each second how often what was granted. A
/// process that forks uses it on one side only.
pub struct CachedClient {
    shared: Arc<Shared>,
    /// Dropping it ends the reporter, which tells what is left first.
    stop: Option<Sender<()>>,
    reporter: Option<JoinHandle<()>>,
}

struct Shared {
    cache: Cache,
    path: PathBuf,
    options: Options,
    idle: Mutex<Vec<Client>>,
    /// The reporter's connection; held while it tells.
    teller: Mutex<Client>,
}

impl CachedClient {
    /// Connects to the daemon that listens at `path`.
    ///
    /// # Errors
    /// As [`Client::connect`], and [`ClientError::Connect`] when no thread can be started.
    pub fn connect(path: impl AsRef<Path>, options: Options, cache: CacheOptions) -> Result<Self, ClientError> {
        let path = path.as_ref().to_owned();
        let first = Client::connect(&path, options.clone())?;
        let shared = Arc::new(Shared {
            cache: Cache::new(cache.entries),
            path: path.clone(),
            options,
            idle: Mutex::default(),
            teller: Mutex::new(first),
        });
        let (stop, stopped) = channel::<()>();
        let telling = Arc::clone(&shared);
        let reporter = thread::Builder::new()
            .name("bearerd-uses".to_owned())
            .spawn(move || {
                loop {
                    let ended = stopped.recv_timeout(cache.report_every) != Err(RecvTimeoutError::Timeout);
                    // What could not be told is kept for the next time.
                    let _ = telling.report();
                    if ended {
                        return;
                    }
                }
            })
            .map_err(|source| ClientError::Connect { path, source })?;
        Ok(Self { shared, stop: Some(stop), reporter: Some(reporter) })
    }

    /// Is this token good for this?
    ///
    /// # Errors
    /// Any [`ClientError`]; none of them means that the token is good.
    pub fn validate(&self, ask: &Validate<'_>) -> Result<Known, ClientError> {
        let key = match self.shared.cache.find(ask) {
            Found::Kept(verdict) => return Ok(verdict),
            Found::Ask(key) => Some(key),
            Found::AskOnly => None,
        };
        let mut client = self.shared.client();
        let (stamped, page) = client.validate_stamped(ask)?;
        self.shared.give_back(client);
        Ok(match key {
            Some(key) => self.shared.cache.keep(key, page.as_ref(), stamped),
            None => Arc::new(stamped.verdict).into(),
        })
    }

    /// What is kept for this question and counts, without asking the daemon.
    pub fn kept(&self, ask: &Validate<'_>) -> Option<Known> {
        match self.shared.cache.find(ask) {
            Found::Kept(verdict) => Some(verdict),
            Found::Ask(_) | Found::AskOnly => None,
        }
    }

    /// Tells the daemon of all uses up to now, instead of within the second.
    ///
    /// # Errors
    /// Any [`ClientError`]; what was not told is told later, but for what was lost with a connection.
    pub fn report(&self) -> Result<(), ClientError> {
        self.shared.report()
    }
}

impl Drop for CachedClient {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(reporter) = self.reporter.take() {
            // It has told what there was, or could not.
            let _ = reporter.join();
        }
    }
}

impl Shared {
    /// A connection that nobody uses, or a new one.
    fn client(&self) -> Client {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| Client::with_page(&self.path, self.options.clone()))
    }

    fn give_back(&self, client: Client) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(client);
        }
    }

    fn report(&self) -> Result<(), ClientError> {
        let mut teller = self.teller.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self.cache.reports();
        while !waiting.is_empty() {
            let now: Vec<_> = waiting.drain(..cache::one_request(&waiting)).collect();
            let told = teller.report_uses(&cache::as_messages(&now));
            if let Err(error) = told {
                if cache::may_tell_again(&error) {
                    self.cache.put_back(now);
                }
                self.cache.put_back(waiting);
                return Err(error);
            }
        }
        Ok(())
    }
}
