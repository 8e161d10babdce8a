//! How far the copy in the store is, for whoever gives up records and for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Position behind the last record that is whole in the store: every object was put by this process, or read back and compared.
#[derive(Debug, Default)]
pub(crate) struct Uploaded(AtomicU64);

impl Uploaded {
    /// True when the records before `end` need not be here for the store to have them.
    pub(crate) fn covers(&self, end: u64) -> bool {
        self.0.load(Ordering::Acquire) >= end
    }

    /// The store names closed shards up to here.
    #[cfg(feature = "upload")]
    pub(crate) fn reached(&self, end: u64) {
        self.0.store(end, Ordering::Release);
    }
}
