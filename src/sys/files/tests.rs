use std::io::Read;
use std::os::unix::fs::symlink;

use nix::unistd::{Uid, chown, geteuid, mkfifo};
use tempfile::TempDir;

use super::*;

fn me() -> u32 {
    geteuid().as_raw()
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A directory with a file `key` of mode 0600 in it.
fn private() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    chmod(dir.path(), 0o700);
    let path = dir.path().join("key");
    fs::write(&path, "content").unwrap();
    chmod(&path, 0o600);
    (dir, path)
}

fn refusal(path: &Path) -> String {
    open_private(path, Access::Read, me()).expect_err("it must be refused").to_string()
}

#[test]
fn a_private_file_opens() {
    let (_dir, path) = private();
    let mut text = String::new();
    open_private(&path, Access::Read, me()).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "content");
    open_private(&path, Access::ReadWrite, me()).unwrap().write_all(b"CON").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "CONtent");
    chmod(&path, 0o400);
    open_private(&path, Access::Read, me()).unwrap();
}

#[test]
fn every_bit_beyond_0600_is_refused() {
    let (_dir, path) = private();
    for bit in [0o001, 0o002, 0o004, 0o010, 0o020, 0o040, 0o100, 0o1000, 0o4000] {
        let mode = 0o600 | bit;
        chmod(&path, mode);
        let shown = path.display();
        assert_eq!(refusal(&path), format!("{shown} has mode {mode:04o}; it must be 0600: chmod 0600 {shown}"));
    }
    chmod(&path, 0o640);
    open_checked(&path, Access::Read, me(), 0o640).unwrap();
    chmod(&path, 0o644);
    assert!(matches!(open_checked(&path, Access::Read, me(), 0o640), Err(FileError::WrongMode { max: 0o640, .. })));
}

#[test]
fn a_foreign_owner_is_refused() {
    let (_dir, path) = private();
    let error = open_private(&path, Access::Read, me() + 1).expect_err("it is not theirs").to_string();
    let (shown, me, other) = (path.display(), me(), me() + 1);
    assert_eq!(
        error,
        format!(
            "{shown} belongs to uid {me}; it must belong to uid {other}: check who changed it, then chown {other} {shown}"
        )
    );
    // A dir is judged likewise.
    let dir = path.parent().unwrap();
    assert!(matches!(check_private_dir(dir, other, 0o700), Err(FileError::WrongOwner { .. })));
    // A file that is made for another uid than our own is not left behind.
    let fresh = dir.join("fresh");
    assert!(matches!(open_private(&fresh, Access::CreateNew, other), Err(FileError::WrongOwner { .. })));
    assert!(!fresh.exists());
}

/// Needs root: only root gives files away. `.ci/run` runs the tests as root too.
#[test]
fn a_file_of_another_user_is_refused_and_one_of_root_only_where_it_may_be() {
    if !geteuid().is_root() {
        return;
    }
    let (_dir, path) = private();
    chown(&path, Some(Uid::from_raw(12_345)), None).unwrap();
    assert!(refusal(&path).contains("belongs to uid 12345; it must belong to uid 0"));
    assert!(open_private(&path, Access::Read, Owner::OrRoot(12_345)).is_ok());
    assert!(open_private(&path, Access::Read, Owner::OrRoot(12_346)).is_err());
    chown(&path, Some(Uid::from_raw(0)), None).unwrap();
    assert!(open_private(&path, Access::Read, Owner::OrRoot(12_345)).is_ok());
    let error = open_private(&path, Access::Read, 12_345).expect_err("root's file where the user's own is wanted");
    assert!(error.to_string().contains("must belong to uid 12345:"), "{error}");
}

#[test]
fn a_link_is_refused_and_not_followed() {
    let (dir, path) = private();
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(refusal(&link).contains("link is a symbolic link"));
    assert!(matches!(open_private(&link, Access::CreateNew, me()), Err(FileError::Exists { .. })));
    let dangling = dir.path().join("dangling");
    symlink(dir.path().join("elsewhere"), &dangling).unwrap();
    assert!(matches!(open_private(&dangling, Access::Read, me()), Err(FileError::Link { .. })));
    assert!(matches!(open_private(&dangling, Access::CreateNew, me()), Err(FileError::Exists { .. })));
    assert!(matches!(write_new_private(&dangling, 0o600, b"x"), Err(FileError::Exists { .. })));
    assert!(!dir.path().join("elsewhere").exists());
}

#[test]
fn a_second_name_is_refused() {
    let (dir, path) = private();
    fs::hard_link(&path, dir.path().join("second")).unwrap();
    let error = refusal(&path);
    assert!(error.contains("has 2 names (hard links)") && error.contains("-samefile"), "{error}");
}

#[test]
fn what_is_no_file_is_refused_without_waiting() {
    let (dir, _) = private();
    assert!(refusal(dir.path()).contains("is a directory; it must be a regular file"));
    assert!(matches!(open_private(dir.path(), Access::ReadWrite, me()), Err(FileError::WrongType { .. })));
    let fifo = dir.path().join("fifo");
    mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
    // Without O_NONBLOCK this would wait for a writer for ever.
    assert!(refusal(&fifo).contains("is a fifo; it must be a regular file"));
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(refusal(&socket).contains("is a socket; it must be a regular file"));
    assert!(matches!(open_private(&dir.path().join("none"), Access::Read, me()), Err(FileError::Missing { .. })));
}

#[test]
fn a_new_file_is_private_and_never_over_another() {
    let (dir, path) = private();
    let fresh = dir.path().join("fresh");
    open_private(&fresh, Access::CreateNew, me()).unwrap().write_all(b"x").unwrap();
    assert_eq!(fs::metadata(&fresh).unwrap().mode() & 0o7777, 0o600);
    assert!(matches!(open_private(&fresh, Access::CreateNew, me()), Err(FileError::Exists { .. })));

    let error = write_new_private(&path, 0o600, b"other").expect_err("it exists").to_string();
    assert!(error.contains("exists already and is not overwritten"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "content");
    let whole = dir.path().join("whole");
    write_new_private(&whole, 0o640, b"bytes").unwrap();
    assert_eq!(fs::read(&whole).unwrap(), b"bytes");
    assert_eq!(fs::metadata(&whole).unwrap().mode() & 0o7777, 0o640);
    let names = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 3, "no temporary file stays behind");
    assert!(matches!(write_new_private(&dir.path().join("no/dir"), 0o600, b""), Err(FileError::Missing { .. })));
}

#[test]
fn a_directory_is_private_or_refused() {
    let (dir, path) = private();
    check_private_dir(dir.path(), me(), 0o700).unwrap();
    chmod(dir.path(), 0o755);
    let shown = dir.path().display();
    assert_eq!(
        check_private_dir(dir.path(), me(), 0o700).expect_err("others may look in").to_string(),
        format!("{shown} has mode 0755; it must be 0700: chmod 0700 {shown}")
    );
    check_private_dir(dir.path(), me(), 0o755).unwrap();
    chmod(dir.path(), 0o2700);
    check_private_dir(dir.path(), me(), 0o700).unwrap();

    let link = dir.path().join("link");
    symlink(dir.path(), &link).unwrap();
    assert!(matches!(check_private_dir(&link, me(), 0o700), Err(FileError::Link { .. })));
    for behind in ["link/", "link/."] {
        assert!(matches!(check_private_dir(&dir.path().join(behind), me(), 0o700), Err(FileError::Link { .. })));
    }
    let error = check_private_dir(&path, me(), 0o700).expect_err("it is a file").to_string();
    assert!(error.contains("is a regular file; it must be a directory"), "{error}");
    assert!(matches!(check_private_dir(&dir.path().join("none"), me(), 0o700), Err(FileError::Missing { .. })));
}

#[test]
fn a_made_directory_has_its_mode_and_an_existing_one_is_left_alone() {
    let (dir, path) = private();
    let made = dir.path().join("a/b/c");
    assert!(create_private_dir(&made, 0o750).unwrap());
    assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, 0o750);
    assert_eq!(fs::metadata(made.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
    chmod(&made, 0o755);
    assert!(!create_private_dir(&made, 0o700).unwrap());
    assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, 0o755);
    // Even if it is no directory: the check says so.
    assert!(!create_private_dir(&path, 0o700).unwrap());
    assert!(matches!(check_private_dir(&path, me(), 0o700), Err(FileError::WrongType { .. })));
    assert!(matches!(create_private_dir(&path.join("below"), 0o700), Err(FileError::Io { .. })));
}
