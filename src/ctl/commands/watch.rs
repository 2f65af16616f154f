//! `bearerctl watch`: a line for each event, over restarts of the daemon.
//!
//! Invariant: each event is printed once. The number to go on after is that of the newest line that was written, or passed
//! over by a filter; every new connection begins there.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::ctl::Connect;
use crate::ctl::args::WatchArgs;
use crate::ctl::console::Console;
use crate::ctl::daemon::{Events, Patience};
use crate::ctl::error::{self, CtlError};
use crate::protocol::message::Event;
use crate::token::ID_CHARS;

/// Pauses between looks whether the daemon is back: a restart takes a moment, a repair takes as long as it takes.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

pub(in crate::ctl) fn run(args: &WatchArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    // A daemon that was never there is an error; one that goes away is waited for.
    let mut events = connect(Patience::Usual)?.watch(args.since)?;
    let mut left = args.limit.map(u64::from);
    loop {
        let ended = match events.next() {
            Some(Ok(event)) => {
                if wanted(args, &event)? {
                    console.plain(&format!("{}\n", event.json))?;
                    left = left.map(|left| left - 1);
                }
                if console.deserted || left == Some(0) {
                    return Ok(error::OK);
                }
                continue;
            }
            Some(Err(error)) if !goes_away(&error) => return Err(error),
            Some(Err(_)) => Ended::Gone,
            None => Ended::CutOff,
        };
        let since = events.seq();
        if ended == Ended::Gone {
            console
                .note(&format!("bearerctl: the connection to bearerd ended; going on after {since} once it is back\n"));
        }
        events = reconnect(connect, since)?;
    }
}

/// Why a stream is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The daemon, or the way to it, is not there.
    Gone,
    /// We read too slowly, and were told so by a gap.
    CutOff,
}

fn goes_away(error: &CtlError) -> bool {
    matches!(error.status(), error::UNREACHABLE | error::TRY_AGAIN)
}

/// Waits for the daemon for as long as it takes: it loses nothing meanwhile.
fn reconnect(connect: Connect<'_>, since: u64) -> Result<Box<dyn Events>, CtlError> {
    let mut pause = PAUSE;
    loop {
        match connect(Patience::Usual).and_then(|mut daemon| daemon.watch(Some(since))) {
            Ok(events) => return Ok(events),
            Err(error) if !goes_away(&error) => return Err(error),
            Err(_) => thread::sleep(pause),
        }
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

/// Whether the filters let it through. A gap always is: what was asked for may be in it.
fn wanted(args: &WatchArgs, event: &Event) -> Result<bool, CtlError> {
    if event.gap || args.events.is_empty() && args.token.is_none() && args.subject.is_none() {
        return Ok(true);
    }
    let fields = super::object(&event.json)?;
    let text = |key: &str| fields.get(key).and_then(Value::as_str);
    let of_token = |handle: &str| {
        let id = handle.split_once('_').map_or(handle, |(_, id)| id);
        text("id").is_some_and(|of| if id.len() == ID_CHARS { of == id } else { of.starts_with(id) })
    };
    let of_event = |wanted: &String| text("event") == Some(wanted);
    Ok((args.events.is_empty() || args.events.iter().any(of_event))
        && args.token.as_ref().is_none_or(|handle| of_token(&handle.0))
        && args.subject.as_deref().is_none_or(|subject| text("subject") == Some(subject)))
}
