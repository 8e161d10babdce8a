//! Live connections of a process that learns of revocations from the node's shared map, not from a stream of its own.

use std::{sync::Arc, time::Duration};

use mintage_revocation::MapReader;

use crate::Registry;

/// Looks at the map every `every` (a few atomic loads) and re-checks all live connections of `registry` whenever
/// something was published. Never returns: spawn it, and abort it with the registry's owner.
pub async fn follow_map(registry: Registry, map: Arc<MapReader>, every: Duration) {
    let mut seen = None;
    loop {
        if let Some(now) = registry.now() {
            // Also moves the reader to a newer file, whose count may begin anew.
            let view = map.view(now);
            let mark = (view.epoch(), view.sequence(), map.generation());
            if seen.replace(mark) != Some(mark) {
                registry.trust_changed();
            }
        }
        tokio::time::sleep(every).await;
    }
}
