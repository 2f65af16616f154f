//! What the log tells of the time after a seal: for a store that is restored from before it.
//!
//! Invariant: only lines that the chain vouches for are shown, oldest first. Where it breaks, what follows is not.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use super::AuditError;
use super::chain::{AuditMac, Seal};
use super::event::EventKind;
use super::file::log_files;
use super::recover::{Held, LogState, survey};
use super::verify::{Damage, VerifyReport, verify};
use super::view::{LineView, generation_of};
use crate::time::UnixTime;
use crate::token::TokenId;

/// What a line tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Of the change, or the newest one when the line was written.
    pub generation: u64,
    /// When it happened.
    pub time: UnixTime,
    /// What.
    pub event: EventKind,
    /// How it ended.
    pub outcome: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// The token.
    pub id: Option<TokenId>,
    /// Who did it.
    pub uid: Option<u32>,
    /// What was remarked.
    pub note: Option<String>,
    /// How many events it stands for.
    pub count: u64,
}

impl Line {
    /// Whether it is the line of a change, which has a generation of its own.
    pub fn is_change(&self) -> bool {
        use EventKind as E;
        matches!(
            self.event,
            E::Issue
                | E::Import
                | E::Edit
                | E::Renew
                | E::Rotate
                | E::Revoke
                | E::Suspend
                | E::Resume
                | E::Expire
                | E::Warn
                | E::Policy
                | E::Rekey
                | E::Clock
                | E::Recovered
        )
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since {
    /// How the log stands to the seal.
    pub log: LogState,
    /// Of the lines that were shown; 0 when there were none.
    pub newest_generation: u64,
    /// When the last of them was written.
    pub newest_time: Option<UnixTime>,
    /// Generations after the one asked about whose lines were seen.
    pub seen: BTreeSet<u64>,
    /// Where the chain is broken, in words: lines behind that were not believed.
    pub broken: Option<String>,
    /// There is a log, but none of its lines is of this key.
    pub foreign: bool,
}

/// Follows the log from the seal on (from its beginning, if that is not at hand) and shows its lines; nothing is changed.
///
/// # Errors
/// [`AuditError::Open`] when a file can't be read.
pub fn since(
    file: &Path,
    key: &dyn AuditMac,
    seal: Option<&Seal>,
    generation: u64,
    show: &mut dyn FnMut(Line),
) -> Result<Since, AuditError> {
    let mut found = Since {
        log: LogState::Absent,
        newest_generation: 0,
        newest_time: None,
        seen: BTreeSet::new(),
        broken: None,
        foreign: false,
    };
    let held = seal.map(Held::from);
    let surveyed = survey(file, held.as_ref(), key, &mut |raw| {
        let Some(line) = line(raw.body) else { return };
        found.newest_generation = found.newest_generation.max(line.generation);
        found.newest_time = Some(line.time);
        // A counted use is a change too; that others carry a number which was another's hides no hole of a whole file.
        if line.generation > generation && (line.is_change() || line.event == EventKind::Use) {
            found.seen.insert(line.generation);
        }
        show(line);
    })?;
    found.log = surveyed.state;
    let files = log_files(file);
    let there = files.iter().any(|file| file.len > 0);
    if there {
        let paths: Vec<_> = files.into_iter().map(|file| file.path).collect();
        let failed = |source| AuditError::Open { path: file.to_owned(), source };
        let report = verify(&paths, key, None).map_err(failed)?;
        found.foreign = report.lines == 0 && report.bad.as_ref().is_some_and(|bad| bad.damage != Damage::TornTail);
        found.broken = broken(&report);
    }
    Ok(found)
}

fn broken(report: &VerifyReport) -> Option<String> {
    // A torn tail is what a power cut leaves.
    let bad = report.bad.as_ref().filter(|bad| bad.damage != Damage::TornTail)?;
    Some(format!("line {} of {} ({})", bad.line, bad.file.display(), bad.damage.name()))
}

fn line(body: &[u8]) -> Option<Line> {
    let generation = generation_of(body)?;
    let mut json = body.to_vec();
    json.push(b'}');
    let view = LineView::parse(&json)?;
    Some(Line {
        generation,
        time: view.time.parse().ok()?,
        event: view.event.parse().ok()?,
        outcome: view.outcome.map(Cow::into_owned),
        reason: view.reason.map(Cow::into_owned),
        id: view.id.and_then(|id| id.parse().ok()),
        uid: view.peer.map(|peer| peer.uid),
        note: view.note.map(Cow::into_owned),
        count: view.count.unwrap_or(1),
    })
}
