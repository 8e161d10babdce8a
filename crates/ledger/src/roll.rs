//! Closing a shard and beginning the next, while the ledger is in use.
//!
//! Order: `log.close` goes into the old shard; its final checkpoint is signed; the new shard is made whole in its own folder,
//! with the snapshot of what stands and `log.open` as its first record; and only then the policy file names it. That one
//! replacement decides: after a crash before it the old shard goes on and the folder is made anew the next time, after it the
//! new one is the shard that is written. Nothing is appended meanwhile.

use std::{fs, path::Path, sync::Arc};

use crate::{
    LedgerError,
    batch::Batch,
    checkpoint::{Checkpoint, LogKey, SignedCheckpoint},
    disk::{Disk, Fill, make_dir, replace},
    file::{FileJournal, check_opening, sync_parents},
    journal::{Journal, Log},
    kept,
    layout::{Shard, write_policy},
    limits::POLICY_LOGS_MAX,
    log_keys::LogKeys,
    note::Vkey,
    origin::Origin,
    record::EncodedRecord,
    seg::write_sealed,
    succession::Succession,
    tree::{Frontier, sha256},
    wal::WalHeader,
    wire,
    writer::{Pace, Writer, begin_file},
};

/// What a roll needs of its caller.
pub struct Roll<'a> {
    /// The name of the log that begins.
    pub next: &'a Origin,
    /// Its key.
    pub key: LogKey,
    /// The `log.close` record that ends the shard.
    pub closing: EncodedRecord,
    /// The state of everything before a position, when all records before it are applied.
    pub snapshot: &'a mut dyn FnMut(u64) -> Result<Vec<u8>, LedgerError>,
    /// The `log.open` record with this body.
    pub opening: &'a mut dyn FnMut(wire::LogOpen) -> Result<EncodedRecord, LedgerError>,
}

impl std::fmt::Debug for Roll<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Roll({})", self.next)
    }
}

impl FileJournal {
    /// Closes the shard that is written and begins the next. `keys` holds the key of the former, and gets that of the latter.
    /// Appends wait until it is done.
    ///
    /// # Errors
    /// Refuses, before anything is written, a log more than a policy can name: the next start would not read it, nor would any
    /// verifier. The ledger goes on in the log that it has.
    /// Whatever fails before the policy names the new shard leaves the old one as it is, with a `log.close` in it; a failure
    /// to write the policy itself closes the ledger for writing, because only a restart can tell which shard is written.
    pub fn roll(&self, keys: &LogKeys, roll: Roll<'_>) -> Result<Arc<Log>, LedgerError> {
        let mut writer = self.lock_writer()?;
        self.check_poison()?;
        let old = self.shard();
        let vkey = roll.key.vkey(roll.next);
        self.check_unused(&vkey)?;
        let key = keys
            .of(&old.origin)
            .ok_or_else(|| LedgerError::Signature(format!("the key of {} is not here", old.origin)))?;
        self.append_locked(&mut writer, &[Batch::of([&roll.closing])])?;
        let position = self.size();
        let snapshot = (roll.snapshot)(position)?;
        let head = Checkpoint {
            origin: old.origin.clone(),
            size: writer.frontier.size(),
            root: writer.frontier.root(),
        };
        let last = self.store_final(key.sign(head))?;
        let shard = Arc::new(Shard::new(self.ledger(), vkey.clone(), position)?);
        let opening = (roll.opening)(wire::LogOpen {
            origin: roll.next.to_string(),
            vkey: vkey.to_string(),
            previous_checkpoint: last.to_string(),
            snapshot_sha256: sha256(&snapshot).to_vec(),
            first_position: position,
        })?;
        check_opening(&opening, &vkey)?;
        let succession = Succession::sign(&key, &old.origin, &vkey);
        let (begun, first) = self.make_shard(&writer, &shard, &roll.key, &opening, (&snapshot, &succession))?;
        let mut shards: Vec<Arc<Shard>> = self.shards();
        shards.push(shard.clone());
        if let Err(error) = write_policy(&**self.disk(), self.ledger(), shards.iter().map(AsRef::as_ref)) {
            return Err(self
                .poisoned_by(format!("name the shard {}: {error}", roll.next))
                .into());
        }
        keys.add(roll.next, roll.key);
        *writer = begun;
        let log = self.begin(shard.clone(), first)?;
        let offset = writer.first_group;
        self.published(&writer, &shard, (1, offset), &[Batch::of([&opening])]);
        Ok(log)
    }

    /// Whether one more log can be named, before anything is prepared for it.
    ///
    /// # Errors
    /// As [`FileJournal::roll`] refuses it.
    pub fn check_room_for_log(&self) -> Result<(), LedgerError> {
        Self::check_number(self.shards().len())
    }

    fn check_number(logs: usize) -> Result<(), LedgerError> {
        match logs < POLICY_LOGS_MAX {
            true => Ok(()),
            false => Err(LedgerError::format(
                "ledger",
                format!(
                    "has {logs} logs, as many as a policy can name; it goes on in its last log, which needs no end: set \
                     ledger.shards to \"manual\""
                ),
            )),
        }
    }

    /// Makes the folder of a shard that nobody names yet, whole and durable.
    fn make_shard(
        &self,
        old: &Writer,
        shard: &Shard,
        key: &LogKey,
        opening: &EncodedRecord,
        (snapshot, succession): (&[u8], &Succession),
    ) -> Result<(Writer, SignedCheckpoint), LedgerError> {
        let disk = self.disk();
        clear_leftover(&shard.dir)?;
        let header = WalHeader {
            number: 1,
            control_head: old.control_head,
            previous_len: 0,
            reserve: old.sizes.reserve,
            origin_hash: shard.origin_hash(),
            frontier: Frontier::new(),
        };
        let mut writer = begin_shard(disk, shard, &header, old.sizes)?;
        write_sealed(&**disk, &shard.snapshot(), snapshot)?;
        write_sealed(&**disk, &shard.succession(), succession.to_string().as_bytes())?;
        writer.append(&[Batch::of([opening])])?;
        let first = key.sign(Checkpoint {
            origin: shard.origin.clone(),
            size: 1,
            root: writer.frontier.root(),
        });
        replace(&**disk, &shard.checkpoint(), first.to_string().as_bytes())?;
        sync_parents(&**disk, self.ledger(), shard)?;
        Ok((writer, first))
    }

    /// No two logs share a name or a key (C2SP tlog-policy), and a policy names so many of them.
    fn check_unused(&self, vkey: &Vkey) -> Result<(), LedgerError> {
        let shards = self.shards();
        Self::check_number(shards.len())?;
        let known =
            |shard: &&Arc<Shard>| shard.vkey.name() == vkey.name() || shard.vkey.public_key() == vkey.public_key();
        match shards.iter().find(known) {
            None => Ok(()),
            Some(shard) => Err(LedgerError::format(
                "log key",
                format!("{} has this name or key; each log has its own", shard.origin),
            )),
        }
    }

    /// Stores the last checkpoint of the shard, and keeps it.
    fn store_final(&self, last: SignedCheckpoint) -> Result<SignedCheckpoint, LedgerError> {
        // The integrator may store one of its own in between; both are prefixes, and this one is the longest there can be.
        loop {
            let known = self.checkpoint()?.checkpoint().size;
            match self.cas_checkpoint(known, &last) {
                Err(LedgerError::CheckpointMoved { .. }) => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        let stored = self.checkpoint()?;
        kept::keep(&**self.disk(), &self.shard(), &stored)?;
        Ok(stored)
    }
}

/// Begins a shard's first file.
pub(crate) fn begin_shard(
    disk: &Arc<dyn Disk>,
    shard: &Shard,
    header: &WalHeader,
    sizes: crate::writer::Sizes,
) -> Result<Writer, LedgerError> {
    make_dir(&shard.head())?;
    let frame = header.to_frame();
    let (file, reserved) = begin_file(&**disk, shard, header.number, &frame, (sizes.reserve, Fill::Zeros))?;
    Ok(Writer {
        disk: Arc::clone(disk),
        shard: shard.clone(),
        sizes,
        file,
        number: header.number,
        at: frame.len() as u64,
        reserved,
        first_group: frame.len() as u64,
        frontier: Frontier::new(),
        control_head: header.control_head,
        pace: Pace::default(),
    })
}

/// Removes what a roll left that was cut short: no policy names it, so no reader has seen any of it.
fn clear_leftover(dir: &Path) -> Result<(), LedgerError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LedgerError::io("remove", dir)(error)),
        _ => Ok(()),
    }
}
