//! What the core shows of itself: what others decide by, after each turn; the metrics, in one pass over the slots, when
//! somebody asks for them.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    Core,
    slot::{Purpose, SlotKey},
};

/// What one pass finds.
#[derive(Default)]
struct Found {
    lag: Duration,
    /// The first end of a certificate for a workload, in Unix seconds.
    first_end: Option<i64>,
    own_end: Option<i64>,
    deliveries: usize,
    deliveries_serving: usize,
    workloads: usize,
}

impl Core {
    /// Brings what others read of the core up to date.
    pub(super) fn note_serving(&self) {
        self.shared.note_shortest_life(self.slots.shortest_life());
        self.shared.serving.store(self.slots.serving(), Ordering::Relaxed);
    }

    /// Brings the gauges up to date.
    pub(super) fn note_metrics(&self) {
        let now = self.shared.deps.now();
        let mut found = Found::default();
        for (key, slot) in self.slots.iter() {
            found.lag = found.lag.max(slot.rotation.lag(now));
            let end = slot.held.as_ref().map(|held| held.not_after().seconds());
            match key {
                SlotKey::Own => found.own_end = end,
                _ => found.first_end = [found.first_end, end].into_iter().flatten().min(),
            }
            let serving = usize::from(slot.serving(now));
            match &slot.purpose {
                Purpose::Own => {}
                Purpose::Delivery { .. } => {
                    found.deliveries += 1;
                    found.deliveries_serving += serving;
                }
                Purpose::Workload { .. } => found.workloads += serving,
            }
        }
        let metrics = &self.shared.metrics;
        metrics.lag.set(found.lag.as_secs_f64());
        metrics.svid_expiry.set(found.first_end.unwrap_or(0));
        metrics.own_expiry.set(found.own_end.unwrap_or(0));
        metrics.entries.set(count(self.entries.len()));
        metrics.deliveries.set(count(found.deliveries));
        metrics.deliveries_serving.set(count(found.deliveries_serving));
        metrics.workloads.set(count(found.workloads));
        let age = self.shared.view.load().age(now.wall);
        metrics.filter_age.set(age.map_or(-1.0, |age| age.as_secs_f64()));
    }
}

fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}
