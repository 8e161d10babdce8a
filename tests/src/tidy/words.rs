//! Words that must not stand in the tree: unfinished work, tests that do not run, paths of one machine.

use super::tree::File;

/// Marks of unfinished work; split so that this file does not name them.
const UNFINISHED: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];
/// Macros that stand for code nobody wrote.
const MISSING: [&str; 2] = [concat!("to", "do!("), concat!("unimplemented", "!(")];
/// An attribute that compiles a test and never runs it.
const NEVER_RUN: &str = concat!("#[", "ignore");
/// Folders that exist on one machine: a person's home, a build user's, a workbench.
const MACHINE: [&str; 7] = [
    concat!("/wo", "rk/"),
    concat!("/fa", "rm/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Use", "rs/"),
    concat!("/tmp/stu", "dio"),
    concat!("/tmp/bash_", "jobs"),
];

/// Lines that promise work instead of doing it.
pub fn unfinished(file: &File) -> Vec<String> {
    let mark =
        |line: &str| UNFINISHED.iter().any(|word| has_word(line, word)) || MISSING.iter().any(|m| line.contains(m));
    complaints(file, mark, "unfinished")
}

/// Tests that are compiled and never run.
pub fn never_run(file: &File) -> Vec<String> {
    if file.is_rust() {
        complaints(file, |line| line.contains(NEVER_RUN), "a test that never runs")
    } else {
        Vec::new()
    }
}

/// Paths of one machine.
pub fn machine_paths(file: &File) -> Vec<String> {
    complaints(
        file,
        |line| MACHINE.iter().any(|folder| line.contains(folder)),
        "a path of one machine",
    )
}

fn complaints(file: &File, bad: impl Fn(&str) -> bool, what: &str) -> Vec<String> {
    let numbered = file.text.lines().enumerate().filter(|(_, line)| bad(line));
    numbered
        .map(|(index, line)| format!("{}:{}: {what}: {}", file.path.display(), index + 1, line.trim()))
        .collect()
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .any(|found| found == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_work_is_found() {
        for mark in UNFINISHED.iter().chain(&MISSING) {
            let file = File::new("a.rs", format!("fine\n  // {mark} later"));
            assert_eq!(unfinished(&file).len(), 1, "{mark}");
            assert!(unfinished(&file)[0].starts_with("a.rs:2: unfinished: // "));
        }
        assert!(unfinished(&File::new("a.rs", "MASTODON todo list")).is_empty());
    }

    #[test]
    fn a_test_that_never_runs_is_found() {
        for attribute in [format!("{NEVER_RUN}]"), format!("{NEVER_RUN} = \"slow\"]")] {
            assert_eq!(never_run(&File::new("a.rs", &*attribute)).len(), 1);
            assert!(never_run(&File::new("a.md", attribute)).is_empty());
        }
    }

    #[test]
    fn a_path_of_one_machine_is_found() {
        for folder in MACHINE {
            assert_eq!(
                machine_paths(&File::new("a.md", format!("see {folder}x"))).len(),
                1,
                "{folder}"
            );
        }
        assert!(machine_paths(&File::new("a.md", "see /var/lib/mintage-ca and /run/mintage")).is_empty());
    }
}
