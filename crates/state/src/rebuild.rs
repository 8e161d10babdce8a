//! A view made of a whole ledger at once. What stands at the end is accounted for and written once, and not after each
//! record, which is most of the work where objects change often.

use mintage_identity::TrustDomain;
use mintage_ledger::Journal;

use crate::apply::{Gathered, Writes};
use crate::error::StateError;
use crate::limits::READ_RECORDS;
use crate::view::View;

/// A rebuilt view, and what its store has to hold.
pub(crate) struct Rebuilt {
    pub(crate) view: View,
    pub(crate) writes: Writes,
    /// Hash of the last leaf that was applied.
    pub(crate) leaf: [u8; 32],
}

pub(crate) fn rebuild(domain: &TrustDomain, journal: &dyn Journal) -> Result<Rebuilt, StateError> {
    let (mut view, mut gathered, mut leaf) = (View::new(domain), Gathered::default(), [0; 32]);
    while view.applied() < journal.size() {
        let records = journal.read_from(view.applied(), READ_RECORDS)?;
        let Some(last) = records.last() else { break };
        leaf = *last.leaf_hash().as_bytes();
        records
            .iter()
            .try_for_each(|stored| view.gather(stored, &mut gathered))?;
    }
    let writes = view.settle(gathered);
    Ok(Rebuilt { view, writes, leaf })
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
