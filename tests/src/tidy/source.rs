//! The form of Rust files: length, first line, module names, and crates that may not read a clock.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::code;
use super::tree::File;

/// A longer file holds a second idea.
pub const LINES_MAX: usize = 600;
/// Half of the files are shorter than this.
pub const LINES_MEDIAN_MAX: usize = 200;

/// Module names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] = [
    "common", "util", "utils", "helper", "helpers", "manager", "managers", "prelude",
];

/// Crates that take the time as an argument, and their files that may measure a span of it: never a date.
const CLOCKLESS: &[(&str, &[&str])] = &[
    ("identity", &[]),
    ("svid", &[]),
    ("attest", &[]),
    ("policy", &[]),
    // The integrator spaces its checkpoints; their time comes from the caller.
    ("ledger", &["integrate.rs"]),
    ("mint", &[]),
    ("revocation", &[]),
    // The writer's thread spaces its flushes; nothing it stores depends on when.
    ("state", &["writer.rs"]),
    ("verifier", &[]),
];

/// Ways to read the date.
const DATES: [&str; 4] = [
    "SystemTime::now",
    "UNIX_EPOCH.elapsed",
    "OffsetDateTime::now",
    "clock_gettime",
];
/// Ways to measure a span.
const TIMERS: [&str; 1] = ["Instant::now"];

/// Files that are ours to shape: Rust, and not generated.
pub fn shaped(files: &[File]) -> Vec<&File> {
    files
        .iter()
        .filter(|file| file.is_rust() && !file.is_generated())
        .collect()
}

/// Files over the length cap.
pub fn too_long(file: &File) -> Option<String> {
    let lines = file.text.lines().count();
    (lines > LINES_MAX).then(|| format!("{}: {lines} lines, at most {LINES_MAX}", file.path.display()))
}

/// The middle length in lines; none without files.
pub fn median_lines(files: &[&File]) -> Option<usize> {
    let mut lengths: Vec<usize> = files.iter().map(|file| file.text.lines().count()).collect();
    lengths.sort_unstable();
    lengths.get(lengths.len() / 2).copied()
}

/// Files that do not begin by telling their one idea.
pub fn headless(file: &File) -> Option<String> {
    let first = file.text.lines().next().unwrap_or_default();
    let tells = first
        .strip_prefix("//!")
        .is_some_and(|words| words.split_whitespace().count() >= 2);
    (!tells).then(|| {
        format!(
            "{}:1: begins without a `//!` line that tells its idea",
            file.path.display()
        )
    })
}

/// Lines by which a test passes over what it does without: `missing` of the kit names that, and fails in continuous integration.
pub fn silent_skips(file: &File) -> Vec<String> {
    // In two pieces, or this line would be one.
    let told = ["println!(\"", "skipped"].concat();
    let lines = file.text.lines().zip(1..).filter(|(line, _)| line.contains(&told));
    lines
        .map(|(_, number)| format!("{}:{number}: tell it through kit::missing", file.path.display()))
        .collect()
}

/// Modules whose name says nothing, as files, folders or inline.
pub fn empty_names(file: &File) -> Vec<String> {
    let parts = file
        .path
        .iter()
        .map(|part| Path::new(part).file_stem().unwrap_or_default().to_string_lossy());
    let mut named: Vec<String> = parts
        .filter(|part| EMPTY_NAMES.contains(&&**part))
        .map(|part| part.into_owned())
        .collect();
    let code = code::without_comments_and_strings(&file.text);
    let words: Vec<&str> = code
        .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .collect();
    named.extend(
        words
            .windows(2)
            .filter(|pair| pair[0] == "mod" && EMPTY_NAMES.contains(&pair[1]))
            .map(|pair| pair[1].to_owned()),
    );
    named.dedup();
    named
        .into_iter()
        .map(|name| format!("{}: a module named `{name}`", file.path.display()))
        .collect()
}

/// Lines outside tests that read a clock in crates that take the time as an argument.
pub fn clocks(files: &[File]) -> Vec<String> {
    let test_only: BTreeSet<PathBuf> = files
        .iter()
        .filter(|file| file.is_rust())
        .flat_map(|file| code::test_only_files(&file.path, &file.text))
        .collect();
    let mut found = Vec::new();
    for (folder, free) in CLOCKLESS {
        let source = Path::new("crates").join(folder).join("src");
        for file in files
            .iter()
            .filter(|file| file.is_rust() && !code::belongs_to(&test_only, &file.path))
        {
            let Ok(below) = file.path.strip_prefix(&source) else {
                continue;
            };
            let may_measure = free.iter().any(|name| below == Path::new(name));
            let refused: Vec<&str> = DATES
                .iter()
                .chain(TIMERS.iter().filter(|_| !may_measure))
                .copied()
                .collect();
            let code = code::without_tests(&code::without_comments_and_strings(&file.text));
            for (index, line) in code.lines().enumerate() {
                found.extend(refused.iter().filter(|clock| line.contains(**clock)).map(|clock| {
                    format!(
                        "{}:{}: {clock} in a crate that takes the time as an argument",
                        file.path.display(),
                        index + 1
                    )
                }));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_found() {
        assert!(too_long(&File::new("a.rs", "x\n".repeat(LINES_MAX))).is_none());
        let found = too_long(&File::new("a.rs", "x\n".repeat(LINES_MAX + 1)));
        assert_eq!(found.unwrap(), "a.rs: 601 lines, at most 600");
    }

    #[test]
    fn a_test_that_is_passed_over_in_silence_is_found() {
        let line = |macro_name: &str| format!("fn a() {{\n    {macro_name}!(\"{}: no disk\");\n}}\n", "skipped");
        for macro_name in ["println", "eprintln"] {
            let found = silent_skips(&File::new("a.rs", line(macro_name)));
            assert_eq!(found, ["a.rs:2: tell it through kit::missing"]);
        }
        assert!(silent_skips(&File::new("a.rs", "// What is skipped.\nlet skipped = 1;\n")).is_empty());
    }

    #[test]
    fn the_median_is_the_middle_length() {
        let files: Vec<File> = [1, 900, 3]
            .iter()
            .map(|lines| File::new("a.rs", "x\n".repeat(*lines)))
            .collect();
        assert_eq!(median_lines(&files.iter().collect::<Vec<_>>()), Some(3));
        assert_eq!(median_lines(&[]), None);
    }

    #[test]
    fn generated_files_are_not_ours_to_shape() {
        let files = [
            File::new(
                "gen.rs",
                "//! Generated by `cargo xtask proto` from `proto/x`; edits are lost.\n",
            ),
            File::new("a.md", "text"),
            File::new("a.rs", "//! One idea.\n"),
        ];
        assert_eq!(shaped(&files), [&files[2]]);
    }

    #[test]
    fn a_file_that_tells_nothing_is_found() {
        for text in [
            "",
            "use std::fs;\n",
            "//!\n",
            "//! Stuff\n",
            "\n//! One idea.\n",
            "// One idea.\n",
        ] {
            assert!(headless(&File::new("a.rs", text)).is_some(), "{text:?}");
        }
        assert!(headless(&File::new("a.rs", "//! One idea.\n")).is_none());
    }

    #[test]
    fn a_module_whose_name_says_nothing_is_found() {
        for (path, text) in [
            ("src/utils.rs", ""),
            ("src/helpers/a.rs", ""),
            ("src/a.rs", "pub mod prelude;"),
        ] {
            assert_eq!(empty_names(&File::new(path, text)).len(), 1, "{path} {text}");
        }
        assert!(empty_names(&File::new("src/committer.rs", "// mod common\nmod commons;")).is_empty());
    }

    #[test]
    fn a_clock_in_a_clockless_crate_is_found() {
        let bad = File::new(
            "crates/policy/src/decide.rs",
            "//! x y\nfn a() { let t = SystemTime::now(); }\n",
        );
        assert_eq!(clocks(std::slice::from_ref(&bad)).len(), 1);
        let found = &clocks(&[bad])[0];
        assert!(
            found.starts_with("crates/policy/src/decide.rs:2: SystemTime::now"),
            "{found}"
        );
    }

    #[test]
    fn a_file_that_may_measure_may_not_read_the_date() {
        let both = "fn a() { Instant::now(); }\nfn b() { SystemTime::now(); }\n";
        let found = clocks(&[File::new("crates/state/src/writer.rs", both)]);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains(":2: SystemTime::now"), "{found:?}");
        assert_eq!(clocks(&[File::new("crates/state/src/deep/writer.rs", both)]).len(), 2);
    }

    #[test]
    fn a_clock_in_tests_in_comments_and_where_it_belongs_is_left_alone() {
        let read = "fn a() { Instant::now(); }\n";
        let fine = [
            File::new("crates/agent/src/clock.rs", read),
            File::new("crates/state/src/writer.rs", read),
            File::new(
                "crates/mint/src/a.rs",
                format!("// {read}#[cfg(test)]\nmod tests {{ {read} }}\n"),
            ),
            File::new("crates/mint/src/b.rs", "#[cfg(test)]\nmod tests;\n"),
            File::new("crates/mint/src/b/tests.rs", read),
            File::new("crates/mint/src/b/tests/deeper.rs", read),
            File::new("crates/mint/tests/c.rs", read),
        ];
        assert_eq!(clocks(&fine), Vec::<String>::new());
    }
}
