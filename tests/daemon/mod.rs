//! A real daemon in a temporary directory, behind one guard: killed and cleaned away when dropped.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bearerd::client::Options;
use bearerd::client::blocking::Client;
use serde_json::Value;

/// Longest wait for anything in a test; only a failing test waits so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A place for a daemon, and the daemon while it runs.
pub struct Daemon {
    dir: tempfile::TempDir,
    child: Option<Child>,
    stderr: Arc<Mutex<String>>,
}

/// What a run of bearerctl printed.
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).expect("stdout is text"),
            stderr: String::from_utf8(output.stderr).expect("stderr is text"),
        }
    }

    /// Asserts the exit status and gives the output.
    #[track_caller]
    pub fn exits(self, status: i32) -> Self {
        assert_eq!(self.status, status, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The one JSON object on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// The one line on stdout.
    #[track_caller]
    pub fn line(&self) -> String {
        let mut lines = self.stdout.lines();
        let line = lines.next().unwrap_or_else(|| panic!("nothing on stdout; stderr: {}", self.stderr)).to_owned();
        assert_eq!(lines.next(), None, "more than a line on stdout");
        line
    }
}

impl Daemon {
    /// A place with the least configuration, and `more` after it; nothing runs yet.
    pub fn place(more: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("bearerd-test-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let daemon = Self { dir, child: None, stderr: Arc::default() };
        daemon.configure(more);
        daemon
    }

    /// A running daemon with the least configuration.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// A running daemon with `more` configuration. Tables that the least one has are not to be opened again:
    /// `[audit]` keys can be given first thing in `more`.
    pub fn start_with(more: &str) -> Self {
        let mut daemon = Self::place(more);
        daemon.run();
        daemon
    }

    /// Writes the configuration anew.
    pub fn configure(&self, more: &str) {
        let path = |name: &str| self.path(name).display().to_string();
        let (audit, rest) = match more.find("\n[") {
            Some(at) if !more.trim_start().starts_with('[') => more.split_at(at),
            _ if more.trim_start().starts_with('[') => ("", more),
            _ => (more, ""),
        };
        let syslog = if audit.contains("syslog") { "" } else { "syslog = \"\"" };
        let text = format!(
            "[store]\npath = {:?}\n[keys]\nfile = {:?}\n[socket]\npath = {:?}\n[audit]\nfile = {:?}\n{syslog}\n{audit}\n{rest}\n",
            path("state/tokens.redb"),
            path("key/master.key"),
            path("run/bearerd.sock"),
            path("log/audit.log"),
        );
        fs::write(self.path("bearerd.toml"), text).unwrap();
        fs::set_permissions(self.path("bearerd.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("run/bearerd.sock")
    }

    pub fn audit_log(&self) -> PathBuf {
        self.path("log/audit.log")
    }

    /// The command that runs this daemon.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bearerd"));
        command.arg("--config").arg(self.path("bearerd.toml"));
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS").env_remove("CREDENTIALS_DIRECTORY");
        command
    }

    /// Starts it and waits until it answers.
    pub fn run(&mut self) {
        let command = self.command();
        self.run_as(command);
    }

    /// Starts it by this command and waits until it answers.
    pub fn run_as(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "it runs already");
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::clone(&self.stderr);
        let pipe = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in pipe.lines().map_while(Result::ok) {
                said.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        self.child = Some(child);
        let begun = Instant::now();
        // connect() itself waits for the socket; this loop ends early when the daemon has ended instead.
        loop {
            let retry = Duration::from_millis(200);
            let options = Options { connect_retry: retry, timeout: retry, ..Options::default() };
            if Client::connect(self.socket(), options).is_ok() {
                return;
            }
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("bearerd ended with {status}: {}", self.said());
            }
            assert!(begun.elapsed() < PATIENCE, "bearerd does not answer: {}", self.said());
        }
    }

    /// Runs it expecting that it refuses to start; gives status and stderr.
    pub fn refuses(&self) -> (i32, String) {
        let output = self.command().stdin(Stdio::null()).output().unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What it wrote to stderr so far, over all its runs.
    pub fn said(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    /// kill -9, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let status = self.ended();
        assert!(status.success(), "{status}: {}", self.said());
        status
    }

    /// Waits until it ends by itself.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "bearerd does not end: {}", self.said());
            std::thread::yield_now();
        }
    }

    pub fn restart(&mut self) {
        self.stop();
        self.run();
    }

    /// A client, connected.
    pub fn client(&self) -> Client {
        Client::connect(self.socket(), Options::default()).unwrap()
    }

    /// Runs bearerctl.
    pub fn ctl(&self, arguments: &[&str]) -> Ran {
        self.ctl_with("", arguments)
    }

    /// Runs bearerctl with text on stdin.
    pub fn ctl_with(&self, stdin: &str, arguments: &[&str]) -> Ran {
        let mut command = self.ctl_command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It may end without reading what it has no use for.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        Ran::of(child.wait_with_output().unwrap())
    }

    pub fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bearerctl"));
        command.arg("--socket").arg(self.socket()).args(arguments);
        command
    }

    /// Runs a program as another user, root only.
    pub fn ctl_as(&self, uid: u32, stdin: &str, arguments: &[&str]) -> Ran {
        let id = uid.to_string();
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
            .arg(reachable(env!("CARGO_BIN_EXE_bearerctl")));
        command.arg("--socket").arg(self.socket()).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        Ran::of(child.wait_with_output().unwrap())
    }

    /// Issues a token and gives its text.
    #[track_caller]
    pub fn issue(&self, arguments: &[&str]) -> String {
        self.ctl(&[&["issue"], arguments].concat()).exits(0).line()
    }

    /// The lines of audit.log as JSON.
    pub fn trail(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.audit_log()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("bearerd said:\n{}", self.said());
        }
    }
}

/// A path to a program that other users can reach: build directories are often private.
pub fn reachable(program: &str) -> PathBuf {
    use std::sync::OnceLock;
    static COPY: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = COPY.get_or_init(|| {
        let dir = tempfile::Builder::new().prefix("bearerd-bin-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        dir
    });
    let copy = dir.path().join(Path::new(program).file_name().unwrap());
    if !copy.exists() {
        let partial = copy.with_extension(format!("{:?}", std::thread::current().id()));
        fs::copy(program, &partial).unwrap();
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&partial, &copy).unwrap();
    }
    copy
}

/// The id in a token's text.
pub fn id_of(token: &str) -> String {
    token.split('_').nth(1).expect("a token has an id").to_owned()
}
