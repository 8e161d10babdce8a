//! Cosignatures of witnesses over checkpoints (C2SP tlog-cosignature, version 1: Ed25519 with a time), and how they are
//! added to a note.

use std::{fmt, str::FromStr};

use mintage_identity::UnixTime;

use crate::{
    LedgerError,
    checkpoint::LogKey,
    foreign::ForeignCheckpoint,
    limits::NOTE_SIGNATURES_MAX,
    note::{KeyType, NamedKey, NoteSignature, SignedNote},
};

/// Octets of a signature: the time and an Ed25519 signature.
const SIGNATURE_OCTETS: usize = 8 + 64;

/// A witness's verifier key, Ed25519 for cosignature/v1 (type 0x04).
#[derive(Clone, PartialEq, Eq)]
pub struct CosignerKey(NamedKey);

impl CosignerKey {
    /// The key of `name` with an Ed25519 public key.
    ///
    /// # Errors
    /// Refuses an empty name and one with blanks or a plus.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, LedgerError> {
        NamedKey::new(KeyType::CosignatureV1, name, public).map(Self)
    }

    /// The witness's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The Ed25519 public key.
    pub fn public_key(&self) -> &[u8; 32] {
        &self.0.public
    }

    /// Whether the line says to be of this key.
    pub(crate) fn is_of(&self, line: &NoteSignature) -> bool {
        self.0.is_named_by(line.name(), line.id())
    }

    /// The newest time at which this witness cosigned the note; `None` without a line of it.
    ///
    /// # Errors
    /// Refuses the note when a line of this key does not verify, or when its text is no checkpoint.
    pub fn time_on(&self, note: &SignedNote) -> Result<Option<UnixTime>, LedgerError> {
        let mut newest = None;
        for line in note.lines_of(&self.0) {
            let bad = || LedgerError::Signature(format!("the line of {} does not verify", self.name()));
            ForeignCheckpoint::parse(note.text())?;
            let (seconds, signature) = split(line).ok_or_else(bad)?;
            if !self.0.signed(message(seconds, note.text()).as_bytes(), signature) {
                return Err(bad());
            }
            newest = newest.max(Some(seconds));
        }
        Ok(newest.map(|seconds| UnixTime::from_seconds(seconds.cast_signed())))
    }
}

impl fmt::Display for CosignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for CosignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CosignerKey({self})")
    }
}

impl FromStr for CosignerKey {
    type Err = LedgerError;

    fn from_str(text: &str) -> Result<Self, LedgerError> {
        NamedKey::parse(KeyType::CosignatureV1, text).map(Self)
    }
}

/// Who cosigns: a witness's key pair, which signs nothing else (the message does not hold the witness's name).
#[derive(Debug)]
pub struct Cosigner {
    pair: LogKey,
    key: CosignerKey,
}

impl Cosigner {
    /// The witness `name` with its own key pair.
    ///
    /// # Errors
    /// Refuses an empty name and one with blanks or a plus.
    pub fn new(name: &str, pair: LogKey) -> Result<Self, LedgerError> {
        let key = CosignerKey::new(name, pair.public_key())?;
        Ok(Self { pair, key })
    }

    /// The key that verifies this witness.
    pub fn key(&self) -> &CosignerKey {
        &self.key
    }

    /// States that at `time` the note's checkpoint is the largest consistent one seen of its log. The caller has verified
    /// that.
    ///
    /// # Errors
    /// Refuses a note that is no checkpoint, and a time before 1970.
    pub fn cosign(&self, note: &SignedNote, time: UnixTime) -> Result<NoteSignature, LedgerError> {
        ForeignCheckpoint::parse(note.text())?;
        let seconds = u64::try_from(time.seconds())
            .map_err(|_| LedgerError::format("cosignature", "has a time before 1970".to_owned()))?;
        let mut octets = seconds.to_be_bytes().to_vec();
        octets.extend_from_slice(&self.pair.sign_octets(message(seconds, note.text()).as_bytes()));
        Ok(NoteSignature::new(self.key.name(), self.key.0.id, octets))
    }
}

/// The signed message (C2SP tlog-cosignature, Ed25519 signed message).
fn message(seconds: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {seconds}\n{text}")
}

/// Time and Ed25519 signature; `None` for another length and for a time above 2^63 - 1.
fn split(line: &NoteSignature) -> Option<(u64, &[u8])> {
    if line.octets().len() != SIGNATURE_OCTETS {
        return None;
    }
    let (time, signature) = line.octets().split_first_chunk::<8>()?;
    let seconds = u64::from_be_bytes(*time);
    i64::try_from(seconds).ok()?;
    Some((seconds, signature))
}

impl SignedNote {
    /// The note with more lines. Of two lines of one key (name and id) the newer cosignature stays, or the added line when
    /// there is no telling. A line displaces another by what it says of its time, so only verified lines are to be added.
    ///
    /// # Errors
    /// Refuses more than 64 lines.
    pub fn with_lines(&self, lines: impl IntoIterator<Item = NoteSignature>) -> Result<Self, LedgerError> {
        let mut kept = self.signatures().to_vec();
        for line in lines {
            let Some(at) = kept.iter().position(|known| known.same_key(&line)) else {
                kept.push(line);
                continue;
            };
            let time = |line| split(line).map(|(seconds, _)| seconds);
            if time(&kept[at]) <= time(&line) {
                kept[at] = line;
            }
        }
        if kept.len() > NOTE_SIGNATURES_MAX {
            let problem = format!("would have over {NOTE_SIGNATURES_MAX} signatures");
            return Err(LedgerError::format("note", problem));
        }
        Ok(Self::new(self.text().to_owned(), kept))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;

    const TEXT: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    fn witness(name: &str, seed: u8) -> Cosigner {
        Cosigner::new(name, LogKey::generate(&Zeroizing::new([seed; 32])).unwrap().0).unwrap()
    }

    fn unsigned() -> SignedNote {
        SignedNote::new(TEXT.to_owned(), Vec::new())
    }

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_seconds(seconds)
    }

    #[test]
    fn a_cosignature_verifies_with_its_time_under_its_key_alone() {
        let witness = witness("witness.example/w1", 1);
        let line = witness.cosign(&unsigned(), at(1_679_315_147)).unwrap();
        let note = unsigned().with_lines([line]).unwrap();
        let read = SignedNote::parse(note.to_string().as_bytes()).unwrap();
        assert_eq!(witness.key().time_on(&read).unwrap(), Some(at(1_679_315_147)));
        let other = CosignerKey::new("witness.example/w2", *witness.key().public_key()).unwrap();
        assert_eq!(other.time_on(&read).unwrap(), None);
        let altered = SignedNote::parse(note.to_string().replace("20852163", "20852164").as_bytes()).unwrap();
        assert!(witness.key().time_on(&altered).is_err());
    }

    /// C2SP tlog-cosignature, Ed25519 signed message and format.
    #[test]
    fn the_message_is_that_of_the_specification() {
        assert_eq!(
            message(1_679_315_147, TEXT),
            format!("cosignature/v1\ntime 1679315147\n{TEXT}")
        );
        let witness = witness("w", 1);
        let line = witness.cosign(&unsigned(), at(5)).unwrap();
        assert_eq!(line.octets().len(), 72);
        assert_eq!(&line.octets()[..8], &[0, 0, 0, 0, 0, 0, 0, 5]);
    }

    #[test]
    fn what_is_no_checkpoint_and_times_before_the_epoch_are_not_cosigned() {
        let witness = witness("w", 1);
        let plain = SignedNote::new("hello\n".to_owned(), Vec::new());
        assert!(witness.cosign(&plain, at(5)).is_err());
        assert!(witness.cosign(&unsigned(), at(-1)).is_err());
    }

    #[test]
    fn of_two_lines_of_one_key_the_newer_stays() {
        let (one, two) = (witness("w1", 1), witness("w2", 2));
        let line = |witness: &Cosigner, seconds| witness.cosign(&unsigned(), at(seconds)).unwrap();
        let note = unsigned().with_lines([line(&one, 10), line(&two, 10)]).unwrap();
        let note = note.with_lines([line(&one, 9), line(&two, 11)]).unwrap();
        assert_eq!(note.signatures().len(), 2);
        assert_eq!(one.key().time_on(&note).unwrap(), Some(at(10)));
        assert_eq!(two.key().time_on(&note).unwrap(), Some(at(11)));
    }

    #[test]
    fn a_note_has_at_most_so_many_lines() {
        let lines = |count: usize| (0..count).map(|number| NoteSignature::new(&format!("w{number}"), [0; 4], vec![1]));
        let full = unsigned().with_lines(lines(NOTE_SIGNATURES_MAX)).unwrap();
        assert!(full.with_lines(lines(NOTE_SIGNATURES_MAX)).is_ok());
        assert!(full.with_lines(lines(NOTE_SIGNATURES_MAX + 1)).is_err());
    }

    #[test]
    fn a_second_bad_line_of_a_known_key_refuses_the_note() {
        let witness = witness("w", 1);
        let good = witness.cosign(&unsigned(), at(5)).unwrap();
        let mut octets = good.octets().to_vec();
        octets[7] ^= 1;
        let bad = NoteSignature::new("w", witness.key().0.id, octets);
        let note = SignedNote::new(TEXT.to_owned(), vec![good, bad]);
        assert!(witness.key().time_on(&note).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_signatures_never_verify_nor_panic(octets in proptest::collection::vec(any::<u8>(), 1..90)) {
            let witness = witness("w", 1);
            let line = NoteSignature::new("w", witness.key().0.id, octets);
            let note = unsigned().with_lines([line]).unwrap();
            prop_assert!(witness.key().time_on(&note).is_err());
        }
    }
}
