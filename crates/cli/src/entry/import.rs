//! `entry import`: entries out of SPIRE, into the CA or into TOML files. Nothing is widened: what has no counterpart is
//! left out and told.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use mintage_identity::{AgentPattern, TrustDomain};
use mintage_policy::{Entry, ImportNote, SpireImport, SpireImported, import_spire_json, limits::SPIRE_JSON_BYTES_MAX};
use serde::Serialize;

use super::{agent_pattern, apply, toml_text};
use crate::{cli::Context, client::Ca, failure::Failure, limits::WRITTEN_TOML_BYTES_MAX, output::notice, text::count};

/// Where entries come from.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum From {
    /// The output of `spire-server entry show -output json`.
    SpireJson,
}

/// `entry import`.
#[derive(Args, Debug)]
pub(crate) struct Import {
    /// The form of the file.
    #[arg(long, value_name = "FORM")]
    from: From,
    /// The file, or - for standard input.
    file: PathBuf,
    /// The agents that stand for every SPIRE agent: a name, *, a SPIFFE ID or a prefix ending in /*.
    #[arg(long, value_name = "PATTERN")]
    agents: Option<String>,
    /// The agents that stand for one SPIRE parent: PARENT=PATTERN (repeatable).
    #[arg(long = "map", value_name = "PARENT=PATTERN")]
    maps: Vec<String>,
    /// The trust domain of the entries [default: the CA's]
    #[arg(long, value_name = "TD")]
    trust_domain: Option<TrustDomain>,
    /// Says what would change at the CA; nothing is changed.
    #[arg(long, conflicts_with = "write")]
    dry_run: bool,
    /// Writes TOML files into this new or empty directory instead of changing anything at the CA.
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

#[derive(Serialize)]
struct NoteRow<'a> {
    entry_id: &'a str,
    name: Option<&'a str>,
    text: &'a str,
}

/// What was not taken over, the same wherever the entries went.
#[derive(Serialize)]
struct Remarks<'a> {
    left_out: usize,
    notes: Vec<NoteRow<'a>>,
}

impl<'a> Remarks<'a> {
    fn of(imported: &'a SpireImported) -> Self {
        let row = |note: &'a ImportNote| NoteRow {
            entry_id: &note.entry_id,
            name: note.name.as_deref(),
            text: &note.text,
        };
        let notes: Vec<_> = imported.notes.iter().map(row).collect();
        Self {
            left_out: notes.iter().filter(|note| note.name.is_none()).count(),
            notes,
        }
    }
}

#[derive(Serialize)]
struct Written<'a> {
    entries: usize,
    files: Vec<String>,
    #[serde(flatten)]
    remarks: Remarks<'a>,
}

#[derive(Serialize)]
struct Sent<'a> {
    #[serde(flatten)]
    applied: apply::Applied,
    #[serde(flatten)]
    remarks: Remarks<'a>,
}

/// Runs the verb.
pub(super) async fn run(context: &Context, import: &Import) -> Result<(), Failure> {
    let From::SpireJson = import.from;
    let json = read(&import.file)?;
    // A connection is needed only where something is asked of the CA.
    let ca = match (&import.write, &import.trust_domain) {
        (Some(_), Some(_)) => None,
        _ => Some(context.ca().await?),
    };
    let domain = match (&import.trust_domain, &ca) {
        (Some(domain), _) => domain.clone(),
        (None, Some(ca)) => ca.trust_domain().await?,
        (None, None) => return Err(Failure::local("name the trust domain by --trust-domain")),
    };
    let imported = import_spire_json(&json, &domain, &options(import, &domain)?)
        .map_err(|problem| Failure::file(&import.file, problem))?;
    for note in &imported.notes {
        notice(&format!(
            "{}: {}",
            note.name.as_deref().unwrap_or(&note.entry_id),
            note.text
        ));
    }
    match (&import.write, &ca) {
        (Some(dir), _) => write(context, dir, &imported)?,
        (None, Some(ca)) => send(context, ca, &imported, import.dry_run).await?,
        (None, None) => {
            return Err(Failure::local(
                "nowhere to put the entries: leave --trust-domain out or use --write",
            ));
        }
    }
    match imported.entries.is_empty() && !imported.notes.is_empty() {
        true => Err(Failure::No(
            "every entry was left out, so nothing was imported; the reasons stand above".into(),
        )),
        false => Ok(()),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let unreadable = |error: std::io::Error| Failure::file(path, format!("cannot be read: {error}"));
    let source: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(fs::File::open(path).map_err(unreadable)?),
    };
    let mut octets = Vec::new();
    source
        .take(SPIRE_JSON_BYTES_MAX as u64 + 1)
        .read_to_end(&mut octets)
        .map_err(unreadable)?;
    String::from_utf8(octets).map_err(|_| Failure::file(path, "is not UTF-8"))
}

fn options(import: &Import, domain: &TrustDomain) -> Result<SpireImport, Failure> {
    let mut agents: BTreeMap<String, Vec<AgentPattern>> = BTreeMap::new();
    for map in &import.maps {
        let (parent, pattern) = map
            .split_once('=')
            .ok_or_else(|| Failure::local(format!("--map {map:?} is not of the form PARENT=PATTERN")))?;
        agents
            .entry(parent.to_owned())
            .or_default()
            .push(agent_pattern(pattern, domain)?);
    }
    let other_agents = import
        .agents
        .as_deref()
        .map(|text| agent_pattern(text, domain))
        .transpose()?;
    Ok(SpireImport { agents, other_agents })
}

async fn send(context: &Context, ca: &Ca, imported: &SpireImported, dry_run: bool) -> Result<(), Failure> {
    let (applied, rest) = apply::exchange(ca, &imported.entries, &apply::Mode::add(dry_run)).await?;
    let sent = Sent {
        applied,
        remarks: Remarks::of(imported),
    };
    context.output.object(&sent, || {
        format!("{}{} left out\n", sent.applied.text(), sent.remarks.left_out)
    })?;
    rest
}

fn write(context: &Context, dir: &Path, imported: &SpireImported) -> Result<(), Failure> {
    let written = Written {
        entries: imported.entries.len(),
        files: write_files(dir, &imported.entries)?,
        remarks: Remarks::of(imported),
    };
    context.output.object(&written, || {
        let entries = count(written.entries as u64, "entry", "entries");
        let left_out = written.remarks.left_out;
        format!("wrote {entries} into {}, {left_out} left out\n", dir.display())
    })
}

/// Writes the entries into numbered files of a new or empty directory.
fn write_files(dir: &Path, entries: &[Entry]) -> Result<Vec<String>, Failure> {
    let failed = |path: &Path, error: std::io::Error| Failure::file(path, format!("cannot be written: {error}"));
    fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    if fs::read_dir(dir).map_err(|error| failed(dir, error))?.next().is_some() {
        return Err(Failure::file(
            dir,
            "is not empty; entries are written into a new directory",
        ));
    }
    let mut texts = vec![String::new()];
    for entry in entries {
        let text = toml_text::written(entry)?;
        match texts.last_mut() {
            Some(last) if last.is_empty() => *last = text,
            Some(last) if last.len() + text.len() < WRITTEN_TOML_BYTES_MAX => last.push_str(&format!("\n{text}")),
            _ => texts.push(text),
        }
    }
    let mut files = Vec::new();
    for (number, text) in texts.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        let path = dir.join(format!("spire-{:04}.toml", number + 1));
        let written = OpenOptions::new().write(true).create_new(true).open(&path);
        let written = written.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|error| failed(&path, error))?;
        files.push(path.display().to_string());
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use mintage_policy::{RawEntry, load_dir};

    use super::*;

    fn entry(number: usize, domain: &TrustDomain) -> Entry {
        let raw = RawEntry {
            name: format!("w{number:05}"),
            spiffe_id: format!("spiffe://dev.test/w/{number}"),
            agents: vec!["spiffe://dev.test/mintage/agent/*".into()],
            selectors: vec!["unix:uid:1000".into()],
            purpose: "p".repeat(200),
            ..RawEntry::default()
        };
        raw.validate(domain).unwrap()
    }

    #[test]
    fn written_directories_are_read_as_the_same_set() {
        let domain = TrustDomain::parse("dev.test").unwrap();
        let entries: Vec<_> = (0..3_000).map(|number| entry(number, &domain)).collect();
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("new/entries");
        let files = write_files(&target, &entries).unwrap();
        assert!(files.len() > 1, "{files:?}");
        let read = load_dir(&target, &domain).unwrap();
        assert!(read.iter().map(|located| &located.entry).eq(&entries));
        let again = write_files(&target, &entries).unwrap_err();
        assert!(again.to_string().contains("not empty"), "{again}");
    }
}
