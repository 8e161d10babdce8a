//! Key and trust stores for Java, as PKCS#12 files (RFC 7292): the key under PBES2 with AES-256 (RFC 8018), certificates in
//! clear, the whole under HMAC-SHA256. The same content under the same password is the same octets, so that a store changes
//! when what is in it does.

use std::fmt;

use pkcs8::{EncryptedPrivateKeyInfo, der::Encode, pkcs5::pbes2::Parameters};
use ring::{
    digest::{Context, SHA256},
    hmac,
};
use zeroize::Zeroizing;

use super::Material;
use crate::limits::{STORE_PASSWORD_BYTES_MAX, STORE_PASSWORD_BYTES_MIN};

// DER of object identifiers, each with what it names.
/// 1.2.840.113549.1.7.1, PKCS#7 data.
const DATA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
/// 1.2.840.113549.1.12.10.1.2, pkcs8ShroudedKeyBag.
const KEY_BAG: &[u8] = &[0x06, 11, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 10, 1, 2];
/// 1.2.840.113549.1.12.10.1.3, certBag.
const CERT_BAG: &[u8] = &[0x06, 11, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 10, 1, 3];
/// 1.2.840.113549.1.9.22.1, x509Certificate.
const X509: &[u8] = &[0x06, 10, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 22, 1];
/// 1.2.840.113549.1.9.20, friendlyName.
const FRIENDLY_NAME: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 20];
/// 1.2.840.113549.1.9.21, localKeyId.
const LOCAL_KEY_ID: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 21];
/// 2.16.840.1.113894.746875.1.1: what Java wants of a certificate before it trusts it.
const TRUSTED_KEY_USAGE: &[u8] = &[0x06, 12, 0x60, 0x86, 0x48, 1, 0x86, 0xf9, 0x66, 0xad, 0xca, 0x7b, 1, 1];
/// 2.5.29.37.0, anyExtendedKeyUsage.
const ANY_USAGE: &[u8] = &[0x06, 4, 0x55, 0x1d, 0x25, 0];
/// AlgorithmIdentifier of SHA-256, 2.16.840.1.101.3.4.2.1.
const SHA256_ALGORITHM: &[u8] = &[0x30, 13, 0x06, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 0x05, 0];

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const BMP_STRING: u8 = 0x1e;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const EXPLICIT: u8 = 0xa0;

/// Rounds of both derivations, as Java 17 writes them. The password lies on the same machine, for the same readers: it
/// guards copies of the store alone.
const ROUNDS: u16 = 10_000;
/// Octets of SHA-256's block, by which PKCS#12 derives keys.
const BLOCK: usize = 64;

/// What a store is opened with: printable ASCII, the one kind that Java takes.
#[derive(Clone, PartialEq, Eq)]
pub struct StorePassword(Zeroizing<String>);

impl StorePassword {
    /// The password in `text`.
    ///
    /// # Errors
    /// Refuses fewer than 6 or more than 128 characters, which `keytool` and we do not take, and others than printable ASCII.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bytes = text.len();
        if !(STORE_PASSWORD_BYTES_MIN..=STORE_PASSWORD_BYTES_MAX).contains(&bytes) {
            return Err(format!(
                "the password has {bytes} bytes; {STORE_PASSWORD_BYTES_MIN} to {STORE_PASSWORD_BYTES_MAX} are taken"
            ));
        }
        if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err("the password must be printable ASCII, which is what Java takes".to_owned());
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for StorePassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorePassword(...)")
    }
}

/// The store with the key and its chain, under the alias `svid`.
pub(super) fn key_store(of: &Material<'_>, password: &StorePassword) -> Result<Zeroizing<Vec<u8>>, String> {
    let leaf = of.chain.first().ok_or("there is no certificate")?;
    let id = attribute(LOCAL_KEY_ID, &tlv(OCTETS, &[&sha256(&[leaf])]));
    let named = [attribute(FRIENDLY_NAME, &bmp_string("svid")), id].concat();
    let mut bags = Zeroizing::new(bag(KEY_BAG, &shrouded(of.key, password)?, &named));
    for (at, certificate) in of.chain.iter().enumerate() {
        let attributes = if at == 0 { named.as_slice() } else { &[] };
        bags.extend_from_slice(&cert_bag(certificate, attributes));
    }
    Ok(Zeroizing::new(store(&bags, of.key, password)))
}

/// The store of the roots, each under an alias of its own.
pub(super) fn trust_store(of: &Material<'_>, password: &StorePassword) -> Vec<u8> {
    let trusted = attribute(TRUSTED_KEY_USAGE, ANY_USAGE);
    let mut bags = Vec::new();
    for (at, root) in of.roots.iter().enumerate() {
        let name = attribute(FRIENDLY_NAME, &bmp_string(&format!("root-{}", at + 1)));
        bags.extend(cert_bag(root, &[name, trusted.clone()].concat()));
    }
    store(&bags, &[], password)
}

/// The key, encrypted. Salt and initialisation vector are functions of key and password, so they repeat with the whole
/// plaintext alone, and say nothing without the key.
fn shrouded(key: &[u8], password: &StorePassword) -> Result<Vec<u8>, String> {
    let salt = derived(key, "mintage key store: salt", password.0.as_bytes());
    let vector = derived(key, "mintage key store: vector", password.0.as_bytes());
    let failed = |error: &dyn fmt::Display| format!("the key cannot be encrypted: {error}");
    let scheme = Parameters::pbkdf2_sha256_aes256cbc(u32::from(ROUNDS), &salt, &vector).map_err(|e| failed(&e))?;
    let encrypted_data = scheme
        .encrypt(password.0.as_bytes(), key)
        .map_err(|error| failed(&error))?;
    let file = EncryptedPrivateKeyInfo {
        encryption_algorithm: scheme.into(),
        encrypted_data: &encrypted_data,
    };
    file.to_der().map_err(|error| failed(&error))
}

fn cert_bag(certificate: &[u8], attributes: &[u8]) -> Vec<u8> {
    let content = tlv(EXPLICIT, &[&tlv(OCTETS, &[certificate])]);
    bag(CERT_BAG, &tlv(SEQUENCE, &[X509, &content]), attributes)
}

/// A SafeBag (RFC 7292, section 4.2).
fn bag(kind: &[u8], content: &[u8], attributes: &[u8]) -> Vec<u8> {
    let content = tlv(EXPLICIT, &[content]);
    match attributes {
        [] => tlv(SEQUENCE, &[kind, &content]),
        some => tlv(SEQUENCE, &[kind, &content, &tlv(SET, &[some])]),
    }
}

fn attribute(kind: &[u8], value: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, &[kind, &tlv(SET, &[value])])
}

fn bmp_string(ascii: &str) -> Vec<u8> {
    tlv(BMP_STRING, &[&two_octets_each(ascii)])
}

/// A whole file: bags, and their MAC under a salt that is a function of `secret` and bags.
fn store(bags: &[u8], secret: &[u8], password: &StorePassword) -> Vec<u8> {
    let data = |content: &[u8]| tlv(SEQUENCE, &[DATA, &tlv(EXPLICIT, &[&tlv(OCTETS, &[content])])]);
    let contents = tlv(SEQUENCE, &[&data(&tlv(SEQUENCE, &[bags]))]);
    let salt = derived(secret, "mintage store: salt", &contents);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &*mac_key(password, &salt));
    let digest = tlv(OCTETS, &[hmac::sign(&key, &contents).as_ref()]);
    let rounds = tlv(INTEGER, &[&ROUNDS.to_be_bytes()]);
    let mac = tlv(
        SEQUENCE,
        &[
            &tlv(SEQUENCE, &[SHA256_ALGORITHM, &digest]),
            &tlv(OCTETS, &[&salt]),
            &rounds,
        ],
    );
    tlv(SEQUENCE, &[&[INTEGER, 1, 3], &data(&contents), &mac])
}

/// The key of the MAC (RFC 7292, appendix B.2, with SHA-256 and ID 3): as long as one digest, so one round of blocks is all.
fn mac_key(password: &StorePassword, salt: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut text = Zeroizing::new(two_octets_each(&password.0));
    text.extend_from_slice(&[0, 0]);
    let blocks = |octets: &[u8]| -> Zeroizing<Vec<u8>> {
        let length = octets.len().next_multiple_of(BLOCK);
        Zeroizing::new(octets.iter().copied().cycle().take(length).collect())
    };
    let mut key = Zeroizing::new(sha256(&[&[3; BLOCK], &blocks(salt), &blocks(&text)]));
    for _ in 1..ROUNDS {
        *key = sha256(&[&*key]);
    }
    key
}

/// Sixteen octets that only `secret` and `content` give.
fn derived(secret: &[u8], what: &str, content: &[u8]) -> [u8; 16] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    context.update(what.as_bytes());
    context.update(&[0]);
    context.update(content);
    let mut octets = [0; 16];
    octets.copy_from_slice(&context.sign().as_ref()[..16]);
    octets
}

fn two_octets_each(ascii: &str) -> Vec<u8> {
    ascii.bytes().flat_map(|byte| [0, byte]).collect()
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut octets = [0; 32];
    octets.copy_from_slice(context.finish().as_ref());
    octets
}

/// A DER element (X.690, section 8.1) of these parts.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let octets = length.to_be_bytes();
    let first = octets.iter().position(|&octet| octet != 0).unwrap_or(octets.len() - 1);
    let significant = &octets[first..];
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    if length >= 0x80 {
        out.push(0x80 | significant.len() as u8);
    }
    out.extend_from_slice(significant);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

#[cfg(test)]
#[path = "pkcs12_tests.rs"]
mod tests;
