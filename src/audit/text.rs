//! The pieces that a line's JSON and its syslog message are made of, written straight into the buffer.
//!
//! Invariant: the same bytes as the types' `Display` and `serde_json` would give (tests compare them): every line passes
//! here before its verdict is given, so that it is worth doing by hand. Whatever is unusual goes the general way.

use std::fmt::{self, Write as _};

use super::escape::visible;
use crate::time::UnixTime;
use crate::token::TokenId;

/// Stands for itself in JSON, and nothing in it could do harm.
const PLAIN: u8 = 1;
/// Needs no quotes in logfmt either.
const BARE: u8 = 2;

/// What a byte of a peer's text is, by itself.
static CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut c = b' ';
    while c <= b'~' {
        class[c as usize] = match c {
            b'"' | b'\\' => 0,
            b' ' | b'=' => PLAIN,
            _ => PLAIN | BARE,
        };
        c += 1;
    }
    class
};

/// Crockford's base32, as ids are written in.
static DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

fn all(text: &str, class: u8) -> bool {
    text.bytes().fold(class, |all, c| all & CLASS[usize::from(c)]) == class
}

/// Whether a text stands in a message as it is, without quotes.
pub(super) fn is_bare(text: &str) -> bool {
    !text.is_empty() && all(text, PLAIN | BARE)
}

/// A string in JSON, quotes and all, harmless and cut to `max` bytes.
pub(super) fn json(text: &str, max: usize, out: &mut Vec<u8>) {
    if text.len() > max || !all(text, PLAIN) {
        serde_json::to_writer(out, &*visible(text, max)).expect("a string into a Vec");
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// A number in decimal.
pub(super) fn number(mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A number that may be negative.
pub(super) fn signed(value: i32, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    number(value.unsigned_abs().into(), out);
}

/// An id, as its `Display`.
pub(super) fn id(id: TokenId, out: &mut Vec<u8>) {
    let mut value = u128::from_be_bytes(*id.as_bytes());
    let mut text = [0; 26];
    for c in text.iter_mut().rev() {
        *c = DIGITS[(value & 31) as usize];
        value >>= 5;
    }
    out.extend_from_slice(&text);
}

/// A time, as its `Display`: `2026-11-23T17:42:09.000000Z`.
pub(super) fn time(time: UnixTime, out: &mut Vec<u8>) {
    let micros = time.as_micros();
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, so that a leap day is the last of its year; eras of 400 years are all alike.
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = 400 * era + year + u64::from(month <= 2);
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    let fields = [
        (0, 4, year),
        (5, 2, month),
        (8, 2, day),
        (11, 2, second / 3600),
        (14, 2, second / 60 % 60),
        (17, 2, second % 60),
        (20, 6, micros),
    ];
    for (at, width, mut value) in fields {
        for c in text[at..at + width].iter_mut().rev() {
            *c = b'0' + (value % 10) as u8;
            value /= 10;
        }
    }
    out.extend_from_slice(&text);
}

/// Whatever else prints itself.
pub(super) fn shown(value: impl fmt::Display, out: &mut Vec<u8>) {
    let _ = write!(Utf8(out), "{value}");
}

/// `fmt::Write` onto bytes.
struct Utf8<'a>(&'a mut Vec<u8>);

impl fmt::Write for Utf8<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_at_the_edges_are_as_they_print() {
        let days = [0, 58, 59, 789, 790, 11_016, 11_017, 47_540, 47_541, 2_932_896];
        for day in days {
            for micros in [0, 1, 86_399_999_999] {
                let at = UnixTime::from_micros(day * 86_400_000_000 + micros);
                assert_eq!(of(|out| time(at, out)), at.to_string());
            }
        }
        assert_eq!(of(|out| time(UnixTime::MAX, out)), UnixTime::MAX.to_string());
    }

    proptest! {
        #[test]
        fn pieces_are_as_they_print(
            micros in 0..=UnixTime::MAX.as_micros(), bytes in any::<[u8; 16]>(), value in any::<u64>(), short in 0..1000_u64,
        ) {
            let at = UnixTime::from_micros(micros);
            prop_assert_eq!(of(|out| time(at, out)), at.to_string());
            let token = TokenId::from_bytes(bytes);
            prop_assert_eq!(of(|out| id(token, out)), token.to_string());
            prop_assert_eq!(of(|out| number(value, out)), value.to_string());
            prop_assert_eq!(of(|out| number(short, out)), short.to_string());
        }

        #[test]
        fn strings_are_as_serde_writes_them(text in "(\\PC|[ -~]|[\"\\\\\n=]){0,40}", max in 0..50_usize) {
            prop_assert_eq!(of(|out| json(&text, max, out)), serde_json::to_string(&visible(&text, max)).unwrap());
            let bare = !text.is_empty()
                && text.bytes().all(|c| c.is_ascii_graphic() && !matches!(c, b'"' | b'=' | b'\\'));
            prop_assert_eq!(is_bare(&text), bare);
        }
    }
}
