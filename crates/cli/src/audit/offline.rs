//! A ledger folder as it lies on disk: its leaves, and proofs made of nothing else.

use std::{
    fs,
    path::{Path, PathBuf},
};

use mintage_identity::Serial;
use mintage_ledger::{
    Body, Hash, Kind, LeafFacts, Leaves, LedgerError, Origin, RecordCheck, SignedCheckpoint, Stored, Vkey, inclusion,
    limits::NOTE_BYTES_MAX, signed_records, verify_inclusion,
};

use super::{Key, progress::Watched, trust::read_bounded};
use crate::{failure::Failure, limits::VKEY_FILE_BYTES_MAX};

/// The ledger below a data directory.
///
/// # Errors
/// When there is none.
pub(crate) fn ledger_of(data_dir: &Path) -> Result<PathBuf, Failure> {
    let ledger = data_dir.join("ledger");
    match holds_policy(&ledger)? {
        true => Ok(ledger),
        false => Err(none_in(data_dir, "name the CA's data directory by --data-dir")),
    }
}

/// Whether a folder has the list of its logs.
///
/// # Errors
/// When that cannot be told, as in a folder that is somebody else's.
pub(super) fn holds_policy(dir: &Path) -> Result<bool, Failure> {
    let policy = dir.join("policy");
    policy.try_exists().map_err(|error| Failure::file(&policy, error))
}

/// The failure of a folder in which there is no ledger.
pub(super) fn none_in(dir: &Path, remedy: &str) -> Failure {
    let what = match dir.exists() {
        true => "holds no ledger",
        false => "is not there",
    };
    Failure::file(dir, format!("{what}; {remedy}"))
}

/// Reads verifier keys, one a line; comments begin with #.
///
/// # Errors
/// What is wrong, with its line.
pub(crate) fn read_vkeys(path: &Path) -> Result<Vec<Vkey>, Failure> {
    let size = fs::metadata(path).map_err(|error| Failure::file(path, error))?.len();
    if size > VKEY_FILE_BYTES_MAX {
        return Err(Failure::file(
            path,
            format!("has {size} bytes, the limit is {VKEY_FILE_BYTES_MAX}; it holds no verifier keys"),
        ));
    }
    let text = fs::read_to_string(path).map_err(|error| Failure::file(path, error))?;
    let mut keys = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        // The ledger's own policy file says `log` before each key.
        let line = line.strip_prefix("log ").unwrap_or(line).trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with("quorum ") {
            continue;
        }
        let key = line
            .parse()
            .map_err(|error| Failure::local(format!("{}:{}: {error}", path.display(), at + 1)))?;
        keys.push(key);
    }
    match keys.is_empty() {
        true => Err(Failure::file(path, "holds no verifier key")),
        false => Ok(keys),
    }
}

/// How a failed verification is told: damage and lies are a no, what cannot be read is our side's.
pub(crate) fn verdict(error: &LedgerError) -> Failure {
    match error {
        LedgerError::Io { .. } | LedgerError::Unsafe { .. } | LedgerError::Locked(_) | LedgerError::NoSpace => {
            Failure::local(error)
        }
        _ => Failure::No(format!("not proven: {error}")),
    }
}

/// Looks at every record: keeps the one that is wanted, and the leaves of its shard.
#[derive(Debug)]
struct Collect {
    wanted: Key,
    leaves: Leaves,
    found: Option<(u64, Vec<u8>)>,
    origin: String,
}

impl Collect {
    fn is_wanted(&self, stored: &Stored) -> bool {
        match &self.wanted {
            Key::Index(index) => stored.index() == *index,
            Key::Serial(serial) => stored.kind() == Some(Kind::Issue) && serial_of(stored) == Some(*serial),
            Key::Neither(_) => false,
        }
    }
}

fn serial_of(stored: &Stored) -> Option<Serial> {
    let Body::Issue(issue) = stored.decode().ok()?.body else {
        return None;
    };
    Some(LeafFacts::read(&issue.certificate_der)?.serial)
}

impl RecordCheck for Collect {
    fn record(&mut self, key: &Vkey, stored: &Stored) -> Result<(), String> {
        if key.name() != self.origin {
            // The next shard is a tree of its own.
            if self.found.is_some() {
                return Ok(());
            }
            key.name().clone_into(&mut self.origin);
            self.leaves = Leaves::default();
        }
        self.leaves.push(stored.leaf_hash());
        if self.found.is_none() && self.is_wanted(stored) {
            self.found = Some((stored.index(), stored.bytes().to_vec()));
        }
        Ok(())
    }
}

/// A record with everything that proves it.
#[derive(Debug)]
pub(crate) struct Proven {
    /// The leaf's index in the tree of its log.
    pub(crate) index: u64,
    pub(crate) record: Vec<u8>,
    pub(crate) hashes: Vec<Hash>,
    pub(crate) checkpoint: SignedCheckpoint,
    /// The key that signed it.
    pub(crate) vkey: Vkey,
}

/// Proves a record out of a ledger folder, after verifying the folder as a whole.
///
/// # Errors
/// Damage, a record that is not there, and one that no signed checkpoint covers yet.
pub(crate) fn prove(ledger: &Path, keys: Option<&[Vkey]>, wanted: Key) -> Result<Proven, Failure> {
    if let Key::Neither(text) = &wanted {
        return Err(Key::refused(text));
    }
    let mut collect = Collect {
        wanted,
        leaves: Leaves::default(),
        found: None,
        origin: String::new(),
    };
    let mut watched = Watched::new(&mut collect, signed_records(ledger).ok());
    let reports = mintage_ledger::verify(ledger, keys, &mut watched).map_err(|error| verdict(&error))?;
    drop(watched);
    let none = || Failure::No("the ledger holds no such record".into());
    let (position, record) = collect.found.take().ok_or_else(none)?;
    let shard = reports
        .iter()
        .find(|shard| shard.vkey.name() == collect.origin)
        .ok_or_else(none)?;
    let index = position.checked_sub(shard.first).ok_or_else(none)?;
    let checkpoint = checkpoint_of(ledger, &shard.vkey)?;
    let (size, root) = (checkpoint.checkpoint().size, checkpoint.checkpoint().root);
    if index >= size {
        return Err(Failure::No(format!(
            "record {position} is not covered by the last checkpoint, of {size} records; it is signed within a second"
        )));
    }
    let no = |error: LedgerError| verdict(&error);
    let hashes = inclusion(&collect.leaves, index, size).map_err(no)?;
    let leaf = mintage_ledger::leaf_hash(&record);
    verify_inclusion(&leaf, index, size, &hashes, &root).map_err(no)?;
    Ok(Proven {
        index,
        record,
        hashes,
        checkpoint,
        vkey: shard.vkey.clone(),
    })
}

/// The signed checkpoint that a verification has just accepted.
///
/// # Errors
/// When it is no longer there.
pub(super) fn checkpoint_of(ledger: &Path, vkey: &Vkey) -> Result<SignedCheckpoint, Failure> {
    let origin = Origin::parse(vkey.name()).map_err(Failure::local)?;
    let path = ledger.join(origin.id()).join(origin.shard()).join("checkpoint");
    let octets = read_bounded(&path, NOTE_BYTES_MAX)?;
    SignedCheckpoint::verify(&octets, vkey).map_err(|error| verdict(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_keys_are_read_with_their_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let key = Vkey::new("dev.test/mintage/a1/2026-11", [7; 32]).unwrap();
        fs::write(&path, format!("# ours\n\nlog {key}\nquorum none\n{key}\n")).unwrap();
        assert_eq!(read_vkeys(&path).unwrap(), [key.clone(), key]);
        fs::write(&path, "# ours\nnot a key\n").unwrap();
        assert!(read_vkeys(&path).unwrap_err().to_string().contains("keys:2: "));
        fs::write(&path, "").unwrap();
        assert!(read_vkeys(&path).unwrap_err().to_string().contains("no verifier key"));
    }

    #[test]
    fn a_folder_without_ledger_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let told = ledger_of(dir.path()).unwrap_err();
        assert!(told.to_string().contains("holds no ledger") && told.code() == 1);
        let told = ledger_of(&dir.path().join("mistyped")).unwrap_err();
        assert!(told.to_string().contains("mistyped: is not there; name"), "{told}");
    }
}
