//! What a question is known by: a keyed hash, under a key of this process, of all that makes it this question.
//!
//! Invariants: I3 (nothing of the token is kept or copied, and what is kept says nothing of it without the key), and that
//! one question is not taken for another, whoever wrote them: the chance is below 2^-120 for any two.
//!
//! The hash is multilinear (D. Lemire and O. Kaser, "Strongly universal string hashing is fast", The Computer Journal 57
//! (2014), section 2): the sum of the products of 64-bit words with random 128-bit numbers modulo 2^128, of which the upper
//! half counts; twice, with numbers of their own. Two texts that were chosen without knowledge of the numbers, which never
//! leave the process, meet with the chance of 2^-64 in each: that is proven, not believed, and takes a third of the time
//! of a SipHash. It is no hash to give away: nobody is ever shown one.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use crate::protocol::message::Validate;

/// Words of the longest question that is kept, 2 KiB of text: others are asked each time.
const WORDS_MAX: usize = 256;

/// What a question is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::client) struct Key(pub(super) u64, pub(super) u64);

/// The key of the hash.
pub(super) struct Secret {
    begin: [u128; 2],
    words: Box<[[u128; 2]]>,
}

/// A hash that is being made.
struct Sum<'a> {
    sum: [u128; 2],
    /// Of the words to come.
    secret: &'a [[u128; 2]],
}

/// What a piece of a question is.
#[derive(Clone, Copy)]
enum Piece {
    Token = 1,
    Scope,
    Audience,
    From,
}

impl Secret {
    pub(super) fn random() -> Self {
        // A pseudorandom function whose key comes from the operating system: what the standard library keys its maps with.
        let random = RandomState::new();
        let half = |number: usize| u128::from(random.hash_one(number));
        let number = |number: usize| half(2 * number) << 64 | half(2 * number + 1);
        let two = |at: usize| [number(2 * at), number(2 * at + 1)];
        Self { begin: two(0), words: (1..=WORDS_MAX).map(two).collect() }
    }

    /// The key of a question; none if it is one that no cache may answer, or too long.
    pub(super) fn key(&self, ask: &Validate<'_>) -> Option<Key> {
        if ask.note.is_some() || ask.peek {
            return None;
        }
        let mut sum = Sum { sum: self.begin, secret: &self.words };
        sum.add(Piece::Token, ask.token.as_bytes())?;
        for scope in &ask.scopes {
            sum.add(Piece::Scope, scope.as_bytes())?;
        }
        if let Some(audience) = ask.audience {
            sum.add(Piece::Audience, audience.as_bytes())?;
        }
        match ask.from {
            None => {}
            Some(IpAddr::V4(address)) => sum.add(Piece::From, &address.octets())?,
            Some(IpAddr::V6(address)) => sum.add(Piece::From, &address.octets())?,
        }
        let [first, second] = sum.sum;
        Some(Key((first >> 64) as u64, (second >> 64) as u64))
    }
}

impl Sum<'_> {
    /// The bytes in words, what is over as the last eight of them, and then what they are and how many: read from the end,
    /// no two questions have the same words. The last word is never zero, so none is another with zeroes after it.
    fn add(&mut self, piece: Piece, bytes: &[u8]) -> Option<()> {
        let (words, rest) = bytes.as_chunks();
        let (secret, to_come) = self.secret.split_at_checked(words.len() + 2)?;
        self.secret = to_come;
        let [secret @ .., of_last, of_piece] = secret else { return None };
        for (&word, secret) in words.iter().zip(secret) {
            self.word(u64::from_le_bytes(word), secret);
        }
        let last = match bytes.last_chunk() {
            Some(&last) => u64::from_le_bytes(last),
            None => rest.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)),
        };
        self.word(last, of_last);
        self.word((piece as u64) << 56 | bytes.len() as u64, of_piece);
        Some(())
    }

    fn word(&mut self, word: u64, secret: &[u128; 2]) {
        self.sum[0] = self.sum[0].wrapping_add(secret[0].wrapping_mul(word.into()));
        self.sum[1] = self.sum[1].wrapping_add(secret[1].wrapping_mul(word.into()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn ask<'a>(token: &'a str, scopes: &[&'a str]) -> Validate<'a> {
        Validate { token, scopes: scopes.to_vec(), audience: None, from: None, note: None, peek: false }
    }

    /// Places in the cache are the lower bits of one half: like things must not crowd there.
    #[test]
    fn alike_questions_are_spread_evenly() {
        let secret = Secret::random();
        let mut places = [0_u32; 256];
        for number in 0..65_536_u32 {
            let token = format!("brdm_01M844DZG0FAY828T5CY4TQKFF_{number:043}012345");
            places[secret.key(&ask(&token, &["a"])).unwrap().0 as usize % 256] += 1;
        }
        // 256 each. Texts that count upwards are as regular as no tokens are, and then so are the places: but none is crowded.
        assert!(places.iter().all(|count| (16..1024).contains(count)), "{places:?}");
    }

    proptest! {
        #[test]
        fn two_questions_have_two_keys(texts in proptest::collection::hash_set("[ -~\\PC\0]{0,40}", 2..20)) {
            let secret = Secret::random();
            let mut keys = HashSet::new();
            for text in &texts {
                for ask in [ask(text, &[]), ask("t", &[text]), Validate { audience: Some(text), ..ask("t", &[]) }] {
                    let key = secret.key(&ask).unwrap();
                    prop_assert!(keys.insert((key.0, key.1)));
                }
            }
        }
    }
}
