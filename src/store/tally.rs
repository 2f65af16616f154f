//! How many tokens an order changes, counted exactly after it is in force, while others write.
//!
//! The count walks the tokens in pages, each a snapshot of its own, in the order of their ids. A token that the order
//! changes and that nobody has written since is found by the page. One that was written since bears the order already:
//! the writer has put it here, with the number of the commit that wrote it. So a page that read the state of commit `c`
//! adds those of its ids that were written in commits up to `c`; one written later is what the page itself has seen
//! unwritten. Each token is counted once, and what is kept is never more than was written ahead of the count.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::token::TokenId;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Counting>);

#[derive(Debug, Default)]
struct Counting {
    /// Nobody counts any more.
    closed: bool,
    /// All up to this id are counted.
    passed: Option<TokenId>,
    /// What the order changed and a commit wrote: which commit.
    written: BTreeMap<TokenId, u64>,
}

impl Tally {
    /// A commit is about to write what the order made of this token.
    pub(super) fn written(&self, id: TokenId, commit: u64) {
        let mut counting = self.lock();
        if !counting.closed && counting.passed.is_none_or(|passed| id > passed) {
            counting.written.entry(id).or_insert(commit);
        }
    }

    /// That commit was not made.
    pub(super) fn not_written(&self, commit: u64) {
        self.lock().written.retain(|_, at| *at != commit);
    }

    /// A page read the state of `commit` up to the id `through`, or to the end: what it could not see unwritten.
    pub(super) fn pass(&self, through: Option<TokenId>, commit: u64) -> Vec<TokenId> {
        let mut counting = self.lock();
        let last = through.unwrap_or(TokenId::from_bytes([0xff; 16]));
        counting.passed = Some(last);
        let mut seen = Vec::new();
        while let Some(entry) = counting.written.first_entry().filter(|entry| *entry.key() <= last) {
            let (id, at) = entry.remove_entry();
            if at <= commit {
                seen.push(id);
            }
        }
        seen
    }

    /// It is counted, or nobody wants to know.
    pub(super) fn close(&self) {
        *self.lock() = Counting { closed: true, ..Counting::default() };
    }

    fn lock(&self) -> MutexGuard<'_, Counting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> TokenId {
        TokenId::from_bytes([n; 16])
    }

    #[test]
    fn each_token_is_counted_by_the_page_or_by_its_write_never_by_both() {
        let tally = Tally::default();
        tally.written(id(2), 5);
        tally.written(id(3), 6);
        tally.written(id(8), 6);
        // The page read commit 5: it has seen 3 as it was before.
        assert_eq!(tally.pass(Some(id(4)), 5), [id(2)]);
        // Behind the count.
        tally.written(id(1), 7);
        tally.written(id(6), 7);
        tally.written(id(7), 8);
        tally.not_written(8);
        tally.written(id(6), 9);
        assert_eq!(tally.pass(None, 7), [id(6), id(8)]);
        tally.written(id(9), 9);
        assert_eq!(tally.pass(None, 9), []);
        tally.close();
        tally.written(id(9), 9);
        assert!(tally.lock().written.is_empty());
    }
}
