//! What leaf and signing certificates have in common: size, strict DER, version 3, readable and unique extensions.

use mintage_identity::{Serial, UnixTime};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension, X509Extension},
    prelude::FromDer,
    time::ASN1Time,
    x509::{X509Name, X509Version},
};

use crate::{
    SvidError, check_tbs_frame,
    der::{self, Reader},
    limits::{CERTIFICATE_BYTES_MAX, SAN_COUNT_MAX},
};

const WHAT: &str = "certificate";
/// Extensions in one certificate: a leaf has seven at most, public CAs reach about a dozen.
const EXTENSIONS_MAX: usize = 32;

/// A certificate that passed the common checks.
pub(crate) struct Parsed<'a> {
    pub(crate) x509: X509Certificate<'a>,
    pub(crate) serial: Serial,
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    pub(crate) spki_der: &'a [u8],
}

impl<'a> Parsed<'a> {
    pub(crate) fn from_der(der: &'a [u8]) -> Result<Self, SvidError> {
        SvidError::check_size(WHAT, der.len(), CERTIFICATE_BYTES_MAX, "bytes")?;
        strict(der)?;
        let parts = SignedParts::cut(der)?;
        check_tbs_frame(parts.signed).map_err(|error| SvidError::Der { what: WHAT, error })?;
        let (rest, x509) = X509Certificate::from_der(der)
            .map_err(|error| SvidError::malformed(WHAT, format!("it is no X.509 certificate ({error})")))?;
        if !rest.is_empty() {
            return Err(SvidError::Der {
                what: WHAT,
                error: der::DerError::Trailing,
            });
        }
        if x509.version() != X509Version::V3 {
            return Err(SvidError::malformed(WHAT, "its version is not 3"));
        }
        if tbs_algorithm(parts.signed) != Ok(parts.algorithm) {
            return Err(SvidError::malformed(WHAT, "its two signature algorithms differ"));
        }
        check_extensions(x509.extensions())?;
        let serial = serial(&x509)?;
        let (not_before, not_after) = (instant(x509.validity().not_before), instant(x509.validity().not_after));
        if not_after < not_before {
            return Err(SvidError::malformed(WHAT, "it ends before it begins"));
        }
        let spki_der = x509.tbs_certificate.subject_pki.raw;
        // The parser stops after the key; a longer declared length would make the copied octets no DER.
        strict(spki_der)?;
        Ok(Self {
            serial,
            not_before,
            not_after,
            spki_der,
            x509,
        })
    }

    pub(crate) fn subject_is_empty(&self) -> bool {
        is_empty_name(self.x509.subject())
    }

    /// The extension's parsed form and whether it is critical.
    pub(crate) fn extensions(&self) -> impl Iterator<Item = (&X509Extension<'a>, &ParsedExtension<'a>)> {
        self.x509
            .extensions()
            .iter()
            .map(|extension| (extension, extension.parsed_extension()))
    }
}

pub(crate) fn is_empty_name(name: &X509Name<'_>) -> bool {
    name.as_raw() == [0x30, 0x00]
}

/// The text of every URI among the names. One that is not even text is an error: it still counts as a URI.
pub(crate) fn uris<'a>(names: &[GeneralName<'a>]) -> Result<Vec<&'a str>, SvidError> {
    SvidError::check_size("subject alternative name", names.len(), SAN_COUNT_MAX, "names")?;
    let mut uris = Vec::with_capacity(1);
    for name in names {
        match name {
            GeneralName::URI(text) => uris.push(*text),
            GeneralName::Invalid(..) => return Err(crate::LeafRule::UnreadableSan.into()),
            _ => {}
        }
    }
    Ok(uris)
}

fn check_extensions(extensions: &[X509Extension<'_>]) -> Result<(), SvidError> {
    SvidError::check_size(WHAT, extensions.len(), EXTENSIONS_MAX, "extensions")?;
    for (index, extension) in extensions.iter().enumerate() {
        if extensions[..index].iter().any(|earlier| earlier.oid == extension.oid) {
            return Err(SvidError::malformed(
                WHAT,
                format!("extension {} occurs twice", extension.oid),
            ));
        }
        match extension.parsed_extension() {
            ParsedExtension::ParseError { .. } => {
                return Err(SvidError::malformed(
                    WHAT,
                    format!("extension {} is unreadable", extension.oid),
                ));
            }
            ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::Unparsed => {}
            // The parser ignores what follows the value inside the octet string.
            _ => strict(extension.value)?,
        }
    }
    Ok(())
}

fn serial(x509: &X509Certificate<'_>) -> Result<Serial, SvidError> {
    let octets = x509.raw_serial();
    if octets.first().is_none_or(|first| first & 0x80 != 0) {
        return Err(SvidError::malformed(WHAT, "its serial number is negative"));
    }
    Serial::from_be_octets(octets).map_err(|error| SvidError::malformed(WHAT, error.to_string()))
}

fn instant(time: ASN1Time) -> UnixTime {
    UnixTime::from_seconds(time.timestamp())
}

/// The AlgorithmIdentifier inside the signed part, as octets: the parser's comparison would overlook a tag.
fn tbs_algorithm(tbs: &[u8]) -> Result<&[u8], der::DerError> {
    let mut fields = Reader::new(Reader::new(tbs).expect(der::TAG_SEQUENCE)?.value);
    fields.expect(der::TAG_CONTEXT_0)?;
    fields.expect(der::TAG_INTEGER)?;
    Ok(fields.expect(der::TAG_SEQUENCE)?.raw)
}

fn strict(der: &[u8]) -> Result<(), SvidError> {
    der::check(der).map_err(|error| SvidError::Der { what: WHAT, error })
}

/// The three parts of a signed document, cut without interpreting them.
pub(crate) struct SignedParts<'a> {
    pub(crate) signed: &'a [u8],
    pub(crate) algorithm: &'a [u8],
    pub(crate) signature: &'a [u8],
}

impl<'a> SignedParts<'a> {
    pub(crate) fn cut(der: &'a [u8]) -> Result<Self, SvidError> {
        let strict = |error| SvidError::Der { what: WHAT, error };
        let mut document = Reader::new(der);
        let mut parts = Reader::new(document.expect(der::TAG_SEQUENCE).map_err(strict)?.value);
        document.finish().map_err(strict)?;
        let signed = parts.expect(der::TAG_SEQUENCE).map_err(strict)?.raw;
        let algorithm = parts.expect(der::TAG_SEQUENCE).map_err(strict)?.raw;
        let signature = parts.expect(der::TAG_BIT_STRING).map_err(strict)?.value;
        parts.finish().map_err(strict)?;
        match signature {
            [0, signature @ ..] => Ok(Self {
                signed,
                algorithm,
                signature,
            }),
            _ => Err(SvidError::malformed(
                WHAT,
                "its signature is not a whole number of octets",
            )),
        }
    }
}
