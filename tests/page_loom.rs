//! The epoch page under a model checker: every interleaving of a daemon that restricts, a worker of it that validates and a
//! client that checks what it has kept, with every value that a weak memory may show (I2; `docs/epoch-page.md`).
//!
//! What is checked is the page's own code, over memory that the checker watches. The daemon's steps around it are written
//! down here as the rooms `store` and `service` take them, and each of them is also taken in a wrong order, or with a
//! weaker memory: then the checker must find a stale *active*, or this file would prove nothing.
//!
//! Words that a model does not change are ordinary memory, so that the checker does not have to try them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc as StdArc;
use std::sync::atomic::AtomicU64 as StdAtomicU64;
use std::time::Duration;

use bearerd::page::{Check, LEASE, MAGIC, Memory, OwnMemory, Reader, SLOTS, Stamp, VERSION, Writer};
use bearerd::time::UnixTime;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use loom::sync::{Arc, Mutex};
use loom::thread;

const STATE: usize = 3;
const GENERATION: usize = 4;
const HEARTBEAT: usize = 5;
const OFFSET: usize = 6;
const SLOT: usize = 77;
const SLOT_WORD: usize = 512 + SLOT;

const START: Duration = Duration::from_secs(5000);
const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
/// What a failed model says.
const STALE: &str = "active by the old state, after the reply";

/// How a memory orders; the first is the real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    AsItIs,
    /// What is stored brings nothing along that was stored before.
    NoRelease,
    /// What is loaded brings nothing along.
    NoAcquire,
    /// A closed page may be opened again.
    ForgetsItsState,
}

/// The page's words: those that change, and those that do not.
#[derive(Clone)]
struct Words {
    moving: Arc<BTreeMap<usize, AtomicU64>>,
    still: StdArc<BTreeMap<usize, StdAtomicU64>>,
    order: Order,
    /// As `sys::shared` reads what another process writes: a relaxed load, and a fence behind it.
    from_outside: bool,
}

impl Words {
    /// An open page that has just beaten, and the words of it that change.
    fn open(order: Order, moving: &[usize]) -> Self {
        let offset = NOW.as_micros() - START.as_micros() as u64;
        let all = [
            (0, MAGIC),
            (1, VERSION),
            (2, SLOTS as u64),
            (STATE, 1),
            (GENERATION, 0),
            (HEARTBEAT, START.as_micros() as u64),
            (OFFSET, offset),
            (SLOT_WORD, 0),
        ];
        let moves = |word: usize| moving.contains(&word);
        let part = |which: bool| all.into_iter().filter(move |&(word, _)| moves(word) == which);
        Self {
            moving: Arc::new(part(true).map(|(word, value)| (word, AtomicU64::new(value))).collect()),
            still: StdArc::new(part(false).map(|(word, value)| (word, StdAtomicU64::new(value))).collect()),
            order,
            from_outside: false,
        }
    }

    fn seen_by_a_client(&self) -> Self {
        Self { from_outside: true, ..self.clone() }
    }

    fn release(&self) -> Ordering {
        if self.order == Order::NoRelease { Ordering::Relaxed } else { Ordering::Release }
    }

    fn word(&self, word: usize) -> &AtomicU64 {
        self.moving.get(&word).unwrap_or_else(|| panic!("word {word} is not said to change"))
    }
}

impl Memory for Words {
    fn load(&self, word: usize) -> u64 {
        let Some(moving) = self.moving.get(&word) else {
            return self.still[&word].load(std::sync::atomic::Ordering::Relaxed);
        };
        match (self.order, self.from_outside) {
            (Order::NoAcquire, _) => moving.load(Ordering::Relaxed),
            (_, true) => {
                let value = moving.load(Ordering::Relaxed);
                fence(Ordering::Acquire);
                value
            }
            (_, false) => moving.load(Ordering::Acquire),
        }
    }
}

impl OwnMemory for Words {
    fn store(&self, word: usize, value: u64) {
        self.word(word).store(value, self.release());
    }

    fn increment(&self, word: usize) {
        self.word(word).fetch_add(1, self.release());
    }

    fn exchange(&self, word: usize, new: u64) {
        self.word(word).swap(new, Ordering::AcqRel);
    }

    fn replace(&self, word: usize, old: u64, new: u64) -> bool {
        if self.order == Order::ForgetsItsState {
            self.store(word, new);
            return true;
        }
        self.word(word).compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// The daemon's memory while its page is begun: the header, and what else does not change, is there.
struct Begun(Words);

impl Memory for Begun {
    fn load(&self, word: usize) -> u64 {
        self.0.load(word)
    }
}

impl OwnMemory for Begun {
    fn store(&self, word: usize, value: u64) {
        if self.0.moving.contains_key(&word) {
            self.0.store(word, value);
        }
    }

    fn increment(&self, word: usize) {
        self.0.increment(word);
    }

    fn exchange(&self, word: usize, new: u64) {
        self.0.exchange(word, new);
    }

    fn replace(&self, word: usize, old: u64, new: u64) -> bool {
        self.0.replace(word, old, new)
    }
}

/// An open page, and the real writer of it.
fn daemon(order: Order, moving: &[usize]) -> (Words, Writer<Begun>) {
    let words = Words::open(order, moving);
    let writer = Writer::new(Begun(words.clone()));
    if moving.contains(&STATE) {
        writer.open();
    }
    (words, writer)
}

/// What the daemon knows besides the page, each part by itself and without any order of its own: in the daemon these are
/// behind locks, which order more than this.
struct Token {
    /// `store::hot`'s list of what is about to change, or the list of orders.
    refused: AtomicBool,
    /// The store.
    revoked: AtomicBool,
}

impl Token {
    fn new() -> Self {
        Self { refused: AtomicBool::new(false), revoked: AtomicBool::new(false) }
    }

    fn is_active(&self) -> bool {
        !self.refused.load(Ordering::Relaxed) && !self.revoked.load(Ordering::Relaxed)
    }
}

/// What of the page says that this is about the token, and its value.
#[derive(Clone, Copy, Debug)]
enum By {
    Slot,
    Generation,
}

impl By {
    fn word(self) -> usize {
        match self {
            Self::Slot => SLOT_WORD,
            Self::Generation => GENERATION,
        }
    }

    fn bump(self, writer: &Writer<Begun>) {
        match self {
            Self::Slot => writer.bump_slot(SLOT),
            Self::Generation => writer.bump_generation(),
        }
    }

    fn stamp(self, writer: &Writer<Begun>) -> Stamp {
        let (generation, value) = match self {
            Self::Slot => (0, writer.slot_value(SLOT)),
            Self::Generation => (writer.generation(), 0),
        };
        Stamp { generation, slot: SLOT as u32, value }
    }
}

/// Steps of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Refuse,
    Bump,
    Commit,
    Reply,
    /// It is taken from the list of what is about to change.
    Settle,
}

const RIGHT: &[Step] = &[Step::Refuse, Step::Bump, Step::Commit, Step::Reply];

/// The order in which a validation reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    EpochThenState,
    StateThenEpoch,
}

/// One that revokes, one that validates for a client meanwhile, and that client: it has a verdict from before, gets the
/// new one, and after the reply neither may count.
fn revocation(by: By, order: Order, steps: &'static [Step], reads: Reads) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 10_000;
    builder.check(move || {
        let (words, writer) = daemon(order, &[by.word()]);
        let seen = words.seen_by_a_client();
        let writer = Arc::new(writer);
        let token = Arc::new(Token::new());
        let replied = Arc::new(AtomicBool::new(false));
        let handed: Arc<Mutex<Option<Stamp>>> = Arc::new(Mutex::new(None));

        let revoking = {
            let (writer, token, replied) = (Arc::clone(&writer), Arc::clone(&token), Arc::clone(&replied));
            thread::spawn(move || {
                for step in steps {
                    match step {
                        Step::Refuse => token.refused.store(true, Ordering::Relaxed),
                        Step::Bump => by.bump(&writer),
                        Step::Commit => token.revoked.store(true, Ordering::Relaxed),
                        Step::Settle => token.refused.store(false, Ordering::Relaxed),
                        Step::Reply => replied.store(true, Ordering::Release),
                    }
                }
            })
        };
        let validating = {
            let (writer, token, handed) = (Arc::clone(&writer), Arc::clone(&token), Arc::clone(&handed));
            thread::spawn(move || {
                let (stamp, active) = match reads {
                    Reads::EpochThenState => {
                        let stamp = by.stamp(&writer);
                        (stamp, token.is_active())
                    }
                    Reads::StateThenEpoch => {
                        let active = token.is_active();
                        (by.stamp(&writer), active)
                    }
                };
                if active {
                    *handed.lock().unwrap() = Some(stamp);
                }
            })
        };
        // The client: what it had, and what it has got by now.
        let first = Stamp { generation: 0, slot: SLOT as u32, value: 0 };
        let second = *handed.lock().unwrap();
        let after_the_reply = replied.load(Ordering::Acquire);
        let reader = Reader::new(seen).expect("a page");
        for stamp in [Some(first), second].into_iter().flatten() {
            let good = matches!(reader.check(&stamp, || START), Check::Good(_));
            assert!(!(good && after_the_reply), "{STALE}");
        }
        revoking.join().unwrap();
        validating.join().unwrap();
        // And whatever it has got, once all is over.
        let last = *handed.lock().unwrap();
        for stamp in [Some(first), last].into_iter().flatten() {
            assert!(!matches!(reader.check(&stamp, || START), Check::Good(_)), "{STALE}");
        }
    });
}

/// The checker must find it, and for this reason.
fn is_found(what: &str, model: impl FnOnce()) {
    let found = catch_unwind(AssertUnwindSafe(model)).expect_err(what);
    let said = found.downcast_ref::<String>().cloned();
    let said = said.or_else(|| found.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default();
    assert!(said.contains(STALE), "{what}: found something else: {said}");
}

#[test]
fn nothing_counts_after_the_reply_to_a_revocation() {
    revocation(By::Slot, Order::AsItIs, RIGHT, Reads::EpochThenState);
}

#[test]
fn nothing_counts_after_the_reply_to_an_order() {
    revocation(By::Generation, Order::AsItIs, RIGHT, Reads::EpochThenState);
}

#[test]
fn a_bump_after_the_reply_is_found() {
    is_found("bump after the reply", || {
        revocation(
            By::Slot,
            Order::AsItIs,
            &[Step::Refuse, Step::Commit, Step::Reply, Step::Bump],
            Reads::EpochThenState,
        );
    });
}

#[test]
fn a_bump_before_the_refusal_is_found() {
    for by in [By::Slot, By::Generation] {
        is_found("bump before the refusal", || {
            revocation(
                by,
                Order::AsItIs,
                &[Step::Bump, Step::Refuse, Step::Commit, Step::Reply],
                Reads::EpochThenState,
            );
        });
    }
}

#[test]
fn no_bump_is_found() {
    is_found("no bump", || {
        revocation(By::Slot, Order::AsItIs, &[Step::Refuse, Step::Commit, Step::Reply], Reads::EpochThenState);
    });
}

/// Committed only, as if there were no list of what is about to change.
#[test]
fn a_bump_without_a_refusal_is_found() {
    is_found("no refusal", || {
        revocation(By::Slot, Order::AsItIs, &[Step::Bump, Step::Commit, Step::Reply], Reads::EpochThenState);
    });
}

#[test]
fn a_state_that_is_read_before_the_epoch_is_found() {
    for by in [By::Slot, By::Generation] {
        is_found("state before epoch", || revocation(by, Order::AsItIs, RIGHT, Reads::StateThenEpoch));
    }
}

/// The new count without the refusal that was before it. On x86 no machine shows this, and in the daemon the lock around
/// the list orders it too; the page does not rely on either.
#[test]
fn a_bump_that_releases_nothing_is_found() {
    for by in [By::Slot, By::Generation] {
        is_found("relaxed bump", || revocation(by, Order::NoRelease, RIGHT, Reads::EpochThenState));
    }
}

#[test]
fn an_epoch_whose_reading_acquires_nothing_is_found() {
    for by in [By::Slot, By::Generation] {
        is_found("relaxed load", || revocation(by, Order::NoAcquire, RIGHT, Reads::EpochThenState));
    }
}

/// What is taken from the list before it is in the store is active again for whoever looks in between.
#[test]
fn a_refusal_that_is_taken_back_before_the_commit_is_found() {
    is_found("settled too early", || {
        revocation(
            By::Slot,
            Order::AsItIs,
            &[Step::Refuse, Step::Bump, Step::Settle, Step::Commit, Step::Reply],
            Reads::EpochThenState,
        );
    });
}

/// The heart says that the daemon lives and that verdicts count, while the daemon stops: a page that was closed never counts
/// again. Two who write, one who reads.
fn closing(order: Order) {
    loom::model(move || {
        let (words, writer) = daemon(order, &[STATE]);
        let seen = words.seen_by_a_client();
        let writer = Arc::new(writer);
        let closed = Arc::new(AtomicBool::new(false));
        let heart = {
            let writer = Arc::clone(&writer);
            thread::spawn(move || {
                writer.ask();
                writer.open();
            })
        };
        let stopping = {
            let (writer, closed) = (Arc::clone(&writer), Arc::clone(&closed));
            thread::spawn(move || {
                writer.close();
                closed.store(true, Ordering::Release);
            })
        };
        let stamp = Stamp { generation: 0, slot: SLOT as u32, value: 0 };
        let over = closed.load(Ordering::Acquire);
        let check = Reader::new(words.seen_by_a_client()).expect("a page").check(&stamp, || START);
        assert!(!over || check == Check::Void, "{STALE}: {check:?}");
        heart.join().unwrap();
        stopping.join().unwrap();
        let reader = Reader::new(seen).expect("a page");
        assert_eq!(reader.check(&stamp, || START), Check::Void, "{STALE}");
        assert!(reader.is_void());
    });
}

#[test]
fn a_page_that_is_closed_stays_closed_whatever_the_heart_does() {
    closing(Order::AsItIs);
}

#[test]
fn a_page_that_could_be_opened_again_is_found() {
    is_found("closed is not for good", || closing(Order::ForgetsItsState));
}

/// Uses can't be recorded any more, and then can: whoever began after that was said asks, until it is taken back.
#[test]
fn while_the_page_says_ask_nothing_counts() {
    loom::model(|| {
        let (words, writer) = daemon(Order::AsItIs, &[STATE]);
        let said = Arc::new(AtomicBool::new(false));
        let heart = {
            let said = Arc::clone(&said);
            thread::spawn(move || {
                writer.ask();
                said.store(true, Ordering::Release);
                writer
            })
        };
        let stamp = Stamp { generation: 0, slot: SLOT as u32, value: 0 };
        let after = said.load(Ordering::Acquire);
        let reader = Reader::new(words.seen_by_a_client()).expect("a page");
        let check = reader.check(&stamp, || START);
        assert!(if after { check == Check::Ask } else { check != Check::Void }, "{check:?}");
        let writer = heart.join().unwrap();
        writer.open();
        assert_eq!(reader.check(&stamp, || START), Check::Good(NOW));
    });
}

/// A beat after a step of the clock: whoever counts by the new beat has the new time, for the old one would let a token live
/// on that has ended.
fn beating(order: Order, offset_first: bool) {
    loom::model(move || {
        let (words, writer) = daemon(order, &[HEARTBEAT, OFFSET]);
        // `Writer::new` knows no time: as it was at the last beat.
        writer.beat(START, NOW);
        let later = START + LEASE;
        let stepped = NOW.saturating_add(Duration::from_secs(3600));
        let heart = thread::spawn(move || {
            if offset_first {
                writer.beat(later, stepped);
            } else {
                let memory = writer.memory();
                memory.store(HEARTBEAT, later.as_micros() as u64);
                memory.store(OFFSET, stepped.as_micros() - later.as_micros() as u64);
            }
        });
        let stamp = Stamp { generation: 0, slot: SLOT as u32, value: 0 };
        let reader = Reader::new(words.seen_by_a_client()).expect("a page");
        // By the old beat the lease has lapsed.
        match reader.check(&stamp, || later) {
            Check::Good(now) => assert_eq!(now, stepped, "{STALE}"),
            other => assert_eq!(other, Check::Ask),
        }
        heart.join().unwrap();
        assert_eq!(reader.check(&stamp, || later), Check::Good(stepped));
    });
}

#[test]
fn whoever_sees_a_beat_sees_the_time_that_belongs_to_it() {
    beating(Order::AsItIs, true);
}

#[test]
fn a_beat_before_its_offset_is_found() {
    is_found("beat before offset", || beating(Order::AsItIs, false));
}

#[test]
fn a_beat_that_orders_nothing_is_found() {
    is_found("no release", || beating(Order::NoRelease, true));
    is_found("no acquire", || beating(Order::NoAcquire, true));
}
