//! Events, one after the other, on a connection of their own.

use std::future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use crate::client::feed::Feed;
use crate::client::link::{Greeted, Wire};
use crate::client::message::{Outgoing, Question};
use crate::client::{Broken, ClientError, socket};
use crate::protocol::message::{self as wire, Event};

/// The number of the one request on the connection.
const REQUEST: u32 = 1;

/// Changes as they are made: a [`Stream`], which ends with the connection.
///
/// Whoever wants to go on after that asks anew, with [`Self::seq`]: nothing is missed, and nothing comes twice. Dropping a
/// future of [`Self::next`] loses nothing.
pub struct Watch {
    wire: Wire,
    feed: Feed,
}

impl Watch {
    /// Asks on a new connection and waits for the first answer, which comes at once.
    pub(super) async fn begin(greeted: Greeted, since: Option<u64>) -> Result<Self, Broken> {
        let Greeted { mut wire, .. } = greeted;
        let body = Question::Watch(&wire::Watch { since });
        wire.output.push(&Outgoing { id: REQUEST, body }, false);
        // Whoever ended the connection may have said why: that is read first.
        let written = future::poll_fn(|cx| wire.poll_write(cx)).await;
        let answer = future::poll_fn(|cx| poll_answer(&mut wire, cx)).await;
        let answer = match (answer, written) {
            (Err(Broken::NoReply(None)), Err(error)) => Err(Broken::NoReply(Some(error))),
            (answer, _) => answer,
        };
        let feed = Feed::begun(since, answer?).map_err(Broken::Final)?;
        Ok(Self { wire, feed })
    }

    /// The number to go on after: of the newest event that was handed out, or what the daemon said of those that are not
    /// for this peer.
    pub const fn seq(&self) -> u64 {
        self.feed.seq()
    }

    /// The next event; `None` when the daemon has cut the stream off (the event before it is a gap), and after an error.
    pub async fn next(&mut self) -> Option<Result<Event, ClientError>> {
        future::poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, ClientError>>> {
        loop {
            if let Some(event) = self.feed.next() {
                return Poll::Ready(Some(Ok(event)));
            }
            if self.feed.is_over() {
                return Poll::Ready(None);
            }
            let come = ready!(poll_answer(&mut self.wire, cx)).map_err(ClientError::from);
            if let Err(error) = come.and_then(|answer| self.feed.take(answer)) {
                self.feed.end();
                return Poll::Ready(Some(Err(error)));
            }
        }
    }
}

impl Stream for Watch {
    type Item = Result<Event, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_event(cx)
    }
}

fn poll_answer(wire: &mut Wire, cx: &mut Context<'_>) -> Poll<Result<wire::Answer, Broken>> {
    if !ready!(wire.poll_frame(cx))? {
        return Poll::Ready(Err(Broken::NoReply(None)));
    }
    let reply = socket::reply(wire.frame());
    wire.consume();
    Poll::Ready(match reply? {
        (REQUEST, answer) => Ok(answer),
        _ => Err(Broken::Final(ClientError::Protocol("a reply has a number that was not asked"))),
    })
}
