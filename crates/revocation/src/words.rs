//! Where a filter's words live: in this process, or in the node's shared map. Both are read as atomics.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use mintage_sys::map::{ReadMap, ReadWord};

/// Words of a cache line.
pub(crate) const LINE_WORDS: usize = 8;
/// Words of a filter's block: 256 bits.
pub(crate) const BLOCK_WORDS: usize = 4;

/// A word that some other thread or process may be storing to.
pub(crate) trait Word {
    /// Loads with acquire order: what its writer stored before is seen too.
    fn read(&self) -> u64;
    /// Loads without order. Who acts on what it says puts a fence behind it.
    fn glance(&self) -> u64;
}

/// Has the memory fetch the cache line of `word`; the value is for [`std::hint::black_box`].
#[inline(always)]
pub(crate) fn fetch(word: &impl Word) -> u64 {
    #[cfg(feature = "simd")]
    if mintage_sys::prefetch::line_of(word) {
        return 0;
    }
    word.glance()
}

impl Word for AtomicU64 {
    #[inline]
    fn read(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    #[inline(always)]
    fn glance(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }
}

impl Word for ReadWord {
    #[inline]
    fn read(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    #[inline(always)]
    fn glance(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }
}

/// Words of this process, cheap to clone.
#[derive(Clone)]
pub(crate) struct OwnWords {
    store: Arc<[AtomicU64]>,
    /// First word used, so that word 0 lies on a cache line.
    base: usize,
    len: usize,
}

impl OwnWords {
    /// `len` zero words that start on a cache line.
    pub(crate) fn zeroed(len: usize) -> Self {
        let store: Arc<[AtomicU64]> = (0..len + LINE_WORDS - 1).map(|_| AtomicU64::new(0)).collect();
        let past = (store.as_ptr() as usize / size_of::<u64>()) % LINE_WORDS;
        let base = (LINE_WORDS - past) % LINE_WORDS;
        Self { store, base, len }
    }

    /// A copy of `words` with its own memory.
    pub(crate) fn copy_of<W: Word>(words: &[W]) -> Self {
        let copy = Self::zeroed(words.len());
        for (to, from) in copy.get().iter().zip(words) {
            to.store(from.read(), Ordering::Relaxed);
        }
        copy
    }

    #[inline]
    pub(crate) fn get(&self) -> &[AtomicU64] {
        // Inside the store by construction.
        self.store.get(self.base..self.base + self.len).unwrap_or_default()
    }

    /// The block that starts at word `at`, which lies inside by the shape of whoever asks.
    #[inline(always)]
    pub(crate) fn block(&self, at: usize) -> Option<&[AtomicU64; BLOCK_WORDS]> {
        self.store.get(self.base + at..)?.first_chunk()
    }
}

/// Words of a mapped file.
#[derive(Clone)]
pub(crate) struct MapWords {
    pub(crate) map: Arc<ReadMap>,
    pub(crate) from: usize,
    pub(crate) len: usize,
}

impl MapWords {
    #[inline]
    pub(crate) fn get(&self) -> &[ReadWord] {
        self.map
            .as_words()
            .get(self.from..self.from + self.len)
            .unwrap_or_default()
    }

    /// As [`OwnWords::block`].
    #[inline(always)]
    pub(crate) fn block(&self, at: usize) -> Option<&[ReadWord; BLOCK_WORDS]> {
        self.map.as_words().get(self.from + at..)?.first_chunk()
    }
}
