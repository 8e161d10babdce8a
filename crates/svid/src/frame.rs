//! The tags of a certificate, where X.509 wants them (RFC 5280, section 4.1).
//!
//! The X.509 parser used here looks at the number of a tag, at places not even at that: an object identifier tagged as
//! a string, or a sequence tagged as private, passes. Other readers refuse or skip such a field, so two would see two
//! certificates. This walk holds every tag that decides what a field is against the standard.

use crate::der::{
    DerError, Reader, TAG_BIT_STRING, TAG_CONTEXT_0, TAG_INTEGER, TAG_NULL, TAG_OCTET_STRING, TAG_OID, TAG_SEQUENCE,
    TAG_SET,
};

const TAG_BOOLEAN: u8 = 0x01;
const TAG_UTC_TIME: u8 = 0x17;
const TAG_GENERALIZED_TIME: u8 = 0x18;
/// issuerUniqueID and subjectUniqueID.
const TAG_UNIQUE_IDS: [u8; 2] = [0x81, 0x82];
/// extensions.
const TAG_CONTEXT_3: u8 = 0xa3;

/// The choices of GeneralName (RFC 5280, section 4.2.1.6), each in its only form.
const GENERAL_NAMES: [u8; 9] = [0xa0, 0x81, 0x82, 0xa3, 0xa4, 0xa5, 0x86, 0x87, 0x88];
/// keyIdentifier, authorityCertIssuer, authorityCertSerialNumber (section 4.2.1.1).
const AUTHORITY_KEY_FIELDS: [u8; 3] = [0x80, 0xa1, 0x82];

// The last octet of id-ce (2.5.29) extension identifiers.
const ID_CE: [u8; 2] = [0x55, 0x1d];
const SUBJECT_KEY_ID: u8 = 14;
const KEY_USAGE: u8 = 15;
const SUBJECT_ALT_NAME: u8 = 17;
const BASIC_CONSTRAINTS: u8 = 19;
const AUTHORITY_KEY_ID: u8 = 35;
const EXTENDED_KEY_USAGE: u8 = 37;

/// Checks the tags of a to-be-signed certificate, and of the values of those extensions that are interpreted here.
///
/// # Errors
/// The tag that is not where it belongs.
pub fn check_tbs_frame(tbs_der: &[u8]) -> Result<(), DerError> {
    let mut outer = Reader::new(tbs_der);
    let mut tbs = Reader::new(outer.expect(TAG_SEQUENCE)?.value);
    outer.finish()?;
    let mut version = Reader::new(tbs.expect(TAG_CONTEXT_0)?.value);
    version.expect(TAG_INTEGER)?;
    version.finish()?;
    tbs.expect(TAG_INTEGER)?;
    algorithm(tbs.expect(TAG_SEQUENCE)?.value)?;
    name(tbs.expect(TAG_SEQUENCE)?.value)?;
    validity(tbs.expect(TAG_SEQUENCE)?.value)?;
    name(tbs.expect(TAG_SEQUENCE)?.value)?;
    public_key(tbs.expect(TAG_SEQUENCE)?.value)?;
    for tag in TAG_UNIQUE_IDS {
        if tbs.peek() == Some(tag) {
            tbs.any()?;
        }
    }
    if !tbs.is_empty() {
        let mut tagged = Reader::new(tbs.expect(TAG_CONTEXT_3)?.value);
        each(tagged.expect(TAG_SEQUENCE)?.value, TAG_SEQUENCE, extension)?;
        tagged.finish()?;
    }
    tbs.finish()
}

/// Every value inside has this tag and passes the check.
fn each(list: &[u8], tag: u8, check: impl Fn(&[u8]) -> Result<(), DerError>) -> Result<(), DerError> {
    let mut reader = Reader::new(list);
    while !reader.is_empty() {
        check(reader.expect(tag)?.value)?;
    }
    Ok(())
}

fn algorithm(value: &[u8]) -> Result<(), DerError> {
    let mut reader = Reader::new(value);
    reader.expect(TAG_OID)?;
    if !reader.is_empty() {
        // A named curve, NULL for RSA, or the parameters of RSA-PSS.
        let tag = reader.any()?.tag;
        if ![TAG_OID, TAG_NULL, TAG_SEQUENCE].contains(&tag) {
            return Err(DerError::Value(tag));
        }
    }
    reader.finish()
}

fn name(value: &[u8]) -> Result<(), DerError> {
    each(value, TAG_SET, |set| {
        each(set, TAG_SEQUENCE, |attribute| {
            let mut reader = Reader::new(attribute);
            reader.expect(TAG_OID)?;
            // Attribute values are strings of some universal type.
            let value = reader.any()?;
            if value.tag & 0xe0 != 0 {
                return Err(DerError::Value(value.tag));
            }
            reader.finish()
        })
    })
}

fn validity(value: &[u8]) -> Result<(), DerError> {
    let mut reader = Reader::new(value);
    for _ in 0..2 {
        let tag = reader.any()?.tag;
        if tag != TAG_UTC_TIME && tag != TAG_GENERALIZED_TIME {
            return Err(DerError::Value(tag));
        }
    }
    reader.finish()
}

fn public_key(value: &[u8]) -> Result<(), DerError> {
    let mut reader = Reader::new(value);
    algorithm(reader.expect(TAG_SEQUENCE)?.value)?;
    reader.expect(TAG_BIT_STRING)?;
    reader.finish()
}

fn extension(value: &[u8]) -> Result<(), DerError> {
    let mut reader = Reader::new(value);
    let id = reader.expect(TAG_OID)?.value;
    // DEFAULT FALSE is left out in DER (X.690, section 11.5), so what is there is TRUE.
    if reader.peek() == Some(TAG_BOOLEAN) && reader.any()?.value != [0xff] {
        return Err(DerError::Value(TAG_BOOLEAN));
    }
    let content = reader.expect(TAG_OCTET_STRING)?.value;
    reader.finish()?;
    match id.strip_prefix(&ID_CE) {
        Some([last]) => extension_value(*last, content),
        _ => Ok(()),
    }
}

fn extension_value(id: u8, content: &[u8]) -> Result<(), DerError> {
    let mut reader = Reader::new(content);
    match id {
        SUBJECT_KEY_ID => reader.expect(TAG_OCTET_STRING).map(|_| ())?,
        KEY_USAGE => reader.expect(TAG_BIT_STRING).map(|_| ())?,
        SUBJECT_ALT_NAME => each_of(reader.expect(TAG_SEQUENCE)?.value, &GENERAL_NAMES)?,
        AUTHORITY_KEY_ID => each_of(reader.expect(TAG_SEQUENCE)?.value, &AUTHORITY_KEY_FIELDS)?,
        EXTENDED_KEY_USAGE => each(reader.expect(TAG_SEQUENCE)?.value, TAG_OID, |_| Ok(()))?,
        BASIC_CONSTRAINTS => {
            let mut limits = Reader::new(reader.expect(TAG_SEQUENCE)?.value);
            for tag in [TAG_BOOLEAN, TAG_INTEGER] {
                if limits.peek() == Some(tag) {
                    limits.any()?;
                }
            }
            limits.finish()?;
        }
        _ => return Ok(()),
    }
    reader.finish()
}

/// A list of values that each have one of these tags.
fn each_of(list: &[u8], tags: &[u8]) -> Result<(), DerError> {
    let mut reader = Reader::new(list);
    while !reader.is_empty() {
        let tag = reader.any()?.tag;
        if !tags.contains(&tag) {
            return Err(DerError::Value(tag));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CertInfo, LeafInfo, certificate::SignedParts, samples::root};

    #[test]
    fn certificates_have_their_tags_in_place() {
        let root = root();
        for der in [&root.der, &root.leaf(|_| {})] {
            check_tbs_frame(SignedParts::cut(der).unwrap().signed).unwrap();
        }
    }

    #[test]
    fn a_changed_tag_is_refused_wherever_it_stands() {
        // Every tag of the document, of nested documents too, becomes every other tag of the same form.
        fn tags(der: &[u8], base: usize, found: &mut Vec<usize>) {
            let mut reader = Reader::new(der);
            while let Ok(tlv) = reader.any() {
                let at = base + (tlv.raw.as_ptr() as usize - der.as_ptr() as usize);
                found.push(at);
                let inner = at + tlv.raw.len() - tlv.value.len();
                let nested =
                    tlv.tag & 0x20 != 0 || (tlv.tag == TAG_OCTET_STRING && crate::der::check(tlv.value).is_ok());
                if nested {
                    tags(tlv.value, inner, found);
                }
            }
        }
        let root = root();
        let leaf = root.leaf(|_| {});
        let mut found = Vec::new();
        tags(&leaf, 0, &mut found);
        assert!(found.len() > 50, "{}", found.len());
        for at in found {
            for class in [0x00, 0x40, 0x80, 0xc0] {
                let mut changed = leaf.clone();
                changed[at] = (leaf[at] & 0x3f) | class;
                let refused = LeafInfo::parse(&changed).is_err() && CertInfo::parse(&changed).is_err();
                assert!(refused || changed == leaf, "class {class:#x} of the tag at {at}");
            }
            if leaf[at] == TAG_OID {
                for other in [TAG_OCTET_STRING, TAG_INTEGER, 0x0c] {
                    let mut changed = leaf.clone();
                    changed[at] = other;
                    assert!(
                        LeafInfo::parse(&changed).is_err(),
                        "an identifier of tag {other} at {at}"
                    );
                }
            }
        }
    }
}
