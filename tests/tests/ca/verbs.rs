//! The verbs of `mintage-ca` and `mintage-agent`, read from the programs' own help: none without a row here, each that
//! changes something with `--dry-run`, each that prints data in every format. Those of `mintage` are held beside its
//! command tree.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Output},
};

use mintage_tests::kit::{agent, bins::binary, ca};
use serde_json::Value;

/// What a verb does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// It changes nothing and prints data.
    Reads,
    /// It looks at what is there, and its exit code is what it found; its own tests call it.
    Looks,
    /// It makes something new, once; rehearsed by `--dry-run`.
    Changes,
    /// It changes a file of a data directory that is there; rehearsed by `--dry-run`.
    Renews,
    /// It serves until it is stopped; `validate` is its rehearsal, and what it says goes into the log.
    Serves,
    /// It prints a script for a shell.
    Script,
}

use Does::{Changes, Looks, Reads, Renews, Script, Serves};

/// Every verb, and words to call it with; `DIR` is the test's own folder, `%` is 0, 1 and 2 for the three formats.
const VERBS: [(&str, &str, Does, &str); 12] = [
    ("mintage-ca", "completions", Script, ""),
    (
        "mintage-ca",
        "init",
        Changes,
        "--trust-domain dev.test --data-dir DIR/new%",
    ),
    ("mintage-ca", "renew-root-crl", Renews, "--data-dir DIR/ca"),
    (
        "mintage-ca",
        "restore",
        Changes,
        "--from DIR/ca --data-dir DIR/restored%",
    ),
    ("mintage-ca", "serve", Serves, ""),
    ("mintage-ca", "validate", Reads, "--data-dir DIR/ca"),
    ("mintage-ca", "version", Reads, ""),
    ("mintage-agent", "completions", Script, ""),
    ("mintage-agent", "doctor", Looks, ""),
    ("mintage-agent", "run", Serves, ""),
    ("mintage-agent", "validate", Reads, "--config DIR/agent.toml"),
    ("mintage-agent", "version", Reads, ""),
];

fn run(program: &str, words: &[&str]) -> Output {
    let mut command = Command::new(binary(program));
    command.env_remove("MINTAGE_FORMAT").env_remove("CREDENTIALS_DIRECTORY");
    command.args(words).output().unwrap()
}

/// What a successful run printed on standard output.
fn printed(program: &str, words: &[&str]) -> String {
    let output = run(program, words);
    assert_eq!(output.status.code(), Some(0), "{program} {words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The verbs of a program's help.
fn verbs(program: &str) -> BTreeSet<String> {
    let help = printed(program, &["--help"]);
    let (_, commands) = help.split_once("Commands:\n").expect("a list of commands");
    let lines = commands.lines().take_while(|line| line.starts_with("  "));
    let named = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    named.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[test]
fn every_verb_has_its_row_and_the_options_of_its_kind() {
    for program in ["mintage-ca", "mintage-agent"] {
        let rows = VERBS.iter().filter(|(of, ..)| *of == program);
        let listed: BTreeSet<String> = rows.map(|(_, verb, ..)| (*verb).to_owned()).collect();
        assert_eq!(verbs(program), listed, "{program}: say in VERBS what a new verb does");
    }
    for (program, verb, does, _) in VERBS {
        let help = printed(program, &[verb, "--help"]);
        assert_eq!(
            help.contains("--dry-run"),
            matches!(does, Changes | Renews),
            "{program} {verb}"
        );
        assert_eq!(
            help.contains("--output"),
            matches!(does, Reads | Looks | Changes | Renews),
            "{program} {verb}"
        );
    }
}

#[test]
fn every_verb_that_prints_data_prints_it_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    ca::make(&folder.path().join("ca"));
    agent::config(folder.path(), &["web"]);
    let calls = VERBS
        .iter()
        .filter(|(_, _, does, _)| matches!(does, Reads | Changes | Renews));
    for (program, verb, does, words) in calls {
        for (n, format) in ["table", "json", "jsonl"].into_iter().enumerate() {
            let words = words.replace("DIR", folder.path().to_str().unwrap());
            let words = words.replace('%', &n.to_string());
            let line: Vec<&str> = [*verb].into_iter().chain(words.split_whitespace()).collect();
            let line = [&line[..], &["-o", format]].concat();
            if *does == Changes {
                let told = held(program, &[&line[..], &["--dry-run"]].concat(), format);
                assert!(told.is_none_or(|value| value["dry_run"] == true));
                let at = line.iter().position(|word| *word == "--data-dir").unwrap();
                let new = Path::new(line[at + 1]);
                assert!(!new.exists(), "{program} {verb} --dry-run made something");
                held(program, &line, format);
                assert!(new.exists(), "{program} {verb} made nothing");
            } else if *does == Renews {
                let list = || std::fs::read(folder.path().join("ca/root.crl")).unwrap();
                let before = list();
                let told = held(program, &[&line[..], &["--dry-run"]].concat(), format);
                assert!(told.is_none_or(|value| value["dry_run"] == true));
                assert_eq!(list(), before, "{program} {verb} --dry-run changed something");
                held(program, &line, format);
                assert_ne!(list(), before, "{program} {verb} changed nothing");
            } else {
                let before = names(folder.path());
                held(program, &line, format);
                assert_eq!(names(folder.path()), before, "{program} {verb} made something");
            }
        }
    }
}

/// Runs it and holds what it printed to the format; the one object, where there is one.
fn held(program: &str, words: &[&str], format: &str) -> Option<Value> {
    let data = printed(program, words);
    assert!(!data.trim().is_empty(), "{program} {words:?} prints nothing");
    if format == "table" {
        assert!(serde_json::from_str::<Value>(&data).is_err(), "{data}");
        return None;
    }
    let value: Value = serde_json::from_str(&data).unwrap_or_else(|error| panic!("{words:?}: {error}: {data}"));
    assert_eq!(value["schema_version"], 1, "{program} {words:?}: {data}");
    assert_eq!(
        data.lines().count() == 1,
        format == "jsonl",
        "{program} {words:?}: {data}"
    );
    Some(value)
}

/// Everything below a folder.
fn names(folder: &Path) -> BTreeSet<std::path::PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(names(&path));
        }
        found.insert(path);
    }
    found
}
