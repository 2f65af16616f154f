//! Alerts: a bait was shown, or a token that has been rotated out. Durable, so that watchers hear of them; bounded, so
//! that who hammers can't make commits or lines without end; beside the verdict, which no failing disk delays or turns.
//!
//! Invariants: alike attempts (token, peer, address) have one window at a time: the first is committed at once, what comes
//! within [`WINDOW`] is counted into one more event at its end (I7). The event committed is the line: nothing is told
//! twice. What finds no window, or no disk, goes the way of ordinary refusals into the log, within the uid's budget (I4).
//! With `on_reuse = "revoke-family"` the family ends in the transaction of the alert, and its verdict comes after that.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::changes::{announce, event_about};
use super::lines::event_of_use;
use super::validate::Question;
use super::{Caller, Service};
use crate::audit::{AuditEvent, EventKind, UseKey};
use crate::config::OnReuse;
use crate::protocol::code::Reason;
use crate::registry::family;
use crate::registry::revoke::{Revocation, revoke};
use crate::store::record::TokenRecord;
use crate::store::{Effect, StoreError, Txn};
use crate::time::UnixTime;
use crate::token::TokenId;

/// How long alike attempts are counted into one event.
const WINDOW: Duration = Duration::from_secs(10);
/// After a commit that failed: when it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Windows open at once of one user: three commits a second at most.
const WINDOWS_EACH: usize = 32;
/// Windows open at once.
const WINDOWS_MAX: usize = 1024;
/// Families that are known to have been revoked, so that their chain is not walked again for each later alert.
const FAMILIES_MAX: usize = 1024;
/// How long a reader of the log waits for alerts that are on their way into it.
const SETTLE_WAIT: Duration = Duration::from_secs(1);

/// The open windows.
#[derive(Default)]
pub(super) struct Alerts {
    state: Mutex<State>,
    /// A first commit has ended, or a window.
    settled: Notify,
}

#[derive(Default)]
struct State {
    windows: HashMap<UseKey, Window>,
    /// By uid, and whether it has full rights: a container's root is not the host's.
    users: HashMap<(u32, bool), usize>,
    /// First commits under way.
    under_way: BTreeSet<u64>,
    next: u64,
    /// Families that were revoked because of a reuse, since the start.
    revoked: HashSet<TokenId>,
}

/// What came since the last event.
struct Window {
    user: (u32, bool),
    count: u64,
    first: UnixTime,
    last: UnixTime,
}

/// What became of an attempt.
enum Noted {
    /// It opened a window, and is to be committed.
    Opened(u64),
    /// It will be told at the end of its window.
    Counted,
    /// There is no window for it.
    Full,
}

impl Alerts {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, key: UseKey, user: (u32, bool), now: UnixTime) -> Noted {
        let mut state = self.state();
        let state = &mut *state;
        let full = state.windows.len() >= WINDOWS_MAX;
        match state.windows.entry(key) {
            Entry::Occupied(mut window) => {
                let window = window.get_mut();
                window.first = if window.count == 0 { now } else { window.first };
                (window.count, window.last) = (window.count + 1, now);
                Noted::Counted
            }
            Entry::Vacant(place) => {
                if full || state.users.get(&user).is_some_and(|own| *own >= WINDOWS_EACH) {
                    return Noted::Full;
                }
                *state.users.entry(user).or_default() += 1;
                place.insert(Window { user, count: 0, first: now, last: now });
                state.next += 1;
                state.under_way.insert(state.next);
                Noted::Opened(state.next)
            }
        }
    }

    /// What was counted, for the next event; a window in which nothing came is closed.
    fn take(&self, key: UseKey) -> Option<(u64, UnixTime, UnixTime)> {
        let mut state = self.state();
        let window = state.windows.get_mut(&key)?;
        if window.count > 0 {
            return Some((std::mem::take(&mut window.count), window.first, window.last));
        }
        let user = window.user;
        state.windows.remove(&key);
        if let Entry::Occupied(mut own) = state.users.entry(user) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
        drop(state);
        self.settled.notify_waiters();
        None
    }

    fn arrived(&self, ticket: u64) {
        self.state().under_way.remove(&ticket);
        self.settled.notify_waiters();
    }

    /// Waits until `over` says so of the state, for a while at most.
    async fn wait(&self, over: impl Fn(&State) -> bool) {
        let waited = tokio::time::timeout(SETTLE_WAIT, async {
            loop {
                let mut settled = std::pin::pin!(self.settled.notified());
                settled.as_mut().enable();
                if over(&self.state()) {
                    return;
                }
                settled.await;
            }
        });
        let _ = waited.await;
    }
}

/// One alert, and what it brings about.
struct Alert {
    key: UseKey,
    event: AuditEvent,
    /// The family of this token is to be revoked.
    ends: Option<TokenId>,
    ticket: u64,
}

impl Service {
    /// Somebody has shown a bait or a rotated-out token. What is given back is to be awaited before the verdict: there is
    /// something only where the verdict is to come after the family's end.
    pub(super) fn alert(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        record: &TokenRecord,
        question: &Question,
        reason: Reason,
        now: UnixTime,
    ) -> Option<oneshot::Receiver<()>> {
        let peer = &caller.peer;
        let ask = question.ask();
        let asked = question.asked(&ask);
        let key = UseKey::of(|hasher| {
            (record.id, peer.uid, peer.unit.as_deref(), peer.container.as_deref()).hash(hasher);
            (question.from, question.peek).hash(hasher);
        });
        let known = caller.known(self);
        let user = (peer.uid, known.standing.full);
        // A look is not a use: whoever looks what became of a token must not end its successors by that.
        let ends = reason == Reason::Rotated
            && !record.replaced
            && !question.peek
            && known.settings.rotation.on_reuse == OnReuse::RevokeFamily;
        drop(known);
        let ticket = match self.alerts.note(key, user, now) {
            Noted::Opened(ticket) => ticket,
            Noted::Counted => return None,
            Noted::Full => {
                self.refuse_shared(caller, record, asked, reason, now);
                return None;
            }
        };
        let mut event = event_of_use(record, asked, peer.label(), Some(reason), now);
        event.count = Some(1);
        let ends = ends.then_some(record.id).filter(|_| !self.alerts.state().revoked.contains(&record.family));
        let (done, told) = oneshot::channel();
        let waits = ends.is_some();
        let alert = Alert { key, event, ends, ticket };
        tokio::spawn(Arc::clone(self).tell(Arc::clone(caller), alert, record.family, done));
        waits.then_some(told)
    }

    /// Waits until the alerts of before are in the log, or can't be: whoever reads it then finds them there.
    pub(super) async fn alerts_told(&self) {
        let last = self.alerts.state().next;
        self.alerts.wait(|state| state.under_way.first().is_none_or(|first| *first > last)).await;
    }

    /// Waits until what was counted is told; for the end, after [`Self::stop`].
    pub async fn settle_alerts(&self) {
        self.alerts.wait(|state| state.windows.is_empty()).await;
    }

    /// The life of a window.
    async fn tell(self: Arc<Self>, caller: Arc<Caller>, alert: Alert, family: TokenId, done: oneshot::Sender<()>) {
        let Alert { key, event, mut ends, ticket } = alert;
        let mut stopping = self.stopping.subscribe();
        let mut done = Some(done);
        let mut owed = Some(event.clone());
        loop {
            let mut pause = WINDOW;
            if owed.is_some() || ends.is_some() {
                // A full disk keeps what room it has for revocations; the line is written all the same.
                let durable = ends.is_some() || self.store.room().issue_ok;
                let told = if durable { self.commit_alert(&caller, owed.clone(), ends).await } else { Ok(()) };
                match &told {
                    Ok(()) if ends.take().is_some() => self.alerts.state().remember(family),
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!("an alert could not be stored: {error}");
                        pause = RETRY;
                    }
                }
                if let Some(event) = owed.take().filter(|_| !durable || told.is_err()) {
                    self.audit.refused(key, self.refusal(&caller), true, event.time, || event);
                }
                self.alerts.arrived(ticket);
                if let Some(done) = done.take() {
                    let _ = done.send(());
                }
            }
            // Nobody is kept waiting for the end of a window.
            let ended = tokio::time::timeout(pause, stopping.wait_for(|stopping| *stopping)).await.is_ok();
            owed = self.alerts.take(key).map(|(count, first, last)| AuditEvent {
                time: last,
                count: Some(count),
                first: Some(first),
                last: Some(last),
                ..event.clone()
            });
            if owed.is_none() && (ends.is_none() || ended) {
                return;
            }
        }
    }

    /// The event, and the end of the family, in one transaction.
    async fn commit_alert(
        &self,
        caller: &Caller,
        event: Option<AuditEvent>,
        ends: Option<TokenId>,
    ) -> Result<(), StoreError> {
        let (now, label, by_uid) = (self.clock.now(), caller.peer.label(), self.settings().policy.own().uid);
        let job = move |txn: &mut Txn<'_>| -> Result<((), Vec<AuditEvent>), StoreError> {
            let mut events = Vec::new();
            if let Some(event) = event {
                events.push(announce(txn, event)?);
            }
            let Some(id) = ends else { return Ok(((), events)) };
            let reason = format!("reuse of {id}");
            for member in family::living(id, now, |id| txn.record(id))? {
                let Revocation::Revoke(record) = revoke(&member, Some(&reason), by_uid, now) else { continue };
                let mut event = event_about(EventKind::Revoke, &record, now);
                event.reason = Some(reason.clone().into());
                event.peer = Some(label.clone());
                event.note = Some("by on_reuse of the configuration".to_owned());
                txn.put(*record, Effect::Restricts)?;
                events.push(announce(txn, event)?);
            }
            Ok(((), events))
        };
        // The lines are with the audit, and the change in the outbox: nobody waits for the log.
        self.commit(caller, 1, job).await?.map(|((), _lines)| ())
    }
}

impl State {
    fn remember(&mut self, family: TokenId) {
        if self.revoked.len() >= FAMILIES_MAX {
            self.revoked.clear();
        }
        self.revoked.insert(family);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> UseKey {
        UseKey::of(|hasher| n.hash(hasher))
    }

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
    const ALICE: (u32, bool) = (1000, false);

    #[test]
    fn the_first_opens_the_rest_is_counted_and_a_quiet_window_closes() {
        let alerts = Alerts::default();
        assert!(matches!(alerts.note(key(1), ALICE, NOW), Noted::Opened(1)));
        assert!(alerts.state().under_way.contains(&1));
        alerts.arrived(1);
        let later = NOW.saturating_add(Duration::from_secs(3));
        assert!(matches!(alerts.note(key(1), ALICE, later), Noted::Counted));
        assert!(matches!(alerts.note(key(1), ALICE, later), Noted::Counted));
        assert_eq!(alerts.take(key(1)), Some((2, later, later)));
        assert_eq!(alerts.take(key(1)), None);
        let state = alerts.state();
        assert!(state.windows.is_empty() && state.users.is_empty() && state.under_way.is_empty());
    }

    #[test]
    fn one_user_cannot_take_the_windows_of_another() {
        let alerts = Alerts::default();
        let opened = (0..1000).filter(|n| matches!(alerts.note(key(*n), ALICE, NOW), Noted::Opened(_))).count();
        assert_eq!(opened, WINDOWS_EACH);
        assert!(matches!(alerts.note(key(5000), (1001, false), NOW), Noted::Opened(_)));
        assert!(matches!(alerts.note(key(5001), (1000, true), NOW), Noted::Opened(_)));
        let all = (0..100_000_u32)
            .filter(|n| matches!(alerts.note(key(9000 + *n as usize), (*n, false), NOW), Noted::Opened(_)));
        assert_eq!(all.count() + WINDOWS_EACH + 2, WINDOWS_MAX);
        assert!(alerts.state().users.len() <= WINDOWS_MAX + 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut state = State::default();
        for n in 0..5000_u128 {
            state.remember(TokenId::from_bytes(n.to_be_bytes()));
        }
        assert!(state.revoked.len() <= FAMILIES_MAX);
        assert!(state.revoked.contains(&TokenId::from_bytes(4999_u128.to_be_bytes())));
    }
}
