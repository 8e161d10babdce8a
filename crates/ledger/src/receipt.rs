//! The proof, inside this program, that one record is durable. Only the committer makes it.

use std::sync::Arc;

use mintage_identity::UnixTime;

use crate::{journal::Log, origin::Origin, tree::Hash};

/// Says that the record with this leaf hash is durable at this place. What is released outside, a certificate above
/// all, is released against the receipt of exactly its own record.
#[derive(Debug, PartialEq, Eq)]
pub struct Receipt {
    log: Arc<Log>,
    position: u64,
    leaf_hash: Hash,
    time: UnixTime,
}

impl Receipt {
    pub(crate) fn new(log: Arc<Log>, position: u64, leaf_hash: Hash, time: UnixTime) -> Self {
        Self {
            log,
            position,
            leaf_hash,
            time,
        }
    }

    /// The shard that holds the record.
    pub fn origin(&self) -> &Origin {
        self.log.origin()
    }

    /// The record's position in the ledger.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The index of the record's leaf in the shard's tree, by which proofs are asked for.
    pub fn leaf_index(&self) -> u64 {
        // A receipt's log is the one that holds its position.
        self.position.saturating_sub(self.log.first())
    }

    /// Hash of the leaf.
    pub fn leaf_hash(&self) -> Hash {
        self.leaf_hash
    }

    /// The time in the record.
    pub fn time(&self) -> UnixTime {
        self.time
    }
}
