//! I5: no bytes at the socket panic, hang or bloat the daemon; bad ones get an error frame and a close.

mod daemon;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use bearerd::codec;
use bearerd::protocol::code::ErrorCode;
use bearerd::protocol::message::{Answer, Ask, ClientHello, Reply, Request, ServerHello, Validate};
use bearerd::protocol::{MAGIC, frame};
use daemon::{Daemon, PATIENCE};

fn hello() -> ClientHello {
    ClientHello { magic: MAGIC, version_min: 1, version_max: 1, flags: 0 }
}

fn framed<T: serde::Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::append(message, &mut bytes);
    bytes
}

fn connect(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn read_frame(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut content = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut content).ok()?;
    Some(content)
}

fn greeted(daemon: &Daemon) -> UnixStream {
    let mut stream = connect(daemon);
    stream.write_all(&framed(&hello())).unwrap();
    let content = read_frame(&mut stream).unwrap();
    let hello: ServerHello = codec::decode(&content).unwrap();
    assert_eq!((hello.magic, hello.version), (MAGIC, 1));
    stream
}

/// Sends bytes after the hello and expects an error frame with this code, then the end.
#[track_caller]
fn breaks(daemon: &Daemon, bytes: &[u8], code: ErrorCode) {
    let mut stream = greeted(daemon);
    stream.write_all(bytes).unwrap();
    let content = read_frame(&mut stream).expect("an error frame");
    let reply: Reply = codec::decode(&content).unwrap();
    let Answer::Error(failure) = reply.body else { panic!("no error") };
    assert_eq!((reply.id, failure.code), (0, code), "{}", failure.message);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "the connection goes on");
}

fn status_request() -> Vec<u8> {
    codec::encode(&Request { id: 7, body: Ask::Status })
}

fn with_length(content: &[u8]) -> Vec<u8> {
    [&u32::try_from(content.len()).unwrap().to_le_bytes(), content].concat()
}

#[test]
fn broken_frames_end_their_connection_and_nothing_else() {
    let daemon = Daemon::start();
    let mut honest = daemon.client();
    breaks(&daemon, &[0, 0, 0, 0], ErrorCode::BadFrame);
    breaks(&daemon, &[1, 0, 1, 0], ErrorCode::FrameTooLarge);
    breaks(&daemon, &[0xFF; 4], ErrorCode::FrameTooLarge);
    breaks(&daemon, &with_length(&[status_request(), vec![0]].concat()), ErrorCode::BadFrame);
    breaks(&daemon, &with_length(&[7, 0xEE, 1]), ErrorCode::BadFrame);
    // The id 7 as an overlong varint.
    breaks(&daemon, &with_length(&[&[0x87, 0x00][..], &status_request()[1..]].concat()), ErrorCode::BadFrame);
    // A vector that claims 2^32 - 1 scopes.
    breaks(&daemon, &with_length(&[7, 0, 1, b'x', 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]), ErrorCode::BadFrame);
    breaks(&daemon, &with_length(&[0xFF; 65_536]), ErrorCode::BadFrame);
    honest.status().unwrap();
}

#[test]
fn a_hello_that_is_none_is_refused() {
    let daemon = Daemon::start();
    for bad in [
        ClientHello { magic: *b"GET / HT", ..hello() },
        ClientHello { version_min: 2, version_max: 9, ..hello() },
        ClientHello { version_min: 9, version_max: 1, ..hello() },
        ClientHello { flags: 1 << 31, ..hello() },
    ] {
        let mut stream = connect(&daemon);
        stream.write_all(&framed(&bad)).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(!rest.is_empty(), "closed without a word: {bad:?}");
    }
    let mut http = connect(&daemon);
    http.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut rest = Vec::new();
    http.read_to_end(&mut rest).unwrap();
    daemon.client().status().unwrap();
}

#[test]
fn frames_split_at_every_byte_are_whole_again() {
    let daemon = Daemon::start();
    let bytes = with_length(&status_request());
    for cut in 1..bytes.len() {
        let mut stream = greeted(&daemon);
        for part in [&bytes[..cut], &bytes[cut..]] {
            stream.write_all(part).unwrap();
            stream.flush().unwrap();
        }
        let reply: Vec<u8> = read_frame(&mut stream).unwrap();
        let reply: Reply = codec::decode(&reply).unwrap();
        assert_eq!(reply.id, 7);
        assert!(matches!(reply.body, Answer::Json(_)));
    }
}

/// Many requests at once are each answered, with their own numbers.
#[test]
fn pipelined_requests_are_all_answered() {
    let daemon = Daemon::start();
    let token = daemon.issue(&["t", "--max-uses", "100"]);
    let mut stream = greeted(&daemon);
    let mut bytes = Vec::new();
    for id in 1..=200u32 {
        let validate = Validate { token: &token, scopes: vec![], audience: None, from: None, note: None, peek: false };
        frame::append(&Request { id, body: Ask::Validate(validate) }, &mut bytes);
    }
    stream.write_all(&bytes).unwrap();
    let mut seen = std::collections::HashSet::new();
    let mut active = 0;
    for _ in 0..200 {
        let content = read_frame(&mut stream).unwrap();
        let reply: Reply = codec::decode(&content).unwrap();
        let Answer::Verdict(verdict) = reply.body else { panic!("no verdict") };
        active += u32::from(verdict.active);
        assert!(seen.insert(reply.id));
    }
    assert_eq!(active, 100);
}

/// A peer that is gone before its answer harms nobody.
#[test]
fn peers_that_leave_are_forgotten() {
    let daemon = Daemon::start();
    let token = daemon.issue(&["t"]);
    let fds = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map(Iterator::count);
    let before = fds();
    for _ in 0..300 {
        let mut stream = greeted(&daemon);
        let validate = Validate { token: &token, scopes: vec![], audience: None, from: None, note: None, peek: false };
        stream.write_all(&framed(&Request { id: 1, body: Ask::Validate(validate) })).unwrap();
    }
    let begun = std::time::Instant::now();
    let now = || -> u64 { daemon.ctl(&["--json", "status"]).exits(0).json()["connections"]["now"].as_u64().unwrap() };
    while now() > 2 {
        assert!(begun.elapsed() < PATIENCE, "connections stay: {}", now());
    }
    if let (Ok(before), Ok(after)) = (before, fds()) {
        assert!(after <= before + 4, "{before} descriptors before, {after} after");
    }
}
