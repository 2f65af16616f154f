//! I9: a store of the first version opens in this one, with everything that it holds (`tests/vectors/store-1`).

mod daemon;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use daemon::{Daemon, id_of};
use flate2::read::GzDecoder;
use serde_json::Value;

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/store-1").join(name)
}

/// A place with a copy of that store, its key and its log, as they lay on the disk.
fn placed(name: &str) -> (Daemon, Value) {
    let daemon = Daemon::place("");
    for (dir, mode) in [("state", 0o700), ("key", 0o700), ("log", 0o750)] {
        fs::create_dir(daemon.path(dir)).unwrap();
        fs::set_permissions(daemon.path(dir), fs::Permissions::from_mode(mode)).unwrap();
    }
    let put = |to: &str, bytes: &[u8], mode| {
        fs::write(daemon.path(to), bytes).unwrap();
        fs::set_permissions(daemon.path(to), fs::Permissions::from_mode(mode)).unwrap();
    };
    let unpacked = |file: &str| {
        let mut bytes = Vec::new();
        GzDecoder::new(fs::File::open(vector(name).join(file)).unwrap()).read_to_end(&mut bytes).unwrap();
        bytes
    };
    put("state/tokens.redb", &unpacked("tokens.redb.gz"), 0o600);
    put("log/audit.log", &unpacked("audit.log.gz"), 0o640);
    put("key/master.key", &fs::read(vector(name).join("master.key")).unwrap(), 0o600);
    // Whatever the year: nothing of it is purged.
    let path = |name: &str| daemon.path(name).display().to_string();
    let config = format!(
        "[store]\npath = {:?}\nretention = \"36500d\"\n[keys]\nfile = {:?}\n[socket]\npath = {:?}\n[audit]\nfile = {:?}\nsyslog = \"\"\n",
        path("state/tokens.redb"),
        path("key/master.key"),
        path("run/bearerd.sock"),
        path("log/audit.log"),
    );
    fs::write(daemon.path("bearerd.toml"), config).unwrap();
    (daemon, serde_json::from_slice(&fs::read(vector(name).join("tokens.json")).unwrap()).unwrap())
}

/// What is asked of each token, and whether it is good for it, and why not. A peek: it is asked again after a restart.
fn verdict(what: &str) -> (&'static [&'static str], Result<(), &'static str>) {
    match what {
        "machine" => (&["--scope", "repo:read", "--scope", "host:any:thing"], Ok(())),
        "session" => (&["--scope", "mail:read"], Ok(())),
        "canary" => (&[], Err("canary")),
        "counted" | "rated" | "last" => (&[], Ok(())),
        "spent" => (&[], Err("exhausted")),
        "bound" => (&["--from", "2001:db8::7", "--audience", "forge", "--scope", "any"], Ok(())),
        "unit" | "uid" => (&[], Err("wrong_peer")),
        "revoked" | "ended" => (&[], Err("revoked")),
        "profile" => (&["--audience", "forge", "--scope", "repo:write"], Ok(())),
        "later" => (&[], Err("not_yet_valid")),
        "short" => (&[], Err("expired")),
        other => panic!("nobody says what becomes of {other}"),
    }
}

/// Whether all that was said then is said now; new keys may have come.
fn said_still(then: &Value, now: &Value, what: &str) {
    match then {
        Value::Object(then) => {
            for (key, value) in then {
                said_still(value, now.get(key).unwrap_or(&Value::Null), &format!("{what} {key}"));
            }
        }
        then => assert_eq!(then, now, "{what}"),
    }
}

fn check(daemon: &Daemon, known: &Value) {
    let tokens = known["tokens"].as_array().unwrap();
    let listed = daemon.ctl(&["list", "--json"]).exits(0).json();
    assert_eq!(listed["tokens"].as_array().unwrap().len(), tokens.len());
    for token in tokens {
        let (what, text) = (token["what"].as_str().unwrap(), token["token"].as_str().unwrap());
        let shown = daemon.ctl(&["show", "--json", &id_of(text)]).exits(0).json();
        if !token["shown"].is_null() {
            said_still(&token["shown"], &shown, what);
        }
        let (asked, expected) = verdict(what);
        let arguments = [&["validate", "--json", "--peek"], asked].concat();
        let answer = daemon.ctl_with(&format!("{text}\n"), &arguments).json();
        assert_eq!(answer["active"], expected.is_ok(), "{what}: {answer}");
        assert_eq!(answer["reason"].as_str(), expected.err(), "{what}");
    }
    let by_subject = daemon.ctl(&["list", "--json", "--subject", "alice"]).exits(0).json();
    assert_eq!(by_subject["tokens"].as_array().unwrap().len(), 2, "the indexes are there");
    let by_label = daemon.ctl(&["list", "--json", "--label", "team=ops"]).exits(0).json();
    assert_eq!(by_label["tokens"].as_array().unwrap().len(), 1);
}

fn opens(name: &str) {
    let (mut daemon, known) = placed(name);
    let before = fs::read_to_string(daemon.audit_log()).unwrap();
    assert_eq!(before.lines().count() as u64, known["audit_lines"].as_u64().unwrap());
    daemon.run();
    check(&daemon, &known);

    // The chain goes on where the first version left it, and no change has two lines or none.
    let verified = daemon.ctl(&["audit", "verify", "--json"]).exits(0).json();
    assert_eq!(verified["ok"], true, "{verified}");
    assert_eq!(verified["first_seq"], 1);
    let issues: Vec<String> = daemon
        .trail()
        .iter()
        .filter(|line| line["event"] == "issue")
        .map(|line| line["id"].as_str().unwrap().to_owned())
        .collect();
    let texts = known["tokens"].as_array().unwrap().iter().map(|token| token["token"].as_str().unwrap());
    let mut ids: Vec<String> = texts.map(id_of).collect();
    ids.sort();
    assert_eq!(issues, ids);

    // It goes on living: a use is spent, a token is revoked, one is made; and all that is there after another start.
    let text = |what: &str| {
        let tokens = known["tokens"].as_array().unwrap();
        tokens.iter().find(|token| token["what"] == what).unwrap()["token"].as_str().unwrap().to_owned()
    };
    let (counted, machine) = (text("counted"), text("machine"));
    daemon.ctl_with(&format!("{counted}\n"), &["validate"]).exits(0);
    daemon.ctl(&["revoke", &id_of(&machine)]).exits(0);
    let fresh = daemon.issue(&["fresh"]);
    for kill in [false, true] {
        if kill {
            daemon.kill();
        } else {
            daemon.stop();
        }
        daemon.run();
        let shown = daemon.ctl(&["show", "--json", &id_of(&counted)]).exits(0).json();
        assert_eq!(shown["uses_left"], 1);
        assert_eq!(shown["last_used"]["count"], 4);
        daemon.ctl_with(&format!("{machine}\n"), &["validate", "--peek"]).exits(1);
        daemon.ctl_with(&format!("{fresh}\n"), &["validate", "--peek"]).exits(0);
        daemon.ctl(&["audit", "verify"]).exits(0);
    }
}

#[test]
fn a_store_of_the_first_version_opens() {
    opens("stopped");
}

#[test]
fn a_killed_store_of_the_first_version_opens() {
    opens("killed");
}
