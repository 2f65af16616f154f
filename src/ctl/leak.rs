//! Tokens do not belong into arguments: the shell's history and the process list show them (invariant I3).
//!
//! Every argument is looked at before clap is: clap repeats what it can't use. What is found is refused, never looked
//! up, and never repeated.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::error::{ContextKind, ContextValue};

use crate::token::ID_CHARS;

/// A damaged or shortened secret part is refused from this length on: a token that was cut while it was copied gives
/// away most of a secret, too.
const SECRET_PART_MIN: usize = 16;
/// So long a run of mixed letters and digits behind an underscore is taken for a secret whatever stands before it.
const SECRET_ALONE_MIN: usize = 40;
/// Values of at least this length that have the look of random text are not repeated in messages.
const OPAQUE_MIN: usize = 16;

/// Whether one of the arguments holds something that has the form of a token, be its check characters right or wrong.
pub(super) fn in_arguments(args: &[OsString]) -> bool {
    args.iter().any(|arg| in_text(arg.as_bytes()))
}

/// Looks for 26 characters of an id, an underscore, and characters of a secret, anywhere in `text`.
fn in_text(text: &[u8]) -> bool {
    let mut separators = text.iter().enumerate().filter(|(_, c)| **c == b'_').map(|(at, _)| at);
    separators.any(|at| {
        let secret = text[at + 1..].split(|c| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        is_secret(secret) || secret.len() >= SECRET_PART_MIN && ends_in_id(&text[..at])
    })
}

/// Mixed case tells a secret from a hash in hexadecimal, as file names have them.
fn is_secret(run: &[u8]) -> bool {
    run.len() >= SECRET_ALONE_MIN
        && [u8::is_ascii_digit, u8::is_ascii_lowercase, u8::is_ascii_uppercase].iter().all(|kind| run.iter().any(kind))
}

fn ends_in_id(text: &[u8]) -> bool {
    let Some((before, id)) = text.split_last_chunk::<ID_CHARS>() else { return false };
    id[0].is_ascii_digit()
        && id.iter().all(u8::is_ascii_alphanumeric)
        && !before.last().is_some_and(u8::is_ascii_alphanumeric)
}

/// Takes values out of clap's message that may be a credential of another kind: long and of one piece.
pub(super) fn mask(error: &mut clap::Error) {
    for kind in [ContextKind::InvalidArg, ContextKind::InvalidValue, ContextKind::InvalidSubcommand] {
        if let Some(ContextValue::String(value)) = error.get(kind)
            && let Cow::Owned(shown) = masked(value)
        {
            error.insert(kind, ContextValue::String(shown));
        }
    }
}

fn masked(value: &str) -> Cow<'_, str> {
    let opaque = |word: &str| {
        word.len() >= OPAQUE_MIN && word.bytes().any(|c| c.is_ascii_digit()) && !word.contains(char::is_whitespace)
    };
    // `--option` of a mistyped option is worth showing; what stands behind its `=` is a value.
    let (option, rest) = match value.strip_prefix("--").and_then(|_| value.split_once('=')) {
        Some((option, rest)) => (Some(option), rest),
        None => (None, value),
    };
    match (opaque(rest), option) {
        (false, _) => Cow::Borrowed(value),
        (true, Some(option)) => Cow::Owned(format!("{option}=(not shown)")),
        (true, None) => Cow::Owned("(not shown)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "brdm_01M844DZG0FAY828T5CY4TQKFF_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf2b9MjO";

    /// DESIGN: a whole token given as an ID is refused; so is one that was damaged on its way.
    #[test]
    fn tokens_are_found_wherever_they_stand() {
        let wrong_check = TOKEN.replace("MjO", "MjP");
        let lower_id = TOKEN.to_ascii_lowercase();
        let headless = &TOKEN[5..];
        let cut = &TOKEN[..TOKEN.len() - 20];
        let longer = format!("{TOKEN}x");
        let lost_a_character = TOKEN.replace("844", "84");
        for text in [TOKEN, &wrong_check, &lower_id, headless, cut, &longer, &lost_a_character] {
            for around in ["{}", "--label=k={}", "Bearer {}", "/tmp/{}", "a,{},b", " {}\n", "x_{}"] {
                let arg = OsString::from(around.replace("{}", text));
                assert!(in_arguments(&["bearerctl".into(), arg.clone()]), "{arg:?}");
            }
        }
    }

    #[test]
    fn what_is_no_token_passes() {
        for text in [
            "01M844DZG0FAY828T5CY4TQKFF",
            "brdm_01M844DZG0FAY828T5CY4TQKFF",
            "brdm_01M844DZG0FAY828T5CY4TQKFF_",
            "/etc/tokens/brdm_01M844DZG0FAY828T5CY4TQKFF_backup.txt",
            "issue",
            "--allow-from=2001:db8::/32",
            "sha256_2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824",
            "a_very_long_name_of_a_token_with_underscores_everywhere",
            "",
        ] {
            assert!(!in_arguments(&[text.into()]), "{text}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_looked_at_too() {
        let mut bytes = vec![0xFF, b' '];
        bytes.extend_from_slice(TOKEN.as_bytes());
        assert!(in_text(&bytes));
    }

    #[test]
    fn credentials_of_other_kinds_are_not_repeated() {
        assert_eq!(masked("glpat-0123456789abcdefghij"), "(not shown)");
        assert_eq!(masked("--tokn=ghp_0123456789abcdefghij"), "--tokn=(not shown)");
        for plain in ["--expiring-withn", "machin", "30 days", "--ttl=30days", "2026-11-23"] {
            assert_eq!(masked(plain), plain);
        }
    }
}
