//! How a filter's words are read, wherever they live: as atomics that some other thread or process may be storing to.

use std::sync::atomic::{AtomicU64, Ordering};

use mintage_sys::map::ReadWord;

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

/// Has the memory fetch the cache line of `word` where the processor can be asked to.
#[inline(always)]
pub(crate) fn fetch(word: &impl Word) {
    #[cfg(feature = "simd")]
    mintage_sys::prefetch::line_of(word);
    #[cfg(not(feature = "simd"))]
    let _ = word;
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
