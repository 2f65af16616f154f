//! Keys change while the daemon serves: the key that opens the store, the recovery key, and the record key that every
//! value is sealed under.
//!
//! Invariants: one change at a time; each step is one transaction with its audit record, and after a crash between any
//! two of them the store opens with the key that is there, and the next start finishes the change or takes it back
//! ([`Service::settle_keys`]). The root key is opened for a change and forgotten with it. A change that was begun goes on
//! when its asker goes away.
//!
//! The key file is changed so: the new key lies beside it; its slot is added, marked as being installed; it takes the
//! file's name; the old slot is dropped. A credential is not ours to write: its slot is added, the key is given to
//! whoever asked, and the old slot is dropped by the first start that opens the store with the new one.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};

use super::changes::announce;
use super::{Caller, Now, Service, audit_unavailable, later, store_failure};
use crate::audit::{AuditEvent, EventKind};
use crate::config::Operation;
use crate::peer::PeerLabel;
use crate::policy;
use crate::protocol::code::ErrorCode;
use crate::protocol::message::{Answer, Failure, Rekey, RekeyProgress, Rekeyed, SecretText};
use crate::store::{StoreError, Txn};
use crate::vault::{CREDENTIAL, KeyHeader, KeyId, KeySource, SlotKind, VaultError, recovery};

/// How long who asks for the progress waits for an answer, while it goes on.
const MOMENT: Duration = Duration::from_millis(100);

/// Where the daemon's key comes from; it is read again when slots change.
#[derive(Clone, Debug, Default)]
pub struct KeyPlaces {
    /// The configured key file.
    pub file: PathBuf,
    /// Where credentials are, if the service manager gave any.
    pub credentials: Option<PathBuf>,
    /// Whose the file must be.
    pub owner_uid: u32,
}

impl KeyPlaces {
    fn find(&self) -> Result<KeySource, VaultError> {
        KeySource::find(self.credentials.as_deref(), &self.file, self.owner_uid)
    }
}

/// What the service holds of changes to keys.
#[derive(Default)]
pub(super) struct Keys {
    /// Held while the header changes.
    pub(super) changing: Mutex<()>,
    pub(super) progress: watch::Sender<RekeyProgress>,
}

/// Why the header was not changed.
enum Unchanged {
    Store(StoreError),
    /// It is not what was decided on. Nobody else changes it, so this is a fault of ours.
    Moved,
}

impl From<StoreError> for Unchanged {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Service {
    pub(super) fn rekey(self: &Arc<Self>, caller: &Arc<Caller>, ask: Rekey) -> Now {
        self.change_keys(caller, move |service, by| async move {
            if ask.data {
                service.rekey_data(by).await.map(Answer::RekeyProgress)
            } else {
                service.rekey_source(by).await.map(|it| Answer::Rekeyed(Box::new(it)))
            }
        })
    }

    pub(super) fn recovery_key(self: &Arc<Self>, caller: &Arc<Caller>) -> Now {
        self.change_keys(caller, |service, by| async move {
            service.new_recovery_key(by).await.map(|it| Answer::Rekeyed(Box::new(it)))
        })
    }

    pub(super) async fn rekey_progress(&self, caller: &Caller) -> Result<RekeyProgress, Failure> {
        let _ = self.authorise(caller, &policy::Ask::of(Operation::Admin), None)?;
        let mut progress = self.keys.progress.subscribe();
        let mut stopping = self.stopping.subscribe();
        tokio::select! {
            _ = progress.wait_for(|progress| !progress.running) => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
            () = tokio::time::sleep(MOMENT) => {}
        }
        Ok(self.progress())
    }

    /// Finishes, or takes back, what the last run left half done, and goes on sealing anew if that was not ended. For the
    /// start, before anybody is served. What fails here is logged: the store is open, and the next start tries again.
    pub async fn settle_keys(self: &Arc<Self>) {
        let _alone = self.keys.changing.lock().await;
        let settled = async {
            let header = self.header()?;
            self.settle_slots(&header).await?;
            Ok::<_, Failure>(header.record_keys.len() > 1)
        };
        match settled.await {
            Ok(true) => {
                tracing::info!("values are not all sealed under record key {} yet: that goes on", self.keyring.epoch());
                self.begin_reseal();
            }
            Ok(false) => self.keys.progress.send_modify(|progress| progress.finished = true),
            Err(failure) => tracing::error!("a change of keys could not be finished: {failure}"),
        }
    }

    async fn settle_slots(&self, header: &KeyHeader) -> Result<(), Failure> {
        let (slot, places) = (self.keyring.slot(), self.places.key.clone());
        let clear = move || KeySource::remove_successor(&places.file).map_err(VaultError::File);
        let Some(id) = header.installing else {
            // Left by a change that had not come to its slot. Nobody has seen that key.
            return if slot.kind == SlotKind::File { on_disk(clear).await } else { Ok(()) };
        };
        if slot.id == id {
            self.settle(header, None).await?;
            tracing::info!("the new key {id} is in force; the one before it opens nothing any more");
            return Ok(());
        }
        let of_file = header.slot(id).is_some_and(|slot| slot.kind == SlotKind::File);
        if !of_file {
            // A credential that is still to be installed.
            return if slot.kind == SlotKind::File { on_disk(clear).await } else { Ok(()) };
        }
        let places = self.places.key.clone();
        // What can't be read is not the key of that slot: it was whole before its slot was added.
        let beside = on_disk(move || Ok(KeySource::successor(&places.file, places.owner_uid).ok().flatten())).await?;
        match beside.filter(|beside| slot.kind == SlotKind::File && beside.id() == id) {
            Some(new) => {
                let places = self.places.key.clone();
                on_disk(move || KeySource::install_successor(&places.file).map_err(VaultError::File)).await?;
                self.keyring.installed(&new);
                self.settle(header, None).await?;
                tracing::info!("the change to key {id}, which was cut off, is finished");
            }
            None => {
                self.take_back(header, None).await?;
                on_disk(clear).await?;
                tracing::warn!("the change to key {id}, which was cut off, is taken back: repeat bearerctl rekey");
            }
        }
        Ok(())
    }

    /// Authorises, and does it in a task of its own, alone.
    fn change_keys<F>(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        change: impl FnOnce(Arc<Self>, PeerLabel) -> F + Send + 'static,
    ) -> Now
    where
        F: Future<Output = Result<Answer, Failure>> + Send,
    {
        let (service, caller) = (Arc::clone(self), Arc::clone(caller));
        later(async move {
            let _ = service.authorise(&caller, &policy::Ask::of(Operation::Admin), None)?;
            if !service.audit.ready() {
                return Err(audit_unavailable());
            }
            let by = caller.peer.label();
            let changed = tokio::spawn(async move {
                let _alone = service.keys.changing.lock().await;
                change(Arc::clone(&service), by).await
            });
            changed.await.unwrap_or_else(|_| Err(failed()))
        })
    }

    async fn rekey_source(self: Arc<Self>, by: PeerLabel) -> Result<Rekeyed, Failure> {
        let (source, mut header) = self.keys_at_hand().await?;
        if header.installing == Some(source.id()) {
            // A change before this one got as far as its last step.
            self.settle(&header, Some(by.clone())).await?;
            header = header.settle();
        }
        match source.kind() {
            SlotKind::File => self.rekey_file(source, header, by).await,
            _ => self.rekey_credential(&source, &header, by).await,
        }
    }

    async fn rekey_file(&self, source: KeySource, header: KeyHeader, by: PeerLabel) -> Result<Rekeyed, Failure> {
        let places = self.places.key.clone();
        let new = KeySource::random(SlotKind::File, source.origin()).map_err(key_failure)?;
        let next = header.install(&source, &new, self.clock.now()).map_err(key_failure)?;
        let path = places.file.clone();
        let new = on_disk(move || Ok(new.write_successor(&path).map(|()| new)?)).await?;
        let clear = move || KeySource::remove_successor(&places.file).map_err(VaultError::File);
        let note = format!("key slot {} (file) added, to take the place of {}", new.id(), source.id());
        if let Err(failure) = self.change_header(&header, &next, self.event("slot_added", note, Some(by.clone()))).await
        {
            // Should the header have it all the same, the next start takes it back.
            let _ = on_disk(clear).await;
            return Err(failure);
        }
        let path = self.places.key.file.clone();
        if let Err(failure) = on_disk(move || Ok(KeySource::install_successor(&path)?)).await {
            // Whichever has the name now, the store must go on to open with it.
            if self.keys_at_hand().await.is_ok_and(|(there, _)| there.id() == source.id()) {
                self.take_back(&next, Some(by)).await?;
                let _ = on_disk(clear).await;
            }
            return Err(failure);
        }
        self.keyring.installed(&new);
        let dropped = self.settle(&next, Some(by)).await.map_err(|failure| {
            let text = format!(
                "the new key {} is in force, but the old one opens the store too: {failure}; the next start of bearerd ends that, or another rekey",
                new.id()
            );
            Failure::new(failure.code, text)
        })?;
        Ok(Rekeyed {
            slot: new.id().to_string(),
            installed: true,
            origin: new.origin().to_owned(),
            dropped: names(&dropped),
            key: None,
        })
    }

    async fn rekey_credential(
        &self,
        source: &KeySource,
        header: &KeyHeader,
        by: PeerLabel,
    ) -> Result<Rekeyed, Failure> {
        let new = KeySource::random(SlotKind::Credential, format!("credential {CREDENTIAL}")).map_err(key_failure)?;
        let next = header.install(source, &new, self.clock.now()).map_err(key_failure)?;
        let dropped = header.dropped_in(&next);
        let note = format!(
            "key slot {} (credential) added, to take the place of {} at the start that opens with it{}",
            new.id(),
            source.id(),
            given_up(&dropped)
        );
        self.change_header(header, &next, self.event("slot_added", note, Some(by))).await?;
        Ok(Rekeyed {
            slot: new.id().to_string(),
            installed: false,
            origin: new.origin().to_owned(),
            dropped: names(&dropped),
            key: Some(SecretText::new(new.line().as_str().to_owned())),
        })
    }

    async fn new_recovery_key(self: Arc<Self>, by: PeerLabel) -> Result<Rekeyed, Failure> {
        let (source, header) = self.keys_at_hand().await?;
        let new = KeySource::random(SlotKind::Recovery, "the recovery key").map_err(key_failure)?;
        let next = header.with_recovery(&source, &new, self.clock.now()).map_err(key_failure)?;
        let dropped = header.dropped_in(&next);
        let note = format!("key slot {} (recovery) added{}", new.id(), given_up(&dropped));
        self.change_header(&header, &next, self.event("recovery_key", note, Some(by))).await?;
        Ok(Rekeyed {
            slot: new.id().to_string(),
            installed: true,
            origin: new.origin().to_owned(),
            dropped: names(&dropped),
            key: Some(SecretText::new(recovery::print(&new).as_str().to_owned())),
        })
    }

    /// The slot that was being installed is in force: the ones that it replaces go.
    async fn settle(&self, header: &KeyHeader, by: Option<PeerLabel>) -> Result<Vec<KeyId>, Failure> {
        let next = header.settle();
        let dropped = header.dropped_in(&next);
        let id = header.installing.map(|id| id.to_string()).unwrap_or_default();
        let note = format!("key slot {id} is in force; dropped: {}", names(&dropped).join(", "));
        self.change_header(header, &next, self.event("slot_installed", note, by)).await?;
        Ok(dropped)
    }

    async fn take_back(&self, header: &KeyHeader, by: Option<PeerLabel>) -> Result<(), Failure> {
        let id = header.installing.map(|id| id.to_string()).unwrap_or_default();
        let note = format!("key slot {id} dropped again: its key was not installed");
        self.change_header(header, &header.take_back(), self.event("slot_taken_back", note, by)).await
    }

    /// One transaction: the new header and its audit record. The caller runs in a task that is not given up.
    pub(super) async fn change_header(
        &self,
        old: &KeyHeader,
        new: &KeyHeader,
        event: AuditEvent,
    ) -> Result<(), Failure> {
        let dropped = old.wrapped_dropped_in(new);
        let job = || {
            let (old, new, event) = (old.encode(), new.encode(), event.clone());
            move |txn: &mut Txn<'_>| -> Result<AuditEvent, Unchanged> {
                if txn.header()? != old {
                    return Err(Unchanged::Moved);
                }
                txn.put_header(new);
                Ok(announce(txn, event)?)
            }
        };
        let written = match self.store.write(job()).await {
            // Once more: the store has opened itself again, with the room that it keeps for this.
            Err(StoreError::NotWritten(_)) => self.store.write(job()).await,
            written => written,
        };
        let committed = written.map_err(|error| store_failure(&error))?.map_err(|unchanged| match unchanged {
            Unchanged::Store(error) => store_failure(&error),
            Unchanged::Moved => failed(),
        })?;
        self.recorded(vec![self.audit.committed(committed.generation, committed.value)]).await;
        if !dropped.is_empty()
            && let Err(error) = self.wipe(dropped).await
        {
            tracing::warn!(
                "copies of a dropped key slot or record key may be left in free parts of the store's file: {error}"
            );
        }
        Ok(())
    }

    /// Overwrites what is left of dropped keys in the file, once no state that could be gone back to has them.
    async fn wipe(&self, dropped: Vec<Vec<u8>>) -> Result<(), StoreError> {
        self.store.flush().await?;
        self.store.flush().await?;
        let (store, dropped) = (self.store.clone(), Arc::new(dropped));
        let patterns = Arc::clone(&dropped);
        let found = tokio::task::spawn_blocking(move || store.remnants(&patterns)).await;
        let found = found.unwrap_or(Err(StoreError::JobPanicked))?;
        let wiped = self.store.wipe(dropped, found).await?;
        tracing::debug!("{wiped} copies of dropped keys were overwritten");
        Ok(())
    }

    pub(super) fn event(&self, reason: &'static str, note: String, by: Option<PeerLabel>) -> AuditEvent {
        let mut event = AuditEvent::new(EventKind::Rekey, self.clock.now());
        event.outcome = Some("done".into());
        event.reason = Some(reason.into());
        event.peer = by;
        event.note = Some(note);
        event
    }

    /// The key header as it is stored.
    pub(super) fn header(&self) -> Result<KeyHeader, Failure> {
        let bytes = self.store.header().map_err(|error| store_failure(&error))?;
        KeyHeader::decode(&bytes).map_err(key_failure)
    }

    /// The source, read again, and the header.
    pub(super) async fn keys_at_hand(&self) -> Result<(KeySource, KeyHeader), Failure> {
        let places = self.places.key.clone();
        let source = on_disk(move || places.find()).await?;
        Ok((source, self.header()?))
    }

    pub(super) fn progress(&self) -> RekeyProgress {
        RekeyProgress { epoch: self.keyring.epoch(), ..self.keys.progress.borrow().clone() }
    }

    /// For `status`: the slots, and how sealing anew does.
    pub(super) fn key_status(&self, warnings: &mut Vec<String>) -> Result<Value, Failure> {
        let (header, slot, progress) = (self.header()?, self.keyring.slot(), self.progress());
        let plain = slot.kind == SlotKind::File;
        if plain {
            warnings.push("the key is a plain file: a copy of this disk opens the store".to_owned());
        }
        if let Some(id) = header.installing.filter(|id| *id != slot.id) {
            warnings.push(format!(
                "key {id} waits to be installed as credential {CREDENTIAL}: the start that opens the store with it drops the old one"
            ));
        }
        if let Some(fault) = &progress.fault {
            warnings.push(format!("values are not all sealed under the new record key yet: {fault}"));
        }
        let slots: Vec<Value> = header
            .slots
            .iter()
            .map(|it| {
                json!({
                    "id": it.id.to_string(),
                    "kind": it.kind.name(),
                    "created_at": it.created_at.to_string(),
                    "in_force": it.id == slot.id,
                    "pending": header.installing == Some(it.id),
                })
            })
            .collect();
        let unfinished = header.record_keys.len() > 1;
        let reseal = unfinished.then(|| {
            json!({
                "running": progress.running,
                "done": progress.done,
                "total": progress.total,
                "fault": progress.fault,
                "epochs": header.record_keys.iter().map(|key| key.epoch).collect::<Vec<_>>(),
            })
        });
        Ok(json!({
            "slot": slot.id.to_string(),
            "kind": slot.kind.name(),
            "origin": slot.origin,
            "note": plain.then_some("a copy of this disk opens the store"),
            "slots": slots,
            "record_epoch": header.record_epoch,
            "reseal": reseal,
        }))
    }
}

/// Runs what reads or writes key files off the event loop.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VaultError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(key_failure),
        Err(_) => Err(failed()),
    }
}

pub(super) fn key_failure(error: VaultError) -> Failure {
    let code = match error {
        VaultError::File(_) | VaultError::NoSource { .. } | VaultError::Memory(_) => ErrorCode::Unavailable,
        _ => ErrorCode::Internal,
    };
    Failure::new(code, error.to_string())
}

fn failed() -> Failure {
    Failure::new(ErrorCode::Internal, "the change of keys failed: see bearerctl status and the log of bearerd")
}

fn names(ids: &[KeyId]) -> Vec<String> {
    ids.iter().map(KeyId::to_string).collect()
}

fn given_up(dropped: &[KeyId]) -> String {
    if dropped.is_empty() { String::new() } else { format!("; dropped: {}", names(dropped).join(", ")) }
}
