//! Faults made on purpose (`src/page/mutant.rs`), each of which the trials must notice; and without a fault they must
//! notice nothing. Run with `--features mutants`, which also makes the lease longer, so that a slow machine can start
//! two daemons within one.
//!
//! A trial runs in a process of its own with the fault in its environment: the daemon that it starts has it too.

mod daemon;
mod stale;
mod storm;

use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use bearerd::page::mutant::Mutant;
use daemon::Daemon;
use stale::elsewhere::{Clock, Elsewhere};
use stale::{Stale, Trial};

const TRIAL: &str = "BEARERD_TEST_TRIAL";
const SEEN: &str = "seen: ";

/// One after the other: a lease is no time to share.
static TURN: Mutex<()> = Mutex::new(());

/// The trials by name. Several rounds, where it is chance whether a fault shows.
fn run(trial: &str) -> Trial {
    let mut daemon = Daemon::start();
    match trial {
        "revoked" => stale::plainly_revoked(&daemon),
        "order" => stale::revoked_in_an_order(&daemon),
        "amid-revocation" => stale::asked_amid_a_revocation(&daemon, false),
        "amid-order" => stale::asked_amid_a_revocation(&daemon, true),
        "kill" => (0..3).try_for_each(|_| stale::revoked_after_a_kill(&mut daemon)),
        "use" => (0..3).try_for_each(|_| stale::used_after_a_kill(&mut daemon)),
        "third" => (0..3).try_for_each(|_| stale::revoked_by_the_third_daemon(&mut daemon)),
        "stop" => (0..3).try_for_each(|_| stale::revoked_after_a_stop(&mut daemon)),
        "storm" => {
            drop(daemon);
            let report = storm::run(&storm::Plan::until_something_is_stale(Duration::from_secs(40)));
            report.violations.first().map_or(Ok(()), |violation| Err(Stale(violation.clone())))
        }
        other => panic!("no trial {other}"),
    }
}

/// What a trial saw in a process that has this fault, or none.
fn seen(trial: &str, mutant: Option<Mutant>) -> Option<String> {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "trial", "--ignored", "--nocapture"])
        .env(TRIAL, trial)
        .env("BEARERD_MUTANT", mutant.map_or("", Mutant::name))
        // Some faults hold a thread of the daemon for a while.
        .env("TOKIO_WORKER_THREADS", "4")
        .output()
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{trial}, {mutant:?}: {said}{errors}");
    said.lines().find_map(|line| line.split_once(SEEN)).map(|(_, what)| what.to_owned())
}

#[track_caller]
fn caught(mutant: Mutant, trials: &[&str]) {
    for trial in trials {
        let Some(what) = seen(trial, Some(mutant)) else { panic!("{}: the trial {trial} saw nothing", mutant.name()) };
        println!("{}: {what}", mutant.name());
    }
}

#[test]
#[ignore = "the process of a trial"]
fn trial() {
    let Ok(trial) = std::env::var(TRIAL) else { return };
    if let Err(Stale(what)) = run(&trial) {
        println!("{SEEN}{what}");
    }
}

#[test]
#[ignore = "a client of the storm"]
fn storm_client() {
    storm::client::run();
}

#[test]
#[ignore = "the process of a client"]
fn client_elsewhere() {
    stale::elsewhere::serve();
}

#[test]
fn without_a_mutant_nothing_is_stale() {
    for trial in ["revoked", "order", "amid-revocation", "amid-order", "kill", "use", "third", "stop"] {
        assert_eq!(seen(trial, None), None, "{trial}");
    }
}

#[test]
fn a_bump_after_the_reply_is_caught() {
    caught(Mutant::BumpAfterReply, &["revoked", "order", "storm"]);
}

#[test]
fn a_slot_that_is_read_after_the_state_is_caught() {
    caught(Mutant::SlotAfterState, &["amid-revocation"]);
}

#[test]
fn a_generation_that_is_read_after_the_state_is_caught() {
    caught(Mutant::GenerationAfterState, &["amid-order"]);
}

#[test]
fn a_generation_that_is_bumped_before_the_order_is_caught() {
    caught(Mutant::GenerationBeforeOrder, &["amid-order"]);
}

#[test]
fn a_client_without_the_lease_is_caught() {
    caught(Mutant::NoLease, &["kill", "storm"]);
}

#[test]
fn a_daemon_that_does_not_wait_for_the_lease_is_caught() {
    caught(Mutant::NoTakeover, &["kill", "use", "third", "storm"]);
}

#[test]
fn an_early_stop_that_is_called_orderly_is_caught() {
    caught(Mutant::HastyStop, &["third"]);
}

#[test]
fn a_page_that_is_not_closed_is_caught() {
    caught(Mutant::NoClose, &["stop", "storm"]);
}

#[test]
fn a_change_that_bumps_no_slot_is_caught() {
    caught(Mutant::NoSlot, &["revoked", "storm"]);
}

#[test]
fn an_order_that_bumps_no_generation_is_caught() {
    caught(Mutant::NoGeneration, &["order", "storm"]);
}

/// In a time namespace: see `tests/takeover.rs`.
#[test]
#[ignore = "needs root"]
fn root_a_client_that_believes_any_clock_is_caught() {
    let mut daemon = Daemon::start();
    let token = stale::issue(&daemon, "elsewhere");
    let clock = Clock { secs: -500, nanos: 0 };
    let mut client = clock.start(|| {
        let mut command = Elsewhere::command("client_elsewhere", daemon.socket());
        command.env("BEARERD_MUTANT", Mutant::AnyClock.name());
        command
    });
    assert_eq!(client.tell(&format!("warm {token}")), "true", "it keeps nothing, with the fault as without");
    daemon.kill();
    daemon.run();
    stale::revoke(&daemon, stale::by_id(&token));
    assert_eq!(client.tell(&format!("kept {token}")), "true", "the fault does nothing");
}

/// What `tests/zero_stale.rs` looks for where it must not be.
#[test]
fn the_faults_are_in_this_build() {
    for program in [env!("CARGO_BIN_EXE_bearerd"), env!("CARGO_BIN_EXE_bearerctl")] {
        let bytes = std::fs::read(program).unwrap();
        assert!(bytes.windows(14).any(|window| window == b"BEARERD_MUTANT"), "{program}");
    }
}

/// A name that is in the list and in no test would be a fault that nobody looks for.
#[test]
fn each_mutant_has_a_test() {
    let tests = include_str!("mutants.rs");
    for mutant in Mutant::ALL {
        assert!(tests.contains(&format!("Mutant::{mutant:?}")), "{mutant:?}");
    }
}
