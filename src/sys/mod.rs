//! System calls that need `unsafe`, and the checks of files, memory and peers that rest on them.
//!
//! The only room with `unsafe`; each block says why it is sound.

#[cfg(feature = "daemon")]
pub mod files;
#[cfg(feature = "daemon")]
pub mod memory;
#[cfg(feature = "daemon")]
pub mod net;
#[cfg(feature = "daemon")]
pub mod panics;
#[cfg(feature = "client")]
pub mod pass;
#[cfg(feature = "daemon")]
pub mod peer;
#[cfg(feature = "client")]
pub mod shared;

/// SIGHUP does nothing until something answers it: a reload that comes while the daemon starts must not end it.
#[cfg(feature = "daemon")]
pub fn ignore_hangup() {
    // SAFETY: ignoring a signal runs no code of ours in a handler.
    let ignored =
        unsafe { nix::sys::signal::signal(nix::sys::signal::Signal::SIGHUP, nix::sys::signal::SigHandler::SigIgn) };
    ignored.expect("SIGHUP is a signal that can be ignored");
}

/// Whether the kernel says that the wall clock is synchronised (`adjtimex(2)`: STA_UNSYNC is clear).
#[cfg(feature = "daemon")]
pub fn clock_synchronised() -> bool {
    // SAFETY: `timex` is plain data for which all zeroes is valid (modes = 0: read only), and adjtimex only writes into it.
    let (state, status) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&mut timex), timex.status)
    };
    state >= 0 && state != libc::TIME_ERROR && status & libc::STA_UNSYNC == 0
}
