//! The files to be read, opened.
//!
//! Invariant: nothing outside of the trees that were named is opened, whatever is renamed or linked meanwhile. Each step
//! down is taken from the open directory above by one name (`openat` with `O_NOFOLLOW`), so that no link met on the way
//! is followed, and only what is a regular file once it is open is read. Devices, FIFOs and sockets are not opened at
//! all: opening alone may wait, rewind a tape or arm a watchdog. Memory and descriptors follow the depth of a tree, not
//! its breadth.

use std::ffi::{CStr, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::dir::{Dir, OwningIter, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::sys::statfs::{self, FsType, fstatfs};

use super::find;
use super::findings::{Findings, Source, shown};
use super::stream::Place;

/// File systems of the kernel: what is in them is made while it is read, may be endless, may wait, and is of no use as a
/// copy. They are entered only when they are named.
const KERNEL: [FsType; 12] = [
    statfs::PROC_SUPER_MAGIC,
    statfs::SYSFS_MAGIC,
    statfs::CGROUP_SUPER_MAGIC,
    statfs::CGROUP2_SUPER_MAGIC,
    statfs::DEBUGFS_MAGIC,
    statfs::TRACEFS_MAGIC,
    statfs::SECURITYFS_MAGIC,
    statfs::BPF_FS_MAGIC,
    statfs::DEVPTS_SUPER_MAGIC,
    statfs::SELINUX_MAGIC,
    statfs::RDTGROUP_SUPER_MAGIC,
    statfs::NSFS_MAGIC,
];

/// Never waits, and never takes a terminal.
const OPEN: OFlag = OFlag::O_RDONLY.union(OFlag::O_CLOEXEC).union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

/// A regular file, open.
pub(super) struct Opened {
    pub file: File,
    pub source: Arc<Source>,
    /// Its length when it was opened, which is as far as it is read: a log may grow faster. `None` where the kernel
    /// does not know.
    pub len: Option<u64>,
}

/// A directory on the way.
struct Level {
    dir: OwnedFd,
    entries: OwningIter,
    path: PathBuf,
    device: u64,
}

/// Gives every regular file at and below `path` to `each`, which says whether more are wanted.
pub(super) fn walk(path: &Path, findings: &Mutex<Findings>, each: &mut dyn FnMut(Opened) -> bool) {
    let mut walk = Walk { findings, levels: Vec::new() };
    match walk.named(path) {
        Ok(Some(opened)) => {
            each(opened);
        }
        Ok(None) => while walk.step(each) {},
        Err(error) => walk.unreadable(path, &error),
    }
}

struct Walk<'a> {
    findings: &'a Mutex<Findings>,
    levels: Vec<Level>,
}

impl Walk<'_> {
    /// What stands on the command line is followed, if it is a link: who wrote it there means what it leads to.
    fn named(&mut self, path: &Path) -> io::Result<Option<Opened>> {
        let other = || io::Error::other("neither a file nor a directory; to look into it: bearerctl scan - < FILE");
        let kind = fs::metadata(path)?.file_type();
        if !kind.is_file() && !kind.is_dir() {
            return Err(other());
        }
        let file = File::options().read(true).custom_flags(OPEN.bits()).open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            self.enter(file.into(), path.to_owned(), metadata.dev())?;
            Ok(None)
        } else if metadata.is_file() {
            Ok(Some(self.opened(file, path, metadata.len())))
        } else {
            Err(other())
        }
    }

    fn enter(&mut self, dir: OwnedFd, path: PathBuf, device: u64) -> io::Result<()> {
        let entries = Dir::from_fd(dir.try_clone()?)?.into_iter();
        self.levels.push(Level { dir, entries, path, device });
        Ok(())
    }

    /// The next entry of the innermost directory; `false` when all is done, or no more is wanted.
    fn step(&mut self, each: &mut dyn FnMut(Opened) -> bool) -> bool {
        let Some(level) = self.levels.last_mut() else { return false };
        let entry = match level.entries.next() {
            Some(Ok(entry)) => entry,
            Some(Err(errno)) => {
                let path = level.path.clone();
                self.levels.pop();
                self.unreadable(&path, &errno.into());
                return true;
            }
            None => {
                self.levels.pop();
                return true;
            }
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            return true;
        }
        let path = level.path.join(OsStr::from_bytes(name.to_bytes()));
        self.look_at_name(name, &path);
        match self.open(name, entry.file_type(), &path) {
            Ok(Some(opened)) => return each(opened),
            Ok(None) => {}
            // Gone since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Something else since it was listed.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR | libc::ENXIO)) => {
                self.note(|findings| findings.skipped += 1);
            }
            Err(error) => self.unreadable(&path, &error),
        }
        true
    }

    /// Opens an entry of the innermost directory: `None` for what is entered or passed by.
    fn open(&mut self, name: &CStr, kind: Option<Type>, path: &Path) -> io::Result<Option<Opened>> {
        let level = self.levels.last().expect("an entry is in a directory");
        // Not every file system says in its listing what things are.
        let kind = match kind {
            Some(kind) => Some(kind),
            None => kind_at(level.dir.as_fd(), name)?,
        };
        let (flags, device) = match kind {
            Some(Type::Directory) => (OFlag::O_DIRECTORY, level.device),
            Some(Type::File) => (OFlag::empty(), level.device),
            _ => {
                self.note(|findings| findings.skipped += 1);
                return Ok(None);
            }
        };
        let file = File::from(openat(&level.dir, name, OPEN | OFlag::O_NOFOLLOW | flags, Mode::empty())?);
        let metadata = file.metadata()?;
        if metadata.is_dir() && kind == Some(Type::Directory) {
            if metadata.dev() != device && KERNEL.contains(&fstatfs(&file)?.filesystem_type()) {
                self.note(|findings| findings.skipped += 1);
            } else {
                self.enter(file.into(), path.to_owned(), metadata.dev())?;
            }
            Ok(None)
        } else if metadata.is_file() {
            Ok(Some(self.opened(file, path, metadata.len())))
        } else {
            Err(Errno::ENXIO.into())
        }
    }

    fn opened(&self, file: File, path: &Path, len: u64) -> Opened {
        let source = self.note(|findings| findings.source(path));
        Opened { file, source, len: (len > 0).then_some(len) }
    }

    /// A token may be part of a name, too.
    fn look_at_name(&self, name: &CStr, path: &Path) {
        find::tokens(name.to_bytes(), 0..name.count_bytes(), |hit| {
            self.note(|findings| {
                let source = findings.source(path);
                findings.add(&source, Place::Name, hit);
            });
        });
    }

    fn unreadable(&self, path: &Path, error: &io::Error) {
        self.note(|findings| findings.unreadable(shown(path), error));
    }

    fn note<T>(&self, take: impl FnOnce(&mut Findings) -> T) -> T {
        take(&mut self.findings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn kind_at(dir: impl AsFd, name: &CStr) -> io::Result<Option<Type>> {
    let mode = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode;
    Ok(match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => Some(Type::Directory),
        SFlag::S_IFREG => Some(Type::File),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::{AtomicBool, Ordering};

    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    use nix::unistd::mkfifo;

    use super::*;

    /// What is in the files that are found, and what came of the rest.
    fn walked(path: &Path) -> (BTreeSet<String>, Findings) {
        let findings = Mutex::new(Findings::default());
        let mut all = BTreeSet::new();
        walk(path, &findings, &mut |mut opened| {
            let mut text = String::new();
            opened.file.read_to_string(&mut text).unwrap();
            all.insert(text)
        });
        (all, findings.into_inner().unwrap())
    }

    fn texts(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn links_and_what_is_no_file_are_passed_by() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("tree/deep/er")).unwrap();
        fs::create_dir(path("outside")).unwrap();
        fs::write(path("outside/file"), "outside").unwrap();
        fs::write(path("tree/file"), "file").unwrap();
        fs::write(path("tree/deep/er/file"), "deeper").unwrap();
        symlink("../outside", path("tree/link")).unwrap();
        symlink("../../outside/file", path("tree/deep/link")).unwrap();
        symlink("file", path("tree/inside")).unwrap();
        symlink(".", path("tree/circle")).unwrap();
        mkfifo(&path("tree/fifo"), Mode::S_IRWXU).unwrap();
        let _listener = UnixListener::bind(path("tree/socket")).unwrap();

        let (found, findings) = walked(&path("tree"));
        assert_eq!((found, findings.skipped, findings.unreadable_count), (texts(&["file", "deeper"]), 6, 0));
        // What is named is followed, once.
        let (found, findings) = walked(&path("tree/link"));
        assert_eq!((found, findings.unreadable_count), (texts(&["outside"]), 0));
        assert_eq!(walked(&path("tree/deep/link")).0, texts(&["outside"]));
        for other in ["tree/fifo", "tree/socket", "absent", "tree/file/below"] {
            let (found, findings) = walked(&path(other));
            assert_eq!((found.len(), findings.unreadable_count), (0, 1), "{other}");
            assert!(findings.unreadable[0].name.ends_with(other));
        }
    }

    /// Ends the other thread, also when this one fails.
    struct End<'a>(&'a AtomicBool);

    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// A directory becomes a link, and back, while it is walked: nothing behind the link is ever opened.
    #[test]
    fn a_directory_that_turns_into_a_link_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("tree/a/b")).unwrap();
        fs::create_dir_all(path("outside/b")).unwrap();
        fs::write(path("tree/a/b/file"), "inside").unwrap();
        fs::write(path("outside/b/file"), "outside").unwrap();
        fs::write(path("tree/file"), "file").unwrap();
        symlink(path("outside"), path("link")).unwrap();
        symlink(path("outside/b/file"), path("link-to-file")).unwrap();
        let over = AtomicBool::new(false);
        let exchange = |a: PathBuf, b: PathBuf| {
            renameat2(AT_FDCWD, &a, AT_FDCWD, &b, RenameFlags::RENAME_EXCHANGE).unwrap();
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    exchange(path("tree/a"), path("link"));
                    exchange(path("tree/file"), path("link-to-file"));
                }
            });
            let _end = End(&over);
            let (mut inside, mut passed) = (0, 0);
            for _ in 0..3000 {
                let (found, findings) = walked(&path("tree"));
                assert!(!found.contains("outside"), "followed a link");
                assert_eq!(findings.unreadable_count, 0, "{}", findings.unreadable[0].why);
                inside += found.len();
                passed += findings.skipped;
            }
            // Both were seen, or this shows nothing.
            assert!(inside > 0 && passed > 0, "{inside} {passed}");
        });
    }

    /// Deeper than descriptors reach: what can't be entered is named, and the rest is read.
    #[test]
    fn a_tree_without_a_bottom_is_named_where_it_can_go_no_further() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = OwnedFd::from(File::open(dir.path()).unwrap());
        for _ in 0..1500 {
            nix::sys::stat::mkdirat(&deep, "d", Mode::S_IRWXU).unwrap();
            deep = openat(&deep, "d", OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        }
        fs::write(dir.path().join("file"), "file").unwrap();
        let (found, findings) = walked(dir.path());
        assert_eq!(found, texts(&["file"]));
        let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        assert!(findings.unreadable_count == 1 || most > 2000, "{}", findings.unreadable_count);
    }

    #[test]
    fn a_name_that_is_a_token_is_a_find_and_is_shown_without_its_secret() {
        let token = "brdm_01M844DZG0FAY828T5CY4TQKFF_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf2b9MjO";
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(format!("{token}.d"))).unwrap();
        fs::write(dir.path().join(format!("{token}.d/a")), "a").unwrap();
        let (found, findings) = walked(dir.path());
        assert_eq!((found, findings.finds.len()), (texts(&["a"]), 1));
        assert!(findings.finds[0].source.name.ends_with("brdm_01M844DZG0FAY828T5CY4TQKFF_….d"));
        assert_eq!(findings.finds[0].place, Place::Name);
    }
}
