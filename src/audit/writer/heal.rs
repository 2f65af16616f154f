//! What the writer does when the file fails, hangs no longer, was rotated or was meddled with.
//!
//! Invariants: after a failed write the file is cut back before anything else is written; after a failed fsync all
//! lines since the last good one are written and fsynced again before anything is sealed; what was lost is counted and
//! told once. Changes are never among it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Fault, Place, Writer};
use crate::audit::chain::{Anchor, Tip, walk};
use crate::audit::event::{AuditEvent, EventKind};
use crate::audit::file::{Opened, RESERVE_AHEAD};
use crate::audit::options::AuditError;
use crate::audit::receipt::Standing;
use crate::audit::recover::{Held, LogState, Say, adopt, survey};
use crate::audit::shared::{Class, Job, lock};
use crate::time::UnixTime;

/// Lines of start, stop and the like that are kept while the file fails.
const KEPT_NOTES_MAX: usize = 1024;

impl Writer {
    /// Whether the file is as the last write left it.
    pub(super) fn is_as_left(&self) -> bool {
        let _busy = self.shared.busy();
        self.log.state().is_ok_and(|state| !state.deleted && state.len == self.end.offset)
    }

    /// The file is as the last write left it, or what happened to it is found out.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let _busy = shared.busy();
        if self.dirty {
            self.log.truncate(self.end.offset)?;
            self.dirty = false;
        }
        let state = self.log.state()?;
        if state.deleted || state.len != self.end.offset {
            let what = if state.deleted { "was deleted" } else { "was changed by someone else" };
            tracing::error!(path = %self.options.file.display(), len = state.len, ours = self.end.offset, "audit.log {what}");
            // Whatever is left of it should last: it may be evidence. Changes that may not have lasted are told again.
            if self.log.sync().is_err() {
                self.owe_unsynced();
            }
            self.take_over(false).map_err(|error| io::Error::other(error.to_string()))?;
        }
        Ok(())
    }

    /// Goes on in whatever stands at the path now.
    pub(super) fn take_over(&mut self, rotated: bool) -> Result<(), AuditError> {
        let held = Held { seq: self.end.seq, mac: self.end.mac, offset: self.end.offset, inode: self.inode };
        let mut found = survey(&self.options.file, Some(&held), &*self.key, &mut |_| {})?;
        if rotated && found.state == LogState::Absent {
            // It has been moved out of sight; this thread knows that it was whole.
            found.state = LogState::Rotated;
        }
        let adopted = adopt(&self.options.file, self.options.mode, self.options.group, found)?;
        self.log = (self.wrap)(adopted.log);
        self.inode = adopted.inode;
        self.end = Place { seq: adopted.seq, mac: adopted.mac, offset: adopted.offset };
        self.synced = self.end;
        *lock(&self.shared.end) = (self.inode, self.end.offset);
        self.say = adopted.say;
        self.room_until = Some(0);
        self.room_step = RESERVE_AHEAD;
        Ok(())
    }

    pub(super) fn cut_back(&mut self) -> io::Result<()> {
        let _busy = self.shared.busy();
        self.log.truncate(self.end.offset)?;
        self.dirty = false;
        Ok(())
    }

    pub(super) fn fail(&mut self, fault: Fault, error: &io::Error) {
        if !std::mem::replace(&mut self.announced, true) {
            tracing::error!(
                path = %self.options.file.display(), %error, required = self.options.required,
                "audit.log can't be written; it is tried again every 250 ms"
            );
        }
        self.fault = Some(fault);
        // What the failed write left is cut off, and what was allocated beyond goes with it.
        self.room_until = self.room_until.map(|_| 0);
        self.untold.since.get_or_insert(self.shared.clock.now());
        self.untold.why = error.to_string();
        self.shared.set_fault(Some(self.untold.why.clone()));
    }

    /// What becomes of a line that can't be written now.
    pub(super) fn dispose(&mut self, mut job: Job) {
        let pending = job.pending.take();
        let counters = &self.shared.counters;
        match job.class {
            Class::Change => self.kept.push_back(job),
            Class::Kept if self.kept_notes < KEPT_NOTES_MAX => {
                self.kept_notes += 1;
                self.kept.push_back(job);
            }
            // Its askers are told.
            Class::Droppable if pending.is_some() => {
                counters.refused.fetch_add(1, Relaxed);
            }
            // What was never true is not lost.
            _ if job.after.as_ref().is_some_and(|first| first.standing() == Standing::Void) => {}
            _ => {
                counters.lost.fetch_add(job.event.count.unwrap_or(1), Relaxed);
            }
        }
        counters.kept.store(self.kept.len() as u64, Relaxed);
        if let Some(pending) = pending {
            pending.take();
            pending.finish(false);
        }
    }

    /// Whether lines were lost, or validations refused, that no line tells of.
    pub(super) fn gap_due(&self) -> bool {
        let counters = &self.shared.counters;
        self.untold.due && (counters.lost.load(Relaxed), counters.refused.load(Relaxed)) != self.untold.told
    }

    /// The line that tells of them.
    pub(super) fn gap(&self, now: UnixTime, lost: u64, refused: u64) -> AuditEvent {
        let (events, asked) = (lost - self.untold.told.0, refused - self.untold.told.1);
        let why = if self.untold.why.is_empty() { "too slow" } else { &self.untold.why };
        AuditEvent {
            outcome: Some("lost".into()),
            note: Some(format!("{events} events lost, {asked} validations refused; audit.log: {why}")),
            count: Some(events),
            first: self.untold.since,
            last: Some(now),
            ..AuditEvent::new(EventKind::Gap, now)
        }
    }

    /// Whether the file works again.
    pub(super) fn try_again(&mut self) {
        if self.fault == Some(Fault::Sync)
            && let Err(error) = self.write_again()
        {
            return self.fail(Fault::Sync, &error);
        }
        // From here on as if nothing were wrong: the batch of what is owed says whether that is so.
        self.fault = None;
        self.untold.due = true;
        self.write(Vec::new());
        if self.fault.is_none() {
            tracing::info!(path = %self.options.file.display(), "audit.log can be written again");
            self.announced = false;
            self.shared.set_fault(None);
        }
    }

    /// Changes that may not be durable in the file are told again.
    pub(super) fn owe_unsynced(&mut self) {
        self.generations.unwritten();
        for event in std::mem::take(&mut self.unsynced).into_iter().rev() {
            self.kept.push_front(Job { event, class: Class::Change, pending: None, after: None });
        }
    }

    /// After a failed fsync: all lines since the last good one are written and fsynced once more, through a new handle.
    pub(super) fn write_again(&mut self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let _busy = shared.busy();
        if self.dirty {
            self.log.truncate(self.end.offset)?;
            self.dirty = false;
        }
        let held = Tip { seq: self.synced.seq, mac: self.synced.mac, open: false };
        let opened = Opened { path: self.options.file.clone(), file: self.log.reader()?, inode: self.inode, len: 0 };
        let offset = self.synced.offset;
        let found = walk(&mut opened.read_from(offset), offset, held, &*self.key, |_| {})?;
        let whole = found.tip.seq == self.end.seq && found.tip.mac == self.end.mac && found.bad.is_none();
        self.log.rewrite(offset, if whole { self.end.offset } else { found.good_end })?;
        let words = if whole {
            format!("fsync failed; lines {} to {} were written again", self.synced.seq + 1, self.end.seq)
        } else {
            // The kernel gave back something else than it took: what is left counts, changes are told again.
            self.log.truncate(found.good_end)?;
            self.log.sync()?;
            let lost = self.end.seq - found.tip.seq;
            self.end = Place { seq: found.tip.seq, mac: found.tip.mac, offset: found.good_end };
            self.owe_unsynced();
            format!("fsync failed; {lost} lines after {} are lost, changes follow again", found.tip.seq)
        };
        tracing::error!(path = %self.options.file.display(), "audit.log: {words}");
        // Says that the disk may not have what lies between, should it turn out so after a power cut.
        let anchor = Anchor { mac: self.end.mac, last: self.synced.seq.min(self.end.seq), at: self.end.offset };
        self.say = vec![Say { event: EventKind::Gap, outcome: "fsync", note: anchor.note(&words), count: None }];
        if whole {
            self.generations.synced();
            self.unsynced.clear();
        }
        self.synced = self.end;
        Ok(())
    }

    /// Whether the file still has its name.
    pub(super) fn stands_at_its_path(&self) -> bool {
        Opened::open(&self.options.file).is_ok_and(|opened| opened.inode == self.inode)
    }
}
