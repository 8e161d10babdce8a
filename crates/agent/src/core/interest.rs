//! Which groups of callers look at which entries, so that a change costs those whom it concerns and nobody else. Pure.

use std::collections::{BTreeSet, HashMap};

use mintage_identity::EntryName;

/// Names a group of callers who prove the same and want the same.
pub(super) type GroupId = u64;

/// What one group looks at.
#[derive(Debug, Default)]
struct Look {
    /// In the order of their names.
    entries: Vec<EntryName>,
    /// It wants certificates, so that a change of one concerns it.
    certificates: bool,
}

/// The index, and what has changed since it was last asked.
#[derive(Debug, Default)]
pub(super) struct Interest {
    looks: HashMap<GroupId, Look>,
    groups: HashMap<EntryName, BTreeSet<GroupId>>,
    changed: BTreeSet<GroupId>,
}

impl Interest {
    /// The group may have these entries from now on, which is a change.
    pub(super) fn set(&mut self, group: GroupId, entries: Vec<EntryName>, certificates: bool) {
        self.remove(group);
        if certificates {
            for entry in &entries {
                self.groups.entry(entry.clone()).or_default().insert(group);
            }
        }
        self.looks.insert(group, Look { entries, certificates });
        self.changed.insert(group);
    }

    /// The group is no more.
    pub(super) fn remove(&mut self, group: GroupId) {
        self.changed.remove(&group);
        let Some(look) = self.looks.remove(&group).filter(|look| look.certificates) else {
            return;
        };
        for entry in &look.entries {
            if let Some(groups) = self.groups.get_mut(entry) {
                groups.remove(&group);
                if groups.is_empty() {
                    self.groups.remove(entry);
                }
            }
        }
    }

    /// The certificate of this entry changed, or what keeps it back.
    pub(super) fn entry_changed(&mut self, entry: &EntryName) {
        self.changed.extend(self.groups.get(entry).into_iter().flatten());
    }

    /// Something of this group alone changed.
    pub(super) fn group_changed(&mut self, group: GroupId) {
        if self.looks.contains_key(&group) {
            self.changed.insert(group);
        }
    }

    /// Something that every answer is made of changed.
    pub(super) fn all_changed(&mut self) {
        self.changed.extend(self.looks.keys());
    }

    /// The groups that something changed for.
    pub(super) fn changed(&self) -> impl Iterator<Item = GroupId> {
        self.changed.iter().copied()
    }

    /// The same, which are then as if nothing had.
    pub(super) fn take_changed(&mut self) -> BTreeSet<GroupId> {
        std::mem::take(&mut self.changed)
    }

    /// What a group may have.
    pub(super) fn entries(&self, group: GroupId) -> &[EntryName] {
        self.looks.get(&group).map_or(&[], |look| &look.entries)
    }

    /// The groups that want certificates of this entry.
    pub(super) fn groups(&self, entry: &EntryName) -> impl Iterator<Item = GroupId> {
        self.groups.get(entry).into_iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u64) -> EntryName {
        EntryName::parse(&format!("w{n}")).unwrap()
    }

    #[test]
    fn a_change_of_one_entry_among_a_thousand_concerns_its_own_groups_alone() {
        let mut interest = Interest::default();
        for group in 0..1_000 {
            interest.set(group, vec![name(group), name(group / 2 + 5_000)], true);
        }
        interest.set(1_000, vec![name(7)], false);
        assert_eq!(interest.take_changed().len(), 1_001, "each is new");
        assert_eq!(interest.changed().count(), 0);

        interest.entry_changed(&name(7));
        assert_eq!(interest.take_changed(), [7].into(), "a bundle has no certificates");
        interest.entry_changed(&name(5_003));
        interest.entry_changed(&name(5_003));
        assert_eq!(interest.take_changed(), [6, 7].into());
        interest.entry_changed(&name(4_000));
        assert_eq!(interest.changed().count(), 0, "nobody looks at it");

        interest.all_changed();
        assert_eq!(interest.take_changed().len(), 1_001);
    }

    #[test]
    fn what_a_group_had_before_concerns_it_no_more() {
        let mut interest = Interest::default();
        interest.set(1, vec![name(1), name(2)], true);
        interest.set(2, vec![name(2)], true);
        interest.set(1, vec![name(3)], true);
        interest.take_changed();
        interest.entry_changed(&name(1));
        assert_eq!(interest.changed().count(), 0);
        assert_eq!(interest.groups(&name(2)).collect::<Vec<_>>(), [2]);
        assert_eq!(interest.entries(1), [name(3)]);

        interest.group_changed(1);
        interest.remove(1);
        interest.remove(2);
        interest.group_changed(2);
        assert_eq!(interest.changed().count(), 0, "a group that is gone is not asked for");
        assert!(
            interest.groups.is_empty() && interest.looks.is_empty(),
            "nothing is left behind"
        );
    }
}
