//! What is stored of a token: a keyed digest, never the secret.

use zeroize::Zeroizing;

use super::{Secret, TokenId};

/// `BLAKE3 keyed_hash(digest key, id || secret)`, 32 bytes.
///
/// No slow password hash: the secret has 256 bits, so that guessing is hopeless whatever the speed of one guess.
/// The id is in it so that a digest moved to another record never matches.
pub fn digest(key: &[u8; 32], id: TokenId, secret: &Secret) -> Digest {
    let mut input = Zeroizing::new([0u8; 48]);
    input[..16].copy_from_slice(id.as_bytes());
    input[16..].copy_from_slice(secret.as_bytes());
    Digest(blake3::keyed_hash(key, &*input).into())
}

/// A stored digest. `==` runs in constant time, by way of [`blake3::Hash`].
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct Digest(pub [u8; 32]);

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl Eq for Digest {}
