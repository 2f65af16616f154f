//! An example of a service that checks the tokens its clients present: each line that comes on its socket is a token, and
//! each is answered with a line, `allowed NAME` or `denied REASON`. An HTTP service would do the same with a header.
//!
//! What a service has to do with bearerd is in `service.rs`, and is short. A token that is revoked is denied from the
//! moment on at which `bearerctl revoke` has returned, though its verdict was kept here.
#![forbid(unsafe_code)]

mod args;
mod connection;
mod service;

use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use args::{Args, Task, USAGE};
use service::{Counts, Service};
use zeroize::Zeroizing;

/// Connections at the same time, each with a thread.
const CONNECTIONS_MAX: usize = 64;
/// Checks of a load between two looks at the clock.
const STRIDE: u64 = 1024;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(problem) => {
            let _ = writeln!(io::stderr(), "validate-service: {problem}\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "validate-service: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> io::Result<()> {
    let service = Arc::new(Service::connect(&args.bearerd, args.scopes).map_err(io::Error::other)?);
    match args.task {
        Task::Listen(path) => listen(&service, &path),
        Task::Load { token, time, threads } => load(&service, &token, time, threads),
    }
}

/// Serves until it is ended.
fn listen(service: &Arc<Service>, path: &Path) -> io::Result<()> {
    let listener = UnixListener::bind(path)
        .map_err(|error| io::Error::other(format!("cannot listen on {}: {error}", path.display())))?;
    say(&format!("listening on {}", path.display()))?;
    let telling = Arc::clone(service);
    thread::spawn(move || tell_each_second(&telling));
    loop {
        let (stream, _) = listener.accept()?;
        // This thread holds one, and so does the one that tells.
        if Arc::strong_count(service) >= CONNECTIONS_MAX + 2 {
            let _ = (&stream).write_all(b"busy\n");
            continue;
        }
        let service = Arc::clone(service);
        // Whoever breaks off has only itself to tell.
        thread::spawn(move || connection::serve(stream, |line| service.answer(line)));
    }
}

/// Checks one token as fast as it can, on so many threads.
fn load(service: &Service, file: &Path, time: Duration, threads: usize) -> io::Result<()> {
    let text = Zeroizing::new(
        fs::read(file).map_err(|error| io::Error::other(format!("cannot read {}: {error}", file.display())))?,
    );
    let token = text.trim_ascii();
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while begun.elapsed() < time {
                    (0..STRIDE).for_each(|_| drop(service.decide(token)));
                    service.count(STRIDE);
                }
            });
        }
    });
    let secs = begun.elapsed().as_secs_f64();
    let Counts { checks, asked, denied } = service.counts();
    say(&format!(
        "{checks} checks in {secs:.1} s on {threads} threads: {:.0} checks/s; {asked} were asked of bearerd, {denied} denied",
        checks as f64 / secs
    ))
}

/// What was done in each second in which something was.
fn tell_each_second(service: &Service) {
    let mut before = Counts::default();
    loop {
        thread::sleep(Duration::from_secs(1));
        let now = service.counts();
        let Counts { checks, asked, denied } = now.since(&before);
        if checks > 0 && say(&format!("{checks} checks/s; {asked} were asked of bearerd, {denied} denied")).is_err() {
            return;
        }
        before = now;
    }
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
