//! A CA's private key: ECDSA P-256, held by ring, never handed out.

use std::fmt;

use mintage_identity::IssuerKeyId;
use mintage_svid::spki_sha256;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use zeroize::Zeroizing;

use crate::{MintError, limits::DELEGATION_BYTES_MAX};

/// What every delegation statement begins with. No certificate and no revocation list does: those are DER sequences,
/// which begin with the octet 0x30. So a signature over the one can never be taken for a signature over the other.
pub const DELEGATION_LABEL: &[u8] = b"mintage-revocation-delegation-v1\0";

/// SubjectPublicKeyInfo of a P-256 key up to its point (RFC 5480, section 2).
const P256_SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The private key of a root or an issuing CA.
pub struct CaKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    spki: Vec<u8>,
    key_id: IssuerKeyId,
}

impl CaKey {
    /// Makes a new key. The second value is its PKCS#8 form for a key file, the only copy outside the key itself.
    ///
    /// # Errors
    /// [`MintError::Sign`] when the system gives no randomness.
    pub fn generate() -> Result<(Self, Zeroizing<Vec<u8>>), MintError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| MintError::Sign)?;
        let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
        Ok((Self::from_pkcs8(&pkcs8)?, pkcs8))
    }

    /// Loads a key from its PKCS#8 form.
    ///
    /// # Errors
    /// Refuses other kinds of keys and a public half that does not fit.
    pub fn from_pkcs8(pkcs8_der: &[u8]) -> Result<Self, MintError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8_der, &random)
            .map_err(|_| MintError::Key("it is no ECDSA P-256 key in PKCS#8 with its public half"))?;
        let spki = p256_spki(pair.public_key().as_ref());
        let key_id = IssuerKeyId::new(*spki_sha256(&spki).as_bytes());
        Ok(Self {
            pair,
            random,
            spki,
            key_id,
        })
    }

    /// The SubjectPublicKeyInfo.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn key_id(&self) -> IssuerKeyId {
        self.key_id
    }

    /// Signs a statement by which this CA delegates the signing of revocation news. `statement` begins with
    /// [`DELEGATION_LABEL`]; the signature is ASN.1 ECDSA with SHA-256.
    ///
    /// # Errors
    /// Refuses anything else than a labelled statement of at most 1 KB.
    pub fn sign_delegation(&self, statement: &[u8]) -> Result<Vec<u8>, MintError> {
        let labelled = statement.starts_with(DELEGATION_LABEL) && statement.len() > DELEGATION_LABEL.len();
        if !labelled || statement.len() > DELEGATION_BYTES_MAX {
            return Err(MintError::NotADelegation);
        }
        Ok(self.sign(statement)?.as_ref().to_vec())
    }

    /// Signs anything. Kept inside: certificates come from `sign`, lists from `crl`, CA certificates from `root`.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<ring::signature::Signature, MintError> {
        self.pair.sign(&self.random, message).map_err(|_| MintError::Sign)
    }

    /// The uncompressed point alone.
    pub(crate) fn point(&self) -> &[u8] {
        &self.spki[P256_SPKI_HEAD.len()..]
    }
}

impl fmt::Debug for CaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaKey")
            .field("key_id", &self.key_id)
            .field("private", &"...")
            .finish()
    }
}

pub(crate) fn p256_spki(point: &[u8]) -> Vec<u8> {
    [&P256_SPKI_HEAD, point].concat()
}

#[cfg(test)]
mod tests {
    use mintage_svid::{PublicKey, SignatureAlgorithm};

    use super::*;

    #[test]
    fn only_labelled_delegation_statements_are_signed() {
        let key = CaKey::generate().unwrap().0;
        let statement = [DELEGATION_LABEL, b"who, for which epoch, until when"].concat();
        let signature = key.sign_delegation(&statement).unwrap();
        let public = PublicKey::from_spki(key.spki_der()).unwrap();
        public
            .verify(SignatureAlgorithm::EcdsaSha256, &statement, &signature)
            .unwrap();
        assert_ne!(DELEGATION_LABEL[0], 0x30, "no certificate begins like this");
        let long = [DELEGATION_LABEL, &[0; DELEGATION_BYTES_MAX]].concat();
        for bad in [
            &b""[..],
            b"\x30\x82\x01\x00",
            DELEGATION_LABEL,
            b"mintage-rejoin-v1\0x",
            &long,
        ] {
            assert!(
                matches!(key.sign_delegation(bad), Err(MintError::NotADelegation)),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_key_survives_its_pkcs8_form_and_other_kinds_are_refused() {
        let (key, pkcs8) = CaKey::generate().unwrap();
        assert_eq!(CaKey::from_pkcs8(&pkcs8).unwrap().key_id(), key.key_id());
        let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)
            .unwrap()
            .serialize_der();
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384)
            .unwrap()
            .serialize_der();
        for bad in [&ed25519[..], &p384, &pkcs8[1..], &[]] {
            assert!(matches!(CaKey::from_pkcs8(bad), Err(MintError::Key(_))));
        }
    }
}
