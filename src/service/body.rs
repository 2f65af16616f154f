//! What a reply carries. Verdicts, of which there are many, are written from what is kept of the token's record; all
//! else is built as the message that it is.
//!
//! Invariant: a verdict has one set of bytes on the wire, whichever way it is written (`protocol::verdict`).

use std::sync::Arc;

use crate::codec;
use crate::protocol::buffer::WriteBuffer;
use crate::protocol::code::Reason;
use crate::protocol::message::{Answer, Cacheable, Reply, Stamped, State, TokenInfo, Verdict};
use crate::protocol::verdict::{self, Parts};
use crate::registry::view;
use crate::store::HotRecord;
use crate::store::record::TokenRecord;
use crate::time::UnixTime;

/// What is answered.
pub enum Body {
    /// A message.
    Message(Answer),
    /// To `Validate`.
    Verdict(Told),
    /// The same, on a connection that was given the epoch page.
    Stamped(Told),
    /// To `ValidateBatch`, in its order.
    Verdicts(Vec<Told>),
}

/// A verdict: what became of a token, and its record, whose facts go with it.
pub struct Told {
    reason: Option<Reason>,
    missing_scopes: Vec<String>,
    /// With the state at the time of the answer; only for who showed the right secret.
    token: Option<(Arc<HotRecord>, State)>,
    /// How it may be kept.
    cache: Option<Box<Cacheable>>,
}

impl Told {
    /// It is good.
    pub(super) fn active(record: Arc<HotRecord>, now: UnixTime, cache: Option<Box<Cacheable>>) -> Self {
        let state = record.state(now);
        Self { reason: None, missing_scopes: Vec::new(), token: Some((record, state)), cache }
    }

    /// It is not, said to who showed the right secret.
    pub(super) fn not_good(record: Arc<HotRecord>, reason: Reason, missing_scopes: Vec<String>, now: UnixTime) -> Self {
        let state = record.state(now);
        Self { reason: Some(reason), missing_scopes, token: Some((record, state)), cache: None }
    }

    /// It is not, and that is all that is said.
    pub(super) fn inactive(reason: Reason) -> Self {
        Self { reason: Some(reason), missing_scopes: Vec::new(), token: None, cache: None }
    }

    fn parts(&self) -> Parts<'_> {
        let token = self.token.as_ref().map(|(record, state)| (record.facts(encoded_facts), *state));
        Parts { reason: self.reason, missing_scopes: &self.missing_scopes, token }
    }
}

fn encoded_facts(record: &TokenRecord) -> Vec<u8> {
    codec::encode(&view::facts(record))
}

impl Body {
    /// Appends the reply to the request of that number as a frame; returns its length without the length field.
    pub fn push(self, id: u32, output: &mut WriteBuffer) -> usize {
        match self {
            Self::Message(body) => {
                let secret = body.is_secret();
                output.push(&Reply { id, body }, secret)
            }
            Self::Verdict(told) => output.push_written(|out| {
                codec::write_varint(id.into(), out);
                verdict::write_answer(told.parts(), out);
            }),
            Self::Stamped(told) => output.push_written(|out| {
                codec::write_varint(id.into(), out);
                verdict::write_stamped(told.parts(), told.cache.as_deref(), out);
            }),
            Self::Verdicts(all) => output.push_written(|out| {
                codec::write_varint(id.into(), out);
                verdict::write_answers(all.iter().map(Told::parts), out);
            }),
        }
    }
}

impl From<Answer> for Body {
    fn from(answer: Answer) -> Self {
        Self::Message(answer)
    }
}

/// For who wants to look at it.
impl From<Body> for Answer {
    fn from(body: Body) -> Self {
        match body {
            Body::Message(answer) => answer,
            Body::Verdict(told) => Self::Verdict(Box::new(told.into())),
            Body::Stamped(mut told) => {
                let cache = told.cache.take().map(|cache| *cache);
                Self::Stamped(Box::new(Stamped { verdict: told.into(), cache }))
            }
            Body::Verdicts(all) => Self::Verdicts(all.into_iter().map(Verdict::from).collect()),
        }
    }
}

impl From<Told> for Verdict {
    fn from(told: Told) -> Self {
        Self {
            active: told.reason.is_none(),
            reason: told.reason,
            missing_scopes: told.missing_scopes,
            token: told
                .token
                .map(|(record, state)| Box::new(TokenInfo { facts: view::facts(&record), state, last_used: None })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::buffer::WriteBuffer;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn record(n: u8) -> Arc<HotRecord> {
        let mut record = crate::store::testing::record(crate::token::TokenId::from_bytes([n; 16]), 1);
        record.max_uses = n.is_multiple_of(2).then_some(300);
        record.expires_at = n.is_multiple_of(3).then_some(NOW);
        record.allow_from = n.is_multiple_of(5).then(|| "10.0.0.0/8".parse().expect("a network")).into_iter().collect();
        Arc::new(HotRecord::new(record))
    }

    fn cacheable(n: u8) -> Cacheable {
        Cacheable {
            generation: u64::from(n) << 40,
            slot: u32::from(n) * 200,
            value: u64::from(n) * 300,
            good_until: n.is_multiple_of(2).then_some(NOW),
            ticket: vec![n; usize::from(n) * 2],
        }
    }

    fn told(n: u8) -> Told {
        match n % 4 {
            0 => Told::inactive(Reason::ALL[usize::from(n) % Reason::ALL.len()]),
            1 => Told::not_good(record(n), Reason::InsufficientScope, vec!["a:b".to_owned(); usize::from(n)], NOW),
            _ => Told::active(record(n), NOW, n.is_multiple_of(3).then(|| Box::new(cacheable(n)))),
        }
    }

    fn slow(id: u32, body: Body) -> Vec<u8> {
        let mut output = WriteBuffer::new();
        output.push(&Reply { id, body: body.into() }, false);
        output.pending().to_vec()
    }

    fn quick(id: u32, body: Body) -> Vec<u8> {
        let mut output = WriteBuffer::new();
        let length = body.push(id, &mut output);
        assert_eq!(output.len(), length + 4);
        output.pending().to_vec()
    }

    #[test]
    fn what_is_written_is_the_message() {
        for n in 0..=255 {
            let id = 1 + 100_000 * u32::from(n);
            assert_eq!(quick(id, Body::Verdict(told(n))), slow(id, Body::Verdict(told(n))), "{n}");
            assert_eq!(quick(id, Body::Stamped(told(n))), slow(id, Body::Stamped(told(n))), "{n}, stamped");
        }
        let all = || Body::Verdicts((0..=255).map(told).collect());
        assert_eq!(quick(7, all()), slow(7, all()));
    }

    /// I3: room is made for it without leaving a copy of the secret behind.
    #[test]
    fn a_verdict_behind_a_secret_leaves_it_where_it_is() {
        let mut output = WriteBuffer::new();
        output.push("secret", true);
        let _ = Body::Verdicts((0..100).map(told).collect()).push(1, &mut output);
        assert_eq!(&output.pending()[4..11], b"\x06secret");
    }
}
