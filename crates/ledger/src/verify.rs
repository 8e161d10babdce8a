//! Offline verification of a ledger folder: every frame, every root, the checkpoint's signature, the tiles.
//!
//! It takes no lock and writes nothing, so it may run beside a live ledger: what is being written while it reads counts
//! as an unfinished tail. It says nothing about what records mean; the caller looks at each as it passes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    LedgerError,
    checkpoint::Checkpoint,
    disk::read_whole,
    file::read_checkpoint,
    journal::Stored,
    kept,
    layout::{Shard, read_policy},
    note::Vkey,
    open::{Head, check_end, check_whole, read_heads, rolled_back},
    recovery::{Ending, Expect, FILE_BYTES_MAX, Found, RootAt, Scanned, Visitor, scan},
    seg::{Segment, entries::FRAME_RECORDS, seal},
    tiles::{Rows, TILE_WIDTH, read_tile, tile_file},
    tree::{Frontier, Hash, empty_root, sha256},
};

/// What one shard was found to hold.
#[derive(Clone, Debug)]
pub struct ShardReport {
    /// Its key; its name is the shard's origin.
    pub vkey: Vkey,
    /// The last signed checkpoint, which is a prefix of the log.
    pub checkpoint: Checkpoint,
    /// Records, of which those beyond the checkpoint are covered by no signature yet.
    pub size: u64,
    /// Root at that size.
    pub root: Hash,
    /// True when the log ends with a group that was never finished.
    pub unfinished_tail: bool,
    /// Tiles that are there and right.
    pub tiles: u64,
    /// Full tiles that are not there; they can be made again from the records.
    pub tiles_missing: u64,
}

/// Looks at the records of a log in order. The text of a refusal is reported with the record's index.
pub trait RecordCheck {
    /// Called for each record of a shard.
    ///
    /// # Errors
    /// What is wrong with the record, as a clause.
    fn record(&mut self, origin: &Vkey, stored: &Stored) -> Result<(), String>;
}

/// A check that accepts every record.
impl RecordCheck for () {
    fn record(&mut self, _: &Vkey, _: &Stored) -> Result<(), String> {
        Ok(())
    }
}

/// Verifies every shard of the ledger in `ledger`, oldest first. The keys are those of its own policy file unless the
/// caller brings `keys`: who could write the folder could have replaced the file.
///
/// # Errors
/// The first thing that is wrong, with its file, offset and record index.
pub fn verify(
    ledger: &Path,
    keys: Option<&[Vkey]>,
    check: &mut dyn RecordCheck,
) -> Result<Vec<ShardReport>, LedgerError> {
    let shards = read_policy(ledger)?;
    if let Some(keys) = keys {
        if let Some(key) = keys.iter().find(|key| !shards.iter().any(|shard| shard.vkey == **key)) {
            return Err(LedgerError::Signature(format!(
                "the ledger has no log of the key {key}"
            )));
        }
        if let Some(shard) = shards.iter().find(|shard| !keys.contains(&shard.vkey)) {
            return Err(LedgerError::Signature(format!(
                "{} is signed by a key you do not trust",
                shard.origin
            )));
        }
    }
    shards.iter().map(|shard| verify_shard(ledger, shard, check)).collect()
}

fn verify_shard(ledger: &Path, shard: &Shard, check: &mut dyn RecordCheck) -> Result<ShardReport, LedgerError> {
    // Before the records, because a live ledger goes on.
    let signed = read_checkpoint(shard)?.checkpoint().clone();
    let origin_hash = sha256(shard.origin.as_str().as_bytes());
    let (sealed, heads) = sealed_and_heads(shard, origin_hash)?;
    let kept = kept::read(shard)?;
    let mut pass = Pass {
        shard,
        kept: kept
            .iter()
            .map(|kept| (kept.checkpoint().size, kept.checkpoint().root))
            .collect(),
        checkpoint: RootAt {
            size: signed.size,
            root: signed.root,
            met: false,
        },
        check,
        tiles: TileCheck::default(),
        path: shard.head(),
        sealed: (0, empty_root()),
    };
    let begin = heads.first().map_or(0, |head| head.header.frontier.size());
    let before = pass.segments(&sealed, begin)?;
    let (tree, last) = pass.files(&heads, origin_hash, before)?;
    if !pass.checkpoint.met {
        let what = "the last signed checkpoint";
        return Err(rolled_back(ledger, &pass.path, &last, what, signed.size));
    }
    if let Some((size, _)) = pass.kept.first_key_value() {
        return Err(rolled_back(ledger, &pass.path, &last, "a kept checkpoint", *size));
    }
    check_whole(&pass.path, &last)?;
    Ok(ShardReport {
        vkey: shard.vkey.clone(),
        checkpoint: signed,
        size: tree.size(),
        root: tree.root(),
        unfinished_tail: last.ending == Ending::Torn,
        tiles: pass.tiles.right,
        tiles_missing: pass.tiles.missing,
    })
}

/// A live ledger may seal a segment and remove files between the two looks: then both are looked at again.
fn sealed_and_heads(shard: &Shard, origin_hash: [u8; 32]) -> Result<(seal::Found, Vec<Head>), LedgerError> {
    let mut before = None;
    loop {
        let sealed = seal::find(shard, None)?;
        let known = sealed.records();
        match read_heads(shard, origin_hash, known) {
            Ok(heads) => return Ok((sealed, heads)),
            Err(error) if before == Some(known) => return Err(error),
            Err(_) => before = Some(known),
        }
    }
}

struct Pass<'a> {
    shard: &'a Shard,
    /// Kept checkpoints that were not met yet: size and root.
    kept: BTreeMap<u64, Hash>,
    checkpoint: RootAt,
    check: &'a mut dyn RecordCheck,
    tiles: TileCheck,
    /// The file that is being read.
    path: PathBuf,
    /// Records that are sealed, and the root they have there: the files may hold some of them too.
    sealed: (u64, Hash),
}

impl Pass<'_> {
    /// Reads all sealed segments; returns the tree's edge where the files begin.
    fn segments(&mut self, sealed: &seal::Found, begin: u64) -> Result<Frontier, LedgerError> {
        let (mut tree, mut at_begin) = (Frontier::new(), Frontier::new());
        for entries in &sealed.entries {
            self.path = Segment::of(entries.first()).entries(self.shard);
            while tree.size() < entries.first() + u64::from(entries.count()) {
                for stored in entries.read_from(tree.size(), FRAME_RECORDS)? {
                    let leaf = stored.leaf_hash();
                    self.look(&stored, 0)?;
                    self.tiles.leaf(&self.shard.dir, leaf)?;
                    tree.push(leaf);
                    if self.is_promised(tree.size()) {
                        self.promised(tree.size(), tree.root())?;
                    }
                    if tree.size() == begin {
                        at_begin = tree.clone();
                    }
                }
            }
        }
        sealed.indexes.iter().try_for_each(|index| index.check())?;
        self.sealed = (tree.size(), tree.root());
        Ok(at_begin)
    }

    /// Reads the write-ahead files; returns the whole tree's edge, and the last file.
    fn files(
        &mut self,
        heads: &[Head],
        origin_hash: [u8; 32],
        mut tree: Frontier,
    ) -> Result<(Frontier, Scanned), LedgerError> {
        let mut last = None;
        for (at, head) in heads.iter().enumerate() {
            let path = self.shard.wal(head.number);
            self.path.clone_from(&path);
            let bytes = read_whole(&path, FILE_BYTES_MAX, "a file of the log")?;
            let expect = Expect {
                number: head.number,
                origin_hash,
            };
            let scanned = scan(&path, &bytes, &expect, self)?;
            if scanned.header.frontier != tree {
                return Err(LedgerError::Corrupt {
                    path,
                    offset: 0,
                    index: tree.size(),
                    problem: "the file does not begin where what is before it ends".into(),
                });
            }
            let next = heads.get(at + 1).map(|next| &next.header);
            // A live ledger may have begun the next file after the folder was listed.
            if next.is_some() || !self.shard.wal(head.number + 1).exists() {
                check_end(&path, &scanned, next)?;
            }
            tree = scanned.frontier.clone();
            last = Some(scanned);
        }
        let last = last.ok_or_else(|| LedgerError::Missing {
            path: self.shard.wal(1),
            detail: "the head of the log",
        })?;
        Ok((tree, last))
    }

    fn is_promised(&self, size: u64) -> bool {
        size == self.checkpoint.size || self.kept.first_key_value().is_some_and(|(next, _)| *next == size)
    }

    /// Compares a root with what checkpoints said of it.
    fn promised(&mut self, size: u64, root: Hash) -> Result<(), LedgerError> {
        if self.kept.remove(&size).is_some_and(|kept| kept != root) {
            return Err(LedgerError::Forked {
                size,
                what: "a kept checkpoint",
            });
        }
        match size == self.checkpoint.size {
            true => self.checkpoint.compare(root),
            false => Ok(()),
        }
    }

    fn look(&mut self, stored: &Stored, offset: u64) -> Result<(), LedgerError> {
        let looked = self.check.record(&self.shard.vkey, stored);
        looked.map_err(|problem| LedgerError::Corrupt {
            path: self.path.clone(),
            offset,
            index: stored.index(),
            problem,
        })
    }
}

impl Visitor for Pass<'_> {
    fn record(&mut self, record: &Found<'_>, index: u64) -> Result<(), LedgerError> {
        if index < self.sealed.0 {
            return Ok(());
        }
        let stored = Stored::new(index, record.bytes.into(), Some(record.leaf));
        self.look(&stored, record.offset)?;
        self.tiles.leaf(&self.shard.dir, record.leaf)
    }

    fn wants_root(&self, size: u64) -> bool {
        self.is_promised(size) || size == self.sealed.0
    }

    fn root(&mut self, size: u64, root: Hash) -> Result<(), LedgerError> {
        if size == self.sealed.0 && root != self.sealed.1 {
            return Err(LedgerError::Forked {
                size,
                what: "the sealed segments",
            });
        }
        self.promised(size, root)
    }
}

/// Makes every full tile again and compares it with the one that is stored.
#[derive(Debug, Default)]
struct TileCheck {
    rows: Rows,
    right: u64,
    missing: u64,
}

impl TileCheck {
    fn leaf(&mut self, dir: &Path, leaf: Hash) -> Result<(), LedgerError> {
        let (right, missing) = (&mut self.right, &mut self.missing);
        self.rows.push(leaf, |level, index, row| {
            match compare(dir, level, index, row)? {
                true => *right += 1,
                false => *missing += 1,
            }
            Ok(())
        })
    }
}

/// True when the tile is there and right, false when it is not there.
fn compare(dir: &Path, level: u8, index: u64, row: &[Hash]) -> Result<bool, LedgerError> {
    let Some(stored) = read_tile(dir, level, index)? else {
        return Ok(false);
    };
    if stored != row {
        let span = (TILE_WIDTH as u64).saturating_pow(u32::from(level) + 1);
        return Err(LedgerError::Corrupt {
            path: tile_file(dir, level, index).0,
            offset: tile_file(dir, level, index).1,
            index: index.saturating_mul(span),
            problem: "the tile is not that of the records; remove the file, it is made again".into(),
        });
    }
    Ok(true)
}
