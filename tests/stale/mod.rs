//! What must never happen, tried: an *active* in a check that began after the reply to the revocation. Each trial is
//! directed at one step of the argument in `src/page/mod.rs`, and says whether it saw something stale.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod elsewhere;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bearerd::client::blocking::{CachedClient, Client};
use bearerd::client::{CacheOptions, ClientError, Options};
use bearerd::protocol::message::{Condition, Filter, Handle, Issue, Revoke, Rotate, Validate, Which};

use super::daemon::{Daemon, PATIENCE, id_of};

/// Something stale was seen: what, and where.
#[derive(Debug)]
pub struct Stale(pub String);

pub type Trial = Result<(), Stale>;

pub fn ask<'a>(token: &'a str, scopes: &[&'a str]) -> Validate<'a> {
    Validate { token, scopes: scopes.to_vec(), audience: None, from: None, note: None, peek: false }
}

/// Time enough for a daemon that is being started, and for a machine that is busy.
pub fn patient() -> Options {
    Options { timeout: PATIENCE, long_timeout: PATIENCE, connect_retry: PATIENCE, ..Options::default() }
}

pub fn cached(daemon: &Daemon) -> CachedClient {
    // Uses are told at the end: a report has nothing to do with what is tried here.
    let quiet = CacheOptions { report_every: Duration::from_secs(3600), ..CacheOptions::default() };
    CachedClient::connect(daemon.socket(), patient(), quiet).unwrap()
}

/// Asked until it is kept: a greeting that was answered late proves nothing of the daemon's clock, and then nothing is.
pub fn warm(client: &CachedClient, asked: &Validate<'_>) {
    let patience = Instant::now() + PATIENCE;
    while client.kept(asked).is_none() {
        let verdict = client.validate(asked).unwrap();
        assert!(verdict.active, "{:?}", verdict.reason);
        assert!(Instant::now() < patience, "it is not kept");
    }
}

/// A token of this subject, without a run of bearerctl: trials in a lease have no time for that.
pub fn issue(daemon: &Daemon, subject: &str) -> String {
    let issue = Issue {
        name: "t".into(),
        subject: Some(subject.to_owned()),
        scopes: vec!["a:*".into(), "b".into()],
        ..Issue::default()
    };
    Client::connect(daemon.socket(), patient()).unwrap().issue(&issue).unwrap().token.expose().to_owned()
}

/// Revoked for certain: asked for until it is answered.
pub fn revoke(daemon: &Daemon, which: Which<'_>) {
    let revoke = Revoke { which, reason: None, dry_run: false };
    let patience = Instant::now() + PATIENCE;
    loop {
        let client = Client::connect(daemon.socket(), patient());
        match client.and_then(|mut client| client.revoke(&revoke)) {
            Ok(_) => return,
            Err(error @ (ClientError::Failure(_) | ClientError::Protocol(_))) => panic!("{error}"),
            Err(error) => assert!(Instant::now() < patience, "{error}"),
        }
    }
}

pub fn by_id(token: &str) -> Which<'static> {
    Which::Handles(vec![Handle(id_of(token))])
}

pub fn by_subject(subject: &str) -> Which<'static> {
    Which::Filter(Filter(vec![Condition::Subject(subject.to_owned())]))
}

/// To be called after the reply: what is kept must not count, and the daemon must say that it is over.
pub fn is_over(client: &CachedClient, asked: &Validate<'_>, what: &str) -> Trial {
    if client.kept(asked).is_some() {
        return Err(Stale(format!("{what}: what was kept counts after the reply")));
    }
    // A daemon that is being restarted is asked again.
    let verdict = client.validate(asked).or_else(|_| client.validate(asked)).unwrap();
    if verdict.active {
        return Err(Stale(format!("{what}: the daemon says active after its reply")));
    }
    Ok(())
}

/// A change of one token, and an order over many.
pub fn plainly_revoked(daemon: &Daemon) -> Trial {
    let client = cached(daemon);
    let token = issue(daemon, "one");
    warm(&client, &ask(&token, &[]));
    revoke(daemon, by_id(&token));
    is_over(&client, &ask(&token, &[]), "revoked by id")
}

pub fn revoked_in_an_order(daemon: &Daemon) -> Trial {
    let client = cached(daemon);
    let tokens: Vec<String> = (0..8).map(|_| issue(daemon, "many")).collect();
    tokens.iter().for_each(|token| warm(&client, &ask(token, &[])));
    revoke(daemon, by_subject("many"));
    tokens.iter().try_for_each(|token| is_over(&client, &ask(token, &[]), "revoked in an order"))
}

/// Verdicts that are being made while the revocation is. Each question is another, so that each is asked, and kept.
pub fn asked_amid_a_revocation(daemon: &Daemon, in_an_order: bool) -> Trial {
    const QUESTIONS: usize = 10_000;
    let client = cached(daemon);
    let token = issue(daemon, "amid");
    warm(&client, &ask(&token, &[]));
    let (asked, replied) = (AtomicUsize::new(0), AtomicBool::new(false));
    let question = |n: usize| format!("a:{n}");
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..QUESTIONS {
                client.validate(&ask(&token, &[&question(n)])).unwrap();
                asked.store(n + 1, Ordering::Release);
                if replied.load(Ordering::Acquire) {
                    return;
                }
            }
        });
        let patience = Instant::now() + PATIENCE;
        while asked.load(Ordering::Acquire) == 0 {
            assert!(Instant::now() < patience, "nothing is answered");
            thread::yield_now();
        }
        revoke(daemon, if in_an_order { by_subject("amid") } else { by_id(&token) });
        replied.store(true, Ordering::Release);
    });
    let what = if in_an_order { "asked amid an order" } else { "asked amid a revocation" };
    for n in 0..asked.load(Ordering::Acquire) {
        if client.kept(&ask(&token, &[&question(n)])).is_some() {
            return Err(Stale(format!("{what}: answer {n} was made of the old state and counts after the reply")));
        }
    }
    is_over(&client, &ask(&token, &[]), what)
}

/// The daemon is killed, and the next one told to revoke.
pub fn revoked_after_a_kill(daemon: &mut Daemon) -> Trial {
    let client = cached(daemon);
    let token = issue(daemon, "killed");
    warm(&client, &ask(&token, &[]));
    daemon.kill();
    daemon.run();
    revoke(daemon, by_id(&token));
    is_over(&client, &ask(&token, &[]), "revoked after a kill")
}

/// The daemon is killed, and a successor, rotated before, is used for the first time: its predecessor has no grace.
pub fn used_after_a_kill(daemon: &mut Daemon) -> Trial {
    let client = cached(daemon);
    let token = issue(daemon, "rotated");
    let rotate = Rotate { token: Handle(id_of(&token)), now: false, grace: Some(Duration::ZERO) };
    let rotated = Client::connect(daemon.socket(), patient()).unwrap().rotate(&rotate).unwrap();
    warm(&client, &ask(&token, &[]));
    daemon.kill();
    daemon.run();
    let mut other = Client::connect(daemon.socket(), patient()).unwrap();
    assert!(other.validate(&ask(rotated.token.expose(), &[])).unwrap().active);
    is_over(&client, &ask(&token, &[]), "its successor was used after a kill")
}

/// The same with a third daemon, the second having stopped in good order.
pub fn revoked_by_the_third_daemon(daemon: &mut Daemon) -> Trial {
    let client = cached(daemon);
    let token = issue(daemon, "third");
    warm(&client, &ask(&token, &[]));
    daemon.kill();
    daemon.run();
    daemon.stop();
    daemon.run();
    revoke(daemon, by_id(&token));
    is_over(&client, &ask(&token, &[]), "revoked by the third daemon")
}

/// After a stop in good order the next daemon acknowledges at once.
pub fn revoked_after_a_stop(daemon: &mut Daemon) -> Trial {
    let client = cached(daemon);
    let token = issue(daemon, "stopped");
    warm(&client, &ask(&token, &[]));
    daemon.stop();
    let trial = match client.kept(&ask(&token, &[])) {
        Some(_) => Err(Stale("stopped in good order: what was kept counts still".into())),
        None => Ok(()),
    };
    daemon.run();
    revoke(daemon, by_id(&token));
    trial.and_then(|()| is_over(&client, &ask(&token, &[]), "revoked after a stop"))
}
