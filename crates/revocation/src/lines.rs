//! Exact confirmation of a filter hit: 64-byte lines of tags. A Bloom filter alone would let one tenant fill a victim's
//! block with its own revoked serials; the lines tell the victim's fingerprint from all others.
//!
//! A fingerprint's top 32 bits choose its line; when that is full it goes to the next with room. Wide tables hold the
//! whole fingerprint in a word (8 per line). Packed ones, for many serials, hold its low 40 bits (12 per line), which are
//! still exact: a fingerprint goes at most [`WALK`] lines on, and all that may lie in one line span less than 2^40.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{
    fingerprint::{BITS, MASK},
    words::{LINE_WORDS, Word},
};

/// Lines looked at before a packed table counts as full; a wide one is full when every line is.
const WALK: u32 = 24;
/// Fewest lines of a packed table: `WALK` lines then span less than 2^40 fingerprints.
const PACKED_LINES_MIN: u32 = 8_192;
const _: () = assert!((WALK as u64) * ((1 << BITS) / PACKED_LINES_MIN as u64 + (1 << 16)) <= TAG_MASK);
/// Mark of a used word in a wide line.
const USED: u64 = 1 << 63;
const WIDE_SLOTS: usize = 8;
const PACKED_SLOTS: usize = 12;
const TAG_OCTETS: usize = 5;
const TAG_MASK: u64 = (1 << (8 * TAG_OCTETS)) - 1;
const TAG_BITS: usize = 8 * TAG_OCTETS;
/// Octet of a packed line that holds the number of tags.
const COUNT_AT: usize = PACKED_SLOTS * TAG_OCTETS;
/// Where that octet lies in the line's last word.
const COUNT_SHIFT: usize = 8 * (COUNT_AT % 8);
/// Fingerprints per line for which a table is made; more would walk too often.
const WIDE_LOAD: usize = 5;
const PACKED_LOAD: usize = 9;

/// The form of a table's lines. The values are those of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum LineKind {
    Wide = 1,
    Packed = 2,
}

/// Form and number of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LineShape {
    pub(crate) kind: LineKind,
    pub(crate) lines: u32,
}

/// The table has no room near the line of the fingerprint: it must be made anew, larger.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl LineShape {
    /// A shape with room for about `count` fingerprints.
    pub(crate) fn for_count(count: usize) -> Self {
        let packed = u32::try_from(count.div_ceil(PACKED_LOAD)).unwrap_or(u32::MAX);
        if packed >= PACKED_LINES_MIN {
            return Self {
                kind: LineKind::Packed,
                lines: packed,
            };
        }
        Self::wide_for(count)
    }

    /// Reads the form of a map; refuses what could not be exact.
    pub(crate) fn from_parts(kind: u8, lines: u32) -> Option<Self> {
        let (kind, least) = match kind {
            1 => (LineKind::Wide, 1),
            2 => (LineKind::Packed, PACKED_LINES_MIN),
            _ => return None,
        };
        (lines >= least).then_some(Self { kind, lines })
    }

    /// A wide shape for `count` fingerprints: it takes any, even such that share one line.
    pub(crate) fn wide_for(count: usize) -> Self {
        Self {
            kind: LineKind::Wide,
            lines: u32::try_from(count.div_ceil(WIDE_LOAD)).unwrap_or(u32::MAX).max(1),
        }
    }

    pub(crate) fn words(self) -> usize {
        self.lines as usize * LINE_WORDS
    }

    fn home(self, fingerprint: u64) -> u32 {
        // Both factors have at most 32 bits.
        (((fingerprint >> 16) * u64::from(self.lines)) >> 32) as u32
    }

    fn walk(self, fingerprint: u64) -> impl Iterator<Item = usize> {
        let (home, lines) = (u64::from(self.home(fingerprint)), u64::from(self.lines));
        let steps = match self.kind {
            LineKind::Wide => lines,
            LineKind::Packed => u64::from(WALK).min(lines),
        };
        let mut at = home;
        (0..steps).map(move |_| {
            let line = at;
            at = if at + 1 < lines { at + 1 } else { 0 };
            line as usize
        })
    }

    /// True when the table holds `fingerprint`.
    pub(crate) fn contains<W: Word>(self, words: &[W], fingerprint: u64) -> bool {
        for line in self.walk(fingerprint) {
            let Some(line) = line_of(words, line) else { return false };
            let (found, full) = match self.kind {
                LineKind::Wide => find_wide(line, fingerprint),
                LineKind::Packed => find_packed(line, fingerprint),
            };
            if found || !full {
                return found;
            }
        }
        false
    }

    /// Adds `fingerprint`, which the table does not hold. Only one thread may add; readers may look meanwhile and see
    /// the table before or after.
    pub(crate) fn insert(self, words: &[AtomicU64], fingerprint: u64) -> Result<(), Full> {
        for line in self.walk(fingerprint) {
            let line = line_of(words, line).ok_or(Full)?;
            let stored = match self.kind {
                LineKind::Wide => insert_wide(line, fingerprint),
                LineKind::Packed => insert_packed(line, fingerprint),
            };
            if stored {
                return Ok(());
            }
        }
        Err(Full)
    }

    /// Every fingerprint in the table, in no order.
    pub(crate) fn fingerprints<W: Word>(self, words: &[W]) -> Vec<u64> {
        let mut all = Vec::new();
        for (at, line) in words.chunks_exact(LINE_WORDS).enumerate() {
            match self.kind {
                LineKind::Wide => all.extend(line.iter().map(Word::read).filter(|&w| w != 0)),
                LineKind::Packed => {
                    let octets = octets_of(line);
                    let tags = (0..usize::from(octets[COUNT_AT]).min(PACKED_SLOTS)).map(|slot| tag_at(&octets, slot));
                    let lowest = self.lowest_in(at);
                    all.extend(tags.map(|tag| (lowest + (tag.wrapping_sub(lowest) & TAG_MASK)) & MASK));
                }
            }
        }
        all.iter_mut().for_each(|fingerprint| *fingerprint &= MASK);
        all
    }

    /// The smallest fingerprint, counted around the end, that may have walked to line `at`.
    fn lowest_in(self, at: usize) -> u64 {
        let lines = u64::from(self.lines);
        let first = (at as u64 + lines - u64::from(WALK - 1)) % lines;
        ((first << 32).div_ceil(lines)) << 16
    }
}

fn line_of<W>(words: &[W], line: usize) -> Option<&[W]> {
    words.get(line * LINE_WORDS..(line + 1) * LINE_WORDS)
}

fn find_wide<W: Word>(line: &[W], fingerprint: u64) -> (bool, bool) {
    let wanted = fingerprint | USED;
    let mut found = false;
    let mut full = true;
    for word in line {
        let word = word.read();
        found |= word == wanted;
        full &= word != 0;
    }
    (found, full)
}

fn insert_wide(line: &[AtomicU64], fingerprint: u64) -> bool {
    let free = line[..WIDE_SLOTS].iter().find(|w| w.load(Ordering::Relaxed) == 0);
    if let Some(word) = free {
        word.store(fingerprint | USED, Ordering::Release);
    }
    free.is_some()
}

/// The last word, which holds the count, is read first and written last: a reader never sees a count without its tags.
fn octets_of<W: Word>(line: &[W]) -> [u8; 64] {
    let mut octets = [0; 64];
    for (at, word) in line.iter().enumerate().rev() {
        octets[8 * at..8 * at + 8].copy_from_slice(&word.read().to_le_bytes());
    }
    octets
}

fn tag_at(octets: &[u8; 64], slot: usize) -> u64 {
    let mut tag = [0; 8];
    tag[..TAG_OCTETS].copy_from_slice(&octets[slot * TAG_OCTETS..(slot + 1) * TAG_OCTETS]);
    u64::from_le_bytes(tag)
}

fn find_packed<W: Word>(line: &[W], fingerprint: u64) -> (bool, bool) {
    let Some(line) = line.first_chunk::<LINE_WORDS>() else {
        return (false, false);
    };
    // The last word, which holds the count, first: a reader never sees a count without its tags.
    let last = line[LINE_WORDS - 1].read();
    let words: [u64; LINE_WORDS] = std::array::from_fn(|at| if at + 1 < LINE_WORDS { line[at].read() } else { last });
    let count = ((last >> COUNT_SHIFT) & 0xff) as usize;
    let wanted = fingerprint & TAG_MASK;
    // All slots, without a branch: the tags lie one after the other in the bits of the words.
    let mut found = false;
    for slot in 0..PACKED_SLOTS {
        let (word, shift) = place_of(slot);
        let mut tag = words[word] >> shift;
        if shift + TAG_BITS > 64 {
            tag |= words[word + 1] << (64 - shift);
        }
        found |= (tag & TAG_MASK == wanted) & (slot < count);
    }
    (found, count >= PACKED_SLOTS)
}

fn insert_packed(line: &[AtomicU64], fingerprint: u64) -> bool {
    let Some(line) = line.first_chunk::<LINE_WORDS>() else {
        return false;
    };
    let last = &line[LINE_WORDS - 1];
    let count = ((last.load(Ordering::Relaxed) >> COUNT_SHIFT) & 0xff) as usize;
    if count >= PACKED_SLOTS {
        return false;
    }
    // Only one thread adds, and a slot that is not counted is zero.
    let put = |word: &AtomicU64, bits: u64| word.store(word.load(Ordering::Relaxed) | bits, Ordering::Release);
    let (tag, (word, shift)) = (fingerprint & TAG_MASK, place_of(count));
    put(&line[word], tag << shift);
    if shift + TAG_BITS > 64 {
        put(&line[word + 1], tag >> (64 - shift));
    }
    // The count at the end: a reader never sees it without the tag.
    let counted = last.load(Ordering::Relaxed) + (1 << COUNT_SHIFT);
    last.store(counted, Ordering::Release);
    true
}

/// Word and bit at which the tag of a slot begins; it may end in the next word.
fn place_of(slot: usize) -> (usize, usize) {
    (slot * TAG_BITS / 64, slot * TAG_BITS % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use mintage_sys::map::Words;

    use super::*;

    /// SplitMix64, so that a failure repeats.
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) & MASK
    }

    fn exact_for(shape: LineShape, count: usize) {
        let words = Words::zeroed(shape.words());
        let words = words.own().unwrap();
        let mut state = 1;
        let mut held = HashSet::new();
        // Both ends of the range wrap or border on the last line.
        for edge in [0, 1, MASK, MASK - 1, MASK << 16 & MASK] {
            if held.insert(edge) {
                shape.insert(words, edge).unwrap();
            }
        }
        while held.len() < count {
            let fingerprint = random(&mut state);
            if !held.contains(&fingerprint) && shape.insert(words, fingerprint).is_ok() {
                held.insert(fingerprint);
            }
        }
        assert!(held.iter().all(|&f| shape.contains(words, f)));
        // Neighbours that share 40 low bits or the line are told apart.
        for &f in held.iter().take(2_000) {
            for other in [
                f ^ 1,
                f ^ 1 << 16,
                f ^ 1 << 40,
                f ^ 1 << 47,
                f.wrapping_add(1 << 41) & MASK,
            ] {
                assert_eq!(shape.contains(words, other), held.contains(&other), "{f:x} {other:x}");
            }
        }
        assert_eq!(shape.fingerprints(words).into_iter().collect::<HashSet<_>>(), held);
    }

    #[test]
    fn wide_lines_are_exact() {
        exact_for(LineShape::for_count(1_000), 1_000);
        exact_for(
            LineShape {
                kind: LineKind::Wide,
                lines: 2,
            },
            12,
        );
    }

    #[test]
    fn packed_lines_are_exact() {
        let shape = LineShape::for_count(90_000);
        assert_eq!(shape.kind, LineKind::Packed);
        exact_for(shape, 88_000);
    }

    #[test]
    fn a_full_table_says_so_and_stays_whole() {
        let shape = LineShape {
            kind: LineKind::Wide,
            lines: 1,
        };
        let words = Words::zeroed(shape.words());
        let words = words.own().unwrap();
        for fingerprint in 0..8 {
            shape.insert(words, fingerprint).unwrap();
        }
        assert_eq!(shape.insert(words, 8), Err(Full));
        assert!((0..8).all(|f| shape.contains(words, f)) && !shape.contains(words, 8));
    }

    #[test]
    fn a_table_too_small_to_be_exact_is_refused() {
        assert!(LineShape::from_parts(2, PACKED_LINES_MIN - 1).is_none());
        assert!(LineShape::from_parts(1, 0).is_none() && LineShape::from_parts(3, 9_000).is_none());
        assert!(LineShape::from_parts(2, PACKED_LINES_MIN).is_some());
    }
}
