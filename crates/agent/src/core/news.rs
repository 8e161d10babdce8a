//! What the CA says on the stream: entries, the trust bundle, new certificates wanted, identities taken away; and whose
//! certificates are to be replaced by it.

use std::collections::BTreeSet;

use mintage_identity::EntryName;
use mintage_proto::v1::{self, agent_message, ca_message::Message};

use super::{
    Core,
    entries::Changed,
    slot::{Slot, SlotKey},
};
use crate::{
    AgentError, AgentEvent,
    bundle::{Bundle, NotAfter},
    rotation::Event,
    shared::Forward,
};

impl Core {
    pub(super) fn heard(&mut self, message: Message) -> Result<(), AgentError> {
        match message {
            Message::Minted(minted) => self.minted(minted),
            Message::Entries(entries) => self.entries_changed(&entries),
            Message::Trust(trust) => self.trust_changed(trust.bundle.as_ref()),
            Message::Federated(federated) => self.federated_changed(&federated),
            Message::Renew(renew) => self.renew(&renew),
            Message::Retire(retire) => return self.retire(&retire),
            // The session gives these to their own thread.
            Message::Revoked(_) => {}
        }
        Ok(())
    }

    fn entries_changed(&mut self, message: &v1::Entries) {
        let change = self.entries.apply(message);
        for problem in &change.unusable {
            self.shared.problem("entry", "CA", problem);
        }
        if !change.complete {
            return;
        }
        let index = self.entries.index();
        tracing::info!(entries = self.entries.len(), index, "entries applied");
        self.reconcile(&change.changed);
        self.follow_federation();
        for entry in &change.outdated {
            for key in self.slots.of_entry(entry) {
                self.feed(&key, Event::RenewNow);
            }
        }
        self.keeping.entries_changed();
        self.watches.touch_entries(change.changed);
        self.send(agent_message::Message::Ack(v1::Ack {
            entries_index: index,
            ..v1::Ack::default()
        }));
        self.shared.tell(AgentEvent::EntriesApplied {
            count: self.entries.len(),
            index,
        });
    }

    /// Lets each slot of these entries be renewed or not, as they say.
    pub(super) fn reconcile(&mut self, changed: &Changed) {
        if !self.entries.heard() {
            return;
        }
        let keys: Vec<SlotKey> = match changed {
            Changed::All => self.slots.keys_of(|slot| slot.entry().is_some()),
            Changed::These(names) => names.iter().flat_map(|name| self.slots.of_entry(name)).collect(),
        };
        for key in keys {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            let verdict = self.entries.verdict(slot.entry(), slot.delivery());
            match verdict {
                Ok(ttl) => {
                    if slot.trouble.as_ref().is_some_and(|trouble| trouble.stage == "entry") {
                        slot.trouble = None;
                    }
                    self.feed(&key, Event::Want { ttl });
                    if self.upstream.is_some() {
                        self.feed(&key, Event::Online);
                    }
                    self.renew_other_identity(&key);
                }
                Err(why) => {
                    // A caller on the socket is told by its stream; a folder's owner can only be told here.
                    if matches!(key, SlotKey::Delivery(_)) {
                        self.trouble(&key, "entry", why);
                    }
                    self.feed(&key, Event::Unwant);
                }
            }
        }
        self.drop_idle_workloads();
    }

    /// A certificate from before a restart may be for what the entry said then.
    fn renew_other_identity(&mut self, key: &SlotKey) {
        let Some(slot) = self.slots.get(key) else { return };
        let entry = slot.entry().and_then(|name| self.entries.get(name));
        let other = match (&slot.held, entry) {
            (Some(held), Some(entry)) => *held.id() != entry.spiffe_id,
            _ => false,
        };
        if other && !slot.rotation.asking() {
            self.feed(key, Event::RenewNow);
        }
    }

    fn trust_changed(&mut self, wire: Option<&v1::TrustBundle>) {
        let Some(wire) = wire else { return };
        let held = self.shared.bundle.load_full();
        let after = Bundle::from_wire(wire)
            .map_err(NotAfter::Wrong)
            .and_then(|bundle| bundle.after(held.as_deref(), &self.shared.domain));
        match &after {
            Err(older @ NotAfter::Older { .. }) => {
                return self.shared.refuse_older(Forward::Bundle, &older.to_string());
            }
            _ => self.shared.not_older(Forward::Bundle),
        }
        let result = after.map_err(|problem| problem.to_string());
        match result.and_then(|bundle| bundle.map(|bundle| self.shared.install_bundle(bundle)).transpose()) {
            Ok(None) => self.acknowledge_bundle(wire.sequence),
            Ok(Some(bundle)) => {
                tracing::info!(
                    sequence = bundle.sequence(),
                    roots = bundle.roots().len(),
                    "trust bundle applied"
                );
                let same_roots = held.is_some_and(|held| held.roots() == bundle.roots());
                self.save_bundle(bundle);
                self.watches.touch();
                if !same_roots {
                    self.rewrite_all();
                    self.replace_struck();
                }
                self.acknowledge_bundle(wire.sequence);
                self.shared.tell(AgentEvent::TrustApplied {
                    sequence: wire.sequence,
                });
            }
            Err(problem) => self.shared.problem("trust", "CA", &problem),
        }
    }

    fn renew(&mut self, renew: &v1::Renew) {
        tracing::info!(entries = ?renew.entries, agent = renew.agent, why = renew.why, "the CA asks for new certificates");
        // A replacement for a certificate that was just revoked is on its way already.
        let replacing = |slot: &Slot| {
            let struck = slot
                .held
                .as_ref()
                .is_some_and(|held| slot.struck == Some(*held.serial()));
            struck && slot.rotation.asking()
        };
        let mut keys: Vec<SlotKey> = match renew.entries.is_empty() {
            true => self.slots.keys_of(|slot| slot.entry().is_some()),
            // What is no name is the name of nothing.
            false => {
                let names: BTreeSet<_> = renew.entries.iter().filter_map(|n| EntryName::parse(n).ok()).collect();
                names.iter().flat_map(|name| self.slots.of_entry(name)).collect()
            }
        };
        keys.extend(renew.agent.then_some(SlotKey::Own));
        for key in keys {
            if !self.slots.get(&key).is_some_and(replacing) {
                self.feed(&key, Event::RenewNow);
            }
        }
    }

    /// Asks at once for another certificate where the one in hand is refused by every verifier from now on.
    pub(super) fn replace_struck(&mut self) {
        for key in self.slots.keys_of(|slot| slot.held.is_some()) {
            self.replace_if_struck(&key);
        }
        self.hurry_all();
    }

    pub(super) fn replace_if_struck(&mut self, key: &SlotKey) {
        let (trust, now) = (self.shared.ca_trust.load_full(), self.shared.wall());
        let Some(slot) = self.slots.get_mut(key) else { return };
        let Some(held) = &slot.held else { return };
        let serial = *held.serial();
        if slot.struck == Some(serial) || held.not_after() < now {
            return;
        }
        let Err(error) = trust.recheck(held.peer(), now) else {
            return;
        };
        tracing::warn!(subject = slot.subject(), %serial, %error, "a certificate in hand is refused from now on");
        slot.struck = Some(serial);
        // What is asked for already is looked at when it comes.
        if !slot.rotation.asking() {
            self.feed(key, Event::RenewNow);
        }
    }
}
