//! A Debian machine in a container, with a systemd of its own as its first process.
//!
//! Its disk is an overlay over a root that is never written (`tests/system/root`), so that each machine is fresh and what it
//! writes lasts over reboots and no longer than itself. It has no network.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long a machine may boot, and how long a command may take in it.
const PATIENCE: Duration = Duration::from_secs(90);
/// The hierarchies in which systemd-nspawn would leave groups of its own.
const HIERARCHIES: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// How a machine is made.
#[derive(Default)]
pub struct Options {
    binds: Vec<String>,
}

impl Options {
    /// Shows a directory or file of this host in the machine, which can't write there.
    pub fn with(mut self, here: impl AsRef<Path>, there: &str) -> Self {
        self.binds.push(format!("--bind-ro={}:{there}", here.as_ref().display()));
        self
    }

    pub fn boot(self) -> Machine {
        let mut machine = Machine::new(self);
        machine.start();
        machine
    }

    /// Made and not yet booted: what is to be there at boot can be written below [`Machine::disk`].
    pub fn off(self) -> Machine {
        Machine::new(self)
    }
}

pub struct Machine {
    name: String,
    options: Options,
    /// Holds the overlay's parts and the socket on which the machine says that it is up.
    place: TempDir,
    disk: PathBuf,
    running: Option<(Child, Pid)>,
}

impl Machine {
    pub fn boot() -> Self {
        Options::default().boot()
    }

    fn new(options: Options) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("box-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let place = tempfile::Builder::new().prefix("bearerd-box-").tempdir().unwrap();
        // In memory: quick, and an overlay needs a file system below it that is none itself.
        let (memory, disk) = (place.path().join("memory"), place.path().join("disk"));
        for dir in [&memory, &disk] {
            fs::create_dir(dir).unwrap();
        }
        let none = None::<&str>;
        mount(Some("tmpfs"), &memory, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).expect("are we root?");
        for dir in ["upper", "work"] {
            fs::create_dir(memory.join(dir)).unwrap();
        }
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            root(),
            memory.join("upper").display(),
            memory.join("work").display()
        );
        mount(Some("overlay"), &disk, Some("overlay"), MsFlags::empty(), Some(layers.as_str())).unwrap();
        mount(none, &disk, none, MsFlags::MS_PRIVATE, none).unwrap();
        Self { name, options, place, disk, running: None }
    }

    /// The root of its file system, as this host sees it.
    pub fn disk(&self) -> &Path {
        &self.disk
    }

    /// Boots it; returns once all that starts at boot has started or failed.
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "it runs already");
        let notices = self.place.path().join("notices");
        let _ = fs::remove_file(&notices);
        let socket = UnixDatagram::bind(&notices).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let console = self.place.path().join("console");
        let groups = HIERARCHIES.map(|hierarchy| format!("{hierarchy}/{}", self.name));
        for group in &groups {
            fs::create_dir_all(group).unwrap();
        }
        // Into groups of its own first, or systemd-nspawn makes some in the root of this host's trees and leaves them there.
        let joins = "for group in \"$0\" \"$1\"; do echo $$ >$group/cgroup.procs || exit; done; shift; exec \"$@\"";
        let child = Command::new("sh")
            .args(["-c", joins, &groups[0], &groups[1]])
            .args(["setsid", "systemd-nspawn", "-q", "-b", "--keep-unit", "--register=no", "--notify-ready=yes"])
            .args(["--private-network", "--resolv-conf=off", "--timezone=off", "--console=pipe"])
            // Without bpf() what a unit says of addresses and devices is silently nothing.
            .args(["--kill-signal=SIGRTMIN+3", "--capability=CAP_BPF", "--system-call-filter=bpf"])
            .arg(format!("--machine={}", self.name))
            .arg(format!("--directory={}", self.disk.display()))
            .args(&self.options.binds)
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .env("NOTIFY_SOCKET", &notices)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&console).unwrap())
            .stderr(fs::File::options().append(true).open(&console).unwrap())
            .spawn()
            .unwrap();
        let mut leader = None;
        let mut notice = [0; 4096];
        loop {
            let Ok(length) = socket.recv(&mut notice) else {
                panic!("the machine does not boot:\n{}", fs::read_to_string(&console).unwrap_or_default());
            };
            let text = String::from_utf8_lossy(&notice[..length]).into_owned();
            for line in text.lines() {
                if let Some(pid) = line.strip_prefix("X_NSPAWN_LEADER_PID=") {
                    leader = Some(Pid::from_raw(pid.parse().unwrap()));
                }
            }
            if text.lines().any(|line| line == "READY=1") {
                break;
            }
        }
        self.running = Some((child, leader.expect("it says who its first process is")));
        self.run(&["systemctl", "is-system-running", "--wait"]);
    }

    /// Shuts it down in order.
    pub fn power_off(&mut self) {
        let Some((mut child, _)) = self.running.take() else { return };
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        child.wait().unwrap();
    }

    /// As after a power cut: nothing in it is told.
    pub fn cut_off(&mut self) {
        let Some((mut child, leader)) = self.running.take() else { return };
        let _ = kill(leader, Signal::SIGKILL);
        let _ = child.wait();
    }

    pub fn boot_again(&mut self) {
        self.power_off();
        self.start();
    }

    /// A command of root's in it, not yet started.
    pub fn command(&self, words: &[&str]) -> Command {
        let (_, leader) = self.running.as_ref().expect("it runs");
        let mut command = Command::new("nsenter");
        command.args(["-t", &leader.to_string(), "-a", "--", "env", "-i"]);
        command.args([
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "LANG=C.UTF-8",
        ]);
        command.args(["timeout", &PATIENCE.as_secs().to_string()]).args(words);
        command
    }

    pub fn run(&self, words: &[&str]) -> Ran {
        self.with_input(words, b"")
    }

    /// With this on its standard input.
    pub fn with_input(&self, words: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that does not read it is no fault.
        let _ = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What a command prints that must not fail.
    pub fn ok(&self, words: &[&str]) -> String {
        let ran = self.run(words);
        assert_eq!(ran.code, 0, "{words:?}\n{}{}\n{}", ran.out, ran.err, self.journal());
        ran.out
    }

    /// A command line of the shell that must not fail.
    pub fn sh(&self, line: &str) -> String {
        self.ok(&["sh", "-ec", line])
    }

    /// As a user of the machine, with the groups that user has.
    pub fn run_as(&self, user: &str, words: &[&str]) -> Ran {
        self.run(&[&["setpriv", "--reuid", user, "--regid", user, "--init-groups"], words].concat())
    }

    /// The newest lines of the daemon's own log and of its units.
    pub fn journal(&self) -> String {
        self.run(&["journalctl", "--no-pager", "-q", "-n", "40", "-u", "bearerd*"]).out
    }

    /// Waits until that holds, for what nothing announces.
    pub fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !holds(self) {
            assert!(begin.elapsed() < PATIENCE, "{what}: never\n{}", self.journal());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut_off();
        // A group goes once its last process is reaped, and groups within it first.
        for hierarchy in HIERARCHIES {
            let group = format!("{hierarchy}/{}", self.name);
            let _ = Command::new("find")
                .args([group.as_str(), "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
                .output();
        }
        for mounted in [&self.disk, &self.place.path().join("memory")] {
            let _ = umount2(mounted, MntFlags::MNT_DETACH);
        }
    }
}

/// The root that machines are booted from; made by the first who asks.
fn root() -> &'static str {
    static ROOT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ROOT.get_or_init(|| {
        let made = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/system/root")).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    })
}
