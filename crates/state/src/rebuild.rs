//! A view made of a whole ledger at once. What stands at the end is accounted for and written once, and not after each
//! record, which is most of the work where objects change often.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use mintage_identity::TrustDomain;
use mintage_ledger::Journal;

use crate::ahead::Decoded;
use crate::apply::{Gathered, Writes};
use crate::error::StateError;
use crate::limits::{BATCHES_AHEAD, DECODERS, READ_RECORDS};
use crate::view::View;

/// A rebuilt view, and what its store has to hold.
pub(crate) struct Rebuilt {
    pub(crate) view: View,
    pub(crate) writes: Writes,
    /// Hash of the last leaf that was applied.
    pub(crate) leaf: [u8; 32],
}

/// Reads, decodes and parses in threads of their own while this one applies: that is half as much work again.
pub(crate) fn rebuild(domain: &TrustDomain, journal: &dyn Journal) -> Result<Rebuilt, StateError> {
    let (mut view, mut gathered, mut leaf) = (View::new(domain), Gathered::default(), [0; 32]);
    let size = journal.size();
    std::thread::scope(|scope| {
        let mut lanes = Vec::with_capacity(DECODERS);
        for lane in 0..DECODERS {
            let (sender, batches) = sync_channel(BATCHES_AHEAD);
            let (spent, used) = sync_channel(BATCHES_AHEAD);
            std::thread::Builder::new()
                .name("state-decode".into())
                .spawn_scoped(scope, move || read_ahead(journal, domain, (lane, size), &sender, &used))
                .map_err(StateError::io("start a thread to read", "the ledger"))?;
            lanes.push((batches, spent));
        }
        // Each lane has every so manyth batch; the first that has no more says that there is none. An error ends the loop and
        // drops the receivers, which ends the threads.
        for (batches, spent) in lanes.iter().cycle() {
            let Ok(batch) = batches.recv() else { break };
            let Batch { mut records, last } = batch?;
            records
                .iter_mut()
                .try_for_each(|record| view.gather(record, &mut gathered))?;
            leaf = last;
            records.clear();
            // Its memory is warm and mapped; the next batch but a few takes it again.
            let _ = spent.try_send(records);
        }
        Ok::<_, StateError>(())
    })?;
    let writes = view.settle(gathered);
    Ok(Rebuilt { view, writes, leaf })
}

/// Records in their order, and the hash of the last one's leaf.
struct Batch {
    records: Vec<Decoded>,
    last: [u8; 32],
}

impl Batch {
    /// Fills `records`, which is empty, with all of `range`, which the journal holds.
    fn read(
        journal: &dyn Journal,
        domain: &TrustDomain,
        range: Range<u64>,
        mut records: Vec<Decoded>,
    ) -> Result<Self, StateError> {
        let (mut next, mut last) = (range.start, [0; 32]);
        while next < range.end {
            let max = usize::try_from(range.end - next).unwrap_or(READ_RECORDS);
            let stored = journal.read_from(next, max)?;
            let Some(newest) = stored.last() else { break };
            last = *newest.leaf_hash().as_bytes();
            next += stored.len() as u64;
            for stored in &stored {
                records.push(Decoded::read(stored, domain)?);
            }
        }
        Ok(Self { records, last })
    }
}

/// Sends the batches of a lane below `size`, until an error or until nobody listens.
fn read_ahead(
    journal: &dyn Journal,
    domain: &TrustDomain,
    (lane, size): (usize, u64),
    sender: &SyncSender<Result<Batch, StateError>>,
    used: &Receiver<Vec<Decoded>>,
) {
    let step = READ_RECORDS as u64;
    let starts = (0..size).step_by(READ_RECORDS).skip(lane).step_by(DECODERS);
    for start in starts {
        let range = start..(start + step).min(size);
        let batch = Batch::read(journal, domain, range, used.try_recv().unwrap_or_default());
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

impl View {
    /// The view of everything a journal holds now, in memory alone.
    ///
    /// # Errors
    /// As [`View::apply_stored`], and when the journal cannot be read.
    pub fn of_journal(domain: &TrustDomain, journal: &dyn Journal) -> Result<Self, StateError> {
        let Some(snapshot) = journal.snapshot()? else {
            return Ok(rebuild(domain, journal)?.view);
        };
        let mut view = Self::from_snapshot(domain, &snapshot)?;
        while view.applied() < journal.size() {
            for stored in journal.read_from(view.applied(), READ_RECORDS)? {
                view.apply_stored(&stored)?;
            }
        }
        Ok(view)
    }
}
