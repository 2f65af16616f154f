//! What a caching client answers with: a verdict that is lent out of the cache, so that a hit need not count who has it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::Guard;

use super::Entry;
use crate::protocol::message::Verdict;

/// A verdict, the daemon's or a kept one: it reads as a [`Verdict`].
///
/// It says what was so when it was given. What it lent from a cache goes back when it is dropped: to hold it for long, or
/// in many places, take [`Self::share`].
pub struct Known(Whose);

enum Whose {
    Cache(Lent),
    Daemon(Arc<Verdict>),
}

/// Never none: an entry was found.
type Lent = Guard<Option<Arc<Entry>>>;

impl Known {
    /// One to keep.
    pub fn share(&self) -> Arc<Verdict> {
        Arc::clone(self.verdict())
    }

    /// Of the entry that was found.
    pub(super) const fn kept(entry: Lent) -> Self {
        Self(Whose::Cache(entry))
    }

    fn verdict(&self) -> &Arc<Verdict> {
        match &self.0 {
            Whose::Cache(entry) => &entry.as_ref().expect("an entry was found").verdict,
            Whose::Daemon(verdict) => verdict,
        }
    }
}

impl Deref for Known {
    type Target = Verdict;

    fn deref(&self) -> &Verdict {
        self.verdict()
    }
}

impl From<Arc<Verdict>> for Known {
    fn from(verdict: Arc<Verdict>) -> Self {
        Self(Whose::Daemon(verdict))
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.verdict().fmt(f)
    }
}
