//! A line of audit.log read back: for queries, summaries, and what a start must know of the lines that it finds.
//!
//! Lenient: a line may be of a newer version, so unknown keys are skipped and odd values are absent. Nothing here
//! decides whether a line is genuine; that is `chain.rs`.

use std::borrow::Cow;

use serde::Deserialize;

/// What is looked at of a line.
#[derive(Debug, Deserialize)]
pub(super) struct LineView<'a> {
    #[serde(borrow)]
    pub(super) time: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) event: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) outcome: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) subject: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) peer: Option<PeerView<'a>>,
    #[serde(borrow, default)]
    pub(super) from: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) note: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) count: Option<u64>,
    #[serde(borrow, default)]
    pub(super) first: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) last: Option<Cow<'a, str>>,
}

/// What is looked at of the peer in a line.
#[derive(Debug, Deserialize)]
pub(super) struct PeerView<'a> {
    pub(super) uid: u32,
    #[serde(borrow, default)]
    pub(super) unit: Option<Cow<'a, str>>,
}

impl<'a> LineView<'a> {
    /// Reads a whole line, without its newline.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

/// The generation at the end of a line's body, without parsing the rest.
pub(super) fn generation_of(body: &[u8]) -> Option<u64> {
    let digits = body.iter().rev().take_while(|c| c.is_ascii_digit()).count();
    let (front, number) = body.split_at(body.len() - digits);
    if !front.ends_with(b",\"generation\":") {
        return None;
    }
    std::str::from_utf8(number).ok()?.parse().ok()
}
