//! Words that look-ups read, of this process or of a mapped file: the same for whoever reads, one pointer and a length.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ptr::NonNull,
    sync::{Arc, atomic::AtomicU64},
};

use super::{ReadMap, ReadWord};

/// A cache line of words: memory of this process is made of whole ones.
#[repr(C, align(64))]
struct Line([u64; 8]);

/// A run of 64-bit words that others may be storing to. Clones share it.
#[derive(Clone)]
pub struct Words {
    start: NonNull<AtomicU64>,
    len: usize,
    home: Home,
}

/// Whose words they are; keeps them in place.
#[derive(Clone)]
enum Home {
    Own(#[expect(dead_code, reason = "held for its drop")] Arc<Heap>),
    Map(#[expect(dead_code, reason = "held for its drop")] Arc<ReadMap>),
}

// SAFETY: the words are reached only as atomics, and stay where they are until the last clone is dropped by any thread.
unsafe impl Send for Words {}
// SAFETY: shared access gives only atomics, which any number of threads may use.
unsafe impl Sync for Words {}

impl Words {
    /// `len` zero words of this process; the first lies on a cache line of 64 bytes.
    pub fn zeroed(len: usize) -> Self {
        let heap = Heap::zeroed(len);
        Self {
            start: heap.start,
            len,
            home: Home::Own(Arc::new(heap)),
        }
    }

    /// `len` words of `map` from word `from` on; `None` when they go beyond its end.
    pub fn of_map(map: &Arc<ReadMap>, from: usize, len: usize) -> Option<Self> {
        let words = map.as_words().get(from..from.checked_add(len)?)?;
        Some(Self {
            start: NonNull::from(words).cast(),
            len,
            home: Home::Map(Arc::clone(map)),
        })
    }

    /// The words, for whoever looks.
    #[inline(always)]
    pub fn get(&self) -> &[ReadWord] {
        // SAFETY: `len` words from `start` on are initialised and stay where they are while `home` lives, which `self` holds;
        // others change them only as whole words. `ReadWord` is a transparent wrapper of `AtomicU64`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len) }
    }

    /// The words, for whoever stores; `None` when they are a map's.
    pub fn own(&self) -> Option<&[AtomicU64]> {
        match &self.home {
            // SAFETY: as in `get`; and memory of this process may be stored to.
            Home::Own(_) => Some(unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }),
            Home::Map(_) => None,
        }
    }
}

/// The first words of a run in whole groups of `N`: what looks at a group at once need not ask whether it ends too early.
#[derive(Clone)]
pub struct Groups<const N: usize> {
    start: NonNull<[AtomicU64; N]>,
    len: usize,
    #[expect(dead_code, reason = "held for its drop")]
    home: Home,
}

// SAFETY: as for `Words`.
unsafe impl<const N: usize> Send for Groups<N> {}
// SAFETY: as for `Words`.
unsafe impl<const N: usize> Sync for Groups<N> {}

impl<const N: usize> Groups<N> {
    /// The first `len` groups of `words`; none at all when there are not as many.
    pub fn of(words: &Words, len: usize) -> Self {
        let there_are = words.get().as_chunks::<N>().0.len() >= len;
        Self {
            start: words.start.cast(),
            len: if there_are { len } else { 0 },
            home: words.home.clone(),
        }
    }

    /// The groups, for whoever looks.
    #[inline(always)]
    pub fn get(&self) -> &[[ReadWord; N]] {
        // SAFETY: as in `Words::get`, of which these are the first `len * N` words; an array has the alignment of its words.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.len) }
    }
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let own = matches!(self.home, Home::Own(_));
        f.debug_struct("Words")
            .field("len", &self.len)
            .field("own", &own)
            .finish()
    }
}

/// Memory of this process, freed on drop.
struct Heap {
    start: NonNull<AtomicU64>,
    layout: Layout,
}

// SAFETY: it is reached only as atomics; whichever thread drops it last frees it.
unsafe impl Send for Heap {}
// SAFETY: it gives nothing away by itself.
unsafe impl Sync for Heap {}

impl Heap {
    fn zeroed(len: usize) -> Self {
        // At least one line: an allocation of no size is not defined.
        let lines = len.div_ceil(8).max(1);
        let Ok(layout) = Layout::array::<Line>(lines) else {
            handle_alloc_error(Layout::new::<Line>())
        };
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start.cast()) {
            Some(start) => Self { start, layout },
            None => handle_alloc_error(layout),
        }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: made by `alloc_zeroed` with this layout; every `Words` over it is gone, since each holds it.
        unsafe { dealloc(self.start.as_ptr().cast(), self.layout) };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::{dir::Dir, map::TrustedOwner, map::WriteMap};

    #[test]
    fn own_words_begin_on_a_line_are_zero_and_shared_by_clones() {
        for len in [0, 1, 8, 9, 100_000] {
            let words = Words::zeroed(len);
            assert_eq!(words.get().len(), len);
            assert_eq!(words.get().as_ptr() as usize % 64, 0);
            assert!(words.get().iter().all(|word| word.load(Ordering::Relaxed) == 0));
        }
        let words = Words::zeroed(3);
        let other = words.clone();
        words.own().unwrap()[2].store(7, Ordering::Release);
        drop(words);
        assert_eq!(other.get()[2].load(Ordering::Acquire), 7);
    }

    #[test]
    fn groups_are_all_there_or_none_is_and_outlive_the_words() {
        let words = Words::zeroed(11);
        let of = |len| Groups::<4>::of(&words, len).get().len();
        assert_eq!([of(0), of(1), of(2), of(3), of(usize::MAX)], [0, 1, 2, 0, 0]);
        let groups = Groups::<4>::of(&words, 2);
        words.own().unwrap()[7].store(9, Ordering::Release);
        drop(words);
        assert_eq!(groups.get()[1][3].load(Ordering::Acquire), 9);
    }

    #[test]
    fn words_of_a_map_outlive_whoever_opened_it_and_end_where_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Dir::open(folder.path()).unwrap();
        let writer = WriteMap::create(&dir, "map", 16, 0o644).unwrap();
        writer.as_words()[9].store(5, Ordering::Release);
        let map = ReadMap::open(&folder.path().join("map"), TrustedOwner::RootOrSelf, 1 << 20).unwrap();
        let map = Arc::new(map);
        let words = Words::of_map(&map, 8, 8).unwrap();
        assert!(Words::of_map(&map, 8, 9).is_none() && Words::of_map(&map, usize::MAX, 2).is_none());
        assert_eq!(Words::of_map(&map, 16, 0).unwrap().get().len(), 0);
        drop(map);
        assert!(words.own().is_none());
        writer.as_words()[15].store(6, Ordering::Release);
        let seen = words.get();
        assert_eq!(
            (seen[1].load(Ordering::Acquire), seen[7].load(Ordering::Acquire)),
            (5, 6)
        );
    }
}
