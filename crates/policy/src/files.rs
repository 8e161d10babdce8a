//! Entries as TOML files: `[[entry]]` tables, every problem told with file, line and the nearest valid key.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use mintage_identity::{EntryName, TrustDomain, Ttl};
use serde::Deserialize;
use toml::Spanned;

use crate::entry::{Entry, EntryError, RawEntry};
use crate::limits::{ENTRIES_MAX, PROBLEMS_MAX, TOML_FILE_BYTES_MAX, TOML_FILES_MAX};
use crate::plan::duplicates;
use crate::problem::TomlProblem;

/// An entry and where it is written.
#[derive(Clone, Debug)]
pub struct LocatedEntry {
    /// The entry.
    pub entry: Entry,
    /// The file, as it was named by the caller.
    pub file: PathBuf,
    /// The line of its name, counted from 1.
    pub line: usize,
}

/// A file as serde sees it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryFile {
    #[serde(default)]
    entry: Vec<TomlEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlEntry {
    name: Spanned<String>,
    spiffe_id: Spanned<String>,
    agents: Spanned<Vec<Spanned<String>>>,
    selectors: Spanned<Vec<Spanned<String>>>,
    ttl: Option<Spanned<String>>,
    dns_names: Option<Spanned<Vec<Spanned<String>>>>,
    common_name: Option<Spanned<String>>,
    hint: Option<Spanned<String>>,
    owner: Option<Spanned<String>>,
    environment: Option<Spanned<String>>,
    purpose: Option<Spanned<String>>,
    disabled: Option<bool>,
    jwt_forbidden: Option<bool>,
    jwt_audiences: Option<Spanned<Vec<Spanned<String>>>>,
    federates_with: Option<Spanned<Vec<Spanned<String>>>>,
}

/// Reads the entries of one file's text. `file` is only for the messages.
///
/// # Errors
/// Every problem found; at most [`PROBLEMS_MAX`].
pub fn parse_entries(file: &Path, text: &str, domain: &TrustDomain) -> Result<Vec<LocatedEntry>, Vec<TomlProblem>> {
    let parsed: EntryFile = toml::from_str(text).map_err(|error| vec![TomlProblem::from_toml(file, text, &error)])?;
    let mut entries = Vec::new();
    let mut problems = Vec::new();
    for entry in &parsed.entry {
        match entry.validate(domain) {
            Ok(valid) => {
                // Through the problem type, so that lines are counted in one place.
                let line = TomlProblem::at(file, text, &entry.name.span(), "").line;
                entries.push(LocatedEntry {
                    entry: valid,
                    file: file.to_path_buf(),
                    line,
                });
            }
            Err(error) => {
                let message = format!("entry \"{}\": {error}", entry.name.get_ref());
                problems.push(TomlProblem::at(file, text, &entry.span_of(&error), message));
            }
        }
        if problems.len() == PROBLEMS_MAX {
            break;
        }
    }
    if problems.is_empty() {
        Ok(entries)
    } else {
        Err(problems)
    }
}

/// Reads every `*.toml` file of a directory as one set of entries, in the order of the file names. Hidden files are
/// left out; a directory inside is refused, so that `--prune` cannot delete what was merely moved into it.
///
/// # Errors
/// Every problem found; at most [`PROBLEMS_MAX`]. Among them: a name used twice, two entries that give the same
/// identity to the same workload.
pub fn load_dir(dir: &Path, domain: &TrustDomain) -> Result<Vec<LocatedEntry>, Vec<TomlProblem>> {
    let files = toml_files(dir).map_err(|problem| vec![problem])?;
    let mut entries = Vec::new();
    let mut problems = Vec::new();
    for file in files {
        match read_text(&file)
            .map_err(|problem| vec![problem])
            .and_then(|text| parse_entries(&file, &text, domain))
        {
            Ok(more) => entries.extend(more),
            Err(more) => problems.extend(more),
        }
        if entries.len() > ENTRIES_MAX {
            let message = format!("more than {ENTRIES_MAX} entries in one set; split the set");
            problems.push(TomlProblem::of_file(&file, message));
        }
        if problems.len() >= PROBLEMS_MAX {
            problems.truncate(PROBLEMS_MAX);
            return Err(problems);
        }
    }
    problems.extend(clashes(&entries));
    problems.truncate(PROBLEMS_MAX);
    if problems.is_empty() {
        Ok(entries)
    } else {
        Err(problems)
    }
}

/// Names used twice, and entries that would answer for each other.
fn clashes(entries: &[LocatedEntry]) -> Vec<TomlProblem> {
    let mut problems = Vec::new();
    let mut first: HashMap<&EntryName, &LocatedEntry> = HashMap::new();
    let clash = |located: &LocatedEntry, other: &LocatedEntry, what: String| TomlProblem {
        line: located.line,
        ..TomlProblem::of_file(&located.file, format!("{what} {}:{}", other.file.display(), other.line))
    };
    for located in entries {
        let name = located.entry.name();
        match first.get(name) {
            Some(other) => problems.push(clash(located, other, format!("entry {name} is also written at"))),
            None => drop(first.insert(name, located)),
        }
    }
    for (one, other) in duplicates(entries.iter().map(|located| &located.entry)) {
        if let (Some(one), Some(other)) = (first.get(&one), first.get(&other)) {
            let what = format!(
                "entry {} gives the same identity to the same workload as {}; join them; the other is at",
                other.entry.name(),
                one.entry.name()
            );
            problems.push(clash(other, one, what));
        }
    }
    problems
}

fn toml_files(dir: &Path) -> Result<Vec<PathBuf>, TomlProblem> {
    let refuse = |error: std::io::Error| TomlProblem::of_file(dir, format!("cannot be read: {error}"));
    let mut files = Vec::new();
    for item in fs::read_dir(dir).map_err(refuse)? {
        let path = item.map_err(refuse)?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        // Through symbolic links: mounted configuration is often made of them.
        let kind = fs::metadata(&path).map_err(|e| TomlProblem::of_file(&path, format!("cannot be read: {e}")))?;
        if kind.is_dir() {
            return Err(TomlProblem::of_file(
                &path,
                "is a directory; entries are read from one directory, not below it",
            ));
        }
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
        if files.len() > TOML_FILES_MAX {
            return Err(TomlProblem::of_file(
                dir,
                format!("has more than {TOML_FILES_MAX} files; join some"),
            ));
        }
    }
    files.sort();
    Ok(files)
}

fn read_text(file: &Path) -> Result<String, TomlProblem> {
    let refuse = |error: std::io::Error| TomlProblem::of_file(file, format!("cannot be read: {error}"));
    // Asked before opening: the open of a pipe would wait for a writer.
    if !fs::metadata(file).map_err(refuse)?.is_file() {
        return Err(TomlProblem::of_file(file, "is no regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(file)
        .map_err(refuse)?
        .take(TOML_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(refuse)?;
    if bytes.len() as u64 > TOML_FILE_BYTES_MAX {
        return Err(TomlProblem::of_file(
            file,
            format!("is larger than {TOML_FILE_BYTES_MAX} bytes; split it"),
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        TomlProblem {
            line: before + 1,
            ..TomlProblem::of_file(file, "is not UTF-8")
        }
    })
}

impl TomlEntry {
    fn validate(&self, domain: &TrustDomain) -> Result<Entry, EntryError> {
        let ttl = self.ttl.as_ref().map(|ttl| Ttl::parse(ttl.get_ref())).transpose();
        let ttl = ttl.map_err(|error| EntryError::new("ttl", error))?;
        let text = |field: &Option<Spanned<String>>| field.as_ref().map(|t| t.get_ref().clone()).unwrap_or_default();
        let texts = |field: &Spanned<Vec<Spanned<String>>>| -> Vec<String> {
            field.get_ref().iter().map(|t| t.get_ref().clone()).collect()
        };
        RawEntry {
            name: self.name.get_ref().clone(),
            spiffe_id: self.spiffe_id.get_ref().clone(),
            agents: texts(&self.agents),
            selectors: texts(&self.selectors),
            ttl_seconds: ttl.map_or(0, |ttl| i64::from(ttl.seconds())),
            dns_names: self.dns_names.as_ref().map(texts).unwrap_or_default(),
            common_name: text(&self.common_name),
            hint: text(&self.hint),
            owner: text(&self.owner),
            environment: text(&self.environment),
            purpose: text(&self.purpose),
            disabled: self.disabled.unwrap_or(false),
            jwt_forbidden: self.jwt_forbidden.unwrap_or(false),
            jwt_audiences: self.jwt_audiences.as_ref().map(texts).unwrap_or_default(),
            federates_with: self.federates_with.as_ref().map(texts).unwrap_or_default(),
        }
        .validate(domain)
    }

    /// Where the field that is wrong is written.
    fn span_of(&self, error: &EntryError) -> std::ops::Range<usize> {
        let list = |field: &Spanned<Vec<Spanned<String>>>| {
            let element = error
                .position()
                .and_then(|at| field.get_ref().get(at))
                .map(Spanned::span);
            element.unwrap_or_else(|| field.span())
        };
        let one = |field: &Option<Spanned<String>>| field.as_ref().map(Spanned::span);
        let found = match error.field() {
            "spiffe_id" => Some(self.spiffe_id.span()),
            "agents" => Some(list(&self.agents)),
            "selectors" => Some(list(&self.selectors)),
            "dns_names" => self.dns_names.as_ref().map(list),
            "jwt_audiences" => self.jwt_audiences.as_ref().map(list),
            "federates_with" => self.federates_with.as_ref().map(list),
            "ttl" => one(&self.ttl),
            "common_name" => one(&self.common_name),
            "hint" => one(&self.hint),
            "owner" => one(&self.owner),
            "environment" => one(&self.environment),
            "purpose" => one(&self.purpose),
            _ => None,
        };
        found.unwrap_or_else(|| self.name.span())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::samples::domain;

    const WEB: &str = r#"
[[entry]]
name = "web"
spiffe_id = "spiffe://dev.test/web"
agents = ["spiffe://dev.test/mintage/agent/*"]
selectors = ["unix:uid:1000"]
ttl = "5m"
dns_names = ["web.dev.test"]
"#;

    fn problems(text: &str) -> Vec<String> {
        let found = parse_entries(Path::new("e.toml"), text, &domain()).expect_err("must be refused");
        found.iter().map(ToString::to_string).collect()
    }

    /// The text of one entry with one line replaced.
    fn changed(from: &str, to: &str) -> String {
        assert!(WEB.contains(from), "{from}");
        WEB.replace(from, to)
    }

    #[test]
    fn a_file_of_entries_is_read_with_the_place_of_each() {
        let two = format!("# entries\n{WEB}{}", WEB.replace("web", "db"));
        let entries = parse_entries(Path::new("e.toml"), &two, &domain()).unwrap();
        let found: Vec<_> = entries.iter().map(|e| (e.entry.name().as_str(), e.line)).collect();
        assert_eq!(found, [("web", 4), ("db", 12)]);
        assert_eq!(entries[0].entry.ttl().seconds(), 300);
        assert!(parse_entries(Path::new("e.toml"), "", &domain()).unwrap().is_empty());
    }

    #[test]
    fn unknown_keys_are_refused_with_line_and_nearest_key() {
        assert_eq!(
            problems(&changed("selectors", "selector")),
            ["e.toml:6: unknown key `selector`; the nearest valid key is `selectors`"]
        );
        assert_eq!(
            problems(&changed("[[entry]]", "[[entries]]")),
            ["e.toml:2: unknown key `entries`; the nearest valid key is `entry`"]
        );
        let wild = problems(&changed("ttl", "password"));
        assert!(
            wild[0].starts_with("e.toml:7: unknown key `password`; valid keys are name, spiffe_id,"),
            "{wild:?}"
        );
    }

    #[test]
    fn wrong_types_duplicate_keys_and_missing_keys_are_told_with_their_line() {
        for (text, starts) in [
            (changed("\"5m\"", "300"), "e.toml:7: invalid type"),
            (changed("ttl = \"5m\"", "name = \"again\""), "e.toml:7: duplicate key"),
            (
                changed("selectors = [\"unix:uid:1000\"]", ""),
                "e.toml:2: missing field `selectors`",
            ),
            (changed("\"5m\"", "\"5m"), "e.toml:7: "),
            (changed("name = \"web\"", "\tname\t= \"web\u{0}\""), "e.toml:3: "),
        ] {
            let said = problems(&text);
            assert!(said[0].starts_with(starts), "{said:?}");
            assert!(!said[0].contains('\n') && said[0].len() < 400, "{said:?}");
        }
    }

    #[test]
    fn every_wrong_entry_is_told_at_the_line_of_the_field() {
        let several = [
            changed("spiffe://dev.test/web", "spiffe://dev.test/mintage/agent/x"),
            changed("\"5m\"", "\"0s\""),
            changed("\"5m\"", "\"99999999999999999999d\""),
            changed(
                "[\"unix:uid:1000\"]",
                "[\n  \"unix:uid:1000\",\n  \"unix:path:relative\",\n]",
            ),
            changed("\"web.dev.test\"", "\"a\",\n \"*.dev.test\""),
            changed("ttl = \"5m\"", "federates_with = [\"a.test\",\n \"spiffe://b.test\"]"),
        ];
        let said = problems(&several.concat());
        let lines: Vec<_> = said.iter().map(|text| text.split(": ").next().unwrap()).collect();
        assert_eq!(
            lines,
            [
                "e.toml:4",
                "e.toml:15",
                "e.toml:23",
                "e.toml:30",
                "e.toml:44",
                "e.toml:52"
            ],
            "{said:#?}"
        );
        assert!(said[0].contains("entry \"web\": spiffe_id:"), "{}", said[0]);
    }

    #[test]
    fn a_directory_is_one_set_and_tells_names_used_twice_and_duplicates() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("b.toml", &WEB.replace("web", "db"));
        write("a.toml", WEB);
        write(".hidden.toml", "not toml at all [");
        write("notes.txt", "not toml either [");
        let names = |entries: Vec<LocatedEntry>| {
            entries
                .iter()
                .map(|located| located.entry.name().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(load_dir(dir.path(), &domain()).unwrap()), ["web", "db"]);

        write("c.toml", WEB);
        write(
            "d.toml",
            &changed("name = \"web\"", "name = \"web2\"").replace("5m", "6m"),
        );
        let said: Vec<_> = load_dir(dir.path(), &domain())
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(said.len(), 2, "{said:#?}");
        assert!(said[0].contains("c.toml:3: entry web is also written at"), "{said:#?}");
        assert!(
            said[1].contains("d.toml:3: entry web2 gives the same identity"),
            "{said:#?}"
        );
    }

    #[test]
    fn a_directory_with_a_folder_a_pipe_or_a_huge_file_is_refused_without_waiting() {
        let refusal = |make: &dyn Fn(&Path)| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("a.toml"), WEB).unwrap();
            make(dir.path());
            load_dir(dir.path(), &domain()).expect_err("must be refused")[0].to_string()
        };
        assert!(refusal(&|dir| fs::create_dir(dir.join("sub")).unwrap()).contains("is a directory"));
        let pipe = |dir: &Path| {
            let made = std::process::Command::new("mkfifo")
                .arg(dir.join("p.toml"))
                .status()
                .unwrap();
            assert!(made.success());
        };
        assert!(refusal(&pipe).contains("no regular file"));
        let huge = |dir: &Path| {
            fs::File::create(dir.join("h.toml"))
                .unwrap()
                .set_len(TOML_FILE_BYTES_MAX + 1)
                .unwrap()
        };
        assert!(refusal(&huge).contains("larger than"));
        assert!(
            refusal(&|dir| fs::write(dir.join("u.toml"), b"a = 1\n\xff").unwrap()).contains("u.toml:2: is not UTF-8")
        );
        assert!(
            refusal(&|dir| std::os::unix::fs::symlink("gone", dir.join("l.toml")).unwrap()).contains("cannot be read")
        );
        assert!(load_dir(Path::new("/nonexistent/dir"), &domain()).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}|(\\[\\[entry\\]\\]|[a-z_]{1,10} = (\"[a-z:/]{0,20}\"|[0-9]{1,3}|\\[.{0,10}\\])|\\n){0,12}") {
            if let Err(found) = parse_entries(Path::new("e.toml"), &text, &domain()) {
                let lines = text.lines().count().max(1) + 1;
                prop_assert!(!found.is_empty());
                prop_assert!(found.iter().all(|p| p.line <= lines && !p.to_string().chars().any(char::is_control)));
            }
        }
    }
}
