//! Whether the CA can issue and take new callers, and if not, why. One value feeds `/ready`, the gRPC health service and
//! `ca status`.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use crate::metrics::Metrics;

/// What can keep the CA from being ready. Each is told and taken back by whoever watches over it, so that the end of one
/// trouble never hides another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// Not started yet, or stopping.
    Lifecycle,
    /// The ledger or one of its followers.
    Ledger,
    /// Revocation news cannot be signed.
    Revocation,
    /// The issuing certificate has no life left to give away.
    Issuer,
    /// New connections have to wait.
    Connections,
}

/// Shared readiness.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    troubles: watch::Sender<BTreeMap<Trouble, String>>,
    metrics: Arc<Metrics>,
}

impl Health {
    /// Not ready until somebody says otherwise.
    pub(crate) fn starting(metrics: Arc<Metrics>) -> Self {
        let troubles = BTreeMap::from([(Trouble::Lifecycle, "starting".to_owned())]);
        Self {
            troubles: watch::Sender::new(troubles),
            metrics,
        }
    }

    /// This trouble is over, if it ever was; true when it was.
    pub(crate) fn over(&self, trouble: Trouble) -> bool {
        self.troubles.send_if_modified(|troubles| {
            let ended = troubles.remove(&trouble).is_some();
            self.metrics.ready(troubles.is_empty());
            ended
        })
    }

    /// Not ready from now on, for this reason; true when it is news.
    pub(crate) fn trouble(&self, trouble: Trouble, why: impl Into<String>) -> bool {
        let why = why.into();
        self.troubles.send_if_modified(|troubles| {
            self.metrics.ready(false);
            let new = troubles.get(&trouble) != Some(&why);
            troubles.insert(trouble, why);
            new
        })
    }

    /// The reasons, or `None` when ready.
    pub(crate) fn why_not_ready(&self) -> Option<String> {
        let troubles = self.troubles.borrow();
        let reasons: Vec<&str> = troubles.values().map(String::as_str).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// Every change; ready when empty.
    pub(crate) fn watch(&self) -> watch::Receiver<BTreeMap<Trouble, String>> {
        self.troubles.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_one_trouble_does_not_hide_another() {
        let metrics = Arc::new(Metrics::new());
        let health = Health::starting(metrics.clone());
        assert_eq!(health.why_not_ready().as_deref(), Some("starting"));
        assert!(health.over(Trouble::Lifecycle) && !health.over(Trouble::Lifecycle));
        assert_eq!(health.why_not_ready(), None);
        assert!(metrics.text().contains("mintage_ready 1"));
        assert!(health.trouble(Trouble::Ledger, "full") && !health.trouble(Trouble::Ledger, "full"));
        assert!(health.trouble(Trouble::Issuer, "ends"));
        assert_eq!(health.why_not_ready().as_deref(), Some("full; ends"));
        health.over(Trouble::Ledger);
        assert_eq!(health.why_not_ready().as_deref(), Some("ends"));
        assert!(metrics.text().contains("mintage_ready 0"));
        health.over(Trouble::Issuer);
        assert_eq!(health.why_not_ready(), None);
    }
}
