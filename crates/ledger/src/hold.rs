//! Lets the next checkpoint wait while a witness is asked about the stored one, so that its line comes in time even where it
//! takes longer than two checkpoints are apart.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Shared by whoever signs checkpoints and whoever has them cosigned.
#[derive(Clone, Debug, Default)]
pub struct Hold(Arc<AtomicUsize>);

/// The stored checkpoint is not replaced while this lives, for a bounded time.
#[derive(Debug)]
pub struct Held(Arc<AtomicUsize>);

impl Hold {
    /// Begins to hold.
    pub fn begin(&self) -> Held {
        self.0.fetch_add(1, Ordering::AcqRel);
        Held(Arc::clone(&self.0))
    }

    pub(crate) fn is_held(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
