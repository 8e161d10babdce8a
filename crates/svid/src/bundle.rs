//! The trust bundle of one trust domain (SPIFFE Trust Domain and Bundle, section 4).

use std::collections::BTreeSet;

use mintage_identity::{CertHash, TrustDomain};

use crate::{
    CertInfo, KeyKind, PublicKey, SvidError, cert_sha256, jwk,
    limits::{BUNDLE_JWT_KEYS_MAX, BUNDLE_ROOTS_MAX, KEY_ID_BYTES_MAX},
    pem,
};

/// Roots and JWT keys of one trust domain. With no roots every X.509-SVID of the domain is invalid, which is what an
/// empty bundle means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<Vec<u8>>,
    jwt_keys: Vec<JwtKey>,
    sequence: u64,
    refresh_hint_seconds: Option<u32>,
}

/// A public key that signs JWT-SVIDs: ECDSA or RSA, named by its key id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtKey {
    kid: String,
    spki_der: Vec<u8>,
}

impl JwtKey {
    /// A JWT key with the id `kid` (1 to 256 bytes, no control characters) and its SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// Refuses a bad id and keys that no JWT-SVID algorithm uses (Ed25519 is one).
    pub fn new(kid: impl Into<String>, spki_der: impl Into<Vec<u8>>) -> Result<Self, SvidError> {
        let (kid, spki_der) = (kid.into(), spki_der.into());
        if kid.is_empty() || kid.len() > KEY_ID_BYTES_MAX || kid.contains(|c: char| c.is_control()) {
            return Err(SvidError::Bundle(
                "a JWT key id has 1 to 256 printable bytes".to_owned(),
            ));
        }
        if PublicKey::from_spki(&spki_der)?.kind() == KeyKind::Ed25519 {
            return Err(SvidError::Bundle(
                "JWT-SVIDs are not signed with Ed25519 keys".to_owned(),
            ));
        }
        Ok(Self { kid, spki_der })
    }

    /// The key id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The SubjectPublicKeyInfo.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }
}

impl TrustBundle {
    /// A bundle of DER root certificates and JWT keys. `sequence` rises with every change of content;
    /// `refresh_hint_seconds` says how often to look for a newer one.
    ///
    /// # Errors
    /// Refuses certificates that may not sign, the same certificate or key id twice, keys of kinds not used here, and
    /// more than 64 roots or 256 JWT keys.
    pub fn new(
        trust_domain: TrustDomain,
        roots: Vec<Vec<u8>>,
        jwt_keys: Vec<JwtKey>,
        sequence: u64,
        refresh_hint_seconds: Option<u32>,
    ) -> Result<Self, SvidError> {
        SvidError::check_size("trust bundle", roots.len(), BUNDLE_ROOTS_MAX, "roots")?;
        SvidError::check_size("trust bundle", jwt_keys.len(), BUNDLE_JWT_KEYS_MAX, "JWT keys")?;
        let mut seen = BTreeSet::new();
        for (index, root) in roots.iter().enumerate() {
            let info = CertInfo::parse_signing(root)
                .map_err(|error| SvidError::Bundle(format!("root {} of {trust_domain}: {error}", index + 1)))?;
            PublicKey::from_spki(info.spki_der())?;
            if !seen.insert(cert_sha256(root)) {
                return Err(SvidError::Bundle(format!(
                    "root {} of {trust_domain} occurs twice",
                    index + 1
                )));
            }
        }
        let mut kids = BTreeSet::new();
        if let Some(twice) = jwt_keys.iter().find(|key| !kids.insert(key.kid.as_str())) {
            return Err(SvidError::Bundle(format!(
                "the JWT key id {:?} occurs twice",
                twice.kid
            )));
        }
        Ok(Self {
            trust_domain,
            roots,
            jwt_keys,
            sequence,
            refresh_hint_seconds,
        })
    }

    /// The trust domain whose identities these keys vouch for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root certificates as DER.
    pub fn roots(&self) -> &[Vec<u8>] {
        &self.roots
    }

    /// SHA-256 of each root certificate, in the order of [`TrustBundle::roots`].
    pub fn root_hashes(&self) -> Vec<CertHash> {
        self.roots.iter().map(|root| cert_sha256(root)).collect()
    }

    /// The JWT keys.
    pub fn jwt_keys(&self) -> &[JwtKey] {
        &self.jwt_keys
    }

    /// The JWT key with this id.
    pub fn jwt_key(&self, kid: &str) -> Option<&JwtKey> {
        self.jwt_keys.iter().find(|key| key.kid == kid)
    }

    /// Version of the content: only ever rises. Zero when the document did not say.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How often to look for a newer bundle, in seconds.
    pub fn refresh_hint_seconds(&self) -> Option<u32> {
        self.refresh_hint_seconds
    }

    /// The SPIFFE bundle document: a JWK Set with `x509-svid` and `jwt-svid` keys, and the SPIFFE members.
    pub fn to_jwks_json(&self) -> String {
        jwk::write(self)
    }

    /// Reads a SPIFFE bundle document of at most 1 MB.
    ///
    /// Elements of unknown type or use, and X.509 elements without `x5c`, are ignored one by one, as the standard asks.
    ///
    /// # Errors
    /// Refuses text that is no JWK Set, a certificate that may not sign (one with a SPIFFE path among them), and
    /// certificates or key ids that occur twice.
    pub fn from_jwks_json(trust_domain: TrustDomain, text: &str) -> Result<Self, SvidError> {
        let document = jwk::read(text)?;
        Self::new(
            trust_domain,
            document.roots,
            document.jwt_keys,
            document.sequence,
            document.refresh_hint_seconds,
        )
    }

    /// The root certificates as PEM. JWT keys, sequence and hint have no place there.
    pub fn to_pem(&self) -> String {
        pem::encode_certificates(&self.roots)
    }

    /// Reads root certificates from PEM, at least one.
    ///
    /// # Errors
    /// As [`pem::decode_certificates`] and [`TrustBundle::new`].
    pub fn from_pem(trust_domain: TrustDomain, text: &str) -> Result<Self, SvidError> {
        Self::new(trust_domain, pem::decode_certificates(text)?, Vec::new(), 0, None)
    }
}
