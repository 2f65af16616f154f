//! No token in the memory of a process that keeps verdicts (I3). A process of its own, which looks through all of its memory.
//!
//! The text of the token is in that process masked, and plain only in the buffer that is shown to the client and wiped
//! afterwards. A copy that any part of the client library had made would be found: in its buffers, in the cache, on a stack.

mod daemon;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use bearerd::client::blocking::CachedClient;
use bearerd::client::{CacheOptions, Options};
use bearerd::protocol::message::Validate;
use daemon::{Daemon, PATIENCE};
use zeroize::Zeroize;

const MASK: u8 = 0x5a;
/// Shorter pieces are no secret that could be used, and a keyed hash works on 8 bytes at a time.
const PIECE: usize = 12;

fn masked(text: &str) -> Vec<u8> {
    text.bytes().map(|byte| byte ^ MASK).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap()).collect()
}

/// Where a piece of what is masked here stands plain in the memory of this process.
fn found(masked: &[u8]) -> Vec<String> {
    let memory = File::open("/proc/self/mem").unwrap();
    let mut places = Vec::new();
    let mut chunk = vec![0; 1 << 20];
    for line in BufReader::new(File::open("/proc/self/maps").unwrap()).lines().map(Result::unwrap) {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        let mut at = start;
        while at < end {
            let length = chunk.len().min((end - at) as usize);
            // What can't be read (a guard page, a device) holds no token.
            let Ok(count) = memory.read_at(&mut chunk[..length], at) else { break };
            if count == 0 {
                break;
            }
            let pieces = [&masked[..PIECE], &masked[masked.len() - PIECE..]];
            for from in 0..count.saturating_sub(PIECE - 1) {
                let begins = chunk[from] ^ MASK;
                let here = |piece: &[u8]| {
                    begins == piece[0] && chunk[from..from + PIECE].iter().zip(piece).all(|(a, b)| a ^ MASK == *b)
                };
                if here(pieces[0]) || here(pieces[1]) {
                    places.push(line.clone());
                }
            }
            // Pieces that lie across two chunks.
            at += if count == length && at + (count as u64) < end { (count - PIECE + 1) as u64 } else { count as u64 };
        }
    }
    places
}

/// Not a test of its own: the process that keeps a verdict. The token is written to its standard input, masked.
#[test]
fn keeper() {
    let Some(socket) = std::env::var_os("KEEPER_SOCKET") else { return };
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
    let masked = unhex(text.trim());
    let secret = &masked[masked.len() - 43..];
    let client = CachedClient::connect(socket, Options::default(), CacheOptions::default()).unwrap();
    let with_token = |use_it: &mut dyn FnMut(&str)| {
        let mut plain = String::with_capacity(masked.len());
        plain.extend(masked.iter().map(|byte| char::from(byte ^ MASK)));
        use_it(&plain);
        plain.zeroize();
    };
    let mut hits = 0;
    let begun = std::time::Instant::now();
    while hits < 1000 {
        assert!(begun.elapsed() < PATIENCE, "it is not kept");
        with_token(&mut |token| {
            let asked = Validate { token, scopes: vec!["a:b"], audience: None, from: None, note: None, peek: false };
            assert!(client.validate(&asked).unwrap().active);
            hits += usize::from(client.kept(&asked).is_some());
        });
    }
    client.report().unwrap();
    let places = found(secret);
    assert!(places.is_empty(), "the token is in {places:?}");
    // And it would have been found.
    with_token(&mut |token| {
        let copy = token.to_owned();
        assert!(!found(secret).is_empty(), "the search finds nothing");
        drop(copy);
    });
    println!("kept, and not a token");
}

#[test]
fn a_process_that_keeps_verdicts_keeps_no_token() {
    let daemon = Daemon::start();
    let token = daemon.issue(&["t", "--scope", "a:*"]);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["keeper", "--exact", "--nocapture"]).env("KEEPER_SOCKET", daemon.socket());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(hex(&masked(&token)).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("kept, and not a token"), "{said}");
}
