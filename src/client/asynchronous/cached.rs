//! The asynchronous client that keeps verdicts: [`crate::client::blocking::CachedClient`], for a runtime.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::Client;
use crate::client::cache::{self, Cache, Found, Known};
use crate::client::{CacheOptions, ClientError, Options};
use crate::protocol::message::Validate;

/// A client that answers from memory while the daemon's epoch page says that nothing has changed.
///
/// Clones share one cache and one connection. A task of the runtime tells the daemon each second how often what was
/// granted. Whoever ends in good order calls [`Self::report`] last: what the task has not told by then is lost with the
/// runtime.
#[derive(Clone)]
pub struct CachedClient {
    shared: Arc<Shared>,
    /// Ends with the last clone.
    _reporter: Arc<Reporter>,
}

struct Shared {
    cache: Cache,
    client: Client,
    /// Held while uses are told, so that none is told twice.
    telling: Mutex<()>,
}

struct Reporter(JoinHandle<()>);

impl Drop for Reporter {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl CachedClient {
    /// Connects to the daemon that listens at `path`.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect(path: impl AsRef<Path>, options: Options, cache: CacheOptions) -> Result<Self, ClientError> {
        let client = Client::connect_as(path.as_ref(), options, true).await?;
        let shared = Arc::new(Shared { cache: Cache::new(cache.entries), client, telling: Mutex::new(()) });
        let telling = Arc::clone(&shared);
        let reporter = tokio::spawn(async move {
            let mut ticks = interval(cache.report_every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                // What could not be told is kept for the next time.
                let _ = telling.report().await;
            }
        });
        Ok(Self { shared, _reporter: Arc::new(Reporter(reporter)) })
    }

    /// Is this token good for this?
    ///
    /// # Errors
    /// Any [`ClientError`]; none of them means that the token is good.
    pub async fn validate(&self, ask: &Validate<'_>) -> Result<Known, ClientError> {
        let key = match self.shared.cache.find(ask) {
            Found::Kept(verdict) => return Ok(verdict),
            Found::Ask(key) => Some(key),
            Found::AskOnly => None,
        };
        let (stamped, page) = self.shared.client.validate_stamped(ask).await?;
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
    pub async fn report(&self) -> Result<(), ClientError> {
        self.shared.report().await
    }
}

impl Shared {
    async fn report(&self) -> Result<(), ClientError> {
        let _alone = self.telling.lock().await;
        let mut waiting = self.cache.reports();
        while !waiting.is_empty() {
            let now: Vec<_> = waiting.drain(..cache::one_request(&waiting)).collect();
            let told = self.client.report_uses(&cache::as_messages(&now)).await;
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
