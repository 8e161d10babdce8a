//! The tiles of a log whose records were given up, in the folder of its shard and in an exported one alike, under the paths of
//! C2SP tlog-tiles: the full ones of level 1 and above and, on the right edge, what is partial of every level. With that edge they
//! lead to the root that was signed: it follows from the partial tiles, and each full tile from the one above it.
//!
//! A shard whose records were given up before the edge was kept has the full ones, or none where they were gone before. Then
//! the highest stand for themselves, but for checkpoints whose size they reach.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    Kind, Place, TILES,
    file::{read_file, refused},
    octets_of, spanned, width_at,
};
use crate::{
    LedgerError,
    disk::{Disk, make_dir, replace},
    tiles::{TILE_WIDTH, Tree, subtree_root},
    tree::{Frontier, Hash},
};

/// What the mark says when the right edge is kept.
const EDGE_KEPT: &str = "its tiles of level 1 and above are kept, and the partial ones of every level\n";
/// Octets of a mark at most: two sentences and two numbers.
const MARK_BYTES_MAX: usize = 256;
/// Octets of a hash.
const HASH_BYTES: usize = 32;

/// What stays of the tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stays {
    /// Full tiles of level 1 and above, and the partial ones of every level.
    WithEdge,
    /// Full tiles of level 1 and above, or none: records that were given up before the edge was kept.
    FullOrNone,
}

/// The text of the mark of records that were given up.
pub(crate) fn mark(stays: Stays, first: u64, end: u64) -> String {
    let given_up = format!("records {first} to {end} were given up\n");
    match stays {
        Stays::WithEdge => given_up + EDGE_KEPT,
        Stays::FullOrNone => given_up,
    }
}

/// Reads the mark of a log whose records stood from position `first` to `end`.
///
/// # Errors
/// Refuses every other text: what it says is kept decides what may be absent.
pub(crate) fn read_mark(path: &Path, first: u64, end: u64) -> Result<Stays, LedgerError> {
    let found = read_file(path, MARK_BYTES_MAX, None)?;
    [Stays::WithEdge, Stays::FullOrNone]
        .into_iter()
        .find(|stays| found == mark(*stays, first, end).as_bytes())
        .ok_or_else(|| {
            refused(
                path,
                None,
                format!("does not say that records {first} to {end} were given up"),
            )
        })
}

/// The files of the tiles that stay of a tree of `size` records, by their names below `dir`, the log's folder.
pub(crate) fn files(dir: &Path, size: u64, stays: Stays) -> Vec<PathBuf> {
    match has_none(dir, stays) {
        true => Vec::new(),
        false => places(size, stays).map(|place| place.path(Path::new(""))).collect(),
    }
}

/// Whether no tile is there, where that is no loss.
fn has_none(dir: &Path, stays: Stays) -> bool {
    stays == Stays::FullOrNone && !dir.join(TILES).exists()
}

/// Whether a tile of a tree of `size` records stays.
pub(super) fn stays_here(place: &Place, size: u64, stays: Stays) -> bool {
    let Kind::Hashes(level) = place.kind else { return false };
    let is_kept = match place.width == TILE_WIDTH {
        true => level > 0,
        false => stays == Stays::WithEdge,
    };
    is_kept && place.width > 0 && width_at(level, place.index, size) == place.width
}

/// The tiles that stay of a tree of `size` records, lowest first.
fn places(size: u64, stays: Stays) -> impl Iterator<Item = Place> {
    levels(size).flat_map(move |level| {
        let full = (0..full_tiles(level, size)).filter(move |_| level > 0);
        let full = full.map(move |index| place(level, index, TILE_WIDTH));
        full.chain(partial(level, size).filter(|_| stays == Stays::WithEdge))
    })
}

/// The levels of tiles with a hash in them.
fn levels(size: u64) -> impl DoubleEndedIterator<Item = u8> {
    (0..8).filter(move |level| size >> (8 * level) > 0)
}

fn full_tiles(level: u8, size: u64) -> u64 {
    (size >> (8 * level)) / TILE_WIDTH as u64
}

/// The partial tile of a level, where there is one.
fn partial(level: u8, size: u64) -> Option<Place> {
    let index = full_tiles(level, size);
    let width = width_at(level, index, size);
    (width > 0).then(|| place(level, index, width))
}

const fn place(level: u8, index: u64, width: usize) -> Place {
    let kind = Kind::Hashes(level);
    Place { kind, index, width }
}

/// Writes the right edge of a whole tree below `dir`, durably with the names of all tiles.
pub(crate) fn write_edge(disk: &dyn Disk, dir: &Path, tree: &Tree) -> Result<(), LedgerError> {
    let size = tree.size();
    for level in levels(size) {
        let Some(place) = partial(level, size) else { continue };
        let path = place.path(dir);
        make_dir(path.parent().unwrap_or(dir))?;
        replace(disk, &path, &octets_of(&tree.tile(level, place.index, place.width)?))?;
    }
    let mut folders: Vec<PathBuf> = places(size, Stays::WithEdge)
        .flat_map(|place| {
            let path = place.path(dir);
            let above = path.ancestors().skip(1).take_while(|above| above.starts_with(dir));
            above.map(Path::to_owned).collect::<Vec<_>>()
        })
        .collect();
    folders.sort_unstable();
    folders.dedup();
    // The lowest first: a name counts when those above it are there.
    for folder in folders.iter().rev().filter(|folder| folder.exists()) {
        disk.sync_dir(folder).map_err(LedgerError::io("flush", folder))?;
    }
    Ok(())
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    /// Tiles that are there and right.
    pub(crate) right: u64,
    /// Tiles that are not there, and need not be.
    pub(crate) missing: u64,
}

/// Hashes the tiles that stay below `dir` again, and holds them against the `last` checkpoint and, by size, the roots that
/// others `promised`.
///
/// # Errors
/// A tile that is missing, has another length or does not lead to what is above it is named; so is a root that was signed
/// otherwise.
pub(crate) fn check(
    dir: &Path,
    last: (u64, Hash),
    promised: BTreeMap<u64, Hash>,
    stays: Stays,
) -> Result<Looked, LedgerError> {
    let size = last.0;
    if has_none(dir, stays) {
        let full = levels(size).filter(|level| *level > 0);
        let missing = full.map(|level| full_tiles(level, size)).sum();
        return Ok(Looked { right: 0, missing });
    }
    let mut pass = Pass {
        dir,
        last,
        promised,
        edge: Frontier::new(),
        right: 0,
    };
    let partial = match stays {
        Stays::WithEdge => pass.read_edge()?,
        Stays::FullOrNone => vec![Vec::new(); levels(size).count()],
    };
    pass.downwards(&partial)?;
    Ok(Looked {
        right: pass.right,
        missing: 0,
    })
}

struct Pass<'a> {
    dir: &'a Path,
    /// Size and root of the last checkpoint.
    last: (u64, Hash),
    promised: BTreeMap<u64, Hash>,
    /// The tree over what was read of the lowest levels.
    edge: Frontier,
    right: u64,
}

impl Pass<'_> {
    fn size(&self) -> u64 {
        self.last.0
    }

    fn read(&mut self, place: &Place) -> Result<Vec<Hash>, LedgerError> {
        let path = place.path(self.dir);
        let octets = place.width * HASH_BYTES;
        let stored = read_file(&path, octets, Some(place.start()))?;
        if stored.len() != octets {
            let problem = format!("has {} bytes, {octets} are needed", stored.len());
            return Err(refused(&path, Some(place.start()), problem));
        }
        self.right += 1;
        stored.chunks_exact(HASH_BYTES).map(Hash::from_slice).collect()
    }

    /// The partial tiles by level, which lead to the signed root by themselves.
    fn read_edge(&mut self) -> Result<Vec<Vec<Hash>>, LedgerError> {
        let mut rows = Vec::new();
        for level in levels(self.size()) {
            let place = partial(level, self.size());
            rows.push(place.map_or(Ok(Vec::new()), |place| self.read(&place))?);
        }
        let mut edge = Frontier::new();
        for row in rows.iter().rev() {
            edge = lowered(&edge)?;
            row.iter().for_each(|hash| edge.push(*hash));
        }
        match edge.root() == self.last.1 {
            true => Ok(rows),
            false => Err(self.wrong_edge()),
        }
    }

    /// Names the partial tile that does not follow from the full ones below it; else all of them, one of which is wrong.
    fn wrong_edge(&mut self) -> LedgerError {
        let partials: Vec<Place> = levels(self.size())
            .filter_map(|level| partial(level, self.size()))
            .collect();
        for place in partials.iter().rev() {
            if let Some(at) = self.differs_from_below(place) {
                let index = place.start().saturating_add(at.saturating_mul(spanned_by(place)));
                let problem = "holds another hash than that of the tile below it, and does not lead to the signed root";
                return refused(&place.path(self.dir), Some(index), problem);
            }
        }
        let names: Vec<String> = partials
            .iter()
            .map(|place| place.path(Path::new("")).display().to_string())
            .collect();
        let lowest = partials
            .first()
            .map_or(self.dir.to_owned(), |place| place.path(self.dir));
        let problem = format!(
            "does not lead to the signed root together with the others of {}",
            names.join(", ")
        );
        refused(&lowest, None, problem)
    }

    /// The first hash of a partial tile that is not that of the full tile below it, where that is kept.
    fn differs_from_below(&mut self, above: &Place) -> Option<u64> {
        let level = match above.kind {
            Kind::Hashes(level) if level > 1 => level - 1,
            _ => return None,
        };
        let hashes = self.read(above).ok()?;
        let first = above.index * TILE_WIDTH as u64;
        (0..).zip(hashes).find_map(|(at, hash)| {
            let below = self.read(&place(level, first + at, TILE_WIDTH)).ok()?;
            (subtree_root(&below) != hash).then_some(at)
        })
    }

    /// Reads the full tiles from the highest level to the lowest: each follows from the one above it.
    fn downwards(&mut self, partial: &[Vec<Hash>]) -> Result<(), LedgerError> {
        let mut above: Vec<Hash> = Vec::new();
        for level in levels(self.size()).filter(|level| *level > 0).rev() {
            let mut row = Vec::new();
            for index in 0..full_tiles(level, self.size()) {
                let place = place(level, index, TILE_WIDTH);
                let hashes = self.read(&place)?;
                let known = usize::try_from(index).ok().and_then(|at| above.get(at));
                if known.is_some_and(|root| *root != subtree_root(&hashes)) {
                    let problem = "does not hold the hashes from which the tile above it was made";
                    return Err(refused(&place.path(self.dir), Some(place.start()), problem));
                }
                match level {
                    1 => self.push(&hashes)?,
                    _ => row.extend(hashes),
                }
            }
            let edge = partial.get(usize::from(level)).map_or(&[][..], Vec::as_slice);
            match level {
                1 => self.push(edge)?,
                _ => row.extend(edge),
            }
            above = row;
        }
        self.edge = lowered(&self.edge)?;
        let leaves = partial.first().map_or(&[][..], Vec::as_slice);
        for leaf in leaves {
            self.edge.push(*leaf);
            self.compare(self.edge.size())?;
        }
        Ok(())
    }

    /// Takes in hashes of level 1, each of which stands for 256 records.
    fn push(&mut self, hashes: &[Hash]) -> Result<(), LedgerError> {
        for hash in hashes {
            self.edge.push(*hash);
            self.compare(self.edge.size() * TILE_WIDTH as u64)?;
        }
        Ok(())
    }

    /// Holds the root at this size against what was signed of it.
    fn compare(&self, size: u64) -> Result<(), LedgerError> {
        let forked = |root: &Hash, what| match *root == self.edge.root() {
            true => Ok(()),
            false => Err(LedgerError::Forked { size, what }),
        };
        if let Some(root) = self.promised.get(&size) {
            forked(root, "a kept checkpoint, by the kept tiles")?;
        }
        match size == self.size() {
            true => forked(&self.last.1, "its last checkpoint, by the kept tiles"),
            false => Ok(()),
        }
    }
}

/// The same tree by the hashes one level of tiles lower.
fn lowered(edge: &Frontier) -> Result<Frontier, LedgerError> {
    Frontier::from_parts(edge.size() * TILE_WIDTH as u64, edge.peaks().to_vec())
}

/// Records below one hash of a tile.
fn spanned_by(place: &Place) -> u64 {
    match place.kind {
        Kind::Hashes(level) => spanned(level),
        Kind::Entries => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        tiles::Rows,
        tree::{empty_root, leaf_hash},
    };

    /// The tiles that stay of a log of so many hashes of level 1 and so many records behind those.
    fn written(dir: &Path, nodes: u64, leaves: u64) -> (u64, Hash) {
        let hash = |level: u8, at: u64| leaf_hash(&[&[level][..], &at.to_be_bytes()].concat());
        let write = |level, index, hashes: &[Hash]| {
            let path = place(level, index, hashes.len()).path(dir);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, octets_of(hashes)).map_err(LedgerError::io("write", dir))
        };
        let (mut rows, mut edge) = (Rows::default(), Frontier::new());
        for at in 0..nodes {
            edge.push(hash(1, at));
            rows.push(hash(1, at), |row, index, hashes| write(row + 1, index, hashes))
                .unwrap();
        }
        for (row, index, hashes) in rows.partial().filter(|(_, _, hashes)| !hashes.is_empty()) {
            write(row + 1, index, hashes).unwrap();
        }
        let mut edge = lowered(&edge).unwrap();
        let leaves: Vec<Hash> = (0..leaves).map(|at| hash(0, at)).collect();
        leaves.iter().for_each(|leaf| edge.push(*leaf));
        if !leaves.is_empty() {
            write(0, nodes, &leaves).unwrap();
        }
        (edge.size(), edge.root())
    }

    fn look(dir: &Path, last: (u64, Hash), stays: Stays) -> Result<Looked, LedgerError> {
        check(dir, last, BTreeMap::new(), stays)
    }

    #[track_caller]
    fn named(dir: &Path, last: (u64, Hash), stays: Stays) -> String {
        match look(dir, last, stays) {
            Err(LedgerError::Tree { path, .. }) => path.strip_prefix(dir).unwrap().display().to_string(),
            other => panic!("{other:?}"),
        }
    }

    const LARGE: u64 = 65_536 + 300;

    #[test]
    fn the_tiles_of_logs_of_every_shape_lead_to_their_root() {
        for (nodes, leaves, tiles) in [
            (0, 1, 1),
            (1, 0, 1),
            (1, 255, 2),
            (256, 0, 2),
            (256, 7, 3),
            (LARGE, 5, 262),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let last = written(folder.path(), nodes, leaves);
            let looked = look(folder.path(), last, Stays::WithEdge).unwrap();
            assert_eq!(
                looked,
                Looked {
                    right: tiles,
                    missing: 0
                },
                "{nodes} {leaves}"
            );
            assert_eq!(files(folder.path(), last.0, Stays::WithEdge).len() as u64, tiles);
            assert!(look(folder.path(), (last.0, empty_root()), Stays::WithEdge).is_err());
        }
    }

    #[test]
    fn each_tile_that_is_damaged_or_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let last = written(dir, LARGE, 5);
        let partial = ["tile/0/x065/836.p/5", "tile/1/257.p/44"];
        for name in [
            "tile/1/000",
            "tile/1/256",
            "tile/2/000",
            "tile/2/001.p/1",
            "tile/3/000.p/1",
        ]
        .iter()
        .chain(&partial)
        {
            let path = dir.join(name);
            let whole = fs::read(&path).unwrap();
            for at in (0..whole.len()).step_by(whole.len() / 9 + 1).chain([whole.len() - 1]) {
                let mut altered = whole.clone();
                altered[at] ^= 1;
                fs::write(&path, &altered).unwrap();
                // Of those with nothing above and below them one cannot be told from the other.
                match named(dir, last, Stays::WithEdge).as_str() {
                    found if partial.contains(name) => assert!(partial.contains(&found), "{name} {at}: {found}"),
                    found => assert_eq!(found, *name, "{at}"),
                }
            }
            for length in [0, 1, whole.len() - 1] {
                fs::write(&path, &whole[..length]).unwrap();
                assert_eq!(named(dir, last, Stays::WithEdge), *name, "cut to {length}");
            }
            fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
            assert_eq!(named(dir, last, Stays::WithEdge), *name, "longer");
            fs::remove_file(&path).unwrap();
            assert_eq!(named(dir, last, Stays::WithEdge), *name, "missing");
            fs::write(&path, &whole).unwrap();
        }
        look(dir, last, Stays::WithEdge).unwrap();
    }

    #[test]
    fn without_the_edge_full_tiles_follow_from_each_other_and_none_may_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let last = written(dir, LARGE, 5);
        for place in places(last.0, Stays::WithEdge).filter(|place| place.width < TILE_WIDTH) {
            fs::remove_file(place.path(dir)).unwrap();
        }
        assert_eq!(
            look(dir, last, Stays::FullOrNone).unwrap(),
            Looked { right: 258, missing: 0 }
        );
        assert_eq!(named(dir, last, Stays::WithEdge), "tile/0/x065/836.p/5");
        let path = dir.join("tile/1/077");
        let whole = fs::read(&path).unwrap();
        let mut altered = whole.clone();
        altered[8000] ^= 8;
        fs::write(&path, altered).unwrap();
        assert_eq!(named(dir, last, Stays::FullOrNone), "tile/1/077");
        fs::remove_file(&path).unwrap();
        assert_eq!(named(dir, last, Stays::FullOrNone), "tile/1/077");
        fs::remove_dir_all(dir.join("tile")).unwrap();
        assert_eq!(
            look(dir, last, Stays::FullOrNone).unwrap(),
            Looked { right: 0, missing: 258 }
        );
        assert_eq!(files(dir, last.0, Stays::FullOrNone), Vec::<PathBuf>::new());
    }

    #[test]
    fn roots_that_were_signed_are_held_against_the_tiles_where_they_reach() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let last = written(dir, 300, 9);
        let mut edge = Frontier::new();
        (0..257u64).for_each(|at| edge.push(leaf_hash(&[&[1][..], &at.to_be_bytes()].concat())));
        let signed = |size, root| BTreeMap::from([(size, root)]);
        check(dir, last, signed(257 * 256, edge.root()), Stays::WithEdge).unwrap();
        for size in [256, 256 * 256, 257 * 256, 300 * 256, 300 * 256 + 1, 300 * 256 + 9] {
            let told = check(dir, last, signed(size, empty_root()), Stays::WithEdge);
            assert!(
                matches!(told, Err(LedgerError::Forked { size: at, .. }) if at == size),
                "{told:?}"
            );
        }
        for size in [1, 255, 257, 299 * 256 + 1] {
            check(dir, last, signed(size, empty_root()), Stays::WithEdge).unwrap();
        }
        // The full tile alone reaches as far as itself.
        let full = |size| check(dir, last, signed(size, empty_root()), Stays::FullOrNone);
        assert!(full(256 * 256).is_err() && full(256).is_err() && full(257 * 256).is_ok());
    }

    #[test]
    fn a_mark_says_one_of_two_things() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("released");
        for stays in [Stays::WithEdge, Stays::FullOrNone] {
            let text = mark(stays, 300, 700);
            fs::write(&path, &text).unwrap();
            assert_eq!(read_mark(&path, 300, 700).unwrap(), stays);
            assert!(read_mark(&path, 300, 701).is_err());
            for cut in (0..text.len()).filter(|cut| text[..*cut] != mark(Stays::FullOrNone, 300, 700)) {
                fs::write(&path, &text[..cut]).unwrap();
                assert!(read_mark(&path, 300, 700).is_err(), "{cut}");
            }
        }
        fs::remove_file(&path).unwrap();
        assert!(read_mark(&path, 300, 700).is_err());
    }
}
