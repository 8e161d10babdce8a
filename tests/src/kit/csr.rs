//! Signing requests as no honest tool writes them, octet by octet and with a real signature: what refuses one is then the
//! flaw under test and nothing else.

use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};

/// ecdsa-with-SHA256.
pub const ECDSA_SHA256: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// id-ecPublicKey, without its parameters.
pub const EC_KEY: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// The curve P-256.
pub const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// The attribute that asks for extensions (RFC 2985, section 5.4.2).
pub const EXTENSION_REQUEST: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
/// An empty name.
pub const NO_NAME: [u8; 2] = [0x30, 0];

/// An element of DER, of up to 64 KB.
pub fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let value = parts.concat();
    let mut out = vec![tag];
    match value.len() {
        n @ 0..=0x7f => out.push(n as u8),
        n @ 0x80..=0xff => out.extend([0x81, n as u8]),
        n => out.extend([0x82, (n >> 8) as u8, n as u8]),
    }
    [out, value].concat()
}

/// A SubjectPublicKeyInfo.
pub fn spki(algorithm: &[&[u8]], key: &[u8]) -> Vec<u8> {
    tlv(0x30, &[&tlv(0x30, algorithm), &tlv(3, &[&[0], key])])
}

/// A key of one's own that signs whatever is put into a request.
#[derive(Debug)]
pub struct Requester {
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
}

impl Default for Requester {
    fn default() -> Self {
        Self::new()
    }
}

impl Requester {
    /// With a new P-256 key.
    pub fn new() -> Self {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
        Self::of(document.as_ref())
    }

    /// With this P-256 key.
    pub fn of(pkcs8: &[u8]) -> Self {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &SystemRandom::new()).unwrap();
        let spki = spki(&[&EC_KEY, &P256], pair.public_key().as_ref());
        Self { pair, spki }
    }

    /// Its SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Its public point, uncompressed.
    pub fn point(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    /// A request of this information, signed, whatever algorithm it claims.
    pub fn signed(&self, info: &[u8], algorithm: &[u8]) -> Vec<u8> {
        let signature = self.pair.sign(&SystemRandom::new(), info).unwrap();
        tlv(0x30, &[info, algorithm, &tlv(3, &[&[0], signature.as_ref()])])
    }

    /// A request of these parts.
    pub fn request(&self, version: u8, subject: &[u8], spki: &[u8], attributes: &[u8]) -> Vec<u8> {
        let info = tlv(0x30, &[&[2, 1, version], subject, spki, &tlv(0xa0, &[attributes])]);
        self.signed(&info, &ECDSA_SHA256)
    }

    /// A request that asks for nothing but a certificate.
    pub fn plain(&self) -> Vec<u8> {
        self.request(0, &NO_NAME, &self.spki, &[])
    }

    /// A request for another public key.
    pub fn with_key(&self, spki: &[u8]) -> Vec<u8> {
        self.request(0, &NO_NAME, spki, &[])
    }

    /// A request for a subject of `count` organizational units with `octets` octets each.
    pub fn with_subject(&self, count: usize, octets: usize) -> Vec<u8> {
        let text = tlv(0x0c, &[&vec![b'x'; octets]]);
        let unit = tlv(0x31, &[&tlv(0x30, &[&[6, 3, 0x55, 4, 0x0b], &text])]);
        self.request(0, &tlv(0x30, &[&unit.repeat(count)]), &self.spki, &[])
    }

    /// A request for these extensions.
    pub fn with_extensions(&self, extensions: &[Vec<u8>]) -> Vec<u8> {
        let list = tlv(0x30, &[&extensions.concat()]);
        let attribute = tlv(0x30, &[&EXTENSION_REQUEST, &tlv(0x31, &[&list])]);
        self.request(0, &NO_NAME, &self.spki, &attribute)
    }
}

/// A critical extension (RFC 5280, section 4.1).
pub fn extension(id: &[u8], value: &[u8]) -> Vec<u8> {
    tlv(0x30, &[&tlv(6, &[id]), &[1, 1, 0xff], &tlv(4, &[value])])
}

/// The extension subjectAltName with these GeneralNames.
pub fn alternative_names(names: &[Vec<u8>]) -> Vec<u8> {
    extension(&[0x55, 0x1d, 0x11], &tlv(0x30, &[&names.concat()]))
}

/// A URI among GeneralNames, whatever its octets.
pub fn uri(octets: &[u8]) -> Vec<u8> {
    tlv(0x86, &[octets])
}
