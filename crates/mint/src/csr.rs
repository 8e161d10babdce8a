//! Proof of possession: a PKCS#10 request (RFC 2986) is taken for one thing only, the public key that signed it.
//!
//! Names, extensions and everything else in a request are wishes of an unproven party. They are walked, so that two
//! readers cannot see two documents, and then forgotten.

use mintage_identity::SpkiHash;
use mintage_svid::{
    KeyKind, PublicKey, SignatureAlgorithm,
    der::{self, Reader, TAG_BIT_STRING, TAG_CONTEXT_0, TAG_INTEGER, TAG_OID, TAG_SEQUENCE, TAG_SET},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};

use crate::{
    CsrError,
    ca_key::p256_spki,
    limits::{CSR_ATTRIBUTES_MAX, CSR_BYTES_MAX},
};

/// Which keys and requests are accepted beyond the rules that always hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyPolicy {
    /// Accept RSA keys of 2048 to 4096 bits.
    pub allow_rsa: bool,
    /// Refuse requests that ask for a subject or for attributes, instead of ignoring what they ask for.
    pub strict_csr: bool,
}

/// A public key whose owner has shown the private half. Only this module makes one.
///
/// ```
/// # fn main() -> Result<(), mintage_mint::MintError> {
/// let (_, pkcs8) = mintage_mint::CaKey::generate()?;
/// assert!(mintage_mint::ProvenKey::of_private_key(&pkcs8).is_ok());
/// # Ok(())
/// # }
/// ```
///
/// ```compile_fail,E0451
/// let spki = vec![0u8; 91];
/// let forged = mintage_mint::ProvenKey { spki, kind: mintage_mint::KeyKind::P256, spki_sha256: panic!() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenKey {
    spki: Vec<u8>,
    kind: KeyKind,
    spki_sha256: SpkiHash,
}

impl ProvenKey {
    /// The key of a P-256 private key at hand, for certificates of our own: who holds the private key needs no request.
    ///
    /// # Errors
    /// Refuses what is no P-256 key in PKCS#8.
    pub fn of_private_key(pkcs8_der: &[u8]) -> Result<Self, CsrError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8_der, &SystemRandom::new());
        let pair = pair.map_err(|_| CsrError::Possession)?;
        let spki = p256_spki(pair.public_key().as_ref());
        Ok(Self::of(PublicKey::from_spki(&spki).map_err(CsrError::Key)?))
    }

    fn of(key: PublicKey<'_>) -> Self {
        Self {
            spki: key.spki_der().to_vec(),
            kind: key.kind(),
            spki_sha256: key.spki_sha256(),
        }
    }

    /// The SubjectPublicKeyInfo, octet for octet as it was sent.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn spki_sha256(&self) -> SpkiHash {
        self.spki_sha256
    }

    /// The kind of key.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }
}

/// Checks that whoever made this DER request holds the private key of the public key in it.
///
/// # Errors
/// One [`CsrError`] per way of failing; none of them costs more than one signature check of a key of at most 4096 bits.
pub fn prove_possession(csr_der: &[u8], policy: &KeyPolicy) -> Result<ProvenKey, CsrError> {
    let request = Request::cut(csr_der)?;
    let key = PublicKey::from_spki(request.spki).map_err(CsrError::Key)?;
    if matches!(key.kind(), KeyKind::Rsa { .. }) && !policy.allow_rsa {
        return Err(CsrError::RsaOff);
    }
    if policy.strict_csr && !request.is_bare {
        return Err(CsrError::NotBare);
    }
    let algorithm = SignatureAlgorithm::from_der(request.algorithm).ok_or(CsrError::Algorithm)?;
    key.verify(algorithm, request.signed, request.signature)
        .map_err(|_| CsrError::Possession)?;
    Ok(ProvenKey::of(key))
}

/// The parts of a request that are looked at.
struct Request<'a> {
    signed: &'a [u8],
    spki: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    /// No subject and no attributes: the request asks for nothing.
    is_bare: bool,
}

impl<'a> Request<'a> {
    fn cut(csr_der: &'a [u8]) -> Result<Self, CsrError> {
        if csr_der.is_empty() {
            return Err(CsrError::Empty);
        }
        if csr_der.len() > CSR_BYTES_MAX {
            return Err(CsrError::TooLarge(csr_der.len()));
        }
        if csr_der.starts_with(b"-----BEGIN") {
            return Err(CsrError::Pem);
        }
        der::check(csr_der)?;
        let mut request = Reader::new(Reader::new(csr_der).expect(TAG_SEQUENCE)?.value);
        let signed = request.expect(TAG_SEQUENCE)?;
        let algorithm = request.expect(TAG_SEQUENCE)?.raw;
        let signature = request.expect(TAG_BIT_STRING)?.value;
        request.finish()?;
        let [0, signature @ ..] = signature else {
            return Err(CsrError::Possession);
        };

        let mut info = Reader::new(signed.value);
        if info.expect(TAG_INTEGER)?.value != [0] {
            return Err(CsrError::Version);
        }
        let subject = info.expect(TAG_SEQUENCE)?.value;
        let spki = info.expect(TAG_SEQUENCE)?.raw;
        let attributes = info.expect(TAG_CONTEXT_0)?.value;
        info.finish()?;
        check_attributes(attributes)?;
        let is_bare = subject.is_empty() && attributes.is_empty();
        Ok(Self {
            signed: signed.raw,
            spki,
            algorithm,
            signature,
            is_bare,
        })
    }
}

/// An attribute type may occur once (RFC 2986, section 4.1: a SET OF Attribute with distinct types).
fn check_attributes(attributes: &[u8]) -> Result<(), CsrError> {
    let mut seen: Vec<&[u8]> = Vec::new();
    let mut reader = Reader::new(attributes);
    while !reader.is_empty() {
        let mut attribute = Reader::new(reader.expect(TAG_SEQUENCE)?.value);
        let kind = attribute.expect(TAG_OID)?.value;
        attribute.expect(TAG_SET)?;
        attribute.finish()?;
        if seen.contains(&kind) || seen.len() == CSR_ATTRIBUTES_MAX {
            return Err(CsrError::Attributes);
        }
        seen.push(kind);
    }
    Ok(())
}

#[cfg(test)]
#[path = "csr_tests.rs"]
mod tests;
