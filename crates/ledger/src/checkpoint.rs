//! Checkpoints: what the log promises about itself (C2SP tlog-checkpoint), and the key that signs them.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::signature::{Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

use crate::{
    LedgerError,
    foreign::ForeignCheckpoint,
    note::{NoteSignature, SignedNote, Vkey},
    origin::Origin,
    tree::Hash,
};

/// PKCS#8 version 1 of an Ed25519 seed (RFC 8410 section 7), without the seed.
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The key that signs a shard's checkpoints.
pub struct LogKey(Ed25519KeyPair);

impl LogKey {
    /// The key of 32 random octets, and its PKCS#8 form to be stored.
    ///
    /// # Errors
    /// Fails only when the provider refuses the seed.
    pub fn generate(seed: &Zeroizing<[u8; 32]>) -> Result<(Self, Zeroizing<Vec<u8>>), LedgerError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed[..])
            .map_err(|_| LedgerError::format("log key", "cannot be made of this seed"))?;
        let mut pkcs8 = Zeroizing::new(Vec::with_capacity(PKCS8_HEAD.len() + seed.len()));
        pkcs8.extend_from_slice(&PKCS8_HEAD);
        pkcs8.extend_from_slice(&seed[..]);
        Ok((Self(pair), pkcs8))
    }

    /// Reads a stored key.
    ///
    /// # Errors
    /// Refuses anything but PKCS#8 of an Ed25519 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, LedgerError> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
            .map(Self)
            .map_err(|_| LedgerError::format("log key", "is not an Ed25519 key in PKCS#8"))
    }

    /// The Ed25519 public key.
    pub fn public_key(&self) -> [u8; 32] {
        let mut public = [0; 32];
        public.copy_from_slice(self.0.public_key().as_ref());
        public
    }

    /// The verifier key of a shard that this key signs.
    pub fn vkey(&self, origin: &Origin) -> Vkey {
        // An origin has no blanks and no plus, so it is a key name.
        Vkey::unchecked(origin.as_str(), self.public_key())
    }

    /// The Ed25519 signature of a message.
    pub(crate) fn sign_octets(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }

    /// Signs a tree head.
    pub fn sign(&self, checkpoint: Checkpoint) -> SignedCheckpoint {
        let vkey = self.vkey(&checkpoint.origin);
        let text = checkpoint.text();
        let signature = self.sign_octets(text.as_bytes());
        let line = NoteSignature::new(vkey.name(), vkey.id(), signature);
        SignedCheckpoint {
            checkpoint,
            note: SignedNote::new(text, vec![line]),
        }
    }
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogKey(..)")
    }
}

/// A tree head: origin, size and root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which tree.
    pub origin: Origin,
    /// Number of leaves.
    pub size: u64,
    /// Root hash at that size.
    pub root: Hash,
}

impl Checkpoint {
    fn text(&self) -> String {
        format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            STANDARD.encode(self.root.as_bytes())
        )
    }

    fn parse(text: &str) -> Result<Self, LedgerError> {
        let read = ForeignCheckpoint::parse(text)?;
        Ok(Self {
            origin: Origin::parse(read.origin())?,
            size: read.size(),
            root: read.root(),
        })
    }
}

/// A checkpoint with its signature lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: SignedNote,
}

impl SignedCheckpoint {
    /// Reads a checkpoint and checks that `key` signed it for its own origin.
    ///
    /// # Errors
    /// Refuses a malformed note, a missing or bad signature, and the checkpoint of another origin.
    pub fn verify(bytes: &[u8], key: &Vkey) -> Result<Self, LedgerError> {
        let note = SignedNote::parse(bytes)?;
        note.verify(key)?;
        let checkpoint = Checkpoint::parse(note.text())?;
        if checkpoint.origin.as_str() != key.name() {
            return Err(LedgerError::Signature(format!(
                "the checkpoint is of {}, the key of {}",
                checkpoint.origin,
                key.name()
            )));
        }
        Ok(Self { checkpoint, note })
    }

    /// The tree head.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The same checkpoint with more signature lines, as [`SignedNote::with_lines`] adds them.
    pub(crate) fn with_lines(&self, lines: &[NoteSignature]) -> Result<Self, LedgerError> {
        Ok(Self {
            checkpoint: self.checkpoint.clone(),
            note: self.note.with_lines(lines.iter().cloned())?,
        })
    }

    /// The signed note, as it is stored and served.
    pub fn note(&self) -> &SignedNote {
        &self.note
    }
}

impl fmt::Display for SignedCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.note.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use mintage_identity::{TrustDomain, UnixTime};

    use super::*;

    fn signed() -> (SignedCheckpoint, Vkey) {
        let domain = TrustDomain::parse("dev.test").unwrap();
        let origin = Origin::new(&domain, "a1b2", UnixTime::from_seconds(0)).unwrap();
        let (key, _) = LogKey::generate(&Zeroizing::new([3; 32])).unwrap();
        let head = Checkpoint {
            origin: origin.clone(),
            size: 20,
            root: Hash::new([5; 32]),
        };
        (key.sign(head), key.vkey(&origin))
    }

    #[test]
    fn a_checkpoint_verifies_under_its_key_alone() {
        let (signed, key) = signed();
        let bytes = signed.to_string();
        assert_eq!(SignedCheckpoint::verify(bytes.as_bytes(), &key).unwrap(), signed);
        for bad in [
            bytes.replace("\n20\n", "\n21\n"),
            bytes.replace("a1b2", "a1b3"),
            bytes.replace("BQUF", "BQUG"),
        ] {
            assert!(SignedCheckpoint::verify(bad.as_bytes(), &key).is_err(), "{bad}");
        }
        let other = Vkey::new(key.name(), [9; 32]).unwrap();
        assert!(SignedCheckpoint::verify(bytes.as_bytes(), &other).is_err());
    }

    #[test]
    fn the_stored_key_is_the_same_key() {
        let (key, pkcs8) = LogKey::generate(&Zeroizing::new([3; 32])).unwrap();
        assert_eq!(LogKey::from_pkcs8(&pkcs8).unwrap().public_key(), key.public_key());
        assert!(LogKey::from_pkcs8(&pkcs8[1..]).is_err());
        assert_eq!(format!("{key:?}"), "LogKey(..)");
    }

    #[test]
    fn a_witness_line_beside_ours_is_kept() {
        let (signed, key) = signed();
        let bytes = format!("{signed}\u{2014} witness.example AAAAAAAA\n");
        let read = SignedCheckpoint::verify(bytes.as_bytes(), &key).unwrap();
        assert_eq!(read.note().signatures().len(), 2);
        assert_eq!(read.to_string(), bytes);
    }

    #[test]
    fn sizes_with_leading_zeros_or_signs_are_refused() {
        let root = STANDARD.encode([5; 32]);
        for size in ["020", "+20", "-1", "", "99999999999999999999", "2 0"] {
            let text = format!("dev.test/mintage/a1b2/1970-01\n{size}\n{root}\n");
            assert!(Checkpoint::parse(&text).is_err(), "{size:?}");
        }
        assert!(Checkpoint::parse(&format!("dev.test/mintage/a1b2/1970-01\n0\n{root}\n")).is_ok());
    }
}
