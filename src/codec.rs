//! Strict postcard: the one encoding of wire messages and disk records.
//!
//! Invariant: a value has exactly one encoding. postcard alone takes trailing bytes, overlong varints and unsorted or
//! repeated map keys; here what was decoded is encoded again and must equal the input, byte for byte. An unknown enum
//! variant is an error, so that a restriction this version does not know is refused and never skipped.

use postcard::ser_flavors::Flavor;
use serde::{Serialize, de::Deserialize};

/// Why bytes are no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// They do not decode, or bytes follow the value.
    #[error("does not decode")]
    Malformed,
    /// They decode, but are not the one encoding of the value.
    #[error("is not in canonical form")]
    NotCanonical,
}

/// Compares what is serialised with the bytes it came from, without a buffer.
struct Compare<'a> {
    expected: &'a [u8],
}

impl Flavor for Compare<'_> {
    type Output = bool;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        match self.expected.split_at_checked(bytes.len()) {
            Some((front, rest)) if front == bytes => {
                self.expected = rest;
                Ok(())
            }
            _ => Err(postcard::Error::SerializeBufferFull),
        }
    }

    fn finalize(self) -> postcard::Result<bool> {
        Ok(self.expected.is_empty())
    }
}

/// Decodes `bytes` whole and strictly; the value may borrow from them.
///
/// # Errors
/// [`CodecError`] as its variants say.
pub fn decode<'a, T: Deserialize<'a> + Serialize>(bytes: &'a [u8]) -> Result<T, CodecError> {
    let (value, rest) = postcard::take_from_bytes::<T>(bytes).map_err(|_| CodecError::Malformed)?;
    if !rest.is_empty() {
        return Err(CodecError::Malformed);
    }
    match postcard::serialize_with_flavor::<T, Compare<'_>, bool>(&value, Compare { expected: bytes }) {
        Ok(true) => Ok(value),
        _ => Err(CodecError::NotCanonical),
    }
}

/// Encodes a value.
///
/// # Panics
/// Never for the types of this crate: they serialise without custom errors and sequences know their length.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, Vec::with_capacity(128)).expect("own types serialise")
}

/// How many bytes the encoding of a value takes.
///
/// # Panics
/// As [`encode`].
pub fn encoded_len<T: Serialize + ?Sized>(value: &T) -> usize {
    postcard::serialize_with_flavor(value, postcard::ser_flavors::Size::default()).expect("own types serialise")
}

/// Appends the encoding of a value to `buffer`.
///
/// # Panics
/// As [`encode`].
pub fn encode_onto<T: Serialize + ?Sized>(value: &T, buffer: Vec<u8>) -> Vec<u8> {
    postcard::to_extend(value, buffer).expect("own types serialise")
}

/// Appends a length or another number without a sign: seven bits a byte, the lowest first.
pub fn write_varint(mut value: u64, buffer: &mut Vec<u8>) {
    while value >= 0x80 {
        buffer.push(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn only_the_one_encoding_decodes() {
        let map: BTreeMap<String, u64> = [("a".to_owned(), 300), ("b".to_owned(), 1)].into();
        let bytes = encode(&map);
        assert_eq!(encoded_len(&map), bytes.len());
        assert_eq!(decode(&bytes), Ok(map));
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(decode::<BTreeMap<String, u64>>(&longer), Err(CodecError::Malformed));
        assert_eq!(decode::<BTreeMap<String, u64>>(&bytes[..bytes.len() - 1]), Err(CodecError::Malformed));
        // 1 as an overlong varint; keys out of order; a key twice.
        assert_eq!(decode::<u64>(&[0x81, 0x00]), Err(CodecError::NotCanonical));
        assert_eq!(decode::<BTreeMap<String, u64>>(&[2, 1, b'b', 1, 1, b'a', 1]), Err(CodecError::NotCanonical));
        assert_eq!(decode::<BTreeMap<String, u64>>(&[2, 1, b'a', 1, 1, b'a', 1]), Err(CodecError::NotCanonical));
    }

    #[test]
    fn an_unknown_variant_is_refused() {
        #[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq)]
        enum Versioned {
            V1(u8),
        }
        assert_eq!(decode(&[0, 5]), Ok(Versioned::V1(5)));
        assert_eq!(decode::<Versioned>(&[1, 5]), Err(CodecError::Malformed));
    }
}
