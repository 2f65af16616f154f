//! Listings: pages of tokens by id, bounded in what one call looks at.
//!
//! Invariant: a page begins after an id, not at a position, so that pages neither repeat nor skip a token while others
//! come and go. Each call reads one snapshot, and ends with it.

use redb::{ReadTransaction, ReadableTableMetadata};

use super::Sealer;
use super::error::{StoreError, read_error};
use super::record::{LastUse, TokenRecord};
use super::schema::{self, BY_EXPIRY, INDEX, TOKENS, USAGE};
use crate::time::UnixTime;
use crate::token::TokenId;

/// What tokens are indexed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum IndexTag {
    /// Whom the token stands for.
    Subject = 1,
    /// Who issued it.
    Issuer = 2,
    /// The key of a label, whatever its value.
    LabelKey = 3,
    /// A label as `key=value`.
    Label = 4,
    /// Whom the token stands for, while it is not revoked in its record.
    SubjectUnrevoked = 5,
}

impl IndexTag {
    /// The name that goes into the keyed hash.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Issuer => "issuer",
            Self::LabelKey => "label_key",
            Self::Label => "label",
            Self::SubjectUnrevoked => "subject_unrevoked",
        }
    }

    /// Whether the record has the value itself, not only a key that looks like it.
    fn holds(self, record: &TokenRecord, value: &str) -> bool {
        match self {
            Self::Subject | Self::SubjectUnrevoked => record.subject == value,
            Self::Issuer => record.issuer == value,
            Self::LabelKey => record.labels.contains_key(value),
            Self::Label => record.labels.iter().any(|(key, label)| {
                value.strip_prefix(key.as_str()).and_then(|rest| rest.strip_prefix('=')) == Some(label)
            }),
        }
    }
}

/// Which tokens to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Begin after this id; `None` = at the first.
    pub after: Option<TokenId>,
    /// Only what has this value.
    pub index: Option<(IndexTag, String)>,
    /// Tokens on the page.
    pub limit: usize,
    /// Tokens looked at in one call, whether they match or not.
    pub visit_max: usize,
}

/// One page.
pub struct Page {
    /// What matched, by id.
    pub records: Vec<TokenRecord>,
    /// Where the next page begins; `None` when there is nothing more. A page may be short, even empty, and have a next.
    pub next: Option<TokenId>,
}

/// Reads one page of what `wanted` wants.
pub(super) fn page(
    txn: &ReadTransaction,
    sealer: &dyn Sealer,
    scan: &Scan,
    bring_up: impl Fn(&mut TokenRecord),
    mut wanted: impl FnMut(&TokenRecord) -> Result<bool, StoreError>,
) -> Result<Page, StoreError> {
    let tokens = txn.open_table(TOKENS).map_err(read_error)?;
    let mut page = Page { records: Vec::new(), next: None };
    let after = scan.after.and_then(successor);
    if scan.after.is_some() && after.is_none() || scan.limit == 0 {
        return Ok(page);
    }
    let first = after.unwrap_or(TokenId::MIN);
    let mut visited = 0;
    let mut last = None;
    // Whether the page has room for one more; the id it is asked for is the first that does not fit.
    let mut full = |page: &mut Page, last: &mut Option<TokenId>| {
        if page.records.len() >= scan.limit || visited >= scan.visit_max.max(1) {
            page.next = *last;
            return true;
        }
        visited += 1;
        false
    };
    match &scan.index {
        None => {
            for row in tokens.range::<&[u8; 16]>(first.as_bytes()..).map_err(read_error)? {
                let (id, sealed) = row.map_err(read_error)?;
                if full(&mut page, &mut last) {
                    break;
                }
                let id = TokenId::from_bytes(*id.value());
                last = Some(id);
                let mut record = schema::open_record(sealer, id, sealed.value())?;
                bring_up(&mut record);
                if wanted(&record)? {
                    page.records.push(record);
                }
            }
        }
        Some((tag, value)) => {
            let prefix = schema::index_prefix(sealer, *tag, value);
            let (first, end) = (schema::index_key(&prefix, first), schema::index_key(&prefix, LAST));
            let index = txn.open_table(INDEX).map_err(read_error)?;
            for row in index.range::<&[u8; 33]>(&first..=&end).map_err(read_error)? {
                let (key, _) = row.map_err(read_error)?;
                if full(&mut page, &mut last) {
                    break;
                }
                let id = schema::indexed_id(key.value());
                last = Some(id);
                let sealed = tokens.get(id.as_bytes()).map_err(read_error)?;
                let Some(sealed) = sealed else {
                    return Err(StoreError::Damaged { what: "the index names a token that is not there".into() });
                };
                let mut record = schema::open_record(sealer, id, sealed.value())?;
                bring_up(&mut record);
                if tag.holds(&record, value) && wanted(&record)? {
                    page.records.push(record);
                }
            }
        }
    }
    Ok(page)
}

/// Ids from `first` to `last`, at most `max` of them: whether a prefix of an id is unambiguous.
pub(super) fn find_between(
    txn: &ReadTransaction,
    first: TokenId,
    last: TokenId,
    max: usize,
) -> Result<Vec<TokenId>, StoreError> {
    if first > last {
        return Ok(Vec::new());
    }
    let tokens = txn.open_table(TOKENS).map_err(read_error)?;
    let range = tokens.range::<&[u8; 16]>(first.as_bytes()..=last.as_bytes()).map_err(read_error)?;
    range.take(max).map(|row| Ok(TokenId::from_bytes(*row.map_err(read_error)?.0.value()))).collect()
}

/// Tokens whose expiry lies after `(at, id)` and at or before `until`, in that order, at most `limit` of them.
pub(super) fn expiring(
    txn: &ReadTransaction,
    after: Option<(UnixTime, TokenId)>,
    until: UnixTime,
    limit: usize,
) -> Result<Vec<(UnixTime, TokenId)>, StoreError> {
    let first = after.map_or([0; 24], |(at, id)| schema::expiry_key(at, id));
    let end = schema::expiry_key(until, LAST);
    if first > end {
        return Ok(Vec::new());
    }
    let by_expiry = txn.open_table(BY_EXPIRY).map_err(read_error)?;
    let range = by_expiry.range::<&[u8; 24]>(&first..=&end).map_err(read_error)?;
    let mut found = Vec::new();
    for row in range {
        let (key, _) = row.map_err(read_error)?;
        let entry = schema::expiry_of(key.value());
        if Some(entry) != after {
            if found.len() == limit {
                break;
            }
            found.push(entry);
        }
    }
    Ok(found)
}

/// How many expiries lie after `after` and up to `until`, counted to `max`.
pub(super) fn count_expiring(
    txn: &ReadTransaction,
    after: UnixTime,
    until: UnixTime,
    max: usize,
) -> Result<usize, StoreError> {
    let (first, end) = (schema::expiry_key(after, LAST), schema::expiry_key(until, LAST));
    if first > end {
        return Ok(0);
    }
    let by_expiry = txn.open_table(BY_EXPIRY).map_err(read_error)?;
    let range = by_expiry.range::<&[u8; 24]>(&first..=&end).map_err(read_error)?;
    range.take(max).try_fold(0, |count, row| row.map(|_| count + 1).map_err(read_error))
}

/// How many tokens there are.
pub(super) fn count(txn: &ReadTransaction) -> Result<u64, StoreError> {
    txn.open_table(TOKENS).map_err(read_error)?.len().map_err(read_error)
}

/// One record.
pub(super) fn record(
    txn: &ReadTransaction,
    sealer: &dyn Sealer,
    id: TokenId,
) -> Result<Option<TokenRecord>, StoreError> {
    let tokens = txn.open_table(TOKENS).map_err(read_error)?;
    let Some(sealed) = tokens.get(id.as_bytes()).map_err(read_error)? else { return Ok(None) };
    schema::open_record(sealer, id, sealed.value()).map(Some)
}

/// One stored last use.
pub(super) fn last_use(txn: &ReadTransaction, sealer: &dyn Sealer, id: TokenId) -> Result<Option<LastUse>, StoreError> {
    let usage = txn.open_table(USAGE).map_err(read_error)?;
    let Some(sealed) = usage.get(id.as_bytes()).map_err(read_error)? else { return Ok(None) };
    schema::open(sealer, "usage", id.as_bytes(), sealed.value()).map(Some)
}

/// The last id that there can be.
pub(super) const LAST: TokenId = TokenId::from_bytes([0xff; 16]);

/// The next id there can be.
pub(super) fn successor(id: TokenId) -> Option<TokenId> {
    u128::from_be_bytes(*id.as_bytes()).checked_add(1).map(|next| TokenId::from_bytes(next.to_be_bytes()))
}
