//! Socket activation with real inherited descriptors, and what is said to the service manager.

mod daemon;

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::time::Duration;

use bearerd::client::Options;
use bearerd::client::blocking::Client;
use daemon::{Daemon, PATIENCE};

/// A shell stands between, because only the process itself knows the pid that LISTEN_PID must be.
fn activated(daemon: &Daemon, listener: &UnixListener, name: &str) -> Command {
    let fd: OwnedFd = listener.try_clone().unwrap().into();
    let mut command = Command::new("sh");
    command.arg("-c").arg("exec 3<&0 0</dev/null; LISTEN_PID=$$ exec \"$0\" --config \"$1\"");
    command.arg(env!("CARGO_BIN_EXE_bearerd")).arg(daemon.path("bearerd.toml"));
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name).stdin(Stdio::from(fd));
    command
}

#[test]
fn an_inherited_socket_is_served_by_its_name() {
    let daemon = Daemon::place("");
    let path = daemon.path("activated.sock");
    let listener = UnixListener::bind(&path).unwrap();
    // A client that comes before the daemon waits in the backlog: it sees no refused connection.
    let early = std::thread::spawn({
        let path = path.clone();
        move || {
            Client::connect(&path, Options { timeout: PATIENCE, long_timeout: PATIENCE, ..Options::default() })
                .unwrap()
                .status()
                .unwrap()
        }
    });
    let mut child = activated(&daemon, &listener, "api").stderr(Stdio::piped()).spawn().unwrap();
    let status = early.join().unwrap();
    assert!(status.contains("\"pid\""), "{status}");
    assert!(!daemon.socket().exists(), "it bound its own socket beside the one that it was given");
    let client = Client::connect(&path, Options::default()).unwrap();
    assert_eq!(client.server_uid().unwrap(), nix::unistd::getuid().as_raw());

    // Over a restart the socket stays: a client that asks meanwhile is served by the next daemon.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), nix::sys::signal::Signal::SIGTERM)
        .unwrap();
    assert!(child.wait().unwrap().success());
    let between = std::thread::spawn({
        let path = path.clone();
        move || {
            Client::connect(&path, Options { timeout: PATIENCE, long_timeout: PATIENCE, ..Options::default() })
                .unwrap()
                .status()
                .unwrap()
        }
    });
    let mut next = activated(&daemon, &listener, "api").spawn().unwrap();
    between.join().unwrap();
    next.kill().unwrap();
    next.wait().unwrap();
}

#[test]
fn an_inherited_socket_of_another_name_is_refused() {
    let daemon = Daemon::place("");
    let listener = UnixListener::bind(daemon.path("activated.sock")).unwrap();
    let output = activated(&daemon, &listener, "unheard-of").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("unheard-of"));
}

/// READY comes only when it answers; a reload and a stop are said; the watchdog is fed.
#[test]
fn the_service_manager_is_told() {
    let mut daemon = Daemon::place("");
    let notices = UnixDatagram::bind(daemon.path("notify")).unwrap();
    notices.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = daemon.command();
    command.env("NOTIFY_SOCKET", daemon.path("notify"));
    command.env("WATCHDOG_USEC", Duration::from_millis(400).as_micros().to_string());
    daemon.run_as(command);
    let next = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let bytes = notices.recv(&mut buffer).unwrap_or_else(|error| panic!("{wanted} was not said: {error}"));
            let text = String::from_utf8_lossy(&buffer[..bytes]).into_owned();
            if text.lines().any(|line| line.starts_with(wanted)) {
                return text;
            }
        }
    };
    next("READY=1");
    next("WATCHDOG=1");
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    assert!(next("RELOADING=1").contains("MONOTONIC_USEC="));
    next("READY=1");
    next("WATCHDOG=1");
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    next("STOPPING=1");
    assert!(daemon.ended().success());
}
