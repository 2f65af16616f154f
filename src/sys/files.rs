//! Files and directories that only their owner may reach.
//!
//! Invariant: what is opened here is the thing that was checked. A file is opened without following a link in its last
//! component and then judged by its descriptor, so that nothing can be put in its place between the two; the directories
//! above it are the caller's to check, with [`check_private_dir`]. Whatever is wrong is a refusal that says what to do:
//! nothing is repaired here, since wrong rights mean that somebody may have read or changed what is inside.
//!
//! A mode without bits for group and others also rules out access by ACL: the group bits are then the ACL's mask.

use std::fmt;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fchmod};

/// Mode of a private file, and the most that an existing one may have.
pub const PRIVATE_FILE: u32 = 0o600;
/// Mode of a private directory.
pub const PRIVATE_DIR: u32 = 0o700;

/// Why a file or directory is not used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Nothing is there. The caller decides whether to make it.
    #[error("there is no {}: create it, or correct the path", .path.display())]
    Missing {
        /// What was looked for.
        path: PathBuf,
    },
    /// Something is there already and would be overwritten. Nothing was changed.
    #[error("{} exists already and is not overwritten: move it away first", .path.display())]
    Exists {
        /// What is in the way.
        path: PathBuf,
    },
    /// The last component is a symbolic link, which somebody else may point elsewhere.
    #[error("{} is a symbolic link, and links are not followed here: put the real thing in its place", .path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// It is of another type: a directory for a file, a fifo, a device, a file for a directory.
    #[error("{} is {found}; it must be {wanted}: move it away, or correct the path", .path.display())]
    WrongType {
        /// What was looked at.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// It belongs to another user, who could have put anything into it.
    #[error("{path} belongs to uid {found}; it must belong to {owner}: check who changed it, then chown {uid} {path}", path = .path.display(), uid = .owner.uid())]
    WrongOwner {
        /// What was looked at.
        path: PathBuf,
        /// Whose it is.
        found: u32,
        /// Whose it may be.
        owner: Owner,
    },
    /// Its mode lets others in.
    #[error("{path} has mode {found:04o}; it must be {max:04o}: chmod {max:04o} {path}", path = .path.display())]
    WrongMode {
        /// What was looked at.
        path: PathBuf,
        /// Its permission bits.
        found: u32,
        /// The bits that it may have.
        max: u32,
    },
    /// A file with a second name, which may be in a directory that nobody checked.
    #[error("{path} has {names} names (hard links); it must have one: find the others with `find / -xdev -samefile {path}` and remove them", path = .path.display())]
    HardLinked {
        /// What was looked at.
        path: PathBuf,
        /// How many names it has.
        names: u64,
    },
    /// The system refused for another reason. The source says which.
    #[error("can't {doing} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Who may own a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This uid alone.
    Only(u32),
    /// This uid, or root, which could change the file anyway: for files that an administrator installs.
    OrRoot(u32),
}

impl Owner {
    const fn uid(self) -> u32 {
        match self {
            Self::Only(uid) | Self::OrRoot(uid) => uid,
        }
    }

    fn admits(self, uid: u32) -> bool {
        uid == self.uid() || (uid == 0 && matches!(self, Self::OrRoot(_)))
    }
}

impl From<u32> for Owner {
    fn from(uid: u32) -> Self {
        Self::Only(uid)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only(uid) | Self::OrRoot(uid @ 0) => write!(f, "uid {uid}"),
            Self::OrRoot(uid) => write!(f, "uid {uid} or root"),
        }
    }
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    ReadWrite,
    /// A file that must not exist yet, to read and write; its name is durable before this returns.
    CreateNew,
}

/// Opens a file that only its owner may read or write: at most mode 0600.
///
/// # Errors
/// [`FileError`], as its variants say. A file that was made and then found wrong is removed again.
pub fn open_private(path: &Path, access: Access, owner: impl Into<Owner>) -> Result<File, FileError> {
    open_checked(path, access, owner, PRIVATE_FILE)
}

/// As [`open_private`], for a file that may have the bits of `max_mode` (an audit log that a group reads, a credential).
///
/// # Errors
/// As [`open_private`].
pub fn open_checked(path: &Path, access: Access, owner: impl Into<Owner>, max_mode: u32) -> Result<File, FileError> {
    // O_NONBLOCK: a fifo in the file's place must be refused, not waited for. It means nothing for a regular file.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let flags = match access {
        Access::Read => flags | OFlag::O_RDONLY,
        Access::ReadWrite => flags | OFlag::O_RDWR,
        Access::CreateNew => flags | OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL,
    };
    let file = match open(path, flags, Mode::from_bits_truncate(max_mode)) {
        Ok(fd) => File::from(fd),
        Err(errno) => return Err(why_not_opened(path, errno)),
    };
    let checked = check_file(path, &file, owner.into(), max_mode);
    if access == Access::CreateNew {
        if checked.is_err() {
            let _ = fs::remove_file(path);
        } else {
            sync_parent(path)?;
        }
    }
    checked.map(|()| file)
}

/// Checks that `path` is a directory, not a link to one, of this owner, with no permission bits beyond `max_mode`.
///
/// # Errors
/// [`FileError`], as its variants say.
pub fn check_private_dir(path: &Path, owner: impl Into<Owner>, max_mode: u32) -> Result<(), FileError> {
    // Without a slash or a dot at the end, behind which a link would be followed.
    let path = path.components().as_path();
    let found = fs::symlink_metadata(path).map_err(|source| io_error("look at", path, source))?;
    if found.is_symlink() {
        return Err(FileError::Link { path: path.to_owned() });
    }
    if !found.is_dir() {
        return Err(FileError::WrongType { path: path.to_owned(), found: type_name(&found), wanted: "a directory" });
    }
    // Set-group-id and sticky let nobody in, and chmod(1) would not take them off a directory.
    check_rights(path, &found, owner.into(), 0o777, max_mode)
}

/// Makes a directory with exactly this mode, whatever the umask; its missing parents get 0700. Says whether it was made:
/// what is there already is left as it is, for [`check_private_dir`] to judge.
///
/// # Errors
/// [`FileError::Io`] when the system refuses.
pub fn create_private_dir(path: &Path, mode: u32) -> Result<bool, FileError> {
    let path = path.components().as_path();
    let failed = |source| io_error("create", path, source);
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(PRIVATE_DIR).create(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(failed(error)),
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    fchmod(made.as_fd(), Mode::from_bits_truncate(mode)).map_err(|errno| failed(errno.into()))?;
    sync_parent(path)?;
    Ok(true)
}

/// Writes a file that is there whole and durable, or not at all, and never over another.
///
/// The bytes go to a temporary file beside it, which gets its name only when it is synced and only if the name is free.
/// A crash before that may leave the temporary file, `.new-…`, which nothing reads.
///
/// # Errors
/// [`FileError::Exists`] when there is something of that name; [`FileError::Io`] when the system refuses.
pub fn write_new_private(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), FileError> {
    let failed = |source| io_error("write", path, source);
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(Permissions::from_mode(PRIVATE_FILE & mode))
        .tempfile_in(parent_of(path))
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    // The umask may have taken bits away.
    file.as_file().set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    match file.persist_noclobber(path) {
        Ok(_) => sync_parent(path),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(FileError::Exists { path: path.to_owned() })
        }
        Err(error) => Err(failed(error.error)),
    }
}

/// Makes the name of a file durable: fsync of the directory it is in. Without it a new file can be lost in a power cut
/// though its contents were synced.
///
/// # Errors
/// [`FileError::Io`].
pub fn sync_parent(path: &Path) -> Result<(), FileError> {
    let parent = parent_of(path);
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|source| io_error("sync", parent, source))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn check_file(path: &Path, file: &File, owner: Owner, max_mode: u32) -> Result<(), FileError> {
    let found = file.metadata().map_err(|source| io_error("look at", path, source))?;
    if !found.is_file() {
        return Err(FileError::WrongType { path: path.to_owned(), found: type_name(&found), wanted: "a regular file" });
    }
    check_rights(path, &found, owner, 0o7777, max_mode)?;
    // 0: removed by somebody since it was opened; nothing written to it would be found again.
    match found.nlink() {
        1 => Ok(()),
        0 => Err(FileError::Missing { path: path.to_owned() }),
        names => Err(FileError::HardLinked { path: path.to_owned(), names }),
    }
}

fn check_rights(path: &Path, found: &fs::Metadata, owner: Owner, bits: u32, max: u32) -> Result<(), FileError> {
    if !owner.admits(found.uid()) {
        return Err(FileError::WrongOwner { path: path.to_owned(), found: found.uid(), owner });
    }
    let mode = found.mode() & bits;
    if mode & !max != 0 {
        return Err(FileError::WrongMode { path: path.to_owned(), found: mode, max });
    }
    Ok(())
}

/// open(2) tells a link, a directory or a socket by an errno that says little; what is there says it better.
fn why_not_opened(path: &Path, errno: Errno) -> FileError {
    let path_buf = path.to_owned();
    match (errno, fs::symlink_metadata(path)) {
        (Errno::EEXIST, _) => FileError::Exists { path: path_buf },
        (Errno::ELOOP, Ok(found)) if found.is_symlink() => FileError::Link { path: path_buf },
        (Errno::EISDIR | Errno::ENXIO | Errno::ENODEV, Ok(found)) => {
            FileError::WrongType { path: path_buf, found: type_name(&found), wanted: "a regular file" }
        }
        _ => io_error("open", path, errno.into()),
    }
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> FileError {
    match source.kind() {
        io::ErrorKind::NotFound => FileError::Missing { path: path.to_owned() },
        _ => FileError::Io { doing, path: path.to_owned(), source },
    }
}

fn type_name(found: &fs::Metadata) -> &'static str {
    let kind = found.file_type();
    if kind.is_dir() {
        "a directory"
    } else if kind.is_file() {
        "a regular file"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_fifo() {
        "a fifo"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests;
