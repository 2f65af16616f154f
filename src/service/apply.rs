//! Writes orders into the records, one order after the other, a few records at a time.
//!
//! Invariant: this is only bookkeeping. An order is in force before it begins and after it has ended, whenever it is cut
//! off: what a record already bears is not done to it again, and the order is dropped from its table only when a whole
//! walk has found nothing more to write. It announces nothing, for the order's own record stands in the audit; but a
//! predecessor that is good again, since its unused successor was revoked, has its line.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::Service;
use super::changes::line_due;
use super::revoke::{good_again, undo_rotation};
use crate::audit::{Audit, AuditEvent};
use crate::store::order::Order;
use crate::store::{Effect, Store, StoreError, Txn};
use crate::token::TokenId;

/// Records in one transaction: a revocation that comes meanwhile waits for no more than these.
const BATCH: usize = 128;
/// After a failure that mends itself.
const RETRY: Duration = Duration::from_secs(1);

impl Service {
    /// Applies orders as they come, those of earlier runs first, until the service stops.
    pub async fn apply_orders(self: Arc<Self>) {
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => {}
            () = self.apply_for_ever() => {}
        }
    }

    async fn apply_for_ever(&self) {
        loop {
            let order = self.store.order_due().await;
            match apply(&self.store, &self.audit, &order).await {
                Ok(written) => info!("order {} is written into {written} records", order.number),
                Err(StoreError::Stopped | StoreError::Fatal(_) | StoreError::SyncFailed) => return,
                Err(problem @ (StoreError::Read(_) | StoreError::NotWritten(_))) => {
                    warn!("order {} is in force, and its records are written later: {problem}", order.number);
                    tokio::time::sleep(RETRY).await;
                }
                Err(problem) => {
                    error!("order {} is in force, but can't be written into the records: {problem}", order.number);
                    tokio::time::sleep(RETRY * 60).await;
                }
            }
        }
    }
}

/// Walks an order's tokens once, then drops it. Returns how many records were written.
async fn apply(store: &Store, audit: &Audit, order: &Arc<Order>) -> Result<u64, StoreError> {
    let (mut after, mut written) = (None, 0);
    loop {
        let (reading, ordered) = (store.clone(), Arc::clone(order));
        let page = tokio::task::spawn_blocking(move || reading.order_page(&ordered, after)).await;
        let page = page.unwrap_or(Err(StoreError::JobPanicked))?;
        for ids in page.ids.chunks(BATCH) {
            let ids = ids.to_vec();
            let done = store.write(move |txn| write_down(txn, &ids)).await??.value;
            written += done.written;
            for event in done.lines {
                // Nobody waits for it: it stands in the outbox.
                drop(line_due(audit, event));
            }
        }
        match page.next {
            None => break,
            next => after = next,
        }
    }
    let number = order.number;
    store
        .write(move |txn| {
            txn.finish_order(number);
            Ok::<(), StoreError>(())
        })
        .await??;
    Ok(written)
}

/// What one batch came to.
#[derive(Default)]
struct Batch {
    written: u64,
    lines: Vec<AuditEvent>,
}

/// The one place where what orders did to a record is put for its own sake.
fn write_down(txn: &mut Txn<'_>, ids: &[TokenId]) -> Result<Batch, StoreError> {
    let mut batch = Batch::default();
    for id in ids {
        let Some(record) = txn.overdue(*id)? else { continue };
        // As by its id: an unused successor that is revoked gives its predecessor back.
        let good_again = good_again(txn, std::slice::from_ref(&record))?;
        // It has been in force for long: nothing is to be refused ahead of this commit.
        txn.put(record, Effect::Extends)?;
        batch.written += 1;
        for predecessor in good_again {
            batch.lines.push(undo_rotation(txn, predecessor, None)?);
        }
    }
    Ok(batch)
}
