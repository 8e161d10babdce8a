//! Sealed segments: 65,536 consecutive records (the last of a shard: what is left) in files that never change again.
//!
//! | file | holds |
//! |---|---|
//! | `seg/<n>.entries.zst` | the records, in compressed frames with a table of their places ([`entries`]) |
//! | `seg/<n>.tiles` | the tiles of level 0 over them ([`crate::Tree`]) |
//! | `seg/<n>.idx` | the search index over them ([`index`]), made by [`index_writer`] |
//!
//! The entries are the truth; tiles and index are made again from them when they are lost. Each file begins with a
//! [`Label`] that says what it is, of which log and of which records.

pub(crate) mod column;
pub(crate) mod columns;
pub(crate) mod entries;
pub(crate) mod index;
pub(crate) mod index_writer;
pub(crate) mod marks;
pub(crate) mod names;
pub(crate) mod seal;
pub(crate) mod table;

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    LedgerError,
    disk::{Disk, is_full, remove_if_there},
    layout::Shard,
    limits::SEGMENT_RECORDS,
};

/// Bytes of a label.
pub(crate) const LABEL_BYTES: usize = 16 + 32 + 8 + 4;

/// What a file says of itself, at its very beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    /// What the file is, and the version of its format.
    pub(crate) magic: [u8; 16],
    /// SHA-256 of the origin line, so that files of two logs cannot be mixed.
    pub(crate) origin_hash: [u8; 32],
    /// Index of the first record in its shard.
    pub(crate) first: u64,
    /// Number of records.
    pub(crate) count: u32,
}

impl Label {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.magic);
        out.extend_from_slice(&self.origin_hash);
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
    }

    /// Reads a label and compares it with the one the file must have, but for the number of records.
    pub(crate) fn check(bytes: &[u8], expected: &Self) -> Result<u32, &'static str> {
        let mut bytes = Bytes(bytes);
        if bytes.array::<16>() != Some(expected.magic) {
            return Err("the file does not begin as this program writes it");
        }
        if bytes.array::<32>() != Some(expected.origin_hash) {
            return Err("the file is of another log");
        }
        if bytes.u64() != Some(expected.first) {
            return Err("the file begins with another record than its name says");
        }
        match bytes.u32() {
            Some(count) if count > 0 && count as usize <= SEGMENT_RECORDS => Ok(count),
            _ => Err("the file holds no number of records a segment can have"),
        }
    }
}

/// Takes fixed-width little-endian numbers from the front of a slice.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl Bytes<'_> {
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }
}

/// One segment's place in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment(pub(crate) u64);

impl Segment {
    /// The segment that holds a leaf.
    pub(crate) fn of(leaf: u64) -> Self {
        Self(leaf / SEGMENT_RECORDS as u64)
    }

    /// Index of its first leaf.
    pub(crate) fn first(self) -> u64 {
        self.0 * SEGMENT_RECORDS as u64
    }

    pub(crate) fn entries(self, shard: &Shard) -> PathBuf {
        shard.dir.join(format!("seg/{:08}.entries.zst", self.0))
    }

    pub(crate) fn index(self, shard: &Shard) -> PathBuf {
        shard.dir.join(format!("seg/{:08}.idx", self.0))
    }
}

/// A file that was opened to be read in place, with the words for what is wrong in it.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) len: u64,
    /// What it says of itself.
    label: Label,
    /// Position of the segment's first record in the ledger.
    pub(crate) first: u64,
    role: Role,
}

/// What is lost with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Records.
    Truth,
    /// Nothing: it is made again from the records.
    Derived,
}

impl Sealed {
    fn open(path: PathBuf, label: Label, base: u64, role: Role) -> Result<Self, LedgerError> {
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LedgerError::Missing {
                path: path.clone(),
                detail: "a sealed segment",
            },
            _ => LedgerError::io("open", &path)(error),
        })?;
        let metadata = file.metadata().map_err(LedgerError::io("read", &path))?;
        Ok(Self {
            len: metadata.len(),
            path,
            file,
            label,
            first: base.saturating_add(label.first),
            role,
        })
    }

    /// Opens a file that must have this label, but for the number of records, and reads its head of so many bytes, the last four
    /// of which are the checksum of the others: the file, and the head behind the label. The shard's first record has position
    /// `base`.
    /// Whether a file can be read and begins so.
    fn begins_with(path: &Path, magic: [u8; 16]) -> bool {
        let mut found = [0; 16];
        let read = File::open(path).and_then(|file| file.read_exact_at(&mut found, 0));
        read.is_ok() && found == magic
    }

    fn open_head(
        path: PathBuf,
        expected: Label,
        base: u64,
        role: Role,
        bytes: usize,
    ) -> Result<(Self, Vec<u8>), LedgerError> {
        let mut sealed = Self::open(path, expected, base, role)?;
        let mut head = sealed.read(0, bytes as u64)?;
        sealed.label.count = Label::check(&head, &expected).map_err(|problem| sealed.corrupt(0, problem))?;
        let stored = head.split_off(bytes.saturating_sub(4));
        if stored != crc32c::crc32c(&head).to_le_bytes() {
            return Err(sealed.corrupt(0, "the head's checksum is another"));
        }
        head.drain(..LABEL_BYTES);
        Ok((sealed, head))
    }

    /// Number of records.
    fn count(&self) -> u32 {
        self.label.count
    }

    /// Position of the shard's first record in the ledger.
    fn base(&self) -> u64 {
        self.first - self.label.first
    }

    pub(crate) fn corrupt(&self, offset: u64, problem: impl Into<String>) -> LedgerError {
        let (path, index, problem) = (self.path.clone(), self.first, problem.into());
        match self.role {
            Role::Truth => LedgerError::Corrupt {
                path,
                offset,
                index,
                problem,
            },
            Role::Derived => LedgerError::Derived {
                path,
                offset,
                index,
                problem,
            },
        }
    }

    /// Reads `len` bytes at `offset`. The length is that of this file at most, so no damaged number asks for more memory.
    pub(crate) fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, LedgerError> {
        let within = offset.checked_add(len).is_some_and(|end| end <= self.len);
        let size = usize::try_from(len).ok().filter(|_| within);
        let size = size.ok_or_else(|| self.corrupt(offset, "the file is shorter than it says"))?;
        let mut bytes = vec![0; size];
        self.read_into(&mut bytes, offset)?;
        Ok(bytes)
    }

    pub(crate) fn read_into(&self, bytes: &mut [u8], offset: u64) -> Result<(), LedgerError> {
        self.file
            .read_exact_at(bytes, offset)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => self.corrupt(offset, "the file is shorter than it says"),
                _ => LedgerError::io("read", &self.path)(error),
            })
    }
}

/// Writes a file that does not exist yet, durably: after a crash it is whole or not there.
pub(crate) fn write_sealed(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), LedgerError> {
    let full = |error: io::Error, what| match is_full(&error) {
        true => LedgerError::NoSpace,
        false => LedgerError::io(what, path)(error),
    };
    let new = path.with_added_extension("new");
    remove_if_there(&new)?;
    let file = disk.create(&new).map_err(|error| full(error, "create"))?;
    let written = file.write_at(bytes, 0).and_then(|()| file.sync());
    if let Err(error) = written {
        // Room is what may be missing: do not keep what was taken.
        let _ = remove_if_there(&new);
        return Err(full(error, "write"));
    }
    disk.rename(&new, path).map_err(|error| full(error, "name"))?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    disk.sync_dir(dir).map_err(|error| full(error, "flush"))
}
