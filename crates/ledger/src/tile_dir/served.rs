//! A live log as plain files, for whoever asks over a network: each path of C2SP tlog-tiles and its octets, made from
//! the tree and the records. Nothing is given out that the log's signed checkpoint does not cover.

use std::path::Path;

use super::{CHECKPOINT, Kind, LENGTH_OCTETS, POLICY, Place, SNAPSHOT, SUCCESSION, octets_of, walk::place, width_at};
use crate::{
    LedgerError,
    file::FileJournal,
    journal::{Journal, Log},
    tiles::{TILE_WIDTH, Tree},
    trees::Trees,
};

/// What a path below a log's folder names (C2SP tlog-tiles). One file has one path: any other spelling names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreePath(File);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum File {
    Checkpoint,
    Snapshot,
    Succession,
    Policy,
    Tile(Place),
}

/// The kinds of files a log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeFile {
    /// The last signed tree head, which changes.
    Checkpoint,
    /// The state before a log that is not the first; never another.
    Snapshot,
    /// The statement by which the log before names this one; never another.
    Succession,
    /// The ledger's logs and their keys, above the logs' folders, which changes.
    Policy,
    /// Hashes; never another under the same path.
    Tile,
    /// Records; never others under the same path.
    Entries,
}

impl TreePath {
    /// Reads a path without a slash at its front, such as `tile/0/x001/234.p/17`; `None` when no log has such a file.
    pub fn parse(path: &str) -> Option<Self> {
        for (name, file) in [
            (CHECKPOINT, File::Checkpoint),
            (SNAPSHOT, File::Snapshot),
            (SUCCESSION, File::Succession),
            (POLICY, File::Policy),
        ] {
            if path == name {
                return Some(Self(file));
            }
        }
        let place = place(Path::new(path)).filter(|place| place.width > 0)?;
        // The path is compared as it is written: `tile//0/000` is another one.
        (place.path(Path::new("")).to_str() == Some(path)).then_some(Self(File::Tile(place)))
    }

    /// What the file holds.
    pub fn file(&self) -> TreeFile {
        match self.0 {
            File::Checkpoint => TreeFile::Checkpoint,
            File::Snapshot => TreeFile::Snapshot,
            File::Succession => TreeFile::Succession,
            File::Policy => TreeFile::Policy,
            File::Tile(Place {
                kind: Kind::Entries, ..
            }) => TreeFile::Entries,
            File::Tile(_) => TreeFile::Tile,
        }
    }

    /// The file's octets; `None` when the log's signed checkpoint does not reach so far. A partial
    /// tile is given out at every width up to that of the checkpoint, so a reader who began below an older one goes on.
    ///
    /// # Errors
    /// Fails when the log cannot be read, and when the tree does not reach its checkpoint yet.
    pub fn read(&self, journal: &FileJournal, log: &Log, trees: &Trees) -> Result<Option<Vec<u8>>, LedgerError> {
        match self.0 {
            File::Checkpoint => Ok(Some(journal.checkpoint_of(log)?.to_string().into_bytes())),
            File::Snapshot => journal.snapshot_of(log),
            File::Succession => journal.succession_of(log),
            File::Policy => journal.policy().map(Some),
            // Of a log whose records were given up no tile is given out.
            File::Tile(_) if log.first() < journal.first() => Ok(None),
            File::Tile(place) => read_tile(journal, log, &*trees.of_log(log)?, place),
        }
    }
}

/// The octets of a tile or a bundle; `None` when the signed checkpoint does not reach so far.
fn read_tile(journal: &dyn Journal, log: &Log, tree: &Tree, place: Place) -> Result<Option<Vec<u8>>, LedgerError> {
    let signed = journal.checkpoint_of(log)?;
    let level = match place.kind {
        Kind::Entries => 0,
        Kind::Hashes(level) => level,
    };
    if place.width > width_at(level, place.index, signed.checkpoint().size) {
        return Ok(None);
    }
    match place.kind {
        Kind::Entries => bundle(journal, log, &place).map(Some),
        Kind::Hashes(level) => tree
            .tile(level, place.index, place.width)
            .map(|hashes| Some(octets_of(&hashes))),
    }
}

/// The records of a place (C2SP tlog-tiles, log entries).
fn bundle(journal: &dyn Journal, log: &Log, place: &Place) -> Result<Vec<u8>, LedgerError> {
    let mut next = log.position_of(place.start());
    let end = next + place.width as u64;
    let mut octets = Vec::new();
    while next < end {
        let most = usize::try_from(end - next).unwrap_or(TILE_WIDTH);
        let records = journal.read_from(next, most)?;
        if records.is_empty() {
            return Err(LedgerError::Beyond {
                what: "record",
                asked: next,
                have: journal.size(),
            });
        }
        for stored in &records {
            let record = stored.bytes();
            let length = u16::try_from(record.len())
                .map_err(|_| LedgerError::Record(format!("{} bytes have no place in a bundle", record.len())))?;
            octets.reserve(LENGTH_OCTETS + record.len());
            octets.extend_from_slice(&length.to_be_bytes());
            octets.extend_from_slice(record);
        }
        next += records.len() as u64;
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_paths_of_the_specification_name_a_file() {
        for (path, file) in [
            ("checkpoint", TreeFile::Checkpoint),
            ("snapshot", TreeFile::Snapshot),
            ("succession", TreeFile::Succession),
            ("policy", TreeFile::Policy),
            ("tile/0/000", TreeFile::Tile),
            ("tile/0/x001/x234/067", TreeFile::Tile),
            ("tile/63/000", TreeFile::Tile),
            ("tile/1/001.p/255", TreeFile::Tile),
            ("tile/entries/000", TreeFile::Entries),
            ("tile/entries/x001/000.p/1", TreeFile::Entries),
        ] {
            assert_eq!(TreePath::parse(path).map(|path| path.file()), Some(file), "{path}");
        }
        for path in [
            "",
            "/",
            "/checkpoint",
            "checkpoint/",
            "Checkpoint",
            "tile",
            "tile/0",
            "tile/0/",
            "tile/0/0",
            "tile/00/000",
            "tile/64/000",
            "tile/-1/000",
            "tile/+1/000",
            "tile/0/000.p/0",
            "tile/0/000.p/01",
            "tile/0/000.p/256",
            "tile/0/000.p/257",
            "tile/0/000.p/99999999999999999999999999",
            "tile/0/000.p",
            "tile/0/x000/000",
            "tile/0/999999999999999999999999",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
            "tile/entries/../0/000",
            "tile/./0/000",
            "tile//0/000",
            "tile/0/000/",
            "tile/0/%30%30%30",
            "tile/0/٠٠٠",
            "../checkpoint",
        ] {
            assert_eq!(TreePath::parse(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_path_that_names_a_file_is_its_only_one(path in "(tile|checkpoint|\\.\\.)?/?(entries|[0-9]{1,3})?/?(x?[0-9]{3}/){0,3}[0-9]{3}(\\.p/[0-9]{1,3})?") {
            if let Some(TreePath(File::Tile(found))) = TreePath::parse(&path) {
                let rendered = found.path(Path::new(""));
                prop_assert_eq!(rendered.to_str(), Some(path.as_str()));
                prop_assert!((1..=TILE_WIDTH).contains(&found.width));
            }
        }
    }
}
