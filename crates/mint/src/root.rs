//! CA certificates: the root, and the issuing CA below it. Same dates, serial and key give the same signed octets.

use std::time::Duration;

use mintage_identity::{Serial, TrustDomain, UnixTime};
use mintage_svid::{CertInfo, verify_issued};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, KeyIdMethod, KeyUsagePurpose,
    SanType,
};

use crate::{
    CaKey, Issuer, MintError,
    dates::instant,
    limits::{BACKDATE, INTERMEDIATE_LIFETIME, ROOT_LIFETIME},
    tbs::{Blank, CaSubject, locate, sign},
};

/// X.520 serialNumber: tells keys of one trust domain apart by name, so that path building never has to guess.
const SERIAL_NUMBER: [u64; 4] = [2, 5, 4, 5];
/// Longest common name (RFC 5280, appendix A.1, ub-common-name).
const COMMON_NAME_MAX: usize = 64;
/// Octets of a key identifier (RFC 7093, section 2, method 1).
const KEY_IDENTIFIER_OCTETS: usize = 20;

/// First and last second of a CA certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaDates {
    /// First second of validity.
    pub not_before: UnixTime,
    /// Last second of validity.
    pub not_after: UnixTime,
}

impl CaDates {
    /// Ten years from now.
    pub fn root(now: UnixTime) -> Self {
        Self::lasting(now, ROOT_LIFETIME)
    }

    /// Ninety days from now.
    pub fn intermediate(now: UnixTime) -> Self {
        Self::lasting(now, INTERMEDIATE_LIFETIME)
    }

    /// From 30 s ago until `lifetime` from now.
    pub fn lasting(now: UnixTime, lifetime: Duration) -> Self {
        let now = now.floor_to_second();
        Self {
            not_before: now.minus(BACKDATE),
            not_after: now.plus(lifetime),
        }
    }
}

/// Makes a self-signed root. It carries the SPIFFE ID of its trust domain and no name constraints: URI constraints make
/// common TLS libraries refuse every chain below them.
///
/// # Errors
/// Refuses dates out of order or outside of what X.509 can write.
pub fn make_root(
    trust_domain: &TrustDomain,
    key: &CaKey,
    serial: Serial,
    dates: CaDates,
) -> Result<Vec<u8>, MintError> {
    let made = Made {
        trust_domain,
        key,
        serial,
        dates,
        kind: "root CA",
        path_len: None,
    };
    let params = made.params()?;
    // The root is its own issuer; it names its key in the subject key identifier alone (RFC 5280, section 4.2.1.1).
    let unsigned = params.signed_by(&CaSubject(key), &rcgen::Issuer::from_params(&params, Blank))?;
    made.finish(unsigned.der(), key)
}

/// Makes an issuing CA certificate below `root`, with path length 0: it signs leaves and nothing else.
///
/// # Errors
/// Refuses dates that outlive the root, and a root whose path length allows no CA below it.
pub fn make_intermediate(root: &Issuer, key: &CaKey, serial: Serial, dates: CaDates) -> Result<Vec<u8>, MintError> {
    if dates.not_after > root.not_after() {
        return Err(MintError::Unusable(
            "the intermediate would outlive its root: rotate the root first",
        ));
    }
    if root.info().path_len() == Some(0) {
        return Err(MintError::Unusable(
            "the path length of the CA above allows no CA below it",
        ));
    }
    if root.key().key_id() == key.key_id() {
        return Err(MintError::OwnKey);
    }
    let trust_domain = root.trust_domain();
    let made = Made {
        trust_domain,
        key,
        serial,
        dates,
        kind: "issuing CA",
        path_len: Some(0),
    };
    let mut params = made.params()?;
    params.use_authority_key_identifier_extension = true;
    let unsigned = params.signed_by(&CaSubject(key), root.template())?;
    made.finish(unsigned.der(), root.key())
}

/// A key identifier: the first 160 bits of the SHA-256 of the SubjectPublicKeyInfo.
pub(crate) fn key_identifier(sha256: &[u8; 32]) -> &[u8] {
    &sha256[..KEY_IDENTIFIER_OCTETS]
}

struct Made<'a> {
    trust_domain: &'a TrustDomain,
    key: &'a CaKey,
    serial: Serial,
    dates: CaDates,
    kind: &'static str,
    path_len: Option<u8>,
}

impl Made<'_> {
    fn params(&self) -> Result<CertificateParams, MintError> {
        if self.dates.not_after <= self.dates.not_before {
            return Err(MintError::Unusable("it would end before it begins"));
        }
        let mut params = CertificateParams::default();
        params.not_before = instant(self.dates.not_before)?;
        params.not_after = instant(self.dates.not_after)?;
        params.serial_number = Some(rcgen::SerialNumber::from_slice(self.serial.octets()));
        params.distinguished_name = self.name()?;
        params.subject_alt_names = vec![SanType::URI(self.trust_domain.id().as_str().try_into()?)];
        params.is_ca = IsCa::Ca(match self.path_len {
            Some(most) => BasicConstraints::Constrained(most),
            None => BasicConstraints::Unconstrained,
        });
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.key_identifier_method = KeyIdMethod::PreSpecified(key_identifier(self.key.key_id().as_bytes()).to_vec());
        Ok(params)
    }

    fn name(&self) -> Result<DistinguishedName, MintError> {
        let mut common_name = format!("{} {}", self.trust_domain, self.kind);
        if common_name.len() > COMMON_NAME_MAX {
            self.kind.clone_into(&mut common_name);
        }
        let number: String = self.key.key_id().to_string().chars().take(16).collect();
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, common_name);
        name.push(
            DnType::CustomDnType(SERIAL_NUMBER.to_vec()),
            DnValue::PrintableString(number.as_str().try_into()?),
        );
        Ok(name)
    }

    /// Signs what was built, reads it back and compares it with what was meant.
    fn finish(&self, unsigned: &[u8], signer: &CaKey) -> Result<Vec<u8>, MintError> {
        let der = sign(&unsigned[locate(unsigned)?], signer)?;
        let info = CertInfo::parse_signing(&der)?;
        let lint = |ok: bool, field| if ok { Ok(()) } else { Err(MintError::Lint(field)) };
        lint(info.spki_der() == self.key.spki_der(), "public key")?;
        lint(*info.serial() == self.serial, "serial")?;
        lint(
            info.not_before() == self.dates.not_before.floor_to_second(),
            "notBefore",
        )?;
        lint(info.not_after() == self.dates.not_after.floor_to_second(), "notAfter")?;
        lint(info.path_len() == self.path_len.map(u32::from), "path length")?;
        lint(
            info.trust_domain_id()?.is_some_and(|id| id == self.trust_domain.id()),
            "SPIFFE ID",
        )?;
        lint(
            info.subject_key_id() == Some(key_identifier(self.key.key_id().as_bytes())),
            "subject key identifier",
        )?;
        lint(info.may_sign_crls(), "key usage")?;
        verify_issued(&der, signer.spki_der())?;
        Ok(der)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::{NOW, ca, domain, serial};

    fn tbs(der: &[u8]) -> &[u8] {
        &der[locate(der).unwrap()]
    }

    #[test]
    fn same_dates_serial_and_key_give_the_same_certificate() {
        let key = CaKey::generate().unwrap().0;
        let make = || make_root(&domain(), &key, serial(1), CaDates::root(NOW)).unwrap();
        assert_eq!(tbs(&make()), tbs(&make()));
    }

    #[test]
    fn root_and_intermediate_are_what_the_standards_ask_for() {
        let ca = ca();
        let (root, middle) = (ca.root.info(), ca.issuing.info());
        assert_eq!((root.path_len(), middle.path_len()), (None, Some(0)));
        assert!(root.is_self_issued() && !middle.is_self_issued());
        assert_eq!(root.not_after().since(NOW).as_secs() / 86_400, 3652);
        assert_eq!(
            middle.not_after().since(NOW).as_secs(),
            90 * 86_400 - 1,
            "90 days from the whole second"
        );
        assert_eq!(middle.authority_key_id(), root.subject_key_id());
        for info in [root, middle] {
            assert_eq!(info.trust_domain_id().unwrap(), Some(domain().id()));
            assert!(info.may_sign_crls());
        }
        let constraints = [0x06, 0x03, 0x55, 0x1d, 0x1e];
        let has_constraints = |der: &[u8]| der.windows(5).any(|window| window == constraints);
        assert!(!has_constraints(ca.root.certificate_der()) && !has_constraints(ca.issuing.certificate_der()));
    }

    #[test]
    fn a_long_trust_domain_still_gets_a_valid_name() {
        let long = TrustDomain::parse(&"a".repeat(255)).unwrap();
        let key = CaKey::generate().unwrap().0;
        let der = make_root(&long, &key, serial(1), CaDates::root(NOW)).unwrap();
        assert_eq!(
            CertInfo::parse_signing(&der).unwrap().trust_domain_id().unwrap(),
            Some(long.id())
        );
        assert!(Issuer::load(&long, key, vec![der]).is_ok());
    }

    #[test]
    fn impossible_dates_are_refused() {
        let ca = ca();
        let key = CaKey::generate().unwrap().0;
        let dates = |not_before, not_after| CaDates {
            not_before: UnixTime::from_seconds(not_before),
            not_after: UnixTime::from_seconds(not_after),
        };
        for bad in [
            dates(10, 10),
            dates(10, 9),
            dates(-1, 10),
            dates(0, crate::limits::LAST_SECOND + 1),
        ] {
            assert!(make_root(&domain(), &key, serial(1), bad).is_err(), "{bad:?}");
        }
        let outliving = CaDates {
            not_before: NOW,
            not_after: ca.root.not_after().plus(Duration::from_secs(1)),
        };
        assert!(make_intermediate(&ca.root, &key, serial(1), outliving).is_err());
    }
}
