//! What is measured: a real bearerd and the echo, each a process of its own, in temporary directories; and what the
//! kernel says that they took.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bearerd::client::Options;
use bearerd::client::blocking::Client;

/// Longest wait for a process to listen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Ticks a second in /proc/PID/stat, on every architecture that Linux runs on.
const USER_HZ: f64 = 100.0;

/// A process that serves on a socket; killed when dropped.
pub struct Server {
    child: Child,
    pub socket: PathBuf,
}

/// Everything that runs beside the load, gone when dropped.
pub struct Stage {
    pub bearerd: Server,
    pub echo: Server,
    pub sink: Sink,
    /// On the disk that the benchmark was built on.
    files: tempfile::TempDir,
    /// Where sockets have short names.
    _sockets: tempfile::TempDir,
}

impl Stage {
    /// Starts both.
    pub fn set(program: &Path) -> io::Result<Self> {
        let files = tempfile::Builder::new().prefix("peers-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let sockets = tempfile::Builder::new().prefix("bearerd-peers-").tempdir()?;
        let sink = Sink::open(&sockets.path().join("log"))?;
        let socket = sockets.path().join("run/bearerd.sock");
        let place = |name: &str| files.path().join(name).display().to_string();
        let config = files.path().join("bearerd.toml");
        fs::write(
            &config,
            format!(
                "[store]\npath = {:?}\n[keys]\nfile = {:?}\n[socket]\npath = {:?}\n\
                 [audit]\nfile = {:?}\nrequired = true\nsyslog = {:?}\n",
                place("state/tokens.redb"),
                place("key/master.key"),
                socket.display().to_string(),
                place("log/audit.log"),
                sockets.path().join("log").display().to_string(),
            ),
        )?;
        let said = files.path().join("bearerd.stderr");
        let mut command = Command::new(program);
        command.arg("--config").arg(&config).stderr(File::create(&said)?);
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS").env_remove("CREDENTIALS_DIRECTORY");
        let bearerd = Server::start(command, socket)
            .map_err(|error| io::Error::other(format!("{error}: {}", fs::read_to_string(&said).unwrap_or_default())))?;
        let socket = sockets.path().join("echo.sock");
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(crate::ECHO).arg(&socket);
        let echo = Server::start(command, socket)?;
        Ok(Self { bearerd, echo, sink, files, _sockets: sockets })
    }

    /// The directory of the store, for the floor that its disk sets.
    pub fn state_dir(&self) -> PathBuf {
        self.files.path().join("state")
    }

    /// What `bearerctl status --json` shows.
    pub fn status(&self) -> io::Result<serde_json::Value> {
        let mut client = Client::connect(&self.bearerd.socket, Options::default()).map_err(io::Error::other)?;
        let status = client.status().map_err(io::Error::other)?;
        serde_json::from_str(&status).map_err(io::Error::other)
    }
}

impl Server {
    fn start(mut command: Command, socket: PathBuf) -> io::Result<Self> {
        let child = command.stdin(Stdio::null()).spawn()?;
        let mut server = Self { child, socket };
        let begun = Instant::now();
        while UnixStream::connect(&server.socket).is_err() {
            if let Some(status) = server.child.try_wait()? {
                return Err(io::Error::other(format!("it ended with {status}")));
            }
            if begun.elapsed() > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time of all its threads so far, user and kernel, in seconds.
    pub fn cpu_secs(&self) -> io::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name in brackets may hold anything; utime and stime are the 12th and 13th after it.
        let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
        let ticks: u64 = after.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(ticks as f64 / USER_HZ)
    }

    /// Resident memory, in KiB.
    pub fn resident_kib(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        Ok(line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or_default())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A syslog socket that somebody reads, as journald would.
pub struct Sink {
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    fn open(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let (received, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopped) = (Arc::clone(&received), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut datagram = [0; 8192];
            while !stopped.load(Ordering::Relaxed) {
                if socket.recv(&mut datagram).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self { received, stop, thread: Some(thread) })
    }

    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
