//! The follower that keeps the tree and signs it: at most one checkpoint a second, and one at a clean stop, which covers
//! the `log.close` that was committed before.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    LedgerError,
    checkpoint::Checkpoint,
    follow::Sink,
    hold::Hold,
    journal::{Journal, Log, Stored},
    limits::{CHECKPOINT_HOLD_LOOK, CHECKPOINT_HOLD_MAX},
    log_keys::LogKeys,
    tiles::{TILE_WIDTH, Tree},
    trees::Trees,
};

/// Shortest time between two checkpoints: one flush a second beside those of the groups.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// Keeps the growing one of the [`Trees`] in step with the journal and, with keys, signs its checkpoints. The final
/// checkpoint of a log is signed by whoever closes it; here the tree is compared with it.
#[derive(Debug)]
pub struct Integrator {
    journal: Arc<dyn Journal>,
    trees: Arc<Trees>,
    /// The log that is followed, and its tree.
    log: Arc<Log>,
    tree: Arc<Tree>,
    keys: Option<Arc<LogKeys>>,
    every: Duration,
    hold: Hold,
    signed: (u64, Instant),
    told: watch::Sender<u64>,
    /// The signed root that the tree must have on its way.
    pending: Option<Checkpoint>,
    /// Where the tree may begin again when what it was resumed from leads to another root, the last first.
    fallbacks: Vec<u64>,
}

/// Records below one tile of level 1, whose tiles of level 0 were flushed before it was written.
const SEGMENT: u64 = crate::limits::SEGMENT_RECORDS as u64;

impl Integrator {
    /// Goes on from the tiles of the log that is written, or from its beginning where they are missing. Without keys it signs
    /// nothing.
    ///
    /// # Errors
    /// Fails when the stored checkpoint cannot be read.
    pub fn new(
        journal: Arc<dyn Journal>,
        trees: Arc<Trees>,
        keys: Option<Arc<LogKeys>>,
        every: Duration,
    ) -> Result<Self, LedgerError> {
        let (log, tree) = trees.growing();
        let signed = journal.checkpoint_of(&log)?.checkpoint().clone();
        // All tiles up to the signed size; else the flushed ones alone; else none.
        let mut fallbacks = vec![
            0,
            signed.size - signed.size % SEGMENT,
            signed.size - signed.size % TILE_WIDTH as u64,
        ];
        fallbacks.dedup();
        let mut integrator = Self {
            signed: (signed.size, Instant::now()),
            told: watch::Sender::new(log.position_of(signed.size)),
            pending: Some(signed),
            fallbacks,
            journal,
            trees,
            log,
            tree,
            keys,
            every,
            hold: Hold::default(),
        };
        integrator.begin_again()?;
        Ok(integrator)
    }

    /// Goes on with the log that follows: the tree of the former is whole now, and must be the one that was closed.
    fn follow_on(&mut self, next: Arc<Log>) -> Result<(), LedgerError> {
        let last = self.journal.checkpoint_of(&self.log)?.checkpoint().clone();
        if self.tree.size() != last.size || self.tree.root()? != last.root {
            return Err(LedgerError::Forked {
                size: last.size,
                what: "the final checkpoint of its log",
            });
        }
        self.tree = self.trees.begin(&next);
        self.log = next;
        let begun = self.journal.checkpoint_of(&self.log)?.checkpoint().clone();
        self.stored(begun.size);
        self.pending = Some(begun);
        self.fallbacks.clear();
        Ok(())
    }

    /// Takes in records of the log that is followed.
    fn integrate(&mut self, records: &[Stored]) -> Result<(), LedgerError> {
        for record in records {
            self.tree.push(record.leaf_hash())?;
            if self.compare_or_begin_again()? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Lets each checkpoint wait for a bounded time while the one before it is held.
    #[must_use]
    pub fn waiting_for(self, hold: Hold) -> Self {
        Self { hold, ..self }
    }

    /// How long until the next checkpoint is signed; at a held one this is asked again soon.
    fn due(&self) -> Duration {
        let since = self.signed.1.elapsed();
        let due = self.every.saturating_sub(since);
        let held = (self.every + CHECKPOINT_HOLD_MAX).saturating_sub(since);
        match due.is_zero() && self.hold.is_held() {
            true => held.min(CHECKPOINT_HOLD_LOOK),
            false => due,
        }
    }

    /// Follows how many records of the ledger stored checkpoints cover: whoever needs one over the record at a position waits
    /// until it is above it.
    pub fn signed(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    fn stored(&mut self, size: u64) {
        self.signed = (size, Instant::now());
        self.told.send_replace(self.log.position_of(size));
    }

    /// Resumes from the next fallback that there is.
    fn begin_again(&mut self) -> Result<(), LedgerError> {
        while let Some(size) = self.fallbacks.pop() {
            match self.tree.resume(size).and_then(|()| self.compare()) {
                Ok(()) => return Ok(()),
                Err(error) if self.fallbacks.is_empty() => return Err(error),
                Err(error) => tracing::warn!(%error, size, "tiles of the tree are made again from the records"),
            }
        }
        Ok(())
    }

    /// Compares, and begins again where tiles led to another root than the signed one. True when it did so.
    fn compare_or_begin_again(&mut self) -> Result<bool, LedgerError> {
        match self.compare() {
            Ok(()) => Ok(false),
            Err(error) if self.fallbacks.is_empty() => Err(error),
            Err(error) => {
                tracing::warn!(%error, "tiles of the tree are damaged and made again from the records");
                self.begin_again().map(|()| true)
            }
        }
    }

    /// Compares the tree with the last signed root as soon as it has that size. Nothing is signed before.
    fn compare(&mut self) -> Result<(), LedgerError> {
        let Some(signed) = &self.pending else { return Ok(()) };
        if self.tree.size() != signed.size {
            return Ok(());
        }
        if self.tree.root()? != signed.root {
            return Err(LedgerError::Forked {
                size: signed.size,
                what: "the last signed checkpoint",
            });
        }
        self.pending = None;
        self.fallbacks.clear();
        Ok(())
    }

    fn sign(&mut self) -> Result<(), LedgerError> {
        let Some(key) = self.keys.as_ref().and_then(|keys| keys.of(self.log.origin())) else {
            return Ok(());
        };
        let size = self.tree.size();
        if size <= self.signed.0 || self.pending.is_some() {
            return Ok(());
        }
        let head = Checkpoint {
            origin: self.log.origin().clone(),
            size,
            root: self.tree.root()?,
        };
        match self.journal.cas_checkpoint(self.signed.0, &key.sign(head)) {
            Ok(()) => {
                self.stored(size);
                Ok(())
            }
            // Another replica signed, or the log was closed. It must have signed this very tree.
            Err(LedgerError::CheckpointMoved { .. }) => self.adopt(),
            Err(error) => Err(error),
        }
    }

    /// How many of the records belong to the log that is followed.
    fn of_this_log(&self, records: &[Stored]) -> usize {
        records.partition_point(|stored| self.journal.log_of(stored.index()).is_none_or(|log| log == self.log))
    }

    fn adopt(&mut self) -> Result<(), LedgerError> {
        let stored = self.journal.checkpoint_of(&self.log)?;
        let other = stored.checkpoint();
        if other.size > self.tree.size() {
            self.pending = Some(other.clone());
        } else if self.tree.root_at(other.size)? != other.root {
            return Err(LedgerError::Forked {
                size: other.size,
                what: "another replica's checkpoint",
            });
        }
        let size = other.size;
        self.stored(size);
        Ok(())
    }
}

impl Sink for Integrator {
    fn name(&self) -> &'static str {
        "tree"
    }

    fn next(&self) -> u64 {
        self.log.position_of(self.tree.size())
    }

    fn apply(&mut self, _first: u64, records: &[Stored]) -> Result<(), LedgerError> {
        let mut records = records;
        while let Some(last) = records.last() {
            let next = self.next();
            if let Some(log) = self.journal.log_of(next).filter(|log| *log != self.log) {
                self.follow_on(log)?;
            }
            let ours = match self.journal.log_of(last.index()) {
                Some(log) if log != self.log => self.of_this_log(records),
                _ => records.len(),
            };
            let (ours, rest) = records.split_at(ours);
            self.integrate(ours)?;
            if self.next() != next + ours.len() as u64 {
                // Begun again: what is missing is asked for anew.
                return Ok(());
            }
            records = rest;
        }
        // A busy log is never caught up, so the clock is looked at here too.
        if self.due().is_zero() {
            self.sign()?;
        }
        Ok(())
    }

    fn caught_up(&mut self) -> Result<Option<Duration>, LedgerError> {
        let due = self.due();
        if self.keys.is_none() || self.tree.size() <= self.signed.0 {
            return Ok(None);
        }
        if due.is_zero() {
            self.sign()?;
            return Ok(None);
        }
        Ok(Some(due))
    }

    fn finish(&mut self) -> Result<(), LedgerError> {
        self.sign()
    }
}
