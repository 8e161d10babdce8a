//! What a trust bundle says to whoever follows the revoked set: which keys may sign it, and how its publisher is verified.

use std::time::Duration;

use mintage_identity::{IssuerKeyId, Serial, TrustDomain, UnixTime};
use mintage_proto::v1;
use mintage_revocation::{
    Decision, Delegation, EntryKey, FreshnessPolicy, Query, Verdict, VerifiedDelegation, ViewHandle,
};
use mintage_svid::{CertInfo, verify_issued};
use mintage_verifier::{RevocationCheck, RevocationView, Trust, TrustError};
use rustls_pki_types::CertificateDer;

use crate::limits::{DELEGATIONS_MAX, ISSUERS_MAX};

/// Those of `issuers` (DER) that one of `roots` (DER) signed, with what they say.
pub fn issuing(roots: &[Vec<u8>], issuers: &[Vec<u8>]) -> Vec<(CertInfo, CertificateDer<'static>)> {
    let parse = |der: &Vec<u8>| CertInfo::parse_signing(der).ok();
    let roots: Vec<CertInfo> = roots.iter().filter_map(parse).collect();
    let issued = |der: &&Vec<u8>| roots.iter().any(|root| verify_issued(der, root.spki_der()).is_ok());
    let issued = issuers.iter().filter(issued);
    issued
        .filter_map(|der| Some((parse(der)?, CertificateDer::from(der.clone()))))
        .collect()
}

/// The delegations that one of `signers` really made; and why others were not taken.
pub fn verified_delegations(
    domain: &TrustDomain,
    signers: &[CertInfo],
    delegations: &[Vec<u8>],
    now: UnixTime,
) -> (Vec<VerifiedDelegation>, Vec<String>) {
    let (mut good, mut refused) = (Vec::new(), Vec::new());
    for wire in delegations {
        let verified = Delegation::decode(wire)
            .map_err(|error| error.to_string())
            .and_then(|delegation| {
                let by = delegation.statement().ca_key();
                let signer = signers.iter().find(|signer| signer.key_id() == by);
                let signer = signer.ok_or_else(|| format!("made by key {by}, which is not in the bundle"))?;
                delegation
                    .verify(domain, signer.spki_der(), now)
                    .map_err(|error| error.to_string())
            });
        match verified {
            Ok(delegation) => good.push(delegation),
            Err(problem) => refused.push(problem),
        }
    }
    (good, refused)
}

/// Refuses what is known to be revoked and nothing else: for talking with the CA. Otherwise whoever was away for long could
/// never again reach the CA to fetch a fresh set.
#[derive(Debug)]
pub struct KnownRevoked(pub ViewHandle);

impl RevocationView for KnownRevoked {
    fn decide(&self, query: &Query<'_>, now: UnixTime, _policy: FreshnessPolicy) -> Decision {
        match self.0.load().check(query, now) {
            revoked @ Verdict::Revoked { .. } => Decision::Refuse(revoked),
            Verdict::Good => Decision::Accept { tolerated: false },
            Verdict::Stale | Verdict::NotCovered => Decision::Accept { tolerated: true },
        }
    }

    fn entry_key(&self, issuer: &IssuerKeyId, serial: &Serial) -> Option<EntryKey> {
        self.0.load().entry_key(issuer, serial)
    }

    /// It refuses nobody for want of news.
    fn age(&self, _: UnixTime) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

/// The bundle as it is held.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// 0 for the roots that the settings gave.
    pub(crate) sequence: u64,
    pub(crate) roots: Vec<Vec<u8>>,
    issuers: Vec<Vec<u8>>,
    delegations: Vec<Vec<u8>>,
}

impl Held {
    /// The roots that a program was given.
    pub(crate) fn given(roots: Vec<Vec<u8>>) -> Self {
        Self {
            sequence: 0,
            roots,
            issuers: Vec::new(),
            delegations: Vec::new(),
        }
    }

    /// What a publisher that was verified by this bundle offers in its place.
    pub(crate) fn followed_by(&self, domain: &TrustDomain, wire: v1::TrustBundle) -> Result<Self, String> {
        if wire.trust_domain != domain.as_str() {
            return Err("the bundle is another trust domain's".to_owned());
        }
        if wire.roots.is_empty() {
            return Err("the bundle has no root: everything would be refused".to_owned());
        }
        if wire.revocation_delegations.len() > DELEGATIONS_MAX || wire.issuers.len() > ISSUERS_MAX {
            return Err("the bundle has too many delegations or issuers".to_owned());
        }
        if wire.sequence < self.sequence {
            let (held, offered) = (self.sequence, wire.sequence);
            return Err(format!("the bundle's sequence goes back from {held} to {offered}"));
        }
        if wire.sequence == self.sequence && self.sequence > 0 && wire.roots != self.roots {
            let sequence = self.sequence;
            return Err(format!("the bundle's roots changed, but its sequence stays {sequence}"));
        }
        Ok(Self {
            sequence: wire.sequence,
            roots: wire.roots,
            issuers: wire.issuers,
            delegations: wire.revocation_delegations,
        })
    }

    /// The delegations it holds that are good at `now`, and why others are not.
    pub(crate) fn delegations(&self, domain: &TrustDomain, now: UnixTime) -> (Vec<VerifiedDelegation>, Vec<String>) {
        let roots = self.roots.iter().filter_map(|der| CertInfo::parse_signing(der).ok());
        let issuers = issuing(&self.roots, &self.issuers).into_iter().map(|(info, _)| info);
        let signers: Vec<CertInfo> = roots.chain(issuers).collect();
        verified_delegations(domain, &signers, &self.delegations, now)
    }

    pub(crate) fn trust(&self, domain: &TrustDomain, revocation: RevocationCheck) -> Result<Trust, TrustError> {
        Ok(Trust::builder(domain.clone())
            .domain(domain.clone(), self.roots.iter().cloned(), revocation)?
            .build())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_takes_the_place_of_an_older_one_of_its_own_domain_alone() {
        let domain = TrustDomain::parse("dev.test").unwrap();
        let wire = |sequence, roots: &[u8]| v1::TrustBundle {
            trust_domain: domain.to_string(),
            sequence,
            roots: roots.iter().map(|octet| vec![*octet]).collect(),
            ..v1::TrustBundle::default()
        };
        let given = Held::given(vec![vec![1]]);
        let held = given.followed_by(&domain, wire(3, &[1, 2])).unwrap();
        assert_eq!(
            (held.sequence, held.roots.len()),
            (3, 2),
            "the given roots have no sequence"
        );
        held.followed_by(&domain, wire(3, &[1, 2])).unwrap();
        held.followed_by(&domain, wire(4, &[2])).unwrap();
        let other = v1::TrustBundle {
            trust_domain: "other.test".to_owned(),
            ..wire(9, &[1])
        };
        let many = v1::TrustBundle {
            revocation_delegations: vec![Vec::new(); DELEGATIONS_MAX + 1],
            ..wire(9, &[1])
        };
        for bad in [wire(2, &[1, 2]), wire(3, &[1]), wire(4, &[]), other, many] {
            assert!(held.followed_by(&domain, bad.clone()).is_err(), "{bad:?}");
        }
    }
}
