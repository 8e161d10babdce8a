//! Entries as they lie on disk: a directory of TOML files, or one file. Every problem is told with its place.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use mintage_identity::TrustDomain;
use mintage_policy::{Entry, LocatedEntry, TomlProblem, limits::TOML_FILE_BYTES_MAX, load_dir, parse_entries};

use crate::failure::Failure;

/// Reads the entries of a directory or of one file.
///
/// # Errors
/// Every problem, with file and line.
pub(super) fn load(path: &Path, domain: &TrustDomain) -> Result<Vec<Entry>, Failure> {
    let located = match path.is_dir() {
        true => load_dir(path, domain),
        false => load_file(path, domain),
    };
    let located = located.map_err(Failure::Files)?;
    Ok(located.into_iter().map(|located| located.entry).collect())
}

fn load_file(path: &Path, domain: &TrustDomain) -> Result<Vec<LocatedEntry>, Vec<TomlProblem>> {
    let text = read(path).map_err(|problem| vec![TomlProblem::of_file(path, problem)])?;
    let entries = parse_entries(path, &text, domain)?;
    let problems = clashes(&entries);
    match problems.is_empty() {
        true => Ok(entries),
        false => Err(problems),
    }
}

fn read(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let file = File::open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err("is no regular file; name a file or a directory of *.toml files".to_owned());
    }
    let mut octets = Vec::new();
    file.take(TOML_FILE_BYTES_MAX + 1)
        .read_to_end(&mut octets)
        .map_err(unreadable)?;
    if octets.len() as u64 > TOML_FILE_BYTES_MAX {
        return Err(format!(
            "is larger than {TOML_FILE_BYTES_MAX} bytes; split it into a directory"
        ));
    }
    String::from_utf8(octets).map_err(|_| "is not UTF-8".to_owned())
}

/// Names used twice in one file, and entries that would answer for each other.
fn clashes(entries: &[LocatedEntry]) -> Vec<TomlProblem> {
    let mut by_id: HashMap<&str, Vec<&LocatedEntry>> = HashMap::new();
    let mut by_name: HashMap<&str, &LocatedEntry> = HashMap::new();
    let mut problems = Vec::new();
    let mut tell = |located: &LocatedEntry, text: String| {
        problems.push(TomlProblem {
            line: located.line,
            ..TomlProblem::of_file(&located.file, text)
        });
    };
    for located in entries {
        let entry = &located.entry;
        if let Some(other) = by_name.insert(entry.name().as_str(), located) {
            tell(
                located,
                format!("entry {} is also written at line {}", entry.name(), other.line),
            );
        }
        let same_id = by_id.entry(entry.spiffe_id().as_str()).or_default();
        if let Some(other) = same_id.iter().find(|other| other.entry.duplicates(entry)) {
            let (name, known) = (entry.name(), other.entry.name());
            let line = other.line;
            tell(
                located,
                format!(
                    "entry {name} gives the same identity to the same workload as {known} at line {line}; join them"
                ),
            );
        }
        same_id.push(located);
    }
    problems
}

/// The directory or file of entries, for `-f`.
#[derive(clap::Args, Debug)]
pub(super) struct Source {
    /// A directory of *.toml files, or one file.
    #[arg(short = 'f', long = "file", value_name = "DIR|FILE")]
    pub(super) path: PathBuf,
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ENTRY: &str = r#"
[[entry]]
name = "web"
spiffe_id = "spiffe://dev.test/web"
agents = ["spiffe://dev.test/mintage/agent/*"]
selectors = ["unix:uid:1000"]
"#;

    fn domain() -> TrustDomain {
        TrustDomain::parse("dev.test").unwrap()
    }

    fn told(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("e.toml");
        fs::write(&path, text).unwrap();
        let failure = load(&path, &domain()).unwrap_err();
        assert_eq!(failure.code(), 1);
        failure.report()
    }

    #[test]
    fn a_file_and_a_directory_give_the_same_entries() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("e.toml");
        fs::write(&path, ENTRY).unwrap();
        assert_eq!(load(&path, &domain()).unwrap(), load(dir.path(), &domain()).unwrap());
        assert_eq!(load(dir.path(), &domain()).unwrap().len(), 1);
    }

    #[test]
    fn all_problems_are_told_with_file_and_line() {
        let both = format!(
            "{}{}",
            ENTRY.replace("uid:1000", "uid:x"),
            ENTRY.replace("/web", "/mintage/x")
        );
        let report = told(&both);
        assert!(
            report.contains("e.toml:6: ") && report.contains("e.toml:10: "),
            "{report}"
        );
        assert!(told(&ENTRY.replace("selectors", "selector")).contains("e.toml:6: unknown key `selector`"));
    }

    #[test]
    fn a_name_used_twice_and_a_double_answer_are_told() {
        let report = told(&format!("{ENTRY}{ENTRY}"));
        assert!(
            report.contains("e.toml:9: entry web is also written at line 3"),
            "{report}"
        );
        let report = told(&format!("{ENTRY}{}", ENTRY.replace("\"web\"", "\"web-2\"")));
        assert!(
            report.contains("e.toml:9: entry web-2 gives the same identity"),
            "{report}"
        );
    }

    #[test]
    fn what_is_no_file_or_too_large_is_refused() {
        assert!(told(&"#".repeat(TOML_FILE_BYTES_MAX as usize + 1)).contains("larger than"));
        let missing = load(Path::new("/nonexistent/e.toml"), &domain()).unwrap_err();
        assert!(missing.report().contains("cannot be read"), "{missing}");
        let device = load(Path::new("/dev/null"), &domain()).unwrap_err();
        assert!(device.report().contains("no regular file"), "{device}");
    }
}
