//! What was decided about tokens after a backup was made, as the audit log tells it, decided again on the backup's records.
//!
//! Invariant: in doubt a token is less good than it was, never more. An order that can't be evaluated as it was then (its
//! conditions were on the clock, on uses, or on what was edited since; or its line was cut) is taken to have meant every
//! token that it can have meant. What only gave more (issues, renewals, widening edits) is not made again: it is counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::revoke::{Revocation, revoke};
use crate::audit::{EventKind, Line};
use crate::protocol::filter::{Condition, Filter};
use crate::store::order::Own;
use crate::store::record::{Ending, TokenRecord};
use crate::store::select;
use crate::time::UnixTime;
use crate::token::TokenId;

/// What the note of an order's line begins with.
const BY_FILTER: &str = "by filter: ";
/// And what follows where the peer might do it only to its own tokens.
const OWN_OF: &str = "; own of ";
/// Lines from so long before the backup may be of uses that it has not: a use is written down before it is durable.
const OVERLAP: Duration = Duration::from_secs(5);

/// What was done to tokens, in its order.
#[derive(Debug)]
struct Deed {
    what: What,
    ending: Ending,
    /// Of an order: which tokens it can have meant.
    filter: Option<Filter>,
    /// And whose only.
    own: Option<Own>,
    /// All that it says was understood, and only the records decide it.
    exact: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Revoke,
    Suspend,
    Resume,
    /// Rotated: it has ended at that time at the latest.
    Rotate(UnixTime),
    /// Its successor was revoked unused: it is good again.
    Unrotate,
    /// A successor whose place another took before it was used.
    Replace,
    /// Its successor was rotated itself.
    Outlive,
}

/// A rotation: the tokens that its line names.
#[derive(Debug)]
struct Rotated {
    ids: Vec<TokenId>,
    at: UnixTime,
    by_uid: u32,
}

/// What was done to one token again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redone {
    /// The event that stands for it.
    pub event: EventKind,
    /// The reason that was given then.
    pub reason: Option<String>,
}

/// All that is known of the time after the backup.
#[derive(Debug)]
pub struct Replay {
    generation: u64,
    since: UnixTime,
    deeds: Vec<Deed>,
    by_id: HashMap<TokenId, Vec<usize>>,
    orders: Vec<usize>,
    rotations: Vec<Rotated>,
    /// First good use and number of uses.
    uses: HashMap<TokenId, (UnixTime, u64)>,
    edited: BTreeSet<TokenId>,
    /// Changes by kind and token that are not made again.
    lost: BTreeMap<&'static str, BTreeSet<TokenId>>,
    /// Orders that could not be evaluated as they were then.
    doubtful: u64,
}

impl Replay {
    /// Nothing is known yet of what followed the change `generation`, in a backup of the time `since`.
    pub fn new(generation: u64, since: UnixTime) -> Self {
        Self {
            generation,
            since: since.saturating_sub(OVERLAP),
            deeds: Vec::new(),
            by_id: HashMap::new(),
            orders: Vec::new(),
            rotations: Vec::new(),
            uses: HashMap::new(),
            edited: BTreeSet::new(),
            lost: BTreeMap::new(),
            doubtful: 0,
        }
    }

    /// Takes in a line of the log; they come in their order.
    pub fn learn(&mut self, line: &Line) {
        if line.event == EventKind::Use {
            self.learn_use(line);
            return;
        }
        if line.generation <= self.generation || !line.is_change() {
            return;
        }
        let by_uid = line.uid.unwrap_or(0);
        let what = match line.event {
            EventKind::Revoke => What::Revoke,
            EventKind::Suspend => What::Suspend,
            EventKind::Resume => What::Resume,
            EventKind::Rotate => return self.learn_rotation(line),
            EventKind::Edit => {
                self.edited.extend(line.id);
                return self.lose("edits", line.id);
            }
            EventKind::Issue | EventKind::Import => return self.lose("new tokens", line.id),
            EventKind::Renew => return self.lose("renewals", line.id),
            _ => return,
        };
        let ending = Ending { at: line.time, reason: line.reason.clone(), by_uid };
        let (filter, own, exact) = match line.id {
            Some(_) => (None, None, true),
            None => {
                let order = order_of(line.note.as_deref().unwrap_or_default());
                let exact = order.as_ref().is_some_and(|(filter, _)| select::decides(filter));
                self.doubtful += u64::from(!exact);
                let (filter, own) = order.unwrap_or_default();
                (Some(filter), own, exact)
            }
        };
        self.add(line.id, Deed { what, ending, filter, own, exact });
    }

    /// Takes in a record of the newer store that the backup takes the place of.
    pub fn learn_record(&mut self, record: &TokenRecord) {
        let deeds = [(What::Revoke, &record.revoked), (What::Suspend, &record.suspended)];
        for (what, ending) in deeds.into_iter().filter_map(|(what, ending)| Some((what, ending.clone()?))) {
            self.add(Some(record.id), Deed { what, ending, filter: None, own: None, exact: true });
        }
        // Another has taken its place for good, or it was cut so that none had to.
        let over = record.rotation.as_ref().filter(|it| it.successor_used_at.is_some() || it.ends_at <= it.at);
        if let Some(at) = over.map(|it| it.ends_at).or(record.replaced.then_some(record.issued_at)) {
            let reason = Some("rotated after the backup, and ended by that".to_owned());
            let ending = Ending { at, reason, by_uid: record.issuer_uid };
            self.add(Some(record.id), Deed { what: What::Rotate(at), ending, filter: None, own: None, exact: true });
        }
    }

    /// Each token that a rotation touched has a line: `to ID, ends at TIME at the latest` its predecessor, and others by
    /// reason.
    fn learn_rotation(&mut self, line: &Line) {
        let note = line.note.as_deref().unwrap_or_default();
        let what = match line.reason.as_deref() {
            Some("successor") => return self.lose("new tokens", line.id),
            Some("undone") => What::Unrotate,
            Some("replaced") => What::Replace,
            Some("ended") => What::Outlive,
            _ => {
                let until = note.split_once("ends at ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
                // A line that does not say when: in doubt it ended then.
                What::Rotate(until.unwrap_or(line.time))
            }
        };
        let by_uid = line.uid.unwrap_or(0);
        let ids: Vec<_> = line.id.into_iter().chain(ids_in(note)).collect();
        if matches!(what, What::Rotate(_)) {
            self.lose("rotations", line.id);
            self.rotations.push(Rotated { ids, at: line.time, by_uid });
        } else if what == What::Unrotate {
            self.rotations.retain(|rotated| rotated.ids.first() != line.id.as_ref());
        }
        let ending = Ending { at: line.time, reason: Some("rotated after the backup".to_owned()), by_uid };
        self.add(line.id, Deed { what, ending, filter: None, own: None, exact: true });
    }

    fn learn_use(&mut self, line: &Line) {
        let spent = line.outcome.as_deref() == Some("active")
            && !line.note.as_deref().is_some_and(|note| note == "peek" || note.starts_with("peek: "));
        if let Some(id) = line.id.filter(|_| spent && line.time >= self.since) {
            let (_, count) = self.uses.entry(id).or_insert((line.time, 0));
            *count += line.count;
        }
    }

    fn add(&mut self, id: Option<TokenId>, deed: Deed) {
        match id {
            Some(id) => self.by_id.entry(id).or_default().push(self.deeds.len()),
            None => self.orders.push(self.deeds.len()),
        }
        self.deeds.push(deed);
    }

    fn lose(&mut self, what: &'static str, id: Option<TokenId>) {
        self.lost.entry(what).or_default().extend(id);
    }

    /// How many tokens and orders are known to have been revoked, suspended or the like.
    pub fn restrictions(&self) -> usize {
        let restricts = |at: &usize| !matches!(self.deeds[*at].what, What::Resume | What::Unrotate);
        let ids = self.by_id.values().filter(|deeds| deeds.iter().any(restricts));
        ids.count() + self.orders.iter().filter(|at| restricts(at)).count()
    }

    /// What is not made again: the kind of change, and the tokens.
    pub fn lost(&self) -> impl Iterator<Item = (&'static str, &BTreeSet<TokenId>)> {
        self.lost.iter().map(|(what, ids)| (*what, ids))
    }

    /// Orders that are taken to have meant every token that they can have meant.
    pub fn doubtful(&self) -> u64 {
        self.doubtful
    }

    /// The record as it is to be, with what was done to it, if that is not nothing.
    pub fn apply(&self, record: &TokenRecord) -> Option<(TokenRecord, Vec<Redone>)> {
        let mut new = record.clone();
        let mut redone = Vec::new();
        let mut deeds: Vec<usize> = self.by_id.get(&record.id).cloned().unwrap_or_default();
        deeds.extend(self.orders.iter().copied().filter(|at| self.may_mean(&self.deeds[*at], record)));
        deeds.sort_unstable();
        for deed in deeds.into_iter().map(|at| &self.deeds[at]) {
            Self::redo(deed, record.expires_at, &mut new, &mut redone);
        }
        self.end_predecessor(&mut new, &mut redone);
        self.spend(&mut new);
        if new == *record {
            return None;
        }
        new.version = record.version + 1;
        Some((new, redone))
    }

    /// Whether an order can have meant this token.
    fn may_mean(&self, deed: &Deed, record: &TokenRecord) -> bool {
        let Some(filter) = &deed.filter else { return false };
        let theirs = deed.own.as_ref().is_none_or(|own| own.is_of(record));
        if record.issued_at > deed.ending.at || !theirs {
            return false;
        }
        // What it was called then is not known.
        let open = |condition: &Condition| {
            self.edited.contains(&record.id) && matches!(condition, Condition::Name(_) | Condition::Label(_))
        };
        let known = Filter(filter.0.iter().filter(|condition| !open(condition)).cloned().collect());
        let sure = deed.exact && known.0.len() == filter.0.len();
        // What gives back is done again only where there is no doubt.
        (sure || deed.what != What::Resume) && select::meets(&known, record)
    }

    /// `expires_at` is the backup's.
    fn redo(deed: &Deed, expires_at: Option<UnixTime>, record: &mut TokenRecord, redone: &mut Vec<Redone>) {
        let Ending { at, reason, by_uid } = &deed.ending;
        let event = match deed.what {
            What::Suspend if record.suspended.is_some() || record.revoked.is_some() => return,
            What::Suspend => {
                record.suspended = Some(deed.ending.clone());
                EventKind::Suspend
            }
            What::Resume if record.suspended.take().is_none() => return,
            What::Resume => EventKind::Resume,
            What::Replace => {
                record.replaced = true;
                EventKind::Rotate
            }
            // Its successor is lost, but for one that the backup has: so it only ends earlier.
            What::Rotate(until) if until > *at => {
                record.expires_at = Some(record.expires_at.map_or(until, |expires| expires.min(until)));
                EventKind::Rotate
            }
            What::Outlive if record.rotation.is_some() => {
                let rotation = record.rotation.as_mut().expect("looked at above");
                rotation.ends_at = rotation.ends_at.min(*at);
                EventKind::Rotate
            }
            What::Unrotate => {
                record.expires_at = expires_at;
                redone.retain(|one| one.event != EventKind::Rotate);
                return;
            }
            What::Revoke | What::Rotate(_) | What::Outlive => {
                match revoke(record, reason.as_deref(), *by_uid, *at) {
                    Revocation::Already => return,
                    Revocation::Revoke(revoked) => *record = *revoked,
                }
                EventKind::Revoke
            }
        };
        redone.push(Redone { event, reason: reason.clone() });
    }

    /// A predecessor ends with its successor's first use, also where the successor itself is lost.
    fn end_predecessor(&self, record: &mut TokenRecord, redone: &mut Vec<Redone>) {
        if record.revoked.is_some() {
            return;
        }
        if let Some(rotation) = &mut record.rotation
            && let Some((used_at, _)) = record.successor.and_then(|id| self.uses.get(&id))
            && rotation.successor_used_at.is_none()
        {
            rotation.successor_used_at = Some(*used_at);
            rotation.ends_at = rotation.ends_at.min(used_at.saturating_add(rotation.grace));
        }
        if record.predecessor.is_some()
            && record.first_used_at.is_none()
            && let Some((used_at, _)) = self.uses.get(&record.id)
        {
            record.first_used_at = Some(*used_at);
        }
        // Rotated after the backup, which has no successor; the last one that was used has taken over.
        let took_over = self.rotations.iter().rev().find(|rotated| {
            let others = || rotated.ids.iter().filter(|id| **id != record.id && Some(**id) != record.predecessor);
            rotated.ids.contains(&record.id) && others().any(|id| *id > record.id && self.uses.contains_key(id))
        });
        if let Some(rotated) = took_over {
            let reason = "rotated after the backup, and its successor was used";
            if let Revocation::Revoke(revoked) = revoke(record, Some(reason), rotated.by_uid, rotated.at) {
                *record = *revoked;
                redone.push(Redone { event: EventKind::Revoke, reason: Some(reason.to_owned()) });
            }
        }
    }

    /// Uses that were spent since.
    fn spend(&self, record: &mut TokenRecord) {
        if let (Some(max), Some((_, count))) = (record.max_uses, self.uses.get(&record.id)) {
            record.uses = record.uses.saturating_add(*count).min(max);
        }
    }
}

/// Every whole id in a text, heads included.
fn ids_in(text: &str) -> impl Iterator<Item = TokenId> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter_map(|word| word.parse().ok())
}

/// What the note of an order means: its filter, and whose tokens only. `None` = not as this version writes it, and then it
/// can have meant any.
fn order_of(note: &str) -> Option<(Filter, Option<Own>)> {
    let text = note.strip_prefix(BY_FILTER)?;
    let (filter, own) = match text.rsplit_once(OWN_OF).and_then(|(filter, own)| Some((filter, own.strip_suffix(')')?)))
    {
        Some((filter, own)) => {
            let (name, uid) = own.rsplit_once(" (")?;
            (filter, Some(Own { uid: uid.parse().ok()?, name: name.to_owned() }))
        }
        None => (text, None),
    };
    let filter: Filter = filter.parse().ok()?;
    (!filter.is_empty()).then_some((filter, own))
}

#[cfg(test)]
mod tests;
