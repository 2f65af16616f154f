//! Sealing every value anew under a new record key, while everything else goes on (`bearerctl rekey --data`).
//!
//! First the header gets the new key, durably; only then is anything sealed under it. From there on new values are under
//! it by themselves, and a walk over all tables seals the others anew, some milliseconds of the writer's time in each
//! transaction. When it is through and a second look finds nothing under the old key, that is dropped from the header.
//!
//! A header with more than one record key says that this is not ended: the next start goes on. The walk needs no note of
//! how far it got, because it passes over what is sealed under the key in force.

use std::sync::Arc;
use std::time::Duration;

use super::Service;
use super::keys::key_failure;
use crate::peer::PeerLabel;
use crate::protocol::message::{Failure, RekeyProgress};
use crate::store::{ResealCursor, StoreError, Txn};

/// Rows in one transaction.
const ROWS: usize = 256;
/// How long after a walk that could not be written (a full disk, a read error) the next begins.
const RETRY: Duration = Duration::from_secs(5);

/// Why a walk ended before its end.
enum Ended {
    /// The store refuses for now.
    ForNow(String),
    /// It will refuse again.
    ForGood(String),
    /// The store has stopped.
    Stopped,
}

impl Service {
    pub(super) async fn rekey_data(self: Arc<Self>, by: PeerLabel) -> Result<RekeyProgress, Failure> {
        if self.keys.progress.borrow().running {
            return Ok(self.progress());
        }
        if self.header()?.record_keys.len() == 1 {
            let (source, header) = self.keys_at_hand().await?;
            let (next, new) = header.with_new_record_key(&source).map_err(key_failure)?;
            let note = format!("record key {} added: every value is sealed anew under it", new.epoch());
            self.change_header(&header, &next, self.event("reseal_begun", note, Some(by))).await?;
            self.keyring.put_in_force(new);
        }
        self.begin_reseal();
        Ok(self.progress())
    }

    /// Walks all tables, in a task of its own. The header has more than one record key.
    pub(super) fn begin_reseal(self: &Arc<Self>) {
        self.keys.progress.send_replace(RekeyProgress { running: true, ..RekeyProgress::default() });
        let service = Arc::clone(self);
        tokio::spawn(async move {
            let mut stopping = service.stopping.subscribe();
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => {}
                () = service.reseal() => {}
            }
            service.keys.progress.send_modify(|progress| progress.running = false);
        });
    }

    async fn reseal(&self) {
        loop {
            match self.reseal_once().await {
                Ok(()) => return,
                Err(Ended::Stopped) => return,
                Err(Ended::ForGood(fault)) => {
                    tracing::error!("values can't be sealed under the new record key: {fault}; the old key stays");
                    self.keys.progress.send_modify(|progress| progress.fault = Some(fault));
                    return;
                }
                Err(Ended::ForNow(fault)) => {
                    tracing::warn!("values can't be sealed under the new record key now: {fault}");
                    self.keys.progress.send_modify(|progress| progress.fault = Some(fault));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn reseal_once(&self) -> Result<(), Ended> {
        let total = self.look(|store| store.sealed_rows()).await?;
        self.keys.progress.send_modify(|progress| (progress.total, progress.done) = (total, 0));
        let mut cursor = ResealCursor::default();
        while !cursor.is_finished() {
            let at = cursor.clone();
            let job = move |txn: &mut Txn<'_>| -> Result<ResealCursor, StoreError> { txn.reseal(&at, ROWS) };
            cursor = match self.store.write(job).await {
                Ok(Ok(committed)) => committed.value,
                Ok(Err(error)) | Err(error) => return Err(error.into()),
            };
            self.keys.progress.send_modify(|progress| {
                progress.done = cursor.done();
                // Some came meanwhile.
                progress.total = progress.total.max(progress.done);
                progress.fault = None;
            });
        }
        // A value whose key is dropped is lost: that there is none is not left to the walk alone.
        if let Some(table) = self.look(|store| store.not_resealed()).await? {
            return Err(Ended::ForGood(format!("a value in table {table:?} was passed over")));
        }
        let _alone = self.keys.changing.lock().await;
        let for_now = |failure: Failure| Ended::ForNow(failure.message);
        let header = self.header().map_err(for_now)?;
        let next = header.with_last_record_key();
        let note = format!(
            "{} values are sealed under record key {}; the ones before it are dropped",
            cursor.done(),
            next.record_epoch
        );
        self.change_header(&header, &next, self.event("reseal_done", note, None)).await.map_err(for_now)?;
        self.keys.progress.send_modify(|progress| {
            progress.finished = true;
            // Some went meanwhile.
            progress.total = progress.done;
        });
        tracing::info!("all {} values are sealed under record key {}", cursor.done(), next.record_epoch);
        Ok(())
    }

    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&crate::store::Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Ended> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || look(&store)).await {
            Ok(found) => Ok(found?),
            Err(_) => Err(Ended::ForNow("a look at the store was cut off".to_owned())),
        }
    }
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Stopped | StoreError::SyncFailed | StoreError::Fatal(_) => Self::Stopped,
            StoreError::NoRoom => {
                Self::ForNow("the disk of the store is full, and what room is left is kept for revocations".to_owned())
            }
            StoreError::NotWritten(_) | StoreError::Read(_) => Self::ForNow(error.to_string()),
            error => Self::ForGood(error.to_string()),
        }
    }
}
