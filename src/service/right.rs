//! A peer's right to change tokens: asked before anything is looked up, and again of each token inside the transaction.
//!
//! Whoever may do something only to its own tokens is not told which others exist: another's token and none look alike.

use std::sync::Arc;

use super::changes::{GivenUp, not_found, ownership};
use super::orders::What;
use super::{CHANGES_RATE, Caller, ORDER_CHANGES, RESUME_ORDER_CHANGES, Service, Settings};
use crate::config::Operation;
use crate::policy::{self, Decision, Ownership};
use crate::protocol::IDS_MAX;
use crate::protocol::code::ErrorCode;
use crate::protocol::message::{Failure, Handle};
use crate::registry::edit::Hand;
use crate::registry::rate::Spent;
use crate::store::Txn;
use crate::store::record::TokenRecord;
use crate::token::{self, TokenId};

/// Which tokens a change may be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// The one whose secret was shown: whoever holds it may end it.
    Held,
    /// Only the peer's own.
    Own,
    /// Any.
    All,
}

/// What a peer may change; goes with the job that changes it.
#[derive(Clone)]
pub(super) struct Right {
    operation: Operation,
    reach: Reach,
    /// The peer's user name, where it counts.
    own_name: Option<String>,
    pub(super) caller: Arc<Caller>,
    pub(super) settings: Arc<Settings>,
}

impl Right {
    /// That of whoever holds a token: to end it.
    pub(super) fn of_holder(caller: &Arc<Caller>, settings: Arc<Settings>) -> Self {
        let (operation, caller) = (Operation::Revoke, Arc::clone(caller));
        Self { operation, reach: Reach::Held, own_name: None, caller, settings }
    }

    pub(super) fn operation(&self) -> Operation {
        self.operation
    }

    /// Whether it comes from holding the token, and from nothing else.
    pub(super) fn is_holders(&self) -> bool {
        self.reach == Reach::Held
    }

    pub(super) fn is_full(&self) -> bool {
        self.caller.standing(&self.settings).full
    }

    /// The record, if the peer may change it.
    pub(super) fn record(&self, txn: &mut Txn<'_>, id: TokenId) -> Result<TokenRecord, GivenUp> {
        let record = txn.record(id)?;
        let own = match (&record, self.reach) {
            (Some(_), Reach::Held) => None,
            (Some(record), Reach::Own) => Some(self.own(record)),
            (Some(_), Reach::All) | (None, _) => Some(Ownership::NotOwn),
        };
        if let Some(own) = own {
            let ask = policy::Ask::to_token(self.operation, own);
            let standing = self.caller.standing(&self.settings);
            if let Decision::Denied { needed } = self.settings.policy.decide(&self.caller.peer, &standing, &ask) {
                return Err(GivenUp::Denied { needed, id });
            }
        }
        record.ok_or_else(|| GivenUp::Failure(not_found()))
    }

    /// Whether the peer may let go what holds this token. Who may do it only to its own lets go what it has held itself,
    /// and its issuer what its subject has: what an administrator holds is not its owner's to let go. A container's root
    /// has the uid of the host's.
    pub(super) fn lets_go(&self, record: &TokenRecord) -> Result<(), GivenUp> {
        let (Some(held), Reach::Own) = (&record.suspended, self.reach) else { return Ok(()) };
        let uid = self.caller.uid();
        let issued = uid == Some(record.issuer_uid) && record.issuer == self.own_name();
        let by_own =
            held.by_uid != 0 && (uid == Some(held.by_uid) || issued && record.subject_uid == Some(held.by_uid));
        if by_own || self.is_full() {
            return Ok(());
        }
        let needed = format!("suspend of any token, to let go what uid {} holds", held.by_uid);
        Err(GivenUp::Denied { needed, id: record.id })
    }

    /// Whether what holds this token is its subject's or issuer's, and the peer may hold anybody's.
    pub(super) fn outranks(&self, record: &TokenRecord) -> bool {
        let owners = |uid| uid == record.issuer_uid || Some(uid) == record.subject_uid;
        let held_by = record.suspended.as_ref().map(|held| held.by_uid);
        self.reach == Reach::All && held_by.is_some_and(|uid| owners(uid) && self.caller.uid() != Some(uid))
    }

    /// Whose hand it is that edits a token which it may change.
    pub(super) fn hand(&self, record: &TokenRecord) -> Hand {
        let name = self.own_name();
        if self.is_full() {
            Hand::Full
        } else if self.caller.uid() == Some(record.issuer_uid) && record.issuer == name {
            Hand::Free
        } else if self.own(record) == Ownership::Own {
            Hand::Subject
        } else {
            Hand::Free
        }
    }

    /// The peer's user name; empty where it was not looked up, which is nobody's.
    pub(super) fn own_name(&self) -> &str {
        self.own_name.as_deref().unwrap_or_default()
    }

    fn own(&self, record: &TokenRecord) -> Ownership {
        ownership(record, &self.caller, self.own_name())
    }
}

impl Service {
    /// The peer's right to do something to the tokens of these handles, and their ids. Before any is looked up: who may
    /// do it to none at all learns nothing about which ids exist.
    pub(super) async fn right(
        &self,
        caller: &Arc<Caller>,
        operation: Operation,
        handles: &[Handle],
    ) -> Result<(Right, Vec<TokenId>), Failure> {
        if handles.is_empty() || handles.len() > IDS_MAX {
            return Err(Failure::new(ErrorCode::BadRequest, format!("name 1 to {IDS_MAX} tokens at a time")));
        }
        let ask = policy::Ask::to_token(operation, Ownership::Undecided);
        let first = handles.first().and_then(|handle| token::id_of_handle(&handle.0).ok());
        let grant = self.authorise(caller, &ask, first)?;
        let settings = self.settings();
        // A name service that hangs must not hold up who may do it to any. What is decided by whose the token is needs it.
        let by_name = matches!(operation, Operation::Edit | Operation::Rotate) && !caller.standing(&settings).full;
        let own_name = if grant.own_only || by_name { Some(self.user_name(caller).await) } else { None };
        let ids = match self.resolve_all(handles) {
            Err(failure) if grant.own_only && failure.code != ErrorCode::BadRequest => {
                return Err(self.not_theirs(caller, operation, None));
            }
            ids => ids?,
        };
        let reach = if grant.own_only { Reach::Own } else { Reach::All };
        Ok((Right { operation, reach, own_name, caller: Arc::clone(caller), settings }, ids))
    }

    /// The same for one token.
    pub(super) async fn right_to(
        &self,
        caller: &Arc<Caller>,
        operation: Operation,
        handle: &Handle,
    ) -> Result<(Right, TokenId), Failure> {
        let (right, ids) = self.right(caller, operation, std::slice::from_ref(handle)).await?;
        let [id] = ids[..] else { return Err(not_found()) };
        Ok((right, id))
    }

    /// Counts `changes` that the peer could make without end; those that only take away for good are not asked of this.
    pub(super) fn may_change_again(&self, right: &Right, changes: usize) -> Result<(), Failure> {
        if right.is_full() {
            return Ok(());
        }
        let changes = u32::try_from(changes).unwrap_or(u32::MAX);
        match self.changes.spend(right.caller.peer.uid, changes, CHANGES_RATE, self.clock.boottime()) {
            Spent::Counted => Ok(()),
            Spent::Over | Spent::Crowded => Err(self.over_changes(&right.caller)),
        }
    }

    /// The same of an order.
    pub(super) fn may_order_again(&self, caller: &Caller, what: What) -> Result<(), Failure> {
        if caller.standing(&self.settings()).full {
            return Ok(());
        }
        let changes = if what == What::Resume { RESUME_ORDER_CHANGES } else { ORDER_CHANGES };
        match self.changes.spend(caller.peer.uid, changes, CHANGES_RATE, self.clock.boottime()) {
            Spent::Counted => Ok(()),
            // Others have taken all the room to count in: what takes away is not refused for that.
            Spent::Crowded if what != What::Resume => Ok(()),
            Spent::Over | Spent::Crowded => Err(self.over_changes(caller)),
        }
    }

    fn over_changes(&self, caller: &Caller) -> Failure {
        let what = "edits, renewals, resumptions and changes by filter in a minute";
        self.over_limit(caller, what, CHANGES_RATE.count.into())
    }

    /// The answer about a token that is not there, to who may do this only to its own: as about another's.
    pub(super) fn not_theirs(&self, caller: &Caller, operation: Operation, id: Option<TokenId>) -> Failure {
        let ask = policy::Ask::to_token(operation, Ownership::NotOwn);
        self.authorise(caller, &ask, id).err().unwrap_or_else(not_found)
    }

    fn resolve_all(&self, handles: &[Handle]) -> Result<Vec<TokenId>, Failure> {
        let mut ids = handles.iter().map(|handle| self.resolve(handle, true)).collect::<Result<Vec<_>, _>>()?;
        ids.sort();
        ids.dedup();
        Ok(ids)
    }
}
