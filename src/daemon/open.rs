//! Opening what the daemon stands on: directories, store, keys, clock, audit log, socket.
//!
//! Invariants: a key is made only when there is no store; a store is never begun anew beside a log that knows of one; a
//! store that is older than its log is refused. Every refusal comes before the first write.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::exit::Failure;
use crate::audit::{Audit, AuditBoot, AuditEvent, AuditMac, AuditOptions, Seal, keyed_mac};
use crate::config::{Config, Mode, Paths, Unsynced};
use crate::store::{Boot, FileOptions, Store, StoreError, StoreFile, StoreOptions};
use crate::sys::files::{self, Access, FileError, PRIVATE_DIR};
use crate::sys::memory::LockedKey;
use crate::sys::net;
use crate::systemd::Inherited;
use crate::time::{Clock, TimeSource};
use crate::vault::{KeyHeader, KeySource, Keyring};

/// Mode of the native socket: policy decides who may do what.
const SOCKET_MODE: u32 = 0o666;
/// Mode of the directory of the log; its group may read.
const LOG_DIR_MODE: u32 = 0o750;

/// What everything else stands on.
pub struct Backbone {
    /// The truth.
    pub store: Store,
    /// The keys.
    pub keyring: Arc<Keyring>,
    /// The trail.
    pub audit: Audit,
    /// The time.
    pub clock: Arc<Clock>,
    /// What should be said in the log and in `status`.
    pub remarks: Vec<String>,
}

/// The socket and whether the kernel keeps pushed descriptors out of it.
pub struct Listener {
    /// Listens, non-blocking.
    pub socket: std::os::unix::net::UnixListener,
    /// SO_PASSRIGHTS is off.
    pub fds_refused_by_kernel: bool,
}

/// The audit key, for the chain.
struct ChainKey(Arc<LockedKey>);

impl AuditMac for ChainKey {
    fn mac(&self, previous: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
        keyed_mac(self.0.expose(), previous, bytes)
    }
}

/// A store file whose key is known, before the store may write.
struct Unlocked {
    file: StoreFile,
    keyring: Arc<Keyring>,
    boot: Boot,
    /// A new store: the header to write, and the name that the file has until it is whole.
    new: Option<(KeyHeader, PathBuf)>,
}

/// Opens or makes the store, unlocks its keys, starts the clock and the audit log.
///
/// # Errors
/// [`Failure`]: each says what is wrong and what to do; nothing was changed.
pub fn open(config: &Config, credentials: Option<&Path>, time: Box<dyn TimeSource>) -> Result<Backbone, Failure> {
    let uid = nix::unistd::geteuid().as_raw();
    prepare_directories(config, uid)?;
    let path = &config.store.path;
    let options = FileOptions { cache_bytes: config.store.cache_bytes as usize, ..FileOptions::default() };
    let unlocked = if path.symlink_metadata().is_ok() {
        unlock(config, credentials, uid, options)?
    } else {
        found(config, credentials, uid, options, &*time)?
    };
    let mut remarks = Vec::new();
    let clock = start_clock(config, time, &unlocked.boot, &mut remarks)?;
    let (audit, stored) = open_audit(config, &unlocked, Arc::clone(&clock), &mut remarks)?;
    let store = open_store(config, unlocked.file, &unlocked.keyring, &clock, unlocked.new)?;
    // From here on seals have a place to go.
    let _ = stored.set(store.clone());
    Ok(Backbone { store, keyring: unlocked.keyring, audit, clock, remarks })
}

/// Directories that are missing are made, private; those that are there must be private already.
fn prepare_directories(config: &Config, uid: u32) -> Result<(), Failure> {
    for file in [&config.store.path, &config.key_file] {
        let dir = parent(file);
        files::create_private_dir(dir, PRIVATE_DIR)?;
        files::check_private_dir(dir, uid, PRIVATE_DIR)?;
    }
    files::create_private_dir(parent(&config.audit.file), LOG_DIR_MODE)?;
    Ok(())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn store_failure(path: &Path) -> impl Fn(StoreError) -> Failure {
    move |source| Failure::Store { path: path.to_owned(), source }
}

/// An existing store: its own key, or a refusal.
fn unlock(config: &Config, credentials: Option<&Path>, uid: u32, options: FileOptions) -> Result<Unlocked, Failure> {
    let path = &config.store.path;
    let failed = store_failure(path);
    let file = files::open_private(path, Access::ReadWrite, uid)?;
    let file = StoreFile::from_file(file, options).map_err(&failed)?;
    let Some(header) = file.header() else { return Err(failed(StoreError::Empty)) };
    let header = KeyHeader::decode(header)?;
    let source = KeySource::find(credentials, &config.key_file, uid)?;
    let keyring = Arc::new(Keyring::unlock(&header, &source)?);
    let boot = file.boot(&*keyring).map_err(&failed)?;
    Ok(Unlocked { file, keyring, boot, new: None })
}

/// No store: a new one, under another name until it is whole, with the key that is there or a new one.
fn found(
    config: &Config,
    credentials: Option<&Path>,
    uid: u32,
    options: FileOptions,
    time: &dyn TimeSource,
) -> Result<Unlocked, Failure> {
    let path = &config.store.path;
    let failed = store_failure(path);
    if fs::metadata(&config.audit.file).is_ok_and(|log| log.len() > 0) {
        return Err(Failure::StoreGone { store: path.clone(), log: config.audit.file.clone() });
    }
    let temporary = path.with_extension("new");
    match files::open_private(&temporary, Access::ReadWrite, uid) {
        // Left by a start that was cut off; it never held a token. If its lock is held, another daemon is starting.
        Ok(left) => {
            if let Err(error @ StoreError::AlreadyOpen) = StoreFile::from_file(left, options).map(drop) {
                return Err(failed(error));
            }
            fs::remove_file(&temporary)
                .map_err(|source| Failure::Store { path: temporary.clone(), source: store_io("removed", source) })?;
        }
        Err(FileError::Missing { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let file = files::open_private(&temporary, Access::CreateNew, uid)?;
    let file = StoreFile::from_file(file, options).map_err(&failed)?;
    let credential = credentials.map(KeySource::from_credential).transpose()?.flatten();
    let source = match credential {
        Some(source) => source,
        None => match KeySource::from_file(&config.key_file, uid)? {
            Some(source) => source,
            None => KeySource::create_file(&config.key_file)?,
        },
    };
    let (keyring, header) = Keyring::create(&source, time.wall())?;
    let boot = Boot { generation: 0, mark: None, seal: None, outbox: Vec::new(), clean_stop: true };
    Ok(Unlocked { file, keyring: Arc::new(keyring), boot, new: Some((header, temporary)) })
}

fn store_io(doing: &'static str, cause: std::io::Error) -> StoreError {
    StoreError::Io { doing, cause: Arc::new(cause) }
}

fn start_clock(
    config: &Config,
    time: Box<dyn TimeSource>,
    boot: &Boot,
    remarks: &mut Vec<String>,
) -> Result<Arc<Clock>, Failure> {
    let behind = boot.mark.map(|mark| mark.time.since(time.wall())).unwrap_or_default();
    if !behind.is_zero() && !time.synchronised() {
        if config.unsynced == Unsynced::Refuse {
            return Err(Failure::Unsynced { behind_secs: behind.as_secs() });
        }
        if behind > crate::time::STEP_MAX {
            remarks.push(format!(
                "the clock is not synchronised and {} s behind the newest time that the store has seen: that time counts until the clock has passed it",
                behind.as_secs()
            ));
        }
    }
    Ok(Arc::new(Clock::new(time, boot.mark)))
}
