//! A listing in another order than that of issue: all pages are read first. With a limit only the first so many are ever
//! kept, so that memory is bounded by it; without one, every token that matches is held at once (about 1 KiB each).

use std::cmp::Ordering;

use crate::ctl::args::Sort;
use crate::protocol::message::TokenInfo;

/// What is dropped at once, at least: sorting for each token would be slow.
const SLACK: usize = 2048;

/// Tokens in an order.
pub(super) struct Sorted {
    by: Sort,
    reverse: bool,
    limit: usize,
    tokens: Vec<TokenInfo>,
}

impl Sorted {
    pub(super) fn new(by: Sort, reverse: bool, limit: Option<u64>) -> Self {
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Self { by, reverse, limit, tokens: Vec::new() }
    }

    pub(super) fn add(&mut self, tokens: Vec<TokenInfo>) {
        self.tokens.extend(tokens);
        if self.tokens.len() > self.limit.saturating_add(SLACK) {
            self.cut();
        }
    }

    pub(super) fn end(mut self) -> Vec<TokenInfo> {
        self.cut();
        self.tokens
    }

    fn cut(&mut self) {
        let (by, reverse) = (self.by, self.reverse);
        self.tokens.sort_by(|a, b| if reverse { compare(by, b, a) } else { compare(by, a, b) });
        self.tokens.truncate(self.limit);
    }
}

/// What is the same in this is in the order of issue.
fn compare(by: Sort, a: &TokenInfo, b: &TokenInfo) -> Ordering {
    let used = |info: &TokenInfo| info.last_used.as_ref().map(|used| used.at);
    let uses = |info: &TokenInfo| info.last_used.as_ref().map_or(0, |used| used.count);
    let order = match by {
        Sort::Issued => Ordering::Equal,
        // What never expires comes after all that does.
        Sort::Expires => {
            (a.facts.expires_at.is_none(), a.facts.expires_at).cmp(&(b.facts.expires_at.is_none(), b.facts.expires_at))
        }
        Sort::LastUsed => used(a).cmp(&used(b)),
        Sort::Name => a.facts.name.cmp(&b.facts.name),
        Sort::Subject => a.facts.subject.cmp(&b.facts.subject),
        Sort::Uses => uses(a).cmp(&uses(b)),
    };
    order.then_with(|| a.facts.id.cmp(&b.facts.id))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ctl::render::tests::{bare, now};
    use crate::protocol::message::LastUsed;

    fn token(digit: char, name: &str, expires: Option<u64>, used: Option<(u64, u64)>) -> TokenInfo {
        let mut info = bare(&format!("01M844DZG0FAY828T5CY4TQKF{digit}"), name);
        info.facts.expires_at = expires.map(|secs| now().saturating_add(Duration::from_secs(secs)));
        info.last_used = used.map(|(secs, count)| LastUsed {
            at: now().saturating_sub(Duration::from_secs(secs)),
            unit: None,
            uid: 0,
            from: None,
            count,
        });
        info
    }

    fn names(by: Sort, reverse: bool, limit: Option<u64>) -> String {
        let mut sorted = Sorted::new(by, reverse, limit);
        sorted.add(vec![token('1', "c", Some(9), None), token('2', "a", None, Some((5, 7)))]);
        sorted.add(vec![token('3', "d", Some(3), Some((50, 9))), token('4', "b", Some(9), None)]);
        sorted.end().iter().map(|info| info.facts.name.as_str()).collect()
    }

    #[test]
    fn each_order_and_its_reverse() {
        for (by, order) in [
            (Sort::Issued, "cadb"),
            (Sort::Expires, "dcba"),
            (Sort::LastUsed, "cbda"),
            (Sort::Name, "abcd"),
            (Sort::Uses, "cbad"),
        ] {
            assert_eq!(names(by, false, None), order, "{by:?}");
            assert_eq!(names(by, true, None), order.chars().rev().collect::<String>(), "{by:?} reversed");
            assert_eq!(names(by, false, Some(2)), order[..2], "the first after sorting");
        }
    }

    #[test]
    fn with_a_limit_memory_is_bounded() {
        let mut sorted = Sorted::new(Sort::Name, true, Some(3));
        for number in 0..20_000 {
            sorted.add(vec![token('1', &format!("{number:05}"), None, None)]);
            assert!(sorted.tokens.len() <= 3 + SLACK);
        }
        let names: Vec<String> = sorted.end().into_iter().map(|info| info.facts.name).collect();
        assert_eq!(names, ["19999", "19998", "19997"]);
    }
}
