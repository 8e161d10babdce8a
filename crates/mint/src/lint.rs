//! The last look before a signature: the built octets are read back and every field is held against what was granted.
//!
//! The reading shares nothing with the writing but the meaning of tags: lengths are walked, dates are counted back to
//! seconds, and nothing may be left over at any level.

use mintage_identity::{Serial, UnixTime};
use mintage_svid::der::{
    DerError, Reader, TAG_CONTEXT_0, TAG_INTEGER, TAG_OCTET_STRING, TAG_OID, TAG_SEQUENCE, TAG_SET, Tlv,
};
use time::{Date, Month, PrimitiveDateTime, Time};

use crate::{MintError, dates::LeafDates};

/// ecdsa-with-SHA256 without parameters (RFC 5758, section 3.2).
const ECDSA_SHA256_OID: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// Version 3.
const VERSION_3: &[u8] = &[0x02, 0x01, 0x02];
/// id-at-commonName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const TAG_BOOLEAN: u8 = 0x01;
const TAG_UTF8_STRING: u8 = 0x0c;
const TAG_UTC_TIME: u8 = 0x17;
const TAG_GENERALIZED_TIME: u8 = 0x18;
const TAG_KEY_IDENTIFIER: u8 = 0x80;
const TAG_DNS: u8 = 0x82;
const TAG_URI: u8 = 0x86;
const TAG_EXTENSIONS: u8 = 0xa3;
/// What extension identifiers here begin with: id-ce (2.5.29).
const ID_CE: &[u8] = &[0x55, 0x1d];
/// KeyUsage with digitalSignature alone: a named bit list is written without the zeros at its end (X.690, section 11.2).
const DIGITAL_SIGNATURE: &[u8] = &[0x03, 0x02, 0x07, 0x80];
/// serverAuth and clientAuth (RFC 5280, section 4.2.1.12).
const PURPOSES: [&[u8]; 2] = [
    &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01],
    &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02],
];
/// 2050-01-01T00:00:00Z: from here on dates are GeneralizedTime (RFC 5280, section 4.1.2.5).
const YEAR_2050: i64 = 2_524_608_000;
/// Exactly these extensions, each once: SAN, key usage, extended key usage, basic constraints, and the two key
/// identifiers.
const EXTENSIONS: u32 = 6;

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
        let mut tbs = only(tbs, TAG_SEQUENCE)?;
        ensure(next(&mut tbs, TAG_CONTEXT_0)?.value == VERSION_3, "version")?;
        ensure(self.serial_is(next(&mut tbs, TAG_INTEGER)?.value), "serial")?;
        let mut algorithm = Reader::new(next(&mut tbs, TAG_SEQUENCE)?.value);
        let is_ecdsa = next(&mut algorithm, TAG_OID)?.value == ECDSA_SHA256_OID && algorithm.is_empty();
        ensure(is_ecdsa, "signature algorithm")?;
        ensure(next(&mut tbs, TAG_SEQUENCE)?.raw == self.issuer_raw, "issuer")?;
        let mut validity = Reader::new(next(&mut tbs, TAG_SEQUENCE)?.value);
        ensure(date_is(validity.any(), self.dates.not_before), "notBefore")?;
        ensure(date_is(validity.any(), self.dates.not_after), "notAfter")?;
        validity.finish().map_err(encoding)?;
        ensure(self.subject_is(next(&mut tbs, TAG_SEQUENCE)?.value), "subject")?;
        ensure(next(&mut tbs, TAG_SEQUENCE)?.raw == self.spki_der, "public key")?;
        let extensions = next(&mut tbs, TAG_EXTENSIONS)?.value;
        tbs.finish().map_err(encoding)?;
        self.check_extensions(only(extensions, TAG_SEQUENCE)?)
    }

    fn check_extensions(&self, mut list: Reader<'_>) -> Result<(), MintError> {
        // Six extensions and six different ones seen: none is missing, none is foreign, none occurs twice.
        let (mut count, mut seen) = (0, 0u8);
        while !list.is_empty() {
            let mut extension = Reader::new(next(&mut list, TAG_SEQUENCE)?.value);
            let id = next(&mut extension, TAG_OID)?.value;
            let is_critical = extension.peek() == Some(TAG_BOOLEAN);
            // DEFAULT FALSE is left out in DER (X.690, section 11.5), so what is there is TRUE.
            if is_critical && next(&mut extension, TAG_BOOLEAN)?.value != [0xff] {
                return Err(MintError::Lint("encoding"));
            }
            let content = next(&mut extension, TAG_OCTET_STRING)?.value;
            extension.finish().map_err(encoding)?;
            let (bit, critical, good, field) = match id.strip_prefix(ID_CE) {
                Some([17]) => {
                    let alone = self.common_name.is_none();
                    (0, alone, self.names_are(content), "subject alternative name")
                }
                Some([15]) => (1, true, content == DIGITAL_SIGNATURE, "key usage"),
                Some([37]) => (2, false, purposes_are(content), "extended key usage"),
                // An empty sequence: cA is FALSE by default, and no path length.
                Some([19]) => (3, true, content == [TAG_SEQUENCE, 0], "basic constraints"),
                Some([14]) => {
                    let same = value_is(content, TAG_OCTET_STRING, self.subject_key_id);
                    (4, false, same, "subject key identifier")
                }
                Some([35]) => (5, false, self.authority_is(content), "authority key identifier"),
                _ => return Err(MintError::Lint("extension list")),
            };
            ensure(good && is_critical == critical, field)?;
            seen |= 1 << bit;
            count += 1;
        }
        ensure(count == EXTENSIONS && seen.count_ones() == EXTENSIONS, "extension list")
    }

    /// The shortest form of a positive INTEGER.
    fn serial_is(&self, value: &[u8]) -> bool {
        let octets = self.serial.octets();
        if octets[0] & 0x80 == 0 {
            value == octets
        } else {
            value.strip_prefix(&[0]) == Some(octets)
        }
    }

    /// Empty, or one common name in UTF-8 and nothing else.
    fn subject_is(&self, names: &[u8]) -> bool {
        let Some(expected) = self.common_name else {
            return names.is_empty();
        };
        let read = || {
            let mut attribute = only(only(names, TAG_SET)?.rest(), TAG_SEQUENCE)?;
            let is_common_name = next(&mut attribute, TAG_OID)?.value == COMMON_NAME;
            Ok::<_, MintError>(is_common_name && value_is(attribute.rest(), TAG_UTF8_STRING, expected.as_bytes()))
        };
        read().unwrap_or(false)
    }

    /// The SPIFFE ID first, then the DNS names in the order of the Grant.
    fn names_are(&self, content: &[u8]) -> bool {
        let Ok(mut names) = only(content, TAG_SEQUENCE) else {
            return false;
        };
        let mut is = |tag, text: &str| next(&mut names, tag).is_ok_and(|name| name.value == text.as_bytes());
        is(TAG_URI, self.spiffe_id) && self.dns_names.iter().all(|name| is(TAG_DNS, name)) && names.is_empty()
    }

    /// The key identifier of the issuer, and neither its name nor its serial.
    fn authority_is(&self, content: &[u8]) -> bool {
        only(content, TAG_SEQUENCE).is_ok_and(|id| value_is(id.rest(), TAG_KEY_IDENTIFIER, self.authority_key_id))
    }
}

/// Both purposes, in this order, and no other.
fn purposes_are(content: &[u8]) -> bool {
    let Ok(mut purposes) = only(content, TAG_SEQUENCE) else {
        return false;
    };
    let mut is = |purpose: &[u8]| next(&mut purposes, TAG_OID).is_ok_and(|oid| oid.value == purpose);
    PURPOSES.into_iter().all(&mut is) && purposes.is_empty()
}

/// Counts a Time back to seconds; it must have the form of its year.
fn date_is(time: Result<Tlv<'_>, DerError>, expected: UnixTime) -> bool {
    let general = expected.seconds() >= YEAR_2050;
    let (tag, year_digits) = if general {
        (TAG_GENERALIZED_TIME, 4)
    } else {
        (TAG_UTC_TIME, 2)
    };
    let Ok(Tlv {
        tag: found,
        value: [digits @ .., b'Z'],
        ..
    }) = time
    else {
        return false;
    };
    if found != tag || digits.len() != year_digits + 10 || !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let number = |digits: &[u8]| {
        digits
            .iter()
            .fold(0i32, |sum, digit| sum * 10 + i32::from(digit - b'0'))
    };
    let (year, rest) = digits.split_at(year_digits);
    let year = match number(year) {
        short @ 0..50 if !general => 2000 + short,
        short if !general => 1900 + short,
        whole => whole,
    };
    // Two digits each.
    let part = |at: usize| number(&rest[2 * at..2 * at + 2]) as u8;
    let read = || {
        let day = Date::from_calendar_date(year, Month::try_from(part(0)).ok()?, part(1)).ok()?;
        let clock = Time::from_hms(part(2), part(3), part(4)).ok()?;
        Some(PrimitiveDateTime::new(day, clock).assume_utc().unix_timestamp())
    };
    read() == Some(expected.seconds())
}

/// A reader of the inside of the one value that is here.
fn only(der: &[u8], tag: u8) -> Result<Reader<'_>, MintError> {
    let mut outer = Reader::new(der);
    let value = next(&mut outer, tag)?.value;
    outer.finish().map_err(encoding)?;
    Ok(Reader::new(value))
}

/// Whether one value is here, with this tag and these octets.
fn value_is(der: &[u8], tag: u8, octets: &[u8]) -> bool {
    only(der, tag).is_ok_and(|value| value.rest() == octets)
}

fn next<'a>(reader: &mut Reader<'a>, tag: u8) -> Result<Tlv<'a>, MintError> {
    reader.expect(tag).map_err(encoding)
}

fn encoding(_: DerError) -> MintError {
    MintError::Lint("encoding")
}

fn ensure(good: bool, field: &'static str) -> Result<(), MintError> {
    if good { Ok(()) } else { Err(MintError::Lint(field)) }
}

#[cfg(test)]
#[path = "lint_tests.rs"]
mod tests;
