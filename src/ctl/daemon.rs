//! What the commands need of the daemon, and the client that does it.
//!
//! The commands are tested against one that needs no socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::client::blocking::{Client, Watch};
use crate::client::{self, ClientError, Options};
use crate::ctl::error::CtlError;
use crate::protocol::message::{
    AuditLines, AuditQuery, BackupAsk, BackupPiece, Changed, Edit, Event, Handle, Hold, ImportEntry, ImportOutcome,
    Issue, Issued, List, RekeyProgress, Rekeyed, Revoke, Rotate, Rotated, Shown, TokenInfo, Tokens, Validate, Verdict,
};
use crate::time::UnixTime;

/// Events as they come.
pub(super) trait Events {
    /// Waits for the next; `None` when the daemon has ended the stream.
    fn next(&mut self) -> Option<Result<Event, CtlError>>;
    /// What to go on after.
    fn seq(&self) -> u64;
}

/// The daemon, as the commands ask it. JSON comes as the daemon wrote it.
pub(super) trait Daemon {
    fn validate(&mut self, ask: &Validate<'_>) -> Result<Verdict, CtlError>;
    /// At most [`crate::protocol::BATCH_MAX`]; verdicts come in their order.
    fn validate_batch(&mut self, asks: &[Validate<'_>]) -> Result<Vec<Verdict>, CtlError>;
    fn issue(&mut self, ask: &Issue) -> Result<Issued, CtlError>;
    fn revoke(&mut self, ask: &Revoke<'_>) -> Result<Changed, CtlError>;
    fn show(&mut self, token: &Handle) -> Result<Shown, CtlError>;
    fn list(&mut self, ask: &List) -> Result<Tokens, CtlError>;
    fn status(&mut self) -> Result<String, CtlError>;
    fn audit(&mut self, query: &AuditQuery) -> Result<AuditLines, CtlError>;
    fn audit_summary(&mut self, token: &Handle) -> Result<String, CtlError>;
    fn audit_verify(&mut self) -> Result<String, CtlError>;
    fn clock_reset(&mut self) -> Result<UnixTime, CtlError>;
    fn rekey(&mut self) -> Result<Rekeyed, CtlError>;
    fn rekey_data(&mut self) -> Result<RekeyProgress, CtlError>;
    fn rekey_progress(&mut self) -> Result<RekeyProgress, CtlError>;
    fn recovery_key(&mut self) -> Result<Rekeyed, CtlError>;
    fn watch(&mut self, since: Option<u64>) -> Result<Box<dyn Events>, CtlError>;
    fn backup(&mut self, ask: BackupAsk) -> Result<BackupPiece, CtlError>;
    fn import(&mut self, entries: &[ImportEntry<'_>]) -> Result<Vec<ImportOutcome>, CtlError>;
    fn suspend(&mut self, ask: &Hold) -> Result<Changed, CtlError>;
    fn resume(&mut self, ask: &Hold) -> Result<Changed, CtlError>;
    fn edit(&mut self, ask: &Edit) -> Result<TokenInfo, CtlError>;
    fn renew(&mut self, token: &Handle) -> Result<TokenInfo, CtlError>;
    fn rotate(&mut self, ask: &Rotate) -> Result<Rotated, CtlError>;
}

/// How long an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// As long as a change that waits for its disk.
    Usual,
    /// As long as going through logs of years, or through all tokens.
    Search,
}

/// How long a command waits at a socket where nobody listens: over the moment of a restart, and not so long that a person
/// wonders.
const CONNECT_RETRY: Duration = Duration::from_secs(1);
/// For [`Patience::Search`].
const SEARCH_TIMEOUT: Duration = Duration::from_secs(3600);

/// Connects to the socket given, else to the system's, else to the user's own.
pub(super) fn connect(socket: Option<&Path>, patience: Patience) -> Result<Box<dyn Daemon>, CtlError> {
    let path = socket.map_or_else(client::default_socket, Path::to_owned);
    let mut options = Options { connect_retry: retry(&path), ..Options::default() };
    if patience == Patience::Search {
        options.long_timeout = SEARCH_TIMEOUT;
    }
    Ok(Box::new(Client::connect(path, options)?))
}

/// A socket that nobody listens at is one of a daemon that is being restarted, or was ended the hard way. Where there is
/// none at all, no daemon runs, and that can be said at once.
fn retry(path: &Path) -> Duration {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Duration::ZERO,
        _ => CONNECT_RETRY,
    }
}

impl Events for Watch {
    fn next(&mut self) -> Option<Result<Event, CtlError>> {
        Some(Iterator::next(self)?.map_err(CtlError::from))
    }

    fn seq(&self) -> u64 {
        Self::seq(self)
    }
}

impl Daemon for Client {
    fn validate(&mut self, ask: &Validate<'_>) -> Result<Verdict, CtlError> {
        Ok(self.validate(ask)?)
    }

    fn validate_batch(&mut self, asks: &[Validate<'_>]) -> Result<Vec<Verdict>, CtlError> {
        Ok(self.validate_batch(asks)?)
    }

    fn issue(&mut self, ask: &Issue) -> Result<Issued, CtlError> {
        Ok(self.issue(ask)?)
    }

    fn revoke(&mut self, ask: &Revoke<'_>) -> Result<Changed, CtlError> {
        Ok(self.revoke(ask)?)
    }

    fn show(&mut self, token: &Handle) -> Result<Shown, CtlError> {
        Ok(self.show(token)?)
    }

    fn list(&mut self, ask: &List) -> Result<Tokens, CtlError> {
        Ok(self.list(ask)?)
    }

    fn status(&mut self) -> Result<String, CtlError> {
        Ok(self.status()?)
    }

    fn audit(&mut self, query: &AuditQuery) -> Result<AuditLines, CtlError> {
        Ok(self.audit(query)?)
    }

    fn audit_summary(&mut self, token: &Handle) -> Result<String, CtlError> {
        Ok(self.audit_summary(token)?)
    }

    fn audit_verify(&mut self) -> Result<String, CtlError> {
        Ok(self.audit_verify()?)
    }

    fn clock_reset(&mut self) -> Result<UnixTime, CtlError> {
        Ok(self.clock_reset()?)
    }

    fn rekey(&mut self) -> Result<Rekeyed, CtlError> {
        Ok(self.rekey()?)
    }

    fn rekey_data(&mut self) -> Result<RekeyProgress, CtlError> {
        Ok(self.rekey_data()?)
    }

    fn rekey_progress(&mut self) -> Result<RekeyProgress, CtlError> {
        Ok(self.rekey_progress()?)
    }

    fn recovery_key(&mut self) -> Result<Rekeyed, CtlError> {
        Ok(self.recovery_key()?)
    }

    fn watch(&mut self, since: Option<u64>) -> Result<Box<dyn Events>, CtlError> {
        Ok(Box::new(Self::watch(self, since)?))
    }

    fn backup(&mut self, ask: BackupAsk) -> Result<BackupPiece, CtlError> {
        Ok(self.backup(ask)?)
    }

    fn import(&mut self, entries: &[ImportEntry<'_>]) -> Result<Vec<ImportOutcome>, CtlError> {
        Ok(self.import(entries)?)
    }

    fn suspend(&mut self, ask: &Hold) -> Result<Changed, CtlError> {
        Ok(self.suspend(ask)?)
    }

    fn resume(&mut self, ask: &Hold) -> Result<Changed, CtlError> {
        Ok(self.resume(ask)?)
    }

    fn edit(&mut self, ask: &Edit) -> Result<TokenInfo, CtlError> {
        Ok(self.edit(ask)?)
    }

    fn renew(&mut self, token: &Handle) -> Result<TokenInfo, CtlError> {
        Ok(self.renew(token)?)
    }

    fn rotate(&mut self, ask: &Rotate) -> Result<Rotated, CtlError> {
        Ok(self.rotate(ask)?)
    }
}

impl From<ClientError> for CtlError {
    fn from(error: ClientError) -> Self {
        let text = error.to_string();
        match error {
            // The daemon lives; too many wait to be let in.
            ClientError::Connect { source, .. } if source.kind() == io::ErrorKind::WouldBlock => Self::Lost(text),
            ClientError::Connect { .. } | ClientError::WrongServer { .. } => Self::Unreachable(text),
            ClientError::Timeout(_) => Self::Timeout(text),
            ClientError::TooLarge { .. } => Self::Usage(text),
            ClientError::Failure(failure) | ClientError::Refused(failure) => Self::Refused(failure),
            ClientError::Lost { .. } => Self::Lost(text),
            _ => Self::Protocol(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_that_is_there_is_waited_for() {
        let (there, missing) = (Path::new("/dev/null"), Path::new("/nonexistent/bearerd.sock"));
        assert_eq!(retry(there), CONNECT_RETRY);
        assert_eq!(retry(missing), Duration::ZERO);
        let error = connect(Some(missing), Patience::Usual).map(drop).unwrap_err();
        assert_eq!(error.status(), crate::ctl::error::UNREACHABLE);
    }
}
