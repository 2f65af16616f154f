//! The native protocol: version, limits and the conventions that all messages share (`docs/protocol.md`).
//!
//! A connection begins with a hello each way; then requests and replies, each a frame: length as u32 little-endian,
//! then one strictly encoded value ([`crate::codec`]). Invariant I5: every length is checked against a limit of this
//! page before anything is allocated, and what this version does not know is refused, never skipped.

#![forbid(unsafe_code)]

pub mod buffer;
pub mod code;
pub mod filter;
pub mod frame;
pub mod message;
pub mod quick;
pub mod verdict;

use std::time::Duration;

/// The only version so far.
pub const VERSION: u16 = 1;
/// First bytes of either hello, after the frame's length.
pub const MAGIC: [u8; 8] = *b"bearerd\0";
/// Flag of the hellos: the epoch page. The client wants it; the server's hello brings it, as a file (SCM_RIGHTS).
pub const FLAG_PAGE: u32 = 1;
/// Largest request frame, in bytes, without its length field.
pub const REQUEST_MAX: usize = 64 * 1024;
/// Largest reply frame, in bytes: 256 verdicts with all that a token can carry.
pub const REPLY_MAX: usize = 8 * 1024 * 1024;
/// Requests of one connection that may be unanswered.
pub const IN_FLIGHT_MAX: usize = 256;
/// Tokens in one batch.
pub const BATCH_MAX: usize = 256;
/// Uses that one request reports.
pub const REPORTS_MAX: usize = 256;
/// Longest ticket, in bytes.
pub const TICKET_MAX: usize = 16 * 1024;
/// A frame that has begun must be whole within this.
pub const FRAME_DEADLINE: Duration = Duration::from_secs(5);
/// Tokens in one page of a listing, at most.
pub const PAGE_MAX: usize = 1000;
/// Ids that one revocation may name, and that one answer lists.
pub const IDS_MAX: usize = 1000;
/// Name of a token, subject, unit, audience: bytes.
pub const NAME_MAX: usize = 128;
/// Note of a request, reason of a revocation: bytes.
pub const NOTE_MAX: usize = 256;
/// Audiences of a token.
pub const AUDIENCES_MAX: usize = 16;
/// Labels of a token.
pub const LABELS_MAX: usize = 32;
/// Key of a label: bytes.
pub const LABEL_KEY_MAX: usize = 64;
/// Value of a label: bytes.
pub const LABEL_VALUE_MAX: usize = 256;
/// Client networks, units or uids of a token, each.
pub const BINDINGS_MAX: usize = 64;

/// Whether `text` may stand in a record: at most `max` bytes, printable, no control and no bidirectional characters.
pub fn is_clean(text: &str, max: usize) -> bool {
    text.len() <= max && !text.chars().any(is_hostile)
}

/// Characters that could forge a line or turn the reading direction of one.
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}')
}
