//! That a log's folder holds no file but those that a tree of its size has: what nobody reads could hide anything.

use std::{
    fs::{self, FileType},
    path::{Component, Path, PathBuf},
};

use super::{
    CHECKPOINT, CHECKPOINTS, Kind, POLICY, Place, RELEASED, SNAPSHOT, SUCCESSION, TILES,
    given_up::{Stays, stays_here},
    width_at,
};
use crate::{LedgerError, foreign::number, limits::POLICY_LOGS_MAX, origin::Origin, tiles::TILE_WIDTH};

/// Folders below each other: `tile`, a level, seven of three digits for 2^64, and one of partial tiles.
const DEPTH_MAX: usize = 10;

/// What a log's folder holds.
pub(super) enum Holds {
    /// All of a tree of so many records.
    Records(u64),
    /// The tiles that stay of so many that were given up.
    Tiles(u64, Stays),
}

impl Holds {
    fn size(&self) -> u64 {
        match self {
            Self::Records(size) | Self::Tiles(size, _) => *size,
        }
    }

    fn has(&self, place: &Place) -> bool {
        let level = match place.kind {
            Kind::Entries => 0,
            Kind::Hashes(level) => level,
        };
        match self {
            Self::Records(size) => place.width > 0 && width_at(level, place.index, *size) == place.width,
            Self::Tiles(size, stays) => stays_here(place, *size, *stays),
        }
    }

    /// Whether a log has a file of this name beside its tree.
    fn has_file(&self, name: &str) -> bool {
        match name {
            CHECKPOINT | SUCCESSION => true,
            // What stood before records that were given up is of no use without them.
            SNAPSHOT => matches!(self, Self::Records(_)),
            RELEASED => matches!(self, Self::Tiles(..)),
            _ => false,
        }
    }
}

/// Refuses the first file or folder below `dir` that no log has which `holds` this.
pub(super) fn refuse_extra(dir: &Path, holds: &Holds) -> Result<(), LedgerError> {
    for entry in fs::read_dir(dir).map_err(LedgerError::io("list", dir))? {
        let entry = entry.map_err(LedgerError::io("list", dir))?;
        let kind = entry.file_type().map_err(LedgerError::io("read", entry.path()))?;
        match entry.file_name().to_str() {
            Some(name) if kind.is_file() && holds.has_file(name) => {}
            Some(CHECKPOINTS) if kind.is_dir() => kept(&entry.path(), holds.size())?,
            Some(TILES) if kind.is_dir() => below(dir, &entry.path(), holds, 1)?,
            _ => return Err(extra(&entry.path(), "no file of a log")),
        }
    }
    Ok(())
}

/// Refuses what is no checkpoint of at most `size` records, under the only name it may have.
fn kept(folder: &Path, size: u64) -> Result<(), LedgerError> {
    for entry in fs::read_dir(folder).map_err(LedgerError::io("list", folder))? {
        let entry = entry.map_err(LedgerError::io("list", folder))?;
        let kind = entry.file_type().map_err(LedgerError::io("read", entry.path()))?;
        let name = entry.file_name();
        let is_size = |name: &str| number(name).is_some_and(|kept| kept <= size);
        if !kind.is_file() || !name.to_str().is_some_and(is_size) {
            return Err(extra(&entry.path(), "no checkpoint of a log of this size"));
        }
    }
    Ok(())
}

/// Refuses what a folder of a ledger holds besides the policy file and the folders of these shards.
pub(super) fn refuse_other_logs(dir: &Path, shards: &[Origin]) -> Result<(), LedgerError> {
    for (path, kind) in entries(dir)? {
        let name = path.file_name().and_then(|name| name.to_str());
        let is_ours = name.is_some_and(|name| shards.iter().any(|shard| shard.id() == name));
        match name {
            Some(POLICY) if kind.is_file() => {}
            _ if is_ours && kind.is_dir() => {
                let found = entries(&path)?;
                let known = |path: &Path| shards.iter().any(|shard| dir.join(shard.folder()) == path);
                if let Some((path, _)) = found.iter().find(|(path, kind)| !kind.is_dir() || !known(path)) {
                    return Err(extra(path, "no log of the policy"));
                }
            }
            _ => return Err(extra(&path, "neither the policy file nor a log of it")),
        }
    }
    Ok(())
}

/// What a folder holds; more than any ledger has shards is refused.
fn entries(dir: &Path) -> Result<Vec<(PathBuf, FileType)>, LedgerError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(LedgerError::io("list", dir))? {
        let entry = entry.map_err(LedgerError::io("list", dir))?;
        let kind = entry.file_type().map_err(LedgerError::io("read", entry.path()))?;
        found.push((entry.path(), kind));
        if found.len() > POLICY_LOGS_MAX + 1 {
            return Err(extra(dir, "a folder with more than any ledger has"));
        }
    }
    Ok(found)
}

fn below(dir: &Path, folder: &Path, holds: &Holds, depth: usize) -> Result<(), LedgerError> {
    if depth > DEPTH_MAX {
        return Err(extra(folder, "deeper than any tile"));
    }
    for entry in fs::read_dir(folder).map_err(LedgerError::io("list", folder))? {
        let entry = entry.map_err(LedgerError::io("list", folder))?;
        let (path, kind) = (
            entry.path(),
            entry.file_type().map_err(LedgerError::io("read", entry.path()))?,
        );
        if kind.is_dir() {
            below(dir, &path, holds, depth + 1)?;
        } else if !kind.is_file() || !expected(dir, &path, holds) {
            return Err(extra(&path, "no tile and no bundle of a log of this size"));
        }
    }
    Ok(())
}

fn extra(path: &Path, what: &str) -> LedgerError {
    LedgerError::Tree {
        path: path.to_owned(),
        index: None,
        problem: format!("is {what}; nothing vouches for it"),
    }
}

/// Whether the file is one of those, under the only path it may have.
fn expected(dir: &Path, path: &Path, holds: &Holds) -> bool {
    let below = path.strip_prefix(dir).ok();
    let found = below.and_then(place);
    found.is_some_and(|place| holds.has(&place) && place.path(dir) == path)
}

/// The place a path may stand for; whether it is the path of that place is for the caller to see.
pub(super) fn place(below: &Path) -> Option<Place> {
    let mut words: Vec<&str> = below
        .components()
        .map(|part| match part {
            Component::Normal(word) => word.to_str(),
            _ => None,
        })
        .collect::<Option<_>>()?;
    let mut width = TILE_WIDTH;
    if let [.., folder, last] = words.as_slice()
        && let Some(number_of) = folder.strip_suffix(".p")
    {
        width = usize::try_from(number(last)?)
            .ok()
            .filter(|width| *width < TILE_WIDTH)?;
        let at = words.len() - 2;
        words.truncate(at);
        words.push(number_of);
    }
    let [TILES, level, digits @ ..] = words.as_slice() else {
        return None;
    };
    let kind = match *level {
        "entries" => Kind::Entries,
        level => Kind::Hashes(u8::try_from(number(level)?).ok().filter(|level| *level < 64)?),
    };
    let mut index = 0u64;
    for word in digits {
        let word = word.strip_prefix('x').unwrap_or(word);
        let three = word.len() == 3 && word.bytes().all(|octet| octet.is_ascii_digit());
        let part: u64 = word.parse().ok().filter(|_| three)?;
        index = index.checked_mul(1000)?.checked_add(part)?;
    }
    (!digits.is_empty()).then_some(Place { kind, index, width })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_files_of_the_size_are_expected() {
        let dir = Path::new("/log");
        let expected = |path: &str, size| expected(dir, &dir.join(path), &Holds::Records(size));
        // The example of C2SP tlog-tiles, partial tiles.
        for path in [
            "tile/0/272",
            "tile/0/273.p/112",
            "tile/1/000",
            "tile/1/001.p/17",
            "tile/2/000.p/1",
            "tile/entries/000",
            "tile/entries/273.p/112",
        ] {
            assert!(expected(path, 70_000), "{path}");
            assert!(!expected(path, 17), "{path}");
        }
        for path in [
            "tile/0/273",
            "tile/0/273.p/111",
            "tile/0/273.p/0112",
            "tile/0/274.p/1",
            "tile/0/272.p/255",
            "tile/0/272.p/256",
            "tile/00/000",
            "tile/0/0",
            "tile/0/x000/001",
            "tile/0/x001",
            "tile/2/000",
            "tile/64/000",
            "tile/entries/274",
            "tile/data/000",
            "tile/0",
            "tile/0/000/x",
            "tile/0/000.p",
        ] {
            assert!(!expected(path, 70_000), "{path}");
        }
        assert!(expected("tile/0/x001/x234/067", u64::MAX));
    }

    proptest! {
        #[test]
        fn every_place_is_found_by_its_path(level in 0u8..7, index in 0u64..1 << 40, width in 1usize..=256) {
            for kind in [Kind::Entries, Kind::Hashes(level)] {
                let made = Place { kind, index, width };
                prop_assert_eq!(place(&made.path(Path::new(""))), Some(made));
            }
        }

        #[test]
        fn arbitrary_paths_never_panic(path in "(tile|x)/(entries|[0-9]{1,25})/(x?[0-9]{3}/){0,9}\\PC{0,9}(.p/[0-9]{0,25})?") {
            let _ = place(Path::new(&path));
        }
    }
}
