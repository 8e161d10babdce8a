//! A certificate revocation list (RFC 5280, section 5) as it comes from outside: read strictly, and held against the CA
//! that signed it. Only full lists of one issuer are taken; delta and indirect lists say so in critical extensions.

use mintage_identity::UnixTime;
use x509_parser::{prelude::FromDer, time::ASN1Time};

use crate::{
    CertInfo, PublicKey, SignatureAlgorithm, SvidError,
    certificate::SignedParts,
    der::{self, DerError, Reader, TAG_CONTEXT_0, TAG_INTEGER, TAG_OCTET_STRING, TAG_OID, TAG_SEQUENCE},
    limits::CRL_BYTES_MAX,
};

const WHAT: &str = "revocation list";
const TAG_BOOLEAN: u8 = 0x01;
const TAG_UTC_TIME: u8 = 0x17;
const TAG_GENERALIZED_TIME: u8 = 0x18;
/// cRLNumber, 2.5.29.20.
const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
/// authorityKeyIdentifier, 2.5.29.35.
const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];

/// A list that was read. Whose it is says [`Crl::verify`].
#[derive(Clone, PartialEq, Eq)]
pub struct Crl {
    der: Vec<u8>,
    issuer_raw: Vec<u8>,
    number: u64,
    this_update: UnixTime,
    next_update: UnixTime,
    entries: usize,
}

impl Crl {
    /// Reads a DER list of less than 16 MB.
    ///
    /// # Errors
    /// Refuses what is not strict DER, lists without a number or an end, and critical extensions.
    pub fn parse(der: &[u8]) -> Result<Self, SvidError> {
        SvidError::check_size(WHAT, der.len(), CRL_BYTES_MAX, "bytes")?;
        der::check(der).map_err(strict)?;
        let parts = SignedParts::cut(der)?;
        let tbs = Reader::new(parts.signed).expect(TAG_SEQUENCE).map_err(strict)?;
        let mut fields = Reader::new(tbs.value);
        let version = fields.expect(TAG_INTEGER).map_err(strict)?;
        if version.value != [1] {
            return Err(SvidError::malformed(WHAT, "its version is not 2"));
        }
        if fields.expect(TAG_SEQUENCE).map_err(strict)?.raw != parts.algorithm {
            return Err(SvidError::malformed(WHAT, "its two signature algorithms differ"));
        }
        let issuer_raw = fields.expect(TAG_SEQUENCE).map_err(strict)?.raw.to_vec();
        let this_update = time(&mut fields)?;
        let next_update = match fields.peek() {
            Some(TAG_UTC_TIME | TAG_GENERALIZED_TIME) => time(&mut fields)?,
            _ => return Err(SvidError::malformed(WHAT, "it has no nextUpdate")),
        };
        if next_update < this_update {
            return Err(SvidError::malformed(WHAT, "it ends before it begins"));
        }
        let entries = match fields.peek() {
            Some(TAG_SEQUENCE) => entries(fields.expect(TAG_SEQUENCE).map_err(strict)?.value)?,
            _ => 0,
        };
        let outer = fields.expect(TAG_CONTEXT_0).map_err(strict)?;
        fields.finish().map_err(strict)?;
        let number = number(outer.value)?;
        Ok(Self {
            der: der.to_vec(),
            issuer_raw,
            number,
            this_update,
            next_update,
            entries,
        })
    }

    /// Checks that `signer` may sign lists and has signed this one.
    ///
    /// # Errors
    /// Refuses another issuer's name, a key usage without cRLSign, and a signature that does not verify.
    pub fn verify(&self, signer: &CertInfo) -> Result<(), SvidError> {
        if signer.subject_raw() != self.issuer_raw {
            return Err(SvidError::malformed(WHAT, "it names another issuer"));
        }
        if !signer.may_sign_crls() {
            return Err(SvidError::Signing("key usage lacks cRLSign"));
        }
        let parts = SignedParts::cut(&self.der)?;
        let algorithm = SignatureAlgorithm::from_der(parts.algorithm).ok_or(SvidError::Key {
            what: "signature",
            why: "the algorithm is not accepted here",
        })?;
        PublicKey::from_spki(signer.spki_der())?.verify(algorithm, parts.signed, parts.signature)
    }

    /// The whole list.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The issuer's name (DER).
    pub fn issuer_raw(&self) -> &[u8] {
        &self.issuer_raw
    }

    /// Its number, which rises from list to list (RFC 5280, section 5.2.3).
    pub fn number(&self) -> u64 {
        self.number
    }

    /// When it was made.
    pub fn this_update(&self) -> UnixTime {
        self.this_update
    }

    /// Until when another one comes; whoever relies on lists refuses this one afterwards.
    pub fn next_update(&self) -> UnixTime {
        self.next_update
    }

    /// How many certificates it names.
    pub fn entries(&self) -> usize {
        self.entries
    }
}

impl std::fmt::Debug for Crl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crl")
            .field("number", &self.number)
            .field("next_update", &self.next_update)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

fn strict(error: DerError) -> SvidError {
    SvidError::Der { what: WHAT, error }
}

fn time(fields: &mut Reader<'_>) -> Result<UnixTime, SvidError> {
    let tlv = fields.any().map_err(strict)?;
    if !matches!(tlv.tag, TAG_UTC_TIME | TAG_GENERALIZED_TIME) {
        return Err(strict(DerError::Tag {
            expected: TAG_UTC_TIME,
            found: tlv.tag,
        }));
    }
    match ASN1Time::from_der(tlv.raw) {
        Ok(([], time)) => Ok(UnixTime::from_seconds(time.timestamp())),
        _ => Err(SvidError::malformed(WHAT, "a date in it cannot be read")),
    }
}

fn entries(list: &[u8]) -> Result<usize, SvidError> {
    let mut list = Reader::new(list);
    let mut count = 0;
    while !list.is_empty() {
        let mut entry = Reader::new(list.expect(TAG_SEQUENCE).map_err(strict)?.value);
        entry.expect(TAG_INTEGER).map_err(strict)?;
        time(&mut entry)?;
        if entry.peek() == Some(TAG_SEQUENCE) {
            let extensions = entry.expect(TAG_SEQUENCE).map_err(strict)?.value;
            each_extension(extensions, |_, critical, _| match critical {
                true => Err(SvidError::malformed(WHAT, "an entry has a critical extension")),
                false => Ok(()),
            })?;
        }
        entry.finish().map_err(strict)?;
        count += 1;
    }
    Ok(count)
}

/// The list's number out of its extensions.
fn number(outer: &[u8]) -> Result<u64, SvidError> {
    let mut outer = Reader::new(outer);
    let extensions = outer.expect(TAG_SEQUENCE).map_err(strict)?.value;
    outer.finish().map_err(strict)?;
    let mut found = None;
    each_extension(extensions, |id, critical, value| {
        if id == CRL_NUMBER {
            let mut value = Reader::new(value);
            let octets = value.expect(TAG_INTEGER).map_err(strict)?.value;
            value.finish().map_err(strict)?;
            if found.replace(unsigned(octets)?).is_some() {
                return Err(SvidError::malformed(WHAT, "it has two numbers"));
            }
        } else if critical && id != AUTHORITY_KEY_ID {
            let why = "it has a critical extension: only full lists of one issuer are taken";
            return Err(SvidError::malformed(WHAT, why));
        }
        Ok(())
    })?;
    found.ok_or_else(|| SvidError::malformed(WHAT, "it has no number"))
}

/// An INTEGER in canonical form that fits into 64 bits.
fn unsigned(octets: &[u8]) -> Result<u64, SvidError> {
    let digits = match octets {
        [0, rest @ ..] => rest,
        [first, ..] if first & 0x80 == 0 => octets,
        _ => return Err(SvidError::malformed(WHAT, "its number is negative")),
    };
    match digits.len() <= 8 {
        true => Ok(digits.iter().fold(0, |sum, digit| sum << 8 | u64::from(*digit))),
        false => Err(SvidError::malformed(WHAT, "its number has more than 64 bits")),
    }
}

/// Passes identifier, criticality and value of each extension.
fn each_extension(
    extensions: &[u8],
    mut look: impl FnMut(&[u8], bool, &[u8]) -> Result<(), SvidError>,
) -> Result<(), SvidError> {
    let mut extensions = Reader::new(extensions);
    while !extensions.is_empty() {
        let mut one = Reader::new(extensions.expect(TAG_SEQUENCE).map_err(strict)?.value);
        let id = one.expect(TAG_OID).map_err(strict)?.value;
        let critical = one.peek() == Some(TAG_BOOLEAN) && one.expect(TAG_BOOLEAN).map_err(strict)?.value == [0xff];
        let value = one.expect(TAG_OCTET_STRING).map_err(strict)?.value;
        one.finish().map_err(strict)?;
        look(id, critical, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams};

    use super::*;
    use crate::samples::{ca_params, root};

    fn params(number: &[u8], serials: u64) -> CertificateRevocationListParams {
        let revoked = |serial: u64| RevokedCertParams {
            serial_number: (serial + 1).into(),
            revocation_time: rcgen::date_time_ymd(2026, 1, 1),
            reason_code: Some(rcgen::RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2026, 1, 1),
            next_update: rcgen::date_time_ymd(2027, 1, 1),
            crl_number: rcgen::SerialNumber::from_slice(number),
            issuing_distribution_point: None,
            revoked_certs: (0..serials).map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
    }

    #[test]
    fn a_list_says_what_is_in_it_and_only_its_signer_verifies_it() {
        let (ca, other) = (root(), root().below(ca_params("middle")));
        for serials in [0, 3] {
            let crl = Crl::parse(&ca.crl(params(&[1, 2], serials))).unwrap();
            assert_eq!((crl.number(), crl.entries() as u64), (0x0102, serials));
            assert!(crl.this_update() < crl.next_update());
            let signer = CertInfo::parse_signing(&ca.der).unwrap();
            crl.verify(&signer).unwrap();
            crl.verify(&CertInfo::parse_signing(&other.der).unwrap()).unwrap_err();
            let mut damaged = crl.der().to_vec();
            *damaged.last_mut().unwrap() ^= 1;
            if let Ok(damaged) = Crl::parse(&damaged) {
                damaged.verify(&signer).unwrap_err();
            }
        }
    }

    #[test]
    fn what_is_no_full_list_with_a_number_is_refused() {
        let ca = root();
        let told = |der: &[u8]| Crl::parse(der).unwrap_err().to_string();
        assert!(told(&ca.crl(params(&[1; 9], 1))).contains("64 bits"));
        let partial = CertificateRevocationListParams {
            issuing_distribution_point: Some(rcgen::CrlIssuingDistributionPoint {
                distribution_point: rcgen::CrlDistributionPoint {
                    uris: vec!["http://example.org/crl".to_owned()],
                },
                scope: None,
            }),
            ..params(&[1], 1)
        };
        assert!(told(&ca.crl(partial)).contains("full lists"));
        assert!(told(&ca.der).contains("revocation list"), "a certificate is none");
        assert!(told(&vec![0; CRL_BYTES_MAX + 1]).contains("limit"));
        let good = ca.crl(params(&[1], 2));
        assert!(Crl::parse(&good[..good.len() - 1]).is_err());
        assert!(Crl::parse(&[&good[..], &[0]].concat()).is_err());
    }
}
