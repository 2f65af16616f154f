//! Where the daemon's key comes from: the systemd credential, or the key file.
//!
//! Either way it is one line of text, with an id that is derived from the key, so that a mistyped key is found before it
//! is tried on a store:
//!
//! ```text
//! bearerd-key-1 <id, 16 hex digits> <key, 64 hex digits>\n
//! ```
//!
//! Lower case, one space between, the line feed may be missing, nothing may follow. `id` is the first 8 bytes of BLAKE3
//! `derive_key("bearerd 2026-11-23 id of a source key", key)`.
//!
//! Invariant: the key is only ever in locked memory, and a key file is never overwritten: a new key takes its name, and
//! only when the store has a slot for it (`slots`). Until then it lies beside it, as `<name>.new`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::VaultError;
use super::derive::{KEY_ID, derive_onto};
use super::header::{KeyId, SlotKind};
use crate::sys::files::{self, Access, FileError, Owner};
use crate::sys::memory::{Locked, LockedKey};
use crate::token::random;

/// The name of the systemd credential.
pub const CREDENTIAL: &str = "bearerd.master-key";

/// What every key line begins with; the version follows.
const MAGIC: &[u8] = b"bearerd-key-";
/// The one version, with the space behind it.
const VERSION: &[u8] = b"1 ";
const ID_AT: usize = MAGIC.len() + VERSION.len();
const KEY_AT: usize = ID_AT + 16 + 1;
/// Bytes of the line, without its line feed.
const LINE_BYTES: usize = KEY_AT + 64;
/// Bytes of the whole file.
const FILE_BYTES: usize = LINE_BYTES + 1;

/// Credentials that systemd hands to a service with `User=` belong to root and are readable by an ACL, whose mask shows
/// as group bits: 0440. One that was put there by hand may also be writable by its owner.
const CREDENTIAL_MODE: u32 = 0o640;

/// A key that opens a slot, and where it is from. No `Debug`.
pub struct KeySource {
    kind: SlotKind,
    id: KeyId,
    origin: String,
    key: LockedKey,
}

impl KeySource {
    /// The credential if there is one, else the key file.
    ///
    /// The credential goes first even if it opens nothing: falling back in silence would hide that the key which the
    /// administrator installed is not in force.
    ///
    /// # Errors
    /// [`VaultError::NoSource`] when there is neither, and those of the two below.
    pub fn find(credentials: Option<&Path>, file: &Path, owner_uid: u32) -> Result<Self, VaultError> {
        let credential = credentials.map(Self::from_credential).transpose()?.flatten();
        match credential {
            Some(source) => Ok(source),
            None => Self::from_file(file, owner_uid)?.ok_or_else(|| VaultError::NoSource { file: file.to_owned() }),
        }
    }

    /// The credential [`CREDENTIAL`] in `$CREDENTIALS_DIRECTORY`; `None` when it was not given to us.
    ///
    /// # Errors
    /// [`VaultError`] when it is no key, or somebody else may have written it.
    pub fn from_credential(dir: &Path) -> Result<Option<Self>, VaultError> {
        let path = dir.join(CREDENTIAL);
        let owner = Owner::OrRoot(nix::unistd::geteuid().as_raw());
        match files::open_checked(&path, Access::Read, owner, CREDENTIAL_MODE) {
            Ok(file) => Self::read(file, &path, SlotKind::Credential, format!("credential {CREDENTIAL}")).map(Some),
            Err(FileError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The key file; `None` when there is none. It must be private, in a private directory, of `owner_uid` or root.
    ///
    /// # Errors
    /// [`VaultError`] when it is no key, or somebody else may have read or written it.
    pub fn from_file(path: &Path, owner_uid: u32) -> Result<Option<Self>, VaultError> {
        let owner = Owner::OrRoot(owner_uid);
        let opened = check_directory(path, owner).and_then(|()| files::open_private(path, Access::Read, owner));
        match opened {
            Ok(file) => Self::read(file, path, SlotKind::File, path.display().to_string()).map(Some),
            Err(FileError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a new random key and its file, mode 0600, durable, in a private directory that exists. For a new store only.
    ///
    /// # Errors
    /// [`FileError::Exists`] when there is a file of that name: it is left as it is. Others as the system says.
    pub fn create_file(path: &Path) -> Result<Self, VaultError> {
        check_directory(path, Owner::Only(nix::unistd::geteuid().as_raw()))?;
        let key = LockedKey::new(|key| random(key))?;
        let source = Self::of_key(SlotKind::File, path.display().to_string(), key);
        let line = Locked::<FILE_BYTES>::new(|line| source.write_line(line))?;
        files::write_new_private(path, files::PRIVATE_FILE, line.expose())?;
        Ok(source)
    }

    /// A new random key, kept nowhere yet.
    ///
    /// # Errors
    /// [`VaultError::Memory`].
    pub fn random(kind: SlotKind, origin: impl Into<String>) -> Result<Self, VaultError> {
        Ok(Self::of_key(kind, origin.into(), LockedKey::new(|key| random(key))?))
    }

    pub(super) fn of_key(kind: SlotKind, origin: String, key: LockedKey) -> Self {
        Self { kind, id: id_of(&key), origin, key }
    }

    /// The one line that it is as a file or credential, for who is to install it. Wiped when dropped.
    pub fn line(&self) -> Zeroizing<String> {
        let mut line = Zeroizing::new([0; FILE_BYTES]);
        self.write_line(&mut line);
        let text = std::str::from_utf8(&line[..LINE_BYTES]).expect("it is hex digits and ASCII");
        Zeroizing::new(text.to_owned())
    }

    /// Writes this key beside the key file that it is to replace, mode 0600, durable. One that was left there goes.
    ///
    /// A crash may leave a part of it: what lies there counts only once the store has a slot for it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn write_successor(&self, path: &Path) -> Result<(), FileError> {
        let owner = nix::unistd::geteuid().as_raw();
        check_directory(path, Owner::Only(owner))?;
        Self::remove_successor(path)?;
        let path = successor(path);
        let failed = |source| FileError::Io { doing: "write", path: path.clone(), source };
        let line = Locked::<FILE_BYTES>::new(|line| self.write_line(line)).map_err(failed)?;
        let mut file = files::open_private(&path, Access::CreateNew, owner)?;
        file.write_all(line.expose()).and_then(|()| file.sync_all()).map_err(failed)
    }

    /// The key that lies beside the key file; `None` when there is none. Its origin is the file's, whose name it will have.
    ///
    /// # Errors
    /// As [`Self::from_file`].
    pub fn successor(path: &Path, owner_uid: u32) -> Result<Option<Self>, VaultError> {
        let found = Self::from_file(&successor(path), owner_uid)?;
        Ok(found.map(|source| Self { origin: path.display().to_string(), ..source }))
    }

    /// Gives the key beside it the key file's name, durably. The old file's bytes are overwritten then, as far as the file
    /// system writes in place.
    ///
    /// # Errors
    /// [`FileError::Io`]: whether it has the name is not known; either is good while the store has a slot for both.
    pub fn install_successor(path: &Path) -> Result<(), FileError> {
        let old = files::open_private(path, Access::ReadWrite, nix::unistd::geteuid().as_raw());
        let failed = |source| FileError::Io { doing: "put a new key in the place of", path: path.to_owned(), source };
        fs::rename(successor(path), path).map_err(failed)?;
        files::sync_parent(path)?;
        if let Ok(old) = old {
            // It has no name any more; that it is gone is what matters, and can't be made sure of.
            let _ = old.write_all_at(&[0; FILE_BYTES], 0).and_then(|()| old.sync_data());
        }
        Ok(())
    }

    /// Removes a key that lies beside the key file and was not installed.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn remove_successor(path: &Path) -> Result<(), FileError> {
        let path = successor(path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(FileError::Io { doing: "remove", path, source: error })
            }
            _ => Ok(()),
        }
    }

    /// The same key in memory of its own, for who needs it twice.
    ///
    /// # Errors
    /// [`VaultError::Memory`].
    pub fn again(&self) -> Result<Self, VaultError> {
        let key = LockedKey::new(|key| key.copy_from_slice(self.key.expose()))?;
        Ok(Self { kind: self.kind, id: self.id, origin: self.origin.clone(), key })
    }

    /// What kind of source it is.
    pub fn kind(&self) -> SlotKind {
        self.kind
    }

    /// The id of its key.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Where it is from, for people: the path, or `credential bearerd.master-key`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The key, which only slot keys are derived from.
    pub(super) fn key(&self) -> &LockedKey {
        &self.key
    }

    fn read(mut file: File, path: &Path, kind: SlotKind, origin: String) -> Result<Self, VaultError> {
        // One byte more than a key has, to see that nothing follows it.
        let mut length = 0;
        let text = Locked::<{ FILE_BYTES + 1 }>::try_new(|buffer| {
            loop {
                match file.read(&mut buffer[length..]) {
                    Ok(0) => return Ok(()),
                    Ok(read) => length += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(source) => {
                        return Err(VaultError::File(FileError::Io { doing: "read", path: path.to_owned(), source }));
                    }
                }
            }
        })?;
        Self::parse(&text.expose()[..length], kind, origin)
    }

    fn parse(text: &[u8], kind: SlotKind, origin: String) -> Result<Self, VaultError> {
        let line = text.strip_suffix(b"\n").unwrap_or(text);
        let Some(rest) = line.strip_prefix(MAGIC) else { return Err(VaultError::Malformed { origin }) };
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits > 0 && rest[digits..].starts_with(b" ") && !rest.starts_with(VERSION) {
            return Err(VaultError::UnknownKeyVersion { origin });
        }
        if line.len() != LINE_BYTES || !rest.starts_with(VERSION) || line[KEY_AT - 1] != b' ' {
            return Err(VaultError::Malformed { origin });
        }
        let mut stated = [0; 8];
        let mut sound = decode_hex(&line[ID_AT..KEY_AT - 1], &mut stated);
        let key = LockedKey::new(|key| sound &= decode_hex(&line[KEY_AT..], key))?;
        if !sound {
            return Err(VaultError::Malformed { origin });
        }
        let (stated, found) = (KeyId(stated), id_of(&key));
        if stated != found {
            return Err(VaultError::WrongKeyId { origin, stated, found });
        }
        Ok(Self { kind, id: found, origin, key })
    }

    fn write_line(&self, line: &mut [u8; FILE_BYTES]) {
        line[..MAGIC.len()].copy_from_slice(MAGIC);
        line[MAGIC.len()..ID_AT].copy_from_slice(VERSION);
        encode_hex(&self.id.0, &mut line[ID_AT..KEY_AT - 1]);
        line[KEY_AT - 1] = b' ';
        encode_hex(self.key.expose(), &mut line[KEY_AT..LINE_BYTES]);
        line[LINE_BYTES] = b'\n';
    }
}

/// Where a new key lies until it gets the key file's name.
fn successor(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

fn check_directory(path: &Path, owner: Owner) -> Result<(), FileError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    files::check_private_dir(dir, owner, files::PRIVATE_DIR)
}

fn id_of(key: &LockedKey) -> KeyId {
    let mut id = [0; 8];
    derive_onto(KEY_ID, key.expose(), &mut id);
    KeyId(id)
}

/// By arithmetic, in place: tables and formatters would leave copies and traces of the key.
fn encode_hex(bytes: &[u8], text: &mut [u8]) {
    let digit = |value: u8| value + if value < 10 { b'0' } else { b'a' - 10 };
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = digit(byte >> 4);
        pair[1] = digit(byte & 15);
    }
}

/// Fills `bytes`; false unless `text` is exactly so many lower-case hex digits.
fn decode_hex(text: &[u8], bytes: &mut [u8]) -> bool {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    text.len() == 2 * bytes.len()
        && text.chunks_exact(2).zip(bytes).all(|(pair, byte)| match (value(pair[0]), value(pair[1])) {
            (Some(high), Some(low)) => {
                *byte = high << 4 | low;
                true
            }
            _ => false,
        })
}

#[cfg(test)]
impl KeySource {
    /// A source in memory, for the tests of this room.
    pub(super) fn of_bytes(bytes: [u8; 32]) -> Self {
        let key = LockedKey::new(|key| *key = bytes).unwrap();
        Self::of_key(SlotKind::File, "a test".to_owned(), key)
    }

    /// Its key.
    pub(super) fn into_key(self) -> LockedKey {
        self.key
    }
}
