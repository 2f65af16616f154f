//! Reads the configuration files: who may have written them, their size, their grammar; then the drop-ins.
//!
//! Who can write policy can grant himself anything, so the files must belong to root or to the daemon's user and nobody
//! else may write them, nor the directories that they are picked up from.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;

use super::partial::{Absorb, FileTable, Spot};
use super::{Config, Mode, Paths, Place, Problem, check};

/// Largest configuration file, in bytes: far above any real one, far below what would hurt.
const FILE_MAX: u64 = 4 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file or directory can't be read. Look at the path and at who may read it.
    #[error("can't read the configuration {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else could have written it; refused (exit status 77). The message says what to change.
    #[error("{} {what}; {todo}", path.display())]
    Unsafe {
        /// Which file or directory.
        path: PathBuf,
        /// What is wrong with its owner or mode.
        what: String,
        /// What to do.
        todo: String,
    },
    /// It is not TOML, has an unknown key, a wrong type or a value that can't be. One line for each problem.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
    /// `--user` needs a variable of the environment that is not set.
    #[error("{0}")]
    Environment(String),
}

impl ConfigError {
    /// Whether it is a refusal over owner or mode (exit status 77) and not an error in the text (78).
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Unsafe { .. })
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// The files that were read, to tell a place by.
#[derive(Default)]
pub(super) struct Sources(Vec<(Arc<Path>, String)>);

impl Sources {
    pub(super) fn place(&self, spot: Spot) -> Place {
        let (file, text) = &self.0[spot.file];
        Place { file: Arc::clone(file), line: line_of(text, spot.offset) }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|&&byte| byte == b'\n').count()
}

pub(super) fn load(paths: &Paths, file: Option<&Path>) -> Result<Config, ConfigError> {
    let main = match file {
        // `--config bearerd.toml` is relative to where it was typed.
        Some(file) => std::path::absolute(file).map_err(|source| read_error(file, source))?,
        None => paths.config.clone(),
    };
    let mut sources = Sources::default();
    let mut merged = FileTable::default();
    match open(&main) {
        Ok(opened) => {
            if let Some(parent) = main.parent() {
                check_directory(parent, paths)?;
            }
            absorb(&mut merged, &mut sources, &main, opened, paths)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => {}
        Err(source) => return Err(read_error(&main, source)),
    }
    for path in drop_ins(&Paths::drop_ins(&main), paths)? {
        let opened = open(&path).map_err(|source| read_error(&path, source))?;
        absorb(&mut merged, &mut sources, &path, opened, paths)?;
    }
    check::finish(merged, &sources, paths)
}

fn read_error(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::Read { path: path.to_owned(), source }
}

/// The `*.toml` files of a directory, in the order of their names; none when there is no directory.
fn drop_ins(directory: &Path, paths: &Paths) -> Result<Vec<PathBuf>, ConfigError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(read_error(directory, source)),
    };
    check_directory(directory, paths)?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| read_error(directory, source))?.path();
        // As everywhere in /etc: an editor's backups and hidden files do not count.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Opens without waiting for the other end of a fifo.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits()).open(path)
}

fn absorb(
    merged: &mut FileTable,
    sources: &mut Sources,
    path: &Path,
    mut file: File,
    paths: &Paths,
) -> Result<(), ConfigError> {
    let failed = |source| read_error(path, source);
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    check_writers(path, &metadata, paths)?;
    if metadata.len() > FILE_MAX {
        return Err(failed(io::Error::other("it is larger than 4 MiB")));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    let name: Arc<Path> = Arc::from(path);
    let invalid = |line, text: String| {
        ConfigError::Invalid(vec![Problem { place: Some(Place { file: Arc::clone(&name), line }), text }])
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        invalid(1 + before.iter().filter(|&&byte| byte == b'\n').count(), "it is not UTF-8 text".to_owned())
    })?;
    let table: FileTable = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(&text, span.start));
        // The administrator's word is "key"; the list of what is allowed follows in the message.
        invalid(line, error.message().replace("unknown field", "unknown key").replace("missing field", "missing key"))
    })?;
    merged.absorb(table, sources.0.len());
    sources.0.push((name, text));
    Ok(())
}

/// Others may not write a file, nor own it.
fn check_writers(path: &Path, metadata: &Metadata, paths: &Paths) -> Result<(), ConfigError> {
    let refuse = |what: String, todo: String| Err(ConfigError::Unsafe { path: path.to_owned(), what, todo });
    let owner = metadata.uid();
    if owner != 0 && owner != paths.uid {
        return refuse(
            format!(
                "belongs to uid {owner}, who could grant himself anything; it must belong to root or to uid {}",
                paths.uid
            ),
            format!("chown root {}", path.display()),
        );
    }
    // Many users' umask leaves their files writable by a group of their own.
    let own_group = paths.mode == Mode::User && metadata.gid() == paths.gid;
    let writers = if own_group { 0o002 } else { 0o022 };
    if metadata.mode() & writers != 0 {
        return refuse(
            format!("has mode {:04o}: others may write it, and so grant themselves anything", metadata.mode() & 0o7777),
            format!("chmod go-w {}", path.display()),
        );
    }
    Ok(())
}

/// The same for a directory that files are picked up from; a sticky one (`/tmp`) keeps its files to their owners.
fn check_directory(path: &Path, paths: &Paths) -> Result<(), ConfigError> {
    let metadata = fs::metadata(path).map_err(|source| read_error(path, source))?;
    if metadata.mode() & 0o1000 != 0 && metadata.uid() == 0 {
        return Ok(());
    }
    check_writers(path, &metadata, paths)
}
