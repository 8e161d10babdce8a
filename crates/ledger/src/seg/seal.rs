//! Seals segments in the background, and gives back the write-ahead files whose records are sealed.
//!
//! Order: the records' root is compared with the tree's; then entries, then index, each durable before the next; only then
//! may readers use the segment, and only then are write-ahead files removed. A crash at any point leaves the records in at least
//! one place, and what was left half made is made again.

use std::{
    fs,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use super::{
    Segment,
    entries::{Entries, EntriesWriter, FRAME_RECORDS},
    index::{IndexWriter, SealedIndex},
    write_sealed,
};
use crate::{
    LedgerError,
    disk::{Disk, make_dir, remove_if_there},
    file::FileJournal,
    follow::Sink,
    journal::{Journal, Stored},
    layout::Shard,
    limits::{SEGMENT_RECORDS, UNSEALED_SEGMENTS_MAX},
    proof::HashSource,
    tiles::Tree,
    tree::{Frontier, Hash, sha256},
};

/// Levels of the tree above the leaves at which a segment is one node.
const SEGMENT_LEVEL: u8 = SEGMENT_RECORDS.trailing_zeros() as u8;

/// The indexes of the sealed segments, first to last, shared by the journal that seals and the search that reads.
#[derive(Debug, Default)]
pub struct Segments {
    indexes: RwLock<Arc<Vec<Arc<SealedIndex>>>>,
}

impl Segments {
    pub(crate) fn new(indexes: Vec<Arc<SealedIndex>>) -> Self {
        Self {
            indexes: RwLock::new(Arc::new(indexes)),
        }
    }

    pub(crate) fn list(&self) -> Arc<Vec<Arc<SealedIndex>>> {
        Arc::clone(&self.indexes.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, index: Arc<SealedIndex>) {
        let mut indexes = self.indexes.write().unwrap_or_else(PoisonError::into_inner);
        let mut longer = indexes.as_ref().clone();
        longer.push(index);
        *indexes = Arc::new(longer);
    }

    /// Records that are sealed.
    pub fn records(&self) -> u64 {
        self.list().iter().map(|index| u64::from(index.count())).sum()
    }

    /// Bytes of the indexes' files.
    pub fn index_bytes(&self) -> u64 {
        self.list().iter().map(|index| index.len()).sum()
    }
}

/// What a start finds sealed.
pub(crate) struct Found {
    pub(crate) entries: Vec<Arc<Entries>>,
    pub(crate) indexes: Vec<Arc<SealedIndex>>,
}

impl Found {
    /// Records that are sealed.
    pub(crate) fn records(&self) -> u64 {
        self.entries.iter().map(|entries| u64::from(entries.count())).sum()
    }

    /// Root of the first `size` records, hashed anew.
    pub(crate) fn root_at(&self, size: u64) -> Result<Hash, LedgerError> {
        let mut edge = Frontier::new();
        while edge.size() < size {
            let entries = usize::try_from(Segment::of(edge.size()).0)
                .ok()
                .and_then(|at| self.entries.get(at));
            let entries = entries.ok_or(LedgerError::Beyond {
                what: "tree size",
                asked: size,
                have: self.records(),
            })?;
            let most = usize::try_from(size - edge.size()).unwrap_or(usize::MAX);
            for stored in entries.read_from(edge.size(), most)? {
                edge.push(stored.leaf_hash());
            }
        }
        Ok(edge.root())
    }
}

/// Opens the sealed segments of a shard, first to last. An index that is missing or damaged is made again from its entries;
/// without `disk` nothing is written: a missing one is left out, with all after it, and a damaged one is refused.
pub(crate) fn find(shard: &Shard, disk: Option<&dyn Disk>) -> Result<Found, LedgerError> {
    let origin_hash = sha256(shard.origin.as_str().as_bytes());
    let mut found = Found {
        entries: Vec::new(),
        indexes: Vec::new(),
    };
    loop {
        let segment = Segment(found.entries.len() as u64);
        let path = segment.entries(shard);
        if !path.exists() {
            break;
        }
        let entries = Entries::open(path.clone(), origin_hash, segment.first())?;
        if entries.count() as usize != SEGMENT_RECORDS {
            return Err(LedgerError::Corrupt {
                path,
                offset: 0,
                index: segment.first(),
                problem: format!(
                    "the segment holds {} records and not {SEGMENT_RECORDS}",
                    entries.count()
                ),
            });
        }
        let opened = SealedIndex::open(segment.index(shard), origin_hash, segment.first());
        let index = match (opened, disk) {
            (Ok(index), _) if index.count() == entries.count() => Some(index),
            (outcome, Some(disk)) => {
                tracing::warn!(segment = segment.0, error = ?outcome.err(), "a segment's index is made again from its records");
                Some(make_index(shard, disk, &entries)?)
            }
            (Err(LedgerError::Missing { .. }), None) => None,
            (Err(error), None) => return Err(error),
            (Ok(index), None) => return Err(index.other_count(entries.count())),
        };
        found.entries.push(Arc::new(entries));
        if found.indexes.len() + 1 == found.entries.len() {
            found.indexes.extend(index.map(Arc::new));
        }
    }
    Ok(found)
}

fn make_index(shard: &Shard, disk: &dyn Disk, entries: &Entries) -> Result<SealedIndex, LedgerError> {
    let origin_hash = sha256(shard.origin.as_str().as_bytes());
    let mut writer = IndexWriter::default();
    for frame in 0..(entries.count() as usize).div_ceil(FRAME_RECORDS) {
        entries.frame(frame)?.iter().for_each(|stored| writer.push(stored));
    }
    let path = Segment::of(entries.first()).index(shard);
    write_sealed(disk, &path, &writer.finish(origin_hash, entries.first()))?;
    SealedIndex::open(path, origin_hash, entries.first())
}

/// Removes files that were left half made.
pub(crate) fn clean(shard: &Shard) -> Result<(), LedgerError> {
    let dir = shard.dir.join("seg");
    let Ok(listed) = fs::read_dir(&dir) else { return Ok(()) };
    for file in listed {
        let path = file.map_err(LedgerError::io("list", &dir))?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

/// The follower that seals. It reads nothing until a segment is full and the log is quiet, or too much is unsealed.
#[derive(Debug)]
pub struct Sealer {
    journal: Arc<FileJournal>,
    tree: Arc<Tree>,
    seen: u64,
}

impl Sealer {
    /// How long the follower of a sealer rests between two looks: a log that did not grow in that time is quiet.
    pub const PACE: Duration = Duration::from_secs(1);

    /// Seals the segments of `journal`, whose tree is `tree`.
    pub fn new(journal: Arc<FileJournal>, tree: Arc<Tree>) -> Self {
        Self {
            seen: journal.size(),
            journal,
            tree,
        }
    }

    /// Seals the next segment if it is full and in the tree; true when it did.
    ///
    /// # Errors
    /// `NoSpace` and `Io` may pass; other errors say that records and tree differ.
    pub fn seal_next(&mut self) -> Result<bool, LedgerError> {
        let segment = Segment(self.journal.segments().list().len() as u64);
        let end = segment.first() + SEGMENT_RECORDS as u64;
        if self.tree.size() < end {
            return Ok(false);
        }
        let shard = self.journal.shard();
        let origin_hash = sha256(shard.origin.as_str().as_bytes());
        let (mut entries, mut index) = (
            EntriesWriter::new(origin_hash, segment.first())?,
            IndexWriter::default(),
        );
        let mut edge = Frontier::new();
        while edge.size() < SEGMENT_RECORDS as u64 {
            let next = segment.first() + edge.size();
            let most = (end - next).min(FRAME_RECORDS as u64) as usize;
            for stored in self.journal.read_from(next, most)? {
                entries.push(stored.bytes())?;
                index.push(&stored);
                edge.push(stored.leaf_hash());
            }
        }
        if self.tree.node(SEGMENT_LEVEL, segment.0)? != edge.root() {
            return Err(LedgerError::Forked {
                size: end,
                what: "the tree",
            });
        }
        let disk = self.journal.disk();
        make_dir(&shard.dir.join("seg"))?;
        write_sealed(&**disk, &segment.entries(shard), &entries.finish()?)?;
        write_sealed(
            &**disk,
            &segment.index(shard),
            &index.finish(origin_hash, segment.first()),
        )?;
        let entries = Entries::open(segment.entries(shard), origin_hash, segment.first())?;
        let index = SealedIndex::open(segment.index(shard), origin_hash, segment.first())?;
        self.journal.sealed(Arc::new(entries))?;
        self.journal.segments().add(Arc::new(index));
        Ok(true)
    }
}

impl Sink for Sealer {
    fn name(&self) -> &'static str {
        "sealer"
    }

    /// It wants no records pushed: it reads a whole segment when it is time.
    fn next(&self) -> u64 {
        self.journal.size()
    }

    fn apply(&mut self, _: u64, _: &[Stored]) -> Result<(), LedgerError> {
        Ok(())
    }

    fn caught_up(&mut self) -> Result<Option<Duration>, LedgerError> {
        let size = self.journal.size();
        let grown = size - std::mem::replace(&mut self.seen, size);
        self.journal.release_sealed()?;
        let unsealed = size - self.journal.segments().records();
        if unsealed < SEGMENT_RECORDS as u64 {
            return Ok(None);
        }
        // Under load the cores belong to those who wait for a certificate, but not without limit.
        let due = grown == 0 || unsealed >= UNSEALED_SEGMENTS_MAX * SEGMENT_RECORDS as u64;
        if due && self.seal_next()? {
            self.journal.release_sealed()?;
        }
        Ok(Some(Self::PACE))
    }
}
