//! The text of a token that another system made: what may be imported, and what is too weak to be.
//!
//! Invariant: nothing is taken that could be guessed or mistyped into. A token of ours has 256 random bits; of another's
//! only the text is known, so what it is worth is estimated, and the estimate errs downwards: by the characters it is made
//! of, less what is repeated, counted up or down, typed along a keyboard, or may be a word. The estimator of passwords in
//! the crate `zxcvbn` is for what people type: it takes quadratic time and more, and brings dictionaries of megabytes into
//! a daemon that reads this from peers. This one looks at a text until it is worth enough, and back no further than so far.

use super::{Malformed, TEXT_MAX, Token, holds_token};

/// Shortest text that is imported, in bytes.
pub const TEXT_MIN: usize = 16;
/// Bits that a text must be worth.
pub const BITS_MIN: f64 = 64.0;
/// Different characters that a text must have.
pub const DISTINCT_MIN: usize = 6;

/// How far back a repetition is looked for.
const LOOK_BACK: usize = 256;
/// A repetition, a sequence or a walk over the keyboard counts as such from this length on.
const PATTERN_MIN: usize = 3;
/// Letters in a row that may be a word, and what each of them may be worth.
const WORD: (usize, f64) = (5, 2.5);
/// The same in a text without a digit, as people write: that has one to two bits a letter.
const PROSE: (usize, f64) = (2, 1.5);
/// So many consonants in a row stand in hardly any word, and in most random letters.
const CONSONANTS_MAX: usize = 5;
/// What a sequence or a walk is worth in all: where it begins, which way it goes, how far.
const PATTERN_BITS: f64 = 8.0;
/// Rows of a keyboard.
const ROWS: [&[u8]; 4] = [b"1234567890", b"qwertyuiop", b"asdfghjkl", b"zxcvbnm"];

/// Why a text can't be imported. Never repeats any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// Too short or too long.
    #[error("a token is {TEXT_MIN} to {TEXT_MAX} bytes long")]
    Length,
    /// Not what can stand in a header.
    #[error("a token is printable ASCII, and has no space at either end")]
    NotPrintable,
    /// A token of bearerd, whole, mistyped or with something around it.
    #[error("it looks like a token of bearerd itself: those are issued, not imported")]
    OwnForm,
    /// It could be guessed.
    #[error(
        "it is too weak: it could be guessed by its repetitions, sequences or words, or has too few different characters; have its system make another, random one"
    )]
    Weak,
}

/// Whether `text` may be imported: length, characters, strength.
///
/// # Errors
/// [`Unfit`]: the first reason why not.
pub fn check(text: &str) -> Result<(), Unfit> {
    if !may_be(text) {
        let long = !(TEXT_MIN..=TEXT_MAX).contains(&text.len());
        return Err(if long { Unfit::Length } else { Unfit::NotPrintable });
    }
    if holds_token(text) || !matches!(Token::parse(text), Err(Malformed::Length | Malformed::Prefix | Malformed::Kind))
    {
        return Err(Unfit::OwnForm);
    }
    if strength_bits(text.as_bytes()) < BITS_MIN {
        return Err(Unfit::Weak);
    }
    Ok(())
}

/// Whether `text` could be an imported token at all: what is not is not looked up.
pub fn may_be(text: &str) -> bool {
    let bytes = text.as_bytes();
    (TEXT_MIN..=TEXT_MAX).contains(&bytes.len())
        && bytes.iter().all(|c| matches!(c, b' '..=b'~'))
        && bytes.first() != Some(&b' ')
        && bytes.last() != Some(&b' ')
}

/// About how many guesses a text is worth, in bits, at the least; zero with too few different characters. Counts no
/// further than to what is enough, so that the longest text takes no more work than a short one.
fn strength_bits(text: &[u8]) -> f64 {
    let mut seen = [false; 256];
    for &c in text {
        seen[usize::from(c)] = true;
    }
    if seen.iter().filter(|seen| **seen).count() < DISTINCT_MIN {
        return 0.0;
    }
    let each = alphabet(text).log2();
    let (word_min, word_bits) = if text.iter().any(u8::is_ascii_digit) { WORD } else { PROSE };
    let mut bits = 0.0;
    let mut at = 0;
    while at < text.len() && bits < BITS_MIN {
        let repeated = repeated(text, at);
        let walked = sequence(&text[at..]).max(walk(&text[at..]));
        let word = word(&text[at..]);
        let (len, worth) = if repeated.max(walked) >= PATTERN_MIN {
            // A repetition says from where and how far; no pattern is worth more than what it stands for.
            let pattern = if repeated >= walked { (at as f64 + 1.0).log2() + 2.0 } else { PATTERN_BITS };
            let len = repeated.max(walked);
            (len, pattern.min(each * len as f64))
        } else if word >= word_min {
            (word, word_bits.min(each) * word as f64)
        } else {
            (1, each)
        };
        bits += worth;
        at += len;
    }
    bits
}

/// How many different characters a text like this could have been drawn from.
fn alphabet(text: &[u8]) -> f64 {
    let any = |kind: fn(&u8) -> bool| text.iter().any(kind);
    let digits = if any(u8::is_ascii_digit) { 10 } else { 0 };
    let hex_only = |letter: u8| text.iter().all(|c| !c.is_ascii_alphabetic() || (letter..letter + 6).contains(c));
    // What is set between groups (in UUIDs, in words) is no choice.
    let letters = match (any(u8::is_ascii_lowercase), any(u8::is_ascii_uppercase)) {
        (true, false) if digits > 0 && hex_only(b'a') => 6,
        (false, true) if digits > 0 && hex_only(b'A') => 6,
        (lower, upper) => 26 * (u32::from(lower) + u32::from(upper)),
    };
    let mut others: Vec<u8> = text.iter().copied().filter(|c| !c.is_ascii_alphanumeric()).collect();
    others.sort_unstable();
    others.dedup();
    f64::from((digits + letters).max(2) + others.len() as u32)
}

/// How many characters from `at` on stand in this order before it, within [`LOOK_BACK`]; also overlapping, as in `aaaa`.
fn repeated(text: &[u8], at: usize) -> usize {
    let rest = &text[at..];
    let length = |from: usize| text[from..].iter().zip(rest).take_while(|(before, now)| before == now).count();
    (at.saturating_sub(LOOK_BACK)..at).map(length).max().unwrap_or(0)
}

/// How many characters count up or down: `abcdef`, `4321`.
fn sequence(text: &[u8]) -> usize {
    let step = |up: bool| {
        let next = |pair: &[u8]| if up { pair[0].checked_add(1) } else { pair[0].checked_sub(1) } == Some(pair[1]);
        1 + text.windows(2).take_while(|pair| next(pair)).count()
    };
    step(true).max(step(false))
}

/// How many characters stand side by side on a keyboard: `qwerty`, `lkjh`.
fn walk(text: &[u8]) -> usize {
    let place = |c: u8| {
        let c = c.to_ascii_lowercase();
        ROWS.iter().enumerate().find_map(|(row, keys)| Some((row, keys.iter().position(|key| *key == c)?)))
    };
    let run = |right: bool| {
        let next = |pair: &[u8]| match (place(pair[0]), place(pair[1])) {
            (Some((row, key)), Some((next_row, next_key))) => {
                row == next_row && if right { next_key == key + 1 } else { next_key + 1 == key }
            }
            _ => false,
        };
        1 + text.windows(2).take_while(|pair| next(pair)).count()
    };
    run(true).max(run(false))
}

/// How many letters that may be a word stand at the beginning: one case, or with a capital first, and with vowels.
fn word(text: &[u8]) -> usize {
    let run = |text: &[u8], kind: fn(&u8) -> bool| text.iter().take_while(|c| kind(c)).count();
    let capital = usize::from(text[0].is_ascii_uppercase());
    let len = (capital + run(&text[capital..], u8::is_ascii_lowercase)).max(run(text, u8::is_ascii_uppercase));
    let mut consonants = 0;
    for (at, c) in text[..len].iter().enumerate() {
        consonants = if b"aeiouyAEIOUY".contains(c) { 0 } else { consonants + 1 };
        if consonants == CONSONANTS_MAX {
            return at + 1 - CONSONANTS_MAX;
        }
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "brdm_01M844DZG0FAY828T5CY4TQKFF_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf2b9MjO";

    #[test]
    fn tokens_as_other_systems_make_them_are_taken() {
        for text in [
            "ghp_x7Kq2vRm9TzYw4LsBn8Jc3HfPd6GaE1oUi5V",
            "glpat-Zx8qT3vKr9mLw2Yb7NcD",
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "8c2f1e90b7d34a65",
            "550e8400-e29b-41d4-a716-446655440000",
            "xoxb-284719365012-394857261049-kQ7vTz2mXp9LrBw4NsYc8HdJ",
            "AKIA3J7QX2VZ9LMN4RTB",
            "sk-proj-9aKz3Lw7Xq2Vt8Rm5Yb1Nc6Hd4Jf0Gp",
            "q8Zr2Lm7Xv4Tk9Wb",
            "hT7#kP2$vN9@xR4!",
            "dGhpcyBpcyBub3QgYSBzZWNyZXQgYnV0IGl0IGlzIGJhc2U2NA==",
        ] {
            assert_eq!(check(text), Ok(()), "{text}: {} bits", strength_bits(text.as_bytes()));
        }
    }

    #[test]
    fn what_could_be_guessed_is_refused() {
        for text in [
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abababababababababababab",
            "abcdefghijklmnopqrstuvwxyz",
            "0123456789012345678901234567890123456789",
            "qwertyuiopasdfghjklzxcvbnm",
            "passwordpasswordpassword",
            "correct horse battery staple",
            "CorrectHorseBatteryStaple",
            "changeme-changeme-changeme",
            "my-secret-token-for-the-api",
            "MYSECRETTOKENFORTHEAPI",
            "Password1Password1Password1",
            "2026-11-23-2026-11-23",
            "1234567812345678123456781234567812345678",
            "0000000000000000000000000000000000000001",
            "deadbeefdeadbeefdeadbeefdeadbeef",
            "7391846205938172",
        ] {
            assert_eq!(check(text), Err(Unfit::Weak), "{text}: {} bits", strength_bits(text.as_bytes()));
        }
    }

    #[test]
    fn length_and_characters_have_bounds() {
        let random = "q8Zr2Lm7Xv4Tk9Wb";
        assert_eq!((check(random), check(&random[1..])), (Ok(()), Err(Unfit::Length)));
        let mut long = String::new();
        let mut state = 1_u64;
        while long.len() < TEXT_MAX {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            long.push(char::from(b'!' + ((state >> 33) % 94) as u8));
        }
        assert_eq!(check(&long), Ok(()));
        assert_eq!(check(&format!("{long}x")), Err(Unfit::Length));
        for bad in [
            "q8Zr2Lm7Xv4Tk9Wb\n",
            " q8Zr2Lm7Xv4Tk9Wb",
            "q8Zr2Lm7Xv4Tk9Wb ",
            "q8Zr2Lm7Xv4Tk9W\u{e4}",
            "q8Zr2Lm7\u{0}v4Tk9Wb",
        ] {
            assert_eq!(check(bad), Err(Unfit::NotPrintable));
        }
        assert_eq!(check("q8Zr 2Lm7 Xv4T k9Wb"), Ok(()));
    }

    #[test]
    fn our_own_tokens_are_not_imported() {
        let mistyped = OWN.replace("MjO", "MjP");
        for text in [OWN, &mistyped, &format!("Bearer {OWN}"), &OWN.replace("brdm", "acmes")] {
            assert_eq!(check(text), Err(Unfit::OwnForm), "{text}");
        }
    }

    /// What random texts of common forms lose by chance must not cost them the import.
    #[test]
    fn random_texts_pass_whatever_chance_puts_into_them() {
        let forms: [(&[u8], usize); 4] = [
            (b"0123456789abcdef", 32),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 26),
            (b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", 20),
            (b"0123456789abcdefghijklmnopqrstuvwxyz", 32),
        ];
        let mut state = 7_u64;
        for (alphabet, length) in forms {
            for round in 0..2000 {
                let mut text = String::new();
                while text.len() < length {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    text.push(char::from(alphabet[(state >> 33) as usize % alphabet.len()]));
                }
                // One in two hundred of the second form has letters alone, as words have.
                if text.bytes().any(|c| c.is_ascii_digit()) {
                    assert_eq!(check(&text), Ok(()), "{round}: {text}");
                }
            }
        }
    }

    /// A text that is the worst for the look back is still checked at once: it comes from peers, 256 at a time.
    #[test]
    fn the_longest_text_takes_bounded_work() {
        let text = "ab".repeat(TEXT_MAX / 2);
        let begun = std::time::Instant::now();
        for _ in 0..256 {
            assert_eq!(check(&text), Err(Unfit::Weak));
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}
