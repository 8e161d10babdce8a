//! Whose map a reader held, and which one it may move to: never an older one of the same CA, but that of a CA made anew.
//!
//! A set of one CA names all issuers whose certificates may still be in use, so an older one has issuers in common with it: or
//! else everything that those issuers signed has ended. A map that names issuers, and none in common with what was held, is
//! therefore of another CA, whose ledger counts from the start. To move to it takes nothing back: no certificate of the
//! issuers that were held is good by it, since it does not speak of them.

use std::collections::BTreeSet;

use mintage_identity::IssuerKeyId;

use crate::{View, limits::MAP_LINEAGES_MAX, view_issuer::ViewIssuer};

/// The issuers of one CA, and how far its set had come.
pub(crate) struct Lineage {
    issuers: BTreeSet<IssuerKeyId>,
    /// Epoch and sequence.
    position: (u64, u64),
}

/// The CAs whose maps are held no more: what they had said is not taken back when one of them returns.
#[derive(Default)]
pub(crate) struct Left(Vec<Lineage>);

impl Lineage {
    pub(crate) fn of(view: &View, position: (u64, u64)) -> Self {
        let issuers = view.issuers().iter().map(|ViewIssuer { id, .. }| *id).collect();
        Self { issuers, position }
    }

    fn is_of(&self, other: &Self) -> bool {
        !self.issuers.is_disjoint(&other.issuers)
    }
}

impl Left {
    /// Remembers what is let go.
    pub(crate) fn add(&mut self, gone: Lineage) {
        if !gone.issuers.is_empty() {
            self.0.push(gone);
        }
    }

    /// True when a reader may move from `held` to `newer`, which is noted then.
    pub(crate) fn moves(&mut self, held: Lineage, newer: &Lineage) -> bool {
        let knows_more = |former: &Lineage| former.position > newer.position;
        let is_of_newer = |former: &Lineage| newer.issuers.is_empty() || former.is_of(newer);
        if knows_more(&held) && is_of_newer(&held)
            || self.0.iter().any(|former| is_of_newer(former) && knows_more(former))
        {
            return false;
        }
        let leaves = !held.issuers.is_empty() && !held.is_of(newer);
        if leaves && self.0.len() >= MAP_LINEAGES_MAX {
            return false;
        }
        self.0.retain(|former| !former.is_of(newer));
        if leaves {
            self.0.push(held);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(issuers: &[u8], sequence: u64) -> Lineage {
        Lineage {
            issuers: issuers.iter().map(|octet| IssuerKeyId::new([*octet; 32])).collect(),
            position: (1, sequence),
        }
    }

    #[test]
    fn a_reader_goes_on_within_a_ca_and_never_back() {
        let mut left = Left::default();
        assert!(left.moves(lineage(&[], 0), &lineage(&[1], 5)));
        assert!(left.moves(lineage(&[1], 5), &lineage(&[1, 2], 5)));
        assert!(left.moves(lineage(&[1, 2], 5), &lineage(&[2, 3], 9)));
        assert!(!left.moves(lineage(&[2, 3], 9), &lineage(&[3], 8)));
        assert!(!left.moves(lineage(&[2, 3], 9), &lineage(&[], 8)), "names nobody");
        assert!(left.0.is_empty());
    }

    #[test]
    fn a_ca_made_anew_is_followed_and_brings_nothing_of_the_one_before_back() {
        let mut left = Left::default();
        assert!(left.moves(lineage(&[1, 2], 9), &lineage(&[7], 3)));
        // The one before, older than it was; and one that mixes both.
        assert!(!left.moves(lineage(&[7], 3), &lineage(&[1], 8)));
        assert!(!left.moves(lineage(&[7], 3), &lineage(&[2, 7], 4)));
        // Also where nothing is held meanwhile.
        left.add(lineage(&[7], 3));
        assert!(!left.moves(lineage(&[], 0), &lineage(&[2], 8)));
        assert!(!left.moves(lineage(&[], 0), &lineage(&[7], 2)));
        assert!(left.moves(lineage(&[], 0), &lineage(&[1, 2], 9)));
    }

    #[test]
    fn so_many_cas_are_remembered_and_no_more_are_followed() {
        let mut left = Left::default();
        for at in 0..MAP_LINEAGES_MAX as u8 {
            assert!(left.moves(lineage(&[at], 9), &lineage(&[at + 1], 1)), "{at}");
        }
        let last = MAP_LINEAGES_MAX as u8;
        assert!(!left.moves(lineage(&[last], 9), &lineage(&[last + 1], 1)));
        assert!(left.moves(lineage(&[last], 9), &lineage(&[last], 9)));
    }
}
