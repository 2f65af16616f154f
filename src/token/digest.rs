//! What is stored of a token: a keyed digest, never the secret.

use sha2::Digest as _;
use zeroize::{Zeroize, Zeroizing};

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

/// SHA-256 of a text: what other systems keep of their tokens.
pub fn sha256(text: &str) -> Zeroizing<[u8; 32]> {
    let mut hasher = sha2::Sha256::new();
    hasher.update(text.as_bytes());
    let mut hash = hasher.finalize();
    let kept = Zeroizing::new(hash.into());
    hash.as_mut_slice().zeroize();
    kept
}

/// `BLAKE3 keyed_hash(digest key, "import" || SHA-256(text))`, 32 bytes: of a token that another system made.
///
/// Of another length than the input of [`digest`], so that neither is ever the other's.
pub fn imported_digest(key: &[u8; 32], sha256: &[u8; 32]) -> Digest {
    let mut input = Zeroizing::new([0u8; 38]);
    input[..6].copy_from_slice(b"import");
    input[6..].copy_from_slice(sha256);
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
