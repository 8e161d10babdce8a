//! Where the filter of a certificate lies among those of its issuer: one row for each span, found by arithmetic alone.
//!
//! A bucket between the first and the last of its span that has no segment has a filter without a bit, and so has whatever lies
//! beyond them. So a gap costs what a bucket costs, and no branch.

use mintage_identity::UnixTime;
use mintage_sys::map::ReadWord;

use crate::{
    bucket::{Bucket, Span, Width},
    segment::{Filter, Segment, may_contain},
    words::BLOCK_WORDS,
};

/// Buckets of a row for each segment in it, beyond [`DENSE_MIN`]. A row with more gaps than that is not laid out bucket by
/// bucket, since every clone of a view carries its rows, but searched.
const DENSE_PER_SEGMENT: u64 = 8;
/// Buckets that any row may have: the minutes of a day.
const DENSE_MIN: u64 = 1_440;

/// The rows of an issuer.
#[derive(Clone, Default)]
pub(crate) struct Rows {
    rows: [Row; Span::ALL.len()],
    len: usize,
    /// The filters of all rows, each row's followed by an empty one.
    filters: Vec<Filter>,
    /// Beside `filters`: the numbers of their buckets. Empty when no row is searched.
    numbers: Vec<u64>,
}

/// The buckets of one span.
#[derive(Clone, Copy, Default)]
struct Row {
    width: Width,
    /// Number of the first bucket in its span.
    first: u64,
    /// How many filters there are, the empty one apart.
    len: u64,
    /// Where they begin.
    at: u64,
    is_searched: bool,
}

impl Rows {
    /// Lays out `segments`, which are sorted.
    pub(crate) fn of(segments: &[(Bucket, Segment)]) -> Self {
        let mut laid = Self::default();
        for held in segments.chunk_by(|(one, _), (next, _)| one.span() == next.span()) {
            laid.push(held);
        }
        if !laid.rows.iter().any(|row| row.is_searched) {
            laid.numbers = Vec::new();
        }
        laid
    }

    /// Lays out the segments of one span.
    fn push(&mut self, held: &[(Bucket, Segment)]) {
        let (Some((first, _)), Some((last, _))) = (held.first(), held.last()) else {
            return;
        };
        // There is a place for every span.
        let Some(row) = self.rows.get_mut(self.len) else { return };
        let buckets = u64::from(last.index() - first.index()) + 1;
        let is_searched = buckets > DENSE_MIN + DENSE_PER_SEGMENT * held.len() as u64;
        *row = Row {
            width: Width::of(first.span()),
            first: u64::from(first.index()),
            len: if is_searched { held.len() as u64 } else { buckets },
            at: self.filters.len() as u64,
            is_searched,
        };
        self.len += 1;
        let (begin, empty) = (self.filters.len(), Filter::empty());
        for (bucket, segment) in held {
            if !is_searched {
                let place = begin + (bucket.index() - first.index()) as usize;
                self.filters.resize(place, empty.clone());
            }
            self.numbers.resize(self.filters.len(), 0);
            self.numbers.push(u64::from(bucket.index()));
            self.filters.push(segment.filter());
        }
        self.numbers.push(u64::MAX);
        self.filters.push(empty);
    }

    /// False when no filter for this end has `fingerprint`; true when one may have it.
    #[inline(always)]
    pub(crate) fn may_list(&self, fingerprint: u64, not_after: UnixTime) -> bool {
        let mut may = false;
        for row in self.rows.iter().take(self.len) {
            // There always is a block; were there none, that would be no reason to let anybody pass.
            may |= self
                .block(row, fingerprint, not_after)
                .is_none_or(|block| may_contain(block, fingerprint));
        }
        may
    }

    /// The one block that [`Self::may_list`] looks at; `None` when there is another number of them.
    #[inline(always)]
    pub(crate) fn only_block(&self, fingerprint: u64, not_after: UnixTime) -> Option<&[ReadWord; BLOCK_WORDS]> {
        (self.len == 1).then(|| self.block(&self.rows[0], fingerprint, not_after))?
    }

    #[inline(always)]
    fn block(&self, row: &Row, fingerprint: u64, not_after: UnixTime) -> Option<&[ReadWord; BLOCK_WORDS]> {
        // What ended before 1970 shares the first bucket.
        let millis = not_after.millis().max(0) as u64;
        let number = row.width.index(millis);
        let off = match row.is_searched {
            false => number.wrapping_sub(row.first).min(row.len),
            true => self.search(row, number),
        };
        self.filters.get((row.at + off) as usize)?.block(fingerprint)
    }

    #[cold]
    #[inline(never)]
    fn search(&self, row: &Row, number: u64) -> u64 {
        let numbers = self.numbers.get(row.at as usize..(row.at + row.len) as usize);
        let found = numbers.unwrap_or_default().binary_search(&number);
        found.map_or(row.len, |at| at as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::bucket::Span;

    const WIDTHS: [i64; 4] = [60_000, 3_600_000, 604_800_000, i64::MAX];

    fn bucket() -> impl Strategy<Value = Bucket> {
        let near = (1_u8..=3, 1_000_u32..1_400);
        let far = (1_u8..=3, prop_oneof![Just(0), Just(u32::MAX), any::<u32>()]);
        prop_oneof![6 => near, 1 => far, 1 => Just((4, 0))]
            .prop_map(|(span, index)| Bucket::from_wire(span, index).unwrap_or(Bucket::FOREVER))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn rows_with_gaps_and_several_spans_look_where_the_segments_are(
            held in prop::collection::btree_map(bucket(), prop::collection::vec(0_u64..1 << 48, 1..30), 0..40),
            off in prop::collection::vec((-2_i64..3, 0_u64..1 << 48), 1..20),
        ) {
            let segments: BTreeMap<Bucket, Segment> =
                held.iter().map(|(bucket, all)| (*bucket, Segment::build(all, 0))).collect();
            let rows = Rows::of(&segments.clone().into_iter().collect::<Vec<_>>());
            let mut instants = vec![i64::MIN, -1, 0, i64::MAX];
            for bucket in held.keys() {
                let width = WIDTHS[bucket.span() as usize - 1];
                let begin = i64::from(bucket.index()).saturating_mul(width);
                // Its first and last instant, and those beside it and some buckets away.
                instants.extend(off.iter().flat_map(|(off, _)| {
                    let begin = begin.saturating_add(off.saturating_mul(width));
                    [begin, begin.saturating_sub(1)]
                }));
            }
            let asked: Vec<u64> = held.values().flatten().chain(off.iter().map(|(_, f)| f)).copied().take(40).collect();
            for not_after in instants.into_iter().map(UnixTime::from_millis) {
                let of: Vec<&Segment> = Bucket::all_for(not_after).filter_map(|bucket| segments.get(&bucket)).collect();
                for &fingerprint in &asked {
                    let meets = |segment: &&Segment| {
                        segment.filter().block(fingerprint).is_some_and(|block| may_contain(block, fingerprint))
                    };
                    prop_assert_eq!(
                        rows.may_list(fingerprint, not_after), of.iter().any(meets), "{:?} {:x}", not_after, fingerprint
                    );
                    if let Some(block) = rows.only_block(fingerprint, not_after) {
                        prop_assert_eq!(may_contain(block, fingerprint), rows.may_list(fingerprint, not_after));
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_with_few_buckets_is_laid_out_and_one_with_many_gaps_is_searched() {
        let segment = Segment::build(&[7], 0);
        let rows = |indexes: &[u32]| {
            let bucket = |index: &u32| Bucket::from_wire(Span::Week as u8, *index).unwrap();
            let held: Vec<_> = indexes.iter().map(|index| (bucket(index), segment.clone())).collect();
            Rows::of(&held)
        };
        let (near, far) = (rows(&[3_000, 3_100]), rows(&[3_000, 419_000]));
        assert!(!near.rows[0].is_searched && near.filters.len() == 102 && near.numbers.is_empty());
        assert!(far.rows[0].is_searched && far.filters.len() == 3);
        let end = |index: i64| UnixTime::from_millis(index * WIDTHS[2] + 5);
        assert!(far.may_list(7, end(419_000)) && !far.may_list(7, end(3_001)) && near.may_list(7, end(3_100)));
    }
}
