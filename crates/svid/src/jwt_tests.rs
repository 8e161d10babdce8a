//! JWT-SVIDs: each rule of the standard broken once, and signatures of every kind of key.

use std::time::Instant;

use proptest::prelude::*;
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    },
};
use serde_json::json;

use super::*;
use crate::samples::RSA_SAMPLE_N;

const RS256: &str = "\
    eyJhbGciOiJSUzI1NiIsImtpZCI6InIxIn0.eyJzdWIiOiJzcGlmZmU6Ly9leGFtcGxlLm9yZy93ZWIiLCJhdWQiOlsiYSJdLCJl\
    eHAiOjIwMDAwMDAwMDB9.IIWAUDHQcouC-jvDjsbjkG55S09luoR3vFZzh6a4jRb4kqSJJbmN5YGNd-_7XvIwe9AyCAFmpieQtyp\
    jTxPxago6HsW0zGfzvCfeQk_3zAa7CHsw_6Dvwi707t03bQDCRWvvdJtYuNgNBAIZwXroHKm5UhVa3WeY39DPZBZrGJeE-YJqQp7\
    6ReAGjnZ53LjOUrwkSr5c1bB3S4Zwap0iLBLaTlRGR12SlmVafXBkmCVT1qv-jOtq4JLtGgyElTvjPRcgPra-gUjho85GOKT_MA0\
    H85JdkcM1Xs-iVXJ9-8jrXDox5QQ6r9PolDpYRASP8MhJE0RabZ26wA5ry8ezDw";
const PS256: &str = "\
    eyJhbGciOiJQUzI1NiIsImtpZCI6InIxIn0.eyJzdWIiOiJzcGlmZmU6Ly9leGFtcGxlLm9yZy93ZWIiLCJhdWQiOlsiYSJdLCJl\
    eHAiOjIwMDAwMDAwMDB9.frZ7y5UkQwkOQZwyvkNEoQOBOoldVlXVRj5Oa5hTS8eX813OCGHJHCCjvmgyaab9_GiKxXp_2xSLCNE\
    wxyTqRGsJdkXzsTwVqAggwIB2SNjnkapfIWcCEfvKnu9_ARNpdrtHfdckp5V_g63ALmAvNWBeZ3wi2caVYfywsHXcuN8idGN-s_g\
    AcN5rz1736tG-GOI1IMJS3ux6I8l6GX63hZPu-S2oqjh3rz1Kzo8lzDU9SKl9mmPhc4ZsxEhW7_htnuWPYr37h4ESSwDcZRgi5K8\
    EVEJDABIe8pPfBq5BbAA8-2hSVlOEubebHoWfIS44-wMiJqYlyCicFoyLcmtSEw";

const NOW: UnixTime = UnixTime::from_seconds(1_900_000_000);

fn claims() -> Value {
    json!({"sub": "spiffe://example.org/web", "aud": ["a", "b"], "exp": 1_900_000_300, "iat": 1_900_000_000})
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.AAAA", part(header), part(claims))
}

fn changed(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn parse(header: Value, claims: &Value) -> Result<JwtSvid, SvidError> {
    JwtSvid::parse(&unsigned(&header, claims))
}

fn good(claims: &Value) -> Result<JwtSvid, SvidError> {
    parse(json!({"alg": "ES256", "kid": "k", "typ": "JWT"}), claims)
}

#[test]
fn j1_only_the_nine_algorithms_are_accepted() {
    for name in [
        "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512",
    ] {
        assert!(parse(json!({"alg": name}), &claims()).is_ok(), "{name}");
    }
    for name in ["none", "None", "HS256", "HS512", "EdDSA", "es256", "", "ES256K"] {
        assert!(parse(json!({"alg": name}), &claims()).is_err(), "{name}");
    }
    assert!(parse(json!({}), &claims()).is_err());
    assert!(parse(json!({"alg": ["ES256"]}), &claims()).is_err());
}

#[test]
fn j2_only_alg_kid_and_typ_may_stand_in_the_header() {
    for (name, value) in [
        ("jku", json!("https://evil.example/")),
        ("x5u", json!("https://evil.example/")),
        ("jwk", json!({})),
        ("x5c", json!([])),
        ("crit", json!([])),
        ("cty", json!("JWT")),
        ("b64", json!(false)),
    ] {
        let mut header = json!({"alg": "ES256"});
        header[name] = value;
        assert!(parse(header, &claims()).is_err(), "{name}");
    }
    assert!(parse(json!({"alg": "ES256", "typ": "JOSE"}), &claims()).is_ok());
    for bad in [json!("at+jwt"), json!("jwt"), json!(1)] {
        assert!(parse(json!({"alg": "ES256", "typ": bad}), &claims()).is_err());
    }
    for bad in [json!(""), json!(1), json!("k".repeat(257))] {
        assert!(parse(json!({"alg": "ES256", "kid": bad}), &claims()).is_err());
    }
}

#[test]
fn j3_subject_audience_and_expiry_are_needed() {
    for name in ["sub", "aud", "exp"] {
        assert!(good(&without(name)).is_err(), "{name}");
    }
    for bad in [
        json!("web"),
        json!("spiffe://Example.org/a"),
        json!(1),
        json!(["spiffe://example.org/a"]),
    ] {
        assert!(good(&changed("sub", bad)).is_err());
    }
    for bad in [
        json!([]),
        json!([""]),
        json!(["a", 1]),
        json!({}),
        json!(""),
        json!(vec!["a"; 65]),
    ] {
        assert!(good(&changed("aud", bad.clone())).is_err(), "{bad}");
    }
    for bad in [
        json!("1"),
        json!(-1),
        json!(1e300),
        json!(253_402_300_800_i64),
        json!(i64::MAX),
        json!(null),
    ] {
        for name in ["exp", "nbf", "iat"] {
            assert!(good(&changed(name, bad.clone())).is_err(), "{name} {bad}");
        }
    }
    let one = good(&changed("aud", json!("a"))).unwrap();
    assert_eq!(one.audiences(), ["a"]);
    assert_eq!(
        good(&changed("exp", json!(1_900_000_300.9))).unwrap().expires(),
        UnixTime::from_seconds(1_900_000_300)
    );
}

#[test]
fn j3_time_and_audience_are_validated_with_leeway() {
    let token = good(&claims()).unwrap();
    assert_eq!(token.id().as_str(), "spiffe://example.org/web");
    assert_eq!(token.header().kid.as_deref(), Some("k"));
    token.validate("b", NOW, 0).unwrap();
    assert!(token.validate("c", NOW, 0).is_err());
    assert!(token.validate("", NOW, 0).is_err());
    let at = UnixTime::from_seconds;
    assert!(token.validate("a", at(1_900_000_300), 0).is_err());
    assert!(token.validate("a", at(1_900_000_300), 5).is_ok());
    assert!(token.validate("a", at(1_900_000_305), 5).is_err());
    assert!(
        token.validate("a", at(1_899_999_990), 5).is_err(),
        "issued in the future"
    );
    let early = good(&changed("nbf", json!(1_900_000_100))).unwrap();
    assert!(early.validate("a", NOW, 60).is_err());
    assert!(early.validate("a", NOW, 100).is_ok());
}

#[test]
fn other_forms_and_repeated_members_are_refused() {
    let whole = unsigned(&json!({"alg": "ES256"}), &claims());
    assert!(JwtSvid::parse(&whole).is_ok());
    for bad in [
        String::new(),
        "..".into(),
        "a.b".into(),
        format!("{whole}.x"),
        format!("{whole}="),
        format!(" {whole}"),
    ] {
        assert!(JwtSvid::parse(&bad).is_err(), "{bad:?}");
    }
    assert!(JwtSvid::parse(&whole.replacen('.', "=.", 1)).is_err());
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
    let twice = URL_SAFE_NO_PAD
        .encode(r#"{"sub":"spiffe://example.org/a","sub":"spiffe://example.org/b","aud":"a","exp":1900000300}"#);
    assert!(JwtSvid::parse(&format!("{header}.{twice}.AAAA")).is_err());
    let header_twice = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","alg":"ES256"}"#);
    let payload = URL_SAFE_NO_PAD.encode(claims().to_string());
    assert!(JwtSvid::parse(&format!("{header_twice}.{payload}.AAAA")).is_err());
}

#[test]
fn size_and_nesting_are_bounded_before_work() {
    let start = Instant::now();
    let large = unsigned(&json!({"alg": "ES256"}), &changed("x", json!("a".repeat(1_000_000))));
    assert!(matches!(JwtSvid::parse(&large), Err(SvidError::TooLarge { .. })));
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
    assert!(JwtSvid::parse(&format!("{header}.{}.AAAA", URL_SAFE_NO_PAD.encode(deep))).is_err());
    assert!(start.elapsed().as_millis() < 200);
}

fn signed(algorithm: &'static EcdsaSigningAlgorithm, name: &str, kid: &str) -> (String, JwtKey) {
    signed_with(algorithm, json!({"alg": name, "kid": kid}))
}

fn signed_with(algorithm: &'static EcdsaSigningAlgorithm, header: Value) -> (String, JwtKey) {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
    let rcgen = rcgen::KeyPair::try_from(pkcs8.as_ref()).unwrap();
    let whole = unsigned(&header, &claims());
    let input = whole.strip_suffix(".AAAA").unwrap();
    let signature = pair.sign(&random, input.as_bytes()).unwrap();
    let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature));
    (
        token,
        JwtKey::new("k", rcgen::PublicKeyData::subject_public_key_info(&rcgen)).unwrap(),
    )
}

#[test]
fn the_bundle_of_the_subjects_own_trust_domain_says_whose_signature_counts() {
    let (named, key) = signed(&ECDSA_P256_SHA256_FIXED_SIGNING, "ES256", "k");
    let other = signed(&ECDSA_P384_SHA384_FIXED_SIGNING, "ES384", "k").1;
    let other = JwtKey::new("other", other.spki_der()).unwrap();
    let svid = JwtSvid::parse(&named).unwrap();
    let bundle =
        |domain: &str, keys: Vec<JwtKey>| TrustBundle::new(domain.parse().unwrap(), Vec::new(), keys, 1, None).unwrap();
    let own = svid.id().trust_domain().to_string();
    svid.verify_with(&bundle(&own, vec![other.clone(), key.clone()]))
        .unwrap();
    let refused = |bundle: &TrustBundle| svid.verify_with(bundle).unwrap_err().to_string();
    assert!(refused(&bundle(&own, vec![other.clone()])).contains("no key"));
    assert!(refused(&bundle(&own, Vec::new())).contains("no key"));
    assert!(refused(&bundle("elsewhere.test", vec![key.clone()])).contains("no other bundle"));
    // Without a kid every key that fits is tried.
    let (nameless, key) = signed_with(&ECDSA_P256_SHA256_FIXED_SIGNING, json!({"alg": "ES256"}));
    let svid = JwtSvid::parse(&nameless).unwrap();
    svid.verify_with(&bundle(&own, vec![other.clone(), key])).unwrap();
    assert!(svid.verify_with(&bundle(&own, vec![other])).is_err());
}

#[test]
fn signatures_verify_with_the_right_key_and_algorithm_alone() {
    let (p256, p256_key) = signed(&ECDSA_P256_SHA256_FIXED_SIGNING, "ES256", "k");
    let (p384, p384_key) = signed(&ECDSA_P384_SHA384_FIXED_SIGNING, "ES384", "k");
    JwtSvid::parse(&p256).unwrap().verify(&p256_key).unwrap();
    JwtSvid::parse(&p384).unwrap().verify(&p384_key).unwrap();
    assert!(JwtSvid::parse(&p256).unwrap().verify(&p384_key).is_err());
    let (other, other_key) = signed(&ECDSA_P256_SHA256_FIXED_SIGNING, "ES256", "k");
    assert!(JwtSvid::parse(&p256).unwrap().verify(&other_key).is_err());
    let (named, named_key) = signed(&ECDSA_P256_SHA256_FIXED_SIGNING, "ES256", "another");
    assert!(
        JwtSvid::parse(&named).unwrap().verify(&named_key).is_err(),
        "the kid names another key"
    );
    let (head, tail) = (p256.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1);
    assert!(
        JwtSvid::parse(&format!("{head}.{tail}"))
            .unwrap()
            .verify(&p256_key)
            .is_err()
    );
}

#[test]
fn rsa_signatures_of_openssl_verify() {
    let document = json!({"keys": [{"use": "jwt-svid", "kty": "RSA", "kid": "r1", "n": RSA_SAMPLE_N, "e": "AQAB"}]});
    let domain = mintage_identity::TrustDomain::parse("example.org").unwrap();
    let bundle = crate::TrustBundle::from_jwks_json(domain, &document.to_string()).unwrap();
    for token in [RS256, PS256] {
        JwtSvid::parse(token).unwrap().verify(&bundle.jwt_keys()[0]).unwrap();
        // The same signature under the name of the other padding.
        let (header, rest) = token.split_once('.').unwrap();
        let header = String::from_utf8(URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
        let other = if header.contains("RS256") {
            header.replace("RS", "PS")
        } else {
            header.replace("PS", "RS")
        };
        let confused = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(other));
        assert!(
            JwtSvid::parse(&confused)
                .unwrap()
                .verify(&bundle.jwt_keys()[0])
                .is_err()
        );
    }
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "[A-Za-z0-9_.=-]{0,120}", json in "\\PC{0,60}") {
        let _ = JwtSvid::parse(&text);
        let part = URL_SAFE_NO_PAD.encode(&json);
        let _ = JwtSvid::parse(&format!("{part}.{part}.AAAA"));
    }
}
