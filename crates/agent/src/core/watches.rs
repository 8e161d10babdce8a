//! Socket callers that look at what they may have. Callers who prove the same share one view; a view is computed anew
//! only after something changed, and sent only when it differs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use mintage_identity::{EntryName, Selector};
use tokio::sync::watch;

use super::{
    Core, boot,
    entries::Changed,
    interest::{GroupId, Interest},
    slot::{Purpose, Slot, SlotKey},
};
use crate::{
    config::SocketLimit,
    limits::FIRST_SVID_WAIT,
    rotation::Event,
    status::{AgentStatus, HeldStatus},
    workload::{Want, WhoAmI, WorkloadView},
};

type Proven = Arc<BTreeSet<Selector>>;

/// All callers with the same selectors and the same want.
pub(super) struct Group {
    pub(super) proven: Proven,
    pub(super) want: Want,
    view: watch::Sender<WorkloadView>,
    /// The entries whose identities the last answer had; empty before there was one.
    pub(super) shown: Vec<EntryName>,
    /// Until then the first answer waits for certificates that are being fetched.
    patient_until: Duration,
}

/// The groups.
#[derive(Default)]
pub(super) struct Watches {
    ids: HashMap<(Proven, Want), GroupId>,
    groups: BTreeMap<GroupId, Group>,
    next: GroupId,
    pub(super) interest: Interest,
    /// Groups that were given no first answer yet.
    waiting: BTreeSet<GroupId>,
    /// There was no room for an identity that somebody wants.
    full: bool,
    entries_changed: Changed,
}

impl Watches {
    /// Something that all views are made of has changed.
    pub(super) fn touch(&mut self) {
        self.interest.all_changed();
    }

    /// Callers may have other entries now, or entries say other things.
    pub(super) fn touch_entries(&mut self, changed: Changed) {
        self.entries_changed.and(changed);
    }

    /// What this slot holds has changed, or what keeps it from holding something.
    pub(super) fn touch_slot(&mut self, key: &SlotKey) {
        if let SlotKey::Workload(entry) = key {
            self.interest.entry_changed(entry);
        }
    }

    /// When the patience of some group ends.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let waiting = self.waiting.iter().filter_map(|id| self.groups.get(id));
        waiting.map(|group| group.patient_until).min()
    }

    /// Forgets the groups that nobody is of any more. Nobody says so as he leaves: it is looked at now and then.
    pub(super) fn forget_unwatched(&mut self) {
        let unwatched = self.groups.iter().filter(|(_, group)| group.view.receiver_count() == 0);
        let gone: Vec<GroupId> = unwatched.map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.forget(id));
    }

    fn forget(&mut self, id: GroupId) {
        let Some(group) = self.groups.remove(&id) else { return };
        self.ids.remove(&(group.proven, group.want));
        self.waiting.remove(&id);
        self.interest.remove(id);
    }
}

impl Core {
    /// Begins to watch; what is needed for it and not there is asked for.
    pub(super) fn watch(&mut self, proven: Proven, want: Want) -> Result<watch::Receiver<WorkloadView>, String> {
        let key = (proven.clone(), want);
        if let Some(id) = self.watches.ids.get(&key).copied() {
            let known = self
                .watches
                .groups
                .get(&id)
                .filter(|group| group.view.receiver_count() > 0);
            if let Some(group) = known {
                return Ok(group.view.subscribe());
            }
            // Whoever comes after the last has left is a first caller again, and is waited for as one.
            self.watches.forget(id);
        }
        let most = self.shared.limits.count(SocketLimit::Streams);
        if self.watches.groups.len() >= most {
            self.watches.forget_unwatched();
        }
        if self.watches.groups.len() >= most {
            return Err(format!("more than {most} different callers are watching"));
        }
        let (view, receiver) = watch::channel(WorkloadView::Pending);
        let id = self.watches.next;
        self.watches.next += 1;
        self.watches.ids.insert(key, id);
        let group = Group {
            proven,
            want,
            view,
            shown: Vec::new(),
            patient_until: boot(self.shared.deps.now()) + FIRST_SVID_WAIT,
        };
        self.watches.waiting.insert(id);
        self.index(id, &group);
        self.watches.groups.insert(id, group);
        // The caller's first answer must not wait for the next turn of everything else.
        self.publish_watches();
        Ok(receiver)
    }

    /// Notes what a group may have now.
    fn index(&mut self, id: GroupId, group: &Group) {
        let matching = self.entries.matching(&group.proven);
        let names = matching.map(|(name, _)| name.clone()).collect();
        self.watches.interest.set(id, names, group.want == Want::Svids);
    }

    /// Whether a group's answer may be another by these entries: it may have one of them, or could; or it has none, and is
    /// told which there are.
    fn concerns(&self, changed: &Changed, id: GroupId, group: &Group) -> bool {
        let Changed::These(names) = changed else { return true };
        let has = self.watches.interest.entries(id);
        let gains = |name: &EntryName| self.entries.get(name).is_some_and(|entry| entry.gives(&group.proven));
        has.is_empty() || names.iter().any(|name| has.binary_search(name).is_ok() || gains(name))
    }

    /// How many more identities may be held for callers.
    pub(super) fn room_for_workloads(&self) -> usize {
        let most = self.shared.limits.count(SocketLimit::Identities);
        most.saturating_sub(self.slots.workloads())
    }

    /// Makes the slots that changed groups need.
    fn fill_slots(&mut self) {
        let mut missing = BTreeSet::new();
        for id in self.watches.interest.changed() {
            if self
                .watches
                .groups
                .get(&id)
                .is_some_and(|group| group.want == Want::Svids)
            {
                let names = self.watches.interest.entries(id).iter();
                let keys = names.map(|name| SlotKey::Workload(name.clone()));
                missing.extend(keys.filter(|key| !self.slots.contains_key(key)));
            }
        }
        if missing.is_empty() {
            return;
        }
        let room = self.room_for_workloads();
        self.note_room(missing.len() <= room);
        for key in missing.into_iter().take(room) {
            let SlotKey::Workload(entry) = &key else { continue };
            let Some(ttl) = self.entries.get(entry).map(|entry| entry.ttl) else {
                continue;
            };
            let entry = entry.clone();
            self.slots.insert(key.clone(), Slot::new(Purpose::Workload { entry }));
            self.feed(&key, Event::Want { ttl });
            if self.upstream.is_some() {
                self.feed(&key, Event::Online);
            }
        }
    }

    /// Notes whether there is room for every identity that callers want: told as it ends, and counted each time.
    fn note_room(&mut self, room: bool) {
        let was_full = std::mem::replace(&mut self.watches.full, !room);
        match (room, was_full) {
            (true, _) => {}
            (false, true) => self.shared.metrics.failure("limit"),
            (false, false) => self.shared.problem("limit", "socket", &self.no_room()),
        }
    }

    /// What callers are told who want more identities than there is room for.
    pub(super) fn no_room(&self) -> String {
        let limit = SocketLimit::Identities;
        format!(
            "callers of the socket want more identities than this agent may hold ({}): raise `{}` in [limits] of its configuration, or give \
             fewer entries to each",
            self.shared.limits.get(limit),
            limit.name()
        )
    }

    /// Whether any caller looks at this slot's entry.
    pub(super) fn is_watched(&self, key: &SlotKey) -> bool {
        let SlotKey::Workload(name) = key else { return true };
        let Some(entry) = self.entries.get(name) else {
            return false;
        };
        let mut groups = self
            .watches
            .interest
            .groups(name)
            .filter_map(|id| self.watches.groups.get(&id));
        groups.any(|group| group.view.receiver_count() > 0 && entry.gives(&group.proven))
    }

    /// Forgets identities in memory that no entry stands for any more, or that ended while nobody looked.
    pub(super) fn drop_idle_workloads(&mut self) {
        if !self.entries.known() {
            return;
        }
        let now = self.shared.deps.now();
        let ended = |key: &SlotKey, slot: &Slot| {
            !slot.rotation.wanted() || slot.held.is_some() && !slot.rotation.serving(now) && !self.is_watched(key)
        };
        let gone = |key: &SlotKey, slot: &Slot| matches!(key, SlotKey::Workload(_)) && ended(key, slot);
        for key in self.slots.touched_of(gone) {
            self.drop_slot(&key);
        }
    }

    /// Computes and publishes what changed.
    pub(super) fn publish_watches(&mut self) {
        let now = boot(self.shared.deps.now());
        let changed = std::mem::take(&mut self.watches.entries_changed);
        if changed != Changed::default() {
            let groups = std::mem::take(&mut self.watches.groups);
            let concerned = groups.iter().filter(|(id, group)| self.concerns(&changed, **id, group));
            let concerned: Vec<_> = concerned.collect();
            concerned.into_iter().for_each(|(id, group)| self.index(*id, group));
            self.watches.groups = groups;
        }
        let Watches {
            waiting,
            groups,
            interest,
            ..
        } = &mut self.watches;
        let late = |id: &&GroupId| groups.get(*id).is_some_and(|group| now >= group.patient_until);
        waiting.iter().filter(late).for_each(|id| interest.group_changed(*id));
        self.fill_slots();
        self.ask_for_due();
        for id in self.watches.interest.take_changed() {
            let Some(group) = self.watches.groups.get(&id) else {
                continue;
            };
            let patient = self.watches.waiting.contains(&id) && now < group.patient_until;
            let (view, shown) = self.view(id, group, patient);
            let Some(group) = self.watches.groups.get_mut(&id) else {
                continue;
            };
            match view {
                WorkloadView::Pending => self.watches.waiting.insert(id),
                _ => self.watches.waiting.remove(&id),
            };
            group.shown = shown;
            group.view.send_if_modified(|old| {
                let modified = *old != view;
                if modified {
                    *old = view;
                }
                modified
            });
        }
    }

    pub(super) fn who_am_i(&self, proven: &BTreeSet<Selector>) -> WhoAmI {
        let entries = self.entries.iter();
        WhoAmI {
            entries: entries
                .map(|(name, entry)| (name.clone(), entry.spiffe_id.clone(), entry.why_not(name, proven)))
                .collect(),
        }
    }

    pub(super) fn status(&self) -> AgentStatus {
        let now = self.shared.deps.now();
        let of = |slot: &Slot| HeldStatus {
            entry: slot.entry().map(ToString::to_string).unwrap_or_default(),
            directory: slot.delivery().map(|delivery| delivery.directory().to_owned()),
            spiffe_id: slot.held.as_ref().map(|held| held.id().clone()),
            serial: slot.held.as_ref().map(|held| *held.serial()),
            not_after: slot.held.as_ref().map(|held| held.not_after()),
            serving: slot.serving(now),
            // Hooks come after the files; what keeps those back is told first.
            problem: slot
                .trouble
                .as_ref()
                .or(slot.lists_behind.as_ref())
                .or(slot.acting.trouble.as_ref())
                .map(|trouble| format!("{}: {}", trouble.stage, trouble.message)),
        };
        let view = self.shared.view.load();
        AgentStatus {
            spiffe_id: self.own_id.clone(),
            not_after: self.shared.own.load().as_ref().map(|own| own.leaf.not_after()),
            own_valid: self
                .shared
                .own
                .load()
                .as_ref()
                .is_some_and(|own| now.wall <= own.leaf.not_after()),
            connected: self.upstream.is_some(),
            disconnected_because: self.upstream.is_none().then(|| self.down_because.clone()),
            entries_known: self.entries.known(),
            bundle_sequence: self.shared.bundle.load().as_ref().map(|bundle| bundle.sequence()),
            revocation_sequence: view.sequence(),
            revocation_age: view.age(now.wall),
            refused_older: self.shared.refused_older(),
            no_descriptors: self.shared.no_descriptors(),
            lists_left_out: self.shared.lists_left_out(),
            deliveries: self
                .slots
                .values()
                .filter(|slot| slot.delivery().is_some())
                .map(of)
                .collect(),
            workloads: self
                .slots
                .values()
                .filter(|s| matches!(s.purpose, Purpose::Workload { .. }))
                .map(of)
                .collect(),
        }
    }

    /// Ends what is under way: streams of callers close, writes that were begun come to their end.
    pub(super) async fn finish(mut self, inputs: tokio::sync::mpsc::Receiver<super::Input>) {
        drop(inputs);
        drop(std::mem::take(&mut self.watches));
        let all = u32::try_from(crate::limits::WRITERS_MAX).unwrap_or(1);
        let writers = self.writers.clone();
        let _permits = writers.acquire_many(all).await;
        self.keep_the_rest().await;
    }
}
