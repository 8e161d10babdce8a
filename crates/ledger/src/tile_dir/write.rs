//! Writing a log, or a whole ledger, as plain folders while its records pass by.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::syncfs;

use super::{CHECKPOINT, CHECKPOINTS, Kind, POLICY, Place, RELEASED, SNAPSHOT, SUCCESSION, given_up, octets_of};
use crate::{
    LedgerError,
    checkpoint::SignedCheckpoint,
    disk::{is_full, make_dir, read_whole},
    journal::Stored,
    kept,
    layout::{Shard, read_policy},
    limits::{NOTE_BYTES_MAX, POLICY_BYTES_MAX},
    note::Vkey,
    opening::ShardBegin,
    tiles::{Rows, TILE_WIDTH},
    tree::{Frontier, Hash},
    verify::RecordCheck,
};

/// Writes one log below a folder. Its checkpoint is the last file, so a folder without one is unfinished.
#[derive(Debug)]
pub struct TreeWriter {
    dir: PathBuf,
    checkpoint: SignedCheckpoint,
    tree: Frontier,
    /// Records that wait for their bundle to be full.
    bundle: Vec<u8>,
    /// The hashes that wait for their tile to be full.
    rows: Rows,
}

impl TreeWriter {
    /// Begins the folder, which may not exist.
    ///
    /// # Errors
    /// Fails when the folder is there or cannot be made.
    pub fn create(dir: &Path, checkpoint: SignedCheckpoint) -> Result<Self, LedgerError> {
        if dir.exists() {
            return Err(LedgerError::Exists(dir.to_owned()));
        }
        make_dir(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            checkpoint,
            tree: Frontier::new(),
            bundle: Vec::new(),
            rows: Rows::default(),
        })
    }

    /// The next record. Those beyond the checkpoint are left out: nothing vouches for them yet.
    ///
    /// # Errors
    /// Refuses a record whose length has more than 16 bits; fails when a file cannot be written.
    pub fn push(&mut self, record: &[u8], leaf: Hash) -> Result<(), LedgerError> {
        if self.tree.size() >= self.checkpoint.checkpoint().size {
            return Ok(());
        }
        let length = u16::try_from(record.len())
            .map_err(|_| LedgerError::Record(format!("{} bytes have no place in a bundle", record.len())))?;
        self.bundle.extend_from_slice(&length.to_be_bytes());
        self.bundle.extend_from_slice(record);
        self.tree.push(leaf);
        if self.tree.size().is_multiple_of(TILE_WIDTH as u64) {
            self.write_bundle(self.tree.size() / TILE_WIDTH as u64 - 1, TILE_WIDTH)?;
        }
        self.hash(leaf)
    }

    /// Adds a leaf to its tile, and writes the tiles it fills.
    fn hash(&mut self, leaf: Hash) -> Result<(), LedgerError> {
        let dir = &self.dir;
        self.rows
            .push(leaf, |level, index, row| write_tile(dir, level, index, row))
    }

    fn write_bundle(&mut self, index: u64, width: usize) -> Result<(), LedgerError> {
        let place = Place {
            kind: Kind::Entries,
            index,
            width,
        };
        write_new(&place.path(&self.dir), &self.bundle)?;
        self.bundle.clear();
        Ok(())
    }

    /// Writes what is partial, and the checkpoint, whose root must be that of the records.
    ///
    /// # Errors
    /// Refuses fewer or other records than were signed; fails when a file cannot be written.
    pub fn finish(mut self) -> Result<(), LedgerError> {
        let signed = self.checkpoint.checkpoint();
        if self.tree.size() != signed.size {
            return Err(LedgerError::Beyond {
                what: "checkpoint",
                asked: signed.size,
                have: self.tree.size(),
            });
        }
        if self.tree.root() != signed.root {
            return Err(LedgerError::Forked {
                size: signed.size,
                what: "its checkpoint",
            });
        }
        let size = self.tree.size();
        if !self.bundle.is_empty() {
            self.write_bundle(size / TILE_WIDTH as u64, (size % TILE_WIDTH as u64) as usize)?;
        }
        for (level, index, row) in self.rows.partial().filter(|(_, _, row)| !row.is_empty()) {
            write_tile(&self.dir, level, index, row)?;
        }
        write_new(&self.dir.join(CHECKPOINT), self.checkpoint.to_string().as_bytes())
    }
}

fn write_tile(dir: &Path, level: u8, index: u64, row: &[Hash]) -> Result<(), LedgerError> {
    let place = Place {
        kind: Kind::Hashes(level),
        index,
        width: row.len(),
    };
    write_new(&place.path(dir), &octets_of(row))
}

/// Writes a whole ledger below a folder, as [`crate::verify`] reads it: it is a [`RecordCheck`] that lets every record
/// pass. Only after the verification has ended well is [`LedgerTreeWriter::finish`] to be called, which writes the
/// checkpoints and the policy file; without it the folder holds no log that any verifier accepts.
#[derive(Debug)]
pub struct LedgerTreeWriter {
    dir: PathBuf,
    policy: Vec<u8>,
    /// Shards whose records were given up.
    released: Vec<Shard>,
    waiting: Vec<(Shard, SignedCheckpoint)>,
    writers: Vec<(Vkey, TreeWriter)>,
    /// What stands before the log that begins next.
    snapshot: Option<Vec<u8>>,
    failed: Option<LedgerError>,
}

impl LedgerTreeWriter {
    /// Begins to write the ledger in `ledger` below `dir`, which must be empty or not exist. The checkpoints are those of
    /// now, so a live ledger is written as it was signed at this moment.
    ///
    /// # Errors
    /// Refuses a folder that holds something; fails when the ledger has no checkpoint that its own key signed.
    pub fn create(ledger: &Path, dir: &Path) -> Result<Self, LedgerError> {
        make_dir(dir)?;
        let mut entries = fs::read_dir(dir).map_err(LedgerError::io("list", dir))?;
        if entries.next().is_some() {
            return Err(LedgerError::Exists(dir.to_owned()));
        }
        let policy = read_whole(
            &ledger.join(POLICY),
            POLICY_BYTES_MAX as u64,
            "the ledger's policy file",
        )?;
        let (mut released, mut waiting) = (Vec::new(), Vec::new());
        for shard in read_policy(ledger)? {
            if shard.is_released() && waiting.is_empty() {
                released.push(shard);
                continue;
            }
            let signed = shard.read_checkpoint()?;
            waiting.push((shard, signed));
        }
        waiting.reverse();
        Ok(Self {
            dir: dir.to_owned(),
            policy,
            released,
            waiting,
            writers: Vec::new(),
            snapshot: None,
            failed: None,
        })
    }

    fn push(&mut self, key: &Vkey, stored: &Stored) -> Result<(), LedgerError> {
        if self.writers.last().is_none_or(|(known, _)| known != key) {
            self.begin(key)?;
        }
        match self.writers.last_mut() {
            Some((_, writer)) => writer.push(stored.bytes(), stored.leaf_hash()),
            None => Err(LedgerError::Closed),
        }
    }

    fn begin(&mut self, key: &Vkey) -> Result<(), LedgerError> {
        let (shard, signed) = self
            .waiting
            .pop()
            .filter(|(shard, _)| shard.vkey == *key)
            .ok_or_else(|| LedgerError::Signature(format!("the log of {key} was not there at first")))?;
        let writer = TreeWriter::create(&self.dir.join(shard.origin.folder()), signed)?;
        if let Some(snapshot) = self.snapshot.take() {
            write_new(&writer.dir.join(SNAPSHOT), &snapshot)?;
            copy(&shard.succession(), &writer.dir.join(SUCCESSION))?;
        }
        write_kept(&shard, writer.checkpoint.checkpoint().size, &writer.dir)?;
        self.writers.push((shard.vkey, writer));
        Ok(())
    }

    /// Of a log without records the checkpoints are written, the tiles that stay, and how it is named by the one before.
    fn write_released(&self, shard: &Shard) -> Result<(), LedgerError> {
        let dir = self.dir.join(shard.origin.folder());
        let size = shard.read_checkpoint()?.checkpoint().size;
        let stays = given_up::read_mark(&shard.released(), shard.base, shard.base.saturating_add(size))?;
        for name in given_up::files(&shard.dir, size, stays) {
            copy(&shard.dir.join(&name), &dir.join(name))?;
        }
        copy(&shard.released(), &dir.join(RELEASED))?;
        if shard.succession().exists() {
            copy(&shard.succession(), &dir.join(SUCCESSION))?;
        }
        write_kept(shard, u64::MAX, &dir)?;
        copy(&shard.checkpoint(), &dir.join(CHECKPOINT))
    }

    /// Why a record could not be written, when that is what ended the verification.
    pub fn failure(&mut self) -> Option<LedgerError> {
        self.failed.take()
    }

    /// Writes the checkpoints and the policy, and waits until the disk has everything. Returns each log's key and size.
    ///
    /// # Errors
    /// Refuses logs that are not whole; fails when a file cannot be written.
    pub fn finish(self) -> Result<Vec<(Vkey, u64)>, LedgerError> {
        if let Some((shard, _)) = self.waiting.last() {
            return Err(LedgerError::Missing {
                path: shard.dir.clone(),
                detail: "the records of a log",
            });
        }
        let mut written = Vec::new();
        self.released.iter().try_for_each(|shard| self.write_released(shard))?;
        for (key, writer) in self.writers {
            written.push((key, writer.tree.size()));
            writer.finish()?;
        }
        write_new(&self.dir.join(POLICY), &self.policy)?;
        let folder = fs::File::open(&self.dir).map_err(LedgerError::io("open", &self.dir))?;
        syncfs(&folder).map_err(|error| LedgerError::io("flush", &self.dir)(error.into()))?;
        Ok(written)
    }
}

impl RecordCheck for LedgerTreeWriter {
    fn begin(&mut self, begin: &ShardBegin<'_>) -> Result<(), String> {
        self.snapshot = begin.snapshot.map(<[u8]>::to_vec);
        Ok(())
    }

    fn record(&mut self, key: &Vkey, stored: &Stored) -> Result<(), String> {
        self.push(key, stored).map_err(|error| {
            let told = error.to_string();
            self.failed = Some(error);
            told
        })
    }
}

/// Writes what a log signed before and kept, up to the size that is exported.
fn write_kept(shard: &Shard, most: u64, dir: &Path) -> Result<(), LedgerError> {
    let kept = kept::read(shard)?;
    for signed in kept.iter().filter(|signed| signed.checkpoint().size <= most) {
        let path = dir.join(CHECKPOINTS).join(signed.checkpoint().size.to_string());
        write_new(&path, signed.to_string().as_bytes())?;
    }
    Ok(())
}

/// Copies a small file of a shard.
fn copy(from: &Path, to: &Path) -> Result<(), LedgerError> {
    write_new(to, &read_whole(from, NOTE_BYTES_MAX as u64, "a file of a shard")?)
}

/// Writes a file that must not be there, and the folders above it.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), LedgerError> {
    let failed = |error: std::io::Error| match is_full(&error) {
        true => LedgerError::NoSpace,
        false => LedgerError::io("write", path)(error),
    };
    if let Some(folder) = path.parent() {
        make_dir(folder)?;
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)
}
