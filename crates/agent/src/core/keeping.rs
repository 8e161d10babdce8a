//! Keeping what callers of the socket are served, so that a restart while the CA is away takes nothing from them. Written
//! when it changes, a batch at a time, beside the core; what comes while a batch is written is in the next one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mintage_identity::{EntryName, UnixTime};
use mintage_svid::LeafInfo;
use tokio::task::spawn_blocking;

use super::{
    Core, Input, boot,
    entries::{Changed, Entries},
    slot::{Purpose, Slot, SlotKey},
};
use crate::{
    held::Unverified,
    kept::{Batch, Kept},
    limits::{ENTRIES_KEPT_EVERY, KEPT_AT_ONCE_MAX, PLACE_AGAIN_AFTER},
    rotation::Event,
};

/// What is not on disk yet.
#[derive(Default)]
pub(super) struct Keeping {
    /// None: nothing is kept.
    disk: Option<Arc<Kept>>,
    /// Entries whose pair is another than the one on disk.
    pairs: BTreeSet<EntryName>,
    /// The set of entries is another than the one on disk.
    entries: bool,
    /// Time since boot before which they are not written again.
    entries_not_before: Duration,
    /// A batch is being written.
    writing: bool,
    /// What was wrong with the last one, and when the next is tried.
    failed: Option<(String, Duration)>,
}

impl Keeping {
    /// The pair of this entry came, or went.
    pub(super) fn pair_changed(&mut self, entry: &EntryName) {
        if self.disk.is_some() {
            self.pairs.insert(entry.clone());
        }
    }

    /// The CA named other entries.
    pub(super) fn entries_changed(&mut self) {
        self.entries = self.disk.is_some();
    }

    /// When something is to be written that cannot be written yet, in time since boot.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        if self.writing || !self.entries && self.pairs.is_empty() {
            return None;
        }
        let entries = (self.entries && self.pairs.is_empty()).then_some(self.entries_not_before);
        [entries, self.failed.as_ref().map(|(_, at)| *at)]
            .into_iter()
            .flatten()
            .max()
    }
}

impl Core {
    /// Takes up what was kept before a restart, as far as it verifies and has not ended.
    pub(super) fn restore_kept(&mut self) {
        let disk = match Kept::open(&self.shared.store) {
            Ok(disk) => Arc::new(disk),
            Err(error) => {
                tracing::warn!(%error, "nothing can be kept for callers of the socket: workloads in the data directory cannot be opened");
                return;
            }
        };
        if !self.shared.keep {
            return disk.forget();
        }
        let agent = self.own_id.clone();
        if let Some(entries) = agent.and_then(|agent| disk.entries(&agent)) {
            for problem in self.entries.restore(&entries) {
                tracing::warn!(problem, "a kept entry is not used");
            }
        }
        let offered: Vec<_> = self.entries.iter().map(|(name, _)| name.clone()).collect();
        let (mut used, mut not_yet) = (BTreeSet::new(), BTreeSet::new());
        for entry in offered {
            if self.room_for_workloads() == 0 {
                break;
            }
            let Some(pair) = disk.pair(&entry) else { continue };
            // A clock that is not set yet makes nothing useless.
            let early = begins_after(&pair, self.shared.wall());
            if self.restore_workload(&entry, pair) {
                used.insert(entry);
            } else if early {
                not_yet.insert(entry);
            }
        }
        disk.forget_others(&used.union(&not_yet).cloned().collect());
        if !used.is_empty() {
            tracing::info!(
                identities = used.len(),
                "serving callers of the socket as before the restart"
            );
        }
        self.keeping.disk = Some(disk);
    }

    fn restore_workload(&mut self, entry: &EntryName, pair: Unverified) -> bool {
        let Some((id, ttl)) = self
            .entries
            .get(entry)
            .map(|offered| (offered.spiffe_id.clone(), offered.ttl))
        else {
            return false;
        };
        let key = SlotKey::Workload(entry.clone());
        let purpose = Purpose::Workload { entry: entry.clone() };
        let mut slot = Slot::new(purpose);
        let Some(held) = self.verify_saved(&slot.subject(), pair).filter(|held| *held.id() == id) else {
            return false;
        };
        let dates = Event::Restored {
            not_before: held.not_before(),
            not_after: held.not_after(),
        };
        slot.held = Some(held);
        self.slots.insert(key.clone(), slot);
        self.feed(&key, dates);
        self.feed(&key, Event::Want { ttl });
        let now = self.shared.deps.now();
        if self.slots.get(&key).is_some_and(|slot| slot.serving(now)) {
            return true;
        }
        self.slots.remove(&key);
        false
    }

    /// The CA does not take this agent any more, and has named no entries since the start: what was kept is withdrawn.
    pub(super) fn withdraw_kept(&mut self) {
        if self.entries.heard() || !self.entries.known() {
            return;
        }
        tracing::warn!("the CA refuses this agent; what was kept for callers of the socket is withdrawn");
        self.entries = Entries::default();
        for key in self
            .slots
            .keys_of(|slot| matches!(slot.purpose, Purpose::Workload { .. }))
        {
            self.drop_slot(&key);
        }
        self.keeping.entries_changed();
        self.watches.touch_entries(Changed::All);
    }

    /// Has what changed be written, unless something is being written.
    pub(super) fn keep(&mut self) {
        let now = boot(self.shared.deps.now());
        let Some(disk) = self.keeping.disk.clone().filter(|_| !self.keeping.writing) else {
            return;
        };
        if self.keeping.failed.as_ref().is_some_and(|(_, at)| now < *at) {
            return;
        }
        let batch = self.next_batch(now);
        if batch.entries.is_none() && batch.put.is_empty() && batch.gone.is_empty() {
            return;
        }
        self.keeping.writing = true;
        let (writers, inbox) = (self.writers.clone(), self.inbox.clone());
        tokio::spawn(async move {
            let Ok(permit) = writers.acquire().await else { return };
            let written = spawn_blocking(move || {
                let result = disk.write(&batch);
                (result, batch)
            });
            let Ok((result, batch)) = written.await else { return };
            drop(permit);
            let _ = inbox.send(Input::Kept { batch, result }).await;
        });
    }

    /// What is to be written next, as much as one batch holds.
    fn next_batch(&mut self, now: Duration) -> Batch {
        let mut batch = Batch::default();
        if let Some(agent) = self.own_id.clone()
            && self.keeping.entries
            // Pairs lie beside entries that are theirs.
            && (now >= self.keeping.entries_not_before || !self.keeping.pairs.is_empty())
        {
            self.keeping.entries = false;
            self.keeping.entries_not_before = now.saturating_add(ENTRIES_KEPT_EVERY);
            batch.entries = Some((agent, self.entries.to_wire()));
        }
        let names: Vec<_> = self.keeping.pairs.iter().take(KEPT_AT_ONCE_MAX).cloned().collect();
        for name in names {
            self.keeping.pairs.remove(&name);
            let slot = self.slots.get(&SlotKey::Workload(name.clone()));
            match slot.and_then(|slot| slot.held.clone()) {
                Some(held) => batch.put.push((name, held)),
                None => batch.gone.push(name),
            }
        }
        batch
    }

    /// A batch was written, or was not.
    pub(super) fn kept(&mut self, batch: &Batch, result: Result<(), String>) {
        self.keeping.writing = false;
        let Err(problem) = result else {
            self.keeping.failed = None;
            return;
        };
        self.keeping.entries |= batch.entries.is_some();
        let put = batch.put.iter().map(|(name, _)| name);
        self.keeping.pairs.extend(put.chain(&batch.gone).cloned());
        let again = boot(self.shared.deps.now()) + PLACE_AGAIN_AFTER;
        // The same again is counted, but told once.
        match &self.keeping.failed {
            Some((before, _)) if *before == problem => self.shared.metrics.failure("store"),
            _ => self.shared.problem("store", "workloads", &problem),
        }
        self.keeping.failed = Some((problem, again));
    }

    /// Nothing is kept from now on, and what was kept is to be removed.
    pub(super) fn stop_keeping(&mut self) -> Option<Arc<Kept>> {
        std::mem::take(&mut self.keeping).disk
    }

    /// Writes what is not written yet, as the agent ends. Called while no batch is being written.
    pub(super) async fn keep_the_rest(&mut self) {
        let Some(disk) = self.keeping.disk.clone() else { return };
        loop {
            let batch = self.next_batch(Duration::MAX);
            if batch.entries.is_none() && batch.put.is_empty() && batch.gone.is_empty() {
                return;
            }
            let disk = disk.clone();
            match spawn_blocking(move || disk.write(&batch)).await {
                Ok(Ok(())) => {}
                Ok(Err(problem)) => return self.shared.problem("store", "workloads", &problem),
                Err(_) => return,
            }
        }
    }
}

/// Whether a pair is good only after this time.
fn begins_after(pair: &Unverified, now: UnixTime) -> bool {
    let leaf = pair.chain.first().and_then(|der| LeafInfo::parse(der).ok());
    leaf.is_some_and(|leaf| leaf.not_before() > now)
}
