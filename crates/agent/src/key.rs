//! Keys made on this node: P-256, one for each certificate, never used for two. They leave memory only for the agent's
//! data directory and the delivery folder.

use std::fmt;

use mintage_identity::{RequestId, SpkiHash};
use mintage_svid::spki_sha256;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData};
use zeroize::Zeroizing;

/// A private key with the request that proves its possession. `Debug` shows no secret.
pub(crate) struct NewKey {
    /// PKCS#8 DER.
    pub(crate) pkcs8: Zeroizing<Vec<u8>>,
    /// PKCS#10 DER; the CA takes nothing but the public key from it.
    pub(crate) csr: Vec<u8>,
    /// SHA-256 of the public key.
    pub(crate) spki: SpkiHash,
}

impl NewKey {
    /// Makes a new key.
    pub(crate) fn generate() -> Result<Self, String> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|error| error.to_string())?;
        Self::of(&pair)
    }

    /// Takes up a key that was made before.
    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, String> {
        let der = rustls_pki_types::PrivatePkcs8KeyDer::from(pkcs8);
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|error| error.to_string())?;
        Self::of(&pair)
    }

    fn of(pair: &KeyPair) -> Result<Self, String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(pair).map_err(|error| error.to_string())?;
        Ok(Self {
            pkcs8: Zeroizing::new(pair.serialize_der()),
            csr: csr.der().to_vec(),
            spki: spki_sha256(&pair.subject_public_key_info()),
        })
    }

    /// A request id that belongs to this key: the same key asks the same question again, across a restart too.
    pub(crate) fn request_id(&self) -> RequestId {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.spki.as_bytes()[..16]);
        RequestId::new(octets)
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey")
            .field("spki", &self.spki)
            .field("pkcs8", &"...")
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_new_each_time_and_is_taken_up_again_with_the_same_request_id() {
        let (a, b) = (NewKey::generate().unwrap(), NewKey::generate().unwrap());
        assert_ne!(a.spki, b.spki);
        let again = NewKey::from_pkcs8(&a.pkcs8).unwrap();
        assert_eq!((again.spki, again.request_id()), (a.spki, a.request_id()));
        assert!(NewKey::from_pkcs8(b"no key").is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = NewKey::generate().unwrap();
        let shown = format!("{key:?}");
        assert!(shown.contains("...") && !shown.contains(&format!("{:?}", key.pkcs8.as_slice())));
    }
}
