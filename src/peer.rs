//! The peer: the process that connected, as the kernel says it. What a peer says of itself is not in here.

use serde::{Deserialize, Serialize};

/// uid that the kernel shows for what has no mapping here; it matches no rule but `"*"`.
pub const UID_NOBODY: u32 = 65_534;

/// What [`Peer::container`] says when the peer's cgroup could not be read: it may be in a container, and no rule that
/// names one matches it.
pub const CONTAINER_UNKNOWN: &str = "?";

/// Who is at the other end of a connection, read once when it was accepted.
///
/// As with ssh-agent and D-Bus, a process that hands on its connected socket hands on its rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process id at connect; 0 when it is outside our pid namespace.
    pub pid: i32,
    /// Effective uid at connect.
    pub uid: u32,
    /// Effective gid at connect.
    pub gid: u32,
    /// Supplementary groups at connect.
    pub groups: Box<[u32]>,
    /// The systemd unit, known only by a pidfd that showed the process alive while its cgroup was read.
    pub unit: Option<Box<str>>,
    /// The container that the process runs in, by its cgroup: `docker-…`, `libpod-…`, `crio-…`, `kubepods…`, or a machine's name;
    /// after `UNIT/` when the unit that it is in has made it itself; [`CONTAINER_UNKNOWN`] when that can't be told.
    pub container: Option<Box<str>>,
    /// It came over TCP: nothing of the above can be attested.
    pub tcp: bool,
}

impl Peer {
    /// Whether the uid names a user: the kernel's "unmapped" and -1 do not.
    pub fn has_uid(&self) -> bool {
        !self.tcp && self.uid != UID_NOBODY && self.uid != u32::MAX
    }

    /// What audit lines and answers show of the peer.
    pub fn label(&self) -> PeerLabel {
        PeerLabel {
            pid: self.pid,
            uid: self.uid,
            gid: self.gid,
            unit: self.unit.as_deref().map(str::to_owned),
            container: self.container.as_deref().map(str::to_owned),
        }
    }
}

/// A peer as an audit record keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PeerLabel {
    /// Process id at connect.
    pub pid: i32,
    /// Effective uid.
    pub uid: u32,
    /// Effective gid.
    pub gid: u32,
    /// systemd unit, if attested.
    pub unit: Option<String>,
    /// Container, if any.
    pub container: Option<String>,
}
