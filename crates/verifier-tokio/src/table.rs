//! The registry's table: live connections by number, by what news may name, and by the time they end.
//! Plain data under one lock; nothing here waits or wakes.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use mintage_identity::{SpiffeId, TrustDomain, UnixTime};
use mintage_revocation::{Added, EntryKey};
use mintage_verifier::{NewsKeys, VerifiedPeer};

use crate::{guard::Closing, index::Index};

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
    index: Index,
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
        self.index.add(number, &entry.peer, &keys);
        self.entries.insert(number, (entry, keys));
        (number, self.by_end.first() == Some(&end))
    }

    pub(crate) fn remove(&mut self, number: u64) {
        let Some((entry, keys)) = self.entries.remove(&number) else {
            return;
        };
        self.by_end.remove(&(entry.peer.valid_until(), number));
        self.index.remove(number, &entry.peer, &keys);
    }

    /// Sorts every connection anew, after the keys may have changed.
    pub(crate) fn sort_anew(&mut self, keys_of: impl Fn(&VerifiedPeer) -> NewsKeys) {
        for (number, (entry, keys)) in &mut self.entries {
            let former = std::mem::replace(keys, keys_of(&entry.peer));
            self.index.sort_anew(*number, &former, keys);
        }
    }

    /// The connections that this news may concern; each once.
    pub(crate) fn concerned(&self, added: &Added) -> Vec<Entry> {
        self.numbered(self.index.concerned(added))
    }

    /// The connections of this SPIFFE ID.
    pub(crate) fn of_id(&self, id: &SpiffeId) -> Vec<Entry> {
        let mut found = Default::default();
        self.index.of_id(id, &mut found);
        self.numbered(found)
    }

    /// The connections of this trust domain.
    pub(crate) fn of_domain(&self, domain: &TrustDomain) -> Vec<Entry> {
        self.numbered(self.index.of_domain(domain))
    }

    /// The keys under which news may name connections.
    pub(crate) fn keys(&self) -> Vec<EntryKey> {
        self.index.keys().collect()
    }

    /// The trust domains that connections are of; few.
    pub(crate) fn domains(&self) -> Vec<TrustDomain> {
        self.index.domains().cloned().collect()
    }

    fn numbered(&self, numbers: impl IntoIterator<Item = u64>) -> Vec<Entry> {
        let entries = numbers.into_iter().filter_map(|number| self.entries.get(&number));
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
        assert_eq!((table.entries.len(), table.by_end.len()), (0, 0));
        assert!(table.index.is_empty(), "{:?}", table.index);
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
        let named = |keys: &[EntryKey]| {
            let keys = keys.to_vec();
            table
                .concerned(&Added {
                    keys,
                    ..Added::default()
                })
                .len()
        };
        assert_eq!(named(&all), 4);
        // The second key of number 0 is everybody's; its first is its own, and 1 and 3 are always looked at.
        assert_eq!((named(&all[..1]), named(&[])), (3, 2));
    }
}
