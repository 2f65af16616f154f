//! The client that keeps verdicts, against a real daemon: what counts, what does not, and what the trail says of it.

mod daemon;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bearerd::client::blocking::CachedClient;
use bearerd::client::{CacheOptions, Known, Options};
use bearerd::protocol::code::{ErrorCode, Reason};
use bearerd::protocol::message::{
    Answer, Ask, Chosen, Condition, Edit, Filter, Handle, Hold, Revoke, Rotate, UseReport, Validate, Which,
};
use bearerd::time::wall_now;
use daemon::{Daemon, id_of};
use nix::sys::signal::Signal;
use serde_json::Value;

fn ask<'a>(token: &'a str, scopes: &[&'a str]) -> Validate<'a> {
    Validate { token, scopes: scopes.to_vec(), audience: None, from: None, note: None, peek: false }
}

/// Tells only when it is told to.
fn quiet() -> CacheOptions {
    CacheOptions { report_every: Duration::from_secs(3600), ..CacheOptions::default() }
}

fn connect(daemon: &Daemon) -> CachedClient {
    CachedClient::connect(daemon.socket(), Options::default(), quiet()).unwrap()
}

/// Asked until it is kept. Mostly that is at once; but a greeting that was answered late proves nothing of the daemon's
/// clock, and then the client keeps nothing before it has greeted again.
fn warm_with(client: &CachedClient, asked: &Validate<'_>) -> Known {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let verdict = client.validate(asked).unwrap();
        assert!(verdict.active, "{:?}", verdict.reason);
        if client.kept(asked).is_some() {
            return verdict;
        }
        assert!(Instant::now() < patience, "it is not kept");
    }
}

fn warm(client: &CachedClient, token: &str) -> Known {
    warm_with(client, &ask(token, &[]))
}

fn uses<'a>(trail: &'a [Value], id: &'a str) -> impl Iterator<Item = &'a Value> {
    trail.iter().filter(move |line| line["event"] == "use" && line["id"] == id)
}

#[test]
fn a_hit_asks_nobody_and_its_uses_are_told_with_their_circumstances() {
    let daemon = Daemon::start();
    let token = daemon.issue(&["nightly", "--scope", "backup:*"]);
    let client = connect(&daemon);
    let asked = ask(&token, &["backup:write"]);
    assert!(client.kept(&asked).is_none());
    let first = warm_with(&client, &asked).share();
    client.report().unwrap();
    for _ in 0..999 {
        assert!(Arc::ptr_eq(&client.validate(&asked).unwrap().share(), &first), "it was asked for again");
    }
    // Another question is another verdict.
    assert!(client.kept(&ask(&token, &["backup:read"])).is_none());
    assert!(client.kept(&ask(&token, &[])).is_none());
    let refused = client.validate(&ask(&token, &["admin"])).unwrap();
    assert_eq!(refused.reason, Some(Reason::InsufficientScope));
    assert!(client.kept(&ask(&token, &["admin"])).is_none(), "a refusal is kept");
    client.report().unwrap();
    let id = id_of(&token);
    let trail = daemon.trail();
    let lines: Vec<&Value> = uses(&trail, &id).filter(|line| line["outcome"] == "active").collect();
    let (cached, asked): (Vec<&&Value>, Vec<&&Value>) = lines.iter().partition(|line| line["cached"] == true);
    let told = cached.last().unwrap();
    assert_eq!(told["count"], 999);
    assert_eq!(told["scopes"], serde_json::json!(["backup:write"]));
    assert_eq!(told["claimed_by"], format!("uid:{}", nix::unistd::geteuid()));
    assert_eq!(told["subject"], asked[0]["subject"]);
    assert!(told["first"].as_str() <= told["last"].as_str());
    assert!(daemon.client().show(&Handle(id)).unwrap().info.last_used.unwrap().count >= 1000);
}

/// I2, for each way in which a right can be taken away: what was kept before the reply does not count after it.
#[test]
fn nothing_kept_survives_what_takes_it_away() {
    let mut daemon = Daemon::start();
    let mut admin = daemon.client();
    let cached = connect(&daemon);
    let by_id = |token: &str| Which::Handles(vec![Handle(id_of(token))]);
    let chosen = |token: &str| Chosen::Handles(vec![Handle(id_of(token))]);
    let everyone = || Filter(vec![Condition::All]);
    let gone = |token: &str, reason: Reason| {
        assert!(cached.kept(&ask(token, &[])).is_none(), "kept still: {reason:?}");
        assert_eq!(cached.validate(&ask(token, &[])).unwrap().reason, Some(reason));
    };

    let token = daemon.issue(&["revoked"]);
    warm(&cached, &token);
    admin.revoke(&Revoke { which: by_id(&token), reason: None, dry_run: false }).unwrap();
    gone(&token, Reason::Revoked);

    let token = daemon.issue(&["held"]);
    warm(&cached, &token);
    admin.suspend(&Hold { which: chosen(&token), reason: None, dry_run: false }).unwrap();
    gone(&token, Reason::Suspended);
    admin.resume(&Hold { which: chosen(&token), reason: None, dry_run: false }).unwrap();
    warm(&cached, &token);

    let token = daemon.issue(&["rotated"]);
    warm(&cached, &token);
    let handle = Handle(id_of(&token));
    admin.rotate(&Rotate { token: handle, now: true, grace: None }).unwrap();
    gone(&token, Reason::Rotated);

    let token = daemon.issue(&["narrowed", "--scope", "a", "--scope", "b"]);
    let wide = ask(&token, &["a"]);
    warm_with(&cached, &wide);
    admin.edit(&Edit { drop_scopes: vec!["a".into()], ..Edit::of(Handle(id_of(&token))) }).unwrap();
    assert!(cached.kept(&wide).is_none());
    assert_eq!(cached.validate(&wide).unwrap().reason, Some(Reason::InsufficientScope));

    // By the one who holds it.
    let token = daemon.issue(&["found"]);
    warm(&cached, &token);
    admin.revoke(&Revoke { which: Which::Token(&token), reason: None, dry_run: false }).unwrap();
    gone(&token, Reason::Revoked);

    // An order over all, held and let go.
    let tokens: Vec<String> = (0..20).map(|_| daemon.issue(&["many"])).collect();
    tokens.iter().for_each(|token| drop(warm(&cached, token)));
    admin.suspend(&Hold { which: Chosen::Filter(everyone()), reason: None, dry_run: false }).unwrap();
    tokens.iter().for_each(|token| gone(token, Reason::Suspended));
    admin.resume(&Hold { which: Chosen::Filter(everyone()), reason: None, dry_run: false }).unwrap();
    tokens.iter().for_each(|token| drop(warm(&cached, token)));
    admin.revoke(&Revoke { which: Which::Filter(everyone()), reason: None, dry_run: false }).unwrap();
    tokens.iter().for_each(|token| gone(token, Reason::Revoked));

    // The daemon goes, in good order.
    let token = daemon.issue(&["stopped"]);
    warm(&cached, &token);
    daemon.stop();
    assert!(cached.kept(&ask(&token, &[])).is_none(), "the page is not closed");
    daemon.run();
    warm(&cached, &token);
}

#[test]
fn a_reload_ends_what_policy_granted() {
    let daemon = Daemon::start();
    let token = daemon.issue(&["t"]);
    let cached = connect(&daemon);
    warm(&cached, &token);
    daemon.signal(Signal::SIGHUP);
    // The page says it, and nothing else has to.
    let patience = Instant::now() + Duration::from_secs(10);
    while cached.kept(&ask(&token, &[])).is_some() {
        assert!(Instant::now() < patience, "a reload voids nothing");
        thread::yield_now();
    }
    warm(&cached, &token);
}

#[test]
fn what_is_counted_or_remarked_on_is_asked_for_each_time() {
    let daemon = Daemon::start();
    let cached = connect(&daemon);
    let counted = daemon.issue(&["counted", "--max-uses", "3"]);
    for _ in 0..3 {
        assert!(cached.validate(&ask(&counted, &[])).unwrap().active);
    }
    assert_eq!(cached.validate(&ask(&counted, &[])).unwrap().reason, Some(Reason::Exhausted));
    let rated = daemon.issue(&["rated", "--rate", "2/1h"]);
    for _ in 0..2 {
        assert!(cached.validate(&ask(&rated, &[])).unwrap().active);
    }
    assert_eq!(cached.validate(&ask(&rated, &[])).unwrap().reason, Some(Reason::RateLimited));
    let plain = daemon.issue(&["plain"]);
    let noted = Validate { note: Some("job 7"), ..ask(&plain, &[]) };
    let peeked = Validate { peek: true, ..ask(&plain, &[]) };
    for asked in [noted, peeked] {
        assert!(cached.validate(&asked).unwrap().active);
        assert!(cached.kept(&asked).is_none());
    }
    assert!(cached.kept(&ask(&plain, &[])).is_none(), "a question with a note is the same as one without");
}

/// The successor's first use must reach the daemon, since it ends the predecessor.
#[test]
fn a_successors_first_use_is_asked_for() {
    let daemon = Daemon::start();
    let cached = connect(&daemon);
    let token = daemon.issue(&["t"]);
    warm(&cached, &token);
    let rotate = Rotate { token: Handle(id_of(&token)), now: false, grace: Some(Duration::ZERO) };
    let successor = daemon.client().rotate(&rotate).unwrap();
    warm(&cached, &token);
    assert!(cached.validate(&ask(successor.token.expose(), &[])).unwrap().active);
    assert!(cached.kept(&ask(&token, &[])).is_none());
    assert_eq!(cached.validate(&ask(&token, &[])).unwrap().reason, Some(Reason::Rotated));
}

#[test]
fn a_token_that_ends_by_itself_ends_in_the_cache() {
    let daemon = Daemon::start();
    let cached = connect(&daemon);
    let token = daemon.issue(&["short", "--ttl", "2s"]);
    let ends = daemon.client().show(&Handle(id_of(&token))).unwrap().info.facts.expires_at.unwrap();
    warm(&cached, &token);
    while wall_now() < ends {
        let _ = cached.kept(&ask(&token, &[]));
        thread::yield_now();
    }
    assert!(cached.kept(&ask(&token, &[])).is_none());
    assert_eq!(cached.validate(&ask(&token, &[])).unwrap().reason, Some(Reason::Expired));
}

/// A daemon that is stopped or killed lets the lease lapse; one that goes on renews it.
#[test]
fn a_daemon_that_stands_still_lets_every_cache_lapse() {
    let mut daemon = Daemon::start();
    let cached = connect(&daemon);
    let token = daemon.issue(&["t"]);
    warm(&cached, &token);
    let lapses = |why: &str| {
        let begun = Instant::now();
        while cached.kept(&ask(&token, &[])).is_some() {
            // A beat may have come just before; then the lease, and nothing more.
            assert!(begun.elapsed() < Duration::from_millis(1500), "{why}: it counts still");
            thread::yield_now();
        }
    };
    daemon.signal(Signal::SIGSTOP);
    lapses("stopped");
    daemon.signal(Signal::SIGCONT);
    let patience = Instant::now() + Duration::from_secs(10);
    while cached.kept(&ask(&token, &[])).is_none() {
        assert!(Instant::now() < patience, "it lives, and its page does not");
        thread::yield_now();
    }
    daemon.kill();
    lapses("killed");
    daemon.run();
    warm(&cached, &token);
}

/// After a kill the first revocation is answered when the dead daemon's lease has lapsed, and not before; after an orderly
/// stop at once. An orderly stop that comes too early does not count as one.
#[test]
fn after_a_kill_the_first_revocation_waits_for_the_lease() {
    let mut daemon = Daemon::start();
    let token = daemon.issue(&["t"]);
    let cached = connect(&daemon);
    let revoke = |daemon: &Daemon, token: &str| {
        let which = Which::Handles(vec![Handle(id_of(token))]);
        daemon.client().revoke(&Revoke { which, reason: None, dry_run: false }).unwrap();
    };
    warm(&cached, &token);
    daemon.kill();
    daemon.run();
    revoke(&daemon, &token);
    assert!(cached.kept(&ask(&token, &[])).is_none(), "it was answered while the dead daemon's lease ran");

    // Killed, started, stopped in good order and started again, all within the lease.
    let token = daemon.issue(&["u"]);
    warm(&cached, &token);
    daemon.kill();
    daemon.run();
    daemon.stop();
    daemon.run();
    revoke(&daemon, &token);
    assert!(
        cached.kept(&ask(&token, &[])).is_none(),
        "an orderly stop made the third daemon forget the first one's lease"
    );
}

/// One request on a connection of its own, past what the client would send.
fn raw(daemon: &Daemon, reports: Vec<UseReport<'_>>) -> Answer {
    use std::io::{Read, Write};

    use bearerd::codec;
    use bearerd::protocol::buffer::{ReadBuffer, WriteBuffer};
    use bearerd::protocol::frame::Direction;
    use bearerd::protocol::message::{ClientHello, Reply, Request};
    use bearerd::protocol::{FLAG_PAGE, MAGIC};

    let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
    let mut output = WriteBuffer::new();
    output.push(&ClientHello { magic: MAGIC, version_min: 1, version_max: 1, flags: FLAG_PAGE }, false);
    output.push(&Request { id: 7, body: Ask::ReportUses(reports) }, false);
    stream.write_all(output.pending()).unwrap();
    let mut input = ReadBuffer::new(Direction::Reply);
    let mut frames = 0;
    loop {
        if let Some(content) = input.frame().unwrap() {
            frames += 1;
            if frames == 2 {
                return codec::decode::<Reply>(content).unwrap().body;
            }
            input.consume();
            continue;
        }
        let count = stream.read(input.space().unwrap()).unwrap();
        assert!(count > 0, "the connection was closed");
        input.filled(count);
    }
}

#[test]
fn a_report_without_a_good_ticket_is_refused_and_changes_nothing() {
    let daemon = Daemon::start();
    let token = daemon.issue(&["t"]);
    let before = daemon.trail().len();
    let report = |ticket: &'static [u8], count| UseReport { ticket, count, first: wall_now(), last: wall_now() };
    let refused = |reports: Vec<UseReport<'_>>| match raw(&daemon, reports) {
        Answer::Error(failure) => assert_eq!(failure.code, ErrorCode::BadRequest, "{failure}"),
        _ => panic!("it was taken"),
    };
    refused(Vec::new());
    refused(vec![report(b"", 1)]);
    refused(vec![report(&[0; 31], 1)]);
    refused(vec![report(&[0; 200], 1)]);
    refused(vec![report(&[0; 33], 1); 257]);
    assert_eq!(daemon.trail().len(), before, "a refused report is in the trail");
    assert!(daemon.client().show(&Handle(id_of(&token))).unwrap().info.last_used.is_none());
}

/// I4 with caches on: a million uses by eight threads, and the trail knows of each.
#[test]
fn a_million_uses_agree_with_the_trail() {
    const THREADS: u64 = 8;
    const EACH: u64 = 125_000;
    let daemon = Daemon::start();
    let tokens: Vec<String> = (0..40).map(|n| daemon.issue(&[&format!("t{n}"), "--scope", "a:*"])).collect();
    // So few places that verdicts push each other out while they are in use, and told each tenth of a second.
    let options = CacheOptions { entries: 32, report_every: Duration::from_millis(100) };
    let cached = CachedClient::connect(daemon.socket(), Options::default(), options).unwrap();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (cached, tokens) = (&cached, &tokens);
            scope.spawn(move || {
                for n in 0..EACH {
                    // Mostly the same few, so that most are hits, and all in turn.
                    let place = if n % 50 == 0 { n / 50 + thread } else { n % 5 } % 40;
                    assert!(cached.validate(&ask(&tokens[place as usize], &["a:b"])).unwrap().active);
                }
            });
        }
    });
    drop(cached);
    let mut daemon = daemon;
    // Windows that are still open end with it.
    daemon.stop();
    let trail = daemon.trail();
    let counts = |cached: bool| -> u64 {
        let lines = trail.iter().filter(|line| line["event"] == "use" && (line["cached"] == true) == cached);
        lines.map(|line| line["count"].as_u64().unwrap_or(1)).sum()
    };
    let (asked, kept) = (counts(false), counts(true));
    assert_eq!(asked + kept, THREADS * EACH, "{asked} asked, {kept} out of the cache");
    assert!(kept > asked, "{asked} asked, {kept} out of the cache");
    daemon.run();
    let shown = |token: &String| daemon.client().show(&Handle(id_of(token))).unwrap().info.last_used.unwrap().count;
    assert_eq!(tokens.iter().map(shown).sum::<u64>(), THREADS * EACH);
}
