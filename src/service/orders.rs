//! Changes of many tokens at once, as one durable order.

use std::sync::Arc;

use super::{Caller, Now, Service};
use crate::protocol::code::ErrorCode;
use crate::protocol::filter::Filter;
use crate::protocol::message::Failure;

/// What an order does to the tokens that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Revoke,
    Suspend,
    Resume,
}

impl Service {
    /// `reason` is as the peer sent it, not checked yet.
    pub(super) fn order(
        self: &Arc<Self>,
        _caller: &Arc<Caller>,
        _what: What,
        _filter: Filter,
        _reason: Option<String>,
        _dry_run: bool,
    ) -> Now {
        Now::failure(Failure::new(ErrorCode::Internal, "not here yet"))
    }
}
