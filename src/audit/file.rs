//! audit.log as a file: opened strictly, appended to all or nothing, with room allocated ahead.
//!
//! Invariant: no link is followed, and nothing but a regular file of the daemon's own, that nobody else may write, is
//! taken. [`LogFile`] is what the writer needs of it, so that tests put a failing or blocking disk in its place.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::fstatvfs;

use super::AuditError;
use super::chain::{RawLine, read_line};
use super::shared::lock;

/// How far ahead room is allocated, in bytes.
pub(super) const RESERVE_AHEAD: u64 = 4 * 1024 * 1024;
/// Rotated files looked at, at most.
const SIBLINGS_MAX: usize = 1000;

/// What the file is, as fstat says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileState {
    pub(super) len: u64,
    pub(super) inode: u64,
    /// Its last name is gone: what is written would be lost with the handle.
    pub(super) deleted: bool,
}

/// Space on its file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) free_bytes: u64,
    pub(super) total_bytes: u64,
}

/// What the writer does with the log's file; one thread syncs it while another appends.
pub(super) trait LogFile: Send + Sync {
    /// Appends all of `bytes`; after an error any part of them may be in the file.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file to `len` bytes.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes what was written durable (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// Length and identity.
    fn state(&self) -> io::Result<FileState>;
    /// Allocates `len` bytes from `offset` on, without making the file longer. `Unsupported` where it can't be done.
    fn reserve(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Space on its file system.
    fn space(&self) -> io::Result<Space>;
    /// After a failed sync: takes a new handle, which knows of no old error, and writes the bytes from `from` to `to`
    /// again, because the kernel may hold them as clean although the disk has not got them.
    fn rewrite(&self, from: u64, to: u64) -> io::Result<()>;
    /// A handle of its own for reading from the beginning.
    fn reader(&self) -> io::Result<File>;
}

/// The real file.
pub(super) struct DiskLog {
    /// Another one after [`LogFile::rewrite`]. Only cloned under the lock, never used: a sync must hold up no append.
    file: Mutex<Arc<File>>,
}

impl DiskLog {
    /// Opens `path` for appending, or creates it with `mode`. The group is set if possible.
    pub(super) fn open(path: &Path, mode: u32, group: Option<u32>) -> Result<Self, AuditError> {
        let refused = |why: &'static str, todo: String| AuditError::Unsafe { path: path.to_owned(), why, todo };
        let failed = |source: io::Error| AuditError::Open { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).append(true).mode(mode).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK);
        let (file, made) = match options.open(path) {
            Ok(file) => (file, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (options.create_new(true).open(path).map_err(failed)?, true)
            }
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return Err(refused(
                    "is a link, which is not followed",
                    "put the real path in [audit] file".to_owned(),
                ));
            }
            Err(error) => return Err(failed(error)),
        };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(refused("is not a regular file", "move it away, or change [audit] file".to_owned()));
        }
        let own = nix::unistd::geteuid().as_raw();
        if metadata.uid() != own {
            return Err(refused("belongs to another user", format!("chown {own} {}", path.display())));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(refused("can be written by others", format!("chmod {mode:04o} {}", path.display())));
        }
        if made {
            // Whatever the umask took away; and the name itself must survive a power cut.
            file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(failed)?;
            if let Some(group) = group
                && let Err(error) = std::os::unix::fs::fchown(&file, None, Some(group))
            {
                tracing::warn!(path = %path.display(), group, %error, "audit.log keeps the daemon's own group");
            }
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        }
        Ok(Self { file: Mutex::new(Arc::new(file)) })
    }

    fn file(&self) -> Arc<File> {
        Arc::clone(&lock(&self.file))
    }
}

impl LogFile for DiskLog {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        (&*self.file()).write_all(bytes)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file().set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file().sync_data()
    }

    fn state(&self) -> io::Result<FileState> {
        let metadata = self.file().metadata()?;
        Ok(FileState { len: metadata.len(), inode: metadata.ino(), deleted: metadata.nlink() == 0 })
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        let (offset, len) = match (i64::try_from(offset), i64::try_from(len)) {
            (Ok(offset), Ok(len)) => (offset, len),
            _ => return Err(io::ErrorKind::FileTooLarge.into()),
        };
        match fallocate(self.file(), FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, len) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Err(io::ErrorKind::Unsupported.into()),
            result => Ok(result?),
        }
    }

    fn space(&self) -> io::Result<Space> {
        let stat = fstatvfs(self.file())?;
        // The types are not u64 on every architecture.
        #[allow(clippy::useless_conversion, reason = "u32 on 32-bit machines")]
        let of = |blocks| u64::from(stat.fragment_size()).saturating_mul(u64::from(blocks));
        Ok(Space { free_bytes: of(stat.blocks_available()), total_bytes: of(stat.blocks()) })
    }

    fn rewrite(&self, from: u64, to: u64) -> io::Result<()> {
        // Through /proc, because the name may be another file's by now.
        let own = format!("/proc/self/fd/{}", self.file().as_raw_fd());
        let fresh = OpenOptions::new().read(true).append(true).open(&own)?;
        let writer = OpenOptions::new().read(true).write(true).open(&own)?;
        let mut chunk = vec![0; 1024 * 1024];
        let mut at = from;
        while at < to {
            let len = usize::try_from(to - at).map_or(chunk.len(), |left| left.min(chunk.len()));
            writer.read_exact_at(&mut chunk[..len], at)?;
            writer.write_all_at(&chunk[..len], at)?;
            at += len as u64;
        }
        writer.sync_data()?;
        *lock(&self.file) = Arc::new(fresh);
        Ok(())
    }

    fn reader(&self) -> io::Result<File> {
        File::open(format!("/proc/self/fd/{}", self.file().as_raw_fd()))
    }
}

/// Reads a file from an offset of its own: several may read one handle at a time.
pub(super) struct ReadAt<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for ReadAt<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// A file of the log, opened for reading.
pub(super) struct Opened {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) inode: u64,
    pub(super) len: u64,
}

impl Opened {
    /// Opens without following a link; anything but a regular file is an error.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self { path: path.to_owned(), file, inode: metadata.ino(), len: metadata.len() })
    }

    /// Reads from `offset` on.
    pub(super) fn read_from(&self, offset: u64) -> BufReader<ReadAt<'_>> {
        BufReader::with_capacity(256 * 1024, ReadAt { file: &self.file, offset })
    }

    /// The time in its first line, as it is written there (such texts sort as the times do), and its number.
    fn first_line(&self) -> Option<([u8; 27], u64)> {
        let mut reader = self.read_from(0);
        let mut line = Vec::new();
        read_line(&mut reader, &mut line).ok()?;
        let time = line.strip_prefix(b"{\"time\":\"")?.get(..27)?.try_into().ok()?;
        Some((time, RawLine::parse(&line).map_or(0, |line| line.seq)))
    }
}

/// audit.log and its rotated, uncompressed siblings (`audit.log.1`, `audit.log-20261123`), oldest first, the current
/// one last. What can't be opened is left out: it is not the log's to complain about a neighbour.
pub(super) fn log_files(path: &Path) -> Vec<Opened> {
    let mut files = siblings(path);
    files.extend(Opened::open(path));
    files
}

/// The rotated files alone, oldest first.
pub(super) fn siblings(path: &Path) -> Vec<Opened> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?.file_name();
            let rest = entry.to_str()?.strip_prefix(name)?;
            // logrotate's `.1` and `dateext`; no compressed ones, and no copies that somebody keeps beside them.
            let digits = rest.strip_prefix(['.', '-'])?;
            let rotated = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit() || c == b'-');
            rotated.then(|| directory.join(&entry))
        })
        .take(SIBLINGS_MAX)
        .filter_map(|path| Opened::open(&path).ok())
        .filter_map(|opened| opened.first_line().map(|first| (first, opened)))
        .collect();
    files.sort_by(|(one, a), (other, b)| one.cmp(other).then_with(|| a.path.cmp(&b.path)));
    files.into_iter().map(|(_, opened)| opened).collect()
}

/// BLAKE3 of what is left to read: names what is cut off without keeping it.
pub(super) fn fingerprint(reader: &mut dyn Read) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut chunk)? {
            0 => return Ok(hasher.finalize().to_hex()[..16].to_owned()),
            read => hasher.update(&chunk[..read]),
        };
    }
}
