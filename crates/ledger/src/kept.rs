//! Checkpoints that are kept beside the last one: what the log promised at each start and at the end of each segment, so
//! that a later reader can hold it to all of that.

use std::{collections::BTreeMap, fs, io, path::Path};

use crate::{
    LedgerError,
    checkpoint::SignedCheckpoint,
    disk::{Disk, make_dir, read_whole},
    layout::Shard,
    limits::{KEPT_CHECKPOINTS_MAX, NOTE_BYTES_MAX},
    note::Vkey,
    seg::write_sealed,
    tree::Hash,
};

/// Keeps a checkpoint, unless one of its size is kept already.
pub(crate) fn keep(disk: &dyn Disk, shard: &Shard, checkpoint: &SignedCheckpoint) -> Result<(), LedgerError> {
    let path = shard.checkpoints().join(checkpoint.checkpoint().size.to_string());
    if path.exists() {
        return Ok(());
    }
    make_dir(&shard.checkpoints())?;
    write_sealed(disk, &path, checkpoint.to_string().as_bytes())
}

/// All kept checkpoints, by size, each with a valid signature.
pub(crate) fn read(shard: &Shard) -> Result<Vec<SignedCheckpoint>, LedgerError> {
    read_in(&shard.checkpoints(), &shard.vkey)
}

/// The same of a folder of them, whose log has this key.
pub(crate) fn read_in(dir: &Path, vkey: &Vkey) -> Result<Vec<SignedCheckpoint>, LedgerError> {
    let listed = match fs::read_dir(dir) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(LedgerError::io("list", dir)(error)),
    };
    let mut kept = Vec::new();
    for file in listed {
        let path = file.map_err(LedgerError::io("list", dir))?.path();
        let Some(size) = path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok()) else {
            continue;
        };
        let refuse = |problem: String| LedgerError::Corrupt {
            path: path.clone(),
            offset: 0,
            index: size,
            problem,
        };
        if kept.len() == KEPT_CHECKPOINTS_MAX {
            return Err(refuse(format!(
                "there are more than {KEPT_CHECKPOINTS_MAX} kept checkpoints"
            )));
        }
        let bytes = read_whole(&path, NOTE_BYTES_MAX as u64, "a kept checkpoint")?;
        let signed = SignedCheckpoint::verify(&bytes, vkey).map_err(|error| refuse(error.to_string()))?;
        if signed.checkpoint().size != size {
            return Err(refuse(format!(
                "the checkpoint is of size {}",
                signed.checkpoint().size
            )));
        }
        kept.push(signed);
    }
    kept.sort_unstable_by_key(|signed| signed.checkpoint().size);
    Ok(kept)
}

/// The roots that kept checkpoints promise, by size.
pub(crate) fn promised(kept: &[SignedCheckpoint]) -> BTreeMap<u64, Hash> {
    let head = |signed: &SignedCheckpoint| (signed.checkpoint().size, signed.checkpoint().root);
    kept.iter().map(head).collect()
}

/// Holds kept checkpoints against the last one of a log, where that is all there is.
///
/// # Errors
/// Refuses one that is larger, and one of the same size that has another root.
pub(crate) fn check_against_last(kept: &[SignedCheckpoint], size: u64, root: Hash) -> Result<(), LedgerError> {
    for kept in kept.iter().map(SignedCheckpoint::checkpoint) {
        if kept.size > size {
            return Err(LedgerError::Beyond {
                what: "a kept checkpoint",
                asked: kept.size,
                have: size,
            });
        }
        if kept.size == size && kept.root != root {
            return Err(LedgerError::Forked {
                size,
                what: "a kept checkpoint",
            });
        }
    }
    Ok(())
}
