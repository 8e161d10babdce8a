//! The slots, and about which of them something is to be done: those that were touched since the last turn, and those whose
//! time has come. So a turn costs what it touches, however many identities are held.
//!
//! A slot's time is worked out as a turn leaves it. It depends on the wall clock too, which may be set; so all are looked
//! at anew after that, and as often as clocks are compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mintage_identity::EntryName;

use super::{
    boot,
    slot::{Slot, SlotKey},
};
use crate::{limits::TICK_MAX, rotation::Now};

/// A wall clock that has moved so much against the time since boot was set; what keeps it in step moves it less.
const STEP: Duration = Duration::from_secs(1);

/// All slots by their keys.
#[derive(Default)]
pub(super) struct Slots {
    slots: BTreeMap<SlotKey, Kept>,
    touched: BTreeSet<SlotKey>,
    times: BTreeSet<(Duration, SlotKey)>,
    /// Whose receipt is to be proven.
    chasing: BTreeSet<SlotKey>,
    /// How many slots are bounded by each lifetime.
    lives: BTreeMap<Duration, usize>,
    serving: usize,
    workloads: usize,
    /// When all were looked at.
    looked: Option<Now>,
}

struct Kept {
    slot: Slot,
    noted: Noted,
}

/// What was noted of a slot when a turn last left it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Noted {
    /// When something is to be done about it by itself, in time since boot.
    wake: Option<Duration>,
    chasing: bool,
    life: Option<Duration>,
    /// It is a workload's, and a certificate is in place that has not ended.
    serving: bool,
}

impl Noted {
    fn of(key: &SlotKey, slot: &Slot, now: Now) -> Self {
        Self {
            wake: slot.wake_at(now),
            chasing: slot.chase.wake_at().is_some(),
            life: slot.rotation.bounding_life(),
            serving: *key != SlotKey::Own && slot.serving(now),
        }
    }
}

impl Slots {
    pub(super) fn contains_key(&self, key: &SlotKey) -> bool {
        self.slots.contains_key(key)
    }

    pub(super) fn get(&self, key: &SlotKey) -> Option<&Slot> {
        self.slots.get(key).map(|kept| &kept.slot)
    }

    /// The slot to change: it is looked at in the next turn.
    pub(super) fn get_mut(&mut self, key: &SlotKey) -> Option<&mut Slot> {
        let kept = self.slots.get_mut(key)?;
        if !self.touched.contains(key) {
            self.touched.insert(key.clone());
        }
        Some(&mut kept.slot)
    }

    /// Adds a slot, or puts it in the place of the one that was there.
    pub(super) fn insert(&mut self, key: SlotKey, slot: Slot) {
        self.remove(&key);
        self.workloads += usize::from(matches!(key, SlotKey::Workload(_)));
        self.touched.insert(key.clone());
        let noted = Noted::default();
        self.slots.insert(key, Kept { slot, noted });
    }

    pub(super) fn remove(&mut self, key: &SlotKey) -> Option<Slot> {
        let kept = self.slots.remove(key)?;
        self.workloads -= usize::from(matches!(key, SlotKey::Workload(_)));
        self.touched.remove(key);
        self.note(key, kept.noted, Noted::default());
        Some(kept.slot)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&SlotKey, &Slot)> {
        self.slots.iter().map(|(key, kept)| (key, &kept.slot))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values().map(|kept| &kept.slot)
    }

    /// All of them, which are then no more.
    pub(super) fn take(&mut self) -> Vec<Slot> {
        let taken = std::mem::take(self);
        taken.slots.into_values().map(|kept| kept.slot).collect()
    }

    /// The keys of those for which this holds.
    pub(super) fn keys_of(&self, mut which: impl FnMut(&Slot) -> bool) -> Vec<SlotKey> {
        let these = self.iter().filter(|(_, slot)| which(slot));
        these.map(|(key, _)| key.clone()).collect()
    }

    /// The keys of the folders' slots for which this holds.
    pub(super) fn folders_of(&self, mut which: impl FnMut(&Slot) -> bool) -> Vec<SlotKey> {
        let folders = self.slots.iter().skip_while(|(key, _)| **key == SlotKey::Own);
        let folders = folders.take_while(|(key, _)| matches!(key, SlotKey::Delivery(_)));
        let these = folders.filter(|(_, kept)| which(&kept.slot));
        these.map(|(key, _)| key.clone()).collect()
    }

    /// The keys of what is held for an entry, in folders and in memory.
    pub(super) fn of_entry(&self, entry: &EntryName) -> Vec<SlotKey> {
        let mut keys = self.folders_of(|slot| slot.entry() == Some(entry));
        keys.extend(Some(SlotKey::Workload(entry.clone())).filter(|key| self.contains_key(key)));
        keys
    }

    /// How many are held in memory for callers.
    pub(super) fn workloads(&self) -> usize {
        self.workloads
    }

    /// How many workloads' certificates are in place that have not ended.
    pub(super) fn serving(&self) -> usize {
        self.serving
    }

    /// The shortest lifetime held or wanted.
    pub(super) fn shortest_life(&self) -> Option<Duration> {
        self.lives.first_key_value().map(|(life, _)| *life)
    }

    /// A turn begins: whose time has come is touched. True when all are, because the clocks are compared.
    pub(super) fn begin_turn(&mut self, now: Now) -> bool {
        let all = self.looked.is_none_or(|looked| {
            let passed = boot(now).saturating_sub(boot(looked));
            let apart = |by: Duration, of: Duration| by.saturating_sub(of) >= STEP;
            let forward = now.wall.since(looked.wall);
            passed >= TICK_MAX || apart(forward, passed) || apart(passed, forward) || now.wall < looked.wall
        });
        if all {
            self.looked = Some(now);
            self.touched.extend(self.slots.keys().cloned());
        }
        while let Some((at, _)) = self.times.first() {
            if *at > boot(now) {
                break;
            }
            let Some((_, key)) = self.times.pop_first() else { break };
            if let Some(kept) = self.slots.get_mut(&key) {
                kept.noted.wake = None;
            }
            self.touched.insert(key);
        }
        all
    }

    /// The keys of those of this turn for which this holds.
    pub(super) fn touched_of(&self, mut which: impl FnMut(&SlotKey, &Slot) -> bool) -> Vec<SlotKey> {
        let these = self.touched.iter().filter_map(|key| Some((key, self.get(key)?)));
        let these = these.filter(|(key, slot)| which(key, slot));
        these.map(|(key, _)| key.clone()).collect()
    }

    /// The keys of those whose receipt is to be proven now.
    pub(super) fn chasing(&self, now: Duration) -> Vec<SlotKey> {
        let due = |key: &&SlotKey| self.get(key).is_some_and(|slot| slot.chase.asked(now).is_some());
        self.chasing.iter().filter(due).cloned().collect()
    }

    /// When the next receipt is to be proven.
    pub(super) fn chase_wake_at(&self) -> Option<Duration> {
        let chasing = self.chasing.iter().filter_map(|key| self.get(key));
        chasing.filter_map(|slot| slot.chase.wake_at()).min()
    }

    /// A turn ends: the times of those that were touched are noted.
    pub(super) fn end_turn(&mut self, now: Now) {
        for key in std::mem::take(&mut self.touched) {
            let Some(kept) = self.slots.get_mut(&key) else { continue };
            let new = Noted::of(&key, &kept.slot, now);
            let old = std::mem::replace(&mut kept.noted, new);
            self.note(&key, old, new);
        }
    }

    /// When the first of them has something to do by itself, in time since boot.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.times.first().map(|(at, _)| *at)
    }

    fn note(&mut self, key: &SlotKey, old: Noted, new: Noted) {
        if old.wake != new.wake {
            old.wake.map(|at| self.times.remove(&(at, key.clone())));
            new.wake.map(|at| self.times.insert((at, key.clone())));
        }
        match (old.chasing, new.chasing) {
            (true, false) => _ = self.chasing.remove(key),
            (false, true) => _ = self.chasing.insert(key.clone()),
            _ => {}
        }
        if old.life != new.life {
            if let Some(life) = new.life {
                *self.lives.entry(life).or_default() += 1;
            }
            if let Some(life) = old.life
                && let Some(count) = self.lives.get_mut(&life)
            {
                *count -= 1;
                if *count == 0 {
                    self.lives.remove(&life);
                }
            }
        }
        self.serving = self.serving + usize::from(new.serving) - usize::from(old.serving);
    }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
