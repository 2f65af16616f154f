//! The server against peers of every kind (I5, I6, I7; `docs/protocol.md`), over real sockets.
//!
//! Deadlines are tested with tokio's time standing still: it moves only when nothing else can.

mod fake;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bearerd::codec;
use bearerd::protocol::code::ErrorCode;
use bearerd::protocol::message::{Answer, Ask, ClientHello, Issue, Request};
use bearerd::protocol::{MAGIC, REPLY_MAX, REQUEST_MAX};
use bearerd::server::ServerLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use fake::{ROOT, RULED, RULELESS, Raw, Server, ask_validate, framed, hello, show, until};

/// Tests run both ways of reading: where the kernel refuses pushed descriptors, and where each read looks for them.
fn both_ways() -> [ServerLimits; 2] {
    [true, false].map(|fds_refused_by_kernel| ServerLimits { fds_refused_by_kernel, ..ServerLimits::default() })
}

/// `docs/protocol.md`, "Hello".
#[tokio::test(start_paused = true)]
async fn hello_both_ways() {
    let server = Server::start(ServerLimits::default());
    let mut peer = server.connect_silent(RULED).await;
    peer.send(&hello()).await;
    let greeting = peer.hello().await;
    assert_eq!((greeting.magic, greeting.version, greeting.flags), (MAGIC, 1, 0));
    assert_eq!((greeting.request_max, greeting.in_flight_max, greeting.batch_max), (65_536, 256, 256));
    assert_eq!(greeting.boottime_micros, 1_234_567);
    let mut peer = server.connect_silent(RULELESS).await;
    peer.send(&hello()).await;
    assert_eq!(peer.hello().await.in_flight_max, 1);
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_asks_for_something_unknown_is_refused() {
    let good = || ClientHello { magic: MAGIC, version_min: 1, version_max: 1, flags: 0 };
    let mut trailing = codec::encode(&good());
    trailing.push(0);
    let with_length = |content: &[u8]| [&(content.len() as u32).to_le_bytes()[..], content].concat();
    let cases = [
        (framed(&ClientHello { magic: *b"GET / HT", ..good() }), ErrorCode::Unsupported),
        (framed(&ClientHello { version_min: 2, version_max: 9, ..good() }), ErrorCode::Unsupported),
        (framed(&ClientHello { version_min: 0, version_max: 0, ..good() }), ErrorCode::Unsupported),
        (framed(&ClientHello { version_min: 9, version_max: 0, ..good() }), ErrorCode::Unsupported),
        (framed(&ClientHello { flags: 2, ..good() }), ErrorCode::Unsupported),
        (with_length(&trailing), ErrorCode::BadFrame),
        (with_length(&codec::encode(&good())[..10]), ErrorCode::BadFrame),
        (vec![0, 0, 0, 0], ErrorCode::BadFrame),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), ErrorCode::FrameTooLarge),
    ];
    let server = Server::start(ServerLimits::default());
    for (bytes, code) in cases {
        let mut peer = server.connect_silent(RULED).await;
        peer.send(&bytes).await;
        peer.expect_refusal(code).await;
        assert_eq!(server.fake.refused.lock().unwrap().pop(), Some((RULED, code)));
    }
    // A wider range is fine, as a later client would send.
    let mut peer = server.connect_silent(RULED).await;
    peer.send(&framed(&ClientHello { version_min: 0, version_max: 7, ..good() })).await;
    assert_eq!(peer.hello().await.version, 1);
}

#[tokio::test(start_paused = true)]
async fn frames_may_be_cut_at_any_byte() {
    let conversation = [hello(), ask_validate(1, "good"), ask_validate(2, "bad"), show(3, "x"), show(4, "y")].concat();
    for limits in both_ways() {
        let server = Server::start(limits);
        for cut in 0..=conversation.len() {
            let mut peer = server.connect_silent(RULED).await;
            peer.send(&conversation[..cut]).await;
            // The server reads the first part alone.
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            peer.send(&conversation[cut..]).await;
            expect_conversation(&mut peer).await;
        }
        // One byte each time.
        let mut peer = server.connect_silent(RULED).await;
        for byte in &conversation {
            peer.send(&[*byte]).await;
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
        }
        expect_conversation(&mut peer).await;
    }
}

async fn expect_conversation(peer: &mut Raw) {
    assert_eq!(peer.hello().await.version, 1);
    peer.expect_verdict(1, true).await;
    peer.expect_verdict(2, false).await;
    let mut shown = [peer.reply().await.id, peer.reply().await.id];
    shown.sort_unstable();
    assert_eq!(shown, [3, 4]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_frame_ends_the_connection_with_its_reason() {
    let with_length = |content: &[u8]| [&(content.len() as u32).to_le_bytes()[..], content].concat();
    let mut trailing = codec::encode(&Request { id: 1, body: Ask::Status });
    trailing.push(0);
    let cases = [
        ("empty", vec![0, 0, 0, 0], ErrorCode::BadFrame),
        ("oversized", (REQUEST_MAX as u32 + 1).to_le_bytes().to_vec(), ErrorCode::FrameTooLarge),
        ("4 GiB", vec![0xFF; 4], ErrorCode::FrameTooLarge),
        ("trailing byte", with_length(&trailing), ErrorCode::BadFrame),
        ("overlong varint", with_length(&[0x81, 0x00, 6]), ErrorCode::BadFrame),
        ("unknown request", with_length(&[1, 11]), ErrorCode::BadFrame),
        ("cut", with_length(&[1, 4, 5, b'a']), ErrorCode::BadFrame),
        ("length beyond the frame", with_length(&[1, 4, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]), ErrorCode::BadFrame),
        ("a million tokens in a batch", with_length(&[1, 1, 0xC0, 0x84, 0x3D]), ErrorCode::BadFrame),
        ("not UTF-8", with_length(&[1, 4, 1, 0xFF]), ErrorCode::BadFrame),
        ("number 0", with_length(&[0, 6]), ErrorCode::BadFrame),
    ];
    for limits in both_ways() {
        let server = Server::start(limits);
        let mut bystander = server.connect(RULED).await;
        for (name, bytes, code) in &cases {
            let mut peer = server.connect(1001).await;
            // What came before it is answered, what comes after it is not.
            peer.send(&[&ask_validate(7, "good")[..], bytes, &ask_validate(8, "good")].concat()).await;
            peer.expect_verdict(7, true).await;
            let failure = peer.expect_end(*code).await;
            assert!(!failure.message.is_empty(), "{name}");
            assert_eq!(server.fake.refused.lock().unwrap().pop(), Some((1001, *code)), "{name}");
            bystander.send(&ask_validate(1, "good")).await;
            bystander.expect_verdict(1, true).await;
        }
        assert_eq!(server.counters.broken.load(Ordering::SeqCst), cases.len() as u64);
        until("their places are free", || server.connections() == 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_largest_frame_is_taken() {
    for limits in both_ways() {
        let server = Server::start(limits);
        let mut peer = server.connect(RULED).await;
        let overhead = codec::encode(&Request { id: 1, body: Ask::Validate(fake::validate("")) }).len() + 2;
        let token = format!("good{}", "x".repeat(REQUEST_MAX - overhead - 4));
        let frame = ask_validate(1, &token);
        assert_eq!(frame.len(), 4 + REQUEST_MAX);
        peer.send(&[frame, ask_validate(2, "good")].concat()).await;
        peer.expect_verdict(1, true).await;
        peer.expect_verdict(2, true).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_begun_must_be_whole_in_five_seconds() {
    for limits in both_ways() {
        let server = Server::start(limits);
        // Silence before the hello, and half of one.
        for bytes in [&[][..], &hello()[..9]] {
            let begun = Instant::now();
            let mut peer = server.connect_silent(RULED).await;
            peer.send(bytes).await;
            peer.expect_refusal(ErrorCode::TooSlow).await;
            assert_eq!(begun.elapsed().as_secs(), 5);
        }
        // Between frames there is no deadline.
        let mut peer = server.connect(RULED).await;
        tokio::time::advance(Duration::from_secs(86_400)).await;
        peer.send(&ask_validate(1, "good")).await;
        peer.expect_verdict(1, true).await;
        // It counts from the first byte, however steadily the others come.
        let begun = Instant::now();
        for byte in &ask_validate(2, "good")[..4] {
            peer.send(&[*byte]).await;
            tokio::time::sleep(Duration::from_millis(1200)).await;
        }
        peer.expect_end(ErrorCode::TooSlow).await;
        assert_eq!(begun.elapsed().as_secs(), 5);
        // The next frame's time is its own.
        let mut peer = server.connect(RULED).await;
        for id in 1..4 {
            let frame = ask_validate(id, "good");
            peer.send(&frame[..5]).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            peer.send(&frame[5..]).await;
            peer.expect_verdict(id, true).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn many_requests_in_flight_and_those_beyond_wait_in_the_socket() {
    for limits in both_ways() {
        let server = Server::start(limits);
        let mut peer = server.connect(RULED).await;
        for id in 1..=300 {
            peer.send(&show(id, "gate")).await;
        }
        until("256 are in flight", || server.fake.begun() == 256).await;
        // Nothing is read meanwhile, not even what could be answered at once; and that is not the peer's slowness.
        peer.send(&ask_validate(301, "good")).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((server.fake.begun(), server.fake.answered_now.load(Ordering::SeqCst)), (256, 0));
        server.fake.gate.add_permits(300);
        let mut ids = Vec::new();
        for _ in 0..301 {
            ids.push(peer.reply().await.id);
        }
        ids.sort_unstable();
        assert_eq!(ids, (1..=301).collect::<Vec<u32>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_quick_answer_overtakes_a_slow_one() {
    let server = Server::start(ServerLimits::default());
    let mut peer = server.connect(RULED).await;
    peer.send(&[show(1, "gate"), ask_validate(2, "good"), show(3, "x")].concat()).await;
    peer.expect_verdict(2, true).await;
    assert_eq!(peer.reply().await.id, 3);
    server.fake.gate.add_permits(1);
    assert_eq!(peer.reply().await.id, 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_costs_bounded_memory_and_is_cut_off() {
    for limits in both_ways() {
        let server = Server::start(limits);
        let mut peer = server.connect(RULED).await;
        let begun = Instant::now();
        let mut id = 0;
        // Each asks for 64 KiB; the peer writes as long as it is let.
        let mut ask = async |patience| {
            loop {
                id += 1;
                let frame = show(id, "big 65000");
                let sent = peer.stream.write_all(&frame);
                match tokio::time::timeout(Duration::from_secs(patience), sent).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return true,
                    Err(_) => return false,
                }
            }
        };
        assert!(!ask(5).await, "it is not cut off at once");
        // 1 MiB, and what the socket holds; the requests in flight beyond that have not been begun.
        assert!((16..24).contains(&server.fake.begun()), "{}", server.fake.begun());
        assert!(ask(30).await, "cut off");
        assert_eq!((begun.elapsed().as_secs(), server.counters.cut_off.load(Ordering::SeqCst)), (10, 1));
        until("its place is free", || server.connections() == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_served_as_long_as_it_reads() {
    let server = Server::start(ServerLimits::default());
    let mut peer = server.connect(RULED).await;
    for id in 1..=40 {
        peer.send(&show(id, "big 200000")).await;
    }
    let mut bytes = vec![0; 100_000];
    for _ in 0..80 {
        tokio::time::sleep(Duration::from_secs(8)).await;
        peer.stream.read_exact(&mut bytes).await.unwrap();
    }
    assert_eq!(server.counters.cut_off.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_too_long_is_a_failure_that_says_what_to_do() {
    let server = Server::start(ServerLimits::default());
    let mut peer = server.connect(RULED).await;
    let fits = REPLY_MAX - 1 - 1 - 4;
    peer.send(&show(1, &format!("big {fits}"))).await;
    assert!(matches!(peer.reply().await.body, Answer::Json(text) if text.len() == fits));
    peer.send(&show(2, &format!("big {}", fits + 1))).await;
    let (id, failure) = peer.error().await;
    assert_eq!((id, failure.code), (2, ErrorCode::Internal));
    assert!(failure.message.contains("ask for fewer"), "{failure}");
    peer.send(&ask_validate(3, "good")).await;
    peer.expect_verdict(3, true).await;
}

/// I7: what one uid leaves unread over all its connections is bounded, and another uid does not notice.
#[tokio::test(start_paused = true)]
async fn what_one_uid_leaves_unread_is_bounded_over_its_connections() {
    let limits = ServerLimits { uid_bytes: 4 * 1024 * 1024, ..ServerLimits::default() };
    let server = Server::start(limits);
    let mut greedy = Vec::new();
    for _ in 0..8 {
        let mut peer = server.connect(RULED).await;
        for id in 1..=4 {
            peer.send(&show(id, "big 1000000")).await;
        }
        greedy.push(peer);
    }
    let mut other = server.connect(1001).await;
    other.send(&show(1, "big 1000000")).await;
    assert!(matches!(other.reply().await.body, Answer::Json(_)));
    // All are answered, one way or the other.
    let (mut whole, mut refused) = (0, 0);
    for peer in &mut greedy {
        for _ in 1..=4 {
            match peer.reply().await.body {
                Answer::Json(_) => whole += 1,
                Answer::Error(failure) if failure.code == ErrorCode::LimitReached => refused += 1,
                _ => panic!("another answer"),
            }
        }
    }
    assert!(whole >= 4 && refused >= 4, "{whole} {refused}");
    // What was read is free again.
    greedy[0].send(&show(9, "big 1000000")).await;
    assert!(matches!(greedy[0].reply().await.body, Answer::Json(_)));
}

#[tokio::test(start_paused = true)]
async fn after_a_half_close_what_is_in_flight_is_answered() {
    for limits in both_ways() {
        let server = Server::start(limits);
        let mut peer = server.connect(RULED).await;
        peer.send(&[show(1, "gate"), ask_validate(2, "good"), ask_validate(3, "x")[..5].to_vec()].concat()).await;
        peer.stream.shutdown().await.unwrap();
        peer.expect_verdict(2, true).await;
        server.fake.gate.add_permits(1);
        assert_eq!(peer.reply().await.id, 1);
        assert!(peer.frame().await.is_none());
        until("its place is free", || server.connections() == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_asked_for_is_finished_when_it_goes_away() {
    let server = Server::start(ServerLimits::default());
    let mut peer = server.connect(RULED).await;
    peer.send(&show(1, "gate")).await;
    until("it is in flight", || server.fake.begun() == 1).await;
    drop(peer);
    // It keeps its place until then: coming back does not get round the limits.
    let mut other = server.connect(RULED).await;
    other.send(&ask_validate(1, "good")).await;
    other.expect_verdict(1, true).await;
    assert_eq!((server.connections(), server.fake.finished()), (2, 0));
    server.fake.gate.add_permits(1);
    until("it is finished", || server.fake.finished() == 1).await;
    until("its place is free", || server.connections() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_never_ends_is_given_up_some_time_after_its_peer_went_away() {
    let server = Server::start(ServerLimits::default());
    let mut peer = server.connect(RULED).await;
    peer.send(&show(1, "gate")).await;
    until("it is in flight", || server.fake.begun() == 1).await;
    drop(peer);
    let gone = Instant::now();
    until("its place is free", || server.connections() == 0).await;
    assert_eq!((gone.elapsed().as_secs(), server.fake.finished()), (30, 0));
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_one_connection_and_gives_its_place_back() {
    let server = Server::start(ServerLimits { max_connections_per_uid: 2, ..ServerLimits::default() });
    let mut other = server.connect(RULED).await;
    for _ in 0..5 {
        let mut peer = server.connect(RULED).await;
        peer.send(&[show(1, "gate"), show(2, "panic")].concat()).await;
        assert!(peer.frame().await.is_none());
        until("its place is free", || server.connections() == 1).await;
    }
    other.send(&ask_validate(1, "good")).await;
    other.expect_verdict(1, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_over_one_peer_does_not_close_the_door() {
    let server = Server::start(ServerLimits::default());
    let mut peer = server.connect_silent(fake::PANICS).await;
    assert!(peer.frame().await.is_none());
    let mut other = server.connect(RULED).await;
    other.send(&ask_validate(1, "good")).await;
    other.expect_verdict(1, true).await;
    assert_eq!(server.connections(), 1);
}

/// I7.
#[tokio::test(start_paused = true)]
async fn one_uid_cannot_take_all_connections() {
    let limits = ServerLimits {
        max_connections: 12,
        max_connections_per_uid: 8,
        extra_full: 2,
        ruleless_connections: 3,
        ruleless_per_uid: 2,
        kept_from_ruleless: 4,
        ..ServerLimits::default()
    };
    let server = Server::start(limits);
    let refuse = async |uid| {
        server.connect_silent(uid).await.expect_refusal(ErrorCode::TooManyConnections).await;
        assert_eq!(server.fake.refused.lock().unwrap().pop(), Some((uid, ErrorCode::TooManyConnections)));
    };
    // No rule: two each, three in all.
    let mut ruleless = vec![server.connect(RULELESS).await, server.connect(RULELESS).await];
    refuse(RULELESS).await;
    ruleless.push(server.connect(RULELESS + 1).await);
    refuse(RULELESS + 2).await;
    // Eight each, twelve in all.
    let mut ruled = Vec::new();
    for _ in 0..8 {
        ruled.push(server.connect(RULED).await);
    }
    refuse(RULED).await;
    drop(ruleless.pop());
    until("a place is free", || server.connections() == 10).await;
    refuse(RULELESS + 1).await; // the last four are not for it
    let mut others = vec![server.connect(1001).await, server.connect(1001).await];
    refuse(1001).await;
    // Root always gets in.
    let mut root = server.connect(ROOT).await;
    root.send(&ask_validate(1, "good")).await;
    root.expect_verdict(1, true).await;
    let _another = server.connect(ROOT).await;
    refuse(ROOT).await;
    assert_eq!(server.counters.refused.load(Ordering::SeqCst), 6);
    // Those who were in are served all the while, and what is given back can be had.
    for peer in ruleless.iter_mut().chain(&mut ruled).chain(&mut others) {
        peer.send(&ask_validate(5, "good")).await;
        peer.expect_verdict(5, true).await;
    }
    ruled.truncate(5);
    until("places are free", || server.connections() == 11).await;
    ruled.push(server.connect(RULED).await);
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_a_rule_has_one_request_in_flight() {
    let server = Server::start(ServerLimits::default());
    let mut peer = server.connect(RULELESS).await;
    peer.send(&[show(1, "gate"), show(2, "gate"), ask_validate(3, "good")].concat()).await;
    until("one is in flight", || server.fake.begun() == 1).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((server.fake.begun(), server.fake.answered_now.load(Ordering::SeqCst)), (1, 0));
    for id in 1..=2 {
        server.fake.gate.add_permits(1);
        assert_eq!(peer.reply().await.id, id);
    }
    peer.expect_verdict(3, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_reloaded_policy_counts_for_connections_that_are_open() {
    let server = Server::start(ServerLimits { ruleless_per_uid: 1, ..ServerLimits::default() });
    let mut one = server.connect(RULED).await;
    let mut two = server.connect(RULED).await;
    server.fake.ruleless_from.store(RULED as usize, Ordering::SeqCst);
    one.send(&[show(1, "gate"), show(2, "gate")].concat()).await;
    until("one is in flight", || server.fake.begun() == 1).await;
    assert_eq!(server.counters.ruleless.load(Ordering::SeqCst), 1);
    two.send(&ask_validate(1, "good")).await;
    two.expect_end(ErrorCode::TooManyConnections).await;
    server.fake.ruleless_from.store(RULELESS as usize, Ordering::SeqCst);
    server.fake.gate.add_permits(2);
    assert_eq!([one.reply().await.id, one.reply().await.id], [1, 2]);
    one.send(&[show(3, "gate"), show(4, "gate")].concat()).await;
    until("both are in flight", || server.fake.begun() == 4).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_the_kernel_does_not_name_is_not_served() {
    let server = Server::start(ServerLimits::default());
    let mut peer = server.connect_silent(u32::MAX).await;
    assert!(peer.frame().await.is_none());
    assert_eq!(server.counters.unidentified.load(Ordering::SeqCst), 1);
    let _peer = server.connect(RULED).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_finishes_what_is_in_flight_and_begins_nothing() {
    for limits in both_ways() {
        let mut server = Server::start(limits);
        let mut idle = server.connect(RULED).await;
        let mut busy = server.connect(RULED).await;
        let mut new = server.connect_silent(RULED).await;
        busy.send(&[show(1, "gate"), show(2, "gate")].concat()).await;
        until("they are in flight", || server.fake.begun() == 2).await;
        server.stop();
        idle.expect_end(ErrorCode::Stopping).await;
        new.expect_refusal(ErrorCode::Stopping).await;
        // Sent after the stop: not begun, and the last word says so of all that has no answer.
        busy.send(&ask_validate(3, "good")).await;
        server.fake.gate.add_permits(2);
        let mut ids = [busy.reply().await.id, busy.reply().await.id];
        ids.sort_unstable();
        assert_eq!(ids, [1, 2]);
        busy.expect_end(ErrorCode::Stopping).await;
        assert_eq!(server.fake.answered_now.load(Ordering::SeqCst), 0);
        assert_eq!((&mut server.task).await.unwrap(), 0);
        assert!(tokio::net::UnixStream::connect(&server.path).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn requests_read_but_held_back_at_a_stop_are_answered_that_it_stops() {
    let limits = ServerLimits { in_flight: 1, ..ServerLimits::default() };
    let mut server = Server::start(limits);
    let mut peer = server.connect(RULED).await;
    peer.send(&[show(1, "gate"), show(2, "gate"), ask_validate(3, "good")].concat()).await;
    until("one is in flight", || server.fake.begun() == 1).await;
    server.stop();
    for held_back in [2, 3] {
        let (id, failure) = peer.error().await;
        assert_eq!((id, failure.code), (held_back, ErrorCode::Stopping));
    }
    server.fake.gate.add_permits(1);
    assert_eq!(peer.reply().await.id, 1);
    peer.expect_end(ErrorCode::Stopping).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_ever() {
    let mut server = Server::start(ServerLimits::default());
    let mut stuck = server.connect(RULED).await;
    stuck.send(&show(1, "gate")).await;
    until("it is in flight", || server.fake.begun() == 1).await;
    let stopped = Instant::now();
    server.stop();
    assert_eq!((&mut server.task).await.unwrap(), 1);
    assert_eq!(stopped.elapsed().as_secs(), 5);
    assert_eq!(server.connections(), 0);
    assert!(stuck.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_pipelined_requests_leaves_others_their_turn() {
    let server = Server::start(ServerLimits::default());
    let mut flood = server.connect(RULED).await;
    let mut other = server.connect(1001).await;
    let frames: Vec<u8> = (1..=20_000).flat_map(|id| ask_validate(id, "bad")).collect();
    let (mut reads, mut writes) = flood.stream.split();
    let mut bytes = vec![0; 1 << 16];
    let reading = async {
        let mut seen = 0;
        // Each reply is as long as the other: 4 + id + verdict; count by what is read in all.
        while seen < 20_000 * 10 {
            seen += reads.read(&mut bytes).await.unwrap();
        }
    };
    let asking = async {
        for id in 1..=100 {
            let before = server.fake.answered_now.load(Ordering::SeqCst);
            other.send(&ask_validate(id, "good")).await;
            other.expect_verdict(id, true).await;
            let between = server.fake.answered_now.load(Ordering::SeqCst) - before;
            assert!(between <= 2000, "{between} of the flood's requests went before one of another peer");
        }
    };
    let (written, (), ()) = tokio::join!(writes.write_all(&frames), reading, asking);
    written.unwrap();
}

/// I3: the one reply that delivers a token, then nothing of it stays in the connection's buffers. What can be seen
/// from outside is that it comes whole however it is mixed with others; the wiping is tested in `protocol::buffer`.
#[tokio::test(start_paused = true)]
async fn tokens_are_delivered_among_other_replies() {
    let server = Server::start(ServerLimits::default());
    let mut peer = server.connect(RULED).await;
    let issue = |id| framed(&Request { id, body: Ask::Issue(Issue { name: "x".into(), ..Issue::default() }) });
    let frames: Vec<u8> = (0..50).flat_map(|n| [show(2 * n + 1, "big 3000"), issue(2 * n + 2)].concat()).collect();
    peer.send(&frames).await;
    let (mut tokens, mut others) = (0, 0);
    for _ in 0..100 {
        match peer.reply().await.body {
            Answer::Issued(issued) if issued.token.expose() == fake::SECRET => tokens += 1,
            Answer::Json(text) if text.len() == 3000 => others += 1,
            _ => panic!("another reply"),
        }
    }
    assert_eq!((tokens, others), (50, 50));
}
