//! Backups: one moment of the store, handed out in pieces to one connection at a time.
//!
//! Invariants: nothing is decrypted, and the backup is of one commit. A moment that is held keeps the pages that are freed
//! meanwhile, so that it is held for a bounded time, by a peer that goes on reading, and not while the disk is full.
//! That one was taken is in the trail before its first piece goes out.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::{Caller, Service, audit_unavailable, store_failure};
use crate::audit::{AuditEvent, EventKind};
use crate::config::Operation;
use crate::policy;
use crate::protocol::code::ErrorCode;
use crate::protocol::message::{BackupAsk, BackupPiece, Failure};
use crate::store::backup::Snapshot;

/// Bytes of a piece, about.
const PIECE_BYTES: usize = 1 << 20;
/// How long the next piece may be waited for.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How long a backup may take in all.
const WHOLE_MAX: Duration = Duration::from_secs(600);
/// How often it is looked whether it is to go on.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The backup that is being made, if one is.
#[derive(Default)]
pub(super) struct Backups(Mutex<Option<Open>>);

struct Open {
    /// Whose it is: it ends with the connection.
    caller: Weak<Caller>,
    /// Tells this backup from the one that came before it.
    begun: Instant,
    touched: Instant,
    /// Bytes that went out.
    sent: u64,
    /// `None` while a piece is being read.
    snapshot: Option<Snapshot>,
}

impl Backups {
    fn with<T>(&self, work: impl FnOnce(&mut Option<Open>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the place of the one backup.
    fn enter(&self, caller: &Arc<Caller>) -> Result<Instant, Failure> {
        let begun = Instant::now();
        let open = Open { caller: Arc::downgrade(caller), begun, touched: begun, sent: 0, snapshot: None };
        self.with(|there| {
            let taken = there.as_ref().and_then(|open| open.caller.upgrade());
            if taken.is_some_and(|other| !Arc::ptr_eq(&other, caller)) {
                let message = "a backup is being made already: one at a time; try again when it is done";
                return Err(Failure::new(ErrorCode::Unavailable, message));
            }
            *there = Some(open);
            Ok(begun)
        })
    }

    /// The snapshot of the backup that this connection has brought up to `after`.
    fn resume(&self, caller: &Arc<Caller>, after: u64) -> Result<(Instant, Snapshot), Failure> {
        self.with(|there| {
            let own = there.as_mut().filter(|open| std::ptr::eq(open.caller.as_ptr(), Arc::as_ptr(caller)));
            let snapshot = own.filter(|open| open.sent == after).and_then(|open| {
                let snapshot = open.snapshot.take()?;
                Some((open.begun, snapshot))
            });
            snapshot.ok_or_else(given_up)
        })
    }

    /// Puts the snapshot back, for the next piece; or, behind the last, lets it go. Says where the next begins.
    fn handed_out(&self, begun: Instant, snapshot: Snapshot, bytes: usize) -> Result<Option<u64>, Failure> {
        if snapshot.ended() {
            self.leave(begun);
            return Ok(None);
        }
        self.with(|there| {
            let open = there.as_mut().filter(|open| open.begun == begun).ok_or_else(given_up)?;
            open.sent += bytes as u64;
            open.touched = Instant::now();
            open.snapshot = Some(snapshot);
            Ok(Some(open.sent))
        })
    }

    fn leave(&self, begun: Instant) -> bool {
        self.with(|there| there.take_if(|open| open.begun == begun).is_some())
    }
}

impl Service {
    pub(super) async fn backup(self: &Arc<Self>, caller: &Arc<Caller>, ask: BackupAsk) -> Result<BackupPiece, Failure> {
        let _ = self.authorise(caller, &policy::Ask::of(Operation::Admin), None)?;
        let turn = self.reader(caller).await?;
        let (begun, snapshot) = match ask.after {
            Some(after) => {
                let (begun, snapshot) = self.backups.resume(caller, after)?;
                (begun, Some(snapshot))
            }
            None if !self.audit.ready() => return Err(audit_unavailable()),
            None => (self.backups.enter(caller)?, None),
        };
        let first = snapshot.is_none();
        let service = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let mut snapshot = match snapshot {
                Some(snapshot) => snapshot,
                None => service.store.snapshot(service.keyring.backup_mac())?,
            };
            let bytes = snapshot.piece(PIECE_BYTES)?;
            Ok((snapshot, bytes.unwrap_or_default()))
        });
        let read = read.await.unwrap_or(Err(crate::store::StoreError::JobPanicked));
        let (snapshot, bytes) = read.map_err(|error| {
            self.backups.leave(begun);
            store_failure(&error)
        })?;
        let (rows, rows_total) = snapshot.rows();
        let (generation, ended) = (snapshot.generation(), snapshot.ended());
        if first {
            self.note_backup(Some(caller), "begun", format!("backup of generation {generation}, {rows_total} rows"));
            self.audit.barrier().await.map_err(|_| {
                self.backups.leave(begun);
                audit_unavailable()
            })?;
        }
        let next = self.backups.handed_out(begun, snapshot, bytes.len())?;
        if ended {
            self.note_backup(Some(caller), "done", format!("backup of generation {generation}, {rows} rows"));
        } else if first {
            tokio::spawn(Arc::clone(self).watch_backup(begun, generation));
        }
        Ok(BackupPiece { bytes, next, generation, rows, rows_total })
    }

    /// Lets the moment go when nobody reads on, when it takes too long, when the disk is full, and at the stop.
    async fn watch_backup(self: Arc<Self>, begun: Instant, generation: u64) {
        let mut stopping = self.stopping.subscribe();
        loop {
            let stop = tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let why = self.backups.with(|there| {
                let Some(open) = there.as_ref().filter(|open| open.begun == begun) else { return Err(()) };
                Ok(match () {
                    () if stop => Some("bearerd stops"),
                    () if open.caller.strong_count() == 0 => Some("who asked for it has gone"),
                    () if open.snapshot.is_some() && open.touched.elapsed() > IDLE_MAX => Some("nobody read on"),
                    () if begun.elapsed() > WHOLE_MAX => Some("it took too long"),
                    () if !self.store.room().issue_ok => Some("the disk is full"),
                    () => None,
                })
            });
            let Ok(why) = why else { return };
            if let Some(why) = why
                && self.backups.leave(begun)
            {
                self.note_backup(None, "cut_off", format!("backup of generation {generation}: {why}"));
                return;
            }
        }
    }

    /// A backup changes nothing: a line, and no generation. It stands under `reload`, with the reason `backup`: what an
    /// administrator has the daemon do.
    fn note_backup(&self, caller: Option<&Caller>, outcome: &'static str, note: String) {
        let mut event = AuditEvent::new(EventKind::Reload, self.clock.now());
        event.outcome = Some(outcome.into());
        event.reason = Some("backup".into());
        event.peer = caller.map(|caller| caller.peer.label());
        event.note = Some(note);
        self.audit.note(event);
    }
}

fn given_up() -> Failure {
    let message = "this backup was given up: it took too long, or the disk became full; begin again";
    Failure::new(ErrorCode::Unavailable, message)
}
