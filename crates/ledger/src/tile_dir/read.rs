//! Verifying a log, or a whole ledger, in plain folders: every bundle is hashed again, and every tile, the root and the
//! signature compared. One bundle and one tile of each level are in memory at a time.

use std::{collections::BTreeMap, path::Path};

use mintage_identity::UnixTime;

use super::{
    CHECKPOINT, CHECKPOINTS, Kind, LENGTH_OCTETS, POLICY, Place, RELEASED, SNAPSHOT, SUCCESSION,
    file::{read_file, refused, split},
    given_up, octets_of, spanned,
    walk::{Holds, refuse_extra, refuse_other_logs},
};
use crate::{
    LedgerError,
    foreign::ForeignCheckpoint,
    journal::{Log, Stored},
    kept,
    limits::{NOTE_BYTES_MAX, POLICY_BYTES_MAX, SNAPSHOT_BYTES_MAX},
    note::{SignedNote, Vkey},
    opening::{Ended, ShardBegin, check_opening, check_snapshot},
    origin::Origin,
    policy::Policy,
    record::{Body, Record},
    succession::Succession,
    tiles::{Rows, TILE_WIDTH, subtree_root},
    tree::{Frontier, Hash, leaf_hash},
    verify::RecordCheck,
};

/// What a log's folder was found to hold.
#[derive(Clone, Debug)]
pub struct TreeReport {
    /// The log's key; its name is the origin.
    pub vkey: Vkey,
    /// Position of its first record in the ledger.
    pub first: u64,
    /// True when its records were given up: checkpoints and upper tiles are all that could be looked at.
    pub released: bool,
    /// What the log signed: size and root are those of the records.
    pub checkpoint: ForeignCheckpoint,
    /// The witnesses of the policy that cosigned it, and when.
    pub witnesses: Vec<(String, UnixTime)>,
    /// Tiles, all right.
    pub tiles: u64,
}

impl TreeReport {
    /// Position behind its last record.
    fn end(&self) -> u64 {
        self.first.saturating_add(self.checkpoint.size())
    }
}

/// Verifies one log's folder, and looks at each of its records in order. Nothing is believed that the policy does not
/// vouch for, quorum included.
///
/// # Errors
/// The first thing that is wrong, with its file and record index: an altered, missing, longer or shorter file, one that
/// is too many, another root than that of the checkpoint or of a kept one, a signature.
pub fn verify_tree(dir: &Path, policy: &Policy, check: &mut dyn RecordCheck) -> Result<TreeReport, LedgerError> {
    verify_log(dir, policy, None, check)
}

/// What the checkpoint of a log's folder says, when the policy vouches for it.
fn signed(dir: &Path, policy: &Policy) -> Result<TreeReport, LedgerError> {
    let bytes = read_file(&dir.join(CHECKPOINT), NOTE_BYTES_MAX, None)?;
    let note = SignedNote::parse(&bytes)?;
    let checked = policy.check(&note)?;
    if !checked.quorum {
        return Err(LedgerError::Signature(format!(
            "the quorum of the policy is not met: {} of its witnesses cosigned {}",
            checked.witnesses.len(),
            checked.log.vkey.name()
        )));
    }
    let witnesses = checked.witnesses.iter();
    Ok(TreeReport {
        vkey: checked.log.vkey.clone(),
        first: 0,
        released: false,
        witnesses: witnesses.map(|(witness, time)| (witness.name.clone(), *time)).collect(),
        checkpoint: checked.checkpoint,
        tiles: 0,
    })
}

/// A log whose records were given up: its checkpoints and the tiles that stay are all there is.
fn verify_released(dir: &Path, policy: &Policy, before: Option<&TreeReport>) -> Result<TreeReport, LedgerError> {
    let report = signed(dir, policy)?;
    let (size, root) = (report.checkpoint.size(), report.checkpoint.root());
    let first = before.map_or(0, TreeReport::end);
    let stays = given_up::read_mark(&dir.join(RELEASED), first, first.saturating_add(size))?;
    refuse_extra(dir, &Holds::Tiles(size, stays))?;
    let kept = kept::read_in(&dir.join(CHECKPOINTS), &report.vkey)?;
    kept::check_against_last(&kept, size, root)?;
    let looked = given_up::check(dir, (size, root), kept::promised(&kept), stays)?;
    Ok(TreeReport {
        released: true,
        first,
        tiles: looked.right,
        ..report
    })
}

fn verify_log(
    dir: &Path,
    policy: &Policy,
    before: Option<&TreeReport>,
    check: &mut dyn RecordCheck,
) -> Result<TreeReport, LedgerError> {
    let mut report = signed(dir, policy)?;
    let size = report.checkpoint.size();
    refuse_extra(dir, &Holds::Records(size))?;
    let snapshot = match dir.join(SNAPSHOT).exists() {
        true => Some(read_file(&dir.join(SNAPSHOT), SNAPSHOT_BYTES_MAX as usize, None)?),
        false => None,
    };
    let kept = kept::read_in(&dir.join(CHECKPOINTS), &report.vkey)?;
    kept::check_against_last(&kept, size, report.checkpoint.root())?;
    let mut pass = Pass {
        dir,
        vkey: &report.vkey,
        kept: kept::promised(&kept),
        base: 0,
        before,
        snapshot: snapshot.as_deref(),
        tree: Frontier::new(),
        rows: Rows::default(),
        tiles: 0,
    };
    while pass.tree.size() < size {
        pass.bundle(size, check)?;
    }
    pass.partial()?;
    if pass.tree.root() != report.checkpoint.root() {
        return Err(LedgerError::Forked {
            size,
            what: "its checkpoint",
        });
    }
    (report.first, report.tiles) = (pass.base, pass.tiles);
    Ok(report)
}

/// Verifies every shard of a ledger's folder, oldest first. The keys are those of its own policy file unless the caller
/// brings a policy: who could write the folder could have replaced the file. A log is trusted as well when the key of a
/// trusted one before it named its key.
///
/// # Errors
/// As [`verify_tree`]; refuses a log that the caller does not trust, and a key of the caller's that is none of the ledger's.
pub fn verify_ledger_tree(
    dir: &Path,
    trusted: Option<&Policy>,
    check: &mut dyn RecordCheck,
) -> Result<Vec<TreeReport>, LedgerError> {
    let bytes = read_file(&dir.join(POLICY), POLICY_BYTES_MAX, None)?;
    let own = Policy::parse(&bytes)?;
    let policy = match trusted {
        Some(trusted) => followed(dir, trusted, &own)?,
        None => own.clone(),
    };
    let shards: Vec<Origin> = own
        .logs()
        .iter()
        .map(|log| Origin::parse(log.vkey.name()))
        .collect::<Result<_, _>>()?;
    if shards.is_empty() {
        return Err(LedgerError::format("policy", "lists no log"));
    }
    refuse_other_logs(dir, &shards)?;
    let mut reports: Vec<TreeReport> = Vec::new();
    for (at, (shard, log)) in shards.iter().zip(own.logs()).enumerate() {
        let (folder, before) = (dir.join(shard.folder()), reports.last());
        // Records are given up from the oldest shard on, and never those of the last: anywhere else the mark hides something.
        let may_be_released = at + 1 < shards.len() && before.is_none_or(|before| before.released);
        let report = match may_be_released && folder.join(RELEASED).exists() {
            true => verify_released(&folder, &policy, before)?,
            false => verify_log(&folder, &policy, before, check)?,
        };
        if report.vkey != log.vkey {
            let problem = format!("the folder of {shard} holds the log {}", report.vkey.name());
            return Err(LedgerError::Signature(problem));
        }
        reports.push(report);
    }
    Ok(reports)
}

/// The caller's policy, and the logs of the ledger that follow by the word of a log in it.
fn followed(dir: &Path, trusted: &Policy, own: &Policy) -> Result<Policy, LedgerError> {
    let lists = |policy: &Policy, key: &Vkey| policy.logs().iter().any(|log| log.vkey == *key);
    if let Some(log) = trusted.logs().iter().find(|log| !lists(own, &log.vkey)) {
        let problem = format!("the ledger has no log of the key {}", log.vkey);
        return Err(LedgerError::Signature(problem));
    }
    let mut policy = trusted.clone();
    let mut before: Option<&Vkey> = None;
    for log in own.logs() {
        if !lists(&policy, &log.vkey) {
            let path = dir.join(Origin::parse(log.vkey.name())?.folder()).join(SUCCESSION);
            let named = match before.filter(|_| path.exists()) {
                Some(before) => Succession::verify(&read_file(&path, NOTE_BYTES_MAX, None)?, before)?.to() == &log.vkey,
                None => false,
            };
            if !named {
                let problem = format!("{} is signed by a key you do not trust", log.vkey.name());
                return Err(LedgerError::Signature(problem));
            }
            policy = policy.with_log(log.vkey.clone())?;
        }
        before = Some(&log.vkey);
    }
    Ok(policy)
}

/// One reading of a log.
struct Pass<'a> {
    dir: &'a Path,
    vkey: &'a Vkey,
    /// Position of the log's first record in the ledger.
    base: u64,
    /// What checkpoints before the last one promised, by size.
    kept: BTreeMap<u64, Hash>,
    before: Option<&'a TreeReport>,
    snapshot: Option<&'a [u8]>,
    tree: Frontier,
    /// Of each level above the first the tiles that were compared, and the hashes that wait for the next.
    /// From level 1 on: level 0 is compared bundle by bundle.
    rows: Rows,
    tiles: u64,
}

impl Pass<'_> {
    /// The next bundle: its records are hashed, compared with their tile, and only then looked at.
    fn bundle(&mut self, size: u64, check: &mut dyn RecordCheck) -> Result<(), LedgerError> {
        let first = self.tree.size();
        let width = (size - first).min(TILE_WIDTH as u64) as usize;
        let place = Place {
            kind: Kind::Entries,
            index: first / TILE_WIDTH as u64,
            width,
        };
        let path = place.path(self.dir);
        let bytes = read_file(&path, width * (LENGTH_OCTETS + usize::from(u16::MAX)), Some(first))?;
        let records = split(&path, &bytes, first, width)?;
        let leaves: Vec<Hash> = records.iter().map(|record| leaf_hash(record)).collect();
        self.compare(0, place.index, &leaves)?;
        if first == 0
            && let Some(record) = records.first()
        {
            self.begin(record, check)
                .map_err(|problem| refused(&path, Some(0), problem))?;
        }
        for (at, (record, leaf)) in records.iter().zip(&leaves).enumerate() {
            let stored = Stored::new(self.base + first + at as u64, record, Some(*leaf));
            let looked = check.record(self.vkey, &stored);
            looked.map_err(|problem| refused(&path, Some(stored.index()), problem))?;
            self.tree.push(*leaf);
            let size = self.tree.size();
            if self.kept.get(&size).is_some_and(|kept| *kept != self.tree.root()) {
                return Err(LedgerError::Forked {
                    size,
                    what: "a kept checkpoint",
                });
            }
        }
        if width == TILE_WIDTH {
            self.carry(subtree_root(&leaves))?;
        }
        Ok(())
    }

    /// Where the log stands by its first record, which must fit the log before it where that is known. In a log that stands
    /// alone another first record than `log.open` is for the caller's check to judge.
    fn begin(&mut self, record: &[u8], check: &mut dyn RecordCheck) -> Result<(), String> {
        let open = Record::decode(record).ok().and_then(|record| match record.body {
            Body::LogOpen(open) => Some(open),
            _ => None,
        });
        match (self.before, &open) {
            (Some(before), Some(open)) => {
                let ended = Ended {
                    vkey: &before.vkey,
                    size: before.checkpoint.size(),
                    root: before.checkpoint.root(),
                };
                check_opening(open, before.end(), Some(ended), self.snapshot)?;
            }
            (Some(_), None) => return Err("the log does not begin with log.open".into()),
            (None, Some(open)) => check_snapshot(open, self.snapshot)?,
            (None, None) => {}
        }
        self.base = open.map_or(0, |open| open.first_position);
        let log = Log::new(self.vkey.clone(), self.base).map_err(|error| error.to_string())?;
        check.begin(&ShardBegin {
            log: &log,
            snapshot: self.snapshot,
        })
    }

    /// Adds the root of a full tile of level 0 to the level above, and compares what that fills.
    fn carry(&mut self, root: Hash) -> Result<(), LedgerError> {
        let mut rows = std::mem::take(&mut self.rows);
        let compared = rows.push(root, |row, index, hashes| self.compare(row + 1, index, hashes));
        self.rows = rows;
        compared
    }

    /// Compares what is left at the right edge.
    fn partial(&mut self) -> Result<(), LedgerError> {
        let rows = std::mem::take(&mut self.rows);
        let mut left = rows.partial().filter(|(_, _, hashes)| !hashes.is_empty());
        left.try_for_each(|(row, index, hashes)| self.compare(row + 1, index, hashes))
    }

    fn compare(&mut self, level: u8, index: u64, hashes: &[Hash]) -> Result<(), LedgerError> {
        let place = Place {
            kind: Kind::Hashes(level),
            index,
            width: hashes.len(),
        };
        let (path, wanted) = (place.path(self.dir), octets_of(hashes));
        let below = |at: usize| place.start().saturating_add((at as u64).saturating_mul(spanned(level)));
        let stored = read_file(&path, wanted.len(), Some(place.start()))?;
        let differs = stored
            .chunks(32)
            .zip(wanted.chunks(32))
            .position(|(one, two)| one != two);
        if let Some(at) = differs {
            return Err(refused(
                &path,
                Some(below(at)),
                "holds another hash than that of the records",
            ));
        }
        if stored.len() != wanted.len() {
            let problem = format!("has {} bytes, {} are needed", stored.len(), wanted.len());
            return Err(refused(&path, Some(below(stored.len() / 32)), problem));
        }
        self.tiles += 1;
        Ok(())
    }
}
