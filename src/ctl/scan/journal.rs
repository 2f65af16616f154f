//! The systemd journal, as journalctl exports it: every field of every entry, so that a token on a command line is found
//! as well as one in a message.

use std::io::{self, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use crate::time::UnixTime;

/// So much of what journalctl says beside its output is kept.
const SAID_MAX: u64 = 4096;

/// A journalctl that runs. It is ended when dropped.
pub(super) struct Journal {
    child: Child,
    pub out: ChildStdout,
    said: Option<JoinHandle<String>>,
}

impl Journal {
    /// Starts it.
    ///
    /// # Errors
    /// When there is none, with what to do.
    pub(super) fn start(since: Option<UnixTime>) -> io::Result<Self> {
        let mut command = Command::new("journalctl");
        command.args(["--no-pager", "--all", "--output=export"]).env("LC_ALL", "C");
        if let Some(since) = since {
            command.arg(format!("--since=@{}", since.as_secs()));
        }
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::new(error.kind(), "there is no journalctl; is systemd on this host?"),
            _ => error,
        })?;
        let out = child.stdout.take().expect("asked for just now");
        let mut err = child.stderr.take().expect("asked for just now");
        // Read beside the output, all of it: a full pipe would hold journalctl up.
        let said = std::thread::spawn(move || {
            let mut said = Vec::new();
            let _ = err.by_ref().take(SAID_MAX).read_to_end(&mut said);
            let _ = io::copy(&mut err, &mut io::sink());
            String::from_utf8_lossy(&said).into_owned()
        });
        Ok(Self { child, out, said: Some(said) })
    }

    /// Waits for its end; the value is what it said.
    ///
    /// # Errors
    /// When it failed.
    pub(super) fn end(mut self) -> io::Result<String> {
        let status = self.child.wait()?;
        let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        if status.success() {
            return Ok(said);
        }
        let why = if said.is_empty() { "it said nothing".to_owned() } else { said };
        Err(io::Error::other(format!("journalctl failed ({status}): {why}")))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Where it has ended already, nothing happens.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
