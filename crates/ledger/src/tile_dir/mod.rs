//! Logs as plain folders of files (C2SP tlog-tiles), for whoever has other tools: `tile/<L>/<N>` with the hashes,
//! `tile/entries/<N>` with the records, `checkpoint`. Nothing in them is compressed or derived by other rules than the
//! specification's. A ledger is one such folder for each shard, and the policy file with their keys.

mod file;
mod given_up;
mod read;
mod served;
mod walk;
mod write;

use std::path::{Path, PathBuf};

pub(crate) use self::file::split;
pub(crate) use self::given_up::{Looked, Stays, check, files, mark, read_mark, write_edge};
pub use self::read::{TreeReport, verify_ledger_tree, verify_tree};
pub use self::served::{TreeFile, TreePath};
pub use self::write::{LedgerTreeWriter, TreeWriter};
use crate::{
    tiles::{TILE_WIDTH, tile_path},
    tree::Hash,
};

/// The file with the last signed tree head.
const CHECKPOINT: &str = "checkpoint";
/// The file with the verifier keys, above the logs' folders.
const POLICY: &str = "policy";
/// The folder of the tree heads that were signed before and kept, each under its size. Other tools do not look at it.
const CHECKPOINTS: &str = "checkpoints";
/// The folder with everything else.
const TILES: &str = "tile";
/// The file with the state of everything before a log that is not the first.
const SNAPSHOT: &str = "snapshot";
/// The file in which the log before names this one.
const SUCCESSION: &str = "succession";
/// The file that says that a log's records were given up: checkpoints and upper tiles are all there is.
const RELEASED: &str = "released";
/// Octets of the length before each record of a bundle.
const LENGTH_OCTETS: usize = 2;

/// What a file of the tree holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Records.
    Entries,
    /// Hashes of this level.
    Hashes(u8),
}

/// One file of the tree: the place of the tile, and how many hashes or records are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    kind: Kind,
    index: u64,
    width: usize,
}

impl Place {
    /// Where the file is below the log's folder (C2SP tlog-tiles, Merkle tree and log entries).
    fn path(&self, dir: &Path) -> PathBuf {
        let level = match self.kind {
            Kind::Entries => 0,
            Kind::Hashes(level) => level,
        };
        let mut path = tile_path(level, self.index);
        if self.kind == Kind::Entries {
            path = path.replacen("tile/0/", "tile/entries/", 1);
        }
        if self.width < TILE_WIDTH {
            path.push_str(&format!(".p/{}", self.width));
        }
        dir.join(path)
    }

    /// The first record below this tile.
    fn start(&self) -> u64 {
        match self.kind {
            Kind::Entries => self.index.saturating_mul(TILE_WIDTH as u64),
            Kind::Hashes(level) => self
                .index
                .saturating_mul(spanned(level).saturating_mul(TILE_WIDTH as u64)),
        }
    }
}

/// Records below one hash of a level.
fn spanned(level: u8) -> u64 {
    (TILE_WIDTH as u64).saturating_pow(u32::from(level))
}

/// The width of tile `index` of a level in a tree of `size` records: 0 when there is none.
fn width_at(level: u8, index: u64, size: u64) -> usize {
    let hashes = match u32::from(level) * 8 {
        bits @ 0..64 => size >> bits,
        _ => 0,
    };
    let left = hashes.saturating_sub(index.saturating_mul(TILE_WIDTH as u64));
    // At most 256, so it fits.
    left.min(TILE_WIDTH as u64) as usize
}

/// The octets of a tile.
fn octets_of(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
}
