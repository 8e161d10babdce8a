//! What is still added to a closed log: the lines of witnesses on its final checkpoint, which is signed as it closes and can be
//! shown to nobody before.

use crate::{LedgerError, disk::replace, file::FileJournal, foreign::ForeignCheckpoint, note::NoteSignature};

impl FileJournal {
    /// Adds lines to the final checkpoint of a closed log, when `text` is that. The caller holds the lock of the stored
    /// checkpoint, so that no two add at once and no log closes meanwhile; `current` is its size.
    pub(crate) fn add_to_closed(&self, text: &str, lines: &[NoteSignature], current: u64) -> Result<(), LedgerError> {
        let asked = ForeignCheckpoint::parse(text)?;
        let moved = |current| LedgerError::CheckpointMoved {
            current,
            expected: asked.size(),
        };
        let shards = self.shards();
        let closed = shards.split_last().map_or(&[][..], |(_, closed)| closed);
        let shard = closed.iter().find(|shard| shard.origin.as_str() == asked.origin());
        let Some(shard) = shard else {
            return Err(moved(current));
        };
        let last = shard.read_checkpoint()?;
        if last.note().text() != text {
            return Err(moved(last.checkpoint().size));
        }
        let cosigned = last.with_lines(lines)?;
        cosigned.note().verify(&shard.vkey)?;
        replace(&**self.disk(), &shard.checkpoint(), cosigned.to_string().as_bytes())
    }
}
