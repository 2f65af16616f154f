//! What is known to be durable, and seals.
//!
//! Invariant: a sync speaks for what was written before it began ([`Snapshot`]), whatever was written meanwhile; only that
//! is sealed, and only if it succeeded. One that failed has the file written again before anything else is sealed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Fault, Place, Writer};
use crate::audit::chain::Seal;
use crate::audit::file::LogFile;

/// Up to where the file went when a sync began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot {
    place: Place,
    generation: u64,
    /// How many of the changes that were not known to be durable it speaks for.
    changes: usize,
    /// There is something new to seal.
    seal: bool,
}

impl Writer {
    /// Syncs, and waits for it. Nothing else may be under way.
    pub(super) fn sync(&mut self) -> bool {
        let result = {
            let _busy = self.shared.busy();
            self.log.sync()
        };
        match result {
            Ok(()) => {
                self.synced = self.end;
                self.generations.synced();
                self.unsynced.clear();
                true
            }
            Err(error) => {
                self.fail(Fault::Sync, &error);
                false
            }
        }
    }

    /// Where a sync is done.
    pub(super) fn log(&self) -> Arc<dyn LogFile> {
        Arc::clone(&self.log)
    }

    /// Whether something is done to the file beside the writing.
    pub(super) fn is_disk_busy(&self) -> bool {
        self.syncing.is_some() || self.reserving.is_some()
    }

    /// What is written now is to be sealed: whether a sync is needed for it; `None` while one is under way.
    pub(super) fn sync_begins(&mut self) -> Option<bool> {
        if self.syncing.is_some() {
            return None;
        }
        self.pace = self.end.offset.saturating_sub(self.paced_from);
        self.paced_from = self.end.offset;
        let seal = self.fault.is_none() && self.end != self.sealed && self.end.seq != 0;
        let sync = seal && (self.synced != self.end || !self.unsynced.is_empty());
        if sync {
            self.generations.sync_began();
        }
        let changes = if sync { self.unsynced.len() } else { 0 };
        self.syncing = Some(Snapshot { place: self.end, generation: self.generations.newest(), changes, seal });
        Some(sync)
    }

    /// It has ended: the seal and the generation up to which the outbox may be emptied, if that may be.
    pub(super) fn sync_ended(&mut self, result: io::Result<()>) -> Option<(Seal, u64)> {
        let Snapshot { place, generation, changes, seal } = self.syncing.take()?;
        self.generations.sync_ended(result.is_ok());
        if let Err(error) = result {
            self.fail(Fault::Sync, &error);
            return None;
        }
        self.unsynced.drain(..changes);
        if !seal {
            return None;
        }
        self.synced = place;
        if self.fault.is_some() {
            return None;
        }
        self.sealed = place;
        let seal = Seal {
            seq: place.seq,
            mac: place.mac,
            offset: place.offset,
            inode: self.inode,
            generation,
            at: self.shared.clock.now(),
            beyond: self.generations.beyond(),
        };
        self.shared.counters.sealed_seq.store(seal.seq, Relaxed);
        Some((seal, self.generations.through()))
    }
}
