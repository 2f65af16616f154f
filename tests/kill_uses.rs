//! Counted uses and kill -9: what was answered *active* is never more than there are uses, over all lives of the daemon;
//! what is missing at the end was in flight when it was killed.

mod daemon;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bearerd::client::Options;
use bearerd::client::blocking::Client;
use bearerd::protocol::code::Reason;
use bearerd::protocol::message::{Handle, Issue, Validate};
use daemon::{Daemon, PATIENCE};

const ROUNDS: usize = 40;
const ASKERS: usize = 8;

fn ask(token: &str) -> Validate<'_> {
    Validate { token, scopes: Vec::new(), audience: None, from: None, note: None, peek: false }
}

#[test]
fn five_uses_are_five_over_all_lives() {
    let mut daemon = Daemon::start();
    let mut killed_amid = 0;
    for round in 0..ROUNDS {
        // Five; and many, so that kills fall between uses that are counted.
        let uses: usize = if round % 2 == 0 { 5 } else { 200 };
        let issued =
            daemon.client().issue(&Issue { name: "counted".into(), max_uses: Some(uses as u64), ..Issue::default() });
        let issued = issued.unwrap();
        let (token, id) = (issued.token.expose(), issued.info.facts.id);
        let active = AtomicUsize::new(0);
        let in_flight = AtomicUsize::new(0);
        let pid = nix::unistd::Pid::from_raw(daemon.pid().cast_signed());
        let moment = if uses == 5 { round / 2 % 5 } else { (round * 37) % 190 };
        let waiter = std::thread::current();
        std::thread::scope(|scope| {
            for _ in 0..ASKERS {
                let (socket, active, in_flight, waiter) = (daemon.socket(), &active, &in_flight, &waiter);
                scope.spawn(move || {
                    // Not tried again: what the kill cuts off stays cut off.
                    let options = Options { connect_retry: std::time::Duration::ZERO, ..Options::default() };
                    let Ok(mut client) = Client::connect(socket, options) else { return };
                    loop {
                        in_flight.fetch_add(1, Ordering::AcqRel);
                        match client.validate(&ask(token)) {
                            Ok(verdict) if verdict.active => {
                                in_flight.fetch_sub(1, Ordering::AcqRel);
                                active.fetch_add(1, Ordering::AcqRel);
                                waiter.unpark();
                            }
                            Ok(verdict) => {
                                in_flight.fetch_sub(1, Ordering::AcqRel);
                                assert_eq!(verdict.reason, Some(Reason::Exhausted));
                                return;
                            }
                            Err(_) => return,
                        }
                    }
                });
            }
            let begun = Instant::now();
            while active.load(Ordering::Acquire) < moment {
                assert!(begun.elapsed() < PATIENCE, "nothing is counted: {}", daemon.said());
                std::thread::park_timeout(PATIENCE);
            }
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        });
        daemon.kill();
        daemon.run();
        let mut client = daemon.client();
        let before = active.load(Ordering::Acquire);
        killed_amid += usize::from(before < uses);
        let left = client.show(&Handle(id.to_string())).unwrap().info.facts.uses_left.unwrap();
        let left = usize::try_from(left).unwrap();
        assert!(before + left <= uses, "{round}: {before} were active, {left} are left of {uses}");
        let lost = uses - before - left;
        assert!(
            lost <= in_flight.load(Ordering::Acquire),
            "{round}: {lost} uses are gone, and nobody had asked for them"
        );
        let after = (0..left + 3).filter(|_| client.validate(&ask(token)).unwrap().active).count();
        assert_eq!(after, left, "{round}");
        assert!(before + after <= uses);
    }
    assert!(killed_amid > ROUNDS / 2, "only {killed_amid} kills came before the last use");
    daemon.ctl(&["audit", "verify"]).exits(0);
}
