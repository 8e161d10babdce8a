//! What of a ledger never changes again, and so can be copied elsewhere: files of sealed segments, what a shard began with, and
//! kept checkpoints. A copy of all of it, with the final checkpoints and a policy that names closed shards alone, is a ledger
//! that [`crate::verify`] takes.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    LedgerError,
    file::FileJournal,
    journal::{Journal, Log},
    layout::Shard,
    limits::{KEPT_CHECKPOINTS_MAX, SEGMENT_RECORDS},
    seg::Segment,
    tile_dir,
    tiles::{TILE_BYTES, TILE_WIDTH, tile_file},
};

/// One file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveFile {
    /// Its name below the ledger's folder, with `/` between the parts.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What of one log never changes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// In the order in which a copy is to be made: what a reader needs of a segment stands together.
    pub files: Vec<ArchiveFile>,
    /// Sealed segments among them.
    pub segments: u64,
    /// Position behind the last record that they stand for.
    pub end: u64,
    /// True when nothing will be added: the log is closed, and every record that is kept is sealed.
    pub whole: bool,
}

impl FileJournal {
    /// What of a log can be copied now.
    ///
    /// # Errors
    /// Refuses a log of another ledger; fails when a file is missing that is no copy of what others hold.
    pub fn archive(&self, log: &Log) -> Result<Archive, LedgerError> {
        let foreign = || LedgerError::Signature(format!("{} is no log of this ledger", log.origin()));
        let (shard, end) = self.shard_of(log.first()).ok_or_else(foreign)?;
        if shard.origin != *log.origin() {
            return Err(foreign());
        }
        let released = end.is_some_and(|end| end <= self.first());
        let sealed_to = self.segments().end().min(end.unwrap_or(u64::MAX));
        let sealed = match released {
            true => 0,
            false => sealed_to.saturating_sub(shard.base),
        };
        let mut files = Files {
            ledger: self.ledger(),
            found: Vec::new(),
        };
        if shard.base > 0 {
            files.needed(shard.snapshot())?;
            files.needed(shard.succession())?;
        }
        if released {
            // The mark last: a copy that has it must have what it says is kept.
            let size = end.unwrap_or(shard.base) - shard.base;
            let stays = tile_dir::read_mark(&shard.released(), shard.base, shard.base + size)?;
            for name in tile_dir::files(&shard.dir, size, stays) {
                files.needed(shard.dir.join(name))?;
            }
            files.needed(shard.released())?;
        }
        let mut segments = 0;
        while Segment(segments).first() < sealed {
            let left = sealed - Segment(segments).first();
            files.segment(&shard, Segment(segments), left.min(SEGMENT_RECORDS as u64))?;
            segments += 1;
        }
        let whole = released || end.is_some_and(|end| sealed_to >= end);
        // What was promised beyond the sealed records follows with them.
        files.kept(&shard, if released { u64::MAX } else { sealed })?;
        Ok(Archive {
            files: files.found,
            segments,
            end: match end {
                Some(end) if released => end,
                _ => shard.base + sealed,
            },
            whole,
        })
    }

    /// The name of a log's checkpoint in an archive; its file changes while the log grows.
    pub fn archived_checkpoint(log: &Log) -> String {
        format!("{}/{}/checkpoint", log.origin().id(), log.origin().shard())
    }
}

struct Files<'a> {
    ledger: &'a Path,
    found: Vec<ArchiveFile>,
}

impl Files<'_> {
    fn needed(&mut self, path: PathBuf) -> Result<(), LedgerError> {
        let metadata = fs::metadata(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LedgerError::Missing {
                path: path.clone(),
                detail: "a file of the ledger that never changes",
            },
            _ => LedgerError::io("look at", &path)(error),
        })?;
        self.add(path, metadata.len());
        Ok(())
    }

    /// Adds a file that can be made again from others, when it is there at its whole length.
    fn derived(&mut self, path: PathBuf, whole: Option<u64>) {
        if let Ok(metadata) = fs::metadata(&path)
            && whole.is_none_or(|whole| whole == metadata.len())
        {
            self.add(path, metadata.len());
        }
    }

    fn add(&mut self, path: PathBuf, bytes: u64) {
        // Every file lies below the ledger, and its name is of letters, digits, dots and dashes.
        let below = path.strip_prefix(self.ledger).unwrap_or(&path);
        let name = below.to_string_lossy().into_owned();
        self.found.push(ArchiveFile { name, path, bytes });
    }

    fn segment(&mut self, shard: &Shard, segment: Segment, records: u64) -> Result<(), LedgerError> {
        self.needed(segment.entries(shard))?;
        self.derived(segment.index(shard), None);
        let tiles = records / TILE_WIDTH as u64;
        if tiles > 0 {
            let (path, _) = tile_file(&shard.dir, 0, segment.first() / TILE_WIDTH as u64);
            self.derived(path, Some(tiles * TILE_BYTES as u64));
        }
        if records == SEGMENT_RECORDS as u64 {
            // The tile of level 1 over the segment, and those above that it completes.
            let (mut level, mut end) = (1, segment.0 + 1);
            loop {
                self.derived(tile_file(&shard.dir, level, end - 1).0, Some(TILE_BYTES as u64));
                if end % TILE_WIDTH as u64 != 0 {
                    break;
                }
                end /= TILE_WIDTH as u64;
                level += 1;
            }
        }
        Ok(())
    }

    /// Kept checkpoints of at most `most` records.
    fn kept(&mut self, shard: &Shard, most: u64) -> Result<(), LedgerError> {
        let dir = shard.checkpoints();
        let listed = match fs::read_dir(&dir) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(LedgerError::io("list", &dir)(error)),
        };
        let mut sizes = Vec::new();
        for file in listed {
            let name = file.map_err(LedgerError::io("list", &dir))?.file_name();
            // What is being written has an ending.
            let size = name.to_str().and_then(|name| name.parse::<u64>().ok());
            sizes.extend(size.filter(|size| *size <= most));
        }
        sizes.sort_unstable();
        sizes.truncate(KEPT_CHECKPOINTS_MAX);
        for size in sizes {
            let path = dir.join(size.to_string());
            self.needed(path)?;
        }
        Ok(())
    }
}
