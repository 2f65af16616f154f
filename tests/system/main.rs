//! What only a real service manager shows: a Debian machine is booted in a container (systemd-nspawn), the package is installed
//! in it, and it is used, killed, upgraded and purged there.
//!
//! Each test has a machine of its own, fresh from the same root; nothing that it does there is seen outside. They need root,
//! `systemd-nspawn` and `mmdebstrap`, and are run by `cargo test --test system -- --ignored`.

// Scenarios use what they need of it.
#[allow(dead_code)]
mod machine;

mod boots;
