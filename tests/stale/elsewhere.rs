//! A caching client in a process of its own, which may be in a time namespace: the test's program, run again.
//!
//! It is led by lines on its standard input, and answers each with one: `connect`, `warm TOKEN` (asks ten times; is it
//! kept?), `kept TOKEN`, `ask TOKEN`.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use bearerd::client::CacheOptions;
use bearerd::client::blocking::CachedClient;

use super::{ask, patient};

/// Names the socket to the child.
const SOCKET: &str = "BEARERD_TEST_ELSEWHERE";
/// Before each answer: the test harness prints lines too.
const MARK: &str = "elsewhere: ";

/// A process that keeps verdicts.
pub struct Elsewhere {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Elsewhere {
    /// How it is started. `test` is the name of the test of this program that calls [`serve`].
    pub fn command(test: &str, socket: PathBuf) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--ignored", "--nocapture"]).env(SOCKET, socket);
        command
    }

    /// Starts it.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, to, from }
    }

    /// Gives it an order and waits for the answer.
    pub fn tell(&mut self, order: &str) -> String {
        writeln!(self.to, "{order}").unwrap();
        loop {
            let mut line = String::new();
            assert!(self.from.read_line(&mut line).unwrap() > 0, "it has ended");
            // The first may come behind what the harness printed.
            if let Some((_, answer)) = line.trim_end().split_once(MARK) {
                return answer.to_owned();
            }
        }
    }
}

/// A CLOCK_BOOTTIME that is ahead of the host's by so much: of a time namespace (time_namespaces(7)). Root only.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub secs: i64,
    /// Ahead, whatever the sign of the seconds: -0.2 s is -1 and 800,000,000.
    pub nanos: u32,
}

impl Clock {
    /// Starts a process that has it.
    pub fn start(self, command: impl FnOnce() -> Command + Send) -> Elsewhere {
        // A thread's children can be in a namespace that the thread itself is not in; the thread ends with this.
        let begin = move || {
            // SAFETY: it changes nothing but which namespace the children of this thread begin in.
            let unshared = unsafe { libc::unshare(libc::CLONE_NEWTIME) };
            assert_eq!(unshared, 0, "{}", std::io::Error::last_os_error());
            let offsets = format!("/proc/{}/timens_offsets", nix::unistd::gettid());
            std::fs::write(offsets, format!("boottime {} {}\n", self.secs, self.nanos)).unwrap();
            Elsewhere::start(command())
        };
        std::thread::scope(|scope| scope.spawn(begin).join().unwrap())
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child's side, until its input ends. Nothing, in a run of all tests.
pub fn serve() {
    let Some(socket) = std::env::var_os(SOCKET) else { return };
    let quiet = CacheOptions { report_every: Duration::from_secs(3600), ..CacheOptions::default() };
    let client = CachedClient::connect(PathBuf::from(socket), patient(), quiet).unwrap();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (order, token) = line.split_once(' ').unwrap_or((&line, ""));
        let kept = || client.kept(&ask(token, &[])).is_some().to_string();
        let asked = || client.validate(&ask(token, &[])).map_or_else(|it| it.to_string(), |it| it.active.to_string());
        let answer = match order {
            "warm" => {
                for _ in 0..10 {
                    asked();
                }
                kept()
            }
            "kept" => kept(),
            "ask" => asked(),
            "clock" => {
                let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
                Duration::from(now).as_millis().to_string()
            }
            other => panic!("{other}?"),
        };
        println!("{MARK}{answer}");
    }
}
