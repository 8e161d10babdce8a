//! How a shard begins: what its first record says of the shard before it, and of what stood then.

use crate::{
    LedgerError,
    checkpoint::SignedCheckpoint,
    journal::{Log, Stored},
    layout::Shard,
    note::Vkey,
    record::{Body, Record},
    tree::{Hash, sha256},
    wire::LogOpen,
};

/// What is known of a shard before its first record is read. The snapshot is compared with the first record's hash of it
/// before any record is handed on.
#[derive(Clone, Copy, Debug)]
pub struct ShardBegin<'a> {
    /// The log.
    pub log: &'a Log,
    /// The state of everything before it; the first shard has none.
    pub snapshot: Option<&'a [u8]>,
}

/// Holds the first record of a shard against the shard before it and the snapshot beside it.
pub(crate) fn check_first_record(
    shard: &Shard,
    before: Option<&Shard>,
    snapshot: Option<&[u8]>,
    stored: &Stored,
) -> Result<(), LedgerError> {
    let refuse = |problem: String| LedgerError::Corrupt {
        path: shard.dir.clone(),
        offset: 0,
        index: stored.index(),
        problem,
    };
    let Body::LogOpen(open) = Record::decode(stored.bytes())?.body else {
        return Err(refuse("the shard does not begin with log.open".into()));
    };
    let last = before.map(Shard::read_checkpoint).transpose()?;
    let last = before.zip(last.as_ref()).map(|(before, last)| Ended {
        vkey: &before.vkey,
        size: last.checkpoint().size,
        root: last.checkpoint().root,
    });
    check_opening(&open, shard.base, last, snapshot).map_err(refuse)
}

/// How a log ended, by its final checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) vkey: &'a Vkey,
    pub(crate) size: u64,
    pub(crate) root: Hash,
}

/// What a first record must say: where its shard begins, how the one before ended, and what stood then.
pub(crate) fn check_opening(
    open: &LogOpen,
    base: u64,
    before: Option<Ended<'_>>,
    snapshot: Option<&[u8]>,
) -> Result<(), String> {
    if open.first_position != base {
        return Err(format!(
            "log.open says that record {} is its first, it is {base}",
            open.first_position
        ));
    }
    match before {
        None if open.previous_checkpoint.is_empty() && open.snapshot_sha256.is_empty() => return Ok(()),
        None => return Err("log.open names a log before the first".into()),
        Some(ended) => {
            let name = ended.vkey.name();
            let named = SignedCheckpoint::verify(open.previous_checkpoint.as_bytes(), ended.vkey)
                .map_err(|error| format!("log.open holds no checkpoint of {name}: {error}"))?;
            let named = named.checkpoint();
            if (named.size, named.root) != (ended.size, ended.root) {
                return Err(format!(
                    "log.open says that {name} ended with {} records, its checkpoint is of {} or of another root",
                    named.size, ended.size
                ));
            }
        }
    }
    check_snapshot(open, snapshot)
}

/// The snapshot beside a shard is the one that its first record names.
pub(crate) fn check_snapshot(open: &LogOpen, snapshot: Option<&[u8]>) -> Result<(), String> {
    match snapshot {
        None if open.snapshot_sha256.is_empty() => Ok(()),
        None => Err("the shard has no snapshot".into()),
        Some(bytes) if sha256(bytes).as_slice() == open.snapshot_sha256 => Ok(()),
        Some(_) => Err("the snapshot beside the shard is not the one that log.open names".into()),
    }
}
