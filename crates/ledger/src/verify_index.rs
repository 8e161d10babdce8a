//! Offline verification of the search indexes: each sealed segment's is made again from its records and compared.
//!
//! It is apart from that of the records because it proves something else: not that the log is whole, but that a search in it hides
//! nothing. Both may run at the same time.

use std::path::Path;

use crate::{
    LedgerError,
    layout::{Shard, read_policy},
    on_disk::{is_closed, sealed_of},
    seg::{
        Segment,
        entries::{Entries, FRAME_RECORDS},
        index::SealedIndex,
        index_writer::IndexWriter,
    },
};

/// Compares the index of every sealed segment of the ledger in `ledger` with the one that its records make; returns how many
/// there were. It takes no lock and writes nothing. Between two segments it asks `go_on`, and ends early where that says no.
///
/// # Errors
/// Names the first index that is another one, with the byte that differs; fails when records cannot be read.
pub fn verify_indexes(ledger: &Path, go_on: &dyn Fn() -> bool) -> Result<u64, LedgerError> {
    let shards = read_policy(ledger)?;
    let mut compared = 0;
    for (at, shard) in shards.iter().enumerate() {
        if shard.is_released() {
            continue;
        }
        let mut is_closed = is_closed(&shards, at);
        for entries in sealed_of(ledger, shard, &mut is_closed)?.sealed.entries {
            if !go_on() {
                return Ok(compared);
            }
            compared += u64::from(compare(shard, &entries)?);
        }
    }
    Ok(compared)
}

/// True when the segment has an index, and it is right.
fn compare(shard: &Shard, entries: &Entries) -> Result<bool, LedgerError> {
    let segment = Segment::of(entries.first() - shard.base);
    let index = match SealedIndex::open(shard, segment) {
        Ok(index) => index,
        // What is not there hides nothing, and is made at the next start.
        Err(LedgerError::Missing { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut made = IndexWriter::default();
    for frame in 0..(entries.count() as usize).div_ceil(FRAME_RECORDS) {
        entries.frame(frame)?.iter().for_each(|stored| made.push(stored));
    }
    index.compare(&made.finish(shard.origin_hash(), segment.first()))?;
    Ok(true)
}
