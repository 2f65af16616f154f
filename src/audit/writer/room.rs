//! Room for lines to come: allocated ahead, and warned of when it runs short.
//!
//! Invariant: what is counted as room is allocated in the file, and nobody else can take it (where the file system can't
//! allocate ahead, what is free counts). A change is taken only if its line fits there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Writer;
use crate::audit::file::{RESERVE_AHEAD, Space};
use crate::audit::shared::ROOM_NEEDED_BYTES;

/// What file systems allocate by.
const PAGE_BYTES: u64 = 4096;
/// Free space below this part of the file system is warned of.
const LOW_SPACE_PERCENT: u64 = 10;
/// Room that is allocated ahead under the heaviest load, in bytes.
const RESERVE_MOST: u64 = 64 * 1024 * 1024;

impl Writer {
    /// How far ahead is allocated: what two seconds like the last one take, within bounds. Each tick begins anew, however
    /// little there was.
    pub(super) fn set_pace(&mut self) {
        self.room_step = (2 * self.pace).clamp(RESERVE_AHEAD, RESERVE_MOST);
    }

    /// What is to be allocated, from where to where.
    fn room_wanted(&self) -> Option<(u64, u64)> {
        let until = self.room_until?;
        let wanted = self.room_step >= ROOM_NEEDED_BYTES
            && until < self.end.offset + (self.room_step / 2).max(ROOM_NEEDED_BYTES);
        // Whole pages behind what is there: tmpfs takes back all of a range that it can't allocate to its end.
        wanted.then(|| (until.max(self.end.offset), (self.end.offset + self.room_step).next_multiple_of(PAGE_BYTES)))
    }

    fn room_came(&mut self, to: u64, result: io::Result<()>) {
        match result {
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

    /// Allocates ahead, so that a full disk is known before a line is lost to it: as much as there is, on a small disk
    /// less. What is allocated already stays. Nothing else may be under way.
    pub(super) fn keep_room(&mut self) {
        let shared = Arc::clone(&self.shared);
        while let Some((from, to)) = self.room_wanted() {
            let result = {
                let _busy = shared.busy();
                self.log.reserve(from, to - from)
            };
            self.room_came(to, result);
        }
        self.count_room();
    }

    /// What is written since has taken from it.
    pub(super) fn count_room(&mut self) {
        let room = match self.room_until {
            Some(until) => until.saturating_sub(self.end.offset),
            None => self.shared.counters.free_bytes.load(Relaxed),
        };
        self.room_short &= self.room_step < ROOM_NEEDED_BYTES;
        self.shared.counters.room_bytes.store(room, Relaxed);
    }

    /// Whether more is to be allocated, and that is not under way.
    pub(in crate::audit) fn reserve_due(&self) -> bool {
        self.reserving.is_none() && self.fault.is_none() && self.room_wanted().is_some()
    }

    /// What is to be allocated beside the writing.
    pub(super) fn reserve_begins(&mut self) -> Option<(u64, u64)> {
        let (from, to) = self.reserve_due().then(|| self.room_wanted()).flatten()?;
        self.reserving = Some(to);
        Some((from, to))
    }

    /// It has been, or can't be.
    pub(super) fn reserve_ended(&mut self, result: io::Result<()>) {
        let Some(to) = self.reserving.take() else { return };
        // After a failure the room is counted anew.
        if self.fault.is_none() {
            self.room_came(to, result);
            self.count_room();
        }
    }

    /// Gives back what was allocated beyond the end.
    pub(super) fn release_room(&mut self) {
        if self.fault.is_none() && self.log.state().is_ok_and(|state| state.len == self.end.offset) {
            let _ = self.log.truncate(self.end.offset);
        }
    }

    /// Looks how full the file system is.
    pub(super) fn look_at_space(&mut self) {
        let space = {
            let _busy = self.shared.busy();
            self.log.space()
        };
        if let Ok(space) = space {
            self.saw_space(space);
            self.keep_room();
        }
    }

    /// Warns when the file system runs full, and when it no longer does.
    pub(super) fn saw_space(&mut self, space: Space) {
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
    }
}
