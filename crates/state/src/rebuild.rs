//! A view made of a whole ledger at once. What stands at the end is accounted for and written once, and not after each
//! record, which is most of the work where objects change often.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use mintage_identity::TrustDomain;
use mintage_ledger::Journal;

use crate::ahead::Decoded;
use crate::apply::{Gathered, Writes};
use crate::error::StateError;
use crate::limits::{BATCHES_AHEAD, READ_RECORDS};
use crate::view::View;

/// A rebuilt view, and what its store has to hold.
pub(crate) struct Rebuilt {
    pub(crate) view: View,
    pub(crate) writes: Writes,
    /// Hash of the last leaf that was applied.
    pub(crate) leaf: [u8; 32],
}

/// Reads, decodes and parses in a thread of its own while this one applies: each is about half of the work.
pub(crate) fn rebuild(domain: &TrustDomain, journal: &dyn Journal) -> Result<Rebuilt, StateError> {
    let (mut view, mut gathered, mut leaf) = (View::new(domain), Gathered::default(), [0; 32]);
    std::thread::scope(|scope| {
        let (sender, batches) = sync_channel(BATCHES_AHEAD);
        let (spent, used) = sync_channel(BATCHES_AHEAD);
        std::thread::Builder::new()
            .name("state-decode".into())
            .spawn_scoped(scope, move || read_ahead(journal, domain, &sender, &used))
            .map_err(StateError::io("start a thread to read", "the ledger"))?;
        // An error ends the loop and drops the receiver, which ends the thread.
        for batch in batches {
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
    /// `None` when the journal holds nothing from `next` on.
    /// Fills `records`, which is empty.
    fn read(
        journal: &dyn Journal,
        domain: &TrustDomain,
        next: u64,
        mut records: Vec<Decoded>,
    ) -> Result<Option<Self>, StateError> {
        let stored = journal.read_from(next, READ_RECORDS)?;
        let Some(last) = stored.last() else { return Ok(None) };
        for stored in &stored {
            records.push(Decoded::read(stored, domain)?);
        }
        Ok(Some(Self {
            last: *last.leaf_hash().as_bytes(),
            records,
        }))
    }
}

/// Sends everything that the journal holds, in batches, until an error or until nobody listens.
fn read_ahead(
    journal: &dyn Journal,
    domain: &TrustDomain,
    sender: &SyncSender<Result<Batch, StateError>>,
    used: &Receiver<Vec<Decoded>>,
) {
    let mut next = 0;
    while next < journal.size() {
        let Some(batch) = Batch::read(journal, domain, next, used.try_recv().unwrap_or_default()).transpose() else {
            return;
        };
        next += batch.as_ref().map_or(0, |batch| batch.records.len()) as u64;
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
