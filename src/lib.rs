//! bearerd makes, keeps, checks, revokes and accounts for the API tokens of one Linux host.
//!
//! The rooms, in layer order; a room imports only from a lower layer, and from its own only what is its own
//! (`docs/architecture.md`, `tests/layers.rs`):
//!
//! | layer | rooms |
//! | --- | --- |
//! | 0 | [`sys`] [`time`] [`token`] [`scope`] [`codec`] |
//! | 1 | [`peer`] [`vault`] [`protocol`] [`config`] [`systemd`] [`page`] |
//! | 2 | [`store`] [`policy`] [`audit`] [`client`] |
//! | 3 | [`registry`] |
//! | 4 | [`service`] |
//! | 5 | [`server`] [`ctl`] |
//! | 6 | [`daemon`] |

#![deny(unsafe_code)]

#[cfg(all(feature = "mutants", not(debug_assertions)))]
compile_error!("the feature `mutants` breaks on purpose what tests must notice: no optimised build may have it");

/// Whether this process has that fault on purpose. Without the feature `mutants`: no, and nothing of it is built.
#[cfg(feature = "mutants")]
macro_rules! mutant {
    ($which:ident) => {
        $crate::page::mutant::Mutant::$which.is_on()
    };
}
#[cfg(all(not(feature = "mutants"), feature = "client"))]
macro_rules! mutant {
    ($which:ident) => {
        false
    };
}

pub mod codec;
pub mod scope;
#[allow(unsafe_code, reason = "the one room that may")]
pub mod sys;
pub mod time;
pub mod token;

#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "client")]
pub mod page;
pub mod peer;
pub mod protocol;
#[cfg(feature = "daemon")]
pub mod systemd;
#[cfg(feature = "daemon")]
pub mod vault;

#[cfg(feature = "daemon")]
pub mod audit;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "daemon")]
pub mod policy;
#[cfg(feature = "daemon")]
pub mod store;

#[cfg(feature = "daemon")]
pub mod registry;

#[cfg(feature = "daemon")]
pub mod service;

#[cfg(feature = "cli")]
pub mod ctl;
#[cfg(feature = "daemon")]
pub mod server;

#[cfg(all(feature = "daemon", feature = "cli"))]
pub mod daemon;
