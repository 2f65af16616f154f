//! `bearerd restore`: a backup takes the place of the store, with the daemon stopped.
//!
//! Invariants: nothing is touched before the backup has been read whole and found good; at every moment there is the old
//! store or the new one under the name, each whole; what the audit log knows as ended does not live again. That a store was
//! restored is a change of its own, in the same transaction.

mod source;
mod summary;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::{Gid, Uid, User, geteuid, initgroups, setgid, setgroups, setuid};

use super::args::{Args, RestoreArgs};
use super::exit::Failure;
use super::open::{self, ChainKey, LOG_DIR_MODE, parent, store_failure, store_io};
use crate::audit::{AuditEvent, EventKind, Line, Seal, Since, since};
use crate::config::Config;
use crate::registry::replay::Replay;
use crate::store::backup::Backup;
use crate::store::record::TokenRecord;
use crate::store::{Boot, FileOptions, Renew, Renewed, StoreError, StoreFile};
use crate::sys::files::{self, Access, FileError, PRIVATE_DIR};
use crate::sys::memory::harden_process;
use crate::systemd;
use crate::time::{Clock, Mark, SystemTime, UnixTime};
use crate::vault::{KeyHeader, KeySource, Keyring};
use source::{Present, Source};
use summary::Summary;

/// The name of the new store until it is whole.
const UNFINISHED: &str = "restoring";
/// What the old store's name goes on with.
const KEPT: &str = "before-restore";

/// Restores, and says what came of it.
///
/// # Errors
/// [`Failure`]: each says what is wrong and what to do.
pub fn run(args: &Args, asked: &RestoreArgs) -> Result<(), Failure> {
    harden_process().map_err(Failure::Harden)?;
    let (_, config) = super::configuration(args)?;
    // While it is still root who reads: a backup is often root's own.
    let given = asked.file.as_deref().map(source::open_given).transpose()?;
    if become_owner(&config)? {
        // Another user is a reason for the kernel to forget it.
        harden_process().map_err(Failure::Harden)?;
    }
    let credentials = systemd::credentials_directory();
    let summary = restore(&config, credentials.as_deref(), given, asked)?;
    summary.print().map_err(|error| Failure::Output(error.to_string()))
}

/// Root goes on as the user whose the store is: what it makes must be that user's.
fn become_owner(config: &Config) -> Result<bool, Failure> {
    use std::os::unix::fs::MetadataExt;
    if !geteuid().is_root() {
        return Ok(false);
    }
    let dirs = [parent(&config.store.path), parent(&config.key_file)];
    let Some(dir) = dirs.into_iter().find_map(|dir| fs::metadata(dir).ok()) else { return Ok(false) };
    if dir.uid() == 0 {
        return Ok(false);
    }
    let uid = Uid::from_raw(dir.uid());
    // On a new machine only the key is there yet, and that user may make nothing in /var/lib.
    for (file, mode) in [(&config.store.path, PRIVATE_DIR), (&config.audit.file, LOG_DIR_MODE)] {
        let path = parent(file);
        if files::create_private_dir(path, mode)? {
            std::os::unix::fs::chown(path, Some(dir.uid()), Some(dir.gid())).map_err(|source| FileError::Io {
                doing: "hand over",
                path: path.to_owned(),
                source,
            })?;
        }
    }
    let changed = match User::from_uid(uid).map_err(Failure::NotThatUser)? {
        Some(user) => {
            let name = std::ffi::CString::new(user.name).expect("a name of the user database has no NUL");
            initgroups(&name, user.gid).and_then(|()| setgid(user.gid))
        }
        None => {
            let gid = Gid::from_raw(dir.gid());
            setgroups(&[gid]).and_then(|()| setgid(gid))
        }
    };
    changed.and_then(|()| setuid(uid)).map_err(Failure::NotThatUser)?;
    Ok(true)
}

fn restore(
    config: &Config,
    credentials: Option<&Path>,
    given: Option<(PathBuf, fs::File)>,
    asked: &RestoreArgs,
) -> Result<Summary, Failure> {
    let uid = geteuid().as_raw();
    let path = &config.store.path;
    open::prepare_directories(config, uid)?;
    // No daemon starts meanwhile; one that runs holds the store.
    let _alone = open::start_alone(path)?;
    let options = FileOptions { cache_bytes: config.store.cache_bytes as usize, ..FileOptions::default() };
    let present = Present::look(path, uid, options)?;
    let source = Source::of(given, present.as_ref(), path, options)?;
    let key = match asked.recovery_key {
        true => super::recover::asked_for()?,
        false => KeySource::find(credentials, &config.key_file, uid)?,
    };

    let header = source.header(present.as_ref())?;
    let header = KeyHeader::decode(&header).map_err(|error| source.bad(&error.to_string()))?;
    let keyring = Keyring::unlock(&header, &key)?;
    if let Some(there) = present.as_ref().and_then(Present::header)
        && there.store_id != header.store_id
        && !asked.replace_other
    {
        let what = format!("{} is of another store than {}", source.path().display(), path.display());
        return Err(Failure::OtherStore { what });
    }

    let mut input = source.input(present.as_ref(), &keyring)?;
    let backup = Backup::begin(&mut input).map_err(|error| source.failed(error))?;
    let mut tokens = 0u64;
    let checked = backup.check(&mut input, &keyring, keyring.backup_mac(), &mut |_| tokens += 1);
    let boot = checked.map_err(|error| source.failed(error))?;
    drop(input);
    let seal = known(&boot).map_err(|what| source.bad(what))?;

    let mut replay = Replay::new(boot.generation, backup.head().made_at);
    let mut told = std::collections::HashSet::new();
    let log = follow(config, &keyring, seal.as_ref(), &boot, &mut |line| {
        if line.is_change() && line.generation <= boot.generation {
            told.insert(line.generation);
        }
        replay.learn(&line);
    })?;
    if log.foreign && !asked.replace_other {
        let what = format!("the audit log {} has no line of this store", config.audit.file.display());
        return Err(Failure::OtherStore { what });
    }
    let there = match &present {
        Some(present) if !source.is_present() => present.learn(&header, &key, boot.generation, &mut replay),
        _ => None,
    };
    let newest = boot.generation.max(log.newest_generation).max(there.unwrap_or(0));
    let rolled_back = newest > boot.generation;
    if rolled_back && !asked.accept_rollback {
        return Err(Failure::Older {
            path: source.path().to_owned(),
            backup: boot.generation,
            newest,
            forgotten: newest - boot.generation,
            ended: replay.restrictions(),
        });
    }
    let mut summary = Summary::new(path, source.path(), backup.head(), tokens, newest);
    if source.is_present() && !rolled_back {
        return Ok(summary.nothing_to_do());
    }

    let mut renewal = Renewal::new(&boot, &log, &replay, newest, rolled_back, &told);
    let unfinished = path.with_extension(UNFINISHED);
    let file = new_file(&unfinished, uid, options)?;
    let mut input = source.input(present.as_ref(), &keyring)?;
    // The head once more, so that both readings begin alike.
    let again = Backup::begin(&mut input).map_err(|error| source.failed(error))?;
    let built = file.rebuild(&again, &mut input, &keyring, keyring.backup_mac(), &mut renewal);
    drop(input);
    if let Err(error) = built {
        let _ = fs::remove_file(&unfinished);
        return Err(source.failed_writing(&unfinished, error));
    }
    let (redone, recovered) = (renewal.redone, renewal.restored_note.clone());
    summary.kept = take_place(&unfinished, path)?;
    summary.tell(&replay, &log, redone, recovered, present.as_ref());
    Ok(summary)
}

/// What a backup has for the audit, which must decode before it is taken.
fn known(boot: &Boot) -> Result<Option<Seal>, &'static str> {
    for (_, record) in &boot.outbox {
        AuditEvent::decode(record).map_err(|_| "has an audit record that does not decode")?;
    }
    let seal = boot.seal.as_deref().map(Seal::decode).transpose();
    seal.map_err(|_| "has a seal of the audit log that does not decode")
}

/// What the audit log knows of the time since.
fn follow(
    config: &Config,
    keyring: &Keyring,
    seal: Option<&Seal>,
    boot: &Boot,
    show: &mut dyn FnMut(Line),
) -> Result<Since, Failure> {
    let key = ChainKey(keyring.audit_key());
    Ok(since(&config.audit.file, &key, seal, boot.generation, show)?)
}

/// A new, private file; what a restore that was cut off left under that name never was a store.
fn new_file(path: &Path, uid: u32, options: FileOptions) -> Result<StoreFile, Failure> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(FileError::Io { doing: "remove", path: path.to_owned(), source }.into());
        }
        _ => {}
    }
    let file = files::open_private(path, Access::CreateNew, uid)?;
    StoreFile::from_file(file, options).map_err(store_failure(path))
}

/// Gives the new store its name. The old one, if there is one, gets another in the same step: it has the new one's name
/// and the new one its, and never is there none.
fn take_place(unfinished: &Path, path: &Path) -> Result<Option<PathBuf>, Failure> {
    let rename = |from: &Path, to: &Path, flags| {
        renameat2(AT_FDCWD, from, AT_FDCWD, to, flags)
            .map_err(|errno| store_failure(path)(store_io("given its name", errno.into())))
    };
    let kept = if path.symlink_metadata().is_ok() {
        let kept = free_name(path);
        // Before the exchange this is the new one: a crash here leaves one too many, and the old one in its place.
        rename(unfinished, &kept, RenameFlags::RENAME_NOREPLACE)?;
        files::sync_parent(path)?;
        rename(&kept, path, RenameFlags::RENAME_EXCHANGE)?;
        Some(kept)
    } else {
        rename(unfinished, path, RenameFlags::RENAME_NOREPLACE)?;
        None
    };
    files::sync_parent(path)?;
    Ok(kept)
}

/// `tokens.redb.before-restore-20261123T214500Z`.
fn free_name(path: &Path) -> PathBuf {
    let time: String = crate::time::wall_now().to_string().chars().filter(|c| !"-:".contains(*c)).collect();
    let time = time.split('.').next().unwrap_or_default();
    let named = |more: String| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{KEPT}-{time}Z{more}"));
        PathBuf::from(name)
    };
    let more = |n: u32| if n == 1 { String::new() } else { format!("-{n}") };
    let free = |path: &PathBuf| path.symlink_metadata().is_err();
    (1..).map(|n| named(more(n))).find(free).expect("names do not run out")
}

/// What becomes of the backup on its way into the new store.
struct Renewal<'a> {
    replay: &'a Replay,
    backup: u64,
    /// The newest generation that is used.
    newest: u64,
    rolled_back: bool,
    owed: std::collections::HashSet<u64>,
    clock: Arc<Clock>,
    now: UnixTime,
    outbox: Vec<(u64, Vec<u8>)>,
    redone: Redone,
    restored_note: String,
}

/// How much was done again.
#[derive(Clone, Copy, Debug, Default)]
struct Redone {
    revoked: u64,
    suspended: u64,
    others: u64,
}

impl<'a> Renewal<'a> {
    fn new(
        boot: &Boot,
        log: &Since,
        replay: &'a Replay,
        newest: u64,
        rolled_back: bool,
        told: &std::collections::HashSet<u64>,
    ) -> Self {
        // What the log has seen has passed, whatever the clock says now.
        let seen = log.newest_time.unwrap_or(UnixTime::EPOCH);
        let mark = boot.mark.map(|mark| Mark { time: mark.time.max(seen), ..mark });
        let clock = Arc::new(Clock::new(Box::new(SystemTime::new()), mark));
        let now = clock.now();
        let owed = boot.outbox.iter().map(|(generation, _)| *generation).filter(|g| !told.contains(g)).collect();
        let (outbox, redone, restored_note) = (Vec::new(), Redone::default(), String::new());
        let backup = boot.generation;
        Self { replay, backup, newest, rolled_back, owed, clock, now, outbox, redone, restored_note }
    }

    fn announce(&mut self, mut event: AuditEvent) {
        self.newest += 1;
        event.outcome.get_or_insert("done".into());
        event.generation = Some(self.newest);
        self.outbox.push((self.newest, event.encode()));
    }
}

impl Renew for Renewal<'_> {
    fn change(&mut self, record: &TokenRecord) -> Option<TokenRecord> {
        let (new, redone) = self.replay.apply(record)?;
        let mut event = AuditEvent::new(EventKind::Edit, self.now);
        event.id = Some(new.id);
        event.name = Some(new.name.clone());
        event.subject = Some(new.subject.clone());
        event.kind = Some(new.kind);
        event.note = Some("done again: the store was restored from a backup".to_owned());
        if redone.is_empty() {
            self.redone.others += 1;
            event.note = Some("uses done again: the store was restored from a backup".to_owned());
            self.announce(event);
        } else {
            match () {
                () if new.revoked != record.revoked => self.redone.revoked += 1,
                () if new.suspended != record.suspended => self.redone.suspended += 1,
                () => self.redone.others += 1,
            }
            for one in redone {
                let (event, reason) = (AuditEvent { event: one.event, ..event.clone() }, one.reason.map(Into::into));
                self.announce(AuditEvent { reason, ..event });
            }
        }
        Some(new)
    }

    fn forgets(&self, generation: u64) -> bool {
        // Who follows the changes must see that some are missing: those before the hole go, but for what the log lacks.
        self.rolled_back && generation <= self.backup && !self.owed.contains(&generation)
    }

    fn finish(&mut self) -> Renewed {
        let Redone { revoked, suspended, others } = self.redone;
        let mut note = format!("restored from a backup of generation {}", self.backup);
        if self.rolled_back {
            let known = self.newest - self.outbox.len() as u64;
            note += &format!(
                ", {known} was known: {revoked} revocations, {suspended} suspensions, {others} other changes done again"
            );
        }
        self.restored_note.clone_from(&note);
        let mut event = AuditEvent::new(EventKind::Recovered, self.now);
        event.outcome = Some("restored".into());
        event.note = Some(note);
        self.announce(event);
        let mark = Some(self.clock.mark());
        Renewed { generation: self.newest, mark, outbox: std::mem::take(&mut self.outbox) }
    }
}

/// Whether it could not be read, whatever is in it.
fn is_unreadable(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { .. } | StoreError::BackupUnread(_) | StoreError::Read(_))
}
