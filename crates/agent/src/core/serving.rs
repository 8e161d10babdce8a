//! What the agent can do now, as the health service tells it: no list, so that it may be asked at every event.

use super::{Core, slot::Slot};
use crate::status::Serving;

impl Core {
    pub(super) fn serving(&self) -> Serving {
        let now = self.shared.deps.now();
        let own = self.shared.own.load();
        let joined = self.own_id.is_some() && own.as_ref().is_some_and(|own| now.wall <= own.leaf.not_after());
        let served = |slot: &Slot| slot.delivery().is_none() || slot.serving(now);
        Serving {
            ready: joined && self.shared.no_descriptors().is_none() && self.slots.values().all(served),
            // From before a restart there may be some, while the CA has not been heard.
            identities: joined && (self.entries.heard() || self.slots.workloads() > 0),
            lookups: self.shared.view.load().age(now.wall).is_some(),
        }
    }
}
