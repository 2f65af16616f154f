//! The room as a whole, over a real file in a temporary directory, time moved by hand, and a disk that fails on demand.

mod faults;
mod flow;
mod start;
mod tamper;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::file::{FileState, LogFile, Space};
use super::shared::lock;
use super::*;
use crate::peer::PeerLabel;
use crate::time::manual::ManualTime;

const KEY: TestKey = TestKey([7; 32]);
const NOW: UnixTime = UnixTime::from_secs(1_764_000_000);

#[derive(Clone, Copy)]
struct TestKey([u8; 32]);

impl AuditMac for TestKey {
    fn mac(&self, previous: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
        keyed_mac(&self.0, previous, bytes)
    }
}

/// What the disk does.
#[derive(Clone, Debug, Default)]
struct Faults {
    /// Appending fails with this error, after this part of the bytes (in percent) was written.
    append: Option<(i32, usize)>,
    truncate: Option<i32>,
    /// So many syncs fail.
    syncs: u32,
    rewrite: Option<i32>,
    reserve: Option<i32>,
    /// Nothing can be allocated beyond this offset.
    reserve_end: Option<u64>,
    space: Option<Space>,
    /// Appending hangs.
    blocked: bool,
    /// Appending is a fault of the program.
    panics: bool,
    /// So many appends, or syncs, hang now.
    hanging: u32,
    /// Syncing hangs.
    sync_blocked: bool,
    synced: u32,
}

#[derive(Clone, Default)]
struct Disk(Arc<(Mutex<Faults>, Condvar)>);

impl Disk {
    fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut lock(&self.0.0));
        self.0.1.notify_all();
    }

    fn faults(&self) -> Faults {
        lock(&self.0.0).clone()
    }

    fn heal(&self) {
        self.set(|faults| *faults = Faults { hanging: faults.hanging, synced: faults.synced, ..Faults::default() });
    }

    /// Waits until somebody hangs.
    fn await_hang(&self) {
        let guard = lock(&self.0.0);
        drop(self.0.1.wait_while(guard, |faults| faults.hanging == 0).unwrap());
    }
}

struct Faulty {
    inner: DiskLog,
    disk: Disk,
}

fn os(error: i32) -> io::Error {
    io::Error::from_raw_os_error(error)
}

impl LogFile for Faulty {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut guard = lock(&self.disk.0.0);
        if guard.blocked {
            guard.hanging += 1;
            self.disk.0.1.notify_all();
            guard = self.disk.0.1.wait_while(guard, |faults| faults.blocked).unwrap();
            guard.hanging -= 1;
        }
        assert!(!guard.panics, "the thread ends here");
        match guard.append {
            Some((error, percent)) => {
                self.inner.append(&bytes[..bytes.len() * percent / 100])?;
                Err(os(error))
            }
            None => self.inner.append(bytes),
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        match self.disk.faults().truncate {
            Some(error) => Err(os(error)),
            None => self.inner.truncate(len),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut faults = lock(&self.disk.0.0);
        if faults.sync_blocked {
            faults.hanging += 1;
            self.disk.0.1.notify_all();
            faults = self.disk.0.1.wait_while(faults, |faults| faults.sync_blocked).unwrap();
            faults.hanging -= 1;
        }
        if faults.syncs > 0 {
            faults.syncs -= 1;
            return Err(os(libc::EIO));
        }
        faults.synced += 1;
        self.inner.sync()
    }

    fn state(&self) -> io::Result<FileState> {
        self.inner.state()
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        let faults = self.disk.faults();
        match (faults.reserve, faults.reserve_end) {
            (Some(error), _) => Err(os(error)),
            (None, Some(end)) if offset + len > end => Err(os(libc::ENOSPC)),
            _ => self.inner.reserve(offset, len),
        }
    }

    fn space(&self) -> io::Result<Space> {
        self.disk.faults().space.map_or_else(|| self.inner.space(), Ok)
    }

    fn rewrite(&self, from: u64, to: u64) -> io::Result<()> {
        match self.disk.faults().rewrite {
            Some(error) => Err(os(error)),
            None => self.inner.rewrite(from, to),
        }
    }

    fn reader(&self) -> io::Result<File> {
        self.inner.reader()
    }
}

/// A directory for the log, a clock, a disk, and what the store would hold.
struct Bench {
    directory: TempDir,
    options: AuditOptions,
    time: ManualTime,
    clock: Arc<Clock>,
    disk: Disk,
    seals: Arc<Mutex<Vec<(Seal, u64)>>>,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let time = ManualTime::new(NOW);
        let options = AuditOptions {
            // Tests that want it to run out say so.
            max_wait: Duration::from_secs(60),
            ..AuditOptions::new(directory.path().join("audit.log"))
        };
        let clock = Arc::new(Clock::new(Box::new(time.clone()), None));
        Self { directory, options, time, clock, disk: Disk::default(), seals: Arc::default() }
    }

    fn open(&self) -> Audit {
        self.open_with(self.boot(0, vec![])).unwrap().0
    }

    fn open_with(&self, boot: AuditBoot) -> Result<(Audit, OpenReport), AuditError> {
        self.open_keyed(boot, KEY)
    }

    fn open_keyed(&self, boot: AuditBoot, key: TestKey) -> Result<(Audit, OpenReport), AuditError> {
        let (disk, seals) = (self.disk.clone(), Arc::clone(&self.seals));
        let on_seal = Box::new(move |seal: Seal, through| {
            assert_eq!(Seal::decode(&seal.encode()), Ok(seal.clone()));
            lock(&seals).push((seal, through));
        });
        let wrap = Box::new(move |inner| Arc::new(Faulty { inner, disk: disk.clone() }) as Arc<dyn LogFile>);
        Audit::open_on(self.options.clone(), Arc::new(key), boot, Arc::clone(&self.clock), on_seal, wrap)
    }

    /// What the store hands over at a start.
    fn boot(&self, generation: u64, outbox: Vec<(u64, AuditEvent)>) -> AuditBoot {
        AuditBoot { seal: self.seal(), outbox, generation, accept_rollback: false }
    }

    fn seal(&self) -> Option<Seal> {
        lock(&self.seals).last().map(|(seal, _)| seal.clone())
    }

    fn through(&self) -> u64 {
        lock(&self.seals).last().map_or(0, |(_, through)| *through)
    }

    fn path(&self) -> PathBuf {
        self.options.file.clone()
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    /// The lines of the log, each checked to be JSON.
    fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8(self.bytes()).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{text}"))).collect()
    }

    fn events(&self) -> Vec<String> {
        self.lines().iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect()
    }

    /// Verifies the log and its rotated siblings against the last seal.
    fn verify(&self) -> VerifyReport {
        let files: Vec<PathBuf> = file::log_files(&self.path()).into_iter().map(|opened| opened.path).collect();
        verify(&files, &KEY, self.seal().as_ref()).unwrap()
    }

    /// A second passes, and the writer looks up.
    async fn second(&self, audit: &Audit) {
        self.time.pass(Duration::from_secs(1));
        audit.tick().await.unwrap();
    }

    fn now(&self) -> UnixTime {
        self.clock.now()
    }

    fn event(&self, kind: EventKind) -> AuditEvent {
        AuditEvent::new(kind, self.now())
    }

    fn used(&self, audit: &Audit, name: &str) -> Recording {
        use std::hash::Hash;
        audit.used(UseKey::of(|hasher| name.hash(hasher)), self.now(), || AuditEvent {
            outcome: Some("active".into()),
            id: Some(id(1)),
            name: Some(name.to_owned()),
            subject: Some("ci".to_owned()),
            peer: Some(peer(1000)),
            ..self.event(EventKind::Use)
        })
    }

    fn revoke(&self, n: u8) -> AuditEvent {
        AuditEvent { outcome: Some("done".into()), id: Some(id(n)), ..self.event(EventKind::Revoke) }
    }
}

fn id(n: u8) -> TokenId {
    TokenId::from_bytes([n; 16])
}

fn peer(uid: u32) -> PeerLabel {
    PeerLabel { pid: 42, uid, gid: uid, unit: Some("ci.service".to_owned()), container: None }
}

/// As after kill -9: no last look, no seal. What was written stays.
fn kill(audit: Audit) {
    let thread = lock(&audit.0.thread).take().unwrap();
    drop(audit);
    thread.join().unwrap();
}

async fn recorded(recording: Recording) -> Result<(), Unavailable> {
    match recording {
        Recording::Done => Ok(()),
        Recording::Wait(receipt) => receipt.wait().await,
        Recording::Unavailable => Err(Unavailable),
    }
}
