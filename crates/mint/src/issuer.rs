//! A CA that signs: its key, its certificate and what every certificate it signs repeats, loaded and checked once.

use std::{fmt, sync::Arc};

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
            info,
            key,
        })
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

    /// First second of its validity.
    pub fn not_before(&self) -> UnixTime {
        self.info.not_before()
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
