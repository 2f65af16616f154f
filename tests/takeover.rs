//! The lease and the takeover, without luck: what a killed or stopped daemon had allowed, and what its successor may
//! acknowledge when; and clients whose clock is another.

mod daemon;
mod stale;

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use bearerd::client::blocking::Client;
use bearerd::page::{LEASE, TAKEOVER};
use bearerd::protocol::message::{Chosen, Condition, Edit, Filter, Handle, Hold, Rotate, Which};
use daemon::{Daemon, id_of};
use nix::sys::signal::Signal;
use stale::elsewhere::{Clock, Elsewhere};
use stale::{Trial, ask, by_id, by_subject, cached, is_over, issue, patient, revoke, warm};

#[test]
#[ignore = "the process of a client"]
fn client_elsewhere() {
    stale::elsewhere::serve();
}

#[track_caller]
fn good(trial: Trial) {
    if let Err(stale) = trial {
        panic!("{}", stale.0);
    }
}

#[test]
fn nothing_is_stale_whatever_came_before_the_revocation() {
    let mut daemon = Daemon::start();
    good(stale::plainly_revoked(&daemon));
    good(stale::revoked_in_an_order(&daemon));
    for in_an_order in [false, true] {
        for _ in 0..5 {
            good(stale::asked_amid_a_revocation(&daemon, in_an_order));
        }
    }
    good(stale::revoked_after_a_kill(&mut daemon));
    good(stale::revoked_by_the_third_daemon(&mut daemon));
    good(stale::revoked_after_a_stop(&mut daemon));
}

type Restriction<'a> = Box<dyn Fn(&mut Client) + Send + 'a>;

/// Each verb that takes rights away waits for the dead daemon's lease; nothing else does.
#[test]
fn after_a_kill_each_restriction_waits_and_nothing_else() {
    let mut daemon = Daemon::start();
    let tokens: Vec<String> = (0..6).map(|n| issue(&daemon, &format!("s{n}"))).collect();
    let client = cached(&daemon);
    tokens.iter().for_each(|token| warm(&client, &ask(token, &[])));
    daemon.kill();
    let killed = Instant::now();
    daemon.run();
    let handle = |n: usize| Handle(id_of(&tokens[n]));
    let chosen = |n: usize| Chosen::Handles(vec![handle(n)]);
    let connect = || Client::connect(daemon.socket(), patient()).unwrap();
    thread::scope(|scope| {
        let all: [(&str, usize, Restriction<'_>); 5] = [
            ("revoke", 0, Box::new(|client| revoke_by(client, by_id(&tokens[0])))),
            ("revoke by filter", 1, Box::new(|client| revoke_by(client, by_subject("s1")))),
            (
                "suspend",
                2,
                Box::new(|client| {
                    let hold = Hold { which: chosen(2), reason: None, dry_run: false };
                    client.suspend(&hold).unwrap();
                }),
            ),
            (
                "edit",
                3,
                Box::new(|client| {
                    let edit = Edit { drop_scopes: vec!["b".into()], ..Edit::of(handle(3)) };
                    client.edit(&edit).unwrap();
                }),
            ),
            (
                "rotate",
                4,
                Box::new(|client| {
                    client.rotate(&Rotate { token: handle(4), now: true, grace: None }).unwrap();
                }),
            ),
        ];
        for (what, n, restrict) in all {
            let (client, tokens) = (&client, &tokens);
            scope.spawn(move || {
                restrict(&mut connect());
                let after = killed.elapsed();
                assert!(client.kept(&ask(&tokens[n], &[])).is_none(), "{what}");
                // The store's lock was taken after the kill.
                assert!(after >= TAKEOVER, "{what} was acknowledged {after:?} after the kill");
            });
        }
    });
    // It has waited once, for all.
    let begun = Instant::now();
    revoke(&daemon, by_id(&tokens[5]));
    assert!(begun.elapsed() < LEASE, "it waits still: {:?}", begun.elapsed());
}

fn revoke_by(client: &mut Client, which: Which<'_>) {
    client.revoke(&bearerd::protocol::message::Revoke { which, reason: None, dry_run: false }).unwrap();
}

/// A daemon that dies before it serves has acknowledged nothing, and closed no page: the next one waits as well.
#[test]
fn a_daemon_that_dies_while_it_starts_does_not_shorten_the_wait() {
    let mut daemon = Daemon::start();
    for millis in [1, 20, 60, 120, 250] {
        let token = issue(&daemon, "start");
        let client = cached(&daemon);
        warm(&client, &ask(&token, &[]));
        daemon.kill();
        let mut short = daemon.command().stderr(Stdio::null()).spawn().unwrap();
        // How far it gets is not said by anything: each time another way.
        thread::sleep(Duration::from_millis(millis));
        short.kill().unwrap();
        short.wait().unwrap();
        daemon.run();
        revoke(&daemon, by_id(&token));
        good(is_over(&client, &ask(&token, &[]), "killed while it started"));
    }
}

/// bearerd(8), `recover`: it opens the store and closes it in good order, and that is no orderly stop of the daemon.
#[test]
fn a_recovery_in_between_is_no_orderly_stop() {
    let mut daemon = Daemon::start();
    let recovery = daemon.ctl(&["recovery-key"]).exits(0).line();
    let token = issue(&daemon, "recovered");
    let client = cached(&daemon);
    warm(&client, &ask(&token, &[]));
    daemon.kill();
    let killed = Instant::now();
    fs::remove_file(daemon.path("key/master.key")).unwrap();
    let mut command = daemon.command();
    let mut child = command.arg("recover").stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(recovery.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    daemon.run();
    revoke(&daemon, by_id(&token));
    assert!(killed.elapsed() >= TAKEOVER, "acknowledged {:?} after the kill", killed.elapsed());
    good(is_over(&client, &ask(&token, &[]), "recovered"));
}

/// bearerd(8), `restore`: what a backup says of a stop is not of the daemon that has just been killed.
#[test]
fn a_restore_in_between_is_no_orderly_stop() {
    let mut daemon = Daemon::start();
    let token = issue(&daemon, "restored");
    let backup = daemon.path("backup");
    daemon.ctl(&["backup", backup.to_str().unwrap()]).exits(0);
    let client = cached(&daemon);
    warm(&client, &ask(&token, &[]));
    daemon.kill();
    let killed = Instant::now();
    let mut command = daemon.command();
    // The store is moved away, as whoever restores does; the log stays, and knows of no later change.
    fs::rename(daemon.path("state/tokens.redb"), daemon.path("state/old")).unwrap();
    let output = command.arg("restore").arg(&backup).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    daemon.run();
    revoke(&daemon, by_id(&token));
    assert!(killed.elapsed() >= TAKEOVER, "acknowledged {:?} after the kill", killed.elapsed());
    good(is_over(&client, &ask(&token, &[]), "restored"));
}

/// A daemon that is stopped while a revocation is in flight: it is answered after it goes on, and then it is in force; and
/// while it stands still no cache counts for longer than the lease.
#[test]
fn a_revocation_in_flight_in_a_daemon_that_stands_still() {
    let daemon = Daemon::start();
    for round in 0..10 {
        let token = issue(&daemon, &format!("flight-{round}"));
        let client = cached(&daemon);
        warm(&client, &ask(&token, &[]));
        let mut revoker = Client::connect(daemon.socket(), patient()).unwrap();
        let (replied, reply) = channel();
        thread::scope(|scope| {
            let (token, client) = (&token, &client);
            scope.spawn(move || {
                let which = if round % 2 == 0 { by_id(token) } else { by_subject(&format!("flight-{round}")) };
                revoke_by(&mut revoker, which);
                // At once, by the one who has the reply.
                let trial = is_over(client, &ask(token, &[]), "stopped in flight");
                replied.send(trial).unwrap();
            });
            // How far it has come is chance.
            thread::sleep(Duration::from_millis(round * 2));
            daemon.signal(Signal::SIGSTOP);
            let begun = Instant::now();
            while client.kept(&ask(token, &[])).is_some() {
                assert!(begun.elapsed() < LEASE + Duration::from_millis(500), "the lease does not lapse");
                thread::yield_now();
            }
            daemon.signal(Signal::SIGCONT);
        });
        good(reply.recv().unwrap());
    }
}

/// The first use of a successor ends its predecessor when there is no grace: that is a restriction too, and is not
/// answered while a dead daemon's caches may grant the predecessor.
#[test]
fn a_successors_first_use_after_a_kill_ends_its_predecessor_everywhere() {
    let mut daemon = Daemon::start();
    good(stale::used_after_a_kill(&mut daemon));
}

/// All at once is one order: suspended, and let go, over a kill.
#[test]
fn an_order_that_a_kill_cut_off_is_in_force_when_it_is_answered() {
    let mut daemon = Daemon::start();
    for round in 0..6 {
        let subject = format!("cut-{round}");
        let tokens: Vec<String> = (0..4).map(|_| issue(&daemon, &subject)).collect();
        let client = cached(&daemon);
        tokens.iter().for_each(|token| warm(&client, &ask(token, &[])));
        let hold = Hold {
            which: Chosen::Filter(Filter(vec![Condition::Subject(subject.clone())])),
            reason: None,
            dry_run: false,
        };
        let socket = daemon.socket();
        thread::scope(|scope| {
            let suspended = scope.spawn(|| {
                let mut client = Client::connect(&socket, patient()).unwrap();
                while client.suspend(&hold).is_err() {}
            });
            thread::sleep(Duration::from_millis(round * 3));
            daemon.kill();
            daemon.run();
            suspended.join().unwrap();
            for token in &tokens {
                good(is_over(&client, &ask(token, &[]), "suspended over a kill"));
            }
        });
    }
}

/// time_namespaces(7): a client by whose clock a lease lasts longer keeps nothing; one by whose clock it is over may ask
/// more often, and is never late.
#[test]
#[ignore = "needs root"]
fn root_a_client_with_another_clock_serves_nothing_stale() {
    let mut daemon = Daemon::start();
    for (clock, name) in [
        (Clock { secs: -500, nanos: 0 }, "500 s behind"),
        (Clock { secs: 500, nanos: 0 }, "500 s ahead"),
        (Clock { secs: -1, nanos: 800_000_000 }, "0.2 s behind"),
        (Clock { secs: 0, nanos: 200_000_000 }, "0.2 s ahead"),
    ] {
        let token = issue(&daemon, "elsewhere");
        let mut client = clock.start(|| Elsewhere::command("client_elsewhere", daemon.socket()));
        let theirs: i128 = client.tell("clock").parse().unwrap();
        let ours: Duration = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap().into();
        let ahead = theirs - ours.as_millis() as i128;
        let meant = i128::from(clock.secs) * 1000 + i128::from(clock.nanos) / 1_000_000;
        assert!((ahead - meant).abs() < 150, "{name}: it is {ahead} ms ahead: the namespace is not as it should be");
        let kept = client.tell(&format!("warm {token}"));
        if meant < 0 {
            assert_eq!(kept, "false", "{name}: it keeps verdicts");
        }
        assert_eq!(client.tell(&format!("ask {token}")), "true", "{name}");
        // In one life of the daemon, and over a kill.
        revoke(&daemon, by_id(&token));
        assert_eq!(client.tell(&format!("kept {token}")), "false", "{name}");
        assert_eq!(client.tell(&format!("ask {token}")), "false", "{name}");
        let token = issue(&daemon, "elsewhere");
        client.tell(&format!("warm {token}"));
        daemon.kill();
        daemon.run();
        revoke(&daemon, by_id(&token));
        assert_eq!(client.tell(&format!("kept {token}")), "false", "{name}, after a kill");
        assert_eq!(client.tell(&format!("ask {token}")), "false", "{name}, after a kill");
    }
}

/// The same client, with the clock of the host, keeps: or the test above would prove nothing.
#[test]
#[ignore = "needs root"]
fn root_a_client_in_a_namespace_with_our_clock_keeps() {
    let daemon = Daemon::start();
    let token = issue(&daemon, "elsewhere");
    let clock = Clock { secs: 0, nanos: 0 };
    let mut client = clock.start(|| Elsewhere::command("client_elsewhere", daemon.socket()));
    let patience = Instant::now() + daemon::PATIENCE;
    while client.tell(&format!("warm {token}")) != "true" {
        assert!(Instant::now() < patience, "it keeps nothing");
    }
    revoke(&daemon, by_id(&token));
    assert_eq!(client.tell(&format!("kept {token}")), "false");
}
