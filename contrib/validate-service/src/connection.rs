//! Lines on a connection, each answered with one. Bounded in memory and time; what held a token is wiped.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use zeroize::{Zeroize, Zeroizing};

/// The longest token, and then some.
const LINE_MAX: usize = 1100;
/// Longest wait for a line.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers until the other side ends, waits too long, or sends too long a line.
pub fn serve(mut stream: UnixStream, answer: impl Fn(&[u8]) -> String) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut bytes = Zeroizing::new([0; LINE_MAX]);
    let mut filled = 0;
    loop {
        let Some(end) = bytes[..filled].iter().position(|&byte| byte == b'\n') else {
            if filled == LINE_MAX {
                return stream.write_all(b"denied: the line is too long\n");
            }
            match stream.read(&mut bytes[filled..])? {
                0 => return Ok(()),
                count => filled += count,
            }
            continue;
        };
        let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
        stream.write_all(answer(line).as_bytes())?;
        bytes.copy_within(end + 1..filled, 0);
        bytes[filled - end - 1..filled].zeroize();
        filled -= end + 1;
    }
}
