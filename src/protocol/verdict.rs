//! Verdicts, written without being built: the same bytes as [`Verdict`](super::message::Verdict), made by copying.
//!
//! A token's facts are most of a verdict, and only a change of the token alters them. Whoever keeps them encoded writes a
//! verdict in some ten bytes around a copy. That these bytes are those of the message is what the tests below are for:
//! the message says what the format is.

use super::code::Reason;
use super::message::{Cacheable, State};
use crate::codec;

/// `Answer::Verdict` and `Answer::Verdicts`, as they stand in front of what they hold.
const VERDICT: u8 = 1;
const VERDICTS: u8 = 2;
/// `Answer::Stamped`.
const STAMPED: u8 = 17;

/// A verdict in parts.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// Why not; `None` = active.
    pub reason: Option<Reason>,
    /// All that is missing.
    pub missing_scopes: &'a [String],
    /// The facts, encoded as [`TokenFacts`](super::message::TokenFacts) are, and the state.
    pub token: Option<(&'a [u8], State)>,
}

/// Appends an `Answer::Verdict`.
pub fn write_answer(verdict: Parts<'_>, out: &mut Vec<u8>) {
    out.push(VERDICT);
    write(verdict, out);
}

/// Appends an `Answer::Stamped`.
pub fn write_stamped(verdict: Parts<'_>, cache: Option<&Cacheable>, out: &mut Vec<u8>) {
    out.push(STAMPED);
    write(verdict, out);
    let Some(Cacheable { generation, slot, value, good_until, ticket }) = cache else { return out.push(0) };
    out.push(1);
    for number in [*generation, u64::from(*slot), *value] {
        codec::write_varint(number, out);
    }
    match good_until {
        None => out.push(0),
        Some(time) => {
            out.push(1);
            codec::write_varint(time.as_micros(), out);
        }
    }
    codec::write_varint(ticket.len() as u64, out);
    out.extend_from_slice(ticket);
}

/// Appends an `Answer::Verdicts`.
pub fn write_answers<'a>(verdicts: impl ExactSizeIterator<Item = Parts<'a>>, out: &mut Vec<u8>) {
    out.push(VERDICTS);
    codec::write_varint(verdicts.len() as u64, out);
    for verdict in verdicts {
        write(verdict, out);
    }
}

/// Appends a verdict.
pub fn write(verdict: Parts<'_>, out: &mut Vec<u8>) {
    let Parts { reason, missing_scopes, token } = verdict;
    match reason {
        None => out.extend_from_slice(&[1, 0]),
        Some(reason) => out.extend_from_slice(&[0, 1, reason as u8]),
    }
    codec::write_varint(missing_scopes.len() as u64, out);
    for scope in missing_scopes {
        codec::write_varint(scope.len() as u64, out);
        out.extend_from_slice(scope.as_bytes());
    }
    match token {
        None => out.push(0),
        Some((facts, state)) => {
            out.reserve(facts.len() + 3);
            out.push(1);
            out.extend_from_slice(facts);
            // A verdict does not tell of the last use.
            out.extend_from_slice(&[state as u8, 0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::message::{Answer, Rate, Reply, TokenFacts, TokenInfo, Verdict};
    use crate::time::UnixTime;
    use crate::token::{Kind, TokenId};

    /// Any facts: what matters is that lengths, options and numbers of all sizes are among them.
    fn facts() -> impl Strategy<Value = TokenFacts> {
        let id = any::<[u8; 16]>().prop_map(TokenId::from_bytes);
        let texts = proptest::collection::vec("[a-z:*é]{0,140}", 0..5);
        let labels = proptest::collection::btree_map("[a-z]{1,20}", "\\PC{0,40}", 0..4);
        let time = any::<u64>().prop_map(UnixTime::from_micros);
        let times = (time.clone(), proptest::option::of(time.clone()), proptest::option::of(time));
        let numbers = (any::<u32>(), proptest::option::of(any::<u64>()), proptest::collection::vec(any::<u32>(), 0..4));
        (id, texts, labels, times, numbers, proptest::option::of("\\PC{0,60}"), any::<bool>()).prop_map(
            |(id, texts, labels, times, numbers, words, head)| {
                let kind = [Kind::Machine, Kind::Session, Kind::Canary][numbers.0 as usize % 3];
                TokenFacts {
                    id,
                    head: head.then(|| format!("brdm_{id}")),
                    kind,
                    name: texts.concat(),
                    subject: texts.first().cloned().unwrap_or_default(),
                    issuer: words.clone().unwrap_or_default(),
                    issuer_uid: numbers.0,
                    scopes: texts.clone(),
                    audiences: texts,
                    issued_at: times.0,
                    not_before: times.1,
                    expires_at: times.2,
                    max_expires_at: times.1,
                    ttl: numbers.1.map(std::time::Duration::from_micros),
                    labels,
                    profile: words.clone(),
                    max_uses: numbers.1,
                    uses_left: numbers.1,
                    rate: numbers.1.map(|_| Rate { count: numbers.0, per: std::time::Duration::from_secs(60) }),
                    allow_from: Vec::new(),
                    allow_units: Vec::new(),
                    allow_uids: numbers.2,
                    family: id,
                    predecessor: head.then_some(id),
                    successor: None,
                    revoked_at: times.2,
                    revoked_reason: words,
                }
            },
        )
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        let reason = proptest::option::of((0..Reason::ALL.len()).prop_map(|at| Reason::ALL[at]));
        let missing = proptest::collection::vec("[a-z:]{0,128}", 0..4);
        let state = (0..State::ALL.len()).prop_map(|at| State::ALL[at]);
        (reason, missing, proptest::option::of((facts(), state))).prop_map(|(reason, missing_scopes, token)| Verdict {
            active: reason.is_none(),
            reason,
            missing_scopes,
            token: token.map(|(facts, state)| Box::new(TokenInfo { facts, state, last_used: None })),
        })
    }

    fn with_parts(verdicts: &[Verdict], write: impl FnOnce(Vec<Parts<'_>>)) {
        let encoded: Vec<Option<(Vec<u8>, State)>> = verdicts
            .iter()
            .map(|verdict| verdict.token.as_ref().map(|info| (codec::encode(&info.facts), info.state)))
            .collect();
        let parts = verdicts.iter().zip(&encoded).map(|(verdict, token)| Parts {
            reason: verdict.reason,
            missing_scopes: &verdict.missing_scopes,
            token: token.as_ref().map(|(facts, state)| (&facts[..], *state)),
        });
        write(parts.collect());
    }

    proptest! {
        /// `tests/vectors` pins the message's bytes; here is that these are the same.
        #[test]
        fn a_written_verdict_is_the_message(verdict in verdict(), id in 1u32..) {
            let mut written = Vec::new();
            codec::write_varint(id.into(), &mut written);
            with_parts(std::slice::from_ref(&verdict), |parts| write_answer(parts[0], &mut written));
            let message = Reply { id, body: Answer::Verdict(Box::new(verdict)) };
            prop_assert_eq!(written, codec::encode(&message));
        }

    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn so_is_a_batch(some in proptest::collection::vec(verdict(), 1..6), count in 0..200usize) {
            let verdicts: Vec<Verdict> = some.iter().cycle().take(count).cloned().collect();
            let mut written = Vec::new();
            with_parts(&verdicts, |parts| write_answers(parts.into_iter(), &mut written));
            prop_assert_eq!(written, codec::encode(&Answer::Verdicts(verdicts)));
        }
    }
}
