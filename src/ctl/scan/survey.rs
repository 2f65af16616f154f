//! The reading: one thread walks, one for each core reads, and somebody at a terminal sees how far it is.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::findings::{Findings, Kindred, Source};
use super::journal::Journal;
use super::stream::{Form, Reader};
use super::walk::{Opened, walk};
use crate::time::UnixTime;

/// More threads than this wait for the disk or for each other.
const THREADS_MAX: usize = 16;
/// Files that are open and wait for a thread.
const QUEUE: usize = 32;
/// From this length on the kernel is told that a file will be read to its end.
const LONG_BYTES: u64 = 1024 * 1024;

/// What is to be read.
pub(super) struct Plan {
    pub paths: Vec<PathBuf>,
    pub stdin: bool,
    pub journal: bool,
    pub since: Option<UnixTime>,
}

/// How much was read.
#[derive(Default)]
pub(super) struct Counters {
    pub files: AtomicU64,
    pub bytes: AtomicU64,
}

enum Job {
    File(Opened),
    Stdin(File),
    Journal(Journal),
}

/// Reads all of it. What can't be read is in the findings.
pub(super) fn survey(plan: &Plan, watched: bool) -> (Findings, Arc<Counters>) {
    let findings = Mutex::new(Findings::default());
    let counters = Arc::new(Counters::default());
    let bar = if watched { progress(&counters) } else { ProgressBar::hidden() };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let (queue, jobs) = mpsc::sync_channel(QUEUE);
    let jobs = Mutex::new(jobs);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut worker = Worker { reader: Reader::new(), findings: &findings, counters: &counters, bar: &bar };
                while let Some(job) = next(&jobs) {
                    worker.work(job);
                }
            });
        }
        let refused = |source: &Path, error: &io::Error| {
            let name = source.display().to_string();
            findings.lock().unwrap_or_else(PoisonError::into_inner).unreadable(name, error);
        };
        if plan.stdin {
            // Past std's own buffer, which is not wiped.
            match io::stdin().as_fd().try_clone_to_owned() {
                Ok(stdin) => drop(queue.send(Job::Stdin(stdin.into()))),
                Err(error) => refused(Path::new("(standard input)"), &error),
            }
        }
        if plan.journal {
            match Journal::start(plan.since) {
                Ok(journal) => drop(queue.send(Job::Journal(journal))),
                Err(error) => refused(Path::new("(journal)"), &error),
            }
        }
        for path in &plan.paths {
            walk(path, &findings, &mut |opened| {
                bar.inc_length(opened.len.unwrap_or(0));
                queue.send(Job::File(opened)).is_ok()
            });
        }
        // From here on it is known how much there is.
        if watched && !plan.stdin && !plan.journal {
            bar.set_style(style(&counters, "{spinner} {bar:24} {bytes} of {total_bytes} in {files}, {eta} left"));
        }
        drop(queue);
    });
    bar.finish_and_clear();
    let mut findings = findings.into_inner().unwrap_or_else(PoisonError::into_inner);
    findings.sort();
    (findings, counters)
}

fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

struct Worker<'a> {
    reader: Reader,
    findings: &'a Mutex<Findings>,
    counters: &'a Counters,
    bar: &'a ProgressBar,
}

impl Worker<'_> {
    fn work(&mut self, job: Job) {
        match job {
            Job::File(Opened { file, source, len }) => {
                if len.is_some_and(|len| len >= LONG_BYTES) {
                    // Advice: without it the same is read, more slowly.
                    let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
                }
                let (_, read) = self.read(&mut file.take(len.unwrap_or(u64::MAX)), Form::Bytes, &source);
                self.counters.files.fetch_add(1, Ordering::Relaxed);
                self.done(&source, read);
            }
            Job::Stdin(mut stdin) => {
                let source = self.findings().stream(Kindred::Stdin);
                let (_, read) = self.read(&mut stdin, Form::Bytes, &source);
                self.done(&source, read);
            }
            Job::Journal(mut journal) => {
                let source = self.findings().stream(Kindred::Journal);
                let (bytes, read) = self.read(&mut journal.out, Form::Journal, &source);
                let read = read.and_then(|()| journal.end()).and_then(|said| match bytes {
                    // A host without a journal, or one that may not be read, is not one without tokens.
                    0 if !said.is_empty() => Err(io::Error::other(said)),
                    _ => Ok(()),
                });
                self.done(&source, read);
            }
        }
    }

    fn read(&mut self, input: &mut impl Read, form: Form, source: &Arc<Source>) -> (u64, io::Result<()>) {
        let mut total = 0;
        let progress = |bytes: usize| {
            total += bytes as u64;
            self.counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            self.bar.inc(bytes as u64);
        };
        let found = |place, hit| {
            self.findings.lock().unwrap_or_else(PoisonError::into_inner).add(source, place, hit);
        };
        let read = self.reader.scan(input, form, progress, found);
        (total, read)
    }

    fn done(&self, source: &Source, read: io::Result<()>) {
        if let Err(error) = read {
            self.findings().unreadable(source.name.clone(), error);
        }
    }

    fn findings(&self) -> std::sync::MutexGuard<'_, Findings> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn progress(counters: &Arc<Counters>) -> ProgressBar {
    let bar = ProgressBar::new(0).with_style(style(counters, "{spinner} {bytes} in {files}, {bytes_per_sec}"));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn style(counters: &Arc<Counters>, template: &str) -> ProgressStyle {
    let counters = Arc::clone(counters);
    let files = move |_: &ProgressState, to: &mut dyn std::fmt::Write| {
        let _ = write!(to, "{} files", counters.files.load(Ordering::Relaxed));
    };
    ProgressStyle::with_template(template).expect("a template of known keys").with_key("files", files)
}
