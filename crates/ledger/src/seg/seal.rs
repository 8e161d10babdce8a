//! Seals segments in the background, and gives back the write-ahead files whose records are sealed.
//!
//! Order: the records' root is compared with the tree's; then entries, then index, each durable before the next; only then
//! may readers use the segment, and only then are write-ahead files removed. A crash at any point leaves the records in at least
//! one place, and what was left half made is made again.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use super::{
    Segment,
    entries::{Entries, EntriesWriter, FRAME_RECORDS},
    index::SealedIndex,
    index_writer::IndexWriter,
    write_sealed,
};
use crate::{
    LedgerError,
    disk::{Disk, LocalDisk, make_dir, remove_if_there},
    file::FileJournal,
    follow::Sink,
    journal::{Journal, Stored},
    layout::Shard,
    limits::{SEGMENT_RECORDS, UNSEALED_SEGMENTS_MAX},
    proof::HashSource,
    tiles::Tree,
    tree::{Frontier, Hash},
    trees::Trees,
};

/// Levels of the tree above the leaves at which a segment is one node.
const SEGMENT_LEVEL: u8 = SEGMENT_RECORDS.trailing_zeros() as u8;

/// The indexes of the sealed segments of all shards, first to last, shared by the journal that seals and the search that
/// reads.
#[derive(Debug)]
pub struct Segments {
    sealed: RwLock<Sealed>,
    /// Where an index that is damaged is made again.
    disk: Arc<dyn Disk>,
    /// Held while one is, so that it is made once.
    mending: Mutex<()>,
}

impl Default for Segments {
    fn default() -> Self {
        Self::new(0, Vec::new(), Arc::new(LocalDisk))
    }
}

/// What is sealed at a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sealed {
    /// Position of the first record that is kept.
    pub(crate) first: u64,
    pub(crate) indexes: Arc<Vec<Arc<SealedIndex>>>,
}

impl Sealed {
    /// Position of the first record that is not sealed.
    pub(crate) fn end(&self) -> u64 {
        self.indexes.last().map_or(self.first, |last| last.end())
    }
}

impl Segments {
    /// The indexes of segments that follow one another from position `first` on.
    pub(crate) fn new(first: u64, indexes: Vec<Arc<SealedIndex>>, disk: Arc<dyn Disk>) -> Self {
        Self {
            sealed: RwLock::new(Sealed {
                first,
                indexes: Arc::new(indexes),
            }),
            disk,
            mending: Mutex::default(),
        }
    }

    /// Asks an index. When the answer meets damage, the index is made again from the segment's records in its place and asked
    /// once more: that takes as long as sealing a segment, and only those wait for it who ask this segment.
    ///
    /// # Errors
    /// Fails when the records are damaged or given up too, or there is no room for the index; and as the question does.
    pub(crate) fn ask<T>(
        &self,
        index: &Arc<SealedIndex>,
        mut question: impl FnMut(&SealedIndex) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        match question(index) {
            Err(LedgerError::Derived { .. }) => question(&*self.mend(index)?),
            answer => answer,
        }
    }

    fn mend(&self, damaged: &Arc<SealedIndex>) -> Result<Arc<SealedIndex>, LedgerError> {
        let _one = self.mending.lock().unwrap_or_else(PoisonError::into_inner);
        let Sealed { first, indexes } = self.list();
        let index = damaged.first();
        let listed = indexes.iter().find(|listed| listed.first() == index);
        let listed = listed.ok_or(LedgerError::Released { index, first })?;
        if !Arc::ptr_eq(listed, damaged) {
            return Ok(Arc::clone(listed));
        }
        let made = make_index(damaged.path().to_owned(), &*self.disk, &damaged.entries()?)?;
        let made = Arc::new(made);
        tracing::warn!(path = %made.path().display(), "a segment's index was made again from its records");
        let mut sealed = self.sealed.write().unwrap_or_else(PoisonError::into_inner);
        let mut mended = sealed.indexes.as_ref().clone();
        let places = mended.iter_mut().filter(|listed| listed.first() == index);
        places.for_each(|listed| *listed = Arc::clone(&made));
        sealed.indexes = Arc::new(mended);
        Ok(made)
    }

    pub(crate) fn list(&self) -> Sealed {
        self.sealed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, index: Arc<SealedIndex>) {
        let mut sealed = self.sealed.write().unwrap_or_else(PoisonError::into_inner);
        let mut longer = sealed.indexes.as_ref().clone();
        longer.push(index);
        sealed.indexes = Arc::new(longer);
    }

    /// Lets go of the segments before `first`.
    pub(crate) fn forget(&self, first: u64) {
        let mut sealed = self.sealed.write().unwrap_or_else(PoisonError::into_inner);
        let kept = sealed.indexes.iter().filter(|index| index.first() >= first);
        sealed.indexes = Arc::new(kept.cloned().collect());
        sealed.first = sealed.first.max(first);
    }

    /// Position of the first record that is not sealed.
    pub fn end(&self) -> u64 {
        self.list().end()
    }

    /// Records that are sealed.
    pub fn records(&self) -> u64 {
        let sealed = self.list();
        sealed.end() - sealed.first
    }

    /// Bytes of the indexes' files.
    pub fn index_bytes(&self) -> u64 {
        self.list().indexes.iter().map(|index| index.len()).sum()
    }
}

/// What a start finds sealed of one shard.
pub(crate) struct Found {
    base: u64,
    pub(crate) entries: Vec<Arc<Entries>>,
    pub(crate) indexes: Vec<Arc<SealedIndex>>,
}

impl Found {
    /// Leaves of the shard that are sealed.
    pub(crate) fn records(&self) -> u64 {
        self.entries.iter().map(|entries| u64::from(entries.count())).sum()
    }

    /// Root of the shard's first `size` leaves, hashed anew.
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
            for stored in entries.read_from(self.base + edge.size(), most)? {
                edge.push(stored.leaf_hash());
            }
        }
        Ok(edge.root())
    }
}

/// Opens the sealed segments of a shard, first to last; one that is closed has so many leaves as `closed` says, and its last
/// segment may be short. An index that is missing or damaged is made again from its entries; without `disk` nothing is
/// written: a missing one is left out, with all after it, and a damaged one is refused.
pub(crate) fn find(shard: &Shard, disk: Option<&dyn Disk>, closed: Option<u64>) -> Result<Found, LedgerError> {
    let mut found = Found {
        base: shard.base,
        entries: Vec::new(),
        indexes: Vec::new(),
    };
    loop {
        let segment = Segment(found.entries.len() as u64);
        if !segment.entries(shard).exists() {
            break;
        }
        let entries = Entries::open(shard, segment)?;
        let is_last = closed == Some(segment.first() + u64::from(entries.count()));
        if entries.count() as usize != SEGMENT_RECORDS && !is_last {
            return Err(LedgerError::Corrupt {
                path: segment.entries(shard),
                offset: 0,
                index: entries.first(),
                problem: format!(
                    "the segment holds {} records and not {SEGMENT_RECORDS}",
                    entries.count()
                ),
            });
        }
        let index = match (SealedIndex::open(shard, segment), disk) {
            (Ok(index), _) if index.count() == entries.count() => Some(index),
            (outcome, Some(disk)) => {
                tracing::warn!(segment = segment.0, error = ?outcome.err(), "a segment's index is made again from its records");
                Some(make_index(segment.index(shard), disk, &entries)?)
            }
            (Err(LedgerError::Missing { .. }), None) => None,
            (Err(error), None) => return Err(error),
            (Ok(index), None) => return Err(index.other_count(entries.count())),
        };
        found.entries.push(Arc::new(entries));
        if found.indexes.len() + 1 == found.entries.len() {
            found.indexes.extend(index.map(Arc::new));
        }
        if is_last {
            break;
        }
    }
    Ok(found)
}

fn make_index(path: PathBuf, disk: &dyn Disk, entries: &Entries) -> Result<SealedIndex, LedgerError> {
    let mut writer = IndexWriter::default();
    for frame in 0..(entries.count() as usize).div_ceil(FRAME_RECORDS) {
        entries.frame(frame)?.iter().for_each(|stored| writer.push(stored));
    }
    let of = &entries.sealed.label;
    write_sealed(disk, &path, &writer.finish(of.origin_hash, of.first))?;
    SealedIndex::open_beside(path, entries)
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

/// The follower that seals. It reads nothing until a segment is full and the log is quiet, or too much is unsealed; what is left
/// of a closed shard is sealed as its last segment.
#[derive(Debug)]
pub struct Sealer {
    journal: Arc<FileJournal>,
    trees: Arc<Trees>,
    seen: u64,
}

/// A segment that can be sealed now.
struct Ripe {
    shard: Arc<Shard>,
    segment: Segment,
    records: u64,
    closed: bool,
}

impl Sealer {
    /// How long the follower of a sealer rests between two looks: a log that did not grow in that time is quiet.
    pub const PACE: Duration = Duration::from_secs(1);

    /// Seals the segments of `journal`, whose trees are `trees`.
    pub fn new(journal: Arc<FileJournal>, trees: Arc<Trees>) -> Self {
        Self {
            seen: journal.size(),
            journal,
            trees,
        }
    }

    /// The next segment, when all its records are there.
    fn ripe(&self) -> Option<Ripe> {
        let next = self.journal.segments().end();
        let (shard, end) = self.journal.shard_of(next)?;
        let segment = Segment::of(next - shard.base);
        let records = match end {
            Some(end) => (end - next).min(SEGMENT_RECORDS as u64),
            None => SEGMENT_RECORDS as u64,
        };
        Some(Ripe {
            shard,
            segment,
            records,
            closed: end.is_some(),
        })
    }

    /// Seals the next segment if all its records are there and in the tree; true when it did.
    ///
    /// # Errors
    /// `NoSpace` and `Io` may pass; other errors say that records and tree differ.
    pub fn seal_next(&mut self) -> Result<bool, LedgerError> {
        let Some(ripe) = self.ripe() else { return Ok(false) };
        let Some(tree) = self.trees.of(&ripe.shard, ripe.closed)? else {
            return Ok(false);
        };
        let (shard, segment) = (&*ripe.shard, ripe.segment);
        let end = segment.first() + ripe.records;
        if tree.size() < end {
            return Ok(false);
        }
        let (mut entries, mut index) = (
            EntriesWriter::new(shard.origin_hash(), segment.first())?,
            IndexWriter::default(),
        );
        let mut edge = edge_at(&tree, segment)?;
        while edge.size() < end {
            let most = (end - edge.size()).min(FRAME_RECORDS as u64) as usize;
            for stored in self.journal.read_from(shard.base + edge.size(), most)? {
                entries.push(stored.bytes())?;
                index.push(&stored);
                edge.push(stored.leaf_hash());
            }
        }
        if tree.root_at(end)? != edge.root() {
            return Err(LedgerError::Forked {
                size: end,
                what: "the tree",
            });
        }
        let disk = self.journal.disk();
        make_dir(&shard.dir.join("seg"))?;
        write_sealed(&**disk, &segment.entries(shard), &entries.finish()?)?;
        let index = index.finish(shard.origin_hash(), segment.first());
        write_sealed(&**disk, &segment.index(shard), &index)?;
        // Both before either is taken in: an error that passes leaves the segment to be sealed again.
        let entries = Arc::new(Entries::open(shard, segment)?);
        let index = Arc::new(SealedIndex::open(shard, segment)?);
        self.journal.sealed(entries)?;
        self.journal.segments().add(index);
        Ok(true)
    }
}

/// The tree's edge before a segment: each hash stands for whole segments.
fn edge_at(tree: &Tree, segment: Segment) -> Result<Frontier, LedgerError> {
    let (mut peaks, mut from) = (Vec::new(), 0);
    for height in (0..u64::BITS).rev().filter(|height| segment.0 >> height & 1 == 1) {
        peaks.push(tree.node(SEGMENT_LEVEL + height as u8, from >> height)?);
        from += 1 << height;
    }
    Frontier::from_parts(segment.first(), peaks)
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
        // A file that cannot be removed now is tried again, and hinders no sealing meanwhile.
        let removed = self.journal.release_sealed();
        let wish = self.seal_when_due(size, grown)?;
        removed.map(|()| wish)
    }
}

impl Sealer {
    /// Seals the next segment of a log of `size` records that has `grown` by so many since the last look, when it is time; when
    /// to look again.
    fn seal_when_due(&mut self, size: u64, grown: u64) -> Result<Option<Duration>, LedgerError> {
        let Some(ripe) = self.ripe() else { return Ok(None) };
        let unsealed = size - self.journal.segments().end();
        if unsealed < ripe.records {
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
