//! What the benchmarks share: the load and the protocols it speaks, latencies, processes that serve, and stores that are
//! filled without a daemon.

#![allow(dead_code, reason = "each benchmark needs its own part of it")]

pub mod fill;
pub mod histogram;
pub mod load;
pub mod random;
pub mod server;
pub mod tokens;
pub mod wire;
