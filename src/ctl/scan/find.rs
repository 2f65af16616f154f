//! Tokens among bytes: by their form and check digits alone, whatever stands around them.
//!
//! An underscore is looked for; what a token has around its first one is compared, and only what passes is parsed. No
//! boundary is asked for on either side: the check digits say where a token begins, so one that is stuck to other
//! letters (`TOKEN=…`, `tokenbrdm_…`, a name behind it in a binary) is found all the same, and noise passes once in 2³²
//! times that it has the form. In UTF-16 of either byte order a token's characters have a zero byte between them.
//!
//! Invariant I3: what is copied of a token is wiped.

use std::ops::Range;

use memchr::memchr_iter;
use zeroize::Zeroizing;

use crate::token::{CHECK_CHARS, ID_CHARS, Kind, SECRET_CHARS, Token};

/// The prefix, eight characters at most, and the letter of the kind.
const FRONT_MAX: usize = 9;
/// The shortest: two characters of prefix.
const FRONT_MIN: usize = 3;
/// From the first underscore to the end.
const BACK: usize = 1 + ID_CHARS + 1 + SECRET_CHARS + CHECK_CHARS;
/// So many bytes before a token's first underscore may be part of it.
pub(super) const BEFORE: usize = 2 * FRONT_MAX;
/// So many from that underscore on.
pub(super) const BEHIND: usize = 2 * BACK;

/// A token and its text. Both are wiped when dropped.
pub(super) struct Hit {
    /// Where its first byte is.
    pub at: usize,
    /// Where it ends.
    pub end: usize,
    pub token: Token,
    pub text: Zeroizing<String>,
}

/// Gives every token whose first underscore is in `range`, in order. What stands outside of the range is looked at.
pub(super) fn tokens(bytes: &[u8], range: Range<usize>, mut found: impl FnMut(Hit)) {
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at + BLOCK);
        // At the edges of the bytes there is no whole block to be looked at.
        if at == 0 || bytes.len() - at < REACH || promising(&bytes[at - 1..at + REACH]) {
            for underscore in memchr_iter(b'_', &bytes[at..end]) {
                if let Some(hit) = at_underscore(bytes, at + underscore) {
                    found(hit);
                }
            }
        }
        at = end;
    }
}

/// Underscores that are looked at together, at memory's pace, however many there are.
const BLOCK: usize = 64;
/// From the first byte of a block to the last that is looked at for it.
const REACH: usize = WIDE_SECOND + BLOCK;
/// From a token's first underscore to its second.
const SECOND: usize = 1 + ID_CHARS;
/// The same in UTF-16.
const WIDE_SECOND: usize = 2 * SECOND;

/// Whether a token may have its first underscore in the block that begins at the second of these bytes. Without branches,
/// so that the compiler makes it an operation on many bytes at a time.
fn promising(bytes: &[u8]) -> bool {
    let block = |from: usize| bytes[1 + from..][..BLOCK].iter();
    let before = bytes[..BLOCK].iter();
    let around = before.zip(block(0)).zip(block(1).zip(block(SECOND)).zip(block(WIDE_SECOND)));
    let any = around.fold(0u8, |any, ((&before, &here), ((&next, &second), &wide_second))| {
        let narrow = Kind::from_letter(before).is_some() & (second == b'_');
        let wide = (next == 0) & (wide_second == b'_');
        any | u8::from((here == b'_') & (narrow | wide))
    });
    any != 0
}

/// The same again, for one underscore.
fn at_underscore(bytes: &[u8], underscore: usize) -> Option<Hit> {
    let stride = if bytes.get(underscore + 1) == Some(&0) { 2 } else { 1 };
    let second = bytes.get(underscore + stride * SECOND);
    if second == Some(&b'_') { token(bytes, underscore, stride) } else { None }
}

/// The token around this underscore, its characters `stride` bytes apart.
fn token(bytes: &[u8], underscore: usize, stride: usize) -> Option<Hit> {
    let end = underscore + (BACK - 1) * stride + 1;
    let back = bytes.get(underscore..end)?;
    let letter = *bytes.get(underscore.checked_sub(stride)?)?;
    if Kind::from_letter(letter).is_none() || !(b'0'..=b'7').contains(&back[stride]) || !apart(back, stride) {
        return None;
    }
    let mut text = Zeroizing::new([0u8; FRONT_MAX + BACK]);
    for (to, from) in text[FRONT_MAX..].iter_mut().zip(back.iter().step_by(stride)) {
        *to = *from;
    }
    for front in 1..=FRONT_MAX {
        let at = underscore.checked_sub(front * stride)?;
        let c = bytes[at];
        if !(c.is_ascii_lowercase() || c.is_ascii_digit()) || !apart(&bytes[at..=at + stride], stride) {
            return None;
        }
        text[FRONT_MAX - front] = c;
        if front >= FRONT_MIN
            && let Ok(text) = std::str::from_utf8(&text[FRONT_MAX - front..])
            && let Ok(token) = Token::parse(text)
        {
            return Some(Hit { at, end, token, text: Zeroizing::new(text.to_owned()) });
        }
    }
    None
}

/// Whether nothing but zero bytes stands between the characters.
fn apart(bytes: &[u8], stride: usize) -> bool {
    stride == 1 || bytes.iter().skip(1).step_by(2).all(|&byte| byte == 0)
}

/// `text` with the secret part of every token in it left out, to be shown as a name.
pub(super) fn masked(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut from = 0;
    tokens(text.as_bytes(), 0..text.len(), |hit| {
        if let Some(before) = text.get(from..hit.at) {
            shown.push_str(before);
            shown.push_str(&hit.token.head());
            shown.push_str("_…");
            from = hit.end;
        }
    });
    shown.push_str(text.get(from..).unwrap_or_default());
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "brdm_01M844DZG0FAY828T5CY4TQKFF_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf2b9MjO";

    fn found(bytes: &[u8]) -> Vec<(usize, String)> {
        let mut all = Vec::new();
        tokens(bytes, 0..bytes.len(), |hit| all.push((hit.at, hit.text.to_string())));
        all
    }

    /// What people and programs put around tokens.
    #[test]
    fn a_token_is_found_whatever_it_is_stuck_to() {
        for (before, behind) in [
            ("", ""),
            ("\"", "\","),
            ("TOKEN=", "\n"),
            ("Authorization: Bearer ", "\r\n"),
            ("https://x:", "@host/"),
            ("token", "and more"),
            ("x_", "_x"),
            ("9", "9"),
            ("\0\0", "\0"),
            ("\u{fc}", "\u{fc}"),
            ("__", "__"),
            ("brdm_01M844DZG0FAY828T5CY4TQKFF_", ""),
            ("brdm_01M844DZG0", "brdm_01M844DZG0"),
        ] {
            let text = format!("{before}{TOKEN}{behind}");
            assert_eq!(found(text.as_bytes()), [(before.len(), TOKEN.to_owned())], "{text:?}");
        }
        let twice = format!("{TOKEN}{TOKEN}");
        assert_eq!(found(twice.as_bytes()), [(0, TOKEN.to_owned()), (TOKEN.len(), TOKEN.to_owned())]);
    }

    /// The vectors of the token format: what is a token is found, and nothing else.
    #[test]
    fn the_vectors_are_told_apart() {
        let vectors = include_str!("../../../tests/vectors/tokens.tsv");
        let mut seen = (0, 0);
        for (text, verdict) in vectors.lines().filter_map(|line| line.rsplit_once('\t')) {
            if text.starts_with('#') {
                continue;
            }
            let hits = found(text.as_bytes());
            match verdict {
                "ok" => {
                    seen.0 += 1;
                    assert_eq!(hits, [(0, text.to_owned())]);
                }
                // One that holds a token and more is no token, but one is found in it.
                _ if crate::token::holds_token(text) => assert_eq!(hits.len(), 1, "{text}"),
                _ => {
                    seen.1 += 1;
                    assert_eq!(hits, [], "{text}");
                }
            }
        }
        assert!(seen.0 >= 7 && seen.1 >= 20, "{seen:?}");
    }

    #[test]
    fn utf_16_is_read_in_either_byte_order() {
        for around in ["", "x", "\u{20ac}", "key=\""] {
            let text = format!("{around}{TOKEN}{around}");
            let units: Vec<u16> = text.encode_utf16().collect();
            let at = 2 * around.encode_utf16().count();
            let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
            assert_eq!(found(&little), [(at, TOKEN.to_owned())]);
            let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
            assert_eq!(found(&big), [(at + 1, TOKEN.to_owned())]);
        }
        // Something other than zero between two characters: no UTF-16.
        let mut broken: Vec<u8> = TOKEN.bytes().flat_map(|c| [c, 0]).collect();
        for at in [1, 3, 9, 101, 159] {
            broken[at] = b'x';
            assert_eq!(found(&broken), [], "{at}");
            broken[at] = 0;
        }
        assert_eq!(found(&broken).len(), 1);
    }

    #[test]
    fn a_name_is_shown_without_its_secret() {
        assert_eq!(masked("/tmp/plain_name.txt"), "/tmp/plain_name.txt");
        let head = &TOKEN[..31];
        assert_eq!(masked(&format!("/tmp/{TOKEN}.txt")), format!("/tmp/{head}_….txt"));
        assert_eq!(masked(&format!("ü{TOKEN}{TOKEN}ü")), format!("ü{head}_…{head}_…ü"));
    }
}
