//! The program's side: its pure decisions over records in memory. Here is what the service does inside its transactions,
//! the same functions in the same order (`src/service/{issue,edit,renew,rotate,revoke,hold,uses,validate,apply}.rs`),
//! without policy, audit and disk.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use bearerd::config::Lives;
use bearerd::protocol::code::Reason;
use bearerd::protocol::message::{Edit, Ends, Handle, Issue, State as Shown};
use bearerd::registry::edit::{Hand, edit};
use bearerd::registry::issue::{Parties, Rules, plan};
use bearerd::registry::revoke::{Revocation, reinstated, revoke};
use bearerd::registry::rotate::{How, Kin, Rotated, rotate};
use bearerd::registry::validate::{Circumstances, Judgement, is_exhausted, judge};
use bearerd::registry::{Refusal, family, first_use, hold, renew, sweep};
use bearerd::store::record::TokenRecord;
use bearerd::time::UnixTime;
use bearerd::token::{Digest, Kind as Letter, TokenId};

use super::model::{Came, Kind, MACHINE_LIFETIME, New, OVERLAP, SESSION_LIFETIME, State, What, Which};
use super::orders::Orders;

/// Second 0 of the model.
const START: u64 = 1_800_000_000;

pub struct Program {
    pub now: u64,
    /// As they are stored: orders may be ahead of them.
    pub records: Vec<TokenRecord>,
    pub orders: Orders,
    rules: Rules,
}

pub fn id(place: usize) -> TokenId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&(place as u64 + 1).to_be_bytes());
    TokenId::from_bytes(bytes)
}

pub fn place(id: TokenId) -> usize {
    let bytes: [u8; 8] = id.as_bytes()[8..].try_into().expect("eight bytes");
    usize::try_from(u64::from_be_bytes(bytes) - 1).expect("few tokens")
}

pub fn at(secs: u64) -> UnixTime {
    UnixTime::from_secs(START + secs)
}

pub fn secs(at: UnixTime) -> u64 {
    at.as_secs() - START
}

pub fn letter(kind: Kind) -> Letter {
    match kind {
        Kind::Machine => Letter::Machine,
        Kind::Session => Letter::Session,
        Kind::Canary => Letter::Canary,
    }
}

pub fn label(label: u8) -> (String, String) {
    ("team".to_owned(), format!("t{label}"))
}

pub fn subject(subject: u8) -> String {
    format!("s{subject}")
}

impl Program {
    pub fn new() -> Self {
        let lives = |lifetime| {
            let lifetime = Duration::from_secs(lifetime);
            Lives { default_ttl: lifetime, max_ttl: lifetime, max_lifetime: lifetime }
        };
        let rules = Rules {
            prefix: "brd".parse().unwrap(),
            session: lives(SESSION_LIFETIME),
            machine: lives(MACHINE_LIFETIME),
            profiles: BTreeMap::new(),
        };
        Self { now: 0, records: Vec::new(), orders: Orders::default(), rules }
    }

    fn at(&self) -> UnixTime {
        at(self.now)
    }

    /// A record as it stands: as it is stored, and what orders have done to it since.
    pub fn seen(&self, place: usize) -> Cow<'_, TokenRecord> {
        let stored = &self.records[place];
        if self.orders.are_ahead_of(stored) {
            let mut record = stored.clone();
            self.orders.bring_up(&mut record);
            return Cow::Owned(record);
        }
        Cow::Borrowed(stored)
    }

    fn record(&self, place: usize) -> TokenRecord {
        self.seen(place).into_owned()
    }

    fn look(&self, id: TokenId) -> Result<Option<TokenRecord>, Infallible> {
        Ok((place(id) < self.records.len()).then(|| self.record(place(id))))
    }

    /// Each write says that the record was held against all orders that there are.
    fn put(&mut self, mut record: TokenRecord) {
        record.order = self.orders.newest();
        let place = place(record.id);
        if place == self.records.len() {
            self.records.push(record);
        } else {
            assert!(record.version > self.records[place].version, "a write that is not seen as one");
            self.records[place] = record;
        }
    }

    pub fn issue(&mut self, new: New) -> Came {
        let now = self.at();
        let request = Issue {
            name: "backup".into(),
            kind: Some(letter(new.kind)),
            ttl: (new.kind != Kind::Canary).then(|| Duration::from_secs(new.ttl)),
            not_before: (new.delay > 0).then(|| at(self.now + new.delay)),
            max_uses: new.max_uses,
            labels: new.label.map(label).into_iter().collect(),
            ..Issue::default()
        };
        let parties =
            Parties { subject: subject(new.subject), subject_uid: None, issuer: "root".into(), issuer_uid: 0 };
        let plan = plan(&request, &self.rules).expect("nothing in it is wrong by itself");
        let id = id(self.records.len());
        match plan.record(id, self.rules.prefix, Digest([9; 32]), parties, now) {
            Ok(record) => {
                self.put(record);
                Came::Done
            }
            Err(_) => Came::Unfit,
        }
    }

    /// What a validation by somebody with the right secret says; writes nothing.
    pub fn verdict(&self, record: &TokenRecord) -> State {
        match judge(record, &self.asked()) {
            Judgement::Good if is_exhausted(record) => State::Exhausted,
            Judgement::Good => State::Active,
            Judgement::Bad(reason) => reason_state(reason),
            Judgement::Lacks(_) => panic!("no scope was asked for"),
        }
    }

    fn asked(&self) -> Circumstances<'static> {
        Circumstances { now: self.at(), scopes: &[], audience: None, from: None, unit: None, uid: None }
    }

    /// As `validate` and, where something is to be written first, `uses`.
    pub fn use_it(&mut self, place: usize) -> State {
        let (record, now) = (self.record(place), self.at());
        let verdict = self.verdict(&record);
        if verdict != State::Active || !first_use::is_counted(&record) {
            return verdict;
        }
        let Ok(relatives) = family::near(&record, now, |id| self.look(id));
        if record.max_uses.is_some_and(|max| first_use::uses(&record, &relatives, now) >= max) {
            return State::Exhausted;
        }
        if let Some(spent) = first_use::spend(&record, relatives, now) {
            for relative in spent.relatives {
                self.put(relative);
            }
            self.put(spent.used);
        }
        State::Active
    }

    pub fn renew(&mut self, place: usize) -> Came {
        match renew::renew(&self.seen(place), self.at()) {
            Ok(Some(record)) => {
                self.put(record);
                Came::Done
            }
            Ok(None) => Came::Already,
            Err(refusal) => refused(&refusal),
        }
    }

    pub fn edit(&mut self, place: usize, left: Option<u64>, new: Option<u8>) -> Came {
        let mut asked = Edit::of(Handle(String::new()));
        asked.ends = left.map(|left| Ends::In(Duration::from_secs(left)));
        match new {
            Some(new) => asked.labels.extend([label(new)]),
            None => asked.unlabel.push("team".into()),
        }
        match edit(&self.seen(place), &asked, Hand::Full, &self.rules, self.at()) {
            Ok(Some(edited)) => {
                self.put(edited.record);
                Came::Done
            }
            Ok(None) => Came::Already,
            Err(refusal) => refused(&refusal),
        }
    }

    pub fn rotate(&mut self, place: usize, at_once: bool, afresh: bool, grace: u64) -> Came {
        let Ok(kin) = Kin::of(self.record(place), |id| self.look(id));
        let lifetime = kin.model().filter(|_| afresh).map(|model| {
            Duration::from_secs(if model.kind == Letter::Session { SESSION_LIFETIME } else { MACHINE_LIFETIME })
        });
        let how = How {
            id: id(self.records.len()),
            digest: Digest([9; 32]),
            prefix: self.rules.prefix,
            lifetime,
            at_once,
            grace: Duration::from_secs(grace),
            overlap: Duration::from_secs(OVERLAP),
        };
        match rotate(kin, &how, self.at()) {
            Ok(Rotated { successor, predecessor, replaced, ended }) => {
                for record in [Some(predecessor), replaced, ended, Some(successor)].into_iter().flatten() {
                    self.put(record);
                }
                Came::Done
            }
            Err(refusal) => refused(&refusal),
        }
    }

    pub fn revoke(&mut self, places: &[usize]) -> usize {
        let mut revoked = Vec::new();
        for &place in places {
            if let Revocation::Revoke(record) = revoke(&self.seen(place), None, 0, self.at()) {
                revoked.push(*record);
            }
        }
        let good_again = self.good_again(&revoked);
        let count = revoked.len();
        for record in revoked.into_iter().chain(good_again) {
            self.put(record);
        }
        count
    }

    fn good_again(&self, revoked: &[TokenRecord]) -> Vec<TokenRecord> {
        let mut records = Vec::new();
        for successor in revoked {
            let Some(id) = successor.predecessor.filter(|id| revoked.iter().all(|other| other.id != *id)) else {
                continue;
            };
            let Ok(predecessor) = self.look(id);
            records.extend(predecessor.and_then(|predecessor| reinstated(&predecessor, successor)));
        }
        records
    }

    pub fn hold(&mut self, place: usize, what: What) -> Came {
        let record = match what {
            What::Suspend => hold::suspend(&self.seen(place), None, 0, self.at()),
            What::Resume => hold::resume(&self.seen(place)),
            What::Revoke => unreachable!("that is no hold"),
        };
        match record {
            Some(record) => {
                self.put(record);
                Came::Done
            }
            None => Came::Already,
        }
    }

    pub fn order(&mut self, what: What, which: Which) {
        self.orders.give(what, which, self.at());
    }

    /// Writes down what orders did to one record. The predecessor of what they revoked unused is good again with that.
    pub fn write(&mut self, place: usize) {
        let record = self.record(place);
        let stored = &self.records[place];
        if record.version == stored.version {
            return;
        }
        let now_revoked = record.revoked.is_some() && stored.revoked.is_none();
        let good_again = if now_revoked { self.good_again(std::slice::from_ref(&record)) } else { Vec::new() };
        self.put(record);
        for record in good_again {
            self.put(record);
        }
    }

    /// Writes down all that is left: the orders are over.
    pub fn finish(&mut self) {
        for place in 0..self.records.len() {
            self.write(place);
        }
        self.orders.finish();
    }

    pub fn sweep(&mut self) -> Vec<usize> {
        let mut told = Vec::new();
        for place in 0..self.records.len() {
            if sweep::expires(&self.seen(place), self.at()) {
                self.put(sweep::expiry_told(self.record(place)));
                told.push(place);
            }
        }
        told
    }
}

fn refused(refusal: &Refusal) -> Came {
    match refusal {
        Refusal::Invalid(_) => Came::Unfit,
        Refusal::AlreadyRotated(successor) => Came::AlreadyRotated(place(*successor)),
        _ => Came::WrongState,
    }
}

pub fn shown(state: Shown) -> State {
    match state {
        Shown::Active => State::Active,
        Shown::NotYetValid => State::NotYetValid,
        Shown::Expired => State::Expired,
        Shown::Revoked => State::Revoked,
        Shown::Suspended => State::Suspended,
        Shown::Rotating => State::Rotating,
        Shown::Rotated => State::Rotated,
        Shown::Exhausted => State::Exhausted,
        Shown::Canary => State::Canary,
    }
}

fn reason_state(reason: Reason) -> State {
    match reason {
        Reason::Revoked => State::Revoked,
        Reason::Suspended => State::Suspended,
        Reason::Rotated => State::Rotated,
        Reason::Expired => State::Expired,
        Reason::NotYetValid => State::NotYetValid,
        Reason::Canary => State::Canary,
        other => panic!("{other:?} without a condition for it"),
    }
}
