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
    let secret = decode_secret(&body[body.len() - SECRET_CHARS..])?;
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
    if text.len() != ID_CHARS || text[0] > b'7' {
        return Err(Malformed::Id);
    }
    // Twelve digits at a time, which are 60 bits. What is no digit has a bit that no digit has.
    let mut seen = 0;
    let mut value = 0u128;
    let (first, rest) = text.split_at(ID_CHARS % 12);
    for digits in [first].into_iter().chain(rest.chunks_exact(12)) {
        let mut part = 0u64;
        for &c in digits {
            let digit = CROCKFORD_VALUE[usize::from(c)];
            seen |= digit;
            part = part << 5 | u64::from(digit & 31);
        }
        value = value << (5 * digits.len()) | u128::from(part);
    }
    if seen & !31 != 0 {
        return Err(Malformed::Id);
    }
    Ok(TokenId::from_bytes(value.to_be_bytes()))
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
fn decode_secret(text: &[u8]) -> Result<Secret, Malformed> {
    let mut limbs = Zeroizing::new([0u64; 4]);
    let mut seen = 0;
    for digits in text.chunks(10) {
        let mut value = 0u64;
        for &c in digits {
            let digit = BASE62_VALUE[usize::from(c)];
            seen |= digit;
            value = value * 62 + u64::from(digit & 63);
        }
        let scale = if digits.len() == 10 { SCALE } else { 62u64.pow(digits.len() as u32) };
        let mut carry = value;
        for limb in limbs.iter_mut().rev() {
            let wide = u128::from(*limb) * u128::from(scale) + u128::from(carry);
            *limb = wide as u64;
            carry = (wide >> 64) as u64;
        }
        if carry != 0 {
            return Err(Malformed::Secret);
        }
    }
    // What is no digit has a bit that no digit has: one look for all of them.
    if seen & !63 != 0 {
        return Err(Malformed::Secret);
    }
    let mut bytes = Zeroizing::new([0u8; 32]);
    for (chunk, limb) in bytes.chunks_exact_mut(8).zip(limbs.iter()) {
        chunk.copy_from_slice(&limb.to_be_bytes());
    }
    Ok(Secret::from_bytes(*bytes))
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
