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
    journal::{Log, Stored},
    kept,
    layout::{Shard, read_policy},
    note::Vkey,
    on_disk::{OnDisk, OpenHead, all_of, is_closed},
    open::{check_end, check_whole, rolled_back},
    opening::{ShardBegin, check_first_record},
    recovery::{Ending, Expect, Found, RootAt, Scanned, Visitor, scan},
    retain,
    seg::{Segment, entries::FRAME_RECORDS, seal},
    succession,
    tiles::{Rows, TILE_WIDTH, read_tile, tile_file},
    tree::{Frontier, Hash},
};

/// What one shard was found to hold.
#[derive(Clone, Debug)]
pub struct ShardReport {
    /// Its key; its name is the shard's origin.
    pub vkey: Vkey,
    /// The last signed checkpoint, which is a prefix of the log.
    pub checkpoint: Checkpoint,
    /// Position of its first record in the ledger.
    pub first: u64,
    /// True when its records were given up: checkpoints and upper tiles are all that could be looked at.
    pub released: bool,
    /// Records, of which those beyond the checkpoint are covered by no signature yet.
    pub size: u64,
    /// Root at that size.
    pub root: Hash,
    /// True when the log ends with a group that was never finished.
    pub unfinished_tail: bool,
    /// Tiles that are there and right.
    pub tiles: u64,
    /// Full tiles that are not there; they can be made again from the records while those are kept.
    pub tiles_missing: u64,
}

/// Looks at the records of a ledger in order. The text of a refusal is reported with the record's index.
pub trait RecordCheck {
    /// Called before the records of a shard.
    ///
    /// # Errors
    /// What is wrong with how the shard begins, as a clause.
    fn begin(&mut self, _begin: &ShardBegin<'_>) -> Result<(), String> {
        Ok(())
    }

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
/// caller brings `keys`: who could write the folder could have replaced the file. A shard is trusted as well when the key of a
/// trusted one before it named its key. A last shard without a head is one of a copy of closed shards.
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
        check_trust(&shards, keys)?;
    }
    let mut reports = Vec::new();
    let mut before: Option<&Shard> = None;
    for (at, shard) in shards.iter().enumerate() {
        let is_closed = is_closed(&shards, at);
        let whole_before = shards[..at].iter().all(Shard::is_released);
        reports.push(match is_closed && shard.is_released() && whole_before {
            true => verify_released(shard)?,
            false => verify_shard(ledger, (shard, is_closed), before, check)?,
        });
        before = Some(shard);
    }
    Ok(reports)
}

/// Each shard's key is one of the caller's, or named by the shard before it, whose key is.
fn check_trust(shards: &[Shard], keys: &[Vkey]) -> Result<(), LedgerError> {
    if let Some(key) = keys.iter().find(|key| !shards.iter().any(|shard| shard.vkey == **key)) {
        return Err(LedgerError::Signature(format!(
            "the ledger has no log of the key {key}"
        )));
    }
    let mut before: Option<&Vkey> = None;
    for shard in shards {
        let is_named = || match before {
            Some(before) => succession::names(shard, before),
            None => Ok(false),
        };
        if !keys.contains(&shard.vkey) && !is_named()? {
            return Err(LedgerError::Signature(format!(
                "{} is signed by a key you do not trust",
                shard.origin
            )));
        }
        before = Some(&shard.vkey);
    }
    Ok(())
}

/// Of a shard whose records were given up the checkpoints can be looked at, and the tiles that stay.
fn verify_released(shard: &Shard) -> Result<ShardReport, LedgerError> {
    let signed = shard.read_checkpoint()?.checkpoint().clone();
    let kept = kept::read(shard)?;
    kept::check_against_last(&kept, signed.size, signed.root)?;
    let tiles = retain::check_tiles(shard, &signed, kept::promised(&kept))?;
    Ok(ShardReport {
        vkey: shard.vkey.clone(),
        first: shard.base,
        released: true,
        size: signed.size,
        root: signed.root,
        checkpoint: signed,
        unfinished_tail: false,
        tiles: tiles.right,
        tiles_missing: tiles.missing,
    })
}

fn verify_shard(
    ledger: &Path,
    (shard, is_closed): (&Shard, bool),
    before: Option<&Shard>,
    check: &mut dyn RecordCheck,
) -> Result<ShardReport, LedgerError> {
    let (OnDisk { signed, closed, sealed }, mut heads) = all_of(ledger, shard, is_closed)?;
    let kept = kept::read(shard)?;
    let snapshot = before.map(|_| retain::read_snapshot(shard)).transpose()?;
    let log = Log::new(shard.vkey.clone(), shard.base)?;
    let begin = ShardBegin {
        log: &log,
        snapshot: snapshot.as_deref(),
    };
    check.begin(&begin).map_err(|problem| LedgerError::Corrupt {
        path: shard.snapshot(),
        offset: 0,
        index: shard.base,
        problem,
    })?;
    let mut pass = Pass {
        shard,
        before,
        snapshot: snapshot.as_deref(),
        kept: kept::promised(&kept),
        checkpoint: RootAt {
            size: signed.size,
            root: signed.root,
            met: false,
        },
        check,
        tiles: TileCheck::default(),
        path: shard.head(),
        sealed: Frontier::new(),
    };
    let begin = heads.first().map_or(0, |opened| opened.head.header.frontier.size());
    let at_begin = pass.segments(&sealed, begin)?;
    let (tree, last) = match heads.is_empty() {
        true => (pass.sealed.clone(), None),
        false => pass.files(&mut heads, at_begin)?,
    };
    pass.check_promises(ledger, &tree, last.as_ref(), closed)?;
    Ok(ShardReport {
        vkey: shard.vkey.clone(),
        first: shard.base,
        released: false,
        checkpoint: signed,
        size: tree.size(),
        root: tree.root(),
        unfinished_tail: last.is_some_and(|last| last.ending == Ending::Torn),
        tiles: pass.tiles.right,
        tiles_missing: pass.tiles.missing,
    })
}

struct Pass<'a> {
    shard: &'a Shard,
    before: Option<&'a Shard>,
    snapshot: Option<&'a [u8]>,
    /// Kept checkpoints that were not met yet: size and root.
    kept: BTreeMap<u64, Hash>,
    checkpoint: RootAt,
    check: &'a mut dyn RecordCheck,
    tiles: TileCheck,
    /// The file that is being read.
    path: PathBuf,
    /// The tree of what is sealed: the files may hold some of it too.
    sealed: Frontier,
}

impl Pass<'_> {
    /// Reads all sealed segments; returns the tree's edge where the files begin.
    fn segments(&mut self, sealed: &seal::Found, begin: u64) -> Result<Frontier, LedgerError> {
        let (mut tree, mut at_begin) = (Frontier::new(), Frontier::new());
        let base = self.shard.base;
        for entries in &sealed.entries {
            self.path = Segment::of(entries.first() - base).entries(self.shard);
            while base + tree.size() < entries.end() {
                for stored in entries.read_from(base + tree.size(), FRAME_RECORDS)? {
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
        self.sealed = tree;
        Ok(at_begin)
    }

    /// Reads the write-ahead files; returns the whole tree's edge, and the last file.
    fn files(
        &mut self,
        heads: &mut [OpenHead],
        mut tree: Frontier,
    ) -> Result<(Frontier, Option<Scanned>), LedgerError> {
        let mut last = None;
        let headers: Vec<_> = heads.iter().skip(1).map(|next| next.head.header.clone()).collect();
        for (at, opened) in heads.iter_mut().enumerate() {
            let number = opened.head.number;
            let path = self.shard.wal(number);
            self.path.clone_from(&path);
            let bytes = opened.read(&path)?;
            let scanned = scan(&path, &bytes, &Expect::of(self.shard, number), self)?;
            if scanned.header.frontier != tree {
                return Err(LedgerError::Corrupt {
                    path,
                    offset: 0,
                    index: tree.size(),
                    problem: "the file does not begin where what is before it ends".into(),
                });
            }
            let next = headers.get(at);
            // A live ledger may have begun the next file after the folder was listed. It removes files from the front, so that
            // the next one was not removed where this one still stands.
            let is_last = || !self.shard.wal(number + 1).exists() && path.exists();
            if next.is_some() || is_last() {
                check_end(&path, &scanned, next)?;
            }
            tree = scanned.frontier.clone();
            last = Some(scanned);
        }
        Ok((tree, last))
    }

    /// That all checkpoints were met, and nothing is beyond the final one of a closed shard.
    fn check_promises(
        &self,
        ledger: &Path,
        tree: &Frontier,
        last: Option<&Scanned>,
        closed: Option<u64>,
    ) -> Result<(), LedgerError> {
        let missed = match self.checkpoint.met {
            false => Some(("the last signed checkpoint", self.checkpoint.size)),
            true => self
                .kept
                .first_key_value()
                .map(|(size, _)| ("a kept checkpoint", *size)),
        };
        match (missed, last) {
            (Some((what, need)), Some(last)) => {
                return Err(rolled_back(ledger, self.shard, &self.path, last, what, need));
            }
            (Some((what, asked)), None) => {
                let have = tree.size();
                return Err(LedgerError::Beyond { what, asked, have });
            }
            (None, _) => {}
        }
        if closed.is_some_and(|size| size != tree.size()) {
            return Err(LedgerError::Corrupt {
                path: self.path.clone(),
                offset: 0,
                index: self.shard.base + self.checkpoint.size,
                problem: "the shard is closed, and records follow its final checkpoint".into(),
            });
        }
        last.map_or(Ok(()), |last| check_whole(&self.path, last))
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
        if stored.index() == self.shard.base {
            check_first_record(self.shard, self.before, self.snapshot, stored)?;
        }
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
        if index < self.sealed.size() {
            return Ok(());
        }
        let position = self.shard.base + index;
        let stored = Stored::new(position, record.bytes, Some(record.leaf));
        self.look(&stored, record.offset)?;
        self.tiles.leaf(&self.shard.dir, record.leaf)
    }

    fn wants_root(&self, size: u64) -> bool {
        self.is_promised(size) || size == self.sealed.size()
    }

    fn root(&mut self, size: u64, root: Hash) -> Result<(), LedgerError> {
        if size == self.sealed.size() && root != self.sealed.root() {
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
        let (path, offset) = tile_file(dir, level, index);
        return Err(LedgerError::Derived {
            path,
            offset,
            index: index.saturating_mul(span),
            problem: "the tile is not that of the records".into(),
        });
    }
    Ok(true)
}
