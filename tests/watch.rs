//! `watch` with a real daemon: every change once, in order, over restarts and kills; `bearerctl watch` as scripts use it.

mod daemon;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use bearerd::client::Options;
use bearerd::client::blocking::{Client, Watch};
use bearerd::protocol::code::ErrorCode;
use bearerd::protocol::message::{Handle, Issue, Revoke, Which};
use daemon::{Daemon, PATIENCE};
use serde_json::Value;

fn issue(client: &mut Client, name: &str) -> String {
    let issued = client.issue(&Issue { name: name.to_owned(), ..Issue::default() }).unwrap();
    issued.info.facts.id.to_string()
}

fn revoke(client: &mut Client, id: &str) {
    let which = Which::Handles(vec![Handle(id.to_owned())]);
    client.revoke(&Revoke { which, reason: Some("over".to_owned()), dry_run: false }).unwrap();
}

/// The next `count` events, as JSON.
fn next(watch: &mut Watch, count: usize) -> Vec<Value> {
    watch.take(count).map(|event| serde_json::from_str(&event.unwrap().json).unwrap()).collect()
}

fn text<'a>(event: &'a Value, key: &str) -> &'a str {
    event[key].as_str().unwrap_or_default()
}

/// bearerctl, following; ended with the guard.
struct Following {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Following {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().expect("a line").unwrap()).unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// docs/json.md, "watch": the keys of the audit line without its MAC, and the change's own number.
#[test]
fn each_change_is_pushed_once_and_in_order() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let before = issue(&mut client, "before");
    let mut watch = client.watch(None).unwrap();
    let begun = watch.seq();
    let first = issue(&mut client, "first");
    let second = issue(&mut client, "second");
    revoke(&mut client, &first);
    client.clock_reset().unwrap();
    let events = next(&mut watch, 4);
    let expected = [("issue", &*first), ("issue", &*second), ("revoke", &*first), ("clock", "")];
    for ((number, event), (name, id)) in (begun + 1..).zip(&events).zip(expected) {
        assert_eq!((text(event, "event"), text(event, "id"), text(event, "outcome")), (name, id, "done"));
        assert_eq!((event["seq"].as_u64(), event["generation"].as_u64()), (Some(number), Some(number)));
    }
    assert_eq!((text(&events[2], "reason"), watch.seq()), ("over", begun + 4));
    // One connection for the stream, another for the questions: both go on.
    assert!(client.status().is_ok());
    // From the beginning, and from between.
    let all = next(&mut client.watch(Some(0)).unwrap(), begun as usize + 4);
    assert_eq!(text(&all[begun as usize - 1], "id"), before);
    assert_eq!(all[begun as usize..], events);
    assert_eq!(next(&mut client.watch(Some(begun + 2)).unwrap(), 2), events[2..]);
    // What stands in the log is the same, but for the log's own numbers and its MAC.
    daemon.ctl(&["audit", "--json"]).exits(0);
    let trail = daemon.trail();
    for event in &events {
        let of_event = |line: &&Value| line["generation"] == event["generation"] && line["event"] == event["event"];
        let mut line = trail.iter().find(of_event).expect("it is in the log").clone();
        line.as_object_mut().unwrap().remove("mac");
        line["seq"] = event["seq"].clone();
        assert_eq!(line, *event);
    }
    // In the order of the keys there.
    let order =
        |text: &str| text.split("\":").map(|key| key.rsplit('"').next().unwrap().to_owned()).collect::<Vec<_>>();
    let line = std::fs::read_to_string(daemon.audit_log()).unwrap();
    let line = line.lines().find(|line| line.contains("\"revoke\"")).unwrap().split(",\"mac\"").next().unwrap();
    let event = client.watch(Some(begun + 2)).unwrap().next().unwrap().unwrap();
    assert_eq!(order(&event.json.replace('}', "")), order(&line.replace('}', "")));
}

/// A use is no change, not even one that is counted on disk.
#[test]
fn uses_and_refusals_are_not_told() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let mut watch = client.watch(None).unwrap();
    let token = daemon.issue(&["counted", "--max-uses", "2"]);
    for status in [0, 0, 1] {
        daemon.ctl_with(&token, &["validate"]).exits(status);
    }
    daemon.ctl_with("nothing", &["validate"]).exits(1);
    issue(&mut client, "last");
    let events = next(&mut watch, 2);
    assert_eq!(events.iter().map(|event| text(event, "name")).collect::<Vec<_>>(), ["counted", "last"]);
    assert_eq!(watch.seq(), events[1]["seq"].as_u64().unwrap());
}

#[test]
fn a_number_that_this_store_does_not_know_is_a_gap() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let id = issue(&mut client, "x");
    let mut watch = client.watch(Some(1_000_000)).unwrap();
    let gap = watch.next().unwrap().unwrap();
    assert!(gap.gap);
    let line: Value = serde_json::from_str(&gap.json).unwrap();
    assert_eq!((text(&line, "event"), &line["missing"]), ("gap", &serde_json::json!({"from": 1_000_001, "to": null})));
    // Then all that there is.
    assert_eq!(text(&next(&mut watch, 1)[0], "id"), id);
}

/// A stop ends the stream with its word for it; what comes after the restart follows without a hole.
#[test]
fn a_restart_loses_nothing() {
    let mut daemon = Daemon::start();
    let mut client = daemon.client();
    let mut watch = client.watch(None).unwrap();
    let before = issue(&mut client, "before");
    assert_eq!(text(&next(&mut watch, 1)[0], "id"), before);
    // Not read before the stop.
    let unread = issue(&mut client, "unread");
    daemon.restart();
    let after = issue(&mut client, "after");
    let mut seen = Vec::new();
    let error = loop {
        match watch.next().unwrap() {
            Ok(event) => seen.push(serde_json::from_str::<Value>(&event.json).unwrap()),
            Err(error) => break error,
        }
    };
    assert!(matches!(error.code(), Some(ErrorCode::Stopping)), "{error}");
    assert!(watch.next().is_none());
    let mut again = client.watch(Some(watch.seq())).unwrap();
    let expected = [unread, after];
    seen.extend(next(&mut again, expected.len() - seen.len()));
    assert_eq!(seen.iter().map(|event| text(event, "id")).collect::<Vec<_>>(), expected);
}

/// I1, and docs/json.md: over kills, each acknowledged change is printed once, and the numbers have no hole.
#[test]
fn bearerctl_watch_survives_kills_without_losing_or_doubling_an_event() {
    const KILLS: usize = 12;
    const CLIENTS: usize = 3;
    let mut daemon = Daemon::start();
    let mut following = Following::start(daemon.ctl_command(&["watch", "--since", "0"]));
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..KILLS {
        let (done, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let waiter = std::thread::current();
        let pid = nix::unistd::Pid::from_raw(daemon.pid().cast_signed());
        let (sender, acks) = mpsc::channel();
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let (daemon, done, over, waiter, sender) = (&daemon, &done, &over, &waiter, sender.clone());
                scope.spawn(move || {
                    let options = Options { connect_retry: std::time::Duration::ZERO, ..Options::default() };
                    let Ok(mut client) = Client::connect(daemon.socket(), options) else { return };
                    while !over.load(Ordering::Acquire) {
                        let request = Issue { name: format!("r{round}c{number}"), ..Issue::default() };
                        let Ok(issued) = client.issue(&request) else { return };
                        sender.send(issued.info.facts.id.to_string()).unwrap();
                        done.fetch_add(1, Ordering::AcqRel);
                        waiter.unpark();
                    }
                });
            }
            // Counted in changes, not in time: each round does work, and another amount of it.
            let moment = 5 + (round * 11) % 37;
            let begun = std::time::Instant::now();
            while done.load(Ordering::Acquire) < moment {
                assert!(begun.elapsed() < PATIENCE, "the clients do nothing: {}", daemon.said());
                std::thread::park_timeout(PATIENCE);
            }
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
            over.store(true, Ordering::Release);
        });
        drop(sender);
        acknowledged.extend(acks);
        daemon.kill();
        daemon.run();
        // A stop in good order now and then.
        if round % 4 == 3 {
            daemon.restart();
        }
    }
    let last = daemon::id_of(&daemon.issue(&["the-last"]));
    let mut printed: HashMap<String, usize> = HashMap::new();
    let mut newest = 0;
    loop {
        let event = following.line();
        assert_eq!(event["seq"].as_u64(), Some(newest + 1), "{event}");
        newest += 1;
        *printed.entry(text(&event, "id").to_owned()).or_default() += 1;
        if text(&event, "id") == last {
            break;
        }
    }
    assert!(acknowledged.len() >= KILLS * 5, "{} changes", acknowledged.len());
    for id in &acknowledged {
        assert_eq!(printed.get(id), Some(&1), "{id} of {} acknowledged", acknowledged.len());
    }
    // What was not acknowledged is absent or whole, but never there twice.
    assert!(printed.values().all(|count| *count == 1));
}

#[test]
fn bearerctl_watch_is_a_line_each_and_ends_as_scripts_expect() {
    let mut daemon = Daemon::start();
    let (one, two) = (daemon.issue(&["one"]), daemon.issue(&["two"]));
    daemon.ctl(&["revoke", &daemon::id_of(&one)]).exits(0);
    let printed = daemon.ctl(&["watch", "--since", "0", "--limit", "3"]).exits(0);
    assert_eq!((printed.stdout.lines().count(), printed.stderr.as_str()), (3, ""));
    let json = daemon.ctl(&["--json", "watch", "--since", "0", "--limit", "3"]).exits(0);
    assert_eq!(json.stdout, printed.stdout);
    let revoked = daemon.ctl(&["watch", "--since", "0", "--limit", "1", "--event", "revoke"]).exits(0).json();
    assert_eq!(text(&revoked, "id"), daemon::id_of(&one));
    let of_two =
        daemon.ctl(&["watch", "--since", "0", "--limit", "1", "--token", &daemon::id_of(&two)]).exits(0).json();
    assert_eq!((text(&of_two, "event"), text(&of_two, "name")), ("issue", "two"));
    // Nobody reads any more: it ends at the next line, without a word.
    let mut following = Following::start(daemon.ctl_command(&["watch", "--since", "0"]));
    let unread = std::mem::replace(&mut following.lines, BufReader::new(empty()).lines());
    drop(unread);
    daemon.issue(&["three"]);
    let output = following.child.wait().unwrap();
    assert_eq!(output.code(), Some(0));
    // Ctrl-C: the shell sees 130.
    let mut following = Following::start(daemon.ctl_command(&["watch", "--since", "0"]));
    following.line();
    let pid = nix::unistd::Pid::from_raw(following.child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let status = following.child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(2));
    // A daemon that is not there.
    daemon.stop();
    std::fs::remove_file(daemon.socket()).ok();
    daemon.ctl(&["watch"]).exits(69);
}

/// A pipe whose other end is closed: reads nothing.
fn empty() -> ChildStdout {
    let mut child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    child.wait().unwrap();
    stdout
}

/// A stream stands for an open connection; the limits of the daemon are in force.
#[test]
fn one_user_has_sixteen_streams_and_all_get_the_same() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let mut streams: Vec<Watch> = (0..16).map(|_| client.watch(None).unwrap()).collect();
    let Err(error) = client.watch(None) else { panic!("a seventeenth") };
    assert_eq!(error.code(), Some(ErrorCode::LimitReached), "{error}");
    let id = issue(&mut client, "x");
    for stream in &mut streams {
        assert_eq!(text(&next(stream, 1)[0], "id"), id);
    }
    drop(streams);
    // Their places come back with their connections.
    let begun = std::time::Instant::now();
    while let Err(error) = client.watch(None) {
        assert!(begun.elapsed() < PATIENCE, "{error}");
    }
}

/// Many changes while a reader stands still: it has them all when it reads on, and the daemon has not grown by them.
#[test]
fn a_reader_that_pauses_gets_all_and_holds_nobody_up() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let mut watch = client.watch(None).unwrap();
    let begun = watch.seq();
    let mut ids = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = daemon.client();
                    (0..150).map(|_| issue(&mut client, "many")).collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| ids.extend(worker.join().unwrap()));
    });
    let events = next(&mut watch, ids.len());
    let numbers = events.iter().map(|event| event["seq"].as_u64().unwrap());
    assert!(numbers.eq(begun + 1..=begun + ids.len() as u64));
    let mut seen: Vec<String> = events.iter().map(|event| text(event, "id").to_owned()).collect();
    seen.sort();
    ids.sort();
    assert_eq!(seen, ids);
}

/// docs/man/bearerd.toml.5.md, `watch:own`.
#[test]
#[ignore = "needs root"]
fn root_who_may_watch_its_own_sees_its_own() {
    let rules = "
[[policy]]
peer = { user = 33 }
allow = [\"issue\", \"revoke:own\", \"watch:own\"]
[[policy]]
peer = { user = 34 }
allow = [\"issue\"]
";
    let daemon = Daemon::start_with(rules);
    daemon.issue(&["others"]);
    let own = daemon::id_of(&daemon.ctl_as(33, "", &["issue", "mine"]).exits(0).line());
    daemon.ctl_as(34, "", &["issue", "theirs"]).exits(0);
    daemon.issue(&["others"]);
    daemon.ctl_as(33, "", &["revoke", &own]).exits(0);
    let seen = daemon.ctl_as(33, "", &["watch", "--since", "0", "--limit", "2"]).exits(0);
    let seen: Vec<Value> = seen.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(seen.iter().all(|event| text(event, "id") == own));
    assert_eq!([text(&seen[0], "event"), text(&seen[1], "event")], ["issue", "revoke"]);
    daemon.ctl_as(34, "", &["watch"]).exits(77);
    daemon.ctl_as(35, "", &["watch"]).exits(77);
}
