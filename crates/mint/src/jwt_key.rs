//! A key that signs JWT-SVIDs: ECDSA P-256 for ES256, made here, or RSA for RS256, an operator's; of its own kind, so that no
//! CA key ever signs a token and no token key a certificate.

use std::fmt;

use mintage_identity::{IssuerKeyId, TrustDomain};
use mintage_svid::{JwtAlgorithm, JwtKey, PublicKey, rsa_spki, spki_sha256};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use zeroize::Zeroizing;

use crate::{MintError, ca_key::p256_spki};

/// Octets of the public key's hash in a key id: it tells keys of one bundle apart, and travels in every token.
const KID_OCTETS: usize = 16;

/// The private key of a trust domain's JWT-SVIDs.
pub struct JwtSigner {
    domain: TrustDomain,
    pair: Pair,
    random: SystemRandom,
    public: JwtKey,
    key_id: IssuerKeyId,
}

enum Pair {
    Es256(Box<EcdsaKeyPair>),
    Rs256(Box<RsaKeyPair>),
}

impl Pair {
    fn from_pkcs8(pkcs8_der: &[u8], random: &SystemRandom) -> Option<Self> {
        let p256 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8_der, random);
        let rsa = || RsaKeyPair::from_pkcs8(pkcs8_der).map(|pair| Self::Rs256(Box::new(pair)));
        p256.map(|pair| Self::Es256(Box::new(pair))).or_else(|_| rsa()).ok()
    }

    fn spki(&self) -> Vec<u8> {
        match self {
            Self::Es256(pair) => p256_spki(pair.public_key().as_ref()),
            Self::Rs256(pair) => rsa_spki(pair.public_key().as_ref()),
        }
    }
}

/// The key id (`kid`) of a public key, by the SHA-256 of its SubjectPublicKeyInfo.
pub fn jwt_kid(key_id: &IssuerKeyId) -> String {
    let octets = &key_id.as_bytes()[..KID_OCTETS];
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

impl JwtSigner {
    /// Makes a new key. The second value is its PKCS#8 form for a key file, the only copy outside the key itself.
    ///
    /// # Errors
    /// [`MintError::Sign`] when the system gives no randomness.
    pub fn generate(domain: &TrustDomain) -> Result<(Self, Zeroizing<Vec<u8>>), MintError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|_| MintError::Sign)?;
        let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
        Ok((Self::from_pkcs8(domain, &pkcs8)?, pkcs8))
    }

    /// Loads a key from its PKCS#8 form: ECDSA P-256, or RSA of 2048 to 4096 bits.
    ///
    /// # Errors
    /// Refuses every other key, and a public half that does not fit.
    pub fn from_pkcs8(domain: &TrustDomain, pkcs8_der: &[u8]) -> Result<Self, MintError> {
        let refuse = || {
            MintError::Key(
                "JWT-SVIDs are signed by an ECDSA P-256 key (ES256), or by an RSA key of 2048 to 4096 bits with the public \
                 exponent 65537 (RS256), in PKCS#8",
            )
        };
        let random = SystemRandom::new();
        let pair = Pair::from_pkcs8(pkcs8_der, &random).ok_or_else(refuse)?;
        let spki = pair.spki();
        // Read back as verifiers read it.
        PublicKey::from_spki(&spki).map_err(|_| refuse())?;
        let key_id = IssuerKeyId::new(*spki_sha256(&spki).as_bytes());
        Ok(Self {
            domain: domain.clone(),
            pair,
            random,
            public: JwtKey::new(jwt_kid(&key_id), spki)?,
            key_id,
        })
    }

    /// How its tokens are signed.
    pub fn algorithm(&self) -> JwtAlgorithm {
        match self.pair {
            Pair::Es256(_) => JwtAlgorithm::Es256,
            Pair::Rs256(_) => JwtAlgorithm::Rs256,
        }
    }

    /// The public half with its key id, as the trust bundle has it.
    pub fn public(&self) -> &JwtKey {
        &self.public
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn key_id(&self) -> IssuerKeyId {
        self.key_id
    }

    /// The trust domain whose identities it vouches for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Signs anything. Kept inside: tokens come from `jwt`.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, MintError> {
        let failed = |_| MintError::Sign;
        match &self.pair {
            Pair::Es256(pair) => Ok(pair.sign(&self.random, message).map_err(failed)?.as_ref().to_vec()),
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let padding = &RSA_PKCS1_SHA256;
                pair.sign(padding, &self.random, message, &mut signature)
                    .map_err(failed)?;
                Ok(signature)
            }
        }
    }
}

impl fmt::Debug for JwtSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSigner")
            .field("kid", &self.public.kid())
            .field("private", &"...")
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::{domain, rsa_pkcs8};

    #[test]
    fn a_key_survives_its_pkcs8_form_and_other_kinds_are_refused() {
        let (key, pkcs8) = JwtSigner::generate(&domain()).unwrap();
        let again = JwtSigner::from_pkcs8(&domain(), &pkcs8).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(key.public().kid(), &key.key_id().to_string()[..32]);
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        for bad in [&p384.serialize_der()[..], &pkcs8[1..], &[]] {
            let refused = JwtSigner::from_pkcs8(&domain(), bad).unwrap_err().to_string();
            assert!(refused.contains("ES256") && refused.contains("RS256"), "{refused}");
        }
        assert!(!format!("{key:?}").contains("pair"));
    }

    #[test]
    fn an_rsa_key_of_fitting_size_signs_rs256_and_others_are_refused() {
        for (bits, good) in [(2048, true), (1024, false)] {
            let Some(pkcs8) = rsa_pkcs8(bits) else { return };
            let key = JwtSigner::from_pkcs8(&domain(), &pkcs8);
            assert_eq!(key.is_ok(), good, "{bits}");
            let Ok(key) = key else { continue };
            assert_eq!(key.algorithm(), JwtAlgorithm::Rs256);
            let signature = key.sign(b"said").unwrap();
            let public = PublicKey::from_spki(key.public().spki_der()).unwrap();
            let algorithm = mintage_svid::SignatureAlgorithm::RsaSha256;
            public.verify(algorithm, b"said", &signature).unwrap();
            assert!(public.verify(algorithm, b"said otherwise", &signature).is_err());
        }
    }
}
