//! A JWT-SVID as it is written: what is signed, in the one form that is made here. The signature is the mint's.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mintage_identity::{SpiffeId, UnixTime};
use serde_json::json;

use crate::{JwtAlgorithm, limits::JWT_RULE_SHIFT};

/// What a JWT-SVID says (JWT-SVID standard, section 3): identity, audiences, dates and a name of its own.
#[derive(Debug, Clone, Copy)]
pub struct JwtClaims<'a> {
    /// `sub`.
    pub id: &'a SpiffeId,
    /// `aud`, always written as a list.
    pub audiences: &'a [String],
    /// `iat`, in whole seconds.
    pub issued: UnixTime,
    /// `exp`, in whole seconds.
    pub expires: UnixTime,
    /// `jti`.
    pub jti: &'a str,
}

impl JwtClaims<'_> {
    /// Header and payload of a JWS in compact form, without the signature: the octets to be signed.
    pub fn signing_input(&self, algorithm: JwtAlgorithm, kid: &str) -> String {
        let header = json!({ "alg": algorithm.name(), "kid": kid, "typ": "JWT" });
        let payload = json!({
            "sub": self.id.as_str(),
            "aud": self.audiences,
            "iat": self.issued.seconds(),
            "exp": self.expires.seconds(),
            "jti": self.jti,
        });
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}", part(header), part(payload))
    }
}

/// A JWS in compact form.
pub fn compact(signing_input: &str, signature: &[u8]) -> String {
    format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// What a rule of revocation compares its cut with, for a token issued at `issued`: the cut of a rule that is made after it
/// lies at least there.
pub fn jwt_rule_date(issued: UnixTime) -> UnixTime {
    issued.minus(JWT_RULE_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::JwtSvid;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let id = SpiffeId::parse("spiffe://dev.test/a").unwrap();
        let audiences = vec!["https://b\"c".to_owned(), "d".to_owned()];
        let claims = JwtClaims {
            id: &id,
            audiences: &audiences,
            issued: UnixTime::from_seconds(1_800_000_000),
            expires: UnixTime::from_seconds(1_800_000_300),
            jti: "0123",
        };
        let token = compact(&claims.signing_input(JwtAlgorithm::Es256, "k"), &[0xff; 64]);
        let read = JwtSvid::parse(&token).unwrap();
        assert_eq!((read.id(), read.audiences()), (&id, audiences.as_slice()));
        assert_eq!(
            (read.expires(), read.issued_at()),
            (claims.expires, Some(claims.issued))
        );
        assert_eq!(
            (read.header().kid.as_deref(), read.header().algorithm),
            (Some("k"), JwtAlgorithm::Es256)
        );
        assert_eq!(read.claims()["jti"], "0123");
    }
}
