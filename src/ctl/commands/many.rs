//! Changes of all tokens that filters mean: what would be changed is shown before a person is asked, and without a
//! person it must have been said that it is meant.

use crate::ctl::args::{ChangeArgs, ManyArgs};
use crate::ctl::console::Console;
use crate::ctl::daemon::{Daemon, Patience};
use crate::ctl::error::{self, CtlError};
use crate::ctl::render::many::Verb;
use crate::ctl::{Connect, render};
use crate::protocol::code::ErrorCode;
use crate::protocol::filter::{Condition, Filter};
use crate::protocol::message::{Changed, Chosen, Handle, Hold, List, Revoke, TokenInfo, Which};

/// Tokens shown before a question and by a dry run.
const FIRST_ROWS: usize = 10;

impl ManyArgs {
    /// Whether anything is meant by them.
    pub(super) fn names_some(&self) -> bool {
        self.all || self.filter.family.is_some() || !self.filter.filter().is_empty()
    }
}

/// What a command says that was told no tokens at all.
pub(super) fn nothing_named(verb: Verb) -> CtlError {
    let file = if verb == Verb::Revoke { ", --token-file" } else { "" };
    CtlError::Usage(format!(
        "no tokens are named: give ids{file} or filters, or --all for every token; see 'bearerctl {} --help'",
        verb.name()
    ))
}

pub(super) fn run(verb: Verb, change: ChangeArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let ChangeArgs { ids: _, reason, dry_run, yes, many } = change;
    if !(dry_run || yes || console.can_ask()) {
        return Err(CtlError::Usage(format!(
            "without a terminal to ask at, filters need --yes; what they mean is shown by: bearerctl {} --dry-run …",
            verb.name()
        )));
    }
    let mut daemon = connect(Patience::Search)?;
    let filter = if many.all { Condition::All.into() } else { super::filter(&many.filter, &mut *daemon)? };
    let mut give = |dry_run| give(verb, &filter, &reason, dry_run, &mut *daemon);
    let changed = if dry_run {
        give(true)?
    } else if yes {
        give(false)?
    } else {
        let would = give(true)?;
        if would.count > 0 {
            let rows = first_rows(&would, &mut *daemon)?;
            console.say(&render::many::preview(&would, &rows, console.now, console.width));
            if !console.ask(&render::many::question(verb, would.count)) {
                return Err(CtlError::NotConfirmed);
            }
        }
        self::give(verb, &filter, &reason, false, &mut *daemon)?
    };
    if console.json {
        console.plain(&format!("{}\n", render::json::changed(&changed)))?;
    } else if !console.quiet {
        let mut text = render::many::changed(verb, &changed);
        if dry_run && changed.count > 0 {
            let rows = first_rows(&changed, &mut *daemon)?;
            text.push_str(&render::many::preview(&changed, &rows, console.now, console.width));
        }
        console.print(&text)?;
    }
    // What was so already is no mistake; a filter that means no token probably is.
    let meant = changed.count > 0 || means_some(&filter, &mut *daemon)?;
    Ok(if meant { error::OK } else { error::NO })
}

fn give(
    verb: Verb,
    filter: &Filter,
    reason: &Option<String>,
    dry_run: bool,
    daemon: &mut dyn Daemon,
) -> Result<Changed, CtlError> {
    let hold = || Hold { which: Chosen::Filter(filter.clone()), reason: reason.clone(), dry_run };
    match verb {
        Verb::Revoke => {
            daemon.revoke(&Revoke { which: Which::Filter(filter.clone()), reason: reason.clone(), dry_run })
        }
        Verb::Suspend => daemon.suspend(&hold()),
        Verb::Resume => daemon.resume(&hold()),
    }
}

/// The first tokens that would change; none where the peer may not be shown them, or they are gone.
fn first_rows(changed: &Changed, daemon: &mut dyn Daemon) -> Result<Vec<TokenInfo>, CtlError> {
    let mut rows = Vec::new();
    for id in changed.ids.iter().take(FIRST_ROWS) {
        match daemon.show(&Handle(id.to_string())) {
            Ok(shown) => rows.push(shown.info),
            Err(CtlError::Refused(failure)) if failure.code == ErrorCode::NotPermitted => return Ok(Vec::new()),
            Err(CtlError::Refused(failure)) if failure.code == ErrorCode::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rows)
}

/// Whether the filter means any token at all, as far as this peer may know.
fn means_some(filter: &Filter, daemon: &mut dyn Daemon) -> Result<bool, CtlError> {
    let mut after = None;
    loop {
        match daemon.list(&List { filter: filter.clone(), limit: 1, after }) {
            Ok(page) if !page.tokens.is_empty() => return Ok(true),
            Ok(page) if page.next > after => after = page.next,
            Ok(_) => return Ok(false),
            Err(CtlError::Refused(failure)) if failure.code == ErrorCode::NotPermitted => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
