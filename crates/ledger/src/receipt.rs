//! The proof, inside this program, that one record is durable. Only the committer makes it.

use std::sync::Arc;

use mintage_identity::UnixTime;

use crate::{origin::Origin, tree::Hash};

/// Says that the record with this leaf hash is durable at this index. What is released outside, a certificate above
/// all, is released against the receipt of exactly its own record.
#[derive(Debug, PartialEq, Eq)]
pub struct Receipt {
    origin: Arc<Origin>,
    index: u64,
    leaf_hash: Hash,
    time: UnixTime,
}

impl Receipt {
    pub(crate) fn new(origin: Arc<Origin>, index: u64, leaf_hash: Hash, time: UnixTime) -> Self {
        Self {
            origin,
            index,
            leaf_hash,
            time,
        }
    }

    /// The shard that holds the record.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The record's place in the shard.
    pub fn index(&self) -> u64 {
        self.index
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
