//! The road of nearly every look-up: from an issuer and an end to the one block of a filter, by arithmetic alone.
//!
//! Only issuers that are covered and whose serials need no hash have a road, so whoever finds one need not ask. A bucket between the
//! first and the last of its span that has no segment has a filter without a bit, and so has whatever lies beyond them: a gap costs
//! what a bucket costs.

use mintage_identity::{IssuerKeyId, UnixTime};
use mintage_sys::map::ReadWord;

use crate::{
    SerialKind,
    bucket::{Bucket, Span, Width},
    segment::{Filter, Segment, may_contain},
    view_issuer::ViewIssuer,
    words::BLOCK_WORDS,
};

/// Places for each road: with so many the first one looked at is mostly the right one.
const PLACES_EACH: usize = 2;
/// Buckets of a row for each segment in it, beyond [`DENSE_MIN`]. A row with more gaps than that is not laid out bucket by bucket
/// but searched.
const DENSE_PER_SEGMENT: u64 = 8;
/// Buckets that any row may have: the minutes of a day.
const DENSE_MIN: u64 = 1_440;

/// The roads of a view.
#[derive(Default)]
pub(crate) struct Roads {
    /// By the first octets of the key id, which is a hash already. Behind the places that an id may name there is one for each road
    /// more, and an empty one: whoever goes on from any place comes to an end.
    places: Vec<Road>,
    shift: u32,
}

/// The filters of one issuer.
pub(crate) struct Road {
    id: IssuerKeyId,
    row: Row,
    /// The rows of other spans, and those that are searched.
    more: Vec<Row>,
}

/// The filters of one span.
struct Row {
    width: Width,
    /// Number of the first bucket in its span.
    first: u64,
    /// Those from the first to the last bucket, then one without a bit. A place without a road has not even that.
    filters: Vec<Filter>,
    /// Of a row that is searched: the numbers of the buckets.
    numbers: Vec<u64>,
}

impl Roads {
    pub(crate) fn of(issuers: &[ViewIssuer]) -> Self {
        let plain = issuers.iter().filter(|issuer| Road::is_for(issuer));
        let count = plain.clone().count();
        // At least two, so that the shift is below the width of a word.
        let named = (count * PLACES_EACH).next_power_of_two().max(2);
        let mut roads = Self {
            places: (0..named + count + 1).map(|_| Road::none()).collect(),
            shift: u64::BITS - named.ilog2(),
        };
        for issuer in plain {
            let begin = roads.begin(&issuer.id);
            let mut places = roads.places.iter_mut().skip(begin);
            // There is one: as many as there are roads lie behind the last that an id names.
            if let Some(free) = places.find(|road| road.is_none()) {
                *free = Road::of(issuer.id, issuer.segments());
            }
        }
        roads
    }

    #[inline(always)]
    fn begin(&self, id: &IssuerKeyId) -> usize {
        let mut first = [0; 8];
        first.copy_from_slice(&id.as_bytes()[..8]);
        first_bits(u64::from_le_bytes(first), self.shift)
    }

    /// The road of this issuer.
    #[inline(always)]
    pub(crate) fn find(&self, id: &IssuerKeyId) -> Option<&Road> {
        let road = self.places.get(self.begin(id))?;
        match road.is_of(id) {
            true => Some(road),
            false => self.find_behind(id),
        }
    }

    #[cold]
    #[inline(never)]
    fn find_behind(&self, id: &IssuerKeyId) -> Option<&Road> {
        let behind = self.places.get(self.begin(id)..)?.iter();
        behind.take_while(|road| !road.is_none()).find(|road| road.is_of(id))
    }
}

/// The uppermost bits of a number, all but `shift`.
#[inline(always)]
fn first_bits(number: u64, shift: u32) -> usize {
    number.wrapping_shr(shift) as usize
}

impl Road {
    /// The road of nobody: whoever has its id meets no filter, not even an empty one, and is let through by none.
    fn none() -> Self {
        Self {
            id: IssuerKeyId::new([0; 32]),
            row: Row {
                width: Width::default(),
                first: 0,
                filters: Vec::new(),
                numbers: Vec::new(),
            },
            more: Vec::new(),
        }
    }

    /// True when it leads to the filters of this issuer.
    #[inline(always)]
    pub(crate) fn is_of(&self, id: &IssuerKeyId) -> bool {
        self.id == *id
    }

    fn is_none(&self) -> bool {
        self.row.filters.is_empty()
    }

    /// True for an issuer that is covered and whose serials need no hash. What ended before 1970 shares the first bucket of each
    /// span, which arithmetic does not know: nobody who has it is given a road, and nobody has it but before the first horizon.
    fn is_for(issuer: &ViewIssuer) -> bool {
        let is_first = |bucket: &Bucket| bucket.index() == 0 && bucket.span() != Span::Forever;
        issuer.covered
            && issuer.kind == SerialKind::Native
            && !issuer.segments().iter().any(|(bucket, _)| is_first(bucket))
    }

    /// Lays out `segments`, which are sorted.
    fn of(id: IssuerKeyId, segments: &[(Bucket, Segment)]) -> Self {
        let spans = segments.chunk_by(|(one, _), (next, _)| one.span() == next.span());
        let mut more: Vec<Row> = spans.filter_map(Row::of).collect();
        let dense = more.iter().position(|row| row.numbers.is_empty());
        let row = match dense {
            Some(dense) => more.remove(dense),
            None => Row::empty(),
        };
        Self { id, row, more }
    }

    /// False when no filter for this end has `fingerprint`; true when one may have it.
    #[inline(always)]
    pub(crate) fn may_list(&self, fingerprint: u64, not_after: UnixTime) -> bool {
        let millis = not_after.millis() as u64;
        // Were there no block, that would be no reason to let anybody pass.
        let block = self.row.block(fingerprint, millis);
        block.is_none_or(|block| may_contain(block, fingerprint))
            || (!self.more.is_empty() && self.may_list_elsewhere(fingerprint, millis))
    }

    #[inline(never)]
    fn may_list_elsewhere(&self, fingerprint: u64, millis: u64) -> bool {
        self.more.iter().any(|row| {
            let block = match row.numbers.is_empty() {
                true => row.block(fingerprint, millis),
                false => row.block_by_search(fingerprint, millis),
            };
            block.is_none_or(|block| may_contain(block, fingerprint))
        })
    }

    /// The one block that [`Self::may_list`] looks at; `None` when there are several.
    #[inline(always)]
    pub(crate) fn only_block(&self, fingerprint: u64, not_after: UnixTime) -> Option<&[ReadWord; BLOCK_WORDS]> {
        match self.more.is_empty() {
            true => self.row.block(fingerprint, not_after.millis() as u64),
            false => None,
        }
    }
}

impl Row {
    /// A row without a bucket.
    fn empty() -> Self {
        Self {
            width: Width::default(),
            first: 0,
            filters: vec![Filter::empty()],
            numbers: Vec::new(),
        }
    }

    /// The row of one span.
    fn of(held: &[(Bucket, Segment)]) -> Option<Self> {
        let ((first, _), (last, _)) = (held.first()?, held.last()?);
        let buckets = u64::from(last.index() - first.index()) + 1;
        let mut row = Self {
            width: Width::of(first.span()),
            first: u64::from(first.index()),
            filters: Vec::new(),
            numbers: Vec::new(),
        };
        let empty = Filter::empty();
        if buckets > DENSE_MIN + DENSE_PER_SEGMENT * held.len() as u64 {
            row.numbers = held.iter().map(|(bucket, _)| u64::from(bucket.index())).collect();
        }
        for (bucket, segment) in held {
            if row.numbers.is_empty() {
                let gap = (bucket.index() - first.index()) as usize;
                row.filters.resize(gap, empty.clone());
            }
            row.filters.push(segment.filter());
        }
        row.filters.push(empty);
        Some(row)
    }

    #[inline(always)]
    fn block(&self, fingerprint: u64, millis: u64) -> Option<&[ReadWord; BLOCK_WORDS]> {
        let (empty, held) = self.filters.split_last()?;
        let off = self.width.index(millis).wrapping_sub(self.first);
        held.get(off as usize).unwrap_or(empty).block(fingerprint)
    }

    fn block_by_search(&self, fingerprint: u64, millis: u64) -> Option<&[ReadWord; BLOCK_WORDS]> {
        let (empty, held) = self.filters.split_last()?;
        let found = self.numbers.binary_search(&self.width.index(millis)).ok();
        let filter = found.and_then(|at| held.get(at)).unwrap_or(empty);
        filter.block(fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::body::BodyIssuer;

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
            let road = Road::of(IssuerKeyId::new([1; 32]), &segments.clone().into_iter().collect::<Vec<_>>());
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
            let has_first = held.keys().any(|bucket| bucket.index() == 0 && bucket.span() != Span::Forever);
            for at in instants {
                // A road is not for those who hold what ended before 1970.
                let not_after = UnixTime::from_millis(if has_first { at.max(0) } else { at });
                let of: Vec<&Segment> = Bucket::all_for(not_after).filter_map(|bucket| segments.get(&bucket)).collect();
                for &fingerprint in &asked {
                    let meets = |segment: &&Segment| {
                        segment.filter().block(fingerprint).is_some_and(|block| may_contain(block, fingerprint))
                    };
                    prop_assert_eq!(
                        road.may_list(fingerprint, not_after), of.iter().any(meets), "{:?} {:x}", not_after, fingerprint
                    );
                    if let Some(block) = road.only_block(fingerprint, not_after) {
                        prop_assert_eq!(may_contain(block, fingerprint), road.may_list(fingerprint, not_after));
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
            Road::of(IssuerKeyId::new([1; 32]), &held)
        };
        let (near, far) = (rows(&[3_000, 3_100]), rows(&[3_000, 419_000]));
        assert!(near.more.is_empty() && near.row.filters.len() == 102 && near.row.numbers.is_empty());
        assert!(far.more[0].numbers.len() == 2 && far.more[0].filters.len() == 3 && far.row.filters.len() == 1);
        let end = |index: i64| UnixTime::from_millis(index * WIDTHS[2] + 5);
        assert!(far.may_list(7, end(419_000)) && !far.may_list(7, end(3_001)) && near.may_list(7, end(3_100)));
    }

    fn issuer(id: [u8; 32], covered: bool) -> ViewIssuer {
        ViewIssuer::new(&BodyIssuer {
            id: IssuerKeyId::new(id),
            covered,
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
    fn every_covered_issuer_has_its_road_and_no_other_though_their_ids_begin_alike() {
        for count in [0, 1, 2, 3, 5, 64, 700] {
            for alike in [0, 4, 6, 8, 28] {
                let issuers: Vec<ViewIssuer> = (0..count).map(|n| issuer(id(n, alike), n % 5 != 3)).collect();
                let roads = Roads::of(&issuers);
                for n in 0..count + 3 {
                    let wanted = IssuerKeyId::new(id(n, alike));
                    let found = roads.find(&wanted).map(|road| road.id);
                    let expected = (n < count && n % 5 != 3).then_some(wanted);
                    assert_eq!(found, expected, "{n} of {count}, {alike} octets alike");
                }
                // The id of an empty place leads nowhere.
                let nobody = roads.find(&IssuerKeyId::new([0; 32]));
                assert!(nobody.is_none_or(|road| road.may_list(1, UnixTime::from_millis(1))));
            }
        }
        assert!(Roads::default().find(&IssuerKeyId::new([0; 32])).is_none());
    }
}
