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

    /// The same with `jwt-svid` keys alone, as the Workload API's JWT bundles have it.
    pub fn to_jwt_jwks_json(&self) -> String {
        jwk::write_jwt(self)
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

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::samples::{ca_params, root, root_of, uri};

    /// A public RSA key that signed the samples in the tests of JWT-SVIDs.
    const RSA_N: &str = crate::samples::RSA_SAMPLE_N;

    fn domain() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    fn ec_key(kid: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> JwtKey {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        JwtKey::new(kid, rcgen::PublicKeyData::subject_public_key_info(&key)).unwrap()
    }

    fn read(document: &serde_json::Value) -> Result<TrustBundle, SvidError> {
        TrustBundle::from_jwks_json(domain(), &document.to_string())
    }

    fn element(root: &[u8]) -> serde_json::Value {
        json!({"use": "x509-svid", "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "x5c": [STANDARD.encode(root)]})
    }

    #[test]
    fn a_bundle_survives_both_documents() {
        let rsa = json!({"keys": [{"use": "jwt-svid", "kty": "RSA", "kid": "r", "n": RSA_N, "e": "AQAB"}]});
        let rsa = read(&rsa).unwrap().jwt_keys()[0].clone();
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let roots = vec![
            root().der,
            ca_params("p384").self_signed(&p384).unwrap().der().to_vec(),
            ca_params("ed25519").self_signed(&ed25519).unwrap().der().to_vec(),
        ];
        let jwt = vec![
            ec_key("a", &rcgen::PKCS_ECDSA_P256_SHA256),
            ec_key("b", &rcgen::PKCS_ECDSA_P384_SHA384),
            rsa,
        ];
        let bundle = TrustBundle::new(domain(), roots, jwt, u64::MAX, Some(300)).unwrap();
        let json = bundle.to_jwks_json();
        assert_eq!(TrustBundle::from_jwks_json(domain(), &json).unwrap(), bundle);
        assert_eq!(
            TrustBundle::from_pem(domain(), &bundle.to_pem()).unwrap().roots(),
            bundle.roots()
        );
        assert_eq!(bundle.jwt_key("b"), Some(&bundle.jwt_keys()[1]));
        assert_eq!(bundle.root_hashes()[0], cert_sha256(&bundle.roots()[0]));
        let document: serde_json::Value = serde_json::from_str(&json).unwrap();
        for key in document["keys"].as_array().unwrap() {
            let is_x509 = key["use"] == "x509-svid";
            assert_eq!(key.get("kid").is_none(), is_x509, "a kid is for JWT keys alone");
            assert_eq!(
                key.get("x5c").map(|x5c| x5c.as_array().unwrap().len()),
                is_x509.then_some(1)
            );
        }
    }

    #[test]
    fn keys_must_be_there_and_may_be_empty() {
        for bad in [
            json!({}),
            json!({"keys": {}}),
            json!({"keys": null}),
            json!([]),
            json!({"keys": [1]}),
        ] {
            assert!(read(&bad).is_err(), "{bad}");
        }
        assert!(TrustBundle::from_jwks_json(domain(), "").is_err());
        let empty = read(&json!({"keys": []})).unwrap();
        assert!(empty.roots().is_empty() && empty.sequence() == 0 && empty.refresh_hint_seconds().is_none());
    }

    #[test]
    fn unknown_elements_are_ignored_alone_and_unknown_members_are_tolerated() {
        let good = root().der;
        let mut other_use = element(&good);
        other_use["use"] = json!("wit-svid");
        let mut no_use = element(&good);
        no_use.as_object_mut().unwrap().remove("use");
        let mut other_type = element(&good);
        other_type["kty"] = json!("AKP");
        let mut no_chain = element(&good);
        no_chain.as_object_mut().unwrap().remove("x5c");
        let mut two = element(&good);
        two["x5c"] = json!([STANDARD.encode(&good), "junk"]);
        let curve = json!({"use": "jwt-svid", "kty": "EC", "kid": "k", "crv": "P-521", "x": "AA", "y": "AA"});
        let keys = [other_use, no_use, other_type, no_chain, curve, two];
        let bundle = read(&json!({"keys": keys, "spiffe_sequence": 7, "spiffe_refresh_hint": 60, "more": []})).unwrap();
        assert_eq!(bundle.roots(), [good], "only the first value of x5c counts");
        assert_eq!((bundle.sequence(), bundle.refresh_hint_seconds()), (7, Some(60)));
        assert!(bundle.jwt_keys().is_empty());
    }

    #[test]
    fn j4_every_jwt_key_is_written_and_read_with_its_use_and_kid() {
        let keys = vec![
            ec_key("a", &rcgen::PKCS_ECDSA_P256_SHA256),
            ec_key("b", &rcgen::PKCS_ECDSA_P384_SHA384),
        ];
        let bundle = TrustBundle::new(domain(), vec![root().der], keys.clone(), 3, Some(60)).unwrap();
        for (text, elements) in [(bundle.to_jwks_json(), 3), (bundle.to_jwt_jwks_json(), 2)] {
            let document: serde_json::Value = serde_json::from_str(&text).unwrap();
            let written = document["keys"].as_array().unwrap();
            assert_eq!(written.len(), elements, "{text}");
            let jwt = written.iter().filter(|key| key["use"] == "jwt-svid");
            let kids: Vec<_> = jwt.map(|key| key["kid"].as_str().unwrap()).collect();
            assert_eq!(kids, ["a", "b"]);
            let read = TrustBundle::from_jwks_json(domain(), &text).unwrap();
            assert_eq!((read.jwt_keys(), read.sequence()), (keys.as_slice(), 3));
        }
    }

    #[test]
    fn a_bundle_that_lies_is_refused_whole() {
        let good = root();
        let mut params = ca_params("path");
        params.subject_alt_names = vec![uri("spiffe://example.org/web")];
        let with_path = root_of(params).der;
        let leaf = good.leaf(|_| {});
        let refused = |keys: serde_json::Value| assert!(read(&json!({"keys": keys})).is_err(), "{keys}");
        refused(json!([element(&with_path)]));
        refused(json!([element(&leaf)]));
        refused(json!([element(&good.der), element(&good.der)]));
        refused(json!([element(b"junk")]));
        refused(json!([{"use": "x509-svid", "kty": "EC", "x5c": ["*"]}]));
        refused(json!([{"use": "x509-svid", "kty": "EC", "x5c": [1]}]));
        refused(json!([{"use": "jwt-svid", "kty": "RSA", "n": RSA_N, "e": "AQAB"}]));
        let jwt = json!({"use": "jwt-svid", "kty": "RSA", "kid": "r", "n": RSA_N, "e": "AQAB"});
        refused(json!([jwt, jwt]));
        for bad in [
            r#"{"keys":[],"keys":[]}"#,
            r#"{"keys":[{"use":"x509-svid","use":"jwt-svid"}]}"#,
        ] {
            assert!(TrustBundle::from_jwks_json(domain(), bad).is_err(), "{bad}");
        }
        for bad in [json!(-1), json!(1.5), json!("1")] {
            assert!(read(&json!({"keys": [], "spiffe_sequence": bad})).is_err());
            assert!(read(&json!({"keys": [], "spiffe_refresh_hint": bad})).is_err());
        }
    }

    #[test]
    fn sizes_and_nesting_are_bounded() {
        let long = " ".repeat(crate::limits::DOCUMENT_BYTES_MAX + 1);
        assert!(matches!(
            TrustBundle::from_jwks_json(domain(), &long),
            Err(SvidError::TooLarge { .. })
        ));
        let deep = format!("{{\"keys\":[{}{}]}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(TrustBundle::from_jwks_json(domain(), &deep).is_err());
        let many = json!({"keys": vec![json!({}); crate::limits::JWKS_ELEMENTS_MAX + 1]});
        assert!(matches!(read(&many), Err(SvidError::TooLarge { .. })));
        let roots = vec![root().der; BUNDLE_ROOTS_MAX + 1];
        let refused = TrustBundle::new(domain(), roots, Vec::new(), 0, None);
        assert!(matches!(refused, Err(SvidError::TooLarge { .. })));
        assert!(JwtKey::new("", ec_key("a", &rcgen::PKCS_ECDSA_P256_SHA256).spki_der()).is_err());
        assert!(JwtKey::new("a\n", ec_key("a", &rcgen::PKCS_ECDSA_P256_SHA256).spki_der()).is_err());
        let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        assert!(JwtKey::new("e", rcgen::PublicKeyData::subject_public_key_info(&ed25519)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in r#"[{}\[\]":,a-z0-9 ]{0,80}"#) {
            let _ = TrustBundle::from_jwks_json(domain(), &text);
        }
    }
}
