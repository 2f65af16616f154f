//! Events, one after the other, on a connection of their own.

use std::time::Duration;

use super::connection::{Connection, Deadline, Unsent};
use crate::client::feed::Feed;
use crate::client::message::{Outgoing, Question};
use crate::client::{Broken, ClientError, socket};
use crate::protocol::message::{self as wire, Event};

/// The number of the one request on the connection.
const REQUEST: u32 = 1;
/// As good as for ever: nothing may happen for years.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Changes as they are made. Waits for the next for as long as it takes; ends with the connection.
///
/// Whoever wants to go on after that asks anew, with [`Self::seq`]: nothing is missed, and nothing comes twice.
///
/// ```no_run
/// use bearerd::client::blocking::Client;
///
/// let client = Client::connect_default()?;
/// let mut events = client.watch(None)?;
/// while let Some(event) = events.next().transpose()? {
///     println!("{}", event.json);
/// }
/// let go_on = client.watch(Some(events.seq()))?;
/// # let _ = go_on;
/// # Ok::<(), bearerd::client::ClientError>(())
/// ```
pub struct Watch {
    connection: Connection,
    feed: Feed,
}

impl Watch {
    /// Asks on a new connection and waits for the first answer, which comes at once.
    pub(super) fn begin(mut connection: Connection, since: Option<u64>, deadline: Deadline) -> Result<Self, Broken> {
        let body = Question::Watch(&wire::Watch { since });
        connection.output.push(&Outgoing { id: REQUEST, body }, false);
        match connection.send_all(deadline) {
            Ok(()) => {}
            Err(Unsent::Late(broken)) => return Err(broken),
            Err(Unsent::Closed { begun, source }) => return Err(connection.turned_away(begun, source)),
        }
        let feed = Feed::begun(since, answer(&mut connection, deadline)?).map_err(Broken::Final)?;
        Ok(Self { connection, feed })
    }

    /// The number to go on after: of the newest event that was handed out, or what the daemon said of those that are not
    /// for this peer.
    pub const fn seq(&self) -> u64 {
        self.feed.seq()
    }
}

impl Iterator for Watch {
    type Item = Result<Event, ClientError>;

    /// The next event; `None` when the daemon has cut the stream off (the event before it is a gap), and after an error.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.feed.next() {
                return Some(Ok(event));
            }
            if self.feed.is_over() {
                return None;
            }
            let come = answer(&mut self.connection, Deadline::after(FOR_EVER)).map_err(ClientError::from);
            if let Err(error) = come.and_then(|answer| self.feed.take(answer)) {
                self.feed.end();
                return Some(Err(error));
            }
        }
    }
}

fn answer(connection: &mut Connection, deadline: Deadline) -> Result<wire::Answer, Broken> {
    let (id, answer) = socket::reply(connection.next_frame(deadline)?)?;
    connection.input.consume();
    match id {
        REQUEST => Ok(answer),
        _ => Err(Broken::Final(ClientError::Protocol("a reply has a number that was not asked"))),
    }
}
