//! Finds an issuer by its key id: a table of places by the first octets of the id, which is a hash already.

use mintage_identity::IssuerKeyId;

use crate::view_issuer::ViewIssuer;

/// Places for each issuer: with so many the first one looked at is nearly always the right one.
const PLACES_EACH: usize = 4;

/// Where each of a row of issuers stands in it.
#[derive(Clone)]
pub(crate) struct IssuerIndex {
    /// One more than the position of an issuer; zero for none. Behind the places that an id may name there is one for each issuer
    /// more, and one for none: whoever goes on from any place comes to an end.
    places: Vec<u32>,
    shift: u32,
}

impl IssuerIndex {
    pub(crate) fn of(issuers: &[ViewIssuer]) -> Self {
        // At least two, so that the shift is below the width of a word.
        let named = (issuers.len() * PLACES_EACH).next_power_of_two().max(2);
        let mut index = Self {
            places: vec![0; named + issuers.len() + 1],
            shift: u64::BITS - named.ilog2(),
        };
        for (at, issuer) in (1..).zip(issuers) {
            let begin = index.begin(&issuer.id);
            let free = index.places.iter_mut().skip(begin).find(|place| **place == 0);
            // There is one: as many as there are issuers lie behind the last that an id names.
            if let Some(free) = free {
                *free = at;
            }
        }
        index
    }

    #[inline(always)]
    fn begin(&self, id: &IssuerKeyId) -> usize {
        let mut first = [0; 8];
        first.copy_from_slice(&id.as_bytes()[..8]);
        (u64::from_le_bytes(first) >> self.shift) as usize
    }

    /// The issuer with this id among those that the index was made of.
    #[inline(always)]
    pub(crate) fn find<'a>(&self, issuers: &'a [ViewIssuer], id: &IssuerKeyId) -> Option<&'a ViewIssuer> {
        let mut at = self.begin(id);
        loop {
            // Zero wraps to a position that no issuer has.
            let position = (*self.places.get(at)? as usize).wrapping_sub(1);
            let issuer = issuers.get(position)?;
            if issuer.id == *id {
                return Some(issuer);
            }
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use mintage_identity::UnixTime;

    use super::*;
    use crate::{SerialKind, body::BodyIssuer};

    fn issuer(id: [u8; 32]) -> ViewIssuer {
        ViewIssuer::new(&BodyIssuer {
            id: IssuerKeyId::new(id),
            covered: true,
            kind: SerialKind::Native,
            until: UnixTime::from_millis(0),
        })
    }

    fn id(n: u32, alike: usize) -> [u8; 32] {
        let mut id = [0xff; 32];
        let n = n.wrapping_mul(0x9e37_79b9).to_be_bytes();
        id[alike..alike + 4].copy_from_slice(&n);
        id
    }

    #[test]
    fn every_issuer_is_found_and_no_other_though_their_ids_begin_alike() {
        for count in [0, 1, 2, 3, 5, 64, 700] {
            for alike in [0, 6, 8, 28] {
                let issuers: Vec<ViewIssuer> = (0..count).map(|n| issuer(id(n, alike))).collect();
                let index = IssuerIndex::of(&issuers);
                for n in 0..count + 3 {
                    let wanted = IssuerKeyId::new(id(n, alike));
                    let found = index.find(&issuers, &wanted).map(|issuer| issuer.id);
                    assert_eq!(
                        found,
                        (n < count).then_some(wanted),
                        "{n} of {count}, {alike} octets alike"
                    );
                }
            }
        }
    }
}
