//! What lies on disk of a shard, as a verifier finds it that takes no lock: a live ledger seals, removes files and closes the
//! shard meanwhile, and what is found must then be looked at again and never be taken for damage.

use std::{fs::File, io::Read, path::Path};

use crate::{
    LedgerError,
    checkpoint::Checkpoint,
    layout::{Shard, read_policy},
    open::{Head, read_heads},
    recovery::FILE_BYTES_MAX,
    seg::seal,
};

/// The sealed part of a shard.
pub(crate) struct OnDisk {
    /// The last signed checkpoint, read before the records.
    pub(crate) signed: Checkpoint,
    /// The size of a shard that is closed, as its final checkpoint says.
    pub(crate) closed: Option<u64>,
    pub(crate) sealed: seal::Found,
}

/// A write-ahead file that is held open: a live ledger may remove its name.
pub(crate) struct OpenHead {
    pub(crate) head: Head,
    file: File,
}

impl OpenHead {
    /// All its octets.
    pub(crate) fn read(&mut self, path: &Path) -> Result<Vec<u8>, LedgerError> {
        let mut bytes = Vec::new();
        let read = (&mut self.file).take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(LedgerError::io("read", path))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(LedgerError::Corrupt {
                path: path.to_owned(),
                offset: FILE_BYTES_MAX,
                index: 0,
                problem: format!("the file has more than {FILE_BYTES_MAX} bytes, which it never has"),
            });
        }
        Ok(bytes)
    }
}

/// Whether the shard at this place of the policy is closed: another follows, or it is the last of a copy of closed shards. Only
/// a shard that is written, or waits to be sealed, has a head.
pub(crate) fn is_closed(shards: &[Shard], at: usize) -> bool {
    at + 1 < shards.len() || shards.get(at).is_some_and(|shard| !shard.head().exists())
}

/// Whether the ledger has closed a shard since its policy was read.
fn is_closed_by_now(ledger: &Path, shard: &Shard) -> Result<bool, LedgerError> {
    let shards = read_policy(ledger)?;
    let at = shards.iter().position(|known| known.origin == shard.origin);
    Ok(at.is_some_and(|at| at + 1 < shards.len()))
}

/// The sealed part of a shard, which may be closed while it is looked at.
pub(crate) fn sealed_of(ledger: &Path, shard: &Shard, is_closed: &mut bool) -> Result<OnDisk, LedgerError> {
    loop {
        // Before the records, because a live ledger goes on.
        let signed = shard.read_checkpoint()?.checkpoint().clone();
        let closed = is_closed.then_some(signed.size);
        match seal::find(shard, None, closed) {
            Err(_) if !*is_closed && is_closed_by_now(ledger, shard)? => *is_closed = true,
            found => {
                return Ok(OnDisk {
                    signed,
                    closed,
                    sealed: found?,
                });
            }
        }
    }
}

/// The sealed part and the write-ahead files. A segment may be sealed, and files removed, between the two looks: then both are
/// looked at again.
pub(crate) fn all_of(
    ledger: &Path,
    shard: &Shard,
    mut is_closed: bool,
) -> Result<(OnDisk, Vec<OpenHead>), LedgerError> {
    let mut before = None;
    loop {
        let found = sealed_of(ledger, shard, &mut is_closed)?;
        let known = found.sealed.records();
        if Some(known) == found.closed {
            return Ok((found, Vec::new()));
        }
        match open_heads(shard, known) {
            Ok(heads) => return Ok((found, heads)),
            Err(error) if before == Some((known, is_closed)) => return Err(error),
            Err(_) => {
                before = Some((known, is_closed));
                is_closed = is_closed || is_closed_by_now(ledger, shard)?;
            }
        }
    }
}

fn open_heads(shard: &Shard, sealed: u64) -> Result<Vec<OpenHead>, LedgerError> {
    let open = |head: Head| {
        let path = shard.wal(head.number);
        let file = File::open(&path).map_err(LedgerError::io("open", &path))?;
        Ok(OpenHead { head, file })
    };
    read_heads(shard, sealed)?.into_iter().map(open).collect()
}
