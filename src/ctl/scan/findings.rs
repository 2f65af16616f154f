//! What was found, folded: one find for each token and place of it, with how often it stands there.
//!
//! Invariant: the memory is bounded whatever is scanned; what there is no room for is counted, never dropped unseen. Texts
//! of tokens are kept once each, to be shown to the daemon, and wiped when dropped (I3).

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::find::{self, Hit};
use super::stream::Place;
use crate::protocol::message::State;
use crate::token::{Kind, TokenId};

/// Finds are kept up to about so much memory: a hundred thousand of them, with names of usual length.
const MEMORY_BYTES: usize = 64 * 1024 * 1024;
/// What a find takes beside the name of its file.
const FIND_BYTES: usize = 512;
/// Things that could not be read and are named; more are counted.
const UNREADABLE_NAMED: usize = 1000;

/// Where bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kindred {
    /// A file.
    File,
    /// Standard input.
    Stdin,
    /// The systemd journal.
    Journal,
}

/// One file or stream. Its name is fit to be shown: no token is in it.
pub(super) struct Source {
    pub kind: Kindred,
    pub name: String,
    /// Tells files of one name apart (names that are no text).
    number: u64,
}

/// A token that was found, and what the daemon said of it.
pub(super) struct Known {
    pub text: Zeroizing<String>,
    pub head: String,
    pub id: TokenId,
    pub kind: Kind,
    pub standing: Option<Standing>,
    /// Ended by this command.
    pub revoked: bool,
}

/// What the daemon knows of a token.
pub(super) enum Standing {
    /// Nothing: another daemon's, purged, or the secret is wrong.
    Unknown,
    /// Whose it is, and how it stands.
    Is { state: State, subject: String, name: String },
    /// Bait: it is never good, and showing it to the daemon would raise the alert that it is for.
    Bait,
}

impl Standing {
    /// The name in JSON.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Is { state, .. } => state.name(),
            Self::Bait => State::Canary.name(),
        }
    }

    /// Good, or it can become good again.
    pub(super) const fn live(&self) -> bool {
        matches!(self, Self::Is { state, .. } if !state.ended() && !matches!(state, State::Canary))
    }

    /// Whether there is something to end.
    pub(super) const fn revocable(&self) -> bool {
        matches!(self, Self::Is { state, .. } if !matches!(state, State::Revoked | State::Canary))
    }
}

/// A token at a place.
pub(super) struct Find {
    /// Index into [`Findings::tokens`].
    pub token: usize,
    pub source: Arc<Source>,
    /// The first time.
    pub place: Place,
    /// How often.
    pub count: u64,
}

/// What could not be read.
pub(super) struct Unreadable {
    pub name: String,
    pub why: String,
}

/// All that came of a scan.
#[derive(Default)]
pub(super) struct Findings {
    pub tokens: Vec<Known>,
    pub finds: Vec<Find>,
    /// Finds that there was no room for.
    pub more: u64,
    pub unreadable: Vec<Unreadable>,
    /// How many there are of those, the named ones among them.
    pub unreadable_count: u64,
    /// Links, devices, sockets, FIFOs and file systems of the kernel that were passed by.
    pub skipped: u64,
    by_text: HashMap<u64, Vec<usize>>,
    by_place: HashMap<(usize, u64, bool), usize>,
    hasher: RandomState,
    sources: u64,
    spent: usize,
}

impl Findings {
    /// A source by this path, as it is shown.
    pub(super) fn source(&mut self, path: &Path) -> Arc<Source> {
        self.named(Kindred::File, shown(path))
    }

    /// Standard input or the journal.
    pub(super) fn stream(&mut self, kind: Kindred) -> Arc<Source> {
        let name = if kind == Kindred::Stdin { "(standard input)" } else { "(journal)" };
        self.named(kind, name.to_owned())
    }

    fn named(&mut self, kind: Kindred, name: String) -> Arc<Source> {
        self.sources += 1;
        Arc::new(Source { kind, name, number: self.sources })
    }

    /// Takes a find.
    pub(super) fn add(&mut self, source: &Arc<Source>, place: Place, hit: Hit) {
        let hash = self.hasher.hash_one(hit.text.as_str());
        let same = |at: &&usize| *self.tokens[**at].text == *hit.text;
        let known = self.by_text.get(&hash).and_then(|those| those.iter().find(same)).copied();
        let place_of = |token| (token, source.number, place == Place::Name);
        if let Some(find) = known.and_then(|token| self.by_place.get(&place_of(token))) {
            self.finds[*find].count += 1;
            return;
        }
        self.spent += FIND_BYTES + source.name.len();
        if self.spent > MEMORY_BYTES {
            self.more += 1;
            return;
        }
        let token = known.unwrap_or_else(|| {
            let token = self.tokens.len();
            self.by_text.entry(hash).or_default().push(token);
            let (head, id, kind) = (hit.token.head(), hit.token.id, hit.token.kind);
            self.tokens.push(Known { text: hit.text, head, id, kind, standing: None, revoked: false });
            token
        });
        if let Entry::Vacant(vacant) = self.by_place.entry(place_of(token)) {
            vacant.insert(self.finds.len());
            self.finds.push(Find { token, source: Arc::clone(source), place, count: 1 });
        }
    }

    /// Takes note of what could not be read.
    pub(super) fn unreadable(&mut self, name: String, why: impl ToString) {
        self.unreadable_count += 1;
        if self.unreadable.len() < UNREADABLE_NAMED {
            self.unreadable.push(Unreadable { name, why: find::masked(&why.to_string()) });
        }
    }

    /// Puts what threads found into an order that does not depend on them.
    pub(super) fn sort(&mut self) {
        let tokens = &self.tokens;
        self.finds.sort_by(|a, b| {
            let sources = a.source.kind.cmp(&b.source.kind).then_with(|| a.source.name.cmp(&b.source.name));
            let places = sources.then_with(|| a.place.cmp(&b.place));
            places.then_with(|| tokens[a.token].head.cmp(&tokens[b.token].head))
        });
        self.unreadable.sort_by(|a, b| a.name.cmp(&b.name));
        self.by_place.clear();
    }

    /// Keeps only finds of tokens that are live.
    pub(super) fn keep_live(&mut self) {
        let tokens = &self.tokens;
        self.finds.retain(|find| tokens[find.token].standing.as_ref().is_some_and(Standing::live));
        self.by_place.clear();
    }
}

/// A path as it is shown: text, and without the secret of a token that is a part of it.
pub(super) fn shown(path: &Path) -> String {
    find::masked(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "brdm_01M844DZG0FAY828T5CY4TQKFF_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf2b9MjO";
    const OTHER: &str = "brds_01M844DZG0FAY828T5CY4TQKFF_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf1RqZ3N";

    fn hit(text: &str) -> Hit {
        let mut hits = Vec::new();
        find::tokens(text.as_bytes(), 0..text.len(), |hit| hits.push(hit));
        hits.pop().unwrap()
    }

    fn line(line: u64) -> Place {
        Place::Line { line, offset: 100 * line }
    }

    #[test]
    fn finds_are_folded_by_token_and_place() {
        let mut findings = Findings::default();
        let b = findings.source(Path::new("/b"));
        let a = findings.source(Path::new("/a"));
        for n in 1..=5 {
            findings.add(&b, line(n), hit(TOKEN));
            findings.add(&a, line(10 - n), hit(OTHER));
        }
        findings.add(&a, line(1), hit(TOKEN));
        findings.add(&a, Place::Name, hit(TOKEN));
        findings.sort();
        assert_eq!(findings.tokens.len(), 2);
        let all: Vec<_> = findings
            .finds
            .iter()
            .map(|find| (&*find.source.name, find.place, &findings.tokens[find.token].head[..4], find.count))
            .collect();
        let expected = [
            ("/a", Place::Name, "brdm", 1),
            ("/a", line(1), "brdm", 1),
            ("/a", line(9), "brds", 5),
            ("/b", line(1), "brdm", 5),
        ];
        assert_eq!(all, expected);
    }

    /// Whatever is scanned: no more memory than that, and the rest is counted.
    #[test]
    fn memory_is_bounded_and_the_rest_is_counted() {
        let mut findings = Findings::default();
        let name = "x".repeat(4000);
        let fits = MEMORY_BYTES / (FIND_BYTES + name.len());
        for _ in 0..fits + 100 {
            let source = findings.source(Path::new(&name));
            findings.add(&source, line(1), hit(TOKEN));
        }
        assert_eq!((findings.finds.len(), findings.more), (fits, 100));
        for n in 0..UNREADABLE_NAMED + 50 {
            findings.unreadable(n.to_string(), "no");
        }
        let counted = (findings.unreadable.len(), findings.unreadable_count);
        assert_eq!(counted, (UNREADABLE_NAMED, UNREADABLE_NAMED as u64 + 50));
    }

    #[test]
    fn only_what_can_be_good_is_live() {
        let of = |state| Standing::Is { state, subject: String::new(), name: String::new() };
        let live: Vec<_> = State::ALL.into_iter().filter(|state| of(*state).live()).map(State::name).collect();
        assert_eq!(live, ["active", "not_yet_valid", "suspended", "rotating"]);
        let ends: Vec<_> = State::ALL.into_iter().filter(|state| !of(*state).revocable()).map(State::name).collect();
        assert_eq!(ends, ["revoked", "canary"]);
        assert!(!Standing::Unknown.live() && !Standing::Bait.live() && !Standing::Bait.revocable());
    }
}
