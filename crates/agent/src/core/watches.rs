//! Socket callers that look at what they may have. Callers who prove the same share one view; a view is computed anew
//! only after something changed, and sent only when it differs.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use mintage_identity::Selector;
use tokio::sync::watch;

use super::{
    Core, boot,
    slot::{Purpose, Slot, SlotKey},
};
use crate::{
    limits::{FIRST_SVID_WAIT, WATCHES_MAX, WORKLOADS_MAX},
    rotation::Event,
    status::{AgentStatus, HeldStatus},
    workload::{Want, WhoAmI, WorkloadSvid, WorkloadView},
};

type Proven = Arc<BTreeSet<Selector>>;

/// All callers with the same selectors and the same want.
struct Group {
    view: watch::Sender<WorkloadView>,
    /// Until then the first answer waits for certificates that are being fetched.
    patient_until: Duration,
    /// A first answer was given.
    answered: bool,
}

/// The groups.
#[derive(Default)]
pub(super) struct Watches {
    groups: HashMap<(Proven, Want), Group>,
    changed: bool,
}

impl Watches {
    /// Something that views are made of has changed.
    pub(super) fn touch(&mut self) {
        self.changed = true;
    }

    /// When the patience of some group ends.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.groups
            .values()
            .filter(|group| !group.answered)
            .map(|group| group.patient_until)
            .min()
    }
}

impl Core {
    /// Begins to watch; what is needed for it and not there is asked for.
    pub(super) fn watch(&mut self, proven: Proven, want: Want) -> Result<watch::Receiver<WorkloadView>, String> {
        let key = (proven, want);
        if let Some(group) = self.watches.groups.get(&key) {
            return Ok(group.view.subscribe());
        }
        if self.watches.groups.len() >= WATCHES_MAX {
            return Err(format!("more than {WATCHES_MAX} different callers are watching"));
        }
        let (view, receiver) = watch::channel(WorkloadView::Pending);
        let group = Group {
            view,
            patient_until: boot(self.shared.deps.now()) + FIRST_SVID_WAIT,
            answered: false,
        };
        self.watches.groups.insert(key, group);
        self.watches.touch();
        // The caller's first answer must not wait for the next turn of everything else.
        self.publish_watches();
        Ok(receiver)
    }

    /// Makes the slots that watched entries need.
    fn fill_slots(&mut self) {
        let mut missing = BTreeSet::new();
        for (proven, want) in self.watches.groups.keys() {
            if *want == Want::Svids {
                let matching = self.entries.matching(proven);
                missing.extend(
                    matching
                        .map(|(name, entry)| (SlotKey::Workload(name.clone()), entry.ttl))
                        .filter(|(key, _)| !self.slots.contains_key(key)),
                );
            }
        }
        let held = self
            .slots
            .keys()
            .filter(|key| matches!(key, SlotKey::Workload(_)))
            .count();
        for (key, ttl) in missing.into_iter().take(WORKLOADS_MAX.saturating_sub(held)) {
            let SlotKey::Workload(entry) = &key else { continue };
            let entry = entry.clone();
            self.slots.insert(key.clone(), Slot::new(Purpose::Workload { entry }));
            self.feed(&key, Event::Want { ttl });
            if self.upstream.is_some() {
                self.feed(&key, Event::Online);
            }
        }
    }

    /// Whether any caller looks at this slot's entry.
    pub(super) fn is_watched(&self, key: &SlotKey) -> bool {
        let SlotKey::Workload(name) = key else { return true };
        let Some(entry) = self.entries.get(name) else {
            return false;
        };
        self.watches.groups.iter().any(|((proven, want), group)| {
            *want == Want::Svids && group.view.receiver_count() > 0 && entry.gives(proven)
        })
    }

    /// Forgets identities in memory that no entry stands for any more, or that ended while nobody looked.
    pub(super) fn drop_idle_workloads(&mut self) {
        if !self.entries.known() {
            return;
        }
        let now = self.shared.deps.now();
        let ended = |core: &Self, key: &SlotKey, slot: &Slot| {
            !slot.rotation.wanted() || slot.held.is_some() && !slot.rotation.serving(now) && !core.is_watched(key)
        };
        let gone: Vec<SlotKey> = self
            .slots
            .iter()
            .filter(|(key, slot)| matches!(key, SlotKey::Workload(_)) && ended(self, key, slot))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.drop_slot(&key);
            self.watches.touch();
        }
    }

    /// Computes and publishes what changed.
    pub(super) fn publish_watches(&mut self) {
        let now = boot(self.shared.deps.now());
        let before = self.watches.groups.len();
        self.watches.groups.retain(|_, group| group.view.receiver_count() > 0);
        let impatient = self
            .watches
            .groups
            .values()
            .any(|group| !group.answered && now >= group.patient_until);
        if !self.watches.changed && !impatient && before == self.watches.groups.len() {
            return;
        }
        self.watches.changed = false;
        self.fill_slots();
        self.ask_for_due();
        let mut groups = std::mem::take(&mut self.watches.groups);
        for ((proven, want), group) in &mut groups {
            let patient = !group.answered && now < group.patient_until;
            let view = self.view(proven, *want, patient);
            group.answered = view != WorkloadView::Pending;
            group.view.send_if_modified(|old| {
                let modified = *old != view;
                if modified {
                    *old = view;
                }
                modified
            });
        }
        self.watches.groups = groups;
    }

    fn view(&self, proven: &BTreeSet<Selector>, want: Want, patient: bool) -> WorkloadView {
        if !self.entries.known() {
            if patient {
                return WorkloadView::Pending;
            }
            let why = format!(
                "the agent has not heard from the CA since it started ({})",
                self.down_because
            );
            return WorkloadView::Unavailable(why.into());
        }
        let matching: Vec<_> = self.entries.matching(proven).collect();
        if matching.is_empty() {
            return WorkloadView::Denied(self.entries.explain_none(proven).into());
        }
        let Some(bundle) = self.shared.bundle.load_full() else {
            return WorkloadView::Unavailable("there is no trust bundle yet".into());
        };
        let crls = self.shared.crls.load_full();
        if want == Want::Bundles {
            let svids = Arc::default();
            return WorkloadView::Ready { svids, bundle, crls };
        }
        let now = self.shared.deps.now();
        let (mut svids, mut missing, mut failed) = (Vec::new(), 0, None);
        let mut hints = BTreeSet::new();
        for (name, entry) in matching {
            let slot = self.slots.get(&SlotKey::Workload(name.clone()));
            let ready = slot
                .filter(|slot| slot.rotation.serving(now))
                .and_then(|slot| slot.held.clone());
            match ready.filter(|held| *held.id() == entry.spiffe_id) {
                Some(held) => {
                    // A hint names one identity only; the first of two keeps it.
                    let unique = entry.hint.is_empty() || hints.insert(entry.hint.as_str());
                    let hint = if unique { entry.hint.clone() } else { String::new() };
                    svids.push(WorkloadSvid { held, hint });
                }
                None => match slot.and_then(|slot| slot.trouble.as_ref()) {
                    Some(trouble) => failed = Some(trouble.message.clone()),
                    None => missing += 1,
                },
            }
        }
        if missing > 0 && patient {
            return WorkloadView::Pending;
        }
        if svids.is_empty() {
            let why = failed.unwrap_or_else(|| match &self.upstream {
                Some(_) => "the CA has not answered yet".to_owned(),
                None => format!("the CA cannot be reached ({})", self.down_because),
            });
            return WorkloadView::Unavailable(why.into());
        }
        let svids = Arc::new(svids);
        WorkloadView::Ready { svids, bundle, crls }
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
            serving: slot.held.is_some() && slot.rotation.serving(now),
            // Hooks come after the files; what keeps those back is told first.
            problem: slot
                .trouble
                .as_ref()
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
    pub(super) async fn finish(self, inputs: tokio::sync::mpsc::Receiver<super::Input>) {
        drop(inputs);
        drop(self.watches);
        let all = u32::try_from(crate::limits::WRITERS_MAX).unwrap_or(1);
        let _permits = self.writers.acquire_many(all).await;
    }
}
