//! Giving up the records of whole shards that are old enough, and finding the state that stands for them.
//!
//! Checkpoints, snapshot and succession of a shard stay, and the tiles of level 1 and above, one for every 65,536 records, with
//! the partial ones of every level: together they lead to the last root that was signed, and to each that was signed over a
//! multiple of 256 records. What was signed can still be compared with what somebody kept; a record, its proof, and the
//! consistency of any other two checkpoints cannot be made from what stays. What stays is whole and right before the mark
//! `released` is written, and that is durable before the first file goes, so a crash in between is finished at the next start and
//! loss is never taken for purpose.

use std::{collections::BTreeMap, fs, sync::Arc};

use mintage_identity::UnixTime;

use crate::{
    LedgerError,
    checkpoint::Checkpoint,
    disk::{Disk, read_whole},
    file::FileJournal,
    journal::{Journal, Log},
    layout::Shard,
    limits::SNAPSHOT_BYTES_MAX,
    record::{Body, Record},
    seg::write_sealed,
    tile_dir::{self, Looked, Stays},
    tiles::Tree,
    tree::{Hash, sha256},
    trees,
};

/// A shard whose records can be given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Releasable {
    /// The log.
    pub log: Arc<Log>,
    /// Number of its records.
    pub records: u64,
    /// When the last of them was made.
    pub last_record: UnixTime,
}

/// What may be given up, and what stops there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oldest {
    /// The shards that may be given up, oldest first.
    pub releasable: Vec<Releasable>,
    /// The log of the first that stays.
    pub kept: Arc<Log>,
    /// Why it stays.
    pub why: WhyKept,
}

/// Why the records of a shard are not given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyKept {
    /// It is the one that is written.
    Written,
    /// It is not all sealed yet.
    NotSealed,
    /// Its last record is of this time, and not old enough.
    Young(UnixTime),
    /// A certificate that it issued is valid until this second.
    Live(UnixTime),
}

impl FileJournal {
    /// The closed shards, oldest first, all of whose records were made before `before`, are sealed, and whose certificates
    /// have all ended at `now`; up to the first of which that is not so, with the reason.
    pub fn releasable(&self, before: UnixTime, now: UnixTime) -> Oldest {
        let sealed = self.segments().list();
        let logs = self.logs();
        let mut found = Vec::new();
        let stops = |releasable, kept: &Arc<Log>, why| Oldest {
            releasable,
            kept: kept.clone(),
            why,
        };
        for pair in logs.windows(2) {
            let [log, next] = pair else { break };
            if log.first() < self.first() {
                continue;
            }
            if sealed.end() < next.first() {
                return stops(found, log, WhyKept::NotSealed);
            }
            let within = |first: u64| (log.first()..next.first()).contains(&first);
            let spans = sealed.indexes.iter().filter(|index| within(index.first()));
            let (mut last, mut ends) = (i64::MIN, i64::MIN);
            for span in spans.map(|index| index.span()) {
                last = last.max(span.time_max);
                ends = ends.max(span.not_after_max);
            }
            let last = UnixTime::from_millis(last);
            if last >= before {
                return stops(found, log, WhyKept::Young(last));
            }
            if ends >= now.seconds() {
                return stops(found, log, WhyKept::Live(UnixTime::from_seconds(ends)));
            }
            found.push(Releasable {
                log: log.clone(),
                records: next.first() - log.first(),
                last_record: last,
            });
        }
        stops(found, &self.log(), WhyKept::Written)
    }

    /// Gives up the records of a shard that [`FileJournal::releasable`] named, and only in its order.
    ///
    /// # Errors
    /// Refuses a shard that is not the oldest kept one, or after which nothing stands for it; fails when the disk does. After
    /// a failure the next start finishes what was begun.
    pub fn release(&self, shard: &Releasable) -> Result<(), LedgerError> {
        let refuse = |problem: &str| {
            let origin = shard.log.origin();
            Err(LedgerError::format("shard", format!("{origin} {problem}")))
        };
        if shard.log.first() != self.first() {
            return refuse("is not the oldest that is kept");
        }
        let shards = self.shards();
        let Some(at) = shards.iter().position(|known| known.origin == *shard.log.origin()) else {
            return refuse("is no shard of this ledger");
        };
        let Some(next) = shards.get(at + 1) else {
            return refuse("is the one that is written");
        };
        if self.segments().end() < next.base {
            return refuse("is not sealed yet");
        }
        // What will stand for the records must be there and right before they go.
        snapshot_at(self, next.base)?;
        self.complete_tiles(&shard.log)?;
        let mark = tile_dir::mark(Stays::WithEdge, shard.log.first(), next.base);
        write_sealed(&**self.disk(), &shards[at].released(), mark.as_bytes())?;
        self.forget(next.base);
        finish(&shards[at], &**self.disk())
    }

    /// Writes the right edge of a closed log's tiles, and makes those that are missing or damaged again while there are records.
    fn complete_tiles(&self, log: &Log) -> Result<(), LedgerError> {
        let last = self.checkpoint_of(log)?.checkpoint().clone();
        let dir = self.ledger().join(log.origin().folder());
        let lead_to_root = |tree: &Tree| {
            tile_dir::write_edge(&**self.disk(), &dir, tree)?;
            match tile_dir::check(&dir, (last.size, last.root), BTreeMap::new(), Stays::WithEdge) {
                Ok(_) => Ok(true),
                Err(LedgerError::Tree { .. } | LedgerError::Forked { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        };
        trees::whole((self.ledger(), self.disk()), self, log, lead_to_root).map(drop)
    }
}

/// Holds the tiles that stay of a shard whose records were given up against what was signed.
///
/// # Errors
/// Names the first that is missing or damaged.
pub(crate) fn check_tiles(
    shard: &Shard,
    last: &Checkpoint,
    promised: BTreeMap<u64, Hash>,
) -> Result<Looked, LedgerError> {
    let end = shard.base.saturating_add(last.size);
    let checked = tile_dir::read_mark(&shard.released(), shard.base, end)
        .and_then(|stays| tile_dir::check(&shard.dir, (last.size, last.root), promised, stays));
    checked.map_err(|error| match error {
        LedgerError::Tree { path, index, problem } => LedgerError::Corrupt {
            path,
            offset: 0,
            index: shard.base.saturating_add(index.unwrap_or(0)),
            problem,
        },
        other => other,
    })
}

/// Removes the files of a shard whose records are given up.
pub(crate) fn finish(shard: &Shard, disk: &dyn Disk) -> Result<(), LedgerError> {
    for folder in ["seg", "head"] {
        let dir = shard.dir.join(folder);
        let Ok(listed) = fs::read_dir(&dir) else { continue };
        for file in listed {
            let path = file.map_err(LedgerError::io("list", &dir))?.path();
            disk.remove(&path).map_err(LedgerError::io("remove", &path))?;
        }
        disk.remove_dir(&dir).map_err(LedgerError::io("remove", &dir))?;
    }
    disk.sync_dir(&shard.dir).map_err(LedgerError::io("flush", &shard.dir))
}

/// The snapshot of the shard that begins at a position, which must be the one its first record names.
pub(crate) fn snapshot_at(journal: &FileJournal, first: u64) -> Result<Vec<u8>, LedgerError> {
    let missing = || LedgerError::format("snapshot", format!("there is no shard that begins with record {first}"));
    let shards = journal.shards();
    let shard = shards.iter().find(|shard| shard.base == first).ok_or_else(missing)?;
    let opening = journal.read_from(first, 1)?.pop().ok_or_else(missing)?;
    let Body::LogOpen(open) = Record::decode(opening.bytes())?.body else {
        return Err(missing());
    };
    let bytes = read_snapshot(shard)?;
    check_snapshot(shard, &bytes, &open.snapshot_sha256)?;
    Ok(bytes)
}

/// The snapshot of a shard, whatever it holds.
pub(crate) fn read_snapshot(shard: &Shard) -> Result<Vec<u8>, LedgerError> {
    read_whole(
        &shard.snapshot(),
        SNAPSHOT_BYTES_MAX,
        "the state before the shard's first record",
    )
}

/// Compares a snapshot with the hash that the first record of its shard holds.
pub(crate) fn check_snapshot(shard: &Shard, bytes: &[u8], recorded: &[u8]) -> Result<(), LedgerError> {
    match sha256(bytes).as_slice() == recorded {
        true => Ok(()),
        false => Err(LedgerError::Corrupt {
            path: shard.snapshot(),
            offset: 0,
            index: shard.base,
            problem: "the snapshot is not the one that the shard's first record names".into(),
        }),
    }
}
