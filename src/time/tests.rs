use super::manual::ManualTime;
use super::*;

const START: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn clock() -> (ManualTime, Clock) {
    let hands = ManualTime::new(START);
    (hands.clone(), Clock::new(Box::new(hands), None))
}

/// I8: a clock set back never lengthens a life.
#[test]
fn set_back_the_clock_runs_on() {
    let (hands, clock) = clock();
    hands.pass(HOUR);
    assert_eq!(clock.now(), START.saturating_add(HOUR));
    hands.set(|h| h.wall = UnixTime::EPOCH);
    assert_eq!(clock.now(), START.saturating_add(HOUR));
    hands.set(|h| h.boottime += DAY);
    assert_eq!(clock.now(), START.saturating_add(HOUR + DAY));
    assert!(clock.behind() > DAY);
}

#[test]
fn a_small_forward_step_is_believed_at_once() {
    let (hands, clock) = clock();
    hands.set(|h| h.wall = START.saturating_add(STEP_MAX));
    assert_eq!(clock.now(), START.saturating_add(STEP_MAX));
    assert_eq!(clock.mark().time, START.saturating_add(STEP_MAX));
}

#[test]
fn a_large_forward_step_counts_at_once_but_is_persisted_only_when_it_lasted() {
    let (hands, clock) = clock();
    hands.set(|h| h.wall = START.saturating_add(DAY));
    assert_eq!(clock.now(), START.saturating_add(DAY));
    assert!(clock.unsettled());
    assert_eq!(clock.mark().time, START);
    hands.pass(STEP_SETTLES - Duration::from_secs(1));
    clock.now();
    assert_eq!(clock.mark().time, START.saturating_add(STEP_SETTLES - Duration::from_secs(1)));
    hands.pass(Duration::from_secs(1));
    assert!(!clock.unsettled());
    assert_eq!(clock.mark().time, START.saturating_add(DAY + STEP_SETTLES));
}

#[test]
fn a_synchronised_clock_is_believed_at_once() {
    let (hands, clock) = clock();
    hands.set(|h| {
        h.wall = START.saturating_add(DAY);
        h.synchronised = true;
    });
    assert!(!clock.unsettled());
    assert_eq!(clock.mark().time, START.saturating_add(DAY));
}

#[test]
fn a_false_date_that_is_taken_back_leaves_no_mark() {
    let (hands, clock) = clock();
    hands.set(|h| h.wall = START.saturating_add(DAY * 400));
    clock.now();
    hands.set(|h| h.wall = START);
    assert_eq!(clock.now(), START);
    assert!(!clock.unsettled());
}

#[test]
fn over_a_restart_in_the_same_boot_the_time_between_counts() {
    let (hands, clock) = clock();
    let mark = clock.mark();
    hands.set(|h| {
        h.wall = UnixTime::EPOCH;
        h.boottime += HOUR;
    });
    assert_eq!(Clock::new(Box::new(hands), Some(mark)).now(), START.saturating_add(HOUR));
}

#[test]
fn over_a_reboot_the_mark_is_the_least() {
    let (hands, clock) = clock();
    hands.pass(HOUR);
    let mark = clock.mark();
    hands.set(|h| {
        h.wall = UnixTime::EPOCH;
        h.boottime = Duration::from_secs(5);
        h.boot_id = [2; 16];
    });
    assert_eq!(Clock::new(Box::new(hands), Some(mark)).now(), START.saturating_add(HOUR));
}

#[test]
fn a_reset_takes_a_wrong_mark_back() {
    let (hands, clock) = clock();
    hands.set(|h| {
        h.wall = START.saturating_add(DAY * 400);
        h.synchronised = true;
    });
    clock.now();
    hands.set(|h| h.wall = START);
    assert_eq!(clock.now(), START.saturating_add(DAY * 400));
    let (time, before) = clock.reset();
    assert_eq!((time, clock.now()), (START, START));
    assert_eq!(clock.mark().time, START);
    clock.undo_reset(before);
    assert_eq!(clock.now(), START.saturating_add(DAY * 400));
}

proptest::proptest! {
    /// Reading without the lock says what looking at the state would.
    #[test]
    fn the_quick_way_is_the_long_way(steps in proptest::collection::vec((0u8..7, 0u64..2_000_000), 1..60)) {
        let (hands, clock) = clock();
        let mut state = State { mark: clock.mark(), stepped_since: None };
        for (what, by) in steps {
            let micros = Duration::from_micros(by);
            match what {
                0 | 1 => hands.pass(micros),
                2 => hands.set(|h| h.wall = h.wall.saturating_sub(micros)),
                3 => hands.set(|h| h.wall = h.wall.saturating_add(micros)),
                4 => hands.set(|h| h.wall = h.wall.saturating_add(micros * 10_000)),
                5 => hands.pass(micros * 1_000),
                _ => hands.set(|h| h.synchronised = !h.synchronised),
            }
            let now = clock.now();
            let (mut wall, mut boottime, mut synchronised) = (UnixTime::EPOCH, Duration::ZERO, false);
            hands.set(|h| (wall, boottime, synchronised) = (h.wall, h.boottime, h.synchronised));
            proptest::prop_assert_eq!(now, state.move_on(wall, boottime, || synchronised));
            proptest::prop_assert_eq!(clock.unsettled(), state.stepped_since.is_some());
        }
    }
}

/// Many threads read while the wall clock jumps: nobody is told a time before one that was told before it asked.
#[test]
fn time_goes_on_for_all_threads_alike() {
    let (hands, clock) = clock();
    let newest = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let before = newest.load(Ordering::SeqCst);
                    let now = clock.now().as_micros();
                    assert!(now >= before, "{now} after {before}");
                    newest.fetch_max(now, Ordering::SeqCst);
                }
            });
        }
        for step in 0..2_000 {
            hands.set(|h| {
                h.boottime += Duration::from_micros(10);
                h.wall = h.wall.saturating_add(Duration::from_micros(if step % 3 == 0 { 40 } else { 0 }));
            });
        }
    });
}

#[test]
fn durations_are_read_and_written() {
    for (text, secs) in [("90s", 90), ("15m", 900), ("8h", 28_800), ("30d", 2_592_000), ("12w", 7_257_600)] {
        assert_eq!(parse_duration(text), Ok(Duration::from_secs(secs)), "{text}");
    }
    assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
    for text in ["", "5", "s", "1mo", "30D", "-3s", "1h30m", "1.5h", " 3s", "99999999999999999999s", "9999999w"] {
        assert_eq!(parse_duration(text), Err(TimeError::Duration), "{text}");
    }
    for text in ["250ms", "90s", "15m", "8h", "30d", "366d", "1001ms"] {
        assert_eq!(format_duration(parse_duration(text).unwrap()), text);
    }
}

#[test]
fn times_are_read_and_written() {
    let time: UnixTime = "2026-11-23T17:42:09Z".parse().unwrap();
    assert_eq!(time.to_string(), "2026-11-23T17:42:09.000000Z");
    assert_eq!("2026-11-23T18:42:09+01:00".parse(), Ok(time));
    assert_eq!(parse_time("-2h", time), Ok(time.saturating_sub(2 * HOUR)));
    assert_eq!(parse_time("+1d", time), Ok(time.saturating_add(DAY)));
    assert!(parse_time("yesterday", time).is_err());
    assert!(parse_time("1960-01-01T00:00:00Z", time).is_err());
    assert_eq!(UnixTime::MAX.saturating_add(DAY), UnixTime::MAX);
    UnixTime::MAX.to_string();
}
