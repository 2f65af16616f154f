//! The example in contrib/validate-service, built and run against a real daemon.

mod daemon;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use bearerd::protocol::message::{Handle, Revoke, Which};
use daemon::{Daemon, PATIENCE, id_of};

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Built as its users would: with the client's features alone, beside the program that is tested.
fn program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let beside = Path::new(env!("CARGO_BIN_EXE_bearerd")).parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(root).args(["build", "--quiet", "--locked", "--package", "validate-service"]);
    build.arg("--target-dir").arg(beside.parent().unwrap());
    if beside.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success());
    beside.join("validate-service")
}

#[test]
fn it_allows_from_memory_and_denies_what_was_revoked_at_once() {
    let daemon = Daemon::start();
    let program = program();
    let token = daemon.issue(&["nightly", "--scope", "backup:*"]);
    let socket = daemon.socket().with_file_name("validate.sock");
    let mut command = Command::new(&program);
    command.arg("--bearerd").arg(daemon.socket()).args(["--scope", "backup:write", "--listen"]).arg(&socket);
    let mut running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut said = BufReader::new(running.0.stdout.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().starts_with("listening on "));

    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut present = |token: &str| {
        writeln!(stream, "{token}").unwrap();
        lines.next().unwrap().unwrap()
    };
    for _ in 0..100 {
        assert_eq!(present(&token), "allowed nightly");
    }
    assert_eq!(present(""), "denied malformed");
    assert_eq!(present(&daemon.issue(&["other", "--scope", "repo:read"])), "denied insufficient_scope");
    let second = said.next().unwrap().unwrap();
    assert!(second.contains(" checks/s; ") && !second.contains(&token), "{second}");

    let which = Which::Handles(vec![Handle(id_of(&token))]);
    daemon.client().revoke(&Revoke { which, reason: None, dry_run: false }).unwrap();
    assert_eq!(present(&token), "denied revoked");
    // As many bytes as it takes of one line, and not one more: what it has not read when it ends the connection could
    // take the answer with it.
    stream.write_all(&[b'x'; 1100]).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "denied: the line is too long");
    assert!(lines.next().is_none(), "it goes on");

    // By itself, as fast as it can.
    let token = daemon.issue(&["fast", "--scope", "backup:*"]);
    let file = socket.with_file_name("fast.token");
    fs::write(&file, format!("{token}\n")).unwrap();
    let number = |text: &str| -> u64 { text.split(' ').next().unwrap().parse().unwrap() };
    let patience = Instant::now() + PATIENCE;
    loop {
        let mut command = Command::new(&program);
        command.arg("--bearerd").arg(daemon.socket()).args(["--scope", "backup:write", "--threads", "2", "--load"]);
        let done = command.arg("0.5").arg("--token").arg(&file).output().unwrap();
        let told = String::from_utf8(done.stdout).unwrap();
        assert!(done.status.success() && told.contains(" on 2 threads: ") && told.ends_with(" 0 denied\n"), "{told}");
        // A greeting that was answered late lets nothing be kept.
        if number(told.split("; ").nth(1).unwrap()) * 10 < number(&told) {
            break;
        }
        assert!(Instant::now() < patience, "most were asked for: {told}");
    }
    let wrong = Command::new(&program).args(["--load", "1"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(64));
}
