//! The stage of the tour: a private directory and the daemon in it. Both are gone when it is dropped, also after Ctrl-C.
//!
//! The daemon is in a process group of its own, so that Ctrl-C at the terminal reaches only the tour, which then ends
//! the daemon and removes the directory. Only kill -9 of the tour itself leaves something behind.

use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use super::{DemoError, io_error};
use crate::client::blocking::Client;
use crate::client::{ClientError, Options};

/// How long the daemon may take to answer: it makes keys, a store and a log first.
const START_MAX: Duration = Duration::from_secs(10);
/// How long one try to connect waits before it is looked whether the daemon still runs.
const CONNECT_TRY: Duration = Duration::from_millis(200);
/// How long the daemon may take to stop when it is told to.
const STOP_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const STOP_LOOK: Duration = Duration::from_millis(5);
/// A socket's path has 107 bytes; this much is left for the directory of temporary directories.
const TEMP_DIR_MAX: usize = 60;
/// Of the daemon's log, so many lines are shown when something went wrong.
const LOG_LINES: usize = 12;
/// What would make a daemon take over sockets, credentials or names of a service that the tour runs in.
const FOREIGN: [&str; 8] = [
    "BEARERD_SOCKET",
    "CREDENTIALS_DIRECTORY",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// What has to be taken away in the end.
struct Props {
    dir: TempDir,
    child: Option<Child>,
}

impl Props {
    /// Ends the daemon at once. It is waited for, so that nothing writes into the directory any more.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Props {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The directory and the daemon. Signals may take them away at any time: then everything is [`DemoError::Interrupted`].
pub(super) struct Stage {
    executable: PathBuf,
    path: PathBuf,
    pid: u32,
    props: Arc<Mutex<Option<Props>>>,
}

impl Stage {
    /// Makes the directory, the configuration in it, and from here on answers signals.
    pub(super) fn new(executable: &Path) -> Result<Self, DemoError> {
        let dir = temp_dir()?;
        let path = dir.path().to_owned();
        let props = Arc::new(Mutex::new(Some(Props { dir, child: None })));
        clear_away_on_signal(Arc::downgrade(&props))?;
        for name in ["run", "store", "key", "log"] {
            let dir = path.join(name);
            DirBuilder::new().mode(0o700).create(&dir).map_err(io_error(format!("can't make {}", dir.display())))?;
        }
        let file = path.join("bearerd.toml");
        fs::write(&file, configuration(&path)).map_err(io_error(format!("can't write {}", file.display())))?;
        fs::set_permissions(&file, Permissions::from_mode(0o600))
            .map_err(io_error(format!("can't set the mode of {}", file.display())))?;
        Ok(Self { executable: executable.to_owned(), path, pid: 0, props })
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The daemon's process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Starts the daemon.
    pub(super) fn start(&mut self) -> Result<(), DemoError> {
        let log = self.path.join("daemon.log");
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(io_error(format!("can't write {}", log.display())))?;
        let mut command = Command::new(&self.executable);
        command.arg("--config").arg(self.path.join("bearerd.toml")).current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        for name in FOREIGN {
            command.env_remove(name);
        }
        let mut props = self.props();
        // Under the lock: a signal finds either no daemon, or one that it can end.
        let stage = props.as_mut().ok_or(DemoError::Interrupted)?;
        let what = format!("can't start {}", self.executable.display());
        let child = command.spawn().map_err(io_error(what))?;
        let pid = child.id();
        stage.child = Some(child);
        drop(props);
        self.pid = pid;
        Ok(())
    }

    /// Connects as soon as the daemon answers.
    pub(super) fn connect(&self) -> Result<Client, DemoError> {
        let begun = Instant::now();
        let options =
            Options { connect_retry: CONNECT_TRY, expect_uid: Some(Uid::effective().as_raw()), ..Options::default() };
        loop {
            match Client::connect(self.path.join("run/bearerd.sock"), options.clone()) {
                Ok(client) => return Ok(client),
                Err(ClientError::Connect { .. }) => self.still_runs()?,
                Err(error) => return Err(error.into()),
            }
            if begun.elapsed() > START_MAX {
                return Err(DemoError::Silent(START_MAX));
            }
        }
    }

    fn still_runs(&self) -> Result<(), DemoError> {
        let mut props = self.props();
        let child = props.as_mut().and_then(|props| props.child.as_mut()).ok_or(DemoError::Interrupted)?;
        match child.try_wait().map_err(io_error("can't look after the daemon"))? {
            Some(status) => Err(DemoError::Died(status)),
            None => Ok(()),
        }
    }

    /// kill -9.
    pub(super) fn kill(&mut self) -> Result<(), DemoError> {
        self.props().as_mut().ok_or(DemoError::Interrupted)?.kill();
        Ok(())
    }

    /// Stops the daemon as systemd would, and takes everything away. That both succeed is a part of the tour.
    pub(super) fn strike(self) -> Result<(), DemoError> {
        let props = self.props().take();
        let Some(mut props) = props else { return Err(DemoError::Interrupted) };
        if let Some(child) = props.child.as_mut() {
            let status = stop(child)?;
            if !status.success() {
                return Err(DemoError::Died(status));
            }
            props.child = None;
        }
        // `Props` has a destructor of its own, so that its directory is swapped out to be removed with a result.
        let path = props.dir.path().to_owned();
        drop(props);
        if path.exists() {
            let what = format!("can't remove {}; remove it by hand", path.display());
            return Err(DemoError::Io { what, source: std::io::ErrorKind::DirectoryNotEmpty.into() });
        }
        Ok(())
    }

    /// The end of what the daemon wrote.
    pub(super) fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.path.join("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    fn props(&self) -> MutexGuard<'_, Option<Props>> {
        self.props.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SIGTERM, and some time; what does not stop is killed, and that is an error.
fn stop(child: &mut Child) -> Result<std::process::ExitStatus, DemoError> {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("process ids fit"));
    kill(pid, Signal::SIGTERM).map_err(|errno| io_error("can't stop the daemon")(errno.into()))?;
    let begun = Instant::now();
    while begun.elapsed() < STOP_MAX {
        if let Some(status) = child.try_wait().map_err(io_error("can't look after the daemon"))? {
            return Ok(status);
        }
        thread::sleep(STOP_LOOK);
    }
    Err(DemoError::Silent(STOP_MAX))
}

/// Everything lies in the directory, and nothing is sent to syslog.
fn configuration(dir: &Path) -> String {
    let path = |below: &str| toml_string(&dir.join(below));
    format!(
        "[store]\npath = {}\n\n[keys]\nfile = {}\n\n[socket]\npath = {}\n\n[audit]\nfile = {}\nsyslog = \"\"\n",
        path("store/tokens.redb"),
        path("key/master.key"),
        path("run/bearerd.sock"),
        path("log/audit.log"),
    )
}

fn toml_string(path: &Path) -> String {
    let text = path.display().to_string();
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn temp_dir() -> Result<TempDir, DemoError> {
    let wanted = std::env::temp_dir();
    let parent = if wanted.as_os_str().len() > TEMP_DIR_MAX { Path::new("/tmp") } else { &wanted };
    tempfile::Builder::new()
        .prefix("bearerd-demo-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .map_err(io_error(format!("can't make a directory in {}", parent.display())))
}

/// On SIGINT, SIGTERM and SIGHUP the stage is cleared and the process ends as a shell expects it.
fn clear_away_on_signal(props: Weak<Mutex<Option<Props>>>) -> Result<(), DemoError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io_error("can't answer signals"))?;
    let mut signals = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let _guard = runtime.enter();
        signals.push((kind.as_raw_value(), signal(kind).map_err(io_error("can't answer signals"))?));
    }
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let [(int, a), (term, b), (hup, c)] = &mut signals[..] else { return };
            let number = runtime.block_on(async {
                tokio::select! {
                    _ = a.recv() => *int,
                    _ = b.recv() => *term,
                    _ = c.recv() => *hup,
                }
            });
            if let Some(props) = props.upgrade() {
                // The lock is kept: nothing is started any more.
                let mut props = props.lock().unwrap_or_else(PoisonError::into_inner);
                drop(props.take());
                std::process::exit(128 + number);
            }
            std::process::exit(128 + number);
        })
        .map_err(io_error("can't answer signals"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_toml_whatever_the_directory_is_called() {
        let text = configuration(Path::new("/tmp/a \"b\" \\c"));
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["store"]["path"].as_str(), Some("/tmp/a \"b\" \\c/store/tokens.redb"));
        assert_eq!(table["audit"]["syslog"].as_str(), Some(""));
        assert!(!text.contains("/var/") && !text.contains("/run/bearerd/"));
    }

    #[test]
    fn a_daemon_that_ends_is_noticed_and_nothing_stays() {
        let mut stage = Stage::new(Path::new("/bin/false")).unwrap();
        let path = stage.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        stage.start().unwrap();
        assert!(matches!(stage.connect(), Err(DemoError::Died(_))));
        drop(stage);
        assert!(!path.exists());
    }

    #[test]
    fn a_daemon_that_runs_is_ended_with_the_stage() {
        // Takes any arguments, and lives until it is killed.
        let script = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempfile().unwrap();
        fs::write(script.path(), "#!/bin/sh\nexec cat /dev/zero > /dev/null\n").unwrap();
        let script = script.into_temp_path();
        let mut stage = Stage::new(&script).unwrap();
        stage.start().unwrap();
        let (path, pid) = (stage.path().to_owned(), Pid::from_raw(stage.pid() as i32));
        assert!(kill(pid, None).is_ok());
        drop(stage);
        assert!(!path.exists());
        assert!(kill(pid, None).is_err(), "ended and waited for");
    }
}
