//! The protocols that the load speaks, as far as it needs them: bearerd's frames, RESP, and memcached's text protocol.
//!
//! Requests are prebuilt; of an answer only its end is looked for here. Whether it is a good one is compared byte by byte
//! with what is expected, for all protocols alike.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bearerd::codec;
use bearerd::protocol::frame::{self, Direction};
use bearerd::protocol::message::{ClientHello, ServerHello};
use bearerd::protocol::{MAGIC, VERSION};

/// Longest wait for an answer; only a broken peer lets it pass.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Where a request's number stands in its frame: numbers below 128 take one byte.
pub const NUMBER_AT: usize = 4;

/// How requests and answers are put on the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// bearerd's frames, and the echo's: answers carry the request's number and come in any order.
    Frames,
    /// Redis: answers come in order.
    Resp,
    /// memcached's text protocol: answers come in order.
    Memcached,
}

impl Wire {
    /// The first whole answer in `bytes`, and how many bytes it takes.
    ///
    /// # Errors
    /// When the bytes can't be an answer.
    pub fn first(self, bytes: &[u8]) -> io::Result<Option<(&[u8], usize)>> {
        match self {
            Self::Frames => frame::first(bytes, Direction::Reply).map_err(io::Error::other),
            Self::Resp => whole(bytes, resp_length(bytes)?),
            Self::Memcached => whole(bytes, memcached_length(bytes)?),
        }
    }
}

fn whole(bytes: &[u8], length: Option<usize>) -> io::Result<Option<(&[u8], usize)>> {
    Ok(length.and_then(|length| bytes.get(..length)).map(|answer| (answer, answer.len())))
}

/// Bytes of the first line with its end.
fn line(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|pair| pair == b"\r\n").map(|at| at + 2)
}

fn number(digits: &[u8]) -> io::Result<usize> {
    let text = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    text.ok_or_else(|| io::Error::other(format!("no length: {:?}", String::from_utf8_lossy(digits))))
}

/// A line, or `$N` and a value (RESP2); other kinds of answers are not asked for.
fn resp_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(head) = line(bytes) else { return Ok(None) };
    Ok(Some(match bytes[0] {
        b'+' | b'-' | b':' => head,
        b'$' if bytes[1] == b'-' => head,
        b'$' => head + number(&bytes[1..head - 2])? + 2,
        _ => return Err(io::Error::other("not an answer of Redis")),
    }))
}

/// A line, or `VALUE key flags N`, a value and `END`.
fn memcached_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(head) = line(bytes) else { return Ok(None) };
    if !bytes.starts_with(b"VALUE ") {
        return Ok(Some(head));
    }
    let digits = bytes[..head - 2].rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    Ok(Some(head + number(digits)? + 2 + b"END\r\n".len()))
}

/// Whom the load is for.
#[derive(Clone)]
pub enum Target {
    Bearerd(PathBuf),
    /// With what it shall answer.
    Echo(PathBuf, Vec<u8>),
    Redis(PathBuf),
    Memcached(PathBuf),
}

impl Target {
    pub fn path(&self) -> &Path {
        match self {
            Self::Bearerd(path) | Self::Echo(path, _) | Self::Redis(path) | Self::Memcached(path) => path,
        }
    }

    pub fn wire(&self) -> Wire {
        match self {
            Self::Bearerd(_) | Self::Echo(..) => Wire::Frames,
            Self::Redis(_) => Wire::Resp,
            Self::Memcached(_) => Wire::Memcached,
        }
    }

    /// Connects, and says hello where that is the custom.
    ///
    /// # Errors
    /// When nobody is there, or the hello is not taken.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(self.path())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        match self {
            Self::Bearerd(_) => {
                let mut hello = Vec::new();
                frame::append(
                    &ClientHello { magic: MAGIC, version_min: VERSION, version_max: VERSION, flags: 0 },
                    &mut hello,
                );
                stream.write_all(&hello)?;
                let reply = read_frame(&mut stream)?;
                let hello: ServerHello = codec::decode(&reply).map_err(io::Error::other)?;
                if hello.version != VERSION {
                    return Err(io::Error::other("bearerd does not take the hello"));
                }
            }
            Self::Echo(_, reply) => {
                stream.write_all(&u32::try_from(reply.len()).expect("a frame is short").to_le_bytes())?;
                stream.write_all(reply)?;
                read_frame(&mut stream)?;
            }
            Self::Redis(_) | Self::Memcached(_) => {}
        }
        Ok(stream)
    }
}

/// Reads one frame's content, waiting for it.
///
/// # Errors
/// When the peer ends or breaks off.
pub fn read_frame(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = frame::length(&length, Direction::Reply).map_err(io::Error::other)?.expect("four bytes are a length");
    let mut content = vec![0; length];
    stream.read_exact(&mut content)?;
    Ok(content)
}

/// `GET key` of Redis.
pub fn resp_get(key: &str) -> Vec<u8> {
    format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len()).into_bytes()
}

/// `SET key value` of Redis.
pub fn resp_set(key: &str, value: &[u8]) -> Vec<u8> {
    let mut request = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), value.len()).into_bytes();
    request.extend_from_slice(value);
    request.extend_from_slice(b"\r\n");
    request
}

/// What Redis answers to a `GET` that finds this.
pub fn resp_value(value: &[u8]) -> Vec<u8> {
    let mut answer = format!("${}\r\n", value.len()).into_bytes();
    answer.extend_from_slice(value);
    answer.extend_from_slice(b"\r\n");
    answer
}

/// `get key` of memcached.
pub fn memcached_get(key: &str) -> Vec<u8> {
    format!("get {key}\r\n").into_bytes()
}

/// `set key` of memcached: no flags, no end.
pub fn memcached_set(key: &str, value: &[u8]) -> Vec<u8> {
    let mut request = format!("set {key} 0 0 {}\r\n", value.len()).into_bytes();
    request.extend_from_slice(value);
    request.extend_from_slice(b"\r\n");
    request
}

/// What memcached answers to a `get` that finds this.
pub fn memcached_value(key: &str, value: &[u8]) -> Vec<u8> {
    let mut answer = format!("VALUE {key} 0 {}\r\n", value.len()).into_bytes();
    answer.extend_from_slice(value);
    answer.extend_from_slice(b"\r\nEND\r\n");
    answer
}
