//! JSON Web Keys (RFC 7517, RFC 7518 section 6) as SPIFFE bundles use them, both ways.

use std::fmt;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Map, Value, json};

use crate::{
    CertInfo, JwtKey, KeyKind, PublicKey, SvidError, TrustBundle,
    der::{Reader, TAG_BIT_STRING, TAG_INTEGER, TAG_SEQUENCE},
    limits::{CERTIFICATE_BYTES_MAX, DOCUMENT_BYTES_MAX, JWKS_ELEMENTS_MAX},
};

const USE_X509: &str = "x509-svid";
const USE_JWT: &str = "jwt-svid";

/// What a bundle document says, before the rules of a bundle are checked.
pub(crate) struct Document {
    pub(crate) roots: Vec<Vec<u8>>,
    pub(crate) jwt_keys: Vec<JwtKey>,
    pub(crate) sequence: u64,
    pub(crate) refresh_hint_seconds: Option<u32>,
}

#[derive(Deserialize)]
struct RawDocument {
    keys: Vec<UniqueObject>,
    #[serde(default)]
    spiffe_sequence: Option<u64>,
    #[serde(default)]
    spiffe_refresh_hint: Option<u32>,
}

/// A JSON object in which no name occurs twice: readers differ in which of two values they take.
pub(crate) struct UniqueObject(pub(crate) Map<String, Value>);

impl<'de> Deserialize<'de> for UniqueObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = UniqueObject;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<UniqueObject, A::Error> {
                let mut map = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if map.contains_key(&name) {
                        return Err(A::Error::custom(format!("the member {name:?} occurs twice")));
                    }
                    map.insert(name, value);
                }
                Ok(UniqueObject(map))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl UniqueObject {
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }
}

pub(crate) fn read(text: &str) -> Result<Document, SvidError> {
    SvidError::check_size("JWK Set", text.len(), DOCUMENT_BYTES_MAX, "bytes")?;
    let raw: RawDocument = serde_json::from_str(text).map_err(|error| SvidError::Bundle(error.to_string()))?;
    SvidError::check_size("JWK Set", raw.keys.len(), JWKS_ELEMENTS_MAX, "keys")?;
    let mut document = Document {
        roots: Vec::new(),
        jwt_keys: Vec::new(),
        sequence: raw.spiffe_sequence.unwrap_or(0),
        refresh_hint_seconds: raw.spiffe_refresh_hint,
    };
    for element in &raw.keys {
        match element.text("use") {
            Some(USE_X509) if known_type(element) => document.roots.extend(root_of(element)?),
            Some(USE_JWT) if known_type(element) => document.jwt_keys.extend(jwt_key_of(element)?),
            _ => {}
        }
    }
    Ok(document)
}

fn known_type(element: &UniqueObject) -> bool {
    matches!(element.text("kty"), Some("EC" | "RSA" | "OKP"))
}

/// The first certificate of `x5c`, or none when the member is missing or its key is of a kind not used here.
fn root_of(element: &UniqueObject) -> Result<Option<Vec<u8>>, SvidError> {
    let Some(first) = element.0.get("x5c").and_then(|x5c| x5c.get(0)) else {
        return Ok(None);
    };
    let refuse = |why: &str| SvidError::Bundle(format!("the x5c of an x509-svid key {why}"));
    let text = first.as_str().ok_or_else(|| refuse("is no text"))?;
    SvidError::check_size("x5c", text.len(), CERTIFICATE_BYTES_MAX / 3 * 4 + 4, "bytes")?;
    let der = STANDARD.decode(text).map_err(|_| refuse("is not canonical base64"))?;
    let info = CertInfo::parse(&der)?;
    Ok(PublicKey::from_spki(info.spki_der()).is_ok().then_some(der))
}

/// A JWT key, or none when it is of a curve or size not used here.
fn jwt_key_of(element: &UniqueObject) -> Result<Option<JwtKey>, SvidError> {
    let kid = element
        .text("kid")
        .ok_or(SvidError::Bundle("a jwt-svid key has no kid".to_owned()))?;
    let number = |name: &str| -> Result<Vec<u8>, SvidError> {
        let text = element
            .text(name)
            .ok_or_else(|| SvidError::Bundle(format!("the key {kid:?} has no {name}")))?;
        URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| SvidError::Bundle(format!("{name} of the key {kid:?} is not base64url")))
    };
    let spki = match (element.text("kty"), element.text("crv")) {
        (Some("EC"), Some("P-256")) => ec_spki(KeyKind::P256, &number("x")?, &number("y")?),
        (Some("EC"), Some("P-384")) => ec_spki(KeyKind::P384, &number("x")?, &number("y")?),
        (Some("RSA"), _) => Some(rsa_spki_of(&number("n")?, &number("e")?)),
        _ => None,
    };
    match spki {
        Some(spki) if PublicKey::from_spki(&spki).is_ok() => JwtKey::new(kid, spki).map(Some),
        _ => Ok(None),
    }
}

/// RFC 7518, section 6.2.1.2: coordinates have the full size of the field.
fn ec_spki(kind: KeyKind, x: &[u8], y: &[u8]) -> Option<Vec<u8>> {
    let (prefix, size) = crate::key::ec_prefix(kind)?;
    (x.len() == size && y.len() == size).then(|| [prefix, &[0x04], x, y].concat())
}

fn rsa_spki_of(n: &[u8], e: &[u8]) -> Vec<u8> {
    rsa_spki(&tlv(TAG_SEQUENCE, &[unsigned(n), unsigned(e)].concat()))
}

/// The SubjectPublicKeyInfo of an RSA key, from its DER RSAPublicKey (RFC 3279, section 2.3.1).
pub fn rsa_spki(key: &[u8]) -> Vec<u8> {
    let bits = tlv(TAG_BIT_STRING, &[&[0], key].concat());
    tlv(TAG_SEQUENCE, &[crate::key::RSA_ALGORITHM, &bits].concat())
}

/// A DER INTEGER from a big-endian magnitude.
fn unsigned(magnitude: &[u8]) -> Vec<u8> {
    let first = magnitude
        .iter()
        .position(|&octet| octet != 0)
        .unwrap_or(magnitude.len());
    let significant = &magnitude[first..];
    let pad: &[u8] = if significant.first().is_none_or(|octet| octet & 0x80 != 0) {
        &[0]
    } else {
        &[]
    };
    tlv(TAG_INTEGER, &[pad, significant].concat())
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len().to_be_bytes();
    let mut out = vec![tag];
    if value.len() < 0x80 {
        out.push(value.len() as u8);
    } else {
        let first = length.iter().position(|&octet| octet != 0).unwrap_or(length.len() - 1);
        out.push(0x80 | (length.len() - first) as u8);
        out.extend_from_slice(&length[first..]);
    }
    out.extend_from_slice(value);
    out
}

pub(crate) fn write(bundle: &TrustBundle) -> String {
    let roots = bundle.roots().iter().filter_map(|root| {
        let mut key = key_members(CertInfo::parse(root).ok()?.spki_der())?;
        key.insert("use".to_owned(), json!(USE_X509));
        key.insert("x5c".to_owned(), json!([STANDARD.encode(root)]));
        Some(Value::Object(key))
    });
    write_keys(bundle, roots.chain(jwt_keys(bundle)).collect())
}

/// The `jwt-svid` keys alone.
pub(crate) fn write_jwt(bundle: &TrustBundle) -> String {
    write_keys(bundle, jwt_keys(bundle).collect())
}

fn jwt_keys(bundle: &TrustBundle) -> impl Iterator<Item = Value> {
    bundle.jwt_keys().iter().filter_map(|jwt| {
        let mut key = key_members(jwt.spki_der())?;
        key.insert("use".to_owned(), json!(USE_JWT));
        key.insert("kid".to_owned(), json!(jwt.kid()));
        Some(Value::Object(key))
    })
}

fn write_keys(bundle: &TrustBundle, keys: Vec<Value>) -> String {
    let mut document = json!({
        "keys": keys,
        "spiffe_sequence": bundle.sequence(),
    });
    if let Some(seconds) = bundle.refresh_hint_seconds() {
        document["spiffe_refresh_hint"] = json!(seconds);
    }
    document.to_string()
}

/// The members that describe the key itself. A bundle holds only keys for which this is `Some`.
fn key_members(spki_der: &[u8]) -> Option<Map<String, Value>> {
    let key = PublicKey::from_spki(spki_der).ok()?;
    let members = match key.kind() {
        KeyKind::P256 | KeyKind::P384 => {
            let (x, y) = key.bare()[1..].split_at(key.bare().len() / 2);
            let curve = if key.kind() == KeyKind::P256 { "P-256" } else { "P-384" };
            json!({ "kty": "EC", "crv": curve, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
        }
        KeyKind::Ed25519 => json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(key.bare()) }),
        KeyKind::Rsa { .. } => {
            let mut numbers = Reader::new(Reader::new(key.bare()).expect(TAG_SEQUENCE).ok()?.value);
            let n = numbers.expect(TAG_INTEGER).ok()?.value;
            let e = numbers.expect(TAG_INTEGER).ok()?.value;
            let n = n.strip_prefix(&[0]).unwrap_or(n);
            json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(n), "e": URL_SAFE_NO_PAD.encode(e) })
        }
    };
    match members {
        Value::Object(map) => Some(map),
        _ => None,
    }
}
