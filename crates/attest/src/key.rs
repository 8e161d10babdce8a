//! Signatures by an agent's key: P-256, P-384 and Ed25519, told apart by their SubjectPublicKeyInfo alone.

use ring::{
    rand::SecureRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING,
        ED25519, EcdsaKeyPair, Ed25519KeyPair, UnparsedPublicKey, VerificationAlgorithm,
    },
};

use crate::AttestError;

/// DER up to the key itself, which for each of these algorithms is of fixed length (RFC 5480, RFC 8410): an exact match
/// leaves nothing to parse. The last column is the length of the key.
const KEYS: [(&[u8], usize, &dyn VerificationAlgorithm); 3] = [
    (
        b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00",
        65,
        &ECDSA_P256_SHA256_ASN1,
    ),
    (
        b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00",
        97,
        &ECDSA_P384_SHA384_ASN1,
    ),
    (b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", 32, &ED25519),
];

/// Whether `signature` over `message` was made by the key of `spki_der`. The outer error: not a key this product takes.
pub(crate) fn verify(spki_der: &[u8], message: &[u8], signature: &[u8]) -> Result<bool, AttestError> {
    let (key, algorithm) = KEYS
        .iter()
        .find_map(|(prefix, len, algorithm)| {
            let key = spki_der.strip_prefix(*prefix)?;
            (key.len() == *len).then_some((key, *algorithm))
        })
        .ok_or(AttestError::Key("is not P-256, P-384 or Ed25519"))?;
    Ok(UnparsedPublicKey::new(algorithm, key)
        .verify(message, signature)
        .is_ok())
}

/// Signs with a PKCS#8 key of one of the three kinds.
pub(crate) fn sign(pkcs8_der: &[u8], message: &[u8], random: &dyn SecureRandom) -> Result<Vec<u8>, AttestError> {
    for algorithm in [&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P384_SHA384_ASN1_SIGNING] {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8_der, random) {
            let signature = pair
                .sign(random, message)
                .map_err(|_| AttestError::Key("cannot sign"))?;
            return Ok(signature.as_ref().to_vec());
        }
    }
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8_der)
        .map_err(|_| AttestError::Key("is no PKCS#8 key of P-256, P-384 or Ed25519"))?;
    Ok(pair.sign(message).as_ref().to_vec())
}
