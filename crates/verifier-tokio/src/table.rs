//! The registry's table: live connections by number, by every certificate of their paths, and by the time they end.
//! Plain data under one lock; nothing here waits or wakes.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use mintage_identity::UnixTime;
use mintage_revocation::EntryKey;
use mintage_verifier::{NewsKeys, VerifiedPeer};

use crate::guard::Closing;

/// One live connection.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) peer: Arc<VerifiedPeer>,
    pub(crate) closing: Arc<Closing>,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    next: u64,
    entries: HashMap<u64, (Entry, NewsKeys)>,
    /// Leaf and issuing certificates alike: revoking an issuer ends every connection below it.
    by_key: HashMap<EntryKey, HashSet<u64>>,
    /// Connections with a certificate that has no key yet: looked at with all news.
    unknown: HashSet<u64>,
    by_end: BTreeSet<(UnixTime, u64)>,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a connection; returns its number, and whether it is now the next to end.
    pub(crate) fn insert(&mut self, entry: Entry, keys: NewsKeys) -> (u64, bool) {
        let number = self.next;
        self.next += 1;
        let end = (entry.peer.valid_until(), number);
        self.by_end.insert(end);
        self.index(number, &keys);
        self.entries.insert(number, (entry, keys));
        (number, self.by_end.first() == Some(&end))
    }

    pub(crate) fn remove(&mut self, number: u64) {
        let Some((entry, keys)) = self.entries.remove(&number) else {
            return;
        };
        self.by_end.remove(&(entry.peer.valid_until(), number));
        self.unknown.remove(&number);
        for key in keys.keys {
            if let Some(numbers) = self.by_key.get_mut(&key) {
                numbers.remove(&number);
                if numbers.is_empty() {
                    self.by_key.remove(&key);
                }
            }
        }
    }

    fn index(&mut self, number: u64, keys: &NewsKeys) {
        for key in &keys.keys {
            self.by_key.entry(*key).or_default().insert(number);
        }
        if keys.some_unknown {
            self.unknown.insert(number);
        }
    }

    /// Sorts every connection anew, after the keys may have changed.
    pub(crate) fn sort_anew(&mut self, keys_of: impl Fn(&VerifiedPeer) -> NewsKeys) {
        self.by_key.clear();
        self.unknown.clear();
        let mut entries = std::mem::take(&mut self.entries);
        for (number, (entry, keys)) in &mut entries {
            *keys = keys_of(&entry.peer);
            self.index(*number, keys);
        }
        self.entries = entries;
    }

    /// The connections that news with these keys may concern; each once.
    pub(crate) fn concerned(&self, keys: &[EntryKey]) -> Vec<Entry> {
        let named = keys.iter().filter_map(|key| self.by_key.get(key)).flatten();
        let numbers: HashSet<u64> = named.chain(&self.unknown).copied().collect();
        let entries = numbers.iter().filter_map(|number| self.entries.get(number));
        entries.map(|(entry, _)| entry.clone()).collect()
    }

    /// Every connection.
    pub(crate) fn all(&self) -> Vec<Entry> {
        self.entries.values().map(|(entry, _)| entry.clone()).collect()
    }

    /// When the next connection ends.
    pub(crate) fn next_end(&self) -> Option<UnixTime> {
        self.by_end.first().map(|(end, _)| *end)
    }

    /// The connections that end at `now` or before. They leave the list of ends at once, so that a connection whose
    /// task is slow to drop its guard is not found again and again.
    pub(crate) fn take_ended(&mut self, now: UnixTime) -> Vec<Entry> {
        let mut ended = Vec::new();
        while let Some(&(end, number)) = self.by_end.first()
            && end <= now
        {
            self.by_end.pop_first();
            ended.extend(self.entries.get(&number).map(|(entry, _)| entry.clone()));
        }
        ended
    }
}
