//! The audit's own thread: everything that takes time. It ends windows, seals, tells syslog, heals and rotates the file,
//! and writes what the [`super::flusher`] leaves to it.
//!
//! Invariants: syncs and allocations are done by [`Disk`] while others go on writing; what changes the file in any other
//! way is done with the writer in hand and with nothing under way there. A seal is of what was written before its sync
//! began, and made only if that succeeded.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::disk::{Disk, Ended, Errand};
use super::flusher;
use super::{OnSeal, SEAL_EVERY, Setup, Writer};
use crate::audit::AuditError;
use crate::audit::chain::Seal;
use crate::audit::coalesce::Closing;
use crate::audit::event::{AuditEvent, EventKind};
use crate::audit::generations::Generations;
use crate::audit::recover::Survey;
use crate::audit::shared::{Class, Command, Job, Shared, Turn, lock};
use crate::audit::teller::Teller;
use crate::peer::PeerLabel;

/// How often windows are ended and a failing file is tried again.
const TICK: Duration = Duration::from_millis(250);

/// The thread's state; the writer itself is with whoever writes.
pub(in crate::audit) struct Keeper {
    shared: Arc<Shared>,
    teller: Teller,
    disk: Disk,
    on_seal: OnSeal,
    sealed_at: Duration,
}

impl Keeper {
    /// Takes the log over as `survey` found it; writes what must be said first and what the outbox still owes.
    pub(in crate::audit) fn open(
        setup: Setup,
        survey: Survey,
        generations: Generations,
        owed: Vec<AuditEvent>,
    ) -> Result<Self, AuditError> {
        let Setup { shared, options, key, on_seal, wrap } = setup;
        let teller = Teller::new(options.syslog.clone(), Arc::clone(&shared));
        let sealed_at = shared.clock.boottime().saturating_sub(SEAL_EVERY);
        let disk = Disk::start(&shared).map_err(AuditError::Thread)?;
        let sync = options.sync;
        let writer = Writer::open(Arc::clone(&shared), options, key, wrap, survey, generations, owed)?;
        shared.put_back(Box::new(writer));
        // Where each batch waits for its sync, the keeper does both.
        if !sync {
            flusher::start(&shared).map_err(AuditError::Thread)?;
        }
        Ok(Self { shared, teller, disk, on_seal, sealed_at })
    }

    /// Until it is told to stop, or nobody is left to tell it anything.
    pub(in crate::audit) fn run(mut self) {
        let mut next_tick = Instant::now() + TICK;
        loop {
            let mut turn = self.shared.turn(next_tick, self.teller.backlog());
            self.teller.tell(std::mem::take(&mut turn.told));
            let tick = Instant::now() >= next_tick;
            if (turn.work || tick) && self.work(turn, tick) {
                return;
            }
            if tick {
                next_tick = Instant::now() + TICK;
            }
        }
    }

    /// What needs the writer; true when it was the last thing to do.
    fn work(&mut self, turn: Turn, tick: bool) -> bool {
        let (mut writer, jobs) = self.shared.hold();
        for ended in turn.ended {
            self.finish(&mut writer, ended);
        }
        self.write(&mut writer, jobs);
        if tick {
            self.tick(&mut writer);
        }
        for (command, answer) in turn.commands {
            let done = match command {
                Command::Tick => {
                    self.settle(&mut writer);
                    self.tick(&mut writer);
                    self.settle(&mut writer);
                    writer.keep_room();
                    Ok(())
                }
                Command::Barrier => writer.standing(),
                Command::Reopen => self.reopen(&mut writer),
                Command::Stop => self.stop(&mut writer),
            };
            self.tell(&mut writer);
            // Who asked may have gone.
            let _ = answer.send(done);
        }
        if turn.closed {
            return true;
        }
        if let Some((from, to)) = writer.reserve_begins() {
            self.disk.send(Errand::Reserve { log: writer.log(), from, to });
        }
        self.shared.put_back(writer);
        false
    }

    fn write(&mut self, writer: &mut Writer, jobs: Vec<Job>) {
        if let Err(jobs) = writer.write_quick(jobs) {
            if writer.fault.is_none() {
                self.settle(writer);
            }
            writer.write(jobs);
        }
    }

    /// Waits for what is under way on the disk.
    fn settle(&mut self, writer: &mut Writer) {
        while writer.is_disk_busy() {
            for ended in self.shared.await_ended() {
                self.finish(writer, ended);
            }
        }
    }

    fn finish(&mut self, writer: &mut Writer, ended: Ended) {
        match ended {
            Ended::Reserved(result) => writer.reserve_ended(result),
            Ended::Synced(result, space) => {
                if let Ok(space) = space {
                    writer.saw_space(space);
                }
                if let Some((seal, through)) = writer.sync_ended(result) {
                    self.sealed(writer, seal, through);
                }
            }
        }
    }

    fn sealed(&mut self, writer: &mut Writer, seal: Seal, through: u64) {
        self.shared.counters.sealed_seq.store(seal.seq, Relaxed);
        self.tell(writer);
        self.teller.seal(&seal);
        (self.on_seal)(seal, through);
    }

    fn tell(&mut self, writer: &mut Writer) {
        self.teller.tell(self.shared.take_told(writer));
    }

    /// Ends windows, tries a failing file again, tells what was lost, begins a seal.
    fn tick(&mut self, writer: &mut Writer) {
        writer.set_pace();
        if writer.fault.is_some() {
            self.settle(writer);
            writer.try_again();
        }
        writer.untold.due = true;
        self.tell(writer);
        let jobs = self.due(writer, false);
        self.write(writer, jobs);
        let now = self.shared.clock.boottime();
        if now.saturating_sub(self.sealed_at) >= SEAL_EVERY {
            self.seal(writer);
            self.sealed_at = now;
        }
    }

    /// Begins to sync and seal what is new.
    fn seal(&mut self, writer: &mut Writer) {
        if let Some(sync) = writer.sync_begins() {
            self.disk.send(Errand::Sync { log: writer.log(), sync });
        }
    }

    /// Lines whose time has come.
    fn due(&mut self, writer: &Writer, all: bool) -> Vec<Job> {
        let shared = Arc::clone(&self.shared);
        let (now, boottime) = (shared.clock.now(), shared.clock.boottime());
        let mut jobs = Vec::new();
        let closing = |Closing { event, after, .. }| Job { after, ..Job::new(event, Class::Droppable) };
        shared.uses.sweep(now, all, |ended| jobs.push(closing(ended)));
        shared.refusals.sweep(now, all, |ended| {
            if let Some(uid) = ended.uid {
                lock(&shared.budget).charge(uid, boottime);
            }
            jobs.push(closing(ended));
        });
        // While the file fails they go on being counted where they are.
        if writer.fault.is_none() && (all || boottime.saturating_sub(self.sealed_at) >= SEAL_EVERY) {
            let mut budget = lock(&shared.budget);
            for flood in budget.floods(boottime) {
                let mut event = AuditEvent::new(EventKind::Flood, flood.last);
                event.outcome = Some("dropped".into());
                event.peer = flood.uid.map(|uid| PeerLabel { pid: 0, uid, gid: u32::MAX, unit: None, container: None });
                event.note = flood.uid.is_none().then(|| "of several users".to_owned());
                (event.count, event.first, event.last) = (Some(flood.count), Some(flood.first), Some(flood.last));
                jobs.push(Job::new(event, Class::Kept));
            }
            shared.counters.flooded.store(budget.flooded(), Relaxed);
        }
        if let Some(count) = self.teller.drops_due(all) {
            let mut event = AuditEvent::new(EventKind::Gap, now);
            event.outcome = Some("dropped".into());
            event.note = Some(format!("syslog dropped {count}"));
            event.count = Some(count);
            jobs.push(Job::new(event, Class::Kept));
        }
        jobs
    }

    /// logrotate has renamed the file: everything in the old one is sealed, then the chain goes on in the new one.
    fn reopen(&mut self, writer: &mut Writer) -> Result<(), String> {
        self.settle(writer);
        if writer.fault.is_some() {
            writer.try_again();
        }
        writer.standing()?;
        self.seal(writer);
        self.settle(writer);
        writer.standing()?;
        if writer.stands_at_its_path() {
            return Ok(());
        }
        writer.release_room();
        // On failure the old handle still takes lines.
        writer.take_over(true).map_err(|error| error.to_string())?;
        writer.write(Vec::new());
        writer.standing()?;
        self.seal(writer);
        self.settle(writer);
        writer.standing()
    }

    fn stop(&mut self, writer: &mut Writer) -> Result<(), String> {
        // Nothing may come after the last seal.
        self.shared.close();
        self.settle(writer);
        writer.write(self.shared.take_jobs());
        if writer.fault.is_some() {
            writer.try_again();
        }
        writer.untold.due = true;
        self.tell(writer);
        self.teller.give_up();
        let jobs = self.due(writer, true);
        writer.write(jobs);
        self.seal(writer);
        self.settle(writer);
        writer.release_room();
        self.tell(writer);
        self.teller.give_up();
        writer.standing()
    }
}
