//! I3: no secret is outside the one reply that delivers it: not in the store, logs, syslog, stderr, argv or environment.

mod daemon;

use std::collections::HashMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bearerd::protocol::message::{Edit, Handle, Issue, Rotate};
use daemon::{Daemon, id_of};

/// Every form in which 32 secret bytes, or the text of them, might be written by accident.
fn forms(token: &str) -> Vec<Vec<u8>> {
    let parsed = bearerd::token::Token::parse(token).unwrap();
    let bytes = parsed.secret.as_bytes();
    let text = token.rsplit('_').next().unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![
        bytes.to_vec(),
        bytes[..16].to_vec(),
        bytes[16..].to_vec(),
        text.as_bytes()[..20].to_vec(),
        text.as_bytes()[20..43].to_vec(),
        hex.as_bytes()[..32].to_vec(),
        hex.to_uppercase().as_bytes()[..32].to_vec(),
        format!("{:?}", &bytes[..8]).trim_matches(['[', ']']).as_bytes().to_vec(),
    ]
}

fn holds(hay: &[u8], needle: &[u8]) -> bool {
    hay.windows(needle.len()).any(|window| window == needle)
}

fn files(dir: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.is_file() {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}

#[test]
fn no_secret_is_left_anywhere() {
    let place = Daemon::place("");
    let syslog_path = place.path("syslog");
    let syslog = UnixDatagram::bind(&syslog_path).unwrap();
    let said = Arc::new(Mutex::new(Vec::new()));
    let collector = Arc::clone(&said);
    std::thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok(bytes) = syslog.recv(&mut buffer) {
            collector.lock().unwrap().extend_from_slice(&buffer[..bytes]);
        }
    });
    let mut daemon = place;
    daemon.configure(&format!("syslog = {:?}\n", syslog_path.display().to_string()));
    let mut command = daemon.command();
    command.args(["--log-level", "debug"]);
    daemon.run_as(command);

    let mut client = daemon.client();
    let mut tokens = Vec::new();
    for i in 0..300 {
        let uses = (i % 3 == 0).then_some(2);
        let issued = client.issue(&Issue { name: format!("canary-{i}"), max_uses: uses, ..Issue::default() }).unwrap();
        tokens.push(issued.token.expose().to_owned());
    }
    // Successors, and those that they took the place of.
    for i in 100..120 {
        for _ in 0..2 {
            let rotate = Rotate { token: Handle(id_of(&tokens[i])), now: i % 2 == 0, grace: None };
            tokens.push(client.rotate(&rotate).unwrap().token.expose().to_owned());
        }
    }
    let mut outputs = String::new();
    for (i, token) in tokens.iter().enumerate().take(40) {
        let mangled = format!("{}x", &token[..token.len() - 1]);
        let runs = [
            daemon.ctl_with(token, &["validate", "--scope", "a:b"]),
            daemon.ctl_with(token, &["--json", "validate"]),
            daemon.ctl_with(&mangled, &["validate"]),
            daemon.ctl_with(&format!("{token} trailing"), &["validate"]),
            // Where no token belongs: refused, and not repeated.
            daemon.ctl(&["show", token]),
            daemon.ctl(&["issue", token]),
            daemon.ctl(&["revoke", &id_of(token), "--reason", token]),
            daemon.ctl_with(token, &["validate", "--note", token]),
            daemon.ctl_with(token, &["revoke", "--token-file", "-"]),
        ];
        for run in runs {
            outputs.push_str(&run.stdout);
            outputs.push_str(&run.stderr);
        }
        if i % 10 == 0 {
            daemon.ctl(&["revoke", &id_of(token)]).exits(0);
        }
    }
    // The doors without bearerctl's own care: the daemon refuses such texts itself.
    let leak = &tokens[50];
    assert!(client.issue(&Issue { name: leak.clone(), ..Issue::default() }).is_err());
    assert!(client.show(&Handle(leak.clone())).is_err());
    assert!(client.renew(&Handle(leak.clone())).is_err());
    assert!(client.rotate(&Rotate { token: Handle(leak.clone()), now: false, grace: None }).is_err());
    let handle = || Handle(id_of(&tokens[60]));
    assert!(client.edit(&Edit { name: Some(leak.clone()), ..Edit::of(handle()) }).is_err());
    let labels = [("k".to_owned(), leak.clone())].into();
    assert!(client.edit(&Edit { labels, ..Edit::of(handle()) }).is_err());

    let mut places = vec![("outputs".to_owned(), outputs.into_bytes())];
    for name in ["cmdline", "environ"] {
        places.push((name.to_owned(), fs::read(format!("/proc/{}/{name}", daemon.pid())).unwrap_or_default()));
    }
    daemon.stop();
    files(&daemon.path("state"), &mut places);
    files(&daemon.path("log"), &mut places);
    places.push(("stderr".to_owned(), daemon.said().into_bytes()));
    places.push(("syslog".to_owned(), said.lock().unwrap().clone()));
    assert!(places.iter().any(|(name, bytes)| name == "syslog" && !bytes.is_empty()), "syslog heard nothing");
    assert!(places.iter().any(|(name, bytes)| name.ends_with("tokens.redb") && bytes.len() > 100_000));

    let key = fs::read_to_string(daemon.path("key/master.key")).unwrap();
    let key_hex = key.trim().rsplit(' ').next().unwrap().to_owned();
    // One pass over each place: what begins as a form does is compared whole.
    let mut needles: HashMap<[u8; 8], Vec<Vec<u8>>> = HashMap::new();
    let keys = [key_hex.into_bytes()];
    for form in tokens.iter().flat_map(|token| forms(token)).chain(keys) {
        needles.entry(*form.first_chunk().unwrap()).or_default().push(form);
    }
    for (name, bytes) in &places {
        for (at, window) in bytes.windows(8).enumerate() {
            if let Some(forms) = needles.get(window) {
                assert!(!forms.iter().any(|form| bytes[at..].starts_with(form)), "a secret is in {name} at {at}");
            }
        }
    }
    // The search itself works: the public part is found.
    assert!(places.iter().any(|(name, bytes)| name.ends_with("audit.log") && holds(bytes, id_of(leak).as_bytes())));
}

/// Without the key the store shows no names, subjects, scopes or labels.
#[test]
fn the_store_shows_no_names() {
    let mut daemon = Daemon::start();
    daemon.issue(&[
        "zebra-name",
        "--subject",
        "zebra-subject",
        "--scope",
        "zebra:scope",
        "--label",
        "zebra-key=zebra-value",
    ]);
    daemon.stop();
    let bytes = fs::read(daemon.path("state/tokens.redb")).unwrap();
    assert!(!holds(&bytes, b"zebra"));
}

/// No other process of the same user reads the daemon's memory, and it leaves no core.
#[test]
fn the_daemon_is_not_dumpable() {
    let daemon = Daemon::start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert!(core.split_whitespace().filter(|word| *word == "0").count() == 2, "{core}");
    // What is not dumpable belongs to root in /proc, whoever runs it.
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{}/mem", daemon.pid())).unwrap());
    assert_eq!(owner, 0);
}
