//! import: tokens of other systems, from a file or a stream, with a report by line.

mod daemon;
mod host;
mod simdisk;

use std::os::unix::fs::PermissionsExt;

use bearerd::protocol::code::ErrorCode;
use bearerd::protocol::message::{Answer, Ask, Foreign, ImportEntry, ImportOutcome, Issue};
use bearerd::token::{Kind, sha256};
use daemon::Daemon;
use host::Host;

const A: &str = "glpat-Zx8qT3vKr9mLw2Yb7NcD";
const B: &str = "ghp_x7Kq2vRm9TzYw4LsBn8Jc3HfPd6GaE1oUi5V";
const C: &str = "8c2f1e90b7d34a65c0ffee5d1a9b7e42";

/// A file of these lines that only its owner can read.
fn file(daemon: &Daemon, name: &str, lines: &[&str]) -> String {
    let path = daemon.path(name);
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

#[test]
fn tokens_of_other_systems_are_good_from_then_on() {
    let daemon = Daemon::start();
    let path = file(&daemon, "old.txt", &[A, "", B]);
    let ran =
        daemon.ctl(&["import", &path, "--name-prefix", "gitlab", "--scope", "repo:read", "--label", "from=gitlab"]);
    let ran = ran.exits(0);
    assert_eq!(ran.stdout, "2 taken, 0 there already, 0 not taken\n");
    for token in [A, B] {
        let verdict = daemon.ctl_with(token, &["--json", "validate", "--scope", "repo:read"]).exits(0).json();
        assert_eq!((&verdict["active"], &verdict["head"]), (&true.into(), &serde_json::Value::Null));
        assert_eq!(verdict["labels"]["from"], "gitlab");
    }
    let names = daemon.ctl(&["--json", "list"]).exits(0).json();
    let names: Vec<&str> = names["tokens"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["gitlab-1", "gitlab-3"], "the empty line has its number");
    assert!(daemon.ctl(&["list"]).exits(0).stdout.contains("gitlab-3"));
    let id = daemon.ctl(&["--json", "list"]).json()["tokens"][0]["id"].as_str().unwrap().to_owned();
    assert!(daemon.ctl(&["show", &id]).exits(0).stdout.contains("gitlab-1"));
    let verdict = daemon.ctl_with(A, &["--json", "validate", "--scope", "repo:write"]).exits(1).json();
    assert_eq!(verdict["reason"], "insufficient_scope");
    // One character off, with imports there.
    let off = A.replace("NcD", "NcE");
    assert_eq!(daemon.ctl_with(&off, &["--json", "validate"]).exits(1).json()["reason"], "malformed");
    let wrong = "brdm_01M844DZG0FAY828T5CY4TQKFF_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf2b9MjO";
    assert_eq!(daemon.ctl_with(wrong, &["--json", "validate"]).exits(1).json()["reason"], "unknown");
    let lines = daemon.ctl(&["--json", "audit", "--event", "import"]).exits(0);
    assert_eq!(lines.stdout.lines().count(), 2);
    daemon.ctl(&["audit", "verify"]).exits(0);
}

/// They are there after a kill and a restart, which is when the daemon looks whether there are any.
#[test]
fn imports_are_known_after_a_restart() {
    let mut daemon = Daemon::start();
    daemon.ctl_with(A, &["import", "-"]).exits(0);
    daemon.kill();
    daemon.run();
    daemon.ctl_with(A, &["validate"]).exits(0);
    daemon.restart();
    daemon.ctl_with(A, &["validate"]).exits(0);
}

#[test]
fn an_import_that_is_run_again_doubles_nothing() {
    let daemon = Daemon::start();
    let path = file(&daemon, "old.txt", &[A, B]);
    let first = daemon.ctl(&["--json", "import", &path]).exits(0).json();
    let path = file(&daemon, "more.txt", &[C, B, C, A]);
    let second = daemon.ctl(&["--json", "import", &path]).exits(0).json();
    assert_eq!((&second["taken"], &second["already"]), (&1.into(), &3.into()));
    let id_of = |report: &serde_json::Value, line: u64| {
        let tokens = report["tokens"].as_array().unwrap();
        tokens.iter().find(|token| token["line"] == line).unwrap()["id"].clone()
    };
    assert_eq!(id_of(&first, 1), id_of(&second, 4));
    assert_eq!(id_of(&first, 2), id_of(&second, 2));
    assert_eq!(id_of(&second, 1), id_of(&second, 3), "twice in one file is one token");
    assert_eq!(daemon.ctl(&["--json", "list"]).json()["tokens"].as_array().unwrap().len(), 3);
    // What has been revoked does not come back.
    daemon.ctl(&["revoke", id_of(&first, 1).as_str().unwrap()]).exits(0);
    let third = daemon.ctl_with(A, &["--json", "import", "-"]).exits(0).json();
    assert_eq!((&third["already"], id_of(&third, 1)), (&1.into(), id_of(&first, 1)));
    assert_eq!(daemon.ctl_with(A, &["--json", "validate"]).exits(1).json()["reason"], "revoked");
}

#[test]
fn who_holds_an_imported_token_may_end_it() {
    let daemon = Daemon::start();
    daemon.ctl_with(A, &["import", "-"]).exits(0);
    assert_eq!(daemon.ctl_with(B, &["--json", "revoke", "--token-file", "-"]).exits(0).json()["count"], 0);
    assert_eq!(daemon.ctl_with(A, &["--json", "revoke", "--token-file", "-"]).exits(0).json()["count"], 1);
    assert_eq!(daemon.ctl_with(A, &["--json", "validate"]).exits(1).json()["reason"], "revoked");
}

#[test]
fn a_line_says_what_its_token_shall_be() {
    let daemon = Daemon::start();
    let hash: String = sha256(C).iter().map(|byte| format!("{byte:02x}")).collect();
    let lines = [
        format!(
            r#"{{"token":"{A}","name":"ci","kind":"session","subject":"bob","scopes":["a:*"],"ttl":"2h","max_uses":1}}"#
        ),
        format!(r#"{{"sha256":"{hash}","name":"by hash","allow_uids":[{}],"rate":"9/1m"}}"#, host::own_uid()),
        format!(r#"{{"token":"{B}","name":"bait","kind":"canary"}}"#),
    ];
    let path = file(&daemon, "t.jsonl", &lines.each_ref().map(String::as_str));
    daemon.ctl(&["import", &path, "--scope", "x"]).exits(0);
    let ci = daemon.ctl_with(A, &["--json", "validate", "--scope", "a:b"]).exits(0).json();
    assert_eq!((&ci["name"], &ci["kind"], &ci["subject"]), (&"ci".into(), &"session".into(), &"bob".into()));
    assert_eq!((&ci["ttl"], &ci["uses_left"]), (&"2h".into(), &0.into()));
    let by_hash = daemon.ctl_with(C, &["--json", "validate", "--scope", "x"]).exits(0).json();
    assert_eq!((&by_hash["name"], &by_hash["rate"]), (&"by hash".into(), &"9/1m".into()));
    assert_eq!(daemon.ctl_with(B, &["--json", "validate"]).exits(1).json()["reason"], "canary");
    let alarm = daemon.ctl(&["--json", "audit", "--event", "canary"]).exits(0).json();
    assert_eq!(alarm["name"], "bait");
}

#[test]
fn what_is_not_taken_is_named_by_its_line_and_never_shown() {
    let daemon = Daemon::start();
    let own = daemon.issue(&["own"]);
    let typo = format!(r#"{{"token":"{B}","alow_from":["10.0.0.0/8"]}}"#);
    let long = format!(r#"{{"token":"{B}","ttl":"4000d"}}"#);
    let shown = format!(r#"{{"token":"{B}","name":"token {B}"}}"#);
    let lines = ["short", "passwordpassword", &own, &typo, &long, &shown, A];
    let path = file(&daemon, "bad.txt", &lines);
    let ran = daemon.ctl(&["--json", "import", &path]).exits(65);
    let report = ran.json();
    let refused = report["refused"].as_array().unwrap();
    let said: Vec<(u64, &str)> =
        refused.iter().map(|it| (it["line"].as_u64().unwrap(), it["reason"].as_str().unwrap())).collect();
    assert_eq!(said.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    for (at, words) in
        ["16 to 1024 bytes", "too weak", "bearerd itself", "a key that is not known", "ceiling", "token's own text"]
            .iter()
            .enumerate()
    {
        assert!(said[at].1.contains(words), "{:?}", said[at]);
    }
    assert_eq!(report["taken"], 1);
    let ran = daemon.ctl(&["import", &path]).exits(65);
    assert!(
        ran.stdout.contains("line 2: not taken: it is too weak")
            && ran.stdout.ends_with("0 taken, 1 there already, 6 not taken\n"),
        "{}",
        ran.stdout
    );
    for text in [&ran.stdout, &ran.stderr, &report.to_string()] {
        assert!(lines.iter().skip(1).all(|line| !text.contains(line)) && !text.contains(B), "{text}");
    }
}

#[test]
fn a_dry_run_asks_nobody() {
    let daemon = Daemon::place("");
    let path = file(&daemon, "t.txt", &[A, "password", B]);
    let ran = daemon.ctl(&["import", &path, "--dry-run"]).exits(65);
    assert!(ran.stdout.contains("line 2: not taken") && ran.stdout.contains("2 could be taken"), "{}", ran.stdout);
    let report = daemon.ctl(&["--json", "import", &path, "--dry-run"]).exits(65).json();
    assert_eq!((&report["taken"], &report["dry_run"]), (&2.into(), &true.into()));
    // Without it somebody must be there.
    daemon.ctl(&["import", &path]).exits(69);
}

#[test]
fn an_empty_file_and_a_missing_one_are_errors() {
    let daemon = Daemon::start();
    let path = file(&daemon, "empty", &["", ""]);
    daemon.ctl(&["import", &path]).exits(64);
    daemon.ctl(&["import", "/nonexistent/tokens"]).exits(64);
    daemon.ctl_with("", &["import", "-"]).exits(64);
}

#[test]
fn a_file_that_others_can_read_is_warned_of() {
    let daemon = Daemon::start();
    let path = file(&daemon, "t.txt", &[A]);
    assert_eq!(daemon.ctl(&["import", &path]).exits(0).stderr, "");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = daemon.ctl(&["import", &path]).exits(0).stderr;
    assert!(said.contains("every user of this host can read it") && said.contains("chmod 600"), "{said}");
}

/// I3: the text is in no file, and in no memory image that a core would be, when the import is done.
#[test]
fn the_text_is_nowhere() {
    let mut daemon = Daemon::start();
    let lines: Vec<String> = (0..600).map(|n| format!("{A}{n:04}")).collect();
    daemon.ctl_with(&lines.join("\n"), &["import", "-"]).exits(0);
    let held = |bytes: &[u8]| bytes.windows(A.len()).any(|window| window == A.as_bytes());
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", daemon.pid()));
    if let (Ok(maps), Ok(memory)) = (maps, std::fs::File::open(format!("/proc/{}/mem", daemon.pid()))) {
        use std::os::unix::fs::FileExt;
        let mut looked = 0;
        for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
            let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
            for at in (from..to).step_by(1 << 20) {
                let mut bytes = vec![0; usize::try_from((to - at).min((1 << 20) + 64)).unwrap()];
                let Ok(read) = memory.read_at(&mut bytes, at) else { continue };
                looked += read;
                assert!(!held(&bytes[..read]), "in the memory of the daemon, {line}");
            }
        }
        assert!(looked > 1 << 20, "{looked} bytes were looked at");
    }
    daemon.ctl_with(&lines[599], &["validate"]).exits(0);
    daemon.stop();
    for name in ["state", "log", "key", "run"] {
        for entry in std::fs::read_dir(daemon.path(name)).into_iter().flatten().flatten() {
            if let Ok(bytes) = std::fs::read(entry.path()) {
                assert!(!held(&bytes), "{}", entry.path().display());
            }
        }
    }
    assert!(!daemon.said().contains(A));
}

// ---- policy and limits, by peers that are nobody in particular

fn entry<'a>(text: &'a str, facts: Issue) -> ImportEntry<'a> {
    ImportEntry { token: Foreign::Text(text), facts: Issue { name: "old".into(), ..facts }, expires_at: None }
}

async fn import(host: &Host, uid: u32, entries: Vec<ImportEntry<'_>>) -> Result<Vec<ImportOutcome>, ErrorCode> {
    match host.answer(&host.peer(uid, None), Ask::Import(entries)).await {
        Answer::Imported(outcomes) => Ok(outcomes),
        Answer::Error(failure) => Err(failure.code),
        _ => panic!("neither outcomes nor an error"),
    }
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{B}{n:03}")).collect()
}

fn taken(outcomes: &[ImportOutcome]) -> usize {
    outcomes.iter().filter(|outcome| matches!(outcome, ImportOutcome::Taken(_))).count()
}

const RULE: &str = "[[policy]]\nname = \"migrate\"\npeer = { user = \"1000\" }\nallow = [\"import\"]\nsubjects = [\"*\"]\nkinds = [\"machine\"]\n\
scopes = [\"repo:*\"]\nmax_ttl = \"90d\"\n";

#[tokio::test]
async fn import_needs_a_rule_of_its_own() {
    let issue = RULE.replace("import", "issue");
    let host = Host::new(&format!("{RULE}{}", issue.replace("1000", "1001").replace("migrate", "issue")));
    for uid in [1001, 1002] {
        assert_eq!(import(&host, uid, vec![entry(A, Issue::default())]).await, Err(ErrorCode::NotPermitted));
        // Nor does it say whether a text would do.
        assert_eq!(import(&host, uid, vec![entry("password", Issue::default())]).await, Err(ErrorCode::NotPermitted));
    }
    let denied = host.lines("deny").await;
    assert!(denied.iter().any(|line| line["note"].as_str().unwrap().starts_with("import: ")), "{denied:?}");
    let scopes = |scope: &str| Issue { scopes: vec![scope.to_owned()], ..Issue::default() };
    let outcomes = import(&host, 1000, vec![entry(A, scopes("repo:read")), entry(B, scopes("deploy"))]).await.unwrap();
    assert!(matches!(outcomes[0], ImportOutcome::Taken(_)));
    assert!(matches!(&outcomes[1], ImportOutcome::Refused(why) if why.contains("not permitted")), "{outcomes:?}");
    assert_eq!((host.validate(A).await, host.validate(B).await), ("active", "malformed"));
}

/// As with a token that is issued: who may have only session tokens gets one where no kind is named, and no line says
/// that another was asked for.
#[tokio::test]
async fn a_kind_that_nobody_names_is_one_that_policy_allows() {
    let host = Host::new(&RULE.replace("machine", "session").replace("90d", "1h"));
    let facts = |kind| Issue { kind, ttl: Some(std::time::Duration::from_secs(60)), ..Issue::default() };
    let outcomes =
        import(&host, 1000, vec![entry(A, facts(None)), entry(B, facts(Some(Kind::Machine)))]).await.unwrap();
    let ImportOutcome::Taken(id) = outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(host.store.lookup(id).unwrap().record.unwrap().kind, Kind::Session);
    assert!(matches!(&outcomes[1], ImportOutcome::Refused(why) if why.contains("not permitted")), "{outcomes:?}");
    let denied = host.lines("deny").await;
    assert_eq!(denied.iter().map(|line| line["count"].as_u64().unwrap_or(1)).sum::<u64>(), 1, "{denied:?}");
}

#[tokio::test]
async fn limits_are_counted_for_each_token() {
    let host = Host::new(&format!("{RULE}[limits]\ntokens_per_uid = 10\nissue_per_uid = \"1000/1m\"\n"));
    let texts = texts(25);
    let entries = || texts.iter().map(|text| entry(text, Issue::default())).collect::<Vec<_>>();
    let outcomes = import(&host, 1000, entries()).await.unwrap();
    assert_eq!(taken(&outcomes), 10);
    assert!(matches!(&outcomes[10], ImportOutcome::Refused(why) if why.contains("tokens_per_uid")));
    assert_eq!(taken(&import(&host, 1000, entries()).await.unwrap()), 0);
    // Full rights have no such limit.
    assert_eq!(taken(&import(&host, host::own_uid(), entries()).await.unwrap()), 15);

    let host = Host::new(&format!("{RULE}[limits]\nissue_per_uid = \"5/1m\"\n"));
    let outcomes = import(&host, 1000, entries()).await.unwrap();
    assert_eq!(taken(&outcomes), 5);
    assert!(matches!(&outcomes[5], ImportOutcome::Refused(why) if why.contains("issue_per_uid")));
    host.hands.pass(std::time::Duration::from_secs(60));
    let outcomes = import(&host, 1000, entries()).await.unwrap();
    assert_eq!(taken(&outcomes), 5, "what is there already costs nothing");
}

/// A batch is one transaction: without room for it nothing of it is there.
#[tokio::test]
async fn a_batch_is_taken_whole_or_not_at_all() {
    let host = Host::new("");
    let texts = texts(50);
    let entries = || texts.iter().map(|text| entry(text, Issue::default())).collect::<Vec<_>>();
    host.disk.fail(simdisk::Fail::WriteFull, 0);
    assert_eq!(import(&host, host::own_uid(), entries()).await, Err(ErrorCode::Unavailable));
    assert_eq!(host.store.token_count().unwrap(), 0);
    assert_eq!(host.validate(&texts[0]).await, "malformed");
    assert_eq!(taken(&import(&host, host::own_uid(), entries()).await.unwrap()), 50);
    assert_eq!((host.store.token_count().unwrap(), host.lines("import").await.len()), (50, 50));
}

#[tokio::test]
async fn a_batch_has_bounds_and_a_hash_is_believed() {
    let host = Host::new("");
    let owner = host::own_uid();
    assert_eq!(import(&host, owner, Vec::new()).await, Err(ErrorCode::BadRequest));
    let texts = texts(257);
    let entries = texts.iter().map(|text| entry(text, Issue::default())).collect();
    assert_eq!(import(&host, owner, entries).await, Err(ErrorCode::BadRequest));
    let hashed = ImportEntry { token: Foreign::Sha256(*sha256(C)), ..entry(C, Issue::default()) };
    let first = import(&host, owner, vec![hashed.clone(), entry(C, Issue::default())]).await.unwrap();
    let ImportOutcome::Taken(id) = first[0] else { panic!("{first:?}") };
    assert_eq!(first[1], ImportOutcome::Already(id), "the text and its hash are one token");
    assert_eq!(host.validate(C).await, "active");
}

/// What is purged is forgotten, and may be imported again.
#[tokio::test]
async fn a_removed_import_is_gone_whole() {
    let host = Host::new("");
    let outcomes = import(&host, host::own_uid(), vec![entry(A, Issue::default())]).await.unwrap();
    let ImportOutcome::Taken(id) = outcomes[0] else { panic!("{outcomes:?}") };
    let removed = host.store.write(move |txn: &mut bearerd::store::Txn<'_>| txn.remove(id)).await;
    removed.unwrap().unwrap();
    assert_eq!(host.validate(A).await, "malformed");
    let again = import(&host, host::own_uid(), vec![entry(A, Issue::default())]).await.unwrap();
    assert!(matches!(again[0], ImportOutcome::Taken(new) if new != id), "{again:?}");
    assert_eq!(host.validate(A).await, "active");
}

/// An import has uses, networks and a first use like any token.
#[tokio::test]
async fn an_import_is_a_token_like_any_other() {
    let host = Host::new("");
    let facts = Issue { max_uses: Some(2), ..Issue::default() };
    assert_eq!(taken(&import(&host, host::own_uid(), vec![entry(A, facts)]).await.unwrap()), 1);
    assert_eq!(host.validate(A).await, "active");
    assert_eq!(host.validate(A).await, "active");
    assert_eq!(host.validate(A).await, "exhausted");
    assert_eq!(host.lines("use").await.len(), 2);
}
