//! Appends groups to the write-ahead file: one write and one flush for each, in space that was reserved before.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use crate::{
    batch::Batch,
    disk::{Disk, DiskFile, Fill, is_full, remove_if_there},
    journal::AppendError,
    layout::Shard,
    limits::{LARGE_GROUP_BYTES, LARGE_STEPS},
    tree::{Frontier, sha256},
    wal::{GroupHead, Trailer, WalHeader, group_bytes, next_frame},
};

/// Sizes of the write-ahead files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// A file is closed before it grows past this.
    pub(crate) file: u64,
    /// Space is reserved in steps of this.
    pub(crate) reserve: u64,
}

/// The groups since room was last made: how large they are decides how it is made next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    groups: u64,
    bytes: u64,
}

impl Pace {
    /// Small groups pay for the flush, large ones for the bytes.
    fn fill(self) -> Fill {
        match self.bytes.checked_div(self.groups) {
            Some(mean) if mean >= LARGE_GROUP_BYTES => Fill::Blocks,
            _ => Fill::Zeros,
        }
    }
}

/// The file that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) shard: Shard,
    pub(crate) sizes: Sizes,
    pub(crate) file: Box<dyn DiskFile>,
    pub(crate) number: u64,
    /// End of the last durable group.
    pub(crate) at: u64,
    /// End of the reserved space.
    pub(crate) reserved: u64,
    /// Where the first group of this file begins.
    pub(crate) first_group: u64,
    pub(crate) frontier: Frontier,
    /// Behind the last restricting record, counted through all shards.
    pub(crate) control_head: u64,
    pub(crate) pace: Pace,
}

/// A write that failed: for want of space, which passes, or in a way that leaves the disk unknown.
pub(crate) fn failed(what: &str, error: &io::Error) -> AppendError {
    if is_full(error) {
        AppendError::NoSpace
    } else {
        AppendError::Poisoned(format!("{what}: {error}"))
    }
}

/// The same, where even want of space leaves the disk unknown.
fn fatal(what: &str, error: &io::Error) -> AppendError {
    AppendError::Poisoned(format!("{what}: {error}"))
}

impl Writer {
    /// Appends a group and makes it durable; returns where in which file it begins.
    pub(crate) fn append(&mut self, group: &[Batch]) -> Result<(u64, u64), AppendError> {
        let bytes = group_bytes(group.iter().map(|batch| batch.frames().len()));
        self.make_room(bytes as u64)?;
        let begin = self.at;
        let [head, trailer] = self.frame(group, bytes);
        let records = group.iter().map(|batch| &batch.frames()[..]);
        let parts = std::iter::once(&head[..]).chain(records).chain([&trailer[..]]);
        let mut parts: Vec<IoSlice<'_>> = parts.map(IoSlice::new).collect();
        // From here on the disk is unknown until both calls have succeeded.
        self.file
            .write_parts_at(&mut parts, begin)
            .map_err(|error| fatal("write a group", &error))?;
        self.file.sync().map_err(|error| fatal("flush a group", &error))?;
        self.at += bytes as u64;
        self.pace.groups += 1;
        self.pace.bytes += bytes as u64;
        Ok((self.number, begin))
    }

    /// What stands before and behind the records of a group, whose leaves it puts into the tree. A group that then fails
    /// poisons the journal, so the tree is not used again.
    fn frame(&mut self, group: &[Batch], bytes: usize) -> [Vec<u8>; 2] {
        let first = self.frontier.size();
        for record in group.iter().flat_map(Batch::records) {
            self.frontier.push(record.leaf_hash);
            if record.restricting {
                // A position of the ledger, as a decision's: leaves are counted anew in each shard.
                self.control_head = self.shard.base + self.frontier.size();
            }
        }
        // At most 512 records and a little over 1 MB, so both fit.
        let head = GroupHead {
            first,
            count: (self.frontier.size() - first) as u32,
            bytes: bytes as u32,
        };
        let trailer = Trailer {
            size: self.frontier.size(),
            root: self.frontier.root(),
        };
        let mut ends = [Vec::new(), Vec::new()];
        head.put(&mut ends[0]);
        trailer.put(&mut ends[1]);
        ends
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), AppendError> {
        if self.at + bytes > self.sizes.file && self.at > self.first_group {
            self.rotate()?;
        }
        if self.at + bytes > self.reserved {
            self.reserve(self.at + bytes)?;
        }
        Ok(())
    }

    /// Reserves whole steps up to `need`, durably: a group is never written where a crash could shorten the file.
    fn reserve(&mut self, need: u64) -> Result<(), AppendError> {
        let (step, fill) = (self.sizes.reserve, self.pace.fill());
        let least = need.next_multiple_of(step);
        // Room that costs no writing is made in larger pieces: each costs a flush.
        let file = least.max(self.sizes.file.next_multiple_of(step));
        let to = match fill {
            Fill::Blocks => (least + (LARGE_STEPS - 1) * step).min(file),
            Fill::Zeros => least,
        };
        let to = match self.file.reserve(self.reserved, to, fill) {
            Err(error) if is_full(&error) && to > least => {
                self.file
                    .reserve(self.reserved, least, fill)
                    .map_err(|error| failed("reserve space", &error))?;
                least
            }
            outcome => outcome.map(|()| to).map_err(|error| failed("reserve space", &error))?,
        };
        self.file
            .sync()
            .map_err(|error| fatal("flush reserved space", &error))?;
        self.reserved = to;
        self.pace = Pace::default();
        Ok(())
    }

    /// Reserves the next step when less than half of one is left; called when nothing waits.
    pub(crate) fn reserve_ahead(&mut self) -> Result<(), AppendError> {
        if self.reserved - self.at < self.sizes.reserve / 2 && self.reserved < self.sizes.file {
            self.reserve(self.reserved + 1)?;
        }
        Ok(())
    }

    /// Begins the next file. The old one gets its last frame only after the new one is durable with its name.
    fn rotate(&mut self) -> Result<(), AppendError> {
        let header = WalHeader {
            number: self.number + 1,
            control_head: self.control_head,
            previous_len: self.at,
            reserve: self.sizes.reserve,
            origin_hash: sha256(self.shard.origin.as_str().as_bytes()),
            frontier: self.frontier.clone(),
        };
        let frame = header.to_frame();
        let room = (self.sizes.reserve, self.pace.fill());
        let (file, reserved) = begin_file(&*self.disk, &self.shard, header.number, &frame, room)?;
        let old = std::mem::replace(&mut self.file, file);
        let last = next_frame(header.number);
        if self.at + last.len() as u64 <= self.reserved {
            old.write_at(&last, self.at)
                .map_err(|error| fatal("close a file", &error))?;
            old.sync().map_err(|error| fatal("flush a closed file", &error))?;
        }
        self.number = header.number;
        self.at = frame.len() as u64;
        self.first_group = self.at;
        self.reserved = reserved;
        self.pace = Pace::default();
        Ok(())
    }
}

/// Makes file `number` durable with `content` at its start and reserved space behind it.
pub(crate) fn begin_file(
    disk: &dyn Disk,
    shard: &Shard,
    number: u64,
    content: &[u8],
    (reserve, fill): (u64, Fill),
) -> Result<(Box<dyn DiskFile>, u64), AppendError> {
    let path = shard.wal(number);
    let new = path.with_added_extension("new");
    let reserved = (content.len() as u64 + 1).next_multiple_of(reserve);
    remove_if_there(&new).map_err(|error| AppendError::Poisoned(error.to_string()))?;
    let file = disk.create(&new).map_err(|error| failed("create a file", &error))?;
    let filled = file
        .write_at(content, 0)
        .and_then(|()| file.reserve(content.len() as u64, reserved, fill))
        .map_err(|error| failed("fill a new file", &error));
    if let Err(error) = filled {
        // Room is what is missing: do not keep what was taken.
        let _ = remove_if_there(&new);
        return Err(error);
    }
    file.sync().map_err(|error| fatal("flush a new file", &error))?;
    disk.rename(&new, &path)
        .map_err(|error| failed("name a new file", &error))?;
    disk.sync_dir(&shard.head())
        .map_err(|error| fatal("flush a folder", &error))?;
    Ok((file, reserved))
}
