//! Which live connections a piece of news may concern, by what the news can name: a serial, a SPIFFE ID or the stem of many,
//! a public key, an issuer. Each is one look-up, however many connections there are.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
    ops::Bound,
    sync::Arc,
};

use mintage_identity::{IdPrefix, IssuerKeyId, SpiffeId, SpkiHash, TrustDomain};
use mintage_revocation::{Added, EntryKey, Rule, RuleTarget};
use mintage_verifier::{NewsKeys, VerifiedPeer};

/// Numbers of connections.
type Numbers = HashSet<u64>;

/// The indexes.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Leaf and issuing certificates alike: revoking an issuer ends every connection below it.
    by_key: ByKey<EntryKey>,
    /// Connections with a certificate that has no key yet: looked at with all news.
    unknown: Numbers,
    /// In order, so that those below a stem lie together.
    by_id: BTreeMap<Arc<str>, Numbers>,
    /// Every key of a path, and every key that signed in it: rules speak of intermediates too.
    by_spki: ByKey<SpkiHash>,
    by_issuer: ByKey<IssuerKeyId>,
    by_domain: ByKey<TrustDomain>,
}

#[derive(Debug)]
struct ByKey<K>(HashMap<K, Numbers>);

impl<K> Default for ByKey<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Clone> ByKey<K> {
    fn add(&mut self, key: &K, number: u64) {
        // Most connections are of somebody who is here already: nothing is copied for them.
        if let Some(numbers) = self.0.get_mut(key) {
            numbers.insert(number);
            return;
        }
        self.0.insert(key.clone(), Numbers::from([number]));
    }

    fn remove(&mut self, key: &K, number: u64) {
        let Some(numbers) = self.0.get_mut(key) else { return };
        numbers.remove(&number);
        if numbers.is_empty() {
            self.0.remove(key);
        }
    }

    fn find(&self, key: &K, found: &mut Numbers) {
        found.extend(self.0.get(key).into_iter().flatten());
    }
}

impl Index {
    /// Adds a connection under everything that news may name.
    pub(crate) fn add(&mut self, number: u64, peer: &VerifiedPeer, keys: &NewsKeys) {
        self.add_keys(number, keys);
        let id = peer.id().as_str();
        match self.by_id.get_mut(id) {
            Some(numbers) => _ = numbers.insert(number),
            None => _ = self.by_id.insert(id.into(), Numbers::from([number])),
        }
        for link in peer.path() {
            self.by_spki.add(&link.spki_sha256, number);
            self.by_issuer.add(&link.issuer, number);
        }
        self.by_domain.add(peer.trust_domain(), number);
    }

    pub(crate) fn remove(&mut self, number: u64, peer: &VerifiedPeer, keys: &NewsKeys) {
        self.remove_keys(number, keys);
        if let Some(numbers) = self.by_id.get_mut(peer.id().as_str()) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_id.remove(peer.id().as_str());
            }
        }
        for link in peer.path() {
            self.by_spki.remove(&link.spki_sha256, number);
            self.by_issuer.remove(&link.issuer, number);
        }
        self.by_domain.remove(peer.trust_domain(), number);
    }

    /// Sorts a connection by these keys instead of those: they change with the filter, all else stays.
    pub(crate) fn sort_anew(&mut self, number: u64, former: &NewsKeys, keys: &NewsKeys) {
        self.remove_keys(number, former);
        self.add_keys(number, keys);
    }

    fn add_keys(&mut self, number: u64, keys: &NewsKeys) {
        for key in &keys.keys {
            self.by_key.add(key, number);
        }
        if keys.some_unknown {
            self.unknown.insert(number);
        }
    }

    fn remove_keys(&mut self, number: u64, keys: &NewsKeys) {
        for key in &keys.keys {
            self.by_key.remove(key, number);
        }
        self.unknown.remove(&number);
    }

    /// The connections that this news may concern; not for a whole snapshot, which concerns all.
    pub(crate) fn concerned(&self, added: &Added) -> Numbers {
        let mut found = self.unknown.clone();
        for key in &added.keys {
            self.by_key.find(key, &mut found);
        }
        for Rule { target, .. } in &added.rules {
            match target {
                RuleTarget::Identity(id) => self.of_id(id, &mut found),
                RuleTarget::Prefix(prefix) => self.below(prefix, &mut found),
                RuleTarget::Key(key) => self.by_spki.find(key, &mut found),
                RuleTarget::Issuer(issuer) => self.by_issuer.find(issuer, &mut found),
            }
        }
        found
    }

    /// The connections of this SPIFFE ID.
    pub(crate) fn of_id(&self, id: &SpiffeId, found: &mut Numbers) {
        found.extend(self.by_id.get(id.as_str()).into_iter().flatten());
    }

    fn below(&self, prefix: &IdPrefix, found: &mut Numbers) {
        let stem = format!("{}/", prefix.stem());
        let from = (Bound::Included(stem.as_str()), Bound::Unbounded);
        let below = self.by_id.range::<str, _>(from);
        let below = below.take_while(|(id, _)| id.starts_with(&stem));
        found.extend(below.flat_map(|(_, numbers)| numbers));
    }

    /// The connections of this trust domain.
    pub(crate) fn of_domain(&self, domain: &TrustDomain) -> Numbers {
        let mut found = Numbers::new();
        self.by_domain.find(domain, &mut found);
        found
    }

    /// The keys under which news may name connections.
    pub(crate) fn keys(&self) -> impl Iterator<Item = EntryKey> + '_ {
        self.by_key.0.keys().copied()
    }

    /// The trust domains that connections are of.
    pub(crate) fn domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.by_domain.0.keys()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let keyed = self.by_key.0.len() + self.by_spki.0.len() + self.by_issuer.0.len() + self.by_domain.0.len();
        keyed + self.unknown.len() + self.by_id.len() == 0
    }
}
