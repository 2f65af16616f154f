//! The peers that people know: Redis, memcached and MUNGE, over Unix sockets, each where it is installed. They run as
//! their packages have them, but for where their files are and for what says otherwise here.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::load::{Check, Frames};
use crate::common::server::Server;
use crate::common::wire::{self, Target};
use crate::report::Peer;

/// Where daemons are, though an unprivileged user's PATH may not say so.
const ALSO: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/local/bin"];
/// Requests in flight while keys are set.
const SETS: usize = 100;

/// Those that run.
#[derive(Default)]
pub struct Rivals {
    pub redis: Option<Server>,
    /// With `appendfsync always`, on the disk of bearerd's store.
    pub redis_durable: Option<Server>,
    pub memcached: Option<Server>,
    pub munge: Option<Munge>,
    /// What to say about each.
    pub peers: Vec<Peer>,
}

/// munged, and the program that asks it.
pub struct Munge {
    pub server: Server,
    remunge: PathBuf,
}

/// Keys and values of one load, as requests and what must be answered.
pub struct Kept {
    pub frames: Frames,
    pub check: Check,
}

impl Rivals {
    /// Starts those that are installed: sockets in `sockets`, files in `files`.
    pub fn start(files: &Path, sockets: &Path) -> Self {
        let mut rivals = Self::default();
        let redis = find("redis-server");
        rivals.redis = rivals.keep("Redis", "redis-server", redis.as_deref(), "--version", |program| {
            redis_server(
                program,
                &fresh(files, "redis")?,
                sockets.join("redis.sock"),
                &["--save", "", "--appendonly", "no"],
            )
        });
        if let (Some(program), Some(_)) = (&redis, &rivals.redis) {
            let durable = fresh(files, "redis-durable").and_then(|dir| {
                let options = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"];
                redis_server(program, &dir, sockets.join("redis-durable.sock"), &options)
            });
            rivals.redis_durable = durable.map_err(|error| eprintln!("Redis with appendfsync always: {error}")).ok();
        }
        let memcached = find("memcached");
        rivals.memcached = rivals.keep("memcached", "memcached", memcached.as_deref(), "--version", |program| {
            let socket = sockets.join("memcached.sock");
            let mut command = Command::new(program);
            command.arg("-s").arg(&socket).args(["-m", "256"]);
            if nix::unistd::geteuid().is_root() {
                command.args(["-u", "root"]);
            }
            Server::start(command, socket, &fresh(files, "memcached")?.join("said"))
        });
        let munged = find("munged").filter(|_| find("remunge").is_some());
        rivals.munge = rivals.keep("MUNGE", "munge", munged.as_deref(), "--version", |program| {
            munge(program, &fresh(files, "munge")?, sockets)
        });
        rivals
    }

    /// Notes whether it runs; what is missing or does not start is skipped, and said.
    fn keep<T>(
        &mut self,
        name: &str,
        package: &str,
        program: Option<&Path>,
        version: &str,
        start: impl FnOnce(&Path) -> io::Result<T>,
    ) -> Option<T> {
        let missing = || format!("not installed; Debian: apt-get install {package}");
        let started = match program {
            None => Err(missing()),
            Some(program) => start(program).map_err(|error| format!("does not start here: {error}")),
        };
        let version = program.map(|program| said_version(program, version)).unwrap_or_default();
        let (running, skipped) = match started {
            Ok(running) => (Some(running), None),
            Err(why) => (None, Some(why)),
        };
        if let Some(why) = &skipped {
            println!("skipped: {name} ({why})");
        }
        self.peers.push(Peer { name: name.to_owned(), version, skipped });
        running
    }
}

impl Munge {
    /// Has this many threads encode and decode credentials; how many pairs, and in what time.
    pub fn run(&self, threads: usize, time: Duration) -> io::Result<(u64, Duration)> {
        let secs = time.as_secs_f64().ceil().max(1.0);
        let mut command = Command::new(&self.remunge);
        command.arg("-S").arg(&self.server.socket).args(["-d", "-T", &threads.to_string(), "-D", &secs.to_string()]);
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let broken = || io::Error::other(format!("remunge said: {said}"));
        if !output.status.success() || said.contains("rror") {
            return Err(broken());
        }
        // "Processed 1666 credentials in 1.038s (1604 creds/sec)"
        let words = said.split_once("Processed ").map(|(_, rest)| rest).unwrap_or_default();
        let mut words = words.split_whitespace();
        let count = words.next().and_then(|word| word.parse().ok()).filter(|&count| count > 0);
        let took = words.nth(2).and_then(|word| word.strip_suffix('s')?.parse().ok());
        let (Some(count), Some(took)) = (count, took) else { return Err(broken()) };
        Ok((count, Duration::from_secs_f64(took)))
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(ALSO.iter().map(PathBuf::from));
    dirs.map(|dir| dir.join(program)).find(|path| path.is_file())
}

fn said_version(program: &Path, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or_default().trim().to_owned()
}

fn fresh(files: &Path, name: &str) -> io::Result<PathBuf> {
    let dir = files.join(name);
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn redis_server(program: &Path, dir: &Path, socket: PathBuf, options: &[&str]) -> io::Result<Server> {
    let mut command = Command::new(program);
    command.args(["--port", "0", "--daemonize", "no", "--loglevel", "warning", "--unixsocket"]).arg(&socket);
    command.arg("--dir").arg(dir).arg("--logfile").arg(dir.join("log")).args(options);
    Server::start(command, socket, &dir.join("said"))
}

/// With a key of its own. `--force`: what it says about the modes of a temporary directory does not matter here.
fn munge(program: &Path, dir: &Path, sockets: &Path) -> io::Result<Munge> {
    let key = dir.join("key");
    let mut bytes = [0; 128];
    bearerd::token::random(&mut bytes);
    fs::write(&key, bytes)?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let socket = sockets.join("munge.sock");
    let mut command = Command::new(program);
    command.args(["--foreground", "--force"]).arg(option("--socket", &socket)).arg(option("--key-file", &key));
    command.arg(option("--pid-file", &dir.join("pid"))).arg(option("--seed-file", &dir.join("seed")));
    let server = Server::start(command, socket, &dir.join("said"))?;
    let remunge = find("remunge").ok_or(io::ErrorKind::NotFound)?;
    Ok(Munge { server, remunge })
}

fn option(name: &str, value: &Path) -> String {
    format!("{name}={}", value.display())
}

/// A key of 32 bytes: as long as a name with an id in it.
fn key(number: usize) -> String {
    format!("token:{number:026}")
}

/// A value of `length` bytes that no other key has.
fn value(number: usize, length: usize) -> Vec<u8> {
    let mut value = format!("{number:026}").into_bytes();
    let begin = value.len();
    value.resize(length.max(begin), b'v');
    value
}

/// Sets `count` keys of Redis to values of `length` bytes.
pub fn fill_redis(target: &Target, count: usize, length: usize) -> io::Result<()> {
    fill(target, count, b"+OK\r\n", |number| wire::resp_set(&key(number), &value(number, length)))
}

/// Sets as many of memcached.
pub fn fill_memcached(target: &Target, count: usize, length: usize) -> io::Result<()> {
    fill(target, count, b"STORED\r\n", |number| wire::memcached_set(&key(number), &value(number, length)))
}

fn fill(target: &Target, count: usize, good: &[u8], request: impl Fn(usize) -> Vec<u8>) -> io::Result<()> {
    let mut stream = target.connect()?;
    let begun = Instant::now();
    for from in (0..count).step_by(SETS) {
        let numbers = from..(from + SETS).min(count);
        let mut answers = vec![0; good.len() * numbers.len()];
        let requests: Vec<u8> = numbers.flat_map(&request).collect();
        stream.write_all(&requests)?;
        stream.read_exact(&mut answers)?;
        if answers.chunks(good.len()).any(|answer| answer != good) {
            return Err(io::Error::other(format!("a key was not set: {:?}", String::from_utf8_lossy(&answers))));
        }
        if begun.elapsed() > wire::PATIENCE * 6 {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

/// `GET` of the first `count` keys.
pub fn redis_gets(count: usize, length: usize) -> Kept {
    kept(count, |number| wire::resp_get(&key(number)), |number| wire::resp_value(&value(number, length)))
}

/// `get` of the first `count` keys.
pub fn memcached_gets(count: usize, length: usize) -> Kept {
    let answer = |number| wire::memcached_value(&key(number), &value(number, length));
    kept(count, |number| wire::memcached_get(&key(number)), answer)
}

/// `SET` of the first `count` keys.
pub fn redis_sets(count: usize, length: usize) -> Kept {
    kept(count, |number| wire::resp_set(&key(number), &value(number, length)), |_| b"+OK\r\n".to_vec())
}

fn kept(count: usize, request: impl Fn(usize) -> Vec<u8>, answer: impl Fn(usize) -> Vec<u8>) -> Kept {
    let mut frames = Frames::default();
    (0..count).for_each(|number| frames.push_raw(&request(number)));
    Kept { frames, check: Check::Whole(Arc::new((0..count).map(answer).collect())) }
}
