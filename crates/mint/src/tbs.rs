//! Signing: checked octets and a signature over exactly those become a certificate or a list. For CA certificates and
//! lists the octets come out of rcgen, which builds a whole document around a blank signature; leaves have `body`.

use std::ops::Range;

use mintage_svid::der::{DerError, Reader, TAG_SEQUENCE};
use rcgen::PKCS_ECDSA_P256_SHA256;

use crate::{CaKey, MintError};

/// AlgorithmIdentifier of ecdsa-with-SHA256 (RFC 5758, section 3.2).
pub(crate) const ECDSA_SHA256: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// Stands in for the issuer's key while rcgen builds: it has the algorithm and signs nothing.
#[derive(Debug)]
pub(crate) struct Blank;

impl rcgen::PublicKeyData for Blank {
    fn der_bytes(&self) -> &[u8] {
        &[]
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Blank {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Vec::new())
    }
}

/// A CA key as the subject of its own certificate.
pub(crate) struct CaSubject<'a>(pub(crate) &'a CaKey);

impl rcgen::PublicKeyData for CaSubject<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.point()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// Where the to-be-signed part lies in a document built around a blank signature.
pub(crate) fn locate(unsigned: &[u8]) -> Result<Range<usize>, MintError> {
    let cut = || -> Result<Range<usize>, DerError> {
        let outer = Reader::new(unsigned).expect(TAG_SEQUENCE)?;
        let start = outer.raw.len() - outer.value.len();
        let signed = Reader::new(outer.value).expect(TAG_SEQUENCE)?;
        Ok(start..start + signed.raw.len())
    };
    cut().map_err(|_| MintError::Lint("encoding"))
}

/// Signs `tbs` and joins it with the algorithm and the signature to a certificate or list (RFC 5280, sections 4.1.1 and
/// 5.1.1).
pub(crate) fn sign(tbs: &[u8], key: &CaKey) -> Result<Vec<u8>, MintError> {
    let signature = key.sign(tbs)?;
    let signature = signature.as_ref();
    // A P-256 signature has at most 72 octets, so its own length always fits one octet.
    let bits = [0x03, signature.len() as u8 + 1, 0x00];
    let length = tbs.len() + ECDSA_SHA256.len() + bits.len() + signature.len();
    let mut der = Vec::with_capacity(length + 5);
    der.push(TAG_SEQUENCE);
    let [.., a, b, c] = length.to_be_bytes();
    match length {
        0..=0x7f => der.push(c),
        0x80..=0xff => der.extend_from_slice(&[0x81, c]),
        0x100..=0xffff => der.extend_from_slice(&[0x82, b, c]),
        0x1_0000..=0xff_ffff => der.extend_from_slice(&[0x83, a, b, c]),
        // The limits of requests and lists keep everything far below 16 MB.
        _ => return Err(MintError::Lint("length")),
    }
    der.extend_from_slice(tbs);
    der.extend_from_slice(&ECDSA_SHA256);
    der.extend_from_slice(&bits);
    der.extend_from_slice(signature);
    Ok(der)
}
