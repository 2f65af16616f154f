//! Memory for keys, and a process that leaves no core behind.
//!
//! Invariant I3: a key lies in pages that are never swapped out (`mlock(2)`), never dumped (`MADV_DONTDUMP`), empty in
//! a forked child (`MADV_WIPEONFORK`), and wiped before they are given back.

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use nix::sys::resource::{Resource, setrlimit};
use zeroize::Zeroize;

/// 32 bytes of key.
pub type LockedKey = Locked<32>;

/// `N` bytes in a mapping of their own. No `Debug`, no `Clone`: a key is where it is, once.
///
/// A page each, rather than an arena: the daemon holds half a dozen keys, and a page of one key can be unmapped, and so
/// made unreadable, with that key.
pub struct Locked<const N: usize> {
    bytes: NonNull<[u8; N]>,
}

// SAFETY: the mapping belongs to this value alone, no part of it is tied to a thread, and `&Locked` gives only `&[u8]`.
unsafe impl<const N: usize> Send for Locked<N> {}
// SAFETY: as above; there is no interior mutability.
unsafe impl<const N: usize> Sync for Locked<N> {}

impl<const N: usize> Locked<N> {
    /// Zeroes in locked memory, to be filled in place by `init`, so that the bytes are never anywhere else.
    ///
    /// When the pages can't be locked (RLIMIT_MEMLOCK) they are used all the same, and [`unlocked`] says so.
    ///
    /// # Errors
    /// That of `mmap(2)`: no memory, or no more mappings.
    pub fn new(init: impl FnOnce(&mut [u8; N])) -> io::Result<Self> {
        Self::try_new(|bytes| {
            init(bytes);
            Ok(())
        })
    }

    /// As [`Self::new`], with an `init` that can fail; what it has written by then is wiped.
    ///
    /// # Errors
    /// That of `init`, and those of [`Self::new`].
    pub fn try_new<E: From<io::Error>>(init: impl FnOnce(&mut [u8; N]) -> Result<(), E>) -> Result<Self, E> {
        let mut locked = Self::map()?;
        // SAFETY: the mapping is N readable and writable bytes, zeroed by the kernel, and we hold the only pointer to it.
        init(unsafe { locked.bytes.as_mut() })?;
        Ok(locked)
    }

    /// The bytes. Where they go from here is the caller's care.
    pub fn expose(&self) -> &[u8; N] {
        // SAFETY: the mapping lives as long as self, was initialised by the kernel and changes only through &mut self.
        unsafe { self.bytes.as_ref() }
    }

    fn map() -> io::Result<Self> {
        // The kernel rounds every length here up to whole pages.
        let length = NonZeroUsize::new(N).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new private mapping where the kernel likes: it aliases nothing.
        let page = unsafe {
            mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)
        }?;
        let locked = Self { bytes: page.cast() };
        // SAFETY: the range is the mapping just made; none of these calls moves or unmaps it.
        unsafe {
            madvise(page, N, MmapAdvise::MADV_DONTDUMP)?;
            // Only a second line of defence, and not in every sandbox: the daemon does not fork.
            let _ = madvise(page, N, MmapAdvise::MADV_WIPEONFORK);
            if mlock(page, N).is_err() {
                UNLOCKED.store(true, Ordering::Relaxed);
            }
        }
        Ok(locked)
    }
}

impl<const N: usize> Drop for Locked<N> {
    fn drop(&mut self) {
        // SAFETY: as in `expose`, and this is the last use: no reference outlives self.
        unsafe {
            self.bytes.as_mut().zeroize();
            // Fails only for a range that is no mapping; ours is one. Unmapping unlocks.
            let _ = munmap(self.bytes.cast(), N);
        }
    }
}

static UNLOCKED: AtomicBool = AtomicBool::new(false);

/// Whether some key of this process is in memory that could not be locked and may reach swap: raise `LimitMEMLOCK=`.
pub fn unlocked() -> bool {
    UNLOCKED.load(Ordering::Relaxed)
}

/// Makes this process leave no core dump, and keeps others of its uid from reading its memory.
///
/// Both are needed: RLIMIT_CORE alone does not bind a core handler that the kernel pipes to (core(5)), and
/// PR_SET_DUMPABLE also closes `/proc/PID/mem` and ptrace to processes of the same user.
///
/// # Errors
/// Those of `prctl(2)` and `setrlimit(2)`.
pub fn harden_process() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The `VmFlags` of the mapping that holds `address`, as the kernel shows them; none when nothing is mapped there.
    fn flags_at(address: usize) -> Option<Vec<String>> {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            if let Some(flags) = line.strip_prefix("VmFlags:") {
                if inside {
                    return Some(flags.split_whitespace().map(str::to_owned).collect());
                }
            } else if let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-')) {
                let from = usize::from_str_radix(from, 16).unwrap();
                inside = (from..usize::from_str_radix(to, 16).unwrap()).contains(&address);
            }
        }
        None
    }

    /// Runs one test of this file alone in a process of its own, since it changes the process.
    fn in_own_process(test: &str, body: impl FnOnce()) {
        const CHILD: &str = "BEARERD_TEST_OWN_PROCESS";
        if std::env::var_os(CHILD).is_some() {
            return body();
        }
        let path = format!("sys::memory::tests::{test}");
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &path, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the test {path} did not run");
    }

    #[test]
    fn a_key_lies_in_memory_that_is_not_swapped_dumped_or_inherited() {
        let key = LockedKey::new(|bytes| bytes.fill(7)).unwrap();
        assert_eq!(key.expose(), &[7; 32]);
        let flags = flags_at(key.expose().as_ptr() as usize).expect("it is mapped");
        let has = |flag: &str| flags.iter().any(|f| f == flag);
        assert!(has("dd"), "it would be in a core dump: {flags:?}");
        assert!(has("wf"), "a forked child would have it: {flags:?}");
        assert!(has("lo") || unlocked(), "it may be swapped out and nobody is told: {flags:?}");
    }

    #[test]
    fn a_failed_init_is_an_error_and_a_long_one_fits() {
        let failed = Locked::<32>::try_new(|_| Err(io::Error::from(io::ErrorKind::InvalidData)));
        assert_eq!(failed.err().unwrap().kind(), io::ErrorKind::InvalidData);
        let long = Locked::<5000>::new(|bytes| bytes[4999] = 1).unwrap();
        assert_eq!(long.expose()[4999], 1);
    }

    #[test]
    fn keys_go_to_other_threads() {
        fn is_send_and_sync<T: Send + Sync>() {}
        is_send_and_sync::<LockedKey>();
    }

    #[test]
    fn a_dropped_key_is_unmapped() {
        // Alone, so that no other thread maps something at the address meanwhile.
        in_own_process("a_dropped_key_is_unmapped", || {
            let key = Locked::<1_000_000>::new(|bytes| bytes.fill(7)).unwrap();
            let address = key.expose().as_ptr() as usize + 500_000;
            assert!(flags_at(address).is_some());
            drop(key);
            assert!(flags_at(address).is_none());
        });
    }

    #[test]
    fn without_leave_to_lock_it_works_and_says_so() {
        in_own_process("without_leave_to_lock_it_works_and_says_so", || {
            assert!(!unlocked());
            setrlimit(Resource::RLIMIT_MEMLOCK, 0, 0).unwrap();
            if nix::unistd::geteuid().is_root() {
                // CAP_IPC_LOCK passes the limit, so it has to go.
                let nobody = nix::unistd::Uid::from_raw(65_534);
                nix::unistd::setresuid(nobody, nobody, nobody).unwrap();
            }
            let key = LockedKey::new(|bytes| bytes.fill(7)).unwrap();
            assert_eq!(key.expose(), &[7; 32]);
            assert!(unlocked());
        });
    }

    #[test]
    fn a_hardened_process_leaves_no_core() {
        in_own_process("a_hardened_process_leaves_no_core", || {
            assert!(nix::sys::prctl::get_dumpable().unwrap());
            harden_process().unwrap();
            assert!(!nix::sys::prctl::get_dumpable().unwrap());
            assert_eq!(nix::sys::resource::getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        });
    }
}
