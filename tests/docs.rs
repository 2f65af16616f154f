//! The documentation against the programs and the tree: what is named exists, and what exists is named.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn help(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).arg("--help").output().unwrap();
    assert!(output.status.success(), "{words:?} --help");
    String::from_utf8(output.stdout).unwrap()
}

/// The names in a section of `--help`, up to the next empty line at its end.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| line.starts_with("  "));
    // A name stands two columns in; what its description runs over into stands further in.
    let names = listed.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    names.map(str::to_owned).collect()
}

/// The options that a help text explains: what its lines begin with.
fn options(help: &str) -> Vec<String> {
    let mut found = Vec::new();
    // Prose stands at the margin, and what explains an option, with its possible values, further in.
    let listed = help.lines().filter(|line| line.starts_with("  -") || line.starts_with("      --"));
    for line in listed.map(str::trim_start) {
        let words = line.split([' ', ',', '=']).take_while(|word| word.is_empty() || word.starts_with(['-', '<']));
        found.extend(words.filter(|word| word.starts_with('-')).map(str::to_owned));
    }
    found
}

/// Whether a manual shows an option in code: `--scope SCOPE`, `-y`.
fn shows(manual: &str, option: &str) -> bool {
    [" ", "`"].iter().any(|after| manual.contains(&format!("`{option}{after}")))
}

#[test]
fn the_manual_has_every_verb_and_option_of_bearerctl() {
    let manual = read("docs/man/bearerctl.1.md");
    let mut queue = vec![Vec::<String>::new()];
    let (mut verbs, mut flags) = (0, 0);
    while let Some(words) = queue.pop() {
        let text = help(env!("CARGO_BIN_EXE_bearerctl"), &words.iter().map(String::as_str).collect::<Vec<_>>());
        for option in options(&text) {
            flags += 1;
            assert!(shows(&manual, &option), "{words:?} {option} is not in the manual");
        }
        for command in commands(&text) {
            if command == "help" {
                continue;
            }
            let verb = [words.clone(), vec![command]].concat();
            let heading = format!("\n### {}", verb.join(" "));
            let known = |end: &str| manual.contains(&format!("{heading}{end}"));
            // `clock` alone does nothing.
            assert!(known("\n") || known(" "), "{verb:?} is not in the manual");
            verbs += 1;
            queue.push(verb);
        }
    }
    // Help that can't be read would make this test empty.
    assert!(verbs >= 10 && flags >= 60, "{verbs} verbs, {flags} options found");
}

#[test]
fn the_manual_has_every_option_of_bearerd() {
    let manual = read("docs/man/bearerd.8.md");
    let text = help(env!("CARGO_BIN_EXE_bearerd"), &[]);
    let options = options(&text);
    assert!(options.len() >= 6, "{options:?}");
    for option in options {
        assert!(shows(&manual, &option), "{option} is not in the manual");
    }
    for command in commands(&text).iter().filter(|command| *command != "help") {
        assert!(manual.contains(&format!("bearerd {command}")), "{command} is not in the manual");
    }
}

#[test]
fn the_manual_has_every_key_of_the_configuration() {
    let manual = read("docs/man/bearerd.toml.5.md");
    let shipped = read("packaging/bearerd.toml");
    let mut keys = 0;
    for line in shipped.lines().filter_map(|line| line.strip_prefix('#')) {
        let line = line.strip_prefix("     ").unwrap_or(line);
        if line.starts_with('[') {
            let table = line.split('#').next().unwrap().trim().replace("[profile.ci]", "[profile.NAME]");
            assert!(manual.contains(&table), "{table} is not in the manual");
        } else if let Some((key, _)) = line.split_once(" = ")
            && key.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')
        {
            keys += 1;
            assert!(manual.contains(&format!("`{key}`")), "{key} is not in the manual");
        }
    }
    assert!(keys >= 40, "{keys} keys found");
}

/// Every document of the project, from the root and below docs/.
fn documents() -> Vec<PathBuf> {
    tracked().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The files of the project; without git (an unpacked archive) those that are there.
fn tracked() -> Vec<PathBuf> {
    let words = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
    match Command::new("git").args(words).current_dir(root()).output() {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            let names = String::from_utf8(output.stdout).unwrap();
            let names = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
            names.filter(|path| root().join(path).is_file()).collect()
        }
        _ => {
            let mut found = Vec::new();
            let mut dirs: Vec<PathBuf> =
                ["", "docs", "docs/man", "src", "tests", "systemd", "packaging"].map(PathBuf::from).into();
            while let Some(dir) = dirs.pop() {
                for entry in fs::read_dir(root().join(&dir)).into_iter().flatten().flatten() {
                    let path = dir.join(entry.file_name());
                    match entry.file_type() {
                        Ok(kind) if kind.is_file() => found.push(path),
                        Ok(kind) if kind.is_dir() && path.starts_with("src") => dirs.push(path),
                        _ => {}
                    }
                }
            }
            found
        }
    }
}

#[test]
fn links_lead_somewhere() {
    let mut followed = 0;
    for document in documents() {
        let text = read(&document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            if path.contains("://") {
                continue;
            }
            followed += 1;
            let target = match path {
                "" => document.clone(),
                _ => document.parent().unwrap().join(path),
            };
            assert!(root().join(&target).exists(), "{}: {link} leads nowhere", document.display());
            if !anchor.is_empty() {
                assert!(headings(&read(&target)).contains(anchor), "{}: no heading for {link}", document.display());
            }
        }
    }
    assert!(followed >= 15, "{followed} links found");
}

/// The anchors that a page gives to its headings.
fn headings(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
    };
    headings.map(anchor).collect()
}

/// `file: function` in the threat model and the incidents.
#[test]
fn tests_that_are_named_exist() {
    let mut named = 0;
    for document in ["docs/threat-model.md", "docs/incidents.md"] {
        let text = read(document);
        for (file, function) in text.split('`').filter_map(|code| code.split_once(".rs: ")) {
            named += 1;
            let source = read(format!("{file}.rs"));
            assert!(source.contains(&format!("fn {function}(")), "{document}: {file}.rs has no {function}");
        }
    }
    assert!(named >= 40, "{named} tests named");
}

/// Nothing points to where the project was built.
#[test]
fn the_project_stands_alone() {
    // Put together here, so that this file does not hold them.
    let foreign = [["/wor", "k/"], ["../sha", "red"], ["DESI", "GN.md"], ["far", "m-"]].map(|parts| parts.concat());
    let files = tracked();
    assert!(files.len() > 50, "{} files", files.len());
    for path in files {
        let Ok(bytes) = fs::read(root().join(&path)) else { continue };
        for word in &foreign {
            let found = bytes.windows(word.len()).any(|window| window == word.as_bytes());
            assert!(!found, "{} holds {word:?}", path.display());
        }
    }
}
