use std::time::Duration;

use super::*;
use crate::protocol::filter::{Condition, Filter};
use crate::protocol::message::{Rate, State};
use crate::token::Kind;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    // Quotes are not needed by any of these lines.
    Cli::try_parse_from(std::iter::once("bearerctl").chain(line.split_whitespace()))
}

fn command_of(line: &str) -> Command {
    parse(line).unwrap_or_else(|error| panic!("{line}: {error}")).command
}

/// DESIGN: the command line that other programs are written against.
#[test]
fn the_contracts_lines_parse() {
    for line in [
        "issue backup",
        "issue ci --kind session --profile ci --subject s --scope a:b --scope c:* --audience x --audience y --ttl 30d",
        "issue x --not-before 2026-11-23T17:00:00Z --max-uses 3 --rate 100/1m --allow-from 10.0.0.0/8 --allow-from ::1/128",
        "issue x --allow-unit nginx.service --allow-unit a@b.scope --allow-uid 0 --allow-uid 1000 --label k=v --label e=",
        "issue x --kind canary --not-before -2h",
        "validate",
        "validate --scope a --scope b:c --audience x --from 192.0.2.7 --note hello --peek --token-file f",
        "validate --from ::1 --token-file -",
        "show 01M844DZG0FAY828T5CY4TQKFF",
        "show 01M8",
        "show brdm_01M844DZG0FAY828T5CY4TQKFF",
        "list",
        "list --subject s --issuer i --name n --label k --scope a --kind machine --profile p --state active",
        "list --expiring-within 30d --unused-for 90d --limit 10 --after 01M844DZG0FAY828T5CY4TQKFF",
        "revoke 01M844DZG0FAY828T5CY4TQKFF 01M844DZG0FA --reason lost --dry-run --yes",
        "revoke --token-file f --reason lost",
        "edit 01M844DZG0FAY828 --name n --label k=v --unlabel x --allow-from 10.0.0.0/8 --allow-unit a.service --allow-uid 7",
        "edit 01M844DZG0FAY828 --allow-from-any --allow-unit-any --allow-uid-any --scope a --drop-scope b:* --ttl 2d",
        "edit 01M844DZG0FAY828 --expires +2h",
        "renew 01M844DZG0FAY828",
        "rotate 01M844DZG0FAY828",
        "rotate brdm_01M844DZG0FAY828T5CY4TQKFF --now",
        "rotate 01M844DZG0FAY828 --grace 1h",
        "suspend 01M844DZG0FAY828T5CY4TQKFF 01M844DZG0FA --reason odd --dry-run",
        "resume 01M844DZG0FAY828T5CY4TQKFF --reason fine",
        "audit",
        "audit --token 01M844DZG0FAY828T5CY4TQKFF --subject s --unit u.service --uid 0 --event use --since -2h --until -1h",
        "audit --follow --since -2h",
        "audit --token 01M8 --summary",
        "audit verify",
        "watch",
        "watch --since 0 --event issue --event expire --token 01M8 --subject s --limit 1",
        "status",
        "clock reset",
        "completions bash",
        "--socket /tmp/s --json --quiet status",
        "status --socket /tmp/s --json --quiet",
        "audit verify --json",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn what_the_contract_excludes_is_refused() {
    for line in [
        "issue",
        "issue a b",
        "issue a --kind robot",
        "issue a --ttl 30",
        "issue a --ttl 1mo",
        "issue a --scope A",
        "issue a --scope a:*:b",
        "issue a --max-uses 0",
        "issue a --rate 100",
        "issue a --rate 0/1m",
        "issue a --rate 1/0s",
        "issue a --rate 1/m",
        "issue a --allow-from 10.0.0.0/33",
        "issue a --allow-from example.org",
        "issue a --allow-uid root",
        "issue a --label k",
        "issue a --label =v",
        "validate token",
        "validate --scope a:*",
        "validate --scope *",
        "validate --from example.org",
        "show",
        "show a b",
        "show 01m844dzg0fay828t5cy4tqkff",
        "show 01M844DZG0FAY828T5CY4TQKFFX",
        "show L1M8",
        "show 91M8",
        "show brdm_",
        "revoke 01M844DZG0F",
        "revoke brdm_01M844DZG0F",
        "revoke 01M844DZG0FAY828T5CY4TQKFF --token-file f",
        "list --state good",
        "list --limit 0",
        "list --after 01M844DZG0FAY828",
        "audit --summary",
        "audit --event nothing",
        "audit --follow --until -1h",
        "audit --since yesterday",
        "audit --token 01M8 verify",
        "watch --since -1h",
        "watch --limit 0",
        "watch --event nothing",
        "clock",
        "clock set",
        "completions tcsh",
        "edit 01M844DZG0FAY828",
        "edit 01M844DZG0F --name x",
        "edit --name x",
        "edit 01M844DZG0FAY828 --allow-from 10.0.0.0/8 --allow-from-any",
        "edit 01M844DZG0FAY828 --allow-uid 1 --allow-uid-any",
        "edit 01M844DZG0FAY828 --ttl 2d --expires +2h",
        "edit 01M844DZG0FAY828 --scope A",
        "renew",
        "renew 01M844DZG0F",
        "renew 01M844DZG0FAY828 01M844E0M8F1V8Q4",
        "rotate",
        "rotate 01M844DZG0F",
        "rotate 01M844DZG0FAY828 --now --grace 1h",
        "suspend 01M844DZG0F",
        "revoke 01M844DZG0FAY828T5CY4TQKFF --subject x",
        "revoke --all --subject x",
        "suspend 01M844DZG0FAY828T5CY4TQKFF --all",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn issue_becomes_its_request() {
    let Command::Issue(args) = command_of(
        "issue ci --kind session --subject s --scope b --scope a:* --audience x --ttl 15m --not-before \
         2026-11-23T17:00:00Z --max-uses 5 --rate 100/1m --allow-from 192.0.2.7 --allow-from 10.0.0.0/8 --allow-from ::1 \
         --allow-unit u.service --allow-uid 7 --label k=v=w --profile p",
    ) else {
        panic!("not issue")
    };
    let request = args.request().unwrap();
    assert_eq!((request.name.as_str(), request.kind), ("ci", Some(Kind::Session)));
    assert_eq!((request.subject.as_deref(), request.profile.as_deref()), (Some("s"), Some("p")));
    assert_eq!(request.scopes, ["b", "a:*"]);
    assert_eq!(request.audiences, ["x"]);
    assert_eq!(request.ttl, Some(Duration::from_secs(900)));
    assert_eq!(request.not_before.unwrap().to_string(), "2026-11-23T17:00:00.000000Z");
    assert_eq!((request.max_uses, request.rate), (Some(5), Some(Rate { count: 100, per: Duration::from_secs(60) })));
    assert_eq!(request.allow_from, ["192.0.2.7/32", "10.0.0.0/8", "::1/128"]);
    assert_eq!((request.allow_units, request.allow_uids), (vec!["u.service".to_owned()], vec![7]));
    assert_eq!(request.labels.into_iter().collect::<Vec<_>>(), [("k".to_owned(), "v=w".to_owned())]);
    let Command::Issue(bare) = command_of("issue ci") else { panic!("not issue") };
    assert_eq!(bare.request().unwrap(), crate::protocol::message::Issue { name: "ci".into(), ..Default::default() });
    let Command::Issue(twice) = command_of("issue ci --label k=1 --label k=2") else { panic!("not issue") };
    assert!(twice.request().is_err());
}

#[test]
fn list_and_audit_become_their_requests() {
    let Command::List(args) = command_of("list --label k=v --kind canary --state not_yet_valid --unused-for 90d")
    else {
        panic!("not list")
    };
    let conditions = [
        Condition::Label("k=v".into()),
        Condition::Kind(Kind::Canary),
        Condition::State(State::NotYetValid),
        Condition::UnusedFor(Duration::from_secs(90 * 86_400)),
    ];
    assert_eq!(args.filter.filter(), Filter(conditions.to_vec()));
    let before = crate::time::wall_now();
    let Command::Audit(args) = command_of("audit --since -2h --uid 1000 --event use") else { panic!("not audit") };
    let query = args.query();
    assert_eq!((query.uid, query.event.as_deref()), (Some(1000), Some("use")));
    let age = before.since(query.since.unwrap()).as_secs();
    assert!((7_195..=7_200).contains(&age), "{age}");
}

#[test]
fn handles_are_taken_as_list_shows_them() {
    let shown = |line: &str| match command_of(line) {
        Command::Show(args) => args.id.0,
        _ => panic!("not show"),
    };
    assert_eq!(shown("show 01M844DZG0FAY828T5CY4TQKFF"), "01M844DZG0FAY828T5CY4TQKFF");
    assert_eq!(shown("show brdm_01M844DZG0FAY828T5CY4TQKFF"), "brdm_01M844DZG0FAY828T5CY4TQKFF");
    assert_eq!(shown("show brdm_01M844DZG0FAY828"), "01M844DZG0FAY828", "a head that was cut short");
}

/// Completions and manual pages are made from it: clap checks that it is sound.
#[test]
fn the_command_is_sound_and_says_how_to_use_it() {
    let mut command = command();
    command.build();
    command.clone().debug_assert();
    for sub in command.get_subcommands() {
        let name = sub.get_name();
        assert!(sub.get_about().is_some(), "{name} says what it is");
        for arg in sub.get_arguments() {
            assert!(arg.get_help().is_some(), "{name} {} says what it is", arg.get_id());
        }
        if !matches!(name, "status" | "clock" | "help") {
            assert!(sub.get_after_help().is_some(), "{name} has an example");
        }
    }
}

/// An argument is never repeated by our own messages: it may be a credential.
#[test]
fn messages_of_values_repeat_nothing() {
    for error in [
        values::handle("s3cr3t").unwrap_err().to_string(),
        values::rate("s3cr3t").unwrap_err().to_string(),
        values::label("s3cr3t").unwrap_err().to_string(),
        values::network("s3cr3t").unwrap_err().to_string(),
        values::duration("s3cr3t").unwrap_err().to_string(),
        values::time("s3cr3t").unwrap_err().to_string(),
        values::required_scope("S3CR3T").unwrap_err().to_string(),
    ] {
        assert!(!error.to_ascii_lowercase().contains("s3cr3t"), "{error}");
    }
}
