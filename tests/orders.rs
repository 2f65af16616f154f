//! Changes of many tokens by filter: what they mean, that they are asked about, that they are in force when answered, and
//! that a kill at any moment loses, halves and repeats nothing.

mod daemon;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bearerd::client::Options;
use bearerd::client::blocking::Client;
use bearerd::protocol::code::ErrorCode;
use bearerd::protocol::filter::{Condition, Filter};
use bearerd::protocol::message::{Chosen, Hold, Issue, List, Revoke, State, Validate, Which};
use daemon::{Daemon, id_of};
use serde_json::Value;

fn ask(token: &str) -> Validate<'_> {
    Validate { token, scopes: Vec::new(), audience: None, from: None, note: None, peek: false }
}

fn hold(filter: impl Into<Filter>) -> Hold {
    Hold { which: Chosen::Filter(filter.into()), reason: None, dry_run: false }
}

fn by_filter(filter: impl Into<Filter>) -> Revoke<'static> {
    Revoke { which: Which::Filter(filter.into()), reason: None, dry_run: false }
}

/// Id and state of every token.
fn states(client: &mut Client) -> BTreeMap<String, State> {
    let (mut states, mut after) = (BTreeMap::new(), None);
    loop {
        let page = client.list(&List { limit: 1000, after, ..List::default() }).unwrap();
        states.extend(page.tokens.iter().map(|info| (info.facts.id.to_string(), info.state)));
        after = page.next;
        if after.is_none() {
            return states;
        }
    }
}

/// What `--dry-run --json` names, as names of tokens.
fn meant(daemon: &Daemon, names: &BTreeMap<String, &'static str>, filter: &[&str]) -> BTreeSet<&'static str> {
    let ran = daemon.ctl(&[&["revoke", "--dry-run", "--json"], filter].concat());
    let json = ran.json();
    let ids: BTreeSet<&str> = json["ids"].as_array().unwrap().iter().map(|id| names[id.as_str().unwrap()]).collect();
    assert_eq!(
        (&json["dry_run"], json["count"].as_u64().unwrap()),
        (&Value::Bool(true), ids.len() as u64),
        "{filter:?}"
    );
    assert_eq!(ran.status, i32::from(ids.is_empty()), "{filter:?}");
    ids
}

#[test]
fn every_filter_means_what_it_says_and_all_that_are_given_must_hold() {
    let daemon = Daemon::start_with(
        "[profile.ci]\nkind = \"session\"\nscopes = [\"repo:read\"]\nttl = \"10m\"\n[tokens]\nprefix = \"tst\"\n",
    );
    let issue = |name: &'static str, more: &[&str]| (daemon.issue(&[&[name], more].concat()), name);
    let mut tokens = vec![
        issue("a", &["--subject", "alice", "--label", "team=web", "--scope", "repo:*", "--ttl", "30d"]),
        issue("b", &["--subject", "alice", "--label", "team=ops", "--ttl", "60d"]),
        issue("c", &["--subject", "it's bob", "--label", "team=web"]),
    ];
    let between = bearerd::time::wall_now().to_string();
    tokens.push(issue("d", &["--subject", "bob", "--profile", "ci"]));
    tokens.push(issue("e", &["--subject", "bob", "--scope", "*", "--kind", "session"]));
    let id = |n: usize| id_of(&tokens[n].0);
    let names: BTreeMap<String, &'static str> = tokens.iter().map(|(token, name)| (id_of(token), *name)).collect();
    daemon.ctl_with(&tokens[1].0, &["validate"]).exits(0);
    daemon.ctl(&["suspend", "--name", "c", "--yes"]).exits(0);

    let set = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
    let means = |filter: &[&str], expected: &[&'static str]| {
        assert_eq!(meant(&daemon, &names, filter), set(expected), "{filter:?}");
    };
    means(&["--subject", "alice"], &["a", "b"]);
    means(&["--subject", "it's bob"], &["c"]);
    means(&["--name", "e"], &["e"]);
    means(&["--label", "team"], &["a", "b", "c"]);
    means(&["--label", "team=web"], &["a", "c"]);
    means(&["--label", "team=web", "--subject", "alice"], &["a"]);
    means(&["--scope", "repo:read"], &["a", "d", "e"]);
    means(&["--scope", "repo:read", "--kind", "session"], &["d", "e"]);
    means(&["--profile", "ci"], &["d"]);
    means(&["--family", &id(3)], &["d"]);
    means(&["--issued-before", &between], &["a", "b", "c"]);
    means(&["--issued-after", &between], &["d", "e"]);
    means(&["--expiring-within", "1d"], &["d", "e"]);
    means(&["--expiring-within", "1d", "--subject", "alice"], &[]);
    means(&["--unused-since", &between], &["a", "c"]);
    means(&["--unused-for", "1h"], &[]);
    means(&["--state", "suspended"], &["c"]);
    means(&["--state", "active", "--subject", "alice"], &["a", "b"]);
    means(&["--all"], &["a", "b", "c", "d", "e"]);
    means(&["--subject", "nobody"], &[]);
    let issuer = daemon.ctl(&["show", "--json", &id(0)]).exits(0).json()["issuer"].as_str().unwrap().to_owned();
    means(&["--issuer", &issuer], &["a", "b", "c", "d", "e"]);
    // Nothing of this was done.
    assert!(
        daemon.ctl(&["list", "--json"]).json()["tokens"].as_array().unwrap().iter().all(|it| it["state"] != "revoked")
    );

    // Who was used since is not meant, whatever comes later: the order is for those that were.
    let ran = daemon.ctl(&["revoke", "--yes", "--json", "--unused-since", &between, "--reason", "stale"]).exits(0);
    assert_eq!((ran.json()["count"].as_u64(), &ran.json()["dry_run"]), (Some(2), &Value::Bool(false)));
    for (n, gone) in [(0, true), (1, false), (2, true), (3, false), (4, false)] {
        daemon.ctl_with(&tokens[n].0, &["validate"]).exits(i32::from(gone));
    }
    let shown = daemon.ctl(&["show", "--json", &id(0)]).exits(0).json();
    assert_eq!((&shown["state"], &shown["revoked_reason"]), (&"revoked".into(), &"stale".into()));
    // Again: it is so already. Another that means nothing at all is told apart.
    let again = daemon.ctl(&["revoke", "--yes", "--json", "--label", "team=web"]).exits(0);
    assert_eq!(again.json()["count"], 0);
    daemon.ctl(&["revoke", "--yes", "--subject", "nobody"]).exits(1);
    daemon.ctl(&["revoke", "--yes", "--subject", "alice"]).exits(0);
    daemon.ctl_with(&tokens[1].0, &["validate"]).exits(1);
    daemon.ctl(&["revoke", "--yes", "--all"]).exits(0);
    daemon.ctl_with(&tokens[4].0, &["validate"]).exits(1);
}

#[test]
fn suspend_and_resume_by_filter_are_each_others_way_back() {
    let daemon = Daemon::start();
    let tokens: Vec<String> = ["a", "b"]
        .iter()
        .map(|name| daemon.issue(&[name, "--subject", "alice", "--label", &format!("{name}=")]))
        .collect();
    let good = |n: usize| daemon.ctl_with(&tokens[n], &["validate"]).status == 0;
    let text = daemon.ctl(&["suspend", "--subject", "alice", "--yes"]).exits(0).stdout;
    assert!(text.starts_with("Suspended 2 tokens, refused until resumed."), "{text}");
    assert!(!good(0) && !good(1));
    let json = daemon.ctl(&["resume", "--label", "a", "--yes", "--json"]).exits(0).json();
    assert_eq!((json["count"].as_u64(), json["ids"][0].as_str()), (Some(1), Some(id_of(&tokens[0]).as_str())));
    assert!(good(0) && !good(1));
    // What is so already counts nothing, and what has ended is not held.
    assert_eq!(daemon.ctl(&["resume", "--label", "a", "--yes", "--json"]).exits(0).json()["count"], 0);
    daemon.ctl(&["revoke", &id_of(&tokens[0])]).exits(0);
    assert_eq!(daemon.ctl(&["suspend", "--subject", "alice", "--yes", "--json"]).exits(0).json()["count"], 0);
    daemon.ctl(&["resume", "--subject", "alice", "--yes"]).exits(0);
    assert!(!good(0) && good(1));
}

/// One record, one generation, and the filter whole in it: from the log alone it can be given again.
#[test]
fn the_trail_has_one_line_that_says_it_all() {
    let daemon = Daemon::start();
    for n in 0..3 {
        daemon.issue(&[&format!("t{n}"), "--subject", "alice"]);
    }
    let mut client = daemon.client();
    let generation =
        |daemon: &Daemon| daemon.ctl(&["status", "--json"]).json()["store"]["generation"].as_u64().unwrap();
    let before = generation(&daemon);
    daemon.ctl(&["revoke", "--yes", "--subject", "alice", "--reason", "left"]).exits(0);
    let conditions: Vec<Condition> =
        (0..10).map(|n| Condition::Label(format!("key{n}={}", "'ü\"\\ ".repeat(40)))).collect();
    let long = Filter([vec![Condition::Issuer("root".into())], conditions].concat());
    let text = long.to_string();
    assert!(text.len() > 3000 && text.len() <= 4096, "{}", text.len());
    assert_eq!(client.suspend(&hold(long.clone())).unwrap().count, 0);
    assert_eq!(generation(&daemon), before + 2);
    let lines: Vec<Value> =
        daemon.trail().into_iter().filter(|line| line["event"] == "revoke" || line["event"] == "suspend").collect();
    assert_eq!(lines.len(), 2);
    let (revoked, suspended) = (&lines[0], &lines[1]);
    assert_eq!((revoked["count"].as_u64(), revoked["generation"].as_u64()), (Some(3), Some(before + 1)));
    assert_eq!((revoked["reason"].as_str(), revoked["subject"].as_str()), (Some("left"), Some("alice")));
    assert_eq!((revoked["note"].as_str(), &revoked["id"]), (Some("by filter: --subject alice"), &Value::Null));
    let note = suspended["note"].as_str().unwrap();
    assert_eq!(note.strip_prefix("by filter: ").unwrap().parse(), Ok(long));
    daemon.ctl(&["audit", "verify"]).exits(0);

    let longer = Filter(vec![Condition::Label(format!("k={}", "'".repeat(250))); 32]);
    let refused = |answer: Result<_, bearerd::client::ClientError>| match answer.map(drop) {
        Err(bearerd::client::ClientError::Failure(failure)) => assert_eq!(failure.code, ErrorCode::BadRequest),
        other => panic!("{other:?}"),
    };
    refused(client.suspend(&hold(longer)));
    refused(client.revoke(&by_filter(Filter::default())));
    refused(client.resume(&hold(Condition::UnusedFor(std::time::Duration::from_nanos(1)))));
    assert_eq!(generation(&daemon), before + 2);
}

#[test]
fn without_a_terminal_it_takes_a_yes_and_usage_errors_change_nothing() {
    let daemon = Daemon::start();
    let token = daemon.issue(&["a", "--subject", "alice"]);
    let id = id_of(&token);
    for arguments in [
        &["revoke", "--subject", "alice"][..],
        &["revoke", "--all"],
        &["suspend", "--all"],
        &["revoke"],
        &["revoke", "--yes"],
        &["suspend", "--yes"],
        &["revoke", "--yes", &id, "--subject", "alice"],
        &["revoke", "--yes", "--all", "--subject", "alice"],
        &["revoke", "--yes", "--token-file", "x", "--subject", "alice"],
        &["resume", "--yes", &id, "--all"],
    ] {
        let ran = daemon.ctl(arguments).exits(64);
        assert_eq!((ran.stdout.as_str(), ran.stderr.lines().count()), ("", 1), "{arguments:?}: {}", ran.stderr);
    }
    daemon.ctl_with(&token, &["validate"]).exits(0);
    let text = daemon.ctl(&["revoke", "--dry-run", "--subject", "alice"]).exits(0).stdout;
    assert!(text.starts_with("Would revoke 1 token.\n") && text.contains(&id), "{text}");
}

/// On a terminal: the count and the first rows, then the question; only a yes is one.
#[test]
fn at_a_terminal_it_is_asked() {
    let daemon = Daemon::start();
    for n in 0..12 {
        daemon.issue(&[&format!("t{n}"), "--subject", "alice"]);
    }
    let answer = |with: &str| {
        let pty = nix::pty::openpty(None, None).unwrap();
        let mut command = daemon.ctl_command(&["revoke", "--subject", "alice"]);
        let (stdin, stderr) = (pty.slave.try_clone().unwrap(), pty.slave);
        let mut child =
            command.stdin(Stdio::from(stdin)).stderr(Stdio::from(stderr)).stdout(Stdio::piped()).spawn().unwrap();
        drop(command);
        let mut person = std::fs::File::from(pty.master);
        let (mut screen, mut piece) = (String::new(), [0; 4096]);
        while !screen.contains("[y/N]") {
            let read = person.read(&mut piece).unwrap();
            screen.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        person.write_all(with.as_bytes()).unwrap();
        let status = child.wait().unwrap().code().unwrap();
        (status, screen)
    };
    for no in ["\n", "n\n", "yess\n", "\x04"] {
        let (status, screen) = answer(no);
        assert_eq!(status, 1, "{no:?}: {screen}");
        assert!(screen.contains("Revoke 12 tokens? [y/N]") && screen.contains("and 2 more"), "{screen}");
        assert!(screen.contains("t9") && !screen.contains("t10"), "{screen}");
    }
    assert!(states(&mut daemon.client()).values().all(|state| *state == State::Active));
    assert_eq!(answer("y\n").0, 0);
    assert!(states(&mut daemon.client()).values().all(|state| *state == State::Revoked));
}

/// `revoke:own` is for what is one's own, and a peer without any right is refused.
#[test]
#[ignore = "needs root"]
fn root_who_may_change_only_its_own_changes_only_those() {
    let daemon = Daemon::start_with(
        "[[policy]]\nname = \"own\"\npeer = { user = \"1000\" }\nallow = [\"issue\", \"list:own\", \"show:own\", \"revoke:own\", \"suspend:own\"]\n\
         [[policy]]\nname = \"issue only\"\npeer = { user = \"1001\" }\nallow = [\"issue\"]\n",
    );
    let theirs = daemon.issue(&["root's", "--subject", "alice", "--label", "x=1"]);
    let own = daemon.ctl_as(1000, "", &["issue", "mine", "--label", "x=1"]).exits(0).line();
    let other = daemon.ctl_as(1001, "", &["issue", "another's", "--label", "x=1"]).exits(0).line();
    daemon.ctl_as(1001, "", &["revoke", "--yes", "--label", "x=1"]).exits(77);
    let json = daemon.ctl_as(1000, "", &["revoke", "--dry-run", "--json", "--all"]).exits(0).json();
    assert_eq!(json["ids"], serde_json::json!([id_of(&own)]));
    let json = daemon.ctl_as(1000, "", &["revoke", "--yes", "--json", "--label", "x=1"]).exits(0).json();
    assert_eq!((json["count"].as_u64(), &json["ids"]), (Some(1), &serde_json::json!([id_of(&own)])));
    daemon.ctl_with(&own, &["validate"]).exits(1);
    daemon.ctl_with(&theirs, &["validate"]).exits(0);
    daemon.ctl_with(&other, &["validate"]).exits(0);
    let line = daemon.trail().into_iter().rfind(|line| line["event"] == "revoke").unwrap();
    let note = line["note"].as_str().unwrap();
    assert!(note.starts_with("by filter: --label x=1; own of ") && note.ends_with(" (1000)"), "{note}");
}

const TOKENS: usize = 600;
const SUBJECTS: usize = 4;
const ROUNDS: u64 = 100;

/// A generator whose rounds can be told apart; good enough to pick moments.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

struct Token {
    text: String,
    id: String,
    subject: usize,
    /// As acknowledged.
    held: bool,
}

fn subject(n: usize) -> Condition {
    Condition::Subject(format!("user{n}"))
}

#[test]
fn a_hundred_kills_while_orders_are_written_down_lose_halve_and_repeat_nothing() {
    let mut daemon = Daemon::start();
    let mut tokens: Vec<Token> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SUBJECTS)
            .map(|user| {
                let mut client = daemon.client();
                scope.spawn(move || {
                    let one = |n| {
                        let subject = Some(format!("user{user}"));
                        let issue = Issue { name: format!("t{}", n % 10), subject, ..Issue::default() };
                        let text = client.issue(&issue).unwrap().token.expose().to_owned();
                        Token { id: id_of(&text), text, subject: user, held: false }
                    };
                    (0..TOKENS / SUBJECTS).map(one).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut unanswered = 0;
    for round in 0..ROUNDS {
        let mut random = Random(round);
        let (user, name) = (random.below(SUBJECTS as u64) as usize, random.below(10) as usize);
        let mut client = daemon.client();
        // All of one subject are held, then some of them let go, and what was let go stays so.
        client.suspend(&hold(subject(user))).unwrap();
        let some = Filter(vec![subject(user), Condition::Name(format!("t{name}"))]);
        let resumed = client.resume(&hold(some)).unwrap();
        for (n, token) in tokens.iter_mut().enumerate().filter(|(_, token)| token.subject == user) {
            token.held = (n % (TOKENS / SUBJECTS)) % 10 != name;
        }
        assert_eq!(resumed.count, (TOKENS / SUBJECTS / 10) as u64);
        // So many validations later it is killed; none of them may see anything but that.
        for _ in 0..random.below(60) {
            let token = &tokens[random.below(TOKENS as u64) as usize];
            assert_eq!(client.validate(&ask(&token.text)).unwrap().active, !token.held, "round {round}");
        }
        // Every third is killed with an order on its way.
        let other = (user + 1) % SUBJECTS;
        let pending = (round % 3 == 0).then(|| {
            let options = Options { connect_retry: std::time::Duration::ZERO, ..Options::default() };
            let mut client = Client::connect(daemon.socket(), options).unwrap();
            std::thread::spawn(move || client.resume(&hold(subject(other))).is_ok())
        });
        if pending.is_some() {
            for _ in 0..random.below(8) {
                let _ = client.validate(&ask(&tokens[0].text));
            }
        }
        daemon.kill();
        let answered = pending.map(|thread| thread.join().unwrap());
        daemon.run();
        let found = states(&mut daemon.client());
        if let Some(answered) = answered {
            let theirs = || tokens.iter().filter(|token| token.subject == other);
            let given = theirs().all(|token| found[&token.id] == State::Active);
            assert!(given || !answered, "round {round}: answered, and not so");
            unanswered += u64::from(!answered);
            if given {
                tokens.iter_mut().filter(|token| token.subject == other).for_each(|token| token.held = false);
            }
        }
        for token in &tokens {
            let expected = if token.held { State::Suspended } else { State::Active };
            assert_eq!(found[&token.id], expected, "round {round}: {}", token.id);
        }
    }
    println!("{ROUNDS} rounds, {unanswered} killed with an order unanswered");
    // By itself all is written down in the end, and the trail is whole.
    while daemon.ctl(&["status", "--json"]).json()["store"]["unfinished_orders"] != 0 {}
    daemon.restart();
    daemon.ctl(&["audit", "verify"]).exits(0);
}

/// I2: no validation that begins after the reply is active, from the first one on, on connections that had it cached.
#[test]
fn no_validation_after_the_reply_is_active() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let tokens: Vec<String> = (0..200)
        .map(|n| {
            let issue = Issue { name: format!("t{n}"), subject: Some("alice".into()), ..Issue::default() };
            client.issue(&issue).unwrap().token.expose().to_owned()
        })
        .collect();
    let (replied, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let (before, after) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (tokens, replied, over, before, after) = (&tokens, &replied, &over, &before, &after);
            let mut client = daemon.client();
            scope.spawn(move || {
                let mut random = Random(thread);
                while !over.load(Ordering::SeqCst) {
                    let token = &tokens[random.below(200) as usize];
                    let late = replied.load(Ordering::SeqCst);
                    let active = client.validate(&ask(token)).unwrap().active;
                    assert!(!(late && active), "active after the reply");
                    (if late { after } else { before }).fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        while before.load(Ordering::SeqCst) < 500 {
            std::thread::yield_now();
        }
        assert_eq!(client.revoke(&by_filter(subject_alice())).unwrap().count, 200);
        replied.store(true, Ordering::SeqCst);
        while after.load(Ordering::SeqCst) < 2000 {
            std::thread::yield_now();
        }
        over.store(true, Ordering::SeqCst);
    });
}

fn subject_alice() -> Condition {
    Condition::Subject("alice".into())
}
