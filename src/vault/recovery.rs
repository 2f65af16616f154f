//! The text of a recovery key: made to be written on paper and typed again.
//!
//! ```text
//! 256 bits of key || the first 16 bits of its id || 000      55 digits of 5 bits, most significant first
//! 11 groups of five digits and a check digit, with `-` between: 76 characters
//! ```
//!
//! The digits are Crockford's base32, which has no I, L, O and U. The check digit of group g (from 0) is, in GF(2^5) with
//! x^5 + x^2 + 1, `g + d0·x + d1·x^2 + d2·x^3 + d3·x^4 + d4·x^5`: it finds each single wrong digit, each two that have
//! changed places, and a group that stands in another's place; so a typing error is named by its group. What it misses (one
//! of 32 groups with several errors) the 16 bits of the id find.
//!
//! Read are both cases, O as 0, I and L as 1, and any blanks and dashes between groups.

use zeroize::Zeroizing;

use super::VaultError;
use super::header::SlotKind;
use super::master::KeySource;
use crate::sys::memory::LockedKey;
use crate::token::{CROCKFORD, CROCKFORD_VALUE};

/// Groups of a recovery key.
pub const GROUPS: usize = 11;
/// Digits of a group that carry the key.
const DIGITS: usize = 5;
/// Characters of a group.
const GROUP: usize = DIGITS + 1;
/// Characters of the text.
const TEXT: usize = GROUPS * GROUP + GROUPS - 1;
/// Key, check, and what fills the last digit.
const PACKED: usize = 32 + 2 + 1;

/// The text of a recovery key, in memory that is wiped.
pub fn print(source: &KeySource) -> Zeroizing<String> {
    let mut packed = Zeroizing::new([0u8; PACKED]);
    packed[..32].copy_from_slice(source.key().expose());
    packed[32..34].copy_from_slice(&source.id().as_bytes()[..2]);
    let mut text = Zeroizing::new(String::with_capacity(TEXT));
    for group in 0..GROUPS {
        if group > 0 {
            text.push('-');
        }
        let digits = Zeroizing::new(std::array::from_fn::<u8, DIGITS, _>(|at| digit(&packed, group * DIGITS + at)));
        for &value in digits.iter() {
            text.push(char::from(CROCKFORD[usize::from(value)]));
        }
        text.push(char::from(CROCKFORD[usize::from(check(group, &digits))]));
    }
    text
}

/// The recovery key that was typed.
///
/// # Errors
/// [`VaultError::RecoveryGroups`], [`VaultError::RecoveryGroup`] with the group that is wrong,
/// [`VaultError::RecoveryCheck`], [`VaultError::Memory`].
pub fn parse(text: &str) -> Result<KeySource, VaultError> {
    let groups = split(text);
    // A group that is wrong is worth more than that one is missing; but then it can't be said which.
    if groups.len() != GROUPS {
        return Err(VaultError::RecoveryGroups { found: groups.len() });
    }
    let mut packed = Zeroizing::new([0u8; PACKED]);
    for (nth, group) in groups.iter().enumerate() {
        let wrong = VaultError::RecoveryGroup { group: nth + 1 };
        let mut digits = Zeroizing::new([0u8; GROUP]);
        if group.len() != GROUP {
            return Err(wrong);
        }
        for (digit, &c) in digits.iter_mut().zip(group.iter()) {
            *digit = match value(c) {
                Some(value) => value,
                None => return Err(wrong),
            };
        }
        let (digits, stated) = digits.split_first_chunk::<DIGITS>().expect("a group has more");
        if check(nth, digits) != stated[0] {
            return Err(wrong);
        }
        for (at, &value) in digits.iter().enumerate() {
            put_digit(&mut packed, nth * DIGITS + at, value);
        }
    }
    let key = LockedKey::new(|key| key.copy_from_slice(&packed[..32]))?;
    let source = KeySource::of_key(SlotKind::Recovery, "the recovery key".to_owned(), key);
    // The bits that are left are for a later format.
    if packed[32..34] != source.id().as_bytes()[..2] || packed[34] != 0 {
        return Err(VaultError::RecoveryCheck);
    }
    Ok(source)
}

/// The groups as they were typed; where nothing stands between them, by their length.
fn split(text: &str) -> Vec<&[u8]> {
    let between = |c: &u8| c.is_ascii_whitespace() || *c == b'-';
    let groups: Vec<&[u8]> = text.as_bytes().split(between).filter(|group| !group.is_empty()).collect();
    match groups[..] {
        [whole] => whole.chunks(GROUP).collect(),
        _ => groups,
    }
}

fn value(c: u8) -> Option<u8> {
    let c = match c.to_ascii_uppercase() {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        c => c,
    };
    let value = CROCKFORD_VALUE[usize::from(c)];
    (value < 32).then_some(value)
}

/// Five bits at `5 * at`, most significant first.
fn digit(packed: &[u8; PACKED], at: usize) -> u8 {
    (0..5).fold(0, |value, bit| {
        let at = 5 * at + bit;
        value << 1 | (packed[at / 8] >> (7 - at % 8) & 1)
    })
}

fn put_digit(packed: &mut [u8; PACKED], at: usize, value: u8) {
    for bit in 0..5 {
        let to = 5 * at + bit;
        packed[to / 8] |= (value >> (4 - bit) & 1) << (7 - to % 8);
    }
}

/// By Horner's rule, with `x` for 2.
fn check(group: usize, digits: &[u8; DIGITS]) -> u8 {
    let times_x = |value: u8| {
        let shifted = value << 1;
        if shifted & 0x20 == 0 { shifted } else { shifted ^ 0x25 }
    };
    let sum = digits.iter().rev().fold(0, |sum, &digit| times_x(sum ^ digit));
    sum ^ group as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [
        0x01, 0x33, 0x7f, 0xa3, 0x4b, 0xca, 0x99, 0xf0, 0x73, 0xb5, 0xd0, 0xcd, 0xe1, 0x17, 0xba, 0xda, 0x91, 0x2d,
        0x98, 0x1b, 0x7b, 0x54, 0x03, 0xa8, 0xa0, 0xe5, 0xd4, 0xa9, 0x18, 0x39, 0x8f, 0x00,
    ];

    fn text() -> String {
        print(&KeySource::of_bytes(KEY)).to_string()
    }

    fn group_of(error: VaultError) -> usize {
        match error {
            VaultError::RecoveryGroup { group } => group,
            other => panic!("{other}"),
        }
    }

    /// `docs/file-format.md`, the recovery key. This text is on somebody's paper.
    #[test]
    fn the_text_is_pinned_and_read_again() {
        assert_eq!(text(), PINNED);
        assert!(text().len() == TEXT && TEXT < 80, "it fits on a line of a terminal");
        let read = parse(PINNED).unwrap();
        assert_eq!(read.key().expose(), &KEY);
        assert_eq!(read.kind(), SlotKind::Recovery);
    }

    #[test]
    fn it_is_read_as_people_type_it() {
        let alike = PINNED.to_lowercase().replace('0', "o").replace('1', "l");
        for typed in [
            PINNED.to_lowercase(),
            PINNED.replace('-', ""),
            PINNED.replace('-', " "),
            format!("  {}\r\n", PINNED.replace('-', " - ")),
            PINNED.replacen('-', "\n", 5),
            alike.clone(),
            alike.replace('l', "I"),
        ] {
            assert_eq!(parse(&typed).map(|source| *source.key().expose()).unwrap(), KEY, "{typed:?}");
        }
    }

    #[test]
    fn each_wrong_digit_and_each_exchange_names_its_group() {
        let good: Vec<Vec<u8>> = PINNED.split('-').map(|group| group.as_bytes().to_vec()).collect();
        let joined = |groups: &[Vec<u8>]| String::from_utf8(groups.join(&b'-')).unwrap();
        for group in 0..GROUPS {
            for at in 0..GROUP {
                for other in CROCKFORD.iter().chain(b"U*\0") {
                    let mut typed = good.clone();
                    if typed[group][at] != *other {
                        typed[group][at] = *other;
                        assert_eq!(group_of(parse(&joined(&typed)).err().unwrap()), group + 1);
                    }
                }
                for to in at + 1..GROUP {
                    let mut typed = good.clone();
                    typed[group].swap(at, to);
                    if typed != good {
                        assert_eq!(group_of(parse(&joined(&typed)).err().unwrap()), group + 1);
                    }
                }
            }
            for to in group + 1..GROUPS {
                let mut typed = good.clone();
                typed.swap(group, to);
                assert_eq!(group_of(parse(&joined(&typed)).err().unwrap()), group + 1);
            }
            // A digit too many or too few.
            for change in [|group: &mut Vec<u8>| group.push(b'0'), |group: &mut Vec<u8>| group.truncate(GROUP - 1)] {
                let mut typed = good.clone();
                change(&mut typed[group]);
                assert_eq!(group_of(parse(&joined(&typed)).err().unwrap()), group + 1);
            }
            let mut typed = good.clone();
            typed.remove(group);
            assert!(matches!(parse(&joined(&typed)), Err(VaultError::RecoveryGroups { found: 10 })));
        }
        for nothing in ["", "-", "bearerd-key-1 4db3cfbc236ada05", "x"] {
            assert!(matches!(parse(nothing), Err(VaultError::RecoveryGroups { .. })), "{nothing:?}");
        }
    }

    /// Groups that are right each, of another key: the id's bits say so. And no message has any of the text.
    #[test]
    fn what_the_check_digits_miss_the_id_finds() {
        let other = print(&KeySource::of_bytes([7; 32])).to_string();
        let mixed: Vec<&str> = PINNED.split('-').take(5).chain(other.split('-').skip(5)).collect();
        let error = parse(&mixed.join("-")).err().expect("it is nobody's");
        assert!(matches!(error, VaultError::RecoveryCheck), "{error}");
        for group in PINNED.split('-') {
            assert!(!error.to_string().contains(group));
        }
    }

    const PINNED: &str = "04SQZR-8TBSAA-CZ0WXW-NT36YN-25XTV3-A8JV62-0VFDAV-07A50V-WQAAJR-61SHW9-04VCRN";
}
