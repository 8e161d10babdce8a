//! The to-be-signed octets of a leaf (RFC 5280, section 4.1.2), written straight from what was granted.
//!
//! Every leaf has the same few fields, so its encoding is a list of them. Building it with a certificate library took a
//! tenth of the whole cost of an issuance; the tests hold these octets against that library's, bit for bit, and the
//! lint reads them back before anything is signed.

use mintage_identity::Serial;
use mintage_svid::der::{TAG_CONTEXT_0, TAG_INTEGER, TAG_OCTET_STRING, TAG_OID, TAG_SEQUENCE, TAG_SET};
use time::OffsetDateTime;

use crate::{MintError, dates::instant, lint::Expected, tbs::ECDSA_SHA256};

const TAG_CONTEXT_3: u8 = 0xa3;
const TAG_UTF8_STRING: u8 = 0x0c;
const TAG_UTC_TIME: u8 = 0x17;
const TAG_GENERALIZED_TIME: u8 = 0x18;
/// uniformResourceIdentifier and dNSName of GeneralName (section 4.2.1.6); keyIdentifier of the authority (4.2.1.1).
const TAG_URI: u8 = 0x86;
const TAG_DNS: u8 = 0x82;
const TAG_KEY_IDENTIFIER: u8 = 0x80;

/// BOOLEAN TRUE.
const CRITICAL: [u8; 3] = [0x01, 0x01, 0xff];
/// id-at-commonName.
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
// Extension identifiers (section 4.2.1).
const SUBJECT_KEY_ID: [u8; 3] = [0x55, 0x1d, 0x0e];
const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1d, 0x11];
const AUTHORITY_KEY_ID: [u8; 3] = [0x55, 0x1d, 0x23];
/// Key usage, critical: digitalSignature alone. Extended key usage: serverAuth, clientAuth.
const USAGES: [u8; 47] = [
    0x30, 0x0e, 0x06, 0x03, 0x55, 0x1d, 0x0f, 0x01, 0x01, 0xff, 0x04, 0x04, 0x03, 0x02, 0x07, 0x80, //
    0x30, 0x1d, 0x06, 0x03, 0x55, 0x1d, 0x25, 0x04, 0x16, 0x30, 0x14, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07,
    0x03, 0x01, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02,
];
/// Basic constraints, critical: not a CA.
const NOT_A_CA: [u8; 14] = [
    0x30, 0x0c, 0x06, 0x03, 0x55, 0x1d, 0x13, 0x01, 0x01, 0xff, 0x04, 0x02, 0x30, 0x00,
];
/// 1950 to 2049 are UTCTime, later years GeneralizedTime (section 4.1.2.5).
const LAST_YEAR_OF_UTC_TIME: i32 = 2049;
/// Room for the usual leaf, so that its vector grows once.
const USUAL_OCTETS: usize = 512;

/// Encodes a leaf that says exactly this.
///
/// # Errors
/// [`MintError::Clock`] for a date that X.509 cannot write.
pub(crate) fn encode(leaf: &Expected<'_>) -> Result<Vec<u8>, MintError> {
    let dates = [instant(leaf.dates.not_before)?, instant(leaf.dates.not_after)?];
    let mut out = Vec::with_capacity(USUAL_OCTETS);
    nested(&mut out, TAG_SEQUENCE, |out| {
        nested(out, TAG_CONTEXT_0, |out| value(out, TAG_INTEGER, &[2]));
        integer(out, leaf.serial);
        out.extend_from_slice(&ECDSA_SHA256);
        out.extend_from_slice(leaf.issuer_raw);
        nested(out, TAG_SEQUENCE, |out| {
            dates.into_iter().for_each(|at| date(out, at));
        });
        subject(out, leaf.common_name);
        out.extend_from_slice(leaf.spki_der);
        nested(out, TAG_CONTEXT_3, |out| {
            nested(out, TAG_SEQUENCE, |out| extensions(out, leaf))
        });
    });
    Ok(out)
}

fn extensions(out: &mut Vec<u8>, leaf: &Expected<'_>) {
    extension(out, &AUTHORITY_KEY_ID, false, |out| {
        nested(out, TAG_SEQUENCE, |out| {
            value(out, TAG_KEY_IDENTIFIER, leaf.authority_key_id)
        });
    });
    // Critical where it is the only name (section 4.2.1.6).
    extension(out, &SUBJECT_ALT_NAME, leaf.common_name.is_none(), |out| {
        nested(out, TAG_SEQUENCE, |out| {
            value(out, TAG_URI, leaf.spiffe_id.as_bytes());
            for name in leaf.dns_names {
                value(out, TAG_DNS, name.as_bytes());
            }
        });
    });
    out.extend_from_slice(&USAGES);
    extension(out, &SUBJECT_KEY_ID, false, |out| {
        value(out, TAG_OCTET_STRING, leaf.subject_key_id);
    });
    out.extend_from_slice(&NOT_A_CA);
}

fn extension(out: &mut Vec<u8>, id: &[u8], critical: bool, write: impl FnOnce(&mut Vec<u8>)) {
    nested(out, TAG_SEQUENCE, |out| {
        value(out, TAG_OID, id);
        if critical {
            out.extend_from_slice(&CRITICAL);
        }
        nested(out, TAG_OCTET_STRING, write);
    });
}

/// Empty, or one common name.
fn subject(out: &mut Vec<u8>, common_name: Option<&str>) {
    nested(out, TAG_SEQUENCE, |out| {
        let Some(name) = common_name else { return };
        nested(out, TAG_SET, |out| {
            nested(out, TAG_SEQUENCE, |out| {
                value(out, TAG_OID, &COMMON_NAME);
                value(out, TAG_UTF8_STRING, name.as_bytes());
            });
        });
    });
}

/// The shortest form of a positive INTEGER.
fn integer(out: &mut Vec<u8>, serial: &Serial) {
    let octets = serial.octets();
    nested(out, TAG_INTEGER, |out| {
        if octets[0] & 0x80 != 0 {
            out.push(0);
        }
        out.extend_from_slice(octets);
    });
}

/// A Time, with the precision of a second.
fn date(out: &mut Vec<u8>, at: OffsetDateTime) {
    let two = |out: &mut Vec<u8>, number: u8| out.extend_from_slice(&[b'0' + number / 10, b'0' + number % 10]);
    // Years 1970 to 9999: both halves have two digits.
    let (century, year) = ((at.year() / 100) as u8, (at.year() % 100) as u8);
    let general = at.year() > LAST_YEAR_OF_UTC_TIME;
    let tag = if general { TAG_GENERALIZED_TIME } else { TAG_UTC_TIME };
    nested(out, tag, |out| {
        if general {
            two(out, century);
        }
        let rest = [year, at.month().into(), at.day(), at.hour(), at.minute(), at.second()];
        rest.into_iter().for_each(|number| two(out, number));
        out.push(b'Z');
    });
}

fn value(out: &mut Vec<u8>, tag: u8, octets: &[u8]) {
    nested(out, tag, |out| out.extend_from_slice(octets));
}

/// A value whose length is known once it is written: its length octets are put in before it.
fn nested(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.push(0);
    write(out);
    let length = out.len() - at - 1;
    if length < 0x80 {
        // Fits seven bits.
        out[at] = length as u8;
        return;
    }
    let octets = length.to_be_bytes();
    let used = &octets[octets.iter().take_while(|octet| **octet == 0).count()..];
    out[at] = 0x80 | used.len() as u8;
    out.splice(at + 1..at + 1, used.iter().copied());
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
