//! New ids and secrets, from the operating system's generator.

use rand::TryRng;
use rand::rngs::SysRng;
use uuid::{ContextV7, Timestamp, Uuid};

use super::{Secret, TokenId};
use crate::time::UnixTime;

/// Fills `bytes` from the operating system's generator.
///
/// # Panics
/// When the generator fails, which `getrandom(2)` does not do once it is seeded: going on without randomness would make
/// guessable tokens.
pub fn random(bytes: &mut [u8]) {
    SysRng.try_fill_bytes(bytes).expect("getrandom(2) works once the kernel's generator is seeded");
}

/// A new 256-bit secret.
pub fn new_secret() -> Secret {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    random(&mut *bytes);
    Secret::from_bytes(*bytes)
}

/// Makes UUIDv7 ids (RFC 9562, 5.7, method 1 of 6.2) that grow even within a millisecond and when the clock stands still.
pub struct IdSource(std::sync::Mutex<ContextV7>);

impl Default for IdSource {
    fn default() -> Self {
        Self(std::sync::Mutex::new(ContextV7::new()))
    }
}

impl IdSource {
    /// The next id; `now` comes from the high-water clock, so that ids also grow over a restart.
    pub fn next(&self, now: UnixTime) -> TokenId {
        let context = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let nanos = (now.as_micros() % 1_000_000 * 1_000) as u32;
        TokenId::from_bytes(*Uuid::new_v7(Timestamp::from_unix(&*context, now.as_secs(), nanos)).as_bytes())
    }
}
