//! What people and programs see. The samples are also what the fake daemon of `ctl::tests` answers.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::style::{resolve, width};
use super::*;
use crate::protocol::code::Reason;
use crate::protocol::message::{Changed, Issued, LastUsed, Rate, SecretText, State, TokenFacts, TokenInfo, Verdict};
use crate::time::UnixTime;
use crate::token::{Kind, TokenId};

pub(in crate::ctl) const TOKEN: &str =
    "brdm_01M844DZG0FAY828T5CY4TQKFF_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf2b9MjO";

/// Every key of a token, in its order (docs/json.md).
const KEYS: [&str; 29] = [
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
];

pub(in crate::ctl) fn now() -> UnixTime {
    "2026-11-23T17:42:09Z".parse().unwrap()
}

fn ago(secs: u64) -> UnixTime {
    now().saturating_sub(Duration::from_secs(secs))
}

fn ahead(secs: u64) -> UnixTime {
    now().saturating_add(Duration::from_secs(secs))
}

const DAY: u64 = 86_400;

pub(in crate::ctl) fn bare(id: &str, name: &str) -> TokenInfo {
    let id: TokenId = id.parse().unwrap();
    TokenInfo {
        facts: TokenFacts {
            id,
            head: Some(format!("brdm_{id}")),
            kind: Kind::Machine,
            name: name.to_owned(),
            subject: name.to_owned(),
            issuer: "root".to_owned(),
            issuer_uid: 0,
            scopes: Vec::new(),
            audiences: Vec::new(),
            issued_at: ago(DAY),
            not_before: None,
            expires_at: Some(ahead(29 * DAY)),
            max_expires_at: Some(ahead(365 * DAY)),
            ttl: Some(Duration::from_secs(30 * DAY)),
            labels: Default::default(),
            profile: None,
            max_uses: None,
            uses_left: None,
            rate: None,
            allow_from: Vec::new(),
            allow_units: Vec::new(),
            allow_uids: Vec::new(),
            family: id,
            predecessor: None,
            successor: None,
            revoked_at: None,
            revoked_reason: None,
        },
        state: State::Active,
        last_used: None,
    }
}

pub(in crate::ctl) fn tokens() -> Vec<TokenInfo> {
    let mut backup = bare("01M844DZG0FAY828T5CY4TQKFF", "backup");
    backup.facts.scopes = vec!["repo:read".into(), "repo:write".into()];
    backup.last_used =
        Some(LastUsed { at: ago(185), unit: Some("restic.service".into()), uid: 998, from: None, count: 12_345 });
    let mut ci = bare("01M844E0M8F1V8Q4ZC0T2W3K4N", "ci runner of the web team");
    ci.facts.kind = Kind::Session;
    ci.facts.subject = "alice".into();
    ci.facts.issuer = "alice".into();
    ci.facts.scopes = vec!["ci:*".into(), "deploy:staging".into(), "deploy:production".into()];
    ci.facts.expires_at = Some(ahead(540));
    ci.facts.labels = [("team".to_owned(), "web".to_owned())].into();
    ci.facts.max_uses = Some(100);
    ci.facts.uses_left = Some(99);
    ci.last_used = Some(LastUsed { at: ago(3), unit: None, uid: 1000, from: "192.0.2.7".parse().ok(), count: 1 });
    let mut lost = bare("01M844E0M8F1V8Q5AAAAAAAAAA", "laptop");
    lost.state = State::Revoked;
    lost.facts.revoked_at = Some(ago(7200));
    lost.facts.revoked_reason = Some("lost on a train".into());
    let mut bait = bare("01M844E0M8F1V8Q5ZZZZZZZZZZ", "名前\u{1b}[31m");
    bait.facts.kind = Kind::Canary;
    bait.state = State::Canary;
    bait.facts.expires_at = None;
    vec![backup, ci, lost, bait]
}

fn full() -> TokenInfo {
    let mut info = tokens().swap_remove(1);
    info.facts.audiences = vec!["gitea".into()];
    info.facts.not_before = Some(ago(60));
    info.facts.profile = Some("ci".into());
    info.facts.rate = Some(Rate { count: 100, per: Duration::from_secs(60) });
    info.facts.allow_from = vec!["192.0.2.0/24".into()];
    info.facts.allow_units = vec!["nginx.service".into()];
    info.facts.allow_uids = vec![33, 1000];
    info.facts.predecessor = Some("01M844DZG0FAY828T5CY4TQKFF".parse().unwrap());
    info.facts.successor = Some("01M844E0M8F1V8Q5AAAAAAAAAA".parse().unwrap());
    info.facts.revoked_at = Some(ago(1));
    info.facts.revoked_reason = Some("why".into());
    info
}

fn keys(json: &str) -> Vec<String> {
    // serde_json sorts keys when it reads; the order is taken from the text.
    let object: Map<String, Value> = serde_json::from_str(json).unwrap();
    let mut keys: Vec<String> = object.keys().cloned().collect();
    keys.sort_by_key(|key| json.find(&format!("\"{key}\":")).unwrap());
    keys
}

/// docs/json.md, "A token": all keys are always there, in this order.
#[test]
fn a_token_has_every_key() {
    for info in [bare("01M844DZG0FAY828T5CY4TQKFF", "x"), full()] {
        assert_eq!(keys(&json::token(&info)), KEYS);
        let active =
            Verdict { active: true, reason: None, missing_scopes: vec![], token: Some(Box::new(info.clone())) };
        assert_eq!(keys(&json::verdict(&active))[..3], ["active", "reason", "missing_scopes"]);
        assert_eq!(keys(&json::verdict(&active))[3..], KEYS);
        let issued = Issued { token: SecretText::new(TOKEN.into()), info };
        let text = String::from_utf8(json::issued(&issued).to_vec()).unwrap();
        let with_token: Vec<&str> = KEYS.into_iter().chain(["token"]).collect();
        assert_eq!(keys(&text), with_token);
        assert_eq!(text.lines().count(), 1);
    }
}

#[test]
fn values_have_the_documented_forms() {
    let value: Value = serde_json::from_str(&json::token(&full())).unwrap();
    for (key, expected) in [
        ("id", json!("01M844E0M8F1V8Q4ZC0T2W3K4N")),
        ("head", json!("brdm_01M844E0M8F1V8Q4ZC0T2W3K4N")),
        ("kind", json!("session")),
        ("state", json!("active")),
        ("issued_at", json!("2026-11-22T17:42:09.000000Z")),
        ("expires_at", json!("2026-11-23T17:51:09.000000Z")),
        ("ttl", json!("30d")),
        ("rate", json!("100/1m")),
        ("labels", json!({"team": "web"})),
        ("allow_uids", json!([33, 1000])),
        ("uses_left", json!(99)),
        (
            "last_used",
            json!({"at": "2026-11-23T17:42:06.000000Z", "unit": null, "uid": 1000, "from": "192.0.2.7", "count": 1}),
        ),
    ] {
        assert_eq!(value[key], expected, "{key}");
    }
    let value: Value = serde_json::from_str(&json::token(&bare("01M844DZG0FAY828T5CY4TQKFF", "x"))).unwrap();
    for key in ["not_before", "profile", "max_uses", "rate", "predecessor", "revoked_at", "last_used"] {
        assert_eq!(value[key], Value::Null, "{key}");
    }
    for key in ["scopes", "audiences", "allow_from", "allow_units", "allow_uids"] {
        assert_eq!(value[key], json!([]), "{key}");
    }
}

/// DESIGN: state reasons and facts go only to who showed the right secret.
#[test]
fn a_verdict_without_the_secret_has_three_keys() {
    let verdict = Verdict { active: false, reason: Some(Reason::Unknown), missing_scopes: vec![], token: None };
    assert_eq!(json::verdict(&verdict), r#"{"active":false,"reason":"unknown","missing_scopes":[]}"#);
}

#[test]
fn lists_and_changes_have_their_shape() {
    let mut listing = json::Listing::default();
    let pages = listing.page(&tokens()[..2]) + &listing.page(&[]) + &listing.page(&tokens()[2..]);
    let value: Value = serde_json::from_str(&(pages + &listing.end(None))).unwrap();
    assert_eq!(value["tokens"].as_array().unwrap().len(), 4);
    assert_eq!((value.as_object().unwrap().len(), &value["next"]), (2, &Value::Null));
    let id: TokenId = "01M844DZG0FAY828T5CY4TQKFF".parse().unwrap();
    assert_eq!(json::Listing::default().end(Some(id)), "{\"tokens\":[],\"next\":\"01M844DZG0FAY828T5CY4TQKFF\"}\n");
    let changed = Changed { count: 1, ids: vec![id], dry_run: false, still_good: vec![id] };
    assert_eq!(json::changed(&changed), r#"{"count":1,"ids":["01M844DZG0FAY828T5CY4TQKFF"],"dry_run":false}"#);
}

fn plain(text: &str) -> String {
    let text = resolve(text, false).into_owned();
    if std::env::var_os("SHOW").is_some() {
        eprintln!("{text}");
    }
    text
}

#[test]
fn a_list_at_80_columns() {
    assert_eq!(
        plain(&token::list(&tokens(), now(), Some(80))),
        "\
ID                 NAME                  STATE    ENDS      LAST USED  SUBJECT
01M844DZG0FAY828T  backup                active   in 29 d   3 min ago  backup
01M844E0M8F1V8Q4Z  ci runner of the we…  active   in 9 min  3 s ago    alice
01M844E0M8F1V8Q5A  laptop                revoked  2 h ago   never      laptop
01M844E0M8F1V8Q5Z  名前\\u{1b}[31m        canary   never     never      名前\\u{1…
"
    );
}

#[test]
fn a_list_at_200_columns() {
    assert_eq!(plain(&token::list(&tokens(), now(), Some(200))), "\
ID                          NAME                       STATE    ENDS      LAST USED  SUBJECT         SCOPES                                   KIND     THROUGH         USES LEFT  ISSUER  LABELS
01M844DZG0FAY828T5CY4TQKFF  backup                     active   in 29 d   3 min ago  backup          repo:read, repo:write                    machine  restic.service             root
01M844E0M8F1V8Q4ZC0T2W3K4N  ci runner of the web team  active   in 9 min  3 s ago    alice           ci:*, deploy:staging, deploy:production  session  uid 1000        99         alice   team=web
01M844E0M8F1V8Q5AAAAAAAAAA  laptop                     revoked  2 h ago   never      laptop          none                                     machine                             root
01M844E0M8F1V8Q5ZZZZZZZZZZ  名前\\u{1b}[31m             canary   never     never      名前\\u{1b}[31m  none                                     canary                              root
");
}

#[test]
fn no_table_is_wider_than_the_terminal() {
    for room in 40..=220 {
        let list = plain(&token::list(&tokens(), now(), Some(room)));
        let rows = audit::Rows::new(Some(room));
        let follow = plain(&(rows.header() + &AUDIT.map(|line| rows.row(line, now())).concat()));
        let lines = plain(&audit::table(&lines(), now(), Some(room)));
        let card = plain(&token::show(&full(), now(), Some(room)));
        // What stands above the card is one line, and a terminal may break it.
        let status = plain(&status::status(status_object(), now(), Some(room))).split_off(60);
        for text in [list, follow, lines, card, status] {
            let widest = text.lines().map(width).max().unwrap();
            assert!(widest <= room, "{widest} in {room}:\n{text}");
        }
    }
}

#[test]
fn ids_are_shortened_to_what_tells_them_apart() {
    // Two of one millisecond, alike in their first 20 characters.
    let twins = [bare("01M844E0M8F1V8Q5AAAAAAAAAA", "a"), bare("01M844E0M8F1V8Q5AAAAZZZZZZ", "b")];
    let text = plain(&token::list(&twins, now(), Some(59)));
    assert!(text.contains("01M844E0M8F1V8Q5AAAAA "), "{text}");
    assert!(text.contains("01M844E0M8F1V8Q5AAAAZ "), "{text}");
}

#[test]
fn a_card_says_all_that_is_there() {
    assert_eq!(
        plain(&token::show(&full(), now(), Some(80))),
        "\
id            01M844E0M8F1V8Q4ZC0T2W3K4N
head          brdm_01M844E0M8F1V8Q4ZC0T2W3K4N
name          ci runner of the web team
kind          session
state         active
subject       alice
scopes        ci:*, deploy:staging, deploy:production
issued        2026-11-22 17:42:09Z (24 h ago)
issued by     alice (uid 0)
profile       ci
good from     2026-11-23 17:41:09Z (1 min ago)
expires       2026-11-23 17:51:09Z (in 9 min)
renewable to  2027-11-23 17:42:09Z (in 365 d)
ttl           30d
audiences     gitea
only from     192.0.2.0/24
only units    nginx.service
only uids     33, 1000
uses left     99 of 100
rate          100/1m
labels        team=web
predecessor   01M844DZG0FAY828T5CY4TQKFF
successor     01M844E0M8F1V8Q5AAAAAAAAAA
revoked       2026-11-23 17:42:08Z (1 s ago)
reason        why
last used     2026-11-23 17:42:06Z (3 s ago)
used by       uid 1000, from 192.0.2.7; 1 use in all
"
    );
}

#[test]
fn a_new_token_is_described() {
    assert_eq!(
        plain(&token::issued(&tokens()[0], now(), Some(80))),
        "\
Shown this once, and kept nowhere: store it now.
id       01M844DZG0FAY828T5CY4TQKFF
name     backup
kind     machine
subject  backup
scopes   repo:read, repo:write
expires  2026-12-22 17:42:09Z (in 29 d)
"
    );
}

#[test]
fn verdicts_say_why() {
    let about = |info: TokenInfo, reason: Option<Reason>, missing: &[&str]| Verdict {
        active: reason.is_none(),
        reason,
        missing_scopes: missing.iter().map(ToString::to_string).collect(),
        token: Some(Box::new(info)),
    };
    let text = |verdict: &Verdict| plain(&token::verdict(verdict, now()));
    let [backup, ci, lost, _] = <[TokenInfo; 4]>::try_from(tokens()).unwrap();
    assert_eq!(
        text(&about(backup.clone(), None, &[])),
        "active: backup (01M844DZG0FAY828T5CY4TQKFF of backup), expires in 29 d\n"
    );
    assert_eq!(
        text(&about(ci, None, &[])),
        "active: ci runner of the web team (01M844E0M8F1V8Q4ZC0T2W3K4N of alice), expires in 9 min, 99 uses left\n"
    );
    assert_eq!(
        text(&about(backup, Some(Reason::InsufficientScope), &["repo:admin", "ci:run"])),
        "not active: insufficient_scope (missing repo:admin, ci:run)\n  backup (01M844DZG0FAY828T5CY4TQKFF of backup)\n"
    );
    assert_eq!(
        text(&about(lost, Some(Reason::Revoked), &[])),
        "not active: revoked (it was ended 2 h ago: lost on a train)\n  laptop (01M844E0M8F1V8Q5AAAAAAAAAA of laptop)\n"
    );
    for reason in Reason::ALL {
        let unseen = Verdict { active: false, reason: Some(reason), missing_scopes: vec![], token: None };
        assert!(text(&unseen).starts_with(&format!("not active: {} (", reason.name())));
    }
}

#[test]
fn a_revocation_says_what_it_did() {
    let ids: Vec<TokenId> = tokens().iter().map(|info| info.facts.id).collect();
    let changed = |count, ids: &[TokenId], dry_run| Changed { count, ids: ids.to_vec(), dry_run, still_good: vec![] };
    let text = |changed: &Changed, named| plain(&token::changed(changed, named, &token::REVOKED));
    assert_eq!(
        text(&changed(1, &ids[..1], false), 1),
        "Revoked 01M844DZG0FAY828T5CY4TQKFF. It is refused from now on.\n"
    );
    assert_eq!(
        text(&changed(2, &ids[..2], false), 3),
        "Revoked 2 tokens, refused from now on:\n  01M844DZG0FAY828T5CY4TQKFF\n  01M844E0M8F1V8Q4ZC0T2W3K4N\n1 was revoked \
         before already.\n"
    );
    assert_eq!(text(&changed(0, &[], false), 1), "Nothing changed: already revoked.\n");
    assert_eq!(text(&changed(0, &[], true), 1), "Nothing to revoke: already revoked.\n");
    assert_eq!(text(&changed(1, &ids[..1], true), 1), "Would revoke 1 token:\n  01M844DZG0FAY828T5CY4TQKFF\n");
    let family = Changed { still_good: ids[1..2].to_vec(), ..changed(1, &ids[..1], false) };
    assert!(text(&family, 1).ends_with("Still good, of the same family:\n  01M844E0M8F1V8Q4ZC0T2W3K4N\n"));
    let many = Changed { count: 5_000, ..changed(0, &vec![ids[0]; 1000], false) };
    assert!(text(&many, 1000).ends_with("  and 4,980 more\n"));
}

pub(in crate::ctl) const AUDIT: [&str; 6] = [
    r#"{"time":"2026-11-22T09:00:00.000001Z","seq":1,"event":"start","outcome":"done","reason":null,"id":null,"name":null,"subject":null,"kind":null,"scopes":null,"audience":null,"peer":null,"from":null,"from_asserted":null,"note":null,"count":1,"first":null,"last":null,"cached":null,"claimed_by":null,"generation":1,"mac":"00"}"#,
    r#"{"time":"2026-11-23T17:40:00.123456Z","seq":2,"event":"issue","outcome":"done","reason":null,"id":"01M844DZG0FAY828T5CY4TQKFF","name":"backup","subject":"backup","kind":"machine","scopes":["repo:read"],"audience":null,"peer":{"pid":1,"uid":0,"gid":0,"unit":"session-3.scope","container":null},"from":null,"from_asserted":null,"note":null,"count":1,"first":null,"last":null,"cached":null,"claimed_by":null,"generation":2,"mac":"00"}"#,
    r#"{"time":"2026-11-23T17:41:00.123456Z","seq":3,"event":"use","outcome":"active","reason":null,"id":"01M844DZG0FAY828T5CY4TQKFF","name":"backup","subject":"backup","kind":"machine","scopes":["repo:read"],"audience":null,"peer":{"pid":7,"uid":33,"gid":33,"unit":"nginx.service","container":null},"from":"192.0.2.7","from_asserted":true,"note":null,"count":1250,"first":null,"last":null,"cached":null,"claimed_by":null,"generation":2,"mac":"00"}"#,
    r#"{"time":"2026-11-23T17:41:30.000000Z","seq":4,"event":"use","outcome":"inactive","reason":"insufficient_scope","id":"01M844DZG0FAY828T5CY4TQKFF","name":"backup","subject":"backup","kind":"machine","scopes":["repo:admin"],"audience":null,"peer":{"pid":7,"uid":1000,"gid":33,"unit":null,"container":null},"from":"2001:db8::1","from_asserted":false,"note":"GET /admin","count":1,"first":null,"last":null,"cached":null,"claimed_by":null,"generation":2,"mac":"00"}"#,
    r#"{"time":"2026-11-23T17:42:00.000000Z","seq":5,"event":"revoke","outcome":"done","reason":"laptop lost on a train to somewhere, found by nobody yet","id":"01M844DZG0FAY828T5CY4TQKFF","name":"backup","subject":"backup","kind":"machine","scopes":null,"audience":null,"peer":{"pid":1,"uid":0,"gid":0,"unit":"session-3.scope","container":null},"from":null,"from_asserted":null,"note":null,"count":1,"first":null,"last":null,"cached":null,"claimed_by":null,"generation":3,"mac":"00"}"#,
    "no \u{1b}[2J JSON",
];

fn lines() -> Vec<String> {
    AUDIT.iter().map(ToString::to_string).collect()
}

#[test]
fn audit_lines_at_80_columns() {
    assert_eq!(
        plain(&audit::table(&lines(), now(), Some(80))),
        "\
TIME         EVENT            NAME    ID                THROUGH      REMARK
11-22 09:00  start
17:40:00     issue            backup  01M844DZG0FAY828  session-3.…
17:41:00     use active       backup  01M844DZG0FAY828  nginx.serv…  × 1,250
17:41:30     use insufficie…  backup  01M844DZG0FAY828  uid 1000     GET /admin
17:42:00     revoke           backup  01M844DZG0FAY828  session-3.…  laptop los…
no \\u{1b}[2J JSON
"
    );
}

#[test]
fn audit_lines_at_200_columns() {
    assert_eq!(plain(&audit::table(&lines(), now(), Some(200))), "\
TIME         EVENT                   NAME    ID                          THROUGH          FROM           SUBJECT  REMARK
11-22 09:00  start
17:40:00     issue                   backup  01M844DZG0FAY828T5CY4TQKFF  session-3.scope                 backup
17:41:00     use active              backup  01M844DZG0FAY828T5CY4TQKFF  nginx.service    192.0.2.7      backup   × 1,250
17:41:30     use insufficient_scope  backup  01M844DZG0FAY828T5CY4TQKFF  uid 1000         [2001:db8::1]  backup   GET /admin
17:42:00     revoke                  backup  01M844DZG0FAY828T5CY4TQKFF  session-3.scope                 backup   laptop lost on a train to somewhere, found by nobody yet
no \\u{1b}[2J JSON
");
}

#[test]
fn audit_lines_that_come_one_by_one() {
    let rows = audit::Rows::new(Some(120));
    assert_eq!(
        plain(&(rows.header() + &AUDIT.map(|line| rows.row(line, now())).concat())),
        "\
TIME         EVENT            NAME           ID                THROUGH        FROM           SUBJECT        REMARK
11-22 09:00  start
17:40:00     issue            backup         01M844DZG0FAY828  session-3.sc…                 backup
17:41:00     use active       backup         01M844DZG0FAY828  nginx.service  192.0.2.7      backup         × 1,250
17:41:30     use insufficie…  backup         01M844DZG0FAY828  uid 1000       [2001:db8::1]  backup         GET /admin
17:42:00     revoke           backup         01M844DZG0FAY828  session-3.sc…                 backup         laptop lost…
no \\u{1b}[2J JSON
"
    );
}

/// What a recovery or a gap counts are bytes and lines that are gone, not repetitions; its note says which.
#[test]
fn a_recovery_is_said_once() {
    let lines = [
        r#"{"time":"2026-11-23T17:40:00.000000Z","event":"recovered","outcome":"recovered","note":"14 bytes were cut off","count":14}"#,
        r#"{"time":"2026-11-23T17:41:00.000000Z","event":"gap","outcome":"missing","note":"2 lines are missing","count":2}"#,
        r#"{"time":"2026-11-23T17:42:00.000000Z","event":"flood","outcome":"dropped","note":"uid 7","count":1780}"#,
    ];
    assert_eq!(
        plain(&audit::table(&lines.map(str::to_owned), now(), Some(80))),
        "\
TIME      EVENT          REMARK
17:40:00  recovered      14 bytes were cut off
17:41:00  gap missing    2 lines are missing
17:42:00  flood dropped  × 1,780, uid 7
"
    );
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

pub(in crate::ctl) fn status_object() -> Map<String, Value> {
    object(json!({
        "version": "0.1.0", "pid": 712, "started_at": "2026-11-20T17:42:09.000000Z", "now": "2026-11-23T17:42:09.000000Z",
        "store": {"path": "/var/lib/bearerd/tokens.redb", "tokens": 12345, "generation": 8812, "bytes": 13631488,
                  "free_bytes": 4194304, "disk_free_bytes": 21474836480u64, "issue_ok": false},
        "key": {"slot": "1f2e3d4c5b6a7988", "kind": "file", "origin": "/var/lib/bearerd-key/master.key",
                "note": "a copy of this disk opens the store"},
        "audit": {"file": "/var/log/bearerd/audit.log", "writable": true, "issue_ok": false, "required": true, "seq": 99120, "lines": 99120,
                  "sealed_seq": 99118, "fault": "no space left on device",
                  "syslog": "/dev/log", "syslog_dropped": 3, "gaps": 1, "free_bytes": 3435973836u64},
        "clock": {"now": "2026-11-23T17:42:09.000000Z", "behind_secs": 7300, "synchronised": false, "unsettled": false},
        "caches": {"state": "open", "reported_uses": 1200},
        "connections": {"now": 12, "refused": 0, "queued": 4},
        "epoch": {"readers": 3},
        "warnings": ["clock: not synchronised"],
    }))
}

#[test]
fn status_at_80_columns() {
    assert_eq!(
        plain(&status::status(status_object(), now(), Some(80))),
        "\
bearerd 0.1.0, pid 712, up 3 d (since 2026-11-20 17:42:09Z)

store        /var/lib/bearerd/tokens.redb
             12,345 tokens, 13.0 MiB, 4.0 MiB free in it, 20.0 GiB on its disk,
             generation 8,812
             no room to issue tokens; revoking goes on: make room on its disk
key          file, /var/lib/bearerd-key/master.key, slot 1f2e3d4c5b6a7988
             a copy of this disk opens the store
audit        /var/log/bearerd/audit.log
             writable, required, 99,120 lines, newest seq 99120, sealed to
             99118, 3.2 GiB free
             no space left on device
             syslog /dev/log, 3 dropped messages, 1 gap
clock        2026-11-23 17:42:09Z, not synchronised
             the wall clock is 2 h behind it; once that is right: bearerctl
             clock reset
caches       clients may keep verdicts, 1,200 uses told of since the start
connections  12 now, 0 refused
             queued: 4

epoch
readers  3

1 warning
  clock: not synchronised
"
    );
}

#[test]
fn a_quiet_status_says_that_too() {
    let text = plain(&status::status(object(json!({"version": "0.1.0", "warnings": []})), now(), None));
    assert_eq!(text, "bearerd 0.1.0\n\n\nNo warnings.\n");
}

#[test]
fn a_whole_chain_and_a_broken_one() {
    let whole = json!({"ok": true, "lines": 12345, "first_bad": null, "missing_lines": 0, "segments": [], "first_seq": 7, "last_seq": 12351, "unsealed_lines": 5,
                       "sealed_seq": 12340, "files": ["/var/log/bearerd/audit.log.1", "/var/log/bearerd/audit.log"]});
    assert_eq!(
        plain(&status::verify(object(whole), now(), Some(80))),
        "\
intact: no line was removed, changed, swapped, inserted or cut off
checked  12,345 lines, seq 7 to 12351, 2 files
sealed   up to seq 12340, 5 lines since then
files    /var/log/bearerd/audit.log.1
         /var/log/bearerd/audit.log
"
    );
    // What is not there can't be called untouched.
    let partial = json!({"ok": true, "lines": 3, "first_bad": null, "missing_lines": 6, "segments": [
                         {"file": "/l/audit.log", "line": 1, "seq": 7, "event": "gap", "missing": 6, "note": "audit.log was absent"}],
                         "first_seq": 7, "last_seq": 9, "unsealed_lines": 0, "sealed_seq": 9, "files": 1});
    assert_eq!(
        plain(&status::verify(object(partial), now(), Some(80))),
        "\
intact as far as it goes: 6 lines are not in these files (see below)
checked  3 lines, seq 7 to 9, 1 file
sealed   up to seq 9

segments
EVENT  FILE          LINE  MISSING  NOTE                  SEQ
gap    /l/audit.log  1     6        audit.log was absent  7
"
    );
    let dropped = json!({"ok": true, "lines": 3, "missing_lines": 0, "segments": [
                         {"file": "/l/audit.log", "line": 2, "seq": 2, "event": "gap", "missing": 0, "note": "syslog dropped 2"}]});
    let text = plain(&status::verify(object(dropped), now(), None));
    assert!(text.starts_with("intact as far as it goes: the daemon says what is not in it (see below)\n"), "{text}");
    assert!(text.contains("syslog dropped 2"), "{text}");
    let broken = json!({"ok": false, "lines": 12345, "first_bad": {"file": "/var/log/bearerd/audit.log", "line": 17,
                        "seq": 16, "class": "changed", "detail": "the line's mac does not fit its bytes"},
                        "segments": [], "unsealed_lines": 0, "sealed_seq": 12345, "files": ["/var/log/bearerd/audit.log"]});
    assert_eq!(
        plain(&status::verify(object(broken), now(), Some(80))),
        "\
BROKEN at /var/log/bearerd/audit.log, line 17, seq 16: the line is not as it was written
the line's mac does not fit its bytes
checked  12,345 lines, 1 file
sealed   up to seq 12345
files    /var/log/bearerd/audit.log
"
    );
}

#[test]
fn json_of_unknown_shape_becomes_a_page() {
    let value = json!({"id": "01M844DZG0FAY828T5CY4TQKFF", "first": "2026-11-20T17:42:09.000000Z", "uses": 1250,
        "by": [{"unit": "nginx.service", "uid": 33, "from": ["192.0.2.7", "192.0.2.8"], "count": 1249},
               {"unit": null, "uid": 1000, "from": [], "count": 1, "last": "2026-11-23T17:42:06.000000Z"}],
        "refused": {"insufficient_scope": 3}, "nothing": null});
    assert_eq!(
        plain(&page::page(&object(value), now(), Some(80))),
        "\
first  2026-11-20 17:42:09Z (3 d ago)
id     01M844DZG0FAY828T5CY4TQKFF
uses   1,250

by
COUNT  FROM                  UID   UNIT           LAST
1,249  192.0.2.7, 192.0.2.8  33    nginx.service
1                            1000                 2026-11-23 17:42:06Z (3 s ago)

refused
insufficient scope  3
"
    );
}

#[test]
fn a_summary_says_who_used_it() {
    let rows = json!({"rows": [
        {"unit": "nginx.service", "uid": 33, "from": "192.0.2.7", "subject": "backup", "count": 1250, "active": 1249,
         "first": "2026-11-20T17:42:09.000000Z", "last": "2026-11-23T17:42:06.000000Z",
         "reasons": {"insufficient_scope": 1}},
        {"unit": null, "uid": 1000, "from": null, "subject": "backup", "count": 1, "active": 1,
         "first": "2026-11-22T17:42:09.000000Z", "last": "2026-11-22T17:42:09.000000Z", "reasons": {}}],
        "truncated": true});
    assert_eq!(
        plain(&audit::summary(object(rows), now(), Some(100))),
        "\
THROUGH        FROM       GOOD   REFUSED               FIRST     LAST      SUBJECT
nginx.service  192.0.2.7  1,249  1 insufficient_scope  3 d ago   3 s ago   backup
uid 1000                  1                            24 h ago  24 h ago  backup
There were more, which are not counted here.
"
    );
    assert_eq!(plain(&audit::summary(object(json!({"rows": [], "truncated": false})), now(), None)), "Never used.\n");
}
