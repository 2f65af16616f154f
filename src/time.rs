//! Time: [`UnixTime`], the [`Clock`] that everything is told the time by, and the durations that people write.
//!
//! Invariant I8: no clock step lengthens a life. The clock is the later of the wall clock and a high-water mark plus
//! what CLOCK_BOOTTIME says has passed since, so that setting the wall clock back changes nothing.

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A forward step of the wall clock against CLOCK_BOOTTIME that is larger than this is not believed for good at once.
pub const STEP_MAX: Duration = Duration::from_secs(5 * 60);
/// How long such a step must last before it is believed without the kernel's word that the clock is synchronised.
pub const STEP_SETTLES: Duration = Duration::from_secs(10 * 60);

/// Microseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(from = "u64")]
pub struct UnixTime(u64);

impl From<u64> for UnixTime {
    fn from(micros: u64) -> Self {
        Self::from_micros(micros)
    }
}

impl UnixTime {
    /// The latest time that prints in RFC 3339 (the year 9999); what is computed beyond it stops here.
    pub const MAX: Self = Self(253_402_207_200_000_000);
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// From microseconds; later than [`Self::MAX`] becomes that.
    pub const fn from_micros(micros: u64) -> Self {
        if micros > Self::MAX.0 { Self::MAX } else { Self(micros) }
    }

    /// From seconds; later than [`Self::MAX`] becomes that.
    pub const fn from_secs(secs: u64) -> Self {
        Self::from_micros(secs.saturating_mul(1_000_000))
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000
    }

    /// This time and `duration` more, at most [`Self::MAX`].
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self::from_micros(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }

    /// This time less `duration`, at least the epoch.
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How much later this is than `earlier`; zero when it is not later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// RFC 3339 in UTC with microseconds: `2026-11-23T17:42:09.000000Z`.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_microsecond(self.0 as i64).expect("at most UnixTime::MAX");
        write!(f, "{time:.6}")
    }
}

impl fmt::Debug for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Parses RFC 3339 with any offset.
impl FromStr for UnixTime {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        let time: jiff::Timestamp = text.parse().map_err(|_| TimeError::Time)?;
        u64::try_from(time.as_microsecond()).map(Self::from_micros).map_err(|_| TimeError::Time)
    }
}

/// A duration or time as a person wrote it that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimeError {
    /// Not a whole number with one of the units.
    #[error("not a duration: write a whole number and a unit, as in 250ms, 90s, 15m, 8h, 30d or 12w")]
    Duration,
    /// Neither RFC 3339 nor an offset from now.
    #[error("not a time: write RFC 3339, as in 2026-11-23T17:00:00Z, or an offset from now, as in -2h or +30d")]
    Time,
}

/// Parses `250ms`, `90s`, `15m`, `8h`, `30d`, `12w`: one whole number, one unit; a day is 24 hours.
///
/// # Errors
/// [`TimeError::Duration`] for anything else, and for what is longer than 1,000 years.
pub fn parse_duration(text: &str) -> Result<Duration, TimeError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| TimeError::Duration)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        _ => return Err(TimeError::Duration),
    };
    const THOUSAND_YEARS_MILLIS: u64 = 366_000 * 86_400_000;
    match number.checked_mul(millis) {
        Some(millis) if millis <= THOUSAND_YEARS_MILLIS => Ok(Duration::from_millis(millis)),
        _ => Err(TimeError::Duration),
    }
}

/// Writes a duration in the form that [`parse_duration`] reads, in the largest unit that leaves a whole number.
pub fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, size) in [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        // Days read better than weeks until there are months of them.
        if millis >= size && millis.is_multiple_of(size) && !(unit == "w" && millis < 52 * 604_800_000) {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}

/// Parses RFC 3339, or an offset from `now`: `-2h`, `+30d`.
///
/// # Errors
/// [`TimeError::Time`] for anything else.
pub fn parse_time(text: &str, now: UnixTime) -> Result<UnixTime, TimeError> {
    if let Some(offset) = text.strip_prefix('-') {
        return parse_duration(offset).map(|d| now.saturating_sub(d)).map_err(|_| TimeError::Time);
    }
    if let Some(offset) = text.strip_prefix('+') {
        return parse_duration(offset).map(|d| now.saturating_add(d)).map_err(|_| TimeError::Time);
    }
    text.parse()
}

/// Where a [`Clock`] reads time. The system's is [`SystemTime`]; tests own theirs.
pub trait TimeSource: Send + Sync {
    /// The wall clock, CLOCK_REALTIME.
    fn wall(&self) -> UnixTime;
    /// CLOCK_BOOTTIME: runs on in suspend, is never set.
    fn boottime(&self) -> Duration;
    /// Whether the kernel says that the wall clock is synchronised (`adjtimex(2)`, STA_UNSYNC clear).
    fn synchronised(&self) -> bool;
    /// Names this boot: boottimes of different boots can't be compared.
    fn boot_id(&self) -> [u8; 16];
}

/// The high-water mark as it is persisted: a time that has certainly passed, and the boottime at which it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The latest time that is believed to have passed.
    pub time: UnixTime,
    /// CLOCK_BOOTTIME then, in microseconds.
    pub boottime_micros: u64,
    /// The boot that `boottime_micros` is of.
    pub boot_id: [u8; 16],
}

struct State {
    mark: Mark,
    /// Since when (boottime) the wall clock has been further ahead than [`STEP_MAX`].
    stepped_since: Option<Duration>,
}

impl State {
    fn ahead(&self) -> i64 {
        let micros = |micros: u64| i64::try_from(micros).unwrap_or(i64::MAX);
        match self.stepped_since {
            Some(_) => LOOK,
            None => micros(self.mark.time.as_micros()) - micros(self.mark.boottime_micros),
        }
    }

    fn move_on(&mut self, wall: UnixTime, boottime: Duration, synchronised: impl FnOnce() -> bool) -> UnixTime {
        let elapsed = boottime.saturating_sub(Duration::from_micros(self.mark.boottime_micros));
        let counted = self.mark.time.saturating_add(elapsed);
        if wall <= counted {
            self.stepped_since = None;
            return counted;
        }
        let believed = if wall.since(counted) <= STEP_MAX {
            true
        } else {
            let since = *self.stepped_since.get_or_insert(boottime);
            boottime.saturating_sub(since) >= STEP_SETTLES || synchronised()
        };
        if believed {
            self.stepped_since = None;
            self.mark.time = wall;
            self.mark.boottime_micros = u64::try_from(boottime.as_micros()).unwrap_or(u64::MAX);
        }
        wall
    }
}

/// Tells the time that lives are measured by: `max(wall clock, high-water mark + boottime since)`.
///
/// A forward step of more than [`STEP_MAX`] counts at once but moves the mark only once it has lasted
/// [`STEP_SETTLES`] or the kernel says that the clock is synchronised, so that a false date can be taken back.
pub struct Clock {
    source: Box<dyn TimeSource>,
    state: Mutex<State>,
    /// How far the mark is ahead of CLOCK_BOOTTIME, in microseconds; [`LOOK`] while a step is being watched. While the
    /// wall clock says no more than that, which is nearly always, there is nothing to change and so nothing to lock.
    ahead: AtomicI64,
}

/// Look at the state.
const LOOK: i64 = i64::MIN;

impl Clock {
    /// A clock that continues from the persisted mark, or begins at the wall clock when there is none.
    pub fn new(source: Box<dyn TimeSource>, persisted: Option<Mark>) -> Self {
        let boottime = source.boottime();
        let boot_id = source.boot_id();
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let mark = match persisted {
            // The same boot: what CLOCK_BOOTTIME counted while nobody looked has passed too.
            Some(mark) if mark.boot_id == boot_id => {
                let elapsed = micros(boottime).saturating_sub(mark.boottime_micros);
                Mark {
                    time: mark.time.saturating_add(Duration::from_micros(elapsed)),
                    boottime_micros: micros(boottime),
                    boot_id,
                }
            }
            Some(mark) => Mark { boottime_micros: micros(boottime), boot_id, ..mark },
            None => Mark { time: source.wall(), boottime_micros: micros(boottime), boot_id },
        };
        let state = State { mark, stepped_since: None };
        let clock = Self { source, ahead: AtomicI64::new(state.ahead()), state: Mutex::new(state) };
        clock.now();
        clock
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Now.
    pub fn now(&self) -> UnixTime {
        let wall = self.source.wall();
        let boottime = self.source.boottime();
        let ahead = self.ahead.load(Ordering::Acquire);
        if ahead != LOOK {
            let counted = ahead.saturating_add(i64::try_from(boottime.as_micros()).unwrap_or(i64::MAX));
            let counted = UnixTime::from_micros(u64::try_from(counted).unwrap_or(0));
            if wall <= counted {
                return counted;
            }
        }
        self.move_on(wall, boottime)
    }

    /// The wall clock is ahead of the mark, or was.
    fn move_on(&self, wall: UnixTime, boottime: Duration) -> UnixTime {
        let mut state = self.state();
        let now = state.move_on(wall, boottime, || self.source.synchronised());
        self.ahead.store(state.ahead(), Ordering::Release);
        now
    }

    /// The mark to persist: what is believed to have passed by now.
    pub fn mark(&self) -> Mark {
        self.now();
        let boottime = self.source.boottime();
        let state = self.state();
        let micros = u64::try_from(boottime.as_micros()).unwrap_or(u64::MAX);
        let elapsed = Duration::from_micros(micros.saturating_sub(state.mark.boottime_micros));
        Mark { time: state.mark.time.saturating_add(elapsed), boottime_micros: micros, boot_id: state.mark.boot_id }
    }

    /// Whether a forward step is counted but not yet believed: nothing may be purged meanwhile.
    pub fn unsettled(&self) -> bool {
        self.now();
        self.state().stepped_since.is_some()
    }

    /// How far the wall clock is behind the time that counts.
    pub fn behind(&self) -> Duration {
        let now = self.now();
        now.since(self.source.wall())
    }

    /// Whether the kernel says that the wall clock is synchronised.
    pub fn synchronised(&self) -> bool {
        self.source.synchronised()
    }

    /// CLOCK_BOOTTIME.
    pub fn boottime(&self) -> Duration {
        self.source.boottime()
    }

    /// Takes a wrong mark back: the wall clock is the time from now on. An administrator's decision, and audited.
    ///
    /// Returns the new time, and the old mark for [`Self::undo_reset`], should the decision not become durable.
    pub fn reset(&self) -> (UnixTime, Mark) {
        let before = self.mark();
        let wall = self.source.wall();
        let boottime = self.source.boottime();
        let mut state = self.state();
        state.stepped_since = None;
        state.mark.time = wall;
        state.mark.boottime_micros = u64::try_from(boottime.as_micros()).unwrap_or(u64::MAX);
        self.ahead.store(state.ahead(), Ordering::Release);
        (wall, before)
    }

    /// Puts back a mark that a reset took away.
    pub fn undo_reset(&self, before: Mark) {
        let mut state = self.state();
        state.mark = before;
        self.ahead.store(state.ahead(), Ordering::Release);
    }
}

/// The time of the running system.
#[cfg(feature = "daemon")]
pub struct SystemTime {
    boot_id: [u8; 16],
}

#[cfg(feature = "daemon")]
impl SystemTime {
    /// Reads which boot this is.
    pub fn new() -> Self {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        // Without a boot id no two boots may look the same: elapsed time would be taken from another clock.
        let boot_id = uuid::Uuid::parse_str(text.trim()).map(uuid::Uuid::into_bytes).unwrap_or_else(|_| {
            let mut random = [0; 16];
            crate::token::random(&mut random);
            random
        });
        Self { boot_id }
    }
}

#[cfg(feature = "daemon")]
impl Default for SystemTime {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "daemon")]
impl TimeSource for SystemTime {
    fn wall(&self) -> UnixTime {
        wall_now()
    }

    fn boottime(&self) -> Duration {
        let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("Linux has CLOCK_BOOTTIME");
        Duration::from(time)
    }

    fn synchronised(&self) -> bool {
        crate::sys::clock_synchronised()
    }

    fn boot_id(&self) -> [u8; 16] {
        self.boot_id
    }
}

/// The wall clock, for programs that have no [`Clock`]: the command line's relative times.
pub fn wall_now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Time that a test moves by hand.
#[cfg(any(test, feature = "daemon"))]
pub mod manual {
    use super::{Duration, TimeSource, UnixTime};
    use std::sync::{Arc, Mutex};

    /// What the hands stand at.
    #[derive(Clone, Copy, Debug)]
    pub struct Hands {
        /// The wall clock.
        pub wall: UnixTime,
        /// Time since boot.
        pub boottime: Duration,
        /// What the kernel says of synchronisation.
        pub synchronised: bool,
        /// Which boot.
        pub boot_id: [u8; 16],
    }

    /// A clock face that a test holds; clones share it.
    #[derive(Clone, Debug)]
    pub struct ManualTime(Arc<Mutex<Hands>>);

    impl ManualTime {
        /// Begins at `wall`, one hour after boot, not synchronised.
        pub fn new(wall: UnixTime) -> Self {
            let hands = Hands { wall, boottime: Duration::from_secs(3600), synchronised: false, boot_id: [1; 16] };
            Self(Arc::new(Mutex::new(hands)))
        }

        /// Moves the hands.
        pub fn set(&self, change: impl FnOnce(&mut Hands)) {
            change(&mut self.0.lock().expect("no test panics while it holds the hands"));
        }

        /// Lets time pass on both clocks.
        pub fn pass(&self, time: Duration) {
            self.set(|hands| {
                hands.wall = hands.wall.saturating_add(time);
                hands.boottime += time;
            });
        }

        fn hands(&self) -> Hands {
            *self.0.lock().expect("no test panics while it holds the hands")
        }
    }

    impl TimeSource for ManualTime {
        fn wall(&self) -> UnixTime {
            self.hands().wall
        }

        fn boottime(&self) -> Duration {
            self.hands().boottime
        }

        fn synchronised(&self) -> bool {
            self.hands().synchronised
        }

        fn boot_id(&self) -> [u8; 16] {
            self.hands().boot_id
        }
    }
}

#[cfg(test)]
mod tests;
