//! The layer table of `src/lib.rs` and `docs/architecture.md`: a room imports only from lower layers.

use std::fs;
use std::path::{Path, PathBuf};

const LAYERS: [&[&str]; 7] = [
    &["sys", "time", "token", "scope", "codec"],
    &["peer", "vault", "protocol", "config", "systemd", "page"],
    &["store", "policy", "audit", "client"],
    &["registry"],
    &["service"],
    &["server", "ctl"],
    &["daemon"],
];

/// Rooms of the bottom layer that may know each other.
const NEIGHBOURS: [(&str, &str); 3] = [
    // Ids are made from a time; a boot without an id gets a random one; the kernel says whether the clock is synchronised.
    ("token", "time"),
    ("time", "token"),
    ("time", "sys"),
];

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn room_of(path: &Path) -> String {
    let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = below.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Rooms that a line names as `crate::room`.
fn named(line: &str) -> Vec<&str> {
    line.split("crate::")
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap())
        .collect()
}

#[test]
fn imports_go_down() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.len() > 30, "only {} sources found", files.len());
    let mut wrong = Vec::new();
    for path in files {
        let room = room_of(&path);
        if room == "bin" || room == "lib" {
            continue;
        }
        let own = layer(&room).unwrap_or_else(|| panic!("{room} is in no layer: add it to the table"));
        let is_test = path.ends_with("tests.rs") || path.ends_with("fixtures.rs");
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            if line.contains("#[cfg(test)]") || is_test {
                break;
            }
            if line.trim_start().starts_with("//") {
                continue;
            }
            for other in named(line) {
                let Some(theirs) = layer(other) else { continue };
                if other != room && theirs >= own && !NEIGHBOURS.contains(&(room.as_str(), other)) {
                    wrong.push(format!("{}:{}: {room} imports {other}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that do not go down:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_stands_in_sys_only() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    for path in files.into_iter().filter(|path| room_of(path) != "sys") {
        let text = fs::read_to_string(&path).unwrap();
        let word = |line: &str| {
            ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|word| line.contains(word))
        };
        assert!(!text.lines().any(|l| !l.trim_start().starts_with("//") && word(l)), "{}", path.display());
    }
}
