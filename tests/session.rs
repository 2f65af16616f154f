//! The hand session of the README, against the real programs.

mod daemon;

use daemon::{Daemon, id_of};

/// README "A first session": issue, validate, wrong scope, revoke, audit, restart, kill -9.
#[test]
fn the_readme_session_holds() {
    let mut daemon = Daemon::start();
    let token = daemon.issue(&["backup", "--scope", "repo:read", "--scope", "ci:*", "--ttl", "30d"]);
    assert_eq!(token.len(), 81);

    let verdict = daemon.ctl_with(&token, &["--json", "validate", "--scope", "repo:read"]).exits(0).json();
    assert_eq!(verdict["active"], true);
    assert_eq!(verdict["name"], "backup");
    assert_eq!(verdict["id"], id_of(&token).as_str());

    let wrong =
        daemon.ctl_with(&token, &["--json", "validate", "--scope", "repo:write", "--scope", "admin"]).exits(1).json();
    assert_eq!(wrong["active"], false);
    assert_eq!(wrong["reason"], "insufficient_scope");
    assert_eq!(wrong["missing_scopes"], serde_json::json!(["repo:write", "admin"]));

    let done = daemon.ctl(&["--json", "revoke", &id_of(&token), "--reason", "leaked"]).exits(0).json();
    assert_eq!(done["count"], 1);
    let revoked = |daemon: &Daemon| {
        let verdict = daemon.ctl_with(&token, &["--json", "validate"]).exits(1).json();
        assert_eq!(verdict["reason"], "revoked");
        assert_eq!(verdict["revoked_reason"], "leaked");
    };
    revoked(&daemon);
    let again = daemon.ctl(&["--json", "revoke", &id_of(&token)]).exits(0).json();
    assert_eq!(again["count"], 0);

    let lines = daemon.ctl(&["--json", "audit", "--token", &id_of(&token)]).exits(0);
    let events: Vec<String> = lines
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(events, ["issue", "use", "deny", "revoke", "deny"]);

    daemon.restart();
    revoked(&daemon);
    daemon.kill();
    daemon.run();
    revoked(&daemon);
    daemon.ctl(&["audit", "verify"]).exits(0);
}

/// Every fact of a token comes back as it was given, over a restart too; keys that are absent are null.
#[test]
fn a_token_has_all_its_facts() {
    let mut daemon = Daemon::start();
    let token = daemon.issue(&[
        "full",
        "--kind",
        "session",
        "--subject",
        "alice",
        "--scope",
        "repo:*",
        "--audience",
        "git",
        "--ttl",
        "1h",
        "--max-uses",
        "5",
        "--rate",
        "100/1m",
        "--allow-from",
        "10.0.0.0/8",
        "--allow-unit",
        "nginx.service",
        "--allow-uid",
        "33",
        "--label",
        "team=ops",
    ]);
    daemon.restart();
    let shown = daemon.ctl(&["--json", "show", &id_of(&token)]).exits(0).json();
    for (key, value) in [
        ("kind", serde_json::json!("session")),
        ("subject", "alice".into()),
        ("scopes", serde_json::json!(["repo:*"])),
        ("audiences", serde_json::json!(["git"])),
        ("ttl", "1h".into()),
        ("max_uses", 5.into()),
        ("uses_left", 5.into()),
        ("rate", "100/1m".into()),
        ("allow_from", serde_json::json!(["10.0.0.0/8"])),
        ("allow_units", serde_json::json!(["nginx.service"])),
        ("allow_uids", serde_json::json!([33])),
        ("labels", serde_json::json!({"team": "ops"})),
        ("state", "active".into()),
        ("last_used", serde_json::Value::Null),
        ("successor", serde_json::Value::Null),
    ] {
        assert_eq!(shown[key], value, "{key}");
    }
    assert_eq!(shown["head"], format!("brds_{}", id_of(&token)));
    let keys: Vec<&str> = shown.as_object().unwrap().keys().map(String::as_str).collect();
    for key in [
        "id",
        "head",
        "kind",
        "name",
        "subject",
        "issuer",
        "issuer_uid",
        "scopes",
        "audiences",
        "state",
        "issued_at",
        "not_before",
        "expires_at",
        "max_expires_at",
        "ttl",
        "labels",
        "profile",
        "max_uses",
        "uses_left",
        "rate",
        "allow_from",
        "allow_units",
        "allow_uids",
        "family",
        "predecessor",
        "successor",
        "revoked_at",
        "revoked_reason",
        "last_used",
    ] {
        assert!(keys.contains(&key), "{key} is missing");
    }
}

/// Five uses are five, however many ask, and over kill -9.
#[test]
fn uses_are_counted_durably() {
    let mut daemon = Daemon::start();
    let token = daemon.issue(&["five", "--max-uses", "5"]);
    daemon.ctl_with(&token, &["validate", "--peek"]).exits(0);
    daemon.ctl_with(&token, &["validate"]).exits(0);
    daemon.ctl_with(&token, &["validate"]).exits(0);
    daemon.kill();
    daemon.run();
    let active: usize = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = daemon.client();
                    let ask = bearerd::protocol::message::Validate {
                        token: &token,
                        scopes: Vec::new(),
                        audience: None,
                        from: None,
                        note: None,
                        peek: false,
                    };
                    (0..4).filter(|_| client.validate(&ask).unwrap().active).count()
                })
            })
            .collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).sum()
    });
    assert_eq!(active, 3);
    let verdict = daemon.ctl_with(&token, &["--json", "validate"]).exits(1).json();
    assert_eq!(verdict["reason"], "exhausted");
    assert_eq!(verdict["uses_left"], 0);
}

/// A canary is never good, and whoever shows one is in the trail with the event of its own.
#[test]
fn a_canary_alarms() {
    let daemon = Daemon::start();
    let token = daemon.issue(&["bait", "--kind", "canary"]);
    let verdict = daemon.ctl_with(&token, &["--json", "validate", "--from", "192.0.2.7"]).exits(1).json();
    assert_eq!(verdict["reason"], "canary");
    // By way of the daemon, which writes what it has before it reads: a refusal's line is not waited for.
    let alarm = daemon.ctl(&["--json", "audit", "--event", "canary"]).exits(0).json();
    assert_eq!(alarm["from"], "192.0.2.7");
    assert_eq!(alarm["peer"]["uid"], nix::unistd::getuid().as_raw());
}

/// A rate is the family's, refuses beyond its count, and a peek spends nothing of it.
#[test]
fn a_rate_refuses_beyond_its_count() {
    let daemon = Daemon::start();
    let token = daemon.issue(&["rated", "--rate", "3/1h"]);
    daemon.ctl_with(&token, &["validate", "--peek"]).exits(0);
    for _ in 0..3 {
        daemon.ctl_with(&token, &["validate"]).exits(0);
    }
    let verdict = daemon.ctl_with(&token, &["--json", "validate"]).exits(1).json();
    assert_eq!(verdict["reason"], "rate_limited");
}

/// Without the right secret there are two answers only, and neither says more than that.
#[test]
fn a_stranger_learns_nothing() {
    let daemon = Daemon::start();
    let token = daemon.issue(&["real"]);
    let other = daemon.issue(&["other"]);
    let (id, other_id) = (id_of(&token), id_of(&other));
    // The other's secret under this id, with the right check characters.
    let parsed = bearerd::token::Token::parse(&other).unwrap();
    let forged = bearerd::token::Token { id: id.parse().unwrap(), ..parsed.clone() };
    let mut letter = bearerd::token::Token::parse(&token).unwrap();
    letter.kind = bearerd::token::Kind::Session;
    let mut absent = parsed;
    absent.id = bearerd::token::TokenId::MIN;
    daemon.ctl(&["revoke", &id]).exits(0);
    let answers: Vec<String> = [forged, letter, absent]
        .iter()
        .map(|token| daemon.ctl_with(&token.reveal(), &["--json", "validate"]).exits(1).stdout)
        .collect();
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
    let verdict: serde_json::Value = serde_json::from_str(&answers[0]).unwrap();
    assert_eq!(verdict, serde_json::json!({"active": false, "reason": "unknown", "missing_scopes": []}));
    let malformed = daemon.ctl_with("hello", &["--json", "validate"]).exits(1).json();
    assert_eq!(malformed, serde_json::json!({"active": false, "reason": "malformed", "missing_scopes": []}));
    daemon.ctl_with(&other, &["validate"]).exits(0);
    assert_ne!(id, other_id);
}

/// The holder or finder of a token ends it by the token itself.
#[test]
fn who_holds_a_token_may_end_it() {
    let daemon = Daemon::start();
    let token = daemon.issue(&["found"]);
    let file = daemon.path("token");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    daemon.ctl(&["revoke", "--token-file", file.to_str().unwrap(), "--reason", "found in a repository"]).exits(0);
    let verdict = daemon.ctl_with(&token, &["--json", "validate"]).exits(1).json();
    assert_eq!(verdict["reason"], "revoked");
}

/// Pages follow each other by id and are stable while tokens come and go.
#[test]
fn pages_are_stable() {
    let daemon = Daemon::start();
    let mut ids: Vec<String> = (0..7).map(|i| id_of(&daemon.issue(&[&format!("t{i}"), "--label", "a=b"]))).collect();
    let page = |arguments: &[&str]| daemon.ctl(&[&["--json", "list"], arguments].concat()).exits(0).json();
    let first = page(&["--limit", "3"]);
    let names = |page: &serde_json::Value| -> Vec<String> {
        page["tokens"].as_array().unwrap().iter().map(|token| token["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&first), ids[..3]);
    ids.push(id_of(&daemon.issue(&["late", "--label", "a=b"])));
    let second = page(&["--limit", "3", "--after", first["next"].as_str().unwrap()]);
    assert_eq!(names(&second), ids[3..6]);
    let third = page(&["--limit", "3", "--after", second["next"].as_str().unwrap()]);
    assert_eq!(names(&third), ids[6..8]);
    assert_eq!(third["next"], serde_json::Value::Null);
    assert_eq!(names(&page(&["--label", "a=b", "--limit", "100"])), ids);
    assert_eq!(names(&page(&["--label", "a=c"])), [""; 0]);
    assert_eq!(names(&page(&["--subject", "t1"])).len(), usize::from(nix::unistd::getuid().is_root()));
}
