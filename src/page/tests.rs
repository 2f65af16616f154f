use std::sync::Arc;
use std::thread;

use super::*;
use crate::time::UnixTime;

/// The same words, seen from both sides.
#[derive(Clone)]
struct Shared(Arc<[AtomicU64]>);

impl Memory for Shared {
    fn load(&self, word: usize) -> u64 {
        self.0.load(word)
    }
}

impl OwnMemory for Shared {
    fn store(&self, word: usize, value: u64) {
        self.0.store(word, value);
    }

    fn increment(&self, word: usize) {
        self.0.increment(word);
    }

    fn replace(&self, word: usize, old: u64, new: u64) -> bool {
        self.0.replace(word, old, new)
    }
}

fn memory() -> Shared {
    Shared((0..WORDS).map(|_| AtomicU64::new(0)).collect())
}

const START: Duration = Duration::from_secs(5000);
const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

/// An open page that has just beaten, its reader, and a stamp of it.
fn page() -> (Writer<Shared>, Reader<Shared>, Stamp) {
    let memory = memory();
    let writer = Writer::new(memory.clone());
    writer.beat(START, NOW);
    writer.open();
    (writer, Reader::new(memory).expect("a page"), Stamp { generation: 0, slot: 77, value: 0 })
}

fn at(millis: u64) -> Duration {
    START + Duration::from_millis(millis)
}

#[test]
fn what_has_not_changed_counts_and_the_time_is_the_daemons() {
    let (_writer, reader, stamp) = page();
    assert_eq!(reader.check(&stamp, || at(0)), Check::Good(NOW));
    assert_eq!(reader.check(&stamp, || at(999)), Check::Good(NOW.saturating_add(Duration::from_millis(999))));
}

#[test]
fn a_bump_of_the_slot_or_of_the_generation_is_a_change_for_good() {
    let (writer, reader, stamp) = page();
    writer.bump_slot(78);
    assert!(matches!(reader.check(&stamp, || at(0)), Check::Good(_)));
    writer.bump_slot(77);
    assert_eq!(reader.check(&stamp, || at(0)), Check::Changed);
    let fresh = Stamp { value: 1, ..stamp };
    assert!(matches!(reader.check(&fresh, || at(0)), Check::Good(_)));
    writer.bump_generation();
    assert_eq!(reader.check(&fresh, || at(0)), Check::Changed);
    assert_eq!((writer.generation(), writer.slot_value(77)), (1, 1));
    assert!(matches!(reader.check(&Stamp { generation: 1, ..fresh }, || at(0)), Check::Good(_)));
    // A slot that no page has.
    assert_eq!(reader.check(&Stamp { slot: SLOTS as u32, ..fresh }, || at(0)), Check::Changed);
    assert_eq!(reader.check(&Stamp { slot: u32::MAX, ..fresh }, || at(0)), Check::Changed);
}

#[test]
fn the_lease_lapses_and_a_beat_renews_it() {
    let (writer, reader, stamp) = page();
    assert_eq!(reader.check(&stamp, || at(1000)), Check::Ask);
    assert_eq!(reader.check(&stamp, || at(1_000_000)), Check::Ask);
    writer.beat(at(1000), NOW);
    assert!(matches!(reader.check(&stamp, || at(1999)), Check::Good(_)));
    assert_eq!(reader.check(&stamp, || at(2000)), Check::Ask);
}

/// A false date counts at once; when it is taken back, what was issued meanwhile has not begun.
#[test]
fn a_time_that_is_taken_back_is_a_change() {
    let (writer, reader, stamp) = page();
    writer.beat(at(250), NOW.saturating_add(Duration::from_secs(86_400)));
    assert!(matches!(reader.check(&stamp, || at(250)), Check::Good(_)), "forward, tokens end by themselves");
    writer.beat(at(500), NOW.saturating_add(Duration::from_secs(86_400)));
    assert!(matches!(reader.check(&stamp, || at(500)), Check::Good(_)), "the clocks are not read at one moment");
    writer.beat(at(750), NOW);
    assert_eq!(reader.check(&stamp, || at(750)), Check::Changed);
}

#[test]
fn a_page_that_has_not_beaten_does_not_count() {
    let memory = memory();
    let writer = Writer::new(memory.clone());
    let reader = Reader::new(memory).expect("a page");
    let stamp = Stamp { generation: 0, slot: 0, value: 0 };
    assert_eq!(reader.check(&stamp, || START), Check::Ask);
    writer.open();
    assert_eq!(reader.check(&stamp, || START), Check::Ask);
}

#[test]
fn a_beat_from_the_future_voids_the_page_for_good() {
    let (writer, reader, stamp) = page();
    writer.beat(at(50), NOW);
    // The clocks of two processors might be apart by a little; that does not count, and is no proof of another clock.
    assert_eq!(reader.check(&stamp, || at(0)), Check::Ask);
    assert!(matches!(reader.check(&stamp, || at(50)), Check::Good(_)));
    writer.beat(at(51), NOW);
    assert_eq!(reader.check(&stamp, || at(0)), Check::Void);
    assert_eq!(reader.check(&stamp, || at(51)), Check::Void);
    assert!(reader.is_void());
}

#[test]
fn ask_is_for_now_and_closed_for_ever() {
    let (writer, reader, stamp) = page();
    writer.ask();
    assert_eq!((reader.check(&stamp, || at(0)), writer.state()), (Check::Ask, "ask"));
    writer.open();
    assert_eq!(writer.state(), "open");
    assert!(matches!(reader.check(&stamp, || at(0)), Check::Good(_)));
    writer.close();
    writer.open();
    writer.ask();
    assert_eq!((reader.check(&stamp, || at(0)), writer.state()), (Check::Void, "closed"));
    // Whatever the memory says later.
    writer.memory().store(AT_STATE, STATE_OPEN);
    assert_eq!(reader.check(&stamp, || at(0)), Check::Void);
}

#[test]
fn a_state_that_this_version_does_not_know_is_the_end() {
    let (writer, reader, stamp) = page();
    writer.memory().store(AT_STATE, 4);
    assert_eq!(reader.check(&stamp, || at(0)), Check::Void);
}

#[test]
fn another_magic_version_or_length_is_no_page() {
    for word in [AT_MAGIC, AT_VERSION, AT_SLOTS] {
        let memory = memory();
        Writer::new(memory.clone());
        memory.0[word].fetch_add(1, Ordering::Release);
        assert_eq!(Reader::new(memory).err(), Some(NotAPage));
    }
}

#[test]
fn the_clock_is_read_after_everything_else() {
    let (writer, reader, stamp) = page();
    // What happens while the clock is read is not seen, so that it can only be later than what was.
    let check = reader.check(&stamp, || {
        writer.bump_slot(77);
        writer.close();
        at(0)
    });
    assert_eq!(check, Check::Good(NOW));
    assert_eq!(reader.check(&stamp, || at(0)), Check::Void);
}

#[test]
fn clocks_agree_within_the_skew() {
    assert!(agrees(at(100), at(100)) && agrees(at(100), at(150)) && agrees(at(100), at(50)));
    assert!(!agrees(at(100), at(151)) && !agrees(at(100), at(49)));
}

#[test]
fn ids_spread_over_the_slots() {
    let mut hit = vec![0_u32; SLOTS];
    for n in 0..SLOTS as u128 {
        let id = n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        hit[slot_of(TokenId::from_bytes(id.to_be_bytes()))] += 1;
    }
    assert!(hit.iter().filter(|&&n| n > 0).count() > SLOTS / 2);
    assert!(hit.iter().max() < Some(&16));
}

#[test]
fn the_words_are_where_the_document_says() {
    let (writer, _reader, _) = page();
    writer.bump_slot(65_535);
    let words = &writer.memory().0;
    let header: Vec<u64> = words[..7].iter().map(|word| word.load(Ordering::Relaxed)).collect();
    assert_eq!(header, [0x7064_7265_7261_6562, 1, 65_536, 1, 0, 5_000_000_000, 1_799_995_000_000_000]);
    assert!(words[7..512].iter().all(|word| word.load(Ordering::Relaxed) == 0));
    assert_eq!(words[512 + 65_535].load(Ordering::Relaxed), 1);
    assert_eq!(words.len() * 8, 528_384);
}

/// Whoever sees the bump sees what was refused before it: one writer, two readers, real threads (and Miri's).
#[test]
fn whoever_reads_the_new_slot_reads_the_new_state() {
    let memory = memory();
    let writer = Writer::new(memory.clone());
    writer.beat(START, NOW);
    writer.open();
    let good = AtomicU64::new(1);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let reader = Reader::new(memory.clone()).expect("a page");
                for _ in 0..20 {
                    // As the daemon: the slot, and then the state.
                    let stamp = Stamp { generation: 0, slot: 3, value: writer.slot_value(3) };
                    let active = good.load(Ordering::Relaxed) == 1;
                    if matches!(reader.check(&stamp, || START), Check::Good(_)) && stamp.value == 1 {
                        assert!(!active, "the old state was kept under the new slot");
                    }
                }
            });
        }
        scope.spawn(|| {
            good.store(0, Ordering::Relaxed);
            writer.bump_slot(3);
        });
    });
}
