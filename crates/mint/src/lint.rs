//! The last look before a signature: the built octets are read back and every field is held against what was granted.

use mintage_identity::{Serial, UnixTime};
use mintage_svid::check_tbs_frame;
use x509_parser::{
    certificate::TbsCertificate,
    extensions::{ExtendedKeyUsage, GeneralName, ParsedExtension},
    oid_registry,
    prelude::FromDer,
    time::ASN1Time,
    x509::{X509Name, X509Version},
};

use crate::{MintError, dates::LeafDates};

/// 2050-01-01T00:00:00Z: from here on dates are GeneralizedTime (RFC 5280, section 4.1.2.5).
const YEAR_2050: i64 = 2_524_608_000;
/// KeyUsage with digitalSignature alone: a named bit list is written without the zeros at its end (X.690, section 11.2).
const DIGITAL_SIGNATURE: [u8; 4] = [0x03, 0x02, 0x07, 0x80];
/// Exactly these extensions, each once: SAN, key usage, extended key usage, basic constraints, and the two key
/// identifiers.
const EXTENSIONS: usize = 6;

/// What the certificate must say, field by field.
pub(crate) struct Expected<'a> {
    pub(crate) serial: &'a Serial,
    pub(crate) issuer_raw: &'a [u8],
    pub(crate) dates: LeafDates,
    pub(crate) common_name: Option<&'a str>,
    pub(crate) spki_der: &'a [u8],
    pub(crate) spiffe_id: &'a str,
    pub(crate) dns_names: &'a [String],
    pub(crate) subject_key_id: &'a [u8],
    pub(crate) authority_key_id: &'a [u8],
}

impl Expected<'_> {
    /// Compares a to-be-signed certificate with this.
    pub(crate) fn check(&self, tbs: &[u8]) -> Result<(), MintError> {
        // Strict lengths and the tag of every field; the octets below the tags are compared one by one.
        ensure(check_tbs_frame(tbs).is_ok(), "encoding")?;
        let (rest, tbs) = TbsCertificate::from_der(tbs).map_err(|_| MintError::Lint("encoding"))?;
        ensure(rest.is_empty(), "encoding")?;
        ensure(tbs.version == X509Version::V3, "version")?;
        ensure(self.serial_is(tbs.raw_serial()), "serial")?;
        let algorithm = &tbs.signature;
        let is_ecdsa = algorithm.algorithm == oid_registry::OID_SIG_ECDSA_WITH_SHA256;
        ensure(is_ecdsa && algorithm.parameters.is_none(), "signature algorithm")?;
        ensure(tbs.issuer.as_raw() == self.issuer_raw, "issuer")?;
        ensure(date_is(tbs.validity.not_before, self.dates.not_before), "notBefore")?;
        ensure(date_is(tbs.validity.not_after, self.dates.not_after), "notAfter")?;
        ensure(self.subject_is(&tbs.subject), "subject")?;
        ensure(tbs.subject_pki.raw == self.spki_der, "public key")?;
        ensure(
            tbs.issuer_uid.is_none() && tbs.subject_uid.is_none(),
            "unique identifiers",
        )?;
        self.check_extensions(&tbs)
    }

    fn check_extensions(&self, tbs: &TbsCertificate<'_>) -> Result<(), MintError> {
        let extensions = tbs.extensions();
        ensure(extensions.len() == EXTENSIONS, "extension list")?;
        // Six extensions and six different ones seen: none is missing, none is foreign, none occurs twice.
        let mut seen = 0u8;
        for extension in extensions {
            let (bit, critical, good, field) = match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(san) => (
                    0,
                    self.common_name.is_none(),
                    self.names_are(&san.general_names),
                    "subject alternative name",
                ),
                ParsedExtension::KeyUsage(usage) => (
                    1,
                    true,
                    usage.flags == 1 && extension.value == DIGITAL_SIGNATURE,
                    "key usage",
                ),
                ParsedExtension::ExtendedKeyUsage(purposes) => (2, false, purposes_are(purposes), "extended key usage"),
                ParsedExtension::BasicConstraints(limits) => (
                    3,
                    true,
                    !limits.ca && limits.path_len_constraint.is_none(),
                    "basic constraints",
                ),
                ParsedExtension::SubjectKeyIdentifier(id) => {
                    (4, false, id.0 == self.subject_key_id, "subject key identifier")
                }
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    let plain = id.authority_cert_issuer.is_none() && id.authority_cert_serial.is_none();
                    let same = id
                        .key_identifier
                        .as_ref()
                        .is_some_and(|id| id.0 == self.authority_key_id);
                    (5, false, plain && same, "authority key identifier")
                }
                _ => return Err(MintError::Lint("extension list")),
            };
            ensure(good && extension.critical == critical, field)?;
            seen |= 1 << bit;
        }
        ensure(seen.count_ones() as usize == EXTENSIONS, "extension list")
    }

    /// The shortest form of a positive INTEGER.
    fn serial_is(&self, raw: &[u8]) -> bool {
        let octets = self.serial.octets();
        if octets[0] & 0x80 == 0 {
            raw == octets
        } else {
            raw.strip_prefix(&[0]) == Some(octets)
        }
    }

    /// Empty, or one common name in UTF-8 and nothing else.
    fn subject_is(&self, subject: &X509Name<'_>) -> bool {
        let mut names = subject.iter();
        let Some(expected) = self.common_name else {
            return names.next().is_none();
        };
        let (Some(name), None) = (names.next(), names.next()) else {
            return false;
        };
        let mut attributes = name.iter();
        let (Some(attribute), None) = (attributes.next(), attributes.next()) else {
            return false;
        };
        *attribute.attr_type() == oid_registry::OID_X509_COMMON_NAME && attribute.as_str() == Ok(expected)
    }

    /// The SPIFFE ID first, then the DNS names in the order of the Grant.
    fn names_are(&self, names: &[GeneralName<'_>]) -> bool {
        let Some((GeneralName::URI(uri), dns_names)) = names.split_first() else {
            return false;
        };
        *uri == self.spiffe_id
            && dns_names.len() == self.dns_names.len()
            && dns_names
                .iter()
                .zip(self.dns_names)
                .all(|(name, expected)| matches!(name, GeneralName::DNSName(text) if text == expected))
    }
}

fn purposes_are(purposes: &ExtendedKeyUsage<'_>) -> bool {
    let more = purposes.any
        || purposes.code_signing
        || purposes.email_protection
        || purposes.time_stamping
        || purposes.ocsp_signing
        || !purposes.other.is_empty();
    purposes.server_auth && purposes.client_auth && !more
}

fn date_is(date: ASN1Time, expected: UnixTime) -> bool {
    date.timestamp() == expected.seconds() && date.is_generalizedtime() == (expected.seconds() >= YEAR_2050)
}

fn ensure(good: bool, field: &'static str) -> Result<(), MintError> {
    if good { Ok(()) } else { Err(MintError::Lint(field)) }
}

#[cfg(test)]
#[path = "lint_tests.rs"]
mod tests;
