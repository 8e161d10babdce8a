//! What callers who prove the same may have now, as one answer.
//!
//! Clients take the first identity of an answer for their own, and drop what an answer lacks. So no answer is given in which
//! another identity would come first only because the first one failed, and a first answer is whole. What changes the first
//! identity is a change of the entries at the CA.

use std::{collections::BTreeSet, sync::Arc};

use mintage_identity::EntryName;

use super::{
    Core,
    entries::Offered,
    interest::GroupId,
    slot::{Slot, SlotKey},
    watches::Group,
};
use crate::{
    held::Held,
    rotation::Now,
    workload::{Given, Trusted, Want, WorkloadSvid, WorkloadView},
};

/// Why an identity is not there.
enum Missing {
    /// It is asked for, or will be when the CA can be reached.
    Coming(String),
    /// The CA has said no, and that asking again is of no use.
    Refused(String),
    /// There is no room for it.
    NoRoom(String),
}

/// An answer, and the entries whose identities it has.
type Answer = (WorkloadView, Vec<EntryName>);

impl Core {
    pub(super) fn view(&self, id: GroupId, group: &Group, patient: bool) -> Answer {
        let none = |view: WorkloadView| (view, Vec::new());
        let unheard = |more: &str| match patient {
            true => none(WorkloadView::Pending),
            false => none(WorkloadView::Unavailable(format!("{}{more}", self.silence()).into())),
        };
        if !self.entries.known() {
            return unheard("");
        }
        let names = self.watches.interest.entries(id).iter();
        let offered = names.filter_map(|name| Some((name, self.entries.get(name)?)));
        // The index is for speed; what decides is the entry.
        let matching: Vec<_> = offered.filter(|(_, entry)| entry.gives(&group.proven)).collect();
        if matching.is_empty() {
            return match self.entries.heard() {
                true => none(WorkloadView::Denied(self.entries.explain_none(&group.proven).into())),
                // There may be one by now.
                false => unheard("; no entry that it named before matches"),
            };
        }
        let Some(bundle) = self.shared.bundle.load_full() else {
            return none(WorkloadView::Unavailable("there is no trust bundle yet".into()));
        };
        let named = matching.iter().flat_map(|(_, entry)| &entry.federates_with);
        let trust = Trusted {
            federated: self.shared.federation.load().of(named),
            bundle,
            crls: self.shared.crls.load_full(),
        };
        match group.want {
            Want::Bundles => none(WorkloadView::Ready(Arc::new(Given::new(Vec::new(), trust)))),
            Want::Svids => self.svids(&matching, &group.shown, trust, patient),
        }
    }

    /// The identities of these entries, in their order.
    fn svids(&self, matching: &[(&EntryName, &Offered)], shown: &[EntryName], trust: Trusted, patient: bool) -> Answer {
        let now = self.shared.deps.now();
        let was_shown = |name: &EntryName| shown.binary_search(name).is_ok();
        // Whoever was given none of them yet is a first caller.
        let first_answer = !matching.iter().any(|(name, _)| was_shown(name));
        let mut leads = true;
        let (mut svids, mut has, mut left_out) = (Vec::new(), Vec::new(), 0);
        let mut hints = BTreeSet::new();
        for (name, entry) in matching {
            // To whom an answer was given, an entry that is new is one only when its identity is there.
            let expected = first_answer || was_shown(name);
            match self.identity_of(name, entry, now) {
                Ok(held) => {
                    // A hint names one identity only; the first of two keeps it.
                    let unique = entry.hint.is_empty() || hints.insert(entry.hint.as_str());
                    let hint = if unique { entry.hint.clone() } else { String::new() };
                    svids.push(WorkloadSvid { held, hint });
                    has.push((*name).clone());
                }
                Err(missing) => {
                    let refused = matches!(missing, Missing::Refused(_));
                    if expected && (leads || first_answer && !refused) {
                        return (self.incomplete(name, missing, patient), Vec::new());
                    }
                    left_out += usize::from(!matches!(missing, Missing::Coming(_)));
                }
            }
            leads &= !expected;
        }
        (
            WorkloadView::Ready(Arc::new(Given::new(svids, trust).without(left_out))),
            has,
        )
    }

    /// The answer while the identity of this entry keeps it from being whole.
    fn incomplete(&self, name: &EntryName, missing: Missing, patient: bool) -> WorkloadView {
        let why = match missing {
            Missing::Coming(_) if patient => return WorkloadView::Pending,
            Missing::Coming(why) | Missing::Refused(why) | Missing::NoRoom(why) => why,
        };
        let told =
            format!("the identity of entry {name} is not there, and without it the set would be another one: {why}");
        WorkloadView::Unavailable(told.into())
    }

    /// The certificate of an entry, if it is in hand, has not ended, and is for what the entry says now.
    fn identity_of(&self, name: &EntryName, entry: &Offered, now: Now) -> Result<Arc<Held>, Missing> {
        let slot = self.slots.get(&SlotKey::Workload(name.clone()));
        let Some(slot) = slot else {
            return Err(match self.room_for_workloads() {
                0 => Missing::NoRoom(self.no_room()),
                _ => Missing::Coming(self.silence()),
            });
        };
        let held = slot.held.as_ref().filter(|_| slot.rotation.serving(now));
        let held = held.filter(|held| *held.id() == entry.spiffe_id);
        held.cloned().ok_or_else(|| self.missing(slot))
    }

    fn missing(&self, slot: &Slot) -> Missing {
        match &slot.trouble {
            Some(trouble) if slot.refused => Missing::Refused(trouble.message.clone()),
            Some(trouble) => Missing::Coming(trouble.message.clone()),
            None => Missing::Coming(self.silence()),
        }
    }

    /// Why nothing has come from the CA.
    pub(super) fn silence(&self) -> String {
        match &self.upstream {
            _ if !self.entries.heard() => {
                format!(
                    "the agent has not heard from the CA since it started ({})",
                    self.down_because
                )
            }
            Some(_) => "the CA has not answered yet".to_owned(),
            None => format!("the CA cannot be reached ({})", self.down_because),
        }
    }
}
