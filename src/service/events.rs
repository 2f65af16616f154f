//! watch: changes as they are made, by their numbers, to those who may see them.
//!
//! The number of an event is the generation that its change made. Events are read from the store's journal, never handed
//! over in memory: so nobody who reads slowly holds anything up or makes anything grow, and a stream goes on after a
//! restart where it was.
//!
//! Invariants: an event is sent only once its change is durable, and each of them, in order, or a `gap` that says so; each
//! page is decided by the settings in force when it is sent.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::changes::ownership;
use super::{Caller, Now, Service, store_failure};
use crate::audit::{AuditEvent, EventKind};
use crate::config::Operation;
use crate::policy::{self, Ownership};
use crate::protocol::code::ErrorCode;
use crate::protocol::message::{Answer, Event, Events, Failure, Watch};
use crate::store::{JournalPage, StoreError};
use crate::time::UnixTime;

/// Records of the journal that are read in one go.
const PAGE_RECORDS: usize = 256;
/// Bytes of events after which an answer takes no further one.
const PAGE_BYTES: usize = 32 * 1024;
/// How often each stream looks for news at most: what comes meanwhile is read in one go.
const BEAT: Duration = Duration::from_millis(10);
/// After how many numbers that the peer does not see it is told how far they go, so that where it would go on does not
/// fall out of the journal.
const PROGRESS: u64 = 4096;

impl Service {
    pub(super) fn watch(self: &Arc<Self>, caller: &Arc<Caller>, ask: Watch) -> Now {
        // Before policy is asked: no reload after that is missed.
        let (reloaded, stopping) = (self.reloaded.subscribe(), self.stopping.subscribe());
        if let Err(failure) = self.authorise(caller, &may_watch(), None) {
            return Now::failure(failure);
        }
        let announced = self.store.announced();
        let newest = *announced.borrow();
        let follower = Follower {
            service: Arc::clone(self),
            caller: Arc::clone(caller),
            reloaded,
            stopping,
            announced,
            through: ask.since.unwrap_or(newest),
            told: None,
            look_after: Instant::now(),
            ended: false,
        };
        Now::Stream(Box::pin(stream::unfold(follower, Follower::next)))
    }
}

const fn may_watch() -> policy::Ask<'static> {
    policy::Ask { op: Operation::Watch, own: Ownership::Undecided, issue: None, scopes: &[] }
}

/// One stream.
struct Follower {
    service: Arc<Service>,
    caller: Arc<Caller>,
    announced: watch::Receiver<u64>,
    reloaded: watch::Receiver<()>,
    stopping: watch::Receiver<bool>,
    /// All up to here is dealt with.
    through: u64,
    /// How far the peer knows that; `None` before the first answer.
    told: Option<u64>,
    look_after: Instant,
    ended: bool,
}

/// Why a stream waits no longer.
enum Woken {
    /// There is something to look at.
    Look,
    /// The settings may be others.
    Reloaded,
    /// The daemon stops.
    Stopping,
}

impl Follower {
    /// The stream's next answer.
    async fn next(mut self) -> Option<(Answer, Self)> {
        if self.ended {
            return None;
        }
        let answer = match self.events().await {
            Ok(events) => {
                self.ended = events.last;
                self.told = Some(events.through);
                Answer::Events(events)
            }
            Err(failure) => {
                self.ended = true;
                Answer::Error(failure)
            }
        };
        Some((answer, self))
    }

    async fn events(&mut self) -> Result<Events, Failure> {
        loop {
            match self.wait().await {
                Woken::Look => {}
                Woken::Reloaded => {
                    let _ = self.service.authorise(&self.caller, &may_watch(), None)?;
                    continue;
                }
                Woken::Stopping => return Err(stopping()),
            }
            let read = self.read().await?;
            self.look_after = if read.more { Instant::now() } else { Instant::now() + BEAT };
            self.through = read.through;
            let silent_for = self.told.map(|told| read.through.saturating_sub(told));
            if !read.events.is_empty() || silent_for.is_none_or(|numbers| numbers >= PROGRESS) {
                return Ok(Events { events: read.events, through: read.through, last: read.behind });
            }
        }
    }

    /// Waits for something that is not dealt with yet; before the first answer not at all.
    async fn wait(&mut self) -> Woken {
        let (through, first) = (self.through, self.told.is_none());
        let woken = tokio::select! {
            biased;
            _ = self.stopping.wait_for(|stopping| *stopping) => Woken::Stopping,
            _ = self.reloaded.changed() => Woken::Reloaded,
            _ = self.announced.wait_for(|newest| first || *newest > through) => Woken::Look,
        };
        if matches!(woken, Woken::Look) {
            sleep_until(self.look_after).await;
        }
        woken
    }

    /// Reads a page of the journal and takes from it what the peer may see.
    async fn read(&self) -> Result<Read, Failure> {
        let (service, caller) = (Arc::clone(&self.service), Arc::clone(&self.caller));
        let grant = service.authorise(&caller, &may_watch(), None)?;
        let own_name = if grant.own_only { Some(service.user_name(&caller).await) } else { None };
        let turn = service.watchers.take(&caller, &service.settings(), 1).await.ok_or_else(stopping)?;
        let (through, begins) = (self.through, self.told.is_none());
        let read = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let page = service.store.journal(through, PAGE_RECORDS)?;
            let sees = |event: &AuditEvent| match (&own_name, event.id) {
                (None, _) => Ok(true),
                // Of a token that is there no more nobody can say whose it was.
                (Some(name), Some(id)) => {
                    let record = service.store.told_of(id)?;
                    Ok(record.is_some_and(|record| ownership(&record, &caller, name) == Ownership::Own))
                }
                (Some(_), None) => Ok(false),
            };
            Read::of(page, through, begins, service.clock.now(), sees)
        });
        match read.await {
            Ok(read) => read.map_err(|error| store_failure(&error)),
            Err(_) => Err(Failure::new(ErrorCode::Internal, "the events could not be read: see the log of bearerd")),
        }
    }
}

fn stopping() -> Failure {
    Failure::new(ErrorCode::Stopping, "bearerd is stopping: connect again")
}

/// What a page of the journal comes to.
struct Read {
    events: Vec<Event>,
    through: u64,
    /// There is more in the journal.
    more: bool,
    /// What should have come next is not in the journal any more.
    behind: bool,
}

impl Read {
    /// `begins`: the stream does, so that what is missing was not lost by being slow.
    fn of(
        page: JournalPage,
        through: u64,
        begins: bool,
        now: UnixTime,
        sees: impl Fn(&AuditEvent) -> Result<bool, StoreError>,
    ) -> Result<Self, StoreError> {
        let mut read = Self { events: Vec::new(), through, more: page.more, behind: false };
        if through > page.newest {
            // A number of another store, or of this one before an older copy took its place.
            let oldest = page.first.unwrap_or(page.newest + 1).min(page.newest + 1);
            read.events.push(gap(through.saturating_add(1), None, oldest - 1, now));
            (read.through, read.more) = (oldest - 1, true);
            return Ok(read);
        }
        let mut bytes = 0;
        for (generation, record) in page.records {
            if generation > read.through + 1 {
                read.miss(generation - 1, now);
                if !begins {
                    read.behind = true;
                    return Ok(read);
                }
            }
            let event = AuditEvent::decode(&record).map_err(|_| StoreError::Damaged {
                what: format!("the audit record of change {generation} can't be understood").into(),
            })?;
            read.through = generation;
            // A token's uses are counted in the store too, but they are no changes of what it may do.
            if matches!(event.event, EventKind::Use | EventKind::Deny) || !sees(&event)? {
                continue;
            }
            let json = event.to_json(generation);
            bytes += json.len();
            read.events.push(Event { seq: generation, gap: false, json });
            if bytes > PAGE_BYTES {
                read.more = true;
                return Ok(read);
            }
        }
        if !read.more && read.through < page.newest {
            read.miss(page.newest, now);
            read.behind = !begins;
        }
        Ok(read)
    }

    /// What comes after `through` is missing, up to `to`.
    fn miss(&mut self, to: u64, now: UnixTime) {
        self.events.push(gap(self.through + 1, Some(to), to, now));
        self.through = to;
    }
}

/// `seq` is what to go on after.
fn gap(from: u64, to: Option<u64>, seq: u64, now: UnixTime) -> Event {
    let to = to.map_or("null".to_owned(), |to| to.to_string());
    let json =
        format!("{{\"time\":\"{now}\",\"seq\":{seq},\"event\":\"gap\",\"missing\":{{\"from\":{from},\"to\":{to}}}}}");
    Event { seq, gap: true, json }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn record(kind: EventKind, generation: u64) -> (u64, Vec<u8>) {
        let event = AuditEvent { generation: Some(generation), ..AuditEvent::new(kind, NOW) };
        (generation, event.encode())
    }

    fn page(generations: &[u64], first: Option<u64>, newest: u64, more: bool) -> JournalPage {
        let records = generations.iter().map(|&generation| record(EventKind::Issue, generation)).collect();
        JournalPage { records, first, newest, more }
    }

    fn all(_: &AuditEvent) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// Numbers, and whether each is a gap.
    fn said(read: &Read) -> Vec<(u64, bool)> {
        read.events.iter().map(|event| (event.seq, event.gap)).collect()
    }

    #[test]
    fn what_follows_is_said_without_a_gap() {
        let read = Read::of(page(&[4, 5, 6], Some(1), 6, false), 3, false, NOW, all).unwrap();
        assert_eq!(said(&read), [(4, false), (5, false), (6, false)]);
        assert_eq!((read.through, read.more, read.behind), (6, false, false));
        let read = Read::of(page(&[], None, 3, false), 3, true, NOW, all).unwrap();
        assert_eq!((read.events.len(), read.through, read.behind), (0, 3, false));
    }

    #[test]
    fn what_the_journal_no_longer_has_is_a_gap_and_the_end_for_who_was_slow() {
        for begins in [true, false] {
            let read = Read::of(page(&[8, 9], Some(8), 9, false), 3, begins, NOW, all).unwrap();
            let after = if begins { &[(8, false), (9, false)][..] } else { &[] };
            assert_eq!(said(&read), [&[(7, true)], after].concat());
            assert_eq!((read.through, read.behind), (if begins { 9 } else { 7 }, !begins));
            let line: serde_json::Value = serde_json::from_str(&read.events[0].json).unwrap();
            assert_eq!(
                (&line["event"], &line["missing"]["from"], &line["missing"]["to"]),
                (&"gap".into(), &4.into(), &7.into())
            );
            // Nothing is kept at all, or the newest are not.
            for (generations, first) in [(&[][..], None), (&[4][..], Some(4))] {
                let read = Read::of(page(generations, first, 9, false), 3, begins, NOW, all).unwrap();
                assert_eq!((said(&read).last(), read.through, read.behind), (Some(&(9, true)), 9, !begins));
            }
        }
    }

    #[test]
    fn a_number_from_the_future_begins_anew_with_a_gap_of_unknown_end() {
        let read = Read::of(page(&[], Some(5), 9, false), 40, true, NOW, all).unwrap();
        assert_eq!((said(&read), read.through, read.behind), (vec![(4, true)], 4, false));
        assert!(read.more && read.events[0].json.ends_with("\"missing\":{\"from\":41,\"to\":null}}"));
        for (newest, after) in [(9, 9), (0, 0)] {
            let read = Read::of(page(&[], None, newest, false), u64::MAX, true, NOW, all).unwrap();
            assert_eq!((said(&read), read.through), (vec![(after, true)], after));
        }
    }

    #[test]
    fn what_is_not_for_the_peer_is_passed_over() {
        let mut page = page(&[4, 6], Some(1), 7, false);
        page.records.insert(1, record(EventKind::Use, 5));
        page.records.push(record(EventKind::Revoke, 7));
        let sees = |event: &AuditEvent| Ok(event.event != EventKind::Revoke);
        let read = Read::of(page, 3, false, NOW, sees).unwrap();
        assert_eq!((said(&read), read.through, read.behind), (vec![(4, false), (6, false)], 7, false));
    }

    #[test]
    fn an_answer_is_short_however_long_the_page_is() {
        let long = page(&(1..=200).collect::<Vec<_>>(), Some(1), 200, false);
        let read = Read::of(long, 0, false, NOW, all).unwrap();
        let bytes: usize = read.events.iter().map(|event| event.json.len()).sum();
        assert!((PAGE_BYTES..PAGE_BYTES + 1024).contains(&bytes), "{bytes}");
        assert!(read.more && read.through < 200 && read.through == read.events.last().unwrap().seq);
    }
}
