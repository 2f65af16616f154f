//! The file under the engine: [`Disk`], the real [`FileDisk`], and the backend that stands between it and redb.
//!
//! Invariants: a failed sync is never tried again; a block inside the file is allocated before the engine may write to
//! it, so that no write inside the file can fail for want of space; and the file is never made shorter, so that room
//! once had is kept. Tests put a simulated disk here, under the real engine.

use std::fmt::Debug;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::fstatvfs;

/// What is kept for changes that restrict when the disk is full: new tokens are refused when less is certain.
pub(super) const KEPT: u64 = 8 << 20;

/// Where the store lies: one random-access file.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether there is nothing in it.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }
    /// Fills `out` from `offset`; reading past the end is an error.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes all of `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Sets the length; what is new reads as zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Returns once everything written and the length are on the medium.
    fn sync(&self) -> io::Result<()>;
    /// Makes sure that writes to this range can't fail for want of space; the length stays, the range may lie past it.
    ///
    /// # Errors
    /// `Unsupported` where the file system can't; `StorageFull` or `QuotaExceeded` where it has no room.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Bytes that the file system still has for this file, beyond what is allocated.
    fn available(&self) -> io::Result<u64>;
    /// Takes the lock that keeps a second daemon out, until [`Self::unlock`] or the end of the value; false when another
    /// holds it.
    fn try_lock(&self) -> io::Result<bool>;
    /// Gives the lock back.
    fn unlock(&self) -> io::Result<()>;
}

/// A file of the file system. Path, owner and mode were checked by whoever opened it.
#[derive(Debug)]
pub struct FileDisk(File);

impl FileDisk {
    /// Wraps a file that is open for reading and writing.
    pub fn new(file: File) -> Self {
        Self(file)
    }
}

impl Disk for FileDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let (offset, len) = (offset.try_into().map_err(too_large)?, len.try_into().map_err(too_large)?);
        loop {
            match fallocate(&self.0, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, len) {
                Err(nix::errno::Errno::EINTR) => {}
                result => return result.map_err(io::Error::from),
            }
        }
    }

    fn available(&self) -> io::Result<u64> {
        let fs = fstatvfs(&self.0)?;
        // Some types differ in width between targets.
        #[allow(clippy::unnecessary_cast, reason = "u32 on 32-bit targets")]
        Ok((fs.blocks_available() as u64).saturating_mul(fs.fragment_size() as u64))
    }

    /// flock(2): held by the open file, so it also keeps out another opening within this process, and any redb tool.
    fn try_lock(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        self.0.unlock()
    }
}

/// What the backend saw, and what the writer needs to know after an error. Lives as long as the disk, over reopenings.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    sync_failed: AtomicBool,
    /// Bytes that were written to pages since the writer last asked.
    written: AtomicU64,
    /// Bytes by which the engine made its file longer since the writer last asked.
    grown: AtomicU64,
    /// The end of what is allocated, at or past the end of the file.
    allocated_end: AtomicU64,
}

impl Gauge {
    /// Whether a sync has ever failed.
    pub(super) fn sync_failed(&self) -> bool {
        self.sync_failed.load(Ordering::Acquire)
    }

    /// Bytes written to pages, and bytes grown, since the last call.
    pub(super) fn take(&self) -> (u64, u64) {
        (self.written.swap(0, Ordering::Relaxed), self.grown.swap(0, Ordering::Relaxed))
    }

    /// The end of what is allocated ahead, if that is known to lie past `len`.
    pub(super) fn allocated_past(&self, len: u64) -> u64 {
        self.allocated_end.load(Ordering::Relaxed).saturating_sub(len)
    }

    /// Notes that everything up to `end` is allocated.
    pub(super) fn note_allocated(&self, end: u64) {
        self.allocated_end.fetch_max(end, Ordering::Relaxed);
    }
}

/// What the engine wrote while nothing was to be written yet: opening it writes, and so does closing it again.
///
/// A store that is refused (another format, the wrong key, older than the audit log) is to be left as it was. So until
/// [`Medium::release`] writes stay here, and reads see them.
#[derive(Debug, Default)]
struct Stage {
    active: AtomicBool,
    writes: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl Stage {
    fn writes(&self) -> MutexGuard<'_, Vec<(u64, Vec<u8>)>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut writes = self.writes();
        match writes.iter_mut().find(|(at, there)| *at == offset && there.len() == data.len()) {
            Some((_, there)) => there.copy_from_slice(data),
            None => writes.push((offset, data.to_vec())),
        }
    }

    /// Reads from the disk as far as it goes, and what is staged over it.
    fn read(&self, disk: &dyn Disk, offset: u64, out: &mut [u8]) -> io::Result<()> {
        out.fill(0);
        let on_disk = disk.len()?.saturating_sub(offset).min(out.len() as u64) as usize;
        disk.read(offset, &mut out[..on_disk])?;
        let end = offset + out.len() as u64;
        for (at, data) in self.writes().iter() {
            let (from, to) = (offset.max(*at), end.min(at + data.len() as u64));
            if from < to {
                out[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&data[(from - at) as usize..(to - at) as usize]);
            }
        }
        Ok(())
    }
}

/// A disk with its gauge.
#[derive(Clone, Debug)]
pub(super) struct Medium {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) gauge: Arc<Gauge>,
    stage: Arc<Stage>,
}

impl Medium {
    /// What the engine writes is written.
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, gauge: Arc::default(), stage: Arc::default() }
    }

    /// What the engine writes is held back until [`Self::release`].
    pub(super) fn staged(disk: Arc<dyn Disk>) -> Self {
        let medium = Self::new(disk);
        medium.stage.active.store(true, Ordering::Release);
        medium
    }

    /// Writes what was held back, and syncs it: from now on writes are written.
    pub(super) fn release(&self) -> io::Result<()> {
        let writes = std::mem::take(&mut *self.stage.writes());
        self.stage.active.store(false, Ordering::Release);
        let end = writes.iter().map(|(at, data)| at + data.len() as u64).max().unwrap_or(0);
        let there = self.disk.len()?;
        if end > there {
            self.allocate(there, end - there + KEPT)?;
            self.disk.set_len(end)?;
        }
        for (at, data) in writes {
            self.disk.write(at, &data)?;
        }
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        if self.gauge.sync_failed() {
            return Err(io::Error::other("an earlier sync failed, and is not tried again"));
        }
        self.disk.sync().inspect_err(|_| self.gauge.sync_failed.store(true, Ordering::Release))
    }

    /// A backend for one opening of the engine; its length is the whole file's.
    pub(super) fn backend(&self) -> io::Result<Backend> {
        Ok(Backend { len: AtomicU64::new(self.disk.len()?), medium: self.clone() })
    }

    /// Makes the file `bytes` longer, within what is allocated or by allocating: the engine takes the new length for
    /// its own when it is next opened.
    pub(super) fn extend(&self, bytes: u64) -> io::Result<()> {
        let len = self.disk.len()?;
        self.allocate(len, bytes)?;
        self.disk.set_len(len + bytes)
    }

    /// Allocates, where the file system can; elsewhere a full disk shows only when a write fails.
    pub(super) fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.disk.allocate(offset, len) {
            Ok(()) => {
                self.gauge.note_allocated(offset + len);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// What redb writes through.
///
/// No range locks: the whole file is locked once by [`Disk::try_lock`], and stays so while the engine is closed and
/// opened again after an error, when redb's own locks would let another process in.
#[derive(Debug)]
pub(super) struct Backend {
    medium: Medium,
    /// The length as the engine has set it; the file may be longer.
    len: AtomicU64,
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len.load(Ordering::Acquire))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let Medium { disk, stage, .. } = &self.medium;
        if stage.is_active() { stage.read(&**disk, offset, out) } else { disk.read(offset, out) }
    }

    /// Longer: allocate first, so that the writes that follow find their blocks; and what is kept for revocations must
    /// still be there behind it, or the growth is refused while it is. Shorter: only remembered. redb trims
    /// free pages at a commit and at close; giving the blocks back could not be undone on a full disk. A file that is
    /// longer than redb's header says is taken whole when it is next opened.
    fn set_len(&self, len: u64) -> io::Result<()> {
        let disk = &self.medium.disk;
        let there = disk.len()?;
        if len > there && !self.medium.stage.is_active() {
            self.medium.allocate(there, len - there + KEPT)?;
            disk.set_len(len)?;
        }
        let before = self.len.swap(len, Ordering::AcqRel);
        self.medium.gauge.grown.fetch_add(len.saturating_sub(before), Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.medium.stage.is_active() { Ok(()) } else { self.medium.sync() }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let Medium { disk, gauge, stage } = &self.medium;
        gauge.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        if stage.is_active() {
            stage.write(offset, data);
            return Ok(());
        }
        disk.write(offset, data)
    }
}

#[cfg(test)]
mod tests {
    use redb::StorageBackend;

    use super::*;

    /// Zeros of any length, and a count of syncs, which all fail.
    #[derive(Debug, Default)]
    struct FailingSync {
        len: AtomicU64,
        syncs: AtomicU64,
    }

    impl Disk for FailingSync {
        fn len(&self) -> io::Result<u64> {
            Ok(self.len.load(Ordering::Relaxed))
        }

        fn read(&self, _: u64, out: &mut [u8]) -> io::Result<()> {
            out.fill(0);
            Ok(())
        }

        fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.len.store(len, Ordering::Relaxed);
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            self.syncs.fetch_add(1, Ordering::Relaxed);
            Err(io::Error::from_raw_os_error(5))
        }

        fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn available(&self) -> io::Result<u64> {
            Ok(0)
        }

        fn try_lock(&self) -> io::Result<bool> {
            Ok(true)
        }

        fn unlock(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_failed_sync_is_not_tried_again() {
        let disk = Arc::new(FailingSync::default());
        let medium = Medium::new(Arc::clone(&disk) as Arc<dyn Disk>);
        for _ in 0..3 {
            // Another opening of the engine makes no difference.
            assert!(medium.backend().expect("len").sync_data().is_err());
        }
        assert!(medium.gauge.sync_failed());
        assert_eq!(disk.syncs.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_file_is_never_made_shorter() {
        let disk = Arc::new(FailingSync::default());
        let medium = Medium::new(Arc::clone(&disk) as Arc<dyn Disk>);
        let backend = medium.backend().expect("len");
        backend.set_len(100_000).expect("longer");
        backend.set_len(40_000).expect("shorter");
        assert_eq!((backend.len().expect("len"), Disk::len(&*disk).expect("len")), (40_000, 100_000));
        assert_eq!(medium.gauge.take(), (0, 100_000));
        assert_eq!(medium.gauge.allocated_past(100_000), KEPT);
        // The next opening has all of it.
        assert_eq!(medium.backend().expect("len").len().expect("len"), 100_000);
    }

    #[test]
    fn staged_writes_are_seen_and_come_to_the_disk_only_when_released() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(8192).expect("its length");
        let disk = Arc::new(FileDisk::new(file));
        let medium = Medium::staged(Arc::clone(&disk) as Arc<dyn Disk>);
        let backend = medium.backend().expect("len");
        backend.write(4096, &[1; 100]).expect("staged");
        backend.write(4096, &[2; 100]).expect("staged over it");
        backend.write(4100, &[3; 4]).expect("staged within it");
        backend.set_len(12_288).expect("staged");
        backend.write(8192, &[4; 10]).expect("staged past the end");
        backend.sync_data().expect("nothing to sync");
        let read = |backend: &Backend, offset, len| {
            let mut bytes = vec![9; len];
            backend.read(offset, &mut bytes).map(|()| bytes)
        };
        assert_eq!(read(&backend, 4094, 8).expect("read"), [0, 0, 2, 2, 2, 2, 3, 3]);
        assert_eq!(read(&backend, 8190, 4).expect("read"), [0, 0, 4, 4]);
        let mut on_disk = [9; 8192];
        disk.read(0, &mut on_disk).expect("read");
        assert_eq!((on_disk, Disk::len(&*disk).expect("len")), ([0; 8192], 8192));
        medium.release().expect("released");
        assert_eq!(read(&medium.backend().expect("len"), 4094, 8).expect("read"), [0, 0, 2, 2, 2, 2, 3, 3]);
        backend.write(0, &[7]).expect("written");
        disk.read(0, &mut on_disk).expect("read");
        assert_eq!((on_disk[0], on_disk[4103], on_disk[4104]), (7, 3, 2));
    }
}
