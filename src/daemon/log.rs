//! The daemon's own log: stderr, which the service manager takes to the journal. Never a secret, never a peer's text.

use std::io::{IsTerminal, Write};

use tracing::{Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::sys::panics;

/// One line an event: for the journal with its priority (sd-daemon(3)), for a person with the program's name.
struct Line {
    for_journal: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        let level = *event.metadata().level();
        if self.for_journal {
            let priority = match level {
                Level::ERROR => 3,
                Level::WARN => 4,
                Level::INFO => 6,
                _ => 7,
            };
            write!(out, "<{priority}>")?;
        } else {
            let word = match level {
                Level::ERROR => "error: ",
                Level::WARN => "warning: ",
                _ => "",
            };
            write!(out, "bearerd: {word}")?;
        }
        ctx.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

struct Stderr;

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Lossy;

    fn make_writer(&'a self) -> Lossy {
        Lossy
    }
}

/// A stderr that is closed or full must not stop the daemon.
struct Lossy;

impl Write for Lossy {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = std::io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Sets the log up, once. A panic is logged by place only: its message might hold what a peer sent.
pub fn start(level: Level) {
    let for_journal = std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .event_format(Line { for_journal })
        .with_writer(Stderr)
        .init();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "?".to_owned(), ToString::to_string);
        if panics::is_awaited() {
            // Whoever catches it says what it means.
            tracing::debug!("damaged data was met at {place}");
        } else {
            tracing::error!("a task of bearerd failed at {place}; this is a bug: please report it");
        }
    }));
}
