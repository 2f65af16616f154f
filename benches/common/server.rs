//! A process that serves on a Unix socket, and what the kernel says that it took.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// Longest wait for a process to listen, and to end when it was asked to.
const PATIENCE: Duration = Duration::from_secs(60);

/// Killed when dropped.
pub struct Server {
    child: Child,
    pub socket: PathBuf,
}

impl Server {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When it ends instead, with what it said in `said`.
    pub fn start(mut command: Command, socket: PathBuf, said: &Path) -> io::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(said)?).spawn()?;
        let mut server = Self { child, socket };
        let begun = Instant::now();
        while UnixStream::connect(&server.socket).is_err() {
            if let Some(status) = server.child.try_wait()? {
                let said = fs::read_to_string(said).unwrap_or_default();
                return Err(io::Error::other(format!("{:?} ended with {status}: {said}", command.get_program())));
            }
            if begun.elapsed() > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    /// Starts it and waits until it says READY (sd_notify); says how long that took.
    ///
    /// # Errors
    /// When it does not say so in time.
    pub fn start_notified(
        mut command: Command,
        socket: PathBuf,
        notify: &Path,
        said: &Path,
    ) -> io::Result<(Self, Duration)> {
        let _ = fs::remove_file(notify);
        let inbox = UnixDatagram::bind(notify)?;
        inbox.set_read_timeout(Some(PATIENCE))?;
        command.env("NOTIFY_SOCKET", notify).stdin(Stdio::null()).stderr(File::create(said)?);
        let begun = Instant::now();
        let server = Self { child: command.spawn()?, socket };
        let mut message = [0; 4096];
        loop {
            let count = inbox.recv(&mut message).map_err(|error| {
                io::Error::other(format!("not ready: {error}: {}", fs::read_to_string(said).unwrap_or_default()))
            })?;
            if message[..count].split(|&byte| byte == b'\n').any(|line| line == b"READY=1") {
                return Ok((server, begun.elapsed()));
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time of all its threads so far, those that have ended too, user and kernel, in seconds.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu_secs(&self) -> io::Result<f64> {
        let time = clock_gettime(clock_getcpuclockid(self.unix_pid())?)?;
        Ok(Duration::from(time).as_secs_f64())
    }

    /// Resident memory, in KiB.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident_kib(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        Ok(line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or_default())
    }

    /// Asks it to end (SIGTERM), and waits for that.
    ///
    /// # Errors
    /// When it ends in failure, or not at all.
    pub fn stop(mut self) -> io::Result<()> {
        kill(self.unix_pid(), Signal::SIGTERM)?;
        let begun = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(io::Error::other(format!("it ended with {status}"))),
                None if begun.elapsed() > PATIENCE => return Err(io::ErrorKind::TimedOut.into()),
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn unix_pid(&self) -> Pid {
        Pid::from_raw(self.pid().cast_signed())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes bearerd's configuration into `files`: everything below it, the audit required, syslog to `syslog`.
///
/// # Errors
/// When it can't be written.
pub fn configure(files: &Path, socket: &Path, syslog: Option<&Path>) -> io::Result<PathBuf> {
    let place = |name: &str| files.join(name).display().to_string();
    let file = files.join("bearerd.toml");
    let text = format!(
        "[store]\npath = {:?}\n[keys]\nfile = {:?}\n[socket]\npath = {:?}\n\
         [audit]\nfile = {:?}\nrequired = true\nsyslog = {:?}\n",
        place("state/tokens.redb"),
        place("key/master.key"),
        socket.display().to_string(),
        place("log/audit.log"),
        syslog.map(|path| path.display().to_string()).unwrap_or_default(),
    );
    fs::write(&file, text)?;
    Ok(file)
}

/// The command that starts bearerd by this configuration, and nothing of the environment that would change it.
pub fn bearerd(program: &Path, config: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--config").arg(config);
    command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS").env_remove("CREDENTIALS_DIRECTORY");
    command
}

/// A syslog socket that somebody reads, as journald would.
pub struct Sink {
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Binds it.
    ///
    /// # Errors
    /// When it can't be bound.
    pub fn open(path: &Path) -> io::Result<Self> {
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
