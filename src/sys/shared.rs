//! Words of memory that one process writes and others read: a sealed memfd (`memfd_create(2)`, `fcntl(2)`: File sealing).
//!
//! Invariant: whoever is handed the file can neither write it, nor change its length, nor take its seals off; so a
//! reader can't be made to die of SIGBUS by a file that is cut, and a writer need not fear its readers. Both sides go
//! only through atomics.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
#[cfg(feature = "daemon")]
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// What is sealed: its length, its seals, and every later way to write to it.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_FUTURE_WRITE)
    .union(SealFlag::F_SEAL_SEAL);

/// A shared mapping of a file of 64-bit words.
struct Mapping {
    words: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping belongs to this value, no part of it is tied to a thread, and it is only reached through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn of(file: BorrowedFd<'_>, count: usize, protection: ProtFlags) -> io::Result<Self> {
        let bytes =
            count.checked_mul(size_of::<u64>()).and_then(NonZeroUsize::new).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, file, 0)? };
        Ok(Self { words: start.cast(), count })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has `count` words, is page-aligned, lives as long as self, and its file can't get shorter
        // (it is sealed); every bit pattern is a u64, and whoever else changes them does so through atomics or not at
        // all. Through a mapping that is only readable nothing but relaxed loads is done, which the documentation of
        // `std::sync::atomic` allows there.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the whole of a mapping that we made, and nobody borrows from it any more.
        let _ = unsafe { munmap(self.words.cast(), self.count * size_of::<u64>()) };
    }
}

/// Words that this process writes, all zero at first, and the sealed file to hand to those who may read them.
#[cfg(feature = "daemon")]
pub struct OwnWords {
    mapping: Mapping,
    file: OwnedFd,
}

#[cfg(feature = "daemon")]
impl OwnWords {
    /// `count` words. All memory is taken now, so that no later write can fail.
    ///
    /// # Errors
    /// Of `memfd_create(2)`, `fallocate(2)` and `mmap(2)`: no memory or descriptors; EINVAL on a Linux before 5.1, which
    /// lacks F_SEAL_FUTURE_WRITE.
    pub fn new(name: &str, count: usize) -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        // It is data: nobody shall run it. Linux before 6.3 does not know how to say so.
        let file = match memfd_create(name, flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
            Err(nix::errno::Errno::EINVAL) => memfd_create(name, flags),
            file => file,
        }?;
        let bytes = i64::try_from(count * size_of::<u64>()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // Who is handed it needs no more than that; else it could be opened anew, and bear extended attributes of anybody.
        nix::sys::stat::fchmod(&file, nix::sys::stat::Mode::S_IRUSR)?;
        nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, bytes)?;
        // Before the seal: what is mapped writable then stays so, and nothing else ever will be.
        let mapping = Mapping::of(file.as_fd(), count, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
        Ok(Self { mapping, file })
    }

    /// The words.
    pub fn words(&self) -> &[AtomicU64] {
        self.mapping.words()
    }

    /// The file, for readers.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Words that another process writes.
pub struct Words {
    mapping: Mapping,
}

impl Words {
    /// Maps a file that was handed to us. It must have `count` words exactly, and all seals, or it might be cut under us.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when it is another file than that; those of `mmap(2)`.
    pub fn open(file: &OwnedFd, count: usize) -> io::Result<Self> {
        let sealed =
            fcntl(file, FcntlArg::F_GET_SEALS).is_ok_and(|seals| SealFlag::from_bits_retain(seals).contains(SEALS));
        let length = nix::sys::stat::fstat(file)?.st_size;
        if !sealed || usize::try_from(length).ok() != count.checked_mul(size_of::<u64>()) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self { mapping: Mapping::of(file.as_fd(), count, ProtFlags::PROT_READ)? })
    }

    /// A word, as an Acquire load would read it.
    ///
    /// # Panics
    /// When there is no such word.
    pub fn load(&self, word: usize) -> u64 {
        let value = self.mapping.words()[word].load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        value
    }

    /// How many words there are.
    pub fn count(&self) -> usize {
        self.mapping.count
    }
}

#[cfg(all(test, feature = "daemon"))]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::errno::Errno;
    use nix::sys::mman::mprotect;
    use nix::sys::uio::pwrite;
    use nix::unistd::ftruncate;

    use super::*;

    const COUNT: usize = 1024;

    fn handed(words: &OwnWords) -> OwnedFd {
        words.file().try_clone_to_owned().expect("a descriptor")
    }

    #[test]
    fn what_is_written_is_read() {
        let own = OwnWords::new("test", COUNT).expect("memfd");
        let theirs = Words::open(&handed(&own), COUNT).expect("sealed");
        assert_eq!(theirs.count(), COUNT);
        assert_eq!(theirs.load(7), 0);
        own.words()[7].store(42, Ordering::Release);
        assert_eq!(theirs.load(7), 42);
    }

    /// All that a process which was handed the file could try.
    #[test]
    fn a_reader_cannot_write_cut_grow_or_seal_it() {
        let own = OwnWords::new("test", COUNT).expect("memfd");
        let file = handed(&own);
        assert_eq!(pwrite(&file, &[1; 8], 0), Err(Errno::EPERM));
        assert_eq!(nix::unistd::write(&file, &[1; 8]), Err(Errno::EPERM));
        assert_eq!(ftruncate(&file, 0), Err(Errno::EPERM));
        assert_eq!(ftruncate(&file, 1 << 20), Err(Errno::EPERM));
        assert_eq!(fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)), Err(Errno::EPERM));
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let punch = nix::fcntl::FallocateFlags::from_bits_retain(punch);
        assert_eq!(nix::fcntl::fallocate(&file, punch, 0, 4096), Err(Errno::EPERM));
        let bytes = NonZeroUsize::new(COUNT * 8).expect("not zero");
        let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping touches no memory of ours; it is refused anyway.
        let mapped = unsafe { mmap(None, bytes, writable, MapFlags::MAP_SHARED, &file, 0) };
        assert_eq!(mapped, Err(Errno::EPERM));
        let theirs = Words::open(&file, COUNT).expect("sealed");
        // SAFETY: no more than the protection of the whole mapping is to be changed, and that is refused.
        let changed = unsafe { mprotect(theirs.mapping.words.cast(), COUNT * 8, writable) };
        assert_eq!(changed, Err(Errno::EACCES));
        // Nobody but its owner opens it anew, or writes to it what is no content.
        assert_eq!(nix::sys::stat::fstat(&file).expect("a file").st_mode & 0o7777, 0o400);
        // Opened anew for writing, by whoever may: the seals are of the file, not of the descriptor.
        let again = std::fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        if let Ok(again) = again {
            assert_eq!(pwrite(&again, &[1; 8], 0), Err(Errno::EPERM));
            assert!(again.set_len(0).is_err());
        }
        assert!(own.words().iter().all(|word| word.load(Ordering::Acquire) == 0));
        own.words()[0].store(9, Ordering::Release);
        assert_eq!(theirs.load(0), 9);
    }

    #[test]
    fn a_file_that_could_be_cut_is_not_mapped() {
        let refused = |file: &OwnedFd, count| {
            Words::open(file, count).err().map(|error| error.kind()) == Some(io::ErrorKind::InvalidData)
        };
        let own = OwnWords::new("test", COUNT).expect("memfd");
        assert!(refused(&handed(&own), COUNT - 1));
        assert!(refused(&handed(&own), COUNT + 1));
        let bare = memfd_create("bare", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("memfd");
        ftruncate(&bare, (COUNT * 8) as i64).expect("a length");
        assert!(refused(&bare, COUNT));
        // Each seal is needed.
        for missing in SEALS.iter() {
            let some = memfd_create("some", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("memfd");
            ftruncate(&some, (COUNT * 8) as i64).expect("a length");
            fcntl(&some, FcntlArg::F_ADD_SEALS(SEALS.difference(missing))).expect("sealed in part");
            assert!(refused(&some, COUNT), "{missing:?}");
        }
        let plain = OwnedFd::from(tempfile::tempfile().expect("a file"));
        ftruncate(&plain, (COUNT * 8) as i64).expect("a length");
        assert!(refused(&plain, COUNT));
        let (pipe, _) = nix::unistd::pipe().expect("a pipe");
        assert!(refused(&pipe, COUNT));
    }
}
