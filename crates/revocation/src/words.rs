//! Where a filter's words live: in this process, or in the node's shared map. Readers see one slice of atomics.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Words of a cache line.
pub(crate) const LINE_WORDS: usize = 8;

/// A run of words, cheap to clone.
#[derive(Clone)]
pub(crate) struct Words {
    store: Arc<[AtomicU64]>,
    /// First word used, so that word 0 lies on a cache line.
    base: usize,
    len: usize,
}

impl Words {
    /// `len` zero words that start on a cache line.
    pub(crate) fn zeroed(len: usize) -> Self {
        let store: Arc<[AtomicU64]> = (0..len + LINE_WORDS - 1).map(|_| AtomicU64::new(0)).collect();
        let past = (store.as_ptr() as usize / size_of::<u64>()) % LINE_WORDS;
        let base = (LINE_WORDS - past) % LINE_WORDS;
        Self { store, base, len }
    }

    /// A copy with its own memory.
    pub(crate) fn duplicate(&self) -> Self {
        let copy = Self::zeroed(self.len);
        for (to, from) in copy.get().iter().zip(self.get()) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        copy
    }

    #[inline]
    pub(crate) fn get(&self) -> &[AtomicU64] {
        &self.store[self.base..self.base + self.len]
    }
}
