//! A CA that signs: its key, its certificate and what every certificate it signs repeats, loaded and checked once.

use std::{fmt, sync::Arc, time::Duration};

use mintage_identity::{IssuerKeyId, TrustDomain, UnixTime};
use mintage_svid::{
    CertInfo,
    der::{Reader, TAG_CONTEXT_0, TAG_INTEGER, TAG_SEQUENCE},
    limits::CHAIN_LENGTH_MAX,
    verify_issued,
};
use rcgen::CertificateParams;

use crate::{
    CaKey, MintError,
    limits::{ISSUER_MARGIN, LIFE_MIN},
    tbs::{Blank, locate},
};

/// An issuing CA. In chain mode `root` it is the root itself and chains are one certificate long.
pub struct Issuer {
    trust_domain: TrustDomain,
    key: CaKey,
    info: CertInfo,
    certificate_der: Vec<u8>,
    chain_below_root: Arc<[Vec<u8>]>,
    subject_key_id: Vec<u8>,
    template: rcgen::Issuer<'static, Blank>,
    signs_from: UnixTime,
}

impl Issuer {
    /// Loads an issuer from its key and its certification path: its own certificate first, then the certificates that
    /// signed it. The self-signed root at the end is checked and not handed out with chains.
    ///
    /// # Errors
    /// Refuses a key that is not the certificate's, certificates that may not sign, a path whose names, signatures or
    /// path lengths do not hold, a certificate of another trust domain, and one whose name cannot be repeated octet
    /// for octet.
    pub fn load(trust_domain: &TrustDomain, key: CaKey, path: Vec<Vec<u8>>) -> Result<Self, MintError> {
        if path.len() > CHAIN_LENGTH_MAX {
            return Err(MintError::Unusable("its path is longer than 8 certificates"));
        }
        let infos = path
            .iter()
            .map(|der| CertInfo::parse_signing(der))
            .collect::<Result<Vec<_>, _>>()?;
        let Some(info) = infos.first().cloned() else {
            return Err(MintError::Unusable("its path is empty"));
        };
        if info.spki_der() != key.spki_der() {
            return Err(MintError::Unusable("the key is not the one of the certificate"));
        }
        check_path(&path, &infos)?;
        for info in &infos {
            if info.trust_domain_id()?.is_some_and(|id| !id.is_member_of(trust_domain)) {
                return Err(MintError::Unusable("it belongs to another trust domain"));
            }
        }
        let Some(subject_key_id) = info.subject_key_id().map(<[u8]>::to_vec) else {
            return Err(MintError::Unusable("it has no subject key identifier"));
        };
        let template = rcgen::Issuer::from_ca_cert_der(&path[0].as_slice().into(), Blank)?;
        if name_as_written(&template)?.as_slice() != info.subject_raw() {
            return Err(MintError::Unusable(
                "its subject name cannot be repeated octet for octet (an attribute twice, or two in one RDN)",
            ));
        }
        let certificate_der = path[0].clone();
        let below_root = path.into_iter().zip(&infos).filter(|(_, info)| !info.is_self_issued());
        Ok(Self {
            trust_domain: trust_domain.clone(),
            certificate_der,
            chain_below_root: below_root.map(|(der, _)| der).collect(),
            subject_key_id,
            template,
            signs_from: info.not_before(),
            info,
            key,
        })
    }

    /// The same issuer, whose certificates all begin above `cut`: a rule of revocation kills what it signed up to there.
    #[must_use]
    pub fn above(self, cut: UnixTime) -> Self {
        let above = cut.floor_to_second().plus(Duration::from_secs(1));
        Self {
            signs_from: self.signs_from.max(above),
            ..self
        }
    }

    /// The trust domain it vouches for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// SHA-256 of its SubjectPublicKeyInfo.
    pub fn key_id(&self) -> IssuerKeyId {
        self.key.key_id()
    }

    /// The facts of its certificate.
    pub fn info(&self) -> &CertInfo {
        &self.info
    }

    /// Its certificate.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// What follows the leaf in every chain: its certificate and those above it, without the root. Empty for a root.
    pub fn chain_below_root(&self) -> &[Vec<u8>] {
        &self.chain_below_root
    }

    /// Refuses when the shortest certificate would not end in time before this one.
    ///
    /// # Errors
    /// [`MintError::IssuerExpiring`].
    pub fn check_life(&self, now: UnixTime) -> Result<(), MintError> {
        let last = self.not_after().minus(ISSUER_MARGIN).minus(LIFE_MIN);
        match now.floor_to_second() <= last {
            true => Ok(()),
            false => Err(MintError::IssuerExpiring {
                not_after: self.not_after(),
            }),
        }
    }

    /// First second in which a certificate of its may begin: that of its own, or the one above a cut.
    pub fn signs_from(&self) -> UnixTime {
        self.signs_from
    }

    /// Last second of its validity.
    pub fn not_after(&self) -> UnixTime {
        self.info.not_after()
    }

    /// Signs a statement by which this CA delegates the signing of revocation news: see [`CaKey::sign_delegation`].
    ///
    /// # Errors
    /// Refuses anything else than a labelled statement.
    pub fn sign_delegation(&self, statement: &[u8]) -> Result<Vec<u8>, MintError> {
        self.key.sign_delegation(statement)
    }

    pub(crate) fn key(&self) -> &CaKey {
        &self.key
    }

    pub(crate) fn subject_key_id(&self) -> &[u8] {
        &self.subject_key_id
    }

    pub(crate) fn template(&self) -> &rcgen::Issuer<'static, Blank> {
        &self.template
    }

    pub(crate) fn shared_chain(&self) -> Arc<[Vec<u8>]> {
        Arc::clone(&self.chain_below_root)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("trust_domain", &self.trust_domain)
            .field("key_id", &self.key_id())
            .field("not_after", &self.not_after())
            .finish_non_exhaustive()
    }
}

/// Names, signatures and path lengths from the issuing certificate up to whatever is last.
fn check_path(path: &[Vec<u8>], infos: &[CertInfo]) -> Result<(), MintError> {
    for (at, info) in infos.iter().enumerate() {
        // How many CA certificates stand below this one; self-issued ones would not count (RFC 5280, section 4.2.1.9).
        if info.path_len().is_some_and(|most| at > most as usize) {
            return Err(MintError::Unusable("a path length is exceeded"));
        }
        let signer = match infos.get(at + 1) {
            Some(_) if info.is_self_issued() => {
                return Err(MintError::Unusable("certificates follow the root of its path"));
            }
            None if info.is_self_issued() => info,
            Some(next) => next,
            // The path was given without its root.
            None => return Ok(()),
        };
        if info.issuer_raw() != signer.subject_raw() {
            return Err(MintError::Unusable(
                "its path is out of order: issuing certificate first, root last",
            ));
        }
        verify_issued(&path[at], signer.spki_der())?;
    }
    Ok(())
}

/// The issuer name as rcgen writes it into certificates. It keeps attributes in a map, so names that hold a type twice
/// come out different (and would break every path).
fn name_as_written(template: &rcgen::Issuer<'static, Blank>) -> Result<Vec<u8>, MintError> {
    let trial = CertificateParams::default().signed_by(&Blank, template)?;
    let read = || -> Result<Vec<u8>, mintage_svid::der::DerError> {
        let mut tbs = Reader::new(&trial.der()[..]);
        let mut tbs = Reader::new(tbs.expect(TAG_SEQUENCE)?.value);
        let mut fields = Reader::new(tbs.expect(TAG_SEQUENCE)?.value);
        fields.expect(TAG_CONTEXT_0)?;
        fields.expect(TAG_INTEGER)?;
        fields.expect(TAG_SEQUENCE)?;
        Ok(fields.expect(TAG_SEQUENCE)?.raw.to_vec())
    };
    locate(trial.der())?;
    read().map_err(|_| MintError::Lint("encoding"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        CaDates,
        kit::{NOW, ca, domain, serial},
        make_intermediate, make_root,
    };

    fn unusable(path: Vec<Vec<u8>>, key: CaKey) -> String {
        Issuer::load(&domain(), key, path).unwrap_err().to_string()
    }

    #[test]
    fn a_path_that_does_not_hold_is_refused() {
        let (key, pkcs8) = CaKey::generate().unwrap();
        let same = || CaKey::from_pkcs8(&pkcs8).unwrap();
        let (one, other) = (ca(), ca());
        let der = make_intermediate(&one.root, &key, serial(2), CaDates::intermediate(NOW)).unwrap();
        let root = one.root.certificate_der().to_vec();
        let other_root = other.root.certificate_der().to_vec();
        let good = Issuer::load(&domain(), same(), vec![der.clone(), root.clone()]).unwrap();
        assert_eq!(
            good.chain_below_root(),
            std::slice::from_ref(&der),
            "the root is not handed out"
        );
        assert_eq!(good.key_id(), key.key_id());
        let without_root = Issuer::load(&domain(), same(), vec![der.clone()]).unwrap();
        assert_eq!(without_root.chain_below_root(), std::slice::from_ref(&der));

        assert!(unusable(vec![], same()).contains("empty"));
        assert!(unusable(vec![der.clone(), other_root], same()).contains("out of order"));
        assert!(unusable(vec![root.clone(), der.clone()], same()).contains("not the one"));
        assert!(unusable(vec![der.clone(), root.clone()], CaKey::generate().unwrap().0).contains("not the one"));
        assert!(unusable(vec![der.clone(), root.clone(), root.clone()], same()).contains("follow the root"));
        assert!(unusable(vec![der.clone(); 9], same()).contains("longer"));
        let mut damaged = der.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(unusable(vec![damaged, root.clone()], same()).contains("signature"));
        let other_domain = TrustDomain::parse("example.org").unwrap();
        let refused = Issuer::load(&other_domain, same(), vec![der, root]).unwrap_err();
        assert!(
            refused.to_string().contains("another trust domain"),
            "a development CA stays in its domain"
        );
    }

    #[test]
    fn an_issuer_above_a_cut_signs_nothing_that_the_cut_kills() {
        let issuing = ca().issuing;
        let own = issuing.signs_from();
        assert_eq!(issuing.info().not_before(), own);
        let cut = UnixTime::from_millis(own.millis() + 5_400);
        let issuing = issuing.above(cut);
        assert!(issuing.signs_from() > cut);
        assert_eq!(issuing.signs_from(), UnixTime::from_seconds(own.seconds() + 6));
        let issuing = issuing.above(own.minus(Duration::from_secs(60)));
        assert_eq!(
            issuing.signs_from(),
            UnixTime::from_seconds(own.seconds() + 6),
            "a cut never goes back"
        );
    }

    #[test]
    fn path_lengths_are_respected() {
        let ca = ca();
        let key = CaKey::generate().unwrap().0;
        let dates = CaDates::lasting(NOW, std::time::Duration::from_secs(86_400));
        let refused = make_intermediate(&ca.issuing, &key, serial(3), dates);
        assert!(matches!(refused, Err(MintError::Unusable(_))));
    }

    #[test]
    fn a_leaf_or_a_name_that_cannot_be_repeated_is_no_issuer() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let key = || CaKey::from_pkcs8(&pair.serialize_der()).unwrap();
        let make = |change: &dyn Fn(&mut CertificateParams)| {
            let mut params = CertificateParams::default();
            params.serial_number = Some(1u64.into());
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
            change(&mut params);
            params.self_signed(&pair).unwrap().der().to_vec()
        };
        assert!(
            Issuer::load(&domain(), key(), vec![make(&|_| {})]).is_ok(),
            "a CA of other make"
        );
        assert!(unusable(vec![make(&|p| p.is_ca = rcgen::IsCa::ExplicitNoCa)], key()).contains("cA=true"));
        // Two organisational units: written by hand, since rcgen itself cannot.
        let two = make(&|p| {
            p.distinguished_name = rcgen::DistinguishedName::new();
            p.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, "A");
            p.distinguished_name
                .push(rcgen::DnType::CustomDnType(vec![2, 5, 4, 12]), "B");
        });
        let mut twice = two.clone();
        for at in 0..two.len() - 4 {
            if two[at..].starts_with(&[0x55, 0x04, 0x0c]) {
                twice[at + 2] = 0x0b;
            }
        }
        assert_ne!(two, twice);
        let tbs = locate(&twice).unwrap();
        let resigned = crate::tbs::sign(&twice[tbs], &key()).unwrap();
        assert!(unusable(vec![resigned], key()).contains("octet for octet"));
    }

    #[test]
    fn roots_of_one_domain_differ_by_name() {
        let make = || {
            let key = CaKey::generate().unwrap().0;
            let der = make_root(&domain(), &key, serial(1), CaDates::root(NOW)).unwrap();
            CertInfo::parse(&der).unwrap().subject_raw().to_vec()
        };
        assert_ne!(make(), make());
    }
}
