//! The epoch page as other programs have it: one in another language, written from `docs/epoch-page.md`, and one that tries
//! to change it.

mod daemon;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Instant;

use bearerd::codec;
use bearerd::page::WORDS;
use bearerd::protocol::frame;
use bearerd::protocol::message::{Chosen, ClientHello, Condition, Filter, Handle, Hold, Revoke, ServerHello, Which};
use bearerd::protocol::{FLAG_PAGE, MAGIC};
use bearerd::sys::pass::receive_with_file;
use bearerd::sys::shared::Words;
use daemon::{Daemon, PATIENCE, id_of, reachable};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, SealFlag, SpliceFFlags, fallocate, fcntl};
use nix::libc;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mprotect};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Words of the header that change with each beat.
const HEARTBEAT: usize = 5;
const OFFSET: usize = 6;
const FIRST_SLOT: usize = 512;
const BYTES: usize = WORDS * 8;

/// contrib/epoch-page/reader.py, connected.
struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Python {
    /// Connects until it has the page: a hello that is answered late proves nothing of the daemon's clock.
    fn connect(daemon: &Daemon) -> Self {
        let begun = Instant::now();
        loop {
            let mut reader = Self::run(daemon);
            if reader.ask("header")["page"] == true {
                return reader;
            }
            assert!(begun.elapsed() < PATIENCE, "the reader keeps nothing");
        }
    }

    fn run(daemon: &Daemon) -> Self {
        let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/epoch-page/reader.py");
        let mut command = Command::new("python3");
        command.arg("-B").arg(reader).arg(daemon.socket()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    #[track_caller]
    fn ask(&mut self, command: &str) -> Value {
        self.input.write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{command}: {error}: {line:?}"))
    }

    #[track_caller]
    fn validate(&mut self, token: &str, scopes: &str) -> Value {
        self.ask(&format!("validate {scopes}\n{token}"))
    }

    /// By the page alone.
    #[track_caller]
    fn check(&mut self) -> String {
        self.ask("check")["check"].as_str().unwrap().to_owned()
    }

    /// Where the heart may be late, or is to stop.
    #[track_caller]
    fn comes_to(&mut self, expected: &str) {
        let begun = Instant::now();
        while self.check() != expected {
            assert!(begun.elapsed() < PATIENCE, "it is {}, and never {expected}", self.check());
            thread::yield_now();
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn python_is_there() -> bool {
    let there = Command::new("python3").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = there.is_ok_and(|status| status.success());
    if !there {
        eprintln!("SKIPPED: there is no python3, and so no reader in another language (apt-get install python3)");
    }
    there
}

/// docs/epoch-page.md and docs/protocol.md, by a program that knows nothing else.
#[test]
fn a_reader_written_from_the_document_keeps_what_counts_and_nothing_longer() {
    if !python_is_there() {
        return;
    }
    let mut daemon = Daemon::start();
    let mut admin = daemon.client();
    let mut reader = Python::connect(&daemon);
    let header = reader.ask("header");
    let words: Vec<u64> = header["words"].as_array().unwrap().iter().map(|word| word.as_u64().unwrap()).collect();
    assert_eq!(words[..5], [u64::from_le_bytes(*b"bearerdp"), 1, 65_536, 1, words[4]]);
    assert_eq!(header["rest"], false, "a word that is not described is used");
    assert!(words[HEARTBEAT] > 0);
    let now = words[HEARTBEAT].wrapping_add(words[OFFSET]);
    assert!(now.abs_diff(bearerd::time::wall_now().as_micros()) < 60_000_000, "the offset does not lead to the time");

    let token = daemon.issue(&["t", "--scope", "backup:*", "--ttl", "1h"]);
    let other = daemon.issue(&["other"]);
    let answer = reader.validate(&token, "backup:write");
    assert_eq!((&answer["active"], &answer["stamp"]["value"]), (&Value::Bool(true), &answer["seen"]), "{answer}");
    let ends = daemon.client().show(&Handle(id_of(&token))).unwrap().info.facts.expires_at.unwrap();
    assert_eq!(answer["stamp"]["good_until"], ends.as_micros());
    reader.comes_to("good");
    assert_eq!(reader.ask("report 5")["reported"], true);
    let trail = daemon.trail();
    let told = trail.iter().find(|line| line["cached"] == true).expect("what is reported is in the trail");
    assert_eq!((&told["count"], &told["scopes"][0]), (&Value::from(5), &Value::from("backup:write")));
    let by_id = |token: &str| Which::Handles(vec![Handle(id_of(token))]);
    admin.revoke(&Revoke { which: by_id(&other), reason: None, dry_run: false }).unwrap();
    reader.comes_to("good");
    admin.revoke(&Revoke { which: by_id(&token), reason: None, dry_run: false }).unwrap();
    assert_eq!(reader.check(), "changed");
    let answer = reader.validate(&token, "backup:write");
    assert_eq!((&answer["active"], &answer["stamp"]), (&Value::Bool(false), &Value::Null));

    // An order over many.
    let token = daemon.issue(&["held"]);
    reader.validate(&token, "");
    reader.comes_to("good");
    let chosen = Chosen::Filter(Filter(vec![Condition::All]));
    admin.suspend(&Hold { which: chosen.clone(), reason: None, dry_run: false }).unwrap();
    assert_eq!(reader.check(), "changed");
    admin.resume(&Hold { which: chosen, reason: None, dry_run: false }).unwrap();

    // What has a number of uses is never kept.
    let counted = daemon.issue(&["counted", "--max-uses", "9"]);
    assert_eq!(reader.validate(&counted, "")["stamp"], Value::Null);

    // The daemon stands still, goes on, and stops.
    reader.validate(&token, "");
    reader.comes_to("good");
    daemon.signal(Signal::SIGSTOP);
    reader.comes_to("ask");
    daemon.signal(Signal::SIGCONT);
    reader.comes_to("good");
    daemon.stop();
    assert_eq!(reader.check(), "void");
}

/// A connection of our own, and the page that came with it.
fn handed(socket: &Path) -> (UnixStream, OwnedFd) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let mut bytes = Vec::new();
    frame::append(&ClientHello { magic: MAGIC, version_min: 1, version_max: 1, flags: FLAG_PAGE }, &mut bytes);
    stream.write_all(&bytes).unwrap();
    let mut space = [0; 1024];
    let begun = Instant::now();
    let (count, file) = loop {
        match receive_with_file(&stream, &mut space) {
            Ok(received) => break received,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
        assert!(begun.elapsed() < PATIENCE, "no hello comes");
    };
    let hello: ServerHello = codec::decode(&space[4..count]).unwrap();
    assert_eq!(hello.flags, FLAG_PAGE);
    (stream, file.expect("the page comes with the hello"))
}

/// All words but those that the heart writes.
fn words(page: &Words) -> Vec<u64> {
    (0..WORDS).filter(|&word| word != HEARTBEAT && word != OFFSET).map(|word| page.load(word)).collect()
}

/// Counts what was tried, and that it was refused.
struct Tried(usize);

impl Tried {
    #[track_caller]
    fn refused<T>(&mut self, what: &str, result: nix::Result<T>) -> Errno {
        self.0 += 1;
        result.err().unwrap_or_else(|| panic!("{what} was done"))
    }

    #[track_caller]
    fn forbidden<T>(&mut self, what: &str, result: nix::Result<T>) {
        assert_eq!(self.refused(what, result), Errno::EPERM, "{what}");
    }
}

/// All that a process can try with the descriptor that it was given.
fn attack(page: &OwnedFd) -> usize {
    let mut tried = Tried(0);
    let ours = Words::open(page, WORDS).unwrap();
    let before = words(&ours);
    write_to(page, &mut tried);
    // Opened anew: the seals are of the file, not of the descriptor. Who may not open it so can't go on either.
    let path = PathBuf::from(format!("/proc/self/fd/{}", page.as_raw_fd()));
    for truncate in [false, true] {
        match OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(if truncate { libc::O_TRUNC } else { 0 })
            .open(&path)
        {
            Ok(again) => {
                assert!(!truncate, "it was opened to be cut");
                write_to(&OwnedFd::from(again), &mut tried);
            }
            Err(error) => assert!(matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)), "{error}"),
        }
    }
    through_memory(page, &mut tried);
    // What is not refused changes nothing for others: flags, position, locks and mode are of no use to the daemon.
    let _ = fcntl(page, FcntlArg::F_SETFL(OFlag::O_APPEND | OFlag::O_NONBLOCK));
    let mut file = File::from(page.try_clone().unwrap());
    let _ = file.seek(SeekFrom::Start(BYTES as u64));
    let _ = file.try_lock();
    let _ = file.set_permissions(std::fs::Permissions::from_mode(0o000));
    let _ = fallocate(page, FallocateFlags::empty(), 0, 4096);
    assert!(words(&ours) == before, "the page has changed");
    tried.0
}

/// Through the descriptor.
fn write_to(page: &OwnedFd, tried: &mut Tried) {
    let bytes = [0xa5; 4096];
    tried.forbidden("write", nix::unistd::write(page, &bytes));
    tried.forbidden("pwrite", nix::sys::uio::pwrite(page, &bytes, 24));
    tried.forbidden("pwritev", nix::sys::uio::pwritev(page, &[std::io::IoSlice::new(&bytes)], 24));
    for length in [0, 4096, BYTES - 1, BYTES + 1, 1 << 20] {
        tried.forbidden("ftruncate", nix::unistd::ftruncate(page, length as i64));
    }
    let bits = FallocateFlags::from_bits_retain;
    let punch = bits(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE);
    tried.forbidden("fallocate: punch a hole", fallocate(page, punch, 0, 4096));
    tried.forbidden("fallocate: grow", fallocate(page, FallocateFlags::empty(), BYTES as i64, 4096));
    let rearranging = [libc::FALLOC_FL_COLLAPSE_RANGE, libc::FALLOC_FL_ZERO_RANGE, libc::FALLOC_FL_INSERT_RANGE, 0x40];
    for flags in rearranging {
        tried.refused("fallocate: rearrange", fallocate(page, bits(flags), 0, 4096));
    }
    for seal in SealFlag::all().iter() {
        tried.forbidden("fcntl: seal", fcntl(page, FcntlArg::F_ADD_SEALS(seal)));
    }
    // From another file, without a write.
    let mut other = tempfile::tempfile().unwrap();
    other.write_all(&bytes).unwrap();
    let start = || other.try_clone().unwrap().seek(SeekFrom::Start(0)).unwrap();
    start();
    tried.refused("sendfile", nix::sys::sendfile::sendfile(page, &other, None, 4096));
    start();
    tried.refused("copy_file_range", nix::fcntl::copy_file_range(&other, None, page, None, 4096));
    let (from, to) = nix::unistd::pipe().unwrap();
    nix::unistd::write(&to, &bytes).unwrap();
    tried.refused("splice", nix::fcntl::splice(&from, None, page, None, 4096, SpliceFFlags::empty()));
}

/// Through mappings of it.
fn through_memory(page: &OwnedFd, tried: &mut Tried) {
    let length = NonZeroUsize::new(BYTES).unwrap();
    let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: new mappings at places of the kernel's choice; they are never read through references.
    let map = |protection, flags| unsafe { mmap(None, length, protection, flags, page.as_fd(), 0) };
    tried.forbidden("mmap to write", map(writable, MapFlags::MAP_SHARED));
    tried.forbidden("mmap to write only", map(ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED));
    let shared = map(ProtFlags::PROT_READ, MapFlags::MAP_SHARED).unwrap();
    // SAFETY: the whole of the mapping above, whose memory nobody else uses.
    let changed = unsafe { mprotect(shared, BYTES, writable) };
    assert_eq!(tried.refused("mprotect", changed), Errno::EACCES);
    for advice in [MmapAdvise::MADV_REMOVE, MmapAdvise::MADV_FREE] {
        // SAFETY: as above.
        tried.refused("madvise", unsafe { madvise(shared, BYTES, advice) });
    }
    // SAFETY: as above; it only forgets what is mapped where, and is allowed.
    let _ = unsafe { madvise(shared, BYTES, MmapAdvise::MADV_DONTNEED) };
    // The kernel writes to memory that is not writable, for debuggers: not through a shared mapping.
    let own_memory = OpenOptions::new().write(true).open("/proc/self/mem").unwrap();
    let written = own_memory.write_all_at(&[0xa5; 8], shared.as_ptr() as u64);
    tried.refused("/proc/self/mem", written.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0))));
    // A private copy may be written, and is private.
    let private = map(writable, MapFlags::MAP_PRIVATE).unwrap();
    // SAFETY: the mapping is ours, writable, and as long as that.
    unsafe { private.cast::<u8>().as_ptr().write_bytes(0xa5, BYTES) };
}

/// Not a test of its own: the process that attacks, when it is told whom.
#[test]
fn attacker() {
    let tried = if let Some(socket) = std::env::var_os("ATTACK_SOCKET") {
        let (_connection, page) = handed(Path::new(&socket));
        attack(&page)
    } else if let Some(descriptor) = std::env::var_os("ATTACK_DESCRIPTOR") {
        let raw = descriptor.to_str().unwrap().parse().unwrap();
        // SAFETY: whoever started this process gave it this descriptor, and nobody else here knows of it.
        attack(&unsafe { OwnedFd::from_raw_fd(raw) })
    } else {
        return;
    };
    println!("tried {tried} ways as uid {}", nix::unistd::geteuid());
}

fn attacks(mut command: Command) -> String {
    command.args(["attacker", "--exact", "--nocapture"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// The page and who reads it, before and after an attack.
struct Watched {
    daemon: Daemon,
    reader: Words,
    before: Vec<u64>,
}

impl Watched {
    fn new() -> Self {
        let daemon = Daemon::start();
        // So that there is something to be undone.
        let token = daemon.issue(&["t"]);
        daemon.ctl(&["revoke", &id_of(&token)]).exits(0);
        let (_connection, page) = handed(&daemon.socket());
        let reader = Words::open(&page, WORDS).unwrap();
        let before = words(&reader);
        assert!(before[FIRST_SLOT - 2..].iter().any(|&slot| slot > 0), "nothing was counted");
        Self { daemon, reader, before }
    }

    fn is_undisturbed(&self) {
        assert!(words(&self.reader) == self.before, "the page has changed");
        let beat = self.reader.load(HEARTBEAT);
        let begun = Instant::now();
        while self.reader.load(HEARTBEAT) == beat {
            assert!(begun.elapsed() < PATIENCE, "the heart does not beat any more");
            thread::yield_now();
        }
        // It counts on, and others are handed it still.
        let token = self.daemon.issue(&["u"]);
        self.daemon.ctl(&["revoke", &id_of(&token)]).exits(0);
        let after = words(&self.reader);
        assert!(after != self.before, "the daemon counts no more");
        let (_connection, page) = handed(&self.daemon.socket());
        assert!(words(&Words::open(&page, WORDS).unwrap()) == after, "others are handed another page");
    }
}

/// By whoever runs the tests: as the daemon's own user, or as root.
#[test]
fn a_client_cannot_change_the_page_by_any_means() {
    let watched = Watched::new();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("ATTACK_SOCKET", watched.daemon.socket());
    let said = attacks(command);
    assert!(said.contains("tried "), "{said}");
    watched.is_undisturbed();
}

/// By root, and by another user that was handed the descriptor.
#[test]
#[ignore = "needs root"]
fn root_neither_root_nor_another_user_can_change_the_page() {
    let watched = Watched::new();
    for uid in ["0", "65534"] {
        let (_connection, page) = handed(&watched.daemon.socket());
        let page = nix::unistd::dup(&page).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", uid, "--regid", uid, "--clear-groups"]);
        command.arg(reachable(std::env::current_exe().unwrap().to_str().unwrap()));
        command.env("ATTACK_DESCRIPTOR", page.as_raw_fd().to_string()).env("TMPDIR", "/tmp");
        let said = attacks(command);
        assert!(said.contains(&format!("as uid {uid}")), "{said}");
    }
    watched.is_undisturbed();
}

/// A descriptor that is read, and not mapped, is as good to look at: nothing secret is in it.
#[test]
fn the_page_can_be_read_as_a_file_and_says_nothing_of_tokens() {
    let daemon = Daemon::start();
    let token = daemon.issue(&["readable-name", "--scope", "a:b"]);
    let (_connection, page) = handed(&daemon.socket());
    let mut file = File::from(page);
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), BYTES);
    assert_eq!(&bytes[..8], b"bearerdp");
    let found = |what: &str| bytes.windows(what.len()).any(|window| window == what.as_bytes());
    assert!(!found(&id_of(&token)) && !found("readable-name") && !found(&token[token.len() - 16..]));
}
