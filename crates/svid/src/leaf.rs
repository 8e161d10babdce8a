//! The leaf of an X.509-SVID, with the rules that TLS libraries do not check (X509-SVID standard, sections 2 to 5).

use mintage_identity::{Serial, SpiffeId, SpkiHash, UnixTime};
use x509_parser::{
    extensions::{ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension, SubjectAlternativeName},
    oid_registry,
};

use crate::{
    LeafRule, SvidError,
    certificate::{Parsed, uris},
    spki_sha256,
};

/// Facts of a leaf certificate that obeys every leaf rule. Its signature has not been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafInfo {
    id: SpiffeId,
    serial: Serial,
    not_before: UnixTime,
    not_after: UnixTime,
    spki_der: Vec<u8>,
    spki_sha256: SpkiHash,
    dns_names: Vec<String>,
    common_name: Option<String>,
    issuer_raw: Vec<u8>,
    authority_key_id: Option<Vec<u8>>,
}

impl LeafInfo {
    /// Parses one DER certificate of at most 16 KB.
    ///
    /// # Errors
    /// Refuses what is not strict DER, what is not X.509 version 3, and every breach named by [`LeafRule`].
    pub fn parse(der: &[u8]) -> Result<Self, SvidError> {
        let parsed = Parsed::from_der(der)?;
        let mut san = None;
        let mut key_usage = None;
        let mut authority_key_id = None;
        for (extension, value) in parsed.extensions() {
            match value {
                ParsedExtension::SubjectAlternativeName(names) => san = Some((extension.critical, names)),
                ParsedExtension::KeyUsage(usage) => key_usage = Some((extension.critical, usage)),
                ParsedExtension::ExtendedKeyUsage(purposes) => check_purposes(purposes)?,
                ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                    return Err(LeafRule::IsCa.into());
                }
                ParsedExtension::BasicConstraints(constraints) if constraints.path_len_constraint.is_some() => {
                    return Err(LeafRule::PathLength.into());
                }
                ParsedExtension::BasicConstraints(_) => {}
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                // RFC 5280, section 4.2: what is critical and not understood makes the certificate unusable.
                _ if extension.critical => {
                    let why = format!("extension {} is critical and not known here", extension.oid);
                    return Err(SvidError::malformed("certificate", why));
                }
                _ => {}
            }
        }
        check_key_usage(key_usage)?;
        let (id, dns_names) = names(&parsed, san)?;
        Ok(Self {
            id,
            serial: parsed.serial,
            not_before: parsed.not_before,
            not_after: parsed.not_after,
            spki_der: parsed.spki_der.to_vec(),
            spki_sha256: spki_sha256(parsed.spki_der),
            dns_names,
            common_name: common_name(&parsed),
            issuer_raw: parsed.x509.issuer().as_raw().to_vec(),
            authority_key_id,
        })
    }

    /// The SPIFFE ID: the only URI among the names, with a path.
    pub fn id(&self) -> &SpiffeId {
        &self.id
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

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn spki_sha256(&self) -> SpkiHash {
        self.spki_sha256
    }

    /// DNS names in the order of the certificate.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// The subject's first common name. It is not an identity: only [`LeafInfo::id`] is.
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// The issuer's name as DER.
    pub fn issuer_raw(&self) -> &[u8] {
        &self.issuer_raw
    }

    /// The authority key identifier, when set.
    pub fn authority_key_id(&self) -> Option<&[u8]> {
        self.authority_key_id.as_deref()
    }
}

fn check_key_usage(key_usage: Option<(bool, &KeyUsage)>) -> Result<(), LeafRule> {
    let Some((critical, usage)) = key_usage else {
        return Err(LeafRule::KeyUsageMissing);
    };
    if usage.key_cert_sign() {
        return Err(LeafRule::KeyCertSign);
    }
    if usage.crl_sign() {
        return Err(LeafRule::CrlSign);
    }
    if !usage.digital_signature() {
        return Err(LeafRule::NoDigitalSignature);
    }
    if critical {
        Ok(())
    } else {
        Err(LeafRule::KeyUsageNotCritical)
    }
}

fn check_purposes(purposes: &ExtendedKeyUsage<'_>) -> Result<(), LeafRule> {
    if purposes.server_auth && purposes.client_auth {
        Ok(())
    } else {
        Err(LeafRule::ExtendedKeyUsage)
    }
}

fn names(
    parsed: &Parsed<'_>,
    san: Option<(bool, &SubjectAlternativeName<'_>)>,
) -> Result<(SpiffeId, Vec<String>), SvidError> {
    let Some((critical, san)) = san else {
        return Err(LeafRule::NoUriSan.into());
    };
    let id = match uris(&san.general_names)?.as_slice() {
        [] => return Err(LeafRule::NoUriSan.into()),
        [uri] => SpiffeId::parse(uri).map_err(LeafRule::BadId)?,
        many => return Err(LeafRule::ManyUriSans(many.len()).into()),
    };
    if id.path().is_empty() {
        return Err(LeafRule::RootPath.into());
    }
    if !critical && parsed.subject_is_empty() {
        return Err(LeafRule::SanNotCritical.into());
    }
    let dns_names = san.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(text) => Some((*text).to_owned()),
        _ => None,
    });
    Ok((id, dns_names.collect()))
}

fn common_name(parsed: &Parsed<'_>) -> Option<String> {
    let mut names = parsed.x509.subject().iter_by_oid(&oid_registry::OID_X509_COMMON_NAME);
    names.next()?.as_str().ok().map(str::to_owned)
}

#[cfg(test)]
#[path = "leaf_tests.rs"]
mod tests;
