//! The trees of a ledger's logs: the one that grows, and those of closed shards, which are opened when somebody asks.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use crate::{
    LedgerError,
    disk::Disk,
    journal::{Journal, Log},
    layout::Shard,
    limits::{READ_RECORDS_MAX, SEGMENT_RECORDS},
    tiles::{TILE_WIDTH, Tree},
};

/// A log and its tree.
pub(crate) type Grown = (Arc<Log>, Arc<Tree>);

/// One tree for each log of a ledger.
#[derive(Debug)]
pub struct Trees {
    ledger: PathBuf,
    journal: Arc<dyn Journal>,
    disk: Arc<dyn Disk>,
    growing: RwLock<Grown>,
    /// The closed log that was asked for last.
    closed: Mutex<Option<Grown>>,
}

impl Trees {
    /// The trees of a journal whose files are in `ledger`, on `disk`. The one that grows is empty until its [`crate::Integrator`] fills
    /// it.
    pub fn new(ledger: &Path, journal: Arc<dyn Journal>, disk: Arc<dyn Disk>) -> Arc<Self> {
        let log = journal.log();
        Arc::new(Self {
            growing: RwLock::new((log.clone(), empty(ledger, &log, &disk))),
            closed: Mutex::default(),
            ledger: ledger.to_owned(),
            journal,
            disk,
        })
    }

    /// The log that is written, as far as its tree has followed, and the tree.
    pub fn growing(&self) -> (Arc<Log>, Arc<Tree>) {
        self.growing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes on with the next log.
    pub(crate) fn begin(&self, log: &Arc<Log>) -> Arc<Tree> {
        let tree = empty(&self.ledger, log, &self.disk);
        *self.growing.write().unwrap_or_else(PoisonError::into_inner) = (log.clone(), tree.clone());
        tree
    }

    /// The tree of a log. That of a closed one is made whole first, from its tiles, or from its records where tiles are
    /// missing.
    ///
    /// # Errors
    /// Refuses a log whose records were given up; fails when they lead to another root than the final checkpoint.
    pub fn of_log(&self, log: &Log) -> Result<Arc<Tree>, LedgerError> {
        let (growing, tree) = self.growing();
        if *growing == *log {
            return Ok(tree);
        }
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, tree)) = &*closed
            && **known == *log
        {
            return Ok(tree.clone());
        }
        let tree = whole((&self.ledger, &self.disk), &*self.journal, log, |_| Ok(true))?;
        *closed = Some((Arc::new(log.clone()), tree.clone()));
        Ok(tree)
    }

    /// The tree of a shard for its sealer: `None` while it is closed but still growing here.
    pub(crate) fn of(&self, shard: &Shard, is_closed: bool) -> Result<Option<Arc<Tree>>, LedgerError> {
        let (growing, tree) = self.growing();
        match (*growing.origin() == shard.origin, is_closed) {
            (true, _) => Ok(Some(tree)),
            // The follower has not reached this shard, or has not seen that the one before is over.
            (false, _) if growing.first() < shard.base => Ok(None),
            (false, false) => Ok(None),
            (false, true) => match self.journal.log_of(shard.base) {
                Some(log) => self.of_log(&log).map(Some),
                None => Ok(None),
            },
        }
    }
}

/// The whole tree of a closed log whose records are kept, with its tiles below `ledger`. They are made again from the records
/// where they do not lead to the final checkpoint, or `is_right` says no to the tree.
///
/// # Errors
/// Fails when the records lead to another root, or `is_right` fails.
pub(crate) fn whole(
    (ledger, disk): (&Path, &Arc<dyn Disk>),
    journal: &dyn Journal,
    log: &Log,
    is_right: impl Fn(&Tree) -> Result<bool, LedgerError>,
) -> Result<Arc<Tree>, LedgerError> {
    let last = journal.checkpoint_of(log)?;
    let (size, root) = (last.checkpoint().size, last.checkpoint().root);
    // All tiles; else the flushed ones alone; else none.
    let mut from = [TILE_WIDTH, SEGMENT_RECORDS]
        .map(|step| size - size % step as u64)
        .to_vec();
    from.push(0);
    from.dedup();
    for resumed in from {
        let tree = empty(ledger, log, disk);
        if tree.resume(resumed).is_err() {
            continue;
        }
        fill(journal, log, &tree, size)?;
        if tree.root().is_ok_and(|found| found == root) && is_right(&tree)? {
            return Ok(tree);
        }
        tracing::warn!(origin = %log.origin(), "tiles of a closed log are made again from its records");
    }
    Err(LedgerError::Forked {
        size,
        what: "the final checkpoint of a closed log",
    })
}

fn fill(journal: &dyn Journal, log: &Log, tree: &Tree, size: u64) -> Result<(), LedgerError> {
    while tree.size() < size {
        let most = usize::try_from(size - tree.size()).unwrap_or(usize::MAX);
        let records = journal.read_from(log.position_of(tree.size()), most.min(READ_RECORDS_MAX))?;
        if records.is_empty() {
            return Err(LedgerError::Beyond {
                what: "leaf",
                asked: size,
                have: tree.size(),
            });
        }
        for stored in records {
            tree.push(stored.leaf_hash())?;
        }
    }
    Ok(())
}

fn empty(ledger: &Path, log: &Log, disk: &Arc<dyn Disk>) -> Arc<Tree> {
    Arc::new(Tree::new(&ledger.join(log.origin().folder()), Arc::clone(disk)))
}
