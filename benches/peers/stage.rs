//! What is measured: a real bearerd, the echoes, and the peers that are installed, each a process of its own, in
//! temporary directories.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use bearerd::client::Options;
use bearerd::client::blocking::Client;

use crate::common::server::{self, Server, Sink};
use crate::rivals::Rivals;

/// Everything that runs beside the load, gone when dropped.
pub struct Stage {
    pub bearerd: Server,
    pub echo: Server,
    pub blocking_echo: Server,
    pub rivals: Rivals,
    pub sink: Sink,
    /// On the disk that the benchmark was built on.
    files: tempfile::TempDir,
    /// Where sockets have short names.
    sockets: tempfile::TempDir,
}

impl Stage {
    /// Starts all.
    pub fn set(program: &Path) -> io::Result<Self> {
        let (files, sockets) = places()?;
        let sink = Sink::open(&sockets.path().join("log"))?;
        let socket = sockets.path().join("run/bearerd.sock");
        let config = server::configure(files.path(), &socket, Some(&sockets.path().join("log")))?;
        let said = |name: &str| files.path().join(format!("{name}.stderr"));
        let bearerd = Server::start(server::bearerd(program, &config), socket, &said("bearerd"))?;
        let tokio_echo = start_echo(crate::ECHO, sockets.path().join("echo.sock"), &said("echo"))?;
        let blocking_echo = start_echo(crate::BLOCKING_ECHO, sockets.path().join("blocking.sock"), &said("blocking"))?;
        let rivals = Rivals::start(files.path(), sockets.path());
        Ok(Self { bearerd, echo: tokio_echo, blocking_echo, rivals, sink, files, sockets })
    }

    /// A directory on the disk of the store.
    pub fn files(&self) -> &Path {
        self.files.path()
    }

    /// Where further sockets may stand.
    pub fn sockets(&self) -> &Path {
        self.sockets.path()
    }
}

/// This program again, as one of the echoes.
fn start_echo(which: &str, socket: PathBuf, said: &Path) -> io::Result<Server> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(which).arg(&socket);
    Server::start(command, socket, said)
}

/// A directory on the disk that the benchmark was built on, and one where sockets have short names.
pub fn places() -> io::Result<(tempfile::TempDir, tempfile::TempDir)> {
    let files = tempfile::Builder::new().prefix("peers-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let sockets = tempfile::Builder::new().prefix("bearerd-peers-").tempdir()?;
    Ok((files, sockets))
}

/// What `bearerctl status --json` shows.
pub fn status(bearerd: &Server) -> io::Result<serde_json::Value> {
    let mut client = Client::connect(&bearerd.socket, Options::default()).map_err(io::Error::other)?;
    let status = client.status().map_err(io::Error::other)?;
    serde_json::from_str(&status).map_err(io::Error::other)
}
