//! The journal in local files: created once, recovered at each start, appended to by one process.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::watch;

use crate::{
    LedgerError,
    checkpoint::{Checkpoint, LogKey, SignedCheckpoint},
    disk::{Disk, LocalDisk, make_dir, read_whole, remove_if_there, replace},
    foreign::ForeignCheckpoint,
    journal::{AppendError, Journal, Stored},
    kept,
    kind::Kind,
    layout::{Lock, Shard, check_ours, read_policy, write_policy},
    limits::{GROUP_BYTES_MAX, GROUP_RECORDS_MAX, NOTE_BYTES_MAX, RESERVE_BYTES, WAL_BYTES_MAX},
    note::{NoteSignature, Vkey},
    open::{Recovery, recover},
    origin::Origin,
    reader::Reader,
    record::{Body, EncodedRecord, Record},
    seg::{Segment, entries::Entries, seal::Segments},
    tree::{Frontier, Hash, sha256},
    wal::WalHeader,
    writer::{Sizes, Writer, begin_file},
};

/// How a ledger is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Records that some view of the ledger has already applied: a ledger with fewer was rolled back and is refused.
    pub applied: u64,
    /// The disk; tests put a failing one here.
    pub disk: Arc<dyn Disk>,
    /// Size at which a write-ahead file is closed, in bytes.
    pub file_bytes: u64,
    /// Space reserved at a time, in bytes.
    pub reserve_bytes: u64,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            applied: 0,
            disk: Arc::new(LocalDisk),
            file_bytes: WAL_BYTES_MAX,
            reserve_bytes: RESERVE_BYTES,
        }
    }
}

impl OpenOptions {
    pub(crate) fn sizes(&self) -> Sizes {
        let reserve = self.reserve_bytes.clamp(4096, RESERVE_BYTES);
        Sizes {
            file: self.file_bytes.clamp(reserve, WAL_BYTES_MAX),
            reserve,
        }
    }
}

/// What opening found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Durable records.
    pub size: u64,
    /// Root of the tree at that size.
    pub root: Hash,
    /// Size of the last signed checkpoint, which is a prefix of the log.
    pub checkpoint_size: u64,
    /// True when the last record is a `log.close`.
    pub clean_stop: bool,
    /// True when an unfinished group, never acknowledged, was cut off.
    pub cut: bool,
}

/// The ledger in local files. Dropping it releases the folder for another process.
#[derive(Debug)]
pub struct FileJournal {
    shard: Shard,
    disk: Arc<dyn Disk>,
    writer: Mutex<Writer>,
    reader: Reader,
    segments: Arc<Segments>,
    size: AtomicU64,
    control_head: AtomicU64,
    changed: watch::Sender<u64>,
    poison: OnceLock<String>,
    checkpoint: Mutex<SignedCheckpoint>,
    recovered: Recovered,
    _lock: Lock,
}

impl FileJournal {
    /// Makes a new ledger in `ledger`, with `opening`, a `log.open` record, as record 0 and a checkpoint signed over
    /// it. This is done once, by whoever sets up the certificate authority, and never by opening.
    ///
    /// # Errors
    /// Refuses a folder that holds anything, and every record but `log.open`.
    pub fn create(
        ledger: &Path,
        origin: &Origin,
        key: &LogKey,
        opening: EncodedRecord,
        options: OpenOptions,
    ) -> Result<Self, LedgerError> {
        let vkey = key.vkey(origin);
        check_opening(&opening, &vkey)?;
        make_dir(ledger)?;
        check_ours(ledger)?;
        let mut inside = fs::read_dir(ledger).map_err(LedgerError::io("list", ledger))?;
        if inside.next().is_some() {
            return Err(LedgerError::Exists(ledger.to_owned()));
        }
        let lock = Lock::take(ledger)?;
        let shard = Shard::new(ledger, vkey)?;
        make_dir(&shard.head())?;
        let sizes = options.sizes();
        let header = WalHeader {
            number: 1,
            control_head: 0,
            previous_len: 0,
            reserve: sizes.reserve,
            origin_hash: sha256(origin.as_str().as_bytes()),
            frontier: Frontier::new(),
        };
        let frame = header.to_frame();
        let (file, reserved) = begin_file(&*options.disk, &shard, 1, &frame, sizes.reserve)?;
        let mut writer = Writer {
            disk: Arc::clone(&options.disk),
            shard: shard.clone(),
            sizes,
            file,
            number: 1,
            at: frame.len() as u64,
            reserved,
            first_group: frame.len() as u64,
            frontier: Frontier::new(),
            control_head: 0,
            buffer: Vec::new(),
        };
        writer.append(std::slice::from_ref(&opening))?;
        let head = Checkpoint {
            origin: origin.clone(),
            size: 1,
            root: writer.frontier.root(),
        };
        replace(
            &*options.disk,
            &shard.checkpoint(),
            key.sign(head).to_string().as_bytes(),
        )?;
        write_policy(&*options.disk, ledger, std::slice::from_ref(&shard))?;
        sync_parents(&*options.disk, ledger, &shard)?;
        drop(writer);
        drop(lock);
        Self::open(ledger, options)
    }

    /// Opens the ledger that is there, recovering it from whatever the last process left.
    ///
    /// # Errors
    /// Refuses a ledger that is missing, in use, not safely ours, damaged, or older than its last signed checkpoint or
    /// than `options.applied`. Nothing is ever made anew.
    pub fn open(ledger: &Path, options: OpenOptions) -> Result<Self, LedgerError> {
        check_ours(ledger)?;
        let shards = read_policy(ledger)?;
        let lock = Lock::take(ledger)?;
        let shard = shards.into_iter().next_back().ok_or(LedgerError::Closed)?;
        let Recovery {
            writer,
            spans,
            sealed,
            checkpoint,
            recovered,
        } = recover(ledger, &shard, &options)?;
        kept::keep(&*options.disk, &shard, &checkpoint)?;
        let (size, control_head) = (writer.frontier.size(), writer.control_head);
        Ok(Self {
            reader: Reader::new(shard.clone(), spans, sealed.entries, size),
            segments: Arc::new(Segments::new(sealed.indexes)),
            disk: options.disk,
            shard,
            writer: Mutex::new(writer),
            size: AtomicU64::new(size),
            control_head: AtomicU64::new(control_head),
            changed: watch::Sender::new(size),
            poison: OnceLock::new(),
            checkpoint: Mutex::new(checkpoint),
            recovered,
            _lock: lock,
        })
    }

    /// What opening found and did.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// The key that verifies the shard's checkpoints.
    pub fn vkey(&self) -> &Vkey {
        &self.shard.vkey
    }

    /// The shard's folder, in which tiles are kept beside the checkpoint.
    pub fn shard_dir(&self) -> &Path {
        &self.shard.dir
    }

    /// The disk the ledger is on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The indexes of the sealed segments, for a search over this journal.
    pub fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    pub(crate) fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Takes in a segment that was sealed: from now on its records are read from there.
    pub(crate) fn sealed(&self, entries: Arc<Entries>) -> Result<(), LedgerError> {
        self.reader.sealed(entries)
    }

    /// Removes the write-ahead files all of whose records are sealed and lie below the signed checkpoint, so that the next
    /// start still meets the checkpoint's root on its way. The file that is written always stays.
    pub(crate) fn release_sealed(&self) -> Result<(), LedgerError> {
        let signed = self.checkpoint()?.checkpoint().size;
        for number in self.reader.release(signed) {
            remove_if_there(&self.shard.wal(number))?;
        }
        Ok(())
    }

    fn poison(&self, error: AppendError) -> AppendError {
        if let AppendError::Poisoned(why) = &error
            && self.poison.set(why.clone()).is_ok()
        {
            tracing::error!(why = %why, "the ledger is closed for writing");
        }
        error
    }

    fn check_poison(&self) -> Result<(), AppendError> {
        match self.poison.get() {
            Some(why) => Err(AppendError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }

    fn lock_writer(&self) -> Result<MutexGuard<'_, Writer>, AppendError> {
        // A panic while writing leaves the disk unknown, as a failed write does.
        self.writer
            .lock()
            .map_err(|_| self.poison(AppendError::Poisoned("a writer panicked".into())))
    }
}

/// The first record must say which log it begins, under which key.
fn check_opening(opening: &EncodedRecord, vkey: &Vkey) -> Result<(), LedgerError> {
    match Record::decode(opening.bytes())?.body {
        Body::LogOpen(open) if open.origin == vkey.name() && open.vkey == vkey.to_string() => Ok(()),
        Body::LogOpen(_) => Err(LedgerError::Record(
            "log.open names another origin or verifier key than the ledger is made with".into(),
        )),
        other => Err(LedgerError::Record(format!(
            "a ledger begins with log.open, not {}",
            Kind::of(&other)
        ))),
    }
}

/// Makes the names of a new ledger's folders durable, up to the one that holds it.
fn sync_parents(disk: &dyn Disk, ledger: &Path, shard: &Shard) -> Result<(), LedgerError> {
    let mut dir = shard.head();
    loop {
        disk.sync_dir(&dir).map_err(LedgerError::io("flush", &dir))?;
        if dir == ledger || !dir.pop() {
            break;
        }
    }
    match ledger.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => {
            disk.sync_dir(parent).map_err(LedgerError::io("flush", parent))
        }
        _ => Ok(()),
    }
}

impl Journal for FileJournal {
    fn origin(&self) -> &Origin {
        &self.shard.origin
    }

    fn append(&self, group: &[EncodedRecord], control_seen: u64) -> Result<u64, AppendError> {
        let bytes: usize = group.iter().map(EncodedRecord::encoded_len).sum();
        if group.is_empty() || group.len() > GROUP_RECORDS_MAX || bytes > GROUP_BYTES_MAX {
            return Err(AppendError::TooLarge);
        }
        let mut writer = self.lock_writer()?;
        self.check_poison()?;
        if writer.control_head > control_seen {
            return Err(AppendError::Moved {
                control_head: writer.control_head,
            });
        }
        let first = writer.frontier.size();
        let (number, offset) = writer.append(group).map_err(|error| self.poison(error))?;
        let stored = group
            .iter()
            .enumerate()
            .map(|(at, record)| Stored::new(first + at as u64, Arc::clone(record.bytes()), Some(record.leaf_hash())));
        self.reader.published(number, offset, stored);
        let size = writer.frontier.size();
        // The control index first: who sees the size sees what came with it.
        self.control_head.store(writer.control_head, Ordering::Release);
        self.size.store(size, Ordering::Release);
        drop(writer);
        self.changed.send_replace(size);
        Ok(first)
    }

    fn read_from(&self, index: u64, max: usize) -> Result<Vec<Stored>, LedgerError> {
        self.reader.read_from(index, max)
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn control_head(&self) -> u64 {
        self.control_head.load(Ordering::Acquire)
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn checkpoint(&self) -> Result<SignedCheckpoint, LedgerError> {
        Ok(self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn cas_checkpoint(&self, old: u64, new: &SignedCheckpoint) -> Result<(), LedgerError> {
        new.note().verify(&self.shard.vkey)?;
        let head = new.checkpoint();
        let mut stored = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        let current = stored.checkpoint().size;
        if current != old {
            return Err(LedgerError::CheckpointMoved { current, expected: old });
        }
        if head.size < current || head.size > self.size() {
            return Err(LedgerError::Beyond {
                what: "checkpoint size",
                asked: head.size,
                have: self.size(),
            });
        }
        // The same tree head again keeps the lines that witnesses have added meanwhile.
        let new = match (head.size == current, new.note().text() == stored.note().text()) {
            (false, _) => new.clone(),
            (true, true) => stored.with_lines(new.note().signatures())?,
            (true, false) => {
                return Err(LedgerError::Forked {
                    size: current,
                    what: "the stored checkpoint",
                });
            }
        };
        replace(&*self.disk, &self.shard.checkpoint(), new.to_string().as_bytes())?;
        if Segment::of(head.size) != Segment::of(current) {
            kept::keep(&*self.disk, &self.shard, &new)?;
        }
        *stored = new;
        Ok(())
    }

    fn add_cosignatures(&self, text: &str, lines: &[NoteSignature]) -> Result<(), LedgerError> {
        let mut stored = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        if stored.note().text() != text {
            let expected = ForeignCheckpoint::parse(text)?.size();
            let current = stored.checkpoint().size;
            return Err(LedgerError::CheckpointMoved { current, expected });
        }
        let cosigned = stored.with_lines(lines)?;
        cosigned.note().verify(&self.shard.vkey)?;
        replace(&*self.disk, &self.shard.checkpoint(), cosigned.to_string().as_bytes())?;
        *stored = cosigned;
        Ok(())
    }

    fn idle(&self) {
        if self.check_poison().is_ok()
            && let Ok(mut writer) = self.lock_writer()
            && let Err(error) = writer.reserve_ahead()
        {
            // Want of space is met again, and answered, when a group comes.
            let _ = self.poison(error);
        }
    }

    fn poisoned(&self) -> Option<String> {
        self.poison.get().cloned()
    }
}

/// Reads the stored checkpoint of a shard and checks its signature.
pub(crate) fn read_checkpoint(shard: &Shard) -> Result<SignedCheckpoint, LedgerError> {
    let bytes = read_whole(&shard.checkpoint(), NOTE_BYTES_MAX as u64, "the last signed checkpoint")?;
    SignedCheckpoint::verify(&bytes, &shard.vkey)
}

impl From<AppendError> for LedgerError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::NoSpace => Self::NoSpace,
            AppendError::Poisoned(why) => Self::Poisoned(why),
            other => Self::Record(other.to_string()),
        }
    }
}
