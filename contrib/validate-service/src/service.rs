//! All that this service has to do with bearerd.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bearerd::client::blocking::CachedClient;
use bearerd::client::{CacheOptions, ClientError, Known, Options};
use bearerd::protocol::message::Validate;

/// Who decides. Any number of threads may ask it.
pub struct Service {
    client: CachedClient,
    scopes: Vec<String>,
    checks: AtomicU64,
    asked: AtomicU64,
    denied: AtomicU64,
}

/// What was done so far.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    pub checks: u64,
    /// What was not kept, and so asked of bearerd.
    pub asked: u64,
    pub denied: u64,
}

impl Service {
    /// One that asks the daemon which listens at `bearerd`.
    pub fn connect(bearerd: &Path, scopes: Vec<String>) -> Result<Self, ClientError> {
        let client = CachedClient::connect(bearerd, Options::default(), CacheOptions::default())?;
        Ok(Self { client, scopes, checks: AtomicU64::new(0), asked: AtomicU64::new(0), denied: AtomicU64::new(0) })
    }

    /// Is the token good for this service? What is no text is no token: bearerd calls an empty one malformed.
    ///
    /// An error is not *good*: whoever can't ask, denies.
    pub fn decide(&self, token: &[u8]) -> Result<Known, ClientError> {
        let ask = Validate {
            token: std::str::from_utf8(token).unwrap_or_default(),
            scopes: self.scopes.iter().map(String::as_str).collect(),
            audience: None,
            from: None,
            note: None,
            peek: false,
        };
        // `validate` alone would do; this is to count what it does.
        let decided = self.client.kept(&ask).map_or_else(
            || {
                self.asked.fetch_add(1, Ordering::Relaxed);
                self.client.validate(&ask)
            },
            Ok,
        );
        if !decided.as_ref().is_ok_and(|verdict| verdict.active) {
            self.denied.fetch_add(1, Ordering::Relaxed);
        }
        decided
    }

    /// The line that answers a line.
    pub fn answer(&self, line: &[u8]) -> String {
        self.count(1);
        match self.decide(line) {
            Ok(verdict) if verdict.active => {
                let name = verdict.token.as_ref().map_or("", |token| &token.facts.name);
                format!("allowed {name}\n")
            }
            Ok(verdict) => format!("denied {}\n", verdict.reason.map_or("", |reason| reason.name())),
            Err(error) => format!("denied: {error}\n"),
        }
    }

    /// Counts so many checks: not each by itself where threads would wait for each other.
    pub fn count(&self, checks: u64) {
        self.checks.fetch_add(checks, Ordering::Relaxed);
    }

    pub fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts { checks: read(&self.checks), asked: read(&self.asked), denied: read(&self.denied) }
    }
}

impl Counts {
    pub fn since(&self, before: &Self) -> Self {
        Self {
            checks: self.checks - before.checks,
            asked: self.asked - before.asked,
            denied: self.denied - before.denied,
        }
    }
}
