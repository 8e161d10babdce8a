//! Public keys: which kinds are used, how they are read without leniency, and the signatures they check.

use mintage_identity::SpkiHash;
use ring::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey},
};

use crate::{
    LeafInfo, SvidError,
    der::{self, Reader, TAG_BIT_STRING, TAG_INTEGER, TAG_OCTET_STRING, TAG_SEQUENCE},
    limits::{CERTIFICATE_BYTES_MAX, PRIVATE_KEY_BYTES_MAX},
};

const WHAT: &str = "public key";

// Everything of a SubjectPublicKeyInfo before the key itself. Each kind has exactly one DER form (RFC 5480 with a named
// curve and an uncompressed point, RFC 8410), so a comparison of octets is the whole parser.
const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const P384_PREFIX: &[u8] = &[
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
    0x22, 0x03, 0x62, 0x00,
];
const ED25519_PREFIX: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
pub(crate) const RSA_ALGORITHM: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
/// The octet before the coordinates of an uncompressed point (SEC 1, section 2.3.3).
const UNCOMPRESSED: u8 = 0x04;

/// Smallest RSA modulus: below it ring refuses too.
pub const RSA_BITS_MIN: usize = 2048;
/// Largest RSA modulus: verifying beyond it costs milliseconds, a gift to whoever wants to burn CPU.
pub const RSA_BITS_MAX: usize = 4096;

/// The kinds of keys used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyKind {
    /// ECDSA over P-256.
    P256,
    /// ECDSA over P-384.
    P384,
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// RSA with a modulus of this many bits.
    Rsa {
        /// Bits of the modulus.
        bits: usize,
    },
}

/// Signature algorithms accepted on requests and certificates. SHA-1, MD5, DSA and RSA-PSS are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SignatureAlgorithm {
    /// ecdsa-with-SHA256.
    EcdsaSha256,
    /// ecdsa-with-SHA384.
    EcdsaSha384,
    /// Ed25519.
    Ed25519,
    /// sha256WithRSAEncryption.
    RsaSha256,
    /// sha384WithRSAEncryption.
    RsaSha384,
    /// sha512WithRSAEncryption.
    RsaSha512,
}

impl SignatureAlgorithm {
    /// Reads the whole DER of an AlgorithmIdentifier; `None` for algorithms not accepted here.
    pub fn from_der(algorithm: &[u8]) -> Option<Self> {
        const RSA: &[u8] = &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
        const ECDSA: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
        const ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
        if algorithm == ED25519 {
            return Some(Self::Ed25519);
        }
        if let Some(rest) = algorithm.strip_prefix(ECDSA) {
            return match rest {
                [0x02] => Some(Self::EcdsaSha256),
                [0x03] => Some(Self::EcdsaSha384),
                _ => None,
            };
        }
        match algorithm.strip_prefix(RSA)? {
            [0x0b, 0x05, 0x00] => Some(Self::RsaSha256),
            [0x0c, 0x05, 0x00] => Some(Self::RsaSha384),
            [0x0d, 0x05, 0x00] => Some(Self::RsaSha512),
            _ => None,
        }
    }
}

/// A public key of a known kind, borrowed from its SubjectPublicKeyInfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey<'a> {
    kind: KeyKind,
    spki: &'a [u8],
    bare: &'a [u8],
}

impl<'a> PublicKey<'a> {
    /// Reads a SubjectPublicKeyInfo.
    ///
    /// That a point lies on its curve is found by the first [`PublicKey::verify`]; a point in compressed form or at
    /// infinity, other curves, RSA outside 2048 to 4096 bits, and Ed25519 keys of small order (for which anyone can
    /// make signatures) are refused here.
    ///
    /// # Errors
    /// [`SvidError::Key`] or [`SvidError::Der`] with what is wrong.
    pub fn from_spki(spki: &'a [u8]) -> Result<Self, SvidError> {
        SvidError::check_size(WHAT, spki.len(), CERTIFICATE_BYTES_MAX, "bytes")?;
        for (kind, prefix, length) in [(KeyKind::P256, P256_PREFIX, 65), (KeyKind::P384, P384_PREFIX, 97)] {
            if let Some(bare) = spki.strip_prefix(prefix) {
                if bare.len() != length || bare[0] != UNCOMPRESSED {
                    return Err(refuse("the elliptic curve point is not in uncompressed form"));
                }
                return Ok(Self { kind, spki, bare });
            }
        }
        if let Some(bare) = spki.strip_prefix(ED25519_PREFIX) {
            if bare.len() != 32 {
                return Err(refuse("an Ed25519 key has 32 octets"));
            }
            if ed25519_has_small_order(bare) {
                return Err(refuse("the Ed25519 key has small order: anyone could sign for it"));
            }
            return Ok(Self {
                kind: KeyKind::Ed25519,
                spki,
                bare,
            });
        }
        Self::from_other_spki(spki)
    }

    fn from_other_spki(spki: &'a [u8]) -> Result<Self, SvidError> {
        let strict = |error| SvidError::Der { what: WHAT, error };
        der::check(spki).map_err(strict)?;
        let mut outer = Reader::new(Reader::new(spki).expect(TAG_SEQUENCE).map_err(strict)?.value);
        let algorithm = outer.expect(TAG_SEQUENCE).map_err(strict)?.raw;
        if algorithm != RSA_ALGORITHM {
            return Err(refuse("the key type is not used here: use P-256, P-384 or Ed25519"));
        }
        let bits = outer.expect(TAG_BIT_STRING).map_err(strict)?.value;
        outer.finish().map_err(strict)?;
        let bare = bits
            .strip_prefix(&[0])
            .ok_or(refuse("the key is not a whole number of octets"))?;
        der::check(bare).map_err(strict)?;
        let mut key = Reader::new(Reader::new(bare).expect(TAG_SEQUENCE).map_err(strict)?.value);
        let modulus = key.expect(TAG_INTEGER).map_err(strict)?.value;
        let exponent = key.expect(TAG_INTEGER).map_err(strict)?.value;
        key.finish().map_err(strict)?;
        if modulus[0] & 0x80 != 0 || exponent[0] & 0x80 != 0 {
            return Err(refuse("a negative RSA modulus or exponent"));
        }
        let modulus = if modulus[0] == 0 { &modulus[1..] } else { modulus };
        let bits = modulus.len() * 8 - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
            return Err(refuse("an RSA key must have 2048 to 4096 bits"));
        }
        // 65537 is what every maker of keys uses; small exponents only ever helped attacks.
        if exponent != [1, 0, 1] {
            return Err(refuse("an RSA key must have the public exponent 65537"));
        }
        Ok(Self {
            kind: KeyKind::Rsa { bits },
            spki,
            bare,
        })
    }

    /// The kind of key.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The whole SubjectPublicKeyInfo.
    pub fn spki_der(&self) -> &'a [u8] {
        self.spki
    }

    /// The key alone: the point, the 32 octets of Ed25519, or the DER RSAPublicKey.
    pub fn bare(&self) -> &'a [u8] {
        self.bare
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn spki_sha256(&self) -> SpkiHash {
        spki_sha256(self.spki)
    }

    /// Checks a signature over `message`. A P-256 key with SHA-384 and the reverse are fine: the hash is a property of
    /// the signature, not of the key.
    ///
    /// # Errors
    /// [`SvidError::Key`] when the algorithm does not fit the key or the signature does not verify.
    pub fn verify(&self, algorithm: SignatureAlgorithm, message: &[u8], bytes: &[u8]) -> Result<(), SvidError> {
        use SignatureAlgorithm as Sig;
        let verifier: &'static dyn signature::VerificationAlgorithm = match (self.kind, algorithm) {
            (KeyKind::P256, Sig::EcdsaSha256) => &signature::ECDSA_P256_SHA256_ASN1,
            (KeyKind::P256, Sig::EcdsaSha384) => &signature::ECDSA_P256_SHA384_ASN1,
            (KeyKind::P384, Sig::EcdsaSha256) => &signature::ECDSA_P384_SHA256_ASN1,
            (KeyKind::P384, Sig::EcdsaSha384) => &signature::ECDSA_P384_SHA384_ASN1,
            (KeyKind::Ed25519, Sig::Ed25519) => &signature::ED25519,
            (KeyKind::Rsa { .. }, Sig::RsaSha256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (KeyKind::Rsa { .. }, Sig::RsaSha384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (KeyKind::Rsa { .. }, Sig::RsaSha512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            _ => return Err(refuse("the signature algorithm does not fit the key")),
        };
        UnparsedPublicKey::new(verifier, self.bare)
            .verify(message, bytes)
            .map_err(|_| refuse("the signature does not verify"))
    }
}

/// SHA-256 of a SubjectPublicKeyInfo.
pub fn spki_sha256(spki_der: &[u8]) -> SpkiHash {
    let digest = ring::digest::digest(&ring::digest::SHA256, spki_der);
    let mut octets = [0; 32];
    octets.copy_from_slice(digest.as_ref());
    SpkiHash::new(octets)
}

/// Whether the PKCS#8 private key is the one of the leaf's public key.
///
/// # Errors
/// Refuses a certificate that is no SVID leaf, and a private key that is malformed or of another kind than the
/// certificate's.
pub fn key_matches(leaf_der: &[u8], pkcs8_der: &[u8]) -> Result<bool, SvidError> {
    let leaf = LeafInfo::parse(leaf_der)?;
    key_matches_spki(leaf.spki_der(), pkcs8_der)
}

/// Whether the PKCS#8 private key is the one of this SubjectPublicKeyInfo.
///
/// # Errors
/// Refuses a malformed private key and kinds not used here. A well-formed key of another kind simply does not match.
pub fn key_matches_spki(spki_der: &[u8], pkcs8_der: &[u8]) -> Result<bool, SvidError> {
    SvidError::check_size("private key", pkcs8_der.len(), PRIVATE_KEY_BYTES_MAX, "bytes")?;
    let public = PublicKey::from_spki(spki_der)?;
    Ok(public_of_pkcs8(pkcs8_der)?.as_slice() == public.bare)
}

/// The fingerprint of the public key that belongs to a PKCS#8 private key: SHA-256 of its SubjectPublicKeyInfo.
///
/// # Errors
/// Refuses a malformed private key and kinds not used here: P-256, P-384, Ed25519 and RSA from 2,048 bits are.
pub fn spki_sha256_of_pkcs8(pkcs8_der: &[u8]) -> Result<SpkiHash, SvidError> {
    SvidError::check_size("private key", pkcs8_der.len(), PRIVATE_KEY_BYTES_MAX, "bytes")?;
    Ok(spki_sha256_of_bare(&public_of_pkcs8(pkcs8_der)?))
}

/// The same of a private key in the form of RFC 5915, which PEM calls `EC PRIVATE KEY`.
///
/// # Errors
/// Refuses a malformed private key, one that does not name its public key (OpenSSL's do), and curves other than P-256 and P-384.
pub fn spki_sha256_of_sec1(sec1_der: &[u8]) -> Result<SpkiHash, SvidError> {
    SvidError::check_size("private key", sec1_der.len(), PRIVATE_KEY_BYTES_MAX, "bytes")?;
    let refused = |why| SvidError::Key {
        what: "private key",
        why,
    };
    let parts = || -> Result<(&[u8], &[u8]), der::DerError> {
        let mut fields = Reader::new(Reader::new(sec1_der).expect(TAG_SEQUENCE)?.value);
        fields.expect(TAG_INTEGER)?;
        let private = fields.expect(TAG_OCTET_STRING)?.value;
        // The curve's name, which the length of the point tells as well.
        if fields.peek() == Some(0xa0) {
            fields.any()?;
        }
        let point = Reader::new(fields.expect(0xa1)?.value).expect(TAG_BIT_STRING)?.value;
        Ok((private, point))
    };
    let (private, point) = parts().map_err(|_| refused("not an RFC 5915 key with its public key"))?;
    let point = point.strip_prefix(&[0]).unwrap_or_default();
    let algorithm = match point.len() {
        65 => &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        97 => &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
        _ => return Err(refused("not of P-256 or P-384")),
    };
    EcdsaKeyPair::from_private_key_and_public_key(algorithm, private, point, &SystemRandom::new())
        .map_err(|_| refused("not the private key of the public key that it names"))?;
    Ok(spki_sha256_of_bare(point))
}

/// The same of an RSA private key in the form of RFC 8017, which PEM calls `RSA PRIVATE KEY`.
///
/// # Errors
/// Refuses a malformed private key and sizes not used here.
pub fn spki_sha256_of_pkcs1(pkcs1_der: &[u8]) -> Result<SpkiHash, SvidError> {
    SvidError::check_size("private key", pkcs1_der.len(), PRIVATE_KEY_BYTES_MAX, "bytes")?;
    let pair = RsaKeyPair::from_der(pkcs1_der).map_err(|_| SvidError::Key {
        what: "private key",
        why: "not an RSA key of a size used here",
    })?;
    Ok(spki_sha256_of_bare(pair.public_key().as_ref()))
}

/// The fingerprint of a bare public key, whose length tells its kind; an RSA key is longer than any other.
fn spki_sha256_of_bare(bare: &[u8]) -> SpkiHash {
    let prefix = match bare.len() {
        65 => P256_PREFIX,
        97 => P384_PREFIX,
        32 => ED25519_PREFIX,
        _ => return spki_sha256(&crate::jwk::rsa_spki(bare)),
    };
    spki_sha256(&[prefix, bare].concat())
}

/// The bare public key that belongs to a PKCS#8 private key of any kind used here.
fn public_of_pkcs8(pkcs8_der: &[u8]) -> Result<Vec<u8>, SvidError> {
    let rng = SystemRandom::new();
    for algorithm in [
        &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
    ] {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8_der, &rng) {
            return Ok(pair.public_key().as_ref().to_vec());
        }
    }
    // OpenSSL writes PKCS#8 version 1 without the public key, which the checked form refuses.
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8_der) {
        return Ok(pair.public_key().as_ref().to_vec());
    }
    if let Ok(pair) = RsaKeyPair::from_pkcs8(pkcs8_der) {
        return Ok(pair.public_key().as_ref().to_vec());
    }
    Err(SvidError::Key {
        what: "private key",
        why: "not an unencrypted PKCS#8 key of a kind used here",
    })
}

/// What stands before an uncompressed point of this kind, and the octets of one coordinate.
pub(crate) fn ec_prefix(kind: KeyKind) -> Option<(&'static [u8], usize)> {
    match kind {
        KeyKind::P256 => Some((P256_PREFIX, 32)),
        KeyKind::P384 => Some((P384_PREFIX, 48)),
        _ => None,
    }
}

fn refuse(why: &'static str) -> SvidError {
    SvidError::Key { what: WHAT, why }
}

/// Points of order 1, 2, 4 and 8 in every encoding a verifier accepts. Ed25519 verification passes for such a key with
/// signatures that anyone can write down (RFC 8032 leaves the check to the application).
fn ed25519_has_small_order(key: &[u8]) -> bool {
    const SMALL: [[u8; 32]; 7] = [
        y_octets(0x00, 0x00, 0x00),
        y_octets(0x01, 0x00, 0x00),
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
            0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
            0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
        // p - 1, p and p + 1 (p = 2^255 - 19).
        y_octets(0xec, 0xff, 0x7f),
        y_octets(0xed, 0xff, 0x7f),
        y_octets(0xee, 0xff, 0x7f),
    ];
    let Ok(mut y) = <[u8; 32]>::try_from(key) else {
        return true;
    };
    // The top bit is the sign of x, which changes nothing about the order.
    y[31] &= 0x7f;
    SMALL.contains(&y)
}

const fn y_octets(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut octets = [middle; 32];
    octets[0] = first;
    octets[31] = last;
    octets
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
