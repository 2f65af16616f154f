//! Patterns with `*` (any characters, also none) and `?` (one character); everything else is itself.

use std::str::Chars;

/// Whether the whole of `text` matches. No recursion; at most as many steps as the lengths of both multiplied, and both
/// are bounded where they are read.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    // What follows the last star, and where in the text it was last tried.
    let mut retry: Option<(Chars<'_>, Chars<'_>)> = None;
    loop {
        let text_before = text.clone();
        match (pattern.next(), text.next()) {
            (Some('*'), _) => {
                text = text_before;
                retry = Some((pattern.clone(), text.clone()));
            }
            (Some('?'), Some(_)) => {}
            (Some(wanted), Some(found)) if wanted == found => {}
            (None, None) => return true,
            _ => {
                // An earlier star need not be tried again: the last one can take all that it could.
                let Some((after_star, tried)) = &mut retry else { return false };
                if tried.next().is_none() {
                    return false;
                }
                pattern = after_star.clone();
                text = tried.clone();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "anything"),
            ("ci-*", "ci-"),
            ("ci-*", "ci-17"),
            ("*.service", "nginx.service"),
            ("app@*.service", "app@1.service"),
            ("a*b*c", "a-b-b-c"),
            ("a*a", "aa"),
            ("**", "x"),
            ("?", "é"),
            ("ci-??", "ci-42"),
            ("*é?", "caféx"),
        ] {
            assert!(matches(pattern, text), "{pattern:?} {text:?}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("?", ""),
            ("ci-*", "ci"),
            ("ci-*", "xci-1"),
            ("*.service", "nginx.service "),
            ("a*a", "a"),
            ("a*b*c", "a-c-b"),
            ("ci-??", "ci-4"),
            ("a", "A"),
            ("[a]", "a"),
        ] {
            assert!(!matches(pattern, text), "{pattern:?} {text:?}");
        }
    }

    /// A pattern that makes a backtracking matcher take for ever.
    #[test]
    fn no_pattern_is_slow() {
        let pattern = "*a".repeat(64) + "b";
        assert!(!matches(&pattern, &"a".repeat(4096)));
    }

    /// The plain definition, as slow as it likes to be.
    fn by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|skip| by_definition(rest, &text[skip..])),
            Some((wanted, rest)) => text
                .split_first()
                .is_some_and(|(found, left)| (*wanted == b'?' || wanted == found) && by_definition(rest, left)),
        }
    }

    proptest! {
        #[test]
        fn it_does_what_the_definition_says(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(matches(&pattern, &text), by_definition(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
