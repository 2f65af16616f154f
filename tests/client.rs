//! Both clients: against the server, against servers that lie, and while the daemon goes away and comes back.

mod fake;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use bearerd::client::{ClientError, Options, asynchronous, blocking};
use bearerd::codec;
use bearerd::protocol::code::ErrorCode;
use bearerd::protocol::message::{
    Answer, Ask, AuditQuery, Failure, Handle, Issue, List, Reply, Request, Revoke, ServerHello, Validate, Verdict,
    Which,
};
use bearerd::protocol::{MAGIC, REPLY_MAX};
use bearerd::server::ServerLimits;
use bearerd::time::UnixTime;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;

use fake::{RULED, RULELESS, Raw, Server, block_on, framed, validate, verdict};

/// Starts things in a runtime of its own, which goes on beside the test's thread.
struct World {
    runtime: Runtime,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { runtime, dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn serve(&self, limits: ServerLimits) -> Server {
        let _context = self.runtime.enter();
        Server::start_at(&self.path(), limits)
    }

    /// Stops a server and makes its path free again.
    fn stop(&self, mut server: Server) {
        server.stop();
        assert_eq!(self.runtime.block_on(&mut server.task).unwrap(), 0);
        std::fs::remove_file(&server.path).unwrap();
    }

    /// Runs `play` with the listener that a client will find at [`Self::path`].
    fn act<T: Send + 'static>(
        &self,
        play: impl AsyncFnOnce(&UnixListener) -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let path = self.path();
        let (ready, listening) = std::sync::mpsc::channel();
        let actor = thread::spawn(move || {
            block_on(async {
                let listener = UnixListener::bind(path).unwrap();
                ready.send(()).unwrap();
                play(&listener).await
            })
        });
        listening.recv().unwrap();
        actor
    }
}

fn quick() -> Options {
    let short = Duration::from_millis(300);
    Options { timeout: short, long_timeout: short, connect_retry: Duration::ZERO, expect_uid: None }
}

/// The requests that the tests of failures use, by either client.
#[derive(Clone, Copy, Debug)]
enum Verb {
    Validate,
    Issue,
    Revoke,
}

const VERBS: [Verb; 3] = [Verb::Validate, Verb::Issue, Verb::Revoke];

fn revoke() -> Revoke<'static> {
    Revoke { which: Which::Token("brdm_x"), reason: None, dry_run: false }
}

impl Verb {
    fn blocking(self, client: &mut blocking::Client) -> Result<(), ClientError> {
        match self {
            Self::Validate => client.validate(&validate("good")).map(drop),
            Self::Issue => client.issue(&Issue::default()).map(drop),
            Self::Revoke => client.revoke(&revoke()).map(drop),
        }
    }

    async fn asynchronous(self, client: &asynchronous::Client) -> Result<(), ClientError> {
        match self {
            Self::Validate => client.validate(&validate("good")).await.map(drop),
            Self::Issue => client.issue(&Issue::default()).await.map(drop),
            Self::Revoke => client.revoke(&revoke()).await.map(drop),
        }
    }
}

/// Either client, so that each promise is tested of both.
enum Either {
    Blocking(blocking::Client),
    Asynchronous(asynchronous::Client, Runtime),
}

impl Either {
    fn connect(kind: usize, path: &PathBuf, options: Options) -> Result<Self, ClientError> {
        if kind == 0 {
            return blocking::Client::connect(path, options).map(Self::Blocking);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(asynchronous::Client::connect(path, options))?;
        Ok(Self::Asynchronous(client, runtime))
    }

    fn ask(&mut self, verb: Verb) -> Result<(), ClientError> {
        match self {
            Self::Blocking(client) => verb.blocking(client),
            Self::Asynchronous(client, runtime) => runtime.block_on(verb.asynchronous(client)),
        }
    }
}

#[test]
fn every_verb_by_the_blocking_client() {
    let world = World::new();
    let server = world.serve(ServerLimits::default());
    let mut client = blocking::Client::connect(world.path(), Options::default()).unwrap();
    assert_eq!(client.server_uid(), Some(nix::unistd::getuid().as_raw()));
    assert_eq!(client.validate(&validate("good")).unwrap(), verdict(&validate("good")));
    assert!(!client.validate(&validate("bad")).unwrap().active);
    let asks = [validate("good"), validate("bad"), validate("good 2")];
    let expected: Vec<Verdict> = asks.iter().map(verdict).collect();
    assert_eq!(client.validate_batch(&asks).unwrap(), expected);
    let many: Vec<Validate<'_>> = asks.iter().cycle().take(100).cloned().collect();
    let each: Vec<Verdict> = client.validate_each(&many).unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(each, many.iter().map(verdict).collect::<Vec<_>>());
    let issued = client.issue(&Issue { name: "x".into(), ..Issue::default() }).unwrap();
    assert_eq!((issued.token.expose(), issued.info), (fake::SECRET, fake::info()));
    let refused = client.issue(&Issue { name: "forbidden".into(), ..Issue::default() });
    assert!(matches!(&refused, Err(ClientError::Failure(failure)) if failure.code == ErrorCode::NotPermitted));
    assert_eq!(refused.map(drop).unwrap_err().to_string(), "not for you");
    assert_eq!(client.revoke(&revoke()).unwrap().ids, [fake::id()]);
    let handle = Handle("01M8".into());
    assert_eq!(client.show(&handle).unwrap(), fake::shown());
    assert_eq!(client.list(&List::default()).unwrap().tokens.len(), 2);
    assert_eq!(client.status().unwrap(), r#"{"status":true}"#);
    assert_eq!(client.audit(&AuditQuery::default()).unwrap().lines, ["{}"]);
    assert_eq!(client.audit_summary(&handle).unwrap(), r#"{"of":"01M8"}"#);
    assert_eq!(client.audit_verify().unwrap(), r#"{"verified":true}"#);
    assert_eq!(client.clock_reset().unwrap(), UnixTime::from_secs(1_800_000_000));
    for rekeyed in [client.rekey().unwrap(), client.recovery_key().unwrap()] {
        assert_eq!(rekeyed.key.unwrap().expose(), fake::SECRET);
    }
    assert_eq!(client.rekey_data().unwrap(), client.rekey_progress().unwrap());
    // A page as long as a reply may be, and one that is refused, all on one connection.
    let fits = REPLY_MAX - 6;
    assert!(matches!(client.show(&Handle(format!("big {fits}"))), Err(ClientError::Protocol(_))), "JSON, not a token");
    assert_eq!(server.counters.accepted.load(Ordering::SeqCst), 1);
}

#[test]
fn every_verb_by_the_asynchronous_client() {
    let world = World::new();
    let server = world.serve(ServerLimits::default());
    block_on(async {
        let client = asynchronous::Client::connect(world.path(), Options::default()).await.unwrap();
        assert_eq!(client.server_uid().await, Some(nix::unistd::getuid().as_raw()));
        assert_eq!(client.validate(&validate("good")).await.unwrap(), verdict(&validate("good")));
        let asks = [validate("good"), validate("bad"), validate("good 2")];
        let expected: Vec<Verdict> = asks.iter().map(verdict).collect();
        assert_eq!(client.validate_batch(&asks).await.unwrap(), expected);
        let issued = client.issue(&Issue { name: "x".into(), ..Issue::default() }).await.unwrap();
        assert_eq!((issued.token.expose(), issued.info), (fake::SECRET, fake::info()));
        let refused = client.issue(&Issue { name: "forbidden".into(), ..Issue::default() }).await;
        assert_eq!(refused.map(drop).unwrap_err().code(), Some(ErrorCode::NotPermitted));
        assert_eq!(client.revoke(&revoke()).await.unwrap().ids, [fake::id()]);
        let handle = Handle("01M8".into());
        assert_eq!(client.show(&handle).await.unwrap(), fake::shown());
        assert_eq!(client.list(&List::default()).await.unwrap().tokens.len(), 2);
        assert_eq!(client.status().await.unwrap(), r#"{"status":true}"#);
        assert_eq!(client.audit(&AuditQuery::default()).await.unwrap().lines, ["{}"]);
        assert_eq!(client.audit_summary(&handle).await.unwrap(), r#"{"of":"01M8"}"#);
        assert_eq!(client.audit_verify().await.unwrap(), r#"{"verified":true}"#);
        assert_eq!(client.clock_reset().await.unwrap(), UnixTime::from_secs(1_800_000_000));
        for rekeyed in [client.rekey().await.unwrap(), client.recovery_key().await.unwrap()] {
            assert_eq!(rekeyed.key.unwrap().expose(), fake::SECRET);
        }
        assert_eq!(client.rekey_data().await.unwrap(), client.rekey_progress().await.unwrap());
        assert_eq!(server.counters.accepted.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn many_callers_share_one_connection() {
    let world = World::new();
    let server = world.serve(ServerLimits::default());
    block_on(async {
        let client = asynchronous::Client::connect(world.path(), Options::default()).await.unwrap();
        // 256 wait at the daemon; more wait here, and none of them keeps the others' replies from coming.
        let slow: Vec<_> = (0..400)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.show(&Handle("gate".into())).await })
            })
            .collect();
        fake::until("as many as may be are in flight", || server.fake.begun() == 256).await;
        server.fake.gate.add_permits(400);
        for task in slow {
            task.await.unwrap().unwrap();
        }
        // Spawned: the client's futures may go to other threads.
        let quick: Vec<_> = (0..1000)
            .map(|n| {
                let client = client.clone();
                let token = if n % 3 == 0 { format!("good {n}") } else { format!("bad {n}") };
                tokio::spawn(async move { (n, client.validate(&validate(&token)).await.unwrap().active) })
            })
            .collect();
        for task in quick {
            let (n, active) = task.await.unwrap();
            assert_eq!(active, n % 3 == 0, "each got its own reply");
        }
        assert_eq!(server.counters.accepted.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_caller_that_is_dropped_disturbs_no_other() {
    let world = World::new();
    let server = world.serve(ServerLimits::default());
    block_on(async {
        let client = asynchronous::Client::connect(world.path(), Options::default()).await.unwrap();
        for n in 1..=50 {
            let slow = tokio::spawn({
                let client = client.clone();
                async move { client.show(&Handle("gate".into())).await.map(drop) }
            });
            fake::until("it is in flight", || server.fake.begun() == n).await;
            slow.abort();
            assert!(slow.await.unwrap_err().is_cancelled());
            assert!(client.validate(&validate("good")).await.unwrap().active);
        }
        server.fake.gate.add_permits(50);
        fake::until("all are finished", || server.fake.finished() == 50).await;
        assert!(client.validate(&validate("good")).await.unwrap().active);
        assert_eq!(server.counters.accepted.load(Ordering::SeqCst), 1);
        // The last client takes the connection with it.
        drop(client);
        fake::until("it is closed", || server.connections() == 0).await;
    });
}

/// A restart between two requests is not noticed, whatever is asked: nothing of the second was taken by the old one.
#[test]
fn a_restart_between_requests_is_not_noticed() {
    for kind in [0, 1] {
        let world = World::new();
        let mut server = world.serve(ServerLimits::default());
        let mut client = Either::connect(kind, &world.path(), Options::default()).unwrap();
        for verb in VERBS {
            client.ask(verb).unwrap();
            world.stop(server);
            server = world.serve(ServerLimits::default());
            client.ask(verb).unwrap();
        }
    }
}

/// While nobody listens, a client tries again; and the first connect does too.
#[test]
fn a_client_waits_for_a_daemon_that_is_starting() {
    for kind in [0, 1] {
        for left_behind in [false, true] {
            let world = World::new();
            if left_behind {
                // A socket on which nobody listens any more.
                drop(std::os::unix::net::UnixListener::bind(world.path()).unwrap());
            }
            let path = world.path();
            let waiting = thread::spawn(move || {
                let mut client = Either::connect(kind, &path, Options::default())?;
                client.ask(Verb::Issue)
            });
            // Not an event, but harmless: if the client is later than this, it finds the daemon at once.
            thread::yield_now();
            if left_behind {
                std::fs::remove_file(world.path()).unwrap();
            }
            let _server = world.serve(ServerLimits::default());
            waiting.join().unwrap().unwrap();
        }
    }
}

#[test]
fn without_a_daemon_the_error_says_what_to_do() {
    for kind in [0, 1] {
        let world = World::new();
        let error = Either::connect(kind, &world.path(), quick()).map(drop).unwrap_err();
        assert!(matches!(&error, ClientError::Connect { path, .. } if *path == world.path()));
        let text = error.to_string();
        assert!(text.contains("/socket: No such file") && text.contains("bearerd --user"), "{text}");
        // A time is a time.
        let begun = Instant::now();
        let options = Options { connect_retry: Duration::from_millis(200), ..Options::default() };
        assert!(Either::connect(kind, &world.path(), options).is_err());
        assert!(begun.elapsed() < Duration::from_secs(2));
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        assert!(matches!(Either::connect(kind, &long, Options::default()), Err(ClientError::Connect { .. })));
    }
}

#[test]
fn a_server_of_another_user_gets_to_see_nothing() {
    for kind in [0, 1] {
        let world = World::new();
        let actor = world.act(async |listener| {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut bytes).await;
            bytes
        });
        let options = Options { expect_uid: Some(4_000_000), ..quick() };
        let error = Either::connect(kind, &world.path(), options).map(drop).unwrap_err();
        assert!(matches!(error, ClientError::WrongServer { expected: 4_000_000, .. }));
        assert!(actor.join().unwrap().is_empty());
    }
}

#[test]
fn too_many_connections_are_told_so() {
    for kind in [0, 1] {
        let world = World::new();
        let server = world.serve(ServerLimits { max_connections_per_uid: 1, ..ServerLimits::default() });
        let mut first = Either::connect(kind, &world.path(), Options::default()).unwrap();
        first.ask(Verb::Validate).unwrap();
        let error = Either::connect(kind, &world.path(), Options::default()).map(drop).unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::TooManyConnections), "{error}");
        assert!(error.to_string().contains("too many connections"), "{error}");
        server.uids.lock().unwrap().extend([RULELESS, RULED]);
        let mut other = Either::connect(kind, &world.path(), Options::default()).unwrap();
        other.ask(Verb::Issue).unwrap();
    }
}

fn server_hello() -> ServerHello {
    ServerHello {
        magic: MAGIC,
        version: 1,
        flags: 0,
        request_max: 65_536,
        in_flight_max: 256,
        batch_max: 256,
        boottime_micros: 0,
    }
}

/// Accepts and greets.
async fn greet(listener: &UnixListener) -> Raw {
    let mut peer = Raw::new(listener.accept().await.unwrap().0);
    peer.frame().await.expect("a hello");
    peer.send(&framed(&server_hello())).await;
    peer
}

/// What a request that was read and lost counts: only what does no harm is asked again, and that only once.
#[test]
fn a_lost_reply_is_asked_for_again_only_where_that_is_harmless() {
    for kind in [0, 1] {
        for verb in VERBS {
            let world = World::new();
            let expected = if matches!(verb, Verb::Issue) { 1 } else { 2 };
            let actor = world.act(async move |listener| {
                for _ in 0..expected {
                    let mut peer = greet(listener).await;
                    peer.frame().await.expect("a request");
                }
            });
            // Who asked once more than expected would find nobody listening any more, which is another error.
            let mut client = Either::connect(kind, &world.path(), quick()).unwrap();
            let error = client.ask(verb).unwrap_err();
            assert!(matches!(error, ClientError::Lost { .. }), "{kind} {verb:?} {error}");
            actor.join().unwrap();
        }
    }
}

/// "Stopping" means that it was not begun: everything may be asked again.
#[test]
fn what_the_daemon_did_not_begin_is_asked_again() {
    for kind in [0, 1] {
        for verb in VERBS {
            let world = World::new();
            let actor = world.act(async move |listener| {
                let mut peer = greet(listener).await;
                let first = peer.frame().await.expect("a request");
                let stopping = Failure::new(ErrorCode::Stopping, "stopping");
                peer.send(&framed(&Reply { id: 0, body: Answer::Error(stopping) })).await;
                drop(peer);
                let mut peer = greet(listener).await;
                let second = peer.frame().await.expect("the same");
                let (first, second): (Request<'_>, Request<'_>) =
                    (codec::decode(&first).unwrap(), codec::decode(&second).unwrap());
                assert_eq!(codec::encode(&first.body), codec::encode(&second.body));
                peer.send(&framed(&Reply { id: second.id, body: answer_to(&second.body) })).await;
                // Until the client has read it.
                peer.frame().await
            });
            let mut client = Either::connect(kind, &world.path(), quick()).unwrap();
            client.ask(verb).unwrap();
            drop(client);
            assert!(actor.join().unwrap().is_none());
        }
    }
}

fn answer_to(ask: &Ask<'_>) -> Answer {
    match ask {
        Ask::Validate(validate) => Answer::Verdict(Box::new(verdict(validate))),
        Ask::Issue(_) => Answer::Issued(Box::new(bearerd::protocol::message::Issued {
            token: bearerd::protocol::message::SecretText::new(fake::SECRET.into()),
            info: fake::info(),
        })),
        _ => Answer::Changed(bearerd::protocol::message::Changed {
            count: 0,
            ids: Vec::new(),
            dry_run: false,
            still_good: Vec::new(),
        }),
    }
}

/// I5 from the other side: whatever listens there, the client neither hangs nor believes it.
#[test]
fn servers_that_lie_are_not_believed() {
    let active = || Answer::Verdict(Box::new(verdict(&validate("good"))));
    let inactive = framed(&Reply { id: 1, body: Answer::Verdict(Box::new(verdict(&validate("bad")))) });
    let mut trailing = framed(&Reply { id: 1, body: active() });
    trailing.push(0);
    trailing[0] += 1;
    let lies = [
        ("another number", framed(&Reply { id: 2, body: active() })),
        ("another answer", framed(&Reply { id: 1, body: Answer::Json("{}".into()) })),
        ("number 0", framed(&Reply { id: 0, body: active() })),
        ("a trailing byte", trailing),
        ("no reply", vec![3, 0, 0, 0, 1, 99, 0]),
        ("an overlong number", [&[6, 0, 0, 0, 0x81, 0][..], &inactive[5..]].concat()),
        ("an empty frame", vec![0; 4]),
        ("a frame that is too long", (REPLY_MAX as u32 + 1).to_le_bytes().to_vec()),
    ];
    for kind in [0, 1] {
        for (name, bytes) in &lies {
            let world = World::new();
            let bytes = bytes.clone();
            let actor = world.act(async move |listener| {
                let mut peer = greet(listener).await;
                peer.frame().await.expect("a request");
                peer.send(&bytes).await;
                peer.frame().await
            });
            let mut client = Either::connect(kind, &world.path(), Options::default()).unwrap();
            let error = client.ask(Verb::Validate).unwrap_err();
            assert!(matches!(error, ClientError::Protocol(_)), "{kind} {name}: {error}");
            drop(client);
            assert!(actor.join().unwrap().is_none(), "nothing more was sent");
        }
        let hellos = [
            framed(&ServerHello { version: 2, ..server_hello() }),
            framed(&ServerHello { flags: 1, ..server_hello() }),
            framed(&ServerHello { magic: *b"SSH-2.0-", ..server_hello() }),
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        ];
        for hello in hellos {
            let world = World::new();
            let actor = world.act(async move |listener| {
                let mut peer = Raw::new(listener.accept().await.unwrap().0);
                peer.frame().await.expect("a hello");
                peer.send(&hello).await;
                peer.frame().await
            });
            let error = Either::connect(kind, &world.path(), Options::default()).map(drop).unwrap_err();
            assert!(matches!(error, ClientError::Protocol(_)), "{kind}: {error}");
            assert!(actor.join().unwrap().is_none());
        }
    }
}

#[test]
fn a_server_that_says_nothing_costs_the_timeout() {
    for kind in [0, 1] {
        // No hello; no reply; a reply that never gets whole, a byte now and then.
        for stage in 0..3 {
            let world = World::new();
            let actor = world.act(async move |listener| {
                let mut peer = match stage {
                    0 => Raw::new(listener.accept().await.unwrap().0),
                    _ => greet(listener).await,
                };
                let mut tick = tokio::time::interval(Duration::from_millis(20));
                if stage == 2 {
                    peer.frame().await.expect("a request");
                    peer.send(&8_000_000u32.to_le_bytes()).await;
                    loop {
                        tick.tick().await;
                        if tokio::io::AsyncWriteExt::write_all(&mut peer.stream, &[0]).await.is_err() {
                            return;
                        }
                    }
                }
                while peer.frame().await.is_some() {}
            });
            let begun = Instant::now();
            let outcome =
                Either::connect(kind, &world.path(), quick()).and_then(|mut client| client.ask(Verb::Validate));
            assert!(matches!(outcome, Err(ClientError::Timeout(_))), "{kind} {stage} {outcome:?}");
            assert!((300..1500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
            actor.join().unwrap();
        }
    }
}

/// A daemon that does not read must not hold a client up either.
#[test]
fn a_server_that_reads_nothing_costs_the_timeout() {
    for kind in [0, 1] {
        let world = World::new();
        let (done, wait) = tokio::sync::oneshot::channel::<()>();
        let actor = world.act(async move |listener| {
            let _peer = greet(listener).await;
            let _ = wait.await;
        });
        let mut client = Either::connect(kind, &world.path(), quick()).unwrap();
        let token = "x".repeat(60_000);
        let outcome = match &mut client {
            Either::Blocking(client) => client.validate_each(&vec![validate(&token); 16]).map(drop),
            Either::Asynchronous(client, runtime) => runtime.block_on(async {
                let asks = (0..16).map(|_| {
                    let (client, token) = (client.clone(), token.clone());
                    tokio::spawn(async move { client.validate(&validate(&token)).await.map(drop) })
                });
                let mut last = Ok(());
                for ask in asks.collect::<Vec<_>>() {
                    last = ask.await.unwrap();
                }
                last
            }),
        };
        assert!(matches!(outcome, Err(ClientError::Timeout(_))), "{outcome:?}");
        done.send(()).unwrap();
        actor.join().unwrap();
    }
}

#[test]
fn a_request_that_is_too_long_is_not_sent() {
    let world = World::new();
    let server = world.serve(ServerLimits::default());
    let token = "good".repeat(20_000);
    let mut client = blocking::Client::connect(world.path(), Options::default()).unwrap();
    assert!(matches!(client.validate(&validate(&token)), Err(ClientError::TooLarge { limit: 65_536, .. })));
    assert!(client.validate(&validate("good")).unwrap().active);
    block_on(async {
        let client = asynchronous::Client::connect(world.path(), Options::default()).await.unwrap();
        assert!(matches!(client.validate(&validate(&token)).await, Err(ClientError::TooLarge { .. })));
        assert!(client.validate(&validate("good")).await.unwrap().active);
    });
    assert_eq!(server.counters.broken.load(Ordering::SeqCst), 0);
}

/// A timed-out request's late reply is not taken for the next request's.
#[test]
fn a_late_reply_is_nobody_elses() {
    for kind in [0, 1] {
        let world = World::new();
        let server = world.serve(ServerLimits::default());
        let options = Options { long_timeout: Duration::from_millis(50), ..Options::default() };
        let client = Either::connect(kind, &world.path(), options).unwrap();
        match client {
            Either::Blocking(mut client) => {
                assert!(matches!(client.show(&Handle("gate".into())), Err(ClientError::Timeout(_))));
                server.fake.gate.add_permits(1);
                assert!(client.validate(&validate("good")).unwrap().active);
            }
            Either::Asynchronous(client, runtime) => runtime.block_on(async {
                assert!(matches!(client.show(&Handle("gate".into())).await, Err(ClientError::Timeout(_))));
                server.fake.gate.add_permits(1);
                assert!(client.validate(&validate("good")).await.unwrap().active);
                fake::until("the late one is answered", || server.fake.finished() == 1).await;
                assert!(!client.validate(&validate("bad")).await.unwrap().active);
            }),
        }
    }
}
