//! Signed notes (C2SP signed-note). Lines of keys that nobody asks about are carried along unread.

mod vkey;

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    LedgerError,
    limits::{NOTE_BYTES_MAX, NOTE_SIGNATURES_MAX},
};

pub use self::vkey::Vkey;
use self::vkey::check_name;
pub(crate) use self::vkey::{KeyType, NamedKey};

const DASH: &str = "\u{2014} ";

fn refuse(field: &'static str, problem: impl Into<String>) -> LedgerError {
    LedgerError::format(field, problem)
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

    /// Its key id.
    pub(crate) fn id(&self) -> [u8; 4] {
        self.id
    }

    /// The octets after the key id.
    pub(crate) fn octets(&self) -> &[u8] {
        &self.signature
    }

    /// Whether the line says to be of the same key.
    pub(crate) fn same_key(&self, other: &Self) -> bool {
        (&self.name, self.id) == (&other.name, other.id)
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

    /// The lines that say to be of `key`.
    pub(crate) fn lines_of(&self, key: &NamedKey) -> impl Iterator<Item = &NoteSignature> {
        let (name, id) = (key.name.clone(), key.id);
        self.signatures
            .iter()
            .filter(move |line| line.name == name && line.id == id)
    }

    /// Checks that `key` signed the note. Lines of other keys are ignored; a bad line of this key refuses the note.
    ///
    /// # Errors
    /// Refuses a note without a valid signature of the key.
    pub fn verify(&self, key: &Vkey) -> Result<(), LedgerError> {
        let mut signed = false;
        for line in self.lines_of(key.named()) {
            if !key.named().signed(self.text.as_bytes(), &line.signature) {
                return Err(LedgerError::Signature(format!(
                    "the line of {} does not verify",
                    key.name()
                )));
            }
            signed = true;
        }
        if !signed {
            return Err(LedgerError::Signature(format!("no line of {}", key.name())));
        }
        Ok(())
    }
}

impl fmt::Display for SignedNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// The line, without its newline.
impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id[..], &self.signature].concat();
        write!(f, "{DASH}{} {}", self.name, STANDARD.encode(bytes))
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
    fn malformed_notes_are_refused() {
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
        }
    }
}
