//! The server's streams of answers (I5, I6, I7; `docs/protocol.md`, "Watch"): pushed as they come, held up by nobody but
//! their own reader, and over when the peer, the server or the handler says so.

mod fake;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bearerd::protocol::code::ErrorCode;
use bearerd::server::ServerLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use fake::{ROOT, RULED, RULELESS, Raw, Server, ask_validate, show, until, watch};

/// Tests run both ways of reading: where the kernel refuses pushed descriptors, and where each read looks for them.
fn both_ways() -> [ServerLimits; 2] {
    [true, false].map(|fds_refused_by_kernel| ServerLimits { fds_refused_by_kernel, ..ServerLimits::default() })
}

/// A peer that watches, the answer to come first when it may.
async fn watching(server: &Server, uid: u32) -> Raw {
    let before = server.fake.following();
    let mut peer = server.connect(uid).await;
    peer.send(&watch(9, None)).await;
    until("it watches", || server.fake.following() == before + 1).await;
    peer
}

#[tokio::test(start_paused = true)]
async fn answers_are_pushed_as_they_come_among_others() {
    for limits in both_ways() {
        let server = Server::start(limits);
        let mut peer = watching(&server, RULED).await;
        // It costs no place among the requests in flight, and time alone ends nothing.
        tokio::time::sleep(Duration::from_secs(86_400)).await;
        for round in 1..=3 {
            server.fake.feed.add_permits(1);
            assert_eq!(peer.events().await, (9, round));
            peer.send(&[show(1, "x"), ask_validate(2, "good")].concat()).await;
            peer.expect_verdict(2, true).await;
            assert_eq!(peer.reply().await.id, 1);
        }
        server.fake.feed.add_permits(100);
        for round in 4..=103 {
            assert_eq!(peer.events().await, (9, round));
        }
    }
}

/// A stream that always has more leaves its own connection's requests, and other connections, their turn.
#[tokio::test(start_paused = true)]
async fn a_stream_without_end_holds_nobody_up() {
    for limits in both_ways() {
        let server = Server::start(limits);
        let mut flood = server.connect(RULED).await;
        flood.send(&watch(9, Some(1))).await;
        let mut other = server.connect(1001).await;
        let mut most = 0;
        for id in 10..110 {
            // Its own.
            flood.send(&ask_validate(id, "good")).await;
            let mut between = 0;
            while flood.reply().await.id != id {
                between += 1;
            }
            most = most.max(between);
            let before = server.fake.fed();
            other.send(&ask_validate(id, "good")).await;
            other.expect_verdict(id, true).await;
            let between = server.fake.fed() - before;
            assert!(between <= 2000, "{between} answers of the stream went before one of another peer");
        }
        // What the socket holds, and a turn.
        assert!(most < 20_000, "{most} answers of the stream went before one of the same peer");
    }
}

/// I7: a reader that stands still costs its place and an answer, and is cut off; others go on.
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_read_costs_one_answer_and_is_cut_off() {
    for limits in both_ways() {
        let server = Server::start(limits);
        let mut peer = server.connect(RULED).await;
        let begun = Instant::now();
        peer.send(&watch(9, Some(10_000))).await;
        let mut other = watching(&server, 1001).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        // What the socket takes, and one more; then nothing is asked of the stream.
        let fed = server.fake.fed();
        assert!((2..200).contains(&fed), "{fed}");
        for round in 1..=5 {
            server.fake.feed.add_permits(1);
            assert_eq!(other.events().await, (9, round));
        }
        assert_eq!(server.fake.fed(), fed + 5);
        until("it is cut off", || server.connections() == 1).await;
        assert_eq!((begun.elapsed().as_secs(), server.counters.cut_off.load(Ordering::SeqCst)), (10, 1));
        assert_eq!((server.fake.following(), server.counters.streams.load(Ordering::SeqCst)), (1, 1));
        assert_eq!(server.fake.fed(), fed + 5);
        // It could still have read all that was pushed, whole.
        let mut last = 0;
        let mut bytes = Vec::new();
        let _ = peer.stream.read_to_end(&mut bytes).await;
        while bytes.len() >= 4 {
            let length = 4 + u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
            if bytes.len() < length {
                break;
            }
            bytes.drain(..length);
            last += 1;
        }
        assert_eq!(last, fed - 1, "all but the one that had no room");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_served_as_long_as_it_reads() {
    let server = Server::start(ServerLimits::default());
    let mut peer = server.connect(RULED).await;
    peer.send(&watch(9, Some(10_000))).await;
    let mut bytes = vec![0; 100_000];
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_secs(8)).await;
        peer.stream.read_exact(&mut bytes).await.unwrap();
    }
    assert_eq!(server.counters.cut_off.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_peer() {
    for limits in both_ways() {
        let server = Server::start(limits);
        let gone = watching(&server, RULED).await;
        drop(gone);
        until("its place is free", || server.connections() == 0).await;
        assert_eq!(server.fake.following(), 0);
        // A peer that sends nothing more can't be told from one that is gone; what is in flight it still gets.
        let mut half = watching(&server, RULED).await;
        half.send(&show(1, "gate")).await;
        until("it is in flight", || server.fake.begun() == 1).await;
        half.stream.shutdown().await.unwrap();
        until("the stream is over", || server.fake.following() == 0).await;
        server.fake.gate.add_permits(1);
        assert_eq!(half.reply().await.id, 1);
        assert!(half.frame().await.is_none());
        until("its place is free", || server.connections() == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_over_leaves_the_connection_and_its_place() {
    let server = Server::start(ServerLimits { streams_per_uid: 1, ..ServerLimits::default() });
    let mut peer = server.connect(RULED).await;
    for id in 1..=5 {
        peer.send(&[watch(id, Some(0)), ask_validate(10 * id, "good")].concat()).await;
        peer.expect_verdict(10 * id, true).await;
        until("it is over", || server.fake.following() == 0).await;
    }
    peer.send(&watch(7, None)).await;
    server.fake.feed.add_permits(1);
    assert_eq!(peer.events().await, (7, 1));
}

/// I7.
#[tokio::test(start_paused = true)]
async fn streams_are_counted() {
    let limits = ServerLimits { streams: 3, streams_per_uid: 2, ..ServerLimits::default() };
    let server = Server::start(limits);
    let refuse = async |uid| {
        let mut peer = server.connect(uid).await;
        peer.send(&watch(9, None)).await;
        let (id, failure) = peer.error().await;
        assert_eq!((id, failure.code), (9, ErrorCode::LimitReached), "{failure}");
        // The connection is as it was.
        peer.send(&ask_validate(1, "good")).await;
        peer.expect_verdict(1, true).await;
    };
    let mut first = watching(&server, RULED).await;
    // One on a connection.
    first.send(&watch(10, None)).await;
    let (id, failure) = first.error().await;
    assert_eq!((id, failure.code), (10, ErrorCode::BadRequest));
    let second = watching(&server, RULED).await;
    refuse(RULED).await;
    let _third = watching(&server, 1001).await;
    refuse(1001).await;
    let _root = (watching(&server, ROOT).await, watching(&server, ROOT).await);
    refuse(ROOT).await;
    assert_eq!((server.fake.following(), server.counters.streams.load(Ordering::SeqCst)), (5, 5));
    drop(second);
    until("its place is free", || server.fake.following() == 4).await;
    let _fourth = watching(&server, RULED).await;
    // The one that was refused on the connection of the first has not ended it.
    server.fake.feed.add_permits(5);
    assert_eq!(first.events().await.0, 9);
    // A peer without a rule has one request in flight; a stream is none.
    assert!(server.connect(RULELESS).await.stream.flush().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_streams_at_once() {
    for limits in both_ways() {
        let mut server = Server::start(limits);
        let mut idle = watching(&server, RULED).await;
        let mut flood = server.connect(RULED).await;
        flood.send(&watch(9, Some(100))).await;
        until("both watch", || server.fake.following() == 2).await;
        let stopped = Instant::now();
        server.stop();
        idle.expect_end(ErrorCode::Stopping).await;
        // What was pushed comes whole, and the last word behind it.
        let failure = loop {
            match flood.reply().await {
                reply if reply.id == 9 => {}
                reply => {
                    let bearerd::protocol::message::Answer::Error(failure) = reply.body else { panic!("no error") };
                    break failure;
                }
            }
        };
        assert_eq!(failure.code, ErrorCode::Stopping);
        assert!(flood.frame().await.is_none());
        assert_eq!((&mut server.task).await.unwrap(), 0);
        assert_eq!((stopped.elapsed().as_secs(), server.fake.following()), (0, 0));
    }
}

/// Both clients, against the same server: events as they come, an end that says why, and a client that goes on beside it.
#[tokio::test]
async fn the_clients_follow() {
    use bearerd::client::{Options, asynchronous, blocking};
    use futures_util::StreamExt;

    let mut server = Server::start(ServerLimits::default());
    let client = asynchronous::Client::connect(&server.path, Options::default()).await.unwrap();
    // The first answer of the play needs a permit, too.
    server.fake.feed.add_permits(3);
    let mut watch = client.watch(None).await.unwrap();
    for number in 1..=3 {
        let event = watch.next().await.unwrap().unwrap();
        assert_eq!((event.seq, event.json.as_str(), watch.seq()), (number, "x", number));
    }
    // A future that is dropped loses nothing.
    assert!(tokio::time::timeout(Duration::from_millis(20), watch.next()).await.is_err());
    server.fake.feed.add_permits(1);
    assert_eq!(StreamExt::next(&mut watch).await.unwrap().unwrap().seq, 4);
    assert!(client.validate(&fake::validate("good")).await.unwrap().active);

    let path = server.path.clone();
    let (told, seen) = tokio::sync::oneshot::channel();
    let follower = std::thread::spawn(move || {
        let mut client = blocking::Client::connect(&path, Options::default()).unwrap();
        let mut watch = client.watch(None).unwrap();
        assert_eq!(watch.next().unwrap().unwrap().seq, 1);
        assert!(client.validate(&fake::validate("good")).unwrap().active);
        told.send(()).unwrap();
        let end = watch.next().unwrap().unwrap_err();
        assert!(watch.next().is_none());
        (end.code(), watch.seq())
    });
    until("it watches too", || server.fake.following() == 2).await;
    server.fake.feed.add_permits(1);
    // Whichever of the two gets it: both are fed until the thread has had its own.
    let mut seen = seen;
    loop {
        tokio::select! {
            told = &mut seen => break told.unwrap(),
            event = watch.next() => {
                event.unwrap().unwrap();
                server.fake.feed.add_permits(1);
            }
        }
    }
    server.stop();
    let end = loop {
        if let Err(error) = watch.next().await.unwrap() {
            break error;
        }
    };
    assert_eq!(end.code(), Some(ErrorCode::Stopping), "{end}");
    assert!(watch.next().await.is_none());
    let ended = tokio::task::spawn_blocking(|| follower.join().unwrap()).await.unwrap();
    assert_eq!(ended, (Some(ErrorCode::Stopping), 1));
}
