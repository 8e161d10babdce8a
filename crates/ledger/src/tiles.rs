//! The tree as tiles of 256 hashes (C2SP tlog-tiles): full tiles in files, the right edge in memory.
//!
//! Tiles are derived: whatever is missing or damaged is made again from the records. The 256 tiles of level 0 below one
//! tile of level 1 share a file, `seg/<n>.tiles`, because a file for every 256 records costs more than hashing them; it
//! is flushed before its level-1 tile is written, so a tile that is there vouches for those below it. A proof is handed
//! out only after it was checked against the root it is for.

use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use crate::{
    LedgerError,
    disk::{Disk, is_full, make_dir, replace},
    proof::{HashSource, consistency, inclusion, root_at, verify_consistency, verify_inclusion},
    tree::{Hash, node_hash},
};

/// Hashes of a full tile.
pub const TILE_WIDTH: usize = 256;
/// Levels of the tree that one level of tiles spans.
const TILE_HEIGHT: u8 = 8;
/// Bytes of a full tile.
pub(crate) const TILE_BYTES: usize = TILE_WIDTH * 32;

/// The path of a full tile in the plain tree that other tools read, such as `tile/0/x001/x234/067`.
pub fn tile_path(level: u8, index: u64) -> String {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    format!("tile/{level}/{path}")
}

/// Root of the complete subtree over a power of two of hashes.
pub(crate) fn subtree_root(hashes: &[Hash]) -> Hash {
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        row = row.chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
    }
    row.first().copied().unwrap_or(Hash::new([0; 32]))
}

/// The rows of hashes of a tree that is walked leaf by leaf: each row that fills is a tile, and its root a hash of the row above.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    levels: Vec<(u64, Vec<Hash>)>,
}

impl Rows {
    /// Adds a leaf; `full` is told each tile it fills, lowest first, by level, index and hashes.
    pub(crate) fn push(
        &mut self,
        leaf: Hash,
        mut full: impl FnMut(u8, u64, &[Hash]) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let (mut carried, mut level) = (leaf, 0u8);
        loop {
            let at = usize::from(level);
            if self.levels.len() == at {
                self.levels.push((0, Vec::with_capacity(TILE_WIDTH)));
            }
            let (index, row) = &mut self.levels[at];
            row.push(carried);
            if row.len() < TILE_WIDTH {
                return Ok(());
            }
            full(level, *index, row)?;
            carried = subtree_root(row);
            row.clear();
            *index += 1;
            level += 1;
        }
    }

    /// The row of each level, lowest first, with the index of the tile it is a part of.
    pub(crate) fn partial(&self) -> impl Iterator<Item = (u8, u64, &[Hash])> {
        (0..)
            .zip(&self.levels)
            .map(|(level, (index, row))| (level, *index, row.as_slice()))
    }
}

/// The hashes of the last, partial tile of each level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Edge {
    size: u64,
    tails: Vec<Vec<Hash>>,
}

/// The tree of a shard, growing with its follower and read by whoever needs a proof.
#[derive(Debug)]
pub struct Tree {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    edge: RwLock<Edge>,
}

/// A full tile that the next leaf completes.
pub(crate) struct FullTile {
    pub(crate) level: u8,
    pub(crate) index: u64,
    pub(crate) hashes: Vec<Hash>,
}

impl Edge {
    /// The tiles that `leaf` completes, lowest first, and the hash it carries up to the first level it leaves partial.
    fn completed_by(&self, leaf: Hash) -> (Vec<FullTile>, Hash) {
        let (mut full, mut carried, mut index) = (Vec::new(), leaf, self.size);
        for (level, tail) in (0..).zip(&self.tails) {
            if tail.len() + 1 < TILE_WIDTH {
                break;
            }
            let mut hashes = tail.clone();
            hashes.push(carried);
            carried = subtree_root(&hashes);
            index /= TILE_WIDTH as u64;
            full.push(FullTile { level, index, hashes });
        }
        (full, carried)
    }

    /// A hash of a partial tile.
    fn hash(&self, level: u8, tile: u64, place: usize) -> Option<Hash> {
        let bits = u32::from(level) * u32::from(TILE_HEIGHT);
        let hashes = self.size.checked_shr(bits).unwrap_or(0);
        let tail = self
            .tails
            .get(usize::from(level))
            .filter(|_| tile == hashes / TILE_WIDTH as u64)?;
        tail.get(place).copied()
    }

    fn push(&mut self, completed: usize, carried: Hash) {
        self.tails.iter_mut().take(completed).for_each(Vec::clear);
        if self.tails.len() == completed {
            self.tails.push(Vec::with_capacity(TILE_WIDTH));
        }
        self.tails[completed].push(carried);
        self.size += 1;
    }
}

impl Tree {
    /// An empty tree whose tiles are kept below `dir`, on `disk`.
    pub fn new(dir: &Path, disk: Arc<dyn Disk>) -> Self {
        Self {
            dir: dir.to_owned(),
            disk,
            edge: RwLock::default(),
        }
    }

    /// Goes on where full tiles end, at the last multiple of 256 that is at most `size`. The caller must compare the
    /// root with a signed one before it trusts the tree.
    ///
    /// # Errors
    /// Fails when a tile is missing or has another length.
    pub(crate) fn resume(&self, size: u64) -> Result<(), LedgerError> {
        let mut edge = Edge {
            size: size - size % TILE_WIDTH as u64,
            tails: Vec::new(),
        };
        let mut hashes = edge.size;
        let mut level = 0;
        while hashes > 0 {
            // A level's partial tile holds the roots of the full tiles below it.
            let partial = hashes % TILE_WIDTH as u64;
            let tail = match level {
                0 => Vec::with_capacity(TILE_WIDTH),
                _ => (hashes - partial..hashes)
                    .map(|index| Ok(subtree_root(&self.read_tile(level - 1, index)?)))
                    .collect::<Result<_, LedgerError>>()?,
            };
            edge.tails.push(tail);
            hashes /= TILE_WIDTH as u64;
            level += 1;
        }
        *self.edge.write().unwrap_or_else(PoisonError::into_inner) = edge;
        Ok(())
    }

    fn edge(&self) -> RwLockReadGuard<'_, Edge> {
        self.edge.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.edge().size
    }

    /// Appends a leaf; a tile it completes is written first, so that an error leaves the tree as it was. Only one
    /// thread appends.
    pub(crate) fn push(&self, leaf: Hash) -> Result<(), LedgerError> {
        let (full, carried) = self.edge().completed_by(leaf);
        for tile in &full {
            self.write_tile(tile)?;
        }
        let mut edge = self.edge.write().unwrap_or_else(PoisonError::into_inner);
        edge.push(full.len(), carried);
        Ok(())
    }

    /// Root of the whole tree.
    ///
    /// # Errors
    /// Fails when a tile cannot be read.
    pub fn root(&self) -> Result<Hash, LedgerError> {
        self.root_at(self.size())
    }

    /// Root of the first `size` leaves, which leads to that of the whole tree: whoever compares it with a signed one must not
    /// take a damaged tile for a fork.
    ///
    /// # Errors
    /// Refuses a size beyond the tree; fails when a tile cannot be read or is damaged.
    pub fn root_at(&self, size: u64) -> Result<Hash, LedgerError> {
        self.within(size)?;
        let root = root_at(self, size)?;
        let whole = self.size();
        if size < whole {
            // The edge alone, in memory, is that of the whole.
            self.consistency((size, &root), (whole, &root_at(self, whole)?))?;
        }
        Ok(root)
    }

    /// The path that proves leaf `index`, whose hash is `leaf`, in the tree of `size` leaves with this `root`.
    ///
    /// # Errors
    /// Refuses an index or size beyond the tree; fails when a tile is damaged.
    pub fn inclusion(&self, index: u64, leaf: &Hash, size: u64, root: &Hash) -> Result<Vec<Hash>, LedgerError> {
        self.within(size)?;
        let path = inclusion(self, index, size)?;
        verify_inclusion(leaf, index, size, &path, root).map_err(|_| self.damaged(index))?;
        Ok(path)
    }

    /// The path that proves that the tree of `new` leaves begins with that of `old` leaves.
    ///
    /// # Errors
    /// Refuses sizes beyond the tree; fails when a tile is damaged.
    pub fn consistency(&self, old: (u64, &Hash), new: (u64, &Hash)) -> Result<Vec<Hash>, LedgerError> {
        self.within(new.0)?;
        let path = consistency(self, old.0, new.0)?;
        verify_consistency(old.0, old.1, new.0, new.1, &path).map_err(|_| self.damaged(old.0))?;
        Ok(path)
    }

    fn within(&self, size: u64) -> Result<(), LedgerError> {
        let have = self.size();
        if size > have {
            return Err(LedgerError::Beyond {
                what: "tree size",
                asked: size,
                have,
            });
        }
        Ok(())
    }

    fn damaged(&self, index: u64) -> LedgerError {
        damaged(self.dir.join("tile"), index)
    }

    /// A full tile.
    ///
    /// # Errors
    /// Fails when it is missing or cut short.
    pub fn read_tile(&self, level: u8, index: u64) -> Result<Vec<Hash>, LedgerError> {
        read_tile(&self.dir, level, index)?.ok_or_else(|| LedgerError::Missing {
            path: tile_file(&self.dir, level, index).0,
            detail: "a tile of the tree",
        })
    }

    /// The first `width` hashes of a tile, which may be the partial one at the edge.
    ///
    /// # Errors
    /// Refuses more hashes than the tree has; fails as [`Tree::read_tile`], and when the tile does not lead to the edge.
    pub(crate) fn tile(&self, level: u8, index: u64, width: usize) -> Result<Vec<Hash>, LedgerError> {
        {
            let edge = self.edge();
            let bits = u32::from(level) * u32::from(TILE_HEIGHT);
            let hashes = edge.size.checked_shr(bits).unwrap_or(0);
            let first = index.saturating_mul(TILE_WIDTH as u64);
            let wanted = first.saturating_add(width as u64);
            if wanted > hashes {
                return Err(LedgerError::Beyond {
                    what: "tile",
                    asked: wanted,
                    have: hashes,
                });
            }
            if index == hashes / TILE_WIDTH as u64 {
                let tail = edge.tails.get(usize::from(level)).and_then(|tail| tail.get(..width));
                return tail.map(<[Hash]>::to_vec).ok_or_else(|| self.damaged(first));
            }
        }
        let mut hashes = self.read_tile(level, index)?;
        self.leads_to_edge(level, index, &hashes)?;
        hashes.truncate(width);
        Ok(hashes)
    }

    /// Follows a full tile through those above it up to a hash in memory.
    fn leads_to_edge(&self, level: u8, index: u64, hashes: &[Hash]) -> Result<(), LedgerError> {
        let (mut root, mut above, mut at) = (subtree_root(hashes), level + 1, index);
        loop {
            let (tile, place) = (at / TILE_WIDTH as u64, (at % TILE_WIDTH as u64) as usize);
            let known = self.edge().hash(above, tile, place);
            let row = match known {
                Some(_) => Vec::new(),
                None => self.read_tile(above, tile)?,
            };
            if known.or_else(|| row.get(place).copied()) != Some(root) {
                let span = (TILE_WIDTH as u64).saturating_pow(u32::from(level) + 1);
                let path = tile_file(&self.dir, level, index).0;
                return Err(damaged(path, index.saturating_mul(span)));
            }
            if known.is_some() {
                return Ok(());
            }
            (root, above, at) = (subtree_root(&row), above + 1, tile);
        }
    }

    fn write_tile(&self, tile: &FullTile) -> Result<(), LedgerError> {
        let (path, offset) = tile_file(&self.dir, tile.level, tile.index);
        let bytes: Vec<u8> = tile.hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
        let full = |error: io::Error| match is_full(&error) {
            true => LedgerError::NoSpace,
            false => LedgerError::io("write", &path)(error),
        };
        if tile.level > 0 {
            make_dir(path.parent().unwrap_or(&self.dir))?;
            return replace(&*self.disk, &path, &bytes);
        }
        if offset == 0 {
            make_dir(path.parent().unwrap_or(&self.dir))?;
        }
        let file = self.disk.open(&path).map_err(full)?;
        file.write_at(&bytes, offset).map_err(full)?;
        if tile.index % TILE_WIDTH as u64 == TILE_WIDTH as u64 - 1 {
            file.sync().map_err(full)?;
        }
        Ok(())
    }
}

fn damaged(path: PathBuf, index: u64) -> LedgerError {
    LedgerError::Corrupt {
        path,
        offset: 0,
        index,
        problem:
            "the tiles do not lead to the root; remove the folder tile and the files seg/*.tiles and restart, they are \
             made again; never remove seg/*.entries.zst, which are the records"
                .into(),
    }
}

/// The file of a full tile, and where in it the tile begins.
pub(crate) fn tile_file(dir: &Path, level: u8, index: u64) -> (PathBuf, u64) {
    match level {
        0 => {
            let (segment, at) = (index / TILE_WIDTH as u64, index % TILE_WIDTH as u64);
            (dir.join(format!("seg/{segment:08}.tiles")), at * TILE_BYTES as u64)
        }
        _ => (dir.join(tile_path(level, index)), 0),
    }
}

/// A full tile; `None` when it is missing or cut short.
pub(crate) fn read_tile(dir: &Path, level: u8, index: u64) -> Result<Option<Vec<Hash>>, LedgerError> {
    let (path, offset) = tile_file(dir, level, index);
    let mut bytes = [0; TILE_BYTES];
    match fs::File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, offset)) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
            return Ok(None);
        }
        Err(error) => return Err(LedgerError::io("read", path)(error)),
    }
    bytes
        .chunks_exact(32)
        .map(Hash::from_slice)
        .collect::<Result<_, _>>()
        .map(Some)
}

impl HashSource for Tree {
    fn node(&self, level: u8, index: u64) -> Result<Hash, LedgerError> {
        let (tile_level, height) = (level / TILE_HEIGHT, level % TILE_HEIGHT);
        let first = index << height;
        let (tile, at) = (first / TILE_WIDTH as u64, (first % TILE_WIDTH as u64) as usize);
        let width = 1usize << height;
        {
            let edge = self.edge();
            let hashes = edge.size.checked_shr(u32::from(tile_level * TILE_HEIGHT)).unwrap_or(0);
            if tile == hashes / TILE_WIDTH as u64
                && let Some(tail) = edge.tails.get(usize::from(tile_level))
            {
                let Some(part) = tail.get(at..at + width) else {
                    return Err(LedgerError::Beyond {
                        what: "tree node",
                        asked: index,
                        have: edge.size >> level,
                    });
                };
                return Ok(subtree_root(part));
            }
        }
        let hashes = self.read_tile(tile_level, tile)?;
        Ok(subtree_root(&hashes[at..at + width]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::LocalDisk,
        tree::{Frontier, leaf_hash},
    };

    #[test]
    fn tile_paths_are_those_of_the_specification() {
        assert_eq!(tile_path(0, 1_234_067), "tile/0/x001/x234/067");
        assert_eq!(tile_path(3, 0), "tile/3/000");
        assert_eq!(tile_path(0, 999), "tile/0/999");
        assert_eq!(tile_path(0, 1000), "tile/0/x001/000");
    }

    #[test]
    fn tiles_roots_and_proofs_agree_with_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path(), Arc::new(LocalDisk));
        let leaf = |i: u64| leaf_hash(&i.to_be_bytes());
        let mut edge = Frontier::new();
        let mut roots = vec![edge.root()];
        // Over 65,536 leaves, so that a level-1 tile fills and a level-2 tile begins.
        for i in 0..66_000u64 {
            tree.push(leaf(i)).unwrap();
            edge.push(leaf(i));
            roots.push(edge.root());
        }
        assert_eq!(tree.root().unwrap(), edge.root());
        assert!(dir.path().join("tile/1/000").exists() && !dir.path().join("tile/2/000").exists());
        assert_eq!(
            fs::metadata(dir.path().join("seg/00000000.tiles")).unwrap().len(),
            65_536 * 32
        );
        for size in [1u64, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 66_000] {
            let root = roots[size as usize];
            assert_eq!(tree.root_at(size).unwrap(), root, "{size}");
            for index in [0, 1, size / 3, size / 2, size - 1] {
                let index = index.min(size - 1);
                tree.inclusion(index, &leaf(index), size, &root).unwrap();
            }
            for old in [1, size / 2, size.saturating_sub(1), size] {
                tree.consistency((old, &roots[old as usize]), (size, &root)).unwrap();
            }
        }
        assert!(tree.root_at(66_001).is_err());
        assert!(tree.inclusion(5, &leaf(6), 66_000, &edge.root()).is_err());

        let again = Tree::new(dir.path(), Arc::new(LocalDisk));
        again.resume(66_000).unwrap();
        assert_eq!(again.size(), 65_792);
        for i in 65_792..66_000 {
            again.push(leaf(i)).unwrap();
        }
        assert_eq!(*again.edge(), *tree.edge());
    }

    #[test]
    fn a_damaged_tile_gives_no_proof() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path(), Arc::new(LocalDisk));
        let leaf = |i: u64| leaf_hash(&i.to_be_bytes());
        (0..600).for_each(|i| tree.push(leaf(i)).unwrap());
        let root = tree.root().unwrap();
        let path = dir.path().join("seg/00000000.tiles");
        let mut bytes = fs::read(&path).unwrap();
        bytes[40] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(
            tree.inclusion(0, &leaf(0), 600, &root),
            Err(LedgerError::Corrupt { .. })
        ));
        assert!(matches!(tree.root_at(9), Err(LedgerError::Corrupt { .. })));
        assert!(matches!(tree.tile(0, 0, 256), Err(LedgerError::Corrupt { path: at, .. }) if at == path));
        // Other tiles are not touched by it.
        tree.inclusion(300, &leaf(300), 600, &root).unwrap();
        tree.inclusion(599, &leaf(599), 600, &root).unwrap();
        tree.tile(0, 1, 256).unwrap();
        tree.root_at(512).unwrap();
    }

    /// Tiles of level 1 and above of a tree of 256 full ones of level 1, and a leaf's row above them.
    fn tall(dir: &Path) -> Tree {
        let tree = Tree::new(dir, Arc::new(LocalDisk));
        let hash = |at: u64| leaf_hash(&at.to_be_bytes());
        let leaves: Vec<Hash> = (0..256).map(hash).collect();
        let mut rows = Rows::default();
        let nodes = (0..65_536).map(hash).chain([subtree_root(&leaves)]);
        for node in nodes {
            rows.push(node, |row, index, hashes| {
                let (level, hashes) = (row + 1, hashes.to_vec());
                tree.write_tile(&FullTile { level, index, hashes })
            })
            .unwrap();
        }
        let (level, index) = (0, 65_536);
        tree.write_tile(&FullTile {
            level,
            index,
            hashes: leaves,
        })
        .unwrap();
        tree.resume(65_537 * 256).unwrap();
        tree
    }

    #[test]
    fn a_damaged_upper_tile_gives_no_root_no_proof_and_no_tile() {
        let dir = tempfile::tempdir().unwrap();
        let tree = tall(dir.path());
        let (size, root) = (tree.size(), tree.root().unwrap());
        // Over tiles of level 1 that no start reads: their roots are in a full one of level 2.
        let old = 7 * 65_536 + 512;
        let old_root = tree.root_at(old).unwrap();
        let told = |tree: &Tree| {
            let proof = tree.consistency((old, &old_root), (size, &root));
            let tile = tree.tile(1, 7, 256).map(drop);
            [tree.root_at(old).map(drop), proof.map(drop), tile].map(|told| match told {
                Ok(()) => true,
                Err(LedgerError::Corrupt { .. } | LedgerError::Missing { .. }) => false,
                Err(other) => panic!("{other}"),
            })
        };
        assert_eq!(told(&tree), [true; 3]);
        for (name, is_met_at_start) in [("tile/1/007", false), ("tile/2/000", true)] {
            let path = dir.path().join(name);
            let whole = fs::read(&path).unwrap();
            for bit in [3, 8 * 32 + 7, 8 * whole.len() - 1] {
                let mut octets = whole.clone();
                octets[bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, octets).unwrap();
                assert_eq!(told(&tree), [false; 3], "{name} {bit}");
                let again = Tree::new(dir.path(), Arc::new(LocalDisk));
                again.resume(size).unwrap();
                assert_eq!(again.root().unwrap() != root, is_met_at_start, "{name} {bit}");
            }
            fs::write(&path, &whole[..whole.len() - 1]).unwrap();
            assert_eq!(told(&tree), [false; 3], "{name} cut");
            fs::write(&path, &whole).unwrap();
        }
        assert_eq!(told(&tree), [true; 3]);
    }
}
