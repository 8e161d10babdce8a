//! Signing certificates: roots and intermediates (X509-SVID standard, sections 3.1 and 4).

use mintage_identity::{CertHash, IssuerKeyId, Serial, SpiffeId, UnixTime};
use x509_parser::extensions::ParsedExtension;

use crate::{
    PublicKey, SignatureAlgorithm, SvidError,
    certificate::{Parsed, SignedParts, uris},
    spki_sha256,
};

/// Facts of a certificate, read for its use as an issuer. [`CertInfo::parse`] takes any certificate;
/// [`CertInfo::check_signing`] says whether it may sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertInfo {
    subject_raw: Vec<u8>,
    issuer_raw: Vec<u8>,
    serial: Serial,
    not_before: UnixTime,
    not_after: UnixTime,
    spki_der: Vec<u8>,
    key_id: IssuerKeyId,
    is_ca: bool,
    path_len: Option<u32>,
    key_usage: Option<SigningUsage>,
    subject_key_id: Option<Vec<u8>>,
    authority_key_id: Option<Vec<u8>>,
    uris: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SigningUsage {
    critical: bool,
    certificates: bool,
    revocation_lists: bool,
}

impl CertInfo {
    /// Parses one DER certificate of at most 16 KB.
    ///
    /// # Errors
    /// Refuses what is not strict DER or not X.509 version 3, and unreadable extensions.
    pub fn parse(der: &[u8]) -> Result<Self, SvidError> {
        let parsed = Parsed::from_der(der)?;
        let mut info = Self {
            subject_raw: parsed.x509.subject().as_raw().to_vec(),
            issuer_raw: parsed.x509.issuer().as_raw().to_vec(),
            serial: parsed.serial,
            not_before: parsed.not_before,
            not_after: parsed.not_after,
            spki_der: parsed.spki_der.to_vec(),
            key_id: IssuerKeyId::new(*spki_sha256(parsed.spki_der).as_bytes()),
            is_ca: false,
            path_len: None,
            key_usage: None,
            subject_key_id: None,
            authority_key_id: None,
            uris: Vec::new(),
        };
        for (extension, value) in parsed.extensions() {
            match value {
                ParsedExtension::BasicConstraints(constraints) => {
                    info.is_ca = constraints.ca;
                    info.path_len = constraints.path_len_constraint;
                }
                ParsedExtension::KeyUsage(usage) => {
                    info.key_usage = Some(SigningUsage {
                        critical: extension.critical,
                        certificates: usage.key_cert_sign(),
                        revocation_lists: usage.crl_sign(),
                    });
                }
                ParsedExtension::SubjectKeyIdentifier(id) => info.subject_key_id = Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    info.authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    info.uris = uris(&names.general_names)?.into_iter().map(str::to_owned).collect();
                }
                _ => {}
            }
        }
        Ok(info)
    }

    /// Parses a certificate that may sign others.
    ///
    /// # Errors
    /// As [`CertInfo::parse`] and [`CertInfo::check_signing`].
    pub fn parse_signing(der: &[u8]) -> Result<Self, SvidError> {
        let info = Self::parse(der)?;
        info.check_signing()?;
        Ok(info)
    }

    /// Whether this certificate may sign others: cA is true, a critical key usage allows it, and its SPIFFE ID, if it
    /// has one, names a trust domain and not a workload.
    ///
    /// # Errors
    /// [`SvidError::Signing`] with the rule that is broken.
    pub fn check_signing(&self) -> Result<(), SvidError> {
        if !self.is_ca {
            return Err(SvidError::Signing("basic constraints do not say cA=true"));
        }
        match self.key_usage {
            Some(SigningUsage {
                critical: true,
                certificates: true,
                ..
            }) => {}
            Some(SigningUsage {
                certificates: false, ..
            }) => {
                return Err(SvidError::Signing("key usage lacks keyCertSign"));
            }
            Some(_) => return Err(SvidError::Signing("key usage is not critical")),
            None => return Err(SvidError::Signing("there is no key usage extension")),
        }
        if self.subject_raw == [0x30, 0x00] {
            return Err(SvidError::Signing(
                "the subject is empty (RFC 5280 needs a name for every issuer)",
            ));
        }
        self.trust_domain_id().map(|_| ())
    }

    /// The SPIFFE ID of a signing certificate: that of its trust domain, if it has one.
    ///
    /// # Errors
    /// Refuses a malformed SPIFFE ID, one with a path, and one beside other URIs.
    pub fn trust_domain_id(&self) -> Result<Option<SpiffeId>, SvidError> {
        // A URI of another scheme is no claim to an identity.
        if !self.uris.iter().any(|uri| {
            uri.get(..7)
                .is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
        }) {
            return Ok(None);
        }
        let [uri] = self.uris.as_slice() else {
            return Err(SvidError::Signing("it has a SPIFFE ID beside other URIs"));
        };
        match SpiffeId::parse(uri) {
            Ok(id) if id.path().is_empty() => Ok(Some(id)),
            Ok(_) => Err(SvidError::Signing("its SPIFFE ID has a path, so it names a workload")),
            Err(_) => Err(SvidError::Signing("its SPIFFE ID is malformed")),
        }
    }

    /// The subject's name as DER, octet for octet.
    pub fn subject_raw(&self) -> &[u8] {
        &self.subject_raw
    }

    /// The issuer's name as DER, octet for octet.
    pub fn issuer_raw(&self) -> &[u8] {
        &self.issuer_raw
    }

    /// Whether subject and issuer are the same name.
    pub fn is_self_issued(&self) -> bool {
        self.subject_raw == self.issuer_raw
    }

    /// The serial number.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// First second of validity.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// Last second of validity.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// The SubjectPublicKeyInfo, octet for octet.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// SHA-256 of the SubjectPublicKeyInfo: names this key as an issuer.
    pub fn key_id(&self) -> IssuerKeyId {
        self.key_id
    }

    /// Basic constraints cA.
    pub fn is_ca(&self) -> bool {
        self.is_ca
    }

    /// Basic constraints pathLenConstraint: how many further CA certificates may follow.
    pub fn path_len(&self) -> Option<u32> {
        self.path_len
    }

    /// Whether key usage allows signing revocation lists.
    pub fn may_sign_crls(&self) -> bool {
        self.key_usage.is_some_and(|usage| usage.revocation_lists)
    }

    /// The subject key identifier, when set.
    pub fn subject_key_id(&self) -> Option<&[u8]> {
        self.subject_key_id.as_deref()
    }

    /// The authority key identifier, when set.
    pub fn authority_key_id(&self) -> Option<&[u8]> {
        self.authority_key_id.as_deref()
    }
}

/// Checks that `certificate_der` carries a signature by the key of `issuer_spki_der`. Names, dates and rules are not
/// looked at.
///
/// # Errors
/// Refuses malformed documents, algorithms not accepted here (SHA-1 among them) and signatures that do not verify.
pub fn verify_issued(certificate_der: &[u8], issuer_spki_der: &[u8]) -> Result<(), SvidError> {
    let parts = SignedParts::cut(certificate_der)?;
    let algorithm = SignatureAlgorithm::from_der(parts.algorithm).ok_or(SvidError::Key {
        what: "signature",
        why: "the algorithm is not accepted here",
    })?;
    PublicKey::from_spki(issuer_spki_der)?.verify(algorithm, parts.signed, parts.signature)
}

/// SHA-256 of a whole certificate.
pub fn cert_sha256(certificate_der: &[u8]) -> CertHash {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate_der);
    let mut octets = [0; 32];
    octets.copy_from_slice(digest.as_ref());
    CertHash::new(octets)
}

#[cfg(test)]
mod tests {
    use rcgen::{IsCa, KeyPair, KeyUsagePurpose};

    use super::*;
    use crate::samples::{KEY_USAGE, ca_params, extension, root, root_of, uri};

    #[test]
    fn a_root_may_sign_and_names_its_trust_domain() {
        let info = CertInfo::parse_signing(&root().der).unwrap();
        assert!(info.is_ca() && info.is_self_issued() && info.may_sign_crls());
        assert_eq!(
            info.trust_domain_id().unwrap().unwrap().as_str(),
            "spiffe://example.org"
        );
        assert_eq!(info.key_id().as_bytes(), spki_sha256(info.spki_der()).as_bytes());
        assert_eq!(info.path_len(), None);
        assert!(info.subject_key_id().is_some() && info.authority_key_id().is_none());
    }

    #[test]
    fn a_certificate_that_must_not_sign_is_refused() {
        let refused = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
            let mut params = ca_params("x");
            change(&mut params);
            assert!(matches!(
                CertInfo::parse_signing(&root_of(params).der),
                Err(SvidError::Signing(_))
            ));
        };
        refused(&|p| p.is_ca = IsCa::ExplicitNoCa);
        refused(&|p| p.is_ca = IsCa::NoCa);
        refused(&|p| p.key_usages.clear());
        refused(&|p| p.key_usages = vec![KeyUsagePurpose::CrlSign]);
        refused(&|p| {
            p.key_usages.clear();
            p.custom_extensions = vec![extension(&KEY_USAGE, false, &[0x03, 0x02, 0x01, 0x06])];
        });
        refused(&|p| p.distinguished_name = rcgen::DistinguishedName::new());
        refused(&|p| p.subject_alt_names = vec![uri("spiffe://example.org/ca")]);
        refused(&|p| p.subject_alt_names = vec![uri("spiffe://Example.org")]);
        refused(&|p| p.subject_alt_names = vec![uri("SPIFFE://example.org")]);
        refused(&|p| p.subject_alt_names.push(uri("spiffe://other.org")));
        let mut params = ca_params("x");
        params.subject_alt_names = vec![uri("https://example.org/ca")];
        assert_eq!(
            CertInfo::parse_signing(&root_of(params).der).unwrap().trust_domain_id(),
            Ok(None)
        );
    }

    #[test]
    fn a_signature_belongs_to_one_key() {
        let (root, other) = (root(), root());
        let leaf = root.leaf(|_| {});
        let key_of = |der: &[u8]| CertInfo::parse(der).unwrap().spki_der().to_vec();
        verify_issued(&leaf, &key_of(&root.der)).unwrap();
        verify_issued(&root.der, &key_of(&root.der)).unwrap();
        assert!(verify_issued(&leaf, &key_of(&other.der)).is_err());
        let mut flipped = leaf.clone();
        flipped[60] ^= 1;
        assert!(verify_issued(&flipped, &key_of(&root.der)).is_err());
        assert!(verify_issued(&leaf[1..], &key_of(&root.der)).is_err());
    }

    #[test]
    fn other_issuer_algorithms_verify_too() {
        for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let der = ca_params("x").self_signed(&key).unwrap().der().to_vec();
            verify_issued(&der, CertInfo::parse_signing(&der).unwrap().spki_der()).unwrap();
        }
    }
}
