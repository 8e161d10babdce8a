//! JWT-SVIDs (JWT-SVID standard): parsing and validation. Signing them is the mint's.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mintage_identity::{SpiffeId, UnixTime};
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::{Map, Value};

use crate::{
    JwtKey, KeyKind, PublicKey, SvidError, TrustBundle,
    jwk::UniqueObject,
    limits::{JWT_AUDIENCES_MAX, JWT_BYTES_MAX, KEY_ID_BYTES_MAX},
};

/// The last second of the year 9999: a NumericDate beyond it is a mistake or an attack on arithmetic.
const SECONDS_MAX: f64 = 253_402_300_799.0;

/// The nine algorithms of JWT-SVID, section 2.1. `none`, HMAC and EdDSA are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are those of RFC 7518, section 3.1")]
pub enum JwtAlgorithm {
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
    Es512,
    Ps256,
    Ps384,
    Ps512,
}

impl JwtAlgorithm {
    /// The name of RFC 7518, section 3.1.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            _ => return None,
        })
    }
}

/// A JOSE header with only the members that a JWT-SVID may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtHeader {
    /// The signature algorithm.
    pub algorithm: JwtAlgorithm,
    /// Which key of the bundle signed it.
    pub kid: Option<String>,
}

/// A JWT-SVID that is well formed. Nothing of it may be believed before [`JwtSvid::verify`] and [`JwtSvid::validate`].
#[derive(Debug, Clone, PartialEq)]
pub struct JwtSvid {
    header: JwtHeader,
    subject: SpiffeId,
    audiences: Vec<String>,
    expires: UnixTime,
    not_before: Option<UnixTime>,
    issued_at: Option<UnixTime>,
    claims: Map<String, Value>,
    signing_input: String,
    signature: Vec<u8>,
}

impl JwtSvid {
    /// Parses a JWS in compact form of at most 16 KB. The algorithm is looked at before anything else.
    ///
    /// # Errors
    /// Refuses other forms, algorithms outside the nine, header members other than `alg`, `kid` and `typ`, and a
    /// missing or malformed `sub`, `aud` or `exp`.
    pub fn parse(token: &str) -> Result<Self, SvidError> {
        SvidError::check_size("JWT-SVID", token.len(), JWT_BYTES_MAX, "bytes")?;
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(refuse("it is not a JWS in compact form (three parts)"));
        };
        let header = parse_header(&object(header, "header")?)?;
        let claims = object(payload, "payload")?;
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| refuse("the signature is not canonical base64url"))?;
        let subject = claims.text("sub").ok_or_else(|| refuse("it has no sub claim"))?;
        Ok(Self {
            header,
            subject: SpiffeId::parse(subject).map_err(|error| refuse(format!("its sub is no SPIFFE ID: {error}")))?,
            audiences: audiences(claims.0.get("aud"))?,
            expires: date(&claims, "exp")?.ok_or_else(|| refuse("it has no exp claim"))?,
            not_before: date(&claims, "nbf")?,
            issued_at: date(&claims, "iat")?,
            claims: claims.0,
            signing_input: token[..token.rfind('.').unwrap_or(0)].to_owned(),
            signature,
        })
    }

    /// Checks the signature with a key of the subject's trust domain.
    ///
    /// # Errors
    /// Refuses a key that does not fit the algorithm, ES512 (no P-521 here), and a signature that does not verify.
    pub fn verify(&self, key: &JwtKey) -> Result<(), SvidError> {
        if self.header.kid.as_deref().is_some_and(|kid| kid != key.kid()) {
            return Err(refuse("it names another key"));
        }
        let public = PublicKey::from_spki(key.spki_der())?;
        use JwtAlgorithm as Jwt;
        let verifier: &'static dyn VerificationAlgorithm = match (public.kind(), self.header.algorithm) {
            (KeyKind::P256, Jwt::Es256) => &signature::ECDSA_P256_SHA256_FIXED,
            (KeyKind::P384, Jwt::Es384) => &signature::ECDSA_P384_SHA384_FIXED,
            (KeyKind::Rsa { .. }, Jwt::Rs256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (KeyKind::Rsa { .. }, Jwt::Rs384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (KeyKind::Rsa { .. }, Jwt::Rs512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (KeyKind::Rsa { .. }, Jwt::Ps256) => &signature::RSA_PSS_2048_8192_SHA256,
            (KeyKind::Rsa { .. }, Jwt::Ps384) => &signature::RSA_PSS_2048_8192_SHA384,
            (KeyKind::Rsa { .. }, Jwt::Ps512) => &signature::RSA_PSS_2048_8192_SHA512,
            _ => return Err(refuse("the key does not fit the algorithm")),
        };
        UnparsedPublicKey::new(verifier, public.bare())
            .verify(self.signing_input.as_bytes(), &self.signature)
            .map_err(|_| refuse("the signature does not verify"))
    }

    /// Checks the signature with the keys of the subject's trust domain: the one that the token names, or, where it names
    /// none, any that fits.
    ///
    /// # Errors
    /// Refuses a token of another trust domain, one that names no key of the bundle, and one that no key verifies.
    pub fn verify_with(&self, bundle: &TrustBundle) -> Result<(), SvidError> {
        if !self.subject.is_member_of(bundle.trust_domain()) {
            return Err(refuse(format!(
                "its trust domain is not {}, and no other bundle is here",
                bundle.trust_domain()
            )));
        }
        match &self.header.kid {
            Some(kid) => {
                let key = bundle.jwt_key(kid);
                self.verify(key.ok_or_else(|| refuse(format!("the bundle has no key {kid:?}")))?)
            }
            None => match bundle.jwt_keys().iter().any(|key| self.verify(key).is_ok()) {
                true => Ok(()),
                false => Err(refuse("no key of the bundle verifies its signature")),
            },
        }
    }

    /// Checks what the claims say against a clock and the validator's own audience. `leeway_seconds` is the clock
    /// difference tolerated at both ends.
    ///
    /// # Errors
    /// Refuses an expired token, one not yet valid or issued in the future, and one for other audiences.
    pub fn validate(&self, audience: &str, now: UnixTime, leeway_seconds: u32) -> Result<(), SvidError> {
        let leeway = std::time::Duration::from_secs(u64::from(leeway_seconds));
        if now >= self.expires.plus(leeway) {
            return Err(refuse("it has expired"));
        }
        for (date, why) in [
            (self.not_before, "it is not valid yet"),
            (self.issued_at, "it was issued in the future"),
        ] {
            if date.is_some_and(|date| date > now.plus(leeway)) {
                return Err(refuse(why));
            }
        }
        if self.audiences.iter().any(|one| one == audience) {
            Ok(())
        } else {
            Err(refuse("it is for another audience"))
        }
    }

    /// The header.
    pub fn header(&self) -> &JwtHeader {
        &self.header
    }

    /// The `sub` claim.
    pub fn id(&self) -> &SpiffeId {
        &self.subject
    }

    /// The `aud` claim, at least one value.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The `exp` claim.
    pub fn expires(&self) -> UnixTime {
        self.expires
    }

    /// The `iat` claim.
    pub fn issued_at(&self) -> Option<UnixTime> {
        self.issued_at
    }

    /// Every claim, those above included.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }
}

fn object(part: &str, what: &str) -> Result<UniqueObject, SvidError> {
    let json = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| refuse(format!("the {what} is not canonical base64url")))?;
    serde_json::from_slice(&json).map_err(|error| refuse(format!("the {what} is no JSON object: {error}")))
}

fn parse_header(header: &UniqueObject) -> Result<JwtHeader, SvidError> {
    let algorithm = header
        .text("alg")
        .and_then(JwtAlgorithm::parse)
        .ok_or_else(|| refuse("its alg is not one of RS, ES and PS with 256, 384 or 512"))?;
    for (name, value) in &header.0 {
        match (name.as_str(), value) {
            ("alg", _) => {}
            ("kid", Value::String(kid)) if !kid.is_empty() && kid.len() <= KEY_ID_BYTES_MAX => {}
            ("typ", Value::String(kind)) if kind == "JWT" || kind == "JOSE" => {}
            ("kid" | "typ", _) => return Err(refuse(format!("its header has a bad {name}"))),
            _ => {
                return Err(refuse(format!(
                    "its header has the member {name:?}; only alg, kid and typ are allowed"
                )));
            }
        }
    }
    Ok(JwtHeader {
        algorithm,
        kid: header.text("kid").map(str::to_owned),
    })
}

fn audiences(claim: Option<&Value>) -> Result<Vec<String>, SvidError> {
    let values = match claim {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(many)) => many
            .iter()
            .map(|value| value.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| refuse("an audience is no text"))?,
        _ => return Err(refuse("it has no aud claim")),
    };
    SvidError::check_size("JWT-SVID", values.len(), JWT_AUDIENCES_MAX, "audiences")?;
    if values.is_empty() || values.iter().any(String::is_empty) {
        return Err(refuse("an audience is missing or empty"));
    }
    Ok(values)
}

/// A NumericDate (RFC 7519, section 2): seconds, perhaps with a fraction.
fn date(claims: &UniqueObject, name: &str) -> Result<Option<UnixTime>, SvidError> {
    let Some(value) = claims.0.get(name) else {
        return Ok(None);
    };
    match value.as_f64() {
        Some(seconds) if (0.0..=SECONDS_MAX).contains(&seconds) => Ok(Some(UnixTime::from_seconds(seconds as i64))),
        _ => Err(refuse(format!("its {name} is no date between 1970 and 9999"))),
    }
}

fn refuse(why: impl Into<String>) -> SvidError {
    SvidError::Jwt(why.into())
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
