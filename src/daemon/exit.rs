//! Why the daemon ends, and the exit status of each (sysexits.h).

use std::path::PathBuf;
use std::process::ExitCode;

use crate::audit::AuditError;
use crate::config::ConfigError;
use crate::store::{Fault, StoreError};
use crate::sys::files::FileError;
use crate::sys::net::SocketError;
use crate::systemd::InheritError;
use crate::vault::VaultError;

/// Wrong arguments.
pub const USAGE: u8 = 64;
/// What is to be restored is no good.
pub const BAD_DATA: u8 = 65;
/// A disk or a system call failed: systemd starts the daemon again.
pub const IO: u8 = 74;
/// Its own checks refuse: an owner, a mode, a store that is older than its log.
pub const REFUSED: u8 = 77;
/// The configuration or the key.
pub const CONFIG: u8 = 78;

/// Why the daemon does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The process could not be protected from being read.
    #[error("memory could not be kept from core dumps and debuggers: {0}")]
    Harden(#[source] std::io::Error),
    /// The configuration can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file or directory is not as it must be.
    #[error(transparent)]
    File(#[from] FileError),
    /// Keys.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The store.
    #[error("{}: {source}", .path.display())]
    Store {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        source: StoreError,
    },
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// What the service manager handed over.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// The store is gone, but its audit log is there.
    #[error("there is no store {}, but the audit log {} is not empty: a store is never begun anew by itself. Put the store back from a backup (bearerd restore FILE); or, to begin anew with no tokens, move that log away", .store.display(), .log.display())]
    StoreGone {
        /// Where the store should be.
        store: PathBuf,
        /// The log.
        log: PathBuf,
    },
    /// `bearerd recover` where there is a key file.
    #[error("there is a key file {}: if it opens the store, nothing is to be recovered, so start bearerd (and see bearerctl rekey); if it does not, move it away and run this again", .file.display())]
    KeyThere {
        /// The file.
        file: PathBuf,
    },
    /// `bearerd recover` without a recovery key.
    #[error("no recovery key was given: type it when asked, or give it on standard input")]
    NoRecoveryKey,
    /// Standard input can't be read.
    #[error("the recovery key can't be read from standard input: {0}")]
    Input(#[source] std::io::Error),
    /// Run as another user than the one whose the files are.
    #[error("this must be run as the user whose the store is: runuser -u {user} -- bearerd recover")]
    OtherUser {
        /// That user's name, or `#` and the uid.
        user: String,
    },
    /// What is to be restored can't be opened.
    #[error("can't open {path}: {source}", path = .path.display())]
    BackupFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is to be restored is no good. Nothing was touched.
    #[error("{}: {source}", .path.display())]
    BadBackup {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: StoreError,
    },
    /// It is of another store than the one that is there. Nothing was touched.
    #[error("{what}: give --replace-other if it is to take its place all the same; nothing was changed")]
    OtherStore {
        /// What is of another store.
        what: String,
    },
    /// It is older than what is known here. Nothing was touched.
    #[error("{} has the changes up to {backup}, and here they are known up to {newest}: {forgotten} changes would be forgotten, and tokens that were ended by them ({ended} known) would be good again. Take a newer backup, or give --accept-rollback, which ends again what the audit log knows; nothing was changed", .path.display())]
    Older {
        /// The file.
        path: PathBuf,
        /// Its newest generation.
        backup: u64,
        /// The newest that is known.
        newest: u64,
        /// How many lie between.
        forgotten: u64,
        /// How many of these are known to restrict.
        ended: usize,
    },
    /// Root could not become the user whose the store is.
    #[error("root could not go on as the user whose the store's directory is: {0}; run it as that user")]
    NotThatUser(#[source] nix::Error),
    /// The summary can't be shown; the store is restored.
    #[error("the store is restored, but that can't be said: {0}")]
    Output(String),
    /// A name in the configuration is unknown (`--check-config`).
    #[error("{0}")]
    Unresolved(String),
    /// The clock is behind what the store has seen, and the configuration says not to go on so.
    #[error(
        "the clock is not synchronised and stands {behind_secs} s before the newest time that the store has seen: wait for its synchronisation, or set [time] unsynced = \"serve\""
    )]
    Unsynced {
        /// How far.
        behind_secs: u64,
    },
    /// The socket can't be bound.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The page that tells caches what is stale can't be made.
    #[error(
        "the memory that tells clients' caches what is stale can't be made: {0}; bearerd needs Linux 5.1, and some memory"
    )]
    Page(#[source] std::io::Error),
    /// The runtime did not start.
    #[error("threads could not be started: {0}")]
    Runtime(#[source] std::io::Error),
    /// The store stopped for good; the next start recovers what the disk holds.
    #[error("{0}; bearerd ends, and the next start goes on from what the disk holds")]
    Fatal(Fault),
}

impl Failure {
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Config(error) if error.is_refusal() => REFUSED,
            Self::Config(_) | Self::Unresolved(_) => CONFIG,
            Self::File(error) => file_status(error),
            Self::Vault(VaultError::File(error)) => file_status(error),
            Self::Vault(_) => CONFIG,
            Self::Store { source, .. } => match source {
                StoreError::Io { .. }
                | StoreError::BackupUnread(_)
                | StoreError::Read(_)
                | StoreError::NotWritten(_)
                | StoreError::Fatal(_) => IO,
                _ => REFUSED,
            },
            Self::Audit(AuditError::Unsafe { .. } | AuditError::RolledBack { .. }) => REFUSED,
            Self::Audit(_) => IO,
            Self::StoreGone { .. }
            | Self::Unsynced { .. }
            | Self::KeyThere { .. }
            | Self::OtherUser { .. }
            | Self::OtherStore { .. }
            | Self::Older { .. } => REFUSED,
            Self::NoRecoveryKey => USAGE,
            Self::BadBackup { .. } => BAD_DATA,
            Self::Page(_) | Self::Input(_) | Self::BackupFile { .. } | Self::NotThatUser(_) | Self::Output(_) => IO,
            Self::Socket(SocketError::System { .. }) => IO,
            Self::Socket(_) => REFUSED,
            Self::Harden(_) | Self::Inherit(_) | Self::Runtime(_) | Self::Fatal(_) => IO,
        }
    }
}

fn file_status(error: &FileError) -> u8 {
    if matches!(error, FileError::Io { .. }) { IO } else { REFUSED }
}

/// Prints the error once, with its causes, and gives its status.
pub fn report(error: &Failure) -> ExitCode {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        // Some messages hold their cause's already.
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    tracing::error!("{text}");
    ExitCode::from(error.status())
}
