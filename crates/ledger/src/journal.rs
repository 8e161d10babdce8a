//! The seam between the ledger and what stores it: local files here, a shared database elsewhere.
//!
//! Everything that follows the log (tree, index, state) uses this trait alone, so it cannot tell whether a record was
//! written by this process or by another replica.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    LedgerError, Record,
    batch::Batch,
    checkpoint::SignedCheckpoint,
    facts::{Facts, Outline},
    kind::Kind,
    note::{NoteSignature, Vkey},
    origin::Origin,
    record::EncodedRecord,
    tree::{Hash, leaf_hash},
};

/// One log of the ledger, a shard: its name, its key, and where its records stand among those of all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    origin: Origin,
    vkey: Vkey,
    first: u64,
}

impl Log {
    /// The log whose checkpoints `vkey` verifies and whose first record has position `first` in the ledger.
    ///
    /// # Errors
    /// Refuses a key whose name is no origin.
    pub fn new(vkey: Vkey, first: u64) -> Result<Self, LedgerError> {
        Ok(Self {
            origin: Origin::parse(vkey.name())?,
            vkey,
            first,
        })
    }

    /// The name.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The key that verifies its checkpoints.
    pub fn vkey(&self) -> &Vkey {
        &self.vkey
    }

    /// Position of its first record in the ledger: the number of records in all shards before it.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The leaf index, in this log's tree, of the record at a position of the ledger; `None` for one before this log.
    pub fn leaf_at(&self, position: u64) -> Option<u64> {
        position.checked_sub(self.first)
    }

    /// The position in the ledger of a leaf of this log's tree.
    pub fn position_of(&self, leaf: u64) -> u64 {
        self.first.saturating_add(leaf)
    }
}

/// A record in its place.
#[derive(Clone)]
pub struct Stored {
    index: u64,
    bytes: Bytes,
    leaf_hash: Option<Hash>,
}

impl Stored {
    pub(crate) fn new(index: u64, bytes: &[u8], leaf_hash: Option<Hash>) -> Self {
        Self {
            index,
            bytes: Bytes::copy_from_slice(bytes),
            leaf_hash,
        }
    }

    /// One that shares its bytes with others.
    pub(crate) fn shared(index: u64, bytes: Bytes, leaf_hash: Hash) -> Self {
        Self {
            index,
            bytes,
            leaf_hash: Some(leaf_hash),
        }
    }

    /// The record's position in the ledger, counted through all shards, from 0.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The bytes of the leaf.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Hash of the leaf.
    pub fn leaf_hash(&self) -> Hash {
        self.leaf_hash.unwrap_or_else(|| leaf_hash(&self.bytes))
    }

    /// The kind, without decoding the record; `None` when the bytes are no record of a known kind.
    pub fn kind(&self) -> Option<Kind> {
        Outline::read(&self.bytes).kind
    }

    /// True when decisions made before this record have to be made again.
    pub fn is_restricting(&self) -> bool {
        Outline::read(&self.bytes).restricting
    }

    /// The record.
    ///
    /// # Errors
    /// Fails as [`Record::decode`].
    pub fn decode(&self) -> Result<Record, LedgerError> {
        Record::decode(&self.bytes)
    }

    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts::read(&self.bytes)
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stored({}, {} bytes)", self.index, self.bytes.len())
    }
}

/// Why a group was not appended. Nothing of it is in the log, except after `Poisoned`, when only a restart can tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// A restricting record came after the state the group was decided at: decide again.
    #[error("the control state moved to {control_head}; decide again")]
    Moved {
        /// The control index now.
        control_head: u64,
    },
    /// There is no room. Nothing was written; later appends succeed when there is room again.
    #[error("no space left for the ledger; free some and it goes on by itself")]
    NoSpace,
    /// A write or flush failed, now or earlier. No append succeeds any more.
    #[error("the ledger is closed for writing after a failed write: {0}")]
    Poisoned(String),
    /// The group is empty or over the limits of a group.
    #[error("a group has 1 to 512 records and at most 1 MB")]
    TooLarge,
}

/// An append-only ledger of records, with one order. Its logs follow one another: indices here are positions in the whole
/// ledger, which [`Log`] translates into leaf indices of one log's tree.
pub trait Journal: Send + Sync + fmt::Debug {
    /// The log that is written.
    fn log(&self) -> Arc<Log>;

    /// The log that holds, or will hold, the record at a position; `None` for positions whose records were given up.
    fn log_of(&self, position: u64) -> Option<Arc<Log>>;

    /// Position of the first record that can be read: more than 0 when older shards were given up.
    fn first(&self) -> u64 {
        0
    }

    /// The state of everything before [`Journal::first`], as the records after it confirm it by its hash; `None` when
    /// nothing is before.
    ///
    /// # Errors
    /// Fails when it cannot be read or is not the one that was recorded.
    fn snapshot(&self) -> Result<Option<Vec<u8>>, LedgerError> {
        Ok(None)
    }

    /// Appends a group durably and returns the index of its first record. The group is appended whole or not at all,
    /// and only when the control index is still at most `control_seen`. Restricting records inside the group do not
    /// count against it: who makes the group answers for its order.
    ///
    /// # Errors
    /// See [`AppendError`].
    fn append_batches(&self, group: &[Batch], control_seen: u64) -> Result<u64, AppendError>;

    /// As [`Journal::append_batches`], for records that are not in batches yet.
    ///
    /// # Errors
    /// See [`AppendError`].
    fn append(&self, group: &[EncodedRecord], control_seen: u64) -> Result<u64, AppendError> {
        self.append_batches(&[Batch::of(group)], control_seen)
    }

    /// At most `max` records from `index` on, in order, and fewer when that is more than a few megabytes; none when
    /// `index` is the size or beyond.
    ///
    /// # Errors
    /// Fails when the bytes cannot be read or are damaged.
    fn read_from(&self, index: u64, max: usize) -> Result<Vec<Stored>, LedgerError>;

    /// The records at these positions, in the order they are named. Positions that are near each other are best named one
    /// after the other, as the rows of a search are: what holds them is then read once.
    ///
    /// # Errors
    /// As [`Journal::read_from`], and when one is not there.
    fn read_each(&self, positions: &[u64]) -> Result<Vec<Stored>, LedgerError> {
        let one = |position: &u64| {
            self.read_from(*position, 1)?.pop().ok_or_else(|| LedgerError::Beyond {
                what: "record",
                asked: *position,
                have: self.size(),
            })
        };
        positions.iter().map(one).collect()
    }

    /// Number of durable records.
    fn size(&self) -> u64;

    /// Control index: 1 + index of the last restricting record, 0 when there is none.
    fn control_head(&self) -> u64;

    /// Follows the size.
    fn watch(&self) -> watch::Receiver<u64>;

    /// The last stored checkpoint of the log that is written.
    ///
    /// # Errors
    /// Fails when it cannot be read or does not verify.
    fn checkpoint(&self) -> Result<SignedCheckpoint, LedgerError>;

    /// The last stored checkpoint of a log: for one that is closed its final one.
    ///
    /// # Errors
    /// As [`Journal::checkpoint`]; refuses a log that is none of this ledger.
    fn checkpoint_of(&self, log: &Log) -> Result<SignedCheckpoint, LedgerError>;

    /// Replaces the stored checkpoint of size `old` by `new`, durably.
    ///
    /// # Errors
    /// `CheckpointMoved` when the stored one has another size or the log is closed; refuses a `new` that is smaller than the
    /// stored one, larger than the log or signed by another key.
    fn cas_checkpoint(&self, old: u64, new: &SignedCheckpoint) -> Result<(), LedgerError>;

    /// Adds signature lines to the stored checkpoint of the log that the text names, durably, when it is still the one with
    /// this text; a newer one is never replaced. Only lines that the caller has verified are to be added.
    ///
    /// # Errors
    /// `CheckpointMoved` when another checkpoint is stored; refuses more lines than a note may have.
    fn add_cosignatures(&self, text: &str, lines: &[NoteSignature]) -> Result<(), LedgerError>;

    /// Called by the committer when nothing waits: a good moment to make room for the next groups.
    fn idle(&self) {}

    /// Why no append will succeed until the next start, when that is so.
    fn poisoned(&self) -> Option<String>;
}
