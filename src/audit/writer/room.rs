//! Room for lines to come: allocated ahead, and warned of when it runs short.
//!
//! Invariant: what is counted as room is allocated in the file, and nobody else can take it (where the file system can't
//! allocate ahead, what is free counts). A change is taken only if its line fits there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Writer;
use crate::audit::shared::ROOM_NEEDED_BYTES;

/// What file systems allocate by.
const PAGE_BYTES: u64 = 4096;
/// Free space below this part of the file system is warned of.
const LOW_SPACE_PERCENT: u64 = 10;

impl Writer {
    /// Allocates ahead, so that a full disk is known before a line is lost to it: as much as there is, on a small disk
    /// less. What is allocated already stays.
    pub(super) fn keep_room(&mut self) {
        let shared = Arc::clone(&self.shared);
        while let Some(until) = self.room_until
            && self.room_step >= ROOM_NEEDED_BYTES
            && until < self.end.offset + (self.room_step / 2).max(ROOM_NEEDED_BYTES)
        {
            let _busy = shared.busy();
            // Whole pages behind what is there: tmpfs takes back all of a range that it can't allocate to its end.
            let from = until.max(self.end.offset);
            let to = (self.end.offset + self.room_step).next_multiple_of(PAGE_BYTES);
            match self.log.reserve(from, to - from) {
                Ok(()) => self.room_until = Some(to),
                Err(error) if error.kind() == io::ErrorKind::Unsupported => self.room_until = None,
                Err(error) => {
                    self.room_step /= 2;
                    if self.room_step < ROOM_NEEDED_BYTES && !std::mem::replace(&mut self.room_short, true) {
                        let path = self.options.file.display();
                        tracing::warn!(%path, %error, "no more room can be allocated ahead for audit.log");
                    }
                }
            }
        }
        let room = match self.room_until {
            Some(until) => until.saturating_sub(self.end.offset),
            None => shared.counters.free_bytes.load(Relaxed),
        };
        self.room_short &= self.room_step < ROOM_NEEDED_BYTES;
        shared.counters.room_bytes.store(room, Relaxed);
    }

    /// Gives back what was allocated beyond the end.
    pub(super) fn release_room(&mut self) {
        if self.fault.is_none() && self.log.state().is_ok_and(|state| state.len == self.end.offset) {
            let _ = self.log.truncate(self.end.offset);
        }
    }

    /// Warns when the file system runs full, and when it no longer does.
    pub(super) fn look_at_space(&mut self) {
        let space = {
            let _busy = self.shared.busy();
            self.log.space()
        };
        let Ok(space) = space else { return };
        let counters = &self.shared.counters;
        counters.free_bytes.store(space.free_bytes, Relaxed);
        // What is allocated for the log already is free to it.
        let ahead = self.room_until.map_or(0, |until| until.saturating_sub(self.end.offset));
        let low = (space.free_bytes + ahead).saturating_mul(100) < space.total_bytes.saturating_mul(LOW_SPACE_PERCENT);
        if low != counters.low_space.swap(low, Relaxed) {
            let path = self.options.file.display();
            if low {
                tracing::warn!(%path, free_bytes = space.free_bytes, "less than 10 % is free where audit.log is");
            } else {
                tracing::info!(%path, free_bytes = space.free_bytes, "there is room again where audit.log is");
            }
        }
        self.keep_room();
    }
}
