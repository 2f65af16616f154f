//! How far the sweeper has come along the index of expiries, stored with what it did, and what wakes it.
//!
//! Invariant: no expiry at or before [`SweepMarks::told`] is left untold. Whoever brings one there, be it a token whose
//! commit took longer than its whole life, takes the mark back in the same transaction: the sweeper never has to know
//! who may write what.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::engine::Engine;
use super::error::{StoreError, read_error};
use super::record::TokenRecord;
use super::schema::{self, META, META_SWEEP};
use super::{Sealer, Store, Txn};
use crate::time::UnixTime;
use crate::token::TokenId;

/// A place in the index of expiries, which is sorted by time and then by id.
pub type ExpiryPlace = (UnixTime, TokenId);

/// How far the sweeper has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepMarks {
    /// All expiries up to this one have been told.
    pub told: Option<ExpiryPlace>,
    /// For each time ahead of expiry that is warned at, how far has been looked.
    pub leads: Vec<LeadMark>,
}

/// How far has been looked for tokens to warn of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeadMark {
    /// So long ahead of their expiry.
    pub before: Duration,
    /// All up to this expiry have been looked at.
    pub looked: ExpiryPlace,
}

/// What commits say to the sweeper. One side writes `soonest` and then reads `due`, the other the other way round: one of
/// them sees what the other wrote only because all of it is sequentially consistent.
pub(super) struct Sweep {
    marks: Mutex<SweepMarks>,
    /// The soonest expiry (microseconds) that commits brought since the sweeper last asked.
    soonest: AtomicU64,
    /// What the sweeper sleeps until, as an expiry: what comes before it wakes it.
    due: AtomicU64,
    wake: Notify,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            marks: Mutex::default(),
            soonest: AtomicU64::new(u64::MAX),
            due: AtomicU64::new(u64::MAX),
            wake: Notify::new(),
        }
    }
}

/// What one transaction does to the marks.
#[derive(Default)]
pub(super) struct Moves {
    marks: SweepMarks,
    moved: bool,
    /// The soonest expiry that the transaction brings.
    soonest: Option<UnixTime>,
}

impl Sweep {
    fn marks(&self) -> MutexGuard<'_, SweepMarks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a transaction begins with.
    pub(super) fn begin(&self) -> Moves {
        Moves { marks: self.marks().clone(), ..Moves::default() }
    }

    /// The marks as the disk has them.
    pub(super) fn load(&self, engine: &Engine, sealer: &dyn Sealer) -> Result<(), StoreError> {
        let stored = engine.read(|txn| {
            let meta = txn.open_table(META).map_err(read_error)?;
            schema::open_meta::<SweepMarks>(&meta, sealer, META_SWEEP)
        })?;
        *self.marks() = stored.unwrap_or_default();
        Ok(())
    }

    /// The transaction is durable.
    pub(super) fn committed(&self, moves: Moves) {
        if moves.moved {
            *self.marks() = moves.marks;
        }
        if let Some(at) = moves.soonest {
            self.brought(at);
        }
    }

    /// A commit brought this expiry, or may have.
    pub(super) fn brought(&self, at: UnixTime) {
        self.soonest.fetch_min(at.as_micros(), Ordering::SeqCst);
        if at.as_micros() < self.due.load(Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }
}

impl Moves {
    /// The sweeper has come so far.
    pub(super) fn set(&mut self, marks: SweepMarks) {
        self.moved |= marks != self.marks;
        self.marks = marks;
    }

    /// An expiry is written into the index.
    pub(super) fn brings(&mut self, place: ExpiryPlace) {
        self.soonest = Some(self.soonest.map_or(place.0, |at| at.min(place.0)));
        if self.marks.told.is_some_and(|told| place <= told) {
            self.marks.told = just_before(place);
            self.moved = true;
        }
    }

    /// The marks to be written, if they moved.
    pub(super) fn moved(&self) -> Option<&SweepMarks> {
        self.moved.then_some(&self.marks)
    }

    pub(super) fn marks(&self) -> &SweepMarks {
        &self.marks
    }
}

/// The last place before this one.
fn just_before((at, id): ExpiryPlace) -> Option<ExpiryPlace> {
    match u128::from_be_bytes(*id.as_bytes()).checked_sub(1) {
        Some(id) => Some((at, TokenId::from_bytes(id.to_be_bytes()))),
        None => at.as_micros().checked_sub(1).map(|at| (UnixTime::from_micros(at), TokenId::from_bytes([0xff; 16]))),
    }
}

impl Store {
    /// How far the sweeper has come.
    pub fn sweep_marks(&self) -> SweepMarks {
        self.shared.sweep.marks().clone()
    }

    /// The soonest expiry that commits brought since this was last asked.
    pub fn soonest_expiry(&self) -> Option<UnixTime> {
        let at = self.shared.sweep.soonest.swap(u64::MAX, Ordering::SeqCst);
        (at != u64::MAX).then(|| UnixTime::from_micros(at))
    }

    /// Waits until a commit brings an expiry before `due`. One that was brought since [`Self::soonest_expiry`] was last
    /// asked counts too: between a look at the index and this call none is missed.
    pub async fn expiry_before(&self, due: UnixTime) {
        let sweep = &self.shared.sweep;
        sweep.due.store(due.as_micros(), Ordering::SeqCst);
        while sweep.soonest.load(Ordering::SeqCst) >= due.as_micros() {
            sweep.wake.notified().await;
        }
    }

    /// Tokens by their expiry, after `after` and up to `until`, at most `limit`. Nothing of it goes through the cache of
    /// lookups: who looks at all tokens would drive out those that are in use.
    ///
    /// # Errors
    /// As [`Self::lookup`].
    pub fn expiring_records(
        &self,
        after: Option<ExpiryPlace>,
        until: UnixTime,
        limit: usize,
    ) -> Result<Vec<(ExpiryPlace, Option<TokenRecord>)>, StoreError> {
        self.read(|txn, sealer| {
            let places = super::scan::expiring(txn, after, until, limit)?;
            places.into_iter().map(|place| Ok((place, super::scan::record(txn, sealer, place.1)?))).collect()
        })
    }

    /// How many expiries lie after `after` and up to `until`, counted to `max`; those of tokens that have ended
    /// otherwise too.
    ///
    /// # Errors
    /// As [`Self::lookup`].
    pub fn count_expiring(&self, after: UnixTime, until: UnixTime, max: usize) -> Result<usize, StoreError> {
        self.read(|txn, _| super::scan::count_expiring(txn, after, until, max))
    }
}

impl Txn<'_> {
    /// How far the sweeper has come, as this job and those before it have left it.
    pub fn sweep_marks(&self) -> &SweepMarks {
        self.job.marks.as_ref().unwrap_or_else(|| self.moves.marks())
    }

    /// Stores how far the sweeper has come, in this same transaction.
    pub fn set_sweep_marks(&mut self, marks: SweepMarks) {
        self.job.marks = Some(marks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(at: u64, id: u8) -> ExpiryPlace {
        let mut bytes = [0; 16];
        bytes[15] = id;
        (UnixTime::from_micros(at), TokenId::from_bytes(bytes))
    }

    #[test]
    fn an_expiry_behind_the_mark_takes_it_back() {
        let mut moves = Moves::default();
        moves.brings(place(5, 1));
        assert_eq!(moves.moved(), None, "nothing was told yet");
        moves.set(SweepMarks { told: Some(place(10, 7)), ..SweepMarks::default() });
        moves.brings(place(10, 8));
        assert_eq!(moves.marks().told, Some(place(10, 7)));
        moves.brings(place(10, 7));
        assert_eq!(moves.marks().told, Some(place(10, 6)));
        moves.brings((UnixTime::from_micros(3), TokenId::MIN));
        assert_eq!(moves.marks().told, Some((UnixTime::from_micros(2), TokenId::from_bytes([0xff; 16]))));
        moves.brings((UnixTime::EPOCH, TokenId::MIN));
        assert_eq!(moves.marks().told, None);
        assert_eq!(moves.soonest, Some(UnixTime::EPOCH));
    }
}
