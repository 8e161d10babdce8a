//! A publisher of signed revocation news and its follower: the real filter, not a fake.

use std::time::Duration;

use mintage_identity::{RevocationReason, UnixTime};
use mintage_revocation::{
    Added, DelegationStatement, IssuerCoverage, Replica, Revocation, RevocationKey, RevokedSerial, RevokedSet, Rule,
    SerialKind, Terms,
};

use super::{Ca, Leaf, domain, now};

/// A CA's revocation set with the key that signs its news, and one follower.
pub(crate) struct Publisher {
    set: RevokedSet,
    key: RevocationKey,
    pub(crate) follower: Replica,
}

impl Publisher {
    /// News of `name` about certificates of `issuers`, delegated by the first of them; the follower holds all of it.
    pub(crate) fn new(name: &str, issuers: &[&Ca]) -> Self {
        let domain = domain(name);
        let mut set = RevokedSet::new(&domain);
        for (sequence, issuer) in (1..).zip(issuers) {
            let coverage = IssuerCoverage {
                id: issuer.key_id(),
                serials: SerialKind::Native,
                until: None,
            };
            set.cover_issuer(sequence, &coverage).unwrap();
        }
        let key = RevocationKey::generate().unwrap().0;
        let end = now().plus(Duration::from_secs(86_400));
        let statement = DelegationStatement::new(&domain, key.public_key(), 1, end, issuers[0].key_id());
        let signature = issuers[0].sign(&statement.to_be_signed());
        let spki = mintage_svid::CertInfo::parse(&issuers[0].der)
            .unwrap()
            .spki_der()
            .to_vec();
        let delegation = statement.signed(signature).verify(&domain, &spki, now()).unwrap();
        let mut follower = Replica::new(&domain);
        follower.trust(delegation).unwrap();
        let mut publisher = Self { set, key, follower };
        let snapshot = publisher
            .key
            .sign_snapshot(&publisher.set, &[], &publisher.terms(now()))
            .unwrap();
        publisher.follower.apply_snapshot(&snapshot, now()).unwrap();
        publisher
    }

    fn terms(&self, at: UnixTime) -> Terms {
        Terms {
            epoch: 1,
            this_update: at,
            next_update: at.plus(Duration::from_secs(3_600)),
        }
    }

    /// Revokes and lets the follower know by a signed delta; returns what it added.
    pub(crate) fn revoke(&mut self, issuer: &Ca, leaves: &[&Leaf], rules: Vec<Rule>) -> Added {
        let serials = leaves.iter().map(|leaf| RevokedSerial {
            issuer: issuer.key_id(),
            serial: leaf.serial,
            not_after: mintage_svid::CertInfo::parse(&leaf.chain[0]).unwrap().not_after(),
        });
        let revocation = Revocation {
            at: now(),
            serials: serials.collect(),
            rules,
            reason: RevocationReason::Unspecified,
        };
        let before = self.set.sequence();
        self.set.apply_revocation(before + 7, &revocation).unwrap();
        let terms = self.terms(now());
        let delta = self.key.sign_delta(&self.set, before, before + 7, &[], &terms).unwrap();
        self.follower.apply_delta(&delta, now()).unwrap().added
    }

    /// A sign of life at `at`.
    pub(crate) fn heartbeat(&mut self, at: UnixTime) {
        let heartbeat = self.key.sign_heartbeat(&self.set, &self.terms(at)).unwrap();
        self.follower.heartbeat(&heartbeat, at).unwrap();
    }
}
