//! The entries with the two indexes that are asked: by agent, and by the identity they give.

use imbl::{OrdMap, OrdSet};
use mintage_identity::{AgentPattern, EntryName, SpiffeId};
use mintage_policy::Entry;

use crate::model::StandingEntry;

/// All standing entries. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct EntryTable {
    by_name: OrdMap<EntryName, StandingEntry>,
    /// Entries that name an agent exactly.
    by_agent: OrdMap<SpiffeId, OrdSet<EntryName>>,
    /// Entries with a prefix among their agents.
    wide: OrdSet<EntryName>,
    by_identity: OrdMap<SpiffeId, OrdSet<EntryName>>,
}

impl EntryTable {
    pub(crate) fn get(&self, name: &EntryName) -> Option<&StandingEntry> {
        self.by_name.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &StandingEntry> {
        self.by_name.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn insert(&mut self, standing: StandingEntry) {
        let name = standing.entry.name().clone();
        // A new revision mostly keeps agents and identity, and with them its places in the other indexes.
        if let Some(known) = self.by_name.get_mut(&name)
            && known.entry.agents() == standing.entry.agents()
            && known.entry.spiffe_id() == standing.entry.spiffe_id()
        {
            *known = standing;
            return;
        }
        self.remove(&name);
        for pattern in standing.entry.agents() {
            match pattern {
                AgentPattern::Exact(id) => _ = self.by_agent.entry(id.clone()).or_default().insert(name.clone()),
                AgentPattern::Prefix(_) => _ = self.wide.insert(name.clone()),
            }
        }
        let identity = standing.entry.spiffe_id().clone();
        self.by_identity.entry(identity).or_default().insert(name.clone());
        self.by_name.insert(name, standing);
    }

    pub(crate) fn remove(&mut self, name: &EntryName) {
        let Some(standing) = self.by_name.remove(name) else {
            return;
        };
        for pattern in standing.entry.agents() {
            if let AgentPattern::Exact(id) = pattern {
                forget(&mut self.by_agent, id, name);
            }
        }
        self.wide.remove(name);
        forget(&mut self.by_identity, standing.entry.spiffe_id(), name);
    }

    /// The entries for an agent, ordered by name.
    pub(crate) fn for_agent(&self, id: &SpiffeId) -> Vec<&StandingEntry> {
        let exact = self.by_agent.get(id).into_iter().flatten();
        let wide = self
            .wide
            .iter()
            .filter(|name| self.get(name).is_some_and(|s| s.entry.is_for_agent(id)));
        let mut names: Vec<&EntryName> = exact.chain(wide).collect();
        names.sort();
        names.dedup();
        names.into_iter().filter_map(|name| self.get(name)).collect()
    }

    /// The entries that give an identity, ordered by name.
    pub(crate) fn for_identity(&self, id: &SpiffeId) -> impl Iterator<Item = &StandingEntry> {
        self.by_identity
            .get(id)
            .into_iter()
            .flatten()
            .filter_map(|name| self.get(name))
    }

    /// An entry of another name that would give the same identity to the same workload.
    pub(crate) fn duplicate_of(&self, entry: &Entry) -> Option<&StandingEntry> {
        self.for_identity(entry.spiffe_id())
            .find(|standing| standing.entry.duplicates(entry))
    }

    /// What differs from an older table: the entry before and after. Shared parts are skipped, so that the cost is
    /// that of the difference.
    pub(crate) fn changes_since<'a>(&'a self, older: &'a Self) -> Vec<EntryChange> {
        older
            .by_name
            .diff(&self.by_name)
            .map(|item| match item {
                imbl::ordmap::DiffItem::Add(_, new) => EntryChange {
                    before: None,
                    after: Some(new.clone()),
                },
                imbl::ordmap::DiffItem::Update { old, new } => EntryChange {
                    before: Some(old.1.clone()),
                    after: Some(new.1.clone()),
                },
                imbl::ordmap::DiffItem::Remove(_, old) => EntryChange {
                    before: Some(old.clone()),
                    after: None,
                },
            })
            .collect()
    }
}

/// One entry that differs between two views; never none on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryChange {
    /// As it was; none for a new entry.
    pub before: Option<StandingEntry>,
    /// As it is; none for a deleted entry.
    pub after: Option<StandingEntry>,
}

fn forget(index: &mut OrdMap<SpiffeId, OrdSet<EntryName>>, id: &SpiffeId, name: &EntryName) {
    if let Some(names) = index.get_mut(id) {
        names.remove(name);
        if names.is_empty() {
            index.remove(id);
        }
    }
}
