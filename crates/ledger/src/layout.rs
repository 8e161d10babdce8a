//! Where the ledger's files are, which shards there are, and that the folder is safely ours alone.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::{
    LedgerError,
    checkpoint::SignedCheckpoint,
    disk::{Disk, read_whole, replace},
    journal::Log,
    limits::{NOTE_BYTES_MAX, POLICY_BYTES_MAX},
    note::Vkey,
    origin::Origin,
    policy::Policy,
    tree::sha256,
};

const POLICY: &str = "policy";
const LOCK: &str = "lock";

/// One shard: its names, its key, its folder, and where its records stand in the ledger. Inside the crate leaf indices count
/// from the shard's first record, positions from the ledger's.
#[derive(Clone, Debug)]
pub(crate) struct Shard {
    pub(crate) origin: Origin,
    pub(crate) vkey: Vkey,
    pub(crate) dir: PathBuf,
    /// Position of its first record: the records of all shards before it.
    pub(crate) base: u64,
}

impl Shard {
    pub(crate) fn new(ledger: &Path, vkey: Vkey, base: u64) -> Result<Self, LedgerError> {
        let origin = Origin::parse(vkey.name())?;
        Ok(Self {
            dir: ledger.join(origin.folder()),
            origin,
            vkey,
            base,
        })
    }

    /// SHA-256 of the origin line, by which each file says of which shard it is.
    pub(crate) fn origin_hash(&self) -> [u8; 32] {
        sha256(self.origin.as_str().as_bytes())
    }

    /// The state of everything at the shard's birth; the first shard has none.
    pub(crate) fn snapshot(&self) -> PathBuf {
        self.dir.join("snapshot")
    }

    /// The statement by which the key of the shard before names this shard's key; the first shard has none.
    pub(crate) fn succession(&self) -> PathBuf {
        self.dir.join("succession")
    }

    /// The mark of a shard whose records were given up on purpose.
    pub(crate) fn released(&self) -> PathBuf {
        self.dir.join("released")
    }

    /// True when the records were given up on purpose: checkpoints and upper tiles are all there is.
    pub(crate) fn is_released(&self) -> bool {
        self.released().exists()
    }

    /// The last checkpoint that is stored, whose signature is right.
    pub(crate) fn read_checkpoint(&self) -> Result<SignedCheckpoint, LedgerError> {
        let path = self.checkpoint();
        let bytes = read_whole(&path, NOTE_BYTES_MAX as u64, "the last signed checkpoint")?;
        SignedCheckpoint::verify(&bytes, &self.vkey)
    }

    pub(crate) fn head(&self) -> PathBuf {
        self.dir.join("head")
    }

    pub(crate) fn wal(&self, number: u64) -> PathBuf {
        self.head().join(format!("{number:08}.wal"))
    }

    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.dir.join("checkpoint")
    }

    /// The folder of the checkpoints that are kept, each under its size.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }

    /// The numbers of the shard's write-ahead files, ascending.
    pub(crate) fn wals(&self) -> Result<Vec<u64>, LedgerError> {
        let head = self.head();
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&head).map_err(|error| missing(error, &head, "the head of the log"))? {
            let entry = entry.map_err(LedgerError::io("list", &head))?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".wal")).map(str::parse);
            if let Some(Ok(number)) = number {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        if numbers.is_empty() {
            return Err(LedgerError::Missing {
                path: self.wal(1),
                detail: "the head of the log",
            });
        }
        Ok(numbers)
    }
}

fn missing(error: io::Error, path: &Path, detail: &'static str) -> LedgerError {
    match error.kind() {
        io::ErrorKind::NotFound => LedgerError::Missing {
            path: path.to_owned(),
            detail,
        },
        _ => LedgerError::io("open", path)(error),
    }
}

/// The policy file as it stands.
pub(crate) fn read_text(ledger: &Path) -> Result<Vec<u8>, LedgerError> {
    let what = "the policy file with the log's verifier keys";
    read_whole(&ledger.join(POLICY), POLICY_BYTES_MAX as u64, what)
}

/// The shards of the policy file (C2SP tlog-policy), oldest first; the last is the one that is written. Each begins where the
/// signed checkpoint of the one before ends.
pub(crate) fn read_policy(ledger: &Path) -> Result<Vec<Shard>, LedgerError> {
    let path = ledger.join(POLICY);
    let bytes = read_text(ledger)?;
    let refuse = |problem: String| LedgerError::format("policy file", format!("{}: {problem}", path.display()));
    let policy = Policy::parse(&bytes).map_err(|error| refuse(error.to_string()))?;
    // Witnesses and quorum rules are for verifiers; they name no folder.
    let mut shards: Vec<Shard> = Vec::new();
    for log in policy.logs() {
        let base = match shards.last() {
            None => 0,
            Some(before) => before.base.saturating_add(before.read_checkpoint()?.checkpoint().size),
        };
        shards.push(Shard::new(ledger, log.vkey.clone(), base)?);
    }
    let twice = |at: usize| shards[..at].iter().any(|known| known.origin == shards[at].origin);
    if let Some(at) = (0..shards.len()).find(|at| twice(*at)) {
        return Err(refuse(format!("the shard {} is listed twice", shards[at].origin)));
    }
    if shards.is_empty() {
        return Err(refuse("lists no log".into()));
    }
    Ok(shards)
}

/// How many records of a ledger folder are signed and were not given up, by the policy file and the checkpoints: what a
/// verification has before it. Also of an exported one, whose folders have the same names.
///
/// # Errors
/// As [`current_log`].
pub fn signed_records(ledger: &Path) -> Result<u64, LedgerError> {
    let shards = read_policy(ledger)?;
    let kept = shards.iter().filter(|shard| !shard.is_released());
    kept.map(|shard| Ok(shard.read_checkpoint()?.checkpoint().size)).sum()
}

/// The log that is written, by the policy file of a ledger that may be in use.
///
/// # Errors
/// Fails when the policy or a checkpoint is missing, damaged or not signed.
pub fn current_log(ledger: &Path) -> Result<Log, LedgerError> {
    let last = read_policy(ledger)?.pop().ok_or(LedgerError::Closed)?;
    Log::new(last.vkey, last.base)
}

/// Writes the policy file. Its presence says that the ledger is whole, so it is the last file of a creation.
pub(crate) fn write_policy<'a>(
    disk: &dyn Disk,
    ledger: &Path,
    shards: impl IntoIterator<Item = &'a Shard>,
) -> Result<(), LedgerError> {
    let mut text = String::from("# Logs of this certificate authority, oldest first (C2SP tlog-policy).\n");
    for shard in shards {
        text.push_str(&format!("log {}\n", shard.vkey));
    }
    text.push_str("quorum none\n");
    replace(disk, &ledger.join(POLICY), text.as_bytes())
}

/// Holds the ledger for one process.
#[derive(Debug)]
pub(crate) struct Lock {
    file: fs::File,
}

impl Lock {
    /// Takes the lock, which ends with the process at the latest.
    pub(crate) fn take(ledger: &Path) -> Result<Self, LedgerError> {
        let path = ledger.join(LOCK);
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(LedgerError::io("lock", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LedgerError::Locked(ledger.to_owned())),
            Err(error) => Err(LedgerError::io("lock", &path)(error.into())),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // By word and not only by closing: a child process that is just being started holds a copy of the descriptor for a
        // moment, and would hold the lock with it. A failure changes nothing: closing unlocks as well.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// Refuses a folder that another user owns or may write to: who can write it can rewrite the log.
pub(crate) fn check_ours(path: &Path) -> Result<(), LedgerError> {
    let metadata = fs::symlink_metadata(path).map_err(|error| missing(error, path, "the ledger's folder"))?;
    let refuse = |problem: String| {
        Err(LedgerError::Unsafe {
            path: path.to_owned(),
            problem,
        })
    };
    let us = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() {
        return refuse("is no folder; the ledger follows no links".into());
    }
    if metadata.uid() != us {
        return refuse(format!(
            "belongs to user {}, this process runs as {us}; run as its owner or use chown",
            metadata.uid()
        ));
    }
    if metadata.mode() & 0o022 != 0 {
        return refuse(format!(
            "can be written by others (mode {:03o}); use chmod 700",
            metadata.mode() & 0o777
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_given_back_is_free_though_a_copy_of_its_descriptor_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Lock::take(folder.path()).unwrap();
        // As a child process has it between its fork and its exec.
        let _copy = lock.file.try_clone().unwrap();
        assert!(matches!(Lock::take(folder.path()), Err(LedgerError::Locked(_))));
        drop(lock);
        drop(Lock::take(folder.path()).unwrap());
    }
}
