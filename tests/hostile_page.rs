//! A server that passes for the daemon and hands out a page of its own, or none: the client library does not crash, keeps
//! nothing, and goes on asking (`docs/epoch-page.md`, "How it is got").

mod fake;

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bearerd::client::{CacheOptions, ClientError, Options, asynchronous, blocking};
use bearerd::codec;
use bearerd::page::{SLOTS, WORDS};
use bearerd::protocol::message::{Answer, Ask, Cacheable, ClientHello, Reply, Request, ServerHello, Stamped, Validate};
use bearerd::protocol::{FLAG_PAGE, MAGIC, VERSION};
use bearerd::time::UnixTime;
use fake::{framed, validate, verdict};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, sendmsg, shutdown};
use nix::sys::uio::pwrite;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::ftruncate;

const ALL_SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_FUTURE_WRITE)
    .union(SealFlag::F_SEAL_SEAL);

fn micros() -> u64 {
    Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap()).as_micros() as u64
}

/// A page of an hour ahead would be void, so it beats now; what is to be wrong with it is changed.
struct Forged {
    words: [u64; 7],
    bytes: usize,
    seals: SealFlag,
}

impl Forged {
    fn good() -> Self {
        let magic = u64::from_le_bytes(*b"bearerdp");
        Self { words: [magic, 1, SLOTS as u64, 1, 0, micros(), 0], bytes: WORDS * 8, seals: ALL_SEALS }
    }

    fn with(mut self, word: usize, value: u64) -> Self {
        self.words[word] = value;
        self
    }

    fn file(&self) -> OwnedFd {
        let file = memfd_create("forged", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&file, self.bytes as i64).unwrap();
        for (n, word) in self.words.iter().enumerate().filter(|(n, _)| (n + 1) * 8 <= self.bytes) {
            pwrite(&file, &word.to_ne_bytes(), n as i64 * 8).unwrap();
        }
        if !self.seals.is_empty() {
            fcntl(&file, FcntlArg::F_ADD_SEALS(self.seals)).unwrap();
        }
        file
    }
}

/// What a server gives with its hello.
struct Gift {
    flags: u32,
    /// Made anew for each connection, as the hello is answered.
    files: Box<dyn Fn() -> Vec<OwnedFd> + Send>,
    /// What the server says of its clock, by how much it is off.
    clock: i64,
    /// With which byte of the hello the files come.
    at_byte: usize,
    stamp: Cacheable,
    /// Also to who did not ask for it.
    to_all: bool,
}

impl Gift {
    fn of(files: impl Fn() -> Vec<OwnedFd> + Send + 'static) -> Self {
        let stamp = Cacheable { generation: 0, slot: 7, value: 0, good_until: None, ticket: vec![1; 40] };
        Self { flags: FLAG_PAGE, files: Box::new(files), clock: 0, at_byte: 0, stamp, to_all: false }
    }

    fn page(make: impl Fn(Forged) -> Forged + Send + 'static) -> Self {
        Self::of(move || vec![make(Forged::good()).file()])
    }
}

/// A server that says yes to everything, and counts how often it was asked.
struct Hostile {
    path: PathBuf,
    asked: Arc<AtomicUsize>,
    listener: UnixListener,
    _dir: tempfile::TempDir,
}

impl Hostile {
    fn serve(gift: Gift) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, gift) = (Arc::clone(&asked), Arc::new(Mutex::new(gift)));
        let accepting = listener.try_clone().unwrap();
        thread::spawn(move || {
            for stream in accepting.incoming() {
                // It was shut down.
                let Ok(stream) = stream else { return };
                let (count, gift) = (Arc::clone(&count), Arc::clone(&gift));
                // The other side may go at any time.
                thread::spawn(move || answer(stream, &gift, &count));
            }
        });
        Self { path, asked, listener, _dir: dir }
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }
}

fn frame(stream: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut content = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut content)?;
    Ok(content)
}

fn answer(mut stream: UnixStream, gift: &Mutex<Gift>, asked: &AtomicUsize) -> std::io::Result<()> {
    let content = frame(&mut stream)?;
    let hello: ClientHello = codec::decode(&content).unwrap();
    let stamp = {
        let gift = gift.lock().unwrap();
        greet(&mut stream, &gift, hello.flags != 0 || gift.to_all)?;
        gift.stamp.clone()
    };
    loop {
        let content = frame(&mut stream)?;
        let request: Request<'_> = codec::decode(&content).unwrap();
        let body = match &request.body {
            Ask::Validate(question) => {
                asked.fetch_add(1, Ordering::SeqCst);
                Answer::Stamped(Box::new(Stamped { verdict: verdict(question), cache: Some(stamp.clone()) }))
            }
            _ => Answer::Reported,
        };
        stream.write_all(&framed(&Reply { id: request.id, body }))?;
    }
}

fn greet(stream: &mut UnixStream, gift: &Gift, gives: bool) -> std::io::Result<()> {
    let files = if gives { (gift.files)() } else { Vec::new() };
    let hello = framed(&ServerHello {
        magic: MAGIC,
        version: VERSION,
        flags: if gives { gift.flags } else { 0 },
        request_max: 65_536,
        in_flight_max: 256,
        batch_max: 256,
        boottime_micros: micros().saturating_add_signed(gift.clock),
    });
    let (before, with) = hello.split_at(gift.at_byte);
    if !before.is_empty() {
        stream.write_all(before)?;
        // So that the client has read that much: what is in one message comes in one piece.
        thread::sleep(Duration::from_millis(50));
    }
    let raw: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &control[..] };
    sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(with)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

fn quiet() -> CacheOptions {
    CacheOptions { entries: 16, report_every: Duration::from_secs(3600) }
}

/// Both clients; each asks the same three times.
fn asks_each_time(name: &str, gift: impl Fn() -> Gift) {
    let question = || validate("good one");
    let server = Hostile::serve(gift());
    let client = blocking::CachedClient::connect(&server.path, Options::default(), quiet()).unwrap();
    for n in 1..=3 {
        assert!(client.validate(&question()).unwrap().active);
        assert_eq!(server.asked.load(Ordering::SeqCst), n, "{name}: it was not asked");
        assert!(client.kept(&question()).is_none(), "{name}: it is kept");
    }
    drop(client);
    let server = Hostile::serve(gift());
    fake::block_on(async {
        let client = asynchronous::CachedClient::connect(&server.path, Options::default(), quiet()).await.unwrap();
        for n in 1..=3 {
            assert!(client.validate(&question()).await.unwrap().active);
            assert_eq!(server.asked.load(Ordering::SeqCst), n, "{name}: it was not asked");
            assert!(client.kept(&question()).is_none(), "{name}: it is kept");
        }
    });
}

/// Forged pages that this process has open or mapped.
fn left_over() -> usize {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let open = open.filter(|path| path.to_string_lossy().contains("memfd:forged")).count();
    open + std::fs::read_to_string("/proc/self/maps").unwrap().matches("memfd:forged").count()
}

/// The same server with a page as it should be: what it says is kept, or the other tests would show nothing. The page does
/// not beat on, and a second later nothing counts.
#[test]
fn a_page_as_it_should_be_is_believed() {
    let begun = Instant::now();
    loop {
        let server = Hostile::serve(Gift::page(|page| page));
        let client = blocking::CachedClient::connect(&server.path, Options::default(), quiet()).unwrap();
        assert!(client.validate(&validate("good one")).unwrap().active);
        // A hello that is answered late proves no clock, and keeps nothing.
        if client.kept(&validate("good one")).is_some() {
            assert!(client.kept(&validate("good two")).is_none());
            let lapse = Instant::now();
            while client.kept(&validate("good one")).is_some() {
                assert!(lapse.elapsed() < Duration::from_secs(5), "nobody beats, and it counts");
                thread::yield_now();
            }
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it is never kept");
    }
}

#[test]
fn a_page_that_is_none_is_not_believed() {
    let plain = || {
        let file = tempfile::tempfile().unwrap();
        file.set_len(WORDS as u64 * 8).unwrap();
        OwnedFd::from(file)
    };
    asks_each_time("no file", || Gift::of(Vec::new));
    asks_each_time("a plain file", || Gift::of(move || vec![plain()]));
    asks_each_time("a pipe", || Gift::of(|| vec![nix::unistd::pipe().unwrap().0]));
    asks_each_time("a directory", || Gift::of(|| vec![std::fs::File::open("/").unwrap().into()]));
    asks_each_time("a device", || Gift::of(|| vec![std::fs::File::open("/dev/zero").unwrap().into()]));
    asks_each_time("a socket", || Gift::of(|| vec![UnixStream::pair().unwrap().0.into()]));
    asks_each_time("two pages", || Gift::of(|| vec![Forged::good().file(), Forged::good().file()]));
    asks_each_time("253 pages", || {
        Gift::of(|| {
            let one = Forged::good().file();
            (0..253).map(|_| one.try_clone().unwrap()).collect()
        })
    });
    asks_each_time("not sealed", || Gift::page(|page| Forged { seals: SealFlag::empty(), ..page }));
    for missing in ALL_SEALS.iter() {
        asks_each_time("a seal is missing", move || {
            Gift::page(move |page| Forged { seals: ALL_SEALS.difference(missing), ..page })
        });
    }
    for bytes in [0, 8, 4096, WORDS * 8 - 1, WORDS * 8 - 4096, WORDS * 8 + 1, WORDS * 8 + 4096] {
        asks_each_time("another length", move || Gift::page(move |page| Forged { bytes, ..page }));
    }
    for (word, value) in [(0, 0), (0, 1), (1, 0), (1, 2), (2, 0), (2, SLOTS as u64 * 2), (2, u64::MAX)] {
        asks_each_time("another magic, version or number of slots", move || {
            Gift::page(move |page| page.with(word, value))
        });
    }
    // None of the files is left; those of other tests go when they end.
    let begun = Instant::now();
    while left_over() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} are left, open or mapped", left_over());
        thread::yield_now();
    }
}

#[test]
fn a_page_that_says_no_or_another_clock_is_not_believed() {
    for (word, value) in [(3, 0), (3, 2), (3, 3), (3, u64::MAX), (5, 0), (5, u64::MAX), (5, 1 << 62)] {
        asks_each_time("state or heartbeat", move || Gift::page(move |page| page.with(word, value)));
    }
    for clock in [-3_600_000_000, -500_000_000, -60_000_000, 60_000_000, 500_000_000, i64::MAX] {
        asks_each_time("another clock", move || Gift { clock, ..Gift::page(|page| page) });
    }
    asks_each_time("not granted", || Gift { flags: 0, ..Gift::page(|page| page) });
    asks_each_time("with a later byte", || Gift { at_byte: 10, ..Gift::page(|page| page) });
}

#[test]
fn a_stamp_that_is_not_of_the_page_is_not_believed() {
    let with = |change: fn(&mut Cacheable)| {
        move || {
            let mut gift = Gift::page(|page| page);
            change(&mut gift.stamp);
            gift
        }
    };
    asks_each_time("a slot behind the page", with(|stamp| stamp.slot = SLOTS as u32));
    asks_each_time("a slot far behind the page", with(|stamp| stamp.slot = u32::MAX));
    asks_each_time("another value", with(|stamp| stamp.value = 1));
    asks_each_time("another generation", with(|stamp| stamp.generation = u64::MAX));
    asks_each_time("over already", with(|stamp| stamp.good_until = Some(UnixTime::EPOCH)));
}

/// It grants what is not in this version, or was not asked for.
#[test]
fn flags_that_were_not_asked_for_end_the_connection() {
    for flags in [2, FLAG_PAGE | 2, u32::MAX] {
        let server = Hostile::serve(Gift { flags, to_all: true, ..Gift::page(|page| page) });
        let error = blocking::CachedClient::connect(&server.path, Options::default(), quiet()).map(drop).unwrap_err();
        assert!(matches!(error, ClientError::Protocol(_)), "{error}");
    }
    let server = Hostile::serve(Gift { to_all: true, ..Gift::page(|page| page) });
    let error = blocking::Client::connect(&server.path, Options::default()).map(drop).unwrap_err();
    assert!(matches!(error, ClientError::Protocol(_)), "who keeps nothing is given a page: {error}");
}

/// A refusal is never kept, whatever comes with it.
#[test]
fn a_refusal_with_a_stamp_is_not_kept() {
    let server = Hostile::serve(Gift::page(|page| page));
    let client = blocking::CachedClient::connect(&server.path, Options::default(), quiet()).unwrap();
    let refused: Validate<'_> = validate("bad one");
    for n in 1..=3 {
        assert!(!client.validate(&refused).unwrap().active);
        assert_eq!(server.asked.load(Ordering::SeqCst), n);
    }
}
