//! Overwriting what is left of a dropped key in pages of the file that are in use no more.
//!
//! The engine never writes over a page in place: after a key slot is dropped, older copies of the header lie in free pages
//! until those are used again, and whoever has the old key and the file's bytes could dig them out. So the wrapped keys that
//! were dropped are looked for in the whole file, and overwritten.
//!
//! **Why that harms nothing**: what is looked for is 72 bytes of ciphertext, which nothing else in the file equals. No
//! reachable page has it: the newest state has not, and the one before it neither, because two commits go in between. A
//! page that was given away meanwhile is whole in the engine's hands and written whole. The bytes are looked at again and
//! overwritten by the writer's thread, so that the engine writes nothing between the look and the write.
//!
//! What a copy-on-write file system or a drive keeps of older blocks is out of reach.

use std::sync::Arc;

use super::Store;
use super::disk::Disk;
use super::engine::io_error;
use super::error::{StoreError, cause};
use super::txn::Txn;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;
/// Shorter than this it could be anything.
const PATTERN_MIN: usize = 32;

/// Where something is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remnant {
    offset: u64,
    /// Which of the patterns.
    pattern: usize,
}

impl Store {
    /// Where in the file these bytes are. Reads the whole file: for a thread that may block.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remnants(&self, patterns: &[Vec<u8>]) -> Result<Vec<Remnant>, StoreError> {
        find(&*self.shared.engine.medium.disk, patterns).map_err(|error| io_error("searched for dropped keys", error))
    }

    /// Overwrites them with zeros, durably; gives how many there were. They must be gone from the newest state.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn wipe(&self, patterns: Arc<Vec<Vec<u8>>>, found: Vec<Remnant>) -> Result<u64, StoreError> {
        let disk = Arc::clone(&self.shared.engine.medium.disk);
        let job = move |txn: &mut Txn<'_>| -> Result<u64, StoreError> {
            let mut wiped = 0;
            for Remnant { offset, pattern } in found {
                let pattern = &patterns[pattern];
                let mut there = vec![0; pattern.len()];
                let io = |error| StoreError::NotWritten(cause(redb::StorageError::Io(error)));
                disk.read(offset, &mut there).map_err(io)?;
                if there == *pattern {
                    disk.write(offset, &vec![0; pattern.len()]).map_err(io)?;
                    wiped += 1;
                }
            }
            // The commit that follows syncs it.
            txn.wrote = true;
            Ok(wiped)
        };
        self.write(job).await?.map(|committed| committed.value)
    }
}

fn find(disk: &dyn Disk, patterns: &[Vec<u8>]) -> std::io::Result<Vec<Remnant>> {
    let longest = patterns.iter().map(Vec::len).max().unwrap_or(0);
    let mut found = Vec::new();
    if patterns.iter().any(|pattern| pattern.len() < PATTERN_MIN) {
        return Ok(found);
    }
    let len = disk.len()?;
    let mut buffer = vec![0; CHUNK + longest];
    let mut at = 0;
    while at < len {
        // What begins in this chunk may end in the next.
        let here = buffer.len().min((len - at) as usize);
        disk.read(at, &mut buffer[..here])?;
        for (pattern, bytes) in patterns.iter().enumerate() {
            let starts = starts(&buffer[..here], bytes).into_iter().take_while(|start| *start < CHUNK);
            found.extend(starts.map(|start| Remnant { offset: at + start as u64, pattern }));
        }
        at += CHUNK as u64;
    }
    Ok(found)
}

/// Where `pattern` begins in `bytes`, by Horspool's rule: of bytes that are not it, most are never looked at.
fn starts(bytes: &[u8], pattern: &[u8]) -> Vec<usize> {
    let last = pattern.len() - 1;
    let mut skip = [pattern.len(); 256];
    for (at, byte) in pattern[..last].iter().enumerate() {
        skip[usize::from(*byte)] = last - at;
    }
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(&end) = bytes.get(at + last) {
        if end == pattern[last] && bytes[at..].starts_with(pattern) {
            found.push(at);
        }
        at += skip[usize::from(end)];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FileDisk;

    #[test]
    fn remnants_are_found_wherever_they_lie() {
        let patterns = vec![vec![7; 72], (1..=72).collect::<Vec<u8>>()];
        let mut bytes: Vec<u8> = (0..2 * CHUNK + 1000).map(|at| (at % 5) as u8).collect();
        bytes[CHUNK / 2..CHUNK].fill(72);
        let places = [(0, 1), (5000, 0), (CHUNK - 71, 0), (CHUNK + 1, 1), (2 * CHUNK - 1, 1), (2 * CHUNK + 928, 0)];
        for (at, pattern) in places {
            bytes[at..at + 72].copy_from_slice(&patterns[pattern]);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let disk = FileDisk::new(file.reopen().unwrap());
        let mut found = find(&disk, &patterns).unwrap();
        found.sort_by_key(|remnant| remnant.offset);
        let expected = places.map(|(offset, pattern)| Remnant { offset: offset as u64, pattern });
        assert_eq!(found, expected);
        assert!(find(&disk, &[vec![2; 4]]).unwrap().is_empty(), "what could be anything is left alone");
    }
}
