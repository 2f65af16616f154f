//! What only reads: show, list and status.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::changes::{not_found, ownership};
use super::{Caller, Service, invalid, store_failure};
use crate::config::Operation;
use crate::policy::{self, Ownership};
use crate::protocol::code::ErrorCode;
use crate::protocol::message::{Answer, Failure, Handle, List, Shown, Tokens};
use crate::protocol::{NAME_MAX, PAGE_MAX};
use crate::registry::shown::{Member, shown};
use crate::registry::{filter, view};
use crate::store::record::TokenRecord;
use crate::store::{Scan, StoreError, select};
use crate::time::UnixTime;
use crate::token::{self, ID_CHARS, TokenId};

/// Characters of an id that name a token in something that changes it.
const PREFIX_CHANGES_MIN: usize = 12;
/// Records that one page looks at, at most; then it ends early and says where to go on.
const VISIT_MAX: usize = 20_000;
/// Bytes that a page's tokens may take, roughly: far below the largest reply.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// What `status` counts expiries ahead in.
const WEEK: Duration = Duration::from_secs(7 * 86_400);
/// Expiries that `status` counts, at most: about a millisecond of reading.
const EXPIRING_COUNT_MAX: usize = 10_000;

impl Service {
    /// The id that a handle names: a head, an id, or the first characters of one.
    pub(super) fn resolve(&self, handle: &Handle, changes: bool) -> Result<TokenId, Failure> {
        let text = handle.0.as_str();
        if text.len() > NAME_MAX || token::holds_token(text) {
            return Err(Failure::new(
                ErrorCode::BadRequest,
                "that is no id: give the 26 characters of one, a head, or the first characters of an id; a token itself comes on stdin or in a file",
            ));
        }
        if let Ok(id) = token::id_of_handle(text) {
            return Ok(id);
        }
        // Of a head that is cut short, what stands behind the underscore.
        let start = text.split_once('_').map_or(text, |(_, start)| start);
        let digits = |c: u8| c.is_ascii_digit() || (c.is_ascii_uppercase() && !matches!(c, b'I' | b'L' | b'O' | b'U'));
        if start.is_empty() || start.len() >= ID_CHARS || !start.bytes().all(digits) || start.as_bytes()[0] > b'7' {
            return Err(Failure::new(
                ErrorCode::BadRequest,
                "that is no id: bearerctl list shows the ids, in upper case",
            ));
        }
        if changes && start.len() < PREFIX_CHANGES_MIN {
            return Err(Failure::new(
                ErrorCode::BadRequest,
                format!("to change a token, give at least {PREFIX_CHANGES_MIN} characters of its id"),
            ));
        }
        let bound = |fill: char| {
            let text: String = start.chars().chain(std::iter::repeat(fill)).take(ID_CHARS).collect();
            text.parse::<TokenId>().map_err(|_| not_found())
        };
        let found = self.store.find_between(bound('0')?, bound('Z')?, 2).map_err(|error| store_failure(&error))?;
        match found[..] {
            [] => Err(not_found()),
            [id] => Ok(id),
            _ => Err(Failure::new(ErrorCode::Ambiguous, "more than one id begins so: give more of its characters")),
        }
    }

    pub(super) fn show(self: &Arc<Self>, caller: &Arc<Caller>, handle: &Handle) -> super::Now {
        let (service, caller, handle) = (Arc::clone(self), Arc::clone(caller), handle.clone());
        super::later(async move {
            let first =
                service.authorise(&caller, &policy::Ask::to_token(Operation::Show, Ownership::Undecided), None)?;
            // Looked up whether or not there is such a token, so that the time of an answer does not say either.
            let own_name = if first.own_only { Some(service.user_name(&caller).await) } else { None };
            let found = service
                .resolve(&handle, false)
                .and_then(|id| Ok((id, service.store.lookup(id).map_err(|error| store_failure(&error))?.record)));
            let record = match found {
                Ok((_, Some(record))) => record,
                // Who may see only its own is not told which others exist.
                Ok((id, None)) if first.own_only => return Err(service.not_theirs(&caller, Operation::Show, Some(id))),
                Err(failure) if first.own_only && failure.code != ErrorCode::BadRequest => {
                    return Err(service.not_theirs(&caller, Operation::Show, None));
                }
                Ok((_, None)) => return Err(not_found()),
                Err(failure) => return Err(failure),
            };
            if let Some(own_name) = &own_name {
                let own = ownership(&record, &caller, own_name);
                let _ = service.authorise(&caller, &policy::Ask::to_token(Operation::Show, own), Some(record.id))?;
            }
            let shown = service.shown(&record, |relative| {
                own_name.as_deref().is_none_or(|name| ownership(relative, &caller, name) == Ownership::Own)
            });
            shown.map(|shown| Answer::Shown(Box::new(shown))).map_err(|error| store_failure(&error))
        })
    }

    /// The token with its neighbours in the rotation, as far as they are there and `may_see` lets the peer see them.
    fn shown(&self, record: &TokenRecord, may_see: impl Fn(&TokenRecord) -> bool) -> Result<Shown, StoreError> {
        let member = |id: Option<TokenId>| -> Result<Option<Member>, StoreError> {
            let Some(id) = id else { return Ok(None) };
            let Some(found) = self.store.lookup(id)?.record else { return Ok(None) };
            Ok(Some((TokenRecord::clone(&found), self.store.last_use(id)?)))
        };
        let predecessor = member(record.predecessor)?;
        let successor = member(record.successor)?;
        let beyond = member(successor.as_ref().and_then(|(record, _)| record.successor))?;
        let relatives = [predecessor, successor].into_iter().flatten().filter(|(record, _)| may_see(record)).collect();
        let token = (record.clone(), self.store.last_use(record.id)?);
        Ok(shown(token, relatives, beyond, self.clock.now()))
    }

    pub(super) async fn list(&self, caller: &Arc<Caller>, list: List) -> Result<Tokens, Failure> {
        let grant = self.authorise(caller, &policy::Ask::to_token(Operation::List, Ownership::Undecided), None)?;
        filter::check(&list.filter).map_err(invalid)?;
        let own_name = if grant.own_only { Some(self.user_name(caller).await) } else { None };
        let turn = self.reader(caller).await?;
        let (store, caller, now) = (self.store.clone(), Arc::clone(caller), self.clock.now());
        let page = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let limit = (list.limit.max(1) as usize).min(PAGE_MAX);
            let scan = Scan { after: list.after, index: select::index(&list.filter), limit, visit_max: VISIT_MAX };
            let mut bytes = 0;
            let page = store.scan(scan, |record: &TokenRecord| -> Result<bool, StoreError> {
                let mine = own_name.as_deref().is_none_or(|name| ownership(record, &caller, name) == Ownership::Own);
                Ok(mine && filter::matches(&list.filter, record, now, || store.last_use(record.id))?)
            })?;
            let mut tokens = Vec::with_capacity(page.records.len());
            let mut next = page.next;
            for record in page.records {
                let info = view::info(&record, store.last_use(record.id)?, now);
                bytes += size(&record);
                if bytes > PAGE_BYTES_MAX && !tokens.is_empty() {
                    next = tokens.last().map(|info: &crate::protocol::message::TokenInfo| info.facts.id);
                    break;
                }
                tokens.push(info);
            }
            Ok(Tokens { tokens, next })
        });
        match page.await {
            Ok(page) => page.map_err(|error: StoreError| store_failure(&error)),
            Err(_) => Err(Failure::new(ErrorCode::Internal, "the listing failed: see the log of bearerd")),
        }
    }

    /// How many expiries lie within a week, by the index alone: those of tokens that were revoked are among them.
    fn expiring_soon(&self, now: UnixTime) -> Result<usize, StoreError> {
        self.store.count_expiring(now, now.saturating_add(WEEK), EXPIRING_COUNT_MAX)
    }

    pub(super) fn status(&self, caller: &Caller) -> Result<String, Failure> {
        let _ = self.authorise(caller, &policy::Ask::of(Operation::Status), None)?;
        let settings = self.settings();
        let room = self.store.room();
        let health = self.audit.health();
        let connections = (self.connections)();
        let mut warnings = settings.warnings.clone();
        let key = self.key_status(&mut warnings)?;
        if crate::sys::memory::unlocked() {
            warnings.push("key material could not be locked in memory: raise LimitMEMLOCK".to_owned());
        }
        let now = self.clock.now();
        let behind = self.clock.behind();
        if behind > crate::time::STEP_MAX {
            warnings.push(format!(
                "the clock is {} s behind the time that counts; if that time is wrong: bearerctl clock reset",
                behind.as_secs()
            ));
        }
        if !health.writable {
            warnings.push("the audit log can't be written: nothing is said to be active until it can".to_owned());
        } else if !health.issue_ok {
            let why = health.fault.as_deref().unwrap_or("no record can be taken");
            warnings.push(format!("issue is refused: {why}"));
        }
        if health.low_space {
            warnings.push("less than 10 % is free where the audit log is: make room there".to_owned());
        }
        let status = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "started_at": self.started_at.to_string(),
            "now": now.to_string(),
            "store": {
                "path": self.places.store,
                "tokens": self.store.token_count().map_err(|error| store_failure(&error))?,
                "expiring_7d": self.expiring_soon(now).map_err(|error| store_failure(&error))?,
                "generation": self.store.generation(),
                "unfinished_orders": self.store.unfinished_orders(),
                "last_uses_lost": self.store.uses_lost(),
                "free_bytes": room.free_bytes,
                "disk_free_bytes": room.disk_free_bytes,
                "issue_ok": room.issue_ok,
            },
            "key": key,
            "audit": {
                "file": self.places.audit,
                "writable": health.writable,
                "issue_ok": health.issue_ok,
                "fault": health.fault,
                "sealed_seq": health.sealed_seq,
                "seq": health.seq,
                "lines": health.lines,
                "syslog": self.places.syslog,
                "syslog_dropped": health.syslog_dropped,
                "gaps": health.gaps,
                "lost": health.lost,
                "flooded": health.flooded,
                "free_bytes": health.free_bytes,
            },
            "clock": {
                "now": now.to_string(),
                "behind_secs": behind.as_secs(),
                "synchronised": self.clock.synchronised(),
                "unsettled": self.clock.unsettled(),
            },
            "caches": self.page.as_ref().map(|page| serde_json::json!({
                "state": page.state(),
                "reported_uses": self.reported.load(Ordering::Relaxed),
            })),
            "connections": {
                "now": connections.now, "refused": connections.refused, "watching": connections.watching,
            },
            "warnings": warnings,
        });
        Ok(status.to_string())
    }
}

/// About how many bytes a record's facts take in a reply.
fn size(record: &TokenRecord) -> usize {
    let texts = |texts: &[String]| texts.iter().map(|text| text.len() + 2).sum::<usize>();
    256 + record.scopes.iter().map(|scope| scope.as_str().len() + 2).sum::<usize>()
        + texts(&record.audiences)
        + texts(&record.allow_units)
        + record.labels.iter().map(|(key, value)| key.len() + value.len() + 4).sum::<usize>()
        + record.allow_from.len() * 48
        + record.allow_uids.len() * 5
}
