//! What was granted out of the cache, until the daemon knows of it.
//!
//! Invariants: I4 (no use is lost, nor told of another verdict: a kept verdict has its account from when it is made until
//! the last thread that grants by it lets go of it), and I5 (so many accounts, and so many reports that wait).
//!
//! Accounts have lanes, and each thread writes in one: threads that grant by the same verdict do not wait for each other's
//! caches. What is counted at each hit lies close together, so that little memory is gone through.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::atomic::{AtomicBool, Ordering};
use super::uses::{Taken, Uses};
use crate::client::ClientError;
use crate::protocol::code::ErrorCode;
use crate::protocol::message::UseReport;
use crate::protocol::{REPORTS_MAX, REQUEST_MAX};
use crate::time::UnixTime;

/// Counts that an account has.
const LANES: usize = 4;
/// Most bytes of a report besides its ticket.
const REPORT_BYTES: usize = 32;
/// Reports that wait for the daemon; above it nothing is granted that would add to them.
pub(super) const WAITING_MAX: usize = 65_536;

/// Uses of one verdict that the daemon is to be told of.
pub(in crate::client) struct Report {
    pub(super) ticket: Arc<[u8]>,
    pub(super) count: u32,
    pub(super) first: UnixTime,
    pub(super) last: UnixTime,
}

/// See the file's head.
pub(super) struct Ledger {
    lanes: [Box<[Line]>; LANES],
    /// Accounts that nobody has.
    free: Mutex<Vec<u32>>,
    /// Of accounts that were given up, and what could not be told.
    waiting: Mutex<Vec<Report>>,
    full: AtomicBool,
}

/// Half a line of memory, so that none lies in two.
#[repr(align(32))]
struct Line(Uses);

/// Where the uses of one verdict are counted.
pub(super) struct Account {
    ledger: Arc<Ledger>,
    ticket: Arc<[u8]>,
    number: u32,
}

impl Ledger {
    /// Of so many accounts.
    pub(super) fn new(accounts: usize) -> Arc<Self> {
        let accounts = u32::try_from(accounts).unwrap_or(u32::MAX);
        Arc::new(Self {
            lanes: std::array::from_fn(|_| (0..accounts).map(|_| Line(Uses::new(0))).collect()),
            free: Mutex::new((0..accounts).rev().collect()),
            waiting: Mutex::default(),
            full: AtomicBool::new(false),
        })
    }

    /// A new account, whose uses are told with this ticket; none if all are taken.
    pub(super) fn open(self: &Arc<Self>, ticket: Arc<[u8]>) -> Option<Account> {
        let number = lock(&self.free).pop()?;
        Some(Account { ledger: Arc::clone(self), ticket, number })
    }

    /// Where this thread counts in the account of this number; none when no more can be counted until some are told.
    pub(super) fn line(&self, number: u32) -> Option<&Uses> {
        let uses = &self.lanes[lane()].get(number as usize)?.0;
        (!self.full.load(Ordering::Relaxed) && uses.takes_more()).then_some(uses)
    }

    /// Takes the reports that wait.
    pub(super) fn take(&self) -> Vec<Report> {
        let mut waiting = lock(&self.waiting);
        self.full.store(false, Ordering::Relaxed);
        std::mem::take(&mut waiting)
    }

    /// Lets reports wait.
    pub(super) fn add(&self, reports: impl IntoIterator<Item = Report>) {
        let mut waiting = lock(&self.waiting);
        waiting.extend(reports);
        self.full.store(waiting.len() >= WAITING_MAX, Ordering::Relaxed);
    }
}

impl Account {
    pub(super) const fn number(&self) -> u32 {
        self.number
    }

    /// Takes what was counted since the last time.
    pub(super) fn report(&self) -> Option<Report> {
        let lines = self.ledger.lanes.iter().map(|lane| &lane[self.number as usize].0);
        let Taken { count, first, last } = lines.filter_map(Uses::take).reduce(both)?;
        Some(Report { ticket: Arc::clone(&self.ticket), count, first, last })
    }
}

/// Its last uses wait to be told, and then the number is free: nobody counts by it any more.
impl Drop for Account {
    fn drop(&mut self) {
        if let Some(report) = self.report() {
            self.ledger.add([report]);
        }
        lock(&self.ledger.free).push(self.number);
    }
}

/// How many of these fit one request, at least one.
pub(in crate::client) fn one_request(reports: &[Report]) -> usize {
    let mut bytes = 0;
    let fits = reports.iter().take(REPORTS_MAX).take_while(|report| {
        bytes += report.ticket.len() + REPORT_BYTES;
        bytes <= REQUEST_MAX / 2
    });
    fits.count().max(1)
}

/// As they are sent.
pub(in crate::client) fn as_messages(reports: &[Report]) -> Vec<UseReport<'_>> {
    let messages = reports.iter().map(|report| UseReport {
        ticket: &report.ticket,
        count: report.count,
        first: report.first,
        last: report.last,
    });
    messages.collect()
}

/// Whether a report that failed so may be sent again. When the connection was lost it may have been taken: a use less is
/// told rather than one too many; and what the daemon does not take it will not take later.
pub(in crate::client) fn may_tell_again(error: &ClientError) -> bool {
    match error {
        ClientError::Failure(failure) | ClientError::Refused(failure) => {
            matches!(failure.code, ErrorCode::Unavailable | ErrorCode::Stopping | ErrorCode::TooManyConnections)
        }
        ClientError::Connect { .. } | ClientError::WrongServer { .. } => true,
        _ => false,
    }
}

/// What two lanes counted.
fn both(one: Taken, other: Taken) -> Taken {
    Taken {
        count: one.count.saturating_add(other.count),
        first: one.first.min(other.first),
        last: one.last.max(other.last),
    }
}

/// This thread's: they take them in turn.
fn lane() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % LANES;
    }
    MINE.with(|mine| *mine)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::uses::Mark;
    use super::*;

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(secs)
    }

    fn ticket(byte: u8) -> Arc<[u8]> {
        Arc::new([byte])
    }

    #[test]
    fn uses_of_all_threads_are_told_once_with_the_first_and_the_last_time() {
        let ledger = Ledger::new(2);
        let mark = Mark::new();
        let account = ledger.open(ticket(1)).unwrap();
        thread::scope(|scope| {
            for thread in 1..=2 * LANES as u64 {
                let count = |second| ledger.line(account.number()).unwrap().count(at(second), &mark);
                scope.spawn(move || assert!((thread..thread + 1000).all(count)));
            }
        });
        assert!(mark.take());
        let report = account.report().unwrap();
        assert_eq!((report.count, report.last), (2000 * LANES as u32, at(999 + 2 * LANES as u64)));
        assert!(report.first >= at(1) && report.first <= at(2 * LANES as u64), "{:?}", report.first);
        assert!(account.report().is_none(), "told twice");
    }

    #[test]
    fn an_account_that_is_given_up_leaves_its_uses_and_its_number() {
        let ledger = Ledger::new(1);
        let account = ledger.open(ticket(1)).unwrap();
        assert!(ledger.open(ticket(2)).is_none(), "more accounts than there are");
        assert!(ledger.line(account.number()).unwrap().count(at(5), &Mark::new()));
        drop(account);
        let next = ledger.open(ticket(2)).unwrap();
        assert!(next.report().is_none(), "it has what another counted");
        let left = ledger.take();
        assert_eq!(left.len(), 1);
        assert_eq!((&*left[0].ticket, left[0].count, left[0].first, left[0].last), (&[1][..], 1, at(5), at(5)));
        assert!(ledger.line(1).is_none(), "there is no such account");
    }

    #[test]
    fn nothing_more_is_counted_while_too_much_waits_to_be_told() {
        let ledger = Ledger::new(1);
        let account = ledger.open(ticket(1)).unwrap();
        let report = || Report { ticket: ticket(1), count: 1, first: at(1), last: at(1) };
        ledger.add((1..WAITING_MAX).map(|_| report()));
        assert!(ledger.line(account.number()).is_some());
        ledger.add([report()]);
        assert!(ledger.line(account.number()).is_none());
        assert_eq!(ledger.take().len(), WAITING_MAX);
        assert!(ledger.line(account.number()).is_some());
    }
}
