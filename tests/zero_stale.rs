//! I2, with caches, whatever happens to the daemon: no *active* in a check that began after the reply to the revocation.
//!
//! A million checks by 64 processes; `BEARERD_ZERO_CHECKS` sets another number, and revocations, kills and the rest
//! follow in proportion. `BEARERD_ZERO_SEED` repeats a run's choices (not its timing).

mod daemon;
mod storm;

use std::io::Write;

use storm::Plan;

#[test]
#[ignore = "a client of the storm"]
fn storm_client() {
    storm::client::run();
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}: {error}")))
}

#[test]
fn no_check_after_the_reply_is_active() {
    let seed = number("BEARERD_ZERO_SEED").unwrap_or_else(|| std::process::id().into());
    let plan = Plan::of_checks(number("BEARERD_ZERO_CHECKS").unwrap_or(1_000_000), seed);
    let report = storm::run(&plan);
    let counts = report.counts;
    let nothing = counts.checks - counts.hits - counts.asks - counts.errors;
    let figures = format!(
        "seed {seed}, {:.0} s\n\
        {} checks: {} out of the cache, {} by the daemon, {nothing} that looked for what is kept and found nothing, {} not answered\n\
        {} of them after the reply\n\
        {} restrictions {:?}, {} cut off\n\
        {} kills, {} stops, {} restarts, {} reloads\n",
        report.took.as_secs_f64(),
        counts.checks,
        counts.hits,
        counts.asks,
        counts.errors,
        counts.late,
        report.revocations,
        report.made,
        report.cut_off,
        report.kills,
        report.stops,
        report.restarts,
        report.reloads
    );
    // Past the harness, which shows what a test prints only when it fails.
    std::io::stderr().write_all(figures.as_bytes()).unwrap();
    assert!(report.violations.is_empty(), "{} are stale:\n{}", report.violations.len(), report.violations.join("\n"));
    assert!(counts.checks >= plan.checks, "too few checks in {:?}", report.took);
    assert!(counts.hits > counts.checks / 2, "the caches were not what was tried");
    assert!(report.revocations >= plan.revocations && counts.late >= report.revocations, "too few revocations");
    assert!(report.made.iter().take(7).all(|(_, made)| *made > 0), "a way to revoke was not tried");
    assert!(report.kills >= plan.kills && report.stops >= plan.stops, "too few kills and stops");
    assert!(report.restarts >= plan.restarts && report.reloads >= plan.reloads, "too few restarts and reloads");
}

/// The faults of `tests/mutants.rs` are not in what is built without that feature.
#[cfg(not(feature = "mutants"))]
#[test]
fn no_fault_on_purpose_is_in_this_build() {
    for program in [env!("CARGO_BIN_EXE_bearerd"), env!("CARGO_BIN_EXE_bearerctl")] {
        let bytes = std::fs::read(program).unwrap();
        assert!(!bytes.windows(14).any(|window| window == b"BEARERD_MUTANT"), "{program}");
        assert!(!bytes.windows(11).any(|window| window == b"no-takeover"), "{program}");
    }
}
