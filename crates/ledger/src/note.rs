//! Signed notes and verifier keys (C2SP signed-note), Ed25519 only; other lines are carried along unread.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::{
    LedgerError,
    limits::{NOTE_BYTES_MAX, NOTE_SIGNATURES_MAX},
    tree::sha256,
};

/// The signature type of Ed25519 (C2SP signed-note, signature types).
const ED25519_TYPE: u8 = 0x01;
const DASH: &str = "\u{2014} ";

fn refuse(field: &'static str, problem: impl Into<String>) -> LedgerError {
    LedgerError::format(field, problem)
}

/// The key id of an Ed25519 key under a name: the first four octets of SHA-256(name, newline, type, key).
fn key_id(name: &str, public: &[u8; 32]) -> [u8; 4] {
    let digest = sha256(&[name.as_bytes(), b"\n", &[ED25519_TYPE], public].concat());
    [digest[0], digest[1], digest[2], digest[3]]
}

fn check_name(name: &str) -> Result<(), LedgerError> {
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '+' || c.is_control()) {
        return Err(refuse("key name", format!("{name:?} is empty or has blanks or a plus")));
    }
    Ok(())
}

/// A verifier key: `<name>+<key id>+<base64 of type and public key>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Vkey {
    name: String,
    id: [u8; 4],
    public: [u8; 32],
}

impl Vkey {
    /// The key of `name` with an Ed25519 public key.
    ///
    /// # Errors
    /// Refuses an empty name and one with blanks or a plus.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, LedgerError> {
        check_name(name)?;
        Ok(Self::unchecked(name, public))
    }

    /// The key of a name that is known to be a key name.
    pub(crate) fn unchecked(name: &str, public: [u8; 32]) -> Self {
        Self {
            id: key_id(name, &public),
            name: name.to_owned(),
            public,
        }
    }

    /// The key's name: the origin line of its log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Ed25519 public key.
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public
    }

    pub(crate) fn id(&self) -> [u8; 4] {
        self.id
    }
}

impl fmt::Display for Vkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut material = [ED25519_TYPE; 33];
        material[1..].copy_from_slice(&self.public);
        write!(
            f,
            "{}+{}+{}",
            self.name,
            hex::encode(self.id),
            STANDARD.encode(material)
        )
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
        let shape = |problem: &str| refuse("verifier key", format!("{text:?} {problem}"));
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(material)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(shape("is not <name>+<key id>+<key>"));
        };
        let material = STANDARD
            .decode(material)
            .map_err(|_| shape("has a key that is no base64"))?;
        let Some((&ED25519_TYPE, public)) = material.split_first() else {
            return Err(shape("is no Ed25519 key (type 0x01)"));
        };
        let public = <[u8; 32]>::try_from(public).map_err(|_| shape("has a key of another length than 32"))?;
        let key = Self::new(name, public)?;
        // The id is lower-case hexadecimal of fixed length, so text equality is the whole check.
        if hex::encode(key.id) != id {
            return Err(shape("has an id that is not its key's"));
        }
        Ok(key)
    }
}

/// A note: its text and the signature lines it carries, none of which is trusted until [`SignedNote::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedNote {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// One signature line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    name: String,
    id: [u8; 4],
    signature: Vec<u8>,
}

impl NoteSignature {
    pub(crate) fn new(name: &str, id: [u8; 4], signature: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            id,
            signature,
        }
    }

    /// Name of the key that is said to have signed.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn parse(line: &str) -> Result<Self, LedgerError> {
        let shape = || {
            refuse(
                "note",
                "has a signature line that is not: dash, key name, base64".to_owned(),
            )
        };
        let (name, encoded) = line
            .strip_prefix(DASH)
            .and_then(|rest| rest.split_once(' '))
            .ok_or_else(shape)?;
        check_name(name)?;
        let decoded = STANDARD.decode(encoded).map_err(|_| shape())?;
        let (id, signature) = decoded.split_first_chunk::<4>().ok_or_else(shape)?;
        if signature.is_empty() {
            return Err(shape());
        }
        Ok(Self::new(name, *id, signature.to_vec()))
    }
}

impl SignedNote {
    pub(crate) fn new(text: String, signatures: Vec<NoteSignature>) -> Self {
        Self { text, signatures }
    }

    /// Reads a note.
    ///
    /// # Errors
    /// Refuses what C2SP signed-note does: control characters, a missing blank line or signature, a bad line; and more
    /// than 128 KB or 64 signatures.
    pub fn parse(bytes: &[u8]) -> Result<Self, LedgerError> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(refuse(
                "note",
                format!("has {} bytes, the limit is {NOTE_BYTES_MAX}", bytes.len()),
            ));
        }
        let whole = std::str::from_utf8(bytes).map_err(|_| refuse("note", "is not UTF-8"))?;
        if whole.bytes().any(|b| b < 0x20 && b != b'\n') {
            return Err(refuse("note", "has control characters"));
        }
        let split = whole
            .rfind("\n\n")
            .ok_or_else(|| refuse("note", "has no blank line before its signatures"))?;
        let (text, lines) = (&whole[..=split], &whole[split + 2..]);
        let Some(lines) = lines.strip_suffix('\n') else {
            return Err(refuse("note", "has no signature, or does not end in a newline"));
        };
        let lines: Vec<&str> = lines.split('\n').collect();
        if lines.len() > NOTE_SIGNATURES_MAX {
            return Err(refuse("note", format!("has over {NOTE_SIGNATURES_MAX} signatures")));
        }
        let signatures = lines.into_iter().map(NoteSignature::parse).collect::<Result<_, _>>()?;
        Ok(Self::new(text.to_owned(), signatures))
    }

    /// The text, with its last newline. Believe it only after [`SignedNote::verify`].
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Checks that `key` signed the note. Lines of other keys are ignored; a bad line of this key refuses the note.
    ///
    /// # Errors
    /// Refuses a note without a valid signature of the key.
    pub fn verify(&self, key: &Vkey) -> Result<(), LedgerError> {
        let mut signed = false;
        let public = UnparsedPublicKey::new(&ED25519, key.public);
        for line in self
            .signatures
            .iter()
            .filter(|line| line.name == key.name && line.id == key.id)
        {
            if public.verify(self.text.as_bytes(), &line.signature).is_err() {
                return Err(LedgerError::Signature(format!(
                    "the line of {} does not verify",
                    key.name
                )));
            }
            signed = true;
        }
        if !signed {
            return Err(LedgerError::Signature(format!("no line of {}", key.name)));
        }
        Ok(())
    }
}

impl fmt::Display for SignedNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for line in &self.signatures {
            let bytes = [&line.id[..], &line.signature].concat();
            writeln!(f, "{DASH}{} {}", line.name, STANDARD.encode(bytes))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of C2SP signed-note.
    const VKEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo \
        Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
    /// The example of golang.org/x/mod/sumdb/note.
    const GO_VKEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const GO_NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn the_published_notes_verify_and_print_back() {
        for (key, note) in [(VKEY, NOTE), (GO_VKEY, GO_NOTE)] {
            let key: Vkey = key.parse().unwrap();
            let parsed = SignedNote::parse(note.as_bytes()).unwrap();
            parsed.verify(&key).unwrap();
            assert_eq!(parsed.to_string(), note);
        }
        assert_eq!(VKEY.parse::<Vkey>().unwrap().to_string(), VKEY);
    }

    #[test]
    fn altered_notes_are_refused() {
        let key: Vkey = VKEY.parse().unwrap();
        let altered = NOTE.replace("example message", "exemple message");
        assert!(SignedNote::parse(altered.as_bytes()).unwrap().verify(&key).is_err());
        let other: Vkey = GO_VKEY.parse().unwrap();
        assert!(SignedNote::parse(NOTE.as_bytes()).unwrap().verify(&other).is_err());
        let both = format!("{NOTE}{}", NOTE.lines().last().unwrap().replace("Uw2QOkn8", "Uw2QOkn9"));
        assert!(
            SignedNote::parse(format!("{both}\n").as_bytes())
                .unwrap()
                .verify(&key)
                .is_err()
        );
    }

    #[test]
    fn malformed_notes_and_keys_are_refused() {
        for bad in [
            "",
            "text\n",
            "text\n\n",
            "text\n\nno dash\n",
            "text\n\n\u{2014} name AAAA\n",
            "text\n\n\u{2014} na+me AAAAAAAA\n",
            "text\n\n\u{2014} name !!!!\n",
            "te\rxt\n\n\u{2014} name AAAAAAAA\n",
            "text\n\n\u{2014} name AAAAAAAA",
        ] {
            assert!(SignedNote::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        for bad in [
            "",
            "a",
            "a+b",
            "a+530d903a+!!",
            &VKEY.replace("530d", "530e"),
            &VKEY.replace("Aeky", "Aukz"),
        ] {
            assert!(bad.parse::<Vkey>().is_err(), "{bad:?}");
        }
        assert!(SignedNote::parse(&[b'a'; NOTE_BYTES_MAX + 1]).is_err());
        let line = NOTE.lines().last().unwrap();
        let many = format!("text\n\n{}", format!("{line}\n").repeat(65));
        assert!(SignedNote::parse(many.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "[\\PC\n\u{2014} ]{0,200}") {
            if let Ok(note) = SignedNote::parse(text.as_bytes()) {
                prop_assert_eq!(SignedNote::parse(note.to_string().as_bytes()).unwrap(), note);
            }
            let _ = text.parse::<Vkey>();
        }
    }
}
