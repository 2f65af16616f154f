//! What a hostile look at kept verdicts, their reports and the quick ways found: each as the smallest thing that showed it.

mod daemon;
mod fake;
mod within;

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bearerd::client::blocking::CachedClient;
use bearerd::client::{CacheOptions, Options};
use bearerd::codec;
use bearerd::protocol::code::Reason;
use bearerd::protocol::message::{Answer, Ask, Cacheable, ClientHello, Request, UseReport, Validate};
use bearerd::protocol::{FLAG_PAGE, MAGIC, REPORTS_MAX, quick};
use bearerd::server::ServerLimits;
use bearerd::time::UnixTime;
use daemon::Daemon;
use fake::{RULED, Server, ask_validate, framed};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use within::{DAY, HOUR, START, User, Within, handle_of, named};

fn ask<'a>(token: &'a str, scopes: &[&'a str]) -> Validate<'a> {
    Validate { token, scopes: scopes.to_vec(), audience: None, from: None, note: None, peek: false }
}

async fn kept(user: &User, token: &str) -> Cacheable {
    match user.ask(Ask::Validate(ask(token, &[]))).await {
        Answer::Stamped(stamped) => stamped.cache.expect("it may be kept"),
        _ => panic!("another answer"),
    }
}

/// I2, I8: a token that is issued while the clock stands ahead has not begun when that is taken back; a cache went on
/// granting it until its expiry, years ahead. (What nobody but the clock takes back, the next beat of the page says.)
#[tokio::test]
async fn what_was_issued_ahead_of_the_time_is_kept_by_nobody_once_it_is_taken_back() {
    let within = Within::start("");
    let root = within.root();
    root.keeps();
    within.hands.set(|hands| hands.wall = START.saturating_add(10 * 365 * DAY));
    let token = root.token(named("ahead")).await;
    let cache = kept(&root, &token).await;
    assert_eq!(cache.generation, within.store.epoch());
    within.hands.set(|hands| hands.wall = START);
    assert!(matches!(root.ask(Ask::ClockReset).await, Answer::Time(START)));
    let Answer::Stamped(now) = root.ask(Ask::Validate(ask(&token, &[]))).await else { panic!("another answer") };
    assert_eq!(now.verdict.reason, Some(Reason::NotYetValid));
    assert_ne!(cache.generation, within.store.epoch(), "and a cache says that it is good");
    within.stop().await;
}

/// I4: a ticket does not lapse, and with it a peer could have the trail say of any later time that a token which had ended
/// was used.
#[tokio::test]
async fn no_use_is_claimed_of_the_time_after_the_end() {
    let within = Within::start("");
    let root = within.root();
    root.keeps();
    let token = root.token(named("ended")).await;
    let id = handle_of(&token);
    let ticket = kept(&root, &token).await.ticket;
    within.hands.pass(HOUR);
    root.revoke(&[id]).await.unwrap();
    let ended = within.now();
    within.hands.pass(DAY);
    let (first, last) = (within.now(), within.now());
    let report = UseReport { ticket: &ticket, count: 3, first, last };
    assert!(matches!(root.ask(Ask::ReportUses(vec![report])).await, Answer::Reported));
    let lines = within.lines(id, "use").await;
    let told = lines.iter().find(|line| line["cached"] == true).unwrap();
    let at = |key: &str| told[key].as_str().unwrap().parse::<UnixTime>().unwrap();
    assert!(at("first") <= at("last") && at("last") <= ended, "{told}");
    assert_eq!(told["count"], 3, "what is told is not thrown away");
    within.stop().await;
}

/// The separators of a question's parts were those of empty ones: `scope=+x`, split at its space, was the question for the
/// service `x` without any scope.
#[test]
fn a_question_that_the_daemon_refuses_is_never_a_hit() {
    let daemon = Daemon::start();
    let token = daemon.issue(&["t"]);
    let options = CacheOptions { report_every: HOUR, ..CacheOptions::default() };
    let client = CachedClient::connect(daemon.socket(), Options::default(), options).unwrap();
    let granted = Validate { audience: Some("x"), ..ask(&token, &[]) };
    let patience = Instant::now() + daemon::PATIENCE;
    while client.kept(&granted).is_none() {
        assert!(client.validate(&granted).unwrap().active);
        assert!(Instant::now() < patience, "it is not kept");
    }
    let other = ask(&token, &["", "x"]);
    assert!(client.kept(&other).is_none(), "a scope that the token has not");
    assert!(client.validate(&other).is_err());
}

/// I7: a request with many reports was one of the 256 that go before other connections' turn, and 65,536 reports went.
#[tokio::test(start_paused = true)]
async fn a_flood_of_reports_leaves_others_their_turn() {
    const FLOOD: u32 = 3000;
    let server = Server::start(ServerLimits::default());
    let mut flood = server.connect(RULED).await;
    let mut other = server.connect(1001).await;
    let report = UseReport { ticket: b"", count: 1, first: UnixTime::EPOCH, last: UnixTime::EPOCH };
    let reports = || Ask::ReportUses(vec![report; REPORTS_MAX]);
    let frames: Vec<u8> = (1..=FLOOD).flat_map(|id| framed(&Request { id, body: reports() })).collect();
    let (mut reads, mut writes) = flood.stream.split();
    let mut bytes = vec![0; 1 << 16];
    let finished = || server.fake.finished.load(Ordering::SeqCst);
    let reading = async {
        while finished() < FLOOD as usize {
            let _ = tokio::time::timeout(Duration::from_millis(1), reads.read(&mut bytes)).await;
        }
    };
    let asking = async {
        for id in 1..=50 {
            let before = finished();
            other.send(&ask_validate(id, "good")).await;
            other.expect_verdict(id, true).await;
            let between = finished() - before;
            assert!(between <= 16, "{between} requests of many reports went before one of another peer");
        }
    };
    let (written, (), ()) = tokio::join!(writes.write_all(&frames), reading, asking);
    written.unwrap();
}

/// I7: a file that was handed over and not read is in flight, also when the daemon has closed, and the kernel counts those
/// of all peers together: whoever left enough of them took the page from everybody else.
#[test]
fn who_leaves_the_page_unread_keeps_its_place() {
    let daemon = Daemon::start();
    let mut admin = daemon.client();
    let mut now = || {
        let status: serde_json::Value = serde_json::from_str(&admin.status().unwrap()).unwrap();
        status["connections"]["now"].as_u64().unwrap()
    };
    assert_eq!(now(), 1);
    let peer = UnixStream::connect(daemon.socket()).unwrap();
    let hello = ClientHello { magic: MAGIC, version_min: 1, version_max: 1, flags: FLAG_PAGE };
    (&peer).write_all(&framed(&hello)).unwrap();
    let wait = |events| {
        let timeout = PollTimeout::try_from(daemon::PATIENCE).unwrap();
        assert_eq!(poll(&mut [PollFd::new(peer.as_fd(), events)], timeout).unwrap(), 1);
    };
    wait(PollFlags::POLLIN);
    // It breaks the protocol, and is left.
    (&peer).write_all(&framed(&hello)).unwrap();
    wait(PollFlags::POLLHUP);
    for _ in 0..50 {
        assert_eq!(now(), 2, "its place is free, and the page is still in flight");
    }
    drop(peer);
    let patience = Instant::now() + daemon::PATIENCE;
    while now() != 1 {
        assert!(Instant::now() < patience, "its place is kept for nothing");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What numbers of all kinds come from: splitmix64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// The quick decoder of requests against the strict one, over requests that were damaged in several places: whatever one
/// takes the other takes, as the same. `BEARERD_FUZZ` = how many.
#[test]
fn the_quick_decoder_is_the_strict_one() {
    let cases = std::env::var("BEARERD_FUZZ").map_or(30_000, |cases| cases.parse().unwrap());
    let long = "s".repeat(200);
    let full = Validate {
        scopes: vec!["a", "é:b", &long],
        audience: Some("forge"),
        from: Some("2001:db8::1".parse().unwrap()),
        note: Some("n"),
        peek: true,
        ..ask("brdm_x", &[])
    };
    let plain = Validate { from: Some("192.0.2.1".parse().unwrap()), ..ask("brdm_x", &["a"]) };
    let bodies = || {
        [
            Ask::Validate(full.clone()),
            Ask::Validate(plain.clone()),
            Ask::Validate(ask("", &[])),
            Ask::ValidateBatch(vec![plain.clone(), full.clone(), ask("", &[])]),
            Ask::ValidateBatch(Vec::new()),
            Ask::Status,
        ]
    };
    let ids = [1, 0x7f, 0x80, 0x3fff, 0x4000, u32::MAX];
    let seeds: Vec<Vec<u8>> =
        ids.iter().flat_map(|&id| bodies().map(|body| codec::encode(&Request { id, body }))).collect();
    let telling = [0, 1, 2, 0x7f, 0x80, 0x81, 0xff, 0x0f, 0x10, 0xc0, 0xed];
    let mut numbers = Numbers(7);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..cases {
        let mut content = seeds[numbers.below(seeds.len())].clone();
        for _ in 0..1 + numbers.below(4) {
            let at = numbers.below(content.len() + 1);
            let byte = match numbers.below(2) {
                0 => telling[numbers.below(telling.len())],
                _ => numbers.next() as u8,
            };
            match numbers.below(6) {
                0 => content.insert(at, byte),
                1 if at < content.len() => drop(content.remove(at)),
                2 => content.truncate(at),
                // A number in a longer form.
                3 if at < content.len() => {
                    content[at] |= 0x80;
                    content.insert(at + 1, byte & 1);
                }
                _ if at < content.len() => content[at] = byte,
                _ => content.push(byte),
            }
        }
        match (quick::request(&content), codec::decode::<Request<'_>>(&content)) {
            (Ok(one), Ok(other)) => {
                taken += 1;
                assert_eq!(codec::encode(&one), content);
                assert_eq!(codec::encode(&other), content);
            }
            (Err(one), Err(other)) => {
                refused += 1;
                assert_eq!(one, other, "{content:?}");
            }
            (one, other) => panic!("{} and {}: {content:?}", one.is_ok(), other.is_ok()),
        }
    }
    assert!(taken > cases / 100 && refused > cases / 100, "{taken} taken, {refused} refused");
}
