//! Whether the CA can issue, and if not, why. One value feeds `/ready`, the gRPC health service and `ca status`.

use std::sync::Arc;

use tokio::sync::watch;

use crate::metrics::Metrics;

/// Shared readiness.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    state: watch::Sender<Option<String>>,
    metrics: Arc<Metrics>,
}

impl Health {
    /// Not ready until somebody says otherwise.
    pub(crate) fn starting(metrics: Arc<Metrics>) -> Self {
        Self {
            state: watch::Sender::new(Some("starting".to_owned())),
            metrics,
        }
    }

    pub(crate) fn set_ready(&self) {
        self.metrics.ready(true);
        self.state.send_replace(None);
    }

    /// Not ready from now on, for this reason.
    pub(crate) fn set_not_ready(&self, why: impl Into<String>) {
        self.metrics.ready(false);
        self.state.send_replace(Some(why.into()));
    }

    /// The reason, or `None` when ready.
    pub(crate) fn why_not_ready(&self) -> Option<String> {
        self.state.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Option<String>> {
        self.state.subscribe()
    }
}
