//! What a store of an earlier format lacks, made when it is opened.
//!
//! Invariant: until all of it is there, the file says that it has the earlier format and needs a reader of today's. So a
//! start that was cut off is done again from its beginning, which changes nothing that is there already, and no earlier
//! version writes into the file in between.

use std::sync::{Arc, Mutex, PoisonError};

use redb::ReadableTable;
use tracing::{info, warn};

use super::error::{StoreError, read_error};
use super::queue::{Job, Ran};
use super::txn::Txn;
use super::writer::{Also, Writer};
use super::{IndexTag, scan, schema};
use crate::token::TokenId;

/// Tokens in one transaction.
const BATCH: usize = 4096;

/// How far a batch has come: the last id, if there are more.
type Reached = Arc<Mutex<Result<Option<TokenId>, StoreError>>>;

/// Indexes one batch.
struct Indexing {
    after: Option<TokenId>,
    reached: Reached,
}

impl Job for Indexing {
    fn run(&mut self, txn: &mut Txn<'_>) -> Ran {
        let reached = txn.index_unrevoked(self.after, BATCH);
        let ran = if reached.is_ok() { Ran::Done } else { Ran::Dropped };
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = reached;
        ran
    }

    fn accepted(&mut self, _generation: u64) {}

    fn reply(self: Box<Self>, _outcome: Result<(), StoreError>) {}
}

impl Writer {
    /// Makes the index of unrevoked tokens by subject, which the first format lacks. Without room for it the store serves
    /// all the same, and the next start tries again.
    pub(super) fn upgrade(&mut self) -> Result<(), StoreError> {
        let shared = Arc::clone(self.shared());
        if self.format() < schema::FORMAT {
            info!("the store is of format {}: it is brought to {}", self.format(), schema::FORMAT);
            let mut after = None;
            let mut done = 0;
            loop {
                let reached: Reached = Arc::new(Mutex::new(Ok(None)));
                let job = Indexing { after, reached: Arc::clone(&reached) };
                match self.commit(vec![Box::new(job)], Also { always: true, ..Also::default() }) {
                    Err(error @ StoreError::NotWritten(_)) => {
                        warn!("the store's new index could not be written, counting is slower without it: {error}");
                        return Ok(());
                    }
                    written => written?,
                }
                let reached = reached.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
                done += BATCH;
                match reached {
                    None => break,
                    some => after = some,
                }
                if done.is_multiple_of(BATCH * 16) {
                    info!("{done} tokens are brought to format {}", schema::FORMAT);
                }
            }
            self.has_format(schema::FORMAT);
            self.commit(Vec::new(), Also { always: true, format: true, ..Also::default() })?;
        }
        shared.orders.index_is_whole();
        Ok(())
    }
}

impl Txn<'_> {
    /// Puts the rows of unrevoked tokens after an id into the index; returns where to go on.
    fn index_unrevoked(&mut self, after: Option<TokenId>, most: usize) -> Result<Option<TokenId>, StoreError> {
        let first = after.map_or(Some(TokenId::MIN), scan::successor);
        let Some(first) = first else { return Ok(None) };
        let mut last = None;
        let mut keys = Vec::new();
        let mut more = false;
        let rows = self.tables.tokens.range::<&[u8; 16]>(first.as_bytes()..).map_err(read_error)?;
        for (visited, row) in rows.enumerate() {
            if visited == most {
                more = true;
                break;
            }
            let (id, sealed) = row.map_err(read_error)?;
            let id = TokenId::from_bytes(*id.value());
            let record = schema::open_record(self.sealer, id, sealed.value())?;
            if record.revoked.is_none() {
                let prefix = schema::index_prefix(self.sealer, IndexTag::SubjectUnrevoked, &record.subject);
                keys.push(schema::index_key(&prefix, id));
            }
            last = Some(id);
        }
        for key in &keys {
            self.tables.index(key).map_err(read_error)?;
        }
        Ok(last.filter(|_| more))
    }
}
