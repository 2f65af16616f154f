//! The floors: a read and a write, and nothing else, once on tokio (one task a connection, as bearerd does it, with as
//! many threads) and once blocking (one thread a connection, std alone). Each runs in a process of its own, as bearerd
//! does.
//!
//! The first frame of a connection is kept and is the answer to every later one, so that the answers have the length
//! that bearerd's have. Where a request ends is read off its length; its content is not looked at.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener as BlockingListener, UnixStream as BlockingStream};
use std::path::Path;
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// What the first frame is answered by.
const HELLO: [u8; 5] = [1, 0, 0, 0, 1];

/// Serves on tokio until it is killed.
pub fn serve(socket: &Path) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = UnixListener::bind(socket)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                // Who has gone wants no answer.
                let _ = answer(stream).await;
            });
        }
    })
}

async fn answer(mut stream: UnixStream) -> io::Result<()> {
    let mut echo = Echo::new(stream.read_u32_le().await?);
    stream.read_exact(&mut echo.reply[4..]).await?;
    stream.write_all(&HELLO).await?;
    loop {
        let count = stream.read(&mut echo.input[echo.filled..]).await?;
        if count == 0 {
            return Ok(());
        }
        echo.answer(count);
        stream.write_all(&echo.output).await?;
    }
}

/// Serves on threads until it is killed.
pub fn serve_blocking(socket: &Path) -> io::Result<()> {
    let listener = BlockingListener::bind(socket)?;
    loop {
        let (stream, _) = listener.accept()?;
        // Who has gone wants no answer.
        thread::spawn(move || answer_blocking(stream));
    }
}

fn answer_blocking(mut stream: BlockingStream) -> io::Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut echo = Echo::new(u32::from_le_bytes(length));
    stream.read_exact(&mut echo.reply[4..])?;
    stream.write_all(&HELLO)?;
    loop {
        let count = stream.read(&mut echo.input[echo.filled..])?;
        if count == 0 {
            return Ok(());
        }
        echo.answer(count);
        stream.write_all(&echo.output)?;
    }
}

/// What one connection holds.
struct Echo {
    reply: Vec<u8>,
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
}

impl Echo {
    fn new(length: u32) -> Self {
        let mut reply = length.to_le_bytes().to_vec();
        reply.resize(4 + length as usize, 0);
        Self { reply, input: vec![0; 64 * 1024], filled: 0, output: Vec::new() }
    }

    /// Puts an answer for each request that is whole by now in place of the output.
    fn answer(&mut self, count: usize) {
        self.output.clear();
        self.filled += count;
        let mut start = 0;
        while let Some((length, rest)) = self.input[start..self.filled].split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            let Some(&id) = rest[..length.min(rest.len())].first().filter(|_| rest.len() >= length) else { break };
            let from = self.output.len();
            self.output.extend_from_slice(&self.reply);
            self.output[from + 4] = id;
            start += 4 + length;
        }
        self.input.copy_within(start..self.filled, 0);
        self.filled -= start;
    }
}
