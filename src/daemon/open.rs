//! Opening what the daemon stands on: directories, store, keys, clock, audit log, socket.
//!
//! Invariants: a key is made only when there is no store; a store is never begun anew beside a log that knows of one; a
//! store that is older than its log is refused. An existing store is not written before every check of it and
//! of its log has passed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::exit::Failure;
use crate::audit::{Audit, AuditBoot, AuditEvent, AuditMac, AuditOptions, LogState, OpenReport, Seal, keyed_mac};
use crate::config::{Config, Unsynced};
use crate::page::{self, Takeover};
use crate::store::{Boot, FileOptions, Store, StoreError, StoreFile, StoreOptions};
use crate::sys::files::{self, Access, FileError, Owner, PRIVATE_DIR};
use crate::sys::memory::LockedKey;
use crate::sys::net;
use crate::systemd::Inherited;
use crate::time::{Clock, TimeSource};
use crate::vault::{KeyHeader, KeySource, Keyring, VaultError};

/// Mode of the native socket: policy decides who may do what.
const SOCKET_MODE: u32 = 0o666;
/// Mode of the socket's directory, where we make it.
const SOCKET_DIR_MODE: u32 = 0o755;
/// Mode of the directory of the log; its group may read.
pub(super) const LOG_DIR_MODE: u32 = 0o750;
/// The most that it may have: the group's business is its administrator's.
const LOG_DIR_MODE_MAX: u32 = 0o775;
/// Whose members may read the log, where there is such a group.
const LOG_GROUP: &str = "adm";

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
    /// What says to every cache on the host that its verdicts are stale.
    pub page: Arc<page::Served>,
    /// When no cache counts any more that the last daemon filled.
    pub takeover: Takeover,
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
pub(super) struct ChainKey(pub(super) Arc<LockedKey>);

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
/// [`Failure`]: each says what is wrong and what to do.
pub fn open(config: &Config, credentials: Option<&Path>, time: Box<dyn TimeSource>) -> Result<Backbone, Failure> {
    let uid = nix::unistd::geteuid().as_raw();
    open_with(config, time, |time| {
        let options = FileOptions { cache_bytes: config.store.cache_bytes as usize, ..FileOptions::default() };
        if config.store.path.symlink_metadata().is_ok() {
            unlock(config, uid, options, || KeySource::find(credentials, &config.key_file, uid))
        } else {
            found(config, credentials, uid, options, time)
        }
    })
}

/// The same for a store that must be there, with this key.
///
/// # Errors
/// As [`open`].
pub fn open_by(config: &Config, source: KeySource, time: Box<dyn TimeSource>) -> Result<Backbone, Failure> {
    let uid = nix::unistd::geteuid().as_raw();
    open_with(config, time, |_| unlock(config, uid, FileOptions::default(), || Ok(source)))
}

fn open_with(
    config: &Config,
    time: Box<dyn TimeSource>,
    unlock: impl FnOnce(&dyn TimeSource) -> Result<Unlocked, Failure>,
) -> Result<Backbone, Failure> {
    prepare_directories(config, nix::unistd::geteuid().as_raw())?;
    let _alone = start_alone(&config.store.path)?;
    let unlocked = unlock(&*time)?;
    let mut remarks = Vec::new();
    let clock = start_clock(config, time, &unlocked.boot, &mut remarks)?;
    // The store's lock is ours.
    let takeover = Takeover::begin(Arc::clone(&clock), unlocked.boot.clean_stop);
    let page = Arc::new(page::Writer::shared().map_err(Failure::Page)?);
    let (audit, stored) = open_audit(config, &unlocked, Arc::clone(&clock), &mut remarks)?;
    let options = StoreOptions { epochs: Some(Arc::clone(&page) as _), ..StoreOptions::default() };
    let store = open_store(config, unlocked.file, &unlocked.keyring, &clock, options, unlocked.new)?;
    // From here on seals have a place to go.
    let _ = stored.set(store.clone());
    Ok(Backbone { store, keyring: unlocked.keyring, audit, clock, page, takeover, remarks })
}

/// Directories that are missing are made, private; those that are there must be private already.
pub(super) fn prepare_directories(config: &Config, uid: u32) -> Result<(), Failure> {
    for file in [&config.store.path, &config.key_file] {
        let dir = parent(file);
        files::create_private_dir(dir, PRIVATE_DIR)?;
        files::check_private_dir(dir, uid, PRIVATE_DIR)?;
    }
    let log = parent(&config.audit.file);
    files::create_private_dir(log, LOG_DIR_MODE)?;
    // It may be a link to a larger disk; but whoever can write where it leads can take the trail away.
    let log =
        fs::canonicalize(log).map_err(|source| FileError::Io { doing: "look at", path: log.to_owned(), source })?;
    files::check_private_dir(&log, Owner::OrRoot(uid), LOG_DIR_MODE_MAX)?;
    Ok(())
}

/// One daemon starts at a time, until the store itself is locked and has its name: two that both found none would take
/// each other's unfinished file, and write to one log.
pub(super) fn start_alone(store: &Path) -> Result<fs::File, Failure> {
    let failed = store_failure(store);
    let dir = fs::File::open(parent(store)).map_err(|error| failed(store_io("begun alone", error)))?;
    match dir.try_lock() {
        Ok(()) => Ok(dir),
        Err(fs::TryLockError::WouldBlock) => Err(failed(StoreError::AlreadyOpen)),
        Err(fs::TryLockError::Error(error)) => Err(failed(store_io("begun alone", error))),
    }
}

pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(super) fn store_failure(path: &Path) -> impl Fn(StoreError) -> Failure {
    move |source| Failure::Store { path: path.to_owned(), source }
}

/// An existing store: its own key, or a refusal.
fn unlock(
    config: &Config,
    uid: u32,
    options: FileOptions,
    source: impl FnOnce() -> Result<KeySource, VaultError>,
) -> Result<Unlocked, Failure> {
    let path = &config.store.path;
    let failed = store_failure(path);
    let file = files::open_private(path, Access::ReadWrite, uid)?;
    let file = StoreFile::from_file(file, options).map_err(&failed)?;
    let Some(header) = file.header() else { return Err(failed(StoreError::Empty)) };
    let header = KeyHeader::decode(header)?;
    let keyring = Arc::new(Keyring::unlock(&header, &source()?)?);
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
    if let Some(log) = known_log(&config.audit.file) {
        return Err(Failure::StoreGone { store: path.clone(), log });
    }
    let temporary = path.with_extension("new");
    match files::open_private(&temporary, Access::ReadWrite, uid) {
        // Left by a start that was cut off; it never held a token. If its lock is held, somebody has it open.
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

/// A log that knows of a store: audit.log, or one that was rotated away from it (`audit.log.1`, `audit.log-20261123`). One
/// that somebody has put aside under another name does not count.
fn known_log(file: &Path) -> Option<PathBuf> {
    let name = file.file_name()?.to_str()?;
    let is_ours = |path: &PathBuf| {
        let rest = path.file_name().and_then(|other| other.to_str()).and_then(|other| other.strip_prefix(name));
        let rotated = |rest: &str| {
            rest.strip_prefix(['.', '-']).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        rest.is_some_and(|rest| rest.is_empty() || rotated(rest))
            && fs::metadata(path).is_ok_and(|log| log.is_file() && log.len() > 0)
    };
    fs::read_dir(parent(file)).ok()?.flatten().map(|entry| entry.path()).filter(is_ours).min()
}

pub(super) fn store_io(doing: &'static str, cause: std::io::Error) -> StoreError {
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

/// Continues the chain. Refused when the log knows of changes that the store does not: nothing is written then.
///
/// The store is not open for writing yet, so that a refusal leaves it as it is; seals find it in the cell afterwards.
fn open_audit(
    config: &Config,
    unlocked: &Unlocked,
    clock: Arc<Clock>,
    remarks: &mut Vec<String>,
) -> Result<(Audit, Arc<OnceLock<Store>>), Failure> {
    let settings = &config.audit;
    let options = AuditOptions {
        required: settings.required,
        sync: settings.sync,
        coalesce: settings.coalesce,
        max_wait: settings.max_wait,
        syslog: settings.syslog.clone(),
        group: log_group(),
        ..AuditOptions::new(settings.file.clone())
    };
    let damaged = |what: &str| Failure::Store {
        path: config.store.path.clone(),
        source: StoreError::Damaged { what: what.into() },
    };
    let seal = match &unlocked.boot.seal {
        Some(bytes) => Some(Seal::decode(bytes).map_err(|_| damaged("the seal of its audit log"))?),
        None => None,
    };
    let outbox = unlocked
        .boot
        .outbox
        .iter()
        .map(|(generation, bytes)| Ok((*generation, AuditEvent::decode(bytes)?)))
        .collect::<Result<Vec<_>, crate::codec::CodecError>>()
        .map_err(|_| damaged("an audit record that waits in it"))?;
    let boot = AuditBoot { seal, outbox, generation: unlocked.boot.generation, accept_rollback: false };
    let stored = Arc::new(OnceLock::<Store>::new());
    let cell = Arc::clone(&stored);
    let on_seal = Box::new(move |seal: Seal, outbox_through: u64| {
        if let Some(store) = cell.get() {
            store.seal_stored(seal.encode(), outbox_through);
        }
    });
    let key = Arc::new(ChainKey(unlocked.keyring.audit_key()));
    let (audit, report) = Audit::open(options, key, boot, clock, on_seal)?;
    say(&report, unlocked, remarks);
    Ok((audit, stored))
}

/// The group that may read the log, if we may give a file to it.
fn log_group() -> Option<u32> {
    let group = nix::unistd::Group::from_name(LOG_GROUP).ok().flatten()?.gid;
    let ours = nix::unistd::geteuid().is_root() || nix::unistd::getgroups().is_ok_and(|groups| groups.contains(&group));
    ours.then(|| group.as_raw())
}

/// What the log looked like, where it was not as it was left.
fn say(report: &OpenReport, unlocked: &Unlocked, remarks: &mut Vec<String>) {
    if report.recovered_bytes > 0 {
        remarks.push(format!(
            "the audit log's tail was torn: {} bytes were cut off, and a line `recovered` says so",
            report.recovered_bytes
        ));
    }
    if unlocked.new.is_none() && report.log != LogState::Complete {
        remarks
            .push(format!("the audit log is not as it was left ({:?}): a line `gap` says what is missing", report.log));
    }
    if report.owed > 0 {
        tracing::info!("{} changes of the last run had no line in the audit log yet: written now", report.owed);
    }
}

/// Opens the store for writing; a new one gets its name once it is whole.
fn open_store(
    config: &Config,
    file: StoreFile,
    keyring: &Arc<Keyring>,
    clock: &Arc<Clock>,
    options: StoreOptions,
    new: Option<(KeyHeader, PathBuf)>,
) -> Result<Store, Failure> {
    let path = &config.store.path;
    let failed = store_failure(path);
    let sealer = Arc::clone(keyring) as Arc<dyn crate::store::Sealer>;
    let Some((header, temporary)) = new else {
        return Store::open(file, sealer, Arc::clone(clock), options).map(|(store, _)| store).map_err(failed);
    };
    let store = Store::create(file, &header.encode(), sealer, Arc::clone(clock), options).map_err(&failed)?;
    renameat2(AT_FDCWD, &temporary, AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE)
        .map_err(|errno| failed(store_io("given its name", errno.into())))?;
    files::sync_parent(path)?;
    tracing::info!("made a new, empty store {}", path.display());
    Ok(store)
}

/// The socket: the one that the service manager holds for us, or our own.
///
/// # Errors
/// [`Failure::Socket`].
pub fn listen(config: &Config, inherited: Inherited) -> Result<Listener, Failure> {
    let socket = match inherited.api {
        Some(socket) => socket,
        None => {
            let path = &config.socket.path;
            // For others to reach it; what is in it has modes of its own.
            files::create_private_dir(parent(path), SOCKET_DIR_MODE)?;
            net::listen_unix(path, SOCKET_MODE)?
        }
    };
    let fds_refused_by_kernel = net::refuse_fds(&socket);
    Ok(Listener { socket, fds_refused_by_kernel })
}
