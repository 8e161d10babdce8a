//! One log as a witness has seen it: the last checkpoint that it cosigned, in memory and in its file.

use std::time::Instant;

use mintage_identity::UnixTime;
use mintage_ledger::{AddCheckpoint, CosignerKey, SignedNote, TreeHead, Verdict, limits::NOTE_BYTES_MAX};
use mintage_sys::{dir::Dir, secret_file};
use tracing::{error, warn};

use super::store::problem;
use crate::{error::CaError, limits::WITNESS_WARNING_INTERVAL};

/// The file of a log's last checkpoint, and its name in the read API (C2SP tlog-witness, monitor retrieval).
pub(super) fn file_of(origin: &str) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, origin.as_bytes()))
}

/// The last checkpoint of a log.
#[derive(Debug)]
pub(super) struct Seen {
    head: TreeHead,
    /// The stored checkpoint.
    note: Option<SignedNote>,
    /// When it was cosigned last.
    time: Option<UnixTime>,
    file: String,
    /// Why nothing more is stored: what is on disk is unknown until the next start.
    failed: Option<String>,
    warned: Option<Instant>,
}

impl Seen {
    /// What is stored of a log, or nothing when it was never cosigned. A damaged file is never taken for none.
    pub(super) fn read(dir: &Dir, origin: &str, key: &CosignerKey) -> Result<Self, CaError> {
        let file = file_of(origin);
        let path = dir.path().join(&file);
        let mut seen = Self {
            head: TreeHead::empty(),
            note: None,
            time: None,
            failed: None,
            warned: None,
            file,
        };
        let entry = dir
            .entry(&seen.file)
            .map_err(|error| problem(&path, error.to_string()))?;
        if entry.is_none() {
            return Ok(seen);
        }
        let octets = secret_file::read_beneath(dir, &seen.file, NOTE_BYTES_MAX).map_err(CaError::Sys)?;
        let damaged = |why: String| problem(&path, format!("the last checkpoint of {origin:?} is damaged: {why}"));
        let note = SignedNote::parse(&octets).map_err(|error| damaged(error.to_string()))?;
        let own = key.time_on(&note).map_err(|error| damaged(error.to_string()))?;
        if own.is_none() {
            return Err(damaged("it has no cosignature of this witness".to_owned()));
        }
        let request = AddCheckpoint::new(0, Vec::new(), note).map_err(|error| damaged(error.to_string()))?;
        let checkpoint = request.checkpoint();
        if checkpoint.origin() != origin {
            return Err(damaged(format!("it is of {:?}", checkpoint.origin())));
        }
        seen.head = TreeHead {
            size: checkpoint.size(),
            root: checkpoint.root(),
        };
        (seen.time, seen.note) = (own, Some(request.note().clone()));
        Ok(seen)
    }

    pub(super) fn head(&self) -> TreeHead {
        self.head
    }

    pub(super) fn note(&self) -> Option<&SignedNote> {
        self.note.as_ref()
    }

    pub(super) fn time(&self) -> Option<UnixTime> {
        self.time
    }

    /// True when this very tree is stored.
    pub(super) fn holds(&self, head: TreeHead) -> bool {
        self.note.is_some() && self.head == head
    }

    pub(super) fn cosigned_at(&mut self, now: UnixTime) {
        self.time = Some(now);
    }

    /// Makes the checkpoint durable; only then is it the stored one.
    pub(super) fn keep(&mut self, dir: &Dir, head: TreeHead, note: SignedNote) -> Result<(), String> {
        if let Some(why) = &self.failed {
            return Err(why.clone());
        }
        match secret_file::replace(dir, &self.file, note.to_string().as_bytes()) {
            Ok(()) => {
                self.head = head;
                self.note = Some(note);
                Ok(())
            }
            // Nothing was put in place, and later requests are answered when there is room again.
            Err(problem) if problem.is_out_of_space() => Err(problem.to_string()),
            Err(problem) => {
                let why = format!("the checkpoint could not be stored: {problem}; start the witness again");
                error!(file = self.file, %problem, "a log is cosigned no more until the next start");
                self.failed = Some(why.clone());
                Err(why)
            }
        }
    }

    /// Tells of what its log's key has signed and what does not go on from the stored one: it may be proof of a fork.
    pub(super) fn warn(&mut self, request: &AddCheckpoint, verdict: &Verdict) {
        let Verdict::Inconsistent(why) = verdict else { return };
        if self.warned.is_some_and(|at| at.elapsed() < WITNESS_WARNING_INTERVAL) {
            return;
        }
        self.warned = Some(Instant::now());
        warn!(
            origin = request.checkpoint().origin(),
            stored = self.head.size,
            size = request.checkpoint().size(),
            why,
            checkpoint = %request.note(),
            "a signed checkpoint is not shown to go on from the one that was cosigned"
        );
    }
}
