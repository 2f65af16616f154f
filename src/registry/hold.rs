//! suspend and resume: the end that can be taken back.

use super::ended;
use crate::store::record::{Ending, TokenRecord};
use crate::time::UnixTime;

/// The record, suspended; `None` when there is nothing to do: it is suspended already, or has ended for good.
pub fn suspend(record: &TokenRecord, reason: Option<&str>, by_uid: u32, now: UnixTime) -> Option<TokenRecord> {
    if record.suspended.is_some() || ended(record, now).is_some() {
        return None;
    }
    let mut record = record.clone();
    record.version += 1;
    record.suspended = Some(Ending { at: now, reason: reason.map(str::to_owned), by_uid });
    Some(record)
}

/// The record, held by another from now on; `None` when nothing holds it, or when it has ended for good.
pub fn take_over(record: &TokenRecord, reason: Option<&str>, by_uid: u32, now: UnixTime) -> Option<TokenRecord> {
    record.suspended.as_ref()?;
    suspend(&TokenRecord { suspended: None, ..record.clone() }, reason, by_uid, now)
}

/// The record, let go; `None` when nothing holds it, or when it was revoked meanwhile. Its time went on while it was held.
pub fn resume(record: &TokenRecord) -> Option<TokenRecord> {
    if record.suspended.is_none() || record.revoked.is_some() {
        return None;
    }
    let mut record = record.clone();
    record.version += 1;
    record.suspended = None;
    Some(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::{Issue, State};
    use crate::registry::fixtures::{DAY, NOW, named, record};

    #[test]
    fn suspending_can_be_taken_back_and_is_counted_once() {
        let it = record(&named());
        let held = suspend(&it, Some("odd traffic"), 7, NOW).expect("it is good");
        assert_eq!((held.state(NOW), held.version), (State::Suspended, it.version + 1));
        assert_eq!(held.suspended.as_ref().unwrap().reason.as_deref(), Some("odd traffic"));
        assert!(suspend(&held, None, 7, NOW).is_none());
        assert!(take_over(&it, None, 0, NOW).is_none(), "nothing holds it");
        let by_root = take_over(&held, None, 0, NOW).expect("another's hold").suspended.expect("it is held");
        assert_eq!((by_root.by_uid, by_root.reason), (0, None));
        let free = resume(&held).expect("it is held");
        assert!(TokenRecord { version: it.version, ..free.clone() } == it);
        assert_eq!(free.version, held.version + 1);
        assert!(resume(&free).is_none());
    }

    #[test]
    fn what_has_ended_is_not_held_and_what_ended_while_held_stays_ended() {
        let it = record(&Issue { ttl: Some(DAY), ..named() });
        let later = NOW.saturating_add(DAY);
        assert!(suspend(&it, None, 0, later).is_none());
        let ending = Some(Ending { at: NOW, reason: None, by_uid: 0 });
        assert!(suspend(&TokenRecord { revoked: ending.clone(), ..it.clone() }, None, 0, NOW).is_none());
        assert!(suspend(&TokenRecord { replaced: true, ..it.clone() }, None, 0, NOW).is_none());
        assert!(suspend(&TokenRecord { max_uses: Some(1), uses: 1, ..it.clone() }, None, 0, NOW).is_none());
        let held = suspend(&it, None, 0, NOW).expect("it is good");
        assert!(resume(&TokenRecord { revoked: ending, ..held.clone() }).is_none());
        assert_eq!(resume(&held).expect("it is held").state(later), State::Expired);
    }
}
