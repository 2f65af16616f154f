//! Colour, and text that is safe to show.
//!
//! Ink is put into a text as characters of no width, so that tables can be laid out first; at the end they become the
//! terminal's codes, or nothing.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::protocol::is_hostile;

/// What a text means; the colour follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// As it should be.
    Good,
    /// Ended, refused, broken.
    Bad,
    /// Worth a look.
    Warn,
    /// Beside the point.
    Dim,
    /// Headings.
    Strong,
    /// What a person would type.
    Typed,
}

/// Opens ink: this and the number of the ink. Variation selectors have no width and stay with what stands before them.
const OPEN: u32 = 0xE0100;
const CLOSE: char = '\u{E01EF}';
const INKS: [(Ink, &str); 6] = [
    (Ink::Good, "\x1b[32m"),
    (Ink::Bad, "\x1b[31m"),
    (Ink::Warn, "\x1b[33m"),
    (Ink::Dim, "\x1b[2m"),
    (Ink::Strong, "\x1b[1m"),
    (Ink::Typed, "\x1b[36m"),
];
const RESET: &str = "\x1b[0m";

fn is_mark(c: char) -> bool {
    (OPEN..=u32::from(CLOSE)).contains(&u32::from(c))
}

/// `text` in that ink.
pub fn ink(ink: Ink, text: &str) -> String {
    let open = char::from_u32(OPEN + ink as u32).expect("a few code points on from a valid one");
    format!("{open}{text}{CLOSE}")
}

/// Turns ink into the codes of a terminal, or leaves it out. Ink ends with its line.
pub fn resolve(text: &str, colour: bool) -> Cow<'_, str> {
    if !text.contains(is_mark) {
        return Cow::Borrowed(text);
    }
    let mut resolved = String::with_capacity(text.len() + 64);
    let mut open = false;
    for c in text.chars() {
        if is_mark(c) {
            let code = INKS.get((u32::from(c) - OPEN) as usize);
            match code {
                Some((_, code)) if colour => resolved.push_str(code),
                None if colour && open => resolved.push_str(RESET),
                _ => {}
            }
            open = code.is_some();
        } else {
            if c == '\n' && std::mem::take(&mut open) && colour {
                resolved.push_str(RESET);
            }
            resolved.push(c);
        }
    }
    Cow::Owned(resolved)
}

/// `text` with what could forge or turn a line made visible, and without anything that would be taken for ink.
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| is_hostile(c) || is_mark(c)) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hostile(c) {
            cleaned.extend(c.escape_unicode());
        } else if !is_mark(c) {
            cleaned.push(c);
        }
    }
    Cow::Owned(cleaned)
}

/// Columns that `text` takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// `text` in at most `columns`, with a mark where something was cut off. Ink is closed again.
pub fn shorten(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let mut short = cut(text, columns.saturating_sub(1));
    short.push('…');
    if short.contains(is_mark) {
        short.push(CLOSE);
    }
    Cow::Owned(short)
}

/// The beginning of `text` in at most `columns`, without a mark: for ids, whose beginnings are as good as they are.
pub fn cut(text: &str, columns: usize) -> String {
    let mut used = 0;
    let whole = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= columns
    };
    text.chars().take_while(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ink_has_no_width_and_becomes_codes_or_nothing() {
        for (nth, (which, code)) in INKS.into_iter().enumerate() {
            assert_eq!(which as usize, nth);
            let text = ink(which, "text");
            assert_eq!(width(&text), 4);
            assert_eq!(resolve(&text, false), "text");
            assert_eq!(resolve(&text, true), format!("{code}text\x1b[0m"));
        }
        let cut = ink(Ink::Bad, "a\nb");
        assert_eq!(resolve(&cut, true), "\x1b[31ma\x1b[0m\nb");
    }

    /// Terminal escapes, line feeds and direction characters of others are shown, not obeyed.
    #[test]
    fn text_of_others_cant_write_on_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(clean("a\nb\r\u{202E}c"), "a\\u{a}b\\u{d}\\u{202e}c");
        assert_eq!(clean(&format!("x{}", ink(Ink::Good, "forged"))), "xforged");
        assert_eq!(clean("plain ü 名"), "plain ü 名");
    }

    #[test]
    fn shortening_counts_columns_not_bytes() {
        assert_eq!(shorten("äöüß", 4), "äöüß");
        assert_eq!(shorten("äöüßx", 4), "äöü…");
        assert_eq!(shorten("名名名", 5), "名名…");
        assert_eq!(shorten("名名名", 4), "名…");
        assert_eq!(resolve(&shorten(&ink(Ink::Good, "active"), 4), true), "\x1b[32mact…\x1b[0m");
        assert_eq!(cut("01M844DZG0FAY828T5CY", 16), "01M844DZG0FAY828");
    }
}
