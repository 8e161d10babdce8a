//! Reads records by their position in the ledger: recent ones from memory, older ones from the write-ahead files, the oldest from sealed segments.

use std::{
    collections::VecDeque,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    LedgerError,
    batch::Batch,
    journal::Stored,
    layout::Shard,
    limits::{CACHE_BYTES_MAX, CACHE_RECORDS_MAX, POSITION_EVERY, READ_BYTES_MAX, READ_RECORDS_MAX},
    recovery::Position,
    seg::entries::Entries,
    wal::{FrameKind, GroupHead, NoFrame, read_frame},
};

/// Bytes read from a file at first: one record costs one read of about the distance between two known positions.
const CHUNK_BYTES: usize = 160 * 1024;
/// Bytes read from a file after that.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// Which write-ahead file: that of a shard, by the position of its first record, and the file's number in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(crate) base: u64,
    pub(crate) number: u64,
}

/// One write-ahead file as the reader knows it.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) id: FileId,
    pub(crate) path: PathBuf,
    /// Beginnings of groups, ascending, by position in the ledger; the first is the file's first group.
    pub(crate) positions: Vec<Position>,
}

impl Span {
    /// A file of a shard, whose groups begin at these leaves.
    pub(crate) fn new(shard: &Shard, number: u64, groups: &[Position]) -> Self {
        let placed = |group: &Position| Position {
            index: shard.base.saturating_add(group.index),
            offset: group.offset,
        };
        Self {
            id: FileId {
                base: shard.base,
                number,
            },
            path: shard.wal(number),
            positions: groups.iter().map(placed).collect(),
        }
    }

    fn first(&self) -> u64 {
        self.positions.first().map_or(0, |position| position.index)
    }
}

/// A batch in its place.
#[derive(Debug)]
struct Recent {
    /// Position of its first record.
    first: u64,
    batch: Batch,
}

#[derive(Debug, Default)]
struct Known {
    /// The last batches, without a gap.
    recent: VecDeque<Recent>,
    recent_records: usize,
    recent_bytes: usize,
    spans: Vec<Span>,
    sealed: Vec<Arc<Entries>>,
    /// Where the last read from a file ended: the next one usually begins there.
    hint: Option<(FileId, Position)>,
    /// The first record that can be read.
    first: u64,
    size: u64,
}

impl Known {
    /// Lets the oldest batches go while there is more than is to be kept.
    fn evict(&mut self) {
        while self.recent_records > CACHE_RECORDS_MAX || self.recent_bytes > CACHE_BYTES_MAX {
            let Some(oldest) = self.recent.pop_front() else { break };
            self.recent_records -= oldest.batch.len();
            self.recent_bytes -= oldest.batch.record_bytes();
        }
    }

    /// Position of the first record that is not sealed.
    fn sealed_end(&self) -> u64 {
        self.sealed.last().map_or(self.first, |last| last.end())
    }

    /// The sealed segment that holds a record.
    fn sealed_at(&self, index: u64) -> Option<&Arc<Entries>> {
        let at = self.sealed.partition_point(|entries| entries.end() <= index);
        self.sealed.get(at).filter(|entries| entries.first() <= index)
    }
}

/// The read side of the local files.
#[derive(Debug)]
pub(crate) struct Reader {
    known: Mutex<Known>,
}

impl Reader {
    /// The records from position `first` to `size`.
    pub(crate) fn new(spans: Vec<Span>, sealed: Vec<Arc<Entries>>, (first, size): (u64, u64)) -> Self {
        Self {
            known: Mutex::new(Known {
                spans,
                sealed,
                first,
                size,
                ..Known::default()
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Each holder leaves whole values behind, panic or not.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a durable group that begins at `offset` of a file.
    pub(crate) fn published(&self, shard: &Shard, number: u64, offset: u64, group: &[Batch]) {
        let mut known = self.lock();
        let first = known.size;
        let position = Position { index: first, offset };
        let id = FileId {
            base: shard.base,
            number,
        };
        match known.spans.last_mut() {
            Some(span) if span.id == id => {
                let last = span.positions.last().map_or(0, |position| position.index);
                if first >= last + POSITION_EVERY {
                    span.positions.push(position);
                }
            }
            _ => known.spans.push(Span {
                id,
                path: shard.wal(number),
                positions: vec![position],
            }),
        }
        for batch in group {
            let first = known.size;
            known.recent_records += batch.len();
            known.recent_bytes += batch.record_bytes();
            known.size += batch.len() as u64;
            known.recent.push_back(Recent {
                first,
                batch: batch.clone(),
            });
        }
        known.evict();
    }

    /// Takes in the next sealed segment.
    pub(crate) fn sealed(&self, entries: Arc<Entries>) -> Result<(), LedgerError> {
        let mut known = self.lock();
        let end = known.sealed_end();
        if entries.first() != end {
            return Err(LedgerError::Beyond {
                what: "segment",
                asked: entries.first(),
                have: end,
            });
        }
        known.sealed.push(entries);
        Ok(())
    }

    /// Forgets the files that are not needed any more, and gives them out to be removed: what follows them begins in a sealed segment and below
    /// `signed`, a position too.
    pub(crate) fn release(&self, signed: u64) -> Vec<Span> {
        let mut known = self.lock();
        let until = known.sealed_end().min(signed.saturating_sub(1));
        let keep = known
            .spans
            .partition_point(|span| span.first() <= until)
            .saturating_sub(1);
        known.spans.drain(..keep).collect()
    }

    /// Remembers files that were released last and could not be removed.
    pub(crate) fn take_back(&self, spans: impl Iterator<Item = Span>) {
        self.lock().spans.splice(..0, spans);
    }

    /// Forgets the segments before `first`: their records were given up.
    pub(crate) fn forget(&self, first: u64) {
        let mut known = self.lock();
        known.sealed.retain(|entries| entries.first() >= first);
        known.first = known.first.max(first);
    }

    pub(crate) fn read_from(&self, index: u64, max: usize) -> Result<Vec<Stored>, LedgerError> {
        match self.read_open(index, max) {
            // The file was released in the meantime: its records are sealed by now.
            Err(LedgerError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                self.read_open(index, max)
            }
            outcome => outcome,
        }
    }

    /// The records at these positions, in the order they are named. Neighbours in the list that lie in one frame of a sealed
    /// segment cost one unpacking of it.
    pub(crate) fn read_each(&self, positions: &[u64]) -> Result<Vec<Stored>, LedgerError> {
        let mut found = Vec::with_capacity(positions.len());
        let mut rest = positions;
        while let Some(&position) = rest.first() {
            let Some(entries) = self.sealed_alone(position) else {
                let one = self.read_from(position, 1)?.pop();
                found.push(one.ok_or_else(|| LedgerError::Beyond {
                    what: "record",
                    asked: position,
                    have: self.lock().size,
                })?);
                rest = &rest[1..];
                continue;
            };
            let frame = entries.frame_of(position);
            let is_there =
                |other: &&u64| (entries.first()..entries.end()).contains(*other) && entries.frame_of(**other) == frame;
            let (here, later) = rest.split_at(rest.iter().take_while(is_there).count());
            found.extend(entries.read_each(here)?);
            rest = later;
        }
        Ok(found)
    }

    /// The sealed segment from which a record is read, when it is.
    fn sealed_alone(&self, position: u64) -> Option<Arc<Entries>> {
        let known = self.lock();
        let is_kept = (known.first..known.size).contains(&position);
        let in_memory = known.recent.front().is_some_and(|oldest| oldest.first <= position);
        match is_kept && !in_memory {
            true => known.sealed_at(position).cloned(),
            false => None,
        }
    }

    fn read_open(&self, index: u64, max: usize) -> Result<Vec<Stored>, LedgerError> {
        let max = max.min(READ_RECORDS_MAX);
        let mut known = self.lock();
        if index >= known.size || max == 0 {
            return Ok(Vec::new());
        }
        if index < known.first {
            return Err(LedgerError::Released {
                index,
                first: known.first,
            });
        }
        if let Some(recent) = from_memory(&known.recent, index, max) {
            return Ok(recent);
        }
        // Before the files, which may be gone though their removal failed as far as is known.
        if let Some(entries) = known.sealed_at(index) {
            let entries = Arc::clone(entries);
            drop(known);
            return entries.read_from(index, max);
        }
        let size = known.size;
        let at = known
            .spans
            .partition_point(|span| span.first() <= index)
            .saturating_sub(1);
        let span = known.spans.get(at).ok_or(LedgerError::Beyond {
            what: "record",
            asked: index,
            have: size,
        })?;
        let (id, path, end) = (
            span.id,
            span.path.clone(),
            known.spans.get(at + 1).map_or(size, Span::first),
        );
        let nearest = span
            .positions
            .partition_point(|position| position.index <= index)
            .saturating_sub(1);
        let mut start = span
            .positions
            .get(nearest)
            .copied()
            .unwrap_or(Position { index: 0, offset: 0 });
        if let Some((hinted, position)) = known.hint
            && hinted == id
            && (start.index..=index).contains(&position.index)
        {
            start = position;
        }
        drop(known);
        let mut walk = Walk {
            path: &path,
            base: id.base,
            index,
            end: end.min(index.saturating_add(max as u64)),
            out: Vec::new(),
            bytes: 0,
            learned: Vec::new(),
        };
        let stopped = walk.run(start)?;
        known = self.lock();
        known.hint = Some((id, stopped));
        if let Some(span) = known.spans.iter_mut().find(|span| span.id == id) {
            learn(span, &walk.learned);
        }
        Ok(walk.out)
    }
}

fn from_memory(recent: &VecDeque<Recent>, index: u64, max: usize) -> Option<Vec<Stored>> {
    let holds = recent.partition_point(|recent| recent.first <= index).checked_sub(1)?;
    let (mut bytes, mut out) = (0, Vec::new());
    for Recent { first, batch } in recent.range(holds..) {
        let from = usize::try_from(index.saturating_sub(*first)).ok()?;
        for at in from..batch.len() {
            bytes += batch.len_of(at);
            if out.len() == max || bytes > READ_BYTES_MAX {
                return Some(out);
            }
            out.extend(batch.stored(*first, at));
        }
    }
    Some(out)
}

/// Keeps positions that were met on the way to where none was known.
fn learn(span: &mut Span, learned: &[Position]) {
    for position in learned {
        let at = span.positions.partition_point(|known| known.index <= position.index);
        let before = at
            .checked_sub(1)
            .and_then(|at| span.positions.get(at))
            .map_or(0, |known| known.index);
        let after = span.positions.get(at).map_or(u64::MAX, |known| known.index);
        if position.index >= before + POSITION_EVERY && after >= position.index + POSITION_EVERY {
            span.positions.insert(at, *position);
        }
    }
}

/// One pass over a part of a file.
struct Walk<'a> {
    path: &'a Path,
    /// Position of the shard's first record: the file counts leaves.
    base: u64,
    index: u64,
    end: u64,
    out: Vec<Stored>,
    bytes: usize,
    learned: Vec<Position>,
}

impl Walk<'_> {
    /// Walks from a known position; returns where it stopped.
    fn run(&mut self, start: Position) -> Result<Position, LedgerError> {
        let file = File::open(self.path).map_err(LedgerError::io("open", self.path))?;
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut place = start;
        loop {
            let filled = read_up_to(&file, &mut buffer, place.offset).map_err(LedgerError::io("read", self.path))?;
            let begun = place;
            while place.index < self.end && self.bytes < READ_BYTES_MAX {
                let at = usize::try_from(place.offset - begun.offset).unwrap_or(usize::MAX);
                match self.frame(&buffer[at.min(filled)..filled], &mut place) {
                    Ok(()) => {}
                    Err(NoFrame::Short) if place.offset > begun.offset => break,
                    Err(_) => {
                        return Err(LedgerError::Corrupt {
                            path: self.path.to_owned(),
                            offset: place.offset,
                            index: place.index,
                            problem: "a record that was acknowledged is damaged".into(),
                        });
                    }
                }
            }
            if place.index >= self.end || self.bytes >= READ_BYTES_MAX {
                return Ok(place);
            }
            buffer.resize(CHUNK_BYTES_MAX, 0);
        }
    }

    fn frame(&mut self, rest: &[u8], place: &mut Position) -> Result<(), NoFrame> {
        let frame = read_frame(rest)?;
        match frame.kind {
            FrameKind::Record => {
                if place.index >= self.index {
                    self.bytes += frame.payload.len();
                    self.out.push(Stored::new(place.index, frame.payload, None));
                }
                place.index += 1;
            }
            FrameKind::GroupHead => {
                let head = GroupHead::read(frame.payload).ok_or(NoFrame::Bad)?;
                if self.base.saturating_add(head.first) != place.index {
                    return Err(NoFrame::Bad);
                }
                let last = self.learned.last().map_or(0, |position| position.index);
                if place.index >= last + POSITION_EVERY {
                    self.learned.push(*place);
                }
            }
            FrameKind::Trailer => {}
            FrameKind::Header | FrameKind::Next => return Err(NoFrame::Bad),
        }
        place.offset += frame.len() as u64;
        Ok(())
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
