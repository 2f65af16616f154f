//! Faults made on purpose, which the tests must notice: a test that no fault can fail proves nothing.
//!
//! Only with the feature `mutants`, which no build that is meant for use has (`lib.rs` refuses it without debug
//! assertions). `BEARERD_MUTANT` names the one that a process has, daemon or client; `tests/mutants.rs` goes through all.

use std::str::FromStr;
use std::sync::OnceLock;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

/// Which process has which fault is said here.
const VARIABLE: &str = "BEARERD_MUTANT";
/// Long enough for a reply to be out, or for a change to be made and answered.
const WHILE: Duration = Duration::from_millis(400);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

macro_rules! mutants {
    ($($(#[doc = $what:literal])* $variant:ident = $name:literal,)*) => {
        /// A fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant { $($(#[doc = $what])* $variant,)* }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As the variable names it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

mutants! {
    /// What a restriction bumps, slot or generation, is bumped when its reply is out.
    BumpAfterReply = "bump-after-reply",
    /// A lookup reads the token's slot after the record.
    SlotAfterState = "slot-after-state",
    /// validate reads the generation after policy and state.
    GenerationAfterState = "generation-after-state",
    /// The generation is bumped before an order is refused in memory.
    GenerationBeforeOrder = "generation-before-order",
    /// A client does not look at the heartbeat's age.
    NoLease = "no-lease",
    /// A daemon that follows a killed one acknowledges at once.
    NoTakeover = "no-takeover",
    /// An early stop, while the last daemon's caches may count, is called orderly.
    HastyStop = "hasty-stop",
    /// A stop in good order leaves the page open.
    NoClose = "no-close",
    /// Changes of a token do not bump its slot.
    NoSlot = "no-slot",
    /// Orders and reloads do not bump the generation.
    NoGeneration = "no-generation",
    /// A client believes a page by another clock.
    AnyClock = "any-clock",
}

impl FromStr for Mutant {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|it| it.name() == name).ok_or_else(|| format!("{VARIABLE}: no mutant {name}"))
    }
}

impl Mutant {
    /// Whether this process has it.
    ///
    /// # Panics
    /// When the variable names none: a test that misspells one must not pass.
    pub fn is_on(self) -> bool {
        static CHOSEN: OnceLock<Option<Mutant>> = OnceLock::new();
        let chosen = || {
            let name = std::env::var(VARIABLE).ok().filter(|name| !name.is_empty())?;
            Some(name.parse().unwrap_or_else(|error| panic!("{error}")))
        };
        *CHOSEN.get_or_init(chosen) == Some(self)
    }
}

/// Does it when the reply to what is done now is out.
pub fn late(what: impl FnOnce() + Send + 'static) {
    spawn(|| {
        sleep(WHILE);
        what();
    });
}

/// Holds a window open, in which something else must happen for a fault to show: until it has, or for a while.
pub fn window(happened: impl Fn() -> bool) {
    let end = Instant::now() + WHILE;
    while !happened() && Instant::now() < end {
        sleep(LOOK_AGAIN);
    }
}
