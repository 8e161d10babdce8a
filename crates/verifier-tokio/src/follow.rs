//! Live connections of a process that learns of revocations from the node's shared map, not from a stream of its own.

use std::{sync::Arc, time::Duration};

use mintage_revocation::{MapReader, View};

use crate::Registry;

/// Looks at the map every `every` (a few atomic loads, and one call of fstat) and, whenever something was published, asks it for
/// the certificates of the live connections of `registry`: those that it lists, or that a new rule may strike, are re-checked,
/// and all of them where the map changed in more than additions. Never returns: spawn it, and abort it with the registry's
/// owner.
pub async fn follow_map(registry: Registry, map: Arc<MapReader>, every: Duration) {
    let mut seen: Option<(Mark, Arc<View>)> = None;
    loop {
        map.let_go_if_cut();
        if let Some(now) = registry.now() {
            // Also moves the reader to a newer file, whose count may begin anew.
            let view = map.view(now);
            let mark = (view.epoch(), map.sequence(), map.generation());
            let former = seen.replace((mark, view.clone()));
            match former {
                Some((held, _)) if held == mark => {}
                Some((_, former)) => _ = registry.apply(&view.added_since(&former, registry.keys())),
                None => _ = registry.trust_changed(),
            }
        }
        tokio::time::sleep(every).await;
    }
}

/// Epoch, sequence and generation: another one means that something was published.
type Mark = (u64, u64, u64);
