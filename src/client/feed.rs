//! What both clients know of a stream of events: those that have come, and the number to go on after.

use std::collections::VecDeque;

use super::{ClientError, message};
use crate::protocol::message::{Answer, Event};

/// Events between the connection and whoever reads them: those of one frame at most.
pub(super) struct Feed {
    waiting: VecDeque<Event>,
    /// All up to here has been handed out, or was not for us.
    seq: u64,
    /// What `seq` is once nothing waits.
    through: u64,
    over: bool,
}

impl Feed {
    /// A feed that begins with the first answer to a request for what is after `since`.
    pub(super) fn begun(since: Option<u64>, answer: Answer) -> Result<Self, ClientError> {
        let mut feed = Self { waiting: VecDeque::new(), seq: 0, through: 0, over: false };
        feed.take(answer)?;
        if let Some(first) = feed.waiting.front() {
            feed.seq = since.unwrap_or(first.seq.saturating_sub(1));
        }
        Ok(feed)
    }

    /// Takes what has come; an error is the end.
    pub(super) fn take(&mut self, answer: Answer) -> Result<(), ClientError> {
        let events = message::events(answer).inspect_err(|_| self.over = true)?;
        let numbers = events.events.iter().map(|event| event.seq).chain([events.through]);
        // 0 is only ever a gap's, at the very beginning.
        let known = |event: &Event| event.seq != 0 && event.seq <= self.through;
        if !numbers.is_sorted() || events.events.first().is_some_and(known) {
            self.over = true;
            return Err(ClientError::Protocol("the numbers of its events do not grow"));
        }
        self.waiting.extend(events.events);
        self.through = events.through;
        self.over |= events.last;
        if self.waiting.is_empty() {
            self.seq = self.through;
        }
        Ok(())
    }

    /// The next event, if one waits.
    pub(super) fn next(&mut self) -> Option<Event> {
        let event = self.waiting.pop_front()?;
        self.seq = if self.waiting.is_empty() { self.through } else { event.seq };
        Some(event)
    }

    /// What to go on after.
    pub(super) const fn seq(&self) -> u64 {
        self.seq
    }

    /// Nothing more will come.
    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    /// After this nothing is waited for.
    pub(super) fn end(&mut self) {
        self.over = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::code::ErrorCode;
    use crate::protocol::message::{Events, Failure};

    fn answer(seqs: &[u64], through: u64, last: bool) -> Answer {
        let event = |&seq| Event { seq, gap: false, json: String::new() };
        Answer::Events(Events { events: seqs.iter().map(event).collect(), through, last })
    }

    #[test]
    fn what_to_go_on_after_is_what_was_handed_out() {
        let mut feed = Feed::begun(None, answer(&[], 7, false)).unwrap();
        assert_eq!((feed.seq(), feed.next().is_none()), (7, true));
        feed.take(answer(&[9, 12], 15, false)).unwrap();
        assert_eq!(feed.seq(), 7, "nothing was handed out yet");
        assert_eq!((feed.next().unwrap().seq, feed.seq()), (9, 9));
        assert_eq!((feed.next().unwrap().seq, feed.seq()), (12, 15));
        feed.take(answer(&[16], 16, true)).unwrap();
        assert!(feed.is_over());
        assert_eq!((feed.next().unwrap().seq, feed.seq()), (16, 16));
        // With events in the first answer: not one of them counts before it was handed out.
        assert_eq!(Feed::begun(None, answer(&[4, 5], 5, false)).unwrap().seq(), 3);
        assert_eq!(Feed::begun(Some(1), answer(&[4, 5], 5, false)).unwrap().seq(), 1);
    }

    #[test]
    fn what_does_not_grow_or_is_no_event_is_the_end() {
        let failure = Answer::Error(Failure::new(ErrorCode::NotPermitted, "no"));
        for bad in [answer(&[9, 8], 9, false), answer(&[9], 8, false), answer(&[7], 9, false), failure] {
            let mut feed = Feed::begun(None, answer(&[], 7, false)).unwrap();
            assert!(feed.take(bad).is_err());
            assert!(feed.is_over());
        }
        assert!(Feed::begun(None, Answer::Json(String::new())).is_err());
    }
}
