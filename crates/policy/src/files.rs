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
