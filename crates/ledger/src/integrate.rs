//! The follower that keeps the tree and signs it: at most one checkpoint a second, and one at a clean stop, which covers
//! the `log.close` that was committed before.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    LedgerError,
    checkpoint::{Checkpoint, LogKey},
    follow::Sink,
    journal::{Journal, Stored},
    tiles::{TILE_WIDTH, Tree},
};

/// Shortest time between two checkpoints: one flush a second beside those of the groups.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// Keeps a [`Tree`] in step with the journal and, with a key, signs its checkpoints.
#[derive(Debug)]
pub struct Integrator {
    journal: Arc<dyn Journal>,
    tree: Arc<Tree>,
    key: Option<LogKey>,
    every: Duration,
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
    /// Goes on from the tiles below `tree`'s folder, or from the beginning where they are missing. Without a key it
    /// signs nothing.
    ///
    /// # Errors
    /// Fails when the stored checkpoint cannot be read.
    pub fn new(
        journal: Arc<dyn Journal>,
        tree: Arc<Tree>,
        key: Option<LogKey>,
        every: Duration,
    ) -> Result<Self, LedgerError> {
        let stored = journal.checkpoint()?;
        let signed = stored.checkpoint();
        // All tiles up to the signed size; else the flushed ones alone; else none.
        let mut fallbacks = vec![
            0,
            signed.size - signed.size % SEGMENT,
            signed.size - signed.size % TILE_WIDTH as u64,
        ];
        fallbacks.dedup();
        let mut integrator = Self {
            signed: (signed.size, Instant::now()),
            told: watch::Sender::new(signed.size),
            pending: Some(signed.clone()),
            fallbacks,
            journal,
            tree,
            key,
            every,
        };
        integrator.begin_again()?;
        Ok(integrator)
    }

    /// Follows the size of the stored checkpoint: whoever needs one that covers record `i` waits until it is above `i`.
    pub fn signed(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    fn stored(&mut self, size: u64) {
        self.signed = (size, Instant::now());
        self.told.send_replace(size);
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
        let Some(key) = &self.key else { return Ok(()) };
        let size = self.tree.size();
        if size <= self.signed.0 || self.pending.is_some() {
            return Ok(());
        }
        let head = Checkpoint {
            origin: self.journal.origin().clone(),
            size,
            root: self.tree.root()?,
        };
        match self.journal.cas_checkpoint(self.signed.0, &key.sign(head)) {
            Ok(()) => {
                self.stored(size);
                Ok(())
            }
            // Another replica signed. It must have signed this very tree.
            Err(LedgerError::CheckpointMoved { .. }) => self.adopt(),
            Err(error) => Err(error),
        }
    }

    fn adopt(&mut self) -> Result<(), LedgerError> {
        let stored = self.journal.checkpoint()?;
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
        self.tree.size()
    }

    fn apply(&mut self, _first: u64, records: &[Stored]) -> Result<(), LedgerError> {
        for record in records {
            self.tree.push(record.leaf_hash())?;
            if self.compare_or_begin_again()? {
                return Ok(());
            }
        }
        // A busy log is never caught up, so the clock is looked at here too.
        if self.signed.1.elapsed() >= self.every {
            self.sign()?;
        }
        Ok(())
    }

    fn caught_up(&mut self) -> Result<Option<Duration>, LedgerError> {
        let due = self.every.saturating_sub(self.signed.1.elapsed());
        if self.key.is_none() || self.tree.size() <= self.signed.0 {
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
