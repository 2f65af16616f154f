//! What the daemon says of the tokens that were found, and their end.
//!
//! A token is shown to the daemon as whoever found it may show it: by `validate` with peek, which spends nothing and is
//! audited as such. Bait is not shown: that would raise the alert that it waits to raise for others.

use std::thread;
use std::time::Duration;

use super::findings::{Findings, Known, Standing};
use crate::ctl::daemon::Daemon;
use crate::ctl::error::{self, CtlError};
use crate::protocol::BATCH_MAX;
use crate::protocol::code::ErrorCode;
use crate::protocol::message::{Revoke, Validate, Verdict, Which};
use crate::token::Kind;

/// For the audit line.
const NOTE: &str = "found by bearerctl scan";
/// Who has no rule may end one token a second.
const LIMIT_PAUSE: Duration = Duration::from_millis(1050);
/// So often a token that meets the limit is tried again: others may be at it as well.
const LIMIT_TRIES: u32 = 60;
/// So often one is tried again that the daemon can't end at the moment.
const BUSY_TRIES: u32 = 5;

/// Asks for all of them.
///
/// # Errors
/// As the daemon; then nothing is known of those that are left.
pub(super) fn ask(daemon: &mut dyn Daemon, tokens: &mut [Known]) -> Result<(), CtlError> {
    for known in tokens.iter_mut().filter(|known| known.kind == Kind::Canary) {
        known.standing = Some(Standing::Bait);
    }
    let mut shown: Vec<&mut Known> = tokens.iter_mut().filter(|known| known.standing.is_none()).collect();
    for batch in shown.chunks_mut(BATCH_MAX) {
        let asks: Vec<Validate<'_>> = batch
            .iter()
            .map(|known| Validate {
                token: &known.text,
                scopes: Vec::new(),
                audience: None,
                from: None,
                note: Some(NOTE),
                peek: true,
            })
            .collect();
        let verdicts = daemon.validate_batch(&asks)?;
        for (known, verdict) in batch.iter_mut().zip(verdicts) {
            known.standing = Some(standing(verdict));
        }
    }
    Ok(())
}

fn standing(verdict: Verdict) -> Standing {
    match verdict.token {
        // The state is the token's own: that this peer may not use it does not make it harmless.
        Some(info) => Standing::Is { state: info.state, subject: info.facts.subject, name: info.facts.name },
        None => Standing::Unknown,
    }
}

/// Which tokens there is something to end of: those that are known to be of this daemon and not ended by decision, or
/// if it did not say, all but bait.
pub(super) fn to_end(findings: &Findings) -> Vec<usize> {
    let ends = |known: &Known| match &known.standing {
        Some(standing) => standing.revocable(),
        None => known.kind != Kind::Canary,
    };
    let mut wanted = vec![false; findings.tokens.len()];
    for find in &findings.finds {
        wanted[find.token] = ends(&findings.tokens[find.token]);
    }
    (0..wanted.len()).filter(|at| wanted[*at]).collect()
}

/// Ends one token, as whoever holds it may. Waits where the daemon wants to be asked more slowly; `waits` is told of it.
///
/// # Errors
/// As the daemon, when waiting did not help.
pub(super) fn end(
    daemon: &mut dyn Daemon,
    known: &mut Known,
    reason: Option<&str>,
    waits: &mut dyn FnMut(),
) -> Result<(), CtlError> {
    let (mut limited, mut busy) = (0, 0);
    loop {
        let ask = Revoke { which: Which::Token(&known.text), reason: reason.map(str::to_owned), dry_run: false };
        let error = match daemon.revoke(&ask) {
            Ok(changed) => {
                known.revoked = changed.count > 0;
                return Ok(());
            }
            Err(error) => error,
        };
        let (tries, max) = match &error {
            CtlError::Refused(failure) if failure.code == ErrorCode::LimitReached => (&mut limited, LIMIT_TRIES),
            // A connection that ended is made anew by the client; a daemon that restarts is back soon.
            other if other.status() == error::TRY_AGAIN => (&mut busy, BUSY_TRIES),
            _ => return Err(error),
        };
        *tries += 1;
        if *tries > max {
            return Err(error);
        }
        waits();
        thread::sleep(LIMIT_PAUSE);
    }
}

/// Whether the daemon's refusal is of this peer, and not of this moment.
pub(super) fn not_permitted(error: &CtlError) -> bool {
    matches!(error, CtlError::Refused(failure) if failure.code == ErrorCode::NotPermitted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::code::Reason;

    #[test]
    fn a_token_of_which_nothing_is_said_is_unknown() {
        for reason in [Reason::Unknown, Reason::Malformed] {
            let verdict = Verdict { active: false, reason: Some(reason), missing_scopes: Vec::new(), token: None };
            assert_eq!(standing(verdict).name(), "unknown");
        }
    }
}
