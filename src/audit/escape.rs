//! What peers wrote, made harmless for a log and for the terminal that shows it.
//!
//! Invariant: no control, bidi or line-breaking character of a peer reaches a line, a datagram or a terminal, not even
//! once JSON's own escapes are undone: `\x1b` stands there as four visible characters. A literal backslash stays what
//! it is, so that `CORP\alice` can be searched for; a peer can thus write something that looks like an escape, which
//! harms nobody.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Longest name, subject, audience, scope or outcome in a line, in bytes.
pub(super) const NAME_MAX: usize = 128;
/// Longest note, reason, unit or container in a line, in bytes.
pub(super) const NOTE_MAX: usize = 256;

/// Longest note of an order, in bytes: the longest filter, and whose tokens it is for.
pub(super) const ORDER_NOTE_MAX: usize = crate::protocol::filter::FILTER_TEXT_MAX + 512;

/// Whether a character may stand in a line as it is.
fn harmless(c: char) -> bool {
    !matches!(
        c,
        '\0'..='\x1f'                     // C0: newline, ESC, backspace
        | '\x7f'..='\u{9f}'               // DEL and C1: CSI as one character, NEL
        | '\u{61c}'                       // Arabic letter mark
        | '\u{200e}' | '\u{200f}'         // left-to-right and right-to-left marks
        | '\u{2028}' | '\u{2029}'         // line and paragraph separators: some readers split lines there
        | '\u{202a}'..='\u{202e}'         // embeddings and overrides
        | '\u{2066}'..='\u{2069}'         // isolates
        | '\u{feff}'                      // byte order mark
    )
}

/// `text` with what could do harm written visibly (`\x1b`, `\u{202e}`), cut to `max` bytes of the original with `…`.
pub(super) fn visible(text: &str, max: usize) -> Cow<'_, str> {
    let mut cut = text.len().min(max);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    let kept = &text[..cut];
    if cut == text.len() && kept.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(kept.len() + 16);
    for c in kept.chars() {
        if harmless(c) {
            out.push(c);
        } else if c.is_ascii() {
            let _ = write!(out, "\\x{:02x}", u32::from(c));
        } else {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        }
    }
    if cut < text.len() {
        out.push('…');
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_harms_is_written_out() {
        assert_eq!(visible("plain ünï", 128), "plain ünï");
        assert_eq!(visible("a\nb\x1b[2J\x7f", 128), "a\\x0ab\\x1b[2J\\x7f");
        assert_eq!(visible("\u{9b}31m\u{202e}gpj\u{2028}\u{61c}", 128), "\\u{9b}31m\\u{202e}gpj\\u{2028}\\u{61c}");
        assert_eq!(visible("CORP\\alice", 128), "CORP\\alice");
    }

    #[test]
    fn it_is_cut_at_a_character() {
        assert_eq!(visible("aé", 2), "a…");
        assert_eq!(visible("aé", 3), "aé");
        assert_eq!(visible(&"x".repeat(300), 256).len(), 256 + '…'.len_utf8());
    }

    proptest! {
        #[test]
        fn nothing_harmful_is_left(text in any::<String>(), max in 0_usize..64) {
            let shown = visible(&text, max);
            prop_assert!(shown.chars().all(harmless));
            prop_assert!(shown.len() <= max * 5 + '…'.len_utf8());
        }
    }
}
