//! Who a peer is: its user and groups, its unit, its container. From the kernel alone; no message, path of a program or
//! name of a socket is asked.
//!
//! A unit or container is the name of a cgroup. The levels down to the unit are made by the service manager; what is below
//! belongs to the unit, and who runs there can call it anything. So a unit is never looked for below a unit, and a
//! container below one carries the unit's name before its own: an ordinary user can make a cgroup `docker-prod.scope`, but
//! only as `user@1000.service/docker-prod`.

use std::io;
use std::os::fd::BorrowedFd;

use crate::peer::{CONTAINER_UNKNOWN, Peer};
use crate::sys::peer::{Cgroup, cgroup_of, credentials, own_cgroup};

/// What the daemon itself is, to compare peers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its effective uid.
    pub uid: u32,
    /// The container that it runs in itself.
    pub container: Option<Box<str>>,
    /// Whether the system has cgroups at all. Without them nobody is in a container.
    pub cgroups: bool,
}

impl Own {
    /// Of this process.
    pub fn of_this_process() -> Self {
        // Not to know where we are must not make everybody a neighbour: then all are held to be in containers.
        let cgroup = own_cgroup();
        let container = match &cgroup {
            Ok(path) => path.as_deref().and_then(container_of),
            Err(_) => Some(CONTAINER_UNKNOWN.to_owned()),
        };
        Self {
            uid: nix::unistd::geteuid().as_raw(),
            container: container.map(Into::into),
            cgroups: !matches!(cgroup, Ok(None)),
        }
    }
}

/// Identifies who is connected, once, when the connection is accepted.
///
/// # Errors
/// The kernel can't tell any more. The connection must be refused.
pub fn identify(socket: BorrowedFd<'_>, own: &Own) -> io::Result<Peer> {
    let credentials = credentials(socket)?;
    let cgroup = if own.cgroups { cgroup_of(&credentials) } else { Cgroup::Unknown };
    let (unit, container) = match &cgroup {
        Cgroup::Attested(path) => (unit_of(path).map(Into::into), container_of(path).map(Into::into)),
        // By pid alone no unit is believed. That a process is in a container only takes rights away, so it is.
        Cgroup::ByPid(path) => (None, container_of(path).map(Into::into)),
        // A container's root that forks, leaves and lets its child speak must not become the host's root.
        Cgroup::Unknown => (None, own.cgroups.then(|| CONTAINER_UNKNOWN.into())),
    };
    Ok(Peer {
        pid: credentials.pid,
        uid: credentials.uid,
        gid: credentials.gid,
        groups: credentials.groups,
        unit,
        container,
        tcp: false,
    })
}

/// The unit of a cgroup path: the first `.service` or `.scope` below the slices, as sd_pid_get_unit(3) tells it.
pub fn unit_of(cgroup: &str) -> Option<&str> {
    let mut levels = levels(cgroup);
    let level = levels.find(|level| !is_slice(level))?;
    is_unit(level).then_some(level)
}

/// The container of a cgroup path, by the names that runtimes give, with systemd as the cgroup driver or without.
pub fn container_of(cgroup: &str) -> Option<String> {
    // `/../..` leads out of our cgroup namespace: we are in a container, and who is there came in from its host. What lies
    // beyond says whether that is another container.
    let cgroup = cgroup.trim_start_matches("/..");
    let cgroup = cgroup.strip_suffix(" (deleted)").unwrap_or(cgroup);
    let levels: Vec<&str> = levels(cgroup).collect();
    let unit = levels.iter().position(|level| !is_slice(level)).filter(|&at| is_unit(levels[at]));
    for (at, level) in levels.iter().enumerate() {
        let name = runtime_name(level, levels.get(at + 1).copied()).or_else(|| {
            // Only at the top and above the unit do these mean what the host's administrator meant.
            let above = unit.is_none_or(|unit| at <= unit);
            above.then(|| host_name(&levels[..=at], levels.get(at + 1).copied()))?
        });
        if let Some(name) = name {
            return Some(match unit {
                Some(unit) if at > unit => format!("{}/{name}", levels[unit]),
                _ => name,
            });
        }
    }
    None
}

/// The levels of a path, each without the `_` that escapes names which the kernel would read otherwise.
fn levels(cgroup: &str) -> impl Iterator<Item = &str> {
    cgroup.split('/').filter(|level| !level.is_empty()).map(|level| level.strip_prefix('_').unwrap_or(level))
}

fn is_slice(level: &str) -> bool {
    level.len() > ".slice".len() && level.ends_with(".slice")
}

/// A sound unit name (unit_name_is_valid() of systemd) of the two types that processes are in.
fn is_unit(level: &str) -> bool {
    let stem = level.strip_suffix(".service").or_else(|| level.strip_suffix(".scope"));
    level.len() <= 255
        && stem.is_some_and(|stem| {
            !stem.is_empty()
                && !stem.starts_with('@')
                && stem.bytes().all(|c| c.is_ascii_alphanumeric() || b":-_.\\@".contains(&c))
        })
}

/// Names that a container runtime gives at any level. `below` is the level under it.
fn runtime_name(level: &str, below: Option<&str>) -> Option<String> {
    // The scopes of the systemd drivers: docker-ID.scope, libpod-ID.scope, crio-ID.scope, cri-containerd-ID.scope.
    // A podman that splits its service's cgroup leaves out the suffix.
    let stem = level.strip_suffix(".scope").unwrap_or(level);
    let by_suffix = level.len() > stem.len();
    let known = ["docker-", "crio-", "cri-containerd-"].iter().any(|prefix| stem.starts_with(prefix));
    if by_suffix && known || stem.strip_prefix("libpod-").is_some_and(|rest| !rest.is_empty() && !is_unit_file(stem)) {
        return Some(stem.to_owned());
    }
    // The cgroupfs drivers and LXC: /docker/ID, /lxc/NAME, /lxc.payload.NAME.
    if let Some(name) = level.strip_prefix("lxc.payload.") {
        return Some(format!("lxc-{name}"));
    }
    if let ("docker" | "lxc", Some(id)) = (level, below) {
        return Some(format!("{level}-{id}"));
    }
    // Whatever the runtime and its configuration are called: no other thing has a name of 64 hexadecimal digits.
    let id = stem.rsplit('-').next().unwrap_or(stem);
    let is_id = id.len() == 64 && id.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    (is_id && (by_suffix || id.len() == stem.len())).then(|| stem.to_owned())
}

fn is_unit_file(name: &str) -> bool {
    [".service", ".slice", ".mount", ".socket"].iter().any(|suffix| name.ends_with(suffix))
}

/// Names that mean a container by where they are: Kubernetes pods and machines.
fn host_name(above: &[&str], below: Option<&str>) -> Option<String> {
    let level = above.last()?;
    if let Some(top) = above.iter().position(|level| level.starts_with("kubepods") || level.contains("-kubepods")) {
        // Down to the pod; a container's own name, which tells more, goes before it. Written alike for both drivers:
        // kubepods-burstable-podUID.
        let deeper =
            |name: &str| is_slice(name) || name.starts_with("pod") || ["besteffort", "burstable"].contains(&name);
        if below.is_some_and(|below| deeper(below) || runtime_name(below, None).is_some()) {
            return None;
        }
        let pod = above.iter().rfind(|level| is_slice(level)).map(|slice| slice.trim_end_matches(".slice").to_owned());
        return Some(pod.unwrap_or_else(|| above[top..].join("-")));
    }
    if above.first() == Some(&"machine.slice") {
        if is_slice(level) && below.is_some_and(|below| is_slice(below) || is_unit(below)) {
            return None;
        }
        let stem = level.strip_suffix(".scope").or_else(|| level.strip_suffix(".service")).unwrap_or(level);
        let machine = stem.strip_prefix("machine-").or_else(|| stem.strip_prefix("systemd-nspawn@")).unwrap_or(stem);
        return Some(unescape(machine));
    }
    None
}

/// Undoes systemd's `\x2d`; what is not that stays.
fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find("\\x") {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        match rest.get(at + 2..at + 4).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if byte.is_ascii_graphic() => {
                bytes.push(byte);
                rest = &rest[at + 4..];
            }
            _ => {
                bytes.extend_from_slice(b"\\x");
                rest = &rest[at + 2..];
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).expect("whole characters and ASCII in place of ASCII")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_unit_is_the_first_below_the_slices() {
        for (cgroup, unit) in [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/system-app.slice/app@1.service", Some("app@1.service")),
            ("/init.scope", Some("init.scope")),
            ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            ("/system.slice/docker-0123.scope", Some("docker-0123.scope")),
            // Below a unit everything is in the hands of who runs there.
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service", Some("user@1000.service")),
            ("/system.slice/worker.service/nginx.service", Some("worker.service")),
            ("/system.slice/worker.service/sub", Some("worker.service")),
            // Escaped, because the kernel would read `cgroup.service` as a file of its own.
            ("/system.slice/_cgroup.service", Some("cgroup.service")),
            ("/system.slice/foo\\x2dbar.service", Some("foo\\x2dbar.service")),
            ("/", None),
            ("", None),
            ("/system.slice", None),
            ("/docker/0123/system.slice/nginx.service", None),
            ("/system.slice/data.mount/nginx.service", None),
            ("/system.slice/.service", None),
            ("/system.slice/@1.service", None),
            ("/system.slice/a b.service", None),
            ("/system.slice/nginx.service (deleted)", None),
            ("/../nginx.service", None),
            ("/.slice/nginx.service", None),
        ] {
            assert_eq!(unit_of(cgroup), unit, "{cgroup}");
        }
        assert_eq!(unit_of(&format!("/{}.service", "a".repeat(255))), None);
    }

    #[test]
    fn containers_are_known_by_their_runtimes_names() {
        for (cgroup, container) in [
            ("/system.slice/docker-0123.scope", Some("docker-0123")),
            ("/system.slice/docker-0123.scope/init.scope", Some("docker-0123")),
            ("/docker/0123", Some("docker-0123")),
            ("/docker/0123/docker/4567", Some("docker-0123")),
            ("/machine.slice/libpod-0123.scope/container", Some("libpod-0123")),
            ("/libpod_parent/libpod-0123", Some("libpod-0123")),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_cd.slice/crio-0123.scope",
                Some("crio-0123"),
            ),
            ("/kubepods.slice/kubepods-podab.slice/cri-containerd-0123.scope", Some("cri-containerd-0123")),
            ("/kubepods.slice/kubepods-podab.slice/other.scope", Some("kubepods-podab")),
            ("/kubepods.slice/kubepods-podab.slice", Some("kubepods-podab")),
            ("/kubepods/burstable/podab/0123", Some("kubepods-burstable-podab")),
            ("/kubepods/podab", Some("kubepods-podab")),
            ("/kubepods.slice", Some("kubepods")),
            ("/machine.slice/machine-web\\x2d1.scope", Some("web-1")),
            ("/machine.slice/systemd-nspawn@web.service/payload", Some("web")),
            ("/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt", Some("qemu-1-vm")),
            ("/machine.slice/odd.service", Some("odd")),
            ("/machine.slice", Some("machine.slice")),
            ("/lxc/web", Some("lxc-web")),
            ("/lxc.payload.web/system.slice/nginx.service", Some("lxc-web")),
            ("/system.slice/docker-0123.scope (deleted)", Some("docker-0123")),
            ("/../docker/0123", Some("docker-0123")),
            ("/..", None),
            ("/../..", None),
            ("/../../machine.slice/box.service", Some("box")),
            // What a unit has made of its own carries its name.
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-0123.scope",
                Some("user@1000.service/libpod-0123"),
            ),
            ("/user.slice/user-1000.slice/user@1000.service/docker-prod.scope", Some("user@1000.service/docker-prod")),
            ("/user.slice/user-1000.slice/user@1000.service/machine.slice/prod.service", None),
            ("/user.slice/user-1000.slice/user@1000.service/kubepods.slice/x", None),
            ("/system.slice/app.service/libpod-payload-0123", Some("app.service/libpod-payload-0123")),
            ("/system.slice/docker.service", None),
            ("/system.slice/docker-compose.service", None),
            ("/system.slice/libpod-cleanup.service", None),
            ("/system.slice/containerd.service", None),
            ("/lxc.monitor.web", None),
            ("/user.slice/user-1000.slice/session-3.scope", None),
            ("/docker", None),
            ("/", None),
            ("", None),
            (&format!("/actions_job/{}", "0a".repeat(32)), Some(&*"0a".repeat(32))),
            (
                &format!("/system.slice/nerdctl-{}.scope", "0a".repeat(32)),
                Some(&*format!("nerdctl-{}", "0a".repeat(32))),
            ),
            ("/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podab.slice/x", Some("kubelet-kubepods-podab")),
        ] {
            assert_eq!(container_of(cgroup).as_deref(), container, "{cgroup}");
        }
    }

    #[test]
    fn escapes_are_undone_and_nothing_else() {
        for (name, plain) in
            [("a\\x2db", "a-b"), ("\\x", "\\x"), ("\\xZZ", "\\xZZ"), ("a\\x0ab", "a\\x0ab"), ("é\\x2dé", "é-é")]
        {
            assert_eq!(unescape(name), plain);
        }
    }

    #[test]
    fn a_real_peer_is_identified() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        let (server, _) = listener.accept().unwrap();
        let own = Own::of_this_process();
        let peer = identify(server.as_fd(), &own).unwrap();
        assert_eq!((peer.pid, peer.uid), (std::process::id() as i32, own.uid));
        assert_eq!(peer.container, own.container, "in the same cgroup as we are");
        assert!(!peer.tcp);
    }

    /// The peer has gone before it is looked at: whose cgroup that was is not known, and it is nobody's root.
    #[test]
    fn a_peer_that_has_gone_is_in_no_known_cgroup() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let script = "socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die; connect($s, sockaddr_un($ARGV[0])) or die";
        let status = std::process::Command::new("perl").args(["-MSocket", "-e", script]).arg(&path).status();
        assert!(status.unwrap().success());
        let (server, _) = listener.accept().unwrap();
        let own = Own { uid: 0, container: None, cgroups: true };
        // A kernel may also say that it can't tell: then the connection is refused.
        if let Ok(peer) = identify(server.as_fd(), &own) {
            assert_eq!((peer.unit.as_deref(), peer.container.as_deref()), (None, Some(CONTAINER_UNKNOWN)));
        }
        // Where nothing has a cgroup, nobody is in a container.
        if let Ok(peer) = identify(server.as_fd(), &Own { cgroups: false, ..own }) {
            assert_eq!(peer.container, None);
        }
    }
}
