//! Whole files: defaults, drop-ins, what is refused and where it is said to stand.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

struct Etc(TempDir);

impl Etc {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn paths(&self) -> Paths {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        Paths { config: self.path("bearerd.toml"), ..Paths::system(uid, gid) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        let path = self.path(name);
        let parent = path.parent().unwrap();
        if !parent.is_dir() {
            fs::create_dir(parent).unwrap();
            self.mode(parent.file_name().unwrap().to_str().unwrap(), 0o755);
        }
        fs::write(&path, text).unwrap();
        self.mode(name, 0o644);
        self
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.paths(), None)
    }

    /// The message for one bad file.
    fn error(&self) -> String {
        let error = self.load().unwrap_err();
        assert!(!error.is_refusal(), "{error}");
        error.to_string()
    }
}

fn loaded(text: &str) -> Config {
    Etc::new().write("bearerd.toml", text).load().unwrap()
}

fn error_of(text: &str) -> String {
    Etc::new().write("bearerd.toml", text).error()
}

#[test]
fn without_a_file_everything_has_its_default() {
    let etc = Etc::new();
    assert_eq!(etc.load().unwrap(), Config::defaults(&etc.paths()));
    // But one that was asked for must be there.
    let error = Config::load(&etc.paths(), Some(&etc.path("other.toml"))).unwrap_err();
    assert!(error.to_string().contains("other.toml"), "{error}");
}

const SHIPPED: &str = include_str!("../../packaging/bearerd.toml");

#[test]
fn the_shipped_file_loads_and_is_all_defaults() {
    let etc = Etc::new();
    assert_eq!(etc.write("bearerd.toml", SHIPPED).load().unwrap(), Config::defaults(&etc.paths()));
}

#[test]
fn the_shipped_file_shows_every_key_with_its_default() {
    let setting = |line: &&str| line.starts_with('#') && line.as_bytes().get(1).is_some_and(|c| !b" -#".contains(c));
    let text: String = SHIPPED.lines().filter(setting).map(|line| format!("{}\n", &line[1..])).collect();
    let etc = Etc::new();
    let shown = etc.write("bearerd.toml", &text).load().unwrap();
    assert!(shown.remarks.iter().all(|remark| remark.text.contains("nothing uses it yet")), "{:?}", shown.remarks);
    assert_eq!(Config { remarks: Vec::new(), ..shown }, Config::defaults(&etc.paths()));
    // Every key: the text has as many as the tables have, so that none is left out of the manual.
    let keys = text.lines().filter(|line| line.contains(" = ")).count();
    assert_eq!(keys, 30, "keys in the shipped file");
}

#[test]
fn the_examples_of_the_shipped_file_load() {
    let text: String =
        SHIPPED.lines().filter_map(|line| line.strip_prefix("#     ")).map(|line| format!("{line}\n")).collect();
    // The table of peer's keys is indented as well, but it is prose.
    let text = &text[text.find("[[policy]]").unwrap()..];
    let config = loaded(text);
    assert_eq!((config.policy.len(), config.profiles.len(), config.credentials.len()), (3, 1, 1));
    // The one remark is of what the file itself says to be for later.
    assert!(matches!(&config.remarks[..], [only] if only.text.starts_with("[[credential]]")), "{:?}", config.remarks);
    assert_eq!(config.policy[2].profiles, ["ci"]);
    assert_eq!(config.profiles["ci"].labels["team"], "platform");
    assert_eq!(config.credentials[0].kind, Kind::Machine);
}

#[test]
fn values_are_read() {
    let config = loaded(
        r#"
        [tokens]
        prefix = "acme"
        issuer = "https://host.example"
        [tokens.session]
        default_ttl = "5m"
        [rotation]
        on_reuse = "revoke-family"
        [warnings]
        before = ["1d", "30d"]
        [store]
        cache_bytes = "1MiB"
        [time]
        unsynced = "refuse"
        [limits]
        issue_per_uid = "5/1s"
        [audit]
        coalesce = "0"
        syslog = ""
        "#,
    );
    assert_eq!(config.tokens.prefix.as_str(), "acme");
    assert_eq!(config.tokens.session.default_ttl, 5 * MINUTE);
    assert_eq!(config.tokens.session.max_ttl, 24 * HOUR);
    assert_eq!(config.rotation.on_reuse, OnReuse::RevokeFamily);
    assert_eq!(config.warnings, [30 * DAY, DAY]);
    assert_eq!(config.store.cache_bytes, 1 << 20);
    assert_eq!(config.unsynced, Unsynced::Refuse);
    assert_eq!(config.limits.issue_per_uid, Rate { count: 5, per: Duration::from_secs(1) });
    assert_eq!(config.audit.coalesce, Duration::ZERO);
    assert_eq!(config.audit.syslog, None);
}

#[test]
fn a_rule_is_read() {
    let config = loaded(
        r#"
        [[policy]]
        name = "all of it"
        peer = { user = "alice", group = 100, unit = "app@*.service", container = "docker-*" }
        allow = ["validate", "issue", "revoke:own"]
        subjects = ["@user", "ci-*"]
        kinds = ["session", "machine"]
        scopes = ["repo:*"]
        max_ttl = "8h"
        profiles = []
        assert_address = "x-forwarded-for"
        [[policy]]
        peer = "*"
        allow = ["validate"]
        [[policy]]
        peer = { tcp = true }
        allow = ["validate"]
        [[policy]]
        peer = { user = "1000", group = "*" }
        allow = ["status"]
        "#,
    );
    let rule = &config.policy[0];
    assert_eq!(rule.peer.user, Some(Principal::Name("alice".into())));
    assert_eq!(rule.peer.group, Some(Principal::Number(100)));
    assert_eq!(rule.allow[2], Allow { operation: Operation::Revoke, own: true });
    assert_eq!(rule.max_ttl, Some(8 * HOUR));
    assert_eq!(rule.assert_address, Some(AssertAddress::XForwardedFor));
    assert!(config.policy[1].peer.anyone);
    assert!(config.policy[1].name.ends_with("bearerd.toml:12"), "{}", config.policy[1].name);
    assert!(config.policy[2].peer.tcp);
    assert_eq!(config.policy[3].peer.user, Some(Principal::Number(1000)));
    assert_eq!(config.policy[3].peer.group, Some(Principal::Anyone));
}

#[test]
fn drop_ins_are_laid_over_in_the_order_of_their_names() {
    let etc = Etc::new();
    let rule = |name: &str| format!("[[policy]]\nname = \"{name}\"\npeer = \"*\"\nallow = [\"validate\"]\n");
    etc.write(
        "bearerd.toml",
        &format!("[tokens]\nprefix = \"one\"\n[tokens.session]\nmax_ttl = \"2h\"\n{}[profile.a]\nttl = \"1h\"\nscopes = [\"x\"]\n", rule("main")),
    )
    .write("conf.d/20-b.toml", &format!("[tokens]\nprefix = \"three\"\n{}", rule("twenty")))
    .write("conf.d/10-a.toml", &format!("[tokens]\nprefix = \"two\"\nissuer = \"i\"\n{}[profile.a]\nttl = \"2h\"\n", rule("ten")))
    .write("conf.d/.30-hidden.toml", "nonsense")
    .write("conf.d/30-editor.toml~", "nonsense");
    let config = etc.load().unwrap();
    assert_eq!(config.tokens.prefix.as_str(), "three");
    assert_eq!(config.tokens.issuer, "i");
    assert_eq!(config.tokens.session.max_ttl, 2 * HOUR);
    assert_eq!(config.policy.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>(), ["main", "ten", "twenty"]);
    // A profile is replaced whole: the scopes of the first are gone.
    assert_eq!(config.profiles["a"], Profile { ttl: Some(2 * HOUR), ..Profile::default() });

    // An error is said of the file that it stands in, also when it takes two to make it.
    etc.write("conf.d/30-c.toml", "\n[tokens.session]\ndefault_ttl = \"3h\"\n");
    let error = etc.error();
    assert!(error.contains("conf.d/30-c.toml:3: ") && error.contains("max_ttl (2h)"), "{error}");
}

/// Each text, the line that must be named, and what must be said.
#[test]
fn what_is_wrong_is_said_with_file_and_line() {
    let rule = |extra: &str| format!("[[policy]]\nname = \"r\"\npeer = \"*\"\nallow = [\"issue\"]\n{extra}\n");
    let cases: &[(&str, usize, &[&str])] = &[
        ("[token]\n", 1, &["unknown key `token`", "`tokens`"]),
        ("[tokens]\nprefix = \"brd\"\nprefx = \"a\"\n", 3, &["unknown key `prefx`", "`prefix`", "`issuer`"]),
        ("[tokens.session]\nttl = \"1h\"\n", 2, &["unknown key `ttl`", "`default_ttl`"]),
        ("\n[tokens]\nprefix = 5\n", 3, &["integer `5`", "expected a prefix"]),
        ("[tokens]\nprefix = \"1ab\"\n", 2, &["\"1ab\" is not a prefix"]),
        ("[tokens]\nissuer = \"a b\"\n", 2, &["is not an issuer"]),
        ("[rotation]\ngrace = \"5\"\n", 2, &["\"5\" is not a duration", "15m"]),
        ("[rotation]\ngrace = 5\n", 2, &["expected a duration in quotes"]),
        ("[rotation]\non_reuse = \"burn\"\n", 2, &["burn", "`alert`", "`revoke-family`"]),
        ("[store]\ncache_bytes = \"64MB\"\n", 2, &["\"64MB\" is not a size"]),
        ("[store]\ncache_bytes = \"1KiB\"\n", 2, &["at least 1MiB"]),
        ("[store]\npath = \"tokens.redb\"\n", 2, &["is not an absolute path"]),
        ("[socket]\nmax_connections = 0\n", 2, &["at least 1"]),
        ("[socket]\nmax_connections = \"many\"\n", 2, &["invalid type", "u32"]),
        ("[http]\npath = \"/run/bearerd/http.sock\"\n", 2, &["this version has no HTTP face yet"]),
        ("[credentials]\npath = \"/run/bearerd/c.sock\"\n", 2, &["this version has no credential socket yet"]),
        ("[limits]\nissue_per_uid = \"60\"\n", 2, &["is not a rate"]),
        ("[limits]\ntokens_per_uid = -1\n", 2, &["-1"]),
        ("[audit]\nrequired = \"yes\"\n", 2, &["invalid type", "boolean"]),
        ("[audit]\nmax_wait = \"0s\"\n", 2, &["longer than zero"]),
        ("[audit]\ncoalesce = \"2h\"\n", 2, &["at most 1h"]),
        ("[warnings]\nbefore = [\"7d\", \"0s\"]\n", 2, &["longer than zero"]),
        ("[tokens.machine]\nmax_ttl = \"400d\"\n", 2, &["max_ttl (400d) is longer than max_lifetime (366d)"]),
        ("[tokens.session]\ndefault_ttl = \"0s\"\n", 2, &["longer than zero"]),
        ("[audit]\nfile = \"/var/lib/bearerd/tokens.redb\"\n", 2, &["for two things"]),
        ("[tokens]\nprefix = \"a\n", 2, &[]),
        ("tokens = 5\n", 1, &["integer `5`, expected a table"]),
        ("[policy]\npeer = \"*\"\n", 1, &["expected a sequence"]),
        ("policy = [5]\n", 1, &["integer `5`, expected a table"]),
        (&rule("nmae = 1"), 5, &["unknown key `nmae`"]),
        (&rule("scopes = [\"repo:read\", \"Repo\"]"), 5, &["\"Repo\" is not a scope"]),
        (&rule("subjects = [\"@me\"]"), 5, &["\"@me\" is not a subject", "@user"]),
        (&rule("subjects = []"), 5, &["subjects is empty"]),
        (&rule("kinds = []"), 5, &["kinds is empty"]),
        (&rule("kinds = [\"robot\"]"), 5, &["robot", "`machine`"]),
        (&rule("max_ttl = \"0s\""), 5, &["longer than zero"]),
        (&rule("profiles = [\"ci\"]"), 5, &["there is no profile \"ci\"", "[profile.ci]"]),
        (&rule("assert_address = \"always\""), 5, &["always", "`x-forwarded-for`", "`yes`"]),
        ("[[policy]]\npeer = \"*\"\n", 1, &["missing key `allow`"]),
        ("[[policy]]\nallow = [\"issue\"]\n", 1, &["missing key `peer`"]),
        ("[[policy]]\npeer = \"*\"\nallow = []\n", 3, &["allows nothing"]),
        (
            "[[policy]]\npeer = \"*\"\nallow = [\"resume\"]\n",
            3,
            &["\"resume\" is not an operation", "goes with suspend"],
        ),
        ("[[policy]]\npeer = \"*\"\nallow = [\"issue:own\"]\n", 3, &["\":own\" has a meaning only with show"]),
        ("[[policy]]\npeer = \"alice\"\nallow = [\"issue\"]\n", 2, &["{ user = \"alice\" }"]),
        ("[[policy]]\npeer = {}\nallow = [\"issue\"]\n", 2, &["peer names nobody"]),
        ("[[policy]]\npeer = { tcp = false }\nallow = [\"issue\"]\n", 2, &["peer names nobody"]),
        ("[[policy]]\npeer = { tcp = true, user = \"a\" }\nallow = [\"issue\"]\n", 2, &["tcp = true stands alone"]),
        ("[[policy]]\npeer = { uid = 5 }\nallow = [\"issue\"]\n", 2, &["unknown key `uid`", "`user`"]),
        ("[[policy]]\npeer = { user = -1 }\nallow = [\"issue\"]\n", 2, &["-1 is not the number"]),
        ("[[policy]]\npeer = { user = 65534 }\nallow = [\"issue\"]\n", 2, &["uid 65534"]),
        ("[[policy]]\npeer = { user = \"a*\" }\nallow = [\"issue\"]\n", 2, &["\"a*\" is not the name"]),
        ("[profile.\"a b\"]\nttl = \"1h\"\n", 1, &["is not the name of a profile"]),
        ("[profile.a]\nttl = \"400d\"\n", 2, &["at most 366d"]),
        ("[profile.a]\nkind = \"session\"\nttl = \"2d\"\n", 3, &["at most 1d"]),
        ("[profile.a]\nkind = \"canary\"\nttl = \"2d\"\n", 3, &["a canary does not expire"]),
        ("[profile.a]\nlabels = { a = 1 }\n", 2, &["expected a string"]),
        ("[profile.a]\nlabels = { \"\" = \"x\" }\n", 2, &["is not a key"]),
        ("[[credential]]\nunit = \"a.service\"\n", 1, &["missing key `credential`"]),
        (
            "[[credential]]\nunit = \"a.service\"\ncredential = \"t\"\nprofile = \"p\"\n",
            4,
            &["there is no profile \"p\""],
        ),
    ];
    for (text, line, parts) in cases {
        let error = error_of(text);
        assert!(error.contains(&format!("/bearerd.toml:{line}: ")), "line {line} of {text:?}: {error}");
        for part in *parts {
            assert!(error.contains(part), "{part:?} for {text:?}: {error}");
        }
        assert_eq!(error.lines().count(), 1, "one line each: {error}");
    }
}

#[test]
fn every_problem_that_values_make_together_is_told() {
    let error = error_of("[http]\npath = \"/h\"\n[audit]\nmax_wait = \"1h\"\n[socket]\nmax_connections = 0\n");
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
fn not_utf8_and_not_a_file_are_errors() {
    let etc = Etc::new();
    etc.write("bearerd.toml", "");
    fs::write(etc.path("bearerd.toml"), b"# fine\n# \xff\n").unwrap();
    assert!(etc.error().contains("bearerd.toml:2: it is not UTF-8"));
    fs::remove_file(etc.path("bearerd.toml")).unwrap();
    nix::unistd::mkfifo(&etc.path("bearerd.toml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(etc.error().contains("not a regular file"));
}

#[test]
fn files_that_others_can_write_are_refused() {
    let etc = Etc::new();
    etc.write("bearerd.toml", "").write("conf.d/a.toml", "");
    assert!(etc.load().is_ok());
    for (name, mode) in [("bearerd.toml", 0o664), ("conf.d/a.toml", 0o646), ("conf.d", 0o775), (".", 0o777)] {
        let before = fs::metadata(etc.path(name)).unwrap().permissions();
        etc.mode(name, mode);
        let error = etc.load().unwrap_err();
        assert!(error.is_refusal(), "{name} {mode:o}: {error}");
        assert!(error.to_string().contains(&format!("{mode:04o}")), "{error}");
        assert!(error.to_string().contains("chmod go-w"), "{error}");
        fs::set_permissions(etc.path(name), before).unwrap();
    }
    assert!(etc.load().is_ok());
}

#[test]
fn files_of_others_are_refused() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let etc = Etc::new();
    etc.write("bearerd.toml", "");
    std::os::unix::fs::chown(etc.path("bearerd.toml"), Some(4242), None).unwrap();
    let error = etc.load().unwrap_err();
    assert!(error.is_refusal() && error.to_string().contains("uid 4242"), "{error}");
    // The daemon's own user may own them.
    assert!(Config::load(&Paths { uid: 4242, ..etc.paths() }, None).is_ok());
}

#[test]
fn a_users_own_group_may_write_the_users_files() {
    let etc = Etc::new();
    etc.write("bearerd.toml", "");
    etc.mode("bearerd.toml", 0o664);
    let paths = Paths { mode: Mode::User, ..etc.paths() };
    assert!(Config::load(&paths, None).is_ok());
    assert!(Config::load(&Paths { gid: paths.gid + 1, ..paths }, None).unwrap_err().is_refusal());
}

#[test]
fn what_has_no_effect_is_remarked() {
    let config = loaded(
        "[[policy]]\nname = \"r\"\npeer = \"*\"\nallow = [\"revoke\"]\nsubjects = [\"ci-*\"]\nassert_address = \"yes\"\n",
    );
    let remarks: Vec<String> = config.remarks.iter().map(ToString::to_string).collect();
    assert_eq!(remarks.len(), 2, "{remarks:?}");
    assert!(remarks[0].contains("bearerd.toml:5: subjects bounds only what may be issued"), "{remarks:?}");
    let config = loaded("[store]\npath = \"/x/tokens.redb\"\n[keys]\nfile = \"/x/master.key\"\n");
    assert!(config.remarks[0].text.contains("beside the store"));
}

/// What is accepted for a later version must not be counted on in this one.
#[test]
fn what_nothing_uses_yet_is_remarked_where_it_is_set() {
    let config = loaded(
        "[rotation]\ngrace = \"5m\"\noverlap = \"7d\"\n\
         [tokens]\nissuer = \"https://x.example\"\n\
         [[credential]]\nunit = \"a.service\"\ncredential = \"t\"\n",
    );
    let told: Vec<String> = config.remarks.iter().map(ToString::to_string).collect();
    for (line, key) in [(5, "[tokens] issuer"), (6, "[[credential]]")] {
        let text = format!("bearerd.toml:{line}: {key} is set, and in this version nothing uses it yet");
        assert!(told.iter().any(|remark| remark.ends_with(&text)), "{text} is not in {told:?}");
    }
    assert_eq!(told.len(), 2, "{told:?}");
}

#[test]
fn a_reload_tells_what_needs_a_restart() {
    let old = loaded("");
    let new = loaded("[store]\npath = \"/x/tokens.redb\"\nretention = \"1d\"\n[socket]\nmax_connections = 5\n");
    assert_eq!(old.needs_restart(&new), ["[store] path", "[socket] max_connections"]);
}
