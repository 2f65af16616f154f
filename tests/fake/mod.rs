//! A server with a handler that does what its requests say, and a peer that speaks bytes: for the tests of the server
//! and of the clients.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bearerd::codec;
use bearerd::peer::Peer;
use bearerd::protocol::code::{ErrorCode, Reason};
use bearerd::protocol::frame::{self, LENGTH_BYTES};
use bearerd::protocol::message::{
    Answer, Ask, AuditLines, Changed, ClientHello, Event, Events, Failure, Issued, Rekey, RekeyProgress, Rekeyed,
    Reply, Request, SecretText, ServerHello, Shown, State, TokenFacts, TokenInfo, Tokens, Validate, Verdict, Watch,
};
use bearerd::protocol::{MAGIC, VERSION};
use bearerd::server::{Class, Counters, Handler, ServerLimits, run};
use bearerd::service::{Body, Now};
use bearerd::time::UnixTime;
use bearerd::token::{Kind, TokenId};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

/// A peer of full rights in these tests.
pub const ROOT: u32 = 0;
/// A peer that a rule is about.
pub const RULED: u32 = 1000;
/// The first of the uids that no rule is about.
pub const RULELESS: u32 = 5000;

/// A peer that the handler panics over.
pub const PANICS: u32 = 4_000_000;

/// Does what the request says.
///
/// `Validate` is answered at once: active if the token begins with `good`. `Show` takes time, by its handle:
/// `gate` waits for [`Fake::gate`], `panic` panics, `big N` is an answer of N bytes, `secret` holds [`SECRET`].
pub struct Fake {
    /// A permit lets one `gate` through.
    pub gate: Semaphore,
    pub begun: AtomicUsize,
    pub finished: AtomicUsize,
    pub answered_now: AtomicUsize,
    pub refused: Mutex<Vec<(u32, ErrorCode)>>,
    /// uids from here on have no rule.
    pub ruleless_from: AtomicUsize,
    /// A permit lets one answer of a gated stream through.
    pub feed: Semaphore,
    /// Answers that streams have given.
    pub fed: AtomicUsize,
    /// Streams that live.
    pub following: AtomicUsize,
}

/// Counts a stream for as long as it lives.
struct Following(Arc<Fake>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.following.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Fake {
    fn new() -> Self {
        Self {
            gate: Semaphore::new(0),
            begun: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            answered_now: AtomicUsize::new(0),
            refused: Mutex::default(),
            ruleless_from: AtomicUsize::new(RULELESS as usize),
            feed: Semaphore::new(0),
            fed: AtomicUsize::new(0),
            following: AtomicUsize::new(0),
        }
    }

    pub fn fed(&self) -> usize {
        self.fed.load(Ordering::SeqCst)
    }

    pub fn following(&self) -> usize {
        self.following.load(Ordering::SeqCst)
    }

    /// From now on: an answer for each permit of [`Self::feed`]. Since N: answers of N bytes without end; 0 ends at once.
    fn watch(self: &Arc<Self>, since: Option<u64>) -> Now<Body> {
        self.following.fetch_add(1, Ordering::SeqCst);
        let following = Following(Arc::clone(self));
        Now::Stream(Box::pin(futures_util::stream::unfold((0, following), move |(seq, following)| async move {
            let bytes = match since {
                Some(0) => return None,
                Some(bytes) => bytes as usize,
                None => {
                    following.0.feed.acquire().await.unwrap().forget();
                    1
                }
            };
            following.0.fed.fetch_add(1, Ordering::SeqCst);
            let event = Event { seq: seq + 1, gap: false, json: "x".repeat(bytes) };
            let events = Events { events: vec![event], through: seq + 1, last: false };
            Some((Answer::Events(events), (seq + 1, following)))
        })))
    }

    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    pub fn finished(&self) -> usize {
        self.finished.load(Ordering::SeqCst)
    }

    async fn later(&self, ask: Ask<'_>) -> Answer {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let answer = match ask {
            Ask::Validate(validate) => Answer::Verdict(Box::new(verdict(&validate))),
            Ask::ValidateBatch(batch) => Answer::Verdicts(batch.iter().map(verdict).collect()),
            Ask::Issue(issue) if issue.name == "forbidden" => {
                Answer::Error(Failure::new(ErrorCode::NotPermitted, "not for you"))
            }
            Ask::Issue(_) => {
                Answer::Issued(Box::new(Issued { token: SecretText::new(SECRET.to_owned()), info: info() }))
            }
            Ask::Revoke(revoke) => {
                Answer::Changed(Changed { count: 1, ids: vec![id()], dry_run: revoke.dry_run, still_good: Vec::new() })
            }
            Ask::Show(handle) => self.show(&handle.0).await,
            Ask::List(_) => Answer::Tokens(Tokens { tokens: vec![info(), info()], next: Some(id()) }),
            Ask::Status => Answer::Json(r#"{"status":true}"#.to_owned()),
            Ask::Audit(_) => Answer::AuditLines(AuditLines { lines: vec!["{}".into()], next: "n".into(), end: true }),
            Ask::AuditSummary(handle) => Answer::Json(format!("{{\"of\":\"{}\"}}", handle.0)),
            Ask::AuditVerify => Answer::Json(r#"{"verified":true}"#.to_owned()),
            Ask::ClockReset => Answer::Time(UnixTime::from_secs(1_800_000_000)),
            Ask::Rekey(Rekey { data: true }) | Ask::RekeyProgress => Answer::RekeyProgress(RekeyProgress::default()),
            Ask::Rekey(_) | Ask::RecoveryKey => Answer::Rekeyed(Box::new(Rekeyed {
                slot: "4db3cfbc236ada05".into(),
                installed: false,
                origin: "a test".into(),
                dropped: Vec::new(),
                key: Some(SecretText::new(SECRET.to_owned())),
            })),
            _ => Answer::Error(Failure::new(ErrorCode::Internal, "not in this play")),
        };
        self.finished.fetch_add(1, Ordering::SeqCst);
        answer
    }

    async fn show(&self, handle: &str) -> Answer {
        if let Some(bytes) = handle.strip_prefix("big ") {
            return Answer::Json("x".repeat(bytes.parse().unwrap()));
        }
        match handle {
            "gate" => self.gate.acquire().await.unwrap().forget(),
            "panic" => panic!("as asked (this panic is part of a test)"),
            _ => {}
        }
        Answer::Shown(Box::new(shown()))
    }
}

impl Handler for Fake {
    type Caller = u32;

    fn admit(&self, peer: Peer) -> Arc<u32> {
        assert_ne!(peer.uid, PANICS, "as asked (this panic is part of a test)");
        Arc::new(peer.uid)
    }

    fn class(&self, &uid: &u32) -> Class {
        match uid {
            ROOT => Class::Full,
            uid if uid as usize >= self.ruleless_from.load(Ordering::SeqCst) => Class::Ruleless,
            _ => Class::Ruled,
        }
    }

    fn answer(self: &Arc<Self>, _: &Arc<u32>, ask: &Ask<'_>) -> Now<Body> {
        if let Ask::Validate(validate) = ask {
            self.answered_now.fetch_add(1, Ordering::SeqCst);
            return Now::Ready(Answer::Verdict(Box::new(verdict(validate))).into());
        }
        if let Ask::Watch(watch) = ask {
            return self.watch(watch.since);
        }
        let (fake, ask) = (Arc::clone(self), Zeroizing::new(codec::encode(ask)));
        Now::Later(Box::pin(async move { fake.later(codec::decode(&ask).expect("just encoded")).await.into() }))
    }

    fn refused_connection(&self, peer: &Peer, code: ErrorCode) {
        self.refused.lock().unwrap().push((peer.uid, code));
    }

    fn boottime(&self) -> Duration {
        Duration::from_micros(1_234_567)
    }

    fn grant_page(&self, _: &u32) -> bool {
        false
    }

    fn page(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The token that `Issue` answers.
pub const SECRET: &str = "brdm_01M844DZG0FAY828T5CY4TQKFF_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf2b9MjO";

pub fn id() -> TokenId {
    "01M844DZG0FAY828T5CY4TQKFF".parse().unwrap()
}

pub fn shown() -> Shown {
    Shown { info: info(), uses_by: Vec::new(), safe_to_cut: None, relatives: Vec::new() }
}

pub fn info() -> TokenInfo {
    TokenInfo {
        facts: TokenFacts {
            id: id(),
            head: Some("brdm_01M844DZG0FAY828T5CY4TQKFF".into()),
            kind: Kind::Machine,
            name: "nightly".into(),
            subject: "backup".into(),
            issuer: "root".into(),
            issuer_uid: 0,
            scopes: vec!["backup:*".into()],
            audiences: Vec::new(),
            issued_at: UnixTime::from_secs(1_790_000_000),
            not_before: None,
            expires_at: Some(UnixTime::from_secs(1_797_776_000)),
            max_expires_at: Some(UnixTime::from_secs(1_821_622_400)),
            ttl: Some(Duration::from_secs(90 * 86_400)),
            labels: [("team".to_owned(), "ops".to_owned())].into(),
            profile: None,
            max_uses: None,
            uses_left: None,
            rate: None,
            allow_from: Vec::new(),
            allow_units: Vec::new(),
            allow_uids: Vec::new(),
            family: id(),
            predecessor: None,
            successor: None,
            revoked_at: None,
            revoked_reason: None,
        },
        state: State::Active,
        last_used: None,
    }
}

pub fn verdict(ask: &Validate<'_>) -> Verdict {
    let active = ask.token.starts_with("good");
    Verdict {
        active,
        reason: (!active).then_some(Reason::Unknown),
        missing_scopes: Vec::new(),
        token: active.then(|| Box::new(info())),
    }
}

pub fn validate(token: &str) -> Validate<'_> {
    Validate { token, scopes: Vec::new(), audience: None, from: None, note: None, peek: false }
}

/// A running server; stops when told, or with the runtime.
pub struct Server {
    pub path: PathBuf,
    pub fake: Arc<Fake>,
    pub counters: Arc<Counters>,
    /// uids of the next peers; then all are [`RULED`].
    pub uids: Arc<Mutex<VecDeque<u32>>>,
    stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<usize>,
    _dir: Option<TempDir>,
}

impl Server {
    /// In a new temporary directory.
    pub fn start(limits: ServerLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let mut server = Self::start_at(&path, limits);
        server._dir = Some(dir);
        server
    }

    pub fn start_at(path: &Path, limits: ServerLimits) -> Self {
        Self::start_on(UnixListener::bind(path).unwrap(), path, limits)
    }

    pub fn start_on(listener: UnixListener, path: &Path, limits: ServerLimits) -> Self {
        let fake = Arc::new(Fake::new());
        let counters = Arc::new(Counters::default());
        let uids: Arc<Mutex<VecDeque<u32>>> = Arc::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let next = Arc::clone(&uids);
        let identify = move |stream: &UnixStream| {
            // As the real one: it takes a descriptor.
            std::fs::File::open("/proc/self/stat")?;
            let pid = stream.peer_cred()?.pid().unwrap_or(0);
            let uid = next.lock().unwrap().pop_front().unwrap_or(RULED);
            if uid == u32::MAX {
                return Err(io::Error::other("unknown peer"));
            }
            Ok(Peer { pid, uid, gid: uid, groups: Box::new([]), unit: None, container: None, tcp: false })
        };
        let running = run(listener, identify, Arc::clone(&fake), limits, Arc::clone(&counters), async move {
            let _ = stopped.await;
        });
        let task = tokio::spawn(running);
        Self { path: path.to_owned(), fake, counters, uids, stop: Some(stop), task, _dir: None }
    }

    /// A greeted peer of this uid.
    pub async fn connect(&self, uid: u32) -> Raw {
        let mut raw = self.connect_silent(uid).await;
        raw.send(&hello()).await;
        let greeting = raw.hello().await;
        assert_eq!(greeting.version, VERSION);
        raw
    }

    /// A peer that has not said hello.
    pub async fn connect_silent(&self, uid: u32) -> Raw {
        self.uids.lock().unwrap().push_back(uid);
        Raw { stream: UnixStream::connect(&self.path).await.unwrap(), bytes: Vec::new() }
    }

    /// Says stop; the server goes on to finish what is in flight.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    pub fn connections(&self) -> usize {
        self.counters.connections.load(Ordering::SeqCst)
    }
}

/// Waits until something has become so. In a runtime whose time stands still, no time passes in the world.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    while !so() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub fn hello() -> Vec<u8> {
    framed(&ClientHello { magic: MAGIC, version_min: 1, version_max: 1, flags: 0 })
}

pub fn framed<T: serde::Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::append(message, &mut bytes);
    bytes
}

pub fn show(id: u32, handle: &str) -> Vec<u8> {
    framed(&Request { id, body: Ask::Show(bearerd::protocol::message::Handle(handle.to_owned())) })
}

pub fn watch(id: u32, since: Option<u64>) -> Vec<u8> {
    framed(&Request { id, body: Ask::Watch(Watch { since }) })
}

pub fn ask_validate(id: u32, token: &str) -> Vec<u8> {
    framed(&Request { id, body: Ask::Validate(validate(token)) })
}

/// A peer that speaks bytes.
pub struct Raw {
    pub stream: UnixStream,
    bytes: Vec<u8>,
}

impl Raw {
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, bytes: Vec::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The content of the next frame; `None` when the server has closed.
    pub async fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(head) = self.bytes.first_chunk::<LENGTH_BYTES>() {
                let length = LENGTH_BYTES + u32::from_le_bytes(*head) as usize;
                if self.bytes.len() >= length {
                    let rest = self.bytes.split_off(length);
                    let content = std::mem::replace(&mut self.bytes, rest).split_off(LENGTH_BYTES);
                    return Some(content);
                }
            }
            match self.stream.read_buf(&mut self.bytes).await {
                Ok(1..) => {}
                Ok(0) => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(self.bytes.is_empty(), "the server closed within a frame");
        None
    }

    pub async fn hello(&mut self) -> ServerHello {
        codec::decode(&self.frame().await.expect("a hello")).unwrap()
    }

    pub async fn reply(&mut self) -> Reply {
        codec::decode(&self.frame().await.expect("a reply")).unwrap()
    }

    /// The next reply, which must be an error; its number and code.
    pub async fn error(&mut self) -> (u32, Failure) {
        match self.reply().await {
            Reply { id, body: Answer::Error(failure) } => (id, failure),
            Reply { id, .. } => panic!("{id} is answered"),
        }
    }

    /// The server must have said this of the connection, and closed.
    pub async fn expect_end(&mut self, code: ErrorCode) -> Failure {
        let (id, failure) = self.error().await;
        assert_eq!((id, failure.code), (0, code), "{failure}");
        assert!(self.frame().await.is_none(), "closed");
        failure
    }

    /// The same, where the hello was not answered.
    pub async fn expect_refusal(&mut self, code: ErrorCode) -> Failure {
        assert_eq!(self.hello().await.version, 0);
        self.expect_end(code).await
    }

    /// The next reply, which must be an answer of a stream: its request's number and how far it goes.
    pub async fn events(&mut self) -> (u32, u64) {
        match self.reply().await {
            Reply { id, body: Answer::Events(events) } => (id, events.through),
            Reply { id, .. } => panic!("{id} is answered by something else"),
        }
    }

    pub async fn expect_verdict(&mut self, id: u32, active: bool) {
        match self.reply().await {
            Reply { id: got, body: Answer::Verdict(verdict) } => assert_eq!((got, verdict.active), (id, active)),
            _ => panic!("another reply"),
        }
    }
}

/// Runs a future to its end on this thread, in a new runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
