//! suspend and resume: a token is held until it is let go again.

use std::sync::Arc;

use super::orders::What;
use super::{Caller, Now, Service};
use crate::protocol::code::ErrorCode;
use crate::protocol::message::{Chosen, Failure, Hold};

impl Service {
    pub(super) fn suspend(self: &Arc<Self>, caller: &Arc<Caller>, request: &Hold) -> Now {
        match &request.which {
            Chosen::Filter(filter) => {
                self.order(caller, What::Suspend, filter.clone(), request.reason.clone(), request.dry_run)
            }
            Chosen::Handles(_) => Now::failure(Failure::new(ErrorCode::Internal, "not here yet")),
        }
    }

    pub(super) fn resume(self: &Arc<Self>, caller: &Arc<Caller>, request: &Hold) -> Now {
        match &request.which {
            Chosen::Filter(filter) => {
                self.order(caller, What::Resume, filter.clone(), request.reason.clone(), request.dry_run)
            }
            Chosen::Handles(_) => Now::failure(Failure::new(ErrorCode::Internal, "not here yet")),
        }
    }
}
