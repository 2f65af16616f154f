//! Stores that are filled through the library, without a daemon and its socket: many tokens in one transaction.
//!
//! The tokens are made from their numbers, so that ten million of them can be asked about without being remembered.
//! Their secrets are therefore no secrets: good for a benchmark and nothing else.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use bearerd::config::{Config, Paths};
use bearerd::daemon::open::{self, Backbone};
use bearerd::daemon::reload;
use bearerd::policy::Own;
use bearerd::protocol::message::{Issue, Validate};
use bearerd::registry::issue::{Parties, Rules, plan};
use bearerd::store::record::TokenRecord;
use bearerd::store::{Effect, StoreError, Txn};
use bearerd::time::{SystemTime, UnixTime, wall_now};
use bearerd::token::{self, Kind, Secret, Token, TokenId};

use super::random::Random;
use super::tokens;

/// Tokens in one transaction.
const CHUNK: usize = 50_000;
/// Transactions that are prepared ahead of the one that is written.
const AHEAD: usize = 2;
/// What the store may cache of itself while it is filled: the indexes are written all over.
const CACHE_BYTES: u64 = 2 << 30;
/// How long ago the first token was issued; the last one just now.
const ISSUED_OVER: Duration = Duration::from_secs(10 * 86_400);

/// Makes tokens from their numbers.
pub struct Forge {
    first: UnixTime,
    step: Duration,
    prefix: token::Prefix,
    seed: u64,
}

/// What a record is made from.
pub struct Ground {
    pub rules: Rules,
    pub backbone: Backbone,
}

impl Forge {
    /// Of `count` tokens, issued evenly over the last days.
    pub fn new(count: usize, seed: u64) -> Self {
        let step = ISSUED_OVER / u32::try_from(count.max(1)).expect("fewer tokens than that");
        let prefix = token::DEFAULT_PREFIX.parse().expect("the default prefix is one");
        Self { first: wall_now().saturating_sub(ISSUED_OVER), step, prefix, seed }
    }

    fn issued_at(&self, number: usize) -> UnixTime {
        self.first.saturating_add(self.step * u32::try_from(number).expect("fewer tokens than that"))
    }

    fn random(&self, number: usize) -> Random {
        Random::new(self.seed.wrapping_mul(0x1_0000_0000).wrapping_add(number as u64 + 1))
    }

    /// Its id: UUIDv7 (RFC 9562, 5.7), in the order of the numbers.
    pub fn id(&self, number: usize) -> TokenId {
        let mut bytes = [0; 16];
        let millis = self.issued_at(number).as_micros() / 1000;
        bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        // Many are of one millisecond: a counter and random bits tell them apart.
        bytes[6..8].copy_from_slice(&(0x7000 | (number & 0xfff) as u16).to_be_bytes());
        bytes[8..].copy_from_slice(&(self.random(number).next() >> 2 | 1 << 63).to_be_bytes());
        TokenId::from_bytes(bytes)
    }

    fn token(&self, number: usize) -> Token {
        let mut random = self.random(number);
        let mut secret = [0; 32];
        for part in secret.chunks_exact_mut(8) {
            part.copy_from_slice(&random.next().to_le_bytes());
        }
        Token { prefix: self.prefix, kind: Kind::Machine, id: self.id(number), secret: Secret::from_bytes(secret) }
    }

    /// Its text, as whoever holds it presents it.
    pub fn text(&self, number: usize) -> String {
        self.token(number).reveal().as_str().to_owned()
    }

    /// What it was issued by: the same as the daemon would have been asked.
    fn issue(&self, number: usize) -> (Issue, Vec<&'static str>) {
        let mut random = self.random(number);
        tokens::issue(number, &mut random)
    }

    /// A question about it, for one or two of its scopes, from some address: as good as none is asked twice, so that each
    /// gets an audit line of its own, however few tokens there are.
    pub fn ask<'a>(&self, number: usize, text: &'a str, random: &mut Random) -> Validate<'a> {
        let granted = self.issue(number).1;
        let (scopes, first) = (1 + random.below(2), random.below(granted.len()));
        let scopes = (0..scopes).map(|step| granted[(first + step) % granted.len()]).collect();
        let from = Some(Ipv4Addr::from(0x0a00_0000 | random.below(1 << 24) as u32).into());
        Validate { token: text, scopes, audience: None, from, note: None, peek: false }
    }

    /// Its record.
    ///
    /// # Errors
    /// When the configuration does not allow such a token.
    pub fn record(&self, ground: &Ground, number: usize) -> io::Result<TokenRecord> {
        let token = self.token(number);
        let digest = token::digest(ground.backbone.keyring.digest_key(), token.id, &token.secret);
        let request = self.issue(number).0;
        let parties = Parties {
            subject: request.subject.clone().unwrap_or_default(),
            subject_uid: None,
            issuer: "root".into(),
            issuer_uid: 0,
        };
        let planned = plan(&request, &ground.rules).map_err(io::Error::other)?;
        planned.record(token.id, token.prefix, digest, parties, self.issued_at(number)).map_err(io::Error::other)
    }
}

/// Fills the store of this configuration with `count` records that `make` makes, and stops it in good order; says how
/// long that took.
///
/// # Errors
/// Those of the store, and of `make`.
pub fn fill(
    config: &Path,
    count: usize,
    mut make: impl FnMut(&Ground, usize) -> io::Result<TokenRecord>,
) -> io::Result<Duration> {
    let uid = nix::unistd::geteuid().as_raw();
    let mut config = Config::load(&Paths::system(uid, 0), Some(config)).map_err(io::Error::other)?;
    config.store.cache_bytes = CACHE_BYTES;
    let own = Own { uid, container: None, cgroups: false };
    let rules = reload::resolve(&config, &own).rules;
    let backbone = open::open(&config, None, Box::new(SystemTime::new())).map_err(io::Error::other)?;
    let ground = Ground { rules, backbone };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let begun = Instant::now();
    let mut written = VecDeque::new();
    for from in (0..count).step_by(CHUNK) {
        let numbers = from..(from + CHUNK).min(count);
        let records: Vec<TokenRecord> = numbers.map(|number| make(&ground, number)).collect::<io::Result<_>>()?;
        let job = move |txn: &mut Txn<'_>| -> Result<(), StoreError> {
            records.into_iter().try_for_each(|record| txn.put(record, Effect::New))
        };
        let store = ground.backbone.store.clone();
        written.push_back(runtime.spawn(async move { store.write(job).await }));
        while written.len() > AHEAD {
            let done = written.pop_front().expect("there are some");
            runtime.block_on(done)?.map_err(io::Error::other)?.map_err(io::Error::other)?;
        }
    }
    for done in written {
        runtime.block_on(done)?.map_err(io::Error::other)?.map_err(io::Error::other)?;
    }
    runtime.block_on(async {
        ground.backbone.audit.stop().await.map_err(io::Error::other)?;
        ground.backbone.store.stop().await.map_err(io::Error::other)
    })?;
    Ok(begun.elapsed())
}
