//! A token's record as lookups give it: with what was made of it for answers.
//!
//! Invariant: the facts are those of this very record. It never changes; a changed record is another [`HotRecord`], and
//! what was made of the old one goes with it.

use std::ops::Deref;
use std::sync::OnceLock;

use super::record::TokenRecord;

/// A record that many askers share.
pub struct HotRecord {
    record: TokenRecord,
    facts: OnceLock<Box<[u8]>>,
}

impl HotRecord {
    /// Nothing is made of it yet.
    pub fn new(record: TokenRecord) -> Self {
        Self { record, facts: OnceLock::new() }
    }

    /// The record's facts, encoded as peers get them. `encode` is called for the first who asks; there is one such
    /// encoding, so everybody must give the same.
    pub fn facts(&self, encode: impl FnOnce(&TokenRecord) -> Vec<u8>) -> &[u8] {
        self.facts.get_or_init(|| encode(&self.record).into())
    }
}

impl Deref for HotRecord {
    type Target = TokenRecord;

    fn deref(&self) -> &TokenRecord {
        &self.record
    }
}
