//! A checkpoint that an auditor has kept: the log of today must begin with what was signed then. This is what shows a log
//! that was rolled back, or written anew by who holds its key.

use std::path::Path;

use mintage_ledger::{ForeignCheckpoint, Frontier, RecordCheck, SignedNote, Stored, Vkey, limits::NOTE_BYTES_MAX};

use super::trust::read_bounded;
use crate::failure::Failure;

/// The kept checkpoint, held against the records as they pass by.
#[derive(Debug)]
pub(super) struct Kept {
    note: SignedNote,
    checkpoint: ForeignCheckpoint,
    tree: Frontier,
    /// The key of the log that it names, when the log is there.
    key: Option<Vkey>,
    root_met: Option<bool>,
}

/// A log whose records were given up, as far as it is still there.
#[derive(Clone, Copy, Debug)]
pub(super) struct GivenUp<'a> {
    /// Its key, in the written form.
    pub(super) vkey: &'a str,
    /// Records under its last checkpoint.
    pub(super) size: u64,
    /// Root of its last checkpoint, in hexadecimal.
    pub(super) root: &'a str,
}

/// How it does not hold: the text, and the first record that it makes doubtful.
pub(super) type Against = (String, Option<u64>);

impl Kept {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read or is no checkpoint.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let octets = read_bounded(path, NOTE_BYTES_MAX)?;
        let wrong = |error| Failure::file(path, error);
        let note = SignedNote::parse(&octets).map_err(wrong)?;
        let checkpoint = ForeignCheckpoint::parse(note.text()).map_err(wrong)?;
        Ok(Self {
            note,
            checkpoint,
            tree: Frontier::new(),
            key: None,
            root_met: None,
        })
    }

    /// The log that it is of.
    pub(super) fn origin(&self) -> &str {
        self.checkpoint.origin()
    }

    /// Its size, when the log that was read begins with it. `given_up` is that log where its records are no longer here.
    ///
    /// # Errors
    /// When it is of another log or key, over more records than there are, or over others.
    pub(super) fn holds(&self, given_up: Option<GivenUp<'_>>) -> Result<u64, Against> {
        let (origin, size) = (self.checkpoint.origin(), self.checkpoint.size());
        if let Some(log) = given_up {
            return self.is_last_of(log);
        }
        let Some(key) = &self.key else {
            return Err((
                format!("the kept checkpoint is of {origin}, which is no log here"),
                None,
            ));
        };
        self.signed_by(key)?;
        match self.root_met {
            Some(true) => Ok(size),
            Some(false) => Err((
                format!(
                    "the first {size} records of {origin} are not those of the kept checkpoint: the log was forked"
                ),
                size.checked_sub(1),
            )),
            None => Err((
                format!(
                    "{origin} has {} records, and the kept checkpoint was signed over {size}: the log was rolled back",
                    self.tree.size()
                ),
                Some(self.tree.size()),
            )),
        }
    }

    fn signed_by(&self, key: &Vkey) -> Result<(), Against> {
        self.note.verify(key).map_err(|error| {
            let origin = self.checkpoint.origin();
            (
                format!("the kept checkpoint is not signed by the key of {origin}: {error}"),
                None,
            )
        })
    }

    /// Without records only the last checkpoint can be held against another one of the same size.
    fn is_last_of(&self, log: GivenUp<'_>) -> Result<u64, Against> {
        let (origin, size) = (self.checkpoint.origin(), self.checkpoint.size());
        let key = log.vkey.parse::<Vkey>().map_err(|error| (error.to_string(), None))?;
        self.signed_by(&key)?;
        let same_root = hex::encode(self.checkpoint.root().as_bytes()) == log.root;
        let against = match size.cmp(&log.size) {
            std::cmp::Ordering::Equal if same_root => return Ok(size),
            std::cmp::Ordering::Equal => {
                format!(
                    "the last checkpoint of {origin} and the kept one differ over the same {size} records: the log was forked"
                )
            }
            std::cmp::Ordering::Greater => format!(
                "{origin} ended with {} records, and the kept checkpoint was signed over {size}: the log was rolled back",
                log.size
            ),
            std::cmp::Ordering::Less => format!(
                "the records of {origin} were given up, so a checkpoint over {size} of its {} can no longer be held \
                 against them: verify a copy from before that, or keep the last checkpoint of each log",
                log.size
            ),
        };
        Err((against, None))
    }

    fn compare(&mut self) {
        if self.tree.size() == self.checkpoint.size() {
            self.root_met = Some(self.tree.root() == self.checkpoint.root());
        }
    }
}

impl RecordCheck for Kept {
    fn record(&mut self, key: &Vkey, stored: &Stored) -> Result<(), String> {
        if key.name() != self.checkpoint.origin() {
            return Ok(());
        }
        if self.key.is_none() {
            self.key = Some(key.clone());
            self.compare();
        }
        if self.root_met.is_none() {
            self.tree.push(stored.leaf_hash());
            self.compare();
        }
        Ok(())
    }
}
