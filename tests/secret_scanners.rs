//! The rules in contrib/ for other programs that look for secrets: they find real tokens, and not what looks like them.
//!
//! The dialects are RE2 (gitleaks) and Hyperscan (GitHub); what these rules use means the same in the `regex` crate, with
//! ASCII word boundaries. No look-around and no back-reference is in either.

use std::fs;
use std::path::Path;

use bearerd::time::wall_now;
use bearerd::token::{IdSource, Kind, Token, new_secret};
use regex::bytes::{Regex, RegexBuilder};

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn compile(pattern: &str) -> Regex {
    RegexBuilder::new(pattern).unicode(false).build().unwrap()
}

/// The token is in the first group.
struct Rule {
    name: &'static str,
    regex: Regex,
    keywords: Vec<String>,
}

impl Rule {
    fn found<'a>(&self, text: &'a str) -> Vec<&'a str> {
        // gitleaks looks only where one of the keywords is, in whatever case.
        let lower = text.to_lowercase();
        if !self.keywords.is_empty() && !self.keywords.iter().any(|word| lower.contains(word)) {
            return Vec::new();
        }
        let all = self.regex.captures_iter(text.as_bytes());
        all.map(|found| found.get(1).expect("every match has it").range()).map(|range| &text[range]).collect()
    }
}

fn gitleaks() -> Rule {
    let config: toml::Table = read("contrib/gitleaks.toml").parse().unwrap();
    let rules = config["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 1);
    let rule = &rules[0];
    assert_eq!(rule["secretGroup"].as_integer(), Some(1));
    let keywords: Vec<String> =
        rule["keywords"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect();
    assert!(keywords.iter().all(|word| *word == word.to_lowercase()), "they are compared with text in lower case");
    Rule { name: "gitleaks", regex: compile(rule["regex"].as_str().unwrap()), keywords }
}

/// The line below `key: |`.
fn block(yaml: &str, key: &str) -> String {
    let mut lines = yaml.lines().skip_while(|line| line.trim() != format!("{key}: |"));
    lines.nth(1).unwrap_or_else(|| panic!("no {key}")).trim().to_owned()
}

fn github() -> Rule {
    let yaml = read("contrib/github-secret-scanning.yml");
    let part = |key| block(&yaml, key);
    let regex = compile(&format!("(?:{})({})(?:{})", part("start"), part("pattern"), part("end")));
    Rule { name: "github", regex, keywords: Vec::new() }
}

fn real_tokens() -> Vec<String> {
    let ids = IdSource::default();
    let mut tokens = Vec::new();
    for (prefix, kind) in [("brd", Kind::Machine), ("ab", Kind::Session), ("z2345678", Kind::Canary)] {
        for _ in 0..200 {
            let token = Token { prefix: prefix.parse().unwrap(), kind, id: ids.next(wall_now()), secret: new_secret() };
            tokens.push(token.reveal().to_string());
        }
    }
    let vectors = read("tests/vectors/tokens.tsv");
    tokens.extend(vectors.lines().filter_map(|line| line.strip_suffix("\tok")).map(str::to_owned));
    tokens
}

const VECTOR: &str = "brdm_01M844DZG0FAY828T5CY4TQKFF_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf2b9MjO";

#[test]
fn real_tokens_are_found_where_people_leave_them() {
    for rule in [gitleaks(), github()] {
        for token in real_tokens() {
            // An id of all sevens is past the year 3084, and past the keywords.
            if token.contains("_7ZZZZ") && !rule.keywords.is_empty() {
                continue;
            }
            for around in [
                "{}",
                "TOKEN={}",
                "token: \"{}\",",
                "curl -H 'Authorization: Bearer {}' https://host/",
                "https://ci:{}@host/repo.git",
                "+    api_key = '{}'\r\n",
                "<t>{}</t>",
                "backup_{}_old",
            ] {
                let text = around.replace("{}", &token);
                assert_eq!(rule.found(&text), [token.as_str()], "{}: {text}", rule.name);
            }
        }
        let two = format!("A={VECTOR}\nB={VECTOR}\n");
        assert_eq!(rule.found(&two).len(), 2, "{}", rule.name);
    }
}

#[test]
fn what_only_looks_like_a_token_is_not_found() {
    let id = "01M844DZG0FAY828T5CY4TQKFF";
    let secret = &VECTOR[32..];
    let look_alikes = [
        id.to_owned(),
        format!("brdm_{id}"),
        format!("brdm_{id}_…"),
        format!("brdm-{id}-{secret}"),
        format!("brdx_{id}_{secret}"),
        format!("brdm_8{}_{secret}", &id[1..]),
        format!("brdm_{}_{secret}", id.to_lowercase()),
        format!("brdm_{}_{secret}", id.replace("M8", "I8")),
        format!("brdm_{id}_{}", &secret[1..]),
        format!("brdm_{id}_{secret}0"),
        format!("brdm_{id}0_{secret}"),
        format!("am_{id}_{secret}"),
        format!("abcdefghim_{id}_{secret}"),
        format!("Brdm_{id}_{secret}"),
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a".to_owned(),
        "xoxb-000000000000-0000000000000-AAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
        "sha256_2CF24DBA5FB0A30E26E83B2AC5B9E29E1B161E5C1FA7425E73043362938B9824".to_owned(),
        "01a20846-fe00-7abc-8123-456789abcdef".to_owned(),
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U".to_owned(),
        "for (item_0 in items_01) { program_0_of_a_very_long_name_of_a_function_with_underscores(); }".to_owned(),
        "A_".repeat(100),
    ];
    for rule in [gitleaks(), github()] {
        for text in &look_alikes {
            assert_eq!(rule.found(text), [""; 0], "{}: {text}", rule.name);
        }
        // Vectors that are wrong in their front: nothing of them has the form.
        for line in read("tests/vectors/tokens.tsv").lines() {
            if let Some((text, "kind" | "id")) = line.rsplit_once('\t') {
                assert_eq!(rule.found(text), [""; 0], "{}: {text}", rule.name);
            }
        }
    }
}

/// What the pages in contrib/ say that a regular expression can't do.
#[test]
fn check_characters_are_beyond_a_regular_expression() {
    let wrong = VECTOR.replace("MjO", "MjP");
    assert!(Token::parse(&wrong).is_err());
    for rule in [gitleaks(), github()] {
        assert_eq!(rule.found(&wrong), [wrong.as_str()], "{}", rule.name);
    }
}

#[test]
fn the_sample_of_the_github_pattern_is_what_it_says() {
    let yaml = read("contrib/github-secret-scanning.yml");
    assert_eq!(block(&yaml, "data"), VECTOR);
    assert!(yaml.contains("start_offset: 0") && yaml.contains(&format!("end_offset: {}", VECTOR.len())));
}
