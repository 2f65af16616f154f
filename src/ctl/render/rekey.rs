//! What is said of new keys, to people and to programs.

use serde_json::json;
use zeroize::Zeroizing;

use super::style::{Ink, clean, ink};
use super::when::plural;
use crate::protocol::message::{RekeyProgress, Rekeyed};

/// The object of `--json`; it may hold a key, so its bytes are wiped.
pub fn json(rekeyed: &Rekeyed) -> Zeroizing<Vec<u8>> {
    let head = json!({
        "slot": rekeyed.slot,
        "installed": rekeyed.installed,
        "origin": rekeyed.origin,
        "dropped": rekeyed.dropped,
    });
    let head = head.to_string();
    let key = rekeyed.key.as_ref().map_or("", |key| key.expose());
    let mut bytes = Zeroizing::new(Vec::with_capacity(head.len() + key.len() + 16));
    bytes.extend_from_slice(head.trim_end_matches('}').as_bytes());
    // A key has nothing that JSON would want escaped.
    if key.is_empty() {
        bytes.extend_from_slice(b",\"key\":null}\n");
    } else {
        bytes.extend_from_slice(b",\"key\":\"");
        bytes.extend_from_slice(key.as_bytes());
        bytes.extend_from_slice(b"\"}\n");
    }
    bytes
}

/// A key file was changed.
pub fn installed(rekeyed: &Rekeyed) -> String {
    format!(
        "{}: key {} in {}{}\n",
        ink(Ink::Good, "in force"),
        clean(&rekeyed.slot),
        clean(&rekeyed.origin),
        gone(rekeyed)
    )
}

/// A credential is to be changed by whoever asked; its key stands on standard output.
pub fn to_install(rekeyed: &Rekeyed) -> String {
    format!(
        "key {} is made, and printed this once: install it as {}, then restart bearerd. Until then the old key opens the store too; the start with the new one ends that. For example:\n  bearerctl rekey | systemd-creds encrypt --name=bearerd.master-key - /etc/credstore.encrypted/bearerd.master-key\n  systemctl restart bearerd.service\nAsking again makes another key, and this one is of no use then.\n",
        clean(&rekeyed.slot),
        clean(&rekeyed.origin),
    )
}

/// A recovery key, which stands on standard output.
pub fn recovery(rekeyed: &Rekeyed) -> String {
    format!(
        "recovery key {} is made, and printed this once: write it down and keep it away from this host{}. If the daemon's key is lost, `bearerd recover` asks for it.\n",
        clean(&rekeyed.slot),
        gone(rekeyed)
    )
}

/// Every value is under another record key.
pub fn resealed(progress: &RekeyProgress) -> String {
    format!(
        "{}: {} under record key {}; the ones before it are gone\n",
        ink(Ink::Good, "sealed"),
        plural(progress.done, "value"),
        progress.epoch
    )
}

fn gone(rekeyed: &Rekeyed) -> String {
    if rekeyed.dropped.is_empty() {
        return String::new();
    }
    let names: Vec<_> = rekeyed.dropped.iter().map(|id| clean(id).into_owned()).collect();
    format!("; {} opens nothing any more", names.join(", "))
}
