//! What a start finds in the log that the store should know, and how the trail does afterwards.
//!
//! The log is a second record of every change: it knows of revocations that a store restored from a backup has forgotten.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::chain::{AuditMac, RawLine};
use super::event::{AuditEvent, EventKind};
use super::options::{AuditBoot, AuditError};
use super::recover::{Held, LogState, Survey, survey};
use super::view::{LineView, generation_of};
use crate::token::TokenId;

/// Revocations of a rolled-back store's future that are remembered, at most.
const REVOKED_MAX: usize = 1_000_000;

/// What a start found in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReport {
    /// Of the valid lines after the last seal (all, if that is not in reach); 0 when there are none.
    pub newest_generation: u64,
    /// How the log stands to the last seal.
    pub log: LogState,
    /// A torn tail: so many bytes were cut off.
    pub recovered_bytes: u64,
    /// Ids whose revocation the log knows with a generation that the store has not, oldest first.
    pub revoked: Vec<TokenId>,
    /// The last line.
    pub seq: u64,
    /// Changes of the outbox that had no line yet.
    pub owed: usize,
}

/// How the audit trail does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Lines can be written now.
    pub writable: bool,
    /// A change can be recorded whatever else takes space: without that, none is taken but a revocation.
    pub issue_ok: bool,
    /// What is wrong, for people.
    pub fault: Option<String>,
    /// Lines written since the start.
    pub lines: u64,
    /// `gap` lines written since the start.
    pub gaps: u64,
    /// Events whose line was lost, since the start.
    pub lost: u64,
    /// Validations told unavailable since the start.
    pub refused: u64,
    /// Refusals beyond the budgets since the start.
    pub flooded: u64,
    /// Datagrams that syslog did not take, since the start.
    pub syslog_dropped: u64,
    /// Changes that wait for the file to work again.
    pub kept: u64,
    /// Open windows of like events.
    pub windows: usize,
    /// The last line.
    pub seq: u64,
    /// The last line that is fsynced and sealed.
    pub sealed_seq: u64,
    /// Bytes allocated ahead in the file.
    pub room_bytes: u64,
    /// Bytes free on its file system.
    pub free_bytes: u64,
    /// That and the room are less than a tenth of it.
    pub low_space: bool,
}

/// What the lines after the last seal say that the store should know.
pub(super) struct Known<'a> {
    store: u64,
    outbox: HashMap<u64, (&'a AuditEvent, String)>,
    /// Generations of the outbox whose line is there.
    pub(super) told: HashSet<u64>,
    newest: u64,
    revoked: Vec<TokenId>,
}

/// Follows the chain from the last seal, or from the beginning.
pub(super) fn look<'a>(
    file: &Path,
    key: &dyn AuditMac,
    boot: &'a AuditBoot,
) -> Result<(Survey, Known<'a>), AuditError> {
    let outbox = boot.outbox.iter().map(|(generation, event)| (*generation, (event, event.time.to_string()))).collect();
    let mut known = Known { store: boot.generation, outbox, told: HashSet::new(), newest: 0, revoked: Vec::new() };
    let held = boot.seal.as_ref().map(Held::from);
    let found = survey(file, held.as_ref(), key, &mut |line| known.visit(line))?;
    Ok((found, known))
}

impl Known<'_> {
    fn visit(&mut self, line: &RawLine<'_>) {
        let Some(generation) = generation_of(line.body) else { return };
        self.newest = self.newest.max(generation);
        let owed = self.outbox.get(&generation);
        if owed.is_none() && generation <= self.store {
            return;
        }
        let mut json = line.body.to_vec();
        json.push(b'}');
        let Some(view) = LineView::parse(&json) else { return };
        let id = view.id.as_deref().and_then(|id| id.parse::<TokenId>().ok());
        // Lines of other events carry the newest generation too: the change's own has its kind, token and time.
        if let Some((event, time)) = owed
            && view.event == event.event.name()
            && id == event.id
            && view.time == *time
        {
            self.told.insert(generation);
        }
        if generation > self.store
            && view.event == EventKind::Revoke.name()
            && self.revoked.len() < REVOKED_MAX
            && let Some(id) = id
        {
            self.revoked.push(id);
        }
    }

    pub(super) fn report(&self, found: &Survey, boot: &AuditBoot) -> OpenReport {
        OpenReport {
            newest_generation: self.newest,
            log: found.state,
            recovered_bytes: found.cut_bytes(),
            revoked: self.revoked.clone(),
            seq: found.seq,
            owed: boot.outbox.len() - self.told.len(),
        }
    }
}
