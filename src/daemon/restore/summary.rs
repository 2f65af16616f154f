//! What a restore came to, for the person who ran it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::Redone;
use super::source::Present;
use crate::audit::{LogState, Since};
use crate::ctl::console::Console;
use crate::ctl::error::CtlError;
use crate::ctl::render::style::clean;
use crate::registry::replay::Replay;
use crate::store::backup::Head;
use crate::token::TokenId;

/// Ids that are shown of one kind.
const IDS_MAX: usize = 20;

pub(super) struct Summary {
    lines: Vec<String>,
    backup: u64,
    newest: u64,
    /// Where the store is that was there.
    pub(super) kept: Option<PathBuf>,
}

impl Summary {
    pub(super) fn new(store: &Path, source: &Path, head: &Head, tokens: u64, newest: u64) -> Self {
        let first = format!(
            "{}: restored from {}, of {}: {tokens} tokens, changes up to {}",
            store.display(),
            source.display(),
            head.made_at,
            head.generation,
        );
        Self { lines: vec![first], backup: head.generation, newest, kept: None }
    }

    pub(super) fn nothing_to_do(mut self) -> Self {
        self.lines = vec!["the store that is there is not older than its audit log: there is nothing to do".to_owned()];
        self
    }

    pub(super) fn tell(
        &mut self,
        replay: &Replay,
        log: &Since,
        redone: Redone,
        recovered: String,
        present: Option<&Present>,
    ) {
        self.say(format!("in the audit log with the next start: {recovered}"));
        match log.log {
            LogState::Complete | LogState::Rotated => {}
            LogState::Absent => self.say("there is no audit log: what was ended after the backup is not known, and good again; end again what you know of (bearerctl revoke)".into()),
            LogState::Behind => self.say("the audit log ends before the backup was made: what was ended after that is not known, and good again".into()),
        }
        if let Some(why) = present.and_then(Present::unreadable) {
            self.say(format!("the store that was there can't be read ({why})"));
        }
        if let Some(place) = &log.broken {
            self.say(format!("the audit log is broken at {place}: lines behind that were not believed"));
        }
        if self.newest > self.backup {
            let Redone { revoked, suspended, others } = redone;
            self.say(format!("older than what was known, which went up to change {}: done again {revoked} revocations, {suspended} suspensions, {others} other changes", self.newest));
            if replay.doubtful() > 0 {
                let many = replay.doubtful();
                self.say(format!(
                    "{many} orders over many tokens could not be decided as they were then: in doubt a token was ended"
                ));
            }
            for (what, ids) in replay.lost() {
                self.say(format!("lost {what}: {}", listed(ids)));
            }
            let unknown = (self.newest - self.backup).saturating_sub(log.seen.len() as u64);
            if unknown > 0 {
                self.say(format!("{unknown} changes have no line in the log (rotated away, compressed or not written yet): what they were is not known"));
            }
        }
    }

    fn say(&mut self, line: String) {
        self.lines.push(line);
    }

    pub(super) fn print(&self) -> Result<(), CtlError> {
        let mut text = String::new();
        for line in &self.lines {
            let _ = writeln!(text, "{}", clean(line));
        }
        if let Some(kept) = &self.kept {
            let _ = writeln!(text, "the store that was there is {}", clean(&kept.display().to_string()));
        }
        Console::of_process().plain(&text)
    }
}

fn listed(ids: &BTreeSet<TokenId>) -> String {
    let shown: Vec<String> = ids.iter().take(IDS_MAX).map(TokenId::to_string).collect();
    let more = if ids.len() > IDS_MAX { " …" } else { "" };
    format!("{} ({}{more})", ids.len(), shown.join(" "))
}
