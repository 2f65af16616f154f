//! Where and how the trail is kept, what a start is told, and why it may refuse.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::budget::LineRate;
use super::chain::Seal;
use super::event::AuditEvent;
use super::report::OpenReport;

/// Why the audit log can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The file or its directory can't be opened or read. The daemon does not start.
    #[error("can't open the audit log {}: {source}; its directory must exist and be the daemon's", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not one that the daemon may trust. The daemon does not start; the message says what to do.
    #[error("the audit log {} {why}: {todo}", path.display())]
    Unsafe {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
        /// What to do.
        todo: String,
    },
    /// The log knows of changes that the store does not: an older store was put back, and revoked tokens would live
    /// again. Nothing has been written. The daemon refuses to start with this store.
    #[error(
        "the store is older than the audit log (generation {store}, the log knows {}): a backup was put back, and tokens \
         revoked since would be good again; put the newer store back, or run `bearerd restore --accept-rollback`, which ends again what the \
         log knows as ended", report.newest_generation
    )]
    RolledBack {
        /// The store's generation.
        store: u64,
        /// What the log knows.
        report: Box<OpenReport>,
    },
    /// The writer's thread can't be started.
    #[error("can't start the thread that writes the audit log: {0}")]
    Thread(io::Error),
}

/// Where and how the trail is kept; root's configuration only.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    /// audit.log.
    pub file: PathBuf,
    /// Without a record there is no *active*.
    pub required: bool,
    /// fsync, in groups, before a receipt is answered.
    pub sync: bool,
    /// Like uses within this time share a line; zero: every one has its own.
    pub coalesce: Duration,
    /// The longest that an asker waits for its line.
    pub max_wait: Duration,
    /// syslog's socket; `None` = off.
    pub syslog: Option<PathBuf>,
    /// The mode of a new file.
    pub mode: u32,
    /// The group of a new file, if it can be given.
    pub group: Option<u32>,
    /// Lines of refusals that one uid may cause.
    pub lines_per_uid: LineRate,
    /// Lines of refusals that all uids without full rights may cause together.
    pub lines_in_all: LineRate,
}

impl AuditOptions {
    /// The defaults, in this file, without syslog.
    pub fn new(file: PathBuf) -> Self {
        Self {
            file,
            required: true,
            sync: false,
            coalesce: Duration::from_secs(1),
            max_wait: Duration::from_secs(1),
            syslog: None,
            mode: 0o640,
            group: None,
            lines_per_uid: LineRate { per_second: 20, burst: 200 },
            lines_in_all: LineRate { per_second: 1000, burst: 5000 },
        }
    }
}

/// What the store knows at a start.
#[derive(Debug, Default)]
pub struct AuditBoot {
    /// The last seal that it was given.
    pub seal: Option<Seal>,
    /// Changes whose lines may not be in the log.
    pub outbox: Vec<(u64, AuditEvent)>,
    /// Its newest durable generation.
    pub generation: u64,
    /// An administrator has accepted that the store is older than the log.
    pub accept_rollback: bool,
}
