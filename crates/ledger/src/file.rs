//! The journal in local files: created once, recovered at each start, appended to by one process.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::watch;

use crate::{
    LedgerError,
    batch::Batch,
    checkpoint::{Checkpoint, LogKey, SignedCheckpoint},
    disk::{Disk, LocalDisk, make_dir, remove_for_good, replace},
    journal::{AppendError, Journal, Log, Stored},
    kept,
    kind::Kind,
    layout::{Lock, Shard, check_ours, read_policy, read_text, write_policy},
    limits::{GROUP_BYTES_MAX, GROUP_RECORDS_MAX, RESERVE_BYTES, WAL_BYTES_MAX},
    note::{NoteSignature, Vkey},
    open::{Recovery, recover_all},
    origin::Origin,
    reader::Reader,
    record::{Body, EncodedRecord, Record},
    retain,
    roll::begin_shard,
    seg::{Segment, entries::Entries, seal::Segments},
    succession,
    tree::{Frontier, Hash},
    wal::WalHeader,
    writer::{Sizes, Writer},
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
    /// Durable records of all logs, those that were given up included.
    pub size: u64,
    /// Root of the tree of the log that is written.
    pub root: Hash,
    /// Size of its last signed checkpoint, which is a prefix of the log.
    pub checkpoint_size: u64,
    /// True when the last record is a `log.close`.
    pub clean_stop: bool,
    /// True when an unfinished group, never acknowledged, was cut off.
    pub cut: bool,
}

/// A shard in both its forms, for this crate and for others.
#[derive(Clone, Debug)]
struct Named {
    shard: Arc<Shard>,
    log: Arc<Log>,
}

impl Named {
    fn new(shard: Arc<Shard>) -> Result<Self, LedgerError> {
        let log = Arc::new(Log::new(shard.vkey.clone(), shard.base)?);
        Ok(Self { shard, log })
    }
}

/// The ledger in local files. Dropping it releases the folder for another process.
#[derive(Debug)]
pub struct FileJournal {
    ledger: PathBuf,
    /// Oldest first; the last is the one that is written.
    shards: RwLock<Vec<Named>>,
    /// Position of the first record that is kept.
    first: AtomicU64,
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
        let shard = Shard::new(ledger, vkey, 0)?;
        let sizes = options.sizes();
        let header = WalHeader {
            number: 1,
            control_head: 0,
            previous_len: 0,
            reserve: sizes.reserve,
            origin_hash: shard.origin_hash(),
            frontier: Frontier::new(),
        };
        let mut writer = begin_shard(&options.disk, &shard, &header, sizes)?;
        writer.append(&[Batch::of([&opening])])?;
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
        write_policy(&*options.disk, ledger, [&shard])?;
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
        // Only what is a ledger gets a lock; who held it until now may have begun another shard.
        read_policy(ledger)?;
        let lock = Lock::take(ledger)?;
        let shards = read_policy(ledger)?;
        let shards: Vec<Arc<Shard>> = shards.into_iter().map(Arc::new).collect();
        let Recovery {
            writer,
            spans,
            entries,
            indexes,
            first,
            checkpoint,
            recovered,
        } = recover_all(ledger, &shards, &options)?;
        let current = shards.last().ok_or(LedgerError::Closed)?;
        kept::keep(&*options.disk, current, &checkpoint)?;
        let (size, control_head) = (recovered.size, writer.control_head);
        Ok(Self {
            ledger: ledger.to_owned(),
            shards: RwLock::new(shards.into_iter().map(Named::new).collect::<Result<_, _>>()?),
            first: AtomicU64::new(first),
            reader: Reader::new(spans, entries, (first, size)),
            segments: Arc::new(Segments::new(first, indexes, Arc::clone(&options.disk))),
            disk: options.disk,
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

    /// The folder of the whole ledger, with one folder for each log below it.
    pub fn ledger(&self) -> &Path {
        &self.ledger
    }

    /// Every log, oldest first; the last is the one that is written.
    pub fn logs(&self) -> Vec<Arc<Log>> {
        self.named().iter().map(|named| named.log.clone()).collect()
    }

    /// The statements by which each log names the next, oldest first.
    ///
    /// # Errors
    /// Fails when one is missing.
    pub fn successions(&self) -> Result<Vec<String>, LedgerError> {
        let shards = self.shards();
        let later = shards.iter().skip(1);
        later.map(|shard| succession::read(shard)).collect()
    }

    /// The state before a log; `None` for the first, and for logs of another ledger.
    ///
    /// # Errors
    /// Fails when it cannot be read.
    pub fn snapshot_of(&self, log: &Log) -> Result<Option<Vec<u8>>, LedgerError> {
        let shard = self.later(log);
        shard.map(|shard| retain::read_snapshot(&shard)).transpose()
    }

    /// The statement by which the log before names this one; `None` as for the snapshot.
    ///
    /// # Errors
    /// Fails when it cannot be read.
    pub fn succession_of(&self, log: &Log) -> Result<Option<Vec<u8>>, LedgerError> {
        let shard = self.later(log);
        shard
            .map(|shard| succession::read(&shard).map(String::into_bytes))
            .transpose()
    }

    fn later(&self, log: &Log) -> Option<Arc<Shard>> {
        let mut later = self.shards().into_iter().skip(1);
        later.find(|shard| shard.origin == *log.origin())
    }

    /// The policy file (C2SP tlog-policy): every log of the ledger with its key.
    ///
    /// # Errors
    /// Fails when it cannot be read.
    pub fn policy(&self) -> Result<Vec<u8>, LedgerError> {
        read_text(&self.ledger)
    }

    /// The disk the ledger is on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The indexes of the sealed segments, for a search over this journal.
    pub fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    fn named(&self) -> Vec<Named> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn current(&self) -> Named {
        let shards = self.shards.read().unwrap_or_else(PoisonError::into_inner);
        // Opening refuses a ledger without one, and none is ever taken away.
        shards[shards.len() - 1].clone()
    }

    /// The shard that is written.
    pub(crate) fn shard(&self) -> Arc<Shard> {
        self.current().shard
    }

    pub(crate) fn shards(&self) -> Vec<Arc<Shard>> {
        self.named().into_iter().map(|named| named.shard).collect()
    }

    /// The shard that holds a position, and the position behind its last record when it is closed.
    pub(crate) fn shard_of(&self, position: u64) -> Option<(Arc<Shard>, Option<u64>)> {
        let shards = self.shards();
        let after = shards.partition_point(|shard| shard.base <= position);
        let shard = shards.get(after.checked_sub(1)?)?;
        Some((shard.clone(), shards.get(after).map(|next| next.base)))
    }

    /// Takes in a segment that was sealed: from now on its records are read from there.
    pub(crate) fn sealed(&self, entries: Arc<Entries>) -> Result<(), LedgerError> {
        self.reader.sealed(entries)
    }

    /// Removes the write-ahead files all of whose records are sealed and lie below the signed checkpoint, so that the next
    /// start still meets the checkpoint's root on its way. The file that is written always stays.
    pub(crate) fn release_sealed(&self) -> Result<(), LedgerError> {
        let checkpoint = self.checkpoint()?;
        let current = self.current();
        // Between two logs the next call will do.
        if checkpoint.checkpoint().origin != current.shard.origin {
            return Ok(());
        }
        let mut released = self
            .reader
            .release(current.log.position_of(checkpoint.checkpoint().size))
            .into_iter();
        while let Some(span) = released.next() {
            if let Err(error) = remove_for_good(&*self.disk, &span.path) {
                // In their order the next time: a start would miss a file between two that are there.
                self.reader.take_back(std::iter::once(span).chain(released));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Lets readers see a group that is durable.
    pub(crate) fn published(&self, writer: &Writer, shard: &Shard, (number, offset): (u64, u64), group: &[Batch]) {
        self.reader.published(shard, number, offset, group);
        let size = shard.base + writer.frontier.size();
        // The control index first: who sees the size sees what came with it.
        self.control_head.store(writer.control_head, Ordering::Release);
        self.size.store(size, Ordering::Release);
        self.changed.send_replace(size);
    }

    pub(crate) fn append_locked(&self, writer: &mut Writer, group: &[Batch]) -> Result<u64, AppendError> {
        let first = writer.shard.base + writer.frontier.size();
        let place = writer.append(group).map_err(|error| self.poison(error))?;
        self.published(writer, &writer.shard, place, group);
        Ok(first)
    }

    /// Goes on with another shard, whose first checkpoint is `first`.
    pub(crate) fn begin(&self, shard: Arc<Shard>, first: SignedCheckpoint) -> Result<Arc<Log>, LedgerError> {
        let named = Named::new(shard)?;
        let log = named.log.clone();
        let mut checkpoint = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        self.shards.write().unwrap_or_else(PoisonError::into_inner).push(named);
        *checkpoint = first;
        Ok(log)
    }

    /// Forgets the records before `first`, which were given up.
    pub(crate) fn forget(&self, first: u64) {
        self.first.store(first, Ordering::Release);
        self.segments.forget(first);
        self.reader.forget(first);
    }

    pub(crate) fn poisoned_by(&self, why: String) -> AppendError {
        self.poison(AppendError::Poisoned(why))
    }

    fn poison(&self, error: AppendError) -> AppendError {
        if let AppendError::Poisoned(why) = &error
            && self.poison.set(why.clone()).is_ok()
        {
            tracing::error!(why = %why, "the ledger is closed for writing");
        }
        error
    }

    pub(crate) fn check_poison(&self) -> Result<(), AppendError> {
        match self.poison.get() {
            Some(why) => Err(AppendError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }

    pub(crate) fn lock_writer(&self) -> Result<MutexGuard<'_, Writer>, AppendError> {
        // A panic while writing leaves the disk unknown, as a failed write does.
        self.writer
            .lock()
            .map_err(|_| self.poison(AppendError::Poisoned("a writer panicked".into())))
    }
}

/// The first record must say which log it begins, under which key.
pub(crate) fn check_opening(opening: &EncodedRecord, vkey: &Vkey) -> Result<(), LedgerError> {
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

/// Makes the names of a new shard's folders durable, up to the one that holds the ledger.
pub(crate) fn sync_parents(disk: &dyn Disk, ledger: &Path, shard: &Shard) -> Result<(), LedgerError> {
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
    fn log(&self) -> Arc<Log> {
        self.current().log
    }

    fn log_of(&self, position: u64) -> Option<Arc<Log>> {
        if position < self.first() {
            return None;
        }
        let named = self.named();
        let after = named.partition_point(|named| named.shard.base <= position);
        named.get(after.checked_sub(1)?).map(|named| named.log.clone())
    }

    fn first(&self) -> u64 {
        self.first.load(Ordering::Acquire)
    }

    fn snapshot(&self) -> Result<Option<Vec<u8>>, LedgerError> {
        match self.first() {
            0 => Ok(None),
            first => retain::snapshot_at(self, first).map(Some),
        }
    }

    fn append_batches(&self, group: &[Batch], control_seen: u64) -> Result<u64, AppendError> {
        let records: usize = group.iter().map(Batch::len).sum();
        let bytes: usize = group.iter().map(Batch::record_bytes).sum();
        if records == 0 || records > GROUP_RECORDS_MAX || bytes > GROUP_BYTES_MAX {
            return Err(AppendError::TooLarge);
        }
        let mut writer = self.lock_writer()?;
        self.check_poison()?;
        if writer.control_head > control_seen {
            return Err(AppendError::Moved {
                control_head: writer.control_head,
            });
        }
        self.append_locked(&mut writer, group)
    }

    fn read_from(&self, index: u64, max: usize) -> Result<Vec<Stored>, LedgerError> {
        self.reader.read_from(index, max)
    }

    fn read_each(&self, positions: &[u64]) -> Result<Vec<Stored>, LedgerError> {
        self.reader.read_each(positions)
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

    fn checkpoint_of(&self, log: &Log) -> Result<SignedCheckpoint, LedgerError> {
        let checkpoint = self.checkpoint()?;
        if checkpoint.checkpoint().origin == *log.origin() {
            return Ok(checkpoint);
        }
        let named = self.named();
        let known = named.iter().find(|named| *named.log == *log);
        known
            .ok_or_else(|| LedgerError::Signature(format!("{} is no log of this ledger", log.origin())))?
            .shard
            .read_checkpoint()
    }

    fn cas_checkpoint(&self, old: u64, new: &SignedCheckpoint) -> Result<(), LedgerError> {
        let head = new.checkpoint();
        let mut stored = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        let shard = self.shard();
        let current = stored.checkpoint().size;
        // A log that is closed meanwhile has its last checkpoint.
        if head.origin != shard.origin || current != old {
            return Err(LedgerError::CheckpointMoved { current, expected: old });
        }
        new.note().verify(&shard.vkey)?;
        let size = self.size().saturating_sub(shard.base);
        if head.size < current || head.size > size {
            return Err(LedgerError::Beyond {
                what: "checkpoint size",
                asked: head.size,
                have: size,
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
        replace(&*self.disk, &shard.checkpoint(), new.to_string().as_bytes())?;
        if Segment::of(head.size) != Segment::of(current) {
            kept::keep(&*self.disk, &shard, &new)?;
        }
        *stored = new;
        Ok(())
    }

    fn add_cosignatures(&self, text: &str, lines: &[NoteSignature]) -> Result<(), LedgerError> {
        let mut stored = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        if stored.note().text() != text {
            return self.add_to_closed(text, lines, stored.checkpoint().size);
        }
        let shard = self.shard();
        let cosigned = stored.with_lines(lines)?;
        cosigned.note().verify(&shard.vkey)?;
        replace(&*self.disk, &shard.checkpoint(), cosigned.to_string().as_bytes())?;
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

impl From<AppendError> for LedgerError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::NoSpace => Self::NoSpace,
            AppendError::Poisoned(why) => Self::Poisoned(why),
            other => Self::Record(other.to_string()),
        }
    }
}
