//! What is restored, and what is there.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::is_unreadable;
use crate::daemon::exit::Failure;
use crate::daemon::open::store_failure;
use crate::registry::replay::Replay;
use crate::store::backup::{Backup, Input};
use crate::store::{FileOptions, StoreError, StoreFile};
use crate::sys::files::{self, Access, FileError};
use crate::vault::{KeyHeader, KeySource, Keyring};

/// What a store's file begins with.
const STORE_MAGIC: &[u8; 4] = b"redb";

/// Opens what was named, of whatever owner: what is in it is authenticated.
pub(super) fn open_given(path: &Path) -> Result<(PathBuf, File), Failure> {
    let failed = |source| Failure::BackupFile { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    // It is read twice.
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a regular file")));
    }
    Ok((path.to_owned(), file))
}

/// The store that is there; its lock is held for as long as this lives.
pub(super) struct Present {
    path: PathBuf,
    found: Result<(StoreFile, KeyHeader), String>,
}

impl Present {
    /// `None` when there is none.
    ///
    /// # Errors
    /// When a daemon has it open; when owner or mode are wrong. That it is damaged is none.
    pub(super) fn look(path: &Path, uid: u32, options: FileOptions) -> Result<Option<Self>, Failure> {
        let file = match files::open_private(path, Access::ReadWrite, uid) {
            Ok(file) => file,
            Err(FileError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let found = match StoreFile::from_file(file, options) {
            Ok(store) => match store.header().map(KeyHeader::decode) {
                Some(Ok(header)) => Ok((store, header)),
                Some(Err(error)) => Err(error.to_string()),
                None => Err("it is empty".to_owned()),
            },
            Err(error @ StoreError::AlreadyOpen) => return Err(store_failure(path)(error)),
            Err(error) => Err(error.to_string()),
        };
        Ok(Some(Self { path: path.to_owned(), found }))
    }

    /// Its keys' header, if it can be read.
    pub(super) fn header(&self) -> Option<&KeyHeader> {
        self.found.as_ref().ok().map(|(_, header)| header)
    }

    /// Why it can't be read.
    pub(super) fn unreadable(&self) -> Option<&str> {
        self.found.as_ref().err().map(String::as_str)
    }

    /// If it is the same store, and newer than the backup: what it knows as ended. Gives its newest generation. What can't
    /// be read of it is not known; it is no reason to refuse a backup.
    pub(super) fn learn(&self, header: &KeyHeader, key: &KeySource, backup: u64, replay: &mut Replay) -> Option<u64> {
        let (store, own) = self.found.as_ref().ok().filter(|(_, own)| own.store_id == header.store_id)?;
        let keyring = Keyring::unlock(own, key).ok()?;
        let generation = store.boot(&keyring).ok()?.generation;
        if generation > backup {
            let mut input = Input::store(store.snapshot(&keyring, keyring.backup_mac()).ok()?);
            let whole = Backup::begin(&mut input).ok()?;
            let learn = &mut |record| replay.learn_record(&record);
            // As far as it goes.
            let _ = whole.check(&mut input, &keyring, keyring.backup_mac(), learn);
        }
        Some(generation)
    }
}

/// What is restored.
pub(super) struct Source {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    Backup(File),
    /// A copy of a store, taken while no daemon ran.
    Copy(StoreFile),
    /// The store that is there.
    Present,
}

impl Source {
    /// # Errors
    /// When it is neither a backup nor a store, or can't be read.
    pub(super) fn of(
        given: Option<(PathBuf, File)>,
        present: Option<&Present>,
        store: &Path,
        options: FileOptions,
    ) -> Result<Self, Failure> {
        let Some((path, mut file)) = given.filter(|(_, file)| !is_same(file, store)) else {
            let path = store.to_owned();
            return match present {
                None => Err(FileError::Missing { path }.into()),
                Some(_) => Ok(Self { path, kind: Kind::Present }),
            };
        };
        let mut magic = Vec::new();
        let begun = (&mut file).take(4).read_to_end(&mut magic).and_then(|_| file.rewind());
        begun.map_err(|source| Failure::BackupFile { path: path.clone(), source })?;
        if magic != STORE_MAGIC {
            return Ok(Self { path, kind: Kind::Backup(file) });
        }
        // Every page: there is no MAC over a store.
        let opened = StoreFile::from_file(file, FileOptions { check: true, ..options });
        let source = Self { path, kind: Kind::Present };
        Ok(Self { kind: Kind::Copy(opened.map_err(|error| source.failed(error))?), ..source })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_present(&self) -> bool {
        matches!(self.kind, Kind::Present)
    }

    /// The header with its key slots.
    pub(super) fn header(&self, present: Option<&Present>) -> Result<Vec<u8>, Failure> {
        match &self.kind {
            Kind::Backup(_) => {
                let backup = Backup::begin(&mut self.file_input()?).map_err(|error| self.failed(error))?;
                Ok(backup.head().header.clone())
            }
            Kind::Copy(store) => store.header().map(<[u8]>::to_vec).ok_or_else(|| self.failed(StoreError::Empty)),
            Kind::Present => self.present(present).map(|(_, header)| header.encode()),
        }
    }

    /// It, from its beginning.
    pub(super) fn input(&self, present: Option<&Present>, keyring: &Keyring) -> Result<Input, Failure> {
        let of = |store: &StoreFile| {
            let snapshot = store.snapshot(keyring, keyring.backup_mac());
            snapshot.map(Input::store).map_err(|error| self.failed(error))
        };
        match &self.kind {
            Kind::Backup(_) => self.file_input(),
            Kind::Copy(store) => of(store),
            Kind::Present => of(&self.present(present)?.0),
        }
    }

    fn file_input(&self) -> Result<Input, Failure> {
        let Kind::Backup(file) = &self.kind else { unreachable!("asked of a backup only") };
        let failed = |source| Failure::BackupFile { path: self.path.clone(), source };
        let mut file = file.try_clone().map_err(failed)?;
        file.rewind().map_err(failed)?;
        Ok(Input::file(file))
    }

    fn present<'a>(&self, present: Option<&'a Present>) -> Result<&'a (StoreFile, KeyHeader), Failure> {
        let present = present.ok_or_else(|| FileError::Missing { path: self.path.clone() })?;
        present.found.as_ref().map_err(|why| {
            let what = format!("can't be read: {why}");
            Failure::BadBackup { path: present.path.clone(), source: StoreError::BadBackup { what: what.into() } }
        })
    }

    /// What is wrong with it.
    pub(super) fn failed(&self, error: StoreError) -> Failure {
        let path = self.path.clone();
        match error {
            error @ StoreError::AlreadyOpen => Failure::Store { path, source: error },
            error if is_unreadable(&error) => Failure::Store { path, source: error },
            error => Failure::BadBackup { path, source: error },
        }
    }

    /// The same, in words.
    pub(super) fn bad(&self, what: &str) -> Failure {
        self.failed(StoreError::BadBackup { what: what.into() })
    }

    /// What went wrong when it was read and a new store written.
    pub(super) fn failed_writing(&self, new: &Path, error: StoreError) -> Failure {
        match error {
            error @ (StoreError::BadBackup { .. } | StoreError::BackupUnread(_)) => self.failed(error),
            error => store_failure(new)(error),
        }
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    let ids = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata().map(ids), std::fs::metadata(path).map(ids)), (Ok(one), Ok(other)) if one == other)
}
