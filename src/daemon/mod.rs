//! The daemon's main story: arguments, harden, inherited sockets, configuration, keys, clock, audit, store, socket, READY,
//! serve, STOPPING, drain, seal.
//!
//! In this order because each needs what stands before it; shutdown mirrors it.

#![forbid(unsafe_code)]

mod args;
mod demo;
mod exit;
mod heart;
mod log;
pub mod open;
mod recover;
pub mod reload;
mod restore;
mod serve;

use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::{Config, Paths};
use crate::policy::{Own, Policy, SystemNames};
use crate::sys::ignore_hangup;
use crate::sys::memory::harden_process;
use crate::systemd::{self, Notifier};
use crate::time::SystemTime;

use self::args::{Args, Command};
pub use self::exit::Failure;

/// Runs `bearerd`.
pub fn main() -> ExitCode {
    let args = match Args::of_process() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if asked { 0 } else { exit::USAGE });
        }
    };
    if matches!(args.command, Some(Command::Demo)) {
        return demo::run();
    }
    log::start(args.log_level.into());
    let done = match &args.command {
        Some(Command::Recover) => recover::run(&args),
        Some(Command::Restore(restore)) => restore::run(&args, restore),
        _ if args.check_config => check_config(&args),
        _ => run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => exit::report(&failure),
    }
}

/// From the command line to the last seal.
fn run(args: &Args) -> Result<(), Failure> {
    harden_process().map_err(Failure::Harden)?;
    ignore_hangup();
    // Before any thread: it changes the environment.
    let inherited = systemd::inherited()?;
    let notifier = Notifier::from_env();
    let (paths, config) = configuration(args)?;
    raise_descriptors(config.socket.max_connections);
    for (name, socket) in [("http", &inherited.http), ("credentials", &inherited.credentials)] {
        if socket.is_some() {
            tracing::warn!("the service manager passes the socket {name:?}, which this version does not serve");
        }
    }
    let own = Own::of_this_process();
    let credentials = systemd::credentials_directory();
    let backbone = open::open(&config, credentials.as_deref(), Box::new(SystemTime::new()))?;
    let listener = open::listen(&config, inherited)?;
    serve::run(serve::Start { paths, config, file: args.config.clone(), own, backbone, listener, notifier })
}

/// Room for every connection and for files. With less the listener pauses when descriptors run out, and goes on.
fn raise_descriptors(max_connections: u32) {
    /// Store, log, epoll, places kept for root, and some to spare.
    const BESIDES: u64 = 256;
    let wanted = u64::from(max_connections) + BESIDES;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let raised = wanted.min(hard);
    if soft < raised && setrlimit(Resource::RLIMIT_NOFILE, raised, hard).is_err() || hard < wanted {
        tracing::warn!(
            "only {} files may be open, too few for {max_connections} connections: raise LimitNOFILE=",
            raised.max(soft)
        );
    }
}

/// `--check-config`: all that is wrong, at once, and nothing touched.
fn check_config(args: &Args) -> Result<(), Failure> {
    let (_, config) = configuration(args)?;
    for remark in &config.remarks {
        tracing::warn!("{remark}");
    }
    let (_, unresolved) = Policy::resolve(&config, &SystemNames, Own::of_this_process());
    if let Some(first) = unresolved.first() {
        for warning in &unresolved[1..] {
            tracing::error!("{warning}");
        }
        return Err(Failure::Unresolved(first.to_string()));
    }
    Ok(())
}

fn configuration(args: &Args) -> Result<(Paths, Config), Failure> {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let paths =
        if args.user { Paths::user(uid, gid, &|name| std::env::var_os(name))? } else { Paths::system(uid, gid) };
    let config = Config::load(&paths, args.config.as_deref().map(Path::new))?;
    Ok((paths, config))
}
