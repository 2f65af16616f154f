//! `bearerctl import`: lines of a file to the daemon, in batches, and a report of what became of each.
//!
//! Invariants: a text is only in the buffer it was read into and the one it is sent from, both wiped (I3); what is known of
//! each line is told also when the import breaks off, and where it broke off, so that nothing is half done unseen. It may
//! be run again: what was taken is there already.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

use crate::codec;
use crate::ctl::args::ImportArgs;
use crate::ctl::console::Console;
use crate::ctl::daemon::{Daemon, Patience};
use crate::ctl::entry::{Entry, LineError};
use crate::ctl::error::{self, CtlError};
use crate::ctl::lines::Lines;
use crate::ctl::render::import::Report;
use crate::ctl::{Connect, render};
use crate::protocol::message::{ImportEntry, ImportOutcome};
use crate::protocol::{BATCH_MAX, NAME_MAX, REQUEST_MAX};

/// Bytes of a batch's entries: the rest of the frame is the request's number, what is asked, and how many there are.
const BATCH_BYTES_MAX: usize = REQUEST_MAX - 64;

/// Whoever may read the file may use the tokens in it.
const OTHERS_READ: u32 = 0o004;

pub(in crate::ctl) fn run(args: ImportArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let (path, prefix, dry_run) = (args.file.clone(), args.name_prefix.clone(), args.dry_run);
    let defaults = args.defaults()?;
    // A line's number takes up to twenty characters.
    if prefix.len() + 21 > NAME_MAX {
        return Err(CtlError::Usage(format!("--name-prefix is too long: at most {} bytes", NAME_MAX - 21)));
    }
    let source = Source::open(&path, console)?;
    let name = source.name.clone();
    let unreadable = |source| CtlError::Read { path: name.clone().into(), source };
    let bar = source.progress(console);
    let mut lines = Lines::new(source.input);
    let mut batch = Batch { daemon: None, connect, entries: Vec::new(), bytes: 0, dry_run };
    let mut report = Report::new(dry_run);
    let outcome = loop {
        let position = lines.position();
        let line = match lines.next() {
            Ok(Some(line)) => line,
            Ok(None) => break batch.send(&mut report),
            Err(error) => break batch.send(&mut report).and_then(|()| Err(unreadable(error))),
        };
        let number = line.number;
        let entry = line.content.ok_or(LineError::TooLong);
        match entry.and_then(|content| Entry::of_line(content, number, &prefix, &defaults)) {
            Ok(None) => {}
            Ok(Some(entry)) => {
                if let Err(error) = batch.add(number, entry, &mut report) {
                    break Err(error);
                }
            }
            Err(error) => report.refused(number, error.to_string()),
        }
        if let Some(bar) = &bar {
            bar.set_position(position);
        }
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if outcome.is_ok() && report.is_empty() {
        return Err(CtlError::NoToken(name));
    }
    report.sort();
    // Where nothing at all was done there is only the error to tell.
    if outcome.is_ok() || !report.is_empty() {
        report.unfinished = outcome.is_err().then(|| batch.first_unsent()).flatten();
        if console.json {
            console.plain(&render::import::json(&report))?;
        } else if !console.quiet {
            console.print(&render::import::text(&report))?;
        }
    }
    outcome?;
    Ok(if report.refused.is_empty() { error::OK } else { error::BAD_DATA })
}

/// Where the lines come from.
struct Source {
    input: Box<dyn Read>,
    name: String,
    /// Bytes, where that is known.
    length: Option<u64>,
}

impl Source {
    fn open(path: &Path, console: &mut Console) -> Result<Self, CtlError> {
        if path == Path::new("-") {
            let unreadable = |source| CtlError::Read { path: "standard input".into(), source };
            // Past std's own buffer, which is not wiped.
            let input = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(unreadable)?);
            return Ok(Self { input: Box::new(input), name: "standard input".to_owned(), length: None });
        }
        let unreadable = |source| CtlError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let found = file.metadata().map_err(unreadable)?;
        if found.is_file() && found.permissions().mode() & OTHERS_READ != 0 {
            let shown = path.display();
            console.note(&format!(
                "bearerctl: {shown} holds tokens and every user of this host can read it: chmod 600 {shown}, or remove it after the import\n"
            ));
        }
        let length = found.is_file().then_some(found.len());
        Ok(Self { input: Box::new(file), name: path.display().to_string(), length })
    }

    fn progress(&self, console: &Console) -> Option<ProgressBar> {
        let length = self.length.filter(|_| console.watched && !console.quiet)?;
        let style = ProgressStyle::with_template("{bar:40} {percent}% of {total_bytes}, {eta} to go");
        Some(ProgressBar::new(length).with_style(style.expect("a template of known keys")))
    }
}

/// Lines that are on their way to the daemon.
struct Batch<'a> {
    /// Connected to when there is something to send.
    daemon: Option<Box<dyn Daemon>>,
    connect: Connect<'a>,
    entries: Vec<(u64, Entry)>,
    bytes: usize,
    dry_run: bool,
}

impl Batch<'_> {
    /// Adds a line; sends what there is before, if it would not go with it.
    fn add(&mut self, number: u64, entry: Entry, report: &mut Report) -> Result<(), CtlError> {
        if self.dry_run {
            report.would_take();
            return Ok(());
        }
        let bytes = codec::encoded_len(&entry.wire());
        if bytes > BATCH_BYTES_MAX {
            report.refused(number, LineError::TooLong.to_string());
            return Ok(());
        }
        let full = self.entries.len() == BATCH_MAX || self.bytes + bytes > BATCH_BYTES_MAX;
        let sent = if full { self.send(report) } else { Ok(()) };
        self.bytes += bytes;
        self.entries.push((number, entry));
        sent
    }

    /// Sends all. When it fails they stay, so that it can be told where it broke off.
    fn send(&mut self, report: &mut Report) -> Result<(), CtlError> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let daemon = match &mut self.daemon {
            Some(daemon) => daemon,
            none => none.insert((self.connect)(Patience::Usual)?),
        };
        let wire: Vec<ImportEntry<'_>> = self.entries.iter().map(|(_, entry)| entry.wire()).collect();
        let outcomes = daemon.import(&wire)?;
        for ((number, _), outcome) in self.entries.drain(..).zip(outcomes) {
            match outcome {
                ImportOutcome::Taken(id) => report.taken(number, id),
                ImportOutcome::Already(id) => report.already(number, id),
                ImportOutcome::Refused(why) => report.refused(number, why),
            }
        }
        self.bytes = 0;
        Ok(())
    }

    fn first_unsent(&self) -> Option<u64> {
        self.entries.first().map(|(number, _)| *number)
    }
}
