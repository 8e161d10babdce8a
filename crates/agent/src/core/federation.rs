//! Bundles of other trust domains in the core: the CA sends them, entries name those that a workload gets, and folders follow
//! both.

use std::{collections::BTreeSet, sync::Arc};

use mintage_identity::{EntryName, TrustDomain};
use mintage_proto::v1;

use super::{Core, slot::SlotKey};
use crate::{
    AgentEvent,
    config::Delivery,
    federation::{Foreign, Remembered, same, to_file},
};

impl Core {
    /// Takes what the CA says in the place of what was said before.
    pub(super) fn federated_changed(&mut self, message: &v1::Federated) {
        let held = self.shared.federation.load_full();
        let (next, problems) = held.after(message, &self.shared.domain);
        for problem in &problems {
            self.shared.problem("federation", "CA", problem);
        }
        if next == *held {
            return;
        }
        let trust_domains = next.len();
        if let Err(problem) = self.shared.install_federation(next) {
            return self.shared.problem("federation", "CA", &problem);
        }
        tracing::info!(trust_domains, "bundles of other trust domains applied");
        self.save_federated();
        self.watches.touch();
        self.rewrite_federated();
        self.shared.tell(AgentEvent::FederationApplied { trust_domains });
    }

    /// After a change of the entries: folders whose entries name other trust domains now are written again.
    pub(super) fn follow_federation(&mut self) {
        if !self.entries.heard() {
            return;
        }
        let delivered = self.slots.values().filter(|slot| slot.delivery().is_some());
        let named = delivered.filter_map(|slot| {
            let (name, entry) = (slot.entry()?, self.entries.get(slot.entry()?)?);
            (!entry.federates_with.is_empty()).then(|| (name.clone(), entry.federates_with.clone()))
        });
        let now: Remembered = named.collect();
        if now != self.remembered {
            self.remembered = now;
            self.save_federated();
            self.rewrite_federated();
        }
    }

    /// What an entry federates with; before the CA named the entries, what it did before a restart.
    fn federates_with(&self, entry: &EntryName) -> Option<&BTreeSet<TrustDomain>> {
        match self.entries.heard() {
            true => self.entries.get(entry).map(|entry| &entry.federates_with),
            false => self.remembered.get(entry),
        }
    }

    /// The bundles of other trust domains that lie in a delivery's folder.
    pub(super) fn federated_for(&self, delivery: &Delivery) -> Vec<Arc<Foreign>> {
        match self.federates_with(delivery.entry()) {
            Some(names) if delivery.federated() => self.shared.federation.load().of(names),
            _ => Vec::new(),
        }
    }

    /// Writes the folders anew whose bundles of other trust domains differ from what was written.
    fn rewrite_federated(&mut self) {
        let differing = self.slots.iter().filter(|(_, slot)| {
            let delivery = slot.delivery();
            delivery.is_some_and(|delivery| !same(&slot.federated, &self.federated_for(delivery)))
        });
        let keys: Vec<SlotKey> = differing.map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.rewrite(&key);
        }
    }

    fn save_federated(&self) {
        let bytes = to_file(&self.shared.federation.load(), &self.remembered);
        let shared = self.shared.clone();
        self.saving.federated.save(bytes, move |bytes| {
            if let Err(error) = shared.store.save_federated(&bytes) {
                // The old one is still there; the CA sends everything again on the next stream.
                shared.problem("store", "federated.json", &error.to_string());
            }
        });
    }
}
