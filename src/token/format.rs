//! The grammar and the check characters of a token's text (`docs/token-format.md`).
//!
//! Invariant: one token has exactly one text. Aliases, lower-case ids, overflowing values and wrong check characters
//! are malformed, and no error repeats any of the text.

use zeroize::Zeroizing;

use super::{CHECK_CHARS, ID_CHARS, Kind, Prefix, SECRET_CHARS, Secret, TEXT_MAX, Token, TokenId};

pub(crate) const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// How far ten digits of base62 reach: below 2^60.
const SCALE: u64 = 62u64.pow(10);
/// Stands in a reverse alphabet for "no digit".
const NONE: u8 = 0xFF;
pub(crate) const CROCKFORD_VALUE: [u8; 256] = reverse(CROCKFORD);
const BASE62_VALUE: [u8; 256] = reverse(BASE62);

/// Which part of a text keeps it from being a token. The text itself is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Longer than [`TEXT_MAX`] bytes, or not of the length that its prefix gives.
    #[error("wrong length for a token")]
    Length,
    /// Not 2 to 8 of `[a-z0-9]` with a letter first.
    #[error("the prefix is not 2 to 8 lower-case letters and digits, a letter first")]
    Prefix,
    /// No known kind letter before the first underscore.
    #[error("the letter before the first underscore names no kind")]
    Kind,
    /// The id is not 26 characters of Crockford base32 with a value below 2^128.
    #[error("the id is not 26 characters of Crockford base32 in upper case")]
    Id,
    /// The secret is not 43 characters of base62 with a value below 2^256.
    #[error("the secret part is not 43 characters of base62")]
    Secret,
    /// The check characters are not those of the text before them: mistyped or cut.
    #[error("the check characters do not fit: mistyped or cut short")]
    Check,
}

const fn reverse<const N: usize>(alphabet: &[u8; N]) -> [u8; 256] {
    let mut table = [NONE; 256];
    let mut i = 0;
    while i < N {
        table[alphabet[i] as usize] = i as u8;
        i += 1;
    }
    table
}

/// Parses `<prefix><k>_<id>_<secret><check>`.
pub(super) fn parse(text: &str) -> Result<Token, Malformed> {
    let text = text.as_bytes();
    if text.len() > TEXT_MAX {
        return Err(Malformed::Length);
    }
    let front_len = text.iter().position(|&c| c == b'_').ok_or(Malformed::Length)?;
    let (prefix, kind) = parse_front(&text[..front_len])?;
    let rest = &text[front_len + 1..];
    if rest.len() != ID_CHARS + 1 + SECRET_CHARS + CHECK_CHARS || rest[ID_CHARS] != b'_' {
        return Err(Malformed::Length);
    }
    let id = decode_id_bytes(&rest[..ID_CHARS])?;
    let (body, check) = text.split_at(text.len() - CHECK_CHARS);
    let secret = decode_secret(body.last_chunk().expect("the length has been looked at"))?;
    if check != check_chars(body) {
        return Err(Malformed::Check);
    }
    Ok(Token { prefix, kind, id, secret })
}

/// Whether a whole token stands anywhere in `text`, so that names, notes and reasons never carry one into a log.
pub(super) fn holds_token(text: &str) -> bool {
    const BEHIND: usize = 1 + ID_CHARS + 1 + SECRET_CHARS + CHECK_CHARS;
    let bytes = text.as_bytes();
    (0..bytes.len()).filter(|&at| bytes[at] == b'_').any(|at| {
        let Some(end) = at.checked_add(BEHIND).filter(|&end| text.is_char_boundary(end)) else { return false };
        // Two to eight characters of prefix and the kind letter stand before the underscore.
        (3..=9)
            .filter_map(|front| at.checked_sub(front))
            .any(|start| text.is_char_boundary(start) && parse(&text[start..end]).is_ok())
    })
}

/// Parses `<prefix><k>`, what stands before the first underscore.
pub(super) fn parse_front(front: &[u8]) -> Result<(Prefix, Kind), Malformed> {
    let (&letter, prefix) = front.split_last().ok_or(Malformed::Prefix)?;
    let prefix = std::str::from_utf8(prefix).map_err(|_| Malformed::Prefix)?.parse()?;
    Ok((prefix, Kind::from_letter(letter).ok_or(Malformed::Kind)?))
}

/// The text of a token, built in one buffer that is wiped when dropped.
pub(super) fn print(token: &Token) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(96));
    text.push_str(token.prefix.as_str());
    text.push(token.kind.letter());
    text.push('_');
    text.push_str(&encode_id(token.id));
    text.push('_');
    let secret = encode_secret(&token.secret);
    text.push_str(std::str::from_utf8(&*secret).expect("base62 is ASCII"));
    let check = check_chars(text.as_bytes());
    text.push_str(std::str::from_utf8(&check).expect("base62 is ASCII"));
    text
}

/// 26 characters of Crockford base32; the first holds only 3 bits, so it is at most `7`.
pub(super) fn encode_id(id: TokenId) -> String {
    let value = u128::from_be_bytes(*id.as_bytes());
    (0..ID_CHARS).rev().map(|i| char::from(CROCKFORD[(value >> (5 * i) & 31) as usize])).collect()
}

pub(super) fn decode_id(text: &str) -> Result<TokenId, Malformed> {
    decode_id_bytes(text.as_bytes())
}

fn decode_id_bytes(text: &[u8]) -> Result<TokenId, Malformed> {
    let Some((first, rest)) = <&[u8; ID_CHARS]>::try_from(text).ok().and_then(|text| text.split_first_chunk::<2>())
    else {
        return Err(Malformed::Id);
    };
    let mut seen = 0;
    let mut value = u128::from(base32(first, &mut seen));
    for digits in rest.as_chunks::<12>().0 {
        value = value << 60 | u128::from(base32(digits, &mut seen));
    }
    // What is no digit has a bit that no digit has. The first holds only 3 bits.
    if seen & !31 != 0 || first[0] > b'7' {
        return Err(Malformed::Id);
    }
    Ok(TokenId::from_bytes(value.to_be_bytes()))
}

/// The value of at most twelve digits; what they are goes into `seen`.
fn base32<const N: usize>(digits: &[u8; N], seen: &mut u8) -> u64 {
    let mut value = 0;
    for &c in digits {
        let digit = CROCKFORD_VALUE[usize::from(c)];
        *seen |= digit;
        value = value << 5 | u64::from(digit & 31);
    }
    value
}

/// 256 bits as 43 digits of base62, most significant first: long division by 62 over eight 32-bit limbs.
fn encode_secret(secret: &Secret) -> Zeroizing<[u8; SECRET_CHARS]> {
    let mut limbs = Zeroizing::new([0u32; 8]);
    for (limb, bytes) in limbs.iter_mut().zip(secret.as_bytes().chunks_exact(4)) {
        *limb = u32::from_be_bytes(bytes.try_into().expect("chunks of four"));
    }
    let mut text = Zeroizing::new([0u8; SECRET_CHARS]);
    for digit in text.iter_mut().rev() {
        let mut rest = 0u64;
        for limb in limbs.iter_mut() {
            let value = rest << 32 | u64::from(*limb);
            *limb = (value / 62) as u32;
            rest = value % 62;
        }
        *digit = BASE62[rest as usize];
    }
    text
}

/// The reverse of [`encode_secret`]; a value of 2^256 or more is malformed.
///
/// Ten digits at a time (62^10 < 2^60) into four 64-bit limbs: this is a good part of what a validation costs.
fn decode_secret(text: &[u8; SECRET_CHARS]) -> Result<Secret, Malformed> {
    let (first, tens) = text.split_first_chunk::<{ SECRET_CHARS % 10 }>().expect("43 characters have 3");
    let mut seen = 0;
    let mut limbs = Zeroizing::new([0, 0, 0, base62(first, &mut seen)]);
    let mut beyond = 0;
    for digits in tens.as_chunks::<10>().0 {
        let mut carry = base62(digits, &mut seen);
        for limb in limbs.iter_mut().rev() {
            let wide = u128::from(*limb) * u128::from(SCALE) + u128::from(carry);
            *limb = wide as u64;
            carry = (wide >> 64) as u64;
        }
        beyond |= carry;
    }
    // What is no digit has a bit that no digit has: one look for all of them.
    if seen & !63 != 0 || beyond != 0 {
        return Err(Malformed::Secret);
    }
    let mut bytes = Zeroizing::new([0u8; 32]);
    for (chunk, limb) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(limbs.iter()) {
        *chunk = limb.to_be_bytes();
    }
    Ok(Secret::from_bytes(*bytes))
}

/// The value of a few digits; what they are goes into `seen`.
fn base62<const N: usize>(digits: &[u8; N], seen: &mut u8) -> u64 {
    let mut value = 0;
    for &c in digits {
        let digit = BASE62_VALUE[usize::from(c)];
        *seen |= digit;
        value = value * 62 + u64::from(digit & 63);
    }
    value
}

/// CRC-32/ISO-HDLC of `body` as 6 digits of base62, most significant first. Finds typing errors; it is no MAC.
fn check_chars(body: &[u8]) -> [u8; CHECK_CHARS] {
    let mut value = crc32fast::hash(body);
    let mut text = [0; CHECK_CHARS];
    for digit in text.iter_mut().rev() {
        *digit = BASE62[(value % 62) as usize];
        value /= 62;
    }
    text
}
