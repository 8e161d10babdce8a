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

#[cfg(test)]
mod tests {
    use mintage_identity::IssuerKeyId;
    use mintage_verifier::{RevocationCheck, TrustStore, Usage};

    use super::*;
    use crate::support::{self, Ca, FakeView, LeafSpec};

    fn entries() -> Vec<Entry> {
        let root = Ca::root("root");
        let trust = support::trust("a.test", &root, RevocationCheck::required(FakeView::fresh()));
        let store = TrustStore::new(trust);
        let algorithms = support::provider().signature_verification_algorithms;
        let ends = [600, 60, 300, 60];
        ends.map(|ends| {
            let leaf = root.leaf(LeafSpec {
                ends,
                ..LeafSpec::good("spiffe://a.test/web")
            });
            let trust = store.load();
            let peer = trust.peer_of(&leaf.chain, Usage::Client, &algorithms, support::now());
            Entry {
                peer: Arc::new(peer.unwrap()),
                closing: Arc::default(),
            }
        })
        .into()
    }

    fn keys(number: u64) -> NewsKeys {
        let issuer = IssuerKeyId::new([7; 32]);
        let shared = EntryKey { issuer, fingerprint: 0 };
        let own = EntryKey {
            issuer,
            fingerprint: number + 1,
        };
        NewsKeys {
            keys: vec![own, shared],
            some_unknown: number % 2 == 1,
        }
    }

    #[test]
    fn what_leaves_leaves_nothing_behind() {
        let mut table = Table::default();
        let numbers: Vec<_> = (0..)
            .zip(entries())
            .map(|(number, entry)| table.insert(entry, keys(number)).0)
            .collect();
        table.take_ended(support::now().plus(std::time::Duration::from_secs(60)));
        table.sort_anew(|_| keys(3));
        for number in numbers {
            table.remove(number);
            table.remove(number);
        }
        let left = (
            table.entries.len(),
            table.by_key.len(),
            table.unknown.len(),
            table.by_end.len(),
        );
        assert_eq!(left, (0, 0, 0, 0));
    }

    #[test]
    fn the_next_to_end_is_told_and_taken_once() {
        let mut table = Table::default();
        let first: Vec<_> = (0..)
            .zip(entries())
            .map(|(number, entry)| table.insert(entry, keys(number)).1)
            .collect();
        assert_eq!(first, [true, true, false, false]);
        let at = |seconds| support::now().plus(std::time::Duration::from_secs(seconds));
        assert_eq!(table.next_end(), Some(at(60)));
        assert!(table.take_ended(at(59)).is_empty());
        assert_eq!(table.take_ended(at(60)).len(), 2);
        assert!(table.take_ended(at(60)).is_empty());
        assert_eq!((table.next_end(), table.len()), (Some(at(300)), 4));
    }

    #[test]
    fn news_finds_each_concerned_connection_once() {
        let mut table = Table::default();
        for (number, entry) in (0..).zip(entries()) {
            table.insert(entry, keys(number));
        }
        let all = keys(0).keys;
        assert_eq!(table.concerned(&all).len(), 4);
        // The second key of number 0 is everybody's; its first is its own, and 1 and 3 are always looked at.
        assert_eq!(table.concerned(&all[..1]).len(), 3);
        assert_eq!(table.concerned(&[]).len(), 2);
    }
}
