//! The trust bundle as this agent holds it, and the snapshots of trust made from it: the strict one that local
//! verifiers use, the one that talks with the CA and checks its certificates, and the bare roots.

use std::sync::Arc;

use mintage_identity::{TrustDomain, UnixTime};
use mintage_proto::v1;
use mintage_revocation::{FreshnessPolicy, VerifiedDelegation, ViewHandle};
use mintage_subscriber::{
    KnownRevoked, issuing,
    limits::{DELEGATIONS_MAX, ISSUERS_MAX},
    verified_delegations,
};
use mintage_svid::{CertInfo, JwtKey, TrustBundle};
use mintage_verifier::{RevocationCheck, Trust, TrustBuilder, TrustError};
use rustls_pki_types::CertificateDer;

use crate::federation::Federation;

/// Why a bundle does not take the place of the one that is held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAfter {
    /// Its sequence goes back.
    #[error("the bundle's sequence goes back from {held} to {offered}")]
    Older { held: u64, offered: u64 },
    /// Anything else.
    #[error("{0}")]
    Wrong(String),
}

/// A checked trust bundle with what the revocation filter needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bundle {
    document: TrustBundle,
    delegations: Vec<Vec<u8>>,
    issuers: Vec<Vec<u8>>,
}

impl Bundle {
    /// Reads what the CA sent, or what was stored.
    pub(crate) fn from_wire(wire: &v1::TrustBundle) -> Result<Self, String> {
        let domain = TrustDomain::parse(&wire.trust_domain).map_err(|error| error.to_string())?;
        if wire.roots.is_empty() {
            return Err("the bundle has no root: everything would be refused".to_owned());
        }
        if wire.revocation_delegations.len() > DELEGATIONS_MAX || wire.issuers.len() > ISSUERS_MAX {
            return Err("the bundle has too many delegations or issuers".to_owned());
        }
        let hint = (wire.refresh_hint_seconds > 0).then_some(wire.refresh_hint_seconds);
        let jwt_keys = wire.jwt_keys.iter();
        let jwt_keys = jwt_keys.map(|key| JwtKey::new(&key.kid, key.spki.clone()));
        let document = jwt_keys
            .collect::<Result<Vec<_>, _>>()
            .and_then(|jwt_keys| TrustBundle::new(domain, wire.roots.clone(), jwt_keys, wire.sequence, hint))
            .map_err(|error| error.to_string())?;
        Ok(Self {
            document,
            delegations: wire.revocation_delegations.clone(),
            issuers: wire.issuers.clone(),
        })
    }

    pub(crate) fn to_wire(&self) -> v1::TrustBundle {
        v1::TrustBundle {
            trust_domain: self.trust_domain().to_string(),
            sequence: self.sequence(),
            roots: self.roots().to_vec(),
            refresh_hint_seconds: self.document.refresh_hint_seconds().unwrap_or(0),
            revocation_delegations: self.delegations.clone(),
            issuers: self.issuers.clone(),
            jwt_keys: self.document.jwt_keys().iter().map(wire_key).collect(),
        }
    }

    /// The bundle as the SPIFFE standard has it.
    pub(crate) fn document(&self) -> &TrustBundle {
        &self.document
    }

    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        self.document.trust_domain()
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.document.sequence()
    }

    pub(crate) fn roots(&self) -> &[Vec<u8>] {
        self.document.roots()
    }

    /// This bundle as the one after `held`; `None` when it says nothing new. Issuers and delegations come and go under
    /// one sequence; the roots do not.
    pub(crate) fn after(self, held: Option<&Self>, domain: &TrustDomain) -> Result<Option<Self>, NotAfter> {
        if self.trust_domain() != domain {
            return Err(NotAfter::Wrong("the bundle is another trust domain's".to_owned()));
        }
        let Some(held) = held else { return Ok(Some(self)) };
        let (old, new) = (held.sequence(), self.sequence());
        if new < old {
            return Err(NotAfter::Older {
                held: old,
                offered: new,
            });
        }
        if new == old && held.document != self.document && !self.adds_jwt_keys_to(held) {
            let told = format!("the bundle's roots or JWT keys changed, but its sequence stays {old}");
            return Err(NotAfter::Wrong(told));
        }
        Ok((*held != self).then_some(self))
    }

    /// True when the two differ in the JWT keys alone, and `held` has none: an agent that did not know of them saved it.
    fn adds_jwt_keys_to(&self, held: &Self) -> bool {
        held.document.jwt_keys().is_empty()
            && held.roots() == self.roots()
            && held.document.refresh_hint_seconds() == self.document.refresh_hint_seconds()
    }

    /// The delegations that a root, or an issuer below a root of this bundle, really made; and why others were not
    /// taken.
    pub(crate) fn delegations(&self, now: UnixTime) -> (Vec<VerifiedDelegation>, Vec<String>) {
        verified_delegations(self.trust_domain(), &self.signers(), &self.delegations, now)
    }

    /// The roots, and the issuers that one of them signed.
    pub(crate) fn signers(&self) -> Vec<CertInfo> {
        let roots = self.roots().iter().filter_map(|der| CertInfo::parse_signing(der).ok());
        roots.chain(self.issuing().into_iter().map(|(info, _)| info)).collect()
    }

    /// The snapshot for verifiers on this node: revocation is required, under the default freshness policy, and the bundles of
    /// other trust domains stand beside the own one.
    pub(crate) fn strict_trust(&self, view: &ViewHandle, federation: &Federation) -> Result<Trust, TrustError> {
        let own = self.builder(RevocationCheck::required(view.clone()))?;
        Ok(federation.extend(own, view)?.build())
    }

    /// The snapshot for talking with the CA and for looking at certificates it just made: what is known to be revoked is
    /// refused, but an old filter, or none, stops nothing. Otherwise an agent that was away for long could never again
    /// reach the CA to fetch a fresh one.
    pub(crate) fn catching_up_trust(&self, view: &ViewHandle) -> Result<Trust, TrustError> {
        self.trust(RevocationCheck::Required {
            view: Some(Arc::new(KnownRevoked(view.clone()))),
            freshness: FreshnessPolicy::Open,
        })
    }

    /// The snapshot that tells whether a certificate was made by a key of this trust domain, revoked or not.
    pub(crate) fn roots_trust(&self) -> Result<Trust, TrustError> {
        self.trust(RevocationCheck::None)
    }

    /// The issuing certificates that a root of this bundle signed, with what they say.
    pub(crate) fn issuing(&self) -> Vec<(CertInfo, CertificateDer<'static>)> {
        issuing(self.roots(), &self.issuers)
    }

    pub(crate) fn trust(&self, revocation: RevocationCheck) -> Result<Trust, TrustError> {
        Ok(self.builder(revocation)?.build())
    }

    fn builder(&self, revocation: RevocationCheck) -> Result<TrustBuilder, TrustError> {
        Trust::builder(self.trust_domain().clone()).bundle(&self.document, revocation)
    }
}

fn wire_key(key: &JwtKey) -> v1::JwtKey {
    v1::JwtKey {
        kid: key.kid().to_owned(),
        spki: key.spki_der().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        params.serial_number = Some(1u64.into());
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn jwt_key(kid: &str) -> v1::JwtKey {
        let key = rcgen::KeyPair::generate().unwrap();
        v1::JwtKey {
            kid: kid.to_owned(),
            spki: rcgen::PublicKeyData::subject_public_key_info(&key),
        }
    }

    #[test]
    fn jwt_keys_change_with_the_sequence_but_for_the_first_after_an_older_agent() {
        let domain = TrustDomain::parse("dev.test").unwrap();
        let wire = |sequence, roots: &[Vec<u8>], jwt_keys: &[v1::JwtKey]| v1::TrustBundle {
            trust_domain: domain.to_string(),
            sequence,
            roots: roots.to_vec(),
            jwt_keys: jwt_keys.to_vec(),
            ..v1::TrustBundle::default()
        };
        let (roots, keys) = ([root()], [jwt_key("a"), jwt_key("b")]);
        let read = |wire: &v1::TrustBundle| Bundle::from_wire(wire).unwrap();
        let whole = wire(2, &roots, &keys);
        assert_eq!(read(&whole).to_wire(), whole, "nothing is lost on the way to the disk");
        let after = |held: &v1::TrustBundle, new: &v1::TrustBundle| read(new).after(Some(&read(held)), &domain);
        let without = wire(2, &roots, &[]);
        assert_eq!(after(&without, &whole).unwrap().unwrap().document().jwt_keys().len(), 2);
        assert_eq!(after(&whole, &whole), Ok(None));
        assert!(after(&whole, &wire(3, &roots, &keys[1..])).unwrap().is_some());
        for bad in [wire(2, &roots, &keys[1..]), without.clone(), wire(2, &[root()], &keys)] {
            assert!(after(&whole, &bad).is_err(), "the same sequence with other keys");
        }
        assert!(after(&without, &wire(2, &[root()], &keys)).is_err());
        assert!(after(&whole, &wire(1, &roots, &keys)).is_err());
        let twice = wire(4, &roots, &[keys[0].clone(), keys[0].clone()]);
        assert!(Bundle::from_wire(&twice).is_err());
    }
}
