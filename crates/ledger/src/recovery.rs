//! Reads a write-ahead file as it was left, and decides between a clean end, a cut and a refusal.
//!
//! Only the last group can be torn by a crash, because the next one is written after the last was flushed. A torn group
//! is one that was never acknowledged, and is cut. Everything else that does not fit is damage to acknowledged bytes,
//! and is refused with its place. The two are told apart by what a crash can leave behind: groups are written into
//! zero-filled space, so a torn group is its true bytes with a zero tail or with whole sectors still zero; and nothing
//! lies after it.

use std::path::Path;

use crate::{
    LedgerError,
    facts::Outline,
    layout::Shard,
    limits::{GROUP_BYTES_MAX, GROUP_RECORDS_MAX, POSITION_EVERY, WAL_BYTES_MAX},
    tree::{Frontier, Hash, leaf_hash},
    wal::{FRAME_HEAD, Frame, FrameKind, GroupHead, Trailer, WalHeader, read_frame},
};

/// The smallest unit a disk writes whole.
const SECTOR: usize = 512;
/// No group is longer: its records, a frame head for each, its head and its trailer.
const GROUP_SPAN_MAX: usize = GROUP_BYTES_MAX + GROUP_RECORDS_MAX * FRAME_HEAD + 1024;
/// No file is longer: the size limit, one group over it and one step of reserved space.
pub(crate) const FILE_BYTES_MAX: u64 = 2 * WAL_BYTES_MAX;

/// Where a record's group begins in a file. The index is that of the leaf here, and the ledger's in the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) index: u64,
    pub(crate) offset: u64,
}

/// How a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// In reserved space.
    Space,
    /// With the frame that says the next file exists.
    Next,
    /// With a group that was torn by a crash and never acknowledged.
    Torn,
    /// Behind a whole group, but where space was reserved the file is over: groups may have followed.
    Truncated,
}

/// A file that was read to its end.
#[derive(Clone, Debug)]
pub(crate) struct Scanned {
    pub(crate) header: WalHeader,
    /// End of the last whole group.
    pub(crate) end: u64,
    pub(crate) frontier: Frontier,
    pub(crate) control_head: u64,
    pub(crate) positions: Vec<Position>,
    pub(crate) ending: Ending,
}

/// A record as it was found in a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) offset: u64,
    pub(crate) bytes: &'a [u8],
    pub(crate) leaf: Hash,
}

/// What a scan meets on its way.
pub(crate) trait Visitor {
    /// Called for each record of a whole group, in order, with the index of its leaf.
    fn record(&mut self, record: &Found<'_>, index: u64) -> Result<(), LedgerError>;

    /// True when the visitor wants to know the root at this size.
    fn wants_root(&self, size: u64) -> bool;

    /// Called with the root at such a size, when the scan passes it.
    fn root(&mut self, size: u64, root: Hash) -> Result<(), LedgerError>;
}

/// Compares the tree with a root it had at some size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RootAt {
    pub(crate) size: u64,
    pub(crate) root: Hash,
    pub(crate) met: bool,
}

impl RootAt {
    pub(crate) fn compare(&mut self, root: Hash) -> Result<(), LedgerError> {
        self.met = true;
        if root != self.root {
            return Err(LedgerError::Forked {
                size: self.size,
                what: "the last signed checkpoint",
            });
        }
        Ok(())
    }
}

/// Reads the header frame of a file.
pub(crate) fn read_header(path: &Path, bytes: &[u8], expect: &Expect) -> Result<(WalHeader, usize), LedgerError> {
    let refuse = |problem: String| LedgerError::Corrupt {
        path: path.to_owned(),
        offset: 0,
        index: 0,
        problem,
    };
    let frame = read_frame(bytes).map_err(|_| refuse("the file has no whole header".into()))?;
    let header = (frame.kind == FrameKind::Header)
        .then(|| WalHeader::read(frame.payload))
        .flatten();
    let header = header.ok_or_else(|| refuse("the file does not begin with a header this program knows".into()))?;
    if header.origin_hash != expect.origin_hash {
        return Err(refuse("the file is of another log".into()));
    }
    if header.number != expect.number {
        return Err(refuse(format!("the file says it is number {}", header.number)));
    }
    Ok((header, frame.len()))
}

/// What a file must say of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expect {
    pub(crate) number: u64,
    pub(crate) origin_hash: [u8; 32],
    /// Position of the shard's first record: control indices count all records of the ledger.
    pub(crate) base: u64,
}

impl Expect {
    /// What file `number` of a shard must say.
    pub(crate) fn of(shard: &Shard, number: u64) -> Self {
        Self {
            number,
            origin_hash: shard.origin_hash(),
            base: shard.base,
        }
    }
}

/// Reads a whole file.
///
/// # Errors
/// Refuses damage to acknowledged bytes, and whatever the visitor refuses.
pub(crate) fn scan(
    path: &Path,
    bytes: &[u8],
    expect: &Expect,
    visitor: &mut dyn Visitor,
) -> Result<Scanned, LedgerError> {
    let (header, header_len) = read_header(path, bytes, expect)?;
    // A crash while space is being reserved leaves a part of a step, in which nothing is written yet.
    let usable = bytes.len() - bytes.len() % usize::try_from(header.reserve).unwrap_or(bytes.len().max(1));
    let mut scan = Scan {
        path,
        bytes,
        base: expect.base,
        usable,
        used: last_nonzero(bytes).map_or(0, |last| last + 1),
        scanned: Scanned {
            frontier: header.frontier.clone(),
            control_head: header.control_head,
            positions: vec![Position {
                index: header.frontier.size(),
                offset: header_len as u64,
            }],
            end: header_len as u64,
            ending: Ending::Space,
            header,
        },
    };
    loop {
        let at = scan.at();
        if let Some(ending) = scan.step(at, visitor)? {
            scan.scanned.ending = ending;
            return Ok(scan.scanned);
        }
    }
}

struct Scan<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    base: u64,
    /// Bytes in whole steps of reserved space: groups lie in these.
    usable: usize,
    /// Bytes up to the last that is not zero.
    used: usize,
    scanned: Scanned,
}

impl<'a> Scan<'a> {
    fn at(&self) -> usize {
        usize::try_from(self.scanned.end).unwrap_or(usize::MAX)
    }

    fn corrupt(&self, offset: usize, index: u64, problem: impl Into<String>) -> LedgerError {
        LedgerError::Corrupt {
            path: self.path.to_owned(),
            offset: offset as u64,
            index,
            problem: problem.into(),
        }
    }

    fn cut_inside(&self, at: usize) -> LedgerError {
        let index = self.scanned.frontier.size();
        self.corrupt(at, index, "the file was truncated inside the group that begins here")
    }

    /// Reads one group, or says how the file ends.
    fn step(&mut self, at: usize, visitor: &mut dyn Visitor) -> Result<Option<Ending>, LedgerError> {
        let index = self.scanned.frontier.size();
        if at >= self.used {
            // Groups lie in reserved space, so one that does not says that the file was longer. An empty file after the
            // header, too, has at least one step of space.
            let whole = at <= self.usable && self.usable > 0;
            return Ok(Some(if whole { Ending::Space } else { Ending::Truncated }));
        }
        let rest = &self.bytes[at..];
        match read_frame(rest) {
            Ok(frame) if frame.kind == FrameKind::Next => {
                if self.used > at + frame.len() {
                    return Err(self.corrupt(self.used - 1, index, "there are bytes after the file's last frame"));
                }
                Ok(Some(Ending::Next))
            }
            Ok(frame) if frame.kind == FrameKind::GroupHead => self.group(at, frame, visitor),
            Ok(_) => Err(self.corrupt(at, index, "a group does not begin with its head")),
            Err(_) => self.headless(at, &self.bytes[at..self.used]).map(Some),
        }
    }

    /// A group whose head is damaged: how far it reaches is unknown.
    fn headless(&self, at: usize, rest: &[u8]) -> Result<Ending, LedgerError> {
        let index = self.scanned.frontier.size();
        if at + rest.len() > self.usable {
            return Err(self.cut_inside(at));
        }
        let torn = rest.len() <= GroupHead::FRAME_BYTES || has_zero_sector(at, rest);
        if !torn || rest.len() > GROUP_SPAN_MAX || holds_later_frames(rest) {
            return Err(self.corrupt(at, index, "a group's head is damaged"));
        }
        Ok(Ending::Torn)
    }

    fn group(&mut self, at: usize, frame: Frame<'a>, visitor: &mut dyn Visitor) -> Result<Option<Ending>, LedgerError> {
        let index = self.scanned.frontier.size();
        let head =
            GroupHead::read(frame.payload).ok_or_else(|| self.corrupt(at, index, "a group's head is unreadable"))?;
        if head.first != index || head.count == 0 || head.bytes as usize > GROUP_SPAN_MAX {
            return Err(self.corrupt(at, index, format!("a group begins with record {}", head.first)));
        }
        let end = at + head.bytes as usize;
        let group = self.bytes.get(at..end).ok_or_else(|| self.cut_inside(at))?;
        match self.records(at, frame.len(), head, group, visitor) {
            Ok(frontier) => {
                self.scanned.frontier = frontier;
                self.scanned.end = end as u64;
                Ok(None)
            }
            Err(Fault::Refused(error)) => Err(error),
            Err(Fault::Bad { .. }) if end > self.usable => Err(self.cut_inside(at)),
            // Something was written after this group, so it had been acknowledged; or it is damaged in a way no crash
            // leaves behind.
            Err(Fault::Bad { offset, index, problem }) => {
                let torn = group.last() == Some(&0) || has_zero_sector(at, group);
                if !torn || self.used > end {
                    return Err(self.corrupt(offset, index, problem));
                }
                Ok(Some(Ending::Torn))
            }
        }
    }

    /// Checks the records and the trailer of one group; only then are the records visited.
    fn records(
        &mut self,
        at: usize,
        head_len: usize,
        head: GroupHead,
        group: &'a [u8],
        visitor: &mut dyn Visitor,
    ) -> Result<Frontier, Fault> {
        let mut frontier = self.scanned.frontier.clone();
        let mut records: Vec<Found<'_>> = Vec::with_capacity(head.count.min(GROUP_RECORDS_MAX as u32) as usize);
        let mut place = head_len;
        for _ in 0..head.count {
            let bad = |problem| Fault::Bad {
                offset: at + place,
                index: head.first + records.len() as u64,
                problem,
            };
            let frame = read_frame(&group[place..]).map_err(|_| bad("a record is damaged"))?;
            if frame.kind != FrameKind::Record {
                return Err(bad("a record is missing from its group"));
            }
            records.push(Found {
                offset: (at + place) as u64,
                bytes: frame.payload,
                leaf: leaf_hash(frame.payload),
            });
            place += frame.len();
        }
        let bad = |problem| Fault::Bad {
            offset: at + place,
            index: head.first + u64::from(head.count) - 1,
            problem,
        };
        let frame = read_frame(&group[place..]).map_err(|_| bad("a group's trailer is damaged"))?;
        let trailer = (frame.kind == FrameKind::Trailer && place + frame.len() == group.len())
            .then(|| Trailer::read(frame.payload))
            .flatten()
            .ok_or_else(|| bad("a group has no trailer at its end"))?;
        let mut roots = Vec::new();
        for record in &records {
            frontier.push(record.leaf);
            if visitor.wants_root(frontier.size()) {
                roots.push((frontier.size(), frontier.root()));
            }
        }
        if trailer.size != frontier.size() || trailer.root != frontier.root() {
            // Every checksum is right, so this is no torn write.
            return Err(Fault::Refused(self.corrupt(
                at + place,
                head.first,
                "the tree's root is not the one the group was sealed with",
            )));
        }
        let mut known = roots.into_iter();
        known
            .try_for_each(|(size, root)| visitor.root(size, root))
            .map_err(Fault::Refused)?;
        self.visit(at, &records, visitor).map_err(Fault::Refused)?;
        Ok(frontier)
    }

    fn visit(&mut self, at: usize, records: &[Found<'_>], visitor: &mut dyn Visitor) -> Result<(), LedgerError> {
        let first = self.scanned.frontier.size();
        let known = self.scanned.positions.last().map_or(0, |position| position.index);
        if first >= known + POSITION_EVERY {
            self.scanned.positions.push(Position {
                index: first,
                offset: at as u64,
            });
        }
        for (index, record) in (first..).zip(records) {
            if Outline::read(record.bytes).restricting {
                self.scanned.control_head = self.base + index + 1;
            }
            visitor.record(record, index)?;
        }
        Ok(())
    }
}

enum Fault {
    /// A frame is damaged, by a crash or otherwise.
    Bad {
        offset: usize,
        index: u64,
        problem: &'static str,
    },
    Refused(LedgerError),
}

/// Place of the last byte that is not zero.
fn last_nonzero(bytes: &[u8]) -> Option<usize> {
    bytes.iter().rposition(|&byte| byte != 0)
}

/// True when a whole sector of the file, as far as it lies in `bytes`, is still zero.
fn has_zero_sector(at: usize, bytes: &[u8]) -> bool {
    let first = (SECTOR - at % SECTOR).min(bytes.len());
    let (head, rest) = bytes.split_at(first);
    last_nonzero(head).is_none() || rest.chunks(SECTOR).any(|sector| last_nonzero(sector).is_none())
}

/// True when a group or the file's end begins somewhere inside `rest`, or something follows a trailer: then `rest` is
/// more than one group, and its first was acknowledged.
fn holds_later_frames(rest: &[u8]) -> bool {
    (1..rest.len()).any(|at| {
        // The kind is in the top bits of the fourth byte; records are skipped, they may belong to the first group.
        if !matches!(rest.get(at + 3), Some(0x20 | 0x30 | 0x40)) {
            return false;
        }
        read_frame(&rest[at..]).is_ok_and(|frame| match frame.kind {
            FrameKind::GroupHead | FrameKind::Next => true,
            FrameKind::Trailer => at + frame.len() < rest.len(),
            _ => false,
        })
    })
}
