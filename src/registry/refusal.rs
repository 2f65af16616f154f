//! Why a change of a token is refused although policy allows the peer to ask for it.

use super::Invalid;
use crate::protocol::message::State;
use crate::time::UnixTime;
use crate::token::TokenId;

/// A change that is not made; nothing was changed. The texts say what to do instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A value that can't be.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The peer may change the token, but not in this way. The text is for the administrator's log: what is needed.
    #[error("{0}")]
    NotTheirs(&'static str),
    /// The token's state does not allow it.
    #[error("the token can't be {verb}: it is {state}; {}", instead(*.state))]
    State {
        /// `renewed`.
        verb: &'static str,
        /// What it is.
        state: State,
    },
    /// It has the longest life that it may have.
    #[error(
        "the token can't be had longer: {0} is the end of its lifetime, when it must be asked for anew; rotate it, or issue another"
    )]
    Ceiling(UnixTime),
    /// A successor would inherit a lifetime that is over.
    #[error(
        "the token can't be rotated: its lifetime ended at {0}, and only who may issue the like starts another; issue a new one"
    )]
    LifeOver(UnixTime),
    /// Its successor took over already.
    #[error("the token was rotated already and its successor {0} is in use: rotate that one")]
    AlreadyRotated(TokenId),
    /// Its successor waits, suspended: another in its place would undo that.
    #[error("the token was rotated already and its successor {0} is suspended: resume or revoke that one first")]
    SuccessorHeld(TokenId),
}

fn instead(state: State) -> &'static str {
    match state {
        State::Suspended => "resume it first",
        State::NotYetValid => "wait until its time has begun, or issue another",
        State::Canary => "bait is issued and revoked, nothing else",
        State::Rotated => "another took its place: name that one, or issue a new one",
        State::Active | State::Rotating | State::Expired | State::Revoked | State::Exhausted => "issue a new one",
    }
}
