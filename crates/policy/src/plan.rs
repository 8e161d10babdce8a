//! What an apply would change: creations, updates field by field, deletions, and entries that would clash.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mintage_identity::{AgentPattern, EntryName, Selector, SpiffeId};

use crate::entry::{Entry, RawEntry};
use crate::limits::PROBLEMS_MAX;

/// One field that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldDiff {
    /// The field, as it is written in a file.
    pub field: &'static str,
    /// What it was.
    pub before: String,
    /// What it becomes.
    pub after: String,
}

/// An entry that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The entry as it becomes.
    pub entry: Entry,
    /// The revision it was planned against; the change is refused when the entry moved on since.
    pub revision: u64,
    /// The fields that change; never empty.
    pub diffs: Vec<FieldDiff>,
}

/// The difference between what stands and what is desired. Every list is ordered by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Entries that do not exist yet.
    pub create: Vec<Entry>,
    /// Entries that change.
    pub update: Vec<Change>,
    /// Entries that go, with the revision they were planned against; empty unless pruning was asked for.
    pub delete: Vec<(EntryName, u64)>,
    /// Entries that stay as they are.
    pub unchanged: Vec<EntryName>,
    /// Pairs that would give the same identity to the same workload; a plan with any is refused.
    pub conflicts: Vec<(EntryName, EntryName)>,
}

impl Plan {
    /// True when applying it would change nothing.
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.update.is_empty() && self.delete.is_empty()
    }
}

/// Plans the way from `current` (entries with their revisions) to `desired`. Entries that are not desired stay unless
/// `prune`. When a name comes twice in `desired` the last one counts.
pub fn plan(current: &[(Entry, u64)], desired: &[Entry], prune: bool) -> Plan {
    let standing: BTreeMap<&EntryName, (&Entry, u64)> = current
        .iter()
        .map(|(entry, revision)| (entry.name(), (entry, *revision)))
        .collect();
    let wanted: BTreeMap<&EntryName, &Entry> = desired.iter().map(|entry| (entry.name(), entry)).collect();
    let mut plan = Plan::default();
    for (name, entry) in &wanted {
        match standing.get(name) {
            None => plan.create.push((*entry).clone()),
            Some((before, revision)) => {
                let diffs = field_diffs(before, entry);
                if diffs.is_empty() {
                    plan.unchanged.push((*name).clone());
                } else {
                    plan.update.push(Change {
                        entry: (*entry).clone(),
                        revision: *revision,
                        diffs,
                    });
                }
            }
        }
    }
    let rest = standing.iter().filter(|(name, _)| !wanted.contains_key(*name));
    let mut after: Vec<&Entry> = wanted.values().copied().collect();
    for (name, (entry, revision)) in rest {
        if prune {
            plan.delete.push(((*name).clone(), *revision));
        } else {
            after.push(entry);
        }
    }
    plan.conflicts = duplicates(after);
    plan
}

/// The fields in which two entries of one name differ, in the order of the documentation.
pub(crate) fn field_diffs(before: &Entry, after: &Entry) -> Vec<FieldDiff> {
    fields(&before.to_raw())
        .into_iter()
        .zip(fields(&after.to_raw()))
        .filter(|((_, before), (_, after))| before != after)
        .map(|((field, before), (_, after))| FieldDiff { field, before, after })
        .collect()
}

/// Each field as one text, which is injective for every field that was validated.
fn fields(raw: &RawEntry) -> [(&'static str, String); 15] {
    [
        ("name", raw.name.clone()),
        ("spiffe_id", raw.spiffe_id.clone()),
        ("agents", raw.agents.join(", ")),
        ("selectors", raw.selectors.join(", ")),
        ("ttl", format!("{}s", raw.ttl_seconds)),
        ("dns_names", raw.dns_names.join(", ")),
        ("common_name", raw.common_name.clone()),
        ("hint", raw.hint.clone()),
        ("owner", raw.owner.clone()),
        ("environment", raw.environment.clone()),
        ("purpose", raw.purpose.clone()),
        ("disabled", raw.disabled.to_string()),
        ("jwt_forbidden", raw.jwt_forbidden.to_string()),
        ("jwt_audiences", quoted(&raw.jwt_audiences)),
        ("federates_with", raw.federates_with.join(", ")),
    ]
}

/// Audiences may hold a comma, so each is quoted.
fn quoted(texts: &[String]) -> String {
    let each: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    each.join(", ")
}

/// Pairs of entries that would give the same identity to the same workload, each once, ordered by name; at most
/// [`PROBLEMS_MAX`].
pub(crate) fn duplicates<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<(EntryName, EntryName)> {
    let mut groups: HashMap<(&SpiffeId, &BTreeSet<Selector>), Vec<&Entry>> = HashMap::new();
    for entry in entries {
        groups
            .entry((entry.spiffe_id(), entry.selectors()))
            .or_default()
            .push(entry);
    }
    let mut pairs = BTreeSet::new();
    for group in groups.into_values().filter(|group| group.len() > 1) {
        pairs_of(&group, &mut pairs);
        while pairs.len() > PROBLEMS_MAX {
            pairs.pop_last();
        }
    }
    pairs.into_iter().collect()
}

/// One entry per node is usual, so exact agents are looked up and only prefixes are held against the whole group.
fn pairs_of(group: &[&Entry], pairs: &mut BTreeSet<(EntryName, EntryName)>) {
    let mut by_agent: HashMap<&SpiffeId, Vec<&Entry>> = HashMap::new();
    let mut wide: Vec<&Entry> = Vec::new();
    for &entry in group {
        let mut is_wide = false;
        for pattern in entry.agents() {
            match pattern {
                AgentPattern::Exact(id) => by_agent.entry(id).or_default().push(entry),
                AgentPattern::Prefix(_) => is_wide = true,
            }
        }
        if is_wide {
            wide.push(entry);
        }
    }
    let mut note = |one: &Entry, other: &Entry| {
        if one.duplicates(other) {
            let (a, b) = (one.name().clone(), other.name().clone());
            pairs.insert(if a < b { (a, b) } else { (b, a) });
        }
        pairs.len() <= PROBLEMS_MAX
    };
    // Each holder is compared with the first of its agent alone: that is enough to refuse, and linear.
    let same_agent = by_agent
        .values()
        .flat_map(|holders| holders[1..].iter().map(|other| (holders[0], *other)));
    for (one, other) in same_agent {
        if !note(one, other) {
            return;
        }
    }
    for &one in &wide {
        for &other in group {
            if !note(one, other) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RawEntry;
    use crate::samples::{entry, raw};

    fn names(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| entry.name().as_str()).collect()
    }

    #[test]
    fn a_plan_tells_creations_updates_by_field_and_deletions_only_when_pruning() {
        let current: Vec<_> = ["keep", "change", "gone"].map(|name| (entry(&raw(name)), 5)).to_vec();
        let changed = entry(&RawEntry {
            ttl_seconds: 600,
            owner: "team-b".into(),
            ..raw("change")
        });
        let desired = [entry(&raw("new")), changed, entry(&raw("keep"))];
        let plan_of = |prune| plan(&current, &desired, prune);
        let with = plan_of(true);
        assert_eq!(names(&with.create), ["new"]);
        assert_eq!(with.unchanged[0].as_str(), "keep");
        let diff = |field, before: &str, after: &str| FieldDiff {
            field,
            before: before.into(),
            after: after.into(),
        };
        assert_eq!(
            with.update[0].diffs,
            [diff("ttl", "300s", "600s"), diff("owner", "team-a", "team-b")]
        );
        assert_eq!(with.update[0].revision, 5);
        assert_eq!(with.delete.len(), 1);
        assert_eq!((with.delete[0].0.as_str(), with.delete[0].1), ("gone", 5));
        assert!(plan_of(false).delete.is_empty());
        assert!(plan(&current, &[], false).is_empty() && !plan(&current, &[], true).is_empty());
    }

    #[test]
    fn applying_a_plan_leaves_nothing_to_plan() {
        let current: Vec<_> = ["a", "b"].map(|name| (entry(&raw(name)), 5)).to_vec();
        let desired = [entry(&raw("b")), entry(&raw("c"))];
        let first = plan(&current, &desired, true);
        let mut after: BTreeMap<EntryName, (Entry, u64)> = current
            .iter()
            .map(|(entry, revision)| (entry.name().clone(), (entry.clone(), *revision)))
            .collect();
        first.delete.iter().for_each(|(name, _)| drop(after.remove(name)));
        let new = first
            .create
            .iter()
            .chain(first.update.iter().map(|change| &change.entry));
        new.for_each(|entry| drop(after.insert(entry.name().clone(), (entry.clone(), 9))));
        let after: Vec<_> = after.into_values().collect();
        assert!(plan(&after, &desired, true).is_empty());
    }

    #[test]
    fn every_field_that_differs_is_told() {
        let before = entry(&RawEntry {
            jwt_audiences: vec!["x".into()],
            ..raw("web")
        });
        let after = RawEntry {
            name: "web".into(),
            spiffe_id: "spiffe://dev.test/other".into(),
            agents: vec!["spiffe://dev.test/mintage/agent/n2".into()],
            selectors: vec!["unix:uid:7".into()],
            ttl_seconds: 61,
            dns_names: vec!["x".into()],
            common_name: "x".into(),
            hint: "x".into(),
            owner: "x".into(),
            environment: "x".into(),
            purpose: "x".into(),
            disabled: true,
            jwt_forbidden: true,
            jwt_audiences: Vec::new(),
            federates_with: vec!["other.test".into()],
        };
        let told: Vec<_> = field_diffs(&before, &entry(&after))
            .into_iter()
            .map(|diff| diff.field)
            .collect();
        assert_eq!(told, &crate::ENTRY_FIELDS[1..]);
    }

    #[test]
    fn duplicate_entries_are_conflicts_unless_one_of_them_goes() {
        let twin = |name: &str| {
            entry(&RawEntry {
                name: name.into(),
                ..raw("web")
            })
        };
        let current = [(twin("old"), 5)];
        let pair = (EntryName::parse("new").unwrap(), EntryName::parse("old").unwrap());
        assert_eq!(plan(&current, &[twin("new")], false).conflicts, [pair]);
        assert!(
            plan(&current, &[twin("new")], true).conflicts.is_empty(),
            "a rename is no conflict"
        );
        assert_eq!(plan(&[], &[twin("a"), twin("b"), twin("c")], false).conflicts.len(), 2);
    }

    #[test]
    fn one_entry_for_each_of_many_nodes_is_planned_in_time() {
        let of_node = |n: usize| {
            let agents = vec![format!("spiffe://dev.test/mintage/agent/n{n}")];
            entry(&RawEntry {
                name: format!("web-{n}"),
                agents,
                ..raw("web")
            })
        };
        let fleet: Vec<_> = (0..20_000).map(of_node).collect();
        assert!(plan(&[], &fleet, false).conflicts.is_empty());
    }
}
