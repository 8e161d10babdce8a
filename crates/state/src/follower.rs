//! The sink at the end of the journal: it applies what comes, publishes the view, and hands the changes to the writer.
//!
//! It is driven by the ledger's follower and sees the journal alone, never the path a record took to it, so that records
//! of another replica are nothing special.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mintage_identity::UnixTime;
use mintage_ledger::{LedgerError, Sink, Stored};
use tokio::sync::watch;

use crate::apply::Writes;
use crate::error::StateError;
use crate::view::View;
use crate::writer::Writer;

/// What the state and its sink share.
pub(crate) struct Shared {
    /// The newest view.
    pub(crate) views: watch::Sender<Arc<View>>,
    /// Why nothing is applied any more.
    pub(crate) stopped: watch::Sender<Option<String>>,
    /// The time a prune was asked for.
    pub(crate) prune: Mutex<Option<UnixTime>>,
    /// The thread that keeps the view on disk.
    pub(crate) writer: Writer,
}

/// The sink. It ends with the thread that drives it, and says so, so that nobody waits for ever and nobody decides on an
/// old view.
pub(crate) struct ViewSink {
    view: View,
    shared: Arc<Shared>,
}

impl ViewSink {
    pub(crate) fn new(view: View, shared: Arc<Shared>) -> Self {
        Self { view, shared }
    }

    fn stop(&self, why: &str) {
        self.shared.stopped.send_if_modified(|known| {
            let new = known.is_none();
            if new {
                *known = Some(why.to_owned());
            }
            new
        });
    }
}

impl Sink for ViewSink {
    fn name(&self) -> &'static str {
        "state"
    }

    fn next(&self) -> u64 {
        self.view.applied()
    }

    fn apply(&mut self, _: u64, records: &[Stored]) -> Result<(), LedgerError> {
        let Some(last) = records.last() else { return Ok(()) };
        let mut writes = Writes::new();
        for stored in records {
            match self.view.follow(stored) {
                Ok(more) => writes.extend(more),
                Err(error) => {
                    self.stop(&error.to_string());
                    return Err(match error {
                        // An error of a kind that is tried again would be tried for ever.
                        StateError::Ledger(inner @ LedgerError::Decode(_)) => inner,
                        other => LedgerError::Decode(other.to_string()),
                    });
                }
            }
        }
        let view = Arc::new(self.view.clone());
        // Before it is published: who has seen the view may ask the writer for a snapshot of it.
        self.shared
            .writer
            .hand_over(writes, Arc::clone(&view), *last.leaf_hash().as_bytes());
        self.shared.views.send_replace(view);
        Ok(())
    }

    fn caught_up(&mut self) -> Result<Option<Duration>, LedgerError> {
        let asked = self.shared.prune.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(now) = asked {
            self.view.prune(now);
            self.shared.views.send_replace(Arc::new(self.view.clone()));
        }
        Ok(None)
    }
}

impl Drop for ViewSink {
    fn drop(&mut self) {
        self.stop("the state's follower has ended");
    }
}
