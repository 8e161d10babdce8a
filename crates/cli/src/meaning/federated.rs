//! Bundles of other trust domains: each vouches for another domain than this one, by certificates that may sign and keys that
//! JWT-SVIDs may be signed with, and each stands until a later record of its own domain.

use std::collections::BTreeMap;

use mintage_identity::TrustDomain;
use mintage_ledger::wire;
use mintage_state::View;
use mintage_svid::{JwtKey, TrustBundle};

/// The bundles that stand, each by the record that wrote it.
#[derive(Debug, Default)]
pub(super) struct Federated(BTreeMap<TrustDomain, u64>);

impl Federated {
    /// Takes up what a snapshot holds.
    pub(super) fn take_up(&mut self, view: &View) {
        self.0 = of(view);
    }

    /// That a snapshot says what the records say.
    ///
    /// # Errors
    /// That it does not.
    pub(super) fn agrees(&self, view: &View) -> Result<(), String> {
        match of(view) == self.0 {
            true => Ok(()),
            false => Err("the snapshot has other bundles of other trust domains than the records".into()),
        }
    }

    pub(super) fn set(&mut self, index: u64, set: &wire::BundleFederatedSet, own: &TrustDomain) -> Result<(), String> {
        let domain = TrustDomain::parse(&set.trust_domain).map_err(|error| error.to_string())?;
        if domain == *own {
            return Err("the own trust domain stands among those that it federates with".into());
        }
        let keys = set
            .jwt_keys
            .iter()
            .map(|key| JwtKey::new(&key.kid, key.spki_der.clone()));
        let read = keys
            .collect::<Result<Vec<_>, _>>()
            .and_then(|keys| TrustBundle::new(domain.clone(), set.roots_der.clone(), keys, set.sequence, None));
        read.map_err(|error| format!("the bundle of {domain}: {error}"))?;
        if self.0.get(&domain).copied().unwrap_or(0) == set.replaces_revision {
            self.0.insert(domain, index);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, gone: &wire::BundleFederatedRemove) {
        if let Ok(domain) = TrustDomain::parse(&gone.trust_domain)
            && self.0.get(&domain) == Some(&gone.revision)
        {
            self.0.remove(&domain);
        }
    }
}

fn of(view: &View) -> BTreeMap<TrustDomain, u64> {
    let standing = view.federated();
    standing
        .map(|record| (record.domain.clone(), record.revision))
        .collect()
}
