//! Putting verified pairs in place, taking them away, and changing which folders there are. Disks are waited for by
//! tasks of their own, a few at a time; the core hears of the end.

use std::sync::Arc;

use mintage_identity::EntryName;
use mintage_proto::v1::{self, agent_message};
use mintage_svid::LeafInfo;

use super::{
    Core, Input, Reloaded, boot,
    entries::Changed,
    folder_key,
    slot::{Purpose, Slot, SlotKey, Trouble},
};
use crate::{
    AgentError, AgentEvent,
    bundle::Bundle,
    config::Delivery,
    held::{Held, Unverified},
    limits::CRLS_PEM_BYTES_MAX,
    link::Control,
    rotation::{BACKDATE, Event},
    write::{LISTS, SlotFolder, Write, Written},
};

impl Core {
    /// Adds a folder, with what was saved of it before a restart.
    pub(super) fn add_delivery(&mut self, delivery: Delivery) {
        let key = folder_key(delivery.directory());
        let saved = self.shared.store.delivery(&delivery);
        let kept = delivery
            .receipt()
            .then(|| self.shared.store.receipt(&delivery))
            .flatten();
        let told = delivery.acts().then(|| self.shared.store.served(&delivery)).flatten();
        let folder = SlotFolder::default();
        let mut slot = Slot::new(Purpose::Delivery { delivery, folder });
        slot.acting.restore(told);
        self.slots.insert(key.clone(), slot);
        let subject = self.slots.get(&key).map(Slot::subject).unwrap_or_default();
        let Some(held) = saved.and_then(|pair| self.verify_saved(&subject, pair)) else {
            return;
        };
        let dates = Event::Restored {
            not_before: held.not_before(),
            not_after: held.not_after(),
        };
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.held = Some(held);
        }
        self.restore_receipt(&key, kept);
        self.feed(&key, dates);
        self.rewrite(&key);
    }

    /// A saved pair is verified as if it had just come; only which identity it is for is the file's own word, until
    /// the entries arrive.
    pub(super) fn verify_saved(&self, subject: &str, pair: Unverified) -> Option<Arc<Held>> {
        let trust = self.shared.ca_trust.load_full();
        let id = pair
            .chain
            .first()
            .and_then(|der| LeafInfo::parse(der).ok())
            .map(|leaf| leaf.id().clone())?;
        match Held::verify(pair, &id, &trust, &self.shared.deps.provider, self.shared.wall()) {
            Ok(held) => Some(held),
            Err(problem) => {
                tracing::info!(subject, problem, "the saved identity is not used any more");
                None
            }
        }
    }

    /// The agent's own identity was loaded or received: it is held and renewed like any other.
    pub(super) fn own_identity_is_in_place(&mut self) {
        let Some(own) = self.shared.own.load_full() else { return };
        let pair = Unverified {
            key: own.pair.key.clone(),
            chain: own.pair.chain.clone(),
        };
        let trust = self.shared.ca_trust.load_full();
        let held = Held::verify(
            pair,
            own.leaf.id(),
            &trust,
            &self.shared.deps.provider,
            self.shared.wall(),
        );
        let Ok(held) = held else {
            // Expired, most likely: the link joins again by the last key.
            return;
        };
        let (not_before, not_after) = (held.not_before(), held.not_after());
        if let Some(slot) = self.slots.get_mut(&SlotKey::Own) {
            slot.held = Some(held);
            slot.unplaced = None;
            if let Some(pending) = slot.pending.take() {
                self.by_request.remove(&pending.id);
            }
        }
        self.feed(&SlotKey::Own, Event::Restored { not_before, not_after });
        let ttl = not_after.since(not_before.plus(BACKDATE));
        self.feed(&SlotKey::Own, Event::Want { ttl });
        if self.upstream.is_some() {
            self.feed(&SlotKey::Own, Event::Online);
        }
    }

    /// Puts the pair that a slot waits to place in place.
    pub(super) fn place(&mut self, key: &SlotKey) {
        let now = boot(self.shared.deps.now());
        let delivery = self.slots.get(key).and_then(Slot::delivery);
        let federated = delivery
            .map(|delivery| self.federated_for(delivery))
            .unwrap_or_default();
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.placing {
            return;
        }
        let (held, receipt, proof) = match (&slot.unplaced, &slot.held) {
            (Some(unplaced), _) => (unplaced.held.clone(), unplaced.receipt.clone(), None),
            (None, Some(held)) if slot.rewrite || slot.owes_lists() => {
                (held.clone(), slot.receipt.clone(), slot.proof.clone())
            }
            _ => return,
        };
        slot.placing = true;
        slot.tried = now;
        match &slot.purpose {
            // Nothing to wait for: it lives in memory alone.
            Purpose::Workload { .. } => self.placed(key, held, Ok(None)),
            Purpose::Own => {
                let (store, pair) = (self.shared.store.clone(), held.clone());
                self.spawn_place(key, held, move || {
                    store
                        .save_agent(pair.key(), pair.chain())
                        .map(|()| None)
                        .map_err(|error| ("store", error.to_string()))
                });
            }
            Purpose::Delivery { delivery, folder } => {
                let Some(bundle) = self.shared.bundle.load_full() else {
                    return self.placed(key, held, Err(("trust", "there is no trust bundle".to_owned())));
                };
                let lists_alone = slot.unplaced.is_none() && !slot.rewrite;
                slot.rewrite = false;
                slot.federated.clone_from(&federated);
                let write = Write {
                    delivery: delivery.clone(),
                    folder: folder.clone(),
                    held: held.clone(),
                    receipt,
                    proof,
                    bundle,
                    federated,
                    crls: self.shared.crls.load_full(),
                    lists_alone,
                    lists_bytes_max: CRLS_PEM_BYTES_MAX,
                    store: self.shared.store.clone(),
                };
                self.spawn_place(key, held, move || write.run().map(Some));
            }
        }
    }

    fn spawn_place(
        &self,
        key: &SlotKey,
        held: Arc<Held>,
        work: impl FnOnce() -> Result<Option<Written>, (&'static str, String)> + Send + 'static,
    ) {
        let (writers, inbox, key) = (self.writers.clone(), self.inbox.clone(), key.clone());
        tokio::spawn(async move {
            let Ok(permit) = writers.acquire().await else { return };
            let result = match tokio::task::spawn_blocking(work).await {
                Ok(result) => result,
                Err(error) => Err(("deliver", format!("the writing task failed: {error}"))),
            };
            drop(permit);
            let _ = inbox.send(Input::Placed { key, held, result }).await;
        });
    }

    /// Placing ended.
    pub(super) fn placed(
        &mut self,
        key: &SlotKey,
        held: Arc<Held>,
        result: Result<Option<Written>, (&'static str, String)>,
    ) {
        let now = boot(self.shared.deps.now());
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.placing = false;
        if slot.clear {
            slot.clear = false;
            return self.clear_folder(key);
        }
        let new = slot
            .unplaced
            .as_ref()
            .filter(|unplaced| Arc::ptr_eq(&unplaced.held, &held))
            .map(|new| (new.asked, new.receipt.clone()));
        let written = match result {
            Ok(written) => written,
            // Nothing else was to be put there.
            Err((LISTS, problem)) => {
                self.note_lists(key, Some(problem));
                return self.place_what_came(key);
            }
            Err((stage, problem)) => {
                slot.rewrite |= new.is_none();
                self.trouble(key, stage, problem);
                if new.is_some() {
                    self.feed(key, Event::Failed { soon: true });
                }
                return;
            }
        };
        (slot.trouble, slot.refused) = (None, false);
        let is_new = new.is_some();
        if let Some((asked, receipt)) = new {
            slot.unplaced = None;
            let former = slot.held.replace(held.clone());
            slot.former = former.map(|former| (*former.serial(), former.not_after()));
            (slot.receipt, slot.proof) = (receipt, None);
            let received = Event::Received {
                not_before: held.not_before(),
                not_after: held.not_after(),
                age: now.saturating_sub(asked),
            };
            self.feed(key, received);
            // Revoked while it was on its way.
            self.replace_if_struck(key);
            self.begin_chase(key);
        }
        self.in_place(key, &held, is_new);
        if let Some(written) = written {
            self.note_lists(key, written.lists_kept_back);
            self.folder_changed(key, written.content);
        }
        self.place_what_came(key);
    }

    /// A bundle or a pair came while another was written: once more.
    fn place_what_came(&mut self, key: &SlotKey) {
        if self
            .slots
            .get(key)
            .is_some_and(|slot| slot.rewrite || slot.unplaced.is_some())
        {
            self.place(key);
        }
    }

    /// Notes why the lists in a folder are not those in force, which is told as it changes and as it ends.
    fn note_lists(&mut self, key: &SlotKey, kept_back: Option<String>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let behind = kept_back.map(|message| Trouble { stage: LISTS, message });
        match (&behind, &slot.lists_behind) {
            (Some(_), before) if *before == behind => self.shared.metrics.failure(LISTS),
            (Some(new), _) => self.shared.problem(LISTS, &slot.subject(), &new.message),
            (None, Some(_)) => tracing::info!(
                subject = slot.subject(),
                "the lists of revoked certificates in force are delivered again"
            ),
            (None, None) => {}
        }
        slot.lists_behind = behind;
    }

    fn in_place(&mut self, key: &SlotKey, held: &Arc<Held>, new: bool) {
        let Some(slot) = self.slots.get(key) else { return };
        match &slot.purpose {
            Purpose::Workload { entry } => {
                self.keeping.pair_changed(entry);
                self.watches.touch_slot(key);
            }
            Purpose::Delivery { delivery, .. } => {
                let directory = delivery.directory().to_owned();
                tracing::info!(
                    entry = %delivery.entry(), spiffe_id = %held.id(), serial = %held.serial(),
                    directory = %directory.display(), "delivered"
                );
                self.shared.tell(AgentEvent::Delivered {
                    entry: delivery.entry().clone(),
                    spiffe_id: held.id().clone(),
                    serial: *held.serial(),
                    not_after: held.not_after(),
                    directory,
                });
            }
            Purpose::Own if new => {
                let pair = Unverified {
                    key: held.key().to_vec().into(),
                    chain: held.chain().to_vec(),
                };
                if let Err(problem) = self.shared.install_own(pair) {
                    return self.trouble(key, "store", problem);
                }
                self.shared.tell(AgentEvent::Renewed {
                    serial: *held.serial(),
                    not_after: held.not_after(),
                });
                // The stream was opened with the old certificate and would end with it.
                let _ = self.link.try_send(Control::Reconnect);
            }
            Purpose::Own => {}
        }
    }

    /// Tries again what could not be put in place, whether or not the CA can be reached.
    pub(super) fn place_again(&mut self) {
        let now = boot(self.shared.deps.now());
        let due = |_: &SlotKey, slot: &Slot| slot.place_again_at().is_some_and(|at| at <= now);
        for key in self.slots.touched_of(due) {
            self.place(&key);
        }
    }

    pub(super) fn rewrite(&mut self, key: &SlotKey) {
        if let Some(slot) = self.slots.get_mut(key)
            && slot.delivery().is_some()
            // What is being put in place for the first time was begun with what was in force before.
            && (slot.held.is_some() || slot.placing)
        {
            slot.rewrite = true;
            self.place(key);
        }
    }

    /// Another bundle is in force: it lies in every folder.
    pub(super) fn rewrite_all(&mut self) {
        for key in self.slots.folders_of(|_| true) {
            self.rewrite(&key);
        }
    }

    /// Other lists of revoked certificates are in force: they lie in the folders that want them.
    pub(super) fn rewrite_lists(&mut self) {
        for key in self.slots.folders_of(|slot| slot.delivery().is_some_and(Delivery::crl)) {
            self.rewrite(&key);
        }
    }

    pub(super) fn save_bundle(&self, bundle: Arc<Bundle>) {
        let shared = self.shared.clone();
        self.saving.bundle.save(bundle, move |bundle| {
            if let Err(error) = shared.store.save_bundle(&bundle) {
                // The old one is still there; after a restart the CA sends the new one again.
                shared.problem("store", "bundle.json", &error.to_string());
            }
        });
    }

    pub(super) fn acknowledge_bundle(&self, sequence: u64) {
        self.send(agent_message::Message::Ack(v1::Ack {
            bundle_sequence: sequence,
            ..v1::Ack::default()
        }));
    }

    /// Forgets a slot. A caller that looks at it, or that waits for room, gets one anew.
    pub(super) fn drop_slot(&mut self, key: &SlotKey) {
        match self.room_for_workloads() {
            0 => self.watches.touch(),
            _ => self.watches.touch_slot(key),
        }
        if let SlotKey::Workload(entry) = key {
            self.keeping.pair_changed(entry);
        }
        if let Some(pending) = self.slots.remove(key).and_then(|slot| slot.pending) {
            self.by_request.remove(&pending.id);
        }
    }

    /// The CA takes identities away.
    pub(super) fn retire(&mut self, retire: &v1::Retire) -> Result<(), AgentError> {
        if retire.agent {
            return Err(AgentError::Retired(retire.why.clone()));
        }
        let names: Vec<EntryName> = retire
            .entries
            .iter()
            .filter_map(|name| EntryName::parse(name).ok())
            .collect();
        tracing::warn!(entries = ?retire.entries, why = retire.why, "the CA retired identities");
        for name in &names {
            self.entries.remove(name);
        }
        self.keeping.entries_changed();
        let keys: Vec<SlotKey> = names.iter().flat_map(|name| self.slots.of_entry(name)).collect();
        for key in keys {
            self.feed(&key, Event::Unwant);
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            slot.held = None;
            slot.unplaced = None;
            (slot.receipt, slot.proof, slot.chase) = Default::default();
            (slot.rewrite, slot.lists_behind) = (false, None);
            slot.acting.forget();
            slot.trouble = Some(Trouble {
                stage: "entry",
                message: format!("the CA retired it: {}", retire.why),
            });
            if let Some(pending) = slot.pending.take() {
                self.by_request.remove(&pending.id);
            }
            match (&slot.purpose, slot.placing) {
                (Purpose::Workload { .. }, _) => self.drop_slot(&key),
                (_, true) => slot.clear = true,
                (_, false) => self.clear_folder(&key),
            }
        }
        self.watches
            .touch_entries(Changed::These(names.iter().cloned().collect()));
        self.shared.tell(AgentEvent::Retired {
            entries: names,
            why: retire.why.clone(),
        });
        Ok(())
    }

    fn clear_folder(&self, key: &SlotKey) {
        let Some(Purpose::Delivery { delivery, folder }) = self.slots.get(key).map(|slot| &slot.purpose) else {
            return;
        };
        let (delivery, folder, shared) = (delivery.clone(), folder.clone(), self.shared.clone());
        let writers = self.writers.clone();
        tokio::spawn(async move {
            let Ok(_permit) = writers.acquire().await else { return };
            let _ = tokio::task::spawn_blocking(move || clear(&shared, &delivery, &folder)).await;
        });
    }

    /// The CA retired the agent itself: no key of any kind is left on this node.
    pub(super) async fn forget_everything(&mut self) {
        let folders: Vec<(Delivery, SlotFolder)> = self
            .slots
            .take()
            .into_iter()
            .filter_map(|slot| match slot.purpose {
                Purpose::Delivery { delivery, folder } => Some((delivery, folder)),
                _ => None,
            })
            .collect();
        let (shared, writers, kept) = (self.shared.clone(), self.writers.clone(), self.stop_keeping());
        shared.own.store(None);
        shared.tls_identity.clear();
        // Writes under way end first, so that none comes after the clearing.
        let all = u32::try_from(crate::limits::WRITERS_MAX).unwrap_or(1);
        let _permits = writers.acquire_many(all).await;
        let cleared = tokio::task::spawn_blocking(move || {
            for (delivery, folder) in &folders {
                clear(&shared, delivery, folder);
            }
            kept.iter().for_each(|kept| kept.forget());
            if let Err(problem) = shared.store.forget_agent() {
                shared.problem("store", "agent", &problem);
            }
        });
        let _ = cleared.await;
    }

    /// Other folders are configured.
    pub(super) fn reload(&mut self, deliveries: Vec<Delivery>) -> Reloaded {
        let mut done = Reloaded::default();
        let wanted: Vec<SlotKey> = deliveries
            .iter()
            .map(|delivery| folder_key(delivery.directory()))
            .collect();
        for key in self.slots.folders_of(|_| true) {
            if !wanted.contains(&key) {
                self.release_slot(&key);
                self.drop_slot(&key);
                done.removed += 1;
            }
        }
        self.releases
            .add(self.shared.store.forget_other_deliveries(&deliveries));
        for delivery in deliveries {
            let key = folder_key(delivery.directory());
            match self.slots.get_mut(&key) {
                None => {
                    self.add_delivery(delivery);
                    done.added += 1;
                }
                Some(slot) if slot.entry() != Some(delivery.entry()) => {
                    self.release_slot(&key);
                    self.drop_slot(&key);
                    self.add_delivery(delivery);
                    done.changed += 1;
                }
                Some(slot) => {
                    let same = slot.delivery() == Some(&delivery);
                    // A folder that was replaced meanwhile is looked at anew: that is what a reload is for.
                    let folder = SlotFolder::default();
                    let receipt = delivery.receipt();
                    slot.purpose = Purpose::Delivery { delivery, folder };
                    slot.pinned = Arc::new(slot.purpose.pinned());
                    slot.acting.mended(!same);
                    match (receipt, &slot.proof) {
                        (true, None) if !same => self.begin_chase(&key),
                        (true, _) => {}
                        (false, _) => (slot.proof, slot.chase) = Default::default(),
                    }
                    let Some(slot) = self.slots.get_mut(&key) else { continue };
                    if !same || slot.trouble.is_some() || slot.lists_behind.is_some() {
                        self.rewrite(&key);
                    }
                    done.changed += usize::from(!same);
                }
            }
        }
        self.reconcile(&Changed::All);
        self.follow_federation();
        done
    }
}

fn clear(shared: &crate::shared::Shared, delivery: &Delivery, folder: &SlotFolder) {
    let cleared = folder
        .clear(delivery, shared.domain.as_str())
        .and_then(|()| shared.store.forget_delivery(delivery));
    if let Err(problem) = cleared {
        shared.problem("deliver", &delivery.directory().display().to_string(), &problem);
    }
}
