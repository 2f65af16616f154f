//! Where things are: the system's places, and with `--user` those of the XDG base directories.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{ConfigError, value::SOCKET_PATH_MAX};

/// For whom the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// For the host, as its own user.
    System,
    /// For one user (`--user`), who owns it.
    User,
}

/// The places that everything defaults to, and who runs the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// For whom.
    pub mode: Mode,
    /// The daemon's effective uid.
    pub uid: u32,
    /// The daemon's effective gid.
    pub gid: u32,
    /// The configuration file; need not exist. Its drop-ins are in `conf.d` beside it.
    pub config: PathBuf,
    /// The native socket.
    pub socket: PathBuf,
    /// The token store.
    pub store: PathBuf,
    /// The audit log.
    pub audit: PathBuf,
    /// The master key.
    pub key: PathBuf,
}

impl Paths {
    /// `/etc/bearerd`, `/run/bearerd`, `/var/lib/bearerd`, `/var/lib/bearerd-key`, `/var/log/bearerd`.
    pub fn system(uid: u32, gid: u32) -> Self {
        Self {
            mode: Mode::System,
            uid,
            gid,
            config: "/etc/bearerd/bearerd.toml".into(),
            socket: "/run/bearerd/bearerd.sock".into(),
            store: "/var/lib/bearerd/tokens.redb".into(),
            audit: "/var/log/bearerd/audit.log".into(),
            key: "/var/lib/bearerd-key/master.key".into(),
        }
    }

    /// The places of `--user`, by the XDG base directory specification: a variable that is unset, empty or relative
    /// counts as unset. `env` looks a variable up.
    ///
    /// # Errors
    /// [`ConfigError::Environment`] when HOME is needed and unset, when there is no runtime directory, or when its path is
    /// too long for a socket.
    pub fn user(uid: u32, gid: u32, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let given = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let below_home = |name: &'static str, below: &str| match given(name) {
            Some(path) => Ok(path),
            None => given("HOME").map(|home| home.join(below)).ok_or_else(|| {
                ConfigError::Environment(format!("neither {name} nor HOME is set to an absolute path; set HOME"))
            }),
        };
        let config = below_home("XDG_CONFIG_HOME", ".config")?.join("bearerd");
        let state = below_home("XDG_STATE_HOME", ".local/state")?.join("bearerd");
        let runtime = given("XDG_RUNTIME_DIR").unwrap_or_else(|| PathBuf::from(format!("/run/user/{uid}")));
        if !runtime.is_dir() {
            return Err(ConfigError::Environment(format!(
                "there is no runtime directory {}; set XDG_RUNTIME_DIR to a directory of your own with mode 0700",
                runtime.display()
            )));
        }
        let socket = runtime.join("bearerd/bearerd.sock");
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(ConfigError::Environment(format!(
                "{} is longer than the {SOCKET_PATH_MAX} bytes that a socket's path can have; set XDG_RUNTIME_DIR to a shorter one",
                socket.display()
            )));
        }
        Ok(Self {
            mode: Mode::User,
            uid,
            gid,
            config: config.join("bearerd.toml"),
            socket,
            store: state.join("tokens.redb"),
            audit: state.join("audit.log"),
            key: config.join("master.key"),
        })
    }

    /// The directory of drop-ins that goes with a configuration file.
    pub fn drop_ins(config: &Path) -> PathBuf {
        config.with_file_name("conf.d")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(variables: &[(&str, &str)]) -> Result<Paths, ConfigError> {
        Paths::user(1000, 1000, &|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn xdg_directories_are_used_when_set() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = dir.path().to_str().unwrap();
        let paths =
            user(&[("XDG_CONFIG_HOME", "/c"), ("XDG_STATE_HOME", "/s"), ("XDG_RUNTIME_DIR", runtime), ("HOME", "/h")])
                .unwrap();
        assert_eq!(paths.config, Path::new("/c/bearerd/bearerd.toml"));
        assert_eq!(paths.key, Path::new("/c/bearerd/master.key"));
        assert_eq!(paths.store, Path::new("/s/bearerd/tokens.redb"));
        assert_eq!(paths.audit, Path::new("/s/bearerd/audit.log"));
        assert_eq!(paths.socket, dir.path().join("bearerd/bearerd.sock"));
    }

    #[test]
    fn unset_empty_and_relative_ones_fall_back_to_home() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = dir.path().to_str().unwrap();
        let paths =
            user(&[("XDG_CONFIG_HOME", ""), ("XDG_STATE_HOME", "rel"), ("XDG_RUNTIME_DIR", runtime), ("HOME", "/h")])
                .unwrap();
        assert_eq!(paths.config, Path::new("/h/.config/bearerd/bearerd.toml"));
        assert_eq!(paths.store, Path::new("/h/.local/state/bearerd/tokens.redb"));
    }

    #[test]
    fn what_is_missing_is_said_with_what_to_set() {
        let error = user(&[("XDG_RUNTIME_DIR", "/tmp")]).unwrap_err().to_string();
        assert!(error.contains("set HOME"), "{error}");
        let error = user(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/nonexistent/run")]).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/run") && error.contains("set XDG_RUNTIME_DIR"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("d".repeat(100));
        std::fs::create_dir(&long).unwrap();
        let error = user(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", long.to_str().unwrap())]).unwrap_err().to_string();
        assert!(error.contains("107 bytes"), "{error}");
    }
}
