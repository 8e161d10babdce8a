//! JWT-SVIDs of the test CA, as honest or as wrong as a test wants them.

use std::time::Duration;

use mintage_identity::SpiffeId;
use mintage_proto::v1;
use mintage_svid::{JwtAlgorithm, JwtClaims, compact};
use rcgen::PublicKeyData;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};

use super::wall;

const KID: &str = "test-key";

pub struct Minter {
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
    pub ttl: Duration,
    /// Say this identity instead of the entry's.
    pub wrong_id: Option<String>,
    /// Sign under a key id that is not in the bundle.
    pub wrong_kid: bool,
    /// Take asks and never answer.
    pub silent: bool,
    pub refuse: Option<v1::Refusal>,
    pub asked: Vec<v1::JwtAsk>,
}

impl Minter {
    pub fn new(ttl: Duration) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &random);
        Self {
            pair: pair.unwrap(),
            spki: key.subject_public_key_info(),
            ttl,
            wrong_id: None,
            wrong_kid: false,
            silent: false,
            refuse: None,
            asked: Vec::new(),
        }
    }

    pub fn public(&self) -> v1::JwtKey {
        v1::JwtKey {
            kid: KID.to_owned(),
            spki: self.spki.clone(),
        }
    }

    /// The answers to these asks, as far as there are any.
    pub fn answer(&mut self, asks: &[v1::JwtAsk], entries: &[v1::Entry]) -> Vec<v1::JwtResult> {
        self.asked.extend(asks.iter().cloned());
        if self.silent {
            return Vec::new();
        }
        asks.iter().map(|ask| self.one(ask, entries)).collect()
    }

    fn one(&self, ask: &v1::JwtAsk, entries: &[v1::Entry]) -> v1::JwtResult {
        let entry = entries.iter().find(|entry| entry.name == ask.entry).unwrap();
        let id: SpiffeId = self.wrong_id.as_ref().unwrap_or(&entry.spiffe_id).parse().unwrap();
        let issued = wall().floor_to_second();
        let jti = hex::encode(&ask.request_id);
        let claims = JwtClaims {
            id: &id,
            audiences: &ask.audiences,
            issued,
            expires: issued.plus(self.ttl),
            jti: &jti,
        };
        let input = claims.signing_input(JwtAlgorithm::Es256, if self.wrong_kid { "other" } else { KID });
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        let token = compact(&input, signature.as_ref());
        v1::JwtResult {
            request_id: ask.request_id.clone(),
            token: if self.refuse.is_some() { String::new() } else { token },
            expires_s: claims.expires.seconds(),
            receipt: None,
            refusal: self.refuse.clone(),
        }
    }
}
