//! One segment: the revoked serials of one issuer in one expiry bucket, as a split-block Bloom filter with exact lines.
//!
//! Most certificates are answered "no" by the one 256-bit block of the filter; only a hit goes to the lines.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering, fence},
    },
};

use mintage_sys::map::{Groups, ReadWord, Words};

use crate::{
    RevocationError,
    fingerprint::MASK,
    limits::RECENT_SERIALS_MAX,
    lines::{Full, LineShape},
    rice::{Run, malformed},
    words::{BLOCK_WORDS, LINE_WORDS, Word},
};

/// Filter bits per serial: 13 give about 5 false hits in 1,000, each settled by the lines.
const BITS_PER_SERIAL: usize = 13;
/// Bits of a fingerprint that choose one bit in a word of the block.
const BIT_OF_WORD: u32 = 6;

/// Sizes of a segment: everything a reader needs besides the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) blocks: u32,
    pub(crate) lines: LineShape,
}

impl Shape {
    pub(crate) fn for_count(count: usize) -> Self {
        let blocks = (count * BITS_PER_SERIAL).div_ceil(256).max(1);
        Self {
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            lines: LineShape::for_count(count),
        }
    }

    fn wide_for(count: usize) -> Self {
        let lines = LineShape::wide_for(count);
        Self {
            lines,
            ..Self::for_count(count)
        }
    }

    /// Words of the filter, rounded up so that the lines start on a cache line.
    fn filter_words(self) -> usize {
        (self.blocks as usize * BLOCK_WORDS).next_multiple_of(LINE_WORDS)
    }

    pub(crate) fn words(self) -> usize {
        self.filter_words() + self.lines.words()
    }

    /// True when `words` (of this shape) hold `fingerprint`.
    #[inline]
    pub(crate) fn contains<W: Word>(self, words: &[W], fingerprint: u64) -> bool {
        self.block(words, fingerprint)
            .is_some_and(|block| may_contain(block, fingerprint))
            && self.confirm(words, fingerprint)
    }

    /// The exact answer about what the filter may contain.
    fn confirm<W: Word>(self, words: &[W], fingerprint: u64) -> bool {
        // Whoever set the filter's bits wrote the line before.
        fence(Ordering::Acquire);
        words
            .get(self.filter_words()..)
            .is_some_and(|lines| self.lines.contains(lines, fingerprint))
    }

    /// Adds `fingerprint`; true when it is new. Only one thread may add. The line is written before the filter's bits:
    /// a reader sees the serial wholly or not at all.
    pub(crate) fn insert(self, words: &[AtomicU64], fingerprint: u64) -> Result<bool, Full> {
        if self.contains(words, fingerprint) {
            return Ok(false);
        }
        self.lines
            .insert(words.get(self.filter_words()..).ok_or(Full)?, fingerprint)?;
        let block = self.block(words, fingerprint).ok_or(Full)?;
        for (at, word) in block.iter().enumerate() {
            let bit = 1_u64.wrapping_shl(bit_of(fingerprint, at));
            word.store(word.load(Ordering::Relaxed) | bit, Ordering::Release);
        }
        Ok(true)
    }

    /// Adds what is new; how many that were.
    fn insert_all(self, words: &[AtomicU64], fingerprints: &[u64]) -> Result<usize, Full> {
        let mut new = 0;
        for &fingerprint in fingerprints {
            new += usize::from(self.insert(words, fingerprint & MASK)?);
        }
        Ok(new)
    }

    fn block<W>(self, words: &[W], fingerprint: u64) -> Option<&[W; BLOCK_WORDS]> {
        block_in(words.as_chunks().0.get(..self.blocks as usize)?, fingerprint)
    }

    /// The fingerprints held by `words`, in no order.
    pub(crate) fn fingerprints<W: Word>(self, words: &[W]) -> Vec<u64> {
        self.lines
            .fingerprints(words.get(self.filter_words()..).unwrap_or_default())
    }
}

/// The one of `blocks`, of which there are less than 2^32, that `fingerprint` is looked for in.
#[inline(always)]
fn block_in<W>(blocks: &[[W; BLOCK_WORDS]], fingerprint: u64) -> Option<&[W; BLOCK_WORDS]> {
    // Its upper 32 bits, and another factor of as many at most.
    let at = (u64::from((fingerprint >> 16) as u32) * blocks.len() as u64) >> 32;
    blocks.get(at as usize)
}

/// The Bloom filter's answer by its block for `fingerprint`: false is certain, true is not.
#[inline(always)]
pub(crate) fn may_contain<W: Word>(block: &[W; BLOCK_WORDS], fingerprint: u64) -> bool {
    // All four words whatever the first says: a branch for each would be guessed wrongly too often.
    let words = block.iter().enumerate();
    words.fold(1, |held, (at, word)| {
        held & word.glance().wrapping_shr(bit_of(fingerprint, at))
    }) & 1
        == 1
}

/// The bit of word `word` of a block that `fingerprint` sets: its low 24 bits choose all four, where its top 32 bits choose the
/// block. Both are uniform, and for fewer than 60 M serials they do not depend on one another.
#[inline]
fn bit_of(fingerprint: u64, word: usize) -> u32 {
    // The shift masks to six bits.
    (fingerprint >> (BIT_OF_WORD * word as u32)) as u32
}

/// A segment. Clones share its words, and those that only gained serials do too: whoever still holds an earlier one may see
/// later serials in it, and never one less.
#[derive(Clone)]
pub(crate) struct Segment {
    shape: Shape,
    words: Words,
    count: usize,
    /// Serials for which the shape was made.
    room: usize,
    tip: Arc<Mutex<Tip>>,
}

/// The newest of the segments that share their words: it alone may be added to in place.
#[derive(Debug, Default)]
struct Tip {
    /// Serials in the words.
    count: usize,
    /// The last of them, in the order they were added.
    recent: VecDeque<u64>,
}

/// What the look-up of a certificate needs of a segment, or of a bucket that has none: there it has no bit.
#[derive(Clone)]
pub(crate) struct Filter(Groups<BLOCK_WORDS>);

impl Filter {
    /// The filter of what has no segment.
    pub(crate) fn empty() -> Self {
        Self(Groups::of(&Words::zeroed(BLOCK_WORDS), 1))
    }

    /// The block that `fingerprint` is looked for in; there always is one.
    #[inline(always)]
    pub(crate) fn block(&self, fingerprint: u64) -> Option<&[ReadWord; BLOCK_WORDS]> {
        block_in(self.0.get(), fingerprint)
    }
}

impl Segment {
    /// A segment of `fingerprints`, with room for `more`.
    pub(crate) fn build(fingerprints: &[u64], more: usize) -> Self {
        let all = fingerprints.iter().map(|&fingerprint| Ok::<_, Infallible>(fingerprint));
        let Ok(segment) = Self::of(all, fingerprints.len() + more);
        segment
    }

    /// A segment of what is read from `run`, with room for `more`. Nothing but the segment takes memory.
    pub(crate) fn read(run: Run<'_>, more: usize) -> Result<Self, RevocationError> {
        Self::of(run.values(), run.count() + more).map_err(malformed)
    }

    fn of<E>(all: impl Iterator<Item = Result<u64, E>> + Clone, room: usize) -> Result<Self, E> {
        // A packed table may have no room near one line though it has elsewhere; a little larger it has. What is not
        // spread evenly even then goes to a wide table, which takes anything.
        let packed = (0..4).map(|step| Shape::for_count(room + room / 16 * step));
        for shape in packed.chain([Shape::wide_for(room)]) {
            if let Some(segment) = Self::filled(shape, all.clone(), room)? {
                return Ok(segment);
            }
        }
        unreachable!("a wide table has more slots than it is made for")
    }

    fn filled<E>(shape: Shape, all: impl Iterator<Item = Result<u64, E>>, room: usize) -> Result<Option<Self>, E> {
        let words = Words::zeroed(shape.words());
        let own = words.own().unwrap_or_default();
        let mut count = 0;
        for fingerprint in all {
            match shape.insert(own, fingerprint? & MASK) {
                Ok(new) => count += usize::from(new),
                Err(Full) => return Ok(None),
            }
        }
        Ok(Some(Self {
            shape,
            words,
            count,
            room,
            tip: Tip::at(count),
        }))
    }

    /// A segment whose words lie in a map. `words` must have the shape's length.
    pub(crate) fn mapped(shape: Shape, words: Words, count: usize) -> Self {
        Self {
            shape,
            words,
            count,
            room: 0,
            tip: Tip::at(count),
        }
    }

    /// This segment with `fingerprints` too: in place where there is room and `add` allows it, else as a copy.
    pub(crate) fn with(&self, fingerprints: &[u64], add: Add) -> Self {
        let wanted = self.count + fingerprints.len();
        let here = (add == Add::InPlace && wanted <= self.room).then(|| self.added_in_place(fingerprints));
        here.flatten().unwrap_or_else(|| {
            let mut all = self.fingerprints();
            all.extend_from_slice(fingerprints);
            Self::build(&all, headroom(wanted))
        })
    }

    /// `None` when another segment was made of this one already, and when there is no room near a line.
    fn added_in_place(&self, fingerprints: &[u64]) -> Option<Self> {
        let words = self.words.own()?;
        let mut tip = self.tip.lock().unwrap_or_else(PoisonError::into_inner);
        if tip.count != self.count {
            return None;
        }
        for &fingerprint in fingerprints {
            if self.shape.insert(words, fingerprint & MASK).ok()? {
                tip.push(fingerprint & MASK);
            }
        }
        Some(Self {
            count: tip.count,
            ..self.clone()
        })
    }

    /// True when it holds `fingerprint`; a hit of the filter that the lines refute is counted.
    pub(crate) fn contains_counted(&self, fingerprint: u64, refuted: &AtomicU64) -> bool {
        let words = self.words.get();
        let block = self.shape.block(words, fingerprint);
        if !block.is_some_and(|block| may_contain(block, fingerprint)) {
            return false;
        }
        let held = self.shape.confirm(words, fingerprint);
        if !held {
            refuted.fetch_add(1, Ordering::Relaxed);
        }
        held
    }

    /// What look-ups go by.
    pub(crate) fn filter(&self) -> Filter {
        Filter(Groups::of(&self.words, self.shape.blocks as usize))
    }

    pub(crate) fn fingerprints(&self) -> Vec<u64> {
        self.shape.fingerprints(self.words.get())
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Words of the filter, the lines apart.
    pub(crate) fn filter_words(&self) -> usize {
        self.shape.filter_words()
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// True when `self` is `earlier` with nothing but additions: the words of one may be laid over the other's.
    pub(crate) fn continues(&self, earlier: &Self) -> bool {
        Arc::ptr_eq(&self.tip, &earlier.tip)
    }

    /// Brings `to`, which holds the words of `earlier`, up to this segment, which continues it: serial by serial while these
    /// are known, else word by word.
    pub(crate) fn store_since(&self, earlier: &Self, to: &[AtomicU64]) {
        let missing = self.count.saturating_sub(earlier.count);
        let tip = self.tip.lock().unwrap_or_else(PoisonError::into_inner);
        // The words may be ahead of this segment, and so may `to`: that strikes what is about to be struck.
        let behind = missing + tip.count.saturating_sub(self.count);
        let known = tip.recent.len().checked_sub(behind);
        let known: Option<Vec<u64>> = known.map(|from| tip.recent.range(from..).copied().collect());
        drop(tip);
        if known.is_none_or(|new| self.shape.insert_all(to, &new).is_err()) {
            self.store_into(to);
        }
    }

    /// Stores the words into `to`, of the same length, where they differ: first the lines, then the filter's bits, so
    /// that a reader sees each new serial wholly or not at all.
    pub(crate) fn store_into(&self, to: &[AtomicU64]) {
        let from = self.words.get();
        let filter = self.shape.filter_words().min(from.len()).min(to.len());
        let pairs = to[filter..].iter().zip(&from[filter..]);
        for (to, from) in pairs.chain(to[..filter].iter().zip(&from[..filter])) {
            let value = from.glance();
            if to.load(Ordering::Relaxed) != value {
                to.store(value, Ordering::Release);
            }
        }
    }
}

/// How serials are added to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Add {
    /// Where whoever reads the segment meanwhile may see them at once.
    InPlace,
    /// Not before what goes with them is seen too.
    Apart,
}

impl Tip {
    fn at(count: usize) -> Arc<Mutex<Self>> {
        let recent = VecDeque::new();
        Arc::new(Mutex::new(Self { count, recent }))
    }

    fn push(&mut self, fingerprint: u64) {
        self.count += 1;
        if self.recent.len() == RECENT_SERIALS_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(fingerprint);
    }
}

/// Room to leave when a segment of `count` grows, so that growing costs little per serial.
pub(crate) fn headroom(count: usize) -> usize {
    count / 4 + 8
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_segment_answers_like_a_set(
            first in proptest::collection::vec(0..=MASK, 0..400),
            then in proptest::collection::vec(proptest::collection::vec(0..=MASK, 0..60), 0..6),
            asked in proptest::collection::vec(0..=MASK, 0..200),
        ) {
            let mut segment = Segment::build(&first, 0);
            let mut oracle: HashSet<u64> = first.iter().copied().collect();
            for more in &then {
                let before = segment.clone();
                let apart = segment.with(more, Add::Apart);
                prop_assert_eq!(before.fingerprints().len(), oracle.len(), "what is added apart is not seen before");
                segment = segment.with(more, Add::InPlace);
                prop_assert!(oracle.iter().all(|&f| before.contains(f)), "a published segment loses nothing");
                // Whoever adds to a segment that was added to meanwhile gets a copy, and disturbs nobody.
                if segment.count() > before.count() {
                    let fork = before.with(&[1 << 40], Add::InPlace);
                    prop_assert!(fork.contains(1 << 40) && oracle.iter().all(|&f| fork.contains(f)));
                }
                oracle.extend(more);
                prop_assert!(oracle.iter().all(|&f| apart.contains(f)));
            }
            prop_assert_eq!(segment.count(), oracle.len());
            for fingerprint in oracle.iter().chain(&asked) {
                for near in [*fingerprint, fingerprint ^ 1, fingerprint ^ 1 << 47] {
                    prop_assert_eq!(segment.contains(near), oracle.contains(&near));
                }
            }
            prop_assert_eq!(segment.fingerprints().into_iter().collect::<HashSet<_>>(), oracle);
        }
    }

    impl Segment {
        fn contains(&self, fingerprint: u64) -> bool {
            self.contains_counted(fingerprint, &AtomicU64::new(0))
        }
    }

    /// The block of `fingerprint` and its bits in it.
    fn place(shape: Shape, fingerprint: u64) -> (u64, [u64; BLOCK_WORDS]) {
        let block = ((fingerprint >> 16) * u64::from(shape.blocks)) >> 32;
        let bit = |word| 1_u64.wrapping_shl(bit_of(fingerprint, word));
        (block, std::array::from_fn(bit))
    }

    #[test]
    fn a_tenant_who_revokes_its_own_serials_into_a_victims_block_does_not_strike_the_victim() {
        // SplitMix64 over a counter stands for the CSPRNG that picks serials.
        let serial = |n: u64| {
            let z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) & MASK
        };
        let honest: Vec<u64> = (0..100_000).map(serial).collect();
        let before = Segment::build(&honest, headroom(honest.len()));
        let (mut fooled, refuted) = (0, AtomicU64::new(0));
        for victim in (200_000..200_020).map(serial) {
            let (block, bits) = place(before.shape, victim);
            // Of two million certificates of its own the tenant revokes those that set a bit of the victim's in its block.
            let own = (1_000_000..3_000_000).map(serial);
            let chosen = own.filter(|&own| {
                let (at, set) = place(before.shape, own);
                at == block && set.iter().zip(bits).any(|(set, bits)| set & bits != 0)
            });
            let chosen: Vec<u64> = chosen.collect();
            let after = Segment::build(&[&honest[..], &chosen].concat(), headroom(honest.len()) - chosen.len());
            assert_eq!(after.shape, before.shape, "the attack stays inside the room left");
            let block = after.shape.block(after.words.get(), victim).unwrap();
            fooled += u64::from(may_contain(block, victim));
            assert!(
                !after.contains_counted(victim, &refuted),
                "the lines tell the victim from the tenant's serials"
            );
        }
        assert!(
            fooled >= 18,
            "a Bloom filter alone would strike nearly all of 20 victims, here {fooled}"
        );
        assert_eq!(
            refuted.load(Ordering::Relaxed),
            fooled,
            "each such hit is counted, and no other"
        );
        let held = before.contains_counted(honest[0], &refuted);
        assert!(held && refuted.load(Ordering::Relaxed) == fooled, "a true hit is none");
    }

    #[test]
    fn fingerprints_that_share_one_line_still_fit() {
        let crowded: Vec<u64> = (0..3_000).collect();
        let segment = Segment::build(&crowded, 0);
        assert!(crowded.iter().all(|&f| segment.contains(f)));
        assert!(!segment.contains(3_000));
    }
}
