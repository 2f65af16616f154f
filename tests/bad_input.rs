//! Bad input at every verb: one line that says what, why and what to do, the right exit status, nothing changed.

mod daemon;

use daemon::{Daemon, id_of};

const VECTOR: &str = "brdm_01M844DZG0FAY828T5CY4TQKFF_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf2b9MjO";

fn count(daemon: &Daemon) -> usize {
    daemon.ctl(&["--json", "list"]).exits(0).json()["tokens"].as_array().unwrap().len()
}

#[test]
fn every_verb_refuses_bad_input() {
    let daemon = Daemon::start();
    let token = daemon.issue(&["good"]);
    let id = id_of(&token);
    let long = "x".repeat(129);
    let cases: &[(&[&str], i32)] = &[
        (&[], 64),
        (&["no-such-verb"], 64),
        (&["issue"], 64),
        (&["issue", ""], 64),
        (&["issue", &long], 64),
        (&["issue", "a\nb"], 64),
        (&["issue", "a", "--scope", "Bad Scope"], 64),
        (&["issue", "a", "--ttl", "5"], 64),
        (&["issue", "a", "--ttl", "0s"], 64),
        (&["issue", "a", "--ttl", "3000d"], 64),
        (&["issue", "a", "--kind", "king"], 64),
        (&["issue", "a", "--kind", "canary", "--ttl", "1d"], 64),
        (&["issue", "a", "--rate", "100"], 64),
        (&["issue", "a", "--rate", "0/1m"], 64),
        (&["issue", "a", "--max-uses", "0"], 64),
        (&["issue", "a", "--allow-from", "10.0.0.0/40"], 64),
        (&["issue", "a", "--allow-from", "10.0.0.1/8"], 64),
        (&["issue", "a", "--allow-unit", "nginx"], 64),
        (&["issue", "a", "--label", "novalue"], 64),
        (&["issue", "a", "--profile", "nope"], 64),
        (&["issue", "a", "--not-before", "tomorrow"], 64),
        (&["issue", VECTOR], 64),
        (&["show"], 64),
        (&["show", "not-an-id"], 64),
        (&["show", VECTOR], 64),
        (&["show", "01M844DZG0FAY828T5CY4TQKFF"], 1),
        (&["revoke"], 64),
        (&["revoke", VECTOR], 64),
        (&["revoke", "01M844"], 64),
        (&["revoke", "01M844DZG0FAY828T5CY4TQKFF"], 1),
        (&["list", "--state", "sleeping"], 64),
        (&["list", "--limit", "0"], 64),
        (&["list", "--after", "xyz"], 64),
        (&["validate", "--scope", "repo:*"], 64),
        (&["validate", "--from", "nowhere"], 64),
        (&["validate", "--token-file", "/nonexistent/token"], 64),
        (&["audit", "--event", "nothing"], 64),
        (&["audit", "--since", "yesterday"], 64),
    ];
    for (arguments, status) in cases {
        let ran = daemon.ctl(arguments);
        assert_eq!(ran.status, *status, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
        assert!(!ran.stderr.trim().is_empty(), "{arguments:?} says nothing");
        assert_eq!(ran.stdout, "", "{arguments:?}");
        assert!(!ran.stderr.contains("003aUlTJC7tjl"), "{arguments:?} repeats the token: {}", ran.stderr);
    }
    assert_eq!(count(&daemon), 1);
    daemon.ctl_with(&token, &["validate"]).exits(0);
    let short = &id[..4];
    daemon.ctl(&["show", short]).exits(0);
}

#[test]
fn without_a_daemon_the_error_says_what_to_do() {
    let daemon = Daemon::place("");
    let ran = daemon.ctl(&["status"]).exits(69);
    assert!(ran.stderr.contains("bearerd"), "{}", ran.stderr);
    assert_eq!(ran.stderr.trim().lines().count(), 1, "{}", ran.stderr);
}

/// Configuration: unknown keys, wrong types, users that are missing; --check-config tells, and a start refuses.
#[test]
fn bad_configuration_is_refused_with_file_and_line() {
    for (text, told) in [
        ("[tokens]\nprefx = \"brd\"", "prefx"),
        ("[tokens]\nprefix = 5", "prefix"),
        ("[tokens]\nprefix = \"B\"", "prefix"),
        ("[limits]\ntokens_per_uid = \"many\"", "bearerd.toml:13"),
        ("[limits]\nissue_per_uid = \"60\"", "60/1m"),
        ("[[policy]]\nname = \"x\"\npeer = { user = \"root\" }\nallow = [\"fly\"]", "fly"),
        ("[[policy]]\nname = \"x\"\npeer = { usr = \"root\" }\nallow = [\"validate\"]", "usr"),
        ("[tokens.session]\ndefault_ttl = \"2d\"", "ttl"),
        ("[nonsense]", "nonsense"),
        ("not toml at all", "bearerd.toml"),
    ] {
        let daemon = Daemon::place(&format!("\n{text}"));
        let output = daemon.command().arg("--check-config").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{text}: {stderr}");
        assert!(stderr.contains("bearerd.toml") && stderr.contains(told), "{text}: {stderr}");
        assert_eq!(daemon.refuses().0, 78, "{text}");
        assert!(!daemon.path("state").exists(), "{text}: something was made");
    }
    let missing = "[[policy]]\nname = \"x\"\npeer = { user = \"no-such-user-here\" }\nallow = [\"validate\"]";
    let mut daemon = Daemon::place(&format!("\n{missing}"));
    let output = daemon.command().arg("--check-config").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-user-here"));
    // A start goes on without: what does not resolve matches nothing, and is warned of.
    daemon.run();
    assert!(daemon.ctl(&["--json", "status"]).exits(0).stdout.contains("no-such-user-here"));
}

#[test]
fn a_good_configuration_is_said_to_be_good() {
    let daemon = Daemon::place("");
    let output = daemon.command().arg("--check-config").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let usage = daemon.command().arg("--no-such-flag").output().unwrap();
    assert_eq!(usage.status.code(), Some(64));
}

/// SIGHUP: a bad configuration changes nothing and is said; a good one is in force.
#[test]
fn a_reload_is_whole_or_nothing() {
    let daemon = Daemon::start();
    let prefix = |daemon: &Daemon| daemon.issue(&["t"]).split('_').next().unwrap().to_owned();
    assert_eq!(prefix(&daemon), "brdm");
    let reloads =
        |daemon: &Daemon| daemon.ctl(&["--json", "audit", "--event", "reload"]).exits(0).stdout.lines().count();
    let hup = |daemon: &Daemon| {
        let before = reloads(daemon);
        daemon.signal(nix::sys::signal::Signal::SIGHUP);
        let begun = std::time::Instant::now();
        while reloads(daemon) == before {
            assert!(begun.elapsed() < daemon::PATIENCE, "no reload: {}", daemon.said());
        }
    };
    daemon.configure("\n[tokens]\nprefix = \"BAD\"");
    hup(&daemon);
    assert_eq!(prefix(&daemon), "brdm");
    daemon.configure("\n[tokens]\nprefix = \"acme\"");
    hup(&daemon);
    assert_eq!(prefix(&daemon), "acmem");
}
