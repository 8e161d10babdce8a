//! What callers of the socket are served, on disk: an agent that starts while the CA is away goes on where the last one
//! ended. It lies in `workloads/` of the data directory, which nobody but the agent's user may enter.
//!
//! ```text
//! entries          one line (`mintage-agent entries 1 AGENT SHA256`), then the entries as the CA named them last, a
//!                  message `Entries` of node.proto whose SHA-256 the line has
//! <entry>.pem      key and chain of one identity, mode 0600
//! <name>.damaged   what could not be read; nothing reads it again
//! ```
//!
//! Nothing here is believed for being here: a pair is verified like one that has just come, against roots and revoked set.
//! Each file is replaced whole, so that a crash leaves the old one or the new one.

use std::{collections::BTreeSet, io, sync::Arc};

use mintage_identity::{EntryName, SpiffeId};
use mintage_proto::v1;
use mintage_sys::{dir::Dir, secret_file};
use prost::Message as _;
use ring::digest::{SHA256, digest};

use crate::{
    held::{Held, Unverified, from_pem},
    limits::{ENTRIES_FILE_BYTES_MAX, KEPT_NAMES_MAX, PAIR_BYTES_MAX},
    store::Store,
};

const WORKLOADS: &str = "workloads";
const ENTRIES: &str = "entries";
const PEM: &str = ".pem";
const DAMAGED: &str = ".damaged";
/// How the line begins before the entries; a newer form has another number, and is not read.
const HEAD: &str = "mintage-agent entries 1";
/// Bytes of that line: a SPIFFE ID has at most 2,048.
const HEAD_BYTES_MAX: usize = 4 * 1024;

/// The folder.
#[derive(Debug)]
pub(crate) struct Kept(Dir);

/// What is to be written and removed. Removed is first, and entries are there before what belongs to them.
#[derive(Default)]
pub(crate) struct Batch {
    /// Whose agent's the entries are, and they.
    pub(crate) entries: Option<(SpiffeId, v1::Entries)>,
    pub(crate) put: Vec<(EntryName, Arc<Held>)>,
    pub(crate) gone: Vec<EntryName>,
}

impl Kept {
    /// Opens the folder, making it when it is missing.
    pub(crate) fn open(store: &Store) -> io::Result<Self> {
        let dir = store.dir();
        match dir.create_dir_beneath(WORKLOADS, 0o700) {
            Ok(made) => dir.fsync().map(|()| Self(made)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => dir.open_dir_beneath(WORKLOADS).map(Self),
            Err(error) => Err(error),
        }
    }

    /// The entries as this agent last heard them. What cannot be read is set aside.
    pub(crate) fn entries(&self, agent: &SpiffeId) -> Option<v1::Entries> {
        let read = match secret_file::read_beneath(&self.0, ENTRIES, ENTRIES_FILE_BYTES_MAX) {
            Ok(bytes) => decode(&bytes, agent),
            Err(error) if error.io_kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error.to_string()),
        };
        read.map_err(|problem| self.set_aside(ENTRIES, ENTRIES, &problem)).ok()
    }

    /// The pair of an entry. What cannot be read is set aside.
    pub(crate) fn pair(&self, entry: &EntryName) -> Option<Unverified> {
        let name = pem(entry);
        let read = match secret_file::read_beneath(&self.0, &name, PAIR_BYTES_MAX) {
            Ok(bytes) => from_pem(&bytes),
            Err(error) if error.io_kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error.to_string()),
        };
        read.map_err(|problem| self.set_aside(&name, entry.as_str(), &problem))
            .ok()
    }

    /// The new name is another one than that of a file which is read or written, so that it is in nobody's way.
    fn set_aside(&self, name: &str, stem: &str, problem: &str) {
        let aside = format!("{stem}{DAMAGED}");
        let moved = self.0.rename(name, &aside).and_then(|()| self.0.fsync());
        let left = moved.err().map(|error| format!("; it could not be set aside: {error}"));
        tracing::warn!(
            file = %self.0.path().join(name).display(), problem,
            "what was kept for callers of the socket cannot be read; it is set aside as {aside}, and comes anew from the CA{}",
            left.unwrap_or_default()
        );
    }

    /// Removes whatever is not of these entries: pairs of others, and what a crash left.
    pub(crate) fn forget_others(&self, entries: &BTreeSet<EntryName>) {
        for name in self.names() {
            let of = |end: &str| name.strip_suffix(end).and_then(|stem| EntryName::parse(stem).ok());
            let known = of(PEM).is_some_and(|entry| entries.contains(&entry));
            if !known && !name.ends_with(DAMAGED) && name != ENTRIES {
                self.remove(&name);
            }
        }
    }

    /// Removes everything.
    pub(crate) fn forget(&self) {
        self.names().iter().for_each(|name| self.remove(name));
        let _ = self.0.fsync();
    }

    /// Writes and removes; what is wrong with the first that failed.
    pub(crate) fn write(&self, batch: &Batch) -> Result<(), String> {
        for entry in &batch.gone {
            for name in [pem(entry), format!("{entry}{DAMAGED}")] {
                match self.0.remove_file(&name) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(format!("{name}: {error}")),
                    _ => {}
                }
            }
        }
        if !batch.gone.is_empty() {
            self.0.fsync().map_err(|error| error.to_string())?;
        }
        if let Some((agent, entries)) = &batch.entries {
            let bytes = encode(agent, entries)?;
            secret_file::replace(&self.0, ENTRIES, &bytes).map_err(|error| error.to_string())?;
        }
        for (entry, held) in &batch.put {
            secret_file::replace(&self.0, &pem(entry), &held.to_pem()).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn names(&self) -> Vec<String> {
        let names = self.0.names(KEPT_NAMES_MAX).unwrap_or_default();
        names
            .into_iter()
            .filter_map(|name| String::from_utf8(name).ok())
            .collect()
    }

    fn remove(&self, name: &str) {
        if let Err(error) = self.0.remove_file(name) {
            tracing::warn!(file = %self.0.path().join(name).display(), %error, "a kept identity that nobody has any more stays");
        }
    }
}

fn pem(entry: &EntryName) -> String {
    format!("{entry}{PEM}")
}

fn encode(agent: &SpiffeId, entries: &v1::Entries) -> Result<Vec<u8>, String> {
    let body = entries.encode_to_vec();
    let mut bytes = format!("{HEAD} {agent} {}\n", hex::encode(digest(&SHA256, &body))).into_bytes();
    bytes.extend(body);
    match bytes.len() <= ENTRIES_FILE_BYTES_MAX {
        true => Ok(bytes),
        false => Err(format!("the entries have more than {ENTRIES_FILE_BYTES_MAX} bytes")),
    }
}

fn decode(bytes: &[u8], agent: &SpiffeId) -> Result<v1::Entries, String> {
    let line_end = bytes.iter().take(HEAD_BYTES_MAX).position(|octet| *octet == b'\n');
    let (line, body) = bytes.split_at(line_end.ok_or("has no first line")?);
    let body = &body[1..];
    let line = std::str::from_utf8(line).map_err(|_| "its first line is no text".to_owned())?;
    let rest = line.strip_prefix(HEAD).and_then(|rest| rest.strip_prefix(' '));
    let (whose, sum) = rest
        .and_then(|rest| rest.split_once(' '))
        .ok_or("was not written by this version")?;
    if sum != hex::encode(digest(&SHA256, body)) {
        return Err("was altered or cut short".to_owned());
    }
    if whose != agent.as_str() {
        return Err(format!("is of {whose}, and this agent is {agent}"));
    }
    v1::Entries::decode(body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn agent() -> SpiffeId {
        SpiffeId::parse("spiffe://dev.test/mintage/agent/n1").unwrap()
    }

    fn name(text: &str) -> EntryName {
        EntryName::parse(text).unwrap()
    }

    fn entries() -> v1::Entries {
        v1::Entries {
            full: true,
            put: vec![v1::Entry {
                name: "web".to_owned(),
                selectors: vec!["unix:uid:1000".to_owned()],
                ..v1::Entry::default()
            }],
            index: 7,
            last: true,
            ..v1::Entries::default()
        }
    }

    fn kept() -> (tempfile::TempDir, std::path::PathBuf, Kept) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("data")).unwrap();
        let kept = Kept::open(&store).unwrap();
        let path = temp.path().join("data").join(WORKLOADS);
        (temp, path, kept)
    }

    #[test]
    fn entries_come_back_and_any_octet_that_is_another_sets_them_aside() {
        let (_temp, path, kept) = kept();
        assert!(kept.entries(&agent()).is_none());
        let batch = Batch {
            entries: Some((agent(), entries())),
            ..Batch::default()
        };
        kept.write(&batch).unwrap();
        assert_eq!(kept.entries(&agent()), Some(entries()));
        let mode = |at: &std::path::Path| std::fs::metadata(at).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(&path.join(ENTRIES))), (0o700, 0o600));
        let whole = std::fs::read(path.join(ENTRIES)).unwrap();
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 1;
            std::fs::write(path.join(ENTRIES), &other).unwrap();
            assert!(kept.entries(&agent()).is_none(), "octet {at}");
            assert_eq!(std::fs::read(path.join("entries.damaged")).unwrap(), other);
            assert!(!path.join(ENTRIES).exists());
            kept.write(&batch).unwrap();
        }
        for end in 0..whole.len() {
            assert!(decode(&whole[..end], &agent()).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn entries_of_another_agent_and_files_that_others_may_read_are_not_used() {
        let (_temp, path, kept) = kept();
        let batch = Batch {
            entries: Some((agent(), entries())),
            ..Batch::default()
        };
        kept.write(&batch).unwrap();
        let other = SpiffeId::parse("spiffe://dev.test/mintage/agent/n2").unwrap();
        assert!(kept.entries(&other).is_none());
        kept.write(&batch).unwrap();
        std::fs::set_permissions(path.join(ENTRIES), PermissionsExt::from_mode(0o644)).unwrap();
        assert!(kept.entries(&agent()).is_none());
        assert!(path.join("entries.damaged").exists());
    }

    #[test]
    fn what_belongs_to_no_entry_is_removed_and_what_was_damaged_goes_with_its_entry() {
        let (_temp, path, kept) = kept();
        let put = |file: &str| {
            std::fs::write(path.join(file), "octets").unwrap();
            std::fs::set_permissions(path.join(file), PermissionsExt::from_mode(0o600)).unwrap();
        };
        for file in ["web.pem", "old.pem", ".web.pem.new", "foreign", ENTRIES] {
            put(file);
        }
        assert!(kept.pair(&name("web")).is_none());
        put("web.pem");
        kept.forget_others(&[name("web")].into());
        let names = || {
            let mut names = kept.names();
            names.sort();
            names
        };
        assert_eq!(names(), [ENTRIES, "web.damaged", "web.pem"]);
        let batch = Batch {
            gone: vec![name("web")],
            ..Batch::default()
        };
        kept.write(&batch).unwrap();
        assert_eq!(names(), [ENTRIES]);
        kept.forget();
        assert!(names().is_empty());
    }
}
