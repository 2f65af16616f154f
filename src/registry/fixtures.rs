//! Records for tests.

use std::time::Duration;

use super::issue::{Parties, Rules, plan};
use crate::config::Lives;
use crate::protocol::message;
use crate::store::record::TokenRecord;
use crate::time::UnixTime;
use crate::token::{Digest, TokenId};

pub(crate) const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn rules() -> Rules {
    Rules {
        prefix: "brd".parse().unwrap(),
        session: Lives { default_ttl: Duration::from_secs(900), max_ttl: DAY, max_lifetime: 7 * DAY },
        machine: Lives { default_ttl: 90 * DAY, max_ttl: 366 * DAY, max_lifetime: 366 * DAY },
        profiles: [].into(),
    }
}

pub(crate) fn record(request: &message::Issue) -> TokenRecord {
    let parties = Parties { subject: "alice".into(), subject_uid: Some(1000), issuer: "root".into(), issuer_uid: 0 };
    let id = TokenId::from_bytes([7; 16]);
    plan(request, &rules()).unwrap().record(id, rules().prefix, Digest([9; 32]), parties, NOW).unwrap()
}

pub(crate) fn named() -> message::Issue {
    message::Issue { name: "backup".into(), ..Default::default() }
}
