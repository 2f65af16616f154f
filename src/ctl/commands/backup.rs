//! `bearerctl backup`: the daemon, which may write nowhere else, hands the pieces over; the file is written here.
//!
//! Invariant: under its name there is a whole backup or what was there before. It is written beside it, synced, and gets
//! its name last.

use std::fs::{self, File, Permissions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use tempfile::NamedTempFile;

use crate::ctl::Connect;
use crate::ctl::args::BackupArgs;
use crate::ctl::console::Console;
use crate::ctl::daemon::{Daemon, Patience};
use crate::ctl::error::{self, CtlError};
use crate::ctl::render::style::clean;
use crate::protocol::message::{BackupAsk, BackupPiece};

/// Mode of the file: without the key it shows how many tokens there are, and nothing else; but it is nobody's business.
const MODE: u32 = 0o600;

/// What was handed over.
struct Done {
    bytes: u64,
    rows: u64,
    generation: u64,
}

pub(in crate::ctl) fn run(args: &BackupArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let to_stdout = args.file.as_os_str() == "-";
    let mut out = if to_stdout { None } else { Some(Unfinished::beside(&args.file, args.force)?) };
    if to_stdout && io::stdout().is_terminal() {
        return Err(CtlError::Usage("a backup is no text for a terminal: name a file, or pipe it on".to_owned()));
    }
    let mut daemon = connect(Patience::Search)?;
    let bar = bar(console);
    let copied = copy(&mut *daemon, &bar, &mut |bytes| match &mut out {
        Some(file) => file.write(bytes),
        None => console.raw(bytes).map_err(CtlError::Output),
    });
    bar.finish_and_clear();
    let done = copied?;
    if let Some(file) = out {
        file.finish()?;
    }
    if to_stdout {
        return Ok(error::OK);
    }
    if console.json {
        let object = serde_json::json!({
            "file": args.file.display().to_string(), "bytes": done.bytes, "rows": done.rows, "generation": done.generation,
        });
        console.plain(&format!("{object}\n"))?;
    } else {
        let path = args.file.display().to_string();
        let path = clean(&path);
        console.note(&format!("{path}: {} rows, {} bytes, up to change {}\n", done.rows, done.bytes, done.generation));
    }
    Ok(error::OK)
}

/// Asks for piece after piece.
fn copy(
    daemon: &mut dyn Daemon,
    bar: &ProgressBar,
    write: &mut dyn FnMut(&[u8]) -> Result<(), CtlError>,
) -> Result<Done, CtlError> {
    let mut done = Done { bytes: 0, rows: 0, generation: 0 };
    let mut after = None;
    loop {
        let BackupPiece { bytes, next, generation, rows, rows_total } = daemon.backup(BackupAsk { after })?;
        write(&bytes)?;
        done = Done { bytes: done.bytes + bytes.len() as u64, rows, generation };
        bar.set_length(rows_total);
        bar.set_position(rows);
        match next {
            None => return Ok(done),
            Some(next) if next == done.bytes && !bytes.is_empty() => after = Some(next),
            Some(_) => {
                return Err(CtlError::Protocol(
                    "the daemon's pieces of the backup do not fit together; ask its administrator".to_owned(),
                ));
            }
        }
    }
}

/// Shown where somebody looks, and only when it takes a moment.
fn bar(console: &Console) -> ProgressBar {
    if !console.watched || console.quiet || console.json {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} rows, {elapsed}");
    ProgressBar::new(0).with_style(style.expect("a template of known keys"))
}

/// The file on its way: beside its place, under a name of its own, which goes when it is given up.
struct Unfinished {
    file: NamedTempFile,
    path: PathBuf,
    force: bool,
}

impl Unfinished {
    fn beside(path: &Path, force: bool) -> Result<Self, CtlError> {
        let failed = |source| CtlError::Write { path: path.to_owned(), source };
        let Some(name) = path.file_name() else {
            return Err(CtlError::Usage("no file name: name the file to write".to_owned()));
        };
        match fs::symlink_metadata(path) {
            Ok(there) if !there.is_file() => {
                return Err(CtlError::Usage(format!("{} is no regular file: name another", path.display())));
            }
            Ok(_) if !force => return Err(CtlError::Exists { path: path.to_owned() }),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".part-");
        let file = tempfile::Builder::new()
            .prefix(&hidden)
            .permissions(Permissions::from_mode(MODE))
            .tempfile_in(directory(path))
            .map_err(failed)?;
        Ok(Self { file, path: path.to_owned(), force })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CtlError> {
        self.file.write_all(bytes).map_err(|source| CtlError::Write { path: self.path.clone(), source })
    }

    fn finish(self) -> Result<(), CtlError> {
        let Self { file, path, force } = self;
        let failed = |source| CtlError::Write { path: path.clone(), source };
        file.as_file().sync_all().map_err(failed)?;
        let named = if force { file.persist(&path) } else { file.persist_noclobber(&path) };
        named.map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => CtlError::Exists { path: path.clone() },
            _ => failed(error.error),
        })?;
        // The name, too, must survive a power cut.
        File::open(directory(&path)).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
