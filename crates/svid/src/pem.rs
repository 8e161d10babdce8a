//! Strict PEM (RFC 7468): whole blocks of one kind, nothing but blank lines between them.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    SvidError,
    limits::{CERTIFICATE_BYTES_MAX, DOCUMENT_BYTES_MAX, PRIVATE_KEY_BYTES_MAX},
};

/// Characters per line (RFC 7468, section 2).
const LINE_WIDTH: usize = 64;
/// Longest base64 line read: some tools write 76.
const LINE_WIDTH_MAX: usize = 76;
/// Certificates in one PEM document: the largest bundle is far smaller.
const BLOCKS_MAX: usize = 1024;

/// What a PEM block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Label {
    /// An X.509 certificate.
    Certificate,
    /// An unencrypted PKCS#8 private key.
    PrivateKey,
    /// An encrypted PKCS#8 private key.
    EncryptedPrivateKey,
    /// A certificate revocation list.
    Crl,
}

impl Label {
    /// The words between the dashes (RFC 7468, section 4).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "CERTIFICATE",
            Self::PrivateKey => "PRIVATE KEY",
            Self::EncryptedPrivateKey => "ENCRYPTED PRIVATE KEY",
            Self::Crl => "X509 CRL",
        }
    }

    const fn bytes_max(self) -> usize {
        match self {
            Self::Certificate => CERTIFICATE_BYTES_MAX,
            Self::PrivateKey | Self::EncryptedPrivateKey => PRIVATE_KEY_BYTES_MAX,
            Self::Crl => DOCUMENT_BYTES_MAX,
        }
    }

    /// The kind of the first block of a document, when it is one of these.
    pub fn of(text: &str) -> Option<Self> {
        let first = text.lines().find(|line| !line.trim().is_empty())?;
        let words = boundary(first.trim_end(), "-----BEGIN ")?;
        [
            Self::Certificate,
            Self::PrivateKey,
            Self::EncryptedPrivateKey,
            Self::Crl,
        ]
        .into_iter()
        .find(|label| label.as_str() == words)
    }
}

/// Writes one block.
pub fn encode(label: Label, der: &[u8]) -> Zeroizing<String> {
    // Sized ahead: a string that grows leaves copies of a secret behind.
    let mut text = Zeroizing::new(String::with_capacity(der.len() * 3 / 2 + 128));
    encode_block(&mut text, label, der);
    text
}

/// Reads a document of exactly one block of this kind.
///
/// # Errors
/// Refuses blocks of another kind, further blocks, text outside, and base64 that is not canonical.
pub fn decode(label: Label, text: &str) -> Result<Zeroizing<Vec<u8>>, SvidError> {
    let mut blocks = decode_blocks(text, label)?;
    let first = blocks.pop().map(Zeroizing::new);
    let more = !blocks.is_empty();
    blocks.iter_mut().for_each(Zeroize::zeroize);
    match first {
        Some(der) if !more => Ok(der),
        _ => Err(SvidError::Pem {
            line: 1,
            why: "exactly one block is needed",
        }),
    }
}

/// Writes certificates one after the other, leaf first for a chain.
pub fn encode_certificates<C: AsRef<[u8]>>(certificates: impl IntoIterator<Item = C>) -> String {
    let mut text = String::new();
    for der in certificates {
        encode_block(&mut text, Label::Certificate, der.as_ref());
    }
    text
}

/// Reads a document of certificates, at least one, of at most 1 MB.
///
/// # Errors
/// Refuses blocks of another kind, text outside blocks, and base64 that is not canonical.
pub fn decode_certificates(text: &str) -> Result<Vec<Vec<u8>>, SvidError> {
    let blocks = decode_blocks(text, Label::Certificate)?;
    if blocks.is_empty() {
        return Err(SvidError::Pem {
            line: 1,
            why: "there is no CERTIFICATE block",
        });
    }
    Ok(blocks)
}

/// Writes an unencrypted PKCS#8 private key.
pub fn encode_private_key(pkcs8_der: &[u8]) -> Zeroizing<String> {
    encode(Label::PrivateKey, pkcs8_der)
}

/// Reads exactly one unencrypted PKCS#8 private key.
///
/// # Errors
/// Refuses other kinds of keys (`EC PRIVATE KEY`, `ENCRYPTED PRIVATE KEY`), further blocks, and text outside.
pub fn decode_private_key(text: &str) -> Result<Zeroizing<Vec<u8>>, SvidError> {
    decode(Label::PrivateKey, text)
}

fn encode_block(text: &mut String, label: Label, der: &[u8]) {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    text.push_str("-----BEGIN ");
    text.push_str(label.as_str());
    text.push_str("-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(LINE_WIDTH));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str("-----END ");
    text.push_str(label.as_str());
    text.push_str("-----\n");
}

fn decode_blocks(text: &str, label: Label) -> Result<Vec<Vec<u8>>, SvidError> {
    let bytes_max = label.bytes_max();
    SvidError::check_size("PEM document", text.len(), DOCUMENT_BYTES_MAX, "bytes")?;
    let mut blocks = Vec::new();
    // Base64 of the open block, or none between blocks.
    let mut open: Option<Zeroizing<String>> = None;
    let mut last = 0;
    for (index, line) in text.lines().enumerate() {
        let refuse = |why| SvidError::Pem { line: index + 1, why };
        last = index + 1;
        let line = line.trim_end_matches([' ', '\t']);
        match &mut open {
            None if line.is_empty() => {}
            None => {
                if boundary(line, "-----BEGIN ") != Some(label.as_str()) {
                    return Err(refuse(
                        "expected the BEGIN line of the block kind asked for; remove other text",
                    ));
                }
                SvidError::check_size("PEM document", blocks.len() + 1, BLOCKS_MAX, "blocks")?;
                open = Some(Zeroizing::new(String::with_capacity(
                    bytes_max.min(text.len()) * 4 / 3 + 4,
                )));
            }
            Some(base64) if line.starts_with('-') => {
                if boundary(line, "-----END ") != Some(label.as_str()) {
                    return Err(refuse("the END line does not fit the BEGIN line"));
                }
                let der = STANDARD
                    .decode(base64.as_bytes())
                    .map_err(|_| refuse("the block is not canonical base64"))?;
                if der.is_empty() {
                    return Err(refuse("the block is empty"));
                }
                SvidError::check_size("PEM block", der.len(), bytes_max, "bytes")?;
                blocks.push(der);
                open = None;
            }
            Some(base64) => {
                if line.is_empty() || line.len() > LINE_WIDTH_MAX {
                    return Err(refuse("a base64 line has 1 to 76 characters"));
                }
                base64.push_str(line);
                SvidError::check_size("PEM block", base64.len() / 4 * 3, bytes_max + 3, "bytes")?;
            }
        }
    }
    if open.is_some() {
        return Err(SvidError::Pem {
            line: last,
            why: "the text ends inside a block",
        });
    }
    Ok(blocks)
}

fn boundary<'a>(line: &'a str, begin: &str) -> Option<&'a str> {
    line.strip_prefix(begin)?.strip_suffix("-----")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_text_and_other_kinds_are_refused() {
        let good = encode_certificates([[1u8, 2, 3]]);
        assert!(decode_certificates(&good).is_ok());
        assert!(decode_certificates(&good.replace('\n', "\r\n")).is_ok());
        for bad in [
            String::new(),
            format!("subject=x\n{good}"),
            format!("{good}junk"),
            good.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
            good.replacen("-----BEGIN", "----BEGIN", 1),
            good.replace("-----END CERTIFICATE-----\n", ""),
            good.replace("AQID", "AQI"),
            good.replace("AQID", "AQJ="),
            good.replace("AQID", "AR=="),
            good.replace("AQID", "\nAQID"),
            good.replace("AQID", "A*ID"),
            good.replace("AQID\n", ""),
            good.replace("END CERTIFICATE", "END PRIVATE KEY"),
            format!("{good}{}", *encode_private_key(&[1, 2, 3])),
        ] {
            assert!(decode_certificates(&bad).is_err(), "{bad:?}");
        }
        assert!(decode_private_key(&good).is_err());
        let key = encode_private_key(&[1, 2, 3]);
        assert!(decode_private_key(&format!("{}{}", *key, *key)).is_err());
        assert!(decode_private_key(&key.replace("PRIVATE", "EC PRIVATE")).is_err());
        assert!(decode_private_key(&key.replace("PRIVATE", "ENCRYPTED PRIVATE")).is_err());
    }

    #[test]
    fn sizes_are_checked_before_decoding() {
        let long = encode_certificates([vec![0u8; CERTIFICATE_BYTES_MAX + 10]]);
        assert!(matches!(decode_certificates(&long), Err(SvidError::TooLarge { .. })));
        let many = encode_certificates(std::iter::repeat_n([1u8], BLOCKS_MAX + 1));
        assert!(matches!(decode_certificates(&many), Err(SvidError::TooLarge { .. })));
        assert!(matches!(
            decode_certificates(&"\n".repeat(DOCUMENT_BYTES_MAX + 1)),
            Err(SvidError::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn documents_round_trip(ders in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 1..5)) {
            prop_assert_eq!(decode_certificates(&encode_certificates(&ders)).unwrap(), ders.clone());
            prop_assert_eq!(&*decode_private_key(&encode_private_key(&ders[0])).unwrap(), &ders[0]);
        }

        #[test]
        fn any_text_is_answered(text in "(-----(BEGIN|END) [A-Z ]{0,12}-----|[A-Za-z0-9+/=\n -]{0,40}){0,8}") {
            let _ = decode_certificates(&text);
            let _ = decode_private_key(&text);
        }
    }
}
