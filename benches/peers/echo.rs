//! What bearerd is held against: tokio, one task a connection, a read and a write, and nothing else. It runs in a
//! process of its own, as bearerd does, on the same runtime with as many threads.
//!
//! The first frame of a connection is kept and is the answer to every later one, so that the answers have the length
//! that bearerd's have. Where a request ends is read off its length; its content is not looked at.

use std::io;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// Serves until it is killed.
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
    let length = stream.read_u32_le().await?;
    let mut reply = length.to_le_bytes().to_vec();
    reply.resize(4 + length as usize, 0);
    stream.read_exact(&mut reply[4..]).await?;
    stream.write_all(&[1, 0, 0, 0, 1]).await?;
    let (mut input, mut filled) = (vec![0; 64 * 1024], 0);
    let mut output = Vec::new();
    loop {
        let count = stream.read(&mut input[filled..]).await?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        let mut start = 0;
        while let Some((length, rest)) = input[start..filled].split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            let Some(&id) = rest[..length.min(rest.len())].first().filter(|_| rest.len() >= length) else { break };
            let from = output.len();
            output.extend_from_slice(&reply);
            output[from + 4] = id;
            start += 4 + length;
        }
        input.copy_within(start..filled, 0);
        filled -= start;
        stream.write_all(&output).await?;
        output.clear();
    }
}
