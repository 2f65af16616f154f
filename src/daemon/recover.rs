//! `bearerd recover`: the recovery key opens the store, and a new key file is made.
//!
//! Offline, with every check of a start: the lock, owner and modes, and that the store is not older than its log. Nothing
//! is dropped here: the new key's slot is marked as being installed, and the start that opens the store with it drops
//! those of the keys that were lost. So a crash at any point leaves a store that the recovery key opens.

use std::io;
use std::os::unix::fs::MetadataExt;

use nix::unistd::{Uid, User, geteuid};

use super::args::Args;
use super::exit::Failure;
use super::open::{self, Backbone};
use crate::audit::{AuditEvent, EventKind};
use crate::config::Config;
use crate::ctl::input;
use crate::store::{StoreError, Txn};
use crate::sys::files::FileError;
use crate::sys::memory::harden_process;
use crate::time::SystemTime;
use crate::vault::{KeyHeader, KeySource, SlotKind, VaultError, recovery};

/// Asks for the recovery key, and makes a new one.
///
/// # Errors
/// [`Failure`]: each says what is wrong and what to do.
pub fn run(args: &Args) -> Result<(), Failure> {
    harden_process().map_err(Failure::Harden)?;
    let (_, config) = super::configuration(args)?;
    // Before anybody types 76 characters.
    may_recover(&config)?;
    let recovered = asked_for()?;
    // Once to open every key, once to make a slot: the root key is kept by neither.
    let backbone = open::open_by(&config, recovered.again()?, Box::new(SystemTime::new()))?;
    for remark in &backbone.remarks {
        tracing::warn!("{remark}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let new = runtime.block_on(async {
        let made = make_key(&config, &backbone, &recovered).await;
        let sealed = backbone.audit.stop().await;
        // What the lost daemon's caches may still hold is not over because of an orderly stop of ours.
        backbone.takeover.over().await;
        let closed = backbone.store.stop().await;
        let made = made?;
        if let Err(error) = sealed {
            tracing::warn!("the audit log's last lines could not be sealed: {error}");
        }
        closed.map_err(|source| Failure::Store { path: config.store.path.clone(), source })?;
        Ok::<_, Failure>(made)
    })?;
    tracing::info!(
        "made the key {} in {}: start bearerd, which then drops the lost key's slot",
        new.id(),
        new.origin()
    );
    tracing::info!(
        "a credential bearerd.master-key, if the service has one, goes first and must be taken away; and the recovery key was shown to this host: bearerctl recovery-key makes another"
    );
    Ok(())
}

/// The recovery key, from standard input.
pub(super) fn asked_for() -> Result<KeySource, Failure> {
    let given = input::recovery_key("Recovery key (not shown): ").map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Failure::Vault(VaultError::RecoveryCheck),
        _ => Failure::Input(error),
    })?;
    if given.trim().is_empty() {
        return Err(Failure::NoRecoveryKey);
    }
    Ok(recovery::parse(&given)?)
}

/// What would make typing it of no use.
fn may_recover(config: &Config) -> Result<(), Failure> {
    let store = std::fs::symlink_metadata(&config.store.path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => FileError::Missing { path: config.store.path.clone() },
        _ => FileError::Io { doing: "look at", path: config.store.path.clone(), source },
    })?;
    if store.uid() != geteuid().as_raw() {
        let owner = User::from_uid(Uid::from_raw(store.uid())).ok().flatten();
        return Err(Failure::OtherUser { user: owner.map_or_else(|| format!("#{}", store.uid()), |user| user.name) });
    }
    if config.key_file.symlink_metadata().is_ok() {
        return Err(Failure::KeyThere { file: config.key_file.clone() });
    }
    Ok(())
}

async fn make_key(config: &Config, backbone: &Backbone, recovered: &KeySource) -> Result<KeySource, Failure> {
    let store_failed = |source| Failure::Store { path: config.store.path.clone(), source };
    let old = backbone.store.header().map_err(store_failed)?;
    let header = KeyHeader::decode(&old)?;
    let new = KeySource::random(SlotKind::File, config.key_file.display().to_string())?;
    let next = header.install(recovered, &new, backbone.clock.now())?.encode();
    // The file first: a slot whose key is nowhere would be of no use.
    new.write_successor(&config.key_file)?;
    let mut event = AuditEvent::new(EventKind::Rekey, backbone.clock.now());
    event.outcome = Some("done".into());
    event.reason = Some("recovered".into());
    event.note =
        Some(format!("key slot {} (file) added by bearerd recover, with recovery key {}", new.id(), recovered.id()));
    let job = move |txn: &mut Txn<'_>| -> Result<AuditEvent, StoreError> {
        txn.put_header(next);
        txn.announce(|generation| {
            event.generation = Some(generation);
            event.encode()
        })?;
        Ok(event)
    };
    let committed = match backbone.store.write(job).await {
        Ok(Ok(committed)) => committed,
        Ok(Err(error)) | Err(error) => {
            let _ = KeySource::remove_successor(&config.key_file);
            return Err(store_failed(error));
        }
    };
    // Its line is owed by the outbox if it can't be written now.
    let _ = backbone.audit.committed(committed.generation, committed.value).wait().await;
    KeySource::install_successor(&config.key_file)?;
    Ok(new)
}
