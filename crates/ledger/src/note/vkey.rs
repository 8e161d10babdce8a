//! Verifier keys (C2SP signed-note, verifier keys): a key's text form, its name and its id.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::{LedgerError, tree::sha256};

/// What a key signs, by its first octet (C2SP signed-note, signature types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyType {
    /// A log's plain Ed25519 signature over the note's text.
    Ed25519 = 0x01,
    /// A witness's Ed25519 cosignature with its time.
    CosignatureV1 = 0x04,
}

impl KeyType {
    /// The key id: the first four octets of SHA-256(name, newline, type, key).
    fn id(self, name: &str, public: &[u8; 32]) -> [u8; 4] {
        let digest = sha256(&[name.as_bytes(), b"\n", &[self as u8], public].concat());
        [digest[0], digest[1], digest[2], digest[3]]
    }
}

/// The name of a signature type, for refusals.
fn type_name(octet: u8) -> &'static str {
    match octet {
        0x01 => "an Ed25519 log key",
        0x02 => "an ECDSA key",
        0x04 => "an Ed25519 cosignature/v1 key",
        0x05 => "an RFC 6962 tree head key",
        0x06 => "an ML-DSA-44 cosignature key",
        _ => "a key of an unknown type",
    }
}

/// Refuses what is no key name.
pub(crate) fn check_name(name: &str) -> Result<(), LedgerError> {
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '+' || c.is_control()) {
        return Err(LedgerError::format(
            "key name",
            format!("{name:?} is empty or has blanks or a plus"),
        ));
    }
    Ok(())
}

/// A key of one type, with its name; what the public types wrap.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct NamedKey {
    pub(crate) name: String,
    pub(crate) id: [u8; 4],
    pub(crate) public: [u8; 32],
    kind: KeyType,
}

impl NamedKey {
    /// The key of a name that is known to be a key name.
    pub(crate) fn unchecked(kind: KeyType, name: &str, public: [u8; 32]) -> Self {
        Self {
            id: kind.id(name, &public),
            name: name.to_owned(),
            public,
            kind,
        }
    }

    pub(crate) fn new(kind: KeyType, name: &str, public: [u8; 32]) -> Result<Self, LedgerError> {
        check_name(name)?;
        Ok(Self::unchecked(kind, name, public))
    }

    /// Reads `<name>+<key id>+<base64 of type and public key>` of one type; another type is named in the refusal.
    pub(crate) fn parse(wanted: KeyType, text: &str) -> Result<Self, LedgerError> {
        let shape = |problem: &str| LedgerError::format("verifier key", format!("{text:?} {problem}"));
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(material)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(shape("is not <name>+<key id>+<key>"));
        };
        let material = STANDARD
            .decode(material)
            .map_err(|_| shape("has a key that is no base64"))?;
        let Some((&octet, public)) = material.split_first() else {
            return Err(shape("has an empty key"));
        };
        if octet != wanted as u8 {
            return Err(shape(&format!(
                "is {} (type 0x{octet:02x}); here {} (type 0x{:02x}) is needed",
                type_name(octet),
                type_name(wanted as u8),
                wanted as u8
            )));
        }
        let public = <[u8; 32]>::try_from(public).map_err(|_| shape("has a key of another length than 32"))?;
        let key = Self::new(wanted, name, public)?;
        // The id is lower-case hexadecimal of fixed length, so text equality is the whole check.
        if hex::encode(key.id) != id {
            return Err(shape("has an id that is not its key's"));
        }
        Ok(key)
    }

    /// Whether a line with this name and id says to be of this key.
    pub(crate) fn is_named_by(&self, name: &str, id: [u8; 4]) -> bool {
        (self.name.as_str(), self.id) == (name, id)
    }

    /// Whether `signature` is this key's over `message`.
    pub(crate) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let public = UnparsedPublicKey::new(&ED25519, self.public);
        public.verify(message, signature).is_ok()
    }
}

impl fmt::Display for NamedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut material = [self.kind as u8; 33];
        material[1..].copy_from_slice(&self.public);
        let (id, key) = (hex::encode(self.id), STANDARD.encode(material));
        write!(f, "{}+{id}+{key}", self.name)
    }
}

/// A log's verifier key, Ed25519 (type 0x01): `<name>+<key id>+<base64 of type and public key>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Vkey(NamedKey);

impl Vkey {
    /// The key of `name` with an Ed25519 public key.
    ///
    /// # Errors
    /// Refuses an empty name and one with blanks or a plus.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, LedgerError> {
        NamedKey::new(KeyType::Ed25519, name, public).map(Self)
    }

    /// The key of a name that is known to be a key name.
    pub(crate) fn unchecked(name: &str, public: [u8; 32]) -> Self {
        Self(NamedKey::unchecked(KeyType::Ed25519, name, public))
    }

    /// The key's name: the origin line of its log.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The Ed25519 public key.
    pub fn public_key(&self) -> &[u8; 32] {
        &self.0.public
    }

    pub(crate) fn id(&self) -> [u8; 4] {
        self.0.id
    }

    pub(crate) fn named(&self) -> &NamedKey {
        &self.0
    }
}

impl fmt::Display for Vkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Vkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vkey({self})")
    }
}

impl FromStr for Vkey {
    type Err = LedgerError;

    fn from_str(text: &str) -> Result<Self, LedgerError> {
        NamedKey::parse(KeyType::Ed25519, text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::CosignerKey;

    /// The example of C2SP signed-note.
    const VKEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";

    #[test]
    fn the_published_key_prints_back() {
        let key: Vkey = VKEY.parse().unwrap();
        assert_eq!((key.to_string().as_str(), key.name()), (VKEY, "example.com/foo"));
    }

    #[test]
    fn malformed_keys_are_refused() {
        for bad in [
            "",
            "a",
            "a+b",
            "a+530d903a+!!",
            "a+530d903a+",
            "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
            &VKEY.replace("530d", "530e"),
            &VKEY.replace("Aeky", "Aukz"),
            &VKEY.replace("3U2k", ""),
        ] {
            assert!(bad.parse::<Vkey>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_of_another_type_is_refused_by_its_name() {
        let cosigner = CosignerKey::new("witness.example/w1", [7; 32]).unwrap();
        let told = cosigner.to_string().parse::<Vkey>().unwrap_err().to_string();
        assert!(told.contains("cosignature/v1 key (type 0x04)"), "{told}");
        let told = VKEY.parse::<CosignerKey>().unwrap_err().to_string();
        assert!(told.contains("Ed25519 log key (type 0x01)"), "{told}");
        for (octet, name) in [(2, "ECDSA"), (5, "RFC 6962"), (6, "ML-DSA-44"), (9, "unknown type")] {
            let text = format!("x+00000000+{}", STANDARD.encode([octet; 33]));
            let told = text.parse::<Vkey>().unwrap_err().to_string();
            assert!(
                told.contains(name) && told.contains(&format!("0x{octet:02x}")),
                "{told}"
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,40}\\+?[0-9a-f]{0,9}\\+?[A-Za-z0-9+/=]{0,60}") {
            if let Ok(key) = text.parse::<Vkey>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }

        #[test]
        fn keys_read_back(name in "[a-z./]{1,20}", public in any::<[u8; 32]>()) {
            let key = Vkey::new(&name, public).unwrap();
            prop_assert_eq!(key.to_string().parse::<Vkey>().unwrap(), key);
            let key = CosignerKey::new(&name, public).unwrap();
            prop_assert_eq!(key.to_string().parse::<CosignerKey>().unwrap(), key);
        }
    }
}
