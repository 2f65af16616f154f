//! Requests to validate, decoded in one pass: what the daemon does all day.
//!
//! Invariant: strict as [`codec::decode`]. That one finds out by encoding again whether a value was in canonical form;
//! here it is seen on the way, for in these requests only a varint could be written in more than one way. Whatever is
//! not plainly such a request is left to `codec::decode`, which also says what is wrong with it. Nothing is copied, and
//! the only memory taken is for the lists, within the limits that the service has anyway.

use std::net::IpAddr;

use super::BATCH_MAX;
use super::message::{Ask, Request, Validate};
use crate::codec::{self, CodecError};
use crate::scope::SCOPES_MAX;

/// `Ask::Validate` and `Ask::ValidateBatch`, as they stand in front of what they hold.
const VALIDATE: u8 = 0;
const VALIDATE_BATCH: u8 = 1;

/// Decodes a request, whole and strictly.
///
/// # Errors
/// As [`codec::decode`].
pub fn request(content: &[u8]) -> Result<Request<'_>, CodecError> {
    match to_validate(content) {
        Some(request) => Ok(request),
        None => codec::decode(content),
    }
}

fn to_validate(content: &[u8]) -> Option<Request<'_>> {
    let mut rest = Rest(content);
    let id = rest.varint()?;
    let body = match rest.byte()? {
        VALIDATE => Ask::Validate(rest.validate()?),
        VALIDATE_BATCH => {
            let count = rest.count(BATCH_MAX)?;
            let mut batch = Vec::with_capacity(count);
            for _ in 0..count {
                batch.push(rest.validate()?);
            }
            Ask::ValidateBatch(batch)
        }
        _ => return None,
    };
    rest.0.is_empty().then_some(Request { id, body })
}

/// What has not been looked at.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn validate(&mut self) -> Option<Validate<'a>> {
        let token = self.text()?;
        let count = self.count(SCOPES_MAX)?;
        let mut scopes = Vec::with_capacity(count);
        for _ in 0..count {
            scopes.push(self.text()?);
        }
        let audience = if self.flag()? { Some(self.text()?) } else { None };
        let from = if self.flag()? { Some(self.address()?) } else { None };
        let note = if self.flag()? { Some(self.text()?) } else { None };
        Some(Validate { token, scopes, audience, from, note, peek: self.flag()? })
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    /// Of at most 32 bits, in its shortest form.
    fn varint(&mut self) -> Option<u32> {
        let first = self.byte()?;
        if first < 0x80 {
            return Some(u32::from(first));
        }
        let mut value = u64::from(first & 0x7F);
        for shift in [7, 14, 21, 28] {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                // A last byte of zero adds nothing: there is a shorter form.
                return if byte == 0 { None } else { u32::try_from(value).ok() };
            }
        }
        None
    }

    fn count(&mut self, most: usize) -> Option<usize> {
        Some(self.varint()? as usize).filter(|&count| count <= most)
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let count = self.varint()? as usize;
        std::str::from_utf8(self.bytes(count)?).ok()
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn address(&mut self) -> Option<IpAddr> {
        Some(match self.byte()? {
            0 => IpAddr::from(<[u8; 4]>::try_from(self.bytes(4)?).ok()?),
            1 => IpAddr::from(<[u8; 16]>::try_from(self.bytes(16)?).ok()?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a question borrows from.
    type Words = (String, Vec<String>, Option<String>, Option<IpAddr>, Option<String>, bool);

    fn words() -> impl Strategy<Value = Words> {
        let text = "[a-z0-9:_é]{0,140}";
        let scopes = proptest::collection::vec(text, 0..4);
        let from = proptest::option::of(any::<IpAddr>());
        (text, scopes, proptest::option::of(text), from, proptest::option::of(text), any::<bool>())
    }

    fn ask(words: &Words) -> Validate<'_> {
        let (token, scopes, audience, from, note, peek) = words;
        Validate {
            token,
            scopes: scopes.iter().map(String::as_str).collect(),
            audience: audience.as_deref(),
            from: *from,
            note: note.as_deref(),
            peek: *peek,
        }
    }

    /// Whatever the quick way takes, the strict one takes, and as the same.
    fn agree(content: &[u8]) {
        let strict = codec::decode::<Request<'_>>(content);
        match (to_validate(content), &strict) {
            (Some(quick), Ok(_)) => assert_eq!(codec::encode(&quick), content),
            (Some(_), Err(error)) => panic!("taken, though {error}: {content:?}"),
            (None, _) => {}
        }
        match (request(content), strict) {
            (Ok(one), Ok(other)) => assert_eq!(codec::encode(&one), codec::encode(&other)),
            (Err(one), Err(other)) => assert_eq!(one, other),
            _ => panic!("one takes it, the other does not: {content:?}"),
        }
    }

    proptest! {
        #[test]
        fn what_is_canonical_is_taken_as_it_is(words in words(), id in any::<u32>()) {
            let content = codec::encode(&Request { id, body: Ask::Validate(ask(&words)) });
            prop_assert!(to_validate(&content).is_some());
            agree(&content);
        }

        #[test]
        fn so_are_batches(batch in proptest::collection::vec(words(), 0..8), id in any::<u32>()) {
            let content = codec::encode(&Request { id, body: Ask::ValidateBatch(batch.iter().map(ask).collect()) });
            prop_assert!(to_validate(&content).is_some());
            agree(&content);
        }

        /// One byte changed, put in, taken out, or the end cut off.
        #[test]
        fn what_is_damaged_is_taken_by_both_or_by_none(
            words in words(), id in 0u32..400, at in any::<prop::sample::Index>(), byte in any::<u8>(), how in 0..4,
        ) {
            let mut content = codec::encode(&Request { id, body: Ask::Validate(ask(&words)) });
            let at = at.index(content.len());
            match how {
                0 => content[at] = byte,
                1 => content.insert(at, byte),
                2 => drop(content.remove(at)),
                _ => content.truncate(at),
            }
            agree(&content);
        }

        #[test]
        fn no_bytes_are_taken_by_one_alone(content in proptest::collection::vec(any::<u8>(), 0..40)) {
            agree(&content);
        }
    }

    #[test]
    fn an_overlong_number_is_refused() {
        let content = codec::encode(&Request { id: 1, body: Ask::Validate(ask(&Words::default())) });
        assert!(request(&content).is_ok());
        // The number 1 in two bytes; and the empty token's length in two.
        for at in [0, 2] {
            let mut longer = content.clone();
            longer[at] |= 0x80;
            longer.insert(at + 1, 0);
            assert_eq!(request(&longer).map(drop), Err(CodecError::NotCanonical), "{at}");
        }
        // More than 32 bits.
        let mut wide = vec![0xFF, 0xFF, 0xFF, 0xFF, 0x10];
        wide.extend_from_slice(&content[1..]);
        assert_eq!(request(&wide).map(drop), Err(CodecError::Malformed));
    }

    #[test]
    fn more_than_the_limits_goes_the_long_way_and_is_told_by_the_service() {
        let scopes = vec!["a"; SCOPES_MAX + 1];
        let ask = Validate { token: "", scopes, audience: None, from: None, note: None, peek: false };
        let content = codec::encode(&Request { id: 1, body: Ask::Validate(ask) });
        assert!(to_validate(&content).is_none());
        assert!(request(&content).is_ok());
    }
}
